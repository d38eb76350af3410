"""The words of dmonitor as values: tests, results, answers, votes, verdicts, incidents.

Pure data, shared by every other module. Nothing here decides, reads or sends anything. A Time is in seconds since the
epoch, other floats are seconds; the types, which are no strings here, say what the state and a peer may hold (`values`).
"""

import enum
from collections.abc import Iterable
from typing import Annotated, NamedTuple

from dmonitor.base import names
from dmonitor.core.codec import Time, rule

# What a peer, or the state, may say: the grammar is that of `names`. Where nothing is said, a field has its default, often "".
NodeName = Annotated[str, rule(names.is_node)]
NodeId = Annotated[str, rule(names.is_node_id)]
Subject = Annotated[str, rule(names.is_subject)]
TestName = Annotated[str, rule(lambda name: names.is_test(name) or names.is_node(name))]
Site = Annotated[str, rule(lambda name: not name or names.is_site(name) or names.is_node(name))]
Digest = Annotated[str, rule(names.is_digest)]
Interval = Annotated[int, rule(bool)]
Ids = Annotated[tuple[NodeId, ...], rule(bool)]
Text = Annotated[str, names.printable]
Word = Annotated[str, rule(names.is_word)]


class Outcome(enum.Enum):
    """What one run of one plugin said (rule R1)."""

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
    """Which of an incident's notifications: the one that opens it, one that says it lasts, or the one that closes it."""

    ALERT = "alert"
    REMINDER = "reminder"
    RECOVERY = "recovery"


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
        """The file name of the plugin that runs it; what follows a colon only tells two tests apart."""
        return "check_" + self.name.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.host}/{self.name}"


def node_test(name: str) -> Test:
    """Return the test that the node NAME is by itself, for every other node (rule R7)."""
    return Test(names.NODE, name)


class Result(NamedTuple):
    """One run of one test on one node: outcome, one printable line, seconds it took."""

    outcome: Outcome
    text: Text = ""
    duration: float = 0.0


class Node(NamedTuple):
    """One line of nodes.txt; `site` is the node's name when the line names none, and empty where nobody knows it."""

    name: NodeName
    site: Site


def unlisted(name: str, nodes: Iterable[Node]) -> Node:
    """Return the node NAME, which is in no line. Where NODES name sites nobody knows its own: its vote must make no new one."""
    return Node(name, "" if any(node.site != node.name for node in nodes) else name)


class Answer(NamedTuple):
    """What one node sees for one test: this node's own result, or a peer's answer to our question.

    `node_id` is empty as long as the node has not stated one. Without a result there is no answer, and
    `reason` says why. `age` is seconds between the end of the run and its arrival here. `suspect`: most of what that
    node tests fails there alone.
    """

    node: Node
    node_id: NodeId = ""
    result: Result | None = None
    age: float = 0.0
    reason: Text = ""
    suspect: bool = False

    @property
    def vote(self) -> Vote:
        return _VOTES[self.result.outcome] if self.result else Vote.ABSTAIN

    @property
    def seen(self) -> str:
        """In one word what the node sees: an outcome, or `no-answer`."""
        return self.result.outcome.value if self.result else "no-answer"

    @property
    def text(self) -> str:
        """The plugin's line, or why there is no answer."""
        return self.result.text if self.result else self.reason


class Judgement(NamedTuple):
    """A verdict and the evidence for it: own answer first, then every other node once."""

    verdict: Verdict
    quorum: int
    answers: tuple[Answer, ...]

    def nodes(self, vote: Vote) -> list[str]:
        """Name the nodes that cast VOTE."""
        return [answer.node.name for answer in self.answers if answer.vote is vote]

    def sites(self, vote: Vote) -> set[str]:
        """Name the sites in which a node casts VOTE; one that nobody knows is no site."""
        return {answer.node.site for answer in self.answers if answer.vote is vote} - {""}


class Incident(NamedTuple):
    """From the first DOWN verdict of a test until its recovery (rule R4).

    It *is* the set of ids it was opened under, in order; the smallest is shown. `opening` and `closing` are the
    judgements that opened and closed it, None where they were only heard of; `failed` says for each site that voted
    failing when last heard, at what time that was. With `flapping`, the number of changes, it is not about a test that
    fails but about one that changes too often. `alert` and `recovery` name the node that handed that notification
    over, `reminded` counts reminders. `void`: closed in silence, owes nothing. `held` is since when this node has
    held what it owes now. `removed`: the operator took the test away here, which is nobody else's business.
    """

    ids: Ids
    test: Test
    began: Time
    opening: Judgement | None = None
    failed: tuple[tuple[Site, Time], ...] = ()
    closed: Time | None = None
    closing: Judgement | None = None
    flapping: int = 0
    alert: NodeName = ""
    recovery: NodeName = ""
    reminded: int = 0
    void: bool = False
    held: Time = 0.0
    removed: bool = False

    @property
    def id(self) -> str:
        return self.ids[0]

    @property
    def is_open(self) -> bool:
        return self.closed is None and not self.removed


class TestState(NamedTuple):
    """What is remembered of a test from round to round.

    `own_outcome` is what this node's own plugin said last; `downs` the number of DOWN verdicts in a row, as far as it matters.
    """

    verdict: Verdict = Verdict.UP
    own_outcome: Outcome = Outcome.OK
    since: float = 0.0
    downs: int = 0


class Change(NamedTuple):
    """That at some time the verdict on a test, or what this node itself saw of it, was not what it had been; and the evidence."""

    test: Test
    at: Time
    judgement: Judgement


class Handed(NamedTuple):
    """That this node handed the notification of a kind about an incident over to an address."""

    incident: NodeId
    kind: Kind
    address: str
    at: Time


class Notification(NamedTuple):
    """A notification that is owed to one address since `since`, refused `refusals` times."""

    kind: Kind
    incident: Incident
    address: str
    since: Time = 0.0
    refusals: int = 0


class Silence(NamedTuple):
    """An operator's word that a host, or the one test `name` of it, may not notify: until `until`, None until it is removed."""

    host: Subject
    name: TestName = ""
    until: Time | None = None

    def covers(self, test: Test, now: float) -> bool:
        return (
            self.host == test.host
            and self.name in ("", test.name)
            and (self.until is None or now < self.until)
        )


class Rehearsal(NamedTuple):
    """The answer of our own daemon (`peer` is empty), or of the peer `peer`, about a test that passes here."""

    test: Test
    peer: NodeName
    answer: Answer


class RehearsalFailure(NamedTuple):
    """How often in a row, in `rounds` rounds, the answer about a passing test was not what it should be; and what it was."""

    test: str
    peer: str
    rounds: int
    text: str


class Trouble(NamedTuple):
    """What keeps a node from seeing or telling, or might (rule R7).

    `said`: when it was last complained of; `logged`: it was since it began.
    """

    kind: Word
    text: Text
    since: Time
    said: Time = float("-inf")
    ended: Time | None = None
    logged: bool = False


class NodeStatus(NamedTuple):
    """What a node states of itself, at the moment `at` (rules R5, R7).

    `interval` is that of its rounds in minutes, `finished` when its last one ended. `speaks`: it has an address to
    mail; `stores`: what it tells would not be forgotten; `refused` counts hand-overs refused in a row; `tests` is the
    digest of the tests it has, `nodes` and `addresses` those of its nodes.txt and alert.d. `troubles`: what ails it now.
    `rounds`: of how many its interval is measured. `version` is that of its dmonitor, and `wall` what its wall clock says, 0
    where it does not say.
    """

    name: NodeName
    node_id: NodeId
    at: Time
    interval: Interval = 1
    finished: Time = float("-inf")
    speaks: bool = False
    stores: bool = True
    refused: int = 0
    tests: Digest = ""
    nodes: Digest = ""
    addresses: Digest = ""
    rounds: int = 0
    troubles: Annotated[tuple[Word, ...], rule(lambda words: len(words) <= 20)] = ()
    version: Text = ""
    wall: float = 0.0


class Statement(NamedTuple):
    """What a peer's greeting says: itself, whom it greeted in its last round, its silences and incidents.

    `tests` are those it has, None where its digest is ours or they are not known.
    """

    status: NodeStatus
    heard: tuple[NodeStatus, ...] = ()
    silences: tuple[Silence, ...] = ()
    incidents: tuple[Incident, ...] = ()
    tests: frozenset[Test] | None = None


class Contact(NamedTuple):
    """What came of greeting a line of nodes.txt that is not ours: who is there, and what it states; or `reason`, why not.

    `incarnation` is that of the greeting. `unable`: this node, and not the other, is why nothing came of it. `cloned`: another machine
    answers there with our own id.
    """

    node: Node
    node_id: str = ""
    incarnation: str = ""
    statement: Statement | None = None
    reason: str = ""
    unable: bool = False
    cloned: bool = False
