"""DeBERTa: contents are scored against positions too, by projections of one table of distances.

These projections read no text: they are the same for every input. So each block keeps their
results, keys and queries of positions, and the table itself is no longer needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bipft_compress.errors import UnsupportedModelError
from bipft_compress.families.family import Family, attention_spec, feed_forward_spec
from bipft_compress.nn.block import Block
from bipft_compress.spec import BlockSpec, RelativeSpec

_Linears = tuple[nn.Linear, nn.Linear, nn.Linear]


def _read(layer: Any, base: Any, linears: _Linears, tables: dict[str, Any], terms: int) -> Block:
    """A block of one layer.

    Args:
        layer: of transformers' model.
        base: the base model.
        linears: of queries, keys and values.
        tables: ``position_key`` and ``position_query`` to the linears that make them, where there
            are disentangled positions.
        terms: of scores, as their scale counts them.
    """
    config, encoder = base.config, base.encoder
    output = layer.attention.output
    relative, position_tables = None, {}
    if tables:
        distances = encoder.get_rel_embedding().detach()
        span, buckets = len(distances) // 2, getattr(config, "position_buckets", -1)
        relative = RelativeSpec(
            span,
            max(buckets, 0),
            encoder.max_relative_positions if buckets > 0 else 0,
            keys="position_key" in tables,
            queries="position_query" in tables,
        )
        heads = config.num_attention_heads
        with torch.no_grad():
            for name, linear in tables.items():
                table = linear(distances).unflatten(-1, (heads, -1)).transpose(0, 1)
                position_tables[f"attention.core.{name}"] = table.contiguous()
    head_dim = linears[0].out_features // config.num_attention_heads
    attention = attention_spec(
        *linears,
        output.dense,
        config.num_attention_heads,
        output.LayerNorm,
        relative=relative,
        score_scale=(head_dim * terms) ** -0.5,
    )
    up, down = layer.intermediate.dense, layer.output.dense
    feed_forward = feed_forward_spec(up, down, config.hidden_act, layer.output.LayerNorm)
    return Block.build(
        BlockSpec(attention.width, attention, (feed_forward,)),
        {
            "attention.query": linears[0],
            "attention.key": linears[1],
            "attention.value": linears[2],
            "attention.output": output.dense,
            "attention.norm": output.LayerNorm,
            "feed_forward.0.up": up,
            "feed_forward.0.down": down,
            "feed_forward.0.norm": layer.output.LayerNorm,
            **position_tables,
        },
    )


def read_v2(layer: Any, base: Any) -> Block:
    """A block of one layer of DeBERTa-v2 or -v3."""
    own = layer.attention.self
    linears = own.query_proj, own.key_proj, own.value_proj
    names = {
        "c2p": ("position_key", "key_proj", "pos_key_proj"),
        "p2c": ("position_query", "query_proj", "pos_query_proj"),
    }
    kinds = [kind for kind in names if kind in own.pos_att_type]
    tables = {}
    if own.relative_attention:
        for table, shared, apart in map(names.__getitem__, kinds):
            tables[table] = getattr(own, shared if own.share_att_key else apart)
    return _read(layer, base, linears, tables, 1 + len(kinds))


def read_v1(layer: Any, base: Any) -> Block:
    """A block of one layer of DeBERTa, whose projections are fused head by head."""
    own = layer.attention.self
    if own.talking_head:
        raise UnsupportedModelError(
            "This DeBERTa has talking heads (talking_head in its config.json), which no block has."
        )
    heads, width = own.num_attention_heads, own.in_proj.in_features
    fused = own.in_proj.weight.detach().view(heads, 3, -1, width)
    linears = []
    for part, bias in enumerate((own.q_bias, None, own.v_bias)):
        weight = fused[:, part].reshape(-1, width)
        linear = nn.Linear(width, len(weight), bias=bias is not None, device="meta")
        linear.weight = nn.Parameter(weight)
        if bias is not None:
            linear.bias = bias
        linears.append(linear)
    tables = {}
    if own.relative_attention:
        names = {"c2p": ("position_key", "pos_proj"), "p2c": ("position_query", "pos_q_proj")}
        tables = {
            table: getattr(own, name)
            for kind, (table, name) in names.items()
            if kind in own.pos_att_type
        }
    # Kinds that transformers does not compute count in its scale all the same.
    terms = 1 + len(own.pos_att_type)
    return _read(layer, base, (linears[0], linears[1], linears[2]), tables, terms)


def forward(self: Any, hidden_states: Tensor, attention_mask: Tensor, **_: Any) -> Any:
    """The layer's ``forward``: masks are products of two tokens' marks, not boolean."""
    return self.block(hidden_states, mask=attention_mask.bool()), None


def forward_v2(self: Any, hidden_states: Tensor, attention_mask: Tensor, **_: Any) -> Any:
    """As `forward`; in the first layer a convolution may follow."""
    mask = attention_mask.bool()
    hidden = self.block(hidden_states, mask=mask)
    if hasattr(self, "convolution"):
        real = mask.diagonal(dim1=-2, dim2=-1).squeeze(1)
        hidden = self.convolution(hidden_states, hidden, real.long())
    return hidden, None


def finish(base: Any) -> None:
    """The table of distances is not needed any more, nor what normalises it."""
    encoder = base.encoder
    if encoder.relative_attention:
        encoder.relative_attention = False
        del encoder.rel_embeddings
        if hasattr(encoder, "LayerNorm"):
            del encoder.LayerNorm
    # Part of the first layer's output, so that layers follow each other without a gap.
    if getattr(encoder, "conv", None) is not None:
        encoder.layer[0].convolution = encoder.conv
        encoder.conv = None


FAMILIES = {
    "deberta": Family("DebertaLayer", read_v1, forward, finish=finish),
    "deberta-v2": Family(
        "DebertaV2Layer",
        read_v2,
        forward_v2,
        keep=("convolution",),
        finish=finish,
        note="the convolution of the largest models stays in full precision",
    ),
}
