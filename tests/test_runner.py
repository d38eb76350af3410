"""Rule R1 and promise 6: the results of plugins, hostile ones too, and that nothing of them is left."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import HOSTILE, LONG, MARK, kills_warden, plant, strays, warden_of
from local_nodes import wait_until

from dmonitor.core import result
from dmonitor.core.model import Outcome, Result, Test
from dmonitor.execution import load_gate, plugin, processes, supervisor
from dmonitor.execution.plugin_process import PluginProcess
from dmonitor.execution.runner import Runner

LIMIT = 3.0  # seconds; what ends by itself has to do that before, on a busy machine too
Wanted = tuple[Test, str, dict[str, str]]  # what submit_all takes


class Bench:
    """A runner, its loop, and a directory of plugins."""

    def __init__(self, plugins: Path, concurrency: int = 100, *, limit: float = LIMIT) -> None:
        self.plugins = plugins
        self.selector = selectors.DefaultSelector()
        self.runner = Runner(self.selector, concurrency, limit)
        self.results: dict[str, Result] = {}
        self.finished: dict[str, float] = {}

    def submit(self, *names: str, parameters: dict[str, str] | None = None) -> None:
        for name in names:
            self.runner.submit(
                Test("www.example.com", name),
                f"{self.plugins}/check_{name}",
                parameters or {},
                self._done,
            )

    def _done(self, test: Test, result: Result) -> None:
        self.results[test.name] = result
        self.finished[test.name] = time.monotonic()

    def loop(self) -> None:
        deadline = time.monotonic() + 30
        while self.runner.pending:
            assert time.monotonic() < deadline
            for key, _ in self.selector.select(1):
                key.data()

    def write(self, name: str, code: str) -> str:
        path = self.plugins / f"check_{name}"
        path.write_text("#!/bin/sh\n" + code)
        path.chmod(0o755)
        return name

    def run(self, code: str, parameters: dict[str, str] | None = None) -> Result:
        self.submit(self.write("it", code), parameters=parameters)
        self.loop()
        return self.results["it"]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(plugin, "TRUST_SECONDS", 0.3)
    made = Bench(tmp_path)
    yield made
    made.runner.close()
    made.selector.close()


def test_what_a_plugin_gets(bench: Bench) -> None:
    said = bench.run('echo OK $# "$1" $(pwd) $(ulimit -c) $(ulimit -f) $(ulimit -n) $(tty)').text
    assert said == f"1 www.example.com / 0 {1_000_000 // 512} 256 not a tty"


def test_a_plugin_cannot_raise_its_limits(bench: Bench) -> None:
    """Those of files and of memory; so a limit is a hard one, too."""
    for limit, value in (("f", 1_000_000 // 512), ("d", 1_000_000_000 // 1024)):
        said = bench.run(
            f"ulimit -S -{limit} unlimited 2>/dev/null && echo OK raised || "
            f"echo OK $(ulimit -S -{limit}) $(ulimit -H -{limit})"
        ).text
        assert said == f"{value} {value}"


def test_a_plugin_that_takes_all_memory_ends_by_itself(bench: Bench) -> None:
    """One that asks for less than the limit, as java does for its heap, runs."""
    code = "exec python3 -c 'x = bytearray({}); print(\"OK got it\")' 2>&1"
    assert bench.run(code.format(2 * 10**9)).text.endswith(
        "Traceback (most recent call last): (exit 1)"
    )
    flags = "mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS"
    reserve = f"import mmap; mmap.mmap(-1, 10**10, prot=0, flags={flags})"
    assert bench.run(f"exec python3 -c '{reserve}; print(\"OK reserved\")'").text == "reserved"


def test_environment_is_exact(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    assert not os.path.lexists(plugin.HOME), "nobody leaves a file there that programs obey"
    said = bench.run(
        'echo OK $(env | grep -v "^_=" | sort | tr "\\n" " ")',
        {"PORT": "80", "URL": "http://a/b=c d"},
    ).text
    assert (
        said
        == f"HOME={plugin.HOME} LC_ALL=C.UTF-8 PATH={plugin.PATH} PORT=80 PWD=/ URL=http://a/b=c d"
    )


def test_signals_are_as_a_program_expects(bench: Bench) -> None:
    said = bench.run("echo OK $(grep -E '^Sig(Blk|Ign)' /proc/self/status)").text.split()
    assert [said[0], said[2]] == ["SigBlk:", "SigIgn:"]
    assert [int(mask, 16) & 0x7FFFFFFF for mask in (said[1], said[3])] == [
        0,
        0,
    ]  # above are the C library's own


def test_a_plugin_inherits_no_descriptor(bench: Bench) -> None:
    assert bench.run("echo OK $(ls /proc/self/fd | tr '\\n' ' ')").text in ("0 1 2 3", "0 1 2")


PRIVILEGES = """
import selectors, sys
from dmonitor.core.model import Test
from dmonitor.execution.runner import Runner

if __name__ == "__main__":
    selector = selectors.DefaultSelector()
    runner = Runner(selector, 1)
    runner.submit(Test("h", "it"), sys.argv[1], {}, lambda _, result: print(result.text))
    while runner.pending:
        for key, _ in selector.select():
            key.data()
    runner.close()
    print(open("/proc/self/status").read().split("NoNewPrivs:")[1].split()[0])
"""


def run_with_privileges(
    directory: Path, starter: str, plugin_code: str
) -> subprocess.CompletedProcess[str]:
    """Have a program that `starter` has given its privileges run a plugin; return what it says."""
    plugin = directory / "check_it"
    plugin.write_text(plugin_code)
    plugin.chmod(0o755)
    return subprocess.run(
        [*starter.split(), sys.executable, "-c", PRIVILEGES, str(plugin)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        cwd=Path(__file__).parents[1],
    )


@pytest.mark.parametrize(
    ("starter", "plugins"),
    [
        ("", "0"),
        pytest.param(
            "setpriv --inh-caps +net_raw --ambient-caps +net_raw",
            "1",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a capability"),
        ),
    ],
)
def test_plugins_gain_no_privilege_if_ping_needs_none(
    tmp_path: Path, starter: str, plugins: str
) -> None:
    """The program itself may: its sendmail may be set-gid."""
    plugin_code = "#!/bin/sh\necho OK $(grep NoNewPrivs /proc/self/status)\n"
    said = run_with_privileges(tmp_path, starter, plugin_code)
    assert said.stdout == f"NoNewPrivs: {plugins}\n0\n", said


# Says by which ways it reaches the program that its supervisor works for; its own children it has to reach.
REACHER = """#!/usr/bin/python3 -I
import ctypes, os, time
def reach(pid):
    if ctypes.CDLL(None).ptrace(0x4206, pid, 0, 0) == 0:  # PTRACE_SEIZE
        yield "ptrace"
    for way, flags in (("mem", os.O_RDWR), ("root/tmp", os.O_RDONLY)):
        try:
            os.close(os.open(f"/proc/{pid}/{way}", flags))
        except PermissionError:
            continue
        yield way
with open(f"/proc/{os.getppid()}/stat") as file:
    program = int(file.read().rpartition(") ")[2].split()[1])
child = os.fork()
if not child:
    time.sleep(60)
assert len(list(reach(child))) == 3
os.kill(child, 9)
here = os.path.dirname(__file__)
os.makedirs(f"{here}/one/two")
os.rename(f"{here}/one/two", f"{here}/two")
print("OK", *reach(program))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a capability")
@pytest.mark.parametrize(
    ("starter", "ways"),
    [("", "ptrace mem root/tmp"), ("setpriv --inh-caps +net_raw --ambient-caps +net_raw", "")],
)
def test_a_plugin_that_gains_no_privilege_reaches_no_process_that_may(
    tmp_path: Path, starter: str, ways: str
) -> None:
    """It could have the round start a set-gid program for it."""
    said = run_with_privileges(tmp_path, starter, REACHER)
    assert said.stdout == f"{ways}\n0\n", said


# What each plugin gave, what it was to give, and the seconds that the slowest took.
HostileResults = tuple[dict[str, Result], dict[str, tuple[Outcome, str]], float]


@pytest.fixture(scope="module")
def hostile_results(tmp_path_factory: pytest.TempPathFactory) -> HostileResults:
    bench = Bench(tmp_path_factory.mktemp("plugins"))
    expected = plant(bench.plugins)
    bench.submit(*expected)
    bench.loop()
    wait_until(lambda: not strays())
    took = max(result.duration for result in bench.results.values())
    bench.runner.close()
    return bench.results, expected, took


@pytest.mark.parametrize("name", [*HOSTILE, "dangling", "missing", "directory"])
def test_hostile(name: str, hostile_results: HostileResults) -> None:
    results, expected, _ = hostile_results
    outcome, text = expected[name]
    assert results[name].outcome is outcome
    assert text in results[name].text
    assert results[name].text.isprintable()


def test_there_are_thirty() -> None:
    assert len(HOSTILE) >= 30


def test_the_limit_holds(hostile_results: HostileResults) -> None:
    *_, took = hostile_results
    assert LIMIT <= took < LIMIT + 5


def test_a_slow_plugin_delays_no_other(bench: Bench) -> None:
    for name in ("slow1", "slow2"):
        bench.write(name, "exec sleep 60")
    bench.write("quick", "echo OK")
    bench.submit("slow1", "slow2", "quick")
    bench.loop()
    assert bench.results["quick"].outcome is Outcome.OK
    for name in ("slow1", "slow2"):
        assert bench.results[name].outcome is Outcome.TIMEOUT
        assert bench.finished["quick"] < bench.finished[name]


def test_a_plugin_that_slept_over_its_limit_is_no_failing_vote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had not all of its time. A machine that wakes up must not say TIMEOUT of all that ran."""
    monkeypatch.setattr(supervisor, "_SLEEP_SECONDS", 0.3)
    bench = Bench(tmp_path)
    stopped = bench.runner._supervisor_pid
    try:
        bench.write("hangs", f"echo FAIL of before; exec sleep {LONG}")
        bench.write("ends", "sleep 0.5; echo FAIL of before")
        bench.submit("hangs", "ends")
        wait_until(lambda: len(strays()) == 1)
        os.kill(stopped, signal.SIGSTOP)
        time.sleep(LIMIT + 0.5)
        os.kill(stopped, signal.SIGCONT)
        bench.loop()
        for name in ("hangs", "ends"):
            assert bench.results[name].outcome is Outcome.UNKNOWN, bench.results[name]
            assert "slept" in bench.results[name].text
            assert bench.results[name].duration > LIMIT
        wait_until(lambda: not strays())
        bench.submit("hangs")
        bench.loop()
        assert bench.results["hangs"].outcome is Outcome.TIMEOUT, "awake again"
    finally:
        os.kill(stopped, signal.SIGCONT)
        bench.runner.close()
        bench.selector.close()


def test_a_stray_of_a_plugin_that_runs_is_left_alone(bench: Bench, tmp_path: Path) -> None:
    """Some plugins start a tunnel in the background, as a new session, and use it."""
    bench.write(
        "tunnel",
        f"(setsid sh -c 'sleep 0.7; echo used >{tmp_path}/used; sleep {LONG}' &)\nsleep 1\necho OK $(cat {tmp_path}/used)",
    )
    bench.write("other", f"setsid sleep {LONG} & sleep 0.2; echo OK")
    bench.submit("tunnel", "other")
    bench.loop()
    assert bench.results["tunnel"] == Result(Outcome.OK, "used", bench.results["tunnel"].duration)
    wait_until(lambda: not strays())


def test_one_sweep_ends_what_comes_to_light_while_it_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a chain in which each process is the parent of the next one, a look finds the first.

    If a sweep killed no more than that, a chain of forks in which each ends at once would go on.
    """
    monkeypatch.setattr(supervisor, "_SWEEP_INTERVAL", 1.5)
    bench = Bench(tmp_path)
    depth = 40  # as many sweeps would take a minute
    bench.write(
        "links",
        f"""cat >{tmp_path}/link <<'END'
#!/bin/sh
echo >>{tmp_path}/links
[ $1 -gt 0 ] && setsid {tmp_path}/link $(($1 - 1)) {MARK}
sleep {LONG}
END
chmod 755 {tmp_path}/link
setsid {tmp_path}/link {depth} {MARK} </dev/null >/dev/null 2>&1 &
until [ "$(wc -l <{tmp_path}/links)" -gt {depth} ]; do sleep 0.1; done
echo OK linked
""",
    )
    bench.submit("links")
    bench.loop()
    assert bench.results["links"].text == "linked", bench.results
    assert len((tmp_path / "links").read_text().splitlines()) == depth + 1
    wait_until(lambda: not strays(), 20)
    bench.runner.close()
    bench.selector.close()


def test_a_killed_supervisor_leaves_nothing_and_is_replaced(bench: Bench) -> None:
    bench.write("hangs", f"setsid sleep {LONG} & sleep {LONG}")
    bench.write("quick", "echo OK")
    bench.submit("hangs")
    wait_until(lambda: len(strays()) == 2)
    os.kill(bench.runner._supervisor_pid, signal.SIGKILL)
    bench.loop()
    assert bench.results["hangs"].outcome is Outcome.UNKNOWN
    assert not strays()
    bench.submit("quick")
    bench.loop()
    assert bench.results["quick"].outcome is Outcome.OK


def test_a_plugin_that_clears_its_mark_and_kills_the_supervisor_outlives_nothing(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "check_kills").write_text(kills_warden(tmp_path / "proof"))
    (tmp_path / "check_kills").chmod(0o755)
    killed = bench.runner._supervisor_pid
    bench.submit("kills")
    bench.loop()
    assert warden_of(tmp_path / "proof") == killed != bench.runner._supervisor_pid
    assert "was killed" in bench.results["kills"].text
    assert not strays()


def test_what_a_dead_supervisor_left_is_ended_though_nobody_listens_any_more(
    bench: Bench, tmp_path: Path
) -> None:
    """A round stops listening once it has the results that it waits for."""
    bench.runner.close()
    mine = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    bench.runner = Runner(bench.selector, 100)
    try:
        (tmp_path / "check_kills").write_text(kills_warden(tmp_path / "proof", kills=False))
        (tmp_path / "check_kills").chmod(0o755)
        bench.write("hangs", f"setsid sleep {LONG} & sleep {LONG}")
        bench.submit("kills", "hangs")
        wait_until((tmp_path / "proof").exists)
        wait_until(lambda: len(strays()) == 4)
        assert warden_of(tmp_path / "proof") == bench.runner._supervisor_pid
        os.kill(bench.runner._supervisor_pid, signal.SIGKILL)
        bench.runner.close()
        assert not strays()
        assert os.waitpid(mine, os.WNOHANG) == (0, 0), "what the program had before is its own"
    finally:
        os.kill(mine, signal.SIGKILL)
        os.waitpid(mine, 0)
        bench.runner = Runner(bench.selector, 100)  # for the fixture to close


def test_a_plugin_that_takes_long_is_told_of_once_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time counts from its start: it may have waited for room before."""
    monkeypatch.setattr(result, "SLOW_LOOK", 1.5)
    bench = Bench(tmp_path, concurrency=1, limit=20.0)
    told: list[tuple[str, float]] = []
    began = time.monotonic()

    def slow(test: Test) -> None:
        assert test.name not in bench.results
        told.append((test.name, time.monotonic() - began))

    try:
        wanted: list[Wanted] = []
        for name, code in (("quick", "sleep 0.5; echo OK"), ("late", "sleep 4; echo OK")):
            bench.write(name, code)
            wanted.append((Test("h", name), f"{tmp_path}/check_{name}", {}))
        bench.runner.submit_all(wanted, bench._done, slow)
        bench.loop()
        assert {each.outcome for each in bench.results.values()} == {Outcome.OK}
        ((name, seconds),) = told
        assert name == "late" and seconds >= 2.0
    finally:
        bench.runner.close()
        bench.selector.close()


def test_what_is_cancelled_is_ended_and_nobody_is_told(tmp_path: Path) -> None:
    """Also if it has not begun. It leaves nothing, and its place is free for others."""
    bench = Bench(tmp_path, concurrency=1, limit=20.0)
    try:
        bench.write("hangs", f"setsid sleep {LONG} & sleep {LONG}")
        bench.write("waits", f"echo >{tmp_path}/begun; echo OK")
        bench.write("other", "echo OK")
        bench.submit("hangs", "hangs", "waits", "other")
        wait_until(lambda: len(strays()) == 2)
        began = time.monotonic()
        for name in ("waits", "hangs"):  # the first one must not begin meanwhile
            bench.runner.cancel(Test("www.example.com", name))
        assert bench.runner.pending == 1
        bench.loop()
        assert time.monotonic() - began < 10
        assert list(bench.results) == ["other"] and not (tmp_path / "begun").exists()
        wait_until(lambda: not strays())
    finally:
        bench.runner.close()
        bench.selector.close()


def test_a_result_that_is_there_already_is_cancelled_as_well(bench: Bench) -> None:
    bench.write("one", "echo OK")
    bench.write("two", "echo OK")

    def done(test: Test, got: Result) -> None:
        bench._done(test, got)
        for name in ("one", "two"):
            bench.runner.cancel(Test("www.example.com", name))

    for name in ("one", "two"):
        path = f"{bench.plugins}/check_{name}"
        bench.runner.submit(Test("www.example.com", name), path, {}, done)
    time.sleep(0.5)
    bench.loop()
    assert len(bench.results) == 1, "the one that was read first"
    bench.submit("one")
    bench.loop()
    assert bench.results["one"].outcome is Outcome.OK


def test_what_the_program_left_to_be_collected_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage of the program, if collected in the supervisor, would close a descriptor there that has its number."""
    start, count = PluginProcess.start, iter(range(1_000_000))

    def start_and_collect(self: PluginProcess, environment: dict[str, str], mark: int) -> None:
        if next(count) == 20:
            gc.collect()
        start(self, environment, mark)

    monkeypatch.setattr(PluginProcess, "start", start_and_collect)

    class Forgotten:
        def __init__(self) -> None:
            self.me, self.descriptor = self, os.dup(0)

        def __del__(self) -> None:
            os.close(self.descriptor)

    gc.disable()
    try:
        for _ in range(40):
            Forgotten()
        bench = Bench(tmp_path)
    finally:
        gc.enable()
    bench.write("quick", "echo OK")
    done: list[Result] = []
    for _ in range(60):
        bench.runner.submit(
            Test("h", "quick"), f"{bench.plugins}/check_quick", {}, lambda _, got: done.append(got)
        )
    bench.loop()
    bench.runner.close()
    bench.selector.close()
    assert [got.outcome for got in done] == [Outcome.OK] * 60


def test_a_killed_program_leaves_nothing(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        bench = Bench(tmp_path)
        bench.submit(bench.write("hangs", f"setsid sleep {LONG} & sleep {LONG}"))
        time.sleep(60)
        os._exit(1)
    wait_until(lambda: len(strays()) == 2)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_until(lambda: not strays())


def test_many_results_at_once(bench: Bench) -> None:
    """More than fits the socket in either direction: a supervisor that waits for us while we write would hang."""
    bench.write("quick", "echo OK " + "x" * 280)
    done: list[Result] = []
    for _ in range(2000):
        bench.runner.submit(
            Test("h", "quick"),
            f"{bench.plugins}/check_quick",
            {"FILL": "y" * 500},
            lambda _, got: done.append(got),
        )
    bench.loop()
    assert {got.text for got in done if got.outcome is not Outcome.OK} == set() and len(
        done
    ) == 2000


def test_more_at_once_than_a_plugin_may_have_descriptors(tmp_path: Path) -> None:
    bench = Bench(tmp_path, concurrency=400)
    bench.write("slow", "sleep 1; echo OK")
    done: list[Result] = []
    for _ in range(400):
        bench.runner.submit(
            Test("h", "slow"), f"{bench.plugins}/check_slow", {}, lambda _, got: done.append(got)
        )
    bench.loop()
    bench.runner.close()
    bench.selector.close()
    assert {(got.outcome, got.text) for got in done} <= {
        (Outcome.OK, ""),
        (Outcome.TIMEOUT, f"not ended after {LIMIT:.1f} s"),
    }
    assert sum(got.outcome is Outcome.OK for got in done) > 100, (
        "many, if not all, on a slow machine"
    )


def test_memory_and_descriptors_stay_flat(bench: Bench) -> None:
    bench.write("quick", "echo OK")
    bench.write("stray", f"setsid sleep {LONG} & echo OK")

    def look() -> tuple[int, int]:
        bench.submit(*["quick"] * 50, *["stray"] * 5)
        bench.loop()
        wait_until(lambda: not strays())
        status = Path(f"/proc/{bench.runner._supervisor_pid}/status").read_text()
        resident = int(status.partition("VmRSS:")[2].split()[0])
        return len(os.listdir(f"/proc/{bench.runner._supervisor_pid}/fd")), resident

    look()
    descriptors, resident = look()
    for _ in range(10):
        after = look()
    assert after[0] == descriptors
    assert after[1] - resident < 1000  # kB


def test_marks() -> None:
    assert processes.mark_of(os.getpid()) is None
    mark = processes.Marker().set(7)
    try:
        assert processes.mark_of(os.getpid()) == mark
    finally:
        processes.Marker().clear()
    assert processes.mark_of(os.getpid()) is None


@pytest.mark.parametrize(
    ("output", "outcome", "text"),
    [
        (b"OK\n", Outcome.OK, ""),
        (b"OK - load 0.1\nmore", Outcome.OK, "- load 0.1"),
        (b"  FAIL   two  words ", Outcome.FAIL, "two words"),
        (b"UNKNOWN no tool", Outcome.UNKNOWN, "no tool"),
        (
            b"ok fine",
            Outcome.UNKNOWN,
            "the first word must be OK or FAIL, and is 'ok': ok fine (exit 0)",
        ),
        (
            b"OK: fine",
            Outcome.UNKNOWN,
            "the first word must be OK or FAIL, and is 'OK:': OK: fine (exit 0)",
        ),
        (b"BROKEN x", Outcome.UNKNOWN, "says neither OK nor FAIL: BROKEN x (exit 0)"),
    ],
)
def test_classify(output: bytes, outcome: Outcome, text: str) -> None:
    assert result.classify(0, output) == (outcome, text)


def test_a_plugin_that_others_could_have_written_is_not_run(bench: Bench) -> None:
    """Links are followed. The target counts, and so does the directory."""
    for name, mode in (("mine", 0o755), ("theirs", 0o775), ("everybodys", 0o757)):
        bench.write(name, "echo OK")
        (bench.plugins / f"check_{name}").chmod(mode)
    (bench.plugins / "check_linked").symlink_to(bench.plugins / "check_theirs")
    (bench.plugins / "check_link").symlink_to(bench.plugins / "check_mine")

    ok, unknown = Outcome.OK, Outcome.UNKNOWN

    def results(*names: str) -> dict[str, Outcome]:
        time.sleep(
            plugin.TRUST_SECONDS + 0.1
        )  # for which a plugin is trusted once it was looked at
        bench.submit(*names)
        bench.loop()
        return {name: bench.results[name].outcome for name in names}

    wrong = dict.fromkeys(("theirs", "everybodys", "linked"), unknown)
    assert results("mine", "link", *wrong) == {"mine": ok, "link": ok, **wrong}
    assert (
        "check_linked can be written by users other than its owner; run chmod go-w on it"
        in bench.results["linked"].text
    )
    if os.geteuid() == 0:
        os.chown(bench.plugins / "check_mine", 12345, -1)
        assert results("link") == {"link": unknown}
        assert "belongs to user 12345, and not to root or " in bench.results["link"].text
        os.chown(bench.plugins / "check_mine", 0, -1)
    bench.plugins.chmod(0o777)
    assert results("mine") == {"mine": unknown} and "lies in " in bench.results["mine"].text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_link_into_a_directory_of_somebody_else_is_not_followed(
    bench: Bench, tmp_path: Path
) -> None:
    """The owner of the directory can replace the file at any moment."""
    theirs = tmp_path / "theirs" / "deep"
    theirs.mkdir(parents=True)
    (bench.plugins / bench.write("honest", "echo OK")).with_name("check_honest").rename(
        theirs / "check_honest"
    )
    (bench.plugins / "check_link").symlink_to(theirs / "check_honest")
    for owner, mode, outcome in (
        (0, 0o755, Outcome.OK),
        (1234, 0o755, Outcome.UNKNOWN),
        (0, 0o777, Outcome.UNKNOWN),
        (0, 0o1777, Outcome.OK),
    ):
        os.chown(theirs.parent, owner, -1)
        theirs.parent.chmod(mode)
        time.sleep(plugin.TRUST_SECONDS + 0.1)
        bench.submit("link")
        bench.loop()
        assert bench.results["link"].outcome is outcome, (owner, mode)


def test_every_directory_on_the_way_to_a_link_counts(tmp_path: Path) -> None:
    """A user who can write to /etc/dmonitor can replace the directory plugins, wherever its links lead."""
    target, plugins = tmp_path / "target", tmp_path / "etc" / "plugins"
    target.write_text("#!/bin/sh\n")
    target.chmod(0o755)
    plugins.mkdir(parents=True)
    (plugins / "check_link").symlink_to(target)
    assert plugin.distrust_reason(f"{plugins}/check_link") == ""
    plugins.parent.chmod(0o777)
    assert plugin.distrust_reason(f"{plugins}/check_link").startswith(
        f"lies in {plugins.parent}, which can be written by users other than"
    )


@pytest.mark.parametrize("crowd", [-1, 1_000_000])
def test_a_crowd_delays_plugins_and_does_not_stop_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crowd: int
) -> None:
    """On a machine that is always crowded, a batch starts each tenth of a second; here, each half.

    Without a crowd it would be each 20 s, if anything waited.
    """
    patience = 0.5 if crowd < 0 else 20.0
    monkeypatch.setattr(load_gate, "CROWD_PER_PROCESSOR", crowd)
    monkeypatch.setattr(load_gate, "PATIENCE", patience)
    bench = Bench(tmp_path)
    try:
        bench.write("ok", "echo OK")
        began = time.monotonic()
        done: list[Result] = []
        wanted: list[Wanted] = [
            (Test(f"h{number}", "ok"), f"{bench.plugins}/check_ok", {})
            for number in range(4 * load_gate.BATCH)
        ]
        bench.runner.submit_all(wanted, lambda _, got: done.append(got))
        bench.loop()
        took = time.monotonic() - began
    finally:
        bench.runner.close()
        bench.selector.close()
    assert [got.outcome for got in done] == [Outcome.OK] * len(wanted)
    if crowd < 0:
        assert took > 2.5 * patience
    else:
        assert took < 0.9 * patience


def test_a_long_queue_keeps_nobody_from_ending(bench: Bench) -> None:
    """Between any two batches, limits are enforced, results are sent, and the program may end."""
    bench.runner.close()
    bench.runner = Runner(bench.selector, 100, limit=0.3)
    bench.write("hangs", "sleep 30")
    bench.write("ok", "echo OK")
    when: dict[str, float] = {}
    began = time.monotonic()

    def done(test: Test, got: Result) -> None:
        when.setdefault(test.name, time.monotonic() - began)

    wanted: list[Wanted] = [
        (Test(f"h{number}", name), f"{bench.plugins}/check_{name}", {})
        for name in ("hangs", "ok")
        for number in range(1500)
    ]
    bench.runner.submit_all(wanted[1499:], done)
    bench.loop()
    everything = time.monotonic() - began
    assert when["ok"] < 0.5 * everything, "the first result was held back"
    assert when["hangs"] - 0.3 < 0.5 * everything, when


def test_no_room_for_a_process_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.runner.close()
    real, refused = os.posix_spawn, itertools.count()

    def spawn(*arguments: Any, **named: Any) -> int:
        if next(refused) in range(5, 25):
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return real(*arguments, **named)

    monkeypatch.setattr(os, "posix_spawn", spawn)
    bench.runner = Runner(bench.selector, 100)
    bench.write("slow", "sleep 0.5; echo OK")
    got: list[Result] = []
    bench.runner.submit_all(
        [(Test(f"h{number}", "slow"), f"{bench.plugins}/check_slow", {}) for number in range(30)],
        lambda _, each: got.append(each),
    )
    bench.loop()
    assert {each.outcome for each in got} == {Outcome.OK} and len(got) == 30


def test_why_a_plugin_cannot_be_started_is_said_rightly_beside_many_others(bench: Bench) -> None:
    """At that time more descriptors are open than a plugin may have."""
    bench.write("slow", "sleep 1; echo OK")
    path = bench.plugins / bench.write("bad", "").replace("bad", "check_bad")
    path.write_text("#!/nonexistent/sh\n")
    wanted: list[Wanted] = [
        (Test(f"h{number}", "slow"), f"{bench.plugins}/check_slow", {}) for number in range(200)
    ]
    bench.runner.submit_all([*wanted, (Test("h", "bad"), str(path), {})], bench._done)
    bench.loop()
    assert "names an interpreter that does not exist" in bench.results["bad"].text


def test_a_system_that_does_not_say_how_busy_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: Any, *arguments: Any, **named: Any) -> int:
        if path == "/proc/loadavg":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refuse)
    bench = Bench(tmp_path)
    try:
        assert bench.run("echo OK").outcome is Outcome.OK
    finally:
        bench.runner.close()
        bench.selector.close()


def test_nobody_gets_what_another_wrote_to_stderr(bench: Bench) -> None:
    for number in range(3):
        assert bench.run("exit 1").text == "said nothing (exit 1)"
        assert (
            bench.run(f"echo complaint {number} >&2").text
            == f"said nothing; stderr: complaint {number} (exit 0)"
        )


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("raise ValueError('no\\nsuch day')", "ValueError: no"),
        ("try:\n 1 / 0\nexcept ZeroDivisionError:\n {}['a']", "KeyError: 'a'"),
        ("print('OK'", "SyntaxError: '(' was never closed"),
        # Its frames alone are longer than what is read of a plugin's output.
        ("def f(n):\n g(n)\ndef g(n):\n f(n - 1) if n else {}['b']\nf(20)", "KeyError: 'b'"),
        ("import sys; print('one\\ntwo', file=sys.stderr)", "one"),
    ],
)
def test_a_plugin_in_python_that_raises_says_what_and_not_where(
    bench: Bench, code: str, text: str
) -> None:
    bench.write("raises", "")
    (bench.plugins / "check_raises").write_text(f"#!{sys.executable} -I\n{code}\n")
    bench.submit("raises")
    bench.loop()
    told = bench.results["raises"].text
    assert told.startswith(f"said nothing; stderr: {text} (exit "), told
