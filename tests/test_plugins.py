"""The plugins that come with dmonitor, as far as they need no server: the wrapper, and what a missing tool says."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dmonitor.execution import plugin

PLUGINS = Path(__file__).parents[1] / "plugins"
ALL = sorted([*PLUGINS.glob("check_*"), *(PLUGINS.parent / "etc/examples/plugins").iterdir()])


def run(*command: str, **environment: str) -> str:
    """Return what a plugin prints, in an environment like the supervisor's."""
    variables = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
    } | environment
    ran = subprocess.run(
        [str(PLUGINS / command[0]), *command[1:]],
        env=variables,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert ran.stderr == ""
    return ran.stdout


def wrap(code: str, *options: str) -> str:
    return run("wrap", *options, "some-package", "sh", "-c", code)


@pytest.mark.parametrize(
    ("code", "options", "said"),
    [
        ("echo SSH OK; echo more", (), "OK SSH OK\n"),
        ("echo ' OK - database'", (), "OK  OK - database\n"),
        ("echo HTTP WARNING 404; exit 1", (), "FAIL HTTP WARNING 404\n"),
        ("echo connection refused >&2; exit 2", (), "FAIL connection refused\n"),
        ("echo Usage: this; exit 3", (), "UNKNOWN Usage: this\n"),
        ("exit 2", (), "FAIL sh ended with status 2\n"),
        ("exit 7", (), "UNKNOWN sh ended with status 7\n"),
        ("exit 7", ("-u", "2 3"), "FAIL sh ended with status 7\n"),
        ("exit 3", ("-u", "2 3"), "UNKNOWN sh ended with status 3\n"),
        ("exit 7", ("-u", "-"), "FAIL sh ended with status 7\n"),
        ("exit 255", ("-u", "-"), "FAIL sh ended with status 255\n"),
        ("exit 255", (), "UNKNOWN sh ended with status 255\n"),
        ("echo words, many; echo more; exit 1", ("-h", "127.0.0.1"), "FAIL words, many\n"),
        ("exit 0", ("-h", "::1"), "OK \n"),
        # To a broadcast address nobody has a way.
        (
            "echo no answer; exit 2",
            ("-h", "255.255.255.255"),
            "UNKNOWN this node has no way to it: no answer\n",
        ),
        ("echo fine", ("-h", "255.255.255.255"), "OK fine\n"),
        ("echo listed; exit 2", ("-q", "-h", "255.255.255.255"), "FAIL listed\n"),
        (
            "echo 'from afar: Network is unreachable'; exit 2",
            ("-h", "127.0.0.1"),
            "FAIL from afar: Network is unreachable\n",
        ),
        ("exit 2", ("-h", "10.1.2.300"), "UNKNOWN 10.1.2.300 is no address\n"),
        ("exit 2", ("-h", "www:8080"), "UNKNOWN www:8080 is no address\n"),
        ("exit 2", ("-h", "127.0.0.1", "-6"), "UNKNOWN 127.0.0.1 is no IPv6 address\n"),
        ("echo 'DISK OK - free: 1 MB|/=1MB;;'", (), "OK DISK OK - free: 1 MB\n"),
        ("echo 'without a|b or c'; exit 1", (), "FAIL without a|b or c\n"),
        ("exit 126", ("-u", "2"), "UNKNOWN sh ended with status 126\n"),
        ("exit 139", ("-u", "2"), "UNKNOWN sh ended with status 139\n"),
        ("cat", (), "OK \n"),
    ],
)
def test_wrap(code: str, options: tuple[str, ...], said: str) -> None:
    assert wrap(code, *options) == said


def test_a_missing_tool_names_its_package() -> None:
    assert (
        run("wrap", "some-package", "no-such-tool-anywhere")
        == "UNKNOWN no-such-tool-anywhere is not installed: apt install some-package\n"
    )


@pytest.mark.parametrize(
    "code", ["sleep 6", "trap '' TERM; sleep 6 & wait; sleep 6", "echo so far; exec sleep 6"]
)
def test_what_does_not_answer_in_time_is_ended(code: str) -> None:
    began = time.monotonic()
    assert (
        run("wrap", "some-package", "sh", "-c", code, TIMEOUT="1") == "FAIL no answer within 1 s\n"
    )
    assert 1 <= time.monotonic() - began < 4


def test_a_script_that_needs_a_program() -> None:
    assert run("wrap", "some-package", "no-such-tool", "--", "sh", "-c", "echo hi") == (
        "UNKNOWN no-such-tool is not installed: apt install some-package\n"
    )
    assert run("wrap", "some-package", "ls", "--", "sh", "-c", "echo hi; exit 1") == "FAIL hi\n"


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_each_says_what_it_needs_when_it_is_missing(path: Path, tmp_path: Path) -> None:
    """In a PATH with a shell and nothing else: never OK, never FAIL."""
    tools, plugins = tmp_path / "tools", tmp_path / "plugins"
    tools.mkdir()
    plugins.mkdir()
    for tool in ("sh", "getent"):
        (tools / tool).symlink_to(f"/usr/bin/{tool}")
    for each in (PLUGINS / "wrap", PLUGINS / "web", path):
        code = each.read_text().replace("/usr/lib/nagios/plugins", "/nonexistent")
        (plugins / each.name).write_text(code.replace("/usr/libexec/dmonitor", str(plugins)))
        (plugins / each.name).chmod(0o755)
    said = subprocess.run(
        [str(plugins / path.name), "127.0.0.1"],
        env={"PATH": str(tools), "PORT": "1"},
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    ).stdout
    match = re.fullmatch(r"UNKNOWN (\S+) is not installed: apt install (\S+)\n", said)
    assert match
    lacking = plugin.lacking((plugins / path.name).read_text())
    assert not lacking or lacking == {match[1]: match[2]}, (
        "and the comment at its head says the same"
    )
    assert f"Needs {match[1]} ({match[2]})" in path.read_text().split("\n")[1]


@pytest.mark.parametrize(
    "path", [*ALL, PLUGINS / "wrap", PLUGINS / "web"], ids=lambda path: path.name
)
def test_each_can_be_run_and_tells_what_it_is(path: Path) -> None:
    assert os.access(path, os.X_OK)
    head = path.read_text().splitlines()
    assert head[0] == "#!/bin/sh"
    assert head[1].startswith("# " + path.name.removeprefix("check_"))
    used = set(re.findall(r"\$\{?([A-Z]{3,})", path.read_text())) - {"PATH", "WRAPPED"}
    comment = " ".join(line for line in head if line.startswith("#"))
    assert all(name in comment for name in used), "each parameter is named at its head"


def serve(behaviour: Callable[[socket.socket], None]) -> tuple[socket.socket, str]:
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                behaviour(connection)

    threading.Thread(target=accept, daemon=True).start()
    return listener, str(listener.getsockname()[1])


def has(program: str) -> bool:
    return any(
        os.access(Path(directory) / program, os.X_OK)
        for directory in ("/usr/bin", "/usr/sbin", "/usr/lib/nagios/plugins")
    )


def answer_http(status: str) -> Callable[[socket.socket], None]:
    def behave(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(f"HTTP/1.0 {status}\r\n\r\nhello".encode())

    return behave


TOOLS = {"http": "curl", "ssh": "check_ssh", "tcp": "check_tcp", "smtp": "check_smtp"}
CASES = [
    ("http", answer_http("200 OK"), "OK 200 in "),
    ("http", answer_http("404 Not Found"), "FAIL 404 in "),
    ("http", answer_http("503 Unavailable"), "FAIL 503 in "),
    ("http", None, "FAIL Failed to connect to 127.0.0.1 port "),
    ("ssh", lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"), "OK SSH OK"),
    ("ssh", lambda connection: connection.sendall(b"220 mail\r\n"), "FAIL"),
    ("ssh", None, "FAIL connect to address"),
    ("tcp", lambda connection: connection.close(), "OK TCP OK"),
    ("tcp", None, "FAIL connect to address"),
    ("smtp", lambda connection: (connection.sendall(b"220 mail\r\n"), connection.recv(99), connection.sendall(b"250 x\r\n"), connection.recv(99)), "OK SMTP OK"),
    ("smtp", None, "FAIL connect to address"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "behaviour", "said"), CASES)
def test_good_and_bad(
    name: str, behaviour: Callable[[socket.socket], None] | None, said: str
) -> None:
    """On a machine without the tool, which .ci/run is not, the test says so instead."""
    said = said if has(TOOLS[name]) else f"UNKNOWN {TOOLS[name]} is not installed"
    if behaviour:
        listener, port = serve(behaviour)
    else:
        listener = socket.socket()  # bound, and not listening: refused
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    try:
        text = run(f"check_{name}", "127.0.0.1", PORT=port)
        text = text.replace(
            f"127.0.0.1:{port}: ", f"127.0.0.1 port {port}: "
        )  # the first is what curl says in Debian testing
        assert text.startswith(said)
    finally:
        listener.close()
    if not has(TOOLS[name]):
        pytest.skip(f"{TOOLS[name]} is not installed, so nothing was tested")


MANUAL = (PLUGINS.parent / "man/dmonitor-plugin.7").read_text()
EXAMPLES = dict(
    re.findall(r'^\.\\" plugin: (\w+)\n\.Bd .*\n((?:.*\n)*?)\.Ed$', MANUAL, re.MULTILINE)
)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_the_manual_shows_can_be_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "wrap").symlink_to(PLUGINS / "wrap")
    path = tmp_path / name
    path.write_text(
        EXAMPLES[name].replace("\\e\n", "\\\n").replace("/usr/libexec/dmonitor", str(tmp_path))
    )
    path.chmod(0o755)
    environment = {
        "PATH": "/usr/sbin:/usr/bin",
        "PORT": "1",
        "FILE": "/etc/hostname",
        "WORD": "x",
        "DMONITOR_SUBJECT": "a test",
    }
    if name == "hook":
        assert subprocess.run(["sh", "-n", path], check=False).returncode == 0
        return
    ran = subprocess.run(
        [path, "127.0.0.1"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert re.match(r"(OK|FAIL|UNKNOWN \S+ is not installed)\b", ran.stdout) and ran.stderr == "", (
        ran
    )
    if "is not installed" in ran.stdout:
        pytest.skip(ran.stdout.strip())


def test_the_manual_has_them_all() -> None:
    found = dict(re.findall(r"^\.It Cm (\w+)\n(?:.*\n)*?Package (\S+)\.$", MANUAL, re.MULTILINE))
    needs = {
        path.name.removeprefix("check_"): re.search(r"\bNeeds \S+ \((\S+)\)", path.read_text())
        for path in ALL
    }
    assert (
        found == {name: match[1] for name, match in needs.items() if match}
        and len(found) == len(ALL) == 26
    )
