"""The plugins of binary protocols and of datagrams, and `wrap`: whose fault it is, and what hostile servers can do."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_server import Step, run_plugin, serving, tls_context
from test_probe import OWN_FIREWALL, hosts, in_a_network, in_network

CHECKOUT = Path(__file__).parents[1]
PLUGINS = CHECKOUT / "plugins"


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the plugins and the examples, as they are when the package is where it belongs."""
    directory = tmp_path_factory.mktemp("plugins")
    here = '__file__.rpartition("/")[0] + "/.."'
    for path in (*PLUGINS.glob("check_*"), *(CHECKOUT / "etc/examples/plugins").glob("check_*")):
        code = path.read_text().replace('"/usr/lib/python3/dist-packages"', here)
        copy = directory / path.name
        copy.write_text(code.replace(here, repr(str(CHECKOUT))))
        copy.chmod(0o755)
    return directory


def look(plugins: Path, name: str, **parameters: object) -> str:
    return run_plugin(plugins / f"check_{name}", "127.0.0.1", **parameters)


def element(tag: int, *parts: bytes) -> bytes:
    value = b"".join(parts)
    return bytes([tag, len(value)]) + value


def ldap_result(code: int, text: bytes = b"", *more: bytes) -> bytes:
    result = element(0x65, element(10, bytes([code])), element(4), element(4, text), *more)
    return element(0x30, element(2, b"\1"), result)


LDAP_ENTRY = element(0x30, element(2, b"\1"), element(0x64, element(4), element(0x30)))
LDAP_LONG = b"\x30\x82\0\x0c" + element(2, b"\1") + element(0x65, b"\x0a\1\0\4\0\4\0")


def mysql_packet(number: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "little") + bytes([number]) + content


MYSQL_CHALLENGE = b"abcdefghijklmnopqrst"


def mysql_greeting(method: bytes = b"mysql_native_password", has_tls: bool = False) -> bytes:
    can = 0x0008_8209 | (0x800 if has_tls else 0)
    greeting = b"\x0a8.0.30\0\1\0\0\0" + MYSQL_CHALLENGE[:8] + b"\0"
    greeting += (can & 0xFFFF).to_bytes(2, "little") + b"\x21\2\0"
    greeting += (can >> 16).to_bytes(2, "little") + b"\x15" + bytes(10)
    return mysql_packet(0, greeting + MYSQL_CHALLENGE[8:] + b"\0" + method + b"\0")


def mysql_error(number: int, text: str, sequence: int = 0, state: str = "#08004") -> bytes:
    return mysql_packet(
        sequence, b"\xff" + number.to_bytes(2, "little") + state.encode() + text.encode()
    )


def postgres_error(code: str, text: str) -> bytes:
    fields = b"".join(f"{field}\0".encode() for field in ("SFATAL", f"C{code}", f"M{text}")) + b"\0"
    return b"E" + (4 + len(fields)).to_bytes(4, "big") + fields


def mqtt_message(topic: bytes, content: bytes) -> bytes:
    value = len(topic).to_bytes(2, "big") + topic + content
    return bytes([0x31, len(value)]) + value


LONG = 9.0  # seconds; a server that closes before it has read all is heard as "reset"
VERSION = b"mosquitto version 2.0.11"
MQTT: list[Step] = [
    0.1,
    b"\x20\2\0\0",
    0.1,
    b"\x90\3\0\1\0",
    mqtt_message(b"$SYS/broker/version", VERSION),
    LONG,
]
RSYNC = b"@RSYNCD: 31.0 sha512 md5\n"
# What a good server says, in steps, and what the plugin says of that.
GOOD: dict[str, tuple[list[Step], str]] = {
    "redis": (["PING", b"+PONG\r\n"], "OK +PONG"),
    "memcached": (["version", b"VERSION 1.6.18\r\n"], "OK VERSION 1.6.18"),
    "rsync": (
        [RSYNC, "31.0", "#list", b"Welcome\nfiles \tall\nmore \t\n@RSYNCD: EXIT\n"],
        "OK it lists: Welcome files more",
    ),
    "postgres": ([0.1, b"R\0\0\0\x08\0\0\0\x0a", LONG], "OK it accepts connections"),
    "mysql": (
        [mysql_greeting(), 0.1, mysql_packet(2, b"\0\0\0\2\0\0\0"), LONG],
        "OK it is ready, and lets dmonitor in: 8.0.30",
    ),
    "ldap": (
        [0.1, LDAP_ENTRY + ldap_result(0), LONG],
        "OK everybody may read what it says of itself",
    ),
    "mqtt": (MQTT, f"OK {VERSION.decode()}"),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("is_slow", [False, True])
def test_a_good_server(name: str, is_slow: bool, plugins: Path) -> None:
    """Whole, and byte by byte."""
    steps, said = GOOD[name]
    if is_slow:
        slow: list[Step] = []
        for step in steps:
            parts = [step[:9], step[9:]] if isinstance(step, bytes) else [step]
            for byte in parts[0] if isinstance(parts[0], bytes) else ():
                slow += [bytes([byte]), 0.01]
            slow += parts[1:] if isinstance(step, bytes) else [step]
        steps = slow
    with serving(steps) as server:
        assert look(plugins, name, PORT=server.port) == said
    assert server.callers == ["127.0.0.1"]


OTHERWISE: list[tuple[str, list[Step], dict[str, str], str]] = [
    ("redis", [b"-NOAUTH Authentication required.\r\n"], {}, "OK -NOAUTH Authentication required."),
    ("redis", [b"-LOADING it reads\r\n"], {}, "FAIL it says: -LOADING it reads"),
    ("redis", [b"-DENIED protected mode\r\n"], {}, "FAIL it says: -DENIED protected mode"),
    ("memcached", [b"ERROR\r\n"], {}, "FAIL it says: ERROR"),
    ("rsync", [RSYNC, "31", "files", b"@RSYNCD: OK\n"], {"MODULE": "files/a"}, "OK it has files"),
    (
        "rsync",
        [RSYNC, "31", "files", b"@RSYNCD: AUTHREQD abc\n"],
        {"MODULE": "files"},
        "OK it has files, and wants a password",
    ),
    (
        "rsync",
        [RSYNC, "31", "none", b"@ERROR: Unknown module 'none'\n"],
        {"MODULE": "none"},
        "FAIL Unknown module 'none'",
    ),
    ("rsync", [RSYNC, "31", "x", b"@RSYNCD: EXIT\n"], {"MODULE": "x"}, "FAIL @RSYNCD: EXIT"),
    ("rsync", [RSYNC, "31", "list", b"@RSYNCD: OK\n"], {}, "FAIL @RSYNCD: OK"),
    ("rsync", [b"@ERROR: max connections (2) reached\n"], {}, "FAIL .*max connections .2. reached"),
    (
        "postgres",
        [0.1, postgres_error("53300", "sorry, too many clients already")],
        {},
        "OK it accepts connections, and says: sorry, too many clients already",
    ),
    ("postgres", [0.1, postgres_error("28000", "no entry")], {}, "OK it accepts .*: no entry"),
    ("postgres", [0.1, postgres_error("57P03", "it is starting up")], {}, "FAIL it is starting up"),
    (
        "postgres",
        [0.1, b"Ecould not fork new process for connection: no memory\n\0"],
        {},
        "FAIL could not fork new process for connection: no memory.*",
    ),
    ("postgres", [0.1, b"E\0\0\0\x05\0"], {}, "FAIL what it says is not PostgreSQL"),
    ("postgres", [0.1, b"E\0\0\0\x08abcd"], {}, "FAIL what it says is not PostgreSQL"),
    ("mysql", [mysql_error(1040, "Too many connections")], {}, r"FAIL Too many connections .1040."),
    ("mysql", [mysql_error(2003, "no backend")], {}, r"FAIL no backend .2003."),
    (
        "mysql",
        [mysql_error(1130, "Host x", state="")],
        {},
        "OK it is ready, and refuses .*Host x.*",
    ),
    (
        "mysql",
        [mysql_error(1129, "Host x", state="")],
        {},
        "OK it is ready, and refuses .*Host x.*",
    ),
    (
        "mysql",
        [mysql_greeting(), 0.1, mysql_error(1045, "Access denied", 2)],
        {},
        r"OK it is ready, and refuses this login: Access denied .1045.",
    ),
    ("mysql", [mysql_greeting(), 0.1, mysql_error(1053, "stopping", 2)], {}, "FAIL stopping .*"),
    ("mysql", [mysql_packet(0, b"")], {}, "FAIL what it says is not MySQL"),
    ("mysql", [mysql_packet(0, b"\x0a")], {"TIMEOUT": "1"}, "FAIL .*"),
    ("mysql", [mysql_packet(0, b"\xff")], {}, r"FAIL .0."),
    (
        "mysql",
        [mysql_greeting(), 0.1, *[mysql_packet(2, b"\1\3")] * 9, 0.5],
        {},
        "FAIL it asks one thing after the other, and ends no login",
    ),
    ("mysql", [mysql_greeting(), 0.1, mysql_packet(2, b"x")], {}, "FAIL .* login is not MySQL"),
    ("ldap", [0.1, LDAP_LONG], {"BASE": "dc=x"}, "OK everybody may read dc=x"),
    (
        "ldap",
        [0.1, ldap_result(10, b"", element(0xA3, element(4, b"ldap://10.9.9.9/")))],
        {},
        "FAIL referral",
    ),
    ("ldap", [0.1, ldap_result(50, b"nobody")], {}, "FAIL insufficientAccessRights nobody"),
    ("ldap", [0.1, ldap_result(99)], {}, "FAIL code 63"),
    ("ldap", [0.1, b"\x30\x80" + bytes(9)], {}, "FAIL what it says is not LDAP"),
    (
        "ldap",
        [0.1, b"\x30\x84\x7f\xff\xff\xff" + bytes(70_000)],
        {},
        "FAIL it says more than 64 kB",
    ),
    ("ldap", [0.1, element(0x30, element(2, b"\1"), b"\x65\x7f")], {}, "FAIL .*is not LDAP"),
    ("ldap", [0.1, LDAP_ENTRY * 9000, 1.0], {}, "FAIL it says more than 64 kB"),
    ("mqtt", [0.1, b"\x20\2\0\5"], {}, "FAIL it does not let this client in"),
    ("mqtt", [0.1, b"\x20\2\0\x77"], {}, "FAIL it refuses with code 119"),
    ("mqtt", [0.1, b"\x20\0"], {}, "FAIL what it says is not MQTT"),
    ("mqtt", [0.1, b"\x20\xff\xff\xff\xff\1"], {}, "FAIL what it says is not MQTT"),
    ("mqtt", [0.1, b"\x20\xff\xff\xff\x7f" + bytes(70_000)], {}, "FAIL it says more than 64 kB"),
    ("mqtt", [*MQTT[:3], b"\x90\3\0\1\x80"], {}, "FAIL it does not let this client read .*"),
    ("mqtt", [*MQTT[:3], b"\x90\3\0\1\0", 3.0], {"TIMEOUT": "1"}, "FAIL no answer within 1 s"),
    ("mqtt", [*MQTT[:3], b"\x90\3\0\1\0\x31\2\0\0"], {}, "OK"),
    ("mqtt", [*MQTT[:3], b"\x90\3\0\1\0\x31\1\0"], {}, "FAIL what it says is not MQTT"),
    ("mqtt", [*MQTT[:3], b"\x90\3\0\1\0\x31\3\0\2x"], {}, "FAIL what it says is not MQTT"),
    ("mqtt", [*MQTT[:3], b"\x31\5\0\1x42\x90\3\0\1\0"], {}, "OK 42"),
]


@pytest.mark.parametrize(("name", "steps", "parameters", "said"), OTHERWISE)
def test_what_else_a_server_may_say(
    name: str, steps: list[Step], parameters: dict[str, str], said: str, plugins: Path
) -> None:
    with serving([*steps, LONG]) as server:
        text = look(plugins, name, PORT=server.port, **parameters)
    assert server.callers and re.fullmatch(said, text), text


@pytest.mark.parametrize("name", GOOD)
def test_a_refused_port(name: str, plugins: Path) -> None:
    with serving([]) as server:
        pass
    assert look(plugins, name, PORT=server.port) == "FAIL connection refused"


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize(
    "steps",
    [
        [9.0],
        [b"half a li", 9.0],
        [],
        [b"\x30"],
        [b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", 0.5],
        [b"HTTP/1.1 400 Bad Request\r\n\r\n", 0.5],
        [bytes(200_000), 9.0],
        [b"x" * 200_000, 9.0],
        [b"\xff" * 200_000, 9.0],
        [b"x\n" * 200_000, 9.0],
        [os.urandom(1000)],
    ],
)
def test_a_server_that_is_down_or_another_one(name: str, steps: list[Step], plugins: Path) -> None:
    with serving(steps) as server:
        assert look(plugins, name, PORT=server.port, TIMEOUT=1).startswith("FAIL ")
    assert server.callers


SECRET = b"correct-horse"


class MySQL:
    """A server that wants the password by `method`, and then refuses it; with TLS if that is wanted."""

    def __init__(self, method: bytes, has_tls: bool = False) -> None:
        self.method = method
        self.has_tls = has_tls
        self.got: list[bytes] = []
        self.began_tls = False

    def __call__(self, client: socket.socket) -> None:
        client.sendall(mysql_greeting(has_tls=self.has_tls))
        number = self.read(client)
        if len(self.got[-1]) == 32:
            self.began_tls = True
            client = tls_context().wrap_socket(client, server_side=True)
            number = self.read(client)
        with client:
            switch = b"\xfe" + self.method + b"\0" + MYSQL_CHALLENGE + b"\0"
            client.sendall(mysql_packet(number + 1, switch))
            number = self.read(client)
            if self.method == b"caching_sha2_password":
                client.sendall(mysql_packet(number + 1, b"\1\4"))
                number = self.read(client)
            client.sendall(mysql_error(1045, "Access denied", number + 1))

    def read(self, client: socket.socket) -> int:
        head = client.recv(4)
        if len(head) < 4:
            raise OSError("closed")
        self.got.append(client.recv(int.from_bytes(head[:3], "little")))
        return head[3]


METHODS = (
    *(b"mysql_clear_password", b"dialog", b"sha256_password", b"caching_sha2_password"),
    *(b"client_ed25519", b""),
)


@pytest.mark.parametrize("method", METHODS)
def test_mysql_does_not_tell_its_password(method: bytes, plugins: Path) -> None:
    server = MySQL(method)
    with serving(server) as place:
        text = look(plugins, "mysql", PORT=place.port, PASSWORD=SECRET.decode())
    assert b"dmonitor" in server.got[0], "the server was asked"
    assert SECRET not in b"".join(server.got)
    assert text.startswith("OK it is ready, and gets no password"), text


def test_mysql_proves_its_password() -> None:
    """As a server that knows no more than the digest of a digest can see."""
    server = MySQL(b"mysql_native_password")
    with serving(server) as place:
        path = PLUGINS / "check_mysql"
        run_plugin(path, "127.0.0.1", PORT=place.port, PASSWORD=SECRET.decode())
    stored = hashlib.sha1(hashlib.sha1(SECRET).digest()).digest()
    key = hashlib.sha1(MYSQL_CHALLENGE + stored).digest()
    for proof in (server.got[0].partition(b"dmonitor\0\x14")[2][:20], server.got[1]):
        once = bytes(a ^ b for a, b in zip(proof, key, strict=True))
        assert hashlib.sha1(once).digest() == stored


@pytest.fixture(scope="module")
def cafile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of the servers here, and beside it another one."""
    directory = tmp_path_factory.mktemp("certificates")
    for name in ("own", "other"):
        made = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-keyout", "-", "-days", "10", "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"],
            capture_output=True, check=True,
        )  # fmt: skip
        (directory / name).write_bytes(made.stdout)
    return directory / "own"


@pytest.fixture
def shown(cafile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers show a certificate for 127.0.0.1."""
    monkeypatch.setattr("fake_server.certificate", lambda: str(cafile))


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize("method", METHODS[:4])
def test_mysql_tells_its_password_to_who_is_verified(
    method: bytes, cafile: Path, plugins: Path
) -> None:
    def ask(server: MySQL, file: Path | str, **parameters: object) -> str:
        with serving(server) as place:
            return look(
                plugins,
                "mysql",
                PORT=place.port,
                PASSWORD=SECRET.decode(),
                CAFILE=file,
                **parameters,
            )

    server = MySQL(method, has_tls=True)
    text = ask(server, cafile)
    assert text.startswith("OK it is ready, and refuses"), text
    assert server.began_tls and SECRET in b"".join(server.got)
    other = cafile.with_name("other")
    for server in (MySQL(method, has_tls=True), MySQL(method)):
        assert ask(server, other).startswith("FAIL ")
        assert SECRET not in b"".join(server.got)
    server = MySQL(method, has_tls=True)
    assert ask(server, "/nonexistent") == "UNKNOWN CAFILE cannot be read: /nonexistent"
    assert not server.got


def test_mysql_tells_its_password_to_anybody_if_it_may(plugins: Path) -> None:
    server = MySQL(METHODS[0])
    parameters: dict[str, object] = {"PASSWORD": SECRET.decode(), "PASSWORD_TO_ANYBODY": "yes"}
    with serving(server) as place:
        assert look(plugins, "mysql", PORT=place.port, **parameters).startswith("OK it is ready")
    assert SECRET in b"".join(server.got)


@pytest.mark.usefixtures("shown")
def test_mqtt_tells_its_password_to_who_is_verified_or_to_anybody(
    cafile: Path, plugins: Path
) -> None:
    got: list[bytes] = []

    def in_the_clear(client: socket.socket) -> None:
        got.append(client.recv(4096))

    def inside_tls(client: socket.socket) -> None:
        with tls_context().wrap_socket(client, server_side=True) as inside:
            got.append(b"TLS" + inside.recv(4096))

    def ask(server: Callable[[socket.socket], None], **parameters: object) -> str:
        got.clear()
        with serving(server) as place:
            secret = SECRET.decode()
            return look(plugins, "mqtt", PORT=place.port, USER="me", PASSWORD=secret, **parameters)

    refusal = (
        "UNKNOWN whoever answers would get PASSWORD: set CAFILE, or say PASSWORD_TO_ANYBODY=yes"
    )
    assert ask(in_the_clear) == refusal and got == []
    ask(in_the_clear, PASSWORD_TO_ANYBODY="yes")
    assert SECRET in got[0]
    ask(inside_tls, CAFILE=cafile)
    assert got[0].startswith(b"TLS") and SECRET in got[0]
    for server in (in_the_clear, inside_tls):
        assert ask(server, CAFILE=cafile.with_name("other")).startswith("FAIL ")
        assert SECRET not in b"".join(got)


@contextlib.contextmanager
def answering(
    answer: Callable[[bytes], list[bytes]], tcp: bytes = b""
) -> Iterator[tuple[int, list[bytes]]]:
    """Answer each datagram with those of `answer`, and each connection of TCP with `tcp`; give the port, and what was asked."""
    questions: list[bytes] = []
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
    ):
        server.bind(listener.getsockname())

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    question, peer = server.recvfrom(4096)
                    if not question:
                        return
                    questions.append(question)
                    for each in answer(question):
                        server.sendto(each, peer)

        def serve_tcp() -> None:
            with contextlib.suppress(OSError):
                client, _ = listener.accept()
                with client:
                    question = client.recv(4096)
                    data = question[2:4] + tcp
                    client.sendall(len(data).to_bytes(2, "big") + data)

        threads = [threading.Thread(target=each, daemon=True) for each in (serve, serve_tcp)]
        for thread in threads:
            thread.start()
        port = listener.getsockname()[1]
        try:
            yield port, questions
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                end.sendto(b"", ("127.0.0.1", port))
            threads[0].join()
            listener.shutdown(socket.SHUT_RDWR)


def question_of(message: bytes) -> bytes:
    return message[12 : message.index(b"\0", 12) + 5]


RECORD = b"\xc0\x0c%s\0\1\0\0\0\1%s"
V4 = RECORD % (b"\0\1", b"\0\4\x0a\x63\0\2")
V6 = RECORD % (b"\0\x1c", b"\0\x10\x20\1\x0d\xb8" + bytes(11) + b"\1")
ALIAS = RECORD % (b"\0\5", b"\0\2\xc0\x0c")
NAMED = {"NAME": "www.example.com"}


def dns(
    *records: bytes, code: int = 0, count: int | None = None, flags: int = 0x81, cut: int = 0
) -> Callable[[bytes], list[bytes]]:
    """Return a name server that answers each question with these records."""

    def answer(message: bytes) -> list[bytes]:
        counts = bytes([0, 1, 0, len(records) if count is None else count, 0, 0, 0, 0])
        whole = message[:2] + bytes([flags, 0x80 | code]) + counts + question_of(message)
        whole += b"".join(records)
        return [whole[: len(whole) - cut]]

    return answer


def of_kind(kind: int, *records: bytes) -> Callable[[bytes], list[bytes]]:
    def answer(message: bytes) -> list[bytes]:
        is_kind = question_of(message)[-3] == kind
        return dns(*(records if is_kind else ()))(message)

    return answer


DNS: list[tuple[Callable[[bytes], list[bytes]], dict[str, str], str]] = [
    (dns(), {}, "OK it answers"),
    (dns(code=5), {}, "OK it answers .REFUSED."),
    (dns(code=2), {}, "FAIL SERVFAIL for ."),
    (dns(code=3), NAMED, "FAIL NXDOMAIN for www.example.com"),
    (dns(code=14), NAMED, "FAIL error 14 for www.example.com"),
    (dns(), NAMED, "FAIL no address for www.example.com"),
    (dns(ALIAS, V4), NAMED, "OK it answers: www.example.com is 10.99.0.2"),
    (of_kind(28, V6), NAMED, "OK it answers: www.example.com is 2001:db8::1"),
    (dns(V4), {**NAMED, "EXPECT": "10.99.0.2"}, "OK it answers: www.example.com is 10.99.0.2"),
    (dns(V4), {**NAMED, "EXPECT": "10.99.0.3"}, "FAIL .* is 10.99.0.2, not 10.99.0.3"),
    (of_kind(28, V6), {**NAMED, "EXPECT": "2001:DB8:0::1"}, "OK it answers: .*"),
    (dns(V4), {**NAMED, "EXPECT": "www"}, "UNKNOWN www is no address"),
    (dns(V4), {"EXPECT": "10.99.0.2"}, "UNKNOWN EXPECT .* and there is no NAME"),
    (dns(V4), {"NAME": "straße.example"}, "UNKNOWN .* is not ASCII; .* begins with xn--"),
    (dns(V4), {"NAME": "xn--strae-oqa.example"}, "OK .*"),
    (dns(V4), {"NAME": "a..b"}, "UNKNOWN NAME=a..b is no name"),
    (dns(V4), {"NAME": "a" * 64}, "UNKNOWN NAME=a* is no name"),
    (dns(V4), {"NAME": "example.com."}, "OK it answers: example.com. is 10.99.0.2"),
    (dns(V4, cut=1), NAMED, "FAIL its answer ends too early"),
    (dns(V4, cut=9), NAMED, "FAIL its answer ends too early"),
    (dns(count=255), NAMED, "FAIL its answer ends too early"),
    (dns(b"\xc0"), NAMED, "FAIL its answer ends too early"),
    (dns(b"\x40" * 99), NAMED, "FAIL there is a name in its answer that is none"),
    (dns(b"\x3f" + b"a" * 50), NAMED, "FAIL its answer ends too early"),
    (lambda message: [message[:2] + b"\x81\x80"], NAMED, "FAIL its answer ends too early"),
    (
        lambda message: dns(V4)(message.replace(b"www", b"xxx")),
        NAMED,
        "FAIL it answers another question than it was asked",
    ),
    (lambda message: [message[:2] + b"\x81\x80" + bytes(8)], NAMED, "FAIL .* does not say what"),
    (lambda message: [message[:2] + b"\x81\x81" + bytes(8)], {}, "OK it answers .FORMERR."),
    (lambda message: [b"\0\0" + dns(V4)(message)[0][2:]], {"TIMEOUT": "1"}, "FAIL no answer.*"),
    (lambda message: [message], {"TIMEOUT": "1"}, "FAIL no answer within 1 s"),
    (lambda message: [b"", b"x", message[:2]], {"TIMEOUT": "1"}, "FAIL no answer within 1 s"),
    (lambda message: [b"x"] * 300, {}, "FAIL it sends one datagram after the other, .*"),
    (lambda message: [b"x"] * 9 + dns()(message), {}, "OK it answers"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "parameters", "said"), DNS)
def test_dns(
    answer: Callable[[bytes], list[bytes]], parameters: dict[str, str], said: str, plugins: Path
) -> None:
    with answering(answer) as (port, questions):
        text = look(plugins, "dns", PORT=port, **parameters)
    assert re.fullmatch(said, text), text
    assert bool(questions) == (not text.startswith("UNKNOWN"))


def test_each_question_has_a_number_that_nobody_can_foretell(plugins: Path) -> None:
    numbers: set[bytes] = set()
    for _ in range(5):
        with answering(dns()) as (port, questions):
            look(plugins, "dns", PORT=port)
        numbers.update(question[:2] for question in questions)
    assert len(numbers) >= 4  # two of five are the same once in 6,500 times


@pytest.mark.parametrize(("name", "good"), [("dns", dns()), ("ntp", None)])
def test_lost_datagrams_are_sent_again(
    name: str, good: Callable[[bytes], list[bytes]] | None, plugins: Path
) -> None:
    seen: list[bytes] = []

    def third(message: bytes) -> list[bytes]:
        seen.append(message)
        return (good or ntp())(message) if len(seen) == 3 else []

    with answering(third) as (port, _):
        assert look(plugins, name, PORT=port, TIMEOUT=4).startswith("OK ")
    assert len(seen) == 3


def test_an_answer_that_was_cut_is_asked_for_by_tcp(plugins: Path) -> None:
    asked_by_tcp = b"\x81\x80\0\1\0\1\0\0\0\0\3www\7example\3com\0\0\1\0\1" + V4
    cut = dns(flags=0x83)
    with answering(cut, asked_by_tcp) as (port, _):
        assert (
            look(plugins, "dns", PORT=port, **NAMED)
            == "OK it answers: www.example.com is 10.99.0.2"
        )
    with answering(cut, b"\x01\x80" + bytes(8)) as (port, _):
        said = look(plugins, "dns", PORT=port, **NAMED)
    assert said == "FAIL it answers by TCP, and not what it was asked"


def ntp(
    difference: float = 0,
    head: bytes = b"\x24\3",
    sent: bytes | None = None,
    reference: bytes = bytes(4),
) -> Callable[[bytes], list[bytes]]:
    """Return a time server whose clock differs so much from this node's."""

    def answer(message: bytes) -> list[bytes]:
        now = int((time.time() + difference + 2208988800) * 2**32) % 2**64
        stamp = now.to_bytes(8, "big") if sent is None else sent
        return [head + bytes(10) + reference + bytes(8) + message[40:48] + stamp + stamp]

    return answer


NTP: list[tuple[Callable[[bytes], list[bytes]], str]] = [
    (ntp(), r"OK stratum 3, its clock differs by [+-]0\.\d+ s"),
    (ntp(100), r"OK stratum 3, its clock differs by \+(99|100)\.\d+ s"),
    (ntp(130), r"FAIL stratum 3, its clock differs by \+(129|130)\.\d+ s"),
    (ntp(-200), r"FAIL stratum 3, its clock differs by -(199|200)\.\d+ s"),
    (ntp(head=b"\xe4\0", reference=b"RATE"), "FAIL it answers no question of this node: RATE"),
    (ntp(head=b"\x24\0"), "FAIL it says that its own clock is not set"),
    (ntp(head=b"\xe4\3"), "FAIL it says that its own clock is not set"),
    (ntp(head=b"\x24\x10"), "FAIL it says that its own clock is not set"),
    (ntp(sent=bytes(8)), "FAIL it answers, and does not say what time it is"),
    (ntp(head=b"\x23\3"), "FAIL no answer within 1 s"),
    (lambda message: [ntp()(message)[0][:47]], "FAIL no answer within 1 s"),
    (lambda message: ntp()(message[:40] + bytes(8)), "FAIL no answer within 1 s"),
    (lambda message: [b"x"] * 300, "FAIL it sends one datagram after the other, .*"),
]


@pytest.mark.parametrize(("answer", "said"), NTP)
def test_ntp(answer: Callable[[bytes], list[bytes]], said: str, plugins: Path) -> None:
    with answering(answer) as (port, questions):
        text = look(plugins, "ntp", PORT=port, TIMEOUT=1)
    assert re.fullmatch(said, text), text
    assert questions


def test_a_clock_that_is_surely_wrong_blames_no_time_server(tmp_path: Path) -> None:
    """The files of this node are newer than its clock says that it is."""
    shutil.copytree(CHECKOUT / "dmonitor", tmp_path / "dmonitor")
    (tmp_path / "plugins").mkdir()
    path = Path(shutil.copy(PLUGINS / "check_ntp", tmp_path / "plugins"))
    with answering(ntp(1e8)) as (port, questions):
        assert run_plugin(path, "127.0.0.1", PORT=port).startswith("FAIL stratum 3, its clock")
        later = time.time() + 1e8
        os.utime(tmp_path / "dmonitor/probe/doubt.py", (later, later))
        said = run_plugin(path, "127.0.0.1", PORT=port)
    assert said.startswith("UNKNOWN this machine's clock is wrong") and len(questions) == 2


@pytest.mark.parametrize("name", ["dns", "ntp"])
def test_a_refused_or_silent_port_of_datagrams(name: str, plugins: Path) -> None:
    with answering(lambda _: []) as (port, questions):
        assert look(plugins, name, PORT=port, TIMEOUT=1) == "FAIL no answer within 1 s"
    assert len(questions) == 3
    assert look(plugins, name, PORT=port) == "FAIL connection refused"


# As in test_probe: 10.99.0.2 answers nothing, 10.99.0.77 is off, and to 198.51.100.1 there is no way.
DATAGRAMS = """
nft add rule inet f out udp dport 81 drop
nft add rule inet f out udp dport 82 reject
nft add rule inet f out udp dport 83 reject with icmpx type admin-prohibited
there nft add rule inet f out udp dport 91 drop
there nft add rule inet f out udp dport 93 reject with icmpx type admin-prohibited
"""


@in_a_network
@pytest.mark.parametrize("name", ["dns", "ntp"])
@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("10.99.0.2", 80, "FAIL connection refused"),
        ("10.99.0.2", 81, OWN_FIREWALL),
        ("10.99.0.2", 82, OWN_FIREWALL),
        ("10.99.0.2", 83, OWN_FIREWALL),
        ("10.99.0.2", 91, "FAIL no answer within 3 s"),
        ("10.99.0.2", 93, "FAIL no route to host"),
        ("10.99.0.77", 80, "FAIL no "),
        ("198.51.100.1", 80, "UNKNOWN this node has no way to it: network is unreachable"),
        ("10.99.0.1", 80, "FAIL connection refused"),
    ],
)
def test_whose_fault_it_is_that_no_datagram_is_answered(
    name: str, host: str, port: int, said: str
) -> None:
    text = in_network(DATAGRAMS, f"PORT={port} {PLUGINS}/check_{name} {host}")
    assert text.startswith(said), text


@in_a_network
@pytest.mark.parametrize("name", ["dns", "ntp"])
def test_no_port_left_for_a_datagram_blames_no_host(name: str) -> None:
    setup = (
        "echo 40000 40000 >/proc/sys/net/ipv4/ip_local_port_range\n"
        "python3 -c 'import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        ' s.bind(("0.0.0.0", 40000)); time.sleep(5)\' & taken=$!; sleep 0.5\n'
    )
    said = in_network(setup, f"PORT=80 {PLUGINS}/check_{name} 10.99.0.2; kill $taken")
    assert said == "UNKNOWN this node has no port or address left to ask from"


@in_a_network
@pytest.mark.parametrize(
    "name", ["redis", "memcached", "rsync", "postgres", "mysql", "ldap", "mqtt"]
)
@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("10.99.0.2", 82, OWN_FIREWALL),
        ("10.99.0.77", 80, "FAIL no "),
        ("198.51.100.1", 80, "UNKNOWN this node has no way to it: network is unreachable"),
    ],
)
def test_whose_fault_it_is_that_nothing_connects(
    name: str, host: str, port: int, said: str, plugins: Path
) -> None:
    assert in_network("", f"PORT={port} {plugins}/check_{name} {host}").startswith(said)


LISTING = """
import socket
import struct
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
open("/mnt/ready", "w").close()
entries = {
    "2.0.99.10.listed.test": (10, 127, 0, 0, 2),
    "2.0.99.10.refusing.test": (10, 127, 255, 255, 254),
    "2.0.99.10.odd.test": (10, 127, 0, 0, 1),
    "2.0.99.10.sold.test": (10, 93, 184, 216, 1),
    "2.0.99.10.everything.test": (10, 127, 0, 0, 2),
    "1.0.0.127.everything.test": (10, 127, 0, 0, 2),
}
while True:
    question, peer = server.recvfrom(2048)
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += 1 + question[at]
    asked = question[12 : at + 5]
    name = ".".join(labels)
    found = bytes(entries[name][1:]) if name in entries else b""
    code = 2 if name.endswith("broken.test") else 0 if found else 3
    head = question[:2] + bytes([0x81, 0x80 | code, 0, 1, 0, bool(found), 0, 0, 0, 0])
    record = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\1\\0\\4" + found
    server.sendto(head + asked + (record if found else b""), peer)
"""


@in_a_network
@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ("clean.test", "OK not listed: 10.99.0.2"),
        ("clean.test listed.test", "FAIL 10.99.0.2 is listed by listed.test (127.0.0.2)"),
        ("broken.test listed.test", "FAIL 10.99.0.2 is listed by listed.test (127.0.0.2)"),
        ("refusing.test", "UNKNOWN refusing.test does not answer who asks by this resolver"),
        ("odd.test", "UNKNOWN odd.test answers with 127.0.0.1, which is no answer"),
        ("sold.test", "UNKNOWN sold.test answers with 93.184.216.1, which is no answer"),
        ("everything.test", "UNKNOWN everything.test "),
        ("broken.test clean.test", "UNKNOWN 2.0.99.10.broken.test cannot be looked up: "),
    ],
)
def test_what_a_block_list_says(lists: str, said: str, plugins: Path, tmp_path: Path) -> None:
    server = tmp_path / "server.py"
    server.write_text(LISTING)
    setup = (
        hosts("127.0.0.1 localhost")
        + f"python3 {server} & dns=$!\nuntil [ -e /mnt/ready ]; do sleep 0.05; done\n"
    )
    text = in_network(
        setup, f"TIMEOUT=8 LISTS='{lists}' {plugins}/check_dnsbl 10.99.0.2; kill $dns"
    )
    assert text.startswith(said), text


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_a_registry_with_endless_brackets_does_not_say(plugins: Path) -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100_000
    with serving([0.1, page, LONG]) as server:
        url = f"http://127.0.0.1:{server.port}/"
        said = look(plugins, "domain", URL=url)
    assert server.callers and said == "UNKNOWN the registry does not say when it ends"


def test_a_server_that_hears_no_goodbye_has_answered(plugins: Path) -> None:
    """It resets the connection as soon as it has answered."""

    def answer_and_reset(client: socket.socket) -> None:
        client.recv(4096)
        client.sendall(ldap_result(0))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    for _ in range(5):
        with serving(answer_and_reset) as server:
            assert look(plugins, "ldap", PORT=server.port).startswith("OK everybody may read")
