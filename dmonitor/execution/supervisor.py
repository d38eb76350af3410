"""The process that starts plugins, ends them at their limit, and kills what they leave (promise 6).

`runner` forks it and says why it is a process of its own. Nothing else starts plugins.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import itertools
import os
import resource
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable

from dmonitor.base import log, names, user
from dmonitor.core import result
from dmonitor.core.model import Outcome
from dmonitor.execution import plugin, processes

_SWEEP = 0.2  # seconds between two looks at what still runs: for strays, and for output that nobody has taken
_CROWD = 8  # processes that want a processor, as a multiple of those there are, beyond which none is started
_PATIENCE = 0.1  # seconds for which that holds: a machine that is always busy tests all the same
_LOOK_EVERY = 0.01  # seconds between two looks whether it still does
_BATCH = 16  # plugins that are started before anything else has its turn
_NO_ROOM = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)  # for one more process
_TRUST = 1.0  # seconds for which it is believed that nobody else may write to a plugin
_FILE_SIZE = 1_000_000  # bytes
_DESCRIPTORS = 256
# posix_spawn takes only descriptors below the limit that the plugin is to have: its output is put here before.
_STDIN_SLOT, _STDOUT_SLOT, _STDERR_SLOT = 4, 5, 6
_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
_STREAMS = [
    (os.POSIX_SPAWN_DUP2, slot, number)
    for number, slot in enumerate((_STDIN_SLOT, _STDOUT_SLOT, _STDERR_SLOT))
]
_IGNORED = (
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGTERM,
    signal.SIGPIPE,
)  # by the supervisor: the program's end is ours


def main(requests: socket.socket, concurrency: int, limit: float) -> None:
    """Be the supervisor; never return."""
    status = os.EX_SOFTWARE
    try:
        gc.freeze()  # what the program left to be collected would close descriptors by numbers that are ours now
        log.restart()
        os.setsid()  # a Ctrl-C or a hang-up at the program's terminal is the program's to deal with
        os.chdir("/")
        os.umask(0o022)
        null = fcntl.fcntl(os.open(os.devnull, os.O_RDWR), fcntl.F_DUPFD_CLOEXEC, _STDERR_SLOT + 1)
        for descriptor in (0, 1):
            os.dup2(null, descriptor)
        kept = fcntl.fcntl(requests.fileno(), fcntl.F_DUPFD_CLOEXEC, _STDERR_SLOT + 1)
        os.dup2(kept, 3, inheritable=False)
        for slot in (_STDIN_SLOT, _STDOUT_SLOT, _STDERR_SLOT):
            os.dup2(null, slot, inheritable=False)
        os.closerange(_STDERR_SLOT + 1, 1 << 30)
        Supervisor(socket.socket(fileno=3), concurrency, limit).run()
        status = os.EX_OK
    except OSError as error:
        log.error("supervisor-failed", reason=repr(error))
    except Exception as error:  # noqa: BLE001 - the stack below is the program's, and must not unwind here
        import traceback

        log.error("supervisor-failed", reason="".join(traceback.format_exception(error))[-900:])
    finally:
        os._exit(status)


class _Run:
    """A plugin that runs, or is to: its process, the pipe it writes to, and what came out so far."""

    def __init__(self, number: bytes, path: bytes, host: bytes, *parameters: bytes) -> None:
        self.number, self.path, self.host, self.parameters = number, path, host, parameters
        self.stdout = self.write = self.stderr = -1
        self.pid = self.mark = 0
        self.began = 0.0
        self.watched = False  # its output is read as it comes: it has been running for a while
        self.output = b""


class Supervisor:
    """Starts plugins on request, ends them at their limit, and kills what they leave."""

    def __init__(self, requests: socket.socket, concurrency: int, limit: float) -> None:
        self._requests = requests
        self._concurrency = concurrency
        self._limit = limit
        self._rest = b""
        self._queue: deque[list[bytes]] = deque()
        self._running: dict[
            int, _Run
        ] = {}  # by pid, in the order they began, which is that of their limits
        self._dying: set[int] = set()  # pids that were killed and are not reaped yet
        self._answers = b""
        self._marks = 0
        self._mark = processes.marker()
        self._trusted: dict[bytes, float] = {}  # plugins, with until when
        self._load = -1
        with contextlib.suppress(OSError):
            self._load = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        self._crowd = _CROWD * (os.cpu_count() or 1)
        self._started = self._look_again = 0.0
        self._scratch = bytearray(1 << 16)
        self._next_sweep = 0.0
        self._environment = {"PATH": plugin.PATH, "LC_ALL": "C.UTF-8", "HOME": user.home()}

    def run(self) -> None:
        """Serve until the program closes its end or dies; then end everything."""
        processes.become_subreaper()
        self._limits()
        self._selector = selectors.DefaultSelector()
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN if number in _IGNORED else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._selector.register(self._requests, selectors.EVENT_READ, self._request)
        self._selector.register(woken, selectors.EVENT_READ, lambda: os.read(woken, 4096))
        self._open = True
        while self._open:
            for key, _ in self._selector.select(self._pause()):
                if isinstance(key.data, _Run):
                    self._drain(key.data)
                else:
                    key.data()
            self._collect()
            self._enforce()
            self._begin_some()
            self._answer()
        for run in self._running.values():
            processes.kill_group(run.pid)
        processes.kill_all(lambda pid: True)

    def _limits(self) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_SIZE, hard))
        _, self._hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._soft = max(self._concurrency * 2 + 64, _DESCRIPTORS)
        if self._hard != resource.RLIM_INFINITY:
            self._soft = min(self._soft, self._hard)
        self._concurrency = max(1, min(self._concurrency, (self._soft - 64) // 2))
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._soft, self._hard))

    def _pause(self) -> float | None:
        """Return how long nothing will have to be done, in seconds; None: until something happens."""
        if not self._running and not self._dying and not self._queue:
            return _SWEEP if processes.has_children() else None
        due = [run.began + self._limit for run in itertools.islice(self._running.values(), 1)]
        if self._queue and len(self._running) < self._concurrency:
            due.append(self._look_again)
        return max(0.0, min([self._next_sweep, *due]) - time.monotonic())

    def _request(self) -> None:
        try:
            data = self._requests.recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return  # it was writable
        except OSError:  # it died, with a result of ours unread
            data = b""
        if not data:
            self._open = False
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._queue.extend(line.split(b"\0") for line in lines)

    def _begin_some(self) -> None:
        """Start a batch of what waits, if it may: while no crowd wants the processors, or that lasts too long."""
        room, now = (
            min(self._concurrency - len(self._running), _BATCH, len(self._queue)),
            time.monotonic(),
        )
        if room <= 0 or now < self._look_again:
            return
        if now - self._started < _PATIENCE and self._is_crowded():
            self._look_again = now + _LOOK_EVERY
            return
        self._started, self._look_again = now, 0.0
        runs = [_Run(*self._queue.popleft()) for _ in range(room)]
        failed: list[tuple[_Run, OSError]] = []
        for run in runs:
            self._try(self._prepare, run, failed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_DESCRIPTORS, self._soft), self._hard))
        for run in [run for run in runs if run.stderr >= 0]:
            self._try(self._begin, run, failed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._soft, self._hard))
        self._mark(0)
        for run, error in reversed(failed):
            self._give_up(run, error)

    def _is_crowded(self) -> bool:
        try:
            wanting, _, _ = os.pread(self._load, 64, 0).split()[3].partition(b"/")
            return int(wanting) > self._crowd
        except (OSError, ValueError, IndexError):  # a system that does not say
            return False

    def _try(
        self, step: Callable[[_Run], None], run: _Run, failed: list[tuple[_Run, OSError]]
    ) -> None:
        try:
            step(run)
        except OSError as error:
            failed.append((run, error))

    def _prepare(self, run: _Run) -> None:
        """Open what a plugin writes to, if it may be run."""
        if self._trusted.get(run.path, 0.0) < self._started:
            if plugin.distrust(os.fsdecode(run.path)):
                raise PermissionError(errno.EPERM, "not to be trusted")
            self._trusted[run.path] = self._started + _TRUST
        run.stdout, run.write = os.pipe()
        fcntl.fcntl(run.stdout, fcntl.F_SETFL, os.O_NONBLOCK)
        run.stderr = os.memfd_create("stderr", os.MFD_CLOEXEC)

    def _begin(self, run: _Run) -> None:
        self._marks += 1
        environment = self._environment
        if run.parameters:
            given = (
                part.decode("utf-8", "surrogateescape").split("=", 1) for part in run.parameters
            )
            environment = environment | dict(given)
        os.dup2(run.write, _STDOUT_SLOT, inheritable=False)
        os.dup2(run.stderr, _STDERR_SLOT, inheritable=False)
        run.mark, run.began = self._mark(self._marks), time.monotonic()
        arguments = [run.path, run.host]
        run.pid = os.posix_spawn(
            run.path, arguments, environment, file_actions=_STREAMS, setsid=True, setsigdef=_IGNORED
        )
        os.close(run.write)
        self._running[run.pid] = run

    def _give_up(self, run: _Run, error: OSError) -> None:
        """Say why a plugin could not be started; where there was only no room, try again when there may be."""
        for descriptor in (run.stdout, run.write, run.stderr):
            if descriptor >= 0:
                os.close(descriptor)
        if error.errno in _NO_ROOM and self._running:
            self._queue.appendleft([run.number, run.path, run.host, *run.parameters])
            self._look_again = self._started + _PATIENCE
        else:
            self._say(run.number, Outcome.UNKNOWN, 0.0, _why_not(os.fsdecode(run.path), error))

    def _drain(self, run: _Run) -> bool:
        """Take one helping of a plugin's output, keep its beginning; say whether more may be there."""
        try:
            count = os.readv(run.stdout, [self._scratch])
        except BlockingIOError:
            return False
        if count == 0:
            self._unwatch(run)
            return False
        wanted = result.OUTPUT_LIMIT - len(run.output)
        if wanted > 0:
            run.output += self._scratch[: min(wanted, count)]
        return True

    def _unwatch(self, run: _Run) -> None:
        if run.watched:
            self._selector.unregister(run.stdout)
            run.watched = False

    def _collect(self) -> None:
        """Reap every child that has died; the direct ones give a result."""
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None:
                return
            pid = dead.si_pid
            run = self._running.pop(pid, None)
            if run:
                processes.kill_group(pid)  # while the zombie still keeps the number
            _, status = os.waitpid(pid, 0)
            self._dying.discard(pid)
            if run:
                self._end(run, status)

    def _end(self, run: _Run, status: int) -> None:
        while (
            len(run.output) < result.OUTPUT_LIMIT and b"\n" not in run.output and self._drain(run)
        ):
            pass
        complaint = os.pread(run.stderr, result.OUTPUT_LIMIT, 0) if not run.output.strip() else b""
        self._close(run)
        outcome, text = result.classify(status, run.output, complaint)
        self._say(run.number, outcome, time.monotonic() - run.began, text)

    def _enforce(self) -> None:
        """End what is over its limit, and the strays of what has ended."""
        now = time.monotonic()
        for run in list(self._running.values()):
            if run.began + self._limit > now:
                break
            del self._running[run.pid]
            self._dying.add(run.pid)
            processes.kill_group(run.pid)
            self._close(run)
            said = result.first_line(run.output)
            text = f"not ended after {self._limit:g} s" + (f", it had said: {said}" if said else "")
            self._say(run.number, Outcome.TIMEOUT, now - run.began, text)
            self._next_sweep = 0.0
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP
            marks = {run.mark for run in self._running.values()}
            for pid in processes.children():
                if pid not in self._running and processes.mark_of(pid) not in marks:
                    processes.kill(pid)
            for run in (
                self._running.values()
            ):  # the quick ones end before anybody has to look at what they write
                if not run.watched:
                    self._selector.register(run.stdout, selectors.EVENT_READ, run)
                    run.watched = True

    def _close(self, run: _Run) -> None:
        self._unwatch(run)
        os.close(run.stdout)
        os.close(run.stderr)

    def _say(self, number: bytes, outcome: Outcome, duration: float, text: str) -> None:
        self._answers += number + f"\0{outcome.value}\0{duration:.6f}\0{text}\n".encode(
            "utf-8", "replace"
        )

    def _answer(self) -> None:
        """Send what the program takes now; the rest when it has read that, for it may be busy sending to us."""
        if not self._answers:
            return
        try:
            self._answers = self._answers[self._requests.send(self._answers, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            pass
        except OSError:
            self._open = False
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._answers else 0)
        self._selector.modify(self._requests, events, self._request)


def _why_not(path: str, error: OSError) -> str:
    if not os.path.lexists(path):
        return f"no plugin {names.printable(path)}"
    return f"plugin {names.printable(path)} {plugin.fault(path) or f'cannot be started: {error.strerror}'}"
