"""Sections on what was counted: operations and memory."""

from __future__ import annotations

import re

from bipft_compress.counting.costs import FULL_PRECISION_BITS
from bipft_compress.counting.memory import ADDED
from bipft_compress.counting.schema import MEMORY_KINDS, OPERATION_KINDS
from bipft_compress.reporting import units
from bipft_compress.reporting.layout import Row, Section, Table
from bipft_compress.reporting.schema import Report


def operations_section(report: Report) -> Section:
    """Operations by kind, with their figure."""
    counts, total = report.operations.by_kind, report.operations
    unit = units.flops_unit(total.compressed)
    rows: list[Row] = [
        (
            name,
            units.count(counts[kind].macs),
            unit.show(counts[kind].full_precision),
            unit.show(counts[kind].compressed),
            units.share(counts[kind].compressed, total.compressed),
        )
        for kind, name in OPERATION_KINDS.items()
        if kind in counts
    ]
    macs = units.count(sum(count.macs for count in counts.values()))
    full, compressed = unit.show(total.full_precision), unit.show(total.compressed)
    rows.append(("sum", macs, full, compressed, "100.0 %"))
    header = (
        "kind",
        "multiply-accumulates",
        f"full precision, {unit.name}",
        f"compressed, {unit.name}",
        "share",
    )
    return Section(
        "Operations by kind",
        (
            "A full-precision multiply-accumulate is 2 FLOPs, one of m by n bits m n / 64 of that. "
            "Elementwise: add, subtract, multiply and compare 1, divide and square root 4, "
            "exponential and the like 8 (McMahon 1986).",
        ),
        figure="operations",
        table=Table(header, "lrrrr", rows),
    )


def bits_section(report: Report) -> Section:
    """Operations by the widths of their operands."""
    full = report.operations.by_bits["full_precision"]
    compressed = report.operations.by_bits["compressed"]
    widths = sorted(
        {*full.macs, *compressed.macs}, key=lambda bits: [int(side) for side in bits.split("x")]
    )
    rows: list[Row] = [
        (
            f"{bits} bit multiply-accumulates",
            units.count(full.macs.get(bits, 0)),
            units.count(compressed.macs.get(bits, 0)),
        )
        for bits in widths
    ]
    for name, before, after in (
        ("elementwise FLOPs", full.elementwise_flops, compressed.elementwise_flops),
        ("integer comparisons", full.integer_comparisons, compressed.integer_comparisons),
    ):
        rows.append((name, units.count(before), units.count(after)))
    return Section(
        "Operations by bit width",
        ("The exact counts behind all figures, before any convention.",),
        table=Table(("", "full precision", "compressed"), "lrr", rows),
        folded=True,
    )


_OF_BLOCK = re.compile(r".*\.(\d+)\.block\.(.+)")


def module_bits_section(report: Report) -> Section:
    """Bits of weights and activations of every linear layer, one row a layer of the encoder."""
    rows: dict[str, dict[str, str]] = {}
    for part in report.operations.parts:
        linear = _OF_BLOCK.fullmatch(part.name)
        if part.kind == "linear" and linear:
            activations, weights = part.bits.split("x")
            rows.setdefault(linear[1], {})[linear[2]] = f"{weights} x {activations}"
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    return Section(
        "Bits by module",
        ("Bits of a weight by bits of the activation that it is multiplied with.",),
        table=Table(
            ("layer", *columns),
            "l" + "r" * len(columns),
            [(number, *(row.get(name, "") for name in columns)) for number, row in rows.items()],
        ),
        folded=len({bits for row in rows.values() for bits in row.values()}) == 1,
    )


def memory_section(report: Report) -> Section:
    """Memory by kind, with its figure."""
    counts, total = report.memory.by_kind, report.memory
    unit = units.size_unit(total.compressed_bytes)
    rows: list[Row] = []
    for kind, name in MEMORY_KINDS.items():
        if kind not in counts:
            continue
        before, after = counts[kind].full_precision_bytes, counts[kind].compressed_bytes
        # Scales, estimators and tables are new numbers: no original to count their bits by.
        bits = "-" if kind in ADDED or not before else _bits(after, before)
        part = units.share(after, total.compressed_bytes)
        rows.append((name, unit.show(before), unit.show(after), bits, part))
    full, compressed = total.full_precision_bytes, total.compressed_bytes
    rows.append(("sum", unit.show(full), unit.show(compressed), _bits(compressed, full), "100.0 %"))
    header = (
        "kind",
        f"full precision, {unit.name}",
        f"compressed, {unit.name}",
        "bits a weight",
        "share",
    )
    return Section(
        "Memory by kind",
        ("Bits a weight: packed bits over the numbers that the original has there.",),
        figure="memory",
        table=Table(header, "lrrrr", rows),
    )


def _bits(compressed: int, full: int) -> str:
    """Packed bits for each number of the original."""
    return f"{FULL_PRECISION_BITS * compressed / full:.2f}"


def papers_section(report: Report) -> Section:
    """What papers on binary BERTs print."""
    papers = report.papers_convention
    flops = units.flops_unit(papers.operations_compressed)
    size = units.size_unit(papers.memory_compressed_bytes)
    rows: list[Row] = [
        (
            f"operations, {flops.name}",
            flops.show(papers.operations_full_precision),
            flops.show(papers.operations_compressed),
        ),
        (
            f"memory, {size.name}",
            size.show(papers.memory_full_precision_bytes),
            size.show(papers.memory_compressed_bytes),
        ),
    ]
    for part in papers.parts:
        if part.operations_full_precision is not None:
            before = flops.show(part.operations_full_precision)
            after = flops.show(part.operations_compressed or 0)
        else:
            before = size.show(part.memory_full_precision_bytes or 0)
            after = size.show(part.memory_compressed_bytes or 0)
        rows.append((f"of which {part.name}", before, after))
    return Section(
        "In the papers' convention",
        (
            "What papers on binary BERTs print for this geometry and these bits: no estimators, "
            "one bit a weight. Their MB are MiB.",
        ),
        table=Table(("", "full precision", "compressed"), "lrr", rows),
        items=tuple(f"Left out: {sentence}" for sentence in papers.left_out),
        folded=True,
    )
