"""Servers of the matrix that Debian has no package of: broken ones, and such as are right and seldom.

    python3 -B odd_servers.py ADDRESS DIRECTORY

They listen at ADDRESS; DIRECTORY has good.crt and good.key. Each port has a server of its own, which `PORTS` names. None
looks at more of a request than it has to.
"""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from urllib.parse import unquote

Serve = Callable[[socket.socket], None]

HEADER_BYTES = 200_000
_TEXT = b"everything is well"


def _greet(*parts: bytes, pause: float = 0.0) -> Serve:
    """Return a server that says `parts`, with a pause between, and then takes what the client says."""

    def serve(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        while connection.recv(4096):
            pass

    return serve


def _hang_up_after(*parts: bytes) -> Serve:
    """Return a server that says `parts`, each after the client said something, and closes."""

    def serve(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)
            connection.recv(4096)

    return serve


def _mysql_error(code: int, text: bytes) -> bytes:
    payload = b"\xff" + code.to_bytes(2, "little") + text
    return len(payload).to_bytes(3, "little") + b"\0" + payload


# The web server. The path says how it answers.


def _serve_web(connection: socket.socket) -> None:
    request = connection.recv(65536).decode("latin-1")
    path = request.split(" ")[1]
    headers: list[str] = []
    status, body = "200 OK", b"<p>" + _TEXT + b"</p>\n"
    if path.startswith("/to?"):
        status = "302 Found"
        headers.append(f"Location: {unquote(path[4:])}")
    elif path.startswith("/status/"):
        status = path.removeprefix("/status/") + " Odd"
    elif path == "/headers":
        line = "X-Long: " + "x" * 1000
        headers += [line] * (2 * HEADER_BYTES // len(line))
    elif path == "/header":
        headers.append("X-Long: " + "x" * HEADER_BYTES)
    elif path == "/cookie" and "been=here" not in request:
        status = "302 Found"
        headers += ["Location: /cookie", "Set-Cookie: been=here; Path=/"]
    elif path == "/gzip":
        headers.append("Content-Encoding: gzip")
        body = gzip.compress(body)
    elif path == "/latin1":
        headers.append("Content-Type: text/html; charset=iso-8859-1")
        body = "<p>Café, où ".encode("latin-1") + body
    elif path == "/endless":
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1") + body)


# Servers behind TLS that serve only who names the host (SNI).


class _ByName:
    """A TLS server's context that refuses a client that names no host."""

    def __init__(self, directory: str) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(f"{directory}/good.crt", f"{directory}/good.key")
        self.context.sni_callback = self._look

    @staticmethod
    def _look(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int | None:
        return None if name == "good.test" else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    def inside(self, serve: Serve) -> Serve:
        """Return a server that begins TLS at once."""

        def serve_inside(connection: socket.socket) -> None:
            with self.context.wrap_socket(connection, server_side=True) as inside:
                serve(inside)

        return serve_inside

    def submission(self, offer: bytes) -> Serve:
        """Return a mail server that offers `offer`, and begins TLS when it is told to."""

        def serve(connection: socket.socket) -> None:
            connection.sendall(b"220 good.test ESMTP\r\n")
            connection.recv(4096)
            connection.sendall(b"250-good.test\r\n250 " + offer + b"\r\n")
            connection.recv(4096)
            connection.sendall(b"220 go on\r\n")
            self.inside(_answer_mail)(connection)

        return serve


def _answer_mail(connection: socket.socket) -> None:
    while asked := connection.recv(4096):
        word = asked[:4].upper()
        connection.sendall(b"221 bye\r\n" if word == b"QUIT" else b"250 good.test\r\n")


def ports(directory: str) -> dict[int, Serve]:
    by_name = _ByName(directory)
    return {
        8090: _serve_web,
        2201: _greet(b"Welcome.\r\nThis is a bastion.\r\n", b"SSH-2.0-Odd_1.0\r\n"),
        2202: _greet(b"SSH-2", b".0-Odd_1.0\r\n", pause=0.5),
        8731: _greet(b"@RSYNCD: 9999.0\n"),
        8732: _hang_up_after(b"@RSYNCD: 31.0\n", b""),
        8733: _hang_up_after(b"@RSYNCD: 31.0\n", b"@ERROR: max connections reached\n"),
        8734: _hang_up_after(b"@RSYNCD: 31.0\n", b"\xff\xff\xff\xff" * 64),
        3307: _greet(_mysql_error(1130, b"Host '192.0.2.100' is not allowed to connect")),
        3308: _greet(_mysql_error(1040, b"Too many connections")),
        2993: by_name.inside(_greet(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")),
        2995: by_name.inside(_greet(b"+OK ready\r\n")),
        2587: by_name.submission(b"STARTTLS"),
        2588: by_name.submission(b"starttls"),
    }


def _listen(address: str, port: int, serve: Serve) -> None:
    listener = socket.create_server((address, port), backlog=100)

    def answer(connection: socket.socket) -> None:
        # A client may leave when it likes, and a request may be anything.
        with contextlib.suppress(OSError, IndexError), connection:
            connection.settimeout(12)
            serve(connection)

    while True:
        connection = listener.accept()[0]
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def main() -> None:
    address, directory = sys.argv[1:]
    for port, serve in ports(directory).items():
        threading.Thread(target=_listen, args=(address, port, serve)).start()


if __name__ == "__main__":
    main()
