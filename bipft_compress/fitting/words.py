"""Train the word embeddings as a model by themselves, before any layer is fitted to them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from bipft_compress.families import Encoder, get_module
from bipft_compress.fitting.layerwise import first_hidden
from bipft_compress.fitting.moments import exact
from bipft_compress.fitting.readout import BATCH_TOKENS, regress
from bipft_compress.fitting.sentences import HELD_OUT, held_out, train_embeddings
from bipft_compress.nn import CompressedEmbedding, Readout
from bipft_compress.nn.pooling import mean_pool
from bipft_compress.nn.readout import embeddings_of
from bipft_compress.recipe import Recipe
from bipft_compress.text.batches import calibration_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RIDGE = 1e-2
"""Of the map that training starts from, relative to the mean variance of what it reads."""


def train_words(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    encoder: Encoder,
    sequences: list[list[int]],
    recipe: Recipe,
    seed: int = 0,
) -> bool:
    """Train the word embeddings of `student`, in place, so that their mean says what a text means.

    A linear map takes the mean of what the first layer reads, each word with the weight that the
    readout gives it, to the embedding of `teacher`. Table and map are trained together by the
    sentence terms of the objective; the map is then dropped, for `fit_readout` finds its own. No
    layer runs, so many more texts are seen than by pretraining.

    Args:
        student: binary, its word embeddings fitted; nothing behind them is read.
        teacher: its full-precision original.
        encoder: the parts of `student`.
        sequences: token ids of texts.
        recipe: its sections `words`, `objective` and `readout` count.
        seed: of the order of the texts.

    Returns:
        Whether the table was changed: see `train_embeddings`.
    """
    embedding = get_module(student, encoder.word_embeddings)
    assert isinstance(embedding, CompressedEmbedding)
    batches = calibration_batches(sequences, BATCH_TOKENS)
    texts = [text for batch in batches for text in batch]
    if len(texts) < HELD_OUT:
        return False
    first_token = recipe.readout.pooling == "first"
    wanted = torch.cat([_embeddings(teacher, batch, first_token) for batch in batches])
    model = _MeanOfWords(student, encoder, wanted.shape[1])
    with torch.no_grad():
        features = torch.cat([model.features(batch, torch.ones_like(batch)) for batch in batches])
    used = ~held_out(len(texts))
    model.fit_map(features[used], wanted[used])

    def embeddings(numbers: Tensor) -> Tensor:
        some = pad_sequence([texts[n] for n in numbers.tolist()], True, padding_value=-1)
        own: Tensor = model(some.clamp_min(0), some >= 0)
        return own

    return train_embeddings(
        nn.ModuleList([embedding, model.map]), embeddings, wanted, recipe.objective,
        lengths=list(map(len, texts)), steps=recipe.words.steps,
        learning_rate=recipe.words.learning_rate, name="words", seed=seed,
    )  # fmt: skip


class _MeanOfWords(nn.Module):
    """A text's embedding as a linear map of the mean of what the first layer reads.

    Args:
        student: what lies before its layers is run, and no part of this module.
        encoder: the parts of `student`.
        width: of an embedding.
    """

    def __init__(self, student: PreTrainedModel, encoder: Encoder, width: int) -> None:
        super().__init__()
        self._before = partial(first_hidden, student, encoder)
        self._weights: Callable[[Tensor, Tensor], Tensor] = lambda _, mask: mask
        if encoder.readout is not None:
            readout = get_module(student, encoder.readout)
            assert isinstance(readout, Readout)
            self._weights = readout.weights
        self.map = nn.Linear(encoder.hidden_size, width, device=student.device)

    def features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Weighted means of the words of texts (texts, length), (texts, hidden)."""
        ids, mask = ids.to(self.map.weight.device), mask.to(self.map.weight.device)
        return mean_pool(self._before(ids, mask), self._weights(ids, mask))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embeddings of texts (texts, length), (texts, width)."""
        embeddings: Tensor = self.map(self.features(ids, mask))
        return embeddings

    @torch.no_grad()
    def fit_map(self, features: Tensor, wanted: Tensor) -> None:
        """Start from the map of least squared error."""
        (fit,) = regress(exact(features), exact(wanted), (RIDGE,))
        self.map.weight.copy_(fit.up)
        self.map.bias.copy_(fit.bias)


@torch.no_grad()
def _embeddings(teacher: PreTrainedModel, batch: Tensor, first_token: bool) -> Tensor:
    inputs = batch.to(teacher.device)
    mask = torch.ones_like(inputs)
    hidden = teacher.base_model(inputs, attention_mask=mask).last_hidden_state
    return embeddings_of(hidden, mask, first_token)
