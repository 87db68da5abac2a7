"""Commands that make models: compress, pretrain, pack, run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from bipft_compress.cli.options import (
    BinaryArgument,
    CheckpointArgument,
    CorpusOption,
    DeviceOption,
    JsonOption,
    KeepOption,
    OutOption,
    OverwriteOption,
    QuietOption,
    RankOption,
    RecipeOption,
    SeedOption,
    TargetLatencyOption,
    TargetMemoryOption,
    TargetOperationsOption,
    TeacherOption,
)
from bipft_compress.cli.shell import app, console, say, set_up

if TYPE_CHECKING:
    from bipft_compress.jobs import DryRun


@app.command()
def compress(
    checkpoint: CheckpointArgument,
    out: OutOption,
    recipe: RecipeOption = "default",
    calibration: CorpusOption = "builtin",
    target_operations: TargetOperationsOption = None,
    target_memory: TargetMemoryOption = None,
    target_latency_ms: TargetLatencyOption = None,
    keep: KeepOption = None,
    data: Annotated[
        Path | None,
        typer.Option(help="With --keep: sentence pairs, a table of sentence1, sentence2, score."),
    ] = None,
    rank: RankOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a checkpoint binary, its start fitted to the full-precision errors.

    Calibrate on text like that the model will see: a minute of it decides most of the quality.
    With a target, bits are chosen module by module, so that what fits into it keeps most; with
    --keep, the cheapest that keep enough.

    Example: `bipft-compress compress bert-base-uncased --recipe default --calibration wiki.txt
    --out bert-binary`
    """
    from bipft_compress import jobs
    from bipft_compress.allocation import Targets
    from bipft_compress.errors import UserError
    from bipft_compress.jobs.keep import Keep
    from bipft_compress.recipe import Recipe

    shown = set_up(quiet)
    chosen = Recipe.load(recipe).with_rank(rank)
    asked = (target_operations, target_memory, target_latency_ms)
    if rank is not None and (keep is not None or asked != (None, None, None)):
        raise UserError("--rank fixes what a target and --keep choose: leave one of them out.")
    if data is not None and keep is None:
        raise UserError("--data is what --keep is measured on: give --keep, or use evaluate.")
    targets = None if asked == (None, None, None) else Targets(*asked)
    record = jobs.compress_checkpoint(
        checkpoint, chosen, out, calibration=calibration, targets=targets,
        keep=None if keep is None else Keep(keep, data), seed=seed, device=device,
        overwrite=overwrite, console=shown,
    )  # fmt: skip
    console.print(_decisions_table(record.decisions))
    console.print(_errors_line(record.layer_errors))
    say(f"Binary checkpoint: {out}")


@app.command()
def explore(
    checkpoint: CheckpointArgument,
    out: OutOption,
    recipe: RecipeOption = "default",
    calibration: CorpusOption = "builtin",
    data: Annotated[
        Path | None,
        typer.Option(help="Sentence pairs to score each point on: sentence1, sentence2, score."),
    ] = None,
    beside: Annotated[
        Path | None,
        typer.Option(
            help="Figures of other systems to draw, of benchmarks/compare_embeddings.py; --data "
            "then has the name of one of its sets.",
            metavar="JSON",
        ),
    ] = None,
    budgets: Annotated[int, typer.Option(help="Points of the curve.", min=2)] = 8,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
) -> None:
    """Draw the curve of a checkpoint: what it keeps at each size, to pick a point by looking.

    Example: `bipft-compress explore bert-base-uncased --calibration wiki.txt --out curve`
    """
    from bipft_compress.jobs.explore import explore as job
    from bipft_compress.recipe import Recipe
    from bipft_compress.reporting.curve import curve_table

    set_up(True)
    curve = job(
        checkpoint, Recipe.load(recipe), out, calibration=calibration, data=data, beside=beside,
        budgets=budgets, seed=seed, device=device, overwrite=overwrite,
    )  # fmt: skip
    shown = curve_table(curve)
    table = Table(*(Column(name, justify="right") for name in shown.header))
    for row in shown.rows:
        table.add_row(*row)
    console.print(table)
    say(f"The curve: {(out / 'curve.html').resolve()}")


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
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check all up to the first step and count; write nothing."),
    ] = False,
    processes: Annotated[
        int | None, typer.Option(help="With --dry-run: count for so many processes.", min=1)
    ] = None,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Continue binary pretraining, distilling from the original.

    Killed at any moment and run again with --resume, it ends at the same weights.

    Example: `bipft-compress pretrain bert-binary --corpus wiki.txt --steps 2000 --out bert-better`
    """
    from bipft_compress import jobs
    from bipft_compress.errors import UserError
    from bipft_compress.jobs.pretrain import pretrain as job
    from bipft_compress.recipe import Recipe

    shown = set_up(quiet)
    chosen = Recipe.load(recipe) if recipe else None
    if processes is not None and not dry_run:
        raise UserError("--processes goes with --dry-run: start several with accelerate launch.")
    if dry_run:
        counted = jobs.dry_run(
            directory, corpus, out, recipe=chosen, teacher=teacher, steps=steps,
            processes=processes, device=device, overwrite=overwrite,
        )  # fmt: skip
        console.print(_dry_run_table(counted))
        return
    record = job(
        directory, corpus, out,
        recipe=chosen,
        teacher=teacher, steps=steps, resume=resume, device=device, overwrite=overwrite,
        console=shown,
    )  # fmt: skip
    if record.training:
        last = record.training[-1]
        console.print(f"Trained on {last['tokens']:,} tokens; loss {last['loss']:.4f}.")
    say(f"Binary checkpoint: {out}")


@app.command()
def pack(
    directory: BinaryArgument,
    out: OutOption,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Pack a binary checkpoint to bits: the artefact that runs, with checksums and its report.

    Example: `bipft-compress pack bert-binary --out bert-packed`
    """
    from bipft_compress import jobs

    set_up(to_stderr=as_json)
    sizes = jobs.pack_checkpoint(directory, out, overwrite=overwrite)
    if as_json:
        print(json.dumps(asdict(sizes) | {"ratio": sizes.ratio, "out": str(out)}))
        return
    table = Table("Weights", Column("Size", justify="right"))
    table.add_row("full precision", f"{sizes.full_precision_bytes / 1e6:.1f} MB")
    table.add_row("packed, the whole file", f"{sizes.packed_bytes / 1e6:.2f} MB")
    table.add_row("ratio", f"{sizes.ratio:.2f} times smaller")
    console.print(table)
    say(f"Packed artefact: {out.resolve()}")


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
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """All jobs in order, up to the packed artefact; run again, it goes on where it stopped.

    Example: `bipft-compress run bert-base-uncased --recipe default --corpus wiki.txt --out bert`
    """
    from bipft_compress import jobs
    from bipft_compress.recipe import Recipe
    from bipft_compress.reporting import render_table

    shown = set_up(quiet)
    chosen = Recipe.load(recipe).with_rank(rank)
    report = jobs.run(
        checkpoint, chosen, corpus, out,
        data=data, steps=steps, seed=seed, device=device, console=shown,
    )  # fmt: skip
    console.print(render_table(report))
    say(f"Binary checkpoint: {out / 'pretrained'}")
    say(f"Packed artefact: {out / 'packed'}")
    say(f"Report: {(out / 'report' / 'report.html').resolve()}")


def _dry_run_table(counted: DryRun) -> Table:
    table = Table("Pretraining", Column("", justify="right"))
    if counted.steps is not None:
        table.add_row("steps", f"{counted.steps:,}")
        table.add_row("tokens, about", f"{counted.tokens:,}")
    table.add_row("tokens of a step, about", f"{counted.tokens_per_step:,}")
    table.add_row("batch, sequences", f"{counted.batch:,}")
    table.add_row("processes", f"{counted.processes:,}")
    table.add_row("batch of a process", f"{counted.batch_per_process:,}")
    table.add_row(
        "memory of a process: weights and optimiser", f"{counted.state_bytes / 1e9:.2f} GB"
    )
    table.add_row("memory of a process: activations", f"{counted.activation_bytes / 1e9:.2f} GB")
    return table


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
