"""Those in alert.d are told of troubles: once when one begins to be said, once when it is over (rule R7)."""

from __future__ import annotations

import email
import email.policy
from typing import Any

import pytest
from test_round import NOW, UP, Played, later, node_memory, play, states

from dmonitor.core import complaints, effects, health, mail, trouble_text
from dmonitor.core.hours import Hours
from dmonitor.core.model import Outcome, Statement, ToldTrouble, TroubleHanding, TroubleName
from dmonitor.core.wants import Pattern, Wants

ONE, TWO, HOOK = "one@example.com", "two@example.com", "hook:push"
ISOLATED = TroubleName("isolated")
MINUTE = 60.0
WELL = [states("peer"), states("z")]


class Rounds:
    """Rounds that follow each other, each with the memory of the one before."""

    def __init__(self, **settings: Any) -> None:
        self.settings: dict[str, Any] = {"troubles": "alert", "addresses": (ONE,), **settings}
        self.memory = node_memory()
        self.at = NOW + 5.0
        self.played = Played()

    def play(self, minutes: float, heard: Any = (), **facts: Any) -> list[tuple[str, list[str]]]:
        """Take a round so many minutes later; return what is mailed, by the address."""
        self.at += MINUTE * minutes
        remembered = self.memory._replace(finished=self.at - 50.0)
        at_hand = [
            statement._replace(
                status=statement.status._replace(at=self.at, finished=self.at - 20.0)
            )
            for statement in heard
        ]
        self.played = play(
            facts.pop("seen", UP),
            heard=at_hand,
            remembered=remembered,
            clock=later(self.at - NOW),
            **{**self.settings, **facts},
        )
        self.memory = self.played.node_memory()
        return told(self.played)


def told(played: Played) -> list[tuple[str, list[str]]]:
    """Return the subject of what each address is told."""
    mails = []
    for effect in played.trouble_mails:
        for address, news in effect.mails.items():
            mails.append((address, [trouble_text.subject([each], "me") for each in news]))
    return mails


def told_of(rounds: Rounds) -> list[str]:
    """Return who believes that the first trouble is there."""
    return list(rounds.memory.told_troubles[0].told)


BEGUN = (ONE, ["TROUBLE me: no peer answers"])


def test_it_is_told_once_and_once_that_it_is_over() -> None:
    rounds = Rounds()
    assert rounds.play(0) == [BEGUN]
    assert rounds.played.complaints == []
    for _ in range(3):
        assert rounds.play(1, late={ONE: True}) == [] and rounds.played.complaints == []
    assert rounds.play(61) == [] and rounds.played.events().count("trouble") == 1, "the log repeats"
    for _ in range(5):
        assert rounds.play(1, WELL) == []
    assert rounds.play(1, WELL) == [(ONE, ["OVER me: no peer answers (1 h 5 min)"])]
    assert rounds.play(1, WELL, late={ONE: True}) == []
    assert rounds.memory.told_troubles[0].told == ()
    assert rounds.play(61, WELL) == [] and rounds.memory.told_troubles == (), "it is forgotten"


def test_a_mail_without_an_outcome_is_not_repeated() -> None:
    rounds = Rounds()
    assert rounds.play(0) == [BEGUN]
    for _ in range(3):
        assert rounds.play(1) == [], "its sendmail goes on"
    (handing,) = rounds.memory.trouble_handing
    assert handing.addresses == (ONE,) and handing.begun == (ISOLATED,)
    assert rounds.play(12) == [], "after so long it counts as refused, and its address rests"
    assert rounds.play(2) == [BEGUN]


def test_a_mail_is_stored_before_it_leaves_and_one_that_is_lost_is_repeated() -> None:
    rounds = Rounds()
    rounds.play(0)
    steps = rounds.played.steps
    assert steps.index("TellTroubles") > 1 and steps[steps.index("TellTroubles") - 1] == "Save"
    stored = rounds.played.saves[-2].node
    assert stored is not None and stored.trouble_handing[0].begun == (ISOLATED,)
    rounds.memory = stored  # the round was killed then
    assert rounds.play(1, late={ONE: None}) == [BEGUN], "nobody knows whether it left"


@pytest.mark.parametrize("over", [False, True])
def test_who_may_believe_what_is_wrong_is_told_again(over: bool) -> None:
    """What was lost told that it is there, and it is over; or it told that it is over, and it is back."""
    record = ToldTrouble(ISOLATED, "no peer answers", NOW - 900.0)
    handing = TroubleHanding(NOW - 60.0, (ONE,), "f00d", begun=(ISOLATED,))
    rounds = Rounds()
    if over:
        record = record._replace(told=(ONE,), ended=NOW - 400.0)
        handing = TroubleHanding(NOW - 60.0, (ONE,), "f00d", over=(ISOLATED,))
    rounds.memory = node_memory(told_troubles=(record,), trouble_handing=(handing,))
    if over:
        assert rounds.play(0, late={ONE: None}) == [BEGUN]
    else:
        assert rounds.play(0, WELL, late={ONE: None}) == []
        assert rounds.play(6, WELL) == [(ONE, ["OVER me: no peer answers (15 min 5 s)"])]


def test_what_blinks_is_one_trouble() -> None:
    rounds = Rounds()
    assert rounds.play(0) == [BEGUN]
    rounds.play(1, late={ONE: True})
    for _ in range(10):
        assert rounds.play(2, WELL) == [] and rounds.play(2) == []


def test_what_flaps_is_over_when_it_was_gone_for_an_hour() -> None:
    rounds = Rounds()
    rounds.play(0)
    rounds.play(1, WELL, late={ONE: True})
    assert rounds.play(6, WELL) == [(ONE, ["OVER me: no peer answers (1 min)"])]
    assert rounds.play(1, late={ONE: True}) == [BEGUN], (
        "it is back, and no reader believes otherwise"
    )
    rounds.play(1, WELL, late={ONE: True})
    for _ in range(11):
        assert rounds.play(5, WELL) == []
    assert rounds.play(6, WELL)[0][1][0].startswith("OVER me: no peer answers")


def test_each_address_is_told_for_itself() -> None:
    rounds = Rounds(addresses=(ONE, TWO, HOOK))
    assert [address for address, _ in rounds.play(0)] == [ONE, TWO, HOOK]
    assert rounds.play(1, late={ONE: True, TWO: False, HOOK: True}) == [], "it rests"
    assert rounds.played.complaints == [], "somebody knows it"
    assert [address for address, _ in rounds.play(1)] == [TWO]
    rounds.play(1, late={TWO: True})
    assert told_of(rounds) == [HOOK, ONE, TWO]
    rounds.play(1, addresses=(ONE,))
    assert told_of(rounds) == [ONE], "the others are no addresses any more"


def test_each_address_is_told_of_the_node_as_of_a_test_in_its_hours_and_if_it_lasts() -> None:
    office = Wants(hours=(Hours(480, 1200, ()),))
    wants = {
        "web@example.com": Wants(only=(Pattern("*/http"),)),
        "nodes@example.com": Wants(only=(Pattern("node/me"),)),
        "boss@example.com": Wants(after=1800.0),
        "office@example.com": office,
    }
    rounds = Rounds(addresses=tuple(wants), wants=wants)
    closed = frozenset([office.circle])
    first = rounds.play(0, outside_hours=closed)
    assert [address for address, _ in first] == ["nodes@example.com"]
    assert rounds.play(10, outside_hours=closed, late={"nodes@example.com": True}) == []
    assert [address for address, _ in rounds.play(1)] == ["office@example.com"]
    rounds.play(1, late={"office@example.com": True})
    assert [address for address, _ in rounds.play(20)] == ["boss@example.com"]
    rounds.play(1, late={"boss@example.com": True})
    over = rounds.play(1, WELL, outside_hours=closed) + rounds.play(6, WELL, outside_hours=closed)
    assert [address for address, _ in over] == ["nodes@example.com", "boss@example.com"]
    taken = {"nodes@example.com": True, "boss@example.com": True}
    assert [address for address, _ in rounds.play(1, WELL, late=taken)] == ["office@example.com"]


def test_a_trouble_that_no_address_wants_is_printed() -> None:
    rounds = Rounds(wants={ONE: Wants(only=(Pattern("*/http"),))})
    assert rounds.play(0) == [] and len(rounds.played.complaints) == 1


def test_what_nobody_takes_is_printed() -> None:
    rounds = Rounds()
    rounds.play(0)
    rounds.play(1, late={ONE: False})
    (line,) = rounds.played.complaints
    assert line.startswith("me: no peer answers") and rounds.played.new_complaints == [False]
    rounds.play(1)
    assert rounds.played.complaints == [], "once an hour"
    rounds.play(60, late={ONE: False})
    assert len(rounds.played.complaints) == 1
    rounds.play(5, late={ONE: True})
    assert rounds.played.complaints == []


def test_what_blinks_is_printed_once_an_hour() -> None:
    rounds = Rounds(addresses=())
    rounds.play(0)
    assert len(rounds.played.complaints) == 1
    for minutes in (1, 1):
        rounds.play(1, WELL)
        rounds.play(minutes)
        assert rounds.played.complaints == []
    rounds.play(60)
    assert len(rounds.played.complaints) == 1


def test_an_address_that_takes_an_alert_is_told_of_troubles_at_once() -> None:
    """It has refused two mails in a row, so it would rest for some minutes."""
    rounds = Rounds()
    rounds.play(0)
    rounds.play(1, late={ONE: False})
    assert rounds.play(2) == [BEGUN]
    assert rounds.play(1, late={ONE: False}) == [] and rounds.memory.trouble_refusals
    assert rounds.play(1, seen=(Outcome.FAIL, Outcome.FAIL)) == [BEGUN]
    assert not rounds.memory.trouble_refusals


@pytest.mark.parametrize(
    ("settings", "printed"),
    [
        ({"addresses": ()}, True),
        ({"stores": False, "stored": False}, True),
        ({"troubles": "log"}, False),
        ({"troubles": "root"}, True),
    ],
)
def test_what_is_not_mailed(settings: dict[str, Any], printed: bool) -> None:
    rounds = Rounds(**settings)
    assert rounds.play(0) == [] and "TellTroubles" not in rounds.played.steps
    assert bool(rounds.played.complaints) is printed
    assert rounds.played.events().count("trouble") == 1
    assert rounds.memory.trouble_handing == ()


def test_what_cannot_be_stored_now_is_not_mailed() -> None:
    """The state was well when the round began. What is not remembered would be mailed in each round."""
    rounds = Rounds()
    assert rounds.play(0, stored=False) == []
    assert "Save" in rounds.played.steps and rounds.memory.trouble_handing == ()


def test_alerts_come_first() -> None:
    rounds = Rounds()
    rounds.play(0, seen=(Outcome.FAIL, Outcome.FAIL))
    steps = rounds.played.steps
    assert steps.index("HandOver") < steps.index("TellTroubles")


def mute(name: str, *kinds: str, **facts: Any) -> Statement:
    return states(name, troubles=kinds, **facts)


REFUSED = "TROUBLE z: its mail system refuses, says z"


def test_a_peer_that_cannot_tell_is_spoken_for() -> None:
    rounds = Rounds()
    heard = [states("peer"), mute("z", "mail-refused", "suspect", "drift", "brand-new")]
    for _ in range(5):
        assert rounds.play(1, heard) == []
    assert rounds.play(1, heard) == [
        (ONE, [REFUSED, "TROUBLE z: most tests fail on it alone, says z"])
    ]
    assert rounds.play(1, heard, late={ONE: True}) == []
    assert rounds.play(1, [states("peer")]) == [], "nobody knows how it is now"
    assert rounds.play(9, [states("peer")]) == []
    able = [states("peer"), mute("z", "suspect")]
    assert rounds.play(1, able) == []
    assert rounds.play(5, able) == [(ONE, ["OVER z: its mail system refuses, says z (17 min)"])], (
        "what else it states is still there"
    )


def test_a_disk_that_is_full_is_told_by_a_peer() -> None:
    rounds = Rounds()
    heard = [mute("z", "not-stored", stores=False)]
    rounds.play(0, heard)
    assert rounds.play(5, heard) == [(ONE, ["TROUBLE z: its state cannot be written, says z"])]


def test_the_first_node_that_hears_it_tells_it() -> None:
    """Here that is `a`, unless it does not hear the node, or cannot tell either."""
    z = mute("z", "mail-refused")
    hears = (z.status, states("me").status._replace(node_id="id-me"))
    first = states("a")._replace(heard=hears)
    for heard, tells in (
        (first, False),
        (first._replace(heard=hears[1:]), True),
        (first._replace(status=first.status._replace(troubles=("mail-refused",))), True),
        (first._replace(status=first.status._replace(stores=False)), True),
    ):
        rounds = Rounds()
        rounds.play(0, [heard, z])
        subjects = [subject for _, each in rounds.play(6, [heard, z]) for subject in each]
        assert (REFUSED in subjects) is tells, heard


def test_what_several_nodes_find_is_told_by_the_first_of_them() -> None:
    differing = {"quorum": 2, "confirm": 3}
    for name, tells in (("a", False), ("z", True)):
        rounds = Rounds()
        heard = [mute(name, "settings-differ", **differing)]
        rounds.play(0, heard)
        assert bool(rounds.play(6, heard)) is tells, name
        assert "settings-differ" in [each.kind for each in rounds.memory.troubles]


def test_each_kind_has_words() -> None:
    kinds = set(health._KINDS) - {"drift", "long-local", "peer-not-stored"}
    assert kinds == set(trouble_text.HEADLINES)
    assert kinds >= complaints.MUTE


# The mail.


def news(kind: str, node: str = "", **facts: Any) -> effects.TroubleNews:
    is_over = "ended" in facts
    text = facts.pop("text", "no peer answers (paris: refused)")
    trouble = ToldTrouble(TroubleName(kind, node), text, 1.7e9, **facts)
    return effects.TroubleNews(trouble, is_over)


def letter(*what: effects.TroubleNews, address: str = ONE, node: str = "oslo") -> Any:
    content = mail.compose_troubles(
        what, address, sender="dmonitor@example.com", node=node, now=1.7e9
    )
    return email.message_from_bytes(content, policy=email.policy.default)


def test_the_mail() -> None:
    begun = letter(news("isolated"))
    over = letter(news("isolated", ended=1.7e9 + 7800.0))
    assert begun["Subject"] == "TROUBLE oslo: no peer answers"
    assert over["Subject"] == "OVER oslo: no peer answers (2 h 10 min)"
    assert begun.get_content().startswith("oslo: no peer answers (paris: refused).\n")
    assert "2 h 10 min" in over.get_content() and "dmonitor status" in over.get_content()
    assert begun["In-Reply-To"] == over["In-Reply-To"] and begun["Message-ID"] != over["Message-ID"]
    assert begun["Message-ID"] == letter(news("isolated"))["Message-ID"], "a double is known"
    assert begun["Message-ID"] != letter(news("isolated"), address=TWO)["Message-ID"]
    again = letter(news("isolated", over_told=1.7e9))
    assert again["Message-ID"] != begun["Message-ID"], "it is back, and no double"
    assert letter(news("isolated", text="a\nb")).get_content().startswith("oslo: a\\nb.")


def test_many_in_one_mail() -> None:
    several = letter(news("mail-refused", "rome"), news("isolated"), news("suspect", ended=1.7e9))
    assert several["Subject"] == (
        "TROUBLE rome: its mail system refuses, says rome; TROUBLE oslo: no peer answers;"
        " and 1 more"
    )
    content, facts = mail.compose_trouble_facts(
        [news("mail-refused", "rome"), news("suspect", ended=1.7e9 + 60.0)], node="oslo"
    )
    assert content.startswith(b"rome: no peer answers")
    assert facts["DMONITOR_STATE"] == "TROUBLE\nTROUBLE OVER"
    assert facts["DMONITOR_HOST"] == "rome\noslo"
    assert facts["DMONITOR_TEST"] == "mail-refused\nsuspect"
    assert facts["DMONITOR_COUNT"] == "2" and facts["DMONITOR_NODE"] == "oslo"
    assert facts["DMONITOR_SUBJECT"].startswith("TROUBLE rome: its mail system refuses, says rome")
    ids = facts["DMONITOR_INCIDENT"].split("\n")
    assert len(set(ids)) == 2 and facts["DMONITOR_UNTIL"].startswith("\n2023-11-1")
