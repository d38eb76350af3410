"""What `report` says, as text for a person at a terminal: plain tables, coloured if wanted.

Pure: facts in, lines out. A colour never says what a word does not, and only the words of dmonitor
have one. Facts have to go through `printable` first, whoever stated them: the terminal must not
obey them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dmonitor.base import names
from dmonitor.operator import columns, report
from dmonitor.operator.columns import Column, Cut
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
_STATE = Column("STATE", is_state=True)
_TEST = Column("TEST", Cut.MIDDLE)
_TEXT = Column("TEXT", Cut.END)
_STATUS = (_STATE, _TEST, Column("SINCE"), _TEXT)
_NARROW_STATUS = (_STATE, _TEST, Column("FOR"), _TEXT)
_TOOK = Column("TOOK")
_TOOK_AT = 2  # its place in a row of `status`
_WIDE = 100  # columns of a terminal in which `status` says how long looks took
_RECIPIENTS = (Column(""), Column(""))
_EVIDENCE = (Column(""), Column("", is_state=True), Column(""), Column(""))
_HISTORY = (
    Column("BEGAN"),
    Column("LENGTH"),
    _TEST,
    Column("SEEN BY", Cut.END),
    Column("TOLD BY", Cut.END),
)
_SILENCES = (
    Column("SILENCED", Cut.MIDDLE),
    Column("UNTIL"),
    Column("AGE", dispensable=1),
    Column("SAID BY", Cut.MIDDLE),
    Column("REASON", Cut.END),
)
_PEERS = (
    Column("NODE", Cut.MIDDLE),
    Column("ADDRESS", dispensable=4),
    Column("SITE", Cut.MIDDLE, dispensable=5),
    Column("ANSWER", Cut.END, is_state=True),
    Column("VERSION", dispensable=3),
    Column("LATENCY", dispensable=1),
    Column("CLOCK", dispensable=2),
    Column("LAST ROUND"),
    Column("KEY"),
    Column("DRIFT", Cut.END),
)


class Paint:
    """How a terminal shows lines: with colours if they are `wanted`, in `width` columns.

    A width of None is one without end: then nothing is cut.
    """

    def __init__(self, wanted: bool, width: int | None = None) -> None:
        self._wanted = wanted
        self.width = width

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


def _table_or(
    nothing: str, head: Sequence[Column], rows: Sequence[Sequence[str]], paint: Paint
) -> list[str]:
    """Return a table, or the line `nothing` if there are no rows."""
    if not rows:
        return [nothing]
    return columns.table(head, rows, paint, paint.width)


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
    """Return whether the node can alert, then a line for each test.

    Where the table is too wide, how long a test has been in its state stands for since when.
    """
    tests = facts["tests"]
    head, rows = _with_took(_STATUS, [_status_row(test, _since(test)) for test in tests], tests)
    if not columns.fits(head, rows, paint.width):
        head, rows = _NARROW_STATUS, [_status_row(test, _lasting(test)) for test in tests]
        if paint.width is not None and paint.width >= _WIDE:
            head, rows = _with_took(head, rows, tests)
    return [*ability(facts, paint), "", *_table_or("no tests", head, rows, paint)]


def _with_took(
    head: Sequence[Column], rows: Sequence[Sequence[str]], tests: Sequence[Facts]
) -> tuple[Sequence[Column], Sequence[Sequence[str]]]:
    """Return a table of `tests` with how long their last looks took, if that is known of any."""
    if all(test["duration"] is None for test in tests):
        return head, rows
    wider = []
    for row, test in zip(rows, tests, strict=True):
        took = "-" if test["duration"] is None else names.duration(test["duration"])
        wider.append((*row[:_TOOK_AT], took, *row[_TOOK_AT:]))
    return (*head[:_TOOK_AT], _TOOK, *head[_TOOK_AT:]), wider


def _since(test: Facts) -> str:
    if not test["since"]:
        return "-"
    return f"{day(test['since'])} ({names.span(test['seconds'])})"


def _lasting(test: Facts) -> str:
    if not test["since"]:
        return "-"
    return names.span(test["seconds"])


def _status_row(test: Facts, since: str) -> tuple[str, str, str, str]:
    text = test["text"]
    if test["look_age"] is not None:
        text = f"[{last_look(test)}] {text}"
    elif test["state"] == "DOWN" and test["here"] == "OK":
        text = f"[OK here] {text}"
    if test["acknowledged"]:
        text = f"[{acknowledged_words(test)}] {text}"
    if test["behind"]:
        text = f"[{behind_words(test)}] {text}"
    for silence in test["silences"]:
        text = f"[silenced {silence_words(silence)}] {text}"
    if test["flakes"] and test["last_flake_age"] < _FLAKES_SHOWN:
        last = _ago(test["last_flake_age"])
        text = f"{text} ({names.pluralize(test['flakes'], 'flake')}, the last {last})"
    return report.state_words(test), test["test"], since, text


def ability(facts: Facts, paint: Paint) -> list[str]:
    """Return a sentence that says whether the node can alert, then its troubles."""
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
    state, words = ("UP", "can alert") if facts["can_alert"] else ("DOWN", "CANNOT ALERT")
    reasons = "; ".join([*facts["why_not"], ", ".join(parts)])
    lines = _sentence(f"{facts['node']} {words}: {reasons}", state, words, paint)
    for lack in report.lacks(facts):
        lines += columns.fold(lack, paint.width)
    for trouble in facts["troubles"]:
        text = f"trouble since {day(trouble['since'])}: {trouble['text']}"
        lines += _sentence(text, "UNKNOWN", "trouble", paint)
    return lines


def _sentence(text: str, state: str, words: str, paint: Paint) -> list[str]:
    """Return the lines of a sentence, in which the first `words` have the colour of `state`."""
    lines = columns.fold(text, paint.width)
    lines[0] = lines[0].replace(words, paint(state, words), 1)
    return lines


def views(facts: Facts, paint: Paint) -> list[str]:
    """Return who sees what now: for each test its verdict, and a column for each node."""
    rows = []
    for test in facts["tests"]:
        seen = {answer["node"]: answer["sees"] for answer in test["evidence"]["answers"]}
        columns = [seen.get(node, "-") for node in facts["nodes"]]
        rows.append((test["state"], test["test"], *columns))
    nodes = [Column(node, Cut.MIDDLE, is_state=True) for node in facts["nodes"]]
    head = (_STATE, _TEST, *nodes)
    return [*ability(facts, paint), "", *_table_or("no tests", head, rows, paint)]


def why(facts: Facts, paint: Paint) -> list[str]:
    """Return how a test is, by which evidence, and what its last incident was."""
    lines = _stale(facts, paint)
    lines += _state_and_evidence(facts, paint)
    lines.append("")
    lines += [*_who_is_told(facts["recipients"], paint), ""]
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
    if facts["behind"] and incident["open"] and not incident["alert_by"]:
        return [*lines, f"The alert waits, because it is {behind_words(facts)}."]
    is_wanted = any(each["told"] != "never" for each in facts["recipients"])
    return [*lines, *_told(incident, is_wanted=is_wanted)]


def _who_is_told(recipients: Sequence[Facts], paint: Paint) -> list[str]:
    """Return a line for each address: when it is told of a test, and by which lines of its file."""
    if not recipients:
        return ["Nobody is told of it: alert.d names no address."]
    rows = []
    for each in recipients:
        match each["told"]:
            case "never":
                when = "never"
            case "if-it-lasts":
                when = f"after {names.span(each['after'])}, if it lasts so long"
            case "later":
                when = f"at {day(each['at'])}, if it lasts until then"
            case "acknowledged":
                when = "not by itself: somebody is on it"
            case _:
                when = "at once"
        by = f" ({'; '.join(each['by'])})" if each["by"] else ""
        rows.append((each["address"], when + by))
    table = columns.table(_RECIPIENTS, rows, paint)[1:]
    return ["Who is told of it:", *(f"  {line}" for line in table)]


def _state_and_evidence(facts: Facts, paint: Paint) -> list[str]:
    if not facts["state"]:
        line = f"{facts['test']} is not tested yet"
    else:
        line = f"{facts['test']} is {paint(facts['state'], report.state_words(facts))}"
        if facts["since"]:
            line += f" since {day(facts['since'])} ({names.span(facts['seconds'])})"
    lines = [f"{line}."]
    for silence in facts["silences"]:
        lines.append(f"It is silenced {silence_words(silence)}.")
    if facts["behind"]:
        lines.append(
            f"It is {behind_words(facts)}, so it is not told by itself. If it still fails when that"
            " has come back, it is told then."
        )
    if facts["look_age"] is not None:
        lines.append(f"It is not looked at in each round. The last look here: {last_look(facts)}.")
        if facts["text"]:
            lines.append(f"That look said: {facts['text']}")
    lines += _took(facts)
    lines += _flakes(facts)
    if facts["evidence"]:
        when = "when that was concluded"
        if facts["evidence_at"] != facts["since"]:
            when = f"at {day(facts['evidence_at'])}, when that last changed"
        lines += ["", f"What was seen {when}:", *_evidence(facts["evidence"], paint)]
    return lines


def _took(facts: Facts) -> list[str]:
    """Return how long the last look took, and how long looks usually take, if that is known."""
    if facts["duration"] is None:
        return []
    line = f"The last look here took {names.duration(facts['duration'])}"
    line += f", {_ago(facts['last_run_age'])}"
    if facts["usual_duration"] is not None:
        line += f"; usually one that passes takes {names.duration(facts['usual_duration'])}"
    return [f"{line}."]


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
    without_head = columns.table(_EVIDENCE, rows, paint)[1:]
    count = f"{facts['sites_failing']} failing, quorum {facts['quorum']}: {facts['verdict']}"
    return [f"  {line}" for line in (*without_head, count)]


def _told(incident: Facts, *, is_wanted: bool) -> list[str]:
    """Return who handed the alert and the recovery over, and what is still owed.

    Nothing is, unless the test `is_wanted` by an address.
    """
    if incident["void"] and not incident["alert_by"]:
        return [
            "Nobody was told of it by itself: it came and went in a silence, while its test was"
            " FLAPPING, or while all that it is behind was DOWN (BEHIND)."
        ]
    owes = {"alert": True, "recovery": incident["ended"] and incident["alert_by"]}
    lines = []
    for kind in ("alert", "recovery"):
        by = incident[f"{kind}_by"]
        if by:
            recipients = _recipients(incident[f"{kind}_to"])
            stated = report.as_stated(incident[f"{kind}_stated_by"])
            lines.append(f"The {kind} was handed over by {by}{stated}{recipients}")
        elif owes[kind] and is_wanted and not incident["removed"]:
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
    return [*_stale(facts, paint), *_table_or("no incidents", _HISTORY, rows, paint)]


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
    """Return a line for each silence that holds, and for those that are planned here."""
    rows = []
    for silence in facts["silences"]:
        until = day(silence["until"]) if silence["until"] else "it is removed"
        age = "-" if silence["age"] is None else names.span(silence["age"])
        rows.append((silence["what"], until, age, silence["node"], silence["reason"]))
    for silence in facts["planned"]:
        hours = f"from {day(silence['begins'])}"
        rows.append((silence["what"], hours, "-", silence["node"], silence["reason"]))
    return _table_or("no silences", _SILENCES, rows, paint)


def silence_words(silence: Facts) -> str:
    """Return by which node, until when, for how long already and why something is silenced."""
    until = day(silence["until"]) if silence["until"] else "it is removed"
    words = f"by {silence['node']} until {until}"
    if silence["age"] is not None:
        words += f", for {names.span(silence['age'])} now"
    if silence["reason"]:
        words += f": {silence['reason']}"
    return words


def behind_words(facts: Facts) -> str:
    """Return behind which tests that are DOWN a test is not told by itself."""
    return f"behind {', '.join(facts['behind'])}"


def acknowledged_words(facts: Facts) -> str:
    """Return since when and how the incident of a test is acknowledged."""
    words = f"acknowledged at {day(facts['acknowledged'])}"
    if facts["acknowledgement"]:
        words += f": {facts['acknowledgement']}"
    return words


def peers(facts: Facts, paint: Paint) -> list[str]:
    """Return a line for each peer: whether it answers, and what it states."""
    rows = [_peer_row(peer) for peer in facts["peers"]]
    return _table_or("no peers", _PEERS, rows, paint)


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
        peer["key"] or "-",
        ", ".join(peer["drift"]) or drift,
    )
