"""Let a server begin TLS on a connection that begins in the clear, protocol by protocol."""

from __future__ import annotations

from dmonitor.probe import greeting
from dmonitor.probe.outcome import Fail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dmonitor.probe.base import Probe
    from dmonitor.probe.connection import Connection

_LDAP_OID = b"1.3.6.1.4.1.1466.20037"
_LDAP_EXTENDED_RESPONSE = 0x78
_ENUMERATED = 0x0A
_POSTGRES_TLS = bytes((0, 0, 0, 8, 4, 210, 22, 47))


def smtp(connection: Connection, probe: Probe) -> None:
    greeting.reply(connection, b"220")
    connection.send(b"EHLO " + probe.own_name() + b"\r\n")
    greeting.reply(connection, b"250")
    connection.send(b"STARTTLS\r\n")
    greeting.reply(connection, b"220")


def ftp(connection: Connection, _probe: Probe) -> None:
    greeting.reply(connection, b"220")
    connection.send(b"AUTH TLS\r\n")
    greeting.reply(connection, b"234")


def imap(connection: Connection, _probe: Probe) -> None:
    greeting.expect(connection, (b"* OK",), "")
    connection.send(b"a STARTTLS\r\n")
    line = connection.line()
    while line.startswith(b"* "):
        line = connection.line()
    if not line.startswith(b"a OK"):
        raise _refused(line)


def pop3(connection: Connection, _probe: Probe) -> None:
    greeting.expect(connection, (b"+OK",), "")
    connection.send(b"STLS\r\n")
    greeting.expect(connection, (b"+OK",), "")


def xmpp(connection: Connection, probe: Probe) -> None:
    connection.send(
        b"<?xml version='1.0'?><stream:stream to='" + probe.host.encode() + b"' version='1.0'"
        b" xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
    )
    _hear(connection, b"<starttls")
    connection.send(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
    _hear(connection, b"<proceed")


def _hear(connection: Connection, expected: bytes) -> None:
    """Read until the server says `expected`; raise Fail if it ends its say without that."""
    heard = b""
    while expected not in heard:
        data = connection.receive()
        heard += data
        is_over = b"</stream:features>" in heard or b"<failure" in heard
        if not data or (is_over and expected not in heard):
            raise _refused(heard[-80:])


def ldap(connection: Connection, _probe: Probe) -> None:
    name = bytes((0x80, len(_LDAP_OID))) + _LDAP_OID
    request = bytes((2, 1, 1, 0x77, len(name))) + name
    connection.send(bytes((0x30, len(request))) + request)
    length = connection.exactly(2)[1]
    if length > 127:  # as many bytes follow with the length itself
        length = int.from_bytes(connection.exactly(min(length - 128, 4)), "big")
    answer = connection.exactly(length)
    kind = answer.find(_LDAP_EXTENDED_RESPONSE)
    result = answer.find(bytes((_ENUMERATED, 1)), kind)
    if kind < 0 or result < 0 or answer[result + 2 : result + 3] != b"\0":
        raise Fail("it begins no TLS: " + answer[-80:].decode("ascii", "replace"))


def mysql(connection: Connection, _probe: Probe) -> None:
    from dmonitor.probe.mysql import Server

    Server(connection).ask_for_tls()


def postgres(connection: Connection, _probe: Probe) -> None:
    connection.send(_POSTGRES_TLS)
    answer = connection.exactly(1)
    if answer != b"S":
        raise _refused(answer)


def _refused(said: bytes) -> Fail:
    return Fail("it begins no TLS: " + said.decode("utf-8", "replace"))


PROTOCOLS = {
    "smtp": smtp,
    "imap": imap,
    "pop3": pop3,
    "ftp": ftp,
    "xmpp": xmpp,
    "ldap": ldap,
    "mysql": mysql,
    "postgres": postgres,
}
