"""What outlives a round: the node's id, each test's standing, incidents, and the outbox (rules R4, R6).

The only module that touches the database. A round's changes and the notifications they owe are one transaction,
synced to disk before it returns; a notification leaves the outbox only in `told`. What any of it means is
decided elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmonitor import names
from dmonitor.incident import Step
from dmonitor.model import Answer, Incident, Judgement, Kind, Node, Notification, Outcome, Result, Standing, Test, Verdict

DEFAULT_DIRECTORY = Path("/var/lib/dmonitor")
_VERSION = 1
_SCHEMA = """
CREATE TABLE standing (
    host TEXT NOT NULL, name TEXT NOT NULL, verdict TEXT NOT NULL, own TEXT NOT NULL, since REAL NOT NULL,
    downs INTEGER NOT NULL, PRIMARY KEY (host, name)
) WITHOUT ROWID;
CREATE TABLE incident (
    id TEXT PRIMARY KEY, host TEXT NOT NULL, name TEXT NOT NULL, began REAL NOT NULL, opening TEXT NOT NULL,
    failed TEXT NOT NULL, closed REAL, closing TEXT, removed INTEGER NOT NULL DEFAULT 0,
    alert_told REAL, recovery_told REAL
) WITHOUT ROWID;
CREATE UNIQUE INDEX one_open ON incident (host, name) WHERE closed IS NULL;
CREATE TABLE address (address TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE lookup (node TEXT NOT NULL, address TEXT NOT NULL, PRIMARY KEY (node, address)) WITHOUT ROWID;
CREATE TABLE outbox (
    incident TEXT NOT NULL REFERENCES incident (id), kind TEXT NOT NULL, address TEXT NOT NULL, since REAL NOT NULL,
    refusals INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (incident, kind, address)
) WITHOUT ROWID;
"""
_INCIDENT = "incident.id, incident.host, incident.name, began, opening, failed, closed, closing, removed"


class StateError(Exception):
    """The state cannot be used; the text names the file and the reason."""


def node_id(directory: Path) -> str:
    """Return this node's id, made and stored the first time anybody asks; raise StateError when that fails."""
    path = directory / "node-id"
    try:
        if (known := _known_id(path)) is not None:
            return known
        draft = directory / f".node-id.{os.getpid()}"
        try:
            with open(draft, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(12) + "\n")
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # checker and daemon may both be first: one of them wins
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        return _known_id(path) or ""
    except (OSError, UnicodeError) as error:
        raise StateError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _known_id(path: Path) -> str | None:
    try:
        known = path.read_text("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    if not names.is_node_id(known):
        raise StateError(f"{path}: not a node id; remove the file to get a new one")
    return known


def peek(directory: Path) -> tuple[str, dict[Test, Incident]]:
    """Return id and open incidents without making or changing anything; what is not there yet has a stand-in."""
    known = _known_id(directory / "node-id")
    if not (directory / "state.db").exists():
        return known or fresh_id(), {}
    with State(directory, read_only=True) as state:
        return known or fresh_id(), state.open_incidents()


def fresh_id() -> str:
    """Return an id for an incident that may open."""
    return secrets.token_hex(8)


class State:
    """The database in DIRECTORY; every method raises StateError when it cannot do its work."""

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self._path = directory / "state.db"
        with self._named():
            uri = self._path.absolute().as_uri()
            if read_only:  # a reader of a closed database in WAL mode would write, but for `immutable`
                uri += "?mode=ro" + ("" if self._path.with_name("state.db-wal").exists() else "&immutable=1")
            self._db = sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None)
        try:
            with self._named():
                self._prepare(read_only)
        except StateError:
            self._db.close()
            raise

    def _prepare(self, read_only: bool) -> None:
        if not read_only:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise StateError(f"{self._path}: written by a newer dmonitor (schema {version}, this one knows {_VERSION})")
        if version < _VERSION and not read_only:
            with self._transaction():
                for statement in _SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def __enter__(self) -> State:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def standings(self) -> dict[Test, Standing]:
        with self._named():
            rows = self._db.execute("SELECT host, name, verdict, own, since, downs FROM standing").fetchall()
            return {Test(host, name): Standing(Verdict(verdict), Outcome(own), *rest) for host, name, verdict, own, *rest in rows}

    def open_incidents(self) -> dict[Test, Incident]:
        with self._named():
            rows = self._db.execute(f"SELECT {_INCIDENT} FROM incident WHERE closed IS NULL").fetchall()
            return {incident.test: incident for incident in map(_incident, rows)}

    def addresses(self, also: Iterable[str] = ()) -> tuple[str, ...]:
        """Return the addresses that were last found in alert.d, and those of ALSO."""
        with self._named():
            return tuple(sorted({address for (address,) in self._db.execute("SELECT address FROM address")}.union(also)))

    def lookups(self) -> dict[str, list[str]]:
        """Return the addresses that each node's name was last found to have."""
        found: dict[str, list[str]] = {}
        with self._named():
            for node, address in self._db.execute("SELECT node, address FROM lookup"):
                found.setdefault(node, []).append(address)
        return found

    def remember(self, addresses: Iterable[str], lookups: Mapping[str, Iterable[str]]) -> None:
        """Keep what was found, for a time when it cannot be; write only what is new."""
        rows = {(node, address) for node, found in lookups.items() for address in found}
        known = {(node, address) for node, found in self.lookups().items() for address in found}
        if rows == known and set(addresses) == set(self.addresses()):
            return
        with self._named(), self._transaction():
            self._db.execute("DELETE FROM lookup")
            self._db.executemany("INSERT INTO lookup VALUES (?, ?)", rows)
            self._db.execute("DELETE FROM address")
            self._db.executemany("INSERT INTO address VALUES (?)", [(address,) for address in addresses])

    def record(
        self, steps: Iterable[Step], addresses: Sequence[str], removed: Iterable[Incident], gone: Iterable[Test], now: float
    ) -> None:
        """Store a round's STEPS, and in the same transaction what they owe to each of ADDRESSES.

        GONE are tests that the operator took away, whose standing is forgotten; REMOVED the incidents that were
        closed for that, which owe nothing any more.
        """
        with self._named(), self._transaction():
            for step in steps:
                if step.changed:
                    now_is = step.standing
                    row = (*_name(step.test), now_is.verdict.value, now_is.own.value, now_is.since, now_is.downs)
                    self._db.execute("REPLACE INTO standing VALUES (?, ?, ?, ?, ?, ?)", row)
                if step.incident:
                    self._put(step.incident)
                    if step.owes:
                        self._owe(step.incident, step.owes, addresses, now)
            for incident in removed:
                self._put(incident)
                self._db.execute("DELETE FROM outbox WHERE incident = ?", (incident.id,))
            self._db.executemany("DELETE FROM standing WHERE host = ? AND name = ?", map(_name, gone))

    def owe_untold(self, addresses: Sequence[str], now: float) -> None:
        """Owe to ADDRESSES what open incidents owe to nobody: they opened while there was no address."""
        with self._named():
            rows = self._db.execute(
                f"SELECT {_INCIDENT} FROM incident WHERE closed IS NULL AND alert_told IS NULL"
                " AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.incident = incident.id)"
            ).fetchall()
            if rows and addresses:
                with self._transaction():
                    for incident in map(_incident, rows):
                        self._owe(incident, Kind.ALERT, addresses, now)

    def outbox(self) -> list[Notification]:
        """Return all that is owed, the longest owed first."""
        with self._named():
            rows = self._db.execute(
                f"SELECT kind, address, since, refusals, {_INCIDENT} FROM outbox JOIN incident ON incident.id = outbox.incident"
                " ORDER BY since, incident.host, incident.name, kind"
            ).fetchall()
            return [
                Notification(Kind(kind), _incident(row), address, since, refusals)
                for kind, address, since, refusals, *row in rows
            ]

    def told(self, notifications: Iterable[Notification], now: float) -> None:
        """Take NOTIFICATIONS out of the outbox: the MTA has them."""
        with self._named(), self._transaction():
            for notification in notifications:
                column = "alert_told" if notification.kind is Kind.ALERT else "recovery_told"
                self._db.execute(
                    f"UPDATE incident SET {column} = coalesce({column}, ?) WHERE id = ?", (now, notification.incident.id)
                )
            self._drop(notifications)

    def attempt(self, notifications: Iterable[Notification]) -> None:
        """Count one more refusal of each of NOTIFICATIONS, before they are handed over: until they are told, they are refused."""
        with self._named(), self._transaction():
            for notification in notifications:
                self._db.execute(
                    "UPDATE outbox SET refusals = refusals + 1 WHERE incident = ? AND kind = ? AND address = ?",
                    _key(notification),
                )

    def drop(self, notifications: Iterable[Notification]) -> None:
        """Take NOTIFICATIONS out of the outbox untold: the operator took their address away."""
        with self._named(), self._transaction():
            self._drop(notifications)

    def _drop(self, notifications: Iterable[Notification]) -> None:
        for notification in notifications:
            self._db.execute("DELETE FROM outbox WHERE incident = ? AND kind = ? AND address = ?", _key(notification))

    def _put(self, incident: Incident) -> None:
        self._db.execute(
            "INSERT INTO incident (id, host, name, began, opening, failed, closed, closing, removed)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
            " failed = excluded.failed, closed = excluded.closed, closing = excluded.closing, removed = excluded.removed",
            (
                *(incident.id, *_name(incident.test), incident.began, _to_json(incident.opening), json.dumps(incident.failed)),
                *(incident.closed, _to_json(incident.closing) if incident.closing else None, incident.removed),
            ),
        )

    def _owe(self, incident: Incident, kind: Kind, addresses: Sequence[str], now: float) -> None:
        """Owe KIND to ADDRESSES; a recovery only to those who were or will be told of the incident."""
        if kind is Kind.RECOVERY:
            told = self._db.execute("SELECT alert_told FROM incident WHERE id = ?", (incident.id,)).fetchone()[0]
            owed = self._db.execute("SELECT address FROM outbox WHERE incident = ? AND kind = 'alert'", (incident.id,))
            waiting = {address for (address,) in owed}
            addresses = [address for address in addresses if told is not None or address in waiting]
        rows = [(incident.id, kind.value, address, now) for address in addresses]
        self._db.executemany("INSERT OR IGNORE INTO outbox (incident, kind, address, since) VALUES (?, ?, ?, ?)", rows)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise StateError(f"{self._path}: {error}") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # sqlite has rolled back by itself after some errors
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _name(test: Test) -> tuple[str, str]:
    return test.host, test.name


def _key(notification: Notification) -> tuple[str, str, str]:
    return notification.incident.id, notification.kind.value, notification.address


def _incident(row: Sequence[Any]) -> Incident:
    id_, host, name, began, opening, failed, closed, closing, removed = row
    sites = tuple((site, at) for site, at in json.loads(failed))
    after = _from_json(closing) if closing else None
    return Incident(id_, Test(host, name), began, _from_json(opening), sites, closed, after, bool(removed))


def _to_json(judgement: Judgement) -> str:
    def row(answer: Answer) -> list[object]:
        ran = answer.result
        seen = [ran.outcome.value, ran.text, ran.duration] if ran else None
        return [answer.node.name, answer.node.site, answer.node_id, seen, answer.age, answer.reason]

    return json.dumps([judgement.verdict.value, judgement.quorum, list(map(row, judgement.answers))])


def _from_json(text: str) -> Judgement:
    verdict, quorum, rows = json.loads(text)
    answers = (
        Answer(Node(name, site), node_id, Result(Outcome(seen[0]), *seen[1:]) if seen else None, age, reason)
        for name, site, node_id, seen, age, reason in rows
    )
    return Judgement(Verdict(verdict), quorum, tuple(answers))
