"""`told`: what a round takes to hand over very much, tests × addresses, without what sendmail takes.

The collector of garbage is off, as `bin/dmonitor-check` has it: with it, this takes almost twice as long.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from frame import PYTHON, Bench, Failed, Row, measured, ratios

TESTS, FEW, MANY = 10_000, 10, 100  # addresses
CPU = 20.0  # seconds for all pairs of the tests and MANY addresses


def rows(bench: Bench) -> Iterator[Row]:
    few, many = [], []
    for _ in range(bench.repeats):
        few.append(_told(bench, FEW))
        many.append(_told(bench, MANY))
    yield measured(f"{TESTS} tests × {FEW} addresses: CPU", few, "s")
    yield measured(f"{TESTS} tests × {MANY} addresses: CPU", many, "s", CPU)
    yield ratios("the same, in times of the former", many, few, MANY / FEW)


def _told(bench: Bench, addresses: int) -> float:
    """Return the CPU seconds that a process takes to tell all of its tests to so many addresses."""
    bench.measure([PYTHON, __file__, str(bench.directory), str(addresses)])
    try:
        return float(bench.output())
    except ValueError:
        raise Failed(bench.output()) from None


def _tell(directory: Path, addresses: int) -> float:
    """Tell all tests to so many addresses; return the CPU seconds that took."""
    from test_handing_over import Sendmail, Teller

    from dmonitor import driver
    from dmonitor.execution import keeper

    sendmail = Sendmail()
    keeper.hand_over = sendmail.send  # type: ignore[assignment]
    driver.MAIL_LINES = 1
    teller = Teller(directory, TESTS, addresses)
    began = time.process_time()
    teller.tell_unwatched()
    took = time.process_time() - began
    if sendmail.taken != addresses or {each.alert for each in teller.store.incidents()} != {"me"}:
        raise SystemExit("not all was told")
    return took


if __name__ == "__main__":
    gc.disable()
    import tempfile

    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as place:
        print(_tell(Path(place) / "state", int(sys.argv[2])))
