"""The targets of the fuzzer: each reader of foreign bytes, as a function of the bytes.

A target raises nothing, whatever the bytes are. It returns what it has reached, in words, so that a
target that no longer reaches its subject is found. `REACHED` has the words that the corpus of each
target must reach, and `CALLED` the functions. In `fuzz.py` a fuzzer looks for bytes that break a
target; tests/test_fuzz.py plays again what it has found.

No nonce is known beforehand and none is patched: a target reads the nonce of the side that it
fuzzes from the wire, as a peer does, and seals what follows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email
import email.policy
import selectors
import socket
from collections.abc import Callable, Generator, Iterable, Sequence
from unittest import mock

from dmonitor.base import log, names
from dmonitor.config import resolve
from dmonitor.config.cluster import Peer
from dmonitor.config.keyfile import Keys, of_all
from dmonitor.config.settings import Settings
from dmonitor.core import codec, effects, incident, ledger, mail, result, situation
from dmonitor.core.model import (
    Answer,
    Contact,
    Incident,
    Judgement,
    Kind,
    Node,
    NodeStatus,
    Notification,
    Outcome,
    Result,
    Statement,
    Test,
    Verdict,
    node_test,
)
from dmonitor.net import access, auth, exchange, flights, peers, protocol, server
from dmonitor.net import statement as statements
from dmonitor.store import database, tables

KEY, OTHER_KEY = b"0123456789abcdef" * 2, b"fedcba9876543210" * 2
NONCES = "0" * 32, "1" * 32
NODE, SSH = Node("paris", "paris"), Test("www.example.com", "ssh")
PEERS = Node("oslo", "oslo"), Node("rome", "rome")
KNOWN = "known000"  # the id of an incident that the fuzzed daemon knows
NOW = 1_800_000_000.0
SEALED = b"!"  # the first byte of data that a peer with the key says

Said = set[str]  # what a target has reached


def lines(data: bytes) -> Said:
    """Read each line in `data` with each reader of lines."""
    reached: Said = set()
    cut = protocol.Lines(protocol.ANSWER_BYTES)
    found: list[bytes] = []
    with contextlib.suppress(protocol.ProtocolError):
        for at in range(0, len(data), 7):
            found += cut.feed(data[at : at + 7])
    for read in (protocol.read_request, protocol.read_greeting, protocol.read_reply):
        for line in found:
            with contextlib.suppress(protocol.ProtocolError):
                reached.add(type(read(line)).__name__)
    who = protocol.Greeting("paris", "0123456789ab")
    replies: tuple[tuple[str, Callable[[], object]], ...] = (
        ("Statement", lambda: protocol.read_statement(found, who, NOW)),
        ("tests", lambda: protocol.read_tests(found)),
        ("Incident", lambda: protocol.read_incident(found, NOW)),
    )
    for word, read_lines in replies:
        with contextlib.suppress(protocol.ProtocolError):
            if read_lines():
                reached.add(word)
    return reached


def authentication(data: bytes) -> Said:
    """Only a line that was signed counts: `data` comes in place of one, or is a change to one."""
    reached: Said = set()
    said, auths = auth.write_hello([KEY, OTHER_KEY], NONCES, "paris")
    ours, _ = auth.accept_hello(said[:-1], [OTHER_KEY], NONCES[0])
    right = ours.sign(b"dmonitor 1 name=paris id=0123456789ab\n")[:-1]
    for line, taken in ((said[:-1], None), (right, auths[1])):
        for forged in {data, changed(line, data)} - {line}:
            try:
                if taken is not None:
                    taken.verify(forged)
                    raise AssertionError(f"taken: {forged!r}")
                _, called = auth.accept_hello(forged, [KEY], NONCES[0])
            except auth.Forged:
                reached.add("hello refused" if taken is None else "line refused")
            else:
                # With one of its two macs gone or spoilt a hello is still who it says it is.
                assert (
                    forged.startswith(said[: said.index(b" mac=")] + b" ") and called == "paris"
                ), f"met: {forged!r}"
                reached.add("hello with one of two macs")
    assert auths[1].verify(right) == b"dmonitor 1 name=paris id=0123456789ab", (
        "what was refused moves nothing"
    )
    return reached


def changed(line: bytes, by: bytes) -> bytes:
    """Return `line` with one byte replaced: the first two bytes of `by` say where, the rest by what."""
    if len(by) < 3:
        return line
    at = int.from_bytes(by[:2], "big") % len(line)
    return line[:at] + by[2:3] + by[3:] + line[at + 1 :]


class _Facts:
    """A node with one test and one incident, which notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: Said = set()

    def tests(self) -> list[Test]:
        self.asked.add("tests")
        return [SSH]

    def has(self, test: Test, /) -> bool:
        if test != SSH:
            self.asked.add("not configured")
        return test == SSH

    def run(self, test: Test, done: Callable[[Test, Result], None], /) -> None:
        assert test == SSH, "nothing foreign runs"
        self.asked.add("ran")
        done(test, Result(Outcome.OK, "seen"))

    def statement(self) -> bytes:
        self.asked.add("statement")
        return protocol.write_statement(Statement(NodeStatus("paris", "0123456789ab", NOW)), NOW)

    def incident(self, incident_id: str, /) -> tuple[Incident | None, float]:
        self.asked.add("incident")
        if incident_id != KNOWN:
            return None, NOW
        return Incident((KNOWN,), SSH, NOW), NOW

    def wake(self) -> None:
        self.asked.add("woken")

    def state_version(self) -> object:
        return None


@dataclasses.dataclass
class _Access(access.Access):
    keys: Keys | None
    admitted: frozenset[str] = frozenset({"192.0.2.1"})
    names: frozenset[str] = frozenset({"paris"})
    greeting = protocol.Greeting("paris", "0123456789ab")

    def judge(self, address: str, decided: Callable[[bool], None]) -> None:
        decided(address in self.admitted)


class _Listener:
    """Accepts one connection that is there already."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        return self.connection, ("192.0.2.1", 4711)


def daemon(data: bytes) -> Said:
    """A caller sends `data` to a daemon without a key, and to one with a key.

    The daemon runs its own test or nothing, and ends the conversation. What is returned is reached
    by a caller that has the key.
    """
    if data.startswith(SEALED):
        return serve(data, of_all(KEY))
    serve(data, None)
    assert not serve(data, of_all(KEY)), "nobody is served without the key"
    return set()


def serve(data: bytes, keys: Keys | None, *, key: bytes = KEY) -> Said:
    """Have a daemon with `keys` serve a caller that says `data`; return what it was asked for.

    A caller that says sealed data has `key`.
    """
    facts = _Facts()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with selectors.DefaultSelector() as selector, ours, theirs:
        made = server.Server(selector, [], facts, 5, _Access(keys), facts.wake)
        made._accept(_Listener(ours))  # type: ignore[arg-type] # has only what the server calls
        say = _at_once(data)
        if data.startswith(SEALED):
            say = _caller_with_key(data, key)
        # A reply may still be made for a caller that is gone.
        is_busy = lambda: made._conversations or selector.get_map()  # noqa: E731
        heard = _play(selector, theirs, say, is_busy)
        assert not made._conversations and not selector.get_map()
        if keys and b"name=" in heard:
            assert b" mac=" in heard, "nothing is told to who has no key"
        made.close()
    return facts.asked


# What a side says: each step is sent all that was heard so far, and yields what is said next.
Say = Generator[bytes, bytes, None]


def _at_once(data: bytes) -> Say:
    yield data


def _caller_with_key(data: bytes, key: bytes) -> Say:
    """Say hello with `key` to the challenge that comes, and each line of `data` with its MAC.

    A fuzzer cannot make a MAC.
    """
    heard = yield b""
    while b"\n" not in heard:
        heard = yield b""
    challenge = protocol.read_greeting(heard.partition(b"\n")[0])
    assert isinstance(challenge, protocol.Challenge), "a daemon with a key sends a challenge"
    hello, (ours,) = auth.write_hello([key], (challenge.nonce, NONCES[1]), NODE.name)
    yield hello + b"".join(ours.sign(line + b"\n") for line in data[1:].split(b"\n"))


def _daemon_with_key(data: bytes, key: bytes) -> Say:
    """Send a challenge, and after the hello that comes each line of `data` with a MAC of `key`."""
    heard = yield protocol.write(protocol.Challenge(NONCES[0]))
    while b"\n" not in heard:
        heard = yield b""
    hello = heard.partition(b"\n")[0]
    _, called = auth.accept_hello(hello, [KEY], NONCES[0])
    assert called == NODE.name
    nonces = (NONCES[0], hello.split()[2].decode())
    ours = auth.LineAuth(key, nonces, called, auth.ANSWER, auth.QUESTION)
    yield ours.sign(data[1:])


class _Connected(socket.socket):
    """A socket that is connected, wherever it is told to go."""

    def connect(self, _: object) -> None: ...


def caller(data: bytes) -> Said:
    """A peer sends `data` to a caller without a key, and to one with a key, which ask and greet.

    The caller gets an answer, or has a reason why there is none. What is returned is reached by a
    peer that has the key.
    """
    if data.startswith(SEALED):
        return call(data, of_all(KEY))
    call(data, None)
    assert not call(data, of_all(KEY)), "nobody can say anything without the key"
    return set()


def call(data: bytes, keys: Keys | None, *, key: bytes = KEY) -> Said:
    """Have a caller with `keys` call a peer that says `data`; return what the caller has got.

    A peer that says sealed data has `key`.
    """
    digest = "0" * 16 if b"\nhas " in data else ""  # a list is only asked for if it would come
    one, theirs = socket.socketpair()
    theirs.setblocking(False)
    ours = _Connected(fileno=one.detach())
    with (
        selectors.DefaultSelector() as selector,
        ours,
        theirs,
        mock.patch("socket.socket", return_value=ours) as make_socket,
    ):
        peer = Peer(NODE, (resolve.parse_address("192.0.2.1"),))
        asker = peers.Asker(selector, [peer], "own0own0", Settings(), keys, digest=digest)
        asker.ask(SSH)
        asker.greet(lambda _: False, [("unheard0",)])
        say = _at_once(data)
        if data.startswith(SEALED):
            say = _daemon_with_key(data, key)
        _play(selector, theirs, say, lambda: asker.pending or asker.greeting)
        (answer,) = asker.answers(SSH)
        assert make_socket.called, "it has called the peer of this target, and nobody else"
        assert answer.result or answer.reason
        contact = asker.contacts[NODE]
        asker.close()
        assert not selector.get_map()
    return _got(answer, contact)


def _got(answer: Answer, contact: Contact) -> Said:
    reached: Said = set()
    if answer.result:
        reached.add("answer")
    if contact.statement:
        reached.add("statement")
        if contact.statement.incidents:
            reached.add("incidents")
        if any(each.opening for each in contact.statement.incidents):
            reached.add("account")
        if contact.statement.tests:
            reached.add("tests")
        if contact.statement.silences:
            reached.add("silences")
    return reached


def _play(
    selector: selectors.BaseSelector,
    theirs: socket.socket,
    say: Say,
    going_on: Callable[[], object],
) -> bytes:
    """Be the other side on `theirs` while it is `going_on`; return all that it hears.

    It says what `say` yields, and closes its half when that has ended.
    """
    unsent = next(say)
    heard = b""
    is_over = False
    for _ in range(100_000):
        with contextlib.suppress(OSError):
            if unsent:
                unsent = unsent[theirs.send(unsent) :]
            elif not is_over:
                try:
                    unsent = say.send(heard)
                except StopIteration:
                    is_over = True
                    theirs.shutdown(socket.SHUT_WR)
        for key, _ in selector.select(0):
            key.data()
        with contextlib.suppress(OSError):
            heard += theirs.recv(1 << 20)
        if not going_on():
            return heard
    raise AssertionError("it does not end")


# What a peer states, from the lines to the core, to the disk, and out to other peers.

_CONFIG = effects.RoundConfig(
    "own0own0",
    frozenset({SSH, node_test("oslo"), node_test("rome")}),
    "0" * 16,
    ("root",),
    nodes=(NODE, *PEERS),
)
_ROUNDS = 4  # that hear a statement, each one later than the one before
# What a node states of what it has heard is in proportion to that. JSON has up to six bytes for two,
# and an age may be written with many digits.
_STATED_BYTES, _STATED_SHARE = 2_000, 8


class _Clock:
    """The clocks of a round that begins at `at`."""

    def __init__(self, at: float) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def elapsed(self) -> float:
        return 1.0

    def minute(self, at: float, /) -> int:
        return int(at // 60)

    def text(self, at: float, /) -> str:
        return f"{at:.0f}"


def statement(data: bytes) -> Said:
    """Peers state what is in `data`, one after the other; a node takes it in, stores it, states it.

    A line `end` is the end of a statement, and the next one is heard by the next round.
    """
    reached: Said = set()
    texts = data.split(b"\nend\n")[:_ROUNDS]
    with contextlib.closing(database.connect(":memory:")) as db:
        database.prepare(db)
        for number, text in enumerate(texts):
            now = NOW + 60.0 * number
            stated = _read(text, PEERS[number % 2], now)
            if stated:
                reached |= _hear(db, stated, now)
                reached |= _state(db, now, _STATED_BYTES + _STATED_SHARE * len(data))
    return reached


def _read(text: bytes, node: Node, now: float) -> Contact | None:
    """Return what comes of greeting `node`, which states `text`; None if it is no statement."""
    greeting = protocol.Greeting(node.name, f"{node.name}{node.name}")
    with contextlib.suppress(protocol.ProtocolError):
        cut = protocol.Lines(protocol.ANSWER_BYTES)
        read = protocol.read_statement(cut.feed(text + b"\n"), greeting, now)
        return Contact(node, greeting.node_id, statement=read)
    return None


def _hear(db: database.Connection, contact: Contact, now: float) -> Said:
    """Have a round hear what was stated, and store what it knows then; return what that was."""
    reached = {"heard"}
    noted: Said = set()

    def note(level: str, event: str, /, **facts: log.Value) -> None:
        assert log.line(event, dict(facts)).isprintable()
        noted.add(event)

    memory = effects.Memory(
        tables.read_node_memory(db, 0.0),
        tables.read_test_states(db, 0.0),
        tables.read_incidents(db, "alive OR closed > ?", (now - 3600.0,)),
        tables.read_outbox(db),
        tables.read_silences(db, 0.0),
        lambda ids: _recall(db, ids),
    )
    heard = situation.Situation(_CONFIG, memory, _Clock(now), note)
    heard.begin()
    heard.recognise(effects.Observation(NODE, {}, [contact], frozenset()))
    heard.hear([contact])
    for each in heard.ledger.changed.values():
        reached.add("closed" if each.closed is not None else "opened")
        if len(each.ids) > 1:
            reached.add("united")
        if each.overtaken:
            reached.add("overtaken")
    heard.candidates()
    heard.is_first()
    heard.holds_untold()
    for save in heard.store(effects.Save(node=heard.finish())):
        assert isinstance(save, effects.Save)
        _put(db, save)
        if save.incidents:
            reached.add("stored")
        if save.silences and any(save.silences.values()):
            reached.add("silenced")
    assert ("incident-heard" in noted) is ("stored" in reached)
    return reached


def _recall(db: database.Connection, ids: Iterable[str]) -> Sequence[Incident]:
    found = []
    for incident_id in ids:
        condition = "number IN (SELECT incident FROM known WHERE id = ?)"
        found += tables.read_incidents(db, condition, (incident_id,))
    return found


def _put(db: database.Connection, save: effects.Save) -> None:
    with database.transaction(db):
        if save.node:
            tables.write_node_memory(db, save.node, {})
        if save.silences is not None:
            tables.write_silences(db, save.silences)
        for each in save.incidents:
            tables.write_incident(db, each)


def _state(db: database.Connection, now: float, limit: int) -> Said:
    """State what is stored, in `limit` bytes at most, so that a peer can read it."""
    memory = tables.read_node_memory(db, 0.0)
    known = tables.read_incidents(db, "alive OR closed > ?", (now - 3600.0,))
    for each in tables.read_incidents(db, "TRUE"):
        assert each.began <= now
        if each.is_open or incident.owed(each):
            assert each in known
    status = memory.status("paris", "own0own0", now)
    stated = effects.statement_of(memory, known, (), status, now)
    written = protocol.write_statement(stated, now)
    assert len(written) <= limit, f"states {len(written)} bytes, and may state {limit}"
    cut = protocol.Lines(protocol.EVIDENCE_BYTES)
    who = protocol.Greeting("paris", "own0own0")
    read = protocol.read_statement(cut.feed(written), who, now)
    assert len(read.incidents) == len(known), "a peer reads all that is stated"
    return {"stated"} if known else set()


# What a plugin prints, or a peer answers, from the bytes to the log, the wire and the mail.

_MAIL_BYTES = 20_000  # that no mail about one test is longer than
_HEADERS = {
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "Auto-Submitted",
    "Content-Type",
    "Content-Transfer-Encoding",
    "MIME-Version",
}


def told(data: bytes) -> Said:
    """A plugin prints `data` and peers answer with its lines; the log, a mail and a hook tell it."""
    number = int.from_bytes(data[:2], "big")
    output, _, rest = data[2:].partition(b"\n")
    own = Result(*result.classify(number, output, rest), 0.5)
    reached = {own.outcome.value}
    assert log.line("test-ran", dict(result.event_facts(SSH, own))).isprintable()
    (line,) = protocol.Lines(protocol.ANSWER_BYTES).feed(protocol.write(protocol.Reply(SSH, own)))
    shown = own._replace(
        text=names.printable(own.text)
    )  # escapes may make it longer than a text is
    assert protocol.read_reply(line) == protocol.Reply(SSH, shown), "a peer reads what we found"
    answers = [Answer(NODE, "own0own0", own)]
    for node, text in zip(PEERS, rest.split(b"\n"), strict=False):
        with contextlib.suppress(protocol.ProtocolError):
            reply = protocol.read_reply(b"answer www.example.com/ssh FAIL text=" + text)
            assert isinstance(reply, protocol.Reply)
            answers.append(Answer(node, f"{node.name}{node.name}", reply.result))
            reached.add("answered")
    judgement = Judgement(Verdict.DOWN, 2, tuple(answers))
    opened = Incident(("known000",), SSH, NOW - 60.0, judgement, minute=1)
    closed = opened._replace(closed=NOW, closing=judgement)
    for kind, about in ((Kind.ALERT, opened), (Kind.RECOVERY, closed)):
        owed = [Notification(kind, about, "root@example.com", NOW)]
        _check_mail(mail.compose(owed, sender="dmonitor", node="paris", now=NOW), kind)
        text, facts = mail.compose_facts(owed, node="paris", now=NOW)
        assert len(text) <= _MAIL_BYTES
        for fact in facts.values():
            assert all(map(str.isprintable, fact.split("\n")))
        reached.add(kind.value)
    return reached


def _check_mail(composed: bytes, kind: Kind) -> None:
    assert len(composed) <= _MAIL_BYTES
    message = email.message_from_bytes(composed, policy=email.policy.default)
    assert not message.defects
    assert len(message.keys()) == len(set(message.keys())), "each header is there once"
    assert set(message.keys()) <= _HEADERS
    word = "DOWN" if kind is Kind.ALERT else "UP"
    assert str(message["Subject"]).startswith(word), message["Subject"]
    assert str(message["To"]) == "root@example.com"
    assert not message.is_multipart()
    assert all(map(str.isprintable, message.get_content().split("\n")))


TARGETS = {
    target.__name__: target for target in (lines, authentication, daemon, caller, statement, told)
}

# What the corpus of each target has to reach. For `daemon` and `caller` all of it is beyond
# authentication: they return nothing that a side without the key has reached.
REACHED: dict[str, Said] = {
    "lines": {
        "Question",
        "Request",
        "Greeting",
        "Challenge",
        "Refusal",
        "Reply",
        "Statement",
        "tests",
        "Incident",
    },
    "authentication": {"hello refused", "line refused", "hello with one of two macs"},
    "daemon": {"ran", "not configured", "tests", "statement", "incident", "woken"},
    "caller": {"answer", "statement", "incidents", "account", "tests", "silences"},
    "statement": {
        "heard",
        "opened",
        "closed",
        "united",
        "overtaken",
        "stored",
        "silenced",
        "stated",
    },
    "told": {"OK", "FAIL", "UNKNOWN", "answered", "alert", "recovery"},
}
# The functions that the corpus of each target has to call.
CALLED: dict[str, tuple[Callable[..., object], ...]] = {
    "lines": (
        protocol.read_request,
        protocol.read_greeting,
        protocol.read_reply,
        protocol.read_statement,
        protocol.read_tests,
        protocol.read_incident,
        codec.read,
    ),
    "authentication": (auth.LineAuth.verify, auth.accept_hello),
    "daemon": (
        auth.accept_hello,
        auth.LineAuth.verify,
        protocol.read_request,
        flights.Flights.ask,
        protocol.write_statement,
        protocol.write_tests,
        protocol.write_incident,
        codec.write,
    ),
    "caller": (
        auth.write_hello,
        auth.LineAuth.verify,
        exchange.Exchange.take_line,
        exchange.Exchange.no_answer,
        statements.PendingStatement.take,
        statements.PendingStatement.refuse,
        protocol.read_reply,
        protocol.read_statement,
        protocol.read_incident,
        protocol.read_tests,
        codec.read,
    ),
    "statement": (
        protocol.read_statement,
        situation.Situation.hear,
        ledger.Ledger.meet,
        ledger.Ledger.is_present,
        ledger.Ledger.put,
        incident.overtake,
        tables.write_incident,
        tables.write_silences,
        tables.read_incidents,
        effects.statement_of,
        protocol.write_statement,
    ),
    "told": (result.classify, protocol.read_reply, mail.compose, mail.compose_facts, log.line),
}
