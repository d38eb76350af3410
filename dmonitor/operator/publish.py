"""Write a file for others to read: what `dmonitor page` and `dmonitor metrics` make.

A reader finds the old file or the new one, and never a part of one. The program has become the user
dmonitor before it comes here, so it writes only where this user may.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile

from dmonitor.base import user

STANDARD_OUTPUT = ("-", "/dev/stdout")


class NotWritten(Exception):
    """The file was not written; the text says why, and what to do next."""


def home_of(state: str) -> str:
    """Return the directory that these files are in unless the operator names another."""
    return f"{state}/www"


def write(path: str, text: str, home: str) -> int:
    """Write `text` to the file `path`, which all may read; return its size in bytes.

    Raise NotWritten if that fails. The directory `home` is made if it is missing; no other is made.
    A link at `path` is replaced and not followed, because it may lead to another file of ours.
    """
    directory = os.path.dirname(path) or "."
    content = text.encode()
    if reason := _why_not_replaced(path):
        raise NotWritten(f"unable to write {path}: {reason}")
    try:
        if directory == home:
            _make(home)
        replace(path, content)
    except OSError as error:
        raise NotWritten(f"unable to write {path}: {_reason(error, directory, home)}") from None
    return len(content)


def _why_not_replaced(path: str) -> str:
    """Return why what is at `path` must stay, or ''. It may be replaced if it is a file or link."""
    if os.path.isdir(path):
        return "it is a directory"
    if os.path.lexists(path) and not os.path.islink(path) and not os.path.isfile(path):
        return "it is not a file; `-` is standard output"
    return ""


def _make(directory: str) -> None:
    """Make `directory`, which all may read, unless it is there."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory)
        os.chmod(directory, 0o755)  # whatever the umask


def replace(path: str, content: bytes) -> None:
    """Replace the file, or the link, at `path` with `content`, which all may read.

    Raise OSError, and leave no draft, if that fails.
    """
    directory, name = os.path.split(path)
    descriptor, draft = tempfile.mkstemp(prefix=f".{name}.", dir=directory or ".")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(descriptor, 0o644)  # mkstemp makes it 600
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def _reason(error: OSError, directory: str, home: str) -> str:
    """Return why nothing could be written in `directory`, and what to do next."""
    writer = user.name()
    if isinstance(error, FileNotFoundError):
        advice = f"make one that user {writer} may write, or name none to use {home}"
        return f"there is no directory {directory}; {advice}"
    if error.errno != errno.EACCES:  # EPERM would be so for every user
        return error.strerror or str(error)
    return f"{error.strerror} for user {writer}; {_advice(writer, directory, home)}"


def _advice(writer: str, directory: str, home: str) -> str:
    """Return what to do about `directory`, in which the user `writer` may not write."""
    if directory != home:
        return f"let this user write there (chown or setfacl), or name no directory to use {home}"
    if writer in user.NAMES:
        return "let this user write there (chown or setfacl)"
    return "run it as root"
