"""Puts `BinaryAttention` into transformers' models through their attention interface."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from bipft_compress.families.encoder import Encoder, get_module
from bipft_compress.nn.attention import BinaryAttention

IMPLEMENTATION = "bipft_binary"
"""Name of the attention function; transformers does not save it in a model's configuration."""

ATTRIBUTE = "binary_attention"
"""Where the attention module keeps its `BinaryAttention`."""


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **_: Any,
) -> tuple[Tensor, None]:
    attention = getattr(module, ATTRIBUTE)
    return attention(query, key, value, attention_mask).transpose(1, 2), None


# Without the mask under the same name, transformers passes none and padding would be attended to.
AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


def attach(
    model: PreTrainedModel, encoder: Encoder, layer: int, attention: BinaryAttention
) -> None:
    """Give encoder layer number `layer` of `model` its binary attention."""
    setattr(get_module(model, encoder.layers[layer].attention), ATTRIBUTE, attention)


def attached(model: PreTrainedModel, encoder: Encoder, layer: int) -> BinaryAttention:
    """The binary attention of encoder layer number `layer`."""
    attention = getattr(get_module(model, encoder.layers[layer].attention), ATTRIBUTE)
    assert isinstance(attention, BinaryAttention)
    return attention


def use_binary_attention(model: PreTrainedModel) -> None:
    """Switch `model` to the attached binary attention; every layer must have one."""
    model.set_attn_implementation(IMPLEMENTATION)
