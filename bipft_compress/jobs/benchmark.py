"""A packed artefact measured beside its peers, and its report with the figures."""

from __future__ import annotations

from pathlib import Path

from bipft_compress.benchmarking.run import Bench, Setting
from bipft_compress.checkpoint.record import Record, write_record
from bipft_compress.jobs.report import report_checkpoint
from bipft_compress.provenance import provenance
from bipft_compress.reporting import Measured


def benchmark_artefact(
    directory: str | Path,
    out: str | Path | None = None,
    setting: Setting | None = None,
    teacher: str | None = None,
) -> Measured:
    """Measure a packed artefact beside the peers that are installed.

    The figures are kept in the artefact's record, and its report is written again.

    Args:
        directory: of the artefact.
        out: where the report goes; None for the artefact itself.
        setting: what is run; see `Setting`.
        teacher: the original, whose weights peers run; see `Bench`.

    Raises:
        UserError: the artefact or the setting is at fault.
    """
    root = Path(directory)
    measured = Bench(root, teacher=teacher).measure(setting or Setting())
    record = Record.read(root)
    record.measured = measured.model_dump(mode="json")
    record.provenance = provenance(record.provenance, "benchmark")
    write_record(root, record)
    report_checkpoint(root, out or root, overwrite=True)
    return measured
