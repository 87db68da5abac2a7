"""A linear probe: separable classes are told apart, and tables are found in pairs."""

from __future__ import annotations

import numpy as np
import pytest

from bipft_compress.errors import CorpusError
from bipft_compress.tasks.probe import ProbeTask

TRAIN = "text,category\n" + "red 1,warm\nred 2,warm\nblue 1,cold\nblue 2,cold\n"
TEST = "text,category\nred 3,warm\nblue 3,cold\nblue 4,cold\nred 4,cold\n"


def embed(texts):
    """The class by the direction alone; lengths say nothing."""
    signs = np.array([1.0 if "red" in text else -1.0 for text in texts])
    lengths = np.array([float(text[-1]) for text in texts])
    return (np.stack([np.ones(len(texts)), signs], 1) * lengths[:, None]).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "colours-train.csv").write_text(TRAIN)
    (tmp_path / "colours-test.csv").write_text(TEST)
    return tmp_path


def test_accuracy_is_of_the_test_table(folder):
    # One of four labels contradicts the training table.
    assert ProbeTask(folder).measure(embed) == {"colours_probe_accuracy": 0.75}
    pair = f"{folder / 'colours-train.csv'}, {folder / 'colours-test.csv'}"
    assert ProbeTask(pair).measure(embed) == {"colours_probe_accuracy": 0.75}


def test_lengths_of_embeddings_do_not_count(folder):
    task = ProbeTask(folder)
    ((train, test),) = task.sets.values()
    vectors = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    table = dict(zip(train.texts + test.texts, vectors, strict=True))

    def scaled(texts, scale):
        return np.stack([table[text] * scale for text in texts])

    small, large = (task.measure(lambda texts, s=scale: scaled(texts, s)) for scale in (1e-3, 1e3))
    assert small == large


def test_pairs_in_a_directory(folder):
    for name in ("train.tsv", "test.tsv", "alone-train.csv"):
        content = (TRAIN if "train" in name else TEST).replace(",", "\t")
        (folder / name).write_text(content)
    assert list(ProbeTask(folder).sets) == ["colours", folder.name]


def test_columns_by_name(folder):
    for path in folder.iterdir():
        path.write_text(path.read_text().replace("text,category", "question,answer"))
    task = ProbeTask(folder, "question", "answer")
    assert task.measure(embed) == {"colours_probe_accuracy": 0.75}
    with pytest.raises(CorpusError, match="no column 'text'"):
        ProbeTask(folder)


def test_faults(folder):
    with pytest.raises(CorpusError, match="neither a directory nor two tables"):
        ProbeTask(folder / "colours-train.csv")
    (folder / "colours-train.csv").write_text("text,category\na,warm\nb,warm\n")
    with pytest.raises(CorpusError, match="has one class only"):
        ProbeTask(folder)
    (folder / "colours-test.csv").unlink()
    with pytest.raises(CorpusError, match="holds no two tables"):
        ProbeTask(folder)
