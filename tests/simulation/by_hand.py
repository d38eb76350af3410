"""Histories that are written by hand: fixed times, and no chance but in how long a plugin takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dmonitor.core.model import Test

from . import mailbox
from .history import Failure, History, truth
from .node import SimNode
from .setups import ADDRESSES
from .virtual_round import Mail
from .world import World

TEST = Test("host0", "ssh")


class Script:
    """A history to be written: the nodes first, then what happens, then `play`."""

    def __init__(self, *crons: tuple[int, float], addresses: int = 1) -> None:
        """Make a node for each pair of an interval in minutes and the second of its first round."""
        self.world = World(1)
        self.world.places = "in step"  # with the crons that are given
        self.world.tracing = True
        self.failures: list[Failure] = []
        for number, (interval, phase) in enumerate(crons, start=1):
            node = SimNode(
                name=f"node{number}",
                node_id=f"{number:012x}",
                site=f"node{number}",
                interval=interval,
                phase=phase,
                tests=frozenset({TEST}),
                addresses=ADDRESSES[:addresses],
                jitter=0.0,
            )
            self.world.nodes.append(node)

    @property
    def nodes(self) -> list[SimNode]:
        return self.world.nodes

    def fail(self, began: float, ended: float, *nodes: SimNode) -> None:
        """Let the test fail, on the nodes named or on all."""
        names = frozenset(node.name for node in nodes)
        self.failures.append(Failure(TEST, began, ended, names))

    def at(self, when: float, event: Callable[..., None], *arguments: object) -> None:
        self.world.at(when, lambda: event(*arguments))

    def cut_power_after_first_mail(self, seconds: float, *, until: float) -> None:
        """Let the node that sends the first mail lose power so many seconds after it."""
        world = self.world

        def mailed(mail: Mail) -> None:
            world.mailed.remove(mailed)
            (sender,) = [node for node in self.nodes if node.name == mail.node]
            world.after(seconds, lambda: world.power_cut(sender, until - world.now))

        world.mailed.append(mailed)

    def play(self, until: float) -> History:
        """Play it, and judge each mailbox."""
        world = self.world
        world.fails = truth(self.failures)
        world.begin()
        watching = mailbox.watch(world, self.failures)
        history = History(1, world, self.failures, [], watch=watching)
        world.run(until)
        mailbox.judge(history)
        return history


def told(history: History, address: str = ADDRESSES[0]) -> list[tuple[str, str]]:
    """Return what an address is told of the test, in order: by which node, and the state."""
    assert history.watch is not None
    found = []
    for said in history.watch.said:
        if said.test == TEST and said.address == address:
            found.append((said.node, said.state))
    return found


def states(told_states: Sequence[tuple[str, str]]) -> list[str]:
    """Return the states told, without those that repeat the one before."""
    found: list[str] = []
    for _, state in told_states:
        if found[-1:] != [state]:
            found.append(state)
    return found
