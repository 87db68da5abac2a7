"""What is known about a binary checkpoint beside its weights, and where it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, SkipValidation, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from bipft_compress.errors import CheckpointError
from bipft_compress.files import (
    CHECKSUM,
    json_digest,
    read_json,
    sealed,
    sha256,
    write_atomically,
)
from bipft_compress.loading.sentence import SentencePipeline
from bipft_compress.recipe import Recipe
from bipft_compress.structure.knowledge import Knowledge
from bipft_compress.structure.swap import Decision

WEIGHTS = "model.safetensors"
RECORD = "compression.json"
FORMAT_VERSION = 2
"""Of what is written now. In 2 encoder layers hold blocks, so that tensors have other names."""

OLDEST_VERSION = 1
"""The oldest that is read: of version 0.1."""

METADATA = "bipft_compress"
"""Key of the record in the metadata of a weights' file that transformers wrote: see `embed`."""


@dataclass
class Record:
    """What is known about a binary checkpoint beside its weights; stored in `RECORD`."""

    __pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    recipe: Recipe = field(repr=False)
    teacher: str
    """Hub name or path of the full-precision original."""
    decisions: list[Decision] = field(default_factory=list, repr=False)
    layer_errors: list[float] = field(default_factory=list, repr=False)
    """Normalised squared error of the hidden states after each layer, before any training."""
    knowledge: Knowledge = field(default_factory=Knowledge, repr=False)
    """What each layer knows of a text, as measured last."""
    training: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """Logged points of all training: step, tokens, loss and its terms, learning rate."""
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)
    quality: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] | None = field(default=None, repr=False)
    """Packed artefact: latency and size beside peers; see `reporting.Measured`."""
    tensors: dict[str, str] = field(default_factory=dict, repr=False)
    """Packed, or written by transformers: SHA-256 of each tensor's bytes, by its name there."""
    files: dict[str, str] = field(default_factory=dict, repr=False)
    """SHA-256 of each file that is read beside the weights, by its path in the directory."""
    weights_sha256: str = ""
    """Of the weights' file; written by `write_record`."""
    card: dict[str, Any] = field(default_factory=dict, repr=False)
    """Licence, language and task of the original; see `loading.read_card`."""
    pipeline: SkipValidation[SentencePipeline | None] = None
    """What sentence-transformers does with the encoder's output; lies in files of its own."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "recipe": self.recipe.model_dump(),
            "teacher": self.teacher,
            "decisions": [decision.to_dict() for decision in self.decisions],
            "layer_errors": self.layer_errors,
            "knowledge": asdict(self.knowledge),
            "training": self.training,
            "provenance": self.provenance,
            "quality": self.quality,
            "measured": self.measured,
            "tensors": self.tensors,
            "files": self.files,
            "weights_sha256": self.weights_sha256,
            "card": self.card,
        }

    def add_training(self, points: list[dict[str, Any]]) -> None:
        """Add the logged points of one more training; tokens count on from the one before."""
        before = self.training[-1]["tokens"] if self.training else 0
        self.training += [point | {"tokens": point["tokens"] + before} for point in points]

    @classmethod
    def read(cls, directory: Path) -> Record:
        """Read the record of a binary checkpoint.

        Raises:
            CheckpointError: it is missing, malformed, or of a version that is not read.
        """
        path, values = directory / RECORD, read_values(directory)
        version = _version(values, path)
        checksum = values.pop(CHECKSUM, None)
        if version > OLDEST_VERSION and checksum != json_digest(values):
            raise CheckpointError(
                f"{path} does not match its own checksum: it was changed or truncated; make the "
                "checkpoint again."
            )
        del values["format_version"]
        recipe = values.pop("recipe", None)
        if not isinstance(recipe, dict):
            raise CheckpointError(f"{path} is incomplete (recipe).")
        try:
            record = _VALIDATOR.validate_python({"recipe": Recipe(), **values})
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            key = ".".join(map(str, first["loc"]))
            raise CheckpointError(f"{path} is incomplete ({key}: {first['msg']}).") from None
        record.recipe = Recipe.load(recipe)
        return record


_VALIDATOR = TypeAdapter(Record)


def read_version(directory: Path) -> int:
    """Format version of the binary checkpoint or packed artefact in `directory`.

    Raises:
        CheckpointError: there is no record, or its version is none, newer or too old.
    """
    return _version(read_values(directory), directory / RECORD)


def _version(values: Mapping[str, Any], path: Path) -> int:
    version = values.get("format_version")
    if type(version) is not int:
        raise CheckpointError(
            f"{path} has format version {version!r}, which is none: compress the checkpoint again."
        )
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} is of a newer release (format version {version}, and this one reads "
            f"{OLDEST_VERSION} to {FORMAT_VERSION}): upgrade bipft-compress."
        )
    if version < OLDEST_VERSION:
        raise CheckpointError(
            f"{path} is of an older release (format version {version}, and this one reads "
            f"{OLDEST_VERSION} to {FORMAT_VERSION}): compress the checkpoint again."
        )
    return version


def is_binary(directory: Path) -> bool:
    """Whether there is a record in `directory`: it holds a binary checkpoint, packed or not."""
    return (directory / RECORD).is_file() or _embedded(directory / WEIGHTS) is not None


def read_values(directory: Path) -> dict[str, Any]:
    """The record as it lies in `directory`: in its own file, or in that of the weights.

    Raises:
        CheckpointError: there is none.
    """
    path = directory / RECORD
    values = read_json(path) if path.is_file() else _embedded(directory / WEIGHTS)
    if values is None:
        raise CheckpointError(
            f"{directory} is not a binary checkpoint (it has no {RECORD}): "
            "make one with `bipft-compress compress`."
        )
    return values


def _embedded(weights: Path) -> dict[str, Any] | None:
    """What `embed` put into a file of weights, None where there is none."""
    if not weights.is_file():
        return None
    try:
        with safe_open(weights, framework="pt") as file:
            values: Any = json.loads((file.metadata() or {})[METADATA])
    except (SafetensorError, KeyError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def embed(record: Record) -> dict[str, str]:
    """The record as metadata of a safetensors file: for transformers, which writes that alone."""
    return {METADATA: json.dumps(_sealed(record.to_dict()))}


def list_files(directory: Path) -> dict[str, str]:
    """Checksum of each file below `directory` but the weights and the record, by its path there."""
    paths = {
        path.relative_to(directory).as_posix(): path
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    return {name: sha256(path) for name, path in paths.items() if name not in (WEIGHTS, RECORD)}


def write_record(directory: Path, record: Record) -> None:
    """Write (or replace) the record of the checkpoint in `directory`, with its checksums.

    One that is replaced keeps its format version, since the weights beside it stay as they are.
    """
    record.weights_sha256 = sha256(directory / WEIGHTS)
    values = record.to_dict()
    if (directory / RECORD).is_file():
        values["format_version"] = read_version(directory)
    elif not record.files:
        values["files"] = record.files = list_files(directory)
    write_atomically(directory / RECORD, json.dumps(_sealed(values), indent=2))


def _sealed(values: dict[str, Any]) -> dict[str, Any]:
    """A record with its own checksum, which version 0.1 had not."""
    return sealed(values) if values["format_version"] > OLDEST_VERSION else values
