"""The clock of durations: it counts sleep, also that of a machine whose clocks were stopped."""

from __future__ import annotations

import time

import pytest

from dmonitor.base import clock
from dmonitor.driver import Clock


class Kernel:
    """The clocks of a machine, and what has waited on them."""

    def __init__(self) -> None:
        self.up = 100.0
        self.wall = 1e9
        self.sleep_after = 0  # pauses after which the machine sleeps for an hour
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        """Let time pass for a process, as time.sleep does."""
        self.pauses.append(seconds)
        self.up += seconds
        self.wall += seconds
        if len(self.pauses) == self.sleep_after:
            self.up += 3600.0
            self.wall += 3600.0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(time, "clock_gettime", lambda _: made.up)
    monkeypatch.setattr(time, "time", lambda: made.wall)
    monkeypatch.setattr(time, "sleep", made.pause)
    return made


def test_it_is_the_kernels_clock_that_counts_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = {time.CLOCK_BOOTTIME: 7.0}
    monkeypatch.setattr(time, "clock_gettime", kernel.__getitem__)
    assert clock.uptime() == 7.0


def test_a_stopwatch_goes_by_the_clock_that_shows_most(kernel: Kernel) -> None:
    """No clock in a virtual machine moves while it is paused; then its wall clock is set forward."""
    of_round = Clock(clock.Stopwatch(), lambda: 0.0)
    kernel.pause(5.0)
    assert of_round.elapsed() == 5.0
    kernel.wall -= 3600.0
    assert of_round.elapsed() == 5.0, "a wall clock that is set back does nothing"
    kernel.wall += 3600.0 + 600.0
    assert of_round.elapsed() == 605.0, "paused"
    kernel.up += 3600.0
    assert of_round.elapsed() == 3605.0, "suspended"


def test_a_wait_ends_soon_after_a_sleep(kernel: Kernel) -> None:
    """The kernel's own would go on for as long as it had still to go before the sleep."""
    clock.wait(10.0)
    assert kernel.up == pytest.approx(110.0) and max(kernel.pauses) <= clock.LONGEST_WAIT
    kernel.pauses, kernel.sleep_after = [], 3
    clock.wait(10.0)
    assert kernel.pauses == [clock.LONGEST_WAIT] * 3
    clock.wait(-1.0)
    assert len(kernel.pauses) == 3
