"""The file of a plugin or hook: why it may not or cannot be started, and which programs it needs.

This module looks at files, and starts nothing.
"""

from __future__ import annotations

import errno
import os
import stat

from dmonitor.base import names, user

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Plugins and hooks have no home: many programs run or obey what lies in one, and a plugin that the
# daemon confines could leave something there for a round, which is less confined.
HOME = "/nonexistent"
TRUST_SECONDS = 1.0  # for which a plugin stays trusted after a look at it
_NAGIOS_PLUGINS = "/usr/lib/nagios/plugins"  # where the plugin `wrap` looks, too
_SCRIPT_BYTES = 65536  # bytes of a script that are read
_HEAD_BYTES = 256  # bytes of a program that show what it is
_REQUIRED = " (required): "  # in the head of a script, in place of a default
_WRITABLE_BY_OTHERS = 0o022  # by the group, or by everybody


class TrustCache:
    """Remembers for a while which plugins are trusted, because a look takes many system calls."""

    def __init__(self) -> None:
        self._trusted_until: dict[bytes, float] = {}  # by path

    def check(self, path: bytes, now: float) -> None:
        """Raise PermissionError if `distrust_reason` has a reason not to run the plugin `path`."""
        if self._trusted_until.get(path, 0.0) >= now:
            return
        if distrust_reason(os.fsdecode(path)):
            raise PermissionError(errno.EPERM, "not to be trusted")
        self._trusted_until[path] = now + TRUST_SECONDS


def distrust_reason(path: str) -> str:
    """Return why the plugin `path` must not run: users other than root and us could change it.

    Return '' if the plugin is trusted or missing. Links are followed. Every directory on the way
    counts like the file, because a user who can write to a directory can put another file there.
    """
    real_path = os.path.realpath(path)
    checked_paths = [*_parents(path), real_path, *_parents(real_path)]
    for checked_path in dict.fromkeys(checked_paths):
        try:
            status = os.stat(checked_path)
        except OSError:
            return ""
        location = ""
        if checked_path != real_path:
            location = f"lies in {names.printable(checked_path)}, which "
        if status.st_uid not in (0, os.geteuid()):
            owner = f"user {status.st_uid}, and not to root or {user.name()}"
            return f"{location}belongs to {owner}"
        if status.st_mode & _WRITABLE_BY_OTHERS and not _is_sticky_directory(status.st_mode):
            return f"{location}can be written by users other than its owner; run chmod go-w on it"
    return ""


def _is_sticky_directory(mode: int) -> bool:
    """Return whether `mode` is that of a directory like /tmp, where files of others are safe."""
    return stat.S_ISDIR(mode) and bool(mode & stat.S_ISVTX)


def _parents(path: str) -> list[str]:
    """Return the directories on the way to `path`, the nearest first."""
    parents = []
    parent = os.path.dirname(path)
    while parent != path:
        parents.append(parent)
        path = parent
        parent = os.path.dirname(path)
    return parents


def fault(path: str) -> str:
    """Return why the plugin `path` cannot be started, as far as its file shows; '' if it can be."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if os.path.islink(path) and isinstance(error, FileNotFoundError):
            return f"is a dangling link to {names.printable(os.readlink(path))}"
        return f"cannot be examined: {error.strerror}"
    if not stat.S_ISREG(mode):
        return "is not a file"
    reason = distrust_reason(path)
    if reason:
        return reason
    reason = why_not_executable(path)
    if reason:
        return reason
    if not os.access(path, os.R_OK, effective_ids=True):
        return f"is not readable for user {user.name()}; run chmod 755 on it"
    return _format_fault(path)


def is_monitoring_plugin(path: str) -> bool:
    """Return whether the plugin `path` is a link to one of the monitoring plugins.

    They say their outcome by their exit status, and want other arguments than HOST.
    """
    return os.path.realpath(path).startswith(f"{os.path.realpath(_NAGIOS_PLUGINS)}/")


def why_not_executable(path: str) -> str:
    """Return why this user cannot execute the file `path`, and what to do; '' if it can."""
    if os.access(path, os.X_OK, effective_ids=True):
        return ""
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        return "lies on a file system that is mounted noexec; move it, or remount that with exec"
    return f"is not executable for user {user.name()}; run chmod 755 on it"


def _format_fault(path: str) -> str:
    """Return why the system cannot run the content of the file `path`; '' if it can."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if head.startswith(b"\x7fELF"):
        return ""
    if not head.startswith(b"#!"):
        return "is neither a program nor a script with a #! line"
    first_line = head[2:].partition(b"\n")[0]
    if first_line.endswith(b"\r"):
        return "has lines that end in CR LF, so its interpreter is not found; let them end in LF"
    interpreter, _, argument = os.fsdecode(first_line.strip()).partition(" ")
    if not os.access(interpreter, os.X_OK, effective_ids=True):
        return f"names an interpreter that does not exist: '{names.printable(interpreter)}'"
    if os.path.basename(interpreter) == "env":
        program = _program_of_env(argument.strip())
        if program and not _is_program(program):
            return f"needs a program that is not installed: '{names.printable(program)}'"
    return ""


def _program_of_env(argument: str) -> str:
    """Return which program `env` starts for a script; '' if that cannot be told.

    The system passes all that follows the interpreter as one argument.
    """
    if not argument.startswith("-"):
        return argument
    if not argument.startswith("-S"):
        return ""
    for word in argument.removeprefix("-S").split():
        if "=" not in word:
            return word
    return ""


def _is_program(name: str) -> bool:
    import shutil

    return shutil.which(name, path=PATH) is not None


def text(path: str) -> str:
    """Return the beginning of the script `path`; '' for any other file, or an unreadable one."""
    try:
        with open(path, "rb") as file:
            start = file.read(_SCRIPT_BYTES)
    except OSError:
        return ""
    if not start.startswith(b"#!"):
        return ""
    return start.decode("utf-8", "replace")


def stated_parameters(text: str) -> list[str]:
    """Return the parameters that the head of the script `text` states.

    The head is the comments before the first line of code. It states each parameter in a line of
    its own: `#: NAME (default): what it is`.
    """
    import itertools
    import re

    head = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return re.findall(r"^#: ([A-Z][A-Z0-9_]*)(?: \([^)]*\))?: ", "\n".join(head), re.MULTILINE)


def required_parameters(text: str) -> list[str]:
    """Return the parameters without which the script `text` cannot test.

    Its head has them as `#: NAME (required): what it is`.
    """
    lines = [line for line in text.splitlines() if _REQUIRED in line or not line.startswith("#:")]
    return stated_parameters("\n".join(lines))


def lacking(text: str) -> dict[str, str]:
    """Return the missing programs that the script `text` needs, each with its package.

    A script names each program that it needs in a comment: Needs PROGRAM (PACKAGE).
    """
    import re
    import shutil

    needs = re.findall(r"^#.*?\bNeeds (\S+) \(([a-z0-9.+-]+)\)", text, re.MULTILINE)
    return {
        program: package
        for program, package in needs
        if not shutil.which(program, path=f"{PATH}:{_NAGIOS_PLUGINS}")
    }
