"""What a head reads: the first token's last hidden state, or the mean of all tokens'.

The noise of binarization is that of any token, so a mean has less of it.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bipft_compress.nn.pooling import mean_pool

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

KEY = "classifier_pooling"
"""Entry of a model's configuration, as ModernBERT names it: ``mean``, or ``first`` where it lacks.
"""

POOLING_FAMILIES = {"modernbert": "cls", "eurobert": "bos"}
"""Model types whose heads pool by themselves, as `KEY` says, to their word for the first token."""


def choose_pooling(config: PretrainedConfig, pooling: str) -> None:
    """Keep in the configuration what a head of the model is to read.

    Args:
        config: changed in place, before a model is made from it.
        pooling: ``mean``, ``first``, or what else the family's own heads know.
    """
    first = POOLING_FAMILIES.get(config.model_type)
    if first is not None:
        setattr(config, KEY, first if pooling == "first" else pooling)
    elif pooling == "mean":
        setattr(config, KEY, pooling)
    elif hasattr(config, KEY):
        delattr(config, KEY)


def pooling_of(config: PretrainedConfig) -> str:
    """What a head of the model reads: ``mean``, ``first``, or what else the family's heads know."""
    chosen = str(getattr(config, KEY, "first"))
    return "first" if chosen == POOLING_FAMILIES.get(config.model_type) else chosen


def apply_pooling(model: PreTrainedModel) -> None:
    """Let a head read the mean of the last hidden states where its configuration says so.

    Every class that does not pool by itself reads the first position, or a pooler that does. So
    that is where the mean is put, of the encoder's output but not of its list of hidden states.

    Args:
        model: of any class; changed in place, once.
    """
    backbone: Any = model.base_model
    if backbone is model or pooling_of(model.config) != "mean":
        return
    if model.config.model_type not in POOLING_FAMILIES:
        # Of the backbone, so that a copy of the model gets one of its own.
        backbone.forward = partial(_forward, backbone)


def _forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The backbone's ``forward``, and its pooler once, on the mean."""
    own = type(self).forward
    arguments = inspect.signature(own).bind(self, *args, **kwargs).arguments
    output = own(_WithoutPooler(self), *args, **kwargs)
    hidden: Tensor = output[0]
    mean = mean_pool(hidden, _mask(arguments, hidden)).unsqueeze(1)
    changed = {"last_hidden_state": torch.cat([mean, hidden[:, 1:]], 1)}
    if getattr(self, "pooler", None) is not None:
        changed["pooler_output"] = _pooled(self, mean)
    if isinstance(output, tuple):
        return (*changed.values(), *output[len(changed) :])
    for name, value in changed.items():
        output[name] = value
    return output


def _mask(arguments: dict[str, Any], hidden: Tensor) -> Tensor:
    mask: Tensor | None = arguments.get("attention_mask")
    if mask is None:
        return hidden.new_ones(hidden.shape[:2])
    if mask.shape != hidden.shape[:2]:
        raise ValueError(
            "a head that reads the mean needs an attention mask of shape (batch, length), not "
            f"{tuple(mask.shape)}"
        )
    return mask


def _pooled(backbone: Any, mean: Tensor) -> Tensor:
    if hasattr(backbone, "pooler_activation"):
        # ALBERT's pooler is a linear layer; the others take hidden states.
        linear: Tensor = backbone.pooler_activation(backbone.pooler(mean.squeeze(1)))
        return linear
    pooled: Tensor = backbone.pooler(mean)
    return pooled


class _WithoutPooler:
    """A backbone as its own ``forward`` sees it, but for the pooler, which hands on its input.

    Args:
        backbone: that all else is read from and written to.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.__dict__["_backbone"] = backbone

    def __getattr__(self, name: str) -> Any:
        backbone = self.__dict__["_backbone"]
        attribute = getattr(backbone, name)
        return nn.Identity() if name == "pooler" and attribute is not None else attribute

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["_backbone"], name, value)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        # transformers looks up what it records by class.
        return type(self.__dict__["_backbone"])
