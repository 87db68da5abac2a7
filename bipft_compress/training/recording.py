"""What the attention of every layer is called with, for terms that compare it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from bipft_compress.families import Encoder, get_module
from bipft_compress.nn.attention import Attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AttentionCall(NamedTuple):
    """The arguments of an attention: see `Attention.forward`."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    bias: Tensor | None
    hidden: Tensor

    def scores(self, attention: nn.Module) -> Tensor:
        """Its scores, but for the bias, which student and teacher add alike."""
        assert isinstance(attention, Attention)
        return attention.scores(self.query, self.key, hidden=self.hidden)


@contextmanager
def recording(model: PreTrainedModel, encoder: Encoder) -> Iterator[list[AttentionCall]]:
    """Every call of an attention, in order, while it is open."""
    calls: list[AttentionCall] = []

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        calls.append(AttentionCall(*args))

    handles = [
        get_module(model, layer.attention).register_forward_pre_hook(hook)
        for layer in encoder.layers
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
