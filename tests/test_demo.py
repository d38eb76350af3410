"""The demo fails if dmonitor is broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a copy of the checkout, in which nothing is installed."""
    for name in ("dmonitor", "bin", "tests"):
        shutil.copytree(
            CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(CHECKOUT / "demo", tmp_path)
    (tmp_path / "tests/prepare").write_text(f"prepare() {{ python={sys.executable}; }}\n")
    return tmp_path


def run_demo(copy: Path, *arguments: str, cwd: Path | None = None) -> tuple[int, str]:
    """Return the exit status of `sh demo`, and its output with what is on stderr in between."""
    environment = os.environ.copy()
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):
        environment.pop(name, None)
    told = subprocess.run(
        ["sh", str(copy / "demo"), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
        check=False,
        cwd=cwd,
    )
    return told.returncode, told.stdout


def test_without_the_quorum_rule_the_demo_fails(copied: Path) -> None:
    module = copied / "dmonitor/core/verdict.py"
    code = module.read_text()
    assert code.count("len(failing) >= quorum") == 1
    module.write_text(code.replace("len(failing) >= quorum", "failing"))
    status, output = run_demo(copied)
    assert status == 1
    assert "verdict=DOWN was=UP votes=1 quorum=2" in output
    # What is on stderr comes after the story, whatever reads both.
    assert output.splitlines()[-1] == (
        "dmonitor demo: FAILED: expected the mails [], and got [('oncall@example.com', 'DOWN 127.0.0.21: http, ssh')]"
    )
    assert not list(copied.rglob("__pycache__")), "the demo leaves something behind"


def test_the_demo_says_how_it_is_called(copied: Path) -> None:
    for option in ("-h", "--help"):
        status, output = run_demo(copied, option)
        assert status == 0 and "demo [DIR]: write" in output and "==" not in output
    for wrong in (("--nonsense",), ("one", "two")):
        assert run_demo(copied, *wrong) == (os.EX_USAGE, "usage: sh demo [DIR]\n")


def test_the_demo_makes_the_directory_of_its_page_where_it_is_called(
    copied: Path, tmp_path: Path
) -> None:
    """Before it begins: otherwise it fails in the end, when all was shown."""
    (copied / "tests/demo_story.py").write_text("import sys\nprint(sys.argv[1:])\n")
    caller = tmp_path / "caller"
    caller.mkdir()
    assert run_demo(copied, "new/page", cwd=caller) == (0, f"['{caller}/new/page']\n")
    assert (caller / "new/page").is_dir() and run_demo(copied, cwd=caller) == (0, "[]\n")
    status, output = run_demo(copied, "/proc/no/page", cwd=caller)
    assert status == os.EX_CANTCREAT and "no page can be written to /proc/no/page" in output
