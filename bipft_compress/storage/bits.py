"""The bit order, stated once: least significant bit first, rows padded with zero bits to bytes.

Bit ``i`` of byte ``j`` of a row is element ``8 j + i``; 1 stands for +1 and 0 for -1. Two 4-bit
numbers share a byte the same way: the first is in the low half.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pack_fields(values: Tensor, width: int) -> Tensor:
    """Pack unsigned numbers of `width` bits (1, 2, 4 or 8) along the last dimension.

    Args:
        values: integers or booleans in ``[0, 2^width)``, (..., n).
        width: bits of a number.

    Returns:
        uint8, (..., ceil(n * width / 8)).
    """
    per_byte = 8 // width
    values = values.to(torch.uint8)
    missing = -values.shape[-1] % per_byte
    values = torch.nn.functional.pad(values, (0, missing)).unflatten(-1, (-1, per_byte))
    places = torch.arange(0, 8, width, dtype=torch.uint8, device=values.device)
    return (values << places).sum(-1, dtype=torch.uint8)


def unpack_fields(packed: Tensor, width: int, count: int) -> Tensor:
    """The inverse of `pack_fields`: `count` numbers a row, uint8, (..., count)."""
    if width == 8:
        return packed[..., :count]
    # One pass a place over whole rows: several times faster than broadcasting the places.
    values = [(packed >> place) & (2**width - 1) for place in range(0, 8, width)]
    return torch.stack(values, -1).flatten(-2)[..., :count]


def pack_signs(x: Tensor) -> Tensor:
    """One bit a number, set where ``x >= 0``: (..., n) to uint8 (..., ceil(n / 8))."""
    return pack_fields(x >= 0, 1)


def unpack_signs(packed: Tensor, count: int) -> Tensor:
    """+1.0 and -1.0 in fp32, (..., count), of what `pack_signs` packed."""
    return unpack_fields(packed, 1, count).float() * 2 - 1


def pack_planes(codes: Tensor, bits: int) -> Tensor:
    """Odd integers as planes of signs, the least significant first.

    Args:
        codes: in ``[-(2^bits - 1), 2^bits - 1]``, (..., n): ``sum_p 2^p sign_p``.
        bits: of a code.

    Returns:
        uint8, (bits, ..., ceil(n / 8)); without the first dimension at one bit.
    """
    fields = (codes + (2**bits - 1)).to(torch.int64) >> 1
    planes = torch.stack([pack_fields((fields >> plane) & 1, 1) for plane in range(bits)])
    return planes if bits > 1 else planes[0]


def unpack_planes(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of `pack_planes`: `count` codes a row, fp32, (..., count)."""
    if bits == 1:
        return unpack_signs(packed, count)
    codes = unpack_signs(packed[0], count)
    for plane in range(1, bits):
        codes += 2**plane * unpack_signs(packed[plane], count)
    return codes
