"""What the Debian package says of the programs, as far as it can be seen without building it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dmonitor import __version__

CHECKOUT = Path(__file__).parents[1]
DEBIAN = CHECKOUT / "debian"
PROGRAMS = sorted(path.name for path in (CHECKOUT / "bin").iterdir())
COMPLETE = """
. "$1"; shift
compopt() { echo "$@"; }
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_dmonitor
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(*words: str) -> set[str]:
    """Return what bash offers in place of the last of WORDS."""
    command = ["bash", "-c", COMPLETE, "bash", str(DEBIAN / "completion"), *words]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    assert ran.stderr == ""
    return set(ran.stdout.split())


def usage(program: str, *words: str) -> str:
    """Return what PROGRAM says it takes."""
    command = [sys.executable, str(CHECKOUT / "bin" / program), *words, "--help"]
    environment = {"PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=10, env=environment
    ).stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_bash_completes_what_the_program_takes(program: str) -> None:
    options = set(re.findall(r"--[a-z][a-z-]*", usage(program)))
    assert complete(program, "--") == options
    assert complete(program, "--ver") == {"--verbose", "--version"}
    assert complete(program, "--config", "/e") == {"-o", "dirnames"}
    for line in (DEBIAN / "dmonitor.bash-completion").read_text().splitlines():
        assert line.split()[1] in PROGRAMS


def test_bash_completes_what_dmonitor_is_to_do() -> None:
    assert "key" in complete("dmonitor", "")
    said = usage("dmonitor", "key")
    verbs = re.search(r"\[(new\|[a-z|]+)\]", said)
    assert verbs is not None
    assert complete("dmonitor", "key", "") == set(verbs[1].split("|"))
    assert complete("dmonitor", "key", "new", "") == set()
    every = re.findall(r"^    ([a-z]+) +[a-z]", usage("dmonitor"), re.MULTILINE)
    assert {"status", "key", "add", "push"} < set(every)
    for verb in every:
        assert verb in complete("dmonitor", ""), verb
        options = set(re.findall(r"--[a-z][a-z-]*", usage("dmonitor", verb)))
        assert options <= complete("dmonitor", verb, "x", "--"), verb


def test_the_package_has_the_version_of_the_programs() -> None:
    first = (DEBIAN / "changelog").read_text().splitlines()[0]
    assert re.match(rf"dmonitor \({re.escape(__version__)}-[0-9]+\) ", first)


def test_each_program_has_its_page() -> None:
    for program in PROGRAMS:
        assert (CHECKOUT / f"man/{program}.8").exists()
        assert (CHECKOUT / "bin" / program).read_text().startswith("#!/usr/bin/python3 -I")


def test_there_are_few_overrides_and_each_has_its_reason() -> None:
    lines = (DEBIAN / "dmonitor.lintian-overrides").read_text().splitlines()
    overrides = [number for number, line in enumerate(lines) if not line.startswith("#")]
    assert len(overrides) <= 5
    assert all(lines[number - 1].startswith("# ") for number in overrides)
