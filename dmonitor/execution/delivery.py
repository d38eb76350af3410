"""Hand notifications to the MTA, or to a hook, and report what these said (rule R6).

The only module that starts sendmail and hooks. What is told, whether it may go, and what a refusal means is decided
elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from dmonitor.base import names, user
from dmonitor.execution import plugin, processes

SENDMAIL_LIMIT = 15.0  # seconds that sendmail may take
HOOK_LIMIT = 10.0  # seconds that a hook may take: a round that stays greets as often, and what it hears may have to be mailed
_AT_ONCE = 20  # programs that run at the same time
_FILE_SIZE = 10_000_000  # bytes that a hook may print, or write to a file
_HOOKS = 1 << 31  # what a hook is marked with is above what any plugin is
_ENVIRONMENT = {"PATH": plugin.PATH, "LC_ALL": "C.UTF-8"}


class Letter(NamedTuple):
    """What is handed over: to which program, with which arguments, on its standard input; a hook has FACTS in its environment."""

    command: tuple[str, ...]
    content: bytes
    facts: Mapping[str, str] | None = None

    @property
    def is_hook(self) -> bool:
        return self.facts is not None


class Delivery(NamedTuple):
    """What became of one letter; `text` is what the program wrote, or why it did not take the letter."""

    taken: bool
    text: str


class _Attempt(NamedTuple):
    process: subprocess.Popen[bytes]
    output: int
    until: float
    name: str
    mark: int  # of all that a hook starts; 0: sendmail's, which may well leave somebody to deliver


def mail(content: bytes, address: str, *, sendmail: str, sender: str) -> Letter:
    return Letter((sendmail, "-oi", "-f", sender, "--", address), content)


def send(letters: Mapping[str, Letter], *, patience: float) -> Iterator[tuple[str, Delivery]]:
    """Hand each recipient its letter, all at the same time; yield each and what became of it, as soon as that is known.

    Nothing runs on at the end, after SENDMAIL_LIMIT seconds for each batch and PATIENCE seconds for all at the most.
    """
    end = time.monotonic() + patience
    waiting = sorted(
        letters, key=lambda address: letters[address].is_hook
    )  # no mail waits for hooks
    running: dict[str, _Attempt] = {}
    while waiting or running:
        while waiting and len(running) < _AT_ONCE:
            address = waiting.pop(0)
            letter = letters[address]
            left = min(HOOK_LIMIT if letter.is_hook else SENDMAIL_LIMIT, end - time.monotonic())
            if left < 1:
                yield address, Delivery(False, "no time left in this round")
                continue
            try:
                running[address] = _start(letter, left)
            except OSError as error:
                yield address, Delivery(False, f"{letter.command[0]}: {error.strerror}")
        for address, attempt in list(running.items()):
            if attempt.process.poll() is not None or time.monotonic() >= attempt.until:
                del running[address]
                yield address, _finish(attempt)
        if running:
            time.sleep(0.01)


def _start(letter: Letter, limit: float) -> _Attempt:
    """Start one program; its input and output are memory files, for a pipe could block us or outlive it."""
    program, environment, mark = letter.command[0], _ENVIRONMENT, processes.marker()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if letter.facts is not None:
        if reason := plugin.distrust(program):
            raise PermissionError(errno.EPERM, f"not run: it {reason}")
        environment = {**_ENVIRONMENT, "HOME": user.home(), **letter.facts}
        processes.become_subreaper()
    output = os.memfd_create("output")
    try:
        with open(os.memfd_create("letter"), "w+b") as content:
            content.write(letter.content)
            content.seek(0)
            marked = mark(output + _HOOKS) if letter.is_hook else 0
            if letter.facts is not None:
                resource.setrlimit(
                    resource.RLIMIT_FSIZE,
                    (min([_FILE_SIZE, *(each for each in limits if each >= 0)]), limits[1]),
                )
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
    finally:
        mark(0)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return _Attempt(process, output, time.monotonic() + limit, os.path.basename(program), marked)


def _finish(attempt: _Attempt) -> Delivery:
    status = attempt.process.poll()
    if status is None:
        processes.kill_group(attempt.process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            attempt.process.wait(1)
    if attempt.mark:
        processes.kill_all(lambda pid: processes.mark_of(pid) == attempt.mark)
    said = " ".join(os.pread(attempt.output, 2000, 0).decode("utf-8", "replace").split())
    os.close(attempt.output)
    text = names.printable(said)
    if status is None:
        return Delivery(
            False, f"{attempt.name} did not end in time" + (f": {text}" if text else "")
        )
    if status == 0:
        return Delivery(True, text)
    reason = f"exit {status}" if status > 0 else f"died of signal {-status}"
    return Delivery(False, f"{attempt.name}: {reason}" + (f": {text}" if text else ""))
