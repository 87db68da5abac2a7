"""Sections on how the result came about: decisions, provenance, recipe."""

from __future__ import annotations

from bipft_compress.reporting import units
from bipft_compress.reporting.layout import Row, Section, Table
from bipft_compress.reporting.schema import Report


def swapped_section(report: Report) -> Section:
    """Decisions, summed up by kind."""
    groups: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for entry in report.swapped:
        groups.setdefault((entry.kind, entry.action), []).append((entry.parameters, entry.reason))
    rows: list[Row] = []
    for (kind, action), entries in groups.items():
        reasons = "; ".join(dict.fromkeys(reason for _, reason in entries))
        numbers = sum(parameters for parameters, _ in entries)
        rows.append((kind, action, str(len(entries)), units.count(numbers), reasons))
    return Section(
        "What was swapped",
        table=Table(("kind", "action", "modules", "parameters", "reason"), "llrrl", rows),
    )


def left_out_section(report: Report) -> Section:
    """What no count includes."""
    return Section(
        "What the figures leave out",
        items=(*report.operations.left_out, *report.memory.left_out),
    )


def again_section(report: Report) -> Section:
    """Command, versions and machine of each job."""
    rows: list[Row] = [
        (job, name.replace("_", " "), str(value))
        for job, facts in report.provenance.items()
        for name, value in facts.items()
        if name != "command" and value is not None
    ]
    commands = [facts["command"] for facts in report.provenance.values() if facts.get("command")]
    return Section(
        "How to run this again",
        table=Table(("job", "", ""), "lll", rows),
        verbatim="\n".join(map(str, commands)) or None,
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
