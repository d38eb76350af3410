"""silence.d: the silences that an operator ordered (rule R9)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from dmonitor.base import names
from dmonitor.config.files import Entry, scan_directory
from dmonitor.config.problems import Problems, did_you_mean
from dmonitor.config.tests import HOST_NAME, Tests
from dmonitor.core.model import Node, Silence

LONGEST_SILENCE = (
    9e8  # seconds, which is 28 years, and less than `values.AGE`, that a silence may last
)


def load_silences(
    directory: str, problems: Problems, tests: Tests | None = None, nodes: Iterable[Node] = ()
) -> Iterator[Silence]:
    """Yield the silences of files HOST and HOST/TEST; one that fits none of TESTS, where these are known, is suspicious."""
    hosts: dict[str, list[str]] = {names.NODE: [node.name for node in nodes]}
    for test in tests or ():
        hosts.setdefault(test.host, []).append(test.name)
    for host, path, mode, _ in scan_directory(
        f"{directory}/silence.d", problems, names.is_subject, HOST_NAME, optional=True
    ):
        what, known, files = "host in hosts.d", list(hosts), [Entry(host, path, mode)]
        if stat.S_ISDIR(mode):
            is_proper, what = (
                (names.is_node, "node in nodes.txt")
                if host == names.NODE
                else (names.is_test, "test in hosts.d")
            )
            files = list(scan_directory(path, problems, is_proper, f"a {what}", optional=True))
            known = hosts.get(host, [])
        for name, file, mode, _ in files:
            if not stat.S_ISREG(mode):
                problems.error(file, "not a file: touch HOST, or HOST/TEST")
                continue
            if tests is not None and name not in known:
                problems.warning(
                    file, f"silences nothing: no such {what}{did_you_mean(name, known)}"
                )
            yield from _silence(file, host, "" if file == path else name)


def _silence(path: str, host: str, name: str) -> Iterator[Silence]:
    try:
        status = os.stat(path)
    except OSError:
        return  # removed this very moment
    yield Silence(host, name, silent_until(status))


def silent_until(status: os.stat_result) -> float | None:
    """Return when the silence ends whose file has STATUS, in seconds since the epoch; None: when it is removed."""
    # A touch without a time sets both alike; the margin is for a file server whose clock is not ours. What is too far away to be
    # told to others is as good as for ever.
    return status.st_mtime if 1 < status.st_mtime - status.st_ctime < LONGEST_SILENCE else None
