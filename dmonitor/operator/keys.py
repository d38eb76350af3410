"""The verb `dmonitor key`: show, make, take and drop the keys of this node (rule R8).

This is the only module that writes a key of this node. Checker and daemon read it through `config`.
The files for all nodes, with a key for each pair, are made by `pair_keys`.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dmonitor.base import log, user
from dmonitor.base.names import pluralize
from dmonitor.config import keyfile
from dmonitor.config.cluster import resolve_cluster
from dmonitor.config.files import FILE_LIMIT
from dmonitor.config.keyfile import KEY_FILES, KeySet
from dmonitor.config.nodes import load_nodes
from dmonitor.config.problems import Problems
from dmonitor.config.settings import load_settings
from dmonitor.operator import pair_keys

_WHAT_IS_A_KEY = (
    "a key is one word of 32 or more printable characters, or a line NODE KEY for each node"
)
_GIVE = "The other nodes need it too, in any order:\n  ssh root@NODE dmonitor key set <{}"
_DROP = (
    "The key before it is still accepted. When all nodes have the new one, on each:\n"
    "  dmonitor key drop"
)


class Fingerprint(NamedTuple):
    """What can be shown of a key: it is the same where the key is, and tells nothing of it."""

    path: str  # of the file
    peer: str  # whose key this node has; `*` is the cluster's secret; empty for a key of all nodes
    digits: str

    def line(self) -> str:
        """Return a line for people."""
        return "  ".join(filter(None, (self.digits, self.path, self.peer)))


def change(directory: str, what: str, say: Callable[[str], None] = print) -> int:
    """Make (`new`), take from stdin (`set`) or drop (`drop`) a key below `directory`.

    Tell the person what came of it with `say`. Return an exit status.
    """
    if what == "new":
        return _install(directory, secrets.token_hex(32).encode(), say, is_new=True)
    if what == "set":
        return _install(directory, sys.stdin.buffer.read(FILE_LIMIT + 1).strip(), say)
    return _drop(directory, say)


def why_not_dropped(directory: str) -> str:
    """Return why the old key must stay, whatever the peers have; '' if it need not."""
    path, old_path = (f"{directory}/{name}" for name in KEY_FILES)
    if not os.path.lexists(old_path):
        return ""
    key_set = keyfile.load_key_set(path, Problems())
    if key_set and (key_set.secret or key_set.pairs):
        return ""
    return (
        f"the old key was not dropped, because this node would have no key then: {path} holds none"
        f" that can be used; `dmonitor key set`, or make the old one the key: mv {old_path} {path}"
    )


def fingerprints(directory: str, problems: Problems) -> list[Fingerprint]:
    """Return the fingerprint of each usable key below `directory`."""
    found: list[Fingerprint] = []
    for name in KEY_FILES:
        path = f"{directory}/{name}"
        key_set = keyfile.load_key_set(path, problems)
        if key_set is not None:
            found.extend(fingerprints_of(path, key_set))
    return found


def fingerprints_of(path: str, key_set: KeySet) -> Iterator[Fingerprint]:
    """Yield the fingerprint of each key in `key_set`, which the file `path` holds."""
    peer = "" if key_set.pairs is None else keyfile.CLUSTER
    for name, key in (key_set.pairs or {}).items():
        yield Fingerprint(path, name, digits(key))
    if key_set.secret:
        yield Fingerprint(path, peer, digits(key_set.secret))


def digits(key: bytes) -> str:
    """Return the digits of the fingerprint of `key`."""
    return hmac.digest(key, b"fingerprint", "sha256").hex()[:16]


def _drop(directory: str, say: Callable[[str], None]) -> int:
    """Accept the old key no more."""
    if refusal := why_not_dropped(directory):
        log.complain(refusal)
        return os.EX_DATAERR
    old_path = f"{directory}/{KEY_FILES[1]}"
    if os.path.exists(old_path):
        os.unlink(old_path)
        log.info("old-key-dropped")
    say("The old key is no longer accepted.")
    return os.EX_OK


def _install(
    directory: str, text: bytes, say: Callable[[str], None], *, is_new: bool = False
) -> int:
    """Make `text` the key in `directory`, and the one before it the old one if they differ.

    The file is written whole or not at all. At no moment is there no key.
    """
    path, old_path = (f"{directory}/{name}" for name in KEY_FILES)
    key_set, faults = keyfile.parse(text)
    refusal = _refusal(directory, text, faults)
    if refusal:
        log.complain(f"no key was set: {refusal}")
        return os.EX_DATAERR
    before = keyfile.load_key_set(path, Problems())
    if before == key_set:
        say(f"{path} already holds this key")
        return os.EX_OK
    keeps_old = before is not None and not _goes_on(before, key_set)
    if keeps_old and os.path.exists(old_path):
        log.complain(
            f"the key was not changed: {old_path} is still accepted, so the last change is not"
            " finished; when all nodes have the present key, run `dmonitor key drop` on each"
        )
        return os.EX_TEMPFAIL
    draft = _write_draft(os.path.dirname(path), text)
    try:
        if keeps_old:
            os.replace(path, old_path)
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    _say_written(path, key_set, say, old="kept" if keeps_old else None)
    if is_new:
        say(_GIVE.format(path))
    if keeps_old:
        say(_DROP)
    return os.EX_OK


def _say_written(
    path: str, key_set: KeySet, say: Callable[[str], None], *, old: str | None
) -> None:
    if key_set.pairs is None:
        fingerprint = digits(key_set.secret)
        log.info("key-changed", fingerprint=fingerprint, old=old)
        say(f"{path} is written: {fingerprint}")
    else:
        count = len(key_set.pairs)
        log.info("key-changed", keys=count, old=old)
        say(f"{path} is written: {pluralize(count, 'key')} with nodes")


def _refusal(directory: str, text: bytes, faults: list[keyfile.Fault]) -> str:
    """Return why `text`, in which the reader found `faults`, must not become the key, or ""."""
    if not text:
        return f"stdin is empty; {_WHAT_IS_A_KEY}"
    if len(text) > FILE_LIMIT or any(fault.line is None for fault in faults):
        return f"stdin does not hold a key; {_WHAT_IS_A_KEY}"
    if faults:
        return f"line {faults[0].line} of stdin: {faults[0].text}"
    owner = pair_keys.owner(text)
    if owner:
        return _refusal_of_owner(directory, owner)
    return ""


def _refusal_of_owner(directory: str, owner: str) -> str:
    """Return why the keys of the node `owner` must not become those of this node, or ""."""
    problems = Problems()
    nodes = load_nodes(directory, problems)
    cluster = resolve_cluster(nodes, load_settings(directory, problems), {})
    if not cluster.listed or owner in cluster.my_names:
        return ""
    me = cluster.me.name
    return (
        f"stdin holds the keys of {owner}, and this node is {me};"
        f" type here what is said of {me}: ssh root@{me} dmonitor key set <{me}.key"
    )


def _goes_on(before: KeySet, after: KeySet) -> bool:
    """Return whether no key changes from `before` to `after`: lines only come and go."""
    if before.pairs is None or after.pairs is None:
        return False
    if before.secret != after.secret:
        return False
    return all(after.pairs.get(name, key) == key for name, key in before.pairs.items())


def _write_draft(directory: str, text: bytes) -> str:
    """Write `text` to a new file in `directory`, readable for dmonitor's group; return its path."""
    descriptor, draft = tempfile.mkstemp(prefix=".key.", dir=directory)
    try:
        with open(descriptor, "wb") as file:
            file.write(text + b"\n")
            file.flush()
            group = user.find().pw_gid if os.geteuid() == 0 else -1  # -1: leave it as it is
            os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, 0o640)
            os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    return draft
