"""LoRA (Hu et al. 2021) over a frozen model, as PEFT's adapters; binary layers too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn

from bipft_compress.errors import CheckpointError, RecipeError, first_line
from bipft_compress.families import describe, get_module, head_parameters
from bipft_compress.files import read_json
from bipft_compress.sources import split_revision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_FAULTS = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError,
    SafetensorError,
)  # fmt: skip
"""What PEFT raises for files that are no adapter of the model."""


def add_adapters(model: PreTrainedModel, rank: int) -> PeftModel:
    """Freeze `model` in place but for its head, and give every encoder linear an adapter.

    Args:
        model: with a sequence classification head or none, binary or not.
        rank: of every adapter; alpha is twice as much.

    Raises:
        RecipeError: the rank is larger than a layer.
    """
    encoder = describe(model)
    targets = {
        name
        for layer in encoder.layers
        for name, module in get_module(model, layer.path).named_modules()
        if isinstance(module, nn.Linear)
    }
    if rank > encoder.hidden_size:
        raise RecipeError(
            f"--lora {rank} is larger than the layers allow: use {encoder.hidden_size} or less."
        )
    heads = {name.partition(".")[0] for name in head_parameters(model)}
    if heads and encoder.pooler is not None:
        heads.add(encoder.pooler)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=sorted(targets),
        modules_to_save=sorted(heads),
        task_type="SEQ_CLS" if heads else "FEATURE_EXTRACTION",
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    return adapted


def save_adapters(adapted: PeftModel, directory: Path, base: str) -> None:
    """Write adapters and head as PEFT does; `base` is what they are an adapter of."""
    config = adapted.peft_config["default"]
    config.base_model_name_or_path, config.revision = split_revision(base)
    adapted.save_pretrained(str(directory), save_embedding_layers=False)


def base_of(directory: Path) -> str | None:
    """What an adapter is one of: a path or a hub name, with its revision; None if it is not said.

    Raises:
        CheckpointError: the adapter's configuration cannot be read.
    """
    values = read_json(directory / CONFIG)
    name, revision = values.get("base_model_name_or_path"), values.get("revision")
    if not isinstance(name, str):
        return None
    return f"{name}@{revision}" if isinstance(revision, str) else name


def load_adapters(model: PreTrainedModel, directory: Path) -> PreTrainedModel:
    """`model` with the adapters and head of `directory`, in evaluation mode.

    Raises:
        CheckpointError: they are damaged or do not fit.
    """
    try:
        adapted = PeftModel.from_pretrained(model, str(directory))
    except _FAULTS as error:
        raise CheckpointError(
            f"The adapter {directory} cannot be loaded ({first_line(error)})."
        ) from None
    adapted.eval()
    # The layers of `model` itself were replaced.
    return model
