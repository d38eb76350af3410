"""Start and end a program: its options, its standard streams, its exit status.

Every start loads this module, also each round that cron starts. What argparse needs is in
`options`, a module of its own, because argparse costs milliseconds. Cron gives no options, so a
round does not pay for it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from dmonitor.base import log, paths, user
from dmonitor.base.errors import StateError

if TYPE_CHECKING:
    import argparse
    from typing import NoReturn


class Options:
    """The options of every program, with their defaults; a program adds its own in a subclass."""

    config: str = paths.CONFIG
    state: str = paths.STATE
    run_dir: str | None = None  # None: the state has no second place to go to
    verbose: bool = False


def parse(
    make_parser: Callable[[], argparse.ArgumentParser],
    options: Options,
    arguments: Sequence[str] | None,
) -> None:
    """Set `options` from `arguments`, or from the command line if these are None.

    Without any argument no parser is made. The usual run directory goes with the usual state only,
    because two nodes on one machine must not share it.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    if arguments:
        make_parser().parse_args(arguments, options)
    if options.run_dir is None and options.state == paths.STATE:
        options.run_dir = paths.RUN


def guard(main: Callable[[], int]) -> int:
    """Return the exit status of `main`; if it raises, say why and return a status of sysexits.h."""
    _open_standard_streams()
    try:
        return main()
    except user.NoUser as error:
        return _fail("unable to give up root", str(error), os.EX_NOUSER)
    except StateError as error:
        return _fail("unable to use the state", str(error), os.EX_TEMPFAIL)
    except OSError as error:
        return _fail("unable to go on", _describe(error), os.EX_TEMPFAIL)
    except ImportError as error:  # no descriptor or memory is left, or an upgrade is under way
        advice = "if it happens again, install dmonitor anew"
        return _fail("unable to load a part of the program", f"{error}; {advice}", os.EX_TEMPFAIL)
    except KeyboardInterrupt:
        return os.EX_TEMPFAIL
    except Exception as error:  # noqa: BLE001 - a bug must be seen in syslog and by cron
        sys.excepthook(type(error), error, error.__traceback__)
        return _fail("a bug in dmonitor", repr(error), os.EX_SOFTWARE)


def leave(status: int) -> NoReturn:
    """End this process with `status`, or EX_IOERR if the output cannot be written.

    The interpreter is not taken apart, because that takes a sixth of a quiet round.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or os.EX_IOERR
    os._exit(status)


@contextlib.contextmanager
def time_limit(seconds: float, failure: str, reason: str) -> Iterator[None]:
    """End this process if a block takes longer, even if it hangs in the kernel or in C code.

    Say that there was a `failure`, and the `reason`.
    """
    import threading

    timer = threading.Timer(seconds, lambda: leave(_fail(failure, reason, os.EX_TEMPFAIL)))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _open_standard_streams() -> None:
    """Open closed file descriptors 0 to 2 on /dev/null, and let no character fail to print.

    A file that the program opens later must not get one of these numbers.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            stream = open(number, mode, closefd=False)  # noqa: SIM115 - open until the end
            setattr(sys, name, stream)
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")


def _describe(error: OSError) -> str:
    """Return what a system call reported, for which user, and about which file."""
    text = error.strerror or str(error)
    if error.errno == errno.EACCES:  # EPERM would be so for every user
        text += f" for user {user.name()}"
        if os.geteuid() != 0 and user.name() not in user.NAMES:
            text += "; root may"
    if isinstance(error.filename, str | bytes):
        return f"{os.fsdecode(error.filename)}: {text}"
    return text


def _fail(failure: str, reason: str, status: int) -> int:
    log.error("program-failed", what=failure, reason=reason)
    log.complain(f"{failure}: {reason}")
    return status
