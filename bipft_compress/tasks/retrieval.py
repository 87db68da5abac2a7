"""Retrieval by the cosine of embeddings, on data sets in BEIR's layout (Thakur et al. 2021)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import ndcg_score

from bipft_compress.errors import CorpusError
from bipft_compress.tasks.embedding import Embed, unit_rows
from bipft_compress.tasks.tables import column, read_rows

CUTOFF = 10
"""Ranks that nDCG looks at."""

_QUERIES_AT_A_TIME = 64

_CORPUS = "corpus.jsonl"


@dataclass(frozen=True)
class RetrievalSet:
    """One data set.

    Attributes:
        name: of its directory.
        documents: title and text of each.
        queries: those for which some document is relevant.
        relevance: for each query, the index of each judged document to its degree.
    """

    name: str
    documents: list[str]
    queries: list[str]
    relevance: list[dict[int, float]]

    @classmethod
    def read(cls, directory: str | Path) -> RetrievalSet:
        """Read ``corpus.jsonl`` (_id, title, text), ``queries.jsonl`` (_id, text) and judgements.

        Args:
            directory: judgements (query-id, corpus-id, score) are in ``qrels/test.tsv``, in the
                only file of ``qrels/``, or in ``qrels.tsv``. A query without a judgement above 0
                is left out. A document and a query of the same id have nothing to do with each
                other (BEIR's own evaluation drops such a document from the ranking).

        Raises:
            CorpusError: a file is missing or malformed, or a judgement names what is not there.
        """
        root = Path(directory)
        rows = read_rows(root / _CORPUS)
        document_ids = _ids(root / _CORPUS, rows)
        texts = column(rows, "text", str(root / _CORPUS))
        # BEIR's own encoding of a document; titles are optional.
        documents = [
            f"{row.get('title') or ''} {text}".strip()
            for row, text in zip(rows, texts, strict=True)
        ]
        if len(documents) < 2:
            raise CorpusError(f"{root / _CORPUS} holds one document; at least 2 are needed.")
        query_rows = read_rows(root / "queries.jsonl")
        query_ids = _ids(root / "queries.jsonl", query_rows)
        query_texts = column(query_rows, "text", str(root / "queries.jsonl"))
        judged = _read_judgements(_judgement_file(root), query_ids, document_ids)
        kept = [query for query in sorted(judged) if max(judged[query].values()) > 0]
        if not kept:
            raise CorpusError(f"{root} judges no document relevant for any query.")
        return cls(
            root.resolve().name,
            documents,
            [query_texts[query] for query in kept],
            [judged[query] for query in kept],
        )


def _ids(path: Path, rows: list[dict[str, str]]) -> dict[str, int]:
    ids = [str(value) for value in column(rows, "_id", str(path))]
    return {name: index for index, name in enumerate(ids)}


def _judgement_file(root: Path) -> Path:
    folder = root / "qrels"
    if not folder.is_dir():
        return root / "qrels.tsv"
    splits = sorted(folder.glob("*.tsv"))
    if folder / "test.tsv" in splits:
        return folder / "test.tsv"
    if len(splits) != 1:
        raise CorpusError(
            f"{folder} has no test.tsv, and {len(splits)} other files: call the one to measure on "
            "test.tsv."
        )
    return splits[0]


def _read_judgements(
    path: Path, queries: dict[str, int], documents: dict[str, int]
) -> dict[int, dict[int, float]]:
    """Index of each query to the index of each judged document to its degree, 0 or more."""
    rows = read_rows(path)
    names = ("query-id", "corpus-id", "score")
    columns = [column(rows, name, str(path)) for name in names]
    judged: defaultdict[int, dict[int, float]] = defaultdict(dict)
    for row, (query, document, score) in enumerate(zip(*columns, strict=True), start=1):
        for name, known, kind in ((query, queries, "query"), (document, documents, "document")):
            if str(name) not in known:
                raise CorpusError(
                    f"{path}, row {row}: there is no {kind} {name!r}: complete the data set or "
                    "remove the row."
                )
        try:
            degree = float(score)
        except ValueError:
            raise CorpusError(
                f"{path}, row {row}: the score {score!r} is not a number: mend or remove the row."
            ) from None
        judged[queries[str(query)]][documents[str(document)]] = max(degree, 0.0)
    return dict(judged)


def ndcg(
    queries: np.ndarray,
    documents: np.ndarray,
    relevance: list[dict[int, float]],
    cutoff: int = CUTOFF,
) -> float:
    """Mean normalised discounted cumulative gain of ranking by cosine, in [0, 1].

    The gain is the degree of relevance itself, as in trec_eval; ties count as their mean.

    Args:
        queries: embeddings (queries, dimensions).
        documents: embeddings (documents, dimensions).
        relevance: see `RetrievalSet`.
        cutoff: ranks that count.
    """
    queries, documents = unit_rows(queries), unit_rows(documents)
    total = 0.0
    for start in range(0, len(queries), _QUERIES_AT_A_TIME):
        cosines = queries[start : start + _QUERIES_AT_A_TIME] @ documents.T
        degrees = np.zeros_like(cosines)
        for row, judged in enumerate(relevance[start : start + len(cosines)]):
            degrees[row, list(judged)] = list(judged.values())
        total += len(cosines) * ndcg_score(degrees, cosines, k=cutoff)
    return total / len(queries)


class RetrievalTask:
    """nDCG@10 on each of several data sets.

    Args:
        data: a directory in BEIR's layout, or one that holds several.

    Raises:
        CorpusError: see `RetrievalSet.read`, or no such data set is there.
    """

    def __init__(self, data: str | Path) -> None:
        root = Path(data)
        folders = [root]
        if not (root / _CORPUS).is_file():
            folders = sorted(path.parent for path in root.glob(f"*/{_CORPUS}"))
        if not folders:
            raise CorpusError(
                f"{root} is no data set in BEIR's layout: give a directory with {_CORPUS}, "
                "queries.jsonl and qrels/test.tsv."
            )
        self.sets = [RetrievalSet.read(folder) for folder in folders]

    def measure(self, embed: Embed) -> dict[str, float]:
        return {
            f"{one.name}_ndcg@{CUTOFF}": ndcg(
                embed(one.queries), embed(one.documents), one.relevance
            )
            for one in self.sets
        }
