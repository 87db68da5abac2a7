"""A student at another precision is the same student, its codes of another unit."""

from __future__ import annotations

import copy

import pytest
import torch

from bipft_compress.families import get_module
from bipft_compress.fitting.precision import change_precision
from bipft_compress.recipe import Activations

FULL = {"embeddings": {"code": "full"}}


def _bits(model, encoder):
    linears = {get_module(model, path).bits for path, _ in encoder.linears()}
    attentions = [get_module(model, layer.attention) for layer in encoder.layers]
    return linears, {(one.bits, one.key_value_bits) for one in attentions}


def test_bits_change_everywhere_and_weights_stay(make_random_pair, family):
    pair = make_random_pair(family, recipe=FULL | {"activations": {"bits": 2}})
    before = copy.deepcopy(pair.student.state_dict())
    change_precision(pair.student, pair.encoder, Activations(bits=1, key_value_bits=4))
    assert _bits(pair.student, pair.encoder) == ({1}, {(1, 4)})
    changed = (
        "activation_scale", "_clip", "score_scale", "value_scale", "probability_scale",
        "position_key_scale", "position_query_scale",
    )  # fmt: skip
    for name, value in pair.student.state_dict().items():
        assert torch.equal(value, before[name]) != name.endswith(changed), name


@pytest.mark.parametrize("there", [2, 4, 8])
def test_there_and_back_is_the_same(make_random_pair, shape, batches, there):
    pair = make_random_pair(shape, recipe=FULL)
    with torch.no_grad():
        expected = pair.student(batches[0]).last_hidden_state
        for bits in (there, 1):
            change_precision(
                pair.student, pair.encoder, Activations(bits=bits, key_value_bits=bits)
            )
        torch.testing.assert_close(pair.student(batches[0]).last_hidden_state, expected)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "mobilebert", "nomic_bert"])
def test_a_student_of_four_bits_stays_close_with_eight(make_pair, family, batches):
    pair = make_pair(family, recipe=FULL | {"activations": {"bits": 4}})
    with torch.no_grad():
        before = pair.student(batches[0]).last_hidden_state
        change_precision(pair.student, pair.encoder, Activations(bits=8, key_value_bits=1))
        after = pair.student(batches[0]).last_hidden_state
    error = (after - before).square().mean() / (before - before.mean()).square().mean()
    assert error < 0.1
