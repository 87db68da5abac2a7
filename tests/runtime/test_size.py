"""The default recipe's promise: the whole file, its header included, is 28 times smaller."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig

from bipft_compress.recipe import Recipe
from bipft_compress.runtime.model import Skeleton, empty_model

MINILM = {
    "hidden_size": 384,
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
    "intermediate_size": 1536,
    # Of a sentence-transformers checkpoint, what nothing reads is left out.
    "max_position_embeddings": 256,
    "add_pooling_layer": False,
}
MINILM_FILE = 90_868_376
"""Bytes of the published all-MiniLM-L6-v2's ``model.safetensors``."""
BASE_FILE = 4 * 109_482_240
"""Bytes of BERT-base's numbers alone."""


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "full"), [(MINILM, MINILM_FILE), ({}, BASE_FILE)])
@pytest.mark.parametrize("recipe", ["default", "demo"])
def test_28_times_smaller(sizes, full, recipe, tmp_path):
    expected = Skeleton(empty_model(BertConfig(**sizes)), Recipe.load(recipe)).expected()
    tensors = {name: torch.zeros_like(like, device="cpu") for name, like in expected.items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert full / (tmp_path / "model.safetensors").stat().st_size >= 28
