"""A TCP connection of a look: it ends by the deadline, and tells whose fault it is if it fails."""

from __future__ import annotations

import _socket as socket
import errno
import select

from dmonitor.base import clock
from dmonitor.probe import faults
from dmonitor.probe.lookup import destination
from dmonitor.probe.outcome import Deadline, Fail, Unknown, Unreachable, verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from typing import Any, TypeVar

    Result = TypeVar("Result")

_STAGGER = 0.4  # seconds for which an address is tried alone before the next one is tried, too
_READ_BYTES = 4096  # at a time
MOST_BYTES = 65536  # that a host may say; a flood must not cost this node a processor
# What OpenSSL says when it has no memory; a peer's own such fault has another name.
_OWN_TLS_FAULTS = ("INTERNAL_ERROR", "MALLOC_FAILURE")


class Connection:
    """Bytes to and from the host, in the clear until TLS begins."""

    def __init__(self, deadline: Deadline, sock: socket.socket, address: str) -> None:
        self._deadline = deadline
        self._socket = sock
        self._buffer = b""  # what was received and not yet taken
        self._received = 0  # bytes in all
        self._tls: ssl.SSLObject | None = None
        self.address = address

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        tls = self._tls
        if tls:
            self._tls_do(lambda: tls.write(data))
        else:
            self._send_raw(data)

    def say_goodbye(self, data: bytes) -> None:
        """Send `data`, and do not mind if nobody takes it: what there was to see has been seen."""
        try:
            self.send(data)
        except (Fail, Unknown):
            return

    def receive(self) -> bytes:
        """Return what the host says next; b"" if it has closed."""
        if not self._buffer:
            return self._read()
        data, self._buffer = self._buffer, b""
        return data

    def line(self) -> bytes:
        """Return the next line, without its end; raise Fail if the host closes before its end."""
        while b"\n" not in self._buffer:
            self._fill()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def exactly(self, count: int) -> bytes:
        """Return the next `count` bytes; raise Fail if the host closes before their end."""
        while len(self._buffer) < count:
            self._fill()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def _fill(self) -> None:
        """Add to the buffer what the host says next; raise Fail if it has closed."""
        data = self._read()
        if not data and self._buffer:
            raise Fail(f"it closes after: {self._buffer[:80].decode('ascii', 'replace')}")
        if not data:
            raise Fail("it closes without a word" if not self._received else "it closes too early")
        self._buffer += data

    def _read(self) -> bytes:
        if self._tls:
            data = self._tls_read(self._tls)
        else:
            data = self._receive_raw()
        self._received += len(data)
        if self._received > MOST_BYTES:
            raise Fail(f"it says more than {MOST_BYTES // 1024} kB")
        return data

    def start_tls(self, context: ssl.SSLContext, name: str | None) -> None:
        """Begin TLS; `name` is the one that a certificate is wanted for."""
        import ssl

        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._tls_do(tls.do_handshake)
        self._tls = tls
        self._buffer = b""  # nothing that was said in the clear counts as said in TLS

    def certificates(self) -> list[bytes]:
        """Return the certificates that the host has shown, its own first, as DER; TLS has begun."""
        import ssl

        tls: Any = self._tls
        if hasattr(tls, "get_unverified_chain"):  # from Python 3.13 on
            return list(tls.get_unverified_chain())
        chain = tls._sslobj.get_unverified_chain() or []
        return [each.public_bytes(ssl._ssl.ENCODING_DER) for each in chain]  # type: ignore[attr-defined]

    def tls_version(self) -> str:
        """Return which TLS is spoken, such as TLSv1.3; "" in the clear."""
        return (self._tls and self._tls.version()) or ""

    def _tls_do(self, action: Callable[[], Result]) -> Result:
        """Do `action` of TLS, and send and receive what it needs for that."""
        import ssl

        from dmonitor.probe import doubt

        while True:
            try:
                result = action()
            except ssl.SSLWantReadError:
                self._send_raw(self._outgoing.read())
                data = self._receive_raw()
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            except ssl.SSLCertVerificationError as error:
                if reason := doubt.of_clock():
                    raise Unknown(reason) from None
                raise Fail(f"its certificate is not valid: {error.verify_message}") from None
            except ssl.SSLError as error:
                raise _tls_fault(error) from None
            else:
                self._send_raw(self._outgoing.read())
                return result

    def _tls_read(self, tls: ssl.SSLObject) -> bytes:
        import ssl

        try:
            return self._tls_do(lambda: tls.read(_READ_BYTES))
        except ssl.SSLZeroReturnError:
            return b""

    def _send_raw(self, data: bytes) -> None:
        while data:
            self._wait(write=True)
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise faults.fault(self._socket, self.address, error) from None

    def _receive_raw(self) -> bytes:
        while True:
            self._wait(write=False)
            try:
                return self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise faults.fault(self._socket, self.address, error) from None

    def _wait(self, write: bool) -> None:
        readers = [] if write else [self._socket]
        writers = [self._socket] if write else []
        if select.select(readers, writers, [], self._deadline.left()) == ([], [], []):
            raise self._deadline.late()


def _tls_fault(error: ssl.SSLError) -> Fail | Unknown:
    reason = error.reason or str(error)
    text = reason.replace("_", " ").lower()
    if reason in _OWN_TLS_FAULTS:
        return Unknown(f"this node's TLS failed: {text}")
    return Fail(f"no TLS: {text}")


def connect(addresses: list[tuple[int, str]], port: int, deadline: Deadline) -> Connection:
    """Connect to the first of `addresses` that takes a connection.

    The next address is tried if the one before has failed, or has not answered for a moment. Raise
    Fail or Unknown if none takes one.
    """
    left = list(addresses)
    trying: dict[socket.socket, str] = {}
    found: list[Fail | Unknown] = []
    next_try = 0.0
    try:
        while left or trying:
            now = clock.uptime()
            if now >= deadline.end:
                found.extend(_overdue(sock, deadline) for sock in trying)
                break
            if left and (now >= next_try or not trying):
                _begin(left.pop(0), port, trying, found)
                next_try = now + _STAGGER
                continue
            pause = min(deadline.end, next_try if left else deadline.end) - now
            _, ready, _ = select.select([], list(trying), [], pause)
            for sock in ready:
                address = trying.pop(sock)
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not error:
                    return Connection(deadline, sock, address)
                found.append(faults.fault(sock, address, OSError(error, "")))
                sock.close()
    finally:
        for sock in trying:
            sock.close()
    raise verdict(found) or deadline.late()


def _begin(
    target: tuple[int, str],
    port: int,
    trying: dict[socket.socket, str],
    found: list[Fail | Unknown],
) -> None:
    """Begin to connect to `target`; what is known at once is added to `found`."""
    family, address = target
    try:
        sock = faults.open_socket(family, socket.SOCK_STREAM)
    except Unreachable as error:
        found.append(error)
        return
    try:
        sock.connect(destination(address, port))
    except BlockingIOError as error:
        if error.errno == errno.EINPROGRESS:
            trying[sock] = address
            return
        found.append(faults.fault(sock, address, error))
    except OSError as error:
        found.append(faults.fault(sock, address, error))
    else:
        trying[sock] = address
        return
    sock.close()


def _overdue(sock: socket.socket, deadline: Deadline) -> Fail | Unknown:
    if faults.was_kept_back(sock):
        return faults.kept_back()
    return deadline.late()
