"""BERT's layer and its copies: six linears, and norms after the sums or before the inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from bipft_compress.families.family import (
    Family,
    attention_spec,
    feed_forward_spec,
    forward_tuple,
)
from bipft_compress.nn.block import Block
from bipft_compress.spec import BlockSpec


def read(
    layer: Any,
    base: Any,
    *,
    attention_norm: str = "attention.output.LayerNorm",
    output_norm: str = "output.LayerNorm",
    norm_first: bool = False,
    norm_last: bool = True,
    **more: Any,
) -> Block:
    """A block of one layer.

    Args:
        layer: of transformers' model.
        base: the base model.
        attention_norm: path of the attention's norm below the layer.
        output_norm: path of the feed-forward network's norm.
        norm_first: norms stand before the inputs.
        norm_last: whether the feed-forward network's norm is part of the block.
        more: what differs in the attention, see `AttentionSpec`.
    """
    own, output = layer.attention.self, layer.attention.output.dense
    up, down = layer.intermediate.dense, layer.output.dense
    first = layer.get_submodule(attention_norm)
    last = layer.get_submodule(output_norm) if norm_last else None
    config = base.config
    attention = attention_spec(
        own.query,
        own.key,
        own.value,
        output,
        config.num_attention_heads,
        first,
        norm_first=norm_first,
        **more,
    )
    feed_forward = feed_forward_spec(up, down, config.hidden_act, last, norm_first=norm_first)
    parts: dict[str, nn.Module | Tensor] = {
        "attention.query": own.query,
        "attention.key": own.key,
        "attention.value": own.value,
        "attention.output": output,
        "attention.norm": first,
        "feed_forward.0.up": up,
        "feed_forward.0.down": down,
    }
    if last is not None:
        parts["feed_forward.0.norm"] = last
    return Block.build(BlockSpec(attention.width, attention, (feed_forward,)), parts)


def _before(attention_norm: str, output_norm: str) -> Callable[[Any, Any], Block]:
    return partial(read, attention_norm=attention_norm, output_norm=output_norm, norm_first=True)


FAMILIES = {
    "bert": Family("BertLayer", read),
    "roberta": Family("RobertaLayer", read, positions_after_padding=True),
    "xlm-roberta": Family("XLMRobertaLayer", read, positions_after_padding=True),
    "camembert": Family("CamembertLayer", read, positions_after_padding=True),
    "electra": Family("ElectraLayer", read),
    "ernie": Family("ErnieLayer", read),
    "data2vec-text": Family("Data2VecTextLayer", read, positions_after_padding=True),
    "layoutlm": Family("LayoutLMLayer", read, note="boxes are all zero"),
    "splinter": Family("SplinterLayer", read),
    "rembert": Family("RemBertLayer", read, forward_tuple),
    "roberta-prelayernorm": Family(
        "RobertaPreLayerNormLayer",
        _before("attention.LayerNorm", "intermediate.LayerNorm"),
        positions_after_padding=True,
    ),
    "xlm-roberta-xl": Family(
        "XLMRobertaXLLayer",
        _before("attention.self_attn_layer_norm", "LayerNorm"),
        positions_after_padding=True,
    ),
    "megatron-bert": Family("MegatronBertLayer", _before("attention.ln", "ln"), forward_tuple),
}
