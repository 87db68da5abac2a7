"""From a labelled task to tokens, and from a model to its metrics on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import datasets
import torch
from transformers import DataCollatorWithPadding

from bipft_compress.families import max_sequence_length
from bipft_compress.nn.pooling import Pool, mean_pool
from bipft_compress.structure.heads import has_head
from bipft_compress.tasks.labelled import Examples, Task
from bipft_compress.tasks.metrics import measure
from bipft_compress.tasks.sts import embed_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 64

SECOND = "second_input_ids"
"""Column of the second texts, where those of a pair are tokenized apart."""


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    model: PreTrainedModel,
    sequence_length: int,
    *,
    apart: bool = False,
) -> datasets.Dataset:
    """Examples as ``input_ids``, ``attention_mask``, ``labels`` and ``length``.

    Args:
        tokenizer: of `model`.
        examples: what to tokenize.
        model: its configuration says how many positions and token types there are.
        sequence_length: longer texts and pairs are cut, the longer of a pair first.
        apart: the second texts of pairs in sequences of their own, ``second_input_ids``.
    """

    def tokens(*texts: list[str] | None) -> dict[str, Any]:
        return dict(
            tokenizer(
                *texts,
                truncation=True,
                max_length=min(sequence_length, max_sequence_length(model.config)),
                return_token_type_ids=getattr(model.config, "type_vocab_size", 0) > 1,
            )
        )

    if apart:
        first, second = (tokens(texts)["input_ids"] for texts in (examples.first, examples.second))
        lengths = [len(one) + len(other) for one, other in zip(first, second, strict=True)]
        columns = {"input_ids": first, SECOND: second, "length": lengths}
    else:
        columns = tokens(examples.first, examples.second)
        columns["length"] = [len(ids) for ids in columns["input_ids"]]
    columns["labels"] = examples.labels
    return datasets.Dataset.from_dict(columns)


@torch.no_grad()
def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    sequence_length: int,
) -> torch.Tensor:
    """Logits, (examples, classes), in evaluation mode; (examples, 1) for a regression."""
    model.eval()
    data = tokenize(tokenizer, examples, model, sequence_length)
    lengths = torch.tensor(data["length"])
    rows = data.remove_columns(["labels", "length"])
    collator = DataCollatorWithPadding(tokenizer)
    parts, order = [], lengths.argsort(stable=True)
    for chosen in order.split(BATCH):
        batch: Any = collator([rows[row] for row in chosen.tolist()])
        parts.append(model(**batch.to(model.device)).logits.cpu())
    logits = torch.cat(parts)
    return logits[order.argsort()]


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    sequence_length: int,
    pool: Pool = mean_pool,
) -> dict[str, float]:
    """Metrics of a model on a task's dev splits: ``accuracy`` or, of several, ``accuracy_matched``.

    Args:
        model: with a sequence classification head for the task; without one the cosine of two
            texts' embeddings says how alike they are.
        tokenizer: of `model`.
        task: with its data.
        sequence_length: see `tokenize`.
        pool: what makes an embedding, without a head.
    """
    metrics = {}
    for split, examples in task.dev.items():
        if not has_head(model):
            assert examples.second is not None
            pairs = embed_pairs(model, tokenizer, examples.first, examples.second, pool)
            logits = pairs.cosines[:, None]
        else:
            logits = predict(model, tokenizer, examples, sequence_length)
        for name, value in measure(task.metrics, examples.labels, logits.numpy()).items():
            metrics[f"{name}_{split}".rstrip("_")] = value
    return metrics


def scores(
    task: Task, compressed: Mapping[str, float], full_precision: Mapping[str, float] | None
) -> dict[str, dict[str, Any]]:
    """Metrics of both models, in the form of a record's ``quality``."""
    quality: dict[str, dict[str, Any]] = {}
    for name, value in compressed.items():
        quality[f"{task.name}_{name}"] = {"compressed": value}
        if full_precision is not None:
            quality[f"{task.name}_{name}"]["full_precision"] = full_precision[name]
    return quality
