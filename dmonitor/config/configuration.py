"""Read all files that an operator touches, below one directory.

Each file has a module of its own, which returns what is right and reports what is wrong. This
module joins them. Nothing is written, run or resolved here; `audit` looks further.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.config.behind import load_behind
from dmonitor.config.files import is_absent
from dmonitor.config.heartbeats import load_heartbeats
from dmonitor.config.keyfile import Keys, load_keys
from dmonitor.config.nodes import load_nodes
from dmonitor.config.problems import Problem, Problems
from dmonitor.config.recipients import load_recipients
from dmonitor.config.settings import Settings, load_settings
from dmonitor.config.silences import SilenceFile, load_silences
from dmonitor.config.tests import Tests, hidden_tests, load_tests
from dmonitor.core.model import Node, Rhythm, Test
from dmonitor.core.wants import Wants, digest_recipients


class Configuration(NamedTuple):
    """All that an operator configured."""

    directory: str
    settings: Settings
    nodes: tuple[Node, ...]
    tests: Tests
    addresses: tuple[str, ...]  # mail addresses, and after them the hooks
    problems: tuple[Problem, ...]  # what could not be used
    # What could not be read, so that tests, nodes or addresses may exist that are missing here.
    unreadable: frozenset[str] = frozenset()
    keys: Keys | None = None  # None if there are no files with keys
    silences: tuple[SilenceFile, ...] = ()  # also those that are over
    # The tests that need not be looked at in each round, with how often they are.
    rhythms: Mapping[Test, Rhythm] = MappingProxyType({})
    # The tests that stand behind others, with those.
    behind: Mapping[Test, tuple[Test, ...]] = MappingProxyType({})
    heartbeats: Mapping[str, str] = MappingProxyType({})  # the URL of each, by its name
    # What some of the addresses want; the others want everything at once.
    wants: Mapping[str, Wants] = MappingProxyType({})

    @property
    def addresses_digest(self) -> str:
        """The digest of alert.d, by which nodes see whether theirs is the same."""
        return digest_recipients(self.addresses, self.wants)

    @property
    def complete(self) -> bool:
        """Whether everything could be read."""
        return not self.unreadable

    def with_hidden(self, tests: Iterable[Test], addresses: Iterable[str]) -> Configuration:
        """Return this with those of `tests` and `addresses` that may be where nobody can read.

        They were found there before. The tests cannot be run.
        """
        hidden = hidden_tests(self.directory, tests, self.unreadable)
        also = {*self.addresses}
        if any(path.startswith(f"{self.directory}/alert.d") for path in self.unreadable):
            also.update(addresses)
        return self._replace(tests={**hidden, **self.tests}, addresses=tuple(sorted(also)))

    def with_sender(self, node: str) -> Configuration:
        """Return this with an address from which mail comes, on the node of this name."""
        if self.settings.sender:
            return self
        from dmonitor.config.sender import default_sender

        return self._replace(settings=self.settings._replace(sender=default_sender(node)))

    def plugin(self, test: Test) -> str:
        """Return the path of the plugin of `test`."""
        return f"{self.directory}/plugins/{test.plugin}"

    def hook(self, address: str) -> str:
        """Return the path of the file in alert.d that stands for `address`, which may be a hook."""
        return f"{self.directory}/alert.d/{address.removeprefix(names.HOOK)}"


def load_configuration(directory: str) -> Configuration:
    """Read all files below `directory`; what cannot be read is a problem, never an exception."""
    problems = Problems()
    settings = load_settings(directory, problems)
    nodes = load_nodes(directory, problems)
    if _is_absent(f"{directory}/nodes.txt"):
        problems.unreadable.discard(f"{directory}/nodes.txt")  # no node could be missing
    tests = load_tests(directory, problems)
    addresses, wants = load_recipients(directory, problems)
    unreadable = frozenset(problems.unreadable)
    rhythms = _load_rhythms(directory, tests, problems)
    behind = load_behind(directory, tests, problems)
    heartbeats = load_heartbeats(directory, problems)
    keys = load_keys(directory, problems)
    known_tests = None
    if not unreadable:
        known_tests = tests
    silences = load_silences(directory, problems, known_tests, nodes)
    return Configuration(
        directory=directory,
        settings=settings,
        nodes=nodes,
        tests=tests,
        addresses=addresses,
        problems=tuple(problems),
        unreadable=unreadable,
        keys=keys,
        silences=tuple(silences),
        rhythms=rhythms,
        behind=behind,
        heartbeats=heartbeats,
        wants=wants,
    )


def _is_absent(path: str) -> bool:
    """Return whether there is nothing at `path`; not if a directory on the way cannot be read."""
    try:
        os.lstat(path)
    except OSError as error:
        return is_absent(path, error)
    return False


def _load_rhythms(directory: str, tests: Tests, problems: Problems) -> Mapping[Test, Rhythm]:
    """Return how often tests are looked at; a round without tests loads nothing for that."""
    if not tests:
        return {}
    from dmonitor.config.rhythms import load_rhythms

    return load_rhythms(directory, tests, problems)
