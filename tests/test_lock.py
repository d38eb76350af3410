"""The lock: one holder, whatever files are left over, and whichever process was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmonitor.store import lock
from dmonitor.store.lock import Busy, Lock

CHECKOUT = Path(__file__).parents[1]

# Takes the lock over and over, and proves by an exclusive file that it is alone; it is killed at random.
CONTENDER = """
import os, sys, time
from pathlib import Path
from dmonitor.store.lock import Busy, Lock
directory = Path(sys.argv[1])
while True:
    own = Lock(directory, "check")
    try:
        own.take()
    except Busy:
        continue
    own.write_holder()
    inside = directory / "inside"
    try:
        pid = int(inside.read_text() or 0)
        if pid != os.getpid() and os.path.exists(f"/proc/{pid}") and open(f"/proc/{pid}/stat").read().rpartition(") ")[2][0] != "Z":
            (directory / "doubled").write_text(f"{pid} and {os.getpid()}")
    except FileNotFoundError:
        pass
    inside.write_text(str(os.getpid()))
    with open(directory / "turns", "a") as turns:
        turns.write(".")
    inside.unlink()
    own.release()
"""


def held(directory: Path) -> Lock:
    own = Lock(str(directory), "check")
    own.take()
    own.write_holder()
    return own


def test_take_and_release(tmp_path: Path) -> None:
    own = held(tmp_path)
    assert int((tmp_path / "check.pid").read_text()) == os.getpid()
    with pytest.raises(Busy) as busy:
        Lock(str(tmp_path), "check").take()
    assert busy.value.pid == os.getpid() and busy.value.age >= 0
    held_too = Lock(str(tmp_path), "dmonitord")
    held_too.take()
    own.release()
    assert not (tmp_path / "check.pid").exists()
    held(tmp_path).release()


def test_left_overs_do_not_wedge(tmp_path: Path) -> None:
    for left in (b"", b"1\n", b"999999999\n", b"\xff\0garbage", f"{os.getppid()}\n".encode()):
        (tmp_path / "check.pid").write_bytes(left)
        (tmp_path / "check.lock").write_bytes(left)
        own = held(tmp_path)
        assert int((tmp_path / "check.pid").read_text()) == os.getpid()
        own.release()


def test_a_guard_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "check.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="not a regular file"):
        Lock(str(tmp_path), "check").take()
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_does_not_wedge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held(tmp_path).release()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    own = held(tmp_path)
    with pytest.raises(Busy):
        Lock(str(tmp_path), "check").take()
    own.release()


def test_a_holder_with_a_reused_number_is_not_named(tmp_path: Path) -> None:
    own = held(tmp_path)
    os.pwrite(own.fileno(), f"{os.getpid()} 1".ljust(63).encode(), 0)
    with pytest.raises(Busy) as busy:
        Lock(str(tmp_path), "check").take()
    assert busy.value.pid == 0
    own.release()


def test_only_the_owner_releases(tmp_path: Path) -> None:
    own = held(tmp_path)
    pid = os.fork()
    if pid == 0:
        own.release()
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(Busy):
        Lock(str(tmp_path), "check").take()
    assert (tmp_path / "check.pid").exists()
    own.release()


def test_end_kills_exactly_the_holder(tmp_path: Path) -> None:
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        held(tmp_path)
        os.write(tell, b".")
        time.sleep(60)
        os._exit(1)
    os.read(ready, 1)
    with pytest.raises(Busy) as busy:
        Lock(str(tmp_path), "check").take()
    assert busy.value.pid == pid
    lock.end(pid)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    Lock(str(tmp_path), "check").take(patience=2)
    lock.end(pid)  # gone already: no harm


def test_three_contenders_under_kill_9(tmp_path: Path) -> None:
    """Never two holders, never none for long."""

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )

    turns = tmp_path / "turns"
    turns.touch()

    def another() -> None:
        before, deadline = turns.stat().st_size, time.monotonic() + 20
        while turns.stat().st_size <= before:
            assert time.monotonic() < deadline, "wedged"
            time.sleep(0.01)

    contenders = [start() for _ in range(3)]
    try:
        for turn in range(30):
            another()
            time.sleep(0.01 * (turn % 7))
            victim = contenders.pop(0)
            victim.kill()
            victim.wait()
            contenders.append(start())
        another()
    finally:
        for contender in contenders:
            contender.kill()
            contender.wait()
    assert not (tmp_path / "doubled").exists()


def test_who_holds_it_can_be_told_without_taking_it(tmp_path: Path) -> None:
    assert lock.holder(str(tmp_path), "check") is None, "there is no lock"
    first = held(tmp_path)
    assert lock.holder(str(tmp_path), "check") == first.incarnation and len(first.incarnation) == 16
    first.release()
    assert lock.holder(str(tmp_path), "check") is None, "what the file says was true once"
    second = held(tmp_path)
    assert lock.holder(str(tmp_path), "check") == second.incarnation != first.incarnation
    os.pwrite(second.fileno(), b"17 4711".ljust(63), 0)
    assert lock.holder(str(tmp_path), "check") == "", "an older one does not say"
    second.release()
