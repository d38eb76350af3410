"""This node's clock, in which every time of the state is measured (R10).

This module reads the kernel's clocks. The database keeps what the next round needs of them.
"""

from __future__ import annotations

import time

from dmonitor.base import clock
from dmonitor.core.codec import Time
from dmonitor.core.model import Silence

Memo = tuple[str, Time]  # the name of a boot, and the offset in it
NEW_MEMO: Memo = ("", 0.0)  # what stands for the memo of a clock that has never been stored


class NodeClock:
    """Seconds since the epoch, approximately: a clock that never goes back and that nobody can set.

    It is the uptime of this boot plus an offset, which stays the same until the next boot.
    """

    def __init__(self, offset: float, boot: str, *, rebooted: bool) -> None:
        self.offset = offset  # seconds that are added to the uptime
        self.rebooted = rebooted  # no round has stored anything since this machine was started
        self.memo = [boot, offset]  # what to store: `start` takes it in the next round

    @classmethod
    def start(cls, memo: Memo, not_before: float) -> NodeClock:
        """Return the clock that goes on from `memo`; raise OSError if the boot has no name.

        After a reboot the clock begins at the wall clock's time or at `not_before`, if that is
        later, because a machine without a battery wakes up in 1970.
        """
        boot = boot_id()
        fresh = max(time.time(), not_before) - clock.uptime()
        known_boot = memo[0]
        if known_boot == boot:
            return cls(memo[1], boot, rebooted=False)
        return cls(fresh, boot, rebooted=known_boot != "")

    def now(self) -> float:
        """Return the time now."""
        return clock.uptime() + self.offset

    def to_wall(self) -> float:
        """Return the seconds to add to a time of this clock to get a time of the wall clock."""
        return time.time() - self.now()

    def from_wall(self, silence: Silence) -> Silence:
        """Return `silence` with its end on this clock instead of the wall clock."""
        if silence.until is None:
            return silence
        return silence._replace(until=silence.until - self.to_wall())


def boot_id() -> str:
    """Return the kernel's random name of this boot; raise OSError."""
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        return file.read().strip()
