"""The base of the plugins, and the plugins of text protocols: whose fault it is, and the one word."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from fake_server import Step, environment, run_plugin, serving, tls_context

CHECKOUT = Path(__file__).parents[1]
PLUGINS = CHECKOUT / "plugins"
EXAMPLES = CHECKOUT / "etc/examples/plugins"
NAME = "localhost"  # which every machine resolves without a name server


def look(name: str, host: str = "127.0.0.1", *before: str, **parameters: object) -> str:
    return run_plugin(PLUGINS / f"check_{name}", host, *before, **parameters)


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """The path for a plugin of the test's own; `written` fills it."""
    return tmp_path / "check_own"


def written(path: Path, body: str, imported: str = "base") -> Path:
    """Write a plugin whose look has `body`."""
    code = f"""\
#!/usr/bin/python3 -IS
import sys
sys.path.append("{CHECKOUT}")
from dmonitor.probe import {imported}
def look(probe):
{textwrap.indent(textwrap.dedent(body), "    ")}
base.run(look)
"""
    path.write_text(code)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 'fine'", "OK fine"),
        ("return b'two\\nlines \\xff'", "OK two lines \ufffd"),
        ("return ''", "OK"),
        ("return 'x' * 1000", f"OK {'x' * 397}"),
        ("raise base.Fail('it is down')", "FAIL it is down"),
        ("raise base.Unknown('no tool')", "UNKNOWN no tool"),
        ("raise ValueError('odd')", "UNKNOWN the plugin broke: ValueError('odd')"),
        ("open('/nonexistent')", "UNKNOWN this node: /nonexistent: No such file or directory"),
        ("raise MemoryError", "UNKNOWN this node has no memory left"),
        ("'x' * 10**14", "UNKNOWN this node has no memory left"),
        ("return None", "UNKNOWN the plugin broke: "),
        ("sys.exit(2)", "UNKNOWN the plugin broke: SystemExit(2)"),
        ("raise KeyboardInterrupt", "UNKNOWN the plugin broke: KeyboardInterrupt()"),
    ],
)
def test_only_a_look_that_ends_says_ok_and_only_fail_says_fail(
    body: str, said: str, plugin: Path
) -> None:
    assert run_plugin(written(plugin, body), NAME).startswith(said)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"PORT": "eighty"}, "UNKNOWN PORT=eighty is no number from 0 to 65535"),
        ({"PORT": "99999"}, "UNKNOWN PORT=99999 is no number from 0 to 65535"),
        ({"PORT": "²"}, "UNKNOWN PORT=² is no number from 0 to 65535"),
        ({"TIMEOUT": "-1"}, "UNKNOWN TIMEOUT=-1 is no number from 0 to 65535"),
        ({"PORT": "1", "FAMILY": "5"}, "UNKNOWN FAMILY=5 is none of 4, 6 and any"),
        ({}, "UNKNOWN which port? write PORT=NUMBER into the test's file"),
        ({"PORT": ""}, "UNKNOWN which port? write PORT=NUMBER into the test's file"),
    ],
)
def test_a_parameter_that_makes_no_sense_blames_no_host(
    parameters: dict[str, str], said: str
) -> None:
    assert look("tcp", **parameters) == said


@pytest.mark.parametrize(
    ("host", "parameters", "said"),
    [
        ("256.1.1.1", {}, "UNKNOWN 256.1.1.1 is no address"),
        ("::g", {}, "UNKNOWN ::g is no address"),
        ("127.0.0.1", {"FAMILY": 6}, "UNKNOWN 127.0.0.1 is no IPv6 address, which FAMILY=6 wants"),
        ("::1", {"FAMILY": 4}, "UNKNOWN ::1 is no IPv4 address, which FAMILY=4 wants"),
        (
            "straße.example",
            {},
            "UNKNOWN the name is not ASCII; write its form that begins with xn--",
        ),
    ],
)
def test_a_host_that_cannot_be_one_blames_no_host(
    host: str, parameters: dict[str, object], said: str
) -> None:
    assert look("tcp", host, PORT=1, **parameters) == said


def test_a_plugin_has_one_argument() -> None:
    ran = subprocess.run(
        [str(PLUGINS / "check_tcp")], env=environment(), capture_output=True, text=True, check=False
    )
    assert ran.stdout == "UNKNOWN a plugin has one argument: HOST\n"


# What a good server says, in steps, and what the plugin says of that.
GOOD: dict[str, tuple[list[Step], str]] = {
    "tcp": ([b"hello\n"], "OK 127.0.0.1 accepts connections"),
    "ssh": ([b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "SSH"], "OK SSH-2.0-OpenSSH_9.2p1 Debian-2"),
    "smtp": ([b"220-mx.example.com\r\n220 ESMTP\r\n", "QUIT"], "OK 220 mx.example.com ESMTP"),
    "submission": (
        [
            *(b"220 mx.example.com ESMTP\r\n", "EHLO", b"250-mx\r\n250-starttls\r\n250 HELP\r\n"),
            *("STARTTLS", b"220 go ahead\r\n", tls_context(), "QUIT"),
        ],
        "OK 220 mx.example.com ESMTP, with TLSv1.3",
    ),
    "imap": ([b"* OK [CAPABILITY IMAP4rev1] ready\r\n"], "OK * OK [CAPABILITY IMAP4rev1] ready"),
    "imaps": ([tls_context(), b"* PREAUTH ready\r\n"], "OK * PREAUTH ready"),
    "pop3": ([b"+OK ready\r\n"], "OK +OK ready"),
    "pop3s": ([tls_context(), b"+OK ready\r\n"], "OK +OK ready"),
    "ftp": ([b"220-one\r\n220-two\r\n220 three\r\n"], "OK 220 one two three"),
}
TEXT = sorted(GOOD.keys() - {"tcp"})  # tcp does not wait for a word
TLS = {"imaps", "pop3s"}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_server(name: str) -> None:
    steps, said = GOOD[name]
    with serving(steps) as server:
        assert look(name, PORT=server.port) == said
        assert server.reached() == ["127.0.0.1"]


@pytest.mark.parametrize("name", TEXT)
def test_a_good_server_that_sends_byte_by_byte(name: str) -> None:
    steps, said = GOOD[name]
    slow: list[Step] = []
    for step in steps:
        if isinstance(step, bytes):
            slow += [part for byte in step[:9] for part in (bytes([byte]), 0.01)] + [step[9:]]
        else:
            slow.append(step)
    with serving(slow) as server:
        assert look(name, PORT=server.port) == said


@pytest.mark.parametrize("name", GOOD)
def test_a_refused_port(name: str) -> None:
    with serving([]) as server:
        pass
    assert look(name, PORT=server.port) == "FAIL connection refused"


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([9.0], "FAIL no answer within 1 s"),
        ([b"half a li", 9.0], "FAIL (no answer within 1 s|no TLS: .*)"),
        ([], "FAIL (it closes without a word|no TLS: .*)"),
        ([b"half a li"], "FAIL (it closes after: half a li|no TLS: .*)"),
        ([b"421 go away\r\n", 0.3], "FAIL (it says: 421 go away|it closes too early|no TLS: .*)"),
        ([b"x" * 200_000, 9.0], "FAIL (it says more than 64 kB|no TLS: .*)"),
        ([b"220-x\r\n" * 50_000, 9.0], "FAIL (it says.*|no TLS: .*)"),
    ],
)
def test_a_server_that_is_down(name: str, steps: list[Step], said: str) -> None:
    with serving(steps) as server:
        assert re.fullmatch(said, look(name, PORT=server.port, TIMEOUT=1))
        assert server.reached()


def test_lines_before_the_version_of_ssh() -> None:
    with serving([b"Welcome\r\nto this machine\r\nSSH-2.0-x\r\n"]) as server:
        assert look("ssh", PORT=server.port) == "OK SSH-2.0-x"


@pytest.mark.parametrize(
    ("name", "good"), [("tcp", b"hello"), ("smtp", b"220 hello\r\n"), ("imap", b"* OK hello\r\n")]
)
def test_a_text_that_is_expected(name: str, good: bytes) -> None:
    with serving([good[:6], 0.1, good[6:]]) as server:
        assert look(name, PORT=server.port, EXPECT="hello").startswith("OK")
        said = look(name, PORT=server.port, EXPECT="goodbye")
    assert said.startswith("FAIL") and "goodbye" in said and "hello" in said


def test_an_expected_text_that_comes_in_pieces() -> None:
    said = "Grüße\n".encode()
    with serving([said[:3], 0.2, said[3:], 9.0]) as server:
        assert look("tcp", PORT=server.port, EXPECT="Grüße") == "OK Grüße"


def test_a_mail_server_that_hears_no_goodbye_has_greeted() -> None:
    def greet(client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"220 mx\r")
        time.sleep(0.3)
        client.sendall(b"\n")  # and ends with a reset

    for _ in range(3):
        with serving(greet) as server:
            assert look("smtp", PORT=server.port) == "OK 220 mx"
            assert server.reached()


@pytest.mark.parametrize(
    ("greeting", "said"),
    [
        (b"\x0a8.0\0" + bytes(13) + b"\0\x08" + bytes(40), "FAIL no TLS: "),
        (b"\x0a8.0\0" + bytes(60), "FAIL it begins no TLS: it offers none"),
        (b"\xff\x6a\4Host x", "FAIL it begins no TLS: it is ready, and refuses .*Host x"),
        (b"\x0b", "FAIL what it says is not MySQL"),
    ],
)
@pytest.mark.parametrize("sequence", [0, 255])
def test_a_mysql_server_that_is_to_begin_tls(greeting: bytes, said: str, sequence: int) -> None:
    packet = len(greeting).to_bytes(3, "little") + bytes([sequence]) + greeting
    with serving([packet, 0.2, b"no TLS", 0.5]) as server:
        text = look("cert", PORT=server.port, STARTTLS="mysql")
        assert re.match(said, text), text
        assert server.reached()


@pytest.mark.parametrize("name", ["imaps", "pop3s", "submission"])
def test_a_server_is_told_which_name_it_is_asked_for(name: str) -> None:
    for host, names in ((NAME, [NAME]), ("127.0.0.1", [None])):
        with serving(GOOD[name][0], port=0) as server:
            assert look(name, host, PORT=server.port, FAMILY=4).startswith("OK")
        assert server.names == names


@pytest.mark.parametrize("name", ["imaps", "pop3s", "submission"])
def test_an_address_stands_in_for_those_of_the_name(name: str) -> None:
    """The name is not looked up, and the server is told it all the same."""
    elsewhere = "nowhere.invalid"
    with serving(GOOD[name][0], port=0) as server:
        assert look(name, elsewhere, PORT=server.port, ADDRESS="127.0.0.1").startswith("OK")
        assert server.names == [elsewhere]
    assert not look(name, elsewhere, PORT=1).startswith("FAIL Connection refused")


def test_an_address_of_a_host_that_is_one_blames_no_host() -> None:
    said = look("ssh", "192.0.2.1", PORT=1, ADDRESS="127.0.0.1")
    assert said == "UNKNOWN ADDRESS is for a host with a name, and this one is an address"


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([b"250 mx\r\n"], "FAIL it does not offer STARTTLS"),
        ([b"250-NOSTARTTLS\r\n250 STARTTLSX\r\n"], "FAIL it does not offer STARTTLS"),
        ([b"502 no\r\n"], "FAIL it says: 502 no"),
        ([b"250 STARTTLS\r\n", "STARTTLS", b"454 not now\r\n"], "FAIL it says: 454 not now"),
        (
            [b"250 STARTTLS\r\n", "STARTTLS", b"220 go\r\n", 0.1, b"plain text", 2.0],
            "FAIL no TLS: ",
        ),
    ],
)
def test_submission_without_tls(steps: list[Step], said: str) -> None:
    with serving([b"220 mx\r\n", "EHLO", *steps]) as server:
        assert look("submission", PORT=server.port, TIMEOUT=3).startswith(said)
    assert server.heard


def test_xmpp(tmp_path: Path) -> None:
    path = tmp_path / "check_xmpp"
    code = (EXAMPLES / "check_xmpp").read_text()
    path.write_text(code.replace("/usr/lib/python3/dist-packages", str(CHECKOUT)))
    path.chmod(0o755)
    stream = b"<?xml version='1.0'?><stream:stream from='x' id='1' version='1.0'>"
    with serving([stream, 0.1, b"<stream:features/>", 1.0]) as server:
        assert run_plugin(path, "127.0.0.1", PORT=server.port) == "OK it begins a stream"
    with serving([stream, b"<stream:error><host-unknown/></stream:error>"]) as server:
        said = run_plugin(path, "127.0.0.1", PORT=server.port)
        assert said.startswith("FAIL it begins no stream: ") and "host-unknown" in said


def limited(*limits: str) -> tuple[str, ...]:
    return ("prlimit", *limits, "--")


def test_no_descriptor_left_blames_no_host(plugin: Path) -> None:
    body = """
    held = []
    try:
        while True:
            held.append(open("/dev/null"))
    except OSError:
        probe.connect(1)
    """
    said = run_plugin(written(plugin, body), "127.0.0.1", *limited("--nofile=50"))
    assert said.startswith("UNKNOWN this node: ") and said.endswith("Too many open files")


@pytest.mark.parametrize("name", GOOD)
def test_little_memory_blames_no_host(name: str) -> None:
    steps, _ = GOOD[name]
    words = set()
    for megabytes in (18, 20, 22, 24, 28, 40):
        with serving(steps) as server:
            ran = subprocess.run(
                [*limited(f"--as={megabytes * 1_000_000}"), PLUGINS / f"check_{name}", "127.0.0.1"],
                env=environment() | {"PORT": str(server.port)},
                capture_output=True,
                text=True,
                timeout=11,
                check=False,
            )
        words.add(ran.stdout.partition(" ")[0])
    assert "FAIL" not in words and words & {"OK", "UNKNOWN", ""}


def test_the_base_loads_next_to_nothing() -> None:
    code = "import sys; sys.path.append({!r}); from dmonitor.probe import base, connection, icmp, lookup; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-IS", "-c", code.format(str(CHECKOUT))],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(ran.stdout.split())
    assert "dmonitor.probe.base" in loaded
    assert not loaded & {"os", "re", "enum", "socket", "typing", "signal", "collections", "ssl"}


# A network of its own: this node is 10.99.0.1, and 10.99.0.2 answers pings and refuses connections.
# Port 81 is dropped by this node's own firewall, 82 and 83 are rejected by it; 91 and 92 likewise by
# the other machine. 10.99.0.77 is off. There is no way to 198.51.100.1.
NETWORK = """
set -e
unshare --net sleep 60 & other=$!
trap 'kill $other' EXIT
ip link set lo up
ip link add v0 type veth peer name v1
while [ /proc/$other/ns/net -ef /proc/$$/ns/net ]; do sleep 0.02; done
ip link set v1 netns $other
ip addr add 10.99.0.1/24 dev v0; ip link set v0 up
there() { nsenter --target $other --net "$@"; }
there ip addr add 10.99.0.2/24 dev v1; there ip link set v1 up; there ip link set lo up
rules() {
    "$@" nft add table inet f
    "$@" nft add chain inet f out "{ type filter hook $hook priority 0; }"
}
hook=output rules env
nft add rule inet f out tcp dport 81 drop
nft add rule inet f out tcp dport 82 reject
nft add rule inet f out tcp dport 83 reject with icmpx type admin-prohibited
hook=input rules there
there nft add rule inet f out tcp dport 91 drop
there nft add rule inet f out tcp dport 92 reject
there nft add rule inet f out tcp dport 93 reject with icmpx type admin-prohibited
ip addr add fd99::1/64 dev v0 nodad; there ip addr add fd99::2/64 dev v1 nodad
there sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'
there ip route add prohibit 203.0.113.1; ip route add 203.0.113.1 via 10.99.0.2
there ip -6 route add prohibit fd77::1; ip -6 route add fd77::1 via fd99::2
"""
BLOCK_PINGS = "nft add rule inet f out ip protocol icmp drop\n"
REJECT_PINGS = "nft add rule inet f out ip protocol icmp reject with icmpx type admin-prohibited\n"
REFUSE_PINGS = "there nft add rule inet f out ip protocol icmp drop\n"
NO_PORTS = "echo 40000 40000 >/proc/sys/net/ipv4/ip_local_port_range\n"
OWN_FIREWALL = "UNKNOWN this node's own firewall"


def has_namespaces() -> bool:
    probe = ["unshare", "--net", "nft", "list", "tables"]
    return (
        shutil.which("nft") is not None
        and subprocess.run(probe, capture_output=True).returncode == 0
    )


in_a_network = pytest.mark.skipif(
    not has_namespaces(), reason="needs nft, ip, and a network namespace"
)


def in_network(setup: str, command: str) -> str:
    ran = subprocess.run(
        ["unshare", "--net", "--mount", "bash", "-c", NETWORK + setup + command],
        env=environment() | {"TIMEOUT": "3"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.stderr == "" and ran.returncode == 0, ran
    return ran.stdout.removesuffix("\n")


@in_a_network
@pytest.mark.parametrize("name", ["tcp", "ssh", "imaps", "submission"])
@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("10.99.0.2", 80, "FAIL connection refused"),
        ("10.99.0.2", 81, OWN_FIREWALL),
        ("10.99.0.2", 82, OWN_FIREWALL),
        ("10.99.0.2", 83, OWN_FIREWALL),
        ("10.99.0.2", 91, "FAIL no answer within 3 s"),
        ("10.99.0.2", 92, "FAIL connection refused"),
        ("10.99.0.2", 93, "FAIL no route to host"),
        ("10.99.0.77", 80, "FAIL "),
        ("198.51.100.1", 80, "UNKNOWN this node has no way to it: network is unreachable"),
        ("10.99.0.1", 80, "FAIL connection refused"),
        # The machine at 10.99.0.2 is a router, too.
        ("203.0.113.1", 80, "FAIL no route to host, says 10.99.0.2"),
        ("fd77::1", 80, "FAIL permission denied, says fd99::2"),
    ],
)
def test_whose_fault_it_is_that_nothing_connects(
    name: str, host: str, port: int, said: str
) -> None:
    assert in_network("", f"PORT={port} {PLUGINS}/check_{name} {host}").startswith(said)


# The machine at 10.99.0.2 falls silent half a second after a look began, and is asked for its
# hardware's address for longer than the look lasts.
FALLS_SILENT = """
there nft add rule inet f out tcp dport 80 drop
ping -c 1 10.99.0.2 >/dev/null
there ip link set v1 arp off
echo 10 >/proc/sys/net/ipv4/neigh/v0/mcast_solicit
(sleep 0.5; ip neigh del 10.99.0.2 dev v0) &
"""


@in_a_network
def test_a_neighbour_that_falls_silent_is_no_firewall_of_this_node() -> None:
    ask = f"PORT=80 TIMEOUT=4 {PLUGINS}/check_tcp 10.99.0.2"
    said, neighbour = in_network(FALLS_SILENT, f"{ask}; ip neigh show 10.99.0.2").splitlines()
    assert neighbour.split()[-1] == "INCOMPLETE", "nobody waited for the neighbour"
    assert said == "FAIL no answer within 4 s"


@in_a_network
@pytest.mark.parametrize(
    ("host", "setup", "said"),
    [
        ("10.99.0.2", "", "OK alive, "),
        ("10.99.0.2", BLOCK_PINGS, OWN_FIREWALL),
        ("10.99.0.2", REJECT_PINGS, OWN_FIREWALL),
        ("10.99.0.2", REFUSE_PINGS, "FAIL no answer"),
        ("10.99.0.77", "", "FAIL no route to host"),
        ("198.51.100.1", "", "UNKNOWN this node has no way to it: network is unreachable"),
        ("203.0.113.1", "", "FAIL no route to host, says 10.99.0.2"),
        ("fd77::1", "", "FAIL permission denied, says fd99::2"),
    ],
)
def test_whose_fault_it_is_that_no_ping_is_answered(host: str, setup: str, said: str) -> None:
    assert in_network(setup, f"TIMEOUT=5 {PLUGINS}/check_ping {host}").startswith(said)


@in_a_network
@pytest.mark.parametrize("address", ["10.99.0.77", "203.0.113.1"])
def test_a_ping_waits_for_nothing_that_cannot_come(address: str, plugin: Path) -> None:
    """All three requests are sent, and what each met is known; the time would last for hours."""
    body = f"""
    import _socket as socket
    sent = []
    class Target(icmp._Target):
        def send(self, sequence):
            sent.append(sequence)
            super().send(sequence)
    icmp._Target = Target
    icmp._PATIENCE = 9999.0
    probe.deadline = outcome.Deadline(probe.deadline.end + 9999.0, 9999)
    try:
        icmp.echo([(socket.AF_INET, "{address}")], probe.deadline)
    except base.Fail as fault:
        return f"{{sent}} {{fault}}"
    """
    path = written(plugin, body, "base, icmp, outcome")
    assert in_network("", f"{path} x.test").startswith("OK [0, 1, 2] no route to host")


@in_a_network
@pytest.mark.parametrize(
    ("host", "setup", "said"),
    [
        ("10.99.0.2", "", "OK alive, [0-9.]+ ms"),
        ("two.test", "", "OK alive, [0-9.]+ ms"),
        ("10.99.0.77", "", "FAIL no answer"),
        ("10.99.0.2", "ip link set v0 down\n", "UNKNOWN this node has no way to it: .*unreachable"),
    ],
)
def test_who_may_not_send_icmp_has_ping_ask(host: str, setup: str, said: str) -> None:
    """A plugin without the capability; here ping gets it from whoever starts it, and else by its file."""
    code = (PLUGINS / "check_ping").read_text()
    assert "icmp.echo(" in code
    code = code.replace('__file__.rpartition("/")[0] + "/.."', repr(str(CHECKOUT)))
    refused = "icmp._open = refuse\n\n\nbase.run("
    refuse = "def refuse(family: int) -> None:\n    raise icmp._NoRight\n\n\n"
    code = code.replace("base.run(", refuse + refused)
    names = hosts("10.99.0.77 two.test", "10.99.0.2 two.test")
    plugin = f"cat >/mnt/check_ping <<'END'\n{code}END\nchmod 755 /mnt/check_ping\n"
    text = in_network(names + setup, f"{plugin}TIMEOUT=5 /mnt/check_ping {host}")
    assert re.fullmatch(said, text), text


NO_PING_SOCKETS = "echo 1 0 >/proc/sys/net/ipv4/ping_group_range\n"


@in_a_network
def test_a_ping_hears_no_error_of_another_one() -> None:
    """The machine with the second address answers no ping; the first one is off, and that is heard of."""
    silent = NO_PING_SOCKETS + REFUSE_PINGS
    ping = f"TIMEOUT=5 {PLUGINS}/check_ping"
    said = in_network(silent, f"{ping} 10.99.0.77 >/dev/null & {ping} 10.99.0.2")
    assert said == "FAIL no answer"


@in_a_network
def test_two_pings_at_once_take_no_answer_of_the_other() -> None:
    """Both run as root with raw sockets, which hear everything, and the group may open no other."""
    raw = NO_PING_SOCKETS
    ping = f"{PLUGINS}/check_ping"
    again = f"for _ in 1 2 3 4 5 6; do {ping} 10.99.0.2; sleep 0.5; done"
    command = f"{ping} 10.99.0.77 & one=$!; {again}; wait $one"
    said = in_network(raw, command).splitlines()
    assert len(said) == 7
    assert sum(line.startswith("OK alive") for line in said) == 6
    assert sum(line.startswith("FAIL no ") for line in said) == 1


@in_a_network
def test_no_port_left_blames_no_host() -> None:
    taken = (
        'python3 -c \'import socket, time; s = socket.socket(); s.bind(("10.99.0.1", 40000));'
        " s.listen(); time.sleep(5)' & taken=$!; sleep 0.5\n"
    )
    said = in_network(NO_PORTS + taken, f"PORT=80 {PLUGINS}/check_tcp 10.99.0.2; kill $taken")
    assert said == "UNKNOWN this node has no port or address left to ask from"


SSHD = (
    'python3 -c \'import socket; s = socket.create_server(("10.99.0.1", 22));'
    ' c = s.accept()[0]; c.send(b"SSH-2.0-x\\n")\' & sleep 0.5\n'
)


def hosts(*lines: str) -> str:
    """Return the shell commands that make these the only lines of /etc/hosts, and no name server."""
    text = "\\n".join(lines)
    return (
        "mount -t tmpfs tmpfs /mnt\n"
        f"printf '{text}\\n' >/mnt/hosts; mount --bind /mnt/hosts /etc/hosts\n"
        "echo nameserver 127.0.0.1 >/mnt/resolv.conf; echo search search.test >>/mnt/resolv.conf\n"
        "mount --bind /mnt/resolv.conf /etc/resolv.conf\n"
    )


@in_a_network
@pytest.mark.parametrize("dead", ["10.99.0.77", "fd99::77", "198.51.100.1"])
def test_every_address_of_a_name_is_tried(dead: str) -> None:
    two = hosts(f"{dead} two.test", "10.99.0.1 two.test")
    assert in_network(two + SSHD, f"{PLUGINS}/check_ssh two.test") == "OK SSH-2.0-x"
    assert in_network(two, f"{PLUGINS}/check_ping two.test").startswith("OK alive")
    said = in_network(two, f"PORT=22 {PLUGINS}/check_tcp two.test")
    assert said == "FAIL connection refused"


LINK_LOCAL = """
ip addr add fe80::1/64 dev v0 nodad; there ip addr add fe80::2/64 dev v1 nodad
there timeout 4 python3 -c 'import socket; s = socket.create_server(("::", 8080), family=socket.AF_INET6)
c = s.accept()[0]; c.recv(1000); c.send(b"HTTP/1.0 204 Nothing\\r\\n\\r\\n")' & sleep 0.5
"""


@in_a_network
@pytest.mark.parametrize(
    ("name", "port", "said"),
    [
        ("ping", 0, "OK alive, "),
        ("tcp", 8080, "OK fe80::2%"),
        ("tcp", 80, "FAIL connection refused"),
        ("tcp", 83, OWN_FIREWALL),
        ("dns", 80, "FAIL connection refused"),
        ("http", 8080, "OK 204 in "),
        ("http", 80, "FAIL Failed to connect to fe80::2%"),
    ],
)
def test_a_name_with_a_link_local_address(name: str, port: int, said: str, plugin: Path) -> None:
    """Multicast DNS finds such addresses; here two.test stands for one, with its interface."""
    code = (PLUGINS / f"check_{name}").read_text()
    code = code.replace('__file__.rpartition("/")[0] + "/.."', repr(str(CHECKOUT)))
    found = 'lookup._ask = lambda *_: lookup._literal("fe80::2%v0", 0)'
    call = "\nbase.run("
    assert call in code
    plugin.write_text(code.replace(call, f"\nfrom dmonitor.probe import lookup\n{found}\n{call}"))
    plugin.chmod(0o755)
    heard = in_network(LINK_LOCAL, f"PORT={port} {plugin} two.test")
    assert heard.startswith(said)


@in_a_network
@pytest.mark.parametrize(
    ("others", "said"),
    [
        ('[(socket.AF_INET, "127.0.0.1")]', "OK alive"),
        ("[]", "UNKNOWN this node has no way to it: address family not supported by protocol"),
    ],
)
def test_a_node_without_ipv6_pings_the_other_addresses(
    others: str, said: str, plugin: Path
) -> None:
    body = f"""
    import _socket as socket, errno
    class Socket(socket.socket):
        def __init__(self, family, *arguments):
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "the kernel has no IPv6")
            super().__init__(family, *arguments)
    socket.socket = Socket
    addresses = [(socket.AF_INET6, "::1"), *{others}]
    icmp.echo(addresses, probe.deadline)
    return "alive"
    """
    path = written(plugin, body, "base, icmp")
    assert in_network("", f"{path} two.test") == said


@in_a_network
def test_a_version_of_ip_can_be_chosen() -> None:
    two = hosts("::1 two.test", "10.99.0.1 two.test")
    assert in_network(two + SSHD, f"FAMILY=4 {PLUGINS}/check_ssh two.test") == "OK SSH-2.0-x"
    said = in_network(two, f"FAMILY=6 {PLUGINS}/check_ssh two.test")
    assert said == "FAIL connection refused"
    assert in_network(two, f"{PLUGINS}/check_ping6 two.test").startswith("OK alive")


@in_a_network
@pytest.mark.parametrize(
    ("behaviour", "host", "said"),
    [
        ("good", "www.example.com", "OK alive"),
        ("good", "gone.example.com", "FAIL the name gone.example.com does not resolve"),
        # A search list with a wildcard in it makes no other host of a name that is gone.
        ("good", "nas", "OK alive"),
        ("deaf", "www.example.com", "OK alive"),
        ("once", "www.example.com", "OK alive"),
        ("servfail", "www.example.com", "UNKNOWN www.example.com cannot be looked up"),
        ("silent", "www.example.com", "UNKNOWN www.example.com cannot be looked up"),
        ("partly4", "www.example.com", "UNKNOWN www.example.com cannot be looked up"),
        ("partly6", "www.example.com", "UNKNOWN www.example.com cannot be looked up"),
        ("partly4", "gone.example.com", "UNKNOWN gone.example.com cannot be looked up"),
    ],
)
def test_a_name_is_looked_up_once_and_as_it_stands(behaviour: str, host: str, said: str) -> None:
    assert asked(behaviour, f"TIMEOUT=8 {PLUGINS}/check_ping {host}").startswith(said)


@in_a_network
def test_a_name_without_an_address_of_the_version() -> None:
    for command in (f"{PLUGINS}/check_ping6", f"FAMILY=6 PORT=1 {PLUGINS}/check_tcp"):
        said = asked("good", f"{command} www.example.com")
        assert said == "FAIL the name www.example.com does not resolve to an IPv6 address"


def asked(behaviour: str, command: str) -> str:
    """Return what `command` prints while a name server behaves so."""
    server = f"python3 {CHECKOUT}/tests/fake_dns.py /mnt/ready {behaviour} & dns=$!\n"
    ready = "until [ -e /mnt/ready ]; do sleep 0.05; done\n"
    setup = hosts("127.0.0.1 localhost") + server + ready
    return in_network(setup, f"{command}; kill $dns")


@in_a_network
def test_a_node_that_is_gone_is_no_other_machine() -> None:
    """The names of nodes have the same rule: a search list counts for names of one word only."""
    code = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); from dmonitor.config import resolve;"
        " print({name: [str(each) for each in found.addresses] for name, found in"
        " resolve.look_up_all(sys.argv[1:], 5).items()})"
    )
    names = "www.example.com gone.example.com nas localhost"
    said = asked("good", f"python3 -c {shlex.quote(code)} {names}")
    assert ast.literal_eval(said) == {
        "www.example.com": ["10.99.0.2"],
        "gone.example.com": [],
        "nas": ["10.99.0.2"],
        "localhost": ["127.0.0.1"],
    }
