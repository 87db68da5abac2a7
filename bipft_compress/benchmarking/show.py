"""A measurement for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from bipft_compress.reporting import Measured, Profile
from bipft_compress.reporting.measured import profile_section
from bipft_compress.reporting.terminal import rich_table


def show(measured: Measured, console: Console) -> None:
    """Systems with times and sizes, ours first; its profile; what does not run; the machine."""
    table = Table(
        title=f"{measured.batch} x {measured.sequence_length} tokens, "
        f"medians of {measured.rounds} rounds",
        title_justify="left",
    )
    table.add_column("System")
    for heading in ("ms", "time / ours", "file MB", "resident MB"):
        table.add_column(heading, justify="right")
    absent = []
    for system in measured.systems:
        if system.milliseconds is None:
            absent.append(f"{system.name}: {system.note}")
            continue
        table.add_row(
            f"{system.name} {system.note}".strip(),
            _number(system.milliseconds, 1),
            _number(system.ratio, 2),
            _number(system.file_bytes, 1, 1e6),
            _number(system.resident_bytes, 1, 1e6),
        )
    console.print(table)
    if measured.profile:
        show_profile(measured.profile, console)
    machine = (
        f"{measured.machine}; kernels: {measured.path}; torch {measured.torch_version}. "
        f"The peers ran {measured.original}."
    )
    for line in (*absent, machine):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_profile(profile: Profile, console: Console) -> None:
    """The stages of a forward pass, and how far it is from the limit."""
    section = profile_section(profile)
    assert section.table is not None
    console.print(rich_table(section.table, section.title))
    for line in section.text:
        console.print(line, highlight=False, soft_wrap=True)


def _number(value: float | None, decimals: int, unit: float = 1) -> str:
    return "-" if value is None else f"{value / unit:.{decimals}f}"
