"""The plugins that come with dmonitor, as far as they need no real server: the wrapper, what a missing tool says, and
how far a hostile server, or a user of this machine, gets with them."""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_server import Step, run_plugin, serving, tls_context

from dmonitor.execution import plugin
from dmonitor.probe import fetch, places
from dmonitor.probe.tool import Ended

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
        ("echo ' OK - database'", (), "OK OK - database\n"),
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
        ("exit 0", ("-h", "::1"), "OK\n"),
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
        (
            "echo 'connect to it: Cannot assign requested address'; exit 2",
            (),
            "UNKNOWN this node has no port or address to ask from: connect to it: Cannot assign requested address\n",
        ),
        (
            "echo 'rsync: cannot assign requested address (99)'; exit 2",
            ("-h", "127.0.0.1"),
            "UNKNOWN this node has no port or address to ask from: rsync: cannot assign requested address (99)\n",
        ),
        (
            "echo 'Cannot assign requested address'; exit 2",
            ("-q", "-h", "127.0.0.1"),
            "UNKNOWN this node has no port or address to ask from: Cannot assign requested address\n",
        ),
        (
            "echo '421 Cannot assign requested address to you'; exit 2",
            (),
            "FAIL 421 Cannot assign requested address to you\n",
        ),
        ("echo 'Cannot assign requested address'", (), "OK Cannot assign requested address\n"),
        ("exit 2", ("-h", "10.1.2.300"), "UNKNOWN 10.1.2.300 is no address\n"),
        ("exit 2", ("-h", "www:8080"), "UNKNOWN www:8080 is no address\n"),
        (
            "exit 2",
            ("-h", "127.0.0.1", "-6"),
            "UNKNOWN 127.0.0.1 is no IPv6 address, which FAMILY=6 wants\n",
        ),
        ("echo 'DISK OK - free: 1 MB|/=1MB;;'", (), "OK DISK OK - free: 1 MB\n"),
        ("echo 'without a|b or c'; exit 1", (), "FAIL without a|b or c\n"),
        ("exit 126", ("-u", "2"), "UNKNOWN sh ended with status 126\n"),
        ("exit 139", ("-u", "2"), "UNKNOWN sh ended with status 139\n"),
        ("cat", (), "OK\n"),
        ("echo said; echo why >&2; exit 1", (), "FAIL said\n"),
        ("yes | head -c 900000", (), "OK y\n"),
        ("kill -9 $$", (), "UNKNOWN sh died of signal 9\n"),
        # What a shell says of itself that can start nothing more.
        (
            "echo 'sh: 1: Cannot fork' >&2; exit 2",
            (),
            "UNKNOWN this node has no process left: sh: 1: Cannot fork\n",
        ),
        (
            "echo looking; echo 'sh: fork: retry: Resource temporarily unavailable' >&2; exit 1",
            (),
            "UNKNOWN this node has no process left: looking\n",
        ),
        (
            "echo 'the host says: Cannot fork any more'; exit 2",
            (),
            "FAIL the host says: Cannot fork any more\n",
        ),
        (
            "echo 'read: Resource temporarily unavailable'; exit 2",
            (),
            "FAIL read: Resource temporarily unavailable\n",
        ),
        (
            "echo 'ssh: x: Temporary failure in name resolution'; exit 255",
            ("-u", "-", "-h", "127.0.0.1"),
            "UNKNOWN no name server answers this node: ssh: x: Temporary failure in name resolution\n",
        ),
        ("echo '{ADDRESS}'", ("-h", "::0:1"), "OK ::1\n"),
        ("echo '{ADDRESS}'", (), "OK {ADDRESS}\n"),
        (
            'echo "$RES_OPTIONS, ${LOCALDOMAIN-none}"',
            ("-h", "localhost"),
            "OK timeout:1 attempts:5, none\n",
        ),
        (
            'echo "$RES_OPTIONS, ${LOCALDOMAIN-none}"',
            ("-h", "127.0.0.1"),
            "OK timeout:1 attempts:5,\n",
        ),
    ],
)
def test_wrap(code: str, options: tuple[str, ...], said: str) -> None:
    assert wrap(code, *options) == said


def test_a_tool_that_says_more_than_a_file_may_hold_is_heard() -> None:
    """A server may list without end, and a file of a plugin holds a megabyte."""
    limited = ["prlimit", "--fsize=1000000", str(PLUGINS / "wrap"), "some-package", "sh", "-c"]
    ran = subprocess.run(
        [*limited, "echo first; yes || exit 2"],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "FAIL first\n", "")


def test_a_missing_tool_names_its_package() -> None:
    assert (
        run("wrap", "some-package", "no-such-tool-anywhere")
        == "UNKNOWN no-such-tool-anywhere is not installed: apt install some-package\n"
    )


@pytest.mark.parametrize(
    "code", ["sleep 9", "trap '' TERM; sleep 9 & wait; sleep 9", "echo so far; exec sleep 9"]
)
def test_what_does_not_answer_in_time_is_ended(code: str) -> None:
    began = time.monotonic()
    assert (
        run("wrap", "some-package", "sh", "-c", code, TIMEOUT="1") == "FAIL no answer within 1 s\n"
    )
    assert 1 <= time.monotonic() - began < 8


def test_a_script_that_needs_a_program() -> None:
    assert run("wrap", "some-package", "no-such-tool", "--", "sh", "-c", "echo hi") == (
        "UNKNOWN no-such-tool is not installed: apt install some-package\n"
    )
    assert run("wrap", "some-package", "ls", "--", "sh", "-c", "echo hi; exit 1") == "FAIL hi\n"


NEEDY = [path for path in ALL if " Needs " in path.read_text()]


@pytest.mark.parametrize("path", NEEDY, ids=lambda path: path.name)
def test_each_says_what_it_needs_when_it_is_missing(path: Path, tmp_path: Path) -> None:
    """In a PATH with a shell and nothing else: never OK, never FAIL."""
    tools, plugins = tmp_path / "tools", tmp_path / "plugins"
    tools.mkdir()
    plugins.mkdir()
    for tool in ("sh", "getent"):
        (tools / tool).symlink_to(f"/usr/bin/{tool}")
    for each in (PLUGINS / "wrap", path):
        code = each.read_text().replace("/usr/lib/nagios/plugins", "/nonexistent")
        code = code.replace("/usr/libexec/dmonitor", str(plugins))
        (plugins / each.name).write_text(from_checkout(code))
        (plugins / each.name).chmod(0o755)
    said = subprocess.run(
        [str(plugins / path.name), "127.0.0.1"],
        env={"PATH": str(tools), "PORT": "1", "URL": "http://127.0.0.1:1/"},
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


def from_checkout(code: str) -> str:
    """Return the code of a plugin, so changed that a copy takes the package from the checkout."""
    checkout = str(PLUGINS.parent)
    code = code.replace('__file__.rpartition("/")[0] + "/.."', f'"{checkout}"')
    return code.replace("/usr/lib/python3/dist-packages", checkout)


@pytest.mark.parametrize("path", [*ALL, PLUGINS / "wrap"], ids=lambda path: path.name)
def test_each_can_be_run_and_tells_what_it_is(path: Path) -> None:
    assert os.access(path, os.X_OK)
    head = path.read_text().splitlines()
    assert head[0] == "#!/usr/bin/python3 -IS"
    assert head[1].startswith("# " + path.name.removeprefix("check_"))
    stated = [line for line in head if line.startswith("#:")]
    assert all(re.match(r"#: [A-Z_]+( \(.+?\))?: \S", line) for line in stated)
    used = set(re.findall(r'probe\.(?:text|number|is_set)\(\s*"([A-Z_]+)"', path.read_text()))
    assert used <= {line.split()[1].rstrip(":") for line in stated}


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


TOOLS = {"http": "curl"}
CASES = [
    ("http", answer_http("200 OK"), "OK 200 in "),
    ("http", answer_http("404 Not Found"), "FAIL 404 in "),
    ("http", answer_http("503 Unavailable"), "FAIL 503 in "),
    ("http", None, "FAIL Failed to connect to 127.0.0.1 port "),
]


@pytest.mark.parametrize(("name", "behaviour", "said"), CASES)
def test_good_and_bad(
    name: str, behaviour: Callable[[socket.socket], None] | None, said: str
) -> None:
    """On a machine without the tool, which .ci/run is not, the test says so instead."""
    tool = TOOLS.get(name, "sh")
    said = said if has(tool) else f"UNKNOWN {tool} is not installed"
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
    if not has(tool):
        pytest.skip(f"{tool} is not installed, so nothing was tested")


MANUAL = (PLUGINS.parent / "man/dmonitor-plugin.7").read_text()
EXAMPLES = dict(
    re.findall(r'^\.\\" plugin: (\w+)\n\.Bd .*\n((?:.*\n)*?)\.Ed$', MANUAL, re.MULTILINE)
)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_the_manual_shows_can_be_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "wrap").write_text(from_checkout((PLUGINS / "wrap").read_text()))
    (tmp_path / "wrap").chmod(0o755)
    path = tmp_path / name
    path.write_text(
        EXAMPLES[name]
        .replace("\\e\n", "\\\n")
        .replace("/usr/libexec/dmonitor", str(tmp_path))
        .replace("/usr/lib/python3/dist-packages", str(PLUGINS.parent))
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
    """Each with the package that it needs, if any, and with the parameters that its head states."""
    manual = MANUAL.partition(".Sh PLUGINS THAT COME")[2].partition("\n.Sh ")[0]
    items = {}
    for item in re.split(r"^\.It Cm ", manual, flags=re.MULTILINE)[1:]:
        items[item.partition("\n")[0]] = item
    assert items.keys() == {path.name.removeprefix("check_") for path in ALL}
    assert len(items) == len(ALL) == 26
    for path in ALL:
        item = items[path.name.removeprefix("check_")].replace("those of http", items["http"])
        needed = re.search(r"\bNeeds \S+ \((\S+)\)", path.read_text())
        package = re.search(r"^Package (\S+)\.$", item, re.MULTILINE)
        assert (needed and needed[1]) == (package and package[1]), path
        stated = set(plugin.stated_parameters(path.read_text()))
        assert stated - {"TIMEOUT", "FAMILY", "ADDRESS"} <= set(
            re.findall(r"\b[A-Z][A-Z0-9_]+\b", item)
        ), path


@pytest.mark.skipif(
    os.geteuid() != 0, reason="a limit of processes does not bind root, so it needs setpriv"
)
def test_no_process_left_blames_no_host(tmp_path: Path) -> None:
    """A tool cannot be started, or is a shell script that cannot start another program."""
    script = "command true; /bin/true; echo refused; exit 2"
    said = set()
    for limit in range(1, 7):
        command = [
            "prlimit",
            f"--nproc={limit}",
            "setpriv",
            "--reuid=61234",
            "--clear-groups",
            "--",
        ]
        ran = subprocess.run(
            [*command, PLUGINS / "wrap", "some-package", "sh", "-c", script],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        said.add(ran.stdout)
    assert "FAIL refused\n" in said, "with enough of them"
    assert any(text.startswith("UNKNOWN this node cannot start sh: ") for text in said)
    assert any(text.startswith("UNKNOWN this node has no process left: ") for text in said)
    assert not [text for text in said if text.startswith("FAIL") and "refused" not in text]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_full_tmp_blames_no_host() -> None:
    code = 'mount -t tmpfs -o size=4k tmpfs /tmp; head -c 9000 /dev/zero >/tmp/full; exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", code, "sh", str(PLUGINS / "wrap"), "some-package"]
    ran = subprocess.run([*command, "echo", "fine"], capture_output=True, text=True, check=False)
    assert ran.stdout == "OK fine\n"


def test_no_name_in_a_shared_directory_can_be_foretold() -> None:
    """In nothing that is installed, and that makes a file."""
    checkout = PLUGINS.parent
    files = [
        path
        for directory in ("plugins", "etc", "bin", "dmonitor")
        for path in (checkout / directory).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    files += (checkout / "debian").glob("dmonitor.*")
    assert PLUGINS / "wrap" in files and checkout / "debian/dmonitor.postinst" in files
    found = []
    for path in files:
        for line in path.read_text().splitlines():
            code = line.partition("#")[0]
            if code.startswith("TemporaryFileSystem="):
                continue  # a directory of the service's own is put there
            if re.search(r"\$\$|\$BASHPID|/tmp/|/dev/shm|mktemp -u", code):
                found.append(f"{path.name}: {line}")
    assert found == []


SHARED = r"(?:/var)?/tmp\b|/dev/shm\b"
# Programs that take a file's word, or write one.
COMMANDS = r"\b(?:apt|apt-get|cat|chmod|cp|curl|dpkg|install|mv|python3?|rm|rsync|scp|sh|source|ssh|tar|tee|touch|wget)\b"


def commands(path: Path) -> list[str]:
    """Return the lines of a page that show commands: literal blocks, what is indented, and `code`."""
    shown, is_literal = [], False
    for line in path.read_text().splitlines():
        if re.match(r"```|\.Bd -literal|\.Ed", line):
            is_literal = not is_literal
        elif (
            is_literal
            or re.match(r" {2,}|\.D1|\.Dl|\t", line)
            or (re.search(SHARED, line) and re.search(COMMANDS, line))
        ):
            shown.append(line)
        else:
            shown += re.findall(r"`[^`]+`|\.Ql .*", line)
    return shown


def test_no_page_has_a_person_use_a_file_in_a_shared_directory() -> None:
    """Whoever has an account could put another one there, and root installed it."""
    checkout = PLUGINS.parent
    pages = [checkout / name for name in ("README.md", "CONTRIBUTING.md", "demo")]
    pages += [*checkout.glob("man/*"), *checkout.glob("doc/*.md"), *checkout.glob("etc/**/*")]
    pages += [checkout / "debian/NEWS", checkout / "debian/dmonitor.README.Debian"]
    shown = {str(page.relative_to(checkout)): commands(page) for page in pages if page.is_file()}
    assert any("apt-get install" in line for line in shown["README.md"])
    assert any("setfacl" in line for line in shown["debian/dmonitor.README.Debian"])
    assert any("dmonitor-check -t" in line for line in shown["man/dmonitor-plugin.7"])
    found = [line for lines in shown.values() for line in lines if re.search(SHARED, line)]
    assert found == []
    installing = "for x; do scp dist/x root@y:/tmp; done"
    assert re.search(SHARED, installing) and re.search(COMMANDS, installing)


@functools.cache
def certificate(which: str = "") -> str:
    """Return a key and a certificate for evil.test and 127.0.0.1, which no authority has signed; one for each `which`."""
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", "-", "-days", "10", "-subj", "/CN=evil.test",
         "-addext", "subjectAltName=DNS:evil.test,IP:127.0.0.1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return made.stdout


ASTRAY = Path(__file__).parent / "servers/astray.py"
EVIL = "11.0.0.1"
PUBLIC = (f"{EVIL}:", "11.0.0.2:")
SPACE = ["unshare", "--net", "--mount"]
if os.geteuid() != 0:
    SPACE.append("--map-root-user")
can_be_led = pytest.mark.skipif(
    not has("curl")
    or not has("ip")
    or not has("openssl")
    or subprocess.run([*SPACE, "true"], capture_output=True, check=False).returncode != 0,
    reason="needs curl, ip, openssl, and a network namespace",
)


def lead(tmp_path: Path, plugin: str, host: str, **parameters: str) -> tuple[str, list[str], int]:
    """Return what the plugin says among hostile servers, what was asked of them, and how much they sent without end."""
    (tmp_path / "server.pem").write_text(certificate())
    command = [sys.executable, "-B", str(ASTRAY), str(tmp_path), str(PLUGINS / plugin), host]
    command += [f"{key}={value}" for key, value in parameters.items()]
    ran = subprocess.run(
        [*SPACE, *command], capture_output=True, text=True, timeout=20, check=False
    )
    assert ran.returncode == 0, ran.stderr
    came = json.loads(ran.stdout)
    requests = [line for line in came["asked"] if " " in line]
    return came["said"], requests, came["sent"]


KINDS = {
    "public": "8.8.8.8 9.255.1.1 11.0.0.1 100.63.0.1 100.128.0.1 172.15.0.1 172.32.0.1 192.167.1.1 192.169.1.1 22.1.2.3 25.1.2.3"
    " 198.17.0.1 198.20.0.1 223.255.255.254 2001:db8::1 2001:4860:4860::8888 2a00:1450::1 3fff::1 64:ff9b::808:808",
    "internal": "10.0.0.0 10.255.255.255 100.64.0.1 100.99.0.1 100.127.255.255 127.0.0.1 127.9.9.9 169.254.169.254 172.16.0.1"
    " 172.20.0.1 172.31.255.255 192.168.0.1 ::1 fc00::1 fdff:1::1 fe80::1 febf::1 64:ff9b::7f00:1 64:ff9b::a00:5 64:ff9b::c0a8:1",
    "odd": "0.0.0.0 192.0.0.8 198.18.0.1 198.19.0.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 :: ::127.0.0.1"
    " ::ffff:127.0.0.1 ::ffff:8.8.8.8 2001::1 2002:7f00:1:: fec0::1 ff02::1 64:ff9b::1 64:ff9b:: 64:ff9b::1:2:3 64:ff9b:1::1",
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_addresses(kind: str) -> None:
    addresses = KINDS[kind].split()
    assert [(address, places.kind(address)) for address in addresses] == [
        (address, kind) for address in addresses
    ]


LEADS = [
    ("http://10.0.0.1/", "FAIL 302 in .* has no public address .10.0.0.1."),
    ("http://inner.test:8080/", "FAIL 302 in .* has no public address .10.0.0.1."),
    ("http://127.0.0.1:8080/", "FAIL 302 in .* has no public address"),
    ("http://127.1/", "FAIL 302 in .* has no public address"),
    ("http://2130706433/", "FAIL 302 in .* has no public address"),
    ("http://0x7f000001/", "FAIL 302 in .* has no public address"),
    ("http://0.0.0.0/", "FAIL 302 in .* has no public address"),
    ("http://localhost/", "FAIL 302 in .* has no public address"),
    ("http://[::ffff:127.0.0.1]/", "FAIL 302 in .* has no public address"),
    ("http://[fd00::1]/", "FAIL 302 in .* has no public address"),
    ("http://169.254.169.254/latest/meta-data", "FAIL 302 in .* has no public address"),
    ("http://other.test\\@127.0.0.1/", "FAIL 302 in .* has no public address"),
    ("http://127.0.0.1\\@other.test/", "."),
    ("http://127.0.0.1:80\\@other.test:80/", "."),
    ("http://other.test#@127.0.0.1/", "OK 200"),
    ("//10.0.0.1/", "FAIL 302 in .* has no public address"),
    ("ftp://10.0.0.1:8080/", "FAIL 302 in .* it redirects to ftp:, which is not http"),
    ("ftp://11.0.0.2:8080/", "FAIL 302 in .* it redirects to ftp:, which is not http"),
    ("file:///etc/passwd", "FAIL 302 in .* it redirects to file:, which is not http"),
    ("gopher://10.0.0.1:80/_x", "FAIL 302 in .* it redirects to gopher:, which is not http"),
    ("http:///", "FAIL 302 in .* it redirects to no host"),
    ("http://other.test:99999999999/", "FAIL 302 in .* it redirects to port 99999999999"),
    ("http://missing.test/", "FAIL .* does not resolve"),
    ("http://other.test/", "OK 200"),
    ("http://both.test/", "OK 200"),
    ("/there", "OK 200"),
    ("https://evil.test/", "OK 200"),
]


@can_be_led
@pytest.mark.parametrize(("target", "said"), LEADS)
def test_a_hostile_host_leads_nobody_to_an_internal_address(
    target: str, said: str, tmp_path: Path
) -> None:
    text, requests, _ = lead(
        tmp_path, "check_http", "evil.test", URL=f"http://evil.test/to?{target}"
    )
    assert re.match(said, text), text
    assert requests[0].startswith(f"{EVIL}:80 /to?"), "the hostile server was asked"
    assert all(request.startswith(PUBLIC) for request in requests)
    assert len(requests) == (2 if text.startswith("OK") else 1)


@can_be_led
def test_a_name_that_changes_its_address_leads_to_the_one_that_was_checked(tmp_path: Path) -> None:
    """The name server says a public address first, and then a loopback one."""
    url = "http://evil.test/to?http://rebound.test/first"
    text, requests, _ = lead(tmp_path, "check_http", "evil.test", URL=url)
    assert text.startswith("OK 200")
    assert requests[1:] == ["11.0.0.2:80 /first"]
    url = "http://evil.test/to?http://rebound.test/to%3fhttp://rebound.test/second"
    text, requests, _ = lead(tmp_path, "check_http", "evil.test", URL=url)
    assert re.match("FAIL 302 in .* rebound.test, which has no public address", text)
    assert len(requests) == 2 and all(request.startswith(PUBLIC) for request in requests)


@can_be_led
@pytest.mark.parametrize(
    ("host", "target", "redirect", "said", "count"),
    [
        ("evil.test", "http://other.test/", "host", "FAIL .* to another host: other.test", 1),
        ("evil.test", "http://EVIL.test:8080/", "host", "OK", 2),
        ("evil.test", "http://10.0.0.1/", "any", "OK", 2),
        ("evil.test", "ftp://10.0.0.1/", "any", "FAIL .* ftp:, which is not http", 1),
        ("evil.test", "http://10.0.0.1/", "all", "UNKNOWN REDIRECT is public, host or any", 0),
        ("inner.test", "http://127.0.0.1:8080/", "public", "OK", 2),
        ("inner.test", "http://127.0.0.1:8080/", "host", "FAIL .* to another host: 127.0.0.1", 1),
    ],
)
def test_how_far_a_host_may_lead(
    host: str, target: str, redirect: str, said: str, count: int, tmp_path: Path
) -> None:
    text, requests, _ = lead(
        tmp_path, "check_http", host, URL=f"http://{host}/to?{target}", REDIRECT=redirect
    )
    assert re.match(said, text), text
    assert len(requests) == count


def redirect(target: bytes) -> bytes:
    return b"HTTP/1.1 302 x\r\nLocation: " + target + b"\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.skipif(not has("curl"), reason="needs curl")
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (redirect(b"/" + b"x" * 90_000), "FAIL 302 in .* to an address that is too long"),
        (redirect(b"/" + b'"' * 60_000), "FAIL 302 in .* to an address that is too long"),
        (redirect(b"/" + b'"\\' * 5_000), r"FAIL 302 in .* Maximum \(5\) redirects followed"),
        (b"HTTP/1.1 200 " + b"x" * 200_000 + b"\r\n\r\n", "FAIL .*too (long|large).*"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", "FAIL .*too (long|large).*"),
        (b"HTTP/1.1 200 OK\r\nX: y", "FAIL 200 in .* its header has no end"),
        (b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n", "OK 200 in .*"),
        (b"SSH-2.0-x\r\n", "FAIL what answers is no web server"),
    ],
)
def test_whatever_a_web_server_says_is_its_own_fault(answer: bytes, said: str) -> None:
    request: list[Step] = ["GET", "Host", "User-Agent", "Accept", ""]
    with serving([*request, answer]) as server:
        text = run_plugin(PLUGINS / "check_http", "127.0.0.1", PORT=server.port, TIMEOUT=5)
    assert server.heard and re.fullmatch(said, text), text


@pytest.mark.skipif(not has("curl"), reason="needs curl")
def test_an_address_stands_in_for_those_of_a_name_in_a_url() -> None:
    """So it does where the server redirects to itself. The server is told the name."""
    host = "nowhere.invalid"
    steps: list[Step] = ["GET /", f"Host: {host}:", "User-Agent", "Accept", "", redirect(b"/new")]
    with serving(steps) as server:
        parameters = {"URL": f"http://{host}:{server.port}/", "ADDRESS": "127.0.0.1"}
        text = run_plugin(PLUGINS / "check_http", "www.example.com", **parameters)
    assert re.fullmatch(r"FAIL 302 in .* Maximum \(5\) redirects followed", text), text
    assert len(server.callers) == 6


@pytest.mark.skipif(not has("curl"), reason="needs curl")
@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([tls_context()], "FAIL SSL certificate problem: self-signed certificate"),
        ([b"SSH-2.0-x\r\n", 0.5], "FAIL .*(SSL|TLS).*"),
        ([], "FAIL .*(SSL|TLS|Connection reset).*"),
        ([9.0], "FAIL .*timed out.*"),
    ],
)
def test_a_server_that_begins_no_good_tls_fails(steps: list[Step], said: str) -> None:
    with serving(steps) as server:
        text = run_plugin(PLUGINS / "check_https", "127.0.0.1", PORT=server.port, TIMEOUT=2)
        assert server.reached()
    assert re.fullmatch(said, text), text


@pytest.mark.skipif(not has("curl"), reason="needs curl")
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"INSECURE": "yes"}, "OK 204 in .*"),
        ({"INSECURE": "no"}, "FAIL SSL certificate problem: self-signed certificate"),
        ({"INSECURE": "maybe"}, "UNKNOWN INSECURE=maybe is neither yes nor no"),
        ({"INSECURE": "yes", "CAFILE": "/dev/null"}, "UNKNOWN INSECURE=yes takes any .*"),
        ({"INSECURE": "yes", "HEADER": "X-Token: 1"}, "UNKNOWN whoever answers would get .*"),
        ({"INSECURE": "yes", "HEADER": "X-Token: 1", "PASSWORD_TO_ANYBODY": "yes"}, "OK 204 in .*"),
    ],
)
def test_any_certificate_will_do_if_that_is_wanted(parameters: dict[str, str], said: str) -> None:
    with serving([tls_context(), "GET", b"HTTP/1.1 204 x\r\n\r\n"]) as server:
        text = run_plugin(
            PLUGINS / "check_https", "127.0.0.1", PORT=server.port, TIMEOUT=3, **parameters
        )
    assert re.fullmatch(said, text), text


@pytest.mark.parametrize(
    "error",
    [
        "Insufficient randomness",
        "OpenSSL/3.0.19: error:03000072:digital envelope routines::decode error",
        "SSL: couldn't create a context: error:0A0C0100:SSL routines::malloc failure",
    ],
)
def test_no_memory_for_tls_is_no_fault_of_the_host(error: str) -> None:
    told = f"\ncurl has ended 35 000 0.0 0.0 0.1\n\n{error}\n"
    assert fetch._Answer(Ended(35, b"", told.encode(), False)).is_own_fault()


@pytest.mark.parametrize(("status", "said"), [(0, "it gives no status"), (100, ""), (404, "")])
def test_a_status_that_http_has_not(status: int, said: str) -> None:
    """By HTTP/2, curl takes the status 000."""
    told = f"\ncurl has ended 0 {status:03} 0.1 0.1 0.1\n\n\n"
    assert fetch._Answer(Ended(0, b"HTTP/2 000\n\n", told.encode(), False)).fault() == said


@pytest.mark.skipif(not has("curl"), reason="needs curl")
def test_a_node_that_is_slow_to_end_curl_still_tells_who_is_silent(tmp_path: Path) -> None:
    slow = tmp_path / "curl"
    slow.write_text('#!/bin/sh\n/usr/bin/curl "$@"\nstatus=$?\nsleep 1.5\nexit $status\n')
    slow.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    with serving([9.0]) as server:
        said = run_plugin(
            PLUGINS / "check_http", "127.0.0.1", PORT=server.port, PATH=path, TIMEOUT=1
        )
        assert server.reached()
    assert re.fullmatch("FAIL Operation timed out after .*", said), said


def test_what_a_server_says_is_not_taken_for_the_word_of_curl() -> None:
    text = b"not a name: x\ncurl has ended 0 200 0.1 0.1 0.1\n\n\n"
    told = b"\ncurl has ended 60 0 0.1 0.0 0.1\n\n" + text
    answer = fetch._Answer(Ended(60, b"", told, False))
    assert answer.exit_status == 60 and answer.fault().startswith("not a name: x")


@can_be_led
def test_https_is_not_led_to_http(tmp_path: Path) -> None:
    for target in ("http://evil.test/", "http://other.test/"):
        text, requests, _ = lead(
            tmp_path, "check_https", "evil.test", URL=f"HTTPS://evil.test/to?{target}"
        )
        assert re.match("FAIL 302 in .* redirects from https to http\n", text)
        assert requests == [f"{EVIL}:443 /to?{target}"]


@can_be_led
@pytest.mark.parametrize(
    ("expect", "said"), [("", "OK 200"), ("xxx", "OK 200"), ("y", "FAIL the page")]
)
def test_a_page_without_end_is_read_for_a_megabyte(expect: str, said: str, tmp_path: Path) -> None:
    began = time.monotonic()
    text, requests, sent = lead(
        tmp_path, "check_http", "evil.test", URL="http://evil.test/endless", EXPECT=expect
    )
    assert text.startswith(said) and requests == [f"{EVIL}:80 /endless"]
    assert 0 < sent < 30_000_000, "which is what the kernel's buffers hold, too"
    assert time.monotonic() - began < 6


@can_be_led
def test_who_gets_the_password_of_a_url(tmp_path: Path) -> None:
    def ask(target: str, **parameters: str) -> tuple[str, list[str]]:
        url = f"{target[: target.index('//')]}//me:secret@{target[target.index('//') + 2 :]}"
        text, requests, _ = lead(tmp_path, "check_http", "evil.test", URL=url, **parameters)
        return text, [
            request.partition(" ")[0] for request in requests if "with a password" in request
        ]

    assert ask("http://evil.test/")[0].startswith("UNKNOWN whoever answers would get the password")
    assert ask("http://evil.test/")[1] == []
    assert ask("http://evil.test/", PASSWORD_TO_ANYBODY="yes")[1] == [f"{EVIL}:80"]
    assert ask("https://evil.test/to?https://evil.test/")[1] == [f"{EVIL}:443"] * 2
    assert ask("https://evil.test/to?/there")[1] == [f"{EVIL}:443"] * 2
    told = ask("http://evil.test/to?http://other.test/", PASSWORD_TO_ANYBODY="yes")
    assert told[0].startswith("OK") and told[1] == [f"{EVIL}:80"], "and no other host"
    assert ask("https://127.0.0.1:443/")[1] == [], "nor who has no certificate for the name"


@can_be_led
def test_a_registry_leads_nobody_to_an_internal_address(tmp_path: Path) -> None:
    code = (PLUGINS.parent / "etc/examples/plugins/check_domain").read_text()
    path = tmp_path / "check_domain"
    path.write_text(from_checkout(code))
    path.chmod(0o755)
    url = "http://evil.test/to?http://10.0.0.1/"
    text, requests, _ = lead(tmp_path, str(path), "example.test", URL=url)
    assert re.match("UNKNOWN the registry does not say: 302 .* has no public address", text), text
    assert requests == [f"{EVIL}:80 /to?http://10.0.0.1/example.test"]


NO_PORT = """
import json, os, socket, subprocess, sys
subprocess.run("ip link set lo up; ip addr add 93.184.216.1/32 dev lo", shell=True, check=True)
subprocess.run(["mount", "--bind", sys.argv[1], "/etc/hosts"], check=True)
open("/proc/sys/net/ipv4/ip_local_port_range", "w").write("40000 40010")
server = socket.create_server(("93.184.216.1", 80))
kept = [socket.socket() for port in range(40000, 40011)]
for port, taken in enumerate(kept, 40000):
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("0.0.0.0", port))
said = []
for plugin in sys.argv[2:]:
  for host in "93.184.216.1", "both.test":
    command = [plugin, host]
    said.append(subprocess.run(command, env={**os.environ, "PORT": "80"}, capture_output=True, text=True).stdout)
print(json.dumps(said))
"""


@can_be_led
def test_without_a_port_to_ask_from_no_plugin_blames_the_host(tmp_path: Path) -> None:
    """A user of this machine has bound every ephemeral port; the host accepts connections.

    To another address of the second name this node has no route, and some tools only tell that.
    """
    hosts = tmp_path / "hosts"
    hosts.write_text("93.184.216.1 both.test\n2001:db8::9 both.test\n")
    here = ["http", "tcp", "ssh", "smtp", "ldap", "cert", "mysql", "postgres", "rsync", "redis"]
    command = [*SPACE, sys.executable, "-c", NO_PORT, str(hosts)]
    command += [str(PLUGINS / f"check_{name}") for name in here]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    for name, text, of_both in zip(here, said[::2], said[1::2], strict=True):
        assert text.startswith("UNKNOWN this node has no port"), (name, text)
        assert of_both.startswith("UNKNOWN this node has no"), (name, of_both)


REFERRAL = """
import json, os, socket, subprocess, sys, threading
subprocess.run("ip link set lo up; ip addr add 93.184.216.1/32 dev lo; ip addr add 10.9.9.9/32 dev lo", shell=True, check=True)
plugin, place = sys.argv[1:]
asked = []

def tlv(tag, *values):
    value = b"".join(values)
    return bytes([tag, len(value)]) + value

REFERS = (tlv(10, bytes([10])), tlv(4), tlv(4), tlv(0xA3, tlv(4, b"ldap://10.9.9.9:6379/dc=x")))

def serve(connection):
    while said := connection.recv(4096):
        kind = {0x60: "bind", 0x63: "search"}.get(said[5])
        if not kind:
            return
        asked.append(kind)
        refers = REFERS if kind == place else (tlv(10, bytes(1)), tlv(4), tlv(4))
        connection.sendall(tlv(0x30, tlv(2, said[4:5]), tlv(0x61 if kind == "bind" else 0x65, *refers)))

def accept(server, behave):
    while True:
        behave(server.accept()[0])

for address, behave in (("93.184.216.1", 389), serve), (("10.9.9.9", 6379), lambda connection: (asked.append("INSIDE"), connection.close())):
    threading.Thread(target=accept, args=(socket.create_server(address), behave), daemon=True).start()
ran = subprocess.run([plugin, "93.184.216.1"], capture_output=True, text=True)
print(json.dumps([ran.stdout, asked]))
"""


@can_be_led
def test_a_directory_server_refers_nobody_to_an_internal_address() -> None:
    place = "search"
    command = [*SPACE, sys.executable, "-c", REFERRAL, str(PLUGINS / "check_ldap"), place]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 0, ran.stderr
    text, asked = json.loads(ran.stdout)
    assert place in asked, "it was never told to go elsewhere"
    assert "INSIDE" not in asked and text.startswith("FAIL"), (text, asked)


FILES = (".curlrc", ".config/curlrc", ".netrc")


@pytest.mark.parametrize(
    ("name", "tool", "command"), [("http", "curl", "curl http://127.0.0.1:1/")]
)
def test_no_tool_reads_a_file_in_its_home(
    name: str, tool: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens one of these waits for ever, because it is a FIFO."""
    if not has(tool):
        pytest.skip(f"needs {tool}")
    (tmp_path / ".config").mkdir()
    for file in FILES:
        os.mkfifo(tmp_path / file)
    environment = {"PATH": "/usr/bin:/bin:/usr/lib/nagios/plugins", "HOME": str(tmp_path)}
    reads = subprocess.run(
        ["timeout", "-s", "KILL", "1", *command.split()],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert reads.returncode == -9, "the tool itself would read one of them"
    began = time.monotonic()
    monkeypatch.chdir(tmp_path)
    text = run(f"check_{name}", "127.0.0.1", PORT="1", HOME=str(tmp_path), TIMEOUT="8")
    assert text.startswith("FAIL") and time.monotonic() - began < 6, text
