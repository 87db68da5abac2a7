"""Fitting word-embedding codes: the frequent rows are chosen, the rare ones clustered."""

from __future__ import annotations

import pytest
import torch

from bipft_compress.fitting.embedding import fit_embedding
from bipft_compress.nn import FrequencyAwareEmbedding, SignEmbedding

ROWS, WIDTH = 400, 10


def _table() -> torch.Tensor:
    """Rows scattered around 40 centres, as words around their meanings."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, WIDTH, generator=generator)
    nearest = torch.randint(40, (ROWS,), generator=generator)
    return centres[nearest] + 0.05 * torch.randn(ROWS, WIDTH, generator=generator)


def _frequencies() -> torch.Tensor:
    """Zipf's law over a shuffled vocabulary."""
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    frequencies = torch.zeros(ROWS)
    frequencies[order] = 1 / torch.arange(1.0, ROWS + 1)
    return frequencies / frequencies.sum()


def _fitted(subvector: int = 4, frequent: int = 30) -> FrequencyAwareEmbedding:
    embedding = FrequencyAwareEmbedding(ROWS, WIDTH, frequent_rows=frequent, subvector=subvector)
    fit_embedding(embedding, _table(), _frequencies(), seed=0)
    return embedding


def test_the_most_frequent_words_get_the_bits():
    embedding = _fitted()
    assert embedding.is_frequent.sum() == 30
    assert set(embedding.is_frequent.nonzero().flatten().tolist()) == set(
        _frequencies().topk(30).indices.tolist()
    )


@pytest.mark.parametrize("subvector", [2, 4, 5, 10])
def test_rows_come_back_close_to_the_table(subvector):
    """Subvectors that divide the width and ones that do not."""
    table, embedding = _table(), _fitted(subvector)
    decoded = embedding.weight.detach()
    error = (decoded - table).square().mean(1) / table.var()
    frequent = embedding.is_frequent
    assert error[frequent].mean() < 0.02
    assert error[~frequent].mean() < 0.05
    sign = SignEmbedding(ROWS, WIDTH)
    fit_embedding(sign, table, _frequencies(), seed=0)
    by_sign = (sign.weight.detach() - table).square().mean(1) / table.var()
    assert error.mean() < 0.3 * by_sign.mean()


def test_codes_name_the_nearest_centroid():
    embedding, table = _fitted(), _table()
    rare = table[~embedding.is_frequent]
    padded = torch.nn.functional.pad(rare, (0, 2)).unflatten(1, (3, 4))
    for part in range(3):
        distances = torch.cdist(padded[:, part], embedding.codebooks[part])
        chosen = distances.gather(1, embedding.codes[:, part : part + 1].long()).squeeze(1)
        assert (chosen <= distances.amin(1) + 1e-3).float().mean() > 0.99


def test_fewer_rows_than_centroids():
    embedding = FrequencyAwareEmbedding(9, 6, frequent_rows=2, subvector=4)
    table = torch.randn(9, 6, generator=torch.Generator().manual_seed(2))
    fit_embedding(embedding, table, torch.full((9,), 1 / 9), seed=0)
    assert embedding.codes.max() < 7
    assert torch.isfinite(embedding.weight).all()
    assert (embedding.weight - table).square().mean() < 0.5 * table.square().mean()


def test_frequent_words_pull_the_centroids():
    """Weights matter: the same table, one rare cluster made frequent among the rare."""
    table = torch.randn(700, 2, generator=torch.Generator().manual_seed(3))
    errors = []
    for weight in (1.0, 10_000.0):
        frequencies = torch.ones(700)
        frequencies[0] = 1e9  # the one row in 4 bits
        frequencies[1:200] = weight
        embedding = FrequencyAwareEmbedding(700, 2, frequent_rows=1, subvector=2)
        fit_embedding(embedding, table, frequencies / frequencies.sum(), seed=0)
        errors.append((embedding.weight - table)[1:200].square().mean().item())
    assert errors[1] < errors[0]
