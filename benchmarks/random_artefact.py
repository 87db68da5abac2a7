"""A packed artefact of any shape without training: its weights are random, its speed is not."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BertConfig, PretrainedConfig, PreTrainedTokenizerFast

from bipft_compress import Recipe, loading
from bipft_compress.checkpoint.artefact import write_artefact
from bipft_compress.checkpoint.record import Record
from bipft_compress.structure.swap import swap


def bert_base() -> BertConfig:
    """12 layers of width 768, 12 heads, feed-forward width 3,072; no head."""
    return BertConfig(architectures=["BertModel"])


def write_random_artefact(directory: Path, config: PretrainedConfig, recipe: Recipe) -> None:
    """Write what `pack` would, of random numbers in the range of fitted ones.

    Args:
        directory: exists and is empty.
        config: of the original.
        recipe: what is binary, and which estimators there are.
    """
    torch.manual_seed(0)
    model = loading.model_from_config(config)
    encoder, decisions = swap(model, recipe)
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith("codes"):
            tensor.random_()
        elif name.endswith("is_frequent"):
            tensor.copy_(tensor[torch.randperm(len(tensor))])
        elif name.endswith(("scale", "clip")):
            tensor.uniform_(0.05, 0.5)
        elif "LayerNorm" not in name and "layer_norm" not in name:
            tensor.normal_(0.0, 0.3)
    model.load_state_dict(state)
    words = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    record = Record(recipe, str(directory / "random weights"), decisions)
    write_artefact(directory, model.eval(), encoder, tokenizer, record)
