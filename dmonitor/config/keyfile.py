"""Read the files key and key.old: the secrets by which the nodes know each other (R8).

A file has one key that all nodes share, or one for each peer. A key that cannot be used, or that
others may know, is a problem. Making and changing keys is the operator's command `dmonitor key`,
not this module.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dmonitor.base import names, user
from dmonitor.config.files import FILE_LIMIT, is_absent
from dmonitor.config.problems import Problems

KEY_FILES = ("key", "key.old")
CLUSTER = "*"  # stands for a name in the line of the cluster's secret
NO_KEY_RISK = "any program that calls from a node's address is taken for that node"
NO_KEY_ADVICE = (
    f"no key: {NO_KEY_RISK}; `dmonitor key new` on one node makes a key,"
    " and `dmonitor key set` on each other node installs it"
)
_WORD = "one word of 32 or more printable characters"
_FORM = f"a line reads NODE KEY, or * KEY; a key is {_WORD}"


class KeySet(NamedTuple):
    """The keys in one file."""

    # What all nodes know: the one key of a file that has one word, or the key in the line `*`.
    secret: bytes
    # The key of this node with each peer, by the peer's name. None: the secret is that of all.
    pairs: Mapping[str, bytes] | None = None

    @property
    def is_usable(self) -> bool:
        """Whether there is a key with which this node can talk to a peer."""
        if self.pairs is None:
            return bool(self.secret)
        return bool(self.pairs)

    def for_peer(self, name: str) -> bytes:
        """Return the key of this node with the peer `name`; empty if there is none."""
        if self.pairs is None:
            return self.secret
        return self.pairs.get(name, b"")


UNUSABLE = KeySet(b"")


class Keys(NamedTuple):
    """The keys of this node. There may be files with keys, and none that can be used."""

    sets: tuple[KeySet, ...]  # those that can be used; the one that is used first comes first
    path: str = KEY_FILES[0]  # of the first file, for messages

    @property
    def are_usable(self) -> bool:
        """Whether this node can talk to any peer."""
        return bool(self.sets)

    def for_peer(self, name: str) -> tuple[bytes, ...]:
        """Return the keys of this node with the peer `name`, the present one first.

        There is none if the peer cannot be talked to. An old key counts only for a peer that has a
        present one: a peer whose line was taken out is gone at once.
        """
        found: list[bytes] = []
        for key_set in self.sets:
            key = key_set.for_peer(name)
            if not key and not found:
                return ()
            if key and key not in found:
                found.append(key)
        return tuple(found)

    def fault(self, name: str) -> str:
        """Return why this node cannot talk to the peer `name`; empty if it can."""
        if self.for_peer(name):
            return ""
        if not self.sets:
            return "this node's key cannot be used: see dmonitor-check -t"
        return f"no line for {name} in {self.path}: see key in dmonitor.conf(5)"

    def callers(self, peers: Sequence[str]) -> dict[bytes, list[str]]:
        """Return the keys that a caller may show who is one of `peers`, each with who has it.

        A key that all nodes share is also that of a caller whom no name is known of.
        """
        found: dict[bytes, list[str]] = {}
        for peer in peers or ("",):
            for key in self.for_peer(peer):
                found.setdefault(key, []).append(peer)
        return found

    def cluster_secret(self) -> bytes:
        """Return what all nodes know, also while the keys change; b"" if there is no such secret.

        While a node still accepts old keys, some node may not have the new ones. So the old
        secret counts: every node has that until the first one drops it.
        """
        for key_set in reversed(self.sets):
            if key_set.secret:
                return key_set.secret
        return b""


class Fault(NamedTuple):
    """What is wrong with the text of a key file. It never quotes a word, which may be a key."""

    text: str
    line: int | None = None  # None if it is the whole file


def of_all(*keys: bytes) -> Keys:
    """Return Keys that all nodes share: the present one, and the old one if there is one."""
    return Keys(tuple(map(KeySet, keys)))


def load_keys(directory: str, problems: Problems) -> Keys | None:
    """Read the keys in `directory`, and the old ones, which are accepted while the keys change.

    Return None if there are no such files. If there are keys that cannot be used, the old ones do
    not take their place: they may have lines that were taken out since.
    """
    found = []
    for name in KEY_FILES:
        key_set = load_key_set(f"{directory}/{name}", problems)
        if key_set is not None:
            found.append(key_set)
    if not found:
        return None
    usable = []
    if found[0].is_usable:
        usable = [key_set for key_set in found if key_set.is_usable]
    return Keys(tuple(usable), f"{directory}/{KEY_FILES[0]}")


def load_key_set(path: str, problems: Problems) -> KeySet | None:
    """Return the keys in `path`; None if there is no such file, UNUSABLE if none can be used.

    A line with a mistake costs the peer of that line only.
    """
    try:
        status, text = read(path)
    except OSError as error:
        # An absent file is no problem, even if it is there by now: a key may be changing.
        if is_absent(path, error):
            return None
        problems.add_unreadable(path, error)
        return UNUSABLE
    fault = _fault_of_file(status)
    if fault:
        problems.error(path, f"cannot use this key: {fault}")
        return UNUSABLE
    key_set, faults = parse(text)
    for text_fault in faults:
        problems.error(path, f"cannot use this key: {text_fault.text}", text_fault.line)
    return key_set


def read(path: str) -> tuple[os.stat_result, bytes]:
    """Return the status of `path`, and what is in it if it is a regular file."""
    # Without O_NONBLOCK a FIFO would block.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return status, b""
        return status, file.read(FILE_LIMIT)


def _fault_of_file(status: os.stat_result) -> str:
    """Return why a key in a file of this `status` must not be used, or ""."""
    if not stat.S_ISREG(status.st_mode):
        return "it is not a file"
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to neither root nor {user.name()}; change its owner"
    if status.st_mode & 0o027:
        mode = f"{status.st_mode & 0o777:o}"
        return f"others could read or write it (mode {mode}); run chmod 640 on it"
    return ""


def parse(text: bytes) -> tuple[KeySet, list[Fault]]:
    """Return the keys in the `text` of a file, and what is wrong with it.

    They are UNUSABLE if none can be used. A line that begins with # is a comment.
    """
    lines: list[tuple[int, list[bytes]]] = []
    for number, line in enumerate(text.split(b"\n"), 1):
        words = line.split()
        if words and not words[0].startswith(b"#"):
            lines.append((number, words))
    words = text.split()
    if len(lines) == 1:
        words = lines[0][1]
    if len(words) == 1 and names.is_key(words[0]):
        return KeySet(words[0]), []
    if not lines or len(words) == 1:
        return UNUSABLE, [Fault(f"it is not {_WORD}; `dmonitor key new` makes one")]
    return _parse_pairs(lines)


def _parse_pairs(lines: Sequence[tuple[int, Sequence[bytes]]]) -> tuple[KeySet, list[Fault]]:
    """Return the keys in the numbered `lines` of a file that has one for each peer."""
    keys: dict[str, bytes] = {}
    numbers: dict[str, int] = {}
    faults: list[Fault] = []
    for number, words in lines:
        name = words[0].decode("ascii", "replace")
        if len(words) != 2 or not names.is_key(words[1]):
            faults.append(Fault(_FORM, number))
        elif name != CLUSTER and not names.is_node(name):
            faults.append(Fault(f"the first word is not a node's name; {_FORM}", number))
        elif name in keys:
            faults.append(Fault(f"{name} has a line before; the first line counts", number))
        else:
            keys[name] = words[1]
            numbers[name] = number
    secret = keys.pop(CLUSTER, b"")
    for name, key in list(keys.items()):
        if key == secret:
            del keys[name]
            text = f"every node knows this key of {name}: it is that of the line *"
            faults.append(Fault(text, numbers[name]))
    if keys:
        return KeySet(secret, keys), faults
    faults.append(Fault("it has no key for any peer"))
    return UNUSABLE, faults
