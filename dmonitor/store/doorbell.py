"""What the daemon rings, so that a round which stays looks now (rule R5).

It is a FIFO in the state directory. The daemon keeps it open, so that a ring which finds nobody
waiting is kept for the next one who waits. A ring says nothing but that somebody rang.
`dmonitor/stay.py` waits for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from dmonitor.base import log

NAME = "wake"  # of the FIFO
_RINGS = 1 << 16  # bytes; a FIFO holds no more


def was_rung(directory: str) -> bool:
    """Return whether somebody has rung since the last time that somebody waited."""
    with contextlib.suppress(OSError):
        descriptor = _open_fifo(f"{directory}/{NAME}")
        try:
            return bool(os.read(descriptor, _RINGS))
        finally:
            os.close(descriptor)
    return False


def _open_fifo(path: str) -> int:
    """Return a descriptor of the FIFO `path`; raise OSError if it is none.

    It is opened for both directions, so that nobody has to wait at the other end. `stay` does the
    same, but cannot call this.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is no FIFO: remove it")


class Doorbell:
    """The ringing end."""

    def __init__(self, directory: str) -> None:
        """Open the FIFO in `directory`; make it if it is not there.

        If that fails, no round of this node is woken, and a warning says so.
        """
        self._path = f"{directory}/{NAME}"
        self._descriptor = -1
        self._open()

    def _open(self) -> None:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkfifo(self._path, 0o600)
            self._descriptor = _open_fifo(self._path)
        except OSError as error:
            log.warning("no-doorbell", path=self._path, reason=error.strerror)

    def ring(self) -> None:
        """Wake whoever waits, or who waits next."""
        if self._descriptor >= 0 and not self._is_in_place():
            os.close(self._descriptor)  # somebody has emptied or restored the directory
            self._descriptor = -1
            self._open()
        if self._descriptor >= 0:
            with contextlib.suppress(BlockingIOError):  # it has been rung often enough
                os.write(self._descriptor, b".")

    def _is_in_place(self) -> bool:
        """Return whether the FIFO that is open is still the one in the directory."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self._path))
        return False
