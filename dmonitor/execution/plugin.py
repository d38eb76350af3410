"""The file of a plugin: whether it may be started, and can be, and if not, why; and what it says of itself."""

from __future__ import annotations

import os
import stat

from dmonitor.base import names, user

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ALSO = "/usr/lib/nagios/plugins"  # where `wrap` looks, too
_TEXT = 65536  # bytes of a script that are read


def distrust(path: str) -> str:
    """Return why the plugin PATH is not to be run: others than root and we could say what it does. Nothing if it is not there.

    Links are followed. Every directory on the way counts like the file: who can write one can put another file there.
    """
    real = os.path.realpath(path)
    for place in dict.fromkeys((*_parents(path), real, *_parents(real))):
        try:
            status = os.stat(place)
        except OSError:
            return ""
        where = "" if place == real else f"lies in {names.printable(place)}, which "
        if status.st_uid not in (0, os.geteuid()):
            return f"{where}belongs to user {status.st_uid}, and not to root or {user.name()}"
        if status.st_mode & 0o022 and not (
            stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        ):
            return f"{where}can be written by others than its owner; chmod go-w would mend that"
    return ""


def _parents(path: str) -> list[str]:
    """Return the directories on the way to PATH, the nearest first."""
    found = []
    while (above := os.path.dirname(path)) != path:
        found.append(path := above)
    return found


def fault(path: str) -> str:
    """Return what keeps us from starting the plugin PATH, as far as one can see; nothing if it can be started."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if os.path.islink(path) and isinstance(error, FileNotFoundError):
            return f"is a dangling link to {names.printable(os.readlink(path))}"
        return f"cannot be looked at: {error.strerror}"
    if not stat.S_ISREG(mode):
        return "is not a file"
    if reason := distrust(path):
        return reason
    if not os.access(path, os.X_OK | os.R_OK):
        what = "readable" if os.access(path, os.X_OK) else "executable"
        return f"is not {what} for user {user.name()}; chmod 755 would make it so"
    try:
        with open(path, "rb") as file:
            head = file.read(256)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not head.startswith(b"#!"):
        return (
            ""
            if head.startswith(b"\x7fELF")
            else "is neither a program nor a script with a #! line"
        )
    words = head[2:].split(b"\n")[0].split()
    interpreter = os.fsdecode(words[0]) if words else ""
    return (
        ""
        if os.access(interpreter, os.X_OK)
        else f"names an interpreter that does not exist: '{names.printable(interpreter)}'"
    )


def text(path: str) -> str:
    """Return what the script PATH says, the beginning of it at least; nothing of a program that is no script."""
    try:
        with open(path, "rb") as file:
            start = file.read(_TEXT)
    except OSError:
        return ""
    return start.decode("utf-8", "replace") if start.startswith(b"#!") else ""


def lacking(text: str) -> dict[str, str]:
    """Return the programs that are not installed, of those that a script's TEXT says it needs, and the packages that have them.

    It says so in a comment, one for each: Needs PROGRAM (PACKAGE).
    """
    import re
    import shutil

    needs = dict(re.findall(r"^#.*?\bNeeds (\S+) \(([a-z0-9.+-]+)\)", text, re.MULTILINE))
    return {
        program: package
        for program, package in needs.items()
        if not shutil.which(program, path=f"{PATH}:{_ALSO}")
    }
