"""Make BERT-family checkpoints binary.

Five jobs, each usable alone::

    compress(model, tokenizer, Recipe.load("default"), "text.txt")
    pretrain("binary-dir", "text.txt", "better-dir")
    finetune("better-dir", ChosenTask("sst2", "hub"), "task-dir")
    pack("better-dir", "packed-dir")
    report("binary-dir", "report-dir")
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from bipft_compress import plugin

if TYPE_CHECKING:
    from bipft_compress.allocation import Allocator, Targets
    from bipft_compress.checkpoint import load
    from bipft_compress.errors import UserError
    from bipft_compress.fitting.compress import Compressed, compress
    from bipft_compress.jobs import compress_checkpoint
    from bipft_compress.jobs import pack_checkpoint as pack
    from bipft_compress.jobs import report_checkpoint as report
    from bipft_compress.jobs.finetune import finetune
    from bipft_compress.jobs.pretrain import pretrain
    from bipft_compress.recipe import Recipe
    from bipft_compress.reporting import build_report
    from bipft_compress.tasks.chosen import ChosenTask
    from bipft_compress.training.pretraining import pretrain_model

__version__ = version("bipft-compress")

plugin.install()

_PUBLIC = {
    "Allocator": "bipft_compress.allocation:Allocator",
    "ChosenTask": "bipft_compress.tasks.chosen:ChosenTask",
    "Compressed": "bipft_compress.fitting.compress:Compressed",
    "Recipe": "bipft_compress.recipe:Recipe",
    "Targets": "bipft_compress.allocation:Targets",
    "UserError": "bipft_compress.errors:UserError",
    "build_report": "bipft_compress.reporting:build_report",
    "compress": "bipft_compress.fitting.compress:compress",
    "compress_checkpoint": "bipft_compress.jobs:compress_checkpoint",
    "finetune": "bipft_compress.jobs.finetune:finetune",
    "load": "bipft_compress.checkpoint:load",
    "pack": "bipft_compress.jobs:pack_checkpoint",
    "pretrain": "bipft_compress.jobs.pretrain:pretrain",
    "report": "bipft_compress.jobs:report_checkpoint",
    "pretrain_model": "bipft_compress.training.pretraining:pretrain_model",
}

__all__ = [
    "Allocator",
    "ChosenTask",
    "Compressed",
    "Recipe",
    "Targets",
    "UserError",
    "build_report",
    "compress",
    "compress_checkpoint",
    "finetune",
    "load",
    "pack",
    "pretrain",
    "pretrain_model",
    "report",
]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: `--help` should not wait for them.
    if name not in _PUBLIC:
        raise AttributeError(f"module 'bipft_compress' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value
