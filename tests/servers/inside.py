"""The half of `matrix` that runs inside the small Debian: its network, its servers, and the cases.

    192.0.2.1  good       every server, where it belongs      .5  blackhole  packets to it get lost
           .2  refused    nothing listens                      .6  gone       no machine has this address
           .3  silent     accepts everything, says nothing     .8  prohibited a router forbids the way
           .4  wrong      another service on every port        .9  the block list's name server
          .10  the name servers that fail: `bad_names.py`
    .100  the node that tests; its names, such as good.test, are those of the name server at .1
    .101 and on: the same node where its own firewall, routes or ports are at fault: `own_faults.py`

`good6.test` and the like are the same by IPv6.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import json
import os
import re
import resource
import select
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import odd_servers
import own_faults

CASES = {
    "good": "good",
    "refused": "refused port",
    "silent": "silent server",
    "blackhole": "packets get lost",
    "gone": "no such machine",
    "wrong": "wrong service",
    "missing": "no such name",
    "searched": "no such name; a search list has all",
    "deaf": "no name server answers",
}
ADDRESSES = {
    "good": 1,
    "refused": 2,
    "silent": 3,
    "wrong": 4,
    "blackhole": 5,
    "gone": 6,
    "prohibited": 8,
    "listed": 4,
}
PORTS = (
    21,
    22,
    25,
    53,
    80,
    110,
    143,
    389,
    443,
    587,
    873,
    993,
    995,
    1883,
    3306,
    5222,
    5432,
    6379,
    9999,
    11211,
)
SLOW = "time.?out|timed out|no answer|no response|unreachable"
ANY: dict[str, tuple[str, str]] = {
    "good": ("OK", ""),
    "refused": ("FAIL", "refused"),
    "silent": ("FAIL", SLOW),
    "blackhole": ("FAIL", SLOW),
    "gone": ("FAIL", "no route to host|unreachable|" + SLOW),
    "wrong": ("FAIL", "."),
    "missing": ("FAIL", "the name missing6?.test does not resolve"),
    "searched": ("FAIL", "the name missing6?.test does not resolve"),
    "deaf": ("UNKNOWN", "cannot be looked up: "),
}


@dataclass
class Tested:
    """A test that is tried in every case. Its results are those of `ANY`, unless `otherwise` has others; None skips a case."""

    name: str
    parameters: str = ""
    otherwise: dict[str, tuple[str, str] | None] = field(default_factory=dict)
    six: bool = False
    note: str = ""


@dataclass
class More:
    """A test HOST/NAME that is tried once, with its parameters."""

    host: str
    name: str
    parameters: str
    outcome: str
    text: str
    servers: str = ""  # what /etc/resolv.conf says, if not the name server at .1


SEARCHED = "search wild.test\nnameserver 192.0.2.1\n"
SERVERS = {"deaf": "nameserver 192.0.2.3\n", "searched": SEARCHED}  # of cases
HOSTS = {"deaf": "good", "searched": "missing"}  # of cases that are not called like their host
ICMP = {
    "refused": ("FAIL", "^(no route to host|permission denied), says "),
    "silent": ("FAIL", "^no answer$"),
    "wrong": None,
}
DATAGRAMS = {
    "refused": ("FAIL", "refused|no answer|no response"),
    "wrong": ("FAIL", "no answer|offset unknown"),
}
TESTS = [
    Tested("ping", otherwise=dict(ICMP)),
    Tested("ping6", otherwise=dict(ICMP), six=True),
    Tested("ssh"),
    Tested("http"),
    Tested("https"),
    Tested("cert"),
    Tested("smtp"),
    Tested("submission"),
    Tested("imap"),
    Tested("imaps"),
    Tested("pop3"),
    Tested("pop3s"),
    Tested("ftp"),
    Tested("dns", otherwise=dict(DATAGRAMS)),
    Tested("ntp", otherwise=dict(DATAGRAMS)),
    Tested("ldap"),
    Tested("mysql"),
    Tested("postgres"),
    Tested("redis"),
    Tested("memcached"),
    Tested("rsync"),
    Tested("tcp:9999", otherwise={"silent": ("OK", ""), "wrong": ("OK", "")}),
    Tested("mqtt"),
    Tested("xmpp"),
    Tested(
        "dnsbl",
        "LISTS=bl.test\n",
        otherwise=dict.fromkeys(("refused", "silent", "blackhole", "gone", "wrong")),
    ),
    Tested(
        "domain",
        "URL=http://192.0.2.{}/rdap/\n",
        otherwise={
            "missing": None,
            "searched": None,
            "deaf": None,
            **dict.fromkeys(
                ("refused", "silent", "blackhole", "gone", "wrong"),
                ("UNKNOWN", "does not say|no answer"),
            ),
        },
    ),
]
PORT_OF = {"tcp": "PORT=9999"}
ODD = "http://good.test:8090"
MORE = [
    More(
        "good.test", "http:missing", "URL=http://good.test/missing", "FAIL", "^404 in .* error: 404"
    ),
    More("good.test", "http:text", "EXPECT=everything is well", "OK", "^200 in"),
    More(
        "good.test",
        "http:notext",
        "EXPECT=all is lost",
        "FAIL",
        "the page does not contain: all is lost",
    ),
    More("good.test", "http:8080", "", "FAIL", "refused"),
    More("good.test", "http:moved", "URL=http://good.test/moved", "OK", "^200 in"),
    More("good.test", "http:round", "URL=http://good.test/round", "FAIL", "Maximum .5. redirects"),
    More("good.test", "http:ftp", "URL=http://good.test/ftp", "FAIL", "ftp:, which is not http$"),
    More(
        "good.test", "https:plain80", "URL=https://good.test/plain", "FAIL", "from https to http$"
    ),
    More(
        "good.test", "http:password", "URL=http://a:b@good.test/", "UNKNOWN", "would get the pass"
    ),
    More("good.test", "mysql:login", "PASSWORD=secret", "OK", "lets dmonitor in"),
    More("good.test", "mysql:wrong", "PASSWORD=wrong", "OK", "refuses this login"),
    More("good.test", "mqtt:password", "PASSWORD=secret", "UNKNOWN", "would get PASSWORD"),
    More("2001:db8::1", "http", "", "OK", "^200 in"),
    More("good.test", "http:asked", "URL=http://good.test/?filter[a]=b&c={d", "OK", "^200 in"),
    More("good.test", "http:brackets", "URL=http://refused.test/?filter[a]=b", "FAIL", "refused"),
    More("good.test", "http:option", "URL=--version", "FAIL|UNKNOWN", "."),
    More("good.test", "http:noscheme", "URL=good.test/?u=http://missing.test/", "OK", "^200 in"),
    More("good.test", "http:badcert", "URL=https://192.0.2.1/", "FAIL", "subject name"),
    More("broken.test", "http", "", "UNKNOWN", "cannot be looked up"),
    More(
        "good.test",
        "http:norefuser",
        "",
        "UNKNOWN",
        "cannot be looked up: ",
        "nameserver 192.0.2.2\n",
    ),
    More(
        "good.test",
        "http:noserver",
        "",
        "UNKNOWN",
        "cannot be looked up: ",
        "nameserver 192.0.2.6\n",
    ),
    More(
        "missing.test",
        "http:second",
        "",
        "FAIL",
        "does not resolve",
        "nameserver 192.0.2.3\nnameserver 192.0.2.1\n",
    ),
    More(
        "good.test",
        "http:secondgood",
        "",
        "OK",
        "^200 in",
        "nameserver 192.0.2.3\nnameserver 192.0.2.1\n",
    ),
    More("203.0.113.1", "http", "", "UNKNOWN", "this node has no way to it: .*unreachable"),
    More("203.0.113.1", "ssh", "", "UNKNOWN", "this node has no way to it: .*unreachable"),
    *(
        More("203.0.113.1", name, "", "UNKNOWN", "this node has no way to it: ")
        for name in ("cert", "ntp", "dns", "ping", "redis")
    ),
    More("dual.test", "http", "", "FAIL", "Connection refused$"),
    More("dual.test", "ssh", "", "FAIL", "refused|this node has no way to some of its addresses"),
    More("dual.test", "ping6", "", "UNKNOWN", "this node has no way to it: .*unreachable"),
    More("192.0.2.300", "ping", "", "UNKNOWN", "^192.0.2.300 is no address$"),
    More(
        "good.test",
        "http:typo",
        "URL=http:/good.test/",
        "UNKNOWN",
        "^URL is not SCHEME://HOST/PATH$",
    ),
    More("good.test", "https:noscheme", "URL=good.test:8443/", "OK", "^200 in"),
    More("good.test", "https:plain", "URL=good.test:80/", "FAIL", "SSL|TLS|wrong version"),
    More("good.test", "https:8443", "", "OK", "^200 in"),
    More("good.test", "https:9443", "", "FAIL", "certificate"),
    More("192.0.2.1", "https", "", "FAIL", "subject name|alternative"),
    More("good.test", "cert:8443", "", "FAIL", "^the certificate ends in [89] days, on "),
    More(
        "good.test",
        "cert:soon",
        "PORT=8443\nDAYS=7",
        "OK",
        "^the certificate ends in [89] days, on ",
    ),
    More("good.test", "cert:8444", "", "FAIL", "^the certificate ended on .*, [23] days ago"),
    More(
        "good.test",
        "cert:mail",
        "PORT=25\nSTARTTLS=smtp",
        "OK",
        "^the certificate ends in [0-9]+ days",
    ),
    More("good.test", "cert:8445", "", "FAIL", "^no TLS: .*unrecognized name"),
    More("192.0.2.1", "cert:8445", "", "OK", "^the certificate ends in [0-9]+ days"),
    More("good.test", "submission:1587", "", "FAIL", "^it says: 454 "),
    More(
        "good.test",
        "cert:nonsense",
        "STARTTLS=nonsense",
        "UNKNOWN",
        "^STARTTLS=nonsense is none of smtp, imap",
    ),
    More("good.test", "imap:who", "EXPECT=Dovecot", "OK", r"Dovecot (\(Debian\) )?ready"),
    More("good.test", "imap:other", "EXPECT=Cyrus", "FAIL", "."),
    More("good.test", "imap:bye", "PORT=1143\nEXPECT=Dovecot", "FAIL", "BYE"),
    More("good.test", "pop3s:who", "EXPECT=Dovecot", "OK", r"Dovecot (\(Debian\) )?ready"),
    More("good.test", "ftp:who", "EXPECT=vsFTPd", "OK", "^220 .*vsFTPd"),
    More("good.test", "ftp:full", "PORT=1121\nEXPECT=vsFTPd", "FAIL", "421"),
    More("good.test", "dns:name", "NAME=good.test", "OK", "^it answers: good.test is 192.0.2.1$"),
    More("good.test", "dns:address", "NAME=good.test\nEXPECT=192.0.2.1", "OK", "192.0.2.1"),
    More(
        "good.test",
        "dns:moved",
        "NAME=good.test\nEXPECT=192.0.2.77",
        "FAIL",
        "^good.test is 192.0.2.1, not 192.0.2.77$",
    ),
    More("good.test", "dns:six", "NAME=good6.test\nEXPECT=2001:db8::1", "OK", "2001:db8::1"),
    More(
        "good.test", "dns:only6", "NAME=good6.test", "OK", "^it answers: good6.test is 2001:db8::1$"
    ),
    More(
        "good.test", "dns:sixlong", "NAME=good6.test\nEXPECT=2001:DB8:0:0::1", "OK", "2001:db8::1"
    ),
    More("good.test", "dns:unsure", "EXPECT=192.0.2.1", "UNKNOWN", "there is no NAME"),
    More("good.test", "dns:option", "NAME=-h", "FAIL", "NXDOMAIN|no address|not a legal"),
    More("good.test", "dns:none", "NAME=missing.test", "FAIL", "^NXDOMAIN for missing.test$"),
    More("good.test", "redis:6380", "", "OK", "NOAUTH"),
    More("good.test", "rsync:module", "MODULE=files/", "OK", ""),
    More("good.test", "rsync:none", "MODULE=none/", "FAIL", "unknown module"),
    More("good.test", "mqtt:none", "TOPIC=nothing/here\nTIMEOUT=2", "FAIL", "."),
    More("good.test", "tcp", "", "UNKNOWN", "^which port\\?"),
    More("good.test", "tcp:ssh", "PORT=22\nEXPECT=SSH-2.0", "OK", "."),
    More("good.test", "tcp:nossh", "PORT=22\nEXPECT=SSH-1.0", "FAIL", "."),
    More("silent.test", "ssh:quick", "TIMEOUT=2", "FAIL", "2 seconds|within 2"),
    More(
        "listed.test",
        "dnsbl",
        "LISTS=bl.test",
        "FAIL",
        "^192.0.2.4 is listed by bl.test \\(127.0.0.2\\)",
    ),
    More("good.test", "dnsbl:refusing", "LISTS=refusing.test", "UNKNOWN", "127.255.255.254"),
    More(
        "short.test",
        "domain",
        "URL=http://192.0.2.1/rdap/",
        "FAIL",
        "^the registration ends in (8|9) days",
    ),
    More(
        "silentry.test",
        "domain",
        "URL=http://192.0.2.1/rdap/",
        "UNKNOWN",
        "the registry does not say when it ends",
    ),
    More("other.test", "domain", "URL=http://192.0.2.1/rdap/", "FAIL", "does not know this domain"),
    # What the host does wrong is FAIL, whatever the tool says of it.
    *(
        More("good.test", f"http:to-{name}", f"URL={ODD}/to?{target}", "FAIL", text)
        for name, target, text in (
            ("htps", "htps://good.test/", "htps"),
            ("nohost", "http:///", "."),
            ("port", "http://good.test:99999/", "."),
            ("mailto", "mailto:x", "mailto"),
            ("missing", "http://missing.test/", "missing.test"),
        )
    ),
    More("good.test", "http:status-99", f"URL={ODD}/status/99", "FAIL", "."),
    More("good.test", "http:status-0", f"URL={ODD}/status/0", "FAIL", "."),
    More("good.test", "http:status-1000", f"URL={ODD}/status/1000", "FAIL", "."),
    More("good.test", "http:headers", f"URL={ODD}/headers", "FAIL|OK", "."),
    More("good.test", "http:header", f"URL={ODD}/header", "FAIL", "."),
    More("good.test", "https:odd", "PORT=8090", "FAIL", "."),
    More("good.test", "rsync:version", "PORT=8731", "FAIL", "."),
    More("good.test", "rsync:hangs-up", "PORT=8732", "FAIL", "."),
    More("good.test", "rsync:full", "PORT=8733", "FAIL", "max connections reached"),
    More("good.test", "rsync:garbage", "PORT=8734", "FAIL", "."),
    More("good.test", "mysql:full", "PORT=3308", "FAIL", "Too many connections"),
    # A redirect that this node cannot follow is its own matter.
    More("good.test", "http:to-nowhere", f"URL={ODD}/to?http://203.0.113.1/", "UNKNOWN", "."),
    More(
        "good.test", "http:to-broken", f"URL={ODD}/to?http://broken.test/", "UNKNOWN", "broken.test"
    ),
    # What is right, and a tool takes for wrong.
    More("good.test", "ssh:banner", "PORT=2201", "OK", "."),
    More("good.test", "ssh:parts", "PORT=2202", "OK", "."),
    More("good.test", "imaps:sni", "PORT=2993", "OK", "."),
    More("good.test", "pop3s:sni", "PORT=2995", "OK", "."),
    More("good.test", "submission:sni", "PORT=2587", "OK", "."),
    More("good.test", "submission:small", "PORT=2588", "OK", "."),
    More("good.test", "http:cookie", f"URL={ODD}/cookie", "OK", "^200 in"),
    More("good.test", "http:gzip", f"URL={ODD}/gzip\nEXPECT=everything is well", "OK", "^200 in"),
    More(
        "good.test", "http:latin1", f"URL={ODD}/latin1\nEXPECT=everything is well", "OK", "^200 in"
    ),
    More("good.test", "http:endless", f"URL={ODD}/endless\nEXPECT=all is lost", "FAIL", "."),
    More("good.test", "mysql:elsewhere", "PORT=3307", "OK", "not allowed|not in"),
    More("good.test", "cert:old-tls", "PORT=8446", "OK", "^the certificate ends in [0-9]+ days"),
    More("good.test.", "cert", "", "OK", "^the certificate ends in [0-9]+ days"),
    More("good.test.", "https", "", "OK", "^200 in"),
    More("good.test", "cert:notyet", "PORT=8447", "FAIL", "not valid|not yet"),
    More("good.test", "https:notyet", "PORT=8447", "FAIL", "not yet valid|not valid yet"),
    More("good.test", "cert:chain", "PORT=8448", "FAIL", "ends in [45] days"),
    More("good.test", "dnsbl:odd", "LISTS=odd.test", "UNKNOWN", "127.0.0.1"),
    More("good.test", "dns:idn", "NAME=bücher.test\nEXPECT=192.0.2.1", "UNKNOWN", "xn--"),
    More("good.test", "dns:ace", "NAME=xn--bcher-kva.test\nEXPECT=192.0.2.1", "OK", "192.0.2.1"),
    More("good.test", "dns:notidn", "NAME=xn--0.test\nEXPECT=192.0.2.1", "OK", "192.0.2.1"),
    *(More("two.test", f"ping:n{number}", "", "OK", ".") for number in range(4)),
    *(
        More(
            "half.test",
            f"{name}:v{family}",
            f"FAMILY={family}\n{PORT_OF.get(name, '')}",
            outcome,
            ".",
        )
        for name in ("ping", "http", "ssh", "smtp", "tcp", "redis")
        for family, outcome in ((4, "OK"), (6, "FAIL"))
    ),
]
# Eleven of the monitoring plugins, each a plugin of one line; HOST and what is in the test's file are theirs to use.
M = 'exec /usr/libexec/dmonitor/wrap -h "$1" monitoring-plugins-standard '
WRAPPED = {
    "disk": "exec /usr/libexec/dmonitor/wrap monitoring-plugins-basic check_disk -w 1% -c \"${LEFT:-0%}\" -p /",
    "load": "exec /usr/libexec/dmonitor/wrap monitoring-plugins-basic check_load -w \"${MAX:-9000}\" -c \"${MAX:-9000}\"",
    "procs": "exec /usr/libexec/dmonitor/wrap monitoring-plugins-basic check_procs -c 1:1000 -C \"${NAME:-nginx}\"",
    "age": "exec /usr/libexec/dmonitor/wrap monitoring-plugins-basic check_file_age -c 3600 -f \"$FILE\"",
    "users": "exec /usr/libexec/dmonitor/wrap monitoring-plugins-basic check_users ${OPTIONS:--w 50 -c 60}",
    "dig": M + "check_dig -t 8 -H \"$1\" -l \"$NAME\"",
    "lookup": M + "check_dns -t 8 -s \"$1\" -H \"$NAME\"",
    "pgsql": M + "check_pgsql -t 8 -H \"$1\" -l dmonitor -p \"$PASSWORD\" -d postgres",
    "mysqlq": M + "check_mysql -H \"$1\" -u dmonitor -p \"$PASSWORD\"",
    "nntp": M + "check_tcp -t 8 -H \"$1\" -p \"$PORT\" -e 220 -M crit",
    "web": M + "check_http -t 8 -I \"$1\" -u \"$URL\" -e 200",
}  # fmt: skip
BY_WRAP = [
    More("good.test", "disk", "", "OK", "DISK OK"),
    More("good.test", "disk:full", "LEFT=101%", "FAIL", "DISK CRITICAL"),
    More("good.test", "load", "", "OK", "load"),
    More("good.test", "load:high", "MAX=0", "FAIL", "load"),
    More("good.test", "procs", "", "OK", "PROCS OK"),
    More("good.test", "procs:none", "NAME=no-such-program", "FAIL", "PROCS CRITICAL: 0 processes"),
    More("good.test", "age", "FILE=/opt/matrix/new", "OK", "FILE_AGE OK"),
    More("good.test", "age:old", "FILE=/opt/matrix/old", "FAIL", "FILE_AGE CRITICAL"),
    More("good.test", "users", "", "OK", "USERS OK"),
    More("good.test", "users:usage", "OPTIONS=--nonsense", "UNKNOWN", "."),
    More("good.test", "dig", "NAME=good.test", "OK", "DNS OK"),
    More("good.test", "dig:none", "NAME=missing.test", "FAIL", "DNS (CRITICAL|WARNING)"),
    More("good.test", "lookup", "NAME=good.test", "OK", "DNS OK"),
    More("good.test", "lookup:none", "NAME=missing.test", "FAIL", "not found|NXDOMAIN|CRITICAL"),
    More("good.test", "pgsql", "PASSWORD=secret", "OK", "OK - database postgres"),
    More("good.test", "pgsql:wrong", "PASSWORD=wrong", "FAIL", "password|CRITICAL"),
    More("good.test", "mysqlq", "PASSWORD=secret", "OK", "Uptime"),
    More("good.test", "mysqlq:wrong", "PASSWORD=wrong", "FAIL", "Access denied"),
    More("good.test", "nntp:25", "", "OK", "TCP OK"),
    More("good.test", "nntp:22", "", "FAIL", "."),
    More("good.test", "web", "URL=/", "OK", "HTTP OK"),
    More("good.test", "web:none", "URL=/missing", "FAIL", "404"),
]

CONFIG = Path("/etc/dmonitor")
HERE = Path("/opt/matrix")
MEGABYTES = 200  # that a plugin, and all that it starts, may have
_children: list[subprocess.Popen[bytes]] = []


def sh(code: str, *arguments: str) -> str:
    return subprocess.run(
        ["sh", "-ec", code, "sh", *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def network() -> None:
    sh("""
        hostname good.test
        ip link set lo up
        # A bridge without an address of its own takes another one with each port, and forgets its neighbours.
        ip link add br0 address 02:00:00:00:00:64 type bridge forward_delay 0
        ip link set br0 up
        ip addr add 192.0.2.100/24 dev br0
        ip addr add 2001:db8::100/64 dev br0 nodad
        for space in good rest; do
            ip netns add $space
            ip link add to-$space type veth peer name eth0 netns $space
            ip link set to-$space master br0 up
            ip -n $space link set lo up
            ip -n $space link set eth0 up
        done
        for last in 1 9; do ip -n good addr add 192.0.2.$last/24 dev eth0; ip -n good addr add 2001:db8::$last/64 dev eth0 nodad; done
        for last in 2 3 4; do ip -n rest addr add 192.0.2.$last/24 dev eth0; ip -n rest addr add 2001:db8::$last/64 dev eth0 nodad; done
        ip neigh add 192.0.2.5 lladdr 02:00:00:00:00:99 dev br0 nud permanent
        ip neigh add 2001:db8::5 lladdr 02:00:00:00:00:99 dev br0 nud permanent
        # What pings the machine without services gets no answer, and what goes through it is turned back.
        ip netns exec rest sh -c 'cd /proc/sys/net; echo 1 >ipv4/icmp_echo_ignore_all; echo 1 >ipv6/icmp/echo_ignore_all
            echo 1 >ipv4/ip_forward; echo 1 >ipv6/conf/all/forwarding'
        ip -n rest route add prohibit 192.0.2.8
        ip route add 192.0.2.8 via 192.0.2.4
        ip -n rest -6 route add prohibit 2001:db8::8
        ip -6 route add 2001:db8::8 via 2001:db8::4
    """)


def zone() -> str:
    lines = [
        "$TTL 60",
        "@ SOA ns.test. root.test. 1 60 60 60 60",
        "@ NS ns.test.",
        "ns.test. A 192.0.2.1",
    ]
    for name, last in ADDRESSES.items():
        lines += [f"{name}.test. A 192.0.2.{last}", f"{name}6.test. AAAA 2001:db8::{last}"]
    lines += [
        "broken.test. NS ns.broken.test.",
        "ns.broken.test. A 192.0.2.2",
    ]  # whose own name server refuses
    lines += [
        "dual.test. A 192.0.2.2",
        "dual.test. AAAA 2001:db9::1",
    ]  # there is no way to the second
    lines += ["half.test. A 192.0.2.1", "half.test. AAAA 2001:db8::5"]  # packets to it get lost
    lines += ["two.test. A 192.0.2.6", "two.test. A 192.0.2.1"]
    lines += ["*.wild.test. A 192.0.2.1", "*.wild.test. AAAA 2001:db8::1"]
    lines += ["xn--bcher-kva.test. A 192.0.2.1", "xn--0.test. A 192.0.2.1"]
    for name in ("bl", "refusing", "odd"):
        lines += [f"{name}.test. NS ns.{name}.test.", f"ns.{name}.test. A 192.0.2.9"]
    return "\n".join(lines) + "\n"


def certificates() -> None:
    """Make an authority that this machine trusts, and certificates for good.test: for 90 days, for 9, and one that ended."""
    sh(
        """cd /opt/matrix
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 100 -subj /CN=matrix 2>&1
        cat ca.crt >>/etc/ssl/certs/ca-certificates.crt
        openssl req -newkey rsa:2048 -nodes -keyout good.key -out good.csr -subj /CN=good.test 2>&1
        printf 'subjectAltName=DNS:good.test\\n' >san
        openssl x509 -req -in good.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 90 -extfile san -out good.crt 2>&1
        openssl x509 -req -in good.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 9 -extfile san -out soon.crt 2>&1
        mkdir -p demo && : >demo/index && echo 01 >demo/serial
        openssl ca -batch -config ended.conf -in good.csr -out ended.crt -notext -extfile san \
            -startdate "$(date -u -d '-30 days' +%Y%m%d%H%M%SZ)" -enddate "$(date -u -d '-3 days' +%Y%m%d%H%M%SZ)" 2>&1
        openssl ca -batch -config ended.conf -in good.csr -out notyet.crt -notext -extfile san \
            -startdate "$(date -u -d '3 days' +%Y%m%d%H%M%SZ)" -enddate "$(date -u -d '90 days' +%Y%m%d%H%M%SZ)" 2>&1
        # An authority between, which ends before what it has signed.
        openssl req -newkey rsa:2048 -nodes -keyout between.key -out between.csr -subj /CN=between 2>&1
        printf 'basicConstraints=critical,CA:true\\n' >authority
        openssl x509 -req -in between.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 5 -extfile authority -out between.crt 2>&1
        openssl x509 -req -in good.csr -CA between.crt -CAkey between.key -CAcreateserial -days 90 -extfile san -out leaf.crt 2>&1
        cat leaf.crt between.crt >chain.crt"""
    )


def files() -> None:
    days = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 9.5 * 86400))
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 300 * 86400))
    event = '{{"notices": [{{"description": ["Terms:\\nnone"]}}], "events": [{{"eventAction": "registration", "eventDate": "2001-01-01T00:00:00Z"}}{}]}}'
    expiration = ', {{"eventAction": "expiration", "eventDate": "{}"}}'
    tls = "ssl_certificate /opt/matrix/{}.crt; ssl_certificate_key /opt/matrix/good.key;"
    written = {
        "ended.conf": """
            [ca]
            default_ca = it
            [it]
            database = /opt/matrix/demo/index
            serial = /opt/matrix/demo/serial
            new_certs_dir = /opt/matrix/demo
            certificate = /opt/matrix/ca.crt
            private_key = /opt/matrix/ca.key
            default_md = sha256
            policy = any
            unique_subject = no
            [any]
            commonName = supplied
            """,
        "zone": zone(),
        "named.conf": """
            options { directory "/opt/matrix"; listen-on { 192.0.2.1; }; listen-on-v6 { none; }; recursion yes; allow-recursion { any; };
                allow-query { any; }; dnssec-validation no; pid-file none; session-keyfile none; };
            controls { };
            zone "." { type master; file "/opt/matrix/zone"; };
            """,
        "wrong-named.conf": """
            options { directory "/opt/matrix"; listen-on port 123 { 192.0.2.4; }; listen-on-v6 { none; }; recursion no;
                dnssec-validation no; pid-file none; session-keyfile none; };
            controls { };
            """,
        "bl": ":127.0.0.2:listed for a test\n192.0.2.4\n",
        "odd": ":127.0.0.1:nothing that a list may say\n192.0.2.0/24\n",
        "refusing": ":127.255.255.254:refused\n192.0.2.0/24\n",
        "nginx.conf": f"""
            events {{ }}
            pid /run/nginx-matrix.pid;
            error_log /var/log/nginx-matrix.log;
            http {{
                access_log off;
                server {{
                    listen 80; listen [::]:80; listen 9999;
                    listen 443 ssl; {tls.format("good")}
                    root /opt/matrix/www;
                    location /moved {{ return 302 /; }}
                    location /round {{ return 302 /round; }}
                    location /plain {{ return 302 http://good.test/; }}
                    location /ftp {{ return 302 ftp://good.test/; }}
                }}
                server {{ listen 8443 ssl; {tls.format("soon")} root /opt/matrix/www; }}
                server {{ listen 8444 ssl; {tls.format("ended")} root /opt/matrix/www; }}
                server {{ listen 8447 ssl; {tls.format("notyet")} root /opt/matrix/www; }}
                server {{ listen 8448 ssl; {tls.format("chain")} root /opt/matrix/www; }}
                server {{ listen 9443 ssl; ssl_certificate /etc/ssl/certs/ssl-cert-snakeoil.pem;
                    ssl_certificate_key /etc/ssl/private/ssl-cert-snakeoil.key; root /opt/matrix/www; }}
            }}
            """,
        "www/index.html": "<html>\n<p>Here everything is well.\n</html>\n",
        "www/rdap/good.test": event.format(expiration.format(later)),
        "www/rdap/short.test": event.format(expiration.format(days)),
        "www/rdap/silentry.test": event.format(""),
        "chrony.conf": "local stratum 3\nallow\nbindaddress 192.0.2.1\ncmdport 0\npidfile /run/chrony-good.pid\nbindcmdaddress /\n",
        "wrong-chrony.conf": "local stratum 3\nallow\nport 53\nbindaddress 192.0.2.4\ncmdport 0\npidfile /run/chrony-wrong.pid\nbindcmdaddress /\n",
        "rsyncd.conf": "use chroot = no\n[files]\npath = /opt/matrix/www\ncomment = what is served\n",
        "mosquitto.conf": "listener 1883\nallow_anonymous true\n",
        "prosody.cfg.lua": """
            run_as_root = true
            pidfile = "/run/prosody-matrix.pid"
            modules_enabled = { "c2s"; "saslauth"; }
            interfaces = { "192.0.2.1" }
            authentication = "internal_hashed"
            allow_unencrypted_plain_auth = false
            c2s_require_encryption = false
            log = { info = "/var/log/prosody-matrix.log" }
            data_path = "/opt/matrix/prosody"
            VirtualHost "good.test"
            """,
        "redis-password.conf": "bind 0.0.0.0\nport 6380\nrequirepass secret\nsave ''\n",
        "vsftpd.conf": "listen=YES\nlisten_ipv6=NO\nbackground=NO\n",
        "wrong-vsftpd.conf": "listen=YES\nlisten_ipv6=NO\nbackground=NO\nlisten_address=192.0.2.4\nlisten_port=22\n",
        "new": "", "old": "",
    }  # fmt: skip
    key = "HostKey /etc/ssh/ssh_host_ed25519_key\nPidFile none\n"
    for number in (0, 1):  # sshd listens at 16 places at the most
        places = [f"ListenAddress 192.0.2.4:{port}\n" for port in PORTS[number::2] if port != 22]
        written[f"wrong-sshd-{number}.conf"] = key + "".join(places)
    for name, content in written.items():
        path = HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(content).lstrip())
    os.utime(HERE / "old", (0, 0))
    (HERE / "prosody").mkdir()
    Path("/etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    Path("/etc/hosts").write_text("127.0.0.1 localhost\n")


def silent() -> None:
    """Accept everything at .3, and say nothing. Never return."""
    waiting: list[socket.socket] = []
    for family, address in ((socket.AF_INET, "192.0.2.3"), (socket.AF_INET6, "2001:db8::3")):
        for port in PORTS:
            listener = socket.create_server((address, port), family=family, backlog=100)
            waiting.append(listener)
        for port in (53, 123):
            datagrams = socket.socket(family, socket.SOCK_DGRAM)
            datagrams.bind((address, port))
            waiting.append(datagrams)
    accepted = []
    while True:
        for ready in select.select(waiting, [], [])[0]:
            if ready.type == socket.SOCK_STREAM:
                accepted.append(ready.accept()[0])
            else:
                ready.recv(65535)


def refusing() -> None:
    """Greet like servers that have no room, or that cannot read their key. Never return."""
    greetings = {
        1143: [b"* BYE Dovecot: too many connections\r\n"],
        1121: [b"421 vsFTPd: there are too many connections\r\n"],
        1587: [
            b"220 good.test ESMTP\r\n",
            b"250-good.test\r\n250 STARTTLS\r\n",
            b"454 4.7.0 TLS not available\r\n",
        ],
    }
    listeners = {
        socket.create_server(("192.0.2.1", port)): greeting for port, greeting in greetings.items()
    }
    while True:
        for ready in select.select(list(listeners), [], [])[0]:
            with contextlib.suppress(OSError), ready.accept()[0] as caller:
                caller.settimeout(1)
                for said in listeners[ready]:
                    caller.sendall(said)
                    caller.recv(100)


def start(space: str, command: str) -> None:
    log = open(f"/var/log/matrix-{space}-{len(_children)}.log", "wb")  # noqa: SIM115 - the server's
    log.write(command.encode() + b"\n")
    log.flush()
    prefix = ["ip", "netns", "exec", space, "sh", "-c", "exec " + command]
    _children.append(
        subprocess.Popen(
            prefix, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    )


def servers() -> None:
    sh("""
        ssh-keygen -q -A
        mkdir -p /run/sshd /run/mysqld /run/slapd /run/vsftpd/empty /run/postgresql /run/dovecot /run/named /run/chrony
        chown mysql /run/mysqld; chown openldap /run/slapd; chown postgres /run/postgresql
        postconf -e 'inet_interfaces = all' 'inet_protocols = ipv4' myhostname=good.test mydestination=good.test maillog_file=/var/log/postfix.log \\
            smtpd_tls_cert_file=/etc/ssl/certs/ssl-cert-snakeoil.pem smtpd_tls_key_file=/etc/ssl/private/ssl-cert-snakeoil.key \\
            smtpd_tls_security_level=may compatibility_level=3.6
        postconf -M 'submission/inet=submission inet n - n - - smtpd'
        postconf -P 'submission/inet/smtpd_tls_security_level=encrypt'
        cp /etc/resolv.conf /etc/hosts /etc/services /var/spool/postfix/etc/ 2>/dev/null || :
    """)
    postgres = Path(sh("ls -d /usr/lib/postgresql/*")).name
    data, settings = f"/var/lib/postgresql/{postgres}/main", f"/etc/postgresql/{postgres}/main"
    with open(f"{settings}/pg_hba.conf", "a") as file:
        file.write("host all dmonitor 192.0.2.0/24 scram-sha-256\n")
    start("good", "named -f -c /opt/matrix/named.conf")
    start(
        "good",
        "rbldnsd -n -u nobody -b 192.0.2.9/53 bl.test:ip4set:/opt/matrix/bl refusing.test:ip4set:/opt/matrix/refusing"
        " odd.test:ip4set:/opt/matrix/odd",
    )
    start("good", "python3 -B /opt/matrix/inside.py --refusing")
    # Many connections from one address are not what sshd is used to, and 12's knows no penalties.
    patient = "-o MaxStartups=1000"
    with contextlib.suppress(subprocess.CalledProcessError):
        sh("sshd -T -o PerSourcePenalties=no >/dev/null")
        patient += " -o PerSourcePenalties=no"
    start("good", f"/usr/sbin/sshd -D -e {patient}")
    start("good", "nginx -c /opt/matrix/nginx.conf -g 'daemon off;'")
    start("good", "openssl s_server -quiet -www -accept 8445 -cert /opt/matrix/good.crt -key /opt/matrix/good.key"
                  " -servername other.test -servername_fatal -cert2 /opt/matrix/good.crt -key2 /opt/matrix/good.key")  # fmt: skip
    start("good", "openssl s_server -quiet -www -accept 8446 -tls1 -cipher DEFAULT:@SECLEVEL=0 -cert /opt/matrix/good.crt"
                  " -key /opt/matrix/good.key")  # fmt: skip
    start("good", "python3 -B /opt/matrix/odd_servers.py 192.0.2.1 /opt/matrix")
    start("good", "postfix start-fg")
    start("good", "dovecot -F")
    start("good", "vsftpd /opt/matrix/vsftpd.conf")
    start("good", "chronyd -4 -x -d -u root -f /opt/matrix/chrony.conf")
    start("good", "slapd -h ldap:/// -F /etc/ldap/slapd.d -u openldap -g openldap -d 0")
    start("good", "mariadbd --user=mysql --bind-address=0.0.0.0 --innodb-buffer-pool-size=16M")
    start("good", f"setpriv --reuid=postgres --regid=postgres --init-groups /usr/lib/postgresql/{postgres}/bin/postgres -D {data}"
                  f" -c config_file={settings}/postgresql.conf -c listen_addresses='*'")  # fmt: skip
    start("good", "redis-server --bind 0.0.0.0 --protected-mode no --save ''")
    start("good", "redis-server /opt/matrix/redis-password.conf")
    start("good", "memcached -u nobody -l 0.0.0.0")
    start("good", "rsync --daemon --no-detach --config=/opt/matrix/rsyncd.conf")
    start("good", "mosquitto -c /opt/matrix/mosquitto.conf")
    start("good", "prosody -F --config /opt/matrix/prosody.cfg.lua")
    start("rest", "python3 -B /opt/matrix/inside.py --silent")
    for number in (0, 1):
        start("rest", f"/usr/sbin/sshd -D -e -f /opt/matrix/wrong-sshd-{number}.conf")
    start("rest", "vsftpd /opt/matrix/wrong-vsftpd.conf")
    start("rest", "chronyd -4 -x -d -u root -f /opt/matrix/wrong-chrony.conf")
    start("rest", "named -f -c /opt/matrix/wrong-named.conf")
    for address, ports in (
        (
            "192.0.2.1",
            (*PORTS, 6380, 8443, 8444, 8446, 8447, 8448, 9443, *odd_servers.ports(str(HERE))),
        ),
        ("192.0.2.3", PORTS),
        ("192.0.2.4", PORTS),
    ):
        for port in ports:
            wait_for(functools.partial(connect, address, port), f"{address}:{port}")
    wait_for(lambda: sh("getent hosts good.test && getent ahostsv4 listed.test"), "the name server")
    wait_for(
        lambda: sh("dig +short +tries=1 +time=1 4.2.0.192.bl.test | grep 127.0.0.2"),
        "the block list",
    )
    wait_for(
        lambda: sh("/usr/lib/nagios/plugins/check_ntp_time -H 192.0.2.1 -t 2 -c 1000 -w 1000"),
        "the time server",
    )
    wait_for(lambda: sh("""
        mariadb -e "create or replace user dmonitor@'%' identified by 'secret'"
        setpriv --reuid=postgres --regid=postgres --init-groups psql -d postgres -c "drop role if exists dmonitor" \\
            -c "create role dmonitor login password 'secret'" """), "the databases")  # fmt: skip


def connect(address: str, port: int) -> None:
    """Connect to a server and leave it; raise OSError if it is not there."""
    socket.create_connection((address, port), 1).close()


def wait_for(attempt: Callable[[], object], what: str, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            attempt()
            return
        except (OSError, subprocess.CalledProcessError) as error:
            if time.monotonic() > deadline:
                logs = sh(
                    "tail -n 5 /var/log/matrix-*.log 2>&1; grep -h . /var/log/postfix.log | tail -n 5; :"
                )
                raise SystemExit(f"{what} did not come up: {error}\n{logs}") from None
            time.sleep(0.2)


@dataclass
class Said:
    outcome: str
    seconds: float
    text: str


def test(host: str, name: str, parameters: str, servers: str = "") -> Said:
    """Touch the test, and run it by `dmonitor-check --test`, with what a round may do."""
    path = CONFIG / "hosts.d" / host / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(parameters)
    command = [*own_faults.DROP, "dmonitor-check", "--test", f"{host}/{name}"]
    if servers:
        resolv = HERE / f"resolv.{host}-{name}"
        resolv.write_text(servers)
        command = [
            "unshare",
            "--mount",
            "sh",
            "-ec",
            'mount --bind "$1" /etc/resolv.conf; shift; exec "$@"',
            "sh",
            str(resolv),
            *command,
        ]
    ran = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    match = re.fullmatch(r"(\w+) +([0-9.]+) s *(.*)\n", ran.stdout)
    if not match or ran.stderr:
        return Said("nothing", 0.0, ran.stdout + ran.stderr)
    return Said(match[1], float(match[2]), match[3])


def fits(said: Said, outcome: str, text: str) -> bool:
    return (
        re.fullmatch(outcome, said.outcome) is not None
        and re.search(text, said.text, re.IGNORECASE) is not None
        and said.seconds < 10.0
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--silent", action="store_true")
    parser.add_argument("--refusing", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    if chosen.silent:
        silent()
    if chosen.refusing:
        refusing()
    network()
    files()
    certificates()
    own_faults.make_users()
    Path("/usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    Path("/usr/sbin/policy-rc.d").chmod(0o755)
    sh("dpkg -i /opt/matrix/dmonitor.deb")
    for plugin in Path("/usr/share/doc/dmonitor/examples/plugins").iterdir():
        shutil.copy(plugin, CONFIG / "plugins")
    for name, code in WRAPPED.items():
        path = CONFIG / "plugins" / f"check_{name}"
        path.write_text(f"#!/bin/sh\n{code}\n")
        path.chmod(0o755)
    try:
        servers()
        own_faults.make_spaces(sh, start, wait_for)
        return play(chosen.only, chosen.quick)
    finally:
        for child in _children:
            child.kill()


def play(only: str, is_quick: bool) -> int:
    """Try everything; print the results, and write them to the file that `matrix` reads."""
    tried: list[tuple[str, str, concurrent.futures.Future[Said], str, str]] = []
    tests = [each for each in TESTS if only in ("", each.name.partition(":")[0])]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        for each in tests:
            tried += try_cases(pool, each)
        for one in (*MORE, *BY_WRAP):
            if only in ("", one.name.partition(":")[0]):
                came = pool.submit(test, one.host, one.name, one.parameters, one.servers)
                parameters = " ".join([*one.parameters.split("\n"), *one.servers.split("\n")])
                title = f"{one.host}/{one.name}"
                tried.append((title, parameters.strip(), came, one.outcome, one.text))
        if only in ("", "ping"):
            came = pool.submit(ping_with_one_id)
            tried.append(("blackhole.test/ping", "beside a ping with its id", came, "FAIL", "."))
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        own = own_faults.OwnFaults(pool, is_quick)
        for each in tests:
            try_own_faults(own, each)
    failed, rows = 0, []
    for name, title, future, outcome, text in tried:
        said = future.result()
        good = fits(said, outcome, text)
        failed += not good
        rows.append([name, title, said.outcome, round(said.seconds, 1), said.text])
        print(
            f"{name:12} {title:24} {said.outcome:8} {said.seconds:5.2f} s  {said.text}"
            + ("" if good else "   <-- WRONG")
        )
    cells = own.cells()
    failed += judge_own_faults(own, cells)
    failed += judge_memory()
    own_rows = [[cell.test, cell.fault.title, str(cell)] for cell in cells]
    (HERE / "results.json").write_text(json.dumps({"cases": rows, "own": own_rows}))
    print(f"{len(rows) + len(cells) - failed} passed, {failed} failed")
    return 1 if failed else 0


def try_cases(
    pool: concurrent.futures.Executor, each: Tested
) -> list[tuple[str, str, concurrent.futures.Future[Said], str, str]]:
    """Begin to try a test in each case."""
    tried = []
    for case, title in CASES.items():
        expected = each.otherwise.get(case, ANY[case])
        if expected is None:
            continue
        host = HOSTS.get(case, case) + ("6" if each.six else "") + ".test"
        name = each.name
        if case == "refused" and name.startswith("ping"):
            host = host.replace("refused", "prohibited")
        if name == "domain":  # which asks another host than its own
            host, name = "good.test", f"domain:{case}"
        parameters = each.parameters.format(ADDRESSES.get(case, 1))
        came = pool.submit(test, host, name, parameters, SERVERS.get(case, ""))
        tried.append((each.name, title, came, *expected))
    return tried


def try_own_faults(own: own_faults.OwnFaults, each: Tested) -> None:
    """Begin to try a test of a healthy host in each fault of this node."""
    plugin, _, port = each.name.partition(":")
    parameters = each.parameters.format(ADDRESSES["good"])
    if port:
        parameters += f"PORT={port}\n"
    host = "good6.test" if each.six else "good.test"
    own.try_all(each.name, CONFIG / "plugins" / f"check_{plugin}", host, parameters)


def judge_own_faults(own: own_faults.OwnFaults, cells: Sequence[own_faults.Cell]) -> int:
    """Print what came of this node's own faults; return how much of it is wrong."""
    failed = 0
    for cell in cells:
        failed += bool(cell.wrong)
        texts = [run.text for run in cell.wrong] or [run.text for run in cell.runs]
        wrong = f"   <-- WRONG, {len(cell.wrong)} of {len(cell.runs)}" if cell.wrong else ""
        print(f"{cell.test:12} {cell.fault.title:42} {cell}: {texts[0]}{wrong}")
    for title in own.unproved():
        failed += 1
        print(f"{title}: that fault was not there   <-- WRONG")
    return failed


def ping_with_one_id() -> Said:
    """Ping a host that is dead, and one that is not, by programs with the same process id; return what is said of the dead one.

    Two namespaces of processes make the ids the same. The dead one is pinged three times.
    """
    plugin = str(CONFIG / "plugins/check_ping")
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}

    def ping(host: str) -> subprocess.Popen[str]:
        command = ["unshare", "--pid", "--fork", "--kill-child", plugin, host]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    began = time.monotonic()
    worst = Said("nothing", 0.0, "")
    dead = [ping("blackhole.test") for _ in range(3)]
    while any(process.poll() is None for process in dead):
        ping("good.test").communicate()
    for process in dead:
        word, _, text = process.communicate()[0].strip().partition(" ")
        if worst.outcome in ("nothing", "FAIL"):
            worst = Said(word, time.monotonic() - began, text)
    return worst


def judge_memory() -> int:
    """Print how much memory the largest of all programs had; return whether that is too much."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    is_wrong = peak > MEGABYTES
    print(f"no program had more than {peak} MB" + ("   <-- WRONG" if is_wrong else ""))
    return int(is_wrong)


if __name__ == "__main__":
    sys.exit(main())
