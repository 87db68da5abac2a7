"""Which device the fitting and the training run on."""

from __future__ import annotations

import torch
from accelerate import PartialState

from bipft_compress.errors import UserError
from bipft_compress.processes import check_data_parallel

AUTO = "auto"
DEVICES = (AUTO, "cpu", "cuda", "mps")


def choose_device(name: str = AUTO) -> torch.device:
    """The device of a name; for ``auto`` a GPU where there is one.

    Raises:
        UserError: there is no such device, here or at all.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": _has_mps()}
    if name == AUTO:
        name = next(device for device in ("cuda", "mps", "cpu") if there[device])
    if name not in there:
        raise UserError(f"--device {name} is not known: choose one of {', '.join(DEVICES)}.")
    if not there[name]:
        raise UserError(
            f"--device {name} was asked for, but this installation of torch finds none: use "
            "--device auto."
        )
    return torch.device(name)


def join_processes(device: torch.device) -> PartialState:
    """What this process is among those of its run, connected with them, each on a GPU of its own.

    Args:
        device: see `choose_device`.

    Raises:
        UserError: see `check_data_parallel`.
    """
    check_data_parallel()
    return PartialState(cpu=device.type == "cpu")


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
