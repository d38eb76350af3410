"""The decision code broken on purpose: each mutation must be found by the simulator (test_simulation.py).

A mutation is a context in which one piece of the real code is another one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

from dmonitor.core import election, health, incident, ledger, result, verdict
from dmonitor.core.model import Answer, Incident, Judgement, Verdict

from . import world


@contextlib.contextmanager
def marks_told_before_sending() -> Iterator[None]:
    """What is handed over is stored as told first; a refusal takes it back, a crash does not."""
    resume = world.Round._hand_over

    def hand_over(self: world.Round, mails: Any) -> None:
        for mail in mails.values():
            for each in mail:
                told = incident.told(each.incident, [each.kind], self.node.name, self.now())
                known = self.node.disk.incidents[each.incident.id]
                facts = {
                    "alert": known.alert or told.alert,
                    "recovery": known.recovery or told.recovery,
                }
                self.node.disk.incidents |= dict.fromkeys(known.ids, known._replace(**facts))
        resume(self, mails)

    with mock.patch.object(world.Round, "_hand_over", hand_over):
        yield


@contextlib.contextmanager
def counts_a_peer_twice() -> Iterator[None]:
    """Every line of nodes.txt votes, and is a site of its own, not every node id."""
    with (
        counts_every_line_as_a_site(),
        mock.patch.object(verdict, "_one_for_each_node", lambda own, answers: list(answers)),
    ):
        yield


@contextlib.contextmanager
def forgets_told_on_restart() -> Iterator[None]:
    boot = world.World._boot

    def forgetful(self: world.World, node: world.SimNode) -> None:
        for known in list(node.disk.incidents.values()):
            node.disk.incidents |= dict.fromkeys(known.ids, known._replace(alert="", recovery=""))
        boot(self, node)

    with mock.patch.object(world.World, "_boot", forgetful):
        yield


@contextlib.contextmanager
def lets_any_node_speak() -> Iterator[None]:
    with mock.patch.object(
        election, "choose", lambda me, *_: election.Choice(me, "anybody speaks")
    ):
        yield


@contextlib.contextmanager
def mails_on_unconfirmed() -> Iterator[None]:
    decide = verdict.decide

    def hasty(*arguments: Any, **options: Any) -> Judgement:
        judged = decide(*arguments, **options)
        return (
            judged._replace(verdict=Verdict.DOWN)
            if judged.verdict is Verdict.UNCONFIRMED
            else judged
        )

    with mock.patch.object(verdict, "decide", hasty):
        yield


@contextlib.contextmanager
def keeps_told_by_test() -> Iterator[None]:
    """What was told of a test's last incident counts for its next one."""
    put = ledger.Ledger.put

    def inherit(self: ledger.Ledger, what: Incident) -> None:
        if not self.find(what.ids):
            before = [known for known in self if known.test == what.test and known.alert]
            what = what._replace(alert=before[0].alert) if before else what
        put(self, what)

    with mock.patch.object(ledger.Ledger, "put", inherit):
        yield


@contextlib.contextmanager
def closes_on_one_lost_answer() -> Iterator[None]:
    with mock.patch.object(incident, "SILENT_SITE_GRACE", 0.0):
        yield


@contextlib.contextmanager
def oldest_id_wins() -> Iterator[None]:
    """Open incidents of one test that meet become the older one of them, whatever is known of its ids."""

    def meet(self: ledger.Ledger, heard: Incident, now: float) -> None:
        met = self.find(heard.ids)
        ours = self.open_for(heard.test, flapping=bool(heard.flapping)) if heard.is_open else None
        if ours and ours not in met:
            older, younger = sorted((ours, heard), key=lambda known: known.began)
            if older is heard:
                self.put(incident.close(younger._replace(void=True, alert="", recovery=""), now))
                self.put(heard._replace(closed=None, held=now))
            return
        original(self, heard, now)

    original = ledger.Ledger.meet
    with mock.patch.object(ledger.Ledger, "meet", meet):
        yield


# Beyond the eight: each clause of rule R5 that WHY names, switched off.


@contextlib.contextmanager
def takes_refusals_for_success() -> Iterator[None]:
    came = world.Round._came

    def lie(self: world.Round, address: str, taken: bool) -> Callable[[], None]:
        return came(self, address, True)

    with mock.patch.object(world.Round, "_came", lie):
        yield


@contextlib.contextmanager
def forgets_that_nobody_hears_it() -> Iterator[None]:
    with mock.patch.object(election, "_come_before", lambda *_: False):
        yield


@contextlib.contextmanager
def waits_for_ever_for_who_does_not_list_it() -> Iterator[None]:
    why_not = election._why_not

    def patient(peer: election.Candidate, now: float, what: Incident | None) -> str:
        why = why_not(peer, now, what)
        return "" if why == "does not list it" else why

    with mock.patch.object(election, "_why_not", patient):
        yield


@contextlib.contextmanager
def echoes_itself() -> Iterator[None]:
    """A node's own daemon counts as a second witness."""

    def echo(own: Answer, answers: Sequence[Answer]) -> list[Answer]:
        heard: dict[str, Answer] = {}
        for answer in answers:
            heard.setdefault(
                answer.node_id + answer.node.name * (answer.node_id == own.node_id), answer
            )
        return list(heard.values())

    with counts_every_line_as_a_site(), mock.patch.object(verdict, "_one_for_each_node", echo):
        yield


@contextlib.contextmanager
def lists_what_is_over_by_its_end() -> Iterator[None]:
    """What was told more than an hour after its end is not listed any more, and nobody hears that it was told."""
    with mock.patch.object(incident, "changed_at", lambda known: known.closed):
        yield


# Blindness (rules R2, R7).


@contextlib.contextmanager
def counts_every_line_as_a_site() -> Iterator[None]:
    """A node of which a second line of nodes.txt names another site is in two places."""
    with mock.patch.object(verdict, "voting_sites", lambda *_: {}):
        yield


@contextlib.contextmanager
def takes_a_late_checker_for_a_good_one() -> Iterator[None]:
    """A node that is back passes before its first round, and fails again when its last one gets too old."""
    with (
        mock.patch.object(election, "living_limit", lambda presence: 300.0),
        mock.patch.object(election, "LIVING_GRACE", 240.0),
    ):
        yield


@contextlib.contextmanager
def forgets_what_it_complained_of() -> Iterator[None]:
    with mock.patch.object(health, "REPEAT_SECONDS", 0.0):
        yield


@contextlib.contextmanager
def takes_a_connection_for_a_living_checker() -> Iterator[None]:
    with (
        mock.patch.object(result, "STALE_SECONDS", 1e9),
        mock.patch.object(election, "living_limit", lambda presence: 1e9),
    ):
        yield


@contextlib.contextmanager
def asks_a_node_about_itself() -> Iterator[None]:
    """A node speaks of its own incident."""
    with mock.patch.object(election, "node_test", lambda name: None):
        yield


EIGHT = (
    marks_told_before_sending,
    counts_a_peer_twice,
    forgets_told_on_restart,
    lets_any_node_speak,
    mails_on_unconfirmed,
    keeps_told_by_test,
    closes_on_one_lost_answer,
    oldest_id_wins,
)
MORE = (
    takes_refusals_for_success,
    forgets_that_nobody_hears_it,
    waits_for_ever_for_who_does_not_list_it,
    echoes_itself,
    lists_what_is_over_by_its_end,
)
BLIND = (
    counts_every_line_as_a_site,
    takes_a_late_checker_for_a_good_one,
    forgets_what_it_complained_of,
    takes_a_connection_for_a_living_checker,
    asks_a_node_about_itself,
)
