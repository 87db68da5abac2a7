"""Entries of the operation count, each with what it costs in both models."""

from __future__ import annotations

from bipft_compress.counting import costs
from bipft_compress.counting.schema import OperationPart


def product_part(
    name: str, kind: str, macs: int, left_bits: int, right_bits: int, note: str = ""
) -> OperationPart:
    """A product of the teacher that the student computes at these bits."""
    return OperationPart(
        name=name,
        kind=kind,
        bits=f"{left_bits}x{right_bits}",
        macs=macs,
        full_precision=costs.product(macs),
        compressed=costs.product(macs, left_bits, right_bits),
        note=note,
    )


def estimator_part(name: str, macs: int, note: str) -> OperationPart:
    """A full-precision product that only the student computes."""
    return OperationPart(
        name=name,
        kind="estimator",
        bits="32x32",
        macs=macs,
        full_precision=0,
        compressed=costs.product(macs),
        note=note,
    )


def elementwise_part(
    name: str, kind: str, full: int, compressed: int, note: str = ""
) -> OperationPart:
    """Arithmetic outside products, in FLOPs of the teacher and of the student."""
    return OperationPart(
        name=name,
        kind=kind,
        bits="elementwise",
        full_precision=full,
        compressed=compressed,
        note=note,
    )


def codes_part(name: str, values: int, comparisons: int, *, is_float: bool) -> OperationPart:
    """The coding of `values` values with `comparisons` comparisons each."""
    total = values * comparisons
    note = f"{comparisons} comparisons a value, " + ("in floating point" if is_float else "integer")
    return OperationPart(
        name=name,
        kind="thresholds",
        bits="elementwise" if is_float else "integer",
        full_precision=0,
        compressed=costs.COMPARE * total if is_float else 0,
        integer_comparisons=0 if is_float else total,
        note=note,
    )
