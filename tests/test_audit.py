"""dmonitor-check -t: every mistake with its file, its line, and what to do about it (must show 6)."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from local_nodes import LocalNode, Place, run_as, running

from dmonitor.config import audit, programs
from dmonitor.config.configuration import load_configuration
from dmonitor.config.problems import Problems, Severity
from dmonitor.core.effects import NodeMemory, Save
from dmonitor.core.model import Incident, Test
from dmonitor.execution import plugin
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
        "error: dmonitor.conf:5: unknown key 'qorum'; did you mean quorum?",
        "error: dmonitor.conf:6: confirm = often: not a whole number from 1 to 100",
        "warning: dmonitor.conf:8: sendmail is set twice; the last line counts",
        "error: hosts.d/bad host: 'bad host' is not a host name; use ASCII letters, digits and . _ - : only",
        "error: hosts.d/node: the host name 'node' is reserved for the nodes in nodes.txt; rename this host",
        "error: alert.d/on call@example.com: 'on call@example.com' is not a mail address that is taken here; use ASCII letters, digits and . _ + = - before the @, or an alias that has no other characters",
        "error: /nonexistent/sendmail: sendmail does not exist, so no mail can be sent; install a mail transport agent",
        "error: plugins/check_ftp: is not a file; needed for www.example.com/ftp",
        "error: hosts.d/www.example.com/htp: no plugin plugins/check_htp; did you mean http?",
        "error: plugins/check_smtp: is a dangling link to /nonexistent/check_smtp; needed for www.example.com/smtp",
        f"error: plugins/check_ssh: is not executable for user {run_as().pw_name}; run chmod 755 on it; needed for www.example.com/ssh",
        "error: nodes.txt: 3 sites (a, b, c) cannot reach quorum = 4, so no test can ever be DOWN; add sites or lower the quorum",
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
    for_all = node.config / "hosts.d/www.example.com/.all"
    for_all.write_text("PORT=82\nADRESS=192.0.2.7\nCONFIRM=2\n")
    ran = node.run("dmonitor-check", "-t")
    said = ran.stderr.replace(f"{node.config}/", "").replace("dmonitor-check: ", "")
    found = [line for line in said.splitlines() if "has no parameter" in line]
    assert found == [
        "error: hosts.d/www.example.com/.all: check_shop has no parameter ADRESS; it has PORT, EXPECT",
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
    (silence / "www.example.com").write_text("until 2001-01-01 moved\nuntil 2002-02-02T12:00:00Z\n")
    ends = 1_012_651_200.0
    ended = time.strftime("%a %d %b %Y %H:%M:%S %z", time.localtime(ends))
    assert complaints(node)[1] == [
        f"warning: silence.d/www.example.com: ended on {ended}; remove it",
        "127.0.0.31: 1 host, 1 test, 3 nodes (this one is 127.0.0.31), 1 address: 0 errors, 2 warnings",
    ]


def test_a_silence_that_may_be_forgotten_is_named(node: LocalNode) -> None:
    path = node.config / "silence.d/www.example.com"
    path.parent.mkdir()
    path.touch()
    now = time.time()
    write = "write `until 2026-11-29T06:00` into it"
    for ahead, complaint in (
        (-3600.0, None),
        (
            -12 * 86_400.0 - 3610.0,
            f"has silenced www.example.com for 12 d 1 h; {write}, or remove it: `dmonitor silence"
            " www.example.com off`",
        ),
        (
            7200.0,
            "is empty, so it silences until it is removed; its time, which is to come, is no end:"
            f" {write}",
        ),
    ):
        os.utime(path, (now + ahead, now + ahead))
        said = [line for line in complaints(node)[1] if "silence.d" in line]
        expected = []
        if complaint:
            expected = [f"warning: silence.d/www.example.com: {complaint}"]
        assert said == expected
    path.write_text("until up\n")
    os.utime(path, (now - 1e6, now - 1e6))
    assert not [line for line in complaints(node)[1] if "silence.d" in line], "it is no silence"


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
    status = SimpleNamespace(
        f_flag=0, f_bavail=free, f_frsize=4096, f_files=inodes, f_favail=free_inodes
    )
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
    assert (
        "error: nodes.txt:2: several lines are this machine, so it looks at none of them:"
        " 127.0.0.1, localhost; leave one of them." in "\n".join(said)
    )
    node.round()
    with state.Store(str(node.state), read_only=True) as store:
        kinds = [trouble.kind for trouble in store.node_memory().troubles]
    assert "listed-twice" in kinds
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


def test_a_monitoring_plugin_that_is_linked_names_wrap(
    node: LocalNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "_NAGIOS_PLUGINS", str(tmp_path / "link"))
    (tmp_path / "nagios").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nagios")
    program = tmp_path / "nagios/check_http"
    program.write_text("#!/bin/sh\necho HTTP OK\n")
    program.chmod(0o755)
    own = node.config / "plugins/check_http"
    own.unlink()
    own.symlink_to(tmp_path / "link/check_http")
    configuration = load_configuration(str(node.config))
    problems = Problems()
    examined = programs.examine_programs(configuration, problems)
    found = [str(problem) for problem in problems if problem.path == str(own)]
    assert found == [
        f"error: {own}: is a monitoring plugin, whose exit status counts; see wrap in dmonitor-plugin(7); needed for www.example.com/http"
    ]
    assert not examined


# What -t passed, and should not; and what it called "all well here".


def test_two_nodes_cannot_confirm_that_one_of_them_is_gone(node: LocalNode) -> None:
    said = "warning: nodes.txt: nobody could confirm that one of these is gone: "
    (node.config / "nodes.txt").write_text("127.0.0.31\n127.0.0.32\n")
    status, lines = complaints(node)
    assert status == 0 and lines[0].startswith(f"{said}127.0.0.31, 127.0.0.32; quorum = 2 ")
    (node.config / "nodes.txt").write_text("127.0.0.31 a\n127.0.0.32 b\n127.0.0.33 b\n")
    assert complaints(node)[1][0].startswith(f"{said}127.0.0.31; ")
    node.configure("quorum = 1\n")
    assert not any("gone" in line for line in complaints(node)[1])


def test_a_line_for_this_machine_may_be_named_in_the_settings(node: LocalNode) -> None:
    (node.config / "nodes.txt").write_text("127.0.0.32\n127.0.0.33\n")
    assert complaints(node)[1][0].endswith("say which in dmonitor.conf: name = NODE")


def test_lines_that_are_one_machine_or_one_site(node: LocalNode) -> None:
    lines = (
        "127.0.0.31 Home\n127.0.0.32 b\n127.0.0.33 home\nlocalhost c\nLocalhost c\n127.0.0.1 d\n"
    )
    (node.config / "nodes.txt").write_text(lines)
    assert complaints(node)[1][:3] == [
        "warning: nodes.txt:3: the sites Home and home are two, and differ in case only; write both alike",
        "warning: nodes.txt:5: Localhost is localhost in other letters: one machine; remove one of the lines",
        "warning: nodes.txt:6: 127.0.0.1 has the address of localhost, 127.0.0.1, so both are one machine; remove one of the lines",
    ]


def test_a_host_without_a_test_is_not_tested(node: LocalNode) -> None:
    empty = node.config / "hosts.d/db.example.com"
    empty.mkdir()
    (empty / "ssh.bak").touch()
    (node.config / "hosts.d/odd.example.com/dir").mkdir(parents=True)
    about = [line for line in complaints(node)[1] if "db.example" in line or "odd.example" in line]
    assert about == [
        "error: hosts.d/odd.example.com/dir: is not a file; a test is a file, empty or with KEY=VALUE lines",
        "warning: hosts.d/db.example.com: has no test, so db.example.com is not tested; touch one, or remove the directory",
    ]


def test_what_a_plugin_needs_is_written(node: LocalNode) -> None:
    node.plugin("tcp", "#: PORT (required): which\n#: EXPECT: a text\necho OK\n")
    for name, content in (
        ("tcp", ""),
        ("tcp:shop", "EXPECT=x\n"),
        ("tcp:80", ""),
        ("tcp:x", "PORT=80\n"),
    ):
        node.test(f"www.example.com/{name}", content)
    text = "check_tcp needs PORT; write PORT=VALUE in this file, or name the test tcp:8080 for port 8080"
    assert [line for line in complaints(node)[1] if "needs" in line] == [
        f"error: hosts.d/www.example.com/tcp: {text}",
        f"error: hosts.d/www.example.com/tcp:shop: {text}",
    ]
    shipped = Path(__file__).parents[1] / "plugins/check_tcp"
    assert plugin.required_parameters(shipped.read_text()) == ["PORT"]


def test_interpreters_that_are_not_found(node: LocalNode) -> None:
    """The system says "not found" of each, and of what is there."""
    windows = "has lines that end in CR LF, so its interpreter is not found; let them end in LF"
    missing = "needs a program that is not installed: 'no-such-sh'"
    heads = {
        "crlf": ("#!/bin/sh\r\necho OK\r\n", windows),
        "env": ("#!/usr/bin/env no-such-sh\n", missing),
        "split": ("#!/usr/bin/env -S LC_ALL=C no-such-sh -u\n", missing),
        "option": ("#!/usr/bin/env sh -u\n", "needs a program that is not installed: 'sh -u'"),
        "right": ("#!/usr/bin/env sh\n", ""),
        "right2": ("#!/usr/bin/env -S sh -u\n", ""),
    }
    expected = []
    for name, (content, fault) in heads.items():
        path = node.plugin(name, "")
        path.write_bytes(content.encode())
        node.test(f"www.example.com/{name}")
        hook = node.config / f"alert.d/{name}"
        hook.write_bytes(content.encode())
        hook.chmod(0o755)
        if fault:
            expected.append(f"error: alert.d/{name}: {fault}")
            expected.append(
                f"error: plugins/check_{name}: {fault}; needed for www.example.com/{name}"
            )
    assert sorted(line for line in complaints(node)[1] if line.startswith("error")) == sorted(
        expected
    )


def test_files_in_alert_d_that_are_no_addresses(node: LocalNode) -> None:
    alert = node.config / "alert.d"
    for name in (
        "README",
        "4913",
        "root",
        "nouser",
        "nouser+x",
        "x@example.com.old",
        "ann@example.com",
    ):
        (alert / name).touch()
    (alert / "ben@example.com").write_text("host = www.example.com\n")
    (alert / "cat@example.com").write_text("# her telephone is 5\n\n")
    (alert / "o'brien@example.com").touch()
    hook = alert / "ntfy.orig"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    unknown = "is neither a user of this machine nor in /etc/aliases, so it may reach nobody; remove it, or write the whole address"
    taken = "use ASCII letters, digits and . _ + = - before the @, or an alias that has no other characters"
    assert sorted(line for line in complaints(node)[1] if ": alert.d/" in line) == [
        "error: alert.d/ben@example.com:1: 'host = www.example.com' says nothing; write ONLY=PATTERN..., NOT=PATTERN...,"
        " HOURS=08:00-20:00 mon-fri or AFTER=30min; until that is mended it is told everything, at once",
        f"error: alert.d/o'brien@example.com: 'o'brien@example.com' is not a mail address that is taken here; {taken}",
        f"warning: alert.d/4913: {unknown}",
        f"warning: alert.d/README: {unknown}",
        f"warning: alert.d/nouser+x: {unknown}",
        f"warning: alert.d/nouser: {unknown}",
        "warning: alert.d/ntfy.orig: looks like a copy of ntfy that was left over, and is told as well; remove it",
        "warning: alert.d/x@example.com.old: looks like a copy of x@example.com that was left over, and is told as well; remove it",
    ]


def test_aliases_are_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aliases").write_text('# oncall is one\nOnCall: ann@example.com\n"on duty": root\n')
    monkeypatch.setattr(programs, "_ALIASES", str(tmp_path / "aliases"))
    found = [
        name
        for name in ("oncall", "oncall+x", "on duty", "root", "nouser")
        if programs._is_local(name)
    ]
    assert found == ["oncall", "oncall+x", "on duty", "root"]


def test_whoever_may_not_read_the_state_is_told_so(node: LocalNode) -> None:
    """An ordinary user was told that the daemon does not run, and that nothing can be remembered."""
    stranger: dict[str, Any] = {"user": 65_000, "group": 65_000, "extra_groups": []}
    mode, name = 0o750, "65000"
    if os.geteuid():
        stranger, mode, name = {}, 0, run_as().pw_name
    with running([node]):
        node.state.chmod(mode)
        ran = subprocess.run(
            node.command("dmonitor-check", "-t"),
            env=node.place.environment(),
            text=True,
            capture_output=True,
            cwd="/",
            check=False,
            **stranger,
        )
        node.state.chmod(0o750)
    assert "does not run" not in ran.stderr and "no incident can be remembered" not in ran.stderr
    warning = f"dmonitord.lock: Permission denied for user {name}, so it is not known whether dmonitord runs; run this as root"
    assert warning in ran.stderr
    assert f"is not writable for user {name}; for rounds it may be: run this as root" in ran.stderr


def test_a_sender_without_a_domain_is_suspicious_where_nobody_completes_it(
    node: LocalNode, place: Place
) -> None:
    place.program("ssmtp", "#!/bin/sh\n")
    (place.directory / "mta").symlink_to(place.directory / "ssmtp")
    node.configure("from = monitor\n")
    assert not any("no domain" in line for line in complaints(node)[1]), "it may be completed"
    node.configure(f"sendmail = {place.directory}/mta\n")
    warning = "warning: dmonitor.conf: from = monitor has no domain, and ssmtp adds none, so mail may be refused; write monitor@DOMAIN, or remove the line"
    assert warning in complaints(node)[1]
    for sender in ("monitor@example.com", ""):
        node.configure(f"from = {sender}\n")
        assert not any("no domain" in line for line in complaints(node)[1])


def behind(command: list[str], node: LocalNode, option: str) -> subprocess.CompletedProcess[str]:
    """Have `command` start dmonitor-check with this option."""
    return subprocess.run(
        [*command, *node.command("dmonitor-check", option)],
        env=node.place.environment(),
        text=True,
        capture_output=True,
        timeout=58,
        cwd="/",
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_what_the_file_system_forbids_is_said_of_it(node: LocalNode) -> None:
    """The modes are right there, so chmod and chown would not help."""
    plugins = node.config / "plugins"
    mounts = [
        f"mount --bind {path} {path}; mount -o remount,bind,{option} {path}"
        for path, option in (
            (plugins, "noexec"),
            (node.place.sendmail, "noexec"),
            (node.state, "ro"),
        )
    ]
    code = "; ".join(["set -e", *mounts, 'exec "$@"'])
    said = behind(["unshare", "--mount", "sh", "-c", code, "sh"], node, "-t").stderr
    noexec = "lies on a file system that is mounted noexec"
    assert f"error: {plugins}/check_http: {noexec}; move it" in said
    assert f"no mail can be sent, because sendmail {noexec}; move it" in said
    assert f"error: {node.state}: lies on a file system that is mounted read-only" in said
    assert "chmod" not in said and "change its owner" not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_round_on_a_read_only_file_system_says_so(node: LocalNode) -> None:
    """sqlite itself says no more than that it is unable to open or to write a file."""
    node.round()
    code = (
        f'mount --bind {node.state} {node.state}; mount -o remount,bind,ro {node.state}; exec "$@"'
    )
    said = behind(["unshare", "--mount", "sh", "-c", code, "sh"], node, "--once").stderr
    assert f"unable to write {node.state}/state.db: Read-only file system; the round" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")
def test_root_that_may_not_become_another_user_is_told_what_it_lacks(node: LocalNode) -> None:
    command = ["setpriv", "--bounding-set", "-setuid,-setgid", "--inh-caps", "-all"]
    ran = behind(command, node, "-t")
    assert ran.returncode == os.EX_NOUSER and ran.stderr.count("\n") == 1
    assert (
        f"root may not become user {run_as().pw_name} here: Operation not permitted;" in ran.stderr
    )
    assert "CAP_SETUID" in ran.stderr


def test_an_acknowledgement_that_covers_nothing(node: LocalNode) -> None:
    www = Test("www.example.com", "http")
    with Store(str(node.state)) as store:
        now = store.clock.now()
        store.save(Save(NodeMemory((now - 60.0, now), now)))
    file = node.config / "silence.d/www.example.com"
    file.parent.mkdir()
    file.write_text("until up jo: disk\n")
    text = "nothing of www.example.com is DOWN; it may be removed"
    covers_nothing = (
        f"warning: silence.d/www.example.com: `until up` covers nothing, because {text}"
    )
    said = complaints(node)[1]
    assert covers_nothing in said and "silence:" not in said[-1] and "1 silence" not in said[-1]
    with Store(str(node.state)) as store:
        store.save(Save(incidents=(Incident(("a" * 16,), www, now - 60.0, minute=1),)))
    assert covers_nothing not in complaints(node)[1]


def test_no_mistake_hides_another_one(node: LocalNode) -> None:
    """All are named in one run, and what a wrong line names is not missing."""
    node.plugin("shop", "#: PORT (required): which\n#: SHELF (a): which\necho OK $PORT $SHELF")
    content = "PORT=99999\nSHELV=x\nBEHIND=ruter/ssh\nEVERY=5m\nRETRY=6m\noops\n"
    node.test("www.example.com/shop", content)
    node.test("www.example.com/http:99999", "WHAT=x\nno\n")
    status, said = complaints(node)
    shop, http = "hosts.d/www.example.com/shop", "hosts.d/www.example.com/http:99999"
    expected = (
        f"error: {shop}:1: PORT=99999: not a whole number from 1 to 65535",
        f"error: {shop}:6: 'oops' is not KEY=VALUE with the key in capitals",
        f"error: {shop}: BEHIND=ruter/ssh: no such test in hosts.d",
        f"error: {shop}: RETRY=6m is longer than EVERY; make it shorter, or remove it",
        f"error: {shop}: check_shop has no parameter SHELV; did you mean SHELF?",
        f"error: {http}: the port 99999 is not a whole number from 1 to 65535",
        f"error: {http}:2: 'no' is not KEY=VALUE with the key in capitals",
        f"warning: {http}: check_http does not use WHAT",
    )
    assert status == os.EX_CONFIG and sorted(set(expected) - set(said)) == [], said
    assert not [line for line in said if "needs PORT" in line]
    loaded = load_configuration(str(node.config))
    for name in ("shop", "http:99999"):
        test = Test("www.example.com", name)
        assert loaded.tests[test] is None and test not in {**loaded.rhythms, **loaded.behind}
