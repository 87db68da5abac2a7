"""Binary checkpoints that can be trained: with latent weights in floating point.

One is a directory with ``config.json`` (the original's), ``model.safetensors``
(latent weights, for training), ``compression.json`` (recipe, decisions, provenance, checksums) and
the tokenizer's files. Nothing is read that has no checksum, and nothing that can run code.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bipft_compress.checkpoint import legacy
from bipft_compress.checkpoint.artefact import check_weights
from bipft_compress.checkpoint.attach import attach
from bipft_compress.checkpoint.hub import local_directory
from bipft_compress.checkpoint.listed import read_config, read_listed_pipeline, read_tokenizer
from bipft_compress.checkpoint.mark import is_packed, unmark, write_config
from bipft_compress.checkpoint.record import (
    WEIGHTS,
    Record,
    list_files,
    read_version,
    write_record,
)
from bipft_compress.errors import CheckpointError
from bipft_compress.files import atomic_directory
from bipft_compress.loading import model_from_config, state_to_save
from bipft_compress.loading.claims import check_layers, configuration_faults
from bipft_compress.loading.state import check_fits, fill, read_state
from bipft_compress.structure.swap import swap


def save(
    directory: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    record: Record,
    overwrite: bool = False,
) -> None:
    """Write a binary checkpoint, all or nothing.

    Raises:
        OutputError: the directory exists or cannot be written.
    """
    with atomic_directory(directory, overwrite) as work:
        save_file(state_to_save(model), work / WEIGHTS, metadata={"format": "pt"})
        write_config(work, model, record.recipe, "training")
        if tokenizer is not None:
            tokenizer.save_pretrained(work)
        if record.pipeline is not None:
            record.pipeline.write(work)
        record.files, record.tensors = list_files(work), {}
        write_record(work, record)


def load_trainable(
    directory: str | Path,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Record]:
    """Read a binary checkpoint, of version 0.1 too.

    Returns:
        The binary model in evaluation mode, its tokenizer and its record.

    Raises:
        CheckpointError: it is missing, incomplete, damaged, or of a version that is not read.
    """
    path = local_directory(directory)
    if not path.is_dir():
        raise CheckpointError(f"There is no directory {path}.")
    record = Record.read(path)
    if is_packed(path):
        raise CheckpointError(
            f"{path} is packed: it runs, but cannot be trained or packed again; give the binary "
            "checkpoint that it was packed from."
        )
    config = unmark(read_config(path, record))
    check_weights(path / WEIGHTS, record)
    state = read_state(path / WEIGHTS)
    if read_version(path) == legacy.VERSION:
        names = legacy.rename_0_1(state, config.model_type)
        state = {names[name]: tensor for name, tensor in state.items()}
        paths = [decision.module for decision in record.decisions]
        names = legacy.rename_0_1(paths, config.model_type)
        record.decisions = [replace(one, module=names[one.module]) for one in record.decisions]
    check_layers(config, len(state), path)
    # On the meta device first: what the configuration claims may be more than any memory holds.
    with configuration_faults(path), torch.device("meta"):
        empty = model_from_config(config)
        swap(empty, record.recipe)
    check_fits(empty, state, path / WEIGHTS)
    with configuration_faults(path):
        model = model_from_config(config)
        swap(model, record.recipe)
    fill(model, state, path / WEIGHTS)
    record.pipeline = read_listed_pipeline(path, record)
    attach(model, record, "training")
    return model.eval(), read_tokenizer(path, record), record
