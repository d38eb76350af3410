"""Read alert.d: who is told of incidents.

A file in it is named like a mail address. If the file is executable and not empty, it is a hook: it
is run and not mailed.
"""

from __future__ import annotations

from dmonitor.base import names
from dmonitor.config.files import scan_directory
from dmonitor.config.problems import Problems

# Some mail systems would run, or take apart, what else RFC 5321 lets an address have.
_AN_ADDRESS = (
    "a mail address that is taken here; use ASCII letters, digits and . _ + = - before the @,"
    " or an alias that has no other characters"
)
_ANY_EXECUTE_BIT = 0o111


def load_recipients(directory: str, problems: Problems) -> tuple[str, ...]:
    """Read alert.d in `directory`; return the mail addresses, and after them the hooks."""
    addresses = []
    hooks = []
    path = f"{directory}/alert.d"
    for entry in scan_directory(path, problems, names.is_address, _AN_ADDRESS):
        if not entry.is_file():
            if entry.is_dangling():
                problems.unreadable.add(entry.path)
            problems.error(entry.path, "is not a file; touch a file that is named like the address")
        elif entry.mode & _ANY_EXECUTE_BIT and entry.size > 0:
            hooks.append(names.HOOK + entry.name)
        else:
            addresses.append(entry.name)
    return (*addresses, *hooks)
