"""A virtual node: what it is, what its disk keeps, and how its times look on another node's clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from dmonitor.config.silences import SilenceFile, acknowledgements, holding
from dmonitor.core import effects, hearsay, incident
from dmonitor.core.model import (
    Acknowledgement,
    Incident,
    Kind,
    NodeStatus,
    Notification,
    Outcome,
    Silence,
    Statement,
    Test,
    TestState,
)

if TYPE_CHECKING:
    from .liar import Lie
    from .process import Process, Stay
    from .virtual_round import VirtualRound


class Disk:
    """What a node's store holds: only what was saved. It survives every crash."""

    def __init__(self) -> None:
        self.node_memory = effects.NodeMemory()
        self.test_states: dict[Test, TestState] = {}
        self.incidents: dict[str, Incident] = {}  # by every id
        self.outbox: dict[tuple[str, Kind, str], Notification] = {}
        self.silences: Mapping[str, Sequence[Silence]] = {}
        self.place = 0.0  # seconds that the next round waits after cron's start

    def save(self, save: effects.Save) -> None:
        """Store what a round wants stored."""
        self.node_memory = save.node or self.node_memory
        self.test_states |= save.test_states
        for test in save.gone:
            self.test_states.pop(test, None)
        for stored in save.incidents:
            self.put(stored)
        for notification in (*save.settled, *save.outbox):
            for key, owed in list(self.outbox.items()):
                if _is_same_debt(owed, notification):
                    del self.outbox[key]
        for notification in save.outbox:
            key = notification.incident.id, notification.kind, notification.address
            self.outbox[key] = notification
        if save.silences is not None:
            self.silences = save.silences

    def forget_hearsay(self, now: float) -> None:
        """Forget what one peer alone has stated, and nobody needs any more."""
        by_peer: dict[str, dict[str, Incident]] = {}
        owed = {incident_id for owed in self.outbox.values() for incident_id in owed.incident.ids}
        for stored in self.incidents.values():
            if stored.heard_from and owed.isdisjoint(stored.ids):
                by_peer.setdefault(stored.heard_from, {})[stored.id] = stored
        memory = self.node_memory
        for heard in by_peer.values():
            slowest = memory.slowest_interval()
            for forgotten in hearsay.to_forget(heard.values(), memory.name, slowest, now):
                for incident_id in forgotten.ids:
                    self.incidents.pop(incident_id, None)

    def put(self, stored: Incident) -> None:
        """Keep an incident under each of its ids."""
        for incident_id in stored.ids:
            self.incidents[incident_id] = stored

    def recall(self, ids: Iterable[str]) -> list[Incident]:
        """Return the incidents that have one of `ids`."""
        found = {}
        for incident_id in ids:
            if incident_id in self.incidents:
                stored = self.incidents[incident_id]
                found[stored.id] = stored
        return list(found.values())

    def listed_incidents(self, now: float) -> list[Incident]:
        """Return the incidents that are open, that owe a notification, or that closed lately."""
        stored = {each.id: each for each in self.incidents.values()}
        slowest = self.node_memory.slowest_interval()
        since = now - incident.granted(incident.LISTED_SECONDS, slowest)
        return [each for each in stored.values() if _is_listed(each, since)]

    def memory(self, now: float) -> effects.Memory:
        """Return what a round that begins now remembers."""
        return effects.Memory(
            self.node_memory,
            dict(self.test_states),
            self.listed_incidents(now),
            list(self.outbox.values()),
            self.silences,
            self.recall,
        )

    def snapshot(self) -> Disk:
        """Return what the disk holds now, as a backup has it."""
        backup = Disk()
        backup.node_memory = self.node_memory
        backup.test_states = dict(self.test_states)
        backup.incidents = dict(self.incidents)
        backup.outbox = dict(self.outbox)
        backup.silences = dict(self.silences)
        backup.place = self.place
        return backup


def _is_same_debt(one: Notification, other: Notification) -> bool:
    """Return whether both are owed for the same thing; an incident's ids may have grown meanwhile."""
    if (one.kind, one.address) != (other.kind, other.address):
        return False
    return not set(one.incident.ids).isdisjoint(other.incident.ids)


def _is_listed(stored: Incident, since: float) -> bool:
    if stored.removed:
        return False
    if stored.is_open or incident.owed(stored):
        return True
    changed_at = incident.changed_at(stored) or 0.0
    return changed_at > since


@dataclasses.dataclass
class Flight:
    """The looks of a daemon at a test; their result is given out for a while."""

    ends: float | None = None  # None as long as they last
    outcome: Outcome = Outcome.UNKNOWN
    waiting: list[Callable[[Outcome], None]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Visit:
    """A daemon's greeting of a peer, for all who ask meanwhile and for a while."""

    at: float
    waiting: list[Callable[[Outcome], None]] = dataclasses.field(default_factory=list)
    outcome: Outcome | None = None  # None as long as the greeting lasts


@dataclasses.dataclass(eq=False)
class SimNode:
    """One machine."""

    name: str
    node_id: str
    site: str
    interval: int  # minutes
    phase: float  # seconds into its interval at which its cron starts a round; negative: by chance
    tests: frozenset[Test]
    addresses: tuple[str, ...]
    offset: float = 0.0  # seconds by which its clock is ahead of the world's at the world's 0
    rate: float = 1.0  # seconds that its clock goes in a second of the world
    wall_skew: float = 0.0  # seconds by which its time of day is ahead of the true one
    jitter: float = 1.0  # seconds by which its cron may be late
    disk: Disk = dataclasses.field(default_factory=Disk)
    up: bool = True
    booted: float = float("-inf")  # when it was switched on
    cron: bool = True  # whether its cron works
    daemon: bool = True  # whether its daemon runs
    epoch: int = 0  # counts crashes: what a round had begun in an earlier epoch is lost
    next_cron: float = 0.0  # when its cron starts the next round
    running: bool = False  # whether a round runs
    round: VirtualRound | None = None  # the one that runs, or ran last
    is_old: bool = False  # whether it has dmonitor 0.2, which knows neither places nor wakes
    fixed_place: float | None = None  # its setting `offset`
    boots: int = 0  # counts power cuts, each of which ends its daemon and every other process
    # Those that wait for their place, or for the lock.
    waiting: set[Process] = dataclasses.field(default_factory=set)
    stays: list[Stay] = dataclasses.field(default_factory=list)  # that wait for a wake
    is_rung: bool = False  # whether a wake has come that no look has followed
    # The looks that wakes have made, with the number of the process that looked.
    looks: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    skipped: list[float] = dataclasses.field(default_factory=list)  # when rounds were skipped
    suspended: float = 0.0  # seconds for which the machine was suspended so far
    silences: tuple[Silence, ...] = ()
    files: tuple[SilenceFile, ...] = ()  # in its silence.d, with times of the world
    flights: dict[Test, Flight] = dataclasses.field(default_factory=dict)
    visits: dict[Test, Visit] = dataclasses.field(default_factory=dict)
    quorum: int | None = None  # its own setting, if it is not that of the world
    confirm: int | None = None
    unlisted: set[str] = dataclasses.field(default_factory=set)  # nodes that its nodes.txt lacks
    # When the machine that is suspended goes on, and when the round that is stopped does. A cron may
    # start a round before the world's 0.
    asleep_until: float = float("-inf")
    stopped_until: float = float("-inf")
    slept: float = 0.0  # seconds that the round that runs was suspended or stopped
    # What became of each mail, by its hand-over and its address; None as long as its sendmail runs.
    handed: dict[tuple[str, str], bool | None] = dataclasses.field(default_factory=dict)
    lie: Lie | None = None  # what it lies about: it takes no rounds then

    def clock(self, at: float) -> float:
        """Return what this node's clock shows at a time of the world."""
        return at * self.rate + self.offset

    def world_time(self, at: float) -> float:
        """Return the time of the world at which this node's clock shows `at`."""
        return (at - self.offset) / self.rate

    def silences_at(self, at: float) -> tuple[Silence, ...]:
        """Return what its operator silences at a time of the world, with times of its clock."""
        found = list(self.silences)
        for silence in holding(self.files, at):
            until, since = silence.until, silence.since
            found.append(
                silence._replace(
                    until=None if until is None else self.clock(until),
                    since=None if since is None else self.clock(since),
                )
            )
        return tuple(found)

    def acknowledgements(self) -> tuple[Acknowledgement, ...]:
        """Return what its operator has acknowledged, with times of its clock."""
        return tuple(
            each._replace(written=self.clock(each.written)) for each in acknowledgements(self.files)
        )

    def is_asleep(self, at: float) -> bool:
        """Return whether the machine is suspended at a time of the world."""
        return at < self.asleep_until


def shift_memory(node_memory: effects.NodeMemory, seconds: float) -> effects.NodeMemory:
    """Return a node's memory with its times moved by `seconds`."""
    heard = tuple(shift_status(status, seconds) for status in node_memory.heard)
    begins = tuple(at + seconds for at in node_memory.begins)
    finished = node_memory.finished + seconds
    return node_memory._replace(begins=begins, finished=finished, heard=heard)


def shift_status(status: NodeStatus, seconds: float) -> NodeStatus:
    """Return a node's status with its times moved by `seconds`."""
    return status._replace(at=status.at + seconds, finished=status.finished + seconds)


def shift_statement(statement: Statement, seconds: float) -> Statement:
    """Bring a statement to another node's clock; the wire carries ages."""
    if not seconds:
        return statement
    heard = [shift_status(status, seconds) for status in statement.heard]
    silences = [
        silence._replace(until=_shift(silence.until, seconds), since=_shift(silence.since, seconds))
        for silence in statement.silences
    ]
    incidents = [_shift_incident(stated, seconds) for stated in statement.incidents]
    confirming = [each._replace(since=each.since + seconds) for each in statement.confirming]
    return statement._replace(
        status=shift_status(statement.status, seconds),
        heard=tuple(heard),
        silences=tuple(silences),
        incidents=tuple(incidents),
        confirming=tuple(confirming),
    )


def _shift_incident(stated: Incident, seconds: float) -> Incident:
    return stated._replace(
        seen=stated.seen + seconds,
        told_at=stated.told_at + seconds,
        handing=stated.handing + seconds,
        began=stated.began + seconds,
        closed=_shift(stated.closed, seconds),
        acknowledged=_shift(stated.acknowledged, seconds),
        held=stated.held + seconds,
        failed=tuple((site, at + seconds) for site, at in stated.failed),
        circles=tuple(
            each._replace(since=each.since + seconds, told_at=each.told_at + seconds)
            for each in stated.circles
        ),
    )


def _shift(at: float | None, seconds: float) -> float | None:
    if at is None:
        return None
    return at + seconds
