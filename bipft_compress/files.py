"""Writing that is all or nothing: a reader sees the old files, the new ones, or none."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bipft_compress.errors import CheckpointError, OutputError


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse an output directory that already holds something.

    Raises:
        OutputError: `path` is a file, or a directory that is not empty and `overwrite` is false.
    """
    if path.is_file():
        raise OutputError(f"Output {path} is a file: give the path of a new directory.")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise OutputError(
            f"Output directory {path} already exists: choose another or pass --overwrite."
        )


@contextmanager
def storage_faults(path: Path) -> Iterator[None]:
    """Turn faults of the file system below `path` into an `OutputError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"No space left on the disk of {path}: free some and run the command again; "
                "nothing written before is lost."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise OutputError(
                f"{path} cannot be written ({error.strerror}): choose a directory of yours."
            ) from error
        raise


@contextmanager
def atomic_directory(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary directory that becomes `path` once everything in it is written.

    Raises:
        OutputError: see `check_output` and `storage_faults`.
    """
    check_output(path, overwrite)
    with storage_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield work
            work.chmod(0o755)
            if path.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
                try:
                    os.replace(path, old / "old")
                    try:
                        os.replace(work, path)
                    except BaseException:
                        os.replace(old / "old", path)
                        raise
                finally:
                    shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(work, path)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file in one step; raises OutputError as `storage_faults` does."""
    with storage_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: no such file, or not a JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing.") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}).") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return values


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
