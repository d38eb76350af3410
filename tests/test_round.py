"""A round's script, driven by hand: which effects it yields, given what came of the last (R4 to R7, R9)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from dmonitor.core import codec, digest, effects, round, self_check, situation, telling, verdict
from dmonitor.core.hours import Hours
from dmonitor.core.incident import owed, owes
from dmonitor.core.model import (
    Acknowledgement,
    Answer,
    Circle,
    Confirming,
    Contact,
    Flake,
    Handing,
    Incident,
    Judgement,
    Kind,
    Node,
    NodeStatus,
    Notification,
    Outcome,
    RefusedAddress,
    Rehearsal,
    RehearsalFailure,
    Result,
    Silence,
    Statement,
    Test,
    TestState,
    Verdict,
    node_test,
)
from dmonitor.core.wants import Pattern, Wants
from dmonitor.net import protocol

TEST = Test("www.example.com", "http")
NOW = 10_000.0
ONE, TWO = "one@example.com", "two@example.com"
ALERT, RECOVERY, REMINDER = Kind.ALERT, Kind.RECOVERY, Kind.REMINDER


@dataclasses.dataclass
class Clock:
    """A clock that moves while the round waits, or as a test says."""

    at: float = 5.0
    began: float = 0.0

    def now(self) -> float:
        return NOW + self.at

    def elapsed(self) -> float:
        return self.at - self.began

    def minute(self, at: float) -> int:
        return MINUTE + int((at - NOW) // 60)

    def text(self, at: float) -> str:
        return f"second {at - NOW:.0f}"


MINUTE = 29_000_007  # by the wall clock


def later(at: float) -> Clock:
    """Return the clock of a round that began some seconds before `at`."""
    return Clock(at, began=at - 5.0)


@dataclasses.dataclass
class Played:
    """What one round wanted; `steps` has the name of each effect."""

    steps: list[str] = dataclasses.field(default_factory=list)
    saves: list[effects.Save] = dataclasses.field(default_factory=list)
    mails: list[dict[str, list[tuple[Kind, str]]]] = dataclasses.field(default_factory=list)
    greeted: list[float] = dataclasses.field(default_factory=list)
    latest: list[tuple[Incident, ...]] = dataclasses.field(default_factory=list)
    names: list[str] = dataclasses.field(default_factory=list)  # of the hand-overs
    observed: effects.Observe | None = None
    notes: list[tuple[str, dict[str, Any]]] = dataclasses.field(default_factory=list)
    complaints: list[str] = dataclasses.field(default_factory=list)
    new_complaints: list[bool] = dataclasses.field(default_factory=list)
    rehearsed: list[effects.Rehearse] = dataclasses.field(default_factory=list)
    woken: list[frozenset[str]] = dataclasses.field(default_factory=list)
    examined: int = 0
    all_taken: bool = True
    end: effects.RoundEnd = dataclasses.field(default_factory=lambda: effects.RoundEnd(False))

    def note_mails(self, mails: Mapping[str, Sequence[Notification]]) -> None:
        told = {}
        for address, mail in mails.items():
            told[address] = [(each.kind, each.incident.id) for each in mail]
        self.mails.append(told)

    def events(self) -> list[str]:
        return [event for event, _ in self.notes]

    def incident(self, which: str = "new") -> Incident:
        """Return the incident with this id, as it was saved last."""
        return [known for save in self.saves for known in save.incidents if which in known.ids][-1]

    def node_memory(self) -> effects.NodeMemory:
        return [save.node for save in self.saves if save.node][-1]

    def outbox(self, left: Sequence[Notification] = ()) -> dict[tuple[Kind, str, str], int]:
        """Return what stays in the outbox if `left` was in it, and how often each was refused."""
        found = {(each.kind, each.incident.id, each.address): each.refusals for each in left}
        for save in self.saves:
            for each in save.outbox:
                found[each.kind, each.incident.id, each.address] = each.refusals
            for each in save.settled:
                found.pop((each.kind, each.incident.id, each.address), None)
        return found


def node_memory(**facts: Any) -> effects.NodeMemory:
    """Return the memory of a node whose rounds run each minute."""
    return effects.NodeMemory(
        **{
            "begins": tuple(NOW - 60.0 * ago for ago in (3, 2, 1)),
            "finished": NOW - 50.0,
            "speaks": True,
            **facts,
        }
    )


def states(
    name: str, *incidents: Incident, silences: tuple[Silence, ...] = (), **facts: Any
) -> Statement:
    """Return the statement of a living peer that greeted us; it ranks after us unless `facts` differ."""
    presence = {
        "name": name,
        "node_id": f"id-{name}",
        "at": NOW,
        "finished": NOW - 20.0,
        "speaks": True,
        **facts,
    }
    return Statement(
        NodeStatus(**presence), (NodeStatus("me", "id-me", NOW - 20.0),), silences, incidents
    )


def known(*ids: str, **facts: Any) -> Incident:
    return Incident(
        **{"ids": ids, "test": TEST, "began": NOW - 100.0, "held": NOW - 100.0, **facts}
    )


Heard = Sequence[Statement | Contact]


def contacts(heard: Heard, peers: int = 0) -> list[Contact]:
    """Return what came of greeting `peers` lines of nodes.txt, of which those in `heard` answered."""
    found = []
    for statement in heard:
        if isinstance(statement, Contact):
            found.append(statement)
        else:
            status = statement.status
            found.append(Contact(Node(status.name, status.name), status.node_id, "", statement))
    for number in range(peers - len(found)):
        found.append(Contact(Node(f"silent{number}", f"silent{number}"), reason="refused"))
    return found


DOWN, UP = (Outcome.FAIL, Outcome.FAIL), (Outcome.OK, Outcome.OK)


def judge(
    seen: tuple[Outcome, Outcome] | None, open_tests: frozenset[Test], seconds: float
) -> tuple[dict[Test, Judgement], frozenset[Test]]:
    """Return the judgement of the test, if we have it, and the tests about which the peer is asked."""
    if seen is None:
        return {}, frozenset()
    own_answer, answer = (
        Answer(Node(name, name), f"id-{name}", Result(outcome, "", seconds))
        for name, outcome in zip(("me", "peer"), seen, strict=True)
    )
    is_open = TEST in open_tests
    asked = frozenset[Test]()
    if verdict.must_ask(own_answer, incident_open=is_open):
        asked = frozenset([TEST])
    return {TEST: verdict.decide(own_answer, [answer], 2, incident_open=is_open)}, asked


def play(
    seen: tuple[Outcome, Outcome] | None,
    *,
    incidents: Sequence[Incident] = (),
    heard: Heard | Callable[[float], Heard] = (),
    outbox: Sequence[Notification] = (),
    mta: Callable[[str], bool | None] = lambda _: True,
    late: Mapping[Any, bool | None] | None = None,
    stored: bool = True,
    clock: Clock | None = None,
    peers: int = 2,
    rehearsals: Sequence[Rehearsal] = (),
    found: Sequence[str] = (),
    contacts_too: Sequence[Contact] = (),
    remembered: effects.NodeMemory | None = None,
    test_states: Mapping[Test, TestState] | None = None,
    flakes: Mapping[Test, Result] | None = None,
    said: Mapping[str, Sequence[Silence]] | None = None,
    seconds: float = 0.0,
    sleeps_in: str = "",
    woken: bool = False,
    complaint_refused: bool = False,
    judged_too: Mapping[Test, tuple[Outcome, Outcome]] | None = None,
    **settings: Any,
) -> Played:
    """Take a round in which we and one peer have `seen` this for the test; None: we have no such test.

    `late` has what became of earlier mails, by the address, or by hand-over and address. Each look took `seconds`. The machine sleeps for an hour in the first effect of the kind
    `sleeps_in`.
    """
    round_clock, played = clock or Clock(), Played()
    heard_at = heard if callable(heard) else lambda _: heard
    memory = effects.Memory(
        remembered or node_memory(),
        {TEST: TestState(Verdict.UP)} if test_states is None else test_states,
        [incident for incident in incidents if not incident.removed],
        outbox,
        said or {},
        lambda ids: [each for each in incidents if not set(ids).isdisjoint(each.ids)],
    )
    facts: dict[str, Any] = {
        "node_id": "id-me",
        "tests": frozenset([TEST] if seen else []),
        "tests_digest": "d",
        "addresses": (ONE,),
        "nodes": tuple(Node(name, name) for name in ("me", "peer", "z")),
        "once": True,
    }
    ids = itertools.chain(["new"], (f"new{number}" for number in itertools.count(2)))
    config = effects.RoundConfig(**{**facts, **settings})

    def note(_: str, event: str, /, **facts: object) -> None:
        played.notes.append((event, facts))

    if woken:
        script = round.run_woken(config, memory, round_clock, note, lambda: next(ids))
    else:
        script = round.run_round(config, memory, round_clock, note, lambda: next(ids))
    handing_over: effects.HandOver | None = None
    outcomes: list[tuple[str, bool | None]] = []
    answer: Any = None
    while True:
        try:
            effect = script.send(answer)
        except StopIteration as end:
            played.end = end.value
            played.all_taken = played.end.completed
            return played
        answer = None
        if not isinstance(effect, effects.Rehearse | effects.Examine | effects.Complain):
            played.steps.append(type(effect).__name__)
        match effect:
            case effects.Rehearse():
                played.rehearsed.append(effect)
                answer = tuple(rehearsals)
            case effects.Examine():
                played.examined += 1
                answer = tuple(found)
            case effects.Complain(text, is_new):
                played.complaints.append(text)
                played.new_complaints.append(is_new)
                answer = complaint_refused
            case effects.Observe():
                played.observed = effect
                judgements, asked = judge(seen, effect.open, seconds)
                for test, seen_too in (judged_too or {}).items():
                    (judgements[test],) = judge(seen_too, frozenset(), seconds)[0].values()
                greeted = [*contacts(heard_at(round_clock.at), peers), *contacts_too]
                me = Node("me", "me")
                answer = effects.Observation(me, judgements, greeted, asked, flakes or {})
            case effects.Save():
                played.saves.append(effect)
                answer = stored
            case effects.HandOver(mails):
                if effect is not handing_over:
                    handing_over = effect
                    played.latest.append(effect.latest)
                    outcomes = [(address, mta(address)) for address in mails]
                    played.note_mails(mails)
                    played.names.append(effect.name)
                answer = outcomes.pop(0)
            case effects.LookAfter(handing):
                answer = {}
                for hand_over in handing:
                    for address in hand_over.addresses:
                        for key in (address, (hand_over.known_as, address)):
                            if late and key in late:
                                answer[hand_over.known_as, address] = late[key]
            case effects.Wait(seconds):
                round_clock.at += seconds
            case effects.Wake(node_ids):
                played.woken.append(node_ids)
            case effects.Greet():
                played.greeted.append(round_clock.at)
                answer = contacts(heard_at(round_clock.at), peers)
        if type(effect).__name__ == sleeps_in:
            sleeps_in = ""
            round_clock.at += 3600.0


# What has no outcome yet is perhaps taken (R6).


def handed(played: Played) -> list[tuple[tuple[str, ...], tuple[tuple[str, Kind], ...]]]:
    """Return what has no outcome yet after a round: the addresses, and what they were told."""
    return [(each.addresses, each.notifications) for each in played.node_memory().handing]


def next_round(
    before: Played, *ids: str, left: Sequence[Notification] = (), **facts: Any
) -> Played:
    """Take the round after another one, which had these incidents; the test still fails."""
    incidents = [before.incident(incident_id) for incident_id in ids]
    finished = facts.get("clock", Clock()).now() - 50.0
    memory = before.node_memory()._replace(begins=node_memory().begins, finished=finished)
    return play(
        **{"seen": DOWN, "incidents": incidents, "remembered": memory, "outbox": left, **facts}
    )


def test_what_is_handed_over_is_stored_before_it_leaves() -> None:
    opened = play(DOWN, addresses=(ONE, TWO))
    (stored,) = opened.saves[1].node.handing if opened.saves[1].node else ()
    assert (stored.addresses, stored.notifications) == ((ONE, TWO), (("new", ALERT),))
    assert handed(opened) == [], "all of it has an outcome"


def test_what_goes_on_is_neither_told_nor_refused_nor_repeated() -> None:
    slow = play(DOWN, mta=lambda _: None)
    assert slow.mails and slow.incident().alert == "" and slow.end.completed
    assert slow.node_memory().refused == 0 and handed(slow) == [((ONE,), (("new", ALERT),))]
    later_round = next_round(slow, "new")
    assert later_round.mails == [] and handed(later_round) == handed(slow)
    assert "LookAfter" in later_round.steps
    closed = next_round(slow, "new", seen=UP)
    assert closed.mails == [] and closed.incident().closed, "its recovery waits for it"


def test_what_went_on_is_told_once_it_is_taken_and_owed_to_the_others() -> None:
    slow = play(DOWN, addresses=(ONE, TWO), mta=lambda _: None)
    taken = next_round(slow, "new", addresses=(ONE, TWO), late={ONE: True})
    assert taken.mails == [] and taken.incident().alert == "me"
    assert list(taken.outbox()) == [(ALERT, "new", TWO)]
    assert handed(taken) == [((TWO,), (("new", ALERT),))]
    both = next_round(slow, "new", addresses=(ONE, TWO), late={ONE: True, TWO: True})
    assert both.outbox() == {} and both.mails == [] and handed(both) == []


def test_what_went_on_and_was_refused_is_handed_over_again() -> None:
    """Its process may be lost with its machine, too: then nobody knows, and two mails are better."""
    slow = play(DOWN, mta=lambda _: None)
    for outcome, refused in ((False, 1), (None, 0)):
        again = next_round(slow, "new", late={ONE: outcome}, mta=lambda _: None)
        assert again.mails == [{ONE: [(ALERT, "new")]}]
        assert again.node_memory().refused == refused
    over = next_round(slow, "new", clock=later(700.0))
    assert over.mails, "nothing goes on for longer than ten minutes"
    assert not next_round(slow, "new", clock=later(560.0)).mails


def test_a_recovery_waits_for_what_goes_on_here_though_another_node_has_told_the_alert() -> None:
    """Two nodes mailed the alert; the address that has had one copy may still get the other one."""
    slow = play(DOWN, mta=lambda _: None)
    over = slow.incident()._replace(alert="peer", closed=NOW + 20.0, told_at=NOW)
    facts: dict[str, Any] = {"incidents": [over], "remembered": slow.node_memory()}
    assert play(UP, clock=later(90.0), **facts).mails == []
    ended = play(UP, clock=later(90.0), late={ONE: True}, **facts)
    assert ended.mails == [{ONE: [(RECOVERY, "new")]}]


def test_a_hand_over_is_known_by_its_name_and_by_no_time() -> None:
    """If the clock steps back, its time moves, and another one may have had the same time."""
    slow = play(DOWN, mta=lambda _: None)
    (hand_over,) = slow.node_memory().handing
    assert hand_over.known_as == hand_over.name == slow.names[-1] != ""
    moved = hand_over._replace(since=hand_over.since - 30.0)
    other = moved._replace(name="other", notifications=(("other", ALERT),))
    memory = slow.node_memory()._replace(handing=(moved, other))
    incidents = [slow.incident(), known("other", test=Test("h", "t"))]
    judged = {Test("h", "t"): DOWN}
    late = {("other", ONE): True}
    tests = frozenset([TEST, Test("h", "t")])
    taken = play(
        DOWN, incidents=incidents, remembered=memory, late=late, judged_too=judged, tests=tests
    )
    assert taken.incident("other").alert == "me" and not taken.mails
    assert handed(taken) == [((ONE,), (("new", ALERT),))]


def test_an_alert_that_was_taken_late_in_silence_owes_its_recovery() -> None:
    slow = play(DOWN, mta=lambda _: None)
    void = slow.incident()._replace(closed=NOW, void=True)
    taken = play(
        UP, incidents=[void], remembered=slow.node_memory(), late={ONE: True}, clock=later(70.0)
    )
    assert taken.mails == [{ONE: [(RECOVERY, "new")]}]


@pytest.mark.parametrize("alert", ["peer", "me"])
def test_an_alert_that_was_taken_late_makes_another_nodes_recovery_owed_again(alert: str) -> None:
    """The nodes did not hear each other, and the reader may have got the alert last.

    If this node has told the alert, it was to another address.
    """
    slow = play(DOWN, mta=lambda _: None)
    told = slow.incident()._replace(alert=alert, recovery="peer", closed=NOW + 20.0)

    def recovers(told_at: float) -> bool:
        incidents = [told._replace(told_at=told_at)]
        memory = slow.node_memory()
        late = {ONE: True}
        return bool(play(UP, incidents=incidents, remembered=memory, late=late).mails)

    assert recovers(NOW + 30.0) and not recovers(NOW - 10.0)


def test_what_a_node_hands_over_it_states() -> None:
    memory = play(DOWN, mta=lambda _: None).node_memory()
    (hand_over,) = memory.handing
    status = memory.status("me", "id-me", NOW)

    def stated(incident: Incident) -> float:
        statement = effects.statement_of(memory, [incident], (), status, NOW)
        return statement.incidents[0].handing

    assert stated(known("a", "new")) == hand_over.since, "whatever its ids have become"
    assert stated(known("new", alert="me")) == float("-inf"), "it is told"
    assert stated(known("other")) == float("-inf")


def test_nobody_else_tells_what_a_living_node_hands_over() -> None:
    def tells(handing: float, **facts: Any) -> bool:
        heard = states("z", known("i", held=NOW - 300.0, handing=handing), **facts)
        return bool(play(UP, incidents=[known("i", held=NOW - 300.0)], heard=[heard]).mails)

    assert not tells(NOW - 30.0) and not tells(NOW - 590.0), "z comes after us in the order"
    assert not tells(NOW - 710.0), "its next round has not looked after it"
    assert tells(NOW - 720.0) and tells(NOW + 1e6), "it is over, or no time"
    assert tells(NOW - 30.0, finished=NOW - 200.0), "its checker does not run"
    assert tells(float("-inf"))


# A hook is enough where no mail system takes the mail (R5).

HOOK = "hook:push"
BOTH: dict[str, Any] = {"addresses": (ONE, HOOK)}
TO_BOTH = {ONE: [(ALERT, "new")], HOOK: [(ALERT, "new")]}


def by_hook(address: str) -> bool:
    return address == HOOK


def test_while_a_mail_system_may_take_it_no_hook_tells() -> None:
    first = play(DOWN, mta=by_hook, **BOTH)
    assert first.mails == [{ONE: [(ALERT, "new")]}] and first.incident().alert == ""
    refused = node_memory(refused=1)
    assert play(DOWN, heard=[states("z")], remembered=refused, **BOTH).mails == [], "z speaks"
    full = states("z", stores=False)
    assert play(DOWN, mta=by_hook, heard=[full], remembered=refused, **BOTH).mails == first.mails
    taken = play(DOWN, heard=[full], remembered=refused, **BOTH)
    assert taken.mails == [*first.mails, {HOOK: [(ALERT, "new")]}], "what the mail has told"


def test_what_a_hook_takes_is_told_if_all_mail_systems_refuse() -> None:
    """The address stays owed, and rests; the mail system is no better for that."""
    heard = [states("z", refused=2), states("lame", refused=0, speaks=False)]
    told = play(DOWN, mta=by_hook, heard=heard, remembered=node_memory(refused=1), **BOTH)
    assert told.mails == [TO_BOTH] and told.incident().alert == "me"
    assert list(told.outbox()) == [(ALERT, "new", ONE)] and not told.all_taken
    assert told.node_memory().refused == 2
    left = [Notification(ALERT, told.incident(), ONE, NOW, 1)]
    soon = next_round(told, "new", left=left, **BOTH)
    assert soon.mails == [], "it has refused a moment ago"
    taken = next_round(told, "new", left=left, clock=later(100.0), **BOTH)
    assert taken.mails == [{ONE: [(ALERT, "new")]}] and taken.outbox(left) == {}
    assert taken.node_memory().refused == 0


def test_if_the_hooks_fail_too_the_next_node_tries_both() -> None:
    failed = play(DOWN, mta=lambda _: False, remembered=node_memory(refused=1), **BOTH)
    assert failed.mails == [TO_BOTH] and failed.incident().alert == "" and failed.outbox() == {}
    assert failed.node_memory().refused == 2
    heard = [states("z", refused=1)]
    assert play(DOWN, heard=heard, remembered=failed.node_memory(), **BOTH).mails == []


def test_who_is_mailed_first_owes_each_hook_once() -> None:
    """The mail system is back, and one of two hooks fails."""
    hooks: dict[str, Any] = {"addresses": (ONE, HOOK, "hook:two")}
    told = play(DOWN, mta=lambda each: each != HOOK, remembered=node_memory(refused=1), **hooks)
    assert [set(mail) for mail in told.mails] == [{ONE, HOOK, "hook:two"}]
    assert told.outbox() == {(ALERT, "new", HOOK): 2}, "it was refused once more"
    assert told.node_memory().refused == 0
    first = next(save.outbox for save in told.saves if save.outbox)
    assert [each.address for each in first] == [HOOK, "hook:two"]


def test_what_a_hook_takes_late_is_told() -> None:
    slow = play(
        DOWN,
        mta=lambda each: None if each == HOOK else False,
        remembered=node_memory(refused=1),
        **BOTH,
    )
    assert slow.mails == [TO_BOTH] and handed(slow) == [((HOOK,), (("new", ALERT),))]
    told = next_round(slow, "new", late={HOOK: True}, mta=by_hook, clock=later(60.0), **BOTH)
    assert told.incident().alert == "me" and (ALERT, "new", ONE) in told.outbox()
    assert not any(HOOK in mail for mail in told.mails), "it was run once"
    lost = next_round(slow, "new", late={HOOK: None}, mta=by_hook, clock=later(60.0), **BOTH)
    assert lost.mails == [TO_BOTH], "nobody knows what became of it"


def test_if_there_are_only_hooks_they_tell_and_their_refusals_count() -> None:
    only: dict[str, Any] = {"addresses": (HOOK, "hook:two")}
    told = play(DOWN, mta=by_hook, **only)
    assert told.incident().alert == "me" and list(told.outbox()) == [(ALERT, "new", "hook:two")]
    failed = play(DOWN, mta=lambda _: False, **only)
    assert failed.incident().alert == "" and failed.node_memory().refused == 1
    heard = [states("z", refused=0)]
    assert play(DOWN, heard=heard, remembered=failed.node_memory(), **only).mails == []


# What was refused before (R5, R6).


def refusing(**facts: Any) -> effects.NodeMemory:
    """Return the memory of a node that was refused three times, the last time a minute ago."""
    refused = RefusedAddress(ONE, NOW - 400.0, NOW - 60.0)
    return node_memory(
        **{"refused": 3, "refused_at": NOW - 60.0, "refused_addresses": (refused,), **facts}
    )


def test_old_refusals_are_forgotten_when_nothing_is_to_be_told() -> None:
    def left(**facts: Any) -> tuple[int, int]:
        memory = play(**{"seen": UP, **facts}).node_memory()
        return memory.refused, len(memory.refused_addresses)

    assert left(remembered=refusing()) == (3, 1), "they were a moment ago"
    old = refusing(
        refused_at=NOW - 601.0, refused_addresses=(RefusedAddress(ONE, NOW - 900.0, NOW - 601.0),)
    )
    assert left(remembered=old) == (0, 0)
    assert left(remembered=refusing(refused_at=float("-inf"))) == (0, 1), "of an earlier version"
    untold = [states("a", known("i"))]
    assert left(remembered=old, heard=untold) == (3, 0), "another node may be handing it over"
    alert = Notification(ALERT, known("i", alert="me"), ONE, NOW - 700.0, 3)
    owing = {"seen": DOWN, "incidents": [alert.incident], "outbox": [alert]}
    assert left(remembered=old, mta=lambda _: False, **owing)[1] == 1, "it is still owed"


def test_a_test_that_is_taken_clears_what_was_refused() -> None:
    by_mail = play(UP, remembered=refusing(), tests_taken=frozenset([ONE])).node_memory()
    assert (by_mail.refused, by_mail.refused_addresses, by_mail.refusals) == (0, (), ())
    by_hook = play(UP, remembered=refusing(), tests_taken=frozenset(["hook:push"])).node_memory()
    assert by_hook.refused == 3 and by_hook.refused_addresses, "it says nothing of the mail system"


def test_a_left_over_mail_that_is_taken_clears_what_was_refused() -> None:
    alert = Notification(ALERT, known("i", alert="me"), ONE, NOW - 700.0, 3)
    old = refusing(refused_addresses=())
    taken = play(DOWN, remembered=old, outbox=[alert], incidents=[known("i", alert="me")])
    assert taken.mails == [{ONE: [(ALERT, "i")]}] and taken.node_memory().refused == 0


@pytest.mark.parametrize(
    ("refused", "seconds"),
    [(0, 60), (50, 60), (120, 120), (240, 240), (960, 960), (1920, 1800), (9000, 1800)],
)
def test_an_address_that_refuses_rests_for_as_long_again(refused: int, seconds: int) -> None:
    """So it is tried again after 1, 2, 4, … minutes."""
    alert = Notification(ALERT, known("i", alert="me"), ONE, NOW - 9000.0, 1)

    def is_tried(ago: float, **facts: Any) -> bool:
        last = NOW + 5.0 - ago
        resting = RefusedAddress(ONE, last - refused, last)
        memory = node_memory(refused_addresses=(resting,))
        incidents = [known("i", alert="me")]
        facts = {"incidents": incidents, "outbox": [alert], "seen": DOWN, **facts}
        return bool(play(remembered=memory, **facts).mails)

    assert is_tried(seconds) and not is_tried(seconds - 10.0)
    assert is_tried(1.0, seen=UP), "something new is told at once"
    assert is_tried(1.0, outbox=[alert._replace(refusals=0)]), "it was not tried yet"


def test_a_node_whose_mail_system_refuses_says_so() -> None:
    (trouble,) = (
        play(UP, remembered=refusing(), peers=0, heard=[states("peer")]).node_memory().troubles
    )
    assert (trouble.kind, trouble.since) == ("mail-refused", NOW + 5.0)


def test_since_when_an_address_refuses_is_known_until_it_takes_a_mail() -> None:
    refused = play(DOWN, addresses=(ONE, TWO), mta=lambda address: address == TWO)
    (noted,) = refused.node_memory().refused_addresses
    assert (noted.address, noted.since, noted.at) == (ONE, NOW + 5.0, NOW + 5.0)
    again = play(
        DOWN,
        addresses=(ONE, TWO),
        remembered=refused.node_memory(),
        mta=lambda _: False,
        clock=later(50.0),
    ).node_memory()
    lasted = [each.at - each.since for each in again.refused_addresses]
    assert lasted == [45.0, 0.0]
    taken = play(DOWN, addresses=(ONE, TWO), remembered=again, clock=later(50.0)).node_memory()
    assert taken.refused_addresses == ()


# A machine that sleeps (R10).


def slept(played: Played) -> bool:
    """Return whether the round said once that it slept, and does not count as finished."""
    if "round-slept" not in played.events():
        return False
    event, facts = played.notes[-1]
    assert event == "round-slept" and 3605 <= facts["seconds"] <= 3610 and not played.all_taken
    assert played.events().count("round-slept") == 1
    finished = [save.node.finished for save in played.saves if save.node]
    assert set(finished) <= {node_memory().finished}, "as the round before left it"
    return True


def test_what_was_seen_before_a_sleep_concludes_nothing() -> None:
    """Nothing is opened, closed, told, heard or stored; the next round begins anew."""
    incidents = [known("i", alert="me")]
    for seen in (DOWN, UP):
        awake = play(seen, incidents=incidents, heard=[states("peer", known("new"))])
        assert not slept(awake) and awake.saves and "incident-heard" in awake.events()
        round_of_sleep = play(
            seen, incidents=incidents, heard=[states("peer", known("new"))], sleeps_in="Observe"
        )
        assert slept(round_of_sleep)
        assert round_of_sleep.steps == ["Observe"] and round_of_sleep.rehearsed == []
        assert round_of_sleep.events() == ["round-slept"]
    assert not slept(play(UP, clock=Clock(effects.HARD_LIMIT))), "this long a round may take"
    assert play(UP, clock=Clock(effects.HARD_LIMIT + 0.1)).steps == ["Observe"]


def test_nothing_is_told_after_a_sleep() -> None:
    """Another node has told it long ago, or it is over."""
    told = play(DOWN, sleeps_in="Save")
    assert slept(told) and told.steps == ["Observe", "Save"], "it was seen and stored before"
    assert told.incident().is_open and told.incident().alert == "" and told.mails == []
    assert told.rehearsed == []


def test_what_was_taken_in_a_sleep_is_stored_and_counts_for_no_refusal() -> None:
    both = play(
        DOWN, addresses=(ONE, TWO), mta=lambda address: address == TWO, sleeps_in="HandOver"
    )
    assert slept(both) and both.incident().alert == "me" and both.rehearsed == []
    assert list(both.outbox()) == [(ALERT, "new", ONE)], "what was refused is still owed"
    refused = play(DOWN, mta=lambda _: False, sleeps_in="HandOver")
    assert slept(refused) and refused.mails and refused.incident().alert == ""
    assert [save.node.refused for save in refused.saves if save.node] == [0, 0, 0], "it was asleep"
    awake = play(DOWN, mta=lambda _: False)
    assert awake.node_memory().refused == 1


def test_a_round_that_stays_greets_nobody_after_a_sleep() -> None:
    def hears(at: float) -> Heard:
        return [states("a", *([known("other")] if at > 5.0 else []))]

    awake = play(DOWN, once=False, heard=hears)
    assert awake.greeted == [10.0, 20.0, 30.0] and "incident-heard" in awake.events()
    waited = play(DOWN, once=False, heard=hears, sleeps_in="Wait")
    assert slept(waited) and waited.greeted == []
    greeted = play(DOWN, once=False, heard=hears, sleeps_in="Greet")
    assert slept(greeted) and greeted.greeted == [10.0] and greeted.mails == []
    assert "incident-heard" not in greeted.events(), "a statement of an hour ago"


def test_a_rehearsal_that_slept_says_nothing_of_this_node() -> None:
    rehearsed = play(UP, sleeps_in="Rehearse")
    assert slept(rehearsed) and len(rehearsed.rehearsed) == 1
    assert rehearsed.complaints == [] and "trouble" not in rehearsed.events()
    assert play(UP).complaints != [], "no peer answers"


# The order of effects.


def test_a_quiet_round() -> None:
    quiet = play(UP, heard=[states("peer")], said={"peer": ()})
    assert quiet.steps == ["Observe", "Save"] and quiet.all_taken
    kept = quiet.node_memory()._replace(
        nodes="",
        addresses="",
        troubles=(),
        reach=(),
        own_node_names=(),
        quorum=0,
        confirm=0,
        stated_settings=(),
        known_ids=(),
        examined=float("-inf"),
        present_since=float("-inf"),
    )
    assert kept == effects.NodeMemory(
        (NOW - 180.0, NOW - 120.0, NOW - 60.0, NOW + 5.0),
        NOW + 5.0,
        0,
        True,
        (states("peer").status,),
        "me",
    ), "that it was, and whom it greeted"
    assert quiet.node_memory().reach == (("peer", ("me",)),), "and whom that had greeted"
    own_names = quiet.node_memory().own_node_names
    assert "me" in own_names and "peer" not in own_names
    assert quiet.node_memory().nodes == digest.digest(
        ["me me", "peer peer", "z z"]
    ) and quiet.node_memory().addresses == digest.digest([ONE])


def test_what_passes_slowly_is_remembered_for_the_next_round() -> None:
    assert play(UP).node_memory().slow == ()
    slow = play(UP, seconds=4.1)
    assert slow.observed and slow.observed.slow == frozenset()
    assert slow.node_memory().slow == (TEST,)
    stored = codec.write(effects.NodeMemory, slow.node_memory()._replace(known_ids=()))
    remembered = codec.read(effects.NodeMemory, stored, limit=codec.TIME_LIMIT)
    again = play(UP, remembered=remembered, seconds=5.0)
    assert again.observed and again.observed.slow == frozenset([TEST])
    assert again.node_memory().slow == (TEST,)
    for seen, seconds in ((UP, 3.9), (DOWN, 10.0), ((Outcome.UNKNOWN, Outcome.OK), 10.0)):
        assert play(seen, remembered=remembered, seconds=seconds).node_memory().slow == ()
    assert play(None, remembered=remembered).node_memory().slow == ()


def test_flakes_are_logged_and_counted_and_change_nothing() -> None:
    first = Result(Outcome.FAIL, "refused", 0.2)
    once = play(UP, flakes={TEST: first})
    assert once.steps == ["Observe", "Save"] and once.mails == []
    facts = {"test": str(TEST), "result": "FAIL", "seconds": 0.2, "text": "refused"}
    assert [fact for event, fact in once.notes if event == "flake"] == [facts]
    assert once.node_memory().flakes == (Flake(TEST, 1, NOW + 5.0, "refused"),)
    remembered = node_memory(flakes=once.node_memory().flakes)
    again = play(UP, remembered=remembered, flakes={TEST: Result(Outcome.TIMEOUT)})
    assert again.node_memory().flakes == (Flake(TEST, 2, NOW + 5.0, "TIMEOUT"),)
    quiet = play(UP, remembered=remembered)
    assert quiet.node_memory().flakes == remembered.flakes and "flake" not in quiet.events()


def test_flakes_of_a_removed_test_are_forgotten_unless_it_cannot_be_read() -> None:
    remembered = node_memory(flakes=(Flake(TEST, 3, NOW - 60.0, "refused"),))
    assert play(None, remembered=remembered).node_memory().flakes == ()
    unread = play(None, remembered=remembered, complete=False)
    assert unread.node_memory().flakes == remembered.flakes


def test_what_an_earlier_version_remembered_does_no_harm() -> None:
    """It called `own_node_names` otherwise; the next round writes them again."""
    earlier = codec.read(effects.NodeMemory, '{"lines":["me"],"refused":2}', limit=codec.TIME_LIMIT)
    assert earlier == effects.NodeMemory(refused=2)


def test_all_order_a_node_by_the_name_that_its_checker_knows() -> None:
    """The daemon may have begun before nodes.txt was there, and call itself by its host name."""
    assert play(UP).node_memory().name == "me"
    assert node_memory(name="me").status("localhost", "id-me", NOW).name == "me"
    assert node_memory().status("localhost", "id-me", NOW).name == "localhost", (
        "until a round knows better"
    )


def test_the_incident_is_stored_before_the_mail_and_told_once_it_is_taken() -> None:
    opened = play(DOWN)
    assert opened.steps == ["Observe", "Save", "Save", "HandOver", "Save", "Save", "Save"]
    alerts = [[known.alert for known in save.incidents] for save in opened.saves]
    assert alerts == [[""], [], ["me"], [], []]
    assert opened.mails == [{ONE: [(ALERT, "new")]}]
    assert opened.incident().opening and opened.all_taken and opened.outbox() == {}


def test_nothing_is_told_before_its_mail_is_taken() -> None:
    """Whoever is killed here has handed nothing over, as far as he knows: two mails rather than none."""
    refused = play(DOWN, mta=lambda _: False)
    assert refused.steps == ["Observe", "Save", "Save", "HandOver", "Save", "Save"]
    assert refused.incident().alert == "" and refused.outbox() == {} and not refused.all_taken


def test_each_outcome_is_stored_before_the_next_is_awaited() -> None:
    """A slow mail system must not make what another address has taken be told twice."""
    both = play(DOWN, addresses=(ONE, TWO))
    assert both.steps == [
        *("Observe", "Save", "Save"),
        *("HandOver", "Save", "HandOver", "Save"),
        *("Save", "Save"),
    ]
    assert both.saves[2].incidents[0].alert == "me"
    assert [each.address for each in both.saves[2].outbox] == [TWO], "owed until it is taken"
    assert [each.address for each in both.saves[3].settled] == [TWO]


def test_recovery_and_both_in_one() -> None:
    assert play(UP, incidents=[known("i", alert="me")]).mails == [{ONE: [(RECOVERY, "i")]}]
    late = play(UP, incidents=[known("i")])
    assert late.mails == [{ONE: [(ALERT, "i"), (RECOVERY, "i")]}]
    assert (late.incident("i").alert, late.incident("i").recovery) == ("me", "me")


def test_who_does_not_speak_records() -> None:
    """The first node's greeting says later that it has told it."""
    silent = play(DOWN, heard=[states("a")])
    assert silent.steps == ["Observe", "Save", "Save"] and silent.incident().alert == ""
    assert (
        "speaker-chosen",
        {"reason": "a speaks: first of 2 living", "incident": "new"},
    ) in silent.notes
    told = play(DOWN, incidents=[known("i")], heard=[states("a", known("i", alert="a"))])
    assert told.mails == [] and told.incident("i").alert == "a"


def test_what_is_only_heard_of_is_told_too() -> None:
    assert play(UP, heard=[states("peer", known("i", closed=NOW - 20.0))]).mails == [
        {ONE: [(ALERT, "i"), (RECOVERY, "i")]}
    ]
    other = known("i")._replace(test=Test("www.example.com", "ssh"))
    assert play(UP, heard=[states("peer", other)]).saves[0].incidents == (), (
        "but not what we do not test"
    )


def test_a_node_that_never_finished_a_round_does_not_speak() -> None:
    assert play(DOWN, remembered=effects.NodeMemory()).mails == []


def test_without_an_address() -> None:
    alone = play(DOWN, addresses=())
    assert alone.mails == [] and "no-address" in alone.events() and not alone.node_memory().speaks
    assert "no-address" not in play(DOWN, addresses=(), heard=[states("peer")]).events(), (
        "the peer mails"
    )


def test_a_state_that_cannot_be_written() -> None:
    assert play(DOWN, stored=False).mails == [{ONE: [(ALERT, "new")]}], "there is no other"
    assert play(DOWN, stored=False, heard=[states("peer")]).mails == [], (
        "the peer can store what it tells"
    )


def test_a_quiet_round_knows_that_the_state_could_not_be_written() -> None:
    """It stores only at its end, after it has looked at itself."""
    quiet = play(UP, heard=[states("peer")], said={"peer": ()}, stores=False)
    assert quiet.steps == ["Observe", "Save"]
    kinds = [trouble.kind for trouble in quiet.node_memory().troubles]
    assert "not-stored" in kinds


def test_a_state_that_cannot_be_written_is_known_before_anything_is_told() -> None:
    """Where nothing has changed in this round, too: the peer, who hears of it, speaks as well."""
    over = known("i", closed=NOW - 60.0)
    waiting = play(
        UP, incidents=[over], heard=[states("peer", over)], said={"peer": ()}, stored=False
    )
    assert waiting.mails == []


# Refusals.


def test_an_address_that_is_refused_while_another_is_taken_stays_in_the_outbox() -> None:
    partly = play(DOWN, addresses=(ONE, TWO), mta=lambda to: to == TWO)
    assert partly.mails == [{ONE: [(ALERT, "new")], TWO: [(ALERT, "new")]}]
    assert (
        partly.incident().alert == "me"
        and partly.outbox() == {(ALERT, "new", ONE): 0}
        and not partly.all_taken
    )
    told = next(save for save in partly.saves if any(known.alert for known in save.incidents))
    assert [each.address for each in told.outbox] == [ONE], (
        "in the transaction that says it is told"
    )
    assert partly.node_memory().refused == 0


def left(what: Incident, kind: Kind = ALERT, address: str = ONE, refusals: int = 0) -> Notification:
    return Notification(kind, what, address, NOW - 60.0, refusals)


def test_what_is_left_over_is_tried_again_alone() -> None:
    told = known("i", alert="me")
    for taken in (False, True):
        again = play(
            DOWN,
            incidents=[told],
            outbox=[left(told)],
            addresses=(ONE, TWO),
            mta=(lambda _: True) if taken else (lambda _: False),
        )
        assert again.mails == [{ONE: [(ALERT, "i")]}]
        assert again.outbox([left(told)]) == ({} if taken else {(ALERT, "i", ONE): 1})
        assert again.node_memory().refused == 0, "it moves nobody in the order"
        assert (
            play(
                DOWN,
                incidents=[told],
                outbox=[left(told)],
                heard=[states("a")],
                addresses=(ONE, TWO),
            ).mails
            == again.mails
        )


def test_what_is_left_over_of_incidents_that_become_one_is_mailed_once() -> None:
    both = [known("i", alert="me"), known("j", alert="me")]
    owed = [left(incident, address=TWO) for incident in both]
    united = play(
        DOWN,
        incidents=both,
        outbox=owed,
        heard=[states("peer", known("i", "j", alert="me"))],
        addresses=(ONE, TWO),
    )
    assert united.mails == [{TWO: [(ALERT, "i")]}]


def test_what_is_left_over_goes_with_what_is_new_in_one_mail() -> None:
    told = known("i", alert="me")
    over = play(UP, incidents=[told], outbox=[left(told)])
    assert over.mails == [{ONE: [(RECOVERY, "i"), (ALERT, "i")]}]
    assert over.outbox([left(told)]) == {} and over.incident("i").recovery == "me"


@pytest.mark.parametrize(
    ("before", "taken", "after"),
    [(0, "", 1), (2, "", 3), (2, ONE, 0), (2, ONE + TWO, 0), (0, ONE, 0)],
)
def test_hand_overs_refused_in_a_row_are_counted(before: int, taken: str, after: int) -> None:
    played = play(
        DOWN,
        addresses=(ONE, TWO),
        mta=lambda to: to in taken,
        remembered=node_memory(refused=before),
    )
    assert played.node_memory().refused == after


def test_a_refused_hand_over_lets_another_speak_the_next_time() -> None:
    peer = states("peer", refused=0)
    assert play(DOWN, heard=[peer], remembered=node_memory(refused=1)).mails == []
    assert play(DOWN, heard=[states("peer", refused=2)], remembered=node_memory(refused=1)).mails


# What the operator takes away.


@pytest.mark.parametrize("facts", [{}, {"alert": "me"}, {"alert": "me", "closed": NOW - 60.0}])
def test_a_removed_test(facts: dict[str, Any]) -> None:
    was = known("i", **facts)
    removed = play(
        None, incidents=[was], test_states={TEST: TestState(Verdict.DOWN)}, outbox=[left(was)]
    )
    assert (
        removed.mails == [] and removed.incident("i").removed and not removed.incident("i").is_open
    )
    assert removed.saves[0].gone == {TEST} and removed.outbox([left(was)]) == {}
    assert [event for event in removed.events() if "removed" in event] == [
        "incident-removed",
        "test-removed",
        "owed-for-removed-test",
    ]


def test_a_removed_address() -> None:
    told = known("i", alert="me")
    removed = play(DOWN, incidents=[told], outbox=[left(told, address=TWO)])
    assert removed.mails == [] and removed.outbox([left(told, address=TWO)]) == {}
    assert (
        "address-removed",
        {"address": TWO, "test": str(TEST), "kind": "alert"},
    ) in removed.notes


def test_what_cannot_be_read_is_not_removed() -> None:
    was = known("i", alert="me")
    away = play(None, incidents=[was], outbox=[left(was, address=TWO)], complete=False)
    assert not [event for event in away.events() if "removed" in event]
    assert away.mails == [{TWO: [(ALERT, "i")]}] and away.saves[0].gone == frozenset()
    assert play(None, incidents=[known("i")], complete=False).mails == [], (
        "and what is untold waits for it"
    )


# Silence.

QUIET = Silence(TEST.host)


@pytest.mark.parametrize(
    "quiet",
    [
        {"silences": (QUIET,)},
        {"heard": [states("peer", silences=(QUIET,))]},
        {"said": {"peer": (QUIET,)}},
    ],
)
def test_silence_of_ours_or_of_a_peer_heard_now_or_before(quiet: dict[str, Any]) -> None:
    silent = play(DOWN, **quiet)
    assert silent.mails == [] and silent.incident().is_open and not silent.incident().void, (
        "it is tested and recorded"
    )
    over = play(UP, incidents=[known("i")], **quiet)
    assert over.mails == [] and over.incident("i").void and "incident-suppressed" in over.events()
    waiting = play(UP, incidents=[known("i", alert="me")], **quiet)
    assert waiting.mails == [] and not waiting.incident("i").void, (
        "the recovery of what was told waits"
    )


def test_when_a_silence_ends_what_is_owed_is_told() -> None:
    silences: tuple[dict[str, Any], ...] = (
        {"silences": (Silence(TEST.host, TEST.name, NOW),)},
        {"said": {"peer": (Silence(TEST.host, until=NOW + 4.0),)}},
        {"said": {"peer": (QUIET,)}, "heard": [states("peer")]},
        {"said": {"gone": (QUIET,)}},
        {"silences": (Silence(TEST.host, "ssh"), Silence("example.com"))},
    )
    for over in silences:
        assert play(DOWN, incidents=[known("i")], **over).mails == [{ONE: [(ALERT, "i")]}], over
    assert play(UP, incidents=[known("i", closed=NOW - 60.0, alert="me")]).mails == [
        {ONE: [(RECOVERY, "i")]}
    ]


@pytest.mark.parametrize(
    ("remembered", "now"),
    [
        ({"said": {"peer": (Silence(TEST.host, reason="rack"),)}}, {"heard": [states("peer")]}),
        ({"silences": (Silence(TEST.host, reason="rack"),)}, {}),
    ],
)
@pytest.mark.parametrize("kind", [ALERT, RECOVERY])
def test_the_mail_that_ends_a_silence_says_its_reason(
    remembered: dict[str, Any], now: dict[str, Any], kind: Kind
) -> None:
    """The silence may be of this node or of a peer. What was told is told of nothing more."""
    seen, held = DOWN, known("i")
    if kind is RECOVERY:
        seen, held = UP, known("i", closed=NOW - 100.0, alert="me", told_at=NOW - 900.0)
    silent = play(seen, incidents=[held], heard=[] if now else (), **remembered)
    assert silent.mails == [] and silent.node_memory().quiet[0].ended == 0.0
    over = play(
        seen, incidents=[held], remembered=silent.node_memory(), said=remembered.get("said"), **now
    )
    assert over.mails == [{ONE: [(kind, "i")]}]
    where = "peer" if now else "me"
    assert over.incident("i").silenced == f"on {where}: rack"
    assert b"rack" not in protocol.write_incident(over.incident("i"), NOW), "it may be wrong there"


# Acknowledgements.


def acknowledged(name: str = "", written: float = NOW - 10.0) -> Acknowledgement:
    return Acknowledgement(TEST.host, name, written, "anna: disk")


@pytest.mark.parametrize("name", ["", TEST.name])
def test_what_is_acknowledged_has_no_reminder_and_a_recovery(name: str) -> None:
    told = known("i", began=NOW - 1900.0, alert="me", told_at=NOW - 1800.0)
    due = play(DOWN, incidents=[told], remind=1800.0)
    assert due.mails == [{ONE: [(REMINDER, "i")]}]
    ack = acknowledged(name)
    quiet = play(DOWN, incidents=[told], remind=1800.0, acknowledgements=(ack,))
    assert quiet.mails == [{ONE: [(Kind.ACK, "i")]}]
    assert quiet.incident("i").ack == "me" and quiet.events().count("incident-acknowledged") == 1
    on = quiet.incident("i")
    assert (on.acknowledged, on.acknowledgement) == (ack.written, ack.text)
    again = play(DOWN, incidents=[on], remind=1800.0, acknowledgements=(ack,))
    assert again.mails == [] and "incident-acknowledged" not in again.events()
    assert play(DOWN, incidents=[on], remind=1800.0).mails == [], "the file need not stay"
    over = play(UP, incidents=[on], acknowledgements=(ack,))
    assert over.mails == [{ONE: [(RECOVERY, "i")]}]


def test_an_acknowledgement_is_of_what_was_open_when_it_was_written() -> None:
    """A file that was forgotten, or restored, hides nothing that begins later."""
    later = known("i", began=NOW - 1900.0, alert="me", told_at=NOW - 1800.0)
    for ack in (
        acknowledged(written=NOW - 1901.0),
        acknowledged(name="ssh"),
        Acknowledgement("other.example.com", "", NOW, ""),
    ):
        played = play(DOWN, incidents=[later], remind=1800.0, acknowledgements=(ack,))
        assert played.mails == [{ONE: [(REMINDER, "i")]}]
    new = play(DOWN, acknowledgements=(acknowledged(),))
    assert new.mails == [{ONE: [(ALERT, "new")]}] and new.incident().acknowledged is None
    untold = play(DOWN, incidents=[known("i")], acknowledgements=(acknowledged(),))
    assert untold.mails == [{ONE: [(ALERT, "i")]}], "who has not been told is told"
    assert untold.incident("i").ack == "me", "that says who is on it"
    refused = play(DOWN, incidents=[later], acknowledgements=(acknowledged(),), mta=lambda _: False)
    assert refused.mails and refused.incident("i").ack == ""
    again = play(DOWN, incidents=[refused.incident("i")])
    assert again.mails == [{ONE: [(Kind.ACK, "i")]}], "it is owed until it is taken"
    silent = play(DOWN, incidents=[refused.incident("i")], silences=(QUIET,))
    assert silent.mails == []
    over = play(UP, incidents=[refused.incident("i")])
    assert over.mails == [{ONE: [(RECOVERY, "i")]}], "nobody has to be on it any more"
    left = Notification(Kind.ACK, over.incident("i"), ONE, NOW - 60.0, 1)
    dropped = play(UP, incidents=[over.incident("i")], outbox=[left])
    assert dropped.mails == [] and left.kind in {
        each.kind for save in dropped.saves for each in save.settled
    }


def test_an_alert_whose_outcome_comes_late_did_not_say_who_is_on_it() -> None:
    handing = Handing(NOW - 60.0, (ONE,), (("i", ALERT),))
    held = known("i", began=NOW - 200.0)
    ack = acknowledged()
    late = play(
        DOWN,
        incidents=[held],
        remembered=node_memory()._replace(handing=(handing,)),
        late={ONE: True},
        acknowledgements=(ack,),
    )
    assert late.incident("i").alert == "me" and late.mails == [{ONE: [(Kind.ACK, "i")]}]


def test_an_acknowledgement_is_heard_of_peers_and_the_earliest_holds() -> None:
    told = known("i", began=NOW - 1900.0, alert="me", told_at=NOW - 1800.0)
    on = told._replace(acknowledged=NOW - 60.0, acknowledgement="anna")
    heard = play(DOWN, incidents=[told], remind=1800.0, heard=[states("z", on)])
    assert heard.mails == [{ONE: [(Kind.ACK, "i")]}]
    assert heard.incident("i").acknowledgement == "anna"
    told_of = on._replace(ack="z")
    heard = play(DOWN, incidents=[told], remind=1800.0, heard=[states("z", told_of)])
    assert heard.mails == [] and heard.incident("i").ack == "z", "one mail in the cluster"
    first = on._replace(ids=("h",), acknowledged=NOW - 90.0, acknowledgement="bob")
    united = play(DOWN, incidents=[on], heard=[states("z", first, tests="d")])
    assert united.incident("h").acknowledgement == "bob"
    later = first._replace(acknowledged=NOW - 30.0)
    united = play(DOWN, incidents=[on], heard=[states("z", later, tests="d")])
    assert united.incident("h").acknowledgement == "anna"


def test_what_is_void_is_not_told() -> None:
    heard = [states("peer", known("i", closed=NOW - 20.0, void=True))]
    assert play(UP, incidents=[known("i", closed=NOW - 30.0)], heard=heard).mails == []


def test_what_peers_say_of_silences_is_stored() -> None:
    assert play(UP, heard=[states("peer", silences=(QUIET,))], said={"z": (QUIET,)}).saves[
        0
    ].silences == {"peer": (QUIET,), "z": (QUIET,)}
    assert (
        play(UP, heard=[states("peer", silences=(QUIET,))], said={"peer": (QUIET,)})
        .saves[0]
        .silences
        is None
    ), "once"
    liar = Contact(Node("liar", "liar"), "id-liar", "", states("peer", silences=(QUIET,)))
    assert play(UP, heard=[liar]).saves[0].silences == {"liar": (QUIET,)}, (
        "whatever it calls itself"
    )


# What flaps, and what lasts.


def changing(count: int) -> list[Incident]:
    """Return told incidents that make `count` changes within the last minutes."""
    times = [NOW - 600.0 + 60.0 * number for number in range(count)]
    pairs = itertools.zip_longest(times[::2], times[1::2])
    return [
        known(f"f{at}", began=at, closed=end, alert="me", recovery="me" if end else "")
        for at, end in pairs
    ]


def test_flapping_is_one_mail_and_no_other() -> None:
    """The seventh change would be a recovery, or an alert: what is mailed is that it flaps."""
    seventh = play(DOWN, incidents=changing(6))
    (mail,) = seventh.mails
    assert {kind for kind, _ in mail[ONE]} == {ALERT} and len(mail[ONE]) == 1
    (flapping,) = [
        known
        for save in seventh.saves
        for known in save.incidents
        if known.flapping and known.alert
    ]
    assert (
        mail == {ONE: [(ALERT, flapping.id)]}
        and flapping.flapping == 7
        and "flapping" in seventh.events()
    )
    off = play(DOWN, incidents=changing(6), flapping=False)
    assert [kind for kind, _ in off.mails[0][ONE]] == [ALERT] and "flapping" not in off.events()


def test_while_it_flaps_only_the_end_of_that_is_mailed() -> None:
    episode = known("e", flapping=7, alert="me", began=NOW - 300.0)
    assert play(DOWN, incidents=[*changing(6), episode]).mails == []
    steady = episode._replace(began=NOW - 1000.0)
    still = known("s", began=NOW - 2000.0)
    ended = play(DOWN, incidents=[still, steady])
    assert ended.mails == [{ONE: [(ALERT, "s"), (RECOVERY, "e")]}], (
        "with how it stands, in one mail"
    )
    assert ended.incident("e").closed and "steady" in ended.events()


def test_reminder() -> None:
    told = known("i", alert="me", began=NOW - 1800.0)
    assert play(DOWN, incidents=[told]).mails == []
    assert play(DOWN, incidents=[told._replace(began=NOW - 1700.0)], remind=1800.0).mails == []
    due = play(DOWN, incidents=[told], remind=1800.0)
    assert due.mails == [{ONE: [(REMINDER, "i")]}] and due.incident("i").reminded == 1
    assert play(DOWN, incidents=[due.incident("i")], remind=1800.0).mails == [], "once"
    spoilt = told._replace(reminded=7300)  # by a clock that was ahead
    corrected = play(DOWN, incidents=[spoilt], remind=1800.0)
    assert corrected.mails == [] and corrected.incident("i").reminded == 1
    later_on = corrected.incident("i")._replace(began=told.began - 1800.0)
    assert play(DOWN, incidents=[later_on], remind=1800.0).mails == [{ONE: [(REMINDER, "i")]}]
    assert (
        play(
            DOWN, incidents=[told], remind=1800.0, heard=[states("peer", told._replace(reminded=1))]
        ).mails
        == []
    )


# Closed elsewhere.


def test_what_is_closed_elsewhere_opens_no_new_incident_in_that_round() -> None:
    heard = [states("a", known("i", closed=NOW - 5.0, alert="a", recovery="a"))]
    told = play(DOWN, incidents=[known("i", alert="a")], heard=heard)
    assert (
        "incident-closed-elsewhere" in told.events()
        and "incident-opened" not in told.events()
        and told.mails == []
    )
    assert not told.incident("i").is_open
    again = play(DOWN, incidents=[told.incident("i")], heard=heard)
    assert "incident-opened" in again.events(), "the next round may open one"


def test_what_one_peer_has_closed_is_heard_before_what_another_still_holds_open() -> None:
    """Last time's incident is new to us; the stale one must not be taken for ours, and close it."""
    heard = [
        states("peer", known("i", alert="x")),
        states("z", known("i", closed=NOW - 50.0, alert="x", recovery="x")),
    ]
    new = play(DOWN, incidents=[known("n")], heard=[*heard, *reversed(heard)])
    assert new.mails == [{ONE: [(ALERT, "n")]}] and new.incident("n").is_open


def test_two_ids_of_one_incident_are_one_mail() -> None:
    met = play(DOWN, incidents=[known("j")], heard=[states("peer", known("i"))])
    assert met.mails == [{ONE: [(ALERT, "i")]}] and met.incident("j").ids == ("i", "j")


# Staying, for what the others find.


def test_once_is_once() -> None:
    assert "Wait" not in play(DOWN, heard=[states("a")]).steps


def test_the_node_that_would_speak_stays_and_greets_nobody() -> None:
    stayed = play(UP, heard=[states("peer")], once=False)
    assert stayed.end.stays and stayed.greeted == [] and stayed.mails == []
    assert not play(UP, heard=[states("peer")], once=True).end.stays
    assert not play(UP, heard=[states("a")], once=False).end.stays, "another node would speak"
    assert not play(UP, peers=0, once=False).end.stays, "nobody can wake it"


def test_who_is_woken_tells_what_it_hears_and_tests_nothing() -> None:
    told = play(None, heard=[states("peer", known("i"))], woken=True, tests=frozenset([TEST]))
    assert told.mails == [{ONE: [(ALERT, "i")]}] and told.incident("i").alert == "me"
    assert told.observed and told.observed.open == frozenset() and told.rehearsed == []
    first = told.steps.index("HandOver")
    assert told.steps[:first] == ["Observe", "Save", "Save"], "what was heard is stored before"
    stored = [save.node for save in told.saves if save.node]
    assert {(each.begins, each.finished) for each in stored} == {
        (node_memory().begins, node_memory().finished)
    }, "it is no round of its own"
    nothing = play(None, heard=[states("peer")], woken=True, tests=frozenset([TEST]))
    assert "HandOver" not in nothing.steps and nothing.end.completed


def test_who_is_woken_does_not_stay_for_what_another_one_is_to_tell() -> None:
    """Its next round may be due in a moment. The other one is woken, and it greets nobody again."""
    peer = states("a", known("i"), wakes=True)
    woken = play(None, heard=[peer], woken=True, once=False, tests=frozenset([TEST]))
    assert woken.woken == [frozenset({"id-a"})]
    assert woken.greeted == [] and "Wait" not in woken.steps


def test_who_is_woken_after_a_sleep_tells_nothing() -> None:
    heard = [states("peer", known("i"))]
    round_of_sleep = play(None, heard=heard, woken=True, sleeps_in="Observe")
    assert slept(round_of_sleep) and round_of_sleep.mails == []


def test_who_holds_something_untold_wakes_the_speaker_with_each_greeting() -> None:
    held = play(DOWN, once=False, heard=[states("a", wakes=True)])
    assert held.woken == [frozenset({"id-a"})] * 4
    first = held.steps.index("Wake")
    assert "Save" in held.steps[:first], "what the speaker is to hear is stored before"
    assert held.steps[first + 1 : first + 4] == ["Wait", "Greet", "Wake"]


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"heard": [states("a")]}, "a node with an earlier version does not know the word"),
        ({"heard": [states("peer", wakes=True)]}, "this node is the speaker"),
        ({"heard": [states("a", wakes=True)], "silences": (QUIET,)}, "it may not be told"),
        (
            {
                "heard": [states("a", known("i", alert="a"), wakes=True)],
                "incidents": [known("i", alert="a")],
            },
            "it is told",
        ),
    ],
)
def test_nobody_is_woken_without_need(facts: dict[str, Any], why: str) -> None:
    assert play(DOWN, once=False, **facts).woken == [], why


@pytest.mark.parametrize(
    ("nodes", "living", "place"),
    [
        (("me", "peer", "z"), ("peer", "z"), 0.0),
        (("peer", "me", "z"), ("peer", "z"), 20.0),
        (("peer", "z", "me"), ("peer", "z"), 40.0),
        (("peer", "z", "me"), ("z",), 30.0),
        (("peer", "z", "me"), (), 0.0),
        (("peer", "z"), ("peer", "z"), 0.0),
    ],
)
def test_the_living_nodes_take_turns(
    nodes: tuple[str, ...], living: tuple[str, ...], place: float
) -> None:
    """A node that is not in its own nodes.txt does not wait."""
    ended = play(
        UP,
        heard=[states(name) for name in living],
        contacts_too=[
            Contact(Node(name, name), reason="gone")
            for name in nodes
            if name != "me" and name not in living
        ],
        peers=len(living),
        nodes=tuple(Node(name, name) for name in nodes),
    ).end
    assert ended.place == place


def test_a_stale_node_takes_no_turn() -> None:
    heard = [states("peer", finished=NOW - 500.0), states("z")]
    assert play(UP, heard=heard).end.place == 0.0
    order = tuple(Node(name, name) for name in ("peer", "z", "me"))
    assert play(UP, heard=heard, nodes=order).end.place == 30.0


def test_a_round_counts_from_when_cron_started_it() -> None:
    """Its interval must not change with its place."""
    began = NOW + Clock.at
    assert play(UP, heard=[states("a")], waited=40.0).node_memory().begins[-1] == began - 40.0


def test_a_speaker_that_this_round_has_found_dead_is_not_waited_for() -> None:
    """A peer greeted it a minute ago, and now a quorum cannot reach it."""
    relayed = NodeStatus("a", "id-a", NOW - 60.0, finished=NOW - 70.0, speaks=True)
    peer = states("peer")._replace(heard=(relayed, NodeStatus("me", "id-me", NOW - 20.0)))
    facts: dict[str, Any] = {
        "heard": [peer],
        "contacts_too": [Contact(Node("a", "a"), reason="gone")],
        "tests": frozenset([TEST, node_test("a")]),
        "peers": 1,
    }
    waits = play(DOWN, **facts)
    assert waits.mails == [] and "a speaks" in str(waits.notes)
    tells = play(DOWN, judged_too={node_test("a"): DOWN}, **facts)
    assert (ALERT, "new") in tells.mails[0][ONE]
    assert "a is DOWN" in str(tells.notes)


@pytest.mark.parametrize(
    ("seen", "facts", "why"),
    [
        (UP, {"heard": [states("a")]}, "it is not the first"),
        (
            DOWN,
            {"heard": [states("a", known("i", alert="a"))], "incidents": [known("i", alert="a")]},
            "nothing is untold",
        ),
        (
            DOWN,
            {"heard": [states("a")], "silences": (QUIET,)},
            "what is silenced is not to be told",
        ),
        (UP, {"peers": 0}, "there is nobody to wait for"),
        (UP, {"heard": [states("peer")]}, "peers wake it if they find something"),
    ],
)
def test_who_does_not_stay(seen: tuple[Outcome, Outcome], facts: dict[str, Any], why: str) -> None:
    assert play(seen, once=False, **facts).greeted == [], why


@pytest.mark.parametrize(
    ("second", "greeted"),
    [(36.0, [36.0]), (36.1, []), (16.0, [16.0, 26.0, 36.0]), (16.1, [16.1, 26.1])],
)
def test_no_greeting_begins_after_second_36(second: float, greeted: list[float]) -> None:
    assert play(DOWN, heard=[states("a")], once=False, clock=Clock(second)).greeted == greeted


def test_who_holds_something_untold_stays_until_it_is_told() -> None:
    """The first node says at last that it has told it, and the other goes home."""
    stayed = play(
        DOWN,
        once=False,
        heard=lambda at: [states("a", *([known("new", alert="a")] if at > 15.0 else []))],
    )
    assert stayed.greeted == [10.0, 20.0] and stayed.mails == [] and stayed.incident().alert == "a"


@pytest.mark.parametrize(
    ("second", "greeted", "mailed"), [(9.0, [], True), (21.0, [21.0], False), (37.0, [], True)]
)
def test_who_was_slow_to_see_greets_again_before_it_tells(
    second: float, greeted: list[float], mailed: bool
) -> None:
    """Plugins that hang make a greeting 20 s old; meanwhile another node may have told it. None begins after second 36."""
    first = iter([True])
    played = play(
        DOWN,
        once=False,
        clock=Clock(second),
        heard=lambda _: [
            states(
                "peer", *([known("new")] if next(first, False) else [known("new", alert="peer")])
            )
        ],
    )
    assert played.greeted == greeted and bool(played.mails) == mailed


def test_a_success_for_what_the_first_lacks_moves_nobody_before_it() -> None:
    """The first may be handing over just then."""
    first = states("a", refused=1)._replace(tests=frozenset[Test]())
    spoken = play(DOWN, heard=[first], remembered=node_memory(refused=2))
    assert spoken.mails == [{ONE: [(ALERT, "new")]}]
    counts = [save.node.refused for save in spoken.saves if save.node]
    assert counts == [2, 2, 2, 0], "not before its round is over, and nothing is to be told"
    assert play(DOWN, remembered=node_memory(refused=2)).node_memory().refused == 0, (
        "the first itself"
    )


def test_no_recovery_goes_before_an_alert_that_was_refused_in_the_same_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One address took the alert, another refused it; 10 s later a peer has seen the end of it."""
    monkeypatch.setattr(telling, "LETTER_INTERVAL", 0.0)
    other = Test("www.example.com", "other")  # only the first node has to tell it: this one waits

    def hears(at: float) -> Heard:
        closed = [known("new", closed=NOW + 12.0, alert="me")] if at > 15.0 else []
        return [states("a", *closed)._replace(tests=frozenset([other]))]

    early = play(
        DOWN,
        once=False,
        addresses=(ONE, TWO),
        tests=frozenset([TEST, other]),
        incidents=[known("other", test=other, held=NOW)],
        heard=hears,
        mta=lambda to: to == ONE,
    )
    assert early.mails == [
        {ONE: [(ALERT, "new")], TWO: [(ALERT, "new")]},
        {ONE: [(RECOVERY, "new")]},
    ]
    assert early.outbox() == {(ALERT, "new", TWO): 1, (RECOVERY, "new", TWO): 0}, (
        "both are owed, and go out together"
    )


def test_a_recovery_waits_a_minute_for_its_alert_to_arrive() -> None:
    """A mail system that stands takes both, and may deliver them in any order."""
    closed = known("a", closed=NOW - 5.0, held=NOW - 5.0, alert="me")
    clock = Clock()
    told = play(UP, incidents=[closed._replace(told_at=NOW - 40.0)], clock=clock, once=False)
    assert told.mails == [{ONE: [(RECOVERY, "a")]}]
    assert 20.0 <= clock.at < 36.0, "it was handed over as soon as the minute was over"
    early = play(UP, incidents=[closed._replace(told_at=NOW - 10.0)], once=False)
    assert early.mails == [], "the next round hands it over"
    both = known("a", closed=NOW - 5.0, told_at=NOW - 5.0)
    assert play(UP, incidents=[both], once=False).mails == [{ONE: [(ALERT, "a"), (RECOVERY, "a")]}]
    once = play(UP, incidents=[closed._replace(told_at=NOW - 10.0)])
    assert once.mails == [{ONE: [(RECOVERY, "a")]}], "--once waits for nothing"


def test_a_reminder_that_was_refused_is_replaced_by_the_next() -> None:
    lasting = known("new", alert="me", began=NOW - 8000.0, reminded=1)
    left = Notification(REMINDER, lasting, ONE, NOW - 4000.0, 3)
    taken = play(DOWN, incidents=[lasting], outbox=[left], remind=3600.0)
    assert (
        taken.mails == [{ONE: [(REMINDER, "new")]}]
        and taken.incident().reminded == 2
        and taken.outbox([left]) == {}
    )


def test_what_was_refused_is_not_tried_again_in_the_same_round() -> None:
    stayed = play(DOWN, once=False, heard=[states("peer", refused=5)], mta=lambda _: False)
    assert stayed.mails == [{ONE: [(ALERT, "new")]}] and stayed.greeted == [10.0, 20.0, 30.0]
    assert stayed.node_memory().refused == 1


def test_nor_under_another_id_that_its_incident_has_got_meanwhile() -> None:
    theirs = known("a0", alert="")

    def heard(second: float) -> list[Statement]:
        return [states("peer", *([theirs] if second >= 10.0 else []), refused=5)]

    stayed = play(DOWN, once=False, heard=heard, mta=lambda _: False)
    assert stayed.incident().ids == ("a0", "new")
    assert stayed.mails == [{ONE: [(ALERT, "new")]}] and stayed.node_memory().refused == 1


# Blindness (R7).


def test_who_hears_nobody_complains_once_an_hour() -> None:
    first = play(UP)
    assert first.complaints == [
        "me: no peer answers (silent0: refused; silent1: refused): nothing that fails here can be confirmed, and nobody is alerted"
    ]
    (said,) = (facts for event, facts in first.notes if event == "trouble")
    assert said == {
        "kind": "isolated",
        "text": first.complaints[0].removeprefix("me: "),
        "since": "second 5",
    }
    (known,) = first.node_memory().troubles
    assert (known.kind, known.since, known.said, known.ended) == (
        "isolated",
        NOW + 5.0,
        NOW + 5.0,
        None,
    )
    for seconds, complaints in ((60.0, 0), (3540.0, 0), (3600.0, 1)):
        then = play(UP, clock=later(5.0 + seconds), remembered=node_memory(troubles=(known,)))
        assert (
            len(then.complaints) == complaints and then.events().count("trouble") == complaints
        ), seconds
        assert then.node_memory().troubles[0].since == known.since


def test_a_complaint_is_new_once_and_until_somebody_is_told() -> None:
    """A new one is mailed if cron is not known to mail; the hourly ones are not."""
    first = play(UP, complaint_refused=True)
    assert first.new_complaints == [True]
    (unsaid,) = first.node_memory().troubles
    assert unsaid.said == float("-inf") and unsaid.logged
    then = play(UP, clock=later(65.0), remembered=node_memory(troubles=(unsaid,)))
    assert then.new_complaints == [True]
    (said,) = then.node_memory().troubles
    assert said.said == NOW + 65.0
    hour = play(UP, clock=later(3665.0), remembered=node_memory(troubles=(said,)))
    assert hour.new_complaints == [False]


def test_what_is_over_is_logged_with_from_when_to_when() -> None:
    (known,) = play(UP).node_memory().troubles
    over = play(
        UP,
        clock=later(605.0),
        heard=[states("peer"), states("z")],
        remembered=node_memory(troubles=(known,)),
    )
    assert over.complaints == []
    assert [facts for event, facts in over.notes if event == "trouble-over"] == [
        {"kind": "isolated", "since": "second 5", "until": "second 605", "seconds": 600}
    ]
    (ended,) = over.node_memory().troubles
    assert ended.ended == NOW + 605.0
    again = play(UP, clock=later(665.0), remembered=node_memory(troubles=(ended,)))
    assert again.complaints == [], "not twice in an hour"
    assert again.node_memory().troubles[0].since == NOW + 665.0


def test_a_new_text_is_logged_and_not_complained_of() -> None:
    (known,) = play(UP, peers=3).node_memory().troubles
    changed = play(UP, clock=later(65.0), peers=2, remembered=node_memory(troubles=(known,)))
    assert changed.complaints == [] and changed.events().count("trouble") == 1


def test_what_ails_a_node_is_stated() -> None:
    kept = play(UP).node_memory()
    assert kept.status("me", "id-me", NOW).troubles == ("isolated",)
    assert (
        kept._replace(troubles=tuple(known._replace(ended=NOW) for known in kept.troubles))
        .status("me", "x", NOW)
        .troubles
        == ()
    )


def test_drift_is_a_warning_and_no_complaint() -> None:
    other = states("peer")._replace(tests=frozenset([Test("other", "x")]))
    first = play(UP, heard=[other])
    assert first.complaints == [] and "trouble" not in first.events(), (
        "somebody may just be writing it on one node after the other"
    )
    drifted = play(
        UP,
        clock=later(305.0),
        heard=[other],
        remembered=node_memory(troubles=first.node_memory().troubles),
    )
    assert drifted.complaints == []
    (said,) = (facts for event, facts in drifted.notes if event == "trouble")
    assert (
        said["text"] == "peer lacks www.example.com/http; this node lacks other/x, which peer has"
    )


def test_what_a_suspect_sees_is_marked() -> None:
    opened = play(DOWN, heard=[states("peer", troubles=("suspect",))]).incident()
    assert opened.opening
    assert [answer.suspect for answer in opened.opening.answers] == [False, True]


def test_what_this_node_sees_is_marked_if_it_suspects_itself() -> None:
    """Most of its tests fail here alone; what it found is also what it reports."""
    fails = Answer(Node("me", "me"), "id-me", Result(Outcome.FAIL))
    passes = Answer(Node("peer", "peer"), "id-peer", Result(Outcome.OK))
    judgements = {}
    for number in range(4):
        judgement = verdict.decide(fails, [passes], 2, incident_open=False)
        judgements[Test(f"host{number}", "http")] = judgement
    config = effects.RoundConfig("id-me", frozenset(judgements), "", (ONE,))
    memory = effects.Memory(node_memory(), {}, [], [], {}, lambda _: [])
    here = situation.Situation(config, memory, Clock(), lambda *_, **__: None)
    check = self_check.SelfCheck(here)
    for marked in check.mark_suspects(judgements).values():
        assert [answer.suspect for answer in marked.answers] == [True, False]
    steps = check.run(judgements, {})
    assert isinstance(next(steps), effects.Rehearse)
    assert isinstance(steps.send(()), effects.Examine)
    with pytest.raises(StopIteration):
        steps.send(())
    assert "suspect" in [trouble.kind for trouble in here.node_memory.troubles]
    few = dict(list(judgements.items())[:3])
    assert self_check.SelfCheck(here).mark_suspects(few) == few


def test_programs_are_examined_now_and_then_and_in_each_round_while_something_is_wrong() -> None:
    """A round starts no sendmail before it is too late to find that there is none."""
    mistake = "/usr/sbin/sendmail: sendmail does not exist"
    first = play(UP, heard=[states("peer")])
    assert first.examined == 1 and first.node_memory().examined == NOW + 5.0
    remembered = node_memory(examined=NOW - self_check.EXAMINE_SECONDS + 6.0)
    between = play(UP, heard=[states("peer")], remembered=remembered, found=[mistake])
    assert between.examined == 0 and between.node_memory().mistakes == ""
    remembered = node_memory(examined=NOW - self_check.EXAMINE_SECONDS)
    later_on = play(UP, heard=[states("peer")], remembered=remembered, found=[mistake])
    assert later_on.examined == 1 and later_on.node_memory().mistakes == mistake
    again = play(UP, heard=[states("peer")], remembered=later_on.node_memory())
    assert again.examined == 1 and again.node_memory().mistakes == ""
    ahead = node_memory(examined=NOW + 3600.0)
    assert play(UP, heard=[states("peer")], remembered=ahead).examined == 1, "the clock was set"


def test_mistakes_are_said_aloud_after_five_minutes() -> None:
    """Those in what a round reads, and those in what it would only start."""
    config: dict[str, Any] = {"mistakes": ["/etc/dmonitor/hosts.d: Permission denied"]}
    found = ["/usr/sbin/sendmail: sendmail does not exist"]
    new = play(UP, heard=[states("peer")], found=found, **config)
    assert new.complaints == [] and "misconfigured" in [
        trouble.kind for trouble in new.node_memory().troubles
    ]
    later_on = later(NOW + 310.0)
    remembered = new.node_memory()._replace(finished=NOW + 300.0)
    lasting = play(
        UP, heard=[states("peer")], found=found, remembered=remembered, clock=later_on, **config
    )
    (complaint,) = lasting.complaints
    assert config["mistakes"][0] in complaint and found[0] in complaint
    mended = play(UP, heard=[states("peer")], remembered=lasting.node_memory(), clock=later_on)
    assert "trouble-over" in mended.events() and mended.complaints == []


OWN_FAILS = Answer(Node("me", "me"), "id-me", Result(Outcome.FAIL, "no right"))
OWN_PASSES = OWN_FAILS._replace(result=Result(Outcome.OK))
NAME = str(TEST)


OWN_DISAGREES = Rehearsal(TEST, "", OWN_FAILS)
OWN_AGREES = Rehearsal(TEST, "", OWN_PASSES)


def test_a_daemon_that_disagrees_in_three_rounds_running_is_named() -> None:
    remembered = node_memory()
    for rounds in (1, 2, 3):
        played = play(UP, heard=[states("peer")], remembered=remembered, rehearsals=[OWN_DISAGREES])
        assert played.rehearsed == [effects.Rehearse(remembered.rehearsal_failures)], "once a round"
        assert "Wait" not in played.steps
        (failure,) = played.node_memory().rehearsal_failures
        assert (failure.test, failure.peer, failure.rounds) == (NAME, "", rounds)
        assert bool(played.complaints) is (rounds == 3)
        remembered = played.node_memory()
    (complaint,) = played.complaints
    assert "dmonitord on this node says FAIL (no right), and dmonitor-check sees OK" in complaint
    mended = play(UP, heard=[states("peer")], remembered=remembered, rehearsals=[OWN_AGREES])
    assert mended.node_memory().rehearsal_failures == () and "trouble-over" in mended.events()


def test_a_daemon_that_agrees_once_in_between_is_not_named() -> None:
    remembered = node_memory()
    for rehearsal in (OWN_DISAGREES, OWN_DISAGREES, OWN_AGREES, OWN_DISAGREES, OWN_DISAGREES):
        played = play(UP, heard=[states("peer")], remembered=remembered, rehearsals=[rehearsal])
        assert played.rehearsed and played.complaints == []
        remembered = played.node_memory()


def test_what_fails_here_is_no_proof_of_anything() -> None:
    failures = (
        RehearsalFailure(NAME, "", 3, "a false vote"),
        RehearsalFailure(NAME, "peer", 3, "peer cannot tell"),
    )
    remembered = node_memory(rehearsal_failures=failures)
    kept = play(UP, heard=[states("peer")], remembered=remembered)
    assert kept.node_memory().rehearsal_failures == failures[:1], (
        "no round judges the peer, so it is not known to be well"
    )
    assert (
        play(DOWN, heard=[states("peer")], remembered=remembered).node_memory().rehearsal_failures
        == ()
    )


def test_a_daemon_that_does_not_answer_is_remembered_until_it_does() -> None:
    silent = Rehearsal(TEST, "", Answer(Node("me", "me"), reason="connection refused"))
    first = play(UP, heard=[states("peer")], rehearsals=[silent]).node_memory()
    assert first.no_daemon == "connection refused" and first.troubles[0].kind == "no-daemon"
    assert (
        play(UP, heard=[states("peer")], remembered=first).node_memory().no_daemon
        == "connection refused"
    ), "nobody was asked"
    assert (
        play(UP, heard=[states("peer")], remembered=first, rehearsals=[OWN_AGREES])
        .node_memory()
        .no_daemon
        == ""
    )


def test_blind_once_more_within_the_hour_is_logged_and_not_complained_of() -> None:
    (known,) = play(UP).node_memory().troubles
    over = play(
        UP,
        clock=later(605.0),
        heard=[states("peer"), states("z")],
        remembered=node_memory(troubles=(known,)),
    ).node_memory()
    again = play(UP, clock=later(665.0), remembered=node_memory(troubles=over.troubles))
    assert again.events().count("trouble") == 1 and again.complaints == []


def test_one_line_says_all_that_lasts() -> None:
    (known,) = play(UP).node_memory().troubles
    mute = known._replace(kind="no-address", said=NOW - 3600.0)
    both = play(
        UP, clock=later(665.0), remembered=node_memory(troubles=(known, mute)), addresses=()
    )
    (line,) = both.complaints
    assert "no peer answers" in line and "alert.d names no address" in line
    assert {each.said for each in both.node_memory().troubles} == {NOW + 665.0}, (
        "from now on they have one hour"
    )


def test_no_node_has_the_test_of_itself() -> None:
    """A line of nodes.txt at which our own daemon answers is none of a peer's."""
    both = frozenset([TEST, node_test("peer")])
    about = known("i", test=node_test("peer"))
    ours = Contact(Node("peer", "peer"), "id-me")
    assert (
        play(UP, incidents=[about], tests=both, contacts_too=[ours._replace(cloned=True)])
        .incident("i")
        .is_open
    )
    gone = play(UP, incidents=[about], tests=both, contacts_too=[ours])
    assert gone.incident("i").removed and "incident-removed" in gone.events()


def test_what_changes_is_stored_with_its_evidence_and_what_does_not_is_not() -> None:
    opened = play(DOWN)
    (change,) = [change for save in opened.saves for change in save.changes]
    assert (
        change.test == TEST
        and change.judgement.verdict is Verdict.DOWN
        and len(change.judgement.answers) == 2
    )
    assert [each.address for save in opened.saves for each in save.told] == [ONE]
    assert [change for save in play(UP).saves for change in save.changes] == []
    new = play(UP, test_states={})
    (change,) = [change for save in new.saves for change in save.changes]
    assert change.test == TEST, "a test that is new"
    assert [standing.since for save in new.saves for standing in save.test_states.values()] == [
        change.at
    ]


# A node that was away.

BEFORE = NOW - 1200.0  # when the ghost was seen last


def ghost(**facts: Any) -> Incident:
    """Return an open incident that was told long ago, as its holder has it."""
    return known("ghost", alert="me", began=BEFORE, seen=BEFORE, **facts)


def test_a_ghost_that_a_peer_states_does_not_pass_for_the_new_incident() -> None:
    """A node that was away is back in the very minute in which the test fails again."""
    back = states("peer", ghost(), finished=NOW - 1300.0)
    told = play(DOWN, heard=[back])
    assert told.mails == [{ONE: [(ALERT, "new")]}]
    assert not any("ghost" in each.ids for save in told.saves for each in save.incidents)


def test_a_node_that_is_back_takes_its_own_old_incident_for_over() -> None:
    """A peer was there all the time, and does not hold it."""
    told = play(DOWN, incidents=[ghost()], heard=[states("peer")])
    assert told.mails == [{ONE: [(ALERT, "new")]}]
    over = told.incident("ghost")
    assert over.overtaken and over.closed == NOW + 5.0 and owed(over) == ()


@pytest.mark.parametrize("peer", ["holds it", "was away", "is silent", "lacks the test"])
def test_it_goes_on_if_nobody_knows_better(peer: str) -> None:
    heard = {
        "holds it": [states("peer", ghost())],
        "was away": [states("peer", finished=NOW - 1300.0)],
        "is silent": [],
        "lacks the test": [states("peer")._replace(tests=frozenset())],
    }
    told = play(DOWN, incidents=[ghost()], heard=heard[peer])
    assert told.mails == [] and told.incident("ghost").is_open
    assert told.incident("ghost").seen == NOW + 5.0


def test_a_fresh_incident_goes_on_whatever_peers_hold() -> None:
    fresh = known("mine", alert="me", seen=NOW - 100.0)
    told = play(DOWN, incidents=[fresh], heard=[states("peer")])
    assert told.mails == [] and told.incident("mine").is_open


# Several nodes count.


def test_confirm_goes_on_from_what_a_living_peer_counted() -> None:
    row = Confirming(TEST, 2, NOW - 70.0)
    peer = states("peer")._replace(confirming=(row,))
    third = play(DOWN, heard=[peer], confirm=3)
    assert third.mails == [{ONE: [(ALERT, "new")]}]
    assert third.incident().began == NOW - 70.0, "it began with the first of them"
    first = play(DOWN, heard=[states("peer")], confirm=3)
    assert first.mails == []
    assert first.node_memory().confirming == (Confirming(TEST, 1, NOW + 5.0),)
    late = states("peer", finished=NOW - 400.0)._replace(confirming=(row,))
    assert play(DOWN, heard=[late], confirm=3).mails == [], "its checker does not run"
    own = play(DOWN, heard=[states("peer")], confirm=3, remembered=node_memory(confirming=(row,)))
    assert own.mails == [{ONE: [(ALERT, "new")]}]
    up = play(UP, heard=[states("peer")], confirm=3, remembered=node_memory(confirming=(row,)))
    assert up.node_memory().confirming == (), "a row ends with another verdict"


def test_a_test_may_have_its_own_confirm() -> None:
    other = states("peer", confirm=3)
    assert play(DOWN, heard=[other], confirm=3, confirmations={TEST: 1}).mails != []
    assert play(DOWN, heard=[states("peer")], confirmations={TEST: 2}).mails == []


def test_the_confirm_of_two_nodes_holds() -> None:
    cautious = states("peer", confirm=2)
    assert play(DOWN, heard=[cautious]).mails == []
    assert play(DOWN, heard=[states("peer", confirm=1)]).mails != []


def test_the_quorum_of_the_last_round_holds_until_the_peers_are_heard() -> None:
    remembered = node_memory(stated_settings=(("peer", 3, 1), ("gone", 3, 1)))
    told = play(DOWN, remembered=remembered)
    assert told.observed and told.observed.stated_quorums == {"peer": 3, "gone": 3}
    assert told.node_memory().stated_settings == (("peer", 3, 1),), "gone left nodes.txt"
    without = play(DOWN, heard=[states("peer")])
    assert without.observed and without.observed.quorum == 2
    assert without.observed.sites == 3 and without.observed.stated_quorums == {}


def test_what_is_told_late_comes_with_what_is_open_now() -> None:
    """An address that refused the recovery gets it, while a newer incident is open."""
    old = known("old", alert="me", closed=NOW - 900.0, recovery="me")
    newer = known("newer", alert="peer", seen=NOW - 60.0)
    left = Notification(RECOVERY, old, ONE, NOW - 900.0, 3)
    told = play(DOWN, incidents=[old, newer], outbox=[left], heard=[states("peer", newer)])
    assert told.mails == [{ONE: [(RECOVERY, "old")]}]
    assert [each.ids for each in told.latest[0]] == [("newer",)]


# What is left over of an incident that is over.


def test_an_alert_that_is_left_over_waits_for_its_recovery() -> None:
    """One mail tells both: another node is about to tell the end to every address."""
    over = known("i", alert="me", closed=NOW - 5.0)
    left = Notification(ALERT, over, TWO, NOW - 90.0, 1)
    first = states("a", over)
    waits = play(
        UP, incidents=[over], outbox=[left], heard=[first], addresses=(ONE, TWO), confirm=1
    )
    assert waits.mails == [] and waits.outbox([left]) == {(ALERT, "i", TWO): 1}
    speaks = play(
        UP, incidents=[over], outbox=[left], heard=[states("peer", over)], addresses=(ONE, TWO)
    )
    assert speaks.mails == [{ONE: [(RECOVERY, "i")], TWO: [(RECOVERY, "i"), (ALERT, "i")]}]
    told = play(
        UP,
        incidents=[over],
        outbox=[left],
        addresses=(ONE, TWO),
        heard=[states("a", over._replace(recovery="a"))],
    )
    assert told.mails == [] and told.outbox([left]) == {}, "that node tells it, or owes it"
    away = states("a", over._replace(recovery="a"), finished=NOW - 900.0)
    instead = play(UP, incidents=[over], outbox=[left], addresses=(ONE, TWO), heard=[away])
    assert instead.mails == [{TWO: [(RECOVERY, "i")]}], "it may not have reached the address"
    assert instead.outbox([left]) == {}


def test_a_recovery_is_not_told_while_this_round_sees_it_down() -> None:
    """Nothing opens in the round that hears of the end, and yet its mail must not say UP."""
    ours = known("i", alert="me", seen=NOW - 60.0)
    closed = ours._replace(closed=NOW - 100.0)
    heard = play(DOWN, incidents=[ours], heard=[states("peer", closed)])
    assert "incident-closed-elsewhere" in heard.events() and heard.mails == []
    later = play(DOWN, incidents=[heard.incident("i")], heard=[states("peer", closed)])
    assert later.mails == [{ONE: [(RECOVERY, "i"), (ALERT, "new")]}]
    up = play(UP, incidents=[ours], heard=[states("peer", closed)])
    assert up.mails == [{ONE: [(RECOVERY, "i")]}]


@pytest.mark.parametrize(("age", "mails"), [(30.0, [{ONE: [(ALERT, "i")]}]), (150.0, [])])
def test_what_a_peer_that_was_away_saw_fail_is_asked_about_before_it_is_told(
    age: float, mails: list[object]
) -> None:
    """This round's looks know nothing of it, and the test may have been well for minutes."""
    incident = known("i", seen=NOW - age)
    heard = play(UP, heard=[states("peer", incident)])
    assert "incident-heard" in heard.events() and heard.mails == mails
    if not mails:
        later = play(DOWN, incidents=[heard.incident("i")._replace(held=NOW - 60.0)])
        assert later.mails == [{ONE: [(ALERT, "i")]}], "the next round tells it"


def test_who_is_woken_does_not_tell_old_news_that_it_has_not_asked_about() -> None:
    """A wake after the round that heard it must not pass for the next round, which asks."""
    incident = known("i", seen=NOW - 150.0)
    remembered = node_memory()
    last_round = remembered.begins[-1]
    for held, mails in ((last_round + 5.0, []), (last_round - 5.0, [{ONE: [(ALERT, "i")]}])):
        ours = [incident._replace(held=held)]
        woken = play(None, incidents=ours, woken=True, tests=frozenset([TEST]))
        assert woken.observed and woken.mails == mails


def test_who_is_woken_and_cannot_store_lets_another_one_tell() -> None:
    """It finds that out although it has heard nothing new, as a round does."""
    facts: dict[str, Any] = {"incidents": [known("i")], "woken": True, "said": {"peer": ()}}
    facts["tests"] = frozenset([TEST])
    told = play(None, heard=[states("peer")], **facts)
    assert told.mails == [{ONE: [(ALERT, "i")]}]
    assert play(None, heard=[states("peer")], stored=False, **facts).mails == []


def test_an_alert_that_is_left_over_counts_as_told_when_it_is_taken() -> None:
    """Another node, which this one does not hear, may have told the end before."""
    ours = known("i", alert="me", told_at=NOW - 300.0)
    played = play(DOWN, incidents=[ours], outbox=[left(ours, refusals=3)])
    assert played.mails == [{ONE: [(ALERT, "i")]}]
    assert played.incident("i").told_at == NOW + Clock.at
    assert played.incident("i").held == NOW + Clock.at, "its recovery waits a minute for it"


def test_what_a_peer_says_was_told_just_now_holds_a_recovery_for_a_minute_at_most() -> None:
    """It could say so again and again, each time with one more reminder."""
    for held, mails in ((10.0, []), (60.0, [{ONE: [(RECOVERY, "i")]}])):
        ours = known("i", closed=NOW - held, held=NOW - held, alert="me", told_at=NOW - 900.0)
        stated = ours._replace(told_at=NOW, reminded=7)
        played = play(UP, incidents=[ours], heard=[states("peer", stated)], once=False)
        if not mails:
            assert played.incident("i").told_at == NOW, "this node believes it"
        assert played.mails[:1] == mails


def test_a_peer_alone_silences_no_test_by_flapping() -> None:
    flapping = known("f", began=NOW - 60.0, flapping=7, seen=NOW, alert="z")
    liar = states("z", flapping)
    played = play(DOWN, heard=[liar])
    assert played.incident("f").heard_from == "z", "it was taken in"
    assert played.mails == [{ONE: [(ALERT, "new")]}]
    facts = [facts for event, facts in played.notes if event == "incident-heard"]
    assert [(heard["incident"], heard["peers"]) for heard in facts] == [("f", "z")]
    assert play(DOWN, heard=[liar, states("peer", flapping)]).mails == [], "two peers are believed"


def test_the_log_names_all_ids_where_incidents_unite() -> None:
    """What the log has of the others before would seem to have no end."""
    ours = known("c", began=NOW - 60.0, seen=NOW - 30.0)
    heard = [states("y", known("b", began=NOW - 50.0, seen=NOW - 30.0))]
    heard.append(states("z", known("a", began=NOW - 40.0, seen=NOW - 30.0)))
    played = play(DOWN, incidents=[ours], heard=heard)
    assert played.incident("a").ids == ("a", "b", "c")
    facts = [facts for event, facts in played.notes if event == "incident-heard"]
    assert [(each["incident"], each["also"]) for each in facts] == [("a", "b,c")]
    alone = play(DOWN, heard=heard[1:])
    facts = [facts for event, facts in alone.notes if event == "incident-heard"]
    assert [(each["incident"], each["also"]) for each in facts] == [("a", None)]


def test_a_peer_keeps_no_mail_back_by_void_while_the_incident_is_open() -> None:
    ours = known("a", began=NOW - 60.0, seen=NOW - 30.0)
    played = play(DOWN, incidents=[ours], heard=[states("z", ours._replace(void=True, reminded=1))])
    assert played.incident("a").reminded == 1, "it was heard"
    assert played.mails == [{ONE: [(ALERT, "a")]}]


def test_the_log_does_not_grow_with_what_a_peer_states_that_is_owed() -> None:
    """Of every second test it says that it does not have it: so the reasons differ in turn."""
    tests = [Test("www.example.com", f"t{number}") for number in range(300)]
    owed_by_all = [known(f"{number:08}", test=test, seen=NOW) for number, test in enumerate(tests)]
    peer = states("a", *owed_by_all)._replace(tests=frozenset(tests[::2]))
    played = play(UP, heard=[peer], tests=frozenset([TEST, *tests]))
    reasons = [facts["reason"] for event, facts in played.notes if event == "speaker-chosen"]
    assert sum(map(len, played.mails[0].values())) == 150, "the others are for the peer to tell"
    assert len(reasons) == len(set(reasons)) == 2


def calls_itself(name: str, *incidents: Incident, **facts: Any) -> Contact:
    """Return what came of greeting the line z, where a node that calls itself NAME answers."""
    statement = states(name, *incidents, node_id="id-z", **facts)
    return Contact(Node("z", "z"), "id-z", statement=statement)


def test_a_peer_is_known_by_its_line_and_not_by_what_it_calls_itself() -> None:
    """Else a node that lies would act in the log, and for the others, under another one's name."""
    liar = calls_itself("a", known("i"))
    played = play(UP, heard=[liar], incidents=[known("i", held=NOW - 5.0)])
    (chosen,) = [facts for event, facts in played.notes if event == "speaker-chosen"]
    assert chosen["reason"] == "z, which calls itself a, speaks: first of 2 living"
    *_, node = [save.node for save in played.saves if save.node]
    assert [status.name for status in node.heard] == ["z"], "the others hear no other name"
    assert [name for name, _ in node.reach] == ["z"]
    alias = [liar._replace(node=Node(name, name)) for name in ("a", "z")]
    for lines in (alias, alias[::-1]):
        *_, node = [each.node for each in play(UP, heard=lines).saves if each.node]
        assert {status.name for status in node.heard} == {"a"}, (
            "it is the name of a line of its own"
        )


def test_a_node_with_two_lines_is_one_witness() -> None:
    """Also while one of the lines is silent: then they are known to have been one machine."""
    flapping = known("f", began=NOW - 60.0, flapping=7, seen=NOW, alert="z")
    z = calls_itself("z", flapping)
    both_lines = [z, z._replace(node=Node("me-too", "me-too"))]
    played = play(DOWN, heard=both_lines)
    assert not played.incident("f").is_fact and played.mails == [{ONE: [(ALERT, "new")]}]
    memory = node_memory()._replace(known_ids=(("me-too", ""), ("z", "")))
    ours = [flapping._replace(heard_from="z")]
    played = play(DOWN, incidents=ours, heard=both_lines[1:], remembered=memory)
    assert played.mails == [{ONE: [(ALERT, "new")]}]
    played = play(DOWN, incidents=ours, heard=both_lines[1:])
    assert played.mails == [], "nothing tells that these are one machine"


@pytest.mark.parametrize(("name", "told"), [("peer", [RECOVERY]), ("z", [])])
def test_who_calls_itself_like_a_dead_node_does_not_owe_what_that_one_owed(
    name: str, told: list[Kind]
) -> None:
    """The node that told the recovery owes it to each address, if it is at work."""
    over = known("i", closed=NOW - 20.0, alert="peer", recovery=name)
    owes = [Notification(ALERT, over, ONE, NOW - 30.0)]
    for heard in (calls_itself("peer"), calls_itself("z")):
        played = play(UP, heard=[heard], incidents=[over], outbox=owes)
        assert [kind for mail in played.mails for kind, _ in mail.get(ONE, ())] == told


def test_a_silence_of_a_peer_is_logged_when_it_is_new() -> None:
    silence = Silence(TEST.host, TEST.name, NOW + 60.0, "moved")
    heard = [states("z", silences=(silence,))]
    events = [facts for event, facts in play(UP, heard=heard).notes if event == "silence-heard"]
    assert events == [{"peer": "z", "host": TEST.host, "test": TEST.name, "reason": "moved"}]
    before = {"z": (silence._replace(until=NOW + 30.0),)}
    assert "silence-heard" not in play(UP, heard=heard, said=before).events()
    ended = known("a", began=NOW - 90.0)
    played = play(UP, heard=heard, incidents=[ended])
    (facts,) = [facts for event, facts in played.notes if event == "incident-suppressed"]
    assert facts["peers"] == "z" and played.mails == []


def test_a_peer_cannot_end_reminders_nor_say_since_when_for_ages() -> None:
    ours = known("a", began=NOW - 1500.0, alert="me", told_at=NOW - 1400.0, seen=NOW - 30.0)
    stated = ours._replace(reminded=10**9)
    played = play(DOWN, incidents=[ours], heard=[states("z", stated)], remind=600.0)
    assert played.incident("a").reminded == 2, "as many as there can have been"
    ages = Confirming(TEST, 1, NOW - 9e8)
    peer = states("z")._replace(confirming=(ages,))
    opened = play(DOWN, heard=[peer], confirm=2)
    assert NOW - opened.incident("new").began < 600.0


def test_who_was_heard_in_this_round_and_whom_nobody_knows_is_not_relayed() -> None:
    """A peer could let a node that it makes up come first."""
    made_up = NodeStatus("0", "id-0", NOW - 10.0, finished=NOW - 20.0, speaks=True)
    liar = states("z")
    liar = liar._replace(heard=(*liar.heard, made_up))
    assert play(DOWN, heard=[liar]).mails == [{ONE: [(ALERT, "new")]}]
    lost = Contact(Node("0", "0"), reason="gone")
    assert play(DOWN, heard=[liar], contacts_too=[lost]).mails == [], "of nodes.txt it is believed"


def test_incidents_heard_of_are_logged_twenty_times_in_a_round() -> None:
    def heard(at: float) -> Heard:
        new = [known(f"{at:.0f}-{number:08}", closed=NOW, void=True) for number in range(15)]
        return [states("z", *new), states("peer", known("owed", seen=NOW), finished=NOW - 5.0)]

    played = play(UP, heard=heard, once=False, stored=False)
    assert len(played.greeted) >= 2, "it greets again, and hears of more each time"
    assert played.events().count("incident-heard") == 20
    assert "more-incidents-heard" in played.events()


def test_one_claim_of_an_interval_keeps_no_hearsay_for_days() -> None:
    over = known("a", began=NOW - 8000.0, closed=NOW - 7200.0, void=True)
    heard = [states("z", over, interval=1440, rounds=6)]
    slow = NodeStatus("z", "id-z", NOW - 60.0, interval=1440)
    played = play(UP, heard=heard, remembered=node_memory(heard=(slow,)))
    assert not [known for save in played.saves for known in save.incidents]
    both = node_memory(heard=(slow,), stated_intervals=(("peer", 1440), ("z", 1440)))
    kept = play(UP, heard=heard, remembered=both)
    assert kept.incident("a").heard_from == "z", "two nodes are as slow"


# Who wants what (R5).

LATE = "late@example.com"
AFTER = Wants(after=1800.0)
OFFICE = Wants(hours=(Hours(480, 1200, ()),))


def lasting(seconds: float, **facts: Any) -> Incident:
    """Return an open incident that has lasted for so long, and was told at once."""
    began = NOW - seconds
    facts = {"alert": "me", "told_at": began, "began": began, "held": began, "seen": NOW, **facts}
    return known("a", **facts)


def told_later(wants: Wants, **facts: Any) -> Circle:
    return Circle(wants.circle, NOW - 500.0, **facts)


def choosy(
    wants: Wants, seen: tuple[Outcome, Outcome] | None, *incidents: Incident, **facts: Any
) -> Played:
    """Take a round in which one more address `wants` something."""
    return play(seen, incidents=incidents, addresses=(ONE, LATE), wants={LATE: wants}, **facts)


def test_patterns_choose_who_is_told() -> None:
    for pattern, told in ((TEST.host, False), ("other", True)):
        played = choosy(Wants(never=(Pattern(pattern, "NOT"),)), DOWN)
        (mails,) = played.mails
        assert mails.keys() == ({ONE, LATE} if told else {ONE})
        assert played.incident().alert == "me" and not played.incident().circles
        assert not played.outbox()


def test_what_nobody_wants_is_not_told_nor_waited_for() -> None:
    wants = {ONE: Wants(only=(Pattern("other"),))}
    played = play(DOWN, wants=wants, once=False)
    assert not played.mails and not played.woken and not played.greeted
    assert played.incident().is_open and not played.incident().alert
    over = known("a", closed=NOW - 3700.0, seen=NOW - 3800.0)
    later_on = play(UP, incidents=[over], wants=wants)
    assert "incident-unwanted" in later_on.events() and not owes(later_on.incident("a"))
    recent = play(UP, incidents=[over._replace(closed=NOW - 3000.0)], wants=wants)
    assert "incident-unwanted" not in recent.events(), "another node may have who wants it"


def test_what_lasts_is_escalated_once() -> None:
    played = choosy(AFTER, DOWN, lasting(1900.0))
    assert played.mails == [{LATE: [(Kind.ALERT, "a")]}]
    (circle,) = played.incident("a").circles
    assert (circle.name, circle.alert) == (AFTER.circle, "me")
    assert not choosy(AFTER, DOWN, played.incident("a")).mails
    assert not choosy(AFTER, DOWN, lasting(1700.0)).mails
    assert not choosy(AFTER, DOWN, lasting(1900.0, acknowledged=NOW - 60.0, ack="me")).mails


def test_what_another_node_has_escalated_is_not_told_again() -> None:
    heard = lasting(1900.0, circles=(told_later(AFTER, alert="peer", told_at=NOW - 5.0),))
    played = choosy(AFTER, DOWN, lasting(1900.0), heard=[states("peer", heard)])
    assert not played.mails
    (circle,) = played.incident("a").circles
    assert (circle.alert, circle.since) == ("peer", NOW + 5.0), "since now"


def test_a_circle_that_no_file_here_names_is_not_taken_in() -> None:
    heard = lasting(1900.0, circles=(Circle("f" * 16, NOW, alert="peer"),))
    played = play(DOWN, incidents=[lasting(1900.0)], heard=[states("peer", heard)])
    assert not played.incident("a").circles


def test_the_end_goes_to_those_who_were_told_the_beginning() -> None:
    told = told_later(AFTER, alert="me", told_at=NOW - 400.0)
    for circles, addresses in (((), {ONE}), ((told,), {ONE, LATE})):
        played = choosy(AFTER, UP, lasting(1900.0, circles=circles))
        (mails,) = played.mails
        assert mails.keys() == addresses
        assert not owes(played.incident("a"))


def test_hours_hold_what_falls_outside() -> None:
    outside = {"outside_hours": frozenset([OFFICE.circle])}
    night = choosy(OFFICE, DOWN, **outside)
    assert [*night.mails[0]] == [ONE] and not night.incident().circles
    morning = choosy(OFFICE, DOWN, lasting(1900.0))
    assert morning.mails == [{LATE: [(Kind.ALERT, "a")]}]
    told = lasting(1900.0, circles=(told_later(OFFICE, alert="me", told_at=NOW - 400.0),))
    evening = choosy(OFFICE, UP, told, **outside)
    assert [*evening.mails[0]] == [ONE]
    assert owes(evening.incident("a")), "its end is held"
    over = choosy(OFFICE, UP, evening.incident("a"), remembered=evening.node_memory())
    assert over.mails == [{LATE: [(Kind.RECOVERY, "a")]}]
    missed = choosy(OFFICE, UP, lasting(1900.0), **outside)
    assert [*missed.mails[0]] == [ONE] and not owes(missed.incident("a"))


def test_a_held_end_gives_the_first_node_its_turn_when_the_hours_begin() -> None:
    """Else each node would find that the turns of all others are over, and tell it."""
    told = told_later(OFFICE, alert="peer", told_at=NOW - 9000.0)
    over = known(
        "a", alert="peer", recovery="peer", began=NOW - 9900.0, closed=NOW - 8000.0,
        held=NOW - 8000.0, told_at=NOW - 8000.0, seen=NOW - 8100.0, circles=(told,),
    )  # fmt: skip
    first = states("a-first", over, interval=1)
    held = choosy(OFFICE, UP, over, heard=[first], outside_hours=frozenset([OFFICE.circle]))
    assert not held.mails
    (quiet,) = held.node_memory().quiet
    assert (quiet.circle, quiet.ended) == (OFFICE.circle, 0.0)
    begins = choosy(OFFICE, UP, over, heard=[first], remembered=held.node_memory())
    assert not begins.mails, "it is the first node's turn"


def test_only_the_first_refusal_of_who_is_told_later_counts_in_the_order() -> None:
    first = choosy(AFTER, DOWN, lasting(1900.0), mta=lambda address: address != LATE)
    assert first.mails and first.node_memory().refused == 1
    remembered = first.node_memory()._replace(begins=node_memory().begins, finished=NOW + 80.0)
    clock = Clock(130.0, began=125.0)
    again = choosy(
        AFTER, DOWN, first.incident("a"), mta=lambda _: False, remembered=remembered, clock=clock
    )
    assert [*again.mails[0]] == [LATE]
    assert again.node_memory().refused == 1


def test_a_hook_follows_the_mails_of_its_circle() -> None:
    late = {LATE: AFTER, "hook:late": AFTER}
    played = play(
        DOWN,
        incidents=[lasting(1900.0)],
        addresses=(ONE, LATE, "hook:now", "hook:late"),
        wants=late,
    )
    assert [[*mails] for mails in played.mails] == [[LATE], ["hook:late"]]
    alone = play(
        DOWN, incidents=[lasting(1900.0)], addresses=(ONE, "hook:late"), wants={"hook:late": AFTER}
    )
    assert alone.mails == [{"hook:late": [(Kind.ALERT, "a")]}]
