"""Retrieval: BEIR's layout as it is found, and nDCG by hand."""

from __future__ import annotations

import json
from math import log2

import numpy as np
import pytest

from bipft_compress.errors import CorpusError
from bipft_compress.tasks.retrieval import RetrievalSet, RetrievalTask, ndcg

VECTORS = {
    "wings": [1, 0, 0],
    "title on wings": [0.9, 0.1, 0],
    "on heat": [0.1, 0.9, 0],
    "on noise": [0, 0.2, 0.9],
    "heat": [0, 1, 0],
}


def embed(texts):
    return np.array([VECTORS[text] for text in texts], dtype=np.float32)


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(tmp_path):
    """`title on wings` is found first for `wings`; for `heat` the relevant one is second."""
    root = tmp_path / "beir" / "tiny"
    (root / "qrels").mkdir(parents=True)
    (root / "corpus.jsonl").write_text(
        lines(
            {"_id": "1", "title": "title", "text": "on wings"},
            {"_id": "2", "title": "", "text": "on heat"},
            {"_id": "3", "text": "on noise"},
        )
    )
    (root / "queries.jsonl").write_text(
        lines(
            {"_id": "1", "text": "wings"}, {"_id": "h", "text": "heat"}, {"_id": "x", "text": "?"}
        )
    )
    (root / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n1\t1\t1\nh\t3\t2\nh\t2\t1\nx\t1\t0\n"
    )
    return root


def test_the_layout_is_read(data):
    read = RetrievalSet.read(data)
    assert read.name == "tiny"
    assert read.documents == ["title on wings", "on heat", "on noise"]
    # A query for which nothing is relevant is left out.
    assert read.queries == ["wings", "heat"]
    assert read.relevance == [{0: 1}, {2: 2, 1: 1}]


def test_the_score_is_the_mean_over_queries(data):
    # `heat` ranks degrees 1, 2, 0 where 2, 1, 0 is best; `wings` is perfect.
    heat = (1 + 2 / log2(3)) / (2 + 1 / log2(3))
    expected = {"tiny_ndcg@10": pytest.approx((1 + heat) / 2)}
    assert RetrievalTask(data).measure(embed) == expected
    # A directory of data sets is as good.
    assert RetrievalTask(data.parent).measure(embed) == expected


@pytest.mark.parametrize("place", ["qrels/dev.tsv", "qrels.tsv"])
def test_judgements_may_lie_elsewhere(data, place):
    content = (data / "qrels" / "test.tsv").read_text()
    (data / "qrels" / "test.tsv").unlink()
    if place == "qrels.tsv":
        (data / "qrels").rmdir()
    (data / place).write_text(content)
    assert len(RetrievalSet.read(data).queries) == 2


def test_ndcg_looks_at_the_first_ranks_and_at_directions_alone():
    generator = np.random.default_rng(0)
    queries, documents = generator.normal(size=(130, 4)), generator.normal(size=(30, 4))
    relevance = [{int(row): 1.0} for row in generator.integers(30, size=130)]
    gains = []
    for query, judged in zip(queries, relevance, strict=True):
        cosines = documents @ query / np.linalg.norm(documents, axis=1)
        rank = int((-cosines).argsort().tolist().index(next(iter(judged))))
        gains.append(1 / log2(rank + 2) if rank < 10 else 0)
    assert ndcg(queries, documents, relevance) == pytest.approx(np.mean(gains))
    scaled = documents * generator.uniform(0.1, 9, (30, 1))
    assert ndcg(queries, scaled, relevance) == pytest.approx(np.mean(gains))


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        (
            "qrels/test.tsv",
            "query-id\tcorpus-id\tscore\n1\t9\t1\n",
            "row 1: there is no document '9'",
        ),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n7\t1\t1\n", "row 1: there is no query '7'"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\t1\tx\n", "'x' is not a number"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\t1\t0\n", "no document relevant"),
        ("qrels/test.tsv", "1\t1\t1\n", "holds no rows"),
        ("qrels/train.tsv", "", None),
        ("corpus.jsonl", lines({"_id": "1", "text": "one"}), "holds one document"),
        ("corpus.jsonl", lines({"id": "1", "text": "one"}), "no column '_id'"),
        ("queries.jsonl", "{", "cannot be read"),
    ],
)
def test_faults(data, file, content, says):
    (data / file).write_text(content)
    if says is None:  # of several splits, the test split is measured
        assert len(RetrievalSet.read(data).queries) == 2
        return
    with pytest.raises(CorpusError, match=says):
        RetrievalTask(data)


def test_several_splits_without_a_test_split(data):
    (data / "qrels" / "test.tsv").rename(data / "qrels" / "a.tsv")
    (data / "qrels" / "b.tsv").write_text("")
    with pytest.raises(CorpusError, match=r"has no test\.tsv, and 2 other files"):
        RetrievalTask(data)


def test_a_directory_without_a_corpus(tmp_path):
    with pytest.raises(CorpusError, match="no data set in BEIR's layout"):
        RetrievalTask(tmp_path)
