"""A step changes every tensor in proportion to its size."""

from __future__ import annotations

import pytest
import torch

from bipft_compress.fitting.rates import FITTED_RATE, latent_weights, relative_rates
from bipft_compress.nn import BinaryLinear


def test_latent_weights_move_alike_and_all_else_by_its_size():
    layer = BinaryLinear(4, 3, rank=1)
    with torch.no_grad():
        layer.weight_scale.fill_(0.02)
        layer.bias.copy_(torch.tensor([3.0, -4.0, 0.0]))
    layer.shift.requires_grad_(False)
    groups = relative_rates(layer, 0.1)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert list(map(id, latent_weights(layer))) == [id(layer.weight)]
    assert rates[id(layer.weight)] == 0.1
    assert rates[id(layer.weight_scale)] == pytest.approx(0.1 * FITTED_RATE * 0.02)
    assert rates[id(layer.bias)] == pytest.approx(0.1 * FITTED_RATE * (25 / 3) ** 0.5)
    assert rates[id(layer.estimator.up)] == pytest.approx(0.1 * FITTED_RATE * 1e-3)
    assert rates.keys() == {id(p) for p in layer.parameters() if p.requires_grad}
