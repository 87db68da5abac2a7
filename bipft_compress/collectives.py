"""Sums, means and rows over all processes of a run; of a single one, they are its own.

Every process computes the whole loss, so a gradient of it is summed over all of them on its way
back; DistributedDataParallel then takes the mean, which leaves that of one process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

_T = TypeVar("_T")


_alone = ContextVar("alone", default=False)


def is_alone() -> bool:
    """Whether there is no other process to exchange tensors with."""
    others = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return _alone.get() or not others


@contextmanager
def alone() -> Iterator[None]:
    """While it is open, nothing is exchanged: for what all processes do alike."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


class _Sum(torch.autograd.Function):
    """torch.distributed.nn's own is deprecated, and what replaces it has no gradient."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return total(gradient)


def total(x: Tensor) -> Tensor:
    """The sum of `x`, of one shape everywhere, over all processes."""
    if is_alone():
        return x
    result: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return result


def mean(values: Tensor, *, rows: bool = False) -> Tensor:
    """The mean of all processes' `values`, of which each may hold another number.

    Args:
        values: any shape; first dimension of another length in each process, or of 0.
        rows: over the first dimension alone.

    Returns:
        A scalar; with `rows`, the shape of one row.
    """
    if is_alone():
        return values.mean(0) if rows else values.mean()
    wide = torch.promote_types(values.dtype, torch.float32)
    sums = values.sum(0, dtype=wide) if rows else values.sum(dtype=wide)
    count = sums.new_tensor([values.numel() // sums.numel()])
    both = total(torch.cat([sums.flatten(), count]))
    return (both[:-1] / both[-1]).reshape(sums.shape)


def all_rows(x: Tensor) -> Tensor:
    """The rows of all processes, (rows of all, ...), in the order of the processes."""
    if is_alone():
        return x
    counts = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=x.device)
    counts[dist.get_rank()] = len(x)
    lengths, own = total(counts).tolist(), dist.get_rank()
    before, after = sum(lengths[:own]), sum(lengths[own + 1 :])
    # Zeros where the others' rows belong: a sum that is exact, and takes shares of any length.
    return total(F.pad(x, (0, 0) * (x.dim() - 1) + (before, after)))


def own_share(items: Sequence[_T]) -> Sequence[_T]:
    """Every n-th of some items that n processes share; all of them where there is one."""
    return items if is_alone() else items[dist.get_rank() :: dist.get_world_size()]
