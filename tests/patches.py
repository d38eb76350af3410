"""A patch that nobody reads proves nothing: find it (for conftest.py).

While a test has something patched, each function that is called is noted, in this process and in
those that it forks. A function in place of another one has to be called. Of any other value, a
function that uses its name has to be called. Threads that a test has started before it patches
something are not seen, so such a test is let off.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
import threading
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple
from unittest import mock

import pytest


class Patch(NamedTuple):
    """One attribute that was given another value."""

    owner: str
    name: str
    value: object

    def is_read_by(self, code: CodeType) -> bool:
        """Return whether the patch was read if the function of `code` was called."""
        own_code = getattr(self.value, "__code__", None)
        if own_code is not None:
            return code is own_code
        return self.name in code.co_names and code.co_filename != __file__

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}"


class Watch:
    """The patches of one test, and which of them were read."""

    def __init__(self, older: set[threading.Thread]) -> None:
        self._patches: list[Patch] = []
        self._read = mmap.mmap(-1, mmap.PAGESIZE)  # a byte for each patch; forks share it
        self._readers: dict[CodeType, list[int]] = {}  # which patches a function reads
        self._older = older  # threads of other tests

    def add(self, patch: Patch) -> None:
        """Watch `patch`, too, from now on."""
        if not self._older.issuperset(threading.enumerate()):
            self._read[len(self._patches)] = 1
        self._patches.append(patch)
        self._readers.clear()
        threading.setprofile(self._called)
        sys.setprofile(self._called)

    def unread(self) -> list[str]:
        """Return the patches that nobody has read, and watch no longer."""
        sys.setprofile(None)
        threading.setprofile(None)
        return [str(patch) for i, patch in enumerate(self._patches) if not self._read[i]]

    def _called(self, frame: FrameType, event: str, builtin: Any) -> None:
        if event == "call":
            for i in self._read_by(frame.f_code):
                self._read[i] = 1
        elif event == "c_call":
            for i, patch in enumerate(self._patches):
                if patch.value == builtin:
                    self._read[i] = 1

    def _read_by(self, code: CodeType) -> list[int]:
        if code not in self._readers:
            self._readers[code] = [
                i for i, patch in enumerate(self._patches) if patch.is_read_by(code)
            ]
        return self._readers[code]


@contextlib.contextmanager
def watched(older: set[threading.Thread]) -> Iterator[Watch]:
    """Watch all that monkeypatch patches in a block; `older` are the threads of other tests."""
    watch = Watch(older)
    original = pytest.MonkeyPatch.setattr

    def setattr_and_note(self: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        if isinstance(arguments[0], str):
            owner, _, name = arguments[0].rpartition(".")
            watch.add(Patch(owner, name, arguments[1]))
        else:
            owner = getattr(arguments[0], "__name__", type(arguments[0]).__name__)
            watch.add(Patch(owner, arguments[1], arguments[2]))

    with mock.patch.object(pytest.MonkeyPatch, "setattr", setattr_and_note):
        yield watch
