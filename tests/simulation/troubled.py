"""Nodes that are in trouble, and what those in alert.d are told of it (rule R7).

A node is cut off, once or again and again; or it cannot tell how anything is, and its mail system
refuses or its disk is full, so that another node has to tell it. Rounds are killed, and machines lose their power.
"""

from __future__ import annotations

from collections import defaultdict

from dmonitor.core import complaints
from dmonitor.core.model import Test, TroubleName

from .history import Failure, History
from .node import SimNode
from .setups import ADDRESSES
from .virtual_round import ToldNews
from .world import World

UNTESTABLE = TroubleName("untestable")
TEST = Test("host0", "ssh")
# Seconds until it is told that a trouble is there, or over: two rounds of a minute, killed or not,
# and a mail system that takes its time. A trouble that a peer tells is stated a round later.
FOUND_LIMIT = 200.0
KILLED_LIMIT = 400.0
_HOUR = 3600.0
_OVER_AFTER = 300.0  # what is over is so for that long when it is told
_KINDS = 3  # of troubles that one mail tells here

Setup = tuple[list[Failure], float]


def setup(world: World) -> Setup:
    """Choose who is in trouble, from when to when, and what goes wrong meanwhile."""
    chance = world.plan
    addresses = ADDRESSES[: chance.choice((1, 2))]
    for number in range(chance.choice((3, 3, 4))):
        name = f"node{number + 1}"
        node = SimNode(
            name=name,
            node_id=f"{world.chance.getrandbits(48):012x}",
            site=name,
            interval=1,
            phase=-1.0,
            tests=frozenset([TEST]),
            addresses=addresses,
            offset=chance.choice((0.0, chance.uniform(-1000.0, 1000.0))),
        )
        world.nodes.append(node)
    world.mta = lambda node, address: (world.chance.uniform(0.1, 20.0), True)
    world.lost = chance.choice(world.nodes)
    world.topology = scene = chance.choice(("cut", "cut", "refused", "full"))
    at = chance.uniform(200.0, 300.0)
    for begins, ends in _spans(world, at):
        world.troubled.append((begins, ends))
        world.at(begins, lambda: _begin(world, scene))
        world.at(ends, lambda: _end(world, scene))
    last = world.troubled[-1][1]
    if chance.random() < 0.5:
        world.kill_at_save = 0.01
        world.at(last + 600.0, lambda: setattr(world, "kill_at_save", 0.0))
    if chance.random() < 0.3:
        struck = chance.choice(world.nodes)
        world.at(chance.uniform(at, last), lambda: world.power_cut(struck, 90.0))
    return [Failure(TEST, last, last)], 3.0 * _HOUR


def _spans(world: World, at: float) -> list[tuple[float, float]]:
    """Return from when to when there is trouble: once, or several times with a little between."""
    chance = world.plan
    if world.topology != "cut" or chance.random() < 0.4:
        return [(at, at + chance.uniform(1500.0, 4500.0))]
    spans = []
    for _ in range(chance.choice((2, 3, 8))):
        until = at + chance.uniform(100.0, 900.0)
        spans.append((at, until))
        at = until + chance.uniform(100.0, 1500.0)
    return spans


def _begin(world: World, scene: str) -> None:
    lost = world.lost
    if scene == "cut":
        _link(world, up=False)
        return
    world.unable.add(lost.name)
    if scene == "full":
        world.full.add(lost.name)
    else:
        world.refuses = lambda node, address: node is lost


def _end(world: World, scene: str) -> None:
    if scene == "cut":
        _link(world, up=True)
        return
    world.unable.clear()
    world.full.clear()
    world.refuses = lambda node, address: False


def _link(world: World, *, up: bool) -> None:
    lost = world.lost.name
    for node in world.nodes:
        if node is not world.lost:
            world.link(lost, node.name, up)
            world.link(node.name, lost, up)


def judge(history: History) -> None:
    """Each trouble that lasts is told, and that it is over; once each, except after a fault."""
    for address in history.world.nodes[0].addresses:
        told = [each for each in history.world.trouble_mails if each.address == address]
        in_turn(history, told)
        _few(history, told)
        _believed(history, told)
    _printed(history)


def in_turn(history: History, told: list[ToldNews]) -> None:
    """No node tells twice in a row that a trouble is there, or is over.

    A power cut ends the sendmails that are under way, and nobody knows what became of them. A round
    that is killed leaves them alone.
    """
    last: dict[tuple[str, TroubleName], bool] = {}
    doubled = 0
    for each in told:
        key = each.node, each.trouble
        if last.get(key, True) is each.is_over:
            doubled += 1
        last[key] = each.is_over
    if doubled > _KINDS * history.world.cuts:
        history.wrong.append(f"{doubled} troubles told twice in a row: {told}")


def _few(history: History, told: list[ToldNews]) -> None:
    """What flaps is told four times in an hour at the most: there, over, there, and one more."""
    times: dict[tuple[str, TroubleName], list[float]] = defaultdict(list)
    for each in told:
        times[each.node, each.trouble].append(each.at)
    spare = 2 * history.world.cuts
    for key, moments in times.items():
        for first, fifth in zip(moments, moments[4 + spare :], strict=False):
            if fifth - first < _HOUR:
                history.wrong.append(f"{key} told {5 + spare} times within an hour")
                return


def _believed(history: History, told: list[ToldNews]) -> None:
    """Who reads the mails knows what there is, some time after each change of it."""
    world = history.world
    found, kinds, tellers = FOUND_LIMIT, ["isolated"], {world.lost.name}
    node = ""
    if world.kills or world.cuts:
        found = KILLED_LIMIT
    if world.topology != "cut":
        node = world.lost.name
        tellers = {each.name for each in world.nodes} - tellers
        kinds = ["untestable", "mail-refused" if world.topology == "refused" else "not-stored"]
        # Its first mail is refused after it is serious; then its peers wait.
        found += 2 * complaints.PEERS_QUIET_AT_FIRST + 120.0
    for kind in kinds:
        name = TroubleName(kind, node)
        for begins, ends in world.troubled:
            if ends - begins > found and not _is_believed(told, tellers, name, ends):
                history.wrong.append(f"nobody was told by {ends:.0f}: {name} since {begins:.0f}")
            _judge_doubles(history, told, tellers, name, (begins, ends))
    for each in {(each.node, each.trouble) for each in told}:
        if _is_believed(told, {each[0]}, each[1], world.now):
            history.wrong.append(f"nobody was told that it is over: {each}")
    _not_too_soon(history, told)


def _printed(history: History) -> None:
    """What can be mailed is not printed; what nobody takes is, once an hour at the most."""
    world = history.world
    by_lost = [at for at, name, _ in world.complaints if name == world.lost.name]
    if world.topology == "cut" and not world.cuts and by_lost:
        history.wrong.append(f"printed at {by_lost[0]:.0f}, although it could be mailed")
    if world.topology == "cut":
        return
    begins, ends = world.troubled[0]
    printed = [at for at in by_lost if begins <= at <= ends]
    if not printed or printed[0] > begins + KILLED_LIMIT + complaints.quiet_at_first(UNTESTABLE):
        history.wrong.append(f"nothing was printed in time: {by_lost}")
    if world.topology == "refused" and len(printed) > 2 + (ends - begins) / _HOUR:
        history.wrong.append(f"printed {len(printed)} times: {by_lost}")


def _judge_doubles(
    history: History,
    told: list[ToldNews],
    tellers: set[str],
    name: TroubleName,
    span: tuple[float, float],
) -> None:
    """Without a fault, one node of all tells it once."""
    world = history.world
    begun = [
        each
        for each in told
        if each.trouble == name and not each.is_over and span[0] <= each.at <= span[1]
    ]
    if len(begun) > 1 + 2 * world.cuts:
        history.wrong.append(f"told {len(begun)} times in {span}: {begun}")
    if not world.cuts and any(each.node not in tellers for each in begun):
        history.wrong.append(f"told by another node: {begun}")


def _not_too_soon(history: History, told: list[ToldNews]) -> None:
    """It is over for five minutes when that is told: what blinks is not over each time."""
    for each in told:
        if not each.is_over or each.node != history.world.lost.name:
            continue
        for begins, ends in history.world.troubled:
            early = ends + _OVER_AFTER - 5.0
            if history.world.topology == "cut" and begins + 130.0 < each.at < early:
                history.wrong.append(f"told at {each.at:.0f} that it is over: {each}")


def _is_believed(told: list[ToldNews], tellers: set[str], name: TroubleName, at: float) -> bool:
    """Return whether a reader believes at a time that a trouble is there, by one of `tellers`."""
    last: dict[str, bool] = {}
    for each in told:
        if each.trouble == name and each.node in tellers and each.at <= at:
            last[each.node] = not each.is_over
    return any(last.values())
