"""What outlives a round: the books with incidents and outbox (rules R4, R6).

The only module that knows what is in the database. What a Save says is one transaction, synced to disk before it returns. Where
that fails, a stand-in in memory goes on: a database in the run directory, which takes over until the state can be
written again. What any of it means is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from dmonitor.base import log
from dmonitor.base.errors import StateError
from dmonitor.core import codec, incident
from dmonitor.core.effects import Memory, NodeMemory, Save
from dmonitor.core.model import (
    Change,
    Handed,
    Incident,
    Judgement,
    Kind,
    NodeName,
    Notification,
    Outcome,
    Silence,
    Test,
    TestState,
    Verdict,
)
from dmonitor.store import database, identity

_Silences = tuple[tuple[NodeName, tuple[Silence, ...]], ...]  # by the node that said them

HISTORY_SECONDS = 400 * 86400.0  # seconds for which history is kept
CHANGES_KEPT = 500  # of one test, beyond which the oldest are not kept
_TRIES = 6  # of a reader, while rounds end
_OF_TEST = "? IN ('', value ->> '$.test.host') AND ? IN ('', value ->> '$.test.name')"  # of an incident; '' is any


_Found = TypeVar("_Found")


def peek(directory: str, run: str | None = None) -> tuple[str, list[Incident], NodeMemory]:
    """Return id, incidents and rounds without making or changing anything; what is not there yet has a stand-in."""
    known = identity.known(directory)
    if not any(each and os.path.exists(f"{each}/state.db") for each in (directory, run)):
        return known or fresh_id(), [], NodeMemory()
    return known or fresh_id(), *read(
        directory, run, lambda state: (state.incidents(), state.node_memory())
    )


def read(directory: str, run: str | None, what: Callable[[State], _Found]) -> _Found:
    """Return what WHAT reads of the state that is there; StateError if it cannot be read.

    A round that ends meanwhile may tear what is read, for better or for worse; so it is read again then.
    """
    paths, left = [f"{each}/state.db" for each in (directory, run) if each], _TRIES
    while True:
        before, left = list(map(database.file_fingerprint, paths)), left - 1
        try:
            with State(directory, run, read_only=True) as state:
                found = what(state)
            if not left or [files for files, _ in before] == [
                files for files, _ in map(database.file_fingerprint, paths)
            ]:
                return found
        except StateError:
            if not left or before == list(map(database.file_fingerprint, paths)):
                raise
        time.sleep(0.02)


def fresh_id() -> str:
    """Return an id for an incident that may open."""
    return os.urandom(8).hex()


def _judged(evidence: bool) -> str:
    """Return what to select of a change: its judgement, or no more of that than our own answer."""
    return (
        "judgement"
        if evidence
        else "json_set(judgement, '$.answers', json_array(judgement -> '$.answers[0]'))"
    )


class NodeClock:
    """This node's clock: seconds since the epoch, more or less; it never goes back, and nobody can set it.

    The monotonic clock of this boot, OFFSET later.
    """

    def __init__(self, offset: float) -> None:
        self.offset = offset

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) + self.offset

    def to_wall(self) -> float:
        """Return what to add to a time of this clock for a time of the wall clock."""
        return time.time() - self.now()


class State:
    """The database in DIRECTORY, or the one in RUN that stands in for it; StateError where not even reading is possible.

    `failed` says why the state cannot be written, and is empty while it can. `shift` is added to the times that are read, for who
    shows them and writes nothing. `broken` says why some of what has changed could not be read, `rebooted` that no round has
    stored anything since this machine was started.
    """

    shift = 0.0
    broken = ""
    _has_history = True  # a round of this version has been here

    def __init__(self, directory: str, run: str | None = None, *, read_only: bool = False) -> None:
        self._path = f"{directory}/state.db"
        self._substitute = f"{run}/state.db" if run else None
        self.failed = ""
        with self._named():
            if read_only:
                there = (
                    self._substitute
                    if self._substitute and os.path.exists(self._substitute)
                    else self._path
                )
                self.failed = (
                    "" if there is self._path else f"{self._path}: see what dmonitor-check logs"
                )
                self._db = database.connect_reading(there)
                self._db.execute("BEGIN")
                self._has_history = database.version_of(self._db) == database.VERSION
                self._start_clock()
            else:
                self._open()
                try:
                    with self._named():
                        self._start_clock()
                        self.memory()
                except StateError as error:
                    if isinstance(error.__cause__, sqlite3.Error | OSError):
                        raise
                    self._db.close()  # sqlite finds it whole, and yet it is not ours
                    database.set_aside(
                        self._substitute if self.failed and self._substitute else self._path,
                        str(error.__cause__),
                    )
                    self._open()
                    self._start_clock()

    def _start_clock(self) -> None:
        memo = self._memo("clock", ["", 0.0])
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            boot = file.read().strip()
        fresh = max(time.time(), self.node_memory().finished) - time.clock_gettime(
            time.CLOCK_BOOTTIME
        )
        self.rebooted = memo[0] not in ("", boot)
        self.clock = NodeClock(memo[1] if memo[0] == boot else fresh)
        self._clock_memo = [boot, self.clock.offset]

    def _open(self) -> None:
        """Open the database for writing; where that fails, what stands in for it."""
        try:
            self._db = database.open_or_set_aside(self._path)
            self._take_back()
        except (sqlite3.Error, OSError) as error:
            self._stand_in(error, None)

    def _take_back(self) -> None:
        """Store what stood in meanwhile; where that began as no copy, only what it learnt."""
        if self._substitute is None or not os.path.exists(self._substitute):
            return
        own, learnt = self._db, Save()
        history: tuple[list[Change], list[Handed]] = [], []
        try:
            with contextlib.closing(database.open_whole(self._substitute)) as self._db:
                if self._memo("partial", self._memo("clock", None) is None):
                    known = tuple(self._incidents("TRUE", ()))
                    learnt = Save(incidents=known, outbox=tuple(self._outbox()))
                    history = self.changes(), self.handed()
                else:
                    self._db.backup(own)
        except sqlite3.Error as error:
            if not database.is_broken(error):
                raise
            log.error("database-broken", path=self._substitute, reason=str(error))
        finally:
            self._db = own

        def put() -> None:
            self._put_all(learnt)
            self._put_history(*history)

        self._put_or_renew(put)
        database.remove(self._substitute)
        log.info("stored-again", path=self._path)

    def _stand_in(self, error: Exception, before: sqlite3.Connection | None) -> None:
        """Go on with what is in the run directory, with a copy of BEFORE there, or failing that in memory only."""
        place, again = self._substitute, False
        if place and os.path.exists(place):
            try:
                self._db, again = database.open_whole(place), True
            except sqlite3.Error as failed:
                if database.is_broken(failed):
                    database.remove(place)
                else:
                    place = None
        if not again:
            self._db = self._in_memory(before)
            log.complain(f"unable to write {self._path}: {error}; going on without")
            try:
                self._db = database.written(self._db, place) if place else self._db
            except (sqlite3.Error, OSError):
                place = None
        self.failed = f"{self._path}: {error}"
        log.error("not-stored", path=self._path, reason=str(error), instead=place or "memory")

    def _in_memory(self, before: sqlite3.Connection | None) -> sqlite3.Connection:
        """Return a copy of BEFORE, failing that of what can be read of the state, failing that an empty one that says so."""
        import shutil
        import tempfile

        memory = database.connect(":memory:")
        with contextlib.suppress(sqlite3.Error):
            if before:
                before.backup(memory)
                database.prepare(memory)  # its history may have been dropped for being broken
                return memory
        # On a full disk sqlite has no room beside the database even for reading.
        for room in ([os.path.dirname(self._substitute)] if self._substitute else []) + [
            tempfile.gettempdir()
        ]:
            with (
                contextlib.suppress(sqlite3.Error, OSError),
                tempfile.TemporaryDirectory(dir=room) as directory,
            ):
                copy = f"{directory}/state.db"
                for suffix in ("", "-wal"):
                    with contextlib.suppress(FileNotFoundError):
                        shutil.copyfile(self._path + suffix, copy + suffix)
                with contextlib.closing(database.open_whole(copy)) as db:
                    db.backup(memory)
                    return memory
        memory = database.connect(":memory:")
        database.prepare(memory)
        memory.execute("INSERT INTO memo VALUES ('partial', 'true')")
        return memory

    def __enter__(self) -> State:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def _memo(self, key: str, default: Any) -> Any:
        row = self._db.execute("SELECT value FROM memo WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else default

    def memory(self) -> Memory:
        """Return all that is remembered: of the incidents those that are open, owe something, or were closed lately."""
        with self._named():
            rows = self._db.execute(
                "SELECT host, name, verdict, own, iif(since, since + ?, 0.0), downs FROM standing",
                (self.shift,),
            ).fetchall()
            return Memory(
                self.node_memory(),
                {
                    Test(host, name): TestState(Verdict(verdict), Outcome(seen), *rest)
                    for host, name, verdict, seen, *rest in rows
                },
                self.incidents(),
                self._outbox(),
                dict(self._read(_Silences, self._memo("silences", "[]"))),
                self.recall,
            )

    def from_wall(self, silence: Silence) -> Silence:
        """Return SILENCE with its end on this node's clock."""
        return (
            silence
            if silence.until is None
            else silence._replace(until=silence.until - self.clock.to_wall())
        )

    def node_memory(self) -> NodeMemory:
        with self._named():
            own: NodeMemory = self._read(NodeMemory, self._memo("own", "{}"))
            return own

    def incidents(self, *, evidence: bool = True) -> list[Incident]:
        """Return the incidents that are open, owe something, or were closed lately; without EVIDENCE that is quicker."""
        with self._named():
            since = self.clock.now() - incident.LISTED_SECONDS
            what = "value" if evidence else "json_remove(value, '$.opening', '$.closing')"
            return self._incidents("alive OR closed > ?", (since,), what)

    def recall(self, ids: Iterable[str]) -> list[Incident]:
        """Return the incidents that were ever known under one of IDS."""
        wanted = json.dumps(list(ids))
        chosen = (
            "number IN (SELECT incident FROM known WHERE id IN (SELECT value FROM json_each(?)))"
        )
        with self._named():
            return self._incidents(chosen, (wanted,))

    def _history(self, select: str, facts: Sequence[object] = ()) -> list[Any]:
        """Return rows of what has changed; none where it is broken, or of a version before."""
        if not self._has_history:
            return []
        try:
            return self._db.execute(select, facts).fetchall()
        except sqlite3.DatabaseError as error:
            if not database.is_broken(error):
                raise
            self.broken = str(error)
            return []

    def changes(self, test: tuple[str, str] = ("", ""), *, evidence: bool = True) -> list[Change]:
        """Return what has changed, oldest first; of TEST, as in `past`; without EVIDENCE but our own that is quicker."""
        ours = [
            (column, value) for column, value in zip(("host", "name"), test, strict=True) if value
        ]
        where = " AND ".join([f"{column} = ?" for column, _ in ours] or ["TRUE"])
        with self._named():
            return self._changes(
                f"at, {_judged(evidence)} FROM change WHERE {where} ORDER BY at",
                [value for _, value in ours],
            )

    def handed(self, test: tuple[str, str] = ("", "")) -> list[Handed]:
        """Return what this node handed over, oldest first; of TEST, as in `past`."""
        with self._named():
            select = "SELECT DISTINCT value ->> '$.ids[0]', kind, address, at + ? FROM handed JOIN incident ON number = incident"
            rows = self._history(f"{select} WHERE {_OF_TEST} ORDER BY at", (self.shift, *test))
            return [Handed(known, Kind(kind), *rest) for known, kind, *rest in rows]

    def past(self, test: tuple[str, str] = ("", ""), since: float = 0.0) -> list[Incident]:
        """Return the incidents that are open, or were closed SINCE a time, oldest first.

        Of TEST only, a host's name and a test's; with the second empty, of all of that host, and with both, of everything.
        """
        with self._named():
            found = self._incidents(
                f"(closed IS NULL OR closed >= ?) AND {_OF_TEST}", (since, *test)
            )
            return sorted(found, key=lambda known: known.began)

    def known_since(self, test: Test | None = None) -> float:
        """Return when the oldest change was that is known, of TEST or of all."""
        where = " WHERE host = ? AND name = ?" if test else ""
        with self._named():
            oldest = [
                at
                for (at,) in self._history(f"SELECT min(at) FROM change{where}", test or ())
                if at is not None
            ]
            return self.shift + (oldest[0] if oldest else self.clock.now())

    def latest(self, tests: Iterable[Test], *, evidence: bool = True) -> dict[Test, Change]:
        """Return the last change of each of TESTS; without EVIDENCE but our own that is quicker."""
        last = f"at, {_judged(evidence)} FROM change WHERE host = ? AND name = ? ORDER BY at DESC LIMIT 1"
        with self._named():
            return {test: change for test in tests for change in self._changes(last, test)}

    def _changes(self, chosen: str, facts: Sequence[object] = ()) -> list[Change]:
        found = []
        for host, name, at, judged in self._history(f"SELECT host, name, {chosen}", facts):
            try:
                found.append(
                    Change(Test(host, name), at + self.shift, self._read(Judgement, judged))
                )
            except (ValueError, TypeError, KeyError) as error:
                self.broken = f"of {host}/{name}: {error}"
        return found

    def _read(self, kind: Any, text: str) -> Any:
        return codec.read(kind, text, lambda at: at + self.shift, trusted=True)

    def _incidents(
        self, where: str, facts: Sequence[object], what: str = "value"
    ) -> list[Incident]:
        rows = self._db.execute(f"SELECT {what} FROM incident WHERE {where}", facts)
        return [self._read(Incident, value) for (value,) in rows]

    def _outbox(self) -> list[Notification]:
        rows = self._db.execute(
            "SELECT incident, kind, address, since + ?, refusals FROM outbox ORDER BY since",
            (self.shift,),
        ).fetchall()
        found = []
        for number, kind, *rest in rows:
            (known,) = self._incidents("number = ?", (number,))
            found.append(Notification(Kind(kind), known, *rest))
        return found

    def addresses(self, also: Iterable[str] = ()) -> tuple[str, ...]:
        """Return the addresses that were last found in alert.d, and those of ALSO."""
        with self._named():
            return tuple(sorted({*self._memo("addresses", []), *also}))

    def lookups(self) -> dict[str, list[str]]:
        """Return the addresses that each node's name was last found to have."""
        with self._named():
            lookups: dict[str, list[str]] = self._memo("lookups", {})
            return lookups

    def remember(self, addresses: Iterable[str], lookups: Mapping[str, Iterable[str]]) -> None:
        """Keep what was found, for a time when it cannot be; write only what is new."""
        found = {
            "addresses": sorted(addresses),
            "lookups": {name: sorted(where) for name, where in sorted(lookups.items())},
        }
        with self._named():
            news = {key: value for key, value in found.items() if value != self._memo(key, None)}
        if news:
            self._write(lambda: self._put_memos(news))

    def save(self, what: Save) -> bool:
        """Store WHAT in one transaction; return whether it is on disk, or only in what stands in for it."""
        self._write(lambda: self._put_all(what))
        return not self.failed

    def _write(self, put: Any) -> None:
        try:
            self._put_or_renew(put)
        except sqlite3.Error as error:
            if (
                self.failed
            ):  # not even the stand-in can be written: what can be done is done in memory
                self._substitute = None
            self._stand_in(error, self._db)
            with self._named():
                self._put_or_renew(put)

    def _put_or_renew(self, put: Any) -> None:
        try:
            with database.transaction(self._db):
                put()
        except sqlite3.DatabaseError as error:
            if not database.is_broken(error):
                raise
            database.renew_history(self._db)
            log.complain(f"what has changed is lost: {self._path}: {error}; begun anew")
            with database.transaction(self._db):
                put()

    def _put_memos(self, memos: Mapping[str, object]) -> None:
        self._db.executemany(
            "REPLACE INTO memo VALUES (?, ?)",
            [(key, json.dumps(value)) for key, value in memos.items()],
        )

    def _put_all(self, what: Save) -> None:
        if what.node:
            self._put_memos({"own": codec.write(NodeMemory, what.node), "clock": self._clock_memo})
        if what.silences is not None:
            self._put_memos({"silences": codec.write(_Silences, tuple(what.silences.items()))})
        for test, now_is in what.test_states.items():
            standing = (
                test.host,
                test.name,
                now_is.verdict.value,
                now_is.own_outcome.value,
                now_is.since,
                now_is.downs,
            )
            self._db.execute("REPLACE INTO standing VALUES (?, ?, ?, ?, ?, ?)", standing)
        gone = [(test.host, test.name) for test in what.gone]
        self._db.executemany("DELETE FROM standing WHERE host = ? AND name = ?", gone)
        for known in what.incidents:
            self._put(known)
        for each in what.outbox:
            left = (
                self._number(each.incident),
                each.kind.value,
                each.address,
                each.since,
                each.refusals,
            )
            self._db.execute("REPLACE INTO outbox VALUES (?, ?, ?, ?, ?)", left)
        if what.changes or what.told:
            now = self.clock.now()
            self._put_history(
                what.changes,
                [Handed(each.incident.id, each.kind, each.address, now) for each in what.told],
            )
            self._forget(now)
        for each in what.settled:
            gone_out = (self._number(each.incident), each.kind.value, each.address)
            self._db.execute(
                "DELETE FROM outbox WHERE incident = ? AND kind = ? AND address = ?", gone_out
            )

    def _put_history(self, changes: Iterable[Change], handed: Iterable[Handed]) -> None:
        for test, at, judged in changes:
            self._db.execute(
                "REPLACE INTO change VALUES (?, ?, ?, ?)",
                (*test, at, codec.write(Judgement, judged)),
            )
            oldest = "(SELECT at FROM change WHERE host = ? AND name = ? ORDER BY at DESC LIMIT 1 OFFSET ?)"
            self._db.execute(
                f"DELETE FROM change WHERE host = ? AND name = ? AND at <= {oldest}",
                (*test, *test, CHANGES_KEPT),
            )
        rows = [(each.kind.value, each.address, each.at, each.incident) for each in handed]
        self._db.executemany(
            "INSERT INTO handed SELECT incident, ?, ?, ? FROM known WHERE id = ?", rows
        )

    def _forget(self, now: float) -> None:
        """Drop the history that is older than it has to be, and the evidence of incidents; once a day."""
        if now - self._memo("forgotten", 0.0) < 86400:
            return
        self._put_memos({"forgotten": now})
        last = "(SELECT max(at) FROM change AS other WHERE other.host = change.host AND other.name = change.name)"
        self._db.execute(
            f"DELETE FROM change WHERE at < ? AND at < {last}", (now - HISTORY_SECONDS,)
        )
        self._db.execute("DELETE FROM handed WHERE at < ?", (now - HISTORY_SECONDS,))
        bare = "value = json_remove(value, '$.opening', '$.closing')"
        full = "coalesce(value -> '$.opening', value -> '$.closing') IS NOT NULL"
        self._db.execute(
            f"UPDATE incident SET {bare} WHERE NOT alive AND closed < ? AND {full}",
            (now - HISTORY_SECONDS,),
        )

    def _number(self, what: Incident) -> int | None:
        row = self._db.execute("SELECT incident FROM known WHERE id = ?", (what.id,)).fetchone()
        return row[0] if row else None

    def _put(self, what: Incident) -> None:
        """Store WHAT in place of every incident that it shares an id with."""
        shared = "SELECT incident FROM known WHERE id IN (SELECT value FROM json_each(?))"
        rows = self._db.execute(
            f"SELECT id, incident FROM known WHERE incident IN ({shared})", (json.dumps(what.ids),)
        ).fetchall()
        olds = sorted({number for _, number in rows})
        what = what._replace(ids=tuple(sorted({*what.ids, *(known for known, _ in rows)})))
        alive = what.is_open or bool(incident.owed(what))
        row = (
            olds[0] if olds else None,
            alive,
            incident.changed_at(what),
            codec.write(Incident, what),
        )
        number = self._db.execute("REPLACE INTO incident VALUES (?, ?, ?, ?)", row).lastrowid
        for old in olds[1:]:
            self._db.execute(
                "UPDATE OR REPLACE outbox SET incident = ? WHERE incident = ?", (number, old)
            )
            self._db.execute("UPDATE handed SET incident = ? WHERE incident = ?", (number, old))
            self._db.execute("DELETE FROM incident WHERE number = ?", (old,))
        self._db.executemany(
            "REPLACE INTO known VALUES (?, ?)", [(known, number) for known in what.ids]
        )

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(f"{self._path}: {error}") from error
