"""Reports of what was saved: of a checkpoint, or of a configuration alone."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError
from transformers import PretrainedConfig

from bipft_compress import loading
from bipft_compress.checkpoint import local_directory
from bipft_compress.checkpoint.listed import read_config, read_listed_pipeline
from bipft_compress.checkpoint.record import RECORD, Record
from bipft_compress.errors import CheckpointError
from bipft_compress.families import max_sequence_length
from bipft_compress.files import claim_output
from bipft_compress.loading.claims import configuration_faults
from bipft_compress.provenance import provenance
from bipft_compress.recipe import Recipe
from bipft_compress.reporting import (
    Report,
    RunFacts,
    build_report,
    report_from_config,
    write_report,
)
from bipft_compress.sources import short_name

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
    """Write the report of a binary checkpoint, packed or not, of a directory or of the hub.

    Raises:
        UserError: the checkpoint or the output directory is at fault.
    """
    # Inside an artefact, or in its place, a report is welcome: it replaces no file of another name.
    with claim_output(out, overwrite) as target:
        return write_checkpoint_report(
            local_directory(directory), target, batch=batch, sequence_length=sequence_length
        )


def write_checkpoint_report(
    directory: Path, target: Path, *, batch: int = 1, sequence_length: int | None = None
) -> Report:
    """`report_checkpoint` into a directory that the caller holds.

    Raises:
        UserError: the checkpoint or the output directory is at fault.
    """
    record = Record.read(directory)
    config = read_config(directory, record)
    with configuration_faults(directory), torch.device("meta"):
        model = loading.model_from_config(config)
    length = sequence_length or _usual_length(model.config)
    try:
        run = RunFacts(
            checkpoint=short_name(record.teacher),
            quality=record.quality,
            layer_errors=record.layer_errors,
            knowledge=record.knowledge,
            training=record.training,
            measured=record.measured,
            provenance=provenance(record.provenance, "report"),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{directory / RECORD} cannot be reported ({key}: {first['msg']})."
        ) from None
    with configuration_faults(directory):
        report = build_report(
            model,
            record.recipe,
            batch=batch,
            sequence_length=length,
            run=run,
            pipeline=read_listed_pipeline(directory, record),
        )
    write_report(report, target)
    return report


def report_config(
    config: str | Path,
    recipe: Recipe,
    out: str | Path,
    *,
    batch: int = 1,
    sequence_length: int | None = None,
    overwrite: bool = False,
) -> Report:
    """Write the report of what a recipe would save, from a configuration alone.

    Args:
        config: a ``config.json``, a full-precision checkpoint or its hub name; of the last two the
            encoder is counted.
        recipe: choices of the compression.
        out: a new directory for the report.
        batch: sequences of a forward pass.
        sequence_length: tokens of each.
        overwrite: replace what is in `out`.

    Raises:
        UserError: the configuration, the recipe or the output directory is at fault.
    """
    with claim_output(out, overwrite) as target:
        name = Path(config).resolve().name if Path(config).exists() else str(config)
        run = RunFacts(checkpoint=name, provenance=provenance({}, "report"))
        source = loading.encoder_source(config)
        architecture = loading.load_config(source)
        is_file = Path(config).is_file()
        pipeline = None if is_file else loading.read_pipeline(config)
        length = sequence_length or _usual_length(architecture)
        # What a schedule ends with: that is what will run.
        with configuration_faults(config):
            report = report_from_config(
                architecture,
                recipe.last_stage(),
                batch=batch,
                sequence_length=length,
                run=run,
                pipeline=pipeline,
            )
        write_report(report, target)
    return report


def _usual_length(config: PretrainedConfig) -> int:
    """128 tokens, as in the papers, or as many as the model has positions for."""
    return min(USUAL_LENGTH, max_sequence_length(config))
