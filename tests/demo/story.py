"""The story that `sh demo` tells: three real nodes, a real target, a sendmail that shows what it gets.

Exit status 0 only if exactly the expected mails came.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import http.server
import os
import pwd
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
NODES = {"127.0.0.11": "oslo", "127.0.0.12": "paris", "127.0.0.13": "rome"}
TARGET = "127.0.0.21"
HTTP, SSH = 8029, 8022
ADDRESS = "oncall@example.com"

# A plugin is any program that prints OK or FAIL. These two are Python, so that the demo needs nothing installed.
PLUGINS = {
    "check_http": """
        import os, sys, http.client
        try:
            connection = http.client.HTTPConnection(sys.argv[1], int(os.environ["PORT"]), 8, (os.environ["SOURCE"], 0))
            connection.request("GET", "/")
            print("OK" if (status := connection.getresponse().status) < 400 else "FAIL", "HTTP status", status)
        except OSError as error:
            print("FAIL", error.strerror or error)
        except http.client.HTTPException as error:
            print("FAIL", error)
        """,
    "check_ssh": """
        import os, sys, socket
        try:
            with socket.create_connection((sys.argv[1], int(os.environ["PORT"])), 8, (os.environ["SOURCE"], 0)) as connection:
                banner = connection.recv(100).decode("ascii", "replace").strip()
            print("OK" if banner.startswith("SSH-2.0-") else "FAIL", banner or "closed without a greeting")
        except OSError as error:
            print("FAIL", error.strerror or error)
        """,
}
SENDMAIL = """#!/bin/sh
# A stand-in for sendmail: keeps the mail where the demo finds it.
umask 000
draft=$(mktemp {0}/.draft.XXXXXX) && cat >"$draft" && mv "$draft" {0}/$(date +%s%N)
"""


class Target:
    """A host with a web server and something like an SSH daemon, and a firewall that can shut single callers out."""

    def __init__(self) -> None:
        self.blocked: set[str] = set()
        target = self

        class Web(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.client_address[0] not in target.blocked:
                    self.send_response(200)
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Ssh(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                if self.client_address[0] not in target.blocked:
                    self.request.sendall(b"SSH-2.0-demo\r\n")

        self._kinds = ((HTTP, Web), (SSH, Ssh))
        self._servers: list[socketserver.ThreadingTCPServer] = []

    def start(self) -> None:
        for port, handler in self._kinds:
            server = socketserver.ThreadingTCPServer((TARGET, port), handler, bind_and_activate=False)
            server.allow_reuse_address = True
            server.daemon_threads = True
            server.server_bind()
            server.server_activate()
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            self._servers.append(server)

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers.clear()


class Cluster:
    """Three configuration trees below a temporary directory, and the programs that run on them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mailbox = directory / "mail"
        # As root, the programs become another user, who may not be able to read the checkout.
        shutil.copytree(CHECKOUT / "dmonitor", directory / "dmonitor", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(CHECKOUT / "bin", directory / "bin")
        self.mailbox.mkdir()
        sendmail = directory / "sendmail"
        sendmail.write_text(SENDMAIL.format(self.mailbox))
        sendmail.chmod(0o755)
        for address in NODES:
            self._node(address)
        if os.geteuid() == 0:
            user = self._user()
            for path in (self.mailbox, *(directory / address / "state" for address in NODES)):
                os.chown(path, user.pw_uid, user.pw_gid)

    def _user(self) -> pwd.struct_passwd:
        try:
            return pwd.getpwnam("dmonitor")
        except KeyError:
            return pwd.getpwnam("nobody")

    def _node(self, address: str) -> None:
        tree = self.directory / address
        for name in ("hosts.d/" + TARGET, "alert.d", "plugins", "state"):
            (tree / name).mkdir(parents=True)
        (tree / "nodes.txt").write_text("".join(f"{node}\n" for node in NODES))
        (tree / "dmonitor.conf").write_text(f"listen = {address}\nsendmail = {self.directory}/sendmail\n")
        for name, port in (("http", HTTP), ("ssh", SSH)):
            (tree / "hosts.d" / TARGET / name).write_text(f"PORT={port}\nSOURCE={address}\n")
        for name, code in PLUGINS.items():
            (tree / "plugins" / name).write_text(f"#!{sys.executable}\n" + textwrap.dedent(code).lstrip())
            (tree / "plugins" / name).chmod(0o755)
        if NODES[address] == "oslo":  # as yet each node that has an address mails: one has it
            (tree / "alert.d" / ADDRESS).touch()

    def run(self, program: str, address: str, *options: str) -> subprocess.CompletedProcess[str]:
        tree = self.directory / address
        command = [sys.executable, str(self.directory / "bin" / program)]
        command += ["--config", str(tree), "--state", str(tree / "state"), *options]
        environment = {**os.environ, "PYTHONPATH": str(self.directory), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=58, cwd="/", check=False)

    def start(self) -> None:
        for address in NODES:
            started = self.run("dmonitord", address)
            if started.returncode:
                raise SystemExit(f"dmonitord on {address}: {started.stderr}")

    def stop(self) -> None:
        for address in NODES:
            with contextlib.suppress(OSError, ValueError):
                pid = int((self.directory / address / "state" / "dmonitord.pid").read_text())
                os.kill(pid, signal.SIGTERM)
                for _ in range(300):
                    os.kill(pid, 0)
                    time.sleep(0.01)

    def round(self) -> dict[str, str]:
        """Run a round on each node, one after the other; return what each logged."""
        logs = {}
        for address in NODES:
            ran = self.run("dmonitor-check", address, "-v")
            if ran.returncode:
                raise SystemExit(f"dmonitor-check on {address} ended with {ran.returncode}:\n{ran.stderr}")
            logs[address] = ran.stderr
        return logs

    def mails(self) -> list[email.message.EmailMessage]:
        files = sorted(path for path in self.mailbox.iterdir() if not path.name.startswith("."))
        return [email.message_from_bytes(path.read_bytes(), policy=email.policy.default) for path in files]  # type: ignore[misc]

    def table(self) -> None:
        """Show who sees what."""
        print(textwrap.indent(self.run("dmonitor-check", "127.0.0.11", "--dry-run").stdout, "    "))


def pass_time() -> None:
    """Wait until no node remembers an answer any more; between two rounds of cron that is always so."""
    time.sleep(5.2)


def chapter(title: str) -> None:
    print(f"\n== {title}", flush=True)


def lines_about(log: str, *events: str) -> None:
    for line in log.splitlines():
        if line.partition(": ")[2].startswith(events):
            print("    " + line)


def show(mails: list[email.message.EmailMessage]) -> None:
    for mail in mails:
        print(textwrap.indent(str(mail), "    | ", lambda line: True))


def tell(cluster: Cluster, target: Target) -> list[str]:
    """Play the story; return the subjects of the mails that came."""
    names = ", ".join(f"{name} ({address})" for address, name in NODES.items())
    print(f"Three nodes on this machine: {names}; each tests {TARGET}, a web server and something like an SSH daemon.")
    chapter("All is up: a round on each node says nothing, and mails nothing")
    target.start()
    cluster.round()
    cluster.table()
    print(f"    mails so far: {len(cluster.mails())}")

    chapter("The target shuts oslo out: oslo alone sees it fail. No mail, and the log says why")
    target.blocked.add("127.0.0.11")
    lines_about(cluster.round()["127.0.0.11"], "asked test", "answer", "verdict")
    print(f"    mails so far: {len(cluster.mails())}")
    target.blocked.clear()

    chapter("The target is really down: two nodes agree, and oslo, which has an address in alert.d, mails")
    pass_time()
    target.stop()
    lines_about(cluster.round()["127.0.0.11"], "verdict", "incident", "handed-over")
    seen = len(cluster.mails())
    show(cluster.mails())

    chapter("A minute later it is still down: nothing more is mailed")
    cluster.round()
    cluster.table()
    print(f"    mails so far: {len(cluster.mails())}")

    chapter("It is back: one mail says so")
    pass_time()
    target.start()
    lines_about(cluster.round()["127.0.0.11"], "verdict", "incident", "handed-over")
    show(cluster.mails()[seen:])
    return [str(mail["Subject"]) for mail in cluster.mails() if mail["To"] == ADDRESS]


def main() -> int:
    """Tell the story in a temporary directory; return 0 if it went as it should."""
    began = time.monotonic()
    target = Target()
    with tempfile.TemporaryDirectory(prefix="dmonitor-demo.") as name:
        directory = Path(name)
        directory.chmod(0o755)
        cluster = Cluster(directory)
        try:
            cluster.start()
            subjects = tell(cluster, target)
            count = len(cluster.mails())
        finally:
            cluster.stop()
            target.stop()
    expected = [f"DOWN 2 tests on {TARGET}", f"UP 2 tests on {TARGET}"]
    chapter(f"Mails that came: {count} ({'; '.join(subjects)}), in {time.monotonic() - began:.0f} s")
    if count != len(expected) or subjects != expected:
        print(f"dmonitor demo: FAILED: expected exactly {expected}", file=sys.stderr)
        return 1
    print("dmonitor demo: as it should be: one mail when it went down, one when it came back, none for what one node alone saw.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
