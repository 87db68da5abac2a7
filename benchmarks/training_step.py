"""One optimiser step of binary pretraining beside a plain distillation step, in one process.

    python benchmarks/training_step.py [--checkpoint DIR] [--batch 64 --length 26 --rounds 7]

Both run the same teacher and the same loss; the plain student is the full-precision model, in
bfloat16 and in float32. The rounds alternate, so that a machine whose speed drifts is fair to all.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from bipft_compress import Recipe
from bipft_compress.demo import bundled_model
from bipft_compress.families import describe
from bipft_compress.loading import load_pretrained
from bipft_compress.provenance import machine
from bipft_compress.structure.swap import swap
from bipft_compress.training.distillation import Distillation


def step_of(
    student: nn.Module, teacher: nn.Module, recipe: Recipe, batch: dict, autocast: bool
) -> Callable[[], float]:
    """A function that takes one optimiser step and returns its seconds."""
    distillation = Distillation(student, teacher, describe(student), recipe.objective)
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-6, fused=True)

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = distillation.total(distillation(student, batch))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return time.perf_counter() - start

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default=None, help="hub name or directory")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=26)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    recipe = Recipe.load(arguments.recipe)
    teacher, _ = load_pretrained(arguments.checkpoint or bundled_model())
    shape = arguments.batch, arguments.length
    ids = torch.randint(1000, teacher.config.vocab_size, shape)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    binary = copy.deepcopy(teacher)
    encoder, _ = swap(binary, recipe)
    students = {
        "plain, bfloat16": (copy.deepcopy(teacher), True),
        "plain, float32": (copy.deepcopy(teacher), False),
        "binary": (binary, False),
    }
    for student, _ in students.values():
        for path in (encoder.word_embeddings, *encoder.embeddings_kept):
            student.get_submodule(path).requires_grad_(False)
    steps = {
        name: step_of(student, teacher, recipe, batch, autocast)
        for name, (student, autocast) in students.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            seconds[name].append(step())

    table = Table(title=f"One step, {shape[0]} sequences of {shape[1]} tokens; {machine()}")
    for heading in ("student", "median s", "min", "max", "tokens/s", "binary / this"):
        table.add_column(heading, justify="left" if heading == "student" else "right")
    for name, values in seconds.items():
        ratios = [ours / theirs for ours, theirs in zip(seconds["binary"], values, strict=True)]
        median = statistics.median(values)
        table.add_row(
            name, f"{median:.3f}", f"{min(values):.3f}", f"{max(values):.3f}",
            f"{ids.numel() / median:,.0f}", f"{statistics.median(ratios):.2f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
