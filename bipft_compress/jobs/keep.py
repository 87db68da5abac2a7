"""The cheapest bits that keep a share of the original's quality."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bipft_compress.allocation import Allocation
from bipft_compress.errors import UserError
from bipft_compress.files import read_json, write_atomically
from bipft_compress.fitting.compress import Compressed, compress_on
from bipft_compress.jobs.original import Original
from bipft_compress.tasks.sts import SentencePairs, compare, embed, spearman
from bipft_compress.text.corpus import read_documents
from bipft_compress.text.sequences import split_sentences

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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

    def measure(self, original: Original, calibration: str | Path) -> Measure:
        """What models are compared by."""
        tokenizer, pool = original.tokenizer, original.pool
        if self.data is not None:
            pairs = SentencePairs.read(self.data)
            return lambda model: spearman(model, tokenizer, pairs, pool)
        sentences = first_sentences(calibration, COMPARED_SENTENCES)
        reference = embed(original.model, tokenizer, sentences, pool=pool)
        return lambda model: (
            compare(embed(model, tokenizer, sentences, pool=pool), reference).cosine
        )


def first_sentences(text: str | Path, count: int) -> list[str]:
    """The first sentences of a text; see `read_documents`."""
    sentences: list[str] = []
    for document in read_documents(text):
        sentences += split_sentences(document)
        if len(sentences) >= count:
            break
    return sentences[:count]


@dataclass(frozen=True)
class Try:
    """One point of the search, and what it kept."""

    step: int
    operations: float
    memory: float
    quality: float


class Tries:
    """What a search has tried, in a file that a killed one leaves to the next.

    Args:
        file: where it is kept.
        identity: of all that goes into the search; tries of another are not used.
    """

    def __init__(self, file: Path, identity: dict[str, Any]) -> None:
        self._file, self._identity = file, identity
        self.done: dict[int, Try] = {}
        if file.is_file():
            values = read_json(file)
            # As it was written: a tuple is a list there.
            if values.get("identity") == json.loads(json.dumps(identity)):
                self.done = {one["step"]: Try(**one) for one in values["tries"]}
                logger.info("going on after %d tries of a run that was stopped", len(self.done))

    def add(self, one: Try) -> None:
        """Keep one more."""
        self.done[one.step] = one
        tries = [asdict(done) for done in self.done.values()]
        write_atomically(self._file, json.dumps({"identity": self._identity, "tries": tries}))

    def discard(self) -> None:
        """Remove the file: the search is over."""
        self._file.unlink(missing_ok=True)


@dataclass(frozen=True)
class Kept:
    """The model that a search ends with.

    Attributes:
        allocation: its bits.
        compressed: the model.
        quality: name of the measure to its scores, as in a report, with every try.
    """

    allocation: Allocation
    compressed: Compressed
    quality: dict[str, dict[str, float | str]]


def compress_keeping(
    original: Original, calibration: str | Path, keep: Keep, tries: Tries, *, seed: int = 0
) -> Kept:
    """Compress to the cheapest of `STEPS` budgets that keeps enough, found by halving.

    Every try is measured on the bits that a packed model has, by the kernels.

    Raises:
        UserError: not even the finest bits keep so much; or see `Allocator` and `compress`.
    """
    measure = keep.measure(original, calibration)
    whole = measure(original.model)
    required = keep.share * whole
    allocator = original.allocator(calibration)
    ladder = allocator.ladder(STEPS)
    made: dict[int, tuple[Allocation, Compressed]] = {}

    def make(step: int) -> tuple[Allocation, Compressed]:
        if step not in made:
            made.clear()  # one model in memory is enough
            allocation = allocator.allocate(ladder[step])
            student = compress_on(original.model, allocation.recipe, allocator.text, seed=seed)
            made[step] = allocation, student
        return made[step]

    def quality(step: int) -> float:
        if step not in tries.done:
            allocation, student = make(step)
            kept = measure(student.packed())
            tries.add(Try(step, allocation.operations, allocation.memory, kept))
            logger.info(
                "%.1f times fewer operations, %.1f times smaller: keeps %.4f, %.4f wanted",
                allocation.operations, allocation.memory, kept, required,
            )  # fmt: skip
        return tries.done[step].quality

    # The finest first: where it does not do, nothing else has to be tried.
    finest = quality(STEPS - 1)
    if finest < required:
        tries.discard()
        raise UserError(
            f"--keep {keep.share} cannot be reached by this recipe: the finest bits keep "
            f"{finest:.4f} where {required:.4f} is needed. Ask for less, calibrate on more text "
            "like yours, or raise `kept` in the recipe."
        )
    # Below `low` too little is kept; `high` keeps enough.
    low, high = 0, STEPS - 1
    while low < high:
        step = (low + high) // 2
        low, high = (low, step) if quality(step) >= required else (step + 1, high)
    name = "kept_likeness" if keep.data is None else "kept_sts_spearman"
    scores: dict[str, float | str] = {
        "full_precision": whole,
        "compressed": quality(high),
        "wanted": required,
    }
    for number, one in enumerate(tries.done.values(), 1):
        scores[f"try_{number}"] = (
            f"{one.quality:.4f} at {one.operations:.1f} times fewer operations and "
            f"{one.memory:.1f} times smaller"
        )
    return Kept(*make(high), {name: scores})
