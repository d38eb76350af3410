"""`dmonitor add` and `dmonitor remove`: one mistake costs nothing else, and nothing is touched that is no test."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from local_nodes import LocalNode, Place, run_as
from test_operator import SCHEMA


@pytest.fixture
def node(place: Place) -> LocalNode:
    made = LocalNode(place, "127.0.0.31", ["127.0.0.31", "127.0.0.32"])
    made.plugin("web", "#: PORT (80): its port\n#: EXPECT: a text\necho OK $PORT $EXPECT")
    made.plugin("port", "#: PORT (required): which\necho OK $PORT")
    return made


def say(node: LocalNode, *words: str) -> tuple[int, str, str]:
    """Return the exit status, and what is printed and complained of, with paths below the configuration."""
    ran = node.run("dmonitor", *words)
    where = f"{node.config}/"
    return ran.returncode, ran.stdout.replace(where, ""), ran.stderr.replace(where, "")


def files(node: LocalNode) -> dict[str, str]:
    hosts = node.config / "hosts.d"
    return {
        str(path.relative_to(hosts)): path.read_text() if path.is_file() else "directory"
        for path in sorted(hosts.rglob("*"))
    }


def test_tests_are_added_for_dmonitor_to_read(node: LocalNode) -> None:
    before = os.umask(0o077)
    try:
        status, said, wrong = say(
            node, *("add", "a.example.com", "web", "web:shop", "PORT=81", "EXPECT=a b = c"), "b/web"
        )
    finally:
        os.umask(before)
    assert (status, wrong) == (0, "")
    assert said.splitlines() == [
        "added a.example.com/web",
        "added a.example.com/web:shop",
        "added b/web",
        "the other nodes do not know of it: see dmonitor push",
    ]
    assert files(node) == {
        "a.example.com": "directory",
        "a.example.com/web": "",
        "a.example.com/web:shop": "PORT=81\nEXPECT=a b = c\n",
        "b": "directory",
        "b/web": "",
    }
    host = node.config / "hosts.d/a.example.com"
    assert stat.S_IMODE(host.stat().st_mode) == 0o755
    assert stat.S_IMODE((host / "web").stat().st_mode) == 0o644
    with_parameters = (host / "web:shop").stat()
    if os.geteuid() == 0:
        assert stat.S_IMODE(with_parameters.st_mode) == 0o640
        assert with_parameters.st_gid == run_as().pw_gid
    checked = node.run("dmonitor-check", "-t").stderr
    assert "2 hosts, 3 tests" in checked and "hosts.d" not in checked


def test_what_is_there_stays_as_it_is(node: LocalNode) -> None:
    path = node.test("a/web", "# mine\nPORT=81\n")
    os.utime(path, (1, 1))
    for words in (("a/web",), ("a", "web", "PORT=81")):
        assert say(node, "add", *words) == (0, "a/web is there already\n", "")
    status, said, wrong = say(node, "add", "a", "web", "PORT=82")
    assert (status, said) == (65, "")
    assert wrong.startswith(
        "dmonitor: error: hosts.d/a/web: is there already, with other parameters;"
    )
    assert path.read_text() == "# mine\nPORT=81\n" and path.stat().st_mtime == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("a", "wob"), "hosts.d/a/wob: no plugin plugins/check_wob; did you mean web?"),
        (("a", "port"), "hosts.d/a/port: check_port needs PORT; write PORT=VALUE in this file"),
        (
            ("a", "web", "PRT=1"),
            "hosts.d/a/web: check_web has no parameter PRT; did you mean PORT?",
        ),
        (("a", "web", "PORT=x"), "hosts.d/a/web: PORT=x: not a whole number from 1 to 65535"),
        (
            ("a", "web", "port=1"),
            "hosts.d/a/web: 'port=1' is not KEY=VALUE with the key in capitals",
        ),
        (("a", "web", "LD_PRELOAD=x"), "hosts.d/a/web: LD_PRELOAD would change what"),
        (("a", "web", "PORT=1\nEXPECT=2"), "is not one line KEY=VALUE"),
        (("a", "web", "#PORT=1"), "hosts.d/a/web: '#PORT=1' is not one line KEY=VALUE"),
        (("a", "web:99999"), "hosts.d/a/web:99999: the port 99999 is not a whole number"),
        (("a", "web:b c"), "hosts.d/a/web:b c: 'web:b c' is not a test"),
        (("a", "web.bak"), "hosts.d/a/web.bak: 'web.bak' is not a test"),
        (("..", "web"), "hosts.d/..: '..' is not a host name"),
        (("", "web"), "hosts.d/: '' is not a host name"),
        (("node", "web"), "hosts.d/node: the host name 'node' is reserved"),
        (("a/b/web",), "hosts.d/a/b/web: 'b/web' is not a test"),
        (("a",), "a: no test of this host is named"),
        (("PORT=1",), "PORT=1: a parameter must stand after a test"),
    ],
)
def test_a_mistake_is_named_and_costs_nothing_else(
    node: LocalNode, words: tuple[str, ...], why: str
) -> None:
    status, said, wrong = say(node, "add", *words, "z/web")
    assert status == 65 and why in wrong, wrong
    assert said.startswith("added z/web\n")
    assert files(node) == {"z": "directory", "z/web": ""}, "and no draft"


def test_tests_from_a_file(node: LocalNode) -> None:
    source = node.config / "list"
    source.write_text(
        "# host  tests\na.example.com web EXPECT='a b' port:22  # two\n\nb wob\nc web 'x\nd/web e/port PORT=5\n"
    )
    ran = node.run("dmonitor", "add", "--json", "--from", str(source), "f", "web")
    facts = json.loads(ran.stdout)
    jsonschema.validate(facts, {**SCHEMA, "$ref": "#/$defs/add"})
    assert ran.returncode == 65
    assert facts["added"] == [
        "f/web",
        "a.example.com/web",
        "a.example.com/port:22",
        "d/web",
        "e/port",
    ]
    assert facts["refused"] == [str(source), "b/wob"]
    assert f"{source}:5: No closing quotation" in ran.stderr
    assert f"{source}:4: b/wob: no plugin" in ran.stderr
    assert files(node)["a.example.com/web"] == "EXPECT=a b\n"
    source.write_text("a.example.com b\n# no more\nnope d/web\n")
    ran = node.run("dmonitor", "remove", "--from", str(source), "--json")
    facts = json.loads(ran.stdout)
    jsonschema.validate(facts, {**SCHEMA, "$ref": "#/$defs/remove"})
    assert ran.returncode == 65 and facts["refused"] == ["b", "nope"]
    assert f"{source}:3: {node.config}/hosts.d/nope: there is no such host" in ran.stderr
    assert set(files(node)) == {"e", "e/port", "f", "f/web"}
    assert say(node, "add")[0] == say(node, "remove")[0] == 64


def test_parameters_of_all_tests_of_a_host_count(node: LocalNode) -> None:
    node.test("a/.all", "PORT=22\n")
    assert say(node, "add", "a", "port")[0] == 0
    node.test("b/.all", "PORT=x\n")
    status, _, wrong = say(node, "add", "b", "web")
    assert status == 65 and "hosts.d/b/.all:1: PORT=x: not a whole number" in wrong
    assert say(node, "remove", "a", "b")[0] == 0 and files(node) == {}


def test_what_stands_behind_is_checked_as_t_does(node: LocalNode) -> None:
    added = say(node, "add", "x/web", "BEHIND=r/web", "r/web")
    assert added[:2] == (
        0,
        "added r/web\nadded x/web\nthe other nodes do not know of it: see dmonitor push\n",
    )
    node.test("r/web", "BEHIND=y/web\n")
    for words, what in (
        (("y/web", "BEHIND=ruter/web"), "BEHIND=ruter/web: no such test in hosts.d"),
        (("y/web", "BEHIND=y/web"), "BEHIND=y/web is this test itself"),
        (("y/web", "BEHIND=x/web"), "BEHIND leads back to this test: y/web behind x/web behind r/"),
    ):
        status, said, wrong = say(node, "add", *words)
        assert (status, said) == (65, "") and f"hosts.d/y/web: {what}" in wrong
    assert "y/web" not in files(node)
    node.test("y/web", "BEHIND=y/web\n")
    checked = node.run("dmonitor-check", "-t").stderr
    assert "hosts.d/y/web: BEHIND=y/web is this test itself; name the one before it" in checked


def test_plugins_are_looked_at_as_the_user_of_the_rounds(node: LocalNode) -> None:
    """Root may read and start more than that user, and -t says so."""
    if os.geteuid() != 0:
        pytest.skip("only root can look as another user")
    plugin = node.config / "plugins/check_web"
    plugin.chmod(0o700)
    os.chown(plugin, 0, 0)
    status, said, wrong = say(node, "add", "a/web")
    fault = f"plugins/check_web: is not executable for user {run_as().pw_name}"
    assert fault in wrong and fault in node.run("dmonitor-check", "-t").stderr
    assert (status, said) == (
        78,
        "added a/web\nthe other nodes do not know of it: see dmonitor push\n",
    )
    assert (node.config / "hosts.d/a/web").stat().st_uid == 0


def test_one_mistake_is_named_once(node: LocalNode) -> None:
    status, said, wrong = say(node, "add", "../x", "web", "web:b")
    assert (status, said) == (65, "") and len(wrong.splitlines()) == 1
    assert wrong.startswith("dmonitor: error: hosts.d/..: '..' is not a host name")


def test_a_host_that_is_a_link_gets_no_test_of_its_own(node: LocalNode) -> None:
    node.test(".web/web")
    (node.config / "hosts.d/a").symlink_to(".web")
    status, _, wrong = say(node, "add", "a", "web:81")
    assert status == 65 and "hosts.d/a: is a link to .web" in wrong
    assert say(node, "remove", "a/web")[0] == 65
    assert say(node, "remove", "a")[:2] == (
        0,
        "removed hosts.d/a\nthe other nodes do not know of it: see dmonitor push\n",
    )
    assert files(node) == {".web": "directory", ".web/web": ""}


def test_a_host_is_removed_with_its_tests(node: LocalNode) -> None:
    outside = node.config / "outside"
    outside.write_text("kept")
    for name in ("a/web", "a/web:1", "b/web"):
        node.test(name)
    (node.config / "hosts.d/a/web:2").symlink_to(outside)
    assert say(node, "remove", "a", "b/web")[0] == 0
    assert files(node) == {} and outside.read_text() == "kept"


def test_what_is_no_test_is_never_removed(node: LocalNode) -> None:
    node.test("a/web")
    node.test("a/web.bak", "switched off")
    node.test("a/notes of mine", "?")
    (node.config / "hosts.d/a/sub").mkdir()
    status, said, wrong = say(node, "remove", "a")
    assert status == 65 and said.startswith("removed hosts.d/a/web\n")
    assert (
        "hosts.d/a: stays, because it holds what is no test: notes of mine, sub, web.bak;" in wrong
    )
    assert set(files(node)) == {"a", "a/web.bak", "a/notes of mine", "a/sub"}
    for subject in ("a/web.bak", "a/sub", "a/..", "..", "a/", "/", "nope", "a/weeb", "node"):
        status, said, wrong = say(node, "remove", subject)
        assert (status, said) == (65, "") and f"hosts.d/{subject}: " in wrong, subject
    assert set(files(node)) == {"a", "a/web.bak", "a/notes of mine", "a/sub"}


def test_a_name_is_nearly_right(node: LocalNode) -> None:
    node.test("www.example.com/web")
    assert "no such host; did you mean www.example.com?" in say(node, "remove", "ww.example.com")[2]
    assert "no such test; did you mean web?" in say(node, "remove", "www.example.com/wb")[2]


def test_without_a_place_nothing_is_done(node: LocalNode) -> None:
    (node.config / "hosts.d").rmdir()
    for verb in ("add", "remove"):
        status, _, wrong = say(node, verb, "a/web")
        assert status == 75 and "hosts.d: No such file or directory" in wrong


def test_who_is_killed_leaves_no_half_a_test(node: LocalNode, tmp_path: Path) -> None:
    """The process ends at each of its steps in turn; what is there then is a whole test or none."""
    seen = set()
    for step in ("fsync", "mkdir", "link", "unlink"):
        code = node.place.directory / "killed.py"
        code.write_text(
            "import os, signal, sys\n"
            f"real = os.{step}\n"
            f"os.{step} = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
            "from dmonitor.command import main\n"
            f"sys.exit(main(['--config', {str(node.config)!r}, 'add', '{step}', 'web', 'EXPECT=all']))\n"
        )
        ran = subprocess.run(
            [sys.executable, str(code)], env=node.place.environment(), timeout=20, check=False
        )
        assert ran.returncode == -9, step
        test = node.config / f"hosts.d/{step}/web"
        seen.add(test.exists())
        assert not test.exists() or test.read_text() == "EXPECT=all\n"
        assert "hosts.d/." not in node.run("dmonitor-check", "-t").stderr
    assert seen == {True, False}
