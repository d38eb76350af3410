"""Hand letters over in a process that goes on when the round is over, and see what came of it (R6).

The reply to a mail may take ten minutes (RFC 5321), and a program that is killed meanwhile may have
delivered it. So the round only waits for a while, and a later one reads the outcomes in a file. The
process holds a lock on it, so it lives as long as the file is locked. It is no child of the round:
nobody has to collect it, and whatever ends a round, or its supervisor, leaves it alone.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from dmonitor.base import clock, regular
from dmonitor.core.model import HAND_OVER_LIMIT
from dmonitor.execution import delivery, processes
from dmonitor.execution.delivery import Delivery, Letter

SENDMAIL_WAIT = 15.0  # seconds for which a round waits for sendmail
# Seconds for which a round waits for a hook. A round that stays greets its peers as often (R5), and
# what it hears from them must not wait for a hook that hangs.
HOOK_WAIT = 10.0
_PREFIX = "handing-"  # of the names of files
_POLL_INTERVAL = 0.01  # seconds between two looks at the outcomes
_OUTCOME_BYTES = 4096  # of one letter
_FILE_BYTES = 10_000_000  # of outcomes that are read
_READ_BYTES = 65_536  # of them at one time
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    " from dmonitor.execution import keeper; keeper.main(int(sys.argv[2]))"
)

Outcomes = dict[str, Delivery | None]  # by the recipient; None: nobody can know it


class Places:
    """The directories in which the files of hand-overs may be: the first one that can be used."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._directories = directories

    def create(self, name: str, size: int) -> int:
        """Return a descriptor of a new file with room for `size` bytes, even if the disk gets full.

        If no directory can be used, the file is in memory: no later round finds it.
        """
        for directory in self._directories:
            with contextlib.suppress(OSError):
                path = f"{directory}/{_PREFIX}{name}"
                descriptor = regular.create(path)
                with contextlib.ExitStack() as unused:
                    unused.callback(os.unlink, path)
                    unused.callback(os.close, descriptor)
                    os.posix_fallocate(descriptor, 0, size)
                    unused.pop_all()
                    return descriptor
        return os.memfd_create("outcomes")

    def open(self, name: str) -> int | None:
        """Return a descriptor of the file for reading; None if there is none."""
        for directory in self._directories:
            with contextlib.suppress(OSError):
                return regular.open_file(f"{directory}/{_PREFIX}{name}")
        return None

    def forget(self, kept: Collection[str]) -> None:
        """Remove the files of all hand-overs but those that are `kept`."""
        names = {f"{_PREFIX}{name}" for name in kept}
        for directory in self._directories:
            with contextlib.suppress(OSError):
                for name in os.listdir(directory):
                    if name.startswith(_PREFIX) and name not in names:
                        os.unlink(f"{directory}/{name}")


def hand_over(
    letters: Mapping[str, Letter], places: Places, name: str, *, patience: float
) -> Iterator[tuple[str, Delivery | None]]:
    """Hand each recipient its letter; yield each one, with its delivery as soon as it is known.

    None stands for one that goes on: `look_after` tells later, by the `name`. The round has
    `patience` seconds.
    """
    began = clock.uptime()
    try:
        outcomes = _start(letters, places.create(name, len(letters) * _OUTCOME_BYTES))
    except OSError as error:
        for recipient in letters:
            yield recipient, Delivery(False, f"unable to start: {error}")
        return
    waiting = set(letters)
    with contextlib.closing(outcomes):
        while waiting:
            waited = clock.uptime() - began
            is_running = outcomes.is_running()
            known = outcomes.read()
            for recipient in sorted(waiting):
                limit = HOOK_WAIT if letters[recipient].is_hook else SENDMAIL_WAIT
                if recipient not in known and is_running and waited < min(limit, patience):
                    continue
                waiting.remove(recipient)
                lost = None if is_running else _LOST
                yield recipient, known.get(recipient, lost)
            if waiting:
                time.sleep(_POLL_INTERVAL)


_LOST = Delivery(False, "the process that handed it over has died")


def look_after(places: Places, name: str, recipients: Collection[str]) -> Outcomes:
    """Return what became of the hand-over `name`, for each of the `recipients` that has an outcome.

    If its process has died, nobody can know what became of the others.
    """
    descriptor = places.open(name)
    if descriptor is None:
        return dict.fromkeys(recipients)
    with contextlib.closing(_Outcomes(descriptor)) as outcomes:
        is_running = outcomes.is_running()
        known = outcomes.read()
    found: Outcomes = {}
    for recipient in recipients:
        if recipient in known or not is_running:
            found[recipient] = known.get(recipient)
    return found


class _Outcomes:
    """The file with the outcomes of one hand-over, for reading."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._known: dict[str, Delivery] = {}
        self._bytes_read = 0  # of whole lines

    def close(self) -> None:
        """Look at it no more."""
        os.close(self._descriptor)

    def is_running(self) -> bool:
        """Return whether the process goes on that writes to it, or may do so."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        except OSError:
            return True
        return False

    def read(self) -> dict[str, Delivery]:
        """Return the outcomes until now, by the recipient. What makes no sense is none.

        Each line is read once, because a round looks a hundred times a second. Behind the last one
        there are zeros: the room that the file has for more.
        """
        while self._bytes_read < _FILE_BYTES:
            written = b""
            with contextlib.suppress(OSError):
                written = os.pread(self._descriptor, _READ_BYTES, self._bytes_read)
            lines, newline, _ = written.rpartition(b"\n")
            if not newline:
                break
            self._bytes_read += len(lines) + 1
            for line in lines.split(b"\n"):
                with contextlib.suppress(ValueError, TypeError):
                    recipient, taken, text = json.loads(line)
                    self._known[str(recipient)] = Delivery(taken is True, str(text))
        return self._known


def _start(letters: Mapping[str, Letter], descriptor: int) -> _Outcomes:
    """Start the process, which writes to `descriptor`; raise OSError if that fails."""
    try:
        # By another description of the file: a lock is one of the description that has it.
        outcomes = _Outcomes(os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC))
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        processes.stop_being_subreaper()  # so that it is nobody's child
        delivery.start_detached(
            [sys.executable, "-IS", "-c", _PROGRAM, _ROOT, str(descriptor)],
            _written(letters),
            descriptor,
        )
    finally:
        os.close(descriptor)
    return outcomes


def _written(letters: Mapping[str, Letter]) -> bytes:
    """Return letters as JSON."""
    written = []
    for recipient, letter in letters.items():
        content = base64.b64encode(letter.content).decode()
        facts = None if letter.facts is None else dict(letter.facts)
        written.append((recipient, letter.command, content, facts))
    return json.dumps(written).encode()


def _read_letters(written: bytes) -> dict[str, Letter]:
    letters: dict[str, Letter] = {}
    data: Any = json.loads(written)
    for recipient, command, content, facts in data:
        letters[recipient] = Letter(tuple(command), base64.b64decode(content), facts)
    return letters


def main(descriptor: int) -> NoReturn:
    """Be the process: hand over the letters on standard input, write to `descriptor`."""
    os.set_inheritable(descriptor, False)
    letters = _read_letters(sys.stdin.buffer.read())
    if os.fork():
        os._exit(0)
    for recipient, outcome in delivery.send(letters, patience=HAND_OVER_LIMIT):
        line = json.dumps((recipient, outcome.taken, outcome.text))
        os.write(descriptor, line.encode() + b"\n")
    os._exit(0)
