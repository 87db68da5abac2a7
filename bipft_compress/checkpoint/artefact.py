"""The packed artefact: a directory of bits, and of everything needed to trust and rebuild them.

``model.safetensors`` holds the packed tensors, ``config.json`` the original's configuration with a
``quantization_config``, ``compression.json`` the record with a checksum of every tensor and file,
beside the tokenizer's files and the report. Only safetensors and JSON are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bipft_compress.checkpoint.header import Entry
from bipft_compress.checkpoint.mark import SECTIONS, write_config
from bipft_compress.checkpoint.record import RECORD, WEIGHTS, Record, list_files, write_record
from bipft_compress.errors import CheckpointError
from bipft_compress.families import Encoder
from bipft_compress.files import sha256
from bipft_compress.recipe import Recipe
from bipft_compress.storage.codec import pack_state
from bipft_compress.storage.plan import round_to_stored, storage_plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def write_artefact(
    directory: Path,
    model: PreTrainedModel,
    encoder: Encoder,
    tokenizer: PreTrainedTokenizerBase,
    record: Record,
) -> None:
    """Write the packed form of a binary model into an empty directory.

    Args:
        directory: exists and is empty; see `files.atomic_directory`.
        model: a binary training model; its numbers are rounded in place to what is stored, which
            changes nothing in a model from `compress` or `pretrain`.
        encoder: the parts of `model`.
        tokenizer: of the model.
        record: what is known of the model; checksums are added to it.

    Raises:
        RecipeError: a number is beyond the range of its stored type.
    """
    round_to_stored(model, encoder, record.recipe)
    packed = pack_state(model.state_dict(), storage_plan(model, encoder, record.recipe))
    save_file(packed, directory / WEIGHTS, metadata={"format": "pt"})
    write_config(directory, model, record.recipe, "packed")
    tokenizer.save_pretrained(directory)
    if record.pipeline is not None:
        record.pipeline.write(directory)
    record.tensors = digests(packed)
    record.files = list_files(directory)
    write_record(directory, record)


def digest(tensor: Tensor) -> str:
    """Hexadecimal SHA-256 of a tensor's bytes."""
    return hashlib.sha256(tensor.numpy().data).hexdigest()


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """See `digest`, of tensors by name."""
    return {name: digest(tensor) for name, tensor in tensors.items()}


def read_record(directory: Path, recipe: Recipe) -> Record:
    """The record of a packed artefact.

    Raises:
        CheckpointError: it is missing or malformed, or says otherwise than `recipe`.
    """
    record = Record.read(directory)
    path = directory / RECORD
    # What transformers wrote has a record in the weights, of the weights alone.
    listed = "config.json" in record.files or not path.is_file()
    if not listed or not record.tensors:
        raise CheckpointError(f"{path} has no checksums: pack the checkpoint again.")
    if any(getattr(record.recipe, name) != getattr(recipe, name) for name in SECTIONS):
        raise CheckpointError(f"{path} and config.json disagree about the recipe.")
    return record


def read_tensors(
    path: Path,
    entries: Mapping[str, Entry],
    expected: Mapping[str, Tensor],
    checksums: Mapping[str, str],
    names: Callable[[Iterable[str]], Mapping[str, str]] | None = None,
) -> dict[str, Tensor]:
    """The tensors of a packed file, mapped into memory, not copied.

    Args:
        path: of the safetensors file.
        entries: its header; see `read_header`.
        expected: empty tensors of the types and shapes that must be there, by name.
        checksums: SHA-256 of each tensor's bytes, by its name in the file.
        names: from names in the file to those expected, where an older release wrote others.

    Returns:
        Tensors by their expected names.

    Raises:
        CheckpointError: a tensor is missing, not expected, of another type or shape, or changed.
    """
    own = {name: name for name in entries} if names is None else names(entries)
    for name in sorted(expected.keys() - set(own.values())):
        raise CheckpointError(f"{path} lacks the tensor {name}.")
    for name in sorted(entries.keys()):
        if own[name] not in expected:
            raise CheckpointError(f"{path} has a tensor {name} that its configuration does not.")
    for name, entry in entries.items():
        empty = expected[own[name]]
        if (entry.dtype, entry.shape) != (empty.dtype, tuple(empty.shape)):
            raise CheckpointError(
                f"{path}: tensor {name} is {entry.dtype} {entry.shape}, not {empty.dtype} "
                f"{tuple(empty.shape)} as its configuration says."
            )
    check_digests(path, checksums)
    return {own[name]: _mapped(path, name) for name in entries}


def check_digests(path: Path, checksums: Mapping[str, str]) -> None:
    """Hold every tensor of a safetensors file against its checksum.

    Args:
        path: of the file, whose header was read: see `read_header`.
        checksums: SHA-256 of each tensor's bytes, by its name in the file.

    Raises:
        CheckpointError: a tensor was changed, is missing, or has none.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            changed = [
                name
                for name in sorted(names | checksums.keys())
                if name not in names or digest(file.get_tensor(name)) != checksums.get(name)
            ]
    except SafetensorError as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}).") from None
    for name in changed:
        raise CheckpointError(
            f"{path}: tensor {name} does not match its checksum: the file was changed; pack the "
            "checkpoint again."
        )


def check_weights(path: Path, record: Record) -> None:
    """Hold the file of latent weights against its record.

    Raises:
        CheckpointError: it is missing or was changed.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {WEIGHTS}: the checkpoint is incomplete.")
    if record.tensors:
        check_digests(path, record.tensors)
    elif sha256(path) != record.weights_sha256:
        raise CheckpointError(
            f"{path} does not match its checksum: it was truncated or changed; "
            "compress the checkpoint again."
        )


def _mapped(path: Path, name: str) -> Tensor:
    """A tensor in a mapping of its own: when it is dropped, its pages leave the memory."""
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor
