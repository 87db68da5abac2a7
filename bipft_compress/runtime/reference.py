"""One packed encoder layer in readable torch: what every faster kernel must reproduce.

The signs of a layer are unpacked while it runs and dropped after it; in memory stay the bits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.activations import ACT2FN

from bipft_compress.nn.quantizers import quantize_boolean, quantize_probability, signed_codes
from bipft_compress.runtime.bits import unpack_signs
from bipft_compress.runtime.parameters import (
    LayerParameters,
    LinearParameters,
    NormParameters,
)


def encoder_layer(x: Tensor, key_mask: Tensor | None, layer: LayerParameters) -> Tensor:
    """Run one layer.

    Args:
        x: hidden states, (batch, length, hidden), fp32.
        key_mask: (batch, length), true where a token may be attended to; None for everywhere.
        layer: the packed layer.

    Returns:
        Hidden states, (batch, length, hidden).
    """
    heads = layer.attention.heads
    query, key, value = (
        linear(x, layer.linears[kind], layer.bits).unflatten(-1, (heads, -1)).transpose(1, 2)
        for kind in ("query", "key", "value")
    )
    context = attention(query, key, value, key_mask, layer, x).transpose(1, 2).flatten(2)
    attended = linear(context, layer.linears["attention_output"], layer.bits)
    x = norm(attended + x, layer.attention_norm)
    up = ACT2FN[layer.activation](linear(x, layer.linears["ffn_up"], layer.bits))
    down = linear(up, layer.linears["ffn_down"], layer.bits)
    return norm(down + x, layer.output_norm)


def linear(x: Tensor, layer: LinearParameters, bits: int) -> Tensor:
    """A binary linear layer, (..., in) to (..., out): see `nn.BinaryLinear`."""
    scale = torch.tensor(layer.activation_scale, device=x.device)
    codes = signed_codes(x - layer.shift, scale, bits)
    signs = unpack_signs(layer.bits, layer.in_features)
    y = F.linear(codes, signs) * (scale * layer.weight_scale) + layer.bias
    if layer.estimator is None:
        return y
    return y + F.linear(F.linear(x, layer.estimator.down), layer.estimator.up)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_mask: Tensor | None,
    layer: LayerParameters,
    hidden: Tensor,
) -> Tensor:
    """Context per head from q, k, v, all (batch, heads, length, head_dim): `nn.BinaryAttention`.

    `hidden`, (batch, length, hidden), is what estimators shared by the heads read.
    """
    facts, key_bits = layer.attention, layer.key_value_bits
    shared = facts.shared_estimator
    codes = _codes(query, facts.query_shift, facts.query_clip, layer.bits)
    keys = _codes(key, facts.key_shift, facts.key_clip, key_bits)
    scores = (codes @ keys.transpose(-1, -2)) * _by_head(facts.score_scale)
    if facts.score_estimator is not None:
        left, right = facts.score_estimator.left, facts.score_estimator.right
        scores = scores + (query @ left) @ (key @ right).transpose(-1, -2)
    if shared is not None and shared.queries is not None and shared.keys is not None:
        scores = scores + _products(hidden @ shared.queries, hidden @ shared.keys)
    scale = _by_head(facts.probability_scale)
    p = _probability_codes(scores, scale, key_mask, layer)
    values = _codes(value, facts.value_shift, facts.value_clip, key_bits)
    context = (p @ values) * (scale * facts.value_scale.unsqueeze(1))
    context = context + facts.context_bias.unsqueeze(1)
    if facts.context_estimator is not None:
        left, right = facts.context_estimator.left, facts.context_estimator.right
        context = context + ((p * scale) @ (value @ left)) @ right.transpose(-1, -2)
    if shared is not None and shared.value_down is not None and shared.value_up is not None:
        values = (hidden @ shared.value_down).unsqueeze(1)
        context = context + ((p * scale) @ values) @ shared.value_up
    return context


def _products(queries: Tensor, keys: Tensor) -> Tensor:
    """(batch, length, rank) twice to (batch, 1, queries, keys)."""
    return (queries @ keys.transpose(-1, -2)).unsqueeze(1)


def _probability_codes(
    scores: Tensor, scale: Tensor, key_mask: Tensor | None, layer: LayerParameters
) -> Tensor:
    never = None if key_mask is None else ~key_mask[:, None, None, :]
    if never is not None:
        scores = scores.masked_fill(never, torch.finfo(scores.dtype).min)
    if layer.attention.boolean:
        codes = quantize_boolean(scores)
    else:
        shift = _by_head(layer.attention.probability_shift)
        codes = quantize_probability(scores.softmax(-1), scale, layer.bits, shift)
    if never is None:
        return codes
    # A sequence of padding alone has a uniform softmax: no code of it may survive.
    return codes.masked_fill(never, 0.0)


def norm(x: Tensor, layer: NormParameters) -> Tensor:
    """LayerNorm over the last dimension."""
    return F.layer_norm(x, layer.weight.shape, layer.weight, layer.bias, layer.eps)


def _codes(x: Tensor, shift: Tensor, clip: Tensor, bits: int) -> Tensor:
    return signed_codes(x - shift.unsqueeze(1), _by_head(clip), bits)


def _by_head(x: Tensor) -> Tensor:
    """(heads,) to what broadcasts against (batch, heads, length, anything)."""
    return x[:, None, None]
