"""The grammar of names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmonitor.base import names

HOSTILE = [
    "", " ", "-oProxyCommand=x", "../../etc", "a/b", "a\nb", "a b", "a\0b", "\N{PILE OF POO}", "ä", "x" * 300, "$(id)", "`id`", ".", "..",
    "a\n", "é.example.com",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_no_grammar_takes_a_hostile_name(name: str) -> None:
    for grammar in (
        names.is_host,
        names.is_node,
        names.is_test,
        names.is_site,
        names.is_address,
        names.is_node_id,
        names.is_parameter,
    ):
        assert not grammar(name), grammar.__name__


@pytest.mark.parametrize(
    ("grammar", "name"),
    [
        (names.is_host, "www.example.com"),
        (names.is_host, "2001:db8::1"),
        (names.is_host, "my_host"),
        (names.is_node, "10.0.0.1"),
        (names.is_node, "::1"),
        (names.is_node, "fe80::1"),
        (names.is_test, "http"),
        (names.is_test, "http:8080"),
        (names.is_test, "http:shop"),
        (names.is_site, "rack-4.hetzner"),
        (names.is_address, "root"),
        (names.is_address, "on-call+dmonitor@mail.example.com"),
        (names.is_node_id, "0123456789abcdef"),
        (names.is_parameter, "PORT"),
    ],
)
def test_ordinary_names_are_taken(grammar: Callable[[str], bool], name: str) -> None:
    assert grammar(name)


@pytest.mark.parametrize(
    "name",
    [
        "${run{x}}@localhost",
        "-f@example.com",
        "a@b@c",
        "a@",
        "@b",
        "|cat",
        '"a b"@c',
        "a@b..c",
        "a@-b",
        "a,b@c",
        "a@[127.0.0.1]",
        "x" * 260,
    ],
)
def test_an_address_that_could_be_an_order_is_none(name: str) -> None:
    assert not names.is_address(name)


def test_node_is_no_host() -> None:
    assert not names.is_host("node")
    assert names.NODE == "node"
    assert names.is_host("node1")


@pytest.mark.parametrize(
    "name", [".hidden", "http~", "http.bak", "http.swp", "http.dpkg-old", ".http.swp"]
)
def test_left_overs_are_passed_over(name: str) -> None:
    assert names.is_ignored_file(name)


def test_ordinary_files_are_not_passed_over() -> None:
    assert not any(
        names.is_ignored_file(name) for name in ("http", "http:8080", "a@b.c", "bak", "dpkg")
    )


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "IFS",
        "LD_PRELOAD",
        "PYTHONPATH",
        "LC_ALL",
        "BASH_ENV",
        "ENV",
        "PERL5LIB",
        "NODE_OPTIONS",
    ],
)
def test_loader_variables_are_known(name: str) -> None:
    assert names.is_loader_variable(name)
    assert not names.is_loader_variable("X" + name)


@given(st.text())
def test_printable_is_one_line_that_can_be_shown(text: str) -> None:
    shown = names.printable(text)
    assert shown.isprintable()
    shown.encode()


def test_printable_escapes_and_cuts() -> None:
    assert names.printable("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert names.printable("ä") == "ä"
    assert names.printable("x" * 1000, 10) == "x" * 10 + "…"


UNSEEN = [
    "\u034f", "\u115f", "\u1160", "\u17b4", "\u17b5", *map(chr, range(0x180B, 0x1810)), "\u2800", "\u3164",
    *map(chr, range(0xFE00, 0xFE10)), "\uffa0", *map(chr, range(0xE0100, 0xE01F0)),
]  # fmt: skip


def test_what_nobody_sees_is_escaped() -> None:
    for character in UNSEEN:
        assert names.escaped(f"a{character}b") == f"a{ascii(character)[1:-1]}b"
        assert names.printable(character).isascii()


def test_letters_and_marks_that_are_seen_stay() -> None:
    """An accent of its own, Hebrew and Arabic, what lies beside the ranges, and an emoji."""
    for text in (
        "e\u0301",
        "\u05d0\u05b0",
        "\u0627\u064e",
        "\u0350\u1161\u17b6\u2801\u3165\ufe20\uffa1\U0001f4a9",
    ):
        assert names.escaped(text) == text


@pytest.mark.parametrize("interface", ["eth0", "br-lan", "eth0.5", "veth_1"])
def test_a_link_local_address_names_its_interface(interface: str) -> None:
    assert names.read_ip_address(f"fe80::1%{interface}") == f"fe80::1%{interface}"


@pytest.mark.parametrize(
    "interface", ["", "-a", ".", "a/b", "a b", "a%b", "a\n", "sixteen_letters_"]
)
def test_what_is_no_interface(interface: str) -> None:
    assert not names.is_ip_address(f"fe80::1%{interface}")
