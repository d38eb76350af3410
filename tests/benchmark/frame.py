"""What the parts of the benchmark share: rows of the table, the cost of a program, a place to run it."""

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
# What cron gives to its programs. Nothing of the caller's, because each plugin would pay for it.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/",
    "SHELL": "/bin/sh",
}


class Failed(Exception):
    """A part cannot be measured, or a program that is measured did not do what it should."""


class Row(NamedTuple):
    """A line of the table. `holds` is None if nothing was promised."""

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
    """Return a row of repeated figures: median, minimum and maximum. The unrounded median is judged."""
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
    """Return a row of the ratios of `ours` to `theirs`, of which each two were measured one after the other."""
    return measured(
        what, [one / other for one, other in zip(ours, theirs, strict=True)], "×", at_most
    )


class Usage(NamedTuple):
    """What a program and all its descendants cost: seconds, and kB of the process that had most memory."""

    user: float
    system: float
    wall: float
    memory: int

    @property
    def cpu(self) -> float:
        return self.user + self.system


class Bench:
    """A directory for the time of the benchmark, with the programs that measure."""

    def __init__(self, directory: Path, repeats: int) -> None:
        self.directory, self.repeats = directory, repeats
        self.notes: list[str] = []  # lines above the table
        directory.chmod(0o755)  # because root's monitors become other users
        for name in ("floor", "measure"):
            self.compile(name, name)

    def compile(self, source: str, result: str, *options: str) -> Path:
        """Compile SOURCE.c, which lies next to this file, into `result`; return its path."""
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
        """Run `command` until it and all its descendants are gone; return what they cost.

        `meanwhile` is called with its pid; it may end the program, and return the wall time that counts. `output`
        has what the program printed. Raise Failed unless the program ends with 0, within `limit` seconds.
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
            stack.callback(tree.terminate)  # then it kills all of its descendants
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
        """Return what the program measured last has printed so far."""
        return (self.directory / "output").read_text(errors="replace")


@contextlib.contextmanager
def bench(repeats: int) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="dmonitor-benchmark.") as directory:
        yield Bench(Path(directory), repeats)


def interleaved(runs: Mapping[str, Callable[[], Usage]], repeats: int) -> dict[str, list[Usage]]:
    """Run all of `runs` in turn, `repeats` times, so that other work of the machine affects them all alike."""
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
    """Return what `command` prints; raise Failed if it fails."""
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
    """Return all descendants of process `pid`; one that comes or goes meanwhile may be missing."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in map(int, (task / "children").read_text().split()):
                    found |= {child} | descendants(child)
    return found


@contextlib.contextmanager
def own_cgroup() -> Iterator[Path | None]:
    """Make a cgroup that counts CPU time; yield None if that cannot be done, as for an ordinary user."""
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
    for _ in range(100):  # because the last of its processes may not be gone yet
        with contextlib.suppress(OSError):
            cgroup.rmdir()
            return
        time.sleep(0.02)


def join(cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))


def cgroup_seconds(cgroup: Path) -> float:
    """Return the CPU seconds of all processes that ever were in `cgroup`."""
    stat = dict(line.split() for line in (cgroup / "cpu.stat").read_text().splitlines())
    return int(stat["usage_usec"]) / 1e6


def _too_long(*_: object) -> None:
    raise Failed("it takes too long")
