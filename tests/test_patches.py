"""A test that patches what nobody reads is found: such a test passes whatever its subject does."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from patches import watched

from dmonitor.base import clock
from dmonitor.net import conversation, handshake


@pytest.fixture(autouse=True)
def patches_are_read() -> None:
    """Watch no test of this module: what they patch is not read, and that is what they are about."""


def test_a_function_in_whose_place_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the fuzzing had died: nonces came from os.urandom, and this was patched."""
    with watched(set(threading.enumerate())) as watch:
        monkeypatch.setattr(secrets, "token_hex", lambda _: "0" * 32)
        handshake.Handshake("paris").hello([b"k" * 32], "0" * 32)
        assert watch.unread() == ["secrets.token_hex"]
    with watched(set(threading.enumerate())) as watch:
        monkeypatch.setattr(os, "urandom", bytes)
        handshake.Handshake("paris").hello([b"k" * 32], "0" * 32)
        assert watch.unread() == []


def test_a_number_that_no_function_uses_which_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(set(threading.enumerate())) as watch:
        monkeypatch.setattr(conversation, "HELLO_SECONDS", 0.3)
        clock.uptime()
        assert watch.unread() == ["dmonitor.net.conversation.HELLO_SECONDS"]


def test_what_a_fork_reads_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(set(threading.enumerate())) as watch:
        monkeypatch.setattr(os, "urandom", lambda size: bytes(size))
        child = os.fork()
        if child == 0:
            handshake.Handshake("paris").hello([b"k" * 32], "0" * 32)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert watch.unread() == []


def test_a_test_of_that_kind_fails(tmp_path: Path) -> None:
    """The fixture in conftest.py watches each test."""
    path = tmp_path / "test_dead.py"
    path.write_text(
        "import secrets\n\n"
        "def test_dead(monkeypatch):\n"
        "    monkeypatch.setattr(secrets, 'token_hex', lambda _: '0')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "--noconftest", str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        cwd=Path(__file__).parents[1],
    )
    assert ran.returncode == 1 and "['secrets.token_hex']" in ran.stdout, ran.stdout


def test_a_thread_of_the_test_itself_lets_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(set(threading.enumerate())) as watch:
        ended = threading.Event()
        thread = threading.Thread(target=ended.wait)
        thread.start()
        monkeypatch.setattr(secrets, "token_hex", lambda _: "0" * 32)
        ended.set()
        thread.join()
        assert watch.unread() == []
