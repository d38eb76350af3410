"""What the parts of the benchmark share: rows of the table, what a program costs, and a place to run it in."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
PYTHON = "/usr/bin/python3"
# What cron gives to what it starts. Nothing of the caller's, for every plugin would pay for it.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/",
    "SHELL": "/bin/sh",
}


class Failed(Exception):
    """A part cannot be measured, or what it measured is not what it should have been."""


class Row(NamedTuple):
    """A line of the table. HOLDS is None where nothing was promised."""

    what: str
    figure: float
    spread: tuple[float, float] | None
    unit: str
    target: str = ""
    holds: bool | None = None

    def cells(self) -> list[str]:
        """Return the row as text. A figure that has a target is rounded up: never in our favour."""
        spread = " – ".join(self._text(value) for value in self.spread) if self.spread else ""
        holds = {None: "", True: "yes", False: "NO"}[self.holds]
        return [self.what, self._text(self.figure), spread, self.unit, self.target, holds]

    def _text(self, value: float) -> str:
        digits = {"×": 3, "s": 3, "ms": 2}.get(self.unit, 0)
        return f"{math.ceil(value * 10**digits) / 10**digits if self.target else value:.{digits}f}"


def measured(what: str, values: Sequence[float], unit: str, at_most: float | None = None) -> Row:
    """Make a row of repeated figures: their median, their least and greatest. The unrounded median is what is judged."""
    figure = statistics.median(values)
    target = "" if at_most is None else f"≤ {at_most:g}"
    return Row(
        what,
        figure,
        (min(values), max(values)),
        unit,
        target,
        None if at_most is None else figure <= at_most,
    )


def ratios(
    what: str, ours: Sequence[float], theirs: Sequence[float], at_most: float | None = None
) -> Row:
    """Make a row of OURS in terms of THEIRS: a ratio for each repeat, of what was measured one after the other."""
    return measured(
        what, [one / other for one, other in zip(ours, theirs, strict=True)], "×", at_most
    )


class Usage(NamedTuple):
    """What a program and all its descendants cost: seconds, and the kB of the one that ever had the most memory."""

    user: float
    system: float
    wall: float
    memory: int

    @property
    def cpu(self) -> float:
        return self.user + self.system


class Bench:
    """A directory that goes when the benchmark ends, with the programs that measure in it."""

    def __init__(self, directory: Path, repeats: int) -> None:
        self.directory, self.repeats = directory, repeats
        self.notes: list[str] = []  # what is to be said above the table
        directory.chmod(0o755)  # root's monitors become somebody else
        for name in ("floor", "measure"):
            self.compile(name, name)

    def compile(self, source: str, result: str, *options: str) -> Path:
        """Compile SOURCE.c, which lies beside this file, into RESULT; return its path."""
        path = self.directory / result
        command = ["cc", "-O2", "-Wall", *options, "-o", str(path), str(HERE / f"{source}.c")]
        done = _run_or_fail(command)
        if done.stderr:
            raise Failed(f"{source}.c: {done.stderr}")
        return path

    def measure(
        self,
        command: Sequence[str],
        *,
        meanwhile: Callable[[int], float | None] | None = None,
        environment: Mapping[str, str] = ENVIRONMENT,
        limit: float = 180.0,
        cgroup: Path | None = None,
    ) -> Usage:
        """Run COMMAND until it and all its descendants are gone; Failed unless it ends with 0, within LIMIT seconds.

        MEANWHILE is called with its pid; it may end it, and return the wall time that counts. What it prints goes to `output`.
        """
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(open(self.directory / "output", "wb"))
            read, write = os.pipe()
            report = stack.enter_context(open(read))
            tree = subprocess.Popen(
                [str(self.directory / "measure"), str(write), *command],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[write],
                start_new_session=True,  # Ctrl-C is for us
                cwd="/",
                preexec_fn=None if cgroup is None else lambda: join(cgroup),
            )
            os.close(write)
            stack.callback(tree.wait)
            stack.callback(tree.terminate)  # at which it kills all of its descendants
            previous = signal.signal(signal.SIGALRM, _too_long)
            stack.callback(signal.signal, signal.SIGALRM, previous)
            stack.callback(signal.setitimer, signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_REAL, limit)
            pid = int(report.readline() or "0")
            wall = meanwhile(pid) if meanwhile and pid else None
            fields = report.readline().split()
        if len(fields) != 5 or fields[0] != "0":
            status = fields[0] if fields else "no status"
            raise Failed(f"{Path(command[0]).name} ended with {status}: {self.output()[-2000:]}")
        user, system, until_gone = map(float, fields[1:4])
        return Usage(user, system, until_gone if wall is None else wall, int(fields[4]))

    def output(self) -> str:
        """Return what the program that was measured last has printed so far."""
        return (self.directory / "output").read_text(errors="replace")


@contextlib.contextmanager
def bench(repeats: int) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="dmonitor-benchmark.") as directory:
        yield Bench(Path(directory), repeats)


def interleaved(runs: Mapping[str, Callable[[], Usage]], repeats: int) -> dict[str, list[Usage]]:
    """Run all of RUNS one after the other, and that REPEATS times: what else the machine does meets them all alike."""
    found: dict[str, list[Usage]] = {name: [] for name in runs}
    for number in range(repeats):
        progress(f"repeat {number + 1} of {repeats}")
        for name, run in runs.items():
            found[name].append(run())
    return found


def cpus(usages: Sequence[Usage]) -> list[float]:
    return [usage.cpu for usage in usages]


def progress(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)


def run(command: Sequence[str], **options: str | Path) -> str:
    """Return what COMMAND prints; Failed where it fails."""
    return _run_or_fail(command, **options).stdout


def _run_or_fail(command: Sequence[str], **options: str | Path) -> subprocess.CompletedProcess[str]:
    if not shutil.which(command[0]):
        raise Failed(f"there is no {command[0]} here")
    cwd = options.get("cwd")
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=cwd
    )
    if done.returncode:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done


def descendants(pid: int) -> set[int]:
    """List all processes below PID, which is not one of them; some that come or go meanwhile may be missing."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in map(int, (task / "children").read_text().split()):
                    found |= {child} | descendants(child)
    return found


@contextlib.contextmanager
def own_cgroup() -> Iterator[Path | None]:
    """Make a cgroup that counts CPU time; None where that cannot be done, as for an ordinary user."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    path = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    path = path and path / f"dmonitor-benchmark.{os.getpid()}"
    try:
        if path:
            path.mkdir()
    except OSError:
        path = None
    try:
        yield path
    finally:
        if path:
            _remove(path)


def _remove(cgroup: Path) -> None:
    for _ in range(100):  # the last of its processes may not be gone entirely
        with contextlib.suppress(OSError):
            cgroup.rmdir()
            return
        time.sleep(0.02)


def join(cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))


def cgroup_seconds(cgroup: Path) -> float:
    """Return the CPU seconds that all processes that ever were in CGROUP have had."""
    stat = dict(line.split() for line in (cgroup / "cpu.stat").read_text().splitlines())
    return int(stat["usage_usec"]) / 1e6


def _too_long(*_: object) -> None:
    raise Failed("it takes too long")
