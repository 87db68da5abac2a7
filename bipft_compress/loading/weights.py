"""Weights of full-precision checkpoints: whole or in shards, as safetensors or as pickles.

A pickle is read with ``weights_only=True``, which makes nothing but tensors.
"""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)
from transformers.utils.import_utils import check_torch_load_is_safe

from bipft_compress.errors import CheckpointError, first_line
from bipft_compress.files import read_json
from bipft_compress.sources import split_revision

FILES = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
"""Where weights may be, the preferred first."""

_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)
"""What torch raises for bytes that are no pickle of tensors."""


def fetch(checkpoint: str | Path) -> Path:
    """The directory that holds the weights of a hub name; of a local directory itself.

    Raises:
        CheckpointError: the hub does not answer, or has no weights of this name.
    """
    path = Path(checkpoint)
    if path.is_dir():
        return path
    name, revision = split_revision(checkpoint)
    try:
        for file in FILES:
            try:
                path = Path(hf_hub_download(name, file, revision=revision))
            except EntryNotFoundError:
                continue
            if path.suffix == ".json":
                for shard in shards(path):
                    hf_hub_download(name, shard, revision=path.parent.name)
            return path.parent
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        raise CheckpointError(
            f"The weights of {checkpoint} cannot be fetched ({first_line(error)})."
        ) from None
    raise CheckpointError(f"{checkpoint} holds no weights (none of {', '.join(FILES)}).")


def read_weights(directory: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name, in the types they are stored in.

    Args:
        directory: with one of `FILES`; safetensors go before pickles.

    Raises:
        CheckpointError: files are missing, truncated, point elsewhere, or hold something else.
    """
    path = next((directory / name for name in FILES if (directory / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{directory} holds no weights (none of {', '.join(FILES)}).")
    if path.suffix != ".json":
        return read_file(path)
    state: dict[str, Tensor] = {}
    for shard, names in shards(path).items():
        if not (directory / shard).is_file():
            raise CheckpointError(f"{directory} lacks {shard}, which {path.name} names.")
        tensors = read_file(directory / shard)
        for name in sorted(names - tensors.keys()):
            raise CheckpointError(
                f"{directory / shard} lacks the tensor {name}, which {path.name} says is there."
            )
        state |= {name: tensors[name] for name in names}
    return state


def shards(index: Path) -> dict[str, set[str]]:
    """Names of the files that an index divides the weights among, and of the tensors in each.

    Raises:
        CheckpointError: it is malformed, or names a file that does not lie beside it.
    """
    weight_map = read_json(index).get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(map(_is_name, weight_map.values()))
    ):
        raise CheckpointError(
            f"{index} is not an index of weights beside it: its weight_map must give each tensor "
            "the name of a file in the same directory."
        )
    names: dict[str, set[str]] = {}
    for tensor, file in weight_map.items():
        names.setdefault(file, set()).add(tensor)
    return dict(sorted(names.items()))


def _is_name(file: object) -> bool:
    return (
        isinstance(file, str)
        and file not in ("", ".", "..")
        and not any(character in file for character in "/\\:\0")
    )


def read_file(path: Path) -> dict[str, Tensor]:
    """All tensors of one file by name, safetensors or a pickle.

    Raises:
        CheckpointError: it is damaged, or holds something else.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is truncated or damaged ({first_line(error)}): fetch it again."
            ) from None
    try:
        check_torch_load_is_safe()
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read ({first_line(error)}).") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _BROKEN_PICKLE:
        raise CheckpointError(
            f"{path} is refused: it is damaged, or a pickle of more than tensors, which could run "
            "code; give the checkpoint as safetensors."
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise CheckpointError(f"{path} holds something else than tensors by name.")
    return dict(state)
