"""The log: one event a line that nobody can forge, and that nobody has to read."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from dmonitor import check, dmonitord
from dmonitor.base import cron, log


def test_a_line() -> None:
    facts: dict[str, log.Value] = {
        "test": "www.example.com/ssh",
        "votes": 2,
        "age": 0.5,
        "none": None,
        "text": "no route",
    }
    assert (
        log.line("verdict", facts)
        == 'verdict test=www.example.com/ssh votes=2 age=0.500 text="no route"'
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("a=b", '"a=b"'),
        ('say "x"', '"say \\"x\\""'),
        ("two\nlines", '"two\\\\nlines"'),
        ("\x1b[2J", '"\\\\x1b[2J"'),
        ("\u202eevil", '"\\\\u202eevil"'),
        ("ünïcode", "ünïcode"),
    ],
)
def test_values_are_escaped(text: str, shown: str) -> None:
    assert log.line("event", {"text": text}) == f"event text={shown}"


def test_debug_is_for_the_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    log.debug("passed", test="a/b")
    log.info("failed", test="a/b")
    assert capsys.readouterr().err == "dmonitor: failed test=a/b\n"


def test_a_stderr_that_nobody_reads_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    monkeypatch.setattr(os, "dup2", lambda *_: None)  # stderr is pytest's
    log.info("event")
    log.complain("text")


@pytest.mark.parametrize(
    ("environment", "is_known"),
    [
        ({"MAILTO": "root"}, True),  # etc/cron
        ({}, False),
        ({"MAILTO": ""}, False),  # etc/examples/container/cron
        ({"MAILTO": "root", "JOURNAL_STREAM": "8:1234"}, False),  # systemd-cron
    ],
)
def test_a_round_logs_to_stderr_without_syslog_unless_cron_mails_that(
    environment: dict[str, str], is_known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[bool] = []

    def start(program: str, *, to_stderr: bool, verbose: bool) -> None:
        started.append(to_stderr)
        raise InterruptedError

    monkeypatch.setattr(log, "start", start)
    for name in ("MAILTO", "JOURNAL_STREAM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cron.is_known_to_mail() is is_known
    for path, is_lost in ((tmp_path, False), (tmp_path / "none", True)):
        monkeypatch.setattr(log, "_SYSLOG", str(path))
        for program, options in ((check, ["--once"]), (check, ["-n"]), (dmonitord, [])):
            with pytest.raises(InterruptedError):
                program.main(options)
        with pytest.raises(InterruptedError):
            dmonitord.main(["--foreground"])
        is_double = "JOURNAL_STREAM" in environment and not is_lost
        # A round; an operator's question; the daemon that detaches, and the one that does not.
        assert started == [is_lost and not is_known, False, False, not is_double]
        started.clear()
