"""Can this machine's clock tell whether a date has passed?

Certificates and registrations end on a date. A clock that is years off would make a false alarm of
that. Nothing here asks another machine, so only a clock that contradicts this machine's own files,
or that is left alone, is found.
"""

from __future__ import annotations

import posix
import sys
import time

# Files that a package manager wrote, when the clock was right at the latest: this one, when the
# package was built, and dpkg's list, whenever a package was installed.
_WITNESSES = (__file__, "/var/lib/dpkg/status")
_YEAR = 365 * 86400
# Where nothing was installed for so long, there is no upkeep, or the clock is ahead.
_LONGEST_WITHOUT_UPKEEP = 2 * _YEAR
_STA_UNSYNC = 0x0040  # from linux/timex.h
_TIMEX_BYTES = 256  # more than struct timex has


def of_clock() -> str:
    """Return why this machine's clock cannot be believed; "" if nothing speaks against it."""
    now = time.time()
    newest = 0.0
    for path in _WITNESSES:
        try:
            newest = max(newest, posix.stat(path).st_mtime)
        except OSError:
            continue
    today = time.strftime("%d %b %Y", time.gmtime(now))
    if now < newest - 86400:
        return f"this machine's clock is wrong: it says {today}, and its files are newer"
    if newest and now > newest + _LONGEST_WITHOUT_UPKEEP and not _is_kept_right():
        return f"this machine's clock is doubtful: it says {today}, and nothing sets it (no NTP)"
    return ""


def _is_kept_right() -> bool:
    """Return whether the kernel says that a program keeps the clock right."""
    import ctypes

    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    if ctypes.CDLL(None).adjtimex(timex) < 0:
        return False
    word = ctypes.sizeof(ctypes.c_long)
    status = timex.raw[5 * word : 5 * word + 4]
    return not int.from_bytes(status, sys.byteorder) & _STA_UNSYNC
