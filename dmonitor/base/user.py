"""The user that the programs run as: root becomes `dmonitor`, or `nobody` if there is no such user.

A program gives up root before it touches any state. This module changes users, and it makes a state
directory that does not exist yet. It knows nothing of what the directory holds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
from collections.abc import Iterator

NAMES = ("dmonitor", "nobody")  # the first that exists


class NoUser(Exception):
    """This process cannot become any of the users in NAMES; the text says why."""


def find() -> pwd.struct_passwd:
    """Return the user to become: the first of NAMES that exists; raise NoUser if none does."""
    for name in NAMES:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NoUser(f"none of the users {', '.join(NAMES)} exists")


def become(*directories: str | None) -> None:
    """Give up root for good, if this process runs as root.

    Before that, make those of `directories` that do not exist; they belong to the new user.
    """
    if os.geteuid() != 0:
        return
    account = find()
    for directory in directories:
        if directory and not os.path.exists(directory):
            _make(directory, account)
    try:
        os.initgroups(account.pw_name, account.pw_gid)
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    except PermissionError as error:
        text = f"root may not become user {account.pw_name} here: {error.strerror}"
        advice = "let it have CAP_SETUID and CAP_SETGID, or start it as this user"
        raise NoUser(f"{text}; {advice}") from None


@contextlib.contextmanager
def acting() -> Iterator[None]:
    """Look at files as the user that root becomes, and be root again after that.

    That is no protection: whoever runs code here may be root again, too. Without such a user, or
    where root may not become it, this process looks as who it is.
    """
    if os.geteuid() != 0:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    try:
        with contextlib.suppress(NoUser, PermissionError):
            account = find()
            os.initgroups(account.pw_name, account.pw_gid)
            os.setegid(account.pw_gid)
            os.seteuid(account.pw_uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        with contextlib.suppress(PermissionError):
            os.setgroups(groups)


def _make(directory: str, account: pwd.struct_passwd) -> None:
    """Make `directory` for `account`, whole or not at all; raise OSError if it is a dangling link.

    It is made under another name and renamed, because several programs may make it at the same
    time.
    """
    import tempfile

    if os.path.islink(directory):
        raise FileNotFoundError(errno.ENOENT, "a link to a directory that is not there", directory)
    parent, name = os.path.split(directory)
    draft = tempfile.mkdtemp(prefix=f".{name}.", dir=parent)
    try:
        os.chmod(draft, 0o750)
        os.chown(draft, account.pw_uid, account.pw_gid)
        os.rename(draft, directory)
    except OSError:
        os.rmdir(draft)
        if not os.path.isdir(directory):
            raise


def name() -> str:
    """Return the name of the user that this process runs as; without an account, its number."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
