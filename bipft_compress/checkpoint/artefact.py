"""The packed artefact: a directory of bits, and of everything needed to trust and rebuild them.

``model.safetensors`` holds the packed tensors, ``config.json`` the original's configuration with a
``quantization_config``, ``compression.json`` the record with a checksum of every tensor and file,
beside the tokenizer's files and the report. Only safetensors and JSON are read.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bipft_compress.checkpoint.header import Entry
from bipft_compress.checkpoint.listed import list_files
from bipft_compress.checkpoint.record import RECORD, WEIGHTS, Record, write_record
from bipft_compress.errors import CheckpointError, RecipeError
from bipft_compress.families import Encoder
from bipft_compress.files import read_json
from bipft_compress.recipe import Recipe
from bipft_compress.storage.codec import pack_state
from bipft_compress.storage.plan import round_to_stored, storage_plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

METHOD = "bipft"
VERSION = 2
"""Of what is written now. In 2 encoder layers hold blocks, so that tensors have other names."""

OLDEST_VERSION = 1
"""The oldest that is read: of version 0.1."""

KEY = "quantization_config"

_SECTIONS = ("weights", "activations", "embeddings", "kept", "estimators", "readout", "modules")
"""What of a recipe decides names, shapes and arithmetic of the packed model."""

_NOT_IN_0_1 = {"weights", "modules"}
"""Sections that version 0.1 did not have: all of its weights have one bit."""


def is_packed(directory: Path) -> bool:
    """Whether `directory` says that it is a packed artefact, whole or not."""
    path = directory / "config.json"
    return path.is_file() and KEY in read_json(path)


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
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    sections = record.recipe.model_dump(include=set(_SECTIONS))
    config.quantization_config = {"quant_method": METHOD, "version": VERSION, **sections}
    config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    record.tensors = {name: digest(tensor) for name, tensor in packed.items()}
    record.files = list_files(directory)
    write_record(directory, record)


def digest(tensor: Tensor) -> str:
    """Hexadecimal SHA-256 of a tensor's bytes."""
    return hashlib.sha256(tensor.numpy().data).hexdigest()


def read_recipe(directory: Path) -> Recipe:
    """The sections of the recipe that the packed model was made with.

    Raises:
        CheckpointError: not a packed artefact of a version this release reads.
    """
    path = directory / "config.json"
    values: Any = read_json(path).get(KEY)
    if not isinstance(values, dict) or values.get("quant_method") != METHOD:
        raise CheckpointError(
            f"{directory} is not a packed artefact (its config.json has no {KEY} of {METHOD!r}): "
            "make one with `bipft-compress pack`."
        )
    version = values.get("version")
    if type(version) is not int or version < OLDEST_VERSION:
        raise CheckpointError(
            f"{directory} is a packed artefact of version {version!r}, which is none: pack the "
            "checkpoint again."
        )
    if version > VERSION:
        raise CheckpointError(
            f"{directory} is a packed artefact of version {version}, of a newer release; this one "
            f"reads up to {VERSION}: upgrade bipft-compress."
        )
    try:
        old = _NOT_IN_0_1 if version == OLDEST_VERSION else set()
        return Recipe.load({name: values[name] for name in _SECTIONS if name not in old})
    except (KeyError, RecipeError) as error:
        raise CheckpointError(f"{path} has an invalid {KEY} ({error}).") from None


def read_record(directory: Path, recipe: Recipe) -> Record:
    """The record of a packed artefact.

    Raises:
        CheckpointError: it is missing or malformed, or says otherwise than `recipe`.
    """
    record = Record.read(directory)
    path = directory / RECORD
    if "config.json" not in record.files or not record.tensors:
        raise CheckpointError(f"{path} has no checksums: pack the checkpoint again.")
    if any(getattr(record.recipe, name) != getattr(recipe, name) for name in _SECTIONS):
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
    try:
        with safe_open(path, framework="pt") as file:
            changed = [
                name for name in entries if digest(file.get_tensor(name)) != checksums.get(name)
            ]
        tensors = {own[name]: _mapped(path, name) for name in entries}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}).") from None
    for name in changed:
        raise CheckpointError(
            f"{path}: tensor {name} does not match its checksum: the file was changed; pack the "
            "checkpoint again."
        )
    return tensors


def _mapped(path: Path, name: str) -> Tensor:
    """A tensor in a mapping of its own: when it is dropped, its pages leave the memory."""
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor
