"""Packed tables decode the rows of the modules they come from."""

from __future__ import annotations

import pytest
import torch

from bipft_compress.families import get_module
from bipft_compress.nn import CompressedEmbedding
from bipft_compress.runtime import embedding as packed_modules
from bipft_compress.runtime.embedding import PackedDecoder, PackedEmbedding, PackedRoundedLinear

UNTIED = {"rembert", "eurobert"}
"""Families whose output layer is not the table of words."""


@pytest.mark.parametrize("subvector", [2, 5, 12])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.99])
def test_rows_of_frequency_aware_tables(make_binary, pack_in_memory, path, subvector, fraction):
    recipe = {"embeddings": {"subvector": subvector, "frequent_fraction": fraction}}
    pair = make_binary("bert", recipe=recipe)
    _, model = pack_in_memory(pair, recipe)
    _same_rows(
        get_module(pair.student, pair.encoder.word_embeddings),
        get_module(model, pair.encoder.word_embeddings),
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_the_other_tables(make_binary, pack_in_memory, path, bits):
    recipe = {
        "embeddings": {"code": "sign"},
        "kept": {"position_embeddings": bits, "pooler": bits},
    }
    pair = make_binary("bert", recipe=recipe)
    _, model = pack_in_memory(pair, recipe)
    for path in (pair.encoder.word_embeddings, *pair.encoder.embeddings_kept):
        _same_rows(get_module(pair.student, path), get_module(model, path))
    ours, theirs = model.pooler.dense, pair.student.pooler.dense
    assert isinstance(ours, PackedRoundedLinear)
    assert torch.equal(ours.weight, theirs.weight)
    x = torch.randn(2, 36, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-6)


def _same_rows(original, packed):
    assert isinstance(packed, PackedEmbedding)
    assert isinstance(packed, CompressedEmbedding)
    assert torch.equal(packed.weight, original.weight)
    ids = torch.tensor([[1, 0], [len(original.weight) - 1, 1]])
    assert torch.equal(packed(ids), original(ids))
    assert packed.weight.shape == (packed.num_embeddings, packed.embedding_dim)


@pytest.mark.parametrize("code", ["sign", "frequency-aware"])
def test_the_decoder_reads_the_packed_table_in_chunks(
    make_binary, pack_in_memory, path, family, code, padded, monkeypatch
):
    if family in UNTIED:
        pytest.skip("its decoder has weights of its own")
    monkeypatch.setattr(packed_modules, "_CHUNK_ROWS", 30)
    recipe = {"embeddings": {"code": code}}
    pair = make_binary(family, "ForMaskedLM", recipe)
    _, model = pack_in_memory(pair, recipe)
    assert isinstance(get_module(model, pair.encoder.decoder), PackedDecoder)
    assert torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)
    with torch.no_grad():
        ours, theirs = model(**padded).logits, pair.student(**padded).logits
    real = padded["attention_mask"].bool()
    torch.testing.assert_close(ours[real], theirs[real], atol=1e-4, rtol=0)
