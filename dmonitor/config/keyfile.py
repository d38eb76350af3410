"""Read the files key and key.old: the secret that the nodes share (R8).

A key that cannot be used, or that others may know, is a problem. Making and changing keys is the
operator's command `dmonitor key`, not this module.
"""

from __future__ import annotations

import os
import stat

from dmonitor.base import names, user
from dmonitor.config.files import FILE_LIMIT
from dmonitor.config.problems import Problems

# The usable keys, and the one that is used first comes first. Empty: there are keys, and none can
# be used. None: there is no key.
Keys = tuple[bytes, ...] | None

KEY_FILES = ("key", "key.old")
NO_KEY_RISK = "any program that calls from a node's address is taken for that node"
NO_KEY_ADVICE = (
    f"no key: {NO_KEY_RISK}; `dmonitor key new` on one node makes a key,"
    " and `dmonitor key set` on each other node installs it"
)


def load_keys(directory: str, problems: Problems) -> Keys:
    """Read the key in `directory`, and the old key, which is accepted while the key changes."""
    found = []
    for name in KEY_FILES:
        key = load_key(f"{directory}/{name}", problems)
        if key is not None:
            found.append(key)
    if not found:
        return None
    return tuple(key for key in found if key)


def load_key(path: str, problems: Problems) -> bytes | None:
    """Return the key in `path`; None if there is no such file, b"" if the key cannot be used."""
    try:
        status, key = _read(path)
    except OSError as error:
        # An absent file is no problem, even if it is there by now: a key may be changing.
        if isinstance(error, FileNotFoundError) and not os.path.islink(path):
            return None
        problems.add_unreadable(path, error)
        return b""
    fault = _fault(status, key)
    if fault:
        problems.error(path, f"cannot use this key: {fault}")
        return b""
    return key


def _read(path: str) -> tuple[os.stat_result, bytes]:
    """Return the status of `path`, and the key in it if it is a regular file."""
    # Without O_NONBLOCK a FIFO would block.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return status, b""
        return status, file.read(FILE_LIMIT).strip()


def _fault(status: os.stat_result, key: bytes) -> str:
    """Return why `key`, in a file of this `status`, must not be used, or ""."""
    if not stat.S_ISREG(status.st_mode):
        return "it is not a file"
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to neither root nor {user.name()}; change its owner"
    if status.st_mode & 0o027:
        mode = f"{status.st_mode & 0o777:o}"
        return f"others could read or write it (mode {mode}); run chmod 640 on it"
    if not names.is_key(key):
        return "it is not one word of 32 or more printable characters; `dmonitor key new` makes one"
    return ""
