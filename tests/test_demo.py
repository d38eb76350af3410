"""The demo fails if dmonitor is broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]


def test_without_the_quorum_rule_the_demo_fails(tmp_path: Path) -> None:
    for name in ("dmonitor", "bin", "tests"):
        shutil.copytree(
            CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    module = tmp_path / "dmonitor/core/verdict.py"
    code = module.read_text()
    assert code.count("len(failing) >= quorum") == 1
    module.write_text(code.replace("len(failing) >= quorum", "failing"))
    told = subprocess.run(
        [sys.executable, str(tmp_path / "tests" / "demo_story.py")],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert told.returncode == 1
    assert "verdict=DOWN was=UP votes=1 quorum=2" in told.stdout
    assert (
        "FAILED: expected the mails [], and got [('oncall@example.com', 'DOWN 2 tests on 127.0.0.21: http, ssh')]"
        in told.stderr
    )
