"""A measurement for a terminal."""

from __future__ import annotations

from rich.table import Table

from bipft_compress.reporting import Measured


def measured_table(measured: Measured) -> Table:
    """Systems with their times and sizes, ours first."""
    table = Table(
        title=f"{measured.batch} x {measured.sequence_length} tokens, "
        f"medians of {measured.rounds} rounds",
        title_justify="left",
    )
    table.add_column("System")
    for heading in ("ms", "time / ours", "file MB", "resident MB"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for system in measured.systems:
        table.add_row(
            system.name,
            _number(system.milliseconds, 1),
            _number(system.ratio, 2),
            _number(system.file_bytes, 1, 1e6),
            _number(system.resident_bytes, 1, 1e6),
            system.note,
        )
    return table


def machine_line(measured: Measured) -> str:
    """On what it was measured, and what the peers ran."""
    return (
        f"{measured.machine}; kernels: {measured.path}; torch {measured.torch_version}. "
        f"Peers ran {measured.original}."
    )


def _number(value: float | None, decimals: int, unit: float = 1) -> str:
    return "-" if value is None else f"{value / unit:.{decimals}f}"
