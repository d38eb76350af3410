"""Find which tests stand behind others: BEHIND in a test's file (rule R9).

What is wrong here is a problem, and the test is told by itself: an extra mail is better than none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from dmonitor.config.problems import Problems, did_you_mean
from dmonitor.config.tests import BEHIND, FOR_ALL, Tests, file_of, read_tests
from dmonitor.core.model import Test

Parents = Mapping[Test, tuple[Test, ...]]


def load_behind(directory: str, tests: Tests, problems: Problems) -> Parents:
    """Return the tests that each of `tests` stands behind, if any.

    A test is never behind itself: its host's .all may name it for all others.
    """
    wanted: dict[Test, Sequence[Test]] = {}
    for test, parameters in tests.items():
        if parameters and BEHIND in parameters:
            named = read_tests(parameters[BEHIND])
            parents = [each for each in named if each != test]
            if len(parents) < len(named):
                _complain_of_itself(directory, test, problems)
            unknown = [parent for parent in parents if parent not in tests]
            _complain_of_unknown(directory, test, unknown, tests, problems)
            if parents and not unknown:
                wanted[test] = parents
    circles = {test: way for test in wanted if (way := _way_back(test, wanted))}
    for test, way in circles.items():
        text = f"{BEHIND} leads back to this test: {' behind '.join(map(str, way))}"
        problems.error(file_of(directory, test, BEHIND), text)
    return {test: tuple(parents) for test, parents in wanted.items() if test not in circles}


def _complain_of_itself(directory: str, test: Test, problems: Problems) -> None:
    """Add an error if the file of `test` says that it stands behind itself, and not its .all."""
    path = file_of(directory, test, BEHIND)
    if os.path.basename(path) != FOR_ALL:
        problems.error(path, f"{BEHIND}={test} is this test itself; name the one before it")


def _complain_of_unknown(
    directory: str, test: Test, unknown: Iterable[Test], tests: Tests, problems: Problems
) -> None:
    for parent in unknown:
        hint = did_you_mean(str(parent), map(str, tests))
        text = f"{BEHIND}={parent}: no such test in hosts.d{hint}"
        problems.error(file_of(directory, test, BEHIND), text)


def _way_back(test: Test, wanted: Mapping[Test, Sequence[Test]]) -> list[Test]:
    """Return the way from `test` over those before it back to itself; empty if there is none."""
    ways = [[test]]
    seen: set[Test] = set()
    while ways:
        way = ways.pop()
        for parent in wanted.get(way[-1], ()):
            if parent == test:
                return [*way, test]
            if parent not in seen:
                seen.add(parent)
                ways.append([*way, parent])
    return []
