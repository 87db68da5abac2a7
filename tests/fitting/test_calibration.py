"""Calibration text: lengths, shares, and what the layers and the readout read of it."""

from __future__ import annotations

import pytest
import torch

from bipft_compress.errors import CorpusError
from bipft_compress.fitting.calibration import calibration_text, first_tokens
from bipft_compress.recipe import Recipe


def recipe(layers: int, readout: int) -> Recipe:
    return Recipe.load(
        {
            "initialisation": {"calibration_tokens": layers, "sequence_length": 8},
            "readout": {"rank": 2, "tokens": readout, "sequence_length": 32},
        }
    )


# Three sentences a document, each of 8 words and a stop: 11 tokens with the special ones.
DOCUMENTS = ["A ab cd a b c d ab. " * 3 for _ in range(40)]


@pytest.fixture(scope="module")
def model(make_model):
    return make_model("bert")


def test_the_readout_reads_longer_sequences_after_those_of_the_layers(model, tokenizer):
    text = calibration_text(tokenizer, recipe(100, 500), DOCUMENTS, model, frequency_tokens=0)
    assert 100 <= sum(map(len, text.layers)) < 150
    assert 500 <= sum(map(len, text.readout)) < 550
    assert {len(sequence) for sequence in text.layers} <= set(range(4, 9))
    lengths = [len(sequence) for sequence in text.readout]
    # Sentences whole, and packed sequences of a length, its half and its quarter.
    assert set(lengths) == {11, 29, 16, 15, 8, 5}


def test_a_text_that_is_too_short_is_read_again(model, tokenizer):
    text = calibration_text(tokenizer, recipe(10**6, 200), DOCUMENTS, model)
    assert text.readout == text.layers
    text = calibration_text(tokenizer, recipe(300, 10**6), DOCUMENTS, model)
    assert text.readout[-len(text.layers) :] == text.layers
    assert len(text.readout) > len(text.layers)


def test_frequencies_are_of_all_that_was_read(model, tokenizer):
    text = calibration_text(tokenizer, recipe(100, 100), DOCUMENTS, model)
    counts = torch.zeros(len(tokenizer))
    for sequence in [*text.layers, *text.readout]:
        counts += torch.bincount(torch.tensor(sequence), minlength=len(tokenizer))
    assert sum(map(len, text.layers)) + sum(map(len, text.readout)) > 800
    expected = 0.95 * counts / counts.sum()
    frequencies = text.frequencies(len(tokenizer))
    assert ((frequencies - expected) < 0.01).all()
    assert (frequencies > 0).all()


def test_a_text_without_a_sequence_is_refused(model, tokenizer):
    with pytest.raises(CorpusError, match="no sequence of at least 4 tokens"):
        calibration_text(tokenizer, Recipe(), ["a", "b"], model)


def test_first_tokens_are_whole_sequences_and_at_least_one():
    sequences = [[1, 2, 3], [4, 5], [6]]
    assert first_tokens(sequences, 5) == sequences[:2]
    assert first_tokens(sequences, 4) == sequences[:1]
    assert first_tokens(sequences, 1) == sequences[:1]


def test_words_are_trained_on_text_that_the_readout_was_not_fitted_to(model, tokenizer):
    own = recipe(100, 500).model_dump()
    own |= {
        "words": {"steps": 5, "tokens": 300},
        "embeddings": {"code": "sign"},
        "objective": {"sentence_cosine": 1.0},
    }
    text = calibration_text(tokenizer, Recipe.load(own), DOCUMENTS, model, frequency_tokens=0)
    assert 300 <= sum(map(len, text.words)) < 350
    assert sum(map(len, text.readout)) < 550
    own["words"] = {"steps": 0}
    text = calibration_text(tokenizer, Recipe.load(own), DOCUMENTS, model, frequency_tokens=0)
    assert text.words == []
