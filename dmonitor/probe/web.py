"""What check_http and check_https have in common."""

from __future__ import annotations

import posix

from dmonitor.probe.fetch import Request, fetch
from dmonitor.probe.outcome import Fail, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dmonitor.probe.base import Probe

_MOST_BYTES = 10_000_000
_ERROR = 400  # statuses from here on are faults


def look(probe: Probe, scheme: str, port: int) -> str:
    """Return the status and time of the page; raise Fail if it is not as it has to be."""
    statuses = _statuses(probe)
    request = Request(_url(probe, scheme, port))
    request.method = _method(probe)
    request.headers = _headers(probe)
    request.most = probe.number("BODY_LIMIT", request.most, _MOST_BYTES)
    request.authorities = _authorities(probe)
    request.takes_any_certificate = probe.is_set("INSECURE")
    if request.authorities and request.takes_any_certificate:
        raise Unknown("INSECURE=yes takes any certificate, and CAFILE only some: take one of them")
    request.ends = lambda status: _fits(status, statuses)
    expected = probe.text("EXPECT")
    request.is_compressed = bool(expected)
    page = fetch(probe, request)
    if statuses and not _fits(page.status, statuses):
        raise Fail(f"{page.text()}, not {','.join(statuses)}")
    if not statuses and page.status >= _ERROR:
        raise Fail(f"{page.text()} The requested URL returned error: {page.status}")
    if expected.encode() not in page.body:
        raise Fail(f"the page does not contain: {expected}")
    return page.text()


def _url(probe: Probe, scheme: str, port: int) -> str:
    """Return the URL that is asked for."""
    url = probe.text("URL")
    if not url:
        host = f"[{probe.host}]" if ":" in probe.host else probe.host
        number = probe.port(port)
        return f"{scheme}://{host}/" if number == port else f"{scheme}://{host}:{number}/"
    begin = url.partition("/")[0]
    host = url.partition("://")[2]
    if begin in ("", ":") or (begin.endswith(":") and host[:1] in ("", "/")):
        raise Unknown("URL is not SCHEME://HOST/PATH")
    return url if begin.endswith(":") else f"{scheme}://{url}"


def _statuses(probe: Probe) -> list[str]:
    """Return the patterns that STATUS has; none if it is not set."""
    text = probe.text("STATUS")
    patterns = [pattern.strip() for pattern in text.split(",")] if text else []
    for pattern in patterns:
        digits = pattern.rstrip("x")
        if len(pattern) != 3 or not digits or digits.strip("0123456789"):
            raise Unknown(f"STATUS={text} is not like 200 or 2xx,301")
    return patterns


def _fits(status: int, patterns: list[str]) -> bool:
    return any(str(status).startswith(pattern.rstrip("x")) for pattern in patterns)


def _method(probe: Probe) -> str:
    method = probe.text("METHOD", "GET")
    if not (method.isascii() and method.isalpha() and method.isupper()):
        raise Unknown(f"METHOD={method} is no method of HTTP, such as GET or HEAD")
    return method


def _headers(probe: Probe) -> list[str]:
    """Return the lines that HEADER has."""
    text = probe.text("HEADER")
    lines = [line.strip() for line in text.split(" | ")] if text else []
    for line in lines:
        name, colon, _ = line.partition(":")
        if not colon or not name.replace("-", "").replace("_", "").isalnum():
            raise Unknown("HEADER is not NAME: VALUE, or several of them with ' | ' between them")
    return lines


def _authorities(probe: Probe) -> str:
    path = probe.text("CAFILE")
    if path and not posix.access(path, posix.R_OK):
        raise Unknown(f"CAFILE cannot be read: {path}")
    return path
