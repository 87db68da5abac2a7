"""Exact sequences from tiny texts, and the cache, order and batches built on them."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import BertJapaneseTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bipft_compress.errors import CorpusError, OutputError
from bipft_compress.recipe import Text
from bipft_compress.text import sequences
from bipft_compress.text.sequences import (
    LengthBatchSampler,
    build_dataset,
    calibration_batches,
    split_sentences,
    token_frequencies,
    token_sequences,
)

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
UNK, CLS, SEP = 1, 2, 3
WORDS = {f"w{number}": number for number in range(len(SPECIALS), 100)}


def make_tokenizer(words: dict[str, int] = WORDS) -> PreTrainedTokenizerFast:
    vocabulary = dict(zip(SPECIALS, range(len(SPECIALS)), strict=True)) | words
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=8,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    )


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def slow_tokenizer(tmp_path: Path) -> BertJapaneseTokenizer:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIALS, *WORDS]), encoding="utf-8")
    return BertJapaneseTokenizer(
        str(path), do_subword_tokenize=True, word_tokenizer_type="basic", model_max_length=8
    )


def words(*numbers: int) -> str:
    return " ".join(f"w{number}" for number in numbers)


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


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(f"{words(5, 6, 7, 8)}\n\n{words(9, 10, 11)}\n", encoding="utf-8")
    return path


@pytest.fixture
def build(tmp_path: Path, corpus: Path) -> Callable[..., list[list[int]]]:
    """Builds with defaults, and returns the sequences."""

    def build(**changes: object) -> list[list[int]]:
        arguments = {"source": corpus, "tokenizer": make_tokenizer(), "text": Text(shortest=3)}
        dataset = build_dataset(cache_dir=tmp_path / "cache", **(arguments | changes))  # type: ignore[arg-type]
        return list(dataset["input_ids"])

    return build


def test_dataset_columns(corpus: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    dataset = build_dataset(corpus, tokenizer, Text(shortest=3), cache_dir=tmp_path / "cache")
    assert dataset.to_dict() == {
        "input_ids": [[CLS, 5, 6, 7, 8, SEP], [CLS, 9, 10, 11, SEP]],
        "length": [6, 5],
    }
    assert dataset.features["length"].dtype == "int32"
    assert dataset.features["input_ids"].feature.dtype == "int32"
    assert [Path(file["filename"]).suffix for file in dataset.cache_files] == [".arrow"]


def test_dataset_is_built_once(
    build: Callable[..., list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build()
    monkeypatch.setattr(sequences, "read_documents", pytest.fail)
    used = make_tokenizer()
    used("x", truncation=True, max_length=3)  # leaves its truncation in the tokenizer
    assert build() == build(tokenizer=used) == first


def test_dataset_is_built_again_when_anything_changes(
    build: Callable[..., list[list[int]]], corpus: Path
) -> None:
    first = build()
    assert build(limit=1) == first[:1]
    assert build(text=Text(shortest=6)) == first[:1]
    other = make_tokenizer(dict(zip(WORDS, reversed(WORDS.values()), strict=True)))
    assert build(tokenizer=other)[0] == [CLS, 99, 98, 97, 96, SEP]
    corpus.write_text(words(50, 51), encoding="utf-8")
    assert build() == [[CLS, 50, 51, SEP]]


def test_an_interrupted_build_leaves_nothing_to_be_taken_for_whole(
    build: Callable[..., list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> Iterator[str]:
        yield from [words(5, 6, 7)] * 200
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sequences, "read_documents", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build()
    assert build() == [[CLS, 5, 6, 7, 8, SEP], [CLS, 9, 10, 11, SEP]]


def test_faults_of_build_dataset(
    build: Callable[..., list[list[int]]], corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(CorpusError) as caught:
        build(text=Text(shortest=50))
    assert str(caught.value) == (
        f"The corpus {corpus} holds no sequence of at least 50 tokens; give more text or lower "
        "text.shortest in the recipe."
    )
    with pytest.raises(CorpusError, match="There is no file or directory"):
        build(source=tmp_path / "missing.txt")
    corpus.write_bytes(b"\xff\xff")
    with pytest.raises(CorpusError, match="is not UTF-8 text"):
        build()


def test_a_cache_that_cannot_be_written(corpus: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(OutputError) as caught:
        build_dataset(corpus, tokenizer, Text(shortest=3), cache_dir=corpus)  # a file
    assert str(caught.value).startswith(f"The cache of token sequences in {corpus} cannot be ")


@given(
    lengths=st.lists(st.integers(1, 50), max_size=300),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_sampler_is_a_permutation(lengths: list[int], batch_size: int, seed: int) -> None:
    sampler = LengthBatchSampler(lengths, batch_size, seed)
    assert len(sampler) == len(lengths)
    assert sorted(sampler) == list(range(len(lengths)))


def test_sampler_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = torch.randint(5, 128, (1000,), generator=torch.Generator().manual_seed(0))

    def order(seed: int, epoch: int) -> list[int]:
        sampler = LengthBatchSampler(lengths, 8, seed)
        sampler.set_epoch(epoch)
        torch.manual_seed(seed * 100 + epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    list(LengthBatchSampler(lengths, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_sampler_batches_have_similar_lengths_and_the_incomplete_one_is_last() -> None:
    # 50 batches of 4 make one pool, so here all of it is sorted: 51 lengths, each four times.
    lengths = [1 + number % 50 for number in range(199)]
    order = list(LengthBatchSampler(lengths, 4))
    batches = [[lengths[index] for index in order[at : at + 4]] for at in range(0, 199, 4)]
    assert len(batches[-1]) == 3
    assert all(max(batch) - min(batch) <= 1 for batch in batches)
    firsts = [batch[0] for batch in batches[:-1]]
    assert firsts != sorted(firsts)


@given(
    lengths=st.lists(st.integers(1, 20), max_size=50),
    batch_tokens=st.integers(1, 60),
)
def test_calibration_batches_have_no_padding(lengths: list[int], batch_tokens: int) -> None:
    given_sequences = [[index] * length for index, length in enumerate(lengths)]
    batches = calibration_batches(given_sequences, batch_tokens)
    rows = [row for batch in batches for row in batch.tolist()]
    assert rows == sorted(given_sequences, key=len)
    for batch in batches:
        assert batch.dtype == torch.int64
        assert batch.numel() <= batch_tokens or len(batch) == 1


def test_calibration_batches_are_as_few_as_fit() -> None:
    batches = calibration_batches([[1, 2], [3, 4, 5], [6, 7], [8, 9]], batch_tokens=4)
    assert [batch.tolist() for batch in batches] == [[[1, 2], [6, 7]], [[8, 9]], [[3, 4, 5]]]


def test_token_frequencies_without_text_follow_zipf() -> None:
    frequencies = token_frequencies([], 101)
    assert frequencies.dtype == torch.float64
    assert frequencies.sum().item() == pytest.approx(1.0)
    assert (frequencies[0] / frequencies[100]).item() == pytest.approx(2.0)


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=20))
def test_token_frequencies(token_ids: list[list[int]]) -> None:
    counts = Counter(token for sequence in token_ids for token in sequence)
    total = counts.total()
    share = 0.95 if total else 0.0
    law = token_frequencies([], 10)
    expected = [
        share * counts[token] / max(total, 1) + (1 - share) * law[token].item()
        for token in range(10)
    ]
    assert token_frequencies(token_ids, 10).tolist() == pytest.approx(expected)
