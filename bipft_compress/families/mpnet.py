"""MPNet: BERT's layer with a learned bias for each distance, added to the scores of every layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bipft_compress.families.family import Family, attention_spec, feed_forward_spec
from bipft_compress.nn.block import Block
from bipft_compress.spec import BlockSpec


def read(layer: Any, base: Any) -> Block:
    """A block of one layer."""
    own, norm = layer.attention.attn, layer.attention.LayerNorm
    up, down = layer.intermediate.dense, layer.output.dense
    config = base.config
    heads = config.num_attention_heads
    attention = attention_spec(own.q, own.k, own.v, own.o, heads, norm, position_bias=True)
    feed_forward = feed_forward_spec(up, down, config.hidden_act, layer.output.LayerNorm)
    return Block.build(
        BlockSpec(attention.width, attention, (feed_forward,)),
        {
            "attention.query": own.q,
            "attention.key": own.k,
            "attention.value": own.v,
            "attention.output": own.o,
            "attention.norm": norm,
            "feed_forward.0.up": up,
            "feed_forward.0.down": down,
            "feed_forward.0.norm": layer.output.LayerNorm,
        },
    )


def forward(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor]:
    """The layer's ``forward``: the bias depends on the distance alone."""
    bias = None
    if position_bias is not None:
        # Of keys before the first query's, and of those at and behind it.
        before, behind = position_bias[0, :, 1:, 0].flip(-1), position_bias[0, :, 0]
        bias = torch.cat([before, behind], -1)
    return (self.block(hidden_states, mask=attention_mask, bias=bias),)


FAMILIES = {"mpnet": Family("MPNetLayer", read, forward, positions_after_padding=True)}
