"""What keeps this node from seeing or telling, or may one day (rule R7): from a round's view to troubles, and when they are said.

Pure. A trouble never changes a verdict. Its text names what is wrong and nothing that changes from round to round: a text
that is new is logged again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.core import verdict
from dmonitor.core.model import (
    Contact,
    Judgement,
    Node,
    NodeStatus,
    Outcome,
    Rehearsal,
    RehearsalFailure,
    Test,
    TestState,
    Trouble,
    Verdict,
    Vote,
    node_test,
)
from dmonitor.core.result import MEASURED_ROUNDS

REPEAT_SECONDS = 3600.0  # seconds after which a trouble that lasts is said again
LONG_LOCAL_SECONDS = 3600.0  # seconds after which a test that fails here alone is a trouble
SUSPECT_HOSTS = 4  # at least, whose tests must fail here alone for this node to suspect itself
SUSPECT = "suspect"
# Seconds that a trouble must last before it is said: a plugin that died once, a daemon that is just started again, a network that
# came back in the middle of a round, or a configuration that somebody is just writing on one node after the other is none.
QUIET_AT_FIRST = {SUSPECT: 45.0} | dict.fromkeys(
    ("untestable", "no-daemon", "unanswered", "no-peers", "no-address", "drift"), 300.0
)
WARNINGS = ("drift", "long-local")  # a warning in the log, and no more: nobody is blind
_NAMED = 10  # of many, in one text
NAMED_AFTER = 3  # rounds in a row in which a rehearsal must fail before it is named
_ALONE = (Verdict.LOCAL, Verdict.UNCONFIRMED)


class HealthInput(NamedTuple):
    """What a round has seen of this node, which states `presence`, and of the others.

    `tests` has all that it tests; `rehearsal_failures` are those that fail, `no_daemon` why our own daemon gave no answer to one.
    """

    me: Node
    status: NodeStatus
    tests: frozenset[Test]
    judgements: Mapping[Test, Judgement]
    test_states: Mapping[Test, TestState]
    contacts: Sequence[Contact]
    quorum: int
    rehearsal_failures: Sequence[RehearsalFailure] = ()
    no_daemon: str = ""


def is_suspect(judgements: Mapping[Test, Judgement]) -> bool:
    """Say whether more than half of the tests fail here while peers pass them, and those are of SUSPECT_HOSTS hosts at least."""
    every = [
        (test, judged.verdict) for test, judged in judgements.items() if test.host != names.NODE
    ]
    alone = [test.host for test, concluded in every if concluded is Verdict.LOCAL]
    return 2 * len(alone) > len(every) and len(set(alone)) >= SUSPECT_HOSTS


def find(view: HealthInput, now: float) -> dict[str, str]:
    """Return what is wrong, a text for each kind of trouble."""
    others = [contact for contact in view.contacts if contact.node_id != view.status.node_id]
    reached = [contact for contact in others if contact.statement]
    places = [
        (view.status.node_id, view.me.site),
        *((each.node_id, each.node.site) for each in view.contacts),
    ]
    sites = set(
        verdict.voting_sites(
            places, {view.status.node_id, *(each.node_id for each in reached)}
        ).values()
    )
    unsure = [
        test
        for test, judged in view.judgements.items()
        if judged.answers[0].seen == Outcome.UNKNOWN.value
    ]
    test_states = ((test, known) for test, known in view.test_states.items() if test in view.tests)
    alone = [
        test
        for test, known in test_states
        if known.verdict in _ALONE and now - known.since >= LONG_LOCAL_SECONDS
    ]
    found: dict[str, str] = {}
    if not view.tests and not others:
        return {}  # nothing is configured yet
    if not view.status.speaks:
        found["no-address"] = "alert.d names no address: this node can mail nobody"
    if not others and view.quorum > 1 and not any(contact.cloned for contact in view.contacts):
        found["no-peers"] = (
            "nodes.txt names no other node: nothing that fails here can be confirmed, and nobody is alerted"
        )
    elif others and not reached:
        found["isolated"] = (
            f"no peer answers ({_some((f'{each.node.name}: {each.reason}' for each in others), '; ')})"
        )
        if view.quorum > 1:
            found["isolated"] += ": nothing that fails here can be confirmed, and nobody is alerted"
            found["isolated"] += (
                ""
                if len(others) > 1
                else "; with a third node in nodes.txt, the two that are left would go on"
            )
    elif others and len(sites) < view.quorum:
        found["no-quorum"] = (
            f"no site can be asked but {_some(sites)}, and quorum = {view.quorum}: nobody is alerted"
        )
    if is_suspect(view.judgements):
        found[SUSPECT] = (
            "most tests fail here while peers see them pass: it is this node, or its network, that fails"
        )
    stated = ((each.node.name, each.statement.status) for each in reached if each.statement)
    late = [
        node_test(name)
        for name, said in stated
        if said.finished > float("-inf") and said.rounds >= MEASURED_ROUNDS
    ]
    if untestable := [
        test for test in unsure if test not in late and (reached or test.host != names.NODE)
    ]:
        found["untestable"] = f"nobody can tell from here how they are: {_some(untestable)}"
    if view.no_daemon:
        found["no-daemon"] = (
            f"dmonitord on this node does not answer ({view.no_daemon}): its peers hear nothing from it"
        )
    for kind, theirs in (("daemon-disagrees", False), ("unanswered", True)):
        named = [
            each
            for each in view.rehearsal_failures
            if each.rounds >= NAMED_AFTER and bool(each.peer) is theirs
        ]
        if named:
            found[kind] = _some((each.text for each in named), "; ")
    if clones := sorted(_clones(view, others)):
        found["cloned-id"] = (
            f"{'; '.join(clones)}: on all but one of them, stop dmonitord, remove node-id, and start it again"
        )
    if drift := sorted(_drift(view, reached)):
        found["drift"] = "; ".join(drift)
    if alone:
        found["long-local"] = (
            f"for over an hour they have failed here, and no other node has seen it: {_some(alone)}"
        )
    return found


def _clones(view: HealthInput, others: Iterable[Contact]) -> Iterator[str]:
    """Name machines that have one node id."""
    if cloned := [contact.node.name for contact in view.contacts if contact.cloned]:
        yield f"this node and {_some(cloned)} have one node id"
    twins: dict[str, dict[str, str]] = {}
    for contact in others:
        if contact.incarnation:
            twins.setdefault(contact.node_id, {})[contact.incarnation] = contact.node.name
    yield from (
        f"{_some(runs.values())} have one node id" for runs in twins.values() if len(runs) > 1
    )


def _drift(view: HealthInput, reached: Iterable[Contact]) -> Iterator[str]:
    """Name what other nodes have configured otherwise."""
    mine, ours = view.status, {test for test in view.tests if test.host != names.NODE}
    for contact in reached:
        if not (said := contact.statement):
            continue
        name, theirs, tests = (
            contact.node.name,
            said.status,
            ours if said.tests is None else said.tests,
        )
        if lacks := ours - tests:
            yield f"{name} lacks {_some(lacks)}"
        if more := tests - ours:
            yield f"this node lacks {_some(more)}, which {name} has"
        if theirs.nodes and theirs.nodes != mine.nodes:
            yield f"{name} has another nodes.txt"
        if theirs.addresses and theirs.addresses != mine.addresses:
            yield f"{name} has other addresses in alert.d"


def _some(things: Iterable[object], between: str = ", ") -> str:
    every = sorted(set(map(str, things)))
    return between.join(every[:_NAMED]) + (
        f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    )


def rehearse(
    before: Sequence[RehearsalFailure],
    rehearsals: Iterable[Rehearsal],
    judgements: Mapping[Test, Judgement],
) -> tuple[RehearsalFailure, ...]:
    """Return which rehearsals fail now: those of BEFORE that were not answered, and those whose answer is wrong.

    A failure of a test that does not pass here any more is forgotten, and so is one of a peer that is not well itself.
    """
    passing = {
        str(test) for test, judged in judgements.items() if judged.answers[0].vote is Vote.PASSING
    }
    failures = {}
    for failure in before:
        if failure.test in passing and (
            not failure.peer or str(node_test(failure.peer)) in passing
        ):
            failures[failure.test, failure.peer] = failure
    for rehearsal in rehearsals:
        key = str(rehearsal.test), rehearsal.peer
        text = _rehearsal_fault(rehearsal)
        if text:
            rounds = failures[key].rounds + 1 if key in failures else 1
            failures[key] = RehearsalFailure(*key, rounds, text)
        elif rehearsal.answer.result:
            failures.pop(key, None)
    return tuple(failures.values())


def _rehearsal_fault(rehearsal: Rehearsal) -> str:
    """Return what is wrong with the answer to a rehearsal; nothing if it is right, or none of our own daemon's."""
    test, answer = rehearsal.test, rehearsal.answer
    if rehearsal.peer:
        unable = answer.vote is Vote.ABSTAIN
        return f"{rehearsal.peer} cannot tell how {test} is: {answer.text}" if unable else ""
    if answer.result is None or answer.vote is Vote.PASSING:
        return ""
    return (
        f"asked about {test} in {NAMED_AFTER} rounds running, dmonitord on this node says {answer.seen} ({answer.text}), and"
        " dmonitor-check sees OK: does one of them run confined, or as another user?"
    )


def follow(before: Sequence[Trouble], found: Mapping[str, str], now: float) -> tuple[Trouble, ...]:
    """Return the troubles there are, and of those that are over what was logged and ends now, or was said within the hour."""
    gone = [known for known in before if known.kind not in found]
    over = [known._replace(ended=now) for known in gone if known.ended is None and known.logged]
    over += [
        known for known in gone if known.ended is not None and now - known.said < REPEAT_SECONDS
    ]
    last = {known.kind: known for known in before}
    there = []
    for kind, text in found.items():
        old = last.get(kind, Trouble(kind, text, now))
        there.append(
            old._replace(text=text) if old.ended is None else Trouble(kind, text, now, old.said)
        )
    return (*over, *there)


def is_serious(trouble: Trouble, now: float) -> bool:
    """Say whether TROUBLE is there, and has lasted long enough to be said."""
    return trouble.ended is None and now - trouble.since >= QUIET_AT_FIRST.get(trouble.kind, 0.0)


def is_due(trouble: Trouble, now: float) -> bool:
    """Say whether people have to be told of TROUBLE now."""
    return is_serious(trouble, now) and now - trouble.said >= REPEAT_SECONDS
