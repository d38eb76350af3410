"""Fetch a page with curl, and follow redirects, wherever they may lead.

The server may be hostile. REDIRECT says how far it may lead a test:

    public   to any host; to an internal address only if the host that was asked first has one, too
    host     only to the host that was asked first, by the same rule
    any      to any host at any address

https is never led to http, and nobody to another protocol. Each target is looked up here, once, and
curl connects to the addresses that were found, however it reads the URL.
"""

from __future__ import annotations

from dmonitor.base import clock
from dmonitor.probe import lookup, places, tool
from dmonitor.probe.outcome import Deadline, Fail, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dmonitor.probe.base import Probe
    from dmonitor.probe.places import Place

_MOST_REDIRECTS = 5
_LEAST_STATUS = 100  # that HTTP has
_HEADER_BYTES = 400_000  # curl takes no more from a server
_MOST_ADDRESS_BYTES = 16_000  # of a redirect; a web server takes less than that
_LEAST_SECONDS = 0.01  # 0 would be no limit for curl
# Time in which it is found out why a connection failed: packets that leave this node are sent again
# after a second.
_REASON_SECONDS = 1.3
_MARK = b"\ncurl has ended "
_NUMBERS = "%{exitcode} %{http_code} %{time_connect} %{time_starttransfer} %{time_total}"
_FORMAT = "%{stderr}\ncurl has ended " + _NUMBERS + "\n%{redirect_url}\n%{errormsg}\n"

# What curl ends with.
_GOOD = 0
_MALFORMED = 3
_NO_CONNECTION = 7
_NOT_WRITTEN = 23
_NO_MEMORY = 27
_LATE = 28
_BAD_CERTIFICATE = 60
# Faults of curl itself, or of this node.
_OWN = (2, 4, 5, 6, 23, 26, 27, 41, 43, 45, 48, 53, 54, 58, 59, 66, 77, 80, 81, 82, 83)
_OWN_TEXTS = (
    *("Operation not permitted", "No buffer space", "Cannot allocate", "Too many open"),
    # What OpenSSL says if it has no memory.
    *("Insufficient randomness", "digital envelope routines", "malloc failure"),
)
_DATES = ("expired", "not yet valid")
_SECRETIVE = ("auth", "cookie", "key", "secret", "token")  # parts of names of headers


class Request:
    """What is asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.method = "GET"
        self.headers: list[str] = []  # only the host that is asked first gets them
        self.is_compressed = False  # whether the page is unpacked
        self.most = 1_000_000  # bytes of a page that are read
        self.authorities = ""  # a file of certificates, in place of those of this machine
        self.takes_any_certificate = False
        self.ends: Callable[[int], bool] = lambda status: False  # a redirect is not followed if so

    def has_secret(self) -> bool:
        names = [header.partition(":")[0].lower() for header in self.headers]
        return any(part in name for name in names for part in _SECRETIVE)


class Page:
    """What the last server answered."""

    def __init__(self, status: int, seconds: float, body: bytes, hops: int) -> None:
        self.status = status
        self.seconds = seconds  # in all
        self.body = body
        self.hops = hops  # redirects that were followed

    def text(self) -> str:
        return f"{self.status} in {self.seconds:.3f} s"


class _Answer:
    """What came of one run of curl."""

    def __init__(self, ended: tool.Ended) -> None:
        _, mark, told = ended.errors.partition(_MARK)
        if not mark:
            complaint = ended.errors.decode("utf-8", "replace").strip().partition("\n")[0]
            raise Unknown(f"curl did not ask: {complaint or 'status ' + str(ended.status)}")
        numbers, _, texts = told.decode("utf-8", "replace").partition("\n")
        exit_status, status, connected, begun, seconds = numbers.split(" ")
        self.exit_status = int(exit_status)
        self.status = int(status)  # of HTTP; 0 if there was none
        self.is_connected = float(connected) > 0  # and TLS has begun, if it is to
        self.has_begun = float(begun) > 0  # to answer
        self.seconds = float(seconds)
        self.target, _, error = texts.partition("\n")  # of a redirect; "" without one
        self.error = error.strip()
        self.header, self.body = _split(ended.output)
        if self.exit_status == _NOT_WRITTEN and ended.was_cut:
            self.exit_status = _GOOD  # enough was read

    def has_long_line(self) -> bool:
        """Return whether curl has no memory for a line of the header, because of its length."""
        return self.exit_status == _NO_MEMORY and self.has_begun and self.header is None

    def is_own_fault(self) -> bool:
        """Return whether curl failed for something that it, or this node, lacks."""
        if self.has_long_line():
            return False
        has_own_text = any(text in self.error for text in _OWN_TEXTS)
        return self.exit_status in _OWN or has_own_text

    def fault(self) -> str:
        """Return what the server does wrong; "" if nothing."""
        if self.has_long_line():
            return "a line of its header is too long"
        if self.error.startswith("Received HTTP/0.9"):
            return "what answers is no web server"
        if self.exit_status != _GOOD:
            return self.error or f"curl ended with status {self.exit_status}"
        if self.header is None:
            return "its header has no end"
        return "" if self.status >= _LEAST_STATUS else "it gives no status"


def _split(output: bytes) -> tuple[list[bytes] | None, bytes]:
    """Return the lines of the last header, and the page; None if the header has no end."""
    lines: list[bytes] = []
    begin = 0
    while True:
        end = output.find(b"\n", begin)
        if end < 0:
            return None, b""
        line = output[begin:end].rstrip(b"\r")
        begin = end + 1
        if line:
            lines.append(line)
        elif _is_interim(lines):
            lines = []
        else:
            return lines, output[begin:]


def _is_interim(lines: list[bytes]) -> bool:
    """Return whether another answer follows this one, as after 100 Continue."""
    words = lines[0].split() if lines else []
    return len(words) > 1 and len(words[1]) == 3 and words[1].startswith(b"1")


class _Cookies:
    """The cookies of one test. Each host gets its own, and no other ones."""

    _MOST_BYTES = 8192  # that are sent

    def __init__(self) -> None:
        self._found: dict[str, dict[bytes, tuple[bytes, bool]]] = {}

    def take(self, place: Place, header: list[bytes]) -> None:
        """Take those that the server at `place` sets."""
        jar = self._found.setdefault(place.host.lower(), {})
        for line in header:
            name, _, value = line.partition(b":")
            if name.lower() == b"set-cookie":
                self._set(jar, value)

    @staticmethod
    def _set(jar: dict[bytes, tuple[bytes, bool]], line: bytes) -> None:
        pair, *attributes = (part.strip() for part in line.split(b";"))
        name, separator, value = pair.partition(b"=")
        if not separator or not name or any(character < 32 for character in pair):
            return
        lower = [attribute.lower().replace(b" ", b"") for attribute in attributes]
        is_over = any(
            attribute.startswith((b"max-age=0", b"max-age=-"))
            or (attribute.startswith(b"expires=") and b"1970" in attribute)
            for attribute in lower
        )
        jar.pop(name, None)
        if not is_over:
            jar[name] = (value, b"secure" in lower)

    def header(self, place: Place) -> str:
        """Return the header for the server at `place`; "" if it has set none."""
        pairs: list[bytes] = []
        for name, (value, is_secure) in self._found.get(place.host.lower(), {}).items():
            if place.scheme == "https" or not is_secure:
                pairs.append(name + b"=" + value)
        line = b"; ".join(pairs)
        if not line or len(line) > self._MOST_BYTES:
            return ""
        return "Cookie: " + line.decode("utf-8", "surrogateescape")


def fetch(probe: Probe, request: Request) -> Page:
    """Return the page that `request` leads to; raise Fail or Unknown if there is none."""
    return _Journey(probe, request).go()


class _Journey:
    """From the first request to the last page."""

    def __init__(self, probe: Probe, request: Request) -> None:
        self._probe = probe
        self._request = request
        self._reach = probe.text("REDIRECT", "public")
        if self._reach not in ("public", "host", "any"):
            raise Unknown("REDIRECT is public, host or any")
        self._url = request.url
        self._method = request.method
        try:
            self._place = places.parse(request.url)
        except ValueError as error:
            raise Unknown(f"URL leads {error}") from None
        self._first = self._place
        self._keep_secrets()
        probe.host = self._place.host
        self._addresses = probe.addresses()
        self._may_be_internal = self._reach == "any"
        self._cookies = _Cookies()
        self._hops = 0
        self._seconds = 0.0
        self._status = 0

    def _keep_secrets(self) -> None:
        """Raise Unknown if a secret would be told to a server without a valid certificate."""
        is_secret = self._first.login or self._request.has_secret()
        is_verified = self._first.scheme == "https" and not self._request.takes_any_certificate
        if is_secret and not is_verified and not self._probe.is_set("PASSWORD_TO_ANYBODY"):
            what = "password in URL" if self._first.login else "secret in HEADER"
            raise Unknown(
                f"whoever answers would get the {what}: take https, and no INSECURE, or say"
                " PASSWORD_TO_ANYBODY=yes"
            )

    def go(self) -> Page:
        while True:
            answer = self._ask()
            if not answer.target or self._request.ends(answer.status):
                body = answer.body[: self._request.most]
                return Page(answer.status, self._seconds, body, self._hops)
            self._hops += 1
            if self._hops > _MOST_REDIRECTS:
                raise self._fail(f"Maximum ({_MOST_REDIRECTS}) redirects followed")
            self._cookies.take(self._place, answer.header or [])
            self._follow(answer)

    def _ask(self) -> _Answer:
        """Return what the server answers; raise Fail or Unknown if it is no answer."""
        left = self._probe.deadline.left()
        if left < _LEAST_SECONDS:
            raise self._fail(str(self._probe.deadline.late()))
        to_connect = self._probe.last_moment() - clock.uptime() - _REASON_SECONDS
        command = ["curl", "-q", "-gsi", "--proto", "=http,https", "-m", f"{left:.3f}"]
        command += ["--connect-timeout", f"{min(left, max(to_connect, left / 2)):.3f}"]
        command += ["-K", "-", "-w", _FORMAT]
        given = "\n".join(self._settings()).encode("utf-8", "surrogateescape")
        most = self._request.most + _HEADER_BYTES
        # curl ends by itself, and says why; a node that has much to do gives it no time for that.
        end = self._probe.last_moment()
        answer = _Answer(tool.run(command, "curl", end, given, most))
        self._seconds += answer.seconds
        self._status = answer.status
        if answer.fault():
            raise self._fault(answer)
        return answer

    def _settings(self) -> list[str]:
        """Return lines of curl's configuration.

        There may be secrets in them, and everybody can see arguments.
        """
        name, port = self._place.host.rstrip("."), self._place.port
        # An address with an interface can be connected to, but curl takes none as a name's.
        found = [address for _, address in self._addresses if "%" not in address]
        lines = [_setting("url", self._url)]
        if ":" in name or not found:
            lines.append(_setting("connect-to", f"::[{self._addresses[0][1]}]:{port}"))
        else:
            lines.append(_setting("connect-to", f"::{name}:{port}"))
            lines.append(_setting("resolve", f"{name}:{port}:{','.join(found)}"))
        if self._method == "HEAD":
            lines.append("head")
        elif self._method != "GET":
            lines.append(_setting("request", self._method))
        if self._request.is_compressed:
            lines.append("compressed")
        if self._request.authorities:
            lines.append(_setting("cacert", self._request.authorities))
        if self._request.takes_any_certificate:
            lines.append("insecure")
        headers = [self._cookies.header(self._place)]
        if self._place.origin() == self._first.origin():
            headers += self._request.headers
        return lines + [_setting("header", header) for header in headers if header]

    def _follow(self, answer: _Answer) -> None:
        """Go where the server leads, if it may lead there."""
        if self._hops == 1 and any(places.kind(a) == places.INTERNAL for _, a in self._addresses):
            self._may_be_internal = True
        if len(answer.target) > _MOST_ADDRESS_BYTES:
            raise self._fail("it redirects to an address that is too long")
        try:
            place = places.parse(answer.target)
        except ValueError as error:
            raise self._fail(f"it redirects {error}") from None
        if self._place.scheme == "https" and place.scheme == "http":
            raise self._fail("it redirects from https to http")
        if self._reach == "host" and place.origin()[1] != self._first.origin()[1]:
            raise self._fail(f"it redirects to another host: {place.host}")
        self._addresses = self._allowed(place)
        self._url = answer.target
        # The host that was asked first gets its password again, and nobody else does.
        if self._first.login and not place.login and place.origin() == self._first.origin():
            scheme, _, rest = answer.target.partition("://")
            self._url = f"{scheme}://{self._first.login}@{rest}"
        self._place = place
        if self._method != "HEAD" and answer.status not in (307, 308):
            self._method = "GET"

    def _allowed(self, place: Place) -> list[tuple[int, str]]:
        """Return those addresses of a redirect's host to which it may lead."""
        if self._probe.text("ADDRESS") and place.origin()[1] == self._first.origin()[1]:
            return self._probe.addresses()
        try:
            host = place.host if place.host.isascii() else place.host.encode("idna").decode()
        except UnicodeError:
            raise self._fail(f"it redirects to {place.host}, which is no name") from None
        try:
            found = lookup.addresses(host, self._probe.family(), self._probe.deadline.left())
        except Fail as fault:
            raise self._fail(f"it redirects to {host}: {fault}") from None
        except Unknown as fault:
            if lookup.is_address(host):
                raise self._fail(f"it redirects to {host}: {fault}") from None
            raise Unknown(f"it redirects to {host}: {fault}") from None
        allowed = [
            (family, address)
            for family, address in found
            if self._may_be_internal or places.kind(address) == places.PUBLIC
        ]
        if not allowed:
            raise self._fail(f"it redirects to {host}, which has no public address ({found[0][1]})")
        place.host = host
        return allowed

    def _fault(self, answer: _Answer) -> Fail | Unknown:
        """Return whose fault it is that curl did not succeed."""
        status, error = answer.exit_status, answer.error
        if status == _MALFORMED and self._hops:
            return self._fail(f"it redirects to an address that is none: {error}")
        if status in (_NO_CONNECTION, _LATE) and not answer.is_connected:
            return self._reason(answer)
        if status == _MALFORMED or answer.is_own_fault():
            return Unknown(f"curl could not ask: {error or status}")
        if status == _BAD_CERTIFICATE and any(text in error for text in _DATES):
            from dmonitor.probe import doubt

            if reason := doubt.of_clock():
                return Unknown(f"{reason}: {error}")
        return self._fail(answer.fault())

    def _reason(self, answer: _Answer) -> Fail | Unknown:
        """Return why curl could not connect, which it does not say.

        Connecting once more, without asking anything, finds faults of this node's own.
        """
        from dmonitor.probe import connection

        where = f"it redirects to {self._place.host}: " if self._hops else ""
        text = where + answer.error.partition(" after ")[0]
        end = min(self._probe.last_moment(), clock.uptime() + _REASON_SECONDS)
        rest = Deadline(end, self._probe.deadline.seconds)
        try:
            connection.connect(self._addresses, self._place.port, rest).close()
        except Unknown as fault:
            return Unknown(f"{where}{fault}")
        except Fail as fault:
            return Fail(
                f"{text}: {fault}" if answer.exit_status == _NO_CONNECTION else f"{where}{fault}"
            )
        return Fail(where + answer.error)

    def _fail(self, text: str) -> Fail:
        """Return the fault `text`, with what was seen before it."""
        if not self._status:
            return Fail(text)
        return Fail(f"{self._status} in {self._seconds:.3f} s {text}")


def _setting(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name} = "{escaped}"'
