"""Who is who in nodes.txt, and names that do not resolve or hang."""

from __future__ import annotations

import ipaddress
import socket
import time
from typing import Any

import pytest

from dmonitor.config import cluster, resolve
from dmonitor.config.settings import Settings
from dmonitor.core.model import Node


@pytest.fixture(autouse=True)
def localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the name localhost resolve, which a minimal system may not know."""
    real = resolve.look_up
    known = resolve.Lookup((ipaddress.ip_address("127.0.0.1"),), "")
    monkeypatch.setattr(
        resolve, "look_up", lambda name: known if name == "localhost" else real(name)
    )


def listening(*addresses: str) -> Settings:
    return Settings(listen=addresses)


def nodes(*names: str) -> list[Node]:
    return [Node(name, name) for name in names]


def test_nodes_on_one_machine_are_told_apart_by_listen() -> None:
    around = cluster.resolve_cluster(
        nodes("127.0.0.11", "127.0.0.12", "127.0.0.13"), listening("127.0.0.12"), {}
    )
    assert around.me.name == "127.0.0.12" and around.listed
    assert [peer.node.name for peer in around.peers] == ["127.0.0.11", "127.0.0.13"]
    assert {address for (address,) in around.addresses.values()} == {
        "127.0.0.11",
        "127.0.0.12",
        "127.0.0.13",
    }


def test_a_name_for_loopback_is_this_machine() -> None:
    """Debian's /etc/hosts has the own name at 127.0.1.1."""
    around = cluster.resolve_cluster(nodes("192.0.2.1", "127.0.1.1", "localhost"), listening(), {})
    assert around.me.name == "127.0.1.1"
    assert [peer.node.name for peer in around.peers] == ["192.0.2.1"]


def test_not_listed() -> None:
    around = cluster.resolve_cluster(nodes("192.0.2.1"), listening(), {})
    assert not around.listed and around.me.name == socket.gethostname() == around.me.site


def test_an_address_of_ours_is_recognised_without_a_packet() -> None:
    assert resolve.is_local(ipaddress.ip_address("127.0.0.1"))
    assert not resolve.is_local(ipaddress.ip_address("192.0.2.1"))
    assert not resolve.is_local(ipaddress.ip_address("2001:db8::1"))


def test_addresses_are_normal() -> None:
    assert str(resolve.parse_address("::ffff:10.0.0.1")) == "10.0.0.1"
    assert str(resolve.parse_address("fe80::1%eth0")) == "fe80::1"
    assert resolve.parse_address("2001:DB8:0::1") == resolve.parse_address("2001:db8::1")
    with pytest.raises(ValueError):
        resolve.parse_address("localhost")


def test_one_bad_name_hurts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def slow(name: str, *arguments: Any, **named: Any) -> object:
        if name == "hangs.example":
            time.sleep(2)
        if name.endswith(".example"):
            raise socket.gaierror(-2, "Name or service not known")
        return real(name, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    began = time.monotonic()
    found = resolve.look_up_all(["hangs.example", "gone.example", "localhost", "192.0.2.7"], 0.5)
    assert time.monotonic() - began < 1.8
    assert found["hangs.example"] == ((), "no answer from the resolver within 0.5 s")
    assert found["gone.example"] == ((), "Name or service not known")
    assert found["localhost"] == ((ipaddress.ip_address("127.0.0.1"),), "")
    assert found["192.0.2.7"] == ((ipaddress.ip_address("192.0.2.7"),), "")


def test_the_last_good_addresses_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cluster.resolve_cluster(nodes("localhost", "127.0.0.12"), listening("127.0.0.12"), {})
    monkeypatch.setattr(resolve, "look_up", lambda name: resolve.Lookup((), "the resolver is away"))
    after = cluster.resolve_cluster(
        nodes("localhost", "127.0.0.12", "new"), listening("127.0.0.12"), before.addresses
    )
    assert after.me == before.me
    assert after.peers[0] == before.peers[0]
    assert after.peers[1] == cluster.Peer(
        Node("new", "new"), (), "its name does not resolve: the resolver is away"
    )


def test_an_own_line_is_known_by_the_host_name_too() -> None:
    around = cluster.resolve_cluster(
        [Node(socket.gethostname(), "here"), Node("192.0.2.1", "there")],
        listening("127.0.0.77"),
        {},
    )
    assert around.me == Node(socket.gethostname(), "here") and len(around.peers) == 1


def test_a_node_that_is_not_listed_among_sites_is_of_none() -> None:
    assert cluster.resolve_cluster([Node("192.0.2.1", "paris")], listening(), {}).me.site == ""


def test_the_setting_name_says_which_line_is_ours() -> None:
    """A machine behind NAT finds neither its address nor, maybe, its host name in the list."""
    lines = nodes("192.0.2.1", "localhost", "192.0.2.2")
    around = cluster.resolve_cluster(lines, Settings(name="192.0.2.2"), {})
    assert (
        around.me.name == "192.0.2.2"
        and around.listed
        and around.my_names == {"192.0.2.2", "localhost"}
    )
    assert [peer.node.name for peer in around.peers] == ["192.0.2.1"]
    assert cluster.resolve_cluster(lines[:1], Settings(name="192.0.2.2"), {}).my_names == {
        "192.0.2.2"
    }, "not listed, and called so"


def test_of_a_name_with_very_many_addresses_some_count(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [(2, 1, 6, "", (f"10.0.{number // 250}.{number % 250}", 0)) for number in range(1500)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: many)
    found, _ = resolve.look_up("crowd.example.com")
    assert len(found) == resolve.ADDRESS_LIMIT
