"""One run at a time writes an output: a lock that ends with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bipft_compress.errors import OutputError

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""What file systems answer that have no locks; there, runs are not kept apart."""

_held: dict[str, tuple[int, int]] = {}
"""Lock file to the process and thread that hold it: within them a lock may be taken again."""


@contextmanager
def output_lock(file: Path, output: Path) -> Iterator[None]:
    """Hold the lock `file` while what writes `output` runs; the same thread may nest it.

    Raises:
        OutputError: another process or thread holds it.
    """
    owner = os.getpid(), threading.get_ident()
    if _held.get(str(file)) == owner:
        yield
        return
    try:
        handle = open_locked(file, wait=False)
    except BlockingIOError:
        raise OutputError(
            f"Another run writes {output} now: wait for it, or choose another output."
        ) from None
    _held[str(file)] = owner
    try:
        yield
    finally:
        del _held[str(file)]
        # Removed while it is held: whoever waits for it finds that its name is gone.
        with suppress(OSError):
            file.unlink()
        os.close(handle)


def open_locked(path: Path, *, wait: bool) -> int:
    """A descriptor of the file at `path`, made where it is missing, with an exclusive lock.

    Raises:
        BlockingIOError: another process or thread has it, and `wait` is false.
        OSError: it cannot be made.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                os.close(handle)
                raise
        # Its last owner may have removed or renamed it before this lock was given.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.lstat(path)):
                return handle
        os.close(handle)
