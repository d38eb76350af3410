"""A hostile web host, in a network of its own: it has public addresses, and there are internal ones that it must not lead us to.

    unshare --net --mount python3 -B tests/servers/astray.py DIRECTORY PLUGIN HOST [KEY=VALUE...]

Run PLUGIN for HOST in there, and print as JSON what it said, and all that was asked of a web server or of the name server.
On each address and port, /to?URL redirects to URL, /endless has no end, and every other page says welcome. DIRECTORY has the
key and certificate `server.pem` for https on evil.test.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote

EVIL = "11.0.0.1"
OTHER = "11.0.0.2"
INTERNAL = ("127.0.0.1", "10.0.0.1", "169.254.169.254", "fd00::1")
PORTS = (80, 8080)
# What the name server answers, one after the other; the last one stays.
NAMES = {
    "evil.test": [[EVIL]],
    "other.test": [[OTHER]],
    "inner.test": [["10.0.0.1"]],
    "both.test": [["10.0.0.1", OTHER]],
    "rebound.test": [[OTHER], ["127.0.0.1"]],
}
asked: list[str] = []  # ADDRESS:PORT LINE of each request, and NAME of each question
sent = 0  # bytes of endless pages


def serve(connection: socket.socket, context: ssl.SSLContext | None) -> None:
    global sent
    try:
        if context:
            connection = context.wrap_socket(connection, server_side=True)
        address, port = connection.getsockname()[:2]
        request = connection.recv(65536).decode("latin-1")
        path = request.split(" ")[1]
        password = " with a password" if "\r\nauthorization:" in request.lower() else ""
        asked.append(f"{address}:{port} {path}{password}")
        if path.startswith("/to?"):
            target = unquote(path[4:])
            answer = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 4\r\n\r\nmove"
            connection.sendall(answer.encode("latin-1"))
        elif path == "/endless":
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                sent += connection.send(b"x" * 65536)
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nwelcome")
    except (OSError, IndexError):
        pass
    finally:
        connection.close()


def listen(address: str, port: int, context: ssl.SSLContext | None = None) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, context), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def answer_questions() -> None:
    """Be the name server, which answers questions for IPv4 addresses only."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))

    def answer() -> None:
        while True:
            question, client = server.recvfrom(512)
            end = question.index(0, 12) + 5
            labels, position = [], 12
            while question[position]:
                labels.append(question[position + 1 : position + 1 + question[position]].decode())
                position += 1 + question[position]
            name = ".".join(labels).lower()
            addresses: list[str] = []
            if question[end - 4 : end - 2] == b"\0\1" and name in NAMES:
                asked.append(name)
                answers = NAMES[name]
                addresses = answers.pop(0) if len(answers) > 1 else answers[0]
            code = 0 if name in NAMES else 3
            head = question[:2] + struct.pack(">HHHHH", 0x8580 | code, 1, len(addresses), 0, 0)
            records = b"".join(
                b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address) for address in addresses
            )
            server.sendto(head + question[12:end] + records, client)

    threading.Thread(target=answer, daemon=True).start()


def main() -> None:
    directory, plugin, host, *parameters = sys.argv[1:]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in (EVIL, OTHER, *INTERNAL[1:]):
        options = ["nodad"] if ":" in address else []
        subprocess.run(["ip", "address", "add", address, "dev", "lo", *options], check=True)
    for path, text in (
        ("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
        ("/etc/hosts", "127.0.0.1 localhost\n"),
    ):
        replacement = Path(directory) / Path(path).name
        replacement.write_text(text)
        subprocess.run(["mount", "--bind", replacement, path], check=True)
    answer_questions()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(directory) / "server.pem")
    for address in (EVIL, OTHER, *INTERNAL):
        for port in PORTS:
            listen(address, port)
    listen(EVIL, 443, context)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    environment["CURL_CA_BUNDLE"] = f"{directory}/server.pem"
    environment |= dict(parameter.split("=", 1) for parameter in parameters)
    ran = subprocess.run(
        [plugin, host], env=environment, capture_output=True, text=True, timeout=12, check=False
    )
    print(json.dumps({"said": ran.stdout + ran.stderr, "asked": asked, "sent": sent}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
