"""The protocol: one table drives writer and reader; the manual page's transcripts are read; garbage is a ProtocolError."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmonitor import protocol
from dmonitor.model import Answer, Incident, Judgement, Node, Outcome, Presence, Result, Silence, Statement, Test, Verdict
from dmonitor.protocol import Greet, Greeting, Inquire, Lines, ListTests, ProtocolError, Question, Quit, Refusal, Reply

SSH = Test("www.example.com", "ssh")
MANUAL = Path(__file__).parents[1] / "man" / "dmonitor-protocol.7"

GREETINGS = [(Greeting("oslo.example.com", "0123456789ab"), b"dmonitor 1 name=oslo.example.com id=0123456789ab\n")]
REQUESTS = [
    (Question(SSH), b"test www.example.com/ssh\n"),
    (Quit(), b"quit\n"),
    (Greet(), b"greet\n"),
    (ListTests(), b"tests\n"),
    (Inquire("0123456789ab"), b"incident 0123456789ab\n"),
    (Question(Test("2001:db8::1", "http:80")), b"test 2001:db8::1/http:80\n"),
]
REPLIES = [
    (
        Reply(SSH, Result(Outcome.OK, "SSH-2.0", 0.25), 1.5),
        b"answer www.example.com/ssh OK age=1.5 duration=0.250 text=SSH-2.0\n",
    ),
    (
        Reply(SSH, Result(Outcome.FAIL, "a = b  c", 0.0)),
        b"answer www.example.com/ssh FAIL age=0.0 duration=0.000 text=a = b  c\n",
    ),
    (Reply(SSH, Result(Outcome.TIMEOUT)), b"answer www.example.com/ssh TIMEOUT age=0.0 duration=0.000\n"),
    (Reply(SSH, Result(Outcome.OK, "100% ü")), b"answer www.example.com/ssh OK age=0.0 duration=0.000 text=100%25 %C3%BC\n"),
    (
        Reply(SSH, Result(Outcome.UNKNOWN), reason="not-configured"),
        b"answer www.example.com/ssh UNKNOWN reason=not-configured age=0.0 duration=0.000\n",
    ),
    (Refusal("malformed", "what?"), b"error malformed text=what?\n"),
    (Refusal("malformed"), b"error malformed\n"),
]
TABLE = [
    *((protocol.read_greeting, *row) for row in GREETINGS),
    *((protocol.read_request, *row) for row in REQUESTS),
    *((protocol.read_reply, *row) for row in REPLIES),
]


@pytest.mark.parametrize(("read", "message", "line"), TABLE)
def test_both_ways(read, message, line: bytes) -> None:  # type: ignore[no-untyped-def]
    assert protocol.write(message) == line
    assert read(line.rstrip(b"\n")) == message


@pytest.mark.parametrize(("read", "message", "line"), TABLE)
def test_whole_by_the_byte_and_with_more_behind(read, message, line: bytes) -> None:  # type: ignore[no-untyped-def]
    for data in (line, line.replace(b"\n", b"\r\n"), line + line[:-1]):
        assert [read(got) for got in Lines(4000).feed(data)] == [message]
    lines = Lines(4000)
    got = [found for at in range(len(line)) for found in lines.feed(line[at : at + 1])]
    assert [read(found) for found in got] == [message]


def test_what_a_later_version_adds_does_no_harm() -> None:
    assert protocol.read_greeting(b"dmonitor 1 name=oslo id=0123456789ab nonce=xyz interval=1") == Greeting(
        "oslo", "0123456789ab"
    )
    assert protocol.read_request(b"test www.example.com/ssh mac=00ff") == Question(SSH)
    assert protocol.read_reply(b"answer www.example.com/ssh OK mac=1 age=0.0") == Reply(SSH, Result(Outcome.OK))


def test_the_spelling_of_the_original_is_read() -> None:
    reply = protocol.read_reply(b"answer www.example.com/ssh TIMEMOUT")
    assert isinstance(reply, Reply)
    assert reply.result.outcome is Outcome.TIMEOUT


@pytest.mark.parametrize(
    "line",
    [
        b"", b"hello", b"test", b"test x", b"test www/ssh extra", b"test ../../etc/passwd", b"test node/oslo", b"test a/b/c", b"TEST a/b",
        b"test -o/x", b"test a/\xff", b"test a/b\x00", b"test a/b x=1 c", b"test a/b x=1 x=2", b"test a/b =1", b"quit now",
        b"greet me", b"tests a/b", b"incident", b"incident a/b", b"incident SHOUTED123", b"incident 0123456789ab 0123456789ab",
    ],
)  # fmt: skip
def test_no_question(line: bytes) -> None:
    with pytest.raises(ProtocolError) as error:
        protocol.read_request(line)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "line",
    [
        b"", b"dmonitor", b"dmonitor 2 name=a id=0123456789ab", b"dmonitor 1", b"dmonitor 1 name=a", b"dmonitor 1 name=-a id=0123456789ab",
        b"dmonitor 1 name=a id=x", b"SSH-2.0-OpenSSH_9.2", b"220 mail ESMTP", b"HTTP/1.1 400 Bad Request",
    ],
)  # fmt: skip
def test_no_greeting(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.read_greeting(line)


@pytest.mark.parametrize(
    "line",
    [
        b"", b"answer", b"answer a/b", b"answer a/b GOOD", b"answer a/b ok", b"answer a/b OK age=-1", b"answer a/b OK age=nan",
        b"answer a/b OK age=1e999", b"answer a/b OK age=", b"answer a/b OK duration=99999999999", b"answer a/b OK reason=A", b"error",
        b"error BAD", b"answer node/b OK",
    ],
)  # fmt: skip
def test_no_reply(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.read_reply(line)


def test_a_line_that_is_too_long() -> None:
    assert Lines(10).feed(b"12345678\n\n") == [b"12345678", b""]
    for data in (b"1234567890", b"1234567890\n", b"x\n1234567890"):
        with pytest.raises(ProtocolError):
            Lines(10).feed(data)
    lines = Lines(10)
    lines.feed(b"12345")
    with pytest.raises(ProtocolError):
        lines.feed(b"67890")


READERS = [protocol.read_greeting, protocol.read_request, protocol.read_reply]


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    for read in READERS:
        try:
            read(data)
        except ProtocolError as error:
            assert str(error).isprintable()


@given(st.lists(st.sampled_from([b"answer", b"test", b"error", b"dmonitor", b"1", b"a/b", b"OK", b"text=", b"=", b"age=", b"%", b"%zz", b"%FF", b"name=a", b"id=0123456789", b" "])))  # fmt: skip
def test_random_words_raise_nothing_else(words: list[bytes]) -> None:
    for read in READERS:
        try:
            read(b" ".join(words))
        except ProtocolError as error:
            assert str(error).isprintable()


@given(st.text(max_size=100))
def test_every_text_survives_the_wire(text: str) -> None:
    from dmonitor.names import printable

    line = protocol.write(Reply(SSH, Result(Outcome.OK, text)))
    assert line.isascii() and line.count(b"\n") == 1
    reply = protocol.read_reply(line[:-1])
    assert isinstance(reply, Reply)
    assert reply.result.text == printable(text.encode("utf-8", "replace").decode("utf-8", "replace"))


def transcripts() -> list[tuple[str, list[str]]]:
    """Return name and lines of each transcript in the manual page."""
    found = re.findall(r'^\.\\" transcript: (\S+)\n(.*?)^\.Ed', MANUAL.read_text(), re.MULTILINE | re.DOTALL)
    return [(name, [line for line in body.splitlines() if line[:2] in ("> ", "< ")]) for name, body in found]


def test_the_manual_has_transcripts() -> None:
    assert len(transcripts()) >= 6


@pytest.mark.parametrize(("name", "lines"), transcripts())
def test_transcripts_of_the_manual(name: str, lines: list[str]) -> None:
    """Each reply of several lines answers the first request that still awaits one."""
    errors, awaited, reply = 0, [], []
    greeted = name == "stranger"
    for mark, line in ((line[0], line[2:].encode()) for line in lines):
        if mark == ">":
            try:
                request = protocol.read_request(line)
            except ProtocolError:
                errors -= 1
            else:
                awaited += [request] if isinstance(request, Greet | ListTests | Inquire) else []
        elif not greeted:
            greeted = bool(protocol.read_greeting(line))
        elif line == b"end":
            read_lines(awaited.pop(0), reply)
            reply = []
        elif line.startswith((b"answer ", b"error ")):
            errors += isinstance(protocol.read_reply(line), Refusal)
        else:
            reply.append(line)
    assert greeted and not awaited and not reply
    assert errors == 0, "each line that is no question gets an error, and no other"


# Replies of several lines.

WHO = Greeting("oslo", "0123456789ab")
NOW = 1_800_000_000.0


def read_lines(request: protocol.Request, lines: list[bytes], now: float = NOW) -> Any:
    match request:
        case Greet():
            return protocol.read_statement(lines, WHO, now)
        case ListTests():
            return protocol.read_tests(lines)
    return protocol.read_incident(lines, now)


def cut(data: bytes) -> list[bytes]:
    """Return the lines before `end`, as a caller reads them."""
    *lines, end = Lines(protocol.ANSWER_LIMIT).feed(data)
    assert end == b"end"
    return lines


def words(first: str, rest: str, longest: int) -> st.SearchStrategy[str]:
    return st.builds(str.__add__, st.sampled_from(first), st.text(rest, max_size=longest - 1))


HOSTS = words("aZ9", "aZ9._:-", 253).filter(lambda name: name != "node")
NODES = HOSTS | st.just("node") | st.just("::1")
SITES = words("aZ9", "aZ9_.-", 64)
IDS = st.text("az09", min_size=8, max_size=64)
TESTS = st.builds(Test, HOSTS, words("aZ9", "aZ9_.-", 64))
AGES = st.integers(0, 9_999_999_990).map(lambda tenths: tenths / 10)
TIMES = AGES.map(lambda age: NOW - age)
COUNTS = st.integers(0, 999_999_999)
TEXTS = st.text("aé😀% =,:", max_size=240)
PRESENCES = st.builds(
    Presence, NODES, IDS, TIMES, st.integers(1, 1440), TIMES | st.just(float("-inf")), st.booleans(), st.booleans(), COUNTS,
    st.just("") | st.text("0123456789abcdef", min_size=16, max_size=16),
)  # fmt: skip
INCIDENTS = st.builds(
    Incident,
    st.lists(IDS, min_size=1, max_size=protocol.IDS_LIMIT, unique=True).map(lambda ids: tuple(sorted(ids))),
    TESTS | st.builds(Test, st.just("node"), NODES),
    TIMES,
    failed=st.lists(st.tuples(SITES | NODES, TIMES), max_size=3, unique_by=lambda vote: vote[0]).map(
        lambda votes: tuple(sorted(votes))
    ),
    closed=st.none() | TIMES,
    flapping=COUNTS,
    alert=st.just("") | NODES,
    recovery=st.just("") | NODES,
    reminded=COUNTS,
    void=st.booleans(),
)
RESULTS = st.builds(Result, st.sampled_from(Outcome), TEXTS, st.integers(0, 99_999).map(lambda thousandths: thousandths / 1000))
ANSWERS = st.builds(Answer, st.builds(Node, NODES, st.just("") | SITES | NODES), st.just("") | IDS, RESULTS, AGES) | st.builds(
    Answer, st.builds(Node, NODES, SITES), st.just("") | IDS, st.none(), AGES, TEXTS
)
OPENINGS = st.builds(Judgement, st.just(Verdict.DOWN), st.integers(1, 99), st.lists(ANSWERS, max_size=5).map(tuple))
SILENCES = st.builds(
    Silence, HOSTS, words("aZ9", "aZ9_.-", 64) | st.just(""), st.none() | AGES.map(lambda age: NOW + age)
) | st.builds(Silence, st.just("node"), NODES | st.just(""), st.none())


def rounded(value: Any) -> Any:
    """Round every number in VALUE to what the wire carries."""
    if isinstance(value, float):
        return round(value, 1) if abs(value) > 1e6 else round(value, 3)
    if isinstance(value, tuple):
        return tuple(map(rounded, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: rounded(getattr(value, field.name)) for field in dataclasses.fields(value)})
    return value


@given(
    PRESENCES,
    st.lists(PRESENCES, max_size=3),
    st.lists(SILENCES, max_size=3),
    st.lists(INCIDENTS, max_size=3),
    st.integers(-9, 9),
)
def test_a_statement_survives_the_wire_and_another_clock(
    own: Presence, heard: list[Presence], silences: list[Silence], incidents: list[Incident], ahead: int
) -> None:
    own = dataclasses.replace(own, name=WHO.name, node_id=WHO.node_id, at=NOW)
    statement = Statement(own, tuple(heard), tuple(silences), tuple(incidents))
    lines = cut(protocol.write_statement(statement, NOW))
    assert rounded(read_lines(Greet(), lines)) == rounded(statement)
    later = read_lines(Greet(), lines, NOW + ahead)
    assert later.presence.at == NOW + ahead
    assert all(abs(mine.began + ahead - its.began) < 0.1 for mine, its in zip(incidents, later.incidents, strict=True))


@given(st.frozensets(TESTS))
def test_tests_survive_the_wire(tests: frozenset[Test]) -> None:
    assert read_lines(ListTests(), cut(protocol.write_tests(tests))) == tests


@given(INCIDENTS, st.none() | OPENINGS)
def test_an_incident_survives_the_wire(incident: Incident, opening: Judgement | None) -> None:
    incident = dataclasses.replace(incident, opening=opening)
    assert rounded(read_lines(Inquire(""), cut(protocol.write_incident(incident, NOW)))) == rounded(incident)


def test_an_incident_that_is_not_known() -> None:
    assert protocol.write_incident(None, NOW) == b"end\n"
    assert protocol.read_incident([], NOW) is None


def test_how_a_statement_looks() -> None:
    own = Presence("oslo", "0123456789ab", NOW, 1, NOW - 23.4, True, tests=protocol.digest([SSH]))
    other = Presence("paris", "ba9876543210", NOW - 2, 5, stores=False, refused=3)
    known = Incident(
        ("0a0a0a0a", "1b1b1b1b"), SSH, NOW - 60, failed=(("osl", NOW - 1), ("par", NOW - 2)), alert="oslo", reminded=2
    )
    closed = Incident(("2c2c2c2c",), Test("node", "rome"), NOW - 90, closed=NOW - 30, flapping=7, void=True)
    silences = (Silence("www.example.com"), Silence("db", "ssh", NOW + 7200))
    assert protocol.write_statement(Statement(own, (other,), silences, (known, closed)), NOW).decode() == (
        "standing interval=1 round=23.4 address=yes stores=yes refused=0 tests=9bba9fa956984c9e\n"
        "heard paris id=ba9876543210 age=2.0 interval=5 address=no stores=no refused=3\n"
        "silence www.example.com\n"
        "silence db/ssh left=7200.0\n"
        "incident www.example.com/ssh ids=0a0a0a0a,1b1b1b1b began=60.0 alert=oslo reminded=2 failed=osl:1.0,par:2.0\n"
        "incident node/rome ids=2c2c2c2c began=90.0 closed=30.0 flapping=7 void=yes\n"
        "end\n"
    )


def test_the_longest_incident_fits_a_line() -> None:
    """Of the ids the smallest are kept, and of the sites those that failed last."""
    name = "a" * 253
    incident = Incident(
        tuple(sorted(f"{number:064}" for number in range(100))),
        Test(name, "b" * 64 + ":" + "c" * 64),
        0.0,
        Judgement(Verdict.DOWN, 999, (Answer(Node(name, name), "d" * 64, Result(Outcome.FAIL, "😀" * 300)),)),
        tuple((f"{number:064}", NOW - number) for number in range(99)),
        1.0,
        flapping=999_999_999,
        alert=name,
        recovery=name,
        reminded=999_999_999,
        void=True,
    )
    read = read_lines(Inquire(""), cut(protocol.write_incident(incident, NOW)))
    assert read.ids == incident.ids[: protocol.IDS_LIMIT]
    assert len(read.failed) > 8 and read.failed == incident.failed[: len(read.failed)]
    assert read.opening and read.opening.answers[0].text == "😀" * 240 + "…"


def test_times_from_the_future_and_from_before_the_clock_was_set() -> None:
    for began, age in ((NOW + 100, 0.0), (0.0, 999_999_999.0)):
        read = read_lines(Inquire(""), cut(protocol.write_incident(Incident(("0a0a0a0a",), SSH, began), NOW)))
        assert read.began == NOW - age


def test_ids_up_to_a_limit() -> None:
    ids = [f"{number:08}" for number in range(65)]
    for count in (64, 65):
        line = f"incident a/b ids={','.join(reversed(ids[:count]))} began=1"
        if count == 64:
            assert read_lines(Inquire(""), [line.encode()]).ids == tuple(ids[:64])
        else:
            with pytest.raises(ProtocolError):
                read_lines(Inquire(""), [line.encode()])


def test_what_a_later_version_states_does_no_harm() -> None:
    lines = [b"", b"standing mood=good text=fine", b"mood good", b"heard paris id=ba9876543210 colour=red", b"vote x"]
    assert read_lines(Greet(), lines) == Statement(
        Presence("oslo", "0123456789ab", NOW), (Presence("paris", "ba9876543210", NOW),)
    )
    assert read_lines(ListTests(), [b"has a/b since=3", b"lacks a/c"]) == {Test("a", "b")}
    assert read_lines(Inquire(""), [b"hint x", b"incident a/b ids=0a0a0a0a began=1 x=y"]) == Incident(
        ("0a0a0a0a",), Test("a", "b"), NOW - 1
    )


STANDING = b"standing"
BAD_LINES = [
    *((Greet(), [STANDING, line]) for line in (
        b"standing now", b"standing interval=x", b"standing round=-1", b"standing address=maybe", b"standing stores=", b"standing refused=all",
        b"standing tests=xyz", b"standing tests=0123456789ABCDEF", b"standing\x00", b"standing interval=1 interval=2", b"a=1 b",
        b"heard", b"heard paris", b"heard paris id=x", b"heard -a id=0123456789ab", b"heard paris id=0123456789ab age=1e5",
        b"silence", b"silence -a", b"silence a/", b"silence a/b/c", b"silence a b", b"silence a left=soon", b"silence ../x", b"silence node/-x",
        b"incident", b"incident a/b", b"incident a/b ids=0a0a0a0a", b"incident a/b began=1", b"incident a/b ids= began=1",
        b"incident a/b ids=0a0a0a0a,X began=1", b"incident a/b ids=0a0a0a0a began=x", b"incident -a/b ids=0a0a0a0a began=1",
        b"incident node/-x ids=0a0a0a0a began=1", b"incident node/ ids=0a0a0a0a began=1", b"incident a/b c ids=0a0a0a0a began=1",
        b"incident a/b ids=0a0a0a0a began=1 closed=", b"incident a/b ids=0a0a0a0a began=1 alert=-x", b"incident a/b ids=0a0a0a0a began=1 recovery=",
        b"incident a/b ids=0a0a0a0a began=1 void=no", b"incident a/b ids=0a0a0a0a began=1 failed=", b"incident a/b ids=0a0a0a0a began=1 failed=osl",
        b"incident a/b ids=0a0a0a0a began=1 failed=osl:1,", b"incident a/b ids=0a0a0a0a began=1 failed=-x:1",
        b"incident a/b ids=0a0a0a0a began=1 flapping=x", b"incident a/b ids=0a0a0a0a began=1 reminded=x",
    )),
    (Greet(), []), (Greet(), [b"heard paris id=0123456789ab"]),
    *((ListTests(), [line]) for line in (b"has", b"has a", b"has a/b c", b"has node/oslo", b"has -a/b", b"has a/b\xff")),
    *((Inquire(""), [b"incident a/b ids=0a0a0a0a began=1 quorum=2", line]) for line in (
        b"vote", b"vote paris", b"vote paris sees=GOOD", b"vote -x sees=OK", b"vote paris rome sees=OK", b"vote paris sees=OK age=x",
        b"vote paris sees=OK id=x", b"vote paris sees=OK site=", b"vote paris sees=OK site=-x", b"vote paris sees=OK duration=x",
        b"incident a/b", b"incident", b"incident a/b ids=0a0a0a0a began=1 quorum=x",
    )),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "lines"), BAD_LINES)
def test_no_reply_of_several_lines(request_: protocol.Request, lines: list[bytes]) -> None:
    with pytest.raises(ProtocolError) as error:
        read_lines(request_, lines)
    assert str(error.value).isprintable()


WORDS = b"standing heard silence incident vote has a/b paris node/x ids=0a0a0a0a began=1 failed=a:1 id=0123456789 sees=OK quorum=2 text= = % x=1"


@given(st.lists(st.lists(st.sampled_from(WORDS.split())).map(b" ".join) | st.binary(max_size=50), max_size=4))
def test_random_replies_raise_nothing_else(lines: list[bytes]) -> None:
    for request in (Greet(), ListTests(), Inquire("")):
        try:
            read_lines(request, lines)
        except ProtocolError as error:
            assert str(error).isprintable()


def test_a_digest_is_of_the_set() -> None:
    tests = [SSH, Test("a", "b"), Test("a", "c")]
    assert protocol.digest(tests) == protocol.digest(reversed(tests)) != protocol.digest(tests[:2])
    assert re.fullmatch("[0-9a-f]{16}", protocol.digest([]))
