"""Real nodes on loopback addresses of this machine, for the demo and the tests.

They work as any user. Root's programs become another user. So everything lies in a directory that all
users may read, with a copy of the package, and belongs to that user if the programs write it.
"""

from __future__ import annotations

import contextlib
import email
import email.message
import email.policy
import os
import pwd
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
ADDRESS = "oncall@example.com"
_SENDMAIL = """#!/bin/sh
# A stand-in for sendmail: it keeps the mail and its arguments as a file in the mailbox.
umask 000
draft=$(mktemp {0}/.draft.XXXXXX) && {{ echo "X-Arguments: $*"; cat; }} >"$draft" && mv "$draft" {0}/$(date +%s%N)-$$
"""


def wait_until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until `condition` is true; raise AssertionError if it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def run_as() -> pwd.struct_passwd:
    """Return the user that the programs become on this machine."""
    if os.geteuid():
        return pwd.getpwuid(os.geteuid())
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("dmonitor")
    return pwd.getpwnam("nobody")


class Place:
    """A directory with a copy of the programs, a mailbox, and a sendmail that delivers there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.chmod(0o755)
        shutil.copytree(
            CHECKOUT / "dmonitor",
            directory / "dmonitor",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        shutil.copytree(CHECKOUT / "bin", directory / "bin")
        self.mailbox = self.writable("mail")
        self.sendmail = self.program("sendmail", _SENDMAIL.format(self.mailbox))

    def writable(self, name: str) -> Path:
        """Make a directory that the programs may write to."""
        path = self.directory / name
        path.mkdir(parents=True)
        os.chown(path, run_as().pw_uid, run_as().pw_gid)
        return path

    def program(self, name: str, code: str) -> Path:
        path = self.directory / name
        path.write_text(code)
        path.chmod(0o755)
        return path

    def environment(self) -> dict[str, str]:
        """Return what a node's programs find in their environment, as cron starts them."""
        environment = {**os.environ, "MAILTO": "root", "PYTHONPATH": str(self.directory)}
        for name in ("JOURNAL_STREAM", "COLUMNS"):  # a terminal of the tests is none of theirs
            environment.pop(name, None)
        return {**environment, "PYTHONDONTWRITEBYTECODE": "1"}

    def replace(self, module: str, old: str, new: str) -> None:
        """Change a module of the programs, which are a copy."""
        path = self.directory / "dmonitor" / module
        text = path.read_text()
        assert text.count(old) == 1, f"{old} in {module}"
        path.write_text(text.replace(old, new))

    def rests_never(self) -> None:
        """Let what an address has refused be tried again by the next round."""
        rests = "_SHORTEST_REST, _LONGEST_REST = "
        self.replace("core/refusals.py", f"{rests}60.0, 1800.0", f"{rests}0.0, 0.0")

    def mails(self) -> list[email.message.EmailMessage]:
        files = sorted(path for path in self.mailbox.iterdir() if not path.name.startswith("."))
        return [
            email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            for path in files
        ]

    def subjects(self) -> list[str]:
        return [str(mail["Subject"]) for mail in self.mails()]


class LocalNode:
    """A node at one address: its configuration, its state, and its programs."""

    def __init__(
        self, place: Place, address: str, nodes: Sequence[str], *, port: int = 2929, conf: str = ""
    ) -> None:
        self.place = place
        self.address = address
        self.port = port
        self.also: tuple[str, ...] = ()  # more options for every program
        self.config = place.directory / address
        for name in ("hosts.d", "alert.d", "plugins"):
            (self.config / name).mkdir(parents=True)
        # Plugins that others may write are not run, so the umask must not matter.
        (self.config / "plugins").chmod(0o755)
        self.state = place.writable(f"{address}-state")
        (self.config / "nodes.txt").write_text("".join(f"{node}\n" for node in nodes))
        settings = f"listen = {address}\nport = {port}\nsendmail = {place.sendmail}\n{conf}"
        if "troubles" not in conf:  # what a test says of mails is about alerts
            settings += "troubles = root\n"
        (self.config / "dmonitor.conf").write_text(settings)

    def test(self, name: str, content: str = "") -> Path:
        """Make the test HOST/NAME."""
        path = self.config / "hosts.d" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return path

    def configure(self, lines: str) -> None:
        """Add lines to dmonitor.conf."""
        if "troubles" in lines:
            path = self.config / "dmonitor.conf"
            path.write_text(path.read_text().replace("troubles = root\n", ""))
        with open(self.config / "dmonitor.conf", "a") as file:
            file.write(lines)

    def plugin(self, name: str, code: str, interpreter: str = "/bin/sh") -> Path:
        path = self.config / "plugins" / f"check_{name}"
        path.write_text(f"#!{interpreter}\n" + textwrap.dedent(code).lstrip())
        path.chmod(0o755)
        return path

    def mail(self, address: str = ADDRESS) -> None:
        """Add an address that is mailed."""
        (self.config / "alert.d" / address).touch()

    def key(self, key: str, name: str = "key") -> None:
        """Set the key that this node shares with others."""
        draft = self.config / ".key"
        draft.write_text(key + "\n")
        draft.chmod(0o640)
        os.chown(draft, -1, run_as().pw_gid)
        draft.rename(self.config / name)

    def command(self, program: str, *options: str) -> list[str]:
        script = self.place.directory / "bin" / program
        return [
            sys.executable,
            str(script),
            "--config",
            str(self.config),
            "--state",
            str(self.state),
            *self.also,
            *options,
        ]

    def run(self, program: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(program, *options),
            env=self.place.environment(),
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=58,
            cwd="/",
            check=False,
            start_new_session=True,  # as cron does: a terminal changes what a round does
        )

    def popen(self, program: str, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(program, *options),
            env=self.place.environment(),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )

    def round(self) -> str:
        """Run a round; return what it logged. Raise AssertionError unless it ended with 0."""
        ran = self.run("dmonitor-check", "--verbose", "--once")
        assert ran.returncode == 0, (
            f"dmonitor-check on {self.address} ended with {ran.returncode}:\n{ran.stderr}"
        )
        return ran.stderr

    @property
    def daemon_pid(self) -> int:
        return int((self.state / "dmonitord.pid").read_text())

    def start(self) -> None:
        started = self.run("dmonitord")
        assert started.returncode == 0, (
            f"dmonitord on {self.address} ended with {started.returncode}: {started.stderr}"
        )

    def stop(self) -> None:
        """End the daemon if it runs, and wait until it is gone."""
        with contextlib.suppress(OSError, ValueError):
            pid = self.daemon_pid
            os.kill(pid, signal.SIGTERM)
            for _ in range(500):
                if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z":
                    break  # it has ended; init is slow to collect it
                time.sleep(0.01)


@contextlib.contextmanager
def running(nodes: Sequence[LocalNode]) -> Iterator[None]:
    """Run the daemons of `nodes` meanwhile."""
    try:
        for node in nodes:
            node.start()
        yield
    finally:
        for node in nodes:
            node.stop()
