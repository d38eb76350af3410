#!/usr/bin/env python3
"""A full disk, and a read-only one: each program says so in one line and ends; with room again, the next round runs.

Needs root: mounts a small tmpfs in a mount namespace of its own (run it under `unshare --mount`).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]
from local_nodes import LocalNode, Place, run_as

ADDRESS, PORT = "127.0.0.63", 3963
counts = {True: 0, False: 0}


def fill(directory: Path) -> None:
    with contextlib.suppress(OSError), open(directory / "fill", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def check(node: LocalNode, program: str, when: str, status: int, said: str) -> None:
    ran = node.run(program)
    good = ran.returncode == status and said in ran.stderr and ran.stderr.count("\n") == (status != 0)
    counts[good] += 1
    print(f"{'ok' if good else 'FAIL':<5} {program}, {when}: {ran.returncode} {ran.stderr.strip()}")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="dmonitor-full.") as directory:
        node = LocalNode(Place(Path(directory)), ADDRESS, [ADDRESS, "127.0.0.64"], port=PORT)
        node.plugin("web", "echo FAIL no route")
        node.test("www.example.com/web")
        options = f"size=256k,uid={run_as().pw_uid},gid={run_as().pw_gid},mode=750"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(node.state)], check=True)
        try:
            fill(node.state)
            for program in ("dmonitor-check", "dmonitord", "dmonitor-check"):
                check(node, program, "full from the start", os.EX_TEMPFAIL, "No space left on device")
            (node.state / "fill").unlink()
            check(node, "dmonitor-check", "with room again", os.EX_OK, "")
            fill(node.state)
            for _ in range(2):
                check(node, "dmonitor-check", "full later", os.EX_TEMPFAIL, "unable to use the state")
            (node.state / "fill").unlink()
            check(node, "dmonitor-check", "with room again", os.EX_OK, "")
            subprocess.run(["mount", "-o", "remount,ro", str(node.state)], check=True)
            check(node, "dmonitor-check", "read-only", os.EX_TEMPFAIL, "Read-only file system")
        finally:
            subprocess.run(["umount", str(node.state)], check=True)
    print(f"{counts[True]} passed, {counts[False]} failed")
    return 1 if counts[False] else 0


if __name__ == "__main__":
    sys.exit(main())
