"""A checkpoint's quality on a task, kept in its record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bipft_compress.checkpoint import load
from bipft_compress.checkpoint.record import Record, is_binary, write_record
from bipft_compress.device import choose_device
from bipft_compress.jobs.original import load_original
from bipft_compress.loading import pool_of
from bipft_compress.tasks.chosen import ChosenTask
from bipft_compress.tasks.classify import scores
from bipft_compress.tasks.embedding import EmbeddingTask
from bipft_compress.tasks.embedding_tasks import embedder
from bipft_compress.tasks.sts import SentencePairs, compare, embed_pairs, embedding_floor
from bipft_compress.training.finetuned import read_classifier


def evaluate_sts(
    directory: str | Path,
    data: str | Path,
    *,
    teacher: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Sentence similarity of a binary checkpoint, packed or not, beside its original.

    The figures are also kept in the record of a checkpoint that lies here, for its report.

    Args:
        directory: of the checkpoint, or its hub name, also as ``name@revision``.
        data: see `SentencePairs.read`.
        teacher: the original, if it is not where it was.
        device: see `choose_device`. The kernels of a packed checkpoint run on the CPU alone.

    Returns:
        ``full_precision``, ``compressed`` and ``embedding_floor``: Spearman; ``recovered``: the
        share of the distance from floor to full precision; ``similarity_to_original``: mean
        cosine of sentence embeddings; ``pairs``.

    Raises:
        UserError: the checkpoint or the data is at fault.
    """
    pairs = SentencePairs.read(data)
    student, tokenizer, record = load(directory)
    original, _ = load_original(record, teacher)
    pool = pool_of(record.pipeline, directory)
    chosen = choose_device(device)
    for model in (student, original):
        model.to(chosen)  # type: ignore[arg-type]
    embedded, reference = (
        embed_pairs(model, tokenizer, pairs.first, pairs.second, pool)
        for model in (student, original)
    )
    full, compressed = reference.spearman(pairs.scores), embedded.spearman(pairs.scores)
    floor = embedding_floor(student, tokenizer, pairs, reference)
    figures = {
        "full_precision": full,
        "compressed": compressed,
        "embedding_floor": floor,
        "recovered": (compressed - floor) / (full - floor) if full != floor else None,
        "similarity_to_original": compare(embedded.first, reference.first).cosine,
        "pairs": len(pairs.scores),
        "data": Path(data).name,
    }
    _keep(directory, record, {"sts_spearman": figures})
    return figures


def evaluate_embeddings(
    directory: str | Path,
    task: EmbeddingTask,
    *,
    teacher: str | None = None,
    device: str = "cpu",
) -> dict[str, dict[str, float]]:
    """An embedding task of a binary checkpoint, packed or not, beside its original.

    The figures are also kept in the record of a checkpoint that lies here, for its report.

    Args:
        directory: of the checkpoint, or its hub name, also as ``name@revision``.
        task: with its data; see `read_embedding_task`.
        teacher: the original, if it is not where it was.
        device: see `choose_device`. The kernels of a packed checkpoint run on the CPU alone.

    Returns:
        Measure to ``full_precision`` and ``compressed``.

    Raises:
        UserError: the checkpoint or the original is at fault.
    """
    student, tokenizer, record = load(directory)
    original, _ = load_original(record, teacher)
    pool = pool_of(record.pipeline, directory)
    chosen = choose_device(device)
    values = {}
    for name, model in (("full_precision", original), ("compressed", student)):
        model.to(chosen)  # type: ignore[arg-type]
        values[name] = task.measure(embedder(model, tokenizer, pool))
    quality = {
        measure: {name: values[name][measure] for name in values}
        for measure in values["compressed"]
    }
    _keep(directory, record, quality)
    return quality


def evaluate_task(
    directory: str | Path,
    chosen: ChosenTask,
    *,
    teacher: str | None = None,
    device: str = "cpu",
) -> dict[str, dict[str, Any]]:
    """A fine-tuned checkpoint's metrics on its task: binary, packed, full precision, or adapter.

    The figures are also kept in the record of a binary checkpoint that lies here, for its report.

    Args:
        directory: of the checkpoint, or its hub name, also as ``name@revision``.
        chosen: the task and its data.
        teacher: a checkpoint to compare with.
        device: see `choose_device`.

    Returns:
        Metric to ``compressed``, its value, and with `teacher` ``full_precision``, the teacher's.

    Raises:
        UserError: a checkpoint, the task or its data is at fault.
    """
    compressed = read_classifier(directory)
    task = chosen.read(compressed.labels, training=False)
    compressed.check(task, directory)
    on = choose_device(device)
    compressed.model.to(on)  # type: ignore[arg-type]
    length = compressed.recipe.finetuning.sequence_length
    original_metrics = None
    if teacher is not None:
        original = read_classifier(teacher)
        original.check(task, teacher)
        original.model.to(on)  # type: ignore[arg-type]
        original_metrics = original.score(task, length)
    metrics = compressed.score(task, length)
    quality = scores(task, metrics, original_metrics)
    if compressed.record is not None:
        _keep(directory, compressed.record, quality)
    return quality


def _keep(directory: str | Path, record: Record, quality: Mapping[str, Any]) -> None:
    """Add figures to the record of a binary checkpoint; the hub's cache is left as it is."""
    path = Path(directory)
    if is_binary(path):
        record.quality |= quality
        write_record(path, record)
