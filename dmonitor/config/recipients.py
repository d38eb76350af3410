"""alert.d: the mail addresses and the hooks that are told."""

from __future__ import annotations

import stat

from dmonitor.base import names
from dmonitor.config.files import scan_directory
from dmonitor.config.problems import Problems


def load_recipients(directory: str, problems: Problems) -> tuple[str, ...]:
    """Return who is told: the mail addresses, and behind them the hooks, which are executables with something in them."""
    addresses, hooks = [], []
    for name, path, mode, size in scan_directory(
        directory, problems, names.is_address, "a mail address"
    ):
        if not stat.S_ISREG(mode):
            problems.unreadable |= not mode
            problems.error(path, "not a file: touch one that is named like the address")
        elif mode & 0o111 and size:
            hooks.append(names.HOOK + name)
        else:
            addresses.append(name)
    return (*addresses, *hooks)
