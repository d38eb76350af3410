"""The words of dmonitor as values: tests, results, answers, votes, verdicts, incidents.

Pure data, which every other module uses. Nothing here decides, reads or sends anything. A `Time` is
in seconds on the clock of the node that has it; other floats are durations in seconds, unless a
comment says otherwise. The annotations say what the state may hold and what a peer may state:
`codec` reads them at run time, and moves each `Time` to the reader's clock.
"""

import enum
from collections.abc import Iterable
from typing import Annotated, NamedTuple

from dmonitor.base import names
from dmonitor.core.codec import Time, must_be

SLOWEST_INTERVAL = 1440  # minutes
# Seconds for which a hand-over may go on. Meanwhile it is perhaps taken, so nobody repeats it (R6).
HAND_OVER_LIMIT = 600.0


def _is_test_or_node(name: str) -> bool:
    return bool(names.is_test(name)) or names.is_node(name)


def _is_site_or_unknown(name: str) -> bool:
    return not name or bool(names.is_site(name)) or names.is_node(name)


def _is_node_id_or_shared(word: str) -> bool:
    return not word or bool(names.is_node_id(word))


def _is_setting(number: int) -> bool:
    return 0 <= number <= 100


def _interval(minutes: int) -> int:
    """Return an interval in minutes, a day at most: nobody is waited for longer."""
    if not minutes:
        raise ValueError("an interval of 0")
    return min(minutes, SLOWEST_INTERVAL)


def _are_few_words(words: tuple[str, ...]) -> bool:
    return len(words) <= 20


# What a peer or the state may say. The grammar is that of `names`. A field that may be empty has ""
# as its default; such a field is left out, so its grammar does not have to allow "".
NodeName = Annotated[str, must_be(names.is_node)]
NodeId = Annotated[str, must_be(names.is_node_id)]
KnownId = Annotated[str, must_be(_is_node_id_or_shared)]
Subject = Annotated[str, must_be(names.is_subject)]
TestName = Annotated[str, must_be(_is_test_or_node)]
Site = Annotated[str, must_be(_is_site_or_unknown)]
Digest = Annotated[str, must_be(names.is_digest)]
Interval = Annotated[int, _interval]
Setting = Annotated[int, must_be(_is_setting)]
Ids = Annotated[tuple[NodeId, ...], must_be(bool)]  # not empty
Text = Annotated[str, names.printable]
LongText = Annotated[str, names.escaped]
Recipient = Annotated[str, must_be(names.is_recipient)]
Word = Annotated[str, must_be(names.is_word)]


class Outcome(enum.Enum):
    """What one run of one plugin says (rule R1)."""

    OK = "OK"
    FAIL = "FAIL"
    TIMEOUT = "TIMEOUT"
    UNKNOWN = "UNKNOWN"


class Vote(enum.Enum):
    """What a result or an answer counts as (rule R2)."""

    FAILING = "failing"
    PASSING = "passing"
    ABSTAIN = "abstain"


class Verdict(enum.Enum):
    """What this node concludes about a test (rule R3)."""

    UP = "UP"
    DOWN = "DOWN"
    LOCAL = "LOCAL"
    UNCONFIRMED = "UNCONFIRMED"
    UNKNOWN = "UNKNOWN"


class Kind(enum.Enum):
    """Which of an incident's notifications it is.

    It has opened, it still lasts, somebody is on it, or it is closed.
    """

    ALERT = "alert"
    REMINDER = "reminder"
    ACK = "ack"
    RECOVERY = "recovery"

    # There is one of each. Enum's own is written in Python, and mails tell thousands of things.
    __hash__ = object.__hash__


_VOTES = {
    Outcome.OK: Vote.PASSING,
    Outcome.FAIL: Vote.FAILING,
    Outcome.TIMEOUT: Vote.FAILING,
    Outcome.UNKNOWN: Vote.ABSTAIN,
}


class Test(NamedTuple):
    """One HOST/NAME: a file in hosts.d."""

    host: Subject
    name: TestName

    @property
    def plugin(self) -> str:
        """The file name of its plugin; a colon and what follows only distinguish two tests."""
        return "check_" + self.name.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.host}/{self.name}"


def node_test(name: str) -> Test:
    """Return the test that the node `name` itself is for every other node (rule R7)."""
    return Test(names.NODE, name)


class Result(NamedTuple):
    """One run of one test on one node."""

    outcome: Outcome
    text: Text = ""  # one printable line
    duration: float = 0.0  # seconds that the run took


class Node(NamedTuple):
    """One line of nodes.txt."""

    name: NodeName
    site: Site  # the node's name if the line has no site; "" if it is not known


def unlisted(name: str, nodes: Iterable[Node]) -> Node:
    """Return the node `name`, which has no line among `nodes`.

    If `nodes` name sites, the site of this node is unknown, because its vote must make no new site.
    """
    for node in nodes:
        if node.site != node.name:
            return Node(name, "")
    return Node(name, name)


BUSY = "it is busy"  # the reason of an answer that does not come because the peer sheds load


class Answer(NamedTuple):
    """What one node sees for one test: this node's own result, or a peer's answer."""

    node: Node
    node_id: NodeId = ""  # "" until the node has stated one
    result: Result | None = None  # None: there is no answer
    age: float = 0.0  # seconds from the end of the run to the arrival of the answer
    reason: Text = ""  # why there is no answer
    suspect: bool = False  # most of the tests of that node fail there alone

    @property
    def vote(self) -> Vote:
        if self.result is None:
            return Vote.ABSTAIN
        return _VOTES[self.result.outcome]

    @property
    def seen(self) -> str:
        """What the node sees, in one word: an outcome, or `no-answer`."""
        if self.result is None:
            return "no-answer"
        return self.result.outcome.value

    @property
    def text(self) -> str:
        """The plugin's line, or why there is no answer."""
        if self.result is None:
            return self.reason
        return self.result.text


class Judgement(NamedTuple):
    """A verdict and the evidence for it."""

    verdict: Verdict
    quorum: int
    answers: tuple[Answer, ...]  # this node's own answer first, then every other node once

    def nodes(self, vote: Vote) -> list[str]:
        """Return the names of the nodes that cast `vote`."""
        return [answer.node.name for answer in self.answers if answer.vote is vote]

    def sites(self, vote: Vote) -> set[str]:
        """Return the sites in which a node casts `vote`; an unknown site does not count."""
        sites = {answer.node.site for answer in self.answers if answer.vote is vote}
        sites.discard("")
        return sites


class Circle(NamedTuple):
    """What a circle was told of an incident: the addresses that have the same HOURS and AFTER.

    There is one once the circle is to be told. Its fields mean what those of the incident mean for
    the addresses that are told at once.
    """

    name: Digest
    since: Time  # since when this node has held that the circle is to be told
    alert: NodeName = ""
    recovery: NodeName = ""
    ack: NodeName = ""
    reminded: int = 0
    void: bool = False
    told_at: Time = float("-inf")
    again: int = 0
    alert_stated_by: NodeName = ""
    recovery_stated_by: NodeName = ""


class Incident(NamedTuple):
    """What happens from the first DOWN verdict of a test until its recovery (rule R4).

    An incident *is* the set of ids under which nodes opened it; the smallest one is shown.
    """

    ids: Ids  # in order
    test: Test
    began: Time
    opening: Judgement | None = None  # opened it; None if this node only heard of that
    # The sites that voted failing when they were last heard, and the time of that.
    failed: tuple[tuple[Site, Time], ...] = ()
    closed: Time | None = None
    closing: Judgement | None = None  # closed it; None if this node only heard of that
    # Not 0: this is about a test that changes too often, and so many changes were counted.
    flapping: int = 0
    alert: NodeName = ""  # the node that handed the alert over
    recovery: NodeName = ""  # the node that handed the recovery over
    reminded: int = 0  # reminders that were handed over
    void: bool = False  # closed during a silence, so it owes nothing
    held: Time = 0.0  # since when this node has held what the incident owes now
    removed: bool = False  # the operator removed the test here; peers do not hear of it
    overtaken: bool = False  # a newer incident of its test was open when it ended: it owes nothing
    # When a notification of it was last handed over, by whichever node; -inf: not known.
    told_at: Time = float("-inf")
    again: int = 0  # how often its recovery was owed again, because an alert was told after it
    # The minute by which all nodes name it in a Message-ID, counted from the epoch; 0: not known.
    minute: int = 0
    # When a quorum was last concluded to see it fail; of flapping, when the test last changed;
    # -inf: not known.
    seen: Time = float("-inf")
    # The only peer that has stated it; "": this node has seen it itself, or two peers have stated
    # it. What a peer states with a name here is hearsay at that peer, too.
    heard_from: NodeName = ""
    relayed_by: NodeName = ""  # the peer that has told of `heard_from`, which has not said it here
    # Since when the node that states this hands over what it owes, without an outcome until now;
    # -inf: it does not. It is made for the statement, and not kept (R5).
    handing: Time = float("-inf")
    # That an operator has acknowledged it, in his words, and when; None: nobody has.
    acknowledged: Time | None = None
    acknowledgement: Text = ""
    ack: NodeName = ""  # the node that told of that
    # By which silence a mail of it had to wait here, for people; "": by none. Peers do not hear it.
    silenced: Text = ""
    # The peer that was the first to state that another node handed this over; "": that node itself.
    alert_stated_by: NodeName = ""
    recovery_stated_by: NodeName = ""
    # What those were told who are told at other times, by the name of the circle.
    circles: tuple[Circle, ...] = ()
    # The circle by whose eyes this is: what is told is what that was told; "": those who are told
    # at once. It is made for the telling, and not kept: see `circles`.
    circle: Digest = ""

    @property
    def id(self) -> str:
        return self.ids[0]

    @property
    def is_open(self) -> bool:
        return self.closed is None and not self.removed

    @property
    def has_timed_out(self) -> bool:
        """Whether a node saw TIMEOUT when it began."""
        answers = self.opening.answers if self.opening else ()
        return any(answer.seen == Outcome.TIMEOUT.value for answer in answers)

    @property
    def is_fact(self) -> bool:
        """Whether this node has seen it itself, or two peers have stated it."""
        return not self.heard_from


class Rhythm(NamedTuple):
    """How often this node looks at a test that need not be looked at in each round (EVERY)."""

    every: float  # seconds, while it passes
    retry: float = 0.0  # seconds from one look to the next otherwise; 0: it is looked at each round
    fingerprint: Digest = ""  # of its parameters and its plugin: another one if one has changed


class LastLook(NamedTuple):
    """The last look of this node at a test that has a Rhythm."""

    at: Time  # when the round that looked began
    result: Result
    fingerprint: Digest = ""  # of the test's Rhythm then


class TestState(NamedTuple):
    """What a node remembers of a test from round to round."""

    verdict: Verdict = Verdict.UP
    own_outcome: Outcome = Outcome.OK  # what this node's own plugin said last
    since: float = 0.0  # when it came to this verdict, on this node's clock; 0: not known
    look: LastLook | None = None  # None: it is looked at in each round, or it never was


class Confirming(NamedTuple):
    """A test that is DOWN and has no incident yet, because `confirm` wants more such verdicts."""

    test: Test
    downs: int  # DOWN verdicts in a row, of whichever nodes' rounds
    since: Time  # when the first of them was concluded


class Change(NamedTuple):
    """One change of a test's verdict, or of this node's own outcome, with the evidence."""

    test: Test
    at: Time
    judgement: Judgement


class Handed(NamedTuple):
    """One notification about an incident that this node handed over to an address."""

    incident: NodeId
    kind: Kind
    address: Recipient
    at: Time


class Notification(NamedTuple):
    """A notification that is owed to one address."""

    kind: Kind
    incident: Incident
    address: Recipient
    since: Time = 0.0  # when it became owed
    refusals: int = 0  # hand-overs that were refused


class Handing(NamedTuple):
    """Mails about the same that were handed over to some addresses, without an outcome yet (R6)."""

    since: Time
    addresses: tuple[Recipient, ...]
    notifications: tuple[tuple[NodeId, Kind], ...]  # the ids of the incidents, and what is told
    # The random name of the hand-over. A time is none: it moves if the clock steps back (R10).
    name: NodeId = ""

    @property
    def known_as(self) -> str:
        """The name under which its outcomes are kept. That of an earlier version is its time."""
        return self.name or f"{self.since:.6f}"


class RefusedAddress(NamedTuple):
    """An address, or a hook, whose last mails were refused."""

    address: Recipient
    since: Time  # of the first refusal in a row
    at: Time  # of the last one


class Quiet(NamedTuple):
    """That an incident owes what this node may not tell yet, or might not for a while (R9).

    Its test is silenced or flaps, its alert was told a moment ago, or the hours of those who are to
    be told have not begun. Such a wait is wanted.
    """

    incident: NodeId
    ended: Time = 0.0  # when this node first found that it may tell; 0: it may not yet
    silenced: Text = ""  # by which silence, for people; "": by none
    circle: Digest = ""  # who waits; "": those who are told at once


class Refusals(NamedTuple):
    """How many hand-overs of a node were refused in a row, as this node knows (R5)."""

    node: NodeName  # its line in nodes.txt
    node_id: NodeId
    refused: int
    since: Time  # when this node first heard of so many


class Silence(NamedTuple):
    """An operator's word that a host, or one test of it, may not notify."""

    host: Subject
    name: TestName = ""  # of the test; "": all tests of the host
    until: Time | None = None  # None: until it is removed
    reason: Text = ""  # as the operator wrote it
    since: Time | None = None  # when it was written; None: not known

    def covers(self, test: Test, now: float) -> bool:
        """Return whether the silence holds for `test` at the time `now`."""
        if self.host != test.host:
            return False
        if self.name not in ("", test.name):
            return False
        return self.until is None or now < self.until


class Acknowledgement(NamedTuple):
    """An operator's word that somebody is on what is DOWN (`until up`).

    It holds for the incidents that were open when it was written, and for no later one.
    """

    host: Subject
    name: TestName = ""  # of the test; "": all tests of the host
    written: Time = 0.0
    text: Text = ""

    def covers(self, incident: Incident) -> bool:
        """Return whether this acknowledges `incident`."""
        test = incident.test
        if self.host != test.host or self.name not in ("", test.name):
            return False
        return incident.is_open and not incident.flapping and incident.began < self.written


class Hidden(NamedTuple):
    """The tests that failed behind one that is told, and were not told by themselves."""

    down: tuple[Test, ...] = ()
    up: tuple[Test, ...] = ()  # they have come back with it; only if that is over


class Rehearsal(NamedTuple):
    """An answer about a test that passes here, asked for practice (rule R7)."""

    test: Test
    peer: NodeName  # which peer answered; "": our own daemon
    answer: Answer


class RehearsalFailure(NamedTuple):
    """A rehearsal whose last answer was wrong."""

    test: LongText
    peer: LongText  # which peer was asked; "": our own daemon
    rounds: int  # in which the answer was wrong, in a row
    text: LongText  # what was wrong with the last answer


class Unanswered(NamedTuple):
    """A test that fails here, and about which peers that were greeted did not answer."""

    test: Test
    # Those that answered in none of the rounds, in order; empty: other ones were silent in each.
    peers: tuple[NodeName, ...]
    rounds: int  # in a row; no more are counted than it takes to be a trouble


class Flake(NamedTuple):
    """The flakes of one test: first looks that failed, and that a second look did not confirm."""

    test: Test
    total: int  # since this node has the test
    last: Time  # when the last one was
    text: Text = ""  # of the last one


class Absence(NamedTuple):
    """A time in which this node has looked at nothing, because no round has ended."""

    since: Time
    until: Time


class Trouble(NamedTuple):
    """A condition that keeps this node from seeing or telling, or might (rule R7)."""

    kind: Word
    text: LongText
    since: Time
    said: Time = float("-inf")  # when people were last told of it
    ended: Time | None = None
    logged: bool = False  # it has been logged since it began
    about: LongText = ""  # its text without the reasons that may change; "": the text has none


class NodeStatus(NamedTuple):
    """What a node states of itself (rules R5, R7)."""

    name: NodeName
    node_id: NodeId
    at: Time  # when it stated this
    interval: Interval = 1  # minutes between its rounds
    finished: Time = float("-inf")  # when its last round ended
    speaks: bool = False  # it has an address to mail, so it can be the speaker
    stores: bool = True  # it can store that something was told
    refused: int = 0  # hand-overs refused in a row
    tests: Digest = ""  # of the tests that it has
    nodes: Digest = ""  # of its nodes.txt
    addresses: Digest = ""  # of its alert.d
    rounds: int = 0  # from which the interval is measured
    troubles: Annotated[tuple[Word, ...], must_be(_are_few_words)] = ()  # the kinds it has now
    version: Text = ""  # of its dmonitor
    wall: float = 0.0  # seconds since the epoch by its wall clock; 0: it does not say
    # Its settings of these names; 0: it does not say. Nodes may differ: see `verdict`.
    quorum: Setting = 0
    confirm: Setting = 0
    up: float = float("inf")  # seconds since its machine was started; inf: it does not say
    wakes: bool = False  # it knows what a wake is


class Statement(NamedTuple):
    """What a peer's greeting says."""

    status: NodeStatus
    heard: tuple[NodeStatus, ...] = ()  # the nodes that it greeted in its last round
    silences: tuple[Silence, ...] = ()
    incidents: tuple[Incident, ...] = ()
    tests: frozenset[Test] | None = None  # None: the same as ours, or not known
    confirming: tuple[Confirming, ...] = ()


class Contact(NamedTuple):
    """What came of greeting one line of nodes.txt that is not ours."""

    node: Node
    node_id: str = ""  # of the node that answered
    incarnation: str = ""  # of the daemon that answered: another one after each start
    statement: Statement | None = None
    reason: str = ""  # why there is no statement
    unable: bool = False  # this node, and not the other one, is the reason
    cloned: bool = False  # another machine answers there with our own node id
