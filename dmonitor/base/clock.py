"""The one clock for durations, deadlines and ages (R10).

It counts the time that the machine slept, which time.monotonic does not. Times of day, and times
that outlive a boot, are not its matter: `store/node_clock` has those.
"""

from __future__ import annotations

import time


def uptime() -> float:
    """Return the seconds since this machine was started, its sleep included.

    Nobody can set this clock, and it never goes back.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)
