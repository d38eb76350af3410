"""What a round is made of: what a node remembers, what it is told, what it wants done, and what comes back (rule R6).

Pure values. `round` is the script that yields the effects; `check`, or a simulator, does them. What must outlive a crash is
stored by a Save before the next effect; a Save is one transaction.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from dmonitor import __version__
from dmonitor.core import election, model
from dmonitor.core.codec import Time
from dmonitor.core.model import (
    Change,
    Contact,
    Incident,
    Judgement,
    Node,
    NodeStatus,
    Notification,
    Silence,
    Test,
    TestState,
)


class NodeMemory(NamedTuple):
    """What a node remembers of its own rounds; `heard` is whom it greeted in the last one, `speaks`: it had an address.

    `name` is its own, by which all nodes have to order it: the daemon, which may know less, states this one.
    `rehearsal_failures` are the rehearsals whose last answer was wrong; `no_daemon` says why our own daemon did not answer then.
    `reach` has, by the names in our nodes.txt, who was greeted, and whom each of these had greeted itself; `lines` are the names
    there that are our own.
    """

    begins: tuple[Time, ...] = ()
    finished: Time = float("-inf")
    refused: int = 0
    speaks: bool = False
    heard: tuple[NodeStatus, ...] = ()
    name: str = ""
    nodes: str = ""
    addresses: str = ""
    troubles: tuple[model.Trouble, ...] = ()
    rehearsal_failures: tuple[model.RehearsalFailure, ...] = ()
    no_daemon: str = ""
    reach: tuple[tuple[model.NodeName, tuple[model.NodeName, ...]], ...] = ()
    lines: tuple[model.NodeName, ...] = ()

    def status(
        self,
        name: str,
        node_id: str,
        now: float,
        *,
        tests: str = "",
        stores: bool = True,
        wall: float = 0.0,
    ) -> NodeStatus:
        told = {
            field: getattr(self, field)
            for field in ("finished", "speaks", "refused", "nodes", "addresses")
        }
        told["troubles"] = tuple(known.kind for known in self.troubles if known.ended is None)
        every, rounds = election.interval(self.begins), len(self.begins)
        return NodeStatus(
            self.name or name,
            node_id,
            now,
            every,
            stores=stores,
            tests=tests,
            rounds=rounds,
            version=__version__,
            wall=wall,
            **told,
        )


def state_of(
    node: NodeMemory,
    incidents: Iterable[Incident],
    silences: Sequence[Silence],
    status: NodeStatus,
    now: float,
) -> model.Statement:
    """Return what a node's greeting states, given what it remembers."""
    listed = tuple(known for known in incidents if not known.removed)
    return model.Statement(
        status,
        node.heard,
        tuple(known for known in silences if known.until is None or known.until > now),
        listed,
    )


class Memory(NamedTuple):
    """All that a node remembers; `recall` finds incidents that are long over by their ids."""

    node: NodeMemory
    test_states: Mapping[Test, TestState]
    incidents: Sequence[Incident]  # open, owing, or closed lately
    outbox: Sequence[Notification]  # told by this node, and not yet taken for that address
    silences: Mapping[str, Sequence[Silence]]  # what peers said last, by node name
    recall: Callable[[Iterable[str]], Iterable[Incident]]


class RoundConfig(NamedTuple):
    """What the round needs to know of the configuration, and who we are; times are of this node's clock.

    `tests` has those that nodes are, too; `digest` is of the others.
    """

    node_id: str
    tests: frozenset[Test]
    digest: str
    addresses: tuple[str, ...]
    silences: tuple[Silence, ...] = ()
    nodes: tuple[Node, ...] = ()
    complete: bool = True
    quorum: int = 2
    confirm: int = 1
    flapping: bool = True
    remind: float = 0.0
    once: bool = False  # greet once, and do not stay for what the others find


# Effects, with what is sent back for each.


class Observe(NamedTuple):
    """Run all tests, greet all peers, ask them all about what fails and about OPEN tests -> Observation."""

    open: frozenset[Test]
    incidents: tuple[Incident, ...]


class Rehearse(NamedTuple):
    """Ask our own daemon, and one peer, about a passing test each -> the Rehearsals that were answered.

    What is in FAILURES is asked again; else test and peer are chosen by chance.
    """

    failures: tuple[model.RehearsalFailure, ...] = ()


class Greet(NamedTuple):
    """Greet all peers again -> the Contacts of this round; INCIDENTS are those known here."""

    incidents: tuple[Incident, ...]


class Save(NamedTuple):
    """Store all of this, or none -> whether it is stored for good."""

    node: NodeMemory | None = None
    test_states: Mapping[Test, TestState] = MappingProxyType({})
    gone: frozenset[Test] = frozenset()
    incidents: tuple[Incident, ...] = ()
    outbox: tuple[Notification, ...] = ()  # new, or with one more refusal
    settled: tuple[Notification, ...] = ()  # out of the outbox
    told: tuple[Notification, ...] = ()  # handed over just now
    changes: tuple[Change, ...] = ()
    silences: Mapping[str, Sequence[Silence]] | None = None


class HandOver(NamedTuple):
    """Start to hand each address its one mail -> None."""

    mails: Mapping[str, Sequence[Notification]]


class Next(NamedTuple):
    """Wait for the MTA -> the next address and whether its mail was taken, or None after the last."""


class Wait(NamedTuple):
    """Let SECONDS pass -> None."""

    seconds: float


class Complain(NamedTuple):
    """Say TEXT to whoever reads what cron mails -> None."""

    text: str


Effect = Observe | Rehearse | Greet | Save | HandOver | Next | Wait | Complain


class Observation(NamedTuple):
    """What a round has seen: who we are in nodes.txt, a judgement for each test, and what came of greeting the peers."""

    me: Node
    judgements: Mapping[Test, Judgement]
    contacts: Sequence[Contact]


class RoundClock(Protocol):
    """`now` is this node's clock, in seconds, `text` one of its times for people; `elapsed` counts from the round's beginning."""

    def now(self) -> float: ...
    def elapsed(self) -> float: ...
    def text(self, at: float, /) -> str: ...
