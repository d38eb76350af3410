#!/usr/bin/env python3
"""Count the edges that a corpus reaches in dmonitor, and those that it reaches beyond authentication.

An edge leads from one line to the next one in a function. Beyond authentication are those which the
same inputs do not reach with another key. Everything that the targets `lines`, `statement` and
`told` reach has passed authentication, or needs none.

Usage: edges.py TARGET [CORPUS].
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import targets  # noqa: E402

from dmonitor.config import keyfile  # noqa: E402

PACKAGE = str(HERE.parents[1] / "dmonitor")
Edge = tuple[CodeType, int, int]  # a function, and the lines from and to which it leads


def edges_of(play: Callable[[], object]) -> set[Edge]:
    """Return the edges that `play` reaches."""
    edges: set[Edge] = set()

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        last = 0

        def step(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal last
            if event == "line":
                edges.add((frame.f_code, last, frame.f_lineno))
                last = frame.f_lineno
            return step

        return step

    threading.settrace(enter)
    sys.settrace(enter)
    try:
        play()
    finally:
        sys.settrace(None)
        threading.settrace(None)
    return edges


def beyond(name: str, corpus: list[bytes]) -> set[Edge]:
    """Return the edges that the sealed inputs in `corpus` reach with the key, and only with it."""
    play = {"daemon": targets.serve, "caller": targets.call}[name]
    sealed = [data for data in corpus if data.startswith(targets.SEALED)]
    keys = keyfile.of_all(targets.KEY)

    def play_all(key: bytes) -> None:
        for data in sealed:
            play(data, keys, key=key)

    with_key = edges_of(lambda: play_all(targets.KEY))
    return with_key - edges_of(lambda: play_all(targets.OTHER_KEY))


def main() -> None:
    name, *more = sys.argv[1:]
    folder = Path(more[0]) if more else HERE / "corpus" / name
    corpus = [path.read_bytes() for path in sorted(folder.iterdir())]

    def play_all() -> None:
        for data in corpus:
            targets.TARGETS[name](data)

    text = f"{name}: {len(corpus)} inputs reach {len(edges_of(play_all))} edges"
    if name in ("daemon", "caller"):
        text += f", {len(beyond(name, corpus))} of them beyond authentication"
    print(text)


if __name__ == "__main__":
    main()
