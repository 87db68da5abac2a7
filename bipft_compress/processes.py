"""Which of several processes this is: asked of the environment, before torch is imported.

accelerate's own state chooses a device when it is first asked, which is too early for a lock or a
message.
"""

from __future__ import annotations

import os

from bipft_compress.errors import UserError

_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Set by torchrun and accelerate, or by an implementation of MPI."""


def _first(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), default)


def is_main_process() -> bool:
    """Whether this process is the one that writes: the only one, or the first of several."""
    return _first(_RANKS, 0) == 0


def process_count() -> int:
    """Processes of this run."""
    return _first(_SIZES, 1)


def check_alone(command: str) -> None:
    """Refuse a command that several processes would only repeat.

    Raises:
        UserError: it was started in several processes.
    """
    if process_count() > 1:
        raise UserError(
            f"{command} runs in one process: start it without accelerate launch or torchrun "
            "(compress, pretrain and finetune run in several)."
        )


def check_data_parallel() -> None:
    """Refuse ways of running in several processes that split the model itself.

    Raises:
        UserError: accelerate was asked for FSDP, DeepSpeed or Megatron-LM; or its launcher for
            several processes on the CPU, of which it starts one.
    """
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("true", "1"):
            raise UserError(
                f"{name} splits the weights, but signs, scales and learning rates here are taken "
                "from whole tensors: choose data parallelism (MULTI_GPU, --multi_gpu) in "
                "`accelerate config`."
            )
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1")
    # The launcher sets an address where it was asked for several, and a rank where it starts them.
    if on_cpu and "MASTER_ADDR" in os.environ and not any(name in os.environ for name in _RANKS):
        raise UserError(
            "accelerate launch --cpu starts one process, however many it is asked for: use "
            "`torchrun --nproc-per-node N -m bipft_compress ...`."
        )
