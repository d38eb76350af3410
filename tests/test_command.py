"""The operator's command: a key is made, taken, changed on running nodes without one lost answer, and never known to others."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
import threading

import pytest
from asking import ask
from local_nodes import LocalNode, Place, run_as, running, wait_until

from dmonitor.config import keyfile
from dmonitor.config.problems import Problems
from dmonitor.core.model import Test

OK = Test("www.example.com", "ok")


@pytest.fixture
def node(place: Place) -> LocalNode:
    return LocalNode(place, "127.0.0.31", ["127.0.0.31", "127.0.0.32"])


def key(node: LocalNode, *words: str, stdin: str = "") -> tuple[int, str, str]:
    command = [
        sys.executable,
        str(node.place.directory / "bin/dmonitor"),
        "--config",
        str(node.config),
        "key",
        *words,
    ]
    ran = subprocess.run(
        command,
        env=node.place.environment(),
        input=stdin,
        text=True,
        capture_output=True,
        timeout=20,
        check=False,
    )
    return (
        ran.returncode,
        ran.stdout.replace(f"{node.config}/", ""),
        ran.stderr.replace(f"{node.config}/", ""),
    )


def keys_of(node: LocalNode, problems: Problems | None = None) -> keyfile.Keys:
    """Return the keys that the programs of NODE read, without the path that stands in messages."""
    found = keyfile.load_keys(str(node.config), Problems() if problems is None else problems)
    assert found is not None
    return found._replace(path="key")


def test_a_key_is_made_and_shown(node: LocalNode) -> None:
    status, said, wrong = key(node)
    assert (status, wrong) == (0, "") and said.startswith("no key: ")
    before = os.umask(0)
    status, said, wrong = key(node, "new")
    os.umask(before)
    fingerprint = key(node)[1].split()[0]
    assert (status, wrong) == (0, "")
    assert (
        said
        == f"key is written: {fingerprint}\nThe other nodes need it too, in any order:\n  ssh root@NODE dmonitor key set <key\n"
    )
    made = node.config / "key"
    assert stat.S_IMODE(made.stat().st_mode) == 0o640, "whatever the umask"
    if os.geteuid() == 0:
        assert (made.stat().st_uid, made.stat().st_gid) == (0, run_as().pw_gid)
    assert len(made.read_text().strip()) == 64
    status, said, _ = key(node)
    assert status == 0 and said.endswith("  key\n") and made.read_text()[:16] not in said
    assert sorted(os.listdir(node.config)) == [
        "alert.d",
        "dmonitor.conf",
        "hosts.d",
        "key",
        "nodes.txt",
        "plugins",
    ]


def test_a_key_is_taken_and_the_one_before_it_dropped(node: LocalNode) -> None:
    one, two, three = ("1" * 32, "2" * 64, "3" * 40)
    assert key(node, "set", stdin=one + "\n")[0] == 0
    assert keys_of(node) == keyfile.of_all(one.encode())
    assert (
        key(node, "set", stdin=one)[1] == "key already holds this key\n"
        and not (node.config / "key.old").exists()
    )
    assert key(node, "set", stdin=two)[1].endswith(
        "still accepted. When all nodes have the new one, on each:\n  dmonitor key drop\n"
    )
    assert keys_of(node) == keyfile.of_all(two.encode(), one.encode())
    for status, _, wrong in (key(node, "set", stdin=three), key(node, "new")):
        assert status == os.EX_TEMPFAIL and wrong.startswith(
            "dmonitor: the key was not changed: key.old is still accepted"
        )
    assert key(node)[1].splitlines()[1].endswith("  key.old")
    checked = node.run("dmonitor-check", "-t").stderr
    assert (
        "key.old: the old key is still accepted; when all nodes have the new one, run `dmonitor key drop` on each"
        in checked
    )
    for words in (("drop", "--force"), ("drop",)):
        assert key(node, *words) == (0, "The old key is no longer accepted.\n", "")
    assert keys_of(node) == keyfile.of_all(two.encode())


def test_the_last_key_is_not_dropped(node: LocalNode) -> None:
    """A node without any key would talk to nobody, or to everybody."""
    old = node.config / "key.old"
    node.key("k" * 32, "key.old")
    for words in (("drop",), ("drop", "--force")):
        status, said, wrong = key(node, *words)
        assert (status, said) == (os.EX_DATAERR, "") and old.exists()
        assert "the old key was not dropped, because this node would have no key then" in wrong
    (node.config / "key").write_text("short")
    assert key(node, "drop")[0] == os.EX_DATAERR and old.exists()
    node.key("n" * 32)
    assert key(node, "drop", "--force")[0] == 0 and not old.exists()


def test_the_old_key_is_dropped_when_all_nodes_have_the_new_one(three: list[LocalNode]) -> None:
    first, second, third = three
    old = first.config / "key.old"

    def dropped(node: LocalNode, *words: str) -> tuple[int, str]:
        """Return the status of `dmonitor key drop`, and what it said last about a node."""
        ran = node.run("dmonitor", "key", "drop", *words)
        named = [line for line in ran.stderr.splitlines() if "127.0.0." in line]
        return ran.returncode, named[-1] if named else ""

    def shared(node: LocalNode) -> dict[str, str]:
        peers = json.loads(node.run("dmonitor", "peers", "--json").stdout)["peers"]
        return {peer["node"]: peer["key"] for peer in peers}

    with running([first, second]):
        before = shared(first)
        assert before["127.0.0.33"] is None, "it was not reached"
        assert key(first, "new")[0] == 0
        made = (first.config / "key").read_text()
        fingerprint = key(first)[1].split()[0]
        assert before["127.0.0.32"] == key(first)[1].splitlines()[1].split()[0] != fingerprint
        assert shared(first) == before, "it has not got the new one"
        status, said = dropped(first)
        assert (status, said) == (
            os.EX_TEMPFAIL,
            "dmonitor: 127.0.0.33 does not answer: connection refused",
        )
        with running([third]):
            status, said = dropped(first)
            assert status == os.EX_TEMPFAIL and "127.0.0.33 has only the old key; give it" in said
            assert key(second, "set", stdin=made)[0] == 0
            assert shared(first) == {**before, "127.0.0.32": fingerprint} | {
                "127.0.0.33": before["127.0.0.32"]
            }
            assert dropped(first)[0] == os.EX_TEMPFAIL and old.exists()
            assert key(third, "set", stdin=made)[0] == 0
            for node in three:
                assert set(shared(node).values()) == {fingerprint}, "old keys or not"
                assert dropped(node) == (0, "")
            assert not old.exists()
    key(first, "new")
    assert dropped(first)[0] == os.EX_TEMPFAIL and old.exists(), "nobody answers"
    assert dropped(first, "--force") == (0, "") and not old.exists()


@pytest.mark.parametrize(
    "text",
    ["", "short", "x" * 31, "two words of more than 32 characters in all", "ü" * 40, "x" * 1001],
)
def test_what_is_no_key_changes_nothing(node: LocalNode, text: str) -> None:
    before = "1" * 32
    key(node, "set", stdin=before)
    found = "does not hold a key" if text else "is empty"
    why = (
        f"no key was set: stdin {found}; a key is one word of 32 or more printable characters,"
        " or a line NODE KEY for each node"
    )
    assert key(node, "set", stdin=text) == (65, "", f"dmonitor: {why}\n")
    assert keys_of(node) == keyfile.of_all(before.encode())


def test_usage(node: LocalNode) -> None:
    assert key(node, "forge")[0] == os.EX_USAGE


# Who reads it.


@pytest.mark.parametrize(
    ("mode", "text", "fault"),
    [
        (0o644, "k" * 32, "others could read or write it (mode 644)"),
        (0o660, "k" * 32, "others could read or write it (mode 660)"),
        (0o640, "short", "it is not one word of 32 or more printable characters"),
        (0o640, "", "it is not one word of 32 or more printable characters"),
    ],
)
def test_a_key_that_cannot_be_used(node: LocalNode, mode: int, text: str, fault: str) -> None:
    node.key(text)
    (node.config / "key").chmod(mode)
    started = node.run("dmonitord")
    assert (
        started.returncode == os.EX_CONFIG
        and fault in started.stderr
        and "key: cannot use this key" in started.stderr
    )
    checked = node.run("dmonitor-check", "-t")
    assert checked.returncode == os.EX_CONFIG and fault in checked.stderr


@pytest.mark.parametrize("name", ["directory", "fifo", "dangling"])
def test_a_key_that_is_no_file(node: LocalNode, name: str) -> None:
    path = node.config / "key"
    match name:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
            path.chmod(0o640)
        case "dangling":
            path.symlink_to("nowhere")
    assert node.run("dmonitord").returncode == os.EX_CONFIG


def test_a_dmonitor_conf_that_is_a_dangling_link_opens_no_port(node: LocalNode) -> None:
    path = node.config / "dmonitor.conf"
    path.unlink()
    path.symlink_to("nowhere")
    started = node.run("dmonitord")
    node.stop()  # if it started after all, it would listen everywhere
    assert started.returncode == os.EX_CONFIG
    assert started.stderr == f"dmonitord: error: {path}: is a dangling link to nowhere\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a state directory")
def test_a_state_directory_that_is_a_dangling_link_is_said_to_be_one(node: LocalNode) -> None:
    node.state.rmdir()
    node.state.symlink_to("nowhere")
    try:
        for program in ("dmonitor-check", "dmonitord"):
            ran = node.run(program)
            assert ran.returncode == os.EX_TEMPFAIL and ran.stderr == (
                f"{program}: unable to go on:"
                f" {node.state}: a link to a directory that is not there\n"
            )
        assert (
            f"error: {node.state}: is a dangling link to nowhere\n"
            in node.run("dmonitor-check", "-t").stderr
        )
    finally:
        node.state.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_that_belongs_to_somebody_else(node: LocalNode) -> None:
    node.key("k" * 32)
    os.chown(node.config / "key", 12345, run_as().pw_gid)
    assert "it belongs to neither root nor " in node.run("dmonitord").stderr


def test_a_running_daemon_keeps_its_key_when_the_file_is_spoilt_and_opens_to_nobody(
    place: Place, port: int
) -> None:
    one = LocalNode(place, "127.0.0.31", ["127.0.0.31", "127.0.0.32"], port=port)
    one.plugin("ok", "echo OK")
    one.test(str(OK))
    good = keyfile.of_all(b"k" * 32)
    one.key("k" * 32)
    with running([one]):
        assert answer(one, good) == ""
        one.key("short")
        assert answer(one, good) == ""
        assert answer(one, None) == "it wants a key, and this node has none: see dmonitor key set"
        (one.config / "key").unlink()
        assert (
            answer(one, good) == ""
            and answer(one, None) == "it wants a key, and this node has none: see dmonitor key set"
        ), "until it is restarted"
        one.stop()
        one.start()
        assert answer(one, None) == "", "the operator wants none"
        one.key("short")
        assert answer(one, None).startswith("it closed the connection"), (
            "he wants one, and this is none"
        )
        one.key("k" * 32)
        assert answer(one, good) == ""


def test_a_key_that_comes_while_it_is_looked_for_is_no_mistake(
    node: LocalNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two steps of a change there is only the old one."""
    node.key("o" * 32, "key.old")
    opened = os.open

    def late(path: os.PathLike[str], *rest: int) -> int:
        if str(path).endswith("/key"):
            try:
                return opened(path, *rest)
            finally:
                node.key("n" * 32)
        return opened(path, *rest)

    problems = Problems()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", late)
        assert keys_of(node, problems) == keyfile.of_all(b"o" * 32) and problems == []
    assert keys_of(node, problems) == keyfile.of_all(b"n" * 32, b"o" * 32) and problems == []


@pytest.mark.parametrize("spoilt", ["short", "paris " + "p" * 31])
def test_an_old_key_does_not_stand_in_for_one_that_cannot_be_used(
    node: LocalNode, spoilt: str
) -> None:
    """It would let in a peer whose line was taken out of the present one."""
    node.key(f"paris {'o' * 32}\noslo {'q' * 32}\n", "key.old")
    node.key(spoilt)
    problems = Problems()
    keys = keys_of(node, problems)
    assert keys is not None and not keys.are_usable and problems
    assert keys.for_peer("oslo") == keys.for_peer("paris") == ()
    node.key("paris " + "p" * 32)
    keys = keys_of(node, Problems())
    assert keys and [len(keys.for_peer(name)) for name in ("paris", "oslo")] == [2, 0]


def answer(called: LocalNode, keys: keyfile.Keys | None, listen: str = "127.0.0.32") -> str:
    """Ask CALLED about its test from the address LISTEN; return why there is no answer, nothing if there is one."""
    node = called.address
    found = ask(OK, node, node, source=listen, port=called.port, keys=keys)
    return "" if found.result and found.result.outcome.value == "OK" else found.text or found.seen


def test_a_change_of_key_on_three_running_nodes_loses_no_answer(three: list[LocalNode]) -> None:
    """In whatever order, each asks each all the time, with the keys that it has at that moment."""
    for node in three:
        node.plugin("ok", "echo OK")
        node.test(str(OK))
        node.key("1" * 64)
    asked, lost, over = [0], [], threading.Event()

    def ask(caller: LocalNode, called: LocalNode) -> None:
        while not over.is_set():
            problems = Problems()
            if (
                reason := answer(
                    called, keyfile.load_keys(str(caller.config), problems), caller.address
                )
                or str(list(map(str, problems)))[1:-1]
            ):
                lost.append(f"{caller.address} of {called.address}: {reason}")
            asked[0] += 1

    with running(three):
        threads = [
            threading.Thread(target=ask, args=(one, other))
            for one in three
            for other in three
            if one is not other
        ]
        try:
            for thread in threads:
                thread.start()
            for first, *others in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
                some(asked)
                assert key(three[first], "new")[0] == 0
                for number in others:
                    some(asked)
                    assert (
                        key(three[number], "set", stdin=(three[first].config / "key").read_text())[
                            0
                        ]
                        == 0
                    )
                for node in three:
                    some(asked)
                    assert key(node, "drop")[0] == 0
            some(asked)
        finally:
            over.set()
            for thread in threads:
                with contextlib.suppress(RuntimeError):
                    thread.join(20)
        print(
            f"{asked[0]} questions while the key was changed three times on three nodes, {len(lost)} without an answer"
        )
        assert asked[0] > 500 and lost == []
        assert answer(three[0], keyfile.of_all(b"1" * 64)).startswith(
            "it closed the connection; is its key"
        ), "it is forgotten"


def some(asked: list[int]) -> None:
    before = asked[0]
    wait_until(lambda: asked[0] > before + 30, 20)
