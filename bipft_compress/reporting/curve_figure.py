"""The curve's picture: quality against size, and the operations of each point."""

from __future__ import annotations

from matplotlib import rc_context
from matplotlib.figure import Figure

from bipft_compress.reporting.curve import LIKENESS, Curve, other_systems
from bipft_compress.reporting.figures import COMPRESSED_COLOUR, FULL_COLOUR, STYLE, WIDTH, to_svg

INT8 = 4.0
"""Times smaller with 8 bits a weight."""

BELOW = 0.3
"""How far the picture goes below the curve, of the curve's height."""

LEAST_HEIGHT = 0.01
"""Height that a curve counts as, at least: one may be flat, or lie above the original."""

OTHERS = "#7b8794"
"""Colour of what is no point of the curve."""

TICKS = (4, 6, 8, 12, 16, 24, 32, 64)


def draw_curve(curve: Curve) -> str:
    """SVG of the curve; each point says how many times fewer operations it has."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        axes = figure.subplots()
        memory = [point.memory for point in curve.points]
        quality = [point.likeness if point.score is None else point.score for point in curve.points]
        axes.plot(memory, quality, marker="o", markersize=6, color=COMPRESSED_COLOUR)
        for point, value in zip(curve.points, quality, strict=True):
            axes.annotate(
                f"{point.operations:.0f}x", (point.memory, value), xytext=(5, 5),
                textcoords="offset points", fontsize=9, color="#52606d",
            )  # fmt: skip
        original = 1.0 if curve.score is None else curve.score
        # Far below the curve lies nothing to compare with: the table has it.
        lowest, highest = min(original, *quality), max(original, *quality)
        room = BELOW * max(highest - lowest, LEAST_HEIGHT)
        bottom = lowest - room
        axes.set_ylim(bottom, highest + room / 2)
        systems = [system for system in other_systems(curve) if system.score > bottom]
        for system in systems:
            axes.plot([system.memory], [system.score], "s", markersize=5, color=OTHERS,
                      markerfacecolor="none" if system.published else OTHERS)  # fmt: skip
            axes.annotate(
                system.mark, (system.memory, system.score), xytext=(-4, -10), ha="right",
                textcoords="offset points", fontsize=8, color=OTHERS,
            )  # fmt: skip
        axes.axhline(original, color=FULL_COLOUR, linestyle="--", linewidth=1)
        axes.annotate(
            "original", (1.0, original), xycoords=("axes fraction", "data"), xytext=(0, -12),
            textcoords="offset points", ha="right", color=FULL_COLOUR,
        )  # fmt: skip
        axes.set_xscale("log")
        shown = sorted({*memory, INT8, *(system.memory for system in systems)})
        axes.set_xlim(shown[0] / 1.1, shown[-1] * 1.1)
        axes.set_xticks(TICKS, [f"{n}x" for n in TICKS])
        axes.minorticks_off()
        axes.axvline(INT8, color="#cbd2d9", linewidth=1)
        axes.annotate("int8", (INT8, 0), xycoords=("data", "axes fraction"), rotation=90,
                      xytext=(-11, 6), textcoords="offset points", color=OTHERS)  # fmt: skip
        axes.set_xlabel("times smaller (numbers at the points: times fewer operations)")
        axes.set_ylabel(
            f"{LIKENESS} to the original" if curve.score is None else "Spearman's correlation"
        )
        return to_svg(figure, "curve")
