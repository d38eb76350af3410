"""What an operator asks of dmonitor-check: a dry run, one test, a test alert (manual page).

None of it changes or stores anything. Rounds are for `driver`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import time
from collections.abc import Sequence

from dmonitor import driver, observer
from dmonitor.base import cli, clock, log, names, user
from dmonitor.base.errors import StateError
from dmonitor.config import cluster
from dmonitor.config.configuration import Configuration, load_configuration
from dmonitor.config.problems import did_you_mean
from dmonitor.core import effects, election
from dmonitor.core.model import Incident, Judgement, Test, Vote
from dmonitor.execution import delivery
from dmonitor.store import lock, state, taken

_TEST_ALERT_PATIENCE = 60  # seconds for all mails of --test-alert together


def check_config(options: cli.Options) -> int:
    """Print what is wrong with the configuration; return the exit status."""
    from dmonitor.config import audit

    memory = _last_memory(options)
    interval = None
    if len(memory.begins) > 1:
        interval = election.interval(memory.begins)
    return audit.report(options.config, options.state, memory.troubles, interval)


def _last_memory(options: cli.Options) -> effects.NodeMemory:
    """Return what the last round remembered; nothing if the state cannot be read."""
    with contextlib.suppress(StateError, OSError):  # the next round complains of that
        _, _, node_memory = state.peek(options.state, options.run_dir)
        return node_memory
    return effects.NodeMemory()


def _load_and_complain(options: cli.Options) -> Configuration:
    """Return the configuration, and print what is wrong with it on the operator's terminal."""
    configuration = load_configuration(options.config)
    for problem in configuration.problems:
        log.complain(str(problem))
    return configuration


def dry_run(options: cli.Options) -> int:
    """Run all tests, ask the peers about all of them, print who sees what."""
    configuration = _load_and_complain(options)
    if not configuration.tests:
        log.complain(f"nothing to test: no HOST/TEST in {configuration.directory}/hosts.d")
    observation, open_tests = look(options, configuration)
    for test, judgement in observation.judgements.items():
        print("\n".join(_describe(test, judgement, test in open_tests)))
    return os.EX_OK


def one_test(options: cli.Options, name: str, *, peers: bool) -> int:
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
    if not peers:
        configuration = configuration._replace(nodes=())
    observation, open_tests = look(options, configuration)
    judgement = observation.judgements[test]
    lines = _describe(test, judgement, test in open_tests)
    if peers:
        print("\n".join(lines))
    else:
        _, _, own_result = lines[1].strip().partition(" ")  # without the node's name
        print(own_result.strip())
    statuses = {Vote.PASSING: os.EX_OK, Vote.FAILING: 1, Vote.ABSTAIN: 3}
    return statuses[judgement.answers[0].vote]


def _find_test(options: cli.Options, configuration: Configuration, name: str) -> Test | None:
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
        lines.append(names.escaped(line.rstrip()))
    return lines


def test_alert(options: cli.Options) -> int:
    """Mail each address a test, and run each hook; print what sendmail and each hook answered."""
    from dmonitor.core import mail

    configuration = _load_and_complain(options)
    if not configuration.addresses:
        log.complain(f"nobody to mail: {configuration.directory}/alert.d names no address")
        return os.EX_CONFIG
    node = cluster.resolve_cluster(configuration.nodes, configuration.settings, {}).me.name
    configuration = configuration.with_sender(node)
    sender = configuration.settings.sender
    letters = {}
    for address in configuration.addresses:
        if names.is_hook(address):
            content, facts = mail.compose_test_facts(node=node)
            letters[address] = driver.hook_letter(configuration, address, content, facts)
        else:
            content = mail.compose_test(address, sender=sender, node=node, now=time.time())
            letters[address] = driver.mail_letter(configuration, address, content)
    all_taken = True
    taking = []
    # Every outcome is awaited first, so that the lines come together.
    for address, outcome in list(delivery.send(letters, patience=_TEST_ALERT_PATIENCE)):
        _print_outcome(address, letters[address].command[0], outcome)
        if outcome.taken:
            taking.append(address)
        all_taken = all_taken and outcome.taken
    if taking:
        taken.write(options.state, taking)
    return os.EX_OK if all_taken else os.EX_TEMPFAIL


def _print_outcome(address: str, program: str, outcome: delivery.Delivery) -> None:
    """Print and log what `program` answered to the test alert for `address`."""
    text = "not taken"
    if outcome.taken:
        where = "where it tells" if names.is_hook(address) else "into the mailbox"
        text = f"taken by {program}: now look {where}"
    if outcome.text:
        text += f": {outcome.text}"
    print(names.escaped(f"{address}: {text}"))
    taken = "yes" if outcome.taken else "no"
    log.info("test-alert", address=address, taken=taken, text=outcome.text or None)
