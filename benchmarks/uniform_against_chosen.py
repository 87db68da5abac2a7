"""Bits and ranks chosen by module, beside the same everywhere, at equal operations and memory.

    python benchmarks/uniform_against_chosen.py CHECKPOINT --calibration TEXT [--tokens 8192]

Both start from closed forms on the same text, without gradient descent or training. Prints a table
in Markdown: error is the squared error of the last hidden states over the original's variance,
likeness the mean cosine of sentence embeddings with the original's.
"""

from __future__ import annotations

import argparse

from bipft_compress import Recipe, loading
from bipft_compress.allocation import Allocation, Allocator, Targets
from bipft_compress.cli import set_up
from bipft_compress.fitting.compress import compress_on
from bipft_compress.jobs.keep import COMPARED_SENTENCES, first_sentences
from bipft_compress.reporting.layout import Row, Table
from bipft_compress.reporting.markdown import markdown_table
from bipft_compress.tasks.sts import likeness

UNIFORM = ((2, 2, 2, 2), (2, 4, 2, 4), (3, 4, 3, 4))
"""Bits of weights, activations and word embeddings, and rank of every linear layer."""

HAIR = 1 - 1e-6
"""Of a ratio that was reached: rounding must not refuse it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--calibration", default="builtin")
    parser.add_argument("--tokens", type=int, default=8192)
    arguments = parser.parse_args()
    set_up(quiet=True)
    model, tokenizer = loading.load_pretrained(arguments.checkpoint)
    recipe = (
        Recipe.load("default")
        .with_words_as_coded()
        .changed(
            initialisation={"calibration_tokens": arguments.tokens, "layer_epochs": 0},
            readout={"tokens": arguments.tokens, "steps": 0},
        )
    )
    allocator = Allocator(model, tokenizer, recipe, arguments.calibration)
    sentences = first_sentences(arguments.calibration, COMPARED_SENTENCES)

    def row(name: str, allocation: Allocation) -> tuple[float, Row]:
        student = compress_on(model, allocation.recipe, allocator.text)
        error = student.layer_errors[-1]
        cosine = likeness(student.model, model, tokenizer, sentences).cosine
        ranks = [part.rank for part in allocation.rows if part.kind == "linear"]
        return error, (
            name, f"{allocation.operations:.2f}", f"{allocation.memory:.2f}",
            f"{min(ranks)} to {max(ranks)}", f"{error:.4f}", f"{cosine:.4f}",
        )  # fmt: skip

    rows: list[Row] = []
    for weights, activations, words, rank in UNIFORM:
        same = allocator.uniform(weights, activations, words, rank)
        chosen = allocator.allocate(Targets(same.operations * HAIR, same.memory * HAIR))
        name = f"W{weights}A{activations}, words of {words}, rank {rank}"
        of_same, of_chosen = row(name, same), row("chosen by module", chosen)
        less = f"{100 * (1 - of_chosen[0] / of_same[0]):.0f} %"
        rows += [(*of_same[1], ""), (*of_chosen[1], less)]
    header = ("", "fewer operations", "smaller", "ranks", "error", "likeness", "less error")
    print(markdown_table(Table(header, "lrrrrrr", rows)))


if __name__ == "__main__":
    main()
