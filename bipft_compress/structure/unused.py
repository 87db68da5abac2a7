"""What nothing reads is not kept: a pooler without a head, positions beyond any text."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from bipft_compress.families import describe, drop_pooler, get_module, max_sequence_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def without_unused(model: PreTrainedModel, longest: int) -> PreTrainedModel:
    """A model that computes the same for whoever reads hidden states of short sequences alone.

    Args:
        model: in full precision; its pooler is taken away where it has no head.
        longest: tokens of the longest sequence.

    Returns:
        `model`, or where it has a table of more positions a copy with `longest`.
    """
    drop_pooler(model)
    config, encoder = copy.deepcopy(model.config), describe(model)
    spare = max_sequence_length(config) - longest
    tables: list[Any] = [get_module(model, path) for path in encoder.embeddings_kept]
    if (
        spare <= 0
        # Buckets of distances follow from the number of positions.
        or any(layer.spec.attention.relative for layer in encoder.layers)
        or not any(len(table.weight) == config.max_position_embeddings for table in tables)
    ):
        return model
    config.max_position_embeddings -= spare
    shorter: PreTrainedModel = type(model)._from_config(config, attn_implementation="eager")
    drop_pooler(shorter)
    own, state = shorter.state_dict(), model.state_dict()
    # Only tables of positions differ, and only in their number of rows.
    shorter.load_state_dict({name: state[name][: len(own[name])] for name in own})
    shorter.eval()
    return shorter
