"""Checkpoints in and out: full-precision ones from anywhere, binary ones of our own.

A binary checkpoint is a directory with ``config.json`` (the original's), ``model.safetensors``
(latent weights, for training), ``compression.json`` (recipe, decisions, provenance, checksum) and
the tokenizer's files. Only safetensors and JSON are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bipft_compress.convert.swap import swap
from bipft_compress.errors import CheckpointError, UnsupportedModelError, first_line
from bipft_compress.families import check_supported
from bipft_compress.files import atomic_directory, read_json, sha256
from bipft_compress.record import RECORD, WEIGHTS, Record, write_record


def load_config(checkpoint: str | Path) -> transformers.PretrainedConfig:
    """Configuration of a hub name, a local directory or a ``config.json``.

    Raises:
        CheckpointError: it cannot be found or read.
        UnsupportedModelError: an architecture that cannot be made binary.
    """
    path = Path(checkpoint)
    if path.is_dir() and not (path / "config.json").is_file():
        raise CheckpointError(f"{path} has no config.json: it is not a Hugging Face checkpoint.")
    if path.is_file():
        values = read_json(path)
        model_type = values.get("model_type")
        if not model_type or model_type not in transformers.CONFIG_MAPPING:
            raise UnsupportedModelError(f"{path} names no model type that transformers knows.")
        config = transformers.CONFIG_MAPPING[model_type].from_dict(values)
    else:
        try:
            config = AutoConfig.from_pretrained(checkpoint)
        except (OSError, ValueError, HFValidationError) as error:
            raise CheckpointError(
                f"Checkpoint {str(checkpoint)!r} cannot be read: it is neither a local directory "
                f"nor a model that the hub answers for ({first_line(error)})."
            ) from None
    check_supported(config)
    return config


def load_pretrained(
    checkpoint: str | Path, *, mlm_head: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A full-precision model, in the class its configuration names, and its tokenizer.

    Args:
        checkpoint: hub name or local directory.
        mlm_head: where the class has no head for masked language modelling, load the one of the
            family that has, with a fresh tied head.

    Raises:
        CheckpointError: files are missing, truncated, or do not fit the configuration.
        UnsupportedModelError: an architecture that cannot be made binary.
    """
    path = Path(checkpoint)
    config = load_config(checkpoint)
    if path.is_dir() and not list(path.glob("*.safetensors")):
        raise CheckpointError(
            f"{path} holds no weights (*.safetensors): only safetensors are read, since other "
            "formats can run code; convert the checkpoint with `save_pretrained` first."
        )
    name = (config.architectures or [""])[0]
    model_class: Any = getattr(transformers, name, None) or AutoModel
    if mlm_head and not name.endswith(("ForMaskedLM", "ForPreTraining")):
        model_class = AutoModelForMaskedLM
    try:
        model, info = model_class.from_pretrained(
            checkpoint,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise CheckpointError(
            f"The weights of {checkpoint} are truncated or damaged ({error}): fetch them again."
        ) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint} cannot be loaded ({first_line(error)}).") from None
    # A base model's keys begin with these names, those of a model with a head contain them.
    parts = (".layer.", ".embeddings.", ".embeddings_project.")
    missing = [key for key in info["missing_keys"] if any(part in f".{key}" for part in parts)]
    if missing:
        raise CheckpointError(
            f"The weights of {checkpoint} lack {len(missing)} tensors of the encoder, such as "
            f"{sorted(missing)[0]}: the checkpoint is incomplete."
        )
    return model.eval(), load_tokenizer(checkpoint)


def load_tokenizer(checkpoint: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub name or local directory.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    path = Path(checkpoint)
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise CheckpointError(
            f"The tokenizer of {checkpoint} cannot be loaded ({first_line(error)})."
        ) from None
    # Where there are no files, transformers makes up a tokenizer that knows no word.
    files = tokenizer.vocab_files_names.values()
    if path.is_dir() and not any((path / name).is_file() for name in files):
        raise CheckpointError(
            f"{path} has no tokenizer (none of {', '.join(files)}): copy the files of the "
            "original there."
        )
    return tokenizer


def state_to_save(model: torch.nn.Module) -> dict[str, Tensor]:
    """The state of `model`, contiguous, tensors that share memory stored once."""
    state, seen = {}, set()
    for name, tensor in model.state_dict().items():
        if tensor.numel() and tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        state[name] = tensor.detach().cpu().contiguous()
    return state


def load_state(model: torch.nn.Module, path: Path) -> None:
    """Load what `state_to_save` stored.

    Raises:
        CheckpointError: the file is missing, truncated, or does not fit `model`.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing.")
    try:
        state = load_file(path)
        saved = set(state_to_save(model))
        if saved != set(state):
            odd = sorted(saved ^ set(state))[0]
            raise CheckpointError(f"{path} does not fit the model: tensor {odd} is unmatched.")
        model.load_state_dict(state, strict=False)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}).") from None
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the model ({first_line(error)}).") from None


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
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(work)
        if tokenizer is not None:
            tokenizer.save_pretrained(work)
        write_record(work, record)


def model_from_config(config: transformers.PretrainedConfig) -> PreTrainedModel:
    """A full-precision model of the class that `config` names, its weights without meaning."""
    named: Any = getattr(transformers, (config.architectures or [""])[0], None)
    model: PreTrainedModel
    if named is None:
        model = AutoModel.from_config(config, attn_implementation="eager")
    else:
        model = named._from_config(config, attn_implementation="eager")
    model.eval()
    return model


def load(directory: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Record]:
    """Read a binary checkpoint.

    Returns:
        The binary model in evaluation mode, its tokenizer and its record.

    Raises:
        CheckpointError: it is missing, incomplete, damaged, or of a newer version.
    """
    path = Path(directory)
    if not path.is_dir():
        raise CheckpointError(f"There is no directory {path}.")
    record = Record.read(path)
    if record.tensors:
        raise CheckpointError(
            f"{path} is packed: it runs, but cannot be trained or packed again; give the binary "
            "checkpoint that it was packed from."
        )
    config = load_config(path)
    expected = read_json(path / RECORD).get("weights_sha256")
    if not (path / WEIGHTS).is_file():
        raise CheckpointError(f"{path} has no {WEIGHTS}: the checkpoint is incomplete.")
    if sha256(path / WEIGHTS) != expected:
        raise CheckpointError(
            f"{path / WEIGHTS} does not match its checksum: it was truncated or changed; "
            "compress the checkpoint again."
        )
    model = model_from_config(config)
    swap(model, record.recipe)
    load_state(model, path / WEIGHTS)
    return model.eval(), load_tokenizer(path), record
