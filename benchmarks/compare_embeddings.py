"""Sentence embeddings of a given size: the original, this package's artefacts, and static tables.

    python benchmarks/compare_embeddings.py PACKED ... --sts STS --development STS-B/dev.tsv
        --retrieval BEIR --classification TABLES --corpus TEXT --out reports/embeddings

Every row is measured on the same tasks: similarity (Spearman), retrieval (nDCG@10), and a linear
probe on frozen embeddings (accuracy). Bytes are those of the weights, without any tokenizer. What
is not installed is left out, and the table says so: ``pip install 'bipft-compress[benchmark]'``
for ONNX Runtime, ``pip install --no-deps wordllama==0.4.0.post1`` for WordLlama; model2vec gets an
environment of its own below --work. Table and figures are written after each row, and rows that are
in --out are not measured again: a run that is stopped goes on where it was, and several may run at
once if their ``--rows`` differ. ``--rows`` without a word writes the table of what is there.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from embeddings_table import read_rows, write_comparison
from static_tables import StaticTable, distilled, model2vec, wordllama
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bipft_compress import checkpoint, loading
from bipft_compress.benchmarking.peers import Original, muted, onnx_int8, onnx_session
from bipft_compress.checkpoint.record import WEIGHTS
from bipft_compress.cli import set_up
from bipft_compress.demo import bundled_model
from bipft_compress.errors import UserError, first_line
from bipft_compress.nn.pooling import mean_pool
from bipft_compress.provenance import git_commit, machine
from bipft_compress.tasks.embedding import Embed
from bipft_compress.tasks.embedding_tasks import MAX_LENGTH, embedder, read_embedding_task
from bipft_compress.text.corpus import read_documents
from bipft_compress.text.sequences import split_sentences

SEED = 0
BATCH = 32
BUNDLED = "all-MiniLM-L6-v2"
POOL = 200_000
"""Sentences of the corpus that the control's are drawn from."""


class System(NamedTuple):
    """What embeds texts."""

    size: int
    """Bytes of its weights."""
    embed: Embed
    note: str = ""


class Comparison:
    """The systems that are compared, each loaded when its turn comes.

    Args:
        source: the full-precision checkpoint.
        arguments: of the command line.
    """

    def __init__(self, source: Path, arguments: argparse.Namespace) -> None:
        self.source = source
        self.arguments = arguments
        self.model: PreTrainedModel
        self.tokenizer: PreTrainedTokenizerBase
        self.model, self.tokenizer = loading.load_pretrained(source)
        self.model.eval()
        self.budget = arguments.bytes or max(
            (_weight_bytes(path) for path in arguments.artefacts), default=0
        )
        if not self.budget:
            raise UserError("Give packed artefacts, or --bytes to cut the static tables to.")

    def systems(self) -> dict[str, Callable[[], System]]:
        """Name of each row to what loads the system."""
        name = self.arguments.checkpoint.resolve().name if self.arguments.checkpoint else BUNDLED
        loaders: dict[str, Callable[[], System]] = {
            f"{name}, full precision": self.original,
            f"{name}, ONNX Runtime int8": self.int8,
        }
        for path in self.arguments.artefacts:
            loaders[f"this package, {_artefact_name(path)}"] = partial(packed, path)
        tables = {
            "WordLlama": wordllama,
            f"model2vec from {name}": lambda: model2vec(self.source, self.arguments.work),
            "control (linear map of word embeddings)": self.control,
        }
        for table_name, read in tables.items():
            loaders |= self.static_systems(table_name, cache(read))
        return loaders

    def static_systems(
        self, name: str, read: Callable[[], StaticTable]
    ) -> dict[str, Callable[[], System]]:
        """A table whole, in as many bits a number as the budget allows, and as signs."""

        def whole() -> System:
            table = read()
            return System(table.size, table.embed, "fp16")

        def cut() -> System:
            table, bits = read().cut(self.budget)
            return System(table.size, table.embed, f"{bits} bits and a scale a row")

        def signs() -> System:
            table = read().quantized(1)
            return System(table.size, table.embed, "1 bit and a scale a row")

        return {f"{name}, whole": whole, f"{name}, cut to our bytes": cut, f"{name}, signs": signs}

    def original(self) -> System:
        size = sum(p.nbytes for p in self.model.parameters())
        return System(size, embedder(self.model, self.tokenizer))

    def int8(self) -> System:
        folder = self.arguments.work / "onnx"
        folder.mkdir(parents=True, exist_ok=True)
        ids = torch.randint(5, 1000, (3, 17), generator=torch.Generator().manual_seed(SEED))
        with muted():
            path = onnx_int8(
                Original(self.model, ids, torch.get_num_threads(), folder, any_shape=True)
            )
        return System(path.stat().st_size, self.onnx_embed(path))

    def onnx_embed(self, path: Path) -> Embed:
        """Mean-pooled hidden states of an exported model."""
        session = onnx_session(path, torch.get_num_threads())

        def embed(texts: Sequence[str]) -> np.ndarray:
            order = np.argsort([len(text) for text in texts], kind="stable")
            parts = []
            for chosen in np.split(order, range(BATCH, len(order), BATCH)):
                inputs = self.tokenizer(
                    [texts[i] for i in chosen],
                    padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt",
                )  # fmt: skip
                mask = inputs["attention_mask"]
                arrays = {"input_ids": inputs["input_ids"].numpy(), "attention_mask": mask.numpy()}
                hidden = torch.from_numpy(session.run(None, arrays)[0])
                parts.append(mean_pool(hidden, mask).numpy())
            return np.concatenate(parts)[np.argsort(order)]

        return embed

    def control(self) -> StaticTable:
        return distilled(self.model, self.tokenizer, self.sentences())

    def sentences(self) -> list[str]:
        """Drawn from the first `POOL` sentences of the corpus."""
        if self.arguments.corpus is None:
            raise UserError("The control needs --corpus.")
        pool = list(islice(_sentences(self.arguments.corpus), POOL))
        chosen = np.random.default_rng(SEED).permutation(len(pool))[: self.arguments.texts]
        return [pool[i] for i in chosen]


def packed(directory: Path) -> System:
    """An artefact of this package."""
    model, tokenizer, record = checkpoint.load(directory)
    tokens = record.training[-1]["tokens"] if record.training else 0
    commit = record.provenance.get("pack", {}).get("git_commit") or "unknown"
    note = f"trained on {tokens:,} tokens" if tokens else "not trained"
    note += f", packed at commit {commit[:7]}"
    return System(_weight_bytes(directory), embedder(model, tokenizer), note)


def _weight_bytes(directory: Path) -> int:
    return (directory / WEIGHTS).stat().st_size


def _artefact_name(directory: Path) -> str:
    path = directory.resolve()
    return path.parent.name if path.name == "packed" else path.name


def _sentences(corpus: str) -> Iterator[str]:
    for document in read_documents(corpus):
        yield from (text for text in split_sentences(document) if 3 <= len(text.split()) <= 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "artefacts", type=Path, nargs="*", help="packed artefacts of the checkpoint"
    )
    parser.add_argument("--checkpoint", type=Path, help="the original; else all-MiniLM-L6-v2")
    parser.add_argument("--sts", required=True, help="sets that the mean is of; see evaluate")
    parser.add_argument("--development", required=True, help="a set outside the mean")
    parser.add_argument("--retrieval", required=True, help="see evaluate")
    parser.add_argument("--classification", required=True, help="see evaluate")
    parser.add_argument("--corpus", help="text for the control")
    parser.add_argument("--texts", type=int, default=10_000, help="sentences for the control")
    parser.add_argument("--bytes", type=int, help="to cut tables to; else the largest artefact's")
    parser.add_argument("--rows", nargs="*", default=[""], help="words in the names of rows")
    parser.add_argument("--work", type=Path, default=Path("runs/embeddings"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    console = set_up()
    comparison = Comparison(arguments.checkpoint or bundled_model(), arguments)
    tasks = [
        read_embedding_task("sts", arguments.development),
        read_embedding_task("sts", arguments.sts),
        read_embedding_task("retrieval", arguments.retrieval),
        read_embedding_task("classification", arguments.classification),
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    provenance = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine(),
        "seed": SEED,
        "texts": arguments.texts,
    }
    systems = comparison.systems()
    missing: dict[str, str] = {}

    def write(measured: dict[str, dict[str, Any]]) -> None:
        rows = read_rows(arguments.out) | measured
        ordered = {name: rows[name] for name in systems if name in rows}
        write_comparison(ordered | rows, missing, provenance, arguments.out)

    for name, load in systems.items():
        if name in read_rows(arguments.out) or not any(word in name for word in arguments.rows):
            continue
        try:
            system = load()
        except (UserError, ImportError) as error:
            missing[name] = first_line(error)
            continue
        row = {"note": system.note, "bytes": system.size, "scores": {}, "commit": git_commit()}
        for task in tasks:
            row["scores"] |= task.measure(system.embed)
        console.print(name, row)
        write({name: row})
    for name in systems.keys() - read_rows(arguments.out).keys():
        missing.setdefault(name, "not run yet")
    write({})


if __name__ == "__main__":
    main()
