"""Folding: what lies between two binary products becomes an interval of popcounts.

Where the next product reads one bit and there is no estimator, only the sign of an output is read.
Scale, bias, activation function and shift are then one question about an integer, and as there are
few integers, it is answered for each of them beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_ANSWERS = 2**20  # given at a time: bounds the working memory
_NEVER = 65535  # no popcount is as large


class Intervals(NamedTuple):
    """A bit is set where ``(popcount - low) mod 2^16 <= range``, flipped where `flip` is not 0.

    All uint16, (out,).
    """

    low: Tensor
    range: Tensor
    flip: Tensor


def fold(
    scale: Tensor,
    bias: Tensor,
    most: int,
    threshold: Tensor,
    activate: Callable[[Tensor], Tensor] | None = None,
) -> Intervals | None:
    """Intervals of the popcounts for which an output reaches a threshold.

    Args:
        scale: of the integer product, (out,).
        bias: (out,).
        most: the largest sum, which is that of popcount 0: ``in_features * (2^m - 1)`` for weights
            of m bits, whose planes' popcounts are added up, 2^p times that of plane p. At most
            65,534.
        threshold: (out,).
        activate: what an output goes through first, such as a GELU; it need not be monotone.

    Returns:
        None where some row's answer is neither one interval nor all but one.
    """
    sums = most - 2 * torch.arange(most + 1, dtype=torch.float32)
    parts = []
    at_once = max(1, _ANSWERS // len(sums))
    for start in range(0, len(scale), at_once):
        rows = slice(start, start + at_once)
        outputs = scale[rows, None] * sums + bias[rows, None]
        values = outputs if activate is None else activate(outputs)
        intervals = _intervals(values >= threshold[rows, None])
        if intervals is None:
            return None
        parts.append(intervals)
    return Intervals(*(torch.cat(part).to(torch.uint16) for part in zip(*parts, strict=True)))


def _intervals(bits: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Low, range and flip (int64) of rows of answers, (rows, popcounts)."""
    # The answer at popcount 0 decides which kind of row is written down as an interval: one that
    # begins with +1 is described by where it is -1.
    flipped = bits[:, 0]
    inside = bits ^ flipped[:, None]
    # Runs of `inside` begin where it differs from its left neighbour; it begins with False.
    starts = inside[:, 1:] & ~inside[:, :-1]
    if (starts.sum(1) > 1).any():
        return None
    count = inside.sum(1)
    empty = count == 0
    low = torch.where(empty, _NEVER, inside.int().argmax(1))
    width = torch.where(empty, 0, count - 1)
    return low, width, torch.where(flipped, 65535, 0)
