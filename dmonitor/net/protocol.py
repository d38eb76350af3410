"""The lines that nodes exchange on port 2929: bytes to values, and values to bytes.

Pure: no socket and no clock. dmonitor-protocol(7) is the norm; its transcripts are the tests of
this module. A reader raises ProtocolError for a wrong line, and no other exception.
"""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dmonitor.base import names
from dmonitor.core import codec
from dmonitor.core.hearsay import IDS_LIMIT, SILENCES_LIMIT, is_over
from dmonitor.core.incident import changed_at
from dmonitor.core.model import (
    Confirming,
    Incident,
    Judgement,
    NodeStatus,
    Outcome,
    Result,
    Silence,
    Statement,
    Test,
    node_test,
)

VERSION = 1
QUESTION_BYTES = 1_000  # of a line that a daemon reads, its end included
ANSWER_BYTES = 100_000  # of a line that a caller reads, its end included
# Of a statement, of a list, or of all accounts together, as far as they are read. A line counts for
# LINE_BYTES at least.
STATEMENT_BYTES = 1_000_000
LINE_BYTES = 100
STATED_BYTES = 500_000  # of a statement, as far as it is written
EVIDENCE_BYTES = 16_000  # of a line with an incident and the votes that opened it
SHORT_TEXT = 60  # characters of each answer's text, if the evidence is too long for its line
SITES_LIMIT = 100  # failed sites of one incident that are written; twice as many are read
BUSY = "busy"
NOT_CONFIGURED = "not-configured"

# Lines of each kind that are read.
_STATEMENT_LINES = {"heard": 200, "silence": 1_000, "confirming": 2_000, "incident": 5_000}
# What the first word of a line with a JSON object says that the object is.
_KINDS: Mapping[str, type] = {
    "standing": NodeStatus,
    "heard": NodeStatus,
    "silence": Silence,
    "confirming": Confirming,
    "incident": Incident,
}
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_OUTCOMES["TIMEMOUT"] = Outcome.TIMEOUT  # the spelling of the first dmonitor
# Patterns; they are compiled when they are first used, because that takes time.
_PRINTABLE = rb"[ -~]*"
_FACT_NAME = rb"[a-z][a-z0-9-]{0,31}"
_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,6})?"
_ESCAPED = rb"%([0-9A-Fa-f]{2})"
# What has to be escaped: everything that is not printable ASCII, and "%" itself.
_NOT_PLAIN = rb"[^!-$&-~]"
_NOT_PLAIN_TEXT = rb"[^ -$&-~]"


class ProtocolError(Exception):
    """A line is not of the protocol; the message says why, and is safe to show."""


class Greeting(NamedTuple):
    """The daemon's first line, or, if it has a key, its first authenticated line."""

    name: str
    node_id: str
    incarnation: str = ""  # made up when the daemon starts; it tells two with one id apart


class Challenge(NamedTuple):
    """The first line of a daemon that has a key: a caller without the key learns no more."""

    nonce: str  # made up for this conversation


class Question(NamedTuple):
    """A caller asks: what do you see for this test?"""

    test: Test


class Request(NamedTuple):
    """A line of the caller's that is no question.

    `greet`: what do you state of yourself, and what do you know? `tests`: which tests do you have?
    `incident`: what do you know of this incident, and who saw what when it opened?
    `wake`: look now, because I hold something that you are to tell; it has no reply.
    `quit`: I have no more questions.
    """

    word: str
    id: str = ""  # of the incident


class Reply(NamedTuple):
    """What the daemon sees for one test."""

    test: Test
    result: Result
    age: float = 0.0  # seconds since the end of the run
    reason: str = ""  # why the result is UNKNOWN without a run: BUSY or NOT_CONFIGURED


class Refusal(NamedTuple):
    """The daemon says that a line of the caller's makes no sense, or that it does not go on."""

    reason: str
    text: str = ""


class Lines:
    """Cuts a stream of bytes into lines without their ends."""

    def __init__(self, limit: int) -> None:
        self._limit = limit  # bytes of a line, its end included
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes; raise ProtocolError for one over the limit."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in (*lines, self._rest):
            if len(line) >= self._limit:
                raise ProtocolError(f"a line of over {self._limit} bytes")
        return [line.removesuffix(b"\r") for line in lines]


# Lines of words and facts.


def write(message: Greeting | Challenge | Question | Request | Reply | Refusal) -> bytes:
    """Return the line, with its end, for `message`."""
    return " ".join(_words(message)).encode("ascii") + b"\n"


def _words(message: Greeting | Challenge | Question | Request | Reply | Refusal) -> list[str]:
    match message:
        case Reply():
            return _reply_words(message)
        case Question(test):
            return ["test", str(test)]
        case Request(word, ""):
            return [word]
        case Request(word, incident_id):
            return [word, incident_id]
        case Challenge(nonce):
            return ["dmonitor", str(VERSION), _fact("nonce", nonce)]
        case Greeting():
            return _greeting_words(message)
        case Refusal(reason, ""):
            return ["error", reason]
        case Refusal(reason, text):
            return ["error", reason, _text_fact(text)]


def _greeting_words(greeting: Greeting) -> list[str]:
    words = ["dmonitor", str(VERSION)]
    words.append(_fact("name", greeting.name))
    words.append(_fact("id", greeting.node_id))
    if greeting.incarnation:
        words.append(_fact("run", greeting.incarnation))
    return words


def _reply_words(reply: Reply) -> list[str]:
    result = reply.result
    words = ["answer", str(reply.test), result.outcome.value]
    if reply.reason:
        words.append(_fact("reason", reply.reason))
    words.append(f"age={reply.age:.1f}")
    words.append(f"duration={result.duration:.3f}")
    if result.text:
        words.append(_text_fact(result.text))
    return words


def read_request(line: bytes) -> Question | Request:
    """Return the caller's request; raise ProtocolError if `line` is none."""
    words, _ = _split(line)
    match words:
        case ["test", name]:
            return Question(_read_test(name))
        case ["incident", incident_id] if names.is_node_id(incident_id):
            return Request("incident", incident_id)
        case ["quit" | "greet" | "tests" | "wake" as word]:
            return Request(word)
    raise ProtocolError(_misuse(words))


def _misuse(words: list[str]) -> str:
    """Return what is wrong with `words`, which are no request."""
    match words:
        case []:
            return "an empty line; a question reads: test HOST/NAME"
        case ["quit" | "greet" | "tests" | "wake" as word, *_]:
            return f"{word} stands alone"
        case ["incident", *_]:
            return "a question for an incident reads: incident ID"
        case ["test", *_]:
            return "a question reads: test HOST/NAME"
    return f"unknown word {names.printable(words[0], 32)}; a question reads: test HOST/NAME"


def read_greeting(line: bytes) -> Greeting | Challenge | Refusal:
    """Return the greeting, or the challenge or refusal that comes in its place.

    Raise ProtocolError for another line, and for a version other than ours.
    """
    words, facts = _split(line)
    match words:
        case ["error", reason] if names.is_word(reason):
            return Refusal(reason, names.printable(facts.get("text", "")))
        case ["dmonitor", version]:
            _check_version(version)
        case _:
            raise ProtocolError("no dmonitor greeting")
    nonce = facts.get("nonce", "")
    if names.is_nonce(nonce):
        return Challenge(nonce)
    greeting = Greeting(facts.get("name", ""), facts.get("id", ""), facts.get("run", ""))
    if not _is_proper(greeting):
        raise ProtocolError("a greeting without a proper name and id")
    return greeting


def _check_version(version: str) -> None:
    if version != str(VERSION):
        shown = names.printable(version, 16)
        raise ProtocolError(f"protocol version {shown}, and we speak {VERSION}")


def _is_proper(greeting: Greeting) -> bool:
    if greeting.incarnation and not names.is_node_id(greeting.incarnation):
        return False
    return bool(names.is_node(greeting.name) and names.is_node_id(greeting.node_id))


def read_reply(line: bytes) -> Reply | Refusal:
    """Return the daemon's answer or error; raise ProtocolError if `line` is neither."""
    words, facts = _split(line)
    text = names.printable(facts.get("text", ""))
    match words:
        case ["answer", name, outcome]:
            if outcome not in _OUTCOMES:
                raise ProtocolError(f"unknown result {names.printable(outcome, 32)}")
            result = Result(_OUTCOMES[outcome], text, _read_number(facts, "duration"))
            reason = facts.get("reason", "")
            if reason and not names.is_word(reason):
                raise ProtocolError("a reason that is no word")
            return Reply(_read_test(name), result, _read_number(facts, "age"), reason)
        case ["error", reason] if names.is_word(reason):
            return Refusal(reason, text)
    raise ProtocolError("neither an answer nor an error")


def _split(line: bytes) -> tuple[list[str], dict[str, str]]:
    """Return the words of a line, and the facts after them; an unknown fact does no harm."""
    if not re.fullmatch(_PRINTABLE, line):
        raise ProtocolError("bytes that are not printable ASCII")
    head, has_text, text = (b" " + line).partition(b" text=")
    words: list[str] = []
    facts: dict[str, str] = {}
    for word in head.split():
        name, is_fact, value = word.partition(b"=")
        if is_fact:
            _add_fact(facts, name, value)
        elif facts:
            raise ProtocolError("a word behind the facts")
        else:
            words.append(word.decode("ascii"))
    if has_text:
        _add_fact(facts, b"text", text)
    return words, facts


def _add_fact(facts: dict[str, str], name: bytes, value: bytes) -> None:
    key = name.decode("ascii")
    if not re.fullmatch(_FACT_NAME, name) or key in facts:
        raise ProtocolError("a fact that is not key=value, or one that comes twice")
    facts[key] = _unescape(value)


def _fact(key: str, value: str) -> str:
    return f"{key}={_escape(_NOT_PLAIN, value)}"


def _text_fact(text: str) -> str:
    """Return the last fact of a line; it alone may hold spaces, and it runs to the line's end."""
    return "text=" + _escape(_NOT_PLAIN_TEXT, text)


def _escape(pattern: bytes, value: str) -> str:
    data = value.encode("utf-8", "replace")
    return re.sub(pattern, lambda match: b"%%%02X" % match[0][0], data).decode("ascii")


def _unescape(value: bytes) -> str:
    plain = re.sub(_ESCAPED, lambda match: bytes([int(match[1], 16)]), value)
    return plain.decode("utf-8", "replace")


def _read_test(name: str) -> Test:
    host, _, test = name.partition("/")
    if names.is_host(host) and names.is_test(test):
        return Test(host, test)
    if host == names.NODE and names.is_node(test):
        return node_test(test)
    raise ProtocolError("no HOST/NAME that could be a test")


def _read_number(facts: Mapping[str, str], key: str) -> float:
    value = facts.get(key, "0")
    if not re.fullmatch(_NUMBER, value):
        raise ProtocolError(f"{key} is not a number")
    return float(value)


# Replies of several lines. Most lines are a word and a JSON object (`codec`). Times in the values
# are on the clock of `now`; the wire has ages.


def write_statement(
    statement: Statement, now: float, more_incidents: Iterable[Incident] = ()
) -> bytes:
    """Return the reply to `greet`; it has no tests and no evidence.

    It has no more than every peer reads. What is most urgent comes first: the incidents that are
    open or owe something, and those that changed last. `more_incidents` follow those of the
    `statement`; they are taken one at a time, and only lines that fit a statement are kept of them.
    """
    lines = [_value_line("standing", statement.status, now)]
    for status in statement.heard:
        lines.append(_value_line("heard", status, now))
    for silence in statement.silences[:SILENCES_LIMIT]:
        lines.append(_value_line("silence", silence, now))
    for confirming in statement.confirming:
        lines.append(_value_line("confirming", confirming, now))
    lines += _most_urgent(itertools.chain(statement.incidents, more_incidents), now)
    size = 0
    stated = []
    for line in lines:
        size += _counted(line)
        if size > STATED_BYTES:
            break
        stated.append(line)
    return _whole_reply(stated)


def _most_urgent(incidents: Iterable[Incident], now: float) -> list[str]:
    """Return the lines of the most urgent `incidents`, as many as fit a statement alone."""
    kept: list[tuple[bool, float, int, str]] = []  # a heap, with the least urgent on top
    size = 0
    for number, incident in enumerate(incidents):
        line = _value_line("incident", _without_evidence(incident), now)
        heapq.heappush(kept, (*_urgency(incident), -number, line))
        size += _counted(line)
        while size > STATED_BYTES:
            *_, dropped = heapq.heappop(kept)
            size -= _counted(dropped)
    kept.sort(reverse=True)
    return [line for *_, line in kept]


def _counted(line: str) -> int:
    return max(len(line), LINE_BYTES)


def _urgency(incident: Incident) -> tuple[bool, float]:
    """Return what is larger for an incident that is more urgent."""
    changed = changed_at(incident) or incident.began
    return not is_over(incident), changed


def read_statement(lines: Iterable[bytes], peer: Greeting, now: float) -> Statement:
    """Return what `peer` states in the `lines` before `end`."""
    values = _read_values(lines, now)
    if not values["standing"]:
        raise ProtocolError("a statement without a standing")
    status = values["standing"][-1]._replace(node_id=peer.node_id, at=now)
    return Statement(
        status,
        tuple(values["heard"]),
        tuple(values["silence"]),
        tuple(incident._replace(opening=None) for incident in values["incident"]),
        confirming=tuple(values["confirming"]),
    )


def write_tests(tests: Iterable[Test]) -> bytes:
    """Return the reply to `tests`."""
    return _whole_reply([f"has {test}" for test in sorted(tests)])


def read_tests(lines: Iterable[bytes]) -> frozenset[Test]:
    """Return the tests that the `lines` before `end` list."""
    tests = set()
    for line in lines:
        words, _ = _split(line)
        if words[:1] == ["has"]:
            tests.add(_read_test(" ".join(words[1:])))
    if any(test.host == names.NODE for test in tests):
        raise ProtocolError("a list with a node in it")
    return frozenset(tests)


def write_incident(incident: Incident | None, now: float) -> bytes:
    """Return the reply to `incident`, with the votes that opened it if they fit a line.

    None means that this node does not know the incident.
    """
    if incident is None:
        return _whole_reply([])
    brief = _without_evidence(incident)
    line = _value_line("incident", brief._replace(opening=incident.opening), now)
    if len(line) > EVIDENCE_BYTES and incident.opening:
        short = _shortened(incident.opening)
        line = _value_line("incident", brief._replace(opening=short), now)
    if len(line) > EVIDENCE_BYTES:
        line = _value_line("incident", brief, now)
    return _whole_reply([line])


def _shortened(judgement: Judgement) -> Judgement:
    """Return a judgement with the beginnings of the texts of its answers."""
    answers = []
    for answer in judgement.answers:
        result = answer.result
        if result is not None:
            result = result._replace(text=names.printable(result.text, SHORT_TEXT))
        reason = names.printable(answer.reason, SHORT_TEXT)
        answers.append(answer._replace(result=result, reason=reason))
    return judgement._replace(answers=tuple(answers))


def read_incident(lines: Iterable[bytes], now: float) -> Incident | None:
    """Return the incident that the `lines` before `end` are about; None if the node knows none.

    Evidence that is longer than a node writes it is passed over.
    """
    lines = list(lines)
    incidents = _read_values(lines, now)["incident"]
    if not incidents:
        return None
    incident: Incident = incidents[0]
    if max(map(len, lines)) > EVIDENCE_BYTES:
        incident = incident._replace(opening=None)
    return incident


def _without_evidence(incident: Incident) -> Incident:
    """Return what a statement says of an incident: the smallest ids, the sites that failed last."""
    failed = sorted(incident.failed, key=lambda vote: -vote[1])[:SITES_LIMIT]
    return incident._replace(
        ids=tuple(sorted(incident.ids)[:IDS_LIMIT]),
        failed=tuple(sorted(failed)),
        opening=None,
        closing=None,
        held=0.0,
        removed=False,
        silenced="",
        alert_stated_by="",
        recovery_stated_by="",
    )


def _value_line(word: str, value: object, now: float) -> str:
    return f"{word} {codec.write(_KINDS[word], value, lambda at: round(now - at, 3))}"


def _whole_reply(lines: list[str]) -> bytes:
    return "\n".join([*lines, "end", ""]).encode("ascii")


def _read_values(lines: Iterable[bytes], now: float) -> dict[str, list[Any]]:
    """Return the values in `lines`, by the first word; a line with an unknown word does no harm."""
    values: dict[str, list[Any]] = {word: [] for word in _KINDS}
    for line in lines:
        first, _, text = line.strip().partition(b" ")
        word = first.decode("ascii", "replace")
        if word in values:
            values[word].append(_read_value(word, text, now))
    for incident in values["incident"]:
        if len(incident.ids) > 2 * IDS_LIMIT or len(incident.failed) > 2 * SITES_LIMIT:
            raise ProtocolError("an incident with too many ids or sites")
    for word, limit in _STATEMENT_LINES.items():
        if len(values[word]) > limit:
            raise ProtocolError(f"too many lines: {word}")
    return values


def _read_value(word: str, text: bytes, now: float) -> Any:
    def past(age: float) -> float:
        return now - max(age, 0.0)

    def past_or_future(age: float) -> float:
        return now - age

    to_time = past
    if word == "silence":
        to_time = past_or_future  # only its end may be to come
    try:
        return codec.read(_KINDS[word], text, to_time)
    except ValueError as error:
        raise ProtocolError(names.printable(f"{word}: {error}")) from None
