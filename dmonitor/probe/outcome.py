"""What ends a look, other than success: a fault of the host, or one of this node; and its time."""

from __future__ import annotations

from dmonitor.base import clock


class Fail(Exception):
    """The host's fault, as text: the test fails."""


class Unknown(Exception):
    """This node's own fault, as text: nothing is known of the host."""


class Unreachable(Unknown):
    """This node has no way to an address; it may have one to another address of the host."""


class Deadline:
    """When a look ends."""

    def __init__(self, end: float, seconds: int) -> None:
        self.end = end  # in uptime
        self.seconds = seconds  # that the host was given, as TIMEOUT says

    def left(self) -> float:
        """Return the seconds until the deadline; 0.0 after it."""
        return max(0.0, self.end - clock.uptime())

    def late(self) -> Fail:
        """Return the fault of a host that has not answered by the deadline."""
        return Fail(f"no answer within {self.seconds} s")


def verdict(faults: list[Fail | Unknown]) -> Fail | Unknown | None:
    """Return the one of the faults of all addresses that counts; None if there is none.

    An address to which this node has no way says nothing as long as it has a way to another one.
    Any other fault of this node's own leaves open whether the host works there.
    """
    ways = [fault for fault in faults if not isinstance(fault, Unreachable)]
    for fault in ways:
        if isinstance(fault, Unknown):
            return fault
    if ways:
        return ways[0]
    return faults[0] if faults else None
