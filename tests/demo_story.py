"""The story that `sh demo` tells, with three real nodes, a real target, and a stand-in for sendmail.

The exit status is 0 only if exactly the expected mails came.
"""

from __future__ import annotations

import email.message
import http.server
import io
import os
import secrets
import socket
import socketserver
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

from local_nodes import ADDRESS, LocalNode, Place, running

NODES = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
TARGET = "127.0.0.21"
HTTP, SSH = 8029, 8022

# A plugin is any program that prints OK or FAIL. These are Python, so that the demo needs nothing else.
PLUGINS = {
    "http": """
        import os, sys, http.client
        try:
            connection = http.client.HTTPConnection(sys.argv[1], int(os.environ["PORT"]), 8, (os.environ["SOURCE"], 0))
            connection.request("GET", "/")
            print("OK" if (status := connection.getresponse().status) < 400 else "FAIL", "HTTP status", status)
        except OSError as error:
            print("FAIL", error.strerror or error)
        except http.client.HTTPException as error:
            print("FAIL", error)
        """,
    "ssh": """
        import os, sys, socket
        try:
            with socket.create_connection((sys.argv[1], int(os.environ["PORT"])), 8, (os.environ["SOURCE"], 0)) as connection:
                banner = connection.recv(100).decode("ascii", "replace").strip()
            print("OK" if banner.startswith("SSH-2.0-") else "FAIL", banner or "closed without a greeting")
        except OSError as error:
            print("FAIL", error.strerror or error)
        """,
}


class Target:
    """A host with a web server and something like an SSH daemon. It can shut out single callers."""

    def __init__(self) -> None:
        self.blocked: set[str] = set()
        target = self

        class Web(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.client_address[0] not in target.blocked:
                    self.send_response(200)
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Ssh(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                if self.client_address[0] not in target.blocked:
                    self.request.sendall(b"SSH-2.0-demo\r\n")

        self._kinds = ((HTTP, Web), (SSH, Ssh))
        self._servers: list[socketserver.ThreadingTCPServer] = []

    def start(self) -> None:
        for port, handler in self._kinds:
            server = socketserver.ThreadingTCPServer(
                (TARGET, port), handler, bind_and_activate=False
            )
            server.allow_reuse_address = True
            server.daemon_threads = True
            server.server_bind()
            server.server_activate()
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            self._servers.append(server)

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers.clear()


def make_nodes(place: Place) -> list[LocalNode]:
    nodes = [LocalNode(place, address, list(NODES)) for address in NODES]
    key = secrets.token_hex(32)
    for node in nodes:
        node.key(key)
        node.also = ("--run", str(place.writable(f"{node.address}-run")))
        for name, port in (("http", HTTP), ("ssh", SSH)):
            node.test(f"{TARGET}/{name}", f"PORT={port}\nSOURCE={node.address}\n")
            node.plugin(name, PLUGINS[name], os.path.realpath(sys.executable))
        node.mail()  # the same address on every node; only one of them mails it
    return nodes


def round_on_each(nodes: list[LocalNode]) -> str:
    """Run a round on each node, one after the other; return what the first one logged."""
    logs = [node.round() for node in nodes]
    return logs[0]


def table(node: LocalNode) -> None:
    """Print what each node sees."""
    print(f"    $ dmonitor-check --dry-run      # on {node.address}")
    print(textwrap.indent(node.run("dmonitor-check", "--dry-run").stdout, "    "))


def pass_time() -> None:
    """Wait until no daemon gives out an old result; between two rounds of cron that is always so."""
    time.sleep(5.2)


def chapter(title: str) -> None:
    print(f"\n== {title}", flush=True)


def lines_about(log: str, *events: str) -> None:
    print("    The log of its round:\n")
    for line in log.splitlines():
        if line.partition(": ")[2].startswith(events):
            print(
                textwrap.fill(
                    line,
                    118,
                    initial_indent="    ",
                    subsequent_indent=" " * 20,
                    break_on_hyphens=False,
                )
            )
    print()


def expect(place: Place, *subjects: str) -> None:
    """Raise AssertionError unless exactly these mails have come so far, to the one address."""
    mails = [(str(mail["To"]), str(mail["Subject"])) for mail in place.mails()]
    wanted = [(ADDRESS, subject) for subject in subjects]
    assert mails == wanted, f"expected the mails {wanted}, and got {mails}"
    print(f"    mails so far: {len(mails)}, as it should be\n")


def show(mails: list[email.message.EmailMessage]) -> None:
    for mail in mails:
        del mail["X-Arguments"]  # how the stand-in for sendmail was called
        print(textwrap.indent(str(mail), "    | ", lambda line: True))


def tell(place: Place, nodes: list[LocalNode], target: Target, page: str | None) -> None:
    """Play the story; write a page of it into the directory `page`, if there is one."""
    first, down = nodes[0], f"DOWN {TARGET}: http, ssh"
    print(
        f"Three nodes on this machine: {', '.join(NODES)}. Each tests {TARGET}: a web server, and something like an SSH daemon."
    )
    chapter("All is up: a round on each node says nothing, and mails nothing")
    target.start()
    round_on_each(nodes)
    table(first)
    expect(place)

    chapter(
        f"The target shuts {first.address} out, which alone sees it fail. No mail, and the log says why"
    )
    target.blocked.add(first.address)
    lines_about(round_on_each(nodes), "asked test", "answer", "verdict")
    table(first)
    expect(place)
    target.blocked.clear()

    chapter(
        "The target is really down: the nodes agree, and the first of them mails; all have the same address in alert.d"
    )
    pass_time()
    target.stop()
    lines_about(
        round_on_each(nodes),
        "asked test",
        "answer",
        "verdict",
        "incident",
        "speaker-chosen",
        "handed-over",
    )
    show(place.mails())
    expect(place, down)

    chapter("Another round, and it is still down: nothing more is mailed. What an operator sees")
    round_on_each(nodes)
    for words in (("status",), ("why", f"{TARGET}/http")):
        print(f"    $ dmonitor {' '.join(words)}      # on {first.address}")
        print(textwrap.indent(first.run("dmonitor", *words).stdout, "    "))
    expect(place, down)
    if page:
        made = first.run("dmonitor", "page", "-")
        assert made.returncode == 0, made.stderr
        Path(page, "index.html").write_text(made.stdout, encoding="utf-8")

    chapter(
        f"It is back; but {first.address} cannot mail, for its sendmail refuses: the next node says it"
    )
    pass_time()
    target.start()
    first.configure(
        f"sendmail = {place.program('refuses', '#!/bin/sh' + chr(10) + 'echo no room in the queue; exit 75' + chr(10))}\n"
    )
    refused = first.run("dmonitor-check", "--verbose", "--once").stderr
    lines_about(refused, "verdict", "incident", "speaker-chosen", "refused")
    expect(place, down)
    lines_about(nodes[1].round(), "incident", "speaker-chosen", "handed-over")
    nodes[2].round()
    show(place.mails()[1:])
    expect(place, down, f"UP {TARGET}: http, ssh")


def take_turn() -> socket.socket:
    """Wait until no other demo runs in this network, because the addresses are the same; return what others wait for."""
    turn = socket.socket(socket.AF_UNIX)
    for _ in range(300):
        try:
            turn.bind("\0dmonitor-demo")
            break
        except OSError:
            time.sleep(0.2)
    return turn


def main() -> int:
    """Tell the story in a temporary directory; return 0 if it went as it should."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that an error comes after the story
    turn = take_turn()
    began = time.monotonic()
    target = Target()
    with turn, tempfile.TemporaryDirectory(prefix="dmonitor-demo.") as directory:
        place = Place(Path(directory))
        nodes = make_nodes(place)
        try:
            with running(nodes):
                tell(
                    place, nodes, target, str(Path(sys.argv[1]).resolve()) if sys.argv[1:] else None
                )
        except AssertionError as error:
            hint = (
                "; does dmonitor run on this machine already?"
                if "Address already in use" in str(error)
                else ""
            )
            print(f"dmonitor demo: FAILED: {str(error).strip()}{hint}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            target.stop()
    print(f"\nThat took {time.monotonic() - began:.0f} s.")
    print(
        "dmonitor demo: as it should be: three nodes, one mail when it went down, one when it came back, none for what one alone saw."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
