"""Read silence.d: the silences that an operator ordered (R9).

A file HOST silences a host, and HOST/TEST a test of it. node/NAME silences what is said about a
node. Writing these files is the operator's command `dmonitor silence`, not this module.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

from dmonitor.base import names
from dmonitor.config.files import Entry, scan_directory
from dmonitor.config.problems import Problems, did_you_mean
from dmonitor.config.tests import A_HOST_NAME, Tests
from dmonitor.core.model import Node, Silence

# Seconds that a silence may last: 28 years. It is less than `codec.AGE_LIMIT`, so that peers can
# be told its end.
LONGEST_SILENCE = 9e8
# Seconds. A touch without a time sets both times alike, but the clock of a file server may differ
# from ours.
_CLOCK_MARGIN = 1


def load_silences(
    directory: str, problems: Problems, tests: Tests | None = None, nodes: Iterable[Node] = ()
) -> list[Silence]:
    """Read silence.d in `directory`, which may be absent; a silence that ended is returned, too.

    A silence that fits none of `tests` and `nodes` is a warning. If the tests are not known, these
    are None.
    """
    targets = _targets(tests or {}, nodes)
    silences: list[Silence] = []

    def add(entry: Entry, host: str, name: str, kind: str, known: Collection[str]) -> None:
        if not entry.is_file():
            problems.error(entry.path, "is not a file; touch HOST or HOST/TEST")
            return
        if tests is not None and entry.name not in known:
            hint = did_you_mean(entry.name, known)
            problems.warning(entry.path, f"silences nothing: no such {kind}{hint}")
        try:
            status = os.stat(entry.path)
        except OSError:
            return  # it was removed a moment ago
        silences.append(Silence(host, name, silent_until(status)))

    path = f"{directory}/silence.d"
    for host in scan_directory(path, problems, names.is_subject, A_HOST_NAME, optional=True):
        if not host.is_directory():
            add(host, host.name, "", "host in hosts.d", targets)
            continue
        is_allowed = names.is_test
        kind = "test in hosts.d"
        if host.name == names.NODE:
            is_allowed = names.is_node
            kind = "node in nodes.txt"
        for entry in scan_directory(host.path, problems, is_allowed, f"a {kind}", optional=True):
            add(entry, host.name, entry.name, kind, targets.get(host.name, ()))
    return silences


def _targets(tests: Tests, nodes: Iterable[Node]) -> dict[str, list[str]]:
    """Return the names of each host's tests; the nodes are the tests of the host NODE."""
    targets = {names.NODE: [node.name for node in nodes]}
    for test in tests:
        targets.setdefault(test.host, []).append(test.name)
    return targets


def silent_until(status: os.stat_result) -> float | None:
    """Return when the silence ends whose file has `status`, in seconds since the epoch.

    None means that it lasts until the file is removed. That is so if the file was touched without a
    time, and also if its end is too far away to be told to others.
    """
    if _CLOCK_MARGIN < status.st_mtime - status.st_ctime < LONGEST_SILENCE:
        return status.st_mtime
    return None
