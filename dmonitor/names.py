"""The one grammar of names: hosts, tests, nodes, sites, addresses, node ids, and text fit to be shown.

Pure. Whoever meets a name from a file, a peer or a plugin asks here; no other module has a pattern of its own.
"""

from __future__ import annotations

import re

# The first character is alphanumeric: a host called -oProxyCommand=… would become somebody's option.
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,252}", re.ASCII)
_TEST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(?::[A-Za-z0-9][A-Za-z0-9_.-]{0,63})?", re.ASCII)
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{16}", re.ASCII)
_NODE_ID = re.compile(r"[a-z0-9]{8,64}", re.ASCII)
# Narrower than RFC 5321 on purpose: some mail systems expand ${…} in an address, or take a leading '-' as an option.
_ADDRESS = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9._+=-]{0,63}"
    r"(?:@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*)?",
    re.ASCII,
)
_PARAMETER = re.compile(r"[A-Z][A-Z0-9_]{0,63}", re.ASCII)
# What a program loader, a shell or an interpreter would take orders from.
_LOADERS = re.compile(r"PATH|IFS|ENV|HOME|SHELLOPTS|BASH.*|LC_.*|LANG.*|LD_.*|GCONV_PATH|NLSPATH|PYTHON.*|PERL.*|RUBY.*|NODE_.*")

_RESERVED_HOST = "node"
_LEFT_OVER = re.compile(r"\..*|.*(?:~|\.bak|\.swp)|.*\.dpkg-.*", re.DOTALL)

TEXT_LIMIT = 240  # characters of a plugin's line that are kept: escaped at worst, they fit a line of the protocol


def is_passed_over(name: str) -> bool:
    """Say whether a file name is an editor's or a package manager's left-over, which counts nowhere."""
    return _LEFT_OVER.fullmatch(name) is not None


def is_host(name: str) -> bool:
    return _HOST.fullmatch(name) is not None and name != _RESERVED_HOST


def is_reserved_host(name: str) -> bool:
    """`node` is kept for the peers themselves, as the tests node/NAME."""
    return name == _RESERVED_HOST


def is_subject(name: str) -> bool:
    """Say whether an incident, or a silence, may be about a test of NAME: a host, or `node`."""
    return _HOST.fullmatch(name) is not None


def is_digest(name: str) -> bool:
    return _DIGEST.fullmatch(name) is not None


def is_node(name: str) -> bool:
    """Say whether NAME may stand first in a line of nodes.txt: a host name or an address."""
    return _HOST.fullmatch(name) is not None or (name.startswith("::") and _HOST.fullmatch("0" + name) is not None)


def is_test(name: str) -> bool:
    return _TEST.fullmatch(name) is not None


def is_site(name: str) -> bool:
    return _SITE.fullmatch(name) is not None


def is_node_id(name: str) -> bool:
    return _NODE_ID.fullmatch(name) is not None


def is_address(name: str) -> bool:
    """Say whether NAME is a mail address, or a bare local user, that is safe on a command line."""
    return len(name) <= 254 and _ADDRESS.fullmatch(name) is not None


def is_parameter(name: str) -> bool:
    return _PARAMETER.fullmatch(name) is not None


def is_loader_variable(name: str) -> bool:
    """Say whether an environment variable would change what a plugin runs instead of what it tests."""
    return _LOADERS.fullmatch(name) is not None


def printable(text: str, limit: int = TEXT_LIMIT) -> str:
    """Make TEXT one line that is safe to show: control and other unprintable characters become \\x.. escapes."""
    text = text[:limit] + ("…" if len(text) > limit else "")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
