"""Arguments and options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bipft_compress.sources import check_source


def known(source: str | None) -> str | None:
    """Refuse a checkpoint that is not there before torch is imported, which takes seconds."""
    if source is not None:
        check_source(source)
    return source


CheckpointArgument = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="Hub name, also as name@revision, or local directory.",
        callback=known,
    ),
]
BinaryArgument = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A binary checkpoint, from compress or pretrain: directory or hub name.",
        callback=known,
    ),
]
RunnableArgument = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A binary checkpoint, or a packed one: directory or hub name.",
        callback=known,
    ),
]
RecipeOption = Annotated[str, typer.Option(help="Shipped name or YAML file.", metavar="RECIPE")]
OutOption = Annotated[Path, typer.Option(help="New directory for the result.", metavar="DIR")]
CorpusOption = Annotated[
    str,
    typer.Option(
        help="A .txt, .jsonl, .csv or .parquet file (or .txt.gz and so on), a directory of them, a "
        "hub data set as name:config:split, - for standard input, or 'builtin' (text that comes "
        'with Python). A column other than "text" follows a #: reviews.csv#review. Several with '
        "shares of the text: wiki.parquet@0.3,captions.txt@0.7.",
        metavar="TEXT",
    ),
]
RankOption = Annotated[
    int | None, typer.Option(help="Rank of every estimator, instead of the recipe's.", min=0)
]
TargetOperationsOption = Annotated[
    float | None,
    typer.Option(
        help="Choose the bits of every module for so many times fewer operations.", metavar="TIMES"
    ),
]
TargetMemoryOption = Annotated[
    float | None,
    typer.Option(
        help="Choose the bits of every module for a file so many times smaller.", metavar="TIMES"
    ),
]
TargetLatencyOption = Annotated[
    float | None,
    typer.Option(
        help="Choose the bits of every module so that the encoder's layers take no longer here, "
        "for 128 tokens.",
        metavar="MILLISECONDS",
    ),
]
KeepOption = Annotated[
    float | None,
    typer.Option(
        help="Choose the cheapest bits that keep this share of the original's quality: of its "
        "score on --data, or of the likeness of embeddings.",
        metavar="SHARE",
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Log lines only, no progress bar.")]
DeviceOption = Annotated[
    str, typer.Option(help="auto, cpu, cuda or mps; auto takes a GPU where there is one.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
TeacherOption = Annotated[
    str | None,
    typer.Option(
        help="The full-precision original, if not where it was.",
        metavar="CHECKPOINT",
        callback=known,
    ),
]
TaskOption = Annotated[
    str,
    typer.Option(
        help="GLUE's cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli; or custom, with the "
        "columns below."
    ),
]
DataOption = Annotated[
    str,
    typer.Option(
        help="Directory with train and dev files (GLUE's own, or custom's .tsv, .csv, .jsonl or "
        ".parquet), one such file, or 'hub' for GLUE.",
        metavar="DATA",
    ),
]
EvaluationDataOption = Annotated[
    str,
    typer.Option(
        help="sts: table of sentence1, sentence2 and score, or a directory of such tables; "
        "retrieval: directory in BEIR's layout, or of several; classification: train.csv,test.csv "
        "with the columns text and category (or --text-column and --label-column), or a directory "
        "of such pairs; other tasks: see finetune.",
        metavar="DATA",
    ),
]
TextColumnOption = Annotated[str | None, typer.Option(help="custom: column of the text.")]
PairColumnOption = Annotated[
    str | None, typer.Option("--text-pair-column", help="custom: column of a second text.")
]
LabelColumnOption = Annotated[str | None, typer.Option(help="custom: column of the label.")]
RegressionOption = Annotated[
    bool, typer.Option("--regression", help="custom: labels are numbers, not classes.")
]
