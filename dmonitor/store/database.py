"""The database file: its schema, how it is opened and checked, copied and kept aside.

The only module that imports sqlite3. What the rows mean is the business of `tables` and `history`.
The errors of sqlite pass through, unless a function says otherwise. Any program of the user
dmonitor, such as a plugin, may have written the file: only what this module has made is used of it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from dmonitor.base import log, names, regular, user
from dmonitor.base.errors import StateError

DatabaseError = sqlite3.DatabaseError
Error = sqlite3.Error

_FILES = ("", "-wal", "-shm", "-journal")  # what the names of a database's files end in
SCHEMA_VERSION = 6
_SCHEMA = """
CREATE TABLE memo (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- The column downs is not used any more: the memo of the node says which tests are confirming.
CREATE TABLE standing (
    host TEXT NOT NULL, name TEXT NOT NULL, verdict TEXT NOT NULL, own TEXT NOT NULL,
    since REAL NOT NULL, downs INTEGER NOT NULL, PRIMARY KEY (host, name)
) WITHOUT ROWID;
CREATE TABLE incident (
    number INTEGER PRIMARY KEY, alive INTEGER NOT NULL, closed REAL, value TEXT NOT NULL
);
CREATE TABLE known (
    id TEXT PRIMARY KEY, incident INTEGER NOT NULL REFERENCES incident (number)
) WITHOUT ROWID;
CREATE INDEX known_incident ON known (incident);
CREATE INDEX living ON incident (alive, closed);
"""
# Its rows are together by address, because an address is told all at once. Each has the id of its
# incident, and not the number, so it stays as it is when incidents unite.
_OUTBOX = """
CREATE TABLE outbox (
    address TEXT NOT NULL, incident TEXT NOT NULL REFERENCES known (id), kind TEXT NOT NULL,
    since REAL NOT NULL, refusals INTEGER NOT NULL,
    PRIMARY KEY (address, incident, kind)
) WITHOUT ROWID;
"""
_OUTBOX_BY_NUMBER = """
CREATE TABLE outbox (
    incident INTEGER NOT NULL REFERENCES incident (number), kind TEXT NOT NULL,
    address TEXT NOT NULL, since REAL NOT NULL, refusals INTEGER NOT NULL,
    PRIMARY KEY (incident, kind, address)
) WITHOUT ROWID;
"""
# The rows of that outbox as they are kept now. One without an incident names none: it is left out.
_ROWS_BY_ADDRESS = """
SELECT address, coalesce((SELECT min(id) FROM known WHERE known.incident = outbox.incident), '')
AS incident, kind, since, refusals FROM main.outbox
"""
_OUTBOX_BY_ADDRESS = f"""
CREATE TEMP TABLE owed AS {_ROWS_BY_ADDRESS};
DROP TABLE outbox;
{_OUTBOX}
REPLACE INTO outbox SELECT * FROM owed ORDER BY address, incident, kind;
DROP TABLE owed;
"""
_HISTORY = """
CREATE TABLE change (
    host TEXT NOT NULL, name TEXT NOT NULL, at REAL NOT NULL, judgement TEXT NOT NULL,
    PRIMARY KEY (host, name, at)
) WITHOUT ROWID;
CREATE INDEX change_at ON change (at);
CREATE TABLE handed (
    incident INTEGER NOT NULL REFERENCES incident (number), kind TEXT NOT NULL,
    address TEXT NOT NULL, at REAL NOT NULL
);
CREATE INDEX handed_incident ON handed (incident);
"""
_ROWS_NAMED = 5  # in the log
_LOG_BYTES = 1_000_000  # that the file of what is not yet in the database keeps when it is empty
STATEMENT_SECONDS = 5.0  # of processor time, for one statement
# The same while the state of an earlier version is converted, because one statement has all rows.
# It is less than a round may take, so the round that converts ends by itself.
CONVERSION_SECONDS = 30.0
_BROKEN_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_INTERRUPT)
_FILE_CODES = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
_BATCH = 1000  # rows that are written with one limit
_STEPS_BETWEEN_LOOKS = 100_000  # of sqlite's virtual machine, some milliseconds
_VITAL_TABLES = ("memo", "standing", "incident", "known", "outbox")
EMPTY_VERSION = 0  # of the schema, before anything is stored
_VERSION_WITHOUT_HISTORY = 5  # otherwise as this version: the history is begun anew
_VERSIONS_BY_NUMBER = (3, 4)  # the outbox is another one; the first of them has no history
# The statements that lead from each version that can be read to this one.
_MIGRATIONS = {
    EMPTY_VERSION: _SCHEMA + _OUTBOX + _HISTORY,
    3: _OUTBOX_BY_ADDRESS + _HISTORY,
    4: _OUTBOX_BY_ADDRESS,
    _VERSION_WITHOUT_HISTORY: _HISTORY,
}
# The statements that have made all that there is in a database of each version.
_MADE_BY = {
    EMPTY_VERSION: "",
    3: _SCHEMA + _OUTBOX_BY_NUMBER,
    4: _SCHEMA + _OUTBOX_BY_NUMBER + _HISTORY,
    _VERSION_WITHOUT_HISTORY: _SCHEMA + _OUTBOX,
    SCHEMA_VERSION: _SCHEMA + _OUTBOX + _HISTORY,
}


class Row(NamedTuple):
    """A row of a table, by the columns that tell it from others."""

    table: str
    key: tuple[tuple[str, Any], ...]  # columns with their values

    def __str__(self) -> str:
        values = ", ".join(f"{column} {value!r:.80}" for column, value in self.key)
        return f"{self.table} with {values}"


class Connection(sqlite3.Connection):
    """A connection to a database, and what was found in it that breaks a rule."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.unusable: dict[Row, str] = {}  # rows that were left out, and why
        self._limit = float("inf")  # of the thread's processor time, for the present statement
        self.is_converting = False
        self.set_progress_handler(self._takes_too_long, _STEPS_BETWEEN_LOOKS)

    def execute(self, *args: Any) -> sqlite3.Cursor:
        """Execute a statement; it is broken off as broken if it takes too much processor time.

        Whoever may write to the file can make a table without an end. Time that passes while a disk
        is waited for does not count.
        """
        seconds = CONVERSION_SECONDS if self.is_converting else STATEMENT_SECONDS
        self._limit = time.thread_time() + seconds
        return super().execute(*args)

    def executemany(self, statement: str, rows: Iterable[Any], /) -> sqlite3.Cursor:
        """Execute a statement for each of the `rows`, `_BATCH` of them with one limit.

        With one limit for all, very many rows would count as a table without an end.
        """
        cursor = self.cursor()
        rows = iter(rows)
        while batch := list(itertools.islice(rows, _BATCH)):
            self._limit = time.thread_time() + STATEMENT_SECONDS
            cursor.executemany(statement, batch)
        return cursor

    def _takes_too_long(self) -> bool:
        return time.thread_time() > self._limit

    def leave_out(self, table: str, error: Exception, **key: Any) -> None:
        """Note that a row was left out, because a value in it makes no sense."""
        self.unusable[Row(table, tuple(key.items()))] = str(error)


class Fingerprint(NamedTuple):
    """What differs between two looks at a database if somebody wrote to it in between."""

    file: object  # of the database file
    log: object  # of its write-ahead log


# Files.


def unlink_if_there(path: str) -> None:
    """Remove a file; do nothing if there is none."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove(path: str) -> None:
    """Remove a database with all of its files."""
    for suffix in _FILES:
        unlink_if_there(path + suffix)


def set_aside(path: str, reason: str) -> None:
    """Keep a broken database under another name, for a person who wants to look into it."""
    directory, name = os.path.split(path)
    new_name = time.strftime(f"{name}.broken-%Y%m%dT%H%M%S")
    for suffix in reversed(_FILES):
        with contextlib.suppress(FileNotFoundError):
            os.rename(path + suffix, f"{directory}/{new_name}{suffix}")
    log.error("database-broken", path=path, reason=reason, kept_as=f"{directory}/{new_name}")
    log.complain(f"{path} is broken ({reason}); it is kept as {new_name}, and a new one is begun")


def fingerprint(path: str) -> Fingerprint:
    """Return what tells whether the database in `path` was written to between two looks."""
    return Fingerprint(_file_fingerprint(path), _file_fingerprint(path + "-wal"))


def _file_fingerprint(path: str) -> object:
    try:
        status = os.stat(path)
    except OSError as error:
        return error.errno
    return status.st_ino, status.st_size, status.st_mtime_ns


# Connections.


def connect(path: str, parameters: str = "") -> Connection:
    """Connect to the database in `path`, with the `parameters` of a sqlite URI.

    Raise OSError if something else than a regular file is in the place of one of its files.
    """
    if path != ":memory:":
        for suffix in _FILES:
            regular.refuse_others(path + suffix)
    location = path
    for character, escaped in (("%", "%25"), ("?", "%3f"), ("#", "%23")):
        location = location.replace(character, escaped)
    if path != ":memory:":
        location = f"//{location}"  # the empty authority keeps any leading slashes in the path
    uri = f"file:{location}?{parameters}"
    db = sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None, factory=Connection)
    # What is not UTF-8 breaks the rule of its column, and must not end the reading of a table.
    db.text_factory = functools.partial(str, encoding="utf-8", errors="replace")
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA cell_size_check = ON")
    return db


def connect_read_only(path: str) -> Connection:
    """Connect to a database for reading.

    If no process has the database open, even a reader would write files in WAL mode, so it is
    opened as `immutable` then. That takes no lock, and a round may write at the same time: the
    reader has to compare fingerprints.
    """
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path + "-wal").st_size:
            return connect(path, "mode=ro")
    return connect(path, "mode=ro&immutable=1")


def open_checked(path: str) -> Connection:
    """Open a database for writing; raise `Error` if one of the vital tables is broken.

    The history is not checked, because it grows large and no decision depends on it. `write`
    begins it anew if it is broken.
    """
    db = connect(path)
    try:
        prepare(db)
        for table in _VITAL_TABLES:
            _check(db, table)
    except BaseException:
        db.close()
        raise
    return db


def _check(db: Connection, table: str) -> None:
    """Raise `DatabaseError` if `table` is broken."""
    (finding,) = db.execute(f"PRAGMA quick_check({table})").fetchone()
    if finding == "ok":
        return
    code = sqlite3.SQLITE_CORRUPT
    if match := re.search(r"error code=(\d+)", finding):
        code = int(match[1])  # the page may be sound: it could not be read
    raise _broken(finding, code)


def open_or_set_aside(path: str) -> Connection:
    """Open a database for writing; if it is broken, keep it under another name and begin a new one.

    It is tried twice, because a read that failed once looks like a broken database. An empty file
    is named once it is a database again: on a full disk it stays empty, and that is said elsewhere.
    """
    was_empty = _is_empty(path)
    db = _open_or_set_aside(path)
    if was_empty:
        log.warning("database-empty", path=path)
        log.complain(f"{path} was empty, and a new one is begun; what was in it, if any, is lost")
    return db


def _open_or_set_aside(path: str) -> Connection:
    with contextlib.suppress(sqlite3.Error):
        return open_checked(path)
    try:
        return open_checked(path)
    except sqlite3.Error as error:
        if not is_broken(error):
            raise
        set_aside(path, str(error))
        return open_checked(path)


def _is_empty(path: str) -> bool:
    """Return whether there is a database file without a byte, and none in its write-ahead log."""
    if not regular.is_there(path) or os.stat(path).st_size:
        return False
    return not regular.is_there(path + "-wal") or not os.stat(path + "-wal").st_size


def write_copy(db: Connection, path: str) -> Connection:
    """Write a copy of `db` to `path`, all of it or nothing, and return a connection to the copy."""
    draft = path + ".new"
    try:
        remove(draft)
        with contextlib.closing(connect(draft)) as copy:
            db.backup(copy)
        os.rename(draft, path)
        return open_checked(path)
    except (sqlite3.Error, OSError):
        remove(draft)
        remove(path)
        raise


# What is done over a connection.


def log_unusable(db: Connection, path: str) -> None:
    """Say which rows were left out, and why; `path` is what messages call the database."""
    for row, reason in list(db.unusable.items())[:_ROWS_NAMED]:
        log.error("row-unusable", path=path, row=str(row), reason=reason)
    if text := describe_unusable(db):
        log.complain(f"{path}: left out and forgotten: {text}")


def describe_unusable(db: Connection) -> str:
    """Return how many rows were left out, which is the first, and why; '' if there is none."""
    for row, reason in db.unusable.items():
        counted = names.pluralize(len(db.unusable), "row")
        return f"{counted} that dmonitor did not write so, the first: {row}: {reason}"
    return ""


def schema_version(db: Connection) -> int:
    """Return the version of a database's schema; raise StateError if it is unknown here.

    Raise DatabaseError if it is not the schema that dmonitor has made: a view in place of a table
    may run for ever, and a trigger may write.
    """
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION and version not in _MIGRATIONS:
        raise StateError(
            f"{_path_of(db)}: written by another dmonitor"
            f" (schema {version}, this one knows {SCHEMA_VERSION})"
        )
    made = db.execute("SELECT coalesce(sql, name) FROM sqlite_master").fetchall()
    if {_plain(sql) for (sql,) in made} != set(map(_plain, _statements(_MADE_BY[version]))):
        raise _broken("its tables are not those that dmonitor makes")
    return version


def has_history(version: int) -> bool:
    """Return whether a database of this version of the schema has a history."""
    return _HISTORY in _MADE_BY[version]


def show_as_current(db: Connection, version: int) -> None:
    """Let a reader see the outbox of an older `version` as one of this version."""
    if version in _VERSIONS_BY_NUMBER:
        db.execute(f"CREATE TEMP VIEW outbox AS {_ROWS_BY_ADDRESS}")


def _statements(script: str) -> list[str]:
    """Return the statements of a script, without its comments."""
    lines = [line for line in script.splitlines() if not line.startswith("--")]
    statements = "\n".join(lines).split(";")
    return [statement for statement in statements if statement.strip()]


def _plain(sql: str) -> str:
    """Return an SQL statement with no more blanks than it needs: versions differ in the others."""
    return re.sub(r" ?([(),]) ?", r"\1", " ".join(sql.split()))


def _broken(reason: str, code: int = sqlite3.SQLITE_CORRUPT) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(reason)
    error.sqlite_errorcode = code
    return error


def _path_of(db: Connection) -> str:
    for _, name, path in db.execute("PRAGMA database_list"):
        if name == "main":
            return str(path)
    return ""


def prepare(db: Connection) -> None:
    """Make a database ready for writing: every commit is synced, and the schema is this version's.

    Raise StateError if the database was written by a later version.
    """
    version = schema_version(db)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    if version == SCHEMA_VERSION:
        return
    db.is_converting = True
    try:
        with transaction(db):
            for statement in _statements(_MIGRATIONS[version]):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    finally:
        db.is_converting = False


@contextlib.contextmanager
def transaction(db: Connection) -> Iterator[None]:
    """Commit the statements of a block together, or none of them if one raises."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # After some errors sqlite has rolled back already.
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def write(db: Connection, put: Callable[[Connection], None], path: str) -> None:
    """Run `put` with `db` in one transaction; `path` is the name of the state in messages.

    If the history turns out to be broken, begin it anew and run `put` again.
    """
    try:
        with transaction(db):
            put(db)
    except sqlite3.DatabaseError as error:
        if not is_broken(error):
            raise
        _renew_history(db)
        log.complain(f"the history in {path} is broken ({error}); it is lost, and a new one begun")
        with transaction(db):
            put(db)


def _renew_history(db: Connection) -> None:
    """Begin the history anew; raise `Error` if it is not the history that is broken."""
    db.execute("PRAGMA writable_schema = ON")
    with transaction(db):
        db.execute("DELETE FROM sqlite_master WHERE tbl_name IN ('change', 'handed')")
        db.execute(f"PRAGMA user_version = {_VERSION_WITHOUT_HISTORY}")
    db.execute("PRAGMA writable_schema = RESET")
    db.execute("VACUUM")
    prepare(db)


# Errors.


def is_broken(error: sqlite3.Error) -> bool:
    """Return whether `error` says that the contents of a database are broken, or have no end."""
    primary_code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return primary_code in _BROKEN_CODES


@contextlib.contextmanager
def state_errors(path: str) -> Iterator[None]:
    """Raise StateError with `path` in its text, for an error that a block of the state raises.

    These are the errors of sqlite and of files, and of values that make no sense. The error itself
    is the StateError's cause.
    """
    try:
        yield
    except (sqlite3.Error, OSError, ValueError) as error:
        raise StateError(f"{path}: {cause(error, path)}") from error


def cause(error: Exception, path: str) -> str:
    """Return why the database in `path` could not be used, from the `error` that said so.

    sqlite says only that it could not open or write a file. Then it is looked up what the system
    would say.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _FILE_CODES:
        return str(error)
    directory = os.path.dirname(path)
    denied = f"{os.strerror(errno.EACCES)} for user {user.name()}"
    if not os.access(directory, os.X_OK):
        return f"{directory}: {denied}"
    if os.path.exists(path) and not os.access(path, os.R_OK):
        return denied
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        return os.strerror(errno.EROFS)
    if not os.access(directory, os.W_OK):
        return f"{directory}: {denied}"
    if os.path.exists(path) and not os.access(path, os.W_OK):
        return denied
    return str(error)
