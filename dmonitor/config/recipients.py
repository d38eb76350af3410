"""Read alert.d: who is told of incidents, of which ones, and when.

A file in it is named like a mail address. If the file is executable and not empty, it is a hook: it
is run and not mailed. The lines of an address's file, and comments in the head of a hook, say what
it wants. Whoever has a mistake there is told everything at once: an extra mail is better than none.
"""

from __future__ import annotations

from collections.abc import Mapping

from dmonitor.base import names
from dmonitor.config.files import (
    Assignment,
    Entry,
    assignment_of,
    read_assignments,
    read_head,
    read_lines,
    scan_directory,
)
from dmonitor.config.problems import Problems, did_you_mean
from dmonitor.config.times import duration
from dmonitor.core.wants import Pattern, Wants

# Some mail systems would run, or take apart, what else RFC 5321 lets an address have.
_AN_ADDRESS = (
    "a mail address that is taken here; use ASCII letters, digits and . _ + = - before the @,"
    " or an alias that has no other characters"
)
_ANY_EXECUTE_BIT = 0o111
_HOOK_MARK = "# dmonitor:"  # what stands in the head of a hook before what it wants
_SCRIPT_MARK = "#!"
_ALL_AT_ONCE = "until that is mended it is told everything, at once"
_FORMS = "ONLY=PATTERN..., NOT=PATTERN..., HOURS=08:00-20:00 mon-fri or AFTER=30min"
_KEYS = ("ONLY", "NOT", "HOURS", "AFTER")
_read_after = duration("1m", "7d")

Recipients = tuple[tuple[str, ...], dict[str, Wants]]


def load_recipients(directory: str, problems: Problems) -> Recipients:
    """Read alert.d in `directory`.

    Return the mail addresses, and after them the hooks; and what those of them want whose files say
    so.
    """
    addresses = []
    hooks = []
    wants = {}
    path = f"{directory}/alert.d"
    for entry in scan_directory(path, problems, names.is_address, _AN_ADDRESS):
        if not entry.is_file():
            if entry.is_dangling():
                problems.unreadable.add(entry.path)
            problems.error(entry.path, "is not a file; touch a file that is named like the address")
            continue
        is_hook = bool(entry.mode & _ANY_EXECUTE_BIT and entry.size > 0)
        name = names.HOOK + entry.name if is_hook else entry.name
        if is_hook:
            hooks.append(name)
        else:
            addresses.append(name)
        if entry.size > 0:
            said = _load_wants(entry, problems, is_hook=is_hook)
            if said != Wants():
                wants[name] = said
    return (*addresses, *hooks), wants


def outside_hours(wants: Mapping[str, Wants], now: float) -> frozenset[str]:
    """Return the circles whose hours do not hold `now`, in seconds since the epoch."""
    return frozenset(said.circle for said in wants.values() if said.is_outside_hours(now))


def _load_wants(entry: Entry, problems: Problems, *, is_hook: bool) -> Wants:
    """Return what the file of `entry` says; all at once if there is a mistake in it."""
    found = Problems()
    assignments: list[Assignment] = []
    if is_hook:
        assignments += map(assignment_of, read_head(entry.path, found, _HOOK_MARK))
    elif not _is_script(entry.path):
        # A script is no hook, because it is not executable: `programs` says so.
        assignments += read_assignments(entry.path, found)
    wants = Wants()
    for assignment in assignments:
        try:
            wants = _with_line(wants, assignment)
        except ValueError as error:
            found.error(entry.path, str(error), assignment.number)
    for problem in found:
        problems.error(problem.path, f"{problem.text}; {_ALL_AT_ONCE}", problem.line)
    return Wants() if found else wants


def _is_script(path: str) -> bool:
    lines = read_lines(path, Problems())
    return bool(lines) and lines[0].startswith(_SCRIPT_MARK)


def _with_line(wants: Wants, line: Assignment) -> Wants:
    """Return `wants` with what one more line says; raise ValueError, which says what is wrong."""
    given = names.printable(line.text)
    if line.value is None or line.key not in _KEYS:
        raise ValueError(f"'{given}' says nothing; write {_FORMS}{did_you_mean(line.key, _KEYS)}")
    try:
        match line.key:
            case "ONLY":
                return wants._replace(only=(*wants.only, *_patterns(line)))
            case "NOT":
                return wants._replace(never=(*wants.never, *_patterns(line)))
            case "HOURS":
                from dmonitor.core.hours import read_hours

                wants = wants._replace(hours=(*wants.hours, read_hours(line.value.split())))
            case _:
                if wants.after:
                    raise ValueError("a second AFTER; leave one of them")
                wants = wants._replace(after=float(_read_after(line.value)))
    except ValueError as error:
        raise ValueError(f"{given}: {error}") from None
    return wants._replace(times=(*wants.times, f"line {line.number}: {given}"))


def _patterns(line: Assignment) -> list[Pattern]:
    """Return the patterns of a line; raise ValueError if there is none, or one matches no name."""
    words = (line.value or "").split()
    for word in words:
        host, slash, name = word.partition("/")
        if not host or "/" in name or (slash and not name):
            raise ValueError(f"'{names.printable(word)}' is no pattern for HOST or HOST/TEST")
    if not words:
        raise ValueError("no pattern for HOST or HOST/TEST")
    return [Pattern(word, line.key, line.number) for word in words]
