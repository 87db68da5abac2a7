"""What a head reads: the first token's last hidden state, or the mean of all tokens'.

The noise of binarization is that of any token, so a mean has less of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

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


def apply_pooling(model: PreTrainedModel, pooler: str | None) -> None:
    """Let a head read the mean of the last hidden states where its configuration says so.

    Every class reads the first position, so that is where the mean is put, of the encoder's output
    but not of its list of hidden states.

    Args:
        model: of any class; changed in place, once.
        pooler: path of its pooler's linear layer, if there is one.
    """
    if model.base_model is model or pooling_of(model.config) != "mean":
        return
    inside = None
    if pooler is not None:
        inside = pooler.removeprefix(f"{model.base_model_prefix}.").rpartition(".")[0]

    def read_mean(encoder: nn.Module, _: Any, inputs: dict[str, Any], output: Any) -> Any:
        hidden, mask = output["last_hidden_state"], inputs.get("attention_mask")
        if mask is None:
            mask = hidden.new_ones(hidden.shape[:2])
        mean = mean_pool(hidden, mask).unsqueeze(1)
        output["last_hidden_state"] = torch.cat([mean, hidden[:, 1:]], 1)
        if inside is not None:
            output["pooler_output"] = encoder.get_submodule(inside)(mean)
        return output

    model.base_model.register_forward_hook(read_mean, with_kwargs=True)
