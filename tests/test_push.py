"""`dmonitor push`, with a stand-in for ssh that runs each script on this machine, in the directory of another node."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
from local_nodes import LocalNode, Place
from test_operator import SCHEMA

from dmonitor.operator import tree
from dmonitor.operator.tree import Entry

ADDRESSES = ("127.0.0.31", "127.0.0.32", "127.0.0.33")
# The last two words are the host and the command. Each node has its configuration in a directory of its own.
SSH = """#!/bin/sh
echo "$*" >>{here}/ssh.log
for word; do host=$command command=$word; done
case $host in
    *{dead}) echo "ssh: connect to host $host port 22: No route to host" >&2; exit 255 ;;
esac
command=$(printf '%s\\n' "$command" | sed "s,{here}/{me},{here}/$host,g")
PATH={here}/there:$PATH
export PATH
{extra}
exec sh -c "$command"
"""


@pytest.fixture
def nodes(place: Place) -> list[LocalNode]:
    """Return three nodes with the same tests, reached from the first one by the stand-in."""
    made = [LocalNode(place, address, ADDRESSES) for address in ADDRESSES]
    for node in made:
        node.plugin("web", "#: PORT (80): its port\n#: EXPECT: a text\necho OK")
        node.test("www.example.com/web", "PORT=81\n")
        node.mail()
    there = place.directory / "there"
    there.mkdir()
    for program in ("dmonitor", "dmonitor-check"):
        script = place.directory / "bin" / program
        path = there / program
        path.write_text(
            f'#!/bin/sh\nexec {sys.executable} {script} --state {place.directory}/none "$@"\n'
        )
        path.chmod(0o755)
    (there / "sudo").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (there / "sudo").chmod(0o755)
    ssh(place)
    return made


def ssh(place: Place, dead: str = "nobody", extra: str = "") -> None:
    """Make the stand-in; the node whose address ends in `dead` cannot be reached."""
    bin_directory = place.directory / "here"
    bin_directory.mkdir(exist_ok=True)
    text = SSH.format(here=place.directory, me=ADDRESSES[0], dead=dead, extra=extra)
    path = bin_directory / "ssh"
    path.write_text(text)
    path.chmod(0o755)


def command(nodes: list[LocalNode], *words: str) -> tuple[list[str], dict[str, str]]:
    place = nodes[0].place
    path = f"{place.directory}/here:{os.environ['PATH']}"
    return nodes[0].command("dmonitor", "push", *words), {**place.environment(), "PATH": path}


def push(nodes: list[LocalNode], *words: str) -> subprocess.CompletedProcess[str]:
    arguments, environment = command(nodes, *words)
    return subprocess.run(
        arguments,
        env=environment,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=50,
        check=False,
        cwd="/",
    )


def facts(nodes: list[LocalNode], *words: str) -> dict[str, dict[str, object]]:
    """Return what a push says as JSON, by node."""
    said = json.loads(push(nodes, "--json", *words).stdout)
    jsonschema.validate(said, {**SCHEMA, "$ref": "#/$defs/push"})
    return {each["node"]: each for each in said["nodes"]}


def shape(node: LocalNode) -> dict[str, str]:
    """Return what is in the configuration of a node: texts, and where links lead."""
    found = {}
    for path in sorted(node.config.rglob("*")):
        name = str(path.relative_to(node.config))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file() and not name.startswith("plugins"):
            found[name] = path.read_text()
    return found


def test_nothing_differs(nodes: list[LocalNode]) -> None:
    ran = push(nodes, "--dry-run")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == [f"{name}: nothing differs" for name in ADDRESSES[1:]]
    calls = (nodes[0].place.directory / "ssh.log").read_text().splitlines()
    options = [shlex.split(line.partition(" sh -c")[0]) for line in calls if " sh -c" in line]
    assert len(options) == 2
    for call, host in zip(options, ADDRESSES[1:], strict=True):
        assert call[-4:] == ["-l", "root", "--", host]
        assert "BatchMode=yes" in call and "ConnectTimeout=10" in call


def test_the_others_become_like_this_one(nodes: list[LocalNode]) -> None:
    first, second, third = nodes
    first.test("new.example.com/web", "EXPECT=Hello\n").chmod(0o640)
    first.test("www.example.com/web", "PORT=82\n")
    first.test("www.example.com/.all", "CONFIRM=2\n")
    second.test("old.example.com/web")
    second.test("old.example.com/web.bak", "theirs")
    (second.config / "alert.d/jo@example.com").touch()
    before = shape(second)
    ran = push(nodes, "--dry-run")
    assert ran.returncode == 1 and shape(second) == before
    assert ran.stdout.splitlines()[:16] == [
        "127.0.0.32:",
        "  removed  alert.d/jo@example.com",
        "  new      hosts.d/new.example.com/web",
        "      @@ -0,0 +1 @@",
        "      +EXPECT=Hello",
        "  removed  hosts.d/old.example.com/web",
        "  new      hosts.d/www.example.com/.all",
        "      @@ -0,0 +1 @@",
        "      +CONFIRM=2",
        "  changed  hosts.d/www.example.com/web",
        "      @@ -1 +1 @@",
        "      -PORT=81",
        "      +PORT=82",
        "127.0.0.33:",
        "  new      hosts.d/new.example.com/web",
        "      @@ -0,0 +1 @@",
    ]
    began = int(time.time())
    ran = push(nodes, "--yes")
    for node in (second, third):
        assert f"{node.address}: changed\n" in ran.stdout
        assert f"  {node.config}: 2 hosts, 2 tests, 3 nodes" in ran.stdout, "what -t says there"
        left = shape(node)
        for name in ("hosts.d/new.example.com/web", "hosts.d/www.example.com/.all"):
            assert left[name] == shape(first)[name]
        assert "hosts.d/old.example.com/web" not in left
        status = (node.config / "hosts.d/new.example.com/web").stat()
        assert stat.S_IMODE(status.st_mode) == 0o640 and status.st_mtime >= began
        assert not [path for path in node.config.iterdir() if path.name.startswith(".")]
    assert shape(second)["hosts.d/old.example.com/web.bak"] == "theirs", "nothing of dmonitor's"
    assert facts(nodes, "--dry-run")[second.address]["differences"] == []


def test_what_is_one_nodes_own_stays(nodes: list[LocalNode]) -> None:
    first, second, third = nodes
    first.configure("quorum = 3\nname = 127.0.0.31\noffset = 5\n")
    second.configure("# theirs\nname = 127.0.0.32\noffset=7\nquorum = 2\n")
    (second.config / "silence.d").mkdir()
    (second.config / "silence.d/www.example.com").touch()
    ran = push(nodes, "--yes")
    assert "  changed  dmonitor.conf" in ran.stdout
    assert "port or concurrency counts after `service dmonitor restart`" in ran.stdout
    for node in (second, third):
        lines = shape(node)["dmonitor.conf"].splitlines()
        assert f"listen = {node.address}" in lines and "quorum = 3" in lines
        assert not [line for line in lines if "127.0.0.31" in line or line == "offset = 5"]
    lines = shape(second)["dmonitor.conf"].splitlines()
    assert "name = 127.0.0.32" in lines and "offset=7" in lines and "quorum = 2" not in lines
    assert "silence.d/www.example.com" in shape(second)
    assert facts(nodes, "--dry-run")[second.address]["differences"] == []


def test_a_comment_in_the_settings_is_no_difference(nodes: list[LocalNode]) -> None:
    nodes[1].configure("# theirs\noffset = 9\n")
    assert push(nodes, "--dry-run").returncode == 0


def test_the_key_of_all_is_taken_and_never_shown(nodes: list[LocalNode]) -> None:
    first, second, third = nodes
    first.key("k" * 32)
    second.key("o" * 32)
    ran = push(nodes, "--yes")
    assert "  set      key: " in ran.stdout and not ran.stderr
    assert not re.search("k{4}", ran.stdout)
    assert shape(second)["key"] == shape(third)["key"] == "k" * 32 + "\n"
    assert shape(second)["key.old"] == "o" * 32 + "\n" and "key.old" not in shape(third)
    assert stat.S_IMODE((second.config / "key").stat().st_mode) == 0o640
    first.key("o" * 32)  # it has not heard of the change
    found = facts(nodes, "--dry-run")[second.address]
    assert found["differences"] == []
    assert found["notes"] == ["key: that node has a newer one; `dmonitor key set` takes it here"]


def test_a_key_for_each_pair_is_never_pushed(nodes: list[LocalNode]) -> None:
    first, second, third = nodes
    pairs = "".join(f"{address} {address[-1] * 32}\n" for address in ADDRESSES)
    first.key(pairs.strip())
    assert push(nodes, "--yes").returncode != 1
    assert "key" not in shape(second)
    first.key("k" * 32)
    second.key(pairs.strip())
    found = facts(nodes, "--dry-run")
    assert found[second.address]["differences"] == []
    assert found[third.address]["differences"] == [{"path": "key", "change": "set"}]


def test_a_node_that_cannot_be_reached_costs_no_other(nodes: list[LocalNode]) -> None:
    ssh(nodes[0].place, dead=".32")
    nodes[0].test("a.example.com/web")
    ran = push(nodes, "--yes")
    assert ran.returncode == 69
    line = "127.0.0.32: ssh: connect to host 127.0.0.32 port 22: No route to host"
    assert ran.stdout.splitlines()[0] == line
    assert "hosts.d/a.example.com/web" in shape(nodes[2])
    ran = push(nodes, "--dry-run", "127.0.0.33", "127.0.0.3", "127.0.0.31")
    assert ran.returncode == 69 and "127.0.0.33: nothing differs" in ran.stdout
    assert "127.0.0.3: no such node in nodes.txt; did you mean 127.0.0.3" in ran.stdout
    assert "127.0.0.31: that is this node" in ran.stdout


def test_only_the_nodes_that_are_named(nodes: list[LocalNode]) -> None:
    nodes[0].test("a.example.com/web")
    assert set(facts(nodes, "--yes", "--user", "jo", "127.0.0.33")) == {"127.0.0.33"}
    assert "hosts.d/a.example.com/web" not in shape(nodes[1])
    assert "hosts.d/a.example.com/web" in shape(nodes[2])
    assert " -l jo -- 127.0.0.33 " in (nodes[0].place.directory / "ssh.log").read_text()


def test_links_to_templates_are_pushed_with_what_they_lead_to(nodes: list[LocalNode]) -> None:
    first, second, third = nodes
    hosts = first.config / "hosts.d"
    first.test(".web/web", "EXPECT=Hello\n")
    first.test(".web/unused.bak", "no")
    (hosts / "a.example.com").symlink_to(".web")
    first.test("b.example.com/web:1").unlink()
    (hosts / "b.example.com/web").symlink_to("../.web/web")
    # There, a link stands in the place of a directory, and the other way round.
    second.test(".other/web")
    (second.config / "hosts.d/b.example.com").symlink_to(".other")
    second.test("a.example.com/web", "PORT=1\n")
    assert push(nodes, "--yes").returncode == 78  # no state over there; see the next line
    for node in (second, third):
        left = shape(node)
        assert left["hosts.d/a.example.com"] == "-> .web"
        assert left["hosts.d/b.example.com/web"] == "-> ../.web/web"
        assert left["hosts.d/.web/web"] == "EXPECT=Hello\n"
        assert {name for name in left if name.startswith("hosts.d/.")} == {"hosts.d/.web/web"}
    assert facts(nodes, "--dry-run")[second.address]["differences"] == []


def test_what_is_wrong_here_is_not_pushed(nodes: list[LocalNode]) -> None:
    first = nodes[0]
    first.test("www.example.com/web", "PORT=x\n")
    ran = push(nodes, "--yes")
    assert (ran.returncode, ran.stdout) == (78, "")
    assert "hosts.d/www.example.com/web:1: PORT=x: not a whole number" in ran.stderr
    assert "nothing was pushed" in ran.stderr
    (first.config / "hosts.d/www.example.com/web").unlink()
    ran = push(nodes, "--yes")
    assert (ran.returncode, ran.stdout) == (78, "") and "there is no test" in ran.stderr
    assert not (first.place.directory / "ssh.log").exists()
    assert "hosts.d/www.example.com/web" in shape(nodes[1])


def test_who_cannot_be_asked_has_to_say_yes(nodes: list[LocalNode]) -> None:
    ran = push(nodes)
    assert (ran.returncode, ran.stdout) == (64, "") and "--yes" in ran.stderr


@pytest.mark.parametrize(("answer", "status", "is_there"), [("y", 78, True), ("", 1, False)])
def test_a_person_is_asked(
    nodes: list[LocalNode], answer: str, status: int, is_there: bool
) -> None:
    nodes[0].test("a.example.com/web")
    arguments, environment = command(nodes)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        arguments, env=environment, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    said, _ = process.communicate(timeout=50)
    os.close(ours)
    assert b"Change this on 127.0.0.32, 127.0.0.33? [y/N] " in said
    assert process.returncode == status, said
    for node in nodes[1:]:
        assert ("hosts.d/a.example.com/web" in shape(node)) is is_there
    assert "BatchMode" not in (nodes[0].place.directory / "ssh.log").read_text()


def test_what_comes_over_in_part_changes_nothing(nodes: list[LocalNode]) -> None:
    """The connection is cut after the files and before the end, and so at the end of a file."""
    nodes[0].test("a.example.com/web", "EXPECT=Hello\n")
    before = shape(nodes[1])
    ssh(
        nodes[0].place,
        extra='case $command in *push*) head -c 3072 | sh -c "$command"; exit ;; esac',
    )
    found = facts(nodes, "--yes", ADDRESSES[1])[ADDRESSES[1]]
    assert found["failure"] and not found["pushed"]
    assert shape(nodes[1]) == before
    assert not [path for path in nodes[1].config.iterdir() if path.name.startswith(".")]


def test_who_is_killed_over_there_leaves_whole_files(
    nodes: list[LocalNode], tmp_path: Path
) -> None:
    """The script is killed before each of the files in turn: each is as before or as it is to be."""
    first, second, _ = nodes
    wanted = {}
    for number in range(4):
        wanted[f"hosts.d/www.example.com/web:{number + 1}"] = f"EXPECT={number}\n"
    for name, text in wanted.items():
        first.test(name.removeprefix("hosts.d/"), text)
    there = first.place.directory / "there"
    counts = set()
    for nth in range(1, 5):
        for name in wanted:
            second.test(name.removeprefix("hosts.d/"), "EXPECT=before\n")
        mover = there / "mv"
        mover.write_text(
            f"#!/bin/sh\necho >>{tmp_path}/{nth}\n"
            f'[ $(wc -l <{tmp_path}/{nth}) -lt {nth} ] || kill -9 $PPID\nexec /bin/mv "$@"\n'
        )
        mover.chmod(0o755)
        tmp_path.chmod(0o777)
        found = facts(nodes, "--yes", second.address)[second.address]
        assert found["failure"] and not found["pushed"]
        left = [shape(second)[name] for name in wanted]
        for text, whole in zip(left, wanted.values(), strict=True):
            assert text in ("EXPECT=before\n", whole)
        counts.add(left.count("EXPECT=before\n"))
    assert counts == {0, 1, 2, 3}
    mover.unlink()
    (second.config / "hosts.d/www.example.com/web:2").unlink()
    (old,) = [path for path in second.config.iterdir() if path.name.startswith(".push.")][:1]
    os.utime(old, (1, 1))
    assert facts(nodes, "--yes", second.address)[second.address]["pushed"]
    assert {name: shape(second)[name] for name in wanted} == wanted
    assert not old.exists(), "what a killed one has left is cleared away"


@pytest.mark.parametrize("content", [b"\0" * 4096 + b"junk", b"Welcome!\n" * 100])
def test_a_node_that_sends_something_else(nodes: list[LocalNode], content: bytes) -> None:
    junk = nodes[0].place.directory / "junk"
    junk.write_bytes(content)
    ssh(nodes[0].place, extra=f"exec cat {junk}")
    before = shape(nodes[1])
    push(nodes, "--dry-run")
    assert shape(nodes[1]) == before


def test_what_a_terminal_would_obey_is_escaped(nodes: list[LocalNode]) -> None:
    nodes[1].test("www.example.com/web", "# \x1b]0;x\x07\n")
    ran = push(nodes, "--dry-run")
    assert "\x1b" not in ran.stdout and r"-# \x1b]0;x\x07" in ran.stdout


def test_a_tar_holds_what_was_put_into_it(tmp_path: Path) -> None:
    entries = {
        "a": Entry(b"text", 0o640, "dmonitor"),
        "b/c": Entry(target="../a"),
        "b/d": Entry(b"\xff", 0o755, "root"),
    }
    assert tree.read(tree.write(entries)) == {
        **entries,
        "b/c": Entry(mode=0o644, target="../a")._replace(mode=0o644),
    }
    assert tree.read(b"") == {}


def test_a_template_that_is_there_and_unused_is_no_change() -> None:
    ours = {"hosts.d/a": Entry(target=".web"), "hosts.d/.web/web": Entry(b"x")}
    theirs = {"hosts.d/.web/web": Entry(b"x")}
    (found,) = tree.differences(ours, theirs, "/etc/dmonitor")
    assert (found.path, found.word) == ("hosts.d/a", "new")


def test_which_files_are_the_same_on_all_nodes() -> None:
    ours = dict.fromkeys(
        [
            *("nodes.txt", "dmonitor.conf", "key", "hosts.d/a/web", "hosts.d/a/.all"),
            *(
                "hosts.d/a/web~",
                "hosts.d/.a/web",
                "hosts.d/a/b/c",
                "hosts.d/node/x",
                "hosts.d/a/-x",
            ),
            *(
                "alert.d/jo@example.com",
                "alert.d/.x",
                "alert.d/x.bak",
                "alert.d/a/b",
                "hosts.d/x.bak/web",
            ),
        ],
        Entry(),
    )
    assert list(tree.common(ours, "/etc/dmonitor")) == [
        "alert.d/jo@example.com",
        "hosts.d/a/.all",
        "hosts.d/a/web",
        "nodes.txt",
    ]
    for target in (".a", "/etc/dmonitor/hosts.d/.a"):
        with_link = {**ours, "hosts.d/b": Entry(target=target)}
        found = set(tree.common(with_link, "/etc/dmonitor")) - set(
            tree.common(ours, "/etc/dmonitor")
        )
        assert found == {"hosts.d/b", "hosts.d/.a/web"}
    loop = {"hosts.d/b": Entry(target="c"), "hosts.d/c": Entry(target="b")}
    assert set(tree.common(loop, "/etc/dmonitor")) == {"hosts.d/b", "hosts.d/c"}
    unprintable = {"hosts.d/b": Entry(target=".b"), "hosts.d/.b/web\nkey": Entry()}
    assert set(tree.common(unprintable, "/etc/dmonitor")) == {"hosts.d/b"}
    outside = {"hosts.d/b": Entry(target="../../../etc"), "key": Entry(b"k")}
    assert set(tree.common(outside, "/etc/dmonitor")) == {"hosts.d/b"}
    to_the_key = {"hosts.d/b/web": Entry(target="../../key"), "key": Entry(b"k")}
    assert set(tree.common(to_the_key, "/etc/dmonitor")) == {"hosts.d/b/web"}
