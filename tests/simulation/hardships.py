"""How the harder histories are set up: what has gone wrong in long lives of real clusters.

Each setup returns the failures, and the seconds that the cluster gets after the last one. In the end
all is well for long enough. What each mailbox got is judged by `mailbox`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from dmonitor.core.hours import Hours
from dmonitor.core.model import Outcome, Test
from dmonitor.core.wants import Pattern, Wants

from .history import Failure
from .liar import Lie
from .node import SimNode
from .setups import ADDRESSES, Setup, choose_places
from .virtual_round import Mail
from .world import World

TEST = Test("host0", "ssh")
HOOKS = ("hook:push", "hook:second")
SETTLED = 400.0  # seconds, and two intervals, until all is told after the last fault
NOISY_AFTER = 200.0  # seconds after the last failure in which looks still fail by chance


def _make_nodes(
    world: World, count: int, intervals: Sequence[int] = (1,), *, addresses: int = 1, tests: int = 1
) -> list[SimNode]:
    """Make nodes that run the same tests, with crons in step or not."""
    chance = world.plan
    is_in_step = chance.random() < 0.4
    is_skewed = chance.random() < 0.3
    every_test = frozenset(Test(f"host{number}", "ssh") for number in range(tests))
    for number in range(1, count + 1):
        name = f"node{number}"
        node = SimNode(
            name=name,
            node_id=f"{world.chance.getrandbits(48):012x}",
            site=name,
            interval=chance.choice(intervals),
            phase=0.0 if is_in_step else -1.0,
            tests=every_test,
            addresses=ADDRESSES[:addresses],
            offset=chance.uniform(-1000.0, 1000.0) if is_skewed else 0.0,
            jitter=chance.choice((0.1, 1.0, 5.0)),
            wall_skew=chance.uniform(-2.0, 2.0),
        )
        world.nodes.append(node)
    world.slow = chance.choice((0.0, 0.0, 0.3))
    world.delay = chance.choice((0.01, 0.05))
    choose_places(world)
    longest = chance.choice((0.2, 1.0, 5.0))
    world.mta = lambda node, address: (world.chance.uniform(0.0, longest), True)
    return world.nodes


def _settle(world: World) -> float:
    slowest = max(node.interval for node in world.nodes)
    return SETTLED + 120.0 * slowest


def _failures(world: World, count: int, lengths: tuple[float, float], *, gap: float) -> Setup:
    """Let the test fail some times, on all nodes, with pauses of `gap` to twice that."""
    failures = []
    at = world.plan.uniform(60.0, 120.0)
    for _ in range(count):
        length = world.plan.uniform(*lengths)
        failures.append(Failure(TEST, at, at + length))
        at += length + world.plan.uniform(gap, 2 * gap)
    return failures, _settle(world)


def _names(nodes: Sequence[SimNode]) -> frozenset[str]:
    return frozenset(node.name for node in nodes)


def _in_round(
    world: World, node: SimNode, until: float, event: Callable[[], None]
) -> Callable[[], None]:
    """Return what makes `event` happen as soon as a round of `node` runs, but not after `until`."""

    def wait() -> None:
        if world.now > until:
            return
        if node.running and not node.is_asleep(world.now):
            world.after(world.chance.uniform(0.0, 3.0), event)
        else:
            world.after(0.5, wait)

    return wait


def _split(world: World, group: frozenset[str], *, up: bool) -> None:
    """Cut every link between `group` and the other nodes, or mend them."""
    for one in world.nodes:
        for other in world.nodes:
            if (one.name in group) != (other.name in group):
                world.link(one.name, other.name, up)


def _partition(world: World, group: frozenset[str], at: float, until: float) -> None:
    world.at(at, lambda: _split(world, group, up=False))
    world.at(until, lambda: _split(world, group, up=True))


def _any_group(world: World) -> frozenset[str]:
    names = [node.name for node in world.nodes]
    return frozenset(world.plan.sample(names, world.plan.randrange(1, len(names))))


# Nodes that come back, late or with what is old.


def ghost(world: World) -> Setup:
    """The node that has mailed the alert loses power at once.

    It comes back, with the incident open, about when the test fails again.
    """
    chance = world.plan
    _make_nodes(world, chance.choice((2, 2, 2, 3)))
    first = chance.uniform(60.0, 120.0)
    ended = first + chance.uniform(150.0, 500.0)
    again = ended + chance.uniform(300.0, 1200.0)
    back = again + chance.uniform(-90.0, 40.0)
    lost: list[Mail] = []

    def mailed(mail: Mail) -> None:
        if lost:
            return
        lost.append(mail)
        (node,) = [node for node in world.nodes if node.name == mail.node]
        at = world.chance.uniform(0.1, 4.0)
        world.after(at, lambda: world.power_cut(node, back - world.now))

    world.mailed.append(mailed)
    failures = [Failure(TEST, first, ended), Failure(TEST, again, again + 600.0)]
    return failures, _settle(world)


def slow(world: World) -> Setup:
    """Crons from 1 minute to 2 hours; two recoveries, and no fault."""
    chance = world.plan
    _make_nodes(world, chance.choice((2, 2, 3, 4)), (5, 30, 60, 60, 120, 120))
    world.nodes[0].interval = chance.choice((60, 120, 120))
    if chance.random() < 0.2:
        world.nodes[-1].interval = 1
        return _failures(world, 1, (600.0, 4000.0), gap=0.0)
    return _failures(world, 2, (600.0, 9000.0), gap=chance.uniform(300.0, 7000.0))


def sleep(world: World) -> Setup:
    """Machines are suspended, or rounds stopped, for minutes, in the middle of a round."""
    chance = world.plan
    _make_nodes(world, chance.choice((2, 3, 3, 4)))
    failures, settle = _failures(world, chance.choice((1, 2)), (100.0, 400.0), gap=300.0)
    for _ in range(chance.choice((1, 1, 2, 3))):
        node, failure = chance.choice(world.nodes), chance.choice(failures)
        at = chance.uniform(failure.began - 30.0, failure.ended)
        seconds = chance.uniform(60.0, 600.0)
        if chance.random() < 0.5:
            seconds += failure.ended - at
        event = _sleeper(world, node, seconds, is_whole=chance.random() < 0.6)
        world.at(at, _in_round(world, node, failure.ended, event))
    return failures, settle + 300.0


def _sleeper(world: World, node: SimNode, seconds: float, *, is_whole: bool) -> Callable[[], None]:
    if is_whole:
        return lambda: world.suspend(node, seconds)
    return lambda: world.stop_round(node, seconds)


def restored(world: World) -> Setup:
    """The disk of a node is replaced by one of some minutes ago."""
    chance = world.plan
    _make_nodes(world, chance.choice((2, 3, 3, 4)))
    failures, settle = _failures(world, chance.choice((1, 2, 3)), (150.0, 500.0), gap=200.0)
    for _ in range(chance.choice((1, 1, 2))):
        node = chance.choice(world.nodes)
        at = chance.uniform(60.0, failures[-1].ended + 200.0)
        _restore(world, node, at - chance.uniform(60.0, 1500.0), at)
    return failures, settle


def _restore(world: World, node: SimNode, taken: float, at: float) -> None:
    """Let the disk of a node become at `at` what it was when it was `taken`."""
    backup = node.disk

    def take() -> None:
        nonlocal backup
        backup = node.disk.snapshot()

    off = world.plan.uniform(6.0, 60.0)
    world.at(max(1.0, taken), take)
    world.at(at, lambda: world.restore(node, backup.snapshot(), off))


# What becomes of wakes, and of the node that waits for them.


def woken(world: World) -> Setup:
    """Wakes are lost, or a liar wakes everybody; daemons restart; who stays or is woken dies."""
    chance = world.plan
    _make_nodes(world, chance.choice((2, 3, 3, 3, 4, 5)))
    world.wake_loss = chance.choice((0.0, 0.0, 0.3, 0.9, 1.0))
    failures, settle = _failures(world, chance.choice((1, 2, 3)), (110.0, 400.0), gap=130.0)
    last = failures[-1].ended
    if chance.random() < 0.4:
        liar, pause = chance.choice(world.nodes), chance.choice((0.3, 1.0, 4.0))
        world.at(1.0, _liar(world, liar, pause))
    for _ in range(chance.choice((0, 0, 1, 2))):
        node, seconds = chance.choice(world.nodes), chance.uniform(0.1, 20.0)
        world.at(chance.uniform(60.0, last), _daemon_restarter(world, node, seconds))
    for _ in range(chance.choice((0, 1, 1, 2))):
        failure = chance.choice(failures)
        at = chance.choice((failure.began, failure.ended)) + chance.uniform(-20.0, 60.0)
        _strike(world, at, chance.choice(("stays", "woken", "woken", "kill")))
    return failures, settle + 700.0  # who is struck last is back by then


def _liar(world: World, liar: SimNode, pause: float) -> Callable[[], None]:
    """Return what makes `liar` wake every node again and again, itself included."""

    def lie() -> None:
        world.after(pause, lie)
        if liar.up and not liar.is_asleep(world.now):
            for node in world.nodes:
                world.wake(liar, node)

    return lie


def _daemon_restarter(world: World, node: SimNode, seconds: float) -> Callable[[], None]:
    return lambda: world.restart_daemon(node, seconds)


def _strike(world: World, at: float, moment: str) -> None:
    """Let a node that stays lose its power, or one that is woken; or kill what waits on a node."""
    off = world.plan.choice((8.0, 30.0, 200.0, 400.0)) * world.plan.uniform(0.7, 1.3)
    until = at + 100.0

    def rung(node: SimNode) -> None:
        world.rung.remove(rung)
        world.after(world.chance.uniform(0.0, 4.0), lambda: world.power_cut(node, off))

    def stays() -> None:
        staying = [node for node in world.nodes if node.stays]
        if not staying:
            if world.now < until:
                world.after(0.5, stays)
        elif moment == "kill":
            world.kill_waiting(world.chance.choice(staying))
        else:
            world.power_cut(world.chance.choice(staying), off)

    if moment == "woken":
        world.at(at, lambda: world.rung.append(rung))
    else:
        world.at(at, stays)


# Some nodes see it, some do not, and they cannot always talk.


def torn(world: World) -> Setup:
    """Partitions and reboots of 5 to 40 minutes while some nodes see a test fail, and others do not."""
    chance = world.plan
    count = chance.choice((3, 3, 3, 4, 5))
    _make_nodes(world, count)
    world.slow = 0.0
    seeing = chance.sample(world.nodes, chance.randrange(2, count + 1))
    began = chance.uniform(60.0, 120.0)
    ended = began + chance.uniform(400.0, 1800.0)
    failures = [Failure(TEST, began, ended, _names(seeing))]
    if chance.random() < 0.3:
        again = ended + chance.uniform(120.0, 600.0)
        failures.append(Failure(TEST, again, again + 600.0, _names(seeing)))
    last = failures[-1].ended
    for _ in range(chance.choice((1, 1, 2))):
        at = chance.uniform(began, last - 60.0)
        length = 300.0 + 2100.0 * chance.random() ** 3
        if chance.random() < 0.6:
            _partition(world, _any_group(world), at, at + length)
            last = max(last, at + length)
        else:
            for node in chance.sample(seeing, chance.choice((1, 2))):
                world.at(at, _power_cutter(world, node, length))
            last = max(last, at + length)
    failures.append(Failure(TEST, last, last))
    return failures, _settle(world)


def _power_cutter(world: World, node: SimNode, seconds: float) -> Callable[[], None]:
    return lambda: world.power_cut(node, seconds)


def oneway(world: World) -> Setup:
    """What one node sends to another one, or to all, is lost, whole or mostly."""
    chance = world.plan
    _make_nodes(world, chance.choice((3, 3, 4, 5)))
    failures, settle = _failures(world, chance.choice((1, 2)), (200.0, 700.0), gap=200.0)
    node = chance.choice(world.nodes)
    others = [other for other in world.nodes if other is not node]
    if chance.random() < 0.5:
        others = [chance.choice(others)]
    links = [(node.name, other.name) for other in others]
    if chance.random() < 0.5:
        links = [(to, source) for source, to in links]
    loss = chance.choice((0.5, 0.9, 1.0, 1.0))
    at = chance.uniform(20.0, failures[-1].ended)

    def lose() -> None:
        world.faults += 1
        world.link_loss.update(dict.fromkeys(links, loss))

    world.at(at, lose)
    world.at(at + chance.uniform(100.0, 700.0), world.link_loss.clear)
    return failures, settle + 700.0


def site(world: World) -> Setup:
    """A site with several nodes dies whole, and comes back."""
    chance = world.plan
    _make_nodes(world, chance.choice((4, 5, 6)))
    for number, node in enumerate(world.nodes):
        node.site = ("here", "there", f"site{number}")[min(number // 2, 2)]
    failures, settle = _failures(world, chance.choice((1, 2)), (200.0, 700.0), gap=200.0)
    dying = chance.choice(("here", "there"))
    at, length = chance.uniform(30.0, failures[-1].ended), chance.uniform(60.0, 600.0)
    for node in world.nodes:
        if node.site == dying:
            world.at(at, _power_cutter(world, node, length + chance.uniform(0.0, 60.0)))
    return failures, settle + length


def half(world: World) -> Setup:
    """Half of the tests are on half of the nodes; a node or a link may break."""
    chance = world.plan
    _make_nodes(world, 4, tests=2)
    one, other = sorted(world.nodes[0].tests)
    for node, tests in zip(
        world.nodes, ((one,), (one, other), (one, other), (other,)), strict=True
    ):
        node.tests = frozenset(tests)
    failures = []
    for test in (one, other):
        at = chance.uniform(60.0, 200.0)
        failures.append(Failure(test, at, at + chance.uniform(200.0, 500.0)))
    if chance.random() < 0.5:
        node, at = chance.choice(world.nodes), chance.uniform(60.0, 400.0)
        world.at(at, _power_cutter(world, node, chance.uniform(30.0, 400.0)))
    return failures, _settle(world) + 400.0


def big(world: World) -> Setup:
    """Thirty to fifty nodes, one of which may go."""
    chance = world.plan
    for node in _make_nodes(world, chance.randrange(30, 51), (1, 2)):
        node.offset = 0.0  # to move all times of all statements takes most of the time
    at = chance.uniform(60.0, 120.0)
    if chance.random() < 0.5:
        node = chance.choice(world.nodes[:3])
        world.at(at + chance.uniform(0.0, 120.0), _power_cutter(world, node, 200.0))
    return [Failure(TEST, at, at + chance.uniform(190.0, 260.0))], 450.0


# Mail systems.


def picky(world: World) -> Setup:
    """One address is refused by one node, or by all, for a while; a node may be off meanwhile."""
    chance = world.plan
    _make_nodes(world, chance.choice((2, 3, 4)), addresses=2)
    failures, settle = _failures(world, chance.choice((2, 3)), (150.0, 400.0), gap=130.0)
    refusals = []
    for _ in range(chance.choice((1, 2, 2))):
        refusing = _names(world.nodes)
        if chance.random() < 0.5:
            refusing = frozenset({chance.choice(world.nodes).name})
        at = chance.uniform(60.0, failures[-1].ended)
        until = at + chance.uniform(60.0, 500.0)
        refusals.append((refusing, at, until))
        if chance.random() < 0.5:
            node = world.nodes[chance.choice((0, 0, 1))]
            off = chance.uniform(at, until)
            world.at(off, _power_cutter(world, node, chance.uniform(20.0, 300.0)))

    def refuses(node: SimNode, address: str) -> bool:
        if address != ADDRESSES[1]:
            return False
        return any(
            node.name in refusing and at <= world.now < until for refusing, at, until in refusals
        )

    world.refuses = refuses
    return failures, settle + 500.0


def sluggish(world: World) -> Setup:
    """Mail systems that take a mail late, or say so late, or never answer.

    In some histories a node loses its power, or its rounds are killed, or links are cut.
    """
    chance = world.plan
    nodes = _make_nodes(
        world, chance.choice((2, 3, 3, 4)), (1, 1, 1, 2), addresses=chance.choice((1, 1, 2))
    )
    failures, settle = _failures(world, chance.choice((1, 2, 3)), (150.0, 900.0), gap=200.0)
    # Until then a mail system of each kind behaves as it does; after that each one is quick.
    until = failures[-1].ended + chance.uniform(0.0, 600.0)
    kinds = {}
    for node in nodes:
        for address in node.addresses:
            kinds[node.name, address] = chance.choice(("quick", "late", "late", "slow", "hangs"))

    def mta(node: SimNode, address: str) -> tuple[float, bool]:
        kind = kinds[node.name, address] if world.now < until else "quick"
        seconds = {"slow": world.chance.uniform(10.0, 120.0), "hangs": 1e6}
        return seconds.get(kind, world.chance.uniform(0.0, 2.0)), True

    def lag(node: SimNode, address: str) -> float:
        if kinds[node.name, address] == "late" and world.now < until:
            return world.chance.choice((world.chance.uniform(10.0, 30.0), 550.0))
        return 0.01

    world.mta, world.mta_lag = mta, lag
    world.slowest_mta = 1e6
    if chance.random() < 0.4:
        _disturb(world, failures)
    return failures, settle + 1200.0


def hooked(world: World) -> Setup:
    """All mail systems refuse for an hour, or all but one do; the hooks take it, soon or late.

    In some histories one node's hook fails, or one of two, or nodes are disturbed.
    """
    chance = world.plan
    nodes = _make_nodes(world, chance.choice((1, 2, 3, 3, 4, 5)))
    if len(nodes) == 1:
        world.quorum = 1
    recipients = chance.choice(((ADDRESSES[0], HOOKS[0]), (*ADDRESSES, *HOOKS)))
    for node in nodes:
        node.addresses = recipients
    failures, settle = _failures(world, chance.choice((2, 3)), (400.0, 900.0), gap=300.0)
    at = failures[0].began - chance.choice((30.0, 300.0))
    until = at + 3600.0
    refusing = _names(nodes)
    if len(nodes) > 1 and chance.random() < 0.25:
        refusing -= {chance.choice(nodes).name}
    broken = chance.choice(nodes).name if len(nodes) > 1 and chance.random() < 0.4 else ""
    slow = chance.choice((1.0, 1.0, 5.0, 40.0))
    quick = world.mta

    def mta(node: SimNode, address: str) -> tuple[float, bool]:
        if address in HOOKS:
            return world.chance.uniform(0.0, slow), True
        return quick(node, address)

    def refuses(node: SimNode, address: str) -> bool:
        if not at <= world.now < until:
            return False
        if address in HOOKS:
            return node.name == broken and address == HOOKS[0]
        return node.name in refusing

    world.mta, world.refuses = mta, refuses
    world.refused_until = until if refusing == _names(nodes) else 0.0
    if len(nodes) > 1 and chance.random() < 0.4:
        _disturb(world, failures)
    elif chance.random() < 0.2:
        world.kill_at_save = 0.03
    failures.append(Failure(TEST, until, until))
    return failures, settle + 2 * 1800.0


def _disturb(world: World, failures: Sequence[Failure]) -> None:
    """Let one or two things happen while mails are on their way."""
    chance = world.plan
    for _ in range(chance.choice((1, 2))):
        node, failure = chance.choice(world.nodes), chance.choice(failures)
        at = chance.choice((failure.began, failure.ended)) + chance.uniform(0.0, 300.0)
        match chance.choice(("power", "kill", "links")):
            case "power":
                world.at(at, _power_cutter(world, node, chance.uniform(10.0, 400.0)))
            case "kill":
                for _ in range(3):
                    world.at(at + chance.uniform(0.0, 60.0), _round_killer(world, node))
            case "links":
                _partition(world, _any_group(world), at, at + chance.uniform(20.0, 400.0))


def _round_killer(world: World, node: SimNode) -> Callable[[], None]:
    return lambda: world.kill_round(node)


def swallow(world: World) -> Setup:
    """The node that has handed over a mail loses power before its round has stored that."""
    chance = world.plan
    _make_nodes(world, chance.choice((2, 3, 3, 4)), addresses=chance.choice((1, 2)))
    failures, settle = _failures(world, chance.choice((1, 2)), (200.0, 500.0), gap=200.0)
    deaths = chance.choice((1, 1, 2))
    off = chance.uniform(5.0, 400.0)

    def mailed(mail: Mail) -> None:
        nonlocal deaths
        if deaths and world.chance.random() < 0.5:
            deaths -= 1
            (node,) = [node for node in world.nodes if node.name == mail.node]
            world.after(world.chance.uniform(0.0, 0.05), lambda: world.power_cut(node, off))

    world.mailed.append(mailed)
    # The mail that tells that the first node is back may be the second one's death.
    return failures, settle + deaths * (400.0 + 120.0)


# What addresses want.

_CHOOSY = tuple(f"{name}@example.com" for name in ("all", "some", "late", "day", "both"))


def choosy(world: World) -> Setup:
    """Addresses with patterns, hours and AFTER; in some histories nobody is told at once.

    Nodes may lose their power, also when they have just mailed; rounds may be killed, or links cut.
    """
    chance = world.plan
    _make_nodes(world, chance.choice((2, 3, 3, 4)), tests=2)
    host = Test("host1", "ssh")
    failures: list[Failure] = []
    for test in (TEST, host):
        at = chance.uniform(60.0, 400.0)
        for _ in range(chance.choice((1, 1, 2))):
            length = chance.uniform(150.0, 1800.0)
            failures.append(Failure(test, at, at + length))
            at += length + chance.uniform(300.0, 900.0)
    last = max(failure.ended for failure in failures)
    some, late, day, both = _CHOOSY[1:]
    only, never = Pattern("host0*"), Pattern(chance.choice(("host1", "host1/*")), "NOT")
    world.wants[some] = chance.choice((Wants(only=(only,)), Wants(never=(never,))))
    world.wants[late] = Wants(after=chance.uniform(200.0, 1200.0))
    if chance.random() < 0.3:
        world.wants[late] = world.wants[late]._replace(never=(Pattern("node", "NOT"),))
    for number, address in enumerate((day, both)):
        world.wants[address] = Wants(hours=(Hours(number, number + 1, ()),))
        world.hours[address] = _hours(world, last)
    world.wants[both] = world.wants[both]._replace(after=chance.uniform(200.0, 900.0))
    addresses = chance.sample(_CHOOSY, chance.choice((1, 2, 3, 4, 5)))
    for node in world.nodes:
        node.addresses = tuple(sorted(addresses))
    if chance.random() < 0.3:
        _disturb(world, failures)
    if chance.random() < 0.4:
        _strike_mailers(world, chance.choice((1, 1, 2)))
    return failures, _settle(world) + 1500.0


def _hours(world: World, last: float) -> Callable[[float], bool]:
    """Return whether somebody's hours hold, as a function of the time; they do at the end."""
    begins = []
    at = world.plan.uniform(-1000.0, 600.0)
    while at < last:
        begins.append((at, at + world.plan.uniform(300.0, 1500.0)))
        at = begins[-1][1] + world.plan.uniform(200.0, 1500.0)
    begins.append((at, float("inf")))
    return lambda now: any(begin <= now < end for begin, end in begins)


def _strike_mailers(world: World, deaths: int) -> None:
    """Let nodes lose their power a moment after they have mailed, or some seconds."""
    off = world.plan.uniform(5.0, 400.0)

    def mailed(mail: Mail) -> None:
        nonlocal deaths
        if deaths and world.chance.random() < 0.3:
            deaths -= 1
            (node,) = [node for node in world.nodes if node.name == mail.node]
            seconds = world.chance.choice((0.05, 20.0))
            world.after(world.chance.uniform(0.0, seconds), _power_cutter(world, node, off))

    world.mailed.append(mailed)


# What operators do.


def differing(world: World) -> Setup:
    """Nodes with different `quorum` and `confirm`; one holds for all. There is no fault."""
    chance = world.plan
    _make_nodes(world, chance.choice((3, 3, 4, 5)))
    for node in world.nodes:
        node.quorum = chance.choice((2, 2, 3))
        node.confirm = chance.choice((1, 1, 2))
    failures, settle = _failures(world, chance.choice((1, 2)), (200.0, 500.0), gap=200.0)
    if chance.random() < 0.5:
        seeing = _names(chance.sample(world.nodes, 2))
        failures = [dataclasses.replace(failure, nodes=seeing) for failure in failures]
    return failures, settle


def edited(world: World) -> Setup:
    """Operators change what is configured on some nodes in mid-incident."""
    chance = world.plan
    _make_nodes(world, chance.choice((3, 3, 4)), addresses=2, tests=2)
    failures, settle = _failures(world, chance.choice((1, 2)), (300.0, 700.0), gap=200.0)
    for _ in range(chance.choice((1, 2))):
        at = chance.uniform(failures[0].began, failures[-1].ended)
        edit = chance.choice((_edit_test, _edit_address, _edit_line, _edit_quorum))
        edit(world, chance.sample(world.nodes, chance.choice((1, 1, 2))), at)
    return failures, settle + 600.0


def _edit(world: World, at: float, edit: Callable[[], None]) -> None:
    """Let an operator edit something; it counts as a fault, because nodes differ then."""

    def happen() -> None:
        world.faults += 1
        edit()

    world.at(at, happen)


def _edit_test(world: World, nodes: Sequence[SimNode], at: float) -> None:
    """Remove the test on some nodes, and add it again later."""
    back = at + world.plan.uniform(60.0, 600.0)

    def remove() -> None:
        world.note("", "test removed on", *_names(nodes))
        for node in nodes:
            node.tests -= {TEST}

    def add() -> None:
        world.note("", "test added on", *_names(nodes))
        for node in nodes:
            node.tests |= {TEST}

    _edit(world, at, remove)
    _edit(world, back, add)


def _edit_address(world: World, nodes: Sequence[SimNode], at: float) -> None:
    """Remove the second address on some nodes, and add it again later."""
    world.removed_addresses.add(ADDRESSES[1])
    back = at + world.plan.uniform(60.0, 600.0)

    def set_addresses(addresses: tuple[str, ...]) -> None:
        world.note("", "addresses are", *addresses, "on", *_names(nodes))
        for node in nodes:
            node.addresses = addresses

    _edit(world, at, lambda: set_addresses(ADDRESSES[:1]))
    _edit(world, back, lambda: set_addresses(ADDRESSES))


def _edit_line(world: World, nodes: Sequence[SimNode], at: float) -> None:
    """Remove a node's line on some nodes, and add it again later."""
    back = at + world.plan.uniform(60.0, 600.0)
    name = world.plan.choice(world.nodes).name

    def remove() -> None:
        world.note("", "line of", name, "removed on", *_names(nodes))
        for node in nodes:
            if node.name != name:
                node.unlisted.add(name)

    def add() -> None:
        world.note("", "line of", name, "added on", *_names(nodes))
        for node in nodes:
            node.unlisted.discard(name)

    _edit(world, at, remove)
    _edit(world, back, add)


def _edit_quorum(world: World, nodes: Sequence[SimNode], at: float) -> None:
    """Raise the quorum on some nodes."""

    def raise_quorum() -> None:
        world.note("", "quorum is 3 on", *_names(nodes))
        for node in nodes:
            node.quorum = 3

    _edit(world, at, raise_quorum)


def days(world: World) -> Setup:
    """A failure that lasts for days, with reminders, and a reboot now and then."""
    chance = world.plan
    _make_nodes(world, chance.choice((2, 3)), (60,))
    world.settings = {"flapping": False, "remind": 86400.0 / chance.choice((1, 2))}
    began = 600.0
    ended = began + chance.uniform(1.2, 2.5) * 86400.0
    for _ in range(chance.choice((0, 1, 3))):
        at = chance.uniform(began, ended)
        world.at(at, _power_cutter(world, chance.choice(world.nodes), chance.uniform(60.0, 9000.0)))
    return [Failure(TEST, began, ended)], _settle(world) + 9000.0


# Time, and chance.


def pair(world: World) -> Setup:
    """Two nodes with crons of five minutes, and the cron of one dies."""
    chance = world.plan
    _make_nodes(world, 2, (5,))
    world.lost = chance.choice(world.nodes)
    at = chance.uniform(300.0, 600.0)
    world.gone = at, at + 2200.0

    def die() -> None:
        world.faults += 1
        world.lost.cron = False

    world.at(at, die)
    world.at(at + 2200.0, lambda: setattr(world.lost, "cron", True))
    return [Failure(TEST, at + 2200.0, at + 2200.0)], _settle(world)


def behind(world: World) -> Setup:
    """A router fails, and with it the two hosts behind it; one of them may stay down.

    One of them fails by itself before, in some histories; a node may lose its power.
    """
    chance = world.plan
    _make_nodes(world, chance.choice((2, 3, 3, 4)), tests=3)
    hosts = [Test(f"host{number}", "ssh") for number in (1, 2)]
    world.behind = dict.fromkeys(hosts, (TEST,))
    at = chance.uniform(60.0, 120.0)
    failures = []
    if chance.random() < 0.5:
        failures.append(Failure(hosts[0], at, at + 200.0))
        at += chance.uniform(500.0, 600.0)
    ended = at + chance.uniform(150.0, 500.0)
    failures.append(Failure(TEST, at, ended))
    for host in hosts:
        lasts = chance.choice((0.0, 1.0, 2.0))
        failures.append(Failure(host, at + chance.uniform(1.0, 15.0), ended + lasts))
    if chance.random() < 0.5:
        failures[-1] = dataclasses.replace(failures[-1], ended=ended + chance.uniform(200.0, 400.0))
    if chance.random() < 0.4:
        off = chance.uniform(at - 30.0, ended + 60.0)
        world.at(off, _power_cutter(world, chance.choice(world.nodes), chance.uniform(6.0, 300.0)))
    return failures, _settle(world)


def confirm(world: World) -> Setup:
    """confirm = 2 or 3, while looks at the target fail by chance; it fails once for good.

    In half of the histories only the test itself has that number.
    """
    chance = world.plan
    _make_nodes(world, chance.choice((2, 3, 4)))
    number = chance.choice((2, 3))
    if chance.random() < 0.5:
        world.confirm = number
    else:
        world.confirmations[TEST] = number
    world.noise[TEST] = chance.choice((0.0, 0.1, 0.2))
    failures, _ = _failures(world, 1, (400.0, 700.0), gap=0.0)
    return failures, _quieten(world, failures)


def skewed(world: World) -> Setup:
    """Clocks that run 8 % apart; a node may be off for a while."""
    chance = world.plan
    _make_nodes(world, chance.choice((2, 3, 4)))
    for node in world.nodes:
        node.rate = chance.choice((0.96, 1.0, 1.04))
        node.wall_skew = chance.uniform(-60.0, 60.0)
    failures, settle = _failures(world, chance.choice((1, 2)), (200.0, 500.0), gap=200.0)
    if chance.random() < 0.4:
        node, at = chance.choice(world.nodes), chance.uniform(60.0, failures[-1].ended)
        world.at(at, _power_cutter(world, node, chance.uniform(6.0, 300.0)))
    return failures, settle


def noisy(world: World) -> Setup:
    """Looks at the target fail by chance; in some histories it fails for good, too."""
    chance = world.plan
    _make_nodes(world, chance.choice((2, 3, 3, 4)))
    world.noise[TEST] = chance.uniform(0.05, 0.2)
    if chance.random() < 0.5:
        failures, _ = _failures(world, 1, (200.0, 500.0), gap=0.0)
    else:
        failures = [Failure(TEST, 900.0, 900.0)]
    return failures, _quieten(world, failures)


def _quieten(world: World, failures: Sequence[Failure]) -> float:
    """Let looks fail by chance for a while more; return the seconds until all is surely over."""
    world.at(failures[-1].ended + NOISY_AFTER, world.noise.clear)
    return NOISY_AFTER + _settle(world)


def leaky(world: World) -> Setup:
    """Three messages of ten between nodes are lost; a target may fail."""
    chance = world.plan
    _make_nodes(world, chance.choice((2, 3, 3, 4)))
    world.loss = 0.3
    until = 900.0
    failures = [Failure(TEST, until, until)]
    if chance.random() < 0.5:
        failures.append(Failure(TEST, 100.0, 100.0 + chance.uniform(300.0, 600.0)))
    world.at(until, lambda: setattr(world, "loss", 0.0))
    return failures, 500.0


def settling(world: World) -> Setup:
    """A test flaps, and then fails for good."""
    chance = world.plan
    _make_nodes(world, chance.choice((2, 3, 3)))
    world.slow = 0.0
    world.settings = {"flapping": True}
    failures, at = [], 100.0
    for _ in range(chance.choice((4, 5, 6))):
        length = chance.uniform(85.0, 110.0)
        failures.append(Failure(TEST, at, at + length))
        at += length + chance.uniform(85.0, 110.0)
    failures.append(Failure(TEST, at, at + chance.uniform(500.0, 1500.0)))
    return failures, _settle(world) + 800.0


# A node that has the key.

_DAY = 86400.0
_STEADY_SECONDS = 1300.0  # between two failures of a test, at least, so that none flaps


def liar(world: World) -> Setup:
    """Three honest nodes and a liar, for a day; tests fail for all, for two, or for one of the three.

    It is first in the order or last. It may say that it can mail, and list what the others list. For
    some hours it states made-up incidents: closed ones, some of them so recent that tests would seem
    to flap, and open ones. It may claim rounds of a day, or say that what is told was told just now.
    """
    chance = world.plan
    honest = list(_make_nodes(world, 3, tests=3))
    is_first = chance.random() < 0.7
    name = "node0" if is_first else "node9"
    lie = Lie(
        answer=chance.choice((Outcome.OK, Outcome.OK, Outcome.FAIL, Outcome.UNKNOWN, None)),
        lists=chance.random() < 0.8,
        floods=(_flood(world),),
        claims=tuple(_claims(world, sorted(honest[0].tests))),
    )
    there = SimNode(name, f"{0:012x}", name, 1, 0.0, honest[0].tests, honest[0].addresses, lie=lie)
    for node in honest:
        node.offset = 0.0  # the liar knows no other clock
    world.nodes.insert(0 if is_first else 3, there)
    world.slow = 0.0
    world.settings = {"flapping": True}
    failures = []
    for test in sorted(honest[0].tests):
        at = chance.uniform(600.0, 3000.0)
        while at < _DAY:
            seeing = chance.sample(honest, chance.choice((3, 3, 2, 1)))
            length = chance.uniform(300.0, 1500.0)
            failures.append(Failure(test, at, at + length, _names(seeing)))
            at += length + chance.uniform(_STEADY_SECONDS, 3 * 3600.0)
    lie.interval = chance.choice((1, 1, 5, 1440))
    lie.reminds = chance.random() < 0.3
    return failures, 900.0


def _flood(world: World) -> tuple[float, float, int, float]:
    """Return when a flood begins and ends, and the count and the age of what it consists of."""
    chance = world.plan
    began = chance.uniform(0.0, _DAY - 7200.0)
    count, age = chance.choice(((60, 3000.0), (60, 1200.0), (5, 1200.0)))
    return began, began + chance.uniform(600.0, 2400.0), count, age


def _claims(world: World, tests: Sequence[Test]) -> list[tuple[float, Test]]:
    """Return when the liar states that a test is open: seldom, so that none flaps by it."""
    chance = world.plan
    found = []
    at = chance.uniform(600.0, 7200.0)
    while at < _DAY:
        found.append((at, chance.choice(tests)))
        at += chance.uniform(3600.0, 14400.0)
    return found
