"""Since when a notification waits: a wait that was wanted makes no mail late (R9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dmonitor.core import codec, effects
from dmonitor.core.model import Contact, Incident, Kind, Node, Notification, Quiet, Silence, Test
from dmonitor.core.outbox import Outbox
from dmonitor.core.situation import Situation
from dmonitor.core.telling import LETTER_INTERVAL, Telling

TEST = Test("www.example.com", "http")
NOW = 100_000.0
SILENCE = Silence("www.example.com", "", None, "rack move")
FLAPPING = Incident(("ffffffff",), TEST, NOW - 900, flapping=7, alert="me", seen=NOW - 900)


class Clock:
    """A clock that stands still within a round."""

    def __init__(self, at: float) -> None:
        self._at = at

    def now(self) -> float:
        return self._at

    def elapsed(self) -> float:
        return 5.0

    def minute(self, at: float, /) -> int:
        return int(at // 60)

    def text(self, at: float, /) -> str:
        return str(at)


class Teller:
    """A node alone that takes one round after the other, and only tells in them."""

    def __init__(self, *incidents: Incident) -> None:
        self.incidents = {incident.id: incident for incident in incidents}
        self.memory = effects.NodeMemory(speaks=True)
        self.latest: Sequence[Incident] = ()

    def tell(
        self, at: float, *, silenced: bool = False, taken: bool = False, outbox: Any = ()
    ) -> list[Notification]:
        """Take the round that begins `at`; return what was handed over."""
        begins = tuple(at - 60.0 * ago for ago in (3, 2, 1))
        memory = effects.Memory(
            self.memory._replace(begins=begins, finished=at - 50.0),
            {},
            list(self.incidents.values()),
            outbox,
            {},
            lambda _: [],
        )
        config = effects.RoundConfig(
            node_id="aaaaaaaa",
            tests=frozenset([TEST]),
            tests_digest="d",
            addresses=("root",),
            silences=(SILENCE,) if silenced else (),
            nodes=(Node("me", "me"),),
        )
        situation = Situation(config, memory, Clock(at), lambda *_, **__: None)
        observation = effects.Observation(
            Node("me", "me"), {}, [Contact(Node("me", "me"), "aaaaaaaa")], frozenset()
        )
        situation.recognise(observation)
        told: list[Notification] = []
        script = Telling(situation, Outbox(outbox, situation.audience), lambda: "aaaaaaaa").run()
        answer: Any = None
        while True:
            try:
                effect = script.send(answer)
            except StopIteration:
                break
            answer = True
            if isinstance(effect, effects.HandOver):
                self.latest = effect.latest
                told += effect.mails["root"]
                answer = ("root", taken)
            elif isinstance(effect, effects.Save):
                self.incidents |= {incident.id: incident for incident in effect.incidents}
        finished = codec.write(effects.NodeMemory, situation.finish())
        self.memory = codec.read(effects.NodeMemory, finished, limit=codec.TIME_LIMIT)
        return told


def incident(*ids: str, **facts: Any) -> Incident:
    return Incident(
        **{"ids": ids, "test": TEST, "began": NOW, "seen": NOW, "held": NOW, "minute": 1, **facts}
    )


def test_an_alert_that_is_refused_waits_since_it_was_owed() -> None:
    teller = Teller(incident("iiiiiiii"))
    for round_number in range(3):
        (alert,) = teller.tell(NOW + 5 + 60 * round_number)
        assert (alert.kind, alert.since) == (Kind.ALERT, NOW)
    assert teller.memory.quiet == ()


def test_an_alert_that_is_refused_until_the_end_has_waited_for_longer_than_its_recovery() -> None:
    over = incident("iiiiiiii", closed=NOW + 3600, held=NOW + 3600)
    told = Teller(over).tell(NOW + 7200)
    assert [(each.kind, each.since) for each in told] == [
        (Kind.ALERT, NOW),
        (Kind.RECOVERY, NOW + 3600),
    ]
    # It may not have been told before the end of a silence.
    teller = Teller(incident("iiiiiiii"))
    assert teller.tell(NOW + 5, silenced=True) == []
    (alert,) = teller.tell(NOW + 1800)
    assert alert.since == NOW + 1800
    teller.incidents["iiiiiiii"] = over
    alert, recovery = teller.tell(NOW + 7200)
    assert (alert.since, recovery.since) == (NOW + 1800, NOW + 3600)


def test_an_alert_waits_since_the_first_round_after_the_silence() -> None:
    teller = Teller(incident("iiiiiiii"))
    for at in (NOW + 5, NOW + 3600):
        assert teller.tell(at, silenced=True) == []
        assert teller.memory.quiet == (Quiet("iiiiiiii", silenced="on me: rack move"),)
    ended = NOW + 3665
    (alert,) = teller.tell(ended)
    assert alert.incident.silenced == "on me: rack move"
    assert alert.since == ended, "it is not late"
    (alert,) = teller.tell(ended + 300)
    assert alert.since == ended, "the mail system refused it, so now it is late"
    assert teller.memory.quiet == (Quiet("iiiiiiii", ended, "on me: rack move"),)
    # Its incident is united with a peer's.
    teller.incidents = {"aaaaaaaa": incident("aaaaaaaa", "iiiiiiii")}
    (alert,) = teller.tell(ended + 360, taken=True)
    assert alert.since == ended
    teller.tell(ended + 420)
    assert len(teller.memory.quiet) == 0, "nothing is owed, so nothing is remembered"


def test_an_alert_waits_since_the_end_of_the_flapping() -> None:
    teller = Teller(incident("iiiiiiii"), FLAPPING)
    assert teller.tell(NOW + 5) == [] and teller.memory.quiet == (Quiet("iiiiiiii"),)
    closed = FLAPPING._replace(closed=NOW + 185, held=NOW + 185)
    teller.incidents["ffffffff"] = closed
    told = teller.tell(NOW + 185)
    assert {(each.kind, each.incident.id, each.since) for each in told} == {
        (Kind.ALERT, "iiiiiiii", NOW + 185),
        (Kind.RECOVERY, "ffffffff", NOW + 185),
    }, "both are in one mail, and neither is late"


def test_a_recovery_that_waits_for_its_own_letter_is_not_late() -> None:
    over = incident("iiiiiiii", alert="me", told_at=NOW, closed=NOW + 5, held=NOW + 5)
    teller = Teller(over)
    assert teller.tell(NOW + LETTER_INTERVAL - 1) == []
    (recovery,) = teller.tell(NOW + 300)
    assert (recovery.kind, recovery.since) == (Kind.RECOVERY, NOW + 300)


def test_a_mail_is_given_the_open_incidents_of_its_tests() -> None:
    over = incident("iiiiiiii", alert="me", recovery="me", closed=NOW + 5)
    again = incident("jjjjjjjj", began=NOW + 60, alert="me")
    late = Notification(Kind.RECOVERY, over, "root", NOW + 5, 3)
    teller = Teller(over, again)
    (told,) = teller.tell(NOW + 200, outbox=(late,))
    assert told.incident.id == "iiiiiiii" and teller.latest == (again,)
    teller = Teller(over, again)
    assert teller.tell(NOW + 200, outbox=(late,), silenced=True) == []
    # The newer incident may be the flapping.
    ended = FLAPPING._replace(ids=("eeeeeeee",), closed=NOW + 5, recovery="me")
    late = Notification(Kind.RECOVERY, ended, "root", NOW + 5, 3)
    teller = Teller(ended, FLAPPING)
    (told,) = teller.tell(NOW + 200, outbox=(late,))
    assert told.incident.id == "eeeeeeee" and teller.latest == (FLAPPING,)
