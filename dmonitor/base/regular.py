"""Open regular files only, in directories where another program may have put something else.

What the user dmonitor may write, a plugin may replace. A FIFO would make its reader wait for ever,
and a device may do anything. So a link is not followed, and nothing is waited for.
"""

from __future__ import annotations

import contextlib
import os
import stat


def is_there(path: str) -> bool:
    """Return whether there is a regular file at `path`, which is not a link."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def refuse_others(path: str) -> None:
    """Raise OSError if there is anything at `path` that is not a regular file."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise _not_regular(path)


def open_file(path: str, flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of the regular file `path`; raise OSError if it cannot be opened.

    A file that `flags` have made may be read by its group.
    """
    refuse_others(path)
    guards = os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags | guards, 0o640)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise _not_regular(path)


def create(path: str) -> int:
    """Return a descriptor of a new file `path` for writing, in place of any file that is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def _not_regular(path: str) -> OSError:
    return OSError(f"{path} is not a regular file: move it away")
