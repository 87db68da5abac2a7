"""Nothing wrong in silence, nothing lost: mutants, kills and concurrent calls, counted.

    python benchmarks/robustness.py [--mutants 10000] [--kills 200] [--calls 10000] [--seed 0]
        [--out FILE]

Exits with 1 where anything went wrong. A mutant or kill is made again by its number and the seed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A process that forks has one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).parents[1]))

import concurrent_calls
import kills
import mutants
from tiny import write_inputs

from bipft_compress.provenance import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("mutants", 10_000), ("kills", 200), ("calls", 10_000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, help="JSON file for the figures.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        write_inputs(folder)
        binary, packed = folder / "binary", folder / "packed"
        for command, out in (("compress", binary), ("pack", packed)):
            if kills.wait(kills.call(*kills.commands(folder)[command], "--out", out)):
                raise SystemExit(f"{command} failed: set ROBUSTNESS_LOG to a file, and read it")
        results = {
            "kills": kills.measure(folder, given.kills, given.seed, folder / "work"),
            "mutants": mutants.measure([packed, binary], given.mutants, given.seed, folder),
            "calls": concurrent_calls.measure(packed, given.calls),
        }
    figures = {kind: dict(sorted(ends.items())) for kind, (ends, _) in results.items()}
    wrong = [line for _, lines in results.values() for line in lines]
    text = json.dumps(
        figures | {"wrong": wrong, "seed": given.seed, "machine": machine()}, indent=2
    )
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
