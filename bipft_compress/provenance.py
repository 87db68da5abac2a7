"""Where a result came from: enough for a stranger to make it again."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def provenance(earlier: dict[str, Any], job: str, **details: Any) -> dict[str, Any]:
    """The provenance of `job`, added to that of the jobs before it.

    Args:
        earlier: what the input's record says; not changed.
        job: ``compress``, ``pretrain``, ``finetune``, ``pack`` or ``report``.
        details: anything else to keep, such as the seed.

    Returns:
        A new mapping of jobs to their details: command, version, commit, date, machine.
    """
    return earlier | {
        job: {
            "command": shlex.join(["bipft-compress", *sys.argv[1:]]) if _is_ours() else None,
            "package_version": version("bipft-compress"),
            "git_commit": git_commit(),
            "torch_version": torch.__version__,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            **details,
        }
    }


def _is_ours() -> bool:
    return Path(sys.argv[0]).name in ("bipft-compress", "__main__.py")


def machine() -> str:
    """Processor, instruction set that torch uses, and threads, in one line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        name = names[0] if names else name
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name} ({capability}), {torch.get_num_threads()} threads"


def git_commit() -> str | None:
    """The commit of the source tree this package runs from; None for an installed package."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
