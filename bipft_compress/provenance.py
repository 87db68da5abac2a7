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

    Of paths only the last part is kept: whoever reads a published model learns nothing of the
    machine's directories.

    Args:
        earlier: what the input's record says; not changed.
        job: ``compress``, ``pretrain``, ``finetune``, ``pack`` or ``report``.
        details: anything else to keep, such as the seed.

    Returns:
        A new mapping of jobs to their details: command, version, commit, date, machine.
    """
    return earlier | {
        job: {
            "command": _command() if _is_ours() else None,
            "package_version": version("bipft-compress"),
            "git_commit": git_commit(),
            "torch_version": torch.__version__,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            **{key: names_only(value) for key, value in details.items()},
        }
    }


def names_only(value: Any) -> Any:
    """A value with the last part alone of every path in it: an argument, or several with commas.

    What may be a hub's name (``owner/name``) stays whole, unless there is such a path here.
    """
    if isinstance(value, Path):
        return value.name or str(value)
    if not isinstance(value, str) or "/" not in value:
        return value
    option, equals, given = value.rpartition("=") if value.startswith("-") else ("", "", value)
    return option + equals + ",".join(map(_last_part, given.split(",")))


def _last_part(text: str) -> str:
    path = text.rpartition("@")[0] or text
    if path.count("/") == 1 and not path.startswith(("/", "~", ".")) and not Path(path).exists():
        return text
    return Path(path).name + text[len(path) :]


def _command() -> str:
    return shlex.join(["bipft-compress", *map(names_only, sys.argv[1:])])


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
