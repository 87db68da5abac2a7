"""ALBERT: one layer, or a few, called again and again."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from bipft_compress.families.family import Family, attention_spec, feed_forward_spec
from bipft_compress.nn.block import Block
from bipft_compress.spec import BlockSpec


def read(layer: Any, base: Any) -> Block:
    """A block of one layer."""
    own, norm, config = layer.attention, layer.full_layer_layer_norm, base.config
    attention = attention_spec(
        own.query, own.key, own.value, own.dense, config.num_attention_heads, own.LayerNorm
    )
    feed_forward = feed_forward_spec(layer.ffn, layer.ffn_output, config.hidden_act, norm)
    return Block.build(
        BlockSpec(attention.width, attention, (feed_forward,)),
        {
            "attention.query": own.query,
            "attention.key": own.key,
            "attention.value": own.value,
            "attention.output": own.dense,
            "attention.norm": own.LayerNorm,
            "feed_forward.0.up": layer.ffn,
            "feed_forward.0.down": layer.ffn_output,
            "feed_forward.0.norm": norm,
        },
    )


def calls(config: PretrainedConfig, layers: int) -> list[int]:
    """Each group of layers is called as often as its share of the depth."""
    inner, depth = config.inner_group_num, config.num_hidden_layers
    groups = [int(i / (depth / config.num_hidden_groups)) for i in range(depth)]
    return [group * inner + i for group in groups for i in range(inner)]


FAMILIES = {"albert": Family("AlbertLayer", read, calls=calls, note="a layer is stored once")}
