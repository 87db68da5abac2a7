"""A model with another head, or none, around the backbone of another."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, PretrainedConfig

from bipft_compress.errors import CheckpointError, UnsupportedModelError
from bipft_compress.families import describe, head_parameters
from bipft_compress.nn import set_values
from bipft_compress.recipe import Recipe
from bipft_compress.structure.pooling import choose_pooling
from bipft_compress.structure.swap import Decision, swap

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def has_head(model: PreTrainedModel) -> bool:
    """Whether it is a sequence classification model."""
    return type(model).__name__.endswith("ForSequenceClassification")


def class_names(config: PretrainedConfig) -> list[str]:
    """Names of a classifier's classes, in the order of its logits; none for a regression."""
    names: Any = config.id2label or {}
    return [str(names[number]) for number in range(len(names))] if len(names) > 1 else []


def with_classifier(
    model: PreTrainedModel,
    labels: Sequence[str],
    recipe: Recipe | None,
    pooling: str = "first",
) -> tuple[PreTrainedModel, list[Decision]]:
    """The family's own sequence classification model, with the backbone of `model`.

    Its head is fresh, drawn from torch's generator, unless `model` has one for the same labels.

    Args:
        model: full-precision, or binary by `recipe`; not changed.
        labels: names of the classes; empty for a regression.
        recipe: what `model` was swapped with; None for a full-precision one.
        pooling: what a fresh head of a binary model reads, see `adapt_outputs`.

    Returns:
        The new model, and `swap`'s decisions about it.

    Raises:
        CheckpointError: a tensor of the backbone has no place in the new model, or lacks.
        UnsupportedModelError: the family has no such class.
    """
    if type(model.config) not in AutoModelForSequenceClassification._model_mapping:
        raise UnsupportedModelError(
            f"transformers has no sequence classification model of type {model.config.model_type}: "
            "fine-tune a checkpoint of another family."
        )
    config = copy.deepcopy(model.config)
    kept = has_head(model) and list(labels) == class_names(config)
    if not kept:
        choose_pooling(config, pooling if recipe else "first")
    config.num_labels = max(1, len(labels))
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: number for number, name in enumerate(labels)}
    config.problem_type = "single_label_classification" if labels else "regression"
    new, decisions = _made(AutoModelForSequenceClassification, config, recipe)
    if kept:
        new.load_state_dict(model.state_dict())
    else:
        _take_backbone(new, model)
    return new, decisions


def without_head(
    model: PreTrainedModel, recipe: Recipe | None
) -> tuple[PreTrainedModel, list[Decision]]:
    """The family's own encoder, with the backbone of `model`; else as `with_classifier`."""
    config = copy.deepcopy(model.config)
    choose_pooling(config, "first")
    new, decisions = _made(AutoModel, config, recipe)
    _take_backbone(new, model)
    return new, decisions


@torch.no_grad()
def take_head(model: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Give `model` the head and the pooler of `teacher`, where it has them in the same shape.

    Args:
        model: binary or not; changed in place.
        teacher: its full-precision original, or a binary one, of the same class.
    """
    if type(model) is not type(teacher):
        return
    own, other = describe(model), describe(teacher)
    taken = head_parameters(model)
    if own.pooler is not None and other.pooler is not None:
        # A pooler's weight may be rounded in either of them: what it reads as is what counts.
        taken += [f"{own.pooler}.weight", f"{own.pooler}.bias"]
    pairs = []
    for name in taken:
        owner, _, attribute = name.rpartition(".")
        module, source = model.get_submodule(owner), teacher.get_submodule(owner)
        pairs.append((module, attribute, getattr(source, attribute).detach().clone()))
    if any(getattr(module, name).shape != value.shape for module, name, value in pairs):
        return
    for module, name, value in pairs:
        set_values(module, name, value)


def _made(
    auto_class: Any, config: PretrainedConfig, recipe: Recipe | None
) -> tuple[PreTrainedModel, list[Decision]]:
    new: PreTrainedModel = auto_class.from_config(config, attn_implementation="eager").eval()
    return new, [] if recipe is None else swap(new, recipe)[1]


def _take_backbone(new: PreTrainedModel, model: PreTrainedModel) -> None:
    result = new.base_model.load_state_dict(model.base_model.state_dict(), strict=False)
    # Some classes go without the pooler, and some checkpoints have none.
    unmatched = [
        *_beside_pooler(model, result.unexpected_keys),
        *_beside_pooler(new, result.missing_keys),
    ]
    if unmatched:
        raise CheckpointError(
            f"The backbone does not fit {type(new).__name__}: {len(unmatched)} tensors are "
            f"unmatched, such as {unmatched[0]}."
        )


def _beside_pooler(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """Of `names` in the backbone of `model`, those that are not its pooler's."""
    backbone: Any = model.base_model
    pooler = describe(backbone).pooler
    return [name for name in names if pooler is None or not name.startswith(f"{pooler}.")]
