"""Read how often tests are looked at: EVERY and RETRY in a test's file, or in a plugin's head.

A test without either is looked at in each round. What is wrong here is a problem, and the test is
looked at more often than it needs to be, never less often.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping

from dmonitor.config.problems import Problems
from dmonitor.config.tests import Tests, file_of, read_rhythm
from dmonitor.core.digest import digest
from dmonitor.core.model import Rhythm, Test

_HEAD_BYTES = 1024  # of a plugin that are read
_HEAD_MARK = "#: EVERY ("  # what stands before a plugin's own EVERY; a parenthesis ends it


def load_rhythms(directory: str, tests: Tests, problems: Problems) -> dict[Test, Rhythm]:
    """Return the rhythms of those of `tests` that have one; plugins are in `directory`."""
    plugins = _Plugins(f"{directory}/plugins", problems)
    rhythms = {}
    for test, parameters in tests.items():
        if parameters is not None:
            rhythm = _rhythm(test, parameters, plugins, directory, problems)
            if rhythm:
                rhythms[test] = rhythm
    return rhythms


def _rhythm(
    test: Test, parameters: Mapping[str, str], plugins: _Plugins, directory: str, problems: Problems
) -> Rhythm | None:
    """Return how often `test` is looked at; None if in each round."""
    if "EVERY" in parameters:
        every = read_rhythm(parameters["EVERY"])
    else:
        every = plugins.every(test.plugin)
    retry = 0
    if "RETRY" in parameters:
        retry = read_rhythm(parameters["RETRY"])
    if not every:
        if retry:
            text = "RETRY without EVERY does nothing: the test is looked at in each round"
            path = file_of(directory, test, "RETRY")
            problems.error(path, f"{text}; add EVERY, or remove RETRY")
        return None
    if retry > every:
        text = f"RETRY={parameters['RETRY']} is longer than EVERY"
        path = file_of(directory, test, "RETRY")
        problems.error(path, f"{text}; make it shorter, or remove it")
        retry = every
    lines = [f"{key}={value}" for key, value in parameters.items()]
    return Rhythm(every, retry, digest([plugins.identity(test.plugin), *lines]))


class _Plugins:
    """What there is to know of the plugins; each is looked at once."""

    def __init__(self, directory: str, problems: Problems) -> None:
        self._directory = directory
        self._problems = problems
        self._every: dict[str, int] = {}
        self._identities: dict[str, str] = {}

    def every(self, plugin: str) -> int:
        """Return the seconds that the head of `plugin` gives as its EVERY; 0 if it gives none."""
        if plugin not in self._every:
            self._every[plugin] = self._read_every(f"{self._directory}/{plugin}")
        return self._every[plugin]

    def _read_every(self, path: str) -> int:
        text = every_in_head(_head(path))
        if not text:
            return 0
        try:
            return read_rhythm(text)
        except ValueError as error:
            self._problems.error(path, f"EVERY ({text}): {error}")
            return 0

    def identity(self, plugin: str) -> str:
        """Return what changes when the file of `plugin` does; '' if it cannot be examined."""
        if plugin not in self._identities:
            found = ""
            with contextlib.suppress(OSError):
                status = os.stat(f"{self._directory}/{plugin}")
                found = (
                    f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
                )
            self._identities[plugin] = found
        return self._identities[plugin]


def every_in_head(head: str) -> str:
    """Return the EVERY that the first lines of a plugin state for its tests; '' if they do not."""
    for line in head.splitlines():
        if line.startswith(_HEAD_MARK):
            return line.removeprefix(_HEAD_MARK).partition(")")[0].strip()
    return ""


def _head(path: str) -> str:
    """Return the first lines of a script; '' for any other file, or an unreadable one."""
    try:
        # A link may lead to a program; what else may be in its place must not be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        head = os.read(descriptor, _HEAD_BYTES)
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    if not head.startswith(b"#!"):
        return ""
    return head.decode("utf-8", "replace")
