"""Exact sequences from tiny texts."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertJapaneseTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bipft_compress.recipe import Text
from bipft_compress.text.sequences import split_sentences, token_sequences

from .conftest import CLS, SEP, UNK, make_tokenizer, words


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four… Five", ["One.", "Two!", "Three?", "Four…", "Five"]),
        ("Mr. Smith met J. K. Rowling, e.g. at 3.5 p.m. or so. Then", 2),
        ("It is from the U.S. Army vs. Dr. No.", 1),
        ("Am 3. Mai z.B. kam Hr. Weber. Er blieb.", 2),
        ("Pears, plums etc. Then apples, etc. and more.", 2),
        ('He said "No!" and left. "Why?" she asked.', 2),
        ("Wait... What?! (Yes.) No", ["Wait...", "What?!", "(Yes.)", "No"]),
        ("A wrapped\nline.\nHeading\n\nnext\n", ["A wrapped line.", "Heading", "next"]),
        ("他来了。真的？「是！」好", ["他来了。", "真的？", "「是！」", "好"]),  # noqa: RUF001
        ("https://a.b/c.d and a.b", ["https://a.b/c.d and a.b"]),
        (" \n ", []),
        ("", []),
    ],
)
def test_split_sentences(text: str, sentences: list[str] | int) -> None:
    found = split_sentences(text)
    assert (len(found) if isinstance(sentences, int) else found) == sentences


@given(st.text(alphabet="aB .!?…\n\"')。5", max_size=80))
def test_split_sentences_keeps_every_character_but_spaces(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence and sentence == sentence.strip() for sentence in sentences)


def test_sentences_are_truncated_left_out_and_kept_in_order(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    documents = ["W w5\nX w6 w7", "w8 w9 w10 w11 w12 w13"]
    text = Text(unit="sentences", sequence_length=6, shortest=5)
    assert list(token_sequences(documents, tokenizer, text)) == [
        [CLS, UNK, 6, 7, SEP],
        [CLS, 8, 9, 10, 11, SEP],
    ]


def test_overlong_sentences_are_skipped_where_asked(tokenizer: PreTrainedTokenizerFast) -> None:
    documents = ["w5 w6 w7 w8 w9", "w5 w6 w7 w8", "w9 w10 w11 w12 w13 w14", "w15 w16 w17"]
    text = Text(unit="sentences", sequence_length=6, shortest=4, overlong="skip")
    assert list(token_sequences(documents, tokenizer, text)) == [
        [CLS, 5, 6, 7, 8, SEP],
        [CLS, 15, 16, 17, SEP],
    ]


def test_packed_never_mixes_documents_and_drops_short_tails(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    documents = [words(5, 6, 7, 8, 9, 10, 11), words(12, 13), words(14)]
    text = Text(unit="packed", sequence_length=5, shortest=4)
    assert list(token_sequences(documents, tokenizer, text)) == [
        [CLS, 5, 6, 7, SEP],
        [CLS, 8, 9, 10, SEP],
        [CLS, 12, 13, SEP],
    ]


@given(
    documents=st.lists(st.lists(st.integers(5, 99), max_size=40), max_size=6),
    length=st.integers(4, 12),
)
def test_packed_has_every_token_once_in_order(documents: list[list[int]], length: int) -> None:
    text = Text(unit="packed", sequence_length=length, shortest=3)
    found = list(token_sequences((words(*d) for d in documents), make_tokenizer(), text))
    room = length - 2
    assert found == [
        [CLS, *document[start : start + room], SEP]
        for document in documents
        for start in range(0, len(document), room)
    ]


@pytest.mark.parametrize("unit", ["packed", "sentences"])
def test_slow_and_fast_tokenizers_agree(
    unit: str, tokenizer: PreTrainedTokenizerFast, slow_tokenizer: BertJapaneseTokenizer
) -> None:
    documents = [words(*range(5, 30)), words(7, 8)]
    text = Text.model_validate({"unit": unit, "sequence_length": 8, "shortest": 3})
    assert not slow_tokenizer.is_fast
    slow = list(token_sequences(documents, slow_tokenizer, text))
    assert slow == list(token_sequences(documents, tokenizer, text))
    assert len(slow) == {"packed": 6, "sentences": 2}[unit]


@pytest.mark.parametrize("unit", ["packed", "sentences"])
def test_special_tokens_in_the_text_are_text(unit: str, tokenizer: PreTrainedTokenizerFast) -> None:
    text = Text.model_validate({"unit": unit, "shortest": 3})
    # A mask inside a word would be found there; as text, the whole word is merely unknown.
    assert list(token_sequences(["w5 x[MASK] w6"], tokenizer, text)) == [[CLS, 5, UNK, 6, SEP]]


def test_the_tokenizer_is_left_as_it_was(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.truncation_side = "left"
    tokenizer.backend_tokenizer.enable_truncation(7, direction="left")
    tokenizer.backend_tokenizer.enable_padding(length=9)
    before = tokenizer.backend_tokenizer.to_str()
    text = Text(unit="packed", sequence_length=4, shortest=3)
    assert list(token_sequences([words(5, 6, 7)], tokenizer, text)) == [
        [CLS, 5, 6, SEP],
        [CLS, 7, SEP],
    ]
    assert tokenizer.backend_tokenizer.to_str() == before
    assert tokenizer.truncation_side == "left"
    assert tokenizer("x[MASK]")["input_ids"] == [CLS, UNK, 4, SEP]


def test_limit_and_max_tokens_stop_the_reading(tokenizer: PreTrainedTokenizerFast) -> None:
    read = 0

    def documents() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield words(5, 6, 7)

    text = Text(sequence_length=8, shortest=3)
    assert len(list(token_sequences(documents(), tokenizer, text, limit=100))) == 100
    assert read <= 256
    text = Text(sequence_length=8, shortest=3, max_tokens=11)
    assert list(token_sequences(documents(), tokenizer, text)) == [[CLS, 5, 6, 7, SEP]] * 3


@pytest.mark.parametrize("unit", ["packed", "sentences"])
def test_no_warning_of_long_documents(
    unit: str,
    tokenizer: PreTrainedTokenizerFast,
    slow_tokenizer: BertJapaneseTokenizer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = Text.model_validate({"unit": unit, "sequence_length": 8})
    any_tokenizer: PreTrainedTokenizerBase
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")
        for any_tokenizer in (tokenizer, slow_tokenizer):
            assert list(token_sequences([words(*range(5, 99))], any_tokenizer, text))
    assert caplog.text == ""
