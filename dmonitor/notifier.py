"""Hand mails to the MTA, and report what it said (rule R6).

The only module that starts sendmail. What a mail says, whether it may go, and what its refusal means is decided
elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping

from dmonitor import names
from dmonitor.lean import NamedTuple

LIMIT = 15.0  # seconds that sendmail may take
_AT_ONCE = 20  # sendmails that run at the same time
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


class Delivery(NamedTuple):
    """What became of one mail; `text` is what sendmail wrote, or why it did not take the mail."""

    taken: bool
    text: str


class _Sendmail(NamedTuple):
    process: subprocess.Popen[bytes]
    output: int
    until: float


def send(mails: Mapping[str, bytes], *, sendmail: str, sender: str, patience: float) -> Iterator[tuple[str, Delivery]]:
    """Hand each address its mail, all at the same time; yield each address and what became of it, as soon as that is known.

    Nothing runs on at the end, after LIMIT seconds for each batch and PATIENCE seconds for all at the most.
    """
    end = time.monotonic() + patience
    waiting = list(mails)
    running: dict[str, _Sendmail] = {}
    while waiting or running:
        while waiting and len(running) < _AT_ONCE:
            address = waiting.pop(0)
            left = min(LIMIT, end - time.monotonic())
            if left < 1:
                yield address, Delivery(False, "no time left in this round")
                continue
            try:
                running[address] = _start(sendmail, sender, address, mails[address], left)
            except OSError as error:
                yield address, Delivery(False, f"{sendmail}: {error.strerror}")
        for address, attempt in list(running.items()):
            if attempt.process.poll() is not None or time.monotonic() >= attempt.until:
                del running[address]
                yield address, _finish(attempt)
        if running:
            time.sleep(0.01)


def _start(sendmail: str, sender: str, address: str, mail: bytes, limit: float) -> _Sendmail:
    """Start one sendmail; its input and output are memory files, for a pipe could block us or outlive it."""
    output = os.memfd_create("sendmail output")
    try:
        with open(os.memfd_create("mail"), "w+b") as content:
            content.write(mail)
            content.seek(0)
            process = subprocess.Popen(
                [sendmail, "-oi", "-f", sender, "--", address],
                stdin=content,
                stdout=output,
                stderr=output,
                cwd="/",
                env=_ENVIRONMENT,
                start_new_session=True,
            )
    except BaseException:
        os.close(output)
        raise
    return _Sendmail(process, output, time.monotonic() + limit)


def _finish(attempt: _Sendmail) -> Delivery:
    status = attempt.process.poll()
    if status is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(attempt.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            attempt.process.wait(1)
    said = " ".join(os.pread(attempt.output, 2000, 0).decode("utf-8", "replace").split())
    os.close(attempt.output)
    text = names.printable(said)
    if status is None:
        return Delivery(False, "sendmail did not end in time" + (f": {text}" if text else ""))
    if status == 0:
        return Delivery(True, text)
    reason = f"exit {status}" if status > 0 else f"died of signal {-status}"
    return Delivery(False, f"sendmail: {reason}" + (f": {text}" if text else ""))
