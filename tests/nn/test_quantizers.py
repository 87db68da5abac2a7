"""Codes are never zero, odd, nearest; gradients are those worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from bipft_compress.nn.quantizers import (
    best_scale,
    nearest_codes,
    quantize_activation,
    quantize_boolean,
    quantize_probability,
    scaled_gradient,
    sign,
    signed_codes,
    straight_through_round,
    weight_sign,
)

BITS = (1, 2, 4, 8)


def test_sign_at_the_edges():
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-45, float("inf"), -float("inf"), 3.0, -2.0])
    expected = [1, 1, 1, -1, 1, -1, 1, -1]
    assert sign(x).tolist() == expected
    assert weight_sign(x).tolist() == expected
    assert signed_codes(x, torch.tensor(1.0), 1).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sign_keeps_the_dtype(dtype):
    assert sign(torch.tensor([-0.5, 0.0], dtype=dtype)).dtype == dtype


@given(st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=50))
def test_sign_is_never_zero(values):
    expected = [1.0 if v >= 0 else -1.0 for v in values]
    assert sign(torch.tensor(values, dtype=torch.float32)).tolist() == expected


@pytest.mark.parametrize("bits", BITS)
def test_reachable_codes_are_the_sums_of_bit_planes(bits):
    planes = itertools.product((-1, 1), repeat=bits)
    sums = {sum(2**i * b for i, b in enumerate(p)) for p in planes}
    s = torch.linspace(-2 * 2**bits, 2 * 2**bits, 20001)
    reached = {int(code) for code in signed_codes(s, torch.tensor(1.0), bits)}
    assert reached == sums
    assert len(reached) == 2**bits
    assert all(code % 2 for code in reached)


@pytest.mark.parametrize("bits", [2, 4, 8])
@given(
    s=st.floats(-1e4, 1e4, width=32),
    scale=st.floats(2**-10, 100, width=32),
)
def test_codes_are_the_nearest(bits, s, scale):
    code = signed_codes(torch.tensor([s]), torch.tensor(scale), bits).item()
    odd = np.arange(-(2**bits - 1), 2**bits, 2)
    distances = np.abs(s / scale - odd)
    assert code in odd
    # Ties may fall on either side; float division moves a tie by a rounding.
    assert abs(s / scale - code) <= distances.min() + 1e-6 * max(1.0, abs(s / scale))


def _gradients(s, scale, **options):
    s = torch.tensor(s, requires_grad=True)
    scale = torch.tensor(scale, requires_grad=True)
    (quantize_activation(s, scale, **options) * scale).sum().backward()
    return s.grad.tolist(), scale.grad.item()


def test_straight_through_inside_the_clip():
    s = [-0.75, -0.5, -0.1, 0.2, 0.5, 0.75]
    grad, grad_scale = _gradients(s, 0.5, bits=1)
    assert grad == [0, 1, 1, 1, 1, 0]
    assert grad_scale == 0  # three codes of -1 and three of +1
    grad, _ = _gradients(s, 0.5, bits=1, clip=1.5)
    assert grad == [1, 1, 1, 1, 1, 1]
    # Two bits: the largest code is 3, so the clip is at 1.5.
    grad, grad_scale = _gradients([-2.0, -1.5, 0.3, 1.25, 1.75], 0.5, bits=2)
    assert grad == [0, 1, 1, 1, 0]
    assert grad_scale == -3 - 3 + 1 + 3 + 3


@pytest.mark.parametrize("bits", BITS)
def test_elastic_scale_gradient_is_that_of_learned_step_size(bits):
    """Esser et al. 2020, eq. 3: code - s/scale inside the range, the largest code outside."""
    s = torch.linspace(-1.9, 2.1, 41).tolist()
    scale = 1.3 / (2**bits - 1)
    _, grad_scale = _gradients(s, scale, bits=bits, elastic=True)
    expected = 0.0
    for value in s:
        v = value / scale
        odd = np.arange(-(2**bits - 1), 2**bits, 2)
        code = odd[np.abs(v - odd).argmin()]
        expected += code - v if abs(v) <= 2**bits - 1 else code
    assert grad_scale == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_elastic_gradient_keeps_the_shape_of_a_scale_per_head():
    scale = torch.tensor([0.5, 2.0]).view(2, 1, 1).requires_grad_()
    s = torch.tensor([1.0, -0.25]).expand(3, 2, 4, 2)
    (quantize_activation(s, scale, elastic=True) * scale).sum().backward()
    # Head 0: 1.0 is clipped (+1), -0.25 gives -1 + 0.5. Head 1: 1 - 0.5 and -1 + 0.125.
    assert scale.grad.flatten().tolist() == pytest.approx([12 * 0.5, 12 * -0.375])


def test_weight_sign_has_the_identity_as_gradient():
    weight = torch.tensor([-50.0, -0.0, 1e-9, 3.0], requires_grad=True)
    (weight_sign(weight) * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert weight.grad.tolist() == [1, 2, 3, 4]


def test_rounding_goes_half_upwards():
    x = torch.tensor([-1.5, -0.5, 0.49, 0.5, 1.5, 2.5], requires_grad=True)
    rounded = straight_through_round(x)
    assert rounded.tolist() == [-1, 0, 0, 1, 2, 3]
    rounded.sum().backward()
    assert x.grad.tolist() == [1] * 6


@given(
    p=st.floats(0, 1, width=32),
    scale=st.floats(2**-10, 1, width=32),
    shift=st.sampled_from([None, -1.0, -0.0625, 0.0, 0.25, 1.0]),
)
def test_one_bit_probability_is_the_threshold_at_half_the_scale(p, scale, shift):
    threshold = scale / 2 + (shift or 0.0)
    # Within float rounding of the threshold, but not on it, either answer is right.
    exact = p == threshold and not shift
    assume(exact or abs(p - threshold) > 1e-6 * max(scale, abs(threshold)))
    beta = None if shift is None else torch.tensor(shift)
    code = quantize_probability(torch.tensor([p]), torch.tensor(scale), 1, beta).item()
    assert code == (1 if p >= threshold else 0)


@pytest.mark.parametrize("bits", BITS)
def test_probability_codes_are_the_nearest_integers(bits):
    p = torch.rand(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scale = torch.tensor(0.7 / (2**bits - 1), dtype=torch.float64)
    codes = quantize_probability(p, scale, bits).numpy()
    allowed = np.arange(2**bits)
    nearest = np.abs(p.numpy()[:, None] - allowed * scale.item()).argmin(1)
    assert (codes == nearest).all()
    assert codes.max() == 2**bits - 1


def test_probability_gradients():
    p = torch.tensor([0.0625, 0.125, 0.25, 0.75], requires_grad=True)
    scale = torch.tensor(0.25, requires_grad=True)
    codes = quantize_probability(p, scale, 1)
    assert codes.tolist() == [0, 1, 1, 1]
    (codes * scale).sum().backward()
    assert p.grad.tolist() == [1, 1, 1, 0]
    # code - p/scale inside, the largest code outside.
    assert scale.grad.item() == pytest.approx((0 - 0.25) + (1 - 0.5) + (1 - 1) + 1)


def test_gradient_of_the_threshold_of_probabilities():
    p = torch.tensor([0.0625, 0.125, 0.375, 0.875])
    shift = torch.tensor(0.125, requires_grad=True)
    scale = torch.tensor(0.25)
    codes = quantize_probability(p, scale, 1, shift)
    assert codes.tolist() == [0, 0, 1, 1]
    (codes * scale).sum().backward()
    # -1 for each probability inside [shift, shift + scale].
    assert shift.grad.item() == -2


@pytest.mark.parametrize("bits", BITS)
def test_a_scaled_gradient_is_smaller_and_nothing_else(bits):
    scale = torch.tensor([0.3, 2.0], requires_grad=True)
    scaled = scaled_gradient(scale, 25, bits)
    torch.testing.assert_close(scaled, scale)
    (scaled * torch.tensor([1.0, -4.0])).sum().backward()
    factor = 1 / (5 * (2**bits - 1) ** 0.5)
    assert scale.grad.tolist() == pytest.approx([factor, -4 * factor])


def test_boolean_is_one_from_zero_on_with_a_clipped_gradient():
    scores = torch.tensor([-3.0, -0.5, -0.0, 0.0, 0.5, 3.0], requires_grad=True)
    codes = quantize_boolean(scores)
    assert codes.tolist() == [0, 0, 1, 1, 1, 1]
    codes.sum().backward()
    assert scores.grad.tolist() == [0, 0.5, 0.5, 0.5, 0.5, 0]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_numbers_that_are_codes_are_found_exactly(bits):
    generator = torch.Generator().manual_seed(bits)
    codes = 2 * torch.randint(2**bits, (5, 400), generator=generator) - (2**bits - 1)
    codes[:, 0] = 2**bits - 1  # the largest code is among them
    step = torch.rand(5, 1, generator=generator) + 0.1
    found, scale = nearest_codes(codes * step, bits)
    assert torch.equal(found, codes.float())
    torch.testing.assert_close(scale, step)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("tail", [1.0, 30.0])
def test_the_best_scale_is_near_the_best_of_many(bits, tail):
    """Of a normal distribution, and of one with a few numbers far out."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 5000, generator=generator)
    x[0, :20] *= tail

    def error(scale):
        return float((scale * signed_codes(x, scale, bits) - x).square().sum())

    best = min(error(scale) for scale in torch.logspace(-4, 1.5, 400))
    assert error(best_scale(x, bits)) <= 1.05 * best


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_zeros_have_a_scale(bits):
    assert float(best_scale(torch.zeros(1, 9), bits)) == pytest.approx(1e-6)
