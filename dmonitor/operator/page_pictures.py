"""The pictures of the page: the bar of a test's last days, and the line of how long its looks took.

Pure: facts in, SVG out. Both are small, because there are a thousand of them on a page.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from dmonitor.base import names
from dmonitor.core.durations import Times, Trend
from dmonitor.operator.availability import DOWN_DAY, UNKNOWN_DAY, UP_DAY, Days
from dmonitor.operator.availability_text import percent

_HEIGHT = 20  # units of either picture
_KINDS = {UP_DAY: "bar", DOWN_DAY: "hit", UNKNOWN_DAY: "none"}


def days_words(days: Days) -> str:
    """Return what the bar shows, in words."""
    length = len(days.letters)
    down = days.letters.count(DOWN_DAY)
    unknown = days.letters.count(UNKNOWN_DAY)
    text = f"{length} days: never DOWN"
    if down:
        incidents = names.pluralize(days.incidents, "incident")
        text = f"{length} days: DOWN {names.span(days.down_seconds)}, {incidents}"
    if unknown:
        text += f"; {names.pluralize(unknown, 'day')} unknown"
    return text


def bar(days: Days) -> str:
    """Draw the last days: low where a test was up, high where it was down, a line for unknown."""
    paths: dict[str, str] = {}
    at = 0
    for letter, group in itertools.groupby(days.letters):
        length = len(list(group))
        paths[letter] = paths.get(letter, "") + f"M{at} 10h{length}"
        at += length
    shapes = "".join(
        f'<path class="{_KINDS[letter]}" d="{path}"/>' for letter, path in sorted(paths.items())
    )
    box = f'viewBox="0 0 {len(days.letters)} {_HEIGHT}" preserveAspectRatio="none"'
    label = f'role="img" aria-label="{days_words(days)}"'
    return f'<svg class="days" {box} {label}>{shapes}</svg>'


def share(days: Days) -> str:
    """Return which share of the time a test was available, never rounded up: `99.9 %`."""
    number, _, unit = percent(days.available).partition(" ")
    if "." in number:
        number = number[:-1].rstrip("0").rstrip(".")
    return f"{number} {unit}".rstrip()


def line(trend: Trend, points: int) -> str:
    """Draw how long looks took that passed: the medians as a line, what took longest behind it."""
    usual = trend.usual()
    if usual is None:
        return ""
    found = trend.points(points)
    longest = max(times.longest for times in found if times)
    heights = _heights(found, longest)
    text = f"24 hours: usually {names.duration(usual)}, at most {names.duration(longest)}"
    tops = [top for _, top in heights]
    medians = [median for median, _ in heights]
    area = f'<path class="most" d="M0 {_HEIGHT}{_steps(tops, _HEIGHT)}V{_HEIGHT}z"/>'
    shapes = f'{area}<path class="half" d="{_line(medians)}"/>'
    box = f'viewBox="0 0 {points} {_HEIGHT}" preserveAspectRatio="none"'
    return f'<svg class="line" {box} role="img" aria-label="{text}">{shapes}</svg>'


def _heights(found: Iterable[Times | None], longest: float) -> list[tuple[int | None, int | None]]:
    """Return how far from the top the median and the maximum of each point are; None is a gap."""
    heights: list[tuple[int | None, int | None]] = []
    for times in found:
        if times is None:
            heights.append((None, None))
        else:
            heights.append((_depth(times.median, longest), _depth(times.longest, longest)))
    return heights


def _depth(duration: float, longest: float) -> int:
    return round(_HEIGHT - 1 - (_HEIGHT - 2) * duration / longest)


def _steps(depths: Sequence[int | None], gap: int) -> str:
    """Return a path of steps along some depths; a gap is at the depth `gap`."""
    path = ""
    for depth, group in itertools.groupby(gap if depth is None else depth for depth in depths):
        path += f"V{depth}h{len(list(group))}"
    return path


def _line(depths: Sequence[int | None]) -> str:
    """Return a path of steps along some depths that leaves the gaps out."""
    path = ""
    at = 0
    was_gap = True
    for depth, group in itertools.groupby(depths):
        length = len(list(group))
        if depth is not None:
            path += f"M{at} {depth}h{length}" if was_gap else f"V{depth}h{length}"
        was_gap = depth is None
        at += length
    return path
