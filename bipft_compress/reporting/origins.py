"""Sections on how the result came about: decisions, provenance, recipe."""

from __future__ import annotations

from bipft_compress.reporting import units
from bipft_compress.reporting.layout import Row, Section, Table
from bipft_compress.reporting.schema import Report, Swapped

ON_BITS = ("binary", "coded")
"""Actions of a decision that leave nothing in full precision; the others are rounded and kept."""


def swapped_section(report: Report) -> Section:
    """What runs on bits or is stored in few, summed up by kind."""
    swapped = [entry for entry in report.swapped if entry.action in ON_BITS]
    return Section("What was swapped", table=_decisions_table(swapped), folded=True)


def kept_section(report: Report) -> Section:
    """What computes in full precision, and why, summed up by kind."""
    kept = [entry for entry in report.swapped if entry.action not in ON_BITS]
    return Section(
        "What stays in full precision",
        ("It computes in full precision; rounded numbers are stored in fewer bits.",),
        table=_decisions_table(kept),
        folded=True,
    )


def _decisions_table(entries: list[Swapped]) -> Table:
    groups: dict[tuple[str, str], list[Swapped]] = {}
    for entry in entries:
        groups.setdefault((entry.kind, entry.action), []).append(entry)
    rows: list[Row] = []
    for (kind, action), group in groups.items():
        reasons = "; ".join(dict.fromkeys(entry.reason for entry in group))
        numbers = sum(entry.parameters for entry in group)
        rows.append((kind, action, str(len(group)), units.count(numbers), reasons))
    return Table(("kind", "action", "modules", "parameters", "reason"), "llrrl", rows)


def left_out_section(report: Report) -> Section:
    """What no count includes."""
    return Section(
        "What the figures leave out",
        items=(*report.operations.left_out, *report.memory.left_out),
        folded=True,
    )


def again_section(report: Report) -> Section:
    """Commands, versions and machine, and which jobs share them."""
    jobs: dict[tuple[str, str], list[str]] = {}
    for job, details in report.provenance.items():
        for name, value in details.items():
            if name != "command" and value is not None:
                jobs.setdefault((name.replace("_", " "), str(value)), []).append(job)
    rows: list[Row] = [
        (name, value, ", ".join(sharing)) for (name, value), sharing in sorted(jobs.items())
    ]
    commands = [
        details["command"] for details in report.provenance.values() if details.get("command")
    ]
    return Section(
        "How to run this again",
        table=Table(("", "", "jobs"), "lll", rows),
        verbatim="\n".join(map(str, commands)) or None,
        folded=True,
    )


def recipe_section(report: Report) -> Section:
    """Every key of the recipe."""
    rows: list[Row] = []
    for key, value in report.recipe.items():
        if isinstance(value, dict):
            rows += [(f"{key}.{name}", str(inner)) for name, inner in value.items()]
        else:
            rows.append((key, str(value)))
    return Section("Recipe", table=Table(("key", "value"), "ll", rows), folded=True)


def modules_section(report: Report) -> Section:
    """Every decision."""
    rows: list[Row] = [
        (entry.module, entry.kind, entry.action, units.count(entry.parameters), entry.reason)
        for entry in report.swapped
    ]
    header = ("module", "kind", "action", "parameters", "reason")
    return Section("Every module", table=Table(header, "lllrl", rows), folded=True)
