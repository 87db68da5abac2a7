"""Calibration text as token sequences: those for the layers, and those for the readout."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from bipft_compress.errors import CorpusError
from bipft_compress.families import max_sequence_length
from bipft_compress.recipe import Recipe, Text
from bipft_compress.text.batches import token_frequencies
from bipft_compress.text.corpus import Corpus, describe_corpus, read_documents
from bipft_compress.text.sequences import chunks, token_sequences

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKED_EVERY = 4
"""Of so many documents one is packed to full length; the others are cut into sentences."""

HALVINGS = 3
"""Packed sequences of the readout have the full length, half of it, a quarter, in turn: it is to
serve texts of all lengths."""

FREQUENCY_TOKENS = 1_000_000
"""Tokens of the calibration text whose frequencies are counted, where there are so many."""

SHORTEST = 4
"""Tokens of a sequence, special ones included."""

COUNTED_TOGETHER = 256
"""Documents that are tokenized at once where only their words are counted."""


class CalibrationText(NamedTuple):
    """Token sequences of one text."""

    layers: list[list[int]]
    """What the layers are fitted to: at least the tokens that their recipe asks for, if there."""
    readout: list[list[int]]
    """What the readout is fitted to: no sequence that the layers were fitted to, where the text
    has others, for what the layers were fitted to they do better than other texts."""
    words: list[list[int]] = []
    """What the word embeddings are trained on, where their recipe asks for it: the text that the
    readout was not fitted to, for the same reason."""

    def frequencies(self, vocabulary: int) -> Tensor:
        """Of each word of a vocabulary: see `token_frequencies`."""
        return token_frequencies(itertools.chain(*self), vocabulary)


def calibration_text(
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    corpus: Corpus,
    model: PreTrainedModel,
    *,
    frequency_tokens: int = FREQUENCY_TOKENS,
) -> CalibrationText:
    """Read calibration text: whole sentences and packed sequences in turn.

    A start that has only seen full-length sequences is far worse on short ones than the other way
    round, so users of either get both.

    Args:
        tokenizer: of `model`.
        recipe: says how much of what length.
        corpus: see `read_documents`.
        model: has no position beyond its longest sequence.
        frequency_tokens: that are read at least, for the frequencies of words.

    Raises:
        CorpusError: the text is missing, empty or not text.
    """
    wanted, longest = recipe.initialisation, max_sequence_length(model.config)
    layers: list[list[int]] = []
    readout: list[list[int]] = []
    words: list[list[int]] = []
    of_layers = of_readout = of_words = 0
    for_words = recipe.words.tokens if recipe.words.steps else 0
    documents = iter(read_documents(corpus))
    for number, document in enumerate(documents):
        packed, turn = number % PACKED_EVERY == 0, number // PACKED_EVERY
        enough = of_layers >= wanted.calibration_tokens
        length = min((recipe.readout if enough else wanted).sequence_length, longest)
        if enough and packed:
            length = max(length >> (turn % HALVINGS), SHORTEST)
        sequences = _cut([document], tokenizer, length, packed=packed)
        tokens = sum(map(len, sequences))
        if enough and of_readout >= recipe.readout.tokens:
            words += sequences
            of_words += tokens
        elif enough:
            readout += sequences
            of_readout += tokens
        else:
            layers += sequences
            of_layers += tokens
        if (
            of_layers >= wanted.calibration_tokens
            and of_readout >= recipe.readout.tokens
            and of_words >= for_words
        ):
            break
    if not layers:
        raise CorpusError(
            f"{describe_corpus(corpus)} hold no sequence of at least {SHORTEST} tokens to "
            "calibrate on."
        )
    if of_readout < recipe.readout.tokens:
        readout += layers
    # Beyond what is fitted, words are only counted.
    for some in chunks(documents, COUNTED_TOGETHER):
        if of_layers + of_readout + of_words >= frequency_tokens:
            break
        sequences = _cut(some, tokenizer, longest, packed=False)
        readout += sequences
        of_readout += sum(map(len, sequences))
    return CalibrationText(layers, readout, words)


def first_tokens(sequences: list[list[int]], tokens: int) -> list[list[int]]:
    """The first sequences that hold no more than `tokens` together; at least one."""
    lengths = itertools.accumulate(map(len, sequences))
    first = [sequence for sequence, end in zip(sequences, lengths, strict=True) if end <= tokens]
    return first or sequences[:1]


def _cut(
    documents: list[str], tokenizer: PreTrainedTokenizerBase, length: int, *, packed: bool
) -> list[list[int]]:
    unit = "packed" if packed else "sentences"
    text = Text(unit=unit, sequence_length=length, shortest=SHORTEST)
    return list(token_sequences(documents, tokenizer, text))
