"""Spend a budget where it removes most error: greedy choice by marginal gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Cost:
    """What an option costs.

    Attributes:
        operations: FLOPs of a forward pass, in the papers' convention.
        bytes: in the packed file.
        seconds: of a forward pass on this machine; 0 where nothing was measured.
    """

    operations: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.operations + other.operations,
            self.bytes + other.bytes,
            self.seconds + other.seconds,
        )

    def within(self, most: Cost) -> bool:
        """Whether nothing costs more than in another."""
        return (
            self.operations <= most.operations
            and self.bytes <= most.bytes
            and self.seconds <= most.seconds
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.operations - other.operations,
            self.bytes - other.bytes,
            self.seconds - other.seconds,
        )


@dataclass(frozen=True)
class Option:
    """One way to code a part of the model.

    Attributes:
        error: what it adds to the normalised squared error at the end of the network.
        cost: see `Cost`.
    """

    error: float
    cost: Cost


@dataclass(frozen=True)
class Budget:
    """The most that a model may cost, see `Cost`; None for no limit."""

    operations: float | None = None
    bytes: float | None = None
    seconds: float | None = None

    @property
    def whole(self) -> Cost:
        """All of it; 0 where there is no limit."""
        return Cost(self.operations or 0.0, self.bytes or 0.0, self.seconds or 0.0)

    def allows(self, cost: Cost) -> bool:
        """Whether a model of this cost stays within."""
        return (
            (self.operations is None or cost.operations <= self.operations)
            and (self.bytes is None or cost.bytes <= self.bytes)
            and (self.seconds is None or cost.seconds <= self.seconds)
        )

    def less(self, cost: Cost) -> Budget:
        """What is left when a cost is taken off."""
        return Budget(
            None if self.operations is None else self.operations - cost.operations,
            None if self.bytes is None else self.bytes - cost.bytes,
            None if self.seconds is None else self.seconds - cost.seconds,
        )

    def excess(self, cost: Cost) -> Cost:
        """By how much a cost is beyond the limits."""
        return Cost(
            0.0 if self.operations is None else max(0.0, cost.operations - self.operations),
            0.0 if self.bytes is None else max(0.0, cost.bytes - self.bytes),
            0.0 if self.seconds is None else max(0.0, cost.seconds - self.seconds),
        )

    def share(self, cost: Cost, free: Cost) -> float:
        """How much of what is free a cost takes: 0 or less where it takes nothing."""
        share = 0.0
        if self.operations is not None:
            share += cost.operations / max(free.operations, 1.0)
        if self.bytes is not None:
            share += cost.bytes / max(free.bytes, 1.0)
        if self.seconds is not None:
            share += cost.seconds / max(free.seconds, 1e-9)
        return share


def cheapest(options: Mapping[str, Sequence[Option]], budget: Budget) -> dict[str, int]:
    """Number of the option of each part that takes least of the budget; ties by error."""
    whole = budget.whole
    return {
        part: min(
            range(len(of_part)),
            key=lambda n, of_part=of_part: (  # type: ignore[misc]
                budget.share(of_part[n].cost, whole),
                of_part[n].error,
            ),
        )
        for part, of_part in options.items()
    }


def choose(
    options: Mapping[str, Sequence[Option]], fixed: Cost, budget: Budget
) -> dict[str, int] | None:
    """An option for each part, of little error together, within a budget.

    Starts at the cheapest options and always takes the step that removes most error for the share
    of the free budget that it takes, to any other option of a part, as long as one fits.

    Args:
        options: of each part, at least one.
        fixed: what the rest of the model costs.
        budget: of all together.

    Returns:
        Part to the number of its option, or None where even the cheapest do not fit.
    """
    chosen = cheapest(options, budget)
    worthwhile = {part: _not_dominated(of_part) for part, of_part in options.items()}
    cost = fixed
    for part, number in chosen.items():
        cost += options[part][number].cost
    if not budget.allows(cost):
        return None
    free = budget.whole - cost
    while True:
        best: tuple[float, str, int] | None = None
        for part, number in chosen.items():
            now = options[part][number]
            for other in worthwhile[part]:
                option = options[part][other]
                step, gain = option.cost - now.cost, now.error - option.error
                if gain <= 0 or not budget.allows(cost + step):
                    continue
                share = budget.share(step, free)
                # A step that is better and no dearer comes first.
                worth = gain / share if share > 0 else float("inf")
                if best is None or worth > best[0]:
                    best = worth, part, other
        if best is None:
            return chosen
        _, part, other = best
        cost += options[part][other].cost - options[part][chosen[part]].cost
        chosen[part] = other


def _not_dominated(options: Sequence[Option]) -> list[int]:
    """Numbers of the options that no other is as good as in everything, or better."""
    order = sorted(range(len(options)), key=lambda n: (options[n].error, options[n].cost))
    kept: list[int] = []
    for number in order:
        cost = options[number].cost
        # Those before it leave no more error.
        if not any(options[other].cost.within(cost) for other in kept):
            kept.append(number)
    return sorted(kept)
