"""One recipe and seed of a comparison: where its models lie, and what was measured of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bipft_compress.files import write_atomically


@dataclass(frozen=True)
class Cell:
    """Models are large and of use to the next step alone; figures are small and are kept."""

    models: Path
    """Directory."""
    file: Path
    """JSON: name of a measurement to its figures, and ``minutes`` by step."""

    def read(self) -> dict[str, Any]:
        """All that is known."""
        known: dict[str, Any] = json.loads(self.file.read_text()) if self.file.is_file() else {}
        return known

    def note(self, name: str, figures: dict[str, float]) -> None:
        """Keep a measurement."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.file, json.dumps(self.read() | {name: figures}, indent=2) + "\n")

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Keep how many minutes a step took; of one that was cut short, its last part."""
        start = time.monotonic()
        yield
        minutes = self.read().get("minutes", {})
        self.note("minutes", minutes | {step: round((time.monotonic() - start) / 60, 2)})


def minutes(cells: list[Cell], steps: list[str]) -> float | None:
    """Of all `steps` together, each the mean of the cells that know it; None if none does."""
    noted = [cell.read().get("minutes", {}) for cell in cells]
    known = [[known[step] for known in noted if step in known] for step in steps]
    return sum(map(fmean, known)) if all(known) else None
