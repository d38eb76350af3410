"""The program dmonitor: what an operator asks of a node, and tells it. A verb is a few lines here.

`verbs` has what each verb takes. What a node knows is read by `reader`; `report` makes facts of it,
and `terminal` shows them. What the program changes are files that an operator may touch as well.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dmonitor import verbs
from dmonitor.base import cli, log, names, user
from dmonitor.base.errors import StateError
from dmonitor.config.keyfile import KEY_FILES, NO_KEY_ADVICE
from dmonitor.config.problems import Problems, did_you_mean
from dmonitor.config.times import read_duration
from dmonitor.core.model import Change, Handed, Incident, Test
from dmonitor.operator import reader, report, silence, terminal
from dmonitor.operator.report import Facts, NodeReport
from dmonitor.store import doorbell, history, lock, state
from dmonitor.verbs import Options

if TYPE_CHECKING:
    from dmonitor.operator import keys

PROGRAM = "dmonitor"
_WAKE_PATIENCE = 3.0  # seconds to reach the nodes that are to look now
_Past = tuple[list[Incident], list[Handed]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    chosen = Options()
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    cli.parse(functools.partial(verbs.make_parser, PROGRAM), chosen, verbs.options_last(given))
    log.start(PROGRAM, to_stderr=chosen.verbose, verbose=chosen.verbose)
    return cli.guard(lambda: _run(chosen))


def _run(chosen: Options) -> int:
    try:
        status = _VERBS[chosen.verb](chosen)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return os.EX_OK


class _Unknown(Exception):
    """There is nothing of that name; the text says so."""


# Showing.


def _show(
    chosen: Options, facts: Facts, table: Callable[[Facts, terminal.Paint], list[str]]
) -> int:
    """Print `facts`, as JSON or as `table` makes lines of them; return an exit status."""
    if chosen.json:
        _print_json(facts)
        return os.EX_OK
    paint = terminal.Paint(_wants_colour(), _width())
    if paint.width is not None and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an escape would be wider than its character
    print("\n".join(table(terminal.printable(facts), paint)))
    return os.EX_OK


def _print_json(facts: Facts) -> None:
    """Print `facts` as JSON, in which what is not safe to show is an escape."""
    lines = json.dumps(facts, indent=2, ensure_ascii=False).split("\n")
    print("\n".join(map(_escape_for_json, lines)))


def _escape_for_json(text: str) -> str:
    if names.can_be_shown(text):
        return text
    if len(text) > 1:
        return "".join(map(_escape_for_json, text))
    return json.dumps(text)[1:-1]


def _wants_colour() -> bool:
    """Return whether standard output is a terminal that shows colours, and nobody forbade them."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stdout.isatty()


def _width() -> int | None:
    """Return the columns that lines may take; None if nothing limits them, as in a pipe.

    That is COLUMNS if it is set, or the width of the terminal, or 80 if it does not say.
    """
    told = os.environ.get("COLUMNS", "")
    is_told = told.isdecimal() and int(told) > 0
    if not is_told and not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


# What a verb is about.


def _split(subject: str) -> tuple[str, str]:
    """Split `subject` into host and test, '' for what it does not name; raise _Unknown."""
    host, slash, name = subject.partition("/")
    if subject and (not host or (slash and not name)):
        raise _Unknown(f"'{names.printable(subject)}' is neither HOST nor HOST/TEST")
    return host, name


def _require(view: NodeReport, subject: str) -> tuple[str, str]:
    """Split `subject` into host and test; raise _Unknown if this node has no such test."""
    host, name = _split(subject)
    if not subject or any(report.is_chosen(test, (host, name)) for test in view.tests):
        return host, name
    if name:
        kind, candidates = "test", {str(test) for test in view.tests}
    else:
        kind, candidates = "host", {test.host for test in view.tests}
    suggestion = did_you_mean(subject, candidates)
    raise _Unknown(f"no such {kind}: '{names.printable(subject)}'{suggestion}")


def _usage_error_if_unknown(verb: Callable[[Options], int]) -> Callable[[Options], int]:
    """Make `verb` end with the status of wrong usage if its subject does not exist."""

    @functools.wraps(verb)
    def tried(chosen: Options) -> int:
        try:
            return verb(chosen)
        except (_Unknown, silence.Refused) as error:
            log.complain(str(error))
            return os.EX_USAGE

    return tried


def _past(
    store: state.Store, wanted: tuple[str, str], seconds: float = history.HISTORY_SECONDS
) -> _Past:
    """Return the incidents of what is wanted, oldest first, and what was handed over of them.

    What ended more than `seconds` ago is left out.
    """
    since = store.clock.now() - seconds
    return store.history.past(wanted, since), store.history.handed(wanted)


# The verbs.


@_usage_error_if_unknown
def _status(chosen: Options) -> int:
    reading = reader.read(chosen)
    wanted = _require(reading.view, chosen.what)
    if not chosen.peers:
        facts = report.status(reading.view, wanted)
        status = _show(chosen, facts, terminal.status)
        return report.check_status(facts) if chosen.check else status
    from dmonitor import questions

    tests = {}
    for test, parameters in reading.configuration.tests.items():
        if report.is_chosen(test, wanted):
            tests[test] = parameters
    observation, _ = questions.look(chosen, reading.configuration._replace(tests=tests))
    judgements = {}
    for test, judgement in observation.judgements.items():
        if report.is_chosen(test, wanted):
            judgements[test] = judgement
    facts = report.views(report.ability(reading.view), judgements)
    status = _show(chosen, facts, terminal.views)
    return report.check_status(facts) if chosen.check else status


@_usage_error_if_unknown
def _why(chosen: Options) -> int:
    wanted = _split(chosen.what)
    reading = reader.read(chosen, lambda store, _: _past(store, wanted), evidence=True, trends=True)
    host, name = _require(reading.view, chosen.what)
    if not host:
        raise _Unknown("which test? HOST/TEST")
    if not name:
        tests = sorted(str(test) for test in reading.view.tests if test.host == host)
        raise _Unknown(f"which test of {host}? HOST/TEST: {', '.join(tests)}")
    incidents, handed = reading.more
    facts = report.why(reading.view, Test(host, name), incidents, handed)
    return _show(chosen, facts, terminal.why)


@_usage_error_if_unknown
def _history(chosen: Options) -> int:
    subject, seconds = _subject_and_age(chosen)
    wanted = _split(subject)  # a test that was removed has a history, too

    def read(store: state.Store, view: NodeReport) -> tuple[list[Change], _Past, float]:
        changes = store.history.changes(wanted, evidence=False) if chosen.json else []
        changes = [change for change in changes if change.at >= view.now - seconds]
        past = _past(store, wanted, seconds)
        return changes, past, store.history.known_since(store.clock.now())

    reading = reader.read(chosen, read)
    changes, (incidents, handed), since = reading.more
    if not changes and not incidents:
        hosts = {test.host for test in reading.view.tests}
        if subject[:1].isdecimal() and "." not in subject and subject not in hosts:
            _read_age(subject)  # it is nearly one
        _require(reading.view, subject)
    facts = report.history(incidents, changes, handed, reading.view, since)
    return _show(chosen, facts, terminal.history)


def _subject_and_age(chosen: Options) -> tuple[str, float]:
    """Return what the history is wanted of, '' for everything, and of how many seconds."""
    age = " ".join(chosen.when)
    if not age:
        with contextlib.suppress(ValueError):
            return "", read_duration(chosen.what)
        return chosen.what, history.HISTORY_SECONDS
    return chosen.what, _read_age(age)


def _read_age(text: str) -> float:
    """Return the seconds that `text` names; raise _Unknown."""
    try:
        return read_duration(text)
    except ValueError as error:
        raise _Unknown(str(error)) from None


def _silences(chosen: Options) -> int:
    reading = reader.read(chosen)
    view = reading.view
    facts = report.silences(view.silences, view.now)
    facts["planned"] = report.planned(reading.configuration.silences, view.me, view.now)
    return _show(chosen, facts, terminal.silences)


@_usage_error_if_unknown
def _silence(chosen: Options) -> int:
    """Write the file of a silence, or remove it."""
    chosen.what = chosen.what.removesuffix("/")
    if list(chosen.when) == ["off"]:
        return _lift(chosen)
    if chosen.when and not "".join(chosen.when):
        raise _Unknown("until when? an empty word names no time")
    order = silence.order(chosen.when)
    if order.line.startswith("until up"):
        _as_user(lambda: _acknowledging_node(chosen))  # it would cover nothing else
    silence.say(chosen.config, chosen.what, order.line)
    until = report.moment(order.until)
    facts: Facts = {"what": chosen.what, "removed": [], "until": until, "still": []}
    end = order.line or f"until `dmonitor silence {chosen.what} off`"
    if until:
        end = f"until {terminal.day_with_offset(until)}"
    line = f"nobody is mailed about {chosen.what} {end}; the other nodes hear of it within a minute"
    if order.line.startswith("until up"):
        line = f"nobody is reminded of what is DOWN at {chosen.what}; its recovery is mailed"
    return _show(chosen, facts, lambda *_: [names.escaped(line)])


@_usage_error_if_unknown
def _ack(chosen: Options) -> int:
    """Write the file of an acknowledgement, if something is DOWN there."""
    chosen.what = chosen.what.removesuffix("/")
    node = _as_user(lambda: _acknowledging_node(chosen))
    line = silence.acknowledgement(node, chosen.when)
    silence.say(chosen.config, chosen.what, line)
    said = f"nobody is reminded of what is DOWN at {chosen.what}; its recovery is mailed"
    return _show(chosen, {"what": chosen.what, "line": line}, lambda *_: [said])


def _acknowledging_node(chosen: Options) -> str:
    """Return this node's name; raise _Unknown if nothing of what is named is DOWN."""
    view = reader.read(chosen, quiet=True).view
    wanted = _require(view, chosen.what)
    down = sorted({str(each.test) for each in view.incidents if each.is_open and not each.flapping})
    for incident in view.incidents:
        is_down = incident.is_open and not incident.flapping
        if is_down and report.is_chosen(incident.test, wanted):
            return view.me
    listed = ", ".join(down) or "nothing is"
    text = f"nothing of {chosen.what} is DOWN, as this node knows; DOWN: {listed}"
    raise _Unknown(text)


def _as_user(read: Callable[[], str]) -> str:
    """Return what `read` returns, which gives up root: a process of its own does so.

    This one has to write what is root's. Raise _Unknown or StateError as `read` does.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        found, error = "", "StateError the state was not read"
        try:
            found, error = read(), ""
        except (_Unknown, StateError, user.NoUser, OSError) as raised:
            error = f"{type(raised).__name__} {raised}"
        finally:
            os.write(theirs, json.dumps([found, error]).encode())
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    found, error = json.loads(answer)
    kind, _, text = error.partition(" ")
    if kind == "_Unknown":
        raise _Unknown(text)
    if error:
        raise StateError(text)
    return str(found)


def _lift(chosen: Options) -> int:
    """Remove the file of a silence, and say which other silences of the same thing hold."""
    subject = chosen.what
    removed = silence.lift(chosen.config, subject)
    if removed:
        _wake_all(chosen)
    still = _silenced_still(chosen, subject, is_known=bool(removed))
    facts: Facts = {"what": subject, "removed": removed, "until": None, "still": still}
    lines = [f"removed {path}" for path in removed] or [f"{subject} is not silenced here"]
    for other in still:
        lines.append(
            f"{other['what']} is still silenced by {other['node']}; to end that, type on"
            f" {other['node']}: dmonitor silence {other['what']} off"
        )
    return _show(chosen, facts, lambda *_: list(map(names.escaped, lines)))


def _wake_all(chosen: Options) -> None:
    """Have the node that speaks look now, because it may have something to tell (R5).

    If that fails, it looks in its next round.
    """
    from dmonitor import observer

    with contextlib.suppress(StateError, user.NoUser, OSError):
        user.become()
        configuration = reader.load(chosen, quiet=True)
        node_id, _, _ = state.peek(chosen.state, chosen.run_dir)
        doorbell.Doorbell(chosen.state).ring()
        own_incarnation = functools.partial(lock.holder, chosen.state, "dmonitord")
        observer.greet_all(
            configuration, node_id, own_incarnation, patience=_WAKE_PATIENCE, waking=True
        )


def _silenced_still(chosen: Options, subject: str, *, is_known: bool) -> list[Facts]:
    """Return the silences of `subject` that hold, of any node, as far as this node knows.

    Raise _Unknown if nothing silences it and no test has its name, unless it `is_known`.
    """
    try:
        view = reader.read(chosen).view
    except (StateError, user.NoUser, OSError):  # the file is removed all the same
        return []
    host, _, name = subject.partition("/")
    still = []
    for other in report.silences(view.silences, view.now)["silences"]:
        is_of_host = other["what"].partition("/")[0] == host
        if other["what"] in (subject, host) or (is_of_host and not name):
            still.append(other)
    if not still and not is_known:
        _require(view, subject)
    return still


def _peers(chosen: Options) -> int:
    from dmonitor import key_holders
    from dmonitor.core import digest

    user.become()
    configuration = reader.load(chosen)
    around, contacts = key_holders.greet(chosen, configuration)
    shared = key_holders.keys_in_use(chosen, configuration, [contact for contact, _ in contacts])
    our_digests = (
        digest.digest(configuration.tests),
        digest.digest_nodes(configuration.nodes),
        configuration.addresses_digest,
    )
    addresses = {}
    for peer in around.peers:
        if peer.addresses:
            addresses[peer.node.name] = str(peer.addresses[0])
    order = [node.name for node in configuration.nodes]
    contacts = sorted(contacts, key=lambda greeted: order.index(greeted[0].node.name))
    facts = report.peers(contacts, our_digests, addresses, shared)
    return _show(chosen, facts, terminal.peers)


@_usage_error_if_unknown
def _page(chosen: Options) -> int:
    """Write the page to DIR/index.html, or to www/index.html in the state directory."""
    from dmonitor.operator import availability, page, page_tests, publish

    def read(store: state.Store, view: NodeReport) -> tuple[list[Incident], list[Change]]:
        since = view.now - (page_tests.DAYS + 1) * 86400
        return store.history.past(since=since), store.history.changes(evidence=False)

    reading = reader.read(chosen, read, evidence=not chosen.only, trends=True, quiet=True)
    view = reading.view
    known, changes = reading.more
    days = availability.days(view, known, changes, page_tests.DAYS)
    past = page_tests.Past(
        {str(test): of_test for test, of_test in days.items()},
        {str(test): trend for test, trend in view.trends.items()},
    )
    incidents = report.incidents(known, (), view.now)
    if chosen.only:
        if not any(page.is_public(str(test), chosen.only) for test in view.tests):
            raise _Unknown(f"no test fits {', '.join(map(names.printable, chosen.only))}")
        title = chosen.title or "Status"
        text = page.public(report.status(view), incidents, past, chosen.only, title)
    else:
        status = report.status(view, with_evidence=True)
        silences = report.silences(view.silences, view.now)
        nodes = report.nodes(view)
        text = page.page(status, incidents, silences, nodes, past, title=chosen.title)
    directory = chosen.what or publish.home_of(chosen.state)
    return _publish(chosen, os.path.join(directory, "index.html"), text)


def _metrics(chosen: Options) -> int:
    """Write the metrics to FILE, or to www/dmonitor.prom in the state directory."""
    from dmonitor.operator import metrics, publish

    view = reader.read(chosen, quiet=True).view
    times = {str(test): test_state.since for test, test_state in view.test_states.items()}
    for incident in view.incidents:
        if report.is_flapping(incident):
            times[str(incident.test)] = incident.began
    times["last_round"] = max(0.0, view.node.finished)
    times_of_looks = {test: each.look.at for test, each in view.test_states.items() if each.look}
    times_of_looks.update({test: look.at for test, look in view.looks.items()})
    looks = {str(test): at for test, at in times_of_looks.items()}
    path = chosen.what or f"{publish.home_of(chosen.state)}/dmonitor.prom"
    return _publish(chosen, path, metrics.metrics(report.status(view), times, looks))


def _publish(chosen: Options, path: str, text: str) -> int:
    """Write `text` to the file `path`, or to standard output if that was named; return a status."""
    from dmonitor.operator import publish

    if chosen.what in publish.STANDARD_OUTPUT:
        sys.stdout.buffer.write(text.encode())
        return os.EX_OK
    try:
        size = publish.write(path, text, publish.home_of(chosen.state))
    except publish.NotWritten as error:
        log.complain(str(error))
        return os.EX_TEMPFAIL
    if chosen.json:
        _print_json({"written": path, "bytes": size})
    return os.EX_OK


@_usage_error_if_unknown
def _availability(chosen: Options) -> int:
    """Show how available each host and test was in a month: the verb `report`."""
    from dmonitor.operator import availability, availability_text

    try:
        of = availability.period(chosen.what, time.time())
    except availability.NoMonth as error:
        raise _Unknown(str(error)) from None

    def read(store: state.Store, _: NodeReport) -> tuple[list[Incident], list[Change]]:
        return store.history.past(since=of.since), store.history.changes(evidence=False)

    reading = reader.read(chosen, read)
    incidents, changes = reading.more
    facts = availability.availability(reading.view, incidents, changes, of)
    if chosen.html and not chosen.json:
        print(availability_text.page(facts), end="")
        return os.EX_OK
    return _show(chosen, facts, availability_text.text)


@_usage_error_if_unknown
def _change_tests(chosen: Options) -> int:
    """Do what the verb `add`, `remove` or `push` says."""
    from dmonitor import changing

    def show(facts: Facts, lines: list[str]) -> int:
        return _show(chosen, facts, lambda *_: lines)

    try:
        return changing.VERBS[chosen.verb](chosen, show)
    except changing.Refused as error:
        raise _Unknown(str(error)) from None


def _key(chosen: Options) -> int:
    """Change the key, or show the fingerprints of the keys; with --json, both."""
    from dmonitor.operator import keys

    if chosen.nodes:
        return _make_pair_keys(chosen)
    if chosen.what:
        say = _say_nothing if chosen.json else print
        status = _may_change_key(chosen) or keys.change(chosen.config, chosen.what, say)
        if status or not chosen.json:
            return status
    problems = Problems()
    fingerprints = keys.fingerprints(chosen.config, problems)
    for problem in problems:
        log.complain(str(problem))
    lines = [fingerprint.line() for fingerprint in fingerprints]
    key_path = f"{chosen.config}/{KEY_FILES[0]}"
    if not problems and key_path not in {fingerprint.path for fingerprint in fingerprints}:
        lines.append(NO_KEY_ADVICE)
    _show(chosen, {"keys": _key_facts(fingerprints)}, lambda *_: lines)
    return os.EX_CONFIG if problems else os.EX_OK


def _may_change_key(chosen: Options) -> int:
    """Return 0 unless nodes would be cut off by that; then say which, and return a status."""
    from dmonitor import key_holders

    if chosen.what != "drop" or chosen.force:
        return os.EX_OK
    from dmonitor.operator import keys

    if not os.path.lexists(f"{chosen.config}/{KEY_FILES[1]}"):
        return os.EX_OK
    if keys.why_not_dropped(chosen.config):
        return os.EX_OK  # nobody need be asked: it is refused
    return key_holders.may_drop(chosen)


def _make_pair_keys(chosen: Options) -> int:
    """Make a file of keys for each of the nodes that were named; with --json, show their paths."""
    from dmonitor.operator import pair_keys

    if chosen.what != "new":
        log.complain(f"`dmonitor key {chosen.what}` takes no names of nodes")
        return os.EX_USAGE
    say = _say_nothing if chosen.json else print
    try:
        pair_keys.make(chosen.nodes, os.getcwd(), chosen.config, say)
    except pair_keys.Refused as error:
        log.complain(f"no key was made: {error}")
        return os.EX_DATAERR
    if chosen.json:
        paths = [pair_keys.path_of(os.getcwd(), node) for node in chosen.nodes]
        _print_json({"keys": [], "made": paths})
    return os.EX_OK


def _key_facts(fingerprints: Sequence[keys.Fingerprint]) -> list[dict[str, str]]:
    listed = []
    for fingerprint in fingerprints:
        facts = {"path": fingerprint.path, "fingerprint": fingerprint.digits}
        if fingerprint.peer:
            facts["peer"] = fingerprint.peer
        listed.append(facts)
    return listed


def _say_nothing(text: str) -> None:
    """Drop a message that is for people."""


_VERBS: dict[str, Callable[[Options], int]] = {
    "status": _status,
    "why": _why,
    "history": _history,
    "silence": _silence,
    "ack": _ack,
    "silences": _silences,
    "peers": _peers,
    "page": _page,
    "metrics": _metrics,
    "add": _change_tests,
    "remove": _change_tests,
    "push": _change_tests,
    "report": _availability,
    "key": _key,
}

if __name__ == "__main__":
    sys.exit(main())
