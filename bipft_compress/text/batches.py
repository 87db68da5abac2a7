"""Batches of token sequences: of one length, in an order that a resumed run finds again."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor
from torch.utils.data import Sampler

from bipft_compress.text.sequences import chunks

_POOL = 50  # batches that are sorted by length together
_FALLBACK_MASS = 0.05  # of a token distribution, for the words its text does not have


class LengthBatchSampler(Sampler[int]):
    """Shuffled indices of which every consecutive `batch_size` have about the same length.

    Each epoch shuffles the sequences, sorts pools of 50 batches by length, and shuffles the
    batches; an incomplete batch comes last and nothing is dropped. The order depends on `seed`
    and `epoch` alone.

    Args:
        lengths: tokens of each sequence.
        batch_size: sequences of a batch.
        seed: of the shuffling.
    """

    def __init__(self, lengths: Sequence[int] | Tensor, batch_size: int, seed: int = 0) -> None:
        self._lengths = torch.as_tensor(lengths, dtype=torch.int64)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        # Mixed by a hash, so that (seed 0, epoch 1) and (seed 1, epoch 0) differ.
        mixed = hashlib.sha256(f"{self._seed},{self._epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(mixed[:7]))
        order = torch.randperm(len(self), generator=generator)
        batches: list[Tensor] = []
        for pool in torch.split(order, _POOL * self._batch_size):
            by_length = pool[self._lengths[pool].argsort(stable=True)]
            batches.extend(torch.split(by_length, self._batch_size))
        full = len(self) // self._batch_size  # at most the last batch is not full
        shuffled = torch.randperm(full, generator=generator).tolist()
        for number in chain(shuffled, range(full, len(batches))):
            yield from batches[number].tolist()


def calibration_batches(sequences: Iterable[list[int]], batch_tokens: int) -> list[Tensor]:
    """Sequences of equal length together, so that no batch has padding.

    Args:
        sequences: token ids.
        batch_tokens: most tokens of a batch; a single sequence may have more.

    Returns:
        int64 tensors (sequences, length), the shortest sequences first.
    """
    by_length: defaultdict[int, list[list[int]]] = defaultdict(list)
    for sequence in sequences:
        by_length[len(sequence)].append(sequence)
    by_length.pop(0, None)
    return [
        torch.tensor(batch, dtype=torch.int64)
        for length, group in sorted(by_length.items())
        for batch in chunks(group, max(1, batch_tokens // length))
    ]


def token_frequencies(sequences: Iterable[Sequence[int]], vocab_size: int) -> Tensor:
    """How often each token occurs, relative to all.

    Words that the sequences lack would have no frequency, so 5 % of the mass follows Zipf's law,
    1 / (id + 100), over the ids: most vocabularies are ordered by frequency. Without any sequence
    that law is all there is.

    Args:
        sequences: token ids, each below `vocab_size`.
        vocab_size: tokens of the vocabulary.

    Returns:
        float64 (vocab_size,), positive, of sum 1.
    """
    law = 1.0 / (torch.arange(vocab_size, dtype=torch.float64) + 100.0)
    law /= law.sum()
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    for batch in chunks(sequences, 4096):
        ids = torch.tensor(list(chain.from_iterable(batch)), dtype=torch.int64)
        counts += torch.bincount(ids, minlength=vocab_size)
    if not counts.any():
        return law
    return (1.0 - _FALLBACK_MASS) * (counts / counts.sum().double()) + _FALLBACK_MASS * law
