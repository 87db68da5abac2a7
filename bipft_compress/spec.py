"""An encoder block, described as data: the one place that says what a layer is made of.

A family (`families/`) writes the description of its layers; the modules that train (`nn.Block`),
the kernels' compiler (`runtime`), the closed forms (`fitting`), the counts (`counting`) and the
report read it. Nothing else knows the shape of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

KINDS = (
    "query", "key", "value", "attention_output", "ffn_up", "ffn_gate", "ffn_down", "bottleneck",
)  # fmt: skip
"""Kinds of linear layer: what a recipe gives ranks to."""


DynamicScale = Literal["none", "rms", "max"]
"""What a token's own codes are scaled with: nothing, the root mean square of its shifted
activations, or their largest magnitude."""


@dataclass(frozen=True)
class LinearSpec:
    """A linear layer of a block.

    Attributes:
        name: its path below the block, as in ``attention.query``.
        kind: one of `KINDS`.
        inputs: width of the input.
        outputs: width of the output.
        source: name of the value it reads; neighbours that read the same one share its codes.
        bias: whether the full-precision layer has one; a binary layer always does.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    source: str
    bias: bool = True


@dataclass(frozen=True)
class NormSpec:
    """A normalisation over the last dimension: ``layer`` (LayerNorm), ``rms`` (RMSNorm), or
    ``affine`` (a gain and a bias alone: MobileBERT's NoNorm, Sun et al. 2020)."""

    width: int
    eps: float = 1e-12
    kind: Literal["layer", "rms", "affine"] = "layer"
    bias: bool = True


@dataclass(frozen=True)
class RotarySpec:
    """Rotary positions (Su et al. 2021): which numbers of a head turn together.

    Attributes:
        pairs: number i with i + head_dim / 2 (``halves``), or 2 i with 2 i + 1 (``neighbours``).
        base: of the angles; None where the model's own tables are not a plain power of one.
        values: whether values turn too.
    """

    pairs: Literal["halves", "neighbours"] = "halves"
    base: float | None = 10_000.0
    values: bool = False


@dataclass(frozen=True)
class RelativeSpec:
    """Disentangled attention (DeBERTa, He et al. 2021): scores of contents with positions.

    ``score += scale * (q . position_key[i] + k . position_query[i])`` where i is the clipped,
    bucketed distance of query and key (`nn.positions.relative_index`).

    Attributes:
        span: distances (or buckets) on either side; tables have twice as many rows.
        buckets: distances beyond half of it share logarithmic buckets; 0 for none.
        farthest: distance that the last bucket stands for.
        keys: whether there are keys of positions (content to position).
        queries: whether there are queries of positions (position to content).
    """

    span: int
    buckets: int = 0
    farthest: int = 0
    keys: bool = True
    queries: bool = True


@dataclass(frozen=True)
class AttentionSpec:
    """Self-attention, from its input to the residual sum.

    Attributes:
        width: of the input of queries and keys.
        value_width: of the input of values.
        heads: number of heads.
        key_value_heads: heads of keys and values, each shared by ``heads / key_value_heads``.
        head_dim: width of a head.
        output_width: of the output, and of the residual stream.
        score_scale: what scores are multiplied with.
        bias: of the linears: of queries, keys, values and output.
        norm: of this half of the block; None for none.
        norm_first: the norm stands before the input, not after the residual sum.
        position_bias: a number for each head and distance comes from outside and is added to
            scores.
        rotary: positions turn queries and keys; None for not.
        relative: disentangled positions; None for none.
        window: keys farther than this from a query are not attended to; None for no limit.
    """

    width: int
    value_width: int
    heads: int
    key_value_heads: int
    head_dim: int
    output_width: int
    score_scale: float
    bias: tuple[bool, bool, bool, bool] = (True, True, True, True)
    norm: NormSpec | None = None
    norm_first: bool = False
    position_bias: bool = False
    rotary: RotarySpec | None = None
    relative: RelativeSpec | None = None
    window: int | None = None


@dataclass(frozen=True)
class FeedForwardSpec:
    """A feed-forward network, from its input to the residual sum.

    Attributes:
        width: of the input, the output and the residual stream.
        inner: width between the linears.
        activation: a name of transformers' ``ACT2FN``.
        gated: ``down(activation(gate x) * (up x))`` instead of ``down(activation(up x))``.
        bias: of the linears: of up (and gate) and down.
        norm: of this half of the block; None for none.
        norm_first: the norm stands before the input, not after the residual sum.
    """

    width: int
    inner: int
    activation: str
    gated: bool = False
    bias: tuple[bool, bool] = (True, True)
    norm: NormSpec | None = None
    norm_first: bool = False


@dataclass(frozen=True)
class BottleneckSpec:
    """MobileBERT's bottleneck (Sun et al. 2020): the block works at a smaller width.

    Attributes:
        input_norm: after each linear from full width to the block's.
        output_norm: after the linear back to full width and the sum with the hidden states.
        narrow_values: queries, keys and values all read the block's residual stream. If not,
            queries and keys read a narrow value of their own, and values the hidden states.
    """

    input_norm: NormSpec
    output_norm: NormSpec
    narrow_values: bool = False


@dataclass(frozen=True)
class BlockSpec:
    """An encoder block: attention, then one or more feed-forward networks.

    Attributes:
        hidden: width of the hidden states that go in and come out.
        attention: see `AttentionSpec`.
        feed_forward: one after the other; all but MobileBERT's have one.
        bottleneck: see `BottleneckSpec`; None for all others.
    """

    hidden: int
    attention: AttentionSpec
    feed_forward: tuple[FeedForwardSpec, ...]
    bottleneck: BottleneckSpec | None = None

    def linears(self) -> tuple[LinearSpec, ...]:
        """Every linear layer, in the order in which data flows."""
        return (*self._narrowing(), *self._attention(), *self._feed_forward(), *self._widening())

    def stages(self) -> list[tuple[LinearSpec, ...]]:
        """The linears again, those together that read the same value one after the other."""
        return [tuple(group) for _, group in groupby(self.linears(), lambda linear: linear.source)]

    def norms(self) -> dict[str, NormSpec]:
        """Path below the block to the description of each norm."""
        by_path: dict[str, NormSpec] = {}
        if self.bottleneck is not None:
            by_path["bottleneck.input_norm"] = self.bottleneck.input_norm
            if not self.bottleneck.narrow_values:
                by_path["bottleneck.query_norm"] = self.bottleneck.input_norm
        if self.attention.norm is not None:
            by_path["attention.norm"] = self.attention.norm
        for number, part in enumerate(self.feed_forward):
            if part.norm is not None:
                by_path[f"feed_forward.{number}.norm"] = part.norm
        if self.bottleneck is not None:
            by_path["bottleneck.output_norm"] = self.bottleneck.output_norm
        return by_path

    def _narrowing(self) -> Iterator[LinearSpec]:
        if self.bottleneck is None:
            return
        narrow = self.attention.output_width
        for name in ("input",) if self.bottleneck.narrow_values else ("input", "query"):
            yield LinearSpec(f"bottleneck.{name}", "bottleneck", self.hidden, narrow, "hidden")

    def _attention(self) -> Iterator[LinearSpec]:
        a = self.attention
        queries, keys = a.heads * a.head_dim, a.key_value_heads * a.head_dim
        apart = self.bottleneck is not None and not self.bottleneck.narrow_values
        source, value_source = "attention input", "hidden" if apart else "attention input"
        of_query, of_key, of_value, of_output = a.bias
        value = LinearSpec("attention.value", "value", a.value_width, keys, value_source, of_value)
        if apart:
            # Beside the bottleneck's linears, which read the hidden states too.
            yield value
        yield LinearSpec("attention.query", "query", a.width, queries, source, of_query)
        yield LinearSpec("attention.key", "key", a.width, keys, source, of_key)
        if not apart:
            yield value
        yield LinearSpec(
            "attention.output", "attention_output", queries, a.output_width, "context", of_output
        )

    def _feed_forward(self) -> Iterator[LinearSpec]:
        for number, f in enumerate(self.feed_forward):
            name, source = f"feed_forward.{number}", f"feed-forward input {number}"
            yield LinearSpec(f"{name}.up", "ffn_up", f.width, f.inner, source, f.bias[0])
            if f.gated:
                yield LinearSpec(f"{name}.gate", "ffn_gate", f.width, f.inner, source, f.bias[0])
            yield LinearSpec(
                f"{name}.down", "ffn_down", f.inner, f.width, f"inner {number}", f.bias[1]
            )

    def _widening(self) -> Iterator[LinearSpec]:
        if self.bottleneck is not None:
            width = self.attention.output_width
            yield LinearSpec("bottleneck.output", "bottleneck", width, self.hidden, "block output")
