"""Linear layers of several bits a weight and an activation, on every path."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bipft_compress.nn import BinaryLinear, Block
from bipft_compress.runtime import native
from bipft_compress.runtime.modules import PackedLinear
from bipft_compress.runtime.ops import binary_linear
from bipft_compress.runtime.program import compile_block, compile_linear
from bipft_compress.storage.bits import pack_signs

COMPILED = [path for path in native.paths() if path != native.REFERENCE]
PAIRS = [(weights, bits) for weights in (1, 2, 3, 4) for bits in (1, 2, 4, 8)]


def of_codes(codes: torch.Tensor, weight_bits: int, bits: int) -> PackedLinear:
    """A layer whose outputs are its integers: all scales are 1 and all shifts 0."""
    out, width = codes.shape
    fields = (codes + 2**weight_bits - 1) // 2
    planes = torch.stack([(fields >> p & 1) * 2.0 - 1 for p in range(weight_bits)])
    linear = BinaryLinear(width, out, bits=bits, weight_bits=weight_bits).requires_grad_(False)
    return PackedLinear(linear, pack_signs(planes if weight_bits > 1 else planes[0]))


def random_codes(generator: torch.Generator, bits: int, *shape: int) -> torch.Tensor:
    """Odd integers in [-(2^bits - 1), 2^bits - 1]."""
    return 2 * torch.randint(2**bits, shape, generator=generator) - (2**bits - 1)


def test_codes_are_weighted_sums_of_planes():
    planes = torch.tensor([[[1.0, -1, 1, -1]], [[1, 1, -1, -1]], [[1, 1, 1, -1]]])
    linear = BinaryLinear(4, 1, weight_bits=3)
    packed = PackedLinear(linear, pack_signs(planes))
    assert packed.codes().tolist() == [[7, 5, 3, -7]]


@pytest.mark.parametrize("path", COMPILED)
@pytest.mark.parametrize(("weight_bits", "bits"), PAIRS)
@settings(deadline=None, max_examples=12)
@given(
    count=st.integers(1, 40), width=st.integers(1, 300), out=st.integers(1, 70), seed=st.integers(0)
)
def test_sums_are_exact_integers(path, weight_bits, bits, count, width, out, seed):
    generator = torch.Generator().manual_seed(seed % 2**63)
    weights = random_codes(generator, weight_bits, out, width)
    x = random_codes(generator, bits, count, width)
    program = compile_linear(of_codes(weights, weight_bits, bits), path)
    assert torch.equal(binary_linear(x.float(), program, out), (x @ weights.T).float())


@pytest.mark.parametrize("path", COMPILED)
@pytest.mark.parametrize(("weight_bits", "bits"), PAIRS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_do_not_overflow(path, weight_bits, bits, sign):
    """The largest codes everywhere; the sum itself is rounded to fp32 once."""
    width, out = 65534, 3
    weights = torch.full((out, width), 2**weight_bits - 1)
    program = compile_linear(of_codes(weights, weight_bits, bits), path)
    x = torch.full((2, width), sign * (2**bits - 1))
    expected = torch.full((2, out), sign * width * (2**bits - 1) * (2**weight_bits - 1))
    assert torch.equal(binary_linear(x.float(), program, out), expected.float())


@pytest.mark.parametrize("path", COMPILED)
@pytest.mark.parametrize(("weight_bits", "bits"), PAIRS)
@pytest.mark.parametrize("dynamic_scale", ["none", "rms", "max"])
def test_a_layer_agrees_with_the_reference(path, weight_bits, bits, dynamic_scale):
    generator = torch.Generator().manual_seed(weight_bits * bits)
    layer = of_codes(random_codes(generator, weight_bits, 50, 130), weight_bits, bits)
    layer.dynamic_scale = dynamic_scale
    estimator = BinaryLinear(130, 50, rank=3).estimator
    assert estimator is not None
    layer.estimator = estimator.requires_grad_(False)
    for tensor in (*estimator.parameters(), layer.shift, layer.weight_scale, layer.bias):
        tensor.normal_(generator=generator)
    layer.activation_scale.fill_(0.07)
    x = torch.randn(2, 5, 130, generator=generator)
    found = binary_linear(x, compile_linear(layer, path), 50)
    torch.testing.assert_close(found, layer.eval()(x), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("path", COMPILED)
def test_rows_alone_and_together_give_the_same_bits(path):
    generator = torch.Generator().manual_seed(3)
    layer = of_codes(random_codes(generator, 4, 37, 100), 4, 8)
    program = compile_linear(layer, path)
    x = torch.randn(45, 100, generator=generator) * 100
    together = binary_linear(x, program, 37)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(binary_linear(x, program, 37), together)
    finally:
        torch.set_num_threads(before)
    alone = torch.cat([binary_linear(row[None], program, 37) for row in x])
    assert torch.equal(alone, together)


MIXED = {"query": (2, 1), "key": (4, 1), "value": (1, 8), "attention_output": (3, 4)}
BLOCKS = {
    "two bits": {"weight_bits": 2, "bits": 2},
    "four bits, folded": {"weight_bits": 4, "bits": 1},
    "three by eight": {"weight_bits": 3, "bits": 8, "key_value_bits": 2},
    "mixed": {"linear_bits": MIXED | {"ffn_up": (4, 8), "ffn_down": (2, 2)}},
    "mixed, folded": {"linear_bits": MIXED | {"ffn_up": (3, 1), "ffn_down": (4, 1)}},
    "by token": {"bits": 4, "weight_bits": 2, "dynamic_scale": "rms"},
    "one bit by token": {"dynamic_scale": "max"},
    "mixed, wide": {"linear_bits": MIXED, "inner": 200, "heads": 3, "head_dim": 43},
}


@pytest.mark.parametrize("path", COMPILED)
@pytest.mark.parametrize("options", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 21), (1, 130)])
def test_a_block_agrees_with_the_reference(random_block, path, options, batch, length):
    block = random_block(**options)
    program = compile_block(block, path)
    assert program is not None
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(batch, length, block.spec.hidden, generator=generator)
    seen = torch.rand(batch, length, generator=generator) > 0.3
    found = torch.ops.bipft_compress.encoder_block(x, seen, None, None, None, None, program)
    torch.testing.assert_close(found, Block.forward(block, x, mask=seen), atol=1e-4, rtol=1e-4)


def test_several_bits_are_folded(random_block):
    """An activation function that no kernel knows can only be folded; counts of 4 bits fit 16."""
    options = {"weight_bits": 4, "activation": "mish"}
    assert compile_block(random_block(**options), COMPILED[0]) is not None
    # 15 * 4370 is beyond 16 bits.
    wide = random_block(**options, heads=1, head_dim=4370, inner=3)
    assert compile_block(wide, COMPILED[0]) is None


def test_a_program_of_another_width_is_refused():
    program = compile_linear(of_codes(torch.ones(3, 9, dtype=torch.long), 2, 2), COMPILED[0])
    with pytest.raises(ValueError, match="width"):
        binary_linear(torch.zeros(1, 8), program, 3)
    with pytest.raises(ValueError, match="another shape"):
        binary_linear(torch.zeros(1, 9), program, 4)
    with pytest.raises(TypeError, match="x must be"):
        binary_linear(torch.zeros(1, 9).double(), program, 3)
    with pytest.raises(ValueError, match="not a compiled block"):
        binary_linear(torch.zeros(1, 9), program[:-64].clone(), 3)


@pytest.mark.parametrize("path", COMPILED)
@pytest.mark.parametrize(("weight_bits", "bits"), [(1, 1), (4, 8)])
def test_no_rows_are_no_output(path, weight_bits, bits):
    layer = of_codes(torch.ones(3, 9, dtype=torch.long), weight_bits, bits)
    assert binary_linear(torch.zeros(2, 0, 9), compile_linear(layer, path), 3).shape == (2, 0, 3)
