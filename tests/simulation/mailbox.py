"""What the reader of one mailbox believes, and from when to when that was false (promises 1 to 4).

A mail says of each test that it is DOWN, UP, or flapping. The reader believes the last word, and of a
flapping test nothing. A mailbox drops a mail whose Message-ID it has. The truth is what a quorum of
sites sees. Nothing here looks at ids, or at how nodes unite their incidents.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.core import verdict
from dmonitor.core.model import Kind, Test, node_test
from dmonitor.core.wants import Wants

from .history import Failure, History, is_node
from .node import Disk, SimNode
from .virtual_round import Mail
from .world import World

STEP = 5.0  # seconds from one look at the world to the next
PROMPT = 100.0  # seconds from a failure to its mail, with crons of one minute (promise 4)
# Seconds more: the first node fell silent, its mail system refuses, it cannot hear (promise 4).
DISTURBED = 120.0 + 60.0 + 180.0
LOSSY = 300.0  # seconds more while messages are lost by chance
CALM_AFTER = 180.0  # seconds after a fault, and an interval, until promise 4 holds as without it
ROUND = 60.0  # seconds: what a mail says was seen in the round that hands it over
STEADY_ROUNDS = 3  # rounds of the slowest node after which a flapping test that is DOWN is told
LETTERS_APART = 50.0  # seconds from an alert to its recovery in another letter, at least
RECOVERY_WAITS = 55.0  # seconds after its alert until a recovery may be told in another letter
# Seconds, and rounds of the slowest node, for which a node that was away takes in what has failed.
FRESH = 300.0
FRESH_ROUNDS = 3
EXPLAINED = 120.0  # seconds, and an interval, for which looks that failed explain an alert
LONGEST_REST = 1800.0  # seconds from one mail to an address that refuses to the next one
STALE_ROUNDS = 5  # intervals, and as many minutes, for which a node that was away may be told


class _View(NamedTuple):
    """What is so as long as nothing breaks or is mended."""

    # The nodes that can tell each test DOWN, and UP.
    can_say_down: dict[Test, frozenset[str]]
    can_say_up: dict[Test, frozenset[str]]
    away: frozenset[str]
    gone: frozenset[str]


_NOT_LOOKED_AT = _View({}, {}, frozenset(), frozenset())


class Moment(NamedTuple):
    """What is so at one moment."""

    at: float
    is_disturbed: bool  # a fault lasts, or was lately
    is_lossy: bool
    refused: frozenset[str]  # the addresses that some MTA refuses, or that rest after that
    tellable: frozenset[
        Test
    ]  # a quorum sees them fail, and a node that can mail asks and hears that
    clearable: frozenset[Test]  # no quorum does, and a node that can mail can hear that
    can_say_up: dict[Test, frozenset[str]]  # the nodes that can hear that no quorum does
    away: frozenset[str]  # the nodes that may be found failing
    gone: frozenset[str]  # those that cannot be found well
    faults: int  # until now


class Said(NamedTuple):
    """What one mail says of one test."""

    at: float
    node: str
    address: str
    test: Test
    state: str
    kinds: frozenset[Kind]
    message_id: Hashable
    handed: float  # when its sendmail was started
    holds_open: bool  # whether its sender holds an open incident of the test
    can_say_down: bool  # whether its sender could hear that a quorum fails when its round began
    can_say_up: bool  # whether its sender can hear that no quorum fails
    is_explained: bool  # whether a quorum of sites has looked twice lately, and has seen it fail

    @property
    def is_down(self) -> bool:
        return "DOWN" in self.state.split()

    @property
    def is_up(self) -> bool:
        return "UP" in self.state.split()


@dataclasses.dataclass
class Watch:
    """What was so, and what was said, in a world; `begin` before the world runs."""

    world: World
    failures: Sequence[Failure]
    moments: list[Moment] = dataclasses.field(default_factory=list)
    said: list[Said] = dataclasses.field(default_factory=list)
    refusing: list[float] = dataclasses.field(default_factory=list)  # when some MTA refused
    _quiet_from: float = 0.0  # when the last fault began or ended
    _before: object = None  # what was broken at the last moment
    _faults: int = 0  # how often that has changed
    _view_key: object = None  # what `_view` depends on
    _view: _View = _NOT_LOOKED_AT
    # For how many seconds each node could hear that DOWN is told of a test, and was able to.
    _hearing: dict[tuple[Test, str], float] = dataclasses.field(default_factory=dict)
    _disks: dict[str, Disk] = dataclasses.field(default_factory=dict)
    # From when to when each address was refused that rests.
    _refusals: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    # When a node that knows it of each test last saw a quorum fail.
    _seen: dict[Test, float] = dataclasses.field(default_factory=dict)

    def begin(self) -> None:
        """Look at the world from now on."""
        world = self.world
        self.tests = sorted({failure.test for failure in self.failures} | set(world.noise))
        self.noisy = set(world.noise)
        self.sites = {test: _sites(world, test) for test in self.tests}
        self.quorum = self._quorum_that_holds()
        self.addresses = {address for node in world.nodes for address in node.addresses}
        self.slowest = max(node.interval / min(1.0, node.rate) for node in world.nodes)
        confirms = [node.confirm or world.confirm for node in world.nodes]
        settled = verdict.setting_that_holds(confirms[0], confirms[1:])
        self.confirm = max([settled, *world.confirmations.values()])
        self.step = STEP * max(1.0, self.slowest / 5)
        self.outages = {test: self._outages(test) for test in self.tests}
        self._quiet_from = -CALM_AFTER - 60.0 * self.slowest
        world.mailed.append(self._mailed)
        world.at(0.0, self._look)

    def _quorum_that_holds(self) -> int:
        quorums = [node.quorum or self.world.quorum for node in self.world.nodes]
        return verdict.setting_that_holds(quorums[0], quorums[1:])

    # The truth.

    def _outages(self, test: Test) -> list[tuple[float, float]]:
        """Return from when to when a quorum of sites sees `test` fail."""
        ends = {failure.ended for failure in self.failures}
        times = sorted({failure.began for failure in self.failures} | ends)
        outages: list[tuple[float, float]] = []
        for at, until in itertools.pairwise(times):
            if not self._quorum_fails(test, at):
                continue
            if outages and outages[-1][1] == at:
                at = outages.pop()[0]
            outages.append((at, until))
        return outages

    def _quorum_fails(self, test: Test, at: float) -> bool:
        return len(self._failing(test, at, self.world.nodes)) >= self.quorum

    def _failing(self, test: Test, at: float, nodes: Iterable[SimNode]) -> set[str]:
        """Return the sites of those of `nodes` that see `test` fail."""
        fails = self.world.fails
        return {node.site for node in nodes if test in node.tests and fails(at, test, node)}

    # The moments.

    def _look(self) -> None:
        world = self.world
        world.after(self.step, self._look)
        refused = self._refused()
        if refused:
            self.refusing.append(world.now)
        lasting = tuple(node.name for node in world.nodes if not _is_well(node, world.now))
        is_lossy = bool(world.loss)
        standing = (lasting, frozenset(world.cut), frozenset(world.link_loss), refused, is_lossy)
        if (standing, world.faults) != self._before and not is_lossy:
            if self._before:
                self._faults += 1
                self._quiet_from = world.now
            self._before = (standing, world.faults)
        is_late = world.now - self._quiet_from < CALM_AFTER + 60.0 * self.slowest
        failing = [failure.began <= world.now < failure.ended for failure in self.failures]
        edited = [(len(node.unlisted), len(node.tests), node.quorum) for node in world.nodes]
        off = [(node.up, node.daemon, node.is_asleep(world.now)) for node in world.nodes]
        key = (standing, failing, edited, off)
        if key != self._view_key:
            self._view_key = key
            self._view = self._see()
        view = self._view
        self._spread()
        clearable = set()
        for test, able in view.can_say_up.items():
            if any(self._knows(test, name) for name in able) and not self._fails_by_chance(test):
                if not self._is_held_up(test):
                    clearable.add(test)
        self.moments.append(
            Moment(
                world.now,
                any(standing) or is_late,
                is_lossy,
                refused | self._resting(refused),
                frozenset(self._tellable()),
                frozenset(clearable),
                view.can_say_up,
                view.away,
                view.gone,
                self._faults,
            )
        )

    def _is_held_up(self, test: Test) -> bool:
        """Return whether a mail about it has no outcome, because the round that waits is stopped."""
        for node in self.world.nodes:
            if node.stopped_until > self.world.now and node.up:
                for handing in node.disk.node_memory.handing:
                    if any(
                        node.disk.incidents[each].test == test for each, _ in handing.notifications
                    ):
                        return True
        return False

    def _tellable(self) -> set[Test]:
        """Return the tests that a quorum sees fail, if a node that hears it asks about them.

        Who sees that a test passes, and holds no open incident of it, asks nobody (R3). So nobody
        finds that two nodes see it fail that are cut off from each other.
        """
        tellable = set()
        for node in self.world.nodes:
            for test, able in self._view.can_say_down.items():
                if node.name in able and test in node.tests and self._asks(node, test):
                    tellable.add(test)
        return tellable

    def _asks(self, node: SimNode, test: Test) -> bool:
        return self.world.fails(self.world.now, test, node) or test in _open_at(node)

    def _refused(self) -> frozenset[str]:
        """Return the addresses that the MTA of some node refuses."""
        world = self.world
        refused: set[str] = set()
        for node in world.nodes:
            refused.update(each for each in node.addresses if world.refuses(node, each))
        return frozenset(refused)

    def _resting(self, refused: frozenset[str]) -> set[str]:
        """Return the addresses that rest (R6): for as long again as they were refused, at most."""
        now = self.world.now
        for address in refused:
            began, _ = self._refusals.get(address, (now, now))
            self._refusals[address] = began, now
        resting = set()
        for address, (began, ended) in list(self._refusals.items()):
            if now - ended <= min(ended - began, LONGEST_REST):
                resting.add(address)
            else:
                del self._refusals[address]
        return resting

    def _see(self) -> _View:
        heard = {node.name: self._heard(node) for node in self.world.nodes if self._works(node)}
        can_say_down, can_say_up = {}, {}
        for test in self.tests:
            able = [name for name, peers in heard.items() if self._can_say_down(test, peers)]
            can_say_down[test] = frozenset(able)
            able = [name for name, peers in heard.items() if self._can_say_up(test, peers)]
            can_say_up[test] = frozenset(able)
        return _View(can_say_down, can_say_up, *self._away())

    def _fails_by_chance(self, test: Test) -> bool:
        """Return whether a quorum of sites has seen a test fail, just now, that fails by chance.

        Then a recovery waits for the next round.
        """
        if test not in self.noisy:
            return False
        looks = sorted(self.world.seen_failing.get(test, {}).values(), reverse=True)
        if len(looks) < self.quorum or looks[0] < self.world.now - self.step:
            return False
        return looks[0] - looks[self.quorum - 1] <= ROUND * self.slowest

    def _spread(self) -> None:
        """Let every node that works hear, from those that it reaches, of what is told DOWN.

        Who is cut off at once from the node that has mailed it cannot tell its end. Nor can who was
        away until nobody had seen it fail for a while: what may be over is not taken in (R4). A node
        from which the test is removed forgets.
        """
        for node in self.world.nodes:
            if self._disks.setdefault(node.name, node.disk) is not node.disk:  # it is an older one
                self._disks[node.name] = node.disk
                for test in self.tests:
                    self._hearing.pop((test, node.name), None)
        for test in self.tests:
            for node in self.world.nodes:
                if not is_node(test) and test not in node.tests:
                    self._hearing.pop((test, node.name), None)
            knowing = [node for node in self.world.nodes if self._knows(test, node.name)]
            if any(node.name in self._view.can_say_down[test] for node in knowing):
                self._seen[test] = self.world.now
            if not knowing or len(knowing) == len(self.world.nodes) or not self._is_fresh(test):
                continue
            for node in self.world.nodes:
                if self._works(node) and any(self._reaches(node, peer) for peer in knowing):
                    key = test, node.name
                    self._hearing[key] = self._hearing.get(key, 0.0) + self.step

    def _is_fresh(self, test: Test) -> bool:
        """Return whether a node that was away takes in that a test is told DOWN.

        Those that know it may have seen it fail a round before the last moment in which it failed.
        """
        limit = max(FRESH, FRESH_ROUNDS * 60.0 * self.slowest) - 60.0 * self.slowest
        return self.world.now - self._seen.get(test, 0.0) <= limit

    def _knows(self, test: Test, name: str) -> bool:
        """Return whether a node has had the time to hear that a test is told DOWN."""
        return self._hearing.get((test, name), 0.0) > 60.0 * (self.slowest + 1)

    def _works(self, node: SimNode) -> bool:
        return _is_well(node, self.world.now) and bool(node.addresses)

    def _heard(self, node: SimNode) -> list[SimNode]:
        """Return the nodes that `node` can ask, itself included."""
        return [peer for peer in self.world.nodes if peer is node or self._reaches(node, peer)]

    def _reaches(self, node: SimNode, peer: SimNode) -> bool:
        world = self.world
        link = node.name, peer.name
        if link in world.cut or link in world.link_loss:
            return False
        if peer.name in node.unlisted or node.name in peer.unlisted:
            return False
        return peer.up and peer.daemon and not peer.is_asleep(world.now)

    def _can_say_down(self, test: Test, heard: Iterable[SimNode]) -> bool:
        return len(self._failing(test, self.world.now, heard)) >= self._quorum_that_holds()

    def _can_say_up(self, test: Test, heard: Sequence[SimNode]) -> bool:
        """Return whether those that are heard leave no room for a quorum that fails."""
        failing = self._failing(test, self.world.now, heard)
        sites = {node.site for node in heard if test in node.tests}
        silent = self.sites[test] - sites
        return len(failing) + len(silent) < self.quorum and bool(sites - failing)

    def _away(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return the nodes that a quorum may find failing, and those that nobody finds well."""
        world = self.world
        away, gone = set(), set()
        for node in world.nodes:
            others = [peer for peer in world.nodes if peer is not node]
            unable = {peer.site for peer in others if not self._reaches(peer, node)}
            if len(unable) >= self.quorum or not _is_well(node, world.now):
                away.add(node.name)
            if not node.up or node.is_asleep(world.now):
                gone.add(node.name)
        return frozenset(away), frozenset(gone)

    # The mails.

    def _mailed(self, mail: Mail) -> None:
        """Note what a mail says, and what its sender could know."""
        world = self.world
        (sender,) = [node for node in world.nodes if node.name == mail.node]
        heard = self._heard(sender)
        # Who has booted since its round began was asked in vain.
        asked_at = sender.round.began if sender.round else world.now
        asked = [peer for peer in heard if peer.booted <= asked_at]
        for test, state in mail.states:
            if state == "DOWN":
                self._forget(test)
                self._hearing[test, sender.name] = float("inf")
                self._seen[test] = world.now
            kinds = {kind for told_test, kind, _ in mail.told if told_test == test}
            is_judged = test in self.sites
            self.said.append(
                Said(
                    world.now,
                    mail.node,
                    mail.address,
                    test,
                    state,
                    frozenset(kinds),
                    mail.message_id,
                    mail.handed,
                    test in mail.open,
                    is_judged and self._can_say_down(test, asked),
                    is_judged and self._can_say_up(test, heard),
                    self._is_explained(test),
                )
            )

    def _forget(self, test: Test) -> None:
        for node in self.world.nodes:
            self._hearing.pop((test, node.name), None)

    def _is_explained(self, test: Test) -> bool:
        """Return whether a quorum of sites has looked twice lately, and has seen `test` fail."""
        seen = self.world.seen_failing.get(test, {})
        since = self.world.now - EXPLAINED - 60.0 * self.slowest * self.confirm
        sites = [site for site, at in seen.items() if at >= since]
        return len(sites) >= self.quorum

    # What is allowed.

    def limit(self, moments: Sequence[Moment]) -> float:
        """Return the seconds after which it must be told what was so in all of `moments`."""
        limit = PROMPT + STEP + 60.0 * (self.slowest - 1 + (self.confirm - 1) * self.slowest)
        if any(moment.is_disturbed for moment in moments):
            limit += DISTURBED * self.slowest
        if any(moment.is_lossy for moment in moments):
            limit += LOSSY
        return limit

    def faults_until(self, at: float) -> int:
        """Return how many times something had broken or come back until then."""
        before = [moment.faults for moment in self.moments if moment.at <= at + self.step]
        return max(before, default=0)

    def was_lossy(self, at: float) -> bool:
        """Return whether messages between nodes were being lost until then: each one is a fault."""
        return any(moment.is_lossy for moment in self.moments if at - CALM_AFTER < moment.at <= at)

    def prompt(self) -> float:
        """Return the seconds for which what a mail says may be no longer so."""
        return self.limit(())


def _sites(world: World, test: Test) -> set[str]:
    return {node.site for node in world.nodes if test in node.tests}


def _open_at(node: SimNode) -> set[Test]:
    """Return the tests of which a node holds an open incident."""
    return {
        each.test for each in node.disk.incidents.values() if each.is_open and not each.flapping
    }


def _is_well(node: SimNode, now: float) -> bool:
    is_running = node.up and node.cron and node.daemon
    return is_running and now >= max(node.asleep_until, node.stopped_until)


def watch(world: World, failures: Sequence[Failure]) -> Watch:
    """Watch a world that has been set up, until the history is judged."""
    watching = Watch(world, failures)
    watching.begin()
    return watching


class Reader:
    """One mailbox: what its reader believes of one test, from mail to mail."""

    def __init__(self, watching: Watch, address: str, test: Test, wrong: Callable[[str], None]):
        self.watch = watching
        self.address = address
        self.test = test
        self._wrong = wrong
        self.beliefs: list[tuple[float, str]] = [(float("-inf"), "UP")]
        self.alerts: list[float] = []  # when an incident was told that was not told before
        # When a mail came, and when the mailbox dropped a double of it.
        self.dropped: list[tuple[float, float]] = []
        self.doubles: Counter[str] = Counter()  # by what they say
        world = watching.world
        self.is_owed_all = test not in world.unowed and address not in world.removed_addresses
        self.wants = world.wants.get(address, Wants())
        self._lasts_at = self._lasting()
        self._hours_hold = world.hours.get(address, _always)

    def wrong(self, text: str) -> None:
        self._wrong(f"{self.address}: {text}")

    def read(self, said: Said) -> None:
        """Read one mail, and believe it."""
        self.beliefs.append((said.at, _belief(said)))
        if said.is_down and Kind.ALERT in said.kinds:
            self.alerts.append(said.at)

    def judge(self, said: Said) -> None:
        """Say what is false in a mail that is not read yet."""
        believed = self.beliefs[-1][1]
        self._judge_by_sender(said)
        self._judge_by_wants(said)
        if is_node(self.test):
            self._judge_node(said)
        elif said.is_down:
            self._judge_down(said)
        elif said.is_up:
            self._judge_up(said)
        when, belief = self.beliefs[-1]
        is_hasty = said.is_up and belief == "DOWN" and said.at - when < LETTERS_APART
        if is_hasty and not self.watch.faults_until(said.at):
            self.wrong(f"UP {self.test} told {said.at - when:.0f} s after DOWN in another letter")
        if self.is_owed_all and self._is_double(said, believed):
            self.doubles[said.state] += 1
            faults = self.watch.faults_until(said.at)
            if self.doubles[said.state] > faults and not self.watch.was_lossy(said.at):
                self.wrong(
                    f"{said.state} {self.test} told again at {said.at:.0f}:"
                    f" {self.doubles[said.state]} times, with {faults} faults"
                )

    def _judge_by_sender(self, said: Said) -> None:
        """A mail says how the test is by what its sender holds."""
        if said.is_up and said.holds_open:
            self.wrong(f"UP {self.test} told at {said.at:.0f} by {said.node}, which holds it open")
        if said.is_down and not said.holds_open and not said.state.startswith("STEADY"):
            self.wrong(
                f"{said.state} {self.test} told at {said.at:.0f} by {said.node},"
                " which holds no open incident"
            )

    def _judge_by_wants(self, said: Said) -> None:
        """Nobody is told what he does not want, at another time, or before it has lasted so long.

        A round goes by the hours that hold when it begins.
        """
        words = f"{said.state} {self.test} told at {said.at:.0f}"
        if not self.wants.covers(self.test):
            self.wrong(f"{words}, which it does not want")
        if not self._hours_hold(said.handed) and not self._hours_hold(said.handed - ROUND):
            self.wrong(f"{words}, outside its hours")
        was_told = any(belief == "DOWN" for _, belief in self.beliefs)
        if self.wants.circle and said.is_up and Kind.ALERT not in said.kinds and not was_told:
            self.wrong(f"{words}, and it was never told DOWN")
        if not self.wants.after or Kind.ALERT not in said.kinds or is_node(self.test):
            return
        if self.watch.faults_until(said.at):
            return  # an incident lasts for as long as too few nodes are there to end it
        begun = [outage for outage in self.watch.outages[self.test] if outage[0] <= said.at]
        if begun and min(said.at, begun[-1][1]) - begun[-1][0] < self.wants.after - ROUND:
            self.wrong(f"{words}, {said.at - begun[-1][0]:.0f} s after it began")

    def _is_its_time(self, at: float) -> bool:
        """Return whether the reader is to be told now what is so."""
        return self.wants.covers(self.test) and self._hours_hold(at)

    def _lasting(self) -> set[float]:
        """Return the moments at which the test could be told for as long as the reader wants.

        Before that a node has to see it, and after it there has to be time for a mail.
        """
        lasting = set()
        since = None
        for moment in self.watch.moments:
            if self.test not in moment.tellable:
                since = None
                continue
            since = moment.at if since is None else since
            if not self.wants.after or moment.at - since >= self.wants.after + self.watch.prompt():
                lasting.add(moment.at)
        return lasting

    def _judge_down(self, said: Said) -> None:
        """DOWN is told of what fails, or has failed a moment before the mail was handed over.

        Nothing takes it back after that (R6), also if the machine is suspended before it has left.
        Then the reader has to hear the end after it: `judge_delays`.
        """
        begun = [outage for outage in self.watch.outages[self.test] if outage[0] <= said.at]
        if begun and said.at < begun[-1][1]:
            return
        if said.is_explained:
            return
        if not begun:
            self.wrong(f"{said.state} {self.test} told at {said.at:.0f}, and it has never failed")
            return
        ended = begun[-1][1]
        if self._could_say_up(said) and said.handed - ended > self.watch.prompt():
            self.wrong(
                f"{said.state} {self.test} told at {said.at:.0f}, and it ended at {ended:.0f}"
            )

    def _could_say_up(self, said: Said) -> bool:
        """Return whether the sender of a mail could know that the test is UP.

        Where mails are held, one may leave in a round that has not tested, or began before that.
        """
        if not self.watch.world.wants:
            return said.can_say_up
        since = said.at - 2 * ROUND * self.watch.slowest
        lately = [moment for moment in self.watch.moments if since <= moment.at <= said.at]
        return all(said.node in moment.can_say_up.get(self.test, ()) for moment in lately)

    def _judge_up(self, said: Said) -> None:
        """UP is told of what does not fail; or of an end that is real, if nothing else is known."""
        lasting = self._outage_at(said.at)
        if lasting is None:
            return
        seconds = said.at - lasting
        has_ended = self._has_untold_end(said.at)
        if seconds <= ROUND or (has_ended and seconds <= self.watch.prompt()):
            return
        if has_ended and not said.can_say_down:
            return
        self.wrong(f"UP {self.test} told at {said.at:.0f}, and it has failed since {lasting:.0f}")

    def _outage_at(self, at: float) -> float | None:
        """Return since when the test fails, or None."""
        for began, ended in self.watch.outages[self.test]:
            if began <= at < ended:
                return began
        return None

    def _has_untold_end(self, at: float) -> bool:
        """Return whether an outage has ended, and no mail has told that."""
        told = max((when for when, belief in self.beliefs if belief == "UP"), default=0.0)
        return any(told < ended <= at for _, ended in self.watch.outages[self.test])

    def _judge_node(self, said: Said) -> None:
        """A node is told DOWN if it was away, and UP if it was not away all the time."""
        watching = self.watch
        limit = STALE_ROUNDS * 60.0 * (1 + watching.slowest)
        lately = [moment for moment in watching.moments if said.at - limit <= moment.at <= said.at]
        name = self.watch.world.aliases.get(self.test.name, self.test.name)
        if said.is_down and not any(name in moment.away for moment in lately):
            if not said.is_explained:
                self.wrong(f"{said.state} {self.test} told at {said.at:.0f}, and it was there")
        if said.is_up and lately and all(name in moment.gone for moment in lately):
            if lately[0].at > said.at - limit + 2 * STEP:
                return  # the history is younger than that
            self.wrong(f"UP {self.test} told at {said.at:.0f}, and it was away")

    def _is_double(self, said: Said, believed: str) -> bool:
        """Return whether a mail tells what its reader has been told."""
        if said.state == "DOWN":  # with the end of an earlier incident, it is another one
            return believed == "DOWN" and Kind.RECOVERY not in said.kinds
        if said.state != "UP" or believed != "UP":
            return False
        if Kind.ALERT not in said.kinds:
            return True
        return not is_node(self.test) and not self._has_untold_outage(said.at)

    def _has_untold_outage(self, at: float) -> bool:
        told = max(when for when, _ in self.beliefs)
        outages = self.watch.outages[self.test]
        if not outages:
            return True  # by chance looks fail, and no failure is behind it
        return any(told < ended for began, ended in outages if began <= at)

    def heard_of(self, at: float) -> bool:
        """Return whether the reader believed at a time that the test is DOWN, or has heard later.

        What a round opens that had not heard of it yet may have been told, and ended, while it ran.
        Then the mail about it is a double.
        """
        before = [belief for when, belief in self.beliefs if when <= at]
        if before[-1] == "DOWN" or self.beliefs[-1][0] > at:
            return True
        return any(came > at - ROUND and again > at for came, again in self.dropped)

    @property
    def believes_down(self) -> bool:
        """Whether the reader believes in the end that the test is DOWN."""
        return self.beliefs[-1][1] == "DOWN"

    def judge_delays(self) -> None:
        """Say for how long the reader was not told what was so, if that is too long."""
        watching = self.watch
        for belief, is_false in (("DOWN", self._is_untold_down), ("UP", self._is_untold_up)):
            run: list[Moment] = []
            for moment, believed in self._believed_at_moments():
                if not is_false(moment, believed):
                    run = []
                    continue
                run.append(moment)
                seconds = moment.at - run[0].at
                limit = watching.limit(run)
                if is_node(self.test):
                    limit += DISTURBED * watching.slowest
                if believed == "":  # it is quiet, because the test flaps
                    limit += STEADY_ROUNDS * 60.0 * watching.slowest
                if belief == "UP" and self._is_alert_recent(moment.at):
                    continue
                if seconds > limit:
                    self.wrong(
                        f"not told for {seconds:.0f} s that {self.test} is {belief},"
                        f" from {run[0].at:.0f} to {moment.at:.0f}"
                    )
                    break

    def _is_alert_recent(self, at: float) -> bool:
        """Return whether the recovery of what was told last need not be told yet.

        A node may tell what it heard of and has not asked about; its next round asks. And a recovery
        waits for its own letter.
        """
        alerts = [when for when in self.alerts if when <= at]
        return bool(alerts) and at - alerts[-1] <= self.watch.prompt() + RECOVERY_WAITS

    def _believed_at_moments(self) -> Iterable[tuple[Moment, str]]:
        position = 0
        for moment in self.watch.moments:
            while position + 1 < len(self.beliefs) and self.beliefs[position + 1][0] <= moment.at:
                position += 1
            yield moment, self.beliefs[position][1]

    def _is_untold_down(self, moment: Moment, believed: str) -> bool:
        if self.address in moment.refused or believed == "DOWN":
            return False
        return self._is_its_time(moment.at) and moment.at in self._lasts_at

    def _is_untold_up(self, moment: Moment, believed: str) -> bool:
        if self.address in moment.refused or believed != "DOWN":
            return False
        if not self._is_its_time(moment.at):
            return False
        if is_node(self.test):
            name = self.watch.world.aliases.get(self.test.name, self.test.name)
            return not moment.is_disturbed and name not in moment.away
        return self.test in moment.clearable


def _always(_: float) -> bool:
    return True


def _belief(said: Said) -> str:
    """Return what a reader believes after a mail: DOWN, UP, or nothing."""
    if said.is_down:
        return "DOWN"
    if said.is_up:
        return "UP"
    return ""


def judge(history: History) -> None:
    """Judge a history from the view of each mailbox."""
    watching = history.watch
    assert watching is not None
    for address in sorted(watching.addresses):
        for test, said in _read_by(watching, address, history.wrong.append).items():
            reader = Reader(watching, address, test, history.wrong.append)
            for each in said:
                reader.judge(each)
                reader.read(each)
            if reader.is_owed_all:
                reader.judge_delays()
    judge_nothing_open(history)


def read_all(history: History, address: str) -> dict[Test, Reader]:
    """Return what the reader of a mailbox came to believe of each test; judge nothing."""
    watching = history.watch
    assert watching is not None
    readers = {}
    for test, said in _read_by(watching, address, lambda text: None).items():
        readers[test] = Reader(watching, address, test, history.wrong.append)
        for each in said:
            readers[test].read(each)
    arrived: dict[Hashable, float] = {}
    for each in watching.said:
        if each.address == address and arrived.setdefault(each.message_id, each.at) != each.at:
            readers[each.test].dropped.append((arrived[each.message_id], each.at))
    return readers


def _read_by(watching: Watch, address: str, wrong: Callable[[str], None]) -> dict[Test, list[Said]]:
    """Return what the mailbox of `address` got of each test, without the mails that it drops.

    Without faults there are none to drop.
    """
    by_test: dict[Test, list[Said]] = {test: [] for test in watching.tests}
    arrived: dict[Hashable, float] = {}
    copies: dict[Hashable, set[float]] = {}  # when each was handed over again
    for said in watching.said:
        if said.address != address:
            continue
        if arrived.setdefault(said.message_id, said.at) == said.at:
            by_test.setdefault(said.test, []).append(said)
            continue
        copies.setdefault(said.message_id, set()).add(said.at)
        if watching.was_lossy(said.at):
            continue
        if len(copies[said.message_id]) > watching.faults_until(said.at):
            wrong(f"{address}: {said.state} {said.test} handed over again at {said.at:.0f}")
    return by_test


def judge_nothing_open(history: History, *, nodes_too: bool = True) -> None:
    """In the end no node has an incident open of a test that it has, or of a node."""
    for node in history.world.nodes:
        tests = node.tests
        if nodes_too:
            tests = tests.union(node_test(peer.name) for peer in history.world.nodes)
        open_here = {each.test for each in node.disk.incidents.values() if each.is_open}
        for test in sorted(open_here & tests):
            if test.host == names.NODE and test.name in node.unlisted:
                continue
            history.wrong.append(f"{node.name} still has {test} open in the end")
