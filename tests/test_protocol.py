"""The protocol: one table drives writer and reader; the manual page's transcripts are read; garbage is a ProtocolError."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmonitor.core import digest
from dmonitor.core.hearsay import IDS_LIMIT
from dmonitor.core.model import (
    Answer,
    Incident,
    Judgement,
    Node,
    NodeStatus,
    Outcome,
    Result,
    Silence,
    Statement,
    Test,
    Verdict,
)
from dmonitor.net import protocol
from dmonitor.net.protocol import Greeting, Lines, ProtocolError, Question, Refusal, Reply, Request

SSH = Test("www.example.com", "ssh")
MANUAL = Path(__file__).parents[1] / "man" / "dmonitor-protocol.7"

Message = Greeting | Question | Request | Reply | Refusal
Read = Callable[[bytes], object]
GREETINGS: list[tuple[Message, bytes]] = [
    (
        Greeting("oslo.example.com", "0123456789ab"),
        b"dmonitor 1 name=oslo.example.com id=0123456789ab\n",
    ),
    (
        Greeting("oslo", "0123456789ab", "fedcba98"),
        b"dmonitor 1 name=oslo id=0123456789ab run=fedcba98\n",
    ),
]
REQUESTS: list[tuple[Message, bytes]] = [
    (Question(SSH), b"test www.example.com/ssh\n"),
    (Request("quit"), b"quit\n"),
    (Request("greet"), b"greet\n"),
    (Request("tests"), b"tests\n"),
    (Request("incident", "0123456789ab"), b"incident 0123456789ab\n"),
    (Question(Test("2001:db8::1", "http:80")), b"test 2001:db8::1/http:80\n"),
]
REPLIES: list[tuple[Message, bytes]] = [
    (
        Reply(SSH, Result(Outcome.OK, "SSH-2.0", 0.25), 1.5),
        b"answer www.example.com/ssh OK age=1.5 duration=0.250 text=SSH-2.0\n",
    ),
    (
        Reply(SSH, Result(Outcome.FAIL, "a = b  c", 0.0)),
        b"answer www.example.com/ssh FAIL age=0.0 duration=0.000 text=a = b  c\n",
    ),
    (
        Reply(SSH, Result(Outcome.TIMEOUT)),
        b"answer www.example.com/ssh TIMEOUT age=0.0 duration=0.000\n",
    ),
    (
        Reply(SSH, Result(Outcome.OK, "100% ü")),
        b"answer www.example.com/ssh OK age=0.0 duration=0.000 text=100%25 %C3%BC\n",
    ),
    (
        Reply(SSH, Result(Outcome.UNKNOWN), reason="not-configured"),
        b"answer www.example.com/ssh UNKNOWN reason=not-configured age=0.0 duration=0.000\n",
    ),
    (Refusal("malformed", "what?"), b"error malformed text=what?\n"),
    (Refusal("malformed"), b"error malformed\n"),
]
TABLE: list[tuple[Read, Message, bytes]] = [
    *((protocol.read_greeting, *row) for row in GREETINGS),
    *((protocol.read_request, *row) for row in REQUESTS),
    *((protocol.read_reply, *row) for row in REPLIES),
]


@pytest.mark.parametrize(("read", "message", "line"), TABLE)
def test_both_ways(read: Read, message: Message, line: bytes) -> None:
    assert protocol.write(message) == line
    assert read(line.rstrip(b"\n")) == message


@pytest.mark.parametrize(("read", "message", "line"), TABLE)
def test_whole_by_the_byte_and_with_more_behind(read: Read, message: Message, line: bytes) -> None:
    for data in (line, line.replace(b"\n", b"\r\n"), line + line[:-1]):
        assert [read(got) for got in Lines(4000).feed(data)] == [message]
    lines = Lines(4000)
    got = [found for at in range(len(line)) for found in lines.feed(line[at : at + 1])]
    assert [read(found) for found in got] == [message]


def test_what_a_later_version_adds_does_no_harm() -> None:
    assert protocol.read_greeting(
        b"dmonitor 1 name=oslo id=0123456789ab nonce=xyz interval=1"
    ) == Greeting("oslo", "0123456789ab")
    assert protocol.read_request(b"test www.example.com/ssh mac=00ff") == Question(SSH)
    assert protocol.read_reply(b"answer www.example.com/ssh OK mac=1 age=0.0") == Reply(
        SSH, Result(Outcome.OK)
    )


def test_the_spelling_of_the_original_is_read() -> None:
    reply = protocol.read_reply(b"answer www.example.com/ssh TIMEMOUT")
    assert isinstance(reply, Reply)
    assert reply.result.outcome is Outcome.TIMEOUT


@pytest.mark.parametrize(
    "line",
    [
        b"", b"hello", b"test", b"test x", b"test www/ssh extra", b"test ../../etc/passwd", b"test node/-x", b"test node/", b"test a/b/c", b"TEST a/b",
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
        b"error BAD", b"answer node/b_c/d OK",
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
    from dmonitor.base.names import printable

    line = protocol.write(Reply(SSH, Result(Outcome.OK, text)))
    assert line.isascii() and line.count(b"\n") == 1
    reply = protocol.read_reply(line[:-1])
    assert isinstance(reply, Reply)
    assert reply.result.text == printable(
        text.encode("utf-8", "replace").decode("utf-8", "replace")
    )


def transcripts() -> list[tuple[str, list[str]]]:
    """Return name and lines of each transcript in the manual page."""
    found = re.findall(
        r'^\.\\" transcript: (\S+)\n(.*?)^\.Ed', MANUAL.read_text(), re.MULTILINE | re.DOTALL
    )
    return [
        (name, [line for line in body.splitlines() if line[:2] in ("> ", "< ")])
        for name, body in found
    ]


def test_the_manual_has_transcripts() -> None:
    assert len(transcripts()) >= 6


@pytest.mark.parametrize(("name", "lines"), transcripts())
def test_transcripts_of_the_manual(name: str, lines: list[str]) -> None:
    """Each reply of several lines answers the first request that still awaits one."""
    errors = 0
    awaited: list[Request] = []
    reply: list[bytes] = []
    greeted = name == "stranger"
    for mark, line in ((line[0], line[2:].encode()) for line in lines):
        if mark == ">":
            try:
                request = protocol.read_request(line)
            except ProtocolError:
                errors -= 1
            else:
                awaited += (
                    [request] if isinstance(request, Request) and request.word != "quit" else []
                )
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
        case Request("greet"):
            return protocol.read_statement(lines, WHO, now)
        case Request("tests"):
            return protocol.read_tests(lines)
    return protocol.read_incident(lines, now)


def cut(data: bytes) -> list[bytes]:
    """Return the lines before `end`, as a caller reads them."""
    *lines, end = Lines(protocol.ANSWER_BYTES).feed(data)
    assert end == b"end"
    return lines


def words(first: str, rest: str, longest: int) -> st.SearchStrategy[str]:
    return st.builds(str.__add__, st.sampled_from(first), st.text(rest, max_size=longest - 1))


def builds(kind: Callable[..., Any], *values: Any, **named: Any) -> st.SearchStrategy[Any]:
    """Build a `kind` of the given values only; by its types hypothesis would make up the others."""
    return st.builds(lambda *some, **more: kind(*some, **more), *values, **named)


HOSTS = words("aZ9", "aZ9._:-", 253).filter(lambda name: name != "node")
NODES = HOSTS | st.just("node") | st.just("::1")
SITES = words("aZ9", "aZ9_.-", 64)
IDS = st.text("az09", min_size=8, max_size=32)
TESTS = builds(Test, HOSTS, words("aZ9", "aZ9_.-", 64))
AGES = st.integers(0, 9_999_999_990).map(lambda tenths: tenths / 10)
TIMES = AGES.map(lambda age: NOW - age)
COUNTS = st.integers(0, 999_999_999)
TEXTS = st.text("aé😀% =,:", max_size=240)
PRESENCES = builds(
    NodeStatus, NODES, IDS, TIMES, st.integers(1, 1440), TIMES | st.just(float("-inf")), st.booleans(), st.booleans(), COUNTS,
    st.just("") | st.text("0123456789abcdef", min_size=16, max_size=16),
)  # fmt: skip
INCIDENTS = builds(
    Incident,
    st.lists(IDS, min_size=1, max_size=IDS_LIMIT, unique=True).map(lambda ids: tuple(sorted(ids))),
    TESTS | builds(Test, st.just("node"), NODES),
    TIMES,
    failed=st.lists(
        st.tuples(SITES | NODES, TIMES), max_size=3, unique_by=lambda vote: vote[0]
    ).map(lambda votes: tuple(sorted(votes))),
    closed=st.none() | TIMES,
    flapping=COUNTS,
    alert=st.just("") | NODES,
    recovery=st.just("") | NODES,
    reminded=COUNTS,
    void=st.booleans(),
)
RESULTS = builds(
    Result,
    st.sampled_from(Outcome),
    TEXTS,
    st.integers(0, 99_999).map(lambda thousandths: thousandths / 1000),
)
ANSWERS = builds(
    Answer, builds(Node, NODES, st.just("") | SITES | NODES), st.just("") | IDS, RESULTS, AGES
) | builds(Answer, builds(Node, NODES, SITES), st.just("") | IDS, st.none(), AGES, TEXTS)
OPENINGS = builds(
    Judgement, st.just(Verdict.DOWN), st.integers(1, 99), st.lists(ANSWERS, max_size=5).map(tuple)
)
SILENCES = builds(
    Silence,
    HOSTS,
    words("aZ9", "aZ9_.-", 64) | st.just(""),
    st.none() | AGES.map(lambda age: NOW + age),
    TEXTS,
    st.none() | AGES.map(lambda age: NOW - age),
) | builds(Silence, st.just("node"), NODES | st.just(""), st.none())


def rounded(value: Any) -> Any:
    """Round every number in `value` to what the wire carries."""
    if isinstance(value, float):
        return round(value, 2)
    if hasattr(value, "_fields"):
        return type(value)(*map(rounded, value))
    if isinstance(value, tuple):
        return tuple(map(rounded, value))
    return value


@given(
    PRESENCES,
    st.lists(PRESENCES, max_size=3),
    st.lists(SILENCES, max_size=3),
    st.lists(INCIDENTS, max_size=3),
    st.integers(-9, 9),
)
def test_a_statement_survives_the_wire_and_another_clock(
    own: NodeStatus,
    heard: list[NodeStatus],
    silences: list[Silence],
    incidents: list[Incident],
    ahead: int,
) -> None:
    own = own._replace(name=WHO.name, node_id=WHO.node_id, at=NOW)
    statement = Statement(own, tuple(heard), tuple(silences), tuple(incidents))
    lines = cut(protocol.write_statement(statement, NOW))
    stated = read_lines(Request("greet"), lines)
    in_order = stated._replace(incidents=tuple(sorted(stated.incidents, key=repr)))
    expected = rounded(statement)
    assert rounded(in_order) == expected._replace(
        incidents=tuple(sorted(expected.incidents, key=repr))
    )
    later = read_lines(Request("greet"), lines, NOW + ahead)
    assert later.status.at == NOW + ahead
    assert all(
        abs(one.began + ahead - other.began) < 0.1
        for one, other in zip(stated.incidents, later.incidents, strict=True)
    )


@given(st.frozensets(TESTS))
def test_tests_survive_the_wire(tests: frozenset[Test]) -> None:
    assert read_lines(Request("tests"), cut(protocol.write_tests(tests))) == tests


@given(INCIDENTS, st.none() | OPENINGS)
def test_an_incident_survives_the_wire(incident: Incident, opening: Judgement | None) -> None:
    incident = incident._replace(opening=opening)
    assert rounded(
        read_lines(Request("incident", ""), cut(protocol.write_incident(incident, NOW)))
    ) == rounded(incident)


def test_an_incident_that_is_not_known() -> None:
    assert protocol.write_incident(None, NOW) == b"end\n"
    assert protocol.read_incident([], NOW) is None


def test_how_a_statement_looks() -> None:
    own = NodeStatus("oslo", "0123456789ab", NOW, 1, NOW - 23.4, True, tests=digest.digest([SSH]))
    other = NodeStatus("paris", "ba9876543210", NOW - 2, 5, stores=False, refused=3)
    known = Incident(
        ("0a0a0a0a", "1b1b1b1b"),
        SSH,
        NOW - 60,
        failed=(("osl", NOW - 1), ("par", NOW - 2)),
        alert="oslo",
        reminded=2,
    )
    closed = Incident(
        ("2c2c2c2c",), Test("node", "rome"), NOW - 90, closed=NOW - 30, flapping=7, void=True
    )
    silences = (
        Silence("www.example.com"),
        Silence("db", "ssh", NOW + 7200, "rack move, jo", NOW - 60),
    )
    assert protocol.write_statement(
        Statement(own, (other,), silences, (known, closed)), NOW
    ).decode() == (
        'standing {"name":"oslo","node_id":"0123456789ab","at":0.0,"finished":23.4,"speaks":true,"tests":"9bba9fa956984c9e"}\n'
        'heard {"name":"paris","node_id":"ba9876543210","at":2.0,"interval":5,"stores":false,"refused":3}\n'
        'silence {"host":"www.example.com"}\n'
        'silence {"host":"db","name":"ssh","until":-7200.0,"reason":"rack move, jo","since":60.0}\n'
        'incident {"ids":["0a0a0a0a","1b1b1b1b"],"test":{"host":"www.example.com","name":"ssh"},"began":60.0,'
        '"failed":[["osl",1.0],["par",2.0]],"alert":"oslo","reminded":2}\n'
        'incident {"ids":["2c2c2c2c"],"test":{"host":"node","name":"rome"},"began":90.0,"closed":30.0,"flapping":7,"void":true}\n'
        "end\n"
    )


def longest(nodes: int) -> Incident:
    """Return an incident that this many `nodes` have seen, with each field as long as it may be."""
    name = "a" * 253
    return Incident(
        tuple(sorted(f"{number:032}" for number in range(100))),
        Test(name, "b" * 64 + ":" + "c" * 64),
        NOW - 999_999_999.0,
        Judgement(
            Verdict.DOWN,
            999,
            (Answer(Node(name, name), "d" * 32, Result(Outcome.FAIL, "😀" * 240)),) * nodes,
        ),
        tuple((f"{number:064}", NOW - number) for number in range(900)),
        NOW - 999_999_998.0,
        flapping=999_999_999,
        alert=name,
        recovery=name,
        reminded=999_999_999,
        void=True,
    )


def test_the_longest_incident_fits_a_line() -> None:
    """Of the ids the smallest are kept, of the sites those that failed last, and the evidence as long as there is room."""
    incident = longest(1)
    read = read_lines(Request("incident", ""), cut(protocol.write_incident(incident, NOW)))
    assert read.ids == incident.ids[:IDS_LIMIT]
    assert read.failed == incident.failed[: protocol.SITES_LIMIT]
    assert (
        read.opening
        and len(read.opening.answers) == 1
        and read.opening.answers[0].text == "😀" * 240
    )
    short = read_lines(Request("incident", ""), cut(protocol.write_incident(longest(4), NOW)))
    assert short.opening.answers[0].text == "😀" * 60 + "…" and len(short.opening.answers) == 4
    assert read_lines(
        Request("incident", ""), cut(protocol.write_incident(longest(60), NOW))
    ) == read._replace(opening=None)


def test_times_of_the_future() -> None:
    """Only a silence has any; a node that has not finished its round yet would live for ever."""
    lines = [
        b'standing {"name":"x","node_id":"0123456789ab","at":-5,"finished":-50}',
        b'silence {"host":"a","until":-60}',
    ]
    stated = read_lines(
        Request("greet"),
        [*lines, b'incident {"ids":["0a0a0a0a"],"test":{"host":"a","name":"b"},"began":-7}'],
    )
    assert (stated.status.at, stated.status.finished, stated.incidents[0].began) == (NOW, NOW, NOW)
    assert stated.silences[0].until == NOW + 60


SAID = '{"ids":%s,"test":{"host":"a","name":"b"},"began":1%s}'


def said(ids: str = '["0a0a0a0a"]', more: str = "") -> bytes:
    return b"incident " + (SAID % (ids, "," + more if more else "")).encode()


def test_ids_up_to_a_limit() -> None:
    ids = [f"{number:08}" for number in range(65)]
    assert read_lines(Request("incident", ""), [said(json.dumps(ids[:64]))]).ids == tuple(ids[:64])
    with pytest.raises(ProtocolError):
        read_lines(Request("incident", ""), [said(json.dumps(ids))])


def test_what_a_later_version_states_does_no_harm() -> None:
    standing = b'standing  { "name": "oslo", "node_id": "0123456789ab", "at": 0, "mood": ["good"] }'
    lines = [
        b"",
        standing,
        b"mood good",
        b'heard {"name":"paris","node_id":"ba9876543210","at":0,"colour":{"red":1}}',
        b"vote x",
    ]
    assert read_lines(Request("greet"), lines) == Statement(
        NodeStatus("oslo", "0123456789ab", NOW), (NodeStatus("paris", "ba9876543210", NOW),)
    )
    assert read_lines(Request("tests"), [b"has a/b since=3", b"lacks a/c"]) == {Test("a", "b")}
    assert read_lines(Request("incident", ""), [b"hint x", said(more='"x":null')]) == Incident(
        ("0a0a0a0a",), Test("a", "b"), NOW - 1
    )


def test_an_id_is_that_of_the_greeting() -> None:
    """Nobody speaks for another node in a conversation of his own."""
    stated = read_lines(
        Request("greet"), [b'standing {"name":"paris","node_id":"ffffffffffff","at":0}']
    )
    assert (stated.status.name, stated.status.node_id) == ("paris", WHO.node_id)


STANDING = b'standing {"name":"oslo","node_id":"0123456789ab","at":0%s}'
HEARD = b'heard {"name":"paris","node_id":"0123456789ab","at":0}'
BAD_LINES = [
    *((Request("greet"), [STANDING % more]) for more in (
        b',"interval":"x"', b',"interval":0', b',"interval":1.5', b',"finished":"now"', b',"finished":NaN', b',"finished":1e999', b',"finished":null',
        b',"speaks":"yes"', b',"speaks":1', b',"stores":null', b',"refused":-1', b',"refused":true', b',"refused":1e3', b',"tests":"xyz"',
        b',"tests":"0123456789ABCDEF"', b',"name":"-a"', b',"name":""', b',"name":["x"]', b',"node_id":"x"', b"}", b',"refused":' + b"9" * 5000, b',"finished":' + b"9" * 400,
        b',"troubles":["Silent"]', b',"troubles":"silent"', b',"troubles":[' + b'"x",' * 20 + b'"x"]', b',"nodes":"x"',
    )),
    *((Request("greet"), [STANDING % b"", *line.split(b"\n")]) for line in (
        b"standing", b"standing now", b"standing {}", b"standing []", b"standing \x00", b"standing " + b"[" * 50_000, b'standing "\xff"', b"standing 7",
        b"heard", b'heard {"name":"paris","at":0}', HEARD.replace(b"paris", b"-a"), HEARD.replace(b"0123456789ab", b"x"), HEARD.replace(b"0}", b'"1"}'),
        b"silence", b"silence {}", b'silence {"host":"-a"}', b'silence {"host":"a","name":""}', b'silence {"host":"a","name":"b/c"}',
        b'silence {"host":"../x"}', b'silence {"host":"a","until":"soon"}', b'silence {"host":"node","name":"-x"}', b'silence {"host":null}',
        b"incident", b"incident a/b", b'incident {"ids":["0a0a0a0a"]}', said("[]"), said('["0a0a0a0a","X"]'), said('"0a0a0a0a"'), said("[7]"),
        said().replace(b'"a"', b'"-a"'), said().replace(b'"b"', b'"b/c"'), said().replace(b'"b"', b'""'), said().replace(b":1", b':"1"'),
        said(more='"closed":true'), said(more='"alert":"-x"'), said(more='"recovery":""'), said(more='"void":"no"'), said(more='"failed":"osl"'),
        said(more='"failed":[["osl"]]'), said(more='"failed":[["osl",1,2]]'), said(more='"failed":[["-x",1]]'), said(more='"flapping":-3'),
        said(more='"reminded":1e9'), said(more='"closed":9e10'), said(more='"closed":-1e9'), said().replace(b":1", b":9e10"),
        said(more='"failed":[' + ",".join('["s",1]' for _ in range(201)) + "]"), b"\n".join([HEARD] * 1001), b"\n".join([b'silence {"host":"a"}'] * 5001),
    )),
    (Request("greet"), []), (Request("greet"), [HEARD]),
    *((Request("tests"), [line]) for line in (b"has", b"has a", b"has a/b c", b"has node/oslo", b"has -a/b", b"has a/b\xff")),
    *((Request("incident", ""), [said(more=f'"opening":{opening}')]) for opening in (
        "7", "{}", '{"verdict":"GOOD","quorum":2,"answers":[]}', '{"verdict":"DOWN","quorum":"2","answers":[]}',
        '{"verdict":"DOWN","quorum":2,"answers":[{}]}', '{"verdict":"DOWN","quorum":2,"answers":[{"node":{"name":"-x","site":""}}]}',
        '{"verdict":"DOWN","quorum":2,"answers":[{"node":{"name":"x","site":"-x"}}]}',
        '{"verdict":"DOWN","quorum":2,"answers":[{"node":{"name":"x","site":""},"age":-1}]}',
        '{"verdict":"DOWN","quorum":2,"answers":[{"node":{"name":"x","site":""},"result":{"outcome":"GOOD"}}]}',
    )),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "lines"), BAD_LINES)
def test_no_reply_of_several_lines(request_: protocol.Request, lines: list[bytes]) -> None:
    with pytest.raises(ProtocolError) as error:
        read_lines(request_, lines)
    assert str(error.value).isprintable()


def test_text_of_a_peer_is_made_printable() -> None:
    evil = (
        '"opening":{"verdict":"DOWN","quorum":2,"answers":[{"node":{"name":"x","site":""},"reason":"\\u001b[2J\\ud800'
        + "y" * 999
        + '"}]}'
    )
    read = read_lines(Request("incident", ""), [said(more=evil)])
    text = read.opening.answers[0].text
    assert text.startswith(r"\x1b[2J\ud800yy") and text.isprintable() and len(text) < 300


WORDS = [
    b"standing", b"heard", b"silence", b"incident", b"vote", b"has", b"a/b", b"node/x", b'{"host":"a"}', b'{"name":"x","node_id":"0123456789ab","at":1}',
    b'{"ids":["0123456789ab"],"test":{"host":"a","name":"b"},"began":1}', b"{", b"}", b'"ids":', b"[", b"]", b",", b"null", b"1", b'"x"',
]  # fmt: skip


@given(
    st.lists(st.lists(st.sampled_from(WORDS)).map(b" ".join) | st.binary(max_size=50), max_size=4)
)
def test_random_replies_raise_nothing_else(lines: list[bytes]) -> None:
    for request in (Request("greet"), Request("tests"), Request("incident", "")):
        try:
            read_lines(request, lines)
        except ProtocolError as error:
            assert str(error).isprintable()


def test_a_digest_is_of_the_set() -> None:
    tests = [SSH, Test("a", "b"), Test("a", "c")]
    assert digest.digest(tests) == digest.digest(reversed(tests)) != digest.digest(tests[:2])
    assert re.fullmatch("[0-9a-f]{16}", digest.digest([]))
