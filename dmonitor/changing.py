"""The verbs of dmonitor that change what is tested, on this node and on others: add, remove, push.

`command` starts them. What they do is in `operator`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from dmonitor.base import log, names
from dmonitor.config.configuration import load_configuration
from dmonitor.config.nodes import load_nodes
from dmonitor.config.problems import Problems
from dmonitor.operator import hosts, push
from dmonitor.operator.report import Facts
from dmonitor.verbs import Options

Show = Callable[[Facts, list[str]], int]  # shows the one or the other; returns an exit status


class Refused(Exception):
    """What was typed cannot be done; the text says why."""


def _add(chosen: Options, show: Show) -> int:
    """Make the files of tests."""
    problems = Problems()
    lines = hosts.lines_of(chosen.words, _required_source(chosen), problems)
    done = hosts.add(chosen.config, hosts.parse(lines, problems), problems)
    said = [f"added {test}" for test in done.changed]
    said += [f"{test} is there already" for test in done.unchanged]
    facts = {"added": done.changed, "unchanged": done.unchanged, "refused": done.refused}
    return _show_done(chosen, done, facts, said, show)


def _remove(chosen: Options, show: Show) -> int:
    """Remove the files of tests."""
    problems = Problems()
    lines = hosts.lines_of(chosen.words, _required_source(chosen), problems)
    done = hosts.remove(chosen.config, lines, problems)
    said = [f"removed {path}" for path in done.changed]
    facts = {"removed": done.changed, "refused": done.refused}
    return _show_done(chosen, done, facts, said, show)


def _required_source(chosen: Options) -> str | None:
    """Return the file that was named; raise Refused if neither that nor a word was typed."""
    if not chosen.words and not chosen.source:
        raise Refused("nothing is named: HOST TEST, HOST/TEST, or --from FILE")
    return chosen.source


def _show_done(
    chosen: Options, done: hosts.Done, facts: Facts, lines: list[str], show: Show
) -> int:
    """Show what was changed and what was wrong; return the exit status."""
    for problem in done.problems:
        log.complain(str(problem))
    if done.changed and len(load_nodes(chosen.config, Problems())) > 1:
        lines.append("the other nodes do not know of it: see dmonitor push")
    if lines or chosen.json:
        show(facts, list(map(names.escaped, lines)))
    return done.status


def _push(chosen: Options, show: Show) -> int:
    """Show how other nodes are configured otherwise, and change that if it is wanted."""
    may_ask = sys.stdin.isatty() and not chosen.json
    if not (may_ask or chosen.yes or chosen.dry_run):
        raise Refused("nobody can be asked here: give --yes, or --dry-run only to see")
    configuration = load_configuration(chosen.config)
    if mistakes := push.mistakes(configuration):
        for line in [*mistakes, "nothing was pushed, because of what is wrong here"]:
            log.complain(line)
        return os.EX_CONFIG
    login = push.Login(chosen.config, chosen.user)
    nodes = push.find(configuration, chosen.nodes)
    say = _say_nothing if chosen.json else print
    push.look(nodes, login, say)
    if not chosen.dry_run and (chosen.yes or push.is_wanted(nodes)):
        push.change(nodes, login, say)
    if chosen.json:
        show({"nodes": [node.facts() for node in nodes]}, [])
    return push.status(nodes)


def _say_nothing(text: str) -> None:
    """Drop a line that is for people."""


VERBS: dict[str, Callable[[Options, Show], int]] = {"add": _add, "remove": _remove, "push": _push}
