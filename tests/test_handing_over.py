"""Handing over takes as long as there is to tell, tests times addresses, and no longer (R6).

What is counted is work, and not time: calls of Python functions, and SQL statements.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dmonitor import driver
from dmonitor.core import effects
from dmonitor.core.model import (
    Answer,
    Contact,
    Incident,
    Judgement,
    Node,
    Outcome,
    Result,
    Test,
    Verdict,
)
from dmonitor.core.outbox import Outbox
from dmonitor.core.situation import Situation
from dmonitor.core.telling import Telling
from dmonitor.execution import delivery, keeper
from dmonitor.store import state
from dmonitor.store.state import Store

ME, PEER = Node("me", "me"), Node("peer", "peer")
ANSWERS = tuple(
    Answer(node, f"{node.name:x<8}", Result(Outcome.FAIL, "refused")) for node in (ME, PEER)
)
FEW, MANY = 20, 100  # tests, or addresses
MOST = {"call": 80, "statement": 4}  # the most work for one more pair, by its kind


class Clock:
    """The clock of a round that has begun a moment ago."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.later = 0.0  # seconds; who has refused a mail rests for a minute

    def now(self) -> float:
        return self._store.clock.now() + self.later

    def elapsed(self) -> float:
        return 5.0

    def minute(self, at: float, /) -> int:
        return int(at // 60)

    def text(self, at: float, /) -> str:
        return str(at)


class Teller:
    """A node alone that has opened an incident of each of its tests, and mails many addresses."""

    def __init__(self, directory: Path, tests: int, addresses: int) -> None:
        directory.mkdir()
        self.store = Store(str(directory))
        self.addresses = tuple(f"a{number}@example.com" for number in range(addresses))
        self._tests = [Test(f"host{number}.example.com", "http") for number in range(tests)]
        now = self.store.clock.now()
        judgement = Judgement(Verdict.DOWN, 2, ANSWERS)
        incidents = []
        for number, test in enumerate(self._tests):
            ids = (f"{number:016x}",)
            incidents.append(Incident(ids, test, now, judgement, seen=now, held=now, minute=1))
        begins = (now - 120.0, now - 60.0)
        memory = effects.NodeMemory(begins=begins, finished=now - 50.0, speaks=True)
        self.store.save(effects.Save(node=memory, incidents=tuple(incidents)))
        self.clock = Clock(self.store)
        self._driver = driver.Driver.__new__(driver.Driver)
        settings = SimpleNamespace(sender="dmonitor", sendmail="/bin/false")
        configuration = SimpleNamespace(keys=None, settings=settings)
        configuration.with_sender = lambda _: configuration
        facts = {
            "_configuration": configuration,
            "_store": self.store,
            "_clock": self.clock,
            "_name": "me",
            "_woken": False,
            "_hand_over": None,
            "_kept_files": set(),
            "_directories": (),
        }
        for name, fact in facts.items():
            setattr(self._driver, name, fact)

    def tell(self) -> Counter[str]:
        """Tell in one round all that is to be told; return how much work that was, by its kind."""
        work: Counter[str] = Counter()
        db = self.store._db
        db.set_trace_callback(lambda _: work.update(["statement"]))
        sys.setprofile(lambda _, event, __: work.update([event]))
        try:
            self.tell_unwatched()
        finally:
            sys.setprofile(None)
            db.set_trace_callback(None)
        return work

    def tell_unwatched(self) -> None:
        """Tell the same, and count nothing."""
        memory = self.store.memory()
        config = effects.RoundConfig(
            "aaaaaaaa", frozenset(self._tests), "d", self.addresses, nodes=(ME,)
        )
        situation = Situation(config, memory, self.clock, lambda *_, **__: None)
        situation.recognise(effects.Observation(ME, {}, [Contact(ME, "aaaaaaaa")], frozenset()))
        script = Telling(situation, Outbox(memory.outbox, situation.audience), state.fresh_id).run()
        answer: Any = None
        while True:
            try:
                effect = script.send(answer)
            except StopIteration:
                return
            answer = self._driver._do(effect)


class Sendmail:
    """Takes each mail, unless its address is among those that refuse; counts what it took."""

    def __init__(self) -> None:
        self.taken = 0
        self.refusing: tuple[str, ...] = ()

    def send(
        self, letters: Mapping[str, delivery.Letter], *_: object, patience: float
    ) -> Iterator[tuple[str, delivery.Delivery]]:
        for address in letters:
            is_taken = address not in self.refusing
            self.taken += is_taken
            yield address, delivery.Delivery(is_taken, "")


@pytest.fixture
def sendmail(monkeypatch: pytest.MonkeyPatch) -> Sendmail:
    sendmail = Sendmail()
    monkeypatch.setattr(keeper, "hand_over", sendmail.send)
    monkeypatch.setattr(driver, "MAIL_LINES", 1)  # they are bounded, and count for nothing here
    return sendmail


def rows(store: Store, table: str) -> int:
    (count,) = store._db.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert isinstance(count, int)
    return count


def work_of(
    directory: Path, sendmail: Sendmail, tests: int, addresses: int, refusing: int
) -> Counter[str]:
    """Return how much work it is to tell many addresses of many tests; some refuse at first."""
    teller = Teller(directory / f"{tests}-{addresses}", tests, addresses)
    with teller.store:
        return work_with(teller, sendmail, tests, addresses, refusing)


def work_with(
    teller: Teller, sendmail: Sendmail, tests: int, addresses: int, refusing: int
) -> Counter[str]:
    sendmail.taken = 0
    sendmail.refusing = teller.addresses[1 : 1 + refusing]
    work = teller.tell()
    assert sendmail.taken == addresses - refusing
    assert rows(teller.store, "outbox") == refusing * tests
    sendmail.refusing = ()
    teller.clock.later = 70.0
    work += teller.tell()
    assert sendmail.taken == addresses and not rows(teller.store, "outbox")
    assert rows(teller.store, "handed") == tests * addresses
    assert {incident.alert for incident in teller.store.incidents()} == {"me"}
    return work


@pytest.mark.parametrize("share", [0.0, 0.2], ids=["all-take", "some-refuse"])
def test_it_is_linear_in_tests_times_addresses(
    tmp_path: Path, sendmail: Sendmail, share: float
) -> None:
    """What some addresses refuse is read, and handed over, once more in the next round.

    What a test costs, and what an address costs, is taken out: what is left is of the pairs.
    """
    works = {}
    for tests, addresses in itertools.product((FEW, MANY), repeat=2):
        refusing = int(addresses * share)
        works[tests, addresses] = work_of(tmp_path, sendmail, tests, addresses, refusing)
    of_pairs = works[MANY, MANY] - works[MANY, FEW] - works[FEW, MANY] + works[FEW, FEW]
    for kind, limit in MOST.items():
        assert 0 < of_pairs[kind] / (MANY - FEW) ** 2 < limit, kind
