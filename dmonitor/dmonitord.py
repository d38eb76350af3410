"""The program dmonitord: its options, user, port, lock, detaching, signals and loop.

What it answers is decided by `net.server` and `facts`. A start that fails says so on stderr and
exits non-zero, also when the daemon detaches: port, id and lock are taken before, and the last
process of the classic start reports to the first through a pipe.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import pwd
import resource
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from dmonitor.base import cli, log, user
from dmonitor.config.keyfile import load_keys
from dmonitor.config.problems import Problems, Severity
from dmonitor.config.settings import Settings, load_settings
from dmonitor.execution.runner import Runner
from dmonitor.facts import NodeFacts, last_addresses
from dmonitor.net.access import Access
from dmonitor.net.server import Server
from dmonitor.store import doorbell, identity, lock

if TYPE_CHECKING:
    import argparse

PROGRAM = "dmonitord"
LOCK_SECONDS = 0.2  # to take the lock: longer than anybody looks whether it is taken
_EVERY_ADDRESS = ("0.0.0.0", "::")
_LISTENS = "0A"  # the state of a listening socket in /proc/net/tcp
_BACKLOG = 128  # connections that wait to be accepted
# At least so many descriptors may be open. python-daemon before 3.0 makes a set of every possible
# descriptor when it is imported, so the limit must not be higher than needed.
_DESCRIPTORS = 4096
_UMASK = 0o027
# Seconds after which a thread that makes a long reply lets the loop go on, which may have a
# question to answer. Python's own are 5 ms, and the loop needs several turns for one answer.
_SWITCH_SECONDS = 0.001


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    chosen = _Chosen()
    cli.parse(_parser, chosen, arguments)
    # If systemd reads stderr, each line is in the journal already, by way of syslog.
    is_double = "JOURNAL_STREAM" in os.environ and not log.is_lost()
    is_read = chosen.foreground and not is_double
    log.start(PROGRAM, to_stderr=chosen.verbose or is_read, verbose=chosen.verbose)
    os.umask(_UMASK)
    return cli.guard(lambda: _start(chosen))


class _Chosen(cli.Options):
    foreground = False


def _parser() -> argparse.ArgumentParser:
    from dmonitor.base import options

    parser = options.make_parser(PROGRAM, "Answer the peers: what does this node see?")
    parser.add_argument(
        "--foreground", action="store_true", help="do not detach, and log on stderr too"
    )
    return parser


def _start(chosen: _Chosen) -> int:
    """Take user, id, lock and port, then serve; return the exit status."""
    user.become(chosen.state, chosen.run_dir)
    settings = _load_settings(chosen.config)
    if settings is None:
        return os.EX_CONFIG
    node_id = identity.make(chosen.state)
    daemon_lock = lock.Lock(chosen.state, PROGRAM)
    try:
        daemon_lock.take(patience=LOCK_SECONDS)
    except lock.Busy as error:
        log.complain(f"another one runs already: {error}")
        return os.EX_TEMPFAIL
    listeners = _listen(settings)
    serve = functools.partial(_serve, chosen, settings, node_id, daemon_lock, listeners)
    if chosen.foreground:
        return serve()
    return _detach(serve, settings.concurrency, [*listeners, daemon_lock.fileno()])


def _load_settings(directory: str) -> Settings | None:
    """Return the settings in `directory`; say what is wrong and return None if they are.

    The default in place of a wrong setting, or of a wrong key, could open the port where, or to
    whom, it should be closed.
    """
    problems = Problems()
    settings = load_settings(directory, problems)
    is_wrong = any(problem.severity is Severity.ERROR for problem in problems)
    keys = load_keys(directory, problems)
    if not is_wrong and (keys is None or keys.are_usable):
        return settings
    for problem in problems:
        log.complain(str(problem))
    return None


def _listen(settings: Settings) -> list[socket.socket]:
    """Bind the addresses of the setting `listen`, or every address of both families.

    Raise OSError if that fails, unless the machine has no IPv6 and `listen` does not ask for it.
    """
    listeners = []
    for address in settings.listen or _EVERY_ADDRESS:
        family = socket.AF_INET
        if ":" in address:
            family = socket.AF_INET6
        target = (address, settings.port)
        try:
            listener = socket.create_server(target, family=family, backlog=_BACKLOG)
        except OSError as error:
            is_optional = address == "::" and not settings.listen
            if is_optional and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                continue
            text = os.strerror(error.errno or 0)
            if error.errno == errno.EADDRINUSE:
                text += "".join(f" by {holder}" for holder in _holders_of(settings.port)[:1])
            where = f"{address} port {settings.port}"
            raise OSError(error.errno, text, where) from None
        listener.setblocking(False)
        listeners.append(listener)
    return listeners


def _holders_of(port: int) -> list[str]:
    """Return the users that listen on `port`, as far as the kernel shows them."""
    holders = []
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(path) as file:
            for line in file.readlines()[1:]:
                fields = line.split()
                local_port = int(fields[1].rpartition(":")[2], 16)
                if local_port == port and fields[3] == _LISTENS:
                    holders.append(_name_of(int(fields[7])))
    return holders


def _name_of(uid: int) -> str:
    """Return the name of the user `uid`, if it has one, and the number."""
    try:
        return f"the user {pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"the uid {uid}"


def _detach(
    serve: Callable[[io.FileIO], int], concurrency: int, preserved: Sequence[socket.socket | int]
) -> int:
    """Start a daemon that will `serve`; return once it does, or has failed to.

    The daemon keeps the descriptors of `preserved` open, and closes all others.
    """
    report, reporting = os.pipe()
    reporter = io.FileIO(reporting, "wb")
    first = os.fork()
    if first:
        reporter.close()
        os.waitpid(first, 0)
        return _await_report(report)
    status = os.EX_SOFTWARE
    try:
        os.close(report)
        _limit_descriptors(concurrency)
        _open_daemon_context([*preserved, reporter])
        log.restart()
        status = serve(reporter)
    except Exception as error:  # noqa: BLE001 - the first process is told any of them
        log.error("start-failed", reason=repr(error))
        if not reporter.closed:
            reporter.write(str(error).encode())
    finally:
        os._exit(status)


def _await_report(report: int) -> int:
    """Return the exit status of a start, from what the daemon reports on the pipe `report`."""
    with open(report, "rb") as pipe:
        text = pipe.read().decode(errors="replace")
    if text == "ready":
        return os.EX_OK
    log.complain(f"unable to start: {text or 'the daemon died at once, see syslog'}")
    return os.EX_TEMPFAIL


def _limit_descriptors(concurrency: int) -> None:
    wanted = max(_DESCRIPTORS, 4 * concurrency)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))


def _open_daemon_context(preserved: Sequence[socket.socket | io.FileIO | int]) -> None:
    """Detach: the process that returns is the daemon, and the one before has ended."""
    import daemon

    context = daemon.DaemonContext(
        detach_process=True,
        working_directory="/",
        umask=_UMASK,
        initgroups=False,  # root was given up before the port was bound
        signal_map={},  # `_serve` has its own handlers
        files_preserve=list(preserved),
    )
    context.open()


def _serve(
    chosen: _Chosen,
    settings: Settings,
    node_id: str,
    daemon_lock: lock.Lock,
    listeners: Sequence[socket.socket],
    reporter: io.FileIO | None = None,
) -> int:
    """Answer until SIGTERM; return 0. Report on `reporter` once callers can be answered."""
    daemon_lock.write_holder()
    sys.setswitchinterval(_SWITCH_SECONDS)
    selector = selectors.DefaultSelector()
    with _caught_signals(selector) as caught:
        runner = Runner(selector, settings.concurrency)
        access = Access(
            selector,
            chosen.config,
            settings,
            node_id,
            daemon_lock.incarnation,
            last_addresses(chosen.state, chosen.run_dir),
        )
        node_facts = NodeFacts(
            selector, runner, chosen.config, chosen.state, chosen.run_dir, settings, access
        )
        bell = doorbell.Doorbell(chosen.state)
        server = Server(selector, listeners, node_facts, settings.concurrency, access, bell.ring)
        _notify_systemd()
        if reporter:
            reporter.write(b"ready")
            reporter.close()
        log.info(
            "started",
            name=access.greeting.name,
            id=node_id,
            port=settings.port,
            peers=len(access.cluster.peers),
        )
        access.log_keys()
        while signal.SIGTERM not in caught:
            _turn(selector, server, node_facts)
            if signal.SIGHUP in caught:
                caught.discard(signal.SIGHUP)
                access.refresh()
        server.close()
        runner.close()
        log.info("stopped")
        daemon_lock.release()
    return os.EX_OK


def _turn(selector: selectors.BaseSelector, server: Server, facts: NodeFacts) -> None:
    """Take one turn of the loop: wait for something to do, and do it."""
    pauses = []
    for pause in (server.pause(), facts.pause()):
        if pause is not None:
            pauses.append(pause)
    ready = selector.select(min(pauses, default=None))
    # What became overdue in a sleep is given up before the lines that came before it are read.
    facts.tick()
    for key, _ in ready:
        key.data()
    server.tick()


def _notify_systemd() -> None:
    """Tell systemd, if it waits for that, that callers can be answered; see sd_notify(3)."""
    path = os.environ.pop("NOTIFY_SOCKET", "")
    if not path:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"READY=1", path.replace("@", "\0", 1))


@contextlib.contextmanager
def _caught_signals(selector: selectors.BaseSelector) -> Iterator[set[int]]:
    """Collect SIGTERM, SIGINT (as SIGTERM) and SIGHUP; one that comes wakes the selector."""
    caught: set[int] = set()

    def stop(*_: object) -> None:
        caught.add(signal.SIGTERM)

    def refresh(*_: object) -> None:
        caught.add(signal.SIGHUP)

    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    selector.register(woken, selectors.EVENT_READ, lambda: os.read(woken, 4096))
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, refresh)
    yield caught


if __name__ == "__main__":
    sys.exit(main())
