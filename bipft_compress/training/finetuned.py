"""What fine-tuning writes, and how a fine-tuned model is read again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bipft_compress import checkpoint, loading
from bipft_compress.checkpoint import load, local_directory, unpack
from bipft_compress.checkpoint.identity import checkpoint_identity
from bipft_compress.checkpoint.mark import is_packed
from bipft_compress.checkpoint.record import Record, is_binary
from bipft_compress.errors import CheckpointError
from bipft_compress.files import atomic_directory, differences
from bipft_compress.loading.checksums import read_fine_tuned, write_fine_tuned
from bipft_compress.nn.pooling import Pool, mean_pool
from bipft_compress.recipe import Recipe
from bipft_compress.structure.heads import (
    class_names,
    has_head,
    with_classifier,
    without_head,
)
from bipft_compress.tasks.classify import score
from bipft_compress.tasks.labelled import Task
from bipft_compress.training import lora

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Classifier:
    """A model with a sequence classification head, or none for similarity."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    record: Record | None = None
    """Of a binary checkpoint, packed or not."""
    labels: list[str] = field(default_factory=list)
    """Names of the classes; none for a regression."""
    pool: Pool = mean_pool
    """What makes an embedding, where there is no head."""

    @property
    def recipe(self) -> Recipe:
        return Recipe() if self.record is None else self.record.recipe

    @property
    def has_head(self) -> bool:
        return has_head(self.model)

    def score(self, task: Task, sequence_length: int) -> dict[str, float]:
        """See `classify.score`."""
        return score(self.model, self.tokenizer, task, sequence_length, self.pool)

    def check(self, task: Task, where: str | Path) -> None:
        """Refuse a task that this model cannot do: similarity is all that wants no head.

        Raises:
            CheckpointError: no head, another number of labels, or the same in another order.
        """
        if not self.has_head:
            if task.is_similarity:
                return
            raise CheckpointError(
                f"{where} is a {type(self.model).__name__}, without a sequence classification "
                "head: make one with `bipft-compress finetune`."
            )
        if len(self.labels) != len(task.labels):
            raise CheckpointError(
                f"{where} has {_count(self.labels)} and {task.name} has {_count(task.labels)}: it "
                "was fine-tuned on another task."
            )
        own, asked = ([name.lower() for name in names] for names in (self.labels, task.labels))
        if own != asked and sorted(own) == sorted(asked):
            raise CheckpointError(
                f"{where} has the labels of {task.name} in another order ({', '.join(own)}): "
                "fine-tune it here."
            )


def _count(labels: list[str] | tuple[str, ...]) -> str:
    return f"{len(labels)} labels" if labels else "numbers to predict"


def _labels(model: PreTrainedModel) -> list[str]:
    """Of its head; a configuration has some even where there is none."""
    return class_names(model.config) if has_head(model) else []


def read_classifier(directory: str | Path) -> Classifier:
    """A full-precision, binary or packed checkpoint, or an adapter with its base; head or not.

    Raises:
        CheckpointError: see `load`, `loading.load_pretrained` and `lora.load_adapters`.
    """
    path = local_directory(directory)
    if (path / lora.CONFIG).is_file():
        settings = read_fine_tuned(path)
        base = lora.base_of(path)
        labels = settings.get("labels")
        if (
            base is None
            or not isinstance(labels, list)
            or not all(type(label) is str for label in labels)
            or "pooling" not in settings
        ):
            raise CheckpointError(f"{path} does not say what it is an adapter of.")
        _check_base(path, base, settings.get("base"))
        around = read_trainable(base, frozen=True)
        recipe = around.record.recipe if around.record else None
        if settings["pooling"]:
            model, _ = with_classifier(around.model, labels, recipe, settings["pooling"])
        else:
            model, _ = without_head(around.model, recipe)
        model = lora.load_adapters(model, path)
        return replace(around, model=model, labels=labels)
    if is_binary(path):
        model, tokenizer, record = load(path)
        return _classifier(model, tokenizer, record, record.pipeline, path)
    return read_trainable(directory)


def _check_base(adapter: Path, base: str, expected: Any) -> None:
    """Refuse a base of other content than the one that the adapter was trained over.

    One from the hub is passed over: its commit may be another, and its weights the same.
    """
    if expected is None or not Path(base).is_dir():
        return
    other = differences(expected, checkpoint_identity(base) or {})
    if other:
        raise CheckpointError(
            f"{base} has changed since the adapter {adapter} was trained over it "
            f"({', '.join(other)}): bring the old one back, or fine-tune again."
        )


def read_trainable(directory: str | Path, *, frozen: bool = False) -> Classifier:
    """A full-precision or binary checkpoint that can be trained on.

    Args:
        directory: of the checkpoint.
        frozen: only what is added to it will train; then it may be packed.

    Raises:
        CheckpointError: see `checkpoint.load_trainable`, `unpack` and `loading.load_pretrained`.
    """
    path = local_directory(directory)
    if is_binary(path):
        read = unpack if frozen and is_packed(path) else checkpoint.load_trainable
        model, tokenizer, record = read(path)
        return _classifier(model, tokenizer, record, record.pipeline, path)
    model, tokenizer = loading.load_pretrained(directory)
    return _classifier(model, tokenizer, None, loading.read_pipeline(directory), directory)


def _classifier(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    record: Record | None,
    pipeline: loading.SentencePipeline | None,
    where: str | Path,
) -> Classifier:
    pool = mean_pool if has_head(model) else loading.pool_of(pipeline, where)
    return Classifier(model, tokenizer, record, _labels(model), pool)


def save_classifier(
    target: Path,
    classifier: Classifier,
    settings: dict[str, Any],
    *,
    adapted: PeftModel | None = None,
    base: str | Path = "",
    overwrite: bool = False,
) -> None:
    """Write a fine-tuned model, all or nothing.

    Args:
        target: becomes a binary checkpoint if the model is binary, else a Hugging Face checkpoint;
            with `adapted`, a PEFT adapter.
        classifier: what to write.
        settings: for `FINE_TUNED`, where there is no record.
        adapted: the model with its adapters.
        base: what the adapters belong to.
        overwrite: replace what is in `target`.

    Raises:
        OutputError: the directory exists or cannot be written.
    """
    if classifier.record is not None and adapted is None:
        checkpoint.save(
            target, classifier.model, classifier.tokenizer, classifier.record, overwrite
        )
        return
    with atomic_directory(target, overwrite) as work:
        if adapted is None:
            classifier.model.save_pretrained(work)
        else:
            origin = str(Path(base).resolve()) if Path(base).is_dir() else str(base)
            lora.save_adapters(adapted, work, origin)
            settings = {**settings, "base": checkpoint_identity(base)}
        classifier.tokenizer.save_pretrained(work)
        write_fine_tuned(work, settings)
