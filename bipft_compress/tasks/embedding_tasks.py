"""Embedding tasks by name, and a transformers model as what they measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bipft_compress.errors import UserError
from bipft_compress.nn.pooling import Pool, mean_pool
from bipft_compress.tasks.embedding import Embed, EmbeddingTask
from bipft_compress.tasks.probe import LABEL, TEXT, ProbeTask
from bipft_compress.tasks.retrieval import RetrievalTask
from bipft_compress.tasks.sts import StsTask, embed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STS, RETRIEVAL, CLASSIFICATION = "sts", "retrieval", "classification"
EMBEDDING_TASKS = (STS, RETRIEVAL, CLASSIFICATION)

MAX_LENGTH = 256
"""Tokens of a text, where the model has as many positions: documents are longer than sentences."""


def read_embedding_task(
    name: str, data: str | Path, *, text: str | None = None, label: str | None = None
) -> EmbeddingTask:
    """A task with its data.

    Args:
        name: in `EMBEDDING_TASKS`.
        data: see `StsTask`, `RetrievalTask` and `ProbeTask`.
        text: classification: column of the text, if it is not "text".
        label: classification: column of the class, if it is not "category".

    Raises:
        UserError: there is no such task, it takes no columns, or the data is at fault.
    """
    if name == CLASSIFICATION:
        return ProbeTask(data, text or TEXT, label or LABEL)
    if text or label:
        raise UserError(f"--text-column and --label-column do not go with --task {name}.")
    if name == STS:
        return StsTask(data)
    if name == RETRIEVAL:
        return RetrievalTask(data)
    raise UserError(f"Unknown task {name!r}: choose one of {', '.join(EMBEDDING_TASKS)}.")


def embedder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pool: Pool = mean_pool
) -> Embed:
    """A model's sentence embeddings by `pool`, of the first `MAX_LENGTH` tokens of a text."""

    def vectors(texts: Sequence[str]) -> np.ndarray:
        array: np.ndarray = embed(model, tokenizer, texts, MAX_LENGTH, pool).numpy()
        return array

    return vectors
