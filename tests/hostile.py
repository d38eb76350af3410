"""Hostile plugins, and the result that each must get: for the tests and the scenarios."""

from __future__ import annotations

import dataclasses
import os
import random
import resource
import time
from pathlib import Path

from dmonitor.core.model import Outcome

OK, FAIL, TIMEOUT, UNKNOWN = Outcome

# Each process that these plugins leave has one of these in its command line. No other process of
# this machine has, because another run of the same tests has other marks.
_OURS = f"{random.SystemRandom().randrange(10**8):08}"
MARK, LONG = f"dmhostile{_OURS}", f"987.{_OURS}"


@dataclasses.dataclass(frozen=True)
class Hostile:
    """A plugin: its code, its outcome by rule R1, and a part of its text."""

    code: str | bytes
    outcome: Outcome
    text: str = ""
    mode: int = 0o755


SH = "#!/bin/sh\n"
PY = "#!/usr/bin/python3\n"
SLEEP = (
    f'sh -c "sleep {LONG}; : {MARK}"'  # `: MARK` keeps the sh, whose command line tells what it is
)

HOSTILE = {
    "sleeps": Hostile(SH + SLEEP, TIMEOUT, "not ended after"),
    "says-ok-and-sleeps": Hostile(SH + f"echo OK\n{SLEEP}", TIMEOUT, "it had said: OK"),
    "ignores-term": Hostile(SH + f"trap '' TERM INT HUP\n{SLEEP}\n{SLEEP}", TIMEOUT),
    "loops": Hostile(SH + f"while :; do :; done # {MARK}", TIMEOUT),
    "stops-itself": Hostile(SH + f"kill -STOP $$ # {MARK}", TIMEOUT),
    "background-child": Hostile(SH + f"{SLEEP} &\necho OK done", OK, "done"),
    "background-holds-pipe": Hostile(SH + f"{SLEEP} &\n{SLEEP} &\necho FAIL held", FAIL, "held"),
    "setsid-child": Hostile(SH + f"setsid {SLEEP} &\necho OK gone", OK, "gone"),
    "setsid-grandchild": Hostile(SH + f"(setsid {SLEEP} &)\necho OK away", OK, "away"),
    "setsid-hangs": Hostile(SH + f"setsid {SLEEP} &\n{SLEEP}", TIMEOUT),
    "daemon": Hostile(
        PY
        + "import os, sys, time\nif os.fork(): os._exit(print('OK forked') or sys.stdout.flush() or 0)\n"
        f"os.setsid()\nif os.fork(): os._exit(0)\nos.execv('/bin/sh', ['sh', '-c', 'sleep {LONG}; : {MARK}'])\n",
        OK,
        "forked",
    ),
    "daemon-closes-all": Hostile(
        SH + f"setsid {SLEEP} </dev/null >/dev/null 2>&1 &\necho OK quiet", OK, "quiet"
    ),
    "tree": Hostile(
        SH
        + f"for i in 1 2 3 4 5; do (setsid sh -c '{SLEEP} & {SLEEP}' &) ; done\nsleep 0.1\necho OK planted",
        OK,
        "planted",
    ),
    "renices": Hostile(SH + f"renice 19 $$ >/dev/null\nexec {SLEEP}", TIMEOUT),
    "floods": Hostile(SH + f"exec yes OK {MARK}", TIMEOUT, "it had said: OK"),
    "floods-no-newline": Hostile(SH + f"exec tr '\\0' x </dev/zero # {MARK}", TIMEOUT),
    "floods-stderr": Hostile(SH + f"yes {MARK} >&2", UNKNOWN),
    "floods-and-ends": Hostile(SH + "echo OK much\nhead -c 20000000 /dev/zero", OK, "much"),
    "long-line": Hostile(SH + "printf 'OK '; head -c 100000 /dev/zero | tr '\\0' y", OK, "yyy"),
    "binary": Hostile(
        SH + r"printf '\200'; head -c 5000 /dev/urandom | tr -d 'A-Z '", UNKNOWN, "says neither"
    ),
    "invalid-utf8": Hostile(SH + r"printf 'FAIL \377\376 bad\n'", FAIL, "bad"),
    "escapes": Hostile(SH + r"printf 'OK \033[2Jcleared\007\n'", OK, "\\x1b[2Jcleared\\x07"),
    "nul": Hostile(SH + r"printf 'OK a\0b\n'", OK, "a\\x00b"),
    "no-newline": Hostile(SH + "printf OK", OK),
    "empty": Hostile(SH, UNKNOWN, "said nothing"),
    "only-newline": Hostile(SH + "echo; echo OK", UNKNOWN, "said nothing"),
    "lower-case": Hostile(SH + "echo ok", UNKNOWN, "and is 'ok'"),
    "ok-glued": Hostile(SH + "echo OKAY", UNKNOWN, "OKAY"),
    "fails-with-ok": Hostile(SH + "echo OK so it says; exit 2", OK, "so it says"),
    "stderr-only": Hostile(SH + "echo no route >&2; exit 3", UNKNOWN, "stderr: no route (exit 3)"),
    "signal": Hostile(SH + "echo OK; kill -SEGV $$", UNKNOWN, "died of SIGSEGV"),
    "kills-group": Hostile(SH + "echo OK; kill -KILL 0", UNKNOWN, "died of SIGKILL"),
    "fills-disk": Hostile(
        SH
        + "f=$(mktemp /tmp/dmhostile.XXXXXX) && exec 3<>$f && rm $f && exec dd if=/dev/zero bs=1M count=3 >&3",
        UNKNOWN,
        "SIGXFSZ",
    ),
    "not-executable": Hostile(SH + "echo OK", UNKNOWN, "is not executable", 0o644),
    "no-interpreter": Hostile(
        "#!/nonexistent/sh\necho OK\n", UNKNOWN, "interpreter that does not exist"
    ),
    "no-interpreter-named": Hostile("#!\necho OK\n", UNKNOWN, "interpreter that does not exist"),
    "no-program": Hostile("echo OK\n", UNKNOWN, "neither a program nor a script"),
    "garbage-program": Hostile(b"\x7fELF" + bytes(100), UNKNOWN),
}
# What it starts takes its mark off, and kills the process that would end it, with all that the other
# plugins are about to say. So it is played alone. Before that, it writes down what it has done.
KILLS_WARDEN = """#!/usr/bin/python3
import os, resource, signal, time
warden = os.getppid()
if os.fork():
    time.sleep(60)
os.setsid()
locks = 10  # RLIMIT_LOCKS
marked, hard = resource.getrlimit(locks)
resource.setrlimit(locks, (hard, hard))
with open("{proof}.draft", "w") as file:
    print(warden, marked, resource.getrlimit(locks)[0], file=file)
os.rename("{proof}.draft", "{proof}")
if {kills}:
    os.kill(warden, signal.SIGKILL)
os.execv("/bin/sh", ["sh", "-c", "sleep {long}; : {mark}"])
"""


def kills_warden(proof: Path, *, kills: bool = True) -> str:
    """Return the code of that plugin; without `kills`, somebody else does the killing."""
    return KILLS_WARDEN.format(proof=proof, kills=kills, long=LONG, mark=MARK)


def warden_of(proof: Path) -> int:
    """Return the pid of the warden, as the plugin wrote it down; it had a mark, and took it off."""
    warden, marked, mark = map(int, proof.read_text().split())
    assert marked != mark == resource.RLIM_INFINITY, (marked, mark)
    return warden


SPECIAL = {
    "dangling": (UNKNOWN, "is a dangling link"),
    "missing": (UNKNOWN, "no plugin"),
    "directory": (UNKNOWN, "is not a file"),
}


def plant(plugins: Path) -> dict[str, tuple[Outcome, str]]:
    """Write all of them to `plugins`; return the outcome and the text of each, by name."""
    for name, hostile in HOSTILE.items():
        path = plugins / f"check_{name}"
        path.write_bytes(hostile.code.encode() if isinstance(hostile.code, str) else hostile.code)
        path.chmod(hostile.mode)
    (plugins / "check_dangling").symlink_to("/nonexistent/plugin")
    (plugins / "check_directory").mkdir()
    return {name: (hostile.outcome, hostile.text) for name, hostile in HOSTILE.items()} | SPECIAL


def strays() -> list[str]:
    """Return the command lines of all processes that these plugins have left."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = (
                Path(f"/proc/{pid}/cmdline")
                .read_bytes()
                .replace(b"\0", b" ")
                .decode(errors="replace")
            )
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
        except OSError:
            continue
        if state != "Z" and (MARK in command or f"sleep {LONG}" in command):
            found.append(f"{pid} {command}")
    return found


def gone_within(seconds: float) -> bool:
    """Wait up to `seconds` until no stray is left; return whether none is."""
    deadline = time.monotonic() + seconds
    while strays() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not strays()
