"""The process that starts plugins, ends them at their limit, and kills what they leave (promise 6).

The program forks it without exec; `runner` says why. It must not use objects, descriptors or signal
handlers of the program. `plugin_process` starts one plugin; `load_gate` decides how many may start.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import gc
import os
import selectors
import signal
import socket
from collections import deque
from typing import NoReturn

from dmonitor.base import clock, log, names
from dmonitor.core.model import Outcome
from dmonitor.execution import plugin, processes
from dmonitor.execution.load_gate import LoadGate
from dmonitor.execution.plugin_process import IGNORED_SIGNALS, SLOTS, PluginProcess, ResourceLimits

_SWEEP_INTERVAL = 0.2  # seconds between two looks for strays, and for plugins that run on
_STRAYS_LIMIT = 0.1  # seconds of a sweep in which strays are killed
# Seconds by which a wait may end late. If it ends later, the machine slept, or nothing here ran.
_SLEEP_SECONDS = 2.0
_NO_ROOM = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)  # for one more process
_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
_SOCKET = 3  # the descriptor of the connection to the program: below the slots
_ABOVE_SLOTS = max(SLOTS) + 1
_RECEIVE_BYTES = 1 << 20
_OUTPUT_BYTES = 1 << 16  # that are read from a plugin at once
_ERROR_CHARACTERS = 900  # of a stack that are logged


def main(connection: socket.socket, concurrency: int, limit: float, slow_after: float) -> NoReturn:
    """Be the supervisor of the program at the other end of `connection`; never return.

    At most `concurrency` plugins run at the same time, each for up to `limit` seconds. The program
    is told of one that has run for `slow_after` seconds. To be called right after a fork.
    """
    status = os.EX_SOFTWARE
    try:
        # Garbage of the program, if collected here, would close descriptors of ours by number.
        gc.freeze()
        log.restart()
        os.setsid()  # Ctrl-C or a hang-up at the program's terminal is for the program
        os.chdir("/")
        os.umask(0o022)
        channel = Channel(_keep_only(connection))
        processes.become_subreaper()
        processes.forbid_new_privileges()
        Supervisor(channel, concurrency, limit, slow_after).run()
        status = os.EX_OK
    except OSError as error:
        log.error("supervisor-failed", reason=repr(error))
    except Exception as error:  # noqa: BLE001 - the program's stack below must not unwind here
        import traceback

        stack = "".join(traceback.format_exception(error))
        log.error("supervisor-failed", reason=stack[-_ERROR_CHARACTERS:])
    finally:
        os._exit(status)


def _keep_only(connection: socket.socket) -> socket.socket:
    """Close all descriptors but standard error and `connection`; return that, as descriptor 3.

    Standard input and output, and the slots for plugins, are opened on /dev/null.
    """
    null = os.open(os.devnull, os.O_RDWR)
    null = fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, _ABOVE_SLOTS)
    for stream in (0, 1):
        os.dup2(null, stream)
    kept = fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD_CLOEXEC, _ABOVE_SLOTS)
    os.dup2(kept, _SOCKET, inheritable=False)
    for slot in SLOTS:
        os.dup2(null, slot, inheritable=False)
    os.closerange(_ABOVE_SLOTS, 1 << 30)
    return socket.socket(fileno=_SOCKET)


def _reset_signals() -> int:
    """Reset or ignore each signal; return a descriptor that becomes readable at SIGCHLD."""
    readable, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    for number in _SIGNALS:
        if number in IGNORED_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        else:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    return readable


class Channel:
    """The supervisor's end of the connection to the program: requests come in, results go out.

    Both are lines whose fields are separated by NUL bytes. A request has number, path, host, and
    any parameters as KEY=value; with the number alone it cancels that request. A result has number,
    outcome, duration in seconds, and text; the number alone says that the plugin takes long.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.is_open = True  # until the program closes its end, or dies
        self._partial = b""  # the beginning of a request
        self._unsent = b""

    @property
    def has_unsent(self) -> bool:
        """Return whether there are results that the program has not taken yet."""
        return bool(self._unsent)

    def receive(self) -> list[list[bytes]]:
        """Return the requests that are there now, if any; close if the program closed its end."""
        try:
            data = self.connection.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError:  # the program died and left a result of ours unread
            data = b""
        if not data:
            self.is_open = False
            return []
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [line.split(b"\0") for line in lines]

    def report(self, number: bytes, outcome: Outcome, duration: float, text: str) -> None:
        """Keep the result of request `number`, to be sent by `flush`."""
        fields = f"\0{outcome.value}\0{duration:.6f}\0{text}\n"
        self._unsent += number + fields.encode("utf-8", "replace")

    def report_slow(self, number: bytes) -> None:
        """Keep the word that the plugin of request `number` takes long, to be sent by `flush`."""
        self._unsent += number + b"\n"

    def flush(self) -> None:
        """Send as much as the program takes now.

        Never wait, because the program may be busy sending requests to us.
        """
        try:
            sent = self.connection.send(self._unsent, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            self.is_open = False
            return
        self._unsent = self._unsent[sent:]


class Supervisor:
    """Starts plugins on request, ends them at their limit, and kills what they leave."""

    def __init__(self, channel: Channel, concurrency: int, limit: float, slow_after: float) -> None:
        self._channel = channel
        self._limit = limit  # seconds that a plugin may run
        self._slow_after = slow_after  # seconds after which the program is told that one still runs
        self._resources = ResourceLimits(concurrency)
        self._gate = LoadGate(self._resources.concurrency)
        self._trust = plugin.TrustCache()
        self._marker = processes.Marker()
        self._last_mark = 0
        self._queue: deque[list[bytes]] = deque()  # requests for plugins that wait to be started
        # By pid, in the order in which they began. So the first is the first to be over its limit.
        self._running: dict[int, PluginProcess] = {}
        self._dying: set[int] = set()  # pids of processes that were killed and are not reaped yet
        self._cancelled: set[bytes] = set()  # numbers of requests that nobody waits for any more
        self._next_sweep = 0.0
        self._buffer = bytearray(_OUTPUT_BYTES)
        self._environment = {"PATH": plugin.PATH, "LC_ALL": "C.UTF-8", "HOME": plugin.HOME}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Serve until the program closes its end or dies; then kill everything."""
        wakeup = _reset_signals()
        self._selector.register(self._channel.connection, selectors.EVENT_READ, self._take_requests)
        self._selector.register(wakeup, selectors.EVENT_READ, lambda: os.read(wakeup, 4096))
        while self._channel.is_open:
            for key, _ in self._select():
                key.data()
            self._reap()
            self._end_cancelled()
            self._end_overdue()
            self._sweep()
            self._start_batch()
            self._send_results()
        for process in self._running.values():
            process.end()
        processes.kill_all(lambda pid: True)

    def _select(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for something to do, and return it. Mark the plugins that sleep meanwhile."""
        pause = self._pause()
        if pause is None:
            return self._selector.select()
        wake_at = clock.uptime() + pause
        ready = self._selector.select(pause)
        if clock.uptime() - wake_at > _SLEEP_SECONDS:
            for process in self._running.values():
                process.slept = True
        return ready

    def _pause(self) -> float | None:
        """Return for how many seconds there is nothing to do; None: until something happens."""
        if not self._running and not self._dying and not self._queue:
            if processes.has_children():
                return _SWEEP_INTERVAL
            return None
        wake_at = self._next_sweep
        if self._running:
            oldest = next(iter(self._running.values()))
            wake_at = min(wake_at, oldest.began + self._limit)
        if self._queue and self._gate.has_room(len(self._running)):
            wake_at = min(wake_at, self._gate.closed_until)
        return max(0.0, wake_at - clock.uptime())

    def _take_requests(self) -> None:
        for request in self._channel.receive():
            if len(request) == 1:
                self._cancelled.add(request[0])
            else:
                self._queue.append(request)

    def _start_batch(self) -> None:
        """Start as many of the waiting plugins as may start now."""
        now = clock.uptime()
        count = self._gate.admit(len(self._running), len(self._queue), now)
        if count == 0:
            return
        opened: list[PluginProcess] = []
        failures: list[tuple[PluginProcess, OSError]] = []
        for _ in range(count):
            process = PluginProcess(self._queue.popleft())
            try:
                self._trust.check(process.path, now)
                process.open_streams()
                opened.append(process)
            except OSError as error:
                failures.append((process, error))
        self._resources.lower()
        for process in opened:
            try:
                self._start(process)
            except OSError as error:
                failures.append((process, error))
        self._resources.restore()
        self._marker.clear()
        for process, failure in reversed(failures):
            self._give_up(process, failure)

    def _start(self, process: PluginProcess) -> None:
        self._last_mark += 1
        process.start(self._environment, self._marker.set(self._last_mark))
        self._running[process.pid] = process

    def _give_up(self, process: PluginProcess, error: OSError) -> None:
        """Report why a plugin could not be started; if there was no room for it, queue it again.

        It is queued only if another plugin runs, because the end of that one makes room.
        """
        process.abandon()
        if error.errno in _NO_ROOM and self._running:
            self._queue.appendleft(process.request)
            self._gate.close_for_lack_of_room()
        else:
            reason = _why_not_started(os.fsdecode(process.path), error)
            self._channel.report(process.number, Outcome.UNKNOWN, 0.0, reason)

    def _watch(self, process: PluginProcess) -> None:
        """Read the output of a plugin as it comes, from now on."""
        take_output = functools.partial(self._take_output, process)
        self._selector.register(process.stdout_fd, selectors.EVENT_READ, take_output)
        process.is_watched = True

    def _unwatch(self, process: PluginProcess) -> None:
        if process.is_watched:
            self._selector.unregister(process.stdout_fd)
            process.is_watched = False

    def _take_output(self, process: PluginProcess) -> None:
        if process.drain(self._buffer) == 0:
            self._unwatch(process)

    def _reap(self) -> None:
        """Reap every child that has ended, and report the results of the plugins among them."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            process = self._running.pop(pid, None)
            if process:
                process.end()  # its group, before the pid is free for another process
            _, status = os.waitpid(pid, 0)
            self._dying.discard(pid)
            if process:
                self._report_end(process, status)

    def _report_end(self, process: PluginProcess, status: int) -> None:
        """Report the result of a plugin that has ended by itself, with wait status `status`."""
        outcome, text = process.judge(status, self._buffer)
        self._unwatch(process)
        process.close()
        duration = clock.uptime() - process.began
        if process.slept and duration > self._limit:
            outcome, text = process.judge_overdue(self._limit)
        self._channel.report(process.number, outcome, duration, text)

    def _end_cancelled(self) -> None:
        """Kill each plugin that nobody waits for, and start none of those; report nothing."""
        if not self._cancelled:
            return
        for process in list(self._running.values()):
            if process.number in self._cancelled:
                self._kill(process)
        wanted = [request for request in self._queue if request[0] not in self._cancelled]
        self._queue = deque(wanted)
        self._cancelled.clear()

    def _end_overdue(self) -> None:
        """Kill each plugin that is over its limit, and report its result."""
        now = clock.uptime()
        for process in list(self._running.values()):
            if process.began + self._limit > now:
                return
            self._kill(process)
            outcome, text = process.judge_overdue(self._limit)
            self._channel.report(process.number, outcome, now - process.began, text)

    def _kill(self, process: PluginProcess) -> None:
        del self._running[process.pid]
        self._dying.add(process.pid)
        process.end()
        self._unwatch(process)
        process.close()
        self._next_sweep = 0.0  # kill its descendants at once, too

    def _sweep(self) -> None:
        """At intervals, kill the strays of plugins that have ended, and watch plugins that run on.

        Most plugins end before a sweep, so that watching their output costs nothing. Report those
        that take long.
        """
        now = clock.uptime()
        if now < self._next_sweep:
            return
        self._next_sweep = now + _SWEEP_INTERVAL
        self._kill_strays()
        for process in self._running.values():
            if not process.is_watched:
                self._watch(process)
            if not process.is_slow and now - process.began >= self._slow_after:
                process.is_slow = True
                self._channel.report_slow(process.number)

    def _kill_strays(self) -> None:
        """Kill the descendants of plugins that have ended, and what they start meanwhile.

        What has been killed, and does not die yet, keeps no later sweep waiting.
        """
        marks = {process.mark for process in self._running.values()}

        def is_stray(pid: int) -> bool:
            if pid in self._running or pid in self._dying:
                return False
            return processes.mark_of(pid) not in marks

        self._dying |= processes.kill_all(is_stray, _STRAYS_LIMIT)

    def _send_results(self) -> None:
        if not self._channel.has_unsent:
            return
        self._channel.flush()
        events = selectors.EVENT_READ
        if self._channel.has_unsent:
            events |= selectors.EVENT_WRITE
        self._selector.modify(self._channel.connection, events, self._take_requests)


def _why_not_started(path: str, error: OSError) -> str:
    """Return the text for people about the plugin `path`, whose start ended with `error`."""
    if not os.path.lexists(path):
        return f"no plugin {names.printable(path)}"
    fault = plugin.fault(path)
    if not fault:
        fault = f"cannot be started: {error.strerror}"
    return f"plugin {names.printable(path)} {fault}"
