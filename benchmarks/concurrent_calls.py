"""One packed model called from threads, from a forked process and from a new one."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from bipft_compress import load

THREADS = 8


def measure(packed: Path, count: int) -> tuple[Counter[str], list[str]]:
    """Call a model `count` times, a third each in threads here, after a fork, and in a new process.

    Returns:
        How many calls gave the bits of a lone call; and what was wrong, a line for each.
    """
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    share = -(-count // 3)
    # The fork comes first: torch's own threads do not survive one.
    for name, method in (("after a fork", "fork"), ("in a new process", "spawn")):
        context = multiprocessing.get_context(method)
        queue = context.SimpleQueue()
        process = context.Process(target=_child, args=(packed, share, queue))
        process.start()
        process.join()
        good = 0 if queue.empty() else queue.get()
        ends[name] = good
        if good != share:
            wrong.append(f"{name}: {good} of {share} calls were right, exit {process.exitcode}")
    ends["in threads"] = good = _calls(packed, share)
    if good != share:
        wrong.append(f"in threads: {good} of {share} calls were right")
    return ends, wrong


def _child(packed: Path, count: int, queue: multiprocessing.SimpleQueue[int]) -> None:
    queue.put(_calls(packed, count))


def _calls(packed: Path, count: int) -> int:
    """How many of so many calls from `THREADS` threads give the bits of a call alone."""
    model, _, _ = load(packed)
    generator = torch.Generator().manual_seed(0)
    batches = [
        torch.randint(5, 40, (n % 3 + 1, n % 20 + 2), generator=generator) for n in range(60)
    ]

    @torch.no_grad()
    def call(number: int) -> torch.Tensor:
        return model(batches[number % len(batches)])[0]

    alone = [call(number) for number in range(len(batches))]
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(call, range(count))
        return sum(torch.equal(got, alone[n % len(alone)]) for n, got in enumerate(results))
