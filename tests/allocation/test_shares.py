"""What is left of an error, by kind of module and by what makes it."""

from __future__ import annotations

import pytest

from bipft_compress.allocation.errors import Choice
from bipft_compress.allocation.shares import LINEARS, left_of_linear
from bipft_compress.spec import KINDS


def test_every_kind_of_linear_layer_has_its_shares():
    assert set(KINDS) - {"scores", "context"} == set(LINEARS)
    assert all(0 < s.inputs <= 1 and 0 < s.weights <= 1 for s in LINEARS.values())


def _errors():
    """Of weights and ranks: 1 and 4 bits, rank 0 and 2."""
    table = {(1, 0): 0.5, (4, 0): 0.2, (1, 2): 0.3, (4, 2): 0.1}
    return {Choice(weights, 4, "rms", rank): error for (weights, rank), error in table.items()}


def test_weights_and_inputs_have_shares_of_their_own():
    left = left_of_linear("ffn_down", _errors())
    shares = LINEARS["ffn_down"]
    assert left[Choice(4, 4, "rms", 0)] == pytest.approx(0.2 * shares.inputs)
    expected = 0.2 * shares.inputs + 0.3 * shares.weights
    assert left[Choice(1, 4, "rms", 0)] == pytest.approx(expected)
    expected = 0.1 * shares.inputs + 0.2 * shares.weights
    assert left[Choice(1, 4, "rms", 2)] == pytest.approx(expected)


def test_where_the_descent_does_as_well_an_estimator_gains_nothing():
    left = left_of_linear("query", _errors())
    assert left[Choice(1, 4, "rms", 0)] == left[Choice(1, 4, "rms", 2)]
    assert left[Choice(1, 4, "rms", 0)] > left[Choice(4, 4, "rms", 0)]


def test_more_bits_of_weights_never_leave_more_than_the_inputs_do():
    errors = _errors()
    errors[Choice(4, 4, "rms", 2)] = 0.4  # measured on little text
    left = left_of_linear("ffn_down", errors)
    assert left[Choice(1, 4, "rms", 2)] == left[Choice(4, 4, "rms", 2)]
