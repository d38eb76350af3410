"""This node's id: a random word in a file of the state directory (R2).

The program that needs it first makes it. It is never changed after that. A file that a full disk or
a power cut has left empty holds no id, so it is filled.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TextIO

from dmonitor.base import log, names, regular
from dmonitor.base.errors import StateError
from dmonitor.store import database

_RANDOM_BYTES = 12
_LONGEST = 100  # characters that are read


def read(directory: str) -> str | None:
    """Return the node id that is kept in `directory`; None if there is none yet, or an empty file.

    Raise StateError if the file holds anything else, and OSError if it cannot be read.
    """
    path = f"{directory}/node-id"
    try:
        with open(regular.open_file(path), encoding="utf-8", errors="replace") as file:
            word = file.read(_LONGEST).strip()
    except FileNotFoundError:
        return None
    if not word:
        return None
    if not names.is_node_id(word):
        raise StateError(f"{path}: not a node id; remove the file to get a new one")
    return word


def make(directory: str) -> str:
    """Return this node's id; if there is none yet, make one and store it in `directory`.

    Raise StateError if that fails.
    """
    path = f"{directory}/node-id"
    try:
        node_id = read(directory)
        if node_id is None:
            _store(path, f"{directory}/.node-id.{os.getpid()}")
            node_id = read(directory)
        if node_id is None:
            _fill(path)
            node_id = read(directory)
        return node_id or ""
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StateError(f"{path}: {reason}") from None


def _store(path: str, draft: str) -> None:
    """Store a new id in `path`, unless another process was faster; `draft` is written first."""
    try:
        with open(regular.create(draft), "w", encoding="utf-8") as file:
            _write_id(file)
        # Checker and daemon may both be first: the link of one of them fails.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        database.unlink_if_there(draft)


def _fill(path: str) -> None:
    """Store a new id in the empty file `path`, unless another process was faster."""
    with open(regular.open_file(path, os.O_RDWR), "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if file.read(_LONGEST).strip():
            return
        file.seek(0)
        _write_id(file)
    log.warning("new-node-id", path=path, reason="the file was empty")


def _write_id(file: TextIO) -> None:
    file.write(os.urandom(_RANDOM_BYTES).hex() + "\n")
    file.flush()
    os.fsync(file.fileno())
