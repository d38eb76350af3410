"""Heartbeats: the URLs that a node asks after each round that has found it able to alert (rule R7)."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_nodes import LocalNode, Place, running

from dmonitor.config.heartbeats import load_heartbeats
from dmonitor.config.problems import Problems
from dmonitor.core import ability
from dmonitor.core.model import Node

SECRET = "/ping/5ecret"


class Outside(http.server.ThreadingHTTPServer):
    """Somebody outside, on loopback; it has the paths that it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def was_asked(self, count: int) -> bool:
        deadline = time.monotonic() + 5
        while len(self.asked) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        return len(self.asked) == count


class Handler(http.server.BaseHTTPRequestHandler):
    """Takes what begins with /ping, and refuses all else."""

    server: Outside

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200 if self.path.startswith("/ping") else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def outside() -> Iterator[Outside]:
    server = Outside()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def beats(node: LocalNode, **urls: str) -> None:
    directory = node.config / "heartbeat.d"
    directory.mkdir(exist_ok=True)
    for name, url in urls.items():
        (directory / name).write_text(f"# one line\n{url}\n")


def test_a_node_that_can_alert_says_so_outside(
    three: list[LocalNode], place: Place, outside: Outside
) -> None:
    first = three[0]
    beats(first, one=outside.url(SECRET), two=outside.url("/gone"))
    assert first.run("dmonitor-check", "-v", "--once").returncode == 0
    assert outside.asked == [], "no peer answers, so it can alert nobody"
    with running(three[1:]):
        for node in three[1:]:
            node.round()
        log = first.run("dmonitor-check", "-vv", "--once").stderr
        assert outside.was_asked(2)
    assert sorted(outside.asked) == ["/gone", SECRET]
    assert 'heartbeat-lost name=two reason="404 Not Found"' in log
    assert SECRET not in log


def test_a_url_that_hangs_keeps_no_round(three: list[LocalNode], place: Place) -> None:
    """It is asked by a process of its own."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf, running(three[1:]):
        for node in three[1:]:
            node.round()
        beats(three[0], deaf=f"http://127.0.0.1:{deaf.getsockname()[1]}/")
        with running(three[:1]):
            began = time.monotonic()
            a_round = three[0].popen("dmonitor-check", "--verbose", "--once")
            assert a_round.wait(20) == 0
            took = time.monotonic() - began
            assert three[0].run("dmonitor-check", "--once").returncode == 0, "the lock is free"
        deaf.settimeout(5)
        deaf.accept()[0].close()
    assert took < 7
    assert "heartbeat-lost name=deaf" in a_round.communicate(timeout=20)[1]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "has 0 lines"),
        ("# https://example.com/\n", "has 0 lines"),
        ("https://example.com/\nhttps://example.org/\n", "has 2 lines"),
        ("example.com/ping\n", "is no URL that begins with"),
        ("file:///etc/passwd\n", "is no URL that begins with"),
        ("https:///ping\n", "is no URL that begins with"),
        ("https://example.com/a b\n", "has spaces"),
        ("https://exämple.com/\n", "characters that are not ASCII"),
        ("https://[::1/\n", "is no URL"),
        ("https://example.com:99999/\n", "is no URL"),
    ],
)
def test_what_is_no_heartbeat(tmp_path: Path, content: str, fault: str) -> None:
    directory = tmp_path / "heartbeat.d"
    directory.mkdir()
    (directory / "good").write_text("https://example.com/ping\n")
    (directory / "bad").write_text(content)
    problems = Problems()
    assert load_heartbeats(str(tmp_path), problems) == {"good": "https://example.com/ping"}
    (problem,) = problems
    assert problem.path == f"{directory}/bad" and fault in problem.text


def test_no_heartbeat(tmp_path: Path) -> None:
    problems = Problems()
    assert load_heartbeats(str(tmp_path), problems) == {} and not problems
    (tmp_path / "heartbeat.d").symlink_to("/nonexistent")
    assert load_heartbeats(str(tmp_path), problems) == {} and len(problems) == 1


def test_what_a_node_lacks() -> None:
    nodes = [Node(name, name) for name in ("oslo", "paris")]

    def lacking(
        heard: set[str], *addresses: str, whole: bool = True, refused: int = 0
    ) -> list[str]:
        return ability.lacking(
            "oslo", nodes, heard, quorum=2, addresses=addresses, whole=whole, refused=refused
        )

    assert lacking({"paris"}, "root") == []
    alone = "1 site, its own included, answered in its last round; the quorum is 2"
    assert lacking(set(), "root") == [alone]
    assert len(lacking({"paris"}, whole=False, refused=3)) == 3
