"""Authentication, without a socket: a signed line counts once, at its place, in its conversation."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmonitor.net import auth, protocol
from dmonitor.net.auth import ANSWER, QUESTION, Forged, LineAuth

KEY, OTHER = b"0123456789abcdef0123456789abcdef", b"fedcba9876543210fedcba9876543210"
NONCES = "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"
MANUAL = Path(__file__).parents[1] / "man" / "dmonitor-protocol.7"


def pair(
    key: bytes = KEY, nonces: tuple[str, str] = NONCES, name: str = "paris"
) -> tuple[LineAuth, LineAuth]:
    """Return the LineAuth of caller and of daemon."""
    return LineAuth(key, nonces, name, QUESTION, ANSWER), LineAuth(
        key, nonces, name, ANSWER, QUESTION
    )


def test_each_side_takes_what_the_other_wrote_in_order() -> None:
    caller, daemon = pair()
    asked = caller.sign(b"greet\ntests\n") + caller.sign(b"quit\n")
    assert [daemon.verify(line) for line in asked.splitlines()] == [b"greet", b"tests", b"quit"]
    assert [
        caller.verify(line) for line in daemon.sign(b"one text=a mac=b\nend\n").splitlines()
    ] == [b"one text=a mac=b", b"end"]


def test_nothing_said_is_no_line() -> None:
    caller, daemon = pair()
    assert caller.sign(b"") == b"" and daemon.verify(caller.sign(b"quit\n")[:-1]) == b"quit"


def refused(taker: LineAuth, line: bytes) -> None:
    with pytest.raises(Forged):
        taker.verify(line)


def test_replayed_reordered_reflected_or_left_out() -> None:
    caller, daemon = pair()
    one, two, three = caller.sign(b"one\ntwo\nthree\n").splitlines()
    refused(daemon, two)
    assert daemon.verify(one) == b"one"
    refused(daemon, one)
    refused(daemon, three)
    refused(caller, one)
    refused(caller, two)
    assert daemon.verify(two) == b"two", "what was refused moves nothing"


@pytest.mark.parametrize(
    "other",
    [
        pair(OTHER),
        pair(nonces=("0" * 32, NONCES[1])),
        pair(nonces=(NONCES[0], "0" * 32)),
        pair(name="rome"),
        pair(nonces=NONCES[::-1]),
    ],
    ids=["key", "daemon's nonce", "caller's nonce", "responder", "nonces swapped"],
)
def test_of_another_conversation(other: tuple[LineAuth, LineAuth]) -> None:
    caller, daemon = pair()
    refused(daemon, other[0].sign(b"quit\n")[:-1])
    refused(caller, other[1].sign(b"end\n")[:-1])


@given(st.binary(max_size=80).filter(lambda line: b"\n" not in line), st.data())
def test_nothing_that_was_changed_is_taken(line: bytes, data: st.DataObject) -> None:
    caller, daemon = pair()
    signed = caller.sign(line + b"\n")[:-1]
    at = data.draw(st.integers(0, 8 * len(signed) - 1))
    flipped = bytearray(signed)
    flipped[at // 8] ^= 1 << at % 8
    cut = data.draw(st.integers(0, len(signed) - 1))
    for forged in (
        bytes(flipped),
        signed[:cut],
        signed[cut + 1 :],
        signed + b"x",
        b"x" + signed,
        line,
        signed.upper(),
    ):
        if forged != signed:
            refused(daemon, forged)
    assert daemon.verify(signed) == line


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ([KEY], [KEY]),
        ([KEY, OTHER], [OTHER]),
        ([OTHER], [KEY, OTHER]),
        ([KEY, OTHER], [OTHER, KEY]),
    ],
)
def test_hello_with_the_old_key_and_the_new(theirs: list[bytes], ours: list[bytes]) -> None:
    said, auths = auth.write_hello(theirs, NONCES, "paris")
    daemon, called = auth.accept_hello(said[:-1], ours, NONCES[0])
    assert called == "paris" and said.endswith(b"\n") and len(said) < protocol.QUESTION_BYTES
    greeting = daemon.sign(b"dmonitor 1\n")[:-1]
    taken = []
    for each in auths:
        try:
            taken.append(each.verify(greeting))
        except Forged:
            continue
    assert taken == [b"dmonitor 1"], "under one of the keys"


@pytest.mark.parametrize("keys", [[OTHER], []])
def test_hello_without_a_key_of_ours(keys: list[bytes]) -> None:
    said, _ = auth.write_hello([KEY], NONCES, "paris")
    with pytest.raises(Forged):
        auth.accept_hello(said[:-1], keys, NONCES[0])
    with pytest.raises(Forged):
        auth.accept_hello(said[:-1], [KEY], "0" * 32)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"test www.example.com/ssh",
        b"hello paris " + b"1" * 32,
        b"hello paris x mac=" + b"a" * 64,
        b"\xff" * 500,
    ],
)
def test_no_hello(line: bytes) -> None:
    with pytest.raises(Forged):
        auth.accept_hello(line, [KEY], NONCES[0])


@given(st.binary(max_size=600))
def test_random_bytes_are_no_hello_and_no_line(line: bytes) -> None:
    with pytest.raises(Forged):
        auth.accept_hello(line, [KEY, OTHER], NONCES[0])
    refused(pair()[1], line)


def test_the_vectors_of_the_manual() -> None:
    """The page gives key, nonces and names, and what is said with them, byte by byte; computed here without `auth`, too."""
    page = MANUAL.read_text()
    vectors = re.search(r'^\.\\" vectors\n\.Bd.*?\n(.*?)^\.Ed', page, re.M | re.S)
    assert vectors
    facts = dict(line.split(" = ") for line in vectors[1].splitlines() if " = " in line)
    said = re.search(r'^\.\\" sealed transcript\n\.Bd.*?\n(.*?)^\.Ed', page, re.M | re.S)
    assert said
    lines = [
        (line[0], line[2:].encode()) for line in said[1].splitlines() if line[:2] in ("> ", "< ")
    ]
    key, nonces, name = (
        facts["key"].encode(),
        (facts["daemon's nonce"], facts["caller's nonce"]),
        facts["name"],
    )
    assert lines[0] == ("<", protocol.write(protocol.Challenge(nonces[0]))[:-1])
    hello, auths = auth.write_hello([key], nonces, name)
    assert lines[1] == (">", hello[:-1])
    daemon, _ = auth.accept_hello(hello[:-1], [key], nonces[0])
    taken = [(auths[0] if mark == "<" else daemon).verify(line) for mark, line in lines[2:]]
    assert (
        taken[0].startswith(b"dmonitor 1 name=")
        and taken[1].startswith(b"test ")
        and taken[2].startswith(b"answer ")
    )
    numbers = {"<": 0, ">": 0}
    for mark, line in lines[1:]:
        text, _, mac = line.rpartition(b" mac=")
        label = "answer" if mark == "<" else "question"
        whole = "\n".join(["dmonitor 1", label, *nonces, name, str(numbers[mark]), text.decode()])
        numbers[mark] += 1
        assert hmac.new(key, whole.encode(), hashlib.sha256).hexdigest() == mac.decode()
