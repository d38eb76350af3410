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
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from dmonitor.base import cli, log, user
from dmonitor.config import keyfile
from dmonitor.config.problems import Problems, Severity
from dmonitor.config.settings import Settings, load_settings
from dmonitor.execution.runner import Runner
from dmonitor.facts import Witness
from dmonitor.net import access
from dmonitor.net.server import Server
from dmonitor.store import identity, lock

if TYPE_CHECKING:
    import argparse

PROGRAM = "dmonitord"
_DESCRIPTORS = (
    4096  # python-daemon before 3.0 makes a set of every possible one when it is imported
)
_BACKLOG = 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    chosen = _Chosen()
    cli.parse(_parser, chosen, arguments)
    is_seen = (
        chosen.foreground and "JOURNAL_STREAM" not in os.environ
    )  # else each line would be in the journal twice
    log.start(PROGRAM, to_stderr=chosen.verbose or is_seen, verbose=chosen.verbose)
    os.umask(0o027)
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
    user.become(chosen.state, chosen.run_dir)
    problems = Problems()
    settings = load_settings(chosen.config, problems)
    is_wrong = any(problem.severity is Severity.ERROR for problem in problems)
    if keyfile.load_keys(chosen.config, problems) == () or is_wrong:
        for problem in problems:
            log.complain(str(problem))
        return os.EX_CONFIG  # a default in place of a mistake could open the port to where, or whom, it should be closed
    node_id = identity.make(chosen.state)
    own = lock.Lock(chosen.state, PROGRAM)
    try:
        own.take(patience=0.2)  # longer than anybody looks whether it is taken
    except lock.Busy as error:
        log.complain(f"another one runs already: {error}")
        return os.EX_TEMPFAIL
    listeners = _listen(settings)
    serve = functools.partial(_serve, chosen, settings, node_id, own, listeners)
    return (
        serve()
        if chosen.foreground
        else _detach(serve, settings.concurrency, [*listeners, own.fileno()])
    )


def _listen(settings: Settings) -> list[socket.socket]:
    """Bind the addresses of the setting `listen`, or every one of both families."""
    listeners = []
    for address in settings.listen or ("0.0.0.0", "::"):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            listener = socket.create_server(
                (address, settings.port), family=family, backlog=_BACKLOG
            )
        except OSError as error:
            if (
                address == "::"
                and not settings.listen
                and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
            ):
                continue  # a machine without IPv6
            raise OSError(
                error.errno, os.strerror(error.errno or 0), f"{address} port {settings.port}"
            ) from None
        listener.setblocking(False)
        listeners.append(listener)
    return listeners


def _detach(
    serve: Callable[[io.FileIO], int], concurrency: int, kept: Sequence[socket.socket | int]
) -> int:
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
        log.complain(
            f"unable to start: {said.decode(errors='replace') or 'the daemon died at once, see syslog'}"
        )
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
    chosen: _Chosen,
    settings: Settings,
    node_id: str,
    own: lock.Lock,
    listeners: Sequence[socket.socket],
    reporter: io.FileIO | None = None,
) -> int:
    """Answer until SIGTERM; return 0."""
    own.write_holder()
    selector = selectors.DefaultSelector()
    with _signals(selector) as caught:
        runner = Runner(selector, settings.concurrency)
        who = access.Door(selector, chosen.config, settings, node_id, own.incarnation)
        facts = Witness(
            selector, runner, chosen.config, chosen.state, chosen.run_dir, settings, who
        )
        server = Server(selector, listeners, facts, settings.concurrency, who)
        _say_ready()
        if reporter:
            reporter.write(b"ready")
            reporter.close()
        log.info(
            "started",
            name=who.greeting.name,
            id=node_id,
            port=settings.port,
            peers=len(who.around.peers),
        )
        who.note_keys()
        while signal.SIGTERM not in caught:
            pauses = [pause for pause in (server.pause(), facts.pause()) if pause is not None]
            for key, _ in selector.select(min(pauses, default=None)):
                key.data()
            facts.tick()
            server.tick()
            if signal.SIGHUP in caught:
                caught.discard(signal.SIGHUP)
                who.look()
        server.close()
        runner.close()
        log.info("stopped")
        own.release()
    return os.EX_OK


def _say_ready() -> None:
    """Tell systemd, where it waits for that, that the daemon can answer; see sd_notify(3)."""
    if path := os.environ.pop("NOTIFY_SOCKET", ""):
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
        ):
            notified.sendto(b"READY=1", path.replace("@", "\0", 1))


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
