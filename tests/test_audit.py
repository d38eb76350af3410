"""dmonitor-check -t: every mistake with its file, its line, and what to do about it (must show 6)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from local_nodes import LocalNode, Place, run_as, running

from dmonitor.config import audit
from dmonitor.config.problems import Problems, Severity
from dmonitor.core.effects import NodeMemory, Save
from dmonitor.store import state
from dmonitor.store.state import Store


@pytest.fixture
def node(place: Place) -> LocalNode:
    made = LocalNode(place, "127.0.0.31", ["127.0.0.31", "127.0.0.32", "127.0.0.33"])
    for name in ("http", "https", "ssh"):
        made.plugin(name, "echo OK")
    made.test("www.example.com/http")
    made.mail()
    made.key("k" * 32)
    return made


def complaints(node: LocalNode) -> tuple[int, list[str]]:
    """Return the exit status of -t, and what it says, paths cut to what is below the directories."""
    ran = node.run("dmonitor-check", "--check-config")
    assert ran.stdout == ""
    warning = f"dmonitor-check: warning: {node.state}: dmonitord does not run on this node, so its peers get no answer; start it\n"
    said = (
        ran.stderr.replace(warning, "")
        .replace(f"{node.config}/", "")
        .replace(f"{node.place.directory}/", "")
    )
    return ran.returncode, [line.removeprefix("dmonitor-check: ") for line in said.splitlines()]


def test_all_well(node: LocalNode) -> None:
    status, said = complaints(node)
    assert (status, said) == (
        0,
        [
            "127.0.0.31: 1 host, 1 test, 3 nodes (this one is 127.0.0.31), 1 address: 0 errors, 1 warning"
        ],
    )
    assert list(node.state.iterdir()) == [], "it changes nothing"


def test_all_well_once_the_daemon_runs(node: LocalNode) -> None:
    with running([node]):
        assert node.run("dmonitor-check", "-t").stderr.endswith(
            ", 1 address: all well here; dmonitor-check -n asks the peers\n"
        )


def test_every_mistake(node: LocalNode) -> None:
    """The tree of the issue: each mistake is found, with its file, and its line where it has one."""
    node.test("www.example.com/htp")
    node.test("www.example.com/ssh")
    (node.config / "plugins/check_ssh").chmod(0o644)
    node.test("www.example.com/smtp")
    (node.config / "plugins/check_smtp").symlink_to("/nonexistent/check_smtp")
    node.test("www.example.com/ftp")
    (node.config / "plugins/check_ftp").mkdir()
    (node.config / "alert.d/on call@example.com").touch()
    (node.config / "hosts.d/bad host").mkdir()
    (node.config / "hosts.d/node").mkdir()
    node.configure("qorum = 2\nconfirm = often\nquorum = 4\nsendmail = /nonexistent/sendmail\n")
    (node.config / "nodes.txt").write_text(
        "127.0.0.31 a\n127.0.0.32 b\n# comment\nnosuchhost.invalid c\n"
    )
    status, said = complaints(node)
    assert status == os.EX_CONFIG
    unresolved = [
        line
        for line in said
        if line.startswith("error: nodes.txt:4: nosuchhost.invalid: its name does not resolve: ")
    ]
    assert len(unresolved) == 1
    assert [line for line in said if line not in unresolved] == [
        "error: dmonitor.conf:4: unknown key 'qorum'; did you mean quorum?",
        "error: dmonitor.conf:5: confirm = often: not a whole number from 1 to 100",
        "warning: dmonitor.conf:7: sendmail is set twice; the last line counts",
        "error: hosts.d/bad host: 'bad host' is not a host name; use ASCII letters, digits and . _ - : only",
        "error: hosts.d/node: the host name 'node' is reserved for the nodes in nodes.txt; rename this host",
        "error: alert.d/on call@example.com: 'on call@example.com' is not a mail address",
        "error: plugins/check_ftp: is not a file; needed for www.example.com/ftp",
        "error: hosts.d/www.example.com/htp: no plugin plugins/check_htp; did you mean http?",
        "error: plugins/check_smtp: is a dangling link to /nonexistent/check_smtp; needed for www.example.com/smtp",
        f"error: plugins/check_ssh: is not executable for user {run_as().pw_name}; run chmod 755 on it; needed for www.example.com/ssh",
        "error: nodes.txt: 3 sites (a, b, c) cannot reach quorum = 4, so no test can ever be DOWN; add sites or lower the quorum",
        "error: /nonexistent/sendmail: sendmail does not exist, so no mail can be sent; install a mail transport agent",
        "127.0.0.31: 1 host, 5 tests, 3 nodes (this one is 127.0.0.31), 1 address: 12 errors, 2 warnings",
    ]


@pytest.mark.parametrize(
    ("nodes", "complaint"),
    [
        (
            "",
            "error: nodes.txt: no peers, so nobody can agree with this node, and it will never alert; add a line for each node",
        ),
        (
            "127.0.0.31\n",
            "error: nodes.txt: no peers, so nobody can agree with this node, and it will never alert; add a line for each node",
        ),
        (
            "127.0.0.31 x\n127.0.0.32 x\n",
            "error: nodes.txt: 1 site (x) cannot reach quorum = 2, so no test can ever be DOWN; add sites or lower the quorum",
        ),
    ],
)
def test_what_can_never_alert(node: LocalNode, nodes: str, complaint: str) -> None:
    (node.config / "nodes.txt").write_text(nodes)
    status, said = complaints(node)
    assert status == os.EX_CONFIG and said[0] == complaint and len(said) == 2


def test_no_key_is_warned_of_and_a_bad_one_is_an_error(node: LocalNode) -> None:
    (node.config / "key").chmod(0o644)
    status, said = complaints(node)
    assert status == os.EX_CONFIG
    assert (
        said[0]
        == "error: key: cannot use this key: others could read or write it (mode 644); run chmod 640 on it"
    )
    (node.config / "key").unlink()
    status, said = complaints(node)
    assert status == 0 and said[0].startswith(
        "warning: key: no key: any program that calls from a node's address is taken for that node;"
    )


def test_plugins_that_others_could_change(node: LocalNode) -> None:
    (node.config / "plugins/check_http").chmod(0o775)
    assert complaints(node)[1][0].startswith(
        "error: plugins/check_http: can be written by users other than its owner; run chmod go-w"
    )
    (node.config / "plugins/check_http").chmod(0o755)
    (node.config / "plugins").chmod(0o777)
    assert complaints(node)[1][0].startswith(
        "error: plugins/check_http: lies in plugins, which can be written by users other than"
    )


def test_what_the_plugins_lack_is_one_line_for_apt(node: LocalNode) -> None:
    for name, needs in (
        ("one", "no-such-one (some-tools)"),
        ("two", "no-such-two (other-tools)"),
        ("three", "sh (dash)"),
    ):
        node.plugin(name, f"# {name}: tests something. Needs {needs}.\necho OK\n")
        node.test(f"www.example.com/{name}")
    node.test("mail.example.com/one")
    said = node.run("dmonitor-check", "-t").stderr.replace(f"{node.config}/", "")
    assert (
        "dmonitor-check: error: plugins/check_one: no-such-one is not installed; needed for mail.example.com/one\n"
        in said
    )
    assert (
        "dmonitor-check: error: plugins/check_two: no-such-two is not installed; needed for www.example.com/two\n"
        in said
    )
    assert "programs are missing; install them: apt install other-tools some-tools\n" in said
    assert "three" not in said


def test_parameters_that_no_plugin_uses(node: LocalNode) -> None:
    node.plugin("shop", '# PORT: its port; EXPECT: what it says\necho "OK $PORT $EXPECT"\n')
    node.test("www.example.com/shop", "EXPCT=all well\nPORT=80\nTIMEOUT=3\n")
    node.plugin("code", "print('OK')\n", interpreter="/usr/bin/python3")
    node.test("www.example.com/code", "WHATEVER=1\n")
    said = node.run("dmonitor-check", "-t").stderr.replace(f"{node.config}/", "")
    assert (
        "warning: hosts.d/www.example.com/shop: check_shop does not use EXPCT; did you mean EXPECT?\n"
        in said
    )
    assert "warning: hosts.d/www.example.com/code: check_code does not use WHATEVER\n" in said
    assert said.count(" does not use ") == 2


def test_parameters_that_a_plugin_does_not_state(node: LocalNode) -> None:
    head = "#: PORT (80): its port\n#: EXPECT: what it says\n# A comment names OTHER and TIMEOUT.\n"
    node.plugin("shop", f"{head}echo OK $OTHER\n#: EXPCT: this is no head\n")
    node.test("www.example.com/shop:81", "EXPCT=all well\nOTHER=1\nEVERY=1h\nEXPECT=all\n")
    ran = node.run("dmonitor-check", "-t")
    said = ran.stderr.replace(f"{node.config}/", "").replace("dmonitor-check: ", "")
    found = [line for line in said.splitlines() if "has no parameter" in line]
    assert found == [
        "error: hosts.d/www.example.com/shop:81: check_shop has no parameter EXPCT; did you mean EXPECT?",
        "error: hosts.d/www.example.com/shop:81: check_shop has no parameter OTHER; it has PORT, EXPECT",
    ]
    assert ran.returncode == os.EX_CONFIG


def test_an_every_that_is_shorter_than_the_rounds_are_apart(node: LocalNode) -> None:
    node.plugin("shop", "echo OK\n")
    for name, content in (
        ("shop", "EVERY=4m\nRETRY=3m\n"),
        ("shop:81", "EVERY=5m\n"),
        ("shop:82", "EVERY=4m\nRETRY=4h\n"),
    ):
        node.test(f"www.example.com/{name}", content)
    said = node.run("dmonitor-check", "-t").stderr
    assert "rounds come every" not in said, "not known yet"
    with Store(str(node.state)) as store:
        begins = tuple(store.clock.now() - 300.0 * ago for ago in (3, 2, 1))
        store.save(Save(NodeMemory(begins, begins[-1])))
    said = node.run("dmonitor-check", "-t").stderr.replace(f"{node.config}/", "")
    said = said.replace("dmonitor-check: ", "")
    found = [line for line in said.splitlines() if "EVERY" in line or "RETRY" in line]
    text = "rounds come every 5 min on this node; give 5m or more, or remove the line"
    assert sorted(found) == [
        f"error: hosts.d/www.example.com/shop: EVERY=4m: {text}",
        f"error: hosts.d/www.example.com/shop: RETRY=3m: {text}",
        f"error: hosts.d/www.example.com/shop:82: EVERY=4m: {text}",
        "error: hosts.d/www.example.com/shop:82: RETRY=4h is longer than EVERY; make it shorter, or remove it",
    ]


def test_no_address(node: LocalNode) -> None:
    next((node.config / "alert.d").iterdir()).unlink()
    assert (
        complaints(node)[1][0]
        == "error: alert.d: no address, so this node will never mail anybody; touch a file named like one"
    )


def test_a_node_that_is_not_listed_is_warned(node: LocalNode) -> None:
    (node.config / "nodes.txt").write_text("127.0.0.32\n127.0.0.33\n")
    status, said = complaints(node)
    assert status == 0
    assert said[0].startswith("warning: nodes.txt: no line is for this machine (")


def test_nothing_there_at_all(node: LocalNode) -> None:
    node.config = node.config / "nonexistent"
    node.state = node.state / "nonexistent"
    status, said = complaints(node)
    assert status == os.EX_CONFIG
    assert any(line.startswith("error: hosts.d: No such file") for line in said)
    assert any("no incident can be remembered" in line for line in said)


def test_unreadable(node: LocalNode) -> None:
    """As root, the check looks with the eyes of the user that rounds run as."""
    (node.config / "nodes.txt").chmod(0)
    if os.geteuid() == 0:
        assert (
            complaints(node)[1][0]
            == f"error: nodes.txt: Permission denied for user {run_as().pw_name}"
        )
    (node.config / "nodes.txt").unlink()
    assert complaints(node)[1][0] == "error: nodes.txt: No such file or directory"


def test_silences_are_counted_and_those_that_ended_are_named(node: LocalNode) -> None:
    silence = node.config / "silence.d"
    silence.mkdir()
    (silence / "www.example.com").touch()
    assert complaints(node)[1] == [
        "127.0.0.31: 1 host, 1 test, 3 nodes (this one is 127.0.0.31), 1 address, 1 silence: 0 errors, 1 warning"
    ]
    ends = time.time() + 2
    os.utime(silence / "www.example.com", (ends, ends))
    time.sleep(2.1)
    ended = time.strftime("%a %d %b %Y %H:%M:%S %z", time.localtime(ends))
    assert complaints(node)[1] == [
        f"warning: silence.d/www.example.com: ended on {ended}; remove it",
        "127.0.0.31: 1 host, 1 test, 3 nodes (this one is 127.0.0.31), 1 address: 0 errors, 2 warnings",
    ]


def test_what_the_last_round_found_is_said(node: LocalNode) -> None:
    node.round()
    _, said = complaints(node)
    found = "isolated, as of the last round: no peer answers (127.0.0.32: connection refused; 127.0.0.33: connection refused)"
    assert any(line.startswith("warning: ") and found in line for line in said), said


@pytest.mark.parametrize(
    ("free", "inodes", "free_inodes", "is_full"),
    [
        (0, 9, 9, True),
        (100, 9, 9, True),
        (1000, 9, 9, False),
        (1000, 9, 0, True),
        (1000, 0, 0, False),
    ],
)
def test_a_disk_without_room_is_an_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    inodes: int,
    free_inodes: int,
    is_full: bool,
) -> None:
    status = SimpleNamespace(f_bavail=free, f_frsize=4096, f_files=inodes, f_favail=free_inodes)
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    problems = Problems()
    audit._examine_state(str(tmp_path), problems)
    said = [str(problem) for problem in problems if problem.severity is Severity.ERROR]
    error = f"error: {tmp_path}: there is no room on its disk, so no incident can be remembered;"
    assert said == ([f"{error} make room"] if is_full else [])


def test_a_state_that_cannot_be_read_costs_no_other_finding(node: LocalNode) -> None:
    node.test("www.example.com/htp")
    node.round()
    node.state.chmod(0)
    try:
        status, said = complaints(node)
    finally:
        node.state.chmod(0o750)
    assert status == os.EX_CONFIG and any("did you mean http?" in line for line in said)


def test_hosts_that_cannot_be_found(node: LocalNode) -> None:
    for host in ("10.1.2.300", "www.example.com:8080", "2001:db8::1", "10.1.2.3"):
        node.test(f"{host}/http")
    said = node.run("dmonitor-check", "-t").stderr.replace(f"{node.config}/", "")
    found = [
        line.split(": ", 3)[2]
        for line in said.splitlines()
        if "neither a host name nor an address" in line
    ]
    assert found == ["hosts.d/10.1.2.300", "hosts.d/www.example.com:8080"]


def test_a_second_name_of_this_node_is_named_and_a_peer_that_becomes_one_is_a_trouble(
    place: Place, port: int
) -> None:
    """Who forges a peer's name would have it vanish without a word."""
    node = LocalNode(place, "127.0.0.1", ["127.0.0.1", "localhost", "127.0.0.32"], port=port)
    _, said = complaints(node)
    assert "(this one is 127.0.0.1, and also localhost)" in said[-1]
    with state.Store(str(node.state)) as store:
        store.remember([], {"localhost": ["127.0.0.99"], "127.0.0.1": ["127.0.0.1"]})
    for path in node.state.iterdir():
        os.chown(path, run_as().pw_uid, run_as().pw_gid)
    logs = [node.round(), node.round()]
    for log in logs:
        assert "test-ran test=node/localhost result=FAIL" in log, "it is called where it was"
    assert "trouble kind=diverted-peer" in logs[0] and "trouble-over" not in logs[1]
    _, said = complaints(node)
    warnings = [line for line in said if "diverted-peer, as of the last round:" in line]
    assert len(warnings) == 1 and "did not before: localhost;" in warnings[0]
