"""Measures a packed artefact beside its peers."""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bipft_compress import loading
from bipft_compress.benchmarking.peers import PYTORCH, Original, Ready, prepare, torch_call
from bipft_compress.benchmarking.profile import packed_shape, profile
from bipft_compress.benchmarking.resident import resident_bytes
from bipft_compress.benchmarking.timing import interleaved, ratio, torch_threads
from bipft_compress.checkpoint import load
from bipft_compress.checkpoint.mark import is_packed
from bipft_compress.checkpoint.record import WEIGHTS, Record
from bipft_compress.errors import CheckpointError, UserError
from bipft_compress.families import max_sequence_length
from bipft_compress.provenance import machine
from bipft_compress.reporting import Measured, MeasuredSystem
from bipft_compress.runtime.block import PackedBlock
from bipft_compress.runtime.native import chosen_path
from bipft_compress.sources import short_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OURS = "bipft-compress"


@dataclass(frozen=True)
class Setting:
    """What is run: sequences of random tokens, and on how many threads."""

    batch: int = 1
    sequence_length: int = 128
    threads: int = 1
    rounds: int = 20


class Bench:
    """A packed artefact and its original, to be measured in any number of settings.

    Args:
        directory: of the artefact.
        resident: also measure resident sizes, each in a process of its own.
        teacher: the original, if it is not where the record says; one that was packed from a
            directory says its name alone.

    Raises:
        CheckpointError: not a packed artefact, or damaged.
    """

    def __init__(
        self, directory: Path, *, resident: bool = True, teacher: str | None = None
    ) -> None:
        if not is_packed(directory):
            raise CheckpointError(
                f"{directory} is not packed: make what runs with `bipft-compress pack`."
            )
        self.directory = directory
        self.packed, _, record = load(directory)
        record.teacher = teacher or record.teacher
        self.packed_bytes = (directory / WEIGHTS).stat().st_size
        self.original, self.described, trained = _original(directory, record)
        self._loaders: dict[str, tuple[str, str]] = {}
        if resident:
            head = " with mlm head" if record.recipe.objective.fresh_mlm_head else ""
            original = (f"original{head}", record.teacher)
            self._loaders = {
                OURS: ("packed", str(directory)),
                PYTORCH: original if trained else ("untrained", str(directory)),
            }

    @cached_property
    def resident(self) -> dict[str, int | None]:
        """Resident bytes of the weights of some systems, by name."""
        return {name: resident_bytes(*loader) for name, loader in self._loaders.items()}

    def measure(self, setting: Setting) -> Measured:
        """One pass after the other, rounds of all systems interleaved; then a profile of ours.

        Raises:
            UserError: the model has no positions for that many tokens.
        """
        longest = max_sequence_length(self.original.config)
        if setting.sequence_length > longest:
            raise UserError(
                f"--sequence-length {setting.sequence_length} is more than the {longest} tokens "
                "that this model takes: use a shorter one."
            )
        ids = torch.randint(
            self.original.config.vocab_size,
            (setting.batch, setting.sequence_length),
            generator=torch.Generator().manual_seed(0),
        )
        with torch_threads(setting.threads), tempfile.TemporaryDirectory() as folder:
            original = Original(self.original, ids, setting.threads, Path(folder))
            own = Ready(torch_call(self.packed, ids, original.mask), self.packed_bytes)
            own.call()
            ready, missing = prepare(original)
            ready = {OURS: own, **ready}
            calls = {name: system.call for name, system in ready.items()}
            seconds = interleaved(calls, setting.rounds, setting.threads)
            computer = machine()
        measured = [
            MeasuredSystem(
                name=name,
                milliseconds=1e3 * statistics.median(seconds[name]),
                ratio=ratio(seconds[name], seconds[OURS]),
                file_bytes=system.file_bytes,
                resident_bytes=self.resident.get(name),
                note=system.note,
            )
            for name, system in ready.items()
        ]
        shape = packed_shape(self.directory, setting.batch, setting.sequence_length)
        absent = [MeasuredSystem(name=name, note=reason) for name, reason in missing.items()]
        return Measured(
            batch=setting.batch,
            sequence_length=setting.sequence_length,
            threads=setting.threads,
            rounds=setting.rounds,
            path=chosen_path(),
            blocks=dict(Counter(block.path for block in _blocks(self.packed))),
            machine=computer,
            torch_version=torch.__version__,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            original=self.described,
            systems=measured + absent,
            profile=profile(self.packed, shape, ids, setting.threads, setting.rounds),
        )


def _blocks(packed: PreTrainedModel) -> Iterator[PackedBlock]:
    return (module for module in packed.modules() if isinstance(module, PackedBlock))


def _original(directory: Path, record: Record) -> tuple[PreTrainedModel, str, bool]:
    """The original, or where it is gone a model of its shape; what it is; whether it is trained."""
    name = short_name(record.teacher)
    try:
        model, _ = loading.load_pretrained(
            record.teacher, mlm_head=record.recipe.objective.fresh_mlm_head
        )
        described, trained = f"{name}, with its own weights", True
    except CheckpointError:
        model = loading.model_from_config(loading.load_config(directory))
        described, trained = f"an untrained model of its shape, as {name} is not there", False
    if model._supports_sdpa:
        model.set_attn_implementation("sdpa")
    return model.eval(), described, trained
