"""Which addresses took the mail of a test that a person has made (rule R5).

`dmonitor-check --test-alert` leaves them in a file of its own for the next round, because only a
round writes to the database. If that fails, what was refused before is forgotten later.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from dmonitor.base import regular

_NAME = "test-taken"
_BYTES = 100_000  # that are read


def write(directory: str, addresses: Iterable[str]) -> None:
    """Leave the `addresses` for the next round."""
    with contextlib.suppress(OSError), open(regular.create(f"{directory}/{_NAME}"), "w") as file:
        file.writelines(f"{address}\n" for address in addresses)


def take(directory: str) -> frozenset[str]:
    """Return the addresses that were left, once."""
    path = f"{directory}/{_NAME}"
    with contextlib.suppress(OSError):
        with open(regular.open_file(path), "rb") as file:
            left = file.read(_BYTES)
        os.unlink(path)
        return frozenset(left.decode("utf-8", "replace").split("\n"))
    return frozenset()
