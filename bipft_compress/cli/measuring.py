"""Commands that measure and show: evaluate, benchmark, report, recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from bipft_compress.cli.finetuning import chosen_task
from bipft_compress.cli.options import (
    DeviceOption,
    EvaluationDataOption,
    JsonOption,
    LabelColumnOption,
    OutOption,
    OverwriteOption,
    PairColumnOption,
    RankOption,
    RegressionOption,
    RunnableArgument,
    TeacherOption,
    TextColumnOption,
    known,
)
from bipft_compress.cli.shell import app, console, set_up
from bipft_compress.errors import UserError


@app.command()
def evaluate(
    directory: RunnableArgument,
    data: EvaluationDataOption,
    task: Annotated[
        str,
        typer.Option(
            help="sts (sentence similarity), retrieval, classification (a linear probe on frozen "
            "embeddings), or a task of finetune."
        ),
    ] = "sts",
    teacher: TeacherOption = None,
    text_column: TextColumnOption = None,
    pair_column: PairColumnOption = None,
    label_column: LabelColumnOption = None,
    regression: RegressionOption = False,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Measure a checkpoint on a task, and keep the figures for the report.

    What is measured on embeddings (sts, retrieval, classification) stands beside the original's;
    the tasks of `finetune` take any checkpoint with a head for them, binary, packed or
    full-precision, and an adapter.

    Examples: `bipft-compress evaluate bert-binary --task sts --data STS-B/dev.tsv`,
    `bipft-compress evaluate bert-binary --task retrieval --data BEIR/scifact` or
    `bipft-compress evaluate bert-sst2 --task sst2 --data GLUE`
    """
    from bipft_compress import jobs
    from bipft_compress.tasks.embedding_tasks import EMBEDDING_TASKS, STS, read_embedding_task

    set_up(to_stderr=as_json)
    if task == STS and "," not in data and not Path(data).is_dir():
        figures = jobs.evaluate_sts(directory, data, teacher=teacher, device=device)
        if as_json:
            print(json.dumps(figures))
        else:
            _show_similarity(figures)
        return
    if task in EMBEDDING_TASKS:
        if pair_column or regression:
            raise UserError(f"--text-pair-column and --regression do not go with --task {task}.")
        embedding_task = read_embedding_task(task, data, text=text_column, label=label_column)
        quality = jobs.evaluate_embeddings(
            directory, embedding_task, teacher=teacher, device=device
        )
        columns = {"original": "full_precision", "binary": "compressed"}
    else:
        chosen = chosen_task(task, data, text_column, pair_column, label_column, regression)
        quality = jobs.evaluate_task(directory, chosen, teacher=teacher, device=device)
        columns = {"teacher": "full_precision"} if teacher else {}
        columns[Path(directory).name] = "compressed"
    if as_json:
        print(json.dumps(quality))
        return
    table = Table("Measure", *(Column(heading, justify="right") for heading in columns))
    for name, values in quality.items():
        table.add_row(name, *(f"{values[key]:.4f}" for key in columns.values()))
    console.print(table)


def _show_similarity(figures: dict[str, Any]) -> None:
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
def benchmark(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A packed artefact, from pack.")],
    batch: Annotated[int, typer.Option(help="Sequences at a time.", min=1)] = 1,
    sequence_length: Annotated[int, typer.Option(help="Tokens a sequence.", min=1)] = 128,
    threads: Annotated[int, typer.Option(help="Threads of every system.", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="Passes of each system, in turn.", min=1)] = 20,
    teacher: TeacherOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory for the report, if not in DIR.", metavar="DIR"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a packed model on this machine beside what is installed, and add it to its report.

    Peers: PyTorch, also in int8, ONNX Runtime, also in int8, OpenVINO. The last three come with
    `pip install 'bipft-compress[benchmark]'`.

    Example: `bipft-compress benchmark bert-packed --sequence-length 128 --threads 1`
    """
    from bipft_compress import jobs
    from bipft_compress.benchmarking.run import Setting
    from bipft_compress.benchmarking.show import show

    set_up(to_stderr=as_json)
    measured = jobs.benchmark_artefact(
        directory, out, Setting(batch, sequence_length, threads, rounds), teacher
    )
    if as_json:
        print(measured.model_dump_json())
        return
    show(measured, console)
    console.print(f"Report: {((out or directory) / 'report.html').resolve()}", soft_wrap=True)


@app.command()
def report(
    out: OutOption,
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="[CHECKPOINT]",
            help="A binary checkpoint, packed or not; or one in full precision, or its hub name: "
            "what would be saved?",
            callback=known,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A config.json instead: what would be saved?")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Of what is not binary yet: shipped name or YAML; default if left out."),
    ] = None,
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

    Examples: `bipft-compress report bert-binary --out bert-report` or, of what was not made yet,
    `bipft-compress report bert-base-uncased --recipe default --rank 0 --out what-if`
    """
    from bipft_compress import jobs
    from bipft_compress.checkpoint import local_directory
    from bipft_compress.checkpoint.record import is_binary
    from bipft_compress.recipe import Recipe
    from bipft_compress.reporting import render_table

    set_up(to_stderr=as_json)
    source = checkpoint or config
    if source is None or (checkpoint and config):
        raise UserError("Give a checkpoint, or with --config a config.json.")
    if is_binary(local_directory(source)):
        if rank is not None or recipe is not None:
            raise UserError(
                f"--rank and --recipe go with what is not binary yet: {source} has those it was "
                "made with."
            )
        written = jobs.report_checkpoint(
            source, out, batch=batch, sequence_length=sequence_length, overwrite=overwrite
        )
    else:
        written = jobs.report_config(
            source, Recipe.load(recipe or "default").with_rank(rank), out,
            batch=batch, sequence_length=sequence_length, overwrite=overwrite,
        )  # fmt: skip
    if as_json:
        print(written.model_dump_json())
        return
    console.print(render_table(written))
    console.print(f"Report: {(out / 'report.html').resolve()}", soft_wrap=True)


@app.command()
def families() -> None:
    """List the model types that can be made binary, and what sets their layers apart.

    Example: `bipft-compress families`
    """
    from bipft_compress.families.listing import list_families

    table = Table("Model type", "Layers, where not like BERT's", "In full precision")
    for family in list_families():
        table.add_row(family.model_type, family.block, family.note)
    console.print(table)
    console.print(
        "In all of them the linear layers and both products of attention are binary, and the word "
        "embeddings are coded. Norms, other embeddings and heads are kept."
    )


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
