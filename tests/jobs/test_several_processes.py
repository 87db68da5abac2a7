"""Two processes train as one does: the same losses, one result, and either goes on from the other.

A real launch, with gloo.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from bipft_compress.checkpoint.record import WEIGHTS
from bipft_compress.jobs import compress_checkpoint

from . import several


def launch(*arguments, processes=2):
    """Run a script in several processes; what they wrote."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*command, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": "0"},
        capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip


def check_same(curve, other):
    """Step by step the same tokens, loss and terms."""
    for one, two in zip(curve, other, strict=True):
        for key in ("step", "tokens", "loss", "terms"):
            assert one[key] == pytest.approx(two[key], rel=1e-6, abs=1e-6)


def forget_last_checkpoint(directory, name):
    """As if the training had been killed before its last checkpoint."""
    work = directory / f".{name}.training"
    assert {path.parent.name for path in work.glob("*/complete")} == {
        "checkpoint-6",
        "checkpoint-8",
    }
    (work / "checkpoint-8" / "complete").unlink()


@pytest.mark.slow
def test_losses_are_those_of_one_process(tmp_path, make_checkpoint, corpus, sst2):
    original = make_checkpoint("bert", "ForPreTraining")
    compress_checkpoint(original, several.RECIPE, tmp_path / "start", calibration=corpus)
    rows = [f"{a} {b},{b} {a},{ord(a) - ord(b)}" for a in "abcdefgh" for b in "abc"]
    (tmp_path / "pairs.csv").write_text("\n".join(["a,b,y", *rows]))
    runs = several.Runs(tmp_path)
    runs.all("one")
    forget_last_checkpoint(tmp_path, "one-interrupted")
    result = launch(several.__file__, tmp_path)
    assert result.returncode == 0, result.stderr[-12000:]
    forget_last_checkpoint(tmp_path, "two-interrupted")
    runs.pretrain("two-interrupted", resume=True)
    one, two = runs.points, json.loads((tmp_path / "two.json").read_text())
    for name in ("pretrained", "alone", "classes", "similarity"):
        check_same(one[f"one-{name}"], two[f"two-{name}"])
    # Resumed by another number of processes, the curve goes on as though nothing had happened.
    check_same(one["one-pretrained"], one["two-interrupted"])
    check_same(one["one-pretrained"], two["one-interrupted"])
    # Moments summed over two processes are rounded otherwise, and stored in 16 bits.
    alone, shared = (load_file(tmp_path / f"{n}-compressed" / WEIGHTS) for n in ("one", "two"))
    assert alone.keys() == shared.keys()
    for name, expected in alone.items():
        torch.testing.assert_close(
            shared[name],
            expected,
            rtol=2e-3,
            atol=2e-3,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    assert not list(tmp_path.glob(".*"))
    assert result.stdout == ""
