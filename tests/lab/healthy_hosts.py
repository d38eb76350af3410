"""The small servers of hosts that are well, for the scenario own-faults, and the name server that knows these hosts.

    python3 -B healthy_hosts.py NAMES ADDRESS...

NAMES is a file with lines like those of /etc/hosts. A name server answers at port 53 of each ADDRESS. At all of them, servers
greet on the ports of `GREETERS`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import sys
import threading

SSH, SMTP, TCP = 2222, 2525, 9999  # ports
_A, _NXDOMAIN, _ANSWER = 1, 3, 0x8580
_SECONDS = 12.0  # that a client may stay


def read_names(path: str) -> dict[str, str]:
    """Return the address of each name in the file `path`."""
    found = {}
    with open(path) as file:
        for line in file:
            address, *names = line.split()
            for name in names:
                found[name] = address
    return found


def answer(question: bytes, names: dict[str, str]) -> bytes:
    """Return the answer to a question of DNS; only names and their IPv4 addresses are known."""
    labels = []
    end = 12
    while question[end]:
        labels.append(question[end + 1 : end + 1 + question[end]])
        end += 1 + question[end]
    end += 5
    kind = int.from_bytes(question[end - 4 : end - 2], "big")
    address = names.get(b".".join(labels).decode("latin-1").lower())
    record = b""
    if address and kind == _A:
        record = struct.pack(">HHHIH", 0xC00C, _A, 1, 0, 4) + socket.inet_aton(address)
    flags = _ANSWER if address else _ANSWER | _NXDOMAIN
    head = question[:2] + struct.pack(">HHHHH", flags, 1, 1 if record else 0, 0, 0)
    return head + question[12:end] + record


def serve_names(addresses: list[str], names: dict[str, str]) -> None:
    """Answer at port 53 of all addresses. Never return."""
    sockets = []
    for address in addresses:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((address, 53))
        sockets.append(server)
    while True:
        for server in select.select(sockets, [], [])[0]:
            with contextlib.suppress(OSError, IndexError):
                question, client = server.recvfrom(4096)
                server.sendto(answer(question, names), client)


def _ssh(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-Healthy_1.0\r\n")
    while connection.recv(4096):
        pass


def _smtp(connection: socket.socket) -> None:
    connection.sendall(b"220 healthy ESMTP\r\n")
    while said := connection.recv(4096):
        connection.sendall(b"221 bye\r\n" if said[:4].upper() == b"QUIT" else b"250 healthy\r\n")


def _tcp(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


GREETERS = {SSH: _ssh, SMTP: _smtp, TCP: _tcp}


def greet(port: int) -> None:
    """Serve a port of all addresses. Never return."""
    listener = socket.create_server(("", port), backlog=500)

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(_SECONDS)
            GREETERS[port](connection)

    while True:
        connection = listener.accept()[0]
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def main() -> None:
    path, *addresses = sys.argv[1:]
    for port in GREETERS:
        threading.Thread(target=greet, args=(port,), daemon=True).start()
    serve_names(addresses, read_names(path))


if __name__ == "__main__":
    main()
