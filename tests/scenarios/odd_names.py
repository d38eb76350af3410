#!/usr/bin/env python3
"""Names that nobody should have, wherever dmonitor meets a name: a table of what happened, all of it harmless and clear.

One node with a quorum of 1, a host that fails, and an address that is mailed; around them the odd names. Works as any user.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from calls import free_port, raw
from local_nodes import ADDRESS, LocalNode, Place, running

from dmonitor.config.sender import default_sender

NODE = "127.0.0.57"
ODD = {
    "-oProxyCommand=x": "-oProxyCommand=x",
    "../../etc": "../../etc",
    "a, line feed, b": "a\nb",
    "${run{x}}@y": "${run{x}}@y",
    "255 characters": "y" * 255,
    "300 characters": "x" * 300,
    "emoji": "\N{FIRE}",
    "$(touch x)": "$(touch x)",
    "a b": "a b",
    "right to left": "a\N{RIGHT-TO-LEFT OVERRIDE}b",
    "not UTF-8": "a\udcffb",
    "ESC c": "\x1bc",
    "node": "node",
}
# What is no mistake there.
PROPER = {
    ("node", "alert.d/NAME"): "a local user",
    ("node", "hosts.d/good/NAME"): "a test",
    ("node", "silence.d/NAME"): "silences all nodes",
    ("node", "nodes.txt"): "a node's name",
    ("a, line feed, b", "nodes.txt"): "two nodes, a and b",
    ("a b", "nodes.txt"): "node a of site b",
}
PLACES = ("hosts.d/NAME/ok", "hosts.d/good/NAME", "alert.d/NAME", "silence.d/NAME", "nodes.txt")


class Table:
    def __init__(self) -> None:
        self.rows: dict[str, dict[str, str]] = {name: {} for name in ODD}
        self.passed = self.failed = 0

    def __call__(self, holds: object, name: str, place: str, what: str) -> None:
        """Note WHAT became of NAME at PLACE, and whether that is as it should be."""
        self.rows[name][place] = what if holds else f"**{what}**"
        self.check(holds, f"{name} at {place}: {what}")

    def check(self, holds: object, what: str) -> None:
        self.passed, self.failed = self.passed + bool(holds), self.failed + (not holds)
        if not holds:
            print(f"FAIL  {what}")

    def show(self) -> None:
        places = (*PLACES, "on the wire")
        print(
            "| name | "
            + " | ".join(f"`{place}`" if "/" in place else place for place in places)
            + " |"
        )
        print("|---" * (len(places) + 1) + "|")
        for name, row in self.rows.items():
            print(f"| {name} | " + " | ".join(row[place] for place in places) + " |")


def main() -> int:
    table = Table()
    with tempfile.TemporaryDirectory(prefix="dmonitor-names.") as directory:
        place = Place(Path(directory))
        node = LocalNode(place, NODE, [NODE], port=free_port(), conf="quorum = 1\n")
        node.plugin("ok", f'printf "%s\\n" "$*" >>{node.state}/arguments; echo OK')
        node.plugin("bad", "echo FAIL as it should")
        for test in ("good/ok", "good/bad"):
            node.test(test)
        node.mail()
        (node.config / "silence.d").mkdir()
        planted = {
            (name, where): plant(node, odd, where) for name, odd in ODD.items() for where in PLACES
        }
        before = tree(place.directory, node)
        checked = node.run("dmonitor-check", "-t")
        for _ in range(2):  # in its very first round a node tells nothing
            ran = node.run("dmonitor-check", "-v", "--once")
        table.check(
            checked.returncode == os.EX_CONFIG and ran.returncode == 0,
            f"-t ends with 78, a round with 0: {ran.stderr[-300:]}",
        )
        complaints = [line.replace(f"{node.config}/", "") for line in checked.stderr.splitlines()]
        table.check(
            all(line.isprintable() for line in (*complaints, *ran.stderr.splitlines())),
            "all that is said is printable",
        )
        for (name, where), made in planted.items():
            judge(table, name, where, made, complaints)
        arguments = (node.state / "arguments").read_text().splitlines()
        table.check(set(arguments) == {"good"}, f"plugins were called for: {arguments}")
        mails = place.mails()
        mailed = sorted(str(mail["To"]) for mail in mails)
        table.check(mailed == ["node", ADDRESS], f"mailed: {mailed}")
        sender = default_sender(node.address)
        called = {f"-oi -f {sender} -- {address}" for address in mailed}
        table.check(
            {mail["X-Arguments"] for mail in mails} == called, "sendmail was called as ever"
        )
        with running([node]):
            for name, odd in ODD.items():
                on_the_wire(table, node, name, odd)
            table.check(
                raw((NODE, node.port), b"test good/ok\n", NODE)
                .splitlines()[-1]
                .startswith(b"answer good/ok OK"),
                "and the daemon goes on",
            )
        table.check(
            tree(place.directory, node) - before <= {"127.0.0.57"}, "no file appeared anywhere else"
        )
    table.show()
    print(f"{table.passed} passed, {table.failed} failed")
    return 1 if table.failed else 0


def plant(node: LocalNode, odd: str, where: str) -> bool:
    """Put the name ODD at WHERE; say whether the file system lets it be there."""
    if where == "nodes.txt":
        with open(node.config / where, "ab") as file:
            file.write(os.fsencode(odd) + b"\n")
        return True
    path = where.replace("NAME", odd)
    if "/" in odd or len(odd) > 255:
        return False
    target = node.config / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()
    return True


def judge(table: Table, name: str, where: str, made: bool, complaints: list[str]) -> None:
    if not made:
        table(True, name, where, "cannot be a file name")
        return
    if what := PROPER.get((name, where)):
        table(True, name, where, what)
        return
    odd = (
        ODD[name]
        if where != "nodes.txt"
        else os.fsencode(ODD[name]).decode("utf-8", "replace").split()[0]
    )
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in odd)[
        :240
    ]
    if where == "nodes.txt":
        mine = [line for line in complaints if "error: nodes.txt:" in line and shown in line]
    else:
        place = where.replace("NAME", shown).removesuffix("/ok")
        mine = [
            line for line in complaints if line.startswith(f"dmonitor-check: error: {place[:200]}")
        ]
    table(
        len(mine) == 1,
        name,
        where,
        "one error that names it"
        if len(mine) == 1
        else f"{len(mine)} lines of -t about it: {mine}",
    )


def on_the_wire(table: Table, node: LocalNode, name: str, odd: str) -> None:
    said_name = os.fsencode(odd)
    heard = raw(
        (NODE, node.port),
        b"test %b/ok\ntest good/%b\nincident %b\n" % (said_name, said_name, said_name),
        NODE,
    )
    lines = heard.decode("ascii").splitlines()[1:]
    said = "error malformed ", f"answer good/{odd} UNKNOWN age=0.0 duration=0.000 text=no plugin "
    harmless = [
        line for line in lines if line.startswith(said) or " UNKNOWN reason=not-configured " in line
    ]
    kinds = sorted({line.split()[0] if line.startswith("error") else "UNKNOWN" for line in lines})
    table(lines and lines == harmless, name, "on the wire", " and ".join(kinds))


def tree(directory: Path, node: LocalNode) -> set[str]:
    """Name what is in DIRECTORY, but for what the programs may write."""
    listed = subprocess.run(
        ["find", str(directory), "-path", str(node.state), "-prune", "-o", "-print0"],
        capture_output=True,
        check=True,
    )
    return {
        os.path.relpath(name, directory)
        for name in map(os.fsdecode, listed.stdout.split(b"\0"))
        if name and "/mail/" not in name
    }


if __name__ == "__main__":
    sys.exit(main())
