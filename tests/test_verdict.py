"""Rules R2 and R3: every combination for three nodes, and what must hold for any."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from dmonitor.core import verdict
from dmonitor.core.model import (
    Answer,
    Contact,
    Node,
    NodeStatus,
    Outcome,
    Result,
    Statement,
    Verdict,
    Vote,
)

SEEN = [*Outcome, None]  # None: no answer


def answer(name: str, seen: Outcome | None, *, site: str = "", node_id: str = "") -> Answer:
    node = Node(name, site or name)
    if seen is None:
        return Answer(node, node_id, reason="timed out")
    return Answer(node, node_id or f"id-of-{name}", Result(seen))


def decide(
    own: Outcome, *others: Outcome | None, quorum: int = 2, incident_open: bool = False
) -> Verdict:
    answers = [answer(f"peer{number}", seen) for number, seen in enumerate(others)]
    return verdict.decide(answer("me", own), answers, quorum, incident_open=incident_open).verdict


def by_the_book(seen: tuple[Outcome | None, ...], quorum: int, incident_open: bool) -> Verdict:
    """Rule R3, once more, as DESIGN puts it."""
    failing = sum(word in (Outcome.FAIL, Outcome.TIMEOUT) for word in seen)
    somebody_passes = Outcome.OK in seen
    if seen[0] is Outcome.OK and not incident_open:
        return Verdict.UP
    if failing >= quorum:
        return Verdict.DOWN
    if seen[0] in (Outcome.FAIL, Outcome.TIMEOUT):
        return Verdict.LOCAL if somebody_passes else Verdict.UNCONFIRMED
    if seen[0] is Outcome.UNKNOWN and not somebody_passes:
        return Verdict.UNKNOWN
    return Verdict.UP


def test_every_combination_for_three_nodes() -> None:
    count = 0
    for own, *others in itertools.product(Outcome, SEEN, SEEN):
        for quorum, incident_open in itertools.product((1, 2, 3), (False, True)):
            found = decide(own, *others, quorum=quorum, incident_open=incident_open)
            assert found is by_the_book((own, *others), quorum, incident_open), (
                own,
                others,
                quorum,
                incident_open,
            )
            count += 1
    assert count == 4 * 5 * 5 * 3 * 2


def test_words() -> None:
    assert decide(Outcome.FAIL, Outcome.FAIL, Outcome.OK) is Verdict.DOWN
    assert decide(Outcome.TIMEOUT, Outcome.FAIL) is Verdict.DOWN
    assert decide(Outcome.FAIL, Outcome.OK, None) is Verdict.LOCAL
    assert decide(Outcome.FAIL, None, Outcome.UNKNOWN) is Verdict.UNCONFIRMED
    assert decide(Outcome.FAIL) is Verdict.UNCONFIRMED
    assert decide(Outcome.UNKNOWN, Outcome.FAIL, Outcome.FAIL) is Verdict.DOWN
    assert decide(Outcome.UNKNOWN, None) is Verdict.UNKNOWN
    assert decide(Outcome.UNKNOWN, Outcome.OK) is Verdict.UP


def test_who_must_be_asked() -> None:
    for seen in Outcome:
        assert verdict.must_ask(answer("me", seen), incident_open=True)
        assert verdict.must_ask(answer("me", seen), incident_open=False) == (seen is not Outcome.OK)


def test_a_node_does_not_agree_with_itself() -> None:
    echo = answer("me-by-another-name", Outcome.FAIL, node_id="id-of-me")
    judged = verdict.decide(answer("me", Outcome.FAIL), [echo], 2, incident_open=False)
    assert judged.verdict is Verdict.UNCONFIRMED
    assert len(judged.answers) == 1


def test_a_peer_under_two_names_votes_once() -> None:
    twice = [
        answer("paris", Outcome.FAIL, node_id="x"),
        answer("paris.example.com", Outcome.FAIL, node_id="x"),
    ]
    own = answer("me", Outcome.UNKNOWN)
    assert verdict.decide(own, twice, 2, incident_open=False).verdict is Verdict.UNKNOWN
    assert (
        verdict.decide(own, [*twice, answer("rome", Outcome.FAIL)], 2, incident_open=False).verdict
        is Verdict.DOWN
    )


def test_who_takes_another_ones_id_takes_no_vote() -> None:
    """Nor its site: a node that is heard at several sites votes at one that has a vote already."""
    own = answer("me", Outcome.FAIL)
    robbed = answer("rome", Outcome.FAIL)
    owners = {robbed.node_id: "rome"}
    for seen, site in itertools.product(SEEN, ("thief", "me")):
        thief = answer("thief", seen, site=site, node_id=robbed.node_id)
        found = verdict.decide(own, [thief, robbed], 2, incident_open=False, owners=owners)
        assert (found.verdict, found.sites(Vote.FAILING)) == (Verdict.DOWN, {"me", "rome"})
        named = [each for each in found.answers if each.node.name == "thief"]
        assert [each.text for each in named] == ["it has the node id of rome"]
    fails = answer("thief", Outcome.FAIL, node_id=robbed.node_id)
    passes = answer("rome", Outcome.OK)
    found = verdict.decide(own, [fails, passes], 2, incident_open=False, owners=owners)
    assert found.verdict is Verdict.LOCAL, "it has no vote of its own by that either"


def test_a_node_that_moved_to_another_line_has_its_vote() -> None:
    own = answer("me", Outcome.FAIL)
    for seen in (None, Outcome.OK):
        at_old_line = answer("rome", seen, node_id="" if seen is None else "another-id")
        moved = answer("oslo", Outcome.FAIL, node_id="id-of-rome")
        owners = {"id-of-rome": "rome"}
        found = verdict.decide(own, [at_old_line, moved], 2, incident_open=False, owners=owners)
        assert found.verdict is Verdict.DOWN


def test_two_nodes_of_one_site_are_one() -> None:
    own = answer("me", Outcome.FAIL, site="rack")
    neighbour = answer("neighbour", Outcome.FAIL, site="rack")
    judged = verdict.decide(own, [neighbour], 2, incident_open=False)
    assert judged.verdict is Verdict.UNCONFIRMED
    assert judged.sites(Vote.FAILING) == {"rack"}
    assert (
        verdict.decide(
            own, [neighbour, answer("rome", Outcome.TIMEOUT)], 2, incident_open=False
        ).verdict
        is Verdict.DOWN
    )


def test_a_site_that_nobody_knows_is_no_second_site() -> None:
    """Our own line is not recognised: we may well be in the same site as the neighbour."""
    own = Answer(Node("me", ""), "id-of-me", Result(Outcome.FAIL))
    assert (
        verdict.decide(
            own, [answer("a", Outcome.FAIL, site="paris")], 2, incident_open=False
        ).verdict
        is Verdict.UNCONFIRMED
    )
    two = [answer("a", Outcome.FAIL, site="paris"), answer("b", Outcome.FAIL, site="rome")]
    assert verdict.decide(own, two, 2, incident_open=False).verdict is Verdict.DOWN


ANSWERS = st.lists(
    st.builds(
        lambda name, seen, site, node_id: answer(name, seen, site=site, node_id=node_id),
        st.sampled_from(["a", "b", "c", "d"]),
        st.sampled_from(SEEN),
        st.sampled_from(["", "s1", "s2"]),
        st.sampled_from(["", "id-of-me", "id1", "id2"]),
    ),
    max_size=6,
)
OWN = st.builds(lambda seen: answer("me", seen), st.sampled_from(list(Outcome)))


@given(OWN, ANSWERS, st.randoms(), st.booleans())
def test_order_does_not_matter(
    own: Answer, answers: list[Answer], chance: random.Random, incident_open: bool
) -> None:
    shuffled = list(answers)
    chance.shuffle(shuffled)
    assert verdict.decide(own, answers, 2, incident_open=incident_open) == verdict.decide(
        own, shuffled, 2, incident_open=incident_open
    )


@given(OWN, ANSWERS, st.booleans())
def test_a_duplicate_does_not_count(
    own: Answer, answers: list[Answer], incident_open: bool
) -> None:
    once = verdict.decide(own, answers, 2, incident_open=incident_open)
    assert once == verdict.decide(own, answers + answers, 2, incident_open=incident_open)
    ids = [found.node_id for found in once.answers if found.node_id]
    assert len(ids) == len(set(ids))


@given(OWN, ANSWERS)
def test_one_more_failing_vote_never_retracts(own: Answer, answers: list[Answer]) -> None:
    before = verdict.decide(own, answers, 2, incident_open=True)
    after = verdict.decide(own, [*answers, answer("e", Outcome.FAIL)], 2, incident_open=True)
    assert after.sites(Vote.FAILING) == before.sites(Vote.FAILING) | {"e"}
    if before.verdict is Verdict.DOWN:
        assert after.verdict is Verdict.DOWN


@given(OWN, ANSWERS, st.integers(2, 4), st.booleans())
def test_no_lone_alert(
    own: Answer, answers: list[Answer], quorum: int, incident_open: bool
) -> None:
    judged = verdict.decide(own, answers, quorum, incident_open=incident_open)
    if judged.verdict is Verdict.DOWN:
        sites = {found.node.site for found in judged.answers if found.vote is Vote.FAILING}
        assert len(sites) >= quorum
        assert (
            len({found.node_id for found in judged.answers if found.vote is Vote.FAILING}) >= quorum
        )


def test_sites_at_which_one_node_is_heard_are_one() -> None:
    """A second line of nodes.txt without the site of the first makes no second site."""
    own = answer("me", Outcome.FAIL, site="here")
    paris = answer("paris", Outcome.FAIL, site="here", node_id="id-of-paris")
    alias = answer("alias", Outcome.FAIL, site="alias", node_id="id-of-paris")
    found = verdict.decide(own, [paris, alias], 2, incident_open=False)
    assert found.verdict is Verdict.UNCONFIRMED and len(found.sites(Vote.FAILING)) == 1
    elsewhere = answer("rome", Outcome.FAIL, site="there")
    found = verdict.decide(own, [paris, alias, elsewhere], 2, incident_open=False)
    assert found.verdict is Verdict.DOWN and len(found.sites(Vote.FAILING)) == 2


def test_our_own_second_line_is_no_second_site_either() -> None:
    own = answer("me", Outcome.FAIL, site="here")
    echo = answer("alias", Outcome.FAIL, site="there", node_id="id-of-me")
    rome = answer("rome", Outcome.FAIL, site="there")
    assert verdict.decide(own, [echo, rome], 2, incident_open=False).verdict is Verdict.UNCONFIRMED


def test_who_is_heard_at_two_sites_moves_nobody_else() -> None:
    """A clone, or a second line, takes one vote's site, and no site from those that are heard at one alone."""
    own = answer("me", Outcome.FAIL, site="here")
    rome = answer("rome", Outcome.FAIL, site="there")
    twice = [
        answer("x", seen, site=site, node_id="id-of-x")
        for site, seen in (("here", Outcome.OK), ("there", Outcome.OK))
    ]
    assert verdict.decide(own, [rome, *twice], 2, incident_open=False).verdict is Verdict.DOWN
    copies = [answer("x", Outcome.FAIL, site=site, node_id="id-of-x") for site in ("here", "there")]
    found = verdict.decide(own, [rome, *copies], 3, incident_open=False)
    assert found.verdict is Verdict.UNCONFIRMED and found.sites(Vote.FAILING) == {"here", "there"}


def test_place() -> None:
    assert verdict.voting_sites([("a", "x"), ("b", "y"), ("", "z"), ("c", "")], {"a", "c"}) == {
        "a": "x"
    }
    assert verdict.voting_sites([("a", "x"), ("a", "y"), ("b", "y")], {"a", "b"}) == {
        "a": "y",
        "b": "y",
    }
    assert verdict.voting_sites([("a", "x"), ("a", "y"), ("b", "y")], {"a"}) == {"a": "x"}


def test_which_quorum_holds() -> None:
    def contact(name: str, quorum: int) -> Contact:
        status = NodeStatus(name, f"id-{name}", 0.0, quorum=quorum)
        return Contact(Node(name, name), f"id-{name}", "", Statement(status))

    silent = Contact(Node("c", "c"), reason="refused")

    def holds(own: int, *contacts: Contact, sites: int = 9, **remembered: int) -> int:
        return verdict.quorum_that_holds(own, remembered, contacts, sites)

    assert holds(2, contact("a", 3), contact("b", 0), silent) == 3, "two have said"
    assert holds(2, contact("a", 1)) == 2
    assert holds(2) == 2
    assert holds(2, contact("a", 100), sites=3) == 3, "no peer ends all alerts"
    assert holds(5, contact("a", 100), sites=3) == 5, "our operator may"
    assert holds(2, contact("a", 2), contact("b", 3)) == 2, "of three, one alone decides nothing"
    assert holds(3, contact("a", 2), contact("b", 2)) == 2
    assert holds(2, contact("a", 3), contact("b", 3)) == 3
    assert holds(2, contact("a", 3), b=3) == 3, "it is silent, and has stated it before"
    assert holds(2, contact("a", 3), a=2, b=2) == 2
