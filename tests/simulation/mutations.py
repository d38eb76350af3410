"""The decision code broken on purpose: each mutation must be found by the simulator (test_simulation.py).

A mutation is a context in which one piece of the real code is replaced by another one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

from dmonitor import stay
from dmonitor.base import names
from dmonitor.config.silences import SilenceFile
from dmonitor.core import (
    behind,
    circles,
    conclusions,
    effects,
    election,
    health,
    incident,
    ledger,
    outbox,
    refusals,
    rest,
    result,
    round,
    silences,
    situation,
    story,
    telling,
    verdict,
    wants,
)
from dmonitor.core.model import (
    Acknowledgement,
    Answer,
    Incident,
    Judgement,
    Node,
    NodeStatus,
    Notification,
    Silence,
    Test,
    Verdict,
)

from . import old_node
from .node import SimNode
from .process import Stay
from .virtual_round import VirtualRound
from .world import World


@contextlib.contextmanager
def marks_told_before_sending() -> Iterator[None]:
    """What is handed over is stored as told first; a refusal takes it back, a crash does not."""
    original = VirtualRound._hand_over

    def hand_over(self: VirtualRound, effect: effects.HandOver) -> None:
        disk = self.node.disk
        for mail in effect.mails.values():
            for notification in mail:
                kinds = [notification.kind]
                told = incident.told(notification.incident, kinds, self.node.name, self.now())
                stored = disk.incidents[notification.incident.id]
                alert = stored.alert or told.alert
                recovery = stored.recovery or told.recovery
                disk.put(stored._replace(alert=alert, recovery=recovery))
        original(self, effect)

    with mock.patch.object(VirtualRound, "_hand_over", hand_over):
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
    """A node that boots does not know what was told."""
    original = World._boot

    def forgetful_boot(self: World, node: SimNode) -> None:
        for stored in list(node.disk.incidents.values()):
            node.disk.put(stored._replace(alert="", recovery=""))
        original(self, node)

    with mock.patch.object(World, "_boot", forgetful_boot):
        yield


@contextlib.contextmanager
def lets_any_node_speak() -> Iterator[None]:
    """Every node speaks for every incident."""

    def choose(me: NodeStatus, *_: object, **__: object) -> election.Choice:
        return election.Choice(me, "anybody speaks")

    with mock.patch.object(election, "choose", choose):
        yield


@contextlib.contextmanager
def mails_on_unconfirmed() -> Iterator[None]:
    """What nobody could confirm counts as DOWN."""
    original = verdict.decide

    def hasty(*arguments: Any, **options: Any) -> Judgement:
        judgement = original(*arguments, **options)
        if judgement.verdict is Verdict.UNCONFIRMED:
            return judgement._replace(verdict=Verdict.DOWN)
        return judgement

    with mock.patch.object(verdict, "decide", hasty):
        yield


@contextlib.contextmanager
def keeps_told_by_test() -> Iterator[None]:
    """What was told of a test's last incident counts for its next one."""
    original = ledger.Ledger.put

    def inherit(self: ledger.Ledger, new: Incident) -> None:
        if not self.find(new.ids):
            for earlier in self:
                if earlier.test == new.test and earlier.alert:
                    new = new._replace(alert=earlier.alert)
                    break
        original(self, new)

    with mock.patch.object(ledger.Ledger, "put", inherit):
        yield


@contextlib.contextmanager
def closes_on_one_lost_answer() -> Iterator[None]:
    """A site that is silent counts as passing at once."""
    with mock.patch.object(incident, "SILENT_SITE_GRACE", 0.0):
        yield


@contextlib.contextmanager
def oldest_id_wins() -> Iterator[None]:
    """Open incidents of one test that meet become the older one of them, whatever is known of its ids."""
    original = ledger.Ledger.meet

    def meet(self: ledger.Ledger, heard: Incident, now: float, peer: str = "") -> None:
        ours = None
        if heard.is_open:
            ours = self.open_for(heard.test, flapping=bool(heard.flapping))
        if ours is None or ours in self.find(heard.ids):
            original(self, heard, now, peer)
        elif heard.began < ours.began:
            self.put(incident.close(ours._replace(void=True, alert="", recovery=""), now))
            self.put(heard._replace(closed=None, held=now))

    with mock.patch.object(ledger.Ledger, "meet", meet):
        yield


# Beyond the eight: each clause of rule R5 that doc/design.md names, switched off.


@contextlib.contextmanager
def takes_refusals_for_success() -> Iterator[None]:
    """A mail that the MTA refuses counts as taken."""
    original = telling.Telling._store_outcome

    def store(self: telling.Telling, mail: Any, taken: bool | None) -> Any:
        return original(self, mail, taken is not None)

    with mock.patch.object(telling.Telling, "_store_outcome", store):
        yield


@contextlib.contextmanager
def forgets_that_nobody_hears_it() -> Iterator[None]:
    """A node that no peer can reach keeps its rank."""
    with mock.patch.object(election, "_peers_come_first", lambda *_: False):
        yield


@contextlib.contextmanager
def waits_for_ever_for_who_does_not_list_it() -> Iterator[None]:
    """A first node that never lists an incident keeps its rank for it."""
    with mock.patch.object(election, "_why_unheard", lambda peer, held: ""):
        yield


@contextlib.contextmanager
def echoes_itself() -> Iterator[None]:
    """A node's own daemon counts as a second witness."""

    def echo(own: Answer, answers: Sequence[Answer]) -> list[Answer]:
        heard: dict[str, Answer] = {}
        for answer in answers:
            voter = answer.node_id
            if answer.node_id == own.node_id:
                voter += answer.node.name
            heard.setdefault(voter, answer)
        return list(heard.values())

    with counts_every_line_as_a_site(), mock.patch.object(verdict, "_one_for_each_node", echo):
        yield


@contextlib.contextmanager
def lists_what_is_over_by_its_end() -> Iterator[None]:
    """What was told more than an hour after its end is not listed, and nobody hears that it was told."""
    with mock.patch.object(incident, "changed_at", lambda over: over.closed):
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
        mock.patch.object(election, "living_limit", lambda status: 420.0),
        mock.patch.object(election, "LIVING_GRACE", 360.0),
    ):
        yield


@contextlib.contextmanager
def forgets_what_it_complained_of() -> Iterator[None]:
    """A trouble is complained of in every round."""
    with mock.patch.object(health, "REPEAT_SECONDS", 0.0):
        yield


@contextlib.contextmanager
def takes_a_connection_for_a_living_checker() -> Iterator[None]:
    """A peer passes although its checker has not run for hours."""
    with (
        mock.patch.object(result, "STALE_SECONDS", 1e9),
        mock.patch.object(election, "living_limit", lambda status: 1e9),
    ):
        yield


@contextlib.contextmanager
def takes_a_changed_cron_for_a_dead_one() -> Iterator[None]:
    """A node whose cron is changed from one minute to five is stale before its first such round has ended."""
    with mock.patch.object(result, "STALE_SECONDS", 300.0):
        yield


@contextlib.contextmanager
def asks_a_node_about_itself() -> Iterator[None]:
    """A node speaks of its own incident, also if it has just been found DOWN."""
    with (
        waits_for_a_speaker_that_is_down(),
        mock.patch.object(election, "node_test", lambda name: None),
    ):
        yield


# Looks that fail, and time that is slept through (rules R3, R10).


@contextlib.contextmanager
def looks_once() -> Iterator[None]:
    """A round takes the first look that fails for a result, and a greeting that fails for a dead peer."""
    with mock.patch.object(World, "second_look", False):
        yield


@contextlib.contextmanager
def answers_after_one_look() -> Iterator[None]:
    """A daemon answers what its first look saw."""
    with mock.patch.object(World, "daemons_look_again", False):
        yield


@contextlib.contextmanager
def does_not_count_sleep() -> Iterator[None]:
    """A round that was suspended goes on as if no time had passed."""
    with mock.patch.object(World, "clocks_count_sleep", False):
        yield


# What closes and opens with whose word, and what is stale (rules R3, R4, R5).


@contextlib.contextmanager
def closes_without_those_it_cannot_hear() -> Iterator[None]:
    """A node that hears few sites closes by what these few see."""
    original = incident._silent_sites_that_count

    def few(held: Incident, judgement: Judgement) -> set[str]:
        return original(held, judgement).intersection(dict(held.failed))

    with mock.patch.object(incident, "_silent_sites_that_count", few):
        yield


@contextlib.contextmanager
def closes_with_those_that_cannot_tell() -> Iterator[None]:
    """A site that failed and cannot tell any more counts as one that does not fail."""

    def silent(judgement: Judgement) -> set[str]:
        everywhere = {answer.node.site for answer in judgement.answers} - {""}
        return everywhere - incident._heard_sites(judgement)

    with mock.patch.object(incident, "_undecided_sites", silent):
        yield


@contextlib.contextmanager
def waits_for_every_silent_site() -> Iterator[None]:
    """Nodes that have been dead for long keep every incident open."""

    def all_silent(held: Incident, judgement: Judgement) -> set[str]:
        everywhere = {answer.node.site for answer in judgement.answers}
        return everywhere - incident._heard_sites(judgement)

    with mock.patch.object(incident, "_silent_sites_that_count", all_silent):
        yield


@contextlib.contextmanager
def takes_a_ghost_for_fresh() -> Iterator[None]:
    """What a node holds that was away passes for what fails now."""

    with mock.patch.object(ledger.Ledger, "is_present", lambda *_: True):
        yield


@contextlib.contextmanager
def forgets_that_it_was_well() -> Iterator[None]:
    """What was seen to fail lately is present, although its test was well since then."""

    def present(self: ledger.Ledger, held: Incident, now: float) -> bool:
        return incident.is_fresh(held, self._slowest, now)

    with mock.patch.object(ledger.Ledger, "is_present", present):
        yield


@contextlib.contextmanager
def goes_on_with_what_is_over_elsewhere() -> Iterator[None]:
    """A node that is back takes what fails now for what failed before it went."""
    with mock.patch.object(conclusions.Conclusions, "_is_over_elsewhere", lambda *_: False):
        yield


@contextlib.contextmanager
def grants_a_slow_node_no_more() -> Iterator[None]:
    """What is over is listed for an hour, also if a node looks every two hours."""

    def fixed(seconds: float, slowest: int) -> float:
        return seconds

    with mock.patch.object(incident, "granted", fixed):
        yield


@contextlib.contextmanager
def goes_by_its_own_quorum() -> Iterator[None]:
    """Nodes that differ open and close by their own settings."""
    with (
        mock.patch.object(verdict, "quorum_that_holds", lambda own, *_: own),
        mock.patch.object(situation.Situation, "confirm", lambda self, test: self.config.confirm),
    ):
        yield


@contextlib.contextmanager
def tells_an_old_end_as_it_was() -> Iterator[None]:
    """A late recovery says UP while a newer incident is open."""
    original = story.stories_of

    def without_latest(told: Sequence[Notification], latest: object = ()) -> list[story.Story]:
        return original(told)

    with mock.patch.object(story, "stories_of", without_latest):
        yield


@contextlib.contextmanager
def keeps_an_end_back_although_it_is_down_again() -> Iterator[None]:
    """A recovery waits for a letter of its own, and a newer alert of the test leaves without it."""

    def is_too_soon(now: situation.Situation, over: Incident) -> bool:
        return now.clock.now() - telling._letter_at(over) < telling.LETTER_INTERVAL

    with mock.patch.object(telling, "_is_too_soon", is_too_soon):
        yield


@contextlib.contextmanager
def names_two_incidents_alike() -> Iterator[None]:
    """The second incident within ten minutes has the first one's Message-ID, and is dropped."""
    original = incident.name_minute

    def alike(minute: int, taken: object, ended: object) -> int:
        return original(minute, ())

    with mock.patch.object(conclusions, "name_minute", alike):
        yield


@contextlib.contextmanager
def forgets_the_name_before_it_was_united() -> Iterator[None]:
    """A node may have mailed an incident by the minute of this window, before it heard of another."""
    original = incident.name_minute

    def alike(minute: int, taken: Collection[int], ended: object) -> int:
        return original(minute, taken)

    with mock.patch.object(conclusions, "name_minute", alike):
        yield


@contextlib.contextmanager
def is_quiet_about_what_stays_down() -> Iterator[None]:
    """Flapping ends only when nothing has changed for a quarter of an hour."""
    with mock.patch.object(incident, "_is_down", lambda incidents: False):
        yield


@contextlib.contextmanager
def blames_a_checker_whose_machine_was_off() -> Iterator[None]:
    """Time in which a peer's machine was off counts as time without a round."""
    original = result._is_stale

    def stale(status: NodeStatus, age: float) -> bool:
        return original(status._replace(up=float("inf")), age)

    with mock.patch.object(result, "_is_stale", stale):
        yield


# Places and wakes (rules R5, R10).


@contextlib.contextmanager
def wakes_nobody() -> Iterator[None]:
    """Who holds something untold waits for the speaker's next round."""
    with mock.patch.object(telling.Telling, "_wake_speakers", lambda self: iter(())):
        yield


@contextlib.contextmanager
def wakes_who_knows_no_wake() -> Iterator[None]:
    """A node of an earlier version is sent a word that it does not know."""
    original = election.choose

    def choose(*arguments: Any, **facts: Any) -> election.Choice:
        choice = original(*arguments, **facts)
        if choice.speaker is None or choice.speaker == arguments[0]:
            return choice
        return choice._replace(speaker=choice.speaker._replace(wakes=True))

    with mock.patch.object(election, "choose", choose):
        yield


@contextlib.contextmanager
def wakes_before_it_stores() -> Iterator[None]:
    """The speaker is woken before it can hear what is to be told, which is stored much later."""
    original = round.run_round

    def run_round(*arguments: Any) -> round.RoundScript:
        script = original(*arguments)
        answer: Any = None
        kept: effects.Save | None = None
        while True:
            try:
                effect = script.send(answer)
            except StopIteration as end:
                if kept:
                    yield kept
                left: effects.RoundEnd = end.value
                return left
            if kept is None and isinstance(effect, effects.Save) and effect.incidents:
                kept, answer = effect, True
                continue
            if kept and isinstance(effect, effects.Save | effects.HandOver | effects.Greet):
                yield kept
                kept = None
            answer = yield effect

    with mock.patch.object(round, "run_round", run_round):
        yield


@contextlib.contextmanager
def tells_what_it_holds_when_woken() -> Iterator[None]:
    """A woken round greets nobody before it tells."""

    def observe(self: VirtualRound, _: effects.Observe) -> None:
        me = Node(self.node.name, self.node.site)
        observation = effects.Observation(me, {}, (), frozenset())
        self._after(0.0, lambda: self.resume(observation))

    with mock.patch.object(VirtualRound, "_observe_peers", observe):
        yield


@contextlib.contextmanager
def counts_a_wake_as_a_round() -> Iterator[None]:
    """A woken round counts as one that has begun, so that the measured interval shrinks."""
    original = round.run_woken

    def run_woken(
        config: effects.RoundConfig, memory: effects.Memory, *others: Any
    ) -> round.RoundScript:
        begins = (*memory.node.begins, others[0].now())[-6:]
        node_memory = memory.node._replace(begins=begins)
        yield effects.Save(node=node_memory)
        end = yield from original(config, memory._replace(node=node_memory), *others)
        return end

    with mock.patch.object(round, "run_woken", run_woken):
        yield


@contextlib.contextmanager
def drops_a_wake_that_comes_too_soon() -> Iterator[None]:
    """Who stays does not hear of a wake that came while its round ran."""
    original = Stay.begin

    def begin(self: Stay) -> None:
        self.node.is_rung = False
        original(self)

    with mock.patch.object(Stay, "begin", begin):
        yield


@contextlib.contextmanager
def looks_as_often_as_it_is_woken() -> Iterator[None]:
    """A liar makes a node look all the time."""
    with mock.patch.object(stay, "next_look", lambda looks: 0.0):
        yield


@contextlib.contextmanager
def begins_with_its_cron() -> Iterator[None]:
    """All nodes look at the same time."""
    with mock.patch.object(situation.Situation, "place", lambda self: 0.0):
        yield


@contextlib.contextmanager
def waits_for_a_speaker_that_is_down() -> Iterator[None]:
    """A speaker that was greeted lately counts as living, although this round finds it DOWN."""
    with mock.patch.object(situation.Situation, "candidates", old_node.candidates):
        yield


@contextlib.contextmanager
def takes_a_wake_for_the_next_round() -> Iterator[None]:
    """What a round has heard is told by the woken one after it, which has not asked about it."""
    original = round.run_woken

    def run_woken(
        config: effects.RoundConfig, memory: effects.Memory, *others: Any
    ) -> round.RoundScript:
        begins = (*memory.node.begins[:-1], others[0].now())
        forgetful = memory._replace(node=memory.node._replace(begins=begins))
        return original(config, forgetful, *others)

    with mock.patch.object(round, "run_woken", run_woken):
        yield


@contextlib.contextmanager
def waits_for_who_lists_it() -> Iterator[None]:
    """A node that lists an incident keeps its rank, although it never tells it."""
    with mock.patch.object(election, "_pass_over", lambda order, *_: order):
        yield


def _largest(own: int, stated: Iterable[int]) -> int:
    return max([own, *stated])


@contextlib.contextmanager
def waits_for_as_long_as_one_node_claims() -> Iterator[None]:
    """The longest interval that any node states holds."""
    with mock.patch.object(election, "interval_that_holds", _largest):
        yield


@contextlib.contextmanager
def waits_whenever_something_is_said_to_be_told() -> Iterator[None]:
    """A recovery waits for the last mail about its incident that any node states."""
    with mock.patch.object(telling, "_letter_at", lambda over: over.told_at):
        yield


@contextlib.contextmanager
def takes_hearsay_for_fact() -> Iterator[None]:
    """What one peer alone states counts as if this node had seen it."""
    original = ledger.Ledger.meet

    def meet(self: ledger.Ledger, heard: Incident, now: float, peer: str = "") -> bool:
        return original(self, heard._replace(heard_from=""), now)

    with mock.patch.object(ledger.Ledger, "meet", meet):
        yield


@contextlib.contextmanager
def takes_the_relay_for_a_witness() -> Iterator[None]:
    """Hearsay that another node repeats counts as that node's own."""
    original = ledger.Ledger.meet

    def meet(self: ledger.Ledger, heard: Incident, now: float, peer: str = "") -> bool:
        return original(self, heard._replace(heard_from=""), now, peer)

    with mock.patch.object(ledger.Ledger, "meet", meet):
        yield


@contextlib.contextmanager
def lets_one_node_decide_for_all() -> Iterator[None]:
    """The largest quorum and confirm that any node states holds."""
    with mock.patch.object(verdict, "setting_that_holds", _largest):
        yield


# Hand-overs that take long, and refusals (rules R5, R6).


@contextlib.contextmanager
def forgets_what_it_hands_over() -> Iterator[None]:
    """A mail that takes long is handed over again by the next round."""
    with mock.patch.object(telling, "_handing", lambda *_: []):
        yield


@contextlib.contextmanager
def tells_what_another_one_hands_over() -> Iterator[None]:
    """A node that has not told an incident after its turn is passed over, whatever it says."""
    with mock.patch.object(election, "_is_handing", lambda *_: False):
        yield


@contextlib.contextmanager
def tells_what_a_node_hands_over_that_is_late() -> Iterator[None]:
    """A node that has missed a round does not count, although its mail is on its way."""
    original = election._is_handing

    def is_handing(peer: election.Candidate, *others: Any) -> bool:
        is_late = bool(election._why_silent(peer.status, peer.status.at))
        return not is_late and original(peer, *others)

    with mock.patch.object(election, "_is_handing", is_handing):
        yield


@contextlib.contextmanager
def ends_all_turns_at_a_death() -> Iterator[None]:
    """When the speaker is found DOWN, the turns of all others have been over for long."""
    with mock.patch.object(situation.Situation, "down_since", lambda self: float("-inf")):
        yield


@contextlib.contextmanager
def ends_all_turns_when_a_site_dies() -> Iterator[None]:
    """The same if no quorum is left that could say so."""
    with mock.patch.object(situation.Situation, "note_unconfirmed", lambda *_: None):
        yield


@contextlib.contextmanager
def lets_an_alert_come_last() -> Iterator[None]:
    """A recovery is not owed again although this node's alert may have come after it."""
    original = telling.Telling._owe_recoveries_again

    def owe(self: telling.Telling, mail: Sequence[Notification], since: float) -> None:
        ours = self._situation.me.name
        original(self, [each for each in mail if each.incident.alert != ours], since)

    with mock.patch.object(telling.Telling, "_owe_recoveries_again", owe):
        yield


@contextlib.contextmanager
def leaves_it_at_still_down() -> Iterator[None]:
    """The end of one of two incidents was told while the other was open; they are one, and it is told."""
    with mock.patch.object(ledger, "_said_still_down", lambda ours: False):
        yield


@contextlib.contextmanager
def gives_up_before_it_has_looked_after() -> Iterator[None]:
    """After ten minutes another node tells what a node hands over that has had no round since."""
    with mock.patch.object(election, "_handed_for", lambda *_: 600.0):
        yield


@contextlib.contextmanager
def takes_what_goes_on_for_refused() -> Iterator[None]:
    """What takes longer than a round waits for is refused, although it goes on."""
    original = telling.Telling._store_outcome

    def store(self: telling.Telling, mail: Any, taken: bool | None) -> Any:
        return original(self, mail, bool(taken))

    with mock.patch.object(telling.Telling, "_store_outcome", store), forgets_what_it_hands_over():
        yield


@contextlib.contextmanager
def looks_after_nothing() -> Iterator[None]:
    """What became of a mail that took long is never found out."""
    with mock.patch.object(telling, "_outcomes_of", lambda *_: {}):
        yield


@contextlib.contextmanager
def counts_old_refusals_for_ever() -> Iterator[None]:
    """What a mail system refused this morning still decides who speaks tonight."""
    with mock.patch.object(telling.Telling, "forget_refusals", lambda self: None):
        yield


# Hooks (rules R5, R6).


@contextlib.contextmanager
def runs_no_hook_without_a_mail() -> Iterator[None]:
    """While all mail systems refuse, the hooks wait."""
    with mock.patch.object(election, "_are_all_refused", lambda order: False):
        yield


@contextlib.contextmanager
def runs_hooks_before_any_mail() -> Iterator[None]:
    """A hook tells what another node's mail system may take."""
    with mock.patch.object(election, "_are_all_refused", lambda order: True):
        yield


@contextlib.contextmanager
def takes_a_hook_for_the_mail_system() -> Iterator[None]:
    """What a hook takes, the mail system has taken."""
    original = refusals.RefusalMemory.count

    def count(
        self: refusals.RefusalMemory, told: Mapping[str, refusals.Outcome], *, was_first: bool
    ) -> None:
        original(
            self, {each.removeprefix("hook:"): told[each] for each in told}, was_first=was_first
        )

    with mock.patch.object(refusals.RefusalMemory, "count", count):
        yield


@contextlib.contextmanager
def forgets_that_it_runs_hooks() -> Iterator[None]:
    """A hook that takes it after its round tells nothing, so it is run again."""
    with mock.patch.object(telling, "_runs_hooks", lambda hand_over: False):
        yield


@contextlib.contextmanager
def owes_no_mail_that_a_hook_has_told() -> Iterator[None]:
    """What a hook has told no address is owed any more."""
    original = outbox.Outbox.take

    def take(self: outbox.Outbox, mail: outbox.Mail) -> outbox.Taken:
        taken = original(self, mail)
        if not names.is_hook(mail[0].address):
            return taken
        self._owed = {key: each for key, each in self._owed.items() if each not in taken.owed}
        return taken._replace(owed=())

    with mock.patch.object(outbox.Outbox, "take", take):
        yield


# Tests that rest (rules R1, R3).


@contextlib.contextmanager
def lets_nothing_rest() -> Iterator[None]:
    """A test with EVERY is looked at in each round."""
    with mock.patch.object(rest, "resting_tests", lambda *_: frozenset()):
        yield


@contextlib.contextmanager
def lets_rest_what_fails() -> Iterator[None]:
    """A test rests until it is its node's turn, whatever the last look has seen."""
    with mock.patch.object(rest, "_passes", lambda *_: True):
        yield


@contextlib.contextmanager
def takes_all_turns_at_once() -> Iterator[None]:
    """All nodes look at a test at the same time, once in its EVERY."""
    with mock.patch.object(rest, "_share", lambda *_: 0.0):
        yield


@contextlib.contextmanager
def forgets_a_tests_own_confirm() -> Iterator[None]:
    """A test's own CONFIRM does not count."""
    original = situation.Situation.confirm

    def confirm(self: situation.Situation, test: Test) -> int:
        with mock.patch.object(self, "config", self.config._replace(confirmations={})):
            return original(self, test)

    with mock.patch.object(situation.Situation, "confirm", confirm):
        yield


@contextlib.contextmanager
def tells_what_is_behind() -> Iterator[None]:
    """What stands behind a router that is DOWN is told by itself."""
    with mock.patch.object(behind, "is_hidden", lambda *_, **__: False):
        yield


@contextlib.contextmanager
def hides_what_stays_down() -> Iterator[None]:
    """What still fails after a router has come back is not told."""
    original = behind.is_hidden

    def is_hidden(incident: Incident, *arguments: Any, **facts: Any) -> bool:
        return original(incident._replace(seen=float("-inf")), *arguments, **facts)

    with (
        mock.patch.object(behind, "is_hidden", is_hidden),
        mock.patch.object(behind, "_NEXT_LOOK", float("inf")),
    ):
        yield


@contextlib.contextmanager
def tells_what_has_no_look_of_its_own() -> Iterator[None]:
    """When a router has come back, it counts that what is behind it failed in the same looks."""
    original = behind.is_hidden

    def is_hidden(incident: Incident, *arguments: Any, **facts: Any) -> bool:
        return original(incident._replace(seen=float("inf")), *arguments, **facts)

    with mock.patch.object(behind, "is_hidden", is_hidden):
        yield


@contextlib.contextmanager
def lets_rest_what_is_to_be_confirmed() -> Iterator[None]:
    """A row of DOWN verdicts breaks off, because the next look waits for its RETRY."""
    with mock.patch.object(rest, "_tests_in_a_row", lambda *_: set()):
        yield


@contextlib.contextmanager
def lets_rest_what_has_an_incident() -> Iterator[None]:
    """Who has only heard that a test is DOWN does not look at it before its own turn."""
    with mock.patch.object(rest, "_tests_with_incident", lambda *_: set()):
        yield


REST = (
    lets_nothing_rest,
    lets_rest_what_fails,
    takes_all_turns_at_once,
    lets_rest_what_is_to_be_confirmed,
    lets_rest_what_has_an_incident,
)
PLACES = (tells_what_is_behind, hides_what_stays_down, tells_what_has_no_look_of_its_own)


@contextlib.contextmanager
def heeds_no_silence() -> Iterator[None]:
    """What an operator silences is told all the same."""
    with mock.patch.object(silences.Silences, "cover", lambda *_: False):
        yield


@contextlib.contextmanager
def states_hours_without_their_end() -> Iterator[None]:
    """Peers hear of hours that they are a silence, and not until when."""
    original = SilenceFile.silence

    def endless(self: SilenceFile, now: float) -> Silence | None:
        silence = original(self, now)
        if silence and any(term.hours for term in self.terms):
            silence = silence._replace(until=None)
        return silence

    with mock.patch.object(SilenceFile, "silence", endless):
        yield


@contextlib.contextmanager
def reminds_of_what_is_acknowledged() -> Iterator[None]:
    """A reminder is due whoever is on it."""
    original = incident.is_reminder_due

    def is_due(held: Incident, remind: float, now: float) -> bool:
        return original(held._replace(acknowledged=None), remind, now)

    with mock.patch.multiple(telling, is_reminder_due=is_due):
        yield


@contextlib.contextmanager
def acknowledges_what_comes_later() -> Iterator[None]:
    """A file that is still there acknowledges what begins after it was written."""
    original = Acknowledgement.covers

    def covers(self: Acknowledgement, held: Incident) -> bool:
        return original(self._replace(written=float("inf")), held)

    with mock.patch.object(Acknowledgement, "covers", covers):
        yield


@contextlib.contextmanager
def keeps_an_acknowledgement_to_itself() -> Iterator[None]:
    """What a peer states of an acknowledgement is not taken in."""
    original = ledger.Ledger.meet

    def meet(self: ledger.Ledger, heard: Incident, now: float, peer: str = "") -> bool:
        return original(self, heard._replace(acknowledged=None), now, peer)

    with mock.patch.object(ledger.Ledger, "meet", meet):
        yield


@contextlib.contextmanager
def holds_back_what_is_acknowledged() -> Iterator[None]:
    """What is acknowledged is silenced, and so is its recovery."""
    original = situation.Situation.is_silenced

    def is_silenced(self: situation.Situation, held: Incident) -> bool:
        return held.acknowledged is not None or original(self, held)

    with mock.patch.object(situation.Situation, "is_silenced", is_silenced):
        yield


@contextlib.contextmanager
def forgets_who_told_of_an_acknowledgement() -> Iterator[None]:
    """What a peer states of having told it is not taken in."""
    original = ledger.Ledger.meet

    def meet(self: ledger.Ledger, heard: Incident, now: float, peer: str = "") -> bool:
        return original(self, heard._replace(ack=""), now, peer)

    with mock.patch.object(ledger.Ledger, "meet", meet):
        yield


QUIET = (
    forgets_who_told_of_an_acknowledgement,
    heeds_no_silence,
    states_hours_without_their_end,
    reminds_of_what_is_acknowledged,
    acknowledges_what_comes_later,
    keeps_an_acknowledgement_to_itself,
    holds_back_what_is_acknowledged,
)
HOOKED = (
    runs_no_hook_without_a_mail,
    runs_hooks_before_any_mail,
    takes_a_hook_for_the_mail_system,
    forgets_that_it_runs_hooks,
    owes_no_mail_that_a_hook_has_told,
)
LONG = (
    forgets_what_it_hands_over,
    tells_what_another_one_hands_over,
    tells_what_a_node_hands_over_that_is_late,
    ends_all_turns_at_a_death,
    ends_all_turns_when_a_site_dies,
    lets_an_alert_come_last,
    gives_up_before_it_has_looked_after,
    leaves_it_at_still_down,
    takes_what_goes_on_for_refused,
    looks_after_nothing,
    counts_old_refusals_for_ever,
)


@contextlib.contextmanager
def tells_everybody_everything() -> Iterator[None]:
    """ONLY and NOT do nothing."""
    with mock.patch.object(wants.Audience, "wants", lambda *_: True):
        yield


@contextlib.contextmanager
def heeds_no_hours() -> Iterator[None]:
    """HOURS does nothing."""
    with mock.patch.object(wants.Audience, "is_outside_hours", lambda *_: False):
        yield


@contextlib.contextmanager
def waits_for_nothing_to_last() -> Iterator[None]:
    """AFTER does nothing."""
    original = situation.Situation._is_due_for

    def is_due(self: situation.Situation, known: Incident, name: str, _: float, now: float) -> bool:
        return original(self, known, name, 0.0, now)

    with mock.patch.object(situation.Situation, "_is_due_for", is_due):
        yield


@contextlib.contextmanager
def keeps_to_itself_what_a_circle_was_told() -> Iterator[None]:
    """A node takes no peer's word for what those were told who are told later."""
    with mock.patch.object(ledger, "_merge_circles", lambda ours, _: ours.circles):
        yield


@contextlib.contextmanager
def says_still_down_to_who_is_not_told_of_it() -> Iterator[None]:
    """A late end says STILL DOWN also to those who are never told of what is DOWN now."""
    with mock.patch.object(situation.Situation, "_is_down_again", lambda *_: False):
        yield


@contextlib.contextmanager
def takes_hours_for_turns() -> Iterator[None]:
    """What is held until somebody's hours begin is late then: each node's turn is over."""

    def due_since(view: Incident, quiet_ended: object) -> float:
        return view.held

    with mock.patch.object(telling, "_due_since", due_since):
        yield


@contextlib.contextmanager
def tells_a_circle_of_the_end_only() -> Iterator[None]:
    """The end is told to all, also to those who were not told the beginning."""

    def widen(self: situation.Situation) -> None:
        for name in self.audience.after:
            for known in list(self.ledger):
                is_told = any(circle.name == name for circle in known.circles)
                if known.closed and known.recovery and not is_told:
                    wider = circles.widen(known, name, self.clock.now())
                    view = circles.view_for(wider, name)._replace(alert=known.alert)
                    self.ledger.put(circles.fold(wider, view))
        original(self)

    original = situation.Situation.widen
    with mock.patch.object(situation.Situation, "widen", widen):
        yield


@contextlib.contextmanager
def escalates_what_somebody_is_on() -> Iterator[None]:
    """An acknowledged incident is told after a while all the same."""
    original = situation.Situation._is_due_for

    def is_due(
        self: situation.Situation, known: Incident, name: str, after: float, now: float
    ) -> bool:
        return original(self, known._replace(acknowledged=None), name, after, now)

    with mock.patch.object(situation.Situation, "_is_due_for", is_due):
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
    takes_a_changed_cron_for_a_dead_one,
    asks_a_node_about_itself,
)
LOOKS = (looks_once, answers_after_one_look, does_not_count_sleep, forgets_a_tests_own_confirm)
TRUE = (
    closes_without_those_it_cannot_hear,
    closes_with_those_that_cannot_tell,
    waits_for_every_silent_site,
    takes_a_ghost_for_fresh,
    forgets_that_it_was_well,
    goes_on_with_what_is_over_elsewhere,
    grants_a_slow_node_no_more,
    goes_by_its_own_quorum,
    tells_an_old_end_as_it_was,
    keeps_an_end_back_although_it_is_down_again,
    names_two_incidents_alike,
    forgets_the_name_before_it_was_united,
    is_quiet_about_what_stays_down,
    blames_a_checker_whose_machine_was_off,
)
LIAR = (
    waits_for_who_lists_it,
    waits_for_as_long_as_one_node_claims,
    waits_whenever_something_is_said_to_be_told,
    takes_hearsay_for_fact,
    takes_the_relay_for_a_witness,
    lets_one_node_decide_for_all,
)
WOKEN = (
    wakes_nobody,
    wakes_who_knows_no_wake,
    wakes_before_it_stores,
    tells_what_it_holds_when_woken,
    counts_a_wake_as_a_round,
    drops_a_wake_that_comes_too_soon,
    looks_as_often_as_it_is_woken,
    begins_with_its_cron,
    waits_for_a_speaker_that_is_down,
    takes_a_wake_for_the_next_round,
)
CHOOSY = (
    tells_everybody_everything,
    heeds_no_hours,
    waits_for_nothing_to_last,
    keeps_to_itself_what_a_circle_was_told,
    says_still_down_to_who_is_not_told_of_it,
    takes_hours_for_turns,
    tells_a_circle_of_the_end_only,
    escalates_what_somebody_is_on,
)
