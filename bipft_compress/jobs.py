"""The jobs of the command line, from directory to directory; each usable from Python too."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from transformers import PretrainedConfig

from bipft_compress import checkpoint
from bipft_compress.benchmarking.run import Bench, Setting
from bipft_compress.convert.compress import compress
from bipft_compress.errors import CheckpointError, UserError
from bipft_compress.families import describe, max_sequence_length
from bipft_compress.files import atomic_directory, check_output
from bipft_compress.provenance import provenance
from bipft_compress.recipe import Recipe
from bipft_compress.record import RECORD, WEIGHTS, Record, write_record
from bipft_compress.reporting import (
    Measured,
    Report,
    RunFacts,
    build_report,
    report_from_config,
    write_report,
)
from bipft_compress.runtime.artefact import write_artefact
from bipft_compress.tasks.evaluate import evaluate_sts
from bipft_compress.text.corpus import BUILTIN
from bipft_compress.training.loop import unfinished
from bipft_compress.training.pretrain import pretrain
from bipft_compress.training.progress import progress_bar

logger = logging.getLogger("bipft_compress")


def compress_checkpoint(
    source: str | Path,
    recipe: Recipe,
    out: str | Path,
    *,
    calibration: str | Path = BUILTIN,
    seed: int = 0,
    overwrite: bool = False,
    console: Console | None = None,
) -> Record:
    """`compress` from a checkpoint to a new directory.

    Raises:
        UserError: the checkpoint, the recipe, the text or the output directory is at fault.
    """
    check_output(Path(out), overwrite)
    model, tokenizer = checkpoint.load_pretrained(source, mlm_head=recipe.objective.fresh_mlm_head)
    if calibration == BUILTIN:
        logger.info(
            "calibrating on text that comes with Python: give --calibration with text like "
            "yours for a better start"
        )
    shown = console or Console(quiet=True)
    with progress_bar(shown, "layers") as bar:
        task = bar.add_task("fitting", total=None, note="")

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if bar.disable:
                logger.info("fitted layer %d of %d", done, total)

        made = compress(model, tokenizer, recipe, calibration, seed=seed, progress=progress)
    path = Path(source)
    record = Record(
        recipe=recipe,
        teacher=str(path.absolute()) if path.is_dir() else str(source),
        decisions=made.decisions,
        layer_errors=made.layer_errors,
        provenance=provenance({}, "compress", seed=seed, calibration=str(calibration)),
    )
    checkpoint.save(Path(out), made.model, tokenizer, record, overwrite)
    return record


@dataclass(frozen=True)
class PackedSize:
    """Bytes of a model's weights in full precision, and of the packed file with its header."""

    full_precision_bytes: int
    packed_bytes: int

    @property
    def ratio(self) -> float:
        return self.full_precision_bytes / self.packed_bytes


def pack_checkpoint(
    directory: str | Path, out: str | Path, *, overwrite: bool = False
) -> PackedSize:
    """Pack a binary checkpoint to bits, its report beside it, in a new directory.

    Raises:
        UserError: the checkpoint or the output directory is at fault.
    """
    check_output(Path(out), overwrite)
    model, tokenizer, record = checkpoint.load(directory)
    record.provenance = provenance(record.provenance, "pack")
    with atomic_directory(Path(out), overwrite) as work:
        write_artefact(work, model, describe(model), tokenizer, record)
        made = report_checkpoint(work, work, overwrite=True)
        packed = (work / WEIGHTS).stat().st_size
    return PackedSize(made.memory.full_precision_bytes, packed)


def benchmark_artefact(
    directory: str | Path, out: str | Path | None = None, setting: Setting | None = None
) -> Measured:
    """Measure a packed artefact beside the peers that are installed.

    The figures are kept in the artefact's record, and its report is written again.

    Args:
        directory: of the artefact.
        out: where the report goes; None for the artefact itself.
        setting: what is run; see `Setting`.

    Raises:
        UserError: the artefact or the setting is at fault.
    """
    root = Path(directory)
    measured = Bench(root).measure(setting or Setting())
    record = Record.read(root)
    record.measured = measured.model_dump(mode="json")
    record.provenance = provenance(record.provenance, "benchmark")
    write_record(root, record)
    report_checkpoint(root, out or root, overwrite=True)
    return measured


def report_checkpoint(
    directory: str | Path,
    out: str | Path,
    *,
    batch: int = 1,
    sequence_length: int | None = None,
    overwrite: bool = False,
) -> Report:
    """Write the report of a binary checkpoint, packed or not.

    Raises:
        UserError: the checkpoint or the output directory is at fault.
    """
    check_output(Path(out), overwrite)
    record = Record.read(Path(directory))
    with torch.device("meta"):
        model = checkpoint.model_from_config(checkpoint.load_config(Path(directory)))
    length = sequence_length or _usual_length(model.config)
    facts = RunFacts(
        checkpoint="/".join(Path(record.teacher).parts[-2:]),
        quality=record.quality,
        layer_errors=record.layer_errors,
        training=record.training,
        measured=record.measured,
        provenance=provenance(record.provenance, "report"),
    )
    made = build_report(model, record.recipe, batch=batch, sequence_length=length, run=facts)
    write_report(made, Path(out))
    return made


def _usual_length(config: PretrainedConfig) -> int:
    """128 tokens, as in the papers, or as many as the model has positions for."""
    return min(128, max_sequence_length(config))


def report_config(
    config: str | Path,
    recipe: Recipe,
    out: str | Path,
    *,
    batch: int = 1,
    sequence_length: int | None = None,
    overwrite: bool = False,
) -> Report:
    """Write the report of what a recipe would save, from a ``config.json`` alone.

    Raises:
        UserError: the configuration, the recipe or the output directory is at fault.
    """
    check_output(Path(out), overwrite)
    if not Path(config).exists():
        raise CheckpointError(f"There is no file {config}: give the path of a config.json.")
    facts = RunFacts(checkpoint=Path(config).name, provenance=provenance({}, "report"))
    architecture = checkpoint.load_config(config)
    length = sequence_length or _usual_length(architecture)
    # What a schedule ends with: that is what will run.
    made = report_from_config(
        architecture, recipe.last_stage(), batch=batch, sequence_length=length, run=facts
    )
    write_report(made, Path(out))
    return made


def run(
    source: str | Path,
    recipe: Recipe,
    corpus: str | Path,
    out: str | Path,
    *,
    data: str | Path | None = None,
    steps: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> Report:
    """All jobs in order: ``compressed``, ``pretrained``, ``packed`` and ``report`` below `out`.

    Whatever is complete is kept, so that running it again goes on where it stopped.

    Raises:
        UserError: an input is at fault, or `out` holds another run.
    """
    root = Path(out)
    compressed, pretrained, report = (root / n for n in ("compressed", "pretrained", "report"))
    if not (compressed / RECORD).is_file():
        check_output(root, overwrite=False)
        compress_checkpoint(
            source, recipe, compressed, calibration=corpus, seed=seed, console=console
        )
    elif Record.read(compressed).recipe != recipe:
        raise UserError(f"{root} holds a run of another recipe: choose another --out.")
    if not (pretrained / RECORD).is_file():
        resume = unfinished(pretrained)
        pretrain(compressed, corpus, pretrained, steps=steps, resume=resume, console=console)
    if data is not None:
        evaluate_sts(pretrained, data)
    pack_checkpoint(pretrained, root / "packed", overwrite=True)
    return report_checkpoint(pretrained, report, overwrite=True)
