"""The daemon, as a process and over its port: with honest callers, and with hostile ones."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import selectors
import signal
import socket
import sqlite3
import subprocess
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import LONG, plant, strays
from local_nodes import LocalNode, Place, run_as, running, wait_until

from dmonitor import __version__, dmonitord, facts
from dmonitor.net import conversation, flights, protocol, server

ADDRESS = "127.0.0.35"


@pytest.fixture
def node(place: Place, port: int) -> LocalNode:
    made = LocalNode(place, ADDRESS, [ADDRESS, "127.0.0.36"], port=port)
    made.plugin("ok", "echo OK $1")
    made.plugin("slow", "sleep 0.5; echo FAIL $$ slow")
    made.plugin("counted", f"echo x >>{made.state}/runs; sleep 0.3; echo OK")
    for name in ("ok", "slow", "counted"):
        made.test(f"www.example.com/{name}")
    return made


@pytest.fixture
def started(node: LocalNode) -> Iterator[LocalNode]:
    with running([node]):
        yield node


class Caller:
    """Somebody who has connected."""

    def __init__(self, node: LocalNode, source: str = ADDRESS) -> None:
        self.socket = socket.create_connection((node.address, node.port), 5, (source, 0))
        self.file = self.socket.makefile("rb")

    def read(self) -> str:
        return self.file.readline().decode().rstrip("\n")

    def say(self, line: str | bytes) -> None:
        self.socket.sendall(line if isinstance(line, bytes) else line.encode() + b"\n")

    def ask(self, line: str | bytes) -> str:
        self.say(line)
        return self.read()

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def __enter__(self) -> Caller:
        self.greeting = self.read()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def resident(pid: int) -> int:
    """Return the memory of a process, in kB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def greeted(node: LocalNode, source: str) -> bool:
    """Return whether a caller from `source` is let in."""
    caller = Caller(node, source)
    try:
        return caller.read().startswith("dmonitor")
    except ConnectionError:
        return False
    finally:
        caller.close()


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_greeting_question_answer_garbage(started: LocalNode) -> None:
    """Must show 5, with a socket in place of nc."""
    with Caller(started) as caller:
        node_id = (started.state / "node-id").read_text().strip()
        assert re.fullmatch(
            f"dmonitor 1 name={ADDRESS} id={node_id} run=[0-9a-f]{{16}}", caller.greeting
        )
        assert re.fullmatch(
            r"answer www.example.com/ok OK age=0.0 duration=0.\d{3} text=www.example.com",
            caller.ask("test www.example.com/ok"),
        )
        assert (
            caller.ask("what?")
            == "error malformed text=unknown word what?; a question reads: test HOST/NAME"
        )
        assert (
            caller.ask(b"\xff\xfe\x00\n")
            == "error malformed text=bytes that are not printable ASCII"
        )
        assert caller.ask("test www.example.com/ok\r").startswith(
            "answer www.example.com/ok OK age="
        )
        caller.say("quit")
        assert caller.read() == ""


def test_greeted_and_asked_what_it_knows(started: LocalNode) -> None:
    who = rf'"name":"{started.address}","node_id":"[0-9a-f]{{24}}","at":0.0'
    never = rf'standing {{{who},"stores":false,"tests":"[0-9a-f]{{16}}"}}'
    with Caller(started) as caller:
        assert re.fullmatch(never, caller.ask("greet")), (
            "no round has finished, and so none is stated"
        )
    started.round()
    with Caller(started) as caller:
        more = '"nodes":"[0-9a-f]{16}","addresses":"[0-9a-f]{16}","rounds":1,"troubles":\\["no-address","isolated"\\]'
        more += rf',"version":"{re.escape(__version__)}","wall":[0-9.]+,"quorum":2,"confirm":1,"up":[0-9.]+,"wakes":true'
        finished = rf'standing {{{who},"finished":[0-9.]+,"tests":"[0-9a-f]{{16}}",{more}}}'
        assert re.fullmatch(finished, caller.ask("greet"))
        assert caller.read() == "end"
        caller.say("tests")
        assert [caller.read() for _ in range(4)] == [
            *(f"has www.example.com/{name}" for name in ("counted", "ok", "slow")),
            "end",
        ]
        assert caller.ask("incident 0123456789ab") == "end"
        assert caller.ask("incident ../../etc/passwd").startswith("error malformed")
        assert caller.ask("greet me") == "error malformed text=greet stands alone"


@pytest.mark.parametrize("damage", ["torn", "away", "nonsense"])
def test_a_state_that_cannot_be_read_ends_nothing(started: LocalNode, damage: str) -> None:
    """It says that it cannot remember what it tells, so that another node speaks.

    A value that makes no sense costs only itself: what is told can still be stored.
    """
    started.round()
    database = started.state / "state.db"
    match damage:
        case "torn":
            database.write_bytes(database.read_bytes()[:4096] + b"\xff" * 20000)
        case "away":
            database.unlink()
            database.mkdir()
        case _:
            with contextlib.closing(sqlite3.connect(database)) as db:
                db.execute("UPDATE memo SET value = '[[1'")
                db.commit()
    with Caller(started) as caller:
        stores_nothing = '"stores":false' in caller.ask("greet")
        assert stores_nothing is (damage != "nonsense") and caller.read() == "end"
        assert caller.ask("incident 0123456789ab") == "end"
        assert caller.ask("test www.example.com/ok").startswith("answer www.example.com/ok OK")


def test_half_closed_as_by_a_pipe_into_nc(started: LocalNode) -> None:
    with Caller(started) as caller:
        caller.say("test www.example.com/slow")
        caller.socket.shutdown(socket.SHUT_WR)
        assert caller.read().startswith("answer www.example.com/slow FAIL")
        assert caller.read() == ""


def test_only_own_tests_are_run(started: LocalNode) -> None:
    with Caller(started) as caller:
        for name in ("www.example.com/other", "other/ok", "www.example.com/ok:1", "node/oslo"):
            assert (
                caller.ask(f"test {name}")
                == f"answer {name} UNKNOWN reason=not-configured age=0.0 duration=0.000"
            )
        for name in (
            "../../bin/sh",
            "www.example.com/../ok",
            "-x/ok",
            "node/-oslo",
            "www.example.com/",
            "/ok",
        ):
            assert caller.ask(f"test {name}").startswith("error malformed")


def test_a_test_that_is_touched_is_known_at_once(started: LocalNode) -> None:
    with Caller(started) as caller:
        assert "not-configured" in caller.ask("test new.example.com/ok")
        started.test("new.example.com/ok")
        time.sleep(facts._TESTS_SECONDS)
        assert caller.ask("test new.example.com/ok").startswith("answer new.example.com/ok OK")


def test_mistakes_in_a_tests_file(started: LocalNode) -> None:
    started.test("www.example.com/ok:bad", "port=1\n")
    with Caller(started) as caller:
        assert "UNKNOWN" in caller.ask("test www.example.com/ok:bad")


def test_answers_come_as_they_are_ready(started: LocalNode) -> None:
    with Caller(started) as caller:
        caller.say(b"test www.example.com/slow\ntest www.example.com/ok\n")
        assert caller.read().startswith("answer www.example.com/ok OK")
        assert caller.read().startswith("answer www.example.com/slow FAIL")


def test_an_answer_that_fails_is_two_looks(started: LocalNode) -> None:
    """What fails once is a flake, and the answer says so; all who ask meanwhile get it."""
    node = started
    node.test("www.example.com/once")
    node.test("www.example.com/twice")
    seen = node.state / "once"
    count = f"echo x >>{seen}-$(basename $0)"
    node.plugin(
        "once", f"{count}; [ -e {seen} ] && echo OK back || {{ echo >{seen}; echo FAIL lost; }}"
    )
    node.plugin("twice", f"{count}; echo FAIL gone")
    with Caller(node) as caller, Caller(node) as second:
        began = time.monotonic()
        for each in (caller, second):
            each.socket.settimeout(20)
        caller.say("test www.example.com/once")
        assert caller.ask("test www.example.com/twice").startswith("answer www.example.com/")
        second.say("test www.example.com/once")
        answers = {caller.read(), second.read()}
        assert time.monotonic() - began > 2
        assert len(answers) <= 2
        (text,) = {answer.rpartition("text=")[2] for answer in answers if "/once OK" in answer}
        assert text == "back (a first look failed: lost)"
        assert "twice FAIL" in second.ask("test www.example.com/twice"), "it is remembered"
    for name in ("once", "twice"):
        assert Path(f"{seen}-check_{name}").read_text() == "x\nx\n"


def test_one_run_serves_all_who_ask(started: LocalNode) -> None:
    callers = [Caller(started) for _ in range(10)]
    for caller in callers:
        caller.read()
        caller.say("test www.example.com/counted")
    assert all(
        caller.read().startswith("answer www.example.com/counted OK age=0.0") for caller in callers
    )
    time.sleep(0.3)
    remembered = callers[0].ask("test www.example.com/counted")
    assert 0.3 <= float(remembered.partition("age=")[2].split()[0]) < flights.RESULT_CACHE_SECONDS
    for caller in callers:
        caller.close()
    assert (started.state / "runs").read_text() == "x\n"


def test_memory_ends_after_five_seconds(started: LocalNode) -> None:
    with Caller(started) as caller:
        caller.ask("test www.example.com/counted")
        time.sleep(flights.RESULT_CACHE_SECONDS + 0.1)
        assert "age=0.0" in caller.ask("test www.example.com/counted")
    assert (started.state / "runs").read_text() == "x\nx\n"


def test_a_stranger_gets_not_a_byte(started: LocalNode) -> None:
    stranger = Caller(started, "127.0.0.99")
    with contextlib.suppress(ConnectionError):
        stranger.say("test www.example.com/counted")
        assert stranger.read() == ""
    stranger.close()
    assert not (started.state / "runs").exists()


def test_a_node_that_was_added_is_let_in_without_a_signal(started: LocalNode) -> None:
    assert not greeted(started, "127.0.0.37")
    with open(started.config / "nodes.txt", "a") as file:
        file.write("127.0.0.37\n")
    wait_until(lambda: greeted(started, "127.0.0.37"))


def test_sighup_reads_nodes_again(started: LocalNode) -> None:
    assert not greeted(started, "127.0.0.37")
    with open(started.config / "nodes.txt", "a") as file:
        file.write("127.0.0.37\n")
    os.kill(started.daemon_pid, signal.SIGHUP)
    wait_until(lambda: greeted(started, "127.0.0.37"))


def test_sighup_keeps_the_nodes_when_they_cannot_be_read(started: LocalNode) -> None:
    (started.config / "nodes.txt").rename(started.config / "elsewhere")
    for _ in range(3):
        os.kill(started.daemon_pid, signal.SIGHUP)
        time.sleep(0.1)
    assert greeted(started, ADDRESS)
    (started.config / "nodes.txt").write_text("127.0.0.38\n")
    os.kill(started.daemon_pid, signal.SIGHUP)
    wait_until(lambda: greeted(started, "127.0.0.38"))
    assert not greeted(started, ADDRESS)


def test_hosts_that_cannot_be_read_end_nothing(started: LocalNode) -> None:
    (started.config / "hosts.d").chmod(0o744)
    with Caller(started) as caller:
        assert caller.ask("test www.example.com/ok").startswith("answer www.example.com/ok")
        (started.config / "hosts.d").chmod(0o755)
        time.sleep(facts._TESTS_SECONDS)
        assert "OK" in caller.ask("test www.example.com/ok")


def test_a_slow_reader_a_dripper_and_a_flood_delay_nobody(started: LocalNode) -> None:
    bad = [Caller(started) for _ in range(8)]
    for caller in bad[:4]:
        caller.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:  # never reads an answer
                caller.socket.send(b"test www.example.com/ok\n" * 1000)
    for caller in bad[4:]:
        caller.say(b"test www.exam")
    with Caller(started, "127.0.0.36") as honest:
        honest.ask("test www.example.com/ok")
        began = time.monotonic()
        for _ in range(20):
            assert honest.ask("test www.example.com/ok").startswith("answer")
        assert time.monotonic() - began < 4
    for caller in bad:
        caller.close()


def test_the_same_question_a_million_times(started: LocalNode) -> None:
    """Asked again while its run is in flight: one caller cannot make the daemon owe it a million answers."""
    started.plugin("slow", "sleep 2; echo OK " + "x" * 230)
    before = resident(started.daemon_pid)
    with Caller(started) as flood, Caller(started, "127.0.0.36") as honest:
        flood.socket.settimeout(0.2)
        sent, end = 0, time.monotonic() + 1.5
        with contextlib.suppress(TimeoutError):
            while time.monotonic() < end:
                sent += flood.socket.send(b"test www.example.com/slow\n" * 100)
        assert sent > 1_000_000
        flood.socket.settimeout(20)
        assert flood.read().startswith("answer www.example.com/slow OK"), "the run has ended"
        began = time.monotonic()
        assert honest.ask("test www.example.com/ok").startswith("answer")
        assert time.monotonic() - began < 4
        assert resident(started.daemon_pid) - before < 6_000, "50,000 answers are 13,000 kB"


def test_half_closed_with_answers_unread_and_one_still_owed(started: LocalNode) -> None:
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.bind((ADDRESS, 0))
    caller.settimeout(5)
    caller.connect((started.address, started.port))
    with caller:
        caller.sendall(b"test www.example.com/ok\n")
        time.sleep(0.3)
        caller.sendall(b"test www.example.com/slow\n" + b"test www.example.com/ok\n" * 7000)
        caller.shutdown(socket.SHUT_WR)
        time.sleep(1.0)
        data = b"".join(iter(lambda: caller.recv(65536), b""))
    assert data.count(b"\nanswer www.example.com/ok OK") == 7001
    assert data.count(b"\nanswer www.example.com/slow FAIL") == 1
    with Caller(started) as after:
        assert after.ask("test www.example.com/ok").startswith("answer")


def test_closed_standard_streams(node: LocalNode) -> None:
    for closed in ("<&-", "2>&-", "<&- >&- 2>&-"):
        for program, options in (("dmonitor-check", ""), ("dmonitord", "")):
            command = " ".join(node.command(program)) + f" {options} {closed}"
            ran = subprocess.run(
                ["sh", "-c", command], env=node.place.environment(), timeout=20, check=False
            )
            assert ran.returncode == 0, (program, closed)
        node.stop()


def test_a_log_that_nobody_reads_ends_nothing(node: LocalNode) -> None:
    daemon = node.popen("dmonitord", "--foreground")
    assert daemon.stderr and daemon.stdout and "started" in daemon.stderr.readline()
    daemon.stderr.close()
    assert not greeted(node, "127.0.0.99"), "which is logged"
    assert greeted(node, ADDRESS)
    daemon.terminate()
    assert daemon.wait(5) == 0
    daemon.stdout.close()


def test_few_descriptors(node: LocalNode) -> None:
    """Below what a plugin is given; the daemon gets along with what there is."""
    command = "ulimit -n 100; exec " + " ".join(node.command("dmonitord"))
    ran = subprocess.run(
        ["sh", "-c", command],
        env=node.place.environment(),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    try:
        assert (ran.returncode, ran.stderr) == (0, "")
        with Caller(node) as caller:
            assert caller.ask("test www.example.com/ok").startswith("answer www.example.com/ok OK")
    finally:
        node.stop()


def test_limits_on_lines_errors_and_callers(started: LocalNode) -> None:
    before = descriptors(started.daemon_pid)
    with Caller(started) as caller:
        assert (
            caller.ask(b"x" * 1100 + b"\n")
            == f"error malformed text=a line of over {protocol.QUESTION_BYTES} bytes"
        )
        assert caller.read() == ""
    with Caller(started) as caller:
        for _ in range(conversation.ERRORS_LIMIT):
            assert caller.ask("?").startswith("error")
        assert caller.read() == ""
    crowd = [Caller(started) for _ in range(server.CALLERS_EACH + 5)]
    assert [caller.read()[:8] for caller in crowd[:5]] == ["dmonitor"] * 5
    assert crowd[0].read() == "", "the oldest had to go"
    assert crowd[-1].read().startswith("dmonitor")
    with Caller(started, "127.0.0.36") as honest:
        assert honest.ask("test www.example.com/ok").startswith("answer")
    for caller in crowd:
        caller.close()
    wait_until(lambda: descriptors(started.daemon_pid) <= before)


def test_sigterm_ends_it_with_0(node: LocalNode) -> None:
    daemon = node.popen("dmonitord", "--foreground")
    assert daemon.stderr
    assert daemon.stderr.readline().startswith("dmonitord: started name=127.0.0.35 ")
    with Caller(node) as caller:
        assert caller.greeting
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(5) == 0
    assert "stopped" in daemon.stderr.read()
    assert not (node.state / "dmonitord.pid").exists()
    daemon.stderr.close()
    daemon.stdout and daemon.stdout.close()


def test_it_runs_as_the_right_user_detached(started: LocalNode) -> None:
    status = Path(f"/proc/{started.daemon_pid}/status").read_text()
    assert status.partition("Uid:")[2].split()[:4] == [str(run_as().pw_uid)] * 4
    assert Path(f"/proc/{started.daemon_pid}/cwd").readlink() == Path("/")
    fields = Path(f"/proc/{started.daemon_pid}/stat").read_text().rpartition(") ")[2].split()
    assert fields[4] == "0", "it has no terminal"
    owners = {path.name: path.stat().st_uid for path in started.state.iterdir()}
    assert set(owners.values()) == {run_as().pw_uid}


def test_a_second_one_says_so(started: LocalNode) -> None:
    second = started.run("dmonitord")
    assert second.returncode == os.EX_TEMPFAIL
    assert second.stderr.startswith(
        f"dmonitord: another one runs already: pid {started.daemon_pid}, since "
    )


def test_a_port_in_use_says_who_has_it_before_it_detaches(node: LocalNode) -> None:
    holder = f"the user {pwd.getpwuid(os.getuid()).pw_name} (uid {os.getuid()})"
    with socket.create_server((node.address, node.port)):
        failed = node.run("dmonitord")
    assert (failed.returncode, failed.stderr) == (
        os.EX_TEMPFAIL,
        f"dmonitord: unable to go on: {node.address} port {node.port}: "
        f"Address already in use by {holder}\n",
    )


def test_a_mistake_in_its_settings_says_so(node: LocalNode) -> None:
    """Going on with a default could open the port to where it should be closed."""
    node.configure("listen = 127.0.0\n")
    failed = node.run("dmonitord")
    assert failed.returncode == os.EX_CONFIG
    assert failed.stderr.endswith("listen = 127.0.0: '127.0.0' is not an IPv4 or IPv6 address\n")


def test_no_state_directory_says_so(node: LocalNode) -> None:
    node.state = node.state / "a" / "b"
    failed = node.run("dmonitord")
    assert failed.returncode == os.EX_TEMPFAIL
    assert "No such file or directory" in failed.stderr or "Permission denied" in failed.stderr


def test_kill_9_is_followed_by_a_clean_start(node: LocalNode) -> None:
    node.plugin("hangs", f"setsid sleep {LONG} & sleep {LONG}")
    node.test("www.example.com/hangs")
    node.start()
    pid = node.daemon_pid
    with Caller(node) as caller:
        caller.say("test www.example.com/hangs")
        wait_until(lambda: len(strays()) == 2)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not strays())
    with running([node]):
        assert node.daemon_pid != pid
        with Caller(node) as caller:
            assert caller.ask("test www.example.com/ok").startswith("answer")


def test_hostile_plugins_through_the_daemon(node: LocalNode) -> None:
    """One run of each; tests/scenarios/hostile_plugins.py runs each twenty times."""
    expected = plant(node.config / "plugins")
    for name in expected:
        node.test(f"www.example.com/{name}")
    with running([node]), Caller(node) as caller:
        caller.socket.settimeout(30)  # what hangs does so twice
        for name in expected:
            caller.say(f"test www.example.com/{name}")
        answers = dict(caller.read().split(" ", 2)[1:] for _ in expected)
        for name, (outcome, _) in expected.items():
            assert answers[f"www.example.com/{name}"].startswith(outcome.value), name
        wait_until(lambda: not strays())


def test_ipv6(place: Place, port: int) -> None:
    node = LocalNode(place, "::1", ["::1"], port=port)
    node.plugin("ok", "echo OK")
    node.test("www.example.com/ok")
    with running([node]), socket.create_connection(("::1", port), 5) as connection:
        connection.sendall(b"test www.example.com/ok\nquit\n")
        assert b"answer www.example.com/ok OK" in b"".join(iter(lambda: connection.recv(4096), b""))


def test_both_families_without_listen(place: Place, port: int) -> None:
    node = LocalNode(place, "127.0.0.1", ["127.0.0.1", "::1"], port=port)
    (node.config / "dmonitor.conf").write_text(f"port = {port}\n")
    with running([node]):
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, port), 5) as connection:
                assert connection.recv(100).startswith(b"dmonitor 1 ")


def test_it_stays_small(started: LocalNode) -> None:
    with Caller(started) as caller:
        caller.ask("test www.example.com/ok")
    status = Path(f"/proc/{started.daemon_pid}/status").read_text()
    assert int(status.partition("VmRSS:")[2].split()[0]) < 32_000  # kB


@pytest.mark.parametrize("program", ["dmonitord", "dmonitor-check"])
def test_version_and_usage(program: str, node: LocalNode) -> None:
    assert re.fullmatch(program + r" \d+\.\d+\.\d+\n", node.run(program, "--version").stdout)
    wrong = node.run(program, "--nonsense")
    assert wrong.returncode == os.EX_USAGE and wrong.stderr.endswith(
        f"{program}: unrecognized arguments: --nonsense\n"
    )
    assert isinstance(wrong, subprocess.CompletedProcess)


def test_a_peer_is_asked_about_by_its_name(node: LocalNode, place: Place) -> None:
    """The daemon greets it then and there, once for all who ask."""
    other = LocalNode(place, "127.0.0.36", [ADDRESS, "127.0.0.36"], port=node.port)
    with running([node]), Caller(node) as caller, Caller(node) as second:
        refused = (
            r"answer node/127\.0\.0\.36 FAIL age=0\.0 duration=4\.\d{3} text=connection refused"
        )
        caller.socket.settimeout(15)
        assert re.fullmatch(refused, caller.ask("test node/127.0.0.36")), (
            "it was tried for some seconds"
        )
        assert caller.ask(f"test node/{ADDRESS}").startswith(
            f"answer node/{ADDRESS} UNKNOWN reason=not-configured"
        ), "itself"
        assert caller.ask("test node/127.0.0.99").startswith(
            "answer node/127.0.0.99 UNKNOWN reason=not-configured"
        )
        other.round()
        with running([other]):
            time.sleep(flights.RESULT_CACHE_SECONDS + 0.1)
            answers = [asker.ask("test node/127.0.0.36") for asker in (caller, second)]
        assert all(answer.startswith("answer node/127.0.0.36 OK ") for answer in answers), answers


def test_a_peer_that_never_greets_keeps_nobody_waiting(node: LocalNode) -> None:
    with (
        socket.create_server(("127.0.0.36", node.port)),
        running([node]),
        Caller(node) as caller,
        Caller(node) as other,
    ):
        began = time.monotonic()
        caller.socket.settimeout(30)
        caller.say("test node/127.0.0.36")
        assert other.ask("test www.example.com/ok").startswith("answer www.example.com/ok OK")
        assert time.monotonic() - began < 8
        assert "FAIL" in (answer := caller.read()) and "connected, but no greeting" in answer
        assert 15 < time.monotonic() - began < 22, "5 s, a pause of 2 s, and 9 s"


def test_a_node_that_is_installed_before_it_is_configured_needs_no_signal(node: LocalNode) -> None:
    """The package starts the daemon; who the nodes are, and what the others call this one, is written afterwards."""
    nodes = (node.config / "nodes.txt").read_text()
    (node.config / "nodes.txt").write_text("# nobody yet\n")
    with running([node]):
        assert not greeted(node, ADDRESS)
        (node.config / "nodes.txt").write_text(nodes)
        with Caller(node, "127.0.0.36") as caller:
            assert f" name={ADDRESS} " in caller.greeting
            assert f'"name":"{ADDRESS}"' in caller.ask("greet")
        assert not greeted(node, "127.0.0.37")


def test_the_loop_gives_up_what_is_overdue_before_it_reads_lines() -> None:
    """What a peer said before this machine slept is no greeting after it."""
    order: list[str] = []
    facts_of_node: Any = types.SimpleNamespace(
        pause=lambda: 0.0, tick=lambda: order.append("visits given up")
    )
    port: Any = types.SimpleNamespace(pause=lambda: None, tick=lambda: order.append("port"))
    ours, theirs = socket.socketpair()
    with ours, theirs, selectors.DefaultSelector() as selector:
        selector.register(ours, selectors.EVENT_READ, lambda: order.append("line read"))
        theirs.send(b"of before\n")
        dmonitord._turn(selector, port, facts_of_node)
    assert order == ["visits given up", "line read", "port"]
