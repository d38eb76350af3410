"""Look a configuration over, as `dmonitor-check -t` does: every mistake, and whatever can never alert.

It reads more than a round does (plugins, names, sendmail) and changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable

from dmonitor.base import log, names, user
from dmonitor.base.names import pluralize
from dmonitor.config import cluster, keyfile, resolve
from dmonitor.config.configuration import Configuration, load_configuration
from dmonitor.config.nodes import line_of
from dmonitor.config.problems import Problems, Severity, did_you_mean
from dmonitor.core.model import Test, Trouble
from dmonitor.execution import plugin
from dmonitor.store import lock

_MISTAKES = ("cloned-id", "daemon-disagrees")  # troubles that do not end by themselves


def report(directory: str, state: str, troubles: Iterable[Trouble]) -> int:
    """Print what is wrong below DIRECTORY, and with STATE, to stderr, a line for each; return 0, or 78 for any error.

    TROUBLES are those that the last round found.
    """
    configuration = load_configuration(directory)
    around = cluster.look_around(configuration.nodes, configuration.settings, {})
    problems = Problems(configuration.problems)
    packages = examine(configuration, around, problems)
    if lock.holder(state, "dmonitord") is None:
        problems.warning(state, "dmonitord does not run on this node: its peers get no answer")
    if not os.path.exists(state):
        problems.error(
            state, "does not exist; root's first round makes it: no incident can be remembered"
        )
    elif not os.access(state, os.W_OK | os.X_OK):
        problems.error(state, f"not writable for user {user.name()}: no incident can be remembered")
    for each in troubles:
        if each.ended is None:
            (problems.error if each.kind in _MISTAKES else problems.warning)(
                state, f"{each.kind}, as of the last round: {each.text}"
            )
    for problem in problems:
        log.complain(str(problem))
    if packages:
        log.complain(
            f"the tests lack programs, which these packages have: apt install {' '.join(packages)}"
        )
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    hosts = {test.host for test in configuration.tests}
    hooks = sum(names.is_hook(address) for address in configuration.addresses)
    what = (
        f"{pluralize(len(hosts), 'host')}, {pluralize(len(configuration.tests), 'test')}, {pluralize(len(configuration.nodes), 'node')}"
        f" (this one is {around.me.name}), {pluralize(len(configuration.addresses) - hooks, 'address', 'es')}"
    )
    what += f", {pluralize(hooks, 'hook')}" if hooks else ""
    holding = sum(
        silence.until is None or silence.until > time.time() for silence in configuration.silences
    )
    what += f", {pluralize(holding, 'silence')}" if holding else ""
    outcome = (
        f"{pluralize(errors, 'error')}, {pluralize(len(problems) - errors, 'warning')}"
        if problems
        else "all well here; dmonitor-check -n asks the peers"
    )
    log.complain(f"{directory}: {what}: {outcome}")
    return os.EX_CONFIG if errors else os.EX_OK


def examine(configuration: Configuration, around: cluster.Cluster, problems: Problems) -> list[str]:
    """Add to PROBLEMS what `load_configuration` could not see; return the packages that the tests lack."""
    packages: set[str] = set()
    for test, parameters in configuration.tests.items():
        packages |= _plugin(configuration, test, parameters or {}, problems)
    for host in sorted({test.host for test in configuration.tests}):
        if (":" in host or not host.strip("0123456789.")) and not _is_address(host):
            problems.warning(
                f"{configuration.directory}/hosts.d/{host}",
                "neither a name nor an address: no host can be found by that",
            )
    for address in configuration.addresses:
        packages |= _recipient(configuration.hook(address), names.is_hook(address), problems)
    _nodes(configuration, around, problems)
    directory = configuration.directory
    if not configuration.tests:
        problems.warning(f"{directory}/hosts.d", "nothing to test: no HOST/TEST file")
    if not configuration.addresses:
        problems.error(f"{directory}/alert.d", "no address: this node will never mail anybody")
    for silence in configuration.silences:
        if silence.until is not None and silence.until <= time.time():
            ended = time.strftime("%a %d %b %Y %H:%M:%S %z", time.localtime(silence.until))
            path = os.path.join(directory, "silence.d", silence.host, silence.name).rstrip("/")
            problems.warning(path, f"ended on {ended}; remove it")
    sendmail = configuration.settings.sendmail
    if not all(map(names.is_hook, configuration.addresses)) and not (
        os.path.isfile(sendmail) and os.access(sendmail, os.X_OK)
    ):
        reason = "is not an executable file" if os.path.exists(sendmail) else "does not exist"
        problems.error(
            sendmail, f"sendmail {reason}: no mail can leave; install a mail transport agent"
        )
    return sorted(packages)


def _plugin(
    configuration: Configuration, test: Test, parameters: Iterable[str], problems: Problems
) -> set[str]:
    """Look at the plugin of TEST; return the packages that it lacks."""
    path = configuration.plugin(test)
    if not os.path.lexists(path):
        known = [
            name.removeprefix("check_")
            for name in _listing(os.path.dirname(path))
            if name.startswith("check_")
        ]
        suggestion = did_you_mean(test.plugin.removeprefix("check_"), known)
        problems.error(f"{configuration.directory}/hosts.d/{test}", f"no plugin {path}{suggestion}")
    elif fault := plugin.fault(path):
        problems.error(path, f"{fault}; needed for {test}")
    elif text := plugin.text(path):
        for key in parameters:
            if key not in text and key not in (
                "TIMEOUT",
                "PORT",
            ):  # a suffix sets PORT, and `wrap` heeds TIMEOUT
                hint = did_you_mean(key, set(re.findall("[A-Z][A-Z0-9_]{2,}", text)))
                problems.warning(
                    f"{configuration.directory}/hosts.d/{test}",
                    f"{test.plugin} makes nothing of {key}{hint}",
                )
        return _lacking(path, text, f"; needed for {test}", problems)
    return set()


def _lacking(path: str, text: str, whose: str, problems: Problems) -> set[str]:
    """Say what the script PATH, which says TEXT, needs and is not installed; return the packages that have it."""
    lacking = plugin.lacking(text)
    for program in lacking:
        problems.error(path, f"{program} is not installed{whose}")
    return set(lacking.values())


def _recipient(path: str, is_hook: bool, problems: Problems) -> set[str]:
    """Look at a file in alert.d; return the packages that it lacks as a hook."""
    if not is_hook:
        if plugin.text(path):
            problems.warning(
                path,
                "it is mailed, as an address; to be run, as a hook, it would have to be executable",
            )
        return set()
    if fault := plugin.fault(path):
        problems.error(path, fault.replace("chmod 755", "chmod 750 and chgrp dmonitor"))
        return set()
    return _lacking(path, plugin.text(path), ", which this hook needs", problems)


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(resolve.normal(host))
    return False


def _listing(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _nodes(configuration: Configuration, around: cluster.Cluster, problems: Problems) -> None:
    path = f"{configuration.directory}/nodes.txt"
    if not around.peers:
        problems.error(path, "no peers: nobody can agree with this node, and it will never alert")
    if not around.listed and configuration.nodes:
        problems.warning(
            path,
            f"no line is this machine's ({around.me.name}): peers will not answer it unless theirs has one",
        )
    for peer in around.peers:
        if not peer.addresses:
            line = line_of(configuration.directory, peer.node.name)
            problems.error(path, f"{peer.node.name}: {peer.reason}", line)
    if around.peers and configuration.keys is None:
        key = f"{configuration.directory}/{keyfile.KEY_FILES[0]}"
        problems.warning(key, keyfile.NO_KEY_ADVICE)
    if len(configuration.keys or ()) > 1:
        old = f"{configuration.directory}/{keyfile.KEY_FILES[1]}"
        problems.warning(
            old,
            "the old key is still taken; when all nodes have the new one, `dmonitor key drop` ends that",
        )
    sites = {around.me.site, *(peer.node.site for peer in around.peers)}
    quorum = configuration.settings.quorum
    if around.peers and len(sites) < quorum:
        which = ", ".join(sorted(sites))
        problems.error(
            path,
            f"{pluralize(len(sites), 'site')} ({which}) and quorum = {quorum}: no test can ever be DOWN",
        )
