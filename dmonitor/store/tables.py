"""Values to rows and back, for all of the state except its history.

Every function is given the connection to use, and does not know where that database is. The errors
of sqlite pass through. `shift` is the seconds that are added to every time that is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dmonitor.core import codec
from dmonitor.core.effects import NodeMemory
from dmonitor.core.incident import changed_at, owed
from dmonitor.core.model import (
    Incident,
    Kind,
    NodeName,
    Notification,
    Outcome,
    Silence,
    Test,
    TestState,
    Verdict,
)
from dmonitor.store.database import Connection

_Silences = tuple[tuple[NodeName, tuple[Silence, ...]], ...]  # by the node that stated them


def decode(kind: Any, text: str, shift: float) -> Any:
    """Return the value of a `kind` that a column holds as JSON; raise ValueError."""
    return codec.read(kind, text, lambda at: at + shift, trusted=True)


def evidence_removed(column: str) -> str:
    """Return an SQL expression for an incident's JSON without the judgements, which are long."""
    return f"json_remove({column}, '$.opening', '$.closing')"


# Memos: values of which there is one each, by key.


def read_memo(db: Connection, key: str, default: Any) -> Any:
    """Return the memo, or `default` if there is none."""
    row = db.execute("SELECT value FROM memo WHERE key = ?", (key,)).fetchone()
    if row is None:
        return default
    return json.loads(row[0])


def write_memos(db: Connection, memos: Mapping[str, object]) -> None:
    """Store each memo under its key. A text is stored as a JSON string, not as JSON itself."""
    rows = [(key, json.dumps(value)) for key, value in memos.items()]
    db.executemany("REPLACE INTO memo VALUES (?, ?)", rows)


def read_node_memory(db: Connection, shift: float) -> NodeMemory:
    """Return what the node remembers of its own rounds."""
    memory: NodeMemory = decode(NodeMemory, read_memo(db, "own", "{}"), shift)
    return memory


def write_node_memory(db: Connection, memory: NodeMemory, clock_memo: object) -> None:
    """Store what the node remembers of its own rounds, and how its clock goes on."""
    write_memos(db, {"own": codec.write(NodeMemory, memory), "clock": clock_memo})


def read_silences(db: Connection, shift: float) -> dict[str, Sequence[Silence]]:
    """Return the silences that the peers stated last, by node name."""
    return dict(decode(_Silences, read_memo(db, "silences", "[]"), shift))


def write_silences(db: Connection, silences: Mapping[str, Sequence[Silence]]) -> None:
    """Store the silences that the peers stated last, by node name."""
    write_memos(db, {"silences": codec.write(_Silences, tuple(silences.items()))})


# The states of tests.


def read_test_states(db: Connection, shift: float) -> dict[Test, TestState]:
    """Return the state of each test. A state since an unknown time, which is 0, is not shifted."""
    rows = db.execute(
        "SELECT host, name, verdict, own, iif(since, since + ?, 0.0) FROM standing", (shift,)
    )
    states = {}
    for host, name, verdict, outcome, since in rows.fetchall():
        states[Test(host, name)] = TestState(Verdict(verdict), Outcome(outcome), since)
    return states


def write_test_states(
    db: Connection, states: Mapping[Test, TestState], gone: Iterable[Test]
) -> None:
    """Store the state of each test, and forget the tests that are gone."""
    for test, state in states.items():
        outcome = state.own_outcome.value
        row = (test.host, test.name, state.verdict.value, outcome, state.since)
        db.execute("REPLACE INTO standing VALUES (?, ?, ?, ?, ?, 0)", row)
    for test in gone:
        db.execute("DELETE FROM standing WHERE host = ? AND name = ?", (test.host, test.name))


# Incidents.


def read_incidents(
    db: Connection,
    condition: str,
    parameters: Sequence[object] = (),
    *,
    shift: float = 0.0,
    evidence: bool = True,
) -> list[Incident]:
    """Return the incidents that meet an SQL condition; without `evidence` that is quicker."""
    column = "value" if evidence else evidence_removed("value")
    rows = db.execute(f"SELECT {column} FROM incident WHERE {condition}", parameters)
    return [decode(Incident, value, shift) for (value,) in rows]


def write_incident(db: Connection, incident: Incident) -> None:
    """Store `incident` in place of every incident that it shares an id with."""
    rows = db.execute(
        "SELECT id, incident FROM known WHERE incident IN"
        " (SELECT incident FROM known WHERE id IN (SELECT value FROM json_each(?)))",
        (json.dumps(incident.ids),),
    ).fetchall()
    ids = set(incident.ids)
    replaced: set[int] = set()
    for incident_id, number in rows:
        ids.add(incident_id)
        replaced.add(number)
    united = incident._replace(ids=tuple(sorted(ids)))
    is_alive = united.is_open or bool(owed(united))
    row = (
        min(replaced, default=None),  # sqlite gives a new number in place of NULL
        is_alive,
        changed_at(united),
        codec.write(Incident, united),
    )
    number = db.execute("REPLACE INTO incident VALUES (?, ?, ?, ?)", row).lastrowid
    for other in sorted(replaced - {number}):
        db.execute("UPDATE OR REPLACE outbox SET incident = ? WHERE incident = ?", (number, other))
        db.execute("UPDATE handed SET incident = ? WHERE incident = ?", (number, other))
        db.execute("DELETE FROM incident WHERE number = ?", (other,))
    rows = [(incident_id, number) for incident_id in united.ids]
    db.executemany("REPLACE INTO known VALUES (?, ?)", rows)


def read_sources(db: Connection, since: float) -> set[str]:
    """Return the peers of which there is hearsay that is alive, or has changed after `since`."""
    rows = db.execute(
        "SELECT DISTINCT value ->> '$.heard_from' FROM incident WHERE alive OR closed > ?", (since,)
    )
    return {source for (source,) in rows if source}


def read_hearsay(db: Connection, peer: str) -> list[Incident]:
    """Return the incidents that `peer` alone has stated, except those of which mails are owed."""
    condition = "value ->> '$.heard_from' = ? AND number NOT IN (SELECT incident FROM outbox)"
    return read_incidents(db, condition, (peer,))


def forget_incidents(db: Connection, incidents: Iterable[Incident]) -> None:
    """Forget the `incidents`, with what is owed and what was handed over about them."""
    for incident in incidents:
        number = _incident_number(db, incident)
        for table in ("outbox", "handed", "known"):
            db.execute(f"DELETE FROM {table} WHERE incident = ?", (number,))
        db.execute("DELETE FROM incident WHERE number = ?", (number,))


def _incident_number(db: Connection, incident: Incident) -> int | None:
    row = db.execute("SELECT incident FROM known WHERE id = ?", (incident.id,)).fetchone()
    if row is None:
        return None
    number: int = row[0]
    return number


# The outbox: notifications that this node told and that an address has not taken yet.


def read_outbox(db: Connection, shift: float = 0.0) -> list[Notification]:
    """Return the notifications in the outbox, oldest first."""
    rows = db.execute(
        "SELECT incident, kind, address, since + ?, refusals FROM outbox ORDER BY since", (shift,)
    )
    outbox = []
    for number, kind, address, since, refusals in rows.fetchall():
        (incident,) = read_incidents(db, "number = ?", (number,), shift=shift)
        outbox.append(Notification(Kind(kind), incident, address, since, refusals))
    return outbox


def write_outbox(
    db: Connection, owing: Iterable[Notification], settled: Iterable[Notification]
) -> None:
    """Put notifications into the outbox, and take those out that are settled."""
    for notification in owing:
        row = (*_outbox_key(db, notification), notification.since, notification.refusals)
        db.execute("REPLACE INTO outbox VALUES (?, ?, ?, ?, ?)", row)
    for notification in settled:
        db.execute(
            "DELETE FROM outbox WHERE incident = ? AND kind = ? AND address = ?",
            _outbox_key(db, notification),
        )


def _outbox_key(db: Connection, notification: Notification) -> tuple[int | None, str, str]:
    number = _incident_number(db, notification.incident)
    return number, notification.kind.value, notification.address
