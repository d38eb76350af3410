"""Who we run as: root becomes user `dmonitor`, failing that `nobody`, before any state is touched.

It changes users, and makes a state directory that is not there yet; it knows nothing of what is kept in it.
"""

from __future__ import annotations

import os
import pwd

NAMES = ("dmonitor", "nobody")


class NoUser(Exception):
    """None of the users that dmonitor runs as exists."""


def find() -> pwd.struct_passwd:
    """Return the user to become: the first of NAMES that exists."""
    for name in NAMES:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NoUser(f"none of the users {', '.join(NAMES)} exists")


def become(*directories: str | None) -> None:
    """Give up root for good, where we have it; first make those of DIRECTORIES that are missing, for who we become."""
    if os.geteuid() != 0:
        return
    who = find()
    for directory in directories:
        if directory and not os.path.exists(directory):
            _make(directory, who)
    os.initgroups(who.pw_name, who.pw_gid)
    os.setresgid(who.pw_gid, who.pw_gid, who.pw_gid)
    os.setresuid(who.pw_uid, who.pw_uid, who.pw_uid)


def _make(directory: str, who: pwd.struct_passwd) -> None:
    """Make DIRECTORY for WHO, whole or not at all: several programs may be first at the same time."""
    import tempfile

    parent, name = os.path.split(directory)
    draft = tempfile.mkdtemp(prefix=f".{name}.", dir=parent)
    os.chmod(draft, 0o750)
    os.chown(draft, who.pw_uid, who.pw_gid)
    try:
        os.rename(draft, directory)
    except OSError:
        os.rmdir(draft)
        if not os.path.isdir(directory):
            raise


def home() -> str:
    """Return the home of the user that this process runs as."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/"


def name() -> str:
    """Return the name of the user that this process runs as."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
