"""All jobs in order, resumable."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from rich.console import Console

from bipft_compress.checkpoint.identity import checkpoint_identity
from bipft_compress.checkpoint.record import RECORD
from bipft_compress.device import AUTO
from bipft_compress.errors import UserError
from bipft_compress.files import (
    atomic_directory,
    check_output,
    claim_output,
    content_digest,
    differences,
    read_json,
    write_atomically,
)
from bipft_compress.jobs.compress import compress_checkpoint
from bipft_compress.jobs.evaluate import evaluate_sts
from bipft_compress.jobs.identity import corpus_identity
from bipft_compress.jobs.pack import pack_checkpoint
from bipft_compress.jobs.pretrain import pretrain
from bipft_compress.jobs.report import report_checkpoint
from bipft_compress.recipe import Recipe
from bipft_compress.reporting import Report
from bipft_compress.training.trackers import check_trackers
from bipft_compress.training.workspace import RUN, discard_unfinished, unfinished

logger = logging.getLogger("bipft_compress")


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

    Whatever is complete is kept, so that running it again goes on where it stopped. What went into
    the run is kept too, by content, in ``run.json``.

    Raises:
        UserError: an input is at fault, or `out` holds a run that something else went into.
    """
    check_trackers(recipe.training)  # before the work begins
    identity = {
        "checkpoint": checkpoint_identity(source),
        "corpus": corpus_identity(corpus),
        "recipe": recipe.model_dump(mode="json"),
        "steps": steps,
        "seed": seed,
        "data": None if data is None else content_digest(Path(data)),
    }
    with claim_output(out, True, [source, corpus, data]) as root:
        _begin(root, identity)
        compressed, pretrained, report = (
            root / name for name in ("compressed", "pretrained", "report")
        )
        if not (compressed / RECORD).is_file():
            logger.info("stage 1 of 4: compress")
            compress_checkpoint(
                source, recipe, compressed,
                calibration=corpus, seed=seed, device=device, console=console,
            )  # fmt: skip
        if not (pretrained / RECORD).is_file():
            logger.info("stage 2 of 4: pretrain")
            resume = unfinished(pretrained)
            pretrain(
                compressed, corpus, pretrained,
                steps=steps, resume=resume, device=device, console=console,
            )  # fmt: skip
        # Killed after its result was written and before this was removed.
        discard_unfinished(pretrained)
        if data is not None:
            evaluate_sts(pretrained, data, device=device)
        logger.info("stage 3 of 4: pack")
        pack_checkpoint(pretrained, root / "packed", overwrite=True)
        logger.info("stage 4 of 4: report")
        return report_checkpoint(pretrained, report, overwrite=True)


def _begin(root: Path, identity: dict[str, Any]) -> None:
    """Keep what goes into a new run; refuse one that is there and that something else went into."""
    file = root / RUN
    if file.is_file():
        other = differences(read_json(file), identity)
        if other:
            raise UserError(
                f"{root} holds a run with another {', '.join(other)}: choose another --out, or "
                "give what it began with."
            )
        return
    check_output(root, overwrite=False)
    with atomic_directory(root) as work:
        write_atomically(work / RUN, json.dumps(identity, indent=2))
