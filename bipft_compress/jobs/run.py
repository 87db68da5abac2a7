"""All jobs in order, resumable."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from bipft_compress.checkpoint.record import RECORD, Record
from bipft_compress.device import AUTO
from bipft_compress.errors import UserError
from bipft_compress.files import check_output
from bipft_compress.jobs.compress import compress_checkpoint
from bipft_compress.jobs.evaluate import evaluate_sts
from bipft_compress.jobs.pack import pack_checkpoint
from bipft_compress.jobs.pretrain import pretrain
from bipft_compress.jobs.report import report_checkpoint
from bipft_compress.recipe import Recipe
from bipft_compress.reporting import Report
from bipft_compress.training.workspace import unfinished


def run(
    source: str | Path,
    recipe: Recipe,
    corpus: str | Path,
    out: str | Path,
    *,
    data: str | Path | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str = AUTO,
    console: Console | None = None,
) -> Report:
    """All jobs in order: ``compressed``, ``pretrained``, ``packed`` and ``report`` below `out`.

    Whatever is complete is kept, so that running it again goes on where it stopped.

    Raises:
        UserError: an input is at fault, or `out` holds another run.
    """
    root = Path(out)
    compressed, pretrained, report = (root / n for n in ("compressed", "pretrained", "report"))
    if not (compressed / RECORD).is_file():
        check_output(root, overwrite=False)
        compress_checkpoint(
            source, recipe, compressed,
            calibration=corpus, seed=seed, device=device, console=console,
        )  # fmt: skip
    elif Record.read(compressed).recipe != recipe:
        raise UserError(f"{root} holds a run of another recipe: choose another --out.")
    if not (pretrained / RECORD).is_file():
        resume = unfinished(pretrained)
        pretrain(
            compressed, corpus, pretrained,
            steps=steps, resume=resume, device=device, console=console,
        )  # fmt: skip
    if data is not None:
        evaluate_sts(pretrained, data, device=device)
    pack_checkpoint(pretrained, root / "packed", overwrite=True)
    return report_checkpoint(pretrained, report, overwrite=True)
