"""Memory that a model's weights take in a process, measured in a fresh one for each."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

ROLLUP = Path("/proc/self/smaps_rollup")


def resident_bytes(loader: str, source: str | Path) -> int | None:
    """By how much loading a model grows a process that has all code loaded already.

    Args:
        loader: ``packed``, ``original``, ``original with mlm head`` or ``untrained``: see `_load`.
        source: the directory of an artefact or a checkpoint, or a hub name.

    Returns:
        Bytes in physical memory, shared or not, once every weight was read; None where the
        system does not tell.
    """
    if not ROLLUP.exists():
        return None
    result = subprocess.run(
        [sys.executable, "-m", __name__, loader, str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return int(result.stdout.split()[-1]) if result.returncode == 0 else None


def _load(loader: str, source: str) -> torch.nn.Module:
    """A packed artefact, a checkpoint, or the shape of an artefact with any weights."""
    from bipft_compress import checkpoint
    from bipft_compress.runtime.model import load

    if loader == "packed":
        return load(source)[0]
    if loader.startswith("original"):
        return checkpoint.load_pretrained(source, mlm_head="mlm" in loader)[0]
    return checkpoint.model_from_config(checkpoint.load_config(source))


def _code_of(loader: str, source: str) -> None:
    """Import what loading imports, without any weights."""
    from bipft_compress import checkpoint

    with torch.device("meta"):
        checkpoint.model_from_config(checkpoint.load_config(source))
    if loader != "untrained":
        checkpoint.load_tokenizer(source)


def _resident() -> int:
    gc.collect()
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # what was freed and not given back is no weight
    lines = ROLLUP.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:")) * 1024


def _main(loader: str, source: str) -> None:
    _code_of(loader, source)
    before = _resident()
    model = _load(loader, source)
    # A mapped file is in memory only where it was read.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.sum()
    print(_resident() - before)


if __name__ == "__main__":
    _main(*sys.argv[1:])
