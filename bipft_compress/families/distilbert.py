"""DistilBERT: BERT's layer under other names."""

from __future__ import annotations

from typing import Any

from bipft_compress.families.family import Family, attention_spec, feed_forward_spec
from bipft_compress.nn.block import Block
from bipft_compress.spec import BlockSpec


def read(layer: Any, base: Any) -> Block:
    """A block of one layer."""
    own, ffn = layer.attention, layer.ffn
    attention = attention_spec(
        own.q_lin, own.k_lin, own.v_lin, own.out_lin, base.config.n_heads, layer.sa_layer_norm
    )
    feed_forward = feed_forward_spec(
        ffn.lin1, ffn.lin2, base.config.activation, layer.output_layer_norm
    )
    return Block.build(
        BlockSpec(attention.width, attention, (feed_forward,)),
        {
            "attention.query": own.q_lin,
            "attention.key": own.k_lin,
            "attention.value": own.v_lin,
            "attention.output": own.out_lin,
            "attention.norm": layer.sa_layer_norm,
            "feed_forward.0.up": ffn.lin1,
            "feed_forward.0.down": ffn.lin2,
            "feed_forward.0.norm": layer.output_layer_norm,
        },
    )


FAMILIES = {"distilbert": Family("TransformerBlock", read)}
