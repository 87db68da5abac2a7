"""The first job: a full-precision checkpoint in, a calibrated binary one out."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from transformers import set_seed

from bipft_compress.checkpoint.attach import attach
from bipft_compress.checkpoint.record import Record
from bipft_compress.errors import CorpusError
from bipft_compress.families import Encoder, get_module, max_sequence_length, teacher_of
from bipft_compress.fitting.embedding import fit_embedding
from bipft_compress.fitting.initialise import initialise
from bipft_compress.fitting.readout import fit_readout
from bipft_compress.nn import CompressedEmbedding
from bipft_compress.recipe import Recipe, Text
from bipft_compress.storage.plan import round_to_stored
from bipft_compress.structure.knowledge import Knowledge
from bipft_compress.structure.swap import Decision, on_meta, swap
from bipft_compress.text.batches import calibration_batches, token_frequencies
from bipft_compress.text.corpus import BUILTIN, Corpus, describe_corpus, read_documents
from bipft_compress.text.sequences import token_sequences

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger("bipft_compress")

PACKED_EVERY = 4
"""Of so many documents one is packed to full length; the others are cut into sentences."""

FREQUENCY_TOKENS = 1_000_000
"""Tokens of the calibration text whose frequencies are counted, where there are so many."""


@dataclass(repr=False)
class Compressed:
    """A binary model and how it came about."""

    model: PreTrainedModel
    encoder: Encoder
    decisions: list[Decision]
    layer_errors: list[float]
    """Normalised squared error of the hidden states after each layer, on the calibration text."""
    knowledge: Knowledge = field(default_factory=Knowledge)
    """What each layer knows of a text."""

    def __repr__(self) -> str:
        """Short: a notebook would print every module."""
        swapped = sum(decision.action == "binary" for decision in self.decisions)
        errors = " ".join(f"{error:.2f}" for error in self.layer_errors)
        return f"Compressed({type(self.model).__name__}, {swapped} binary modules, errors {errors})"


def compress(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    calibration: Corpus = BUILTIN,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Compressed:
    """Make a binary copy of `model`.

    Args:
        model: full-precision encoder, any head, in any type of floating point; not changed.
        tokenizer: of `model`.
        recipe: what becomes binary and where it starts.
        calibration: text like that the model will see: a list of texts, or the name of a corpus;
            see `read_documents`.
        seed: of everything random.
        progress: called with the number of layers done and their total.

    Returns:
        The binary model in evaluation mode, its parts, what was swapped, and the error per layer.

    Raises:
        UnsupportedModelError: an architecture that cannot be made binary.
        RecipeError: the recipe does not fit the model, or a number of it the bits it is kept at.
        CorpusError: the text is missing, empty or not text.
    """
    # Before any text is read: a recipe that does not fit the model should not cost a minute.
    swap(on_meta(model), recipe)
    sequences = calibration_sequences(tokenizer, recipe, calibration, model)
    return compress_on(model, recipe, sequences, seed=seed, progress=progress)


def compress_on(
    model: PreTrainedModel,
    recipe: Recipe,
    sequences: list[list[int]],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Compressed:
    """`compress` on text that is token sequences already: see `calibration_sequences`."""
    set_seed(seed)
    if any(weight.dtype != torch.float32 for weight in model.parameters()):
        logger.info("the model is read in torch.float32, for closed forms need it")
        model = copy.deepcopy(model).float()
    student = copy.deepcopy(model)
    encoder, decisions = swap(student, recipe)
    choices = recipe.initialisation
    embedding = get_module(student, encoder.word_embeddings)
    if isinstance(embedding, CompressedEmbedding):
        original = get_module(model, encoder.word_embeddings)
        assert isinstance(original, torch.nn.Embedding)
        frequencies = token_frequencies(sequences, original.num_embeddings)
        fit_embedding(embedding, original.weight.detach(), frequencies, seed)
    fitted = first_tokens(sequences, choices.calibration_tokens)
    _check_ranks(recipe, sum(map(len, fitted)))
    teacher = teacher_of(model)
    errors = initialise(
        student,
        teacher,
        encoder,
        calibration_batches(fitted, choices.batch_tokens),
        choices,
        progress=lambda call: progress(call + 1, len(encoder.calls)),
    )
    round_to_stored(student, encoder, recipe)
    # What the layers were fitted to they do better than other texts.
    others = sequences[len(fitted) :] + fitted
    texts = first_tokens(others, recipe.readout.tokens)
    first_token = recipe.readout.pooling == "first"
    knowledge = fit_readout(student.eval(), teacher, encoder, texts, first_token=first_token)
    round_to_stored(student, encoder, recipe)
    record = Record(recipe, str(model.config.name_or_path), decisions, errors, knowledge)
    attach(student, record, "training")
    return Compressed(student, encoder, decisions, errors, knowledge)


def _check_ranks(recipe: Recipe, tokens: int) -> None:
    """Refuse a rank that so many tokens cannot tell from a smaller one."""
    if recipe.initialisation.method != "regression":
        return
    ranks = recipe.estimators.ranks()
    modules = {pattern: precision.rank or 0 for pattern, precision in recipe.modules.items()}
    kind, rank = max((ranks | modules).items(), key=lambda item: item[1])
    # Of n centred vectors at most n - 1 are independent.
    if rank >= tokens:
        raise CorpusError(
            f"The calibration text has {tokens} tokens, too few for the rank of {kind}, {rank}: "
            f"give more text, or a --rank below {tokens}."
        )


def first_tokens(sequences: list[list[int]], tokens: int) -> list[list[int]]:
    """The first sequences that hold no more than `tokens` together; at least one."""
    lengths = itertools.accumulate(map(len, sequences))
    first = [sequence for sequence, end in zip(sequences, lengths, strict=True) if end <= tokens]
    return first or sequences[:1]


def calibration_sequences(
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    calibration: Corpus,
    model: PreTrainedModel,
    tokens: int | None = None,
) -> list[list[int]]:
    """Calibration text as token sequences: whole sentences and packed ones in turn.

    Of at least `tokens` tokens, where there are so many; or as many as frequencies of words, the
    calibration and the readout need. A start that has only seen full-length
    sequences is far worse on short ones than the other way round, so users of either get both.
    """
    fitted = recipe.initialisation.calibration_tokens + recipe.readout.tokens
    tokens = tokens or max(FREQUENCY_TOKENS, fitted)
    length = min(recipe.initialisation.sequence_length, max_sequence_length(model.config))
    cut: list[list[int]] = []
    seen = 0
    for number, document in enumerate(read_documents(calibration)):
        unit = "packed" if number % PACKED_EVERY == 0 else "sentences"
        text = Text(unit=unit, sequence_length=length, shortest=4)
        for sequence in token_sequences([document], tokenizer, text):
            cut.append(sequence)
            seen += len(sequence)
        if seen >= tokens:
            break
    if not cut:
        raise CorpusError(
            f"{describe_corpus(calibration)} hold no sequence of at least 4 tokens to calibrate on."
        )
    return cut
