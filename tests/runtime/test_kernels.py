"""Every path against the reference in torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bipft_compress.errors import UserError
from bipft_compress.runtime import native, reference
from bipft_compress.runtime.bits import pack_signs
from bipft_compress.runtime.ops import binary_product, encoder_layer, prepare_weights, row_bytes
from bipft_compress.runtime.program import compile_layer

PATHS = native.paths()
COMPILED = [path for path in PATHS if path != native.REFERENCE]
EVERYWHERE = {
    "query": 2, "key": 1, "value": 2, "attention_output": 3, "ffn_up": 2, "ffn_down": 2,
    "scores": 2, "context": 2,
}  # fmt: skip


def packed_rows(signs: torch.Tensor) -> torch.Tensor:
    """Activations as the product takes them: rows of whole 64-bit words."""
    packed = pack_signs(signs)
    return torch.nn.functional.pad(packed, (0, row_bytes(signs.shape[1]) - packed.shape[1]))


def test_the_kernels_were_built():
    """`make test` builds them: the tests below must not pass for want of something to test."""
    assert COMPILED


@pytest.mark.parametrize("path", PATHS)
@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 9), width=st.integers(1, 700), out=st.integers(1, 70), seed=st.integers(0)
)
def test_products_are_exact_integers(path, count, width, out, seed):
    generator = torch.Generator().manual_seed(seed % 2**63)
    a = torch.randn(count, width, generator=generator)
    w = torch.randn(out, width, generator=generator)
    expected = torch.where(a >= 0, 1, -1) @ torch.where(w >= 0, 1, -1).T
    weights = prepare_weights(pack_signs(w), width, path)
    product = binary_product(packed_rows(a), weights, width, out, path)
    assert product.dtype == torch.int32
    assert torch.equal(product, expected.int())


@pytest.mark.parametrize("path", COMPILED)
@pytest.mark.parametrize("width", [3072, 65534])
def test_the_largest_sums_do_not_overflow(path, width):
    """All signs differ: the popcount is the width itself."""
    a, w = torch.ones(5, width), -torch.ones(33, width)
    weights = prepare_weights(pack_signs(w), width, path)
    product = binary_product(packed_rows(a), weights, width, 33, path)
    assert torch.equal(product, torch.full((5, 33), -width, dtype=torch.int32))


LAYERS = {
    "plain": {},
    "as default": {"ranks": {"attention_output": 3}},
    "estimators everywhere": {"ranks": EVERYWHERE},
    "heads across words": {"heads": 3, "head_dim": 20, "ffn": 70},
    "one word a head": {"heads": 2, "head_dim": 64, "ffn": 256},
    "heads of two words": {"heads": 1, "head_dim": 96, "ffn": 100},
    "two bits": {"bits": 2},
    "four bits": {"bits": 4, "key_value_bits": 2},
    "eight bits": {"bits": 8, "key_value_bits": 8, "ranks": EVERYWHERE},
    "Bi-Attention": {"boolean": True},
    "Bi-Attention with estimators": {"boolean": True, "key_value_bits": 2, "ranks": EVERYWHERE},
    "relu": {"activation": "relu"},
    "silu in floating point": {"activation": "silu", "ranks": EVERYWHERE},
    "tanh gelu": {"activation": "gelu_new", "ranks": EVERYWHERE},
    "folded though unknown": {"activation": "quick_gelu"},
}


@pytest.mark.parametrize("path", COMPILED)
@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 5), (3, 64), (2, 130)])
def test_a_layer_agrees_with_the_reference(random_layer, path, options, batch, length):
    layer = random_layer(**options)
    program = compile_layer(layer, path)
    generator = torch.Generator().manual_seed(batch * length)
    x = torch.randn(batch, length, layer.linears["query"].in_features, generator=generator)
    mask = torch.rand(batch, length, generator=generator) > 0.3
    for seen in (None, mask):
        expected = reference.encoder_layer(x, seen, layer)
        torch.testing.assert_close(encoder_layer(x, seen, program), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("path", COMPILED)
@pytest.mark.parametrize("options", [{}, {"ranks": EVERYWHERE}, {"bits": 4}])
def test_any_number_of_threads_gives_the_same_bits(random_layer, path, options):
    program = compile_layer(random_layer(**options), path)
    x = torch.randn(3, 37, 16)
    before = torch.get_num_threads()
    outputs = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            outputs.append(encoder_layer(x, None, program))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("path", COMPILED)
@pytest.mark.parametrize("options", [{}, {"ranks": EVERYWHERE}, {"bits": 4}])
def test_what_lies_in_padding_changes_nothing(random_layer, path, options):
    program = compile_layer(random_layer(**options), path)
    x = torch.randn(2, 70, 16)
    mask = torch.arange(70) < torch.tensor([[70], [41]])
    other = x.masked_fill(~mask[..., None], 1e4)
    first, second = (encoder_layer(given, mask, program) for given in (x, other))
    assert torch.equal(first[mask], second[mask])
    alone = encoder_layer(x[1:, :41].contiguous(), None, program)
    assert torch.equal(first[1, :41], alone[0])


def test_a_sequence_of_padding_alone_is_finite(random_layer):
    for path in COMPILED:
        program = compile_layer(random_layer(), path)
        mask = torch.zeros(1, 5, dtype=torch.bool)
        assert encoder_layer(torch.randn(1, 5, 16), mask, program).isfinite().all()


def test_an_unknown_activation_in_floating_point_is_left_to_the_reference(random_layer):
    layer = random_layer(activation="quick_gelu", ranks={"ffn_down": 1})
    assert compile_layer(layer, COMPILED[0]) is None


def test_operators_are_visible_to_export_and_compile(random_layer):
    program = compile_layer(random_layer(), COMPILED[0])

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("program", program)

        def forward(self, x):
            return encoder_layer(x, None, self.program) + 1

    x = torch.randn(2, 9, 16)
    exported = torch.export.export(Model(), (x,)).module()
    assert torch.equal(exported(x), Model()(x))
    inputs = (packed_rows(x[0]), prepare_weights(pack_signs(x[1]), 16, COMPILED[0]))
    torch.library.opcheck(
        torch.ops.bipft_compress.binary_product.default, (*inputs, 16, 9, COMPILED[0])
    )
    torch.library.opcheck(torch.ops.bipft_compress.encoder_layer.default, (x, None, program))


def test_memory_is_that_of_the_bits(random_layer):
    """In a BERT-base geometry all else (shifts, scales, intervals, norms) is a seventh."""
    layer = random_layer(12, 64, 3072, ranks={"attention_output": 3})
    bits = sum(linear.bits.nbytes for linear in layer.linears.values())
    assert bits == 12 * 768**2 // 8
    for path in COMPILED:
        assert compile_layer(layer, path).nbytes < bits * 8 / 7


def test_a_damaged_program_is_refused(random_layer):
    program = compile_layer(random_layer(), COMPILED[0])
    x = torch.randn(1, 3, 16)
    changed = program.clone()
    changed[0] ^= 1
    for wrong in (program[:-64].clone(), changed, torch.zeros(8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="compiled layer"):
            encoder_layer(x, None, wrong)
    with pytest.raises(ValueError, match="width"):
        encoder_layer(torch.randn(1, 3, 15), None, program)
    with pytest.raises(ValueError, match="mask"):
        encoder_layer(x, torch.ones(1, 4, dtype=torch.bool), program)


def test_the_environment_forces_a_path(monkeypatch):
    monkeypatch.setenv(native.PATH_VARIABLE, "portable")
    assert native.chosen_path() == "portable"
    monkeypatch.setenv(native.PATH_VARIABLE, "abacus")
    with pytest.raises(UserError, match="abacus is no path of this machine: choose one of"):
        native.chosen_path()


@pytest.mark.parametrize("path", COMPILED)
def test_no_product_is_faster_than_the_registers(path):
    """By a wide margin, for machines are shared; a loop the compiler emptied is far beyond it."""
    rate = max(native.register_rate(path) for _ in range(3))
    assert 0.1 < rate < 100_000
    assert native.register_rate(path, 2) > 0
