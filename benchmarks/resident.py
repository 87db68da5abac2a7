"""Memory of a binary BERT-base in a process, beside the full-precision one.

    python benchmarks/resident.py [--recipe default]

Each is loaded in a process of its own: by how much loading grew it, once every weight was read.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from random_artefact import bert_base, write_random_artefact
from rich.console import Console
from rich.table import Table

from bipft_compress import Recipe
from bipft_compress.benchmarking.resident import resident_bytes
from bipft_compress.checkpoint.record import WEIGHTS
from bipft_compress.cli import set_up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="default")
    arguments = parser.parse_args()
    set_up(quiet=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = bert_base()
        write_random_artefact(folder, config, Recipe.load(arguments.recipe))
        file = (folder / WEIGHTS).stat().st_size
        packed = resident_bytes("packed", folder)
        full = resident_bytes("untrained", folder)
    if packed is None or full is None:
        raise SystemExit("This system does not tell what is resident.")
    table = Table("BERT-base", "resident MB", title_justify="left")
    table.add_row("full precision", f"{full / 1e6:.1f}")
    table.add_row(f"packed (a file of {file / 1e6:.1f} MB)", f"{packed / 1e6:.1f}")
    table.add_row("ratio", f"{full / packed:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
