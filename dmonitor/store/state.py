"""What outlives a round: the node's memory, with incidents and outbox (R4, R6).

A `Save` is one transaction, which is synced to disk before `Store.save` returns. Where it is
written is the business of `fallback`, and as which rows that of `tables` and `history`. What any
of it means is decided in the core.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from dmonitor.base import cli, log
from dmonitor.base.errors import StateError
from dmonitor.core import hearsay
from dmonitor.core.effects import Memory, NodeMemory, Save
from dmonitor.core.incident import LISTED_SECONDS, granted
from dmonitor.core.model import Handed, Incident, NodeName, Recipient, Test, TestState
from dmonitor.store import database, history, identity, node_clock, tables
from dmonitor.store.database import Connection
from dmonitor.store.fallback import Fallback
from dmonitor.store.history import History
from dmonitor.store.node_clock import NodeClock

_READ_TRIES = 6  # how often a reader reads, because rounds store something meanwhile
_READ_PAUSE = 0.02  # seconds between two of them
_READ_LIMIT = 20.0  # seconds for a command; 100 MB of history take less than 2

# SQL: the incidents that are open, owe something, or changed lately.
_LISTED = "alive OR closed > ?"

_Addresses = tuple[Recipient, ...]
_Lookups = dict[NodeName, tuple[str, ...]]  # the IP addresses of each node

_Found = TypeVar("_Found")


class NothingStored(StateError):
    """There is a database, and no round has stored anything in it."""


def peek(directory: str, run_dir: str | None = None) -> tuple[str, list[Incident], NodeMemory]:
    """Return the node's id, the incidents that still matter, and its memory; change nothing.

    Without a node id there is a random one, without a state nothing in it. Raise StateError if one
    of them is there and cannot be read.
    """
    with time_limit(directory):
        node_id = identity.read(directory) or fresh_id()
        if not any(os.path.exists(path) for path in _paths(directory, run_dir)):
            return node_id, [], NodeMemory()
        try:
            incidents, memory = read(
                directory, run_dir, lambda store: (store.incidents(), store.node_memory())
            )
        except NothingStored:
            return node_id, [], NodeMemory()
        return node_id, incidents, memory


def time_limit(directory: str) -> contextlib.AbstractContextManager[None]:
    """Return a context in which a command reads the state, and which ends it if that hangs."""
    reason = (
        f"reading it took longer than {_READ_LIMIT:.0f} s:"
        " another program may have replaced a file in it, or may hold it locked"
    )
    return cli.time_limit(_READ_LIMIT, f"unable to use the state in {directory}", reason)


def read(directory: str, run_dir: str | None, look: Callable[[Store], _Found]) -> _Found:
    """Return what `look` returns of the state; raise StateError if it cannot be read.

    A reader holds no lock. A round that commits meanwhile makes the read inconsistent, so `look`
    is called again then.
    """
    paths = _paths(directory, run_dir)
    for _ in range(_READ_TRIES - 1):
        before = [database.fingerprint(path) for path in paths]
        try:
            found = _read_once(directory, run_dir, look)
        except StateError:
            if before == [database.fingerprint(path) for path in paths]:
                raise
        else:
            # The write-ahead log may grow: the reader sees one moment of it.
            files_before = [fingerprint.file for fingerprint in before]
            if files_before == [database.fingerprint(path).file for path in paths]:
                return found
        time.sleep(_READ_PAUSE)
    return _read_once(directory, run_dir, look)


def version(directory: str, run_dir: str | None) -> object:
    """Return what differs once the state has been written to, or stands in another place."""
    return [database.fingerprint(path) for path in _paths(directory, run_dir)]


def _read_once(directory: str, run_dir: str | None, look: Callable[[Store], _Found]) -> _Found:
    with Store(directory, run_dir, read_only=True) as store:
        return look(store)


def _paths(directory: str, run_dir: str | None) -> list[str]:
    """Return the paths at which a database may be."""
    paths = [f"{directory}/state.db"]
    if run_dir:
        paths.append(f"{run_dir}/state.db")
    return paths


def fresh_id() -> str:
    """Return a random id for an incident that may open."""
    return os.urandom(8).hex()


class Store:
    """The state of a node: what it remembers, its clock, and its history.

    It is in the database of the state directory, or in the one that stands in for it. The
    constructor raises StateError if not even reading is possible; so does every method.
    """

    clock: NodeClock
    history: History  # of the database in use: another one after a `save` that had to fall back

    def __init__(
        self, directory: str, run_dir: str | None = None, *, read_only: bool = False
    ) -> None:
        self._fallback = Fallback(directory, run_dir)
        self._path = self._fallback.path
        self._shift = 0.0  # seconds that are added to every time that is read
        with database.state_errors(self._path):
            if read_only:
                self._open_read_only()
            else:
                self._open()

    def _open_read_only(self) -> None:
        db = self._fallback.open_read_only()
        version = database.schema_version(db)
        if version == database.EMPTY_VERSION:
            raise NothingStored(
                f"{self._path} is empty: no round has stored anything on this node yet"
            )
        database.show_as_current(db, version)
        self._use(db, has_history=database.has_history(version))
        self._start_clock()

    def _open(self) -> None:
        self._use(self._fallback.open())
        self._start_clock()
        self.memory()
        self.addresses()
        self.lookups()
        if self._db.unusable:
            database.log_unusable(self._db, self._path)
            self._write(tables.forget_unusable)
        self._bring_clock_back()

    def _bring_clock_back(self) -> None:
        """Take back what a boot made the clock too late, and move all times with it (R10)."""
        seconds = self.clock.seconds_ahead()
        if not seconds:
            return
        step = self.clock.step_back(seconds)

        def put(db: Connection) -> None:
            tables.step_back(db, step)
            history.step_back(db, step)
            tables.write_memos(db, self.clock.memos)

        self._write(put)
        log.warning(
            "clock-brought-back",
            seconds=round(seconds),
            reason="the wall clock was ahead when this machine was started",
        )

    def _use(self, db: Connection, *, has_history: bool = True) -> None:
        self._db = db
        self.history = History(db, self._path, exists=has_history)

    def _start_clock(self) -> None:
        memo = tables.read_memo(self._db, "clock", node_clock.Memo, node_clock.NEW_MEMO)
        jump = tables.read_memo(self._db, "clock-jump", node_clock.JumpMemo, node_clock.NO_JUMP)
        self.clock = NodeClock.start(memo, self.node_memory().finished, node_clock.Jump(*jump))

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @property
    def unusable(self) -> str:
        """What was left out of all that was read, because it breaks a rule; empty if nothing."""
        return database.describe_unusable(self._db)

    @property
    def failed(self) -> str:
        """Why the state cannot be written; empty if it can."""
        return self._fallback.failed

    def shift_times(self, seconds: float) -> None:
        """Add `seconds` to every time that is read, for a reader that shows times to people."""
        self._shift = seconds
        self.history.shift = seconds

    # What is remembered.

    def memory(self) -> Memory:
        """Return all that a round needs; of the incidents those that `incidents` returns."""
        with database.state_errors(self._path):
            memory = self.node_memory()
            return Memory(
                memory,
                self.test_states(),
                self._incidents(memory),
                tables.read_outbox(self._db, self._shift),
                tables.read_silences(self._db, self._shift),
                self.recall,
            )

    def node_memory(self) -> NodeMemory:
        """Return what the node remembers of its own rounds."""
        with database.state_errors(self._path):
            return tables.read_node_memory(self._db, self._shift)

    def test_states(self) -> dict[Test, TestState]:
        """Return how each test was in the last round."""
        with database.state_errors(self._path):
            return tables.read_test_states(self._db, self._shift)

    def incidents(self) -> list[Incident]:
        """Return the incidents that are open, owe something, or changed lately."""
        with database.state_errors(self._path):
            return self._incidents(self.node_memory())

    def _incidents(self, memory: NodeMemory) -> list[Incident]:
        since = self._listed_since(memory)
        return tables.read_incidents(self._db, _LISTED, (since,), shift=self._shift)

    def each_incident(self) -> Iterator[Incident]:
        """Yield what `incidents` returns, without evidence, one at a time.

        The daemon uses this: its memory must not grow with what its peers state.
        """
        with database.state_errors(self._path):
            since = self._listed_since(self.node_memory())
            yield from tables.each_incident(
                self._db, _LISTED, (since,), shift=self._shift, evidence=False
            )

    def _listed_since(self, memory: NodeMemory) -> float:
        return self.clock.now() - granted(LISTED_SECONDS, memory.slowest_interval())

    def recall(self, ids: Iterable[str]) -> list[Incident]:
        """Return the incidents that were ever known under one of the ids."""
        condition = (
            "number IN (SELECT incident FROM known WHERE id IN (SELECT value FROM json_each(?)))"
        )
        with database.state_errors(self._path):
            return tables.read_incidents(
                self._db, condition, (json.dumps(list(ids)),), shift=self._shift
            )

    def addresses(self, also: Iterable[str] = ()) -> tuple[str, ...]:
        """Return the addresses that were last found in alert.d, and those in `also`."""
        with database.state_errors(self._path):
            remembered = tables.read_memo(self._db, "addresses", _Addresses, ())
            return tuple(sorted({*remembered, *also}))

    def lookups(self) -> dict[str, tuple[str, ...]]:
        """Return the IP addresses that each node's name was last found to have."""
        with database.state_errors(self._path):
            lookups: dict[str, tuple[str, ...]] = tables.read_memo(
                self._db, "lookups", _Lookups, {}
            )
            return lookups

    # What is stored.

    def remember(self, addresses: Iterable[str], lookups: Mapping[str, Iterable[str]]) -> None:
        """Store addresses and lookups, for a time when they cannot be found; write only news."""
        sorted_lookups = {name: tuple(sorted(found)) for name, found in sorted(lookups.items())}
        found = {"addresses": tuple(sorted(addresses)), "lookups": sorted_lookups}
        news = {}
        with database.state_errors(self._path):
            for key, kind in (("addresses", _Addresses), ("lookups", _Lookups)):
                if found[key] != tables.read_memo(self._db, key, kind, None):
                    news[key] = found[key]
        if news:
            self._write(lambda db: tables.write_memos(db, news))

    def save(self, save: Save) -> bool:
        """Store `save` in one transaction; return whether it is in the state.

        If the state cannot be written, `save` is in its stand-in, and another node should speak.
        """
        self._write(lambda db: self._put(db, save))
        return not self.failed

    def _write(self, put: Callable[[Connection], None]) -> None:
        try:
            database.write(self._db, put, self._path)
        except database.Error as error:
            self._use(self._fallback.replace(self._db, error))
            with database.state_errors(self._path):
                database.write(self._db, put, self._path)

    def _forget_hearsay(self, db: Connection, save: Save) -> None:
        """Forget what one peer alone has stated, and nobody needs any more.

        The hearsay of a peer is looked through if some of it is new or recent.
        """
        peers = {hearsay.charged_to(incident) for incident in save.incidents} - {""}
        if not peers and not save.node:
            return
        now = self.clock.now()
        memory = tables.read_node_memory(db, 0.0)
        slowest = memory.interval_that_holds()
        if save.node:
            since = now - 2 * granted(hearsay.OVER_SECONDS, slowest)
            peers |= tables.read_sources(db, since)
        for peer in sorted(peers - {""}):
            heard = tables.read_hearsay(db, peer)
            forgotten = hearsay.to_forget(heard, memory.name, slowest, now)
            tables.forget_incidents(db, forgotten)

    def _put(self, db: Connection, save: Save) -> None:
        if save.node:
            tables.write_node_memory(db, save.node, self.clock.memos)
        if save.silences is not None:
            tables.write_silences(db, save.silences)
        tables.write_test_states(db, save.test_states, save.gone)
        for incident in save.incidents:
            tables.write_incident(db, incident)
        tables.write_outbox(db, save.outbox, save.settled)
        if save.changes or save.told:
            now = self.clock.now()
            handed = []
            for told in save.told:
                handed.append(Handed(told.incident.id, told.kind, told.address, now))
            history.write(db, save.changes, handed)
            if self.clock.is_proven:
                # A clock that is ahead of the wall clock makes nothing look old.
                history.forget(db, now + min(0.0, self.clock.to_wall()))
        self._forget_hearsay(db, save)
