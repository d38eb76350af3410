"""What the programs share: options that mean the same everywhere, and what becomes of an error nobody foresaw."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dmonitor.base import log, paths, user
from dmonitor.base.errors import StateError

if TYPE_CHECKING:
    import argparse
    from typing import NoReturn


class Chosen:
    """The options, as they are by default."""

    config: str = paths.CONFIG
    state: str = paths.STATE
    run_dir: str | None = None
    verbose: bool = False


def parse(
    parser: Callable[[], argparse.ArgumentParser], chosen: Chosen, arguments: Sequence[str] | None
) -> None:
    """Set what is CHOSEN by the arguments; the PARSER is made only for a program that was given some.

    A state of its own does not share the run directory of the usual one.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given:
        parser().parse_args(given, chosen)
    if chosen.run_dir is None and chosen.state == paths.STATE:
        chosen.run_dir = paths.RUN


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
        sys.excepthook(type(error), error, error.__traceback__)
        return _failed("a bug in dmonitor", repr(error), os.EX_SOFTWARE)


def leave(status: int) -> NoReturn:
    """End this process at once: to take an interpreter apart takes a sixth of a quiet round."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or os.EX_IOERR
    os._exit(status)


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
        what += f" for user {user.name()}" + (
            "; root may" if os.geteuid() and user.name() not in user.NAMES else ""
        )
    return (
        f"{os.fsdecode(error.filename)}: {what}"
        if isinstance(error.filename, str | bytes)
        else what
    )


def _failed(what: str, why: str, status: int) -> int:
    log.error("program-failed", what=what, reason=why)
    log.complain(f"{what}: {why}")
    return status
