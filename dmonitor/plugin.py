"""The file of a plugin: whether it can be started, and if not, why."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from dmonitor import names, user


def fault(path: Path) -> str:
    """Return what keeps us from starting the plugin PATH, as far as one can see; nothing if it can be started."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if path.is_symlink() and isinstance(error, FileNotFoundError):
            return f"is a dangling link to {names.printable(os.readlink(path))}"
        return f"cannot be looked at: {error.strerror}"
    if not stat.S_ISREG(mode):
        return "is not a file"
    if not os.access(path, os.X_OK | os.R_OK):
        what = "readable" if os.access(path, os.X_OK) else "executable"
        return f"is not {what} for user {user.name()}; chmod 755 would make it so"
    try:
        with open(path, "rb") as file:
            head = file.read(256)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not head.startswith(b"#!"):
        return "" if head.startswith(b"\x7fELF") else "is neither a program nor a script with a #! line"
    interpreter = os.fsdecode(head[2:].split(b"\n")[0].split()[0]) if head[2:].split() else ""
    return (
        "" if os.access(interpreter, os.X_OK) else f"names an interpreter that does not exist: '{names.printable(interpreter)}'"
    )
