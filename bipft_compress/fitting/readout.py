"""Fit the readout: ridge regression of what a text's embedding lacks, in closed form."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bipft_compress.families import Encoder, get_module
from bipft_compress.fitting.moments import exact
from bipft_compress.fitting.regression import reduced_rank_regression
from bipft_compress.nn import Readout, set_values
from bipft_compress.text.batches import calibration_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger("bipft_compress")

HELD_OUT = 10
"""Of so many texts one chooses the ridge."""

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Those that are tried, relative to the mean variance of what the readout reads."""

BATCH_TOKENS = 4096
"""Tokens of a batch of texts."""


def fit_readout(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    encoder: Encoder,
    sequences: Iterable[list[int]],
) -> float | None:
    """Fit the readout of `student`, where it has one, to the embeddings of `teacher`.

    The ridge is the one that leaves least error on texts that were not fitted to. A readout that
    leaves them no better than without one stays at zero.

    Args:
        student: binary, all else of it as it will be; what its readout was does not count.
        teacher: its full-precision original.
        encoder: the parts of `student`.
        sequences: token ids of texts; best none that the student itself was fitted to.

    Returns:
        Squared error of the embeddings of the texts left out, over that without a readout; None
        where there is no readout.
    """
    if encoder.readout is None:
        return None
    readout = get_module(student, encoder.readout)
    assert isinstance(readout, Readout)
    for linear in (readout.down, readout.up):
        set_values(linear, "weight", torch.zeros_like(linear.weight))
    nn.init.zeros_(readout.up.bias)
    features, missing = _read(
        student, teacher, readout, calibration_batches(sequences, BATCH_TOKENS)
    )
    held_out = torch.arange(len(features)) % HELD_OUT == HELD_OUT - 1
    if not held_out.any():
        logger.info("readout left at zero: it needs %d texts or more", HELD_OUT)
        return 1.0
    x, y = features[~held_out], missing[~held_out]
    errors = {}
    for ridge in RIDGES:
        up, down, bias = _regress(x, y, readout.rank, ridge)
        left = missing[held_out] - features[held_out] @ down.T @ up.T - bias
        errors[ridge] = float(left.square().sum() / missing[held_out].square().sum())
    best = min(RIDGES, key=errors.__getitem__)
    if errors[best] >= 1:
        logger.info("readout left at zero: on %d texts it fits nothing", len(features))
        return 1.0
    _store(readout, features, missing, best)
    return errors[best]


@torch.no_grad()
def _read(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    readout: Readout,
    batches: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """What the readout reads of each text, and what it should add, (texts, width) each."""
    features, missing = [], []
    for batch in batches:
        inputs = batch.to(student.device)
        mask = torch.ones_like(inputs)
        output = student.base_model(inputs, attention_mask=mask, output_hidden_states=True)
        target = teacher.base_model(inputs, attention_mask=mask).last_hidden_state
        features.append(exact(readout.features(output.hidden_states, mask)))
        embeddings = (readout.embeddings(hidden, mask) for hidden in (target, output[0]))
        wanted, given = map(exact, embeddings)
        missing.append(wanted - given)
    return torch.cat(features), torch.cat(missing)


def _regress(x: Tensor, y: Tensor, rank: int, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """``y ~ up (down x) + bias`` of least squared error with a ridge."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    up, down = reduced_rank_regression(y.T @ x / len(x), x.T @ x / len(x), rank, ridge)
    return up, down, mean_y - up @ (down @ mean_x)


@torch.no_grad()
def _store(readout: Readout, features: Tensor, missing: Tensor, ridge: float) -> None:
    """Set the readout's numbers: each is fitted to those before it as they are stored."""
    _, down, _ = _regress(features, missing, readout.rank, ridge)
    set_values(readout.down, "weight", down)
    read = features @ exact(readout.down.weight).T
    centred, wanted = read - read.mean(0), missing - missing.mean(0)
    variance = (centred.T @ centred).diagonal().mean()
    # The rounding of `down` adds noise to what `up` reads; a little ridge keeps that small.
    gram = centred.T @ centred + RIDGES[0] * variance * torch.eye(readout.rank).to(centred)
    set_values(readout.up, "weight", torch.linalg.solve(gram, centred.T @ wanted).T)
    bias = missing.mean(0) - exact(readout.up.weight) @ read.mean(0)
    readout.up.bias.copy_(bias)
