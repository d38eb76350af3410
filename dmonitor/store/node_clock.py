"""This node's clock, in which every time of the state is measured (R10).

This module reads the kernel's clocks. The database keeps what the next round needs of them.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from dmonitor.base import clock
from dmonitor.core import codec
from dmonitor.core.codec import Time
from dmonitor.core.model import Acknowledgement, Silence

Memo = tuple[str, Time]  # the name of a boot, and the offset in it
JumpMemo = tuple[Time, float]  # the fields of a Jump
NEW_MEMO: Memo = ("", 0.0)  # what stands for the memo of a clock that has never been stored
# Seconds for which a jump counts: a wall clock that was wrong at a boot is set right before that.
_JUMP_COUNTS = 30 * 86400.0
_PROVEN_AFTER = 86400.0  # seconds; a wall clock is set right within a day, or not at all
_WALL_CLOCK_OFF = 86400.0  # seconds by which the clock may have been ahead before the boot, too
_LEAST_STEP_BACK = 60.0  # seconds; a clock that is less ahead of the wall clock stays as it is


class Jump(NamedTuple):
    """How far the clock went on at a boot: while the machine was off, as the wall clock said."""

    at: Time  # where the clock began in that boot
    seconds: float  # from the end of the last round before it


NO_JUMP = Jump(0.0, 0.0)


class StepBack(NamedTuple):
    """How far the clock steps back, and the times with it that are kept."""

    since: Time  # the first time that moves
    seconds: float

    def move(self, at: float) -> float:
        """Return where a time moves to."""
        return at - self.seconds if at >= self.since else at


class NodeClock:
    """Seconds since the epoch, approximately: a clock that never goes back and that nobody can set.

    It is the uptime of this boot plus an offset, which stays the same until the next boot. Only
    what a boot has made too much is taken back: see `step_back`.
    """

    def __init__(self, offset: float, boot: str, *, rebooted: bool, jump: Jump = NO_JUMP) -> None:
        self.offset = offset  # seconds that are added to the uptime
        self.rebooted = rebooted  # no round has stored anything since this machine was started
        self.jump = jump  # the longest of late
        self._boot = boot

    @classmethod
    def start(cls, memo: Memo, not_before: float, jump: Jump = NO_JUMP) -> NodeClock:
        """Return the clock that goes on from `memo`; raise OSError if the boot has no name.

        After a reboot the clock begins at the wall clock's time or at `not_before`, if that is
        later, because a machine without a battery wakes up in 1970. `jump` is the longest of late.
        """
        boot = boot_id()
        known_boot = memo[0]
        if known_boot == boot:
            return cls(memo[1], boot, rebooted=False, jump=jump)
        begins = max(time.time(), not_before)
        if not_before > float("-inf"):
            new_jump = Jump(begins, begins - not_before)
            if new_jump.seconds > jump.seconds or begins - jump.at > _JUMP_COUNTS:
                jump = new_jump
        return cls(begins - clock.uptime(), boot, rebooted=known_boot != "", jump=jump)

    @property
    def memos(self) -> dict[str, object]:
        """What to store, by key: `start` takes it in the next round."""
        return {"clock": [self._boot, self.offset], "clock-jump": list(self.jump)}

    def seconds_ahead(self) -> float:
        """Return how many seconds too far the clock went on at a boot; 0 if it did not.

        The wall clock was ahead then, and has been set back since. If it is now long before the
        last round before that boot, it is the wall clock that is wrong, and says nothing.
        """
        ahead = -self.to_wall()
        possible = self.jump.seconds
        if min(ahead, possible) < _LEAST_STEP_BACK or ahead > possible + _WALL_CLOCK_OFF:
            return 0.0
        return min(ahead, possible)

    def step_back(self, seconds: float) -> StepBack:
        """Go back by what `seconds_ahead` returned; return how each time that is kept is to move.

        Those since the boot go back with the clock, and still come after the older ones. So what
        was measured since then stays the same; only the time that the machine was off is shorter.
        """
        step = StepBack(self.jump.at, seconds)
        self.offset -= seconds
        self.jump = Jump(self.jump.at - seconds, self.jump.seconds - seconds)
        return step

    @property
    def is_proven(self) -> bool:
        """Whether the clock has gone on for a day since its last jump, and may well be right."""
        return self.now() - self.jump.at >= _PROVEN_AFTER

    def now(self) -> float:
        """Return the time now."""
        return clock.uptime() + self.offset

    def to_wall(self) -> float:
        """Return the seconds to add to a time of this clock to get a time of the wall clock."""
        return time.time() - self.now()

    def from_wall(self, silence: Silence) -> Silence:
        """Return `silence` with its times on this clock instead of the wall clock."""
        ahead = self.to_wall()
        moved: Silence = codec.shift_times(silence, lambda at: at - ahead)
        return moved

    def acknowledged_from_wall(self, acknowledgement: Acknowledgement) -> Acknowledgement:
        """Return `acknowledgement` with its time on this clock instead of the wall clock."""
        return acknowledgement._replace(written=acknowledgement.written - self.to_wall())


def boot_id() -> str:
    """Return the kernel's random name of this boot; raise OSError."""
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        return file.read().strip()
