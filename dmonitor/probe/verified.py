"""TLS with a server that has to show a certificate for the host."""

from __future__ import annotations

from dmonitor.probe.outcome import Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl


def context(cafile: str) -> ssl.SSLContext:
    """Return a context of TLS that takes only what one of the certificates in `cafile` signed."""
    import ssl

    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        made.load_verify_locations(cafile)
    except (OSError, ssl.SSLError):
        raise Unknown(f"CAFILE cannot be read: {cafile}") from None
    return made
