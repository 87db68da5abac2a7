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
_library.define(
    "rows(Tensor ids, Tensor packed, Tensor scale, int bits, int columns, str path) -> Tensor"
)
_library.define(
    "words(Tensor ids, Tensor[] frequent, Tensor[] books, Tensor[] rare, int[] numbers, str path) "
    "-> Tensor"
)
_library.define(
    "linear(Tensor x, Tensor packed, Tensor scale, Tensor? bias, int bits, str path) -> Tensor"
)


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


def _run(kernel: str, *arguments: Tensor | int | str | None) -> None:
    """Call a kernel on torch's threads. Tensors go as arrays: they are handed over three times as
    fast, which is most of a small product's time."""
    given = [part.numpy() if isinstance(part, Tensor) else part for part in arguments]
    getattr(kernels(), kernel)(*given, torch.get_num_threads())


def _binary_product(
    activations: Tensor, weights: Tensor, in_features: int, out_features: int, path: str
) -> Tensor:
    if path == REFERENCE:
        rows, columns = unpack_signs(activations, in_features), unpack_signs(weights, in_features)
        return (rows @ columns.T).to(torch.int32)
    result = torch.empty(len(activations), out_features, dtype=torch.int32)
    _run("binary_product", activations.contiguous(), weights, in_features, result, path)
    return result


def _binary_product_shape(
    activations: Tensor, weights: Tensor, in_features: int, out_features: int, path: str
) -> Tensor:
    return activations.new_empty(len(activations), out_features, dtype=torch.int32)


def _encoder_layer(x: Tensor, mask: Tensor | None, layer: Tensor) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    seen = None if mask is None else mask.contiguous().view(torch.uint8)
    _run("encoder_layer", layer, x, seen, y)
    return y


def _encoder_layer_shape(x: Tensor, mask: Tensor | None, layer: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _rows(ids: Tensor, packed: Tensor, scale: Tensor, bits: int, columns: int, path: str) -> Tensor:
    result = _rows_shape(ids, packed, scale, bits, columns, path)
    _run("rows", _ids(ids), packed, _steps(scale), bits, result.view(-1, columns), path)
    return result


def _rows_shape(
    ids: Tensor, packed: Tensor, scale: Tensor, bits: int, columns: int, path: str
) -> Tensor:
    return ids.new_empty(*ids.shape, columns, dtype=torch.float32)


def _words(
    ids: Tensor,
    frequent: list[Tensor],
    books: list[Tensor],
    rare: list[Tensor],
    numbers: list[int],
    path: str,
) -> Tensor:
    result = _words_shape(ids, frequent, books, rare, numbers, path)
    tables = (_ids(ids), frequent[0], _steps(frequent[1]), books[0], _steps(books[1]), *rare)
    *others, columns = numbers
    _run("words", *tables, *others, result.view(-1, columns), path)
    return result


def _words_shape(
    ids: Tensor,
    frequent: list[Tensor],
    books: list[Tensor],
    rare: list[Tensor],
    numbers: list[int],
    path: str,
) -> Tensor:
    return ids.new_empty(*ids.shape, numbers[-1], dtype=torch.float32)


def _linear(
    x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None, bits: int, path: str
) -> Tensor:
    result = _linear_shape(x, packed, scale, bias, bits, path)
    flat = x.contiguous().view(-1, x.shape[-1])
    _run("linear", flat, packed, _steps(scale), bias, bits, result.view(-1, len(packed)), path)
    return result


def _linear_shape(
    x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None, bits: int, path: str
) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(packed))


def _ids(ids: Tensor) -> Tensor:
    return ids.long().reshape(-1).contiguous()


def _steps(scale: Tensor) -> Tensor:
    """The fp16 steps of rows, (rows, 1), as the kernels read them."""
    return scale.half().flatten().view(torch.uint16)


for _name, _kernel, _shape in (
    ("binary_product", _binary_product, _binary_product_shape),
    ("encoder_layer", _encoder_layer, _encoder_layer_shape),
    ("rows", _rows, _rows_shape),
    ("words", _words, _words_shape),
    ("linear", _linear, _linear_shape),
):
    _library.impl(_name, _kernel, "CPU")
    torch.library.register_fake(f"bipft_compress::{_name}", _shape)


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


def rows(ids: Tensor, packed: Tensor, scale: Tensor, bits: int, columns: int, path: str) -> Tensor:
    """Rows of a table of few-bit numbers, decoded: the same numbers as `codec.decode_rows`.

    Args:
        ids: of any shape (...).
        packed: (rows, ceil(columns * bits / 8)), uint8.
        scale: step of each row, (rows, 1).
        bits: of a stored number: 4, 8, or 1 for signs.
        columns: numbers of a row.
        path: see `native.paths`; not the reference.

    Returns:
        fp32, (..., columns).

    Raises:
        IndexError: an id is negative or beyond the table.
    """
    found: Tensor = torch.ops.bipft_compress.rows(ids, packed, scale, bits, columns, path)
    return found


def words(
    ids: Tensor,
    frequent: list[Tensor],
    books: list[Tensor],
    rare: list[Tensor],
    numbers: list[int],
    path: str,
) -> Tensor:
    """Rows of word embeddings by frequency: see `embedding.PackedFrequencyAwareEmbedding`.

    Args:
        ids: of any shape (...).
        frequent: packed rows, and their steps, as `rows` takes them.
        books: packed centroids of all parts, 256 a part, and their steps.
        rare: codes of the rare rows, (rare rows, parts), uint8; one bit a word, whether it is
            frequent, uint8; int32 frequent words before each byte of these bits.
        numbers: bits of the frequent rows, bits of the centroids, numbers of a part, columns.
        path: see `native.paths`; not the reference.

    Returns:
        fp32, (..., columns).

    Raises:
        IndexError: an id is negative or beyond the table.
    """
    found: Tensor = torch.ops.bipft_compress.words(ids, frequent, books, rare, numbers, path)
    return found


def linear(
    x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None, bits: int, path: str
) -> Tensor:
    """A linear layer on a table of few-bit numbers, each row decoded as it is multiplied with.

    Args:
        x: (..., columns), fp32.
        packed: (rows, ceil(columns * bits / 8)), uint8.
        scale: step of each row, (rows, 1).
        bias: (rows,), fp32, or None.
        bits: of a stored number: 4 or 8.
        path: see `native.paths`; not the reference.

    Returns:
        fp32, (..., rows).
    """
    y: Tensor = torch.ops.bipft_compress.linear(x, packed, scale, bias, bits, path)
    return y
