"""Tables of one's own: four formats, classes found in the data, and a part held out."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest

from bipft_compress.errors import CorpusError, UserError
from bipft_compress.tasks.chosen import ChosenTask
from bipft_compress.tasks.labelled import Columns, Examples, read_own

ROWS = [{"a": "ab, cd", "b": "x", "y": "good"}, {"a": "ef", "b": "z", "y": "bad"}]
COLUMNS = Columns("a", None, "y")


def write(path, rows=ROWS):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [rows[0].keys(), *(row.values() for row in rows)]
        quoted = [[f'"{cell}"' if mark in str(cell) else str(cell) for cell in x] for x in lines]
        path.write_text("\n".join(map(mark.join, quoted)))
    return path


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl", "parquet"])
def test_every_format_says_the_same(tmp_path, ending):
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.{ending}")
    task = read_own(tmp_path, COLUMNS)
    assert task.labels == ("bad", "good")
    assert task.train == task.dev[""] == Examples(["ab, cd", "ef"], None, [1, 0])
    assert read_own(tmp_path, Columns("a", "b", "y")).train.second == ["x", "z"]


def test_a_tenth_of_a_single_file_is_held_out(tmp_path):
    path = write(tmp_path / "a.csv", [{"a": f"t{i}", "y": i % 3} for i in range(25)])
    task = read_own(path, COLUMNS)
    assert (len(task.train), len(task.dev[""])) == (22, 3)
    assert {*task.train.first, *task.dev[""].first} == {f"t{i}" for i in range(25)}
    assert read_own(path, COLUMNS) == task
    whole = read_own(path, COLUMNS, labels=task.labels, training=False)
    assert whole.train is None
    assert len(whole.dev[""]) == 25


def test_regression(tmp_path):
    path = write(tmp_path / "a.csv", [{"a": "ab", "y": "1.5"}, {"a": "cd", "y": "-2"}])
    task = read_own(path, COLUMNS, regression=True, training=False)
    assert task.labels == ()
    assert task.dev[""].labels == [1.5, -2]
    assert task.metrics == ("pearson", "spearman")


@pytest.mark.parametrize(
    ("columns", "options", "says"),
    [
        (Columns("c", None, "y"), {}, "no column 'c' in row 1 .there is: a, b, y."),
        (Columns("a", "c", "y"), {}, "no column 'c'"),
        (Columns("a", None, "c"), {}, "no column 'c'"),
        (COLUMNS, {"regression": True}, "'good' is not a number"),
        (COLUMNS, {"labels": ["bad", "fine"]}, "label 'good' is none of bad, fine"),
    ],
)
def test_faults_of_a_table(tmp_path, columns, options, says):
    with pytest.raises(CorpusError, match=says):
        read_own(write(tmp_path / "a.csv"), columns, **options)


def test_faults_of_files(tmp_path):
    with pytest.raises(CorpusError, match="There is no file"):
        read_own(tmp_path / "none.csv", COLUMNS)
    with pytest.raises(CorpusError, match="has no train file"):
        read_own(tmp_path, COLUMNS)
    (tmp_path / "a.xls").write_text("a")
    with pytest.raises(CorpusError, match="is no table"):
        read_own(tmp_path / "a.xls", COLUMNS)
    (tmp_path / "a.jsonl").write_text("{")
    with pytest.raises(CorpusError, match="cannot be read as a table"):
        read_own(tmp_path / "a.jsonl", COLUMNS)
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(CorpusError, match="cannot be read as a table"):
        read_own(tmp_path / "a.parquet", COLUMNS)
    with pytest.raises(CorpusError, match="one class only"):
        read_own(write(tmp_path / "b.csv", ROWS[:1]), COLUMNS)


def test_faults_of_options(tmp_path):
    with pytest.raises(UserError, match="needs --text-column and --label-column"):
        ChosenTask("custom", tmp_path)
    with pytest.raises(UserError, match="sst2 has its own"):
        ChosenTask("sst2", tmp_path, COLUMNS)
