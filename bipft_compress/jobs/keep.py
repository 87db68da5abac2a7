"""The cheapest bits that keep a share of the original's quality."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bipft_compress.allocation import Allocation, Allocator
from bipft_compress.errors import UserError
from bipft_compress.fitting.compress import Compressed, compress_on
from bipft_compress.recipe import Recipe
from bipft_compress.tasks.sts import SentencePairs, likeness, spearman
from bipft_compress.text.corpus import read_documents
from bipft_compress.text.sequences import split_sentences

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger("bipft_compress")

STEPS = 16
"""Points between the cheapest bits and the finest; halving finds one in four compressions."""

COMPARED_SENTENCES = 400
"""Sentences of the calibration text whose embeddings are compared with the original's."""

Measure = Callable[["PreTrainedModel"], float]
"""Quality of a model; higher is better."""


@dataclass(frozen=True)
class Keep:
    """What must be kept.

    Attributes:
        share: of the original's quality, between 0 and 1.
        data: sentence pairs that quality is Spearman's correlation on; None for the likeness of
            sentence embeddings to the original's, on the calibration text.
    """

    share: float
    data: Path | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError(
                f"--keep {self.share} is not valid: it is a share of the original's quality, above "
                "0 and at most 1."
            )

    def measure(
        self,
        original: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        calibration: str | Path,
    ) -> Measure:
        """What models are compared by."""
        if self.data is not None:
            pairs = SentencePairs.read(self.data)
            return lambda model: spearman(model, tokenizer, pairs)
        sentences = first_sentences(calibration, COMPARED_SENTENCES)
        return lambda model: likeness(model, original, tokenizer, sentences).cosine


def first_sentences(text: str | Path, count: int) -> list[str]:
    """The first sentences of a text; see `read_documents`."""
    sentences: list[str] = []
    for document in read_documents(text):
        sentences += split_sentences(document)
        if len(sentences) >= count:
            break
    return sentences[:count]


def compress_keeping(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    calibration: str | Path,
    keep: Keep,
    *,
    seed: int = 0,
) -> tuple[Allocation, Compressed]:
    """Compress to the cheapest of `STEPS` budgets that keeps enough, found by halving.

    Raises:
        UserError: not even the finest bits keep so much; or see `Allocator` and `compress`.
    """
    measure = keep.measure(model, tokenizer, calibration)
    required = keep.share * measure(model)
    allocator = Allocator(model, tokenizer, recipe, calibration)
    ladder = allocator.ladder(STEPS)
    best: tuple[Allocation, Compressed] | None = None
    quality = 0.0
    # Below `low` too little is kept; `high` keeps enough, or is beyond the finest.
    low, high = 0, STEPS
    while low < high:
        # The finest first: where it does not do, nothing else has to be tried.
        step = STEPS - 1 if best is None and low == 0 else (low + high) // 2
        allocation = allocator.allocate(ladder[step])
        compressed = compress_on(model, allocation.recipe, allocator.sequences, seed=seed)
        quality = measure(compressed.model)
        logger.info(
            "%.1f times fewer operations, %.1f times smaller: keeps %.4f, %.4f wanted",
            allocation.operations, allocation.memory, quality, required,
        )  # fmt: skip
        if quality >= required:
            best, high = (allocation, compressed), step
        else:
            low = step + 1
    if best is None:
        raise UserError(
            f"--keep {keep.share} cannot be reached by this recipe: the finest bits keep "
            f"{quality:.4f} where {required:.4f} is needed. Ask for less, calibrate on more text "
            "like yours, or raise `kept` in the recipe."
        )
    return best
