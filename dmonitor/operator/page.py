"""One page that says how everything is: HTML with its style and pictures in it.

Pure: facts of `report` in, text out. The page needs no script and names no address that is mailed.
What is down comes first and large; a test that is up is one line; what explains a state is folded
in. `public` is the page for readers who are no operators: it has no node, and no word of a plugin.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Sequence

from dmonitor.base import names
from dmonitor.operator import report
from dmonitor.operator.page_style import SCRIPT, STYLE
from dmonitor.operator.page_tests import DAYS, NO_PAST, Past, Rows, tests_section, urgent_tests
from dmonitor.operator.page_words import (
    BAD,
    UNSTABLE,
    escape,
    kind,
    seconds,
    since,
    state,
    time,
    written_at,
)
from dmonitor.operator.report import FLAPPING, Facts

STALE = 300  # seconds after which the page is out of date
_INCIDENTS_SHOWN = 200  # of those that are over, and of those that are open
_EVIDENCE_LIMIT = 120_000  # characters of tables of who saw what


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
            rows.append((escape(", ".join(nodes)), state(sees), escape(text)))
        table = _table(("Node", "Sees", "Text"), rows)
        verdict = f"quorum {evidence['quorum']}: {evidence['verdict']}"
        rendered = f"{table}<p>{evidence['sites_failing']} failing, {verdict}.</p>"
        self._room = max(0, self._room - len(rendered))
        return rendered if self._room else ""


def page(
    status: Facts,
    incidents: Sequence[Facts],
    silences: Facts,
    nodes: Facts,
    past: Past = NO_PAST,
    *,
    title: str = "",
) -> str:
    """Return the page of an operator. `incidents` are the newest first."""
    now = status["now"]
    tables = _EvidenceTables()
    evidence = {}
    for test in status["tests"]:
        if "evidence" in test:
            evidence[test["test"]] = tables.render(test["evidence"])
    heading = escape(title or f"dmonitor on {status['node']}")
    parts = [
        _head(status, f"{escape(_title(status))}: {heading}", heading),
        _banner(status),
        tests_section(status, Rows(status, past, evidence)),
        _incidents(incidents, tables, {test["test"] for test in urgent_tests(status)}, now),
        _silences(silences["silences"], now),
        _nodes(nodes),
        _end(status),
    ]
    return "\n".join(part for part in parts if part)


def public(
    status: Facts, incidents: Sequence[Facts], past: Past, patterns: Sequence[str], title: str
) -> str:
    """Return the page for customers: the tests that fit one of the shell `patterns`.

    It has no name of a node, no text of a plugin or of an operator, and nothing about this node but
    whether the page is out of date.
    """
    tests = [test for test in status["tests"] if is_public(test["test"], patterns)]
    status = {**status, "tests": [_public_test(test) for test in tests]}
    shown = {test["test"] for test in tests}
    own = [each for each in incidents if each["test"] in shown and not each["stated_by"]]
    heading = escape(title)
    words = escape(_title(status))
    parts = [
        _head(status, f"{words}: {heading}", heading),
        f'<section id="now" class="box {_public_kind(status)}"><h2>{words}</h2></section>',
        tests_section(status, Rows(status, past, {})),
        _public_incidents(own, status["now"]),
        _end(status),
    ]
    return "\n".join(part for part in parts if part)


def is_public(test: str, patterns: Sequence[str]) -> bool:
    """Return whether a test or its host fits one of the patterns; a node fits none."""
    host = test.partition("/")[0]
    if host == names.NODE:
        return False
    return any(fnmatch.fnmatchcase(each, pattern) for each in (test, host) for pattern in patterns)


def _public_test(test: Facts) -> Facts:
    """Return what a customer may know of a test."""
    word = {"DOWN": "DOWN", FLAPPING: UNSTABLE, "UP": "UP"}.get(test["state"], "not clear")
    known = {key: test[key] for key in ("test", "host", "name", "since", "duration")}
    nothing: Facts = {"here": None, "text": "", "look_age": None, "flakes": 0}
    nothing |= {"silences": [], "behind": []}
    acknowledged = {"acknowledged": test["acknowledged"], "acknowledgement": ""}
    return {**known, **nothing, **acknowledged, "state": word}


def _public_kind(status: Facts) -> str:
    kinds = {kind(test["state"]) for test in status["tests"]}
    if status["stale"] or "down" in kinds:
        return "down"
    return "odd" if "odd" in kinds else "up"


def _head(status: Facts, title: str, heading: str) -> str:
    """Return the page's beginning: title, style, when it was written, and the warning for later."""
    now = status["now"]
    stale = _stale_after(status)
    written = written_at(now)
    last = "No round has ended yet."
    if status["last_round"]:
        last = f"Last look {time(status['last_round'], now)}."
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        f"<title>{title}</title>",
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        '<meta http-equiv="refresh" content="60"><meta name="robots" content="noindex">',
        f"<style>{STYLE}</style></head><body>",
        f'<a class="skip" href="#now">to the state</a><header><h1>{heading}</h1>',
        f'<p class="soft">Written {written}. {last}',
        f"If that is more than {stale // 60} minutes ago, do not trust this page.</p>",
        '<div id="stale" class="box down" role="alert" hidden>',
        f"<strong>This page is out of date.</strong> It was written {written}.",
        "It does not say how things are now.</div></header><main>",
    ]
    return "\n".join(parts)


def _stale_after(status: Facts) -> int:
    """Return after how many seconds the page is out of date."""
    return int(STALE + 60 * (status["interval"] - 1))


def _end(status: Facts) -> str:
    last_round = seconds(status["last_round"]) if status["last_round"] else 0.0
    script = SCRIPT.format(at=int(last_round), stale=_stale_after(status))
    return f"</main><script>{script}</script></body></html>\n"


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
    for word in BAD:
        count = states.count(word)
        if count:
            of_all = "" if phrases else f" of {total} tests"
            phrases.append(f"{count}{of_all} {_is_or_are(count)} {word}")
    if phrases:
        return ", ".join(phrases)
    odd = [word for word in states if kind(word) == "odd"]
    if odd:
        count = len(odd)
        return f"No test is DOWN, and {count} of {total} {_is_or_are(count)} not clear"
    return f"All {total} tests are UP" if total > 1 else "The test is UP"


def _banner(status: Facts) -> str:
    """Return the box at the top: how everything is, and what ails this node."""
    urgent = urgent_tests(status)
    troubles = _troubles(status)
    if status["stale"]:
        looks = "down"
    elif urgent:
        looks = kind(urgent[0]["state"])
    else:
        looks = "odd" if troubles else "up"
    paragraphs = "".join(f"<p>{line}</p>" for line in troubles)
    title = escape(_title(status))
    return f'<section id="now" class="box {looks}"><h2>{title}</h2>{paragraphs}</section>'


def _troubles(status: Facts) -> list[str]:
    lines = []
    if not status["can_alert"]:
        reasons = escape("; ".join(status["why_not"]))
        lines.append(f"<strong>This node cannot alert:</strong> {reasons}.")
    for lack in report.lacks(status):
        lines.append(f"<strong>Trouble:</strong> {escape(lack)}.")
    for trouble in status["troubles"]:
        begun = since(trouble["since"], status["now"]) if trouble["since"] else ""
        lines.append(f"<strong>Trouble</strong> {begun}: {escape(trouble['text'])}")
    return lines


# What was, and who is silent.


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
    incidents: Sequence[Facts], tables: _EvidenceTables, tests_on_page: Collection[str], now: str
) -> str:
    """List the open incidents, if their tests are not shown large, then those that are over."""
    is_open = [each for each in incidents if each["open"] and each["test"] not in tests_on_page]
    past = [incident for incident in incidents if not incident["open"]]
    parts = ["<section><h2>Incidents</h2>"]
    if not is_open and not past:
        parts.append(f"<p>None in {DAYS} days, but what is shown above.</p>")
    for title, listed in (("Open", is_open), ("Past", past)):
        if not listed:
            continue
        parts.append(f"<h3>{title}: {len(listed)}</h3>")
        for incident in listed[:_INCIDENTS_SHOWN]:
            parts.append(_incident(incident, tables, now))
        if len(listed) > _INCIDENTS_SHOWN:
            more = len(listed) - _INCIDENTS_SHOWN
            parts.append(f"<p>And {more} more: <code>dmonitor history</code>.</p>")
    return "".join([*parts, "</section>"])


def _incident(incident: Facts, tables: _EvidenceTables, now: str) -> str:
    """Return one incident, with who saw what when it began and ended."""
    head = f"{_incident_head(incident, now)}, {_told(incident)}"
    shown = ""
    for part, word in (("opening", "began"), ("closing", "ended")):
        table = tables.render(incident[part]) if incident[part] else ""
        if table:
            shown += f"<p>When it {word}:</p>{table}"
    if shown:
        return f"<details><summary>{head}</summary>{shown}</details>"
    return f"<p>{head}</p>"


def _told(incident: Facts) -> str:
    if incident["alert_by"]:
        told = f"told by {escape(incident['alert_by'])}"
        return told + escape(report.as_stated(incident["alert_stated_by"]))
    return "nobody was told" if incident["void"] or incident["removed"] else "not told yet"


def _incident_head(incident: Facts, now: str) -> str:
    """Return what was DOWN, from when to when, for how long, and whose word alone that is."""
    word = FLAPPING if incident["flapping"] else "DOWN"
    name = f"<strong>{escape(incident['test'])}</strong>"
    began = time(incident["began"], now)
    stated = escape(report.as_stated(incident["stated_by"]))
    if incident["removed"]:
        return f"{name} {word} from {began}; its test was removed{stated}"
    length = names.span(incident["seconds"])
    if incident["ended"]:
        return f"{name} {word} for {length}, {began} to {time(incident['ended'], now)}{stated}"
    return f"{name} {word} since {began} ({length}){stated}"


def _public_incidents(incidents: Sequence[Facts], now: str) -> str:
    """List what was DOWN, without a node."""
    parts = ["<section><h2>Incidents</h2>"]
    if not incidents:
        parts.append(f"<p>None in {DAYS} days.</p>")
    for incident in incidents[:_INCIDENTS_SHOWN]:
        if not incident["removed"]:
            parts.append(f"<p>{_public_head(incident, now)}</p>")
    return "".join([*parts, "</section>"])


def _public_head(incident: Facts, now: str) -> str:
    head = _incident_head(incident, now)
    return head.replace(FLAPPING, UNSTABLE) if incident["flapping"] else head


def _silences(silences: Sequence[Facts], now: str) -> str:
    if not silences:
        return ""
    rows = []
    for silence in silences:
        until = time(silence["until"], now) if silence["until"] else "it is removed"
        age = "" if silence["age"] is None else names.span(silence["age"])
        said_by, reason = escape(silence["node"]), escape(silence["reason"])
        rows.append((escape(silence["what"]), until, age, said_by, reason))
    table = _table(("What", "Until", "Age", "Said by", "Reason"), rows)
    return f"<section><h2>Silences</h2>{table}</section>"


def _nodes(nodes: Facts) -> str:
    """Return a table of who reached whom, as each node stated of its last round; folded in."""
    every = nodes["nodes"]
    rows = []
    missing = 0
    for node in every:
        reached = nodes["reached"].get(node)
        others = [other for other in every if other != node]
        missing += reached is None or not set(others) <= set(reached)
        cells = [_reached(node, other, reached) for other in every]
        rows.append((escape(node), *cells))
    titles = [escape(node) for node in every]
    table = _table(("From, to", *titles), rows)
    label = 'tabindex="0" role="group" aria-label="Which nodes reach each other"'
    table = table.replace('class="wide"', f'class="wide" {label}')
    text = "Each row says whom that node reached in its last round, as this node heard of it."
    how = f"{missing} of {len(every)} did not reach all others" if missing else "all reach all"
    summary = f"<summary>{names.pluralize(len(every), 'node')}: {how}</summary>"
    body = f"<details>{summary}<p>{text}</p>{table}</details>"
    return f"<section><h2>Nodes</h2>{body}</section>"


def _reached(node: str, other: str, reached: Collection[str] | None) -> str:
    """Return the cell for `node` and `other`; `reached` is None if that is not known."""
    if node == other:
        return "–"
    if reached is None:
        return state(None, "not known")
    return state("OK" if other in reached else "FAIL")
