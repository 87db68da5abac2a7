"""The compiled kernels, where they were built for this machine."""

from __future__ import annotations

import functools
import importlib
import logging
import os
from types import ModuleType

import torch

from bipft_compress.errors import UserError

logger = logging.getLogger("bipft_compress")

PATH_VARIABLE = "BIPFT_COMPRESS_PATH"
"""Environment variable that forces a path: amx, avx512, avx2, neon, portable or
reference."""

REFERENCE = "reference"
"""The path without compiled kernels: readable torch."""


@functools.cache
def _module() -> ModuleType | None:
    try:
        return importlib.import_module("bipft_compress.runtime._native")
    except ImportError as error:
        logger.warning(
            "The 1-bit kernels are not there (%s): packed models run on a slow reference in "
            "torch. Install again with a C++17 compiler to build them.",
            error,
        )
        return None


def paths() -> list[str]:
    """The paths that this machine can run, fastest first; the reference is always one."""
    module = _module()
    return [*(module.supported_paths() if module else []), REFERENCE]


def chosen_path() -> str:
    """The fastest path, or the one that the environment variable `PATH_VARIABLE` names.

    Raises:
        UserError: the variable names a path that this machine does not have.
    """
    known = paths()
    name = os.environ.get(PATH_VARIABLE) or known[0]
    if name not in known:
        raise UserError(
            f"{PATH_VARIABLE}={name} is no path of this machine: choose one of {', '.join(known)}."
        )
    return name


def register_rate(path: str, threads: int = 1) -> float:
    """What no product of a path exceeds here, in 10^9 binary multiply-accumulates a second.

    One short run of the path's own instructions on registers, which wait for no memory; on a
    shared machine take the median of several.

    Args:
        path: of `paths`, but not the reference.
        threads: that run them at once.
    """
    rate: float = kernels().register_rate(path, threads)
    return rate


def _run_on_one_thread() -> None:
    """In a forked child, before it runs anything: OpenMP, which torch and the kernels run on, would
    wait for ever for the threads of the parent."""
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_run_on_one_thread)


def kernels() -> ModuleType:
    """The compiled module; only for paths other than the reference."""
    module = _module()
    assert module is not None
    return module
