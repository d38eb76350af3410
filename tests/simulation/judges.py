"""What must be true of the histories of each kind (promises 1 to 4 of doc/design.md).

A judge adds what is wrong to the history.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

from dmonitor.base import names
from dmonitor.core.model import Kind, Test, Verdict

from . import mailbox
from .history import KINDS_TOLD, Failure, History, is_node
from .node import SimNode
from .virtual_round import MTA_LIMIT
from .world import World

Told = Counter[tuple[Test, str, Kind]]

STANDING_LIMIT = 280.0  # seconds from a failure to its alert, of promise 4
# Seconds from the first look after a failure to its mail: 1 for a late cron, 8 for a look here and two
# of a peer's, 3.5 for the speaker's next look, 0.5 to tell.
PROMPT_LIMIT = 13.0
# Seconds more if a node looks when the speaker does not stay any more: until the speaker's next round.
GAP = 3.0
BLIND_LIMIT = 125.0  # seconds until it is told that a node is gone
BLIND_CHECKER_LIMIT = 540.0  # the same, if only its cron stops: its last round has to get old first
NO_ROUNDS = "no rounds are run on"  # a node that no quorum can tell DOWN
PAIR_LIMIT = 1800.0  # seconds until the other one of two nodes complains that a cron is dead
# Seconds after the end of a silence: to be seen, and 180 more because the speaker may lose its power.
QUIET_LIMIT = 280.0
# Seconds until what two honest sites see fail is told although a liar is first in the order: 100, and as
# much as it takes to find that the first node fell silent (promise 4).
HIDDEN_LIMIT = 2.0  # seconds after a router's end in which what is behind it comes back, too
LOOKS_LAST = 22.0  # seconds that two looks may take, from before an end to their result
LIAR_LIMIT = 240.0
# Seconds until a hook is told while all mail systems refuse, and more for each node that tries.
HOOKED_LIMIT = 100.0
HOOKED_MORE = 30.0
ROUND_TAKES = 65.0  # seconds from the time for a round to the last look of that round
_MORE_LOOKS = 3  # for each fault: an incident of it may be open for a while, and turns move
ALIAS_GRACE = 120.0  # seconds more for a second line of a node: it may keep its rank for a while


def calm(history: History) -> None:
    """Each incident is one alert and one recovery for each address, the alert first.

    Nothing is told of what one node alone sees.
    """
    told = history.told()
    real = _real_failures(history)
    counts = Counter(failure.test for failure in real)
    wanted: Told = Counter()
    for test, count in counts.items():
        for address in history.world.nodes[0].addresses:
            for kind in KINDS_TOLD:
                wanted[test, address, kind] = count
    for test, address, kind in _sorted_keys(wanted, told):
        found, right = told[test, address, kind], wanted[test, address, kind]
        # If an alert is refused until it is over, the mail that tells the end tells all.
        is_late = kind is Kind.ALERT and found < right and history.world.slowest_mta > MTA_LIMIT
        if is_late and told[test, address, Kind.RECOVERY] == right:
            continue
        if found != right:
            history.wrong.append(
                f"{kind.value} of {test} to {address}: {found} times, and {right} were right"
            )
    _judge_order(history)
    if history.wrong:
        return
    for failure in real:
        later = [at for at in history.times_told(failure.test, Kind.ALERT) if at > failure.began]
        history.delays.append(min(later) - failure.began)


def prompt(history: History) -> None:
    """As in `calm`, and each failure is told within the pause between two rounds and a bit more.

    With three nodes the last one has looked when the speaker still stays.
    """
    calm(history)
    nodes = len(history.world.nodes)
    limit = 60.0 / nodes + PROMPT_LIMIT + GAP * (nodes > 3)
    for delay in history.delays:
        if delay > limit:
            history.wrong.append(f"an alert after {delay:.1f} s, and {limit:.1f} s are allowed")


def struck(history: History) -> None:
    """Each reader believes what is true; how late that is, is counted."""
    mailbox.judge(history)
    failure = history.failures[0]
    for at in history.times_told(failure.test, Kind.ALERT)[:1]:
        history.delays.append(at - failure.began)


def woken(history: History) -> None:
    """Each reader believes what is true, and no node looks more often than is allowed."""
    mailbox.judge(history)
    judge_looks(history)


def judge_looks(history: History) -> None:
    """A process that stays looks at most 10 times a minute, and not within 3 s of its last look."""
    for node in history.world.nodes:
        by_process: dict[int, list[float]] = {}
        for process, at in node.looks:
            by_process.setdefault(process, []).append(at * node.rate)
        for looks in by_process.values():
            pauses = [later - at for at, later in itertools.pairwise(looks)]
            minutes = [later - at for at, later in zip(looks, looks[10:], strict=False)]
            if min(pauses, default=3.0) < 2.999 or min(minutes, default=60.0) < 59.999:
                history.wrong.append(f"{node.name} looked too often: {looks}")


def liar(history: History) -> None:
    """What two honest sites see fail is told in time, or was told before; whatever else is told."""
    world = history.world
    (lie,) = [node.lie for node in world.nodes if node.lie]
    if not lie.stated or (lie.lists and not lie.listings):
        history.wrong.append("the liar was not reached")
    readers = mailbox.read_all(history, world.nodes[0].addresses[0])
    for failure in history.failures:
        if len(failure.nodes) < world.quorum:
            continue
        told_at = _believed_at(readers[failure.test].beliefs, failure)
        history.delays.append(told_at - failure.began)
        if told_at - failure.began > LIAR_LIMIT:
            history.wrong.append(
                f"not told for {min(told_at, failure.ended) - failure.began:.0f} s"
                f" that {failure.test} is DOWN since {failure.began:.0f}"
            )


def _believed_at(beliefs: list[tuple[float, str]], failure: Failure) -> float:
    """Return when a reader first believed that a test is DOWN while it failed; infinity if never."""
    for number, (at, belief) in enumerate(beliefs):
        following = beliefs[number + 1][0] if number + 1 < len(beliefs) else float("inf")
        if belief == "DOWN" and following > failure.began and at < failure.ended:
            return max(at, failure.began)
    return float("inf")


def _real_failures(history: History) -> list[Failure]:
    """Return the failures that all nodes see."""
    return [failure for failure in history.failures if not failure.nodes]


def _sorted_keys(wanted: Told, told: Told) -> list[tuple[Test, str, Kind]]:
    return sorted(wanted.keys() | told.keys(), key=str)


def _judge_order(history: History) -> None:
    """No recovery comes before its alert.

    To one address whose mails were refused they may come in two mails that both say it is over.
    """
    alerted: set[str] = set()
    root = history.world.root
    for mail in history.world.mails:
        for _, kind, ids in mail.told:
            if kind is Kind.ALERT:
                alerted.add(root(ids[0]))
        for test, kind, ids in mail.told:
            if kind is Kind.RECOVERY and root(ids[0]) not in alerted:
                history.wrong.append(f"recovery of {test} to {mail.address} before any alert")


def late(history: History) -> None:
    """Each address gets one mail, which tells both."""
    history.failures = history.failures[:1]
    calm(history)


def lossy(history: History) -> None:
    """Nothing recovers while it is down."""
    (failure,) = history.failures
    for at in history.times_told(failure.test, Kind.RECOVERY):
        if at < failure.ended:
            history.wrong.append(f"recovery of {failure.test} mailed at {at:.0f}, while it is down")


def standing(history: History) -> None:
    """Nothing is lost, and nothing late; what is doubled is counted."""
    world = history.world
    _judge_order(history)
    _judge_nothing_lost(history, nodes_last=True)
    for failure in history.failures:
        times = history.times_told(failure.test, Kind.ALERT)
        if not times or world.slowest_mta >= 15.0:
            continue
        delay = min(times) - failure.began
        if delay > STANDING_LIMIT:
            history.wrong.append(f"alert of {failure.test} {delay:.0f} s late")
    history.doubled = sum(count > 1 for count in history.told().values())


def rough(history: History, *, of_each: bool = False) -> None:
    """No lone alert; nothing lost; at most 1 + c copies, of all incidents of a test or of each.

    Every alert has a recovery, and none comes before its alert.
    """
    world, told = history.world, history.told()
    real = Counter(failure.test for failure in _real_failures(history))
    if world.faults:  # only faults make incidents of nodes
        real.update({test for test, _, _ in told if is_node(test)})
    for (test, address, kind), count in told.items():
        faults = world.faults * (real[test] if of_each else 1)
        if not real[test]:
            history.wrong.append(f"a lone alert: {kind.value} of {test} to {address}")
        elif count > real[test] + faults:
            history.wrong.append(
                f"{kind.value} of {test} to {address}:"
                f" {count} copies of {real[test]}, c = {world.faults}"
            )
    _judge_order(history)
    _judge_nothing_lost(history)


def _judge_nothing_lost(history: History, *, nodes_last: bool = False) -> None:
    """After a node has opened an incident, every reader hears that the test was DOWN, and its end.

    What an operator silences is not owed. With `nodes_last` the incidents of nodes have no end,
    because what made them has none; nor have others if a node hears too few to end them.
    """
    watching = history.watch
    assert watching is not None
    world = history.world
    has_no_end = nodes_last and any(_hears_too_few(world, node) for node in world.nodes)
    for address in sorted(watching.addresses):
        readers = mailbox.read_all(history, address)
        for at, name, opened in world.opened:
            test = opened.test
            if test in world.unowed:
                continue
            if test not in readers or not readers[test].heard_of(at):
                history.wrong.append(
                    f"{address} never heard of {test}, opened by {name} at {at:.0f}"
                )
        for test, reader in readers.items():
            lasts = has_no_end or (nodes_last and is_node(test))
            if reader.believes_down and not lasts and test not in world.unowed:
                history.wrong.append(f"{address} believes in the end that {test} is DOWN")
    if not has_no_end:
        mailbox.judge_nothing_open(history, nodes_too=not nodes_last)


def _hears_too_few(world: World, node: SimNode) -> bool:
    """Return whether those that a node cannot reach may be a quorum, and it hears no majority."""
    owners = [peer.name for peer in world.nodes] + list(world.aliases.values())
    silent = [owner for owner in owners if (node.name, owner) in world.cut]
    return len(silent) >= world.quorum and 2 * len(silent) >= len(owners)


def sluggish(history: History) -> None:
    """As `rough`, or as `calm` without a fault.

    Mails are on their way for minutes, so one fault may double those of several incidents.
    """
    if history.world.faults:
        rough(history, of_each=True)
    else:
        calm(history)


def hooked(history: History) -> None:
    """As `rough`; without a fault each address hears all once, and somebody hears it in time.

    While all mail systems refuse, a hook does; if one of them does not, each mail is sent in time.
    """
    world = history.world
    history.failures = [failure for failure in history.failures if failure.ended > failure.began]
    rough(history)
    if world.faults:
        return
    for (test, address, kind), count in history.told().items():
        if count > len(history.failures):
            history.wrong.append(f"{kind.value} of {test} to {address}: {count} times")
    addresses = set(world.nodes[0].addresses)
    hooks = set(filter(names.is_hook, addresses))
    limit = HOOKED_LIMIT + HOOKED_MORE * len(world.nodes)
    for failure in history.failures:
        if world.refused_until:
            told_at = min(_alerted_at(history, failure, address) for address in hooks)
        else:
            told_at = max(_alerted_at(history, failure, address) for address in addresses - hooks)
        history.delays.append(told_at - failure.began)
        if told_at > failure.began + limit:
            history.wrong.append(
                f"told {told_at - failure.began:.0f} s after it began at {failure.began:.0f};"
                f" {limit:.0f} s are allowed"
            )


def _alerted_at(history: History, failure: Failure, address: str) -> float:
    """Return when an address was first told of a failure; infinity if never."""
    for mail in history.world.mails:
        if mail.address != address or mail.at < failure.began:
            continue
        if any((test, kind) == (failure.test, Kind.ALERT) for test, kind, _ in mail.told):
            return mail.at
    return float("inf")


def behind(history: History) -> None:
    """As `sluggish`; of what fails behind a router, only what outlasts its failure is told."""
    world = history.world
    hidden = [failure for failure in history.failures if _is_hidden(history, failure)]
    if not hidden:
        return sluggish(history)

    def is_owed(at: float, test: Test) -> bool:
        spans = [(each.began, each.ended) for each in hidden if each.test == test]
        return not any(began <= at <= ended + HIDDEN_LIMIT + LOOKS_LAST for began, ended in spans)

    world.opened = [each for each in world.opened if is_owed(each[0], each[2].test)]
    kept = [failure for failure in history.failures if failure not in hidden]
    return sluggish(dataclasses.replace(history, failures=kept))


def _is_hidden(history: History, failure: Failure) -> bool:
    """Return whether a failure begins while that of a router before it lasts, and ends with that."""
    for router in history.failures:
        if router.test in history.world.behind.get(failure.test, ()):
            if router.began <= failure.began and failure.ended <= router.ended + HIDDEN_LIMIT:
                return True
    return False


def seldom(history: History) -> None:
    """As `rough`, or as `calm` without a fault; and no test is looked at more often than it may be.

    Without a fault somebody looks in time, and what somebody has seen is told in time.
    """
    world = history.world
    if world.faults:
        rough(history)
    else:
        calm(history)
        for test in world.rhythms:
            _judge_noticed(history, test)
    for node in world.nodes:
        for test in sorted(node.tests & world.rhythms.keys()):
            _judge_rest(history, node, test)
            state = node.disk.test_states.get(test)
            if node.up and state and state.verdict is not Verdict.UP:
                history.wrong.append(f"{test} is {state.verdict.value} for {node.name} in the end")


def _judge_noticed(history: History, test: Test) -> None:
    """Each failure is seen when it is a node's turn, and told within promise 4 once it is seen.

    If a mail system refuses, the first mail leaves within a minute of its return (R6).
    """
    world = history.world
    rhythm = world.rhythms[test]
    slowest = 60.0 * max(node.interval for node in world.nodes)
    # Turns are spread as far as the nodes' clocks agree.
    parts = len(world.nodes)
    if any(node.offset for node in world.nodes):
        parts = 1
    for failure in _real_failures(history):
        if failure.test != test:
            continue
        seen = [look.at for look in world.looks if look.test == test and look.fails]
        first = min((at for at in seen if at >= failure.began), default=float("inf"))
        limit = rhythm.every / parts + slowest + ROUND_TAKES
        if first > failure.began + limit:
            late = first - failure.began
            history.wrong.append(
                f"nobody looked at {test} for {late:.0f} s; {limit:.0f} s are allowed"
            )
        told = [at for at in history.times_told(test, Kind.ALERT) if at >= failure.began]
        told_at = min(told, default=float("inf"))
        can_tell = max(first, _last_refusing(history, told_at))
        is_quick = slowest == 60.0 and test not in world.unowed
        more = (world.confirm - 1) * ROUND_TAKES
        if is_quick and told_at > can_tell + mailbox.PROMPT + more:
            history.wrong.append(f"{test} was seen to fail at {first:.0f}, and told at {told[:1]}")


def _last_refusing(history: History, before: float) -> float:
    """Return when a mail system was last seen to refuse before a time; -inf if none was."""
    assert history.watch is not None
    return max((at for at in history.watch.refusing if at < before), default=float("-inf"))


def _judge_rest(history: History, node: SimNode, test: Test) -> None:
    """A node looks at a test once in its EVERY, or twice as often if its turns have moved.

    While the test may fail here or elsewhere, and a while after, it may look in each round. So may
    who is cut off from too many sites to close the incident: it stays open (R4), and what has an
    open incident does not rest (R1).
    """
    world = history.world
    rhythm = world.rhythms[test]
    interval = 60.0 * node.interval
    slowest = 60.0 * max(each.interval for each in world.nodes)
    closed_by = 2 * slowest + rhythm.retry + world.confirm * ROUND_TAKES + 2 * MTA_LIMIT
    began = 0.0
    for failure in sorted(history.failures, key=lambda failure: failure.began):
        if failure.test != test:
            continue
        looks = _looks_between(world, node, test, began, failure.began)
        allowed = max(0.0, failure.began - began) // rhythm.every + 2
        if world.faults:
            allowed += _MORE_LOOKS * world.faults
        if len(looks) > allowed:
            history.wrong.append(f"{node.name} looked at {test} {len(looks)} times, {looks[:9]}")
        gaps = [later - at for at, later in itertools.pairwise(looks)]
        longest = rhythm.every + 2 * interval + ROUND_TAKES
        if not world.faults and max(gaps, default=0.0) > longest:
            history.wrong.append(f"{node.name} did not look at {test} for {max(gaps):.0f} s")
        began = _surely_closed(history, node, failure, closed_by)
    if rhythm.retry and not world.faults:
        _judge_retry(history, node, test)


def _surely_closed(history: History, node: SimNode, failure: Failure, closed_by: float) -> float:
    """Return when a node has had `closed_by` seconds, without a break, to close an incident.

    In all of them it could hear enough sites to say that the failure is over.
    """
    assert history.watch is not None
    able_since = failure.ended
    for moment in history.watch.moments:
        if moment.at >= able_since + closed_by:
            break
        if moment.at >= failure.ended and node.name not in moment.can_say_up[failure.test]:
            able_since = moment.at
    return able_since + closed_by


def _judge_retry(history: History, node: SimNode, test: Test) -> None:
    """The looks of a node's rounds at what fails are RETRY apart; confirming takes a look each round."""
    world = history.world
    looks = _looks_between(world, node, test, 0.0, float("inf"))
    wanted = world.rhythms[test].retry - 60.0 * node.interval
    hasty = 0
    for at, later in itertools.pairwise(looks):
        is_second_look = later - at < ROUND_TAKES / 2
        hasty += not is_second_look and later - at < wanted
    turns = (world.now // world.rhythms[test].every + 2) * world.confirm
    if hasty > turns + 2 * len(history.failures) * world.confirm:
        history.wrong.append(f"{node.name} looked again at {test} too soon, {hasty} times: {looks}")


def _looks_between(
    world: World, node: SimNode, test: Test, began: float, ended: float
) -> list[float]:
    """Return when the rounds of a node looked at a test in a time."""
    return [
        look.at
        for look in world.looks
        if look.test == test and look.node == node.name and look.looker == "round"
        if began <= look.at < ended
    ]


def flapping(history: History) -> None:
    """One mail says that it flaps, and one that it is steady; few others come.

    Every alert has its recovery in the end.
    """
    world, told = history.world, history.told()
    told_flapping: Told = Counter()
    for mail in world.mails:
        for test, kind in mail.flapping:
            told_flapping[test, mail.address, kind] += 1
    test = history.failures[0].test
    for address in world.nodes[0].addresses:
        for kind in KINDS_TOLD:
            count = told_flapping[test, address, kind]
            if count != 1:
                history.wrong.append(
                    f"{count} mails of {kind.value} of flapping of {test} to {address}"
                )
        alerts, recoveries = told[test, address, Kind.ALERT], told[test, address, Kind.RECOVERY]
        if alerts != recoveries or not 3 <= alerts <= 5:
            history.wrong.append(
                f"{alerts} alerts and {recoveries} recoveries of {test} to {address}"
            )


def reminded(history: History) -> None:
    """What lasts is reminded of twice; of what is removed no more is told."""
    told = history.told()
    lasting, removed = (failure.test for failure in history.failures)
    for address in history.world.nodes[0].addresses:
        for test, wanted in ((lasting, (1, 2, 1)), (removed, (1, 0, 0))):
            kinds = (Kind.ALERT, Kind.REMINDER, Kind.RECOVERY)
            counts = tuple(told[test, address, kind] for kind in kinds)
            if counts != wanted:
                history.wrong.append(
                    f"alerts, reminders, recoveries of {test} to {address}:"
                    f" {counts}, and {wanted} were right"
                )


def quiet(history: History) -> None:
    """What is silenced is told when the silence ends; what is acknowledged is not reminded of.

    All nodes have heard of a silence when it begins to matter, and of an acknowledgement two
    minutes after it.
    """
    world = history.world
    end = world.quiet_until
    until, every, inside, up, after = (failure.test for failure in history.failures)
    told = history.told()
    for address in world.nodes[0].addresses:
        for test in (until, every, up, after):
            counts = told[test, address, Kind.ALERT], told[test, address, Kind.RECOVERY]
            most = 1 + world.faults  # who loses its power may have mailed what nobody has heard of
            if not all(1 <= count <= most for count in counts):
                history.wrong.append(f"alerts and recoveries of {test} to {address}: {counts}")
        for failure in history.failures:
            count = told[failure.test, address, Kind.ACK]
            if count != (failure.test == up):
                text = f"{count} acknowledgements of {failure.test} to {address}"
                history.wrong.append(text)
    for kind in Kind:
        if history.times_told(inside, kind):
            history.wrong.append(f"{kind.value} of {inside}, which came and went in silence")
    for test in (until, every):
        for at in history.times_told(test, Kind.ALERT):
            if not end <= at <= end + QUIET_LIMIT:
                history.wrong.append(f"alert of {test} at {at:.0f}; the silence ends at {end:.0f}")
    for at in history.times_told(up, Kind.ALERT):
        if at > world.acknowledged:
            history.wrong.append(f"alert of {up} at {at:.0f}, late")
    acks = history.times_told(up, Kind.ACK)
    if acks and not world.acknowledged <= acks[0] <= world.acknowledged + 280.0:
        history.wrong.append(f"acknowledgement of {up} at {acks[0]:.0f}")
    late = [at for at in history.times_told(up, Kind.REMINDER) if at > world.acknowledged + 120.0]
    if late:
        history.wrong.append(f"reminder of {up} at {late[0]:.0f}, which is acknowledged")
    if not history.times_told(after, Kind.REMINDER):
        history.wrong.append(f"no reminder of {after}, which began after its acknowledgement")


# Blindness.


def pair(history: History) -> None:
    """The node that is left complains of the other one, which no quorum can tell."""
    mailbox.judge(history)
    world = history.world
    began = world.gone[0]
    complaining = {
        name for at, name, _ in world.complaints if began <= at <= began + PAIR_LIMIT
    } - {world.lost.name}
    if not complaining:
        history.wrong.append(f"nobody complains that the cron of {world.lost.name} is dead")


def brief(history: History) -> None:
    """The node is told, to begin and to end, and nothing else is; what is doubled is counted."""
    told = history.told()
    test = Test(names.NODE, history.world.lost.name)
    addresses = history.world.nodes[0].addresses
    for address in addresses:
        for kind in KINDS_TOLD:
            if told.pop((test, address, kind), 0) not in (1, 2):
                history.wrong.append(
                    f"{kind.value} of {test.name} to {address}: none, or more than 1 + c"
                )
    history.wrong += [f"a lone alert: {key}" for key in told]
    history.doubled = len(history.world.mails) > 2 * len(addresses)


def blind(history: History) -> None:
    """It is told once that the node is gone, and once that it is back, if two sites can see that.

    Nothing else is told that is not true. What fails while a node goes may be told twice, once for
    each fault more (promise 3).
    """
    world, told = history.world, history.told()
    others = [node for node in world.nodes if node is not world.lost]
    sites_left = {node.site for node in others}
    wanted = _wanted_of_blind(history, others[0].addresses, has_quorum=len(sites_left) >= 2)
    for key in _sorted_keys(wanted, told):
        test, address, kind = key
        most = wanted[key]
        if most and not is_node(test):
            most += 1
        if not wanted[key] <= told[key] <= most:
            history.wrong.append(
                f"{kind.value} of {test} to {address}:"
                f" {told[key]} times, and {wanted[key]} were right"
            )
    for test, _, kind in wanted:
        if is_node(test) and kind is Kind.ALERT:
            _judge_delay(history, test)
    _judge_complaints(history, others, has_quorum=len(sites_left) >= 2)


def _wanted_of_blind(history: History, addresses: tuple[str, ...], *, has_quorum: bool) -> Told:
    """Return what is to be told, and how often."""
    world, failure = history.world, history.failures[0]
    lines = [world.lost.name]
    lines += [alias for alias, name in world.aliases.items() if name == world.lost.name]
    tests: list[Test] = []
    if has_quorum and world.topology != "targets":
        tests += [Test(names.NODE, line) for line in lines]
    is_seen = has_quorum or world.topology in ("cron", "daemon") or failure.ended > world.gone[1]
    if is_seen and world.topology not in ("isolated", "targets"):
        tests.append(failure.test)
    wanted: Told = Counter()
    for address in addresses:
        for kind in KINDS_TOLD:
            wanted.update((test, address, kind) for test in tests)
    return wanted


def _judge_delay(history: History, test: Test) -> None:
    """It is told in time that a node is gone; it counts if nothing was told."""
    began = history.world.gone[0]
    delay = min(history.times_told(test, Kind.ALERT), default=began) - began
    limit = BLIND_LIMIT
    if history.world.topology == "cron":
        limit = BLIND_CHECKER_LIMIT
    if test.name == "alias":
        limit += ALIAS_GRACE
    if delay > limit:
        history.wrong.append(f"alert of {test} {delay:.0f} s late")


def _judge_complaints(history: History, others: list[SimNode], *, has_quorum: bool) -> None:
    """A node that is blind complains of it once within the hour; no other node complains.

    In the end no node is troubled.
    """
    world = history.world
    wanted = _wanted_complaints(history, others, has_quorum=has_quorum)
    for node in world.nodes:
        words = wanted.get(node.name, [])
        texts = [text for _, name, text in world.complaints if name == node.name]
        if words == ["no peer answers"] and len(texts) == 2 and "quorum = 2" in texts[0]:
            del texts[0]  # it still heard a peer of its own site when it was cut off
        is_right = len(texts) == len(words)
        for word, text in zip(words, texts, strict=False):
            is_right = is_right and word in text
        if not is_right:
            history.wrong.append(f"{node.name} complained of {texts}, and {words} was right")
        troubles = node.disk.node_memory.troubles
        if any(trouble.ended is None for trouble in troubles):
            history.wrong.append(f"{node.name} is still troubled in the end: {troubles}")


def _wanted_complaints(
    history: History, others: list[SimNode], *, has_quorum: bool
) -> dict[str, list[str]]:
    """Return the words of the complaint that each blind node makes."""
    world = history.world
    wanted: dict[str, list[str]] = {}
    if world.topology == "isolated":
        wanted[world.lost.name] = ["no peer answers"]
    if world.topology == "targets":
        wanted[world.lost.name] = ["most tests fail here"]
    if has_quorum or world.topology == "targets":
        return wanted
    if world.topology == "cron":
        for node in others:
            # Another line of it in nodes.txt is named, too.
            lines = [alias for alias, name in world.aliases.items() if name == world.lost.name]
            wanted[node.name] = [f"{NO_ROUNDS} {', '.join(sorted([*lines, world.lost.name]))}"]
        return wanted
    for node in others:
        wanted[node.name] = ["quorum = 2"]
        if world.topology == "pair":
            wanted[node.name] = ["no peer answers"]
    return wanted
