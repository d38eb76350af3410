"""The first words with a MySQL or MariaDB server: its greeting, and a login.

A client that leaves without a login is counted, and after a hundred of them the server takes no
connection from that machine. So a look logs in, and may be refused.
"""

from __future__ import annotations

from dmonitor.probe.outcome import Fail

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

    from dmonitor.probe.connection import Connection

_PROTOCOL = b"\x0a"
_OK, _SWITCH, _ERROR = b"\0", b"\xfe", b"\xff"  # what packets begin with
_PROOF_IS_ENOUGH, _FULL = b"\1\3", b"\1\4"  # of caching_sha2_password; then the password is wanted
_TLS = 0x800
# What a client can: long passwords, the protocol of 4.1, secure logins, and more than one kind.
_CAPABILITIES = 0x1 | 0x200 | 0x8000 | 0x80000
_LARGEST_PACKET = (1 << 24) - 1
_UTF8 = 45
_CHALLENGE_BYTES = 20
_QUIT = b"\1"
_MOST_STEPS = 5  # of a login
_NATIVE, _SHA2 = b"mysql_native_password", b"caching_sha2_password"
_TOLD = (b"mysql_clear_password", b"dialog")  # methods that tell the password
_TOLD_INSIDE_TLS = (*_TOLD, b"sha256_password", _FULL)
# Errors with which a server says that it cannot serve: no memory, too many connections, stopping,
# no thread. Those from 2000 to 2999 are of a proxy whose own server does not answer. With any other
# error, it is this client that may not log in.
_FAULTS = (1037, 1038, 1040, 1041, 1053, 1135)
_FAULTS_OF_PROXIES = range(2000, 3000)


class Server:
    """A server that has greeted."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sequence = 0
        self._has_tls = False
        greeting = self._receive()
        self._refusal = _refusal(greeting)
        if not self._refusal and not greeting.startswith(_PROTOCOL):
            raise Fail("what it says is not MySQL")
        version, _, rest = greeting[1:].partition(b"\0")
        self._version = version.decode("ascii", "replace")
        # A number of 4 bytes, a part of the challenge, a zero, and what the server can; then 16
        # bytes that do not matter, and the rest of the challenge.
        self._can = int.from_bytes(rest[13:15], "little")
        self._challenge = (rest[4:12] + rest[31:])[:_CHALLENGE_BYTES]

    def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Begin TLS, unless it refuses this client already; `name` has to be in its certificate."""
        if self._refusal:
            return
        self.ask_for_tls()
        self._connection.start_tls(context, name)

    def ask_for_tls(self) -> None:
        """Say that TLS begins now; raise Fail if the server does not offer that."""
        if self._refusal or not self._can & _TLS:
            raise Fail(f"it begins no TLS: {self._refusal or 'it offers none'}")
        self._has_tls = True
        self._send(self._head())

    def log_in(self, user: str, password: bytes, may_tell: bool) -> str:
        """Return what came of a login; `may_tell` is whether the server may get the password."""
        if self._refusal:
            return self._refusal
        proof = _native_proof(password, self._challenge)
        login = self._head() + user.encode() + b"\0" + bytes([len(proof)]) + proof
        self._send(login + _NATIVE + b"\0")
        for _ in range(_MOST_STEPS):
            packet = self._receive()
            if packet.startswith(_OK):
                self._connection.say_goodbye(_packet(0, _QUIT))
                return f"it is ready, and lets {user} in: {self._version}"
            refusal = _refusal(packet)
            if refusal:
                return refusal
            if packet == _PROOF_IS_ENOUGH:
                continue
            reply = self._reply(packet, password, may_tell)
            if reply is None:
                return "it is ready, and gets no password, because it wants more than a proof"
            self._send(reply)
        raise Fail("it asks one thing after the other, and ends no login")

    def _reply(self, packet: bytes, password: bytes, may_tell: bool) -> bytes | None:
        """Return the reply to a server that wants another proof; None if it does not get that."""
        method, challenge = packet, b""
        if packet.startswith(_SWITCH):
            method, _, challenge = packet[1:].partition(b"\0")
        elif packet != _FULL:
            raise Fail("what it answers to a login is not MySQL")
        challenge = challenge[:_CHALLENGE_BYTES]
        if method == _NATIVE:
            return _native_proof(password, challenge)
        if not password:
            return b"\0"
        if method == _SHA2 and may_tell:
            return _sha2_proof(password, challenge)
        if may_tell and method in (_TOLD_INSIDE_TLS if self._has_tls else _TOLD):
            return password + b"\0"
        return None

    def _head(self) -> bytes:
        """Return what a login begins with; if TLS follows, that is all."""
        can = _CAPABILITIES | (_TLS if self._has_tls else 0)
        sizes = can.to_bytes(4, "little") + _LARGEST_PACKET.to_bytes(4, "little")
        return sizes + bytes([_UTF8]) + bytes(23)

    def _receive(self) -> bytes:
        head = self._connection.exactly(4)
        length = int.from_bytes(head[:3], "little")
        if not length:
            raise Fail("what it says is not MySQL")
        self._sequence = head[3] + 1
        return self._connection.exactly(length)

    def _send(self, packet: bytes) -> None:
        self._connection.send(_packet(self._sequence, packet))
        self._sequence += 1


def _packet(sequence: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "little") + bytes([sequence & 0xFF]) + content


def _refusal(packet: bytes) -> str:
    """Return what the server says if it refuses this client; "" if it does not.

    Raise Fail if it says that it cannot serve.
    """
    if not packet.startswith(_ERROR):
        return ""
    number = int.from_bytes(packet[1:3], "little")
    text = packet[3:].decode("utf-8", "replace")
    if text.startswith("#"):
        text = text[6:]  # a state of SQL stands before it
    if not number or number in _FAULTS or number in _FAULTS_OF_PROXIES:
        raise Fail(f"{text} ({number})")
    return f"it is ready, and refuses this login: {text} ({number})"


def _native_proof(password: bytes, challenge: bytes) -> bytes:
    """Return a proof of the password that does not tell it."""
    if not password:
        return b""
    once = _digest("sha1", password)
    return _xor(once, _digest("sha1", challenge + _digest("sha1", once)))


def _sha2_proof(password: bytes, challenge: bytes) -> bytes:
    once = _digest("sha256", password)
    return _xor(once, _digest("sha256", _digest("sha256", once) + challenge))


def _digest(name: str, data: bytes) -> bytes:
    import hashlib

    return hashlib.new(name, data, usedforsecurity=False).digest()


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
