"""Wait to be woken: what a round of the node that would speak becomes when it has ended (rule R5).

It is a program of its own, and imports nothing of dmonitor, because a process that waits most of
the minute must be small. `check` starts it in its own place. It holds no lock. When the FIFO of
`store/doorbell` is rung, it starts `dmonitor-check --woken` and waits for its end. Whoever rings
decides only when that is, and not too often.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import time

PAUSE = 3.0  # seconds from one look to the next, at least
LOOKS = 10  # in MINUTE, at most
MINUTE = 60.0  # seconds
_RINGS = 1 << 16  # bytes that are read at a time; a FIFO holds no more


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def next_look(looks: list[float]) -> float:
    """Return when the next look may be, in uptime, after those in `looks`."""
    due = 0.0
    if looks:
        due = looks[-1] + PAUSE
    if len(looks) >= LOOKS:
        due = max(due, looks[-LOOKS] + MINUTE)
    return due


def stay(bell: str, until: float, command: list[str]) -> None:
    """Run `command` whenever the FIFO `bell` is rung, until the uptime `until`."""
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(bell, flags)
    except OSError:
        return  # the daemon has said why there is none
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return
    looks: list[float] = []
    while _is_rung(descriptor, until):
        pause = next_look(looks) - _uptime()
        if pause > 0:
            time.sleep(min(pause, max(0.0, until - _uptime())))
        if _uptime() >= until:
            return  # the next round greets soon
        if not _silence(descriptor):
            continue
        looks = [*looks, _uptime()][-LOOKS:]
        try:
            process = os.posix_spawn(command[0], command, os.environ)
        except OSError:
            os.write(descriptor, b".")  # the next round hears it
            return
        os.waitpid(process, 0)


def _is_rung(descriptor: int, until: float) -> bool:
    """Wait until somebody rings; return False if nobody has by `until`."""
    left = until - _uptime()
    if left <= 0:
        return False
    ready, _, _ = select.select([descriptor], [], [], left)
    return bool(ready)


def _silence(descriptor: int) -> bool:
    """Return whether nobody else has heard the rings until now."""
    try:
        return bool(os.read(descriptor, _RINGS))
    except BlockingIOError:
        return False


if __name__ == "__main__":
    stay(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
