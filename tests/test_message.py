"""What mails say, compared with golden files; DMONITOR_GOLDEN=write writes them anew, to be read before they are committed."""

from __future__ import annotations

import datetime
import email
import email.policy
import os
from pathlib import Path

import pytest

from dmonitor import message
from dmonitor.model import Answer, Incident, Judgement, Kind, Node, Notification, Outcome, Result, Test, Verdict

GOLDEN = Path(__file__).parent / "golden"
BEGAN = datetime.datetime(2026, 11, 23, 2, 12, 6, tzinfo=datetime.UTC).timestamp()
ZONE = datetime.timezone(datetime.timedelta(hours=1))


def judged(verdict: Verdict, *answers: Answer, quorum: int = 2) -> Judgement:
    return Judgement(verdict, quorum, answers)


def sees(name: str, outcome: Outcome | None, text: str, *, site: str = "", duration: float = 0.2) -> Answer:
    node = Node(name, site or name)
    return Answer(node, "x", Result(outcome, text, duration)) if outcome else Answer(node, reason=text)


DOWN = judged(
    Verdict.DOWN,
    sees("oslo", Outcome.FAIL, "connection refused", duration=0.01),
    sees("paris", Outcome.TIMEOUT, "not ended after 10 s", duration=10.0),
    sees("rome", None, "connection timed out"),
)
UP = judged(
    Verdict.UP, sees("oslo", Outcome.OK, "SSH-2.0"), sees("paris", Outcome.OK, "SSH-2.0"), sees("rome", Outcome.FAIL, "no route")
)


def incident(name: str, *, host: str = "www.example.com", closed: float | None = None, opening: Judgement = DOWN) -> Incident:
    return Incident(f"id-{host}-{name}", Test(host, name), BEGAN, opening, (), closed, UP if closed else None)


def owed(kind: Kind, what: Incident, *, since: float = BEGAN + 3, refusals: int = 0) -> Notification:
    return Notification(kind, what, "oncall@example.com", since, refusals)


CASES = {
    "alert": ([owed(Kind.ALERT, incident("ssh"))], BEGAN + 3),
    "recovery": ([owed(Kind.RECOVERY, incident("ssh", closed=BEGAN + 725), since=BEGAN + 725)], BEGAN + 726),
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
            owed(Kind.ALERT, incident("ssh", closed=BEGAN + 7200), refusals=120),
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
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    notifications, now = CASES[name]
    mail = message.compose(notifications, sender="dmonitor", node="oslo", now=now, zone=ZONE)
    path = GOLDEN / f"{name}.eml"
    if os.environ.get("DMONITOR_GOLDEN") == "write":
        path.write_bytes(mail)
    assert mail == path.read_bytes()


def read(mail: bytes) -> email.message.EmailMessage:
    return email.message_from_bytes(mail, policy=email.policy.default)


def test_the_subject_of_the_readme() -> None:
    mail = read(message.compose(CASES["alert"][0], sender="dmonitor", node="oslo", now=BEGAN))
    assert mail["Subject"] == "DOWN www.example.com/ssh (2 of 3 nodes)"
    assert mail["To"] == "oncall@example.com"
    assert mail["Auto-Submitted"] == "auto-generated"


def test_a_plugin_cannot_write_a_header() -> None:
    odd = judged(Verdict.DOWN, sees("oslo", Outcome.FAIL, "x\\x0aBcc: all@example.com"), sees("paris", Outcome.FAIL, "\u2028x"))
    mail = read(message.compose([owed(Kind.ALERT, incident("ssh", opening=odd))], sender="a@b.example", node="oslo", now=BEGAN))
    assert mail["Bcc"] is None
    assert mail["From"] == '"dmonitor on oslo" <a@b.example>' or mail["From"] == "dmonitor on oslo <a@b.example>"


def test_a_hundred_nodes_and_a_long_name() -> None:
    host = "a" * 240
    many = judged(Verdict.DOWN, *(sees(f"n{number}", Outcome.FAIL, "x" * 300) for number in range(100)))
    mail = message.compose([owed(Kind.ALERT, incident("ssh", host=host, opening=many))], sender="d", node="oslo", now=BEGAN)
    assert read(mail)["Subject"] == f"DOWN {host}/ssh (100 of 100 nodes)"
    assert all(len(line) < 998 for line in mail.splitlines())


def test_the_test_mail() -> None:
    mail = read(message.compose_test("root", sender="dmonitor", node="oslo", now=BEGAN))
    assert mail["Subject"] == "TEST dmonitor on oslo"
    assert "alerts of dmonitor on oslo reach you" in mail.get_content()


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (59.6, "1 min"), (3600, "1 h"), (3661, "1 h 1 min"), (90061, "1 d 1 h"), (-5, "0 s")]
)
def test_span(seconds: float, said: str) -> None:
    assert message._span(seconds) == said
