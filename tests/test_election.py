"""Rule R5: who speaks, one test for each clause that WHY-R5 gives a counterexample for. `a` is first by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from dmonitor.core import election
from dmonitor.core.election import Candidate
from dmonitor.core.model import Incident, NodeStatus, Refusals, Statement, Test, node_test

NOW = 100_000.0
TEST = Test("www.example.com", "http")
NEVER = float("-inf")


def node(name: str, **facts: Any) -> NodeStatus:
    """Return a living node; its last round ended half a minute ago."""
    return NodeStatus(
        **{
            "name": name,
            "node_id": f"id-{name}",
            "at": NOW,
            "finished": NOW - 30.0,
            "speaks": True,
            **facts,
        }
    )


def peer(
    name: str,
    *,
    greeted: bool = True,
    ids: str = "i",
    hears_me: bool = True,
    tests: Any = None,
    **facts: Any,
) -> Candidate:
    """Return a peer that answers, greeted us in its last round, and lists the incident."""
    return Candidate(node(name, **facts), greeted, frozenset(ids), tests, hears_me, 120.0)


def held(seconds: float) -> Incident:
    """Return an incident that this node has held untold for SECONDS."""
    return Incident(("i",), TEST, NOW - seconds, held=NOW - seconds)


def refused(name: str, count: int, ago: float) -> Refusals:
    """Return that so many hand-overs of a node were refused, the last one some seconds ago."""
    return Refusals(name, f"id-{name}", count, NOW - ago)


def choose(
    me: NodeStatus,
    peers: Sequence[Candidate],
    incident: Incident | None,
    refusals: Sequence[Refusals] = (),
) -> election.Choice:
    """Return who speaks, if this node has heard of no interval but those of the `peers` that it greeted."""
    stated = [peer.status.interval for peer in peers if peer.greeted]
    slowest = election.interval_that_holds(me.interval, stated)
    return election.choose(me, peers, NOW, incident, refusals=refusals, slowest=slowest)


def speaker(
    me: NodeStatus,
    *peers: Candidate,
    incident: Incident | None = None,
    refusals: Sequence[Refusals] = (),
) -> str:
    chosen = choose(me, peers, incident, refusals).speaker
    return chosen.name if chosen else ""


def reason(me: NodeStatus, *peers: Candidate, incident: Incident | None = None) -> str:
    return choose(me, peers, incident).reason


def test_the_first_by_name_speaks() -> None:
    assert speaker(node("b"), peer("a"), peer("c")) == "a"
    assert speaker(node("a"), peer("b"), peer("c")) == "a"
    assert speaker(node("c")) == "c"
    assert reason(node("b"), peer("a"), peer("c")) == "a speaks: first of 3 living"


@pytest.mark.parametrize(
    ("later", "why"),
    [
        ({"stores": False}, "who cannot store what was told comes last of all"),
        ({"refused": 1}, "hand-overs refused in a row come before the interval"),
        ({"interval": 5}, "a 5-minute node that is first by name would delay everybody"),
    ],
)
def test_what_makes_a_node_come_later(later: dict[str, Any], why: str) -> None:
    assert speaker(node("b"), peer("a", **later)) == "b", why
    assert speaker(node("a", **later), peer("b")) == "b", why
    assert speaker(node("a", **later), peer("b", **later)) == "a", (
        "it is a rank, not a yes or no: all MTAs may be away"
    )


def test_what_comes_later_in_order() -> None:
    order: list[dict[str, Any]] = [
        {"interval": 1},
        {"interval": 5},
        {"refused": 1},
        {"refused": 2},
        {"stores": False},
        {"stores": False, "refused": 1},
    ]
    places = [
        election.rank(node("z" if number % 2 else "a", **facts))
        for number, facts in enumerate(order)
    ]
    assert places == sorted(places)
    assert election.rank(node("a", node_id="1")) < election.rank(node("a", node_id="2")), (
        "two of one name have an order too"
    )


@pytest.mark.parametrize(
    ("interval", "age", "living"),
    [(1, 120.0, True), (1, 120.1, False), (5, 360.0, True), (5, 360.1, False)],
)
def test_living_is_a_round_within_the_interval_and_a_minute(
    interval: int, age: float, living: bool
) -> None:
    facts: dict[str, Any] = {"finished": NOW - age, "interval": interval}
    assert speaker(node("b", interval=9), peer("a", **facts)) == ("a" if living else "b")
    assert speaker(node("a", **facts), peer("b", interval=9)) == ("a" if living else "b"), (
        "so for oneself"
    )
    assert speaker(node("a", **facts)) == ("a" if living else ""), "and when there is nobody else"


def test_who_cannot_speak() -> None:
    for facts, why in (
        ({"speaks": False}, "has no address"),
        ({"finished": NEVER}, "never finished a round"),
        ({"finished": NEVER, "speaks": False}, "never finished a round"),
    ):
        assert reason(node("b"), peer("a", **facts)) == f"b speaks: first of 1 living; a {why}"
        assert reason(node("a", **facts), peer("b")) == f"b speaks: first of 1 living; a {why}"
        assert reason(node("a", **facts)) == f"nobody speaks: no node is living; a {why}"
    assert (
        reason(node("b"), peer("a", finished=NOW - 300.0))
        == "b speaks: first of 1 living; a stale 5 min"
    )


@pytest.mark.parametrize(("age", "who"), [(0.0, "a"), (120.0, "a"), (120.1, "b")])
def test_a_peers_word_counts_for_two_minutes(age: float, who: str) -> None:
    relayed = peer("a", greeted=False, at=NOW - age, finished=NOW - 10.0)
    assert speaker(node("b"), relayed, peer("c")) == who
    if who == "b":
        assert reason(node("b"), relayed, peer("c")) == "b speaks: first of 2 living; a not reached"


def test_a_peer_that_does_not_hear_of_the_end_does_not_speak_of_it() -> None:
    over = held(130.0)._replace(closed=NOW - 130.0)
    deaf = peer("a")  # lists it as open
    assert speaker(node("b"), deaf, incident=over) == "b"
    assert "a does not list that it is over" in reason(node("b"), deaf, incident=over)
    knows = peer("a", refused=1)._replace(closed_ids=frozenset("i"))
    lately = [refused("b", 1, 60.0)]
    assert speaker(node("b", refused=1), knows, incident=over, refusals=lately) == "a"
    assert speaker(node("b"), deaf, incident=over._replace(held=NOW - 10.0)) == "a", "not at once"


def test_a_peers_word_counts_until_its_next_round() -> None:
    """A peer with rounds of an hour says what it heard an hour ago."""
    hourly = Statement(node("a", interval=60), heard=(node("c", at=NOW - 3_000.0),))
    (_, relayed) = election.candidates(node("b"), [hourly])
    assert relayed.status.name == "c" and relayed.relayed_for == 3_660.0
    assert reason(node("b"), relayed).startswith("b speaks: first of 2 living")


def test_of_a_relayed_node_counts_what_it_stated_then() -> None:
    """Rounds that it has finished since are not heard of so soon."""
    relayed = peer("a", greeted=False, at=NOW - 100.0, finished=NOW - 190.0)
    assert speaker(node("b"), relayed, peer("c")) == "a"
    assert (
        speaker(
            node("b"),
            relayed._replace(status=relayed.status._replace(finished=NOW - 230.0)),
            peer("c"),
        )
        == "b"
    )


def test_of_a_greeted_node_counts_what_it_stated_then() -> None:
    """It may have finished a round since; who saw its plugins hang for 20 s must not take it for stale."""
    greeted = peer("a", at=NOW - 20.0, finished=NOW - 130.0)
    assert speaker(node("b"), greeted) == "a"
    assert (
        speaker(node("b"), greeted._replace(status=greeted.status._replace(finished=NOW - 141.0)))
        == "b"
    )


def test_candidates_are_those_greeted_and_those_they_greeted() -> None:
    me, seen = node("m"), node("m", at=NOW - 50.0)
    statements = [
        Statement(
            node("a"),
            heard=(node("c", at=NOW - 70.0), seen),
            incidents=(held(1.0),),
            tests=frozenset(),
        ),
        Statement(node("b"), heard=(node("c", at=NOW - 60.0, refused=1), node("a", at=NOW - 90.0))),
    ]
    found = {each.status.name: each for each in election.candidates(me, statements)}
    assert found == {
        "a": Candidate(node("a"), True, frozenset("i"), frozenset(), hears_me=True),
        "b": Candidate(node("b"), True),
        "c": Candidate(node("c", at=NOW - 60.0, refused=1), relayed_for=120.0),
    }, "the latest word of c counts; a speaks for itself; we are no candidate of ours"


def test_the_word_of_a_word_does_not_count() -> None:
    """One hop: what a peer heard of others from others is not in its statement at all."""
    assert not NodeStatus._fields[-1].startswith("heard")
    assert {
        each.status.name
        for each in election.candidates(node("m"), [Statement(node("a"), heard=(node("b"),))])
    } == {"a", "b"}


def test_who_lacks_the_test_does_not_count_for_its_incident() -> None:
    lacking = peer("a", tests=frozenset({Test("www.example.com", "ssh")}))
    assert speaker(node("b"), lacking, incident=held(0.0)) == "b"
    assert (
        reason(node("b"), lacking, incident=held(0.0))
        == "b speaks: first of 1 living; a lacks the test"
    )
    assert speaker(node("b"), lacking) == "a", "for what everybody has it does"
    assert speaker(node("b"), peer("a", tests=frozenset({TEST})), incident=held(0.0)) == "a"


@pytest.mark.parametrize(
    ("interval", "seconds", "who"),
    [(1, 119.9, "a"), (1, 120.0, "b"), (5, 359.9, "a"), (5, 360.0, "b")],
)
def test_who_does_not_list_it_after_a_while_does_not_count(
    interval: int, seconds: float, who: str
) -> None:
    """A first node that answers but hears nobody would never mail."""
    me = node("b", interval=9)
    assert speaker(me, peer("a", ids="", interval=interval), incident=held(seconds)) == who
    listing = peer("a", ids="xi", interval=interval, refused=1)
    assert (
        speaker(
            me._replace(refused=1),
            listing,
            incident=held(seconds),
            refusals=[refused("b", 1, seconds - 1.0)],
        )
        == "a"
    ), "who lists one of its ids, and has come first by a refusal since then, counts"
    assert (
        speaker(
            me, listing._replace(status=listing.status._replace(refused=0)), incident=held(seconds)
        )
        == who
    ), "who lists it, was refused nothing, and tells nothing"
    if who == "b":
        said = reason(me, peer("a", ids="", interval=interval), incident=held(seconds))
        assert said == "b speaks: first of 1 living; a does not list it"


@pytest.mark.parametrize(("seconds", "who"), [(0.0, "b"), (119.9, "b"), (120.0, "a")])
def test_who_nobody_greeted_comes_last_while_the_incident_is_young(
    seconds: float, who: str
) -> None:
    """A first node that hears but cannot be reached would double every mail; a ring of one-way links waits only so long."""
    deaf = (peer("b", hears_me=False), peer("c", hears_me=False))
    assert speaker(node("a"), *deaf, incident=held(seconds)) == who
    if who == "b":
        assert (
            reason(node("a"), *deaf, incident=held(seconds))
            == "b speaks: first of 3 living; a no peer greeted it"
        )
    assert speaker(node("a"), deaf[0], peer("c"), incident=held(seconds)) == "a", (
        "one peer that greeted us is enough"
    )


def test_who_nobody_greeted_speaks_when_there_is_nobody_else() -> None:
    assert speaker(node("a"), incident=held(0.0)) == "a"
    gone = (peer("b", hears_me=False, finished=NEVER), peer("c", hears_me=False, speaks=False))
    assert speaker(node("a"), *gone, incident=held(0.0)) == "a", (
        "those who would not speak are not waited for"
    )
    unheard = peer("b", greeted=False, hears_me=False)
    assert speaker(node("a"), unheard, incident=held(0.0)) == "a", "nor those who do not answer us"


def test_all_peers_come_before_who_nobody_greeted() -> None:
    """Even those of whom only others speak, and those whose MTA refuses."""
    answering, relayed = (
        peer("c", hears_me=False, refused=9),
        peer("b", greeted=False, hears_me=False, refused=9),
    )
    assert speaker(node("a"), relayed, answering, incident=held(0.0)) == "b"
    assert speaker(node("a"), answering) == "c", "so as long as nothing is held"


def test_young_is_measured_by_the_slowest_that_answers() -> None:
    deaf = (
        peer("b", hears_me=False),
        peer("c", hears_me=False, interval=5),
        peer("d", hears_me=False, interval=5),
    )
    assert speaker(node("a"), *deaf, incident=held(110.0)) == "b"
    assert speaker(node("a"), *deaf, incident=held(200.0)) == "c", "b has had time to tell it"
    assert speaker(node("a"), *deaf, incident=held(360.0)) == "a"


def test_reasons_name_all() -> None:
    said = reason(
        node("e"),
        peer("a", speaks=False),
        peer("b", finished=NOW - 200.0),
        peer("c", ids=""),
        peer("d", greeted=False, at=NOW - 130.0),
        incident=held(500.0),
    )
    assert (
        said
        == "e speaks: first of 1 living; a has no address; b stale 3 min; c does not list it; d not reached"
    )
    assert (
        reason(node("a", refused=3), peer("b"))
        == "b speaks: first of 2 living; a was refused (3 in a row)"
    )


@pytest.mark.parametrize(
    ("begins", "minutes"),
    [
        ([], 1),
        ([0.0], 1),
        ([0.0, 5.0], 1),
        ([0.0, 300.0], 5),
        ([0.0, 61.0, 119.0, 180.0], 1),
        ([0.0, 60.0, 120.0, 9000.0, 9060.0], 1),
        ([0.0, 60.0, 120.0, 180.0, 240.0, 540.0, 840.0, 1140.0], 5),
    ],
)
def test_the_interval_is_measured_in_whole_minutes(begins: list[float], minutes: int) -> None:
    """One long pause, or one round by hand, changes nothing; a new schedule does, after three rounds."""
    assert election.interval(begins) == minutes


def test_limit() -> None:
    assert (election.living_limit(node("a")), election.living_limit(node("a", interval=5))) == (
        120.0,
        360.0,
    )


def test_a_node_does_not_speak_of_itself() -> None:
    """It has no such test; neither while it answers, nor while others have heard of it lately."""
    about = held(5.0)._replace(test=node_test("a"))
    liar = peer("b")._replace(line="a")
    assert speaker(node("me"), liar, incident=about) == "me"
    assert "a, which calls itself b, is the node" in reason(node("me"), liar, incident=about)
    assert speaker(node("me"), peer("a"), incident=about) == "me"
    assert speaker(node("me"), peer("a", greeted=False), incident=about) == "me"
    assert "a is the node that the incident is about" in reason(
        node("me"), peer("a"), incident=about
    )
    assert (
        speaker(
            node("me"), peer("a", tests=frozenset()), incident=about._replace(test=node_test("b"))
        )
        == "a"
    ), "every node has the tests that the others are"


def test_who_comes_first_by_a_refusal_has_its_time_from_then_on() -> None:
    """Who was refused would mail beside it, while it still hands over."""
    me = node("c", refused=1)
    for after, who in ((0.0, "d"), (119.0, "d"), (121.0, "c")):
        lately = [refused("c", 1, after)]
        assert speaker(me, peer("d"), incident=held(300.0), refusals=lately) == who
        other = peer("b", refused=1)
        lately = [refused("b", 1, after), refused("c", 1, 250.0)]
        assert speaker(me, other, peer("d"), incident=held(300.0), refusals=lately) == (
            "b" if who == "c" else who
        ), "the next one is waited for a little longer"


def test_one_after_the_other_has_its_turn() -> None:
    """If all turns were over at once, each node would speak."""
    first, second, third = peer("a"), peer("b"), peer("c")
    for seconds, who in ((119.0, "a"), (121.0, "b"), (149.0, "b"), (151.0, "d")):
        assert speaker(node("d"), first, second, third, incident=held(seconds)) == who
        unheard = peer("a", ids="")
        assert speaker(node("d"), unheard, second, third, incident=held(seconds)) == who
    made_up = [peer(f"a{number}", greeted=False, ids="") for number in range(9)]
    assert speaker(node("b"), first, *made_up, incident=held(121.0)) == "b", "nobody greeted these"


def test_refusals_of_before_add_no_time() -> None:
    """A first node that lists it and never mails would be waited for the longer, the more were refused."""
    lister, other = peer("a"), peer("c", refused=12)
    earlier = [refused("b", 12, 1000.0), refused("c", 12, 130.0)]
    me = node("b", refused=12)
    assert speaker(me, lister, other, incident=held(119.0), refusals=earlier) == "a"
    assert speaker(me, lister, other, incident=held(121.0), refusals=earlier) == "b"


def test_refusals_of_who_comes_later_add_no_time() -> None:
    """Who is refused because the first one was not waited for any more does not make it come first."""
    lister = peer("a", refused=1)
    for mine, who in ((1, "a"), (2, "a"), (3, "b")):
        lately = [refused("b", mine, 10.0)]
        me = node("b", refused=mine)
        assert speaker(me, lister, incident=held(300.0), refusals=lately) == who


def test_what_a_node_says_of_its_own_refusals_adds_no_time() -> None:
    """Who lies could say that it was refused once more, again and again, and stay the first."""
    lister, me = peer("a", refused=5), node("b", refused=12)
    lately = [refused("a", 5, 10.0), refused("b", 12, 1000.0)]
    assert speaker(me, lister, incident=held(119.0), refusals=lately) == "a"
    assert speaker(me, lister, incident=held(121.0), refusals=lately) == "b"


def test_refused_nodes_that_a_peer_only_tells_of_add_no_time() -> None:
    """A first node that mails nothing could make up any number of them."""
    made_up = [peer(f"x{n}", greeted=False, refused=1) for n in range(50)]
    assert speaker(node("b"), peer("a"), *made_up, incident=held(119.0)) == "a"
    assert speaker(node("b"), peer("a"), *made_up, incident=held(121.0)) == "b"


def test_an_interval_that_one_peer_alone_states_is_not_waited_for() -> None:
    """While the others were refused, a first node that never mails could say that its rounds are a day apart."""
    me, day = node("b", refused=1), peer("a", interval=1440)
    for first, seconds, who in (
        (day, 119.0, "a"),
        (day, 121.0, "b"),
        (day._replace(ids=frozenset()), 121.0, "b"),
    ):
        assert speaker(me, first, peer("c", refused=1), incident=held(seconds)) == who
    slow = peer("c", refused=1, interval=5)
    assert speaker(me, day, slow, incident=held(359.0)) == "a", "two say that 5 minutes are usual"
    assert speaker(me, day, slow, incident=held(361.0)) == "b"


@pytest.mark.parametrize(
    ("own", "stated", "holds"),
    [(1, [], 1), (1, [1440], 1), (1, [1440, 1], 1), (1, [1440, 5], 5), (60, [1, 1], 60)],
)
def test_the_interval_that_holds(own: int, stated: list[int], holds: int) -> None:
    assert election.interval_that_holds(own, stated) == holds
