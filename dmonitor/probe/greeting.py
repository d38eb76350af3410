"""What a server of a text protocol says first, in the clear or inside TLS."""

from __future__ import annotations

from dmonitor.probe.outcome import Fail, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

    from dmonitor.probe.connection import Connection

_LEGACY_SERVERS = 0x4  # ssl.OP_LEGACY_SERVER_CONNECT, which Python 3.11 has no name for
_CODE_BYTES = 3  # of a reply of SMTP or FTP


def expect(connection: Connection, words: tuple[bytes, ...], expected: str) -> str:
    """Return the first line if it begins with one of `words` and contains the text `expected`."""
    line = connection.line()
    if not line.startswith(words):
        raise Fail(f"it says: {_text(line)}")
    return containing(_text(line), expected)


def reply(connection: Connection, code: bytes) -> str:
    """Return the whole reply of a server of SMTP or FTP; raise Fail unless it has `code`.

    Every line but the last one has a hyphen behind its code.
    """
    lines = []
    while True:
        line = connection.line()
        lines.append(_text(line[_CODE_BYTES + 1 :]))
        if not line.startswith(code):
            raise Fail(f"it says: {_text(line)}")
        if line[_CODE_BYTES : _CODE_BYTES + 1] != b"-":
            return f"{code.decode()} {' '.join(lines)}"


def containing(text: str, expected: str) -> str:
    """Return `text` if it contains `expected`."""
    if expected not in text:
        raise Fail(f"it says, without {expected}: {text}")
    return text


def any_certificate() -> ssl.SSLContext:
    """Return a context of TLS that takes whatever a server shows, old versions of TLS, too.

    A look that wants to know whether a server works does not ask how well its TLS is kept.
    """
    import ssl
    import warnings

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the old version
            context.minimum_version = ssl.TLSVersion.TLSv1
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.options |= _LEGACY_SERVERS
    except (ValueError, ssl.SSLError) as error:
        raise Unknown(f"this node's OpenSSL cannot be told to take old TLS: {error}") from None
    return context


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")
