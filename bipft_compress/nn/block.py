"""An encoder block: the arithmetic of every family's layer, in full precision or on bits.

Built in full precision from its description; `structure.swap` then puts binary linears and binary
attention in the places of these. A module's name is its path in the description.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from bipft_compress.nn.attention import Attention, FullAttention
from bipft_compress.nn.norm import make_norm
from bipft_compress.nn.positions import of_pairs, rotate
from bipft_compress.spec import AttentionSpec, BlockSpec, BottleneckSpec, FeedForwardSpec

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of rotary positions: see `positions.rotate`."""


class SelfAttention(nn.Module):
    """Projections, attention, output and residual sum.

    Args:
        spec: see `AttentionSpec`.
    """

    query: nn.Module
    key: nn.Module
    value: nn.Module
    output: nn.Module
    core: Attention
    norm: nn.Module

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.core = FullAttention(spec)
        if spec.norm is not None:
            self.norm = make_norm(spec.norm)

    def forward(
        self,
        residual: Tensor,
        queries_from: Tensor,
        values_from: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
        rotary: Rotary | None,
    ) -> Tensor:
        """The residual stream after attention, (batch, length, output_width).

        Args:
            residual: the residual stream before.
            queries_from: what queries and keys are projected from.
            values_from: what values are projected from.
            mask: see `attention.read_mask`.
            bias: added to scores where the description has one: see `Block.forward`.
            rotary: see `Rotary`.
        """
        spec = self.spec
        if spec.norm is not None and spec.norm_first:
            # No bottleneck has a norm before: values are projected from what queries are.
            queries_from = values_from = self.norm(queries_from)
        query = self.query(queries_from).unflatten(-1, (spec.heads, -1)).transpose(1, 2)
        shared = spec.key_value_heads, -1
        key = self.key(queries_from).unflatten(-1, shared).transpose(1, 2)
        value = self.value(values_from).unflatten(-1, shared).transpose(1, 2)
        if spec.rotary is not None:
            assert rotary is not None
            query, key = (rotate(x, rotary, spec.rotary) for x in (query, key))
            if spec.rotary.values:
                value = rotate(value, rotary, spec.rotary)
        if bias is not None:
            bias = of_pairs(bias)
        context = self.core(query, key, value, mask, bias, queries_from)
        after: Tensor = residual + self.output(context.transpose(1, 2).flatten(2))
        return after if spec.norm is None or spec.norm_first else self.norm(after)


class FeedForward(nn.Module):
    """Two linears and the activation between them, or the gate, and the residual sum.

    Args:
        spec: see `FeedForwardSpec`.
    """

    up: nn.Module
    gate: nn.Module
    down: nn.Module
    norm: nn.Module

    def __init__(self, spec: FeedForwardSpec) -> None:
        super().__init__()
        self.spec = spec
        self.activation = ACT2FN[spec.activation]
        if spec.norm is not None:
            self.norm = make_norm(spec.norm)

    def forward(self, residual: Tensor) -> Tensor:
        """The residual stream after it, (batch, length, width)."""
        spec = self.spec
        before = spec.norm is not None and spec.norm_first
        x = self.norm(residual) if before else residual
        if spec.gated:
            inner = self.activation(self.gate(x)) * self.up(x)
        else:
            inner = self.activation(self.up(x))
        after: Tensor = residual + self.down(inner)
        return after if spec.norm is None or spec.norm_first else self.norm(after)


class Bottleneck(nn.Module):
    """The linears between the hidden states and a narrower block.

    Args:
        spec: see `BottleneckSpec`.
    """

    input: nn.Module
    query: nn.Module
    output: nn.Module

    def __init__(self, spec: BottleneckSpec) -> None:
        super().__init__()
        self.spec = spec
        self.input_norm = make_norm(spec.input_norm)
        if not spec.narrow_values:
            self.query_norm = make_norm(spec.input_norm)
        self.output_norm = make_norm(spec.output_norm)

    def narrow(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Residual stream, input of queries and keys, and input of values."""
        residual = self.input_norm(self.input(hidden))
        if self.spec.narrow_values:
            return residual, residual, residual
        return residual, self.query_norm(self.query(hidden)), hidden

    def widen(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Back to the width of the hidden states, and added to them."""
        wide: Tensor = self.output_norm(self.output(x) + hidden)
        return wide


class Block(nn.Module):
    """One encoder block. See `Block.build` for how its linears come in.

    Args:
        spec: what it is made of.
    """

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.spec = spec
        if spec.bottleneck is not None:
            self.bottleneck = Bottleneck(spec.bottleneck)
        self.attention = SelfAttention(spec.attention)
        self.feed_forward = nn.ModuleList(FeedForward(part) for part in spec.feed_forward)

    @classmethod
    def build(cls, spec: BlockSpec, parts: Mapping[str, nn.Module | Tensor]) -> Self:
        """A block in full precision that shares the parameters of another model's layer.

        Args:
            spec: what it is made of.
            parts: path below the block to the linear or norm whose parameters it takes, or to a
                parameter itself.

        Raises:
            ValueError: the parts are not those of the description, or of another shape.
        """
        with torch.device("meta"):
            block = cls(spec)
        block.set_linears(
            {
                linear.name: nn.Linear(
                    linear.inputs, linear.outputs, bias=linear.bias, device="meta"
                )
                for linear in spec.linears()
            }
        )
        given: dict[str, Tensor] = {}
        for path, part in parts.items():
            if isinstance(part, nn.Module):
                given |= {f"{path}.{name}": value for name, value in part.named_parameters()}
            else:
                given[path] = part
        parameters = dict(block.named_parameters())
        odd = parameters.keys() ^ given.keys()
        odd |= {
            name
            for name in parameters.keys() & given
            if parameters[name].shape != given[name].shape
        }
        if odd:
            raise ValueError(f"the layer does not fit its description: {', '.join(sorted(odd))}")
        for name, value in given.items():
            owner, _, attribute = name.rpartition(".")
            own = value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach())
            setattr(block.get_submodule(owner), attribute, own)
        return block

    def set_linears(self, linears: Mapping[str, nn.Module]) -> None:
        """Put linear layers into their places, by path below the block."""
        for path, linear in linears.items():
            owner, _, name = path.rpartition(".")
            setattr(self.get_submodule(owner), name, linear)

    def forward(
        self,
        hidden: Tensor,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        rotary: Rotary | None = None,
    ) -> Tensor:
        """Hidden states after this block.

        Args:
            hidden: (batch, length, hidden).
            mask: see `attention.read_mask`.
            bias: added to scores by the distance of key and query, (heads, 2 * length - 1), from
                1 - length upwards; where the description has one.
            rotary: see `Rotary`; where the description has rotary positions.
        """
        residual, queries_from, values_from = (
            (hidden, hidden, hidden)
            if self.spec.bottleneck is None
            else self.bottleneck.narrow(hidden)
        )
        x: Tensor = self.attention(residual, queries_from, values_from, mask, bias, rotary)
        for part in self.feed_forward:
            x = part(x)
        return x if self.spec.bottleneck is None else self.bottleneck.widen(x, hidden)
