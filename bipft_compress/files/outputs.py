"""Writing that is all or nothing: a reader sees the old files, the new ones, or none.

What is not finished lies in hidden paths beside the output, under names that depend on it alone.
The next run clears what a killed one left there, for it holds the output's lock.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bipft_compress.errors import OutputError
from bipft_compress.files.locks import open_locked, output_lock
from bipft_compress.files.storage import storage_faults
from bipft_compress.processes import is_main_process

_LONGEST_NAME = 200
"""Bytes; file systems allow 255, and hidden names are longer than what they belong to."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def hidden_path(path: Path, ending: str) -> Path:
    """A hidden path beside `path`, on the same file system: ``.name.ending``."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f"{name[:40]}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
    return path.with_name(f".{name}.{ending}")


def real_path(path: str | Path) -> Path:
    """Where an output really lies: symbolic links are followed, as a person would expect.

    Raises:
        OutputError: a link leads nowhere, or back to itself.
    """
    given = Path(path)
    with _path_faults(given):
        real = Path(os.path.realpath(given))
        if given.is_symlink() and not real.exists():
            raise OutputError(f"Output {given} is a link to {real}, which is not there: remove it.")
    return real


def is_vacant(path: Path) -> bool:
    """Whether nothing is at `path`, or a directory without entries."""
    return not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir()))


def check_output(
    path: str | Path, overwrite: bool, inputs: Iterable[str | Path | None] = ()
) -> None:
    """Refuse an output directory that already holds something, or would destroy an input.

    Args:
        path: of the output.
        overwrite: whether what is there may be replaced.
        inputs: what is read; names that are no local files are passed over.

    Raises:
        OutputError: `path` is no directory, or one that is not empty and `overwrite` is false; it
            cannot be written; or it is an input, holds one, or lies inside one.
    """
    target = real_path(path)
    with _path_faults(Path(path)):
        if os.path.lexists(target) and not target.is_dir():
            kind = "a file" if target.is_file() else "not a directory"
            raise OutputError(f"Output {path} is {kind}: give the path of a new directory.")
        for source in inputs:
            if source is not None and os.path.exists(source):
                _check_apart(path, target, source)
        if not is_vacant(target) and not overwrite:
            raise OutputError(
                f"Output directory {path} already exists: choose another or pass --overwrite."
            )
        nearest = target
        while not nearest.exists():
            nearest = nearest.parent
        if not nearest.is_dir():
            raise OutputError(f"Output {path} lies below {nearest}, which is a file.")
        effective = os.access in os.supports_effective_ids
        if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=effective):
            raise OutputError(f"{nearest} cannot be written: choose a directory of yours.")


def _check_apart(path: str | Path, target: Path, source: str | Path) -> None:
    real = Path(os.path.realpath(source))
    if target == real:
        how = "is the input itself"
    elif target in real.parents:
        how = f"holds the input {source}"
    elif real in target.parents:
        how = f"lies inside the input {source}"
    else:
        return
    raise OutputError(f"Output {path} {how}: choose a directory apart from what is read.")


@contextmanager
def _path_faults(path: Path) -> Iterator[None]:
    """Turn what the system says of a path that cannot be one into an `OutputError`."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OutputError(f"Output {path} cannot be used ({reason}): choose another.") from None


@contextmanager
def claim_output(
    path: str | Path, overwrite: bool, inputs: Iterable[str | Path | None] = ()
) -> Iterator[Path]:
    """Hold an output from the start of a job to its end, so that no other run writes it.

    What a killed run left beside it is cleared, and parents that are missing are made; they go
    again where nothing came of it.

    Yields:
        Where the output really lies; see `real_path`.

    Raises:
        OutputError: see `check_output`; or another run writes it.
    """
    check_output(path, overwrite, inputs)
    target = real_path(path)
    missing = [parent for parent in target.parents if not parent.exists()]
    with ExitStack() as stack:
        with _path_faults(Path(path)), storage_faults(target):
            for parent in reversed(missing):
                stack.callback(_remove_empty, parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            # Where no lock can be made, no output can: better known before the work than after.
            stack.enter_context(output_lock(hidden_path(target, "lock"), Path(path)))
            _clear(target)
        yield target


@contextmanager
def claim_together(
    path: str | Path, overwrite: bool, inputs: Iterable[str | Path | None] = ()
) -> Iterator[Path]:
    """`claim_output` by the main one of several processes; the others only check the path.

    Yields:
        Where the output really lies.

    Raises:
        OutputError: see `claim_output`.
    """
    if is_main_process():
        with claim_output(path, overwrite, inputs) as target:
            yield target
    else:
        check_output(path, overwrite, inputs)
        yield real_path(path)


def _remove_empty(directory: Path) -> None:
    with suppress(OSError):
        directory.rmdir()


def _clear(target: Path) -> None:
    """Remove what a killed run left; put back what it had moved away and not replaced."""
    old = hidden_path(target, "old")
    if old.exists() and is_vacant(target):
        os.replace(old, target)
    for path in (old, hidden_path(target, "new")):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def atomic_directory(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary directory that becomes `path` once everything in it is written.

    Files and directories get the permissions that the umask gives.

    Raises:
        OutputError: see `claim_output` and `storage_faults`.
    """
    with claim_output(path, overwrite) as target, storage_faults(target):
        work = hidden_path(target, "new")
        work.mkdir()
        try:
            yield work
            _follow_umask(work)
            _replace(target, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _follow_umask(directory: Path) -> None:
    """Some libraries write files for their owner alone; the directory has what the umask gives."""
    mode = directory.stat().st_mode & 0o777
    for folder, _, files in os.walk(directory):
        os.chmod(folder, mode)
        for name in files:
            os.chmod(Path(folder, name), mode & 0o666)


def _replace(target: Path, work: Path) -> None:
    """Put `work` in the place of `target`, which is in place at every moment if it was before."""
    if is_vacant(target):
        os.replace(work, target)
    elif not _exchange(work, target):
        # Killed here, the old one is put back by the next run; see `_clear`.
        old = hidden_path(target, "old")
        os.replace(target, old)
        try:
            os.replace(work, target)
        except BaseException:
            os.replace(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two paths in one step; false where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = (os.fsencode(first), os.fsencode(second))
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(second))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file in one step; raises OutputError as `storage_faults` does."""
    with storage_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Under one name, locked: two that write at once take turns, and what a killed one left is
        # used again.
        new = hidden_path(path, "new")
        handle = open_locked(new, wait=True)
        try:
            os.ftruncate(handle, 0)
            with open(handle, "w", encoding="utf-8", closefd=False) as file:
                file.write(text)
            os.fsync(handle)
            os.replace(new, path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
