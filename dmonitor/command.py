"""The program dmonitor: what an operator asks of a node, and tells it. Each verb is a few lines here.

It reads configuration and state; what they say together is `report`'s, how that looks `terminal`'s. What it changes are the files
that an operator may touch as well.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from dmonitor.base import log, names, options, program, user
from dmonitor.base.errors import StateError
from dmonitor.config import config
from dmonitor.core.model import Test, node_test
from dmonitor.operator import report, silence, terminal
from dmonitor.store import lock, state

PROGRAM = "dmonitor"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    chosen = _Chosen()
    given = list(sys.argv[1:] or ["--help"] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    given[:end] = sorted(given[:end], key=("--json", "--peers").__contains__)  # they may stand anywhere; argparse is strict
    program.parse(_parser, chosen, given)
    log.start(PROGRAM, to_stderr=chosen.verbose, verbose=chosen.verbose)
    return program.guard(lambda: _run(chosen))


def _run(chosen: _Chosen) -> int:
    try:
        status = _VERBS[chosen.verb](chosen)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return os.EX_OK


class _Chosen(program.Chosen):
    verb = what = ""
    when: Sequence[str] = ()
    json = peers = False


class _Unknown(Exception):
    """What was asked for is not there; the text says so."""


def _parser() -> argparse.ArgumentParser:
    parser = options.parser(PROGRAM, "See how a node and its tests are, and look after it.")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, text: str, what: str = "", **more: Any) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        if what:
            made.add_argument("what", metavar=what, **more)
        made.add_argument("--json", action="store_true", help="print JSON")
        return made

    some = {"nargs": "?", "default": ""}
    status = verb("status", "can this node alert, and how are its tests: what needs somebody first", "HOST[/TEST]", **some)
    status.add_argument("--peers", action="store_true", help="ask everybody, now")
    verb("why", "the evidence for a verdict, and for the last incident: who saw what, who told whom", "HOST/TEST")
    verb("history", "the incidents: when, how long, seen by whom, told by whom", "HOST[/TEST]", **some)
    quiet = verb("silence", "say that nobody is mailed about a host or a test for a while", "HOST[/TEST]")
    when = "2h, 30min or 1d; until 18:00 or 2026-12-24T18:00; off; else until that is said"
    quiet.add_argument("when", nargs="*", help=when, metavar="WHEN")
    verb("silences", "what is silenced, until when, and which node said so")
    verb("peers", "greet the other nodes: version, latency, clock, last round, and what they have configured otherwise")
    path = {"nargs": "?", "type": _path}
    text = "write a web page that shows how everything is; the default is www in the state directory"
    verb("page", text, "DIR", **path)
    text = "write a file for node_exporter's textfile collector; the default is dmonitor.prom in www"
    verb("metrics", text, "FILE", **path)
    what = "new: make one; set: take the one on stdin; drop: take the old one no more; else show their fingerprints"
    text = "show which key the nodes share here, make one, take one, or drop the old one"
    key = verbs.add_parser("key", help=text, description=text, allow_abbrev=False)
    key.add_argument("what", nargs="?", choices=("new", "set", "drop"), metavar="new|set|drop", help=what)
    key.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _path(text: str) -> str:
    """Return the path `text`; raise ArgumentTypeError if it is empty, which is not the default."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; leave it out to use the default")
    return text


def _show(chosen: _Chosen, facts: report.Facts, table: Callable[[report.Facts, terminal.Paint], list[str]]) -> int:
    """Print FACTS, as JSON or as TABLE says."""
    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    print(json.dumps(facts, indent=2, ensure_ascii=False) if chosen.json else "\n".join(table(facts, terminal.Paint(wanted))))
    return os.EX_OK


def _configuration(chosen: _Chosen) -> config.Config:
    configuration = config.load(chosen.config)
    errors = [each for each in configuration.problems if each.severity is config.Severity.ERROR]
    if errors and chosen.verb not in ("page", "metrics"):  # which cron starts; its rounds log what is wrong
        log.complain(f"mistakes in the configuration: {len(errors)}, see `dmonitor-check -t`; the first: {errors[0]}")
    return configuration


def _read(
    chosen: _Chosen, more: Callable[[state.State, report.View], Any] = lambda *_: None
) -> tuple[report.View, Any, config.Config]:
    """Return what is known here, and what MORE reads beside it, in times of the wall clock; and the configuration."""
    user.become()
    if not _is_there(f"{chosen.state}/state.db") and not (chosen.run and _is_there(f"{chosen.run}/state.db")):
        raise StateError(f"{chosen.state}/state.db is not there yet: no round has run on this node; does cron start it?")
    configuration = _configuration(chosen)

    def read(store: state.State) -> tuple[report.View, Any, str]:
        store.shift = store.clock.to_wall()
        view = _view(chosen, configuration, store)
        return view, more(store, view), store.broken

    view, also, broken = state.read(chosen.state, chosen.run, read)
    if broken:
        log.complain(f"some of what has changed cannot be read: {broken}")
    return view, also, configuration


def _view(chosen: _Chosen, configuration: config.Config, store: state.State) -> report.View:
    books = store.books()
    me = books.own.name or configuration.settings.name or os.uname().nodename
    whole = configuration.complete
    view = report.View(
        me,
        time.time(),
        configuration.nodes,
        configuration.tests if whole else {*configuration.tests, *books.standings},
        configuration.addresses if whole else store.addresses(configuration.addresses),
        configuration.settings.quorum,
        books.own,
        books.standings,
        store.latest(books.standings, evidence=chosen.verb in ("why", "page")),
        books.incidents,
        books.outbox,
        {**books.silences, me: configuration.silences},
        store.failed,
        store.rebooted,
        whole,
    )
    return view._replace(tests={*view.tests, *(node_test(node.name) for node in view.peers)})


def _is_there(path: str) -> bool:
    """Say whether the file PATH is there; OSError where it cannot be read."""
    try:
        open(path, "rb").close()
    except FileNotFoundError:
        return False
    return True


def _wanted(view: report.View, what: str) -> tuple[str, str]:
    """Return the host and the test, or nothing in its place, that WHAT names, which is there."""
    host, name = _named(what)
    if what and not any(report.is_chosen(test, (host, name)) for test in view.tests):
        known = {str(test) for test in view.tests} if name else {test.host for test in view.tests}
        raise _Unknown(f"no such {'test' if name else 'host'}: '{names.printable(what)}'{config.did_you_mean(what, known)}")
    return host, name


def _named(what: str) -> tuple[str, str]:
    """Return the host and the test, or nothing in its place, that WHAT names."""
    host, slash, name = what.partition("/")
    if what and (not host or (slash and not name)):
        raise _Unknown(f"'{names.printable(what)}' is neither HOST nor HOST/TEST")
    return host, name


def _or_unknown(verb: Callable[[_Chosen], int]) -> Callable[[_Chosen], int]:
    """Have VERB end with the status of wrong usage where what was asked for is not there."""

    @functools.wraps(verb)
    def tried(chosen: _Chosen) -> int:
        try:
            return verb(chosen)
        except (_Unknown, silence.Refused) as unknown:
            log.complain(str(unknown))
            return os.EX_USAGE

    return tried


@_or_unknown
def _status(chosen: _Chosen) -> int:
    view, _, configuration = _read(chosen)
    wanted = _wanted(view, chosen.what)
    if not chosen.peers:
        return _show(chosen, report.status(view, wanted), terminal.status)
    from dmonitor import check

    tests = {test: wants for test, wants in configuration.tests.items() if report.is_chosen(test, wanted)}
    seen, _ = check.look(chosen, configuration._replace(tests=tests))
    judged = {test: each for test, each in seen.judgements.items() if report.is_chosen(test, wanted)}
    facts = report.views(report.ability(view), judged)
    return _show(chosen, facts, terminal.views)


@_or_unknown
def _why(chosen: _Chosen) -> int:
    wanted = _named(chosen.what)
    view, (found, handed), _ = _read(chosen, lambda store, _: _past(store, wanted))
    host, name = _wanted(view, chosen.what)
    if not host:
        raise _Unknown("which test? HOST/TEST")
    if not name:
        raise _Unknown(
            f"which test of {host}? HOST/TEST: {', '.join(sorted(str(test) for test in view.tests if test.host == host))}"
        )
    return _show(chosen, report.why(view, Test(host, name), found, handed), terminal.why)


@_or_unknown
def _history(chosen: _Chosen) -> int:
    wanted = _named(chosen.what)  # it may have been removed, and yet have been

    def read(store: state.State, _: report.View) -> tuple[list[Any], tuple[list[Any], list[Any]], float]:
        return store.changes(wanted, evidence=False) if chosen.json else [], _past(store, wanted), store.known_since()

    view, (changes, (found, handed), since), _ = _read(chosen, read)
    if not changes and not found:
        _wanted(view, chosen.what)
    return _show(chosen, report.history(found, changes, handed, view, since), terminal.history)


def _past(store: state.State, wanted: tuple[str, str]) -> tuple[list[Any], list[Any]]:
    """Return the incidents of what is WANTED, and what was handed over of them."""
    return store.past(wanted, store.clock.now() - state.KEPT), store.handed(wanted)


def _silences(chosen: _Chosen) -> int:
    view, _, _ = _read(chosen)
    return _show(chosen, report.silences(view.said, view.now), terminal.silences)


@_or_unknown
def _silence(chosen: _Chosen) -> int:
    """Touch the file of a silence, or remove it."""
    what, when = chosen.what, " ".join(chosen.when).removeprefix("for ")
    if when == "off":
        removed = silence.lift(chosen.config, what)
        still = _silenced_still(chosen, what, is_known=bool(removed))
        said = [f"removed {path}" for path in removed] or [f"{what} is not silenced here"]
        said += [
            f"{each['what']} is silenced by {each['node']} still: dmonitor silence {each['what']} off, there" for each in still
        ]
        return _show(chosen, {"what": what, "removed": removed, "until": None, "still": still}, lambda *_: said)
    if chosen.when and not when:
        raise _Unknown("until when? an empty word says nothing")
    until = silence.end(when) if when else None
    silence.say(chosen.config, what, until)
    facts: report.Facts = {"what": what, "removed": [], "until": report.moment(until), "still": []}
    end = f"until {terminal.day(facts['until'])}" if until else f"until `dmonitor silence {what} off`"
    return _show(chosen, facts, lambda *_: [f"nobody is mailed about {what} {end}; the other nodes hear of it within a minute"])


def _silenced_still(chosen: _Chosen, what: str, *, is_known: bool) -> list[report.Facts]:
    """Return the silences of WHAT that hold, whoever says them, as far as that is known; what is not IS_KNOWN has to be there."""
    try:
        view, _, _ = _read(chosen)
    except (StateError, user.NoUser, OSError):  # what was to be done is done
        return []
    (listed,) = report.silences(view.said, view.now).values()
    host = what.partition("/")[0]
    still = [each for each in listed if each["what"] in (what, host) or (what == host == each["what"].partition("/")[0])]
    if not still and not is_known:
        _wanted(view, what)
    return still


def _peers(chosen: _Chosen) -> int:
    from dmonitor import observer
    from dmonitor.core import digest

    user.become()
    configuration, own_run = _configuration(chosen), functools.partial(lock.holder, chosen.state, "dmonitord")
    node_id, _, _ = state.peek(chosen.state, chosen.run)
    around, contacts = observer.greet_all(configuration, node_id, own_run)
    mine = (digest.digest(configuration.tests), digest.digest_nodes(configuration.nodes), digest.digest(configuration.addresses))
    where = {peer.node.name: peer.addresses[0] for peer in around.peers if peer.addresses}
    order = [node.name for node in configuration.nodes]
    contacts = sorted(contacts, key=lambda each: order.index(each[0].node.name))
    facts = report.peers(contacts, mine, {name: str(address) for name, address in where.items()})
    return _show(chosen, facts, terminal.peers)


def _page(chosen: _Chosen) -> int:
    """Write the page to DIR/index.html, or to www/index.html in the state directory."""
    from dmonitor.operator import page, publish

    def read(store: state.State, view: report.View) -> tuple[list[Any], dict[str, float]]:
        since = {str(test): store.known_since(test) for test in view.standings}
        return store.past(since=store.clock.now() - page.DAYS * page.DAY), since

    view, (found, since), _ = _read(chosen, read)
    status = report.status(view, with_evidence=True)
    incidents = report.incidents(found, (), view.now)
    silences = report.silences(view.said, view.now)
    text = page.page(status, incidents, silences, report.nodes(view), view.now, since)
    directory = chosen.what or publish.home_of(chosen.state)
    return _publish(chosen, os.path.join(directory, "index.html"), text)


def _metrics(chosen: _Chosen) -> int:
    """Write the metrics to FILE, or to www/dmonitor.prom in the state directory."""
    from dmonitor.operator import metrics, publish

    view, _, _ = _read(chosen)
    times = {str(test): standing.since for test, standing in view.standings.items()}
    for incident in view.incidents:
        if incident.is_open and incident.flapping:
            times[str(incident.test)] = incident.began
    times["last_round"] = max(0.0, view.own.finished)
    path = chosen.what or f"{publish.home_of(chosen.state)}/dmonitor.prom"
    return _publish(chosen, path, metrics.metrics(report.status(view), times))


def _publish(chosen: _Chosen, path: str, text: str) -> int:
    """Write `text` to the file `path`, or to standard output if that was named; return a status."""
    from dmonitor.operator import publish

    if chosen.what in publish.STANDARD_OUTPUT:
        sys.stdout.buffer.write(text.encode())
        return os.EX_OK
    try:
        size = publish.write(path, text, publish.home_of(chosen.state))
    except publish.NotWritten as refused:
        log.complain(str(refused))
        return os.EX_TEMPFAIL
    if chosen.json:
        print(json.dumps({"written": path, "bytes": size}, indent=2, ensure_ascii=False))
    return os.EX_OK


def _key(chosen: _Chosen) -> int:
    from dmonitor.operator import keys

    if chosen.what and (status := keys.change(chosen.config, chosen.what, say=(lambda _: None) if chosen.json else print)):
        return status
    if chosen.what and not chosen.json:
        return os.EX_OK
    problems = config.Problems()
    found = keys.fingerprints(chosen.config, problems)
    for problem in problems:
        log.complain(str(problem))
    facts: report.Facts = {"keys": [{"path": path, "fingerprint": each} for path, each in found.items()]}
    said = [f"{each}  {path}" for path, each in found.items()]
    said += [] if f"{chosen.config}/{config.KEY_FILES[0]}" in found or problems else [config.MAKE_KEY]
    _show(chosen, facts, lambda *_: said)
    return os.EX_CONFIG if problems else os.EX_OK


_VERBS: dict[str, Callable[[_Chosen], int]] = {
    "status": _status,
    "why": _why,
    "history": _history,
    "silence": _silence,
    "silences": _silences,
    "peers": _peers,
    "page": _page,
    "metrics": _metrics,
    "key": _key,
}

if __name__ == "__main__":
    sys.exit(main())
