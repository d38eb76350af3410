"""The one grammar of names: hosts, tests, nodes, sites, addresses, node ids; and how text is shown.

Pure. Every module that meets a name from a file, a peer or a plugin asks this one. No other module
has a pattern of its own for a name.
"""

from __future__ import annotations

import functools
import re

HOOK = "hook:"  # begins the address of an executable in alert.d; its file name follows
NODE = "node"  # the reserved host name: peer NAME is tested as node/NAME
# Characters kept of a plugin's line: they fit a line of the protocol even if all are escaped.
TEXT_LIMIT = 240

# A name begins with a letter or a digit, because a host called -oProxyCommand=… would be an option.
_HOST = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,252}"
_WORD = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_TEST = rf"{_WORD}(?::{_WORD})?"
# Narrower than RFC 5321: some mail systems expand ${…} or take a leading '-' as an option.
_LOCAL_PART = r"[A-Za-z0-9_][A-Za-z0-9._+=-]{0,63}"
_DOMAIN_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_ADDRESS = rf"{_LOCAL_PART}(?:@{_DOMAIN_LABEL}(?:\.{_DOMAIN_LABEL})*)?"
_ADDRESS_LIMIT = 254  # characters

# What str.isprintable lets pass though nobody sees it: joiners, fillers, vowels without a shape,
# selectors of a variant, and the empty Braille pattern.
_UNSEEN = (
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)

# Variables from which a program loader, a shell or an interpreter takes orders.
_LOADER_VARIABLE = (
    r"PATH|IFS|ENV|HOME|SHELLOPTS|BASH.*|LC_.*|LANG.*|LD_.*|GCONV_PATH|NLSPATH"
    r"|PYTHON.*|PERL.*|RUBY.*|NODE_.*"
)


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Return `pattern` compiled; only at its first use, because a round needs few of them."""
    return re.compile(pattern, re.ASCII)


def is_subject(name: str) -> bool:
    """Return whether an incident or a silence may be about `name`: what is_host allows, or NODE."""
    return _compiled(_HOST).fullmatch(name) is not None


def is_host(name: str) -> bool:
    """Return whether `name` may be a directory in hosts.d: a host name or an address, not NODE."""
    return is_subject(name) and name != NODE


def is_node(name: str) -> bool:
    """Return whether `name` may stand first in a line of nodes.txt: a host name or an address."""
    if name.startswith("::"):
        name = "0" + name
    return is_subject(name)


def is_test(name: str) -> bool:
    """Return whether `name` may be a file in hosts.d/HOST: NAME or NAME:SUFFIX."""
    return _compiled(_TEST).fullmatch(name) is not None


def is_site(name: str) -> bool:
    """Return whether `name` may be the second word in a line of nodes.txt."""
    return _compiled(_WORD).fullmatch(name) is not None


def is_address(name: str) -> bool:
    """Return whether `name` is a mail address or a local user, and safe on a command line."""
    return len(name) <= _ADDRESS_LIMIT and _compiled(_ADDRESS).fullmatch(name) is not None


def is_hook(address: str) -> bool:
    """Return whether `address` stands for an executable in alert.d."""
    return address.startswith(HOOK)


def is_recipient(address: str) -> bool:
    """Return whether `address` stands for a file that may be in alert.d: an address or a hook."""
    return is_address(address.removeprefix(HOOK))


def is_parameter(name: str) -> bool:
    """Return whether a test's file may set `name`, a variable in the environment of the plugin."""
    return _compiled(r"[A-Z][A-Z0-9_]{0,63}").fullmatch(name) is not None


def is_loader_variable(name: str) -> bool:
    """Return whether the variable `name` would change which code a plugin runs."""
    return _compiled(_LOADER_VARIABLE).fullmatch(name) is not None


def is_node_id(word: str) -> bool:
    """Return whether `word` may be the id of a node, of an incident, or of a run of dmonitord."""
    return _compiled(r"[a-z0-9]{8,32}").fullmatch(word) is not None


def is_digest(word: str) -> bool:
    """Return whether `word` is a digest: 64 bits in hexadecimal digits."""
    return _compiled(r"[0-9a-f]{16}").fullmatch(word) is not None


def is_nonce(word: str) -> bool:
    """Return whether `word` is a nonce: 128 bits in hexadecimal digits."""
    return _compiled(r"[0-9a-f]{32}").fullmatch(word) is not None


def is_word(word: str) -> bool:
    """Return whether `word` may be the reason in an answer, or the kind of a trouble."""
    return _compiled(r"[a-z][a-z-]{0,31}").fullmatch(word) is not None


def is_key(key: bytes) -> bool:
    """Return whether `key` is one printable word; of hexadecimal digits it has 128 bits or more."""
    return re.fullmatch(rb"[!-~]{32,1000}", key) is not None


_INTERFACE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}"  # such as br-lan or eth0.5


def is_ip_address(text: str) -> bool:
    """Return whether `text` is an IPv4 or IPv6 address; a link-local one may name its interface."""
    import socket

    plain, zone, interface = text.partition("%")
    family = socket.AF_INET6 if ":" in plain else socket.AF_INET
    try:
        socket.inet_pton(family, plain)
    except (OSError, ValueError):
        return False
    return not zone or re.fullmatch(_INTERFACE, interface) is not None


def read_ip_address(text: str) -> str:
    """Return `text`; raise ValueError if it is no address."""
    if not is_ip_address(text):
        raise ValueError("not an IPv4 or IPv6 address")
    return text


def is_ignored_file(name: str) -> bool:
    """Return whether `name` is that of a file which an editor or a package manager left behind."""
    return name.startswith(".") or name.endswith(("~", ".bak", ".swp")) or ".dpkg-" in name


def printable(text: str, limit: int = TEXT_LIMIT) -> str:
    r"""Return the first `limit` characters of `text` as one line that is safe to show.

    Control characters, those that turn the direction of writing, and those that nobody sees become
    escapes such as \x1b. A cut text ends in `…`.
    """
    if len(text) > limit:
        text = text[:limit] + "…"
    return escaped(text)


def escaped(text: str) -> str:
    """Return `text`, however long, as one line that is safe to show."""
    if can_be_shown(text):
        return text
    return "".join(map(_escape, text))


def _escape(character: str) -> str:
    if can_be_shown(character):
        return character
    return character.encode("unicode_escape").decode("ascii")


def can_be_shown(text: str) -> bool:
    """Return whether a reader sees each character of `text`, and a terminal obeys none."""
    return text.isprintable() and (text.isascii() or not _compiled(_UNSEEN).search(text))


def pluralize(count: int, word: str, plural: str = "s") -> str:
    """Return `count` and `word`, with the ending `plural` unless the count is 1."""
    if count == 1:
        return f"{count} {word}"
    return f"{count} {word}{plural}"


def span(seconds: float) -> str:
    """Return a duration in at most two units, such as `2 h 5 min`; hours come without seconds."""
    left = max(0, round(seconds))
    if left >= 3600:
        left -= left % 60
    units: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            units.append(f"{count} {unit}")
    if not units:
        return "0 s"
    return " ".join(units[:2])


def duration(seconds: float) -> str:
    """Return how long a look took, such as `34 ms` or `0.14 s`; it is seldom more than 10 s."""
    if seconds < 0.0995:
        return f"{max(1, round(1000 * seconds))} ms"
    return f"{seconds:.2f} s"
