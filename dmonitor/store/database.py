"""The file that the state is in: its schema, and how it is opened, found broken, kept aside, or written out elsewhere.

What stands in it is `state`'s; sqlite's own errors pass through.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator

from dmonitor.base import log
from dmonitor.base.errors import StateError

VERSION = 4
_SCHEMA = """
CREATE TABLE memo (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE standing (
    host TEXT NOT NULL, name TEXT NOT NULL, verdict TEXT NOT NULL, own TEXT NOT NULL, since REAL NOT NULL,
    downs INTEGER NOT NULL, PRIMARY KEY (host, name)
) WITHOUT ROWID;
CREATE TABLE incident (number INTEGER PRIMARY KEY, alive INTEGER NOT NULL, closed REAL, value TEXT NOT NULL);
CREATE TABLE known (id TEXT PRIMARY KEY, incident INTEGER NOT NULL REFERENCES incident (number)) WITHOUT ROWID;
CREATE INDEX known_incident ON known (incident);
CREATE INDEX living ON incident (alive, closed);
CREATE TABLE outbox (
    incident INTEGER NOT NULL REFERENCES incident (number), kind TEXT NOT NULL, address TEXT NOT NULL, since REAL NOT NULL,
    refusals INTEGER NOT NULL, PRIMARY KEY (incident, kind, address)
) WITHOUT ROWID;
"""
_HISTORY = """
CREATE TABLE change (
    host TEXT NOT NULL, name TEXT NOT NULL, at REAL NOT NULL, judgement TEXT NOT NULL, PRIMARY KEY (host, name, at)
) WITHOUT ROWID;
CREATE INDEX change_at ON change (at);
CREATE TABLE handed (
    incident INTEGER NOT NULL REFERENCES incident (number), kind TEXT NOT NULL, address TEXT NOT NULL, at REAL NOT NULL
);
CREATE INDEX handed_incident ON handed (incident);
"""
_VITAL = ("memo", "standing", "incident", "known", "outbox")
_MIGRATIONS = {
    0: _SCHEMA + _HISTORY,
    3: _HISTORY,
}  # from each version that can be read, to this one


def unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def connect(path: str, how: str = "") -> sqlite3.Connection:
    """Connect to the database in PATH, with the parameters HOW of a sqlite URI."""
    plain = (
        path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    )  # what means something in a URI
    where = (
        plain if path == ":memory:" else f"//{plain}"
    )  # with an empty authority, whatever slashes follow
    return sqlite3.connect(f"file:{where}?{how}", uri=True, timeout=5, isolation_level=None)


def file_fingerprint(path: str) -> tuple[object, object]:
    """Return what tells whether the file in PATH, or what is to be written into it, has changed between two looks."""

    def look(name: str) -> object:
        try:
            found = os.stat(name)
        except OSError as error:
            return error.errno
        return found.st_ino, found.st_size, found.st_mtime_ns

    return look(path), look(path + "-wal")


def connect_reading(path: str) -> sqlite3.Connection:
    """Connect to a database that may be closed: in WAL mode a reader would write then, but for `immutable`.

    So no lock holds a writer off who comes meanwhile: whoever reads has to look whether one came.
    """
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path + "-wal").st_size:
            return connect(path, "mode=ro")
    return connect(path, "mode=ro&immutable=1")


def open_whole(path: str) -> sqlite3.Connection:
    """Open a database for writing; raise what is wrong with it, if it is broken.

    The history grows large, and nothing is concluded from it: whoever meets what is broken there begins it anew.
    """
    db = connect(path)
    try:
        prepare(db)
        for table in _VITAL:
            (found,) = db.execute(f"PRAGMA quick_check({table})").fetchone()
            if found != "ok":
                error = sqlite3.DatabaseError(found)
                code = re.search(
                    r"error code=(\d+)", found
                )  # a page that could not be read may well be whole
                error.sqlite_errorcode = int(code[1]) if code else sqlite3.SQLITE_CORRUPT
                raise error
    except BaseException:
        db.close()
        raise
    return db


def open_or_set_aside(path: str) -> sqlite3.Connection:
    """Open a database; one that is broken twice is kept under another name: a failed read passes for that, too."""
    with contextlib.suppress(sqlite3.Error):
        return open_whole(path)
    try:
        return open_whole(path)
    except sqlite3.Error as error:
        if not is_broken(error):
            raise
        set_aside(path, str(error))
        return open_whole(path)


def renew_history(db: sqlite3.Connection) -> None:
    """Begin the history anew, whatever is broken in it; raise what else is broken."""
    db.execute("PRAGMA writable_schema = ON")
    with transaction(db):
        db.execute("DELETE FROM sqlite_master WHERE tbl_name IN ('change', 'handed')")
        db.execute("PRAGMA user_version = 3")
    db.execute("PRAGMA writable_schema = RESET")
    db.execute("VACUUM")
    prepare(db)


def is_broken(error: sqlite3.Error) -> bool:
    """Say whether ERROR is about what a database holds."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    )


def written(db: sqlite3.Connection, place: str) -> sqlite3.Connection:
    """Write DB out to PLACE, whole or not at all, and return it as opened there."""
    draft = place + ".new"
    try:
        remove(draft)
        with contextlib.closing(connect(draft)) as copy:
            db.backup(copy)
        os.rename(draft, place)
        return open_whole(place)
    except (sqlite3.Error, OSError):
        remove(draft)
        remove(place)
        raise


def set_aside(path: str, reason: str) -> None:
    """Keep a broken database under another name."""
    aside = time.strftime(f"{os.path.basename(path)}.broken-%Y%m%dT%H%M%S")
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            os.rename(path + suffix, f"{os.path.dirname(path)}/{aside}{suffix}")
    log.error(
        "database-broken", path=path, reason=reason, kept_as=f"{os.path.dirname(path)}/{aside}"
    )
    log.complain(f"{path} is broken ({reason}); kept as {aside}, and a new one begun")


def remove(path: str) -> None:
    for suffix in ("", "-wal", "-shm"):
        unlink(path + suffix)


def version_of(db: sqlite3.Connection) -> int:
    """Return which schema a database has; raise StateError for one that is not known here."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version not in (*_MIGRATIONS, VERSION):
        (path,) = (file for _, name, file in db.execute("PRAGMA database_list") if name == "main")
        raise StateError(
            f"{path}: written by another dmonitor (schema {version}, this one knows {VERSION})"
        )
    return version


def prepare(db: sqlite3.Connection) -> None:
    """Make a database ready for writing."""
    version = version_of(db)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    if version != VERSION:
        with transaction(db):
            for statement in _MIGRATIONS[version].split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {VERSION}")


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(
            sqlite3.Error
        ):  # sqlite has rolled back by itself after some errors
            db.execute("ROLLBACK")
        raise
