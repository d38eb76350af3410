"""One page that says how everything is, for whoever opens it: HTML with its style and pictures in it, and no need of a script.

Pure: facts of `report` in, text out. It names no address that is mailed. What a colour says, a word and a shape say as well.
"""

from __future__ import annotations

import datetime
import html
from collections.abc import Collection, Iterable, Mapping, Sequence

from dmonitor.base import names
from dmonitor.operator import report
from dmonitor.operator.report import FLAPPING, Facts

DAY, DAYS = 86400, 90
STALE = 300  # seconds after which the page is out of date
_SHOWN = 200  # past incidents that are listed
_ROOM = 120_000  # characters for who saw what: of what needs somebody first
_WHY = "<code>dmonitor why HOST/TEST</code>"
_LISTED = 20  # tests that are named at the top
_BAD = ("DOWN", FLAPPING)
_LIGHT = (
    "--bg:#fff;--fg:#1b1f24;--soft:#5a6270;--line:#d5d9e0;--down:#b3261e;--up:#1b6e8c;--odd:#8a5a00"
)
_LIGHT += ";--downbg:#fdeceb;--upbg:#e8f3f7;--oddbg:#fdf3e0"
_DARK = "--bg:#14171c;--fg:#e7eaf0;--soft:#a4adba;--line:#3a414c;--down:#ff8a80;--up:#7cc4e0;--odd:#f0bf5e"
_DARK += ";--downbg:#3a1a18;--upbg:#12303b;--oddbg:#382a0e"
_STYLE = f":root{{color-scheme:light dark;{_LIGHT}}}@media(prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
_STYLE += """
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:1rem;background:var(--bg);color:var(--fg);font:1rem/1.5 system-ui,sans-serif}
h1{font-size:1.2rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1.2rem 0 .3rem}
h3,summary,.test>*,td,th{overflow-wrap:anywhere}a{color:inherit}p{margin:.3rem 0}.soft{color:var(--soft)}
.box{border:2px solid;border-radius:.5rem;padding:.8rem 1rem;margin:.8rem 0}.box h2{margin:0}
.box.down{border-color:var(--down);background:var(--downbg)}.box.up{border-color:var(--up);background:var(--upbg)}
.box.odd{border-color:var(--odd);background:var(--oddbg)}
b.down{color:var(--down)}b.up{color:var(--up)}b.odd{color:var(--odd)}b[class]{white-space:nowrap}
b.down::before{content:"✖ ";content:"✖ "/""}b.up::before{content:"✔ ";content:"✔ "/""}b.odd::before{content:"? ";content:"? "/""}
.test{border-top:1px solid var(--line);padding:.5rem 0;display:grid;gap:.2rem 1rem;grid-template-columns:repeat(2,minmax(0,1fr))}
.test>div,.test>details{grid-column:1/-1}svg{width:100%;height:1.5rem;display:block}
@media(max-width:40rem){.test{grid-template-columns:minmax(0,1fr)}}
figure{margin:0}figcaption{font-size:.8rem;color:var(--soft)}.bar{fill:var(--up)}.none{fill:var(--line)}.hit{fill:var(--down)}
.old #now{border-color:var(--line);background:none}.old #now h2::before{content:"Then: "}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top;border-top:1px solid var(--line)}
thead th{border:0;color:var(--soft);font-weight:600}summary{cursor:pointer}
:focus-visible{outline:3px solid var(--up);outline-offset:2px}.skip{position:absolute;left:-99rem}.skip:focus{position:static}
"""
# Without a script the time that stands there has to do; with one, a page that nobody writes any more says so.
_SCRIPT = """
const title=document.title
function look(){{const old=Date.now()/1000-{at}>{stale};document.getElementById("stale").hidden=!old
document.body.classList.toggle("old",old);document.title=old?"Out of date: "+title:title}}
look();setInterval(look,5000)
"""


class _Room:
    """What is left for tables of who saw what."""

    def __init__(self) -> None:
        self._left = _ROOM

    def evidence(self, facts: Facts) -> str:
        """Return a table of who saw what, a row for all who saw the same; nothing where there is no room left for it."""
        alike: dict[tuple[str, str], list[str]] = {}
        for each in facts["answers"]:
            alike.setdefault((each["sees"], each["text"]), []).append(each["node"])
        rows = [
            (_(", ".join(nodes)), _state(sees), _(text)) for (sees, text), nodes in alike.items()
        ]
        seen = _table(("Node", "Sees", "Text"), rows)
        said = f"{seen}<p>{facts['sites_failing']} failing, quorum {facts['quorum']}: {facts['verdict']}.</p>"
        self._left = max(0, self._left - len(said))
        return said if self._left else ""


def page(
    status: Facts,
    incidents: Sequence[Facts],
    silences: Facts,
    nodes: Facts,
    at: float,
    since: Mapping[str, float],
) -> str:
    """Return the page.

    INCIDENTS are the newest first; AT is when it is written, SINCE since when each test is known, in seconds since the epoch.
    """
    hosts: dict[str, list[Facts]] = {}
    for each in status["tests"]:
        hosts.setdefault(each["host"], []).append(each)
    told: dict[str, list[Facts]] = {}
    for known in incidents:
        told.setdefault(known["test"], []).append(known)
    order = sorted(hosts, key=lambda host: (host == names.NODE, host))
    seen = _seconds(status["last_round"]) if status["last_round"] else 0.0
    room = _Room()
    evidence = {
        each["test"]: room.evidence(each["evidence"])
        for each in status["tests"]
        if "evidence" in each
    }
    stale = STALE + 60 * (status["interval"] - 1)
    written, last = _time(status["now"]), _time(status["last_round"])
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            f"<title>{_(_title(status))}: dmonitor on {_(status['node'])}</title>",
            '<meta name="viewport" content="width=device-width,initial-scale=1"><meta http-equiv="refresh" content="60">',
            f'<meta name="robots" content="noindex"><style>{_STYLE}</style></head><body>',
            f'<a class="skip" href="#now">to the state</a><header><h1>dmonitor on {_(status["node"])}</h1>',
            f"<p>Written {written}; last round {last}.",
            f'<span class="soft">Older than {stale // 60} minutes, it says nothing of now.</span></p>',
            '<div id="stale" class="box down" role="alert" hidden><strong>This page is out of date.</strong>',
            f"It was written {written}, and says nothing of how things are now.</div></header><main>",
            _banner(status),
            "<h2>Hosts</h2>" if hosts else "<h2>Hosts</h2><p>No test is configured.</p>",
            *(_host(host, hosts[host], evidence, told, at, since) for host in order),
            ""
            if all(evidence.values())
            else f"<p>Of the other tests who saw what has no room here: {_WHY}.</p>",
            _incidents(incidents, room, evidence),
            _silences(silences["silences"]),
            _nodes(nodes),
            f"</main><script>{_SCRIPT.format(at=int(seen), stale=stale)}</script></body></html>\n",
        ]
    )


def _(text: object) -> str:
    return html.escape(str(text))


def _time(moment: str | None) -> str:
    if not moment:
        return "never"
    shown = datetime.datetime.fromisoformat(moment).strftime("%a %d %b %Y %H:%M:%S %z")
    return f'<time datetime="{moment}">{shown}</time>'


def _kind(state: str | None) -> str:
    return (
        "down" if state in (*_BAD, "FAIL", "TIMEOUT") else "up" if state in ("UP", "OK") else "odd"
    )


def _state(state: str | None, instead: str = "not tested yet") -> str:
    return f'<b class="{_kind(state)}">{_(state or instead)}</b>'


def _title(status: Facts) -> str:
    """Say in a few words how all is."""
    tests = status["tests"]
    if status["stale"]:
        return "Nothing is known of now: no round has ended here for a while"
    states = [each["state"] for each in tests]
    of = f" of {len(tests)} tests"
    if bad := [(states.count(word), word) for word in _BAD if word in states]:
        told = [
            f"{count}{'' if place else of} {'is' if count == 1 else 'are'} {word}"
            for place, (count, word) in enumerate(bad)
        ]
        return ", ".join(told)
    if odd := sum(_kind(state) == "odd" for state in states):
        return f"No test is DOWN, and {odd} of {len(tests)} {'is' if odd == 1 else 'are'} not clear"
    return f"All {len(tests)} tests are UP" if tests else "Nothing is tested"


def _banner(status: Facts) -> str:
    tests = status["tests"]
    noted = [each for kind in ("down", "odd") for each in tests if _kind(each["state"]) == kind]
    lines = [
        f'<li>{_state(each["state"])} <a href="#{_anchor(each["test"])}">{_(each["test"])}</a> {_(each["text"])}</li>'
        for each in noted[:_LISTED]
    ]
    if len(noted) > _LISTED:
        lines.append(f"<li>and {len(noted) - _LISTED} more, below</li>")
    able = (
        []
        if status["can_alert"]
        else [f"<strong>This node cannot alert:</strong> {_('; '.join(status['why_not']))}."]
    )
    able += [f"<strong>Trouble:</strong> {_(each)}." for each in report.lacks(status)]
    able += [
        f"<strong>Trouble</strong> since {_time(each['since'])}: {_(each['text'])}"
        for each in status["troubles"]
    ]
    able.append(
        f"{len(status['reached'])} of {status['peers']} other nodes were reached in the last round."
    )
    kind = (
        "down"
        if status["stale"]
        else _kind(noted[0]["state"])
        if noted
        else "odd"
        if len(able) > 1
        else "up"
    )
    listed = f"<ul>{''.join(lines)}</ul>" if lines else ""
    said = "".join(f"<p>{each}</p>" for each in able)
    return (
        f'<section id="now" class="box {kind}"><h2>{_(_title(status))}</h2>{listed}{said}</section>'
    )


def _anchor(test: str) -> str:
    return "t-" + "".join(c if c.isalnum() else f"_{ord(c):x}" for c in test)


def _host(
    host: str,
    tests: Sequence[Facts],
    evidence: Mapping[str, str],
    told: Mapping[str, Sequence[Facts]],
    at: float,
    since: Mapping[str, float],
) -> str:
    rows = []
    for each in sorted(tests, key=lambda each: str(each["name"])):
        words = [_state(each["state"]), f"<strong>{_(each['name'])}</strong>"]
        words += (
            [f'<span class="soft">since {_time(each["since"])}</span>'] if each["since"] else []
        )
        words += [_(each["text"])]
        words += (
            [f'<span class="soft">silenced by {_(", ".join(each["silenced_by"]))}</span>']
            if each["silenced_by"]
            else []
        )
        incidents = [known for known in told.get(each["test"], ()) if not known["flapping"]]
        known_since = min(
            [since.get(each["test"], at), *(_seconds(known["began"]) for known in incidents)]
        )
        bars = _bar(incidents, at, DAY, known_since, "24 hours") + _bar(
            incidents, at, DAYS * DAY, known_since, f"{DAYS} days"
        )
        title = f"{_(each['name'])}: who saw what, {_time(each.get('evidence_at'))}"
        table = evidence.get(each["test"])
        seen = f"<details><summary>{title}</summary>{table}</details>" if table else ""
        rows.append(
            f'<div class="test" id="{_anchor(each["test"])}"><div>{" ".join(words)}</div>{bars}{seen}</div>'
        )
    return f"<section><h3>{'The nodes, as tests' if host == names.NODE else _(host)}</h3>{''.join(rows)}</section>"


def _bar(incidents: Iterable[Facts], at: float, length: int, known_since: float, title: str) -> str:
    """Draw the last LENGTH seconds: low where it passed, high where an incident was, and a line where nothing is known."""
    begin, hits, down = at - length, [], 0.0
    for known in incidents:
        if known["removed"] and not known["ended"]:
            continue  # nobody knows how long it was
        since, until = _seconds(known["began"]), _seconds(known["ended"]) if known["ended"] else at
        since, until = max(since, begin), min(until, at)
        if until > since:
            down += until - since
            left, width = 1000 * (since - begin) / length, max(3.0, 1000 * (until - since) / length)
            hits.append(f"M{min(left, 1000 - width):.0f} 0h{width:.0f}v24h-{width:.0f}z")
    unknown = max(0.0, min(1000.0, 1000 * (known_since - begin) / length))
    times = "once" if len(hits) == 1 else f"{len(hits)} times"
    said = f"Last {title}: " + (
        f"DOWN {times}, {names.span(down)} in all" if hits else "no incident"
    )
    said += f" (known for {names.span(at - known_since)})" if known_since > begin else ""
    shapes = f'<path class="none" d="M0 15h{unknown:.0f}v2h-{unknown:.0f}z"/>' if unknown else ""
    shapes += (
        f'<path class="bar" d="M{unknown:.0f} 12h{1000 - unknown:.0f}v8h-{1000 - unknown:.0f}z"/>'
    )
    shapes += f'<path class="hit" d="{"".join(hits)}"/>' if hits else ""
    picture = f'<svg viewBox="0 0 1000 24" preserveAspectRatio="none" role="img" aria-label="{said}">{shapes}</svg>'
    return f"<figure>{picture}<figcaption>{said}</figcaption></figure>"


def _seconds(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are HTML; the first of each row says what that is about."""
    top = "".join(f'<th scope="col">{each}</th>' for each in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _incidents(incidents: Sequence[Facts], room: _Room, shown: Collection[str]) -> str:
    """List the incidents; SHOWN are the tests that the page has."""
    parts = ["<h2>Incidents</h2>"]
    for title, some in (
        ("Open", [known for known in incidents if known["open"]]),
        ("Past", [known for known in incidents if not known["open"]]),
    ):
        parts += [
            f"<h3>{title}: {len(some)}</h3>",
            *(_incident(known, room, shown) for known in some[:_SHOWN]),
        ]
        if len(some) > _SHOWN:
            parts.append(f"<p>And {len(some) - _SHOWN} more: <code>dmonitor history</code>.</p>")
    return "".join(parts)


def _incident(known: Facts, room: _Room, shown: Collection[str]) -> str:
    end = (
        f"to {_time(known['ended'])}"
        if known["ended"]
        else "and it is open"
        if known["open"]
        else "; its test was removed"
    )
    nobody = "nobody was told" if known["void"] or known["removed"] else "not told yet"
    told = f"told by {_(known['alert_by'])}" if known["alert_by"] else nobody
    what = FLAPPING if known["flapping"] else "DOWN"
    length = "" if known["removed"] else f" ({names.span(known['seconds'])})"
    head = f"{_(known['test'])} {what} from {_time(known['began'])} {end}{length}, {told}"
    if known["open"] and known["test"] in shown:
        return f'<p>{head}: <a href="#{_anchor(known["test"])}">who sees what</a></p>'
    parts = [
        (title, room.evidence(known[part]))
        for part, title in (("opening", "began"), ("closing", "ended"))
        if known[part]
    ]
    tables = "".join(f"<p>When it {title}:</p>{table}" for title, table in parts if table)
    return f"<details><summary>{head}</summary>{tables}</details>" if tables else f"<p>{head}</p>"


def _silences(silences: Sequence[Facts]) -> str:
    rows = [
        (
            _(each["what"]),
            _time(each["until"]) if each["until"] else "it is removed",
            _(each["node"]),
        )
        for each in silences
    ]
    return "<h2>Silences</h2>" + (
        _table(("What", "Until", "Said by"), rows) if rows else "<p>None.</p>"
    )


def _nodes(nodes: Facts) -> str:
    """Draw a table of who reached whom, as each said of its last round."""

    def cell(name: str, other: str) -> str:
        reached = nodes["reached"].get(name)
        return (
            "–"
            if other == name
            else _state(
                None if reached is None else "OK" if other in reached else "FAIL", "not known"
            )
        )

    every = nodes["nodes"]
    table = _table(
        ("From, to", *map(_, every)),
        [(_(name), *(cell(name, other) for other in every)) for name in every],
    )
    table = table.replace(
        'class="wide"',
        'class="wide" tabindex="0" role="group" aria-label="Which nodes reach each other"',
    )
    return f"<h2>Nodes</h2><p>In each row, whom that node reached in its last round, as this node heard of it.</p>{table}"
