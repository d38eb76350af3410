"""The operator's command: what it says of real nodes, as tables and as JSON, and what it changes."""

from __future__ import annotations

import collections
import contextlib
import datetime
import errno
import json
import os
import re
import resource
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from local_nodes import ADDRESS, CHECKOUT, LocalNode, Place, run_as, running

from dmonitor.core.effects import NodeMemory, Save
from dmonitor.core.model import (
    Answer,
    Change,
    Incident,
    Judgement,
    LastLook,
    Node,
    Outcome,
    Result,
    Test,
    TestState,
    Verdict,
)
from dmonitor.core.wants import Pattern, Wants
from dmonitor.net.replies import REUSED_SECONDS
from dmonitor.operator import availability, metrics, page, publish, report, terminal
from dmonitor.store import database, state

SCHEMA = json.loads((CHECKOUT / "doc/dmonitor.schema.json").read_text())
WEB = "www.example.com/web"
UP_HERE = Judgement(Verdict.UP, 2, (Answer(Node("oslo", "oslo"), result=Result(Outcome.OK)),))


class Said:
    """What `dmonitor` says on a node."""

    def __init__(self, node: LocalNode) -> None:
        self.node = node

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        options = ["--config", str(self.node.config), "--state", str(self.node.state)]
        options += self.node.also
        command = [
            sys.executable,
            str(self.node.place.directory / "bin/dmonitor"),
            *options,
            *words,
        ]
        variables = self.node.place.environment() | environment
        return subprocess.run(
            command, env=variables, text=True, capture_output=True, cwd="/", timeout=40, check=False
        )

    def __call__(self, *words: str) -> str:
        ran = self.run(*words)
        assert (ran.returncode, ran.stderr) == (0, ""), ran
        return ran.stdout

    def json(self, *words: str) -> Any:
        """Return what it says as JSON, which is as the schema wants it."""
        facts = json.loads(self(*words, "--json"))
        verb = "status --peers" if "--peers" in words else words[0]
        jsonschema.validate(facts, {**SCHEMA, "$ref": f"#/$defs/{verb}"})
        return facts


def prepare(nodes: list[LocalNode]) -> None:
    for node in nodes:
        node.mail()
        for test in (WEB, "www.example.com/ssh", "mail.example.com/ssh"):
            node.test(test)
        node.plugin("web", "echo OK 200")
        node.plugin("ssh", "echo OK SSH-2.0")


def forget() -> None:
    time.sleep(5.2)  # until the daemons have forgotten what they answered


@pytest.fixture
def story(three: list[LocalNode]) -> Callable[[str], None]:
    """Three nodes with a passing round each; call it to have a test fail, or pass again, everywhere but on the last."""
    prepare(three)

    def play(said: str) -> None:
        for node in three[:2]:
            node.plugin("web", f"echo {said}")
        forget()
        for node in three:
            node.round()

    return play


_VERBS_THAT_READ = ("status", "history", "metrics", "why", "page", "silences", "peers")
_NOT_BEGUN = "no round has stored anything on this node yet; check that cron starts dmonitor-check"


def spoil(node: LocalNode, how: str) -> None:
    """Make the state of `node` what it is before or without a whole first round."""
    path = node.state / "state.db"
    match how:
        case "empty":
            path.touch()
        case "garbage":
            path.write_bytes(b"not a database at all" * 1000)
        case "unreadable":
            path.touch()
            path.chmod(0)
        case "directory":
            path.mkdir()
        case "dangling":
            path.symlink_to("nowhere")
        case "empty node-id":
            (node.state / "node-id").touch()
        case "no directory":
            node.state.rmdir()
    for each in (path, node.state / "node-id"):
        if each.exists() and how != "unreadable":
            os.chown(each, run_as().pw_uid, run_as().pw_gid)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("empty", f"state.db is empty: {_NOT_BEGUN}"),
        ("garbage", "state.db: file is not a database"),
        ("unreadable", f"state.db: Permission denied for user {run_as().pw_name}"),
        ("directory", "state.db is not a regular file: move it away"),
        ("dangling", "state.db is not a regular file: move it away"),
        ("empty node-id", "state.db does not exist: no round has run on this node; check that"),
        ("no directory", "state.db does not exist: no round has run on this node; check that"),
    ],
)
def test_a_state_that_says_nothing_is_one_line(how: str, text: str, three: list[LocalNode]) -> None:
    prepare(three)
    spoil(three[0], how)
    said = Said(three[0])
    for verb in _VERBS_THAT_READ:
        words = [verb]
        if verb == "why":
            words.append(WEB)
        elif verb in ("metrics", "page"):
            words.append("-")
        ran = said.run(*words)
        if verb == "peers" and not ran.returncode:
            assert ran.stderr == "" and "127.0.0.32" in ran.stdout, "it needs no state"
            continue
        assert ran.returncode == os.EX_TEMPFAIL and ran.stdout == "", (words, ran)
        assert ran.stderr.count("\n") == 1 and text in ran.stderr, (words, ran)


def test_a_first_round_that_has_not_ended_is_no_reason_to_fail(three: list[LocalNode]) -> None:
    prepare(three)
    with state.Store(str(three[0].state)) as store:
        store.remember([ADDRESS], {"127.0.0.32": ["127.0.0.32"]})
    for path in three[0].state.iterdir():
        os.chown(path, run_as().pw_uid, run_as().pw_gid)
    said = Said(three[0])
    assert "it has never finished a round" in said("status").splitlines()[0]
    assert said.json("status")["can_alert"] is False
    assert "no incidents" in said("history") and "no silences" in said("silences")
    assert "not tested yet" in said("why", WEB)
    assert "dmonitor_last_round_timestamp_seconds" in said("metrics", "-")
    assert "</html>" in said("page", "-")


def test_from_first_to_last(
    three: list[LocalNode], story: Callable[[str], None], place: Place
) -> None:
    first, second = Said(three[0]), Said(three[1])
    early = first.run("status")
    assert (
        early.returncode == os.EX_TEMPFAIL
        and "no round has run on this node; check that cron starts dmonitor-check" in early.stderr
    )
    with running(three):
        story("OK 200")
        story("FAIL connection refused")
        lines = first("status").splitlines()
        assert re.fullmatch(
            r"127\.0\.0\.31 can alert: 2 of 2 peers reached, quorum 2, last round \d s ago, 1 address, nothing owed",
            lines[0],
        )
        table = lines[lines.index("") + 1 :]
        assert table[0].split()[:3] == ["STATE", "TEST", "SINCE"] and table[0].endswith(" TEXT")
        assert re.match(
            rf"DOWN +{WEB} +\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d \(\d+ s\) +connection refused$",
            table[1],
        ), "what is bad comes first"
        facts = first.json("status")
        (down,) = [each for each in facts["tests"] if each["state"] == "DOWN"]
        assert (
            facts["can_alert"]
            and down["here"] == "FAIL"
            and down["incident"]
            and down["test"] == WEB
        )
        assert [each["test"] for each in first.json("status", "mail.example.com")["tests"]] == [
            "mail.example.com/ssh"
        ]
        assert [each["state"] for each in first.json("status", WEB)["tests"]] == ["DOWN"]

        everybody = first("status", WEB, "--peers").splitlines()
        assert everybody[-1].split() == ["DOWN", WEB, "FAIL", "FAIL", "OK"]
        assert everybody[-2].split() == ["STATE", "TEST", "127.0.0.31", "127.0.0.32", "127.0.0.33"]
        (test,) = first.json("status", WEB, "--peers")["tests"]
        assert [each["sees"] for each in test["evidence"]["answers"]] == ["FAIL", "FAIL", "OK"]

        why = first("why", WEB)
        assert why.startswith(f"{WEB} is DOWN since ") and "2 failing, quorum 2: DOWN" in why
        assert f"The alert was handed over by 127.0.0.31: from here to {ADDRESS} at " in why
        assert (
            "The alert was handed over by 127.0.0.31; this node has no record of the recipients."
            in second("why", WEB)
        )
        story("OK 200")
    (known,) = first.json("history")["incidents"]
    assert known["seen_by"] == ["127.0.0.31", "127.0.0.32"] and known["recovery_by"] == "127.0.0.31"
    assert [each["address"] for each in (*known["alert_to"], *known["recovery_to"])] == [
        ADDRESS
    ] * 2
    assert [
        each["incident"] for each in second.json("history", "www.example.com")["incidents"]
    ] == [known["incident"]]
    assert first.json("history", "mail.example.com/ssh")["incidents"] == []
    assert re.search(
        rf"^\S+ \S+ +\d+ s +{WEB} +127\.0\.0\.31, 127\.0\.0\.32 +127\.0\.0\.31$",
        first("history"),
        re.MULTILINE,
    )
    changes = [(each["state"], each["here"]) for each in first.json("history", WEB)["changes"]]
    assert changes == [("UP", "OK"), ("DOWN", "FAIL"), ("UP", "OK")], "the newest first"
    facts = second.json("why", WEB)
    assert facts["state"] == "UP" and facts["last_incident"]["closing"]["verdict"] == "UP"
    mails = " ".join(mail.get_content() for mail in place.mails())
    for answer in facts["last_incident"]["opening"]["answers"]:
        assert re.search(rf"{re.escape(answer['node'])} +{answer['sees']}", mails), (
            "the mail had the same evidence"
        )


def test_what_is_not_there_is_said(three: list[LocalNode], story: Callable[[str], None]) -> None:
    with running(three):
        story("OK 200")
    said = Said(three[0])
    for words, complaint in (
        (
            ("status", "www.example.com/wbe"),
            f"no such test: 'www.example.com/wbe'; did you mean {WEB}?",
        ),
        (
            ("status", "ww.example.com"),
            "no such host: 'ww.example.com'; did you mean www.example.com?",
        ),
        (
            ("why", "www.example.com"),
            f"which test of www.example.com? HOST/TEST: www.example.com/ssh, {WEB}",
        ),
        (("history", "nowhere"), "no such host: 'nowhere'"),
        (("silence", "../x", "2h"), "'../x' is neither HOST nor HOST/TEST"),
        (
            ("silence", WEB, "tomorrow"),
            "'tomorrow' is neither 2h, 30min or 1h30m, nor until 18:00 or 2026-12-24T18:00, nor every sun 03:00-04:00, nor off",
        ),
        (("silence", WEB, "until", "2001-01-01"), "2001-01-01 is over"),
        (
            ("silence", WEB, "0001-01-01"),
            "'0001-01-01' is neither 2h, 30min or 1h30m, nor until 18:00 or 2026-12-24T18:00, nor every sun 03:00-04:00, nor off",
        ),
        (
            ("silence", WEB, "until", "9999-12-31"),
            "9999-12-31 is too far away; the end must be less than 28 years away",
        ),
        (("silence", WEB, "0h"), "'0h' is no duration; write 30min, 6h, 1d or 1h30m"),
        (
            ("silence", "www.example.com.bak", "2h"),
            "'www.example.com.bak' is neither HOST nor HOST/TEST",
        ),
        (("why", ""), "which test? HOST/TEST"),
        (("status", "/web"), "'/web' is neither HOST nor HOST/TEST"),
        (("history", "www.example.com/"), "'www.example.com/' is neither HOST nor HOST/TEST"),
    ):
        ran = said.run(*words)
        assert (ran.returncode, ran.stdout) == (
            os.EX_USAGE,
            "",
        ) and ran.stderr == f"dmonitor: {complaint}\n", words
    assert not (three[0].config / "silence.d").exists()


def test_a_node_that_cannot_alert_says_so(three: list[LocalNode]) -> None:
    prepare(three)
    three[0].round()  # nobody else is there
    (three[0].config / "alert.d" / ADDRESS).unlink()
    first = Said(three[0])("status").splitlines()[0]
    assert first.startswith(
        "127.0.0.31 CANNOT ALERT: alert.d names no address; 1 site, its own included, answered in its last round; the quorum is 2"
    )
    assert not Said(three[0]).json("status")["can_alert"]


def test_silences(three: list[LocalNode], story: Callable[[str], None]) -> None:
    first, second = Said(three[0]), Said(three[1])
    with running(three):
        story("OK 200")
        before = time.time()
        facts = first.json("silence", WEB, "2h", "rack", "move,", "jo")
        written = (three[0].config / "silence.d" / WEB).read_text()
        assert written == f"until {facts['until']} rack move, jo\n"
        until = datetime.datetime.fromisoformat(facts["until"]).timestamp()
        assert int(before) + 7200 <= until <= time.time() + 7200
        first("silence", "mail.example.com")
        time.sleep(REUSED_SECONDS)  # a peer may still get a statement from before
        three[1].round()
    listed = second.json("silences")["silences"]
    assert [(each["what"], each["node"]) for each in listed] == [
        ("mail.example.com", "127.0.0.31"),
        (WEB, "127.0.0.31"),
    ]
    assert listed[0]["until"] is None and listed[0]["reason"] == ""
    assert listed[1]["reason"] == "rack move, jo" and 0 <= listed[1]["age"] < 600
    shown = second("status")
    assert ": rack move, jo] " in shown and "[silenced by 127.0.0.31 until it is removed, " in shown
    quiet = {each["test"] for each in second.json("status")["tests"] if each["silenced_by"]}
    assert quiet == {WEB, "mail.example.com/ssh"}
    rows = [line.split()[0] for line in first("silences").splitlines()[1:]]
    assert rows == ["mail.example.com", WEB], "not www.example.com as a whole"
    ran = first.run("silence", "mail.example.com/ssh", "1h")
    assert (
        ran.returncode == os.EX_USAGE
        and "mail.example.com is silenced as a whole already" in ran.stderr
    )
    assert first.run("silence", "www.example.com").returncode == 0, "tests of it are silenced, too"
    for what in ("mail.example.com", "www.example.com"):
        assert first.json("silence", what, "off")["removed"]
    assert (
        first("silences") == "no silences\n" and first.json("silence", WEB, "off")["removed"] == []
    )
    if os.geteuid() == 0:
        first("silence", WEB, "until", "2050-01-01")
        assert (three[0].config / "silence.d" / WEB).stat().st_uid == 0, (
            "what an operator writes is his"
        )


def test_who_is_on_it_says_so_once_and_nobody_is_reminded(
    three: list[LocalNode], story: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "anna")
    first, second = Said(three[0]), Said(three[1])
    with running(three):
        story("OK 200")
        for what in (WEB, "www.example.com", "www.example.com/"):
            refused = first.run("ack", what, "disk")
            assert refused.returncode == os.EX_USAGE
            assert refused.stderr.startswith(f"dmonitor: nothing of {what.rstrip('/')} is DOWN")
        assert first.run("ack", "nowhere.example.com").returncode == os.EX_USAGE
        story("FAIL refused")
        assert first.run("ack", "www.example.com/ssh").stderr == (
            f"dmonitor: nothing of www.example.com/ssh is DOWN, as this node knows; DOWN: {WEB}\n"
        )
        facts = first.json("ack", WEB, "disk is", "being changed")
        assert facts["line"] == "until up by anna on 127.0.0.31: disk is being changed"
        written = (three[0].config / "silence.d" / WEB).read_text()
        assert written == f"{facts['line']}\n"
        assert "incident-acknowledged" in three[0].round()
        time.sleep(REUSED_SECONDS)
        three[1].round()
    words = "by anna on 127.0.0.31: disk is being changed"
    for said in (first, second):
        assert f": {words}] " in said("status", WEB) and words in said("why", WEB)
        (test,) = said.json("status", WEB)["tests"]
        assert test["acknowledgement"] == words and test["silenced_by"] == []
        label = 'dmonitor_test_acknowledged{host="www.example.com",test="web"} 1'
        assert label in said("metrics", "-")
        assert words in said("page", "-")


def test_peers(three: list[LocalNode], story: Callable[[str], None]) -> None:
    three[1].test("only.example.com/ssh")
    with running(three[:2]):
        story("OK 200")
        there, gone = sorted(
            Said(three[0]).json("peers")["peers"], key=lambda each: str(each["node"])
        )
        table = Said(three[0])("peers").splitlines()
    assert (
        there["reached"]
        and there["version"]
        and there["drift"] == ["hosts.d"]
        and there["address"] == "127.0.0.32"
    )
    assert (
        0 < there["latency"] < 2 and abs(there["clock"]) < 2 and 0 <= there["last_round_age"] < 60
    )
    assert (
        not gone["reached"] and gone["reason"] == "connection refused" and gone["version"] is None
    )
    assert table[0].split() == [
        "NODE",
        "ADDRESS",
        "SITE",
        "ANSWER",
        "VERSION",
        "LATENCY",
        "CLOCK",
        "LAST",
        "ROUND",
        "KEY",
        "DRIFT",
    ]


def test_the_key(three: list[LocalNode]) -> None:
    ((key),) = Said(three[0]).json("key")["keys"]
    assert Said(three[0])("key").split() == [key["fingerprint"], key["path"]]


def test_page_and_metrics_are_written_for_all_to_read(
    three: list[LocalNode], story: Callable[[str], None], place: Place
) -> None:
    said, out = Said(three[0]), place.writable("out")
    with running(three):
        story("OK 200")
        story("FAIL '<script>alert(1)</script>'")
    for verb, where, path in (
        ("page", out, out / "index.html"),
        ("metrics", out / "x.prom", out / "x.prom"),
    ):
        assert said.json(verb, str(where)) == {"written": str(path), "bytes": path.stat().st_size}
        assert path.stat().st_mode & 0o777 == 0o644
        assert path.stat().st_uid == run_as().pw_uid, "root became the user dmonitor first"
    text = (out / "index.html").read_text()
    assert (
        "1 of 5 tests is DOWN" in text
        and "&lt;script&gt;alert(1)" in text
        and "<script>alert" not in text
    )
    assert ADDRESS not in text and sorted(os.listdir(out)) == ["index.html", "x.prom"]
    assert (
        'dmonitor_test_down{host="www.example.com",test="web"} 1\n' in (out / "x.prom").read_text()
    )


def test_page_and_metrics_are_at_home_in_the_state_directory(three: list[LocalNode]) -> None:
    prepare(three)
    three[0].round()
    said, home = Said(three[0]), three[0].state / "www"
    for umask in (0o077, 0o022):  # the second time, the directory is there
        before = os.umask(umask)
        try:
            assert said.json("page")["written"] == f"{home}/index.html"
            assert said.json("metrics")["written"] == f"{home}/dmonitor.prom"
        finally:
            os.umask(before)
        assert sorted(os.listdir(home)) == ["dmonitor.prom", "index.html"]
        for path, mode in (
            (home, 0o755),
            (home / "index.html", 0o644),
            (home / "dmonitor.prom", 0o644),
        ):
            assert path.stat().st_mode & 0o777 == mode
            assert path.stat().st_uid == run_as().pw_uid


def let_pass(directory: Path, uid: int) -> None:
    """Do what `setfacl -m u:UID:x DIRECTORY` does, which not every machine has."""
    nobody_named = 0xFFFFFFFF
    entries = (  # of tag, permissions and id
        *(0x01, 7, nobody_named),  # the owner
        *(0x02, 1, uid),
        *(0x04, 5, nobody_named),  # the group
        *(0x10, 5, nobody_named),  # what the group and users that are named may have at most
        *(0x20, 0, nobody_named),  # all others
    )
    os.setxattr(directory, "system.posix_acl_access", struct.pack("<I" + "HHI" * 5, 2, *entries))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become the user of a web server")
def test_a_web_server_that_may_pass_reads_the_page_and_nothing_else(three: list[LocalNode]) -> None:
    """As README.Debian has it: one more user may pass through the state directory, whose mode stays 750."""
    web_server = 12345
    prepare(three)
    with running(three[:1]):
        three[0].round()
        Said(three[0])("page")
        Said(three[0])("metrics")
        three[0].state.chmod(0o750)

        def is_readable(path: Path) -> bool:
            read = ["ls", str(path)] if path.is_dir() else ["cat", str(path)]
            return not subprocess.run(
                read, user=web_server, group=web_server, extra_groups=(), capture_output=True
            ).returncode

        kept = sorted(path for path in three[0].state.iterdir() if path.name != "www")
        assert {"check.lock", "dmonitord.lock", "dmonitord.pid", "node-id", "state.db"} <= {
            path.name for path in kept
        }
        served = [three[0].state / "www" / name for name in ("index.html", "dmonitor.prom")]
        assert not any(is_readable(path) for path in served)
        let_pass(three[0].state, web_server)
        three[0].state.chmod(0o750)  # as the package and systemd do again
        assert all(is_readable(path) for path in served)
        assert [path for path in (three[0].state, *kept) if is_readable(path)] == []
        assert [path.name for path in kept if path.stat().st_mode & 0o007] == [], (
            "nor would they be if all might pass"
        )


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path, wrong, over = tmp_path / "x.prom", [], threading.Event()
    seen: collections.Counter[str] = collections.Counter()
    texts = [letter * 2_000_000 for letter in "ab"]
    publish.write(str(path), texts[0], "")

    def read() -> None:
        while not over.is_set():
            text = path.read_text()
            seen[text[:1]] += 1
            if text not in texts:
                wrong.append(len(text))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        deadline = time.monotonic() + 20
        number = 0
        # Each text has to be read some times while the other one is written.
        while number < 50 or min(seen["a"], seen["b"]) < 5:
            assert time.monotonic() < deadline, f"the reader has read {dict(seen)}"
            publish.write(str(path), texts[number % 2], "")
            number += 1
    finally:
        over.set()
        reader.join()
    assert wrong == [] and os.listdir(tmp_path) == ["x.prom"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_what_could_not_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "index.html"
    publish.write(str(path), "before", "")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "fchmod", fail)
    with pytest.raises((publish.NotWritten, KeyboardInterrupt)) as raised:
        publish.write(str(path), "behind", "")
    if isinstance(error, OSError):
        assert str(raised.value) == f"unable to write {path}: No space left on device"
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["index.html"]


def view(**more: Any) -> report.NodeReport:
    """Return what is known of the node oslo, with one test, which is DOWN here, and of which no change is known."""
    test, now = Test("www.example.com", "web"), 1_800_000_000.0
    nodes = [Node("oslo", "oslo"), Node("paris", "paris")]
    own = NodeMemory((now - 60, now - 1), now - 1, name="oslo", speaks=True, reach=(("paris", ()),))
    test_states = {test: TestState(Verdict.DOWN, Outcome.FAIL, now - 60)}
    return report.NodeReport(
        "oslo", now, nodes, [test], ["root"], 2, own, test_states, {}, [], [], {}
    )._replace(**more)


def test_whether_a_node_can_alert() -> None:
    assert report.ability(view())["can_alert"]
    unlisted = view(nodes=[Node("paris", "paris")])
    assert report.ability(unlisted)["can_alert"], (
        "a node in no line is a site of its own, as long as no line names sites"
    )
    assert not report.ability(unlisted._replace(nodes=[Node("paris", "france")]))["can_alert"]
    back = report.ability(view(rebooted=True))
    assert (
        back["why_not"] == ["no round has ended since this machine was started"] and back["stale"]
    )


def test_what_a_node_sees_itself_is_known_without_a_change() -> None:
    (facts,) = report.status(view())["tests"]
    assert facts["here"] == "FAIL"


def test_of_a_test_with_every_it_is_said_how_old_the_last_look_is() -> None:
    """Nobody may take it for a look of now."""
    paint = terminal.Paint(False)
    test, now = Test("www.example.com", "web"), 1_800_000_000.0
    look = LastLook(now - 3 * 3600, Result(Outcome.OK, "valid for 60 days <b>"))
    seldom = view(test_states={test: TestState(Verdict.UP, Outcome.OK, now - 86400, look)})
    status = report.status(seldom)
    (facts,) = status["tests"]
    assert (facts["looked_at"], facts["look_age"]) == (report.moment(look.at), 3 * 3600)
    assert terminal.status(status, paint)[-1].endswith(" [OK, 3 h ago] valid for 60 days <b>")
    why = "\n".join(terminal.why(report.why(seldom, test, [], []), paint))
    assert "The last look here: OK, 3 h ago.\nThat look said: valid for 60 days <b>" in why
    shown = page.page(status, [], {"silences": []}, report.nodes(seldom))
    assert "OK, 3 h ago:</span> valid for 60 days &lt;b&gt;" in shown
    labels = '{host="www.example.com",test="web"}'
    sample = f"dmonitor_test_last_look_timestamp_seconds{labels} {look.at:.0f}\n"
    assert sample in metrics.metrics(status, {}, {str(test): look.at})


def test_of_any_other_test_no_look_is_mentioned() -> None:
    paint = terminal.Paint(False)
    test = Test("www.example.com", "web")
    status = report.status(view())
    assert status["tests"][0]["looked_at"] is status["tests"][0]["look_age"] is None
    assert " ago]" not in terminal.status(status, paint)[-1]
    assert "The last look here" not in "\n".join(
        terminal.why(report.why(view(), test, [], []), paint)
    )
    heads = metrics.metrics(status, {}).count("dmonitor_test_last_look_timestamp_seconds")
    assert heads == 2, "no sample"


def test_what_passes_here_and_cannot_be_closed_is_not_confirmed() -> None:
    test, now = Test("www.example.com", "web"), 1_800_000_000.0
    passes = {test: TestState(Verdict.UP, Outcome.OK, now - 60)}
    down = Incident(("a" * 16,), test, now - 600, alert="oslo")

    def text(*incidents: Incident) -> str:
        (facts,) = report.status(view(test_states=passes, incidents=incidents))["tests"]
        return str(facts["text"])

    assert text(down) == "passes here, not confirmed: its incident is open"
    assert text(down._replace(closed=now - 30)) == ""
    assert text(down._replace(flapping=7)) == ""


def test_why_tells_of_the_incident_that_is_open() -> None:
    paint = terminal.Paint(False)
    test, now = Test("www.example.com", "web"), 1_800_000_000.0
    down = Incident(("a" * 16,), test, now - 600, alert="oslo")
    flapping = Incident(("b" * 16,), test, now - 300, flapping=7, alert="oslo")
    assert report.why(view(), test, [down, flapping], [])["last_incident"]["incident"] == down.id
    said = report.why(view(), test, [down._replace(closed=now, recovery="oslo"), flapping], [])
    assert f"Its last incident, FLAPPING, {flapping.id} is from " in "\n".join(
        terminal.why(said, paint)
    )
    gone = report.why(view(), test, [down._replace(alert="", removed=True)], [])
    assert "owed" not in "\n".join(
        terminal.why(gone, paint)
    ) and "its test was removed." in "\n".join(terminal.why(gone, paint))
    both = report.why(view(), test, [down._replace(void=True, closed=now, recovery="oslo")], [])
    assert "nobody was told" not in "\n".join(terminal.why(both, paint))


def test_why_says_who_is_told_and_by_which_line() -> None:
    test, now = Test("www.example.com", "web"), 1_800_000_000.0
    never = Wants(never=(Pattern("*/web", "NOT", 2),))
    late = Wants(after=1800.0, times=("line 1: AFTER=30min",))
    wants = {"never@example.com": never, "late@example.com": late}
    addresses = ("root", *wants)

    def told(*incidents: Incident) -> list[str]:
        seen = view(addresses=addresses, wants=wants, incidents=incidents)
        lines = terminal.why(report.why(seen, test, incidents, []), terminal.Paint(False))
        first = lines.index("Who is told of it:") + 1
        return [" ".join(line.split()) for line in lines[first : first + 3]]

    assert told() == [
        "root at once",
        "never@example.com never (line 2: NOT=*/web)",
        "late@example.com after 30 min, if it lasts so long (line 1: AFTER=30min)",
    ]
    down = Incident(("a" * 16,), test, view().now - 600, alert="oslo")
    assert ", if it lasts until then (line 1: AFTER=30min)" in told(down)[2]
    assert told(down._replace(began=view().now - 2000))[2].startswith("late@example.com at once")
    acknowledged = told(down._replace(acknowledged=now))[2]
    assert acknowledged.startswith("late@example.com not by itself: somebody is on it")
    seen = view(addresses=addresses[1:2], wants=wants, incidents=(down._replace(alert=""),))
    lines = terminal.why(
        report.why(seen, test, [down._replace(alert="")], []), terminal.Paint(False)
    )
    assert "still owed" not in "\n".join(lines), "nobody wants it"
    assert report.ability(seen)["owed"] == 0


def test_what_is_too_far_away_is_refused_and_costs_no_greeting(
    three: list[LocalNode], story: Callable[[str], None]
) -> None:
    """A peer takes no time that is further away than that, and would not greet us any more."""
    ran = Said(three[0]).run("silence", WEB, "until", "2090-01-01")
    assert ran.returncode == os.EX_USAGE and "2090-01-01 is too far away" in ran.stderr
    path = three[0].config / "silence.d/mail.example.com"
    path.parent.mkdir(exist_ok=True)
    path.write_text("until 2090-01-01\nevery 00:00-24:00\n")
    with running(three):
        story("OK 200")
        assert "not-greeted" not in three[1].round()
    listed = Said(three[1]).json("silences")["silences"]
    assert [each["what"] for each in listed] == ["mail.example.com"]
    assert listed[0]["until"] < report.moment(time.time() + 10 * 86_400.0)


def test_places_that_are_not_meant(
    three: list[LocalNode], story: Callable[[str], None], place: Place
) -> None:
    with running(three):
        story("OK 200")
    said, out = Said(three[0]), place.writable("out")
    for words in (("page", ""), ("metrics", ""), ("silence", WEB, "")):
        assert said.run(*words).returncode == os.EX_USAGE
    (out / "link").symlink_to(three[0].state / "state.db")
    said("metrics", str(out / "link"))
    assert not (out / "link").is_symlink() and (
        three[0].state / "state.db"
    ).read_bytes().startswith(b"SQLite format 3")


def test_colour_is_for_a_terminal_that_wants_it(
    three: list[LocalNode], story: Callable[[str], None]
) -> None:
    with running(three):
        story("OK 200")
    command = f"{sys.executable} {three[0].place.directory}/bin/dmonitor --config {three[0].config} --state {three[0].state} status"
    for environment, coloured in (
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ):
        variables = {
            name: value
            for name, value in three[0].place.environment().items()
            if name != "NO_COLOR"
        } | environment
        said = subprocess.run(
            ["script", "-qec", command, "/dev/null"],
            env=variables,
            capture_output=True,
            text=True,
            check=True,
        )
        assert ("\x1b[32mUP" in said.stdout) is coloured, environment
    assert "\x1b" not in Said(three[0])("status")


def test_a_thousand_tests_are_seen_at_once(place: Place) -> None:
    node = LocalNode(place, "127.0.0.31", ["127.0.0.31", "127.0.0.32"])
    node.plugin("ok", "echo OK fine")
    for number in range(1000):
        node.test(f"host{number // 10}.example.com/ok:t{number % 10}")
    node.run("dmonitor-check", "--once")
    said = Said(node)
    times = []
    for _ in range(3):
        began = _seconds_of_children()
        assert len(said("status").splitlines()) > 1000
        times.append(_seconds_of_children() - began)
    assert 0.01 < min(times) < 0.9, "the promise is 0.3 s"


def _seconds_of_children() -> float:
    """Return how many seconds of a processor the children that ended have used.

    They are the same however much else the machine does.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_state_of_the_dmonitor_before_is_taken_over(
    three: list[LocalNode], story: Callable[[str], None]
) -> None:
    import sqlite3

    with running(three):
        story("OK 200")
        path = three[0].state / "state.db"
        db = sqlite3.connect(path)
        db.executescript("DROP TABLE change; DROP TABLE handed; DROP TABLE outbox;")
        db.executescript(f"{database._OUTBOX_BY_NUMBER}; PRAGMA user_version = 3;")
        db.close()
        os.chown(path, run_as().pw_uid, run_as().pw_gid)
        facts = Said(three[0]).json("history")
        assert facts["incidents"] == facts["changes"] == [], (
            "and can be read before the first round of this one"
        )
        assert Said(three[0]).json("status")["tests"][0]["state"]
        story("FAIL connection refused")
    assert [each["state"] for each in Said(three[0]).json("history", WEB)["changes"]] == ["DOWN"]
    assert len(Said(three[0]).json("history")["incidents"]) == 1
    assert database.SCHEMA_VERSION == 6


def test_labels_are_escaped() -> None:
    assert metrics._labels({"a": 'x"y\\z\n\u202e'}) == '{a="x\\"y\\\\z\\\\n\\\\u202e"}', (
        "what reads them shows them as one line"
    )


MANUAL = (CHECKOUT / "man/dmonitor.8").read_text()
EXAMPLES = dict(
    re.findall(r'^\.\\" example: (\w+)\n\.Bd .*\n((?:.*\n)*?)\.Ed$', MANUAL, re.MULTILINE)
)


def test_what_the_manual_shows_can_be_typed(three: list[LocalNode], place: Place) -> None:
    for node in three:
        node.mail()
        node.test("www.example.com/http")
        node.plugin("http", "echo FAIL connection refused")
    with running(three):
        for node in three:
            node.round()
        shim = place.program(
            "dmonitor-shim",
            f'#!/bin/sh\nexec {sys.executable} {place.directory}/bin/dmonitor --config {three[0].config} --state {three[0].state} "$@"\n',
        )
        for name, text in EXAMPLES.items():
            script = re.sub(r"^# dmonitor", str(shim), text, flags=re.MULTILINE)
            ran = subprocess.run(
                ["sh", "-ec", script],
                env=place.environment(),
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert ran.returncode == 0 and ran.stderr == "" and ran.stdout, (name, ran)
    assert (
        set(EXAMPLES) == {"status", "silence", "history", "script"}
        and ran.stdout == "www.example.com/http\n"
    )


def test_what_is_told_of_a_node_goes_by_the_names_here(
    three: list[LocalNode], story: Callable[[str], None]
) -> None:
    """A peer may call itself otherwise than our nodes.txt does."""
    for node, name in zip(three[1:], ("paris", "rome"), strict=True):
        node.configure(f"name = {name}\n")
        with open(node.config / "nodes.txt", "a") as file:
            file.write(f"{name}\n")
    with running(three):
        story("OK 200")
        story("OK 200")
    facts = Said(three[0]).json("status")
    assert facts["can_alert"] and facts["reached"] == ["127.0.0.32", "127.0.0.33"]


def test_a_node_whose_mails_are_refused_cannot_alert(
    three: list[LocalNode], story: Callable[[str], None]
) -> None:
    for node in three:
        node.configure("sendmail = /nonexistent/sendmail\n")
    with running(three):
        story("OK 200")
        for node in three[:2]:
            node.plugin("web", "echo FAIL")
        forget()
        three[0].run("dmonitor-check", "--once")
    first = Said(three[0])("status").splitlines()[0]
    assert first.startswith("127.0.0.31 CANNOT ALERT: the mail system refused its last hand-over; ")


def test_a_page_of_a_node_whose_rounds_have_ended_says_nothing_of_now(
    three: list[LocalNode],
) -> None:
    prepare(three)
    three[0].round()
    with state.Store(str(three[0].state)) as store:
        store.save(Save(node=store.node_memory()._replace(finished=store.clock.now() - 86400)))
    for path in three[0].state.iterdir():
        os.chown(path, run_as().pw_uid, run_as().pw_gid)
    Said(three[0])("page")
    assert (
        "<h2>No round has ended here for a while" in (three[0].state / "www/index.html").read_text()
    )


def test_a_removed_test_leaves_no_incident_that_looks_open(
    three: list[LocalNode], story: Callable[[str], None]
) -> None:
    with running(three):
        story("OK 200")
        story("FAIL refused")
        (three[0].config / "hosts.d" / WEB).unlink()
        three[0].round()
    (known,) = Said(three[0]).json("history", WEB)["incidents"]
    assert known["removed"] and not known["open"] and known["seconds"] == 0
    assert "test removed" in Said(three[0])("history")


def test_a_silence_holds_whatever_the_umask_and_says_what_it_is_not(three: list[LocalNode]) -> None:
    prepare(three)
    node, said = three[0], Said(three[0])
    before = os.umask(0o077)
    try:
        said("silence", WEB, "2h")
    finally:
        os.umask(before)
    assert (
        (node.config / "silence.d").stat().st_mode & 0o777
        == 0o755
        == (node.config / "silence.d" / "www.example.com").stat().st_mode & 0o777
    )
    assert (node.config / "silence.d" / WEB).stat().st_mode & 0o777 == 0o644
    said("silence", WEB, "off")
    assert not (node.config / "silence.d/www.example.com").exists(), (
        "or the host could not be silenced"
    )
    said("silence", "www.example.com", "2h")
    path = node.config / "silence.d/www.example.com"
    path.write_text("until 2001-01-01T00:00 moved\n")
    said("silence", WEB, "2h")  # what has ended is in nobody's way
    typo = said.run("silence", "wwww.example.com", "2h")
    assert (
        typo.returncode == 0
        and "silences nothing: no such host in hosts.d; did you mean www.example.com?"
        in typo.stderr
    )


def test_who_reads_only_the_first_lines_is_no_error(three: list[LocalNode]) -> None:
    prepare(three)
    three[0].round()
    options = f"--config {three[0].config} --state {three[0].state}"
    command = f"{sys.executable} {three[0].place.directory}/bin/dmonitor {options} history --json | head -c 1"
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=three[0].place.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == "" and ran.returncode in (0, 141)


def test_metrics_of_odd_names_and_places(three: list[LocalNode]) -> None:
    three[0].test("banana.example.com/finance")
    three[0].plugin("finance", "echo UNKNOWN nan")
    three[0].round()
    said = Said(three[0])("metrics", "/dev/stdout")
    assert 'dmonitor_test_failing_here{host="banana.example.com",test="finance"} NaN\n' in said
    ran = Said(three[0]).run("page", "/nonexistent/x")
    advice = (
        f"make one that user {run_as().pw_name} may write, or name none to use {three[0].state}/www"
    )
    assert ran.returncode == os.EX_TEMPFAIL
    assert (
        ran.stderr
        == f"dmonitor: unable to write /nonexistent/x/index.html: there is no directory /nonexistent/x; {advice}\n"
    )


def test_silences_leave_what_a_link_leads_to(three: list[LocalNode]) -> None:
    """A silence may be a link, to a test even; it is the link that comes and goes."""
    prepare(three)
    config, said = three[0].config, Said(three[0])
    (config / "silence.d").mkdir()
    (config / "silence.d/www.example.com").symlink_to("../hosts.d/www.example.com")
    for when in ("2h", "off"):
        ran = said.run("silence", WEB, when)
        assert (
            ran.returncode == os.EX_USAGE and "silence.d/www.example.com is a link: " in ran.stderr
        ), when
    assert said.run("silence", "www.example.com", "2h").returncode == os.EX_USAGE
    assert said.json("silence", "www.example.com", "off")["removed"] == [
        f"{config}/silence.d/www.example.com"
    ]
    assert sorted(os.listdir(config / "hosts.d/www.example.com")) == ["ssh", "web"]
    test = config / "hosts.d/mail.example.com/ssh"
    before = test.stat().st_mtime
    (config / "silence.d/mail.example.com").mkdir()
    (config / "silence.d/mail.example.com/ssh").symlink_to(test)
    (config / "silence.d/mail.example.com/ssh~").touch()
    said("silence", "mail.example.com/ssh", "2h")
    assert (
        not (config / "silence.d/mail.example.com/ssh").is_symlink()
        and test.stat().st_mtime == before
    )
    assert (
        f"{config}/silence.d/mail.example.com/ssh"
        in said.json("silence", "mail.example.com", "off")["removed"]
    )
    said("silence", "mail.example.com", "2h")


def test_a_silence_that_ends_says_what_holds_on(
    three: list[LocalNode], story: Callable[[str], None]
) -> None:
    first, second = Said(three[0]), Said(three[1])
    with running(three):
        first("silence", "www.example.com")
        story("OK 200")
    held = {"what": "www.example.com", "until": None, "node": "127.0.0.31", "reason": "", "age": 0}
    for said in (first, second):
        assert said("silence", WEB, "off").splitlines() == [
            f"{WEB} is not silenced here",
            "www.example.com is still silenced by 127.0.0.31; to end that, type on"
            " 127.0.0.31: dmonitor silence www.example.com off",
        ]
    (still,) = second.json("silence", "www.example.com", "off")["still"]
    assert still["age"] >= 0 and {**still, "age": 0} == held
    assert first.json("silence", "www.example.com", "off")["still"] == []
    typo = first.run("silence", "wwww.example.com", "off")
    assert (
        typo.returncode == os.EX_USAGE
        and "no such host: 'wwww.example.com'; did you mean www.example.com?" in typo.stderr
    )
    lost = first.run("--config", f"{three[0].config}/typo", "silence", WEB, "2h")
    assert (
        lost.returncode == os.EX_USAGE
        and f"there is no directory {three[0].config}/typo" in lost.stderr
    )
    assert not (three[0].config / "typo").exists()


def test_standard_output_is_no_file(three: list[LocalNode], tmp_path: Path) -> None:
    prepare(three)
    three[0].round()
    options = f"--config {three[0].config} --state {three[0].state}"
    command = f"{{ echo before; {sys.executable} {three[0].place.directory}/bin/dmonitor {options} metrics -; echo behind; }} >>{tmp_path}/out"
    subprocess.run(["sh", "-c", command], env=three[0].place.environment(), check=True)
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines[0] == "before" and lines[-1] == "behind" and "dmonitor_can_alert 0" in lines
    page_text = Said(three[0])("page", "-")
    assert page_text.startswith("<!DOCTYPE html>") and page_text.endswith("</html>\n")
    assert not (three[0].state / "www").exists()


def test_where_nothing_can_be_written_the_reason_is_said(
    three: list[LocalNode], place: Place
) -> None:
    prepare(three)
    three[0].round()
    said, out = Said(three[0]), place.writable("out")
    (out / "index.html").mkdir()
    (out / "file").touch()
    os.mkfifo(out / "pipe")
    for words, complaint in (
        (("metrics", str(out)), f"unable to write {out}: it is a directory"),
        (("page", str(out)), f"unable to write {out}/index.html: it is a directory"),
        (("metrics", f"{out}/file/x.prom"), f"unable to write {out}/file/x.prom: Not a directory"),
        (("metrics", "/proc/x.prom"), "unable to write /proc/x.prom: "),
        (("metrics", f"{out}/pipe"), f"unable to write {out}/pipe: it is not a file; `-` is "),
    ):
        ran = said.run(*words)
        assert ran.returncode == os.EX_TEMPFAIL and ran.stderr.startswith(
            f"dmonitor: {complaint}"
        ), ran
    assert "\ndmonitor_can_alert 0\n" in said("metrics", "-") and sorted(os.listdir(out)) == [
        "file",
        "index.html",
        "pipe",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_that_is_somebody_elses_is_not_written(
    three: list[LocalNode], place: Place
) -> None:
    prepare(three)
    three[0].round()
    said, writer = Said(three[0]), run_as().pw_name
    theirs, home = place.directory / "theirs", three[0].state / "www"
    for directory in (theirs, home):
        directory.mkdir(mode=0o755)
    allow = "let this user write there (chown or setfacl)"
    for directory, words, advice in (
        (theirs, ("page", str(theirs)), f"{allow}, or name no directory to use {home}"),
        (home, ("page",), allow),
    ):
        ran = said.run(*words)
        assert ran.returncode == os.EX_TEMPFAIL
        assert (
            ran.stderr
            == f"dmonitor: unable to write {directory}/index.html: Permission denied for user {writer}; {advice}\n"
        )
        assert os.listdir(directory) == []
        os.chown(directory, run_as().pw_uid, -1)
        said(*words)
        assert os.listdir(directory) == ["index.html"]


def test_what_cannot_be_read_is_not_taken_for_removed(
    three: list[LocalNode], story: Callable[[str], None], place: Place
) -> None:
    config, said = three[0].config, Said(three[0])
    with running(three):
        story("OK 200")
        story("FAIL refused")
        for directory in ("hosts.d/www.example.com", "alert.d"):
            (config / directory).chmod(0)
        forget()
        for node in three:
            node.round()
        assert "incident-closed" not in three[0].round(), "nobody has seen it pass that saw it fail"
    assert place.subjects() == [f"DOWN {WEB} (2 of 3 nodes)"]
    try:
        ran = said.run("status", "--json")
        facts = json.loads(ran.stdout)
        (web,) = [each for each in facts["tests"] if each["test"] == WEB]
        assert web["here"] == "UNKNOWN" and web["incident"]
        unreadable = "the test's file cannot be read, or has mistakes: see dmonitor-check -t"
        assert web["text"] == f"not confirmed: its incident is open; {unreadable}"
        assert facts["addresses"] == [ADDRESS] and not facts["whole"]
        assert facts["why_not"] == ["some of the configuration cannot be read"]
        assert not facts["can_alert"]
        assert (
            "some of the configuration cannot be read, see dmonitor-check -t"
            in said.run("status").stdout
        )
        assert said.run("why", WEB).stdout.startswith(f"{WEB} is UP (unknown here) since ")
        assert "\ndmonitor_configuration_whole 0\n" in said("metrics", "-")
    finally:
        for directory in ("hosts.d/www.example.com", "alert.d"):
            (config / directory).chmod(0o755)


def test_what_flaps_is_told_as_that(paint: terminal.Paint = terminal.Paint(False)) -> None:  # noqa: B008
    test, now = Test("www.example.com", "web"), 1_800_000_000.0
    over = Incident(("a" * 16,), test, now - 300, closed=now - 200, void=True)
    flapping = Incident(("b" * 16,), test, now - 400, flapping=7, alert="oslo")
    test_states = {test: TestState(Verdict.UP, Outcome.OK, now - 60)}
    seen = view(incidents=[flapping, over], test_states=test_states)
    (facts,) = report.status(seen)["tests"]
    assert (facts["state"], facts["incident"], facts["since"]) == (
        "FLAPPING",
        flapping.id,
        report.moment(now - 400),
    )
    later = flapping._replace(ids=("c" * 16,), began=now - 100)
    (facts,) = report.status(seen._replace(incidents=[flapping, later]))["tests"]
    assert facts["since"] == report.moment(now - 400), "until the two become one: the older"
    why = report.why(seen, test, [flapping, over], [])
    assert why["last_incident"]["incident"] == flapping.id
    assert page._title(report.status(seen)) == "1 of 1 tests is FLAPPING"
    down = view(
        test_states={**test_states, Test("x", "y"): TestState(Verdict.DOWN, Outcome.FAIL, now)},
        incidents=[flapping],
    )
    assert (
        page._title(report.status(down._replace(tests=[test, Test("x", "y")])))
        == "1 of 2 tests is DOWN, 1 is FLAPPING"
    )
    told = terminal.history(report.history([over], [], [], seen, now), paint)
    assert told[-1].endswith("nobody") and "silenced" not in told[-1]
    assert "in a silence, while its test was FLAPPING, or while all that" in "\n".join(
        terminal.why({**why, "last_incident": report.past(over, now)}, paint)
    )


def test_what_a_peer_alone_has_stated_is_shown_as_its_word(
    paint: terminal.Paint = terminal.Paint(False),  # noqa: B008
) -> None:
    """Who lies could show any test as FLAPPING, or as having been DOWN, on every other node."""
    test, now = Test("www.example.com", "web"), 1_800_000_000.0
    flapping = Incident(("b" * 16,), test, now - 400, flapping=7, alert="liar", heard_from="liar")
    for relayed_by, stated in (("", "liar"), ("rome", "rome")):
        known = flapping._replace(relayed_by=relayed_by)
        seen = view(incidents=[known], test_states={test: TestState(since=now - 60)})
        status = report.status(seen, with_evidence=True)
        (facts,) = status["tests"]
        assert (facts["state"], facts["seconds"]) == ("UP", 60)
        assert facts["incident"] == known.id, "it is there"
        why = report.why(seen, test, [known], [])
        assert f"as {stated} states." in " ".join(terminal.why(why, paint)), why
        labels = '{host="www.example.com",test="web"}'
        assert f"dmonitor_test_flapping{labels} 0\n" in metrics.metrics(status, {})
    node = Node("rome", "rome")
    answers = (Answer(node, result=Result(Outcome.FAIL)),)
    down = flapping._replace(flapping=0, opening=Judgement(Verdict.DOWN, 2, answers), alert="")
    for heard_from, stated in (("liar", ", as liar states"), ("", "")):
        known = down._replace(heard_from=heard_from)
        seen = view(incidents=[known], test_states={test: TestState(since=now - 60)})
        (facts,) = report.status(seen)["tests"]
        assert facts["text"] == f"passes here, not confirmed: its incident is open{stated}"
        told = report.history([known], [], [], seen, now)
        assert f"rome{stated}" in terminal.history(told, paint)[-1], told
        incidents = report.incidents([known], (), now)
        html = page.page(report.status(seen), incidents, {"silences": []}, report.nodes(seen))
        assert f"(6 min 40 s){stated}, not told yet" in html, html
        (days,) = availability.days(seen, [known], [Change(test, now - 999, UP_HERE)], 90).values()
        assert (days.letters[-1] == "d") is (not stated), "and the bar does not show it"


def test_evidence_has_the_time_it_is_from(
    three: list[LocalNode], story: Callable[[str], None]
) -> None:
    said = Said(three[0])
    with running(three):
        story("OK 200")
        story("FAIL refused")
        assert "What was seen when that was concluded:" in said("why", WEB)
        for node, word in zip(three, ("OK 200", "FAIL refused", "FAIL refused"), strict=True):
            node.plugin("web", f"echo {word}")
        forget()
        for node in three:
            node.round()
    facts = said.json("why", WEB)
    assert (
        facts["state"] == "DOWN"
        and facts["evidence"]["answers"][0]["sees"] == "OK"
        and facts["evidence_at"] > facts["since"]
    )
    assert re.search(
        r"^What was seen at \S+ \S+, when that last changed:$", said("why", WEB), re.MULTILINE
    )


def test_a_state_that_cannot_be_written_is_told_everywhere() -> None:
    facts = report.status(view(unstored="/x/state.db: see what dmonitor-check logs"))
    said = "the state cannot be written: /x/state.db: see what dmonitor-check logs"
    assert said in terminal.status(facts, terminal.Paint(False)) and said in page._banner(facts)
    assert "\ndmonitor_state_stored 0\n" in metrics.metrics(facts, {})


def test_a_second_line_that_is_this_node_is_no_peer(place: Place) -> None:
    node = LocalNode(place, "127.0.0.31", ["127.0.0.31", "localhost", "127.0.0.32"])
    node.configure("listen = 127.0.0.31 127.0.0.1\n")
    node.round()
    facts = Said(node).json("status")
    assert facts["peers"] == 1 and [each["test"] for each in facts["tests"]] == ["node/127.0.0.32"]


def test_what_is_not_of_now_is_not_told_as_if_it_were() -> None:
    paint = terminal.Paint(False)
    test = Test("www.example.com", "web")
    for seen, stale in ((view(), False), (view()._replace(now=view().now + 3600), True)):
        for lines in (
            terminal.why(report.why(seen, test, [], []), paint),
            terminal.history(report.history([], [], [], seen, seen.now), paint),
        ):
            assert (
                lines[0] == "This is out of date: no round ends on this node, the last one 1 h ago."
            ) is stale


def test_a_page_that_is_out_of_date_says_so_once() -> None:
    """The script puts "Out of date: " before the title."""
    old = report.status(view()._replace(now=view().now + 3600))
    assert page._title(old) == "No round has ended here for a while"


def test_options_stand_anywhere_and_whole(
    three: list[LocalNode], story: Callable[[str], None]
) -> None:
    said = Said(three[0])
    with running(three):
        story("OK 200")
        order = [[each["node"] for each in said.json("peers")["peers"]] for _ in range(4)]
        assert order == [["127.0.0.32", "127.0.0.33"]] * 4, "as in nodes.txt"
        assert json.loads(said("status", "--json", "--peers", WEB))["tests"][0]["test"] == WEB
    assert json.loads(said("silence", WEB, "--json", "until", "2050-01-01"))["what"] == WEB
    assert json.loads(said("why", "--json", "--", WEB))["test"] == WEB
    assert said.run("status", "--peer").returncode == os.EX_USAGE


def test_a_planned_silence_is_listed(
    three: list[LocalNode], story: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    said = Said(three[0])
    with running(three):
        story("OK 200")
    now = datetime.datetime.now(datetime.UTC)
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    begins = (now + datetime.timedelta(days=2)).replace(hour=3, minute=0, second=0, microsecond=0)
    said("silence", WEB, "every", days[begins.weekday()], "03:00-04:00", "backup")
    facts = said.json("silences")
    assert facts["silences"] == []
    (planned,) = facts["planned"]
    assert (planned["what"], planned["reason"], planned["node"]) == (WEB, "backup", "127.0.0.31")
    assert datetime.datetime.fromisoformat(planned["begins"]) == begins
    assert datetime.datetime.fromisoformat(planned["until"]) == begins.replace(hour=4)
    (row,) = said("silences").splitlines()[1:]
    assert row.startswith(WEB) and f"from {begins:%Y-%m-%d} 03:00:00" in row


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("7x",), "'7x' is no duration; write 30min, 6h, 1d or 1h30m"),
        (("1h30",), "'1h30' is no duration; did you mean 1h30m?"),
        ((WEB, "1h30"), "'1h30' is no duration; did you mean 1h30m?"),
        (("-2h",), "'-2h' is no option, and no time; write 2h or 1h30m"),
    ],
)
def test_an_age_that_is_none(
    three: list[LocalNode], story: Callable[[str], None], words: tuple[str, ...], text: str
) -> None:
    with running(three):
        story("OK 200")
    ran = Said(three[0]).run("history", *words)
    assert ran.returncode == os.EX_USAGE and text in ran.stderr


def test_a_key_is_told_as_json(three: list[LocalNode]) -> None:
    said = Said(three[0])
    (three[0].config / "key").unlink(missing_ok=True)
    assert said.json("key") == {"keys": []}
    (made,) = said.json("key", "new")["keys"]
    assert said.json("key")["keys"] == [made] == said.json("key", "drop")["keys"]
    (three[0].config / "key").chmod(0o644)
    ran = said.run("key", "--json")
    assert (
        ran.returncode == os.EX_CONFIG
        and json.loads(ran.stdout) == {"keys": []}
        and f"{three[0].config}/key" in ran.stderr
    )


def test_the_state_of_a_later_dmonitor_is_not_read(three: list[LocalNode]) -> None:
    import sqlite3

    three[0].round()
    path = three[0].state / "state.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    for ran in (Said(three[0]).run("status"), three[0].run("dmonitor-check", "--once")):
        assert (
            ran.returncode == os.EX_TEMPFAIL
            and f"{path}: written by another dmonitor (schema 99, this one knows {database.SCHEMA_VERSION})"
            in ran.stderr
        )
    path.unlink()
    path.mkdir()
    assert f"{path} is not a regular file: move it away" in Said(three[0]).run("status").stderr


@pytest.mark.parametrize(
    ("status", "able", "tests"),
    [
        (0, {}, []),
        (0, {}, [("UP", [])]),
        (1, {}, [("UP", []), ("LOCAL", [])]),
        (1, {}, [("UNKNOWN", [])]),
        (1, {}, [("UNCONFIRMED", [])]),
        (1, {}, [("", [])]),
        (1, {}, [("DOWN", ["paris"])]),
        (1, {"troubles": [{}]}, [("UP", [])]),
        (2, {}, [("UP", []), ("LOCAL", []), ("DOWN", [])]),
        (2, {}, [("FLAPPING", [])]),
        (2, {"can_alert": False}, [("UP", [])]),
    ],
)
def test_the_status_of_a_check(
    status: int, able: dict[str, Any], tests: list[tuple[str, list[str]]]
) -> None:
    listed = [{"state": state, "silenced_by": silencers} for state, silencers in tests]
    facts = {"can_alert": True, "troubles": [], "tests": listed, **able}
    assert report.check_status(facts) == status


def test_a_check_of_real_nodes(three: list[LocalNode], story: Callable[[str], None]) -> None:
    said = Said(three[0])
    assert said.run("status", "--check").returncode == os.EX_TEMPFAIL, "it knows nothing"
    with running(three):
        story("OK 200")
        assert said.run("status", "--check").returncode == 1, "the peers had no round yet"
        three[0].round()
        well = said.run("status", "--check")
        assert well.returncode == 0, well.stdout
        story("FAIL refused")
        assert said.run("status", "--check").returncode == 2
        assert said.run("status", "--check", "mail.example.com").returncode == 0
        assert said.run("status", WEB, "--peers", "--check", "--json").returncode == 2
        assert said.run("status").returncode == 0
        said("silence", WEB, "1h")
        assert said.run("status", WEB, "--check").returncode == 1
    stale = said.run("status", WEB, "--check", "--peers")
    assert stale.returncode == 1, "nobody confirms what fails here"


def test_the_history_of_some_days(three: list[LocalNode], story: Callable[[str], None]) -> None:
    said = Said(three[0])
    with running(three):
        for words in ("OK 200", "FAIL refused", "OK 200"):
            story(words)
    database_file = three[0].state / "state.db"

    def age(days: int) -> None:
        """Make all that has been older by so many days."""
        with contextlib.closing(sqlite3.connect(database_file, isolation_level=None)) as db:
            seconds = days * 86400
            assert db.execute("UPDATE incident SET closed = closed - ?", (seconds,)).rowcount == 1
            assert db.execute("UPDATE change SET at = at - ?", (seconds,)).rowcount > 2

    assert len(said.json("history", "7d")["incidents"]) == 1
    age(8)
    assert said("history", "7d") == "no incidents\n"
    assert said.json("history", "7d")["changes"] == []
    assert said("history", WEB, "7d") == "no incidents\n"
    assert WEB in said("history", "9d") and WEB in said("history", "www.example.com", "8d", "1h")
    assert said("history") == said("history", "9d")
    assert len(said.json("history", WEB, "9d")["changes"]) == 3
    ran = said.run("history", WEB, "soon")
    assert ran.returncode == os.EX_USAGE and "'soon' is no duration" in ran.stderr, ran
    assert said.run("history", "gone.example.com", "7d").returncode == os.EX_USAGE
