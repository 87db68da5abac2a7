"""What a head reads: the first token's last hidden state, or the mean of all tokens'.

The noise of binarization is that of any token, so a mean has less of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

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
