"""A checkpoint's quality on a task, kept in its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bipft_compress import loading
from bipft_compress.checkpoint import load
from bipft_compress.checkpoint.record import RECORD, write_record
from bipft_compress.device import choose_device
from bipft_compress.tasks.chosen import ChosenTask
from bipft_compress.tasks.classify import score, scores
from bipft_compress.tasks.sts import SentencePairs, embedding_floor, likeness, spearman
from bipft_compress.training.finetuned import read_classifier


def evaluate_sts(
    directory: str | Path,
    data: str | Path,
    *,
    teacher: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Sentence similarity of a binary checkpoint, packed or not, beside its original.

    The figures are also kept in the checkpoint's record, for its report.

    Args:
        directory: of the checkpoint.
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
    original, _ = loading.load_pretrained(teacher or record.teacher)
    chosen = choose_device(device)
    for model in (student, original):
        model.to(chosen)  # type: ignore[arg-type]
    full = spearman(original, tokenizer, pairs)
    floor = embedding_floor(original, tokenizer, pairs)
    ours = spearman(student, tokenizer, pairs)
    figures = {
        "full_precision": full,
        "compressed": ours,
        "embedding_floor": floor,
        "recovered": (ours - floor) / (full - floor) if full != floor else None,
        "similarity_to_original": likeness(student, original, tokenizer, pairs.first).cosine,
        "pairs": len(pairs.scores),
        "data": Path(data).name,
    }
    record.quality["sts_spearman"] = figures
    write_record(Path(directory), record)
    return figures


def evaluate_task(
    directory: str | Path,
    chosen: ChosenTask,
    *,
    teacher: str | None = None,
    device: str = "cpu",
) -> dict[str, dict[str, Any]]:
    """A fine-tuned checkpoint's metrics on its task: binary, packed, full precision, or adapter.

    The figures are also kept in the record of a binary checkpoint, for its report.

    Args:
        directory: of the checkpoint.
        chosen: the task and its data.
        teacher: a checkpoint to compare with.
        device: see `choose_device`.

    Returns:
        Metric to ``compressed``, its value, and with `teacher` ``full_precision``, the teacher's.

    Raises:
        UserError: a checkpoint, the task or its data is at fault.
    """
    ours = read_classifier(directory)
    task = chosen.read(ours.labels, training=False)
    ours.check(task, directory)
    place = choose_device(device)
    ours.model.to(place)  # type: ignore[arg-type]
    length = ours.recipe.finetuning.sequence_length
    theirs = None
    if teacher is not None:
        original = read_classifier(teacher)
        original.check(task, teacher)
        original.model.to(place)  # type: ignore[arg-type]
        theirs = score(original.model, original.tokenizer, task, length)
    found = scores(task, score(ours.model, ours.tokenizer, task, length), theirs)
    if (Path(directory) / RECORD).is_file() and ours.record is not None:
        ours.record.quality |= found
        write_record(Path(directory), ours.record)
    return found
