"""Memory that a model's weights take in a process, measured in a fresh one for each."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

MAPS = Path("/proc/self/smaps")


def resident_bytes(loader: str, source: str | Path) -> int | None:
    """By how much loading a model grows a process that has loaded all code already.

    Args:
        loader: ``packed``, ``original``, ``original with mlm head`` or ``untrained``: see `_load`.
        source: the directory of an artefact or a checkpoint, or a hub name.

    Returns:
        Bytes in physical memory, once every weight was read: what was allocated, and the mapped
        pages of weight files. None where the system does not tell.
    """
    if not MAPS.exists():
        return None
    result = subprocess.run(
        [sys.executable, "-m", __name__, loader, str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return int(result.stdout.split()[-1]) if result.returncode == 0 else None


def _load(loader: str, source: str) -> torch.nn.Module:
    """A packed artefact, a checkpoint, or the shape of an artefact with any weights."""
    from bipft_compress import loading
    from bipft_compress.checkpoint import load

    if loader == "packed":
        return load(source)[0]
    if loader.startswith("original"):
        return loading.load_pretrained(source, mlm_head="mlm" in loader)[0]
    return loading.model_from_config(loading.load_config(source))


def _code_of(loader: str, source: str) -> None:
    """Do all that loading does but for the weights, so that code and caches are there before."""
    from bipft_compress import loading
    from bipft_compress.checkpoint.mark import read_recipe
    from bipft_compress.runtime.model import Skeleton, empty_model
    from bipft_compress.runtime.native import chosen_path

    chosen_path()
    config = loading.load_config(source)
    if loader == "packed":
        Skeleton(empty_model(config), read_recipe(Path(source)))
    else:
        with torch.device("meta"):
            loading.model_from_config(config)
    if loader != "untrained":
        loading.load_tokenizer(source)
    for dtype in (torch.uint8, torch.float16, torch.float32):
        torch.ones(9, dtype=dtype).sum()


def _resident() -> int:
    gc.collect()
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # what was freed and not given back is no weight
    total, counts = 0, False
    for line in MAPS.read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            name = words[5] if len(words) > 5 else ""
            # Pages of libraries come in whenever code first runs: they are no weights.
            counts = not name or name.startswith("[") or name.endswith(".safetensors")
        elif words[0] == "Rss:" and counts:
            total += int(words[1]) * 1024
    return total


def _main(loader: str, source: str) -> None:
    from bipft_compress.runtime.block import PackedBlock
    from bipft_compress.runtime.native import REFERENCE

    _code_of(loader, source)
    before = _resident()
    model = _load(loader, source)
    # A mapped file is in memory only where it was read; bits that kernels have are read by nobody.
    unread = {
        id(bits)
        for block in model.modules()
        if isinstance(block, PackedBlock) and block.path != REFERENCE
        for bits in block.buffers()
    }
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) not in unread:
            tensor.sum()
    print(_resident() - before)


if __name__ == "__main__":
    _main(*sys.argv[1:])
