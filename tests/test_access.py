"""Who is let in: looked up again when that may help, kept when it cannot be found out."""

from __future__ import annotations

import dataclasses
import selectors
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_nodes import wait_until

from dmonitor.base import clock
from dmonitor.config import resolve
from dmonitor.config.settings import Settings
from dmonitor.net import access, protocol
from dmonitor.net.access import Access

Found = dict[str, resolve.Lookup]


def addresses(*texts: str) -> resolve.Lookup:
    reason = "" if texts else "no such name"
    return resolve.Lookup(tuple(map(resolve.parse_address, texts)), reason)


@dataclasses.dataclass
class House:
    """A directory with nodes.txt, a resolver, a clock, and the loop of a daemon."""

    directory: Path
    selector: selectors.BaseSelector
    known: Found
    looked: int = 0
    later: float = 0.0
    made: list[Access] = dataclasses.field(default_factory=list)

    def nodes(self, *names: str) -> None:
        (self.directory / "nodes.txt").write_text("".join(f"{name}\n" for name in names))

    def access(self, last: dict[str, list[str]] | None = None) -> Access:
        settings = Settings(listen=("127.0.0.1",))
        self.made.append(
            Access(self.selector, str(self.directory), settings, "1d1d", "run1", last or {})
        )
        return self.made[-1]

    def settle(self, made: Access, condition: Callable[[], object] = lambda: True) -> None:
        """Do what is ready until no look is under way and CONDITION holds."""

        def is_so() -> bool:
            for key, _ in self.selector.select(0):
                key.data()
            return made._thread is None and bool(condition())

        wait_until(is_so)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    with selectors.DefaultSelector() as selector:
        made = House(
            tmp_path,
            selector,
            {"127.0.0.1": addresses("127.0.0.1"), "paris": addresses("192.0.2.1")},
        )

        def look_up_all(names: Iterator[str], _: float) -> Found:
            made.looked += 1
            return {name: made.known.get(name, addresses()) for name in names}

        monkeypatch.setattr(resolve, "look_up_all", look_up_all)
        real = clock.uptime
        monkeypatch.setattr(clock, "uptime", lambda: real() + made.later)
        made.nodes("127.0.0.1", "paris")
        yield made
        for each in made.made:
            each._found.close()
            each._finder.close()


def test_a_caller_is_tried_as_the_nodes_at_its_address_only_and_as_few(house: House) -> None:
    """The work for a hello is bounded, whatever names resolve to."""
    names = [f"n{number}" for number in range(20)]
    house.nodes("127.0.0.1", "paris", *names)
    house.known.update((name, addresses("192.0.2.2")) for name in names)
    keys = {name: f"{name:x<40}" for name in ("127.0.0.1", "paris", *names)}
    lines = [f"{name} {key}\n" for name, key in keys.items()]
    (house.directory / "key").write_text("".join(lines))
    (house.directory / "key").chmod(0o640)
    made = house.access()
    assert made.callers("192.0.2.1") == {keys["paris"].encode(): ["paris"]}
    assert made.callers("127.0.0.1") == {keys["127.0.0.1"].encode(): ["127.0.0.1"]}
    assert list(made.callers("192.0.2.2").values()) == [[name] for name in names[:8]]
    assert made.callers("192.0.2.3") == {} and made.key_fault("192.0.2.3")
    (house.directory / "key").write_text("".join(lines[1:]))
    made.refresh_if_due()
    assert made.callers("127.0.0.1") == {}
    assert made.key_fault("127.0.0.1").startswith("no line for 127.0.0.1 in ")
    (house.directory / "key").write_text("k" * 32)
    made.refresh_if_due()
    assert list(made.callers("192.0.2.2").values()) == [names[:8]]


def test_names_are_looked_up_again_when_somebody_comes_after_five_minutes(house: House) -> None:
    made = house.access()
    assert made.admitted == {"127.0.0.1", "192.0.2.1"} and made.names == {"127.0.0.1"}
    house.known["paris"] = addresses("192.0.2.9", "2001:db8::9")
    house.later = 299
    for _ in range(3):
        made.refresh_if_due()
    house.settle(made)
    assert house.looked == 1
    house.later = 301
    for _ in range(3):
        made.refresh_if_due()
    house.settle(made, lambda: "192.0.2.9" in made.admitted)
    assert house.looked == 2 and made.admitted == {"127.0.0.1", "192.0.2.9", "2001:db8::9"}


def test_a_name_that_does_not_resolve_any_more_keeps_its_addresses(house: House) -> None:
    made = house.access()
    del house.known["paris"]
    house.later = 301
    made.refresh_if_due()
    house.settle(made, lambda: house.looked == 2)
    assert "192.0.2.1" in made.admitted


def test_a_name_without_an_address_is_looked_up_sooner(house: House) -> None:
    house.nodes("127.0.0.1", "paris", "rome")
    made = house.access()
    assert [peer.addresses for peer in made.cluster.peers if peer.node.name == "rome"] == [()]
    house.known["rome"] = addresses("192.0.2.3")
    house.later = 11
    made.refresh_if_due()
    house.settle(made, lambda: "192.0.2.3" in made.admitted)


def test_nodes_txt_that_changes_counts_when_somebody_comes_and_one_that_is_gone_shuts_nobody_out(
    house: House,
) -> None:
    made = house.access()
    house.nodes("127.0.0.1", "paris", "::ffff:192.0.2.7", "fe80::1%eth0")
    house.known |= {"::ffff:192.0.2.7": resolve.look_up("::ffff:192.0.2.7")}
    made.refresh_if_due()
    house.settle(made, lambda: "192.0.2.7" in made.admitted)
    (house.directory / "nodes.txt").unlink()
    made.refresh_if_due()
    house.settle(made)
    assert {"127.0.0.1", "192.0.2.1", "192.0.2.7"} <= made.admitted


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:DB8::1", "2001:db8::1"),
    ],
)
def test_an_address_has_one_form(said: str, address: str) -> None:
    assert str(resolve.parse_address(said)) == address


def test_a_mapped_caller_is_the_one_that_is_listed(house: House) -> None:
    """A listener for both families sees IPv4 callers in IPv6 clothes."""
    listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    with listening as listener, socket.create_connection(("127.0.0.1", listener.getsockname()[1])):
        connection, source = listener.accept()
        connection.close()
    assert source[0] == "::ffff:127.0.0.1"
    assert str(resolve.parse_address(source[0])) in house.access().admitted


def test_who_comes_with_a_change_of_nodes_txt_is_judged_by_it(house: House) -> None:
    house.nodes()
    made = house.access()
    heard: list[tuple[str, bool]] = []

    def judge(address: str) -> None:
        made.judge(address, lambda is_node: heard.append((address, is_node)))

    assert made.greeting.name == socket.gethostname() and made.greeting.node_id == "1d1d"
    house.nodes("127.0.0.1", "paris")
    for address in ("192.0.2.1", "192.0.2.66"):
        judge(address)
    assert not heard
    house.settle(made, lambda: heard)
    assert heard == [("192.0.2.1", True), ("192.0.2.66", False)]
    assert made.greeting == protocol.Greeting("127.0.0.1", "1d1d", "run1")


def test_a_stranger_waits_for_a_look_after_ten_seconds(house: House) -> None:
    """It may be a node whose name has another address since the last look."""
    made = house.access()
    house.known["paris"] = addresses("192.0.2.9")
    heard: list[bool] = []
    house.later = 9
    made.judge("192.0.2.9", heard.append)
    assert heard == [False] and house.looked == 1
    house.later = 11
    made.judge("192.0.2.1", heard.append)
    assert heard == [False, True] and house.looked == 1, "a node's call is no reason to look"
    made.judge("192.0.2.9", heard.append)
    house.settle(made, lambda: len(heard) == 3)
    assert heard[2] and house.looked == 2


def test_a_look_that_finds_nothing_new_is_not_logged(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    house.nodes("127.0.0.1", "paris", "rome", "one two three")
    house.known["paris"] = addresses("192.0.2.1", "192.0.2.2")
    made = house.access()
    logged = capsys.readouterr().err
    assert "unresolved peer=rome" in logged and "misconfigured" in logged
    for look, found in enumerate([("192.0.2.2", "192.0.2.1"), ("192.0.2.1", "192.0.2.2")], 2):
        house.known["paris"] = addresses(*found)
        house.known["rome"] = resolve.Lookup((), f"reason {look}")
        house.later += 301
        made.refresh_if_due()
        house.settle(made, lambda look=look: house.looked == look)  # type: ignore[misc]
    assert capsys.readouterr().err == ""
    house.known["rome"] = addresses("192.0.2.3")
    house.later += 301
    made.refresh_if_due()
    house.settle(made, lambda: "192.0.2.3" in made.admitted)
    assert "nodes-read name=127.0.0.1 peers=2" in capsys.readouterr().err


def test_a_stranger_is_told_at_once_where_no_look_is_due_or_too_many_wait(house: House) -> None:
    made = house.access()
    heard: list[bool] = []
    made.judge("192.0.2.66", heard.append)
    assert heard == [False]
    house.later = 11
    for _ in range(access._WAITING_LIMIT + 1):
        made.judge("192.0.2.66", heard.append)
    assert heard == [False, False]
    made.judge("192.0.2.1", heard.append)
    assert heard[2:] == [True]
    house.settle(made, lambda: len(heard) == access._WAITING_LIMIT + 3)
    assert not any(heard[3:])


@pytest.mark.parametrize("is_remembered", [True, False])
def test_a_peer_that_is_led_to_this_node_stays_a_peer(
    is_remembered: bool, house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever forges its name would have it shut out, and nobody would witness that it is gone."""
    forged = addresses("127.0.0.1")
    if is_remembered:
        house.known["paris"] = forged
        made = house.access({"paris": ["192.0.2.1"], "127.0.0.1": ["127.0.0.1"]})
    else:
        made = house.access()
        house.known["paris"] = forged
        house.later = 301
        made.refresh_if_due()
        house.settle(made, lambda: house.looked == 2)
    assert made.names == {"127.0.0.1"} and "192.0.2.1" in made.admitted
    assert [peer.node.name for peer in made.cluster.peers] == ["paris"]
    assert "diverted-peer peer=paris reason=" in capsys.readouterr().err
