"""transformers' Trainer with a distillation loss, safe checkpoints and batches of one length."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.data_loader import prepare_data_loader
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from typing_extensions import override

from bipft_compress.checkpoint.record import WEIGHTS
from bipft_compress.errors import TrainingError
from bipft_compress.files import read_json, sha256, storage_faults, write_atomically
from bipft_compress.fitting.rates import latent_weights, relative_rates
from bipft_compress.loading import load_state, state_to_save
from bipft_compress.nn import BinaryLinear
from bipft_compress.text.batches import LengthBatchSampler
from bipft_compress.training.distillation import Distillation

COMPLETE = "complete"
"""Written last into a training checkpoint: the checksum of each of its files. Without it the
checkpoint was cut short."""


def last_checkpoint(directory: Path) -> Path | None:
    """The newest complete training checkpoint below `directory`; incomplete ones are removed."""
    complete = []
    for path in directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if (path / COMPLETE).is_file():
            complete.append(path)
        else:
            # Of several processes each may be at it.
            shutil.rmtree(path, ignore_errors=True)
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def check_complete(checkpoint: Path, processes: PartialState) -> None:
    """Refuse a training checkpoint that cannot be gone on from to the same bits.

    transformers would begin anew whatever is missing: optimizer, scheduler, random numbers.

    Raises:
        TrainingError: a file is missing or changed.
    """
    listed = read_json(checkpoint / COMPLETE)
    needed = {WEIGHTS, OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME}
    writers = sum(name.startswith("rng_state") for name in listed)
    # Another number of processes goes on with random numbers of its own: only dropout draws any.
    if writers in (0, processes.num_processes):
        several = processes.num_processes > 1
        needed.add(f"rng_state_{processes.process_index}.pth" if several else "rng_state.pth")
    for name in sorted(needed | listed.keys()):
        path = checkpoint / name
        if not path.is_file() or name not in listed:
            fault = "is missing"
        elif sha256(path) != listed[name]:
            fault = "was changed or truncated"
        else:
            continue
        raise TrainingError(
            f"{path} {fault}, so training cannot go on from there: remove {checkpoint} to resume "
            "from the checkpoint before it, or start again with --overwrite."
        )


class _Terms(nn.Module):
    """From a batch to the terms of its loss: what DistributedDataParallel is given to wrap.

    It looks for parameters without a gradient from what `forward` returns. From the terms it finds
    them all; from the student's outputs it would wait for the gradient of a pooler that no term
    reads.

    Args:
        distillation: the loss; its teacher is no part of this module.
    """

    def __init__(self, distillation: Distillation) -> None:
        super().__init__()
        self.student = distillation.student
        self._distillation = distillation

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._distillation(self.student, batch)


class DistillationTrainer(Trainer):
    """Trains a binary model on a `Distillation`.

    Args:
        distillation: the loss; its student is the model that is trained.
        relative: learning rates are relative to the size of each tensor: see `relative_rates`.
        **kwargs: as for ``transformers.Trainer``, without ``model``.
    """

    def __init__(
        self, distillation: Distillation, *, relative: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(model=distillation.student, **kwargs)
        self._relative = relative
        self.distillation = distillation
        teacher: nn.Module | None = distillation.teacher
        if teacher is not None:
            teacher.to(self.args.device)
        # The loss is a mean over the batch: Trainer itself divides by accumulation steps.
        self.model_accepts_loss_kwargs = False
        self._terms: dict[str, list[Tensor]] = defaultdict(list)

    @override
    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        terms = model(inputs)
        loss = self.distillation.total(terms)
        if not torch.isfinite(loss):
            raise TrainingError(self._not_a_number(terms))
        for name, term in terms.items():
            self._terms[name].append(term.detach())
        return loss

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> Any:
        if model is self.model:
            return self.accelerator.prepare_model(_Terms(self.distillation))
        return model

    @property
    def _directory(self) -> Path:
        assert self.args.output_dir is not None
        return Path(self.args.output_dir)

    def _not_a_number(self, terms: dict[str, Tensor]) -> str:
        bad = ", ".join(name for name, term in terms.items() if not torch.isfinite(term))
        good = last_checkpoint(self._directory)
        kept = f"the last good checkpoint is {good}" if good else "no checkpoint was written yet"
        return (
            f"The loss ({bad}) is not a finite number after step {self.state.global_step}; {kept}. "
            "Lower training.learning_rate in the recipe and start again with --overwrite."
        )

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            for name, values in self._terms.items():
                logs[name] = round(float(torch.stack(values).mean()), 6)
            self._terms.clear()
        super().log(logs, start_time)

    @override
    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is not None or not self._relative:
            return super().create_optimizer(model)
        student = self.distillation.student
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, student)
        decayed = set(map(id, latent_weights(student)))
        groups = relative_rates(student, self.args.learning_rate)
        for group in groups:
            is_latent = id(group["params"][0]) in decayed
            group["weight_decay"] = self.args.weight_decay if is_latent else 0.0
        self.optimizer = kind(groups, **options)
        return self.optimizer

    @override
    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        # Scales, shifts and estimators are fitted numbers, not weights to be kept small.
        binary = [
            f"{name}.weight"
            for name, part in model.named_modules()
            if isinstance(part, BinaryLinear)
        ]
        return binary or super().get_decay_parameter_names(model)

    @override
    def get_train_dataloader(self) -> DataLoader[Any]:
        args = self.args
        assert self.train_dataset is not None
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset,
            batch_size=args.train_batch_size,
            sampler=self._get_train_sampler(),
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            drop_last=args.dataloader_drop_last,
            prefetch_factor=args.dataloader_prefetch_factor,
            persistent_workers=args.dataloader_persistent_workers,
        )
        # accelerate deals nothing out: every process sees whole batches and keeps its `Share`.
        prepared: DataLoader[Any] = prepare_data_loader(
            loader, args.device, num_processes=1, process_index=0, put_on_device=True
        )
        return prepared

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        args = self.args
        return LengthBatchSampler(
            dataset["length"],
            args.train_batch_size * args.gradient_accumulation_steps,
            seed=args.seed if args.data_seed is None else args.data_seed,
        )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        directory = Path(output_dir) if output_dir else self._directory
        with storage_faults(directory):
            directory.mkdir(parents=True, exist_ok=True)
            state = state_to_save(self.distillation.student)
            save_file(state, directory / WEIGHTS, metadata={"format": "pt"})

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        directory = self._directory
        with storage_faults(directory):
            super()._save_checkpoint(model, trial)
        # Every process writes its own random state there.
        PartialState().wait_for_everyone()
        if self.args.should_save:
            newest = directory / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            checksums = {path.name: sha256(path) for path in newest.iterdir() if path.is_file()}
            write_atomically(newest / COMPLETE, json.dumps(checksums, indent=2))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        load_state(self.distillation.student, Path(resume_from_checkpoint) / WEIGHTS)
