"""Fit the readout, and measure what each layer knows of a text: ridge regression, closed form."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bipft_compress.families import Encoder, get_module
from bipft_compress.fitting.moments import exact
from bipft_compress.fitting.regression import reduced_rank_regression, ridge_regression
from bipft_compress.fitting.sentences import HELD_OUT, held_out, train_embeddings
from bipft_compress.nn import Readout, set_values
from bipft_compress.nn.readout import embeddings_of, summary
from bipft_compress.recipe import Recipe
from bipft_compress.storage.bits import pack_fields
from bipft_compress.structure.knowledge import Knowledge
from bipft_compress.text.batches import calibration_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger("bipft_compress")

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Those that are tried, relative to the mean variance of what is read."""

BATCH_TOKENS = 4096
"""Tokens of a batch of texts."""

COMMON_WORD = 1e-3
"""Frequency of a word that counts half in a mean: a of the smooth inverse frequency a / (a + p)."""


class Texts(NamedTuple):
    """What a model makes of texts."""

    states: Tensor
    """Each hidden state's `nn.readout.summary`, (texts, layers + 1, width)."""
    embeddings: Tensor
    """(texts, hidden)."""


def fit_importance(readout: Readout, frequencies: Tensor) -> None:
    """Give each word its weight in what `readout` reads: its smooth inverse frequency.

    Arora, Liang and Ma (2017), equation 1: words that are in every text say little of one.

    Args:
        readout: changed in place.
        frequencies: of each word, relative to all, (vocabulary,); see `token_frequencies`.
    """
    weights = COMMON_WORD / (COMMON_WORD + frequencies)
    codes = (16 * weights).round().clamp(1, 16) - 1
    readout.importance.copy_(pack_fields(codes, 4))


def fit_readout(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    encoder: Encoder,
    sequences: Iterable[list[int]],
    recipe: Recipe = Recipe(),  # noqa: B008 - it cannot be changed
    seed: int = 0,
) -> Knowledge:
    """Fit the readout of `student`, where it has one, to the embeddings of `teacher`.

    In closed form, by the ridge that leaves least error on texts that were not fitted to; a readout
    that leaves them no better than without one stays at zero. Then by steps of gradient descent,
    which see no model any more: least squares brings each embedding near to the original's, the
    sentence terms of the objective bring their similarities near.

    Args:
        student: binary, all else of it as it will be; what its readout was does not count.
        teacher: its full-precision original.
        encoder: the parts of `student`.
        sequences: token ids of texts; best none that the student itself was fitted to.
        recipe: its sections `readout` and `objective` count.
        seed: of the order of the texts in the descent.

    Returns:
        What each layer knows; nothing of fewer than `HELD_OUT` texts.
    """
    readout: Readout | None = None
    if encoder.readout is not None:
        module = get_module(student, encoder.readout)
        assert isinstance(module, Readout)
        readout = module
        _clear(readout)
    batches = calibration_batches(sequences, BATCH_TOKENS)
    first_token = recipe.readout.pooling == "first"
    own, wanted = (read_texts(each, batches, readout, first_token) for each in (student, teacher))
    if len(wanted.embeddings) < HELD_OUT:
        logger.info("readout left at zero: it needs %d texts or more", HELD_OUT)
        return Knowledge()
    left_out = held_out(len(wanted.embeddings))
    given = own.embeddings[left_out]
    if readout is not None:
        missing = wanted.embeddings - own.embeddings
        features = _features(readout, own)
        if _fit(readout, features, missing):
            if recipe.readout.steps:
                lengths = [batch.shape[1] for batch in batches for _ in batch]
                _descend(
                    readout, features, own.embeddings, wanted.embeddings, lengths, recipe, seed
                )
            with torch.no_grad():
                read = features[left_out].to(readout.up.weight.device)
                given = given + readout.correction(read).to(given)
    return Knowledge(
        full_precision=_cosines(wanted.states, wanted.embeddings),
        compressed=_cosines(own.states, wanted.embeddings),
        embedding=float(F.cosine_similarity(given, wanted.embeddings[left_out]).mean()),
    )


@torch.no_grad()
def read_texts(
    model: PreTrainedModel, batches: Sequence[Tensor], readout: Readout | None, first_token: bool
) -> Texts:
    """Run `model` on texts.

    Args:
        model: the student or the original.
        batches: token ids, each (sequences, length) without padding.
        readout: whose weights words have in the means; None where all count alike.
        first_token: a text's embedding is that of its first token.
    """
    states, embeddings = [], []
    for batch in batches:
        inputs = batch.to(model.device)
        mask = torch.ones_like(inputs)
        output = model.base_model(inputs, attention_mask=mask, output_hidden_states=True)
        weights = mask if readout is None else readout.weights(inputs, mask)
        read = [summary(hidden, weights, first_token) for hidden in output.hidden_states]
        states.append(torch.stack(read, 1).cpu())
        embeddings.append(embeddings_of(output.last_hidden_state, mask, first_token).cpu())
    return Texts(torch.cat(states), torch.cat(embeddings))


def _features(readout: Readout, texts: Texts) -> Tensor:
    return texts.states[:, readout.layers].flatten(1)


def _clear(readout: Readout) -> None:
    for linear in (readout.down, readout.up):
        set_values(linear, "weight", torch.zeros_like(linear.weight))
    nn.init.zeros_(readout.up.bias)


def _fit(readout: Readout, features: Tensor, missing: Tensor) -> bool:
    """Fit what is missing; whether that leaves less on texts that were held out."""
    left_out = held_out(len(features))
    fit, left = _best_map(features, missing, readout.rank)
    if left >= float(missing[left_out].square().sum()):
        logger.info("readout left at zero: %d texts are too few for its rank", len(features))
        return False
    # Those held out stay so: what is said of the readout is measured on them.
    assert fit.down is not None
    _store(readout, fit.down, exact(features[~left_out]), exact(missing[~left_out]))
    return True


def _descend(
    readout: Readout,
    features: Tensor,
    own: Tensor,
    wanted: Tensor,
    lengths: Sequence[int],
    recipe: Recipe,
    seed: int,
) -> None:
    """Train the readout on what it reads of texts, their embeddings without it and those wanted."""
    device = readout.up.weight.device

    def embeddings(numbers: Tensor) -> Tensor:
        return own[numbers].to(device) + readout.correction(features[numbers].to(device))

    train_embeddings(
        readout, embeddings, wanted, recipe.objective, lengths=lengths, steps=recipe.readout.steps,
        learning_rate=recipe.readout.learning_rate, name="readout", seed=seed,
    )  # fmt: skip


class _Map(NamedTuple):
    """``y ~ up (down x) + bias``; without `down` of any rank."""

    up: Tensor
    down: Tensor | None
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return (x if self.down is None else x @ self.down.T) @ self.up.T + self.bias


def _best_map(x: Tensor, y: Tensor, rank: int | None = None) -> tuple[_Map, float]:
    """The map whose ridge leaves least of `y` on texts held out, fitted to the others.

    Args:
        x: (texts, in).
        y: (texts, out).
        rank: of the map; None for any.

    Returns:
        The map, and the squared error that it leaves of those held out.
    """
    left_out = held_out(len(x))
    x, y = exact(x), exact(y)
    maps = regress(x[~left_out], y[~left_out], RIDGES, rank)
    left = [(fit, float((y[left_out] - fit(x[left_out])).square().sum())) for fit in maps]
    return min(left, key=lambda pair: pair[1])


def regress(
    x: Tensor, y: Tensor, ridges: Sequence[float], rank: int | None = None
) -> Iterator[_Map]:
    """The map of least squared error with each of some ridges."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    yx, xx = y.T @ x / len(x), x.T @ x / len(x)
    for ridge in ridges:
        if rank is None:
            matrix = ridge_regression(yx, xx, ridge)
            yield _Map(matrix, None, mean_y - matrix @ mean_x)
        else:
            up, down = reduced_rank_regression(yx, xx, rank, ridge)
            yield _Map(up, down, mean_y - up @ (down @ mean_x))


@torch.no_grad()
def _store(readout: Readout, down: Tensor, features: Tensor, missing: Tensor) -> None:
    """Set the readout's numbers: each is fitted to those before it as they are stored."""
    set_values(readout.down, "weight", down)
    read = features @ exact(readout.down.weight).T
    # Rounding `down` adds noise to what `up` reads: where that is most of it, a ridge keeps it out.
    (fit,) = regress(read, missing, (min(RIDGES),))
    set_values(readout.up, "weight", fit.up)
    bias = missing.mean(0) - exact(readout.up.weight) @ read.mean(0)
    readout.up.bias.copy_(bias)


def _cosines(states: Tensor, wanted: Tensor) -> list[float]:
    """Of each layer, the best linear map's embeddings with those wanted, mean of texts held out."""
    left_out = held_out(len(states))
    target = exact(wanted[left_out])
    values = []
    for layer in states.unbind(1):
        best, _ = _best_map(layer, wanted)
        read = best(exact(layer[left_out]))
        values.append(float(F.cosine_similarity(read, target).mean()))
    return values
