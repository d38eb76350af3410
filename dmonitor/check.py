"""The program dmonitor-check: options, user, lock, and then one round, a dry run, or one of the operator's questions.

What a round is stands in `round`, what is wrong with a configuration in `audit`. Exit statuses are those of
sysexits.h: 0 the round was completed, whatever it found; 64 usage; 70 a bug; 75 try again; 78 configuration.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence

from dmonitor import cluster, config, lock, log, program, round, state, user
from dmonitor.model import Judgement, Test, Vote

PROGRAM = "dmonitor-check"
_OVERDUE = 120.0  # seconds after which a round that still holds the lock is taken to hang


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    chosen = _parse(arguments)
    log.start(PROGRAM, to_stderr=chosen.verbose, verbose=chosen.verbose)
    os.umask(0o027)
    return program.guard(lambda: _run(chosen))


def _run(chosen: Namespace) -> int:
    if chosen.check_config or chosen.test_alert or chosen.dry_run:
        user.become()
    else:
        user.become(chosen.state)
        return _round(chosen)
    if chosen.check_config:
        from dmonitor import audit

        return audit.report(chosen.config, chosen.state)
    return _test_alert(chosen) if chosen.test_alert else _dry_run(chosen)


def _parse(arguments: Sequence[str] | None) -> Namespace:
    parser = program.parser(PROGRAM, "Run one round: test, ask the peers about what fails, mail what a quorum sees.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-n", "--dry-run", action="store_true", help="test and ask, print who sees what; tell and store nothing")
    what.add_argument("-t", "--check-config", action="store_true", help="say what is wrong with the configuration")
    what.add_argument("--test-alert", action="store_true", help="mail every address a test; say what sendmail answered")
    return parser.parse_args(arguments)


def _round(chosen: Namespace) -> int:
    """Run one round, unless another one runs."""
    began = time.monotonic()
    own = lock.Lock(chosen.state, "check")
    try:
        _take(own)
    except lock.Busy as busy:
        log.warning("round-skipped", reason=str(busy))
        return os.EX_TEMPFAIL
    own.state()
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


def _locked_round(chosen: Namespace, began: float) -> int:
    configuration = _load(chosen)
    node_id = state.node_id(chosen.state)
    with state.State(chosen.state) as store:
        standings, incidents = store.standings(), store.open_incidents()
        if not configuration.complete:  # whoever cannot be found may well be there
            configuration = dataclasses.replace(configuration, addresses=store.addresses(configuration.addresses))
        observation = round.observe(configuration, node_id, incidents, store.lookups(), began)
        store.remember(configuration.addresses, observation.found)
        now = time.time()
        steps = round.conclude(observation, standings, incidents, confirm=configuration.settings.confirm, now=now)
        round.record(store, configuration, steps, standings, incidents, now)
        all_told = round.tell(store, configuration, observation.me, now, began + round.HANDED_OVER_BY - time.monotonic())
    faulthandler.cancel_dump_traceback_later()
    log.debug("round-finished", tests=len(steps), seconds=time.monotonic() - began)
    return os.EX_OK if all_told else os.EX_TEMPFAIL


def _load(chosen: Namespace) -> config.Config:
    configuration = config.load(chosen.config)
    for problem in configuration.problems:
        log.warning("misconfigured", path=str(problem.path), line=problem.line, reason=problem.text)
    return configuration


def _load_aloud(chosen: Namespace) -> config.Config:
    """Read the configuration for a person at a terminal."""
    configuration = config.load(chosen.config)
    for problem in configuration.problems:
        log.complain(str(problem))
    return configuration


def _dry_run(chosen: Namespace) -> int:
    """Test and ask, print who sees what; change nothing."""
    began = time.monotonic()
    configuration = _load_aloud(chosen)
    node_id, incidents = state.peek(chosen.state)
    if not configuration.tests:
        log.complain(f"nothing to test: no HOST/TEST in {configuration.directory / 'hosts.d'}")
    observation = round.observe(configuration, node_id, incidents, {}, began, ask_all=True)
    faulthandler.cancel_dump_traceback_later()
    for test, judgement in observation.judgements.items():
        print("\n".join(_describe(test, judgement, test in incidents)))
    return os.EX_OK


def _describe(test: Test, judgement: Judgement, incident_open: bool) -> list[str]:
    """Return the lines that a dry run prints for one test: the verdict, then what each node sees."""
    verdict = judgement.verdict.value
    if len(judgement.answers) > 1:
        count = len(judgement.sites(Vote.FAILING))
        verdict += f": {count} {'site' if count == 1 else 'sites'} failing, quorum {judgement.quorum}"
    if incident_open:
        verdict += ", incident open"
    width = max(len(answer.node.name) for answer in judgement.answers)
    lines = [f"{test}  {verdict}"]
    for answer in judgement.answers:
        duration = f"{answer.result.duration:6.2f} s" if answer.result else " " * 8
        lines.append(f"    {answer.node.name:<{width}}  {answer.seen:<9} {duration}  {answer.text}".rstrip())
    return lines


def _test_alert(chosen: Namespace) -> int:
    """Mail each address a test; say what sendmail answered."""
    from dmonitor import message, notifier

    configuration = _load_aloud(chosen)
    if not configuration.addresses:
        log.complain(f"nobody to mail: {configuration.directory / 'alert.d'} names no address")
        return os.EX_CONFIG
    settings = configuration.settings
    me = cluster.look_around(configuration.nodes, settings.listen, {}).me
    mails = {
        address: message.compose_test(address, sender=settings.sender, node=me.name, now=time.time())
        for address in configuration.addresses
    }
    deliveries = notifier.send(mails, lambda *_: None, sendmail=settings.sendmail, sender=settings.sender, patience=60)
    for address, delivery in deliveries.items():
        outcome = f"taken by {settings.sendmail}: now look into the mailbox" if delivery.taken else "not taken"
        print(f"{address}: {outcome}" + (f": {delivery.text}" if delivery.text else ""))
        log.info("test-alert", address=address, taken="yes" if delivery.taken else "no", text=delivery.text or None)
    return os.EX_OK if all(delivery.taken for delivery in deliveries.values()) else os.EX_TEMPFAIL


if __name__ == "__main__":
    sys.exit(main())
