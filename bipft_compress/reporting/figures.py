"""The report's figures, as SVG to be placed inside a page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bipft_compress.counting.schema import MEMORY_KINDS, OPERATION_KINDS
from bipft_compress.reporting import units
from bipft_compress.reporting.schema import STAGES, Profile, Report

_Values = tuple[Sequence[float], units.Unit]

WIDTH = 9
"""Of a figure, in inches, as all sizes below."""
BAR_HEIGHT = 0.3
AXES_HEIGHT = 1.1
"""Of titles, ticks and labels above and below the bars."""
ROOM_FOR_LABELS = 1.18
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
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "xtick.color": "#52606d",
    "ytick.color": "#323f4b",
    "font.size": 10,
    # A name of a loss term or a kind is text, never TeX.
    "text.parse_math": False,
}


def draw_figures(report: Report) -> dict[str, str]:
    """Name of a figure to its SVG; only figures that there is something to show in.

    Names: ``operations``, ``memory``, ``profile``, ``errors`` and ``training``.
    """
    with rc_context(STYLE):
        figures = {"operations": _operations(report), "memory": _memory(report)}
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
    return text.strip()


def _operations(report: Report) -> Figure:
    counts, total = report.operations.by_kind, report.operations
    kinds = [kind for kind in OPERATION_KINDS if kind in counts]
    return _two_panels(
        [OPERATION_KINDS[kind] for kind in kinds],
        ([counts[kind].full_precision for kind in kinds], units.flops_unit(total.full_precision)),
        ([counts[kind].compressed for kind in kinds], units.flops_unit(total.compressed)),
    )


def _memory(report: Report) -> Figure:
    counts, total = report.memory.by_kind, report.memory
    kinds = [kind for kind in MEMORY_KINDS if kind in counts]
    return _two_panels(
        [MEMORY_KINDS[kind] for kind in kinds],
        (
            [counts[kind].full_precision_bytes for kind in kinds],
            units.size_unit(total.full_precision_bytes),
        ),
        (
            [counts[kind].compressed_bytes for kind in kinds],
            units.size_unit(total.compressed_bytes),
        ),
    )


def _two_panels(names: Sequence[str], full: _Values, compressed: _Values) -> Figure:
    """Both sums side by side, each on its own scale: on one, the second could not be seen."""
    figure = Figure(figsize=(WIDTH, BAR_HEIGHT * len(names) + AXES_HEIGHT))
    figure.set_layout_engine("constrained", wspace=0.06)
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, names, full, "full precision", FULL_COLOUR)
    _bars(right, names, compressed, "compressed", COMPRESSED_COLOUR)
    left.invert_yaxis()
    return figure


def _bars(axes: Axes, names: Sequence[str], data: _Values, name: str, colour: str) -> None:
    values, unit = data
    shown = [value / unit.step for value in values]
    bars = axes.barh(range(len(names)), shown, color=colour, height=0.65)
    axes.bar_label(bars, [unit.show(value) for value in values], padding=4, color="#52606d")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, ROOM_FOR_LABELS * max(shown))
    axes.set_xlabel(unit.name)
    axes.set_title(f"{name}: {unit.show(sum(values))} {unit.name}")


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
