"""All peers at once: ask them what they see, and greet them for what they know (R3, R7, R10).

It has one session for each peer, and collects what comes of them. Each session has its own
deadlines, so that no peer delays the answer of another. The modules of a session are imported only
if there are peers, because a round without them should not pay for that.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from dmonitor.base import clock
from dmonitor.config.cluster import Peer
from dmonitor.config.keyfile import Keys
from dmonitor.config.settings import Settings
from dmonitor.core.model import Answer, Contact, Node, Test

if TYPE_CHECKING:
    from dmonitor.net.session import PeerSession

_NEVER = float("inf")


def _no_incarnation() -> str:
    """Return the incarnation of a daemon that nobody knows: it is never taken for a clone."""
    return ""


def never_twice(_: Node) -> bool:
    """Have no node greeted once more."""
    return False


def _ignore(_: Contact) -> None:
    """Do nothing about a contact."""


class Asker:
    """The sessions with the peers of this node, within the loop of a selector.

    `tick` must be called at the times that `pause` says.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        peers: Sequence[Peer],
        node_id: str,
        settings: Settings,
        keys: Keys | None,
        *,
        digest: str = "",
        clock: Callable[[], float] = time.time,
        own_incarnation: Callable[[], str | None] = _no_incarnation,
        heard: Callable[[Contact], None] = _ignore,
        failed: Callable[[Contact], None] = _ignore,
        status_only: bool = False,
    ) -> None:
        """Call nobody yet.

        `node_id` is this node's own. With `keys`, only a peer that has its key is believed.
        `digest` is that of the tests here: a peer with another one is asked for its list; empty
        means that nobody is. Times in statements are on `clock`. `own_incarnation` returns that of
        this node's own daemon, and None if it has none. `heard` is told each contact, and
        `failed` each greeting that failed and is tried once more. With `status_only` nothing but
        the status is wanted of a statement.
        """
        self.contacts: dict[Node, Contact] = {}  # what came of greeting each peer last
        self.failures: dict[Node, Contact] = {}  # the first greetings that failed and were repeated
        self._digest = digest
        self._status_only = status_only
        self._heard = heard
        self._failed = failed
        self._answers: dict[Test, dict[Node, Answer]] = {}
        self._sessions: list[PeerSession] = []
        if not peers:
            return
        from dmonitor.net.connection import Caller
        from dmonitor.net.session import PeerSession

        caller = Caller(selector, node_id, settings, keys, clock, own_incarnation)
        for peer in peers:
            session = PeerSession(
                peer, caller, self._answered, self._contacted, self._greeting_failed
            )
            self._sessions.append(session)

    @property
    def own_line(self) -> Node | None:
        """The first line of nodes.txt at which this node itself answered; None if it did not."""
        for session in self._sessions:
            if session.is_this_node:
                return session.node
        return None

    def ask(self, test: Test, *only: Node) -> None:
        """Ask every peer, or `only` these, for `test`: each once, and none for itself."""
        answers = self._answers.setdefault(test, {})
        for session in self._sessions:
            if only and session.node not in only:
                continue
            if session.node not in answers and session.may_be_asked(test):
                session.ask(test)

    def forget(self, test: Test) -> None:
        """Forget the answers for `test`, so that it can be asked again."""
        self._answers.pop(test, None)
        for session in self._sessions:
            session.forget(test)

    def greet(
        self,
        is_known: Callable[[str], bool],
        open_ids: Iterable[tuple[str, ...]],
        *,
        twice: Callable[[Node], bool] = never_twice,
    ) -> None:
        """Want a statement of every peer, as PeerSession.greet says.

        It comes with the account of each incident of which no id `is_known`, and with that of each
        incident in `open_ids` which the peer does not list. `twice` returns whether a node that
        could not be greeted is greeted once more.
        """
        if not self._sessions:
            return
        from dmonitor.net.statement import Interest

        interest = Interest(is_known, list(open_ids), self._digest, self._status_only)
        for session in self._sessions:
            session.greet(interest, twice=twice(session.node))

    def wake(self, node_ids: Collection[str]) -> None:
        """Wake the peers with these ids, if they are connected."""
        for session in self._sessions:
            if session.peer_id in node_ids:
                session.wake()

    def answers(self, test: Test) -> list[Answer]:
        """Return an Answer for each peer that has answered for `test`, or never will."""
        return list(self._answers.get(test, {}).values())

    @property
    def pending(self) -> bool:
        """Whether an answer may still come."""
        return any(session.awaits_answer for session in self._sessions)

    @property
    def greeting(self) -> bool:
        """Whether a statement may still come."""
        return any(session.awaits_statement for session in self._sessions)

    def pause(self) -> float | None:
        """Return the seconds until `tick` is due; None if nothing is awaited."""
        deadline = min((session.deadline() for session in self._sessions), default=_NEVER)
        if deadline == _NEVER:
            return None
        return max(0.0, deadline - clock.uptime())

    def tick(self) -> None:
        """Give up what is overdue."""
        now = clock.uptime()
        for session in self._sessions:
            session.tick(now)

    def close(self, reason: str = "the round is over") -> None:
        """End every session; an answer that is still awaited does not come, for `reason`."""
        for session in self._sessions:
            session.close(reason)

    def _answered(self, test: Test, answer: Answer) -> None:
        self._answers.setdefault(test, {})[answer.node] = answer

    def _greeting_failed(self, contact: Contact) -> None:
        self.failures[contact.node] = contact
        self._failed(contact)

    def _contacted(self, contact: Contact) -> None:
        before = self.contacts.get(contact.node)
        if before and contact.statement is None:
            # What the peer stated earlier in this round still stands.
            contact = contact._replace(statement=before.statement)
        self.contacts[contact.node] = contact
        self._heard(contact)
