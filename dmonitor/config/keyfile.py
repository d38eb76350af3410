"""key and key.old: the secret that the nodes share (rule R8)."""

from __future__ import annotations

import os
import stat

from dmonitor.base import names, user
from dmonitor.config.files import FILE_LIMIT
from dmonitor.config.problems import Problems

Keys = (
    tuple[bytes, ...] | None
)  # the one that is used first; none where what there is cannot be used; None without any

NO_KEY_RISK = "whoever can call from a node's address is believed to be that node"
NO_KEY_ADVICE = f"no key: {NO_KEY_RISK}; `dmonitor key new` makes one on the first node, `dmonitor key set` takes it on the others"
KEY_FILES = ("key", "key.old")


def load_keys(directory: str, problems: Problems) -> Keys:
    """Read the key that the nodes share, and the one before it, which is taken while the key is changed."""
    there = [
        key for name in KEY_FILES if (key := load_key(f"{directory}/{name}", problems)) is not None
    ]
    return tuple(key for key in there if key) if there else None


def load_key(path: str, problems: Problems) -> bytes | None:
    """Return the key in PATH; None if it is not there, and nothing if it cannot be used, or others may know it."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            key = file.read(FILE_LIMIT).strip() if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not os.path.islink(path):
            return None  # it may be there by now: a key is being changed
        problems.failed(path, error)
        return b""
    fault = ""
    if not stat.S_ISREG(status.st_mode):
        fault = "it is not a file"
    elif status.st_uid not in (0, os.geteuid()):
        fault = f"it belongs to neither root nor {user.name()}"
    elif status.st_mode & 0o027:
        fault = f"others could read or write it (mode {status.st_mode & 0o777:o}); chmod 640 would mend that"
    elif not names.is_key(key):
        fault = (
            "it is not one word of 32 printable characters at least; `dmonitor key new` makes one"
        )
    if fault:
        problems.error(path, f"this key is not used: {fault}")
    return b"" if fault else key
