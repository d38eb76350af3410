"""Somebody on the wire between two nodes who cuts a conversation when he reads what he wants nobody to hear."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading
import time
from collections.abc import Iterator

import calls
from local_nodes import LocalNode, Place, running

from dmonitor.core.model import node_test

CALLER, CALLED, OTHER = "127.0.0.34", "127.0.0.35", "127.0.0.36"
WEB = "bank.example.com/web"


STATEMENT_TAKES = 0.5  # seconds, much more than it does


class Wire:
    """Carries conversations from the caller to a called node, and closes those that it is told to."""

    def __init__(self, listener: socket.socket, target: calls.Target) -> None:
        self.cuts = re.compile(rb"answer bank[^\n]* FAIL|bank[^\n]*=FAIL")
        self.is_cutting = True
        self.is_refusing = False  # every conversation, before the node has greeted
        self.cut = self.refused = 0  # conversations
        self._listener = listener
        self._target = target

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(caller,), daemon=True).start()

    def _carry(self, caller: socket.socket) -> None:
        if self.is_refusing:
            self.refused += 1
            caller.close()
            return
        with caller, calls.connect(self._target, CALLER) as called:
            said = b""
            while True:
                for side in select.select([caller, called], [], [])[0]:
                    data = side.recv(65536)
                    if not data:
                        return
                    said = (said + data)[-65536:]
                    if self.is_cutting and self.cuts.search(said):
                        self.cut += 1
                        return
                    if side is called:
                        caller.sendall(data)
                        continue
                    # The statement has to come before the answer, which may be one of a moment ago.
                    before, question, rest = data.partition(b"test bank")
                    called.sendall(before)
                    if question:
                        time.sleep(STATEMENT_TAKES)
                        called.sendall(question + rest)


@contextlib.contextmanager
def wire(port: int, behind: int, address: str = CALLED) -> Iterator[Wire]:
    with socket.create_server((address, port)) as listener:
        carrier = Wire(listener, (address, behind))
        threading.Thread(target=carrier.serve, daemon=True).start()
        yield carrier
        listener.shutdown(socket.SHUT_RDWR)


def failing(place: Place, port: int, behind: int, *addresses: str) -> list[LocalNode]:
    """Return nodes that see WEB fail, of which the first is called at `port`, the others `behind`."""
    nodes: list[LocalNode] = []
    for address in addresses:
        node = LocalNode(place, address, addresses, port=behind if nodes else port)
        node.mail()
        node.key("k" * 32)
        node.test(WEB)
        node.test("www.example.com/ssh")
        node.plugin("web", "echo FAIL refused")
        node.plugin("ssh", "echo OK")
        nodes.append(node)
    return nodes


def test_a_host_that_somebody_silences_is_named(place: Place, port: int) -> None:
    """Every greeting passes, and so does every other test: only the answers about one test are cut off."""
    behind = calls.free_port()
    nodes = failing(place, port, behind, CALLER, CALLED)
    caller, called = nodes
    called.round()  # so that it has a finished round to state
    with wire(port, behind) as carrier, running(nodes):
        logs = [caller.round() for _ in range(3)]
        assert carrier.cut >= 3
        for log in logs:
            assert f"test-ran test={node_test(CALLED)} result=OK" in log, "the greeting passes"
            assert re.search(rf"{WEB} .*UNCONFIRMED", log)
        assert ["kind=no-answer" in log for log in logs] == [False, False, True]
        said = f"dmonitor-check: {CALLER}: in 3 rounds running peers were greeted, and did not"
        assert said in logs[2] and f"{WEB} ({CALLED})" in logs[2], "cron mails it"
        assert place.mails() == []
        carrier.is_cutting = False
        log = caller.round()
        assert "trouble-over kind=no-answer" in log
        assert re.search(rf"incident-opened test={WEB} ", log), "and it is DOWN"


def test_a_host_that_somebody_silences_by_turns_is_named(place: Place, port: int) -> None:
    """In each round one peer is greeted, whose answer he cuts off, and the other one cannot be greeted."""
    behind = calls.free_port()
    nodes = failing(place, port, behind, CALLER, CALLED, OTHER)
    caller = nodes[0]
    for node in nodes[1:]:
        node.round()  # so that it has a finished round to state
    with wire(port, behind) as one, wire(port, behind, OTHER) as other, running(nodes):
        logs = []
        for number in range(4):
            one.is_refusing, other.is_refusing = number % 2 == 1, number % 2 == 0
            cut, refused = one.cut + other.cut, one.refused + other.refused
            logs.append(caller.round())
            assert one.cut + other.cut > cut and one.refused + other.refused > refused
            greeted, refusing = (OTHER, CALLED) if number % 2 else (CALLED, OTHER)
            assert f"test-ran test={node_test(greeted)} result=OK" in logs[-1]
            assert f"test-ran test={node_test(refusing)} result=FAIL" in logs[-1]
        assert re.search(rf"{WEB} .*UNCONFIRMED", logs[0]) and place.mails() == []
        assert ["kind=no-answer" in log for log in logs] == [False, False, True, False], (
            "a text that changes is logged again"
        )
        assert f"{WEB} (another one in each round)" in logs[2]
        one.is_cutting = other.is_cutting = one.is_refusing = other.is_refusing = False
        log = caller.round()
        assert "trouble-over kind=no-answer" in log
        assert re.search(rf"incident-opened test={WEB} ", log), "and it is DOWN"
