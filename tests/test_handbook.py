"""The commands of the handbook do what it says, as they stand; so do the examples for git and Ansible.

A block of commands has a comment before it: `run` if it is run here, on the first of three real nodes;
`read` if it needs another machine, an init or apt, so that somebody has only read it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_nodes import LocalNode, Place, running

CHECKOUT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in (CHECKOUT / "doc").glob("*.md")
    if re.search(r"^<!-- (?:run|read) -->$", path.read_text(), re.MULTILINE)
)
BLOCK = re.compile(r"(?ms)^(?:<!-- (\w+) -->\n)?```sh\n(.*?)^```$")
NAMES = ("127.0.0.61", "127.0.0.62", "127.0.0.63")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the blocks of commands of a page, each after its mark."""
    return BLOCK.findall(page.read_text())


class Machine:
    """The first of three nodes, with the paths that the package would give it below a directory."""

    def __init__(self, place: Place, node: LocalNode) -> None:
        self.node = node
        self.root = place.directory / "machine"
        for name in ("etc", "root", "bin"):
            (self.root / name).mkdir(parents=True)
        node.config.rename(self.root / "etc/dmonitor")
        node.config = self.root / "etc/dmonitor"
        for program in ("dmonitor", "dmonitor-check", "dmonitord"):
            words = " ".join(node.command(program))
            path = self.root / "bin" / program
            path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            path.chmod(0o755)

    def type_in(self, block: str, cwd: Path | None = None) -> str:
        """Run a block of a page; return what it printed. AssertionError if a command fails."""
        places = {
            "/usr/share/doc/dmonitor/examples": CHECKOUT / "etc/examples",
            "/var/lib/dmonitor": self.node.state,
            "/etc": self.root / "etc",
            "/root": self.root / "root",
        }
        for name, path in places.items():
            block = re.sub(rf"(?<![\w.]){name}\b(?!\.)", str(path), block)
        ran = subprocess.run(
            ["sh", "-euc", block],
            env=self.environment(),
            cwd=cwd or self.root,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=100,
            check=False,
            start_new_session=True,
        )
        assert ran.returncode == 0, (
            f"{block}\nended with {ran.returncode}:\n{ran.stdout}{ran.stderr}"
        )
        return ran.stdout

    def environment(self) -> dict[str, str]:
        """Return what a person's shell has, with our programs first."""
        around = self.node.place.environment()
        return {**around, "PATH": f"{self.root}/bin:{os.environ['PATH']}"}


@pytest.fixture
def machine(place: Place, port: int) -> Iterator[Machine]:
    """Return a node that has run a round, and has two peers."""
    nodes = [LocalNode(place, name, NAMES, port=port) for name in NAMES]
    machine = Machine(place, nodes[0])
    for node in nodes:
        # Each plugin has the parameters of its like, and says OK.
        for plugin in (*(CHECKOUT / "plugins").iterdir(),):
            stated = re.findall(r"^#: .*\n", plugin.read_text(), re.MULTILINE)
            node.plugin(plugin.name.removeprefix("check_"), "".join(stated) + "echo OK fine\n")
        node.test("www.example.com/http")
        node.test("www.example.com/ping")
        node.mail()
        node.key("0123456789abcdef0123456789abcdef")
    with running(nodes):
        for node in nodes:
            node.round()
        yield machine


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_can_be_typed(page: Path, machine: Machine) -> None:
    marks = [mark for mark, _ in blocks(page)]
    assert marks.count("run") >= 1
    if any(mark == "run" and "curl" in block for mark, block in blocks(page)):
        if not shutil.which("curl"):
            pytest.skip("a block of this page needs curl, which an ordinary user cannot install")
    for mark, block in blocks(page):
        assert mark in ("run", "read"), block
        if mark == "run":
            machine.type_in(block)


def test_what_day_two_changes_is_changed(machine: Machine) -> None:
    """Nothing of it is lost on the way: what was added is there, and what was removed is not."""
    lines = machine.node.config / "nodes.txt"
    lines.write_text(lines.read_text() + "rome.example.com\n")
    before = (machine.node.config / "key").read_text()
    typed = [block for mark, block in blocks(CHECKOUT / "doc/day-two.md") if mark == "run"]
    added = next(number for number, block in enumerate(typed) if "madrid" in block)
    machine.type_in(typed[added])
    assert "madrid.example.com" in lines.read_text()
    for block in typed[added + 1 :]:
        if "--check-config" not in block:  # rome cannot be looked up
            machine.type_in(block)
    assert lines.read_text().split() == [*NAMES, "lisbon.example.com"]
    assert (machine.node.config / "key").read_text() != before
    assert (machine.node.config / "key.old").read_text() == before
    assert (machine.node.config / "hosts.d/2001:db8::80/ping6").exists()


EXAMPLE = CHECKOUT / "etc/examples/cluster"


def tree(directory: Path) -> set[str]:
    """Return what is in hosts.d and alert.d, with where links lead to."""
    found = set()
    for name in ("hosts.d", "alert.d"):
        for path in (directory / name).rglob("*"):
            leads = f" -> {os.readlink(path)}" if path.is_symlink() else ""
            found.add(f"{path.relative_to(directory)}{leads}")
    return found


def test_the_example_for_git_is_taken_to_a_node(machine: Machine, tmp_path: Path) -> None:
    repository = tmp_path / "cluster"
    shutil.copytree(EXAMPLE, repository, symlinks=True)
    (repository / "nodes.txt").write_text("".join(f"{name}\n" for name in NAMES))
    pushed = machine.root / "bin/dmonitor"
    pushed.write_text(f'#!/bin/sh\necho "$@" >>{machine.root}/pushed\n')
    machine.node.test("old.example.com/ping")
    around = f"export DMONITOR_CONFIG={machine.node.config}\n"
    check = machine.root / "bin/dmonitor-check"
    # The wrapper names this node's directory; the last --config counts.
    machine.type_in(around + "./apply", repository)
    assert tree(machine.node.config) == tree(EXAMPLE)
    assert "hosts.d/shop.example.com -> .web" in tree(EXAMPLE)
    assert (machine.root / "pushed").read_text() == "push\n"
    assert check.exists() and not machine.node.config.with_name("dmonitor.new").exists()
    # With a mistake nothing changes, and nothing is pushed.
    (repository / "hosts.d/www.example.com/htpp").touch()
    with pytest.raises(AssertionError, match="no plugin"):
        machine.type_in(around + "./apply", repository)
    assert tree(machine.node.config) == tree(EXAMPLE)
    assert (machine.root / "pushed").read_text() == "push\n"


@pytest.mark.skipif(not shutil.which("ansible-playbook"), reason="needs ansible-core")
def test_the_example_for_ansible_is_taken_to_a_node(machine: Machine, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE.parent, tmp_path / "examples", symlinks=True)
    cluster = tmp_path / "examples/cluster"
    (cluster / "nodes.txt").write_text("".join(f"{name}\n" for name in NAMES))
    machine.node.test("old.example.com/ping")
    play = f"""
        ansible-playbook -i 'oslo,' -c local -e ansible_become=false -e dmonitor_config={machine.node.config} \\
            -e dmonitor_key=fedcba9876543210fedcba9876543210 site.yml
        """
    book = tmp_path / "examples/ansible"
    site = book / "site.yml"
    site.write_text(site.read_text().replace("hosts: dmonitor", "hosts: all"))
    around = f"export ANSIBLE_LOCAL_TEMP={tmp_path} ANSIBLE_REMOTE_TEMP={tmp_path}/remote\n"
    said = machine.type_in(around + play, book)
    assert tree(machine.node.config) == tree(EXAMPLE), said
    assert (machine.node.config / "key").read_text().strip() == "fedcba9876543210fedcba9876543210"
    assert (machine.node.config / "key.old").read_text().startswith("0123456789abcdef")
    again = machine.type_in(around + play, book)
    assert "changed=0" in again, again
