"""The kernels' operators, one function each: what they take, give and raise."""

from __future__ import annotations

import torch
from torch import Tensor

import bipft_compress.runtime.registration  # noqa: F401 - registers the operators
from bipft_compress.runtime.native import REFERENCE, kernels


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


def binary_linear(x: Tensor, program: Tensor, out_features: int) -> Tensor:
    """One binary linear layer alone, of codes of any bits.

    Args:
        x: (..., in_features), fp32.
        program: of `program.compile_linear`.
        out_features: of the compiled layer.

    Returns:
        fp32, (..., out_features).

    Raises:
        TypeError: a tensor is of another type.
        ValueError: another width than the layer's, or `program` is damaged or made for another
            processor.
    """
    y: Tensor = torch.ops.bipft_compress.binary_linear(x, program, out_features)
    return y


def encoder_block(
    x: Tensor,
    key_mask: Tensor | None,
    bias: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    offsets: Tensor | None,
    program: Tensor,
) -> Tensor:
    """One whole encoder block.

    Args:
        x: hidden states, (batch, length, hidden), fp32; at most 65,534 tokens long.
        key_mask: (batch, length), boolean, true at real tokens; None where all are.
        bias: added to scores by the distance of key and query, (heads, 2 * length - 1), fp32, from
            1 - length upwards; None for none.
        cos: of rotary positions, (length, head_dim), fp32; needed where the block has them.
        sin: like `cos`.
        offsets: row of the tables of positions for each distance, query minus key, from
            1 - length upwards: int32, (2 * length - 1,); needed where the block has such tables.
        program: of `program.compile_block`.

    Returns:
        Hidden states, same shape as `x`.

    Raises:
        TypeError: a tensor is of another type.
        ValueError: a tensor is of another shape or missing, or `program` is damaged or made for
            another processor.
        IndexError: an offset is beyond the tables.
    """
    y: Tensor = torch.ops.bipft_compress.encoder_block(
        x, key_mask, bias, cos, sin, offsets, program
    )
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
    decoded: Tensor = torch.ops.bipft_compress.rows(ids, packed, scale, bits, columns, path)
    return decoded


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
    decoded: Tensor = torch.ops.bipft_compress.words(ids, frequent, books, rare, numbers, path)
    return decoded


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
