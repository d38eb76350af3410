"""Somebody on the wire between two nodes who cuts a conversation when he reads what he wants nobody to hear."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading
from collections.abc import Iterator

import calls
from local_nodes import LocalNode, Place, running

from dmonitor.core.model import node_test

CALLER, CALLED = "127.0.0.34", "127.0.0.35"
WEB = "bank.example.com/web"


class Wire:
    """Carries conversations from the caller to the called node, and closes those that it is told to."""

    def __init__(self, listener: socket.socket, port: int) -> None:
        self.cuts = re.compile(rb"answer bank[^\n]* FAIL|bank[^\n]*=FAIL")
        self.is_cutting = True
        self.cut = 0  # conversations
        self._listener = listener
        self._port = port

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(caller,), daemon=True).start()

    def _carry(self, caller: socket.socket) -> None:
        with caller, calls.connect((CALLED, self._port), CALLER) as called:
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
                    (called if side is caller else caller).sendall(data)


@contextlib.contextmanager
def wire(port: int, behind: int) -> Iterator[Wire]:
    with socket.create_server((CALLED, port)) as listener:
        carrier = Wire(listener, behind)
        threading.Thread(target=carrier.serve, daemon=True).start()
        yield carrier
        listener.shutdown(socket.SHUT_RDWR)


def test_a_host_that_somebody_silences_is_named(place: Place, port: int) -> None:
    """Every greeting passes, and so does every other test: only the answers about one test are cut off."""
    behind = calls.free_port(CALLED)
    nodes = [
        LocalNode(place, CALLER, (CALLER, CALLED), port=port),
        LocalNode(place, CALLED, (CALLER, CALLED), port=behind),
    ]
    for node in nodes:
        node.mail()
        node.key("k" * 32)
        node.test(WEB)
        node.test("www.example.com/ssh")
        node.plugin("web", "echo FAIL refused")
        node.plugin("ssh", "echo OK")
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
