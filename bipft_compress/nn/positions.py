"""Positions inside attention: rotary angles, distances of disentangled attention, windows."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from bipft_compress.spec import RelativeSpec, RotarySpec


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor], spec: RotarySpec) -> Tensor:
    """Turn the numbers of every head by their position's angles.

    Args:
        x: (batch, heads, length, head_dim).
        rotary: cosines and sines, each (1 or batch, length, head_dim), both numbers of a pair
            having the same.
        spec: which numbers are a pair.
    """
    cos, sin = (table.unsqueeze(1) for table in rotary)
    if spec.pairs == "halves":
        first, second = x.chunk(2, -1)
        turned = torch.cat([-second, first], -1)
    else:
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return x * cos + turned * sin


@cache
def relative_offsets(spec: RelativeSpec, length: int) -> Tensor:
    """Row of the position tables for each distance, query minus key, from 1 - length upwards.

    Distances up to half of the buckets are their own; those beyond share logarithmic buckets, as
    in DeBERTa-v3 (He et al. 2023).

    Returns:
        int64, (2 * length - 1,).
    """
    # Kept for the next call: not on whatever device is the default in this one.
    cpu = torch.device("cpu")
    distance = torch.arange(1 - length, length, device=cpu)
    if spec.buckets:
        middle = spec.buckets // 2
        far = distance.abs().clamp_min(middle).float()
        width = torch.tensor((spec.farthest - 1) / middle, device=cpu).log()
        bucket = torch.ceil((far / middle).log() / width * (middle - 1)) + middle
        distance = torch.where(distance.abs() <= middle, distance, bucket.long() * distance.sign())
    return (distance + spec.span).clamp(0, 2 * spec.span - 1)


def relative_index(spec: RelativeSpec, length: int, device: torch.device) -> Tensor:
    """Row of the position tables for each query and key, int64, (length, length)."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position
    return relative_offsets(spec, length).to(device)[distance + (length - 1)]


def of_pairs(bias: Tensor) -> Tensor:
    """From a bias by the distance of key and query to one of pairs.

    Args:
        bias: (heads, 2 * length - 1), the distances key minus query from 1 - length upwards.

    Returns:
        (heads, length, length): queries, then keys.
    """
    length = (bias.shape[-1] + 1) // 2
    position = torch.arange(length, device=bias.device)
    return bias[:, position - position[:, None] + (length - 1)]


def within_window(length: int, window: int, device: torch.device) -> Tensor:
    """Whether a key is at most `window` positions from a query, (length, length)."""
    position = torch.arange(length, device=device)
    return (position[:, None] - position).abs() <= window
