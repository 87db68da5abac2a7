"""What is read from each kind of source, and the sentence that each fault gives."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from bipft_compress.errors import CorpusError
from bipft_compress.text import builtin, corpus, readers
from bipft_compress.text.corpus import BUILTIN, corpus_fingerprint, read_documents


def write_parquet(path: Path, **columns: list[object]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def fault(source: str | Path) -> str:
    with pytest.raises(CorpusError) as caught:
        list(read_documents(source))
    return str(caught.value)


def test_blank_lines_separate_the_documents_of_a_txt(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffOne\nstill one\r\n\r\n  \n\nZwölf\n".encode())
    assert list(read_documents(path)) == ["One\nstill one", "Zwölf"]


def test_a_txt_without_blank_lines_is_cut_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_LONGEST_DOCUMENT", 10)
    path = tmp_path / "a.txt"
    path.write_text("abcd\nefgh\nijkl\n" + "x" * 25, encoding="utf-8")
    assert list(read_documents(path)) == ["abcd\nefgh", "ijkl", "x" * 10, "x" * 10, "x" * 5]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "A.JSONL"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('{"text": "One"}\n\n{"id": 3, "text": "Zw\\u00f6lf"}\n', encoding="utf-8")
    assert list(read_documents(str(path))) == ["One", "Zwölf"]


def test_parquet_across_batches_leaves_out_blank_documents(tmp_path: Path) -> None:
    texts: list[object] = [f"document {number}" for number in range(600)]
    path = write_parquet(tmp_path / "a.parquet", title=[0] * 602, text=[*texts, "", " \n"])
    assert list(read_documents(path)) == texts


def test_a_directory_is_read_in_sorted_order_by_ending(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.txt").write_text("second\n\nthird")
    (tmp_path / "a.jsonl").write_text('{"text": "first"}')
    (tmp_path / "notes.md").write_text("not text of the corpus")
    write_parquet(tmp_path / "c.parquet", text=["fourth"])
    assert list(read_documents(tmp_path)) == ["first", "second", "third", "fourth"]


def test_documents_come_before_a_later_fault_is_reached(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("fine")
    (tmp_path / "2.txt").write_bytes(b"\xff\xfe")
    documents = read_documents(tmp_path)
    assert next(documents) == "fine"
    with pytest.raises(CorpusError, match="not UTF-8"):
        next(documents)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "a.txt",
            b"\x89PNG\r\n\xff",
            "{path} is not UTF-8 text; convert it to UTF-8 or take it out of the corpus.",
        ),
        ("a.txt", b"a\0b", "{path} is binary data, not text; take it out of the corpus."),
        ("a.txt", b" \n\n\t", "The corpus {path} holds no text."),
        (
            "a.jsonl",
            b'{"text": "x"}\n\n{"text": "y"\n',
            "{path}, line 3 is not valid JSON (Expecting ',' delimiter: line 2 column 1 (char 13));"
            ' write one {{"text": ...}} to a line.',
        ),
        (
            "a.json",
            b'["x"]',
            '{path}, line 1 is not a JSON object; write one {{"text": ...}} to a line.',
        ),
        (
            "a.jsonl",
            b'{"body": "x", "id": 1}',
            '{path}, line 1 has no column "text" (there is: body, id); name the one that holds '
            "the text after a #, as in reviews.csv#review.",
        ),
        (
            "a.jsonl",
            b'{"text": ["x"]}',
            "{path}, line 1: the text is list, not a string; mend or remove that record.",
        ),
        (
            "a.jsonl",
            b'{"text": "\\ud800"}',
            "{path}, line 1: the text has a lone surrogate; mend or remove that record.",
        ),
        (
            "a.docx",
            b"x",
            "{path} is not a kind of text that can be read: give one of .txt, .jsonl, .json, .csv, "
            ".tsv, .parquet.",
        ),
    ],
)
def test_fault_of_a_file(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert fault(path) == sentence.format(path=path)


def test_parquet_without_a_text_column(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", title=["x"], body=["y"])
    assert fault(path) == (
        f'{path} has no column "text" (there is: title, body); name the one that holds the text '
        "after a #, as in reviews.csv#review."
    )


@pytest.mark.parametrize(("value", "kind"), [(None, "null"), (7, "int")])
def test_parquet_with_a_document_that_is_no_string(
    tmp_path: Path, value: object, kind: str
) -> None:
    first = "x" if value is None else 1
    path = write_parquet(tmp_path / "a.parquet", text=[first, value])
    row = 2 if value is None else 1
    assert fault(path) == (
        f"{path}, row {row}: the text is {kind}, not a string; mend or remove that record."
    )


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "empty"])
def test_damaged_parquet(tmp_path: Path, damage: str) -> None:
    path = write_parquet(tmp_path / "a.parquet", text=["some text " * 50] * 100)
    whole = path.read_bytes()
    damaged = {
        "truncated": whole[: len(whole) // 2],
        "overwritten": whole[:4] + b"\xaa" * 80 + whole[84:],
        "empty": b"",
    }
    path.write_bytes(damaged[damage])
    sentence = fault(path)
    assert sentence.startswith(f"{path} cannot be read (")
    assert sentence.endswith("); check that it is complete and yours to read.")
    assert "\n" not in sentence


def test_directory_without_text(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_text("x")
    sentence = (
        f"Directory {tmp_path} holds no text: none of its files is .txt, .jsonl, .json, .csv, "
        ".tsv, .parquet."
    )
    assert fault(tmp_path) == sentence
    with pytest.raises(CorpusError, match="holds no text"):
        corpus_fingerprint(tmp_path)


@pytest.mark.parametrize("source", ["", "no/such/dir/a", "missing.txt", "data/missing.txt", "a b"])
def test_a_path_that_cannot_be_a_hub_name_does_not_ask_the_hub(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", pytest.fail)
    with pytest.raises(CorpusError) as caught:
        read_documents(source)  # at once, before any document is asked for
    assert str(caught.value) == f"There is no file or directory {source!r}; check the path."


def test_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> object:
        raise ConnectionError("Couldn't reach it.\nMore about that.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert fault("owner/name") == (
        "There is no file or directory 'owner/name', and the Hugging Face hub gave no data set of "
        "that name (Couldn't reach it); check the path, the name, or the network."
    )


def test_hub_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load_dataset(*names: object, **options: object) -> Iterator[dict[str, object]]:
        asked.extend([names, options])
        yield {"text": ""}
        yield {"text": "One"}
        raise TimeoutError("read timed out")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    documents = read_documents("Salesforce/wikitext:wikitext-2-raw-v1")
    assert next(documents) == "One"
    assert asked == [
        ("Salesforce/wikitext", "wikitext-2-raw-v1"),
        {"split": "train", "streaming": True},
    ]
    with pytest.raises(CorpusError) as caught:
        next(documents)
    assert str(caught.value) == (
        "Data set Salesforce/wikitext:wikitext-2-raw-v1 broke off (read timed out); check the "
        "network or give local files."
    )


def test_hub_data_set_without_a_text_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: iter([{"question": "x"}]))
    assert fault("squad") == (
        'Data set squad has no column "text" (there is: question); name the one that holds the '
        "text after a #, as in reviews.csv#review."
    )


def test_fingerprint_follows_names_sizes_and_times(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("One")
    first = corpus_fingerprint(tmp_path)
    assert len(first) == 64
    assert int(first, 16) >= 0
    assert corpus_fingerprint(str(tmp_path)) == first

    (tmp_path / "ignored.md").write_text("x")
    assert corpus_fingerprint(tmp_path) == first

    os.utime(path, ns=(1, 1))
    touched = corpus_fingerprint(tmp_path)
    path.write_text("Other")
    os.utime(path, ns=(1, 1))
    longer = corpus_fingerprint(tmp_path)
    path.rename(tmp_path / "b.txt")
    assert len({first, touched, longer, corpus_fingerprint(tmp_path)}) == 4


def test_fingerprints_of_hub_names_and_of_the_builtin_text_differ() -> None:
    sources = ["owner/name", "owner/name:config", BUILTIN]
    assert len({corpus_fingerprint(source) for source in sources}) == 3


def test_builtin_text_is_long_clean_and_the_same_each_time() -> None:
    documents = list(read_documents(BUILTIN))
    assert min(map(len, documents)) >= 200
    assert len(set(documents)) == len(documents)
    assert sum(map(len, documents)) > 1_000_000
    assert not any(line.startswith((">>>", "---", "***")) for d in documents for line in d.split())
    assert documents == list(read_documents(BUILTIN))


def test_prose_keeps_sentences_and_drops_markup_and_code() -> None:
    manual = """\
Boolean operations
******************

   or_test ::= and_test | or_test "or" and_test

In the context of Boolean operations, these
values are   interpreted as false.

Parameters
----------
n_jobs : int, default=None
    The number of jobs to run in parallel for this.

>>> print("a line of code that is long enough to keep")
a line of code that is long enough to keep
"""
    assert builtin._prose(manual) == (
        "In the context of Boolean operations, these values are interpreted as false.\n"
        "The number of jobs to run in parallel for this."
    )


def test_python_without_pydoc_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert fault(BUILTIN) == (
        "This Python has no pydoc_data, so there is no built-in text; name a corpus of your own "
        "with --calibration or --corpus."
    )


def test_a_file_named_like_the_builtin_text_is_reached_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / BUILTIN).mkdir()
    (tmp_path / BUILTIN / "a.jsonl").write_text(json.dumps({"text": "mine"}))
    monkeypatch.chdir(tmp_path)
    assert list(read_documents(f"./{BUILTIN}")) == ["mine"]


def test_a_column_is_named_and_files_may_be_compressed(tmp_path: Path) -> None:
    table = tmp_path / "reviews.csv"
    table.write_text('id,review\n1,"One, and\ntwo"\n2,Three\n')
    assert list(read_documents(f"{table}#review")) == ["One, and\ntwo", "Three"]
    assert 'no column "text"' in fault(table)
    packed = tmp_path / "a.txt.gz"
    packed.write_bytes(gzip.compress("Zwölf\r\n\nOne".encode()))
    assert list(read_documents(packed)) == ["Zwölf", "One"]
    parquet = write_parquet(tmp_path / "b.parquet", body=["Four"])
    assert list(read_documents(f"{packed}@2,{parquet}#body")) == ["Zwölf", "Four", "One"]
    assert corpus_fingerprint(f"{parquet}#body") != corpus_fingerprint(parquet)
    packed.write_bytes(packed.read_bytes()[:-8])
    assert "cannot be read" in fault(packed)


def test_texts_themselves_and_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(read_documents(["One", " ", "Two"])) == ["One", "Two"]
    with pytest.raises(CorpusError, match="holds no text"):
        list(read_documents([]))
    corpus._stdin.cache_clear()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"One\n\nTwo\n")))
    # Twice: to calibrate, and to compare.
    assert list(read_documents("-")) == list(read_documents("-")) == ["One", "Two"]
    corpus._stdin.cache_clear()


def test_a_hub_data_set_by_config_split_and_column(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load_dataset(*names: object, **options: object) -> Iterator[dict[str, object]]:
        asked.append((*names, options["split"]))
        return iter([{"question": "x"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(read_documents("owner/squad::validation#question")) == ["x"]
    assert list(read_documents("squad:plain#question")) == ["x"]
    assert asked == [("owner/squad", None, "validation"), ("squad", "plain", "train")]


def test_a_mistake_in_a_program_is_not_the_hubs_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda: None)
    with pytest.raises(TypeError, match="argument"):
        read_documents("owner/name")
