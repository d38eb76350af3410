"""One question to a directory server (RFC 4511): may everybody read this entry?

It is asked without a login, as LDAP allows, for the entry alone and none of its attributes. No
referral is followed, because it may lead anywhere.
"""

from __future__ import annotations

from dmonitor.probe.outcome import Fail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dmonitor.probe.connection import Connection

_BOOLEAN, _INTEGER, _TEXT, _ENUMERATED, _SEQUENCE = 0x01, 0x02, 0x04, 0x0A, 0x30  # tags
_SEARCH, _DONE, _UNBIND, _IS_PRESENT = 0x63, 0x65, 0x42, 0x87
_MORE_FOLLOWS = (0x64, 0x73, 0x79)  # an entry, a reference, or something in between
_NO_ATTRIBUTES = b"1.1"
_LONG = 0x80  # and the number of bytes that a length has, if it does not fit in one with less
_CODES = {
    1: "operationsError",
    2: "protocolError",
    8: "strongerAuthRequired",
    10: "referral",
    11: "adminLimitExceeded",
    13: "confidentialityRequired",
    32: "noSuchObject",
    34: "invalidDNSyntax",
    48: "inappropriateAuthentication",
    49: "invalidCredentials",
    50: "insufficientAccessRights",
    51: "busy",
    52: "unavailable",
    53: "unwillingToPerform",
    80: "other",
}


def read(connection: Connection, name: str) -> str:
    """Read the entry `name`, "" for the server's own; raise Fail if that is not allowed."""
    number = _element(_INTEGER, b"\1")  # of the message
    nothing = _element(_ENUMERATED, b"\0")  # this entry alone; as it is, if it is an alias
    no_limit = _element(_INTEGER, b"\0")
    search = _element(
        _SEARCH,
        _element(_TEXT, name.encode()) + nothing + nothing + no_limit + no_limit,
        _element(_BOOLEAN, b"\0") + _element(_IS_PRESENT, b"objectClass"),
        _element(_SEQUENCE, _element(_TEXT, _NO_ATTRIBUTES)),
    )
    connection.send(_element(_SEQUENCE, number, search))
    while True:
        try:
            _, _, message = _split(_receive(connection))  # without its number
            operation, result, _ = _split(message)
            if operation in _MORE_FOLLOWS:
                continue
            _, code, rest = _split(result)
            _, _, rest = _split(rest)  # how much of the name there is
            _, text, _ = _split(rest)
        except IndexError:
            raise Fail("what it says is not LDAP") from None
        if operation == _DONE and code == b"\0":
            connection.say_goodbye(_element(_SEQUENCE, number, _element(_UNBIND)))
            return f"everybody may read {name or 'what it says of itself'}"
        reason = _CODES.get(int.from_bytes(code, "big"), f"code {code.hex()}")
        raise Fail(f"{reason} {text.decode('utf-8', 'replace')}")


def _element(tag: int, *parts: bytes) -> bytes:
    value = b"".join(parts)
    length = (
        bytes([len(value)])
        if len(value) < _LONG
        else bytes([_LONG | 2]) + len(value).to_bytes(2, "big")
    )
    return bytes([tag]) + length + value


def _receive(connection: Connection) -> bytes:
    """Return the value of the message that comes next."""
    tag, length = connection.exactly(2)
    if tag != _SEQUENCE:
        raise IndexError
    if length >= _LONG:
        length = int.from_bytes(connection.exactly(length - _LONG), "big")
    return connection.exactly(length)


def _split(data: bytes) -> tuple[int, bytes, bytes]:
    """Return tag and value of the first element, and what follows; or raise IndexError."""
    length, begin = data[1], 2
    if length >= _LONG:
        begin += length - _LONG
        length = int.from_bytes(data[2:begin], "big")
    if begin + length > len(data):
        raise IndexError
    return data[0], data[begin : begin + length], data[begin + length :]
