"""The jobs of the command line, from directory to directory; each usable from Python too."""

from bipft_compress.jobs.benchmark import benchmark_artefact
from bipft_compress.jobs.compress import compress_checkpoint
from bipft_compress.jobs.dry_run import DryRun, dry_run
from bipft_compress.jobs.evaluate import evaluate_embeddings, evaluate_sts, evaluate_task
from bipft_compress.jobs.finetune import Finetuned, finetune
from bipft_compress.jobs.pack import PackedSize, pack_checkpoint
from bipft_compress.jobs.pretrain import pretrain
from bipft_compress.jobs.report import report_checkpoint, report_config
from bipft_compress.jobs.run import run

__all__ = [
    "DryRun",
    "Finetuned",
    "PackedSize",
    "benchmark_artefact",
    "compress_checkpoint",
    "dry_run",
    "evaluate_embeddings",
    "evaluate_sts",
    "evaluate_task",
    "finetune",
    "pack_checkpoint",
    "pretrain",
    "report_checkpoint",
    "report_config",
    "run",
]
