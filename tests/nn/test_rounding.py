"""Row-wise rounding: range, idempotence, and scales no worse than the row's maximum."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bipft_compress.nn import RowRounding, round_rows
from bipft_compress.nn.rounding import best_row_scales


def _weight(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 33, generator=generator)
    return weight**5 if kind == "heavy tails" else weight


def _error(weight: torch.Tensor, scale: torch.Tensor, largest: int) -> torch.Tensor:
    codes = (weight / scale).round().clamp(-largest, largest)
    return (codes * scale - weight).square().sum(1)


@pytest.mark.parametrize("kind", ["normal", "heavy tails"])
@pytest.mark.parametrize(("bits", "largest"), [(4, 7), (8, 127)])
def test_best_scale_is_no_worse_than_the_maximum(kind, bits, largest):
    weight = _weight(kind)
    best = _error(weight, best_row_scales(weight, bits), largest)
    plain = _error(weight, weight.abs().amax(1, keepdim=True) / largest, largest)
    assert (best <= plain * (1 + 1e-6)).all()
    for fraction in (0.5, 0.6, 0.7, 0.8, 0.9):
        clipped = _error(weight, fraction * weight.abs().amax(1, keepdim=True) / largest, largest)
        assert (best <= clipped * (1 + 1e-3)).all()
    if bits == 4:  # where clipping an outlier is worth it, it is done
        assert (best < 0.95 * plain).sum() >= 5


@pytest.mark.parametrize(("bits", "largest"), [(4, 7), (8, 127)])
def test_codes_are_integers_in_range_and_rounding_is_idempotent(bits, largest):
    weight = _weight("heavy tails")
    rounding = RowRounding(len(weight), bits)
    rounding.right_inverse(weight)
    codes = rounding.codes(10 * weight)
    assert torch.equal(codes, codes.round())
    assert codes.abs().max() == largest
    rounded = rounding(weight)
    assert torch.equal(rounding(rounded), rounded)
    inside = weight.abs() <= largest * rounding.scale
    off = (rounded - weight).abs() <= rounding.scale / 2 * (1 + 1e-5)
    assert off[inside].all()


def test_a_row_of_zeros_stays_zero():
    rounding = RowRounding(2, 4)
    rounding.right_inverse(torch.zeros(2, 5))
    assert (rounding.scale > 0).all()
    assert torch.equal(rounding(torch.zeros(2, 5)), torch.zeros(2, 5))


def test_gradient_by_hand():
    rounding = RowRounding(1, 4)
    with torch.no_grad():
        rounding.scale.fill_(0.5)
    weight = torch.tensor([[0.6, -3.4, 9.0]], requires_grad=True)
    rounded = rounding(weight)
    assert rounded.tolist() == [[0.5, -3.5, 3.5]]
    rounded.sum().backward()
    assert weight.grad.tolist() == [[1, 1, 0]]  # 9.0 is clipped
    # code - w/scale inside, the largest code outside.
    assert rounding.scale.grad.item() == pytest.approx((1 - 1.2) + (-7 + 6.8) + 7, abs=1e-5)


@pytest.mark.parametrize("module", [nn.Linear(9, 5), nn.Embedding(5, 9)])
def test_every_reader_of_the_weight_sees_rounded_numbers(module):
    original = module.weight.detach().clone()
    round_rows(module, 4)
    decoded = module.weight
    assert not torch.equal(decoded, original)
    assert all(len(row.unique()) <= 15 for row in decoded)
    if isinstance(module, nn.Embedding):
        assert torch.equal(module(torch.tensor([3])), decoded[3:4])
    else:
        x = torch.eye(9)
        torch.testing.assert_close(module(x), decoded.T + module.bias)
    # The latent weight is still there, to be trained.
    assert torch.equal(module.parametrizations.weight.original, original)
