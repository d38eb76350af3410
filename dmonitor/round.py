"""One round: run the tests, ask the peers, conclude, record, tell (the one way through of doc/design.md).

`observe` finds out, `conclude` turns that into steps, `record` stores them, `tell` hands over what is owed. Each
can be called without the next, which is what a dry run does. Options, locks and users are `check`'s.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import selectors
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from dmonitor import cluster, incident, log, peers, runner, verdict
from dmonitor.config import Config
from dmonitor.incident import Step
from dmonitor.model import Answer, Incident, Judgement, Kind, Node, Notification, Outcome, Result, Standing, Test, Vote
from dmonitor.state import State, fresh_id

if TYPE_CHECKING:
    from dmonitor.notifier import Delivery

# Seconds from the start of the round (rule R10). A plugin takes 10 at most, an answer 15, sendmail 15.
OWN_RESULTS_BY = 30.0
ANSWERS_BY = 45.0
HANDED_OVER_BY = 54.0
HARD_LIMIT = 55.0

_NOT_RUN = Result(Outcome.UNKNOWN, "not run in this round: too many slow tests for the setting concurrency")

Known = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """What a round has seen: a judgement for each test, and who we are in nodes.txt."""

    me: Node
    judgements: Mapping[Test, Judgement]
    found: Mapping[str, tuple[str, ...]]  # the addresses of the nodes, by name


class _Observer:
    """Runs all tests and asks the peers about those that fail, as soon as each fails."""

    def __init__(
        self, config: Config, node_id: str, incidents: Mapping[Test, Incident], known: Known, began: float, ask_all: bool
    ) -> None:
        self._ask_all = ask_all
        self._config = config
        self._node_id = node_id
        self._incidents = incidents
        self._began = began
        self._selector = selectors.DefaultSelector()
        self._runner = runner.Runner(self._selector, config.settings.concurrency)
        # Whatever hangs, in C code too, ends with its traceback on stderr, which cron mails. It is a thread, and so
        # has to wait until the runner has forked.
        faulthandler.dump_traceback_later(began + HARD_LIMIT - time.monotonic(), exit=True, file=2)
        self._results: dict[Test, Result] = {}
        for test, parameters in config.tests.items():
            if parameters is None:
                self._results[test] = runner.MISTAKEN
            else:
                self._runner.submit(test, config.plugin(test), parameters, self._result)
        settings = config.settings
        self.around = cluster.look_around(config.nodes, settings.listen, known)  # may take a while; the plugins run meanwhile
        self.me = self.around.me
        self._asker = peers.Asker(self._selector, self.around.peers, node_id, settings.listen, settings.port)

    def run(self) -> Mapping[Test, Judgement]:
        for test in list(self._results):
            self._ask(test)
        while self._runner.pending and self._loop(OWN_RESULTS_BY):
            pass
        for test in self._config.tests.keys() - self._results.keys():
            self._result(test, _NOT_RUN)
        while self._asker.pending and self._loop(ANSWERS_BY):
            pass
        self._asker.close()
        if not self.around.listed and self._asker.echo:
            self.me = self._asker.echo
        return {test: self._judge(test) for test in self._config.tests}

    def close(self) -> None:
        """End whatever still runs; no plugin outlives this."""
        self._runner.close()
        self._selector.close()

    def _loop(self, by: float) -> bool:
        """Do what is ready, or wait for it; say whether there is time left."""
        left = self._began + by - time.monotonic()
        if left <= 0:
            return False
        pause = self._asker.pause()
        for key, _ in self._selector.select(left if pause is None else min(left, pause)):
            key.data()
        self._asker.tick()
        return True

    def _result(self, test: Test, result: Result) -> None:
        if test in self._results:
            return
        self._results[test] = result
        log.debug("ran", test=str(test), result=result.outcome.value, seconds=result.duration, text=result.text)
        self._ask(test)

    def _ask(self, test: Test) -> None:
        if self._ask_all or verdict.must_ask(self._own(test), incident_open=test in self._incidents):
            self._asker.ask(test)

    def _own(self, test: Test) -> Answer:
        return Answer(self.me, self._node_id, self._results[test])

    def _judge(self, test: Test) -> Judgement:
        answers = self._asker.answers(test)
        return verdict.decide(self._own(test), answers, self._config.settings.quorum, incident_open=test in self._incidents)


def observe(
    config: Config, node_id: str, incidents: Mapping[Test, Incident], known: Known, began: float, *, ask_all: bool = False
) -> Observation:
    """Run every test, ask the peers about those that fail or have an open incident in INCIDENTS, or all, and judge.

    KNOWN are the nodes' addresses when they were last found. BEGAN is when the round began, on the monotonic clock;
    the last answer is waited for until ANSWERS_BY. From now on this process ends at HARD_LIMIT, unless
    faulthandler.cancel_dump_traceback_later is called before.
    """
    observer = _Observer(config, node_id, incidents, known, began, ask_all)
    try:
        return Observation(judgements=observer.run(), me=observer.me, found=observer.around.found)
    finally:
        observer.close()


def conclude(
    observation: Observation, standings: Mapping[Test, Standing], incidents: Mapping[Test, Incident], *, confirm: int, now: float
) -> list[Step]:
    """Take every test a step further, and log what changes."""
    steps = []
    for test, judgement in observation.judgements.items():
        before = standings.get(test, Standing())
        step = incident.advance(test, before, incidents.get(test), judgement, confirm=confirm, now=now, fresh_id=fresh_id())
        steps.append(step)
        _log_step(step, before, judgement)
    return steps


def _log_step(step: Step, before: Standing, judgement: Judgement) -> None:
    test, own = str(step.test), judgement.answers[0]
    moved = step.standing.verdict is not before.verdict or step.standing.own is not before.own
    tell = log.info if moved else log.debug
    if moved and step.standing.own is Outcome.UNKNOWN:
        log.warning("untestable", test=test, text=own.text)
    if len(judgement.answers) > 1 or moved:
        if len(judgement.answers) > 1:
            tell("asked", test=test, peers=",".join(answer.node.name for answer in judgement.answers[1:]))
        for answer in judgement.answers[1:]:
            tell("answer", test=test, node=answer.node.name, sees=answer.seen, age=_age(answer), text=answer.text)
        tell("verdict", test=test, verdict=judgement.verdict.value, was=before.verdict.value, **_tally(judgement), text=own.text)
    if step.owes is Kind.ALERT and step.incident:
        log.info("incident-opened", test=test, incident=step.incident.id, **_tally(judgement))
    elif step.owes is Kind.RECOVERY and step.incident:
        lasted = (step.incident.closed or 0.0) - step.incident.began
        log.info("incident-closed", test=test, incident=step.incident.id, seconds=round(lasted), **_tally(judgement))


def _age(answer: Answer) -> float | None:
    return answer.age if answer.result else None


def _tally(judgement: Judgement) -> dict[str, log.Value]:
    return {
        "votes": len(judgement.sites(Vote.FAILING)),
        "quorum": judgement.quorum,
        "failing": ",".join(judgement.nodes(Vote.FAILING)) or None,
        "passing": ",".join(judgement.nodes(Vote.PASSING)) or None,
        "abstaining": ",".join(judgement.nodes(Vote.ABSTAIN)) or None,
    }


def record(
    state: State,
    config: Config,
    steps: Sequence[Step],
    standings: Mapping[Test, Standing],
    incidents: Mapping[Test, Incident],
    now: float,
) -> None:
    """Store STEPS with what they owe; forget tests that the operator took away, and close their incidents."""
    gone = (standings.keys() | incidents.keys()) - config.tests.keys() if config.complete else set()
    for test in sorted(gone):
        log.info("test-removed", test=str(test), incident=incidents[test].id if test in incidents else None)
    removed = [incident.remove(incidents[test], now) for test in gone if test in incidents]
    news = [step for step in steps if step.changed or step.incident]
    if news or gone:
        state.record(news, config.addresses, removed, gone, now)
    if not config.addresses and any(step.owes for step in steps):
        log.warning("no-address", reason=f"nobody can be mailed: {config.directory / 'alert.d'} names no address")


def tell(state: State, config: Config, me: Node, now: float, patience: float) -> bool:
    """Hand over all that is owed, each address its one mail; say whether the MTA took everything.

    Which node speaks for an incident (rule R5) is to be asked here, before anything is handed over; as yet each
    node tells what it records.
    """
    state.owe_untold(config.addresses, now)
    owed = state.outbox()
    if not owed:
        return True
    from dmonitor import message, notifier

    if config.complete:
        dropped = [notification for notification in owed if notification.address not in config.addresses]
        state.drop(dropped)
        for address in sorted({notification.address for notification in dropped}):
            log.info("address-removed", address=address, owed=sum(notification.address == address for notification in dropped))
        owed = [notification for notification in owed if notification not in dropped]
    owed.sort(key=lambda notification: notification.address)
    by_address = {address: list(group) for address, group in groupby(owed, lambda notification: notification.address)}
    settings = config.settings
    mails = {
        address: message.compose(notifications, sender=settings.sender, node=me.name, now=now)
        for address, notifications in by_address.items()
    }

    def done(address: str, delivery: Delivery) -> None:
        _log_delivery(by_address[address], delivery)
        if delivery.taken:
            state.told(by_address[address], now)

    state.attempt(owed)  # a disk that is too full for this could not hold "told" either, and would mail every minute
    deliveries = notifier.send(mails, done, sendmail=settings.sendmail, sender=settings.sender, patience=patience)
    return all(delivery.taken for delivery in deliveries.values())


def _log_delivery(notifications: Sequence[Notification], delivery: Delivery) -> None:
    event, write = ("handed-over", log.info) if delivery.taken else ("refused", log.error)
    for notification in notifications:
        write(
            event,
            address=notification.address,
            kind=notification.kind.value,
            test=str(notification.incident.test),
            incident=notification.incident.id,
            reason=delivery.text or None,
        )
