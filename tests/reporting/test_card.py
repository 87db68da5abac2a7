"""The model card: what the hub reads of it, and a usage snippet that runs."""

from __future__ import annotations

import re

import pytest
from huggingface_hub import ModelCard

from bipft_compress import jobs
from bipft_compress.checkpoint.record import Record, write_record
from bipft_compress.recipe import Recipe

from ..loading.test_sentence import QUICK, TEXT, write_sentence_files

CARD = "---\nlicense: mit\nlanguage: de\ntags:\n- mine\n---\n\n# The original\n"


@pytest.fixture
def make_packed(write_checkpoint, tmp_path):
    """`make_packed(head, sentence)`: a packed model of an original with a card."""

    def make(head, sentence=False):
        original = tmp_path / "original"
        write_checkpoint(original, "bert", head)
        (original / "README.md").write_text(CARD)
        if sentence:
            write_sentence_files(original)
        (tmp_path / "text.txt").write_text(TEXT)
        binary = tmp_path / "binary"
        jobs.compress_checkpoint(
            original, Recipe.load(QUICK), binary, calibration=tmp_path / "text.txt"
        )
        # As of a model of the hub.
        record = Record.read(binary)
        record.teacher = "someone/original"
        write_record(binary, record)
        jobs.pack_checkpoint(binary, tmp_path / "packed")
        return tmp_path / "packed"

    return make


@pytest.mark.parametrize(
    ("head", "sentence", "task"),
    [
        ("Model", False, "feature-extraction"),
        ("Model", True, "sentence-similarity"),
        ("ForTokenClassification", False, "token-classification"),
    ],
)
def test_the_card_is_read_by_the_hub_and_its_snippet_runs(
    make_packed, head, sentence, task, monkeypatch
):
    if sentence:
        pytest.importorskip("sentence_transformers")
    packed = make_packed(head, sentence)
    card = ModelCard.load(packed / "README.md")
    assert card.data.license == "mit"
    assert card.data.language == "de"
    assert card.data.base_model == "someone/original"
    assert card.data.pipeline_tag == task
    assert "bipft-compress" in card.data.tags
    for words in ("fewer operations", "## Memory by kind", "https://huggingface.co/someone/"):
        assert words in card.text
    (code,) = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    monkeypatch.chdir(packed.parent)
    exec(code, {})


def test_an_original_that_is_not_on_the_hub_has_no_link(make_packed, tmp_path):
    make_packed("Model")
    record = Record.read(tmp_path / "binary")
    record.teacher = str(tmp_path / "original")
    write_record(tmp_path / "binary", record)
    jobs.pack_checkpoint(tmp_path / "binary", tmp_path / "other")
    card = ModelCard.load(tmp_path / "other/README.md")
    assert card.data.base_model is None
    assert "huggingface.co" not in card.text
