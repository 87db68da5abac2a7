"""Puts `BinaryAttention` into transformers' models through their attention interface."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

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
    hidden = _hidden_states.pop(module, None)
    return attention(query, key, value, attention_mask, hidden).transpose(1, 2), None


_hidden_states: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()
"""What an attention module was called with, until its `_attention` takes it."""


def _keep_hidden_states(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    _hidden_states[module] = args[0] if args else kwargs["hidden_states"]


# Without the mask under the same name, transformers passes none and padding would be attended to.
AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


def attach(
    model: PreTrainedModel, encoder: Encoder, layer: int, attention: BinaryAttention
) -> None:
    """Give encoder layer number `layer` of `model` its binary attention."""
    module = get_module(model, encoder.layers[layer].attention)
    setattr(module, ATTRIBUTE, attention)
    if attention.shared_estimator is not None:
        # transformers' interface hands on queries, keys and values alone.
        module.register_forward_pre_hook(_keep_hidden_states, with_kwargs=True)


def attached(model: PreTrainedModel, encoder: Encoder, layer: int) -> BinaryAttention:
    """The binary attention of encoder layer number `layer`."""
    attention = getattr(get_module(model, encoder.layers[layer].attention), ATTRIBUTE)
    assert isinstance(attention, BinaryAttention)
    return attention


def use_binary_attention(model: PreTrainedModel) -> None:
    """Switch `model` to the attached binary attention; every layer must have one."""
    model.set_attn_implementation(IMPLEMENTATION)
