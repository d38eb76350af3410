"""The program dmonitord: options, user, port, lock, detaching, signals; what it answers is `server`'s.

A start that fails says so on stderr and exits non-zero, also when it detaches: port, id and lock are taken before,
and the last process of the classic start reports through a pipe to the first.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import socket
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence

from dmonitor import cluster, config, lock, log, options, protocol, resolve, state, user
from dmonitor.runner import Runner
from dmonitor.server import Server

PROGRAM = "dmonitord"
_DESCRIPTORS = 4096  # python-daemon before 3.0 makes a set of every possible one when it is imported
_BACKLOG = 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    parser = options.parser(PROGRAM, "Answer the peers: what does this node see?")
    parser.add_argument("--foreground", action="store_true", help="do not detach, and log on stderr too")
    chosen = parser.parse_args(arguments)
    log.start(PROGRAM, to_stderr=chosen.verbose or chosen.foreground, verbose=chosen.verbose)
    os.umask(0o027)
    try:
        user.become(chosen.state)
        settings = config.load(chosen.config).settings
        node_id = state.node_id(chosen.state)
        own = lock.Lock(chosen.state, PROGRAM)
        own.take()
        listeners = _listen(settings)
    except user.NoUser as error:
        log.complain(f"unable to give up root: {error}")
        return os.EX_NOUSER
    except lock.Busy as error:
        log.complain(f"another one runs: {error}")
        return os.EX_TEMPFAIL
    except (state.StateError, OSError) as error:
        log.complain(f"unable to start: {error}")
        return os.EX_TEMPFAIL
    if chosen.foreground:
        return _serve(chosen, settings, node_id, own, listeners)
    return _detach(chosen, settings, node_id, own, listeners)


def _listen(settings: config.Settings) -> list[socket.socket]:
    """Bind the addresses of the setting `listen`, or every one of both families."""
    wildcards = () if settings.listen else ("0.0.0.0", "::")
    listeners: list[socket.socket] = []
    for address in settings.listen or wildcards:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            listener = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            if address in wildcards:
                continue  # a machine without this family
            raise
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setblocking(False)
        try:
            listener.bind((address, settings.port))
            listener.listen(_BACKLOG)
        except OSError as error:
            if address == "::" and address in wildcards and listeners:
                listener.close()
                continue
            raise OSError(error.errno, f"{address} port {settings.port}: {error.strerror}") from None
        listeners.append(listener)
    return listeners


def _detach(chosen: Namespace, settings: config.Settings, node_id: str, own: lock.Lock, listeners: list[socket.socket]) -> int:
    """Leave a daemon behind, and return once it serves, or has failed to."""
    report, reporting = os.pipe()
    first = os.fork()
    if first:
        os.close(reporting)
        os.waitpid(first, 0)
        with open(report, "rb") as pipe:
            said = pipe.read()
        if said == b"ready":
            return os.EX_OK
        log.complain(f"unable to start: {said.decode(errors='replace') or 'the daemon died at once, see syslog'}")
        return os.EX_TEMPFAIL
    status = os.EX_SOFTWARE
    try:
        os.close(report)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        import daemon

        context = daemon.DaemonContext(
            detach_process=True,
            working_directory="/",
            umask=0o027,
            initgroups=False,  # root was given up before the port was bound
            signal_map={},  # `_serve` has its own handlers
            files_preserve=[*listeners, own.fileno(), reporting],
        )
        context.open()
        log.restart()
        status = _serve(chosen, settings, node_id, own, listeners, reporting)
    except Exception as error:  # noqa: BLE001 - whatever it is, the first process is told
        log.error("start-failed", reason=repr(error))
        with contextlib.suppress(OSError):
            os.write(reporting, str(error).encode())
    finally:
        os._exit(status)


def _serve(
    chosen: Namespace,
    settings: config.Settings,
    node_id: str,
    own: lock.Lock,
    listeners: list[socket.socket],
    reporting: int | None = None,
) -> int:
    """Answer until SIGTERM; return 0."""
    own.state()
    selector = selectors.DefaultSelector()
    with _signals(selector) as caught:
        runner = Runner(selector, settings.concurrency)
        nodes = config.load(chosen.config).nodes
        around = cluster.look_around(nodes, settings.listen)
        greeting = protocol.Greeting(around.me.name, node_id)
        server = Server(selector, runner, listeners, chosen.config, greeting, settings.concurrency)
        server.admit(_admitted(around))
        if reporting is not None:
            os.write(reporting, b"ready")
            os.close(reporting)
        log.info("started", name=around.me.name, id=node_id, port=settings.port, peers=len(around.peers))
        while signal.SIGTERM not in caught:
            for key, _ in selector.select(server.pause()):
                key.data()
            server.tick()
            if signal.SIGHUP in caught:
                caught.discard(signal.SIGHUP)
                around = cluster.look_around(config.load(chosen.config).nodes, settings.listen)
                server.admit(_admitted(around))
                log.info("reloaded", peers=len(around.peers))
        server.close()
        runner.close()
        log.info("stopped")
        own.release()
    return os.EX_OK


def _admitted(around: cluster.Cluster) -> list[resolve.Address]:
    for peer in around.peers:
        if not peer.addresses:
            log.warning("unresolved", peer=peer.node.name, reason=peer.reason)
    return around.addresses


@contextlib.contextmanager
def _signals(selector: selectors.BaseSelector) -> Iterator[set[int]]:
    """Collect SIGTERM, SIGINT (as SIGTERM) and SIGHUP, and wake SELECTOR's loop when one comes."""
    caught: set[int] = set()
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    selector.register(woken, selectors.EVENT_READ, lambda: os.read(woken, 4096))
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: caught.add(signal.SIGTERM))
    signal.signal(signal.SIGINT, lambda *_: caught.add(signal.SIGTERM))
    signal.signal(signal.SIGHUP, lambda *_: caught.add(signal.SIGHUP))
    yield caught


if __name__ == "__main__":
    sys.exit(main())
