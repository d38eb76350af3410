"""This node's id: a random word in a file of the state directory, made once, by whoever asks first (rule R2)."""

from __future__ import annotations

import contextlib
import os

from dmonitor.base import names
from dmonitor.base.errors import StateError
from dmonitor.store import database


def known(directory: str) -> str | None:
    """Return the node id kept in DIRECTORY, None while there is none; StateError if it is no such word, OSError."""
    path = f"{directory}/node-id"
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            word = file.read().strip()
    except FileNotFoundError:
        return None
    if not names.is_node_id(word):
        raise StateError(f"{path}: not a node id; remove the file to get a new one")
    return word


def make(directory: str) -> str:
    """Return this node's id, made and stored in DIRECTORY if there is none yet; raise StateError when that fails."""
    path, draft = f"{directory}/node-id", f"{directory}/.node-id.{os.getpid()}"
    try:
        if (word := known(directory)) is not None:
            return word
        try:
            with open(draft, "w", encoding="utf-8") as file:
                file.write(os.urandom(12).hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(
                FileExistsError
            ):  # checker and daemon may both be first: one of them wins
                os.link(draft, path)
        finally:
            database.unlink(draft)
        return known(directory) or ""
    except (OSError, UnicodeError) as error:
        raise StateError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
