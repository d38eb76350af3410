"""One instance of a program at a time: a kernel lock decides, a pidfile informs.

After a kill -9 the pidfiles of `lockfile` stay, and breaking them is a race that lets two programs
in. So the lock is a flock on a guard file that is never removed. The pidfile is written by the
holder only, for people and init scripts, and a stale one is broken without risk.

The guard file also says who holds the lock. So a holder that hangs is not confused with another
process of the same number, nor a daemon here with one on a cloned disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from typing import TYPE_CHECKING

from dmonitor.base import clock, regular

if TYPE_CHECKING:
    from lockfile.pidlockfile import PIDLockFile

_RETRY_PAUSE = 0.02  # seconds from one try to take the lock to the next
_HOLDER_BYTES = 64  # length of the line in the guard file


class Busy(Exception):
    """Another process holds the lock."""

    def __init__(self, pid: int, age: float) -> None:
        super().__init__(f"pid {pid}, since {age:.0f} s" if pid else "another process")
        self.pid = pid  # of the holder; 0 if that cannot be proved
        self.age = age  # seconds for which the holder has run


class Lock:
    """The lock `name` in `directory`. The kernel frees it when its holder ends, however it ends."""

    def __init__(self, directory: str, name: str) -> None:
        self.pidfile = f"{directory}/{name}.pid"
        self.incarnation = os.urandom(8).hex()  # a word that only this holder has
        self._guard_path = f"{directory}/{name}.lock"
        self._guard = -1  # file descriptor; -1 while the lock is not taken
        self._holder_pid = 0  # 0 until `write_holder`
        self._pidlock: PIDLockFile | None = None

    def take(self, patience: float = 0.0) -> None:
        """Take the lock, within `patience` seconds.

        Raise Busy if another process holds it, and OSError if the guard file cannot be opened.
        """
        deadline = clock.uptime() + patience
        while self._guard < 0:
            guard = self._open_guard()
            try:
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder_line = os.pread(guard, _HOLDER_BYTES, 0)
                os.close(guard)
                if clock.uptime() >= deadline:
                    raise Busy(*_identify(holder_line)) from None
                time.sleep(_RETRY_PAUSE)
                continue
            if _is_open_file(guard, self._guard_path):
                self._guard = guard
            else:
                os.close(guard)  # the file was replaced after it was opened: try the new one

    def _open_guard(self) -> int:
        try:
            return regular.open_file(self._guard_path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            # On a read-only file system, the file locks as well if it is there already.
            return regular.open_file(self._guard_path)

    def write_holder(self, *, pidfile: bool = True) -> None:
        """Write that this process holds the lock. A full disk raises nothing.

        Call it after the last fork of the process that keeps the lock. Without `pidfile`, only the
        guard file says so: that is for a program that runs every minute, which nobody looks for.
        """
        self._holder_pid = os.getpid()
        words = f"{self._holder_pid} {_start_time(self._holder_pid)} {self.incarnation}"
        with contextlib.suppress(OSError):
            os.pwrite(self._guard, words.ljust(_HOLDER_BYTES - 1).encode() + b"\n", 0)
        if pidfile:
            self._write_pidfile()

    def _write_pidfile(self) -> None:
        from lockfile import LockError
        from lockfile.pidlockfile import PIDLockFile

        self._pidlock = PIDLockFile(self.pidfile)
        try:
            self._pidlock.break_lock()
            self._pidlock.acquire(timeout=0)
        except (OSError, LockError):
            with contextlib.suppress(OSError):
                os.unlink(self.pidfile)  # an empty pidfile misleads

    def fileno(self) -> int:
        """Return the file descriptor of the guard file."""
        return self._guard

    def release(self) -> None:
        """Free the lock, in the process that called `write_holder` only; the guard file stays."""
        if self._guard < 0 or self._holder_pid != os.getpid():
            return
        with contextlib.suppress(OSError):
            if self._pidlock and regular.is_there(self.pidfile) and self._pidlock.i_am_locking():
                self._pidlock.release()
        os.close(self._guard)
        self._guard = -1


def holder(directory: str, name: str) -> str | None:
    """Return the `incarnation` of the lock's holder, without taking the lock.

    The word is empty if the guard file does not tell it. Return None if no process holds the lock.
    """
    try:
        with open(regular.open_file(f"{directory}/{name}.lock"), "rb") as guard:
            try:
                fcntl.flock(guard, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _incarnation(guard.read(_HOLDER_BYTES))
    except OSError:
        return None  # usually because no process has ever taken the lock
    return None


def end(pid: int) -> None:
    """Kill the holder that Busy named. The lock is free when all of its threads have ended."""
    import signal

    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _incarnation(holder_line: bytes) -> str:
    pid, _ = _identify(holder_line)
    if not pid:
        return ""
    return b"".join(holder_line.split()[2:]).decode("ascii", "replace")


def _identify(holder_line: bytes) -> tuple[int, float]:
    """Return pid and age of the process that wrote the line, or (0, 0) if it has ended."""
    words = holder_line.split()[:2]
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return 0, 0.0
    pid = int(words[0])
    start_time = int(words[1])
    if not start_time or _start_time(pid) != start_time:
        return 0, 0.0
    now = clock.uptime()
    return pid, now - start_time / os.sysconf("SC_CLK_TCK")


def _start_time(pid: int) -> int:
    """Return the start of a process in clock ticks since boot; 0 if it has ended or is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    state = fields[0]
    if state == b"Z":
        return 0
    return int(fields[19])


def _is_open_file(descriptor: int, path: str) -> bool:
    """Return whether the file in `path` is the one that is open as `descriptor`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
