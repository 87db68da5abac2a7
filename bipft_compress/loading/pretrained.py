"""Full-precision checkpoints in."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from bipft_compress.errors import CheckpointError, first_line
from bipft_compress.families import describe, drop_pooler, head_parameters
from bipft_compress.loading.checksums import FINE_TUNED, read_fine_tuned
from bipft_compress.loading.claims import check_layers, check_numbers, configuration_faults
from bipft_compress.loading.configuration import (
    encoder_class,
    has_mlm_head,
    load_config,
    mlm_class,
    model_class,
)
from bipft_compress.loading.sentence import encoder_source
from bipft_compress.loading.tokenizer import fit_tokenizer, load_tokenizer
from bipft_compress.loading.weights import fetch, read_weights

logger = logging.getLogger("bipft_compress")


def load_pretrained(
    checkpoint: str | Path, *, mlm_head: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A full-precision model, in the class its configuration names, and its tokenizer.

    Args:
        checkpoint: hub name or local directory, its weights in any floating-point type.
        mlm_head: where the class has no head for masked language modelling, load the one of the
            family that has, with a fresh head, tied where the family has one width for both.

    Returns:
        The model in fp32 and in evaluation mode, and the tokenizer. Where the class has a head of
        which the checkpoint has no weight, the encoder alone.

    Raises:
        CheckpointError: files are missing, truncated, or do not fit the configuration.
        UnsupportedModelError: an architecture that cannot be made binary.
    """
    if (Path(checkpoint) / FINE_TUNED).is_file():
        read_fine_tuned(Path(checkpoint))
    source = encoder_source(checkpoint)
    config = load_config(source)
    if getattr(config, "quantization_config", None) is not None:
        raise CheckpointError(
            f"{checkpoint} cannot be loaded in full precision: its weights are quantized "
            "(quantization_config in its config.json); give the original."
        )
    fresh = mlm_head and not has_mlm_head(config)
    chosen: Any = mlm_class(config) if fresh else model_class(config)
    if fresh:
        # A second table of the vocabulary would stay in full precision.
        config.tie_word_embeddings = True
    state = read_weights(fetch(source))
    model, missing = _build(chosen, config, state, checkpoint)
    head = set(head_parameters(model))
    if head and head <= missing and not fresh:
        # Embedding models often name the class that they were trained from.
        logger.info(
            "%s names %s and has no weights of its head: read as an encoder",
            checkpoint,
            type(model).__name__,
        )
        model, missing = _build(encoder_class(config), config, state, checkpoint)
    model.config.name_or_path = str(checkpoint)
    if missing:
        _check_missing(checkpoint, model, missing, fresh_head=fresh)
    _check_finite(checkpoint, model)
    tokenizer = load_tokenizer(source)
    fit_tokenizer(tokenizer, model, checkpoint)
    return model.eval(), tokenizer


def _build(
    chosen: Any, config: PretrainedConfig, state: dict[str, Tensor], checkpoint: str | Path
) -> tuple[PreTrainedModel, set[str]]:
    """A model of a class, and the names of what `state` lacks."""
    check_layers(config, len(state), checkpoint)
    with configuration_faults(checkpoint), torch.device("meta"):
        empty = chosen._from_config(config, attn_implementation="eager")
    held = sum(tensor.numel() for tensor in state.values())
    check_numbers(sum(weight.numel() for weight in empty.parameters()), held, checkpoint)
    try:
        # Without a path transformers reads no file, neither adapters nor weights named elsewhere.
        model, info = chosen.from_pretrained(
            None,
            config=config,
            state_dict=dict(state),
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint} cannot be loaded ({first_line(error)}).") from None
    missing = set(info["missing_keys"])
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in missing & parameters.keys():
        # transformers leaves one that is tied to another missing one as the memory was.
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameters[name])
    return model, missing


def _check_finite(checkpoint: str | Path, model: PreTrainedModel) -> None:
    """Refuse weights that are not numbers: every figure made of them would be none either."""
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            kind = "a NaN" if torch.isnan(weight).any() else "an infinite number"
            raise CheckpointError(
                f"The weights of {checkpoint} hold {kind} in the tensor {name}: they come from a "
                "training that failed, or are of a type that 32 bits cannot hold."
            )


def _check_missing(
    checkpoint: str | Path, model: PreTrainedModel, missing: set[str], *, fresh_head: bool
) -> None:
    """Refuse a model whose encoder was not in the file; a head and its pooler may start afresh."""
    with torch.device("meta"):
        # What is frozen from the start, transformers computes from the configuration.
        frozen = {
            n for n, own in type(model)(model.config).named_parameters() if not own.requires_grad
        }
    base: Any = model.base_model
    prefix = "" if base is model else f"{model.base_model_prefix}."
    pooler = describe(model).pooler
    encoder = {f"{prefix}{name}" for name, _ in base.named_parameters()} - frozen
    if pooler is not None:
        of_pooler = {f"{pooler}.weight", f"{pooler}.bias"}
        encoder -= of_pooler
        if of_pooler <= missing:
            _without_pooler(checkpoint, model)
    lacking = sorted(missing & encoder)
    if lacking:
        raise CheckpointError(
            f"The weights of {checkpoint} lack {len(lacking)} tensors of the encoder, such as "
            f"{lacking[0]}: the checkpoint is incomplete."
        )
    head = sorted(name for name in missing if not name.startswith(prefix)) if prefix else []
    if head and not fresh_head:
        logger.warning(
            "%s lacks weights of its head, which start afresh: %s", checkpoint, ", ".join(head)
        )


def _without_pooler(checkpoint: str | Path, model: PreTrainedModel) -> None:
    drop_pooler(model)
    if describe(model).pooler is None:
        logger.info("%s has no weights of a pooler: read without one", checkpoint)
    else:
        logger.warning("%s has no weights of its pooler, which starts afresh", checkpoint)
