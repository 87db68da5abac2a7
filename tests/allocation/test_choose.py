"""The choice is within the budget, and the best of all that are, found by trying every one."""

from __future__ import annotations

import itertools
import random

import pytest

from bipft_compress.allocation.choose import GAP, Budget, Cost, Option, cheapest, choose, total_cost

FIXED = Cost(100.0, 50.0)


def _random_parts(seed: int, parts: int = 4) -> dict[str, list[Option]]:
    """More bits cost more and leave less."""
    generator = random.Random(seed)
    options = {}
    for part in range(parts):
        size, error = generator.uniform(1, 9), generator.uniform(1, 9)
        options[f"part {part}"] = [
            Option(error / 4**bits, Cost(size * bits * activations, size * bits))
            for bits in (1, 2, 3)
            for activations in (1, 2)
        ]
    return options


def _total(options, chosen) -> tuple[float, Cost]:
    cost, error = FIXED, 0.0
    for part, number in chosen.items():
        cost += options[part][number].cost
        error += options[part][number].error
    return error, cost


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("bytes_", [None, 90.0])
@pytest.mark.parametrize("operations", [None, 150.0, 190.0])
def test_it_is_the_best_that_fits(seed, operations, bytes_):
    options, budget = _random_parts(seed), Budget(operations, bytes_)
    chosen = choose(options, FIXED, budget)
    every = itertools.product(*(range(len(of_part)) for of_part in options.values()))
    fitting = [
        error
        for numbers in every
        for error, cost in [_total(options, dict(zip(options, numbers, strict=True)))]
        if budget.allows(cost)
    ]
    if not fitting:
        assert chosen is None
        return
    assert chosen is not None
    error, cost = _total(options, chosen)
    assert budget.allows(cost)
    assert min(fitting) - 1e-9 <= error <= (1 + GAP) * min(fitting)


def test_nothing_fits():
    options = {"part": [Option(1.0, Cost(10.0, 10.0))]}
    assert choose(options, FIXED, Budget(109.0, None)) is None
    assert choose(options, FIXED, Budget(110.0, None)) == {"part": 0}


def test_what_removes_most_for_its_cost_comes_first():
    options = {
        "large": [Option(4.0, Cost(0.0, 10.0)), Option(1.0, Cost(0.0, 40.0))],
        "small": [Option(2.0, Cost(0.0, 1.0)), Option(1.0, Cost(0.0, 2.0))],
    }
    assert choose(options, FIXED, Budget(None, 62.0)) == {"large": 0, "small": 1}
    assert choose(options, FIXED, Budget(None, 92.0)) == {"large": 1, "small": 1}


def test_a_hair_of_one_cost_does_not_outweigh_another():
    """Measured times scatter: what seems faster by a millionth of the limit may be too large."""
    small = Option(0.5, Cost(bytes=10.0))
    large = Option(0.1, Cost(bytes=100.0, seconds=-1e-6))
    options, budget = {"a": [small, large]}, Budget(bytes=50.0, seconds=1.0)
    assert choose(options, Cost(), budget) == {"a": 0}
    assert cheapest(options, budget) == {"a": 0}


def test_a_large_part_that_fits_only_at_once_is_seen():
    """Step by step, the small ones would take what it needs."""
    small = [Option(0.2, Cost(bytes=1.0)), Option(0.0, Cost(bytes=6.0))]
    large = [Option(3.0, Cost(bytes=10.0)), Option(1.0, Cost(bytes=100.0))]
    options = {"large": large} | {f"small {number}": small for number in range(9)}
    chosen = choose(options, Cost(), Budget(bytes=110.0))
    assert chosen["large"] == 1
    assert total_cost(options, chosen).bytes == 109.0


def test_the_excess_is_what_lies_beyond_a_limit():
    budget = Budget(operations=100.0, bytes=50.0)
    assert budget.excess(Cost(130.0, 40.0, 9.0)) == Cost(30.0, 0.0, 0.0)
    assert budget.excess(Cost(90.0, 60.0), times=4) == Cost(0.0, 40.0, 0.0)
