"""What nobody need be told of now: silences, flapping, what stands before a test (rule R9).

Pure. A round and what shows a node's state ask the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dmonitor.core import behind
from dmonitor.core.ledger import Ledger
from dmonitor.core.model import Incident, Test


def is_quiet(
    incident: Incident,
    ledger: Ledger,
    is_silenced: Callable[[Test, float], bool],
    parents: Mapping[Test, Sequence[Test]],
    *,
    now: float,
    slowest: int,
) -> bool:
    """Return whether nobody may be mailed about `incident` now (R9).

    An operator has silenced its test, or the test flaps and only the flapping is told, or what
    stands before it is DOWN: `parents` of each test. That a test flaps is not believed of one peer.
    The interval of the slowest node is `slowest` minutes.
    """
    flapping = ledger.open_for(incident.test, flapping=True)
    if flapping and flapping.is_fact and not incident.flapping:
        return True
    if is_silenced(incident.test, now):
        return True
    before = parents.get(incident.test)
    if not before:
        return False
    return behind.is_hidden(incident, before, ledger, now=now, slowest=slowest)
