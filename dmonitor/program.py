"""What the programs share: options that mean the same everywhere, and what becomes of an error nobody foresaw."""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dmonitor import __version__, log, user
from dmonitor.config import DEFAULT_DIRECTORY
from dmonitor.state import DEFAULT_DIRECTORY as DEFAULT_STATE
from dmonitor.state import DEFAULT_RUN, StateError


class _Parser(argparse.ArgumentParser):
    """An argument parser that ends with the usage status of sysexits.h."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(os.EX_USAGE, f"{self.prog}: {message}\n")


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """Return a parser that knows --config, --state, --verbose and --version."""
    result = _Parser(prog=program, description=description, allow_abbrev=False)
    add: Any = result.add_argument
    add("--config", metavar="DIR", type=_directory, default=DEFAULT_DIRECTORY, help="default: %(default)s")
    add("--state", metavar="DIR", type=_directory, default=DEFAULT_STATE, help="default: %(default)s")
    add("--run", metavar="DIR", type=_directory, help=f"for when the state cannot be written; default: {DEFAULT_RUN}")
    add("-v", "--verbose", action="store_true", help="log every step, on stderr too")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return result


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options chosen; a state of its own does not share the run directory of the usual one."""
    chosen = parser.parse_args(arguments)
    if chosen.run is None and chosen.state == DEFAULT_STATE:
        chosen.run = DEFAULT_RUN
    return chosen


def _directory(text: str) -> Path:
    path = Path(text).absolute()
    if not str(path).isprintable():
        raise argparse.ArgumentTypeError("unprintable characters in a path")
    return path


def guard(main: Callable[[], int]) -> int:
    """Return what MAIN returns; where it fails, say why, and return the status of sysexits.h for that."""
    _open_standard_streams()
    try:
        return main()
    except user.NoUser as error:
        return _failed("unable to give up root", str(error), os.EX_NOUSER)
    except StateError as error:
        return _failed("unable to use the state", str(error), os.EX_TEMPFAIL)
    except OSError as error:
        return _failed("unable to go on", reason(error), os.EX_TEMPFAIL)
    except KeyboardInterrupt:
        return os.EX_TEMPFAIL
    except Exception as error:  # noqa: BLE001 - a bug must be seen in syslog and by cron
        traceback.print_exc()
        return _failed("a bug in dmonitor", repr(error), os.EX_SOFTWARE)


def _open_standard_streams() -> None:
    """Open what whoever started us left closed: a file of ours must not get its number. No character may fail to print."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - for as long as we run
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def reason(error: OSError) -> str:
    """Return what a system call said, and about which file."""
    what = error.strerror or str(error)
    if isinstance(error, PermissionError):
        what += f" for user {user.name()}" + ("; root may" if os.geteuid() and user.name() not in user.NAMES else "")
    return f"{os.fsdecode(error.filename)}: {what}" if isinstance(error.filename, str | bytes) else what


def _failed(what: str, why: str, status: int) -> int:
    log.error("failed", what=what, reason=why)
    log.complain(f"{what}: {why}")
    return status
