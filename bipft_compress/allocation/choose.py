"""Spend a budget where it removes most error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

GAP = 1e-3
"""What a choice may leave of error beyond the least, relatively."""


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

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.operations - other.operations,
            self.bytes - other.bytes,
            self.seconds - other.seconds,
        )

    def within(self, most: Cost) -> bool:
        """Whether nothing costs more than in another."""
        return (
            self.operations <= most.operations
            and self.bytes <= most.bytes
            and self.seconds <= most.seconds
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

    def allows(self, cost: Cost) -> bool:
        """Whether a model of this cost stays within."""
        return (
            (self.operations is None or cost.operations <= self.operations)
            and (self.bytes is None or cost.bytes <= self.bytes)
            and (self.seconds is None or cost.seconds <= self.seconds)
        )

    def excess(self, cost: Cost, *, times: float = 1.0) -> Cost:
        """What a cost has beyond the limits, or several times that."""
        pairs = zip(astuple(self), astuple(cost), strict=True)
        return Cost(
            *(0.0 if limit is None else times * max(taken - limit, 0.0) for limit, taken in pairs)
        )

    def share(self, cost: Cost) -> float:
        """How much of all limits together a cost takes."""
        pairs = zip(astuple(self), astuple(cost), strict=True)
        share: float = sum(taken / limit for limit, taken in pairs if limit is not None)
        return share


def cheapest(options: Mapping[str, Sequence[Option]], budget: Budget) -> dict[str, int]:
    """Number of the option of each part that takes least of the budget; ties by error."""
    return {
        part: min(
            range(len(of_part)),
            key=lambda n, of_part=of_part: (  # type: ignore[misc]
                budget.share(of_part[n].cost),
                of_part[n].error,
            ),
        )
        for part, of_part in options.items()
    }


def total_cost(options: Mapping[str, Sequence[Option]], chosen: Mapping[str, int]) -> Cost:
    """What the chosen option of each part costs, all together."""
    return sum((options[part][number].cost for part, number in chosen.items()), Cost())


def choose(
    options: Mapping[str, Sequence[Option]], fixed: Cost, budget: Budget
) -> dict[str, int] | None:
    """The option for each part that leave the least error together, within a budget.

    A knapsack problem of multiple choice with up to three limits, which HiGHS (Huangfu and Hall
    2018) solves as an integer programme, to `GAP` of the least error.

    Args:
        options: of each part, at least one.
        fixed: what the rest of the model costs.
        budget: of all together.

    Returns:
        Part to the number of its option, or None where no choice fits.
    """
    offered = [
        (part, number) for part, of_part in options.items() for number in _not_dominated(of_part)
    ]
    errors = np.array([options[part][number].error for part, number in offered])
    costs = np.array([astuple(options[part][number].cost) for part, number in offered])
    parts = np.array([part for part, _ in offered])
    constraints = [LinearConstraint([parts == part for part in options], 1, 1)]
    for limit, rest, of_options in zip(astuple(budget), astuple(fixed), costs.T, strict=True):
        if limit is not None:
            # The solver's tolerance is absolute, 1e-6: of a limit of a thousand it is nothing.
            unit = limit / 1e3
            constraints.append(LinearConstraint(of_options / unit, ub=(limit - rest) / unit))
    found = milp(
        errors,
        integrality=np.ones(len(offered)),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": GAP},
    )
    if found.x is None:
        return None
    return {
        part: number for (part, number), take in zip(offered, found.x, strict=True) if take > 0.5
    }


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
