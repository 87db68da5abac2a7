"""Fit the codes of compressed word embeddings to a full-precision table."""

from __future__ import annotations

import warnings

import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from bipft_compress.nn import CompressedEmbedding, FrequencyAwareEmbedding, SignEmbedding
from bipft_compress.nn.rounding import best_row_scales


def fit_embedding(
    embedding: CompressedEmbedding, table: Tensor, frequencies: Tensor, seed: int
) -> None:
    """Fill `embedding` from the full-precision `table`, in place.

    Args:
        embedding: the code to fit.
        table: (num_embeddings, embedding_dim).
        frequencies: of the words, (num_embeddings,), summing to one.
        seed: of the clustering.
    """
    if isinstance(embedding, SignEmbedding):
        embedding.initialise(table)
    elif isinstance(embedding, FrequencyAwareEmbedding):
        _fit_frequency_aware(embedding, table, frequencies, seed)


@torch.no_grad()
def _fit_frequency_aware(
    embedding: FrequencyAwareEmbedding, table: Tensor, frequencies: Tensor, seed: int
) -> None:
    table = table.cpu()  # k-means runs there
    order = frequencies.argsort(descending=True, stable=True)
    embedding.is_frequent.zero_()
    embedding.is_frequent[order[: embedding.frequent_rows]] = True
    embedding.refresh()
    rows = table[embedding.is_frequent]
    embedding.frequent.copy_(rows)
    embedding.rounding.scale.copy_(best_row_scales(rows, embedding.FREQUENT_BITS))
    rare = table[~embedding.is_frequent]
    weights = frequencies[~embedding.is_frequent].clamp_min(1e-12).numpy()
    # The square root keeps words that the text happened to lack from being given up.
    weights = weights**0.5
    padding = embedding.parts * embedding.subvector - embedding.embedding_dim
    parts = torch.nn.functional.pad(rare, (0, padding)).unflatten(1, (embedding.parts, -1))
    clusters = min(embedding.CENTROIDS, len(rare))
    for part in range(embedding.parts):
        vectors = parts[:, part].contiguous().numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fewer distinct vectors than clusters is fine
            # Starting from k-means++ takes four times as long for half a percent of the error.
            means = MiniBatchKMeans(
                clusters, init="random", batch_size=4096, max_iter=12, n_init=1, random_state=seed
            ).fit(vectors, sample_weight=weights)
        embedding.codebooks[part, :clusters] = torch.from_numpy(means.cluster_centers_)
        embedding.codes[:, part] = torch.from_numpy(means.labels_).to(torch.uint8)
    books = embedding.codebooks.flatten(0, 1)
    embedding.centroid_rounding.scale.copy_(best_row_scales(books, embedding.CENTROID_BITS))
