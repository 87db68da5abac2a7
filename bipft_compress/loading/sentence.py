"""What sentence-transformers keeps around an encoder: modules behind it, prompts, lengths.

Its files are read and written here; the library itself is not needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import save_file
from torch import Tensor

from bipft_compress.errors import CheckpointError
from bipft_compress.files import read_json
from bipft_compress.loading.dense import dense_layers
from bipft_compress.loading.hub import find_file
from bipft_compress.loading.weights import read_file
from bipft_compress.nn.pooling import POOLINGS, Pool, joined, mean_pool
from bipft_compress.sources import check_source, split_revision

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
TEXT = "sentence_bert_config.json"
_TEXT_OF_OLD = tuple(
    f"sentence_{name}_config.json"
    for name in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names that `TEXT` had in old releases of the library."""

_NAMESPACE = "sentence_transformers."
TRANSFORMER = f"{_NAMESPACE}models.Transformer"
POOLING = f"{_NAMESPACE}models.Pooling"
"""Names under which every release of the library knows these classes."""

_MODE = "pooling_mode_"
_ENDING = re.compile("_tokens?$")
"""Of a pooling's name, in some releases."""

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class SentenceModule:
    """A module behind the encoder, such as pooling or a dense layer.

    Attributes:
        kind: its class, by the name in ``modules.json``.
        values: its ``config.json``; empty where it has none.
        tensors: its weights by name, in fp32; empty where it has none.
    """

    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class SentencePipeline:
    """How sentence-transformers makes an embedding of what the encoder puts out.

    Attributes:
        modules: behind the encoder, in order.
        text: ``sentence_bert_config.json``: the longest sequence, and whether text is lowered.
        settings: ``config_sentence_transformers.json``: prompts and the similarity function.
    """

    modules: tuple[SentenceModule, ...]
    text: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def max_length(self) -> int | None:
        """Tokens that a text is cut to, where the checkpoint says so beside its tokenizer."""
        length = self.text.get("max_seq_length")
        return length if type(length) is int and length > 0 else None

    @property
    def first_token(self) -> bool:
        """Whether the first token alone is read of what the encoder puts out."""
        return self.pooling == ("cls",)

    @property
    def pooling(self) -> tuple[str, ...]:
        """Names in `nn.pooling.POOLINGS`, whose vectors are joined; empty without pooling."""
        values = next((m.values for m in self.modules if m.kind.endswith("Pooling")), {})
        named = values.get("pooling_mode")
        if named is None:
            named = [
                name.removeprefix(_MODE)
                for name, chosen in values.items()
                if chosen is True and name.startswith(_MODE)
            ]
        names = [named] if isinstance(named, str) else list(named)
        return tuple(_ENDING.sub("", str(name)) for name in names)

    def pool(self, where: str | Path) -> Pool:
        """How the hidden states of a text become one vector; the mean where nothing is said.

        Args:
            where: the checkpoint, for the message.

        Raises:
            CheckpointError: it names a pooling, a module or an activation that is not known here.
        """
        unknown = sorted(set(self.pooling) - POOLINGS.keys())
        if unknown:
            raise CheckpointError(
                f"{where} pools by {', '.join(unknown)}, which is not known here: one of "
                f"{', '.join(POOLINGS)}."
            )
        pooled = joined(self.pooling or ("mean",))
        dense = [part for module in self.modules for part in dense_layers(module, where)]

        def pool(hidden: Tensor, mask: Tensor) -> Tensor:
            return reduce(lambda vectors, part: part(vectors), dense, pooled(hidden, mask))

        return pool if dense else pooled

    def named_modules(self) -> Iterator[tuple[str, SentenceModule]]:
        """Each module with the name of its directory, as `write` names it."""
        for number, module in enumerate(self.modules, 1):
            yield f"{number}_{module.kind.rpartition('.')[2]}", module

    @property
    def parameters(self) -> int:
        """Numbers that the modules hold."""
        return sum(one.numel() for module in self.modules for one in module.tensors.values())

    def write(self, directory: Path) -> None:
        """Write the files beside those of the encoder, tensors in 16 bits.

        Raises:
            CheckpointError: a number of a module is beyond the range of 16 bits.
        """
        listed = [_entry(0, "", TRANSFORMER)]
        for number, (name, module) in enumerate(self.named_modules(), 1):
            folder = directory / name
            listed.append(_entry(number, folder.name, module.kind))
            folder.mkdir()
            if module.values:
                _write_json(folder / "config.json", module.values)
            if module.tensors:
                save_file(_halved(module), folder / _WEIGHTS[0], metadata={"format": "pt"})
        _write_json(directory / MODULES, listed)
        _write_json(directory / TEXT, self.text)
        _write_json(directory / SETTINGS, self.settings)


def pool_of(pipeline: SentencePipeline | None, where: str | Path) -> Pool:
    """`SentencePipeline.pool`; the mean without a pipeline."""
    return mean_pool if pipeline is None else pipeline.pool(where)


def read_pipeline(checkpoint: str | Path) -> SentencePipeline | None:
    """What a checkpoint of sentence-transformers holds around its encoder; None for any other.

    Args:
        checkpoint: hub name or local directory.

    Raises:
        CheckpointError: a file is malformed, or names a class that is not the library's own.
    """
    path = find_file(checkpoint, MODULES)
    if path is None:
        return None
    first, *others = _read_listed(path, checkpoint)
    if not first["type"].endswith("Transformer"):
        raise CheckpointError(
            f"{checkpoint} begins with {first['type']}: only a sentence-transformers checkpoint "
            "that begins with an encoder of transformers can be read."
        )
    folder, text = first["path"], dict[str, Any]()
    for name in (TEXT, *_TEXT_OF_OLD):
        if not text:
            text = _values(checkpoint, f"{folder}/{name}" if folder else name)
    return SentencePipeline(
        modules=tuple(_read_module(checkpoint, entry) for entry in others),
        text=text,
        settings=_values(checkpoint, SETTINGS),
    )


def encoder_source(checkpoint: str | Path) -> str | Path:
    """Where the encoder of a checkpoint lies: sentence-transformers may keep it in a directory.

    Args:
        checkpoint: hub name or local directory.

    Returns:
        `checkpoint`, or the directory within it; of the hub, where it was fetched to.

    Raises:
        CheckpointError: there is no such checkpoint, or its list of modules is malformed.
    """
    check_source(checkpoint)
    path = None if Path(checkpoint).is_file() else find_file(checkpoint, MODULES)
    folder = "" if path is None else _read_listed(path, checkpoint)[0]["path"]
    if not folder:
        return checkpoint
    if not Path(checkpoint).is_dir():
        name, revision = split_revision(checkpoint)
        checkpoint = snapshot_download(name, revision=revision, allow_patterns=[f"{folder}/*"])
    return Path(checkpoint, folder)


def module_folders(directory: Path) -> list[Path]:
    """The directories of a local checkpoint that hold modules of sentence-transformers.

    Raises:
        CheckpointError: its list of modules is malformed.
    """
    path = directory / MODULES
    if not path.is_file():
        return []
    folders = [directory / one["path"] for one in _read_listed(path, directory) if one["path"]]
    # One without weights or settings may not be there.
    return [folder for folder in folders if folder.is_dir()]


def _entry(number: int, folder: str, kind: str) -> dict[str, Any]:
    return {"idx": number, "name": str(number), "path": folder, "type": kind}


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2), encoding="utf-8")


def _halved(module: SentenceModule) -> dict[str, Tensor]:
    halves = {name: tensor.half().contiguous() for name, tensor in module.tensors.items()}
    for name, tensor in halves.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{module.kind} holds a number in {name} that 16 bits cannot (beyond 65504)."
            )
    return halves


def _floats(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in tensors.items()}


def _values(checkpoint: str | Path, name: str) -> dict[str, Any]:
    path = find_file(checkpoint, name)
    return {} if path is None else read_json(path)


def _read_listed(path: Path, checkpoint: str | Path) -> list[dict[str, str]]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        entries = [{key: str(entry[key]) for key in ("path", "type")} for entry in listed]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        entries = []
    if not entries:
        raise CheckpointError(f"{checkpoint} has a {MODULES} that is no list of modules.")
    for entry in entries:
        if not entry["type"].startswith(_NAMESPACE):
            raise CheckpointError(
                f"{checkpoint} has a module {entry['type']}, which is not sentence-transformers' "
                f"own and could run code: take it out of {MODULES}, or remove that file to "
                "compress the encoder alone."
            )
        if ".." in Path(entry["path"]).parts or Path(entry["path"]).is_absolute():
            raise CheckpointError(f"{path} names {entry['path']!r}, which lies elsewhere.")
    return entries


def _read_module(checkpoint: str | Path, entry: Mapping[str, str]) -> SentenceModule:
    folder = entry["path"]
    files = [find_file(checkpoint, f"{folder}/{name}") for name in _WEIGHTS] if folder else []
    weights = next((path for path in files if path is not None), None)
    return SentenceModule(
        kind=entry["type"],
        values=_values(checkpoint, f"{folder}/config.json") if folder else {},
        tensors={} if weights is None else _floats(read_file(weights)),
    )
