"""Second looks: a test fails only if two looks do, and a flake is no vote."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from dmonitor import facts
from dmonitor.core import result
from dmonitor.core.effects import NodeMemory, Save
from dmonitor.core.model import Incident, Outcome, Result, Test
from dmonitor.execution import looks
from dmonitor.store import state

OK = Result(Outcome.OK, "fine", 0.1)
FAIL = Result(Outcome.FAIL, "refused", 0.2)
TIMEOUT = Result(Outcome.TIMEOUT, "not ended after 10 s", 10.0)
UNKNOWN = Result(Outcome.UNKNOWN, "no tool", 0.1)
WEB, SSH = Test("www.example.com", "web"), Test("www.example.com", "ssh")
Done = Callable[[Test, Result], None]


class FakeRunner:
    """Runs nothing: the test says how each run ends."""

    def __init__(self) -> None:
        self.has_room = True
        self.runs: list[tuple[Test, str, Mapping[str, str], Done]] = []  # that have not ended
        self.begun: list[Test] = []

    def submit(self, test: Test, plugin: str, parameters: Mapping[str, str], done: Done) -> None:
        self.submit_all([(test, plugin, parameters)], done)

    def submit_all(self, wanted: Iterable[tuple[Test, str, Mapping[str, str]]], done: Done) -> None:
        for test, plugin, parameters in wanted:
            self.begun.append(test)
            self.runs.append((test, plugin, parameters, done))

    def end(self, test: Test, ended: Result) -> None:
        """End the run of `test` that began first."""
        (run, *_) = [run for run in self.runs if run[0] == test]
        self.runs.remove(run)
        run[3](test, ended)


class Bench:
    """Tests that are looked at, and what came of them."""

    def __init__(
        self, limit: float = float("inf"), again: Callable[[Test], bool] = lambda _: True
    ) -> None:
        self.runner = FakeRunner()
        self.failed: list[tuple[Test, Result]] = []
        self.done: list[tuple[Test, Result]] = []
        self.looks = looks.Looks(
            self.runner,  # type: ignore[arg-type]
            failed=lambda test, first: self.failed.append((test, first)),
            again=again,
            limit=limit,
        )

    def submit(self, *tests: Test) -> None:
        wanted = [(test, f"/plugins/{test.name}", {"PORT": "1"}) for test in tests]
        self.looks.submit_all(wanted, lambda test, ended: self.done.append((test, ended)))

    def wait(self) -> None:
        """Wait until `tick` is due, and call it."""
        pause = self.looks.pause()
        assert pause is not None and pause < 1
        time.sleep(pause)
        self.looks.tick()


@pytest.fixture(autouse=True)
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "SECOND_LOOK_PAUSE", 0.1)


@pytest.mark.parametrize("first", [OK, UNKNOWN], ids=["ok", "unknown"])
def test_what_does_not_fail_is_looked_at_once(first: Result) -> None:
    bench = Bench()
    bench.submit(WEB)
    assert bench.looks.pending == 1 and bench.looks.pause() is None
    bench.runner.end(WEB, first)
    assert bench.done == [(WEB, first)] and bench.failed == []
    assert bench.looks.pending == 0 and bench.looks.pause() is None


@pytest.mark.parametrize(
    ("first", "second", "concluded"),
    [
        (FAIL, FAIL, FAIL),
        (FAIL, TIMEOUT, TIMEOUT),
        (TIMEOUT, FAIL, FAIL),
        (FAIL, OK, OK._replace(text="fine (a first look failed: refused)")),
        (TIMEOUT, OK, OK._replace(text="fine (a first look failed: not ended after 10 s)")),
        (FAIL, UNKNOWN, UNKNOWN._replace(text="no tool (a first look failed: refused)")),
        (
            FAIL._replace(text=""),
            OK._replace(text=""),
            OK._replace(text="(a first look failed: FAIL)"),
        ),
    ],
)
def test_two_looks(first: Result, second: Result, concluded: Result) -> None:
    bench = Bench()
    bench.submit(WEB)
    ((test, plugin, parameters, _),) = bench.runner.runs
    bench.runner.end(WEB, first)
    assert bench.failed == [(WEB, first)], "it is told at once"
    assert bench.done == [] and bench.looks.pending == 1
    bench.looks.tick()
    assert bench.runner.runs == [], "not before the pause is over"
    bench.wait()
    ((again, plugin_again, parameters_again, _),) = bench.runner.runs
    assert (again, plugin_again, parameters_again) == (test, plugin, parameters)
    bench.runner.end(WEB, second)
    assert bench.done == [(WEB, concluded)] and bench.looks.pending == 0
    assert bench.failed == [(WEB, first)], "a second look that fails is no first one"


def test_a_text_with_both_looks_is_of_one_line() -> None:
    """A line of a plugin may be as long as one on the wire."""
    first, last = FAIL._replace(text="f" * 240), OK._replace(text="o" * 240)
    text = result.of_two_looks(first, last).text
    assert len(text) <= 240
    assert text.startswith("o" * 100) and "… (a first look failed: ffff" in text


def test_first_looks_go_before_second_looks() -> None:
    bench = Bench()
    bench.submit(WEB)
    bench.runner.end(WEB, FAIL)
    bench.runner.has_room = False
    bench.submit(SSH)
    time.sleep(0.11)
    bench.looks.tick()
    assert bench.runner.begun == [WEB, SSH], "the second look waits for room"
    assert bench.looks.pause() is None, "which comes when a plugin ends"
    bench.runner.has_room = True
    bench.looks.tick()
    assert bench.runner.begun == [WEB, SSH, WEB]


def test_a_first_look_stands_if_there_is_no_more_time() -> None:
    bench = Bench()
    bench.submit(WEB, SSH)
    bench.runner.end(WEB, FAIL)
    bench.looks.stand()
    assert bench.done == [(WEB, FAIL)]
    assert bench.looks.pending == 1, "what has not been looked at has no result"
    time.sleep(0.11)
    bench.looks.tick()
    assert bench.runner.begun == [WEB, SSH], "no look begins for nothing"


def test_a_first_look_stands_at_the_limit() -> None:
    """And a second look that ends later concludes nothing, even if the test runs again."""
    bench = Bench(limit=0.3)
    bench.submit(WEB, SSH)
    bench.runner.end(WEB, FAIL)
    bench.wait()
    assert bench.runner.begun == [WEB, SSH, WEB]
    bench.wait()
    assert bench.done == [(WEB, FAIL)]
    bench.looks.tick()
    assert bench.looks.pending == 1 and bench.looks.pause() is None
    bench.submit(WEB)
    bench.runner.end(WEB, OK)  # the second look of before
    assert bench.done == [(WEB, FAIL)] and bench.looks.pending == 2
    bench.runner.end(WEB, OK)
    assert bench.done == [(WEB, FAIL), (WEB, OK)]
    bench.runner.end(SSH, TIMEOUT)
    bench.looks.tick()
    assert bench.done[2:] == [(SSH, TIMEOUT)], "its time was over before it failed"


def test_what_has_an_open_incident_is_looked_at_once() -> None:
    """It would change nothing, and all that fails would take twice as long."""
    bench = Bench(again=lambda test: test != WEB)
    bench.submit(WEB, SSH)
    bench.runner.end(WEB, FAIL)
    bench.runner.end(SSH, FAIL)
    assert bench.done == [(WEB, FAIL)] and bench.failed == [(SSH, FAIL)]


@pytest.mark.parametrize(
    ("age", "flapping", "known"),
    [(20.0, 0, True), (179.0, 0, True), (200.0, 0, False), (20.0, 7, False)],
)
def test_a_daemon_goes_by_what_its_checker_has_found_lately(
    tmp_path: Path, age: float, flapping: int, known: bool
) -> None:
    with state.Store(str(tmp_path)) as store:
        now = store.clock.now()
        held = Incident(("a",), WEB, now - 60.0, flapping=flapping)
        over = Incident(("b",), SSH, now - 60.0, closed=now - 30.0)
        store.save(Save(NodeMemory(finished=now - age), incidents=(held, over)))
        assert facts._open_tests(store) == (frozenset([WEB]) if known else frozenset())
