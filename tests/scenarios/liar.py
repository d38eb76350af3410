#!/usr/bin/env python3
"""A node that has the key, and lies, against two honest nodes: it must not get far (promise 9).

Real programs on loopback addresses; works as any user. Each chapter has a cluster of its own, plays one
attack, shows that it was reached, and judges what the honest nodes can still do. Usage: liar.py [CHAPTER...]

honest    the liar is well behaved, so that it is seen that all else is as it should be
flood     300 fat incidents, and the liar goes: the honest nodes still hear each other, and mail
evidence  90 kB of evidence for each of 80 incidents a round, in tiny answers and in fat ones
loop      16 conversations ask for statements without end, and one of them reads nothing
unasked   answers that nobody has asked for, without end; a statement without end; one that is heavy
info      one more reminder of 1,200 incidents in each greeting
flapping  void incidents that make a healthy test flap
muting    what would have a real failure not mailed: flapping, an end just now, evidence by a quorum of 1
stolen    a peer takes this node's id, and then its address: it may not vanish without a word

`lister` is in tests/simulation (test_simulation.py), because it takes minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import multiprocessing.synchronize
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import lying_node
from calls import Conversation, free_port
from local_nodes import LocalNode, Place, running
from lying_node import Liar, Strategy

from dmonitor.net import protocol

FIRST, SECOND, LIAR = "127.0.0.71", "127.0.0.72", "127.0.0.73"
FORGED = "peer.example"  # a peer whose name a forged answer of the resolver may turn
KEY = "0123456789abcdef" * 4
HOST = "www.example.com"
TARGET = f"{HOST}/target"  # fails while the file `broken` is there
PLUGIN_FAILS_ON = "broken"

STATEMENT_BYTES = 1_000_000  # of an honest node's statement
PROCESSOR_SHARE = 0.3  # of one, for the daemon while it is pressed
STATE_BYTES = 5_000_000  # of state.db
ROUND_SECONDS = 15.0  # of a round whose plugins take next to none
ROUND_LIMIT = 55.0  # seconds of any round
ROUNDS = 20  # of `evidence`
P99 = 0.050  # seconds until the answer to an honest question
DAEMON_MEMORY = 32_000  # kB
ROUND_MEMORY = 40_000  # kB
LOG_LINES = 48  # of one round, about what one peer states
KEPT_BYTES = 100_000  # that a node which was flooded states on, so that it is known to keep some
ANSWER_AGE = 5.5  # seconds after which a daemon looks anew for its answer
ANSWERS = 400  # honest questions that are timed
ASKING_SECONDS = 20.0  # for as long as these are asked at most
WARNING = 4  # the priority of syslog; smaller ones are worse

# These replace two edges in the copy of the package that is run: where log lines go, and the resolver.
_LOG_TO_FILE = """

class _File:
    def __getattr__(self, name):
        return getattr(_syslog, name)
    def syslog(self, priority, text):
        with open({path!r}, "a") as file:
            file.write(f"{{priority}} {{_program}} {{text}}\\n")

_syslog, syslog = syslog, _File()
"""
_FORGED_RESOLVER = """

_getaddrinfo = socket.getaddrinfo

def _forged_getaddrinfo(name, *rest, **options):
    with open({path!r}) as file:
        forged = dict(line.split() for line in file)
    return _getaddrinfo(forged.get(name, name), *rest, **options)

socket.getaddrinfo = _forged_getaddrinfo
"""


class Checks:
    """Counts what holds and what does not, and prints each."""

    def __init__(self) -> None:
        self.passed = self.failed = 0

    def __call__(self, holds: object, text: str) -> None:
        """Count `text` as passed if it `holds`."""
        print(f"{'ok   ' if holds else 'FAIL '} {text}", flush=True)
        self.passed += bool(holds)
        self.failed += not holds

    def reached(self, holds: object, text: str) -> None:
        """Count that the attack took place at all."""
        self(holds, f"reached: {text}")


class Round(NamedTuple):
    """A run of dmonitor-check."""

    status: int
    seconds: float
    memory: int  # kB, the most that it ever had
    log: list[str]  # what was logged meanwhile, without what only debugs: priority, program, text

    def worse(self) -> list[str]:
        """Return the warnings and what is worse."""
        return [text for text in self.log if int(text.split()[0]) <= WARNING]


class Stage:
    """Two honest nodes, and the place of the liar."""

    def __init__(self, directory: Path, tests: int, lines: Sequence[str]) -> None:
        self.place = Place(directory)
        logs = self.place.writable("logs")
        self.log_path = logs / "log"
        self.log_path.touch()
        self.log_path.chmod(0o666)
        self.hosts_path = directory / "hosts"
        self.forge(LIAR)
        self._patch("base/log.py", _LOG_TO_FILE.format(path=str(self.log_path)))
        self._patch("config/resolve.py", _FORGED_RESOLVER.format(path=str(self.hosts_path)))
        self.port = free_port()
        self.tests = [TARGET, *(f"{HOST}/ok:{number}" for number in range(1, tests))]
        self.first, self.second = (self._node(address, lines) for address in (FIRST, SECOND))

    def _patch(self, module: str, code: str) -> None:
        with open(self.place.directory / "dmonitor" / module, "a") as file:
            file.write(code)

    def _node(self, address: str, lines: Sequence[str]) -> LocalNode:
        node = LocalNode(self.place, address, lines, port=self.port)
        node.plugin("ok", "echo OK")
        broken = self.place.directory / PLUGIN_FAILS_ON
        # It is broken for all, or for the nodes whose addresses the file has.
        code = (
            f'[ -e {broken} ] && grep -q {address} {broken} && echo "FAIL it is broken" || echo OK'
        )
        node.plugin("target", code)
        for test in self.tests:
            node.test(test)
        node.mail()
        node.key(KEY)
        return node

    @property
    def nodes(self) -> tuple[LocalNode, LocalNode]:
        return self.first, self.second

    def forge(self, address: str) -> None:
        """Let the name FORGED have `address`."""
        self.hosts_path.write_text(f"{FORGED} {address}\n")

    def fail(self, *nodes: LocalNode) -> None:
        """Let the target fail for `nodes`, and wait until no answer of before stands."""
        text = "".join(f"{node.address}\n" for node in nodes)
        (self.place.directory / PLUGIN_FAILS_ON).write_text(text)
        time.sleep(ANSWER_AGE)

    @contextlib.contextmanager
    def lied_to(self, strategy: Strategy, name: str = LIAR) -> Iterator[Liar]:
        """Let a liar be there, which states the same configuration as an honest node."""
        with Liar(LIAR, self.port, name, KEY, strategy) as there:
            there.copy_standing((FIRST, self.port), FIRST)
            yield there

    def round(self, node: LocalNode) -> Round:
        """Run a round of `node`, and watch it."""
        begins = self.log_path.stat().st_size
        began = time.monotonic()
        process = node.popen("dmonitor-check", "--once")
        memory = 0
        while process.poll() is None and time.monotonic() - began < ROUND_LIMIT + 10:
            memory = max(memory, highest_memory(process.pid))
            time.sleep(0.02)
        seconds = time.monotonic() - began
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        with open(self.log_path) as file:
            file.seek(begins)
            log = file.read().splitlines()
        mine = [text for text in log if text.split()[1] == "dmonitor-check"]
        return Round(process.returncode, seconds, memory, mine)

    def rounds(self, count: int) -> list[Round]:
        """Run rounds of both nodes, one after the other."""
        return [self.round(node) for _ in range(count) for node in self.nodes]

    def statement(self, node: LocalNode) -> list[bytes]:
        """Return the lines that `node` states, read without a limit."""
        with contextlib.suppress(OSError, AssertionError, ValueError):
            return lying_node.greet((node.address, self.port), node.address, KEY.encode(), LIAR)
        return []

    def subjects(self, word: str) -> list[str]:
        """Return the subjects of the mails that begin with `word`."""
        return [subject for subject in self.place.subjects() if subject.startswith(word)]


@contextlib.contextmanager
def staged(tests: int, lines: Sequence[str] = (FIRST, SECOND, LIAR)) -> Iterator[Stage]:
    """Set up the honest nodes with so many tests each; they know each other, and all is well."""
    with tempfile.TemporaryDirectory(prefix="dmonitor-liar.") as directory:
        stage = Stage(Path(directory), tests, lines)
        with running(stage.nodes):
            with stage.lied_to(Strategy()):
                stage.rounds(2)
            yield stage


def highest_memory(pid: int) -> int:
    """Return the most memory that a process ever had, in kB; 0 if it has ended."""
    with contextlib.suppress(OSError, IndexError):
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])
    return 0


def processor_seconds(pid: int) -> float:
    """Return the seconds of processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def state_size(node: LocalNode) -> int:
    """Return the bytes of the state of `node`, with what is not yet in its database."""
    return sum(path.stat().st_size for path in node.state.glob("state.db*"))


def megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


# The chapters.


def honest(check: Checks) -> None:
    with staged(5) as stage:
        with stage.lied_to(Strategy()):
            stage.rounds(1)
            _judge_heard(check, stage.first)
        _judge_statements(check, stage)
        stage.fail(*stage.nodes)
        taken = stage.rounds(2)
        down = stage.subjects(f"DOWN {TARGET}")
        check(len(down) == 1, f"a target that both see fail is mailed: {down}")
        check(max(len(each.log) for each in taken) > 0, "what is logged is found")


def _judge_heard(check: Checks, node: LocalNode) -> None:
    """The last round of `node` has taken what the liar stated."""
    lines = lying_node.greet((node.address, node.port), node.address, KEY.encode(), LIAR)
    heard = [each for each in lines if each.startswith(b"heard ") and LIAR.encode() in each]
    check.reached(heard, f"{node.address} has taken the statement of the liar in its last round")


def flood(check: Checks) -> None:
    with staged(5) as stage:
        strategy = lying_node.Flood(stage.tests)
        with stage.lied_to(strategy) as there:
            stage.rounds(len(strategy.parts))
            wanted = 2 * len(strategy.parts)
            check.reached(there.stated >= wanted, f"{there.stated} floods were stated whole")
        stage.rounds(1)
        kept = sum(map(len, stage.statement(stage.first)))
        check.reached(kept > KEPT_BYTES, f"{megabytes(kept)} of it are stated on")
        _judge_statements(check, stage)
        stage.fail(*stage.nodes)
        stage.rounds(2)
        verdict = "a target that both see fail is mailed after the liar has gone"
        down = stage.subjects(f"DOWN {TARGET}")
        check(down, f"{verdict}: {down or stage.place.subjects()}")
        for node in stage.nodes:
            size = state_size(node)
            check(size < STATE_BYTES, f"state.db of {node.address}: {megabytes(size)}")


def _judge_statements(check: Checks, stage: Stage) -> None:
    """Each honest node has greeted the other one, and says what a statement can hold."""
    for node, other in itertools.permutations(stage.nodes):
        lines = stage.statement(node)
        size = sum(map(len, lines))
        check(0 < size < STATEMENT_BYTES, f"the statement of {node.address}: {megabytes(size)}")
        heard = [
            each for each in lines if each.startswith(b"heard ") and other.address.encode() in each
        ]
        check(heard, f"{node.address} has taken the statement of {other.address} in its last round")


def evidence(check: Checks) -> None:
    for is_fat in (False, True):
        kind = "33 fat answers" if is_fat else "2,900 tiny answers"
        with staged(50) as stage:
            strategy = lying_node.Evidence(stage.tests, is_fat=is_fat)
            with stage.lied_to(strategy):
                taken = [stage.round(stage.first)]
                while len(taken) < ROUNDS and taken[-1].seconds < ROUND_SECONDS:
                    taken.append(stage.round(stage.first))
            check.reached(
                strategy.bytes > 1_000_000,
                f"{megabytes(strategy.bytes)} of evidence, {kind}, in {len(taken)} rounds",
            )
            worst = max(each.seconds for each in taken)
            check(
                worst < ROUND_SECONDS and not any(each.status for each in taken),
                f"{kind}: the longest of {len(taken)} rounds took {worst:.1f} s,"
                f" the first one {taken[0].seconds:.1f} s",
            )
            memory = max(each.memory for each in taken)
            check(memory < ROUND_MEMORY, f"{kind}: a round had {memory} kB of memory")
            size = state_size(stage.first)
            check(size < STATE_BYTES, f"{kind}: state.db has {megabytes(size)} after them")


def loop(check: Checks) -> None:
    with staged(50) as stage:
        strategy = lying_node.Flood(stage.tests, 20)
        with stage.lied_to(strategy) as there:
            for _ in range(len(strategy.parts)):
                stage.round(stage.first)
            stated = there.stated
        check.reached(stated >= len(strategy.parts), f"{stated} floods were stated before")
        # Each figure is of a daemon that has just started.
        stage.first.stop()
        stage.first.start()
        calm, quiet_memory = ask(stage), highest_memory(stage.first.daemon_pid)
        with pressing(stage):
            time.sleep(10)  # until its allowance is spent
            began, spent = time.monotonic(), processor_seconds(stage.first.daemon_pid)
            pressed = ask(stage)
            _show_delays(check, calm, pressed)
            spent = processor_seconds(stage.first.daemon_pid) - spent
            share = spent / (time.monotonic() - began)
            what = f"the daemon had {share:.0%} of a processor meanwhile"
            check(0 < share < PROCESSOR_SHARE, what)
            memory = highest_memory(stage.first.daemon_pid)
        what = f"the daemon never had more than {memory} kB ({quiet_memory} kB without the attack)"
        check(0 < memory < DAEMON_MEMORY, what)


def _show_delays(check: Checks, calm: Sequence[float], pressed: Sequence[float]) -> None:
    figures = []
    for times in (calm, pressed):
        p50, p99, worst = (
            1000 * statistics.median(times),
            1000 * percentile_99(times),
            1000 * max(times),
        )
        figures.append(f"{len(times)} answers: p50 {p50:.2f} p99 {p99:.2f} worst {worst:.2f} ms")
    check(percentile_99(calm) < P99, f"without the attack {figures[0]}")
    check(percentile_99(pressed) < P99, f"with the attack {figures[1]}")


def percentile_99(times: Sequence[float]) -> float:
    if len(times) < 2:
        return max(times)
    return statistics.quantiles(times, n=100, method="inclusive")[98]


def ask(stage: Stage) -> list[float]:
    """Return how many seconds each answer to an honest question took, as the second node asks.

    The result is remembered by the daemon meanwhile, so that no plugin is timed. What is not answered
    counts as so many seconds as there are for all.
    """
    times: list[float] = []
    began = time.perf_counter()
    try:
        with Conversation(target(stage), stage.first.address, KEY.encode(), SECOND) as conversation:
            ends = time.monotonic() + ASKING_SECONDS
            while len(times) < ANSWERS and time.monotonic() < ends:
                began = time.perf_counter()
                conversation.say(f"test {stage.tests[-1]}\n".encode())
                reply = protocol.read_reply(conversation.read())
                seconds = time.perf_counter() - began
                assert isinstance(reply, protocol.Reply) and reply.result.outcome.value == "OK"
                if reply.age > 0 or seconds > 1:  # the plugin has not just run
                    times.append(seconds)
                time.sleep(0.02)
    except (OSError, AssertionError, protocol.ProtocolError) as error:
        print(f"      no answer after {time.perf_counter() - began:.1f} s: {error!r}", flush=True)
        times.append(ASKING_SECONDS)
    return times


def target(stage: Stage) -> tuple[str, int]:
    return stage.first.address, stage.port


@contextlib.contextmanager
def pressing(stage: Stage) -> Iterator[None]:
    """Let the liar ask the first node for statements meanwhile, in a process of its own."""
    context = multiprocessing.get_context("fork")
    over = context.Event()
    process = context.Process(target=_press, args=(stage.first.address, stage.port, over))
    process.start()
    try:
        yield
    finally:
        over.set()
        process.join(5)
        process.kill()


def _press(address: str, port: int, over: multiprocessing.synchronize.Event) -> None:
    lying_node.press((address, port), address, KEY.encode(), LIAR, over.is_set)


def unasked(check: Checks) -> None:
    _play_endless(check, lying_node.Unasked(), "answers that nobody has asked for")
    _play_endless(check, lying_node.Endless(), "a statement without end")
    _play_endless(check, lying_node.Heavy(TARGET), "a statement that grows as it is read")


def _play_endless(
    check: Checks, strategy: lying_node.Unasked | lying_node.Endless | lying_node.Heavy, kind: str
) -> None:
    with staged(5) as stage:
        calm = stage.round(stage.first)
        stage.fail(stage.first)
        # Only with the liar's vote, which it gives in the same conversation, do two sites fail.
        with stage.lied_to(strategy) as there:
            taken = stage.round(stage.first)
            check.reached(
                strategy.bytes > 1_000_000 and there.asked["test"],
                f"{megabytes(strategy.bytes)} of {kind}, and {there.asked['test']} questions",
            )
        what = f"{taken.seconds:.1f} s ({calm.seconds:.1f} s without it), status {taken.status}"
        check(taken.seconds < ROUND_LIMIT and not taken.status, f"{kind}: the round took {what}")
        what = f"{taken.memory} kB of memory ({calm.memory} kB without it)"
        check(taken.memory < ROUND_MEMORY, f"{kind}: the round had {what}")
        down = stage.subjects(f"DOWN {TARGET}")
        check(down, f"{kind}: the answer in the same conversation counts: {down}")


def info(check: Checks) -> None:
    with staged(20) as stage:
        strategy = lying_node.Reminding(stage.tests)
        with stage.lied_to(strategy) as there:
            taken = [stage.round(stage.first) for _ in range(4)]
            count = len(strategy.incidents)
            check.reached(there.stated >= 4, f"{there.stated} statements of {count} incidents")
            _judge_heard(check, stage.first)
        counts = [len(each.log) for each in taken]
        check(max(counts) <= LOG_LINES, f"lines that were logged in each round: {counts}")


def flapping(check: Checks) -> None:
    with staged(5) as stage:
        strategy = lying_node.Flapper(stage.tests)
        with stage.lied_to(strategy) as there:
            stage.rounds(2)
            check.reached(there.stated >= 4, f"{there.stated} statements of void incidents")
            _judge_heard(check, stage.first)
            flaps = stage.subjects("FLAPPING")
            check(not flaps, f"no test is said to flap by what one peer alone states: {flaps}")
            stage.fail(*stage.nodes)
            stage.rounds(2)
        down = [each for each in stage.place.subjects() if "DOWN" in each and "target" in each]
        check(down, f"what both honest nodes see fail meanwhile is mailed: {down}")


def muting(check: Checks) -> None:
    """No incident that both honest nodes see is kept from being mailed at once."""
    names = ("flaps", "ended", "claimed")
    with staged(1) as stage:
        broken = stage.place.directory / "broken.muted"
        for node, name in itertools.product(stage.nodes, names):
            node.plugin(name, f'[ -e {broken} ] && echo "FAIL it is broken" || echo OK')
            node.test(f"{HOST}/{name}")
        strategy = lying_node.Muting(HOST)
        with stage.lied_to(strategy) as there:
            stage.rounds(1)
            strategy.claims = True
            stage.rounds(1)
            claimed = stage.subjects(f"DOWN {HOST}/claimed")
            check.reached(claimed, f"what the liar alone claims is mailed: {claimed}")
            strategy.claims = False
            stage.rounds(2)
            opened = _open_tests(stage)
            check("claimed" not in opened, "it closes when no quorum sees it fail")
            check.reached("flaps" in opened, f"that a test flaps was taken in: {opened}")
            before = len(stage.place.subjects())
            broken.touch()
            time.sleep(ANSWER_AGE)
            stage.rounds(1)
            check.reached(there.stated >= 10, f"{there.stated} statements")
        mails = stage.place.mails()[before:]
        down = {test for mail in mails for test in names if _says_down(mail.get_content(), test)}
        check(down == set(names), f"what both see fail is mailed in that round: {sorted(down)}")


def _open_tests(stage: Stage) -> set[str]:
    """Return the names of the tests of which an honest node states an open incident."""
    found = set()
    for text in stage.statement(stage.first):
        word, _, value = text.partition(b" ")
        if word == b"incident":
            stated = json.loads(value)
            if stated.get("closed") is None:
                found.add(stated["test"]["name"])
    return found


def _says_down(text: str, test: str) -> bool:
    return f"{HOST}/{test} is DOWN since" in text


def stolen(check: Checks) -> None:
    """A peer's name is forged, so that it leads to this node."""
    with staged(5, [FIRST, SECOND, FORGED]) as stage, stage.lied_to(Strategy(), FORGED) as there:
        stage.rounds(1)
        check.reached(there.stated, f"the peer {FORGED} was greeted before")
        before = there.stated
        stage.forge(FIRST)
        taken = [stage.round(stage.first) for _ in range(3)]
        check(there.stated > before, "it is still called, at its last address")
        found = _naming(taken, FORGED)
        check(found, f"a peer whose name leads to this node's address is named: {found}")


def _naming(taken: Sequence[Round], name: str) -> list[str]:
    """Return the first of the warnings that name a peer."""
    texts = [text for each in taken for text in each.worse() if name in text]
    return texts[:1]


CHAPTERS: dict[str, Callable[[Checks], None]] = {
    "honest": honest,
    "flood": flood,
    "evidence": evidence,
    "loop": loop,
    "unasked": unasked,
    "info": info,
    "flapping": flapping,
    "muting": muting,
    "stolen": stolen,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="all of them unless given")
    chosen = parser.parse_args().chapters or list(CHAPTERS)
    if unknown := set(chosen) - CHAPTERS.keys():
        parser.error(f"no such chapter: {', '.join(sorted(unknown))}")
    check = Checks()
    for name in chosen:
        print(f"== {name}", flush=True)
        began = time.monotonic()
        try:
            CHAPTERS[name](check)
        except (OSError, AssertionError, protocol.ProtocolError) as error:
            check(False, f"the chapter goes on: {error!r}")
        print(f"-- {name}: {time.monotonic() - began:.0f} s", flush=True)
    print(f"{check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
