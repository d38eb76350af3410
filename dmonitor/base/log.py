"""One event a line, to syslog and, where asked for, to stderr: `event key=value key="quoted value"`.

Texts from plugins and peers are escaped here, so that nobody forges a line. What is worth an event is the
callers' business.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import syslog

from dmonitor.base import names

_to_stderr = False
_verbose = False
_program = "dmonitor"

Value = str | int | float | None


def start(program: str, *, to_stderr: bool = False, verbose: bool = False) -> None:
    """Log as PROGRAM, facility daemon; debug events only where VERBOSE."""
    global _to_stderr, _verbose, _program
    _program, _to_stderr, _verbose = program, to_stderr, verbose
    syslog.openlog(program, syslog.LOG_PID | syslog.LOG_NDELAY, syslog.LOG_DAEMON)


def restart() -> None:
    """Let go of the connection to syslog that was inherited from another process."""
    syslog.closelog()
    syslog.openlog(_program, syslog.LOG_PID, syslog.LOG_DAEMON)


def complain(text: str) -> None:
    """Say TEXT to the person at the terminal, or to cron, which mails it."""
    _print(names.printable(text, 2000))


def line(event: str, facts: dict[str, Value]) -> str:
    """Return the event as it is logged; facts that are None are left out."""
    return " ".join(
        [event, *(f"{key}={_value(value)}" for key, value in facts.items() if value is not None)]
    )


def _value(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = names.printable(str(value), 1000)
    return (
        text
        if re.fullmatch(r"[^\s\"=\\]+", text)
        else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    )


def _write(priority: int, event: str, /, **facts: Value) -> None:
    if priority == syslog.LOG_DEBUG and not _verbose:
        return
    text = line(event, facts)
    syslog.syslog(priority, text)
    if _to_stderr:
        _print(text)


debug = functools.partial(
    _write, syslog.LOG_DEBUG
)  # what only a person who looks for a fault wants to see
info = functools.partial(_write, syslog.LOG_INFO)  # a transition, and what led to it
warning = functools.partial(_write, syslog.LOG_WARNING)  # what an operator should mend one day
error = functools.partial(_write, syslog.LOG_ERR)  # what keeps this node from a part of its work
critical = functools.partial(_write, syslog.LOG_CRIT)  # what keeps this node from seeing or telling


def _print(text: str) -> None:
    try:
        print(f"{_program}: {text}", file=sys.stderr, flush=True)
    except (
        OSError,
        ValueError,
    ):  # nobody reads it any more; what is left in its buffer must not spoil our exit status
        with contextlib.suppress(OSError), open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
