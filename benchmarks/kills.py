"""SIGKILL at random moments: whatever it leaves can be run again, and ends at the same bits."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from bipft_compress.checkpoint.record import WEIGHTS
from bipft_compress.files import sha256

TRIES = 3
"""How often a killed command may be run again until it ends; the first must do."""


def commands(inputs: Path) -> dict[str, list[str]]:
    """Each command that makes a model, but for ``--out``."""
    original, binary, recipe = (str(inputs / n) for n in ("original", "binary", "recipe.yaml"))
    corpus = str(inputs / "corpus.txt")
    table = ["--task", "custom", "--data", str(inputs / "table.csv")]
    table += ["--text-column", "text", "--label-column", "label"]
    return {
        "compress": ["compress", original, "--recipe", recipe, "--calibration", corpus],
        "pack": ["pack", binary],
        "pack over": ["pack", binary, "--overwrite"],
        "pretrain": ["pretrain", binary, "--corpus", corpus],
        "pretrain over": ["pretrain", binary, "--corpus", corpus, "--overwrite"],
        "finetune": ["finetune", binary, *table],
        "run": ["run", original, "--recipe", recipe, "--corpus", corpus],
    }


def call(*arguments: str | Path) -> int:
    """Start a command in a process that has everything imported; its number."""
    pid = os.fork()
    if pid:
        return pid
    log = os.open(
        os.environ.get("ROBUSTNESS_LOG", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT
    )
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    from bipft_compress import cli

    sys.argv = ["bipft-compress", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as stop:
        os._exit(stop.code if isinstance(stop.code, int) else 0)
    os._exit(0)


def wait(pid: int) -> int:
    """Exit code of a process; the signal, negative, if one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def weights(directory: Path) -> dict[str, str]:
    """Checksum of every file of weights below a directory."""
    return {
        path.relative_to(directory).as_posix(): sha256(path)
        for path in sorted(directory.rglob(WEIGHTS))
    }


def measure(inputs: Path, count: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Kill each command in turn, `count` times in all, at moments spread over its whole work.

    Returns:
        How many kills of which command ended well; and what was wrong, a line for each.
    """
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    chosen = commands(inputs)
    whole: dict[str, tuple[float, dict[str, str]]] = {}
    for number in range(count):
        name = list(chosen)[number % len(chosen)]
        if name not in whole:
            whole[name] = _whole(chosen[name], folder / "whole")
        seconds, expected = whole[name]
        draw = random.Random(f"{seed},{number}")
        fault = _kill(chosen[name], folder / "killed", draw.random() * seconds, expected)
        ends[name if fault is None else f"{name}, wrong"] += 1
        wrong += [] if fault is None else [f"kill {number} of seed {seed}, {name}: {fault}"]
    return ends, wrong


def _fresh(folder: Path, command: list[str]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    out = folder / "out"
    if "--overwrite" in command:
        # Another result, which is replaced.
        assert wait(call("pack", command[1], "--out", out)) == 0
    return out


def _whole(command: list[str], folder: Path) -> tuple[float, dict[str, str]]:
    """Seconds that a command takes, and the weights that it ends with."""
    out = _fresh(folder, command)
    start = time.monotonic()
    if wait(call(*command, "--out", out)):
        raise RuntimeError(f"{command[0]} fails without a kill")
    return time.monotonic() - start, weights(out)


def _kill(command: list[str], folder: Path, seconds: float, expected: dict[str, str]) -> str | None:
    """What is wrong after a kill and another run; None if nothing is."""
    out = _fresh(folder, command)
    before = weights(out)
    pid = call(*command, "--out", out)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    at = f"killed after {seconds:.2f} s"
    left = weights(out) if out.exists() else {}
    if "--overwrite" in command and left not in (before, expected):
        return f"{at}: neither the old nor the new output is there"
    for _ in range(TRIES):
        again = list(command)
        if out.exists() and not before and command[0] != "run":
            again = []  # It had ended.
        elif (folder / ".out.training" / "run.json").is_file():
            again.append("--resume")
        if not again or wait(call(*again, "--out", out)) == 0:
            break
    else:
        return f"{at}: cannot be run again"
    if weights(out) != expected:
        return f"{at}: ends at other bits"
    rubbish = [path for path in folder.rglob(".*") if again]
    return f"{at}: leaves {rubbish[0].name}" if rubbish else None
