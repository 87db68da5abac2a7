"""Every recipe at the same budget: compressed, pretrained and fine-tuned alike, then measured.

    python benchmarks/compare_recipes.py --glue GLUE --corpus TEXT --out reports/comparison

Each recipe and seed is compressed and pretrained on the same number of tokens of the corpus, then
fine-tuned for the same number of steps on each task, with the same optimiser; the teacher is the
original, fine-tuned once on the same task, at least as long. Models are kept in --work, figures in
--out: a run that is stopped goes on where it was, also on another machine. Several may run at once
if their seeds or recipes differ, once the teachers are there (``--recipes`` with no name makes
them). Table and figure are written from all that is there.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cell import Cell, minutes
from compared import NAMES, UNTUNED, VARIANTS, Result, write_comparison
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bipft_compress import ChosenTask, Recipe, checkpoint, compress_checkpoint, finetune, loading
from bipft_compress.checkpoint.record import RECORD
from bipft_compress.cli import set_up
from bipft_compress.demo import bundled_model
from bipft_compress.jobs.pretrain import pretrain
from bipft_compress.reporting.build import report_from_config
from bipft_compress.tasks.sts import SentencePairs, spearman
from bipft_compress.training.workspace import unfinished

FULL = "full-precision"
RECIPES = ("default", "baseline", "bipft-b", "bit", "bibert", "bipft-a", "bit-multistep")
STEPS = {"sst2": 1200, "cola": 800, "rte": 40, "stsb": 100}
TEACHER_STEPS = {"sst2": 1200, "cola": 800, "rte": 160, "stsb": 400}
"""Of the original, which is there before there is anything to compare."""

TEACHER_SEED = 0

LENGTH = 128
"""Tokens of a sequence, for the operations."""


@dataclass(frozen=True)
class Budget:
    """What every recipe gets."""

    checkpoint: Path
    corpus: Path
    glue: Path
    tokens: int
    steps: dict[str, int]
    """Of fine-tuning, by task."""
    teacher_steps: dict[str, int]
    """Of fine-tuning the original, by task."""
    batch: int
    """Examples of a step of fine-tuning."""
    learning_rate: float
    """Of pretraining."""
    finetuning_rate: float
    """Learning rate of fine-tuning."""

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.steps)

    def steps_of(self, name: str) -> dict[str, int]:
        """Of a recipe's fine-tuning, or of the original's."""
        return self.teacher_steps if name == FULL else self.steps

    def measurement(self, name: str, task: str) -> str:
        """Name of a task's; more tasks or steps may be asked for later."""
        return f"{task}-{self.steps_of(name)[task]}-steps-of-{self.batch}"

    def describe(self) -> str:
        """For the table's heading."""
        steps, teachers = (
            ", ".join(f"{steps[task]} for {NAMES[task]}" for task in self.tasks)
            for steps in (self.steps, self.teacher_steps)
        )
        said = f"{self.tokens:,} tokens of pretraining at a learning rate of {self.learning_rate:g}"
        if self.steps:
            said += (
                f", then fine-tuning steps of {self.batch} examples at {self.finetuning_rate:g}: "
                f"{steps}. The teacher, full-precision, had {teachers}"
            )
        return f"{said}."

    def recipe(self, name: str, seed: int) -> Recipe:
        """A shipped recipe, or a variant of the default one, trained on this budget.

        What a paper's optimiser is tuned to are hundreds of thousands of steps: all share ours.
        """
        base, _, variant = name.partition(": ")
        values = Recipe.load(base).model_dump()
        for section, changes in VARIANTS.get(variant, {}).items():
            values[section] |= changes
        values["text"]["max_tokens"] = self.tokens
        training = {
            "num_train_epochs": 1, "max_steps": -1, "learning_rate": self.learning_rate,
            "warmup_steps": 0.1, "save_steps": 60, "seed": seed,
        }  # fmt: skip
        values["training"] |= training
        values["finetuning"] |= self.finetuning(values["finetuning"], seed)
        return Recipe.load(values)

    def finetuning(self, values: dict[str, Any], seed: int) -> dict[str, Any]:
        """A recipe's section of that name, on this budget."""
        training = values["training"] | {
            "per_device_train_batch_size": self.batch, "learning_rate": self.finetuning_rate,
            "save_steps": 0.5, "logging_steps": 0.1, "seed": seed,
        }  # fmt: skip
        return values | {"training": training, "full_precision_learning_rate": 1e-4}


@dataclass(frozen=True)
class Places:
    """Where everything is."""

    work: Path
    """Models."""
    out: Path
    """Figures, the table and its picture."""

    def cell(self, budget: Budget, name: str, seed: int) -> Cell:
        """Of a recipe and seed; the original's own does not depend on the pretraining."""
        words = f"{name.replace(': ', '--').replace(' ', '-')}-{seed}"
        if name != FULL:
            words = f"{budget.tokens}-tokens/{words}"
        return Cell(self.work / words, self.out / "scores" / f"{words}.json")


def run_cell(name: str, seed: int, budget: Budget, places: Places) -> Iterator[str]:
    """Do what is left of one recipe and seed, a step at a time; yields what was done."""
    cell = places.cell(budget, name, seed)
    known = cell.read()
    missing = [task for task in budget.tasks if budget.measurement(name, task) not in known]
    if name == FULL:
        if seed == TEACHER_SEED:
            if UNTUNED not in known:
                original = loading.load_pretrained(budget.checkpoint)
                yield _measure_untuned(*original, budget, cell)
            for task in missing:
                yield _teach(task, budget, places)
        return
    if UNTUNED in known and not missing:
        return
    recipe = budget.recipe(name, seed)
    start, trained = cell.models / "compressed", cell.models / "pretrained"
    if not (trained / RECORD).is_file():
        if not (start / RECORD).is_file():
            with cell.timed("compress"):
                compress_checkpoint(
                    budget.checkpoint, recipe, start, calibration=budget.corpus, seed=seed
                )
            yield "compressed"
        with cell.timed("pretrain"):
            pretrain(start, budget.corpus, trained, resume=unfinished(trained))
        yield "pretrained"
    if UNTUNED not in known:
        model, tokenizer, _ = checkpoint.load_trainable(trained)
        yield _measure_untuned(model, tokenizer, budget, cell)
    for task in missing:
        full = places.cell(budget, FULL, TEACHER_SEED).models
        teacher = full / budget.measurement(FULL, task)
        if not teacher.is_dir():  # its score may be known from another machine
            yield f"teacher, {_teach(task, budget, places)}"
        yield _tune(trained, name, task, seed, budget, cell, recipe, teacher)
    shutil.rmtree(start, ignore_errors=True)


def _teach(task: str, budget: Budget, places: Places) -> str:
    """Fine-tune the original: a row of the table, and the teacher of all others."""
    values = Recipe.load("default").model_dump()["finetuning"]
    plain = Recipe.load({"finetuning": budget.finetuning(values, TEACHER_SEED)})
    cell = places.cell(budget, FULL, TEACHER_SEED)
    return _tune(budget.checkpoint, FULL, task, TEACHER_SEED, budget, cell, plain)


def _measure_untuned(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, budget: Budget, cell: Cell
) -> str:
    pairs = SentencePairs.read(budget.glue / "STS-B" / "dev.tsv")
    score = spearman(model, tokenizer, pairs)
    cell.note(UNTUNED, {"score": score})
    return f"STS-B before fine-tuning {score:.3f}"


def _tune(
    directory: Path,
    name: str,
    task: str,
    seed: int,
    budget: Budget,
    cell: Cell,
    recipe: Recipe,
    teacher: Path | None = None,
) -> str:
    measurement = budget.measurement(name, task)
    out = cell.models / measurement
    resume = unfinished(out)
    with cell.timed(measurement):
        result = finetune(
            directory,
            ChosenTask(task, budget.glue),
            out,
            recipe=recipe,
            teacher=teacher,
            steps=budget.steps_of(name)[task],
            seed=seed,
            resume=resume,
            overwrite=not resume,
        )
    # GLUE's own rule: the mean, where a task has two metrics.
    score = sum(result.metrics.values()) / len(result.metrics)
    cell.note(measurement, {"score": score, **result.metrics})
    if teacher is not None:
        shutil.rmtree(out, ignore_errors=True)  # the score is what the table needs
    return f"{task} {score:.3f}"


def read_results(
    names: list[str], seeds: list[int], budget: Budget, places: Places
) -> list[Result]:
    """What is there of each recipe, its savings beside it."""
    config = loading.load_config(budget.checkpoint)
    results = []
    for name in names:
        measurements = {task: budget.measurement(name, task) for task in budget.tasks}
        cells = [places.cell(budget, name, seed) for seed in seeds]
        scores = {
            task: [found[key]["score"] for cell in cells if key in (found := cell.read())]
            for task, key in (measurements | {UNTUNED: UNTUNED}).items()
        }
        operations, memory, tokens = 1.0, 1.0, 0
        steps = list(measurements.values())
        if name != FULL:
            steps += ["compress", "pretrain"]
            tokens = budget.tokens
            recipe = budget.recipe(name, 0).last_stage()
            report = report_from_config(config, recipe, sequence_length=LENGTH)
            operations, memory = report.operations.ratio, report.memory.ratio
        results.append(Result(name, scores, operations, memory, tokens, minutes(cells, steps)))
    return results


def _read(steps: list[str]) -> dict[str, int]:
    """Task to steps, of ``task=steps``."""
    return {task: int(number) for task, _, number in (word.partition("=") for word in steps)}


def _written(steps: dict[str, int]) -> list[str]:
    return [f"{task}={number}" for task, number in steps.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--glue", type=Path, required=True, help="directory in GLUE's layout")
    parser.add_argument("--corpus", type=Path, required=True, help="text to pretrain on")
    parser.add_argument("--checkpoint", type=Path, default=None, help="default: all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, default=Path(".comparison"), help="for models")
    parser.add_argument("--out", type=Path, required=True, help="for figures")
    parser.add_argument("--tokens", type=int, default=150_000, help="of pretraining")
    parser.add_argument(
        "--steps", nargs="*", default=_written(STEPS), help="tasks and their steps of fine-tuning"
    )
    parser.add_argument(
        "--teacher-steps", nargs="*", default=_written(TEACHER_STEPS), help="of the original"
    )
    parser.add_argument("--batch", type=int, default=16, help="examples of such a step")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of pretraining")
    parser.add_argument("--finetuning-rate", type=float, default=5e-4, help="its learning rate")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES))
    parser.add_argument(
        "--variants", action="store_true", help="variants of default (the ablations) instead"
    )
    parser.add_argument("--table", action="store_true", help="only write what is there")
    arguments = parser.parse_args()
    set_up(quiet=True)
    budget = Budget(
        checkpoint=arguments.checkpoint or bundled_model(),
        corpus=arguments.corpus,
        glue=arguments.glue,
        tokens=arguments.tokens,
        steps=_read(arguments.steps),
        teacher_steps=_read(arguments.teacher_steps),
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        finetuning_rate=arguments.finetuning_rate,
    )
    names = list(arguments.recipes)
    if arguments.variants:
        names = ["default", *(f"default: {variant}" for variant in VARIANTS)]
    names = [FULL, *names]
    places = Places(arguments.work, arguments.out)
    console = Console()
    if not arguments.table:
        for seed in arguments.seeds:
            for name in names:
                for done in run_cell(name, seed, budget, places):
                    console.print(f"seed {seed}, {name}: {done}")
    results = read_results(names, arguments.seeds, budget, places)
    title = "ablations" if arguments.variants else "recipes"
    shown = write_comparison(results, budget.tasks, budget.describe(), arguments.out, title)
    console.print(shown, soft_wrap=True)


if __name__ == "__main__":
    main()
