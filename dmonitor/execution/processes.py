"""Find out which plugin or hook a process descends from, and end processes with their descendants.

Linux does not tell which program an orphan descends from. So each plugin gets a mark that its
descendants inherit and that no program needs: the soft limit RLIMIT_LOCKS, which Linux has ignored
since 2.4. Descendants of a plugin that still runs are left alone, because some plugins start an ssh
tunnel in the background and use it. Descendants of a plugin that has ended are killed. A process
can take its mark off, so a mark only spares: it never decides that nothing is left. This module
does not start processes.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import struct
import time
from collections.abc import Callable

from dmonitor.base import clock

REAP_LIMIT = 1.0  # seconds to wait for killed processes to be gone
_REAP_ONE_LIMIT = 0.02  # seconds of these for one process, before the others have their turn
_REAP_POLL = 0.002  # seconds between two attempts to reap

_RLIMIT_LOCKS = 10  # resource.h; the module resource does not have it
_NUMBER_BITS = 32
_MARK = 0x646D << _NUMBER_BITS  # "dm": a mark is this plus a number of 32 bits
# prctl.h and capability.h
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_IS_SET = 1
_CAP_NET_RAW = 13
# landlock.h: the numbers of the system calls are the same on all machines that Debian has now.
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_RULE_PATH_BENEATH = 1
_LANDLOCK_REFER = 1 << 13  # to move a file to another directory, or to link it there


def _prctl(*arguments: int) -> int:
    """Call prctl(2) with up to five `arguments`; raise OSError on failure."""
    import ctypes  # takes 1 ms, which only a program that runs plugins has to spend

    arguments += (0,) * (5 - len(arguments))
    value: int = ctypes.CDLL(None, use_errno=True).prctl(*arguments)
    if value < 0:
        raise OSError(ctypes.get_errno(), f"prctl{arguments}")
    return value


def _landlock(call: int, *arguments: bytes | int) -> int:
    """Call the `call` of Landlock with up to four `arguments`; raise OSError on failure."""
    import ctypes

    numbers = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    value: int = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(call), *numbers)
    if value < 0:
        raise OSError(ctypes.get_errno(), "landlock")
    return value


def become_subreaper() -> None:
    """Become the parent of all descendants whose parent ends; raise OSError on failure."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def stop_being_subreaper() -> None:
    """Undo `become_subreaper`, before this process becomes a program that collects no orphans."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 0)


def forbid_new_privileges() -> None:
    """Let what this process starts gain no privilege, by set-uid programs for instance; for good.

    It cannot reach a process that may gain some, either. Do so only if all of it has raw sockets
    already, from whoever started this program. Otherwise ping and fping would get none, and fping
    would say that every host is unreachable.
    """
    with contextlib.suppress(OSError):  # a kernel without capabilities that are inherited
        if _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_IS_SET, _CAP_NET_RAW):
            _prctl(_PR_SET_NO_NEW_PRIVS, 1)
            _forbid_to_reach_others()


def _forbid_to_reach_others() -> None:
    """Let what this process starts attach to nothing else, nor look into it; for good.

    Otherwise it could have a program of the same user that may gain privileges do so: a round, its
    sendmail, a hook. It could also use what only such a program sees, by /proc/PID/root. Landlock
    forbids that to whoever has any rule of it, so this rule allows all that it is about. Linux has
    that since 5.19. OSError says that there is no Landlock, or only an older one.
    """
    ruleset = _landlock(_LANDLOCK_CREATE_RULESET, struct.pack("=Q", _LANDLOCK_REFER), 8, 0)
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", _LANDLOCK_REFER, root)
        _landlock(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0)
        _landlock(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(root)
        os.close(ruleset)


def children() -> list[int]:
    """Return the pids of our children; one that comes or goes meanwhile may be missing."""
    with open("/proc/thread-self/children", "rb") as file:
        return [int(pid) for pid in file.read().split()]


def has_children() -> bool:
    """Return whether this process has children, dead ones that are not reaped yet included."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


class Marker:
    """Marks this process, and so every process that it starts until the mark is cleared."""

    def __init__(self) -> None:
        _, self._hard = resource.getrlimit(_RLIMIT_LOCKS)

    def set(self, number: int) -> int:
        """Mark this process with `number`; return the mark, as `mark_of` returns it.

        With a hard limit there is no room for a mark: the hard limit is set and returned instead.
        """
        mark = self._hard
        if self._hard == resource.RLIM_INFINITY:
            mark = _MARK + number % (1 << _NUMBER_BITS)
        resource.setrlimit(_RLIMIT_LOCKS, (mark, self._hard))
        return mark

    def clear(self) -> None:
        """Take the mark off this process; the processes that it started keep theirs."""
        resource.setrlimit(_RLIMIT_LOCKS, (self._hard, self._hard))


def mark_of(pid: int) -> int | None:
    """Return the mark of process `pid`; None for a process that has none, or is gone."""
    try:
        soft, _ = resource.prlimit(pid, _RLIMIT_LOCKS)
    except (ProcessLookupError, PermissionError):
        return None
    if soft >> _NUMBER_BITS != _MARK >> _NUMBER_BITS:
        return None
    return soft


def kill(pid: int) -> bool:
    """Kill process `pid`; return whether it was there and ours to kill.

    It is not if it became another user's by a setuid program.
    """
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_group(pid: int) -> None:
    """Kill the process group that `pid` leads, as far as it is there and ours to kill."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def kill_all(is_target: Callable[[int], bool], limit: float = REAP_LIMIT) -> set[int]:
    """Kill all our children for whose pid `is_target` is true, until no such child is left.

    The children of a killed process become ours, and are killed like it. So are those of a process
    that ends by itself meanwhile: one look does not find all of a chain of forks. Children that are
    not ours to kill stay. Give up after `limit` seconds. Return those that were killed, and are not
    reaped yet.
    """
    deadline = clock.uptime() + limit
    dying: set[int] = set()
    while clock.uptime() < deadline:
        killed = [pid for pid in children() if is_target(pid) and kill(pid)]
        if not killed:
            break
        for pid in killed:
            if reap(pid, _REAP_ONE_LIMIT):
                dying.discard(pid)
            else:
                dying.add(pid)
    return dying


def reap(pid: int, limit: float) -> bool:
    """Wait up to `limit` seconds for our child `pid` to end, reap it; return whether it is gone."""
    deadline = clock.uptime() + limit
    while True:
        try:
            reaped, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return True
        if reaped:
            return True
        if clock.uptime() > deadline:
            return False
        time.sleep(_REAP_POLL)


def reap_dead(pid: int) -> None:
    """Reap our child `pid`, which was killed or is about to end, however long that takes."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
