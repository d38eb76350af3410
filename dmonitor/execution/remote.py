"""Run a shell script on another node by ssh, for an operator who may log in there.

Only this module starts ssh. A node that cannot be reached is a value, not an exception.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import NamedTuple

_LIMIT = 300.0  # seconds; somebody may have to type a password
_OPTIONS = (
    *("-T", "-a", "-x"),  # no terminal, and nothing of this machine is at hand over there
    *("-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"),
)
_NOBODY_TO_ASK = ("-o", "BatchMode=yes")
# Who logs in as another user than root needs sudo there.
_AS_ROOT = 'if [ "$(id -u)" = 0 ]; then exec sh -c "$0"; else exec sudo -n sh -c "$0"; fi'
_PATH = "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin\n"
_SSH_FAILED = 255  # the exit status of ssh if it is ssh that has failed


class Ran(NamedTuple):
    """What came of a script on another node."""

    status: int  # with which the script, or ssh, has ended
    output: bytes
    text: str  # what was printed to standard error

    @property
    def reached(self) -> bool:
        """Return whether the script was started."""
        return self.status != _SSH_FAILED


def run(host: str, user: str, script: str, content: bytes = b"") -> Ran:
    """Run `script` as root on `host`, where `user` logs in; `content` is its standard input."""
    command = f"sh -c {shlex.quote(_AS_ROOT)} {shlex.quote(_PATH + script)}"
    options = _OPTIONS if sys.stdin.isatty() else (*_OPTIONS, *_NOBODY_TO_ASK)
    try:
        ran = subprocess.run(
            ["ssh", *options, "-l", user, "--", host, command],
            input=content,
            capture_output=True,
            timeout=_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Ran(_SSH_FAILED, b"", f"it did not end within {_LIMIT:.0f} seconds")
    except FileNotFoundError:
        return Ran(_SSH_FAILED, b"", "there is no ssh here: apt install openssh-client")
    return Ran(ran.returncode, ran.stdout, ran.stderr.decode("utf-8", "backslashreplace"))
