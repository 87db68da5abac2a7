"""What a model of blocks may be called with: a refusal is one sentence, before any arithmetic."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bipft_compress.errors import UserError
from bipft_compress.families.table import FAMILIES

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

logger = logging.getLogger("bipft_compress")


def max_sequence_length(config: PretrainedConfig) -> int:
    """Longest sequence, in tokens, that a model has positions for."""
    # The positions of RoBERTa and its kin begin after the padding index.
    after = FAMILIES[config.model_type].positions_after_padding
    return int(config.max_position_embeddings) - ((config.pad_token_id or 0) + 1 if after else 0)


def check_calls(model: PreTrainedModel) -> None:
    """Have the calls of a model checked: sequences too long, and what its blocks do not keep.

    Args:
        model: whose layers hold blocks; changed in place, once.
    """
    base: Any = model.base_model
    if _has_positions(base):
        base.register_forward_pre_hook(_check_length, with_kwargs=True)
    base.register_forward_pre_hook(_refuse_attentions, with_kwargs=True)
    for part in {model, base}:
        part.set_attn_implementation = _keep_attention


def _has_positions(base: Any) -> bool:
    """Whether a table of positions ends where `max_sequence_length` says."""
    tables = (module for module in base.modules() if isinstance(module, nn.Embedding))
    return any(table.num_embeddings == base.config.max_position_embeddings for table in tables)


def _check_length(base: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before a forward pass: torch would say that an index is out of range."""
    ids: Tensor | None = args[0] if args else kwargs.get("input_ids")
    if ids is None or ids.dim() != 2 or torch.compiler.is_compiling():
        return
    longest, length = max_sequence_length(base.config), ids.shape[1]
    if length > longest and FAMILIES[base.config.model_type].positions_after_padding:
        # Padding takes no position.
        length = int((ids != base.config.pad_token_id).sum(1).max())
    if length > longest:
        raise UserError(
            f"A sequence has {length} tokens, and this model positions for {longest}: cut it with "
            f"tokenizer(..., truncation=True, max_length={longest})."
        )


def _refuse_attentions(base: Any, arguments: Any, named: dict[str, Any]) -> None:
    """Before a forward pass: transformers finds no attention of its own, and would give none."""
    if named.get("output_attentions") or base.config.output_attentions:
        raise ValueError(
            "output_attentions cannot be had: attention runs inside blocks of bits, which keep no "
            "probabilities; ask the full-precision original."
        )


def _keep_attention(implementation: Any, *_: Any, **__: Any) -> None:
    """In place of `set_attn_implementation`, which would promise what it does not do."""
    logger.warning(
        "attn_implementation=%r changes nothing: attention of this model is computed by its blocks",
        implementation,
    )
