"""One plugin that runs: start it, take in its output, and end it.

No other module starts plugins. The supervisor decides when a plugin starts and when it has run for
too long. A process that uses this module must keep its descriptors 4 to 6 free: see `SLOTS`.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal

from dmonitor.base import clock
from dmonitor.core import result
from dmonitor.core.model import Outcome
from dmonitor.execution import processes

# The supervisor may have more descriptors open than a plugin may, and posix_spawn takes only those
# below the plugin's limit. So the streams of a plugin are first put into these slots.
STDIN_SLOT = 4
STDOUT_SLOT = 5
STDERR_SLOT = 6
SLOTS = (STDIN_SLOT, STDOUT_SLOT, STDERR_SLOT)

# Signals that the supervisor ignores, because it ends when the program ends. Plugins do not.
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE)

_FILE_SIZE = 1_000_000  # bytes that a plugin may write to a file
_DATA = 1_000_000_000  # bytes of memory that a process of a plugin may ask for
_DESCRIPTORS = 256  # that a plugin may have open
_SUPERVISOR_DESCRIPTORS = 64  # that the supervisor needs in addition to those for plugins
_DESCRIPTORS_PER_PLUGIN = 2  # of the supervisor, for each plugin that runs
_STREAMS = [(os.POSIX_SPAWN_DUP2, slot, stream) for stream, slot in enumerate(SLOTS)]


class PluginProcess:
    """One plugin: its process, the pipe that it prints to, and the beginning of its output."""

    def __init__(self, request: list[bytes]) -> None:
        self.request = request  # number, path, host, and any parameters as KEY=value
        self.number = request[0]  # of the request; the result repeats it
        self.path = request[1]
        self.pid = 0
        self.mark = 0  # of the plugin and its descendants: see `processes`
        self.began = 0.0  # in uptime
        self.slept = False  # whether the machine slept while it ran
        self.is_slow = False  # whether the program was told that it takes long
        self.stdout_fd = -1
        self.is_watched = False  # whether the selector has stdout_fd
        self.output = b""  # the beginning: result.OUTPUT_LIMIT bytes at most
        self._write_fd = -1  # the plugin's end of the pipe
        self._stderr_fd = -1  # a file in memory, because nothing reads it before the plugin ends

    def open_streams(self) -> None:
        """Open what the plugin writes to. Raise OSError if that fails; then call `abandon`."""
        self.stdout_fd, self._write_fd = os.pipe()
        fcntl.fcntl(self.stdout_fd, fcntl.F_SETFL, os.O_NONBLOCK)
        self._stderr_fd = os.memfd_create("stderr", os.MFD_CLOEXEC)

    def start(self, environment: dict[str, str], mark: int) -> None:
        """Start the plugin as a new session, with its parameters added to `environment`.

        This process must have the `mark` already. Raise OSError if that fails; then call `abandon`.
        """
        parameters = self.request[3:]
        if parameters:
            environment = environment.copy()
            for parameter in parameters:
                key, value = parameter.decode("utf-8", "surrogateescape").split("=", 1)
                environment[key] = value
        os.dup2(self._write_fd, STDOUT_SLOT, inheritable=False)
        os.dup2(self._stderr_fd, STDERR_SLOT, inheritable=False)
        self.mark = mark
        self.began = clock.uptime()
        self.pid = os.posix_spawn(
            self.path,
            self.request[1:3],
            environment,
            file_actions=_STREAMS,
            setsid=True,
            setsigdef=IGNORED_SIGNALS,
        )
        os.close(self._write_fd)

    def drain(self, buffer: bytearray) -> int:
        """Read output once, into `buffer`; keep it as far as it decides the result, drop the rest.

        Return the number of bytes read: 0 at the end of the output, -1 if there are none yet.
        """
        try:
            count = os.readv(self.stdout_fd, [buffer])
        except BlockingIOError:
            return -1
        missing = result.OUTPUT_LIMIT - len(self.output)
        if missing > 0:
            self.output += buffer[: min(missing, count)]
        return count

    def end(self) -> None:
        """Kill the plugin and its process group. Its pid must not be reaped before."""
        processes.kill_group(self.pid)

    def judge(self, status: int, buffer: bytearray) -> tuple[Outcome, str]:
        """Return outcome and text (R1) of a plugin that ended with wait status `status`."""
        while not self._has_first_line():
            if self.drain(buffer) <= 0:
                break
        stderr = b""
        if not self.output.strip():
            stderr = self._ends_of_stderr()
        return result.classify(status, self.output, stderr)

    def _ends_of_stderr(self) -> bytes:
        """Return what the plugin wrote to stderr; if that is long, its beginning and its end."""
        start = os.pread(self._stderr_fd, result.OUTPUT_LIMIT, 0)
        size = os.fstat(self._stderr_fd).st_size
        rest = max(size - result.OUTPUT_LIMIT, len(start))
        return start + os.pread(self._stderr_fd, result.OUTPUT_LIMIT, rest)

    def judge_overdue(self, limit: float) -> tuple[Outcome, str]:
        """Return outcome and text (R1) of a plugin that is over its `limit`, in seconds.

        It is TIMEOUT, whatever the plugin printed. If the machine slept, the plugin had not all of
        its time, so it is UNKNOWN.
        """
        outcome, text = Outcome.TIMEOUT, f"not ended after {limit:g} s"
        if self.slept:
            outcome, text = Outcome.UNKNOWN, "this machine slept, or was stopped, while it ran"
        first_line = result.first_line(self.output)
        if first_line:
            text += f", it had said: {first_line}"
        return outcome, text

    def _has_first_line(self) -> bool:
        """Return whether enough output is there: the first line, or as much of it as counts."""
        return b"\n" in self.output or len(self.output) >= result.OUTPUT_LIMIT

    def close(self) -> None:
        """Close what we read from the plugin, which has started."""
        os.close(self.stdout_fd)
        os.close(self._stderr_fd)

    def abandon(self) -> None:
        """Close whatever is open of a plugin that could not be started."""
        for descriptor in (self.stdout_fd, self._write_fd, self._stderr_fd):
            if descriptor >= 0:
                os.close(descriptor)


class ResourceLimits:
    """The limits that plugins inherit: no core files, small files, little memory, few descriptors.

    A plugin cannot raise them, except that of descriptors. Its memory is limited by what it makes
    writable (RLIMIT_DATA), because java reserves much more than it uses. The supervisor needs more
    descriptors than a plugin may have. So it lowers that limit while it starts plugins, once for
    each batch.
    """

    def __init__(self, concurrency: int) -> None:
        """Set the limits, with descriptors for `concurrency` plugins at the same time."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _limit_to(resource.RLIMIT_FSIZE, _FILE_SIZE)
        _limit_to(resource.RLIMIT_DATA, _DATA)
        _, self._hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = concurrency * _DESCRIPTORS_PER_PLUGIN + _SUPERVISOR_DESCRIPTORS
        self._soft = max(wanted, _DESCRIPTORS)
        if self._hard != resource.RLIM_INFINITY:
            self._soft = min(self._soft, self._hard)
        affordable = (self._soft - _SUPERVISOR_DESCRIPTORS) // _DESCRIPTORS_PER_PLUGIN
        # Plugins that may run at the same time, as far as there are descriptors for them.
        self.concurrency = max(1, min(concurrency, affordable))
        self.restore()

    def lower(self) -> None:
        """Set the limit of descriptors that a plugin gets."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_DESCRIPTORS, self._soft), self._hard))

    def restore(self) -> None:
        """Set the limit of descriptors that the supervisor needs."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._soft, self._hard))


def _limit_to(limit: int, value: int) -> None:
    """Set the resource limit `limit` to `value`, for good, unless it is lower already."""
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(limit, (value, value))
