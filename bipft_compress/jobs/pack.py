"""From a binary checkpoint to the packed artefact that runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bipft_compress import checkpoint
from bipft_compress.checkpoint.artefact import write_artefact
from bipft_compress.checkpoint.record import WEIGHTS
from bipft_compress.families import describe
from bipft_compress.files import atomic_directory, claim_output
from bipft_compress.jobs.original import published_name
from bipft_compress.jobs.report import write_checkpoint_report
from bipft_compress.provenance import provenance


@dataclass(frozen=True)
class PackedSize:
    """Bytes of a model's weights in full precision, and of the packed file with its header."""

    full_precision_bytes: int
    packed_bytes: int

    @property
    def ratio(self) -> float:
        return self.full_precision_bytes / self.packed_bytes


def pack_checkpoint(
    directory: str | Path, out: str | Path, *, overwrite: bool = False
) -> PackedSize:
    """Pack a binary checkpoint to bits, its report beside it, in a new directory.

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
            packed = (work / WEIGHTS).stat().st_size
    return PackedSize(report.memory.full_precision_bytes, packed)
