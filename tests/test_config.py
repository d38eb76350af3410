"""The files that an operator touches: right lines are used, and a wrong one costs no other."""

from __future__ import annotations

import datetime
import errno
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dmonitor.base import user
from dmonitor.config import rhythms
from dmonitor.config.configuration import Configuration, load_configuration
from dmonitor.config.problems import Problems
from dmonitor.config.settings import Settings
from dmonitor.config.silences import acknowledgements, holding
from dmonitor.config.tests import confirmations, environment, file_of
from dmonitor.core.model import Acknowledgement, Node, Silence, Test

A_TIME = "not a time from 1m to 7d, such as 6h or 1h30m"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("hosts.d/www.example.com", "alert.d", "plugins"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "hosts.d/www.example.com/http").touch()
    (tmp_path / "alert.d/root").touch()
    (tmp_path / "nodes.txt").write_text("oslo\nparis\n")
    return tmp_path


def load(directory: Path) -> Configuration:
    return load_configuration(str(directory))


def problems(configuration: Configuration) -> list[str]:
    return [
        str(problem).replace(f"{configuration.directory}/", "")
        for problem in configuration.problems
    ]


def test_a_good_tree(tree: Path) -> None:
    loaded = load(tree)
    assert loaded.problems == () and loaded.complete
    assert loaded.settings == Settings()
    assert loaded.nodes == (Node("oslo", "oslo"), Node("paris", "paris"))
    assert loaded.tests == {Test("www.example.com", "http"): {}}
    assert loaded.addresses == ("root",)
    assert loaded.plugin(Test("www.example.com", "http:8080")) == f"{tree}/plugins/check_http"


def test_settings(tree: Path) -> None:
    (tree / "dmonitor.conf").write_text(
        "# comment\n[dmonitor]\nquorum=3\nconfirm = 2\nlisten = 10.0.0.1, ::1\nport = 3929\nfrom = monitor@example.com\n"
        "sendmail = /usr/lib/sendmail\nconcurrency = 10\nflapping = off\nremind = 4h\nname = web.example.com\n"
    )
    loaded = load(tree)
    assert loaded.problems == ()
    assert loaded.settings == Settings(
        3,
        2,
        ("10.0.0.1", "::1"),
        3929,
        "monitor@example.com",
        "/usr/lib/sendmail",
        10,
        False,
        14_400.0,
        "web.example.com",
    )


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("off", 0), ("10min", 600), ("90 min", 5400), ("1d", 86_400), ("365d", 31_536_000)],
)
def test_remind(tree: Path, value: str, seconds: float) -> None:
    (tree / "dmonitor.conf").write_text(f"remind = {value}\n")
    loaded = load(tree)
    assert (
        loaded.problems == ()
        and loaded.settings == Settings(remind=seconds)
        and isinstance(loaded.settings.remind, float)
    )


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("qorum = 3", "unknown key 'qorum'; did you mean quorum?"),
        ("xyzzy = 3", "unknown key 'xyzzy'"),
        ("quorum = two", "quorum = two: not a whole number from 1 to 100"),
        ("quorum = 0", "quorum = 0: not a whole number from 1 to 100"),
        ("port = 70000", "port = 70000: not a whole number from 1 to 65535"),
        ("quorum", "'quorum' is not KEY = VALUE"),
        ("listen = everywhere", "listen = everywhere: 'everywhere' is not an IPv4 or IPv6 address"),
        ("from = a b", "from = a b: not a mail address"),
        ("sendmail = sendmail", "sendmail = sendmail: not an absolute path"),
        ("flapping = yes", "flapping = yes: neither on nor off"),
        *(
            (
                f"remind = {value}",
                f"remind = {value}: neither off nor a time from 10min to 365d, such as 6h or 1h30m",
            )
            for value in ("9min", "366d", "4", "4 hours", "1.5h", "-1d", "min", "on", "٤h", "")
        ),
        ("[server]", "'[server]' is not KEY = VALUE"),
    ],
)
def test_a_bad_setting_is_named_with_its_line_and_costs_no_other(
    tree: Path, line: str, complaint: str
) -> None:
    (tree / "dmonitor.conf").write_text(f"\nconfirm = 2\n{line}\nconcurrency = 7\n")
    loaded = load(tree)
    assert problems(loaded) == [f"error: dmonitor.conf:3: {complaint}"]
    assert loaded.settings == Settings(confirm=2, concurrency=7)


def test_nodes(tree: Path) -> None:
    (tree / "nodes.txt").write_text(
        "# all of them\noslo.example.com\nparis hetzner # rack 4\n\n2001:db8::1\thetzner\n-o x\nrome a b\nparis ovh\nlyon $(id)\nfoo_bar\n"
    )
    loaded = load(tree)
    assert loaded.nodes == (
        Node("oslo.example.com", "oslo.example.com"),
        Node("paris", "hetzner"),
        Node("2001:db8::1", "hetzner"),
        Node("foo_bar", "foo_bar"),
    )
    assert problems(loaded) == [
        "error: nodes.txt:6: '-o' is not a host name or an address; a line reads NODE [SITE]",
        "error: nodes.txt:7: unexpected 'b' after the site; a line reads NODE [SITE]",
        "warning: nodes.txt:8: paris is listed twice; the first line counts",
        "error: nodes.txt:9: '$(id)' is not a site; use ASCII letters, digits and . _ - only",
    ]


def test_a_line_of_nodes_txt_has_no_port(tree: Path) -> None:
    (tree / "nodes.txt").write_text("oslo:2929\n2001:db8::1\n::1\n192.0.2.1:2929 x\nparis\n")
    loaded = load(tree)
    assert [node.name for node in loaded.nodes] == ["2001:db8::1", "::1", "paris"]
    reason = "a line has no port: all nodes have the one in dmonitor.conf"
    assert problems(loaded) == [
        f"error: nodes.txt:1: 'oslo:2929' is neither a host name nor an address; {reason}",
        f"error: nodes.txt:4: '192.0.2.1:2929' is neither a host name nor an address; {reason}",
    ]


def test_odd_names_in_hosts_d(tree: Path) -> None:
    hosts = tree / "hosts.d"
    for name in ("a b", "-oProxyCommand=x", "a\nb", "node", ".git", "old~", "ok"):
        (hosts / name).mkdir()
    (hosts / "ok/ssh").touch()
    (hosts / "ok/bad name").touch()
    (hosts / "ok/http.dpkg-old").touch()
    (hosts / "ok/directory").mkdir()
    (hosts / "ok/dangling").symlink_to("/nonexistent")
    (hosts / "file").touch()
    loaded = load(tree)
    assert loaded.tests == {
        Test("ok", "ssh"): {},
        Test("www.example.com", "http"): {},
        Test("ok", "dangling"): None,
    }
    assert problems(loaded) == [
        "error: hosts.d/-oProxyCommand=x: '-oProxyCommand=x' is not a host name; use ASCII letters, digits and . _ - : only",
        "error: hosts.d/a\\nb: 'a\\nb' is not a host name; use ASCII letters, digits and . _ - : only",
        "error: hosts.d/a b: 'a b' is not a host name; use ASCII letters, digits and . _ - : only",
        "error: hosts.d/file: is not a directory; a host is a directory, and its tests are the files in it",
        "error: hosts.d/node: the host name 'node' is reserved for the nodes in nodes.txt; rename this host",
        "error: hosts.d/ok/bad name: 'bad name' is not a test; use NAME or NAME:SUFFIX, of ASCII letters, digits and . _ -",
        "error: hosts.d/ok/dangling: is a dangling link; a test is a file, empty or with KEY=VALUE lines",
        "error: hosts.d/ok/directory: is not a file; a test is a file, empty or with KEY=VALUE lines",
    ]
    assert loaded.complete, "what is wrong here hides no test that may be there"


def test_parameters(tree: Path) -> None:
    host = tree / "hosts.d/www.example.com"
    (host / "http").write_text("# the shop\nURL = https://shop.example.com/a=b\n\nPORT=443\n")
    (host / "tcp:25").touch()
    (host / "tcp:smtp").touch()
    (host / "tcp:26").write_text("PORT=27\n")
    assert load(tree).tests == {
        Test("www.example.com", "http"): {"URL": "https://shop.example.com/a=b", "PORT": "443"},
        Test("www.example.com", "tcp:25"): {"PORT": "25"},
        Test("www.example.com", "tcp:26"): {"PORT": "27"},
        Test("www.example.com", "tcp:smtp"): {},
    }


@pytest.mark.parametrize("value", ["0", "08", "10", "60", "2.5", "x"])
def test_no_plugin_may_take_longer_than_it_may_run(tree: Path, value: str) -> None:
    (tree / "hosts.d/www.example.com/ssh").write_text(f"TIMEOUT={value}\n")
    loaded = load(tree)
    assert loaded.tests[Test("www.example.com", "ssh")] is None
    assert problems(loaded) == [
        f"error: hosts.d/www.example.com/ssh:1: TIMEOUT={value}: not a whole number from 1 to 9"
    ]


def test_a_suffix_that_is_no_port(tree: Path) -> None:
    (tree / "hosts.d/www.example.com/tcp:99999").touch()
    loaded = load(tree)
    assert loaded.tests[Test("www.example.com", "tcp:99999")] is None
    assert problems(loaded) == [
        "error: hosts.d/www.example.com/tcp:99999: the port 99999 is not a whole number from 1 to 65535"
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("port=80", "'port=80' is not KEY=VALUE with the key in capitals; did you mean PORT=80?"),
        ("PORT", "'PORT' is not KEY=VALUE with the key in capitals"),
        (
            "LD_PRELOAD=/tmp/x.so",
            "LD_PRELOAD would change what the plugin runs, not what it tests; remove it",
        ),
        ("PATH=/tmp", "PATH would change what the plugin runs, not what it tests; remove it"),
        ("URL=a\x07b", "the value of URL has unprintable characters"),
        ("PORT=http", "PORT=http: not a whole number from 1 to 65535"),
        ("PORT=65536", "PORT=65536: not a whole number from 1 to 65535"),
        ("DAYS=two weeks", "DAYS=two weeks: not a whole number from 0 to 10000"),
        ("DAYS=", "DAYS=: not a whole number from 0 to 10000"),
        ("TIMEOUT=6", "TIMEOUT is set twice; remove one of the lines"),
        ("EVERY=6", f"EVERY=6: {A_TIME}"),
        ("EVERY=", f"EVERY=: {A_TIME}"),
        ("EVERY=0h", f"EVERY=0h: {A_TIME}"),
        ("EVERY=30s", f"EVERY=30s: {A_TIME}"),
        ("EVERY=1.5h", f"EVERY=1.5h: {A_TIME}"),
        ("EVERY=06h", f"EVERY=06h: {A_TIME}"),
        ("EVERY=-1h", f"EVERY=-1h: {A_TIME}"),
        ("EVERY=8d", f"EVERY=8d: {A_TIME}"),
        ("EVERY=169h", f"EVERY=169h: {A_TIME}"),
        ("RETRY=each", f"RETRY=each: {A_TIME}"),
    ],
)
def test_a_test_with_a_mistake_in_its_file_cannot_be_run(
    tree: Path, line: str, complaint: str
) -> None:
    """It would test something that nobody meant, and might say OK."""
    host = tree / "hosts.d/www.example.com"
    (host / "ssh").write_text(f"TIMEOUT=5\n{line}\n")
    loaded = load(tree)
    assert loaded.tests == {
        Test("www.example.com", "http"): {},
        Test("www.example.com", "ssh"): None,
    }
    assert problems(loaded) == [f"error: hosts.d/www.example.com/ssh:2: {complaint}"]


def test_parameters_of_all_tests_of_a_host(tree: Path) -> None:
    """What a test's own file says, or its suffix, comes before."""
    host = tree / "hosts.d/www.example.com"
    (host / ".all").write_text(
        "# the new machine\nADDRESS=192.0.2.7\nTIMEOUT=5\nPORT=81\nCONFIRM=3\n"
    )
    (host / "ssh:2222").write_text("TIMEOUT=6\nCONFIRM=1\n")
    (tree / "hosts.d/other.example.com").mkdir()
    (tree / "hosts.d/other.example.com/http").touch()
    loaded = load(tree)
    http, ssh = Test("www.example.com", "http"), Test("www.example.com", "ssh:2222")
    assert loaded.tests == {
        Test("other.example.com", "http"): {},
        http: {"ADDRESS": "192.0.2.7", "TIMEOUT": "5", "PORT": "81", "CONFIRM": "3"},
        ssh: {"ADDRESS": "192.0.2.7", "TIMEOUT": "6", "PORT": "2222", "CONFIRM": "1"},
    }
    assert confirmations(loaded.tests) == {http: 3, ssh: 1}
    assert environment(loaded.tests[http] or {}).keys() == {"ADDRESS", "TIMEOUT", "PORT"}
    assert problems(loaded) == []
    directory = str(tree)
    assert file_of(directory, ssh, "ADDRESS") == f"{directory}/hosts.d/www.example.com/.all"
    assert file_of(directory, ssh, "TIMEOUT") == f"{directory}/hosts.d/{ssh}"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("ADDRESS=www.example.com", "ADDRESS=www.example.com: not an IPv4 or IPv6 address"),
        ("ADDRESS=192.0.2.300", "ADDRESS=192.0.2.300: not an IPv4 or IPv6 address"),
        ("ADDRESS=::1%", "ADDRESS=::1%: not an IPv4 or IPv6 address"),
        ("CONFIRM=0", "CONFIRM=0: not a whole number from 1 to 100"),
        ("confirm", "'confirm' is not KEY=VALUE with the key in capitals"),
    ],
)
def test_no_test_of_a_host_can_be_run_if_what_all_have_has_a_mistake(
    tree: Path, line: str, complaint: str
) -> None:
    host = tree / "hosts.d/www.example.com"
    (host / ".all").write_text(f"{line}\n")
    (host / "ssh").touch()
    loaded = load(tree)
    assert loaded.tests == {Test("www.example.com", name): None for name in ("http", "ssh")}
    assert problems(loaded) == [f"error: hosts.d/www.example.com/.all:1: {complaint}"], "once"


def test_a_link_to_nothing_in_place_of_what_all_have_is_a_mistake(tree: Path) -> None:
    host = tree / "hosts.d/www.example.com"
    (host / ".all").symlink_to("/nonexistent/template")
    loaded = load(tree)
    assert loaded.tests == {Test("www.example.com", "http"): None}
    assert problems(loaded) == [
        "error: hosts.d/www.example.com/.all: is a dangling link to /nonexistent/template"
    ]


def with_plugin(tree: Path, head: str = "", name: str = "http") -> Path:
    """Make a plugin whose file begins with `head`."""
    plugin = tree / f"plugins/check_{name}"
    plugin.write_text(f"#!/bin/sh\n{head}echo OK\n")
    return plugin


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("1m", 60), ("90m", 5400), ("6h", 21600), ("168h", 604800), ("7d", 604800)],
)
def test_every(tree: Path, value: str, seconds: int) -> None:
    with_plugin(tree)
    host = tree / "hosts.d/www.example.com"
    (host / "http").write_text(f"EVERY={value}\nURL=https://shop.example.com\n")
    (host / "ssh").touch()
    loaded = load(tree)
    rhythm = loaded.rhythms[Test("www.example.com", "http")]
    assert (rhythm.every, rhythm.retry) == (seconds, 0)
    assert loaded.rhythms.keys() == {Test("www.example.com", "http")}
    parameters = loaded.tests[Test("www.example.com", "http")]
    assert parameters is not None
    assert environment(parameters) == {"URL": "https://shop.example.com"}
    assert problems(loaded) == []


def test_retry(tree: Path) -> None:
    with_plugin(tree)
    host = tree / "hosts.d/www.example.com"
    (host / "http").write_text("EVERY=6h\nRETRY=5m\n")
    (host / "http:81").write_text("EVERY=5m\nRETRY=6h\n")
    (host / "http:82").write_text("RETRY=5m\n")
    loaded = load(tree)
    found = {test.name: (rhythm.every, rhythm.retry) for test, rhythm in loaded.rhythms.items()}
    assert found == {"http": (21600, 300), "http:81": (300, 300)}
    assert problems(loaded) == [
        "error: hosts.d/www.example.com/http:81: RETRY=6h is longer than EVERY; make it shorter, or remove it",
        "error: hosts.d/www.example.com/http:82: RETRY without EVERY does nothing: the test is looked at in each"
        " round; add EVERY, or remove RETRY",
    ]
    parameters = loaded.tests[Test("www.example.com", "http:82")]
    assert parameters is not None and environment(parameters) == {"PORT": "82"}


def test_the_head_of_a_plugin_may_have_an_every_of_its_own(tree: Path) -> None:
    with_plugin(tree, "# Whether a site answers.\n#: EVERY (6h): how often it is looked at\n")
    with_plugin(tree, "#: EVERY (6 hours)\n", "ssh")
    with_plugin(tree, "\n" * 1200 + "#: EVERY (6h): too far down\n", "tcp")
    (tree / "plugins/check_elf").write_bytes(b"\x7fELF\n#: EVERY (6h)\n")
    os.mkfifo(tree / "plugins/check_fifo")
    (tree / "plugins/check_link").symlink_to("check_http")
    host = tree / "hosts.d/www.example.com"
    (host / "http:81").write_text("EVERY=1m\n")
    for name in ("ssh", "ssh:23", "tcp", "elf", "fifo", "link", "none"):
        (host / name).touch()
    loaded = load(tree)
    found = {test.name: rhythm.every for test, rhythm in loaded.rhythms.items()}
    assert found == {"http": 21600, "http:81": 60, "link": 21600}
    assert problems(loaded) == [f"error: plugins/check_ssh: EVERY (6 hours): {A_TIME}"], "once"


def test_a_head_is_read_once_and_only_if_it_is_needed(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_plugin(tree, "#: EVERY (6h): how often it is looked at\n")
    with_plugin(tree, name="ssh")
    host = tree / "hosts.d/www.example.com"
    for number in range(1, 200):
        (host / f"http:{number}").touch()
        (host / f"ssh:{number}").write_text("EVERY=1d\n")
    read: list[str] = []
    head = rhythms._head

    def counted(path: str) -> str:
        read.append(Path(path).name)
        return head(path)

    monkeypatch.setattr(rhythms, "_head", counted)
    assert len(load(tree).rhythms) == 399
    assert read == ["check_http"]


def test_what_changes_a_test_changes_its_fingerprint(tree: Path) -> None:
    """Then it is looked at at once, although it passed a moment ago."""
    plugin = with_plugin(tree)
    file = tree / "hosts.d/www.example.com/http"

    def fingerprint() -> str:
        return load(tree).rhythms[Test("www.example.com", "http")].fingerprint

    file.write_text("EVERY=6h\n")
    found = [fingerprint()]
    assert fingerprint() == found[0]
    for content in ("EVERY=6h\nURL=http://a.example.com\n", "EVERY=6h\nURL=http://b.example.com\n"):
        file.write_text(content)
        found.append(fingerprint())
    plugin.chmod(0o700)
    found.append(fingerprint())
    plugin.write_text("#!/bin/sh\necho FAIL\n")
    found.append(fingerprint())
    plugin.unlink()
    found.append(fingerprint())
    assert len(set(found)) == len(found) == 6


def test_a_parameter_that_is_not_utf_8_is_an_error(tree: Path) -> None:
    (tree / "hosts.d/www.example.com/ssh").write_bytes(b"TIMEOUT=5\nEXPECT=caf\xe9\n")
    assert problems(load(tree)) == [
        "error: hosts.d/www.example.com/ssh:2: the value of EXPECT is not UTF-8"
    ]


def test_addresses(tree: Path) -> None:
    taken = (
        " that is taken here; use ASCII letters, digits and . _ + = - before the @, or an alias"
        " that has no other characters"
    )
    for name in ("a@example.com", "${run{x}}@y", "a b", ".placeholder", "b@example.com~", "-f"):
        (tree / "alert.d" / name).touch()
    (tree / "alert.d/dir").mkdir()
    loaded = load(tree)
    assert loaded.addresses == ("a@example.com", "root")
    assert problems(loaded) == [
        f"error: alert.d/${{run{{x}}}}@y: '${{run{{x}}}}@y' is not a mail address{taken}",
        f"error: alert.d/-f: '-f' is not a mail address{taken}",
        f"error: alert.d/a b: 'a b' is not a mail address{taken}",
        "error: alert.d/dir: is not a file; touch a file that is named like the address",
    ]


def test_a_directory_that_cannot_be_read_does_not_count_as_empty(tree: Path) -> None:
    (tree / "alert.d").rename(tree / "elsewhere")
    loaded = load(tree)
    assert not loaded.complete and loaded.addresses == ()
    assert problems(loaded) == ["error: alert.d: No such file or directory"]


@pytest.mark.parametrize(
    ("mailname", "node", "host", "sender"),
    [
        ("mail.example.com\n", "oslo.example.com", "oslo", "mail.example.com"),
        ("mail\n", "oslo.example.com", "oslo", "oslo.example.com"),
        ("", "oslo.example.com", "oslo", "oslo.example.com"),
        (None, "oslo", "oslo.example.net", "oslo.example.net"),
        (None, "192.0.2.1", "oslo.example.net", "oslo.example.net"),
        (None, "2001:db8::1", "oslo", "oslo"),
        ("a_b.example.com\n", "oslo", "my_host", "localhost"),
    ],
)
def test_mail_always_comes_from_an_address_with_a_domain(
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    mailname: str | None,
    node: str,
    host: str,
    sender: str,
) -> None:
    if mailname is not None:
        (tree / "mailname").write_text(mailname)
    monkeypatch.setattr("dmonitor.config.sender._MAILNAME", str(tree / "mailname"))
    uname = os.uname_result(["Linux", host, "6", "1", "x86_64"])
    monkeypatch.setattr(os, "uname", lambda: uname)
    loaded = load(tree)
    assert loaded.with_sender(node).settings.sender == f"dmonitor@{sender}"
    (tree / "dmonitor.conf").write_text("from = monitor\n")
    assert load(tree).with_sender(node).settings.sender == "monitor", "the operator's word"


@pytest.mark.parametrize(
    ("unreadable", "hidden"),
    [
        ("hosts.d", {"www/web", "www/ssh", "db/ping"}),
        ("hosts.d/www", {"www/web", "www/ssh"}),
        ("hosts.d/www/web", {"www/web"}),
        ("nodes.txt", {"node/oslo"}),
        ("alert.d", set()),
        ("dmonitor.conf", set()),
    ],
)
def test_what_was_found_before_is_still_there_if_nobody_can_read_on_the_way(
    unreadable: str, hidden: set[str]
) -> None:
    """A test that is gone from a directory that can be read was removed."""
    paths = frozenset([f"/etc/dmonitor/{unreadable}"])
    named = ("www/web", "www/ssh", "db/ping", "node/oslo")
    remembered = [Test(*name.split("/")) for name in named]
    read: dict[Test, Mapping[str, str] | None] = {Test("db", "ping"): {"PORT": "1"}}
    loaded = Configuration("/etc/dmonitor", Settings(), (), read, ("root",), (), paths)
    known = loaded.with_hidden(remembered, ["oncall@example.com"])
    assert {str(test) for test in known.tests} == hidden | {"db/ping"}
    assert known.tests[Test("db", "ping")] == {"PORT": "1"}
    assert {known.tests[test] for test in known.tests if test not in read} <= {None}
    assert ("oncall@example.com" in known.addresses) is (unreadable == "alert.d")


def test_an_empty_directory_is_complete(tmp_path: Path) -> None:
    assert not load(tmp_path).complete
    (tmp_path / "hosts.d").mkdir()
    (tmp_path / "alert.d").mkdir()
    assert load(tmp_path).complete, "without nodes.txt there are no nodes"
    (tmp_path / "nodes.txt").symlink_to("/nonexistent/nodes.txt")
    assert not load(tmp_path).complete, "there are, and they cannot be found"


def test_the_shipped_examples_are_right() -> None:
    etc = Path(__file__).parents[1] / "etc"
    shipped = (etc / "dmonitor.conf").read_text().replace("# ", "")
    values = dict(line.split(" =", 1) for line in shipped.splitlines() if " =" in line)
    defaults = Settings()
    assert {key: value.strip() for key, value in values.items()} == {
        "quorum": str(defaults.quorum),
        "confirm": str(defaults.confirm),
        "listen": "",
        "port": str(defaults.port),
        "from": defaults.sender,
        "sendmail": defaults.sendmail,
        "concurrency": str(defaults.concurrency),
        "flapping": "on" if defaults.flapping else "off",
        "remind": str(defaults.remind) if defaults.remind else "off",
        "name": defaults.name,
    }


def test_an_entry_that_cannot_be_read_is_a_problem_and_no_exception(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory may be listed and not entered, which any user except root would see."""
    (tree / "hosts.d/other").symlink_to(tree)
    real = os.stat

    def stat(path: Any, *arguments: Any, **named: Any) -> os.stat_result:
        if str(path).endswith(("/other", "/root", "dmonitor.conf")):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "stat", stat)
    loaded = load(tree)
    assert problems(loaded) == [
        f"error: hosts.d/other: Permission denied for user {user.name()}",
        f"error: alert.d/root: Permission denied for user {user.name()}",
    ]
    assert set(loaded.tests) == {Test("www.example.com", "http")} and not loaded.complete


@pytest.fixture
def silence(tree: Path) -> Path:
    (tree / "silence.d/www.example.com").mkdir(parents=True)
    return tree / "silence.d"


def test_no_silences(tree: Path) -> None:
    assert load(tree).silences == ()
    (tree / "silence.d").mkdir()
    assert load(tree).silences == () and load(tree).problems == ()


def said(loaded: Configuration) -> list[Silence]:
    """Return the silences that hold, without the times of their files."""
    return [each._replace(since=None) for each in holding(loaded.silences, time.time())]


def test_silences(tree: Path, silence: Path) -> None:
    (tree / "hosts.d/db.example.com").mkdir()
    (tree / "hosts.d/db.example.com/ping").touch()
    (silence / "db.example.com").touch()
    (silence / "www.example.com/http").touch()
    (silence / "www.example.com/http~").touch()
    (silence / "node").mkdir()
    (silence / "node/paris").touch()
    loaded = load(tree)
    assert loaded.problems == ()
    assert said(loaded) == [
        Silence("db.example.com"),
        Silence("node", "paris"),
        Silence("www.example.com", "http"),
    ]
    (silence / "node/paris").unlink()
    (silence / "node").rmdir()
    (silence / "node").touch()
    loaded = load(tree)
    assert loaded.problems == () and Silence("node") in said(loaded)


@pytest.fixture
def sunday(monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """Be in Berlin on Sunday, 2026-11-29, 03:30; return that."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    now = datetime.datetime.fromisoformat("2026-11-29T03:30:00+01:00").timestamp()
    monkeypatch.setattr(time, "time", lambda: now)
    yield now
    monkeypatch.undo()
    time.tzset()


HOUR = 3600.0


@pytest.mark.parametrize(
    ("lines", "hours", "reason"),
    [
        (("until 2026-11-29T06:00 rack move, jo",), 2.5, "rack move, jo"),
        (("# why", "", "until 2026-11-29 06:00 rack move"), 2.5, "rack move"),
        (("until 2026-11-29T06:00:00+02:00",), 1.5, ""),
        (("until 2026-11-30",), 20.5, ""),
        (("until 2026-11-29T03:00 it is over",), None, ""),
        (("every sun 03:00-04:00 backup",), 0.5, "backup"),
        (("every 03:00-04:00 sun backup",), 0.5, "backup"),
        (("every 03:00-04:00 sun-fire is saved",), 0.5, "sun-fire is saved"),
        (("every mon-sat 03:00-04:00",), None, ""),
        (("every sun 04:00-05:00",), None, ""),
        # Lines that follow each other are one silence, and so are hours that do.
        (("every sun 03:00-04:00 one", "every sun 04:00-05:00 two"), 1.5, "one"),
        (("until 2026-11-29T04:00 one", "every sun 03:50-05:00 two"), 1.5, "one"),
        (("every sat-sun 02:00-24:00", "every mon 00:00-01:00"), 21.5, ""),
        (("until 2026-11-29T05:00 longer", "every sun 03:00-04:00"), 1.5, "longer"),
        (("until up jo",), None, ""),
        (("until up jo", "every sun 03:00-04:00 backup"), 0.5, "backup"),
    ],
)
def test_what_a_silence_says_of_its_end(
    tree: Path,
    silence: Path,
    sunday: float,
    lines: tuple[str, ...],
    hours: float | None,
    reason: str,
) -> None:
    file = silence / "www.example.com/http"
    file.write_text("\n".join(lines))
    os.utime(file, (sunday + 90.0, sunday - 90.0))
    loaded = load(tree)
    assert loaded.problems == ()
    found = [each._replace(since=None) for each in holding(loaded.silences, sunday)]
    expected = []
    if hours is not None:
        until = sunday + hours * HOUR
        expected = [Silence("www.example.com", "http", until, reason)]
    assert found == expected
    if "until up jo" in lines:
        acknowledged = Acknowledgement("www.example.com", "http", sunday - 90.0, "jo")
        assert acknowledgements(loaded.silences) == [acknowledged]
    else:
        assert acknowledgements(loaded.silences) == []


def test_hours_of_all_days_have_an_end_that_peers_can_be_told(
    tree: Path, silence: Path, sunday: float
) -> None:
    (silence / "www.example.com/http").write_text("every 00:00-24:00\n")
    (found,) = holding(load(tree).silences, sunday)
    assert found.until is not None and 7 * 24 * HOUR < found.until - sunday < 10 * 24 * HOUR


@pytest.mark.parametrize("comment", ["", "# moved\n"])
@pytest.mark.parametrize("ahead", [-86_400.0, 0.0, 7200.0, 2e9])
def test_the_time_of_an_empty_silence_is_no_end(
    tree: Path, silence: Path, ahead: float, comment: str
) -> None:
    file, now = silence / "www.example.com/http", time.time()
    file.write_text(comment)
    os.utime(file, (now + ahead, now + ahead))
    (found,) = holding(load(tree).silences, now + 1e6)
    assert found.until is None and found.since == pytest.approx(now + min(ahead, 0.0), abs=5.0)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            "until 18:00 rack move",
            "'18:00' has no date, and this is read again tomorrow; write until 2026-11-29T18:00",
        ),
        (
            "until 02:00",
            "'02:00' has no date, and this is read again tomorrow; write until 2026-11-30T02:00",
        ),
        ("until 25:00", "'25:00' is no time; write until 2026-11-29T06:00"),
        ("until 2026-13-01", "'2026-13-01' is no time; write until 2026-11-29T06:00"),
        (
            "until 2066-01-01",
            "'2066-01-01' is too far away; the end must be less than 28 years away",
        ),
        *(
            (
                line,
                f"'{line}' is no silence; write until 2026-11-29T06:00 REASON, until up REASON or"
                " every sun 03:00-04:00 REASON",
            )
            for line in ("rack move", "until", "until tomorrow", "until 2h", "2026-11-29T06:00")
        ),
        ("every", "'' is no hours; write 08:00-20:00, or 08:00-20:00 mon-fri"),
        (
            "every sunday 03:00-04:00",
            "'sunday' is no day; write mon, tue, wed, thu, fri, sat, sun, or two of them such as mon-fri",
        ),
    ],
)
@pytest.mark.usefixtures("sunday")
def test_a_line_that_is_not_understood_silences_nothing(
    tree: Path, silence: Path, line: str, text: str
) -> None:
    """An extra mail is better than silence. The other lines of its file hold."""
    file = silence / "www.example.com/http"
    file.write_text(f"# mine\n{line}\n")
    loaded = load(tree)
    complaint = f"error: silence.d/www.example.com/http:2: {text}; this line silences nothing"
    assert problems(loaded) == [complaint]
    assert holding(loaded.silences, time.time()) == [] and loaded.complete
    file.write_text(f"# mine\n{line}\nuntil 2026-11-29T06:00\n")
    assert problems(load(tree)) == [complaint]
    assert len(holding(load(tree).silences, time.time())) == 1


def test_a_silence_that_cannot_be_read_silences_nothing_and_hides_no_test(
    tree: Path, silence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = silence / "www.example.com/http"
    file.write_text("until 2026-11-29T06:00\n")
    real = open

    def refuse(path: Any, *arguments: Any, **named: Any) -> Any:
        if path == str(file):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *arguments, **named)

    monkeypatch.setattr("builtins.open", refuse)
    loaded = load(tree)
    assert problems(loaded) == [
        f"error: silence.d/www.example.com/http: Permission denied for user {user.name()}"
    ]
    assert holding(loaded.silences, 0.0) == [] and loaded.complete
    file.write_text("")
    assert load(tree).problems == () and len(holding(load(tree).silences, 0.0)) == 1, (
        "nobody has to read an empty one"
    )


def test_odd_silences(tree: Path, silence: Path) -> None:
    for name in ("ww.example.com", "a b", "www.example.com/htp", "www.example.com/a b"):
        (silence / name).touch()
    (silence / "www.example.com/directory").mkdir()
    (silence / "dangling").symlink_to("/nonexistent")
    (silence / "node").mkdir()
    (silence / "node/pariss").touch()
    (silence / "node/-x").touch()
    loaded = load(tree)
    assert problems(loaded) == [
        "error: silence.d/a b: 'a b' is not a host name; use ASCII letters, digits and . _ - : only",
        "error: silence.d/dangling: is a dangling link to /nonexistent; remove it",
        "error: silence.d/node/-x: '-x' is not a node in nodes.txt",
        "warning: silence.d/node/pariss: silences nothing: no such node in nodes.txt; did you mean paris?",
        "warning: silence.d/ww.example.com: silences nothing: no such host in hosts.d; did you mean www.example.com?",
        "error: silence.d/www.example.com/a b: 'a b' is not a test in hosts.d",
        "error: silence.d/www.example.com/directory: is not a file; touch HOST or HOST/TEST",
        "warning: silence.d/www.example.com/htp: silences nothing: no such test in hosts.d; did you mean http?",
    ]
    assert said(loaded) == [
        Silence("node", "pariss"),
        Silence("ww.example.com"),
        Silence("www.example.com", "htp"),
    ], "peers may have it"
    assert loaded.complete, "no silence hides a test or an address"


def test_a_silence_d_that_cannot_be_read(tree: Path) -> None:
    (tree / "silence.d").touch()
    loaded = load(tree)
    assert problems(loaded) == ["error: silence.d: Not a directory"]
    assert loaded.silences == () and loaded.complete


def test_a_silence_is_not_suspicious_while_the_tests_are_not_known(
    tree: Path, silence: Path
) -> None:
    (silence / "db.example.com").touch()
    (tree / "hosts.d").rename(tree / "elsewhere")
    assert problems(load(tree)) == ["error: hosts.d: No such file or directory"]


@pytest.mark.parametrize(
    "name", ["dmonitor.conf", "silence.d", "nodes.txt", "hosts.d", "alert.d", "key", "key.old"]
)
def test_a_dangling_link_is_not_absent(tree: Path, name: str) -> None:
    """The daemon would listen everywhere instead of where the file says that it is linked to."""
    path = tree / name
    if path.is_dir():
        path.rename(tree / "elsewhere")
    path.unlink(missing_ok=True)
    path.symlink_to("/nonexistent/one")
    loaded = load(tree)
    assert f"error: {name}: is a dangling link to /nonexistent/one" in problems(loaded)


def test_what_no_user_may_is_not_said_of_one() -> None:
    found = Problems()
    for number in (errno.EPERM, errno.EACCES, errno.EROFS):
        found.add_unreadable("FILE", OSError(number, os.strerror(number)))
    assert [problem.text for problem in found] == [
        "Operation not permitted",
        f"Permission denied for user {user.name()}",
        "Read-only file system",
    ]
