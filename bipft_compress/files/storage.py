"""Faults of the disk, told in a sentence, whichever library met them."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bipft_compress.errors import OutputError, UserError

_RUST = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers, which raise errors of their own, name the system's error."""

_TORCH = re.compile(r"PytorchStreamWriter|inline_container|basic_ios::clear|iostream error")
"""What torch.save says when it cannot write; it names no reason."""

_FULL = 1 << 20
"""Bytes; a disk with less is full where a library does not say why it could not write."""


@contextmanager
def storage_faults(path: Path) -> Iterator[None]:
    """Turn faults of the file system below `path` into an `OutputError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = _number(error, path)
        if number is None or number == errno.ENOENT:
            raise
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"No space left on the disk of {path}: free some and run the command again; "
                "nothing written before is lost."
            ) from error
        raise OutputError(
            f"{path} cannot be written ({os.strerror(number)}): choose a directory of yours."
        ) from error


def _number(error: Exception, path: Path) -> int | None:
    """The system's number of an error while writing; None for any other error."""
    if isinstance(error, OSError):
        return error.errno
    named = _RUST.search(str(error))
    if named is not None:
        return int(named[1])
    if isinstance(error, RuntimeError) and _TORCH.search(str(error)):
        return errno.ENOSPC if _free_bytes(path) < _FULL else errno.EIO
    return None


def _free_bytes(path: Path) -> int:
    while not path.exists():
        path = path.parent
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize
