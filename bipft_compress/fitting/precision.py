"""From one precision of activations to another: a trained student as the start of the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bipft_compress.families import Encoder, get_module
from bipft_compress.nn import BinaryAttention, BinaryLinear
from bipft_compress.recipe import Activations

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NORMAL_HALF_STEP = {1: 0.7979, 2: 0.4978, 4: 0.1676, 8: 0.0154}
"""Bits to what a code of 1 is in the best uniform quantizer of a standard normal (Max 1960).
"""


@torch.no_grad()
def change_precision(model: PreTrainedModel, encoder: Encoder, activations: Activations) -> None:
    """Give every binary module of `model` the bits of `activations`, in place.

    Weights stay. The values that codes stand for change by the ratio of the best steps for a
    normal distribution at the two precisions (Max 1960); the largest probability stays.

    Args:
        model: a binary model.
        encoder: its parts.
        activations: the new bits; nothing else of it is read.
    """
    for path, _ in encoder.linears():
        linear = get_module(model, path)
        assert isinstance(linear, BinaryLinear)
        linear.activation_scale.mul_(_ratio(linear.bits, activations.bits))
        linear.bits = activations.bits
    for layer in encoder.layers:
        attention = get_module(model, layer.attention)
        assert isinstance(attention, BinaryAttention)
        queries = _ratio(attention.bits, activations.bits)
        keys = _ratio(attention.key_value_bits, activations.key_value_bits)
        attention.query_clip.mul_(queries)
        attention.key_clip.mul_(keys)
        attention.value_clip.mul_(keys)
        # These multiply codes, whose unit has changed.
        attention.score_scale.mul_(queries * keys)
        attention.value_scale.mul_(keys)
        if attention.position_key_scale is not None:
            attention.position_key_scale.mul_(queries)
        if attention.position_query_scale is not None:
            attention.position_query_scale.mul_(keys)
        largest, new = 2**attention.bits - 1, 2**activations.bits - 1
        attention.probability_scale.mul_(largest / new)
        attention.bits = activations.bits
        attention.key_value_bits = activations.key_value_bits


def _ratio(bits: int, new: int) -> float:
    return NORMAL_HALF_STEP[new] / NORMAL_HALF_STEP[bits]
