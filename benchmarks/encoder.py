"""A binary BERT-base beside its peers: latency by batch, length and threads.

    python benchmarks/encoder.py [--batches 1 8 --lengths 32 128 512 --threads 1 2] [--quick]

Weights are random: speed does not depend on them. All systems run in one process, their rounds in
turn; medians, and the median over rounds of their time for ours. Then where the time of ours goes,
and how far it is from the limit of this machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from random_artefact import bert_base, write_random_artefact
from rich.console import Console

from bipft_compress import Recipe
from bipft_compress.benchmarking.run import Bench, Setting
from bipft_compress.benchmarking.show import show
from bipft_compress.cli import set_up


def rounds_of(tokens: int, most: int) -> int:
    """Fewer rounds where one takes seconds."""
    return max(3, min(most, most * 256 // tokens))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15, help="for short inputs")
    parser.add_argument("--quick", action="store_true", help="1 x 128 tokens, 1 thread")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.batches, arguments.lengths, arguments.threads = [1], [128], [1]
        arguments.rounds = 7

    console = Console()
    set_up(quiet=True)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        write_random_artefact(Path(folder), bert_base(), Recipe.load(arguments.recipe))
        bench = Bench(Path(folder), resident=False)
        for threads in arguments.threads:
            for batch in arguments.batches:
                for length in arguments.lengths:
                    rounds = rounds_of(batch * length, arguments.rounds)
                    measured = bench.measure(Setting(batch, length, threads, rounds))
                    show(measured, console)
                    figures.append(measured.model_dump())
                    if arguments.json:
                        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
