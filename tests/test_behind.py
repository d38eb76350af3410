"""Tests behind others: what is told while a router is DOWN, and what of it an operator writes (rule R9)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmonitor.config.configuration import load_configuration
from dmonitor.config.tests import read_tests
from dmonitor.core import behind, mail
from dmonitor.core.effects import NodeMemory
from dmonitor.core.ledger import Ledger
from dmonitor.core.model import (
    Hidden,
    Incident,
    Kind,
    Node,
    Notification,
    Outcome,
    Silence,
    Test,
    TestState,
    Verdict,
)
from dmonitor.operator import metrics, page, report, terminal

ROUTER, OTHER, WEB = (Test(host, "ping") for host in ("router", "other", "web"))
SLOW, EARLIER = (Test(host, "ping") for host in ("slow", "earlier"))
NOW = 10_000.0


def incident(test: Test, began: float = NOW - 100.0, **facts: Any) -> Incident:
    facts = {"seen": facts.get("closed", NOW) - 10.0, "minute": 7, **facts}
    return Incident((f"{test}{began}",), test, began, **facts)


def is_hidden(of_web: Incident, *others: Incident, parents: tuple[Test, ...] = (ROUTER,)) -> bool:
    ledger = Ledger([of_web, *others], lambda _: [])
    return behind.is_hidden(of_web, parents, ledger, now=NOW, slowest=1)


def test_what_fails_behind_a_router_that_is_down() -> None:
    web, router = incident(WEB), incident(ROUTER)
    assert is_hidden(web, router)
    assert not is_hidden(web)
    assert not is_hidden(web, router, parents=())
    assert not is_hidden(web, router, parents=(ROUTER, OTHER)), "one way is left"
    assert is_hidden(web, router, incident(OTHER), parents=(ROUTER, OTHER))
    assert not is_hidden(incident(WEB, alert="oslo"), router), "it was told before"
    assert not is_hidden(incident(WEB, flapping=7), router)
    assert not is_hidden(web, incident(ROUTER, flapping=7)), "that says not that it is DOWN"


def test_a_peer_hides_by_its_word_only_what_it_has_stated_itself() -> None:
    by_word = incident(ROUTER, heard_from="paris")
    assert not is_hidden(incident(WEB), by_word)
    assert not is_hidden(incident(WEB, heard_from="rome"), by_word)
    assert is_hidden(incident(WEB, heard_from="paris"), by_word)


def test_what_still_fails_after_the_router_has_come_back() -> None:
    came_back = incident(ROUTER, closed=NOW - 30.0, alert="oslo")
    assert is_hidden(incident(WEB, seen=NOW - 30.0), came_back), "the same looks saw both"
    assert not is_hidden(incident(WEB, seen=NOW - 10.0), came_back)
    long_ago = incident(ROUTER, began=NOW - 900.0, closed=NOW - 121.0)
    unseen = incident(WEB, began=NOW - 800.0, seen=NOW - 121.0)
    assert not is_hidden(unseen, long_ago), "nobody looks"
    came_late = incident(WEB, began=NOW - 300.0, closed=NOW + 91.0, seen=NOW - 60.0)
    assert is_hidden(came_late, came_back), "this node was off, and nobody saw it fail alone"
    assert not is_hidden(came_late._replace(seen=NOW - 29.0), came_back)


def test_what_was_over_before_the_router_failed_is_told() -> None:
    over = incident(WEB, began=NOW - 500.0, closed=NOW - 300.0, seen=NOW - 310.0)
    assert not is_hidden(over, incident(ROUTER))
    ended_together = incident(WEB, closed=NOW, seen=NOW - 60.0)
    assert is_hidden(ended_together, incident(ROUTER, closed=NOW))


def test_the_mail_names_what_is_behind() -> None:
    router = incident(ROUTER)
    ledger = Ledger([router, incident(WEB)], lambda _: [])
    found = behind.hidden_behind(
        {WEB: (ROUTER,), OTHER: (ROUTER,)}, {ROUTER}, ledger, now=NOW, slowest=1
    )
    assert found == {ROUTER: Hidden(down=(WEB,))}
    assert behind.hidden_behind({WEB: (ROUTER,)}, {OTHER}, ledger, now=NOW, slowest=1) == {}
    told = [Notification(Kind.ALERT, router, "admin", NOW)]
    composer = mail.Composer(node="oslo", now=NOW, behind=found)
    assert "\nAnd 1 test behind it: web/ping\n" in composer.mail(told).decode()
    many = {ROUTER: Hidden(tuple(Test(f"host{number}", "ping") for number in range(50)))}
    text = mail.Composer(node="oslo", now=NOW, behind=many).mail(told).decode()
    (line,) = [line for line in text.splitlines() if line.startswith("And 50 tests behind it: ")]
    assert line.startswith("And 50 tests behind it: host0/ping, host1/ping, ")
    assert line.endswith(" …") and len(line) <= 200
    assert "behind" not in mail.Composer(node="oslo", now=NOW).mail(told).decode()


def test_the_mail_of_the_recovery_says_what_became_of_what_is_behind() -> None:
    """Nobody else tells it: what came back with the router was never mailed."""
    tests = {WEB: (ROUTER,), SLOW: (ROUTER,), OTHER: (ROUTER,), EARLIER: (ROUTER,)}
    router = incident(ROUTER, alert="oslo", closed=NOW - 5.0)
    came_back = incident(WEB, closed=NOW - 5.0, seen=NOW - 65.0, void=True)
    not_yet = incident(SLOW, seen=NOW - 5.0)
    silenced = incident(OTHER, began=NOW - 90.0, closed=NOW - 3.0, seen=NOW - 4.0, void=True)
    long_ago = incident(EARLIER, began=NOW - 900.0, closed=NOW - 800.0, void=True)
    older = incident(ROUTER, began=NOW - 950.0, closed=NOW - 800.0, alert="oslo")
    ledger = Ledger([older, router, came_back, not_yet, silenced, long_ago], lambda _: [])
    found = behind.hidden_behind(tests, {ROUTER}, ledger, now=NOW, slowest=1)
    assert found == {ROUTER: Hidden(down=(SLOW,), up=(WEB,))}
    told = [Notification(Kind.RECOVERY, router, "admin", NOW)]
    text = mail.Composer(node="oslo", now=NOW, behind=found).mail(told).decode()
    assert "\nWith it, 1 test behind it came back: web/ping\n" in text
    assert "\nNot yet UP: 1 test behind it: slow/ping\nWhat still fails when it is" in text
    also = [*told, Notification(Kind.ALERT, incident(Test("a", "b")), "admin", NOW)]
    text = mail.Composer(node="oslo", now=NOW, behind=found).mail(also).decode()
    assert "\nWith it, 1 test behind router/ping came back: web/ping\n" in text, "it has no section"


def seen_by_an_operator(*incidents: Incident, **more: Any) -> report.NodeReport:
    nodes = [Node("oslo", "oslo"), Node("paris", "paris")]
    own = NodeMemory((NOW - 60, NOW - 1), NOW - 1, name="oslo", reach=(("paris", ()),))
    tests = (ROUTER, WEB)
    states = dict.fromkeys(tests, TestState(Verdict.DOWN, Outcome.FAIL, NOW - 60))
    seen = report.NodeReport("oslo", NOW, nodes, tests, ["root"], 2, own, states, {}, [], [], {})
    return seen._replace(incidents=incidents, behind={WEB: (ROUTER,)}, **more)


def test_an_operator_sees_what_is_hidden_behind_what() -> None:
    paint = terminal.Paint(False)
    router, web = incident(ROUTER, alert="oslo"), incident(WEB)
    seen = seen_by_an_operator(router, web)
    status = report.status(seen)
    assert [(test["test"], test["behind"]) for test in status["tests"]] == [
        ("router/ping", []),
        ("web/ping", ["router/ping"]),
    ]
    assert status["owed"] == 0
    lines = terminal.status(status, paint)
    assert "nothing owed" in lines[0] and "[behind router/ping]" in lines[-1]
    why = "\n".join(terminal.why(report.why(seen, WEB, [web], []), paint))
    assert "It is behind router/ping, so it is not told by itself." in why
    assert "The alert waits, because it is behind router/ping." in why and "owed" not in why
    shown = page.page(status, [], {"silences": []}, report.nodes(seen))
    assert "<p>behind router/ping</p>" in shown
    assert 'dmonitor_test_behind{host="web",test="ping"} 1\n' in metrics.metrics(status, {}, {})


def test_what_is_owed_is_to_be_told_now() -> None:
    assert report.ability(seen_by_an_operator(incident(WEB)))["owed"] == 1, "the router is UP"
    silenced = seen_by_an_operator(incident(ROUTER), silences={"paris": [Silence("router")]})
    assert report.ability(silenced)["owed"] == 0
    assert report.ability(silenced._replace(silences={}))["owed"] == 1


def test_words_that_name_tests() -> None:
    assert read_tests("router/ping  other/tcp:22") == (ROUTER, Test("other", "tcp:22"))
    for text in (
        "",
        "router",
        "router/",
        "/ping",
        "router/ping/x",
        "-r/ping",
        "router/ping,other/ping",
    ):
        with pytest.raises(ValueError, match="HOST/TEST"):
            read_tests(text)


def configured(tree: Path, **files: str) -> tuple[dict[Test, tuple[Test, ...]], list[str]]:
    """Return what stands behind what in hosts.d, and the problems; a key is HOST, for its .all, or HOST_TEST."""
    for key, text in files.items():
        host, _, name = key.partition("_")
        path = tree / "hosts.d" / host / (name or ".all")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    loaded = load_configuration(str(tree))
    assert None not in loaded.tests.values()
    found = [str(problem).replace(f"{tree}/hosts.d/", "") for problem in loaded.problems]
    return dict(loaded.behind), [text for text in found if "BEHIND" in text]


def test_a_file_says_what_its_test_stands_behind(tmp_path: Path) -> None:
    found, problems = configured(
        tmp_path, router_ping="", other_ping="", web_ping="BEHIND=router/ping other/ping\n"
    )
    assert (found, problems) == ({WEB: (ROUTER, OTHER)}, [])


def test_all_tests_of_a_host_may_stand_behind_one_of_them(tmp_path: Path) -> None:
    found, problems = configured(tmp_path, web="BEHIND=web/ping\n", web_ping="", web_ssh="")
    assert (found, problems) == ({Test("web", "ssh"): (WEB,)}, [])


def test_who_stands_behind_nothing_known_is_told_by_itself(tmp_path: Path) -> None:
    found, problems = configured(
        tmp_path, router_ping="", web_ping="BEHIND=ruter/ping\n", web_ssh="BEHIND=router/ping\n"
    )
    assert found == {Test("web", "ssh"): (ROUTER,)}
    hint = "no such test in hosts.d; did you mean router/ping?"
    assert problems == [f"error: web/ping: BEHIND=ruter/ping: {hint}"]


def test_a_circle_hides_nothing(tmp_path: Path) -> None:
    found, problems = configured(
        tmp_path,
        router_ping="BEHIND=other/ping\n",
        other_ping="BEHIND=web/ping\n",
        web_ping="BEHIND=router/ping\n",
        web_ssh="BEHIND=web/ping\n",
    )
    assert found == {Test("web", "ssh"): (WEB,)}
    way = "router/ping behind other/ping behind web/ping behind router/ping"
    assert f"error: router/ping: BEHIND leads back to this test: {way}" in problems
    assert len(problems) == 3
