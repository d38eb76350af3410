"""The verb `dmonitor key new NODE...`: a file of keys for each node, all from one master (rule R8).

Each pair of nodes has a key of its own, so a node that was broken into cannot speak as another one.
The keys are derived from a secret that stays with the operator, in the present directory. The same
names make the same keys again, so a new node changes no key of the others. Nothing is sent to a
node here: `dmonitor key set` takes such a file there.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence

from dmonitor.base import names
from dmonitor.config import keyfile
from dmonitor.config.keyfile import CLUSTER, KeySet

MASTER = "dmonitor.master"
_SUFFIX = ".key"  # of the file of a node
# The file of the master has three words, so that nobody takes it for the key of a node.
_MASTER_TEXT = "dmonitor master {}\n"
_MASTER = re.compile(rb"dmonitor master ([!-~]{32,1000})\s*")
_HEADER = "# dmonitor keys of {}\n"
_OWNER = re.compile(rb"# dmonitor keys of (\S+)")
_PRIVATE = 0o077  # bits that the files of this module must not have


class Refused(Exception):
    """The files cannot be made; the text says why, and what to do."""


def derive(master: bytes, nodes: Sequence[str]) -> dict[str, KeySet]:
    """Return the keys of each of `nodes`. It has one with itself, too: its checker rehearses."""
    secret = _derived(master, "dmonitor cluster")
    key_sets = {}
    for node in nodes:
        pairs = {}
        for peer in nodes:
            first, second = sorted((node, peer))
            pairs[peer] = _derived(master, f"dmonitor pair\n{first}\n{second}")
        key_sets[node] = KeySet(secret, pairs)
    return key_sets


def owner(text: bytes) -> str:
    """Return the node that a file with this `text` was made for; empty if none is named."""
    match = _OWNER.match(text)
    if not match:
        return ""
    return match[1].decode("ascii", "replace")


def make(nodes: Sequence[str], directory: str, config: str, say: Callable[[str], None]) -> None:
    """Write the file of each of `nodes` into `directory`; make the master if there is none.

    Tell the person with `say` what to do with them. `config` is where a node has its own keys.
    Raise Refused if a name is wrong, or if the directory is, or if a file there is of another
    master.
    """
    _check_names(nodes)
    _check_directory(directory, config)
    found = _found_in(directory, nodes)
    master_path = f"{directory}/{MASTER}"
    master = _load_master(master_path)
    is_new = master is None
    if master is None:
        if found:
            raise Refused(
                f"{MASTER} is not here, but keys that were made from one are:"
                f" {', '.join(sorted(found))}; go where it is, or to an empty directory to make"
                " all keys anew"
            )
        master = secrets.token_hex(32).encode()
    key_sets = derive(master, nodes)
    _check_found(found, key_sets)
    if is_new:
        _write(master_path, _MASTER_TEXT.format(master.decode()))
    for node, key_set in key_sets.items():
        _write(path_of(directory, node), _text_of(node, key_set))
    _say_what_next(nodes, found, say, is_new=is_new)


def path_of(directory: str, node: str) -> str:
    """Return the path of the file of `node`."""
    return f"{directory}/{node}{_SUFFIX}"


def _derived(master: bytes, label: str) -> bytes:
    return hmac.digest(master, label.encode(), "sha256").hex().encode()


def _check_names(nodes: Sequence[str]) -> None:
    for node in nodes:
        if not names.is_node(node):
            raise Refused(f"'{names.printable(node)}' is not a host name or an address")
    if len(set(nodes)) < len(nodes):
        raise Refused("a node is named twice; name each once, as nodes.txt does")
    if len(nodes) < 2:
        raise Refused("name all nodes, as nodes.txt does: each pair of them gets a key")


def _check_directory(directory: str, config: str) -> None:
    """Raise Refused if others may write to `directory`, or if it is a node's configuration."""
    status = os.stat(directory)
    is_ours = status.st_uid in (0, os.geteuid())
    if not is_ours or stat.S_IMODE(status.st_mode) & 0o022:
        raise Refused("others may write to this directory; go to one of your own")
    with contextlib.suppress(OSError):
        if os.path.samefile(directory, config):
            raise Refused(
                f"{config} is no place for the keys of all nodes, because who breaks into this"
                " node reads them; go to a directory of your own, best on a machine that is no node"
            )


def _found_in(directory: str, nodes: Sequence[str]) -> dict[str, KeySet]:
    """Return the keys in the files that an earlier run has left in `directory`, by node.

    Raise Refused if something else has the name of a file that one of `nodes` is to get.
    """
    found = {}
    for name in sorted(os.listdir(directory)):
        node = name.removesuffix(_SUFFIX)
        if node == name:
            continue
        status, text = _read(f"{directory}/{name}")
        if owner(text) == node:
            _check_private(name, status)
            found[node] = keyfile.parse(text)[0]
        elif node in nodes:
            raise Refused(f"{name} is here, and no file of keys; go to an empty directory")
    return found


def _check_found(found: Mapping[str, KeySet], key_sets: Mapping[str, KeySet]) -> None:
    """Raise Refused if keys that were found are not those that are made now."""
    for node, key_set in found.items():
        if node not in key_sets:
            continue
        for peer, key in (key_set.pairs or {}).items():
            if key_sets[node].pairs.get(peer, key) != key:  # type: ignore[union-attr]
                raise Refused(
                    f"{node}{_SUFFIX} is not of this {MASTER}; go where its master is, or to an"
                    " empty directory to make all keys anew"
                )


def _load_master(path: str) -> bytes | None:
    """Return the master in `path`; None if there is no such file. Raise Refused if it is spoilt."""
    try:
        status, text = _read(path)
    except FileNotFoundError:
        return None
    _check_private(MASTER, status)
    match = _MASTER.fullmatch(text)
    if not match:
        raise Refused(f"{MASTER} holds no master; go to an empty directory to make all keys anew")
    return match[1]


def _read(path: str) -> tuple[os.stat_result, bytes]:
    """Return the status of `path`, and what is in it if it is a regular file that can be read."""
    try:
        return keyfile.read(path)
    except PermissionError:
        return os.stat(path), b""


def _check_private(name: str, status: os.stat_result) -> None:
    """Raise Refused if others could know or change the file `name`, which has this `status`."""
    if status.st_uid != os.geteuid():
        raise Refused(f"{name} belongs to somebody else; become its owner, or change it")
    if stat.S_IMODE(status.st_mode) & _PRIVATE:
        raise Refused(
            f"others could read {name}; if nobody did, run chmod 600 on it; if somebody may"
            " have, go to an empty directory to make all keys anew"
        )


def _text_of(node: str, key_set: KeySet) -> str:
    lines = [f"{CLUSTER} {key_set.secret.decode()}"]
    for peer, key in (key_set.pairs or {}).items():
        lines.append(f"{peer} {key.decode()}")
    return _HEADER.format(node) + "".join(f"{line}\n" for line in lines)


def _write(path: str, text: str) -> None:
    """Write `text` to `path` for its owner only, whole or not at all."""
    directory, name = os.path.split(path)
    descriptor, draft = tempfile.mkstemp(prefix=f".{name}.", dir=directory)  # mode 600
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(draft, path)
    except OSError:
        os.unlink(draft)
        raise


def _say_what_next(
    nodes: Sequence[str], found: Mapping[str, KeySet], say: Callable[[str], None], *, is_new: bool
) -> None:
    if is_new:
        say(f"{MASTER} is written: keep it, and keep it off the nodes.")
    say("Each node needs its file, in any order:")
    for node in nodes:
        say(f"  ssh root@{node} dmonitor key set <{node}{_SUFFIX}")
    for node in found:
        if node not in nodes:
            say(
                f"{node} was not named, so the others will refuse it once they have their files."
                f" Take it out of nodes.txt on all nodes, and remove {node}{_SUFFIX}."
            )
