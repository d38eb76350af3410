"""The processes of dmonitor-check on a virtual node: each waits for its place, and may stay (R5, R10).

It stands for `dmonitor.check` and `dmonitor.stay`. What waits holds nothing; a power cut ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dmonitor import check, stay
from dmonitor.core import effects
from dmonitor.store import place

from .node import SimNode
from .virtual_round import VirtualRound

if TYPE_CHECKING:
    from .world import World

_LOCK_PAUSE = 0.2  # seconds from one try to take the lock to the next
_STARTS_WITHIN = 0.4  # seconds that a process takes at most until it wants the lock

Ended = Callable[[effects.RoundEnd | None], None]  # called with None if the round was killed


class Process:
    """One process of a node."""

    def __init__(self, world: World, node: SimNode) -> None:
        self.world = world
        self.node = node
        self._boots = node.boots
        self._is_killed = False

    @property
    def is_off(self) -> bool:
        """Whether this process was killed, or the node has lost its power since it was started."""
        return self._is_killed or not self.node.up or self.node.boots != self._boots

    def kill(self) -> None:
        """End this process."""
        self._is_killed = True
        self.node.waiting.discard(self)
        self.node.stays[:] = [each for each in self.node.stays if each is not self]

    def wait(self, seconds: float, then: Callable[[], None]) -> None:
        """Wait so long by the node's clock, which stands still while the machine is suspended."""
        world, node = self.world, self.node

        def over(suspended: float) -> None:
            if self.is_off:
                return
            if node.suspended > suspended:
                more, now_suspended = node.suspended - suspended, node.suspended
                world.after(more, lambda: over(now_suspended))
            else:
                then()

        suspended = node.suspended
        world.after(seconds / node.rate, lambda: over(suspended))

    def run(self, ended: Ended, patience: float, *, waited: float = 0.0, woken: bool) -> None:
        """Take the lock within `patience` seconds, and run a round; call `ended` after it."""
        world, node = self.world, self.node
        patient_until = world.now + patience

        def take() -> None:
            if self.is_off:
                return
            if not node.running:
                node.waiting.discard(self)
                VirtualRound(world, node, waited=waited, woken=woken, ended=left).resume(None)
            elif world.now < patient_until:
                node.waiting.add(self)
                self.wait(_LOCK_PAUSE, take)
            else:
                node.waiting.discard(self)
                world.note(node.name, "round skipped")
                node.skipped.append(world.now)
                ended(None)

        def left(end: effects.RoundEnd | None) -> None:
            if end is not None and end.place is not None and not self.is_off and not woken:
                next_place = end.place if node.fixed_place is None else node.fixed_place
                node.disk.place = place.follow(node.disk.place, next_place)
            ended(end)

        take()


class Check(Process):
    """A process that cron starts: now, or a moment later."""

    def __init__(self, world: World, node: SimNode) -> None:
        super().__init__(world, node)
        node.waiting.add(self)

    def begin(self) -> None:
        """Wait for the node's place, and take a round."""
        node = self.node
        self._started = self.world.now
        if self.is_off or node.is_asleep(self.world.now):
            node.waiting.discard(self)
        elif node.is_old:
            node.waiting.discard(self)
            self.run(lambda _: None, 0.0, woken=False)
        else:
            self.wait(node.disk.place, self._at_its_place)

    def _elapsed(self) -> float:
        return (self.world.now - self._started) * self.node.rate

    def _at_its_place(self) -> None:
        self.node.waiting.discard(self)
        if self.node.is_rung:
            self.node.is_rung = False
            self.run(lambda _: self._test(), check._LOCK_PATIENCE, woken=True)
        else:
            self._test()

    def _test(self) -> None:
        self.run(self._ended, check._LOCK_PATIENCE, waited=self._elapsed(), woken=False)

    def _ended(self, end: effects.RoundEnd | None) -> None:
        if end is None or not end.stays:
            return
        next_round = end.interval * 60.0 + self.node.disk.place - self._elapsed()
        seconds = min(next_round - check._STAY_ENDS_BEFORE, check._LONGEST_STAY)
        if seconds > 0:
            Stay(self.world, self.node, self.world.now + seconds / self.node.rate).begin()


class Stay(Process):
    """A process that waits to be woken, until a time of the world."""

    def __init__(self, world: World, node: SimNode, until: float) -> None:
        super().__init__(world, node)
        self._until = until
        self._number = next(world.numbers)
        self._looks: list[float] = []  # on the node's clock
        self._is_busy = False  # a look is due, or lasts

    def begin(self) -> None:
        self.node.stays.append(self)
        self.world.at(self._until, self._leave)
        self._listen()

    def _listen(self) -> None:
        if self.node.is_rung:
            self.ring()

    def _leave(self) -> None:
        """End; if a look lasts, its end is waited for, but no other one follows."""
        if self in self.node.stays:
            self.node.stays.remove(self)

    def ring(self) -> None:
        """Look as soon as that is allowed."""
        if self._is_busy or self not in self.node.stays:
            return
        self._is_busy = True
        pause = stay.next_look(self._looks) - self.node.clock(self.world.now)
        self.wait(max(0.0, pause) if self._looks else 0.0, self._look)

    def _look(self) -> None:
        world, node = self.world, self.node
        if self not in node.stays:
            return
        node.is_rung = False
        self._looks = [*self._looks, node.clock(world.now)][-stay.LOOKS :]
        node.looks.append((self._number, world.now))
        starts = world.chance.uniform(0.05, _STARTS_WITHIN)
        self.wait(starts, lambda: self.run(self._looked, check._LOCK_PATIENCE, woken=True))

    def _looked(self, end: effects.RoundEnd | None) -> None:
        self._is_busy = False
        self._listen()
