"""What an allocation is asked for, and what it comes to."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bipft_compress.errors import UserError
from bipft_compress.recipe import Recipe


@dataclass(frozen=True)
class Targets:
    """What a compressed model must reach, as ratios of the original's figures; None for any.

    Attributes:
        operations: times fewer operations, in the papers' convention.
        memory: times fewer bytes, of the packed file.
        latency_ms: the most milliseconds of the encoder's layers, for one sequence, on this
            machine's kernels and torch's threads.
    """

    operations: float | None = None
    memory: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        for option, value in (("operations", self.operations), ("memory", self.memory)):
            if value is not None and not value > 1:
                raise UserError(
                    f"--target-{option} {value} is not valid: it says how many times fewer, and "
                    "must be above 1."
                )
        if self.latency_ms is not None and not 0 < self.latency_ms < math.inf:
            raise UserError(
                f"--target-latency-ms {self.latency_ms} is not valid: it is a number of "
                "milliseconds above 0."
            )


@dataclass(frozen=True)
class Row:
    """What was chosen for one part, as it is shown."""

    part: str
    kind: str
    weights: int
    activations: int
    dynamic_scale: str
    rank: int
    error: float
    """What it adds to the predicted error at the end of the network."""


@dataclass(frozen=True)
class Allocation:
    """A recipe whose bits were chosen for a model.

    Attributes:
        recipe: with a pattern for every module.
        operations: times fewer, as counted.
        memory: times fewer bytes of the packed file.
        error: predicted normalised squared error of the last hidden states, before anything is
            fitted; it ranks choices, and no more.
        rows: one for each part.
        latency_ms: of the encoder's layers; None where it was not asked for.
    """

    recipe: Recipe
    operations: float
    memory: float
    error: float
    rows: tuple[Row, ...]
    latency_ms: float | None = None
