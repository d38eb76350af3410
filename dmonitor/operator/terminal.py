"""What `report` says, as text for a person at a terminal: plain tables, coloured where the terminal wants that.

Pure: it returns lines. A colour never says what a word does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
}
_COLOURS |= {"FAIL": "31", "TIMEOUT": "31", "OK": "32", "no-answer": "35"}


class Paint:
    """Colours words, or not."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted

    def __call__(self, word: str, padded: str | None = None) -> str:
        """Return WORD, or how it stands in a table, in the colour of WORD."""
        shown = word if padded is None else padded
        colour = _COLOURS.get(word.split(" ")[0]) if self._wanted else None
        return f"\x1b[{colour}m{shown}\x1b[0m" if colour else shown


def table(head: Sequence[str], rows: Iterable[Sequence[str]], paint: Paint) -> list[str]:
    """Return a table, whose columns are as wide as what stands in them; words that have a colour get it."""
    every = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[place]) for row in every) for place in range(len(head))]

    def line(row: Sequence[str], colour: bool) -> str:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        cells[-1] = row[-1]
        return "  ".join(
            paint(cell, shown) if colour else shown for cell, shown in zip(row, cells, strict=True)
        ).rstrip()

    return [line(row, number > 0) for number, row in enumerate(every)]


def day(moment: str | None) -> str:
    """Return a time of `report` as it stands in tables: 2026-11-23 03:12:06."""
    return moment[:19].replace("T", " ") if moment else "-"


def status(facts: Facts, paint: Paint) -> list[str]:
    rows = []
    for each in facts["tests"]:
        since = f"{day(each['since'])} ({names.span(each['seconds'])})" if each["since"] else "-"
        notes = f" (silenced by {', '.join(each['silenced_by'])})" if each["silenced_by"] else ""
        here = f"[{each['here']} here] " if each["state"] == "DOWN" and each["here"] == "OK" else ""
        rows.append(
            (each["state"] or "not tested yet", each["test"], since, here + each["text"] + notes)
        )
    head = ("STATE", "TEST", "SINCE", "TEXT THEN")
    return [*ability(facts, paint), "", *(table(head, rows, paint) if rows else ["no tests"])]


def ability(facts: Facts, paint: Paint) -> list[str]:
    """Say in one line whether the node can alert; then what troubles it."""
    age = (
        f"last round {names.span(facts['last_round_age'])} ago"
        if facts["last_round"]
        else "no round yet"
    )
    parts = [
        f"{len(facts['reached'])} of {facts['peers']} peers reached",
        f"quorum {facts['quorum']}",
        age,
        names.pluralize(len(facts["addresses"]), "address", "es"),
        f"{facts['owed']} owed" if facts["owed"] else "nothing owed",
    ]
    word = paint("UP", "can alert") if facts["can_alert"] else paint("DOWN", "CANNOT ALERT")
    lines = [f"{facts['node']} {word}: " + "; ".join([*facts["why_not"], ", ".join(parts)])]
    lines += report.lacks(facts)
    lines += [
        f"{paint('UNKNOWN', 'trouble')} since {day(each['since'])}: {each['text']}"
        for each in facts["troubles"]
    ]
    return lines


def views(facts: Facts, paint: Paint) -> list[str]:
    """Return who sees what: for each test its verdict, and a column for each node."""
    rows = []
    for each in facts["tests"]:
        seen = {answer["node"]: answer["sees"] for answer in each["evidence"]["answers"]}
        rows.append(
            (each["state"], each["test"], *(seen.get(node, "-") for node in facts["nodes"]))
        )
    return [
        *ability(facts, paint),
        "",
        *(table(("STATE", "TEST", *facts["nodes"]), rows, paint) if rows else ["no tests"]),
    ]


def why(facts: Facts, paint: Paint) -> list[str]:
    state = facts["state"] or "not tested yet"
    since = (
        f" since {day(facts['since'])} ({names.span(facts['seconds'])})" if facts["since"] else ""
    )
    lines = _stale(facts, paint)
    lines.append(
        f"{facts['test']} is {paint(state)}{since}."
        if facts["state"]
        else f"{facts['test']} is {state}."
    )
    if facts["silenced_by"]:
        lines.append(f"It is silenced by {', '.join(facts['silenced_by'])}.")
    if facts["evidence"]:
        concluded = facts["evidence_at"] == facts["since"]
        when = (
            "when that was concluded"
            if concluded
            else f"at {day(facts['evidence_at'])}, when that last changed"
        )
        lines += ["", f"What was seen {when}:", *_evidence(facts["evidence"], paint)]
    known = facts["last_incident"]
    if not known:
        return [*lines, "", "It has had no incident that this node remembers."]
    length = names.span(known["seconds"])
    end = "; its test was removed"
    if known["ended"]:
        end = f" to {day(known['ended'])} ({length})"
    elif known["open"]:
        end = f", and it is open ({length})"
    kind = ", FLAPPING," if known["flapping"] else ""
    lines += [
        "",
        f"Its last incident{kind} {known['incident']} is from {day(known['began'])}{end}.",
    ]
    for part, title in (("opening", "When it began:"), ("closing", "When it ended:")):
        if known[part]:
            lines += [title, *_evidence(known[part], paint)]
    return [*lines, *_told(known)]


def _evidence(facts: Facts, paint: Paint) -> list[str]:
    rows = [
        (
            each["node"],
            each["sees"],
            "" if each["seconds"] is None else f"{each['seconds']:.2f} s",
            each["text"],
        )
        for each in facts["answers"]
    ]
    body = ["  " + line for line in table(("", "", "", ""), rows, paint)[1:]]
    return [
        *body,
        f"  {facts['sites_failing']} failing, quorum {facts['quorum']}: {facts['verdict']}",
    ]


def _told(known: Facts) -> list[str]:
    if known["void"] and not known["alert_by"]:
        return ["Nobody was told: it came and went in a silence, or while its test was FLAPPING."]
    lines = []
    for kind in ("alert", "recovery"):
        if by := known[f"{kind}_by"]:
            to = "; ".join(
                f"to {each['address']} at {day(each['at'])}" for each in known[f"{kind}_to"]
            )
            lines.append(
                f"The {kind} was handed over by {by}"
                + (f": from here {to}." if to else "; to whom, is not recorded here.")
            )
        elif not known["removed"] and (kind == "alert" or (known["ended"] and known["alert_by"])):
            lines.append(f"The {kind} is owed still.")
    return lines


def history(facts: Facts, paint: Paint) -> list[str]:
    rows = [
        (
            day(each["began"]),
            "test removed"
            if each["removed"]
            else names.span(each["seconds"]) + ("" if each["ended"] else " so far"),
            each["test"] + (" (flapping)" if each["flapping"] else ""),
            ", ".join(each["seen_by"]) or "-",
            ", ".join(dict.fromkeys(filter(None, (each["alert_by"], each["recovery_by"]))))
            or ("nobody" if each["void"] else "-"),
        )
        for each in facts["incidents"]
    ]
    listed = (
        table(("BEGAN", "LENGTH", "TEST", "SEEN BY", "TOLD BY"), rows, paint)
        if rows
        else ["no incidents"]
    )
    return [*_stale(facts, paint), *listed]


def _stale(facts: Facts, paint: Paint) -> list[str]:
    """Warn where what is told is not of now."""
    last = (
        f"the last one {names.span(facts['last_round_age'])} ago"
        if facts["last_round"]
        else "never"
    )
    return (
        [f"{paint('DOWN', 'Nothing is known of now')}: no round ends here, {last}.", ""]
        if facts["stale"]
        else []
    )


def silences(facts: Facts, paint: Paint) -> list[str]:
    rows = [
        (each["what"], day(each["until"]) if each["until"] else "it is removed", each["node"])
        for each in facts["silences"]
    ]
    return table(("SILENCED", "UNTIL", "SAID BY"), rows, paint) if rows else ["no silences"]


def peers(facts: Facts, paint: Paint) -> list[str]:
    rows = []
    for each in facts["peers"]:
        state = "OK" if each["reached"] else f"no-answer ({each['reason']})"
        latency = f"{1000 * each['latency']:.0f} ms" if each["reached"] else "-"
        clock = "-" if each["clock"] is None else f"{round(each['clock'], 1) + 0.0:+.1f} s"
        age = "-" if each["last_round_age"] is None else f"{names.span(each['last_round_age'])} ago"
        drift = ", ".join(each["drift"]) or ("none" if each["reached"] else "-")
        rows.append(
            (
                each["node"],
                each["address"] or "-",
                each["site"],
                state,
                each["version"] or "-",
                latency,
                clock,
                age,
                drift,
            )
        )
    head = (
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
    return table(head, rows, paint) if rows else ["no peers"]
