"""Nothing wrong in silence, nothing lost: mutants, kills and concurrent calls, counted.

    python benchmarks/robustness.py [--mutants 10000] [--kills 200] [--calls 10000] [--seed 0]
        [--first 0] [--out FILE]

Exits with 1 where anything went wrong. A mutant or kill is made again by its number and the seed.
It may run in pieces: `--first` is the number of the first mutant and kill, 0 of a kind leaves it
out, and figures are added to those in FILE.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A process that forks has one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).parents[1]))

import concurrent_calls
import kills
import mutants
from tiny import write_inputs

from bipft_compress.provenance import git_commit, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (
        ("mutants", 10_000),
        ("kills", 200),
        ("calls", 10_000),
        ("seed", 0),
        ("first", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, help="JSON file for the figures.")
    given = parser.parse_args()
    figures = {}
    if given.out is not None and given.out.is_file():
        figures = json.loads(given.out.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        write_inputs(folder)
        artefacts = _make_artefacts(folder)
        packed = folder / "packed"
        measures: dict[str, tuple[int, Callable[[], tuple[Counter[str], list[str]]]]] = {
            "kills": (
                given.kills,
                lambda: kills.measure(
                    folder, _numbers(given.first, given.kills), given.seed, folder / "work"
                ),
            ),
            "mutants": (
                given.mutants,
                lambda: mutants.measure(
                    artefacts, _numbers(given.first, given.mutants), given.seed, folder
                ),
            ),
            # Last: no process is forked after threads have run.
            "calls": (given.calls, lambda: concurrent_calls.measure(packed, given.calls)),
        }
        wrong = []
        for kind, (count, measure) in measures.items():
            if not count:
                continue
            ends, lines = measure()
            before = figures.get(kind, {"ends": {}, "wrong": []})
            ends.update(before["ends"])
            figures[kind] = {
                "ends": dict(sorted(ends.items())),
                "wrong": before["wrong"] + lines,
                "seed": given.seed,
                "machine": machine(),
                "git_commit": git_commit(),
            }
            wrong += lines
            if given.out is not None:
                given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))
    sys.exit(1 if wrong else 0)


def _numbers(first: int, count: int) -> range:
    return range(first, first + count)


def _make_artefacts(folder: Path) -> list[Path]:
    """One of each kind that is read: binary, packed, fine-tuned in full precision, an adapter."""
    commands = kills.commands(folder)
    kinds = {
        "binary": "compress",
        "packed": "pack",
        "fine-tuned": "finetune full precision",
        "adapter": "finetune adapter",
    }
    for name, command in kinds.items():
        if kills.wait(commands[command].start(folder / name)):
            raise SystemExit(f"{command} failed: set ROBUSTNESS_LOG to a file, and read it")
    return [folder / name for name in kinds]


if __name__ == "__main__":
    main()
