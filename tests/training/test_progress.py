"""What a bar says of time is what it means."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from bipft_compress.training.progress import _TimesColumn, progress_bar


@pytest.mark.parametrize(
    ("elapsed", "remaining", "shown"),
    [
        (None, None, "0:00:00 passed"),
        (70.4, None, "0:01:10 passed"),
        (70.4, 3601, "0:01:10 passed, 1:00:01 left"),
    ],
)
def test_times_are_named(elapsed, remaining, shown):
    task = SimpleNamespace(elapsed=elapsed, time_remaining=remaining)
    assert _TimesColumn().render(task).plain == shown


def test_a_bar_knows_its_total_from_the_start():
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=120)
    with progress_bar(console, "layers") as bar:
        bar.add_task("fitting", total=6, note="")
        with console.capture() as captured:
            console.print(bar.get_renderable())
    line = captured.get()
    assert "0/6 layers" in line
    assert "passed" in line
    assert "left" not in line
