"""What an operator sees of a node: how its tests are, why, how they were, whether it can alert.

Pure: what was read of configuration and state in, plain dictionaries out. Every Time is one of the
wall clock here; in what is returned it is text, ISO 8601. `terminal`, `page` and `metrics` show it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from dmonitor.base import names
from dmonitor.config import silences as config_silences
from dmonitor.config.silences import SilenceFile
from dmonitor.core import ability as core_ability
from dmonitor.core import behind as core_behind
from dmonitor.core import circles, durations, election, health, hearsay, model, outbox, quiet
from dmonitor.core.effects import NodeMemory
from dmonitor.core.ledger import Ledger
from dmonitor.core.model import (
    Answer,
    Change,
    Contact,
    Flake,
    Handed,
    Incident,
    Judgement,
    LastLook,
    Node,
    Notification,
    Outcome,
    Silence,
    Test,
    TestState,
    Verdict,
    Vote,
)
from dmonitor.core.wants import Audience, Wants

Facts = dict[str, Any]

FLAPPING = "FLAPPING"
NOT_TESTED = ""
# Of the states, the one that needs somebody first comes first.
ORDER = ("DOWN", FLAPPING, "UNCONFIRMED", "LOCAL", "UNKNOWN", NOT_TESTED, "UP")
_FAILING = (Verdict.DOWN.value, FLAPPING)
_LAST_MOMENT = 4e9  # seconds since the epoch; a later time is no time


class NodeReport(NamedTuple):
    """What is known of this node at the time `now`."""

    me: str
    now: float
    nodes: Sequence[Node]
    tests: Iterable[Test]  # those that nodes are, too
    addresses: Sequence[str]
    quorum: int
    node: NodeMemory
    test_states: Mapping[Test, TestState]
    latest: Mapping[Test, Change]  # the last change of each test
    incidents: Sequence[Incident]
    outbox: Sequence[Notification]
    silences: Mapping[str, Sequence[Silence]]  # by the node that said them, ours under our name
    unstored: str = ""  # why the state cannot be written; empty if it can
    rebooted: bool = False  # no round has ended since this machine was started
    # False: some of the configuration could not be read, and earlier tests and addresses stand in.
    whole: bool = True
    # The tests that stand behind others, with those.
    behind: Mapping[Test, Sequence[Test]] = MappingProxyType({})
    # The last look at each test, and how long looks took in the last 24 hours, as far as known.
    looks: Mapping[Test, durations.Look] = MappingProxyType({})
    trends: Mapping[Test, durations.Trend] = MappingProxyType({})
    # What some of the addresses want; the others want everything at once.
    wants: Mapping[str, Wants] = MappingProxyType({})

    @property
    def peers(self) -> list[Node]:
        """The nodes of nodes.txt that are not this one."""
        ours = (self.me, *self.node.own_node_names)
        return [node for node in self.nodes if node.name not in ours]


def moment(at: float | None) -> str | None:
    """Return a time as text in this machine's zone; None for a time that is not known."""
    if at is None or not 0 < at < _LAST_MOMENT:
        return None
    local = datetime.datetime.fromtimestamp(at, datetime.UTC).astimezone()
    return local.isoformat(timespec="seconds")


def status(
    view: NodeReport, chosen: tuple[str, str] = ("", ""), *, with_evidence: bool = False
) -> Facts:
    """Return whether this node can alert, and how its tests are: what needs somebody first.

    `chosen` limits the tests as in `is_chosen`.
    """
    open_incidents: dict[Test, list[Incident]] = {}
    for known in view.incidents:
        if known.is_open:
            open_incidents.setdefault(known.test, []).append(known)
    flakes = _flakes(view)
    tests = []
    for test in view.tests:
        if not is_chosen(test, chosen):
            continue
        facts = _test(view, test, open_incidents.get(test, ()), flakes.get(test))
        latest = view.latest.get(test)
        if with_evidence and latest:
            facts.update(_last_change(latest))
        tests.append(facts)
    tests.sort(key=_urgency)
    return {**ability(view), "tests": tests}


def _flakes(view: NodeReport) -> dict[Test, Flake]:
    return {flake.test: flake for flake in view.node.flakes}


def _urgency(test: Facts) -> tuple[int, bool, str]:
    return ORDER.index(test["state"]), test["host"] == names.NODE, test["test"]


def is_chosen(test: Test, chosen: tuple[str, str]) -> bool:
    """Return whether `test` is of the `chosen` host and has the chosen name; '' is any."""
    host, name = chosen
    return host in ("", test.host) and name in ("", test.name)


def ability(view: NodeReport) -> Facts:
    """Return whether this node can alert, and if not, why; and what it owes."""
    heard = {name for name, _ in view.node.reach}
    finished = moment(view.node.finished)
    age = view.now - view.node.finished
    late = view.rebooted or age > election.living_limit(view.node.status(view.me, "", view.now))
    why_not = _why_not_able(view, heard, late)
    troubles = []
    for trouble in view.node.troubles:
        if health.is_serious(trouble, view.now):
            since = moment(trouble.since)
            troubles.append({"kind": trouble.kind, "since": since, "text": trouble.text})
    return {
        "node": view.me,
        "now": moment(view.now),
        "can_alert": not why_not,
        "why_not": why_not,
        "peers": len(view.peers),
        "reached": [node.name for node in view.peers if node.name in heard],
        "quorum": view.quorum,
        "stale": not finished or late,
        "interval": election.interval(view.node.begins),
        "last_round": finished,
        "last_round_age": round(age, 1) if finished else None,
        "addresses": list(view.addresses),
        "owed": len(_owing(view)),
        "refused_in_a_row": view.node.refused,
        "stored": not view.unstored,
        "not_stored": view.unstored,
        "whole": view.whole,
        "troubles": troubles,
    }


def _owing(view: NodeReport) -> set[str]:
    """Return the ids of the incidents of which something is to be told now."""
    ledger = Ledger(view.incidents, _recall_nothing)

    def is_silenced(test: Test, _: float) -> bool:
        return bool(_silencers(view, test))

    def is_quiet(incident: Incident) -> bool:
        slowest = view.node.interval_that_holds()
        return quiet.is_quiet(
            incident, ledger, is_silenced, view.behind, now=view.now, slowest=slowest
        )

    audience = Audience(view.addresses, view.wants)
    return outbox.owing(view.incidents, view.outbox, audience, is_quiet)


def _recall_nothing(_: Iterable[str]) -> Iterable[Incident]:
    """Find no incident that closed long ago, because none of those hides another one."""
    return ()


def _hidden_behind(view: NodeReport, known: Iterable[Incident]) -> list[str]:
    """Return the tests that are DOWN and behind which a test with these incidents is not told."""
    for incident in known:
        before = view.behind.get(incident.test)
        if not before:
            continue
        related = [each for each in view.incidents if each.test in before]
        ledger = Ledger(related, _recall_nothing)
        slowest = view.node.interval_that_holds()
        if core_behind.is_hidden(incident, before, ledger, now=view.now, slowest=slowest):
            return [str(test) for test in before]
    return []


def check_status(facts: Facts) -> int:
    """Return the exit status of `dmonitor status --check` for the facts of `status` or `views`.

    It is 2 if this node cannot alert or a test fails, 1 if somebody should look, else 0. What fails
    in a silence is known already, so it is only to be looked at.
    """
    if not facts["can_alert"]:
        return 2
    worst = 1 if facts["troubles"] else 0
    for test in facts["tests"]:
        if test["state"] in _FAILING and not test.get("silenced_by"):
            return 2
        if test["state"] != Verdict.UP.value:
            worst = 1
    return worst


def _why_not_able(view: NodeReport, heard: set[str], late: bool) -> list[str]:
    """Return the reasons why this node cannot alert; `heard` are the nodes it reached."""
    reasons = []
    if not moment(view.node.finished):
        reasons.append("it has never finished a round")
    elif view.rebooted:
        reasons.append("no round has ended since this machine was started")
    elif late:
        reasons.append(f"its last round ended {names.span(view.now - view.node.finished)} ago")
    return reasons + core_ability.lacking(
        view.me,
        view.nodes,
        heard,
        quorum=view.quorum,
        addresses=view.addresses,
        whole=view.whole,
        refused=view.node.refused,
    )


def lacks(able: Facts) -> list[str]:
    """Return what the node with these facts of `ability` can neither read nor write."""
    lines = []
    if able["not_stored"]:
        lines.append(f"the state cannot be written: {able['not_stored']}")
    if not able["whole"]:
        lines.append(
            "some of the configuration cannot be read, see dmonitor-check -t;"
            " the tests and addresses that were found last stand in for it"
        )
    return lines


def _test(
    view: NodeReport, test: Test, open_incidents: Iterable[Incident], flake: Flake | None
) -> Facts:
    """Return how a test is."""
    test_state = view.test_states.get(test)
    latest = view.latest.get(test)
    own_answer = latest.judgement.answers[0] if latest else None
    state = NOT_TESTED
    verdict = here = None
    since = 0.0
    if test_state:
        state = verdict = test_state.verdict.value
        here = test_state.own_outcome.value
        since = test_state.since
    if own_answer:
        here = own_answer.seen
    shown = _telling(open_incidents)
    text = own_answer.text if own_answer else ""
    look = test_state.look if test_state else None
    if look:
        text = look.result.text
    if shown and state == Verdict.UP.value and not shown.flapping:
        text = _not_confirmed(text, shown, passes=here == Outcome.OK.value)
    for known in open_incidents:
        if is_flapping(known):
            state = FLAPPING
            since = known.began
            break  # the oldest
    facts = {
        "test": str(test),
        "host": test.host,
        "name": test.name,
        "state": state,
        "verdict": verdict,
        "here": here,
        "since": moment(since or None),
        "seconds": round(view.now - since) if since else None,
        "text": text,
        "incident": shown.id if shown else None,
        "silenced_by": _silencers(view, test),
        "silences": silences(view.silences, view.now, test)["silences"],
        "behind": _hidden_behind(view, open_incidents),
        "acknowledged": moment(shown.acknowledged) if shown else None,
        "acknowledgement": shown.acknowledgement if shown else "",
    }
    return {
        **facts,
        **_look_facts(look, view.now),
        **_flake_facts(flake, view.now),
        **_run_facts(view.looks.get(test), view.now),
    }


def state_words(test: Facts) -> str:
    """Return the state of a test, and whether this node has no part in it."""
    if test["state"] == Verdict.UP.value and test["here"] == Outcome.UNKNOWN.value:
        return "UP (unknown here)"
    return test["state"] or "not tested yet"


def is_flapping(known: Incident) -> bool:
    """Return whether an incident says that its test flaps now: a peer's word alone does not."""
    return bool(known.flapping) and known.is_open and known.is_fact


def as_stated(peer: str | None) -> str:
    """Return the words that say whose word alone something is; '' if it is nobody's."""
    return f", as {peer} states" if peer else ""


def _not_confirmed(text: str, known: Incident, *, passes: bool) -> str:
    """Return the text of a test that is UP, and whose incident nobody can close (R4)."""
    words = "not confirmed: its incident is open"
    if passes:
        words = f"passes here, {words}"
    words += as_stated(hearsay.charged_to(known))
    return f"{words}; {text}" if text else words


def _silencers(view: NodeReport, test: Test) -> list[str]:
    """Return the names of the nodes whose operators have silenced `test`."""
    silencers = []
    for node, silences_of_node in view.silences.items():
        if any(silence.covers(test, view.now) for silence in silences_of_node):
            silencers.append(node)
    return sorted(silencers)


def _look_facts(look: LastLook | None, now: float) -> Facts:
    """Return when this node last looked at a test that it does not look at in each round."""
    if look is None:
        return {"looked_at": None, "look_age": None}
    return {"looked_at": moment(look.at), "look_age": max(0, round(now - look.at))}


def _flake_facts(flake: Flake | None, now: float) -> Facts:
    """Return how often a first look failed that the second one did not confirm."""
    if flake is None:
        return {"flakes": 0, "last_flake": None, "last_flake_age": None, "last_flake_text": ""}
    return {
        "flakes": flake.total,
        "last_flake": moment(flake.last),
        "last_flake_age": round(now - flake.last),
        "last_flake_text": flake.text,
    }


def _run_facts(last: durations.Look | None, now: float) -> Facts:
    """Return what came of the last look at a test, in a round or by EVERY, and how long it took."""
    if last is None:
        return {"runs": 0, "last_run": None, "last_run_age": None, "duration": None}
    return {
        "runs": last.runs,
        "last_run": moment(last.at),
        "last_run_age": max(0, round(now - last.at)),
        "duration": round(last.duration, 4),
    }


def usual(view: NodeReport, test: Test) -> float | None:
    """Return how long a look at a test takes that passes, in seconds; None: not known."""
    trend = view.trends.get(test)
    seconds = trend.usual() if trend else None
    return None if seconds is None else round(seconds, 4)


def _telling(incidents: Iterable[Incident]) -> Incident | None:
    """Return which of the incidents of one test says most of now; they come oldest first."""
    return max(incidents, key=_telling_rank, default=None)


def _telling_rank(known: Incident) -> tuple[bool, bool, float]:
    is_ordinary = known.is_open and not known.flapping
    return known.is_open, is_ordinary, known.began


def _last_change(change: Change | None) -> Facts:
    """Return who saw what when what this node saw, or concluded, last changed."""
    if change is None:
        return {"evidence": None, "evidence_at": None}
    return {"evidence": evidence(change.judgement), "evidence_at": moment(change.at)}


def evidence(judgement: Judgement | None) -> Facts | None:
    """Return who saw what; None without a judgement."""
    if judgement is None:
        return None
    return {
        "verdict": judgement.verdict.value,
        "quorum": judgement.quorum,
        "sites_failing": len(judgement.sites(Vote.FAILING)),
        "answers": [_answer(answer) for answer in judgement.answers],
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
    """Return what there is to tell of one incident.

    `handed` is what this node handed over itself, of any incident.
    """
    mine = [each for each in handed if each.incident == known.id]
    if known.closed is not None:
        until = known.closed
    elif known.removed:
        until = known.began
    else:
        until = now
    return {
        "incident": known.id,
        "ids": list(known.ids),
        "test": str(known.test),
        "flapping": known.flapping,
        "began": moment(known.began),
        "ended": moment(known.closed),
        "seconds": round(until - known.began),
        "open": known.is_open,
        "removed": known.removed,
        "void": known.void,
        "acknowledged": moment(known.acknowledged),
        "acknowledgement": known.acknowledgement,
        "stated_by": hearsay.charged_to(known) or None,
        "seen_by": known.opening.nodes(Vote.FAILING) if known.opening else [],
        "alert_by": _first_told(known, model.Kind.ALERT),
        "alert_stated_by": known.alert_stated_by or None,
        "recovery_by": _first_told(known, model.Kind.RECOVERY),
        "recovery_stated_by": known.recovery_stated_by or None,
        "alert_to": _handed_over(mine, model.Kind.ALERT),
        "recovery_to": _handed_over(mine, model.Kind.RECOVERY),
        "opening": evidence(known.opening),
        "closing": evidence(known.closing),
    }


def _first_told(known: Incident, kind: model.Kind) -> str | None:
    """Return which node handed it over to those who are told at once, or else to a circle."""
    for view in circles.views(known):
        node = view.alert if kind is model.Kind.ALERT else view.recovery
        if node:
            return node
    return None


def _handed_over(handed: Iterable[Handed], kind: model.Kind) -> list[Facts]:
    """Return to whom a kind of notification was handed over, and when."""
    return [
        {"address": each.address, "at": moment(each.at)} for each in handed if each.kind is kind
    ]


def incidents(known: Sequence[Incident], handed: Iterable[Handed], now: float) -> list[Facts]:
    """Return all incidents, newest first; they come oldest first."""
    by_incident: dict[str, list[Handed]] = {}
    for each in handed:
        by_incident.setdefault(each.incident, []).append(each)
    return [past(each, now, by_incident.get(each.id, ())) for each in reversed(known)]


def history(
    known: Sequence[Incident],
    changes: Sequence[Change],
    handed: Sequence[Handed],
    view: NodeReport,
    since: float,
) -> Facts:
    """Return all incidents, and all changes of what this node saw, newest first.

    `since` is when the oldest known change was.
    """
    return {
        **_age(view),
        "known_since": moment(since),
        "incidents": incidents(known, handed, view.now),
        "changes": [_change(change) for change in reversed(changes)],
    }


def _change(change: Change) -> Facts:
    own_answer = change.judgement.answers[0]
    return {
        "test": str(change.test),
        "at": moment(change.at),
        "state": change.judgement.verdict.value,
        "here": own_answer.seen,
        "text": own_answer.text,
    }


def why(view: NodeReport, test: Test, known: Sequence[Incident], handed: Sequence[Handed]) -> Facts:
    """Return how a test is, by which evidence, and what its last incident was.

    `known` are its incidents, oldest first.
    """
    shown = _telling(known)
    is_open = [each for each in view.incidents if each.test == test and each.is_open]
    return {
        **_test(view, test, is_open, _flakes(view).get(test)),
        **_last_change(view.latest.get(test)),
        "usual_duration": usual(view, test),
        "last_incident": past(shown, view.now, handed) if shown else None,
        "recipients": _recipients(view, test, is_open),
        **_age(view),
    }


def _recipients(view: NodeReport, test: Test, is_open: Sequence[Incident]) -> list[Facts]:
    """Return for each address whether it is told of `test`, when, and by which lines.

    If an incident of the test is open, `at` is when it is told of that at the earliest.
    """
    began = min((each.began for each in is_open), default=view.now)
    is_acknowledged = any(each.acknowledged is not None for each in is_open)
    found = []
    for address in view.addresses:
        wants = view.wants.get(address, Wants())
        excluded_by = wants.excluded_by(test)
        by = wants.times
        told, at = "at-once", None
        if excluded_by:
            told, by = "never", (str(excluded_by),)
        elif wants.after and not is_open:
            told = "if-it-lasts"
        elif wants.after or wants.is_outside_hours(view.now):
            told, at = "later", wants.told_at(max(view.now, began + wants.after))
            if at <= view.now:
                told, at = "at-once", None
        if wants.after and is_acknowledged and told != "never":
            told, at = "acknowledged", None
        found.append(
            {
                "address": address,
                "told": told,
                "at": moment(at),
                "after": wants.after,
                "by": list(by),
            }
        )
    return found


def _age(view: NodeReport) -> Facts:
    """Return how old is what is known."""
    able = ability(view)
    return {key: able[key] for key in ("now", "stale", "last_round", "last_round_age")}


def nodes(view: NodeReport) -> Facts:
    """Return which nodes there are, and whom each of them reached in its last round, if known."""
    reached = {name: list(others) for name, others in view.node.reach}
    reached[view.me] = list(reached)
    every = [node.name for node in view.nodes]
    if view.me not in every:
        every.append(view.me)
    return {"nodes": every, "reached": reached}


def silences(
    silences_by_node: Mapping[str, Sequence[Silence]], now: float, test: Test | None = None
) -> Facts:
    """Return the silences that hold now, of `test` or of all, and which node said each."""
    holding = []
    for node, silences_of_node in silences_by_node.items():
        for silence in silences_of_node:
            if test and not silence.covers(test, now):
                continue
            if silence.until is None or silence.until > now:
                holding.append(_silence(silence, node, now))
    holding.sort(key=lambda facts: (str(facts["what"]), str(facts["node"])))
    return {"silences": holding}


def planned(files: Iterable[SilenceFile], me: str, now: float) -> list[Facts]:
    """Return the next hours in which this node, `me`, silences something, the first ones first."""
    listed = []
    for begins, silence in sorted(
        config_silences.planned(files, now), key=lambda each: each.begins
    ):
        facts = _silence(silence, me, now)
        listed.append({**facts, "begins": moment(begins)})
    return listed


def _silence(silence: Silence, node: str, now: float) -> Facts:
    age = None
    if silence.since is not None:
        age = max(0, round(now - silence.since))
    return {
        "what": f"{silence.host}/{silence.name}" if silence.name else silence.host,
        "until": moment(silence.until),
        "node": node,
        "reason": silence.reason,
        "age": age,
    }


def views(able: Facts, judgements: Mapping[Test, Judgement]) -> Facts:
    """Return who sees what now."""
    nodes_asked: dict[str, None] = {}  # in the order in which they appear
    tests = []
    for test, judged in judgements.items():
        for answer in judged.answers:
            nodes_asked[answer.node.name] = None
        facts = {"test": str(test), "state": judged.verdict.value, "evidence": evidence(judged)}
        tests.append((ORDER.index(judged.verdict.value), test.host == names.NODE, str(test), facts))
    tests.sort(key=lambda ranked: ranked[:3])
    return {**able, "nodes": list(nodes_asked), "tests": [facts for *_, facts in tests]}


def peers(
    contacts: Iterable[tuple[Contact, float]],
    our_digests: tuple[str, str, str],
    addresses: Mapping[str, str],
    shared_keys: Mapping[str, str],
) -> Facts:
    """Return what came of greeting each peer, and how many seconds that took.

    The digests are of our tests, nodes and addresses; `addresses` is where each peer was called.
    `shared_keys` are the fingerprints of the keys that this node shares with those it reached.
    """
    listed = []
    for contact, took in contacts:
        facts = _peer(contact, took, our_digests, addresses)
        facts["key"] = shared_keys.get(contact.node.name)
        listed.append(facts)
    return {"peers": listed}


def _peer(
    contact: Contact, took: float, our_digests: tuple[str, str, str], addresses: Mapping[str, str]
) -> Facts:
    facts: Facts = {
        "node": contact.node.name,
        "site": contact.node.site,
        "address": addresses.get(contact.node.name),
        "node_id": contact.node_id or None,
        "reached": False,
        "reason": contact.reason,
        "latency": None,
        "version": None,
        "clock": None,
        "last_round_age": None,
        "interval": None,
        "troubles": [],
        "drift": [],
    }
    if contact.statement is None:
        return facts
    stated = contact.statement.status
    facts["reached"] = True
    facts["latency"] = round(took, 4)
    facts["version"] = stated.version or None
    if stated.wall:
        facts["clock"] = round(stated.wall - stated.at, 2) + 0.0  # + 0.0: no negative zero
    if stated.finished > 0:
        facts["last_round_age"] = round(stated.at - stated.finished, 1)
    facts["interval"] = stated.interval
    facts["troubles"] = list(stated.troubles)
    their_digests = stated.tests, stated.nodes, stated.addresses
    files = ("hosts.d", "nodes.txt", "alert.d")
    for file, ours, theirs in zip(files, our_digests, their_digests, strict=True):
        if theirs not in ("", ours):
            facts["drift"].append(file)
    return facts
