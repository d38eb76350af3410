"""What the scenarios in this directory share: the lab, counted checks, installing the package, reading logs and mails.

A scenario is a program that plays a story on real Debian systems, which `lab` boots on this machine. It shows what
it sees, counts its checks, and ends with a line `N passed, N failed`. LAB_SUITE chooses the Debian release, LAB_INIT the
init (systemd or sysvinit). What is installed is the package DMONITOR_DEB, or else one that is built of this checkout first.
"""

from __future__ import annotations

import contextlib
import datetime
import email
import email.policy
import functools
import io
import json
import os
import re
import signal
import subprocess
import tarfile
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any, TypeVar

CHECKOUT = Path(__file__).resolve().parents[2]
# What the README has a person type, by the block's name.
README = dict(
    re.findall(
        r"^<!-- (\w+) -->\n```sh\n(.*?)^```$", (CHECKOUT / "README.md").read_text(), re.M | re.S
    )
)
PACKAGE = "/root/dmonitor.deb"  # where the README has it
APT_LIMIT = 300.0  # seconds; on a machine that was busy a removal took over a minute
# Seconds until cron begins a round, and ends it: it waits for its place in the minute, or the node
# that would speak stays until its next round is due.
A_ROUND = 185.0

_Found = TypeVar("_Found")
_FACT = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)')
_EVENT = re.compile(r" (dmonitor-check|dmonitord)\[\d+\]: (\S+)(.*)")
# Only dmonitor's: the lab's nodes have no other work for cron. Older packages' rounds were begun as
# dmonitor, and not as root.
_SESSION = re.compile(
    r" CRON\[(\d+)\]: pam_unix\(cron:session\): session (opened|closed) for user (?:root|dmonitor)\b"
)
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Failed(Exception):
    """The story cannot go on."""


class Checks:
    """Counts what holds and what does not, and prints each."""

    def __init__(self) -> None:
        self.passed = self.failed = 0

    def __call__(self, holds: object, what: str, *instead: object) -> None:
        """Count WHAT as passed if it HOLDS; if not, show what was the case INSTEAD."""
        if holds:
            self.passed += 1
            print(f"ok    {what}", flush=True)
        else:
            self.failed += 1
            print(f"FAIL  {what}" + ("; instead:" if instead else ""), flush=True)
            show(instead)


class Lab:
    """The nodes, through the script `lab`."""

    def __init__(self, name: str, *, bare: bool = False, older: Path | None = None) -> None:
        defaults = {"LAB_NAME": name, "LAB_SUITE": "bookworm", "LAB_INIT": "systemd"}
        self._environment = (
            defaults | os.environ | {"LAB_PKGS": "" if bare else ",".join(_wanted(older))}
        )
        self.suite, self.init = self._environment["LAB_SUITE"], self._environment["LAB_INIT"]

    @property
    def has_systemd(self) -> bool:
        return self.init == "systemd"

    def call(
        self, *arguments: str, stdin: bytes = b"", limit: float = 60
    ) -> tuple[int, bytes, str]:
        """Run `lab ARGUMENTS`; return its exit status, its output, and its complaints, or all it said if it failed."""
        command = [str(CHECKOUT / "tests/lab/lab"), *arguments]
        pipe = subprocess.PIPE
        # A process group of its own: a Ctrl-C reaches only this program, which then ends `lab` in good order.
        with subprocess.Popen(
            command, env=self._environment, stdin=pipe, stdout=pipe, stderr=pipe, process_group=0
        ) as process:
            try:
                out, complaints = process.communicate(stdin, limit)
            except BaseException as error:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.communicate(timeout=30)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise Failed(
                        f"lab {' '.join(arguments)}: not ended after {limit:g} s"
                    ) from None
                raise
        said = out + complaints if process.returncode else complaints
        return process.returncode, out, said.decode(errors="replace")

    def do(self, *arguments: str, stdin: bytes = b"", limit: float = 60) -> bytes:
        """Run `lab ARGUMENTS`, which must succeed; return its output."""
        status, out, complaints = self.call(*arguments, stdin=stdin, limit=limit)
        if status:
            raise Failed(
                f"lab {' '.join(arguments)}: exit {status}\n{textwrap.indent(complaints, '      ')}"
            )
        return out

    def run(self, node: str, *command: str, stdin: bytes = b"", limit: float = 60) -> str:
        """Run COMMAND on NODE, as root; it must succeed; return its output."""
        return self.do("exec", node, *command, stdin=stdin, limit=limit).decode(errors="replace")


def play(
    name: str,
    count: int,
    story: Callable[[Lab, Checks], None],
    *,
    bare: bool = False,
    older: Path | None = None,
) -> int:
    """Boot COUNT nodes, tell STORY on them, and take them down, whatever happened; return the exit status.

    BARE nodes have nothing of what dmonitor needs; else they have what the OLDER package needs, too.
    """
    print(f"the package is {deb().name}", flush=True)
    lab, check = Lab(name, bare=bare, older=older), Checks()
    if lab.call("status")[0] == 0:
        print(
            f"the lab {name} is up already; `LAB_NAME={name} tests/lab/lab down` ends what an earlier run left"
        )
        return 1
    for number in _STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        chapter(
            f"{count} nodes boot: {lab.suite}, {lab.init} (the first time, their base is built: a minute)"
        )
        print(lab.do("up", str(count), limit=600).decode(), end="")
        story(lab, check)
    except Failed as error:
        check(False, "the story goes on", error)
    except KeyboardInterrupt:
        check(False, "the story goes on", "interrupted")
    finally:
        _ignore_stops()
        status, _, complaints = lab.call("down", limit=120)
        check(status == 0, "the nodes are gone, with all they left", complaints)
    print(f"{check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


def _stop(*_: object) -> None:
    _ignore_stops()  # once is enough: the nodes are taken down now
    raise KeyboardInterrupt


def _ignore_stops() -> None:
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)


def chapter(title: str) -> None:
    print(f"\n== {title}", flush=True)


def show(lines: Iterable[object], margin: str = "      ") -> None:
    for line in lines:
        print(textwrap.indent(str(line), margin, lambda line: True), flush=True)


def until(find: Callable[[], _Found], seconds: float) -> _Found:
    """Call FIND until what it returns is true, for SECONDS at the most; return what it returned last."""
    end = time.monotonic() + seconds
    while not (found := find()) and time.monotonic() < end:
        time.sleep(1)
    return found


@functools.cache
def deb() -> Path:
    """Return the package that is to be installed."""
    if given := os.environ.get("DMONITOR_DEB"):
        return Path(given)
    built = subprocess.run(
        ["sh", CHECKOUT / "debian/build"], stdout=subprocess.PIPE, text=True, check=True
    )
    return CHECKOUT / built.stdout.split()[-1]


def _wanted(older: Path | None) -> list[str]:
    """Return what the nodes need that a base does not have anyway; they have no package source."""
    # setfacl of acl is what README.Debian has a person type. `confined` sees whether others'
    # plugins can use fping and openssl.
    names = [*_needed(deb()), "acl", "fping", "iputils-ping", "openssl"]
    if older:
        names += [name for name in _needed(older) if name not in names]
    return names


def _needed(package: Path) -> list[str]:
    """Return what the package depends on and recommends, but for what a base has anyway."""
    command = ["dpkg-deb", "--show", "--showformat", "${Depends}, ${Recommends}", str(package)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    # The first alternative, without a version.
    names = [re.split(r"[ :]", field)[0] for field in ran.stdout.split(", ")]
    return [name for name in names if name not in ("python3", "default-mta")]


def bring(lab: Lab, node: str, package: Path | None = None) -> str:
    """Copy the package, or another one, to NODE, where the README has it; return its path there."""
    package = package or deb()
    lab.do("put", node, str(package), PACKAGE)
    return PACKAGE


def install(lab: Lab, node: str, package: Path | None = None) -> None:
    """Do on NODE what the README says, with the package or another one."""
    bring(lab, node, package)
    lab.run(node, "sh", "-e", stdin=README["install"].encode(), limit=APT_LIMIT)


# What changes on any system that runs: logs, mail, and the books of who installs.
_OF_OTHERS = r"/root/dmonitor\.deb$|/(proc|sys|dev|tmp|var/(log|cache|spool|mail|backups|lib/(apt|dpkg|systemd|postfix|logrotate|ucf)))(/|$)|/etc/.*-$|/root/Maildir|/run/(adduser|systemd/(journal|ask-password-block))(/|$)"


def census(lab: Lab, node: str) -> set[str]:
    """Return every file on NODE, /run included, and every user and group."""
    files = lab.run(node, "find", "/", "/run", "-xdev").splitlines()
    people = [
        f"{kind} {line.split(':')[0]}"
        for kind in ("passwd", "group", "shadow")
        for line in lab.run(node, "getent", kind).split()
    ]
    of_it = lab.run(
        node, "find", "/tmp", "/var/mail", "/var/lib/systemd", "-name", "*dmonitor*"
    ).splitlines()
    return {file for file in files if not re.match(_OF_OTHERS, file)} | set(people) | set(of_it)


def stop(lab: Lab, node: str, name: str) -> None:
    """Stop the service NAME on NODE, and whatever would start it again."""
    if lab.has_systemd:
        lab.run(
            node,
            "systemctl",
            "stop",
            *(("ssh.service", "ssh.socket") if name == "ssh" else (name,)),
        )
    else:
        lab.run(node, "service", name, "stop")


def start(lab: Lab, node: str, name: str) -> None:
    lab.run(node, "service", name, "start")


@dataclass(frozen=True)
class Event:
    """A line that dmonitor logged; `number` is that of the line in the journal it was found in."""

    number: int
    name: str
    facts: dict[str, str]
    text: str

    def __str__(self) -> str:
        return self.text


class Journal:
    """What dmonitor, cron and postfix's pickup have logged on one node: in the journal, or where there is none in syslog's files."""

    NAMES = ("dmonitor-check", "dmonitord", "CRON", "postfix/pickup")

    def __init__(self, lab: Lab, node: str, *options: str) -> None:
        if lab.has_systemd:
            options += tuple(f"--identifier={name}" for name in self.NAMES)
            self.lines = lab.run(
                node, "journalctl", "-q", "--no-pager", "--output=short-iso-precise", *options
            ).splitlines()
        else:
            assert not options
            grep = [
                "grep",
                "-hE",
                rf" ({'|'.join(self.NAMES)})\[",
                "/var/log/syslog",
                "/var/log/auth.log",
            ]
            self.lines = sorted(lab.call("exec", node, *grep)[1].decode().splitlines())

    def events(self, name: str = "", since: int = 0, **facts: str) -> list[Event]:
        """Return the events called NAME (or all), from line SINCE on, in which these FACTS stand."""
        found = []
        for number, text in enumerate(self.lines[since:], since):
            if (match := _EVENT.search(text)) and name in ("", match[2]):
                event = Event(
                    number,
                    match[2],
                    {key: value.strip('"') for key, value in _FACT.findall(match[3])},
                    text,
                )
                if facts.items() <= event.facts.items():
                    found.append(event)
        return found

    def rounds(self, since: int = 0) -> list[str]:
        """Return the pids of the rounds that cron began and ended from line SINCE on."""
        sessions = [
            match.groups() for line in self.lines[since:] if (match := _SESSION.search(line))
        ]
        return [pid for pid, what in sessions if what == "closed" and (pid, "opened") in sessions]

    def durations(self) -> list[float]:
        """Return how many seconds each of those rounds took, in the order in which they ended."""
        began: dict[str, datetime.datetime] = {}
        took = []
        for line in self.lines:
            if match := _SESSION.search(line):
                at = datetime.datetime.fromisoformat(line.split()[0])
                if match[2] == "opened":
                    began[match[1]] = at
                elif match[1] in began:
                    took.append((at - began[match[1]]).total_seconds())
        return took


def share_key(lab: Lab, nodes: Sequence[str]) -> None:
    """Have the first of NODES make a key, and the others take it, as the README says."""
    lab.run(nodes[0], "dmonitor", "key", "new")
    key = lab.run(nodes[0], "cat", "/etc/dmonitor/key").encode()
    for node in nodes[1:]:
        lab.run(node, "dmonitor", "key", "set", stdin=key)


def a_round(lab: Lab, nodes: Sequence[str], limit: float = A_ROUND) -> None:
    """Wait until each of NODES has begun and ended a round, for LIMIT seconds at the most."""
    since = {node: len(Journal(lab, node).lines) for node in nodes}

    missing = list(nodes)

    def none_is_missing() -> bool:
        missing[:] = [node for node in missing if not Journal(lab, node).rounds(since[node])]
        return not missing

    if not until(none_is_missing, limit):
        raise Failed(f"cron ran no round in {limit:g} s on {', '.join(missing)}")


@dataclass(frozen=True)
class Mail:
    """A mail in a mailbox, and when it came."""

    came: float
    message: EmailMessage

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])

    def __str__(self) -> str:
        return str(self.message)


def mails(lab: Lab, node: str, home: str) -> list[Mail]:
    """Return the mails in the mailbox below HOME on NODE, oldest first."""
    script = 'cd "$1/Maildir/new" 2>/dev/null || exit 0; tar -c --format=posix .; [ $? -le 1 ]'  # 1: one came meanwhile
    packed = lab.do("exec", node, "sh", "-c", script, "sh", home)
    if not packed:
        return []
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        files = [
            (float(member.mtime), file.read())
            for member in archive
            if (file := archive.extractfile(member))
        ]
    return [
        Mail(came, email.message_from_bytes(content, policy=email.policy.default))
        for came, content in sorted(files)
    ]


def deliver(lab: Lab, nodes: Sequence[str]) -> None:
    """Wait until no mail is under way on NODES any more."""
    for node in nodes:
        if not until(functools.partial(_queue_is_empty, lab, node), 60):
            raise Failed(
                f"mail is stuck in the queue of {node}:\n{lab.run(node, 'postqueue', '-p')}"
            )


def _queue_is_empty(lab: Lab, node: str) -> bool:
    return "Mail queue is empty" in lab.run(node, "postqueue", "-p")


# What the nodes know.

_PEEK = """
import json, sqlite3
db = sqlite3.connect("file:/var/lib/dmonitor/state.db?mode=ro", uri=True)
own = json.loads(json.loads(db.execute("SELECT value FROM memo WHERE key = 'own'").fetchone()[0]))
known = [json.loads(value) for (value,) in db.execute("SELECT value FROM incident")]
still = [each for each in known if "closed" not in each and "removed" not in each]
holds = [each["test"]["host"] + "/" + each["test"]["name"] for each in still]
(owes,) = db.execute("SELECT count(*) FROM outbox").fetchone()
ails = [each["kind"] for each in own.get("troubles", []) if "ended" not in each]
print(json.dumps({"refused": own.get("refused", 0), "open": holds, "ids": sorted(sum((each["ids"] for each in still), [])), "outbox": owes, "troubles": ails}))
"""


def peek(lab: Lab, node: str) -> dict[str, Any]:
    """Return what NODE remembers; as its user, for the database's side files must not become root's."""
    found: dict[str, Any] = json.loads(
        lab.run(node, "runuser", "-u", "dmonitor", "--", "python3", "-c", _PEEK)
    )
    return found


def since(at: float) -> str:
    return f"--since=@{int(at)}"


def between_rounds() -> None:
    """Wait for a moment at which no round runs: the first node's ends before second 40 unless much hangs."""
    until(lambda: 42 <= time.localtime().tm_sec < 54, 65)


def subjects(some: Sequence[Mail]) -> list[str]:
    return [mail.subject for mail in some]


def sent_by(mail: Mail) -> str:
    match = re.search(r"@(\w+)\.lab>", str(mail.message["From"]))
    return match[1] if match else str(mail.message["From"])


@dataclass(frozen=True)
class Told:
    """What a mail tells about one test; a mail may tell of several."""

    came: float
    state: str  # DOWN, STILL DOWN, UP, FLAPPING, or STEADY with or without a verdict
    test: str
    sender: str  # the node
    message_id: str
    subject: str

    def __str__(self) -> str:
        return self.subject


_STATE = r"(DOWN|STILL DOWN|UP|FLAPPING|STEADY(?: [A-Z]+)?)"
_ONE_STORY = re.compile(rf"^{_STATE} (node \S+?|\S+/[^\s,]+?):?(?= |$)")
_SUMMARY_LINE = re.compile(
    rf"^{_STATE} +(?:(?:node|\d+ nodes:) |([^\s:]+): (?:\d+ tests: )?)(\S.*?)(?: \(.*\))?$", re.M
)
_SECTION = re.compile(r"^(\S+/\S+) is (DOWN) since ", re.M)


def told_in(mail: Mail) -> list[Told]:
    """Return what `mail` tells, test by test: one by its subject, several by the summary that its text begins with.

    A summary may be too short for all names; what is DOWN has a section of its own then.
    """
    found = []
    content = mail.message.get_content()
    for state, host, names in _SUMMARY_LINE.findall(content):
        for name in names.removesuffix(" …").split(", "):
            found.append((state, f"{host or 'node'}/{name}"))
    if not found:
        for state, test in _ONE_STORY.findall(mail.subject):
            found.append((state, test.replace("node ", "node/")))
    if not found:
        raise Failed(f"the mail tells nothing that is understood here:\n{mail}")
    listed = {test for _, test in found}
    for test, state in _SECTION.findall(content):
        if test not in listed:
            found.append((state, test))
    message_id = str(mail.message["Message-ID"])
    return [
        Told(mail.came, state, test, sent_by(mail), message_id, mail.subject)
        for state, test in found
    ]


# Stands before postfix's sendmail: notes when it was started, when that took the mail, and which; its input can be read again.
# What it notes outlives a power cut.
NOTING_SENDMAIL, TAKEN = "/usr/local/sbin/lab-sendmail", "/var/log/lab-taken"
_NOTING_PROGRAM = f"""#!/bin/bash
began=$EPOCHREALTIME
/usr/sbin/sendmail "$@"
status=$?
ended=$EPOCHREALTIME
[ $status != 0 ] || echo "$began $ended $(sed -n 's/^Message-ID: //p; /^$/q' /dev/stdin)" >>{TAKEN}
exit $status
"""
# Installs it, on a node that has dmonitor.
NOTE_WHAT_IS_TAKEN = f"""
cat >{NOTING_SENDMAIL} <<'END'
{_NOTING_PROGRAM}END
chmod 755 {NOTING_SENDMAIL}
touch {TAKEN} && chown dmonitor: {TAKEN}
"""


@dataclass(frozen=True)
class Taken:
    """A mail that an MTA took."""

    node: str
    began: float
    ended: float
    message_id: str


def taken_by(lab: Lab, nodes: Sequence[str]) -> list[Taken]:
    """Return the mails that the MTAs of `nodes` took, by what the stand-ins noted."""
    found = []
    for node in nodes:
        for line in lab.run(node, "cat", TAKEN).splitlines():
            began, ended, *message_id = line.split()
            if message_id:  # a mail of cron's, or of a person's, has none yet
                found.append(Taken(node, float(began), float(ended), message_id[0]))
    return found
