"""Look a configuration over for `dmonitor-check -t`: every mistake, and all that cannot alert.

It looks further than a round does: at plugins, hooks, names and sendmail. It changes nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable

from dmonitor.base import log, names, regular, user
from dmonitor.base.names import pluralize
from dmonitor.config import keyfile, programs
from dmonitor.config.cluster import Cluster, resolve_cluster
from dmonitor.config.configuration import Configuration, load_configuration
from dmonitor.config.files import scan_directory
from dmonitor.config.nodes import line_of
from dmonitor.config.problems import Problems, Severity, did_you_mean
from dmonitor.config.silences import SilenceFile
from dmonitor.config.tests import A_HOST_NAME, RHYTHM, file_of, read_rhythm
from dmonitor.core import health
from dmonitor.core.model import Test, Trouble, node_test
from dmonitor.core.wants import Audience
from dmonitor.store import lock

# Troubles that do not end by themselves.
_LASTING_TROUBLES = ("cloned-id", "daemon-disagrees")
_LEAST_ROOM = 1_000_000  # bytes; a round writes its state, and what sqlite needs beside it
_LONG_SILENCE = 86400.0  # seconds after which a silence without an end may be forgotten
_HEARTBEAT = (
    "nobody notices if all nodes are dead, or all their mail systems; heartbeat.d in"
    " dmonitor.conf(5) is for that"
)
_KEY_LINES = "`dmonitor key new` with the names of all nodes makes such lines"


def report(
    directory: str,
    state: str,
    troubles: Iterable[Trouble],
    interval: int | None = None,
    down: Collection[Test] | None = None,
) -> int:
    """Print each problem below `directory` and with `state` to stderr, and then a summary.

    `troubles` are those that the last round knew, `interval` is the minutes from one round to the
    next, and `down` the tests with an open incident, if that is known. Return the exit status:
    EX_CONFIG if there is an error.
    """
    configuration = load_configuration(directory)
    cluster = resolve_cluster(configuration.nodes, configuration.settings, {})
    problems = Problems(configuration.problems)
    packages = examine(configuration, cluster, problems)
    if interval:
        _examine_rhythms(configuration, interval, problems)
    if down is not None:
        _examine_acknowledgements(configuration, down, problems)
    _examine_state(state, problems)
    _add_troubles(state, troubles, problems)
    for problem in problems:
        log.complain(str(problem))
    if packages:
        log.complain(f"programs are missing; install them: apt install {' '.join(packages)}")
    if not configuration.heartbeats and not problems:
        log.complain(_HEARTBEAT)
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
            if key in parameters and read_rhythm(parameters[key]) < 60 * interval:
                path = file_of(configuration.directory, test, key)
                text = f"{key}={parameters[key]}: rounds come every {interval} min on this node"
                problems.error(path, f"{text}; give {interval}m or more, or remove the line")


def _examine_state(state: str, problems: Problems) -> None:
    """Find out whether the daemon runs and a round can remember anything."""
    lock_path = f"{state}/dmonitord.lock"
    fault = _why_unreadable(lock_path)
    if fault:
        text = f"{fault}, so it is not known whether dmonitord runs; run this as root"
        problems.warning(lock_path, text)
    elif lock.holder(state, "dmonitord") is None:
        text = "dmonitord does not run on this node, so its peers get no answer; start it"
        problems.warning(state, text)
    if os.path.islink(state) and not os.path.exists(state):
        problems.error(state, f"is a dangling link to {names.printable(os.readlink(state))}")
    elif not os.path.exists(state):
        text = (
            "does not exist, so no incident can be remembered; the first round that root starts"
            " makes it"
        )
        problems.error(state, text)
    elif os.statvfs(state).f_flag & os.ST_RDONLY:
        text = (
            "lies on a file system that is mounted read-only, so no incident can be remembered;"
            " remount it, or move it"
        )
        problems.error(state, text)
    elif not os.access(state, os.W_OK | os.X_OK) and user.name() not in user.NAMES:
        text = f"is not writable for user {user.name()}; for rounds it may be: run this as root"
        problems.warning(state, text)
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


def _why_unreadable(path: str) -> str:
    """Return why the file `path` cannot be read; '' if it can be, or is not there."""
    try:
        os.close(regular.open_file(path))
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{error.strerror} for user {user.name()}"
    return ""


def _add_troubles(state: str, troubles: Iterable[Trouble], problems: Problems) -> None:
    """Add the troubles that are not over, except mistakes, which are found anew."""
    for trouble in troubles:
        if trouble.ended is not None or trouble.kind == health.MISCONFIGURED:
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
    silences = [
        file for file in configuration.silences if not (_ended_at(file) or file.only_acknowledges)
    ]
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


def _ended_at(file: SilenceFile) -> float | None:
    """Return when the silence of `file` ended for good; None if it has not."""
    end = file.last_end()
    return end if end is not None and end <= time.time() else None


def examine(configuration: Configuration, cluster: Cluster, problems: Problems) -> list[str]:
    """Add to `problems` what `load_configuration` does not look at.

    Return the packages that have the programs which plugins and hooks need, and which are not
    installed.
    """
    packages = programs.examine_programs(configuration, problems)
    _examine_nodes(configuration, cluster, problems)
    _examine_keys(configuration, cluster, problems)
    _examine_quorum(configuration, cluster, problems)
    _examine_doubles(configuration, cluster, problems)
    _examine_hosts(configuration, problems)
    _examine_completeness(configuration, problems)
    _examine_silences(configuration, problems)
    _examine_recipients(configuration, cluster, problems)
    return sorted(packages)


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
            " its nodes.txt lists; add a line, on all nodes; or, if one of the lines is its, say"
            " which in dmonitor.conf: name = NODE"
        )
        problems.warning(path, text)
    if len(cluster.my_names) > 1:
        line = line_of(configuration.directory, max(cluster.my_names - {cluster.me.name}))
        problems.error(path, _text_of_second_line(cluster), line)
    for peer in cluster.peers:
        if not peer.addresses:
            line = line_of(configuration.directory, peer.node.name)
            problems.error(path, f"{peer.node.name}: {peer.reason}", line)


def _text_of_second_line(cluster: Cluster) -> str:
    """Return what is wrong if several lines of nodes.txt are this machine, and what to do."""
    lines = ", ".join(sorted(cluster.my_names))
    return (
        f"several lines are this machine, so it looks at none of them: {lines}; leave one of them."
        " If one is another machine, its name resolves wrongly here: see /etc/hosts; or the"
        " setting name names the wrong line"
    )


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
    elif cluster.peers:
        _examine_witnesses(configuration, cluster, problems)


def _examine_witnesses(configuration: Configuration, cluster: Cluster, problems: Problems) -> None:
    """Find the nodes that would be gone without a quorum of sites that could see it."""
    nodes = [cluster.me, *(peer.node for peer in cluster.peers)]
    unwatched = []
    for node in nodes:
        sites = {other.site for other in nodes if other != node} - {""}
        if len(sites) < configuration.settings.quorum:
            unwatched.append(node.name)
    if unwatched:
        text = (
            f"nobody could confirm that one of these is gone: {', '.join(sorted(unwatched))};"
            f" quorum = {configuration.settings.quorum} needs as many other sites:"
            " add a node at another site"
        )
        problems.warning(f"{configuration.directory}/nodes.txt", text)


def _examine_doubles(configuration: Configuration, cluster: Cluster, problems: Problems) -> None:
    """Find lines of nodes.txt that are one machine, or one site, and do not look like that."""
    path = f"{configuration.directory}/nodes.txt"
    sites: dict[str, str] = {}
    first_names: dict[str, str] = {}  # by the name in small letters
    first_holders: dict[str, str] = {}  # by address
    for node in configuration.nodes:
        number = line_of(configuration.directory, node.name)
        site = sites.setdefault(node.site.lower(), node.site)
        first = first_names.setdefault(node.name.lower(), node.name)
        if first != node.name:
            text = f"{node.name} is {first} in other letters: one machine; remove one of the lines"
            problems.warning(path, text, number)
            continue
        if site != node.site:
            text = f"the sites {site} and {node.site} are two, and differ in case only"
            problems.warning(path, f"{text}; write both alike", number)
        for address in cluster.addresses[node.name]:
            first = first_holders.setdefault(address, node.name)
            if first != node.name and not {first, node.name} <= cluster.my_names:
                text = f"{node.name} has the address of {first}, {address}, so both are one machine"
                problems.warning(path, f"{text}; remove one of the lines", number)
                break


def _examine_hosts(configuration: Configuration, problems: Problems) -> None:
    """Find the directories in hosts.d that have no test, and in which nothing else is wrong."""
    directory = f"{configuration.directory}/hosts.d"
    hosts = {test.host for test in configuration.tests}
    wrong = {problem.path for problem in problems}
    for entry in scan_directory(directory, Problems(), names.is_host, A_HOST_NAME):
        is_explained = any(f"{path}/".startswith(f"{entry.path}/") for path in wrong)
        if entry.is_directory() and entry.name not in hosts and not is_explained:
            text = f"has no test, so {entry.name} is not tested; touch one, or remove the directory"
            problems.warning(entry.path, text)


def _examine_completeness(configuration: Configuration, problems: Problems) -> None:
    """Find out whether there is something to test and somebody to tell."""
    if not configuration.tests:
        path = f"{configuration.directory}/hosts.d"
        problems.warning(path, "nothing to test; touch a file HOST/TEST here")
    if not configuration.addresses:
        text = "no address, so this node will never mail anybody; touch a file named like one"
        problems.error(f"{configuration.directory}/alert.d", text)


def _examine_recipients(configuration: Configuration, cluster: Cluster, problems: Problems) -> None:
    """Find patterns that match nothing, and tests that nobody is told of."""
    if not configuration.wants or not configuration.complete:
        return
    tests = sorted(configuration.tests)
    tests += [node_test(node.name) for node in (cluster.me, *(p.node for p in cluster.peers))]
    for address, wants in configuration.wants.items():
        for pattern in (*wants.only, *wants.never):
            if not any(map(pattern.matches, tests)):
                text = f"{pattern.key}={names.printable(pattern.text)} matches no test and no node"
                problems.warning(configuration.hook(address), text, pattern.line)
    audience = Audience(configuration.addresses, configuration.wants)
    told = ("", *audience.after)
    for test in tests:
        if not any(audience.recipients(test, circle) for circle in told):
            text = f"nobody is told of {test}; touch an address, or change its ONLY and NOT"
            problems.warning(f"{configuration.directory}/alert.d", text)


def _examine_silences(configuration: Configuration, problems: Problems) -> None:
    """Warn of silences that ended, because their files are still there, and of forgotten ones."""
    for file in configuration.silences:
        ended = _ended_at(file)
        age = time.time() - file.written
        subject = f"{file.host}/{file.name}" if file.name else file.host
        if ended is not None:
            problems.warning(file.path, f"ended on {_day(ended)}; remove it")
        elif file.is_empty and file.is_ahead:
            text = (
                "is empty, so it silences until it is removed; its time, which is to come, is no"
                " end: write `until 2026-11-29T06:00` into it"
            )
            problems.warning(file.path, text)
        elif file.is_empty and age > _LONG_SILENCE:
            text = (
                f"has silenced {subject} for {names.span(age)}; write `until 2026-11-29T06:00` into"
                f" it, or remove it: `dmonitor silence {subject} off`"
            )
            problems.warning(file.path, text)


def _examine_acknowledgements(
    configuration: Configuration, down: Collection[Test], problems: Problems
) -> None:
    """Warn of acknowledgements that cover nothing, because nothing is DOWN there."""
    for file in configuration.silences:
        if not any(term.is_up for term in file.terms) or _is_down(file, down):
            continue
        subject = f"{file.host}/{file.name}" if file.name else file.host
        if file.only_acknowledges:
            advice = "it may be removed"
        else:
            advice = "that line may be removed"
        text = f"`until up` covers nothing, because nothing of {subject} is DOWN; {advice}"
        problems.warning(file.path, text)


def _is_down(file: SilenceFile, down: Collection[Test]) -> bool:
    """Return whether something is DOWN of what `file` is about."""
    return any(test.host == file.host and file.name in ("", test.name) for test in down)


def _day(at: float) -> str:
    return time.strftime("%a %d %b %Y %H:%M:%S %z", time.localtime(at))
