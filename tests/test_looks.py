"""Second looks: a test fails only if two looks do, and a flake is no vote."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

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
Slow = Callable[[Test], None]


class FakeRunner:
    """Runs nothing: the test says how each run ends."""

    def __init__(self) -> None:
        self.has_room = True
        self.runs: list[tuple[Test, str, Mapping[str, str], Done]] = []  # that have not ended
        self.begun: list[Test] = []
        self.cancelled: list[Test] = []
        self.slow: Slow = lambda _: None  # what is to be called with a test that takes long

    def submit(self, test: Test, plugin: str, parameters: Mapping[str, str], done: Done) -> None:
        self.submit_all([(test, plugin, parameters)], done)

    def submit_all(
        self,
        wanted: Iterable[tuple[Test, str, Mapping[str, str]]],
        done: Done,
        slow: Slow | None = None,
    ) -> None:
        self.slow = slow or self.slow
        for test, plugin, parameters in wanted:
            self.begun.append(test)
            self.runs.append((test, plugin, parameters, done))

    def cancel(self, test: Test) -> None:
        self.cancelled.append(test)
        self.runs = [run for run in self.runs if run[0] != test]

    def end(self, test: Test, ended: Result, number: int = 0) -> None:
        """End the run of `test` that began first, or the one of this number."""
        run = [run for run in self.runs if run[0] == test][number]
        self.runs.remove(run)
        run[3](test, ended)


class Bench:
    """Tests that are looked at, and what came of them."""

    def __init__(
        self,
        limit: float = float("inf"),
        again: Callable[[Test], bool] = lambda _: True,
        beside: Callable[[Test], bool] = lambda _: True,
    ) -> None:
        self.runner = FakeRunner()
        self.failed: list[tuple[Test, Result]] = []
        self.slow: list[Test] = []
        self.done: list[tuple[Test, Result]] = []
        self.looks = looks.Looks(
            self.runner,  # type: ignore[arg-type]
            failed=lambda test, first: self.failed.append((test, first)),
            slow=self.slow.append,
            again=again,
            beside=beside,
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
    """And the second look is ended, so that it concludes nothing if the test runs again."""
    bench = Bench(limit=0.3)
    bench.submit(WEB, SSH)
    bench.runner.end(WEB, FAIL)
    bench.wait()
    assert bench.runner.begun == [WEB, SSH, WEB]
    bench.wait()
    assert bench.done == [(WEB, FAIL)]
    bench.looks.tick()
    assert bench.looks.pending == 1 and bench.looks.pause() is None
    assert bench.runner.cancelled == [WEB], "the second look, for which nobody waits any more"
    bench.submit(WEB)
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


# A first look that takes long.


def slow_bench(**options: Any) -> Bench:
    """Return a bench where the first look at WEB takes long, and the second one runs beside it."""
    bench = Bench(**options)
    bench.submit(WEB)
    assert bench.slow == [] and bench.looks.pause() is None
    bench.runner.slow(WEB)
    assert bench.slow == [WEB], "it is told at once"
    assert bench.looks.pause() == 0
    bench.looks.tick()
    assert bench.runner.begun == [WEB, WEB]
    ((_, *first), (_, *second)) = [run[:3] for run in bench.runner.runs]
    assert first == second == ["/plugins/web", {"PORT": "1"}]
    return bench


FIRST, SECOND = 0, 1  # of the two looks under way


@pytest.mark.parametrize("passes", [FIRST, SECOND])
def test_the_first_of_two_looks_that_passes_decides(passes: int) -> None:
    bench = slow_bench()
    bench.runner.end(WEB, OK, passes)
    assert bench.done == [(WEB, OK)] and bench.failed == [], "what is only slow is no flake"
    assert bench.runner.cancelled == [WEB] and bench.looks.pending == 0
    assert bench.looks.pause() is None


@pytest.mark.parametrize("passes", [FIRST, SECOND])
def test_a_failing_look_waits_for_the_one_beside_it(passes: int) -> None:
    bench = slow_bench()
    bench.runner.end(WEB, FAIL, 1 - passes)
    assert bench.done == [] and bench.looks.pause() is None
    bench.runner.end(WEB, OK)
    if passes == FIRST:
        assert bench.done == [(WEB, OK)] and bench.failed == []
    else:
        text = "fine (a first look failed: refused)"
        assert bench.done == [(WEB, OK._replace(text=text))]
        assert bench.failed == [(WEB, FAIL)]
    assert bench.runner.begun == [WEB, WEB] and bench.runner.cancelled == []


@pytest.mark.parametrize("ends", [FIRST, SECOND])
def test_two_looks_beside_each_other_that_fail_are_a_failing_result(ends: int) -> None:
    bench = slow_bench()
    bench.runner.end(WEB, FAIL, ends)
    time.sleep(0.11)
    bench.looks.tick()
    assert bench.done == [] and bench.runner.begun == [WEB, WEB]
    bench.runner.end(WEB, TIMEOUT)
    assert bench.done == [(WEB, TIMEOUT)] and bench.looks.pause() is None
    assert bench.failed == [(WEB, FAIL if ends == FIRST else TIMEOUT)], (
        "only the first look is told"
    )


def test_two_looks_that_fail_at_the_same_moment_are_one_sample() -> None:
    """A restart of the target resets both connections at once."""
    for last, concluded in (
        (OK, OK._replace(text="fine (a first look failed: refused)")),
        (FAIL, FAIL),
    ):
        bench = slow_bench()
        bench.runner.end(WEB, FAIL)
        bench.runner.end(WEB, FAIL)
        assert bench.done == []
        bench.wait()
        assert bench.runner.begun == [WEB, WEB, WEB]
        bench.runner.end(WEB, last)
        assert bench.done == [(WEB, concluded)]


@pytest.mark.parametrize(
    ("looks_end", "concluded"),
    [
        ([(SECOND, UNKNOWN), (FIRST, OK)], OK),
        ([(FIRST, UNKNOWN), (FIRST, OK)], OK),
        ([(FIRST, UNKNOWN), (FIRST, UNKNOWN)], UNKNOWN),
        (
            [(FIRST, UNKNOWN), (FIRST, FAIL)],
            UNKNOWN._replace(text="no tool (a first look failed: refused)"),
        ),
        (
            [(SECOND, UNKNOWN), (FIRST, FAIL)],
            UNKNOWN._replace(text="no tool (a first look failed: refused)"),
        ),
        (
            [(SECOND, FAIL), (FIRST, UNKNOWN)],
            UNKNOWN._replace(text="no tool (a first look failed: refused)"),
        ),
    ],
)
def test_an_unknown_look_beside_another(
    looks_end: list[tuple[int, Result]], concluded: Result
) -> None:
    bench = slow_bench()
    for number, ended in looks_end:
        assert bench.done == []
        bench.runner.end(WEB, ended, number)
    assert bench.done == [(WEB, concluded)]


def test_no_look_beside_what_is_always_slow_or_has_an_open_incident() -> None:
    never: list[dict[str, Any]] = [{"beside": lambda _: False}, {"again": lambda _: False}]
    for options in never:
        bench = Bench(**options)
        bench.submit(WEB)
        bench.runner.slow(WEB)
        assert bench.slow == [] and bench.looks.pause() is None
    bench = Bench(beside=lambda _: False)
    bench.submit(WEB)
    bench.runner.slow(WEB)
    bench.runner.end(WEB, TIMEOUT)
    assert bench.failed == [(WEB, TIMEOUT)], "and if it fails, it is as without that"
    bench.looks.tick()
    assert bench.runner.begun == [WEB]
    bench.wait()
    assert bench.runner.begun == [WEB, WEB]


def test_a_look_beside_another_waits_for_room() -> None:
    """If the first one fails meanwhile, the pause begins with its end, as without that."""
    bench = Bench()
    bench.submit(WEB)
    bench.runner.has_room = False
    bench.runner.slow(WEB)
    bench.looks.tick()
    assert bench.slow == [WEB] and bench.runner.begun == [WEB] and bench.looks.pause() is None
    bench.runner.end(WEB, FAIL)
    bench.runner.has_room = True
    bench.looks.tick()
    assert bench.runner.begun == [WEB], "not in the moment in which the first one failed"
    bench.wait()
    assert bench.runner.begun == [WEB, WEB]
    bench.looks.tick()
    assert bench.runner.begun == [WEB, WEB] and bench.looks.pause() is None


def test_no_look_begins_beside_one_that_has_passed_meanwhile() -> None:
    bench = Bench()
    bench.submit(WEB)
    bench.runner.slow(WEB)
    bench.runner.end(WEB, OK)
    bench.looks.tick()
    assert bench.done == [(WEB, OK)] and bench.runner.begun == [WEB]
    assert bench.runner.cancelled == []


def test_a_second_look_that_failed_stands_at_the_limit() -> None:
    bench = slow_bench(limit=0.3)
    bench.runner.end(WEB, FAIL, SECOND)
    bench.wait()
    assert bench.done == [(WEB, FAIL)] and bench.runner.cancelled == [WEB]


@pytest.mark.parametrize(
    ("age", "flapping", "known"),
    [(20.0, 0, True), (179.0, 0, True), (200.0, 0, False), (20.0, 7, False)],
)
@pytest.mark.parametrize("heard_from", ["", "liar"])
def test_a_daemon_goes_by_what_its_checker_has_found_lately(
    tmp_path: Path, age: float, flapping: int, known: bool, heard_from: str
) -> None:
    """What one peer alone has stated spares no test its second look."""
    known = known and not heard_from
    with state.Store(str(tmp_path)) as store:
        now = store.clock.now()
        held = Incident(("aaaaaaaa",), WEB, now - 60.0, flapping=flapping, heard_from=heard_from)
        over = Incident(("bbbbbbbb",), SSH, now - 60.0, closed=now - 30.0)
        store.save(Save(NodeMemory(finished=now - age, slow=(SSH,)), incidents=(held, over)))
        view = facts._checker_view(store)
        assert view.open == (frozenset([WEB]) if known else frozenset())
        assert view.slow == frozenset([SSH]), "that holds however long ago it was"


def test_a_question_reads_the_state_only_if_it_was_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read within the loop of the daemon, where others wait, and it may be large."""
    reads: list[int] = []
    view = facts._checker_view

    def counted(store: state.Store) -> facts._CheckerView:
        reads.append(1)
        return view(store)

    monkeypatch.setattr(facts, "_checker_view", counted)
    nothing: Any = None
    runner: Any = FakeRunner()
    node = facts.NodeFacts(nothing, runner, "", str(tmp_path), None, nothing, nothing)
    with state.Store(str(tmp_path)) as store:
        now = store.clock.now()
        store.save(Save(NodeMemory(finished=now)))
        assert node._is_looked_at_again(WEB)
        before = len(reads)
        for _ in range(3):
            assert node._is_looked_at_again(WEB) and node._is_looked_at_beside(WEB)
        assert len(reads) == before
        store.save(Save(incidents=(Incident(("aaaaaaaa",), WEB, now),)))
        assert not node._is_looked_at_again(WEB) and len(reads) > before
        before = len(reads)
        monkeypatch.setattr(facts, "_VIEW_SECONDS", -1.0)
        assert not node._is_looked_at_again(WEB) and len(reads) > before
