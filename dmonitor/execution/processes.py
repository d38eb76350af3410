"""Processes: whose they are, and how to end them all.

Which plugin a stray process came from is told by a mark that is inherited and that nobody misses: the soft
RLIMIT_LOCKS, which Linux has ignored since 2.4. So the stray of a plugin that still runs can be left alone (some
start an ssh tunnel in the background and use it), and the stray of one that ended killed.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable

REAP_LIMIT = 1.0  # seconds that the killed may take to die before nobody waits for them any more

_RLIMIT_LOCKS = 10
_MARK = 0x646D << 32  # "dm": a mark is this plus a number of 32 bits
_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Become the parent of all descendants that lose theirs (prctl(2))."""
    import ctypes  # 1 ms, which only who runs plugins has to spend

    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def children() -> list[int]:
    """List our children; one that comes or goes meanwhile may be missing."""
    with open("/proc/thread-self/children", "rb") as file:
        return [int(pid) for pid in file.read().split()]


def marker() -> Callable[[int], int]:
    """Return what marks this process, and so what it starts from now on, with a number (0: none), and returns the mark."""
    _, hard = resource.getrlimit(_RLIMIT_LOCKS)

    def mark(number: int) -> int:
        value = _MARK + number % (1 << 32) if number and hard == resource.RLIM_INFINITY else hard
        resource.setrlimit(_RLIMIT_LOCKS, (value, hard))
        return value

    return mark


def mark_of(pid: int) -> int | None:
    """Return the mark of the plugin that PID descends from; None for a process that is nobody's, or gone."""
    try:
        soft, _ = resource.prlimit(pid, _RLIMIT_LOCKS)
    except (ProcessLookupError, PermissionError):
        return None
    return soft if soft >> 32 == _MARK >> 32 else None


def kill(pid: int) -> None:
    with contextlib.suppress(
        ProcessLookupError, PermissionError
    ):  # a setuid program may have become somebody else
        os.kill(pid, signal.SIGKILL)


def has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def kill_all(ours: Callable[[int], bool]) -> None:
    """Kill our children, and theirs as they become ours, until none is left or patience ends."""
    deadline = time.monotonic() + REAP_LIMIT
    while time.monotonic() < deadline:
        left = [pid for pid in children() if ours(pid)]
        if not left:
            return
        for pid in left:
            kill(pid)
        for pid in left:
            reap(pid, 0.02)


def reap(pid: int, patience: float) -> bool:
    """Wait up to REAP_LIMIT seconds (0: as long as it takes) for a child of ours; say whether it is gone."""
    deadline = time.monotonic() + patience
    while True:
        try:
            done, _ = os.waitpid(pid, os.WNOHANG if patience else 0)
        except ChildProcessError:
            return True
        if done or time.monotonic() > deadline:
            return bool(done)
        time.sleep(0.002)
