"""From a full-precision checkpoint to a binary one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bipft_compress import checkpoint, loading
from bipft_compress.allocation import Allocator, Targets, check_recipe
from bipft_compress.checkpoint.identity import checkpoint_identity
from bipft_compress.checkpoint.record import Record
from bipft_compress.device import AUTO, choose_device, join_processes
from bipft_compress.errors import UserError
from bipft_compress.families import describe
from bipft_compress.files import claim_together, content_digest, hidden_path
from bipft_compress.fitting.compress import Compressed, compress, compress_on
from bipft_compress.jobs.identity import corpus_identity
from bipft_compress.jobs.keep import Keep, Tries, compress_keeping
from bipft_compress.jobs.original import Original, read_original
from bipft_compress.processes import check_alone
from bipft_compress.provenance import provenance
from bipft_compress.recipe import Recipe
from bipft_compress.text.corpus import BUILTIN
from bipft_compress.training.progress import progress_bar

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger("bipft_compress")


def compress_checkpoint(
    source: str | Path,
    recipe: Recipe,
    out: str | Path,
    *,
    calibration: str | Path = BUILTIN,
    targets: Targets | None = None,
    keep: Keep | None = None,
    seed: int = 0,
    device: str = AUTO,
    overwrite: bool = False,
    console: Console | None = None,
) -> Record:
    """`compress` from a checkpoint to a new directory.

    With `targets`, the bits of every module and of the word embeddings are chosen to reach them,
    instead of the recipe's: see `Allocator`. With `keep`, they are the cheapest that keep enough:
    see `compress_keeping`; killed and run again, it goes on where it stopped. The record holds the
    recipe with what was chosen.

    Raises:
        UserError: the checkpoint, the recipe, the text or the output directory is at fault.
    """
    if keep is not None and targets is not None:
        raise UserError("Give a target or what to keep, not both: each chooses the bits.")
    if keep is not None or targets is not None:
        check_alone("The choice of bits")
        check_recipe(recipe)  # before a model is loaded
    with claim_together(out, overwrite, [source, calibration]) as target:
        chosen = choose_device(device)
        # Of several processes each gathers a share of the moments, and does the rest as the others.
        processes = join_processes(chosen)
        original = read_original(source, recipe, chosen)
        model, tokenizer, pipeline = original.model, original.tokenizer, original.pipeline
        recipe = original.recipe
        if calibration == BUILTIN:
            logger.info(
                "calibrating on text that comes with Python: give --calibration with text like "
                "yours for a better start"
            )
        tries: Tries | None = None
        quality: dict[str, dict[str, float | str]] = {}
        if keep is not None:
            identity = {
                "checkpoint": checkpoint_identity(source),
                "calibration": corpus_identity(calibration),
                "recipe": recipe.model_dump(mode="json"),
                "data": None if keep.data is None else content_digest(keep.data),
                "seed": seed,
            }
            tries = Tries(hidden_path(target, "tries"), identity)
            kept = compress_keeping(original, calibration, keep, tries, seed=seed)
            recipe, compressed, quality = kept.allocation.recipe, kept.compressed, kept.quality
        elif targets is not None:
            allocator, recipe = _choose_bits(original, calibration, targets)
            # The same text, read once.
            fit = partial(compress_on, model, recipe, allocator.text, seed=seed)
            compressed = _with_progress(fit, model, console)
        else:
            fit = partial(compress, model, tokenizer, recipe, calibration, seed=seed)
            compressed = _with_progress(fit, model, console)
        path = Path(source)
        record = Record(
            recipe=recipe,
            teacher=str(path.absolute()) if path.is_dir() else str(source),
            decisions=compressed.decisions,
            layer_errors=compressed.layer_errors,
            knowledge=compressed.knowledge,
            quality=quality,
            provenance=provenance({}, "compress", seed=seed, calibration=calibration),
            card=loading.read_card(source),
            pipeline=pipeline,
        )
        if processes.is_main_process:
            checkpoint.save(target, compressed.model, tokenizer, record, overwrite)
        processes.wait_for_everyone()
        if tries is not None:
            tries.discard()
    return record


def _choose_bits(
    original: Original, calibration: str | Path, targets: Targets
) -> tuple[Allocator, Recipe]:
    logger.info("measuring what the bits of each module are worth")
    allocator = original.allocator(calibration)
    allocation = allocator.allocate(targets)
    logger.info(
        "chose bits for %.1f times fewer operations and %.1f times less memory",
        allocation.operations,
        allocation.memory,
    )
    return allocator, allocation.recipe


def _with_progress(
    fit: Callable[..., Compressed], model: PreTrainedModel, console: Console | None
) -> Compressed:
    """Call `fit` with a progress bar, or a line for each layer where there is no terminal."""
    with progress_bar(console or Console(quiet=True), "layers") as bar:
        task = bar.add_task("fitting", total=len(describe(model).calls), note="")

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if bar.disable:
                logger.info("fitted layer %d of %d", done, total)

        return fit(progress=progress)
