"""Find the troubles that keep this node from seeing or telling, or might one day (rule R7).

Pure: what a round has seen goes in, troubles come out, and when people are told of them. A trouble
never changes a verdict. Its text says what is wrong, and has nothing in it that changes from round
to round, because a new text is logged again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    Statement,
    Test,
    TestState,
    Trouble,
    Verdict,
    Vote,
    node_test,
)
from dmonitor.core.result import MEASURED_ROUNDS

REPEAT_SECONDS = 3600.0  # after which people are told again of a trouble that lasts
LONG_LOCAL_SECONDS = 3600.0  # after which a test that fails here alone is a trouble
SUSPECT_HOSTS = 4  # at least, whose tests must fail here alone before this node suspects itself
NAMED_AFTER_ROUNDS = 3  # in a row, in which a rehearsal must fail before it is a trouble
SUSPECT = "suspect"  # the kind of trouble that peers have to know of
WARNINGS = ("drift", "long-local")  # kinds that are only logged, because the node sees and tells

# Seconds that a trouble of a kind must last before people are told of it. A plugin may die once, a
# daemon may be starting, a network may come back in the middle of a round, and an operator may be
# writing a configuration on one node after the other.
MUST_LAST_SECONDS = {
    SUSPECT: 45.0,
    "untestable": 300.0,
    "no-daemon": 300.0,
    "unanswered": 300.0,
    "no-peers": 300.0,
    "no-address": 300.0,
    "drift": 300.0,
}

_LISTED_AT_MOST = 10  # things in one text
_NOBODY_ALERTED = "nothing that fails here can be confirmed, and nobody is alerted"
_FAILS_HERE_ALONE = (Verdict.LOCAL, Verdict.UNCONFIRMED)


class HealthInput(NamedTuple):
    """What a round has seen of this node and of the others."""

    me: Node
    status: NodeStatus  # what this node states of itself
    tests: frozenset[Test]  # all that it tests; other nodes are tests, too
    judgements: Mapping[Test, Judgement]  # of this round
    test_states: Mapping[Test, TestState]
    contacts: Sequence[Contact]  # one for each line of nodes.txt that is not ours
    quorum: int
    rehearsal_failures: Sequence[RehearsalFailure] = ()  # those that fail now
    no_daemon: str = ""  # why our own daemon did not answer a rehearsal

    @property
    def others(self) -> list[Contact]:
        """The contacts with other nodes: a line of nodes.txt may turn out to be this node."""
        return [contact for contact in self.contacts if contact.node_id != self.status.node_id]

    @property
    def reached(self) -> list[Contact]:
        """The contacts with other nodes that stated something."""
        return [contact for contact in self.others if contact.statement]

    @property
    def statements(self) -> list[tuple[str, Statement]]:
        """The statements of other nodes, each with the name of the node."""
        found = []
        for contact in self.others:
            if contact.statement:
                found.append((contact.node.name, contact.statement))
        return found


def find(view: HealthInput, now: float) -> dict[str, str]:
    """Return the troubles that there are: a text for each kind."""
    if not view.tests and not view.others:
        return {}  # nothing is configured yet
    texts = {
        "no-address": _no_address(view),
        "no-peers": _no_peers(view),
        "isolated": _isolated(view),
        "no-quorum": _no_quorum(view),
        SUSPECT: _suspect(view),
        "untestable": _untestable(view),
        "no-daemon": _no_daemon(view),
        "daemon-disagrees": _daemon_disagrees(view),
        "unanswered": _unanswered(view),
        "cloned-id": _cloned_id(view),
        "drift": _drift(view),
        "long-local": _long_local(view, now),
    }
    return {kind: text for kind, text in texts.items() if text}


# Each of these returns the text of one kind of trouble, or '' if there is no such trouble.


def _no_address(view: HealthInput) -> str:
    if view.status.speaks:
        return ""
    return "alert.d names no address: this node can mail nobody"


def _no_peers(view: HealthInput) -> str:
    if view.others or view.quorum <= 1:
        return ""
    if any(contact.cloned for contact in view.contacts):
        return ""  # there is another node; `cloned-id` names it
    return f"nodes.txt names no other node: {_NOBODY_ALERTED}"


def _isolated(view: HealthInput) -> str:
    if not view.others or view.reached:
        return ""
    reasons = [f"{contact.node.name}: {contact.reason}" for contact in view.others]
    text = f"no peer answers ({_enumerate(reasons, '; ')})"
    if view.quorum <= 1:
        return text
    text += f": {_NOBODY_ALERTED}"
    if len(view.others) == 1:
        text += "; with a third node in nodes.txt, the two that are left would go on"
    return text


def _no_quorum(view: HealthInput) -> str:
    if not view.reached:
        return ""  # this is another trouble
    lines = [(view.status.node_id, view.me.site)]
    for contact in view.contacts:
        lines.append((contact.node_id, contact.node.site))
    voters = {view.status.node_id}
    voters.update(contact.node_id for contact in view.reached)
    sites = set(verdict.voting_sites(lines, voters).values())
    if len(sites) >= view.quorum:
        return ""
    named = _enumerate(sites)
    return f"only these sites can be asked: {named}; quorum = {view.quorum}, so nobody is alerted"


def _suspect(view: HealthInput) -> str:
    if not is_suspect(view.judgements):
        return ""
    return (
        "most tests fail here while peers see them pass:"
        " look for the fault in this node or its network"
    )


def _untestable(view: HealthInput) -> str:
    late = _late_nodes(view)
    tests = []
    for test, judgement in view.judgements.items():
        if judgement.answers[0].seen != Outcome.UNKNOWN.value:
            continue
        # If no peer was reached, that is the trouble, and not the peers as tests.
        if test in late or (test.host == names.NODE and not view.reached):
            continue
        tests.append(test)
    if not tests:
        return ""
    return f"these tests are UNKNOWN on this node: {_enumerate(tests)}"


def _late_nodes(view: HealthInput) -> set[Test]:
    """Return the nodes, as tests, whose last round may be late; they will be stale, or back."""
    late = set()
    for name, statement in view.statements:
        status = statement.status
        if status.finished > float("-inf") and status.rounds >= MEASURED_ROUNDS:
            late.add(node_test(name))
    return late


def _no_daemon(view: HealthInput) -> str:
    if not view.no_daemon:
        return ""
    return (
        f"dmonitord on this node does not answer ({view.no_daemon}):"
        " the peers hear nothing from this node"
    )


def _daemon_disagrees(view: HealthInput) -> str:
    failures = [failure for failure in view.rehearsal_failures if not failure.peer]
    return _lasting(failures)


def _unanswered(view: HealthInput) -> str:
    failures = [failure for failure in view.rehearsal_failures if failure.peer]
    return _lasting(failures)


def _lasting(failures: Iterable[RehearsalFailure]) -> str:
    texts = [failure.text for failure in failures if failure.rounds >= NAMED_AFTER_ROUNDS]
    return _enumerate(texts, "; ")


def _cloned_id(view: HealthInput) -> str:
    groups = sorted(_clones(view))
    if not groups:
        return ""
    return (
        f"{'; '.join(groups)}:"
        " on all but one of them, stop dmonitord, remove node-id, and start it again"
    )


def _clones(view: HealthInput) -> list[str]:
    """Return a text for each node id that several machines have."""
    texts = []
    cloned = [contact.node.name for contact in view.contacts if contact.cloned]
    if cloned:
        texts.append(f"this node and {_enumerate(cloned)} have one node id")
    # Each start of a daemon has an incarnation of its own, so two of these are two machines.
    machines: dict[str, dict[str, str]] = {}
    for contact in view.others:
        if contact.incarnation:
            by_incarnation = machines.setdefault(contact.node_id, {})
            by_incarnation[contact.incarnation] = contact.node.name
    for by_incarnation in machines.values():
        if len(by_incarnation) > 1:
            texts.append(f"{_enumerate(by_incarnation.values())} have one node id")
    return texts


def _drift(view: HealthInput) -> str:
    our_tests = {test for test in view.tests if test.host != names.NODE}
    texts = []
    for name, statement in view.statements:
        texts += _test_drift(name, statement, our_tests)
        texts += _list_drift(name, statement.status, view.status)
    return "; ".join(sorted(texts))


def _test_drift(name: str, statement: Statement, our_tests: set[Test]) -> list[str]:
    """Return the differences between our tests and those of the node `name`."""
    if statement.tests is None:
        return []
    texts = []
    lacking_there = our_tests - statement.tests
    if lacking_there:
        texts.append(f"{name} lacks {_enumerate(lacking_there)}")
    lacking_here = statement.tests - our_tests
    if lacking_here:
        texts.append(f"this node lacks {_enumerate(lacking_here)}, which {name} has")
    return texts


def _list_drift(name: str, theirs: NodeStatus, ours: NodeStatus) -> list[str]:
    """Return which lists of the node `name` differ from ours."""
    texts = []
    if theirs.nodes and theirs.nodes != ours.nodes:
        texts.append(f"{name} has another nodes.txt")
    if theirs.addresses and theirs.addresses != ours.addresses:
        texts.append(f"{name} has other addresses in alert.d")
    return texts


def _long_local(view: HealthInput, now: float) -> str:
    tests = []
    for test, state in view.test_states.items():
        if test not in view.tests or state.verdict not in _FAILS_HERE_ALONE:
            continue
        if now - state.since >= LONG_LOCAL_SECONDS:
            tests.append(test)
    if not tests:
        return ""
    return (
        "these tests have failed here for over an hour, and no other node has seen it:"
        f" {_enumerate(tests)}"
    )


def _enumerate(things: Iterable[object], separator: str = ", ") -> str:
    """Return the names of `things` in order; of very many, the first and a count of the others."""
    texts = sorted({str(thing) for thing in things})
    enumeration = separator.join(texts[:_LISTED_AT_MOST])
    more = len(texts) - _LISTED_AT_MOST
    if more > 0:
        enumeration += f" and {more} more"
    return enumeration


def is_suspect(judgements: Mapping[Test, Judgement]) -> bool:
    """Return whether this node should suspect itself.

    It should if more than half of its tests fail here while peers pass them, and those are tests of
    SUSPECT_HOSTS hosts at least (R7).
    """
    tested = 0
    hosts_failing_alone = []
    for test, judgement in judgements.items():
        if test.host == names.NODE:
            continue
        tested += 1
        if judgement.verdict is Verdict.LOCAL:
            hosts_failing_alone.append(test.host)
    if 2 * len(hosts_failing_alone) <= tested:
        return False
    return len(set(hosts_failing_alone)) >= SUSPECT_HOSTS


# Rehearsals.


def rehearse(
    before: Sequence[RehearsalFailure],
    rehearsals: Iterable[Rehearsal],
    judgements: Mapping[Test, Judgement],
) -> tuple[RehearsalFailure, ...]:
    """Return the rehearsals that fail now.

    These are the ones whose answer is wrong now, and those that failed `before` and have had no
    answer since. A failure is forgotten if its test does not pass here any more, or if its peer is
    not well itself.
    """
    passing = set()
    for test, judgement in judgements.items():
        if judgement.answers[0].vote is Vote.PASSING:
            passing.add(str(test))
    failures: dict[tuple[str, str], RehearsalFailure] = {}
    for failure in before:
        is_peer_well = not failure.peer or str(node_test(failure.peer)) in passing
        if failure.test in passing and is_peer_well:
            failures[failure.test, failure.peer] = failure
    for rehearsal in rehearsals:
        key = (str(rehearsal.test), rehearsal.peer)
        text = _what_is_wrong(rehearsal)
        if text:
            rounds = 1
            if key in failures:
                rounds += failures[key].rounds
            failures[key] = RehearsalFailure(*key, rounds, text)
        elif rehearsal.answer.result:
            failures.pop(key, None)
    return tuple(failures.values())


def _what_is_wrong(rehearsal: Rehearsal) -> str:
    """Return what is wrong with the answer to a rehearsal, or ''.

    No answer from our own daemon is not wrong here: it is the trouble `no-daemon`.
    """
    test = rehearsal.test
    answer = rehearsal.answer
    if rehearsal.peer:
        if answer.vote is not Vote.ABSTAIN:
            return ""
        return f"{rehearsal.peer} cannot test {test}: {answer.text}"
    if answer.result is None or answer.vote is Vote.PASSING:
        return ""
    return (
        f"asked about {test} in {NAMED_AFTER_ROUNDS} rounds running, dmonitord on this node says"
        f" {answer.seen} ({answer.text}), and dmonitor-check sees OK:"
        " does one of them run confined, or as another user?"
    )


# When people are told.


def follow(before: Sequence[Trouble], found: Mapping[str, str], now: float) -> tuple[Trouble, ...]:
    """Return the troubles to remember, given those remembered `before` and those `found` now.

    A trouble that is over is remembered once, as ended now, if it was logged. After that it is
    remembered until REPEAT_SECONDS after people were told of it.
    """
    ending = []
    ended = []
    for trouble in before:
        if trouble.kind in found:
            continue
        if trouble.ended is not None:
            if now - trouble.said < REPEAT_SECONDS:
                ended.append(trouble)
        elif trouble.logged:
            ending.append(trouble._replace(ended=now))
    by_kind = {trouble.kind: trouble for trouble in before}
    present = []
    for kind, text in found.items():
        known = by_kind.get(kind)
        if known is None:
            present.append(Trouble(kind, text, now))
        elif known.ended is None:
            present.append(known._replace(text=text))
        else:
            present.append(Trouble(kind, text, now, known.said))
    return (*ending, *ended, *present)


def is_serious(trouble: Trouble, now: float) -> bool:
    """Return whether `trouble` is present and has lasted long enough to tell people of it."""
    must_last = MUST_LAST_SECONDS.get(trouble.kind, 0.0)
    return trouble.ended is None and now - trouble.since >= must_last


def is_due(trouble: Trouble, now: float) -> bool:
    """Return whether people have to be told of `trouble` now."""
    return is_serious(trouble, now) and now - trouble.said >= REPEAT_SECONDS
