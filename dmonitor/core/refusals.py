"""What is remembered of refused hand-overs: how many in a row, and by which addresses (R5, R6).

Pure. The number decides which node speaks; an address that refuses rests before it is tried again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from dmonitor.base import names
from dmonitor.core.effects import NodeMemory
from dmonitor.core.model import RefusedAddress
from dmonitor.core.situation import Situation

# Seconds after the last refusal, if nothing is to be told, after which it says nothing of now.
_LASTS = 600.0
# Seconds from one mail to an address that refuses to the next one.
_SHORTEST_REST, _LONGEST_REST = 60.0, 1800.0
_EARLY = 5.0  # seconds by which a round may begin early

Outcome = bool | None  # whether a mail was taken; None: that is not known


class RefusalMemory:
    """The refusals that this node remembers, during one round."""

    def __init__(self, situation: Situation) -> None:
        self._situation = situation
        # Whether a mail was taken in this round, whatever it told.
        self._mail_taken = any(not names.is_hook(each) for each in situation.config.tests_taken)

    def note(self, address: str, *, taken: bool) -> None:
        """Remember that an address has taken its mail, or has refused it once more."""
        situation = self._situation
        noted = {each.address: each for each in situation.node_memory.refused_addresses}
        now = situation.clock.now()
        before = noted.pop(address, RefusedAddress(address, now, now))
        if not taken:
            noted[address] = before._replace(at=now)
        elif not names.is_hook(address):
            self._mail_taken = True
        situation.node_memory = situation.node_memory._replace(
            refused_addresses=tuple(each for _, each in sorted(noted.items()))
        )

    def count(self, told: Mapping[str, Outcome], *, was_first: bool) -> None:
        """Count how many hand-overs were refused in a row.

        `told` has the outcomes of one hand-over, by the addresses to which something untold was
        handed over. A hook says nothing of the mail system, unless there are only hooks. Nobody may
        move to the front while another node hands over. So what was left in the outbox changes
        nothing. A success changes nothing either if this node speaks only because the first node
        does not count for that incident; nor does what may still be taken. Of an address with HOURS
        or AFTER only the first refusal counts: it may be the only one that is told then, and if its
        name is wrong, no mail system takes it.
        """
        situation = self._situation
        memory = situation.node_memory
        has_mails = not all(map(names.is_hook, situation.config.addresses))
        counted = {}
        for address, taken in told.items():
            if not (has_mails and names.is_hook(address)):
                counted[address] = taken
        outcomes = counted.values()
        if counted and all(taken is False for taken in outcomes) and self._is_new(counted):
            now = situation.clock.now()
            situation.node_memory = memory._replace(refused=memory.refused + 1, refused_at=now)
        elif any(outcomes) and was_first:
            situation.node_memory = memory._replace(refused=0)
        refused = situation.node_memory.refused
        if refused != memory.refused:
            situation.note_refusals(situation.me.name, situation.config.node_id, refused)

    def _is_new(self, refused: Collection[str]) -> bool:
        """Return whether one of the addresses that have just `refused` counts."""
        audience = self._situation.audience
        known = {each.address: each for each in self._situation.node_memory.refused_addresses}
        for address in refused:
            if not audience.circle_of(address):
                return True
            if known[address].since == known[address].at:  # its first refusal
                return True
        return False

    def forget_old(self, owed: Collection[str]) -> None:
        """Forget refusals that say nothing of now: a mail was taken since, or they are old.

        `owed` are the addresses that are owed anything. This changes who speaks, so it has to wait
        while something is to be told.
        """
        situation = self._situation
        memory, config = situation.node_memory, situation.config
        now = situation.clock.now()
        lasting = []
        for each in memory.refused_addresses:
            is_recent = now - each.at <= _LASTS or each.address in owed
            is_told = each.address in config.addresses and each.address not in config.tests_taken
            if is_recent and is_told:
                lasting.append(each)
        memory = memory._replace(refused_addresses=tuple(lasting))
        is_old = now - memory.refused_at > _LASTS
        if memory.refused and (is_old or self._mail_taken) and not situation.holds_untold():
            situation.note_refusals(situation.me.name, config.node_id, 0)
            memory = memory._replace(refused=0, refusals=situation.node_memory.refusals)
        situation.node_memory = memory


def resting(memory: NodeMemory, now: float) -> dict[str, float]:
    """Return the addresses that get what they have refused not now, but in some minutes.

    Each is there with the time at which it has refused last.

    Each rests for as long again as it has refused. So it is tried again after 1, 2, 4, … minutes,
    and what else it refuses meanwhile, because there was news, makes its rest no longer.
    """
    found = {}
    for each in memory.refused_addresses:
        rest = min(max(_SHORTEST_REST, each.at - each.since), _LONGEST_REST)
        if now - each.at < rest - _EARLY:
            found[each.address] = each.at
    return found
