"""One statement of a peer while it comes, with the list and the accounts that belong to it.

It collects the lines of the replies, and names the requests that follow from them. A statement that
is too large, or makes no sense, is passed over, and costs the conversation nothing else. It does
not send, has no deadline, and does not know what a statement means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dmonitor.core.model import Incident, Statement
from dmonitor.net import protocol
from dmonitor.net.protocol import Greeting, ProtocolError, Request

_ACCOUNTS_LIMIT = 50  # for one statement: the evidence is for people, and nobody reads more of it


class Interest(NamedTuple):
    """What this node knows, which decides for which lists and accounts a peer is asked."""

    is_known: Callable[[str], bool]  # whether an incident with this id is known here
    open_ids: Sequence[tuple[str, ...]]  # of each incident that is open here
    digest: str = ""  # of the tests here; empty if nobody wants the list of the peer's tests
    status_only: bool = False  # nothing but the peer's own status matters


class PendingStatement:
    """The replies to `greet` and to the requests that follow from it, as far as they have come."""

    def __init__(self, peer: Greeting, interest: Interest, clock: Callable[[], float]) -> None:
        self.awaited = [Request("greet")]  # whose replies have not ended, in their order
        self.is_wanted = True  # False once it is given up: then its lines are passed over
        self._peer = peer
        self._interest = interest
        self._clock = clock
        self._bytes = 0  # of the reply that is awaited first
        self._account_bytes = 0  # of all accounts
        self._lines: list[bytes] = []  # of the reply that is awaited first
        self._began = 0.0  # when the first of these lines came, on `clock`
        self._statement: Statement | None = None
        self._incidents: dict[str, Incident] = {}  # by their smallest ids

    def complete(self) -> Statement | None:
        """Return the statement with the accounts of its incidents; None if a reply is awaited."""
        if self._statement is None or self.awaited:
            return None
        return self._statement._replace(incidents=tuple(self._incidents.values()))

    def take(self, line: bytes) -> list[Request]:
        """Take a line of the reply that is awaited first; return the requests that follow from it.

        Raise ProtocolError, with a reason for people, if the statement is too large, or makes no
        sense. The statement has to be abandoned then.
        """
        is_end = line.strip().partition(b" ")[0] == b"end"
        if self.is_wanted and not is_end:
            self._keep(line)
        if not is_end:
            return []
        request = self.awaited.pop(0)
        lines = self._lines
        size = self._bytes
        self._lines = []
        self._bytes = 0
        if not self.is_wanted:
            return []
        try:
            return self._replied(request, lines, size)
        except ProtocolError as error:
            raise ProtocolError(f"its statement makes no sense: {error}") from None

    def _count(self, line: bytes) -> None:
        """Count the bytes of `line`; raise ProtocolError if they are too many."""
        if len(line) >= protocol.ANSWER_BYTES:
            raise ProtocolError(f"it states a line of over {protocol.ANSWER_BYTES} bytes")
        self._bytes += max(len(line), protocol.LINE_BYTES)
        if self._bytes > protocol.STATEMENT_BYTES:
            raise ProtocolError(f"it states more than {protocol.STATEMENT_BYTES} bytes")

    def refuse(self) -> None:
        """Await no longer the reply that is awaited first: the peer does not know the request."""
        del self.awaited[0]

    def abandon(self) -> None:
        """Want the statement no longer; what still comes of it is passed over."""
        self.is_wanted = False
        self._lines = []
        self._statement = None
        self._incidents = {}

    def _keep(self, line: bytes) -> None:
        """Keep `line` if it is wanted; raise ProtocolError if there is too much to keep."""
        if not self._lines:
            self._began = self._clock()
        if self._interest.status_only and not line.lstrip().startswith(b"standing "):
            return
        self._count(line)
        if self._interest.status_only:
            self._lines.clear()
        self._lines.append(line)

    def _replied(self, request: Request, lines: list[bytes], size: int) -> list[Request]:
        """Take the `lines` of a reply, of `size` bytes; return the requests that follow from it."""
        if request.word == "greet":
            self._statement = protocol.read_statement(lines, self._peer, self._began)
            requests = self._requests_after(self._statement)
            self.awaited += requests
            return requests
        if request.word == "tests" and self._statement:
            self._statement = self._statement._replace(tests=protocol.read_tests(lines))
            return []
        self._account_bytes += size
        if self._account_bytes > protocol.STATEMENT_BYTES:
            return []  # what the statement says of the incident is enough
        incident = protocol.read_incident(lines, self._began)
        if incident:
            self._incidents[incident.id] = incident
        return []

    def _requests_after(self, statement: Statement) -> list[Request]:
        """Return the requests for accounts, and for the list of tests if it differs from ours."""
        listed: set[str] = set()
        for incident in statement.incidents:
            self._incidents[incident.id] = incident
            listed.update(incident.ids)
        wanted = [min(ids) for ids in self._interest.open_ids if listed.isdisjoint(ids)]
        for incident in self._incidents.values():
            if not any(map(self._interest.is_known, incident.ids)):
                wanted.append(incident.id)
        requests = [Request("incident", known_id) for known_id in wanted[:_ACCOUNTS_LIMIT]]
        digest = self._interest.digest
        if digest and statement.status.tests != digest:
            requests.append(Request("tests"))
        return requests
