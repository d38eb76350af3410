"""Find out which key each peer has in common with this node, by greeting it (rule R8).

A peer states no key, and nothing that was made from one: it answers in a conversation that only a
holder of the key can have.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable

from dmonitor import observer
from dmonitor.base import cli, log, user
from dmonitor.config import cluster
from dmonitor.config.configuration import Configuration
from dmonitor.core.model import Contact
from dmonitor.operator import keys, reader
from dmonitor.store import lock, state

Greetings = tuple[cluster.Cluster, list[tuple[Contact, float]]]
_REPLY_BYTES = 1_000_000  # that the process of the other user may say


def greet(options: cli.Options, configuration: Configuration) -> Greetings:
    """Greet every peer; return the nodes, and for each peer the contact and the seconds."""
    own_incarnation = functools.partial(lock.holder, options.state, "dmonitord")
    node_id, _, _ = state.peek(options.state, options.run_dir)
    return observer.greet_all(configuration, node_id, own_incarnation)


def keys_in_use(
    options: cli.Options, configuration: Configuration, contacts: Iterable[Contact]
) -> dict[str, str]:
    """Return the fingerprint of the key that this node shares with each of the peers it reached.

    While the keys change, that is the old one for a peer that has not the present one yet.
    """
    found: dict[str, str] = {}
    if configuration.keys is None:
        return found
    reached = {contact.node.name for contact in contacts if contact.statement}
    have_present = reached
    if len(configuration.keys.sets) > 1:
        have_present = _reached_with_present_key(options, configuration)
    for name in reached:
        candidates = configuration.keys.for_peer(name)
        if candidates:
            key = candidates[0] if name in have_present else candidates[-1]
            found[name] = keys.digits(key)
    return found


def _reached_with_present_key(options: cli.Options, configuration: Configuration) -> set[str]:
    """Return the peers that answer if this node has no key but the present one."""
    if configuration.keys is None:
        return set()
    present = configuration.keys._replace(sets=configuration.keys.sets[:1])
    _, greetings = greet(options, configuration._replace(keys=present))
    return {contact.node.name for contact, _ in greetings if contact.statement}


def may_drop(options: cli.Options) -> int:
    """Return 0 if all peers have the present key, else say who has not, and return a status.

    The peers are talked to as the user dmonitor, and this process may be root, which has to remove
    a file afterwards. So another process asks.
    """
    status, lacking = _as_user(lambda: _lacking(options))
    if status or not lacking:
        return status
    log.complain("the old key was not dropped, because not all nodes are known to have the new one")
    for text in lacking:
        log.complain(text)
    log.complain(
        "`dmonitor key drop --force` drops it all the same;"
        " a node that has only the old one cannot talk to this one then"
    )
    return os.EX_TEMPFAIL


def _lacking(options: cli.Options) -> list[str]:
    """Return a line for each peer that is not known to have the present key."""
    configuration = reader.load(options, quiet=True)
    have_present = _reached_with_present_key(options, configuration)
    node_id, _, _ = state.peek(options.state, options.run_dir)
    around, greetings = greet(options, configuration)
    contacts = {contact.node: contact for contact, _ in greetings}
    lacking = []
    for peer in around.peers:
        name = peer.node.name
        contact = contacts.get(peer.node, Contact(peer.node, reason="no greeting in time"))
        if name in have_present or (node_id and contact.node_id == node_id):
            continue
        if contact.statement:
            lacking.append(f"{name} has only the old key; give it the new one: dmonitor key set")
        else:
            lacking.append(f"{name} does not answer: {contact.reason}")
    return lacking


def _as_user(ask: Callable[[], list[str]]) -> tuple[int, list[str]]:
    """Return what `ask` returns in a process that becomes the user dmonitor, and its status.

    If the status is not 0, that process has said why.
    """
    reader_end, writer_end = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader_end)
        os._exit(cli.guard(lambda: _answer(ask, writer_end)))
    os.close(writer_end)
    with open(reader_end, "rb") as pipe:
        reply = pipe.read(_REPLY_BYTES)
    _, wait_status = os.waitpid(pid, 0)
    status = os.waitstatus_to_exitcode(wait_status)
    if status:
        return abs(status), []
    return os.EX_OK, [str(line) for line in json.loads(reply)]


def _answer(ask: Callable[[], list[str]], descriptor: int) -> int:
    user.become()
    with open(descriptor, "w") as pipe:
        json.dump(ask(), pipe)
    return os.EX_OK
