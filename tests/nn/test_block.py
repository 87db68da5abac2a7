"""A block is its formula, and is built from the parts that its description names, or not at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bipft_compress.nn import Affine, Block
from bipft_compress.nn.norm import make_norm
from bipft_compress.nn.positions import rotate
from bipft_compress.spec import (
    AttentionSpec,
    BlockSpec,
    BottleneckSpec,
    FeedForwardSpec,
    NormSpec,
    RelativeSpec,
    RotarySpec,
)

BATCH, LENGTH, WIDTH, HEADS, DIM, INNER = 2, 5, 10, 2, 6, 13
NORM = NormSpec(WIDTH, 1e-5)

ATTENTION = AttentionSpec(WIDTH, WIDTH, HEADS, HEADS, DIM, WIDTH, DIM**-0.5, norm=NORM)
FEED_FORWARD = FeedForwardSpec(WIDTH, INNER, "gelu", norm=NORM)
PLAIN = BlockSpec(WIDTH, ATTENTION, (FEED_FORWARD,))

RMS = NormSpec(WIDTH, 1e-5, "rms", bias=False)
BEFORE = BlockSpec(
    WIDTH,
    replace(
        ATTENTION,
        key_value_heads=1,
        bias=(False, True, False, True),
        norm=RMS,
        norm_first=True,
        rotary=RotarySpec("neighbours", values=True),
    ),
    (replace(FEED_FORWARD, gated=True, bias=(True, False), norm=RMS, norm_first=True),),
)

WIDE, AFFINE = 16, NormSpec(WIDTH, 0.0, "affine")
NARROW = BlockSpec(
    WIDE,
    replace(ATTENTION, value_width=WIDE),
    (FEED_FORWARD, replace(FEED_FORWARD, activation="relu")),
    BottleneckSpec(AFFINE, NormSpec(WIDE, 1e-5)),
)
TABLES = BlockSpec(WIDTH, replace(ATTENTION, relative=RelativeSpec(3)), (FEED_FORWARD,))
SPECS = {"plain": PLAIN, "norms first": BEFORE, "bottleneck": NARROW, "tables": TABLES}


def _parts(spec: BlockSpec) -> dict[str, nn.Module | torch.Tensor]:
    """Random parts of the right shapes."""
    torch.manual_seed(0)
    parts: dict[str, nn.Module | torch.Tensor] = {
        linear.name: nn.Linear(linear.inputs, linear.outputs, bias=linear.bias)
        for linear in spec.linears()
    }
    parts |= {path: make_norm(norm) for path, norm in spec.norms().items()}
    if spec.attention.relative is not None:
        for name in ("position_key", "position_query"):
            parts[f"attention.core.{name}"] = torch.randn(
                HEADS, 2 * spec.attention.relative.span, DIM
            )
    with torch.no_grad():
        for part in parts.values():
            for weight in part.parameters() if isinstance(part, nn.Module) else ():
                weight.add_(0.2 * torch.randn(weight.shape))
    return parts


def _heads(x: torch.Tensor, heads: int = HEADS) -> torch.Tensor:
    return x.unflatten(-1, (heads, DIM)).transpose(1, 2)


def _context(query, key, value, **options) -> torch.Tensor:
    """torch's own attention."""
    context = F.scaled_dot_product_attention(query, key, value, scale=DIM**-0.5, **options)
    return context.transpose(1, 2).flatten(2)


@torch.no_grad()
def test_norms_after_the_sums():
    p = _parts(PLAIN)
    block = Block.build(PLAIN, p)
    x = torch.randn(BATCH, LENGTH, WIDTH)
    query, key, value = (_heads(p[f"attention.{name}"](x)) for name in ("query", "key", "value"))
    y = p["attention.norm"](x + p["attention.output"](_context(query, key, value)))
    inner = F.gelu(p["feed_forward.0.up"](y))
    expected = p["feed_forward.0.norm"](y + p["feed_forward.0.down"](inner))
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_norms_before_the_inputs_with_a_gate_and_turned_grouped_heads():
    p = _parts(BEFORE)
    block = Block.build(BEFORE, p)
    x = torch.randn(BATCH, LENGTH, WIDTH)
    angles = torch.randn(1, LENGTH, DIM // 2).repeat_interleave(2, -1)
    rotary, mask = (angles.cos(), angles.sin()), torch.ones(BATCH, LENGTH, dtype=torch.bool)
    mask[1, 3:] = False
    z = p["attention.norm"](x)
    counts = {"query": HEADS, "key": 1, "value": 1}
    query, key, value = (
        rotate(_heads(p[f"attention.{name}"](z), heads), rotary, RotarySpec("neighbours"))
        for name, heads in counts.items()
    )
    context = _context(query, key, value, attn_mask=mask[:, None, None], enable_gqa=True)
    y = x + p["attention.output"](context)
    z = p["feed_forward.0.norm"](y)
    inner = F.gelu(p["feed_forward.0.gate"](z)) * p["feed_forward.0.up"](z)
    expected = y + p["feed_forward.0.down"](inner)
    got = block(x, mask=mask, rotary=rotary)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(AssertionError):
        block(x, mask=mask)  # its positions are not given


@torch.no_grad()
def test_a_narrow_block_between_bottlenecks():
    p = _parts(NARROW)
    block = Block.build(NARROW, p)
    x = torch.randn(BATCH, LENGTH, WIDE)
    y = p["bottleneck.input_norm"](p["bottleneck.input"](x))
    z = p["bottleneck.query_norm"](p["bottleneck.query"](x))
    query, key = _heads(p["attention.query"](z)), _heads(p["attention.key"](z))
    value = _heads(p["attention.value"](x))
    y = p["attention.norm"](y + p["attention.output"](_context(query, key, value)))
    for number, activation in enumerate((F.gelu, F.relu)):
        name = f"feed_forward.{number}"
        y = p[f"{name}.norm"](y + p[f"{name}.down"](activation(p[f"{name}.up"](y))))
    expected = p["bottleneck.output_norm"](p["bottleneck.output"](y) + x)
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_bias_of_positions_is_added_to_the_scores():
    spec = replace(PLAIN, attention=replace(ATTENTION, position_bias=True, norm=None))
    p = _parts(spec)
    block = Block.build(spec, p)
    x, bias = torch.randn(BATCH, LENGTH, WIDTH), torch.randn(HEADS, 2 * LENGTH - 1)
    pairs = torch.empty(HEADS, LENGTH, LENGTH)
    for q in range(LENGTH):
        for k in range(LENGTH):
            pairs[:, q, k] = bias[:, k - q + LENGTH - 1]
    query, key, value = (_heads(p[f"attention.{name}"](x)) for name in ("query", "key", "value"))
    y = x + p["attention.output"](_context(query, key, value, attn_mask=pairs))
    inner = F.gelu(p["feed_forward.0.up"](y))
    expected = p["feed_forward.0.norm"](y + p["feed_forward.0.down"](inner))
    torch.testing.assert_close(block(x, bias=bias), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_block_takes_the_parameters_themselves(spec):
    parts = _parts(spec)
    block = Block.build(spec, parts)
    own = dict(block.named_parameters())
    for path, part in parts.items():
        if isinstance(part, nn.Module):
            for name, value in part.named_parameters():
                assert own.pop(f"{path}.{name}") is value
        else:
            assert own.pop(path).data_ptr() == part.data_ptr()
    assert not own


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_names_are_those_of_the_description(spec):
    block = Block.build(spec, _parts(spec))
    for linear in spec.linears():
        own = block.get_submodule(linear.name)
        assert isinstance(own, nn.Linear)
        assert (own.in_features, own.out_features) == (linear.inputs, linear.outputs)
        assert (own.bias is not None) == linear.bias
    found = {
        name
        for name, module in block.named_modules()
        if isinstance(module, (nn.LayerNorm, nn.RMSNorm, Affine))
    }
    assert found == set(spec.norms())
    assert {n for n, m in block.named_modules() if isinstance(m, nn.Linear)} == {
        linear.name for linear in spec.linears()
    }


class TestPartsThatDoNotFit:
    """Each is named, so that a new family's mistake is found at once."""

    def test_missing(self):
        parts = _parts(PLAIN)
        del parts["attention.key"], parts["feed_forward.0.norm"]
        with pytest.raises(ValueError, match="does not fit") as error:
            Block.build(PLAIN, parts)
        names = [
            "attention.key.bias", "attention.key.weight",
            "feed_forward.0.norm.bias", "feed_forward.0.norm.weight",
        ]  # fmt: skip
        assert str(error.value).endswith(f": {', '.join(names)}")

    def test_left_over(self):
        parts = _parts(PLAIN) | {"feed_forward.0.gate": nn.Linear(WIDTH, INNER, bias=False)}
        with pytest.raises(ValueError, match=r": feed_forward\.0\.gate\.weight$"):
            Block.build(PLAIN, parts)

    def test_of_another_shape(self):
        parts = _parts(PLAIN) | {"feed_forward.0.down": nn.Linear(INNER + 1, WIDTH)}
        with pytest.raises(ValueError, match=r": feed_forward\.0\.down\.weight$"):
            Block.build(PLAIN, parts)

    def test_a_bias_that_should_not_be(self):
        spec = replace(PLAIN, attention=replace(ATTENTION, bias=(False, True, True, True)))
        with pytest.raises(ValueError, match=r": attention\.query\.bias$"):
            Block.build(spec, _parts(PLAIN))

    def test_a_table_of_another_length(self):
        parts = _parts(TABLES) | {"attention.core.position_key": torch.zeros(HEADS, 7, DIM)}
        with pytest.raises(ValueError, match=r": attention\.core\.position_key$"):
            Block.build(TABLES, parts)


def test_linears_are_replaced_by_path():
    block = Block.build(PLAIN, _parts(PLAIN))
    before = block.attention.query
    new = nn.Linear(INNER, WIDTH)
    block.set_linears({"feed_forward.0.down": new})
    assert block.feed_forward[0].down is new
    assert block.attention.query is before
