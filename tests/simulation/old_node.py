"""What a node of dmonitor 0.2 decides in another way: a cluster is not upgraded all at once.

It begins at once when cron starts it, never stays, wakes nobody, and is not woken (`process`,
`virtual_round` and `world` see to that). Its first node greets every 10 s, and its round waits for a
speaker that it has just found DOWN.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from dmonitor.core import election, telling
from dmonitor.core.situation import Situation
from dmonitor.core.telling import Telling


def _greets_again(self: Telling) -> bool:
    situation = self._situation
    next_greeting = max(situation.clock.elapsed(), self._greeted_at + telling.GREETING_INTERVAL)
    if next_greeting > telling.GREETINGS_END:
        return False
    if not situation.contacts or situation.config.once:
        return False
    return situation.is_first() or situation.holds_untold()


def candidates(self: Situation) -> list[election.Candidate]:
    return election.candidates(self.status(), self.statements.values())


@contextlib.contextmanager
def decides() -> Iterator[None]:
    """Let the decision code be that of an old node meanwhile."""
    new_greets_again, new_candidates = Telling._greets_again, Situation.candidates
    Telling._greets_again = _greets_again  # type: ignore[method-assign]
    Situation.candidates = candidates  # type: ignore[method-assign]
    try:
        yield
    finally:
        Telling._greets_again = new_greets_again  # type: ignore[method-assign]
        Situation.candidates = new_candidates  # type: ignore[method-assign]
