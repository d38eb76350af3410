"""Hand notifications to the mail system or to a hook, and report what became of them (rule R6).

Only this module starts sendmail and hooks. `keeper` has that done in a process that outlives the
round. Other modules decide what is told, whether it may leave, and what a refusal means.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from dmonitor.base import clock, names
from dmonitor.execution import plugin, processes

_LEAST_LIMIT = 1.0  # seconds; a program that would get less is not started
_CONCURRENCY = 20  # programs that run at the same time, without those that take long
_LONG = 10.0  # seconds after which a program takes long: it waits for somebody, and costs nothing
_POLL_INTERVAL = 0.01  # seconds between two looks whether one has ended
_SLOW_POLL_INTERVAL = 0.2  # the same if all of them take long
_START_LIMIT = 10.0  # seconds until a process goes on by itself
_KILL_LIMIT = 1.0  # seconds to wait for a killed program to be gone
_HOOK_FILE_SIZE = 10_000_000  # bytes that a hook may print, or write to a file
_OUTPUT_BYTES = 2000  # bytes of a program's output that are reported
_HOOK_MARKS = 1 << 31  # the marks of hooks are above those of plugins
_ENVIRONMENT = {"PATH": plugin.PATH, "LC_ALL": "C.UTF-8"}


class Letter(NamedTuple):
    """One mail, or what one hook is told: which program gets what."""

    command: tuple[str, ...]  # the program, and its arguments
    content: bytes  # its standard input
    # More variables of the program's environment. None for sendmail.
    facts: Mapping[str, str] | None = None

    @property
    def is_hook(self) -> bool:
        """Return whether the letter goes to a hook, and not to sendmail."""
        return self.facts is not None


class Delivery(NamedTuple):
    """What became of one letter."""

    taken: bool
    text: str  # what the program printed, or why it did not take the letter


class _Attempt(NamedTuple):
    """A program that runs with a letter."""

    process: subprocess.Popen[bytes]
    output: int  # the descriptor of the file in memory that the program prints to
    started: float  # in uptime
    deadline: float
    name: str  # of the program
    # Of a hook and its descendants. 0 for sendmail, which may leave a process that delivers.
    mark: int

    def is_over(self) -> bool:
        """Return whether the program has ended, or is over its limit."""
        return self.process.poll() is not None or clock.uptime() >= self.deadline


def mail(content: bytes, address: str, *, sendmail: str, sender: str) -> Letter:
    """Return the letter that mails `content` to `address` from `sender`, by `sendmail`, a path."""
    return Letter((sendmail, "-oi", "-f", sender, "--", address), content)


def send(letters: Mapping[str, Letter], *, patience: float) -> Iterator[tuple[str, Delivery]]:
    """Hand each recipient its letter, many at the same time; yield each recipient and its delivery.

    A delivery is yielded as soon as it is known. Mails start first, because no mail may wait for
    hooks, nor for one that takes long. `patience` is the time for all letters together, in seconds.
    No program runs on when the last delivery has been yielded.
    """
    deadline = clock.uptime() + patience
    waiting = sorted(letters, key=lambda recipient: letters[recipient].is_hook)
    running: dict[str, _Attempt] = {}
    while waiting or running:
        while waiting and _count_recent(running.values()) < _CONCURRENCY:
            recipient = waiting.pop(0)
            attempt = _try_to_start(letters[recipient], deadline)
            if isinstance(attempt, Delivery):
                yield recipient, attempt
            else:
                running[recipient] = attempt
        for recipient, attempt in list(running.items()):
            if attempt.is_over():
                del running[recipient]
                yield recipient, _finish(attempt)
        if running:
            time.sleep(_POLL_INTERVAL if _count_recent(running.values()) else _SLOW_POLL_INTERVAL)


def _count_recent(running: Iterable[_Attempt]) -> int:
    """Return how many of the programs do not take long yet."""
    recent = clock.uptime() - _LONG
    return sum(attempt.started > recent for attempt in running)


def _try_to_start(letter: Letter, deadline: float) -> _Attempt | Delivery:
    """Start the program for `letter`, to end by `deadline`; return a refusal if that fails."""
    if deadline - clock.uptime() < _LEAST_LIMIT:
        return Delivery(False, "no time left")
    try:
        return _start(letter, deadline)
    except OSError as error:
        return Delivery(False, f"{letter.command[0]}: {error.strerror}")


def _start(letter: Letter, deadline: float) -> _Attempt:
    """Start the program for `letter`, to end by `deadline`. Raise OSError if that fails.

    Its input and output are files in memory. A pipe could block us, or be held open by a process
    that outlives the program.
    """
    program = letter.command[0]
    environment = _ENVIRONMENT
    if letter.facts is not None:
        if reason := plugin.distrust_reason(program):
            raise PermissionError(errno.EPERM, f"not run: it {reason}")
        environment = {**_ENVIRONMENT, "HOME": plugin.HOME, **letter.facts}
        processes.become_subreaper()
    output = os.memfd_create("output")
    try:
        with open(os.memfd_create("letter"), "w+b") as content:
            content.write(letter.content)
            content.seek(0)
            with _limits(letter, output) as mark:
                process = subprocess.Popen(
                    letter.command,
                    stdin=content,
                    stdout=output,
                    stderr=output,
                    cwd="/",
                    env=environment,
                    start_new_session=True,
                    umask=0o022,
                )
    except BaseException:
        os.close(output)
        raise
    name = os.path.basename(program)
    return _Attempt(process, output, clock.uptime(), deadline, name, mark)


def start_detached(command: Sequence[str], content: bytes, descriptor: int) -> None:
    """Have `command` start a process that goes on by itself; return once `command` has ended.

    It gets `content` as its input, and the `descriptor` by its number. Raise OSError if it cannot
    be started. Whether the process goes on is not known by how `command` ended, nor by how late:
    only a lock on `descriptor` tells it.
    """
    with open(os.memfd_create("content"), "w+b") as file:
        file.write(content)
        file.seek(0)
        process = subprocess.Popen(
            command,
            stdin=file,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=_ENVIRONMENT,
            start_new_session=True,
            pass_fds=(descriptor,),
        )
    try:
        process.wait(_START_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()  # from now on it starts nothing


@contextlib.contextmanager
def _limits(letter: Letter, number: int) -> Iterator[int]:
    """Set what the program for `letter` is to inherit, while it is started; yield its mark.

    A hook gets a limit on what it may write, and a mark made from `number`. Sendmail gets neither,
    and its mark is 0.
    """
    if not letter.is_hook:
        yield 0
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    file_size = _HOOK_FILE_SIZE
    for limit in (soft, hard):
        if limit != resource.RLIM_INFINITY:
            file_size = min(file_size, limit)
    marker = processes.Marker()
    try:
        mark = marker.set(_HOOK_MARKS + number)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, hard))
        yield mark
    finally:
        marker.clear()
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _finish(attempt: _Attempt) -> Delivery:
    """End an attempt that is over, with all that a hook started; return its delivery."""
    status = attempt.process.poll()
    if status is None:
        processes.kill_group(attempt.process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            attempt.process.wait(_KILL_LIMIT)
    if attempt.mark:
        processes.kill_all(lambda pid: processes.mark_of(pid) == attempt.mark)
    output = os.pread(attempt.output, _OUTPUT_BYTES, 0).decode("utf-8", "replace")
    os.close(attempt.output)
    text = names.printable(" ".join(output.split()))
    if status == 0:
        return Delivery(True, text)
    if status is None:
        reason = f"{attempt.name} did not end in time"
    elif status > 0:
        reason = f"{attempt.name}: exit {status}"
    else:
        reason = f"{attempt.name}: died of signal {-status}"
    if text:
        reason += f": {text}"
    return Delivery(False, reason)
