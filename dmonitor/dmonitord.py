"""The program dmonitord: options, user, port, lock, detaching, signals; what it answers is `server`'s.

A start that fails says so on stderr and exits non-zero, also when it detaches: port, id and lock are taken before,
and the last process of the classic start reports through a pipe to the first.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import resource
import selectors
import signal
import socket
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dmonitor import cluster, config, lock, log, program, protocol, state, user
from dmonitor.runner import Runner
from dmonitor.server import Server
from dmonitor.witness import Witness

PROGRAM = "dmonitord"
_DESCRIPTORS = 4096  # python-daemon before 3.0 makes a set of every possible one when it is imported
_BACKLOG = 128
_LOOK_EVERY = 300.0  # seconds between two looks at the nodes' names because of strangers
_LOOK_EVERY_UNRESOLVED = 10.0  # the same, while a name has no address


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    parser = program.parser(PROGRAM, "Answer the peers: what does this node see?")
    parser.add_argument("--foreground", action="store_true", help="do not detach, and log on stderr too")
    chosen = program.parse(parser, arguments)
    log.start(PROGRAM, to_stderr=chosen.verbose or chosen.foreground, verbose=chosen.verbose)
    os.umask(0o027)
    return program.guard(lambda: _start(chosen))


def _start(chosen: Namespace) -> int:
    user.become(chosen.state, chosen.run)
    problems = config.Problems()
    settings = config.load_settings(chosen.config, problems)
    if errors := [problem for problem in problems if problem.severity is config.Severity.ERROR]:
        for problem in errors:
            log.complain(str(problem))
        return os.EX_CONFIG  # a default in place of a mistake could open the port to where it should be closed
    node_id = state.node_id(chosen.state)
    own = lock.Lock(chosen.state, PROGRAM)
    try:
        own.take(patience=0.2)  # longer than anybody looks whether it is taken
    except lock.Busy as error:
        log.complain(f"another one runs already: {error}")
        return os.EX_TEMPFAIL
    listeners = _listen(settings)
    serve = functools.partial(_serve, chosen, settings, node_id, own, listeners)
    return serve() if chosen.foreground else _detach(serve, settings.concurrency, [*listeners, own.fileno()])


def _listen(settings: config.Settings) -> list[socket.socket]:
    """Bind the addresses of the setting `listen`, or every one of both families."""
    listeners = []
    for address in settings.listen or ("0.0.0.0", "::"):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            listener = socket.create_server((address, settings.port), family=family, backlog=_BACKLOG)
        except OSError as error:
            if address == "::" and not settings.listen and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                continue  # a machine without IPv6
            raise OSError(error.errno, os.strerror(error.errno or 0), f"{address} port {settings.port}") from None
        listener.setblocking(False)
        listeners.append(listener)
    return listeners


def _detach(serve: Callable[[io.FileIO], int], concurrency: int, kept: Sequence[socket.socket | int]) -> int:
    """Leave a daemon behind that will SERVE and has KEPT open what it needs; return once it does, or has failed to."""
    report, reporting = os.pipe()
    reporter = io.FileIO(reporting, "wb")
    first = os.fork()
    if first:
        reporter.close()
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
        wanted = max(_DESCRIPTORS, 4 * concurrency)
        limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        import daemon

        context = daemon.DaemonContext(
            detach_process=True,
            working_directory="/",
            umask=0o027,
            initgroups=False,  # root was given up before the port was bound
            signal_map={},  # `_serve` has its own handlers
            files_preserve=[*kept, reporter],
        )
        context.open()
        log.restart()
        status = serve(reporter)
    except Exception as error:  # noqa: BLE001 - whatever it is, the first process is told
        log.error("start-failed", reason=repr(error))
        if not reporter.closed:
            reporter.write(str(error).encode())
    finally:
        os._exit(status)


def _serve(
    chosen: Namespace,
    settings: config.Settings,
    node_id: str,
    own: lock.Lock,
    listeners: Sequence[socket.socket],
    reporter: io.FileIO | None = None,
) -> int:
    """Answer until SIGTERM; return 0."""
    own.state()
    selector = selectors.DefaultSelector()
    with _signals(selector) as caught:
        runner = Runner(selector, settings.concurrency)
        door = _Door(selector, chosen.config, settings)
        greeting = protocol.Greeting(door.around.me.name, node_id, own.run)
        facts = Witness(selector, runner, chosen.config, chosen.state, chosen.run, greeting, settings, door.peer)
        server = Server(selector, listeners, greeting, facts, settings.concurrency, door.knock)
        door.open(server)
        if reporter:
            reporter.write(b"ready")
            reporter.close()
        log.info("started", name=greeting.name, id=node_id, port=settings.port, peers=len(door.around.peers))
        while signal.SIGTERM not in caught:
            pauses = [pause for pause in (server.pause(), facts.pause()) if pause is not None]
            for key, _ in selector.select(min(pauses, default=None)):
                key.data()
            facts.tick()
            server.tick()
            if signal.SIGHUP in caught:
                caught.discard(signal.SIGHUP)
                door.look()
        server.close()
        runner.close()
        log.info("stopped")
        own.release()
    return os.EX_OK


class _Door:
    """Who is let in: the addresses of the nodes, looked up again when that may help, without anybody waiting for it."""

    def __init__(self, selector: selectors.BaseSelector, directory: Path, settings: config.Settings) -> None:
        self._directory = directory
        self._settings = settings
        self._found, self._finder = socket.socketpair()
        self._thread: threading.Thread | None = None
        self._version = (0, 0, 0)
        self._changed()
        self._again = False  # somebody wanted a look while one was under way
        self._server: Server | None = None
        selector.register(self._found, selectors.EVENT_READ, self._arrived)
        self.around = self._next = self._look_around(None)
        self._looked = time.monotonic()

    def open(self, server: Server) -> None:
        """Let SERVER know who may call, now and whenever that changes."""
        self._server = server
        self._admit()

    def peer(self, name: str) -> cluster.Peer | None:
        """Return the peer NAME; one that is asked for and not known may be new."""
        found = next((peer for peer in self.around.peers if peer.node.name == name), None)
        if not found:
            self.knock()
        return found

    def knock(self) -> None:
        """Look again because a stranger came, if nodes.txt has changed or the last look was a while ago."""
        resolved = all(peer.addresses for peer in self.around.peers)
        if self._changed() or time.monotonic() - self._looked > (_LOOK_EVERY if resolved else _LOOK_EVERY_UNRESOLVED):
            self.look()

    def _changed(self) -> bool:
        """Say whether nodes.txt is another one than when this was last asked."""
        before = self._version
        with contextlib.suppress(OSError):
            status = os.stat(self._directory / "nodes.txt")
            self._version = (status.st_mtime_ns, status.st_ino, status.st_size)
        return self._version != before

    def look(self) -> None:
        """Read nodes.txt and look its names up, in a thread of its own."""
        self._again = self._thread is not None
        if not self._again:
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()

    def _look(self) -> None:
        try:
            self._next = self._look_around(self.around)
        finally:
            self._finder.send(b".")

    def _look_around(self, before: cluster.Cluster | None) -> cluster.Cluster:
        loaded = config.load(self._directory)
        config.log_problems(loaded.problems)
        if before and not loaded.nodes and any(problem.path.name == "nodes.txt" for problem in loaded.problems):
            return before  # an unreadable nodes.txt shuts nobody out
        return cluster.look_around(loaded.nodes, self._settings.listen, before.found if before else {})

    def _arrived(self) -> None:
        self._found.recv(16)
        self._thread = None
        self._looked = time.monotonic()
        self.around = self._next
        self._admit()
        log.info("nodes-read", peers=len(self.around.peers))
        if self._again:
            self.look()

    def _admit(self) -> None:
        for peer in self.around.peers:
            if not peer.addresses:
                log.warning("unresolved", peer=peer.node.name, reason=peer.reason)
        if self._server:
            self._server.admit(address for addresses in self.around.found.values() for address in addresses)


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
