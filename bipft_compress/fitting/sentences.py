"""Gradient descent by the sentence terms alone, where no layer has to run for an embedding."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from bipft_compress.collectives import alone
from bipft_compress.fitting.rates import optimiser, relative_rates
from bipft_compress.losses import sentence_cosine, sentence_similarity
from bipft_compress.recipe import Objective
from bipft_compress.text.batches import LengthBatchSampler

logger = logging.getLogger("bipft_compress")

HELD_OUT = 10
"""Of so many texts one is left out, and judges what was fitted to the others."""

BATCH_TEXTS = 512
"""Texts of a batch: each is compared with all others."""

WARMUP = 0.05
"""Share of the steps over which the learning rate rises; it then falls to zero."""

LOGGED_EVERY = 100
"""Steps between two lines of the log."""


def held_out(texts: int) -> Tensor:
    """Which of some texts are left out, booleans (texts,).

    Texts come sorted by length: some of every length are left out.
    """
    return torch.arange(texts) % HELD_OUT == HELD_OUT - 1


def train_embeddings(
    trained: nn.Module,
    embeddings: Callable[[Tensor], Tensor],
    wanted: Tensor,
    objective: Objective,
    *,
    lengths: Sequence[int],
    steps: int,
    learning_rate: float,
    name: str,
    seed: int = 0,
) -> bool:
    """Train `trained`, in place, so that the embeddings of texts resemble those wanted.

    Where texts that were held out come out no better, as after very little text, it is left as it
    was.

    Args:
        trained: whose parameters change.
        embeddings: of the texts of some numbers, (numbers,) to (numbers, width).
        wanted: of all texts, sorted by length, (texts, width).
        objective: of which the sentence terms count.
        lengths: of the texts: those of a batch have about the same.
        steps: of the optimiser, each on `BATCH_TEXTS`.
        learning_rate: of latent weights; see `relative_rates`.
        name: of `trained`, for the log.
        seed: of the order of the texts.

    Returns:
        Whether it was changed.
    """
    is_left_out = held_out(len(wanted))
    used, left_out = (part.nonzero().flatten() for part in (~is_left_out, is_left_out))

    def loss(numbers: Tensor) -> Tensor:
        own = embeddings(numbers)
        target = wanted[numbers].to(own.device)
        with alone():  # all processes of a run do the same here
            near = sentence_similarity(own, target, objective.temperature)
            cosine = sentence_cosine(own, target)
        return objective.sentence_cosine * cosine + objective.sentence_similarity * near

    @torch.no_grad()
    def left() -> float:
        return sum(float(loss(some)) * len(some) for some in left_out.split(BATCH_TEXTS))

    before, start = copy.deepcopy(trained.state_dict()), left()
    frozen = [parameter for parameter in trained.parameters() if not parameter.requires_grad]
    trained.requires_grad_(True)
    groups = relative_rates(trained, learning_rate)
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimizer, scheduler = optimiser(groups, steps, WARMUP)
    order = _order([lengths[number] for number in used.tolist()], seed)
    for step, numbers in enumerate(islice(order, steps), 1):
        with torch.enable_grad():
            value = loss(used[numbers])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value, inputs=parameters)
        optimizer.step()
        scheduler.step()
        if step % LOGGED_EVERY == 0:
            logger.info("%s: step %d of %d, loss %.3f", name, step, steps, value.item())
    optimizer.zero_grad(set_to_none=True)
    for parameter in frozen:  # as pretraining leaves a readout
        parameter.requires_grad_(False)
    if left() < start:
        return True
    logger.info("%s left as before: %d texts are too few to train on", name, len(wanted))
    trained.load_state_dict(before)
    return False


def _order(lengths: Sequence[int], seed: int) -> Iterator[Tensor]:
    """Numbers of the texts of one batch after the other, without end."""
    sampler = LengthBatchSampler(lengths, BATCH_TEXTS, seed)
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        yield from torch.tensor(list(sampler)).split(BATCH_TEXTS)
        epoch += 1
