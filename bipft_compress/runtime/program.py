"""Compiles a packed layer for the kernels: one buffer that `torch.ops` can take as a tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.activations import ACT2FN

from bipft_compress.runtime.folding import Intervals, fold
from bipft_compress.runtime.native import kernels
from bipft_compress.runtime.parameters import LayerParameters, LinearParameters

_ACTIVATIONS = {
    "gelu": 0,
    "gelu_new": 1,
    "gelu_pytorch_tanh": 1,
    "relu": 2,
    "silu": 3,
    "swish": 3,
}
_ONLY_FOLDED = 4
_WIDEST = 65534


def compile_layer(layer: LayerParameters, path: str) -> Tensor | None:
    """The buffer that ``torch.ops.bipft_compress.encoder_layer`` runs.

    Args:
        layer: what to compile.
        path: the processor to compile it for; see `native.paths`.

    Returns:
        uint8, (bytes,), or None where the kernels cannot run this layer (an activation function
        they do not know and cannot fold, a width above 65,534, or estimators that the heads
        share): the reference can.
    """
    if layer.attention.shared_estimator is not None:
        return None

    widest = max(linear.in_features for linear in layer.linears.values())
    folded = _fold(layer) if widest <= _WIDEST else {}
    activation = _ACTIVATIONS.get(layer.activation, _ONLY_FOLDED)
    unknown = activation == _ONLY_FOLDED and "ffn_up" not in folded
    if unknown or widest > _WIDEST:
        return None
    arrays, numbers = _linears(layer, folded)
    _attention(layer, arrays, numbers)
    for name in ("attention_norm", "output_norm"):
        norm = getattr(layer, name)
        arrays |= {f"{name}.weight": norm.weight, f"{name}.bias": norm.bias}
        numbers[f"{name}.eps"] = norm.eps
    numbers |= {
        "hidden": layer.linears["query"].in_features,
        "heads": layer.attention.heads,
        "head_dim": layer.attention.head_dim,
        "ffn": layer.linears["ffn_up"].out_features,
        "bits": layer.bits,
        "key_value_bits": layer.key_value_bits,
        "activation": activation,
    }
    given = {name: array.contiguous().numpy() for name, array in arrays.items()}
    return torch.from_numpy(kernels().compile_layer(given, numbers, path))


def _scale(linear: LinearParameters) -> Tensor:
    return linear.activation_scale * linear.weight_scale


def _fold(layer: LayerParameters) -> dict[str, Intervals]:
    """Kind of linear to its intervals, for those whose output is read as a sign alone."""
    if layer.bits != 1:
        return {}
    attention, linears = layer.attention, layer.linears
    down = linears["ffn_down"]
    activate: Any = ACT2FN[layer.activation]
    shifts = {
        "query": attention.query_shift.flatten(),
        "key": attention.key_shift.flatten(),
        "value": attention.value_shift.flatten(),
        "ffn_up": down.shift,
    }
    read_in_full = {
        "query": attention.score_estimator is not None,
        "key": attention.score_estimator is not None or layer.key_value_bits != 1,
        "value": attention.context_estimator is not None or layer.key_value_bits != 1,
        "ffn_up": down.estimator is not None,
    }
    found = {}
    for kind, shift in shifts.items():
        linear = linears[kind]
        if read_in_full[kind] or linear.estimator is not None:
            continue
        follows = activate if kind == "ffn_up" else None
        intervals = fold(_scale(linear), linear.bias, linear.in_features, shift, follows)
        if intervals is not None:
            found[kind] = intervals
    return found


def _linears(
    layer: LayerParameters, folded: dict[str, Intervals]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    arrays: dict[str, Tensor] = {}
    numbers: dict[str, float] = {}
    for kind, linear in layer.linears.items():
        arrays |= {f"{kind}.bits": linear.bits, f"{kind}.shift": linear.shift}
        numbers[f"{kind}.activation_scale"] = linear.activation_scale
        if linear.estimator is not None:
            arrays[f"{kind}.down"] = linear.estimator.down
            # One row a rank: the loop that adds them runs over neighbours.
            arrays[f"{kind}.up"] = linear.estimator.up.T
            numbers[f"{kind}.rank"] = len(linear.estimator.down)
        if kind in folded:
            arrays |= {f"{kind}.{name}": part for name, part in folded[kind]._asdict().items()}
        else:
            arrays |= {f"{kind}.scale": _scale(linear), f"{kind}.bias": linear.bias}
    return arrays, numbers


def _attention(
    layer: LayerParameters, arrays: dict[str, Tensor], numbers: dict[str, float]
) -> None:
    attention = layer.attention
    numbers["attention.boolean"] = float(attention.boolean)
    for name in (
        "query_shift", "key_shift", "value_shift", "value_scale", "context_bias",
        "query_clip", "key_clip", "value_clip", "score_scale", "probability_scale",
        "probability_shift",
    ):  # fmt: skip
        arrays[f"attention.{name}"] = getattr(attention, name)
    # A map that is applied to a head's vector has one row a rank.
    if attention.score_estimator is not None:
        arrays["attention.score_left"] = attention.score_estimator.left.transpose(1, 2)
        arrays["attention.score_right"] = attention.score_estimator.right.transpose(1, 2)
        numbers["attention.score_rank"] = attention.score_estimator.left.shape[-1]
    if attention.context_estimator is not None:
        arrays["attention.context_left"] = attention.context_estimator.left.transpose(1, 2)
        arrays["attention.context_right"] = attention.context_estimator.right.transpose(1, 2)
        numbers["attention.context_rank"] = attention.context_estimator.left.shape[-1]
