"""What a head reads: the first token's last hidden state, or the mean of all tokens'.

The noise of binarization is that of any token, so a mean has less of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bipft_compress.families import describe
from bipft_compress.nn.pooling import mean_pool

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

KEY = "classifier_pooling"
"""Entry of a model's configuration, as ModernBERT names it: ``mean``, or ``first`` where it lacks.
"""


def choose_pooling(config: PretrainedConfig, pooling: str) -> None:
    """Keep in the configuration what a head of the model is to read."""
    if pooling == "mean":
        setattr(config, KEY, pooling)
    elif hasattr(config, KEY):
        delattr(config, KEY)


def pooling_of(config: PretrainedConfig) -> str:
    """What a head of the model reads: ``mean`` or ``first``."""
    return str(getattr(config, KEY, "first"))


def apply_pooling(model: PreTrainedModel) -> None:
    """Let a head read the mean of the last hidden states where its configuration says so.

    Every class reads the first position, so that is where the mean is put, of the encoder's output
    but not of its list of hidden states.

    Args:
        model: of any class; changed in place, once.
    """
    backbone: Any = model.base_model
    if backbone is model or pooling_of(model.config) != "mean":
        return
    dense = describe(backbone).pooler

    def read_mean(encoder: nn.Module, _: Any, inputs: dict[str, Any], output: Any) -> Any:
        hidden, mask = output["last_hidden_state"], inputs.get("attention_mask")
        if mask is None:
            mask = hidden.new_ones(hidden.shape[:2])
        mean = mean_pool(hidden, mask).unsqueeze(1)
        output["last_hidden_state"] = torch.cat([mean, hidden[:, 1:]], 1)
        if dense is not None:
            pooler = encoder.get_submodule(dense.rpartition(".")[0])
            output["pooler_output"] = pooler(mean)
        return output

    backbone.register_forward_hook(read_mean, with_kwargs=True)
