"""Several sources: what a weight means, where the text ends, and what is refused."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from bipft_compress.errors import CorpusError
from bipft_compress.text.corpus import corpus_fingerprint, read_documents
from bipft_compress.text.mixture import interleave, parse_sources


def write(path: Path, documents: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


@pytest.fixture
def long(tmp_path: Path) -> Path:
    return write(tmp_path / "long.jsonl", ["L" * 100] * 50)


@pytest.fixture
def short(tmp_path: Path) -> Path:
    return write(tmp_path / "short.jsonl", ["s" * 10] * 200)


def test_weights_are_shares_of_characters_at_every_point(long: Path, short: Path) -> None:
    given = {"L": 0, "s": 0}
    for document in read_documents(f"{long}@0.25, {short}@0.75"):
        given[document[0]] += len(document)
        if sum(given.values()) > 400:
            # A source is at most one of its documents away from its share.
            assert abs(given["L"] - 0.25 * sum(given.values())) <= 100
    assert given == {"L": 700, "s": 2000}  # the short ones come to their end


def test_the_order_is_fixed_and_the_first_named_begins() -> None:
    def mixed() -> str:
        return "".join(interleave([iter("aaaa"), iter("bbbbbbbb")], [1, 2]))

    assert mixed() == mixed() == "abbabbabbabb"


def test_without_weights_the_shares_are_equal(long: Path, short: Path) -> None:
    documents = list(islice(read_documents(f"{long},{short}"), 22))
    assert documents == [*(["L" * 100] + ["s" * 10] * 10) * 2]


@pytest.mark.parametrize(
    ("corpus", "sources"),
    [
        ("a.txt@0.3,owner/name:config@2", [("a.txt", 0.3), ("owner/name:config", 2)]),
        ("builtin, a.txt", [("builtin", 1), ("a.txt", 1)]),
        ("a.txt@2", [("a.txt", 2)]),
    ],
)
def test_sources_are_parsed(corpus: str, sources: list[tuple[str, float]]) -> None:
    assert parse_sources(corpus) == sources


def test_a_path_that_exists_is_taken_as_it_is(tmp_path: Path) -> None:
    odd = write(tmp_path / "a,b@3.jsonl", ["mine"])
    assert list(read_documents(odd)) == ["mine"]
    (tmp_path / "c@4").mkdir()
    write(tmp_path / "c@4" / "d.jsonl", ["other"])
    assert parse_sources(f"{tmp_path / 'c@4'}@5") == [(str(tmp_path / "c@4"), 5)]
    assert parse_sources(tmp_path / "c@4") == [(str(tmp_path / "c@4"), 1)]


@pytest.mark.parametrize("weight", ["", "0", "-1", "nan", "inf", "half"])
def test_a_weight_is_a_positive_number(long: Path, weight: str) -> None:
    with pytest.raises(
        CorpusError, match=r"is not a weight .* write a positive number after the @"
    ):
        read_documents(f"{long}@{weight},builtin")


def test_a_missing_source_is_said_at_once(long: Path) -> None:
    with pytest.raises(CorpusError, match=r"no file or directory 'none\.txt'"):
        read_documents(f"{long},none.txt")


def test_an_empty_source_is_refused(tmp_path: Path, long: Path) -> None:
    empty = write(tmp_path / "empty.jsonl", [])
    with pytest.raises(CorpusError, match=r"empty\.jsonl holds no text"):
        list(read_documents(f"{long},{empty}"))


def test_the_fingerprint_is_of_all_sources_and_weights(long: Path, short: Path) -> None:
    corpora = [long, f"{long},{short}", f"{short},{long}", f"{long}@2,{short}"]
    assert len({corpus_fingerprint(corpus) for corpus in corpora}) == 4
    assert corpus_fingerprint(f"{long}@1,{short}@1") == corpus_fingerprint(f"{long},{short}")
    before = corpus_fingerprint(f"{long},{short}")
    write(short, ["other"])
    assert corpus_fingerprint(f"{long},{short}") != before
