"""What the files in alert.d say: who is told of which tests, and when."""

from __future__ import annotations

import calendar
import time
from pathlib import Path

import pytest

from dmonitor.config import audit
from dmonitor.config.cluster import Cluster
from dmonitor.config.configuration import Configuration, load_configuration
from dmonitor.config.problems import Problems, Severity
from dmonitor.config.recipients import load_recipients, outside_hours
from dmonitor.core.model import Node, Test, node_test
from dmonitor.core.wants import Audience, Pattern, Wants, digest_recipients

ADDRESS = "jo@example.com"
HTTP = Test("www.example.com", "http")
CERT = Test("www.example.com", "cert")
DB = Test("db1.example.com", "mysql")
ROME = node_test("rome.example.com")


def write(tmp_path: Path, text: str, name: str = ADDRESS, mode: int = 0o644) -> Path:
    """Write a file in alert.d."""
    file = tmp_path / "alert.d" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def read(tmp_path: Path, text: str) -> Wants:
    """Return what the file of an address says, in which there is no mistake."""
    write(tmp_path, text)
    problems = Problems()
    addresses, wants = load_recipients(str(tmp_path), problems)
    assert addresses == (ADDRESS,) and not problems
    return wants.get(ADDRESS, Wants())


@pytest.mark.parametrize("text", ["", "\n", "# jo's mobile\n", "   \n\n# ONLY=x\n"])
def test_an_empty_file_wants_everything_at_once(tmp_path: Path, text: str) -> None:
    wants = read(tmp_path, text)
    assert wants == Wants() and wants.circle == ""
    assert all(map(wants.covers, (HTTP, CERT, DB, ROME)))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ONLY=db*.example.com */http", {DB, HTTP}),
        ("ONLY=db*.example.com\nONLY=*/http\n", {DB, HTTP}),
        ("NOT=*/cert", {HTTP, DB, ROME}),
        ("ONLY=www.example.com\nNOT=*/cert", {HTTP}),
        ("ONLY=WWW.example.com", set()),
        ("ONLY = db?.example.com", {DB}),
        ("ONLY=node", {ROME}),
        ("ONLY=node/rome*", {ROME}),
        ("ONLY=rome*", set()),
        ("NOT=node", {HTTP, CERT, DB}),
    ],
)
def test_patterns_choose_tests(tmp_path: Path, text: str, told: set[Test]) -> None:
    wants = read(tmp_path, text)
    assert {test for test in (HTTP, CERT, DB, ROME) if wants.covers(test)} == told


def test_times_make_a_circle(tmp_path: Path) -> None:
    late = read(tmp_path, "AFTER=30min\n")
    assert late.after == 1800.0 and late.circle
    assert read(tmp_path, "ONLY=db*\nAFTER=30m").circle == late.circle, "patterns make none"
    office = read(tmp_path, "HOURS=08:00-20:00 mon-fri")
    assert office.circle not in ("", late.circle)
    assert read(tmp_path, "HOURS=08:00-20:00").circle != office.circle
    assert read(tmp_path, "HOURS=08:00-20:00 mon-fri\nAFTER=30min").circle != office.circle


def test_hours_hold_and_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        office = read(tmp_path, "HOURS=08:00-20:00 mon-fri\nHOURS=10:00-12:00 sat")
        friday = float(calendar.timegm((2026, 11, 27, 19, 59, 0)))
        assert not office.is_outside_hours(friday)
        assert office.is_outside_hours(friday + 60.0)
        assert office.told_at(friday) == friday
        saturday = calendar.timegm((2026, 11, 28, 10, 0, 0))
        assert office.told_at(friday + 60.0) == saturday
        wants = {ADDRESS: office, "b@example.com": Wants(after=60.0)}
        assert outside_hours(wants, friday) == frozenset()
        assert outside_hours(wants, friday + 60.0) == {office.circle}
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("everything", 1, "'everything' says nothing; write ONLY=PATTERN"),
        ("\nONYL=db*", 2, "did you mean ONLY?"),
        ("ONLY=", 1, "no pattern for HOST or HOST/TEST"),
        ("NOT=/http", 1, "'/http' is no pattern"),
        ("NOT=a/b/c", 1, "'a/b/c' is no pattern"),
        ("NOT=www/", 1, "'www/' is no pattern"),
        ("HOURS=8-20", 1, "'8-20' is no hours; write 08:00-20:00"),
        ("HOURS=08:00-20:00 monday", 1, "'monday' is no day"),
        ("AFTER=soon", 1, "not a time from 1m to 7d"),
        ("AFTER=8d", 1, "not a time from 1m to 7d"),
        ("AFTER=30min\nAFTER=1h", 2, "a second AFTER"),
        ("only=db*", 1, "'only=db*' says nothing"),
    ],
)
def test_a_mistake_is_named_and_its_address_told_everything(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    write(tmp_path, f"{text}\nNOT=*\n")
    write(tmp_path, "NOT=*/cert\n", "other@example.com")
    problems = Problems()
    addresses, wants = load_recipients(str(tmp_path), problems)
    assert addresses == (ADDRESS, "other@example.com")
    assert list(wants) == ["other@example.com"], "the mistake costs nobody else"
    (problem,) = problems
    assert problem.severity is Severity.ERROR and problem.line == line
    assert words in problem.text and "told everything, at once" in problem.text
    assert not problems.unreadable


def test_a_hook_says_it_in_its_head(tmp_path: Path) -> None:
    head = "#!/bin/sh\n# A hook.\n# dmonitor: ONLY=db* */http\n\n#dmonitor: NOT=no\n# dmonitor: AFTER=1h\n"
    write(tmp_path, f"{head}true\n# dmonitor: NOT=*\n", "hook", 0o755)
    problems = Problems()
    addresses, wants = load_recipients(str(tmp_path), problems)
    assert not problems and addresses == ("hook:hook",)
    said = wants["hook:hook"]
    assert said.only == (Pattern("db*", "ONLY", 3), Pattern("*/http", "ONLY", 3))
    assert said.never == () and said.after == 3600.0
    assert said.times == ("line 6: AFTER=1h",)


def test_a_mistake_in_a_hooks_head_is_named(tmp_path: Path) -> None:
    write(tmp_path, "#!/bin/sh\n# dmonitor: ONLI=x\n", "hook", 0o755)
    write(tmp_path, "\x7fELF\x00\x01", "program", 0o755)
    problems = Problems()
    addresses, wants = load_recipients(str(tmp_path), problems)
    assert addresses == ("hook:hook", "hook:program") and not wants
    (problem,) = problems
    assert problem.line == 2 and "did you mean ONLY?" in problem.text


def test_a_script_that_is_not_executable_is_not_read_for_lines(tmp_path: Path) -> None:
    """`dmonitor-check -t` says what is wrong with it."""
    assert read(tmp_path, "#!/bin/sh\nexec logger hello\n") == Wants()


def audience(**wants: Wants) -> Audience:
    return Audience(
        ("a", "b", "hook:h"), {name.replace("_", ":"): each for name, each in wants.items()}
    )


def test_who_is_told() -> None:
    only_db = Wants(only=(Pattern("db*"),))
    assert audience().recipients(HTTP) == ["a", "b"]
    assert audience().hooks(HTTP, "") == ["hook:h"]
    assert audience(a=only_db).recipients(HTTP) == ["b"]
    nobody_mailed = audience(a=only_db, b=only_db)
    assert nobody_mailed.recipients(HTTP) == ["hook:h"], "else nobody would have it run"
    assert nobody_mailed.recipients(DB) == ["a", "b"]
    late = Wants(after=60.0)
    later = audience(b=late, hook_h=late)
    assert later.recipients(HTTP) == ["a"] and later.hooks(HTTP, "") == []
    assert later.recipients(HTTP, late.circle) == ["b"]
    assert later.hooks(HTTP, late.circle) == ["hook:h"]
    assert later.after == {late.circle: 60.0}


def test_what_is_wanted_is_a_part_of_the_digest() -> None:
    plain = digest_recipients((ADDRESS,), {})
    only = Wants(only=(Pattern("db*", line=1),))
    assert digest_recipients((ADDRESS,), {ADDRESS: only}) != plain
    moved = only._replace(only=(Pattern("db*", line=7),))
    assert digest_recipients((ADDRESS,), {ADDRESS: moved}) == digest_recipients(
        (ADDRESS,), {ADDRESS: only}
    )


def examined(tmp_path: Path) -> tuple[Configuration, list[str]]:
    """Return a configuration with three tests, and what -t says of its alert.d."""
    for test in (HTTP, CERT, DB):
        file = tmp_path / "hosts.d" / test.host / test.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    configuration = load_configuration(str(tmp_path))
    me = Node("oslo.example.com", "oslo.example.com")
    cluster = Cluster(me, (), True, {me.name: ()}, frozenset({me.name}), ())
    problems = Problems()
    audit._examine_recipients(configuration, cluster, problems)
    return configuration, [each.statement.removeprefix(f"{tmp_path}/") for each in problems]


def test_the_audit_names_what_matches_nothing_and_what_nobody_is_told_of(tmp_path: Path) -> None:
    write(tmp_path, "ONLY=*/http db9*\nNOT=oslo*\n")
    write(tmp_path, "ONLY=node\nAFTER=1h\n", "late@example.com")
    _, said = examined(tmp_path)
    assert said == [
        f"alert.d/{ADDRESS}:1: ONLY=db9* matches no test and no node",
        f"alert.d/{ADDRESS}:2: NOT=oslo* matches no test and no node",
        f"alert.d: nobody is told of {DB}; touch an address, or change its ONLY and NOT",
        f"alert.d: nobody is told of {CERT}; touch an address, or change its ONLY and NOT",
    ]


def test_the_audit_says_nothing_where_all_is_told(tmp_path: Path) -> None:
    write(tmp_path, "NOT=*/cert\n")
    write(tmp_path, "", "all@example.com")
    configuration, said = examined(tmp_path)
    assert configuration.wants and not said
