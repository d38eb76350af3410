"""The lines that nodes exchange on port 2929: bytes to values and values to bytes.

Pure: no socket, no clock. dmonitor-protocol(7) is the norm; its transcripts are this module's tests.
Whatever arrives, nothing but ProtocolError is raised.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable

from dmonitor import names
from dmonitor.model import Answer, Incident, Judgement, Node, Outcome, Presence, Result, Silence, Statement, Test, Verdict

VERSION = 1
PORT = 2929
QUESTION_LIMIT = 1_000  # bytes of a line that a daemon reads
ANSWER_LIMIT = 4_000  # bytes of a line that a caller reads
IDS_LIMIT = 32  # ids of an incident that are written; twice as many are read
BUSY = "busy"
NOT_CONFIGURED = "not-configured"

_OUTCOMES = {outcome.value: outcome for outcome in Outcome} | {"TIMEMOUT": Outcome.TIMEOUT}  # the original's spelling
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_PLAIN = re.compile(rb"[^!-$&-~]")  # what must be escaped: everything but printable ASCII, and '%' itself
_PLAIN_TEXT = re.compile(rb"[^ -$&-~]")
_KEY = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?", re.ASCII)
_REASON = re.compile(r"[a-z][a-z-]{0,31}", re.ASCII)
_DIGEST = re.compile(r"(?:[0-9a-f]{16})?", re.ASCII)
_LONGEST = 999_999_999.0  # seconds: what a number holds


class ProtocolError(Exception):
    """A line that is not of the protocol; its text says why, and is safe to show."""


@dataclasses.dataclass(frozen=True, slots=True)
class Greeting:
    """The daemon's first line: who answers here."""

    name: str
    node_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What do you see for this test?"""

    test: Test


@dataclasses.dataclass(frozen=True, slots=True)
class Greet:
    """What do you state of yourself, and of what you know?"""


@dataclasses.dataclass(frozen=True, slots=True)
class ListTests:
    """Which tests do you have?"""


@dataclasses.dataclass(frozen=True, slots=True)
class Inquire:
    """What do you know of the incident with this id, and who saw what when it opened?"""

    id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Quit:
    """The caller is done."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """What the daemon sees; `age` in seconds since the run ended.

    `reason` says why a result is UNKNOWN without a run: `not-configured` or `busy`.
    """

    test: Test
    result: Result
    age: float = 0.0
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """The daemon's word that it could make nothing of a line."""

    reason: str
    text: str = ""


Request = Question | Greet | ListTests | Inquire | Quit


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


def write(message: Greeting | Request | Reply | Refusal) -> bytes:
    """Return the line, with its end, that says MESSAGE."""
    match message:
        case Greeting():
            words = ["dmonitor", str(VERSION), _fact("name", message.name), _fact("id", message.node_id)]
        case Question():
            words = ["test", str(message.test)]
        case Greet():
            words = ["greet"]
        case ListTests():
            words = ["tests"]
        case Inquire():
            words = ["incident", message.id]
        case Quit():
            words = ["quit"]
        case Reply():
            words = ["answer", str(message.test), message.result.outcome.value]
            words += [_fact("reason", message.reason)] if message.reason else []
            words += [f"age={message.age:.1f}", f"duration={message.result.duration:.3f}"]
            words += _text(message.result.text)
        case Refusal():
            words = ["error", message.reason, *_text(message.text)]
    return " ".join(words).encode("ascii") + b"\n"


def read_request(line: bytes) -> Request:
    """Return what a caller's LINE asks."""
    words, _ = _split(line)
    match words:
        case ["quit"]:
            return Quit()
        case ["test", name]:
            return Question(_test(name))
        case ["greet"]:
            return Greet()
        case ["tests"]:
            return ListTests()
        case ["incident", incident_id] if names.is_node_id(incident_id):
            return Inquire(incident_id)
        case ["quit" | "greet" | "tests" as word, *_]:
            raise ProtocolError(f"{word} stands alone")
        case ["incident", *_]:
            raise ProtocolError("a question for an incident reads: incident ID")
        case ["test", *_]:
            raise ProtocolError("a question reads: test HOST/NAME")
        case [word, *_]:
            raise ProtocolError(f"unknown word {names.printable(word, 32)}; a question reads: test HOST/NAME")
    raise ProtocolError("an empty line; a question reads: test HOST/NAME")


def read_greeting(line: bytes) -> Greeting:
    """Return who greets; a version other than ours is an error that says so."""
    words, facts = _split(line)
    match words:
        case ["dmonitor", version]:
            if version != str(VERSION):
                raise ProtocolError(f"protocol version {names.printable(version, 16)}, and we speak {VERSION}")
        case _:
            raise ProtocolError("no dmonitor greeting")
    name, node_id = facts.get("name", ""), facts.get("id", "")
    if not names.is_node(name) or not names.is_node_id(node_id):
        raise ProtocolError("a greeting without a proper name and id")
    return Greeting(name, node_id)


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
            if reason and not _REASON.fullmatch(reason):
                raise ProtocolError("a reason that is no word")
            return Reply(_test(name), result, _number(facts, "age"), reason)
        case ["error", reason] if _REASON.fullmatch(reason):
            return Refusal(reason, text)
    raise ProtocolError("neither an answer nor an error")


# Replies of several lines. The values have times on the clock of NOW, the wire has ages.


def digest(tests: Iterable[Test]) -> str:
    """Return 16 hexadecimal digits that are the same only for the same TESTS, in whatever order."""
    return hashlib.sha256("".join(sorted(f"{test}\n" for test in tests)).encode()).hexdigest()[:16]


def write_statement(statement: Statement, now: float) -> bytes:
    """Return the reply to `greet`; name and id of the node itself, and its tests, are not in it."""
    return _lines(
        ["standing", *_standing(statement.presence, now)],
        *(["heard", p.name, *_facts(id=p.node_id, age=_age(now - p.at)), *_standing(p, now)] for p in statement.heard),
        *(_silence(silence, now) for silence in statement.silences),
        *(_incident(incident, now) for incident in statement.incidents),
    )


def read_statement(lines: Iterable[bytes], who: Greeting, now: float) -> Statement:
    """Return what the LINES before `end` state, of WHO and by WHO."""
    presence = None
    heard, silences, incidents = [], [], []
    for words, facts in map(_split, lines):
        match words:
            case ["standing"]:
                presence = _read_standing(who.name, who.node_id, facts, 0.0, now)
            case ["heard", name]:
                heard.append(_read_standing(name, facts.get("id", ""), facts, _number(facts, "age"), now))
            case ["silence", name]:
                test = _subject(name if "/" in name else name + "/all")
                left = now + _number(facts, "left") if "left" in facts else None
                silences.append(Silence(test.host, test.name if "/" in name else "", left))
            case ["incident", name]:
                incidents.append(_read_incident(name, facts, now))
            case ["standing" | "heard" | "silence" | "incident" as word, *_]:
                raise ProtocolError(f"{word} with a word too few or too many")
    if presence is None:
        raise ProtocolError("a statement without a standing")
    return Statement(presence, tuple(heard), tuple(silences), tuple(incidents))


def write_tests(tests: Iterable[Test]) -> bytes:
    """Return the reply to `tests`."""
    return _lines(*(["has", str(test)] for test in sorted(tests)))


def read_tests(lines: Iterable[bytes]) -> frozenset[Test]:
    """Return the tests that the LINES before `end` list."""
    return frozenset(_test(" ".join(words[1:])) for words, _ in map(_split, lines) if words[:1] == ["has"])


def write_incident(incident: Incident | None, now: float) -> bytes:
    """Return the reply to `incident`, with the votes that opened it; an incident that is not known is None."""
    if incident is None:
        return _lines()
    lines = [_incident(incident, now)]
    for answer in incident.opening.answers if incident.opening else ():
        words = ["vote", answer.node.name, *_facts(site=answer.node.site, id=answer.node_id, sees=answer.seen)]
        words += _facts(age=_age(answer.age), duration=f"{answer.result.duration:.3f}" if answer.result else "")
        lines.append(words + _text(names.printable(answer.text)))
    return _lines(*lines)


def read_incident(lines: Iterable[bytes], now: float) -> Incident | None:
    """Return the incident that the LINES before `end` tell of, with its opening if they have one; None if it is not known."""
    incident, quorum, answers = None, 0, []
    for words, facts in map(_split, lines):
        match words:
            case ["incident", name]:
                incident, quorum = _read_incident(name, facts, now), int(_number(facts, "quorum"))
            case ["vote", name]:
                answers.append(_read_vote(name, facts))
            case ["incident" | "vote" as word, *_]:
                raise ProtocolError(f"{word} with a word too few or too many")
    if incident is None or not quorum:
        return incident
    return dataclasses.replace(incident, opening=Judgement(Verdict.DOWN, quorum, tuple(answers)))


def _silence(silence: Silence, now: float) -> list[str]:
    left = None if silence.until is None else _age(silence.until - now)
    return ["silence", f"{silence.host}/{silence.name}" if silence.name else silence.host, *_facts(left=left)]


def _standing(presence: Presence, now: float) -> list[str]:
    finished = None if presence.finished == float("-inf") else _age(now - presence.finished)
    address, stores = ("yes" if fact else "no" for fact in (presence.speaks, presence.stores))
    standing = _facts(interval=presence.interval, round=finished, address=address, stores=stores)
    return standing + _facts(refused=str(presence.refused), tests=presence.tests)


def _read_standing(name: str, node_id: str, facts: dict[str, str], age: float, now: float) -> Presence:
    if not names.is_node(name) or not names.is_node_id(node_id):
        raise ProtocolError("a standing without a proper name and id")
    flags = {key: facts.get(key, default) for key, default in (("address", "no"), ("stores", "yes"))}
    if not {"yes", "no"}.issuperset(flags.values()) or not _DIGEST.fullmatch(facts.get("tests", "")):
        raise ProtocolError("a standing with an improper address, stores or tests")
    return Presence(
        name,
        node_id,
        at=now - age,
        interval=int(_number(facts, "interval")) or 1,
        finished=now - _number(facts, "round") if "round" in facts else float("-inf"),
        speaks=flags["address"] == "yes",
        stores=flags["stores"] == "yes",
        refused=int(_number(facts, "refused")),
        tests=facts.get("tests", ""),
    )


def _incident(incident: Incident, now: float) -> list[str]:
    closed = None if incident.closed is None else _age(now - incident.closed)
    words = ["incident", str(incident.test), *_facts(ids=",".join(sorted(incident.ids)[:IDS_LIMIT]))]
    words += _facts(began=_age(now - incident.began), closed=closed, flapping=incident.flapping)
    words += _facts(alert=incident.alert, recovery=incident.recovery, reminded=incident.reminded)
    words += _facts(void=incident.void and "yes", quorum=incident.opening.quorum if incident.opening else 0)
    latest = sorted(incident.failed, key=lambda vote: -vote[1])
    failed = ",".join(f"{site}:{_age(now - at)}" for site, at in latest)
    room = ANSWER_LIMIT - len(" ".join([*words, "failed=\n"]))
    if len(failed) > room:
        failed = failed[: room + 1].rpartition(",")[0]
    return words + _facts(failed=failed)


def _read_incident(name: str, facts: dict[str, str], now: float) -> Incident:
    ids = sorted(set(facts.get("ids", "").split(",")))
    if len(ids) > 2 * IDS_LIMIT or not all(map(names.is_node_id, ids)) or "began" not in facts:
        raise ProtocolError("an incident without proper ids and a beginning")
    if facts.get("void", "yes") != "yes" or not all(names.is_node(facts.get(key, "x")) for key in ("alert", "recovery")):
        raise ProtocolError("an incident with an improper alert, recovery or void")
    failed = []
    for vote in facts["failed"].split(",") if "failed" in facts else ():
        site, _, age = vote.rpartition(":")
        failed.append((_site(site), now - _number({"failed": age}, "failed")))
    return Incident(
        tuple(ids),
        _subject(name),
        now - _number(facts, "began"),
        failed=tuple(sorted(failed)),
        closed=now - _number(facts, "closed") if "closed" in facts else None,
        flapping=int(_number(facts, "flapping")),
        alert=facts.get("alert", ""),
        recovery=facts.get("recovery", ""),
        reminded=int(_number(facts, "reminded")),
        void="void" in facts,
    )


def _read_vote(name: str, facts: dict[str, str]) -> Answer:
    node_id, sees, text = facts.get("id", ""), facts.get("sees", ""), names.printable(facts.get("text", ""))
    if not names.is_node(name) or (node_id and not names.is_node_id(node_id)) or sees not in _OUTCOMES.keys() | {"no-answer"}:
        raise ProtocolError("a vote without a proper name, id or result")
    node, age = Node(name, _site(facts["site"]) if "site" in facts else ""), _number(facts, "age")
    if sees == "no-answer":
        return Answer(node, node_id, None, age, text)
    return Answer(node, node_id, Result(_OUTCOMES[sees], text, _number(facts, "duration")), age)


def _lines(*lines: list[str]) -> bytes:
    return "".join(" ".join(words) + "\n" for words in (*lines, ["end"])).encode("ascii")


def _facts(**facts: str | int | None) -> list[str]:
    """Facts with their values; one without is left out, and so is the number 0."""
    return [_fact(key, str(value)) for key, value in facts.items() if value]


def _age(seconds: float) -> str:
    return f"{min(max(seconds, 0.0), _LONGEST):.1f}"


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
        if not _KEY.fullmatch(name) or name in facts:
            raise ProtocolError("a fact that is not key=value, or one that comes twice")
        facts[name] = _unescape(value)
    return words, facts


def _unescape(value: bytes) -> str:
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), value).decode("utf-8", "replace")


def _fact(key: str, value: str) -> str:
    return f"{key}=" + _escape(_PLAIN, value)


def _text(text: str) -> list[str]:
    """The last fact of a line: it alone may hold spaces, and it runs to the end of the line."""
    return ["text=" + _escape(_PLAIN_TEXT, text)] if text else []


def _escape(pattern: re.Pattern[bytes], value: str) -> str:
    return pattern.sub(lambda match: b"%%%02X" % match[0][0], value.encode("utf-8", "replace")).decode("ascii")


def _test(name: str) -> Test:
    host, _, test = name.partition("/")
    if not names.is_host(host) or not names.is_test(test):
        raise ProtocolError("no HOST/NAME that could be a test")
    return Test(host, test)


def _subject(name: str) -> Test:
    """Return what an incident or a silence is about: a test, or a peer as node/NAME."""
    host, _, node = name.partition("/")
    return Test(host, node) if names.is_reserved_host(host) and names.is_node(node) else _test(name)


def _site(name: str) -> str:
    """Return a site's name, which is its node's where nodes.txt names none."""
    if not names.is_site(name) and not names.is_node(name):
        raise ProtocolError("a site with an improper name")
    return name


def _number(facts: dict[str, str], key: str) -> float:
    value = facts.get(key, "0")
    if not _NUMBER.fullmatch(value):
        raise ProtocolError(f"{key} is not a number")
    return float(value)
