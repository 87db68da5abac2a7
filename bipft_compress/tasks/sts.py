"""Semantic textual similarity: does a sentence embedding see what people see?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from torch import Tensor
from torch.nn import functional as F

from bipft_compress.errors import CorpusError
from bipft_compress.families import max_sequence_length
from bipft_compress.nn.pooling import Pool, mean_pool
from bipft_compress.tasks.embedding import Embed, unit_rows
from bipft_compress.tasks.metrics import METRICS
from bipft_compress.tasks.tables import ENDINGS, read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 64
MAX_LENGTH = 128
"""Tokens of a sentence, where the model has as many positions."""

_FIRST, _SECOND, _SCORE = "sentence1", "sentence2", "score"

_SPLITS = ("train", "dev", "validation", "test")
"""Names of files that say nothing without that of their directory."""


@dataclass(frozen=True)
class SentencePairs:
    """Pairs of sentences, and how similar people rated each pair."""

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


class StsTask:
    """Spearman's correlation of cosines with people's scores: of each set, and the mean of all.

    Args:
        data: a file (see `SentencePairs.read`), a directory of such files, or several of either
            with commas between.

    Raises:
        CorpusError: see `SentencePairs.read`, or a directory holds no table.
    """

    def __init__(self, data: str | Path) -> None:
        parts = [data] if Path(data).exists() else str(data).split(",")
        paths = [path for part in parts for path in _tables(Path(str(part).strip()))]
        self.sets = {set_name(path): SentencePairs.read(path) for path in paths}

    def measure(self, embed: Embed) -> dict[str, float]:
        values = {}
        for name, pairs in self.sets.items():
            first, second = (unit_rows(embed(texts)) for texts in (pairs.first, pairs.second))
            predicted = (first * second).sum(1)
            values[f"sts_spearman_{name}"] = METRICS["spearman"](
                np.asarray(pairs.scores), predicted
            )
        if len(values) > 1:
            values["sts_spearman_mean"] = float(np.mean(list(values.values())))
        return values


def _tables(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    tables = sorted(file for file in path.iterdir() if file.suffix in ENDINGS)
    if not tables:
        raise CorpusError(f"{path} holds no sentence pairs: no file is {', '.join(ENDINGS)}.")
    return tables


def set_name(path: Path) -> str:
    """What a table of pairs is called: its file's name, or of a split its directory's before it."""
    return f"{path.resolve().parent.name}-{path.stem}" if path.stem in _SPLITS else path.stem


def _longest(model: PreTrainedModel, most: int = MAX_LENGTH) -> int:
    """Tokens that a sentence is cut to."""
    return min(most, max_sequence_length(model.config))


@torch.no_grad()
def embed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    max_length: int = MAX_LENGTH,
    pool: Pool = mean_pool,
) -> Tensor:
    """Unit-length sentence embeddings, pooled over real tokens, (sentences, hidden).

    Args:
        model: with or without a head, which is not used.
        tokenizer: of `model`.
        sentences: of any length.
        max_length: tokens that are read of each, where the model has as many positions.
        pool: from hidden states to an embedding.
    """
    model.eval()
    encoder = model.base_model
    length = _longest(model, max_length)
    order = np.argsort([len(sentence) for sentence in sentences], kind="stable")
    parts = []
    for start in range(0, len(order), BATCH):
        batch = [sentences[i] for i in order[start : start + BATCH]]
        inputs = tokenizer(
            batch, padding=True, truncation=True, max_length=length, return_tensors="pt"
        ).to(model.device)
        hidden = encoder(**inputs).last_hidden_state
        parts.append(F.normalize(pool(hidden, inputs["attention_mask"]), dim=-1).cpu())
    embeddings = torch.cat(parts)
    return embeddings[torch.from_numpy(np.argsort(order))]


class PairEmbeddings(NamedTuple):
    """Embeddings of unit length of both sentences of each pair, (pairs, hidden)."""

    first: Tensor
    second: Tensor

    @property
    def cosines(self) -> Tensor:
        """Of each pair, (pairs,)."""
        return (self.first * self.second).sum(-1)

    def spearman(self, scores: Sequence[float]) -> float:
        """Spearman's rank correlation of the cosines with people's scores, in [-1, 1]."""
        return float(spearmanr(self.cosines.numpy(), scores).statistic)


def embed_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    first: Sequence[str],
    second: Sequence[str],
    pool: Pool = mean_pool,
) -> PairEmbeddings:
    """`embed` of both sentences of each pair."""
    return PairEmbeddings(*(embed(model, tokenizer, part, pool=pool) for part in (first, second)))


def spearman(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: SentencePairs,
    pool: Pool = mean_pool,
) -> float:
    """`PairEmbeddings.spearman` of a model."""
    return embed_pairs(model, tokenizer, pairs.first, pairs.second, pool).spearman(pairs.scores)


FLOOR_FOLDS = 5
"""A map of the floor reads no sentence that it was fitted to: it is fitted to the other folds."""


def embedding_floor(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: SentencePairs,
    original: PairEmbeddings,
) -> float:
    """`spearman` of the student's word embeddings alone: what it would reach without its layers.

    The mean of a sentence's word embeddings, mapped by ridge regression to the original's sentence
    embedding. Of pairs fewer than a linear map needs, the mean itself.

    Args:
        student: whose word embeddings they are.
        tokenizer: of `student`.
        pairs: of sentences.
        original: its embeddings of `pairs`.
    """
    words = [_word_means(student, tokenizer, part) for part in (pairs.first, pairs.second)]
    plain = np.sum(np.prod([unit_rows(part) for part in words], axis=0), axis=1)
    floor = float(spearmanr(plain, pairs.scores).statistic)
    if 2 * len(plain) < FLOOR_FOLDS * words[0].shape[1]:
        return floor
    wanted = [part.numpy() for part in original]
    folds = np.arange(len(plain)) % FLOOR_FOLDS
    predicted = np.zeros(len(plain))
    for fold in range(FLOOR_FOLDS):
        own, others = folds == fold, folds != fold
        ridge = RidgeCV(alphas=np.logspace(-3, 3, 7))
        ridge.fit(*(np.concatenate([part[others] for part in both]) for both in (words, wanted)))
        first, second = (unit_rows(ridge.predict(part[own])) for part in words)
        predicted[own] = (first * second).sum(1)
    return max(floor, float(spearmanr(predicted, pairs.scores).statistic))


@torch.no_grad()
def _word_means(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]
) -> np.ndarray:
    """Mean word embedding of each sentence, (sentences, width)."""
    words, length, rows = model.get_input_embeddings(), _longest(model), []
    for sentence in sentences:
        ids = tokenizer(sentence, truncation=True, max_length=length, return_tensors="pt")
        rows.append(words(ids["input_ids"].to(model.device)).mean((0, 1)))
    means: np.ndarray = torch.stack(rows).float().cpu().numpy()
    return means


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
    return compare(*(embed(model, tokenizer, sentences) for model in (student, teacher)))


def compare(compressed: Tensor, original: Tensor) -> Likeness:
    """The likeness of two models' embeddings of the same sentences, (sentences, hidden) each."""
    upper = torch.triu_indices(len(original), len(original), offset=1).unbind()
    similarities = ((vectors @ vectors.T)[upper].numpy() for vectors in (compressed, original))
    ranking = spearmanr(*similarities)
    return Likeness(float((compressed * original).sum(-1).mean()), float(ranking.statistic))
