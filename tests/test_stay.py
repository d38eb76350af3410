"""What waits: a round for its place, and the node that would speak for a wake."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_nodes import LocalNode, Place, running, wait_until

from dmonitor import stay
from dmonitor.base import clock
from dmonitor.execution.runner import PLUGIN_LIMIT
from dmonitor.net import flights
from dmonitor.store import doorbell, place

TEST = "www.example.com/web"


# How often it looks.


def test_looks_are_a_while_apart_and_ten_a_minute() -> None:
    assert stay.next_look([]) == 0.0
    assert stay.next_look([100.0]) == 103.0
    looks = [100.0 + 3.0 * number for number in range(10)]
    assert stay.next_look(looks[:9]) == 127.0
    assert stay.next_look(looks) == 160.0, "the eleventh has to wait"
    assert stay.next_look([*looks, 160.0]) == 163.0


@pytest.fixture
def bell(tmp_path: Path) -> doorbell.Doorbell:
    return doorbell.Doorbell(str(tmp_path))


def _stay(directory: Path, seconds: float, command: str) -> subprocess.Popen[str]:
    until = str(clock.uptime() + seconds)
    program = [sys.executable, "-IS", stay.__file__, str(directory / doorbell.NAME), until]
    return subprocess.Popen([*program, "/bin/sh", "-c", command], text=True)


def test_a_ring_is_kept_for_the_next_who_waits(tmp_path: Path, bell: doorbell.Doorbell) -> None:
    bell.ring()
    bell.ring()
    waiting = _stay(tmp_path, 1.0, f"echo looked >>{tmp_path}/looks")
    assert waiting.wait(20) == 0
    assert (tmp_path / "looks").read_text() == "looked\n", "two rings are one look"


def test_a_ring_is_kept_for_the_next_round_too(tmp_path: Path, bell: doorbell.Doorbell) -> None:
    directory = str(tmp_path)
    assert not doorbell.was_rung(directory)
    bell.ring()
    assert doorbell.was_rung(directory) and not doorbell.was_rung(directory)
    assert not doorbell.was_rung(f"{directory}/elsewhere")


def test_a_bell_that_is_gone_is_made_again(tmp_path: Path, bell: doorbell.Doorbell) -> None:
    (tmp_path / doorbell.NAME).unlink()
    bell.ring()
    assert doorbell.was_rung(str(tmp_path))


def test_one_ring_is_one_look_however_many_wait(tmp_path: Path, bell: doorbell.Doorbell) -> None:
    waiting = [_stay(tmp_path, 3.0, f"echo looked >>{tmp_path}/looks") for _ in range(3)]
    time.sleep(1.5)
    bell.ring()
    assert [each.wait(9) for each in waiting] == [0, 0, 0]
    assert (tmp_path / "looks").read_text() == "looked\n"


def test_a_command_that_cannot_be_started_is_left_to_the_next_round(
    tmp_path: Path, bell: doorbell.Doorbell
) -> None:
    bell.ring()
    stay.stay(str(tmp_path / doorbell.NAME), clock.uptime() + 5.0, [str(tmp_path / "gone")])
    assert doorbell.was_rung(str(tmp_path))


def test_it_waits_without_waking_and_ends_in_time(tmp_path: Path, bell: doorbell.Doorbell) -> None:
    began = time.monotonic()
    waiting = _stay(tmp_path, 4.5, f"echo looked >>{tmp_path}/looks")
    time.sleep(2.5)
    before = _switches(waiting.pid)
    time.sleep(1.0)
    assert before > 0 and _switches(waiting.pid) == before
    assert waiting.wait(20) == 0 and 4.4 < time.monotonic() - began < 9.0
    assert not (tmp_path / "looks").exists()


def _switches(pid: int) -> int:
    """Return how often a process has been switched to."""
    found = 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if "ctxt_switches" in line:
            found += int(line.split()[1])
    return found


def test_who_rings_all_the_time_gets_one_look_in_three_seconds(
    tmp_path: Path, bell: doorbell.Doorbell
) -> None:
    waiting = _stay(tmp_path, 4.5, f"echo looked >>{tmp_path}/looks")
    while waiting.poll() is None:
        bell.ring()
        time.sleep(0.01)
    assert (tmp_path / "looks").read_text() == "looked\n" * 2


@pytest.mark.parametrize("kind", ["none", "file", "link"])
def test_without_a_fifo_nobody_waits(tmp_path: Path, kind: str) -> None:
    path = tmp_path / doorbell.NAME
    if kind == "file":
        path.write_text("x")
    if kind == "link":
        os.mkfifo(tmp_path / "elsewhere")
        path.symlink_to("elsewhere")
    waiting = _stay(tmp_path, 9.0, f"echo looked >>{tmp_path}/looks")
    assert waiting.wait(5) == 0 and not (tmp_path / "looks").exists()


def test_a_file_in_place_of_the_fifo_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[object] = []
    monkeypatch.setattr(
        "dmonitor.base.log.warning", lambda event, **facts: warnings.append((event, facts))
    )
    (tmp_path / doorbell.NAME).write_text("x")
    doorbell.Doorbell(str(tmp_path)).ring()
    assert (tmp_path / doorbell.NAME).read_text() == "x"
    reason = "it is no FIFO: remove it"
    assert warnings == [("no-doorbell", {"path": f"{tmp_path}/wake", "reason": reason})]


# The place of a round.


def _terminal() -> Iterator[int]:
    ours, theirs = pty.openpty()
    yield theirs
    os.close(theirs)
    os.close(ours)


terminal = pytest.fixture(_terminal)


def test_a_round_waits_for_its_place_unless_somebody_waits_for_it(
    three: list[LocalNode], terminal: int
) -> None:
    node = three[0]
    (node.config / "nodes.txt").write_text(f"{node.address}\n")
    null = subprocess.DEVNULL
    seconds = []
    for options, stdin, stdout in (
        ((), null, null),
        ((), terminal, null),
        ((), null, terminal),
        (("--once",), null, null),
    ):
        (node.state / "place").write_text("7\n")  # a round of a node alone makes it 0
        os.chown(node.state / "place", node.state.stat().st_uid, node.state.stat().st_gid)
        began = time.monotonic()
        subprocess.run(
            [*node.command("dmonitor-check"), *options],
            env=node.place.environment(),
            stdin=stdin,
            stdout=stdout,
            timeout=30,
            check=False,
            cwd="/",
            start_new_session=True,
        )
        seconds.append(time.monotonic() - began)
    assert seconds[0] > 7.0 > max(seconds[1:]), seconds


# Starts its arguments as root's shell starts what is typed with `</dev/null >/dev/null 2>&1`.
_AT_A_TERMINAL = """
import os, pty, sys
pid, terminal = pty.fork()
if not pid:
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.execv(sys.argv[1], sys.argv[1:])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_round_with_a_terminal_that_no_stream_shows_does_not_wait_either(
    three: list[LocalNode],
) -> None:
    """It waits in a program that it starts in its own place, which a plugin could attach to."""
    node = three[0]
    (node.config / "nodes.txt").write_text(f"{node.address}\n")
    (node.state / "place").write_text("9\n")
    os.chown(node.state / "place", node.state.stat().st_uid, node.state.stat().st_gid)
    command = [sys.executable, "-c", _AT_A_TERMINAL, *node.command("dmonitor-check")]
    began = time.monotonic()
    subprocess.run(command, env=node.place.environment(), timeout=30, check=True, cwd="/")
    assert time.monotonic() - began < 6.0
    assert (node.state / "state.db").exists(), "there was a round"


def test_a_round_that_waited_through_an_upgrade_begins_anew(three: list[LocalNode]) -> None:
    """It must not be made of two versions."""
    node = three[0]
    (node.config / "nodes.txt").write_text(f"{node.address}\n")
    (node.state / "place").write_text("7\n")
    package = node.place.directory / "dmonitor"
    with node.popen("dmonitor-check", "-v") as process:
        time.sleep(3.0)
        for name, old, new in (
            ("driver.py", "waited: float", "delayed: float"),
            ("driver.py", "waited=waited", "waited=delayed"),
            ("check.py", "waited=started", "delayed=started"),
        ):
            text = (package / name).read_text()
            assert text.count(old) == 1
            (package / "newer").write_text(text.replace(old, new))
            (package / "newer").rename(package / name)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0 and "upgraded" in said and "round-finished" in said


def test_the_nodes_of_a_cluster_begin_one_after_the_other(three: list[LocalNode]) -> None:
    with running(three):
        for node in three:
            node.round()
        for node in three:
            for _ in range(9):
                node.round()
    assert [place.read(str(node.state)) for node in three] == [0.0, 20.0, 40.0]
    three[1].configure("offset = 7\n")
    three[1].round()
    assert place.read(str(three[1].state)) == 7.0


# A wake, from the node that sees something fail to the mail of the node that speaks.


@contextlib.contextmanager
def _staying(three: list[LocalNode]) -> Iterator[list[str]]:
    """Run three nodes that see the test pass, the first of which stays after its round.

    What that logs is in the list in the end.
    """
    said: list[str] = []
    for node in three:
        node.test(TEST)
        node.plugin("web", f"cat {node.config}/sees")
        (node.config / "sees").write_text("OK\n")
    with running(three):
        for node in (*three, three[0]):
            node.round()
        stays = three[0].popen("dmonitor-check", "-v")
        try:
            wait_until(lambda: b"stay.py" in Path(f"/proc/{stays.pid}/cmdline").read_bytes(), 10.0)
            # A daemon may have looked for this round; it gives that out again for some seconds.
            time.sleep(flights.RESULT_CACHE_SECONDS + 0.1)
            yield said
            assert stays.poll() is None, "it goes on waiting"
        finally:
            stays.kill()
            said += stays.communicate()


def _fail(three: list[LocalNode]) -> None:
    """Let the test fail on these nodes; the last but one finds that."""
    for node in three:
        (node.config / "sees").write_text("FAIL\n")
    log = three[-2].round()
    assert "incident-opened" in log and "handed-over" not in log


def _starts(place: Place) -> list[list[str]]:
    return [subject.split()[:2] for subject in place.subjects()]


def test_the_speaker_is_woken_and_mails_at_once(three: list[LocalNode], place: Place) -> None:
    with _staying(three) as said:
        _fail(three)
        wait_until(place.subjects, 20.0)
        assert _starts(place) == [["DOWN", TEST]]
        time.sleep(1.0)  # the woken round stores that it is told
        heard = three[2].round()
        assert "alert=127.0.0.31" in heard and "handed-over" not in heard
    log = said[1]
    assert "handed-over" in log and log.count("test-ran") == 3, "its test and its peers, once"


def test_the_end_of_a_silence_wakes_the_speaker(three: list[LocalNode], place: Place) -> None:
    three[1].run("dmonitor", "silence", "www.example.com")
    with _staying(three):
        _fail(three)
        time.sleep(1.0)
        assert place.subjects() == []
        lifted = three[1].run("dmonitor", "silence", "www.example.com", "off")
        assert lifted.returncode == 0, lifted.stderr
        wait_until(place.subjects, 20.0)
        assert _starts(place) == [["DOWN", TEST]]


def test_who_is_woken_between_two_rounds_tells_before_it_tests(
    three: list[LocalNode], place: Place
) -> None:
    """Its own tests may hang, and somebody waits for the mail."""
    with _staying(three):
        pass
    with running(three):
        three[0].plugin("web", "sleep 60")
        _fail(three[1:])
        assert place.subjects() == []
        began = time.monotonic()
        with three[0].popen("dmonitor-check", "-v") as process:
            wait_until(place.subjects, 9.0)
            assert time.monotonic() - began < PLUGIN_LIMIT and process.poll() is None
            process.kill()
    assert _starts(place) == [["DOWN", TEST]]
