"""Look a configuration over, as `dmonitor-check -t` does: every mistake, and whatever can never alert.

It reads more than a round does (plugins, names, sendmail) and changes nothing.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from dmonitor import cluster, config, lock, log, names, user
from dmonitor.config import Config, Problem, Severity, did_you_mean
from dmonitor.model import Test


def report(directory: Path, state: Path) -> int:
    """Print what is wrong below DIRECTORY, and with STATE, to stderr, a line for each; return 0, or 78 for any error."""
    configuration = config.load(directory)
    around = cluster.look_around(configuration.nodes, configuration.settings.listen, {})
    problems = [*configuration.problems, *examine(configuration, around)]
    if not lock.is_held(state, "dmonitord"):
        problems.append(Problem(Severity.WARNING, state, "dmonitord does not run on this node: its peers get no answer"))
    if not os.access(state, os.W_OK | os.X_OK):
        reason = (
            f"not writable for user {user.name()}" if os.path.exists(state) else "does not exist; root's first round makes it"
        )
        problems.append(Problem(Severity.ERROR, state, f"{reason}: no incident can be remembered"))
    for problem in problems:
        log.complain(str(problem))
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    hosts = {test.host for test in configuration.tests}
    what = (
        f"{_count(len(hosts), 'host')}, {_count(len(configuration.tests), 'test')}, {_count(len(configuration.nodes), 'node')}"
        f" (this one is {around.me.name}), {_count(len(configuration.addresses), 'address', 'es')}"
    )
    holding = sum(silence.until is None or silence.until > time.time() for silence in configuration.silences)
    what += f", {_count(holding, 'silence')}" if holding else ""
    outcome = f"{_count(errors, 'error')}, {_count(len(problems) - errors, 'warning')}" if problems else "all well"
    log.complain(f"{directory}: {what}: {outcome}")
    return os.EX_CONFIG if errors else os.EX_OK


def _count(number: int, word: str, plural: str = "s") -> str:
    return f"{number} {word}{'' if number == 1 else plural}"


def examine(configuration: Config, around: cluster.Cluster) -> Iterator[Problem]:
    """Yield what `config.load` could not see."""
    for test in configuration.tests:
        yield from _plugin(configuration, test)
    yield from _nodes(configuration, around)
    directory = configuration.directory
    if not configuration.tests:
        yield Problem(Severity.WARNING, directory / "hosts.d", "nothing to test: no HOST/TEST file")
    if not configuration.addresses:
        yield Problem(Severity.ERROR, directory / "alert.d", "no address: this node will never mail anybody")
    for silence in configuration.silences:
        if silence.until is not None and silence.until <= time.time():
            ended = time.strftime("%a %d %b %Y %H:%M:%S %z", time.localtime(silence.until))
            yield Problem(Severity.WARNING, directory / "silence.d" / silence.host / silence.name, f"ended on {ended}; remove it")
    sendmail = Path(configuration.settings.sendmail)
    if not (os.path.isfile(sendmail) and os.access(sendmail, os.X_OK)):
        reason = "is not an executable file" if os.path.exists(sendmail) else "does not exist"
        yield Problem(Severity.ERROR, sendmail, f"sendmail {reason}: no mail can leave; install a mail transport agent")


def _plugin(configuration: Config, test: Test) -> Iterator[Problem]:
    file = configuration.directory / "hosts.d" / test.host / test.name
    plugin = configuration.plugin(test)
    try:
        status = os.stat(plugin)
    except OSError:
        if os.path.lexists(plugin):
            yield Problem(Severity.ERROR, plugin, f"a dangling link to {os.readlink(plugin)}, needed for {test}")
        else:
            known = sorted(entry.removeprefix("check_") for entry in _listing(plugin.parent) if entry.startswith("check_"))
            suggestion = did_you_mean(test.plugin.removeprefix("check_"), known)
            yield Problem(Severity.ERROR, file, f"no plugin {plugin}{suggestion}")
        return
    if not stat.S_ISREG(status.st_mode):
        yield Problem(Severity.ERROR, plugin, f"not a file, needed for {test}")
    elif not os.access(plugin, os.X_OK | os.R_OK):
        what = "readable" if os.access(plugin, os.X_OK) else "executable"
        yield Problem(Severity.ERROR, plugin, f"not {what} for user {user.name()}, needed for {test}; chmod 755 would make it so")
    elif reason := _cannot_start(plugin):
        yield Problem(Severity.ERROR, plugin, f"{reason}, needed for {test}")


def _cannot_start(plugin: Path) -> str:
    """Say why the kernel would not start PLUGIN, an executable file, or nothing."""
    try:
        with open(plugin, "rb") as file:
            head = file.read(256)
    except OSError:
        return ""  # it may be executed all the same
    if head.startswith(b"#!"):
        interpreter = os.fsdecode(head[2:].split(b"\n")[0].split()[0]) if head[2:].split() else ""
        return "" if os.access(interpreter, os.X_OK) else f"its interpreter '{names.printable(interpreter)}' does not exist"
    return "" if head.startswith(b"\x7fELF") else "neither a program nor a script with a #! line"


def _listing(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _nodes(configuration: Config, around: cluster.Cluster) -> Iterator[Problem]:
    path = configuration.directory / "nodes.txt"
    if not around.peers:
        yield Problem(Severity.ERROR, path, "no peers: nobody can agree with this node, and it will never alert")
    if not around.listed and configuration.nodes:
        yield Problem(
            Severity.WARNING,
            path,
            f"no line is this machine's ({around.me.name}): peers will not answer it unless theirs has one",
        )
    for peer in around.peers:
        if not peer.addresses:
            line = config.line_of(configuration.directory, peer.node.name)
            yield Problem(Severity.ERROR, path, f"{peer.node.name}: {peer.reason}", line)
    sites = {around.me.site, *(peer.node.site for peer in around.peers)}
    quorum = configuration.settings.quorum
    if around.peers and len(sites) < quorum:
        which = ", ".join(sorted(sites))
        yield Problem(
            Severity.ERROR, path, f"{_count(len(sites), 'site')} ({which}) and quorum = {quorum}: no test can ever be DOWN"
        )
