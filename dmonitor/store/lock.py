"""One instance at a time: a kernel lock decides, a pidfile informs.

The pidfiles of `lockfile` stay behind after a kill -9, and breaking them is a race that lets two in. So the
decision is a flock on a guard file that is never removed; under it the pidfile is only written for people and
init scripts, and a left-over one is broken without risk. The guard also says who holds it, so that a holder
that hangs can be told from another process with the same number, and one on a cloned disk from the one here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lockfile.pidlockfile import PIDLockFile


class Busy(Exception):
    """Somebody else holds the lock; `pid` is who, 0 where that cannot be proved, `age` for how many seconds it runs."""

    def __init__(self, pid: int, age: float) -> None:
        super().__init__(f"pid {pid}, since {age:.0f} s" if pid else "another process")
        self.pid = pid
        self.age = age


class Lock:
    """The lock NAME in DIRECTORY; it goes with the process that holds it, however that ends."""

    def __init__(self, directory: str, name: str) -> None:
        self._guard_path = f"{directory}/{name}.lock"
        self.pidfile = f"{directory}/{name}.pid"
        self.run = os.urandom(8).hex()  # a word for this holder alone
        self._guard = -1
        self._owner = 0
        self._pidlock: PIDLockFile | None = None

    def take(self, patience: float = 0.0) -> None:
        """Take the lock, within PATIENCE seconds; raise Busy when it is held, OSError when the guard cannot be opened."""
        deadline = time.monotonic() + patience
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        while self._guard < 0:
            try:
                guard = os.open(self._guard_path, flags, 0o640)
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
                guard = os.open(
                    self._guard_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
                )  # it locks as well
            try:
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(guard, 64, 0)
                os.close(guard)
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                raise Busy(*_identify(holder)) from None
            if _is_file(guard, self._guard_path):
                self._guard = guard
            else:
                os.close(
                    guard
                )  # somebody replaced the file between the two calls: try the one that is there now

    def state(self, *, pidfile: bool = True) -> None:
        """Write who holds the lock: after the last fork of the process that keeps it. A full disk is no obstacle.

        Without PIDFILE only the guard file says so: for what runs every minute, and nobody has to find.
        """
        self._owner = os.getpid()
        with contextlib.suppress(OSError):
            os.pwrite(
                self._guard,
                f"{self._owner} {_start_time(self._owner)} {self.run}".ljust(63).encode() + b"\n",
                0,
            )
        if pidfile:
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
        return self._guard

    def release(self) -> None:
        """Let go, in the process that stated itself only; the guard file stays."""
        if self._guard >= 0 and self._owner == os.getpid():
            with contextlib.suppress(OSError):
                if self._pidlock and self._pidlock.i_am_locking():
                    self._pidlock.release()
            os.close(self._guard)
            self._guard = -1


def holder(directory: str, name: str) -> str | None:
    """Return the `run` of whoever holds the lock, empty where that is not known, without taking it; None if nobody does."""
    with contextlib.suppress(OSError), open(f"{directory}/{name}.lock", "rb") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            said = guard.read(64)
            return (
                b"".join(said.split()[2:]).decode("ascii", "replace") if _identify(said)[0] else ""
            )
    return None


def end(pid: int) -> None:
    """Kill a holder that Busy named; the lock is free once all of its threads are gone."""
    import signal

    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _identify(holder: bytes) -> tuple[int, float]:
    """Return pid and age of the process that wrote HOLDER, if it still is that process, else (0, 0)."""
    words = holder.split()[:2]
    if len(words) != 2 or not all(map(bytes.isdigit, words)):
        return 0, 0.0
    pid, start = map(int, words)
    if not start or _start_time(pid) != start:
        return 0, 0.0
    return pid, time.clock_gettime(time.CLOCK_BOOTTIME) - start / os.sysconf("SC_CLK_TCK")


def _start_time(pid: int) -> int:
    """Return when PID started, in clock ticks since boot, or 0 when there is no such process (or only its zombie)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] == b"Z" else int(fields[19])


def _is_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
