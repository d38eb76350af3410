"""The program dmonitor-check: a round, a dry run, or one of the operator's questions.

It takes options, user and lock. `driver` carries a round out; `audit` finds what is wrong with a
configuration. The exit statuses are those of sysexits.h: 0 the round was completed, whatever it
found; 64 usage; 70 a bug; 75 try again; 78 configuration.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dmonitor import driver, observer
from dmonitor.base import cli, clock, log, names, user
from dmonitor.base.errors import StateError
from dmonitor.config import cluster
from dmonitor.config.configuration import Configuration, load_configuration
from dmonitor.config.problems import did_you_mean, log_problems
from dmonitor.core import effects
from dmonitor.core.model import Incident, Judgement, Test, Trouble, Vote
from dmonitor.store import lock, state

if TYPE_CHECKING:
    import argparse

    from dmonitor.execution import delivery

PROGRAM = "dmonitor-check"
# Seconds for which a round may hold the lock; then the next round ends it.
_ROUND_HANGS_AFTER = 120.0
_WAKE_PATIENCE = 2  # seconds to wait for a round that may only have slept with its machine
_END_PATIENCE = 2  # seconds to wait for the lock of a round that was ended
_TEST_ALERT_PATIENCE = 60  # seconds for all mails of --test-alert together


class Options(cli.Options):
    """The options of dmonitor-check, as they are by default."""

    once = False
    dry_run = False
    check_config = False
    test_alert = False
    peers = False
    test: str | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status, or leave with it if no `arguments` are passed."""
    options = Options()
    cli.parse(_parser, options, arguments)
    if options.peers and options.test is None:
        _parser().error("--peers needs --test")
    log.start(PROGRAM, to_stderr=options.verbose, verbose=options.verbose)
    os.umask(0o027)
    status = cli.guard(lambda: _run(options))
    if arguments is None:
        cli.leave(status)
    return status


def _parser() -> argparse.ArgumentParser:
    from dmonitor.base import options

    parser = options.make_parser(
        PROGRAM,
        "Run one round: run all tests, ask the peers about what fails, mail what a quorum sees.",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="greet the peers once, and do not stay for what they find",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "-n",
        "--dry-run",
        action="store_true",
        help="run all tests, ask the peers, print who sees what; mail and store nothing",
    )
    action.add_argument(
        "-t",
        "--check-config",
        action="store_true",
        help="print what is wrong with the configuration",
    )
    action.add_argument(
        "--test-alert",
        action="store_true",
        help="mail every address a test, run every hook, and print what each answered",
    )
    action.add_argument(
        "--test", metavar="HOST/NAME", help="run one test as a round runs it; print its result"
    )
    parser.add_argument("--peers", action="store_true", help="with --test: ask all peers too")
    return parser


def _run(options: Options) -> int:
    """Do what the options ask for; return the exit status."""
    is_question = options.check_config or options.test_alert or options.dry_run
    if not is_question and options.test is None:
        user.become(options.state, options.run_dir)
        return _round(options)
    user.become()
    if options.check_config:
        from dmonitor.config import audit

        return audit.report(options.config, options.state, _last_troubles(options))
    if options.test_alert:
        return _test_alert(options)
    if options.test is not None:
        return _one_test(options, options.test)
    return _dry_run(options)


def _last_troubles(options: Options) -> Sequence[Trouble]:
    """Return the troubles that the last round found; none if the state cannot be read."""
    with contextlib.suppress(StateError, OSError):  # the next round complains of that
        _, _, node_memory = state.peek(options.state, options.run_dir)
        return node_memory.troubles
    return ()


# A round.


def _round(options: Options) -> int:
    """Run one round, unless another one runs; return the exit status."""
    stopwatch = clock.Stopwatch()
    round_lock = lock.Lock(options.state, "check")
    try:
        _take(round_lock)
    except lock.Busy as busy:
        log.warning("round-skipped", reason=str(busy))
        return os.EX_TEMPFAIL
    round_lock.write_holder(pidfile=False)
    try:
        return _locked_round(options, stopwatch)
    finally:
        round_lock.release()


def _take(round_lock: lock.Lock) -> None:
    """Take the lock; raise lock.Busy if another round holds it. End that round if it hangs.

    A round that is as old because its machine slept ends by itself in a moment.
    """
    try:
        round_lock.take()
        return
    except lock.Busy as busy:
        if not busy.pid or busy.age < _ROUND_HANGS_AFTER:
            raise
    try:
        round_lock.take(patience=_WAKE_PATIENCE)
    except lock.Busy as busy:
        if not busy.pid or busy.age < _ROUND_HANGS_AFTER:
            raise
        log.error("round-hung", pid=busy.pid, seconds=int(busy.age))
        lock.end(busy.pid)
        round_lock.take(patience=_END_PATIENCE)


def _locked_round(options: Options, stopwatch: clock.Stopwatch) -> int:
    configuration = load_configuration(options.config)
    log_problems(configuration.problems)
    with state.Store(options.state, options.run_dir) as store:
        if not configuration.complete:
            # An address that cannot be read now may still be there, so it is mailed too.
            addresses = store.addresses(configuration.addresses)
            configuration = configuration._replace(addresses=addresses)
        is_complete = driver.Driver(
            configuration, store, directory=options.state, stopwatch=stopwatch, once=options.once
        ).drive()
    faulthandler.cancel_dump_traceback_later()
    log.debug("round-finished", tests=len(configuration.tests), seconds=stopwatch.elapsed())
    return os.EX_OK if is_complete else os.EX_TEMPFAIL


# The operator's questions. None of them changes or stores anything.


def _load_and_complain(options: Options) -> Configuration:
    """Return the configuration, and print what is wrong with it on the operator's terminal."""
    configuration = load_configuration(options.config)
    for problem in configuration.problems:
        log.complain(str(problem))
    return configuration


def _dry_run(options: Options) -> int:
    """Run all tests, ask the peers about all of them, print who sees what."""
    configuration = _load_and_complain(options)
    if not configuration.tests:
        log.complain(f"nothing to test: no HOST/TEST in {configuration.directory}/hosts.d")
    observation, open_tests = look(options, configuration)
    for test, judgement in observation.judgements.items():
        print("\n".join(_describe(test, judgement, test in open_tests)))
    return os.EX_OK


def _one_test(options: Options, name: str) -> int:
    """Run one test as a round runs it; print its result, and what the peers see if asked for.

    Return 0 if the test passes, 1 if it fails, 3 if it is UNKNOWN.
    """
    configuration = load_configuration(options.config)
    test = _find_test(options, configuration, name.removeprefix(f"{options.config}/hosts.d/"))
    if test is None:
        return os.EX_USAGE
    if os.geteuid() and user.name() != user.find().pw_name:
        log.complain(f"run as user {user.name()}; rounds run it as {user.find().pw_name}")
    configuration = configuration._replace(tests={test: configuration.tests[test]})
    if not options.peers:
        configuration = configuration._replace(nodes=())
    observation, open_tests = look(options, configuration)
    judgement = observation.judgements[test]
    lines = _describe(test, judgement, test in open_tests)
    if options.peers:
        print("\n".join(lines))
    else:
        _, _, own_result = lines[1].strip().partition(" ")  # without the node's name
        print(own_result.strip())
    statuses = {Vote.PASSING: os.EX_OK, Vote.FAILING: 1, Vote.ABSTAIN: 3}
    return statuses[judgement.answers[0].vote]


def _find_test(options: Options, configuration: Configuration, name: str) -> Test | None:
    """Return the test HOST/NAME; print what is wrong with its file, or why it is not there."""
    found = [test for test in configuration.tests if str(test) == name]
    for problem in configuration.problems:
        if not found or problem.path == f"{options.config}/hosts.d/{name}":
            log.complain(str(problem))
    if found:
        return found[0]
    hint = did_you_mean(name, map(str, configuration.tests))
    log.complain(f"no such test in {options.config}/hosts.d: '{names.printable(name)}'{hint}")
    return None


def look(
    options: cli.Options, configuration: Configuration
) -> tuple[effects.Observation, frozenset[Test]]:
    """Observe as a round does, but ask every peer about every test; change nothing.

    Return what is seen, and the tests that have an open incident.
    """
    stopwatch = clock.Stopwatch()
    node_id = ""
    incidents: Sequence[Incident] = ()
    if configuration.nodes:
        node_id, incidents, _ = state.peek(options.state, options.run_dir)
    eyes = observer.Observer(
        configuration,
        node_id,
        {},
        driver.Clock(stopwatch, time.time),
        functools.partial(lock.holder, options.state, "dmonitord"),
        ask_all=True,
    )
    open_tests = frozenset(incident.test for incident in incidents if incident.is_open)
    try:
        quorum = configuration.settings.quorum
        observation = eyes.observe(effects.Observe(open_tests, tuple(incidents), quorum))
    finally:
        eyes.close()
    faulthandler.cancel_dump_traceback_later()
    return observation, open_tests


def _describe(test: Test, judgement: Judgement, incident_open: bool) -> list[str]:
    """Return the lines that are printed for one test: the verdict, then what each node sees."""
    verdict = judgement.verdict.value
    if len(judgement.answers) > 1:
        failing = names.pluralize(len(judgement.sites(Vote.FAILING)), "site")
        verdict += f": {failing} failing, quorum {judgement.quorum}"
    if incident_open:
        verdict += ", incident open"
    width = max(len(answer.node.name) for answer in judgement.answers)
    lines = [f"{test}  {verdict}"]
    for answer in judgement.answers:
        duration = f"{answer.result.duration:6.2f} s" if answer.result else " " * 8
        line = f"    {answer.node.name:<{width}}  {answer.seen:<9} {duration}  {answer.text}"
        lines.append(line.rstrip())
    return lines


def _test_alert(options: Options) -> int:
    """Mail each address a test, and run each hook; print what sendmail and each hook answered."""
    from dmonitor.core import mail
    from dmonitor.execution import delivery

    configuration = _load_and_complain(options)
    if not configuration.addresses:
        log.complain(f"nobody to mail: {configuration.directory}/alert.d names no address")
        return os.EX_CONFIG
    settings = configuration.settings
    node = cluster.resolve_cluster(configuration.nodes, settings, {}).me.name
    letters = {}
    for address in configuration.addresses:
        if names.is_hook(address):
            content, facts = mail.compose_test_facts(node=node)
            letters[address] = driver.hook_letter(configuration, address, content, facts)
        else:
            content = mail.compose_test(address, sender=settings.sender, node=node, now=time.time())
            letters[address] = driver.mail_letter(configuration, address, content)
    all_taken = True
    # Every outcome is awaited first, so that the lines come together.
    for address, outcome in list(delivery.send(letters, patience=_TEST_ALERT_PATIENCE)):
        _print_outcome(address, letters[address].command[0], outcome)
        all_taken = all_taken and outcome.taken
    return os.EX_OK if all_taken else os.EX_TEMPFAIL


def _print_outcome(address: str, program: str, outcome: delivery.Delivery) -> None:
    """Print and log what `program` answered to the test alert for `address`."""
    text = "not taken"
    if outcome.taken:
        where = "where it tells" if names.is_hook(address) else "into the mailbox"
        text = f"taken by {program}: now look {where}"
    if outcome.text:
        text += f": {outcome.text}"
    print(f"{address}: {text}")
    taken = "yes" if outcome.taken else "no"
    log.info("test-alert", address=address, taken=taken, text=outcome.text or None)


if __name__ == "__main__":
    sys.exit(main())
