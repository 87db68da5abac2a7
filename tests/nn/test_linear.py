"""The binary linear layer against bit arithmetic on integers and against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bipft_compress.nn import BinaryLinear
from bipft_compress.nn.quantizers import LATENT_STEP

WIDTHS = (1, 3, 33, 63, 65)
BITS = (1, 2, 4, 8)


def _layer(width: int, out: int = 7, seed: int = 0, **options) -> tuple[BinaryLinear, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    layer = BinaryLinear(width, out, **options)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            if "scale" in name:
                parameter.abs_().add_(0.1)
        layer.weight[0, 0] = 0.0
        layer.weight[-1, -1] = -0.0
    return layer, torch.randn(5, width, generator=generator)


def _integers(bits_of_b: np.ndarray, bits_of_w: np.ndarray) -> np.ndarray:
    """in - 2 * popcount(b XOR w), on Python integers of any width."""

    def words(rows: np.ndarray) -> list[int]:
        return [int("".join("1" if bit else "0" for bit in row), 2) for row in rows]

    width = bits_of_b.shape[1]
    return np.array(
        [[width - 2 * (b ^ w).bit_count() for w in words(bits_of_w)] for b in words(bits_of_b)]
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("bits", BITS)
def test_accumulate_equals_xor_and_popcount(width, bits):
    layer, x = _layer(width, bits=bits)
    s = x.numpy() - layer.shift.detach().numpy()
    if bits == 1:
        levels = (s >= 0).astype(int)
    else:
        odd = np.arange(-(2**bits - 1), 2**bits, 2)
        levels = np.abs(s[..., None] / layer.activation_scale.item() - odd).argmin(-1)
    weight_bits = layer.weight.detach().numpy() >= 0
    expected = sum(2**i * _integers(levels >> i & 1, weight_bits) for i in range(bits))
    assert np.array_equal(layer.accumulate(x).numpy(), expected)
    assert weight_bits[0, 0]
    assert weight_bits[-1, -1]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_forward_is_the_formula(width, bits, rank):
    layer, x = _layer(width, bits=bits, rank=rank)
    value = {name: p.detach().double() for name, p in layer.named_parameters()}
    y = layer.accumulate(x).double() * value["activation_scale"] * value["weight_scale"]
    y = y + value["bias"]
    if rank:
        y = y + x.double() @ value["estimator.down"].T @ value["estimator.up"].T
    tolerance = 1e-5 * 2**bits * width**0.5
    torch.testing.assert_close(layer(x).double(), y, atol=tolerance, rtol=1e-5)


def test_estimator_adds_exactly_the_low_rank_map():
    """On small integers every float sum is exact, whatever its order."""
    layer, _ = _layer(9, out=6, rank=2)
    generator = torch.Generator().manual_seed(3)

    def integers(*shape):
        return torch.randint(-4, 5, shape, generator=generator).float()

    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(integers(*parameter.shape))
        layer.activation_scale.fill_(0.5)
    x = integers(2, 4, 9)
    with_estimator = layer(x)
    up, down = layer.estimator.up.detach(), layer.estimator.down.detach()
    layer.estimator = None
    low_rank = np.einsum("or,ri,bti->bto", up.numpy(), down.numpy(), x.numpy())
    assert np.array_equal((with_estimator - layer(x)).detach().numpy(), low_rank)
    assert np.abs(low_rank).max() > 0


def test_rank_zero_has_no_estimator():
    layer = BinaryLinear(8, 4, rank=0)
    assert layer.rank == 0
    assert layer.estimator is None
    assert not [name for name in layer.state_dict() if "estimator" in name]
    assert BinaryLinear(8, 4, rank=3).rank == 3


def test_output_sees_only_the_signs_of_the_weights():
    layer, x = _layer(33)
    before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(7.0)
    assert torch.equal(layer(x), before)
    with torch.no_grad():
        layer.weight[2].neg_()
    assert not torch.equal(layer(x)[:, 2], before[:, 2])
    assert torch.equal(layer(x)[:, :2], before[:, :2])


def test_gradients_by_hand():
    layer = BinaryLinear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.3, -9.0]]))
        layer.shift.copy_(torch.tensor([0.25, 0.0]))
        layer.activation_scale.fill_(0.5)
        layer.weight_scale.fill_(2.0)
    x = torch.tensor([[0.5, -3.0]], requires_grad=True)
    y = layer(x)
    assert y.item() == 0.5 * 2.0 * (1 * 1 + -1 * -1)
    y.backward()
    # s = (0.25, -3): the second is outside the clip. d y / d s = weight scale * sign(W) inside.
    assert x.grad.tolist() == [[2.0, 0.0]]
    assert layer.shift.grad.tolist() == [-2.0, 0.0]
    assert layer.weight.grad.tolist() == [[1.0, -1.0]]  # a * c * code
    assert layer.weight_scale.grad.tolist() == [1.0]  # a * acc
    assert layer.activation_scale.grad.item() == 4.0  # c * acc
    assert layer.bias.grad.tolist() == [1.0]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("weight_bits", [2, 3, 4])
def test_weights_of_several_bits_are_the_nearest_codes(weight_bits, bits):
    layer, x = _layer(33, bits=bits, weight_bits=weight_bits)
    odd = np.arange(-(2**weight_bits - 1), 2**weight_bits, 2)
    steps = layer.weight.detach().numpy() / LATENT_STEP
    codes = odd[np.abs(steps[..., None] - odd).argmin(-1)]
    inside = np.abs(steps) > 1e-6  # 0 lies between two codes
    assert np.array_equal(layer.codes().detach().numpy()[inside], codes[inside])
    expected = layer.input_codes(x)[0].detach().numpy() @ layer.codes().detach().numpy().T
    assert np.array_equal(layer.accumulate(x).numpy(), expected)


@pytest.mark.parametrize("kind", ["rms", "max"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("training", [True, False])
def test_a_token_is_scaled_by_its_own_magnitude(kind, bits, training):
    """Twice the token is twice its output: codes stay, whatever the other tokens are."""
    layer, x = _layer(33, bits=bits, dynamic_scale=kind)
    layer.train(training)
    with torch.no_grad():
        layer.shift.zero_()
        y = layer(x) - layer.bias
        factors = torch.tensor([1.0, 2.0, 64.0, 0.25, 1.0]).unsqueeze(1)
        scaled = layer(x * factors) - layer.bias
    torch.testing.assert_close(scaled, y * factors)
    assert torch.equal(layer.accumulate(x * factors), layer.accumulate(x))


def test_gradients_pass_codes_and_magnitudes_do_not():
    layer, x = _layer(9, bits=4, weight_bits=2, dynamic_scale="max", clip=100.0)
    x.requires_grad_()
    layer(x).sum().backward()
    # Inside the clip the straight-through gradient is that of a plain linear layer.
    weight = layer.codes() * layer.weight_scale.unsqueeze(1)
    torch.testing.assert_close(x.grad, weight.sum(0).expand(5, -1))
