"""A round as a script: observe, hear, conclude, store, tell (the one way through of doc/design.md; rules R4 to R7, R9).

Pure: `course` is a generator that says what is to be done (an Effect) and is given what came of it; clock and log are
passed in. `check` does it in earnest, the simulator of tests/simulation in a virtual world.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from dmonitor.base import names
from dmonitor.core import digest, election, health, incident, ledger, model, round_log, verdict
from dmonitor.core.effects import (
    Complain,
    Effect,
    Greet,
    HandOver,
    Memory,
    Next,
    Observation,
    Observe,
    Rehearse,
    RoundClock,
    RoundConfig,
    Save,
    Wait,
)
from dmonitor.core.model import (
    Answer,
    Contact,
    Incident,
    Judgement,
    Kind,
    NodeStatus,
    Notification,
    Test,
    TestState,
)
from dmonitor.core.round_log import Note

GREET_UNTIL = 36.0  # seconds of a round; no greeting begins later
GREET_EVERY = 10.0  # seconds
_BEGINS = 6  # rounds of which the beginnings are kept


_Key = tuple[str, Kind, str]  # of a notification: incident, kind, address


RoundScript = Generator[Effect, Any, bool]


def run_round(
    config: RoundConfig, memory: Memory, clock: RoundClock, note: Note, fresh_id: Callable[[], str]
) -> RoundScript:
    """Take one round; return whether all that was handed over was taken."""
    return _Round(config, memory, clock, note, fresh_id).run()


class _Round:
    def __init__(
        self,
        config: RoundConfig,
        memory: Memory,
        clock: RoundClock,
        note: Note,
        fresh_id: Callable[[], str],
    ) -> None:
        self._config, self._memory, self._clock, self._note, self._fresh_id = (
            config,
            memory,
            clock,
            note,
            fresh_id,
        )
        self._ledger = ledger.Ledger(memory.incidents, memory.recall)
        self._outbox = {_key(left): left for left in memory.outbox}
        begins = (*memory.node.begins, clock.now())[-_BEGINS:]
        nodes, addresses = digest.digest_nodes(config.nodes), digest.digest(config.addresses)
        speaks = bool(config.addresses)
        self._node = memory.node._replace(
            begins=begins, speaks=speaks, nodes=nodes, addresses=addresses
        )
        listed = {node.name for node in config.nodes}
        self._silences = {name: said for name, said in memory.silences.items() if name in listed}
        self._contacts: Sequence[Contact] = ()
        self._statements: Mapping[str, model.Statement] = {}
        self._tried: set[_Key] = set()  # what was handed over in this round, whatever came of it
        self._changes: list[model.Change] = []
        self._stored = self._all_taken = True
        self._said = ""

    def run(self) -> RoundScript:
        open_before = {
            known.test: known for known in self._ledger if known.is_open and not known.flapping
        }
        seen: Observation = yield Observe(frozenset(open_before), tuple(self._ledger))
        self._me = seen.me
        self._node = self._node._replace(name=seen.me.name)
        self._greeted_at = 0.0
        mine = (
            each.node.name
            for each in seen.contacts
            if each.node_id == self._config.node_id and not each.cloned
        )
        self._tests = self._config.tests - set(
            map(model.node_test, mine)
        )  # no node has the test of itself
        self._hear(seen.contacts)
        judgements = self._marked(
            {test: judged for test, judged in seen.judgements.items() if test in self._tests}
        )
        test_states = self._conclude(judgements, open_before)
        gone = self._forget_removed()
        self._flap(judgements)
        dropped = self._drop_removed()
        probe = (
            self._node if self._holds_untold() else None
        )  # whether it can be stored matters for who speaks
        yield from self._save(
            node=probe,
            test_states=test_states,
            gone=gone,
            settled=dropped,
            changes=tuple(self._changes),
        )
        yield from self._tell()
        yield from self._look_at_itself(judgements, test_states)
        heard = tuple(
            each.status._replace(version="", wall=0.0) for each in self._statements.values()
        )
        finished, reach, lines = self._clock.now(), self._reach(), self._lines()
        yield from self._save(
            node=self._node._replace(finished=finished, heard=heard, reach=reach, lines=lines)
        )
        return self._all_taken

    def _reach(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return who was greeted, and whom each of them had greeted, by the names in our nodes.txt."""
        said = [
            (each.node_id, each.node.name, each.statement)
            for each in self._contacts
            if each.statement
        ]
        ours = {node_id: name for node_id, name, _ in said} | {self._config.node_id: self._me.name}
        return tuple(
            (name, tuple(ours.get(other.node_id, other.name) for other in statement.heard))
            for node_id, name, statement in said
            if node_id != self._config.node_id
        )

    def _lines(self) -> tuple[str, ...]:
        """Return the names in our nodes.txt that are this node itself."""
        others = {
            each.node.name
            for each in self._contacts
            if each.node_id != self._config.node_id or each.cloned
        }
        return tuple(node.name for node in self._config.nodes if node.name not in others)

    def _save(self, **what: Any) -> Generator[Effect, Any, None]:
        """Store WHAT, with the incidents that have changed; nothing, where there is nothing."""
        now = self._clock.now()
        for known in list(self._ledger.changed.values()):
            if (
                known.closed is not None
                and not known.void
                and Kind.ALERT in incident.owed(known)
                and self._silenced(known, now)
            ):
                self._ledger.put(known._replace(void=True))
                self._note("info", "incident-suppressed", test=str(known.test), incident=known.id)
        if self._silences != self._memory.silences:
            what["silences"] = self._silences
            self._memory = self._memory._replace(silences=self._silences)
        if self._ledger.changed or any(what.values()):
            changed, self._ledger.changed = tuple(self._ledger.changed.values()), {}
            self._stored = yield Save(incidents=changed, **what)

    def _hear(self, contacts: Sequence[Contact]) -> None:
        """Take in what the peers state: their silences, and their incidents, closed ones first."""
        now = self._clock.now()
        self._contacts = contacts
        self._statements = statements = {
            known.node_id: known.statement for known in contacts if known.statement
        }
        self._silences = self._silences | {
            known.node.name: known.statement.silences for known in contacts if known.statement
        }
        for heard in sorted(
            chain.from_iterable(s.incidents for s in statements.values()),
            key=lambda heard: heard.is_open,
        ):
            if heard.test in self._tests:
                self._ledger.meet(heard, now)
        for met in self._ledger.changed.values():
            state, by = (
                "open" if met.is_open else "closed",
                {"alert": met.alert or None, "recovery": met.recovery or None},
            )
            self._note(
                "info", "incident-heard", test=str(met.test), incident=met.id, state=state, **by
            )

    def _silenced(self, what: Incident, now: float) -> bool:
        """Say whether an operator's silence of any node covers an incident; or, where it is not one itself, flapping."""
        if not what.flapping and self._ledger.open_for(what.test, flapping=True):
            return True
        return any(
            known.covers(what.test, now)
            for known in chain(self._config.silences, *self._silences.values())
        )

    def _marked(self, judgements: Mapping[Test, Judgement]) -> Mapping[Test, Judgement]:
        """Mark what those nodes see that suspect themselves."""
        suspects = {
            node_id
            for node_id, said in self._statements.items()
            if health.SUSPECT in said.status.troubles
        }
        if health.is_suspect(judgements):
            suspects.add(self._config.node_id)

        def marked(answer: Answer) -> Answer:
            return answer._replace(suspect=True) if answer.node_id in suspects else answer

        return {
            test: judged._replace(answers=tuple(map(marked, judged.answers)))
            if suspects
            else judged
            for test, judged in judgements.items()
        }

    def _conclude(
        self, judgements: Mapping[Test, Judgement], open_before: Mapping[Test, Incident]
    ) -> dict[Test, TestState]:
        """Take every test a step further; return the test_states that are not what they were."""
        now, changed = self._clock.now(), {}
        for test, judgement in judgements.items():
            is_new = test not in self._memory.test_states
            before, known = (
                self._memory.test_states.get(test, TestState(since=now)),
                self._ledger.open_for(test),
            )
            asked = verdict.must_ask(judgement.answers[0], incident_open=test in open_before)
            closed_elsewhere = known is None and test in open_before
            fresh = "" if closed_elsewhere or not asked else self._fresh_id()
            mine, confirm = known if asked else None, self._config.confirm
            standing, after = incident.advance(
                test, before, mine, judgement, confirm=confirm, now=now, fresh_id=fresh
            )
            if standing != before or is_new:
                changed[test] = standing
            if is_new or (standing.verdict, standing.own_outcome) != (
                before.verdict,
                before.own_outcome,
            ):
                self._changes.append(model.Change(test, now, judgement))
            round_log.judgement(self._note, test, before, standing, judgement)
            if closed_elsewhere:
                (elsewhere,) = self._ledger.find(open_before[test].ids[:1])
                if asked and not elsewhere.closing:
                    self._ledger.put(elsewhere._replace(closing=judgement))
                self._note(
                    "info",
                    "incident-closed-elsewhere",
                    test=str(test),
                    incident=open_before[test].id,
                )
            if after is not None and after != known:
                self._ledger.put(after)
                round_log.incident(self._note, known, after, judgement)
        return changed

    def _forget_removed(self) -> frozenset[Test]:
        """Close the incidents of tests that the operator took away; return those tests."""
        if not self._config.complete:
            return frozenset()
        gone = set(self._memory.test_states.keys() - self._tests)
        for known in list(self._ledger):
            if known.test not in self._tests and (known.is_open or incident.owed(known)):
                gone.add(known.test)
                self._ledger.put(incident.remove(known))
                self._note("info", "incident-removed", test=str(known.test), incident=known.id)
        for test in sorted(gone):
            self._note("info", "test-removed", test=str(test))
        return frozenset(gone)

    def _flap(self, judgements: Mapping[Test, Judgement]) -> None:
        """Begin or end the flapping of tests."""
        by_test: dict[Test, list[Incident]] = {}
        for known in self._ledger:
            by_test.setdefault(known.test, []).append(known)
        for test, incidents in by_test.items():
            if test not in judgements:
                continue
            turn = incident.flap(
                test, incidents, judgements[test], self._clock.now(), self._fresh_id()
            )
            if turn and (self._config.flapping or not turn.is_open):
                self._ledger.put(turn)
                self._note(
                    "info",
                    "flapping" if turn.is_open else "steady",
                    test=str(test),
                    incident=turn.id,
                )

    def _drop_removed(self) -> tuple[Notification, ...]:
        """Drop from the outbox what is owed to addresses that the operator took away, or about tests that he did."""
        if not self._config.complete:
            return ()
        dropped = [
            left
            for left in self._outbox.values()
            if left.address not in self._config.addresses or left.incident.test not in self._tests
        ]
        for left in dropped:
            del self._outbox[_key(left)]
            why = (
                "address-removed"
                if left.address not in self._config.addresses
                else "owed-for-removed-test"
            )
            self._note(
                "info",
                why,
                address=left.address,
                test=str(left.incident.test),
                kind=left.kind.value,
            )
        return tuple(dropped)

    # Telling.

    def _tell(self) -> Generator[Effect, Any, None]:
        """Hand over what is ours to say, by what was heard a moment ago."""
        if self._clock.elapsed() < GREET_EVERY or not self._greets_again():
            yield from self._hand_over()
        while self._greets_again():
            yield Wait(max(0.0, self._greeted_at + GREET_EVERY - self._clock.elapsed()))
            self._greeted_at = self._clock.elapsed()
            self._hear((yield Greet(tuple(self._ledger))))
            yield from self._save()
            yield from self._hand_over()

    def _greets_again(self) -> bool:
        """Say whether this round greets once more: that of the first node does, and that of who holds something untold."""
        in_time = max(self._clock.elapsed(), self._greeted_at + GREET_EVERY) <= GREET_UNTIL
        alone = not self._contacts or self._config.once
        return in_time and not alone and (self._is_first() or self._holds_untold())

    def _present(self) -> NodeStatus:
        own, config = self._node, self._config
        return own.status(
            self._me.name,
            config.node_id,
            self._clock.now(),
            tests=config.digest,
            stores=self._stored,
        )

    def _is_first(self) -> bool:
        me = self._present()
        return (
            election.choose(
                me, election.candidates(me, self._statements.values()), self._clock.now()
            ).speaker
            == me
        )

    def _holds_untold(self) -> bool:
        now, mine = self._clock.now(), self._tests
        return any(
            incident.owed(known) and known.test in mine and not self._silenced(known, now)
            for known in self._ledger
        )

    def _due(self) -> list[tuple[Incident, tuple[Kind, ...]]]:
        """Return what is this node's to tell now."""
        me, now, due = self._present(), self._clock.now(), []
        peers = election.candidates(me, self._statements.values())
        for known in self._ledger:
            kinds = incident.owed(known)
            if incident.is_reminder_due(known, self._config.remind, now):
                kinds = (Kind.REMINDER,)
            if not kinds or known.test not in self._tests or self._silenced(known, now):
                continue
            choice = election.choose(me, peers, now, known)
            if choice.reason != self._said:
                self._said = choice.reason
                self._note("info", "speaker-chosen", reason=choice.reason, incident=known.id)
            if choice.speaker == me:
                due.append((known, kinds))
            elif choice.speaker is None and not self._config.addresses:
                self._note(
                    "warning",
                    "no-address",
                    test=str(known.test),
                    reason="nobody can be mailed: alert.d names no address",
                )
        return due

    def _hand_over(self) -> Generator[Effect, Any, None]:
        """Hand over what is due, with what is left in the outbox; each address gets one mail, and each is tried once a round."""
        due, refused, now = self._due(), self._node.refused, self._clock.now()
        mailed = [address for address in self._config.addresses if not names.is_hook(address)]
        fresh = [
            Notification(
                kind, known, address, now if kind is Kind.REMINDER else known.held, refused
            )
            for address in mailed
            or self._config.addresses  # what is told by a mail, and to whom, is owed to hooks from then on
            for known, kinds in due
            for kind in kinds
        ]
        left_over = [
            left._replace(incident=self._ledger.find(left.incident.ids)[0])
            for left in self._outbox.values()
        ]
        self._outbox = {_key(left): left for left in left_over}
        untold = {_key(each): each for each in fresh}
        mails: dict[str, list[Notification]] = {}
        for each in (
            *fresh,
            *(
                left
                for left in left_over
                if not (_key(left) in untold or self._silenced(left.incident, now))
            ),
        ):
            alert = each.incident.id, Kind.ALERT, each.address
            pending = alert in untold.keys() | self._outbox.keys()
            is_early = pending and self._was_tried(
                each, Kind.ALERT
            )  # no recovery before a refused alert
            if not is_early and not self._was_tried(each, each.kind):
                mails.setdefault(each.address, []).append(each)
        self._tried |= {
            (known, each.kind, each.address)
            for mail in mails.values()
            for each in mail
            for known in each.incident.ids
        }
        if not mails:
            return
        telling = {
            address for address, mail in mails.items() if any(_key(each) in untold for each in mail)
        }
        refusing, first = set(mails), self._is_first()
        yield HandOver(mails)
        while (came := (yield Next())) is not None:
            address, taken = came
            self._all_taken &= taken
            if taken:
                refusing.remove(address)
                yield from self._taken(mails[address], untold)
            elif left := [each for each in mails[address] if _key(each) in self._outbox]:
                yield from self._save(
                    outbox=self._owe(each._replace(refusals=each.refusals + 1) for each in left)
                )
        # Nobody may move to the front while another hands over: what was only left over moves nobody, and neither does a success
        # of who speaks only because the first does not count for that incident.
        count = (
            refused
            if not telling
            else refused + 1
            if telling <= refusing
            else 0
            if first
            else refused
        )
        if count != refused:
            self._node = self._node._replace(refused=count)
            yield from self._save(node=self._node)
        if any(
            names.is_hook(left.address) and not self._was_tried(left, left.kind)
            for left in self._outbox.values()
        ):
            yield from self._hand_over()

    def _was_tried(self, each: Notification, kind: Kind) -> bool:
        """Say whether that was handed over in this round already, under whatever id its incident was known by then."""
        return any((known, kind, each.address) in self._tried for known in each.incident.ids)

    def _taken(
        self, mail: Sequence[Notification], untold: dict[_Key, Notification]
    ) -> Generator[Effect, Any, None]:
        """Store that MAIL was taken: what it told is told, and owed by this node to those who have not got it yet."""
        told: dict[str, list[Kind]] = {}
        for each in mail:
            self._outbox.pop(_key(each), None)
            if untold.pop(_key(each), None):
                told.setdefault(each.incident.id, []).append(each.kind)
        for known in self._ledger.find(told):
            self._ledger.put(
                incident.told(
                    known, told[known.id], self._me.name, self._clock.now(), self._config.remind
                )
            )
        left = [each for each in untold.values() if each.kind in told.get(each.incident.id, ())]
        hooks = (
            []
            if names.is_hook(mail[0].address)
            else list(filter(names.is_hook, self._config.addresses))
        )
        fresh = {_key(each): each for each in mail if each.kind in told.get(each.incident.id, ())}
        left += [each._replace(address=hook) for hook in hooks for each in fresh.values()]
        owe = self._owe(left)
        yield from self._save(outbox=owe, settled=tuple(mail), told=tuple(mail))

    def _owe(self, notifications: Iterable[Notification]) -> tuple[Notification, ...]:
        owed = tuple(notifications)
        self._outbox |= {_key(each): each for each in owed}
        return owed

    # Blindness.

    def _look_at_itself(
        self, judgements: Mapping[Test, Judgement], test_states: Mapping[Test, TestState]
    ) -> Generator[Effect, Any, None]:
        """Find what troubles this node, log what is new or over, and complain of what is due."""
        own = self._node
        rehearsals = yield Rehearse(own.rehearsal_failures)
        now = self._clock.now()
        failures = health.rehearse(own.rehearsal_failures, rehearsals, judgements)
        no_daemon = own.no_daemon
        for rehearsal in rehearsals:
            if not rehearsal.peer:
                no_daemon = rehearsal.answer.reason
        concluded, quorum = (
            (self._tests, judgements, {**self._memory.test_states, **test_states}),
            self._config.quorum,
        )
        view = health.HealthInput(
            self._me, self._present(), *concluded, self._contacts, quorum, failures, no_daemon
        )
        before = {each.kind: each for each in own.troubles}
        troubles = [
            self._say(each, before.get(each.kind), now)
            for each in health.follow(own.troubles, health.find(view, now), now)
        ]
        aloud = [
            each
            for each in troubles
            if each.kind not in health.WARNINGS and health.is_serious(each, now)
        ]
        if any(health.is_due(each, now) for each in aloud):
            yield Complain(f"{self._me.name}: {'; '.join(each.text for each in aloud)}")
            troubles = [each._replace(said=now) if each in aloud else each for each in troubles]
        self._node = own._replace(
            troubles=tuple(troubles), rehearsal_failures=failures, no_daemon=no_daemon
        )

    def _say(
        self, now_is: model.Trouble, before: model.Trouble | None, now: float
    ) -> model.Trouble:
        """Log a trouble that is new, has another text, or lasts for another hour, and one that is over; return it as logged."""
        since, quiet = self._clock.text(now_is.since), now_is.kind in health.WARNINGS
        if now_is.ended == now:
            seconds, until = round(now - now_is.since), self._clock.text(now)
            self._note(
                "warning",
                "trouble-over",
                kind=now_is.kind,
                since=since,
                until=until,
                seconds=seconds,
            )
        elif health.is_serious(now_is, now):
            is_new = not now_is.logged or (before and before.text != now_is.text)
            if is_new or health.is_due(now_is, now):
                self._note(
                    "warning" if quiet else "critical",
                    "trouble",
                    kind=now_is.kind,
                    text=now_is.text,
                    since=since,
                )
            said = now if quiet and health.is_due(now_is, now) else now_is.said
            return now_is._replace(logged=True, said=said)
        return now_is


def _key(notification: Notification) -> _Key:
    return notification.incident.id, notification.kind, notification.address
