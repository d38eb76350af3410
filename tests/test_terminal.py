"""What fits a terminal: tables are cut and never wrapped, whatever the texts in them are."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import unicodedata
from collections.abc import Sequence
from typing import Any

import pytest
from local_nodes import LocalNode, Place

from dmonitor.operator import columns, terminal
from dmonitor.operator.columns import Column, Cut

LONG_HOST = "a" * 30 + "." + "b" * 32  # 63 characters
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PLAIN = terminal.Paint(False)


def seen_width(line: str) -> int:
    """Return the columns that a terminal needs for LINE, in which only colours are escapes."""
    shown = COLOUR.sub("", line)
    assert shown.isprintable(), repr(line)
    wide = sum(unicodedata.east_asian_width(character) in "FW" for character in shown)
    return len(shown) + wide


def ability(**more: Any) -> dict[str, Any]:
    return {
        "node": "oslo.example.com",
        "now": "2026-11-29T03:12:06+01:00",
        "can_alert": True,
        "why_not": [],
        "peers": 2,
        "reached": ["paris", "rome"],
        "quorum": 2,
        "stale": False,
        "interval": 1,
        "last_round": "2026-11-29T03:12:00+01:00",
        "last_round_age": 6.0,
        "addresses": ["root"],
        "owed": 0,
        "refused_in_a_row": 0,
        "stored": True,
        "not_stored": "",
        "whole": True,
        "troubles": [],
        **more,
    }


def a_test(name: str, state: str, text: str, **more: Any) -> dict[str, Any]:
    host, _, test = name.partition("/")
    return {
        "test": name,
        "host": host,
        "name": test,
        "state": state,
        "here": "OK" if state == "UP" else "FAIL",
        "since": "2026-11-28T01:02:03+01:00",
        "seconds": 94_203,
        "text": text,
        "silences": [],
        "behind": [],
        "acknowledged": None,
        "look_age": None,
        "duration": None,
        "flakes": 0,
        "last_flake_age": None,
        **more,
    }


def a_peer(node: str, **more: Any) -> dict[str, Any]:
    return {
        "node": node,
        "site": node,
        "address": "203.0.113.7",
        "reached": True,
        "reason": "",
        "latency": 0.012,
        "version": "0.4.0",
        "clock": 0.1,
        "last_round_age": 34.0,
        "key": "9ee3c6be2b9b943b",
        "drift": [],
        **more,
    }


THREE = [
    a_test("www.example.com/http", "DOWN", "connection refused"),
    a_test("mail.example.com/smtp", "UP", "no mail tool", here="UNKNOWN"),
    a_test("node/rome.example.com", "UP", "last round 34 s ago"),
]
HOSTILE = (
    "\x1b[31mred\x1b[2J\rgone \u202e" + "x" * 200,
    "漢字テスト" * 40,
    "DOWN " + "word " * 40,
    "",
)
QUIET = {"node": "paris", "until": None, "age": 7200, "reason": HOSTILE[2]}
SIXTY = [
    a_test(f"{LONG_HOST}/{'t' * 63}", "DOWN", HOSTILE[1], silences=[QUIET]),
    a_test(f"{LONG_HOST}/http", "UNCONFIRMED", HOSTILE[0]),
    *[a_test(f"host{each:02}.example.com/ping", "UP", HOSTILE[each % 4]) for each in range(58)],
]
PEERS = [
    a_peer(
        LONG_HOST,
        site="s" * 63,
        address="2001:db8:1234:5678:9abc:def0:1234:5678",
        drift=["hosts.d", "nodes.txt", "alert.d"],
    ),
    a_peer(
        "rome.example.com",
        reached=False,
        reason=HOSTILE[0],
        version=None,
        clock=None,
        last_round_age=None,
    ),
]
TROUBLED = ability(
    node=LONG_HOST,
    can_alert=False,
    why_not=["alert.d names no address"],
    troubles=[
        {"since": "2026-11-28T01:02:03+01:00", "text": f"{HOSTILE[2]} /{'p' * 300}", "told": []}
    ],
)
VIEWS = {
    **ability(),
    "nodes": [f"{LONG_HOST}.{each}" for each in range(7)],
    "tests": [
        {
            "state": "UNCONFIRMED",
            "test": f"{LONG_HOST}/http",
            "evidence": {"answers": [{"node": f"{LONG_HOST}.3", "sees": "no-answer"}]},
        }
    ],
}


@pytest.mark.parametrize("width", [80, 160, 40, 30])
@pytest.mark.parametrize(
    ("table", "facts"),
    [
        (terminal.status, {**ability(), "tests": THREE}),
        (terminal.status, {**TROUBLED, "tests": SIXTY}),
        (terminal.views, VIEWS),
        (terminal.peers, {"peers": [a_peer("paris"), a_peer("rome")]}),
        (terminal.peers, {"peers": PEERS}),
        (
            terminal.silences,
            {
                "silences": [{**QUIET, "what": f"{LONG_HOST}/http", "node": LONG_HOST}],
                "planned": [],
            },
        ),
    ],
)
def test_nothing_is_wider_than_the_terminal(table: Any, facts: Any, width: int) -> None:
    shown = terminal.printable(facts)
    lines = table(shown, terminal.Paint(True, width))
    assert len(lines) > 1 and max(map(seen_width, lines)) <= width, lines
    whole = table(shown, PLAIN)
    assert width > 80 or max(map(seen_width, whole)) > 30, "there was something to cut"
    texts = [test.get("text") for test in shown.get("tests", ())]
    assert all(any(text in line for line in whole) for text in texts if text), "a pipe gets it all"


def test_every_test_has_its_line_and_its_name_however_narrow() -> None:
    facts = terminal.printable({**TROUBLED, "tests": SIXTY})
    lines = terminal.status(facts, terminal.Paint(False, 80))
    table = lines[lines.index("") + 1 :]
    assert table[0].split() == ["STATE", "TEST", "FOR", "TEXT"] and len(table) == 61
    assert re.match(r"DOWN +a+…t+ +1 d 2 h +\[silenced by paris until ", table[1]), table[1]
    assert re.match(r"UNCONFIRMED +a+…b*/http +1 d 2 h +\\x1b\[31mred", table[2]), table[2]
    assert all(f" host{each:02}.example.com/ping " in table[3 + each] for each in range(58))
    prose = " ".join(line.strip() for line in lines[: lines.index("")])
    assert "alert.d names no address" in prose and prose.count("word ") == 40, "prose is not cut"


def test_what_fits_is_whole_and_says_since_when() -> None:
    facts = {**ability(), "tests": THREE}
    assert terminal.status(facts, terminal.Paint(False, 160)) == terminal.status(facts, PLAIN)
    assert terminal.status(facts, PLAIN)[-4:] == [
        "STATE              TEST                   SINCE                          TEXT",
        "DOWN               www.example.com/http   2026-11-28 01:02:03 (1 d 2 h)  connection refused",
        "UP (unknown here)  mail.example.com/smtp  2026-11-28 01:02:03 (1 d 2 h)  no mail tool",
        "UP                 node/rome.example.com  2026-11-28 01:02:03 (1 d 2 h)  last round 34 s ago",
    ]


def test_of_the_peers_what_matters_most_is_left() -> None:
    facts = {"peers": [a_peer("paris.example.com", drift=["hosts.d", "alert.d"])]}
    titles = terminal.peers(facts, terminal.Paint(False, 80))[0].split("  ")
    assert [title.strip() for title in titles if title] == [
        "NODE",
        "ANSWER",
        "LAST ROUND",
        "KEY",
        "DRIFT",
    ]
    assert "SITE" in terminal.peers(facts, PLAIN)[0]


def test_only_words_of_dmonitor_have_a_colour() -> None:
    facts = {**ability(), "tests": [a_test("www.example.com/http", "LOCAL", "DOWN is what I say")]}
    line = terminal.status(facts, terminal.Paint(True, 80))[-1]
    assert COLOUR.findall(line) == ["\x1b[33m", "\x1b[0m"] and "DOWN is what I say" in line
    assert line.startswith("\x1b[33mLOCAL\x1b[0m  ")


def test_a_table() -> None:
    head = (Column("A", is_state=True), Column("BB"))
    assert columns.table(head, [("xxx", "y"), ("z", "")], PLAIN) == ["A    BB", "xxx  y", "z"]
    painted = columns.table(head[:1], [("DOWN",)], terminal.Paint(True))
    assert painted == ["A", "\x1b[1;31mDOWN\x1b[0m"]


def test_cutting() -> None:
    assert columns.cut("www.example.com", 15) == "www.example.com"
    assert columns.cut("www.example.com", 14) == "www.example.c…"
    assert columns.cut("www.example.com", 9, Cut.MIDDLE) == "www.….com"
    assert columns.cut("漢字テスト", 9) == "漢字テス…"
    assert columns.cut("漢字テスト", 8) == "漢字テ…", "half a character is none"
    assert columns.cut("e\u0301" * 9, 9) == "e\u0301" * 9, "an accent takes no room"
    assert [columns.cut("abc", width) for width in (2, 1, 0)] == ["a…", "…", ""]


def test_folding() -> None:
    assert columns.fold("one two three", None) == ["one two three"]
    assert columns.fold("one two three", 9) == ["one two", "  three"]
    assert columns.fold("a 漢字テスト", 8) == ["a 漢字テ", "  スト"]


class Screen:
    """A terminal in which a program of a node runs."""

    def __init__(self, width: int) -> None:
        self.width = width

    def run(self, command: Sequence[str], environment: dict[str, str]) -> tuple[int, list[str]]:
        """Return the exit status of COMMAND, and the lines that it printed."""
        reader, terminal_fd = pty.openpty()
        fcntl.ioctl(terminal_fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, self.width, 0, 0))
        with subprocess.Popen(
            command,
            env=environment,
            stdin=terminal_fd,
            stdout=terminal_fd,
            stderr=terminal_fd,
            start_new_session=True,
        ) as ran:
            os.close(terminal_fd)
            printed = b""
            while True:
                try:
                    piece = os.read(reader, 65536)
                except OSError:  # it has ended
                    break
                printed += piece
            os.close(reader)
        return ran.returncode, printed.decode().replace("\r\n", "\n").splitlines()


@pytest.mark.parametrize("width", [80, 160, 0])
def test_on_a_real_terminal(place: Place, width: int) -> None:
    node = LocalNode(place, "127.0.0.31", ["127.0.0.31"])
    text = "漢字 " * 60 + "the end"
    node.plugin("web", f"printf '%s\\n' 'FAIL \x1b[2J{text}'\n")
    node.plugin("ssh", "echo OK fine\n")
    node.test(f"{LONG_HOST}/web")
    node.test("www.example.com/ssh")
    node.mail()
    node.round()
    environment = {**node.place.environment(), "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    command = node.command("dmonitor", "status")
    status, lines = Screen(width).run(command, environment)
    assert status == 0 and max(map(seen_width, lines)) <= (width or 80), lines
    (shown,) = [line for line in lines if "\\x1b[2J漢字" in line]
    assert "…" in shown and "/web" in shown and "the end" not in shown
    assert any("\x1b[32mUP" in line for line in lines), "that was a terminal"
    narrow = Screen(width).run(command, {**environment, "COLUMNS": "60"})
    assert max(map(seen_width, narrow[1])) <= 60, "COLUMNS counts"

    def piped(**more: str) -> str:
        return subprocess.run(
            command, env=environment | more, capture_output=True, text=True, check=True
        ).stdout

    assert "the end" in piped() and "…" not in piped() and "\x1b" not in piped()
    assert max(map(seen_width, piped(COLUMNS="60").splitlines())) <= 60, "watch(1) sets it"
    latin = piped(COLUMNS="60", PYTHONIOENCODING="latin-1")
    assert max(map(seen_width, latin.splitlines())) <= 60 and "?" in latin


def test_a_round_at_a_terminal_says_what_it_does(place: Place) -> None:
    node = LocalNode(place, "127.0.0.31", ["127.0.0.31"])
    node.plugin("web", "printf 'FAIL \\033[2J gone\\n'\n")
    node.plugin("ssh", "echo OK fine\n")
    for test in ("www.example.com/web", "www.example.com/ssh"):
        node.test(test)
    node.mail()
    command = node.command("dmonitor-check")
    status, lines = Screen(80).run(command, place.environment())
    said = [line.removeprefix("dmonitor-check: ") for line in lines]
    assert status == 0, lines
    assert said[0] == "a round begins: 2 tests, 1 node; what it has to tell is mailed"
    (verdict,) = [line for line in said if "test=www.example.com/web verdict=UNCONFIRMED" in line]
    assert verdict.startswith("verdict ") and "\\x1b[2J gone" in verdict
    end = r"the round has ended: 1 UP, 1 UNCONFIRMED; nothing owed; \d+\.\d s"
    assert re.fullmatch(end, said[-1]), said
    assert not any("\x1b" in line for line in lines)
    assert node.run("dmonitor-check", "--once").stderr.count("\n") == 0, "cron hears nothing"
