"""What the Debian package says of the programs, as far as it can be seen without building it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmonitor import __version__
from dmonitor.config.silences import read_term

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
    assert {"until", "every", "off"} <= complete("dmonitor", "silence", "www.example.com", "")
    assert "off" not in complete("dmonitor", "history", "www.example.com", "")
    every = re.findall(r"^    ([a-z]+) +[a-z]", usage("dmonitor"), re.MULTILINE)
    assert {"status", "key", "add", "push"} < set(every)
    for verb in every:
        assert verb in complete("dmonitor", ""), verb
        options = set(re.findall(r"--[a-z][a-z-]*", usage("dmonitor", verb)))
        assert options <= complete("dmonitor", verb, "x", "--"), verb


def test_what_an_upgrade_does_once_it_does_once() -> None:
    """This version is a later one than those whose silences are converted."""
    script = (DEBIAN / "dmonitor.postinst").read_text()
    (last,) = re.findall(r'dpkg --compare-versions "\$2" le (\S+);', script)
    first = (DEBIAN / "changelog").read_text().splitlines()[0]
    versions = [tuple(map(int, re.findall(r"\d+", text))) for text in (last, first)]
    assert len(versions[0]) == len(versions[1]) == 4 and versions[0] < versions[1]


def test_an_upgrade_writes_the_ends_of_silences_into_their_files(tmp_path: Path) -> None:
    """Before, an empty file whose time was ahead of its last change ended at that time."""
    script = (DEBIAN / "dmonitor.postinst").read_text()
    found = re.search(r"(?ms)^move_ends_into_files\(\) .*?^}$", script)
    assert found and "    move_ends_into_files /etc/dmonitor/silence.d\n" in script
    now = int(time.time())
    host = tmp_path / "www.example.com"
    host.mkdir()
    ends = {
        tmp_path / "db.example.com": now + 7200,
        host / "http": now + 90,
        host / "lasts": now - 100,
        host / "full": now + 7200,
        host / "ended": now + 2,
        tmp_path / "far": now + 2_000_000_000,
    }
    for file, end in ends.items():
        file.write_text("" if file.name != "full" else "every sun 03:00-04:00\n")
        os.utime(file, (end, end))
    time.sleep(max(0.0, now + 2.1 - time.time()))
    for _ in range(2):  # whatever is done twice
        command = ["sh", "-eu", "-c", f'{found[0]}\nmove_ends_into_files "$1"', "sh", str(tmp_path)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        assert not (host / "ended").exists()
        for file in (host / "lasts", tmp_path / "far"):
            assert file.read_text() == ""
        assert (host / "full").read_text() == "every sun 03:00-04:00\n"
        for file in (tmp_path / "db.example.com", host / "http"):
            assert read_term(file.read_text().strip()).until == ends[file]
            assert file.stat().st_mode & 0o777 == 0o644
        assert len(list(host.iterdir())) == 3 and len(list(tmp_path.iterdir())) == 3
    nothing = subprocess.run([*command[:-1], str(tmp_path / "none")], check=False, timeout=10)
    assert nothing.returncode == 0


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


def test_a_release_names_what_is_missing_and_then_begins(tmp_path: Path) -> None:
    for name in ("debian/release", "debian/control", "debian/changelog", "debian/NEWS"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((CHECKOUT / name).read_text())
    (tmp_path / "dmonitor").mkdir()
    (tmp_path / "dmonitor/__init__.py").write_text('__version__ = "9.9"\n')
    (tmp_path / "CONTACTS.md").write_text((CHECKOUT / "CONTACTS.md").read_text())
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## Unreleased\n")

    git = tmp_path / "bin/git"  # says that a file has changed
    git.parent.mkdir()
    git.write_text("#!/bin/sh\necho ' M README.md'\n")
    git.chmod(0o755)

    def check() -> tuple[int, list[str]]:
        ran = subprocess.run(
            ["sh", "debian/release", "--check"],
            cwd=tmp_path,
            env={"PATH": f"{git.parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        return ran.returncode, ran.stderr.splitlines()

    status, wrong = check()
    assert status == 1 and len(wrong) == 8
    assert sum("placeholder" in line for line in wrong) == 4
    for file in (*(tmp_path / "debian").iterdir(), tmp_path / "CONTACTS.md"):
        if file.name != "release":
            text = file.read_text().replace("dmonitor.example", "dmonitor.test")
            file.write_text(text.replace(__version__, "9.9"))
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## 9.9, 2026-11-30\n")
    assert check() == (1, [wrong[-1]]) and "not committed" in wrong[-1]
    git.write_text("#!/bin/sh\n")
    assert check() == (0, [])


def test_contacts_are_in_one_file_and_where_a_package_names_them() -> None:
    """Whoever publishes dmonitor has to find each placeholder: CONTRIBUTING.md names these files."""
    listed = subprocess.run(
        ["grep", "-rlI", "--exclude-dir=.?*", "dmonitor[.]example", "."],
        cwd=CHECKOUT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = {name.removeprefix("./") for name in listed.stdout.split()}
    named = {"CONTACTS.md", "debian/control", "debian/changelog", "debian/NEWS"}
    about = {"CONTRIBUTING.md", "debian/release", "tests/test_package.py"}
    assert {name for name in found if not name.startswith(("dist/", "tests/"))} - about == named
    for name in named:
        assert f"`{name}`" in (CHECKOUT / "CONTRIBUTING.md").read_text()
