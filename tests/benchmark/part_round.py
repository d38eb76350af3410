"""`round`: 1,000 passing tests of one plugin: dmonitor-check, a floor in C, Nagios Core and Icinga 2.

CPU is user and system time of the whole tree of processes, plugins included (see measure.c). Wall is the time from
the start until all is done; for the daemons, until the last check has ended. The daemons start, check everything
once, and end: that is their `whole`. `checks alone` is that less a start and an end with the same configuration, but
with checks switched off; it is what they would spend on a thousand checks after a week. Ours is always the whole,
because cron starts it anew each time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from contestants import Dmonitor, Floor, Icinga, Nagios, Plugin, hosts
from frame import (
    Bench,
    Failed,
    Row,
    Usage,
    cgroup_seconds,
    cpus,
    interleaved,
    measured,
    own_cgroup,
    progress,
    ratios,
)
from local_nodes import running

TESTS = 1000
FLOOR = 1.25  # times the CPU of the floor, at the most
LIMITS = {Nagios.name: 0.8, Icinga.name: 0.4}  # the same of each
# What the kernel counts and we do not: the measuring program, in seconds, and rounding, a part of the whole.
_ESCAPED, _ROUNDED = 0.005, 0.005


def rows(bench: Bench) -> Iterator[Row]:
    plugin = Plugin(bench.directory)
    floor, ours = Floor(bench, plugin, TESTS), Dmonitor(bench, plugin, TESTS)
    others, problems = _others(bench, plugin)
    among = Dmonitor(bench, plugin, TESTS, peers=True, name="dmonitor-check, two peers")
    contestants: list[Floor | Dmonitor | Nagios | Icinga] = [floor, ours, *others]
    bench.notes.append("; ".join(f"{each.name}: {each.version}" for each in contestants))
    if compiled := ours.compiled():
        raise Failed(f"dmonitor-check compiled {' '.join(compiled)}: what is installed does not")
    for each in contestants:
        yield from counted(each.name, each.run, plugin, TESTS)
    runs: dict[str, Callable[[], Usage]] = {each.name: each.run for each in contestants}
    for other in others:
        runs[f"{other.name} loaded"] = functools.partial(other.idle, loaded=True)
        runs[f"{other.name} empty"] = functools.partial(other.idle, loaded=False)
    with running(among.nodes):
        found = interleaved(runs | {among.name: among.run}, bench.repeats)
    yield from _tell(
        found,
        floor.name,
        [ours.name, among.name],
        {other.name: LIMITS[other.name] for other in others},
    )
    if problems:
        raise Failed("; ".join(problems))


def _others(bench: Bench, plugin: Plugin) -> tuple[list[Nagios | Icinga], list[str]]:
    """Return the other monitors that are available, and why the rest are not."""
    found: list[Nagios | Icinga] = []
    problems = []
    for kind in (Nagios, Icinga):
        try:
            found.append(kind(bench, plugin, TESTS))
        except Failed as failure:
            problems.append(f"no {kind.name}: {failure}")
    return found, problems


def counted(
    name: str, run: Callable[[Path | None], Usage], plugin: Plugin, tests: int
) -> Iterator[Row]:
    """Run with a plugin that counts; compare CPU time with the kernel's account. Raise Failed if checks are missing."""
    progress(f"{name}: counting")
    plugin.count(True)
    try:
        with own_cgroup() as cgroup:
            usage = run(cgroup)
            escaped = cgroup_seconds(cgroup) - usage.cpu if cgroup else None
        ran = plugin.ran()
    finally:
        plugin.count(False)
    if sorted(ran) != hosts(tests):
        raise Failed(
            f"{name} ran {len(ran)} checks, of {len(set(ran))} hosts, not one for each of {tests}"
        )
    yield Row(f"{name}: checks run, counted by the plugin", len(ran), None, "", f"= {tests}", True)
    if escaped is not None:
        limit = _ESCAPED + _ROUNDED * usage.cpu
        yield Row(
            f"{name}: CPU of its cgroup that is not counted",
            escaped,
            None,
            "s",
            f"≤ {limit:.4f}",
            escaped <= limit,
        )


def _tell(
    found: dict[str, list[Usage]], floor: str, ours: Sequence[str], others: Mapping[str, float]
) -> Iterator[Row]:
    least = cpus(found[floor])
    for name in (floor, *ours, *others):
        yield measured(f"{name}: CPU, whole", cpus(found[name]), "s")
        if name in others:
            yield measured(f"{name}: CPU, start and end, empty", cpus(found[f"{name} empty"]), "s")
            yield measured(
                f"{name}: CPU, start and end, loaded", cpus(found[f"{name} loaded"]), "s"
            )
            yield measured(f"{name}: CPU, checks alone", _alone(found, name), "s")
        yield measured(f"{name}: wall", [usage.wall for usage in found[name]], "s")
    for name in (*ours, *others):
        yield ratios(
            f"{name} / {floor}: CPU, whole",
            cpus(found[name]),
            least,
            FLOOR if name in ours else None,
        )
    for name in others:
        yield ratios(f"{name} / {floor}: CPU, checks alone", _alone(found, name), least)
    for name, limit in others.items():
        mine = cpus(found[ours[0]])
        yield ratios(f"{ours[0]} / {name}: CPU, both whole", mine, cpus(found[name]), limit)
        yield ratios(
            f"{ours[0]} / {name}: CPU, ours whole, its checks alone", mine, _alone(found, name)
        )


def _alone(found: dict[str, list[Usage]], name: str) -> list[float]:
    return [
        one.cpu - two.cpu for one, two in zip(found[name], found[f"{name} loaded"], strict=True)
    ]
