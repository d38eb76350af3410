"""What keeps this node from seeing or telling, or may one day: its troubles (rule R7).

Pure. Each kind of trouble has a function that returns its text, or ''. A trouble never changes a
verdict. A text names what is wrong and nothing that changes from round to round, because a new
text is logged again; if it has a reason, `about` says what does not change. When a trouble is said
is decided in `complaints`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.core import election, verdict
from dmonitor.core.model import (
    Contact,
    Judgement,
    Node,
    NodeStatus,
    Outcome,
    RehearsalFailure,
    Test,
    TestState,
    Unanswered,
    Verdict,
    node_test,
)
from dmonitor.core.node_ids import NodeIds
from dmonitor.core.result import MEASURED_ROUNDS
from dmonitor.core.unanswered import NAMED_AFTER

LONG_LOCAL_SECONDS = 3600.0  # after which a test that fails here alone is a trouble
SUSPECT_HOSTS = 4  # at least, whose tests must fail here alone for this node to suspect itself
SUSPECT = "suspect"
MISCONFIGURED = "misconfigured"
_ITEMS_NAMED = 10  # in one text
_MISTAKES_NAMED = 3  # they are long
_ALONE = (Verdict.LOCAL, Verdict.UNCONFIRMED)


class HealthInput(NamedTuple):
    """What a round has seen of this node and of the others."""

    me: Node
    status: NodeStatus  # what this node states of itself
    tests: frozenset[Test]  # all that it tests
    judgements: Mapping[Test, Judgement]  # of this round, or those that stand in it
    test_states: Mapping[Test, TestState]
    contacts: Sequence[Contact]  # one for each line of nodes.txt that is not this node's
    node_ids: NodeIds  # of the lines of nodes.txt
    quorum: int  # the one that holds for all nodes
    rehearsal_failures: Sequence[RehearsalFailure] = ()
    no_daemon: str = ""  # why this node's own daemon did not answer; '' if it did
    is_suspect: bool = False  # what the function of this name found in this round
    unconfirmed_recoveries: Sequence[Test] = ()  # they pass, and their incidents cannot close
    own_lines: Sequence[str] = ()  # the names of all lines of nodes.txt that are this node
    diverted: Sequence[str] = ()  # names of peers that resolve to this node now, and did not before
    addresses: Sequence[str] = ()  # those in alert.d
    refused: Sequence[str] = ()  # those whose last mails were refused
    unanswered: Sequence[Unanswered] = ()  # what `unanswered` found in this round
    mistakes: str = ""  # errors in the configuration, and where they are; '' if there is none
    complete: bool = True  # the whole configuration could be read

    @property
    def others(self) -> list[Contact]:
        """The contacts that are not this node under another name."""
        return [contact for contact in self.contacts if contact.node_id != self.status.node_id]

    @property
    def reached(self) -> list[Contact]:
        """The other nodes that stated something."""
        return [contact for contact in self.others if contact.statement]


def is_suspect(judgements: Mapping[Test, Judgement]) -> bool:
    """Return whether this node should suspect itself.

    It should if more than half of its tests fail here while peers see them pass, and if these tests
    are of SUSPECT_HOSTS hosts at least: one host with many tests makes no node suspect.
    """
    count = 0
    failing_here: list[str] = []
    for test, judgement in judgements.items():
        if test.host == names.NODE:
            continue
        count += 1
        if judgement.verdict is Verdict.LOCAL:
            failing_here.append(test.host)
    return 2 * len(failing_here) > count and len(set(failing_here)) >= SUSPECT_HOSTS


def find(seen: HealthInput, now: float) -> dict[str, str]:
    """Return the text of each trouble that there is, by its kind."""
    if not seen.tests and not seen.others and seen.complete:
        return {}  # nothing is configured yet
    texts = {}
    for kind, find_text in _KINDS.items():
        text = find_text(seen, now)
        if text:
            texts[kind] = text
    return texts


def _no_address(seen: HealthInput, now: float) -> str:
    if seen.status.speaks:
        return ""
    return "alert.d names no address: this node can mail nobody"


def _mail_refused(seen: HealthInput, now: float) -> str:
    """Return that every address refuses: then this node can tell nobody, and its peers do."""
    if not seen.refused or not set(seen.refused).issuperset(seen.addresses):
        return ""
    return f"all that this node hands over is refused ({_listed(seen.refused)}): {_REFUSED_ADVICE}"


def _address_refused(seen: HealthInput, now: float) -> str:
    if not seen.refused or _mail_refused(seen, now):
        return ""
    refused = f"what this node hands over is refused for {_listed(seen.refused)}"
    return f"{refused}: {_REFUSED_ADVICE}"


_REFUSED_ADVICE = "the log says why (refused), and dmonitor-check --test-alert tries again"


_UNCONFIRMED = "nothing that fails here can be confirmed, and nobody is alerted"


def _no_peers(seen: HealthInput, now: float) -> str:
    is_cloned = any(contact.cloned for contact in seen.contacts)
    if seen.others or is_cloned or seen.quorum < 2:
        return ""
    return f"nodes.txt names no other node: {_UNCONFIRMED}"


def _listed_twice(seen: HealthInput, now: float) -> str:
    if len(seen.own_lines) < 2:
        return ""
    return (
        f"several lines of nodes.txt are this node: {_listed(seen.own_lines)}; it looks at none of"
        " them: leave one, or if one is another machine, find out why its name leads here"
    )


def _isolated(seen: HealthInput, now: float) -> str:
    if not seen.others or seen.reached:
        return ""
    reasons = [f"{contact.node.name}: {contact.reason}" for contact in seen.others]
    text = f"no peer answers ({_listed(reasons, '; ')})"
    if seen.quorum > 1:
        text += f": {_UNCONFIRMED}"
        if len(seen.others) == 1:
            text += "; with a third node in nodes.txt, the two that are left would go on"
    return text


def _no_quorum(seen: HealthInput, now: float) -> str:
    if not seen.reached:
        return ""  # that is another trouble
    places = [(seen.status.node_id, seen.me.site)]
    places += [(contact.node_id, contact.node.site) for contact in seen.contacts]
    voters = {seen.status.node_id}
    voters.update(contact.node_id for contact in seen.reached)
    sites = set(verdict.voting_sites(places, voters).values())
    if len(sites) >= seen.quorum:
        return ""
    asked = f"only these sites can be asked: {_listed(sites)}"
    return f"{asked}; quorum = {seen.quorum}: nobody is alerted"


def _suspect(seen: HealthInput, now: float) -> str:
    if not seen.is_suspect:
        return ""
    failing = "most tests fail here while peers see them pass"
    return f"{failing}: it is this node, or its network, that fails"


def _unconfirmable(seen: HealthInput, now: float) -> str:
    """Name the tests that so few nodes have that no quorum can ever see them fail.

    A peer that says nothing of its tests may have them all.
    """
    lacking: dict[Test, set[str]] = {}  # by test, the sites that lack it
    having: dict[Test, set[str]] = {}
    for contact in seen.reached:
        if contact.statement and contact.statement.tests is not None:
            for test in seen.tests - contact.statement.tests:
                if test.host != names.NODE:
                    lacking.setdefault(test, set()).add(contact.node.name)
    for test, nodes in lacking.items():
        having[test] = {seen.me.site} - {""}
        for contact in seen.others:
            if contact.node.name not in nodes:
                having[test].add(contact.node.site)
    lonely = [test for test, sites in having.items() if len(sites) < seen.quorum]
    if not lonely:
        return ""
    return (
        f"too few sites have these tests for quorum = {seen.quorum}, so they can never be DOWN:"
        f" {_listed(lonely)}; touch their files on the other nodes, too"
    )


def _misconfigured(seen: HealthInput, now: float) -> str:
    """Name each error that `dmonitor-check -t` would find, because it makes something silent.

    What the other troubles are about is not looked for again: too few peers, no address.
    """
    if not seen.mistakes:
        return ""
    what = "what is wrong in the configuration is not tested, or nobody is told of it"
    return f"{what}: {seen.mistakes}; see dmonitor-check -t"


def listed_mistakes(mistakes: Iterable[str]) -> str:
    """Return different mistakes in one text, in the order given; of many, the first."""
    texts = list(dict.fromkeys(mistakes))
    return _listed_texts(texts, "; ", _MISTAKES_NAMED)


def _untestable(seen: HealthInput, now: float) -> str:
    late = _late_nodes(seen)
    untestable = []
    for test, judgement in seen.judgements.items():
        is_unknown = judgement.answers[0].seen == Outcome.UNKNOWN.value
        is_named = bool(seen.reached) or test.host != names.NODE  # else `isolated` names the nodes
        if is_unknown and is_named and test not in late:
            untestable.append(test)
    if not untestable:
        return ""
    return f"nobody can tell from here how they are: {_listed(untestable)}"


def _late_nodes(seen: HealthInput) -> set[Test]:
    """Return the tests of nodes whose checker is late: it will soon be stale, or back."""
    late = set()
    for contact in seen.reached:
        if contact.statement is None:
            continue
        stated = contact.statement.status
        if stated.finished > float("-inf") and stated.rounds >= MEASURED_ROUNDS:
            late.add(node_test(contact.node.name))
    return late


def _unconfirmed_recovery(seen: HealthInput, now: float) -> str:
    if not seen.unconfirmed_recoveries:
        return ""
    tests = _listed(seen.unconfirmed_recoveries)
    return (
        f"too many sites are silent to confirm that these are UP again: {tests};"
        " their incidents stay open until more sites answer, or are no longer in nodes.txt"
    )


def _no_answer(seen: HealthInput, now: float) -> str:
    """Name the tests that fail here and that greeted peers say nothing about, round after round."""
    lasting = []
    for unanswered in seen.unanswered:
        if unanswered.rounds >= NAMED_AFTER:
            peers = ", ".join(unanswered.peers) or "another one in each round"
            lasting.append(f"{unanswered.test} ({peers})")
    if not lasting:
        return ""
    return (
        f"in {NAMED_AFTER} rounds running peers were greeted, and did not answer about what fails"
        f" here: {_listed(sorted(lasting))}; see whether they are overloaded, or whether something"
        " on the way to them cuts their answers off"
    )


def _stale_peer(seen: HealthInput, now: float) -> str:
    """Name the peers whose daemon answers and whose checker does not run, if no quorum can."""
    stale = []
    for contact in seen.reached:
        judgement = seen.judgements.get(node_test(contact.node.name))
        if judgement is None or judgement.verdict is not Verdict.UNCONFIRMED:
            continue
        # It may have been silent when it was judged, and be back since.
        if contact.statement and not election.is_at_work(contact.statement.status):
            stale.append(contact.node.name)
    if not stale:
        return ""
    return f"no rounds are run on {_listed(stale)}, and no other node can confirm that"


def _not_stored(seen: HealthInput, now: float) -> str:
    if seen.status.stores:
        return ""
    return (
        "the state cannot be written, so what this node knows is lost when it is started anew,"
        " and the others mail before it: see whether the disk is full or read-only"
    )


def _peer_not_stored(seen: HealthInput, now: float) -> str:
    """Name the peers that run rounds and state that they cannot store what came of them."""
    names_of_peers = []
    for contact in seen.reached:
        if contact.statement is None:
            continue
        stated = contact.statement.status
        if not stated.stores and stated.finished > float("-inf"):
            names_of_peers.append(contact.node.name)
    if not names_of_peers:
        return ""
    listed = _listed(names_of_peers)
    return f"the state cannot be written on {listed}: see whether the disk there is full"


def _settings_differ(seen: HealthInput, now: float) -> str:
    """Name the nodes that have another quorum or confirm; one number holds for all meanwhile."""
    differences = []
    stating = 0
    for contact in seen.reached:
        if contact.statement is None or not contact.statement.status.quorum:
            continue
        stating += 1
        theirs = contact.statement.status
        for name in ("quorum", "confirm"):
            number = getattr(theirs, name)
            if number and number != getattr(seen.status, name):
                differences.append(f"{contact.node.name} has {name} = {number}")
    if not differences:
        return ""
    ours = f"this node has quorum = {seen.status.quorum}, confirm = {seen.status.confirm}"
    holding = "the larger number holds"
    if stating > 1:
        holding = "the second largest number of all nodes holds"
    return f"{ours}; {_listed(differences)}: while they differ, {holding}"


def _no_daemon(seen: HealthInput, now: float) -> str:
    if not seen.no_daemon:
        return ""
    silent = f"dmonitord on this node does not answer ({seen.no_daemon})"
    return f"{silent}: its peers hear nothing from it"


def _daemon_disagrees(seen: HealthInput, now: float) -> str:
    return _named_rehearsals(failure for failure in seen.rehearsal_failures if not failure.peer)


def _unanswered(seen: HealthInput, now: float) -> str:
    return _named_rehearsals(failure for failure in seen.rehearsal_failures if failure.peer)


def _named_rehearsals(failures: Iterable[RehearsalFailure]) -> str:
    named = [failure.text for failure in failures if failure.rounds >= NAMED_AFTER]
    return _listed(named, "; ")


def _cloned_id(seen: HealthInput, now: float) -> str:
    """Name the machines that have one node id, and the lines that have come to have one."""
    texts = []
    copies = sorted(_listed(lines) for lines in seen.node_ids.copies())
    if copies:
        advice = "on all but one of them, stop dmonitord, remove node-id, and start it again"
        texts.append(f"{_all_of(copies, 'have one node id')}: {advice}")
    taken = sorted(_listed(lines) for lines in seen.node_ids.taken())
    if taken:
        advice = "find out who answers there; if that is one machine, leave one of these lines"
        texts.append(f"{_all_of(taken, 'answer with one node id, and did not before')}: {advice}")
    return "; ".join(texts)


def _all_of(lists: Iterable[str], is_true: str) -> str:
    return "; ".join(f"{each} {is_true}" for each in lists)


def _diverted_peer(seen: HealthInput, now: float) -> str:
    """Name the peers that would have vanished, because their names resolve to this node."""
    if not seen.diverted:
        return ""
    return (
        f"these nodes in nodes.txt resolve to this node now, and did not before:"
        f" {_listed(seen.diverted)}; their last addresses stay in force: find out who answers for"
        " their names, or, if that is meant, remove their lines for a round"
    )


def _drift(seen: HealthInput, now: float) -> str:
    """Name what other nodes have configured differently."""
    our_tests = frozenset(test for test in seen.tests if test.host != names.NODE)
    differences = []
    for contact in seen.reached:
        differences += _differences(contact, seen.status, our_tests)
    return "; ".join(sorted(differences))


def _differences(contact: Contact, ours: NodeStatus, our_tests: frozenset[Test]) -> list[str]:
    if contact.statement is None:
        return []
    name = contact.node.name
    theirs = contact.statement.status
    their_tests = our_tests
    if contact.statement.tests is not None:
        their_tests = contact.statement.tests
    differences = []
    if our_tests - their_tests:
        differences.append(f"{name} lacks {_listed(our_tests - their_tests)}")
    if their_tests - our_tests:
        missing = _listed(their_tests - our_tests)
        differences.append(f"this node lacks {missing}, which {name} has")
    if theirs.nodes and theirs.nodes != ours.nodes:
        differences.append(f"{name} has another nodes.txt")
    if theirs.addresses and theirs.addresses != ours.addresses:
        differences.append(f"{name} has other addresses in alert.d")
    return differences


def _long_local(seen: HealthInput, now: float) -> str:
    alone = []
    for test, test_state in seen.test_states.items():
        lasts = now - test_state.since >= LONG_LOCAL_SECONDS
        if lasts and test_state.verdict in _ALONE and test in seen.tests:
            alone.append(test)
    if not alone:
        return ""
    lonely = "for over an hour they have failed here, and no other node has seen it"
    return f"{lonely}: {_listed(alone)}"


# In the order in which a complaint names them.
_KINDS: dict[str, Callable[[HealthInput, float], str]] = {
    "no-address": _no_address,
    "mail-refused": _mail_refused,
    "address-refused": _address_refused,
    "no-peers": _no_peers,
    "listed-twice": _listed_twice,
    "isolated": _isolated,
    "no-quorum": _no_quorum,
    "stale-peer": _stale_peer,
    "not-stored": _not_stored,
    "peer-not-stored": _peer_not_stored,
    "settings-differ": _settings_differ,
    "unconfirmed-recovery": _unconfirmed_recovery,
    "no-answer": _no_answer,
    SUSPECT: _suspect,
    "unconfirmable": _unconfirmable,
    "untestable": _untestable,
    "no-daemon": _no_daemon,
    "daemon-disagrees": _daemon_disagrees,
    "unanswered": _unanswered,
    "cloned-id": _cloned_id,
    "diverted-peer": _diverted_peer,
    MISCONFIGURED: _misconfigured,  # behind those that are short, because a complaint may be cut
    "drift": _drift,
    "long-local": _long_local,
}


def _listed(things: Iterable[object], separator: str = ", ") -> str:
    """Return the names of different things in order; of many, the first."""
    return _listed_texts(sorted({str(thing) for thing in things}), separator, _ITEMS_NAMED)


def _listed_texts(texts: Sequence[str], separator: str, most: int) -> str:
    listed = separator.join(texts[:most])
    if len(texts) > most:
        listed += f" and {len(texts) - most} more"
    return listed


def about(seen: HealthInput) -> dict[str, str]:
    """Return what the troubles are about whose texts have reasons, by their kinds.

    A reason may be another one in each round, such as the error number of a connection or what a
    plugin prints. Such a text is no new one.
    """
    peers = _listed(contact.node.name for contact in seen.others)
    rehearsals = []
    for failure in seen.rehearsal_failures:
        if failure.rounds >= NAMED_AFTER:
            rehearsals.append(f"{failure.test} {failure.peer}")
    failing = _listed(rehearsals)
    return {
        "isolated": peers,
        "no-daemon": "dmonitord",
        "daemon-disagrees": failing,
        "unanswered": failing,
    }
