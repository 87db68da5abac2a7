"""The command that fine-tunes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from bipft_compress.cli.options import (
    CheckpointArgument,
    DataOption,
    DeviceOption,
    LabelColumnOption,
    OutOption,
    OverwriteOption,
    PairColumnOption,
    QuietOption,
    RegressionOption,
    TaskOption,
    TextColumnOption,
    known,
)
from bipft_compress.cli.shell import app, console, say, set_up
from bipft_compress.errors import UserError, printable

if TYPE_CHECKING:
    from bipft_compress.tasks.chosen import ChosenTask


@app.command()
def finetune(
    checkpoint: CheckpointArgument,
    task: TaskOption,
    data: DataOption,
    out: OutOption,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint fine-tuned on the task, to distil from.",
            metavar="CHECKPOINT",
            callback=known,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Recipe for the finetuning section; the checkpoint's own if left out."),
    ] = None,
    text_column: TextColumnOption = None,
    pair_column: PairColumnOption = None,
    label_column: LabelColumnOption = None,
    regression: RegressionOption = False,
    lora: Annotated[
        int | None,
        typer.Option(
            help="Train adapters of this rank over the frozen model; the result is PEFT's.", min=1
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint for --out.")
    ] = False,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fine-tune a checkpoint, binary or full-precision, on a labelled task.

    Fine-tune the full-precision original first: it is the --teacher a binary one learns most from.

    Example: `bipft-compress finetune bert-binary --task sst2 --data hub --teacher bert-sst2
    --out bert-binary-sst2`
    """
    from bipft_compress.jobs.finetune import finetune as job
    from bipft_compress.recipe import Recipe

    shown = set_up(quiet)
    result = job(
        checkpoint,
        chosen_task(task, data, text_column, pair_column, label_column, regression),
        out,
        teacher=teacher,
        recipe=Recipe.load(recipe) if recipe else None,
        steps=steps, seed=seed, rank=lora, resume=resume, device=device, overwrite=overwrite,
        console=shown,
    )  # fmt: skip
    before = result.teacher_metrics
    table = Table("Measure", *(["teacher"] if before else []), printable(out.name))
    for name, value in result.metrics.items():
        figures = [before[name], value] if before else [value]
        table.add_row(name, *(f"{figure:.4f}" for figure in figures))
    console.print(table)
    say(f"Trained parameters: {result.trained_parameters:,}")
    if result.adapter_bytes is not None:
        say(f"Adapter: {result.adapter_bytes / 1e6:.2f} MB")
    say(f"Fine-tuned checkpoint: {out}")


def chosen_task(
    task: str,
    data: str,
    text_column: str | None,
    pair_column: str | None,
    label_column: str | None,
    regression: bool,
) -> ChosenTask:
    """The task that a command's options name.

    Raises:
        UserError: see `ChosenTask`.
    """
    from bipft_compress.tasks.chosen import ChosenTask
    from bipft_compress.tasks.labelled import Columns

    columns = None
    if text_column is not None and label_column is not None:
        columns = Columns(text_column, pair_column, label_column)
    elif text_column or pair_column or label_column:
        raise UserError("--text-column and --label-column go together.")
    return ChosenTask(task, data, columns, regression)
