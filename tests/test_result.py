"""What came of greeting a peer as a result (rule R7); what plugins say is in test_runner.py."""

from __future__ import annotations

import pytest

from dmonitor.core import result
from dmonitor.core.model import Contact, Node, NodeStatus, Outcome, Statement

PARIS, NOW = Node("paris", "paris"), 10_000.0
NEVER = float("inf")


def stated(age: float, interval: int, rounds: int = 3) -> Contact:
    return Contact(
        PARIS,
        "id-paris",
        "",
        Statement(NodeStatus("paris", "id-paris", NOW, interval, NOW - age, rounds=rounds)),
    )


@pytest.mark.parametrize(
    ("age", "interval", "outcome"),
    [
        (0.0, 1, Outcome.OK),
        (120.0, 1, Outcome.OK),
        (120.1, 1, Outcome.UNKNOWN),  # late: it neither passes nor fails
        (420.0, 1, Outcome.UNKNOWN),
        (420.1, 1, Outcome.FAIL),
        (420.1, 2, Outcome.FAIL),
        (420.1, 3, Outcome.UNKNOWN),
        (540.1, 3, Outcome.FAIL),
        (360.0, 5, Outcome.OK),
        (900.0, 5, Outcome.UNKNOWN),
        (900.1, 5, Outcome.FAIL),
        (NEVER, 1, Outcome.UNKNOWN),
    ],
)
def test_the_age_of_its_last_finished_round(age: float, interval: int, outcome: Outcome) -> None:
    found = result.of_contact(stated(age, interval), "id-oslo", 0.5)
    assert (found.outcome, found.duration) == (outcome, 0.5)
    assert found.text == f"last round {age:.0f} s ago" if outcome is Outcome.OK else found.text


def test_an_interval_that_is_not_measured_yet_makes_no_checker_stale() -> None:
    """A new node whose cron comes every ten minutes."""
    assert result.of_contact(stated(500.0, 1, 1), "id-oslo").outcome is Outcome.UNKNOWN
    assert result.of_contact(stated(500.0, 1, 2), "id-oslo").outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("up", "outcome"), [(420.0, Outcome.UNKNOWN), (420.1, Outcome.FAIL), (9000.0, Outcome.FAIL)]
)
def test_a_checker_is_not_stale_because_its_machine_was_off(up: float, outcome: Outcome) -> None:
    """All nodes were off: none of them must find the others dead in its first round."""
    contact = stated(3600.0, 1)
    assert contact.statement
    status = contact.statement.status._replace(up=up)
    back = contact._replace(statement=contact.statement._replace(status=status))
    assert result.of_contact(back, "id-oslo").outcome is outcome


def test_the_text_says_what_is_wrong() -> None:
    assert result.of_contact(stated(610.0, 1), "x").text == (
        "its daemon answers, but its checker has finished no round for 10 min; they were 1 min apart"
    )


@pytest.mark.parametrize(
    ("contact", "outcome"),
    [
        (Contact(PARIS, reason="connection refused"), Outcome.FAIL),
        (Contact(PARIS, "id-paris", reason="no statement in time"), Outcome.FAIL),
        (Contact(PARIS, reason="too many open files", unable=True), Outcome.UNKNOWN),
        (Contact(PARIS, "id-oslo", reason="this node itself"), Outcome.OK),
        (
            Contact(
                PARIS,
                "id-oslo",
                reason="another machine with a copy of this node's id",
                cloned=True,
            ),
            Outcome.UNKNOWN,
        ),
    ],
)
def test_without_a_statement(contact: Contact, outcome: Outcome) -> None:
    found = result.of_contact(contact, "id-oslo")
    assert (found.outcome, found.text) == (outcome, contact.reason)


@pytest.mark.parametrize(
    "line",
    [
        b"SSH OK - OpenSSH_9.2p1 (protocol 2.0) | time=0.01s",
        b"HTTP CRITICAL: HTTP/1.1 404 Not Found",
        b"CRITICAL - Socket timeout",
        b"PING WARNING - Packet loss = 20%",
    ],
)
def test_a_monitoring_plugin_that_is_run_as_it_is_names_wrap(line: bytes) -> None:
    hint = "says neither OK nor FAIL (if it is a monitoring plugin: see wrap in dmonitor-plugin(7))"
    assert result.classify(0, line) == (Outcome.UNKNOWN, f"{hint}: {line.decode()} (exit 0)")
    other = b"the page is very OK today"
    assert (
        result.classify(0, other)[1]
        == "says neither OK nor FAIL: the page is very OK today (exit 0)"
    )
