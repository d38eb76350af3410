"""The program dmonitor-check: a round, a dry run, or one of the operator's questions.

It takes options, user, place and lock. `driver` carries a round out; `stay` waits after it;
`questions` answers an operator. A process waits for its place before it loads what a round needs,
because it must be small until then. The exit statuses are those of sysexits.h: 0 the round was
completed, whatever it found; 64 usage; 70 a bug; 75 try again; 78 configuration.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dmonitor.base import cli, clock, cron, log, names, user
from dmonitor.store import doorbell, lock, place

if TYPE_CHECKING:
    import argparse

    from dmonitor.config.configuration import Configuration
    from dmonitor.core import effects
    from dmonitor.store.state import Store

PROGRAM = "dmonitor-check"
# Seconds after which a process that holds the lock hangs; then the next round ends it. It may have
# waited a minute for its place before it took the lock.
_ROUND_HANGS_AFTER = 180.0
# Seconds for which a round that cron has started waits for the lock: the one before may be slow, or
# may have begun later in its minute than this one.
_LOCK_PATIENCE = 30.0
_WAKE_PATIENCE = 2  # seconds to wait for a round that may only have slept with its machine
_END_PATIENCE = 2  # seconds to wait for the lock of a round that was ended
# Seconds before this node's next round is due, from which it stays no longer. What wakes it then is
# told by the next round.
_STAY_ENDS_BEFORE = 3.0
_LONGEST_STAY = 300.0  # seconds


class Options(cli.Options):
    """The options of dmonitor-check, as they are by default."""

    once = False
    woken = False
    is_program = False  # this process is for nothing else
    dry_run = False
    check_config = False
    test_alert = False
    peers = False
    test: Sequence[str] | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status, or leave with it if no `arguments` are passed."""
    options = Options()
    options.is_program = arguments is None
    cli.parse(_parser, options, arguments)
    if options.peers and options.test is None:
        _parser().error("--peers needs --test")
    # If cron mailed the log, it would mail whatever a round finds.
    is_read = _is_round(options) and log.is_lost() and not cron.is_known_to_mail()
    is_read = is_read or (_is_round(options) and _is_watched())
    log.start(PROGRAM, to_stderr=options.verbose or is_read, verbose=options.verbose)
    os.umask(0o027)
    status = cli.guard(lambda: _run(options))
    if arguments is None:
        cli.leave(status)
    return status


def _parser() -> argparse.ArgumentParser:
    import argparse

    from dmonitor.base import options

    parser = options.make_parser(
        PROGRAM,
        "Run one round: run all tests, ask the peers about what fails, mail what a quorum sees.",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="begin at once, greet the peers once, and do not stay for what they find",
    )
    # For the process that stays, and for nobody else.
    parser.add_argument("--woken", action="store_true", help=argparse.SUPPRESS)
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
        "--test",
        metavar="HOST[/NAME]",
        nargs="+",
        help="run tests as a round runs them; print their results; shell patterns will do, too",
    )
    parser.add_argument("--peers", action="store_true", help="with --test: ask all peers too")
    return parser


def _run(options: Options) -> int:
    """Do what the options ask for; return the exit status."""
    if _is_round(options):
        user.become(options.state, options.run_dir)
        return _round(options)
    user.become()
    from dmonitor import questions

    if options.check_config:
        return questions.check_config(options)
    if options.test_alert:
        return questions.test_alert(options)
    if options.test is not None:
        return questions.some_tests(options, options.test, peers=options.peers)
    return questions.dry_run(options)


def _is_round(options: Options) -> bool:
    """Return whether a round is to be run: nothing that only answers an operator."""
    is_question = options.check_config or options.test_alert or options.dry_run
    return not is_question and options.test is None


def _round(options: Options) -> int:
    """Run one round, unless another one goes on and on; return the exit status.

    The node that would speak stays afterwards, and does not return before the next round is due.
    """
    is_unattended = options.is_program and not options.once and not _has_terminal()
    is_scheduled = is_unattended and not options.woken
    started = clock.Stopwatch()
    if is_scheduled:
        _wait_for_place(place.read(options.state))
    round_lock = lock.Lock(options.state, "check")
    try:
        _take(round_lock, _LOCK_PATIENCE if is_unattended else 0.0)
    except lock.Busy as busy:
        log.warning("round-skipped", reason=str(busy))
        return os.EX_TEMPFAIL
    round_lock.write_holder(pidfile=False)
    try:
        if is_scheduled and doorbell.was_rung(options.state):
            # Somebody waits for what this node is to tell; its own tests may take long.
            _locked_round(options, started, woken=True)
        round_end, heartbeats = _locked_round(options, started, woken=options.woken)
    finally:
        round_lock.release()
    if heartbeats:  # what asks them must not inherit the lock
        from dmonitor.execution import heartbeat

        heartbeat.start(heartbeats)
    if not round_end.completed:
        return os.EX_TEMPFAIL
    if round_end.stays and is_scheduled:
        _stay(options, round_end, started)
    return os.EX_OK


def _has_terminal() -> bool:
    """Return whether a person may wait for this round.

    Such a round starts no program in its own place. If root started it, a plugin of another round
    could attach to that program, and type as root. It cannot attach to a process that has given up
    root and is still the same program.
    """
    if any(os.isatty(stream) for stream in (0, 1, 2)):
        return True
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _is_watched() -> bool:
    """Return whether a person at a terminal sees what this process says."""
    return os.isatty(2)


def _wait_for_place(seconds: float) -> None:
    """Wait; begin anew, and at once, if dmonitor was upgraded meanwhile.

    Otherwise this round would be made of two versions.
    """
    before = os.stat(__file__).st_ino
    clock.wait_idle(seconds)
    if os.stat(__file__).st_ino != before:
        log.info("upgraded", reason="this round begins anew with the new version")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], "--once"])


def _stay(options: Options, round_end: effects.RoundEnd, started: clock.Stopwatch) -> None:
    """Become the small process that waits to be woken until the next round is due (rule R5).

    It takes the place of this one, so that cron and an operator see one process. Return if there is
    no time left, or if the program for that cannot be started.
    """
    next_round = round_end.interval * 60.0 + (round_end.place or 0.0) - started.elapsed()
    seconds = min(next_round - _STAY_ENDS_BEFORE, _LONGEST_STAY)
    if seconds <= 0 or not sys.executable:
        return
    from dmonitor.execution import processes

    program = os.path.join(os.path.dirname(__file__), "stay.py")
    bell = f"{options.state}/{doorbell.NAME}"
    until = f"{clock.uptime() + seconds:.1f}"
    again = [sys.executable, *sys.orig_argv[1:], "--woken"]
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with contextlib.suppress(OSError):  # the program may be removed or replaced just now
        processes.stop_being_subreaper()
        if os.access(program, os.R_OK):
            os.execv(sys.executable, [sys.executable, "-IS", program, bell, until, *again])


def _take(round_lock: lock.Lock, patience: float = 0.0) -> None:
    """Take the lock within `patience` seconds; raise lock.Busy if another round holds it.

    End that round if it hangs.

    A round that is as old because its machine slept ends by itself in a moment.
    """
    try:
        round_lock.take(patience)
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


def _locked_round(
    options: Options, started: clock.Stopwatch, *, woken: bool
) -> tuple[effects.RoundEnd, Mapping[str, str]]:
    """Run a round; leave the place of the next one. With `woken` it only tells.

    `started` runs since cron has started this process. Return what the round leaves, and the URLs
    that are to be asked because it has found this node able to alert.
    """
    import faulthandler

    from dmonitor import driver
    from dmonitor.config.configuration import load_configuration
    from dmonitor.config.problems import log_problems
    from dmonitor.store import state

    stopwatch = clock.Stopwatch()
    configuration = load_configuration(options.config)
    log_problems(configuration.problems)
    with state.Store(options.state, options.run_dir) as store:
        if not configuration.complete:
            # What cannot be read now may still be there.
            configuration = configuration.with_hidden(store.test_states(), store.addresses())
        if _is_watched():
            _say_what_begins(configuration)
        round_end = driver.Driver(
            configuration,
            store,
            directory=options.state,
            run_dir=options.run_dir,
            stopwatch=stopwatch,
            once=options.once,
            waited=started.elapsed(),
            woken=woken,
        ).drive()
        if _is_watched():
            _say_what_came_of_it(configuration, store, round_end, stopwatch.elapsed())
    faulthandler.cancel_dump_traceback_later()
    offset = configuration.settings.offset
    if not woken and round_end.place is not None:
        next_place = place.write(options.state, round_end.place if offset is None else offset)
        round_end = round_end._replace(place=next_place)
    log.debug("round-finished", tests=len(configuration.tests), seconds=stopwatch.elapsed())
    return round_end, configuration.heartbeats if round_end.able else {}


def _say_what_begins(configuration: Configuration) -> None:
    """Tell the person at the terminal what this round is about to do."""
    tests = names.pluralize(len(configuration.tests), "test")
    nodes = names.pluralize(len(configuration.nodes), "node")
    log.complain(f"a round begins: {tests}, {nodes}; what it has to tell is mailed")


def _say_what_came_of_it(
    configuration: Configuration, store: Store, round_end: effects.RoundEnd, seconds: float
) -> None:
    """Tell the person at the terminal how the tests are, and what is still owed."""
    from dmonitor.core import model
    from dmonitor.operator import reader, report

    store.shift_times(store.clock.to_wall())
    view = reader.view_of(configuration, store)
    verdicts = [test_state.verdict for test_state in view.test_states.values()]
    counts = []
    for verdict in model.Verdict:
        if verdict in verdicts:
            counts.append(f"{verdicts.count(verdict)} {verdict.value}")
    count = report.ability(view)["owed"]
    owed = f"{count} owed" if count else "nothing owed"
    end = "has ended" if round_end.completed else "is not complete, the next one goes on"
    log.complain(f"the round {end}: {', '.join(counts) or 'no tests'}; {owed}; {seconds:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
