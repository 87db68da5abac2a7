"""Tokenizers: what is wrong with their files is told, what is wrong with programs is raised."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer, BertConfig

from bipft_compress.errors import CheckpointError
from bipft_compress.loading.tokenizer import load_tokenizer


@pytest.fixture
def directory(tokenizer, tmp_path):
    BertConfig().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def _values(file, change):
    def fault(directory):
        values = json.loads((directory / file).read_text())
        change(values)
        (directory / file).write_text(json.dumps(values))

    return fault


def _bytes(file, data):
    return lambda directory: (directory / file).write_bytes(data)


TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
FAULTS = {
    "not JSON": _bytes(TOKENIZER, b"{"),
    "empty": _bytes(TOKENIZER, b""),
    "no object": _bytes(TOKENIZER, b"[]"),
    "no key": _bytes(TOKENIZER, b"{}"),
    "no text": _bytes(TOKENIZER, b"\xff\xfe\x00"),
    "no model": _values(TOKENIZER, lambda v: v.pop("model")),
    "odd model": _values(TOKENIZER, lambda v: v["model"].update(type="x")),
    "odd tokens": _values(TOKENIZER, lambda v: v.update(added_tokens=3)),
    "odd version": _values(TOKENIZER, lambda v: v.update(version="9.0")),
    "settings not JSON": _bytes(SETTINGS, b"{"),
    "settings no object": _bytes(SETTINGS, b"[]"),
    "odd class": _values(SETTINGS, lambda v: v.update(tokenizer_class=True)),
    "odd special token": _values(SETTINGS, lambda v: v.update(cls_token=3)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_file_is_told(directory, fault):
    FAULTS[fault](directory)
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_tokenizer(directory)


@pytest.mark.parametrize("longest", [[1], "text", {}, -5, True, float("nan")])
def test_a_longest_sequence_that_is_no_number(directory, longest):
    settings = json.loads((directory / SETTINGS).read_text()) | {"model_max_length": longest}
    (directory / SETTINGS).write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"model_max_length = .* no number of tokens"):
        load_tokenizer(directory)


def test_a_missing_tokenizer_is_told(directory):
    (directory / TOKENIZER).unlink()
    (directory / SETTINGS).unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        load_tokenizer(directory)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_tokenizer("nobody/no-such-model-anywhere")


@pytest.mark.parametrize("kind", [NameError, AssertionError, ZeroDivisionError])
def test_a_programming_error_is_raised(directory, monkeypatch, kind):
    def broken(*_, **__):
        raise kind("a mistake")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", broken)
    with pytest.raises(kind, match="a mistake"):
        load_tokenizer(directory)
