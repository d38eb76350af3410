"""What mails say, compared with golden files; DMONITOR_GOLDEN=write writes them anew, to be read before they are committed."""

from __future__ import annotations

import datetime
import email
import email.policy
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dmonitor import driver
from dmonitor.base import names
from dmonitor.config.keyfile import Keys, of_all
from dmonitor.core import effects, mail
from dmonitor.core.durations import Times
from dmonitor.core.model import (
    Answer,
    Incident,
    Judgement,
    Kind,
    Node,
    Notification,
    Outcome,
    Result,
    Test,
    Verdict,
)
from dmonitor.execution import delivery, keeper
from dmonitor.store import durations

GOLDEN = Path(__file__).parent / "golden"
BEGAN = datetime.datetime(2026, 11, 23, 2, 12, 6, tzinfo=datetime.UTC).timestamp()
ZONE = datetime.timezone(datetime.timedelta(hours=1))


def judged(verdict: Verdict, *answers: Answer, quorum: int = 2) -> Judgement:
    return Judgement(verdict, quorum, answers)


def sees(
    name: str, outcome: Outcome | None, text: str, *, site: str = "", duration: float = 0.2
) -> Answer:
    node = Node(name, site or name)
    return (
        Answer(node, "x" * 24, Result(outcome, text, duration))
        if outcome
        else Answer(node, reason=text)
    )


DOWN = judged(
    Verdict.DOWN,
    sees("oslo", Outcome.FAIL, "connection refused", duration=0.01),
    sees("paris", Outcome.TIMEOUT, "not ended after 10 s", duration=10.0),
    sees("rome", None, "connection timed out"),
)
UP = judged(
    Verdict.UP,
    sees("oslo", Outcome.OK, "SSH-2.0"),
    sees("paris", Outcome.OK, "SSH-2.0"),
    sees("rome", Outcome.FAIL, "no route"),
)


STILL_DOWN = judged(
    Verdict.DOWN,
    sees("oslo", Outcome.FAIL, "connection refused"),
    sees("paris", Outcome.FAIL, "no route"),
)


def incident(
    name: str,
    *,
    host: str = "www.example.com",
    began: float = BEGAN,
    closed: float | None = None,
    opening: Judgement | None = DOWN,
    closing: Judgement | None = UP,
    ids: tuple[str, ...] = (),
    **facts: Any,
) -> Incident:
    word = f"id-{host}-{name}-{began - BEGAN:.0f}-{facts.get('flapping', 0)}"
    ids = ids or (hashlib.sha256(word.encode()).hexdigest()[:16],)
    facts.setdefault("minute", max(1, min(int(began // 60), 10**8)))
    return Incident(
        ids,
        Test(host, name),
        began,
        opening,
        closed=closed,
        closing=closing if closed else None,
        **facts,
    )


def owed(
    kind: Kind, what: Incident, *, since: float | None = None, refusals: int = 0
) -> Notification:
    return Notification(
        kind,
        what,
        "oncall@example.com",
        (what.closed or what.began) + 3 if since is None else since,
        refusals,
    )


HOUR = 3600.0
FLAPPED = incident("ssh", flapping=7, closed=BEGAN + 2 * HOUR, seen=BEGAN + 1.75 * HOUR)
NAMES = [
    f"{kind}:{which}"
    for kind in ("certificate", "dns", "http", "smtp", "tcp")
    for which in ("443", "8080", "eu", "shop", "us")
]
MASS = [
    owed(Kind.ALERT, incident(name, host=f"node{number:02}.example.com"))
    for number in range(20)
    for name in NAMES
]

CASES = {
    "alert": ([owed(Kind.ALERT, incident("ssh"))], BEGAN + 3),
    "recovery": (
        [owed(Kind.RECOVERY, incident("ssh", closed=BEGAN + 725), since=BEGAN + 725)],
        BEGAN + 726,
    ),
    "several": (
        [
            owed(Kind.ALERT, incident("ssh")),
            owed(Kind.ALERT, incident("http")),
            owed(Kind.ALERT, incident("ping", host="db.example.com")),
            owed(Kind.RECOVERY, incident("smtp", host="mail.example.com", closed=BEGAN + 7)),
        ],
        BEGAN + 8,
    ),
    "late-and-over": (
        [
            owed(Kind.ALERT, incident("ssh", closed=BEGAN + 7200), since=BEGAN + 3, refusals=120),
            owed(Kind.RECOVERY, incident("ssh", closed=BEGAN + 7200), since=BEGAN + 7200),
        ],
        BEGAN + 90_000,
    ),
    "sites": (
        [
            owed(
                Kind.ALERT,
                incident(
                    "http",
                    opening=judged(
                        Verdict.DOWN,
                        sees("oslo", Outcome.FAIL, "Zeitüberschreitung", site="north"),
                        sees("bergen", Outcome.FAIL, "", site="north"),
                        sees("paris", Outcome.FAIL, "HTTP 503", site="south"),
                    ),
                ),
            )
        ],
        BEGAN + 3,
    ),
    "reminder": (
        [owed(Kind.REMINDER, incident("ssh"), since=BEGAN + 4 * HOUR + 37)],
        BEGAN + 4 * HOUR + 40,
    ),
    "flapping": ([owed(Kind.ALERT, incident("ssh", flapping=7))], BEGAN + 5),
    "steady-up": (
        [
            owed(Kind.RECOVERY, FLAPPED),
            owed(
                Kind.RECOVERY,
                incident("ssh", began=BEGAN - 600, closed=BEGAN + HOUR),
                since=BEGAN + 7203,
            ),
        ],
        BEGAN + 7205,
    ),
    "steady-down": ([owed(Kind.RECOVERY, FLAPPED._replace(closing=STILL_DOWN))], BEGAN + 7205),
    "steady-and-down": (
        [
            owed(Kind.RECOVERY, FLAPPED._replace(closed=BEGAN + 6480, closing=STILL_DOWN)),
            owed(
                Kind.ALERT,
                incident("ssh", began=BEGAN + 1.75 * HOUR, opening=STILL_DOWN),
                since=BEGAN + 6483,
            ),
        ],
        BEGAN + 6485,
    ),
    "mass": (MASS, BEGAN + 9),
    "unknown-evidence": (
        [
            owed(Kind.ALERT, incident("ssh", opening=None)),
            owed(
                Kind.RECOVERY,
                incident("http", began=BEGAN - 60, closed=BEGAN, opening=None, closing=None),
            ),
        ],
        BEGAN + 3,
    ),
    "again": (
        [
            owed(Kind.RECOVERY, incident("ssh", closed=BEGAN + 725)),
            owed(Kind.ALERT, incident("ssh", began=BEGAN + 820)),
        ],
        BEGAN + 825,
    ),
}


# The incidents of these tests that are open and were told before.
LATEST = {"flapping": [incident("ssh", alert="oslo")]}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    notifications, now = CASES[name]
    latest = LATEST.get(name, ())
    letter = mail.compose(
        notifications, sender="dmonitor", node="oslo", now=now, zone=ZONE, latest=latest
    )
    path = GOLDEN / f"{name}.eml"
    if os.environ.get("DMONITOR_GOLDEN") == "write":
        path.write_bytes(letter)
    assert letter == path.read_bytes()


def read(letter: bytes) -> email.message.EmailMessage:
    return email.message_from_bytes(letter, policy=email.policy.default)


def test_the_subject_of_the_readme() -> None:
    letter = read(mail.compose(CASES["alert"][0], sender="dmonitor", node="oslo", now=BEGAN))
    assert letter["Subject"] == "DOWN www.example.com/ssh (2 of 3 nodes)"
    assert letter["To"] == "oncall@example.com"
    assert letter["Auto-Submitted"] == "auto-generated"


def test_what_a_suspect_node_sees_is_marked() -> None:
    first, *rest = DOWN.answers
    doubted = judged(Verdict.DOWN, first._replace(suspect=True), *rest)
    letter = mail.compose(
        [owed(Kind.ALERT, incident("ssh", opening=doubted))],
        sender="dmonitor",
        node="oslo",
        now=BEGAN + 3,
        zone=ZONE,
    )
    lines = letter.decode().splitlines()
    assert (
        "  oslo   FAIL     connection refused (this node suspects itself: most of its tests fail there alone)"
        in lines
    )
    assert sum("suspects itself" in line for line in lines) == 1


def test_a_node_that_is_gone_reads_like_a_test_and_is_called_a_node() -> None:
    text = (
        "its daemon answers, but its checker has finished no round for 6 min; they were 1 min apart"
    )
    gone = judged(Verdict.DOWN, *(sees(name, Outcome.FAIL, text) for name in ("oslo", "paris")))
    letter = mail.compose(
        [owed(Kind.ALERT, incident("rome", host="node", opening=gone))],
        sender="dmonitor",
        node="oslo",
        now=BEGAN + 3,
        zone=ZONE,
    ).decode()
    assert "\nSubject: DOWN node rome (2 of 2 nodes)\n" in letter
    assert "\nnode/rome is DOWN since " in letter
    assert f"\n  paris  FAIL     {text}\n" in letter


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({}, ""),
        ({"heard_from": "rome"}, "As rome states:\n"),
        (
            {"heard_from": "rome", "relayed_by": "paris"},
            "As paris states, which has it from rome:\n",
        ),
    ],
)
def test_the_evidence_of_a_peer_alone_says_whose_word_it_is(
    source: dict[str, Any], said: str
) -> None:
    alert = owed(Kind.ALERT, incident("ssh", **source))
    text = mail.compose([alert], sender="dmonitor", node="oslo", now=BEGAN + 3, zone=ZONE).decode()
    assert f"\n\n{said}  oslo   FAIL     connection refused\n" in text
    flapping = composed(owed(Kind.ALERT, incident("ssh", flapping=7, **source))).get_content()
    assert f"\n{said}  oslo   FAIL     connection refused\n" in flapping
    assert flapping.count("states") == bool(said)
    over = owed(Kind.RECOVERY, incident("ssh", closed=BEGAN + HOUR, **source))
    mine = owed(Kind.RECOVERY, incident("http", closed=BEGAN + HOUR))
    words = f", {said[:-2].replace('As', 'as', 1)}" if said else ""
    for letter in (composed(over), composed(over, mine)):
        is_told = f"+0100 for 1 h{words}.\n" in letter.get_content()
        assert is_told == bool(said or "http" not in letter.get_content())


def test_a_plugin_cannot_write_a_header() -> None:
    odd = judged(
        Verdict.DOWN,
        sees("oslo", Outcome.FAIL, "x\\x0aBcc: all@example.com"),
        sees("paris", Outcome.FAIL, "\u2028x"),
    )
    letter = read(
        mail.compose(
            [owed(Kind.ALERT, incident("ssh", opening=odd))],
            sender="a@b.example",
            node="oslo",
            now=BEGAN,
        )
    )
    assert letter["Bcc"] is None
    assert (
        letter["From"] == '"dmonitor on oslo" <a@b.example>'
        or letter["From"] == "dmonitor on oslo <a@b.example>"
    )


def test_a_hundred_nodes_and_a_long_name() -> None:
    host = "a" * 240
    many = judged(
        Verdict.DOWN, *(sees(f"n{number}", Outcome.FAIL, "x" * 300) for number in range(100))
    )
    letter = mail.compose(
        [owed(Kind.ALERT, incident("ssh", host=host, opening=many))],
        sender="d",
        node="oslo",
        now=BEGAN,
    )
    assert read(letter)["Subject"] == f"DOWN {host}/ssh (100 of 100 nodes)"
    assert all(len(line) < 998 for line in letter.splitlines())


def test_the_test_mail() -> None:
    letter = read(mail.compose_test("root", sender="dmonitor", node="oslo", now=BEGAN))
    assert letter["Subject"] == "TEST dmonitor on oslo"
    assert "alerts of dmonitor on oslo reach you" in letter.get_content()


def test_the_mail_about_a_trouble() -> None:
    text = f"oslo: no peer answers ({'paris: connection refused; ' * 20}): nobody is alerted"
    letter = read(mail.compose_trouble(text, "root", sender="dmonitor", node="oslo", now=BEGAN))
    assert letter["Subject"].startswith("TROUBLE oslo: no peer answers (paris: connection refused;")
    subject = str(letter["Subject"])
    assert len(subject) < 140 and subject.isascii() and subject.endswith(" ...")
    assert subject.removesuffix(" ...") in f"TROUBLE {text}"
    assert letter.get_content().startswith(f"{text}.\n\n")
    assert letter["To"] == "root" and letter["Auto-Submitted"] == "auto-generated"
    odd = mail.compose_trouble("a\nb", "root", sender="dmonitor", node="oslo", now=BEGAN)
    assert read(odd)["Subject"] == r"TROUBLE a\nb"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (59.6, "1 min"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (90061, "1 d 1 h"),
        (-5, "0 s"),
    ],
)
def test_span(seconds: float, said: str) -> None:
    assert names.span(seconds) == said


def composed(
    *notifications: Notification, node: str = "oslo", now: float = BEGAN + 10_000, **facts: Any
) -> email.message.EmailMessage:
    return read(
        mail.compose(notifications, sender="dmonitor", node=node, now=now, zone=ZONE, **facts)
    )


KEY = b"0123456789abcdef0123456789abcdef"


def test_a_double_has_the_same_message_id_and_nothing_else_has() -> None:
    alert = owed(Kind.ALERT, incident("ssh"))
    again = alert._replace(
        since=BEGAN + 99, refusals=3, incident=alert.incident._replace(opening=None)
    )
    told = composed(alert)["Message-ID"]
    assert composed(again, node="paris", now=BEGAN + 100)["Message-ID"] == told
    reminder = owed(Kind.REMINDER, incident("ssh"))
    second = owed(Kind.REMINDER, incident("ssh", reminded=1))
    other = alert._replace(address="root")
    assert (
        len(
            {
                told,
                *(
                    composed(one)["Message-ID"]
                    for one in (reminder, second, other, owed(Kind.ALERT, incident("http")))
                ),
            }
        )
        == 5
    )
    assert (
        composed(alert, reminder)["Message-ID"] == composed(reminder, alert)["Message-ID"] != told
    )


@pytest.mark.parametrize("secret", [b"", KEY])
def test_a_double_has_the_same_message_id_although_nodes_have_united_their_ids(
    secret: bytes,
) -> None:
    def message_id(kind: Kind = Kind.ALERT, address: str = "root", **facts: Any) -> Any:
        notification = owed(kind, incident("ssh", **facts))._replace(address=address)
        return composed(notification, secret=secret)["Message-ID"]

    told = message_id(ids=("b",), minute=29_000_000)
    assert message_id(ids=("a", "b"), minute=29_000_000) == told
    assert message_id(ids=("a", "b"), minute=29_000_000, began=BEGAN - 30) == told
    others = [
        message_id(ids=("b",), minute=29_000_001),
        message_id(ids=("b",), minute=29_000_000, flapping=7),
        message_id(Kind.RECOVERY, ids=("b",), minute=29_000_000, closed=BEGAN + 9),
        message_id(Kind.REMINDER, ids=("b",), minute=29_000_000),
        message_id(Kind.REMINDER, ids=("b",), minute=29_000_000, reminded=1),
        message_id(address="oncall", ids=("b",), minute=29_000_000),
    ]
    assert len({told, *others}) == 7
    # An incident from before 0.2 has no minute.
    assert message_id(ids=("a", "b"), minute=0) == message_id(ids=("a", "c"), minute=0)
    assert message_id(ids=("a", "b"), minute=0) != message_id(ids=("b",), minute=0)


def test_who_has_no_key_cannot_send_a_mail_with_that_message_id_first() -> None:
    alert = owed(Kind.ALERT, incident("ssh"))
    keyed = composed(alert, secret=KEY)
    assert re.fullmatch(r"<[0-9a-f]{32}@dmonitor\.invalid>", keyed["Message-ID"])
    assert composed(alert, secret=KEY, node="paris")["Message-ID"] == keyed["Message-ID"]
    for secret in (b"", KEY[::-1]):
        other = composed(alert, secret=secret)
        assert other["Message-ID"] != keyed["Message-ID"]
        assert other["References"] != keyed["References"]


def test_mails_about_one_incident_thread_although_nodes_have_united_their_ids() -> None:
    alert = composed(owed(Kind.ALERT, incident("ssh", ids=("b",))))
    recovery = composed(owed(Kind.RECOVERY, incident("ssh", ids=("a", "b"), closed=BEGAN + 9)))
    assert re.fullmatch(r"<incident-[0-9a-f]{32}@dmonitor\.invalid>", alert["References"])
    assert recovery["References"] == alert["References"] == recovery["In-Reply-To"]
    again = composed(owed(Kind.ALERT, incident("ssh", ids=("b",), minute=1)))
    flapping = composed(owed(Kind.ALERT, incident("ssh", ids=("b",), flapping=7)))
    assert len({mail["References"] for mail in (alert, again, flapping)}) == 3


def test_mails_about_an_incident_from_before_an_upgrade_go_on_with_its_thread() -> None:
    alert = composed(owed(Kind.ALERT, incident("ssh", ids=("b",), minute=0)))
    recovery = composed(
        owed(Kind.RECOVERY, incident("ssh", ids=("a", "b"), minute=0, closed=BEGAN + 9))
    )
    assert alert["References"] == "<incident-b@dmonitor.invalid>"
    assert recovery["References"] == "<incident-b@dmonitor.invalid> <incident-a@dmonitor.invalid>"
    assert recovery["In-Reply-To"] == "<incident-a@dmonitor.invalid>"


def test_a_mail_refers_to_the_ten_most_urgent_incidents_and_answers_the_first() -> None:
    few = composed(*MASS[:9])
    assert few["References"].count("@") == 9
    assert few["In-Reply-To"] == few["References"].split()[-1] == composed(MASS[0])["In-Reply-To"]
    many = composed(*MASS)
    assert many["References"].count("@") == 10 and many["In-Reply-To"].count("@") == 1
    over = [
        owed(Kind.RECOVERY, told.incident._replace(closed=BEGAN + HOUR, closing=UP))
        for told in MASS
    ]
    assert composed(*over)["References"] == many["References"], "its recovery is of that thread"
    ids = tuple(f"{number:02}" for number in range(41))
    old = composed(owed(Kind.ALERT, incident("ssh", ids=ids, minute=0)))
    assert old["References"].count("@") == 10 and old["In-Reply-To"].startswith("<incident-00@")
    down = owed(Kind.ALERT, incident("ssh", host="zoo.example.com"))
    mixed = composed(*over[:5], down)
    assert mixed["In-Reply-To"] == composed(down)["In-Reply-To"], "the worst"


@pytest.mark.parametrize(
    ("notifications", "subject", "line"),
    [
        (
            (owed(Kind.REMINDER, incident("ssh")), owed(Kind.ALERT, incident("ssh"))),
            "DOWN {} (2 of 3 nodes)",
            "{} is DOWN since",
        ),
        (
            (owed(Kind.REMINDER, incident("ssh")), owed(Kind.REMINDER, incident("http"))),
            "STILL DOWN www.example.com: http, ssh",
            "{} is STILL DOWN since",
        ),
        (
            (
                owed(Kind.ALERT, incident("ssh", flapping=7, began=BEGAN + 60)),
                owed(Kind.ALERT, incident("ssh")),
            ),
            "DOWN {} (2 of 3 nodes)",
            "It is flapping: 7 changes in 30 min. dmonitor is quiet about its changes until",
        ),
        (
            (
                owed(Kind.ALERT, incident("ssh", flapping=7, began=BEGAN + 60)),
                owed(Kind.RECOVERY, incident("ssh", closed=BEGAN + 50)),
            ),
            "FLAPPING {} (UP now, 7 changes in 30 min)",
            "It had been DOWN from Mon 23 Nov 2026 03:12:06 +0100 to Mon 23 Nov 2026 03:12:56 +0100.",
        ),
        (
            (owed(Kind.REMINDER, incident("ssh")), owed(Kind.RECOVERY, FLAPPED)),
            "STILL DOWN {} (2 of 3 nodes) for 2 h 46 min",
            "It had been flapping from Mon 23 Nov 2026 03:12:06 +0100 to Mon 23 Nov 2026 04:57:06 +0100.",
        ),
        (
            (
                owed(Kind.RECOVERY, FLAPPED._replace(closing=STILL_DOWN)),
                owed(Kind.RECOVERY, incident("ssh", closed=BEGAN + 9000)),
            ),
            "UP {} (was DOWN 2 h 30 min)",
            "It had been flapping from Mon 23 Nov 2026 03:12:06 +0100 to",
        ),
        (
            (owed(Kind.ALERT, FLAPPED),),
            "STEADY {}: UP",
            "{} is STEADY: UP, without a change since Mon 23 Nov 2026 04:57:06 +0100.",
        ),
        (
            (
                owed(Kind.RECOVERY, FLAPPED._replace(closing=None, seen=float("-inf"))),
            ),  # from before 0.2
            "STEADY {}",
            "{} is STEADY, without a change for 15 min.",
        ),
        (
            (owed(Kind.ALERT, incident("ssh", closed=BEGAN + 60)),),
            "UP {} (was DOWN 1 min)",
            "{} is UP again since",
        ),
        (
            (
                owed(Kind.RECOVERY, incident("ssh", closed=BEGAN + 60)),
                owed(Kind.RECOVERY, incident("ssh", began=BEGAN + 90, closed=BEGAN + 92)),
            ),
            "UP {} (was DOWN 2 s)",
            "to Mon 23 Nov 2026 03:13:06 +0100, then UP until Mon 23 Nov 2026 03:13:36 +0100.",
        ),
        (
            (owed(Kind.ALERT, incident("ssh", opening=judged(Verdict.DOWN))),),
            "DOWN {} (0 of 0 nodes)",
            "{} is DOWN since",
        ),
    ],
)
def test_one_section_for_a_test_whatever_is_owed_about_it(
    notifications: tuple[Notification, ...], subject: str, line: str
) -> None:
    letter = composed(*notifications)
    assert letter["Subject"] == subject.format("www.example.com/ssh")
    assert line.format("www.example.com/ssh") in letter.get_content()
    assert letter.get_content().count("www.example.com/ssh is ") == 1


def test_a_summary_is_of_hosts_not_too_many_and_its_lines_are_not_too_long() -> None:
    crowd = [
        owed(Kind.ALERT, incident(name, host=f"h{number:02}"))
        for number in range(45)
        for name in ("ssh", "http")
    ]
    crowd += [
        owed(Kind.RECOVERY, incident(f"{number}" * 60, host="h00", closed=BEGAN + 1))
        for number in range(9)
    ]
    letter = composed(*crowd)
    lines = letter.get_content().splitlines()
    assert letter["Subject"] == (
        "DOWN h00, h01, h02, h03, h04, h05, h06, h07 and 37 more (90 tests); UP h00 (9 tests)"
    )
    assert lines[0] == "DOWN h00: http, ssh" and lines[39:42] == [
        "DOWN h39: http, ssh",
        "… and 6 more hosts with 19 tests",
        "",
    ]
    detailed = [line.split(" is ")[0] for line in lines if " is DOWN since" in line]
    assert detailed == [f"h{number:02}/http" for number in range(20)]
    assert "… and 70 more; on any node: dmonitor-check --dry-run" in lines
    lines = composed(*crowd[-9:]).get_content().splitlines()
    assert lines[0] == f"UP h00: 9 tests: {'0' * 60}, {'1' * 60}, … (were DOWN up to 1 s)"
    assert len(lines[0]) <= 200 and lines[1] == "" and lines[2].startswith("This mail is late")


@pytest.mark.parametrize("began", [-9e10, 9e10])
def test_a_time_that_nobody_can_show_costs_no_mail(began: float) -> None:
    """What a peer once said, or a state that was written by hand, ends no round."""
    letter = composed(owed(Kind.ALERT, incident("ssh", began=began)))
    assert "www.example.com" in letter["Subject"]


# A late mail tells how the test is now.


OVER = incident("ssh", closed=BEGAN + 60)
AGAIN = incident("ssh", began=BEGAN + 9000, alert="rome")


def test_a_late_recovery_does_not_say_up_while_the_test_is_down_again() -> None:
    recovery = owed(Kind.RECOVERY, OVER, since=BEGAN + 60, refusals=150)
    letter = composed(recovery, latest=[AGAIN])
    assert letter["Subject"] == "STILL DOWN www.example.com/ssh (2 of 3 nodes) for 16 min 40 s"
    lines = letter.get_content().splitlines()
    assert lines[:2] == [
        "www.example.com/ssh is STILL DOWN since Mon 23 Nov 2026 05:42:06 +0100, 16 min 40 s ago.",
        "It had been DOWN from Mon 23 Nov 2026 03:12:06 +0100 to Mon 23 Nov 2026 03:13:06 +0100,"
        " then UP until Mon 23 Nov 2026 05:42:06 +0100.",
    ]
    assert "is UP" not in letter.get_content() and lines[3] == "When it went down:"
    assert any(line.startswith("This mail is late.") for line in lines)
    assert letter["Message-ID"] == composed(recovery)["Message-ID"], "what is told decides"
    roots = set(letter["References"].split())
    assert roots == {composed(owed(Kind.ALERT, one))["References"] for one in (OVER, AGAIN)}


def test_up_is_no_double_of_still_down() -> None:
    """Two nodes that did not hear each other have opened it, and have given it one name."""
    over = OVER._replace(ids=("theirs",), minute=29_000_000)
    ours = OVER._replace(ids=("ours",), minute=over.minute, closed=None)
    still_down = composed(owed(Kind.RECOVERY, over), latest=[ours])
    assert still_down["Subject"].startswith("STILL DOWN")
    up = composed(owed(Kind.RECOVERY, ours._replace(closed=BEGAN + 9000)))
    assert up["Subject"].startswith("UP")
    assert still_down["Message-ID"] != up["Message-ID"]
    assert composed(owed(Kind.RECOVERY, over))["Message-ID"] == up["Message-ID"], "both say UP"
    double = composed(owed(Kind.RECOVERY, over), latest=[ours], node="paris")
    assert double["Message-ID"] == still_down["Message-ID"]
    alert = owed(Kind.ALERT, ours)
    assert composed(alert, latest=[ours])["Message-ID"] == composed(alert)["Message-ID"]


def test_the_alert_of_the_newer_incident_in_the_same_mail_makes_it_down() -> None:
    told = [owed(Kind.RECOVERY, OVER), owed(Kind.ALERT, AGAIN)]
    assert composed(*told, latest=[AGAIN])["Subject"] == "DOWN www.example.com/ssh (2 of 3 nodes)"
    assert composed(*told, latest=[AGAIN]).as_string() == composed(*told).as_string()


def test_what_is_open_of_another_test_changes_nothing() -> None:
    other = incident("http", began=BEGAN + 70)
    recovery = owed(Kind.RECOVERY, OVER)
    assert composed(recovery, latest=[other])["Subject"].startswith("UP www.example.com/ssh ")
    # Nor does an ordinary incident while it is to be told that the test flaps.
    flapping = owed(Kind.ALERT, incident("ssh", flapping=7, began=BEGAN + 9100))
    assert composed(flapping, latest=[AGAIN])["Subject"].startswith("FLAPPING ")


def test_a_mail_that_waited_for_a_silence_says_its_reason_and_who_is_on_it() -> None:
    silenced = incident("ssh", silenced="on oslo: rack move, jo")
    text = composed(owed(Kind.ALERT, silenced)).get_content()
    words = "Nobody was mailed meanwhile, because it was silenced on oslo: rack move, jo.\n"
    assert text.splitlines(keepends=True)[1] == words
    assert "silenced" not in composed(owed(Kind.ALERT, incident("ssh"))).get_content()
    taken = incident("ssh", acknowledged=BEGAN + 60, acknowledgement="anna: disk")
    text = composed(owed(Kind.ALERT, taken)).get_content()
    assert "It was acknowledged at Mon 23 Nov 2026 03:13:06 +0100: anna: disk.\n" in text
    alert, ack = owed(Kind.ALERT, taken), owed(Kind.ACK, taken)
    assert composed(alert, ack)["Subject"].startswith("DOWN www.example.com/ssh (2 of 3 nodes)")
    letter = composed(ack)
    assert letter["Subject"] == "ACK www.example.com/ssh anna: disk"
    lines = letter.get_content().splitlines()
    assert lines[0].startswith("www.example.com/ssh is DOWN since Mon 23 Nov 2026 03:12:06 +0100")
    assert lines[1] == "It was acknowledged at Mon 23 Nov 2026 03:13:06 +0100: anna: disk."
    assert letter["References"] == composed(alert)["References"]
    assert letter["Message-ID"] not in (composed(alert)["Message-ID"], "")
    both = [owed(Kind.ACK, incident(name, acknowledgement="anna")) for name in ("ssh", "http")]
    assert composed(*both)["Subject"] == "ACK www.example.com: http, ssh"
    _, facts = mail.compose_facts([ack], node="oslo", now=BEGAN + 90)
    assert facts["DMONITOR_STATE"] == "ACK" and "anna: disk" in facts["DMONITOR_SUBJECT"]


def test_a_late_steady_does_not_say_how_the_test_was() -> None:
    steady = owed(Kind.RECOVERY, FLAPPED)
    assert composed(steady)["Subject"] == "STEADY www.example.com/ssh: UP"
    down = composed(steady, latest=[AGAIN])
    assert down["Subject"].startswith("STILL DOWN www.example.com/ssh ")
    assert "It had been flapping from Mon 23 Nov 2026 03:12:06" in down.get_content()
    flaps_again = incident("ssh", flapping=9, began=BEGAN + 9100)
    flapping = composed(steady, latest=[flaps_again])
    assert flapping["Subject"] == "FLAPPING www.example.com/ssh (UP now, 9 changes in 30 min)"
    assert "STEADY" not in flapping.get_content()


# Flapping.


def test_flapping_lasted_until_the_last_change_and_began_before_it_was_noticed() -> None:
    noticed_at_the_last_change = FLAPPED._replace(seen=BEGAN)
    text = composed(owed(Kind.RECOVERY, noticed_at_the_last_change)).get_content()
    assert "It had been flapping until Mon 23 Nov 2026 03:12:06 +0100.\n" in text
    assert "STEADY: UP, without a change since Mon 23 Nov 2026 03:12:06 +0100.\n" in text
    text = composed(owed(Kind.RECOVERY, FLAPPED)).get_content()
    assert "flapping from Mon 23 Nov 2026 03:12:06 +0100 to Mon 23 Nov 2026 04:57:06 +0100." in text


def test_down_after_flapping_is_said_only_if_it_flapped_until_then() -> None:
    down = incident("ssh", began=BEGAN + 1.75 * HOUR)
    ended = owed(Kind.RECOVERY, FLAPPED._replace(closed=BEGAN + 1.75 * HOUR + 180))
    letter = composed(ended, owed(Kind.ALERT, down))
    assert letter["Subject"] == "DOWN www.example.com/ssh (2 of 3 nodes), after flapping"
    assert ", 1 h 1 min ago, after flapping.\n" in letter.get_content()
    later = incident("ssh", began=BEGAN + 2.5 * HOUR)
    letter = composed(ended, owed(Kind.ALERT, later))
    assert letter["Subject"] == "DOWN www.example.com/ssh (2 of 3 nodes)"
    assert "It had been flapping from" in letter.get_content()


# The subject.


def alerts(*tests: str) -> list[Notification]:
    """Return an alert of each HOST/NAME."""
    names_of = [test.split("/") for test in tests]
    return [owed(Kind.ALERT, incident(name, host=host)) for host, name in names_of]


@pytest.mark.parametrize(
    ("tests", "subject"),
    [
        (("web1/http", "db2/ping"), "DOWN db2, web1 (2 tests)"),
        (("web1/http", "web1/ssh", "db2/ping"), "DOWN db2, web1 (3 tests)"),
        (
            [f"h{number}.example.com/ssh" for number in range(4)],
            "DOWN h0.example.com, h1.example.com and 2 more (4 tests)",
        ),
        (
            [f"h{number}.example.com/ssh" for number in range(3)],
            "DOWN h0.example.com, h1.example.com and 1 more (3 tests)",
        ),
        ((f"{'a' * 99}/ssh", "b/ssh"), f"DOWN {'a' * 99} and 1 more (2 tests)"),
        (("node/rome", "node/paris"), "DOWN nodes paris, rome"),
        (
            [f"node/node{number}.example.com" for number in range(5)],
            "DOWN nodes node0.example.com, node1.example.com and 3 more",
        ),
        (
            ("node/rome", "web1/http", "web1/ssh"),
            "DOWN web1: http, ssh; DOWN node rome (2 of 3 nodes)",
        ),
        (
            ("node/rome", "node/oslo", "web1/ssh"),
            "DOWN web1/ssh (2 of 3 nodes); DOWN nodes oslo, rome",
        ),
    ],
)
def test_a_subject_names_hosts_and_nodes_as_far_as_there_is_room(
    tests: tuple[str, ...], subject: str
) -> None:
    assert composed(*alerts(*tests))["Subject"] == subject


def test_a_subject_of_many_states_says_the_worst_first_and_ends_at_a_whole_part() -> None:
    hosts = [f"host{number:02}.example.com" for number in range(6)]
    down = [owed(Kind.ALERT, incident("ssh", host=host)) for host in hosts[:2]]
    lasting = [owed(Kind.REMINDER, incident("ssh", host=host)) for host in hosts[2:4]]
    flapped = incident("ssh", host="flap.example.com", flapping=7, closed=BEGAN + 2 * HOUR)
    still = owed(Kind.RECOVERY, flapped._replace(closing=STILL_DOWN))
    flaps = owed(Kind.ALERT, incident("ssh", host="a.example.com", flapping=7))
    over = [owed(Kind.RECOVERY, incident("ssh", host="up", closed=BEGAN + 9))]
    letter = composed(*over, flaps, still, *lasting, *down)
    assert letter["Subject"] == (
        "DOWN host00.example.com, host01.example.com (2 tests);"
        " STILL DOWN host02.example.com, host03.example.com (2 tests); and 3 more"
    )
    lines = letter.get_content().splitlines()
    assert [line.split()[0] for line in lines[: lines.index("")]] == [
        *("DOWN", "DOWN", "STILL", "STILL", "STEADY", "FLAPPING", "UP")
    ]
    assert composed(*over, flaps, still)["Subject"] == (
        "STEADY flap.example.com/ssh: DOWN; FLAPPING a.example.com/ssh (UP now, 7 changes in"
        " 30 min); UP up/ssh (was DOWN 9 s)"
    )
    for each in (letter, composed(*MASS)):
        assert str(each["Subject"]).isascii(), "so it has no encoded word"


def test_what_flaps_is_said_to_be_as_it_is_now() -> None:
    flapping = owed(Kind.ALERT, incident("ssh", flapping=7))
    for latest, now in (([], "UP"), ([AGAIN], "DOWN"), ([flapping.incident, AGAIN], "DOWN")):
        letter = composed(flapping, latest=latest)
        assert letter["Subject"] == f"FLAPPING www.example.com/ssh ({now} now, 7 changes in 30 min)"
        assert f": 7 changes in 30 min.\nIt is {now} now.\n\n" in letter.get_content()
    both = composed(flapping, owed(Kind.ALERT, incident("http")), latest=[AGAIN])
    assert "FLAPPING www.example.com: ssh (DOWN now)\n" in both.get_content()


def test_what_is_well_again_has_a_line_and_no_table() -> None:
    over = incident("ssh", closed=BEGAN + 725)
    alone = composed(owed(Kind.RECOVERY, over)).get_content()
    assert "is UP again since" in alone and "oslo   " not in alone
    web = incident("http", closed=BEGAN + 60)
    two = composed(owed(Kind.RECOVERY, over), owed(Kind.RECOVERY, web)).get_content()
    assert two.startswith("UP www.example.com: http, ssh (were DOWN up to 12 min 5 s)\n\nThis mail")
    mixed = composed(owed(Kind.RECOVERY, over), *alerts("db2/ping")).get_content()
    assert "\nUP   www.example.com: ssh (was DOWN 12 min 5 s)\n\ndb2/ping is DOWN since" in mixed
    assert mixed.count("  oslo   FAIL     connection refused") == 1


def test_each_state_of_a_node_reads_like_a_sentence() -> None:
    rome = incident("rome", host="node", closed=BEGAN + 300)
    assert composed(owed(Kind.RECOVERY, rome))["Subject"] == "UP node rome (was DOWN 5 min)"
    lasting = owed(Kind.REMINDER, incident("rome", host="node"))
    subject = composed(lasting, now=BEGAN + HOUR)["Subject"]
    assert subject == "STILL DOWN node rome (2 of 3 nodes) for 1 h"


def test_the_summary_counts_a_node_as_no_host() -> None:
    lines = composed(*alerts("node/rome", "web1/ssh", "node/oslo", "zoo/http")).get_content()
    assert lines.splitlines()[:4] == [
        "DOWN web1: ssh",
        "DOWN zoo: http",
        "DOWN 2 nodes: oslo, rome",
        "",
    ]
    assert "\nnode/oslo is DOWN since" in lines and "\nnode/rome is DOWN since" in lines
    lines = composed(*alerts("node/rome", "web1/ssh")).get_content()
    assert lines.startswith("DOWN web1: ssh\nDOWN node rome\n\n")
    many = [f"h{number:02}/ssh" for number in range(41)]
    lines = composed(*alerts("node/rome", "node/oslo", *many)).get_content()
    assert "… and 1 more host with 1 test and 2 more nodes\n" in lines
    nodes = [f"node/n{number:02}" for number in range(12)]
    told = composed(*alerts("web1/ssh", "web1/http", *nodes)).get_content()
    assert told.count(" is DOWN since") == 14, "each node has its turn"


# What the driver logs of a mail, and what it gives to it.


@pytest.mark.parametrize(("taken", "event"), [(True, "handed-over"), (False, "refused")])
def test_the_log_has_a_hundred_lines_of_a_mail(
    capsys: pytest.CaptureFixture[str], taken: bool, event: str
) -> None:
    """A peer that lies may state thousands of incidents that are owed."""
    many = MASS[:102]
    assert len(many) == 102
    driver._log_outcome("oncall@example.com", many, delivery.Delivery(taken, ""))
    lines = capsys.readouterr().err.splitlines()
    assert sum(f" {event} address=" in f" {line}" for line in lines) == 100
    assert lines[-1].endswith(f"more-{event} address=oncall@example.com count=2")


@pytest.mark.parametrize(
    ("keys", "secret"),
    [
        (None, b""),  # no key
        (Keys(()), b""),  # none that can be used
        (of_all(KEY), KEY),
        (of_all(KEY[::-1], KEY), KEY),  # the key changes: some node may have only the old one
    ],
)
def test_the_driver_gives_the_key_that_all_nodes_have_and_the_latest_incidents(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keys: Keys | None, secret: bytes
) -> None:
    letters: dict[str, delivery.Letter] = {}
    seconds: list[float] = []

    def send(
        given: dict[str, delivery.Letter], _places: object, _name: str, *, patience: float
    ) -> Iterator[None]:
        letters.update(given)
        seconds.append(patience)
        return iter(())

    monkeypatch.setattr(keeper, "hand_over", send)
    settings = SimpleNamespace(sender="dmonitor", sendmail="/bin/false")
    round_driver = driver.Driver.__new__(driver.Driver)
    facts = {
        "_configuration": SimpleNamespace(keys=keys, settings=settings, hook=lambda _: "push"),
        "_store": SimpleNamespace(clock=SimpleNamespace(to_wall=lambda: BEGAN - 1000.0)),
        "_name": "oslo",
        "_clock": SimpleNamespace(elapsed=lambda: 5.0, now=lambda: 10_060.0),
        "_woken": False,
        "_directories": [],
        "_state_dir": str(tmp_path),
    }
    for name, fact in facts.items():
        setattr(round_driver, name, fact)
    # Times on this node's clock; the wall clock is far ahead.
    over = incident("ssh", began=1000.0, closed=1060.0, minute=7)
    again = incident("ssh", began=10_000.0, minute=8)
    told = owed(Kind.RECOVERY, over)
    ended = durations.Ended(30, {over.test: Times(0.14, 0.2)})
    durations.add(str(tmp_path), ended, {over.test}, 9_900.0)
    mails = {"oncall@example.com": [told], "hook:push": [told._replace(address="hook:push")]}
    round_driver._start(effects.HandOver(mails, (again,)))
    letter = read(letters["oncall@example.com"].content)
    assert letter["Subject"].startswith("STILL DOWN www.example.com/ssh (2 of 3 nodes) for ")
    assert letter["Message-ID"] == composed(told, secret=secret)["Message-ID"]
    assert "It usually takes 0.14 s on oslo." in letter.get_content(), "paris saw TIMEOUT"
    hook_facts = letters["hook:push"].facts or {}
    assert hook_facts["DMONITOR_STATE"] == "STILL DOWN\nOVER"
    since = datetime.datetime.fromtimestamp(BEGAN + 9000.0, datetime.UTC).astimezone()
    first, _ = hook_facts["DMONITOR_SINCE"].split("\n")
    assert first == since.isoformat(timespec="seconds")
    round_driver._woken = True  # the next round waits for it
    round_driver._start(effects.HandOver(mails, (again,)))
    assert seconds == [49.0, 22.0]
