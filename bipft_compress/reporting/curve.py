"""The curve of a checkpoint as a page: what each budget keeps."""

from __future__ import annotations

from string import ascii_lowercase
from typing import NamedTuple

from pydantic import BaseModel

from bipft_compress.reporting import units
from bipft_compress.reporting.html import render_page
from bipft_compress.reporting.layout import Card, Row, Section, Table
from bipft_compress.reporting.markdown import render_sections

LIKENESS = "likeness"
SCORE = "STS"


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


class CurvePoint(BaseModel):
    """One budget: what it saves, and what its start keeps.

    Attributes:
        operations: times fewer.
        memory: times fewer bytes of the packed file.
        error: normalised squared error of the last hidden states, on the calibration text.
        likeness: mean cosine of sentence embeddings with the original's.
        score: Spearman's correlation on the sentence pairs that were given; None without.
        latency_ms: of the encoder's layers, for one sequence of 128 tokens, on kernels; None where
            none runs them.
        command: that makes this point.
    """

    operations: float
    memory: float
    error: float
    likeness: float
    score: float | None
    latency_ms: float | None = None
    command: str


class Peer(BaseModel):
    """Another system on the same sentence pairs.

    Attributes:
        name: of the system.
        memory: times smaller than the original.
        score: as that of the points.
    """

    name: str
    memory: float
    score: float


class Curve(BaseModel):
    """Every point of a checkpoint, and the original.

    Attributes:
        checkpoint: name of the original.
        score: of the original; None where no pairs were given.
        points: from the cheapest bits to the finest.
        peers: what else was measured on these pairs.
        provenance: command, versions, seed.
    """

    checkpoint: str
    score: float | None
    points: list[CurvePoint]
    peers: list[Peer] = []
    provenance: dict[str, object]


class System(NamedTuple):
    """What is no point of the curve, measured here or published.

    Attributes:
        mark: letter in the picture.
        name: of the system.
        memory: times smaller than its original.
        score: as that of the points; of a published one, the share of its original's score that is
            printed, of the score here.
        published: whether others measured it.
    """

    mark: str
    name: str
    memory: float
    score: float
    published: bool


def other_systems(curve: Curve) -> list[System]:
    """What the curve is compared with, the smallest first; none without a score."""
    if curve.score is None:
        return []
    systems = [(peer.memory, peer.name, peer.score, False) for peer in curve.peers]
    for name, (memory, score) in PUBLISHED.items():
        systems.append((memory, name, score / FULL_STSB * curve.score, True))
    return [
        # Beyond the alphabet they have no letter.
        System(ascii_lowercase[n : n + 1], name, memory, score, published)
        for n, (memory, name, score, published) in enumerate(sorted(systems, reverse=True))
    ]


def curve_title(curve: Curve) -> str:
    """What the page is about."""
    return f"What each budget keeps: {curve.checkpoint}"


def curve_figures(curve: Curve) -> list[Card]:
    """What is kept at the cheapest point, at one in the middle, and at the finest."""
    shown = [curve.points[0], curve.points[len(curve.points) // 2], curve.points[-1]]
    original = "1" if curve.score is None else f"{curve.score:.4f}"
    return [
        Card(
            f"{point.likeness:.3f}" if point.score is None else f"{point.score:.4f}",
            f"at {units.ratio(point.memory)} smaller",
            f"original: {original}; {units.ratio(point.operations)} fewer operations",
        )
        for point in shown
    ]


def curve_table(curve: Curve) -> Table:
    """All points in numbers."""
    header: Row = ("fewer operations", "smaller", "ms", "error", LIKENESS)
    rows: list[Row] = []
    for point in curve.points:
        row: Row = (
            units.ratio(point.operations),
            units.ratio(point.memory),
            "-" if point.latency_ms is None else f"{point.latency_ms:.1f}",
            f"{point.error:.3f}",
            f"{point.likeness:.3f}",
        )
        rows.append(row if point.score is None else (*row, f"{point.score:.4f}"))
    if curve.score is not None:
        header = (*header, SCORE)
        rows.append(("original", "", "", "0", "1", f"{curve.score:.4f}"))
    return Table(header, "r" * len(header), rows)


def systems_table(curve: Curve) -> Table:
    """What the curve is compared with, by the picture's letters."""
    rows: list[Row] = [
        (
            system.mark,
            system.name,
            "published" if system.published else "measured",
            units.ratio(system.memory),
            f"{system.score:.4f}",
        )
        for system in other_systems(curve)
    ]
    return Table(("", "system", "", "smaller", SCORE), "lllrr", rows)


def curve_sections(curve: Curve) -> list[Section]:
    """The picture, the numbers behind it, and how each point is made."""
    published = (
        (
            "Letters are other systems, of the table below. Hollow marks are published ones on "
            "BERT-base, fine-tuned: the share of the original's STS-B that their papers print, of "
            "the score here.",
        )
        if curve.score is not None
        else ()
    )
    sections = [
        Section(
            "The curve",
            (
                "Bits of weights, activations and word embeddings are chosen module by module for "
                "each budget. These are starts from closed forms on little text: compress fits "
                "with more, and training adds to that. Milliseconds are those of the encoder's "
                "layers, for one sequence of 128 tokens.",
                *published,
            ),
            figure="curve",
        ),
        Section("In numbers", table=curve_table(curve)),
    ]
    if curve.score is not None:
        sections.append(Section("Beside", table=systems_table(curve)))
    commands = "\n".join(point.command for point in curve.points)
    return [*sections, Section("How to make a point", verbatim=commands)]


def render_curve_markdown(curve: Curve) -> str:
    """The curve in Markdown, without its picture."""
    return render_sections(curve_title(curve), curve_sections(curve))


def render_curve_html(curve: Curve) -> str:
    """The curve as one HTML file that needs nothing outside itself."""
    # Drawing needs matplotlib, which is slow to import.
    from bipft_compress.reporting.curve_figure import draw_curve

    return render_page(
        curve_title(curve),
        curve_figures(curve),
        curve_sections(curve),
        {"curve": draw_curve(curve)},
        {"curve": "Quality of each budget against how many times smaller it is"},
    )
