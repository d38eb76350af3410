"""See for a round: run the tests, greet the peers, ask them about what fails (rules R3, R5, R10).

One loop for all of it, which ends by itself. What is seen is a value; what it means is `verdict`'s and `round`'s.
"""

from __future__ import annotations

import faulthandler
import selectors
from collections.abc import Mapping, Sequence

from dmonitor import cluster, log, peers, runner, verdict
from dmonitor.config import Config
from dmonitor.model import Answer, Incident, Judgement, Outcome, Result, Statement, Test
from dmonitor.protocol import digest
from dmonitor.round import Clock, Greet, Observation, Observe

# Seconds from the start of the round (rule R10). A plugin takes 10 at most, an answer 15, sendmail 15.
OWN_RESULTS_BY = 30.0
ANSWERS_BY = 45.0
HANDED_OVER_BY = 54.0
HARD_LIMIT = 55.0

_NOT_RUN = Result(Outcome.UNKNOWN, "not run in this round: too many slow tests for the setting concurrency")


class Observer:
    """The eyes of one round: `observe` first, `greet` as often as need be, `close` in the end.

    KNOWN are the nodes' addresses when they were last found. From now on this process ends at HARD_LIMIT, unless
    faulthandler.cancel_dump_traceback_later is called before. With ASK_ALL the peers are asked about passing tests too.
    """

    def __init__(
        self, config: Config, node_id: str, known: Mapping[str, Sequence[str]], clock: Clock, *, ask_all: bool = False
    ) -> None:
        self._config, self._node_id, self._clock, self._ask_all = config, node_id, clock, ask_all
        self._selector = selectors.DefaultSelector()
        self._runner: runner.Runner | None = runner.Runner(self._selector, config.settings.concurrency)
        # Whatever hangs, in C code too, ends with its traceback on stderr, which cron mails. It is a thread, and so
        # has to wait until the runner has forked.
        try:
            faulthandler.dump_traceback_later(HARD_LIMIT - clock.elapsed(), exit=True, file=2)
        except RuntimeError as error:  # no thread to be had: the next round ends this one, should it hang
            log.warning("no-hard-limit", reason=str(error))
        self._results: dict[Test, Result] = {}
        for test, parameters in config.tests.items():
            if parameters is None:
                self._results[test] = runner.MISTAKEN
            else:
                self._runner.submit(test, config.plugin(test), parameters, self._result)
        settings = config.settings
        self.around = cluster.look_around(config.nodes, settings.listen, known)  # may take a while; the plugins run meanwhile
        self._me, self._open = self.around.me, frozenset[Test]()
        self._asker = peers.Asker(
            self._selector, self.around.peers, node_id, settings.listen, settings.port, digest(config.tests), clock.now
        )

    def observe(self, wanted: Observe) -> Observation:
        """Run every test, ask about those that fail or are open, and judge; the last answer is waited for until ANSWERS_BY."""
        self._open = wanted.open
        self._start_greeting(wanted.incidents)
        for test in list(self._results):
            self._ask(test)
        while self._runner and self._runner.pending and self._loop(OWN_RESULTS_BY):
            pass
        for test in self._config.tests.keys() - self._results.keys():
            self._result(test, _NOT_RUN)
        while (self._asker.pending or self._asker.greeting) and self._loop(ANSWERS_BY):
            pass
        self._end_plugins()
        if not self.around.listed and self._asker.echo:
            self._me = self._asker.echo
        judgements = {test: self._judge(test) for test in self._config.tests}
        return Observation(self._me, judgements, self._asker.statements, len(self.around.peers))

    def greet(self, wanted: Greet) -> Mapping[str, Statement]:
        """Greet all peers again; return the statements of this round."""
        self._start_greeting(wanted.incidents)
        while self._asker.greeting and self._loop(ANSWERS_BY):
            pass
        return self._asker.statements

    def close(self) -> None:
        """End whatever still runs; no plugin outlives this."""
        self._end_plugins()
        self._asker.close()
        self._selector.close()

    def _start_greeting(self, incidents: Sequence[Incident]) -> None:
        known = {known for incident in incidents for known in incident.ids}
        self._asker.greet(known.__contains__, [incident.ids for incident in incidents if incident.is_open])

    def _end_plugins(self) -> None:
        if self._runner:
            self._runner.close()
            self._runner = None

    def _loop(self, by: float) -> bool:
        """Do what is ready, or wait for it; say whether there is time left."""
        left = by - self._clock.elapsed()
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
        if self._ask_all or verdict.must_ask(self._own(test), incident_open=test in self._open):
            self._asker.ask(test)

    def _own(self, test: Test) -> Answer:
        return Answer(self._me, self._node_id, self._results[test])

    def _judge(self, test: Test) -> Judgement:
        quorum = self._config.settings.quorum
        return verdict.decide(self._own(test), self._asker.answers(test), quorum, incident_open=test in self._open)
