"""Every path against the packed blocks' own arithmetic in torch."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bipft_compress.errors import UserError
from bipft_compress.nn import Block
from bipft_compress.nn.positions import relative_offsets
from bipft_compress.runtime import native, ops
from bipft_compress.runtime.ops import binary_product, encoder_block, prepare_weights, row_bytes
from bipft_compress.runtime.program import compile_block
from bipft_compress.spec import NormSpec, RelativeSpec, RotarySpec
from bipft_compress.storage.bits import pack_signs

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


BLOCKS = {
    "plain": {},
    "as default": {"ranks": {"attention_output": 3}},
    "estimators everywhere": {"ranks": EVERYWHERE},
    "heads across words": {"heads": 3, "head_dim": 20, "inner": 70},
    "one word a head": {"heads": 2, "head_dim": 64, "inner": 256},
    "heads of two words": {"heads": 1, "head_dim": 96, "inner": 100},
    "ragged widths": {"heads": 3, "head_dim": 7, "inner": 37, "hidden": 29},
    "heads beyond the table of scores": {"heads": 1, "head_dim": 260, "inner": 40},
    "two bits": {"bits": 2},
    "four bits": {"bits": 4, "key_value_bits": 2},
    "eight bits": {"bits": 8, "key_value_bits": 8, "ranks": EVERYWHERE},
    "a learned threshold": {"elastic": True},
    "Bi-Attention": {"boolean": True},
    "Bi-Attention with estimators": {"boolean": True, "key_value_bits": 2, "ranks": EVERYWHERE},
    "relu": {"activation": "relu"},
    "silu in floating point": {"activation": "silu", "ranks": EVERYWHERE},
    "tanh gelu": {"activation": "gelu_new", "ranks": EVERYWHERE},
    "quick gelu": {"activation": "quick_gelu", "ranks": EVERYWHERE},
    "folded though unknown": {"activation": "mish"},
    "norms first": {"norm_first": True},
    "no norms": {"norm": None},
    "norms without bias": {"norm": NormSpec(0, 1e-5, bias=False), "norm_first": True},
    "root mean squares": {"norm": NormSpec(0, 1e-6, "rms", bias=False), "norm_first": True},
    "root mean squares last": {"norm": NormSpec(0, 1e-6, "rms", bias=False)},
    "gains and biases": {"norm": NormSpec(0, 0.0, "affine")},
    "a gate": {"gated": True, "activation": "silu"},
    "a gate, everything": {"gated": True, "bits": 2, "ranks": EVERYWHERE | {"ffn_gate": 2}},
    "several feed-forward networks": {"networks": 3},
    "grouped queries": {"heads": 4, "key_value_heads": 2},
    "one head of keys": {"heads": 3, "key_value_heads": 1, "bits": 2, "ranks": EVERYWHERE},
    "halves turn": {"rotary": RotarySpec()},
    "neighbours turn": {"rotary": RotarySpec("neighbours"), "ranks": EVERYWHERE},
    "values turn": {"rotary": RotarySpec("neighbours", values=True), "bits": 2},
    "a window": {"window": 3},
    "a wide window": {"window": 70, "heads": 1, "ranks": EVERYWHERE},
    "a window in floating point": {"window": 5, "bits": 4, "ranks": EVERYWHERE},
    "Bi-Attention in a window": {"window": 9, "boolean": True},
    "a bias of positions": {"position_bias": True},
    "a bias and estimated scores": {"position_bias": True, "ranks": {"scores": 2}},
    "Bi-Attention with a bias": {"position_bias": True, "boolean": True},
    "a bias in a window": {"position_bias": True, "window": 11, "bits": 2},
    "disentangled": {"relative": RelativeSpec(9)},
    "keys of positions": {"relative": RelativeSpec(8, 8, 40, queries=False), "head_dim": 70},
    "queries of positions": {"relative": RelativeSpec(200, keys=False), "heads": 3},
    "disentangled, several bits": {
        "relative": RelativeSpec(16, 16, 90), "bits": 4, "key_value_bits": 2, "head_dim": 70,
    },
    "disentangled, everything": {
        "relative": RelativeSpec(12), "key_value_bits": 8, "ranks": EVERYWHERE, "window": 20,
    },
    "disentangled Bi-Attention": {"relative": RelativeSpec(12, 8, 30), "boolean": True},
    "a bottleneck": {"narrow": 12, "networks": 2, "hidden": 40, "head_dim": 6},
    "a bottleneck of values too": {
        "narrow": 20, "narrow_values": True, "hidden": 36, "heads": 4, "head_dim": 5,
        "ranks": EVERYWHERE | {"bottleneck": 2},
    },
    "as ModernBERT": {
        "gated": True, "norm": NormSpec(0, 1e-5, bias=False), "norm_first": True,
        "rotary": RotarySpec(), "window": 8,
    },
    "as EuroBERT": {
        "gated": True, "activation": "silu", "norm": NormSpec(0, 1e-6, "rms", bias=False),
        "norm_first": True, "heads": 4, "key_value_heads": 2, "rotary": RotarySpec(),
        "hidden": 24,
    },
}  # fmt: skip
"""Every part of a description and every way in which a block is packed."""

OPTIONS = [{}, {"ranks": EVERYWHERE}, {"bits": 4}, BLOCKS["as ModernBERT"], BLOCKS["disentangled"]]


def surroundings(block: Block, length: int, seed: int = 0) -> dict:
    """A bias of positions and rotary angles as keyword arguments of a block."""
    spec, generator = block.spec.attention, torch.Generator().manual_seed(seed)
    found = {}
    if spec.position_bias:
        found["bias"] = torch.randn(spec.heads, 2 * length - 1, generator=generator)
    if spec.rotary is not None:
        pairs = 10.0 * torch.rand(length, spec.head_dim // 2, generator=generator)
        # Both numbers of a pair turn by the same angle.
        halves = spec.rotary.pairs == "halves"
        angles = torch.cat([pairs, pairs], -1) if halves else pairs.repeat_interleave(2, -1)
        found["rotary"] = (angles.cos()[None], angles.sin()[None])
    return found


def run(block: Block, program: torch.Tensor, x: torch.Tensor, mask=None, *, bias=None, rotary=None):
    """The compiled block, called as `PackedBlock` does."""
    cos, sin = (None, None) if rotary is None else (table[0] for table in rotary)
    relative = block.spec.attention.relative
    offsets = None if relative is None else relative_offsets(relative, x.shape[1]).int()
    return encoder_block(x, mask, bias, cos, sin, offsets, program)


def compiled(block: Block, path: str) -> torch.Tensor:
    program = compile_block(block, path)
    assert program is not None
    return program


@pytest.mark.parametrize("path", COMPILED)
@pytest.mark.parametrize("options", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 5), (3, 64), (2, 130)])
def test_a_block_agrees_with_the_reference(random_block, path, options, batch, length):
    block = random_block(**options)
    program = compiled(block, path)
    generator = torch.Generator().manual_seed(batch * length)
    x = torch.randn(batch, length, block.spec.hidden, generator=generator)
    mask = torch.rand(batch, length, generator=generator) > 0.3
    around = surroundings(block, length)
    for seen in (None, mask):
        expected = Block.forward(block, x, mask=seen, **around)
        found = run(block, program, x, seen, **around)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", BLOCKS.values(), ids=BLOCKS)
def test_packed_blocks_run_on_the_fastest_path(random_block, options):
    block = random_block(**options)
    x = torch.randn(2, 21, block.spec.hidden)
    around = surroundings(block, 21)
    assert block.path == COMPILED[0]
    assert torch.equal(block(x, **around), run(block, compiled(block, COMPILED[0]), x, **around))


@pytest.mark.parametrize("path", COMPILED)
@pytest.mark.parametrize("options", OPTIONS)
def test_any_number_of_threads_gives_the_same_bits(random_block, path, options):
    block = random_block(**options)
    program, x = compiled(block, path), torch.randn(3, 37, 16)
    around = surroundings(block, 37)
    before = torch.get_num_threads()
    outputs = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            outputs.append(run(block, program, x, **around))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_callers_on_several_threads_do_not_disturb_each_other(random_block):
    """Each gets what it gets alone, however many cores a call may use."""
    block = random_block(ranks=EVERYWHERE, bits=2)
    program = compiled(block, COMPILED[0])
    inputs = [torch.randn(3, 37 + n, 16) for n in range(6)]
    alone = [run(block, program, x) for x in inputs]
    before, start = torch.get_num_threads(), threading.Barrier(len(inputs))

    def call(x):
        start.wait()
        return [run(block, program, x) for _ in range(30)]

    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with ThreadPoolExecutor(len(inputs)) as pool:
                found = list(pool.map(call, inputs))
            for outputs, expected in zip(found, alone, strict=True):
                assert all(torch.equal(output, expected) for output in outputs)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("path", COMPILED)
@pytest.mark.parametrize("options", BLOCKS.values(), ids=BLOCKS)
def test_what_lies_in_padding_changes_nothing(random_block, path, options):
    block = random_block(**options)
    program, around = compiled(block, path), surroundings(block, 70)
    x = torch.randn(2, 70, block.spec.hidden)
    mask = torch.arange(70) < torch.tensor([[70], [41]])
    other = x.masked_fill(~mask[..., None], 1e4)
    first, second = (run(block, program, given, mask, **around) for given in (x, other))
    assert torch.equal(first[mask], second[mask])
    short = {name: part[:, 29:110].contiguous() for name, part in around.items() if name == "bias"}
    if "rotary" in around:
        short["rotary"] = tuple(table[:, :41] for table in around["rotary"])
    alone = run(block, program, x[1:, :41].contiguous(), **short)
    assert torch.equal(first[1, :41], alone[0])


@pytest.mark.parametrize("options", OPTIONS)
def test_a_sequence_of_padding_alone_is_finite(random_block, options):
    for path in COMPILED:
        block = random_block(**options)
        mask = torch.zeros(1, 5, dtype=torch.bool)
        found = run(
            block, compiled(block, path), torch.randn(1, 5, 16), mask, **surroundings(block, 5)
        )
        assert found.isfinite().all()


@pytest.mark.parametrize("path", COMPILED)
@pytest.mark.parametrize("options", OPTIONS)
def test_what_is_not_a_number_stays_in_its_sequence(random_block, path, options):
    block = random_block(**options)
    program, around = compiled(block, path), surroundings(block, 9)
    x = torch.randn(3, 9, 16)
    expected = run(block, program, x, **around)
    x[1] = torch.nan
    x[1, 3:] = torch.inf
    found = run(block, program, x, **around)
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
    assert not found[1].isfinite().all(-1).any()


@pytest.mark.parametrize("shape", [(0, 5, 16), (3, 0, 16)])
def test_no_tokens_are_no_output(random_block, shape):
    block = random_block()
    assert run(block, compiled(block, COMPILED[0]), torch.zeros(shape)).shape == shape


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "mish", "ranks": {"ffn_down": 1}},
        {"activation": "mish", "gated": True},
        {"ranks": {"scores": 1}, "from_hidden": True},
        {"inner": 65535, "heads": 1, "head_dim": 1},
    ],
)
def test_what_the_kernels_do_not_know_is_left_to_the_reference(random_block, options):
    block = random_block(**options)
    assert compile_block(block, COMPILED[0]) is None
    assert block.path == native.REFERENCE
    if "inner" not in options:
        x = torch.randn(2, 5, block.spec.hidden)
        assert torch.equal(block(x), Block.forward(block, x))


def test_a_tensor_that_no_kernel_reads_is_refused(random_block):
    block = random_block()
    block.attention.register_buffer("temperature", torch.ones(()))
    with pytest.raises(ValueError, match=r"no kernel reads the array attention\.temperature"):
        compile_block(block, COMPILED[0])


def test_operators_are_visible_to_export_and_compile(random_block):
    block = random_block()
    program = compiled(block, COMPILED[0])

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("program", program)

        def forward(self, x):
            return encoder_block(x, None, None, None, None, None, self.program) + 1

    x = torch.randn(2, 9, 16)
    exported = torch.export.export(Model(), (x,)).module()
    assert torch.equal(exported(x), Model()(x))
    inputs = (packed_rows(x[0]), prepare_weights(pack_signs(x[1]), 16, COMPILED[0]))
    torch.library.opcheck(
        torch.ops.bipft_compress.binary_product.default, (*inputs, 16, 9, COMPILED[0])
    )
    torch.library.opcheck(
        torch.ops.bipft_compress.encoder_block.default, (x, None, None, None, None, None, program)
    )


def test_memory_is_that_of_the_bits(random_block):
    """In a BERT-base geometry all else (shifts, scales, intervals, norms) is a seventh."""
    block = random_block(heads=12, head_dim=64, inner=3072, ranks={"attention_output": 3})
    bits = sum(linear.inputs * linear.outputs for linear in block.spec.linears()) // 8
    assert bits == 12 * 768**2 // 8
    for path in COMPILED:
        assert compiled(block, path).nbytes < bits * 8 / 7


def test_a_damaged_program_is_refused(random_block):
    program = compiled(random_block(), COMPILED[0])
    x = torch.randn(1, 3, 16)
    changed = program.clone()
    changed[0] ^= 1
    for wrong in (program[:-64].clone(), changed, torch.zeros(8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="compiled block"):
            encoder_block(x, None, None, None, None, None, wrong)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_no_number_of_a_program_is_believed(random_block, data):
    """Widths, counts and places in the buffer: whatever they say, nothing else is read."""
    program = compiled(random_block(relative=RelativeSpec(4), ranks=EVERYWHERE), COMPILED[0])
    words = program.view(torch.int64)
    # The magic and the size come first; the parts of a block lie in the first and last kilobytes.
    place = data.draw(st.integers(2, 350) | st.integers(len(words) - 150, len(words) - 1))
    words[place] = data.draw(st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 70_000))
    x = torch.randn(1, 3, 16)
    offsets = torch.arange(5, dtype=torch.int32)
    with contextlib.suppress(ValueError):
        encoder_block(x, None, None, None, None, offsets, program)


WRONG = {
    "half precision": ({"x": torch.zeros(1, 3, 16, dtype=torch.float16)}, TypeError, "x must be"),
    "double precision": ({"x": torch.zeros(1, 3, 16).double()}, TypeError, "x must be"),
    "another width": ({"x": torch.zeros(1, 3, 15)}, ValueError, "width"),
    "a matrix": ({"x": torch.zeros(3, 16)}, TypeError, "incompatible"),
    "a mask of numbers": ({"key_mask": torch.ones(1, 3)}, TypeError, "key_mask must be"),
    "a longer mask": ({"key_mask": torch.ones(1, 4, dtype=torch.bool)}, ValueError, "mask"),
    "a mask of pairs": ({"key_mask": torch.ones(1, 3, 3, dtype=torch.bool)}, TypeError, "incompat"),
    "a bias in double precision": ({"bias": torch.zeros(2, 5).double()}, TypeError, "bias must"),
    "a bias of one head": ({"bias": torch.zeros(1, 5)}, ValueError, "bias"),
    "a shorter bias": ({"bias": torch.zeros(2, 4)}, ValueError, "bias"),
    "no cosines": ({"cos": None}, ValueError, "rotary"),
    "no sines": ({"sin": None}, ValueError, "rotary"),
    "cosines of half a head": ({"cos": torch.zeros(3, 4)}, ValueError, "head_dim"),
    "shorter sines": ({"sin": torch.zeros(2, 8)}, ValueError, "head_dim"),
    "sines in half precision": ({"sin": torch.zeros(3, 8).half()}, TypeError, "sin must be"),
    "no offsets": ({"offsets": None}, ValueError, "offsets"),
    "long offsets": ({"offsets": torch.zeros(5).long()}, TypeError, "offsets must be"),
    "fewer offsets": ({"offsets": torch.zeros(4, dtype=torch.int32)}, ValueError, "offsets"),
    "an offset below": ({"offsets": torch.full((5,), -1, dtype=torch.int32)}, IndexError, "offset"),
    "an offset beyond": ({"offsets": torch.full((5,), 8, dtype=torch.int32)}, IndexError, "offset"),
    "a program of numbers": ({"program": torch.zeros(64)}, TypeError, "program must be"),
}


@pytest.mark.parametrize(("change", "error", "match"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_refused(random_block, change, error, match):
    block = random_block(rotary=RotarySpec(), relative=RelativeSpec(4), position_bias=True)
    right = {
        "x": torch.zeros(1, 3, 16),
        "key_mask": torch.ones(1, 3, dtype=torch.bool),
        "bias": torch.zeros(2, 5),
        "cos": torch.ones(3, 8),
        "sin": torch.zeros(3, 8),
        "offsets": torch.tensor([0, 3, 7, 1, 2], dtype=torch.int32),
        "program": compiled(block, COMPILED[0]),
    }
    encoder_block(**right)
    with pytest.raises(error, match=match):
        encoder_block(**(right | change))


def test_sequences_beyond_the_counters_are_refused(random_block):
    block = random_block(heads=1, head_dim=1, inner=1)
    with pytest.raises(ValueError, match="65534 tokens"):
        run(block, compiled(block, COMPILED[0]), torch.zeros(1, 65535, 1))


@pytest.mark.slow
def test_the_longest_sequence_does_not_overflow(random_block):
    """Sums over all tokens, in a window for speed."""
    block = random_block(heads=1, head_dim=2, inner=3, window=1)
    program = compiled(block, COMPILED[0])
    x = torch.randn(1, 65534, 2)
    found = run(block, program, x)
    near = run(block, program, x[:, -100:].contiguous())
    assert torch.equal(found[:, -99:], near[:, -99:])


def test_the_other_operators_refuse_wrong_types():
    path, bits = COMPILED[0], torch.zeros(3, 8, dtype=torch.uint8)
    weights = prepare_weights(bits, 64, path)
    x, ids = torch.zeros(2, 8), torch.zeros(2, dtype=torch.int64)
    steps, bias = torch.ones(3, 1, dtype=torch.float16), torch.zeros(3)
    calls = {
        "activations must": lambda: binary_product(bits.char(), weights, 64, 3, path),
        "weights must": lambda: binary_product(bits, weights.char(), 64, 3, path),
        "x must": lambda: ops.linear(x.double(), bits, steps, None, 8, path),
        "bias must": lambda: ops.linear(x, bits, steps, bias.half(), 8, path),
        "ids must": lambda: ops.rows(ids.float(), bits, steps, 8, 8, path),
        "packed must": lambda: ops.rows(ids, bits.char(), steps, 8, 8, path),
        "steps must": lambda: ops.rows(ids, bits, steps.double(), 8, 8, path),
    }
    for match, call in calls.items():
        with pytest.raises(TypeError, match=match):
            call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_no_tensor_of_another_type_is_read(random_block, dtype):
    """Each tensor of each operator in turn: refused, never read or written as it is not."""
    path, bits = COMPILED[0], torch.zeros(3, 8, dtype=torch.uint8)
    steps, ids = torch.ones(3, 1, dtype=torch.float32), torch.zeros(2, dtype=torch.int64)
    books, book_steps = torch.zeros(256, 8, dtype=torch.uint8), torch.ones(256, 1)
    flags, before = torch.full((1,), 7, dtype=torch.uint8), torch.zeros(1, dtype=torch.int32)
    codes = torch.zeros(0, 1, dtype=torch.uint8)
    block = compiled(random_block(), path)
    called = torch.ops.bipft_compress
    x, y = torch.zeros(2, 8), (path,)
    calls = {
        called.binary_product: [bits, prepare_weights(bits, 64, path), 64, 3, *y],
        called.encoder_block: [torch.zeros(1, 3, 16), *[None] * 5, block],
        called.rows: [ids, bits, steps, 8, 8, *y],
        called.words: [ids, [bits, steps], [books, book_steps], [codes, flags, before],
                       [8, 8, 8, 8], *y],
        called.linear: [x, bits, steps, torch.zeros(3), 8, *y],
    }  # fmt: skip
    for operator, right in calls.items():
        operator(*right)
        for place, value in enumerate(right):
            parts = value if isinstance(value, list) else [value]
            for part, tensor in enumerate(parts):
                fine = tensor is steps or tensor is book_steps  # fp16 or fp32
                if not isinstance(tensor, torch.Tensor) or (fine and dtype == torch.float16):
                    continue
                other = [*parts[:part], tensor.to(dtype), *parts[part + 1 :]]
                wrong = [*right]
                wrong[place] = other if isinstance(value, list) else other[0]
                with pytest.raises((TypeError, ValueError, RuntimeError)):
                    operator(*wrong)


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
