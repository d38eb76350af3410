"""What a fuzzer found is played again, and a fuzzer looks for a few seconds more; see tests/fuzz."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

FUZZ = Path(__file__).parent / "fuzz"
sys.path.insert(0, str(FUZZ))

import targets  # noqa: E402
from targets import TARGETS  # noqa: E402

from dmonitor.config import keyfile  # noqa: E402
from dmonitor.net import auth  # noqa: E402

CORPUS = {
    name: [path.read_bytes() for path in sorted((FUZZ / "corpus" / name).iterdir())]
    for name in TARGETS
}
_PAGES, _PAGE = 400, 4096  # of memory that the same again and again may add


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus(name: str) -> None:
    assert len(CORPUS[name]) > 5
    for data in CORPUS[name]:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_again_and_again_keeps_nothing(name: str) -> None:
    few = CORPUS[name][:40]
    for data in few * 5:
        TARGETS[name](data)
    gc.collect()
    before = _resident()
    for data in few * 15:
        TARGETS[name](data)
    gc.collect()
    assert _resident() - before < _PAGES, "pages"


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


@given(st.binary(max_size=2000))
def test_random_bytes(data: bytes) -> None:
    for target in TARGETS.values():
        target(data)


@given(st.data())
def test_pieces_of_the_corpus_in_another_order(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(TARGETS)))
    one, other = (data.draw(st.sampled_from(CORPUS[name])) for _ in range(2))
    cut, again = data.draw(st.integers(0, len(one))), data.draw(st.integers(0, len(other)))
    TARGETS[name](one[:cut] + other[again:])


PARIS = b"!dmonitor 1 name=paris id=0123456789ab\n"
STANDING = b'standing {"name":"paris","node_id":"0123456789ab","at":0}\n'
INCIDENT = b'incident {"ids":["abcdefgh"],"test":{"host":"www.example.com","name":"ssh"},"began":60,"seen":0}\n'
ANSWER = b"answer www.example.com/ssh OK\n"
# Right inputs, and all that each of them reaches.
RIGHT: list[tuple[str, bytes, set[str]]] = [
    ("daemon", b"!test www.example.com/ssh\nquit", {"ran"}),
    ("daemon", b"!test www.example.com/www\nwake\ngreet", {"not configured", "woken", "statement"}),
    ("daemon", b"!tests\nincident known000", {"tests", "incident"}),
    ("caller", PARIS + ANSWER, {"answer"}),
    ("caller", PARIS + STANDING + b"end\nend\n" + ANSWER, {"answer", "statement"}),
    (
        "caller",
        PARIS + STANDING + INCIDENT + b"end\nend\nend\nhas www.example.com/ssh\nend\n",
        {"statement", "incidents", "tests"},
    ),
    ("statement", STANDING, {"heard"}),
    ("statement", STANDING + INCIDENT, {"heard", "opened", "stored", "stated"}),
    ("told", b"\0\0FAIL no route\n\nrefused", {"FAIL", "answered", "alert", "recovery"}),
]


@pytest.mark.parametrize(("name", "data", "reached"), RIGHT)
def test_a_right_input_reaches_what_its_target_is_for(
    name: str, data: bytes, reached: set[str]
) -> None:
    assert TARGETS[name](data) == reached


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_reaches_what_its_target_is_for(name: str) -> None:
    """Otherwise a fuzzer would have to find by chance how to say anything that matters."""
    reached: set[str] = set()

    def play() -> None:
        for data in CORPUS[name]:
            reached.update(TARGETS[name](data))

    called = called_by(play)
    assert reached == targets.REACHED[name]
    missing = [each.__qualname__ for each in targets.CALLED[name] if each.__code__ not in called]
    assert not missing


def called_by(play: Callable[[], None]) -> set[object]:
    """Return the code of each function that `play` calls, also in a thread that it starts."""
    called: set[object] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.add(frame.f_code)

    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        play()
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    return called


def test_whoever_has_another_key_reaches_nothing() -> None:
    """What the two targets return is reached beyond authentication, and nowhere else."""
    for name, play in (("daemon", targets.serve), ("caller", targets.call)):
        for data in CORPUS[name]:
            if data.startswith(targets.SEALED):
                assert not play(data, keyfile.of_all(targets.KEY), key=targets.OTHER_KEY)


@pytest.mark.parametrize("name", ["daemon", "caller"])
def test_a_target_whose_seals_are_worth_nothing_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check itself is checked: nothing is reached if the other side can verify no line."""
    monkeypatch.setattr(auth, "_SIGNED", rb"(.*) mic=([0-9a-f]{64})")
    reached: set[str] = set()
    for data in CORPUS[name]:
        with contextlib.suppress(auth.Forged):
            reached.update(TARGETS[name](data))
    assert not reached


def test_the_corpora_are_small() -> None:
    assert sum(len(data) for corpus in CORPUS.values() for data in corpus) < 500_000, "bytes"


HAS_FUZZER = importlib.util.find_spec("atheris") is not None


def test_the_fuzzer_is_there() -> None:
    """tests/run installs it, where PyPI has it."""
    assert HAS_FUZZER or platform.machine() != "x86_64" or sys.version_info >= (3, 15)


@pytest.mark.skipif(not HAS_FUZZER, reason="PyPI has atheris for x86_64, and for Python up to 3.14")
@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_of_the_fuzzer(name: str, tmp_path: Path) -> None:
    corpus = tmp_path / name
    shutil.copytree(FUZZ / "corpus" / name, corpus)
    ran = subprocess.run(
        [sys.executable, str(FUZZ / "fuzz.py"), name, "3", str(corpus)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    executed = [
        line
        for line in ran.stderr.splitlines()
        if line.startswith("stat::number_of_executed_units:")
    ]
    assert executed and int(executed[0].split()[1]) > 50, ran.stderr[-1000:]
    reached = [line for line in ran.stderr.splitlines() if line.startswith("reached: ")]
    missing = [word for word in targets.REACHED[name] if f"{word} " not in reached[-1]]
    assert not missing, f"while the fuzzer ran, and for as long as it will: {reached[-1]}"
