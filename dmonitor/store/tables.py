"""Values to rows and back, for all of the state except its history.

Every function is given the connection to use, and does not know where that database is. The errors
of sqlite pass through. A value that breaks its rule is no state of ours: its row is left out, and
the connection knows of it. `shift` is the seconds that are added to every time that is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dmonitor.base import names
from dmonitor.core import codec
from dmonitor.core.codec import Time
from dmonitor.core.effects import NodeMemory
from dmonitor.core.incident import changed_at, owes
from dmonitor.core.model import (
    Incident,
    Kind,
    LastLook,
    NodeName,
    Notification,
    Outcome,
    Recipient,
    Silence,
    Subject,
    Test,
    TestName,
    TestState,
    Verdict,
)
from dmonitor.store.database import Connection
from dmonitor.store.node_clock import StepBack

# What the columns of a row may hold.
_Standing = tuple[Subject, TestName, Verdict, Outcome, Time]
_Owing = tuple[Kind, Recipient, Time, int]

# The keys of the memos that have the last look at a test begin with this, and come before that.
_LOOK = "look "
_LOOK_END = "look!"
_Silences = tuple[tuple[NodeName, tuple[Silence, ...]], ...]  # by the node that stated them


# SQL for an incident's JSON: sqlite refuses a whole statement because of one value that is none.
VALUE = "iif(json_valid(value), value, '{}')"
# As `hearsay.charged_to`.
CHARGED_TO = f"coalesce({VALUE} ->> '$.relayed_by', {VALUE} ->> '$.heard_from')"
_NUMBER = "(SELECT incident FROM known WHERE id = ?)"  # of the incident that has an id
EVIDENCE_REMOVED = f"json_remove({VALUE}, '$.opening', '$.closing')"  # the judgements are long


def decode(kind: Any, text: object, shift: float) -> Any:
    """Return the value of a `kind` that a column holds as JSON; raise ValueError."""
    return load(kind, codec.parse(text), shift)


def load(kind: Any, data: object, shift: float) -> Any:
    """Return the value of a `kind` that columns, or parsed JSON, make; raise ValueError."""
    return codec.load(kind, data, lambda at: at + shift)


def forget_unusable(db: Connection) -> None:
    """Delete the rows that were left out."""
    for table, key in db.unusable:
        condition = " AND ".join(f"{column} IS ?" for column, _ in key)
        db.execute(f"DELETE FROM {table} WHERE {condition}", [value for _, value in key])
        if table == "incident":
            _forget_incident(db, dict(key)["number"])


def _forget_incident(db: Connection, number: object) -> None:
    """Delete what refers to an incident that is no more, because its number may be given anew."""
    for table in ("known", "handed"):
        db.execute(f"DELETE FROM {table} WHERE incident IS ?", (number,))


# Memos: values of which there is one each, by key.


def read_memo(db: Connection, key: str, kind: Any, default: Any, shift: float = 0.0) -> Any:
    """Return the memo, which is of the type `kind`; `default` if there is none that can be used."""
    row = db.execute("SELECT value FROM memo WHERE key = ?", (key,)).fetchone()
    if row is None:
        return default
    return _memo(db, key, row[0], kind, default, shift)


def _memo(db: Connection, key: object, text: object, kind: Any, default: Any, shift: float) -> Any:
    """Return the value of a `kind` that is the memo `text`; `default` if it cannot be used."""
    try:
        data = codec.parse(text)
        if isinstance(data, str):  # what `codec` has written
            data = codec.parse(data)
        return load(kind, data, shift)
    except ValueError as error:
        db.leave_out("memo", error, key=key)
        return default


def write_memos(db: Connection, memos: Mapping[str, object]) -> None:
    """Store each memo under its key. A text is stored as a JSON string, not as JSON itself."""
    rows = [(key, json.dumps(value)) for key, value in memos.items()]
    db.executemany("REPLACE INTO memo VALUES (?, ?)", rows)


def read_node_memory(db: Connection, shift: float) -> NodeMemory:
    """Return what the node remembers of its own rounds."""
    memory: NodeMemory = read_memo(db, "own", NodeMemory, NodeMemory(), shift)
    return memory


def write_node_memory(
    db: Connection, memory: NodeMemory, clock_memos: Mapping[str, object]
) -> None:
    """Store what the node remembers of its own rounds, and how its clock goes on."""
    write_memos(db, {"own": codec.write(NodeMemory, memory), **clock_memos})


def read_silences(db: Connection, shift: float) -> dict[str, Sequence[Silence]]:
    """Return the silences that the peers stated last, by node name."""
    return dict(read_memo(db, "silences", _Silences, (), shift))


def write_silences(db: Connection, silences: Mapping[str, Sequence[Silence]]) -> None:
    """Store the silences that the peers stated last, by node name."""
    write_memos(db, {"silences": codec.write(_Silences, tuple(silences.items()))})


# The states of tests.


def read_test_states(db: Connection, shift: float) -> dict[Test, TestState]:
    """Return the state of each test. A state since an unknown time, which is 0, is not shifted."""
    looks = _read_looks(db, shift)
    rows = db.execute("SELECT host, name, verdict, own, since FROM standing")
    states = {}
    for row in rows.fetchall():
        try:
            host, name, verdict, outcome, since = load(_Standing, row, 0.0)
        except ValueError as error:
            db.leave_out("standing", error, host=row[0], name=row[1])
            continue
        if since:
            since += shift
        look = looks.get(_look_key(Test(host, name)))
        states[Test(host, name)] = TestState(verdict, outcome, since, look)
    return states


def _look_key(test: Test) -> str:
    """Return the key of the memo that has the last look at `test`, if that is remembered."""
    return f"{_LOOK}{test}"


def _read_looks(db: Connection, shift: float) -> dict[object, LastLook]:
    """Return the last looks that are remembered, by the keys of their memos."""
    rows = db.execute("SELECT key, value FROM memo WHERE key >= ? AND key < ?", (_LOOK, _LOOK_END))
    looks: dict[object, LastLook] = {}
    for key, value in rows.fetchall():
        look = _memo(db, key, value, LastLook, None, shift)
        if look:
            looks[key] = look
    return looks


def _write_looks(db: Connection, states: Mapping[Test, TestState], gone: Iterable[Test]) -> None:
    """Store the last look at each test that has one; forget those of all other tests."""
    memos = {}
    forgotten = [_look_key(test) for test in gone]
    for test, state in states.items():
        if state.look:
            memos[_look_key(test)] = codec.write(LastLook, state.look)
        else:
            forgotten.append(_look_key(test))
    write_memos(db, memos)
    db.executemany("DELETE FROM memo WHERE key = ?", [(key,) for key in forgotten])


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
    _write_looks(db, states, gone)


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
    return list(each_incident(db, condition, parameters, shift=shift, evidence=evidence))


def each_incident(
    db: Connection,
    condition: str,
    parameters: Sequence[object] = (),
    *,
    shift: float = 0.0,
    evidence: bool = True,
) -> Iterator[Incident]:
    """Yield what `read_incidents` returns: for a program that has no memory for all of them."""
    column = "value" if evidence else EVIDENCE_REMOVED
    rows = db.execute(f"SELECT number, {column} FROM incident WHERE {condition}", parameters)
    for number, value in rows:
        try:
            incident = decode(Incident, value, shift)
        except ValueError as error:
            db.leave_out("incident", error, number=number)
            continue
        yield incident


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
        if names.is_node_id(incident_id) and type(number) is int:
            ids.add(incident_id)
            replaced.add(number)
    united = incident._replace(ids=tuple(sorted(ids)))
    is_alive = united.is_open or owes(united)
    row = (
        min(replaced, default=None),  # sqlite gives a new number in place of NULL
        is_alive,
        changed_at(united),
        codec.write(Incident, united),
    )
    number = db.execute("REPLACE INTO incident VALUES (?, ?, ?, ?)", row).lastrowid
    for other in sorted(replaced - {number}):
        db.execute("UPDATE handed SET incident = ? WHERE incident = ?", (number, other))
        db.execute("DELETE FROM incident WHERE number = ?", (other,))
    rows = [(incident_id, number) for incident_id in united.ids]
    db.executemany("REPLACE INTO known VALUES (?, ?)", rows)


def read_sources(db: Connection, since: float) -> set[str]:
    """Return the peers to which hearsay is charged that is alive or was closed after `since`."""
    rows = db.execute(
        f"SELECT DISTINCT {CHARGED_TO} FROM incident WHERE alive OR closed > ?", (since,)
    )
    return {source for (source,) in rows if isinstance(source, str)}


def read_hearsay(db: Connection, peer: str) -> list[Incident]:
    """Return the hearsay that is charged to `peer`, except that of which mails are owed."""
    is_owed = "number IN (SELECT incident FROM known WHERE id IN (SELECT incident FROM outbox))"
    condition = f"{CHARGED_TO} = ? AND NOT {is_owed}"
    return read_incidents(db, condition, (peer,))


def forget_incidents(db: Connection, incidents: Iterable[Incident]) -> None:
    """Forget the `incidents`, with what is owed and what was handed over about them."""
    for incident in incidents:
        number = _incident_number(db, incident)
        _forget_incident(db, number)
        db.execute("DELETE FROM incident WHERE number = ?", (number,))


def _incident_number(db: Connection, incident: Incident) -> int | None:
    row = db.execute("SELECT incident FROM known WHERE id = ?", (incident.id,)).fetchone()
    if row is None:
        return None
    number: int = row[0]
    return number


# The outbox: notifications that this node told and that an address has not taken yet.


def read_outbox(db: Connection, shift: float = 0.0) -> list[Notification]:
    """Return the notifications in the outbox, oldest first.

    Of incidents that have united since they were put there, each address is told once.
    """
    rows = db.execute("SELECT incident, kind, address, since, refusals FROM outbox ORDER BY since")
    incidents: dict[str, Sequence[Incident]] = {}  # each is read once, however many it is owed to
    outbox: dict[tuple[str, Kind, str], Notification] = {}
    for incident_id, *columns in rows.fetchall():
        if incident_id not in incidents:
            condition = f"number = {_NUMBER}"
            incidents[incident_id] = read_incidents(db, condition, (incident_id,), shift=shift)
        try:
            kind, address, since, refusals = load(_Owing, columns, shift)
            (incident,) = incidents[incident_id]
        except ValueError as error:
            row_kind, row_address, *_ = columns
            db.leave_out("outbox", error, incident=incident_id, kind=row_kind, address=row_address)
            continue
        notification = Notification(kind, incident, address, since, refusals)
        outbox.setdefault((incident.id, kind, address), notification)
    return list(outbox.values())


def write_outbox(
    db: Connection, owing: Iterable[Notification], settled: Iterable[Notification]
) -> None:
    """Put notifications into the outbox, and take those out that are settled.

    What is there already may be there under any id of its incident.
    """
    removed = []
    put = []
    for each in settled:
        kind = each.kind.value
        removed += [(each.address, incident_id, kind) for incident_id in each.incident.ids]
    for each in owing:
        kind, (incident_id, *others) = each.kind.value, each.incident.ids
        removed += [(each.address, other, kind) for other in others]
        put.append((each.address, incident_id, kind, each.since, each.refusals))
    condition = "address = ? AND incident = ? AND kind = ?"
    db.executemany(f"DELETE FROM outbox WHERE {condition}", removed)
    # In the order of the table: written in another one it takes twice as long.
    db.executemany("REPLACE INTO outbox VALUES (?, ?, ?, ?, ?)", sorted(put))


# All times, when the clock itself was wrong.


def step_back(db: Connection, step: StepBack) -> None:
    """Move the times of the state with a clock that steps back; its history has its own function.

    An incident that has not changed since the step has no time that moves.
    """
    silences = tuple(read_silences(db, 0.0).items())
    write_memos(
        db,
        {
            "own": codec.write(NodeMemory, read_node_memory(db, 0.0), step.move),
            "silences": codec.write(_Silences, silences, step.move),
        },
    )
    states = {}
    for test, state in read_test_states(db, 0.0).items():
        look = state.look._replace(at=step.move(state.look.at)) if state.look else None
        states[test] = state._replace(since=step.move(state.since), look=look)
    write_test_states(db, states, ())
    owing = [each._replace(since=step.move(each.since)) for each in read_outbox(db)]
    write_outbox(db, owing, ())
    may_move = "alive OR closed IS NULL OR closed >= ?"
    for incident in read_incidents(db, may_move, (step.since,)):
        moved = codec.shift_times(incident, step.move)
        if moved.minute and moved.began != incident.began:
            moved = moved._replace(minute=max(1, moved.minute - round(step.seconds / 60)))
        write_incident(db, moved)
