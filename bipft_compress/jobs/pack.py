"""From a binary checkpoint to the packed artefact that runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bipft_compress import checkpoint
from bipft_compress.checkpoint.artefact import write_artefact
from bipft_compress.checkpoint.record import WEIGHTS
from bipft_compress.families import describe
from bipft_compress.files import atomic_directory, claim_output, write_atomically
from bipft_compress.jobs.original import published_name
from bipft_compress.jobs.report import write_checkpoint_report
from bipft_compress.loading.card import CARD
from bipft_compress.provenance import provenance
from bipft_compress.reporting.card import render_card
from bipft_compress.sources import is_path, split_revision


@dataclass(frozen=True)
class PackedSize:
    """Bytes of a model's weights in full precision, and of the packed files with their headers.

    The modules of sentence-transformers, such as a dense layer, count on both sides.
    """

    full_precision_bytes: int
    packed_bytes: int

    @property
    def ratio(self) -> float:
        return self.full_precision_bytes / self.packed_bytes


def pack_checkpoint(
    directory: str | Path, out: str | Path, *, overwrite: bool = False
) -> PackedSize:
    """Pack a binary checkpoint to bits, its report and model card beside it, in a new directory.

    Args:
        directory: of the checkpoint, or its hub name, also as ``name@revision``.
        out: the new directory.
        overwrite: replace what is in `out`.

    Raises:
        UserError: the checkpoint or the output directory is at fault.
    """
    with claim_output(out, overwrite, [directory]) as target:
        model, tokenizer, record = checkpoint.load_trainable(directory)
        record.provenance = provenance(record.provenance, "pack")
        # Whoever fetches the artefact has no such directory.
        record.teacher = published_name(record.teacher)
        with atomic_directory(target, overwrite) as work:
            write_artefact(work, model, describe(model), tokenizer, record)
            report = write_checkpoint_report(work, work)
            card = render_card(
                report,
                target.name,
                # What is left a path is not on the hub.
                base_model=None if is_path(record.teacher) else split_revision(record.teacher),
                original=record.card,
                pooled=record.pipeline is not None and record.pipeline.modules != (),
            )
            write_atomically(work / CARD, card)
            packed = sum(file.stat().st_size for file in work.rglob(WEIGHTS))
    return PackedSize(report.memory.full_precision_bytes, packed)
