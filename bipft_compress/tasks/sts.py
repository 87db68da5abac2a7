"""Semantic textual similarity: does a sentence embedding see what people see?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from bipft_compress.errors import CorpusError
from bipft_compress.families import max_sequence_length
from bipft_compress.nn.pooling import mean_pool
from bipft_compress.tasks.tables import read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 64
MAX_LENGTH = 128
"""Tokens of a sentence, where the model has as many positions."""

_FIRST, _SECOND, _SCORE = "sentence1", "sentence2", "score"


@dataclass(frozen=True)
class SentencePairs:
    """Pairs of sentences and how alike people found them."""

    first: list[str]
    second: list[str]
    scores: list[float]

    @classmethod
    def read(cls, path: str | Path) -> SentencePairs:
        """Read GLUE's STS-B layout or any table with sentence1, sentence2 and score.

        Args:
            path: see `tables.read_rows`.

        Raises:
            CorpusError: the file is missing, lacks a column, or holds no pair.
        """
        source = Path(path)
        rows = read_rows(source)
        try:
            pairs = [(row[_FIRST], row[_SECOND], float(row[_SCORE])) for row in rows]
        except (KeyError, TypeError):
            raise CorpusError(
                f"{source} must have the columns {_FIRST}, {_SECOND} and {_SCORE} in its header."
            ) from None
        except ValueError as error:
            raise CorpusError(f"{source} cannot be read as sentence pairs ({error}).") from None
        if len(pairs) < 2:
            raise CorpusError(f"{source} holds {len(pairs)} sentence pairs; at least 2 are needed.")
        first, second, scores = zip(*pairs, strict=True)
        return cls(list(first), list(second), list(scores))


def _longest(model: PreTrainedModel) -> int:
    """Tokens that a sentence is cut to."""
    return min(MAX_LENGTH, max_sequence_length(model.config))


@torch.no_grad()
def embed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]
) -> Tensor:
    """Unit-length sentence embeddings, mean-pooled over real tokens, (sentences, hidden)."""
    model.eval()
    encoder = model.base_model
    length = _longest(model)
    order = np.argsort([len(sentence) for sentence in sentences], kind="stable")
    parts = []
    for start in range(0, len(order), BATCH):
        batch = [sentences[i] for i in order[start : start + BATCH]]
        inputs = tokenizer(
            batch, padding=True, truncation=True, max_length=length, return_tensors="pt"
        ).to(model.device)
        hidden = encoder(**inputs).last_hidden_state
        parts.append(F.normalize(mean_pool(hidden, inputs["attention_mask"]), dim=-1).cpu())
    embeddings = torch.cat(parts)
    return embeddings[torch.from_numpy(np.argsort(order))]


def cosines(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    first: Sequence[str],
    second: Sequence[str],
) -> Tensor:
    """Of the embeddings of pairs of sentences, (pairs,)."""
    ours, others = (embed(model, tokenizer, sentences) for sentences in (first, second))
    return (ours * others).sum(-1)


def spearman(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: SentencePairs
) -> float:
    """Spearman's rank correlation of cosines with people's scores, in [-1, 1]."""
    predicted = cosines(model, tokenizer, pairs.first, pairs.second)
    return float(spearmanr(predicted.numpy(), pairs.scores).statistic)


def embedding_floor(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: SentencePairs
) -> float:
    """`spearman` of averaged word embeddings alone: what a model without layers would reach."""

    @torch.no_grad()
    def averages(sentences: list[str]) -> Tensor:
        words = model.get_input_embeddings()
        length, rows = _longest(model), []
        for sentence in sentences:
            ids = tokenizer(sentence, truncation=True, max_length=length, return_tensors="pt")
            rows.append(words(ids["input_ids"].to(model.device)).mean((0, 1)))
        return F.normalize(torch.stack(rows), dim=-1).cpu()

    predicted = (averages(pairs.first) * averages(pairs.second)).sum(-1)
    return float(spearmanr(predicted.numpy(), pairs.scores).statistic)


class Likeness(NamedTuple):
    """How much two models' sentence embeddings resemble each other; 1 is the same."""

    cosine: float
    """Mean cosine between the two embeddings of a sentence."""
    ranking: float
    """Spearman's correlation of the cosines of all pairs of sentences."""


def likeness(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
) -> Likeness:
    """Compare two models on the same sentences; no labels needed."""
    ours, theirs = (embed(model, tokenizer, sentences) for model in (student, teacher))
    upper = torch.triu_indices(len(ours), len(ours), offset=1).unbind()
    ranking = spearmanr((ours @ ours.T)[upper].numpy(), (theirs @ theirs.T)[upper].numpy())
    return Likeness(float((ours * theirs).sum(-1).mean()), float(ranking.statistic))
