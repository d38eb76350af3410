"""What mails say, compared with golden files; DMONITOR_GOLDEN=write writes them anew, to be read before they are committed."""

from __future__ import annotations

import datetime
import email
import email.policy
import os
from pathlib import Path
from typing import Any

import pytest

from dmonitor.base import names
from dmonitor.core import mail
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
        Answer(node, "x", Result(outcome, text, duration)) if outcome else Answer(node, reason=text)
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
    ids = ids or (f"id-{host}-{name}-{began - BEGAN:.0f}-{facts.get('flapping', 0)}",)
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
FLAPPED = incident("ssh", flapping=7, closed=BEGAN + 2 * HOUR)
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
    "steady-down": (
        [
            owed(
                Kind.RECOVERY,
                incident("ssh", flapping=7, closed=BEGAN + 2 * HOUR, closing=STILL_DOWN),
            )
        ],
        BEGAN + 7205,
    ),
    "steady-and-down": (
        [
            owed(Kind.RECOVERY, FLAPPED),
            owed(
                Kind.ALERT,
                incident("ssh", began=BEGAN + 6300, opening=STILL_DOWN),
                since=BEGAN + 7203,
            ),
        ],
        BEGAN + 7205,
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


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    notifications, now = CASES[name]
    letter = mail.compose(notifications, sender="dmonitor", node="oslo", now=now, zone=ZONE)
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


def test_a_node_that_is_gone_reads_like_any_other_test() -> None:
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
    assert (
        "\nSubject: DOWN node/rome (2 of 2 nodes)\n" in letter
        and f"\n  paris  FAIL     {text}\n" in letter
    )


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
    *notifications: Notification, node: str = "oslo", now: float = BEGAN + 10_000
) -> email.message.EmailMessage:
    return read(mail.compose(notifications, sender="dmonitor", node=node, now=now, zone=ZONE))


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


def test_mails_about_one_incident_thread_whichever_of_its_ids_they_were_sent_under() -> None:
    alert = composed(owed(Kind.ALERT, incident("ssh", ids=("b",))))
    recovery = composed(owed(Kind.RECOVERY, incident("ssh", ids=("a", "b"), closed=BEGAN + 9)))
    assert alert["References"] == "<incident-b@dmonitor.invalid>"
    assert recovery["References"] == "<incident-a@dmonitor.invalid> <incident-b@dmonitor.invalid>"
    assert recovery["In-Reply-To"] == recovery["References"]


def test_a_mail_about_very_many_incidents_is_no_thread() -> None:
    assert composed(*MASS[:20])["References"].count("@") == 20
    assert composed(*MASS[:21])["References"] is None
    assert (
        composed(owed(Kind.ALERT, incident("ssh", ids=tuple(f"{n:02}" for n in range(41)))))[
            "References"
        ]
        is None
    )


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
            "STILL DOWN 2 tests on www.example.com: http, ssh",
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
            "FLAPPING {} (7 changes in 30 min)",
            "It had been DOWN from Mon 23 Nov 2026 03:12:06 +0100 to Mon 23 Nov 2026 03:12:56 +0100.",
        ),
        (
            (owed(Kind.REMINDER, incident("ssh")), owed(Kind.RECOVERY, FLAPPED)),
            "STILL DOWN {} (2 of 3 nodes) for 2 h 46 min",
            "It had been flapping from Mon 23 Nov 2026 03:12:06 +0100 to Mon 23 Nov 2026 05:12:06 +0100.",
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
            "{} is STEADY: UP, without a change for 15 min.",
        ),
        (
            (owed(Kind.RECOVERY, FLAPPED._replace(closing=None)),),
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
    assert letter["Subject"] == "DOWN 90 tests on 45 hosts, UP 9 tests on h00"
    assert lines[0] == "DOWN h00: http, ssh" and lines[39:42] == [
        "DOWN h39: http, ssh",
        "… and 6 more hosts with 19 tests",
        "",
    ]
    detailed = [line.split(" is ")[0] for line in lines if " is DOWN since" in line]
    assert detailed == [f"h{number:02}/http" for number in range(20)]
    assert "… and 79 more; on any node: dmonitor-check --dry-run" in lines
    lines = composed(*crowd[-9:]).get_content().splitlines()
    assert lines[0] == f"UP h00: 9 tests: {'0' * 60}, {'1' * 60}, …" and len(lines[0]) <= 200


@pytest.mark.parametrize("began", [-9e10, 9e10])
def test_a_time_that_nobody_can_show_costs_no_mail(began: float) -> None:
    """What a peer once said, or a state that was written by hand, ends no round."""
    letter = composed(owed(Kind.ALERT, incident("ssh", began=began)))
    assert "www.example.com" in letter["Subject"]
