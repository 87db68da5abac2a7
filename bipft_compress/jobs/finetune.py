"""Fine-tuning: a checkpoint, binary or not, and a labelled task in; a classifier out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from rich.console import Console
from transformers import TrainingArguments, set_seed

from bipft_compress.checkpoint.record import Record
from bipft_compress.device import AUTO, choose_device, join_processes
from bipft_compress.errors import CheckpointError
from bipft_compress.families import describe
from bipft_compress.jobs.identity import training_identity
from bipft_compress.provenance import provenance
from bipft_compress.recipe import Finetuning, Recipe
from bipft_compress.storage.plan import round_to_stored
from bipft_compress.structure.heads import take_head, with_classifier, without_head
from bipft_compress.structure.pooling import pooling_of
from bipft_compress.structure.swap import Decision
from bipft_compress.tasks.chosen import ChosenTask
from bipft_compress.tasks.classify import scores, tokenize
from bipft_compress.tasks.labelled import Task
from bipft_compress.training import lora
from bipft_compress.training.arguments import training_arguments, without_dropout
from bipft_compress.training.collator import FinetuningCollator
from bipft_compress.training.distillation import Distillation
from bipft_compress.training.finetuned import (
    Classifier,
    read_classifier,
    read_trainable,
    save_classifier,
)
from bipft_compress.training.session import run_training
from bipft_compress.training.trackers import check_trackers, logs_beside
from bipft_compress.training.workspace import claim_training

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel

DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 32,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,
    "max_grad_norm": 1.0,
    "logging_steps": 0.02,
    "save_strategy": "steps",
    "save_steps": 0.1,
    "seed": 0,
}
"""What a recipe's ``finetuning.training`` does not say; 1-bit weights want a larger step."""


@dataclass(frozen=True)
class Finetuned:
    """What a fine-tuning came to."""

    metrics: dict[str, float]
    """Of the result on the task's dev split."""
    teacher_metrics: dict[str, float] | None
    trained_parameters: int
    adapter_bytes: int | None
    """Size of the adapter's file, with ``lora``."""


def finetune(
    directory: str | Path,
    chosen: ChosenTask,
    out: str | Path,
    *,
    teacher: str | Path | None = None,
    recipe: Recipe | None = None,
    steps: int | None = None,
    seed: int | None = None,
    rank: int | None = None,
    resume: bool = False,
    device: str = AUTO,
    overwrite: bool = False,
    console: Console | None = None,
) -> Finetuned:
    """Fine-tune a checkpoint on a task and write the result.

    A binary checkpoint gives a binary checkpoint, a full-precision one a Hugging Face checkpoint,
    each of the family's ForSequenceClassification class, or for similarity by cosine without a
    head; with `rank`, a PEFT adapter. A head starts as that of the teacher, where one is given.

    Args:
        directory: a binary checkpoint, or a full-precision one by directory or hub name; with
            `rank` also a packed artefact.
        chosen: the task and its data.
        out: a new directory; training checkpoints lie beside it until the end.
        teacher: a fine-tuned checkpoint with the same tokenizer to distil from, usually the
            full-precision one.
        recipe: whose finetuning section to use; the checkpoint's own, or the defaults, if None.
        steps: optimiser steps, instead of the recipe's epochs.
        seed: of head and data order, instead of the recipe's.
        rank: train LoRA adapters of this rank over the frozen model, and the head.
        resume: go on from the newest training checkpoint for `out`.
        device: see `choose_device`.
        overwrite: replace what is in `out`.
        console: for a progress bar.

    Raises:
        UserError: the checkpoint, the task, its data, the teacher, the recipe or the output
            directory is at fault.
    """
    target = Path(out)
    inputs = [directory, chosen.data, teacher]
    if recipe is not None:
        check_trackers(recipe.finetuning.training)  # before a model is loaded
    with claim_training(target, resume=resume, overwrite=overwrite, inputs=inputs) as work:
        join_processes(choose_device(device))
        start = read_trainable(directory, frozen=rank is not None)
        options = (recipe or start.recipe).finetuning
        args = _arguments(options, start, work, steps=steps, seed=seed, rank=rank, device=device)
        task = chosen.read()
        original = None if teacher is None else _read_teacher(teacher, task, start, options)
        identity = training_identity(directory, teacher)
        set_seed(args.seed)
        student = _student(start, original, task, options, rank)
        run = identity | {
            "task": task.name, "finetuning": options.model_dump(mode="json"),
            "steps": args.max_steps, "seed": args.seed, "lora": rank,
        }  # fmt: skip
        points = run_training(
            student.distillation,
            args,
            student.examples(task, options, args),
            FinetuningCollator(start.tokenizer),
            run=run,
            resume=resume,
            logs=logs_beside(target),
            console=console,
        )
        trained = student.trained_parameters
        if student.record is not None:
            student.record.decisions = student.decisions
            student.record.add_training(points)
            recipe = student.record.recipe.model_copy(update={"finetuning": options})
            student.record.recipe = recipe
            round_to_stored(student.classifier.model, student.distillation.encoder, recipe)
        metrics, teacher_metrics = (
            None if one is None else one.score(task, options.sequence_length)
            for one in (student.classifier, original)
        )
        assert metrics is not None
        origin = provenance(
            {} if start.record is None else start.record.provenance,
            "finetune",
            task=task.name,
            data=chosen.data,
            teacher=teacher,
            seed=args.seed,
        )
        if student.record is not None:
            student.record.provenance = origin
            if not student.by_cosine:
                # It puts out logits: there is no embedding any more.
                student.record.pipeline = None
            # What was measured before was measured on other weights.
            student.record.quality = scores(task, metrics, teacher_metrics)
        # Of several processes (accelerate launch) one writes, and the others wait for it.
        if PartialState().is_main_process:
            save_classifier(
                target,
                student.classifier,
                {
                    "task": task.name, "metrics": metrics, "provenance": origin,
                    "pooling": student.pooling, "labels": student.classifier.labels,
                },
                adapted=student.adapted, base=directory, overwrite=overwrite,
            )  # fmt: skip
    size = None if student.adapted is None else (target / lora.WEIGHTS).stat().st_size
    return Finetuned(metrics, teacher_metrics, trained, size)


@dataclass
class _Student:
    """What is trained, and how."""

    classifier: Classifier
    decisions: list[Decision]
    """The record's, about the modules that it has now."""
    distillation: Distillation
    by_cosine: bool
    adapted: PeftModel | None = None

    @property
    def record(self) -> Record | None:
        """Of a binary checkpoint that will be written; with adapters none is."""
        return self.classifier.record if self.adapted is None else None

    @property
    def pooling(self) -> str | None:
        """What its head reads; None without a head."""
        return None if self.by_cosine else pooling_of(self.classifier.model.config)

    @property
    def trained_parameters(self) -> int:
        weights = self.classifier.model.parameters()
        return sum(weight.numel() for weight in weights if weight.requires_grad)

    def examples(self, task: Task, options: Finetuning, args: TrainingArguments) -> Dataset:
        """What it is trained on, as tokens."""
        assert task.train is not None
        model, tokenizer = self.classifier.model, self.classifier.tokenizer
        with args.main_process_first():
            return tokenize(
                tokenizer, task.train, model, options.sequence_length, apart=self.by_cosine
            )


def _by_cosine(task: Task, options: Finetuning) -> bool:
    return task.is_similarity and options.similarity == "cosine"


def _arguments(
    options: Finetuning,
    start: Classifier,
    work: Path,
    *,
    steps: int | None,
    seed: int | None,
    rank: int | None,
    device: str,
) -> TrainingArguments:
    values = DEFAULTS | options.training
    if rank is not None:
        values["learning_rate"] = options.adapter_learning_rate
    elif start.record is None:
        values["learning_rate"] = options.full_precision_learning_rate
    if seed is not None:
        values["seed"] = seed
    return training_arguments(values, work, steps, device)


def _student(
    start: Classifier,
    original: Classifier | None,
    task: Task,
    options: Finetuning,
    rank: int | None,
) -> _Student:
    """The model with the head of the task, as the teacher's where there is one, and its loss."""
    by_cosine = _by_cosine(task, options)
    recipe = start.record.recipe if start.record else None
    if by_cosine:
        model, decisions = without_head(start.model, recipe)
    else:
        model, decisions = with_classifier(start.model, task.labels, recipe, options.pooling)
    if start.record is not None or original is not None:
        without_dropout(model)
    teacher = None if original is None else original.model
    distillation = Distillation(model, teacher, describe(model), options.objective, start.pool)
    if distillation.teacher is not None and not by_cosine:
        take_head(model, distillation.teacher)
    adapted = None if rank is None else lora.add_adapters(model, rank)
    classifier = replace(start, model=model, labels=list(task.labels))
    return _Student(classifier, decisions, distillation, by_cosine, adapted)


def _read_teacher(
    teacher: str | Path, task: Task, start: Classifier, options: Finetuning
) -> Classifier:
    """The teacher, after a check that the student can follow it."""
    original = read_classifier(teacher)
    original.check(task, teacher)
    if _by_cosine(task, options) == original.has_head:
        has, other = ("a", "head") if original.has_head else ("no", "cosine")
        raise CheckpointError(
            f"The teacher {teacher} has {has} head for similarity: set finetuning.similarity to "
            f"{other}, or give another."
        )
    if original.tokenizer.get_vocab() != start.tokenizer.get_vocab():
        raise CheckpointError(f"The teacher {teacher} has another vocabulary than the checkpoint.")
    inner = options.objective.weights().keys() - {"task", "logits"}
    if inner and _shape(original) != _shape(start):
        keys = ", ".join(f"finetuning.objective.{name}" for name in sorted(inner))
        raise CheckpointError(
            f"The teacher {teacher} has other layers than the checkpoint: set {keys} to 0, or "
            "give one of the same shape."
        )
    return original


def _shape(classifier: Classifier) -> list[Any]:
    """What two models must share for their layers to be compared."""
    sizes = ("model_type", "num_hidden_layers", "hidden_size", "num_attention_heads")
    return [getattr(classifier.model.config, size) for size in sizes]
