"""The command line: parse, call, show."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from bipft_compress.errors import UserError

app = typer.Typer(
    name="bipft-compress",
    help="Make a BERT-family checkpoint binary, train it on against its original, and report "
    "what was saved.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console()
errors = Console(stderr=True)

CheckpointArgument = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="Hub name or local directory.")
]
BinaryArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="A binary checkpoint, from compress or pretrain.")
]
RecipeOption = Annotated[str, typer.Option(help="Shipped name or YAML file.", metavar="RECIPE")]
OutOption = Annotated[Path, typer.Option(help="New directory for the result.", metavar="DIR")]
CorpusOption = Annotated[
    str,
    typer.Option(
        help="A .txt, .jsonl or .parquet file, a directory of them, a hub data set name, or "
        "'builtin' (text that comes with Python).",
        metavar="TEXT",
    ),
]
RankOption = Annotated[
    int | None, typer.Option(help="Rank of every estimator, instead of the recipe's.", min=0)
]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Log lines only, no progress bar.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
TeacherOption = Annotated[
    str | None,
    typer.Option(help="The full-precision original, if not where it was.", metavar="CHECKPOINT"),
]


def set_up(quiet: bool = False, to_stderr: bool = False) -> Console:
    """Logging for one command; the console that its progress bar may use."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    shown = errors if to_stderr else console
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    if shown.is_terminal and not quiet:
        handler = RichHandler(console=shown, show_path=False, show_level=False)
    logger = logging.getLogger("bipft_compress")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return Console(quiet=True) if quiet else shown


@app.command()
def compress(
    checkpoint: CheckpointArgument,
    out: OutOption,
    recipe: RecipeOption = "default",
    calibration: CorpusOption = "builtin",
    rank: RankOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a checkpoint binary, its start fitted to the full-precision errors.

    Calibrate on text like that the model will see: a minute of it decides most of the quality.

    Example: `bipft-compress compress bert-base-uncased --recipe default --calibration wiki.txt
    --out bert-binary`
    """
    from bipft_compress import jobs
    from bipft_compress.recipe import Recipe

    shown = set_up(quiet)
    chosen = Recipe.load(recipe).with_rank(rank)
    record = jobs.compress_checkpoint(
        checkpoint, chosen, out, calibration=calibration, seed=seed, overwrite=overwrite,
        console=shown,
    )  # fmt: skip
    console.print(_decisions_table(record.decisions))
    console.print(_errors_line(record.layer_errors))
    console.print(f"Binary checkpoint: {out}", soft_wrap=True)


@app.command()
def pretrain(
    directory: BinaryArgument,
    corpus: CorpusOption,
    out: OutOption,
    recipe: Annotated[
        str | None,
        typer.Option(help="Recipe for text, objective and training; DIR's own if left out."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.", min=1)] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint for --out.")
    ] = False,
    teacher: TeacherOption = None,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Continue binary pretraining, distilling from the original.

    Killed at any moment and run again with --resume, it ends at the same weights.

    Example: `bipft-compress pretrain bert-binary --corpus wiki.txt --steps 2000 --out bert-better`
    """
    from bipft_compress.recipe import Recipe
    from bipft_compress.training.pretrain import pretrain as job

    shown = set_up(quiet)
    record = job(
        directory, corpus, out,
        recipe=Recipe.load(recipe) if recipe else None,
        teacher=teacher, steps=steps, resume=resume, overwrite=overwrite, console=shown,
    )  # fmt: skip
    if record.training:
        last = record.training[-1]
        console.print(f"Trained on {last['tokens']:,} tokens; loss {last['loss']:.4f}.")
    console.print(f"Binary checkpoint: {out}", soft_wrap=True)


@app.command()
def evaluate(
    directory: BinaryArgument,
    data: Annotated[
        Path, typer.Option(help="Pairs with sentence1, sentence2, score: .tsv, .csv, .parquet.")
    ],
    task: Annotated[str, typer.Option(help="sts: sentence similarity, Spearman.")] = "sts",
    teacher: TeacherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure sentence similarity beside the original's, and keep the figures for the report.

    Example: `bipft-compress evaluate bert-binary --task sts --data STS-B/dev.tsv`
    """
    from bipft_compress import jobs

    set_up(to_stderr=as_json)
    if task != "sts":
        raise UserError(f"Unknown task {task!r}: the only task is sts.")
    figures = jobs.evaluate_sts(directory, data, teacher=teacher)
    if as_json:
        print(json.dumps(figures))
        return
    table = Table(title=f"Sentence similarity, {figures['pairs']:,} pairs")
    table.add_column("Model")
    table.add_column("Spearman", justify="right")
    table.add_row("original, full precision", f"{figures['full_precision']:.4f}")
    table.add_row("binary", f"{figures['compressed']:.4f}")
    table.add_row("averaged word embeddings", f"{figures['embedding_floor']:.4f}")
    console.print(table)
    if figures["recovered"] is not None:
        console.print(
            f"The binary model recovers {figures['recovered']:.0%} of the distance from averaged "
            "word embeddings to the original."
        )
    console.print(
        f"Its sentence embeddings have a mean cosine of {figures['similarity_to_original']:.3f} "
        "with the original's."
    )


@app.command()
def report(
    out: OutOption,
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A binary checkpoint.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A config.json instead of DIR: what would be saved?")
    ] = None,
    recipe: Annotated[str, typer.Option(help="With --config: shipped name or YAML.")] = "default",
    rank: RankOption = None,
    batch: Annotated[int, typer.Option(help="Sequences at a time.", min=1)] = 1,
    sequence_length: Annotated[
        int | None,
        typer.Option(help="Tokens a sequence: 128, or as many as the model allows.", min=1),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the report of operations and memory saved, as JSON, Markdown and HTML.

    Examples: `bipft-compress report bert-binary --out bert-report` or, without weights,
    `bipft-compress report --config bert-base.json --recipe default --rank 0 --out what-if`
    """
    from bipft_compress import jobs
    from bipft_compress.recipe import Recipe
    from bipft_compress.reporting import render_table

    set_up(to_stderr=as_json)
    if (directory is None) == (config is None):
        raise UserError("Give either DIR or --config: the one has weights, the other does not.")
    if directory is not None:
        if rank is not None:
            raise UserError("--rank goes with --config: DIR has the ranks it was made with.")
        made = jobs.report_checkpoint(
            directory, out, batch=batch, sequence_length=sequence_length, overwrite=overwrite
        )
    else:
        assert config is not None
        made = jobs.report_config(
            config, Recipe.load(recipe).with_rank(rank), out,
            batch=batch, sequence_length=sequence_length, overwrite=overwrite,
        )  # fmt: skip
    if as_json:
        print(made.model_dump_json())
        return
    console.print(render_table(made))
    console.print(f"Report: {(out / 'report.html').resolve()}", soft_wrap=True)


@app.command()
def run(
    checkpoint: CheckpointArgument,
    corpus: CorpusOption,
    out: OutOption,
    recipe: RecipeOption = "default",
    data: Annotated[
        Path | None, typer.Option(help="Sentence pairs to evaluate on; see evaluate.")
    ] = None,
    rank: RankOption = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.", min=1)] = None,
    seed: SeedOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Compress, pretrain, evaluate and report, in order; run again, it goes on where it stopped.

    Example: `bipft-compress run bert-base-uncased --recipe default --corpus wiki.txt --out bert`
    """
    from bipft_compress import jobs
    from bipft_compress.recipe import Recipe
    from bipft_compress.reporting import render_table

    shown = set_up(quiet)
    chosen = Recipe.load(recipe).with_rank(rank)
    made = jobs.run(
        checkpoint, chosen, corpus, out, data=data, steps=steps, seed=seed, console=shown
    )
    console.print(render_table(made))
    console.print(f"Binary checkpoint: {out / 'pretrained'}", soft_wrap=True)
    console.print(f"Report: {(out / 'report' / 'report.html').resolve()}", soft_wrap=True)


@app.command()
def recipes() -> None:
    """List the shipped recipes.

    Example: `bipft-compress recipes`
    """
    from bipft_compress.recipe import Recipe, shipped_recipes

    table = Table(box=None, show_header=False)
    for name in shipped_recipes():
        table.add_row(name, Recipe.load(name).description)
    console.print(table)


def _decisions_table(decisions: list[Any]) -> Table:
    table = Table(title="What was swapped, what was left, and why")
    table.add_column("Kind")
    table.add_column("Modules", justify="right")
    table.add_column("Parameters", justify="right")
    table.add_column("Now")
    table.add_column("Why", overflow="fold")
    grouped: dict[tuple[str, str, str], list[int]] = {}
    for decision in decisions:
        key = (decision.kind, decision.action, decision.reason)
        grouped.setdefault(key, []).append(decision.parameters)
    for (kind, action, reason), sizes in grouped.items():
        table.add_row(kind, str(len(sizes)), f"{sum(sizes):,}", action, reason)
    return table


def _errors_line(layer_errors: list[float]) -> str:
    values = " ".join(f"{error:.2f}" for error in layer_errors)
    return f"Error of the hidden states by layer, before training (0 perfect, 1 mean): {values}"


def guard(command: Callable[[], object]) -> None:
    """Run a command; exit code 0, 2 for faults a user can mend, 1 for faults of this package."""
    try:
        command()
    except UserError as error:
        errors.print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        errors.print("Stopped. Training goes on with --resume.")
        sys.exit(130)
    except Exception as error:
        traceback.print_exc()
        errors.print(
            f"This is a fault of bipft-compress ({type(error).__name__}); please report the lines "
            "above.",
            markup=False,
            soft_wrap=True,
        )
        sys.exit(1)


def main() -> None:
    """Entry point of ``bipft-compress``."""
    guard(app)
