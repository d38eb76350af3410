"""Read this node's configuration and state into one NodeReport, for the verbs that show something.

It changes nothing. It becomes the user dmonitor first, because the state is not for everybody.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from dmonitor.base import cli, log, regular, user
from dmonitor.base.errors import StateError
from dmonitor.config.configuration import Configuration, load_configuration
from dmonitor.config.problems import Severity
from dmonitor.config.silences import holding
from dmonitor.core.model import Test, node_test
from dmonitor.operator import report
from dmonitor.store import durations, state

_ADVICE = "check that cron starts dmonitor-check"


class Reading(NamedTuple):
    """What was read."""

    view: report.NodeReport
    more: Any  # what the caller's own function returned
    configuration: Configuration


def read(
    options: cli.Options,
    more: Callable[[state.Store, report.NodeReport], Any] = lambda store, view: None,
    *,
    evidence: bool = False,
    trends: bool = False,
    quiet: bool = False,
) -> Reading:
    """Return what this node knows, with all times on the wall clock.

    `more` reads further in the same state. With `evidence`, the last change of each test has all
    answers and not only our own. With `trends`, there is how long looks took in the last 24 hours.
    Mistakes in the configuration are named unless `quiet`.
    Raise StateError if no round has run here yet.
    """
    user.become()
    if not _is_there(options):
        raise StateError(
            f"{options.state}/state.db does not exist: no round has run on this node; {_ADVICE}"
        )
    configuration = load(options, quiet=quiet)

    def read_all(store: state.Store) -> tuple[report.NodeReport, Any, str, str]:
        ahead = store.clock.to_wall()
        store.shift_times(ahead)
        view = view_of(configuration, store, evidence=evidence)
        view = view._replace(looks=durations.last_looks(options.run_dir, ahead))
        if trends:
            view = view._replace(trends=durations.trends(options.state, store.clock.now()))
        return view, more(store, view), store.history.broken, store.unusable

    try:
        with state.time_limit(options.state):
            found = state.read(options.state, options.run_dir, read_all)
    except state.NothingStored as error:
        raise StateError(f"{error}; {_ADVICE}") from None
    view, further, broken, unusable = found
    if broken:
        log.complain(f"part of the history cannot be read: {broken}")
    if unusable:
        log.complain(f"part of the state is left out, and the next round forgets it: {unusable}")
    return Reading(view, further, configuration)


def load(options: cli.Options, *, quiet: bool = False) -> Configuration:
    """Return the configuration; say how many mistakes it has, and the first, unless `quiet`."""
    configuration = load_configuration(options.config)
    errors = [problem for problem in configuration.problems if problem.severity is Severity.ERROR]
    if errors and not quiet:
        count = f"mistakes in the configuration: {len(errors)}"
        log.complain(f"{count}, see `dmonitor-check -t`; the first: {errors[0]}")
    return configuration


def _is_there(options: cli.Options) -> bool:
    """Return whether there is a state; raise OSError if it cannot be read."""
    for directory in (options.state, options.run_dir):
        if directory and _is_readable(f"{directory}/state.db"):
            return True
    return False


def _is_readable(path: str) -> bool:
    try:
        os.close(regular.open_file(path))
    except FileNotFoundError:
        return False
    return True


def view_of(
    configuration: Configuration, store: state.Store, *, evidence: bool = False
) -> report.NodeReport:
    """Return what this node knows, as `read` does; the times of `store` are on the wall clock."""
    memory = store.memory()
    me = memory.node.name or configuration.settings.name or os.uname().nodename
    if not configuration.complete:  # what cannot be read may well be there
        configuration = configuration.with_hidden(memory.test_states, store.addresses())
    tests: set[Test] = set(configuration.tests)
    view = report.NodeReport(
        me=me,
        now=time.time(),
        nodes=configuration.nodes,
        tests=tests,
        addresses=configuration.addresses,
        quorum=configuration.settings.quorum,
        node=memory.node,
        test_states=memory.test_states,
        latest=store.history.latest(memory.test_states, evidence=evidence),
        incidents=memory.incidents,
        outbox=memory.outbox,
        silences={**memory.silences, me: holding(configuration.silences, time.time())},
        unstored=store.failed,
        rebooted=store.clock.rebooted,
        whole=configuration.complete,
        behind=configuration.behind,
        wants=configuration.wants,
    )
    tests.update(node_test(node.name) for node in view.peers)
    return view
