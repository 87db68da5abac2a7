"""What a report says, in order: the one content that Markdown and HTML both show."""

from __future__ import annotations

from bipft_compress.counting.costs import FULL_PRECISION_BITS
from bipft_compress.reporting import units
from bipft_compress.reporting.counted import (
    bits_section,
    memory_section,
    module_bits_section,
    operations_section,
    papers_section,
)
from bipft_compress.reporting.layout import Card, Row, Section, Table
from bipft_compress.reporting.measured import (
    errors_section,
    knowledge_section,
    latency_change,
    latency_section,
    profile_section,
    quality_section,
    training_section,
)
from bipft_compress.reporting.origins import (
    again_section,
    kept_section,
    left_out_section,
    modules_section,
    recipe_section,
    swapped_section,
)
from bipft_compress.reporting.schema import Report, Score


def title(report: Report) -> str:
    """What the report is about."""
    return f"Compression report: {report.model.checkpoint or report.model.architecture}"


def headline(report: Report) -> Table:
    """Before and after in a few rows."""
    operations, memory = report.operations, report.memory
    # One unit a row: 22.5 and 0.385 GFLOPs can be compared at a glance.
    flops = units.flops_unit(operations.full_precision)
    size = units.size_unit(memory.full_precision_bytes)
    rows: list[Row] = [
        (
            "operations",
            _with_unit(flops, operations.full_precision),
            _with_unit(flops, operations.compressed),
            f"{units.ratio(operations.ratio)} fewer",
        ),
        (
            "memory",
            _with_unit(size, memory.full_precision_bytes),
            _with_unit(size, memory.compressed_bytes),
            f"{units.ratio(memory.ratio)} less",
        ),
    ]
    change = latency_change(report.measured) if report.measured else None
    if change is not None:
        original, compressed, ratio = change
        rows.append(("latency", f"{original:.1f} ms", f"{compressed:.1f} ms", _faster(ratio)))
    for name, score in report.quality.items():
        rows.append(
            (
                name,
                units.measure(score.full_precision),
                units.measure(score.compressed),
                _kept(score),
            )
        )
    return Table(("", "full precision", "compressed", "change"), "lrrr", rows)


def first_figures(report: Report) -> list[Card]:
    """What was saved and what was kept, in four figures."""
    operations, memory = report.operations, report.memory
    flops = units.flops_unit(operations.full_precision)
    size = units.size_unit(memory.full_precision_bytes)
    saved = (
        ("fewer operations", flops, operations.full_precision, operations.compressed),
        ("smaller", size, memory.full_precision_bytes, memory.compressed_bytes),
    )
    cards = [
        Card(
            units.ratio(before / after),
            name,
            f"{unit.show(before)} to {_with_unit(unit, after)}",
        )
        for name, unit, before, after in saved
    ]
    change = latency_change(report.measured) if report.measured else None
    if change is not None:
        before, after, ratio = change
        cards.append(Card(f"{ratio:.2f}x", "as fast", f"{before:.1f} to {after:.1f} ms"))
    else:
        macs = operations.by_bits["compressed"].macs
        in_full = sum(n for bits, n in macs.items() if str(FULL_PRECISION_BITS) in bits.split("x"))
        part = units.share(sum(macs.values()) - in_full, sum(macs.values()))
        cards.append(Card(part, "of all products on bits", "of multiply-accumulates"))
    cards.append(_kept_figure(report))
    return cards


def _kept_figure(report: Report) -> Card:
    """The first measure of quality, or what is known before one."""
    for name, score in report.quality.items():
        value = units.measure(score.compressed)
        if score.full_precision is None:
            return Card(value, name, "measured")
        return Card(value, name, f"original: {units.measure(score.full_precision)}")
    if report.layer_errors:
        return Card(f"{report.layer_errors[-1]:.2f}", "error of the last layer", "before training")
    return Card(units.count(report.model.parameters), "parameters", "quality: not measured")


def _faster(ratio: float) -> str:
    return f"{ratio:.2f}x faster" if ratio >= 1 else f"{1 / ratio:.2f}x slower"


def _with_unit(unit: units.Unit, value: float) -> str:
    return f"{unit.show(value)} {unit.name}"


def _kept(score: Score) -> str:
    if score.recovered is not None:
        return (
            f"{100 * score.recovered:.0f} % of the way from {units.measure(score.embedding_floor)}"
        )
    if score.full_precision is None:
        return "-"
    return f"{score.compressed - score.full_precision:+.4f}"


def sections(report: Report) -> list[Section]:
    """Every section that has something to say."""
    shown = [summary_section(report)]
    if report.quality:
        shown.append(quality_section(report))
    if report.training:
        shown.append(training_section(report.training))
    if report.measured:
        shown.append(latency_section(report.measured))
        if report.measured.profile:
            shown.append(profile_section(report.measured.profile))
    shown += [operations_section(report), memory_section(report)]
    if report.layer_errors:
        shown.append(errors_section(report))
    if report.knowledge.compressed:
        shown.append(knowledge_section(report.knowledge))
    shown += [module_bits_section(report), bits_section(report), papers_section(report)]
    shown += [swapped_section(report), kept_section(report), left_out_section(report)]
    shown += [again_section(report), recipe_section(report), modules_section(report)]
    return shown


def summary_section(report: Report) -> Section:
    """Before and after in a few rows, and what the model is."""
    return Section(
        "Before and after", (_summary(report),), figure="summary", table=headline(report)
    )


def _summary(report: Report) -> str:
    """Model, recipe and size of the input in two sentences."""
    model = report.model
    shared = model.stored_layers is not None and model.stored_layers < model.layers
    layers = f"{model.layers} layers" + (f" ({model.stored_layers} stored)" if shared else "")
    return (
        f"{model.architecture} ({model.type}): {layers} of width "
        f"{model.hidden_size:,}, {model.heads} heads of {model.head_dim}, feed-forward width "
        f"{model.intermediate_size:,}, {units.count(model.vocabulary)} words, "
        f"{units.count(model.parameters)} parameters. Recipe: {report.recipe.get('name')}. "
        f"Counted for {report.batch} x {report.sequence_length} tokens."
    )
