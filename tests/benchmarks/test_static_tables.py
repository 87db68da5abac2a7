"""The static tables that artefacts are compared with: coded as well as their bytes allow."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from bipft_compress.errors import UserError
from bipft_compress.tasks.sts import embed


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("static_tables")


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(101, 16)).astype(np.float32)


@pytest.fixture
def table(tables, tokenizer, rows):
    raw = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    return tables.half_precision(raw, rows, "[UNK]")


def test_a_text_is_the_mean_of_its_rows(table, tokenizer):
    ids = tokenizer.convert_tokens_to_ids(["ab", "cd", "ab"])
    vectors = table.embed(["ab cd ab", "", "ab ? cd ab"])
    np.testing.assert_allclose(vectors[0], table.rows[ids].mean(0), rtol=1e-6)
    assert not vectors[1].any()
    # An unknown token counts for nothing.
    np.testing.assert_array_equal(vectors[2], vectors[0])


def test_one_bit_is_the_sign_times_the_mean_magnitude(tables, rows):
    coded = tables.quantize_rows(rows, 1)
    expected = np.sign(rows) * np.abs(rows).mean(1, keepdims=True)
    np.testing.assert_allclose(coded, expected, rtol=1e-3)


def test_a_bit_more_is_an_error_less(tables, rows):
    errors = [((tables.quantize_rows(rows, bits) - rows) ** 2).mean() for bits in range(1, 9)]
    for more, less in itertools.pairwise(errors):
        assert less < 0.5 * more
    for bits in range(1, 5):
        coded = tables.quantize_rows(rows, bits)
        assert max(len(np.unique(row)) for row in coded) <= 2**bits


def test_cut_takes_the_most_bits_that_fit(tables, table):
    assert tables.quantized_size((101, 16), 3) == 101 * (6 + 2)
    for size, bits in ((101 * 8, 3), (101 * 8 - 1, 2), (10**6, 8)):
        cut, chosen = table.cut(size)
        assert chosen == bits
        assert cut.size == tables.quantized_size((101, 16), bits) <= size
    with pytest.raises(UserError, match="does not fit into 403 bytes"):
        table.cut(101 * 4 - 1)


def test_the_control_is_the_best_linear_map_of_word_embeddings(tables, make_model, tokenizer):
    model = make_model("bert")
    letters = "abcdefghijklmnop"
    texts = [f"{a} {b}{c} {c}" for a in letters for b in "abcd" for c in letters]
    control = tables.distilled(model, tokenizer, texts)
    target = embed(model, tokenizer, texts)
    words = torch.from_numpy(control.embed(texts))
    # Better than the best constant by far: the order of a few letters says little.
    assert (words - target).square().sum() < 0.3 * (target - target.mean(0)).square().sum()
