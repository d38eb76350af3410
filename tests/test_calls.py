"""The help that tests have for calling a daemon."""

from __future__ import annotations

import socket
from pathlib import Path

import calls


def test_a_free_port_stays_free_until_it_is_bound() -> None:
    """Linux has no such port for others: not for a connection, nor where port 0 is bound."""
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    ports = [calls.free_port() for _ in range(1000)]
    assert max(ports) < int(first)
    assert len(set(ports)) == len(ports), "no two of one process are the same"


def test_a_port_that_is_taken_at_one_address_is_not_free() -> None:
    with socket.create_server(("127.0.0.77", calls.free_port())) as listener:
        taken = listener.getsockname()[1]
        calls._candidates, kept = iter([taken, calls.free_port()]), calls._candidates
        try:
            assert calls.free_port() != taken
        finally:
            calls._candidates = kept
