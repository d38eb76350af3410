"""What a fuzzer found is played again, and a fuzzer looks for a few seconds more; see tests/fuzz."""

from __future__ import annotations

import gc
import importlib.util
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

FUZZ = Path(__file__).parent / "fuzz"
sys.path.insert(0, str(FUZZ))

import targets  # noqa: E402
from targets import TARGETS  # noqa: E402

from dmonitor.core.model import Answer, Test, Vote  # noqa: E402
from dmonitor.execution.runner import Done  # noqa: E402
from dmonitor.net import peers  # noqa: E402

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


def test_the_targets_let_a_signed_line_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing after the hello would be fuzzed; that needs nonces which are known beforehand."""
    ran: list[Test] = []
    answered: list[Answer] = []
    run, keep = targets._Facts.run, peers.Asker._answered

    def recorded(facts: targets._Facts, test: Test, done: Done, /) -> None:
        ran.append(test)
        run(facts, test, done)

    def kept(asker: peers.Asker, test: Test, answer: Answer) -> None:
        answered.append(answer)
        keep(asker, test, answer)

    monkeypatch.setattr(targets._Facts, "run", recorded)
    monkeypatch.setattr(peers.Asker, "_answered", kept)
    targets.daemon(b"!test www.example.com/ssh\nquit")
    assert ran == [targets.SSH], "by the daemon that has a key"
    targets.caller(b"!dmonitor 1 name=paris id=0123456789ab\nanswer www.example.com/ssh OK\n")
    assert [answer.vote for answer in answered] == [Vote.ABSTAIN, Vote.PASSING], "with a key"


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
    assert executed and int(executed[0].split()[1]) > 200, ran.stderr[-1000:]
