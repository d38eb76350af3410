"""Histories of a virtual cluster from seeds, and what must be true of each (promises 1 to 4).

`calm`: no fault inside an incident; crons of 1, 2 and 5 minutes in and out of step, slow plugins and MTAs, clocks that
differ, several tests. `rebooted`: the same, and all nodes reboot between two rounds. `rough`: crashes, power cuts, cuts of
links one-way and both ways, partitions, loss, MTAs that refuse, tests that fail for one node alone, silences, crons that
stop, nodes without the test or an address. `lossy`: a test fails for some and passes for others, and messages get
lost. `standing`: links that are cut one-way from the beginning to the end. `flapping`: a test that changes too often.
`reminded`: an incident that lasts, and one whose test is taken away. `blind`: a node that is gone, or sees nothing.
`brief`: a node that is off for some
minutes. `late`: no MTA for more than an hour.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable

from dmonitor.base import names
from dmonitor.core import incident
from dmonitor.core.model import Kind, Silence, Test

from .world import SimNode, World

ADDRESSES = ("a@example.com", "b@example.com")


@dataclasses.dataclass(frozen=True)
class Trouble:
    """TEST fails from BEGAN until ENDED on the nodes named; on all without names."""

    test: Test
    began: float
    ended: float
    nodes: frozenset[str] = frozenset()


@dataclasses.dataclass
class History:
    """What was played, and what is wrong with it."""

    seed: int
    world: World
    troubles: list[Trouble]
    wrong: list[str]
    doubled: int = 0
    delays: list[float] = dataclasses.field(
        default_factory=list
    )  # from a failure to its first mail


def play(
    seed: int, kind: str, *, plan: random.Random | None = None, tracing: bool = False
) -> History:
    """Play the history KIND of SEED, a key of KINDS."""
    world = World(seed, plan)
    world.tracing = tracing
    make, judge = KINDS[kind]
    troubles, settle = make(world)
    world.fails = _truth(troubles)
    world.begin()
    end = max(trouble.ended for trouble in troubles) + settle
    history = History(seed, world, troubles, [])
    try:
        world.run(end)
        while world.now < end + 3600.0 and any(
            map(_owes, world.nodes)
        ):  # an MTA that is too slow may need several rounds
            world.run(world.now + 60.0)
    except AssertionError as error:
        history.wrong.append(str(error))
    judge(history)
    return history


def _owes(node: SimNode) -> bool:
    return bool(node.disk.outbox) or any(map(incident.owed, node.disk.incidents.values()))


def _truth(troubles: list[Trouble]) -> Callable[[float, Test, SimNode], bool]:
    def fails(at: float, test: Test, node: SimNode) -> bool:
        return any(
            t.test == test and t.began <= at < t.ended and (not t.nodes or node.name in t.nodes)
            for t in troubles
        )

    return fails


def _cluster(world: World, least: int) -> list[Test]:
    """Make the nodes; return the tests."""
    chance = world.plan
    count = chance.choice((6, 7, 7, 8, 8, 9) if world.many else (least, 3, 3, 3, 4, 5))
    tests = [Test(f"host{number}", "ssh") for number in range(chance.choice((1, 1, 2, 3)))]
    mixed, in_step, skewed = chance.random() < 0.35, chance.random() < 0.4, chance.random() < 0.3
    addresses = ADDRESSES[: chance.choice((1, 1, 2))]
    for number in range(count):
        node = SimNode(
            name=f"node{number + 1}",
            node_id=f"{world.chance.getrandbits(48):012x}",
            site=f"node{number + 1}",
            interval=chance.choice((1, 1, 2, 5)) if mixed else 1,
            phase=0.0 if in_step else -1.0,
            tests=frozenset(tests),
            addresses=addresses,
            offset=chance.uniform(-1000.0, 1000.0) if skewed else 0.0,
            jitter=chance.choice((0.1, 1.0, 5.0)),
        )
        world.nodes.append(node)
    if chance.random() < 0.2:
        world.aliases["alias"] = chance.choice(world.nodes).name
    world.slow = chance.choice((0.0, 0.0, 0.5, 1.0))
    world.delay = chance.choice((0.01, 0.05, 0.5))
    _mta(world)
    return tests


def _mta(world: World) -> None:
    """Sendmail takes 0 to 30 s; over 15 it is ended."""
    world.slowest_mta = longest = world.plan.choice((0.5, 0.5, 2.0, 14.0, 30.0))
    world.mta = lambda node, address: (world.chance.uniform(0.0, longest), True)


def _calm(world: World) -> tuple[list[Trouble], float]:
    tests = _cluster(world, 2)
    chance = world.plan
    quickest, slowest = (
        sorted(node.interval for node in world.nodes)[0],
        max(node.interval for node in world.nodes),
    )
    troubles = []
    for test in tests:
        at = chance.uniform(60.0, 60.0 + 60.0 * slowest)
        for _ in range(chance.choice((1, 1, 2, 3))):
            length = chance.uniform(60.0 * quickest + 40.0, 60.0 * quickest + 200.0)
            troubles.append(Trouble(test, at, at + length))
            at += length + chance.uniform(60.0 * quickest + 40.0, 60.0 * quickest + 300.0)
    if chance.random() < 0.3:  # a test that one node alone sees failing, all the time
        test = Test("host9", "ssh")
        for node in world.nodes:
            node.tests = node.tests | {test}
        troubles.append(Trouble(test, 0.0, 200.0, frozenset({chance.choice(world.nodes).name})))
    return troubles, 2 * 60.0 * slowest + 180.0


def _rebooted(world: World) -> tuple[list[Trouble], float]:
    troubles, settle = _calm(world)
    for trouble in troubles:
        for _ in range(world.plan.choice((1, 1, 2))):
            world.at(
                world.plan.uniform(trouble.began, trouble.ended + 60.0), lambda: _reboot_all(world)
            )
    return troubles, settle


def _late(world: World) -> tuple[list[Trouble], float]:
    """No MTA takes anything, from before an incident until more than an hour after its end."""
    tests = _cluster(world, 2)
    for node in world.nodes:
        node.interval = 1
    until = 500.0 + world.plan.uniform(3000.0, 5000.0)
    world.slowest_mta = 2.0
    world.mta = lambda node, address: (world.chance.uniform(0.0, 2.0), world.now > until)
    return [
        Trouble(tests[0], 60.0, 60.0 + world.plan.uniform(100.0, 400.0)),
        Trouble(tests[0], until, until),
    ], 900.0


def _judge_late(history: History) -> None:
    """One mail for each address, that tells both."""
    history.troubles = history.troubles[:1]
    _judge_calm(history)


def _reboot_all(world: World) -> None:
    """Reboot all nodes at once, when none of them is in a round."""
    if any(node.running for node in world.nodes):
        world.after(0.7, lambda: _reboot_all(world))
        return
    for node in world.nodes:
        world.power_cut(node, 0.3)


def _lossy(world: World) -> tuple[list[Trouble], float]:
    """A real incident at some nodes, which the others do not see, and every tenth message gets lost."""
    tests = _cluster(world, 4)
    for node in world.nodes:
        node.interval = 1
    some = frozenset(node.name for node in world.nodes[: world.plan.choice((2, 3))])
    world.loss = 0.1
    return [Trouble(tests[0], 60.0, 60.0 + world.plan.uniform(300.0, 900.0), some)], 400.0


def _judge_lossy(history: History) -> None:
    """No recovery while it is down."""
    (trouble,) = history.troubles
    for mail in history.world.mails:
        for test, kind, _ in mail.told:
            if kind is Kind.RECOVERY and test == trouble.test and mail.at < trouble.ended:
                history.wrong.append(
                    f"recovery of {test} mailed at {mail.at:.0f}, while it is down"
                )


def _standing(world: World) -> tuple[list[Trouble], float]:
    """One-way cuts that were there before, and stay: nobody reaches the first node; it reaches nobody; a ring; one link."""
    tests = _cluster(world, 3)
    names = [node.name for node in world.nodes]
    for node in world.nodes:
        node.interval = 1
    world.topology = world.plan.choice(("unreached", "deaf", "ring", "one"))
    match world.topology:
        case "unreached":
            world.cut = {(other, names[0]) for other in names[1:]}
        case "deaf":
            world.cut = {(names[0], other) for other in names[1:]}
        case "ring":
            right = {name: names[(place + 1) % len(names)] for place, name in enumerate(names)}
            world.cut = {
                (one, other) for one in names for other in names if other not in (one, right[one])
            }
        case "one":
            world.cut = {tuple(world.plan.sample(names, 2))}
    began = world.plan.uniform(60.0, 120.0)
    return [Trouble(tests[0], began, began + world.plan.uniform(300.0, 500.0))], 600.0


def _judge_standing(history: History) -> None:
    """Nothing lost, and within the 280 s of promise 4; how many are doubled is counted."""
    world = history.world
    _judge_order(history)
    _judge_nothing_lost(history, nodes_last=True)
    for trouble in history.troubles:
        came = [
            m.at
            for m in history.world.mails
            for test, kind, _ in m.told
            if test == trouble.test and kind is Kind.ALERT
        ]
        if came and world.slowest_mta < 15.0 and min(came) - trouble.began > 280.0:
            history.wrong.append(f"alert of {trouble.test} {min(came) - trouble.began:.0f} s late")
    doubled = [key for key, count in _told(history).items() if count > 1]
    history.doubled = len(doubled)


def _told(history: History) -> Counter[tuple[Test, str, Kind]]:
    return Counter(
        (test, mail.address, kind) for mail in history.world.mails for test, kind, _ in mail.told
    )


def _judge_calm(history: History) -> None:
    """Exactly one alert and one recovery of each incident for each address, the alert first, and none for one node's view."""
    told = _told(history)
    real = Counter(trouble.test for trouble in history.troubles if not trouble.nodes)
    addresses = history.world.nodes[0].addresses
    wanted = Counter(
        {
            (test, address, kind): count
            for test, count in real.items()
            for address in addresses
            for kind in _KINDS
        }
    )
    for key in sorted(wanted.keys() | told.keys(), key=str):
        if told[key] != wanted[key]:
            history.wrong.append(
                f"{key[2].value} of {key[0]} to {key[1]}: {told[key]} times, and {wanted[key]} were right"
            )
    _judge_order(history)
    if history.wrong:
        return
    for trouble in history.troubles:
        if not trouble.nodes:
            later = [
                m.at
                for m in history.world.mails
                for test, kind, _ in m.told
                if test == trouble.test and kind is Kind.ALERT
            ]
            history.delays.append(min(at for at in later if at > trouble.began) - trouble.began)


_KINDS = (Kind.ALERT, Kind.RECOVERY)


def _judge_order(history: History) -> None:
    """No recovery before its alert; to one address whose mails were refused they may come in two mails that both say it is over."""
    alerted: set[str] = set()
    root = history.world.root
    for mail in history.world.mails:
        alerted |= {root(ids[0]) for _, kind, ids in mail.told if kind is Kind.ALERT}
        for test, kind, ids in mail.told:
            if kind is Kind.RECOVERY and root(ids[0]) not in alerted:
                history.wrong.append(f"recovery of {test} to {mail.address} before any alert")


# Rough.


def _rough(world: World) -> tuple[list[Trouble], float]:
    tests = _cluster(world, 3)
    chance = world.plan
    slowest = max(node.interval for node in world.nodes)
    troubles = []
    last = 0.0
    for test in tests:
        at = chance.uniform(30.0, 120.0)
        for _ in range(chance.choice((1, 1, 2))):
            length = chance.uniform(100.0, 500.0)
            few = (
                frozenset(chance.sample([node.name for node in world.nodes], 1))
                if chance.random() < 0.15
                else frozenset()
            )
            troubles.append(Trouble(test, at, at + length, few))
            at += length + chance.uniform(100.0, 400.0)
        last = max(last, troubles[-1].ended)
    for _ in range(chance.choice((1, 1, 2, 3))):
        chance.choice(_FAULTS)(world, last)
    if chance.random() < 0.2 and len(tests) > 1:
        chance.choice(world.nodes).tests = frozenset(tests[1:])
    if chance.random() < 0.15:
        chance.choice(world.nodes).addresses = ()
    # In the end all is well, long enough for whatever is owed.
    world.at(last, lambda: _heal(world))
    return troubles, 3 * 60.0 * slowest + 700.0


def _heal(world: World) -> None:
    world.loss = world.kill_at_save = 0.0
    for source, to in list(world.cut):
        world.link(source, to, True)
    for node in world.nodes:
        node.cron = True
        node.silences = ()


def _some_time(world: World, last: float) -> float:
    return world.plan.uniform(20.0, max(60.0, last - 30.0))


def _crash(world: World, last: float) -> None:
    node, at = world.plan.choice(world.nodes), _some_time(world, last)
    down = world.plan.uniform(5.0, 300.0)
    world.at(at, lambda: world.power_cut(node, min(down, max(5.0, last - at))))


def _kill(world: World, last: float) -> None:
    node = world.plan.choice(world.nodes)
    for _ in range(3):
        world.at(_some_time(world, last), lambda: world.kill_round(node))


def _kill_at_steps(world: World, last: float) -> None:
    world.kill_at_save = world.plan.choice((0.02, 0.1, 0.3))


def _one_way(world: World, last: float) -> None:
    source, to = world.plan.sample([node.name for node in world.nodes], 2)
    at = _some_time(world, last)
    world.at(at, lambda: world.link(source, to, False))
    if world.plan.random() < 0.7:
        world.at(at + world.plan.uniform(20.0, 300.0), lambda: world.link(source, to, True))


def _partition(world: World, last: float) -> None:
    names = [node.name for node in world.nodes]
    group = set(world.plan.sample(names, world.plan.randrange(1, len(names))))
    at, length = _some_time(world, last), world.plan.uniform(20.0, 400.0)

    def switch(up: bool) -> None:
        for one in names:
            for other in names:
                if (one in group) != (other in group):
                    world.link(one, other, up)

    world.at(at, lambda: switch(False))
    world.at(at + length, lambda: switch(True))


def _deaf_first(world: World, last: float) -> None:
    """Nobody reaches the first node; it reaches everybody. Or the other way round."""
    first, deaf = world.nodes[0].name, world.plan.random() < 0.5
    at = _some_time(world, last)
    for node in world.nodes[1:]:
        pair = (first, node.name) if deaf else (node.name, first)
        world.at(at, _linker(world, *pair, False))


def _linker(world: World, source: str, to: str, up: bool) -> Callable[[], None]:
    return lambda: world.link(source, to, up)


def _ring(world: World, last: float) -> None:
    """Each reaches only its right neighbour."""
    names = [node.name for node in world.nodes]
    at = _some_time(world, last)
    for place, name in enumerate(names):
        for other in names:
            if other not in (name, names[(place + 1) % len(names)]):
                world.at(at, _linker(world, name, other, False))


def _loss(world: World, last: float) -> None:
    world.loss = world.plan.choice((0.02, 0.1, 0.3))


def _refusals(world: World, last: float) -> None:
    """The MTAs of some nodes, or of all, refuse for a while; or that of one refuses one address for ever."""
    chance, before = world.plan, world.mta
    at, length = _some_time(world, last), chance.uniform(30.0, 400.0)
    some = set(
        chance.sample(
            [node.name for node in world.nodes], chance.randrange(1, len(world.nodes) + 1)
        )
    )

    def mta(node: SimNode, address: str) -> tuple[float, bool]:
        seconds, taken = before(node, address)
        return seconds, taken and not (node.name in some and at <= world.now < at + length)

    world.mta = mta


def _cron_stops(world: World, last: float) -> None:
    node = world.nodes[0] if world.plan.random() < 0.6 else world.plan.choice(world.nodes)

    def stop() -> None:
        node.cron = False
        world.faults += 1

    world.at(_some_time(world, last), stop)


def _silence(world: World, last: float) -> None:
    node, test = world.plan.choice(world.nodes), world.plan.choice(sorted(world.nodes[0].tests))
    at, length = world.plan.uniform(0.0, last), world.plan.uniform(30.0, 400.0)

    def say() -> None:
        node.silences = (Silence(test.host, "", at + length + node.offset),)

    world.at(at, say)


def _reboot_with_another_clock(world: World, last: float) -> None:
    node, at = world.plan.choice(world.nodes), _some_time(world, last)

    def jump() -> None:
        world.power_cut(node, world.plan.uniform(5.0, 60.0))
        node.offset += world.plan.uniform(0.0, 3600.0)

    world.at(at, jump)


_FAULTS = (
    *(
        _crash,
        _crash,
        _kill,
        _kill_at_steps,
        _one_way,
        _partition,
        _deaf_first,
        _ring,
        _loss,
        _refusals,
        _refusals,
    ),
    *(_cron_stops, _silence, _reboot_with_another_clock),
)


def _judge_rough(history: History) -> None:
    """No lone alert; nothing lost; at most 1 + c copies; a recovery for every alert, and never before one."""
    world, told = history.world, _told(history)
    real = Counter(trouble.test for trouble in history.troubles if not trouble.nodes)
    real.update(
        {test for test, _, _ in told if _is_node(test) and world.faults}
    )  # the incidents of nodes are made by faults alone
    for (test, address, kind), count in told.items():
        if not real[test]:
            history.wrong.append(f"a lone alert: {kind.value} of {test} to {address}")
        elif count > real[test] + world.faults:
            history.wrong.append(
                f"{kind.value} of {test} to {address}: {count} copies of {real[test]}, c = {world.faults}"
            )
    _judge_order(history)
    _judge_nothing_lost(history)


def _is_node(test: Test) -> bool:
    return test.host == names.NODE


def _judge_nothing_lost(history: History, *, nodes_last: bool = False) -> None:
    """Every incident that any node opened is told to every address, both ends; or it is void, or its like was told.

    With NODES_LAST those of nodes have no end, for what made them has none.
    """
    world = history.world
    told: set[tuple[str, str, Kind]] = {
        (world.root(known), mail.address, kind)
        for mail in world.mails
        for _, kind, ids in mail.told
        for known in ids
    }
    for address in {address for node in world.nodes for address in node.addresses}:
        for _, name, opened in world.opened:
            root = world.root(opened.ids[0])
            last = [
                node.disk.incidents[known]
                for node in world.nodes
                for known in opened.ids
                if known in node.disk.incidents
            ]
            if any(known.void and not known.alert for known in last):
                continue
            for kind in _KINDS[:1] if nodes_last and _is_node(opened.test) else _KINDS:
                if (root, address, kind) not in told:
                    history.wrong.append(
                        f"{kind.value} of {opened.test} {opened.ids} (opened by {name}) never reached {address}"
                    )
    for node in world.nodes:
        for known in node.disk.incidents.values():
            if known.is_open and (
                known.test in node.tests or (_is_node(known.test) and not nodes_last)
            ):
                history.wrong.append(f"{node.name} still has {known.test} open in the end")


def _flapping(world: World) -> tuple[list[Trouble], float]:
    """A test that changes every one or two minutes, more often than is told one by one; then it is steady."""
    tests = _cluster(world, 2)
    for node in world.nodes:
        node.interval = 1
    world.slow = 0.0
    _quick_mta(world)
    world.settings = {"flapping": True}
    troubles, at = [], 100.0
    for _ in range(world.plan.choice((6, 7, 8))):
        length = world.plan.uniform(85.0, 110.0)
        troubles.append(Trouble(tests[0], at, at + length))
        at += length + world.plan.uniform(85.0, 110.0)
    if world.plan.random() < 0.5:  # it ends down, for longer than it takes to be steady
        troubles.append(Trouble(tests[0], at, at + 1500.0))
    return troubles, 1300.0


def _quick_mta(world: World) -> None:
    world.mta = lambda node, address: (world.chance.uniform(0.0, 2.0), True)


def _judge_flapping(history: History) -> None:
    """One mail that it flaps and one that it is steady; few others; and every alert has its recovery in the end."""
    world, told = history.world, _told(history)
    flapping = Counter(
        (test, mail.address, kind) for mail in world.mails for test, kind in mail.flapping
    )
    test = history.troubles[0].test
    for address in world.nodes[0].addresses:
        for kind in _KINDS:
            if flapping[test, address, kind] != 1:
                history.wrong.append(
                    f"{flapping[test, address, kind]} mails of {kind.value} of flapping of {test} to {address}"
                )
        alerts, recoveries = told[test, address, Kind.ALERT], told[test, address, Kind.RECOVERY]
        if alerts != recoveries or not 3 <= alerts <= 5:
            history.wrong.append(
                f"{alerts} alerts and {recoveries} recoveries of {test} to {address}"
            )


def _reminded(world: World) -> tuple[list[Trouble], float]:
    """An incident that lasts, with reminders every ten minutes; and one whose test is taken away everywhere in the middle."""
    tests = _cluster(world, 2)
    for node in world.nodes:
        node.interval = 1
        node.tests = node.tests | {Test("gone", "ssh")}
    _quick_mta(world)
    world.settings = {"flapping": False, "remind": 600.0}
    began = world.plan.uniform(60.0, 120.0)

    def remove() -> None:
        for node in world.nodes:
            node.tests = node.tests - {Test("gone", "ssh")}

    world.at(began + 300.0, remove)
    return [
        Trouble(tests[0], began, began + 1400.0),
        Trouble(Test("gone", "ssh"), began, began + 1400.0),
    ], 400.0


def _judge_reminded(history: History) -> None:
    told = _told(history)
    lasting, gone = (trouble.test for trouble in history.troubles)
    for address in history.world.nodes[0].addresses:
        for test, wanted in ((lasting, (1, 2, 1)), (gone, (1, 0, 0))):
            counts = tuple(told[test, address, kind] for kind in Kind)
            if counts != wanted:
                history.wrong.append(
                    f"alerts, reminders, recoveries of {test} to {address}: {counts}, and {wanted} were right"
                )


# Blindness: what a node does not see, and what is not seen of it.


def _many(world: World) -> tuple[list[Trouble], float]:
    """As `rough`, with so many nodes that not all of them are asked."""
    world.many = True
    return _rough(world)


def _blind(world: World) -> tuple[list[Trouble], float]:
    """One node loses its power, its cron, its daemon, its network, or its view of all targets; or its site's only peer."""
    chance = world.plan
    _cluster(world, 3)
    _quick_mta(world)
    world.slow = 0.0
    world.topology = scene = chance.choice(
        ("power", "cron", "daemon", "isolated", "targets", "pair", "site")
    )
    if scene == "pair":
        del world.nodes[2:]
    if scene == "site":
        del world.nodes[3:]
    if world.aliases and next(iter(world.aliases.values())) not in [
        node.name for node in world.nodes
    ]:
        world.aliases.clear()
    tests = [Test(f"host{number}", "ssh") for number in range(6)]
    lost = world.lost = world.nodes[2] if scene == "site" else chance.choice(world.nodes)
    shares = scene == "site" or (scene != "pair" and chance.random() < 0.3)
    for place, node in enumerate(world.nodes):
        node.interval, node.tests = 1, frozenset(tests)
        node.site = "here" if shares and place < 2 else node.name
    world.gone = at, until = chance.uniform(100.0, 160.0), chance.uniform(800.0, 1100.0)
    others = [node for node in world.nodes if node is not lost]
    everything = [Trouble(test, at, until, frozenset({lost.name})) for test in tests]
    match scene:
        case "power" | "pair" | "site":
            world.at(at, lambda: world.power_cut(lost, until - at))
        case "cron" | "daemon":
            world.at(at, lambda: setattr(lost, scene, False))
            world.at(until, lambda: setattr(lost, scene, True))
        case "isolated":
            for node in others:
                for pair in ((lost.name, node.name), (node.name, lost.name)):
                    world.at(at, _linker(world, *pair, False))
                    world.at(until, _linker(world, *pair, True))
    if scene in ("isolated", "targets"):
        return everything, 400.0
    began = at + chance.uniform(60.0, 300.0)
    return [
        Trouble(tests[0], began, chance.choice((until - 100.0, until + 200.0))),
        Trouble(tests[0], until, until),
    ], 400.0


def _brief(world: World) -> tuple[list[Trouble], float]:
    """A node is off for less time than makes its checker stale, but its cron comes back later than its daemon."""
    _cluster(world, 3)
    _quick_mta(world)
    world.slow = 0.0
    world.aliases.clear()
    for node in world.nodes:
        node.interval = 1
    world.lost = world.plan.choice(world.nodes)
    at, length = world.plan.uniform(100.0, 160.0), world.plan.uniform(120.0, 240.0)
    world.at(at, lambda: world.power_cut(world.lost, length))
    world.at(at, lambda: setattr(world.lost, "cron", False))
    world.at(at + length + 150.0, lambda: setattr(world.lost, "cron", True))
    return [Trouble(Test("host0", "ssh"), at, at)], 900.0


def _judge_brief(history: History) -> None:
    """It is told, to begin and to end, and nothing else is; how many are doubled is counted."""
    told = _told(history)
    for address in history.world.nodes[0].addresses:
        for kind in _KINDS:
            if (
                not 1
                <= told.pop((Test(names.NODE, history.world.lost.name), address, kind), 0)
                <= 2
            ):
                history.wrong.append(
                    f"{kind.value} of {history.world.lost.name} to {address}: none, or more than 1 + c"
                )
    history.wrong += [f"a lone alert: {key}" for key in told]
    history.doubled = len(history.world.mails) > 2 * len(history.world.nodes[0].addresses)


def _judge_blind(history: History) -> None:
    """One mail that the node is gone, and one that it is back, where two sites are left to see it; no other that is not true.

    What fails while a node goes may be told twice, once for each fault more (promise 3).
    """
    world, lost, told = history.world, history.world.lost, _told(history)
    others = [node for node in world.nodes if node is not lost]
    left = {node.site for node in others}
    wanted: Counter[tuple[Test, str, Kind]] = Counter()
    lines = [lost.name, *(alias for alias, name in world.aliases.items() if name == lost.name)]
    for address in others[0].addresses:
        for kind in _KINDS:
            if len(left) >= 2 and world.topology != "targets":
                wanted.update((Test(names.NODE, line), address, kind) for line in lines)
            real = history.troubles[0]
            if world.topology not in ("isolated", "targets") and (
                len(left) >= 2 or world.topology in ("cron", "daemon") or real.ended > world.gone[1]
            ):
                wanted.update([(real.test, address, kind)])
    for key in sorted(wanted.keys() | told.keys(), key=str):
        most = wanted[key] + (wanted[key] > 0 and not _is_node(key[0]))
        if not wanted[key] <= told[key] <= most:
            history.wrong.append(
                f"{key[2].value} of {key[0]} to {key[1]}: {told[key]} times, and {wanted[key]} were right"
            )
    at = world.gone[0]
    for key in wanted:
        came = min(
            (
                mail.at
                for mail in world.mails
                for test, kind, _ in mail.told
                if (test, kind) == (key[0], key[2])
            ),
            default=at,
        )
        # Whose second line in nodes.txt that is, its peers cannot know: it may keep its rank for a while.
        limit = (420.0 if world.topology == "cron" else 125.0) + (
            120.0 if key[0].name == "alias" else 0.0
        )
        if key[0].host == names.NODE and key[2] is Kind.ALERT and came - at > limit:
            history.wrong.append(f"alert of {key[0]} {came - at:.0f} s late")
    _judge_complaints(history, others, left)


def _judge_complaints(history: History, others: list[SimNode], left: set[str]) -> None:
    """Who is blind says so once within the hour, and has said when it was over; nobody else complains."""
    world, lost = history.world, history.world.lost
    heard = {
        node.name: [text for _, name, text in world.complaints if name == node.name]
        for node in world.nodes
    }
    words = {node.name: [] for node in world.nodes}
    if world.topology in ("isolated", "targets"):
        words[lost.name] = [
            "no peer answers" if world.topology == "isolated" else "most tests fail here"
        ]
    if len(left) < 2 and world.topology in ("power", "pair", "site", "isolated"):
        for node in others:
            words[node.name] = ["no peer answers" if world.topology == "pair" else "quorum = 2"]
    if len(left) < 2 and world.topology == "daemon":
        for node in others:
            words[node.name] = ["quorum = 2"]
    for name, texts in heard.items():
        if len(texts) != len(words[name]) or not all(
            word in text for word, text in zip(words[name], texts, strict=True)
        ):
            history.wrong.append(f"{name} complained of {texts}, and {words[name]} was right")
    for node in world.nodes:
        if any(known.ended is None for known in node.disk.node_memory.troubles):
            history.wrong.append(
                f"{node.name} is still troubled in the end: {node.disk.node_memory.troubles}"
            )


KINDS = {
    "calm": (_calm, _judge_calm),
    "rebooted": (_rebooted, _judge_calm),
    "rough": (_rough, _judge_rough),
    "many": (_many, _judge_rough),
    "lossy": (_lossy, _judge_lossy),
    "standing": (_standing, _judge_standing),
    "flapping": (_flapping, _judge_flapping),
    "reminded": (_reminded, _judge_reminded),
    "blind": (_blind, _judge_blind),
    "brief": (_brief, _judge_brief),
    "late": (_late, _judge_late),
}
