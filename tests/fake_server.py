"""Servers on loopback that say what a test has them say, in the clear or inside TLS."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

# What a server does after a client came: say bytes, wait some seconds (a float), wait for a line
# (the str is what has to be in it), begin TLS (a Tls).
Step = bytes | float | str | ssl.SSLContext


class Server(NamedTuple):
    """A server that listens, and what became of it."""

    port: int
    heard: list[bytes]  # lines that were waited for
    names: list[str | None]  # that TLS was begun for
    callers: list[str]  # addresses

    def reached(self) -> list[str]:
        """Return who called; wait a moment for the first caller."""
        deadline = time.monotonic() + 2
        while not self.callers and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.callers


@functools.cache
def certificate() -> str:
    """Return the path of a key with a certificate of its own; it lasts as long as the tests."""
    directory = tempfile.TemporaryDirectory(prefix="dmonitor-certificate.")
    _KEPT.append(directory)
    path = f"{directory.name}/pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-days", "30", "-subj", "/CN=www.example.com", "-keyout", path, "-out", f"{path}.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    with open(path, "a") as file:
        file.write(Path(f"{path}.crt").read_text())
    return path


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate())
    return context


@contextlib.contextmanager
def serving(
    steps: Sequence[Step] | Callable[[socket.socket], None],
    address: str = "127.0.0.1",
    port: int = 0,
) -> Iterator[Server]:
    """Serve each client by `steps`, and then close."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(20)
        server = Server(listener.getsockname()[1], [], [], [])

        def accept() -> None:
            while True:
                try:
                    client, peer = listener.accept()
                except OSError:
                    return
                server.callers.append(peer[0])
                work = threading.Thread(target=_serve, args=(client, steps, server), daemon=True)
                work.start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _serve(
    client: socket.socket, steps: Sequence[Step] | Callable[[socket.socket], None], server: Server
) -> None:
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        stack.enter_context(client)
        client.settimeout(12)
        if callable(steps):
            steps(client)
            return
        for step in steps:
            if isinstance(step, ssl.SSLContext):
                step.sni_callback = lambda _socket, name, _context: server.names.append(name)
                client = stack.enter_context(step.wrap_socket(client, server_side=True))
            elif isinstance(step, bytes):
                client.sendall(step)
            elif isinstance(step, float):
                time.sleep(step)
            else:
                line = _line(client)
                server.heard.append(line)
                if step.encode() not in line:
                    return


def _line(client: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = client.recv(1)
        if not byte:
            break
        line += byte
    return line


def environment() -> dict[str, str]:
    """Return an environment like the supervisor's, without parameters."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}


def run_plugin(path: Path, host: str, *before: str, **parameters: object) -> str:
    """Return the line that the plugin prints, as `before`, such as prlimit, starts it."""
    variables = environment() | {name: str(value) for name, value in parameters.items()}
    ran = subprocess.run(
        [*before, str(path), host],
        env=variables,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=11,
        check=False,
    )
    assert ran.stderr == "" and ran.stdout.count("\n") == 1, (ran.stdout, ran.stderr)
    return ran.stdout.removesuffix("\n")
