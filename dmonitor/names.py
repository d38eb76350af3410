"""The one grammar of names: hosts, tests, nodes, sites, addresses, node ids, and text fit to be shown.

Pure. Whoever meets a name from a file, a peer or a plugin asks here; no other module has a pattern of its own.
"""

from __future__ import annotations

import re

# The first character is alphanumeric: a host called -oProxyCommand=… would become somebody's option.
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,252}", re.ASCII)
# Narrower than RFC 5321 on purpose: some mail systems expand ${…} in an address, or take a leading '-' as an option.
_ADDRESS = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9._+=-]{0,63}"
    r"(?:@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*)?",
    re.ASCII,
)

NODE = "node"  # the host whose tests are the nodes themselves, as node/NAME; nobody may call a host so
TEXT_LIMIT = 240  # characters of a plugin's line that are kept: escaped at worst, they fit a line of the protocol

is_subject = _HOST.fullmatch  # what an incident or a silence may be about: a host, or NODE
is_test = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(?::[A-Za-z0-9][A-Za-z0-9_.-]{0,63})?", re.ASCII).fullmatch
is_site = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII).fullmatch
is_digest = re.compile(r"[0-9a-f]{16}", re.ASCII).fullmatch
is_key = re.compile(rb"[!-~]{32,1000}").fullmatch  # as hexadecimal digits, 128 bits at least
is_nonce = re.compile(r"[0-9a-f]{32}", re.ASCII).fullmatch
is_word = re.compile(r"[a-z][a-z-]{0,31}", re.ASCII).fullmatch  # a reason in an answer, or the kind of a trouble
is_node_id = re.compile(r"[a-z0-9]{8,64}", re.ASCII).fullmatch
is_parameter = re.compile(r"[A-Z][A-Z0-9_]{0,63}", re.ASCII).fullmatch
# An environment variable from which a program loader, a shell or an interpreter would take orders.
is_loader_variable = re.compile(
    r"PATH|IFS|ENV|HOME|SHELLOPTS|BASH.*|LC_.*|LANG.*|LD_.*|GCONV_PATH|NLSPATH|PYTHON.*|PERL.*|RUBY.*|NODE_.*"
).fullmatch
# A file that an editor or a package manager left behind, which counts nowhere.
is_passed_over = re.compile(r"\..*|.*(?:~|\.bak|\.swp)|.*\.dpkg-.*", re.DOTALL).fullmatch


def is_host(name: str) -> bool:
    return _HOST.fullmatch(name) is not None and name != NODE


def is_node(name: str) -> bool:
    """Say whether NAME may stand first in a line of nodes.txt: a host name or an address."""
    return _HOST.fullmatch(name) is not None or (name.startswith("::") and _HOST.fullmatch("0" + name) is not None)


def is_address(name: str) -> bool:
    """Say whether NAME is a mail address, or a bare local user, that is safe on a command line."""
    return len(name) <= 254 and _ADDRESS.fullmatch(name) is not None


def printable(text: str, limit: int = TEXT_LIMIT) -> str:
    """Make TEXT one line that is safe to show: control and other unprintable characters become \\x.. escapes."""
    text = text[:limit] + ("…" if len(text) > limit else "")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
