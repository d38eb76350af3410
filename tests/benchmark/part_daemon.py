"""`daemon` and `idle`: what dmonitord costs its node, and how soon it answers.

Its answers are compared with an echo: a loop over one socket in Python that returns each line.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.synchronize
import os
import selectors
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from calls import Conversation, free_port
from contestants import Copy
from frame import ENVIRONMENT, Bench, Failed, Row, descendants, measured, progress
from local_nodes import LocalNode, running

ADDRESS, PEER = "127.0.0.71", "127.0.0.72"
QUESTIONS, RATE, MEMORY = 10_000, 2_000.0, 25.0  # remembered answers; at least so many a second; MB
AT_ONCE, ADDED = 200, 5.0  # questions; ms
IDLE = 600.0  # seconds
# When it began, and when it was about to end, in seconds since the epoch: what the sleep takes is its own time.
SLOW = "began=$EPOCHREALTIME\nsleep 1\necho OK $began $EPOCHREALTIME\n"


def daemon(bench: Bench) -> Iterator[Row]:
    node = _node(bench, "daemon")
    for number in range(AT_ONCE):
        node.test(f"h{number:03}.example.com/slow")
    node.plugin("slow", SLOW, "/bin/bash")
    with running([node]):
        yield from _remembered(bench, node)
        yield from _at_once(bench, node)
        yield _memory(node)


def idle(bench: Bench) -> Iterator[Row]:
    """Count the system calls of the daemon and its supervisor while nobody asks anything."""
    if not shutil.which("strace"):
        raise Failed("there is no strace here")
    node = _node(bench, "idle")
    with running([node]):
        with Conversation((ADDRESS, node.port), ADDRESS, source=ADDRESS) as talk:
            talk.say(b"test www.example.com/ok\n")
            talk.read()
        time.sleep(8)  # until it has forgotten that, too
        pids = [node.daemon_pid, *descendants(node.daemon_pid)]
        if len(pids) != 2:
            raise Failed(f"the daemon is {len(pids)} processes, not two")
        trace = bench.directory / "trace"
        command = [
            "strace",
            "-f",
            "-o",
            str(trace),
            *(part for pid in pids for part in ("-p", str(pid))),
        ]
        progress(f"idle for {IDLE:g} s")
        tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        try:
            time.sleep(IDLE)
        finally:
            tracer.terminate()
            tracer.wait()
        lines = trace.read_text().splitlines()
        # Each process is found in the call in which it waits, and left there; what has returned has woken it.
        woken = [
            line
            for line in lines
            if not line.rstrip().endswith(("<unfinished ...>", "<detached ...>"))
        ]
        if len(lines) < len(pids):
            raise Failed(f"strace has seen nothing: {lines}")
        yield Row(
            f"idle for {IDLE:g} s: system calls of dmonitord",
            float(len(woken)),
            None,
            "",
            "= 0",
            not woken,
        )
        yield _memory(node)


def _node(bench: Bench, name: str) -> LocalNode:
    node = LocalNode(Copy(bench, name), ADDRESS, [ADDRESS, PEER], port=free_port())
    node.plugin("ok", "echo OK fine")
    node.test("www.example.com/ok")
    return node


def _memory(node: LocalNode) -> Row:
    """Return the most memory that the daemon ever had, including all that it shares with its supervisor."""
    found = []
    for pid in (node.daemon_pid, *descendants(node.daemon_pid)):
        status = dict(
            line.split(":", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":" in line
        )
        found.append(int(status["VmHWM"].split()[0]) / 1000)
    return Row(
        "dmonitord: memory, the most of its two processes",
        max(found),
        (min(found), max(found)),
        "MB",
        f"≤ {MEMORY:g}",
        max(found) <= MEMORY,
    )


def _remembered(bench: Bench, node: LocalNode) -> Iterator[Row]:
    ours, theirs = [], []
    echo_at = free_port()
    ready = multiprocessing.get_context("fork").Event()
    echo = multiprocessing.get_context("fork").Process(target=_echo, args=(echo_at, ready))
    echo.start()
    try:
        ready.wait(5)
        for _ in range(bench.repeats):
            with Conversation((ADDRESS, node.port), ADDRESS, source=ADDRESS) as talk:
                talk.say(b"test www.example.com/ok\n")
                if not talk.read().startswith(b"answer www.example.com/ok OK"):
                    raise Failed("no answer")
                ours.append(_rate(talk.say, talk.read, node.daemon_pid))
            with (
                contextlib.closing(socket.create_connection((ADDRESS, echo_at))) as connection,
                connection.makefile("rb") as file,
            ):
                theirs.append(_rate(connection.sendall, file.readline, echo.pid or 0))
    finally:
        echo.terminate()
        echo.join()
    for name, found in (("dmonitord", ours), ("an echo", theirs)):
        figure = [rate for rate, _ in found]
        promised = ("≥ 2000", statistics.median(figure) >= RATE) if found is ours else ("", None)
        yield Row(
            f"{name}: remembered answers in a CPU second",
            statistics.median(figure),
            (min(figure), max(figure)),
            "1/s",
            *promised,
        )
        yield measured(
            f"{name}: from question to answer", [latency * 1000 for _, latency in found], "ms"
        )


def _rate(
    say: Callable[[bytes], object], read: Callable[[], bytes], pid: int
) -> tuple[float, float]:
    """Ask in turn; return answers for each second of CPU time of `pid`, and the median seconds for an answer."""
    took = []
    before = _cpu(pid)
    for _ in range(QUESTIONS):
        began = time.perf_counter()
        say(b"test www.example.com/ok\n")
        read()
        took.append(time.perf_counter() - began)
        if len(took) % 1000 == 0 and sum(took) > 4:
            break  # what is remembered is forgotten after 5 s
    return len(took) / (_cpu(pid) - before), statistics.median(took)


def _cpu(pid: int) -> float:
    return time.clock_gettime(
        ~pid << 3 | 2
    )  # the process's CPU clock, as clock_getcpuclockid(3) makes it


def _echo(port: int, ready: multiprocessing.synchronize.Event) -> None:
    with socket.create_server((ADDRESS, port)) as listener:
        ready.set()
        while True:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)


def _at_once(bench: Bench, node: LocalNode) -> Iterator[Row]:
    """Measure from the question to the plugin's first word, and from its last to the answer; for one question, and many at once."""
    late: dict[int, list[float]] = {}
    early: dict[int, list[float]] = {}
    for count in (1, AT_ONCE):
        for _ in range(3):
            time.sleep(6)  # until what was answered is forgotten
            with Conversation((ADDRESS, node.port), ADDRESS, source=ADDRESS) as talk:
                asked = time.time()
                talk.say(
                    b"".join(b"test h%03d.example.com/slow\n" % number for number in range(count))
                )
                for _ in range(count):
                    words = talk.read().decode().partition(" text=")[2].split()
                    now = time.time()
                    late.setdefault(count, []).append((now - float(words[1])) * 1000)
                    early.setdefault(count, []).append((float(words[0]) - asked) * 1000)
    bare = [late for _ in range(3) for late in _bare(str(node.config / "plugins" / "check_slow"))]
    yield measured(
        f"{AT_ONCE} plugins at once, without a daemon: from the last word to its end", bare, "ms"
    )
    yield Row(
        f"{AT_ONCE} plugins at once, without a daemon: the same, 99 of 100",
        sorted(bare)[int(0.99 * len(bare))],
        None,
        "ms",
    )
    for count in (1, AT_ONCE):
        what = f"{count} {'question' if count == 1 else 'questions at once'}"
        yield measured(f"{what}: from the question to the plugin's first word", early[count], "ms")
        yield measured(f"{what}: from the plugin's last word to the answer", late[count], "ms")
        most = sorted(late[count])[int(0.99 * len(late[count]))]
        promised = (f"≤ {ADDED:g}", most <= ADDED) if count == AT_ONCE else ("", None)
        yield Row(f"{what}: the same, 99 of 100", most, None, "ms", *promised)


def _bare(plugin: str) -> list[float]:
    """Start `plugin` many times and wait for all; return the ms from the last word to the end of output, for each."""
    selector = selectors.DefaultSelector()
    for _ in range(AT_ONCE):
        ours, theirs = os.pipe()
        selector.register(ours, selectors.EVENT_READ, b"")
        os.posix_spawn(
            plugin,
            [plugin, "h"],
            dict(ENVIRONMENT),
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 1)],
        )
        os.close(theirs)
    late = []
    while selector.get_map():
        for key, _ in selector.select():
            if data := os.read(key.fd, 4096):
                selector.modify(key.fd, selectors.EVENT_READ, key.data + data)
                continue
            late.append((time.time() - float(key.data.split()[2])) * 1000)
            selector.unregister(key.fd)
            os.close(key.fd)
            os.wait()
    return late
