"""Run a tool within the time of a look, with bounded output, and say nothing of what it means.

A tool that cannot be started, or that a signal ends, is this node's own fault. What its exit status
means, only the plugin knows.
"""

from __future__ import annotations

import errno
import posix
import select

from dmonitor.base import clock
from dmonitor.probe.outcome import Unknown

_READ_BYTES = 65536  # at a time
_MOST_ERRORS = 65536  # bytes of standard error that are kept
_DEFAULT_SIGNALS = (13, 25)  # SIGPIPE and SIGXFSZ, which Python ignores, and a child would, too
_SIGKILL = 9


class Ended:
    """What a tool that has ended leaves."""

    def __init__(self, status: int, output: bytes, errors: bytes, was_cut: bool) -> None:
        self.status = status
        self.output = output
        self.errors = errors
        self.was_cut = was_cut  # it wrote more than was wanted, and could not write it


def run(command: list[str], package: str, end: float, given: bytes, most: int) -> Ended:
    """Run `command`, with `given` as its standard input; keep `most` bytes of its output.

    `package` is the Debian package that has it. It is killed at `end`, in uptime, with what it has
    started. Raise Unknown if it cannot be started, is killed, or does not end in time.
    """
    descriptors: list[int] = []
    try:
        memory = posix.memfd_create("given", posix.MFD_CLOEXEC)
        descriptors.append(memory)
        posix.pwrite(memory, given, 0)
        output = posix.pipe()
        descriptors.extend(output)
        errors = posix.pipe()
        descriptors.extend(errors)
        process = _start(command, package, (memory, output[1], errors[1]))
        for descriptor in (memory, output[1], errors[1]):
            posix.close(descriptor)
            descriptors.remove(descriptor)
        return _Reader(command[0], process, output[0], errors[0], descriptors, most).read(end)
    finally:
        for descriptor in descriptors:
            posix.close(descriptor)


def _start(command: list[str], package: str, standard: tuple[int, int, int]) -> int:
    """Start `command` in a process group of its own; return its process id."""
    actions = [(posix.POSIX_SPAWN_DUP2, old, new) for new, old in enumerate(standard)]
    try:
        return posix.posix_spawnp(
            command[0],
            command,
            posix.environ,
            file_actions=actions,
            setpgroup=0,
            setsigdef=_DEFAULT_SIGNALS,
        )
    except OSError as error:
        if error.errno == errno.ENOENT:
            text = f"{command[0]} is not installed: apt install {package}"
        else:
            text = f"this node cannot start {command[0]}: {error.strerror}"
        raise Unknown(text) from None


class _Reader:
    """Reads what a process writes, until it ends."""

    def __init__(
        self, name: str, process: int, output: int, errors: int, descriptors: list[int], most: int
    ) -> None:
        self._name = name
        self._process = process
        self._output = output
        self._descriptors = descriptors  # those that are open
        self._most = {output: most, errors: _MOST_ERRORS}
        self._found = {output: b"", errors: b""}
        self._was_cut = False

    def read(self, end: float) -> Ended:
        """Return what the process has left when it ends."""
        try:
            status = self._read_until(end)
        except BaseException:
            self._kill()
            raise
        if posix.WIFSIGNALED(status):
            raise Unknown(f"{self._name} died of signal {posix.WTERMSIG(status)}")
        output, errors = self._found.values()
        return Ended(posix.WEXITSTATUS(status), output, errors, self._was_cut)

    def _read_until(self, end: float) -> int:
        """Read until the process ends; return its wait status."""
        ended = posix.pidfd_open(self._process)
        self._descriptors.append(ended)
        reading = [*self._found]
        while True:
            left = end - clock.uptime()
            if left <= 0:
                raise Unknown(f"{self._name} did not end in time")
            ready, _, _ = select.select([ended, *reading], [], [], left)
            for descriptor in reading:
                if descriptor in ready and not self._take(descriptor):
                    reading.remove(descriptor)
                    break
            else:
                # Only if nothing is left to be read: what it has started may hold the pipes.
                if ready == [ended]:
                    return posix.waitpid(self._process, 0)[1]

    def _take(self, descriptor: int) -> bool:
        """Read once; return whether more is wanted."""
        data = posix.read(descriptor, _READ_BYTES)
        left = self._most[descriptor] - len(self._found[descriptor])
        self._found[descriptor] += data[:left]
        if descriptor == self._output and len(data) > left:
            # The tool finds its pipe closed, and can still end by itself.
            self._was_cut = True
            posix.close(descriptor)
            self._descriptors.remove(descriptor)
            return False
        return bool(data)

    def _kill(self) -> None:
        try:
            posix.killpg(self._process, _SIGKILL)
        except OSError:
            return  # it has ended
        posix.waitpid(self._process, 0)
