"""The one grammar of names: hosts, tests, nodes, sites, addresses, node ids, and text fit to be shown.

Pure. Whoever meets a name from a file, a peer or a plugin asks here; no other module has a pattern of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable


def _grammar(pattern: str) -> Callable[[str], re.Match[str] | None]:
    """Return what finds a whole name to be of PATTERN, which is compiled when somebody first asks."""
    compiled: list[re.Pattern[str]] = []

    def find(name: str) -> re.Match[str] | None:
        if not compiled:
            compiled.append(re.compile(pattern, re.ASCII))
        return compiled[0].fullmatch(name)

    return find


# The first character is alphanumeric: a host called -oProxyCommand=… would become somebody's option.
_HOST = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,252}"
# Narrower than RFC 5321 on purpose: some mail systems expand ${…} in an address, or take a leading '-' as an option.
_ADDRESS = (
    r"[A-Za-z0-9_][A-Za-z0-9._+=-]{0,63}"
    r"(?:@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*)?"
)

HOOK = "hook:"  # before the name of an executable in alert.d, where an address may stand
NODE = (
    "node"  # the host whose tests are the nodes themselves, as node/NAME; nobody may call a host so
)
TEXT_LIMIT = 240  # characters of a plugin's line that are kept: escaped at worst, they fit a line of the protocol

is_subject = _grammar(_HOST)  # what an incident or a silence may be about: a host, or NODE
is_test = _grammar(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(?::[A-Za-z0-9][A-Za-z0-9_.-]{0,63})?")
is_site = _grammar(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
is_digest = _grammar(r"[0-9a-f]{16}")
is_nonce = _grammar(r"[0-9a-f]{32}")
is_word = _grammar(r"[a-z][a-z-]{0,31}")  # a reason in an answer, or the kind of a trouble
is_node_id = _grammar(r"[a-z0-9]{8,64}")
is_parameter = _grammar(r"[A-Z][A-Z0-9_]{0,63}")
# An environment variable from which a program loader, a shell or an interpreter would take orders.
is_loader_variable = _grammar(
    r"PATH|IFS|ENV|HOME|SHELLOPTS|BASH.*|LC_.*|LANG.*|LD_.*|GCONV_PATH|NLSPATH|PYTHON.*|PERL.*|RUBY.*|NODE_.*"
)


def is_hook(address: str) -> bool:
    return address.startswith(HOOK)


def is_key(key: bytes) -> bool:
    """Say whether KEY is one word; as hexadecimal digits it has 128 bits at least."""
    return re.fullmatch(rb"[!-~]{32,1000}", key) is not None


def is_ignored_file(name: str) -> bool:
    """Say whether a file called NAME counts nowhere, for an editor or a package manager left it behind."""
    return name.startswith(".") or name.endswith(("~", ".bak", ".swp")) or ".dpkg-" in name


def is_host(name: str) -> bool:
    return is_subject(name) is not None and name != NODE


def is_node(name: str) -> bool:
    """Say whether NAME may stand first in a line of nodes.txt: a host name or an address."""
    return is_subject(name) is not None or (
        name.startswith("::") and is_subject("0" + name) is not None
    )


def is_address(name: str) -> bool:
    """Say whether NAME is a mail address, or a bare local user, that is safe on a command line."""
    return len(name) <= 254 and re.fullmatch(_ADDRESS, name, re.ASCII) is not None


def printable(text: str, limit: int = TEXT_LIMIT) -> str:
    """Make TEXT one line that is safe to show: control and other unprintable characters become \\x.. escapes."""
    text = text[:limit] + ("…" if len(text) > limit else "")
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def pluralize(count: int, word: str, plural: str = "s") -> str:
    """Return how many there are of what a WORD is for."""
    return f"{count} {word}{'' if count == 1 else plural}"


def span(seconds: float) -> str:
    """Return a duration in the two units that matter; beside hours, seconds do not."""
    left = max(0, round(seconds))
    left -= left % 60 if left >= 3600 else 0
    units: list[str] = []
    for name, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (name == "s" and not units):
            units.append(f"{count} {name}")
    return " ".join(units[:2])
