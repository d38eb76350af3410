"""Log one event a line, to syslog and, if asked, to stderr: `event key=value key="quoted value"`.

Texts from plugins and peers are escaped here, so that no text can forge a line. Which events are
worth a line is decided by the callers.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import syslog

from dmonitor.base import names

_VALUE_LIMIT = 1000  # characters of a value that are logged
_COMPLAINT_LIMIT = 2000  # characters of a complaint that are shown
_SYSLOG = "/dev/log"  # where the C library hands over what is logged

_to_stderr = False
_verbose = False
_program = "dmonitor"

Value = str | int | float | None


def start(program: str, *, to_stderr: bool = False, verbose: bool = False) -> None:
    """Log as `program`, facility daemon; log debug events only if `verbose`."""
    global _to_stderr, _verbose, _program
    _program = program
    _to_stderr = to_stderr
    _verbose = verbose
    syslog.openlog(program, syslog.LOG_PID | syslog.LOG_NDELAY, syslog.LOG_DAEMON)


def is_lost() -> bool:
    """Return whether syslog takes nothing, because there is none: most containers have none."""
    return not os.path.exists(_SYSLOG)


def restart() -> None:
    """Replace the connection to syslog that this process inherited from its parent."""
    syslog.closelog()
    syslog.openlog(_program, syslog.LOG_PID, syslog.LOG_DAEMON)


def complain(text: str) -> None:
    """Print `text` to stderr, for a person at the terminal or for cron, which mails it."""
    _print(names.printable(text, _COMPLAINT_LIMIT))


def line(event: str, facts: dict[str, Value]) -> str:
    """Return the line that is logged for `event`; facts that are None are left out."""
    words = [event]
    for key, value in facts.items():
        if value is not None:
            words.append(f"{key}={_format(value)}")
    return " ".join(words)


def _format(value: Value) -> str:
    """Return `value` as it is logged: a word as it is, anything else in quotes."""
    if isinstance(value, float):
        return f"{value:.3f}"
    text = names.printable(str(value), _VALUE_LIMIT)
    if re.fullmatch(r"[^\s\"=\\]+", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _write(priority: int, event: str, /, **facts: Value) -> None:
    if priority == syslog.LOG_DEBUG and not _verbose:
        return
    text = line(event, facts)
    syslog.syslog(priority, text)
    if _to_stderr:
        _print(text)


# A step that matters only to a person who looks for a fault.
debug = functools.partial(_write, syslog.LOG_DEBUG)
# A transition, and what led to it.
info = functools.partial(_write, syslog.LOG_INFO)
# A fault that an operator should repair one day.
warning = functools.partial(_write, syslog.LOG_WARNING)
# A fault that keeps this node from a part of its work.
error = functools.partial(_write, syslog.LOG_ERR)
# A fault that keeps this node from seeing or telling.
critical = functools.partial(_write, syslog.LOG_CRIT)


def _print(text: str) -> None:
    try:
        print(f"{_program}: {text}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        # Nobody reads stderr any more. The rest of its buffer must not change the exit status.
        with contextlib.suppress(OSError), open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
