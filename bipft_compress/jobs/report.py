"""Reports of what was saved: of a checkpoint, or of a configuration alone."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PretrainedConfig

from bipft_compress import loading
from bipft_compress.checkpoint.record import Record
from bipft_compress.errors import CheckpointError
from bipft_compress.families import max_sequence_length
from bipft_compress.files import check_output
from bipft_compress.provenance import provenance
from bipft_compress.recipe import Recipe
from bipft_compress.reporting import (
    Report,
    RunFacts,
    build_report,
    report_from_config,
    write_report,
)

USUAL_LENGTH = 128
"""Tokens of a sequence, as in the papers."""


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
        model = loading.model_from_config(loading.load_config(Path(directory)))
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
    architecture = loading.load_config(config)
    length = sequence_length or _usual_length(architecture)
    # What a schedule ends with: that is what will run.
    made = report_from_config(
        architecture, recipe.last_stage(), batch=batch, sequence_length=length, run=facts
    )
    write_report(made, Path(out))
    return made


def _usual_length(config: PretrainedConfig) -> int:
    """128 tokens, as in the papers, or as many as the model has positions for."""
    return min(USUAL_LENGTH, max_sequence_length(config))
