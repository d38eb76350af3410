"""How histories are set up: for each kind the nodes, what fails, and what happens to nodes and links.

Each setup returns the failures, and the seconds that the cluster gets after the last one.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping

from dmonitor.config.silences import SilenceFile, Term
from dmonitor.core.hours import Hours
from dmonitor.core.model import Rhythm, Silence, Test

from .history import Failure
from .node import SimNode
from .world import World

Setup = tuple[list[Failure], float]

ADDRESSES = ("a@example.com", "b@example.com")


def _cluster(world: World, least: int) -> list[Test]:
    """Make the nodes; return the tests."""
    chance = world.plan
    counts = (6, 7, 7, 8, 8, 9) if world.many else (least, 3, 3, 3, 4, 5)
    count = chance.choice(counts)
    tests = [Test(f"host{number}", "ssh") for number in range(chance.choice((1, 1, 2, 3)))]
    is_mixed = chance.random() < 0.35
    is_in_step = chance.random() < 0.4
    is_skewed = chance.random() < 0.3
    addresses = ADDRESSES[: chance.choice((1, 1, 2))]
    for number in range(count):
        node = SimNode(
            name=f"node{number + 1}",
            node_id=f"{world.chance.getrandbits(48):012x}",
            site=f"node{number + 1}",
            interval=chance.choice((1, 1, 2, 5)) if is_mixed else 1,
            phase=0.0 if is_in_step else -1.0,
            tests=frozenset(tests),
            addresses=addresses,
            offset=chance.uniform(-1000.0, 1000.0) if is_skewed else 0.0,
            jitter=chance.choice((0.1, 1.0, 5.0)),
        )
        world.nodes.append(node)
    if chance.random() < 0.2:
        world.aliases["alias"] = chance.choice(world.nodes).name
    world.slow = chance.choice((0.0, 0.0, 0.5, 1.0))
    world.delay = chance.choice((0.01, 0.05, 0.5))
    choose_places(world)
    _choose_mta(world)
    return tests


def choose_places(world: World) -> None:
    """Let the rounds be spread, in most histories, or begin with their crons."""
    chance = world.plan
    world.places = chance.choice(("spread",) * 6 + ("fresh", "in step"))
    if chance.random() < 0.1:
        chance.choice(world.nodes).fixed_place = chance.uniform(0.0, 59.0)


def _choose_mta(world: World) -> None:
    """Let sendmail take 0 to 30 s; over 15 it is ended."""
    longest = world.plan.choice((0.5, 0.5, 2.0, 14.0, 30.0))
    world.slowest_mta = longest
    world.mta = lambda node, address: (world.chance.uniform(0.0, longest), True)


def _quick_mta(world: World) -> None:
    world.mta = lambda node, address: (world.chance.uniform(0.0, 2.0), True)


def _every_minute(world: World) -> None:
    for node in world.nodes:
        node.interval = 1


def _add_test(world: World, test: Test) -> None:
    for node in world.nodes:
        node.tests = node.tests | {test}


# No fault, or one that all nodes share.


def calm(world: World) -> Setup:
    """No fault inside an incident."""
    tests = _cluster(world, 2)
    chance = world.plan
    quickest = min(node.interval for node in world.nodes)
    slowest = max(node.interval for node in world.nodes)
    failures = []
    for test in tests:
        at = chance.uniform(60.0, 60.0 + 60.0 * slowest)
        for _ in range(chance.choice((1, 1, 2, 3))):
            length = chance.uniform(60.0 * quickest + 40.0, 60.0 * quickest + 200.0)
            failures.append(Failure(test, at, at + length))
            at += length + chance.uniform(60.0 * quickest + 40.0, 60.0 * quickest + 300.0)
    if chance.random() < 0.3:  # a test that one node alone sees failing, all the time
        test = Test("host9", "ssh")
        _add_test(world, test)
        failures.append(Failure(test, 0.0, 200.0, frozenset({chance.choice(world.nodes).name})))
    return failures, 2 * 60.0 * slowest + 180.0


def prompt(world: World) -> Setup:
    """Refused ports, as the package's defaults see them: crons in step, and quick programs."""
    chance = world.plan
    tests = [Test(f"host{number}", "ssh") for number in range(chance.choice((1, 2, 3)))]
    for number in range(1, chance.choice((3, 3, 5, 10)) + 1):
        name = f"node{number}"
        node_id = f"{world.chance.getrandbits(48):012x}"
        node = SimNode(name, node_id, name, 1, 0.0, frozenset(tests), ADDRESSES[:1])
        world.nodes.append(node)
    world.mta = lambda node, address: (world.chance.uniform(0.0, 0.5), True)
    failures = []
    for test in tests:
        at = 60.0
        for _ in range(3):
            at += chance.uniform(100.0, 400.0)
            failures.append(Failure(test, at, at + chance.uniform(100.0, 300.0)))
            at = failures[-1].ended
    return failures, 300.0


def struck(world: World) -> Setup:
    """As `prompt`, and the node that would speak loses its power about when a failure begins."""
    failures, settle = prompt(world)
    chance = world.plan
    at = chance.uniform(100.0, 300.0)
    failure = Failure(failures[0].test, at, at + 600.0)
    off = at + chance.uniform(-60.0, 30.0)
    world.at(off, lambda: world.power_cut(world.nodes[0], 900.0))
    return [failure, Failure(failure.test, off + 900.0, off + 900.0)], settle + 300.0


def mixed(world: World) -> Setup:
    """As `calm`, while some of the nodes have dmonitor 0.2, and others have not."""
    failures, settle = calm(world)
    nodes = world.nodes
    for node in world.plan.sample(nodes, world.plan.randrange(1, len(nodes))):
        node.is_old = True
    return failures, settle


def rebooted(world: World) -> Setup:
    """As `calm`, and all nodes reboot at once between two rounds."""
    failures, settle = calm(world)
    for failure in failures:
        for _ in range(world.plan.choice((1, 1, 2))):
            at = world.plan.uniform(failure.began, failure.ended + 60.0)
            world.at(at, lambda: reboot_all(world))
    return failures, settle


def reboot_all(world: World) -> None:
    """Reboot all nodes at once, as soon as none of them is in a round, or misses one by it.

    Nor may a mail be on its way: after a reboot nobody knows what became of it.
    """
    is_busy = any(
        node.running or node.waiting or node.disk.node_memory.handing for node in world.nodes
    )
    if is_busy or any(node.next_cron - world.now < 0.5 for node in world.nodes):
        world.after(0.7, lambda: reboot_all(world))
        return
    for node in world.nodes:
        world.power_cut(node, 0.3)


def late(world: World) -> Setup:
    """No MTA takes anything, from before an incident until more than an hour after its end."""
    tests = _cluster(world, 2)
    _every_minute(world)
    until = 500.0 + world.plan.uniform(3000.0, 5000.0)
    world.slowest_mta = 2.0
    world.mta = lambda node, address: (world.chance.uniform(0.0, 2.0), world.now > until)
    return [
        Failure(tests[0], 60.0, 60.0 + world.plan.uniform(100.0, 400.0)),
        Failure(tests[0], until, until),
    ], 900.0


def lossy(world: World) -> Setup:
    """A real incident at some nodes, which the others do not see, and every tenth message is lost."""
    tests = _cluster(world, 4)
    _every_minute(world)
    seeing = world.nodes[: world.plan.choice((2, 3))]
    names = frozenset(node.name for node in seeing)
    world.loss = 0.1
    return [Failure(tests[0], 60.0, 60.0 + world.plan.uniform(300.0, 900.0), names)], 400.0


def standing(world: World) -> Setup:
    """One-way cuts that were there before, and stay.

    Nobody reaches the first node; or it reaches nobody; or each reaches only one; or one link is cut.
    """
    tests = _cluster(world, 3)
    _every_minute(world)
    names = [node.name for node in world.nodes]
    first, others = names[0], names[1:]
    world.topology = world.plan.choice(("unreached", "deaf", "ring", "one"))
    match world.topology:
        case "unreached":
            world.cut = {(other, first) for other in others}
        case "deaf":
            world.cut = {(first, other) for other in others}
        case "ring":
            world.cut = set(_ring_cuts(names))
        case "one":
            source, to = world.plan.sample(names, 2)
            world.cut = {(source, to)}
    began = world.plan.uniform(60.0, 120.0)
    return [Failure(tests[0], began, began + world.plan.uniform(300.0, 500.0))], 600.0


def _ring_cuts(names: list[str]) -> list[tuple[str, str]]:
    """Return the links to cut so that each node reaches only its right neighbour."""
    cuts = []
    for index, name in enumerate(names):
        right = names[(index + 1) % len(names)]
        for other in names:
            if other not in (name, right):
                cuts.append((name, other))
    return cuts


def seldom(world: World) -> Setup:
    """Tests with EVERY, and failures that last until it was a node's turn; half the time with faults."""
    chance = world.plan
    tests = _cluster(world, 2)
    _quick_mta(world)
    world.slowest_mta = 2.0
    world.confirm = chance.choice((1, 1, 1, 2))
    slowest = max(node.interval for node in world.nodes)
    every = chance.choice((900.0, 1800.0, 3600.0))
    retry = chance.choice((0.0, 0.0, 0.0, 180.0, 300.0))
    last = 0.0
    failures = []
    for test in tests:
        world.rhythms[test] = Rhythm(every, retry)
        at = chance.uniform(30.0, every)
        for _ in range(chance.choice((1, 1, 2))):
            noticed = every + 2 * 60.0 * slowest * world.confirm + retry
            length = noticed + chance.uniform(100.0, 400.0)
            failures.append(Failure(test, at, at + length))
            at += length + retry + 60.0 * slowest + chance.uniform(100.0, 1.5 * every)
        last = max(last, failures[-1].ended)
    if chance.random() < 0.5:
        for _ in range(chance.choice((1, 2))):
            chance.choice(_FAULTS)(world, last)
        world.at(last, lambda: _heal(world))
    elif chance.random() < 0.3:  # a test that one node alone sees failing
        test = Test("host9", "cert")
        _add_test(world, test)
        world.rhythms[test] = Rhythm(every, retry)
        lonely = frozenset({chance.choice(world.nodes).name})
        failures.append(Failure(test, 100.0, 100.0 + every, lonely))
    return failures, every + 3 * 60.0 * slowest + retry + 700.0


def flapping(world: World) -> Setup:
    """A test that changes more often than is told one by one; then it is steady."""
    tests = _cluster(world, 2)
    _every_minute(world)
    world.slow = 0.0
    _quick_mta(world)
    world.settings = {"flapping": True}
    failures, at = [], 100.0
    for _ in range(world.plan.choice((6, 7, 8))):
        length = world.plan.uniform(85.0, 110.0)
        failures.append(Failure(tests[0], at, at + length))
        at += length + world.plan.uniform(85.0, 110.0)
    if world.plan.random() < 0.5:  # it ends down, for longer than it takes to be steady
        failures.append(Failure(tests[0], at, at + 1500.0))
    return failures, 1300.0


def reminded(world: World) -> Setup:
    """An incident that lasts, with reminders; and one whose test is removed in the middle."""
    tests = _cluster(world, 2)
    _every_minute(world)
    removed = Test("gone", "ssh")
    _add_test(world, removed)
    _quick_mta(world)
    world.settings = {"flapping": False, "remind": 600.0}
    began = world.plan.uniform(60.0, 120.0)

    def remove() -> None:
        for node in world.nodes:
            node.tests = node.tests - {removed}

    world.at(began + 300.0, remove)
    return [
        Failure(tests[0], began, began + 1400.0),
        Failure(removed, began, began + 1400.0),
    ], 400.0


def quiet(world: World) -> Setup:
    """Operators silence and acknowledge: until a time, in hours, and until the test is up.

    Of each test one node has the file, and may lose its power after the others have heard of it.
    """
    chance = world.plan
    _cluster(world, 3)
    _every_minute(world)
    _quick_mta(world)
    world.slow = 0.0
    world.aliases.clear()
    world.settings = {"flapping": False, "remind": 600.0}
    tests = [Test(name, "ssh") for name in ("until", "every", "inside", "up", "after")]
    for node in world.nodes:
        node.tests = frozenset(tests)
    # Whole minutes, because hours have no others.
    at = 60.0 * chance.randint(6, 9)
    end = at + 60.0 * chance.randint(12, 18)
    world.quiet_until = end
    writer = chance.choice(world.nodes)
    hours = Hours(_minute_of_day(at), _minute_of_day(end), tuple(range(7)))
    terms = {"until": Term(end), "every": Term(hours=hours), "inside": Term(end)}
    world.at(0.0, lambda: _write(writer, 0.0, terms))
    began = at + chance.uniform(10.0, 100.0)
    acknowledged = began + chance.uniform(300.0, 500.0)
    world.acknowledged = acknowledged
    up = {"up": Term(), "after": Term()}
    world.at(acknowledged, lambda: _write(writer, acknowledged, up))
    if chance.random() < 0.5:
        off = chance.uniform(acknowledged + 130.0, end)
        world.at(off, lambda: world.power_cut(writer, end + 2000.0 - off))
    later = acknowledged + chance.uniform(1.0, 30.0)
    return [
        Failure(tests[0], began, end + 400.0),
        Failure(tests[1], began, end + 400.0),
        Failure(tests[2], began, end - 150.0),
        Failure(tests[3], began, began + 1500.0),
        Failure(tests[4], later, later + 800.0),
    ], 400.0


def _minute_of_day(at: float) -> int:
    """Return the minute of the day at a time of the world, in this machine's zone."""
    moment = datetime.datetime.fromtimestamp(at)
    return 60 * moment.hour + moment.minute


def _write(node: SimNode, at: float, terms: Mapping[str, Term]) -> None:
    """Let the operator of `node` write a file of one line for each of these hosts."""
    files = [
        SilenceFile("", host, "", written=at, is_empty=False, terms=(term,))
        for host, term in terms.items()
    ]
    node.files = (*node.files, *files)


# Faults of all sorts.


def rough(world: World) -> Setup:
    """Faults of nodes and links inside incidents; in the end all is well, for long enough."""
    tests = _cluster(world, 3)
    chance = world.plan
    slowest = max(node.interval for node in world.nodes)
    failures = []
    last = 0.0
    for test in tests:
        at = chance.uniform(30.0, 120.0)
        for _ in range(chance.choice((1, 1, 2))):
            length = chance.uniform(100.0, 500.0)
            seeing: frozenset[str] = frozenset()
            if chance.random() < 0.15:
                seeing = frozenset(chance.sample([node.name for node in world.nodes], 1))
            failures.append(Failure(test, at, at + length, seeing))
            at += length + chance.uniform(100.0, 400.0)
        last = max(last, failures[-1].ended)
    for _ in range(chance.choice((1, 1, 2, 3))):
        fault = chance.choice(_FAULTS)
        fault(world, last)
    if chance.random() < 0.15:
        chance.choice(world.nodes).is_old = True
    if chance.random() < 0.2 and len(tests) > 1:
        chance.choice(world.nodes).tests = frozenset(tests[1:])
    if chance.random() < 0.15:
        chance.choice(world.nodes).addresses = ()
    world.at(last, lambda: _heal(world))
    return failures, 3 * 60.0 * slowest + 700.0


def many(world: World) -> Setup:
    """As `rough`, with more nodes."""
    world.many = True
    return rough(world)


def _heal(world: World) -> None:
    world.loss = world.kill_at_save = 0.0
    for source, to in sorted(world.cut):
        world.link(source, to, True)
    for node in world.nodes:
        node.cron = True
        node.silences = ()


def _random_time(world: World, last: float) -> float:
    """Return a time before the last failure ends."""
    return world.plan.uniform(20.0, max(60.0, last - 30.0))


def _crash(world: World, last: float) -> None:
    node, at = world.plan.choice(world.nodes), _random_time(world, last)
    down = world.plan.uniform(5.0, 300.0)
    world.at(at, lambda: world.power_cut(node, min(down, max(5.0, last - at))))


def _kill(world: World, last: float) -> None:
    node = world.plan.choice(world.nodes)
    for _ in range(3):
        world.at(_random_time(world, last), lambda: world.kill_round(node))


def _kill_at_steps(world: World, last: float) -> None:
    world.kill_at_save = world.plan.choice((0.02, 0.1, 0.3))


def _one_way(world: World, last: float) -> None:
    source, to = world.plan.sample([node.name for node in world.nodes], 2)
    at = _random_time(world, last)
    world.at(at, _linker(world, source, to, False))
    if world.plan.random() < 0.7:
        world.at(at + world.plan.uniform(20.0, 300.0), _linker(world, source, to, True))


def _partition(world: World, last: float) -> None:
    """Cut the nodes into two groups for a while."""
    names = [node.name for node in world.nodes]
    group = set(world.plan.sample(names, world.plan.randrange(1, len(names))))
    at, length = _random_time(world, last), world.plan.uniform(20.0, 400.0)

    def switch(up: bool) -> None:
        for one in names:
            for other in names:
                if (one in group) != (other in group):
                    world.link(one, other, up)

    world.at(at, lambda: switch(False))
    world.at(at + length, lambda: switch(True))


def _deaf_first(world: World, last: float) -> None:
    """Let nobody reach the first node, which reaches everybody; or the other way round."""
    first, is_deaf = world.nodes[0].name, world.plan.random() < 0.5
    at = _random_time(world, last)
    for node in world.nodes[1:]:
        source, to = node.name, first
        if is_deaf:
            source, to = first, node.name
        world.at(at, _linker(world, source, to, False))


def _linker(world: World, source: str, to: str, up: bool) -> Callable[[], None]:
    return lambda: world.link(source, to, up)


def _ring(world: World, last: float) -> None:
    """Let each node reach only its right neighbour."""
    at = _random_time(world, last)
    for source, to in _ring_cuts([node.name for node in world.nodes]):
        world.at(at, _linker(world, source, to, False))


def _loss(world: World, last: float) -> None:
    world.loss = world.plan.choice((0.02, 0.1, 0.3))


def _refusals(world: World, last: float) -> None:
    """Let the MTAs of some nodes, or of all, refuse for a while."""
    chance = world.plan
    at, length = _random_time(world, last), chance.uniform(30.0, 400.0)
    count = chance.randrange(1, len(world.nodes) + 1)
    refusing = set(chance.sample([node.name for node in world.nodes], count))

    others = world.refuses

    def refuses(node: SimNode, address: str) -> bool:
        if node.name in refusing and at <= world.now < at + length:
            return True
        return others(node, address)

    world.refuses = refuses


def _cron_stops(world: World, last: float) -> None:
    node = world.nodes[0]
    if world.plan.random() >= 0.6:
        node = world.plan.choice(world.nodes)

    def stop() -> None:
        node.cron = False
        world.faults += 1

    world.at(_random_time(world, last), stop)


def _silence(world: World, last: float) -> None:
    node, test = world.plan.choice(world.nodes), world.plan.choice(sorted(world.nodes[0].tests))
    at, length = world.plan.uniform(0.0, last), world.plan.uniform(30.0, 400.0)
    world.unowed.add(test)

    def silence() -> None:
        node.silences = (Silence(test.host, "", at + length + node.offset),)

    world.at(at, silence)


def _reboot_with_another_clock(world: World, last: float) -> None:
    node, at = world.plan.choice(world.nodes), _random_time(world, last)

    def jump() -> None:
        world.power_cut(node, world.plan.uniform(5.0, 60.0))
        node.offset += world.plan.uniform(0.0, 3600.0)

    world.at(at, jump)


_FAULTS = (
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
    _cron_stops,
    _silence,
    _reboot_with_another_clock,
)


# Blindness: what a node does not see, and what is not seen of it.


def blind(world: World) -> Setup:
    """One node is gone, or sees nothing.

    It loses its power, its cron, its daemon, its network, or its view of all targets. In `pair` it is
    one of two nodes, in `site` one of two sites.
    """
    chance = world.plan
    _cluster(world, 3)
    _quick_mta(world)
    world.slow = 0.0
    scenes = ("power", "cron", "daemon", "isolated", "targets", "pair", "site")
    world.topology = scene = chance.choice(scenes)
    _keep_nodes_of_scene(world)
    tests = [Test(f"host{number}", "ssh") for number in range(6)]
    lost = world.nodes[2] if scene == "site" else chance.choice(world.nodes)
    world.settings["troubles"] = "root"
    world.lost = lost
    shares_site = scene == "site" or (scene != "pair" and chance.random() < 0.3)
    for number, node in enumerate(world.nodes):
        node.interval, node.tests = 1, frozenset(tests)
        node.site = "here" if shares_site and number < 2 else node.name
    # A dead cron is known after seven minutes, and complained of four minutes later.
    at, until = chance.uniform(100.0, 160.0), chance.uniform(920.0, 1220.0)
    world.gone = at, until
    _lose_node(world)
    if scene in ("isolated", "targets"):
        seeing = frozenset({lost.name})
        return [Failure(test, at, until, seeing) for test in tests], 400.0
    began = at + chance.uniform(60.0, 300.0)
    return [
        Failure(tests[0], began, chance.choice((until - 100.0, until + 200.0))),
        Failure(tests[0], until, until),
    ], 400.0


def _keep_nodes_of_scene(world: World) -> None:
    """Keep as many nodes as the scene has, and no alias of a node that is dropped."""
    if world.topology == "pair":
        del world.nodes[2:]
    if world.topology == "site":
        del world.nodes[3:]
    names = {node.name for node in world.nodes}
    if not names.issuperset(world.aliases.values()):
        world.aliases.clear()


def _lose_node(world: World) -> None:
    """Let what the scene is about happen to the lost node."""
    lost, scene = world.lost, world.topology
    at, until = world.gone
    match scene:
        case "power" | "pair" | "site":
            world.at(at, lambda: world.power_cut(lost, until - at))
        case "cron" | "daemon":
            world.at(at, lambda: setattr(lost, scene, False))
            world.at(until, lambda: setattr(lost, scene, True))
        case "isolated":
            for node in world.nodes:
                if node is lost:
                    continue
                for source, to in ((lost.name, node.name), (node.name, lost.name)):
                    world.at(at, _linker(world, source, to, False))
                    world.at(until, _linker(world, source, to, True))


def brief(world: World) -> Setup:
    """A node is off for a few minutes, or only its services; its cron is back after its daemon."""
    _cluster(world, 3)
    _quick_mta(world)
    world.slow = 0.0
    world.aliases.clear()
    _every_minute(world)
    lost = world.plan.choice(world.nodes)
    world.lost = lost
    at, length = world.plan.uniform(100.0, 160.0), world.plan.uniform(120.0, 240.0)
    if world.plan.random() < 0.5:
        world.at(at, lambda: world.power_cut(lost, length))
    else:  # its services are stopped
        world.at(at, lambda: _switch_daemon(world, lost, False))
        world.at(at + length, lambda: _switch_daemon(world, lost, True))
    world.at(at, lambda: setattr(lost, "cron", False))
    world.at(at + length + 270.0, lambda: setattr(lost, "cron", True))
    return [Failure(Test("host0", "ssh"), at, at)], 900.0


def _switch_daemon(world: World, node: SimNode, on: bool) -> None:
    world.faults += 1
    node.daemon = on
