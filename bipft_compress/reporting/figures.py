"""The report's figures, as SVG to be placed inside a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bipft_compress.counting.schema import MEMORY_KINDS, OPERATION_KINDS
from bipft_compress.reporting import units
from bipft_compress.reporting.measured import latency_change
from bipft_compress.reporting.schema import STAGES, Profile, Report

WIDTH = 6.6
"""Of a figure, in inches, as all sizes below: a phone shows it at half its size."""
SUMMARY_WIDTH = 4.8
"""Of the one that is seen first, which a phone shows nearly whole."""
BAR_HEIGHT = 0.5
"""Of a pair of bars."""
AXES_HEIGHT = 0.9
"""Of legend, ticks and labels above and below the bars."""
ROOM_FOR_LABELS = 1.25
"""Length of the axis over that of the longest bar, at whose end its value stands."""
MILLIONS_FROM = 1e5
"""Tokens from which on they are shown in millions."""

FULL_COLOUR = "#7b8794"
COMPRESSED_COLOUR = "#0b6e99"
_STAGE_COLOURS = ("#9aa5b1", COMPRESSED_COLOUR, "#4ea3c8", "#a5d3e8", "#f0b429", "#cbd2d9")
STYLE: Any = {
    # Without a fixed salt every drawing would get other ids, and every report other bytes.
    "svg.hashsalt": "bipft-compress",
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": "#323f4b",
    "text.color": "#323f4b",
    "xtick.color": "#52606d",
    "ytick.color": "#323f4b",
    "font.size": 10,
    # A name of a loss term or a kind is text, never TeX.
    "text.parse_math": False,
}


_THEMED = {
    "#1f2933": "ink", "#323f4b": "ink", "#52606d": "soft", "#7b8794": "full", "#9aa5b1": "rule",
    "#cbd2d9": "rule", COMPRESSED_COLOUR: "accent",
}  # fmt: skip
"""Colours that a page sets for light and dark, to its names for them."""


def draw_figures(report: Report) -> dict[str, str]:
    """Name of a figure to its SVG; only figures that there is something to show in.

    Names: ``summary``, ``operations``, ``memory``, ``profile``, ``errors`` and ``training``.
    """
    with rc_context(STYLE):
        figures = {
            "summary": _summary(report),
            "operations": _operations(report),
            "memory": _memory(report),
        }
        if report.measured and report.measured.profile:
            figures["profile"] = _profile(report.measured.profile)
        if report.layer_errors:
            figures["errors"] = _errors(report.layer_errors)
        if len(report.training) > 1:
            figures["training"] = _training(report)
        return {name: to_svg(figure, name) for name, figure in figures.items()}


def to_svg(figure: Figure, name: str) -> str:
    """A figure as text that can stand in a page, its ids made unique by `name`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Inside HTML namespaces are understood, and without them the page names no outside address.
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    # Several drawings share one page, so their ids must differ.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    for colour, variable in _THEMED.items():
        text = text.replace(colour, f"var(--{variable}, {colour})")
    return text.strip()


def _summary(report: Report) -> Figure:
    """What is left of the original, all on one scale: short bars are saved, long ones kept."""
    operations, memory = report.operations, report.memory
    left = {
        "operations": operations.compressed / operations.full_precision,
        "memory": memory.compressed_bytes / memory.full_precision_bytes,
    }
    change = latency_change(report.measured) if report.measured else None
    if change is not None:
        left["latency"] = 1 / change[2]
    for name, score in report.quality.items():
        # Below 0 a share of the original means nothing.
        if score.full_precision and score.full_precision > 0:
            left[name] = max(0.0, score.compressed / score.full_precision)
    figure = Figure(figsize=(SUMMARY_WIDTH, 0.34 * len(left) + 0.5), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(left)), 1, color=FULL_COLOUR, alpha=0.25, height=0.62)
    bars = axes.barh(range(len(left)), list(left.values()), color=COMPRESSED_COLOUR, height=0.62)
    axes.bar_label(bars, [units.share(part, 1) for part in left.values()], padding=4)
    _name_rows(axes, list(left))
    axes.set_xlim(0, max(ROOM_FOR_LABELS, 1.2 * max(left.values())))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_title("what is left of the original", loc="left", fontsize=10)
    return figure


def _operations(report: Report) -> Figure:
    counts = report.operations.by_kind
    kinds = [kind for kind in OPERATION_KINDS if kind in counts]
    return _pairs(
        [OPERATION_KINDS[kind] for kind in kinds],
        [counts[kind].full_precision for kind in kinds],
        [counts[kind].compressed for kind in kinds],
        units.flops_unit,
    )


def _memory(report: Report) -> Figure:
    counts = report.memory.by_kind
    kinds = [kind for kind in MEMORY_KINDS if kind in counts]
    return _pairs(
        [MEMORY_KINDS[kind] for kind in kinds],
        [counts[kind].full_precision_bytes for kind in kinds],
        [counts[kind].compressed_bytes for kind in kinds],
        units.size_unit,
    )


def _pairs(
    names: Sequence[str],
    full: Sequence[float],
    compressed: Sequence[float],
    unit_of: Callable[[float], units.Unit],
) -> Figure:
    """Before and after of each kind, all on one scale: what was saved is what is not there."""
    figure = Figure(figsize=(WIDTH, BAR_HEIGHT * len(names) + AXES_HEIGHT), layout="constrained")
    axes = figure.subplots()
    unit = unit_of(max(full))
    for values, name, colour, offset in (
        (full, "full precision", FULL_COLOUR, -0.19),
        (compressed, "compressed", COMPRESSED_COLOUR, 0.19),
    ):
        rows = [row + offset for row in range(len(names))]
        bars = axes.barh(rows, [v / unit.step for v in values], 0.36, color=colour, label=name)
        labels = [f"{unit_of(v).show(v)} {unit_of(v).name}" if v else "0" for v in values]
        axes.bar_label(bars, labels, padding=4, color="#52606d", fontsize=8)
    _name_rows(axes, names)
    axes.set_xlim(0, ROOM_FOR_LABELS * max(*full, *compressed) / unit.step)
    axes.set_xlabel(unit.name)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()


def _profile(profile: Profile) -> Figure:
    """One bar of stages, and the limit of its products as a line across it."""
    figure = Figure(figsize=(WIDTH, 1.9), layout="constrained")
    axes = figure.subplots()
    left = 0.0
    for (stage, name), colour in zip(STAGES.items(), _STAGE_COLOURS, strict=True):
        if stage in profile.stages:
            width = profile.stages[stage]
            axes.barh(0, width, left=left, height=0.6, color=colour, label=name)
            left += width
    axes.axvline(profile.limit_milliseconds, color="#1f2933", linestyle="--", label="limit")
    axes.set_xlim(0, 1.02 * max(left, profile.limit_milliseconds))
    axes.set_yticks([])
    axes.set_xlabel("ms")
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return figure


def _errors(errors: Sequence[float]) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    layers = range(1, len(errors) + 1)
    axes.plot(layers, errors, marker="o", markersize=5, color=COMPRESSED_COLOUR)
    axes.set_xticks(layers)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("layer")
    axes.set_ylabel("squared error / variance")
    return figure


def _training(report: Report) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    axes = figure.subplots()
    step, unit = (
        (1e6, "million tokens") if report.training[-1].tokens >= MILLIONS_FROM else (1, "tokens")
    )
    tokens = [point.tokens / step for point in report.training]
    axes.plot(tokens, [point.loss for point in report.training], color=COMPRESSED_COLOUR)
    axes.set_xlim(left=0)
    axes.set_xlabel(unit)
    axes.set_ylabel("loss")
    return figure
