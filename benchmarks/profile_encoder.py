"""Where the time of a binary BERT-base goes, and how far it is from the limit of this machine.

    python benchmarks/profile_encoder.py [--batch 1 --length 128 --threads 1 --rounds 15]

Weights are random: speed does not depend on them. `bipft-compress benchmark` says the same of a
model of yours.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from random_artefact import bert_base, write_random_artefact
from rich.console import Console

from bipft_compress import Recipe, load
from bipft_compress.benchmarking.profile import packed_shape, profile
from bipft_compress.benchmarking.show import show_profile
from bipft_compress.benchmarking.timing import torch_threads
from bipft_compress.cli import set_up
from bipft_compress.provenance import machine
from bipft_compress.runtime.native import chosen_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    set_up(quiet=True)
    with tempfile.TemporaryDirectory() as folder:
        write_random_artefact(Path(folder), bert_base(), Recipe.load(arguments.recipe))
        model, _, _ = load(folder)
        shape = packed_shape(folder, arguments.batch, arguments.length)
    ids = torch.randint(model.config.vocab_size, (arguments.batch, arguments.length))
    profiled = profile(model, shape, ids, arguments.threads, arguments.rounds)
    console = Console()
    if profiled is not None:
        show_profile(profiled, console)
    with torch_threads(arguments.threads):
        console.print(f"{machine()}; kernels: {chosen_path()}")


if __name__ == "__main__":
    main()
