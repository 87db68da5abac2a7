"""MobileBERT: a narrow block between two bottlenecks, with several feed-forward networks."""

from __future__ import annotations

from typing import Any

from torch import nn

from bipft_compress.families.family import (
    Family,
    attention_spec,
    feed_forward_spec,
    norm_spec,
)
from bipft_compress.nn.block import Block
from bipft_compress.spec import BlockSpec, BottleneckSpec


def read(layer: Any, base: Any) -> Block:
    """A block of one layer."""
    config, own, output = base.config, layer.attention.self, layer.attention.output
    attention = attention_spec(
        own.query, own.key, own.value, output.dense, config.num_attention_heads, output.LayerNorm
    )
    parts: dict[str, nn.Module] = {
        "attention.query": own.query,
        "attention.key": own.key,
        "attention.value": own.value,
        "attention.output": output.dense,
        "attention.norm": output.LayerNorm,
    }
    networks = []
    for number, part in enumerate([*getattr(layer, "ffn", []), layer]):
        up, down, norm = part.intermediate.dense, part.output.dense, part.output.LayerNorm
        networks.append(feed_forward_spec(up, down, config.hidden_act, norm))
        name = f"feed_forward.{number}"
        parts |= {f"{name}.up": up, f"{name}.down": down, f"{name}.norm": norm}
    bottleneck = None
    if config.use_bottleneck:
        narrow, wide = layer.bottleneck, layer.output.bottleneck
        bottleneck = BottleneckSpec(
            norm_spec(narrow.input.LayerNorm),
            norm_spec(wide.LayerNorm),
            narrow_values=config.use_bottleneck_attention,
        )
        parts |= {
            "bottleneck.input": narrow.input.dense,
            "bottleneck.input_norm": narrow.input.LayerNorm,
            "bottleneck.output": wide.dense,
            "bottleneck.output_norm": wide.LayerNorm,
        }
        if not config.use_bottleneck_attention:
            parts |= {
                "bottleneck.query": narrow.attention.dense,
                "bottleneck.query_norm": narrow.attention.LayerNorm,
            }
    spec = BlockSpec(config.hidden_size, attention, tuple(networks), bottleneck)
    return Block.build(spec, parts)


FAMILIES = {"mobilebert": Family("MobileBertLayer", read)}
