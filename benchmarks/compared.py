"""What `compare_recipes.py` found, as a table and a figure; and the variants it can compare."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from bipft_compress import Recipe
from bipft_compress.reporting.layout import Table
from bipft_compress.reporting.markdown import markdown_table

UNTUNED = "sts"
"""The measurement before fine-tuning: similarity of mean-pooled embeddings."""

NAMES = {"sst2": "SST-2", "cola": "CoLA", "rte": "RTE", "stsb": "STS-B", UNTUNED: "STS-B, untuned"}

SPREAD = "± is half the distance between two seeds; a figure without it is of one."

MAGNITUDES = {"scales": "magnitude", "method": "zero", "refits": 0, "sign_sweeps": 0}
"""The papers' start."""


def _every_rank(rank: int) -> dict[str, dict[str, Any]]:
    return {"estimators": Recipe().with_rank(rank).estimators.ranks()}


VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "papers' start": {
        "initialisation": MAGNITUDES | {"layer_epochs": 0, "calibration_tokens": 8192}
    },
    "no descent by layers": {"initialisation": {"layer_epochs": 0}},
    "papers' start and descent by layers": {"initialisation": MAGNITUDES},
    "no estimators": _every_rank(0),
    "rank 8": _every_rank(8),
    "hidden states alone": {
        "objective": {"sentence_cosine": 0.0, "sentence_similarity": 0.0}
    },
    "sentences alone": {"objective": {"hidden_states": 0.0}},
    "2-bit activations": {"activations": {"bits": 2}},
    "4-bit activations": {"activations": {"bits": 4}},
    "8-bit activations": {"activations": {"bits": 8}},
    "full embeddings": {"embeddings": {"code": "full"}},
    "embeddings by frequency": {"embeddings": {"code": "frequency-aware"}},
}  # fmt: skip
"""Name to what it changes of the default recipe: what each piece brings."""


@dataclass(frozen=True)
class Result:
    """One recipe; scores by task, one for each seed."""

    name: str
    scores: dict[str, list[float]]
    operations: float
    """How many times fewer than in full precision, by the papers' convention."""
    memory: float
    tokens: int
    """Of pretraining."""
    minutes: float | None
    """Of compression, pretraining and fine-tuning, where they are known."""

    def averages(self, tasks: tuple[str, ...]) -> list[float]:
        """Mean over the tasks, for each seed that has them all; before any, `UNTUNED` alone."""
        columns = [self.scores.get(task, []) for task in tasks or (UNTUNED,)]
        return [statistics.fmean(row) for row in zip(*columns, strict=False)]


def _figure(values: list[float]) -> str:
    """Mean and spread, in points."""
    if not values:
        return "-"
    mean = f"{100 * statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {50 * (max(values) - min(values)):.1f}"


def table(results: list[Result], tasks: tuple[str, ...]) -> str:
    """Markdown; spread is half the distance between the best and the worst seed."""
    average = ("average",) if tasks else ()
    header = (
        "", *(NAMES[task] for task in tasks), *average, NAMES[UNTUNED], "operations", "memory",
        "tokens", "minutes",
    )  # fmt: skip
    rows = []
    for result in results:
        cells = [_figure(result.scores.get(task, [])) for task in tasks]
        cells += [_figure(result.averages(tasks)) for _ in average]
        cells.append(_figure(result.scores.get(UNTUNED, [])))
        cells += [f"{result.operations:.1f}x", f"{result.memory:.1f}x", f"{result.tokens:,}"]
        cells.append("-" if result.minutes is None else f"{result.minutes:.0f}")
        rows.append((result.name, *cells))
    return markdown_table(Table(header, "l" + "r" * (len(header) - 1), rows)) + "\n"


def write_comparison(
    results: list[Result], tasks: tuple[str, ...], budget: str, out: Path, title: str
) -> str:
    """Write ``{title}.md`` and ``{title}.svg`` into `out`; returns the table."""
    out.mkdir(parents=True, exist_ok=True)
    shown = table(results, tasks)
    heading = f"# {title.capitalize()} at the same budget\n\n{budget} {SPREAD}\n\n"
    (out / f"{title}.md").write_text(heading + shown)
    figure, axes = pyplot.subplots(figsize=(9, 4.5))
    means = [
        (100 * statistics.fmean(averages), result.operations, result.name)
        for result in results
        if (averages := result.averages(tasks))
    ]
    # Recipes that save the same lie over each other, so the legend has the figures, best first.
    for (mean, operations, name), marker in zip(sorted(means, reverse=True), cycle("os^vDP*X")):
        axes.plot(operations, mean, marker, alpha=0.7, label=f"{mean:.1f}  {name}")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.set_xlabel("operations saved (times)")
    names = ", ".join(NAMES[task] for task in tasks)
    axes.set_ylabel(f"average of {names}" if tasks else NAMES[UNTUNED])
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out / f"{title}.svg")
    pyplot.close(figure)
    return shown
