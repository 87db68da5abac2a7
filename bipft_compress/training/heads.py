"""The heads of a model while it is distilled: where they look, and what they say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def logits_by_head(model: PreTrainedModel, outputs: Any) -> dict[str, Tensor]:
    """Head (``mlm``, ``nsp`` or ``task``) to logits, for the heads that `model` has."""
    if "prediction_logits" in outputs:
        # ALBERT's second head is asked for the order of two sentences.
        second = "sop_logits" if "sop_logits" in outputs else "seq_relationship_logits"
        return {"mlm": outputs.prediction_logits, "nsp": outputs[second]}
    if "logits" not in outputs:
        return {}
    head = "task" if model.get_output_embeddings() is None else "mlm"
    return {head: outputs.logits}


@contextmanager
def at_positions(model: PreTrainedModel, asked: Tensor | None) -> Iterator[None]:
    """While it is open, the head of `model` sees the hidden states of some positions alone.

    Args:
        model: with a head that treats every position alike.
        asked: (batch, length), true where the head is wanted; its logits are then (1, count,
            classes). Everywhere, and as ever, for None.
    """

    def select(_: nn.Module, __: Any, output: Any) -> Any:
        output["last_hidden_state"] = output["last_hidden_state"][asked].unsqueeze(0)
        return output

    if asked is None:
        yield
        return
    handle = model.base_model.register_forward_hook(select)
    try:
        yield
    finally:
        handle.remove()


def has_fresh_head(model: PreTrainedModel) -> bool:
    """Whether the checkpoint was of another class, without the head that `model` has."""
    named = model.config.architectures
    return named is not None and type(model).__name__ not in named
