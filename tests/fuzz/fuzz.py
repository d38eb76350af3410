#!/usr/bin/env python3
"""Let a coverage-guided fuzzer (atheris) look for bytes that break a target.

Usage: fuzz.py TARGET SECONDS [CORPUS].

What it finds of interest is added to CORPUS, which is tests/fuzz/corpus/TARGET unless named. Ends
with 0 if nothing broke. With each doubling of the executions it prints how many of them reached
what: if none reaches what the target is for, the hours of a fuzzer are wasted.
"""

from __future__ import annotations

import collections
import resource
import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

with atheris.instrument_imports(include=["dmonitor"]):
    from targets import TARGETS

WARM = 2_000  # executions before memory is measured
_GROWTH = 300  # MB; a fuzzer keeps much itself, see tests/test_fuzz.py for what the targets keep


def main() -> None:
    target, seconds, *more = sys.argv[1:]
    corpus = Path(more[0]) if more else HERE / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    count = warm = 0
    reached: collections.Counter[str] = collections.Counter()

    def once(data: bytes) -> None:
        nonlocal count, warm
        reached.update(TARGETS[target](data))
        count += 1
        if count & (count - 1) == 0:
            show()
        now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        warm = warm or (now if count >= WARM else 0)
        if warm and now > warm + _GROWTH:
            raise MemoryError(f"grew from {warm} to {now} MB in {count} executions")

    def show() -> None:
        words = [f"{word} {number}" for word, number in sorted(reached.items())]
        print(f"reached: {', '.join(words) or 'nothing'}", file=sys.stderr, flush=True)

    limits = [
        "-timeout=5",
        "-rss_limit_mb=1000",
        "-max_len=20000",
        "-print_final_stats=1",
        f"-max_total_time={seconds}",
    ]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={corpus.parent}/", str(corpus)], once)
    atheris.Fuzz()


main()
