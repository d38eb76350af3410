"""Whether a node can alert: what it would need, and lacks (rule R7). Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dmonitor.base import names
from dmonitor.core.model import Node, unlisted


def lacking(
    me: str,
    nodes: Sequence[Node],
    heard: Collection[str],
    *,
    quorum: int,
    addresses: Collection[str],
    whole: bool,
    refused: int,
) -> list[str]:
    """Return the reasons why node `me` can alert nobody, after a round that `heard` these nodes.

    `whole`: all of the configuration could be read. So many hand-overs in a row were `refused`.
    """
    reasons = []
    if not addresses:
        reasons.append("alert.d names no address")
    if not whole:
        reasons.append("some of the configuration cannot be read")
    if refused == 1:
        reasons.append("the mail system refused its last hand-over")
    elif refused:
        reasons.append(f"the mail system refused its last {refused} hand-overs")
    sites = len(_sites(me, nodes, heard))
    if sites < quorum:
        answered = f"{names.pluralize(sites, 'site')}, its own included, answered in its last round"
        reasons.append(f"{answered}; the quorum is {quorum}")
    return reasons


def _sites(me: str, nodes: Sequence[Node], heard: Collection[str]) -> set[str]:
    """Return the sites of this node and of those it `heard`."""
    sites = {node.site for node in nodes if node.name == me or node.name in heard}
    if me not in {node.name for node in nodes}:
        sites |= {unlisted(me, nodes).site} - {""}
    return sites
