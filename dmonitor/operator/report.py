"""What an operator sees of a node: how its tests are, why, how they were, whether it can alert; as plain data.

Pure: what was read of configuration and state in, dictionaries out. Every Time is one of the wall clock here; in what is returned
it is text, ISO 8601. `terminal` shows it to people, `page` and `metrics` to others.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dmonitor.base import names
from dmonitor.core import election, health, incident, model
from dmonitor.core.effects import NodeMemory
from dmonitor.core.model import (
    Answer,
    Change,
    Contact,
    Handed,
    Incident,
    Judgement,
    Node,
    Notification,
    Silence,
    Test,
    TestState,
    Vote,
)

Facts = dict[str, Any]

FLAPPING = "FLAPPING"
# Of states, what needs somebody first; "" is not tested yet.
ORDER = ("DOWN", FLAPPING, "UNCONFIRMED", "LOCAL", "UNKNOWN", "", "UP")


class NodeReport(NamedTuple):
    """What is known of this node at the time `now`.

    `tests` has those of nodes, too; `said` the silences by node, our own under our name; `unstored` says why the state cannot be
    written, and is empty where it can; `rebooted`: no round has ended since this machine was started; `whole`: the configuration
    could be read, and no tests or addresses of before stand in for some of it.
    """

    me: str
    now: float
    nodes: Sequence[Node]
    tests: Iterable[Test]
    addresses: Sequence[str]
    quorum: int
    node: NodeMemory
    test_states: Mapping[Test, TestState]
    latest: Mapping[Test, Change]
    incidents: Sequence[Incident]
    outbox: Sequence[Notification]
    said: Mapping[str, Sequence[Silence]]
    unstored: str = ""
    rebooted: bool = False
    whole: bool = True

    @property
    def peers(self) -> list[Node]:
        """The nodes of nodes.txt that are not this one."""
        return [
            node for node in self.nodes if node.name not in (self.me, *self.node.own_node_names)
        ]


def moment(at: float | None) -> str | None:
    """Return a time as text in this machine's zone; None for one that is not known."""
    if at is None or not 0 < at < 4e9:
        return None
    return (
        datetime.datetime.fromtimestamp(at, datetime.UTC).astimezone().isoformat(timespec="seconds")
    )


def status(
    view: NodeReport, chosen: tuple[str, str] = ("", ""), *, with_evidence: bool = False
) -> Facts:
    """Say whether this node can alert, and how its tests are, or those that are CHOSEN: what needs somebody first."""
    wanted = [test for test in view.tests if is_chosen(test, chosen)]
    open_now: dict[Test, list[Incident]] = {}
    for known in view.incidents:
        if known.is_open:
            open_now.setdefault(known.test, []).append(known)
    tests = [_test(view, test, open_now.get(test, ())) for test in wanted]
    for each, last in zip(tests, map(view.latest.get, wanted), strict=True):
        if with_evidence and last:
            each.update(_last(last))
    tests.sort(
        key=lambda each: (ORDER.index(each["state"]), each["host"] == names.NODE, each["test"])
    )
    return {**ability(view), "tests": tests}


def is_chosen(test: Test, chosen: tuple[str, str]) -> bool:
    return all(not wanted or wanted == given for wanted, given in zip(chosen, test, strict=True))


def ability(view: NodeReport) -> Facts:
    """Say whether this node can alert, and if not, why."""
    heard = {name for name, _ in view.node.reach}
    reached = [node.name for node in view.peers if node.name in heard]
    sites = {node.site for node in view.nodes if node.name == view.me or node.name in heard}
    age, finished = view.now - view.node.finished, moment(view.node.finished)
    if view.me not in {node.name for node in view.nodes}:
        sites |= {model.unlisted(view.me, view.nodes).site} - {""}
    late = view.rebooted or age > election.living_limit(view.node.status(view.me, "", view.now))
    why = [
        text
        for holds, text in (
            (not finished, "it has never finished a round"),
            (finished and view.rebooted, "no round has ended since this machine was started"),
            (
                finished and late and not view.rebooted,
                f"its last round ended {names.span(age)} ago",
            ),
            (not view.addresses, "alert.d names no address"),
            (
                view.node.refused,
                f"the mail system refused its last {'hand-over' if view.node.refused == 1 else f'{view.node.refused} hand-overs'}",
            ),
            (
                len(sites) < view.quorum,
                f"{names.pluralize(len(sites), 'site')}, its own included, answered in its last round; the quorum is {view.quorum}",
            ),
        )
        if holds
    ]
    owed = {known.id for known in view.incidents if incident.owed(known)} | {
        each.incident.id for each in view.outbox
    }
    return {
        "node": view.me,
        "now": moment(view.now),
        "can_alert": not why,
        "why_not": why,
        "peers": len(view.peers),
        "reached": reached,
        "quorum": view.quorum,
        "stale": not finished or late,
        "interval": election.interval(view.node.begins),
        "last_round": finished,
        "last_round_age": round(age, 1) if finished else None,
        "addresses": list(view.addresses),
        "owed": len(owed),
        "refused_in_a_row": view.node.refused,
        "stored": not view.unstored,
        "not_stored": view.unstored,
        "whole": view.whole,
        "troubles": [
            {"kind": each.kind, "since": moment(each.since), "text": each.text}
            for each in view.node.troubles
            if health.is_serious(each, view.now)
        ],
    }


def lacks(able: Facts) -> list[str]:
    """Say what the node of this ability can neither read nor write."""
    lacking = [f"the state cannot be written: {able['not_stored']}"] if able["not_stored"] else []
    if not able["whole"]:
        lacking.append(
            "the configuration cannot be read whole, see dmonitor-check -t; the tests and addresses that were found last stand in"
        )
    return lacking


def _test(view: NodeReport, test: Test, open_now: Iterable[Incident]) -> Facts:
    standing, last = view.test_states.get(test), view.latest.get(test)
    own = last.judgement.answers[0] if last else None
    state, since = (standing.verdict.value, standing.since) if standing else ("", 0.0)
    known = _telling(open_now)
    if flapping := next((each for each in open_now if each.flapping), None):
        state, since = FLAPPING, flapping.began
    return {
        "test": str(test),
        "host": test.host,
        "name": test.name,
        "state": state,
        "verdict": standing.verdict.value if standing else None,
        "here": own.seen if own else standing.own_outcome.value if standing else None,
        "since": moment(since or None),
        "seconds": round(view.now - since) if since else None,
        "text": own.text if own else "",
        "incident": known.id if known else None,
        "silenced_by": sorted(
            node
            for node, said in view.said.items()
            if any(each.covers(test, view.now) for each in said)
        ),
    }


def _telling(found: Iterable[Incident]) -> Incident | None:
    """Return which of the incidents of one test that were FOUND, oldest first, says most of now."""
    return max(
        found,
        key=lambda known: (known.is_open, known.is_open and not known.flapping, known.began),
        default=None,
    )


def _last(change: Change | None) -> Facts:
    """Say who saw what when what this node saw, or concluded, last changed."""
    return {
        "evidence": evidence(change.judgement if change else None),
        "evidence_at": moment(change.at if change else None),
    }


def evidence(judgement: Judgement | None) -> Facts | None:
    """Say who saw what."""
    return judgement and {
        "verdict": judgement.verdict.value,
        "quorum": judgement.quorum,
        "sites_failing": len(judgement.sites(Vote.FAILING)),
        "answers": list(map(_answer, judgement.answers)),
    }


def _answer(answer: Answer) -> Facts:
    result = answer.result
    return {
        "node": answer.node.name,
        "site": answer.node.site,
        "sees": answer.seen,
        "vote": answer.vote.value,
        "text": answer.text,
        "seconds": round(result.duration, 3) if result else None,
        "age": round(answer.age, 1) if result else None,
    }


def past(known: Incident, now: float, handed: Iterable[Handed] = ()) -> Facts:
    """Tell of one incident; HANDED is what this node handed over itself."""
    mine = [each for each in handed if each.incident == known.id]

    def to(kind: model.Kind) -> list[Facts]:
        return [
            {"address": each.address, "at": moment(each.at)} for each in mine if each.kind is kind
        ]

    return {
        "incident": known.id,
        "ids": list(known.ids),
        "test": str(known.test),
        "flapping": known.flapping,
        "began": moment(known.began),
        "ended": moment(known.closed),
        "seconds": round(
            (known.closed if known.closed is not None else known.began if known.removed else now)
            - known.began
        ),
        "open": known.is_open,
        "removed": known.removed,
        "void": known.void,
        "seen_by": known.opening.nodes(Vote.FAILING) if known.opening else [],
        "alert_by": known.alert or None,
        "recovery_by": known.recovery or None,
        "alert_to": to(model.Kind.ALERT),
        "recovery_to": to(model.Kind.RECOVERY),
        "opening": evidence(known.opening),
        "closing": evidence(known.closing),
    }


def incidents(found: Sequence[Incident], handed: Iterable[Handed], now: float) -> list[Facts]:
    """Tell of all incidents, newest first; HANDED is what this node handed over itself."""
    mine: dict[str, list[Handed]] = {}
    for each in handed:
        mine.setdefault(each.incident, []).append(each)
    return [past(known, now, mine.get(known.id, ())) for known in reversed(found)]


def history(
    found: Sequence[Incident],
    changes: Sequence[Change],
    handed: Sequence[Handed],
    view: NodeReport,
    since: float,
) -> Facts:
    """Tell of all incidents, and of all changes of what this node saw, newest first; SINCE when changes are known."""
    return {
        **_age(view),
        "known_since": moment(since),
        "incidents": incidents(found, handed, view.now),
        "changes": [
            {
                "test": str(change.test),
                "at": moment(change.at),
                "state": change.judgement.verdict.value,
                "here": change.judgement.answers[0].seen,
                "text": change.judgement.answers[0].text,
            }
            for change in reversed(changes)
        ],
    }


def why(view: NodeReport, test: Test, found: Sequence[Incident], handed: Sequence[Handed]) -> Facts:
    """Say how a test is, by which evidence, and what its last incident was."""
    known = _telling(found)
    return {
        **_test(
            view, test, [known for known in view.incidents if known.test == test and known.is_open]
        ),
        **_last(view.latest.get(test)),
        "last_incident": past(known, view.now, handed) if known else None,
        **_age(view),
    }


def _age(view: NodeReport) -> Facts:
    """Say how old is what is known."""
    able = ability(view)
    return {key: able[key] for key in ("now", "stale", "last_round", "last_round_age")}


def nodes(view: NodeReport) -> Facts:
    """Say which nodes there are, and whom each of them reached in its last round, as far as it is known here."""
    reached = {name: list(others) for name, others in view.node.reach}
    reached[view.me] = list(reached)
    every = list(dict.fromkeys([*(node.name for node in view.nodes), view.me]))
    return {"nodes": every, "reached": reached}


def silences(said: Mapping[str, Sequence[Silence]], now: float) -> Facts:
    """List the silences that hold now, by whom they are said."""
    holding = [
        (node, each)
        for node, some in said.items()
        for each in some
        if each.until is None or each.until > now
    ]
    listed = [
        {"what": "/".join(filter(None, each[:2])), "until": moment(each.until), "node": node}
        for node, each in holding
    ]
    return {"silences": sorted(listed, key=lambda each: (each["what"], each["node"]))}


def views(able: Facts, judgements: Mapping[Test, Judgement]) -> Facts:
    """Say who sees what now."""
    nodes = list(
        dict.fromkeys(
            answer.node.name for judged in judgements.values() for answer in judged.answers
        )
    )
    listed = [
        {"test": str(test), "state": judged.verdict.value, "evidence": evidence(judged)}
        for test, judged in judgements.items()
    ]
    listed.sort(
        key=lambda each: (
            ORDER.index(str(each["state"])),
            str(each["test"]).startswith(f"{names.NODE}/"),
            each["test"],
        )
    )
    return {**able, "nodes": nodes, "tests": listed}


def peers(
    contacts: Iterable[tuple[Contact, float]],
    mine: tuple[str, str, str],
    addresses: Mapping[str, str],
) -> Facts:
    """Tell of each peer what came of greeting it, and how long that took; MINE are our digests."""
    return {"peers": [_peer(contact, took, mine, addresses) for contact, took in contacts]}


def _peer(
    contact: Contact, took: float, mine: tuple[str, str, str], addresses: Mapping[str, str]
) -> Facts:
    said = contact.statement.status if contact.statement else None
    theirs = (said.tests, said.nodes, said.addresses) if said else mine
    differ = [
        what
        for what, own, other in zip(("hosts.d", "nodes.txt", "alert.d"), mine, theirs, strict=True)
        if other not in ("", own)
    ]
    return {
        "node": contact.node.name,
        "site": contact.node.site,
        "address": addresses.get(contact.node.name),
        "node_id": contact.node_id or None,
        "reached": said is not None,
        "reason": contact.reason,
        "latency": round(took, 4) if said else None,
        "version": said.version or None if said else None,
        "clock": round(said.wall - said.at, 2) + 0.0 if said and said.wall else None,
        "last_round_age": round(said.at - said.finished, 1) if said and said.finished > 0 else None,
        "interval": said.interval if said else None,
        "troubles": list(said.troubles) if said else [],
        "drift": differ,
    }
