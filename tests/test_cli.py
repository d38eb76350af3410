"""How a program ends: each kind of failure has its exit status and one message."""

from __future__ import annotations

import os

import pytest

from dmonitor.base import cli, user
from dmonitor.base.errors import StateError


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (user.NoUser("none exists"), os.EX_NOUSER, "unable to give up root: none exists"),
        (StateError("x: broken"), os.EX_TEMPFAIL, "unable to use the state: x: broken"),
        (
            OSError(24, "Too many open files"),
            os.EX_TEMPFAIL,
            "unable to go on: Too many open files",
        ),
        (
            ImportError("resource.so: Too many open files"),
            os.EX_TEMPFAIL,
            "unable to load a part of the program: resource.so: Too many open files; if it",
        ),
    ],
)
def test_a_failure_of_the_system_is_no_bug(
    error: Exception, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert cli.guard(fail) == status
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said and "bug" not in said


def test_a_bug_is_told_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise KeyError("x")

    assert cli.guard(fail) == os.EX_SOFTWARE
    said = capsys.readouterr().err
    assert "Traceback" in said and "a bug in dmonitor: KeyError('x')" in said
