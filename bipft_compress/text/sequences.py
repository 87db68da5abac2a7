"""Documents to token sequences: sentences or packed chunks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from bipft_compress.recipe import Text

_T = TypeVar("_T")

_DOCUMENTS_AT_A_TIME = 64

# A run of stops counts from its first one only: dot leaders must not cost quadratic time.
_BOUNDARY = re.compile(
    r"(?<![.!?…])(?P<stop>[.!?…]+)[\"'”\u2019»)\]]*(?:\s+|$)"
    r"|[。\uff01\uff1f]+[」』”\u2019\uff09]*"  # full-width ! ? and bracket
    r"|\n\s*"
)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_LAST_WORD = re.compile(r"[^\s(\[\"'“\u2018«]*$")
# A dot after these ends no sentence: an initial or letters with dots between (U.S., z.B.), a day
# as in "3. Mai", and abbreviations that stand before their word ("etc." may well end a sentence).
_ABBREVIATION = re.compile(
    r"[^\W\d_](?:\.[^\W\d_])*|\d{1,2}"
    r"|(?i:mrs?|ms|dr|prof|st|[sj]r|gen|col|capt|lt|sgt|rev|hon|gov|sen|vs|cf|figs?|eqs?|nos|vols?"
    r"|pp|eds|al|approx|viz|resp"
    r"|abb|bzw|dipl|evtl|ggf|hr|ing|nr|vgl|mme|mlle|sra|srta|dott|avv|dhr|mevr)"
)


def split_sentences(text: str) -> list[str]:
    """Sentences of `text`, stripped, none of them blank.

    Splits after `. ! ? …` and a space, after their full-width kin, and at line ends; not after
    abbreviations and initials, nor before a lower-case letter (a wrapped line is joined again).
    Meant for European languages, Chinese and Japanese.
    """
    sentences = []
    start = 0
    for boundary in _BOUNDARY.finditer(text):
        following = text[boundary.end() : boundary.end() + 1]
        joined = following.islower() or _is_abbreviation(text, start, boundary)
        if joined and not _BLANK_LINE.search(boundary[0]):
            continue
        sentences.append(" ".join(text[start : boundary.end()].split()))
        start = boundary.end()
    sentences.append(" ".join(text[start:].split()))
    return [sentence for sentence in sentences if sentence]


def _is_abbreviation(text: str, start: int, boundary: re.Match[str]) -> bool:
    if boundary["stop"] != ".":
        return False
    match = _LAST_WORD.search(text, max(start, boundary.start() - 20), boundary.start())
    word = match[0] if match else ""
    return _ABBREVIATION.fullmatch(word) is not None


def token_sequences(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    text: Text,
    limit: int | None = None,
) -> Iterator[list[int]]:
    """Token sequences with special tokens, lazily, in the order of the text.

    A special token written out in a document ("[MASK]", "</s>") is read as plain text.

    Args:
        documents: text; sentences and chunks never span two of them.
        tokenizer: fast or slow; its settings are left as they were.
        text: unit "sentences" cuts a sentence of more than `sequence_length` tokens off, or with
            overlong "skip" leaves it out; unit "packed" spreads a document over as many sequences
            as it takes. Either leaves out sequences of less than `shortest` tokens, specials
            included, and the sequence that reaches `max_tokens` is the last.
        limit: most sequences to give.
    """
    unit = _packed if text.unit == "packed" else _sentences
    batches = chunks(documents, _DOCUMENTS_AT_A_TIME)
    sequences = chain.from_iterable(unit(batch, tokenizer, text) for batch in batches)
    kept = (sequence for sequence in sequences if len(sequence) >= text.shortest)
    total = 0
    for sequence in islice(kept, limit):
        yield sequence
        total += len(sequence)
        if text.max_tokens is not None and total >= text.max_tokens:
            return


@contextmanager
def _settings_kept(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Cut from the right, read special tokens as text, and leave the tokenizer as it was.

    A fast tokenizer keeps the truncation of its last call, and would be saved with it.
    """
    side, split = tokenizer.truncation_side, tokenizer.split_special_tokens
    backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
    truncation, padding = (backend.truncation, backend.padding) if backend else (None, None)
    try:
        tokenizer.truncation_side, tokenizer.split_special_tokens = "right", True
        yield
    finally:
        tokenizer.truncation_side, tokenizer.split_special_tokens = side, split
        if backend:
            backend.encode_special_tokens = split
            backend.enable_truncation(**truncation) if truncation else backend.no_truncation()
            backend.enable_padding(**padding) if padding else backend.no_padding()


def _sentences(
    documents: list[str], tokenizer: PreTrainedTokenizerBase, text: Text
) -> list[list[int]]:
    sentences = [sentence for document in documents for sentence in split_sentences(document)]
    if not sentences:
        return []
    skip = text.overlong == "skip"
    with _settings_kept(tokenizer):
        ids: list[list[int]] = tokenizer(
            # A token more tells which sentences are too long.
            sentences,
            truncation=True,
            max_length=text.sequence_length + skip,
            padding=False,
        )["input_ids"]
    return [sequence for sequence in ids if len(sequence) <= text.sequence_length]


def _packed(
    documents: list[str], tokenizer: PreTrainedTokenizerBase, text: Text
) -> list[list[int]]:
    length = text.sequence_length
    if tokenizer.is_fast:
        with _settings_kept(tokenizer):
            ids: list[list[int]] = tokenizer(
                documents,
                truncation=True,
                max_length=length,
                return_overflowing_tokens=True,
                padding=False,
            )["input_ids"]
        return ids
    # A slow tokenizer returns what overflows in another form, but can add special tokens itself.
    room = length - tokenizer.num_special_tokens_to_add()
    with _settings_kept(tokenizer):
        whole = tokenizer(documents, add_special_tokens=False, padding=False, verbose=False)
    return [
        tokenizer.build_inputs_with_special_tokens(document[start : start + room])
        for document in whole["input_ids"]
        for start in range(0, len(document), room)
    ]


def chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of `size` items each, the last one maybe shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
