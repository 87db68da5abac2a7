import time
from contextlib import suppress

import torch

from bipft_compress.benchmarking.timing import PAUSE, interleaved, ratio, torch_threads


def test_rounds_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = interleaved(calls, 3)
    assert order == list("ababab")
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_seconds_are_seconds():
    (value,) = interleaved({"sleep": lambda: time.sleep(0.02)}, 1)["sleep"]
    assert value >= 0.02


def test_several_threads_pause_between_systems(monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    interleaved({"a": int, "b": int}, 2)
    assert not any(pauses)
    interleaved({"a": int, "b": int}, 2, threads=2)
    assert pauses[-4:] == [PAUSE] * 4


def test_a_ratio_is_of_the_same_round():
    """One slow round slows both: their ratio is not moved by it."""
    assert ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == 2.0


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with suppress(ZeroDivisionError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == before
