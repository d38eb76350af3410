"""What troubles a node: what is found in a round's view, when it is said, and what a rehearsal leaves (rule R7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from dmonitor import observer
from dmonitor.core import complaints, health, unanswered
from dmonitor.core.model import (
    BUSY,
    Answer,
    Contact,
    Judgement,
    Node,
    NodeStatus,
    Outcome,
    Rehearsal,
    RehearsalFailure,
    Result,
    Statement,
    Test,
    TestState,
    Trouble,
    Unanswered,
    Verdict,
    node_test,
)
from dmonitor.core.node_ids import SHARED, NodeIds
from dmonitor.core.rehearsal import rehearse

NOW = 100_000.0
OSLO, PARIS, ROME = (Node(name, name) for name in ("oslo", "paris", "rome"))
WEB, SSH = Test("www", "web"), Test("www", "ssh")


def node_status(node: Node = OSLO, **facts: Any) -> NodeStatus:
    return NodeStatus(
        **{
            "name": node.name,
            "node_id": f"id-{node.name}",
            "at": NOW,
            "finished": NOW - 9.0,
            "rounds": 6,
            "speaks": True,
            **facts,
        }
    )


def contact(node: Node, **facts: Any) -> Contact:
    """Return what came of greeting a NODE that answers."""
    tests = facts.pop("tests", None)
    return Contact(node, f"id-{node.name}", "", Statement(node_status(node, **facts), tests=tests))


def silent(node: Node, reason: str = "connection refused") -> Contact:
    return Contact(node, reason=reason)


def judged(verdict: Verdict = Verdict.UP, own: Outcome = Outcome.OK) -> Judgement:
    return Judgement(verdict, 2, (Answer(OSLO, "id-oslo", Result(own)),))


def view(
    *contacts: Contact,
    judgements: Mapping[Test, Judgement] | None = None,
    known_ids: Mapping[str, str] | None = None,
    **facts: Any,
) -> health.HealthInput:
    judgements = {WEB: judged()} if judgements is None else judgements
    node_id = facts.get("status", node_status()).node_id
    tests = frozenset({*judgements, *(node_test(each.node.name) for each in contacts)})
    return health.HealthInput(
        **{
            "me": OSLO,
            "status": node_status(),
            "tests": tests,
            "judgements": judgements,
            "test_states": {},
            "contacts": contacts,
            "node_ids": NodeIds(node_id, contacts, judgements.values(), known_ids or {}),
            "quorum": 2,
            "is_suspect": health.is_suspect(judgements),
            **facts,
        }
    )


def found(*contacts: Contact, **facts: Any) -> dict[str, str]:
    return health.find(view(*contacts, **facts), NOW)


GOOD = contact(PARIS), contact(ROME)


def test_all_is_well() -> None:
    assert found(*GOOD) == {}
    assert found(GOOD[0], silent(ROME)) == {}, (
        "a dead peer is an incident, not this node's own trouble"
    )


def test_who_needs_nobody_does_not_say_that_nobody_is_alerted() -> None:
    assert found(silent(PARIS), quorum=1) == {
        "isolated": "no peer answers (paris: connection refused)"
    }


def test_nothing_is_configured_yet() -> None:
    nothing: dict[str, Any] = {"judgements": {}, "status": node_status(speaks=False)}
    assert found(**nothing, mistakes="nodes.txt: No such file") == {}
    unreadable = found(**nothing, mistakes="hosts.d: Permission denied", complete=False)
    assert "misconfigured" in unreadable, "who knows what is there"


@pytest.mark.parametrize(
    ("contacts", "facts", "kind", "text"),
    [
        (GOOD, {"status": node_status(speaks=False)}, "no-address", "alert.d names no address"),
        (
            GOOD,
            {
                "refused": ["hook:push", "a@example.com"],
                "addresses": ["a@example.com", "b@example.com", "hook:push"],
            },
            "address-refused",
            "what this node hands over is refused for a@example.com, hook:push: the log",
        ),
        (
            GOOD,
            {"refused": ["a@example.com"], "addresses": ["a@example.com"]},
            "mail-refused",
            "all that this node hands over is refused (a@example.com): the log says why",
        ),
        ((), {}, "no-peers", "nodes.txt names no other node"),
        (
            (silent(PARIS), silent(ROME)),
            {},
            "isolated",
            "no peer answers (paris: connection refused; rome: connection refused)",
        ),
        (
            (silent(PARIS),),
            {},
            "isolated",
            "with a third node in nodes.txt, the two that are left would go on",
        ),
        (
            (silent(PARIS),),
            {"quorum": 1},
            "isolated",
            "no peer answers (paris: connection refused)",
        ),
        (
            GOOD,
            {"quorum": 4},
            "no-quorum",
            "only these sites can be asked: oslo, paris, rome; quorum = 4",
        ),
        (
            (contact(Node("paris", "oslo")), silent(ROME)),
            {},
            "no-quorum",
            "only these sites can be asked: oslo; quorum = 2",
        ),
        (GOOD, {"no_daemon": "connection refused"}, "no-daemon", "connection refused"),
        (GOOD, {"judgements": {WEB: judged(own=Outcome.UNKNOWN)}}, "untestable", "www/web"),
        (
            GOOD,
            {"rehearsal_failures": [RehearsalFailure("www/web", "", 3, "a false vote")]},
            "daemon-disagrees",
            "a false vote",
        ),
        (
            GOOD,
            {
                "rehearsal_failures": [
                    RehearsalFailure("www/web", "paris", 3, "paris could not tell")
                ]
            },
            "unanswered",
            "paris could not tell",
        ),
        (
            (contact(PARIS, tests=frozenset([SSH])), GOOD[1]),
            {},
            "drift",
            "paris lacks www/web; this node lacks www/ssh, which paris has",
        ),
        (
            (contact(PARIS, nodes="a" * 16), GOOD[1]),
            {"status": node_status(nodes="b" * 16)},
            "drift",
            "paris has another nodes.txt",
        ),
        (
            (contact(PARIS, addresses="a" * 16), GOOD[1]),
            {"status": node_status(addresses="b" * 16)},
            "drift",
            "paris has other addresses in alert.d",
        ),
        (
            (*GOOD, Contact(Node("copy", "copy"), "id-oslo", cloned=True)),
            {},
            "cloned-id",
            "copy, this node have one node id",
        ),
        (
            (
                GOOD[0]._replace(incarnation="aaaaaaaa"),
                GOOD[1]._replace(incarnation="bbbbbbbb", node_id="id-paris"),
            ),
            {},
            "cloned-id",
            "paris, rome have one node id",
        ),
        (GOOD, {"mistakes": "hosts.d: Permission denied"}, "misconfigured", "denied; see"),
        (
            GOOD,
            {"own_lines": ["oslo", "rome"]},
            "listed-twice",
            "several lines of nodes.txt are this node: oslo, rome; it looks at none of them: leave",
        ),
        (
            GOOD,
            {"diverted": ["paris"]},
            "diverted-peer",
            "resolve to this node now, and did not before: paris; their last addresses",
        ),
        (
            GOOD,
            {"test_states": {WEB: TestState(Verdict.LOCAL, Outcome.FAIL, NOW - 3600.0)}},
            "long-local",
            "no other node has seen it: www/web",
        ),
        (
            GOOD,
            {"test_states": {WEB: TestState(Verdict.UNCONFIRMED, Outcome.FAIL, NOW - 3600.0)}},
            "long-local",
            "www/web",
        ),
    ],
)
def test_each_trouble_alone(
    contacts: tuple[Contact, ...], facts: dict[str, Any], kind: str, text: str
) -> None:
    whole = found(*contacts, **facts)
    assert list(whole) == [kind] and text in whole[kind]


@pytest.mark.parametrize(
    ("contacts", "facts", "why"),
    [
        ((), {"quorum": 1}, "one node alone may be all that is wanted"),
        (
            (*GOOD, Contact(Node("alias", "alias"), "id-oslo")),
            {},
            "this node itself under another name",
        ),
        (
            (
                GOOD[0]._replace(incarnation="aaaaaaaa"),
                GOOD[0]._replace(node=ROME, incarnation="aaaaaaaa"),
            ),
            {},
            "one machine under two names",
        ),
        (
            GOOD,
            {"test_states": {WEB: TestState(Verdict.LOCAL, Outcome.FAIL, NOW - 3599.0)}},
            "not for an hour yet",
        ),
        (
            GOOD,
            {"test_states": {WEB: TestState(Verdict.DOWN, Outcome.FAIL, NOW - 9999.0)}},
            "an incident",
        ),
        (GOOD, {"status": node_status(nodes="a" * 16, addresses="b" * 16)}, "theirs are not known"),
        (
            (contact(PARIS, finished=NOW - 200.0), GOOD[1]),
            {"judgements": {node_test("paris"): judged(own=Outcome.UNKNOWN)}},
            "a checker that is late will be stale or back",
        ),
    ],
)
def test_no_trouble(contacts: tuple[Contact, ...], facts: dict[str, Any], why: str) -> None:
    assert found(*contacts, **facts) == {}, why


def test_a_peer_whose_checker_never_ran_is_untestable() -> None:
    contacts = contact(PARIS, finished=float("-inf")), GOOD[1]
    assert found(*contacts, judgements={node_test("paris"): judged(own=Outcome.UNKNOWN)})[
        "untestable"
    ].endswith("node/paris")


def test_who_hears_nobody_does_not_name_the_nodes_it_cannot_test() -> None:
    unsure = {node_test("paris"): judged(own=Outcome.UNKNOWN)}
    assert list(found(silent(PARIS, "network is unreachable"), judgements=unsure)) == ["isolated"]


def test_a_test_that_this_node_alone_has_can_never_be_down() -> None:
    """If it fails, that is UNCONFIRMED for ever, and nobody is mailed."""
    both = frozenset({WEB, SSH})
    facts: dict[str, Any] = {"judgements": {WEB: judged(), SSH: judged()}}
    lack = {node: contact(node, tests=frozenset({SSH})) for node in (PARIS, ROME)}
    text = found(*lack.values(), **facts)["unconfirmable"]
    assert "quorum = 2, so they can never be DOWN: www/web; touch" in text
    for other in (contact(ROME, tests=both), contact(ROME), silent(ROME)):
        assert "unconfirmable" not in found(lack[PARIS], other, **facts), "that one may have it"
    assert "unconfirmable" not in found(*lack.values(), **facts, quorum=1)
    same_site = contact(Node("rome", "oslo"), tests=both)
    assert "unconfirmable" in found(lack[PARIS], same_site, **facts)


def test_the_order_in_which_peers_answer_changes_no_text() -> None:
    lacking = contact(PARIS, tests=frozenset()), contact(ROME, tests=frozenset())
    assert found(*lacking) == found(*reversed(lacking)) != {}
    twins = [
        contact(Node(name, name))._replace(node_id=f"id-{name[0]}", incarnation=f"{name}{name}")
        for name in ("a111", "a222", "b111", "b222")
    ]
    assert found(*twins)["cloned-id"] == found(*reversed(twins))["cloned-id"]


def test_many_mistakes_leave_room_for_the_other_troubles() -> None:
    """What a round prints is cut after 2000 characters."""
    long = [f"{number}: {'x' * 200}" for number in range(50)]
    text = health.listed_mistakes(long)
    assert text.endswith("and 47 more") and len(text) < 700
    mistakes = f"{text}; {text}"
    whole = found(*GOOD, mistakes=mistakes, no_daemon="refused", diverted=["paris"])
    assert list(whole) == ["no-daemon", "diverted-peer", "misconfigured"]


def test_many_are_counted() -> None:
    many = {Test(f"host{number:02}", "x"): judged(own=Outcome.UNKNOWN) for number in range(25)}
    assert found(*GOOD, judgements=many)["untestable"].endswith("host09/x and 15 more")


def local(failing: int, passing: int, hosts: int) -> dict[Test, Judgement]:
    verdicts = [Verdict.LOCAL] * failing + [Verdict.UP] * passing
    return {
        Test(f"host{number % hosts}", f"t{number}"): judged(verdict)
        for number, verdict in enumerate(verdicts)
    }


@pytest.mark.parametrize(
    ("judgements", "suspect"),
    [
        (local(5, 4, 9), True),
        (local(4, 4, 8), False),  # half is not more than half
        (local(9, 0, 3), False),  # three hosts may have gone from here
        (local(9, 0, 4), True),
        ({}, False),
        ({node_test(f"n{number}"): judged(Verdict.LOCAL) for number in range(9)}, False),
        (
            {
                test: each._replace(verdict=Verdict.UNCONFIRMED)
                for test, each in local(9, 0, 9).items()
            },
            False,
        ),
        (
            {test: each._replace(verdict=Verdict.DOWN) for test, each in local(9, 0, 9).items()},
            False,
        ),
    ],
)
def test_suspect(judgements: dict[Test, Judgement], suspect: bool) -> None:
    assert health.is_suspect(judgements) is suspect
    assert ("suspect" in found(*GOOD, judgements=judgements, tests=frozenset([WEB]))) is suspect


# When it is said.


def said(*minutes: tuple[int, dict[str, str]]) -> list[tuple[int, str]]:
    """Return at which of MINUTES, with what was found in each, people are told of what."""
    told: list[tuple[int, str]] = []
    known: tuple[Trouble, ...] = ()
    for minute, now_found in minutes:
        now, after = NOW + 60.0 * minute, []
        for each in complaints.follow(known, now_found, now):
            if complaints.is_due(each, now):
                told.append((minute, each.kind))
            each = each._replace(logged=each.logged or complaints.is_serious(each, now))
            after.append(each._replace(said=now) if complaints.is_due(each, now) else each)
        known = tuple(after)
    return told


def test_at_once_and_then_hourly() -> None:
    silence = {"isolated": "no peer answers"}
    assert said(*((minute, silence) for minute in range(121))) == [
        (0, "isolated"),
        (60, "isolated"),
        (120, "isolated"),
    ]


def test_what_comes_and_goes_is_not_said_more_often() -> None:
    silence = {"isolated": "no peer answers"}
    assert said(*((minute, silence if minute % 3 else {}) for minute in range(70))) == [
        (1, "isolated"),
        (61, "isolated"),
    ]


def test_what_may_be_gone_in_a_minute_has_to_last() -> None:
    untestable = {"untestable": "www/web"}
    assert said(
        (0, untestable), (1, untestable), (2, {}), (3, untestable), (7, untestable), (8, untestable)
    ) == [(8, "untestable")]


def test_a_configuration_may_take_five_minutes_to_be_written() -> None:
    half = {
        "no-peers": "nodes.txt names no other node",
        "no-address": "alert.d names no address",
        "drift": "other tests",
    }
    assert said((0, half), (4, half)) == []
    assert said((0, half), (4, half), (5, half)) == [(5, kind) for kind in half]


def test_a_mail_system_may_refuse_for_five_minutes() -> None:
    refused = {"mail-refused": "what this node hands over is refused for root"}
    assert said((0, refused), (4, refused)) == []
    assert said((0, refused), (4, refused), (5, refused)) == [(5, "mail-refused")]


def test_from_when_to_when() -> None:
    (began,) = complaints.follow((), {"isolated": "no peer answers"}, NOW)
    assert began == Trouble("isolated", "no peer answers", NOW)
    (lasts,) = complaints.follow([began], {"isolated": "no peer answers at all"}, NOW + 60.0)
    assert lasts == began._replace(text="no peer answers at all")
    (over,) = complaints.follow([lasts._replace(said=NOW, logged=True)], {}, NOW + 120.0)
    assert (over.since, over.ended) == (NOW, NOW + 120.0)
    assert complaints.follow([over], {}, NOW + 180.0) == (over,), (
        "it is remembered that it was said"
    )
    assert complaints.follow([over], {}, NOW + 3601.0) == ()
    (late,) = complaints.follow([lasts._replace(said=NOW, logged=True)], {}, NOW + 3660.0)
    assert late.ended == NOW + 3660.0, "its end is told, however long ago it was said"
    (again,) = complaints.follow([over], {"isolated": "x"}, NOW + 600.0)
    assert (again.since, again.said, again.ended, again.logged) == (NOW + 600.0, NOW, None, False)
    assert complaints.follow([began], {}, NOW + 60.0) == (), "what nobody was told of needs no end"


def test_another_reason_is_no_news() -> None:
    """A peer that refuses in one round and is not reached in the next was logged in each."""
    peers = silent(PARIS), silent(ROME)
    refused = [peer._replace(reason="connection refused") for peer in peers]
    unreachable = [peer._replace(reason="no route to host") for peer in peers]
    known: tuple[Trouble, ...] = ()
    news = []
    for contacts in (refused, unreachable, [*unreachable, silent(Node("oulu", "oulu"))]):
        seen = view(*contacts)
        before = known
        known = complaints.follow(before, health.find(seen, NOW), NOW, health.about(seen))
        (isolated,) = [trouble for trouble in known if trouble.kind == "isolated"]
        assert contacts[0].reason in isolated.text
        news += [complaints.is_news(isolated, old) for old in before if old.kind == "isolated"]
    assert news == [False, True]


@pytest.mark.parametrize("peer", ["", "paris"])
def test_what_a_plugin_prints_is_no_news(peer: str) -> None:
    known: tuple[Trouble, ...] = ()
    for text in ("took 0.123 s", "took 0.125 s"):
        seen = view(*GOOD, rehearsal_failures=[RehearsalFailure("www/web", peer, 3, text)])
        before = known
        known = complaints.follow(before, health.find(seen, NOW), NOW, health.about(seen))
    (after,) = known
    assert "0.125" in after.text and not complaints.is_news(after, before[0])
    assert complaints.is_news(after, after._replace(about="www/other "))


# Rehearsals.

PASSES = {WEB: judged(), SSH: judged(), node_test("paris"): judged()}


def answered(node: Node, outcome: Outcome | None, text: str = "") -> Answer:
    return Answer(
        node, "", Result(outcome, text) if outcome else None, reason="" if outcome else text
    )


@pytest.mark.parametrize(
    ("peer", "answer", "fails"),
    [
        ("", answered(OSLO, Outcome.OK), False),
        ("", answered(OSLO, Outcome.FAIL, "no right"), True),
        ("", answered(OSLO, Outcome.UNKNOWN), True),
        ("", answered(OSLO, Outcome.TIMEOUT), True),
        ("", answered(OSLO, None, "refused"), False),  # that is another trouble
        ("paris", answered(PARIS, Outcome.OK), False),
        ("paris", answered(PARIS, Outcome.FAIL), False),  # what a peer sees is no fault of ours
        ("paris", answered(PARIS, None, "no answer in time"), True),
        ("paris", answered(PARIS, Outcome.UNKNOWN, "no plugin"), True),
    ],
)
def test_rehearsal(peer: str, answer: Answer, fails: bool) -> None:
    failures = rehearse((), [Rehearsal(WEB, peer, answer)], PASSES)
    assert [(each.test, each.peer, each.rounds) for each in failures] == [
        ("www/web", peer, 1)
    ] * fails
    assert all(each.text for each in failures)


def test_a_rehearsal_failure_stands_until_the_same_question_is_answered_well() -> None:
    own_fails = Rehearsal(WEB, "", answered(OSLO, Outcome.FAIL, "no right"))
    peer_fails = Rehearsal(WEB, "paris", answered(PARIS, Outcome.UNKNOWN))
    first = rehearse((), [own_fails, peer_fails], PASSES)
    assert [each[:2] for each in first] == [
        ("www/web", ""),
        ("www/web", "paris"),
    ] and "says FAIL (no right)" in first[0].text
    assert rehearse(first, [], PASSES) == first
    others = [
        Rehearsal(SSH, "", answered(OSLO, Outcome.OK)),
        Rehearsal(SSH, "paris", answered(PARIS, Outcome.OK)),
    ]
    assert rehearse(first, others, PASSES) == first, "another test says nothing of this one"
    silent = Rehearsal(WEB, "", answered(OSLO, None, "refused"))
    assert rehearse(first, [silent], PASSES) == first, "a daemon that is silent has not mended it"
    assert [each.rounds for each in rehearse(first, [own_fails], PASSES)] == [2, 1]
    fine = Rehearsal(WEB, "", answered(OSLO, Outcome.OK))
    assert [each.peer for each in rehearse(first, [fine], PASSES)] == ["paris"]
    gone = PASSES | {node_test("paris"): judged(Verdict.LOCAL, Outcome.FAIL)}
    assert [each.peer for each in rehearse(first, [], gone)] == [""], "that peer is gone"
    assert rehearse(first, [], {SSH: judged()}) == (), "it is no test any more"
    assert rehearse(first, [], PASSES | {WEB: judged(Verdict.LOCAL, Outcome.FAIL)}) == (), (
        "it does not pass here"
    )


def test_no_rehearsal_that_goes_on_failing_keeps_another_from_being_asked_again() -> None:
    failures = [
        RehearsalFailure(str(test), peer, 3, "wrong")
        for peer in ("", "paris")
        for test in (WEB, SSH)
    ]
    passing = {str(test): test for test in (WEB, SSH)}
    chosen = {observer.choose_tests(passing, failures) for _ in range(200)}
    assert chosen == {(own, theirs, "paris") for own in (WEB, SSH) for theirs in (WEB, SSH)}
    assert observer.choose_tests({str(WEB): WEB}, failures) == (WEB, WEB, "paris"), (
        "what does not pass here is not rehearsed"
    )


def test_a_rehearsal_is_named_after_three_rounds() -> None:
    failure = RehearsalFailure("www/web", "", 2, "a false vote")
    assert "daemon-disagrees" not in found(*GOOD, rehearsal_failures=[failure])
    assert (
        found(*GOOD, rehearsal_failures=[failure._replace(rounds=3)])["daemon-disagrees"]
        == "a false vote"
    )


# What no quorum can say, and what nodes do differently.


def test_a_peer_whose_checker_is_dead_is_named_if_nobody_can_confirm_it() -> None:
    """Of two nodes, one runs no rounds: the other one has to say so."""
    stale = {WEB: judged(), node_test("paris"): judged(Verdict.UNCONFIRMED, Outcome.FAIL)}
    assert found(contact(PARIS, finished=NOW - 900.0), judgements=stale) == {
        "stale-peer": "no rounds are run on paris, and no other node can confirm that"
    }
    assert found(GOOD[0], judgements=stale) == {}, "it is back since it was judged"
    confirmed = {WEB: judged(), node_test("paris"): judged(Verdict.DOWN, Outcome.FAIL)}
    late = contact(PARIS, finished=NOW - 900.0)
    assert found(late, judgements=confirmed) == {}, "a mail says it"


def test_a_state_that_cannot_be_written() -> None:
    """The node itself says so, and so do its peers, after a while."""
    texts = found(*GOOD, status=node_status(stores=False))
    assert list(texts) == ["not-stored"] and "whether the disk is full" in texts["not-stored"]
    assert found(contact(PARIS, stores=False), contact(ROME)) == {
        "peer-not-stored": "the state cannot be written on paris: see whether the disk there is full"
    }
    never = contact(PARIS, stores=False, finished=float("-inf"))
    assert found(never, contact(ROME)) == {}, "it has run no round that could store anything"
    for kind in ("not-stored", "peer-not-stored"):
        began = Trouble(kind, "text", NOW)
        assert not complaints.is_serious(began, NOW + 299.0) and complaints.is_serious(
            began, NOW + 300.0
        )


def test_settings_that_differ() -> None:
    ours = node_status(quorum=2, confirm=1)
    strict = contact(PARIS, quorum=3, confirm=1)
    old = contact(ROME)  # states neither
    texts = found(strict, old, status=ours)
    assert texts == {
        "settings-differ": "this node has quorum = 2, confirm = 1; paris has quorum = 3:"
        " while they differ, the larger number holds"
    }
    (text,) = found(strict, contact(ROME, quorum=2, confirm=1), status=ours).values()
    assert text.endswith("while they differ, the second largest number of all nodes holds")
    assert found(contact(PARIS, quorum=2, confirm=1), status=ours) == {}


def test_recoveries_that_nobody_can_confirm() -> None:
    texts = found(*GOOD, unconfirmed_recoveries=[WEB])
    assert list(texts) == ["unconfirmed-recovery"] and "www/web" in texts["unconfirmed-recovery"]


# Which machine answers at which line.

MAIN, BERN = Node("main", "main"), Node("bern", "bern")


def answers_as(node: Node, node_id: str, run: str = "run-of-it") -> Contact:
    return contact(node)._replace(node_id=node_id, incarnation=run)


def cloned_in(
    *rounds: Sequence[Contact], listed: Sequence[Node] = (PARIS, ROME, MAIN)
) -> list[str]:
    """Return what is said of node ids in each of `rounds`."""
    names = {node.name for node in listed}
    known: Mapping[str, str] = {}
    texts = []
    for contacts in rounds:
        seen = view(*contacts, known_ids=known)
        texts.append(health.find(seen, NOW).get("cloned-id", ""))
        known = seen.node_ids.learn(names)
    return texts


def test_who_takes_an_id_after_it_had_one_of_its_own_is_named_as_long_as_it_does() -> None:
    honest = answers_as(PARIS, "id-paris"), answers_as(ROME, "id-rome")
    theft = answers_as(PARIS, "id-paris"), answers_as(ROME, "id-paris")
    without_run = answers_as(PARIS, "id-paris"), answers_as(ROME, "id-paris", "")
    for attack in (theft, without_run):
        before, *texts, after = cloned_in(honest, *[attack] * 5, honest)
        assert before == after == "" and len(set(texts)) == 1
        assert texts[0].startswith("paris, rome answer with one node id, and did not before: ")
    waits = silent(PARIS), answers_as(ROME, "id-paris")
    assert cloned_in(honest, *[waits] * 3, theft)[-1], "it began while the other one was silent"
    fresh = answers_as(PARIS, "id-paris"), answers_as(ROME, "id-fresh")
    assert cloned_in(honest, fresh, theft)[-1], "it had a fresh id before"
    gone = answers_as(PARIS, "id-paris"), silent(ROME)
    assert cloned_in(honest, *[gone] * 9, theft)[-1], "it was silent before"
    anew = answers_as(PARIS, "id-anew"), answers_as(ROME, "id-anew")
    assert cloned_in(honest, anew)[-1], "the other one was installed anew"
    ours = answers_as(PARIS, "id-paris"), answers_as(ROME, "id-oslo")
    assert cloned_in(honest, ours, ours)[-1].startswith("rome, this node answer with one node id")


def test_an_id_that_is_stolen_for_an_answer_only() -> None:
    honest = answers_as(PARIS, "id-paris"), answers_as(ROME, "id-rome")
    known = view(*honest).node_ids.learn({"paris", "rome"})
    passes = Answer(ROME, "id-paris", Result(Outcome.OK))
    stolen = view(*honest, judgements={WEB: fails_here(passes)}, known_ids=known)
    assert "paris, rome answer with one node id" in health.find(stolen, NOW)["cloned-id"]
    assert stolen.node_ids.learn({"paris", "rome"}) == known


def test_one_machine_at_two_lines_is_no_clone() -> None:
    one = answers_as(PARIS, "id-paris")
    two = one, one._replace(node=MAIN)
    half = one, silent(MAIN)
    assert cloned_in(two, two) == ["", ""], "both from the beginning"
    ours = one, answers_as(MAIN, "id-oslo")
    assert cloned_in(half, ours, ours) == ["", "", ""], "a second name of this node"
    texts = cloned_in(half, two, two, half, two)
    assert [bool(text) for text in texts] == [False, True, False, False, False], (
        "a new line is named for a round"
    )
    anew = [each._replace(node_id="id-anew", incarnation="another") for each in two]
    half_anew = anew[0], silent(MAIN)
    assert not any(cloned_in(two, half_anew, anew, anew)), "it was installed anew"
    bern = answers_as(BERN, "id-bern")
    floats = bern, silent(PARIS), bern._replace(node=MAIN)
    texts = cloned_in((*two, bern), floats, (*two, bern), floats, listed=(PARIS, BERN, MAIN))
    assert [bool(text) for text in texts] == [False, True, False, False], (
        "an address that is now one node's, now another's"
    )


def test_honest_nodes_that_move_are_no_clones() -> None:
    honest = answers_as(PARIS, "id-paris"), answers_as(ROME, "id-rome")
    swapped = answers_as(PARIS, "id-rome"), answers_as(ROME, "id-paris")
    assert not any(cloned_in(honest, swapped, swapped, honest)), "they change their addresses"
    moved = silent(PARIS), answers_as(MAIN, "id-paris")
    anew = answers_as(PARIS, "id-anew"), answers_as(MAIN, "id-paris")
    assert not any(cloned_in(honest, moved, moved, anew, anew)), "its state went to another machine"
    once = answers_as(PARIS, "id-paris"), answers_as(ROME, "id-paris", "another")
    both = answers_as(PARIS, "id-paris"), answers_as(ROME, "id-fresh", "another")
    texts = cloned_in(honest, once, both, both)
    assert "remove node-id" in texts[1] and "answer with" not in texts[1], "a copy of a disk"
    assert texts[2:] == ["", ""]


def test_a_line_that_is_removed_for_a_round_is_new_again() -> None:
    known = {"paris": "id-paris", "rome": "id-rome"}
    theft = answers_as(PARIS, "id-paris"), answers_as(ROME, "id-paris")
    assert view(*theft, known_ids=known).node_ids.learn({"paris", "rome"}) == known
    known = view(theft[0], known_ids=known).node_ids.learn({"paris"})
    assert known == {"paris": "id-paris"}
    meant = view(*theft, known_ids=known)
    assert "cloned-id" in health.find(meant, NOW)
    known = meant.node_ids.learn({"paris", "rome"})
    assert known == {"paris": SHARED, "rome": SHARED}
    assert "cloned-id" not in found(*theft, known_ids=known)


# A peer that was greeted, and says nothing about a test.

FAILS = answered(OSLO, Outcome.FAIL)


def fails_here(*answers: Answer, verdict: Verdict = Verdict.UNCONFIRMED) -> Judgement:
    return Judgement(verdict, 2, (FAILS, *answers))


CUT = Answer(PARIS, "id-paris", reason="the connection was closed")
BUSY_NOW = Answer(PARIS, "id-paris", reason=BUSY)
ROME_PASSES = answered(ROME, Outcome.OK)


def three_rounds(*judgements: Judgement, contacts: Sequence[Contact] = GOOD) -> dict[str, str]:
    """Return the troubles after a round with each of `judgements` about WEB."""
    remembered: tuple[Unanswered, ...] = ()
    for judgement in judgements:
        remembered = unanswered.follow(remembered, {WEB: judgement}, contacts)
    return found(*contacts, judgements={WEB: judgements[-1]}, unanswered=remembered)


def test_a_peer_that_greets_and_never_answers_about_what_fails_is_named() -> None:
    cut = fails_here(CUT)
    assert three_rounds(cut, cut) == {}
    texts = [three_rounds(*[cut] * rounds) for rounds in (3, 4, 9)]
    assert texts[0] == texts[1] == texts[2], "a text that changes is logged again"
    assert list(texts[0]) == ["no-answer"] and "www/web (paris)" in texts[0]["no-answer"]
    local = fails_here(CUT, ROME_PASSES, verdict=Verdict.LOCAL)
    assert "www/web (paris)" in three_rounds(*[local] * 3)["no-answer"], "one vote is missing"
    both = fails_here(CUT, CUT._replace(node=ROME, node_id="id-rome"))
    assert "www/web (paris, rome)" in three_rounds(*[both] * 3)["no-answer"]
    assert "www/web (paris)" in three_rounds(both, both, cut)["no-answer"]


def test_while_nobody_can_say_otherwise_it_does_not_matter_who_was_greeted() -> None:
    """Who cuts off answers could cut off greetings as well, of one peer after the other."""
    remembered: tuple[Unanswered, ...] = ()
    texts = []
    for number in range(6):
        greeted, refusing = (PARIS, ROME) if number % 2 else (ROME, PARIS)
        judgement = fails_here(
            Answer(greeted, f"id-{greeted.name}", reason="the connection was closed"),
            Answer(refusing, reason="connection refused"),
        )
        contacts = contact(greeted), silent(refusing)
        remembered = unanswered.follow(remembered, {WEB: judgement}, contacts)
        assert [each.test for each in remembered] == [WEB]
        texts.append(found(*contacts, unanswered=remembered).get("no-answer", ""))
    assert texts[:2] == ["", ""] and len(set(texts[2:])) == 1, "a text that changes is logged again"
    assert "www/web (another one in each round)" in texts[2]
    local = fails_here(CUT, ROME_PASSES, verdict=Verdict.LOCAL)
    (anew,) = unanswered.follow(remembered, {WEB: local}, GOOD)
    assert anew == Unanswered(WEB, ("paris",), 1), "somebody has said otherwise"


def test_a_round_without_a_greeting_forgets_no_count() -> None:
    """Who is on the wire cuts answers off in two rounds, and the greeting in the third one."""
    cut = fails_here(CUT, ROME_PASSES, verdict=Verdict.LOCAL)
    lost = fails_here(Answer(PARIS, reason="refused"), ROME_PASSES, verdict=Verdict.LOCAL)
    remembered: tuple[Unanswered, ...] = ()
    rounds = []
    for judgement in (cut, cut, lost, cut):
        contacts = (silent(PARIS), GOOD[1]) if judgement is lost else GOOD
        remembered = unanswered.follow(remembered, {WEB: judgement}, contacts)
        rounds.append(remembered[0].rounds)
    assert rounds == [1, 2, 2, 3]
    answered_now = fails_here(answered(PARIS, Outcome.OK), ROME_PASSES, verdict=Verdict.LOCAL)
    assert unanswered.follow(remembered, {WEB: answered_now}, GOOD) == ()


@pytest.mark.parametrize(
    ("judgements", "contacts", "why"),
    [
        ([fails_here(CUT)] * 3, (silent(PARIS), GOOD[1]), "it was not greeted"),
        ([fails_here(CUT)] * 3, (contact(PARIS, tests=frozenset()),), "it lacks the test"),
        ([fails_here(CUT)] * 3, (), "it is not in nodes.txt any more"),
        ([fails_here(CUT, verdict=Verdict.DOWN)] * 3, GOOD, "others have confirmed it"),
        ([fails_here(BUSY_NOW)], GOOD, "it was busy once"),
        (
            [fails_here(CUT), fails_here(answered(PARIS, Outcome.FAIL)), fails_here(CUT)] * 2,
            GOOD,
            "it answered in between",
        ),
        (
            [
                *[fails_here(CUT, ROME_PASSES, verdict=Verdict.LOCAL)] * 2,
                fails_here(
                    answered(PARIS, Outcome.OK), CUT._replace(node=ROME), verdict=Verdict.LOCAL
                ),
            ],
            GOOD,
            "another one is restarted in each round",
        ),
        ([Judgement(Verdict.UP, 2, (answered(OSLO, Outcome.OK), CUT))] * 3, GOOD, "it passes"),
        ([fails_here(answered(PARIS, Outcome.UNKNOWN))] * 3, GOOD, "UNKNOWN is an answer"),
    ],
)
def test_no_answer_is_no_trouble(
    judgements: Sequence[Judgement], contacts: Sequence[Contact], why: str
) -> None:
    assert "no-answer" not in three_rounds(*judgements, contacts=contacts), why


def test_what_is_remembered_of_answers_that_did_not_come_is_bounded() -> None:
    many = {Test(f"h{number}", "x"): fails_here(CUT) for number in range(300)}
    first = unanswered.follow((), {WEB: fails_here(CUT)}, GOOD)
    then = unanswered.follow(first, {**many, WEB: fails_here(CUT)}, GOOD)
    assert len(then) == unanswered.KEPT and then[0] == Unanswered(WEB, ("paris",), 2)
