"""`dmonitor report`: what was down, what nobody has seen, and that the second is not taken for up."""

from __future__ import annotations

import datetime
import json
import os
from typing import Any

import jsonschema
import pytest
from local_nodes import LocalNode, run_as, running
from test_operator import SCHEMA

from dmonitor.core import absence, effects, model
from dmonitor.core.model import Absence, Change, Incident, Judgement, Test, Verdict
from dmonitor.operator import availability, availability_text, terminal
from dmonitor.operator.report import NodeReport
from dmonitor.store import state

HOUR = 3600.0
DAY = 24 * HOUR
OF = availability.period("2026-11", datetime.datetime(2027, 2, 1).timestamp())
MONTH = 30 * DAY
WEB, PING = Test("www.example.com", "web"), Test("www.example.com", "ping")


def view(*absences: Absence, since: float = 1.0, **more: Any) -> NodeReport:
    node = effects.NodeMemory(
        begins=(OF.until - 120, OF.until - 60),
        finished=more.pop("finished", OF.until - 30),
        present_since=since,
        absences=absences,
    )
    return NodeReport(
        me="oslo",
        now=more.pop("now", OF.until),
        nodes=(),
        tests=more.pop("tests", {WEB, PING}),
        addresses=(),
        quorum=2,
        node=node,
        test_states={},
        latest={},
        incidents=(),
        outbox=(),
        silences={},
    )


def change(day: float, verdict: Verdict = Verdict.UP, test: Test = WEB) -> Change:
    node = model.Node("oslo", "oslo")
    answer = model.Answer(node, result=model.Result(model.Outcome.OK))
    return Change(test, OF.since + day * DAY, Judgement(verdict, 2, (answer,)))


def incident(day: float, hours: float | None, test: Test = WEB, **more: Any) -> Incident:
    began = OF.since + day * DAY
    closed = None if hours is None else began + hours * HOUR
    return Incident(ids=(f"id{day:06.0f}",), test=test, began=began, closed=closed, **more)


LONG_UP = [change(-100), change(-100, test=PING)]


def report(
    known: list[Incident], changes: list[Change] | None = None, seen: NodeReport | None = None
) -> dict[str, Any]:
    changes = LONG_UP if changes is None else changes
    facts = availability.availability(seen or view(), known, changes, OF)
    jsonschema.validate(facts, {**SCHEMA, "$ref": "#/$defs/report"})
    return facts


def of_web(facts: dict[str, Any]) -> dict[str, Any]:
    (host,) = facts["hosts"]
    found: dict[str, Any]
    (found,) = [each for each in host["tests"] if each["test"] == str(WEB)]
    return found


def test_a_month_of_nothing_is_up() -> None:
    facts = report([])
    assert (facts["from"][:19], facts["to"][:19]) == ("2026-11-01T00:00:00", "2026-12-01T00:00:00")
    assert of_web(facts)["availability"] == of_web(facts)["seen"] == facts["seen"] == 1


def test_what_was_down() -> None:
    facts = report([incident(3, 2), incident(5, 4), incident(6, 3, PING), incident(-1, 25)])
    found = of_web(facts)
    assert found["down_seconds"] == 7 * HOUR  # of the last one, only what is in this month
    assert found["availability"] == pytest.approx(1 - 7 * HOUR / MONTH)
    assert (found["incidents"], found["recovered"]) == (3, 3)
    assert found["longest_recovery_seconds"] == 25 * HOUR
    assert found["mean_recovery_seconds"] == round((2 + 4 + 25) / 3 * HOUR)
    assert facts["hosts"][0]["down_seconds"] == 10 * HOUR
    together = report([incident(3, 2), incident(3, 3, PING)])
    assert together["hosts"][0]["down_seconds"] == 3 * HOUR


def test_what_is_still_down_has_not_recovered() -> None:
    found = of_web(report([incident(29, None), incident(10, 1)]))
    assert found["down_seconds"] == 25 * HOUR and found["recovered"] == 1


@pytest.mark.parametrize(
    "known",
    [
        incident(3, 2, flapping=7),
        incident(3, 2, heard_from="paris"),
        incident(3, None, removed=True),
        incident(-3, 2),
        incident(31, 2),
    ],
)
def test_what_was_no_incident_of_the_month_does_not_count(known: Incident) -> None:
    found = of_web(report([known]))
    assert (found["down_seconds"], found["incidents"], found["availability"]) == (0, 0, 1)


def test_an_incident_that_was_overtaken_ends_when_it_was_last_seen() -> None:
    began = OF.since + 3 * DAY
    found = of_web(report([incident(3, 500, overtaken=True, seen=began + HOUR)]))
    assert found["down_seconds"] == HOUR


def test_what_this_node_has_not_seen_is_not_up() -> None:
    """It was off for six days, and a test was down for one day that others have seen, and one of the others."""
    off = Absence(OF.since + 10 * DAY, OF.since + 16 * DAY)
    facts = report([incident(12, 24), incident(20, 24)], seen=view(off))
    found = of_web(facts)
    assert facts["seen"] == pytest.approx(24 / 30)
    assert len(facts["absences"]) == 1
    assert found["unknown_seconds"] == 5 * DAY and found["down_seconds"] == 2 * DAY
    assert found["availability"] == pytest.approx(23 / 25)
    assert found["seen"] == pytest.approx(25 / 30)
    whole = view(Absence(OF.since - DAY, OF.until + DAY))
    assert of_web(report([], seen=whole))["availability"] is None


def test_what_is_not_recorded_is_not_up() -> None:
    facts = report([], seen=view(since=OF.since + 15 * DAY))
    assert facts["seen"] == of_web(facts)["seen"] == 0.5 and facts["absences"] == []
    assert facts["unrecorded_seconds"] == 15 * DAY
    facts = report([], seen=view(since=float("-inf")))
    assert facts["seen"] == 0 and facts["recorded_since"] is None
    assert of_web(facts)["availability"] is None


def test_a_node_that_is_off_since_its_last_round() -> None:
    facts = report([], seen=view(finished=OF.until - 3 * DAY))
    assert facts["seen"] == pytest.approx(0.9)


def test_what_this_node_could_not_tell_is_not_up() -> None:
    changes = [
        *(change(-100), change(2, Verdict.UNKNOWN), change(5), change(6, Verdict.UNCONFIRMED)),
        *(change(8, Verdict.LOCAL), change(9)),
    ]
    found = of_web(report([], changes))
    assert found["unknown_seconds"] == 5 * DAY and found["availability"] == 1


def test_a_test_is_known_since_its_first_round() -> None:
    found = of_web(report([], [change(20)]))
    assert found["seen"] == pytest.approx(10 / 30)
    assert of_web(report([], []))["availability"] is None


def test_hosts_in_order_and_nodes_last() -> None:
    tests = {WEB, Test("node", "paris"), Test("a.example.com", "web"), Test("zz", "web")}
    facts = report([], seen=view(tests=tests))
    assert [host["host"] for host in facts["hosts"]] == [
        "a.example.com",
        "www.example.com",
        "zz",
        "node",
    ]


@pytest.mark.parametrize(
    ("share", "shown"),
    [(1, "100 %"), (0.9999999, "99.999 %"), (0.5, "50.000 %"), (0, "0.000 %"), (None, "-")],
)
def test_a_share_is_never_rounded_up(share: float | None, shown: str) -> None:
    assert availability_text.percent(share) == shown


@pytest.mark.parametrize(
    ("text", "now", "since", "until"),
    [
        ("", "2026-11-29T12:00", "2026-11-01T00:00", "2026-11-29T12:00"),
        ("last", "2026-01-29T12:00", "2025-12-01T00:00", "2026-01-01T00:00"),
        ("2026-02", "2026-11-29T12:00", "2026-02-01T00:00", "2026-03-01T00:00"),
    ],
)
def test_months(text: str, now: str, since: str, until: str) -> None:
    at = datetime.datetime.fromisoformat
    found = availability.period(text, at(now).timestamp())
    assert (found.since, found.until) == (at(since).timestamp(), at(until).timestamp())


@pytest.mark.parametrize(
    "text", ["2026-13", "2026-00", "0000-01", "9999-12", "2027-01", "november", "2026-1"]
)
def test_what_is_no_month(text: str) -> None:
    with pytest.raises(availability.NoMonth):
        availability.period(text, datetime.datetime(2026, 11, 29).timestamp())


def test_it_is_shown() -> None:
    off = Absence(OF.since + 10 * DAY, OF.since + 10 * DAY + 6 * HOUR)
    facts = report([incident(3, 2), incident(5, 1, void=True)], seen=view(off))
    lines = availability_text.text(facts, terminal.Paint(False))
    assert lines[:2] == [
        "Availability as oslo knows it, 2026-11-01 00:00 to 2026-12-01 00:00.",
        "This node saw 99.166 % of that time: 1 absence, from 2026-11-11 00:00 to 2026-11-11 06:00."
        " What it has not seen, or could not tell, is neither up nor down.",
    ]
    assert lines[2:7] == [
        "",
        "HOST, TEST       AVAILABLE  DOWN  INCIDENTS     RECOVERY              SEEN",
        "www.example.com  99.579 %   3 h   2 (1 untold)  1 h 30 min (max 2 h)  99.166 %",
        "  ping           100 %      -     0             -                     99.166 %",
        "  web            99.579 %   3 h   2 (1 untold)  1 h 30 min (max 2 h)  99.166 %",
    ]
    page = availability_text.page(facts)
    assert page.count("<tr") == 4 and "99.579 %" in page
    odd = {**facts, "node": "<script>\x1b"}
    assert "&lt;script&gt;\\x1b knows it" in availability_text.page(odd)


def test_absences_are_remembered() -> None:
    memory = effects.NodeMemory()
    memory = absence.remember(memory, 1000.0)
    assert (memory.present_since, memory.absences) == (1000.0, ())
    memory = memory._replace(finished=1010.0, begins=(940.0, 1000.0))
    assert absence.remember(memory, 1310.0).absences == ()
    memory = absence.remember(memory, 1311.0)
    assert memory.absences == (Absence(1010.0, 1311.0),)
    hourly = memory._replace(begins=(-HOUR, 0.0, HOUR), finished=2000.0, absences=())
    assert absence.remember(hourly, 2000.0 + 3 * HOUR).absences == ()
    later = absence.remember(memory._replace(finished=500 * DAY), 500 * DAY + 60)
    assert later.absences == ()


def test_only_so_many_absences_are_remembered() -> None:
    """What is dropped is not taken for a time in which this node saw anything."""
    memory = effects.NodeMemory(present_since=0.0, finished=0.0)
    for number in range(1, 301):
        memory = absence.remember(memory, 1000.0 * number)._replace(finished=1000.0 * number + 10)
    assert len(memory.absences) == 200
    assert memory.present_since == 100_000.0 and memory.absences[0] == Absence(100_010.0, 101_000.0)


def test_a_node_reports(three: list[LocalNode]) -> None:
    for node in three:
        node.plugin("web", "echo FAIL")
        node.test("www.example.com/web")
    with running(three):
        for node in three:
            node.round()
        ran = three[0].run("dmonitor", "report", "--json")
        facts = json.loads(ran.stdout)
        jsonschema.validate(facts, {**SCHEMA, "$ref": "#/$defs/report"})
        (found,) = facts["hosts"][0]["tests"]
        assert found["test"] == "www.example.com/web"
        assert found["incidents"] == 1 and found["recovered"] == 0
        assert facts["recorded_since"] and facts["seen"] < 1
        assert "www.example.com" in three[0].run("dmonitor", "report").stdout
        assert three[0].run("dmonitor", "report", "--html").stdout.startswith("<!DOCTYPE html>")
        assert three[0].run("dmonitor", "report", "2999-01").returncode == 64


def test_an_absence_outlives_the_round_that_has_ended_it(three: list[LocalNode]) -> None:
    first = three[0]
    first.plugin("web", "echo OK")
    first.test("www.example.com/web")
    first.round()
    with state.Store(str(first.state)) as store:  # it is as if this node had been off since then
        memory = store.node_memory()
        ago = memory.finished - 2 * HOUR
        memory = memory._replace(finished=ago, begins=(ago,), present_since=ago - HOUR)
        assert store.save(effects.Save(node=memory))
    for path in first.state.iterdir():
        os.chown(path, run_as().pw_uid, run_as().pw_gid)
    first.round()
    first.round()
    facts = json.loads(first.run("dmonitor", "report", "--json").stdout)
    if facts["from"][:10] != facts["to"][:10]:  # not in the first hours of a month
        (away,) = facts["absences"]
        begin, end = (datetime.datetime.fromisoformat(away[key]) for key in ("from", "to"))
        assert 2 * HOUR <= (end - begin).total_seconds() < 3 * HOUR
