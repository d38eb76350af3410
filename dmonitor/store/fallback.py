"""Which database a node uses: the state's, a copy in the run directory, or one in memory (R6).

A node whose disk is full or broken must still send its mail once. It goes on with a copy of the
state, and the state takes that copy back when it can be written again. What is in the databases is
the business of `tables` and `history`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from dmonitor.base import log, regular
from dmonitor.core.model import Change, Handed, Incident, Notification
from dmonitor.store import database, history, node_clock, tables
from dmonitor.store.database import Connection

_PARTIAL = "partial"  # key of the memo in a stand-in that began empty instead of as a copy


class Fallback:
    """The places of the state: the state directory, the run directory, and memory, in this order.

    The methods return a connection to the database to use. The class keeps no connection.
    """

    def __init__(self, directory: str, run_dir: str | None) -> None:
        self.path = f"{directory}/state.db"
        self._stand_in_path: str | None = None  # the copy's path; None: there can be none
        if run_dir:
            self._stand_in_path = f"{run_dir}/state.db"
        self.failed = ""  # why the state cannot be written; empty if it can

    def open_read_only(self) -> Connection:
        """Return a connection to one moment of the state, or of its stand-in if there is one."""
        path = self.path
        if self._stand_in_path and regular.is_there(self._stand_in_path):
            path = self._stand_in_path
        if path != self.path:  # they are the same if one directory serves as both
            self.failed = f"{self.path}: see what dmonitor-check logs"
        db = database.connect_read_only(path)
        db.execute("BEGIN")
        return db

    def open(self) -> Connection:
        """Open the state for writing, or what stands in for it."""
        try:
            main_db = database.open_or_set_aside(self.path)
            self._take_back(main_db)
            return main_db
        except (database.Error, OSError) as error:
            return self._stand_in_for(error, None)

    def replace(self, db: Connection, error: Exception) -> Connection:
        """Return the database to use from now on, because `db` could not be written."""
        if self.failed:
            self._stand_in_path = None  # `db` is the stand-in, so only memory is left
        return self._stand_in_for(error, db)

    # The state takes back what stood in for it.

    def _take_back(self, main_db: Connection) -> None:
        """Store the contents of the stand-in, if there is one, in the state."""
        if self._stand_in_path is None or not regular.is_there(self._stand_in_path):
            return
        learnt = _Learnt()
        try:
            with contextlib.closing(database.open_checked(self._stand_in_path)) as stand_in_db:
                if _is_partial(stand_in_db):
                    learnt = _Learnt.read(stand_in_db, self.path)
                else:
                    stand_in_db.backup(main_db)
                database.log_unusable(stand_in_db, self._stand_in_path)
        except OSError as error:
            log.complain(f"unable to take back what stood in for {self.path}: {error}")
            return
        except database.Error as error:
            if not database.is_broken(error):
                raise
            # It is removed below: kept, it would end this round and every later one.
            log.error("database-broken", path=self._stand_in_path, reason=str(error))
        database.write(main_db, learnt.write, self.path)
        database.remove(self._stand_in_path)
        log.info("stored-again", path=self.path)

    # Something stands in for the state.

    def _stand_in_for(self, error: Exception, db: Connection | None) -> Connection:
        """Return the stand-in that there is already, or a copy of `db`, or of the state's files.

        The copy is in the run directory, or in memory if it cannot be written there.
        """
        path = self._stand_in_path
        reason = database.cause(error, self.path)
        stand_in_db: Connection | None = None
        if path and regular.is_there(path):
            try:
                stand_in_db = database.open_checked(path)
            except OSError:
                path = None
            except database.Error as failure:
                if database.is_broken(failure):
                    database.remove(path)
                else:
                    path = None
        if stand_in_db is None:
            stand_in_db = self._copy_in_memory(db)
            log.complain(
                f"unable to write {self.path}: {reason}; the round goes on without it;"
                " see whether the disk is full or read-only"
            )
            if path:
                try:
                    stand_in_db = database.write_copy(stand_in_db, path)
                except (database.Error, OSError):
                    path = None
        self.failed = f"{self.path}: {reason}"
        log.error("not-stored", path=self.path, reason=reason, instead=path or "memory")
        return stand_in_db

    def _copy_in_memory(self, db: Connection | None) -> Connection:
        """Return a copy of `db`, or of the state's files, or an empty database that is partial."""
        if db is not None:
            with contextlib.suppress(database.Error):
                memory = database.connect(":memory:")
                db.backup(memory)
                database.prepare(memory)  # its history may be dropped because it was broken
                return memory
        rooms: list[str | None] = [None]
        if self._stand_in_path:
            rooms.insert(0, os.path.dirname(self._stand_in_path))
        for room in rooms:
            copy = self._copy_of_files(room)
            if copy is not None:
                return copy
        memory = database.connect(":memory:")
        database.prepare(memory)
        tables.write_memos(memory, {_PARTIAL: True})
        return memory

    def _copy_of_files(self, room: str | None) -> Connection | None:
        """Return a copy in memory, by way of a copy of the files in `room`; None if that fails.

        On a full disk sqlite has no room next to the database, which it needs even for reading.
        Without a `room`, the copy is in the system's temporary directory, if one can be written.
        """
        import shutil
        import tempfile

        with (
            contextlib.suppress(database.Error, OSError),
            tempfile.TemporaryDirectory(dir=room) as directory,
        ):
            copy = f"{directory}/state.db"
            for suffix in ("", "-wal"):
                with (
                    contextlib.suppress(FileNotFoundError),
                    open(regular.open_file(self.path + suffix), "rb") as source,
                    open(copy + suffix, "wb") as target,
                ):
                    shutil.copyfileobj(source, target)
            with contextlib.closing(database.open_checked(copy)) as db:
                memory = database.connect(":memory:")
                db.backup(memory)
                return memory
        return None


def _is_partial(db: Connection) -> bool:
    """Return whether a stand-in lacks what the state knew when it began.

    A stand-in of which this cannot be told does, because it must not replace the state then.
    """
    clock = tables.read_memo(db, "clock", node_clock.Memo, None)
    is_partial = tables.read_memo(db, _PARTIAL, bool, None)
    if is_partial is None:
        return clock is None or bool(db.unusable)  # without a clock, no round ever stored anything
    return bool(is_partial)


class _Learnt:
    """What a round learnt in a stand-in that began empty: it is added to the state."""

    def __init__(self) -> None:
        self.incidents: Sequence[Incident] = ()
        self.outbox: Sequence[Notification] = ()
        self.changes: Sequence[Change] = ()
        self.handed: Sequence[Handed] = ()

    @classmethod
    def read(cls, db: Connection, path: str) -> _Learnt:
        """Return what is in the stand-in; `path` is what messages call the state."""
        learnt = cls()
        learnt.incidents = tables.read_incidents(db, "TRUE")
        learnt.outbox = tables.read_outbox(db)
        past = history.History(db, path)
        learnt.changes = past.changes()
        learnt.handed = past.handed()
        return learnt

    def write(self, db: Connection) -> None:
        """Add it all to the state."""
        for incident in self.incidents:
            tables.write_incident(db, incident)
        tables.write_outbox(db, self.outbox, ())
        history.write(db, self.changes, self.handed)
