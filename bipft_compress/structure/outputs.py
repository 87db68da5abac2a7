"""The end of a backbone's forward pass: its readout, and the mean for heads that read it."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bipft_compress.nn.pooling import mean_pool
from bipft_compress.structure.pooling import POOLING_FAMILIES, pooling_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def adapt_outputs(model: PreTrainedModel) -> None:
    """Correct the last hidden states by the backbone's readout, and let a head read their mean.

    A head reads the mean where its configuration says so: see `pooling_of`. Every class that does
    not pool by itself reads the first position, or a pooler that does. So that is where the mean is
    put, of the encoder's output but not of its list of hidden states.

    Args:
        model: of any class, its backbone with or without a `Readout` as ``readout``; changed in
            place, once.
    """
    backbone: Any = model.base_model
    has_head = backbone is not model and model.config.model_type not in POOLING_FAMILIES
    # Of the backbone, so that a copy of the model gets one of its own.
    if has_head and pooling_of(model.config) == "mean":
        backbone.forward = partial(_forward_with_mean, backbone)
    elif hasattr(backbone, "readout"):
        backbone.forward = partial(_forward, backbone)


def _forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The backbone's ``forward``, then its readout, then its pooler."""
    return _adapted(self, args, kwargs, mean_first=False)


def _forward_with_mean(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The same, with the mean in the first token's place."""
    return _adapted(self, args, kwargs, mean_first=True)


def _adapted(
    backbone: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, mean_first: bool
) -> Any:
    own = type(backbone).forward
    bound = inspect.signature(own).bind(backbone, *args, **kwargs).arguments
    named = {**bound, **bound.get("kwargs", {})}
    readout = getattr(backbone, "readout", None)
    wants_states = _wanted(named, backbone, "output_hidden_states")
    wants_dict = _wanted(named, backbone, "return_dict")
    kwargs = {name: value for name, value in named.items() if name not in ("self", "kwargs")}
    kwargs |= {"return_dict": True, "output_hidden_states": wants_states or readout is not None}
    output = own(_WithoutPooler(backbone), **kwargs)
    hidden: Tensor = output.last_hidden_state
    states = output.hidden_states
    mask = _mask(named, hidden)
    if readout is not None:
        hidden = readout(hidden, states, readout.weights(named.get("input_ids"), mask))
        states = (*states[:-1], hidden)
    first = mean_pool(hidden, mask).unsqueeze(1) if mean_first else hidden[:, :1]
    if mean_first:
        hidden = torch.cat([first, hidden[:, 1:]], 1)
    changed: dict[str, Any] = {"last_hidden_state": hidden}
    if getattr(backbone, "pooler", None) is not None:
        changed["pooler_output"] = _pooled(backbone, first)
    changed["hidden_states"] = states if wants_states else None
    adapted = type(output)(**{**output, **changed})
    return adapted if wants_dict else adapted.to_tuple()


def _wanted(named: dict[str, Any], backbone: Any, name: str) -> bool:
    chosen = named.get(name)
    return bool(getattr(backbone.config, name) if chosen is None else chosen)


def _mask(named: dict[str, Any], hidden: Tensor) -> Tensor:
    mask: Tensor | None = named.get("attention_mask")
    if mask is None:
        return hidden.new_ones(hidden.shape[:2])
    if mask.shape != hidden.shape[:2]:
        raise ValueError(
            "a model that takes the mean of its tokens needs an attention mask of shape (batch, "
            f"length), not {tuple(mask.shape)}"
        )
    return mask


def _pooled(backbone: Any, first: Tensor) -> Tensor:
    if hasattr(backbone, "pooler_activation"):
        # ALBERT's pooler is a linear layer; the others take hidden states.
        linear: Tensor = backbone.pooler_activation(backbone.pooler(first.squeeze(1)))
        return linear
    pooled: Tensor = backbone.pooler(first)
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
