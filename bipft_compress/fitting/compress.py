"""The first job: a full-precision checkpoint in, a calibrated binary one out."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from transformers import set_seed

from bipft_compress.checkpoint.attach import attach
from bipft_compress.checkpoint.packed import packed_copy
from bipft_compress.checkpoint.record import Record
from bipft_compress.errors import CorpusError
from bipft_compress.families import Encoder, get_module, teacher_of
from bipft_compress.fitting.calibration import CalibrationText, calibration_text, first_tokens
from bipft_compress.fitting.embedding import fit_embedding
from bipft_compress.fitting.initialise import initialise
from bipft_compress.fitting.readout import fit_importance, fit_readout
from bipft_compress.fitting.words import train_words
from bipft_compress.nn import CompressedEmbedding, Readout
from bipft_compress.recipe import Recipe
from bipft_compress.storage.plan import round_to_stored
from bipft_compress.structure.knowledge import Knowledge
from bipft_compress.structure.swap import Decision, on_meta, swap
from bipft_compress.text.batches import calibration_batches
from bipft_compress.text.corpus import BUILTIN, Corpus

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger("bipft_compress")


@dataclass(repr=False)
class Compressed:
    """A binary model and how it came about."""

    model: PreTrainedModel
    encoder: Encoder
    recipe: Recipe
    decisions: list[Decision]
    layer_errors: list[float]
    """Normalised squared error of the hidden states after each layer, on the calibration text."""
    knowledge: Knowledge = field(default_factory=Knowledge)
    """What each layer knows of a text."""

    def packed(self) -> PreTrainedModel:
        """A copy that runs on bits, as its packed artefact does; see `packed_copy`."""
        return packed_copy(self.model, self.encoder, self.recipe)

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
    recipe.check_start()
    swap(on_meta(model), recipe)
    text = calibration_text(tokenizer, recipe, calibration, model)
    return compress_on(model, recipe, text, seed=seed, progress=progress)


def compress_on(
    model: PreTrainedModel,
    recipe: Recipe,
    text: CalibrationText,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Compressed:
    """`compress` on text that is token sequences already: see `calibration_text`."""
    set_seed(seed)
    if any(weight.dtype != torch.float32 for weight in model.parameters()):
        logger.info("the model is read in torch.float32, for closed forms need it")
        model = copy.deepcopy(model).float()
    student = copy.deepcopy(model)
    encoder, decisions = swap(student, recipe)
    choices = recipe.initialisation
    embedding = get_module(student, encoder.word_embeddings)
    original = get_module(model, encoder.word_embeddings)
    assert isinstance(original, torch.nn.Embedding)
    frequencies = text.frequencies(original.num_embeddings)
    if isinstance(embedding, CompressedEmbedding):
        fit_embedding(embedding, original.weight.detach(), frequencies, seed)
    if encoder.readout is not None:
        readout = get_module(student, encoder.readout)
        assert isinstance(readout, Readout)
        fit_importance(readout, frequencies)
    teacher = teacher_of(model)
    if recipe.words.steps:
        own = first_tokens(text.words or text.readout, recipe.words.tokens)
        train_words(student, teacher, encoder, own, recipe, seed)
    fitted = first_tokens(text.layers, choices.calibration_tokens)
    _check_ranks(recipe, sum(map(len, fitted)))
    errors = initialise(
        student,
        teacher,
        encoder,
        calibration_batches(fitted, choices.batch_tokens),
        choices,
        progress=lambda call: progress(call + 1, len(encoder.calls)),
    )
    round_to_stored(student, encoder, recipe)
    texts = first_tokens(text.readout, recipe.readout.tokens)
    knowledge = fit_readout(student.eval(), teacher, encoder, texts, recipe, seed)
    round_to_stored(student, encoder, recipe)
    record = Record(recipe, str(model.config.name_or_path), decisions, errors, knowledge)
    attach(student, record, "training")
    return Compressed(student, encoder, recipe, decisions, errors, knowledge)


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
