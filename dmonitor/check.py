"""The program dmonitor-check: options, user, lock, and then one round, a dry run, or one of the operator's questions.

What a round is stands in `round`, what is wrong with a configuration in `audit`. Exit statuses are those of
sysexits.h: 0 the round was completed, whatever it found; 64 usage; 70 a bug; 75 try again; 78 configuration.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dmonitor import observer
from dmonitor.base import cli, log, names, user
from dmonitor.base.errors import StateError
from dmonitor.config import cluster
from dmonitor.config.configuration import Configuration, load_configuration
from dmonitor.config.problems import did_you_mean, log_problems
from dmonitor.core import codec, digest, effects, model, round
from dmonitor.core.model import Judgement, Notification, Test, Vote
from dmonitor.store import identity, lock, state

if TYPE_CHECKING:
    import argparse

    from dmonitor.execution import delivery

PROGRAM = "dmonitor-check"
_OVERDUE = 120.0  # seconds after which a round that still holds the lock is taken to hang


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status, or, without ARGUMENTS of a caller's, leave with it."""
    chosen = _Chosen()
    cli.parse(_parser, chosen, arguments)
    if chosen.peers and chosen.test is None:
        _parser().error("--peers goes with --test")
    log.start(PROGRAM, to_stderr=chosen.verbose, verbose=chosen.verbose)
    os.umask(0o027)
    status = cli.guard(lambda: _run(chosen))
    if arguments is None:
        cli.leave(status)
    return status


def _run(chosen: _Chosen) -> int:
    if chosen.check_config or chosen.test_alert or chosen.dry_run or chosen.test is not None:
        user.become()
    else:
        user.become(chosen.state, chosen.run_dir)
        return _round(chosen)
    if chosen.check_config:
        from dmonitor.config import audit

        return audit.report(chosen.config, chosen.state, _troubles(chosen))
    return (
        _test_alert(chosen)
        if chosen.test_alert
        else _dry_run(chosen)
        if chosen.test is None
        else _one_test(chosen, chosen.test)
    )


def _troubles(chosen: _Chosen) -> Sequence[model.Trouble]:
    with contextlib.suppress(StateError, OSError):  # the next round says so
        return state.peek(chosen.state, chosen.run_dir)[2].troubles
    return ()


class _Chosen(cli.Options):
    once = dry_run = check_config = test_alert = peers = False
    test: str | None = None


def _parser() -> argparse.ArgumentParser:
    from dmonitor.base import options

    parser = options.make_parser(
        PROGRAM, "Run one round: test, ask the peers about what fails, mail what a quorum sees."
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="greet the peers once, and do not stay for what they find",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "-n",
        "--dry-run",
        action="store_true",
        help="test and ask, print who sees what; tell and store nothing",
    )
    what.add_argument(
        "-t", "--check-config", action="store_true", help="say what is wrong with the configuration"
    )
    what.add_argument(
        "--test-alert",
        action="store_true",
        help="mail every address a test, and run every hook; say what came of it",
    )
    what.add_argument(
        "--test", metavar="HOST/NAME", help="run one test as a round would; print its result"
    )
    parser.add_argument("--peers", action="store_true", help="with --test: ask everybody")
    return parser


def _round(chosen: _Chosen) -> int:
    """Run one round, unless another one runs."""
    began = time.monotonic()
    own = lock.Lock(chosen.state, "check")
    try:
        _take(own)
    except lock.Busy as busy:
        log.warning("round-skipped", reason=str(busy))
        return os.EX_TEMPFAIL
    own.write_holder(pidfile=False)
    try:
        return _locked_round(chosen, began)
    finally:
        own.release()


def _take(own: lock.Lock) -> None:
    """Take the lock, from a round that hangs by ending that."""
    try:
        own.take()
    except lock.Busy as busy:
        if not busy.pid or busy.age < _OVERDUE:
            raise
        log.error("round-hung", pid=busy.pid, seconds=int(busy.age))
        lock.end(busy.pid)
        own.take(patience=2)


def _locked_round(chosen: _Chosen, began: float) -> int:
    configuration = load_configuration(chosen.config)
    log_problems(configuration.problems)
    with state.Store(chosen.state, chosen.run_dir) as store:
        if not configuration.complete:  # whoever cannot be found may well be there
            configuration = configuration._replace(
                addresses=store.addresses(configuration.addresses)
            )
        all_told = _Driver(chosen, configuration, store, began).drive()
    faulthandler.cancel_dump_traceback_later()
    log.debug("round-finished", tests=len(configuration.tests), seconds=time.monotonic() - began)
    return os.EX_OK if all_told else os.EX_TEMPFAIL


class _Clock(NamedTuple):
    """The clocks of one round that began at BEGAN, monotonic."""

    began: float
    now: Callable[[], float]

    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def text(self, at: float) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(at - self.now() + time.time()))


class _Driver:
    """Does in earnest what the script of `round` wants done."""

    def __init__(
        self, chosen: _Chosen, configuration: Configuration, store: state.Store, began: float
    ) -> None:
        self._config, self._store = configuration, store
        self._clock = _Clock(began, store.clock.now)
        node_id, settings = identity.make(chosen.state), configuration.settings
        own_incarnation = functools.partial(lock.holder, chosen.state, "dmonitord")
        self._observer = observer.Observer(
            configuration, node_id, store.lookups(), self._clock, own_incarnation
        )
        store.remember(configuration.addresses, self._observer.around.addresses)
        tests, silences = (
            digest.digest(configuration.tests),
            tuple(map(store.clock.from_wall, configuration.silences)),
        )
        addresses, nodes, complete = (
            configuration.addresses,
            configuration.nodes,
            configuration.complete,
        )
        rules = (settings.quorum, settings.confirm, settings.flapping, settings.remind, chosen.once)
        self._setup = effects.RoundConfig(
            node_id, self._observer.tests, tests, addresses, silences, nodes, complete, *rules
        )
        self._deliveries: Iterator[tuple[str, delivery.Delivery]] = iter(())
        self._mails: Mapping[str, Sequence[Notification]] = {}
        self._me = ""

    def drive(self) -> bool:
        """Take the round; return whether all that was handed over was taken."""
        course = round.run_round(
            self._setup, self._store.memory(), self._clock, _note, state.fresh_id
        )
        came = None
        try:
            while True:
                came = self._do(course.send(came))
        except StopIteration as end:
            return bool(end.value)
        finally:
            self._observer.close()

    def _do(self, effect: effects.Effect) -> object:
        match effect:
            case effects.Observe():
                seen = self._observer.observe(effect)
                self._me = seen.me.name
                return seen
            case effects.Greet():
                return self._observer.greet(effect)
            case effects.Rehearse():
                return self._observer.rehearse(effect)
            case effects.Save():
                return self._store.save(effect)
            case effects.Wait(seconds):
                time.sleep(seconds)
            case effects.HandOver(mails):
                self._hand_over(mails)
            case effects.Next():
                return self._next()
            case effects.Complain(text):
                log.complain(text)
        return None

    def _hand_over(self, mails: Mapping[str, Sequence[Notification]]) -> None:
        from dmonitor.core import mail
        from dmonitor.execution import delivery

        settings, shift, now = self._config.settings, self._store.clock.to_wall(), time.time()
        letters = {}
        for address, told in mails.items():
            owed = [codec.shift_times(each, lambda at: at + shift) for each in told]
            if names.is_hook(address):
                letters[address] = delivery.Letter(
                    (self._config.hook(address),), *mail.compose_facts(owed, node=self._me, now=now)
                )
            else:
                content = mail.compose(owed, sender=settings.sender, node=self._me, now=now)
                letters[address] = delivery.mail(
                    content, address, sendmail=settings.sendmail, sender=settings.sender
                )
        self._mails = mails
        self._deliveries = delivery.send(
            letters, patience=observer.HANDED_OVER_BY - self._clock.elapsed()
        )

    def _next(self) -> tuple[str, bool] | None:
        for address, delivered in self._deliveries:
            event, write = ("handed-over", log.info) if delivered.taken else ("refused", log.error)
            for owed in self._mails[address]:
                known = owed.incident
                kind, reason = owed.kind.value, delivered.text or None
                write(
                    event,
                    address=address,
                    kind=kind,
                    test=str(known.test),
                    incident=known.id,
                    reason=reason,
                )
            return address, delivered.taken
        return None


def _note(level: str, event: str, /, **facts: log.Value) -> None:
    getattr(log, level)(event, **facts)


def _load_aloud(chosen: _Chosen) -> Configuration:
    """Read the configuration for a person at a terminal."""
    configuration = load_configuration(chosen.config)
    for problem in configuration.problems:
        log.complain(str(problem))
    return configuration


def _dry_run(chosen: _Chosen) -> int:
    """Test and ask, print who sees what; change nothing."""
    configuration = _load_aloud(chosen)
    if not configuration.tests:
        log.complain(f"nothing to test: no HOST/TEST in {configuration.directory}/hosts.d")
    seen, open_tests = look(chosen, configuration)
    for test, judgement in seen.judgements.items():
        print("\n".join(_describe(test, judgement, test in open_tests)))
    return os.EX_OK


def _one_test(chosen: _Chosen, name: str) -> int:
    """Run one test as a round would, print what came of it, and what the peers see if they are to be asked; change nothing."""
    configuration = load_configuration(chosen.config)
    name = name.removeprefix(f"{chosen.config}/hosts.d/")
    tests = {test: wants for test, wants in configuration.tests.items() if str(test) == name}
    for problem in configuration.problems:
        if not tests or problem.path == f"{chosen.config}/hosts.d/{name}":
            log.complain(str(problem))
    if not tests:
        hint = did_you_mean(name, map(str, configuration.tests))
        log.complain(f"no such test in {chosen.config}/hosts.d: '{names.printable(name)}'{hint}")
        return os.EX_USAGE
    if os.geteuid() and user.name() != user.find().pw_name:
        log.complain(f"run as user {user.name()}; rounds run it as {user.find().pw_name}")
    configuration = configuration._replace(
        tests=tests, nodes=configuration.nodes if chosen.peers else ()
    )
    seen, open_tests = look(chosen, configuration)
    (test,) = tests
    judgement = seen.judgements[test]
    lines = _describe(test, judgement, test in open_tests)
    print("\n".join(lines) if chosen.peers else lines[1].strip().partition(" ")[2].strip())
    return {Vote.PASSING: os.EX_OK, Vote.FAILING: 1, Vote.ABSTAIN: 3}[judgement.answers[0].vote]


def look(
    chosen: cli.Options, configuration: Configuration
) -> tuple[effects.Observation, frozenset[Test]]:
    """Test and ask as a round does, everybody about everything; return what is seen, and which tests have an open incident."""
    began = time.monotonic()
    node_id, incidents, _ = (
        state.peek(chosen.state, chosen.run_dir) if configuration.nodes else ("", (), None)
    )
    own_incarnation = functools.partial(lock.holder, chosen.state, "dmonitord")
    eyes = observer.Observer(
        configuration, node_id, {}, _Clock(began, time.time), own_incarnation, ask_all=True
    )
    open_tests = frozenset(known.test for known in incidents if known.is_open)
    try:
        observation = eyes.observe(effects.Observe(open_tests, tuple(incidents)))
    finally:
        eyes.close()
    faulthandler.cancel_dump_traceback_later()
    return observation, open_tests


def _describe(test: Test, judgement: Judgement, incident_open: bool) -> list[str]:
    """Return the lines that a dry run prints for one test: the verdict, then what each node sees."""
    verdict = judgement.verdict.value
    if len(judgement.answers) > 1:
        count = len(judgement.sites(Vote.FAILING))
        verdict += f": {names.pluralize(count, 'site')} failing, quorum {judgement.quorum}"
    if incident_open:
        verdict += ", incident open"
    width = max(len(answer.node.name) for answer in judgement.answers)
    lines = [f"{test}  {verdict}"]
    for answer in judgement.answers:
        duration = f"{answer.result.duration:6.2f} s" if answer.result else " " * 8
        lines.append(
            f"    {answer.node.name:<{width}}  {answer.seen:<9} {duration}  {answer.text}".rstrip()
        )
    return lines


def _test_alert(chosen: _Chosen) -> int:
    """Mail each address a test, and run each hook; say what sendmail and these answered."""
    from dmonitor.core import mail
    from dmonitor.execution import delivery

    configuration = _load_aloud(chosen)
    if not configuration.addresses:
        log.complain(f"nobody to mail: {configuration.directory}/alert.d names no address")
        return os.EX_CONFIG
    settings = configuration.settings
    me = cluster.resolve_cluster(configuration.nodes, settings, {}).me
    letters = {}
    for address in configuration.addresses:
        if names.is_hook(address):
            letters[address] = delivery.Letter(
                (configuration.hook(address),), *mail.compose_test_facts(node=me.name)
            )
        else:
            content = mail.compose_test(
                address, sender=settings.sender, node=me.name, now=time.time()
            )
            letters[address] = delivery.mail(
                content, address, sendmail=settings.sendmail, sender=settings.sender
            )
    deliveries = dict(delivery.send(letters, patience=60))
    for address, delivered in deliveries.items():
        where = "now look where it tells" if names.is_hook(address) else "now look into the mailbox"
        outcome = (
            f"taken by {letters[address].command[0]}: {where}" if delivered.taken else "not taken"
        )
        print(f"{address}: {outcome}" + (f": {delivered.text}" if delivered.text else ""))
        log.info(
            "test-alert",
            address=address,
            taken="yes" if delivered.taken else "no",
            text=delivered.text or None,
        )
    return os.EX_OK if all(delivered.taken for delivered in deliveries.values()) else os.EX_TEMPFAIL


if __name__ == "__main__":
    sys.exit(main())
