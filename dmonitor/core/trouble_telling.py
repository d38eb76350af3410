"""Tell those in alert.d what troubles this node, once, and once that it is over (rule R7).

Pure. What is told is compared with what there is, for each address: who has been told that a
trouble is there, and not that it is over, believes that it is there. So nothing depends on when a
round is killed. A mail is stored before it leaves and never waited for, so it holds up nobody.
`mute_peers` has the troubles of nodes that cannot tell them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from dmonitor.core import complaints, mute_peers, refusals
from dmonitor.core.effects import Complain, LookAfterTroubles, Save, TellTroubles, TroubleNews
from dmonitor.core.model import (
    HAND_OVER_LIMIT,
    RefusedAddress,
    ToldTrouble,
    Trouble,
    TroubleHanding,
    TroubleName,
    node_test,
)
from dmonitor.core.refusals import Outcome
from dmonitor.core.situation import Situation, Steps

# Seconds for which a trouble must be gone before anybody is told that it is over.
OVER_AFTER = 300.0
# The same for one that came back after somebody was told so, within so many seconds: it flaps.
FLAPPING_OVER_AFTER = 3600.0
_ENDED_LATE = 60.0  # seconds by which a hand-over is ended late
_REFUSAL_LASTS = 600.0  # seconds after a refusal, if nothing is to be told, that it counts


class TroubleTelling:
    """What is told of troubles in one round."""

    def __init__(self, situation: Situation, fresh_id: Callable[[], str]) -> None:
        self._situation = situation
        self._fresh_id = fresh_id
        self._now = situation.clock.now()
        memory = situation.node_memory
        self._records = {each.name: each for each in memory.told_troubles}
        self._handing = memory.trouble_handing
        self._refused = {each.address: each for each in memory.trouble_refusals}
        # What this node tells if it is there.
        self._own = _own_troubles(situation)
        self._peers = mute_peers.find(situation)

    def run(self) -> Steps:
        """Store what became of the last mails, then hand over what is news; print what is lost."""
        yield from self._look_after()
        self._follow()
        yield from self._hand_over()
        if self._situation.has_slept():
            return
        yield from self._complain()
        self._remember()

    # What came of the mails.

    def _look_after(self) -> Steps:
        """Note what became of the hand-overs that had no outcome yet."""
        if not self._handing:
            return
        self._note_ended((yield LookAfterTroubles(self._handing)))

    def _note_ended(self, ended: Mapping[tuple[str, str], Outcome]) -> None:
        """Note what came of the mails that have `ended`, by their hand-over and address."""
        left = []
        for handing in self._handing:
            running = []
            for address in handing.addresses:
                if (handing.known_as, address) in ended:
                    self._note(handing, address, ended[handing.known_as, address])
                elif self._now - handing.since > HAND_OVER_LIMIT + _ENDED_LATE:
                    self._note(handing, address, False)
                else:
                    running.append(address)
            if running:
                left.append(handing._replace(addresses=tuple(running)))
        self._handing = tuple(left)

    def _note(self, handing: TroubleHanding, address: str, taken: Outcome) -> None:
        """Note what came of one mail.

        If nobody knows, its reader is taken to believe what is wrong now: so it is told again.
        """
        if taken is False:
            before = self._refused.get(address, RefusedAddress(address, self._now, self._now))
            self._refused[address] = before._replace(at=self._now)
            return
        if taken:
            self._refused.pop(address, None)
        for name in self._records.keys() & set(handing.begun):
            if taken or not self._is_there(name):
                self._set_told(name, address, told=True)
        for name in self._records.keys() & set(handing.over):
            if taken or self._is_there(name):
                self._set_told(name, address, told=False)
                self._records[name] = self._records[name]._replace(over_told=handing.since)

    def _set_told(self, name: TroubleName, address: str, *, told: bool) -> None:
        record = self._records[name]
        addresses = set(record.told) - {address}
        if told:
            addresses.add(address)
        self._records[name] = record._replace(told=tuple(sorted(addresses)))

    # What there is, and what is news.

    def _is_there(self, name: TroubleName) -> bool:
        """Return whether a trouble is there, or nobody can know that it is over."""
        return name in self._own or name in self._peers.there or name.node in self._peers.unheard

    def _follow(self) -> None:
        """Take in which troubles there are now, and forget what needs not be remembered."""
        for name, trouble in self._own.items():
            self._take_in(name, trouble.text, trouble.since)
        for name, text in self._peers.there.items():
            if name in self._peers.told_here or name in self._records:
                self._take_in(name, text, self._now)
        config = self._situation.config
        handed = self._handed()
        for name, record in list(self._records.items()):
            if config.complete:
                told = tuple(each for each in record.told if each in config.addresses)
                record = record._replace(told=told)
            if record.ended is None and not self._is_there(name):
                record = record._replace(ended=self._now)
            self._records[name] = record
            is_believed = record.told or name in handed
            if not is_believed and self._is_forgotten(record):
                del self._records[name]

    def _is_forgotten(self, record: ToldTrouble) -> bool:
        """Return whether a trouble that nobody believes to be there need not be remembered.

        That of a peer counts from when this node is the one to tell it, or each hiccup of the node
        that does would have it told twice.
        """
        if self._now - record.over_told < FLAPPING_OVER_AFTER:
            return False
        if self._now - record.printed < complaints.REPEAT_SECONDS:
            return False
        name, peers = record.name, self._peers
        is_left_to_another = name.node not in {"", *peers.unheard} and name not in peers.told_here
        return record.ended is not None or is_left_to_another

    def _take_in(self, name: TroubleName, text: str, since: float) -> None:
        """Note that a trouble is there.

        As long as somebody believes that it is there, it is one trouble, also if it was gone.
        """
        record = self._records.get(name)
        if record is None:
            record = ToldTrouble(name, text, since)
        elif not record.told and not (name.node and record.ended is None):
            record = record._replace(text=text, since=since)
        self._records[name] = record._replace(ended=None)

    def _handed(self) -> set[TroubleName]:
        """Return what is told by mails that have no outcome yet."""
        return {name for each in self._handing for name in (*each.begun, *each.over)}

    def _news(self, address: str) -> list[TroubleNews]:
        """Return what `address` is to be told: first what is there, then what is over."""
        begun, over = [], []
        audience = self._situation.audience
        circle = audience.circle_of(address)
        if audience.is_outside_hours(circle):
            return []
        begun_by = self._now - audience.after.get(circle, 0.0)
        for record in self._records.values():
            believes = address in record.told
            if record.ended is None:
                is_due = record.since <= begun_by and self._wants(address, record)
                if not believes and self._is_told(record) and is_due:
                    begun.append(TroubleNews(record))
            elif believes and self._now - record.ended >= _over_after(record):
                over.append(TroubleNews(record, is_over=True))
        return begun + over

    def _wants(self, address: str, record: ToldTrouble) -> bool:
        """Return whether `address` is told of the test that the troubled node is."""
        node = record.name.node or self._situation.me.name
        return self._situation.audience.wants(address, node_test(node))

    def _is_told(self, record: ToldTrouble) -> bool:
        """Return whether this node tells that a trouble is there, which lasts."""
        name = record.name
        if self._now - record.since < complaints.quiet_at_first(name):
            return False
        if name.node:
            return name in self._peers.told_here
        return name.kind not in complaints.TOLD_OF_PEERS and mute_peers.tells_shared(
            self._situation, name.kind
        )

    # Hand over.

    def _hand_over(self) -> Steps:
        """Hand over what is news, once it is stored that this is done.

        Otherwise a node that cannot store would mail it in each round. Its peers tell that.
        """
        situation = self._situation
        mails = self._mails()
        if not mails or not situation.stores or situation.has_slept():
            return
        earlier, name = self._handing, self._fresh_id()
        self._handing = (*earlier, *_grouped(mails, self._now, name))
        self._remember()
        yield from situation.store(Save(node=situation.node_memory))
        if not situation.stores:
            self._handing = earlier
            return
        outcomes = yield TellTroubles(mails, name)
        ended = {}
        for address, outcome in outcomes.items():
            if outcome is not None:  # else it goes on
                ended[name, address] = outcome
        self._note_ended(ended)

    def _mails(self) -> dict[str, Sequence[TroubleNews]]:
        """Return one mail for each address that has news, and no mail under way.

        An address that refuses rests, as it does for what is left of alerts.
        """
        memory = self._situation.node_memory
        resting = refusals.resting_of(self._refused.values(), self._now)
        resting |= refusals.resting(memory, self._now)
        busy = {address for each in self._handing for address in each.addresses}
        mails: dict[str, Sequence[TroubleNews]] = {}
        for address in self._situation.config.addresses:
            news = self._news(address)
            if not news and address not in busy:
                self._forget_refusal(address)
            if news and address not in busy and address not in resting:
                mails[address] = news
        return mails

    def _forget_refusal(self, address: str) -> None:
        """Forget a refusal that says nothing of now."""
        refused = self._refused.get(address)
        if refused and self._now - refused.at > _REFUSAL_LASTS:
            del self._refused[address]

    def _complain(self) -> Steps:
        """Print what nobody could be told, so that cron mails it: once an hour, all at once."""
        lost = [record for record in self._records.values() if self._is_lost(record)]
        repeat = complaints.REPEAT_SECONDS
        if not any(self._now - record.printed >= repeat for record in lost):
            return
        texts = "; ".join(record.text for record in lost)
        yield Complain(f"{self._situation.me.name}: {texts}")
        for record in lost:
            self._records[record.name] = record._replace(printed=self._now)

    def _is_lost(self, record: ToldTrouble) -> bool:
        """Return whether this trouble of this node is there, and could be told to nobody."""
        name = record.name
        if name.node or record.ended is not None or record.told or name in self._handed():
            return False
        if self._now - record.since < complaints.quiet_at_first(name):
            return False
        situation = self._situation
        refused = {each.address for each in situation.node_memory.refused_addresses}
        refused |= set(self._refused)
        addresses = situation.config.addresses
        wanting = [address for address in addresses if self._wants(address, record)]
        return not situation.stores or refused.issuperset(wanting)

    def _remember(self) -> None:
        config = self._situation.config
        lasting = []
        for each in self._refused.values():
            if each.address in config.addresses and each.address not in config.tests_taken:
                lasting.append(each)
        self._situation.node_memory = self._situation.node_memory._replace(
            told_troubles=tuple(self._records.values()),
            trouble_handing=self._handing,
            trouble_refusals=tuple(sorted(lasting)),
        )


def _own_troubles(situation: Situation) -> dict[TroubleName, Trouble]:
    """Return the troubles of this node that people are told of, and not only the log."""
    found = {}
    for trouble in situation.node_memory.troubles:
        if trouble.ended is None and trouble.kind not in complaints.WARNINGS:
            found[TroubleName(trouble.kind)] = trouble
    return found


def _over_after(record: ToldTrouble) -> float:
    """Return for how long a trouble must be gone: it is remembered for an hour after its end.

    It flaps if somebody was told of an earlier end; of this one each address is told.
    """
    if record.ended is not None and float("-inf") < record.over_told < record.ended:
        return FLAPPING_OVER_AFTER
    return OVER_AFTER


def _grouped(
    mails: dict[str, Sequence[TroubleNews]], now: float, name: str
) -> Iterable[TroubleHanding]:
    """Return that `mails` are handed over from now on, in the hand-over of this `name`.

    Those that tell the same are together.
    """
    alike: dict[tuple[tuple[TroubleName, bool], ...], list[str]] = {}
    for address, news in mails.items():
        told = tuple((each.trouble.name, each.is_over) for each in news)
        alike.setdefault(told, []).append(address)
    for told, addresses in alike.items():
        begun = tuple(name for name, is_over in told if not is_over)
        over = tuple(name for name, is_over in told if is_over)
        yield TroubleHanding(now, tuple(addresses), name, begun, over)
