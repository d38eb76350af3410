"""The command line of the program dmonitor: its verbs, and what each of them takes.

`command` does what a verb says.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from dmonitor.base import cli, log, names, options

# Options that may stand behind the verb's arguments, and how many words each takes.
_ANYWHERE = {
    "--json": 0,
    "--peers": 0,
    "--check": 0,
    "--force": 0,
    "--dry-run": 0,
    "--yes": 0,
    "--html": 0,
    "--from": 1,
    "--user": 1,
    "--only": 1,
    "--title": 1,
}


class Options(cli.Options):
    """What was typed; a verb heeds what it takes."""

    verb: str = ""
    what: str = ""
    nodes: Sequence[str] = ()
    when: Sequence[str] = ()
    words: Sequence[str] = ()
    source: str | None = None
    user: str = ""
    only: Sequence[str] = ()
    title: str = ""
    json: bool = False
    html: bool = False
    peers: bool = False
    check: bool = False
    force: bool = False
    dry_run: bool = False
    yes: bool = False


def options_last(given: list[str]) -> list[str]:
    """Move the options that may stand anywhere behind the other words, as argparse wants it."""
    end = given.index("--") if "--" in given else len(given)
    _refuse_negative(given[:end])
    words: list[str] = []
    flags: list[str] = []
    left = 0  # words that still belong to an option
    for word in given[:end]:
        if left:
            left -= 1
            flags.append(word)
        elif word in _ANYWHERE:
            left = _ANYWHERE[word]
            flags.append(word)
        else:
            words.append(word)
    return [*words, *flags, *given[end:]]


def _refuse_negative(words: Sequence[str]) -> None:
    """End the program if a word is nearly a time, such as -2h: argparse takes it for an option."""
    for word in words:
        if re.fullmatch(r"-\d+(?:m|h|d)\w*", word):
            text = f"'{names.printable(word)}' is no option, and no time; write 2h or 1h30m"
            log.complain(text)
            sys.exit(os.EX_USAGE)


def make_parser(program: str) -> argparse.ArgumentParser:
    """Return the parser of the command line, which has the verbs."""
    parser = options.make_parser(program, "See how a node and its tests are, and look after it.")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in _TEXTS.items():
        verb = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        _add_arguments(name, verb)
        verb.add_argument("--json", action="store_true", help="print JSON")
    return parser


_TEXTS = {
    "status": "can this node alert, and how are its tests: what needs somebody first",
    "why": "the evidence for a verdict, and for the last incident: who saw what, who told whom",
    "history": "the incidents: when, how long, seen by whom, told by whom",
    "silence": "stop mail about a host or a test for a while",
    "ack": "say that somebody is on what is DOWN: who was told is told so, and not reminded",
    "silences": "what is silenced, until when, and which node said so",
    "peers": "greet the other nodes: version, latency, clock, last round, differing configuration",
    "page": "write a web page that shows how everything is, to DIR or www in the state directory",
    "metrics": "write a file for node_exporter's textfile collector, to FILE or www/dmonitor.prom",
    "add": "make tests of a host, if they are not there",
    "remove": "remove tests, or a host with all its tests",
    "push": "show how the other nodes are configured otherwise than this one, and change that",
    "report": "how available each host and test was in a month, as a quorum saw it",
    "key": "show which key the nodes share here, make one, take one, or drop the old one",
}
_WHEN = (
    "2h, 30min or 1h30m; until 18:00 or 2026-12-24T18:00; every sun 03:00-04:00; and a reason"
    " behind any of these; off; without it: until off"
)
_ADD = "HOST TEST [KEY=VALUE]..., or HOST/TEST; a parameter belongs to the test before it"
_CHECK = "exit status 0: all is well, 1: somebody should look, 2: DOWN, or unable to alert"
_ONLY = "for customers: such hosts or HOST/TESTs only, and no node and no text of a plugin"
_FORCE = "with drop: even if not all nodes are known to have the new key"
_KEY = "new: make a key; set: read one from stdin; drop: accept the old one no more;"
_KEY_NODES = "of new: make a key for each pair of these nodes, in files of the present directory"


def _add_arguments(name: str, verb: Any) -> None:
    """Add to the parser of a verb what it takes."""
    match name:
        case "status":
            verb.add_argument("what", metavar="HOST[/TEST]", nargs="?", default="")
            verb.add_argument("--peers", action="store_true", help="ask all nodes now")
            verb.add_argument("--check", action="store_true", help=_CHECK)
        case "why":
            verb.add_argument("what", metavar="HOST/TEST")
        case "history":
            verb.add_argument("what", metavar="HOST[/TEST]", nargs="?", default="")
            verb.add_argument("when", metavar="AGE", nargs="*", help="of the last 7d, say, only")
        case "silence":
            verb.add_argument("what", metavar="HOST[/TEST]")
            verb.add_argument("when", metavar="WHEN", nargs="*", help=_WHEN)
        case "ack":
            verb.add_argument("what", metavar="HOST[/TEST]")
            verb.add_argument("when", metavar="TEXT", nargs="*", help="what is being done")
        case "page":
            verb.add_argument("what", metavar="DIR", nargs="?", type=_path)
            verb.add_argument("--only", metavar="PATTERN", action="append", help=_ONLY)
            verb.add_argument("--title", metavar="TEXT", help="what stands at the top of the page")
        case "metrics":
            verb.add_argument("what", metavar="FILE", nargs="?", type=_path)
        case "add":
            verb.add_argument("words", metavar="HOST TEST", nargs="*", help=_ADD)
            _add_source(verb)
        case "remove":
            verb.add_argument("words", metavar="HOST[/TEST]", nargs="*")
            _add_source(verb)
        case "push":
            verb.add_argument("nodes", metavar="NODE", nargs="*", help="without it: all others")
            verb.add_argument("--dry-run", action="store_true", help="only show what differs")
            verb.add_argument("--yes", action="store_true", help="do not ask")
            text = "whom to log in as; default: root; anybody else needs sudo there"
            verb.add_argument("--user", metavar="NAME", default="root", help=text)
        case "report":
            text = "such as 2026-11, or `last`; without it: this month"
            verb.add_argument("what", metavar="MONTH", nargs="?", default="", help=text)
            verb.add_argument("--html", action="store_true", help="print a web page")
        case "key":
            choices = ("new", "set", "drop")
            text = f"{_KEY} without it: show the fingerprints"
            verb.add_argument("what", metavar="new|set|drop", nargs="?", choices=choices, help=text)
            verb.add_argument("nodes", metavar="NODE", nargs="*", help=_KEY_NODES)
            verb.add_argument("--force", action="store_true", help=_FORCE)


def _add_source(verb: Any) -> None:
    text = "read lines of such words there; - is standard input"
    verb.add_argument("--from", dest="source", metavar="FILE", type=_path, help=text)


def _path(text: str) -> str:
    """Return the path `text`; raise ArgumentTypeError if it is empty, which is not the default."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; leave it out to use the default")
    return text
