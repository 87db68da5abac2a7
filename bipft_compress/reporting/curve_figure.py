"""The curve's picture: quality against size, and the operations of each point."""

from __future__ import annotations

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bipft_compress.reporting.curve import LIKENESS, Curve
from bipft_compress.reporting.figures import COMPRESSED_COLOUR, FULL_COLOUR, STYLE, WIDTH, to_svg

MARKS = {"int8": 4.0, "BiBERT, BiT": 31.2}
"""Times smaller: 8 bits a weight; and what the papers on binary BERT-base publish (418 MB to 13.4).
"""

FULL_STSB = 90.1
"""STS-B dev of BERT-base, as printed with the published systems."""

PUBLISHED = {
    "BinaryBERT 1-1-4": (418 / 16.5, 87.2),
    "BiT 1-1-4": (31.2, 86.3),
    "BiT 1-1-2": (31.2, 82.2),
    "BiT 1-1-1": (31.2, 72.0),
    "BiBERT 1-1-1": (31.2, 33.6),
}
"""Times smaller, and STS-B dev: Bai et al. 2021, Liu et al. 2022, Qin et al. 2022, without data
augmentation; bits of weights, embeddings and activations."""


TICKS = (4, 6, 8, 12, 16, 24, 32, 64)


def draw_curve(curve: Curve) -> str:
    """SVG of the curve; each point says how many times fewer operations it has."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        axes = figure.subplots()
        memory = [point.memory for point in curve.points]
        quality = [point.likeness if point.score is None else point.score for point in curve.points]
        axes.plot(memory, quality, marker="o", markersize=6, color=COMPRESSED_COLOUR)
        for number, (point, value) in enumerate(zip(curve.points, quality, strict=True)):
            # Above and below in turn: neighbours may be close.
            offset = 8 if number % 2 == 0 else -16
            axes.annotate(
                f"{point.operations:.0f}x", (point.memory, value), xytext=(0, offset),
                textcoords="offset points", ha="center", fontsize=9, color="#52606d",
            )  # fmt: skip
        for peer in curve.peers:
            _mark(axes, peer.name, peer.memory, peer.score, filled=True)
        if curve.score is not None:
            for name, (ratio, score) in PUBLISHED.items():
                _mark(axes, name, ratio, score / FULL_STSB * curve.score, filled=False)
        original = 1.0 if curve.score is None else curve.score
        axes.axhline(original, color=FULL_COLOUR, linestyle="--", linewidth=1)
        axes.annotate(
            "original", (1.0, original), xycoords=("axes fraction", "data"), xytext=(0, -12),
            textcoords="offset points", ha="right", color=FULL_COLOUR,
        )  # fmt: skip
        axes.set_xscale("log")
        shown = sorted({*memory, *MARKS.values(), *(peer.memory for peer in curve.peers)})
        axes.set_xlim(shown[0] / 1.1, shown[-1] * 1.1)
        axes.set_xticks(TICKS, [f"{n}x" for n in TICKS])
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


def _mark(axes: Axes, name: str, memory: float, score: float, *, filled: bool) -> None:
    """A system that is no point of the curve."""
    colour = "#7b8794"
    axes.plot([memory], [score], "s", markersize=5, color=colour,
              markerfacecolor=colour if filled else "none")  # fmt: skip
    axes.annotate(name, (memory, score), xytext=(-6, -3), textcoords="offset points", ha="right",
                  fontsize=7, color=colour)  # fmt: skip
