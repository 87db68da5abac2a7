"""The curve's picture: quality against size, and the operations of each point."""

from __future__ import annotations

from matplotlib import rc_context
from matplotlib.figure import Figure

from bipft_compress.reporting.curve import LIKENESS, Curve
from bipft_compress.reporting.figures import COMPRESSED_COLOUR, FULL_COLOUR, STYLE, WIDTH, to_svg

MARKS = {"int8": 4.0, "BiBERT, BiT, BiPFT": 31.2}
"""Times smaller: 8 bits a weight; and what the papers on binary BERT-base publish (418 MB to 13.4).
"""


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
                f"{point.operations:.0f}x", (point.memory, value), xytext=(0, 8),
                textcoords="offset points", ha="center", fontsize=9, color="#52606d",
            )  # fmt: skip
        original = 1.0 if curve.score is None else curve.score
        axes.axhline(original, color=FULL_COLOUR, linestyle="--", linewidth=1)
        axes.annotate(
            "original", (1.0, original), xycoords=("axes fraction", "data"), xytext=(0, -12),
            textcoords="offset points", ha="right", color=FULL_COLOUR,
        )  # fmt: skip
        axes.set_xscale("log")
        shown = sorted({*memory, *MARKS.values()})
        axes.set_xlim(shown[0] / 1.1, shown[-1] * 1.1)
        axes.set_xticks([4, 6, 8, 12, 16, 24, 32], [f"{n}x" for n in (4, 6, 8, 12, 16, 24, 32)])
        axes.minorticks_off()
        for name, ratio in MARKS.items():
            axes.axvline(ratio, color="#cbd2d9", linewidth=1)
            axes.annotate(name, (ratio, 0), xycoords=("data", "axes fraction"), rotation=90,
                          xytext=(-11, 6), textcoords="offset points", color="#7b8794")  # fmt: skip
        axes.set_xlabel("times smaller (numbers at the points: times fewer operations)")
        axes.set_ylabel(
            f"{LIKENESS} to the original" if curve.score is None else "Spearman's correlation"
        )
        return to_svg(figure, "curve")
