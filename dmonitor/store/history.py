"""The history: what has changed, and which mails this node handed over.

It is for people, and no round decides anything by it. So a broken history costs only itself: a
reader gets what can be read of it, and a writer begins it anew (`database.write`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from dmonitor.core import codec
from dmonitor.core.codec import Time
from dmonitor.core.model import Change, Handed, Incident, Judgement, Test
from dmonitor.store import database, tables
from dmonitor.store.database import Connection
from dmonitor.store.node_clock import StepBack

HISTORY_SECONDS = 400 * 86400.0  # seconds for which history is kept
CHANGES_KEPT = 500  # changes of one test; if there are more, the oldest are dropped
_FORGET_INTERVAL = 86400.0  # seconds from one look for old history to the next

EVERY_TEST = ("", "")  # host and name: an empty name stands for all tests of the host
_IS_OF_TEST = (
    f"? IN ('', {tables.VALUE} ->> '$.test.host') AND ? IN ('', {tables.VALUE} ->> '$.test.name')"
)
_ALL_ANSWERS = "judgement"
_OWN_ANSWER = (
    "iif(json_valid(judgement),"
    " json_set(judgement, '$.answers', json_array(judgement -> '$.answers[0]')), judgement)"
)


class History:
    """The history in one database, over the connection that the constructor is given.

    The parameter `test` of its methods is a host and the name of a test, as in `EVERY_TEST`.
    Without `evidence`, a change comes with this node's own answer only, which is quicker.
    Every method raises StateError if the database cannot be read.
    """

    def __init__(self, db: Connection, path: str, *, exists: bool = True) -> None:
        self._db = db
        self._path = path  # what messages call the state
        self._exists = exists  # False: the database is of a version that had no history
        self.shift = 0.0  # seconds that are added to every time that is read
        self.broken = ""  # why a part of the history could not be read; empty if there is none

    def changes(self, test: tuple[str, str] = EVERY_TEST, *, evidence: bool = True) -> list[Change]:
        """Return the changes of verdicts, oldest first."""
        conditions = ["TRUE"]
        parameters = []
        for column, value in zip(("host", "name"), test, strict=True):
            if value:
                conditions.append(f"{column} = ?")
                parameters.append(value)
        with database.state_errors(self._path):
            return self._changes(
                f"WHERE {' AND '.join(conditions)} ORDER BY at", parameters, evidence=evidence
            )

    def latest(self, tests: Iterable[Test], *, evidence: bool = True) -> dict[Test, Change]:
        """Return the last change of each of the tests that ever changed."""
        last = "WHERE host = ? AND name = ? ORDER BY at DESC LIMIT 1"
        latest = {}
        with database.state_errors(self._path):
            for test in tests:
                for change in self._changes(last, test, evidence=evidence):
                    latest[test] = change
        return latest

    def handed(self, test: tuple[str, str] = EVERY_TEST) -> list[Handed]:
        """Return the notifications that this node handed over, oldest first."""
        with database.state_errors(self._path):
            rows = self._rows(
                f"SELECT DISTINCT {tables.VALUE} ->> '$.ids[0]', kind, address, at"
                " FROM handed JOIN incident ON number = incident"
                f" WHERE {_IS_OF_TEST} ORDER BY at",
                test,
            )
        handed = []
        for row in rows:
            columns = dict(zip(Handed._fields, row, strict=True))
            try:
                handed.append(tables.load(Handed, columns, self.shift))
            except ValueError as error:
                self.broken = f"of incident {row[0]}: {error}"
        return handed

    def past(self, test: tuple[str, str] = EVERY_TEST, since: float = 0.0) -> list[Incident]:
        """Return the incidents that are open or were closed at `since` or later, oldest first."""
        with database.state_errors(self._path):
            incidents = tables.read_incidents(
                self._db,
                f"(closed IS NULL OR closed >= ?) AND {_IS_OF_TEST}",
                (since, *test),
                shift=self.shift,
            )
        return sorted(incidents, key=lambda incident: incident.began)

    def known_since(self, now: float, test: Test | None = None) -> float:
        """Return the time of the oldest change, of `test` or of any; `now` if there is none."""
        select = "SELECT min(at) FROM change"
        parameters: Sequence[str] = ()
        if test is not None:
            select += " WHERE host = ? AND name = ?"
            parameters = test
        with database.state_errors(self._path):
            for (oldest,) in self._rows(select, parameters):
                with contextlib.suppress(ValueError):
                    now = tables.load(Time, oldest, 0.0)
        return now + self.shift

    def _changes(self, clauses: str, parameters: Sequence[str], *, evidence: bool) -> list[Change]:
        judgement = _ALL_ANSWERS if evidence else _OWN_ANSWER
        select = f"SELECT host, name, at, {judgement} FROM change {clauses}"
        changes = []
        for host, name, at, text in self._rows(select, parameters):
            try:
                judged = tables.decode(Judgement, text, self.shift)
                test = tables.load(Test, {"host": host, "name": name}, 0.0)
                changes.append(Change(test, tables.load(Time, at, self.shift), judged))
            except ValueError as error:
                self.broken = f"of {host}/{name}: {error}"
        return changes

    def _rows(self, select: str, parameters: Sequence[object]) -> list[Any]:
        """Return rows of the history; none if it is broken or does not exist."""
        if not self._exists:
            return []
        try:
            return self._db.execute(select, parameters).fetchall()
        except database.DatabaseError as error:
            if not database.is_broken(error):
                raise
            self.broken = str(error)
            return []


def write(db: Connection, changes: Iterable[Change], handed: Iterable[Handed]) -> None:
    """Add to the history; of each test that changed, keep the last `CHANGES_KEPT` changes."""
    for test, at, judgement in changes:
        row = (test.host, test.name, at, codec.write(Judgement, judgement))
        db.execute("REPLACE INTO change VALUES (?, ?, ?, ?)", row)
        newest_to_drop = (
            "SELECT at FROM change WHERE host = ? AND name = ? ORDER BY at DESC LIMIT 1 OFFSET ?"
        )
        db.execute(
            f"DELETE FROM change WHERE host = ? AND name = ? AND at <= ({newest_to_drop})",
            (*test, *test, CHANGES_KEPT),
        )
    db.executemany(
        "INSERT INTO handed SELECT incident, ?, ?, ? FROM known WHERE id = ?",
        [(each.kind.value, each.address, each.at, each.incident) for each in handed],
    )


def forget(db: Connection, now: float) -> None:
    """Drop the history, and the evidence of incidents, that is older than `HISTORY_SECONDS`.

    The last change of each test is kept, because the test is still so. Once a day is enough.
    """
    if 0 <= now - tables.read_memo(db, "forgotten", Time, 0.0) < _FORGET_INTERVAL:
        return
    tables.write_memos(db, {"forgotten": now})
    oldest = now - HISTORY_SECONDS
    last = (
        "SELECT max(at) FROM change AS other"
        " WHERE other.host = change.host AND other.name = change.name"
    )
    db.execute(f"DELETE FROM change WHERE at < ? AND at < ({last})", (oldest,))
    db.execute("DELETE FROM handed WHERE at < ?", (oldest,))
    has_evidence = (
        f"coalesce({tables.VALUE} -> '$.opening', {tables.VALUE} -> '$.closing') IS NOT NULL"
    )
    db.execute(
        f"UPDATE incident SET value = {tables.EVIDENCE_REMOVED}"
        f" WHERE NOT alive AND closed < ? AND {has_evidence}",
        (oldest,),
    )


def step_back(db: Connection, step: StepBack) -> None:
    """Move the times of the history with a clock that steps back."""
    for table in ("change", "handed"):
        db.execute(
            f"UPDATE OR REPLACE {table} SET at = at - ? WHERE at >= ? AND typeof(at) = 'real'",
            (step.seconds, step.since),
        )
