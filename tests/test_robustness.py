"""A small run of `benchmarks/robustness.py` finds nothing wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "robustness.py"


def run(*options: str) -> tuple[int, dict]:
    result = subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, json.loads(result.stdout)


@pytest.mark.slow
def test_a_small_run_finds_nothing_wrong():
    code, figures = run("--mutants", "30", "--kills", "2", "--calls", "30")
    assert [kind["wrong"] for kind in figures.values()] == [[], [], []]
    assert code == 0
    assert sum(figures["kills"]["ends"].values()) == 2
    assert sum(figures["mutants"]["ends"].values()) == 30
    assert figures["mutants"]["ends"]["refused"] > 5
    assert sum(figures["calls"]["ends"].values()) == 30
