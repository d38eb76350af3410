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
            time.sleep(20)
        if name.endswith(".example"):
            raise socket.gaierror(-2, "Name or service not known")
        return real(name, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    began = time.monotonic()
    found = resolve.look_up_all(["hangs.example", "gone.example", "localhost", "192.0.2.7"], 0.5)
    assert time.monotonic() - began < 8
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


class Names:
    """A resolver whose answers change, and a machine with one address."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mine = "192.0.2.5"
        self.answers: dict[str, str] = {}
        monkeypatch.setattr(resolve, "look_up", self._look_up)
        monkeypatch.setattr(resolve, "is_local", lambda address: str(address) == self.mine)
        monkeypatch.setattr(socket, "gethostname", lambda: "oslo")
        self.known: dict[str, tuple[str, ...]] = {}

    def _look_up(self, name: str) -> resolve.Lookup:
        if name not in self.answers:
            return resolve.Lookup((), "no such name")
        return resolve.Lookup((resolve.parse_address(self.answers[name]),), "")

    def round(self, **answers: str) -> cluster.Cluster:
        """Resolve the names in `answers`, as a round does that remembers the one before."""
        self.answers = {name: address for name, address in answers.items() if address}
        found = cluster.resolve_cluster(nodes(*answers), listening(), self.known)
        self.known = dict(found.addresses)
        return found


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


@pytest.mark.parametrize("me", ["oslo", "mon1"])
def test_a_name_that_is_forged_makes_no_peer_vanish(me: str, resolver: Names) -> None:
    """It stays a peer at its last address, for as long as the answer is forged."""
    for _ in range(2):
        before = resolver.round(**{me: "192.0.2.5", "paris": "192.0.2.1", "rome": "192.0.2.2"})
        assert before.diverted == () and len(before.peers) == 2
    for forged in ("192.0.2.5", "127.0.0.1", "192.0.2.5"):
        found = resolver.round(**{me: "192.0.2.5", "paris": forged, "rome": forged})
        assert found.diverted == ("paris", "rome")
        assert found.me == before.me and found.my_names == {me}
        assert found.peers == before.peers and found.addresses == before.addresses
    resolver.answers["paris"] = "192.0.2.9"
    after = resolver.round(**{me: "192.0.2.5", "paris": "192.0.2.9", "rome": "192.0.2.2"})
    assert after.diverted == () and len(after.peers) == 2


def test_a_second_name_of_this_machine_is_no_peer(resolver: Names) -> None:
    """Neither when it is new, nor when it could not be resolved, nor when the machine moves."""
    resolver.round(oslo="192.0.2.5", paris="192.0.2.1")
    for mon in ("192.0.2.5", "", "192.0.2.5"):
        found = resolver.round(oslo="192.0.2.5", paris="192.0.2.1", mon=mon)
        assert found.my_names == {"oslo", "mon"} and found.diverted == ()
    resolver.mine = "192.0.2.6"
    found = resolver.round(oslo="192.0.2.6", paris="192.0.2.1", mon="192.0.2.6")
    assert found.my_names == {"oslo", "mon"} and found.diverted == ()


def test_a_second_name_that_is_resolved_before_the_network_is_up(resolver: Names) -> None:
    resolver.mine = ""
    early = resolver.round(oslo="192.0.2.5", mon="192.0.2.5", paris="192.0.2.1")
    assert [peer.node.name for peer in early.peers] == ["mon", "paris"]
    resolver.mine = "192.0.2.5"
    found = resolver.round(oslo="192.0.2.5", mon="192.0.2.5", paris="192.0.2.1")
    assert found.my_names == {"oslo", "mon"} and found.diverted == ()


def test_a_machine_with_one_line_may_move(resolver: Names) -> None:
    resolver.round(mon="192.0.2.5", paris="192.0.2.1")
    resolver.mine = "192.0.2.6"
    found = resolver.round(mon="192.0.2.6", paris="192.0.2.1")
    assert found.me.name == "mon" and found.listed and found.diverted == ()


def test_what_is_no_address_is_not_remembered(resolver: Names) -> None:
    resolver.known = {"paris": ("nonsense", "192.0.2.1")}
    (peer,) = resolver.round(oslo="192.0.2.5", paris="").peers
    assert list(map(str, peer.addresses)) == ["192.0.2.1"]


def test_the_host_name_counts_only_where_no_line_has_an_address_of_this_machine(
    resolver: Names,
) -> None:
    """A machine that is called what another node's line is called must look at that node."""
    found = resolver.round(oslo="192.0.2.1", mon1="192.0.2.5", paris="192.0.2.2")
    assert found.me.name == "mon1" and found.my_names == {"mon1"}
    assert [peer.node.name for peer in found.peers] == ["oslo", "paris"]
    assert found.diverted == ()
    resolver.mine = ""
    found = resolver.round(oslo="192.0.2.1", mon1="192.0.2.5", paris="192.0.2.2")
    assert found.me.name == "oslo", "behind a translation of addresses there is only the name"


def test_the_host_name_does_not_count_beside_the_setting_name(resolver: Names) -> None:
    resolver.answers = {"oslo": "192.0.2.1", "mon1": "192.0.2.6"}
    found = cluster.resolve_cluster(nodes("oslo", "mon1"), Settings(name="mon1"), {})
    assert found.my_names == {"mon1"}
    assert [peer.node.name for peer in found.peers] == ["oslo"]


def test_a_name_that_is_forged_where_only_the_host_name_tells_the_own_line(resolver: Names) -> None:
    resolver.round(oslo="198.51.100.1", paris="192.0.2.1")
    found = resolver.round(oslo="198.51.100.1", paris="192.0.2.5")
    assert found.diverted == ("paris",) and found.me.name == "oslo" and found.my_names == {"oslo"}
    assert [peer.node.name for peer in found.peers] == ["paris"]
