"""Look a configuration over for `dmonitor-check -t`: every mistake, and all that cannot alert.

It looks further than a round does: at plugins, hooks, names and sendmail. It changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Collection, Iterable

from dmonitor.base import log, names, user
from dmonitor.base.names import pluralize
from dmonitor.config import keyfile, resolve
from dmonitor.config.cluster import Cluster, resolve_cluster
from dmonitor.config.configuration import Configuration, load_configuration
from dmonitor.config.nodes import line_of
from dmonitor.config.problems import Problems, Severity, did_you_mean
from dmonitor.config.rhythms import read_duration
from dmonitor.config.tests import RHYTHM
from dmonitor.core.model import Silence, Test, Trouble
from dmonitor.execution import plugin
from dmonitor.store import lock

# Troubles that do not end by themselves.
_LASTING_TROUBLES = ("cloned-id", "daemon-disagrees")
# Parameters that every plugin may get: a suffix of the test's name sets PORT, and `wrap` heeds
# TIMEOUT. EVERY and RETRY are dmonitor's own.
_LEAST_ROOM = 1_000_000  # bytes; a round writes its state, and what sqlite needs beside it
_COMMON_PARAMETERS = ("TIMEOUT", "PORT", *RHYTHM)
_PLUGIN_PREFIX = "check_"
_KEY_LINES = "`dmonitor key new` with the names of all nodes makes such lines"


def report(
    directory: str, state: str, troubles: Iterable[Trouble], interval: int | None = None
) -> int:
    """Print each problem below `directory` and with `state` to stderr, and then a summary.

    `troubles` are those that the last round knew, `interval` is the minutes from one round to the
    next, if that is known. Return the exit status: EX_CONFIG if there is an error.
    """
    configuration = load_configuration(directory)
    cluster = resolve_cluster(configuration.nodes, configuration.settings, {})
    problems = Problems(configuration.problems)
    packages = examine(configuration, cluster, problems)
    if interval:
        _examine_rhythms(configuration, interval, problems)
    _examine_state(state, problems)
    _add_troubles(state, troubles, problems)
    for problem in problems:
        log.complain(str(problem))
    if packages:
        log.complain(f"programs are missing; install them: apt install {' '.join(packages)}")
    errors = 0
    for problem in problems:
        if problem.severity is Severity.ERROR:
            errors += 1
    outcome = "all well here; dmonitor-check -n asks the peers"
    if problems:
        warnings = len(problems) - errors
        outcome = f"{pluralize(errors, 'error')}, {pluralize(warnings, 'warning')}"
    log.complain(f"{directory}: {_inventory(configuration, cluster)}: {outcome}")
    if errors:
        return os.EX_CONFIG
    return os.EX_OK


def _examine_rhythms(configuration: Configuration, interval: int, problems: Problems) -> None:
    """Find each EVERY or RETRY in a test's file that is less than `interval` minutes."""
    for test in configuration.rhythms:
        parameters = configuration.tests[test] or {}
        for key in RHYTHM:
            if key in parameters and read_duration(parameters[key]) < 60 * interval:
                path = f"{configuration.directory}/hosts.d/{test}"
                text = f"{key}={parameters[key]}: rounds come every {interval} min on this node"
                problems.error(path, f"{text}; give {interval}m or more, or remove the line")


def _examine_state(state: str, problems: Problems) -> None:
    """Find out whether the daemon runs and a round can remember anything."""
    if lock.holder(state, "dmonitord") is None:
        text = "dmonitord does not run on this node, so its peers get no answer; start it"
        problems.warning(state, text)
    if not os.path.exists(state):
        text = (
            "does not exist, so no incident can be remembered; the first round that root starts"
            " makes it"
        )
        problems.error(state, text)
    elif not os.access(state, os.W_OK | os.X_OK):
        text = (
            f"is not writable for user {user.name()}, so no incident can be remembered;"
            " change its owner"
        )
        problems.error(state, text)
    elif _is_full(state):
        text = "there is no room on its disk, so no incident can be remembered; make room"
        problems.error(state, text)


def _is_full(directory: str) -> bool:
    """Return whether the file system of `directory` has no room for dmonitor, or for one file."""
    status = os.statvfs(directory)
    has_inodes = not status.f_files or status.f_favail  # some file systems do not count them
    return status.f_bavail * status.f_frsize < _LEAST_ROOM or not has_inodes


def _add_troubles(state: str, troubles: Iterable[Trouble], problems: Problems) -> None:
    """Add the troubles that are not over."""
    for trouble in troubles:
        if trouble.ended is not None:
            continue
        text = f"{trouble.kind}, as of the last round: {trouble.text}"
        if trouble.kind in _LASTING_TROUBLES:
            problems.error(state, text)
        else:
            problems.warning(state, text)


def _inventory(configuration: Configuration, cluster: Cluster) -> str:
    """Return how many hosts, tests, nodes, addresses, hooks and silences there are."""
    hosts = {test.host for test in configuration.tests}
    hooks = [address for address in configuration.addresses if names.is_hook(address)]
    silences = [silence for silence in configuration.silences if not _is_over(silence)]
    counts = [
        pluralize(len(hosts), "host"),
        pluralize(len(configuration.tests), "test"),
        f"{pluralize(len(configuration.nodes), 'node')} (this one is {_my_names(cluster)})",
        pluralize(len(configuration.addresses) - len(hooks), "address", "es"),
    ]
    if hooks:
        counts.append(pluralize(len(hooks), "hook"))
    if silences:
        counts.append(pluralize(len(silences), "silence"))
    return ", ".join(counts)


def _my_names(cluster: Cluster) -> str:
    """Return the name of this node, and those of its other lines, which nobody asks as peers."""
    others = sorted(cluster.my_names - {cluster.me.name})
    if not others:
        return cluster.me.name
    return f"{cluster.me.name}, and also {', '.join(others)}"


def _is_over(silence: Silence) -> bool:
    return silence.until is not None and silence.until <= time.time()


def examine(configuration: Configuration, cluster: Cluster, problems: Problems) -> list[str]:
    """Add to `problems` what `load_configuration` does not look at.

    Return the packages that have the programs which plugins and hooks need, and which are not
    installed.
    """
    packages = _examine_tests(configuration, problems)
    packages |= _examine_recipients(configuration, problems)
    _examine_nodes(configuration, cluster, problems)
    _examine_keys(configuration, cluster, problems)
    _examine_quorum(configuration, cluster, problems)
    _examine_completeness(configuration, problems)
    _examine_silences(configuration, problems)
    _examine_sendmail(configuration, problems)
    return sorted(packages)


def _examine_tests(configuration: Configuration, problems: Problems) -> set[str]:
    """Look at the plugin of each test and at the name of each host; return missing packages."""
    packages: set[str] = set()
    for test, parameters in configuration.tests.items():
        packages |= _examine_plugin(configuration, test, parameters or {}, problems)
    for host in sorted({test.host for test in configuration.tests}):
        if _looks_like_address(host) and not _is_address(host):
            text = "is neither a host name nor an address, so it cannot be found; rename it"
            problems.warning(f"{configuration.directory}/hosts.d/{host}", text)
    return packages


def _examine_plugin(
    configuration: Configuration, test: Test, parameters: Collection[str], problems: Problems
) -> set[str]:
    """Look at the plugin of `test`, which gets `parameters`; return missing packages."""
    path = configuration.plugin(test)
    test_path = f"{configuration.directory}/hosts.d/{test}"
    if not os.path.lexists(path):
        plugins = _plugin_names(os.path.dirname(path))
        hint = did_you_mean(test.plugin.removeprefix(_PLUGIN_PREFIX), plugins)
        problems.error(test_path, f"no plugin {path}{hint}")
        return set()
    fault = plugin.fault(path)
    if fault:
        problems.error(path, f"{fault}; needed for {test}")
        return set()
    script = plugin.text(path)
    if not script:
        return set()
    _examine_parameters(test, parameters, script, test_path, problems)
    return _missing_packages(path, script, f"needed for {test}", problems)


def _examine_parameters(
    test: Test, parameters: Collection[str], script: str, path: str, problems: Problems
) -> None:
    """Name the parameters of `test` that its plugin, the `script`, does not know.

    A plugin whose head states its parameters takes no other one. Of any other script it is only
    known which words occur in it.
    """
    stated = plugin.stated_parameters(script)
    known = {*stated, *RHYTHM}
    if test.name.partition(":")[2].isdigit():
        known.add(
            "PORT"
        )  # which the name of the test sets, even if it is only there to tell tests apart
    for parameter in parameters:
        if stated and parameter not in known:
            hint = did_you_mean(parameter, stated) or f"; it has {', '.join(stated)}"
            problems.error(path, f"{test.plugin} has no parameter {parameter}{hint}")
        elif not stated and parameter not in script and parameter not in _COMMON_PARAMETERS:
            hint = did_you_mean(parameter, set(re.findall("[A-Z][A-Z0-9_]{2,}", script)))
            problems.warning(path, f"{test.plugin} does not use {parameter}{hint}")


def _plugin_names(directory: str) -> list[str]:
    """Return the names of the plugins in `directory`, without their prefix."""
    plugins = []
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(directory)):
            if name.startswith(_PLUGIN_PREFIX):
                plugins.append(name.removeprefix(_PLUGIN_PREFIX))
    return plugins


def _missing_packages(path: str, script: str, purpose: str, problems: Problems) -> set[str]:
    """Add an error for each program that `script` needs and that is not installed.

    Return the packages that have these programs.
    """
    lacking = plugin.lacking(script)
    for program in lacking:
        problems.error(path, f"{program} is not installed; {purpose}")
    return set(lacking.values())


def _looks_like_address(host: str) -> bool:
    """Return whether `host` cannot be a host name: it has a colon, or only digits and dots."""
    return ":" in host or not host.strip("0123456789.")


def _is_address(host: str) -> bool:
    try:
        resolve.parse_address(host)
    except ValueError:
        return False
    return True


def _examine_recipients(configuration: Configuration, problems: Problems) -> set[str]:
    """Look at each file in alert.d; return packages that hooks miss."""
    packages: set[str] = set()
    for address in configuration.addresses:
        path = configuration.hook(address)
        if names.is_hook(address):
            packages |= _examine_hook(path, problems)
        elif plugin.text(path):
            text = (
                "is a script, but it is mailed as an address, because it is not executable;"
                " if it is a hook, chmod 750 and chgrp dmonitor"
            )
            problems.warning(path, text)
    return packages


def _examine_hook(path: str, problems: Problems) -> set[str]:
    """Look at the hook `path`; return missing packages."""
    fault = plugin.fault(path)
    if fault:
        # A hook often holds a password, so it is not made readable for everybody.
        problems.error(path, fault.replace("chmod 755", "chmod 750 and chgrp dmonitor"))
        return set()
    return _missing_packages(path, plugin.text(path), "this hook needs it", problems)


def _examine_nodes(configuration: Configuration, cluster: Cluster, problems: Problems) -> None:
    """Look at the names in nodes.txt."""
    path = f"{configuration.directory}/nodes.txt"
    if not cluster.peers:
        text = (
            "no peers, so nobody can agree with this node, and it will never alert;"
            " add a line for each node"
        )
        problems.error(path, text)
    if not cluster.listed and configuration.nodes:
        text = (
            f"no line is for this machine ({cluster.me.name}), and a peer answers only nodes that"
            " its nodes.txt lists; add a line, on all nodes"
        )
        problems.warning(path, text)
    for peer in cluster.peers:
        if not peer.addresses:
            line = line_of(configuration.directory, peer.node.name)
            problems.error(path, f"{peer.node.name}: {peer.reason}", line)


def _examine_keys(configuration: Configuration, cluster: Cluster, problems: Problems) -> None:
    """Look for nodes without a key and keys without a node; warn if an old key is still there."""
    key_name, old_key_name = keyfile.KEY_FILES
    path = f"{configuration.directory}/{key_name}"
    keys = configuration.keys
    if keys is None:
        if cluster.peers:
            problems.warning(path, keyfile.NO_KEY_ADVICE)
        return
    if keys.are_usable:
        _examine_key_lines(path, configuration, cluster, keys, problems)
    if len(keys.sets) > 1:
        text = (
            "the old key is still accepted; when all nodes have the new one, run"
            " `dmonitor key drop` on each"
        )
        problems.warning(f"{configuration.directory}/{old_key_name}", text)


def _examine_key_lines(
    path: str,
    configuration: Configuration,
    cluster: Cluster,
    keys: keyfile.Keys,
    problems: Problems,
) -> None:
    """Look for what is missing or too much where each pair of nodes has a key."""
    for node in configuration.nodes:
        if node.name == cluster.me.name and not keys.for_peer(node.name):
            text = (
                f"no line for {node.name}, this node itself, so it cannot rehearse with its own"
                " daemon"
            )
            problems.error(path, f"{text}; {_KEY_LINES}")
        elif node.name not in cluster.my_names and not keys.for_peer(node.name):
            text = f"no line for {node.name}, so this node and {node.name} cannot talk"
            problems.error(path, f"{text}; {_KEY_LINES}")
    listed = [node.name for node in configuration.nodes]
    holders: dict[bytes, str] = {}
    for name, key in (keys.sets[0].pairs or {}).items():
        if name not in listed:
            suggestion = did_you_mean(name, listed)
            problems.warning(path, f"no node in nodes.txt is called {name}{suggestion}")
        elif key in holders:
            text = f"{name} has the key of {holders[key]}, so each can speak as the other"
            problems.warning(path, text)
        holders.setdefault(key, name)
    if not keys.cluster_secret():
        text = "no line *, so who can send mail can foretell the Message-ID of an alert"
        problems.warning(path, f"{text}; {_KEY_LINES}")


def _examine_quorum(configuration: Configuration, cluster: Cluster, problems: Problems) -> None:
    """Find out whether there are enough sites for the quorum."""
    sites = {cluster.me.site}
    for peer in cluster.peers:
        sites.add(peer.node.site)
    quorum = configuration.settings.quorum
    if cluster.peers and len(sites) < quorum:
        text = (
            f"{pluralize(len(sites), 'site')} ({', '.join(sorted(sites))}) cannot reach"
            f" quorum = {quorum}, so no test can ever be DOWN; add sites or lower the quorum"
        )
        problems.error(f"{configuration.directory}/nodes.txt", text)


def _examine_completeness(configuration: Configuration, problems: Problems) -> None:
    """Find out whether there is something to test and somebody to tell."""
    if not configuration.tests:
        path = f"{configuration.directory}/hosts.d"
        problems.warning(path, "nothing to test; touch a file HOST/TEST here")
    if not configuration.addresses:
        text = "no address, so this node will never mail anybody; touch a file named like one"
        problems.error(f"{configuration.directory}/alert.d", text)


def _examine_silences(configuration: Configuration, problems: Problems) -> None:
    """Warn of silences that ended, because their files are still there."""
    for silence in configuration.silences:
        if _is_over(silence):
            ended = time.strftime("%a %d %b %Y %H:%M:%S %z", time.localtime(silence.until))
            path = f"{configuration.directory}/silence.d/{silence.host}"
            if silence.name:
                path += f"/{silence.name}"
            problems.warning(path, f"ended on {ended}; remove it")


def _examine_sendmail(configuration: Configuration, problems: Problems) -> None:
    """Find out whether mail can be sent, if anybody is mailed."""
    sendmail = configuration.settings.sendmail
    if all(map(names.is_hook, configuration.addresses)):
        return
    if os.path.isfile(sendmail) and os.access(sendmail, os.X_OK):
        return
    reason = "does not exist"
    if os.path.exists(sendmail):
        reason = "is not an executable file"
    text = f"sendmail {reason}, so no mail can be sent; install a mail transport agent"
    problems.error(sendmail, text)
