"""The kernels as torch operators, so that ``torch.compile`` and ``torch.export`` see them."""

from __future__ import annotations

import torch
from torch import Tensor

from bipft_compress.runtime.bits import unpack_signs
from bipft_compress.runtime.native import REFERENCE, kernels

_library = torch.library.Library("bipft_compress", "DEF")
_library.define(
    "binary_product(Tensor activations, Tensor weights, int in_features, int out_features, "
    "str path) -> Tensor"
)
_library.define("encoder_layer(Tensor x, Tensor? mask, Tensor layer) -> Tensor")


def row_bytes(in_features: int) -> int:
    """Bytes of a row of packed activations: whole words of 64 bits."""
    return -(-in_features // 64) * 8


def prepare_weights(bits: Tensor, in_features: int, path: str) -> Tensor:
    """Weights as `binary_product` wants them on a path.

    Args:
        bits: packed signs, (out, ceil(in / 8)), uint8.
        in_features: signs in a row.
        path: see `native.paths`.
    """
    if path == REFERENCE:
        return bits
    return torch.from_numpy(kernels().interleave(bits.contiguous().numpy(), in_features, path))


def _binary_product(
    activations: Tensor, weights: Tensor, in_features: int, out_features: int, path: str
) -> Tensor:
    if path == REFERENCE:
        rows, columns = unpack_signs(activations, in_features), unpack_signs(weights, in_features)
        return (rows @ columns.T).to(torch.int32)
    result = torch.empty(len(activations), out_features, dtype=torch.int32)
    kernels().binary_product(
        activations.contiguous(), weights, in_features, result, path, torch.get_num_threads()
    )
    return result


def _binary_product_shape(
    activations: Tensor, weights: Tensor, in_features: int, out_features: int, path: str
) -> Tensor:
    return activations.new_empty(len(activations), out_features, dtype=torch.int32)


def _encoder_layer(x: Tensor, mask: Tensor | None, layer: Tensor) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    seen = None if mask is None else mask.contiguous().view(torch.uint8)
    kernels().encoder_layer(layer, x, seen, y, torch.get_num_threads())
    return y


def _encoder_layer_shape(x: Tensor, mask: Tensor | None, layer: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_library.impl("binary_product", _binary_product, "CPU")
_library.impl("encoder_layer", _encoder_layer, "CPU")
torch.library.register_fake("bipft_compress::binary_product", _binary_product_shape)
torch.library.register_fake("bipft_compress::encoder_layer", _encoder_layer_shape)


def binary_product(
    activations: Tensor, weights: Tensor, in_features: int, out_features: int, path: str
) -> Tensor:
    """The integers ``sum_k a_k w_k`` of rows of signs; exact.

    Args:
        activations: packed signs, (count, `row_bytes(in_features)`), uint8, padding bits zero.
        weights: of `prepare_weights` for the same path.
        in_features: signs in a row.
        out_features: rows of weights.
        path: see `native.paths`.

    Returns:
        int32, (count, out_features).
    """
    product: Tensor = torch.ops.bipft_compress.binary_product(
        activations, weights, in_features, out_features, path
    )
    return product


def encoder_layer(x: Tensor, mask: Tensor | None, layer: Tensor) -> Tensor:
    """One whole encoder layer.

    Args:
        x: hidden states, (batch, length, hidden), fp32.
        mask: (batch, length), boolean, true at real tokens; None where all are.
        layer: of `program.compile_layer`.

    Returns:
        Hidden states, same shape as `x`.
    """
    y: Tensor = torch.ops.bipft_compress.encoder_layer(x, mask, layer)
    return y
