"""How long looks take: what is kept of it, where, and what a lost or full disk costs."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from local_nodes import LocalNode, Place, run_as, running
from test_mail import BEGAN, DOWN, STILL_DOWN, ZONE, incident, owed
from test_operator import SCHEMA, Said, view

from dmonitor.base import log, names
from dmonitor.core import mail
from dmonitor.core.durations import SLOT, SLOTS, Look, Times, Trend, looked, slot_of
from dmonitor.core.model import Kind, Outcome, Result, Test
from dmonitor.operator import metrics, report, terminal
from dmonitor.store import durations

WEB, PING = Test("www.example.com", "web"), Test("www.example.com", "ping")
NOW = 1_800_000_000.0  # a slot begins
OK = Result(Outcome.OK, "", 0.14)


def look_at(
    run_dir: Path, at: float, result: Result = OK, test: Test = WEB
) -> durations.Ended | None:
    return durations.keep(str(run_dir), {test: result}, {WEB, PING}, at)


def play(directory: Path, seconds: list[float], began: float = NOW) -> float:
    """Look once in each slot, for so many seconds; return the beginning of the slot after them."""
    for number, duration in enumerate(seconds):
        at = began + number * SLOT
        ended = look_at(directory, at, OK._replace(duration=duration))
        if ended:
            durations.add(str(directory), ended, {WEB, PING}, at)
    at = began + len(seconds) * SLOT
    ended = look_at(directory, at)
    assert ended
    durations.add(str(directory), ended, {WEB, PING}, at)
    return at


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []

    def warning(event: str, **facts: object) -> None:
        lines.append(f"{event} {facts['reason']}")

    monkeypatch.setattr(log, "warning", warning)
    return lines


def test_the_last_look_at_each_test_is_kept(tmp_path: Path) -> None:
    look_at(tmp_path, NOW)
    look_at(tmp_path, NOW + 60, Result(Outcome.TIMEOUT, "", 10.0))
    look_at(tmp_path, NOW + 90, test=PING)
    found = durations.last_looks(str(tmp_path), 5.0)
    assert found[WEB] == Look(Outcome.TIMEOUT, NOW + 65, 10.0, 2, (0.14,))
    assert found[PING].runs == 1
    assert os.listdir(tmp_path) == [durations.LAST_LOOKS], "and no draft is left"


def test_what_was_not_run_is_no_look(tmp_path: Path) -> None:
    look_at(tmp_path, NOW)
    look_at(tmp_path, NOW + 60, Result(Outcome.UNKNOWN, "no such plugin"))
    look = durations.last_looks(str(tmp_path), 0.0)[WEB]
    assert (look.outcome, look.at, look.runs) == (Outcome.OK, NOW, 1)


def test_a_removed_test_is_forgotten(tmp_path: Path) -> None:
    at = play(tmp_path, [0.1])
    ended = durations.keep(str(tmp_path), {PING: OK}, {PING}, at + SLOT)
    assert ended and durations.last_looks(str(tmp_path), 0.0).keys() == {PING}
    durations.add(str(tmp_path), ended, {PING}, at + SLOT)
    assert WEB not in durations.trends(str(tmp_path), at + SLOT)


@pytest.mark.parametrize("run_dir", [None, "/nowhere/at/all"])
def test_without_a_run_directory_nothing_is_kept(run_dir: str | None, logged: list[str]) -> None:
    assert durations.keep(run_dir, {WEB: OK}, {WEB}, NOW) is None
    assert durations.last_looks(run_dir, 0.0) == {} and logged == []


def test_the_line_has_the_median_and_the_maximum_of_five_minutes(tmp_path: Path) -> None:
    for number, seconds in enumerate([0.2, 9.0, 0.1]):
        look_at(tmp_path, NOW + 60 * number, OK._replace(duration=seconds))
    look_at(tmp_path, NOW + 240, Result(Outcome.TIMEOUT, "", 10.0))
    ended = look_at(tmp_path, NOW + 300)
    assert ended and ended.times[WEB] == (0.2, 9.0), "the TIMEOUT is a gap, and no duration"
    durations.add(str(tmp_path), ended, {WEB}, NOW + 301)
    trend = durations.trends(str(tmp_path), NOW + 301)[WEB]
    assert (trend.medians[-1], trend.longest[-1]) == (0.2, 9.0)
    assert not any(trend.medians[:-1]) and trend.usual() == 0.2


def test_the_line_moves_on_and_ends_after_a_day(tmp_path: Path) -> None:
    at = play(tmp_path, [0.001 * (number + 1) for number in range(SLOTS + 12)])
    trend = durations.trends(str(tmp_path), at)[WEB]
    assert (trend.medians[0], trend.medians[-1]) == pytest.approx((0.013, 0.3))
    later = durations.trends(str(tmp_path), at + 2 * SLOT)[WEB]
    assert later.medians[-3:] == pytest.approx([0.3, 0, 0]), "the node was off"
    assert durations.trends(str(tmp_path), at + 86400)[WEB].usual() is None
    earlier = durations.trends(str(tmp_path), at - 2 * SLOT)[WEB]
    assert earlier.medians[-1] == pytest.approx(0.298), "the clock went back"


def test_a_line_in_fewer_points_keeps_the_maxima() -> None:
    medians, longest = [0.0] * SLOTS, [0.0] * SLOTS
    medians[-6:], longest[-6:] = [0.1, 0.2, 0.3, 0, 0, 0.4], [0.1, 0.2, 7.0, 0, 0, 0.4]
    points = Trend(medians, longest).points(48)
    assert len(points) == 48 and points[-1] == (0.25, 7.0) and not any(points[:-1])


def test_a_thousand_tests_stay_under_5_mb(tmp_path: Path) -> None:
    tests = {Test(f"host{number}.example.com", "x" * 60) for number in range(1000)}
    for at in (NOW, NOW + SLOT):
        ended = durations.keep(str(tmp_path), dict.fromkeys(tests, OK), tests, at)
    assert ended
    durations.add(str(tmp_path), ended, tests, NOW + SLOT)
    size = (tmp_path / durations.DURATIONS).stat().st_size
    assert 1_000_000 < size < 5_000_000
    assert len(durations.trends(str(tmp_path), NOW + SLOT)) == 1000


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    match how:
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(content[:-1])
        case "random":
            path.write_bytes(os.urandom(3000))
        case "of another version":
            path.write_bytes(content.replace(b'"version": 1', b'"version": 9'))
        case "hostile":
            path.write_bytes(b'{"version": 1, "slot": 1e99, "tests": [[[[]]]]}\n')
        case "a FIFO":
            path.unlink()
            os.mkfifo(path)


@pytest.mark.parametrize(
    "how", ["empty", "truncated", "random", "of another version", "hostile", "a FIFO"]
)
def test_a_broken_line_is_named_once_and_begins_anew(
    how: str, tmp_path: Path, logged: list[str]
) -> None:
    at = play(tmp_path, [0.1, 0.1])
    path = tmp_path / durations.DURATIONS
    spoil(path, how)
    assert durations.trends(str(tmp_path), at) == {}, "a reader shows none"
    ended = durations.Ended(slot_of(at), {WEB: Times(0.2, 0.3)})
    for _ in range(3):
        durations.add(str(tmp_path), ended, {WEB}, at + SLOT)
    assert len(logged) == 1 and "durations-unusable" in logged[0], logged
    assert "the line begins anew" in logged[0]
    assert durations.trends(str(tmp_path), at + SLOT)[WEB].usual() == 0.2


@pytest.mark.parametrize("how", ["empty", "truncated", "random", "hostile"])
def test_broken_last_looks_begin_anew(how: str, tmp_path: Path, logged: list[str]) -> None:
    look_at(tmp_path, NOW)
    spoil(tmp_path / durations.LAST_LOOKS, how)
    look_at(tmp_path, NOW + 60)
    look_at(tmp_path, NOW + 120)
    assert len(logged) == 1 and "last-looks-unusable" in logged[0]
    assert durations.last_looks(str(tmp_path), 0.0)[WEB].runs == 2


def test_a_full_disk_costs_the_line_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    at = play(tmp_path, [0.1])
    before = (tmp_path / durations.DURATIONS).read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    durations.add(str(tmp_path), durations.Ended(slot_of(at), {}), {WEB}, at + SLOT)
    assert logged == [
        "durations-not-stored [Errno 28] No space left on device; this costs only the line of a day"
    ]
    assert (tmp_path / durations.DURATIONS).read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == [durations.DURATIONS, durations.LAST_LOOKS]


def test_a_reader_never_sees_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a round is about to put in its place, the old file is whole until then."""
    at = play(tmp_path, [0.1])
    seen = []
    replace = os.replace

    def look_first(source: str, target: str) -> None:
        seen.append(durations.trends(str(tmp_path), at)[WEB].usual())
        replace(source, target)

    monkeypatch.setattr(os, "replace", look_first)
    ended = durations.Ended(slot_of(at), {WEB: Times(0.3, 0.3)})
    durations.add(str(tmp_path), ended, {WEB}, at + SLOT)
    assert seen == [0.1]
    assert durations.trends(str(tmp_path), at + SLOT)[WEB].usual() == pytest.approx(0.2)


def test_the_numbers_of_the_line_are_bounded(tmp_path: Path) -> None:
    durations.add(
        str(tmp_path), durations.Ended(slot_of(NOW), {WEB: Times(0.0001, 1e9)}), {WEB}, NOW + SLOT
    )
    body = (tmp_path / durations.DURATIONS).read_bytes().partition(b"\n")[2]
    numbers = struct.unpack(f"<{2 * SLOTS}H", body)
    assert (numbers[SLOTS - 1], numbers[-1]) == (1, 65535)


def test_only_some_looks_of_a_slot_are_kept() -> None:
    look = None
    for _ in range(1000):
        look = looked(look, OK, NOW)
    assert look and look.runs == 1000 and len(look.recent) == 30


# What is shown.


def seen() -> report.NodeReport:
    node = view()
    look = Look(Outcome.FAIL, node.now - 20, 0.0342, 7)
    medians = [0.0] * (SLOTS - 2) + [0.14, 0.14]
    return node._replace(looks={WEB: look}, trends={WEB: Trend(medians, medians)})


def test_how_long_a_look_took_is_shown() -> None:
    paint = terminal.Paint(False)
    status = report.status(seen())
    (facts,) = status["tests"]
    assert (facts["duration"], facts["runs"], facts["last_run_age"]) == (0.0342, 7, 20)
    head, row = terminal.status(status, paint)[-2:]
    assert head.split()[:4] == ["STATE", "TEST", "TOOK", "SINCE"] and "  34 ms  " in row
    why = report.why(seen(), WEB, [], [])
    told = "The last look here took 34 ms, 20 s ago; usually one that passes takes 0.14 s."
    assert told in terminal.why(why, paint)


@pytest.mark.parametrize(("width", "shown"), [(80, False), (99, False), (100, True), (160, True)])
def test_a_narrow_terminal_leaves_it_out(width: int, shown: bool) -> None:
    status = report.status(seen())
    for test in status["tests"]:
        test["text"] = "x" * 200
    lines = terminal.status(status, terminal.Paint(False, width))
    assert ("34 ms" in lines[-1]) is shown and max(map(len, lines)) <= width


def test_what_is_not_known_has_no_column() -> None:
    status = report.status(view())
    assert status["tests"][0]["duration"] is None
    assert "TOOK" not in "\n".join(terminal.status(status, terminal.Paint(False)))
    lines = terminal.why(report.why(view(), WEB, [], []), terminal.Paint(False))
    assert not [line for line in lines if "took" in line]


def test_metrics_have_durations_times_and_counters() -> None:
    status = report.status(seen())
    told = metrics.metrics(status, {}, {str(WEB): 1_799_999_980.0})
    labels = '{host="www.example.com",test="web"}'
    assert f"dmonitor_test_duration_seconds{labels} 0.0342\n" in told
    assert f"dmonitor_test_last_look_timestamp_seconds{labels} 1799999980\n" in told
    assert (
        f"# TYPE dmonitor_test_looks_total counter\ndmonitor_test_looks_total{labels} 7\n" in told
    )
    assert f"dmonitor_flakes_total{labels} 0\n" in told


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0001, "1 ms"), (0.034, "34 ms"), (0.0999, "0.10 s"), (10.004, "10.00 s")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert names.duration(seconds) == text


# What a mail says.


@pytest.mark.parametrize("timed_out", [True, False])
def test_the_mail_of_a_timeout_says_what_is_usual(timed_out: bool) -> None:
    """It says so and changes nothing else: the Message-ID, by which a double is known, above all."""
    down = incident("web", opening=DOWN if timed_out else STILL_DOWN)
    told = [owed(Kind.ALERT, down)]
    facts: Any = {"node": "oslo", "now": BEGAN + 60, "sender": "dmonitor@example.com", "zone": ZONE}
    without = mail.compose(told, **facts)
    with_it = mail.compose(told, **facts, usual={down.test: 0.14})
    sentence = b"\nIt usually takes 0.14 s on oslo."
    assert (sentence in with_it) is timed_out
    assert with_it.replace(sentence, b"") == without


# Real nodes.


def test_rounds_keep_it_and_everything_shows_it(three: list[LocalNode], place: Place) -> None:
    node = three[0]
    run_dir = place.writable("run")
    node.also = ("--run", str(run_dir))
    said = Said(node)
    node.test("www.example.com/web")
    node.plugin("web", "sleep 0.2; echo OK fine")
    with running(three):
        node.round()
        node.round()
    path = run_dir / durations.LAST_LOOKS
    assert path.stat().st_uid == run_as().pw_uid and path.stat().st_mode & 0o777 == 0o640
    (facts,) = [each for each in said.json("status")["tests"] if each["name"] == "web"]
    assert facts["runs"] == 2 and facts["duration"] >= 0.2 and facts["last_run_age"] < 60
    assert not (node.state / durations.DURATIONS).exists(), "no disk write a round"
    # Five minutes pass, as far as the files know.
    kept = path.read_text()
    slot = int(kept.partition('"slot":')[2].partition(",")[0])
    path.write_text(kept.replace(f'"slot":{slot}', f'"slot":{slot - 1}'))
    with running(three):
        node.round()
    why = said.json("why", "www.example.com/web")
    assert why["usual_duration"] >= 0.2 and why["duration"] >= 0.2
    assert 'dmonitor_test_looks_total{host="www.example.com",test="web"} 3\n' in said(
        "metrics", "-"
    )


def test_the_schema_names_them() -> None:
    assert {"duration", "last_run", "runs"} <= set(SCHEMA["$defs"]["test"]["required"])
