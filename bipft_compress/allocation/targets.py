"""What an allocation is asked for, and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass

from bipft_compress.errors import UserError
from bipft_compress.recipe import Recipe


@dataclass(frozen=True)
class Targets:
    """What a compressed model must reach, as ratios of the original's figures; None for any.

    Attributes:
        operations: times fewer operations, in the papers' convention.
        memory: times fewer bytes, of the packed file.
    """

    operations: float | None = None
    memory: float | None = None

    def __post_init__(self) -> None:
        for option, value in (("operations", self.operations), ("memory", self.memory)):
            if value is not None and not value > 1:
                raise UserError(
                    f"--target-{option} {value} is not valid: it says how many times fewer, and "
                    "must be above 1."
                )


@dataclass(frozen=True)
class Row:
    """What was chosen for one part, as it is shown."""

    part: str
    kind: str
    weights: int
    activations: int
    dynamic_scale: str
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
    """

    recipe: Recipe
    operations: float
    memory: float
    error: float
    rows: tuple[Row, ...]
