"""The words of a mail about troubles: its subject, its lines, and the facts for a hook (rule R7).

Pure. Times are seconds since the epoch. `mail` makes a message of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dmonitor.base import names
from dmonitor.core.effects import TroubleNews
from dmonitor.core.mail_text import Zone, local, when
from dmonitor.core.model import ToldTrouble

# What a subject says of a trouble, by its kind. Only these are told of a peer.
HEADLINES: Mapping[str, str] = {
    "no-address": "its alert.d names no address",
    "mail-refused": "its mail system refuses",
    "address-refused": "some addresses refuse what it mails",
    "no-peers": "its nodes.txt names no other node",
    "listed-twice": "several lines of its nodes.txt are itself",
    "isolated": "no peer answers",
    "no-quorum": "too few sites can be asked",
    "stale-peer": "no rounds are run on a peer",
    "not-stored": "its state cannot be written",
    "settings-differ": "quorum or confirm differ",
    "unconfirmed-recovery": "too few sites answer to confirm a recovery",
    "no-answer": "peers do not answer about what fails",
    "suspect": "most tests fail on it alone",
    "unconfirmable": "too few sites have some tests",
    "untestable": "it cannot tell how some tests are",
    "no-daemon": "its dmonitord does not answer",
    "daemon-disagrees": "its dmonitord sees other than its rounds",
    "unanswered": "a peer cannot tell how a test is",
    "cloned-id": "several machines have one node id",
    "diverted-peer": "the names of peers lead to itself",
    "misconfigured": "its configuration has errors",
}
_SUBJECT = 100  # characters of a subject, from which on troubles are only counted
_NOTE = (
    "No other node has to confirm a trouble: this is the word of the node that it names. It is",
    "told once, and once when it is over. `dmonitor status` shows it there.",
)


def headline(trouble: ToldTrouble) -> str:
    """Return in a few words what the trouble is; of a peer's, that this is its own word."""
    kind, node = trouble.name
    text = HEADLINES.get(kind, kind)
    if node:
        text += f", says {node}"
    return text


def subject(news: Sequence[TroubleNews], node: str) -> str:
    """Return the subject of a mail of `node`: what is there comes before what is over."""
    text = ""
    for number, each in enumerate(news):
        part = _part(each, node)
        if text and len(text) + len(part) > _SUBJECT:
            return f"{text}; and {len(news) - number} more"
        text = f"{text}; {part}" if text else part
    return text


def _part(news: TroubleNews, node: str) -> str:
    trouble = news.trouble
    text = f"{trouble.name.node or node}: {headline(trouble)}"
    if not news.is_over:
        return f"TROUBLE {text}"
    return f"OVER {text} ({names.span(_lasted(trouble))})"


def lines(news: Sequence[TroubleNews], node: str, zone: Zone) -> list[str]:
    """Return the lines that tell of each trouble, what it is and from when to when it was."""
    told = []
    for each in news:
        trouble = each.trouble
        whose = trouble.name.node or node
        if each.is_over:
            told.append(f"{whose} is over this trouble: {headline(trouble)}.")
            until = when(trouble.ended or trouble.since, zone)
            lasted = names.span(_lasted(trouble))
            told.append(f"It lasted from {when(trouble.since, zone)} to {until}, {lasted}.")
        else:
            told.append(f"{whose}: {trouble.text}.")
            told.append(f"That has been so since {when(trouble.since, zone)}.")
        told.append("")
    return [*told, *_NOTE, ""]


def facts(news: Sequence[TroubleNews], node: str, ids: Sequence[str], zone: Zone) -> dict[str, str]:
    """Return the facts for a hook, which have a line for each trouble; `ids` names them."""
    columns: dict[str, list[str]] = {}
    for each, trouble_id in zip(news, ids, strict=True):
        trouble = each.trouble
        whose = trouble.name.node or node
        until = ""
        if each.is_over and trouble.ended is not None:
            until = local(trouble.ended, zone).isoformat(timespec="seconds")
        row = {
            "STATE": "TROUBLE OVER" if each.is_over else "TROUBLE",
            "HOST": whose,
            "TEST": trouble.name.kind,
            "NODES": whose,
            "SINCE": local(trouble.since, zone).isoformat(timespec="seconds"),
            "UNTIL": until,
            "INCIDENT": trouble_id,
        }
        for name, fact in row.items():
            columns.setdefault(f"DMONITOR_{name}", []).append(names.escaped(fact))
    return {name: "\n".join(column) for name, column in columns.items()}


def _lasted(trouble: ToldTrouble) -> float:
    return (trouble.ended or trouble.since) - trouble.since
