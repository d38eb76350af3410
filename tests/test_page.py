"""The page: what comes first, what is folded in, what customers do not see, and how large it is.

tests/page/look shows it to a browser, and to axe.
"""

from __future__ import annotations

import datetime
import re
import runpy
import shutil
import subprocess
from html.parser import HTMLParser
from typing import Any

import pytest
from local_nodes import CHECKOUT, LocalNode, Place, running
from test_operator import Said, prepare

from dmonitor.core.durations import SLOTS, Trend
from dmonitor.core.model import Change, Incident, Node, Outcome, Test, TestState, Verdict
from dmonitor.operator import availability, page, page_pictures, page_style, page_words, report
from dmonitor.operator.availability import Days

LOOK: Any = runpy.run_path(str(CHECKOUT / "tests/page/look"))
NOW = 1_800_000_000.0


class Outline(HTMLParser):
    """Which headings and landmarks a page has, and which text is unfolded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.tags: list[str] = []
        self.shown: list[str] = []
        self._open: list[str] = []
        self._in_summary = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag in ("details", "style", "script"):
            self._open.append(tag)
        self._in_summary = self._in_summary or tag == "summary"

    def handle_endtag(self, tag: str) -> None:
        if self._open and tag == self._open[-1]:
            self._open.pop()
        if tag == "summary":
            self._in_summary = False

    def handle_data(self, data: str) -> None:
        if not self._open or self._in_summary:
            self.shown.append(data)


def look(count: int = 60, **facts: Any) -> Any:
    return LOOK["view"](count, **{"down": 2, "now": NOW, "mixed": True, **facts})


def test_what_is_down_comes_first_and_is_said_once() -> None:
    text = LOOK["render"](look())
    first = text.index("<article")
    assert first < text.index("<h2>Up</h2>")
    articles = re.findall(r'<article id="([^"]+)" class="box (\w+)">', text)
    assert [kind for _, kind in articles] == ["down", "down", "odd"]
    assert len({name for name, _ in articles}) == 3
    assert "<h2>2 of 60 tests are DOWN</h2>" in text and "<h2>Not up</h2>" in text
    assert text.count("✖") < 3, "the shape is the style's"


def test_a_test_that_is_up_is_one_line() -> None:
    (line, *_) = re.findall(r"<li>.*?</li>", LOOK["render"](look(3, down=0, mixed=False)))
    summary = line.partition("</summary>")[0]
    for word in ('<b class="up">UP</b>', "90 days: ", "24 hours: usually ", 'class="took"'):
        assert word in summary
    shown = "".join(Outline(line).shown)
    assert re.fullmatch(r"UPdns[\d.]+ %\d+ ms", shown), shown


def test_internals_are_folded_in() -> None:
    text = LOOK["render"](look(text="refused", mixed=False))
    outline = Outline(text)
    shown = "".join(outline.shown)
    assert "who saw what" in shown and "quorum 2" not in shown and "quorum 2" in text
    assert "paris.example.com" not in shown, "who said so is folded in"
    assert "all reach all" in shown and "From, to" not in shown


def test_it_is_well_formed_for_a_screen_reader() -> None:
    for text in (LOOK["render"](look()), LOOK["render_public"](look())):
        outline = Outline(text)
        assert outline.headings[0] == 1 and outline.headings.count(1) == 1
        pairs = zip(outline.headings, outline.headings[1:], strict=False)
        assert all(after - before <= 1 for before, after in pairs), outline.headings
        assert outline.tags.count("main") == outline.tags.count("header") == 1
        assert '<html lang="en">' in text and 'href="#now"' in text and 'id="now"' in text
        ids = re.findall(r' id="([^"]+)"', text)
        assert len(ids) == len(set(ids))
        pictures = re.findall("<svg [^>]*>", text)
        assert pictures and all('role="img" aria-label="' in each for each in pictures)


def colours(text: str) -> dict[str, tuple[float, ...]]:
    found = {}
    for name, digits in re.findall(r"--(\w+): #([0-9a-f]+);", text):
        if len(digits) == 3:
            digits = "".join(digit * 2 for digit in digits)
        found[name] = tuple(int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4))
    return found


def luminance(colour: tuple[float, ...]) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("scheme", [page_style._LIGHT, page_style._DARK])
def test_contrast(scheme: str) -> None:
    """As WCAG 2 wants it at level AA: 4.5 for text, 3 for what a picture needs."""
    found = colours(scheme)
    assert len(found) == 11
    for foreground in ("fg", "soft", "down", "up", "odd"):
        for background in ("bg", "downbg", "upbg", "oddbg"):
            lighter, darker = sorted(
                (luminance(found[foreground]), luminance(found[background])), reverse=True
            )
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (foreground, background)


@pytest.mark.skipif(not shutil.which("tidy"), reason="tidy is a package of Debian")
@pytest.mark.parametrize("down", [0, 60])
def test_tidy_finds_nothing(down: int) -> None:
    for text in (LOOK["render"](look(down=down)), LOOK["render_public"](look(down=down))):
        ran = subprocess.run(["tidy", "-q", "-e"], input=text, capture_output=True, text=True)
        assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("nodes", [3, 40])
@pytest.mark.parametrize("text", ["Connection refused", "{:x>200}", "'" * 200])
@pytest.mark.parametrize("down", [0, 30, 1000])
def test_a_page_of_1000_tests_stays_under_1_mb(nodes: int, text: str, down: int) -> None:
    named = [Node(f"node{each}.example.com", f"node{each}.example.com") for each in range(nodes)]
    seen = look(1000, down=down, nodes=named, text=text)
    written = LOOK["render"](seen)
    assert written.count("<li>") + written.count("<article") == 1000
    assert 500_000 < len(written.encode()) < LOOK["LIMIT"] == 1_000_000
    told = "There is no room here for who saw what of the other tests: <code>dmonitor why"
    assert told in written, "and it says so where something is left out"


def test_up_where_this_node_cannot_tell_is_said() -> None:
    seen = look()
    assert '<b class="up">UP (unknown here)</b>' in LOOK["render"](seen)
    assert "unknown here" not in LOOK["render_public"](seen), "it is up for customers"


# Times.


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        ("2026-11-29T03:12:06+01:00", "03:12"),
        ("2026-11-28T23:59:59+01:00", "Sat 23:59"),
        ("2026-11-22T03:12:06+01:00", "22 Nov 03:12"),
        ("2025-11-29T03:12:06+01:00", "29 Nov 2025"),
        ("2026-11-30T03:12:06+01:00", "30 Nov 03:12"),
    ],
)
def test_times_are_as_a_reader_says_them(at: str, shown: str) -> None:
    now = "2026-11-29T05:20:00+01:00"
    element = page_words.time(at, now)
    assert element.endswith(f'">{shown}</time>') and f'datetime="{at}"' in element
    whole = datetime.datetime.fromisoformat(at).strftime("%a %d %b %Y %H:%M:%S +0100")
    assert f'title="{whole}"' in element
    assert page_words.time(None, now) == "never"
    assert page_words.since("2026-11-29T03:12:06+01:00", now).endswith(", 2 h ago")


# Pictures.


def test_a_bar_has_each_day_and_shapes_beside_colours() -> None:
    days = Days("-" * 10 + "u" * 78 + "du", 0.99899, 7500.0, 1)
    drawn = page_pictures.bar(days)
    assert 'class="hit" d="M88 10h1"' in drawn and 'class="none" d="M0 10h10"' in drawn
    assert 'class="bar" d="M10 10h78M89 10h1"' in drawn
    label = "90 days: DOWN 2 h 5 min, 1 incident; 10 days unknown"
    assert f'aria-label="{label}"' in drawn and page_pictures.share(days) == "99.89 %"
    assert page_pictures.share(days._replace(available=1.0)) == "100 %"
    assert page_pictures.share(days._replace(available=0.9999999)) == "99.99 %"
    assert page_pictures.share(days._replace(available=None)) == "-"
    assert page_pictures.days_words(days._replace(letters="u" * 90)) == "90 days: never DOWN"


def test_a_line_leaves_a_gap_where_no_look_passed() -> None:
    medians = [0.1] * SLOTS
    medians[12:18] = [0.0] * 6
    longest = [each * 2 for each in medians]
    drawn = page_pictures.line(Trend(medians, longest), 48)
    assert 'aria-label="24 hours: usually 0.10 s, at most 0.20 s"' in drawn
    assert 'class="half" d="M0 10h2M3 10h45"' in drawn
    assert 'class="most" d="M0 20V1h2V20h1V1h45V20z"' in drawn
    assert page_pictures.line(Trend([0.0] * SLOTS, [0.0] * SLOTS), 48) == ""


def test_the_days_are_those_of_the_history() -> None:
    test = Test("www.example.com", "web")
    seen = look(3)._replace(tests=[test])
    day = 86400.0
    passing = seen.latest[next(iter(seen.latest))].judgement._replace(verdict=Verdict.UP)
    changes = [Change(test, NOW - 50 * day, passing)]
    incidents = [
        Incident(("a" * 16,), test, NOW - 3 * day, closed=NOW - 3 * day + 60, alert="oslo")
    ]
    found = availability.days(seen, incidents, changes, 90)[test]
    assert len(found.letters) == 90 and found.letters[86] == "d" and found.incidents == 1
    assert found.letters.count("d") == 1 and found.down_seconds == 60
    assert set(found.letters[:39]) == {"-"}, "before the test was there nothing is known"
    assert set(found.letters[41:86]) == {"u"}
    assert found.available and 0.99998 < found.available < 1
    assert availability.days(seen, [], [], 90)[test].available is None


# Customers.


def test_customers_see_no_node_and_no_word_of_a_plugin() -> None:
    seen = look(60, text="secret of {}")
    incident = Incident(
        ("e" * 16,),
        Test("www.example.com", "smtp"),
        NOW - 9999,
        flapping=7,
        alert="oslo.example.com",
        acknowledged=NOW - 60,
        acknowledgement="jo on oslo.example.com",
    )
    seen = seen._replace(incidents=[*seen.incidents, incident])
    text = LOOK["render_public"](seen)
    for word in (
        "oslo",
        "paris",
        "rome",
        "secret",
        "refused",
        "rack move",
        "quorum",
        "told",
        "jo ",
    ):
        assert word not in text.replace("told", "told"), word
    shown = "".join(Outline(text).shown)
    assert "Example Ltd" in shown and "www.example.com/http" in text
    assert "db.example.com" not in text and "unstable" in text and "FLAPPING" not in text
    whole = LOOK["render"](seen)
    assert "db.example.com" in whole
    for word in ("oslo", "paris", "rome", "secret", "rack move", "quorum", "FLAPPING"):
        assert word in whole, f"{word} is on the other page"


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("www*", True),
        ("www.example.com/web", True),
        ("*/web", True),
        ("db*", False),
        ("*/x", False),
    ],
)
def test_patterns_are_of_hosts_and_tests(pattern: str, fits: bool) -> None:
    assert page.is_public("www.example.com/web", [pattern]) is fits
    assert not page.is_public("node/www.example.com", ["*"]), "a node is never shown"


def test_what_is_not_clear_is_not_down_for_customers() -> None:
    for verdict in (Verdict.LOCAL, Verdict.UNCONFIRMED, Verdict.UNKNOWN):
        seen = look(1, down=0, mixed=False)
        states = dict.fromkeys(seen.tests, TestState(verdict, Outcome.FAIL, NOW - 60))
        text = LOOK["render_public"](seen._replace(test_states=states))
        assert "No test is DOWN, and 1 of 1 is not clear" in text and verdict.value not in text


def test_the_command_writes_the_page_of_customers(three: list[LocalNode], place: Place) -> None:
    said, out = Said(three[0]), place.writable("out")
    prepare(three)
    for node in three:
        node.plugin("web", "echo FAIL secret text")
    with running(three):
        three[0].round()
    said("page", str(out), "--only", "www*", "--title", "Example <Ltd>")
    text = (out / "index.html").read_text()
    assert "<h1>Example &lt;Ltd&gt;</h1>" in text and "www.example.com/web" in text
    assert "secret text" not in text and "127.0.0.32" not in text
    said("page", str(out), "--title", "Ours")
    text = (out / "index.html").read_text()
    assert "<h1>Ours</h1>" in text and "secret text" in text and "127.0.0.32" in text
    ran = said.run("page", str(out), "--only", "nothing*")
    assert ran.returncode == 64 and "no test fits nothing*" in ran.stderr


def test_a_page_out_of_date_says_so_without_a_node() -> None:
    old = look()._replace(now=NOW + 3600)
    assert "No round has ended here for a while" in LOOK["render_public"](old)
    assert report.status(old)["stale"]
