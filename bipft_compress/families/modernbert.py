"""ModernBERT: norms first, fused projections, a gate, rotary positions, and windows."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bipft_compress.families.family import Family, attention_spec, feed_forward_spec
from bipft_compress.families.rotary import forward, rotary_spec
from bipft_compress.nn.block import Block
from bipft_compress.spec import BlockSpec


def split(linear: nn.Linear, parts: int) -> list[nn.Linear]:
    """The linear layers that a fused one consists of; they share its parameters."""
    rows = linear.out_features // parts
    linears = []
    for part in range(parts):
        own = slice(part * rows, (part + 1) * rows)
        one = nn.Linear(linear.in_features, rows, bias=linear.bias is not None, device="meta")
        one.weight = nn.Parameter(linear.weight.detach()[own])
        if linear.bias is not None:
            one.bias = nn.Parameter(linear.bias.detach()[own])
        linears.append(one)
    return linears


def read(layer: Any, base: Any) -> Block:
    """A block of one layer."""
    config = base.config
    query, key, value = split(layer.attn.Wqkv, 3)
    # The first half passes the activation.
    gate, up = split(layer.mlp.Wi, 2)
    first = None if isinstance(layer.attn_norm, nn.Identity) else layer.attn_norm
    kind = layer.attention_type
    attention = attention_spec(
        query,
        key,
        value,
        layer.attn.Wo,
        config.num_attention_heads,
        first,
        norm_first=True,
        rotary=rotary_spec(config.rope_parameters[kind]),
        window=config.sliding_window if kind == "sliding_attention" else None,
    )
    feed_forward = feed_forward_spec(
        up, layer.mlp.Wo, config.hidden_activation, layer.mlp_norm, gated=True, norm_first=True
    )
    parts: dict[str, nn.Module | Tensor] = {
        "attention.query": query,
        "attention.key": key,
        "attention.value": value,
        "attention.output": layer.attn.Wo,
        "feed_forward.0.up": up,
        "feed_forward.0.gate": gate,
        "feed_forward.0.down": layer.mlp.Wo,
        "feed_forward.0.norm": layer.mlp_norm,
    }
    if first is not None:
        parts["attention.norm"] = first
    return Block.build(BlockSpec(attention.width, attention, (feed_forward,)), parts)


FAMILIES = {"modernbert": Family("ModernBertEncoderLayer", read, forward)}
