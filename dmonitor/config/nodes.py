"""Read nodes.txt: the nodes and their sites, one node a line."""

from __future__ import annotations

from collections.abc import Sequence

from dmonitor.base import names
from dmonitor.config.files import read_lines
from dmonitor.config.problems import Problems, quoted
from dmonitor.core.model import Node

_FORM = "a line reads NODE [SITE]"


def load_nodes(directory: str, problems: Problems) -> tuple[Node, ...]:
    """Read nodes.txt in `directory`; a node without a site is a site of its own."""
    path = f"{directory}/nodes.txt"
    nodes: dict[str, Node] = {}
    for number, line in enumerate(read_lines(path, problems), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name = words[0]
        site = name
        if len(words) > 1:
            site = words[1]
        complaint = _complaint(name, site, words)
        if complaint:
            problems.error(path, complaint, number)
        elif name in nodes:
            problems.warning(path, f"{name} is listed twice; the first line counts", number)
        else:
            nodes[name] = Node(name, site)
    return tuple(nodes.values())


def _complaint(name: str, site: str, words: Sequence[str]) -> str:
    """Return what is wrong with a line of `words` that lists node `name` of `site`, or ""."""
    if ":" in name and not names.is_ip_address(name):
        port = "a line has no port: all nodes have the one in dmonitor.conf"
        return f"{quoted(name)} is neither a host name nor an address; {port}"
    if not names.is_node(name):
        return f"{quoted(name)} is not a host name or an address; {_FORM}"
    if site != name and not names.is_site(site):
        return f"{quoted(site)} is not a site; use ASCII letters, digits and . _ - only"
    if len(words) > 2:
        return f"unexpected {quoted(words[2])} after the site; {_FORM}"
    return ""


def line_of(directory: str, node: str) -> int | None:
    """Return the number of the first line of nodes.txt that names `node`; None if no line does."""
    for number, line in enumerate(read_lines(f"{directory}/nodes.txt", Problems()), 1):
        if line.split()[:1] == [node]:
            return number
    return None
