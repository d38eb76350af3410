"""The lines that nodes exchange on port 2929: bytes to values and values to bytes.

Pure: no socket, no clock. dmonitor-protocol(7) is the norm; its transcripts are this module's tests.
Whatever arrives, nothing but ProtocolError is raised.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from dmonitor.base import names
from dmonitor.core import codec
from dmonitor.core.model import (
    Incident,
    NodeStatus,
    Outcome,
    Result,
    Silence,
    Statement,
    Test,
    node_test,
)

VERSION = 1
QUESTION_LIMIT = 1_000  # bytes of a line that a daemon reads
ANSWER_LIMIT = 100_000  # bytes of a line that a caller reads
IDS_LIMIT = 32  # ids of an incident that are written; twice as many are read
SEAL_SIZE = len(" mac=") + 64  # bytes that a seal adds to a line
SITES_LIMIT = 100  # sites that failed of which is written; twice as many are read
_READ_LIMITS = {"heard": 1_000, "silence": 5_000}  # lines of a statement
BUSY = "busy"
NOT_CONFIGURED = "not-configured"

_OUTCOMES = {outcome.value: outcome for outcome in Outcome} | {
    "TIMEMOUT": Outcome.TIMEOUT
}  # the original's spelling
_PLAIN = rb"[^!-$&-~]"  # what must be escaped: everything but printable ASCII, and '%' itself
_PLAIN_TEXT = rb"[^ -$&-~]"


class ProtocolError(Exception):
    """A line that is not of the protocol; its text says why, and is safe to show."""


class Greeting(NamedTuple):
    """Who answers here: the daemon's first line, or, with a key, its first that is sealed.

    `incarnation` is a word made at its start, by which two with one id are told apart.
    """

    name: str
    node_id: str
    incarnation: str = ""


class Challenge(NamedTuple):
    """The first line of a daemon that has a key, and says no more to who has not: a word that it says only once."""

    nonce: str


class Question(NamedTuple):
    """What do you see for this test?"""

    test: Test


class Request(NamedTuple):
    """`greet`: what do you state of yourself and of what you know? `tests`: which do you have?

    `incident`: what do you know of the one with this ID, and who saw what when it opened? `quit`: the caller is done.
    """

    word: str
    id: str = ""


class Reply(NamedTuple):
    """What the daemon sees; `age` in seconds since the run ended.

    `reason` says why a result is UNKNOWN without a run: `not-configured` or `busy`.
    """

    test: Test
    result: Result
    age: float = 0.0
    reason: str = ""


class Refusal(NamedTuple):
    """The daemon's word that it could make nothing of a line."""

    reason: str
    text: str = ""


class Lines:
    """Cut a stream of bytes into lines without their end; no line is longer than `limit` bytes with it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that DATA completes; raise ProtocolError once one grows over the limit."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if any(len(line) >= self._limit for line in (*lines, self._rest)):
            raise ProtocolError(f"a line of over {self._limit} bytes")
        return [line.removesuffix(b"\r") for line in lines]


def write(message: Greeting | Challenge | Question | Request | Reply | Refusal) -> bytes:
    """Return the line, with its end, that says MESSAGE."""
    match message:
        case Greeting():
            words = [
                "dmonitor",
                str(VERSION),
                _fact("name", message.name),
                _fact("id", message.node_id),
            ]
            words += [_fact("run", message.incarnation)] if message.incarnation else []
        case Challenge():
            words = ["dmonitor", str(VERSION), _fact("nonce", message.nonce)]
        case Question():
            words = ["test", str(message.test)]
        case Request():
            words = [message.word, message.id] if message.id else [message.word]
        case Reply():
            words = ["answer", str(message.test), message.result.outcome.value]
            words += [_fact("reason", message.reason)] if message.reason else []
            words += [f"age={message.age:.1f}", f"duration={message.result.duration:.3f}"]
            words += _text(message.result.text)
        case Refusal():
            words = ["error", message.reason, *_text(message.text)]
    return " ".join(words).encode("ascii") + b"\n"


def read_request(line: bytes) -> Question | Request:
    """Return what a caller's LINE asks."""
    words, _ = _split(line)
    match words:
        case ["test", name]:
            return Question(_test(name))
        case ["incident", incident_id] if names.is_node_id(incident_id):
            return Request("incident", incident_id)
        case ["quit" | "greet" | "tests" as word]:
            return Request(word)
        case ["quit" | "greet" | "tests" as word, *_]:
            raise ProtocolError(f"{word} stands alone")
        case ["incident", *_]:
            raise ProtocolError("a question for an incident reads: incident ID")
        case ["test", *_]:
            raise ProtocolError("a question reads: test HOST/NAME")
        case [word, *_]:
            raise ProtocolError(
                f"unknown word {names.printable(word, 32)}; a question reads: test HOST/NAME"
            )
    raise ProtocolError("an empty line; a question reads: test HOST/NAME")


def read_greeting(line: bytes) -> Greeting | Challenge | Refusal:
    """Return who greets, what is to be met first, or why nobody does; a version other than ours is an error that says so."""
    words, facts = _split(line)
    match words:
        case ["error", reason] if names.is_word(reason):
            return Refusal(reason, names.printable(facts.get("text", "")))
        case ["dmonitor", version]:
            if version != str(VERSION):
                raise ProtocolError(
                    f"protocol version {names.printable(version, 16)}, and we speak {VERSION}"
                )
        case _:
            raise ProtocolError("no dmonitor greeting")
    if names.is_nonce(facts.get("nonce", "")):
        return Challenge(facts["nonce"])
    name, node_id, run = (facts.get(key, "") for key in ("name", "id", "run"))
    if (
        not names.is_node(name)
        or not names.is_node_id(node_id)
        or (run and not names.is_node_id(run))
    ):
        raise ProtocolError("a greeting without a proper name and id")
    return Greeting(name, node_id, run)


def read_reply(line: bytes) -> Reply | Refusal:
    """Return what a daemon answers."""
    words, facts = _split(line)
    text = names.printable(facts.get("text", ""))
    match words:
        case ["answer", name, outcome]:
            if outcome not in _OUTCOMES:
                raise ProtocolError(f"unknown result {names.printable(outcome, 32)}")
            result = Result(_OUTCOMES[outcome], text, _number(facts, "duration"))
            reason = facts.get("reason", "")
            if reason and not names.is_word(reason):
                raise ProtocolError("a reason that is no word")
            return Reply(_test(name), result, _number(facts, "age"), reason)
        case ["error", reason] if names.is_word(reason):
            return Refusal(reason, text)
    raise ProtocolError("neither an answer nor an error")


# Replies of several lines, most of them a word and a value as JSON (`values`). The values have times on the clock of NOW, the
# wire has ages.

_SAID = {"standing": NodeStatus, "heard": NodeStatus, "silence": Silence, "incident": Incident}


def write_statement(statement: Statement, now: float) -> bytes:
    """Return the reply to `greet`; the node's tests are not in it, and no evidence."""
    heard = (_say("heard", other, now) for other in statement.heard)
    silences = (_say("silence", silence, now) for silence in statement.silences)
    incidents = (_say("incident", _stated(incident), now) for incident in statement.incidents)
    return _lines(_say("standing", statement.status, now), *heard, *silences, *incidents)


def read_statement(lines: Iterable[bytes], who: Greeting, now: float) -> Statement:
    """Return what the LINES before `end` state, of WHO and by WHO."""
    said = _read(lines, now)
    if not said["standing"]:
        raise ProtocolError("a statement without a standing")
    status = said["standing"][-1]._replace(node_id=who.node_id, at=now)
    return Statement(status, tuple(said["heard"]), tuple(said["silence"]), tuple(said["incident"]))


def write_tests(tests: Iterable[Test]) -> bytes:
    """Return the reply to `tests`."""
    return _lines(*(f"has {test}" for test in sorted(tests)))


def read_tests(lines: Iterable[bytes]) -> frozenset[Test]:
    """Return the tests that the LINES before `end` list."""
    tests = frozenset(
        _test(" ".join(words[1:])) for words, _ in map(_split, lines) if words[:1] == ["has"]
    )
    if any(test.host == names.NODE for test in tests):
        raise ProtocolError("a list with a node in it")
    return tests


def write_incident(incident: Incident | None, now: float) -> bytes:
    """Return the reply to `incident`, with the votes that opened it; an incident that is not known is None."""
    if incident is None:
        return _lines()
    whole = _say("incident", _stated(incident)._replace(opening=incident.opening), now)
    return _lines(
        whole if len(whole) < ANSWER_LIMIT - SEAL_SIZE else _say("incident", _stated(incident), now)
    )


def read_incident(lines: Iterable[bytes], now: float) -> Incident | None:
    """Return the incident that the LINES before `end` tell of, with its opening if they have one; None if it is not known."""
    incident: Incident | None = next(iter(_read(lines, now)["incident"]), None)
    return incident


def _stated(what: Incident) -> Incident:
    """Return what a statement says of an incident."""
    latest = sorted(what.failed, key=lambda vote: -vote[1])[:SITES_LIMIT]
    ids = tuple(sorted(what.ids)[:IDS_LIMIT])
    return what._replace(
        ids=ids, failed=tuple(sorted(latest)), opening=None, closing=None, held=0.0, removed=False
    )


def _say(word: str, value: object, now: float) -> str:
    return f"{word} {codec.write(_SAID[word], value, lambda at: round(now - at, 3))}"


def _lines(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in (*lines, "end")).encode("ascii")


def _read(lines: Iterable[bytes], now: float) -> dict[str, list[Any]]:
    """Return what LINES say, by their first words; those that nobody knows do no harm. Only a silence is of the future."""
    found: dict[str, list[Any]] = {word: [] for word in _SAID}
    clocks = {"silence": lambda age: now - age}
    for word, _, text in (line.strip().partition(b" ") for line in lines):
        if (key := word.decode("ascii", "replace")) in _SAID:
            try:
                found[key].append(
                    codec.read(_SAID[key], text, clocks.get(key, lambda age: now - max(age, 0.0)))
                )
            except ValueError as error:
                raise ProtocolError(names.printable(f"{key}: {error}")) from None
    if any(
        len(each.ids) > 2 * IDS_LIMIT or len(each.failed) > 2 * SITES_LIMIT
        for each in found["incident"]
    ):
        raise ProtocolError("an incident with too many ids or sites")
    if many := [key for key, limit in _READ_LIMITS.items() if len(found[key]) > limit]:
        raise ProtocolError(f"too many lines: {many[0]}")
    return found


def _split(line: bytes) -> tuple[list[str], dict[str, str]]:
    """Cut a line into its leading words and the facts behind them; a fact nobody knows does no harm."""
    if not all(0x20 <= byte < 0x7F for byte in line):
        raise ProtocolError("bytes that are not printable ASCII")
    head, text_follows, text = (b" " + line).partition(b" text=")
    words: list[str] = []
    facts = {"text": _unescape(text)} if text_follows else {}
    for word in head.split():
        key, is_fact, value = word.partition(b"=")
        if not is_fact:
            if facts.keys() - {"text"}:
                raise ProtocolError("a word behind the facts")
            words.append(word.decode("ascii"))
            continue
        name = key.decode("ascii")
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", name, re.ASCII) or name in facts:
            raise ProtocolError("a fact that is not key=value, or one that comes twice")
        facts[name] = _unescape(value)
    return words, facts


def _unescape(value: bytes) -> str:
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), value).decode(
        "utf-8", "replace"
    )


def _fact(key: str, value: str) -> str:
    return f"{key}=" + _escape(_PLAIN, value)


def _text(text: str) -> list[str]:
    """The last fact of a line: it alone may hold spaces, and it runs to the end of the line."""
    return ["text=" + _escape(_PLAIN_TEXT, text)] if text else []


def _escape(pattern: bytes, value: str) -> str:
    return re.sub(
        pattern, lambda match: b"%%%02X" % match[0][0], value.encode("utf-8", "replace")
    ).decode("ascii")


def _test(name: str) -> Test:
    host, _, test = name.partition("/")
    if not names.is_host(host) or not names.is_test(test):
        if host == names.NODE and names.is_node(test):
            return node_test(test)
        raise ProtocolError("no HOST/NAME that could be a test")
    return Test(host, test)


def _number(facts: dict[str, str], key: str) -> float:
    value = facts.get(key, "0")
    if not re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,6})?", value, re.ASCII):
        raise ProtocolError(f"{key} is not a number")
    return float(value)
