"""Builds a report from a model or from a configuration alone."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig

from bipft_compress.counting import count_memory, count_operations, papers_convention, read_shape
from bipft_compress.errors import UserError
from bipft_compress.families import (
    apply_pooling_layer,
    check_supported,
    describe,
    get_module,
    max_sequence_length,
)
from bipft_compress.loading import SentencePipeline
from bipft_compress.nn import BinaryLinear
from bipft_compress.provenance import provenance
from bipft_compress.recipe import Recipe
from bipft_compress.reporting.schema import ModelFacts, Report, RunFacts, Swapped
from bipft_compress.structure.swap import on_meta, swap

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_report(
    model_or_config: PreTrainedModel | PretrainedConfig,
    recipe: Recipe,
    *,
    batch: int = 1,
    sequence_length: int = 128,
    run: RunFacts | None = None,
    pipeline: SentencePipeline | None = None,
) -> Report:
    """Count what `recipe` makes of a model.

    Args:
        model_or_config: a model in full precision, a model already made binary (its own ranks and
            bits are counted then, not the recipe's), or a configuration. Never changed.
        recipe: choices of the compression.
        batch: sequences of the forward pass to count.
        sequence_length: tokens of a sequence.
        run: what was measured; without it the report has the counts alone.
        pipeline: what sentence-transformers has behind the encoder.

    Raises:
        UserError: a batch or length below 1, or a length that the model has no positions for.
        UnsupportedModelError: an architecture that cannot be made binary.
        RecipeError: a rank larger than a layer.
    """
    if isinstance(model_or_config, PretrainedConfig):
        return report_from_config(
            model_or_config,
            recipe,
            batch=batch,
            sequence_length=sequence_length,
            run=run,
            pipeline=pipeline,
        )
    run = run or RunFacts()
    config = model_or_config.config
    check_supported(config)
    _check_size(config, batch, sequence_length)
    model = on_meta(model_or_config)
    swapped = run.swapped
    if any(isinstance(module, BinaryLinear) for module in model.modules()):
        original = _original(model)
        parameters = _parameter_count(original)
        if swapped is None:
            swapped = _decisions(original, recipe)
    else:
        parameters = _parameter_count(model)
        decisions = _decisions(model, recipe)
        swapped = decisions if swapped is None else swapped
    encoder = describe(model)
    shape = read_shape(model, encoder, batch, sequence_length)
    table: Any = get_module(model, encoder.word_embeddings)
    vocabulary, block = table.num_embeddings, encoder.layers[0].spec
    return Report(
        model=ModelFacts(
            checkpoint=run.checkpoint,
            type=config.model_type,
            architecture=type(model_or_config).__name__,
            layers=len(encoder.calls),
            stored_layers=len(encoder.layers),
            hidden_size=encoder.hidden_size,
            intermediate_size=block.feed_forward[0].inner,
            heads=block.attention.heads,
            head_dim=block.attention.head_dim,
            vocabulary=vocabulary,
            activation=block.feed_forward[0].activation,
            parameters=parameters + (0 if pipeline is None else pipeline.parameters),
        ),
        recipe=recipe.model_dump(mode="json"),
        batch=batch,
        sequence_length=sequence_length,
        operations=count_operations(shape, pipeline),
        memory=count_memory(model, encoder, recipe, parameters, pipeline),
        papers_convention=papers_convention(shape, vocabulary, parameters),
        quality=run.quality,
        layer_errors=run.layer_errors,
        knowledge=run.knowledge,
        training=run.training,
        measured=run.measured,
        swapped=swapped,
        provenance=run.provenance or provenance({}, "report"),
    )


def report_from_config(
    config: PretrainedConfig,
    recipe: Recipe,
    *,
    batch: int = 1,
    sequence_length: int = 128,
    run: RunFacts | None = None,
    pipeline: SentencePipeline | None = None,
) -> Report:
    """`build_report` of the encoder (`AutoModel`) of a configuration; needs no weights."""
    check_supported(config)
    return build_report(
        _empty(config),
        recipe,
        batch=batch,
        sequence_length=sequence_length,
        run=run,
        pipeline=pipeline,
    )


def _check_size(config: PretrainedConfig, batch: int, sequence_length: int) -> None:
    if batch < 1 or sequence_length < 1:
        raise UserError(
            f"batch = {batch} and sequence_length = {sequence_length} must both be 1 or more."
        )
    longest = max_sequence_length(config)
    if sequence_length > longest:
        raise UserError(
            f"sequence_length = {sequence_length} is more than the {longest} tokens that this "
            "model has positions for; use a shorter one."
        )


def _parameter_count(model: nn.Module) -> int:
    """Numbers that a model holds, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _original(model: PreTrainedModel) -> PreTrainedModel:
    """A model in full precision of the class and configuration of a binary one, without numbers."""
    config = copy.deepcopy(model.config)
    # Blocks set another one, which not every class has.
    config._attn_implementation = "eager"
    with torch.device("meta"):
        original = type(model)(config)
    apply_pooling_layer(original)
    return original


def _empty(config: PretrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModel.from_config(copy.deepcopy(config))
    apply_pooling_layer(model)
    return model


def _decisions(model: PreTrainedModel, recipe: Recipe) -> list[Swapped]:
    """Swap `model`, which is on the meta device, in place; what was decided for each module."""
    _, decisions = swap(model, recipe)
    # Modules that the swap creates may be on the CPU; a forward pass wants one device.
    nn.Module.to(model, "meta")
    return [Swapped.model_validate(decision.to_dict()) for decision in decisions]
