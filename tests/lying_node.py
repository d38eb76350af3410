"""A node that has the key and lies: a small daemon that says what a strategy makes, and loops of requests.

It writes its lines itself, because the writers of `dmonitor.net.protocol` keep to limits. It needs the
package's modules and `calls`, and no other module of the tests, so it also runs on a node of the lab:
`lying_node.py ADDRESS PORT NAME KEYFILE TEST,... NODE...` plays `Everything` against the nodes.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import secrets
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import calls

from dmonitor.net import auth, protocol

# What a reader takes.
LINE_BYTES = 99_000  # of one line with its MAC
STATEMENT_BYTES = 950_000  # of a statement, or of its accounts
ACCOUNTS = 50  # incidents that a caller asks about after one statement
SWOLLEN_BYTES = 7_400_000  # of a statement that no reader takes

Lines = Iterable[bytes]  # each may be several lines, with their ends
END = b"end\n"


def line(word: str, value: object) -> bytes:
    """Return the line of `word` and a JSON object."""
    return f"{word} {json.dumps(value, separators=(',', ':'))}\n".encode("ascii")


def new_id(length: int = 32) -> str:
    """Return an id that nobody else has."""
    return secrets.token_hex(length // 2)


def incident(host: str, test: str, *, ids: Sequence[str] = (), **fields: object) -> dict[str, Any]:
    """Return an incident as the wire has it: times are ages; void and closed unless `fields` say more.

    It is over, and not so long ago that nobody would take it in.
    """
    made_up: dict[str, Any] = {"ids": list(ids) or [new_id()], "test": {"host": host, "name": test}}
    return made_up | {"began": 700.0, "closed": 600.0, "void": True} | fields


class Strategy:
    """What a liar says. This one is well behaved: it sees nothing fail, and knows of nothing."""

    speaks = False  # whether it says that it can mail; it never does
    text = "answer {test} OK age=0.1 duration=0.050 text=so the liar says\n"
    answers_after = 0  # bytes of a statement that questions have to wait for

    def __init__(self) -> None:
        self.copied: dict[str, Any] = {}  # fields of an honest node's own standing

    def greeting(self, name: str, node_id: str) -> bytes:
        """Return the first line after the hello."""
        return f"dmonitor 1 name={name} id={node_id} run={node_id[:16]}\n".encode()

    def standing(self, name: str, node_id: str) -> bytes:
        """Return the line by which the liar seems to be a node like all others."""
        keys = ("tests", "nodes", "addresses", "quorum", "confirm", "version", "wakes")
        standing = {key: self.copied[key] for key in keys if key in self.copied}
        standing |= {"name": name, "node_id": node_id, "at": 0.0, "finished": 5.0, "rounds": 6}
        standing |= {"wall": time.time(), "up": 86400.0}
        if self.speaks:
            standing["speaks"] = True
        return line("standing", standing)

    def statement(self, address: str) -> Lines:
        """Return the rest of the reply to `greet` that comes from `address`."""
        return [END]

    def tests(self) -> Lines:
        """Return the reply to `tests`."""
        return [END]

    def account(self, incident_id: str) -> Lines:
        """Return the reply to `incident`."""
        return [END]

    def answer(self, test: str) -> bytes:
        """Return the answer to a question."""
        return self.text.format(test=test).encode()


class Caller:
    """A conversation that an honest node has begun with the liar."""

    def __init__(self, connection: socket.socket, address: str) -> None:
        self.address = address
        self.auth: auth.LineAuth | None = None
        self._connection = connection
        self._rest = b""

    def greet(self, keys: Sequence[bytes], greeting: bytes) -> bool:
        """Let the caller show a key, and greet it; return whether it had one."""
        nonce = secrets.token_hex(16)
        self.send(f"dmonitor 1 nonce={nonce}\n".encode())
        try:
            self.auth, _ = auth.accept_hello(self.read(), keys, nonce)
        except auth.Forged:
            return False
        self.send(greeting)
        return True

    def send(self, lines: bytes) -> None:
        self._connection.sendall(self.auth.sign(lines) if self.auth else lines)

    def has_request(self) -> bool:
        """Return whether a line has come, or the end."""
        return b"\n" in self._rest or bool(select.select([self._connection], [], [], 0)[0])

    def read(self) -> bytes:
        """Return the next line, without its end and its MAC; nothing at the end."""
        while b"\n" not in self._rest:
            data = self._connection.recv(1 << 16)
            if not data:
                return b""
            self._rest += data
        found, _, self._rest = self._rest.partition(b"\n")
        return self.auth.verify(found) if self.auth else found

    def close(self) -> None:
        """End the conversation, although another thread may wait for it."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


class Liar:
    """The daemon of a node that lies: one thread for each caller."""

    def __init__(
        self, address: str, port: int, name: str, key: str, strategy: Strategy | None = None
    ) -> None:
        self.target = address, port
        self.name = name
        self.node_id = "00" + secrets.token_hex(7)  # the first of all in an order by ids, too
        self.key = key.encode()
        self.strategy = strategy or Strategy()
        self.asked: collections.Counter[str] = collections.Counter()  # requests, by their words
        self.greeted = 0  # conversations with whoever has shown the key
        self.stated = 0  # statements that went out whole
        self._callers: set[Caller] = set()
        self._listener = socket.socket()

    def __enter__(self) -> Liar:
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(self.target)
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for caller in list(self._callers):
            caller.close()

    def copy_standing(self, target: calls.Target, name: str) -> None:
        """Take over what the node `name` states of its configuration, so that nothing differs."""
        lines = greet(target, name, self.key, self.target[0])
        for each in lines:
            if each.startswith(b"standing "):
                self.strategy.copied = json.loads(each.partition(b" ")[2])

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, (address, _) = listener.accept()
            except OSError:
                return
            caller = Caller(connection, address)
            self._callers.add(caller)
            threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: Caller) -> None:
        try:
            greeting = self.strategy.greeting(self.name, self.node_id)
            if caller.greet([self.key], greeting):
                self.greeted += 1
                self._talk(caller)
        except (OSError, ValueError, protocol.ProtocolError):
            pass  # the caller has had enough
        finally:
            self._callers.discard(caller)
            caller.close()

    def _talk(self, caller: Caller) -> None:
        waiting: collections.deque[bytes] = collections.deque()
        while request := waiting.popleft() if waiting else self._read(caller):
            word, _, rest = request.decode().partition(" ")
            if word == "quit":
                return
            if word == "test":
                caller.send(self.strategy.answer(rest))
            sent = 0
            for lines in self._reply(word, rest, caller.address):
                caller.send(lines)
                sent += len(lines)
                while caller.has_request():
                    waiting.append(self._read_meanwhile(caller))
                if word == "greet" and sent >= self.strategy.answers_after:
                    self._answer_waiting(caller, waiting)
            self.stated += word == "greet"

    def _read(self, caller: Caller) -> bytes:
        """Return the next request, and count it; nothing at the end."""
        request = caller.read()
        self.asked[request.decode().partition(" ")[0]] += 1
        return request

    def _read_meanwhile(self, caller: Caller) -> bytes:
        request = self._read(caller)
        if request in (b"", b"quit"):
            raise ConnectionError
        return request

    def _answer_waiting(self, caller: Caller, waiting: collections.deque[bytes]) -> None:
        """Answer the questions among what is `waiting`, although a reply has not ended."""
        for request in list(waiting):
            word, _, test = request.decode().partition(" ")
            if word == "test":
                waiting.remove(request)
                caller.send(self.strategy.answer(test))

    def _reply(self, word: str, rest: str, address: str) -> Iterator[bytes]:
        strategy = self.strategy
        if word == "greet":
            yield strategy.standing(self.name, self.node_id)
            yield from strategy.statement(address)
        elif word == "tests":
            yield from strategy.tests()
        elif word == "incident":
            yield from strategy.account(rest)


def greet(target: calls.Target, name: str, key: bytes, source: str) -> list[bytes]:
    """Return the lines of the statement of the node `name`, without their ends."""
    with calls.Conversation(target, name, key, source) as conversation:
        conversation.say(b"greet\n")
        lines: list[bytes] = []
        while (said := conversation.read()) not in (b"end", b""):
            lines.append(said)
        return lines


def press(
    target: calls.Target,
    name: str,
    key: bytes,
    source: str,
    stop: Callable[[], bool],
    *,
    conversations: int = 16,
    unread: int = 1,
) -> None:
    """Ask for statements in a loop on several conversations, some of which read nothing; until `stop`."""
    threads = []
    for number in range(conversations):
        arguments = (target, name, key, source, stop, number < unread)
        threads.append(threading.Thread(target=_loop, args=arguments, daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join()


def _loop(
    target: calls.Target,
    name: str,
    key: bytes,
    source: str,
    stop: Callable[[], bool],
    is_unread: bool,
) -> None:
    while not stop():
        try:
            with calls.Conversation(target, name, key, source) as conversation:
                conversation.say(b"greet\n" * 1000)
                while not stop():
                    if is_unread:
                        time.sleep(0.1)
                    elif not conversation.pass_over():
                        break
        except (OSError, AssertionError, ValueError, protocol.ProtocolError):
            time.sleep(0.05)


# The strategies.


class Flood(Strategy):
    """States so many incidents that whoever repeats them all is over the limit of a statement.

    They are void and closed, so nobody is told of them. Each statement to a caller has the next part.
    """

    def __init__(
        self, tests: Sequence[str], count: int = 60, *, ids: int = 32, sites: int = 100
    ) -> None:
        super().__init__()
        names = [f"{number:03}" + "s" * 247 for number in range(sites)]
        failed = [[name, 1.0] for name in names]
        self.incidents: list[dict[str, Any]] = []
        for _ in range(count):
            for test in tests:
                host, _, name = test.partition("/")
                made_up = [new_id() for _ in range(ids)]
                self.incidents.append(incident(host, name, ids=sorted(made_up), failed=failed))
        self.parts = parts([line("incident", each) for each in self.incidents])
        self._turns: collections.Counter[str] = collections.Counter()  # of each caller

    def statement(self, address: str) -> Lines:
        part = self.parts[self._turns[address] % len(self.parts)]
        self._turns[address] += 1
        return [*part, END]


def parts(lines: Sequence[bytes]) -> list[list[bytes]]:
    """Return `lines` in as many parts as are needed for each to fit a statement."""
    found: list[list[bytes]] = [[]]
    size = 0
    for each in lines:
        size += len(each) + 70
        if size > STATEMENT_BYTES:
            found.append([])
            size = len(each) + 70
        found[-1].append(each)
    return found


class Evidence(Strategy):
    """States new incidents in each statement, and for each of them so much evidence as a line holds."""

    def __init__(self, tests: Sequence[str], *, is_fat: bool) -> None:
        super().__init__()
        self._tests = itertools.cycle(tests)
        answers: list[dict[str, Any]] = [{"node": {"name": "a", "site": ""}}] * 2900
        if is_fat:
            node = {"name": "n" * 250, "site": "s" * 250}
            text = "\N{FIRE}" * 160  # each takes 12 bytes of JSON
            answers = [{"node": node, "node_id": new_id(), "reason": text}] * 33
        self._opening = {"verdict": "DOWN", "quorum": 2, "answers": answers}
        self._stated: dict[str, dict[str, Any]] = {}
        self.bytes = 0  # of evidence that has gone out

    def statement(self, address: str) -> Lines:
        self._stated.clear()
        for _ in range(min(ACCOUNTS, STATEMENT_BYTES // 92_000)):
            host, _, test = next(self._tests).partition("/")
            made_up = incident(host, test)
            self._stated[made_up["ids"][0]] = made_up
        lines = [line("incident", each) for each in self._stated.values()]
        return [*lines, END]

    def account(self, incident_id: str) -> Lines:
        made_up = self._stated.get(incident_id)
        if made_up is None:
            return [END]
        account = line("incident", made_up | {"opening": self._opening})
        assert len(account) < LINE_BYTES, len(account)
        self.bytes += len(account)
        return [account, END]


class Failing(Strategy):
    """Answers that what it is asked about fails; so it is heard only if its answers are read."""

    text = "answer {test} FAIL age=0.1 duration=0.050 text=so the liar says\n"


class Unasked(Failing):
    """Sends answers that nobody has asked for, without end, in the place of a statement's rest."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        text = "x" * 400
        lines = (f"answer host.example/t{n} OK age=0.1 text={text}\n" for n in range(100))
        self._chunk = "".join(lines).encode()

    def statement(self, address: str) -> Lines:
        while True:
            self.bytes += len(self._chunk)
            yield self._chunk


class Endless(Failing):
    """Makes a statement that has no end; the answers come when it is longer than any that is read."""

    answers_after = 8_500_000

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def statement(self, address: str) -> Lines:
        while True:
            made_up = (line("incident", incident("host.example", "ssh")) for _ in range(100))
            chunk = b"".join(made_up)
            self.bytes += len(chunk)
            yield chunk


class Heavy(Failing):
    """Makes a statement that a reader may take, and that needs twenty times as much once it is read."""

    answers_after = 7_000_000

    def __init__(self, test: str) -> None:
        super().__init__()
        self.bytes = 0
        host, _, name = test.partition("/")
        failed = [["a", 1]] * 12_000
        self._lines = [
            line("incident", incident(host, name, failed=failed))
            for _ in range(SWOLLEN_BYTES // 97_000)
        ]

    def statement(self, address: str) -> Lines:
        for each in self._lines:
            self.bytes += len(each)
            yield each
        yield END


class Reminding(Strategy):
    """States that one more reminder of each incident was told since its last statement."""

    def __init__(self, tests: Sequence[str], count: int = 60) -> None:
        super().__init__()
        self._reminded = 0
        self.incidents = []
        for test in tests:
            host, _, name = test.partition("/")
            self.incidents += [incident(host, name) for _ in range(count)]

    def statement(self, address: str) -> Lines:
        self._reminded += 1
        lines = [line("incident", each | {"reminded": self._reminded}) for each in self.incidents]
        return [*lines, END]


class Flapper(Strategy):
    """States incidents that came and went in the last minutes, so that a test seems to flap."""

    def __init__(self, tests: Sequence[str], count: int = 6) -> None:
        super().__init__()
        self.incidents = []
        for number, test in itertools.product(range(count), tests):
            host, _, name = test.partition("/")
            began = 150.0 * (number + 1)
            self.incidents.append(incident(host, name, began=began, closed=began - 60.0))

    def statement(self, address: str) -> Lines:
        return [*(line("incident", each) for each in self.incidents), END]


class Muting(Strategy):
    """States what would have a real failure not mailed, of one test in each way.

    `flaps` is said to flap, and told. Of `ended` an incident has come and gone just now, and another
    has begun. `claimed` was DOWN by a quorum of 1, and the liar sees it fail.
    """

    def __init__(self, host: str) -> None:
        super().__init__()
        self._host = host
        self._claim = new_id()
        self._flapping = new_id()
        self.claims = False  # whether it states that `claimed` is open

    def _open(self, test: str, **fields: object) -> dict[str, Any]:
        """Return an incident as the wire has it that is open."""
        made_up = incident(self._host, test) | {"began": 20.0, "seen": 0.0} | fields
        del made_up["closed"], made_up["void"]
        return made_up

    def _claimed(self) -> dict[str, Any]:
        return self._open("claimed", ids=[self._claim])

    def statement(self, address: str) -> Lines:
        told = {"flapping": 7, "began": 100.0, "alert": address}
        stated = [self._open("flaps", ids=[self._flapping], **told)]
        ended = incident(self._host, "ended", began=1.0, closed=0.0)
        stated += [ended, self._open("ended", began=0.5)]
        if self.claims:
            stated.append(self._claimed())
        return [*(line("incident", each) for each in stated), END]

    def account(self, incident_id: str) -> Lines:
        if incident_id != self._claim:
            return [END]
        node = {"name": "liar", "site": "liar"}
        result = {"outcome": "FAIL", "text": "so the liar says"}
        answer = {"node": node, "node_id": incident_id[:16], "result": result}
        opening = {"verdict": "DOWN", "quorum": 1, "answers": [answer]}
        return [line("incident", self._claimed() | {"opening": opening}), END]

    def answer(self, test: str) -> bytes:
        outcome = "FAIL" if test.endswith("/claimed") else "OK"
        return f"answer {test} {outcome} age=0.1 duration=0.050 text=so the liar says\n".encode()


class Everything(Strategy):
    """Says that it can mail, lists what honest nodes list, and floods them in many ways, all at once.

    It says nothing false of what is told, closed or silenced. `listed` has the incidents that it has
    read from honest nodes, as the wire has them.
    """

    speaks = True

    def __init__(self, tests: Sequence[str]) -> None:
        super().__init__()
        self.listed: list[dict[str, Any]] = []
        self._evidence = Evidence(tests, is_fat=True)
        self._floods: itertools.cycle[Strategy] = itertools.cycle(
            [
                Flood(tests, 20),
                self._evidence,
                Reminding(tests),
                Flapper(tests),
                Unasked(),
                Endless(),
                Strategy(),
            ]
        )

    def statement(self, address: str) -> Lines:
        yield from (line("incident", each) for each in self.listed)
        yield from next(self._floods).statement(address)

    def account(self, incident_id: str) -> Lines:
        return self._evidence.account(incident_id)


def main(arguments: Sequence[str]) -> None:
    """Lie to all NODEs until the program is ended."""
    address, port, name, key_file, tests, *nodes = arguments
    key = Path(key_file).read_text().strip()
    strategy = Everything(tests.split(","))
    with Liar(address, int(port), name, key, strategy) as liar:
        for node in nodes:
            target = socket.gethostbyname(node), int(port)
            arguments_of_press = (target, node, liar.key, address, lambda: False)
            threading.Thread(target=press, args=arguments_of_press, daemon=True).start()
        while True:
            for node in nodes:
                with contextlib.suppress(
                    OSError, AssertionError, ValueError, protocol.ProtocolError
                ):
                    _learn(liar, strategy, (socket.gethostbyname(node), int(port)), node)
            time.sleep(3.0)


def _learn(liar: Liar, strategy: Everything, target: calls.Target, node: str) -> None:
    """Copy what `node` states: its configuration, and the ids of the incidents that it has open."""
    for each in greet(target, node, liar.key, liar.target[0]):
        word, _, value = each.partition(b" ")
        if word == b"standing":
            strategy.copied = json.loads(value)
        elif word == b"incident" and not json.loads(value).get("void"):
            _list(strategy, json.loads(value))


def _list(strategy: Everything, heard: dict[str, Any]) -> None:
    """List an incident of an honest node as the liar's own, in place of what was listed of it."""
    ids = set(heard["ids"])
    others = [each for each in strategy.listed if ids.isdisjoint(each["ids"])]
    strategy.listed = [*others[-50:], heard]


if __name__ == "__main__":
    main(sys.argv[1:])
