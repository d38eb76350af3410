"""The verb `dmonitor key`: show, make, take and drop the key that the nodes share (rule R8).

This is the only module that writes a key. Checker and daemon read it through `config`.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import sys
import tempfile
from collections.abc import Callable

from dmonitor.base import log, names, user
from dmonitor.config.keyfile import KEY_FILES, load_key
from dmonitor.config.problems import Problems

_KEY_LIMIT = 1 << 16  # bytes that are read from stdin
_GIVE = "The other nodes need it too, in any order:\n  ssh root@NODE dmonitor key set <{}"
_DROP = (
    "The key before it is still accepted. When all nodes have the new one, on each:\n"
    "  dmonitor key drop"
)


def change(directory: str, what: str, say: Callable[[str], None] = print) -> int:
    """Make (`new`), take from stdin (`set`) or drop (`drop`) a key below `directory`.

    Tell the person what came of it with `say`. Return an exit status.
    """
    path, old_path = (f"{directory}/{name}" for name in KEY_FILES)
    if what == "new":
        return _install(path, old_path, secrets.token_hex(32).encode(), say, is_new=True)
    if what == "set":
        return _install(path, old_path, sys.stdin.buffer.read(_KEY_LIMIT).strip(), say)
    return _drop(old_path, say)


def fingerprints(directory: str, problems: Problems) -> dict[str, str]:
    """Return the fingerprint of each usable key below `directory`, by its path."""
    found = {}
    for name in KEY_FILES:
        path = f"{directory}/{name}"
        key = load_key(path, problems)
        if key:
            found[path] = _fingerprint(key)
    return found


def _fingerprint(key: bytes) -> str:
    return hmac.digest(key, b"fingerprint", "sha256").hex()[:16]


def _drop(old_path: str, say: Callable[[str], None]) -> int:
    """Accept the old key no more."""
    if os.path.exists(old_path):
        os.unlink(old_path)
        log.info("old-key-dropped")
    say("The old key is no longer accepted.")
    return os.EX_OK


def _install(
    path: str, old_path: str, key: bytes, say: Callable[[str], None], *, is_new: bool = False
) -> int:
    """Make `key` the one in `path`, and the one before it that in `old_path`.

    The file is written whole or not at all. At no moment is there no key.
    """
    if not names.is_key(key):
        found = "is empty" if not key else "does not hold a key"
        log.complain(
            f"no key was set: stdin {found}; a key is one word of 32 or more printable characters"
        )
        return os.EX_DATAERR
    before = load_key(path, Problems())
    if before == key:
        say(f"{path} already holds this key")
        return os.EX_OK
    if before is not None and os.path.exists(old_path):
        log.complain(
            f"the key was not changed: {old_path} is still accepted, so the last change is not"
            " finished; when all nodes have the present key, run `dmonitor key drop` on each"
        )
        return os.EX_TEMPFAIL
    draft = _write_draft(os.path.dirname(path), key)
    try:
        if before is not None:
            os.replace(path, old_path)
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    old_key = None if before is None else "kept"
    log.info("key-changed", fingerprint=_fingerprint(key), old=old_key)
    say(f"{path} is written: {_fingerprint(key)}")
    if is_new:
        say(_GIVE.format(path))
    if before is not None:
        say(_DROP)
    return os.EX_OK


def _write_draft(directory: str, key: bytes) -> str:
    """Write `key` to a new file in `directory`, readable for dmonitor's group; return its path."""
    descriptor, draft = tempfile.mkstemp(prefix=".key.", dir=directory)
    try:
        with open(descriptor, "wb") as file:
            file.write(key + b"\n")
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
