"""Sections on what was measured: latency and size, quality, errors and training."""

from __future__ import annotations

from bipft_compress.fitting.readout import Knowledge
from bipft_compress.reporting import units
from bipft_compress.reporting.layout import Row, Section, Table
from bipft_compress.reporting.schema import STAGES, Measured, Profile, Report, TrainingPoint

_TRAINING_ROWS = 10


def latency_section(measured: Measured) -> Section:
    """Time of a forward pass and size, beside peers."""
    rows: list[Row] = [
        (
            system.name,
            "-" if system.milliseconds is None else f"{system.milliseconds:.1f}",
            "-" if system.ratio is None else f"{system.ratio:.2f}",
            _size(system.file_bytes),
            _size(system.resident_bytes),
            system.note,
        )
        for system in measured.systems
    ]
    return Section(
        "Measured beside peers",
        (
            f"{measured.machine}, torch {measured.torch_version}; {_paths(measured)}. "
            f"{measured.batch} x {measured.sequence_length} random tokens, medians of "
            f"{measured.rounds} rounds, one process, the systems in turn. The peers run "
            f"{measured.original}.",
            "Relative time: that of the packed model is 1. "
            "Resident: by how much loading the model grows a process, once every weight was read.",
        ),
        table=Table(("system", "ms", "relative time", "file", "resident", ""), "lrrrrl", rows),
    )


def _paths(measured: Measured) -> str:
    """What the packed model ran on."""
    if not measured.blocks:
        return f"kernels: {measured.path}"
    counts = ", ".join(f"{number} on {path}" for path, number in measured.blocks.items())
    return f"encoder blocks: {counts}"


def profile_section(profile: Profile) -> Section:
    """Stages of a forward pass and their distance to the limit, with their figure."""
    whole = profile.milliseconds
    rows: list[Row] = [
        (name, f"{profile.stages[stage]:.2f}", units.share(profile.stages[stage], whole))
        for stage, name in STAGES.items()
        if stage in profile.stages
    ]
    rows.append(("sum", f"{whole:.2f}", "100.0 %"))
    return Section(
        "Where the time goes",
        (limit_sentence(profile),),
        figure="profile",
        table=Table(("stage", "ms", "share"), "lrr", rows),
    )


def limit_sentence(profile: Profile) -> str:
    """How far a forward pass is from what its binary products take on registers."""
    macs, limit = profile.binary_macs / 1e9, profile.limit_milliseconds
    products = profile.stages["linear"] + profile.stages["attention"]
    return (
        f"{macs:.3g} G binary multiply-accumulates take {limit:.2f} ms at the "
        f"{1e3 * macs / limit:.0f} G a second that these kernels' instructions reach here where "
        f"they wait for no memory: the pass is at {units.share(profile.reached, 1)} of that limit, "
        f"its products at {units.share(limit, products)}."
    )


def latency_change(measured: Measured) -> tuple[float, float, float] | None:
    """Latency of the original in PyTorch and of the packed model, in ms, and the speed-up.

    Returns:
        None where one of them was not measured.
    """
    packed = measured.systems[0]
    for original in measured.systems[1:2]:
        if packed.milliseconds and original.milliseconds and original.ratio:
            return original.milliseconds, packed.milliseconds, original.ratio
    return None


def _size(number: int | None) -> str:
    if number is None:
        return "-"
    unit = units.size_unit(number)
    return f"{unit.show(number)} {unit.name}"


def quality_section(report: Report) -> Section:
    """Measures of quality."""
    rows: list[Row] = []
    for name, score in report.quality.items():
        recovered = "-" if score.recovered is None else f"{100 * score.recovered:.1f} %"
        values = (score.full_precision, score.compressed, score.embedding_floor)
        rows.append((name, *(units.measure(value) for value in values), recovered))
    return Section(
        "Quality",
        (
            "Embedding floor: what the compressed word embeddings alone give, without any layer, "
            "mapped linearly to the original's embedding. Recovered: share of the way from there "
            "to full precision.",
        ),
        table=Table(
            ("measure", "full precision", "compressed", "embedding floor", "recovered"),
            "lrrrr",
            rows,
        ),
        items=tuple(
            f"{name}, {key.replace('_', ' ')}: {_shown(value)}"
            for name, score in report.quality.items()
            for key, value in (score.model_extra or {}).items()
        ),
    )


def _shown(value: float | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def errors_section(report: Report) -> Section:
    """Error of each layer, with its figure."""
    rows: list[Row] = [
        (str(layer), units.measure(error)) for layer, error in enumerate(report.layer_errors, 1)
    ]
    return Section(
        "Error of each layer",
        (
            "Squared error of a layer's output over the variance of the original's, right after "
            "the conversion.",
        ),
        figure="errors",
        table=Table(("layer", "error"), "rr", rows),
    )


def knowledge_section(knowledge: Knowledge) -> Section:
    """How far a text's embedding can be read from each layer."""
    pairs = zip(knowledge.full_precision, knowledge.compressed, strict=True)
    rows: list[Row] = [
        ("embeddings" if layer == 0 else str(layer), *map(units.measure, pair))
        for layer, pair in enumerate(pairs)
    ]
    rows.append(
        ("the model's own embedding", units.measure(1.0), units.measure(knowledge.embedding))
    )
    return Section(
        "What each layer knows",
        (
            "Cosine with the original's embedding of a text, as a linear map reads it from the "
            "mean of a layer's hidden states; on texts that no map was fitted to. A layer that "
            "adds nothing to the one before costs operations for nothing. The last row needs no "
            "map: it is what the model gives, corrected by its readout where it has one.",
        ),
        table=Table(("after layer", "original", "compressed"), "lrr", rows),
    )


def training_section(points: list[TrainingPoint]) -> Section:
    """The course of training, with its figure."""
    # Evenly spaced, first and last among them: the whole log is in report.json.
    last = len(points) - 1
    chosen = sorted({round(i * last / (_TRAINING_ROWS - 1)) for i in range(_TRAINING_ROWS)})
    terms = list(dict.fromkeys(name for point in points for name in point.terms))
    rows: list[Row] = []
    for point in (points[index] for index in chosen):
        values = [f"{point.loss:.4f}", *(units.measure(point.terms.get(name)) for name in terms)]
        rate = "-" if point.learning_rate is None else f"{point.learning_rate:.2e}"
        rows.append((units.count(point.step), units.count(point.tokens), *values, rate))
    return Section(
        "Training",
        (f"{len(rows)} of {len(points)} logged steps.",),
        figure="training",
        table=Table(
            ("step", "tokens", "loss", *terms, "learning rate"), "r" * (4 + len(terms)), rows
        ),
    )
