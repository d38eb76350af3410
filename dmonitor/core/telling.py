"""When a round hands over what it has to tell, and what follows from each outcome (rules R5, R6).

Pure. `election` decides which node speaks; `outbox` knows which notification goes to whom.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.core import circles, election, refusals
from dmonitor.core.effects import Greet, HandOver, LookAfter, Save, Wait, Wake
from dmonitor.core.incident import is_reminder_due, is_untold, owed, told
from dmonitor.core.ledger import AGAIN_LIMIT
from dmonitor.core.model import HAND_OVER_LIMIT, Handing, Incident, Kind, Notification, Quiet, Test
from dmonitor.core.outbox import Mail, Outbox
from dmonitor.core.refusals import Outcome
from dmonitor.core.situation import Situation, Steps

GREETINGS_END = 36.0  # seconds of the round, after which no greeting begins
GREETING_INTERVAL = 10.0  # seconds from one greeting of all peers to the next
# Seconds from an alert to its recovery, if that is another mail: a mail system that stands takes
# both, and may deliver them in any order. A little less than a minute, so that the round a minute
# later need not wait.
LETTER_INTERVAL = 55.0
# Seconds by which a hand-over is ended late. One that goes on after that is not looked after.
_ENDED_LATE = 60.0


class _Due(NamedTuple):
    """What this node has to tell of one incident."""

    incident: Incident  # by the eyes of those who are to be told
    kinds: tuple[Kind, ...]
    by_hooks: bool  # the hooks are run at once, and do not wait until a mail is taken


class Telling:
    """The telling of one round: greet again, hand over, greet again."""

    def __init__(self, situation: Situation, outbox: Outbox, fresh_id: Callable[[], str]) -> None:
        self._situation = situation
        self._outbox = outbox
        self._fresh_id = fresh_id
        # When an alert was taken by an address that was not the first one to take it, by the id of
        # its incident, and the circle; of this hand-over.
        self._taken_again: dict[tuple[str, str], float] = {}
        # Whether every mail that was handed over in this round was taken.
        self.all_taken = True
        self._refusals = refusals.RefusalMemory(situation)
        # When the peers were greeted last, in seconds of the round.
        self._greeted_at = 0.0
        # Why speakers were chosen: each reason is logged once.
        self._reasons: set[str] = set()
        # The ids of the peers that are to tell what this node holds, as of the last hand-over.
        self._speakers: set[str] = set()
        # Whether this round tests. What has only been woken does not say STILL DOWN: the next round
        # may see in a moment that it is over.
        self._reminds = True

    def run(self) -> Steps:
        """Hand over what this node has to tell; stay while a peer may still find something.

        The peers must have been heard a moment ago, because another may have told it meanwhile.
        """
        situation = self._situation
        is_fresh = situation.clock.elapsed() < GREETING_INTERVAL
        if is_fresh or not self._greets_again():
            yield from self._hand_over()
            yield from self._wake_speakers()
        while self._greets_again():
            next_greeting = self._greeted_at + GREETING_INTERVAL
            yield Wait(max(0.0, next_greeting - situation.clock.elapsed()))
            if situation.has_slept():
                return
            self._greeted_at = situation.clock.elapsed()
            contacts = yield Greet(tuple(situation.ledger))
            if situation.has_slept():
                return
            situation.hear(contacts)
            yield from situation.store(Save())
            yield from self._hand_over()
            yield from self._wake_speakers()

    def run_once(self) -> Steps:
        """Hand over what this node has to tell, and do not stay: it has been woken for that.

        Its next round may be due in a moment, and must not wait for long. Whoever holds something
        untold wakes the speaker again.
        """
        self._reminds = False
        yield from self._hand_over()
        yield from self._wake_speakers()

    def _wake_speakers(self) -> Steps:
        """Wake the peers that are to tell what this node holds: their own rounds may be over."""
        if self._speakers:
            yield Wake(frozenset(self._speakers))

    def _greets_again(self) -> bool:
        """Return whether this round greets the peers once more.

        A node that knows of something untold does, because it has to hear that it is told. If it
        has woken the speaker, and that was lost, it tries again.
        """
        situation = self._situation
        next_greeting = max(situation.clock.elapsed(), self._greeted_at + GREETING_INTERVAL)
        if next_greeting > GREETINGS_END:
            return False
        if not situation.contacts or situation.config.once:
            return False
        return situation.holds_untold()

    def _hand_over(self) -> Steps:
        """Hand over what is due, and what is left in the outbox.

        Each address gets one mail. What is handed over is stored before it leaves, so that nobody
        repeats it. Each outcome is stored before the next one is awaited. In a round that slept
        nothing is due: another node may have told it meanwhile.
        """
        situation, outbox = self._situation, self._outbox
        if situation.has_slept():
            return
        yield from self._look_after()
        situation.widen()
        now = situation.clock.now()
        mails = outbox.make_mails(
            self._due_notifications(),
            situation.ledger.find,
            situation.is_quiet,
            refusals.resting(situation.node_memory, now),
        )
        if not mails:
            return
        telling = {address for address, mail in mails.items() if outbox.tells(mail)}
        was_first = situation.is_first()
        earlier = situation.node_memory.handing
        name = self._fresh_id()
        yield from self._store_handing((*earlier, *_handing(mails, now, name)))
        told_of = {each.incident.test for mail in mails.values() for each in mail}
        behind = situation.hidden_behind(told_of)
        hand_over = HandOver(mails, self._latest(mails), name, behind)
        outcomes: dict[str, Outcome] = {}
        for _ in mails:
            address, outcomes[address] = yield hand_over
            yield from self._store_outcome(mails[address], outcomes[address])
        yield from self._store_taken_again()
        if not situation.has_slept():  # a mail system that was asleep has refused nothing
            told_now = {address: outcomes[address] for address in telling}
            self._refusals.count(told_now, was_first=was_first)
        going_on = {address: mails[address] for address in mails if outcomes[address] is None}
        yield from self._store_handing((*earlier, *_handing(going_on, now, name)))
        if outbox.owes_untried_hooks():
            yield from self._hand_over()

    def _look_after(self) -> Steps:
        """Store what became of the hand-overs that had no outcome yet, as if they ended now."""
        situation = self._situation
        handing = situation.node_memory.handing
        self._outbox.handing = _by_address(handing)
        if not handing:
            return
        ended = yield LookAfter(handing)
        left = []
        for hand_over in handing:
            outcomes = _outcomes_of(hand_over, ended, situation.clock.now())
            yield from self._store_late(hand_over, outcomes)
            running = tuple(each for each in hand_over.addresses if each not in outcomes)
            if running:
                left.append(hand_over._replace(addresses=running))
        if left != list(handing):
            yield from self._store_handing(left)

    def _store_late(self, hand_over: Handing, outcomes: Mapping[str, Outcome]) -> Steps:
        """Store the `outcomes` of mails that were handed over earlier, by the address.

        A mail that has left has told its reader, also if nobody is owed it any more.
        """
        ledger, outbox = self._situation.ledger, self._outbox
        remind = self._situation.config.remind
        audience = self._situation.audience
        handed: dict[str, list[tuple[Incident, Kind]]] = {}  # by circle
        for circle in sorted(set(map(audience.circle_of, hand_over.addresses))):
            views = handed.setdefault(circle, [])
            for incident_id, kind in hand_over.notifications:
                for incident in ledger.find([incident_id]):
                    views.append((circles.view_for(incident, circle), kind))
        untold = []
        by_hooks = _runs_hooks(hand_over)
        for view, kind in itertools.chain.from_iterable(handed.values()):
            if is_untold(view, kind, remind, hand_over.since):
                untold.append(_Due(view, (kind,), by_hooks))
        outbox.tell(self._notifications(untold), ledger.find)
        was_first = self._situation.is_first()
        telling = set()
        for address, taken in outcomes.items():
            views = handed[audience.circle_of(address)]
            mail = [Notification(kind, view, address) for view, kind in views]
            if outbox.tells(mail):
                telling.add(address)
            if taken:
                self._owe_recoveries_again(mail, hand_over.since)
            yield from self._store_outcome(mail, taken, is_late=True)
        yield from self._store_taken_again()
        told = {address: outcomes[address] for address in telling}
        self._refusals.count(told, was_first=was_first)

    def _owe_recoveries_again(self, mail: Mail, since: float) -> None:
        """Owe the recovery again of an alert in `mail` if another node has told both `since` then.

        The two nodes did not hear each other, or another address has had the alert for long. The
        reader may have got the alert last.
        """
        ours = self._situation.me.name
        for notification in mail:
            incident = notification.incident
            if notification.kind is not Kind.ALERT or ours == incident.recovery:
                continue
            overtook = incident.recovery and incident.told_at >= since
            if overtook and incident.again < AGAIN_LIMIT:
                again = incident.again + 1
                self._situation.ledger.put(
                    incident._replace(recovery="", recovery_stated_by="", again=again)
                )

    def _store_handing(self, handing: Iterable[Handing]) -> Steps:
        """Store which hand-overs have no outcome yet, and what has been refused."""
        situation = self._situation
        situation.node_memory = situation.node_memory._replace(handing=tuple(handing))
        self._outbox.handing = _by_address(situation.node_memory.handing)
        yield from situation.store(Save(node=situation.node_memory))

    def _store_outcome(self, mail: Mail, taken: Outcome, *, is_late: bool = False) -> Steps:
        """Store that `mail` was taken, or refused; nothing if that is not known."""
        if taken is None or not mail:
            return
        situation = self._situation
        self._refusals.note(mail[0].address, taken=taken)
        if taken:
            yield from self._store_taken(mail, is_late=is_late)
            return
        self.all_taken = False
        still_owed = self._outbox.refuse(mail)
        if still_owed:
            yield from situation.store(Save(outbox=still_owed))

    def forget_refusals(self) -> None:
        """Forget refusals that say nothing of now."""
        self._refusals.forget_old(self._outbox.owed_addresses())

    def _latest(self, mails: Mapping[str, Mail]) -> tuple[Incident, ...]:
        """Return the open incidents of each test that a mail is about; one may be its flapping.

        What is told late must not read as if the test were well, because a newer incident is open.
        """
        ledger = self._situation.ledger
        # In the order of the mails, and each test once: many addresses are mailed about the same.
        tests: dict[Test, None] = {}
        for mail in mails.values():
            tests |= dict.fromkeys(notification.incident.test for notification in mail)
        latest = {}
        for test in tests:
            for incident in (ledger.open_for(test), ledger.open_for(test, flapping=True)):
                if incident:
                    latest[incident.id] = incident
        return tuple(latest.values())

    def _due_notifications(self) -> list[Notification]:
        """Return what this node has to tell now, for each address and hook that is to tell it."""
        _note_quiet(self._situation)
        _note_silenced(self._situation)
        return self._notifications(self._due(_quiet_ended(self._situation)))

    def _notifications(self, due: Iterable[_Due]) -> list[Notification]:
        """Return what is `due` for each address that wants it, by the eyes of its circle.

        A hook gets what a mail has told, so it is owed that later. If no mail system may take it,
        or if nobody is mailed, the hooks themselves are told.
        """
        quiet_ended = _quiet_ended(self._situation)
        now = self._situation.clock.now()
        config, refused = self._situation.config, self._situation.node_memory.refused
        audience = self._situation.audience
        told: dict[str, list[Notification]] = {address: [] for address in config.addresses}
        for view, kinds, by_hooks in due:
            recipients = audience.recipients(view.test, view.circle, by_hooks=by_hooks)
            for kind in kinds:
                since = _due_since(view, quiet_ended)
                if kind is Kind.REMINDER:
                    since = now
                elif kind is Kind.ALERT and not view.is_open:
                    # It has waited for longer than its recovery, which is held since the end.
                    began = circles.since(view) or view.began
                    since = max(began, quiet_ended.get((view.id, view.circle), 0.0))
                for address in recipients:
                    told[address].append(Notification(kind, view, address, since, refused))
        return list(itertools.chain.from_iterable(told.values()))

    def _due(self, quiet_ended: Mapping[tuple[str, str], float]) -> list[_Due]:
        """Return the incidents of which this node has to tell something now, and what.

        Each stands there by the eyes of those who are to be told. What nobody wants is not told.
        """
        situation = self._situation
        status, now = situation.status(), situation.clock.now()
        peers = situation.candidates()
        slowest = situation.node_memory.interval_that_holds()
        down_since = situation.down_since()
        self._speakers = set()
        due = []
        for incident in _all_views(situation):
            kinds = owed(incident)
            if self._reminds and is_reminder_due(incident, situation.config.remind, now):
                kinds = (Kind.REMINDER,)
            if not kinds or incident.test not in situation.tests:
                continue
            if not situation.audience.is_told(incident) or _must_wait(situation, incident):
                continue
            since = _due_since(incident, quiet_ended)
            choice = election.choose(
                status,
                peers,
                now,
                incident,
                due_since=since,
                refusals=situation.node_memory.refusals,
                slowest=slowest,
                down_since=down_since,
            )
            self._note_choice(incident, choice)
            if choice.speaker == status:
                due.append(_Due(incident, kinds, choice.all_refused))
            elif choice.speaker and choice.speaker.wakes and Kind.REMINDER not in kinds:
                self._speakers.add(choice.speaker.node_id)
        return due

    def _note_choice(self, incident: Incident, choice: election.Choice) -> None:
        """Log which node speaks if the reason is new, and if nobody can be mailed at all.

        A peer may have every second test: the reasons change with the incidents.
        """
        note = self._situation.note
        if choice.reason in self._reasons:
            return
        self._reasons.add(choice.reason)
        note("info", "speaker-chosen", reason=choice.reason, incident=incident.id)
        if choice.speaker is None and not self._situation.config.addresses:
            note(
                "warning",
                "no-address",
                test=str(incident.test),
                reason="nobody can be mailed: alert.d names no address",
            )

    def _store_taken(self, mail: Mail, *, is_late: bool) -> Steps:
        """Store that `mail` was taken, and what this node owes to the others from now on.

        An alert says who is on it, unless it was made before that was known: what is told late.
        """
        situation = self._situation
        taken = self._outbox.take(mail)
        now = situation.clock.now()
        remind = situation.config.remind
        for (incident_id, circle), kinds in taken.told.items():
            view = self._find(incident_id, circle)
            if Kind.ALERT in kinds and view.acknowledged is not None and not is_late:
                kinds = [*kinds, Kind.ACK]
            situation.ledger.put(told(view, kinds, situation.me.name, now, remind))
        for notification in mail:
            key = notification.incident.id, notification.incident.circle
            if notification.kind is Kind.ALERT and key not in taken.told:
                self._taken_again[key] = now
        yield from situation.store(Save(outbox=taken.owed, settled=tuple(mail), told=tuple(mail)))

    def _find(self, incident_id: str, circle: str) -> Incident:
        """Return the incident that has this id, by the eyes of `circle`."""
        (incident,) = self._situation.ledger.find([incident_id])
        return circles.view_for(incident, circle)

    def _store_taken_again(self) -> Steps:
        """Store when the alerts were taken last that some address had taken before.

        An alert that was left over counts as told then: its reader must not be left with it if
        another node has told the recovery before. Once a hand-over is enough: if each of many
        addresses had each incident stored anew, they would take longer than there is time.
        """
        situation = self._situation
        for (incident_id, circle), at in self._taken_again.items():
            view = self._find(incident_id, circle)
            if view.told_at < at:
                situation.ledger.put(view._replace(told_at=at, held=at))
        self._taken_again = {}
        yield from situation.store(Save())


def _handing(mails: Mapping[str, Mail], now: float, name: str) -> list[Handing]:
    """Return that `mails` are handed over from now on, in the hand-over of this `name`.

    Those that tell the same are together.
    """
    addresses: dict[tuple[tuple[str, Kind], ...], list[str]] = {}
    for address, mail in mails.items():
        told = tuple((each.incident.id, each.kind) for each in mail)
        addresses.setdefault(told, []).append(address)
    return [Handing(now, tuple(alike), told, name) for told, alike in addresses.items()]


def _runs_hooks(hand_over: Handing) -> bool:
    """Return whether hooks were to tell it, too, when it was handed over."""
    return any(map(names.is_hook, hand_over.addresses))


def _by_address(handing: Iterable[Handing]) -> dict[str, list[frozenset[tuple[str, Kind]]]]:
    """Return what each address was handed, as `Outbox` wants it."""
    handed: dict[str, list[frozenset[tuple[str, Kind]]]] = {}
    for hand_over in handing:
        told = frozenset(hand_over.notifications)
        for address in hand_over.addresses:
            handed.setdefault(address, []).append(told)
    return handed


def _outcomes_of(
    hand_over: Handing, ended: Mapping[tuple[str, str], Outcome], now: float
) -> dict[str, Outcome]:
    """Return the outcomes of a hand-over, by the address, as far as it has `ended`.

    What goes on for too long counts as refused.
    """
    outcomes: dict[str, Outcome] = {}
    for address in hand_over.addresses:
        if (hand_over.known_as, address) in ended:
            outcomes[address] = ended[hand_over.known_as, address]
        elif now - hand_over.since > HAND_OVER_LIMIT + _ENDED_LATE:
            outcomes[address] = False
    return outcomes


def _all_views(situation: Situation) -> Iterator[Incident]:
    """Yield each incident by the eyes of each circle that is to be told of it."""
    for incident in situation.ledger:
        yield from circles.views(incident)


def _quiet_ended(situation: Situation) -> dict[tuple[str, str], float]:
    """Return when the quiet of incidents has ended, by their ids and the circles."""
    quiet = situation.node_memory.quiet
    return {(each.incident, each.circle): each.ended for each in quiet}


def _due_since(view: Incident, quiet_ended: Mapping[tuple[str, str], float]) -> float:
    """Return since when this node knows that what `view` owes may be told.

    `quiet_ended` says when the quiet of an incident ended, by its id and the circle.
    """
    return max(view.held, quiet_ended.get((view.id, view.circle), 0.0))


def _must_wait(situation: Situation, incident: Incident) -> bool:
    """Return whether nobody may tell now what `incident` owes, whoever speaks.

    If the test is DOWN again and the next incident is not open yet, the next round tells both.
    """
    if Kind.RECOVERY in owed(incident) and not situation.ledger.open_for(incident.test):
        seen_down = situation.down_now.get(incident.test, float("-inf"))
        if incident.closed is not None and incident.closed < seen_down:
            return True
    if _may_be_over(situation, incident):
        return True
    if owed(incident) == (Kind.RECOVERY,) and _is_too_soon(situation, incident):
        return True
    return situation.is_quiet(incident)


def _is_too_soon(situation: Situation, incident: Incident) -> bool:
    """Return whether a recovery might overtake its alert, which left in another letter.

    With --once it does not wait, because nobody stays for it. Nor does it if the test is DOWN
    again: what is told of it says so, in whatever order the letters come.
    """
    if situation.config.once or situation.ledger.open_for(incident.test):
        return False
    return situation.clock.now() - _letter_at(incident) < LETTER_INTERVAL


def _letter_at(incident: Incident) -> float:
    """Return when the last mail was handed over that the recovery of `incident` may not overtake.

    A peer might state for ever that something was told just now. So what was told after this node
    held the recovery, as a peer states, counts as told then.
    """
    return min(incident.told_at, incident.held)


def _may_be_over(situation: Situation, incident: Incident) -> bool:
    """Return whether an open incident is old news, which this node's looks know nothing of.

    It was heard since this node's last round began that tests, and nobody has seen it fail for
    longer than this node's interval. Its holder may have been away, so the next round that tests
    asks before it is told. A round that was woken asks nobody.
    """
    is_unasked = incident.held >= situation.asked_at
    if not incident.is_open or not is_unasked or incident.seen == float("-inf"):
        return False
    return situation.clock.now() - incident.seen > election.living_limit(situation.status())


def _note_quiet(situation: Situation) -> None:
    """Remember what may not be told yet, and since when the rest may be told.

    A mail that had to wait for the end of a silence is not late. So the time counts from the first
    round that might tell it, whichever node speaks.
    """
    before = {(quiet.incident, quiet.circle): quiet for quiet in situation.node_memory.quiet}
    noted = []
    for incident in _all_views(situation):
        if not owed(incident):
            continue
        quiet = _find_quiet(before, incident)
        now = situation.clock.now()
        if _must_wait(situation, incident):
            silenced = situation.silences.why(incident.test, now, situation.me.name)
            if quiet and not silenced:
                silenced = quiet.silenced
            noted.append(Quiet(incident.id, silenced=silenced, circle=incident.circle))
        elif quiet:
            noted.append(quiet._replace(incident=incident.id, ended=quiet.ended or now))
    situation.node_memory = situation.node_memory._replace(quiet=tuple(noted))


def _note_silenced(situation: Situation) -> None:
    """Note in each incident that may be told now which silence its mail had to wait for (R9)."""
    for quiet in situation.node_memory.quiet:
        if not quiet.ended or not quiet.silenced:
            continue
        for incident in situation.ledger.find([quiet.incident]):
            if incident.silenced != quiet.silenced:
                situation.ledger.put(incident._replace(silenced=quiet.silenced))


def _find_quiet(noted: Mapping[tuple[str, str], Quiet], incident: Incident) -> Quiet | None:
    """Return what was noted of `incident`, which may have got a smaller id since then."""
    for incident_id in incident.ids:
        if (incident_id, incident.circle) in noted:
            return noted[incident_id, incident.circle]
    return None
