"""What is left of an error, by kind of module."""

from __future__ import annotations

import pytest

from bipft_compress.allocation.errors import Choice
from bipft_compress.allocation.shares import ESTIMATED, LEFT, left_of_linear
from bipft_compress.spec import KINDS

ERRORS = {Choice(1, 4, "rms", 0): 0.5, Choice(1, 4, "rms", 2): 0.3, Choice(4, 4, "rms", 0): 0.2,
          Choice(4, 4, "rms", 2): 0.1}  # fmt: skip


def test_every_kind_of_module_has_its_share():
    linears = set(KINDS) - {"scores", "context"}
    assert linears | {"embedding", "attention"} == set(LEFT)
    assert set(LEFT) > ESTIMATED
    # Words are read by all layers: their error alone may come to more than first order says.
    assert all(0 < LEFT[kind] <= 1 for kind in linears | {"attention"})


def test_an_estimator_of_feed_forward_down_counts():
    left = left_of_linear("ffn_down", ERRORS)
    assert left == {choice: pytest.approx(0.16 * error) for choice, error in ERRORS.items()}


def test_where_the_descent_does_as_well_an_estimator_gains_nothing():
    left = left_of_linear("query", ERRORS)
    assert left[Choice(1, 4, "rms", 0)] == left[Choice(1, 4, "rms", 2)] == pytest.approx(0.03)
    assert left[Choice(4, 4, "rms", 0)] == left[Choice(4, 4, "rms", 2)] == pytest.approx(0.01)
