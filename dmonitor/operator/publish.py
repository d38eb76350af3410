"""Files for others to read, written whole or not at all: what `dmonitor page` and `dmonitor metrics` make.

They are made as the user that dmonitor runs as, who may read the state, and written as who we are, who may write there. Root may
well be asked to write where somebody else may, too: no link of his, on whatever part of the way, leads anywhere.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable

from dmonitor.base import cli, log

_LINKS = 40  # on one way


class NotWritten(Exception):
    """Nothing was written, and why has been said; `status` is that of sysexits.h."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def publish(path: str, make: Callable[[], str]) -> int:
    """Write what MAKE returns to PATH, for all to read; return how many bytes that are, or raise NotWritten."""
    if not path:
        raise _refused("nowhere", "the name is empty", os.EX_USAGE)
    with contextlib.ExitStack() as opened:
        try:
            directory, name = _open(path, opened)
            where = f"/proc/self/fd/{directory}"
            text = _as_user(make)
            descriptor, draft = tempfile.mkstemp(prefix=f".{name}.", dir=where)
            opened.callback(_unlink, draft)
            with open(descriptor, "wb") as file:
                file.write(text)
                os.fchmod(descriptor, 0o644)
            os.replace(draft, f"{where}/{name}")
        except FileNotFoundError:
            raise _refused(path, f"there is no directory {os.path.dirname(path) or '.'}") from None
        except OSError as error:
            raise _refused(path, error.strerror or str(error)) from None
    return len(text)


def to_stdout(make: Callable[[], str]) -> None:
    """Write what MAKE returns to standard output; or raise NotWritten."""
    sys.stdout.buffer.write(_as_user(make))


def _refused(path: str, reason: str, status: int = os.EX_TEMPFAIL) -> NotWritten:
    log.complain(f"unable to write {path}: {reason}")
    return NotWritten(status)


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _open(path: str, opened: contextlib.ExitStack) -> tuple[int, str]:
    """Return the directory of the file PATH, OPENED, and the name of the file there.

    Links are followed, as long as they are root's or ours. Each is looked at once, held fast, for it may be another thing at
    the next look.
    """

    def hold(name: str, place: int | None = None) -> int:
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
        opened.callback(os.close, held)
        return held

    place, left, links = hold("/"), os.path.abspath(path).split("/"), 0
    while True:
        name = left.pop(0)
        if not name and left:
            continue
        try:
            held = hold(name or ".", place)
        except FileNotFoundError:
            if left:
                raise
            return place, name
        status = os.fstat(held)
        if stat.S_ISLNK(status.st_mode):
            if status.st_uid in (0, os.geteuid()) and links < _LINKS:
                target, links = os.readlink("", dir_fd=held), links + 1
                place, left = (
                    hold("/") if target.startswith("/") else place,
                    target.split("/") + left,
                )
            elif left:
                raise _refused(path, f"{name} is a link of somebody else's")
            else:
                return place, name  # it is replaced
        elif left:
            place = held
        elif stat.S_ISREG(status.st_mode):
            return place, name
        else:
            raise _refused(
                path,
                "it is a directory"
                if stat.S_ISDIR(status.st_mode)
                else "it is no file; `-` is standard output",
            )


def _as_user(make: Callable[[], str]) -> bytes:
    """Return what MAKE returns, as another process that has given up root; NotWritten where that failed, which it has said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = os.EX_SOFTWARE
        try:
            os.close(reading)

            def write() -> int:
                text = make().encode()
                with open(writing, "wb") as file:
                    file.write(text)
                return os.EX_OK

            status = cli.guard(write)
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as file:
        text = file.read()
    _, ended = os.waitpid(child, 0)
    if ended or not text:
        raise NotWritten(os.EX_TEMPFAIL)
    return text
