"""GLUE's files as they are: quotes that are characters, no header in CoLA, two dev sets in MNLI."""

from __future__ import annotations

import os

import datasets
import pytest

from bipft_compress.errors import CorpusError, UserError
from bipft_compress.tasks.chosen import ChosenTask
from bipft_compress.tasks.glue import GLUE, read_glue
from bipft_compress.tasks.labelled import Examples


@pytest.fixture
def files(tmp_path):
    """`files(folder, split=lines, ...)`: a task's directory below GLUE's root."""

    def write(folder, **splits):
        (tmp_path / folder).mkdir(exist_ok=True)
        for split, lines in splits.items():
            text = "".join(f"{line}\n" for line in lines)
            (tmp_path / folder / f"{split}.tsv").write_text(text)
        return tmp_path / folder

    return write


def test_cola_has_no_header(files, tmp_path):
    rows = ["gj04\t1\t\tab cd.", "gj04\t0\t*\tcd ab."]
    files("CoLA", train=rows, dev=rows[1:])
    task = read_glue("cola", tmp_path)
    assert task.train == Examples(["ab cd.", "cd ab."], None, [1, 0])
    assert task.dev == {"": Examples(["cd ab."], None, [0])}
    assert task.metrics == ("matthews",)


def test_quotes_are_characters(files):
    header = "index\tgenre\tsentence1\tsentence2\tscore"
    rows = [header, '0\tx\t"ab\tcd\t2.5', '1\tx\tef\tgh"\t4']
    directory = files("STS-B", train=rows, dev=rows)
    assert read_glue("stsb", directory).train == Examples(['"ab', "ef"], ["cd", 'gh"'], [2.5, 4.0])
    header = "index\tsentence1\tsentence2\tlabel"
    rows = [header, '0\t"ab\tcd\tnot_entailment', '1\tef\tgh"\tentailment']
    directory = files("RTE", train=rows, dev=rows)
    assert read_glue("rte", directory).train == Examples(['"ab', "ef"], ["cd", 'gh"'], [1, 0])


def test_mrpc_and_a_byte_order_mark(files):
    rows = ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t7\t8\tab\tcd"]
    task = read_glue("mrpc", files("MRPC", train=rows, dev=rows))
    assert task.train == Examples(["ab"], ["cd"], [1])
    assert task.metrics == ("f1", "accuracy")


def test_mnli_has_two_dev_sets(files):
    rows = ["index\tsentence1\tsentence2\tlabel1\tgold_label", "0\tab\tcd\tneutral\tcontradiction"]
    other = [rows[0], "0\tef\tgh\tneutral\tentailment"]
    directory = files("MNLI", train=rows, dev_matched=rows, dev_mismatched=other)
    task = read_glue("mnli", directory)
    assert task.train.labels == [2]
    assert {name: part.labels for name, part in task.dev.items()} == {
        "matched": [2],
        "mismatched": [0],
    }


def test_lines_that_break_off_are_left_out(files):
    rows = ["id\tquestion1\tquestion2\tis_duplicate", "0\tab\tcd\t1", "1\tef"]
    assert len(read_glue("qqp", files("QQP", train=rows, dev=rows)).train) == 1


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["sentence\tlable", "ab\t1"], "has no column 'label' in row 1"),
        (["sentence\tlabel"], "holds no rows"),
        (["sentence\tlabel", "ab\t2"], "row 1: label '2' is none of 0, 1"),
    ],
)
def test_faults_of_a_file(files, lines, says):
    directory = files("SST-2", train=lines, dev=lines)
    with pytest.raises(CorpusError, match=says):
        read_glue("sst2", directory)


def test_what_is_missing(files, tmp_path):
    with pytest.raises(CorpusError, match="There is no directory"):
        read_glue("sst2", tmp_path / "none")
    directory = files("SST-2", train=["sentence\tlabel", "ab\t1"])
    with pytest.raises(CorpusError, match=r"There is no file .*dev\.tsv"):
        read_glue("sst2", directory)
    with pytest.raises(UserError, match="Unknown task 'sst3': choose one of cola"):
        ChosenTask("sst3", tmp_path)


@pytest.mark.parametrize("name", GLUE)
def test_the_hub_has_numbers_for_labels(name, monkeypatch):
    task = GLUE[name]
    columns = task.hub_columns or task.columns
    asked = []

    def load(path, config, split):
        asked.append((path, config, split))
        row = {columns.text: "ab", columns.label: 1 if task.labels else 2.5, "idx": 0}
        return [row if columns.pair is None else row | {columns.pair: "cd"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    read = read_glue(name, "hub")
    assert read.train.labels == ([1] if task.labels else [2.5])
    assert (read.train.second is None) == (columns.pair is None)
    assert asked[0] == ("nyu-mll/glue", name, "train")
    assert all(split.startswith("validation") for _, _, split in asked[1:])


def test_a_hub_that_does_not_answer(monkeypatch):
    def load(*_, **__):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(CorpusError, match=r"sst2 on the hub cannot be read \(offline\)"):
        read_glue("sst2", "hub")
    # A mistake in a program is not the hub's fault.
    monkeypatch.setattr(datasets, "load_dataset", lambda: None)
    with pytest.raises(TypeError, match="argument"):
        read_glue("sst2", "hub")


@pytest.mark.skipif("BIPFT_GLUE" not in os.environ, reason="BIPFT_GLUE: a directory of GLUE")
def test_the_real_files():
    root = os.environ["BIPFT_GLUE"]
    sizes = {"sst2": (67349, 872), "cola": (8551, 1043), "rte": (2490, 277), "stsb": (5749, 1500)}
    for name, (train, dev) in sizes.items():
        task = read_glue(name, root)
        assert (len(task.train), len(task.dev[""])) == (train, dev)
