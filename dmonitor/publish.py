"""Files for others to read, written whole or not at all: what `dmonitor page` and `dmonitor metrics` make.

They are made as the user that dmonitor runs as, who may read the state, and written as who we are, who may write there. Root may
well be asked to write where somebody else may, too: no link of his leads anywhere.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable

from dmonitor import log, program


class NotWritten(Exception):
    """Nothing was written, and why has been said; `status` is that of sysexits.h."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def publish(path: str, make: Callable[[], str]) -> tuple[str, int]:
    """Write what MAKE returns to PATH, for all to read; return where that is, links followed, and the bytes; or NotWritten."""
    if not path:
        raise _refused("nowhere", "the name is empty", os.EX_USAGE)
    path = _target(path)
    where = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise _refused(path, "it is a directory")
    if not os.path.isdir(where):
        raise _refused(path, f"there is no directory {where}")
    text = _as_user(make)
    if _is_device(path) and _is_trusted(path):
        with open(path, "wb") as file:
            file.write(text)
        return path, len(text)
    draft = ""
    try:
        descriptor, draft = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=where)
        with open(descriptor, "wb") as file:
            file.write(text)
            os.fchmod(descriptor, 0o644)
        os.replace(draft, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise _refused(path, error.strerror or str(error)) from None
    return path, len(text)


def _refused(path: str, reason: str, status: int = os.EX_TEMPFAIL) -> NotWritten:
    log.complain(f"unable to write {path}: {reason}")
    return NotWritten(status)


def _target(path: str) -> str:
    """Follow links to a file, as long as they are root's or ours."""
    for _ in range(40):
        if not os.path.islink(path) or not _is_trusted(path):
            break
        beyond = os.path.join(os.path.dirname(path), os.readlink(path))
        if not os.path.exists(beyond):  # a pipe, which has no name, or what is not there yet
            break
        path = beyond
    return path


def _is_trusted(path: str) -> bool:
    return os.lstat(path).st_uid in (0, os.geteuid())


def _is_device(path: str) -> bool:
    """Say whether PATH is a terminal, a pipe or another thing that cannot be replaced."""
    return os.path.exists(path) and not os.path.isfile(path)


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

            status = program.guard(write)
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as file:
        text = file.read()
    _, ended = os.waitpid(child, 0)
    if ended or not text:
        raise NotWritten(os.EX_TEMPFAIL)
    return text
