"""What a certificate says of its time, and of whom it is. Nobody's signature is checked here."""

from __future__ import annotations

from dmonitor.probe.outcome import Fail

_CONSTRUCTED_VERSION = 0xA0
_UTC_TIME = 0x17
_COMMON_NAME = bytes((0x55, 4, 3))  # the object identifier 2.5.4.3


class Certificate:
    """Of X.509."""

    def __init__(
        self, issuer: bytes, subject: bytes, name: str, begins: float, ends: float
    ) -> None:
        self.issuer = issuer  # as DER, which is the same for the same name
        self.subject = subject
        self.name = name  # the common name of whom it is for
        self.begins = begins  # wall clock
        self.ends = ends


def read(der: bytes) -> Certificate:
    """Return the certificate that `der` is; raise Fail if it is none."""
    try:
        fields = _elements(_elements(_element(der, 0)[1])[0][1])
        if fields[0][0] == _CONSTRUCTED_VERSION:
            fields = fields[1:]
        _serial, _algorithm, issuer, validity, subject = fields[:5]
        begins, ends = (_time(tag, content) for tag, content in _elements(validity[1]))
        name = _common_name(subject[1])
    except (ValueError, IndexError):
        raise Fail("its certificate cannot be read") from None
    return Certificate(issuer[1], subject[1], name, begins, ends)


def _common_name(subject: bytes) -> str:
    for _, alike in _elements(subject):
        for _, attribute in _elements(alike):
            kind, value = _elements(attribute)
            if kind[1] == _COMMON_NAME:
                return value[1].decode("utf-8", "replace")
    return "without a name"


def _element(data: bytes, begin: int) -> tuple[int, bytes, int]:
    """Return the tag and content of the DER element at `begin`, and where it ends."""
    tag, length = data[begin], data[begin + 1]
    begin += 2
    if length > 127:  # as many bytes follow with the length itself
        count = length - 128
        length = int.from_bytes(data[begin : begin + count], "big")
        begin += count
    end = begin + length
    if end > len(data):
        raise ValueError("it is cut off")
    return tag, data[begin:end], end


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """Return the tags and contents of all elements in `data`."""
    found = []
    begin = 0
    while begin < len(data):
        tag, content, begin = _element(data, begin)
        found.append((tag, content))
    return found


def _time(tag: int, content: bytes) -> float:
    """Return the time that an element of a certificate says; raise ValueError if it says none."""
    import datetime

    text = content.decode("ascii")
    if tag == _UTC_TIME:  # has two digits for the year, of 1950 to 2049
        text = ("19" if text >= "5" else "20") + text
    if len(text) != len("YYYYMMDDhhmmssZ"):
        raise ValueError("it is no time")
    month, day, hour, minute, second = (int(text[i : i + 2]) for i in range(4, 14, 2))
    moment = datetime.datetime(int(text[:4]), month, day, hour, minute, second, tzinfo=datetime.UTC)
    return moment.timestamp()
