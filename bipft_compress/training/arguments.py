"""How a training runs: transformers' own arguments, from a recipe and a device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments

from bipft_compress.device import AUTO, choose_device
from bipft_compress.errors import RecipeError, UserError
from bipft_compress.processes import check_data_parallel
from bipft_compress.training.trackers import check_trackers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def training_arguments(
    chosen: Mapping[str, Any], directory: Path, steps: int | None, device: str = AUTO
) -> TrainingArguments:
    """A recipe's ``training:`` section as transformers' own arguments.

    Args:
        chosen: the section. Its ``per_device_train_batch_size`` is the batch of all processes
            together, which they share.
        directory: for training checkpoints.
        steps: optimiser steps, instead of the section's.
        device: see `choose_device`.

    Raises:
        RecipeError: an argument that `TrainingArguments` does not know, or refuses; or a batch that
            the processes cannot share.
        UserError: there is no such device; a tracker is not installed; one process sees several
            GPUs; or several processes cannot run so: see `check_data_parallel`.
    """
    check_data_parallel()
    check_trackers(chosen)
    values: dict[str, Any] = {
        "report_to": "none",
        "save_total_limit": 2,
        "include_num_input_tokens_seen": "non_padding",
        "optim": "adamw_torch_fused",
        "dataloader_pin_memory": torch.cuda.is_available(),
        **chosen,
        "output_dir": str(directory),
        # Columns are ours (see the collators), not the forward method's arguments.
        "remove_unused_columns": False,
        # A NaN is a fault to stop at, not one to smooth over in the log.
        "logging_nan_inf_filter": False,
    }
    if steps is not None:
        values["max_steps"] = steps
    if choose_device(device).type == "cpu":
        values["use_cpu"] = True
    try:
        arguments = TrainingArguments(**values)
    except (TypeError, ValueError) as error:
        reason = str(error).replace("TrainingArguments.__init__() ", "")
        raise RecipeError(f"The recipe's training section is not valid: {reason}.") from None
    if arguments.n_gpu > 1:
        raise UserError(
            f"One process sees {arguments.n_gpu} GPUs, and a model is not split over them: start "
            f"one process a GPU with `accelerate launch --num_processes {arguments.n_gpu} -m "
            "bipft_compress ...`, or show it one with CUDA_VISIBLE_DEVICES=0."
        )
    batch, processes = arguments.per_device_train_batch_size, arguments.world_size
    if batch % processes:
        raise RecipeError(
            f"training.per_device_train_batch_size = {batch} is the batch of all processes, and "
            f"{processes} cannot share it evenly: set it to a multiple of {processes}."
        )
    return arguments


def without_dropout(model: PreTrainedModel) -> None:
    """Distillation compares exact outputs, and binarization is noise enough."""
    for module in model.modules():
        if type(module).__name__ == "Dropout":
            module.p = 0.0  # type: ignore[assignment]
