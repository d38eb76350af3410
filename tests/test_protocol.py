"""The protocol: one table drives writer and reader; the manual page's transcripts are read; garbage is a ProtocolError."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmonitor import protocol
from dmonitor.model import Outcome, Result, Test
from dmonitor.protocol import Greeting, Lines, ProtocolError, Question, Quit, Refusal, Reply

SSH = Test("www.example.com", "ssh")
MANUAL = Path(__file__).parents[1] / "man" / "dmonitor-protocol.7"

GREETINGS = [(Greeting("oslo.example.com", "0123456789ab"), b"dmonitor 1 name=oslo.example.com id=0123456789ab\n")]
REQUESTS = [
    (Question(SSH), b"test www.example.com/ssh\n"),
    (Quit(), b"quit\n"),
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
    said = [line[2:].encode() for line in lines if line.startswith("< ")]
    if said:
        protocol.read_greeting(said[0])
    errors = 0
    for line in said[1:]:
        errors += isinstance(protocol.read_reply(line), Refusal)
    for line in lines:
        if line.startswith("> "):
            try:
                protocol.read_request(line[2:].encode())
            except ProtocolError:
                errors -= 1
    assert errors == 0, "each line that is no question gets an error, and no other"
