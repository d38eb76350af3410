"""Read the files an operator touches: nodes.txt, hosts.d, alert.d, silence.d, dmonitor.conf, key.

Every function returns what is right and appends a Problem for what is not, so that one bad file never costs
another its test or its mail. Nothing here is written, run or resolved; `audit` looks further.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.config.keyfile import Keys, load_keys
from dmonitor.config.nodes import load_nodes
from dmonitor.config.problems import Problem, Problems
from dmonitor.config.recipients import load_recipients
from dmonitor.config.settings import Settings, load_settings
from dmonitor.config.silences import load_silences
from dmonitor.config.tests import Tests, load_tests
from dmonitor.core.model import Node, Silence, Test


class Configuration(NamedTuple):
    """All that an operator configured; `problems` has what could not be used.

    Where something could not even be looked at, the rest is not `complete`: what is missing may well be there.
    """

    directory: str
    settings: Settings
    nodes: tuple[Node, ...]
    tests: Tests
    addresses: tuple[str, ...]
    problems: tuple[Problem, ...]
    complete: bool = True
    keys: Keys = None
    silences: tuple[Silence, ...] = ()  # `until` in seconds since the epoch; those that ended, too

    def plugin(self, test: Test) -> str:
        return f"{self.directory}/plugins/{test.plugin}"

    def hook(self, address: str) -> str:
        return f"{self.directory}/alert.d/{address.removeprefix(names.HOOK)}"


def load_configuration(directory: str) -> Configuration:
    """Read everything below DIRECTORY; what cannot be read is a problem, never an exception."""
    problems = Problems()
    settings = load_settings(directory, problems)
    nodes = load_nodes(directory, problems)
    problems.unreadable &= os.path.lexists(
        f"{directory}/nodes.txt"
    )  # without it there are no nodes
    tests = load_tests(directory, problems)
    addresses = load_recipients(f"{directory}/alert.d", problems)
    complete = not problems.unreadable
    keys = load_keys(directory, problems)
    silences = tuple(load_silences(directory, problems, tests if complete else None, nodes))
    return Configuration(
        directory, settings, nodes, tests, addresses, tuple(problems), complete, keys, silences
    )
