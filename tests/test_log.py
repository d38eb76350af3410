"""The log: one event a line that nobody can forge, and that nobody has to read."""

from __future__ import annotations

import io
import os
import sys

import pytest

from dmonitor.base import log


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
