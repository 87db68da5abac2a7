"""Random packed blocks, and the paths they run on."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from bipft_compress.nn import BinaryAttention, BinaryLinear, Block
from bipft_compress.runtime.block import PackedBlock
from bipft_compress.runtime.modules import PackedAttention, PackedLinear
from bipft_compress.runtime.native import PATH_VARIABLE, REFERENCE, paths
from bipft_compress.spec import (
    AttentionSpec,
    BlockSpec,
    BottleneckSpec,
    DynamicScale,
    FeedForwardSpec,
    NormSpec,
)
from bipft_compress.storage.bits import pack_signs


@pytest.fixture(params=sorted({paths()[0], REFERENCE}))
def path(request, monkeypatch):
    """The fastest path of this machine, and the reference."""
    monkeypatch.setenv(PATH_VARIABLE, request.param)
    return request.param


def make_spec(
    heads: int = 2,
    head_dim: int = 8,
    inner: int = 24,
    *,
    hidden: int = 0,
    key_value_heads: int = 0,
    activation: str = "gelu",
    gated: bool = False,
    networks: int = 1,
    norm: NormSpec | None = NormSpec(0),  # noqa: B008
    norm_first: bool = False,
    narrow: int = 0,
    narrow_values: bool = False,
    **attention: Any,
) -> BlockSpec:
    """A description; plain BERT's unless said otherwise.

    Args:
        hidden: width of the hidden states; 0 for ``heads * head_dim``.
        key_value_heads: 0 for `heads`.
        networks: how many feed-forward networks.
        norm: of both halves; its width is filled in.
        narrow: width between the bottlenecks; 0 for none.
        narrow_values: see `BottleneckSpec`.
        attention: what else an `AttentionSpec` has.
    """
    hidden = hidden or heads * head_dim
    width = narrow or hidden
    of_stream = norm and dataclasses.replace(norm, width=width)
    bottleneck = narrow and BottleneckSpec(
        NormSpec(width, kind="affine"), NormSpec(hidden, kind="affine"), narrow_values
    )
    return BlockSpec(
        hidden,
        AttentionSpec(
            width=width,
            value_width=hidden if narrow and not narrow_values else width,
            heads=heads,
            key_value_heads=key_value_heads or heads,
            head_dim=head_dim,
            output_width=width,
            score_scale=head_dim**-0.5,
            norm=of_stream,
            norm_first=norm_first,
            **attention,
        ),
        (
            FeedForwardSpec(
                width, inner, activation, gated=gated, norm=of_stream, norm_first=norm_first
            ),
        )
        * networks,
        bottleneck or None,
    )


def make_block(
    spec: BlockSpec | None = None,
    *,
    bits: int = 1,
    weight_bits: int = 1,
    key_value_bits: int = 1,
    linear_bits: dict[str, tuple[int, int]] | None = None,
    dynamic_scale: DynamicScale = "none",
    ranks: dict[str, int] | None = None,
    from_hidden: bool = False,
    boolean: bool = False,
    elastic: bool = False,
    seed: int = 0,
    **description: Any,
) -> PackedBlock:
    """A packed block whose numbers have the sizes that fitted ones have.

    Args:
        spec: None for that of `make_spec` with `description`.
        linear_bits: of weights and activations by kind of linear, in place of `weight_bits` and
            `bits`, which are those of other kinds.
        dynamic_scale: of all linears.
        ranks: of estimators, by kind of linear, ``scores`` and ``context``; 0 where missing.
        from_hidden: estimators of attention are shared by the heads.
        elastic: there is a learned threshold of probabilities.
    """
    generator = torch.Generator().manual_seed(seed)
    spec, ranks = spec or make_spec(**description), ranks or {}

    def normal(tensor: Tensor, scale: float = 1.0) -> None:
        tensor.data = torch.randn(tensor.shape, generator=generator) * scale

    def positive(tensor: Tensor, scale: float = 1.0) -> None:
        tensor.data = (torch.rand(tensor.shape, generator=generator) * 0.5 + 0.2) * scale

    block = Block(spec)
    for linear in spec.linears():
        planes, of_inputs = (linear_bits or {}).get(linear.kind, (weight_bits, bits))
        module = BinaryLinear(
            linear.inputs,
            linear.outputs,
            bits=of_inputs,
            weight_bits=planes,
            dynamic_scale=dynamic_scale,
            rank=ranks.get(linear.kind, 0),
        )
        normal(module.weight)
        shape = (planes, *module.weight.shape) if planes > 1 else module.weight.shape
        signs = pack_signs(torch.randn(shape, generator=generator))
        normal(module.shift, 0.1)
        module.activation_scale.data.fill_(0.7)
        # Scales of either sign: training does not forbid them.
        normal(module.weight_scale, linear.inputs**-0.5)
        normal(module.bias, 0.2)
        if module.estimator is not None:
            normal(module.estimator.down)
            normal(module.estimator.up, 0.1)
        block.set_linears({linear.name: PackedLinear(module, signs)})
    core = BinaryAttention(
        spec.attention,
        bits=bits,
        key_value_bits=key_value_bits,
        score_rank=ranks.get("scores", 0),
        context_rank=ranks.get("context", 0),
        elastic=elastic,
        boolean=boolean,
        from_hidden=from_hidden,
    )
    for name, parameter in core.named_parameters():
        if name.endswith(("clip", "value_scale")):
            positive(parameter)
        elif name.endswith("probability_scale"):
            positive(parameter, 0.3)
        elif name.endswith("_scale"):
            positive(parameter, spec.attention.score_scale)
        else:
            normal(parameter, {"probability_shift": 0.02}.get(name, 0.1))
    tables = ("position_key", "position_query")
    signs = {
        name: pack_signs(table) for name in tables if (table := getattr(core, name)) is not None
    }
    block.attention.core = PackedAttention(core, signs)
    for path in spec.norms():
        norm: Any = block.get_submodule(path)
        positive(norm.weight)
        norm.weight.data += 0.5
        if getattr(norm, "bias", None) is not None:
            normal(norm.bias, 0.1)
    return PackedBlock(block.requires_grad_(False).eval())


@pytest.fixture(scope="session")
def random_block():
    """`make_block`: any description, the same numbers for the same arguments."""
    return make_block
