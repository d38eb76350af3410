"""What `report` says, as text for a person at a terminal: plain tables, coloured if wanted.

Pure: facts in, lines out. A colour never says what a word does not. Facts have to go through
`printable` first, whoever stated them: the terminal must not obey them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dmonitor.base import names
from dmonitor.operator import report
from dmonitor.operator.report import FLAPPING, Facts

_COLOURS = {
    "DOWN": "1;31",
    FLAPPING: "1;33",
    "UNCONFIRMED": "33",
    "LOCAL": "33",
    "UNKNOWN": "35",
    "UP": "32",
    "FAIL": "31",
    "TIMEOUT": "31",
    "OK": "32",
    "no-answer": "35",
}
_FLAKES_SHOWN = 86400.0  # seconds for which `status` shows that a test had a flake
_PEER_COLUMNS = (
    "NODE",
    "ADDRESS",
    "SITE",
    "ANSWER",
    "VERSION",
    "LATENCY",
    "CLOCK",
    "LAST ROUND",
    "DRIFT",
)


class Paint:
    """Colours words if colours are `wanted`."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted

    def __call__(self, word: str, shown: str = "") -> str:
        """Return `shown`, or else `word`, in the colour of `word`."""
        text = shown or word
        colour = _COLOURS.get(word.split(" ")[0])
        if self._wanted and colour:
            return f"\x1b[{colour}m{text}\x1b[0m"
        return text


def printable(facts: Any) -> Any:
    """Return `facts` with what cannot be printed escaped in every text."""
    if isinstance(facts, str):
        return names.escaped(facts)
    if isinstance(facts, dict):
        return {printable(key): printable(fact) for key, fact in facts.items()}
    if isinstance(facts, list | tuple):
        return [printable(fact) for fact in facts]
    return facts


def table(head: Sequence[str], rows: Iterable[Sequence[str]], paint: Paint) -> list[str]:
    """Return the lines of a table. Each column is as wide as its widest cell."""
    body = list(rows)
    widths = [len(title) for title in head]
    for row in body:
        widths = [max(width, len(cell)) for width, cell in zip(widths, row, strict=True)]
    lines = [_line(head, widths)]
    for row in body:
        lines.append(_line(row, widths, paint))
    return lines


def _line(row: Sequence[str], widths: Sequence[int], paint: Paint | None = None) -> str:
    """Return one line of a table, without blanks at its end."""
    cells = []
    last = len(row) - 1
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        padded = cell if column == last else f"{cell:<{width}}"
        cells.append(paint(cell, padded) if paint else padded)
    return "  ".join(cells).rstrip()


def _table_or(
    nothing: str, head: Sequence[str], rows: Sequence[Sequence[str]], paint: Paint
) -> list[str]:
    """Return a table, or the line `nothing` if there are no rows."""
    if not rows:
        return [nothing]
    return table(head, rows, paint)


def day(moment: str | None) -> str:
    """Return a time of `report` as tables show it: 2026-11-23 03:12:06."""
    if not moment:
        return "-"
    return moment[:19].replace("T", " ")


def day_with_offset(moment: str) -> str:
    """Return a time of `report` that nobody must mistake: 2026-10-25 02:30:00 +0100.

    When the clocks are set back, the local time alone comes twice.
    """
    return f"{day(moment)} {moment[19:].replace(':', '')}"


def _ago(seconds: float) -> str:
    return f"{names.span(seconds)} ago"


def last_look(test: Facts) -> str:
    """Return what the last look saw, and how long ago, of a test that is looked at seldom."""
    return f"{test['here']}, {_ago(test['look_age'])}"


def status(facts: Facts, paint: Paint) -> list[str]:
    """Return whether the node can alert, then a line for each test."""
    rows = [_status_row(test) for test in facts["tests"]]
    head = ("STATE", "TEST", "SINCE", "TEXT THEN")
    return [*ability(facts, paint), "", *_table_or("no tests", head, rows, paint)]


def _status_row(test: Facts) -> tuple[str, str, str, str]:
    since = "-"
    if test["since"]:
        since = f"{day(test['since'])} ({names.span(test['seconds'])})"
    text = test["text"]
    if test["look_age"] is not None:
        text = f"[{last_look(test)}] {text}"
    elif test["state"] == "DOWN" and test["here"] == "OK":
        text = f"[OK here] {text}"
    if test["acknowledged"]:
        text = f"{text} ({acknowledged_words(test)})"
    for silence in test["silences"]:
        text = f"{text} (silenced {silence_words(silence)})"
    if test["flakes"] and test["last_flake_age"] < _FLAKES_SHOWN:
        last = _ago(test["last_flake_age"])
        text = f"{text} ({names.pluralize(test['flakes'], 'flake')}, the last {last})"
    return test["state"] or "not tested yet", test["test"], since, text


def ability(facts: Facts, paint: Paint) -> list[str]:
    """Return one line that says whether the node can alert, then its troubles."""
    last_round = "no round yet"
    if facts["last_round"]:
        last_round = f"last round {_ago(facts['last_round_age'])}"
    owed = f"{facts['owed']} owed" if facts["owed"] else "nothing owed"
    parts = [
        f"{len(facts['reached'])} of {facts['peers']} peers reached",
        f"quorum {facts['quorum']}",
        last_round,
        names.pluralize(len(facts["addresses"]), "address", "es"),
        owed,
    ]
    word = paint("UP", "can alert")
    if not facts["can_alert"]:
        word = paint("DOWN", "CANNOT ALERT")
    lines = [f"{facts['node']} {word}: " + "; ".join([*facts["why_not"], ", ".join(parts)])]
    lines += report.lacks(facts)
    for trouble in facts["troubles"]:
        word = paint("UNKNOWN", "trouble")
        lines.append(f"{word} since {day(trouble['since'])}: {trouble['text']}")
    return lines


def views(facts: Facts, paint: Paint) -> list[str]:
    """Return who sees what now: for each test its verdict, and a column for each node."""
    rows = []
    for test in facts["tests"]:
        seen = {answer["node"]: answer["sees"] for answer in test["evidence"]["answers"]}
        columns = [seen.get(node, "-") for node in facts["nodes"]]
        rows.append((test["state"], test["test"], *columns))
    head = ("STATE", "TEST", *facts["nodes"])
    return [*ability(facts, paint), "", *_table_or("no tests", head, rows, paint)]


def why(facts: Facts, paint: Paint) -> list[str]:
    """Return how a test is, by which evidence, and what its last incident was."""
    lines = _stale(facts, paint)
    lines += _state_and_evidence(facts, paint)
    lines.append("")
    incident = facts["last_incident"]
    if not incident:
        return [*lines, "It has had no incident that this node remembers."]
    kind = ", FLAPPING," if incident["flapping"] else ""
    begin = f"Its last incident{kind} {incident['incident']} is from {day(incident['began'])}"
    lines.append(f"{begin}{_end(incident)}{report.as_stated(incident['stated_by'])}.")
    if incident["opening"]:
        lines += ["When it began:", *_evidence(incident["opening"], paint)]
    if incident["closing"]:
        lines += ["When it ended:", *_evidence(incident["closing"], paint)]
    if incident["acknowledged"]:
        lines.append(f"It was {acknowledged_words(incident)}.")
    return [*lines, *_told(incident)]


def _state_and_evidence(facts: Facts, paint: Paint) -> list[str]:
    if not facts["state"]:
        line = f"{facts['test']} is not tested yet"
    else:
        line = f"{facts['test']} is {paint(facts['state'])}"
        if facts["since"]:
            line += f" since {day(facts['since'])} ({names.span(facts['seconds'])})"
    lines = [f"{line}."]
    for silence in facts["silences"]:
        lines.append(f"It is silenced {silence_words(silence)}.")
    if facts["look_age"] is not None:
        lines.append(f"It is not looked at in each round. The last look here: {last_look(facts)}.")
        if facts["text"]:
            lines.append(f"That look said: {facts['text']}")
    lines += _flakes(facts)
    if facts["evidence"]:
        when = "when that was concluded"
        if facts["evidence_at"] != facts["since"]:
            when = f"at {day(facts['evidence_at'])}, when that last changed"
        lines += ["", f"What was seen {when}:", *_evidence(facts["evidence"], paint)]
    return lines


def _flakes(facts: Facts) -> list[str]:
    """Return how many flakes the test had, if any."""
    if not facts["flakes"]:
        return []
    flakes = names.pluralize(facts["flakes"], "flake")
    return [
        f"It had {flakes} here: it failed, and passed when it was looked at again.",
        f"The last one was at {day(facts['last_flake'])}: {facts['last_flake_text']}",
    ]


def _end(incident: Facts) -> str:
    length = names.span(incident["seconds"])
    if incident["ended"]:
        return f" to {day(incident['ended'])} ({length})"
    if incident["open"]:
        return f", and it is open ({length})"
    return "; its test was removed"


def _evidence(facts: Facts, paint: Paint) -> list[str]:
    """Return a line for each answer, and the count of sites that fail."""
    rows = []
    for answer in facts["answers"]:
        duration = "" if answer["seconds"] is None else f"{answer['seconds']:.2f} s"
        rows.append((answer["node"], answer["sees"], duration, answer["text"]))
    without_head = table(("", "", "", ""), rows, paint)[1:]
    count = f"{facts['sites_failing']} failing, quorum {facts['quorum']}: {facts['verdict']}"
    return [f"  {line}" for line in (*without_head, count)]


def _told(incident: Facts) -> list[str]:
    """Return who handed the alert and the recovery over, and what is still owed."""
    if incident["void"] and not incident["alert_by"]:
        return ["Nobody was told: it came and went in a silence, or while its test was FLAPPING."]
    owes = {"alert": True, "recovery": incident["ended"] and incident["alert_by"]}
    lines = []
    for kind in ("alert", "recovery"):
        by = incident[f"{kind}_by"]
        if by:
            recipients = _recipients(incident[f"{kind}_to"])
            stated = report.as_stated(incident[f"{kind}_stated_by"])
            lines.append(f"The {kind} was handed over by {by}{stated}{recipients}")
        elif owes[kind] and not incident["removed"]:
            lines.append(f"The {kind} is still owed.")
    return lines


def _recipients(handed_over: Sequence[Facts]) -> str:
    """Return to whom this node handed a notification over, and when."""
    if not handed_over:
        return "; this node has no record of the recipients."
    recipients = [f"to {handed['address']} at {day(handed['at'])}" for handed in handed_over]
    return f": from here {'; '.join(recipients)}."


def history(facts: Facts, paint: Paint) -> list[str]:
    """Return a line for each incident, newest first."""
    rows = [_history_row(incident) for incident in facts["incidents"]]
    head = ("BEGAN", "LENGTH", "TEST", "SEEN BY", "TOLD BY")
    return [*_stale(facts, paint), *_table_or("no incidents", head, rows, paint)]


def _history_row(incident: Facts) -> tuple[str, str, str, str, str]:
    length = names.span(incident["seconds"])
    if incident["removed"]:
        length = "test removed"
    elif not incident["ended"]:
        length = f"{length} so far"
    test = incident["test"]
    if incident["flapping"]:
        test = f"{test} (flapping)"
    tellers = []
    for node in (incident["alert_by"], incident["recovery_by"]):
        if node and node not in tellers:
            tellers.append(node)
    nobody = "nobody" if incident["void"] else "-"
    seen_by = ", ".join(incident["seen_by"]) or "-"
    seen_by += report.as_stated(incident["stated_by"])
    return day(incident["began"]), length, test, seen_by, ", ".join(tellers) or nobody


def _stale(facts: Facts, paint: Paint) -> list[str]:
    """Return a warning if the facts are old."""
    if not facts["stale"]:
        return []
    last = "never"
    if facts["last_round"]:
        last = f"the last one {_ago(facts['last_round_age'])}"
    return [f"{paint('DOWN', 'This is out of date')}: no round ends on this node, {last}.", ""]


def silences(facts: Facts, paint: Paint) -> list[str]:
    """Return a line for each silence that holds."""
    rows = []
    for silence in facts["silences"]:
        until = day(silence["until"]) if silence["until"] else "it is removed"
        age = "-" if silence["age"] is None else names.span(silence["age"])
        rows.append((silence["what"], until, age, silence["node"], silence["reason"]))
    head = ("SILENCED", "UNTIL", "AGE", "SAID BY", "REASON")
    return _table_or("no silences", head, rows, paint)


def silence_words(silence: Facts) -> str:
    """Return by which node, until when, for how long already and why something is silenced."""
    until = day(silence["until"]) if silence["until"] else "it is removed"
    words = f"by {silence['node']} until {until}"
    if silence["age"] is not None:
        words += f", for {names.span(silence['age'])} now"
    if silence["reason"]:
        words += f": {silence['reason']}"
    return words


def acknowledged_words(facts: Facts) -> str:
    """Return since when and how the incident of a test is acknowledged."""
    words = f"acknowledged at {day(facts['acknowledged'])}"
    if facts["acknowledgement"]:
        words += f": {facts['acknowledgement']}"
    return words


def peers(facts: Facts, paint: Paint) -> list[str]:
    """Return a line for each peer: whether it answers, and what it states."""
    rows = [_peer_row(peer) for peer in facts["peers"]]
    return _table_or("no peers", _PEER_COLUMNS, rows, paint)


def _peer_row(peer: Facts) -> tuple[str, ...]:
    answer = f"no-answer ({peer['reason']})"
    latency = "-"
    drift = "-"
    if peer["reached"]:
        answer = "OK"
        latency = f"{1000 * peer['latency']:.0f} ms"
        drift = "none"
    clock = "-"
    if peer["clock"] is not None:
        clock = f"{round(peer['clock'], 1) + 0.0:+.1f} s"  # + 0.0 makes -0.0 a plain zero
    last_round = "-"
    if peer["last_round_age"] is not None:
        last_round = _ago(peer["last_round_age"])
    return (
        peer["node"],
        peer["address"] or "-",
        peer["site"],
        answer,
        peer["version"] or "-",
        latency,
        clock,
        last_round,
        ", ".join(peer["drift"]) or drift,
    )
