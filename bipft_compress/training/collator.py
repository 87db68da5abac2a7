"""From token sequences to a training batch: padding, dynamic masking, sentence pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bipft_compress.tasks.classify import SECOND
from bipft_compress.training.distillation import IGNORED_LABEL

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class PretrainingCollator:
    """Pads sequences and, where the objective asks for it, masks tokens and pairs sentences.

    What is drawn depends on the seed and the sequences of the batch alone. Batches are prepared
    ahead of their step, so a generator's state would not be where a resumed run needs it; and as
    every epoch deals the batches anew, masks still differ from one to the next.

    Args:
        tokenizer: for padding, special tokens and the mask.
        masking: share of tokens to predict; 0 masks none (Devlin et al. 2019: 0.15).
        pairs: whether to make next-sentence pairs: the second half of a sequence is its own
            (label 0) or another's of the batch (label 1), half and half.
        seed: of masks and pairs.
    """

    tokenizer: PreTrainedTokenizerBase
    masking: float = 0.0
    pairs: bool = False
    seed: int = 0

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        sequences = [list(example["input_ids"]) for example in examples]
        generator = self._generator(sequences)
        batch: dict[str, Tensor] = {}
        types: list[list[int]] | None = None
        if self.pairs:
            sequences, types, batch["next_sentence_label"] = self._pair(sequences, generator)
        longest = max(map(len, sequences))
        shape = len(sequences), longest
        ids = torch.full(shape, self.tokenizer.pad_token_id or 0)
        attention = torch.zeros(shape, dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            attention[row, : len(sequence)] = 1
        batch |= {"input_ids": ids, "attention_mask": attention}
        if types is not None:
            batch["token_type_ids"] = torch.zeros(shape, dtype=torch.long)
            for row, kinds in enumerate(types):
                batch["token_type_ids"][row, : len(kinds)] = torch.tensor(kinds)
        if self.masking:
            batch["input_ids"], batch["labels"] = self._mask(ids, attention, generator)
        return batch

    def _generator(self, sequences: list[list[int]]) -> torch.Generator:
        digest = hashlib.sha256(repr((self.seed, sequences)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)

    def _special(self, ids: Tensor) -> Tensor:
        special = torch.tensor(self.tokenizer.all_special_ids)
        return torch.isin(ids, special)

    def _mask(
        self, ids: Tensor, attention: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """80 % of the chosen tokens become the mask, 10 % any token, 10 % stay themselves."""
        allowed = attention.bool() & ~self._special(ids)
        draw = torch.rand(ids.shape, generator=generator).masked_fill(~allowed, 2.0)
        # At least one token of a batch, or there would be nothing to average over.
        chosen = draw <= torch.maximum(draw.min(), torch.tensor(self.masking))
        chosen &= allowed
        labels = ids.masked_fill(~chosen, IGNORED_LABEL)
        fate = torch.rand(ids.shape, generator=generator)
        anything = torch.randint(len(self.tokenizer), ids.shape, generator=generator)
        masked = torch.where(chosen & (fate < 0.8), self.tokenizer.mask_token_id or 0, ids)
        return torch.where(chosen & (fate >= 0.9), anything, masked), labels

    def _pair(
        self, sequences: list[list[int]], generator: torch.Generator
    ) -> tuple[list[list[int]], list[list[int]], Tensor]:
        """Cut every sequence in two and join the halves, some with another sequence's second."""
        separator = self.tokenizer.sep_token_id
        firsts, seconds = [], []
        for sequence in sequences:
            middle = max(2, len(sequence) // 2)
            firsts.append([*sequence[:middle], separator])
            seconds.append(sequence[middle:])
        count = len(sequences)
        swapped = torch.rand(count, generator=generator) < 0.5
        if count == 1:
            swapped[:] = False
        joined, types, labels = [], [], []
        for row in range(count):
            other = (row + 1) % count if swapped[row] else row
            joined.append(firsts[row] + seconds[other])
            types.append([0] * len(firsts[row]) + [1] * len(seconds[other]))
            labels.append(int(swapped[row]))
        return joined, types, torch.tensor(labels)


@dataclass
class FinetuningCollator:
    """Pads examples; texts that were tokenized apart follow in a second half of the batch."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        inputs = [
            {name: example[name] for name in self.tokenizer.model_input_names if name in example}
            for example in examples
        ]
        inputs += [{"input_ids": example[SECOND]} for example in examples if SECOND in example]
        batch = dict(self.tokenizer.pad(inputs, return_tensors="pt"))
        batch["labels"] = torch.tensor([example["labels"] for example in examples])
        return batch


@dataclass
class Share:
    """The rows of one of several processes, out of a batch that each of them collates whole.

    What is drawn for a batch is so the same however many share it. Where the rows do not divide,
    the first processes have one more; the last may have none.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
    processes: int
    index: int

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        count = len(examples)
        rows = torch.arange(count).tensor_split(self.processes)[self.index]
        return {
            # An example may have several rows, as far apart as there are examples.
            name: values.unflatten(0, (-1, count))[:, rows].flatten(0, 1)
            for name, values in self.collate(examples).items()
        }
