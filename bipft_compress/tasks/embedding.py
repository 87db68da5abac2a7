"""What an embedding task is: something measured on the vectors that any model gives for texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts to their embeddings, float32 (texts, dimensions); of any length, normalised or not."""


class EmbeddingTask(Protocol):
    """A task that needs embeddings alone, so that any model or peer can be measured on it."""

    def measure(self, embed: Embed) -> dict[str, float]:
        """Name of each measure to its value; higher is better."""
        ...


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, so that their products are cosines; rows of zeros stay zero."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    scaled: np.ndarray = embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)
    return scaled
