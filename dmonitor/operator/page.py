"""One page that says how everything is: HTML with its style and pictures in it.

Pure: facts of `report` in, text out. The page needs no script and names no address that is mailed.
What a colour says, a word and a shape say as well.
"""

from __future__ import annotations

import datetime
import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.operator import report, terminal
from dmonitor.operator.page_style import SCRIPT, STYLE
from dmonitor.operator.report import FLAPPING, Facts

DAY = 86400  # seconds
DAYS = 90  # of history in the longer bar
STALE = 300  # seconds after which the page is out of date
_INCIDENTS_SHOWN = 200  # of those that are over, and of those that are open
_TESTS_IN_BANNER = 20
_EVIDENCE_LIMIT = 120_000  # characters of tables of who saw what
_WHY = "<code>dmonitor why HOST/TEST</code>"
_BAD = ("DOWN", FLAPPING)
_BAR_WIDTH = 1000  # units of the picture
_HIT_WIDTH = 3.0  # units; a shorter incident is drawn so wide


class _EvidenceTables:
    """Tables of who saw what, as long as there is room for them on the page."""

    def __init__(self) -> None:
        self._room = _EVIDENCE_LIMIT

    def render(self, evidence: Facts) -> str:
        """Return a table with a row for all nodes that saw the same; '' if there is no room."""
        nodes_by_view: dict[tuple[str, str], list[str]] = {}
        for answer in evidence["answers"]:
            view = answer["sees"], answer["text"]
            nodes_by_view.setdefault(view, []).append(answer["node"])
        rows = []
        for (sees, text), nodes in nodes_by_view.items():
            rows.append((_escape(", ".join(nodes)), _state(sees), _escape(text)))
        table = _table(("Node", "Sees", "Text"), rows)
        verdict = f"quorum {evidence['quorum']}: {evidence['verdict']}"
        rendered = f"{table}<p>{evidence['sites_failing']} failing, {verdict}.</p>"
        self._room = max(0, self._room - len(rendered))
        return rendered if self._room else ""


class _History(NamedTuple):
    """What the bars of a test are drawn from."""

    at: float  # when the page is written, in seconds since the epoch
    known_since: Mapping[str, float]  # since when each test is known
    incidents: Mapping[str, Sequence[Facts]]  # of each test, newest first


def page(
    status: Facts,
    incidents: Sequence[Facts],
    silences: Facts,
    nodes: Facts,
    at: float,
    known_since: Mapping[str, float],
) -> str:
    """Return the page.

    `incidents` are the newest first. `at` is when the page is written, and `known_since` since
    when each test is known, in seconds since the epoch.
    """
    tables = _EvidenceTables()
    evidence = {}
    for test in status["tests"]:
        if "evidence" in test:
            evidence[test["test"]] = tables.render(test["evidence"])
    of_test: dict[str, list[Facts]] = {}
    for incident in incidents:
        of_test.setdefault(incident["test"], []).append(incident)
    stale = STALE + 60 * (status["interval"] - 1)
    last_round = 0.0
    if status["last_round"]:
        last_round = _seconds(status["last_round"])
    script = SCRIPT.format(at=int(last_round), stale=stale)
    parts = [
        _head(status, stale),
        _banner(status),
        _hosts(status, evidence, _History(at, known_since, of_test)),
        _incidents(incidents, tables, evidence),
        _silences(silences["silences"]),
        _nodes(nodes),
        f"</main><script>{script}</script></body></html>\n",
    ]
    return "\n".join(parts)


def _head(status: Facts, stale: int) -> str:
    """Return the page's beginning: title, style, when it was written, and the warning for later."""
    node = _escape(status["node"])
    written = _time(status["now"])
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        f"<title>{_escape(_title(status))}: dmonitor on {node}</title>",
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        '<meta http-equiv="refresh" content="60"><meta name="robots" content="noindex">',
        f"<style>{STYLE}</style></head><body>",
        f'<a class="skip" href="#now">to the state</a><header><h1>dmonitor on {node}</h1>',
        f"<p>Written {written}; last round {_time(status['last_round'])}.",
        f'<span class="soft">If this page is more than {stale // 60} minutes old, do not trust it.',
        '</span></p><div id="stale" class="box down" role="alert" hidden>',
        f"<strong>This page is out of date.</strong> It was written {written}.",
        "It does not say how things are now.</div></header><main>",
    ]
    return "\n".join(parts)


def _escape(text: object) -> str:
    return html.escape(names.escaped(str(text)))


def _time(moment: str | None) -> str:
    if not moment:
        return "never"
    shown = datetime.datetime.fromisoformat(moment).strftime("%a %d %b %Y %H:%M:%S %z")
    return f'<time datetime="{moment}">{shown}</time>'


def _seconds(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()


def _kind(state: str | None) -> str:
    """Return how a state looks: `down`, `up`, or `odd` for all that is neither."""
    if state in (*_BAD, "FAIL", "TIMEOUT"):
        return "down"
    if state in ("UP", "OK"):
        return "up"
    return "odd"


def _state(state: str | None, instead: str = "not tested yet") -> str:
    return f'<b class="{_kind(state)}">{_escape(state or instead)}</b>'


def _is_or_are(count: int) -> str:
    return "is" if count == 1 else "are"


def _title(status: Facts) -> str:
    """Return in a few words how everything is."""
    if status["stale"]:
        return "No round has ended here for a while"
    states = [test["state"] for test in status["tests"]]
    total = len(states)
    if not total:
        return "Nothing is tested"
    phrases: list[str] = []
    for word in _BAD:
        count = states.count(word)
        if count:
            of_all = "" if phrases else f" of {total} tests"
            phrases.append(f"{count}{of_all} {_is_or_are(count)} {word}")
    if phrases:
        return ", ".join(phrases)
    odd = [state for state in states if _kind(state) == "odd"]
    if odd:
        count = len(odd)
        return f"No test is DOWN, and {count} of {total} {_is_or_are(count)} not clear"
    return f"All {total} tests are UP"


def _banner(status: Facts) -> str:
    """Return the box at the top: the tests that need somebody, and what ails this node."""
    down = [test for test in status["tests"] if _kind(test["state"]) == "down"]
    odd = [test for test in status["tests"] if _kind(test["state"]) == "odd"]
    noted = [*down, *odd]
    items = []
    for test in noted[:_TESTS_IN_BANNER]:
        link = f'<a href="#{_anchor(test["test"])}">{_escape(test["test"])}</a>'
        items.append(f"<li>{_state(test['state'])} {link} {_escape(test['text'])}</li>")
    if len(noted) > _TESTS_IN_BANNER:
        items.append(f"<li>and {len(noted) - _TESTS_IN_BANNER} more, below</li>")
    troubles = _troubles(status)
    if status["stale"]:
        kind = "down"
    elif noted:
        kind = _kind(noted[0]["state"])
    elif troubles:
        kind = "odd"
    else:
        kind = "up"
    reached = f"{len(status['reached'])} of {status['peers']} other nodes were reached"
    lines = [*troubles, f"{reached} in the last round."]
    paragraphs = "".join(f"<p>{line}</p>" for line in lines)
    listed = f"<ul>{''.join(items)}</ul>" if items else ""
    title = _escape(_title(status))
    return f'<section id="now" class="box {kind}"><h2>{title}</h2>{listed}{paragraphs}</section>'


def _troubles(status: Facts) -> list[str]:
    lines = []
    if not status["can_alert"]:
        reasons = _escape("; ".join(status["why_not"]))
        lines.append(f"<strong>This node cannot alert:</strong> {reasons}.")
    for lack in report.lacks(status):
        lines.append(f"<strong>Trouble:</strong> {_escape(lack)}.")
    for trouble in status["troubles"]:
        since = _time(trouble["since"])
        lines.append(f"<strong>Trouble</strong> since {since}: {_escape(trouble['text'])}")
    return lines


def _anchor(test: str) -> str:
    """Return an id that is the same for no other test."""
    characters = [
        character if character.isalnum() else f"_{ord(character):x}" for character in test
    ]
    return "t-" + "".join(characters)


def _hosts(status: Facts, evidence: Mapping[str, str], history: _History) -> str:
    """Return a section for each host, the nodes last."""
    hosts: dict[str, list[Facts]] = {}
    for test in status["tests"]:
        hosts.setdefault(test["host"], []).append(test)
    parts = ["<h2>Hosts</h2>"]
    if not hosts:
        parts.append("<p>No test is configured.</p>")
    for host in sorted(hosts, key=lambda host: (host == names.NODE, host)):
        title = "The nodes, as tests" if host == names.NODE else _escape(host)
        tests = sorted(hosts[host], key=lambda test: str(test["name"]))
        rows = [_test(test, evidence.get(test["test"], ""), history) for test in tests]
        parts.append(f"<section><h3>{title}</h3>{''.join(rows)}</section>")
    if not all(evidence.values()):
        parts.append(f"<p>There is no room here for who saw what of the other tests: {_WHY}.</p>")
    return "\n".join(parts)


def _test(test: Facts, table: str, history: _History) -> str:
    """Return a test's state, its bars, and who saw what."""
    words = [_state(test["state"]), f"<strong>{_escape(test['name'])}</strong>"]
    if test["since"]:
        words.append(f'<span class="soft">since {_time(test["since"])}</span>')
    if test["look_age"] is not None:
        look = f"{test['here']}, {names.span(test['look_age'])} ago:"
        words.append(f'<span class="soft">{_escape(look)}</span>')
    words.append(_escape(test["text"]))
    if test["acknowledged"]:
        words.append(f'<span class="soft">{_escape(terminal.acknowledged_words(test))}</span>')
    if test["behind"]:
        words.append(f'<span class="soft">{_escape(terminal.behind_words(test))}</span>')
    for silence in test["silences"]:
        silenced = _escape(terminal.silence_words(silence))
        words.append(f'<span class="soft">silenced {silenced}</span>')
    every = history.incidents.get(test["test"], ())
    incidents = [
        incident for incident in every if not incident["flapping"] and not incident["stated_by"]
    ]
    known_since = history.known_since.get(test["test"], history.at)
    for incident in incidents:
        known_since = min(known_since, _seconds(incident["began"]))
    bars = _bar(incidents, history.at, DAY, known_since, "24 hours")
    bars += _bar(incidents, history.at, DAYS * DAY, known_since, f"{DAYS} days")
    details = ""
    if table:
        when = _time(test.get("evidence_at"))
        summary = f"<summary>{_escape(test['name'])}: who saw what, {when}</summary>"
        details = f"<details>{summary}{table}</details>"
    anchor = _anchor(test["test"])
    return f'<div class="test" id="{anchor}"><div>{" ".join(words)}</div>{bars}{details}</div>'


def _bar(incidents: Iterable[Facts], at: float, length: int, known_since: float, title: str) -> str:
    """Draw the last `length` seconds: low for passing, high for an incident, a line for unknown."""
    begin = at - length
    hits = []
    down = 0.0
    for incident in incidents:
        if incident["removed"] and not incident["ended"]:
            continue  # nobody knows how long it was
        since = max(_seconds(incident["began"]), begin)
        until = at
        if incident["ended"]:
            until = min(_seconds(incident["ended"]), at)
        if until > since:
            down += until - since
            hits.append(_hit((since - begin) / length, (until - since) / length))
    unknown = _BAR_WIDTH * (known_since - begin) / length
    unknown = max(0.0, min(float(_BAR_WIDTH), unknown))
    caption = f"Last {title}: no incident"
    if hits:
        times = "once" if len(hits) == 1 else f"{len(hits)} times"
        caption = f"Last {title}: DOWN {times}, {names.span(down)} in all"
    if known_since > begin:
        caption += f" (known for {names.span(at - known_since)})"
    passing = _BAR_WIDTH - unknown
    shapes = ""
    if unknown:
        shapes += f'<path class="none" d="M0 15h{unknown:.0f}v2h-{unknown:.0f}z"/>'
    shapes += f'<path class="bar" d="M{unknown:.0f} 12h{passing:.0f}v8h-{passing:.0f}z"/>'
    if hits:
        shapes += f'<path class="hit" d="{"".join(hits)}"/>'
    box = f'viewBox="0 0 {_BAR_WIDTH} 24" preserveAspectRatio="none"'
    picture = f'<svg {box} role="img" aria-label="{caption}">{shapes}</svg>'
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _hit(start: float, share: float) -> str:
    """Return the path of one incident, which begins at `start` and takes a `share` of the bar."""
    width = max(_HIT_WIDTH, _BAR_WIDTH * share)
    left = min(_BAR_WIDTH * start, _BAR_WIDTH - width)
    return f"M{left:.0f} 0h{width:.0f}v24h-{width:.0f}z"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are HTML. The first cell of each row names its subject."""
    titles = [f'<th scope="col">{title}</th>' for title in head]
    lines = []
    for subject, *cells in rows:
        data = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{subject}</th>{data}</tr>')
    top = f"<thead><tr>{''.join(titles)}</tr></thead>"
    return f'<div class="wide"><table>{top}<tbody>{"".join(lines)}</tbody></table></div>'


def _incidents(
    incidents: Sequence[Facts], tables: _EvidenceTables, tests_on_page: Collection[str]
) -> str:
    """List the open incidents, then those that are over."""
    is_open = [incident for incident in incidents if incident["open"]]
    past = [incident for incident in incidents if not incident["open"]]
    parts = ["<h2>Incidents</h2>"]
    for title, listed in (("Open", is_open), ("Past", past)):
        parts.append(f"<h3>{title}: {len(listed)}</h3>")
        for incident in listed[:_INCIDENTS_SHOWN]:
            parts.append(_incident(incident, tables, tests_on_page))
        if len(listed) > _INCIDENTS_SHOWN:
            more = len(listed) - _INCIDENTS_SHOWN
            parts.append(f"<p>And {more} more: <code>dmonitor history</code>.</p>")
    return "".join(parts)


def _incident(incident: Facts, tables: _EvidenceTables, tests_on_page: Collection[str]) -> str:
    """Return one incident, with who saw what when it began and ended."""
    head = _incident_head(incident)
    if incident["open"] and incident["test"] in tests_on_page:
        return f'<p>{head}: <a href="#{_anchor(incident["test"])}">who sees what</a></p>'
    shown = ""
    for part, word in (("opening", "began"), ("closing", "ended")):
        table = tables.render(incident[part]) if incident[part] else ""
        if table:
            shown += f"<p>When it {word}:</p>{table}"
    if shown:
        return f"<details><summary>{head}</summary>{shown}</details>"
    return f"<p>{head}</p>"


def _incident_head(incident: Facts) -> str:
    if incident["ended"]:
        end = f"to {_time(incident['ended'])}"
    elif incident["open"]:
        end = "and it is open"
    else:
        end = "; its test was removed"
    if incident["alert_by"]:
        told = f"told by {_escape(incident['alert_by'])}"
        told += _escape(report.as_stated(incident["alert_stated_by"]))
    elif incident["void"] or incident["removed"]:
        told = "nobody was told"
    else:
        told = "not told yet"
    length = ""
    if not incident["removed"]:
        length = f" ({names.span(incident['seconds'])})"
    state = FLAPPING if incident["flapping"] else "DOWN"
    began = f"{_escape(incident['test'])} {state} from {_time(incident['began'])}"
    stated = _escape(report.as_stated(incident["stated_by"]))
    return f"{began} {end}{length}{stated}, {told}"


def _silences(silences: Sequence[Facts]) -> str:
    if not silences:
        return "<h2>Silences</h2><p>None.</p>"
    rows = []
    for silence in silences:
        until = _time(silence["until"]) if silence["until"] else "it is removed"
        age = "" if silence["age"] is None else names.span(silence["age"])
        said_by, reason = _escape(silence["node"]), _escape(silence["reason"])
        rows.append((_escape(silence["what"]), until, age, said_by, reason))
    return "<h2>Silences</h2>" + _table(("What", "Until", "Age", "Said by", "Reason"), rows)


def _nodes(nodes: Facts) -> str:
    """Return a table of who reached whom, as each node stated of its last round."""
    every = nodes["nodes"]
    rows = []
    for node in every:
        reached = nodes["reached"].get(node)
        cells = [_reached(node, other, reached) for other in every]
        rows.append((_escape(node), *cells))
    titles = [_escape(node) for node in every]
    table = _table(("From, to", *titles), rows)
    label = 'tabindex="0" role="group" aria-label="Which nodes reach each other"'
    table = table.replace('class="wide"', f'class="wide" {label}')
    text = "Each row says whom that node reached in its last round, as this node heard of it."
    return f"<h2>Nodes</h2><p>{text}</p>{table}"


def _reached(node: str, other: str, reached: Collection[str] | None) -> str:
    """Return the cell for `node` and `other`; `reached` is None if that is not known."""
    if node == other:
        return "–"
    if reached is None:
        return _state(None, "not known")
    return _state("OK" if other in reached else "FAIL")
