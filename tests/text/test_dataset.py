"""The sequences of a corpus are made once, and again when anything changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from bipft_compress.errors import CorpusError, OutputError
from bipft_compress.recipe import Text
from bipft_compress.text import dataset as module
from bipft_compress.text.dataset import build_dataset

from .conftest import CLS, SEP, WORDS, make_tokenizer, words


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
    monkeypatch.setattr(module, "read_documents", pytest.fail)
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
        patch.setattr(module, "read_documents", interrupted)
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
