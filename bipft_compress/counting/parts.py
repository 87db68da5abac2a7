"""Entries of the operation count, each with what it costs in both models."""

from __future__ import annotations

from bipft_compress.counting import costs
from bipft_compress.counting.schema import OperationPart

FULL_WIDTHS = f"{costs.FULL_PRECISION_BITS}x{costs.FULL_PRECISION_BITS}"
"""Widths of the operands of a product in full precision, as `OperationPart.bits` has them."""

FOLDED = "folded into the thresholds of the next codes"
"""Note on arithmetic that needs none of its own in the binary model."""


def product_part(
    name: str, kind: str, macs: int, left_bits: int, right_bits: int, note: str = ""
) -> OperationPart:
    """A product of the original that the binary model computes at these bits."""
    return OperationPart(
        name=name,
        kind=kind,
        bits=f"{left_bits}x{right_bits}",
        macs=macs,
        full_precision=costs.product(macs),
        compressed=costs.product(macs, left_bits, right_bits),
        note=note,
    )


def kept_part(name: str, kind: str, macs: int, note: str = "") -> OperationPart:
    """A product that both models compute in full precision."""
    bits = costs.FULL_PRECISION_BITS
    return product_part(name, kind, macs, bits, bits, note)


def original_part(name: str, kind: str, macs: int, note: str) -> OperationPart:
    """A product that only the original computes."""
    return OperationPart(
        name=name,
        kind=kind,
        bits=FULL_WIDTHS,
        macs=macs,
        full_precision=costs.product(macs),
        compressed=0,
        note=note,
    )


def estimator_part(name: str, macs: int, note: str, kind: str = "estimator") -> OperationPart:
    """A full-precision product that only the binary model computes."""
    return OperationPart(
        name=name,
        kind=kind,
        bits=FULL_WIDTHS,
        macs=macs,
        full_precision=0,
        compressed=costs.product(macs),
        note=note,
    )


def elementwise_part(
    name: str, kind: str, full: int, compressed: int, note: str = ""
) -> OperationPart:
    """Arithmetic outside products, in FLOPs of the original and of the binary model."""
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


def repeated(part: OperationPart, calls: int) -> OperationPart:
    """The same, of a module that a forward pass runs `calls` times."""
    if calls == 1:
        return part
    note = f"{part.note}; " if part.note else ""
    return part.model_copy(
        update={
            "macs": calls * part.macs,
            "full_precision": calls * part.full_precision,
            "compressed": calls * part.compressed,
            "integer_comparisons": calls * part.integer_comparisons,
            "note": f"{note}runs {calls} times",
        }
    )
