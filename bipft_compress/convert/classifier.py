"""A sequence classification model around the backbone of another."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import AutoModelForSequenceClassification, PretrainedConfig

from bipft_compress.convert.swap import Decision, swap
from bipft_compress.errors import CheckpointError
from bipft_compress.families import describe
from bipft_compress.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def class_names(config: PretrainedConfig) -> list[str]:
    """Names of a classifier's classes, in the order of its logits; none for a regression."""
    names: Any = config.id2label or {}
    return [str(names[number]) for number in range(len(names))] if len(names) > 1 else []


def with_classifier(
    model: PreTrainedModel, labels: Sequence[str], recipe: Recipe | None
) -> tuple[PreTrainedModel, list[Decision]]:
    """The family's own sequence classification model, with the backbone of `model`.

    Its head is fresh, drawn from torch's generator, unless `model` has one for the same labels.

    Args:
        model: full-precision, or binary by `recipe`; not changed.
        labels: names of the classes; empty for a regression.
        recipe: what `model` was swapped with; None for a full-precision one.

    Returns:
        The new model, and `swap`'s decisions about it.

    Raises:
        CheckpointError: a tensor of the backbone has no place in the new model, or lacks.
    """
    config = copy.deepcopy(model.config)
    config.num_labels = max(1, len(labels))
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: number for number, name in enumerate(labels)}
    config.problem_type = "single_label_classification" if labels else "regression"
    made: PreTrainedModel = AutoModelForSequenceClassification.from_config(
        config, attn_implementation="eager"
    )
    decisions: list[Decision] = []
    if recipe is not None:
        decisions = swap(made, recipe)[1]
    if type(made) is type(model) and class_names(config) == class_names(model.config):
        made.load_state_dict(model.state_dict())
        return made.eval(), decisions
    result = made.base_model.load_state_dict(model.base_model.state_dict(), strict=False)
    # Some classes go without the pooler, and some checkpoints have none.
    unmatched = [
        *_beside_pooler(model, result.unexpected_keys),
        *_beside_pooler(made, result.missing_keys),
    ]
    if unmatched:
        raise CheckpointError(
            f"The backbone does not fit {type(made).__name__}: {len(unmatched)} tensors are "
            f"unmatched, such as {unmatched[0]}."
        )
    return made.eval(), decisions


def _beside_pooler(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    pooler = describe(model).pooler
    if pooler is None:
        return list(names)
    inside = pooler.removeprefix(f"{model.base_model_prefix}.")
    return [name for name in names if not name.startswith(f"{inside}.")]
