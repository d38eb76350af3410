"""The one clock for durations, deadlines and ages (R10).

It counts the time that the machine slept, which time.monotonic does not. Times of day, and times
that outlive a boot, are not its matter: `store/node_clock` has those.
"""

from __future__ import annotations

import time

# The kernel's time-outs (time.sleep, select) do not count sleep. Whoever waits asks this clock
# again after this many seconds, so that it learns of a sleep soon after it.
LONGEST_WAIT = 1.0


def uptime() -> float:
    """Return the seconds since this machine was started, its sleep included.

    Nobody can set this clock, and it never goes back.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wait(seconds: float) -> None:
    """Return in `seconds`, or soon after the machine's sleep if they passed in that."""
    deadline = uptime() + seconds
    while True:
        left = deadline - uptime()
        if left <= 0:
            return
        time.sleep(min(left, LONGEST_WAIT))


def wait_idle(seconds: float) -> None:
    """Return in `seconds`, or later if the machine sleeps meanwhile, without waking in between."""
    if seconds > 0:
        time.sleep(seconds)


class Stopwatch:
    """Measures how long something takes, also on a machine whose clocks are stopped meanwhile."""

    def __init__(self) -> None:
        self._uptime = uptime()
        self._wall = time.time()

    def elapsed(self) -> float:
        """Return the seconds that have gone: the most that a clock shows.

        While a virtual machine is paused, no clock in it moves. Then the wall clock is set forward.
        If it is set back, only `uptime` counts.
        """
        return max(uptime() - self._uptime, time.time() - self._wall)
