"""The verb `dmonitor key`: show, make, take and drop the key that the nodes share (rule R8).

The only one that makes a key; checker and daemon only read it (`config`).
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
from dmonitor.config import keyfile
from dmonitor.config.problems import Problems

_GIVE = "The other nodes need it too, in any order:\n  ssh root@NODE dmonitor key set <{}"
_DROP = "The one before it is still taken. When all nodes have the new one, on each:\n  dmonitor key drop"


def change(directory: str, what: str, say: Callable[[str], None] = print) -> int:
    """Do WHAT is wanted, `new`, `set` or `drop`, to the key below DIRECTORY, and SAY what came of it; return an exit status."""
    path, old = (f"{directory}/{name}" for name in keyfile.KEY_FILES)
    match what:
        case "new":
            return _install(path, old, secrets.token_hex(32).encode(), say, is_new=True)
        case "set":
            return _install(path, old, sys.stdin.buffer.read(1 << 16).strip(), say)
    if os.path.exists(old):
        os.unlink(old)
        log.info("old-key-dropped")
    say("no old key is taken any more")
    return os.EX_OK


def fingerprints(directory: str, problems: Problems) -> dict[str, str]:
    """Return the fingerprint of each key below DIRECTORY that is taken, by its path."""
    keys = {
        path: keyfile.load_key(path, problems)
        for path in (f"{directory}/{name}" for name in keyfile.KEY_FILES)
    }
    return {path: _fingerprint(key) for path, key in keys.items() if key}


def _fingerprint(key: bytes) -> str:
    return hmac.digest(key, b"fingerprint", "sha256").hex()[:16]


def _install(
    path: str, old: str, key: bytes, say: Callable[[str], None], *, is_new: bool = False
) -> int:
    """Make KEY the one in PATH, whole or not at all, and the one before it OLD; at no moment is there none."""
    if not names.is_key(key):
        log.complain(
            "this is no key, but nothing"
            if not key
            else "this is no key: one word of 32 printable characters at least"
        )
        return os.EX_DATAERR
    before = keyfile.load_key(path, Problems())
    if before == key:
        say(f"{path} is this key already")
        return os.EX_OK
    if before is not None and os.path.exists(old):
        log.complain(
            f"unable to change the key: the last change is not finished, for {old} is still taken; see `dmonitor key drop`"
        )
        return os.EX_TEMPFAIL
    descriptor, draft = tempfile.mkstemp(prefix=".key.", dir=os.path.dirname(path))
    try:
        with open(descriptor, "wb") as file:
            file.write(key + b"\n")
            file.flush()
            os.fchown(descriptor, -1, user.find().pw_gid if os.geteuid() == 0 else -1)
            os.fchmod(descriptor, 0o640)
            os.fsync(descriptor)
        if before is not None:
            os.replace(path, old)
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    log.info(
        "key-changed", fingerprint=_fingerprint(key), old="kept" if before is not None else None
    )
    say(f"{path} is written: {_fingerprint(key)}")
    if is_new:
        say(_GIVE.format(path))
    if before is not None:
        say(_DROP)
    return os.EX_OK
