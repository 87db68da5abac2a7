"""SIGKILL at random moments: whatever it leaves can be run again, and ends at the same bits."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bipft_compress.files import sha256

TRIES = 3
"""How often a killed command may be run again until it ends; the first must do."""

OUT = "OUT"
"""Stands for the output in a command."""

_RECORDS = ("compression.json", "finetuning.json", "report.json", "curve.json")

_OF_A_RUN = ("provenance", "sha256", "latency_ms")
"""Keys of them that differ from run to run: dates, checksums of these, and times."""


@dataclass(frozen=True)
class Command:
    """A command that writes something.

    Attributes:
        arguments: of ``bipft-compress``.
        before: what is in place of the output before it runs; None for nothing.
        resumable: whether it takes ``--resume``.
        in_steps: whether it may leave a part of its output, which another run goes on with.
    """

    arguments: tuple[str, ...]
    before: Path | None = None
    resumable: bool = False
    in_steps: bool = False

    def start(self, out: Path, *more: str) -> int:
        """Run it in a process of its own; its number."""
        return call(*(str(out) if word == OUT else word for word in self.arguments), *more)


def commands(inputs: Path) -> dict[str, Command]:
    """Each command that writes something."""
    original, binary, packed, recipe, corpus, table, pairs = (
        str(inputs / name)
        for name in (
            "original", "binary", "packed", "recipe.yaml", "corpus.txt", "table.csv", "pairs.tsv",
        )
    )  # fmt: skip
    task = ("--task", "custom", "--data", table, "--text-column", "text", "--label-column", "label")
    task += ("--recipe", recipe)
    to, old = ("--out", OUT), inputs / "packed"
    over = (*to, "--overwrite")
    text = ("--calibration", corpus)
    pretrain, finetune = ("pretrain", binary, "--corpus", corpus), ("finetune", binary, *task)
    return {
        "compress": Command(("compress", original, "--recipe", recipe, *text, *to)),
        "pack": Command(("pack", binary, *to)),
        "pack over": Command(("pack", binary, *over), old),
        "pretrain": Command((*pretrain, *to), resumable=True),
        "pretrain over": Command((*pretrain, *over), old, resumable=True),
        "finetune": Command((*finetune, *to), resumable=True),
        "finetune over": Command((*finetune, *over), old, resumable=True),
        "finetune full precision": Command(("finetune", original, *task, *to), resumable=True),
        "finetune adapter": Command((*finetune, "--lora", "2", *to), resumable=True),
        "run": Command(
            ("run", original, "--recipe", recipe, "--corpus", corpus, "--data", pairs, *to),
            in_steps=True,
        ),
        "report": Command(("report", binary, *to)),
        "report over": Command(("report", packed, *over), old, in_steps=True),
        "explore": Command(("explore", original, "--recipe", recipe, "--budgets", "2", *text, *to)),
        "evaluate": Command(
            ("evaluate", OUT, "--task", "sts", "--data", pairs, "--teacher", original), old
        ),
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


def _lasting(values: Any) -> Any:
    """What is the same in every run of a command."""
    if isinstance(values, dict):
        return {key: _lasting(value) for key, value in values.items() if key not in _OF_A_RUN}
    return [_lasting(value) for value in values] if isinstance(values, list) else values


def contents(directory: Path) -> dict[str, Any]:
    """Checksum of every file of tensors below a directory, and what records and reports say."""
    found: dict[str, Any] = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.suffix == ".safetensors":
            found[name] = sha256(path)
        elif path.name in _RECORDS:
            values = json.loads(path.read_text())
            found[name] = _lasting(values)
        elif path.is_file():
            found[name] = None
    return found


def measure(
    inputs: Path, numbers: range, seed: int, folder: Path
) -> tuple[Counter[str], list[str]]:
    """Kill each command in turn, one a number, at moments spread over its whole work.

    Returns:
        How many kills of which command ended well; and what was wrong, a line for each.
    """
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    chosen = commands(inputs)
    whole: dict[str, tuple[float, dict[str, Any]]] = {}
    for number in numbers:
        name = list(chosen)[number % len(chosen)]
        if name not in whole:
            whole[name] = _whole(chosen[name], folder / "run")
        seconds, expected = whole[name]
        draw = random.Random(f"{seed},{number}")
        fault = _kill(chosen[name], folder / "run", draw.random() * seconds, expected)
        ends[name if fault is None else f"{name}, wrong"] += 1
        wrong += [] if fault is None else [f"kill {number} of seed {seed}, {name}: {fault}"]
    return ends, wrong


def _fresh(folder: Path, command: Command) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    out = folder / "out"
    if command.before is not None:
        shutil.copytree(command.before, out)
    return out


def _whole(command: Command, folder: Path) -> tuple[float, dict[str, Any]]:
    """Seconds that a command takes, and what it ends with."""
    out = _fresh(folder, command)
    start = time.monotonic()
    if wait(command.start(out)):
        raise RuntimeError(f"{command.arguments[0]} fails without a kill")
    return time.monotonic() - start, contents(out)


def _kill(command: Command, folder: Path, seconds: float, expected: dict[str, Any]) -> str | None:
    """What is wrong after a kill and another run; None if nothing is."""
    out = _fresh(folder, command)
    before = contents(out)
    pid = command.start(out)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    at = f"killed after {seconds:.2f} s"
    left = contents(out)
    if left == expected:
        return None
    if left != before and not command.in_steps:
        return f"{at}: neither the old nor the new output is there"
    for _ in range(TRIES):
        unfinished = command.resumable and (folder / ".out.training" / "run.json").is_file()
        if wait(command.start(out, *(["--resume"] if unfinished else []))) == 0:
            break
    else:
        return f"{at}: cannot be run again"
    if contents(out) != expected:
        return f"{at}: ends at other bits"
    rubbish = list(folder.rglob(".*"))
    return f"{at}: leaves {rubbish[0].name}" if rubbish else None
