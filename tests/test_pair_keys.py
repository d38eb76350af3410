"""A key for each pair of nodes: how it is made and read, and what a node that was broken into cannot do with its own keys."""

from __future__ import annotations

import contextlib
import hmac
import os
import selectors
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import ask
from local_nodes import LocalNode, Place, running, wait_until

from dmonitor.config import audit, cluster, configuration, keyfile
from dmonitor.config.keyfile import Keys, KeySet
from dmonitor.config.problems import Problems
from dmonitor.core.model import Test
from dmonitor.operator import pair_keys

OK = Test("www.example.com", "ok")
MASTER = b"m" * 64
PARIS, ROME, OSLO = ("127.0.0.31", "127.0.0.32", "127.0.0.33")
ONE, TWO, CLUSTER = (b"1" * 32, b"2" * 32, b"c" * 32)
REFUSED = "it closed the connection; is its key the same as ours?"


# How they are derived.


def test_each_pair_has_a_key_of_its_own_that_both_have() -> None:
    made = pair_keys.derive(MASTER, ["paris", "rome", "oslo"])
    pairs = {name: dict(key_set.pairs or {}) for name, key_set in made.items()}
    found = set()
    for node, keys in pairs.items():
        assert set(keys) == set(pairs), "with itself, too"
        for peer, key in keys.items():
            assert pairs[peer][node] == key and len(key) == 64
            found.add(key)
    assert len(found) == 6
    (secret,) = {key_set.secret for key_set in made.values()}
    assert secret not in found
    by_hand = hmac.digest(MASTER, b"dmonitor pair\nparis\nrome", "sha256").hex()
    assert pairs["rome"]["paris"].decode() == by_hand


def test_a_new_node_changes_no_key_and_the_order_of_the_names_does_not_matter() -> None:
    two = pair_keys.derive(MASTER, ["paris", "rome"])
    three = pair_keys.derive(MASTER, ["oslo", "rome", "paris"])
    for node, key_set in two.items():
        assert key_set.secret == three[node].secret
        assert (key_set.pairs or {}).items() < (three[node].pairs or {}).items()
    other = pair_keys.derive(b"n" * 64, ["paris", "rome"])
    assert other["paris"].secret != two["paris"].secret
    assert (other["paris"].pairs or {})["rome"] != (two["paris"].pairs or {})["rome"]


# How they are made.


def run(
    place: Place, directory: Path, *words: str, stdin: str = "", umask: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run `dmonitor` in DIRECTORY."""
    before = os.umask(umask)
    try:
        return subprocess.run(
            [sys.executable, str(place.directory / "bin/dmonitor"), *words],
            env=place.environment(),
            input=stdin,
            text=True,
            capture_output=True,
            timeout=20,
            cwd=directory,
            check=False,
        )
    finally:
        os.umask(before)


@pytest.fixture
def desk(place: Place) -> Path:
    """Return a directory of the operator's, which is no node's."""
    path = place.directory / "desk"
    path.mkdir(mode=0o755)
    return path


def new(place: Place, desk: Path, *nodes: str) -> str:
    """Make the keys of NODES; return what was said. It goes well."""
    ran = run(place, desk, "key", "new", *nodes)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def refusal(place: Place, desk: Path, *nodes: str) -> str:
    """Make the keys of NODES; return why they were not made. Nothing has changed."""
    before = contents(desk)
    ran = run(place, desk, "key", "new", *nodes)
    assert (ran.returncode, ran.stdout) == (os.EX_DATAERR, "")
    assert contents(desk) == before
    return ran.stderr


def contents(desk: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in desk.iterdir() if path.is_file()}


def test_files_are_made_for_their_owner_only_and_made_again_alike(place: Place, desk: Path) -> None:
    said = new(place, desk, "paris", "rome")
    assert said == (
        "dmonitor.master is written: keep it, and keep it off the nodes.\n"
        "Each node needs its file, in any order:\n"
        "  ssh root@paris dmonitor key set <paris.key\n"
        "  ssh root@rome dmonitor key set <rome.key\n"
    )
    assert sorted(os.listdir(desk)) == ["dmonitor.master", "paris.key", "rome.key"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in desk.iterdir()} == {0o600}
    before = contents(desk)
    paris, rome = before["paris.key"].split(), before["rome.key"].split()
    assert paris[5:7] == rome[5:7] and paris[5] == "*", "the cluster's secret"
    assert new(place, desk, "paris", "rome") == said.partition("\n")[2]
    assert contents(desk) == before
    new(place, desk, "oslo", "paris", "rome")
    for name, text in before.items():
        assert set(text.splitlines()) <= set((desk / name).read_text().splitlines()), name
    said = new(place, desk, "oslo", "paris")
    assert "rome was not named, so the others will refuse it" in said
    assert "rome" not in (desk / "paris.key").read_text()
    made = run(place, desk, "key", "new", "oslo", "paris", "--json")
    assert f'"{desk}/oslo.key"' in made.stdout


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        (["paris"], "name all nodes"),
        (["paris", "paris"], "a node is named twice"),
        (["paris", "../rome"], "'../rome' is not a host name or an address"),
        (["paris", "*"], "'*' is not a host name or an address"),
    ],
)
def test_names_that_make_no_keys(place: Place, desk: Path, nodes: list[str], why: str) -> None:
    assert why in refusal(place, desk, *nodes)


def test_only_new_takes_names(place: Place, desk: Path) -> None:
    for what in ("set", "drop"):
        ran = run(place, desk, "key", what, "paris", "rome")
        assert ran.returncode == os.EX_USAGE and "takes no names of nodes" in ran.stderr
    assert os.listdir(desk) == []


def test_a_directory_that_others_write_to(place: Place, desk: Path) -> None:
    """Another user could put his own file in the place of one that root is about to hand out."""
    for mode in (0o1777, 0o775):
        desk.chmod(mode)
        assert "others may write to this directory" in refusal(place, desk, "paris", "rome")
    desk.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(desk, 12345, -1)
        assert "others may write to this directory" in refusal(place, desk, "paris", "rome")


def test_the_configuration_of_a_node_is_no_place(place: Place) -> None:
    node = LocalNode(place, PARIS, [PARIS, ROME])
    ran = run(place, node.config, "--config", str(node.config), "key", "new", PARIS, ROME)
    assert ran.returncode == os.EX_DATAERR and "no place for the keys of all nodes" in ran.stderr
    assert not list(node.config.glob("*.key")) and not (node.config / "dmonitor.master").exists()


def test_keys_of_another_master_are_not_mixed(place: Place, desk: Path) -> None:
    new(place, desk, "paris", "rome")
    master = (desk / "dmonitor.master").read_text()
    (desk / "dmonitor.master").unlink()
    assert "dmonitor.master is not here, but keys" in refusal(place, desk, "paris", "rome")
    draft = desk / "dmonitor.master"
    draft.write_text("dmonitor master " + "x" * 64 + "\n")
    draft.chmod(0o600)
    assert "paris.key is not of this dmonitor.master" in refusal(place, desk, "paris", "rome")
    draft.write_text("x" * 64)
    assert "dmonitor.master holds no master" in refusal(place, desk, "paris", "rome")
    draft.write_text(master)
    new(place, desk, "paris", "rome")


def test_what_others_may_have_read_or_put_there_is_not_used(place: Place, desk: Path) -> None:
    new(place, desk, "paris", "rome")
    for name in ("dmonitor.master", "rome.key"):
        (desk / name).chmod(0o640)
        assert f"others could read {name}" in refusal(place, desk, "paris", "rome")
        (desk / name).chmod(0o600)
    (desk / "www.key").write_text("-----BEGIN PRIVATE KEY-----\n")
    os.mkfifo(desk / "fifo.key")
    new(place, desk, "paris", "rome")
    assert "www.key is here, and no file of keys" in refusal(place, desk, "paris", "www")
    assert "fifo.key is here, and no file of keys" in refusal(place, desk, "paris", "fifo")


# How they are taken.


def key(node: LocalNode, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    directory = node.place.directory
    return run(node.place, directory, "--config", str(node.config), "key", *words, stdin=stdin)


def give(desk: Path, *nodes: LocalNode) -> None:
    """Have each of NODES take its file."""
    for node in nodes:
        text = (desk / f"{node.address}.key").read_text()
        ran = key(node, "set", stdin=text)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert f"/key is written: {len(text.splitlines()) - 2} keys with nodes\n" in ran.stdout


@pytest.fixture
def nodes(three: list[LocalNode]) -> list[LocalNode]:
    """Return three nodes that list each other, without a key, each with a test that passes."""
    for node in three:
        (node.config / "key").unlink()
        node.plugin("ok", "echo OK")
        node.test(str(OK))
    return three


@pytest.fixture
def paired(place: Place, desk: Path, nodes: list[LocalNode]) -> list[LocalNode]:
    """Return three nodes, each pair of which has a key."""
    new(place, desk, PARIS, ROME, OSLO)
    give(desk, *nodes)
    return nodes


def test_a_file_is_taken_by_its_node_only_and_shown_line_by_line(
    desk: Path, paired: list[LocalNode]
) -> None:
    paris, rome, _ = paired
    wrong = key(paris, "set", stdin=(desk / f"{ROME}.key").read_text())
    assert wrong.returncode == os.EX_DATAERR
    assert f"stdin holds the keys of {ROME}, and this node is {PARIS}" in wrong.stderr
    path = paris.config / "key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    shown = {node.address: key(node).stdout.split() for node in (paris, rome)}
    assert shown[PARIS][1::3] == [str(path)] * 4
    assert shown[PARIS][2::3] == [PARIS, ROME, OSLO, "*"]
    assert shown[PARIS][3] == shown[ROME][0], "the pair's"
    assert shown[PARIS][9] == shown[ROME][9], "the cluster's"
    assert len(set(shown[PARIS][::3])) == 4
    for line in path.read_text().splitlines():
        assert line.split()[-1] not in " ".join(shown[PARIS]) or line.startswith("#")
    as_json = key(paris, "--json").stdout
    assert as_json.count('"peer"') == 4


def test_a_master_is_no_key(desk: Path, paired: list[LocalNode]) -> None:
    """Whoever gives a node the master by mistake would give it all keys."""
    before = (paired[0].config / "key").read_text()
    ran = key(paired[0], "set", stdin=(desk / "dmonitor.master").read_text())
    assert ran.returncode == os.EX_DATAERR and "stdin does not hold a key" in ran.stderr
    assert (paired[0].config / "key").read_text() == before


def test_lines_that_come_and_go_need_no_old_key(
    place: Place, desk: Path, paired: list[LocalNode]
) -> None:
    paris = paired[0]
    for names in ([PARIS, ROME, OSLO, "bern"], [PARIS, ROME]):
        new(place, desk, *names)
        give(desk, paris)
        assert not (paris.config / "key.old").exists()
    assert key(paris, "set", stdin="x" * 64).returncode == 0
    assert (paris.config / "key.old").exists(), "all keys change"


def test_a_file_with_a_mistake_is_not_taken(desk: Path, paired: list[LocalNode]) -> None:
    text = (desk / f"{PARIS}.key").read_text() + "bern\n"
    ran = key(paired[0], "set", stdin=text)
    assert ran.returncode == os.EX_DATAERR
    assert "no key was set: line 6 of stdin: a line reads NODE KEY" in ran.stderr


# How they are read.


@pytest.mark.parametrize(
    ("lines", "pairs", "secret", "faults"),
    [
        (["paris 1", "rome 2", "* c"], {"paris": ONE, "rome": TWO}, CLUSTER, []),
        (["# two", "", "paris 1  # ", "* c"], {}, b"", [3, None]),
        (["  paris\t1 ", "* c"], {"paris": ONE}, CLUSTER, []),
        (["paris 1", "rome x", "* c"], {"paris": ONE}, CLUSTER, [2]),
        (["paris 1", "1 rome", "* c"], {"paris": ONE}, CLUSTER, [2]),
        (["paris 1", "-x 2", "* c"], {"paris": ONE}, CLUSTER, [2]),
        (["paris 1", "2", "* c"], {"paris": ONE}, CLUSTER, [2]),
        (["paris 1", "paris 2"], {"paris": ONE}, b"", [2]),
        (["paris 1", "rome 1", "* 2"], {"paris": ONE, "rome": ONE}, TWO, []),
        (["paris 1", "rome 2", "* 2"], {"paris": ONE}, TWO, [2]),
        (["* c", "* 1"], {}, b"", [2, None]),
        (["paris 1", "rome"], {"paris": ONE}, b"", [2]),
    ],
)
def test_each_line_stands_for_itself(
    lines: list[str], pairs: dict[str, bytes], secret: bytes, faults: list[int | None]
) -> None:
    text = "\n".join(lines)
    for short, word in (("1", ONE), ("2", TWO), (" c", b" " + CLUSTER)):
        text = text.replace(short, word.decode())
    found, mistakes = keyfile.parse(text.encode())
    assert [mistake.line for mistake in mistakes] == faults
    for mistake in mistakes:
        for word in (ONE, TWO, CLUSTER):
            assert word.decode() not in mistake.text, "a key is never shown"
    if pairs:
        assert found == KeySet(secret, pairs)
    else:
        assert found == keyfile.UNUSABLE and not found.is_usable


@pytest.mark.parametrize("text", [ONE, b" " + ONE + b"\n", b"# mine\n\n" + ONE + b"\n"])
def test_one_word_is_the_key_of_all(text: bytes) -> None:
    found, mistakes = keyfile.parse(text)
    assert found.for_peer("paris") == ONE and mistakes == []


def test_who_has_which_key() -> None:
    now = KeySet(CLUSTER, {"paris": ONE, "rome": TWO})
    old = KeySet(b"o" * 32, {"paris": b"p" * 32, "oslo": b"q" * 32})
    keys = Keys((now, old), "/etc/dmonitor/key")
    assert keys.for_peer("paris") == (ONE, b"p" * 32)
    assert keys.for_peer("rome") == (TWO,)
    assert keys.for_peer("oslo") == (), "its line was taken out, whatever key.old says"
    assert keys.for_peer("*") == () and keys.for_peer("") == ()
    assert keys.fault("oslo").startswith("no line for oslo in /etc/dmonitor/key: ")
    assert keys.callers(["rome", "oslo"]) == {TWO: ["rome"]}
    assert keys.callers([]) == {} and keys.callers(["oslo"]) == {}
    assert CLUSTER not in keys.callers(["paris", "rome", "*"]), "it authenticates nobody"
    assert keys.cluster_secret() == b"o" * 32, "all nodes have that while the keys change"
    assert Keys((now,)).cluster_secret() == CLUSTER
    assert Keys((now, KeySet(b"", old.pairs))).cluster_secret() == CLUSTER
    shared = Keys((now, KeySet(b"s" * 32)))
    assert shared.for_peer("rome") == (TWO, b"s" * 32) and shared.for_peer("oslo") == ()
    assert shared.cluster_secret() == b"s" * 32
    both = Keys((KeySet(CLUSTER, {"a": ONE, "b": ONE}),))
    assert both.callers(["a", "b"]) == {ONE: ["a", "b"]}


def examined(node: LocalNode) -> str:
    loaded = configuration.load_configuration(str(node.config))
    problems = Problems(loaded.problems)
    around = cluster.resolve_cluster(loaded.nodes, loaded.settings, {})
    audit.examine(loaded, around, problems)
    return "\n".join(str(problem) for problem in problems if "/key" in problem.path)


def edit(node: LocalNode, old: str, instead: str) -> None:
    path = node.config / "key"
    lines = [
        instead if line.startswith(f"{old} ") else line for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(filter(None, lines)) + "\n")


def test_the_configuration_check_names_what_is_missing_and_what_is_too_much(
    paired: list[LocalNode],
) -> None:
    paris = paired[0]
    assert examined(paris) == ""
    edit(paris, ROME, "127.0.0.34 " + "r" * 32)
    assert f"error: {paris.config}/key: no line for {ROME}, so this node and" in examined(paris)
    assert "warning" in examined(paris) and "is called 127.0.0.34; did you mean" in examined(paris)
    edit(paris, "127.0.0.34", "")
    edit(paris, PARIS, "")
    assert f"no line for {PARIS}, this node itself" in examined(paris)
    edit(paris, "*", "")
    assert "no line *" in examined(paris)
    edit(paris, OSLO, f"{OSLO} {'o' * 32}\n{ROME} {'o' * 32}")
    assert f"{ROME} has the key of {OSLO}, so each can speak as the other" in examined(paris)
    checked = paris.run("dmonitor-check", "-t")
    assert checked.returncode == os.EX_CONFIG and f"no line for {PARIS}" in checked.stderr


# What a node that was broken into can do with its keys.


def keys_of(node: LocalNode) -> Keys:
    found = keyfile.load_keys(str(node.config), Problems())
    assert found is not None
    return found


def as_lines(keys: Keys, name: str, *names: str) -> Keys:
    """Return KEYS with the key for NAME as the one for each of NAMES."""
    (key,) = keys.for_peer(name)
    return Keys((KeySet(b"", dict.fromkeys(names, key)),))


def answer(
    keys: Keys | None, source: str, name: str, target: str, port: int, test: Test = OK
) -> str:
    """Ask the node NAME at the address TARGET, from the address SOURCE; return why there is no answer, nothing if there is one."""
    found = ask(test, name, target, source=source, port=port, keys=keys)
    return "" if found.result else found.reason


def all_answers(nodes: list[LocalNode]) -> dict[tuple[str, str], str]:
    """Return what becomes of the question of each of NODES to each, itself included."""
    return {
        (one.address, other.address): answer(
            keys_of(one), one.address, other.address, other.address, other.port
        )
        for one in nodes
        for other in nodes
    }


def test_all_talk_and_rehearse(paired: list[LocalNode]) -> None:
    """A node needs a key with itself, because its checker asks its own daemon."""
    paris = paired[0]
    with running(paired):
        assert set(all_answers(paired).values()) == {""}
        for node in paired:
            said = node.round()
            assert f"question peer={node.address} test={OK}" in said
            assert "no-key" not in said
        edit(paris, PARIS, "")
        said = paris.round()
        assert f"question peer={PARIS}" not in said and "question peer=" in said


def give_keys(place: Place, desk: Path, nodes: list[LocalNode], *, is_paired: bool) -> None:
    """Give the nodes a key for each pair of them, or one for all."""
    if is_paired:
        new(place, desk, PARIS, ROME, OSLO)
        give(desk, *nodes)
    else:
        for node in nodes:
            node.key("k" * 32)


@pytest.mark.parametrize("is_paired", [True, False])
def test_a_liar_cannot_call_as_another(
    is_paired: bool, place: Place, desk: Path, nodes: list[LocalNode]
) -> None:
    """Oslo was broken into, and has taken rome's address. With one key for all it is rome to paris."""
    paris, rome, oslo = nodes
    give_keys(place, desk, nodes, is_paired=is_paired)
    stolen = keys_of(oslo)
    with running([paris]):
        assert answer(stolen, OSLO, PARIS, PARIS, paris.port) == "", "as itself"
        if not is_paired:
            assert answer(stolen, ROME, PARIS, PARIS, paris.port) == ""
            return
        for name in (PARIS, ROME, OSLO):  # each key that it has
            lines = as_lines(stolen, name, PARIS)
            assert answer(lines, ROME, PARIS, PARIS, paris.port) == REFUSED, name
            assert answer(lines, PARIS, PARIS, PARIS, paris.port) == REFUSED, name
        for secret in (stolen.cluster_secret(), b"x" * 32):
            forged = Keys((KeySet(b"", {PARIS: secret}),))
            assert answer(forged, ROME, PARIS, PARIS, paris.port) == REFUSED
        assert answer(keys_of(rome), ROME, PARIS, PARIS, paris.port) == "", "rome itself"
        assert answer(keys_of(rome), OSLO, PARIS, PARIS, paris.port) == REFUSED, "not from there"


@pytest.mark.parametrize("is_paired", [True, False])
def test_a_liar_cannot_answer_as_another(
    is_paired: bool, place: Place, desk: Path, nodes: list[LocalNode]
) -> None:
    """Oslo was broken into, and its daemon runs at rome's address, with whatever keys it has."""
    paris, rome, oslo = nodes
    give_keys(place, desk, nodes, is_paired=is_paired)
    stolen = [(oslo.config / "key").read_text()]
    for name in (PARIS, ROME, OSLO) if is_paired else ():
        (stolen_key,) = keys_of(oslo).for_peer(name)
        stolen.append(f"{PARIS} {stolen_key.decode()}\n{ROME} {stolen_key.decode()}\n")
    expected = REFUSED if is_paired else ""
    for lines in stolen:
        rome.key(lines)
        with running([rome]):
            assert answer(keys_of(paris), PARIS, ROME, ROME, rome.port) == expected
    if is_paired:
        give(desk, rome)


class Proxy:
    """Somebody who answers at one address, passes all on to another from a third one, and listens."""

    def __init__(self, address: str, source: str, target: str, port: int) -> None:
        self.said: list[bytes] = []
        self._listener = socket.create_server((address, port))
        self._listener.settimeout(10)
        self._source, self._target = source, (target, port)
        self._thread = threading.Thread(target=self._pass_on)
        self._thread.start()

    def _pass_on(self) -> None:
        connection, _ = self._listener.accept()
        with (
            connection,
            socket.create_connection(self._target, 5, (self._source, 0)) as onward,
            selectors.DefaultSelector() as selector,
        ):
            selector.register(connection, selectors.EVENT_READ, onward)
            selector.register(onward, selectors.EVENT_READ, connection)
            while True:
                for ready, _ in selector.select(5):
                    data = ready.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    if not data:
                        return
                    if ready.data is onward:
                        self.said.append(data)
                    ready.data.sendall(data)

    def close(self) -> None:
        self._thread.join(10)
        self._listener.close()


def test_a_liar_cannot_pass_on_or_repeat_what_another_says(paired: list[LocalNode]) -> None:
    """Oslo was broken into, and sits at rome's name: what paris says there is for rome alone."""
    paris, rome, _ = paired
    with running([rome]):
        # The wire is longer by it, as by a router: it reads what is said, and says nothing.
        proxy = Proxy("127.0.0.35", PARIS, ROME, rome.port)
        assert answer(keys_of(paris), PARIS, ROME, "127.0.0.35", rome.port) == ""
        proxy.close()
        recorded = b"".join(proxy.said)
        assert recorded.startswith(b"hello " + ROME.encode()) and b"\ntest " in recorded
        # From its own address it is oslo, so not even that.
        proxy = Proxy("127.0.0.35", OSLO, ROME, rome.port)
        assert answer(keys_of(paris), PARIS, ROME, "127.0.0.35", rome.port) == REFUSED
        proxy.close()
        assert proxy.said, "it was tried"
        for source in (PARIS, OSLO):
            with socket.create_connection((ROME, rome.port), 5, (source, 0)) as repeated:
                assert repeated.recv(1 << 16).startswith(b"dmonitor 1 nonce=")
                with contextlib.suppress(OSError):
                    repeated.sendall(recorded)
                assert read_all(repeated) == b"", "the nonce is another one"


def read_all(connection: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(1 << 16):
            found += data
    return found


def listed(node: LocalNode, *names: str) -> None:
    (node.config / "nodes.txt").write_text("".join(f"{name}\n" for name in names))


@pytest.mark.parametrize("way", ["nodes.txt", "lines", "master"])
def test_a_revoked_node_is_refused_by_each_of_the_others_and_by_nobody_else(
    way: str, place: Place, desk: Path, paired: list[LocalNode]
) -> None:
    paris, rome, oslo = paired
    before = keys_of(oslo)
    with running(paired):
        assert set(all_answers(paired).values()) == {""}
        match way:
            case "nodes.txt":
                for node in (paris, rome):
                    listed(node, PARIS, ROME)
            case "lines":
                new(place, desk, PARIS, ROME)
                give(desk, paris, rome)
            case "master":
                other = place.directory / "other"
                other.mkdir(mode=0o755)
                new(place, other, PARIS, ROME)
                give(other, paris, rome)
        for node in (paris, rome):
            refused = wait_refused(before, node)
            assert refused.startswith("it closed the connection"), way
            for name in (PARIS, ROME, OSLO):  # with any of its keys, from any address
                for source in (PARIS, ROME, OSLO):
                    lines = as_lines(before, name, node.address)
                    got = answer(lines, source, node.address, node.address, node.port)
                    assert got.startswith("it closed the connection"), (name, source)
            if way != "nodes.txt":
                got = answer(keys_of(node), node.address, OSLO, OSLO, oslo.port)
                assert got.startswith(f"no line for {OSLO} in {node.config}/key")
        assert set(all_answers([paris, rome]).values()) == {""}, "nobody else is"
        assert answer(before, OSLO, OSLO, OSLO, oslo.port) == "", "it talks to itself"


def wait_refused(keys: Keys, node: LocalNode) -> str:
    """Return why the node OSLO with KEYS is refused, once the daemon of NODE has read the change."""
    for _ in range(50):
        reason = answer(keys, OSLO, node.address, node.address, node.port)
        if reason:
            return reason
        time.sleep(0.05)
    return ""


@contextlib.contextmanager
def foreground(node: LocalNode) -> Iterator[list[str]]:
    """Run the daemon of NODE meanwhile; what it logged is in the list when it has ended."""
    logged: list[str] = []
    daemon = node.popen("dmonitord", "--foreground", "--verbose")
    try:
        wait_until(lambda: is_open(node))
        yield logged
    finally:
        daemon.terminate()
        logged.append(daemon.communicate(timeout=10)[1])


def is_open(node: LocalNode) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((node.address, node.port)):
        return True
    return False


def test_one_broken_line_costs_that_peer_only(paired: list[LocalNode]) -> None:
    paris, _, oslo = paired
    edit(paris, OSLO, f"{OSLO} short")
    with running(paired):
        found = all_answers(paired)
        assert found.pop((PARIS, OSLO)).startswith(f"no line for {OSLO} in {paris.config}/key")
        assert found.pop((OSLO, PARIS)) == REFUSED
        assert set(found.values()) == {""}
    with foreground(paris) as log:
        assert answer(keys_of(oslo), OSLO, PARIS, PARIS, paris.port) == REFUSED
    (logged,) = log
    assert f"no-key peer={OSLO} reason=" in logged
    assert f"unauthenticated address={OSLO}" in logged and f"no line for {OSLO}" in logged
    assert "short" not in logged


def test_the_daemon_says_in_its_log_which_node_said_what(paired: list[LocalNode]) -> None:
    paris, _, oslo = paired
    lines = as_lines(keys_of(oslo), PARIS, ROME)
    with foreground(paris) as log:
        assert answer(lines, OSLO, ROME, PARIS, paris.port).startswith("this node is")
        assert answer(lines, ROME, ROME, PARIS, paris.port) == REFUSED
    (logged,) = log
    assert f"misdirected address={OSLO} peer={OSLO} name={ROME}" in logged
    assert f"unauthenticated address={ROME}" in logged


# From one key for all to a key for each pair.


def test_the_way_from_one_key_to_pairs_loses_no_answer(
    place: Place, desk: Path, nodes: list[LocalNode]
) -> None:
    for node in nodes:
        node.key("k" * 32)
    new(place, desk, PARIS, ROME, OSLO)
    secrets = []
    with running(nodes):
        for step in ("set", "drop"):
            for node in nodes:
                assert set(all_answers(nodes).values()) == {""}, step
                if step == "set":
                    give(desk, node)
                else:
                    assert key(node, "drop").returncode == 0
                secrets.append([keys_of(each).cluster_secret() for each in nodes])
        assert set(all_answers(nodes).values()) == {""}
    assert secrets[:3] == [[b"k" * 32] * 3] * 3, "one secret until the first one drops it"
    assert len(set(secrets[-1])) == 1 and secrets[-1][0] != b"k" * 32


def test_a_master_is_changed_without_a_lost_answer(
    place: Place, desk: Path, paired: list[LocalNode]
) -> None:
    other = place.directory / "other"
    other.mkdir(mode=0o755)
    new(place, other, PARIS, ROME, OSLO)
    before = keys_of(paired[2])
    with running(paired):
        for node in paired:
            give(other, node)
            assert set(all_answers(paired).values()) == {""}
        for node in paired:
            assert key(node, "drop").returncode == 0
            assert set(all_answers(paired).values()) == {""}
        assert answer(before, OSLO, PARIS, PARIS, paired[0].port) == REFUSED, "it is forgotten"


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)
