"""Timing several systems fairly in one process: rounds in turn, medians compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

Call = Callable[[], object]

PAUSE = 0.02
"""Seconds between systems that use several threads: those of the system before may still spin in
wait of more work, and would take a core from the next."""


def interleaved(calls: Mapping[str, Call], rounds: int, threads: int = 1) -> dict[str, list[float]]:
    """Seconds of each call in each round; every round runs each call once, in order.

    A machine whose speed drifts is then fair to all. Nothing is warmed up: call each once before.

    Args:
        calls: by name.
        rounds: how often each is called.
        threads: that a call uses; with several there is a `PAUSE` before each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(PAUSE if threads > 1 else 0)
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(peer: list[float], own: list[float]) -> float:
    """Median over rounds of their seconds for one of ours."""
    return statistics.median(a / b for a, b in zip(peer, own, strict=True))


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch, and with it the kernels, use `threads` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
