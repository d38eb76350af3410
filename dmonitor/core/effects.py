"""The values of a round: what a node remembers, how it is configured, what it wants done (rule R6).

Pure data. The script in `round` yields the effects; `driver` carries them out, and so does the
simulator. A Save is one transaction. It is on disk before the script yields its next effect.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from dmonitor import __version__
from dmonitor.core import circles, election, model
from dmonitor.core.codec import Time
from dmonitor.core.incident import owed
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
from dmonitor.core.wants import Wants

# Seconds that a round may take. After that it ends, and concludes nothing (R10).
HARD_LIMIT = 55.0


class NodeMemory(NamedTuple):
    """What a node remembers of its own rounds. The state keeps it as JSON, by these names."""

    # When its last few rounds began, oldest first.
    begins: tuple[Time, ...] = ()
    # When its last round ended.
    finished: Time = float("-inf")
    # Hand-overs refused in a row (R5).
    refused: int = 0
    # Whether it has an address to mail.
    speaks: bool = False
    # The peers that it greeted in its last round.
    heard: tuple[NodeStatus, ...] = ()
    # Its name in nodes.txt, by which every node has to rank it. The daemon may not know it.
    name: model.NodeName = ""
    # The digests of its nodes.txt and of its alert.d.
    nodes: model.Digest = ""
    addresses: model.Digest = ""
    troubles: tuple[model.Trouble, ...] = ()
    # The rehearsals whose last answer was wrong.
    rehearsal_failures: tuple[model.RehearsalFailure, ...] = ()
    # Why its own daemon did not answer the last rehearsal; empty if it did.
    no_daemon: model.LongText = ""
    # Each peer that it greeted, with the nodes that this peer had greeted; by their names here.
    reach: tuple[tuple[model.NodeName, tuple[model.NodeName, ...]], ...] = ()
    # The names in nodes.txt here that are this node itself.
    own_node_names: tuple[model.NodeName, ...] = ()
    # The tests that are DOWN and have no incident yet.
    confirming: tuple[model.Confirming, ...] = ()
    # Each node of nodes.txt that has stated its settings quorum and confirm, with these.
    stated_settings: tuple[tuple[model.NodeName, int, int], ...] = ()
    # Its settings of these names, which decide when an incident opens and closes.
    quorum: int = 0
    confirm: int = 0
    # The incidents that owe what it might not tell for a while: a mail is not late because of that.
    quiet: tuple[model.Quiet, ...] = ()
    # The flakes of each test that had one, in the order of the tests.
    flakes: tuple[model.Flake, ...] = ()
    # The tests that failed here in its last round, and about which greeted peers did not answer.
    unanswered: tuple[model.Unanswered, ...] = ()
    # The tests that passed in its last round and took longer than result.SLOW_LOOK.
    slow: tuple[Test, ...] = ()
    # The lines of nodes.txt with the node ids that they had for themselves: see NodeIds.learn.
    known_ids: tuple[tuple[model.NodeName, model.KnownId], ...] = ()
    # How many hand-overs were refused at each node of nodes.txt at which some were.
    refusals: tuple[model.Refusals, ...] = ()
    # The interval of each node of nodes.txt that has last stated more than a minute.
    stated_intervals: tuple[tuple[model.NodeName, model.Interval], ...] = ()
    # The errors that were found when its programs were last examined, and when that was.
    mistakes: model.LongText = ""
    examined: Time = float("-inf")
    # When the last one of its hand-overs was refused.
    refused_at: Time = float("-inf")
    # The addresses whose last mails were refused.
    refused_addresses: tuple[model.RefusedAddress, ...] = ()
    # The hand-overs that have no outcome yet.
    handing: tuple[model.Handing, ...] = ()
    # Since when it remembers its absences, and which there were.
    present_since: Time = float("-inf")
    absences: tuple[model.Absence, ...] = ()

    def slowest_interval(self) -> int:
        """Return the largest interval of this node and those that it greeted, in minutes."""
        intervals = [election.interval(self.begins)]
        intervals += [status.interval for status in self.heard]
        return min(max(intervals), model.SLOWEST_INTERVAL)

    def interval_that_holds(self) -> int:
        """Return the longest interval for which any node is waited, in minutes."""
        stated = [interval for _, interval in self.stated_intervals]
        return election.interval_that_holds(election.interval(self.begins), stated)

    def status(
        self,
        name: str,
        node_id: str,
        now: float,
        *,
        tests: str = "",
        stores: bool = True,
        wall: float = 0.0,
        up: float = float("inf"),
    ) -> NodeStatus:
        """Return what this node states of itself at `now`.

        `name` is stated until a round has found the node's name in nodes.txt.
        """
        return NodeStatus(
            name=self.name or name,
            node_id=node_id,
            at=now,
            interval=election.interval(self.begins),
            finished=self.finished,
            speaks=self.speaks,
            stores=stores,
            refused=self.refused,
            tests=tests,
            nodes=self.nodes,
            addresses=self.addresses,
            rounds=len(self.begins),
            troubles=tuple(trouble.kind for trouble in self.troubles if trouble.ended is None),
            version=__version__,
            wall=wall,
            quorum=self.quorum,
            confirm=self.confirm,
            up=up,
            wakes=True,
        )


def statement_of(
    node_memory: NodeMemory,
    incidents: Iterable[Incident],
    silences: Iterable[Silence],
    status: NodeStatus,
    now: float,
) -> model.Statement:
    """Return what a node's greeting states; a silence that is over is not stated."""
    lasting = [silence for silence in silences if silence.until is None or silence.until > now]
    stated = tuple(stated_incidents(incidents, node_memory.handing))
    return model.Statement(
        status, node_memory.heard, tuple(lasting), stated, confirming=node_memory.confirming
    )


def stated_incidents(
    incidents: Iterable[Incident], handing: Iterable[model.Handing]
) -> Iterator[Incident]:
    """Yield those of the `incidents` that a greeting states, with what this node is `handing` over.

    An incident whose test was removed here is not stated: that says nothing about the host.
    """
    first: dict[tuple[str, model.Kind], float] = {}
    for hand_over in handing:
        for key in hand_over.notifications:
            first[key] = min(hand_over.since, first.get(key, hand_over.since))
    for incident in incidents:
        if incident.removed:
            continue
        begun = []
        for view in circles.views(incident) if first else ():
            keys = itertools.product(incident.ids, owed(view))
            begun += [first[key] for key in keys if key in first]
        if begun:
            incident = incident._replace(handing=min(begun))
        yield incident


class Memory(NamedTuple):
    """All that a node remembers when a round begins."""

    node: NodeMemory
    test_states: Mapping[Test, TestState]
    # The incidents that are open, that owe a notification, or that closed lately.
    incidents: Sequence[Incident]
    # What this node has told, and some address has not yet taken.
    outbox: Sequence[Notification]
    # The silences that each peer stated last, by the peer's name.
    silences: Mapping[str, Sequence[Silence]]
    # Finds incidents by their ids, however long ago they closed.
    recall: Callable[[Iterable[str]], Iterable[Incident]]


class RoundConfig(NamedTuple):
    """What a round needs of the configuration, and the node's id.

    Times are of this node's clock.
    """

    node_id: str
    # Every test in hosts.d, and each node as a test (R7).
    tests: frozenset[Test]
    # The digest of the tests in hosts.d.
    tests_digest: str
    # The addresses and hooks in alert.d.
    addresses: tuple[str, ...]
    # What some of these want; the others want everything at once.
    wants: Mapping[str, Wants] = MappingProxyType({})
    # The circles whose hours do not hold now.
    outside_hours: frozenset[str] = frozenset()
    # The silences in silence.d of this node.
    silences: tuple[Silence, ...] = ()
    # The acknowledgements there.
    acknowledgements: tuple[model.Acknowledgement, ...] = ()
    nodes: tuple[Node, ...] = ()
    # The names of peers that resolve to this machine now, and did not before.
    diverted: tuple[str, ...] = ()
    # The names of the lines of nodes.txt that are this node by its addresses or settings.
    own_names: frozenset[str] = frozenset()
    # Whether every file could be read. If not, a test or an address that is missing is not removed.
    complete: bool = True
    # The errors in these files: where each is, and what is wrong there.
    mistakes: tuple[str, ...] = ()
    # The settings of these names in dmonitor.conf; `remind` is in seconds, 0 for never.
    quorum: int = 2
    confirm: int = 1
    flapping: bool = True
    remind: float = 0.0
    # The option --once: greet the peers once, and do not stay for what they find.
    once: bool = False
    # The addresses and hooks that have taken a test since the last round, which somebody has made.
    tests_taken: frozenset[str] = frozenset()
    # How many seconds this round has waited for its place before it began (R10).
    waited: float = 0.0
    # Whether the state could be written when this round began.
    stores: bool = True
    # The tests that need not be looked at in each round, with how often they are.
    rhythms: Mapping[Test, model.Rhythm] = MappingProxyType({})
    # The tests that have a `confirm` of their own, with that.
    confirmations: Mapping[Test, int] = MappingProxyType({})
    # The tests that stand behind others, with those: while all of these are DOWN, they are told.
    behind: Mapping[Test, tuple[Test, ...]] = MappingProxyType({})


# The effects. Each docstring ends with what is sent back to the script.


class Observe(NamedTuple):
    """Run all tests, greet all peers, and ask them about each test that fails or is open.

    A test that rests is neither run nor asked about. Sent back: an Observation.
    """

    # The tests with an open incident: the peers are asked about them even if they pass here.
    open: frozenset[Test]
    # The incidents that are known here, whose ids a peer need not explain.
    incidents: tuple[Incident, ...]
    # This node's quorum; which one holds depends on what the peers state, too.
    quorum: int
    # What no peer can make it larger than: the number of sites.
    sites: int = 100
    # The quorum of each peer as it stated it last, by name; in this round it may state another one.
    stated_quorums: Mapping[str, int] = MappingProxyType({})
    # The tests that are not looked at twice, nor asked about, only because they are slow (R1).
    slow: frozenset[Test] = frozenset()
    # The tests that rest in this round: their last results stand.
    resting: frozenset[Test] = frozenset()
    # The line of nodes.txt that had a node id for itself, by the id: see `verdict.decide`.
    owners: Mapping[str, str] = MappingProxyType({})


class Rehearse(NamedTuple):
    """Ask this node's daemon, and one peer, about a passing test each (R7).

    A test that has a Rhythm is not asked about, because an answer is a look. A rehearsal that
    failed is asked again; without one, chance chooses the test and the peer.
    Sent back: a Rehearsal for each answer.
    """

    failures: tuple[model.RehearsalFailure, ...] = ()


class Examine(NamedTuple):
    """Look at the files of plugins, hooks and sendmail, which a round starts only when it must.

    Sent back: a text for each error, as RoundConfig.mistakes.
    """


class Greet(NamedTuple):
    """Greet all peers again. Sent back: the Contacts of this round."""

    # The incidents that are known here, as in Observe.
    incidents: tuple[Incident, ...]


class Wake(NamedTuple):
    """Have peers look now, because this node holds something that they are to tell (R5).

    A wake may be lost, and nothing depends on it but when they look. Sent back: None.
    """

    node_ids: frozenset[str]


class Save(NamedTuple):
    """Store all of this in one transaction. Sent back: whether it is on disk for good.

    A field that has nothing to store is false.
    """

    node: NodeMemory | None = None
    test_states: Mapping[Test, TestState] = MappingProxyType({})
    # The tests that the operator removed: their states are forgotten.
    gone: frozenset[Test] = frozenset()
    incidents: tuple[Incident, ...] = ()
    # What the outbox gets: new notifications, and those that were refused once more.
    outbox: tuple[Notification, ...] = ()
    # What leaves the outbox.
    settled: tuple[Notification, ...] = ()
    # What was handed over just now, for the history.
    told: tuple[Notification, ...] = ()
    changes: tuple[Change, ...] = ()
    # The silences that each peer stated last, by the peer's name; None if they have not changed.
    silences: Mapping[str, Sequence[Silence]] | None = None


class HandOver(NamedTuple):
    """Hand each address its one mail, all at the same time.

    The script yields this same object once for each address: the first time starts all mails.
    Sent back: (address, whether its mail was taken) of the mail that ends next; None for one that
    goes on although the round has waited for it. So each outcome is stored before the script waits
    for the next one.
    """

    mails: Mapping[str, Sequence[Notification]]
    # The open incidents of the tests that a mail is about: each mail tells how the test is now.
    latest: tuple[Incident, ...] = ()
    name: str = ""  # as in Handing
    # The tests that failed behind one that a mail is about, and are not told by themselves.
    behind: Mapping[Test, model.Hidden] = MappingProxyType({})


class LookAfter(NamedTuple):
    """See what became of the hand-overs that had no outcome yet.

    Sent back: for (hand-over, address) of each mail that has ended whether it was taken; None if
    nobody can know that. A hand-over is named by what it is known as.
    """

    handing: tuple[model.Handing, ...]


class Wait(NamedTuple):
    """Let some time pass. Sent back: None."""

    seconds: float


class Complain(NamedTuple):
    """Print a text on stderr, which cron mails.

    If it is new, and cron is not known to mail, mail it to the addresses in alert.d. Sent back:
    whether none of them took it, so that it has to be said again.
    """

    text: str
    is_new: bool = False  # it names a trouble that nobody was told of before


Effect = Observe | Rehearse | Examine | Greet | Wake | Save | HandOver | LookAfter | Wait | Complain


class Observation(NamedTuple):
    """What a round has seen."""

    # This node, as nodes.txt has it.
    me: Node
    # Of each test but those that rest.
    judgements: Mapping[Test, Judgement]
    # What came of greeting each peer.
    contacts: Sequence[Contact]
    # The tests that the peers were asked about.
    asked: frozenset[Test]
    # The first look of each test that failed at first, and passed when it was looked at again.
    flakes: Mapping[Test, model.Result] = MappingProxyType({})


class RoundEnd(NamedTuple):
    """What a round leaves to the process that ran it."""

    completed: bool  # it has not slept, and every mail that it tried was taken
    stays: bool = False  # this node would speak, so it stays to be woken (R5)
    # Seconds after cron's start at which this node's next round begins; None: as this one (R10).
    place: float | None = None
    interval: int = 1  # minutes from one round of this node to the next
    able: bool = False  # this node has found that it can alert (R7)


class RoundClock(Protocol):
    """The clocks of a round."""

    def now(self) -> float:
        """Return the time of this node's clock, in seconds."""
        ...

    def elapsed(self) -> float:
        """Return the seconds since this round began."""
        ...

    def minute(self, at: float, /) -> int:
        """Return the minutes from the epoch to a time of this node's clock, by the wall clock."""
        ...

    def text(self, at: float, /) -> str:
        """Return a time of this node's clock as text for people."""
        ...
