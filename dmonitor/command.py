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

from dmonitor.base import cli, log, names, options, user
from dmonitor.base.errors import StateError
from dmonitor.config import keyfile
from dmonitor.config.configuration import Configuration, load_configuration
from dmonitor.config.problems import Problems, Severity, did_you_mean
from dmonitor.core.model import Test, node_test
from dmonitor.operator import report, silence, terminal
from dmonitor.store import lock, state

PROGRAM = "dmonitor"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    chosen = _Chosen()
    given = list(sys.argv[1:] or ["--help"] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    given[:end] = sorted(
        given[:end], key=("--json", "--peers").__contains__
    )  # they may stand anywhere; argparse is strict
    cli.parse(_parser, chosen, given)
    log.start(PROGRAM, to_stderr=chosen.verbose, verbose=chosen.verbose)
    return cli.guard(lambda: _run(chosen))


def _run(chosen: _Chosen) -> int:
    try:
        status = _VERBS[chosen.verb](chosen)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return os.EX_OK


class _Chosen(cli.Options):
    verb = what = ""
    when: Sequence[str] = ()
    json = peers = False


class _Unknown(Exception):
    """What was asked for is not there; the text says so."""


def _parser() -> argparse.ArgumentParser:
    parser = options.make_parser(PROGRAM, "See how a node and its tests are, and look after it.")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, text: str, what: str = "", **more: Any) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = verbs.add_parser(
            name, help=text, description=text, allow_abbrev=False
        )
        if what:
            made.add_argument("what", metavar=what, **more)
        made.add_argument("--json", action="store_true", help="print JSON")
        return made

    some = {"nargs": "?", "default": ""}
    status = verb(
        "status",
        "can this node alert, and how are its tests: what needs somebody first",
        "HOST[/TEST]",
        **some,
    )
    status.add_argument("--peers", action="store_true", help="ask everybody, now")
    verb(
        "why",
        "the evidence for a verdict, and for the last incident: who saw what, who told whom",
        "HOST/TEST",
    )
    verb(
        "history",
        "the incidents: when, how long, seen by whom, told by whom",
        "HOST[/TEST]",
        **some,
    )
    quiet = verb(
        "silence", "say that nobody is mailed about a host or a test for a while", "HOST[/TEST]"
    )
    when = "2h, 30min or 1d; until 18:00 or 2026-12-24T18:00; off; else until that is said"
    quiet.add_argument("when", nargs="*", help=when, metavar="WHEN")
    verb("silences", "what is silenced, until when, and which node said so")
    verb(
        "peers",
        "greet the other nodes: version, latency, clock, last round, and what they have configured otherwise",
    )
    verb(
        "page",
        "write one page that says how everything is, for whoever opens it, into a directory",
        "DIR",
    )
    verb("metrics", "write a file for the textfile collector of Prometheus' node_exporter", "FILE")
    what = "new: make one; set: take the one on stdin; drop: take the old one no more; else show their fingerprints"
    text = "show which key the nodes share here, make one, take one, or drop the old one"
    key = verbs.add_parser("key", help=text, description=text, allow_abbrev=False)
    key.add_argument(
        "what", nargs="?", choices=("new", "set", "drop"), metavar="new|set|drop", help=what
    )
    key.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _show(
    chosen: _Chosen, facts: report.Facts, table: Callable[[report.Facts, terminal.Paint], list[str]]
) -> int:
    """Print FACTS, as JSON or as TABLE says."""
    wanted = (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )
    print(
        json.dumps(facts, indent=2, ensure_ascii=False)
        if chosen.json
        else "\n".join(table(facts, terminal.Paint(wanted)))
    )
    return os.EX_OK


def _configuration(chosen: _Chosen) -> Configuration:
    configuration = load_configuration(chosen.config)
    errors = [each for each in configuration.problems if each.severity is Severity.ERROR]
    if errors and chosen.verb not in (
        "page",
        "metrics",
    ):  # which cron starts; its rounds log what is wrong
        log.complain(
            f"mistakes in the configuration: {len(errors)}, see `dmonitor-check -t`; the first: {errors[0]}"
        )
    return configuration


def _read(
    chosen: _Chosen, more: Callable[[state.State, report.NodeReport], Any] = lambda *_: None
) -> tuple[report.NodeReport, Any, Configuration]:
    """Return what is known here, and what MORE reads beside it, in times of the wall clock; and the configuration."""
    user.become()
    if not _is_there(f"{chosen.state}/state.db") and not (
        chosen.run_dir and _is_there(f"{chosen.run_dir}/state.db")
    ):
        raise StateError(
            f"{chosen.state}/state.db is not there yet: no round has run on this node; does cron start it?"
        )
    configuration = _configuration(chosen)

    def read(store: state.State) -> tuple[report.NodeReport, Any, str]:
        store.shift = store.clock.to_wall()
        view = _view(chosen, configuration, store)
        return view, more(store, view), store.broken

    view, also, broken = state.read(chosen.state, chosen.run_dir, read)
    if broken:
        log.complain(f"some of what has changed cannot be read: {broken}")
    return view, also, configuration


def _view(chosen: _Chosen, configuration: Configuration, store: state.State) -> report.NodeReport:
    memory = store.memory()
    me = memory.node.name or configuration.settings.name or os.uname().nodename
    whole = configuration.complete
    view = report.NodeReport(
        me,
        time.time(),
        configuration.nodes,
        configuration.tests if whole else {*configuration.tests, *memory.test_states},
        configuration.addresses if whole else store.addresses(configuration.addresses),
        configuration.settings.quorum,
        memory.node,
        memory.test_states,
        store.latest(memory.test_states, evidence=chosen.verb in ("why", "page")),
        memory.incidents,
        memory.outbox,
        {**memory.silences, me: configuration.silences},
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


def _wanted(view: report.NodeReport, what: str) -> tuple[str, str]:
    """Return the host and the test, or nothing in its place, that WHAT names, which is there."""
    host, name = _named(what)
    if what and not any(report.is_chosen(test, (host, name)) for test in view.tests):
        known = {str(test) for test in view.tests} if name else {test.host for test in view.tests}
        raise _Unknown(
            f"no such {'test' if name else 'host'}: '{names.printable(what)}'{did_you_mean(what, known)}"
        )
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

    tests = {
        test: wants for test, wants in configuration.tests.items() if report.is_chosen(test, wanted)
    }
    seen, _ = check.look(chosen, configuration._replace(tests=tests))
    judged = {
        test: each for test, each in seen.judgements.items() if report.is_chosen(test, wanted)
    }
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

    def read(
        store: state.State, _: report.NodeReport
    ) -> tuple[list[Any], tuple[list[Any], list[Any]], float]:
        return (
            store.changes(wanted, evidence=False) if chosen.json else [],
            _past(store, wanted),
            store.known_since(),
        )

    view, (changes, (found, handed), since), _ = _read(chosen, read)
    if not changes and not found:
        _wanted(view, chosen.what)
    return _show(chosen, report.history(found, changes, handed, view, since), terminal.history)


def _past(store: state.State, wanted: tuple[str, str]) -> tuple[list[Any], list[Any]]:
    """Return the incidents of what is WANTED, and what was handed over of them."""
    return store.past(wanted, store.clock.now() - state.HISTORY_SECONDS), store.handed(wanted)


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
            f"{each['what']} is silenced by {each['node']} still: dmonitor silence {each['what']} off, there"
            for each in still
        ]
        return _show(
            chosen,
            {"what": what, "removed": removed, "until": None, "still": still},
            lambda *_: said,
        )
    if chosen.when and not when:
        raise _Unknown("until when? an empty word says nothing")
    until = silence.end(when) if when else None
    silence.say(chosen.config, what, until)
    facts: report.Facts = {"what": what, "removed": [], "until": report.moment(until), "still": []}
    end = (
        f"until {terminal.day(facts['until'])}" if until else f"until `dmonitor silence {what} off`"
    )
    return _show(
        chosen,
        facts,
        lambda *_: [
            f"nobody is mailed about {what} {end}; the other nodes hear of it within a minute"
        ],
    )


def _silenced_still(chosen: _Chosen, what: str, *, is_known: bool) -> list[report.Facts]:
    """Return the silences of WHAT that hold, whoever says them, as far as that is known; what is not IS_KNOWN has to be there."""
    try:
        view, _, _ = _read(chosen)
    except (StateError, user.NoUser, OSError):  # what was to be done is done
        return []
    (listed,) = report.silences(view.said, view.now).values()
    host = what.partition("/")[0]
    still = [
        each
        for each in listed
        if each["what"] in (what, host) or (what == host == each["what"].partition("/")[0])
    ]
    if not still and not is_known:
        _wanted(view, what)
    return still


def _peers(chosen: _Chosen) -> int:
    from dmonitor import observer
    from dmonitor.core import digest

    user.become()
    configuration, own_incarnation = (
        _configuration(chosen),
        functools.partial(lock.holder, chosen.state, "dmonitord"),
    )
    node_id, _, _ = state.peek(chosen.state, chosen.run_dir)
    around, contacts = observer.greet_all(configuration, node_id, own_incarnation)
    mine = (
        digest.digest(configuration.tests),
        digest.digest_nodes(configuration.nodes),
        digest.digest(configuration.addresses),
    )
    where = {peer.node.name: peer.addresses[0] for peer in around.peers if peer.addresses}
    order = [node.name for node in configuration.nodes]
    contacts = sorted(contacts, key=lambda each: order.index(each[0].node.name))
    facts = report.peers(contacts, mine, {name: str(address) for name, address in where.items()})
    return _show(chosen, facts, terminal.peers)


def _page(chosen: _Chosen) -> int:
    """Write DIR/index.html."""

    def make() -> str:
        from dmonitor.operator import page

        def read(store: state.State, view: report.NodeReport) -> tuple[list[Any], dict[str, float]]:
            since = {str(test): store.known_since(test) for test in view.test_states}
            return store.past(since=store.clock.now() - page.DAYS * page.DAY), since

        view, (found, since), _ = _read(chosen, read)
        status, incidents = (
            report.status(view, with_evidence=True),
            report.incidents(found, (), view.now),
        )
        return page.page(
            status,
            incidents,
            report.silences(view.said, view.now),
            report.nodes(view),
            view.now,
            since,
        )

    return _publish(chosen, os.path.join(chosen.what, "index.html") if chosen.what else "", make)


def _metrics(chosen: _Chosen) -> int:
    """Write FILE."""

    def make() -> str:
        from dmonitor.operator import metrics

        view, _, _ = _read(chosen)
        times = {str(test): standing.since for test, standing in view.test_states.items()}
        times |= {
            str(known.test): known.began
            for known in view.incidents
            if known.is_open and known.flapping
        }
        return metrics.metrics(
            report.status(view), {**times, "last_round": max(0.0, view.node.finished)}
        )

    return _publish(chosen, chosen.what, make)


def _publish(chosen: _Chosen, path: str, make: Callable[[], str]) -> int:
    """Have what MAKE returns published in PATH."""
    from dmonitor.operator import publish

    try:
        if path in ("-", "/dev/stdout"):
            publish.to_stdout(make)
            return os.EX_OK
        size = publish.publish(path, make)
    except publish.NotWritten as refused:
        return refused.status
    return (
        _show(chosen, {"written": path, "bytes": size}, lambda *_: []) if chosen.json else os.EX_OK
    )


def _key(chosen: _Chosen) -> int:
    from dmonitor.operator import keys

    if chosen.what and (
        status := keys.change(
            chosen.config, chosen.what, say=(lambda _: None) if chosen.json else print
        )
    ):
        return status
    if chosen.what and not chosen.json:
        return os.EX_OK
    problems = Problems()
    found = keys.fingerprints(chosen.config, problems)
    for problem in problems:
        log.complain(str(problem))
    facts: report.Facts = {
        "keys": [{"path": path, "fingerprint": each} for path, each in found.items()]
    }
    said = [f"{each}  {path}" for path, each in found.items()]
    said += (
        []
        if f"{chosen.config}/{keyfile.KEY_FILES[0]}" in found or problems
        else [keyfile.NO_KEY_ADVICE]
    )
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
