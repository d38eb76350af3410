"""What an address wants to be told of, and when: ONLY, NOT, HOURS and AFTER (rules R5, R9).

Pure. An address without any of these wants everything at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dmonitor.base import names
from dmonitor.core.digest import digest
from dmonitor.core.model import Incident, Test

if TYPE_CHECKING:
    from dmonitor.core.hours import Hours


class Pattern(NamedTuple):
    """A shell pattern over HOST, or over HOST/TEST if it has a slash. A node is node/NAME."""

    text: str
    key: str = "ONLY"  # or NOT
    line: int = 0  # of its file; 0: not known

    def matches(self, test: Test) -> bool:
        """Return whether it matches `test`."""
        import fnmatch  # quiet rounds have no pattern to match

        subject = str(test) if "/" in self.text else test.host
        return fnmatch.fnmatchcase(subject, self.text)

    def __str__(self) -> str:
        return f"line {self.line}: {self.key}={self.text}"


class Wants(NamedTuple):
    """What the file of an address, or the head of a hook, says."""

    only: tuple[Pattern, ...] = ()  # a test has to match one of them; empty: every test does
    never: tuple[Pattern, ...] = ()  # a test may match none of them
    hours: tuple[Hours, ...] = ()  # in which it is told; empty: at any time
    after: float = 0.0  # seconds that an incident has to last before it is told
    times: tuple[str, ...] = ()  # the lines HOURS and AFTER, for people

    def covers(self, test: Test) -> bool:
        """Return whether the address is ever told of `test`."""
        return self.excluded_by(test) is None

    def excluded_by(self, test: Test) -> Pattern | None:
        """Return the pattern by which it is never told of `test`; None if it is told.

        If no pattern of ONLY matches, that is the last of them.
        """
        for pattern in self.never:
            if pattern.matches(test):
                return pattern
        if self.only and not any(pattern.matches(test) for pattern in self.only):
            return self.only[-1]
        return None

    def is_outside_hours(self, now: float) -> bool:
        """Return whether the hours of the address do not hold `now`, seconds since the epoch."""
        return bool(self.hours) and all(hours.ends(now) is None for hours in self.hours)

    def told_at(self, at: float) -> float:
        """Return when it is told what it might be told `at`: then, or when its hours begin."""
        if not self.is_outside_hours(at):
            return at
        return min(hours.next_beginning(at) for hours in self.hours)

    @property
    def circle(self) -> str:
        """The name of all addresses that are told at these times; '' if that is at once."""
        if not self.hours and not self.after:
            return ""
        return digest([*map(_hours_key, self.hours), f"after {self.after:.0f}"])


def _hours_key(hours: Hours) -> str:
    return f"{hours.begin} {hours.end} {hours.days}"


def digest_recipients(addresses: Iterable[str], wants: Mapping[str, Wants]) -> str:
    """Return the digest of alert.d: of its names, and of what its files say."""
    lines = []
    for address in addresses:
        said = wants.get(address)
        lines.append(f"{address} {_wants_key(said)}" if said else address)
    return digest(lines)


def _wants_key(wants: Wants) -> str:
    only, never = ([each.text for each in patterns] for patterns in (wants.only, wants.never))
    patterns = f"{' '.join(only)} not {' '.join(never)}"
    return f"{patterns} {' '.join(map(_hours_key, wants.hours))} {wants.after:.0f}"


class Audience:
    """Who is told of which test, in which circle."""

    def __init__(
        self,
        addresses: Sequence[str],
        wants: Mapping[str, Wants],
        outside_hours: Collection[str] = (),
    ) -> None:
        """Take the addresses and hooks, with what some of them want.

        `outside_hours` are the circles that are not told anything now.
        """
        self._wants = wants
        self._outside_hours = outside_hours
        self._circle_of = {address: said.circle for address, said in wants.items()}
        # For how many seconds an incident has to last before a circle is told, by its name.
        self.after: dict[str, float] = {}
        for address in addresses:
            if circle := self.circle_of(address):
                self.after[circle] = wants[address].after
        self._mailed = [address for address in addresses if not names.is_hook(address)]
        self._hooks = [address for address in addresses if names.is_hook(address)]
        self._found: dict[tuple[Test, str], tuple[list[str], list[str]]] = {}

    def circle_of(self, address: str) -> str:
        """Return the circle of `address`; '' if it is told at once."""
        return self._circle_of.get(address, "")

    def wants(self, address: str, test: Test) -> bool:
        """Return whether `address` is ever told of `test`."""
        return address not in self._wants or self._wants[address].covers(test)

    def recipients(self, test: Test, circle: str = "", *, by_hooks: bool = False) -> list[str]:
        """Return who in `circle` is told of `test`: the addresses, or the hooks if there is none.

        A hook gets what a mail has told; only if nobody is mailed, or `by_hooks` says so, the hooks
        are told themselves.
        """
        mailed, hooks = self._find(test, circle)
        return [*mailed, *hooks] if by_hooks or not mailed else mailed

    def is_told(self, view: Incident) -> bool:
        """Return whether anybody is told of `view`, an incident by the eyes of a circle.

        Without any address it is owed all the same: there will be one.
        """
        if not self._mailed and not self._hooks:
            return True
        return bool(self.recipients(view.test, view.circle))

    def hooks(self, test: Test, circle: str) -> list[str]:
        """Return the hooks in `circle` that are run for `test`."""
        return self._find(test, circle)[1]

    def _find(self, test: Test, circle: str) -> tuple[list[str], list[str]]:
        if not self._wants:
            return ([], []) if circle else (self._mailed, self._hooks)
        key = test, circle
        if key not in self._found:
            self._found[key] = (
                [each for each in self._mailed if self._is_in(each, test, circle)],
                [each for each in self._hooks if self._is_in(each, test, circle)],
            )
        return self._found[key]

    def _is_in(self, address: str, test: Test, circle: str) -> bool:
        return self.circle_of(address) == circle and self.wants(address, test)

    def is_outside_hours(self, circle: str) -> bool:
        """Return whether `circle` is not told anything now."""
        return circle in self._outside_hours
