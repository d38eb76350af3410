"""Decide how many plugins may start now.

Plugins that starve each other of processor time end in TIMEOUT, which is a false alarm. So no
plugin starts while a crowd of processes wants the processors. That delays plugins, and never stops
them. This module counts, and reads /proc/loadavg; it does not start plugins.
"""

from __future__ import annotations

import contextlib
import os

BATCH = 16  # plugins that start before the supervisor does anything else
CROWD_PER_PROCESSOR = 8  # processes that want a processor, for each processor; more are a crowd
PATIENCE = 0.1  # seconds to wait for a crowd or for lack of room; then plugins start all the same
_LOOK_INTERVAL = 0.01  # seconds between two looks at a crowd


class LoadGate:
    """Decides how many plugins may start now: limited by concurrency, batch size and crowd."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency  # plugins that may run at the same time
        self._crowd = CROWD_PER_PROCESSOR * (os.cpu_count() or 1)
        self._opened_at = 0.0  # when the last batch was let through
        self._load_fd = -1
        with contextlib.suppress(OSError):
            self._load_fd = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        self.closed_until = 0.0  # the time at which to ask again

    def has_room(self, running: int) -> bool:
        """Return whether one more plugin may run at the same time as the `running` ones."""
        return running < self._concurrency

    def admit(self, running: int, waiting: int, now: float) -> int:
        """Return how many of the `waiting` plugins may start, while `running` others run."""
        count = min(self._concurrency - running, BATCH, waiting)
        if count <= 0 or now < self.closed_until:
            return 0
        if now - self._opened_at < PATIENCE and self._is_crowded():
            self.closed_until = now + _LOOK_INTERVAL
            return 0
        self._opened_at = now
        self.closed_until = 0.0
        return count

    def close_for_lack_of_room(self) -> None:
        """Let no plugin start for a while, because the system had no room for one more process."""
        self.closed_until = self._opened_at + PATIENCE

    def _is_crowded(self) -> bool:
        """Return whether a crowd wants the processors; False if the system does not tell."""
        try:
            runnable, _, _ = os.pread(self._load_fd, 64, 0).split()[3].partition(b"/")
            return int(runnable) > self._crowd
        except (OSError, ValueError, IndexError):
            return False
