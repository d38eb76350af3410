"""nodes.txt: the nodes and their sites."""

from __future__ import annotations

from dmonitor.base import names
from dmonitor.config.files import read_lines
from dmonitor.config.problems import Problems, quoted
from dmonitor.core.model import Node


def load_nodes(directory: str, problems: Problems) -> tuple[Node, ...]:
    """Read nodes.txt."""
    path = f"{directory}/nodes.txt"
    nodes: dict[str, Node] = {}
    for number, line in enumerate(read_lines(path, problems), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, site = words[0], words[1] if len(words) > 1 else words[0]
        if not names.is_node(name):
            problems.error(
                path,
                f"{quoted(name)} is not a host name or an address; a line reads NODE [SITE]",
                number,
            )
        elif not names.is_site(site) and site != name:
            problems.error(
                path, f"{quoted(site)} is not a site: letters, digits and . _ - only", number
            )
        elif len(words) > 2:
            problems.error(
                path, f"{quoted(words[2])} behind the site: a line reads NODE [SITE]", number
            )
        elif name in nodes:
            problems.warning(path, f"{name} is listed twice; the first line counts", number)
        else:
            nodes[name] = Node(name, site)
    return tuple(nodes.values())


def line_of(directory: str, node: str) -> int | None:
    """Return the number of NODE's line in nodes.txt."""
    lines = read_lines(f"{directory}/nodes.txt", Problems())
    return next(
        (number for number, line in enumerate(lines, 1) if line.split()[:1] == [node]), None
    )
