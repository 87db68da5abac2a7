"""Numbers as people read them."""

from __future__ import annotations

from typing import NamedTuple


class Unit(NamedTuple):
    """A unit and how many FLOPs or bytes it is."""

    name: str
    step: int

    def show(self, value: float) -> str:
        """`value` with about three significant digits, without the unit."""
        number = value / self.step
        if number == 0:
            return "0"
        if number < 0.001:
            return "<0.001"
        decimals = 1 if number >= 10 else 2 if number >= 1 else 3
        return f"{number:,.{decimals}f}"


_FLOPS = (Unit("GFLOPs", 10**9), Unit("MFLOPs", 10**6), Unit("kFLOPs", 10**3))
_BYTES = (Unit("GiB", 2**30), Unit("MiB", 2**20), Unit("KiB", 2**10))


def flops_unit(value: float) -> Unit:
    """The unit in which `value` FLOPs are at least one."""
    return next((unit for unit in _FLOPS if value >= unit.step), Unit("FLOPs", 1))


def size_unit(value: float) -> Unit:
    """The unit in which `value` bytes are at least one."""
    return next((unit for unit in _BYTES if value >= unit.step), Unit("B", 1))


def ratio(value: float) -> str:
    """A factor, as ``58.4x``."""
    return f"{value:.1f}x"


def share(part: float, whole: float) -> str:
    """A percentage with one decimal."""
    return f"{100 * part / whole:.1f} %"


def count(value: float) -> str:
    """An exact number with thousands separated."""
    return f"{value:,.0f}"


def measure(value: float | None) -> str:
    """A score with four decimals; a dash for none."""
    return "-" if value is None else f"{value:.4f}"
