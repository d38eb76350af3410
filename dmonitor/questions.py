"""What an operator asks of dmonitor-check: a dry run, some tests, a test alert (manual page).

None of it changes or stores anything. Rounds are for `driver`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fnmatch
import functools
import os
import time
from collections.abc import Collection, Mapping, Sequence

from dmonitor import driver, observer
from dmonitor.base import cli, clock, log, names, user
from dmonitor.base.errors import StateError
from dmonitor.config import cluster
from dmonitor.config.configuration import Configuration, load_configuration
from dmonitor.config.problems import did_you_mean
from dmonitor.core import effects, election
from dmonitor.core.model import Answer, Incident, Judgement, Test, Vote, node_test
from dmonitor.execution import delivery
from dmonitor.store import lock, state, taken

_TEST_ALERT_PATIENCE = 60  # seconds for all mails of --test-alert together


def check_config(options: cli.Options) -> int:
    """Print what is wrong with the configuration; return the exit status."""
    from dmonitor.config import audit

    incidents, memory = _last_memory(options)
    interval = None
    if len(memory.begins) > 1:
        interval = election.interval(memory.begins)
    down = None
    if memory.finished > 0.0:
        down = {each.test for each in incidents if each.is_open and not each.flapping}
    return audit.report(options.config, options.state, memory.troubles, interval, down)


def _last_memory(options: cli.Options) -> tuple[Sequence[Incident], effects.NodeMemory]:
    """Return what the last round remembered; nothing if the state cannot be read."""
    with contextlib.suppress(StateError, OSError):  # the next round complains of that
        _, incidents, node_memory = state.peek(options.state, options.run_dir)
        return incidents, node_memory
    return [], effects.NodeMemory()


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
    for line in _descriptions(observation.judgements, open_tests):
        print(line)
    return os.EX_OK


def some_tests(options: cli.Options, wanted: Sequence[str], *, peers: bool) -> int:
    """Run the tests that `wanted` names as a round runs them; print what is seen here.

    With `peers`, ask all of them, and print what each node sees. Return 1 if a test fails here, or
    else 3 if one is UNKNOWN, or else 0.
    """
    configuration = load_configuration(options.config)
    chosen = _chosen_tests(options, configuration, wanted)
    if not chosen:
        return os.EX_USAGE
    if os.geteuid() and user.name() != user.find().pw_name:
        log.complain(f"run as user {user.name()}; rounds run it as {user.find().pw_name}")
    of_hosts = {test: configuration.tests[test] for test in chosen if test.host != names.NODE}
    configuration = configuration._replace(tests=of_hosts)
    if not peers:
        named = tuple(node for node in configuration.nodes if node_test(node.name) in chosen)
        configuration = configuration._replace(nodes=named)
    observation, open_tests = look(options, configuration, ask_all=peers)
    judgements = {}
    for test, judgement in observation.judgements.items():
        if test in chosen:
            judgements[test] = judgement
    if not judgements:
        log.complain(f"{', '.join(map(str, chosen))} is this node itself")
        return os.EX_USAGE
    if peers:
        lines = _descriptions(judgements, open_tests)
    else:
        is_one = len(wanted) == len(chosen) == 1 and wanted[0].endswith(str(chosen[0]))
        lines = _own_results(judgements, with_names=not is_one)
    print("\n".join(lines))
    return _status_of({judgement.answers[0].vote for judgement in judgements.values()})


def _status_of(votes: Collection[Vote]) -> int:
    """Return the exit status for what this node sees of some tests."""
    if Vote.FAILING in votes:
        return 1
    return 3 if Vote.ABSTAIN in votes else os.EX_OK


def _chosen_tests(
    options: cli.Options, configuration: Configuration, wanted: Sequence[str]
) -> list[Test]:
    """Return the tests that `wanted` names: each word is a test, a host, a file or a pattern.

    Print what is wrong with their files. If a word names nothing, print that, and return nothing.
    """
    candidates = [*configuration.tests, *(node_test(node.name) for node in configuration.nodes)]
    hosts_directory = f"{options.config}/hosts.d"
    chosen: dict[Test, None] = {}
    unknown = []
    for word in wanted:
        name = word.removeprefix(f"{hosts_directory}/").rstrip("/")
        found = [test for test in candidates if _is_named(test, name)]
        chosen.update(dict.fromkeys(found))
        if not found:
            unknown.append(name)
    paths = [f"{hosts_directory}/{test}" for test in chosen]
    for problem in configuration.problems:
        if unknown or problem.path in paths:
            log.complain(str(problem))
    for name in unknown:
        hint = did_you_mean(name, map(str, candidates))
        log.complain(f"no such test in {hosts_directory}: '{names.printable(name)}'{hint}")
    return [] if unknown else list(chosen)


def _is_named(test: Test, name: str) -> bool:
    """Return whether `name`, which may be a shell pattern, fits the test or its host."""
    return fnmatch.fnmatchcase(str(test), name) or fnmatch.fnmatchcase(test.host, name)


def look(
    options: cli.Options, configuration: Configuration, *, ask_all: bool = True
) -> tuple[effects.Observation, frozenset[Test]]:
    """Observe as a round does, but with `ask_all` ask every peer about every test; change nothing.

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
        ask_all=ask_all,
    )
    open_tests = frozenset(incident.test for incident in incidents if incident.is_open)
    try:
        quorum = configuration.settings.quorum
        observation = eyes.observe(effects.Observe(open_tests, tuple(incidents), quorum))
    finally:
        eyes.close()
    faulthandler.cancel_dump_traceback_later()
    return observation, open_tests


def _descriptions(judgements: Mapping[Test, Judgement], open_tests: Collection[Test]) -> list[str]:
    """Return the lines that are printed for all tests."""
    lines = []
    for test, judgement in judgements.items():
        lines += _describe(test, judgement, test in open_tests)
    return lines


def _own_results(judgements: Mapping[Test, Judgement], *, with_names: bool) -> list[str]:
    """Return a line for what this node itself sees of each test."""
    width = max(len(str(test)) for test in judgements)
    lines = []
    for test, judgement in judgements.items():
        begin = f"{test!s:<{width}}  " if with_names else ""
        lines.append(names.escaped(f"{begin}{_seen(judgement.answers[0])}".rstrip()))
    return lines


def _seen(answer: Answer) -> str:
    """Return what a node sees, with how long its plugin ran."""
    duration = f"{answer.result.duration:6.2f} s" if answer.result else " " * 8
    return f"{answer.seen:<9} {duration}  {answer.text}"


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
        line = f"    {answer.node.name:<{width}}  {_seen(answer)}"
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
