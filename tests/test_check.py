"""dmonitor-check as a process, with real daemons as peers and a sendmail that shows what it gets."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import calls
import lying_node
import pytest
from hostile import LONG, plant, strays
from local_nodes import ADDRESS, LocalNode, Place, run_as, running, wait_until

from dmonitor import check, driver, observer, questions
from dmonitor.base import cli, clock, user
from dmonitor.config.configuration import load_configuration
from dmonitor.config.sender import default_sender
from dmonitor.core import result
from dmonitor.core.effects import NodeMemory, Observation, Observe, Save
from dmonitor.core.model import Incident, Test, Verdict, Vote
from dmonitor.core.result import SLOW_LOOK
from dmonitor.execution.runner import PLUGIN_LIMIT
from dmonitor.net import exchange, flights, protocol
from dmonitor.net.protocol import Greeting
from dmonitor.store import lock, state
from dmonitor.store.state import Store

TEST = "www.example.com/web"
SILENT = "no peer answers (127.0.0.32: connection refused; 127.0.0.33: connection refused): nothing that fails here can be confirmed, and nobody is alerted"
ALONE = (
    "no peer answers (127.0.0.99: connection refused): nothing that fails here can be"
    " confirmed, and nobody is alerted; with a third node in nodes.txt, the two that are left would go on"
)
TOLD = {
    "asked",
    "answer",
    "verdict",
    "incident-opened",
    "incident-closed",
    "handed-over",
}  # what info shows


def prepare(nodes: list[LocalNode]) -> None:
    """Give each node the test; its plugin prints what the file `sees` says."""
    for node in nodes:
        node.test(TEST)
        node.plugin("web", f"cat {node.config}/sees")
        sees(node, "OK fine")


def living(nodes: list[LocalNode]) -> None:
    """Prepare the nodes and let the first one finish a round, because a node that never did does not speak."""
    prepare(nodes)
    nodes[0].round()


def sees(node: LocalNode, text: str) -> None:
    (node.config / "sees").write_text(text + "\n")


def all_see(nodes: list[LocalNode], text: str) -> None:
    for node in nodes:
        sees(node, text)


@contextlib.contextmanager
def with_sendmail(place: Place, code: str) -> Iterator[None]:
    """Replace sendmail by a shell script meanwhile; the usual one is `exec usual "$@"` in it."""
    usual = place.sendmail.read_text()
    place.program("usual", usual)
    place.program("sendmail", "#!/bin/sh\n" + code.replace("usual", f"{place.directory}/usual"))
    try:
        yield
    finally:
        place.program("sendmail", usual)


@contextlib.contextmanager
def started(node: LocalNode) -> Iterator[subprocess.Popen[str]]:
    """Run a round meanwhile; end it if it still runs afterwards."""
    with node.popen("dmonitor-check") as process:
        try:
            yield process
        finally:
            process.kill()


def forget() -> None:
    """Wait until no daemon gives out an old result."""
    time.sleep(flights.RESULT_CACHE_SECONDS + 0.1)


def events(log: str) -> list[str]:
    """Return the events of a log, without pids, times and ids."""
    found = re.sub(r" (incident|age|seconds|id)=\S+", "", log)
    return [line.removeprefix("dmonitor-check: ") for line in found.splitlines()]


def test_from_up_to_down_and_back(three: list[LocalNode], place: Place) -> None:
    prepare(three)
    first = three[0]
    with running(three):
        for node in three:
            node.round()
        quiet = first.run("dmonitor-check", "--once")
        assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
        forget()
        all_see(three, "FAIL no route")
        sees(three[2], "OK fine")
        opened = events(first.round())
        assert [event for event in opened if event.split()[0] in TOLD] == [
            f"asked test={TEST} peers=127.0.0.32,127.0.0.33",
            f'answer test={TEST} node=127.0.0.32 sees=FAIL text="no route"',
            f"answer test={TEST} node=127.0.0.33 sees=OK text=fine",
            f'verdict test={TEST} verdict=DOWN was=UP votes=2 quorum=2 failing=127.0.0.31,127.0.0.32 passing=127.0.0.33 text="no route"',
            f"incident-opened test={TEST} votes=2 quorum=2 failing=127.0.0.31,127.0.0.32 passing=127.0.0.33",
            f"handed-over address={ADDRESS} kind=alert test={TEST}",
        ]
        assert place.subjects() == [f"DOWN {TEST} (2 of 3 nodes)"]
        first.round()
        assert len(place.mails()) == 1, "one mail when it opens, not one a minute"
        all_see(three, "OK back")
        forget()
        assert "incident-closed" in first.round()
        assert place.subjects()[1].startswith(f"UP {TEST} (was DOWN ")
        first.round()
        assert len(place.mails()) == 2
    sender = default_sender("127.0.0.31")
    assert place.mails()[0]["X-Arguments"] == f"-oi -f {sender} -- {ADDRESS}"
    assert place.mails()[0]["From"].addresses[0].addr_spec == sender


def test_what_is_behind_is_a_line_in_the_mail(three: list[LocalNode], place: Place) -> None:
    """When both come back, that is one mail too; what is still down then is mailed in the next round."""
    last = "last.example.com/web"
    prepare(three)
    for node in three:
        for behind in ("near.example.com/web", last):
            node.test(behind, f"BEHIND={TEST}\n")
    with running(three):
        for node in three:
            node.round()
        all_see(three, "FAIL no route")
        forget()
        log = three[0].round()
        assert log.count("incident-opened") == 3
        (down,) = place.mails()
        assert str(down["Subject"]) == f"DOWN {TEST} (3 of 3 nodes)"
        line = f"And 2 tests behind it: {last}, near.example.com/web\n"
        assert line in down.get_content()
        for node in three:
            node.plugin("web", "case $1 in last.*) echo FAIL still;; *) echo OK back;; esac")
        forget()
        log = three[0].round()
        assert "incident-suppressed test=near.example.com/web" in log
        assert [subject.split(" (")[0] for subject in place.subjects()[1:]] == [f"UP {TEST}"]
        three[0].round()
    assert [subject.split(" (")[0] for subject in place.subjects()[2:]] == [f"DOWN {last}"]


def test_what_one_node_alone_sees_is_not_mailed(three: list[LocalNode], place: Place) -> None:
    living(three)
    sees(three[0], "FAIL no route")
    with running(three[1:]):
        log = three[0].round()
    assert (
        "verdict=LOCAL was=UP votes=1 quorum=2 failing=127.0.0.31 passing=127.0.0.32,127.0.0.33"
        in log
    )
    assert place.mails() == []


def fails_every_other_time(node: LocalNode) -> None:
    """Make the plugin of the test fail at every first look, and pass at every second one."""
    failed = f"{node.state}/failed"
    node.plugin(
        "web",
        f"if [ -e {failed} ]; then rm {failed}; echo OK back; else echo >{failed}; echo FAIL lost; fi",
    )


def test_what_fails_once_is_a_flake_and_no_vote(three: list[LocalNode], place: Place) -> None:
    """Two nodes see it at the same time, which would be a quorum; the peers are asked meanwhile."""
    living(three)
    for node in three[:2]:
        fails_every_other_time(node)
    ran = three[2].state / "ran"
    three[2].plugin("web", f"echo >>{ran}; echo OK")
    with running(three[1:]):
        log = three[0].round()
        assert f"flake test={TEST} result=FAIL" in log and "text=lost" in log
        assert f"verdict test={TEST} verdict=UP was=UP votes=0" in log
        assert "incident-opened" not in log
        assert ran.exists(), "the peers were asked"
        looked = three[0].run("dmonitor-check", "--dry-run").stdout
    assert looked.count("OK ") >= 3 and looked.count("back (a first look failed: lost)") == 2
    assert place.mails() == []
    (flake,) = [flake for flake in node_memory(three[0]).flakes if str(flake.test) == TEST]
    assert (flake.total, flake.text) == (1, "lost"), "a dry run counts none"
    said = three[0].run("dmonitor", "status").stdout
    (line,) = [line for line in said.splitlines() if TEST in line]
    assert line.startswith("UP ") and re.search(r"\(1 flake, the last \d+ s ago\)$", line)
    why = three[0].run("dmonitor", "why", TEST).stdout
    assert "It had 1 flake here: it failed, and passed when it was looked at again.\n" in why
    assert re.search(r"The last one was at 20.*: lost\n", why)
    metrics = three[0].run("dmonitor", "metrics", "-").stdout
    assert "# TYPE dmonitor_flakes_total counter\n" in metrics
    assert 'dmonitor_flakes_total{host="www.example.com",test="web"} 1\n' in metrics


def test_what_fails_twice_is_run_twice_and_fails(three: list[LocalNode]) -> None:
    prepare(three)
    for node in three:
        node.plugin("web", f"echo x >>{node.state}/ran; echo FAIL gone")
    with running(three[1:]):
        log = three[0].round()
    assert "verdict=DOWN was=UP votes=3" in log and "flake" not in log
    for node in three:
        assert (node.state / "ran").read_text() == "x\nx\n"


def test_the_peers_are_asked_about_what_hangs_before_its_first_look_has_ended(
    three: list[LocalNode],
) -> None:
    prepare(three)
    looks, asked = three[0].state / "ran", three[2].state / "ran"
    for node in (three[0], three[2]):
        node.plugin("web", f"echo x >>{node.state}/ran; exec sleep 60")
    began = time.monotonic()
    with running(three[2:]), started(three[0]) as process:
        wait_until(asked.exists, 9.0)
        assert SLOW_LOOK < time.monotonic() - began < PLUGIN_LIMIT, "the first look still runs"
        wait_until(lambda: looks.read_text() == "x\nx\n", SLOW_LOOK - 1)
        assert process.poll() is None and asked.read_text() == "x\n"
        wait_until(lambda: asked.read_text() == "x\nx\n", PLUGIN_LIMIT - 2)


def observed(
    node: LocalNode, slow: frozenset[Test] = frozenset(), incident: Incident | None = None
) -> Observation:
    """Return what a round of `node` sees, if these tests were `slow` in the last one.

    It holds the open `incident`, or none.
    """
    open_tests = frozenset([incident.test] if incident else ())
    incidents = (incident,) if incident else ()
    eyes = observer.Observer(
        load_configuration(str(node.config)),
        "id-of-this-node",
        {},
        driver.Clock(clock.Stopwatch(), time.time),
        lambda: None,
    )
    try:
        return eyes.observe(Observe(open_tests, incidents, 2, slow=slow))
    finally:
        eyes.close()
        faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize(("heard_from", "looks"), [("", 1), ("liar", 2)])
def test_what_a_peer_alone_calls_open_is_looked_at_twice(
    three: list[LocalNode], heard_from: str, looks: int
) -> None:
    """Else who lies could have any flake of a node taken for a failure."""
    prepare(three)
    test = Test("www.example.com", "web")
    three[0].plugin("web", f"echo x >>{three[0].state}/ran; echo FAIL")
    held = Incident(("a" * 16,), test, time.time() - 60.0, heard_from=heard_from)
    seen = observed(three[0], incident=held)
    assert seen.judgements[test].answers[0].vote is Vote.FAILING
    assert (three[0].state / "ran").read_text().split() == ["x"] * looks


def test_what_is_slow_as_a_rule_is_looked_at_once_and_nobody_is_asked(
    three: list[LocalNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time it costs a second look here, and the looks of the peers."""
    prepare(three)
    test = Test("www.example.com", "web")

    def runs() -> list[int]:
        """Return how often each node's plugin has run since the last call."""
        counts = []
        for node in three:
            path = node.state / "ran"
            counts.append(len(path.read_text().split()) if path.exists() else 0)
            path.unlink(missing_ok=True)
        return counts

    for node in three:
        node.plugin("web", f"echo x >>{node.state}/ran; sleep 5; echo OK fine")
    three[1].round()
    assert runs() == [0, 2, 0]
    three[1].round()
    assert runs() == [0, 1, 0] and node_memory(three[1]).slow == (test,)

    three[0].plugin("web", f"echo x >>{three[0].state}/ran; sleep 1; echo OK fine")
    monkeypatch.setattr(result, "SLOW_LOOK", 0.3)
    with running(three[1:]):
        began = time.monotonic()
        seen = observed(three[0])
        assert time.monotonic() - began < 5, "no answer is waited for: they take 5 s"
        assert test not in seen.asked and seen.flakes == {}
        judgement = seen.judgements[test]
        assert judgement.verdict is Verdict.UP and len(judgement.answers) == 1
        time.sleep(SLOW_LOOK + 0.5)
        assert runs() == [2, 1, 2], "the second node's daemon knows that it is always slow"
        forget()
        seen = observed(three[0], frozenset([test]))
        assert seen.judgements[test].verdict is Verdict.UP and test not in seen.asked
        assert runs() == [1, 0, 0]


def test_a_slow_look_that_fails_is_asked_about_and_a_flake_if_the_other_one_passes(
    three: list[LocalNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(three[:1])
    seen = three[0].state / "seen"
    monkeypatch.setattr(result, "SLOW_LOOK", 0.3)
    code = f"[ -e {seen} ] && {{ sleep 1; echo OK back; exit; }}; echo >{seen}; sleep 0.8; echo FAIL lost"
    three[0].plugin("web", code)
    test = Test("www.example.com", "web")
    found = observed(three[0])
    assert found.flakes[test].text == "lost" and test in found.asked
    judgement = found.judgements[test]
    assert judgement.verdict is Verdict.UP and len(judgement.answers) == 3
    assert judgement.answers[0].text == "back (a first look failed: lost)"
    three[0].plugin("web", "sleep 0.8; echo FAIL gone")
    found = observed(three[0])
    assert test in found.asked and not found.flakes
    assert found.judgements[test].verdict is Verdict.UNCONFIRMED


def test_a_first_look_stands_when_the_round_has_no_more_time(
    three: list[LocalNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not become "not run", and no other look begins."""
    prepare(three)
    three[0].plugin("web", f"echo x >>{three[0].state}/ran; echo FAIL gone")
    monkeypatch.setattr(observer, "OWN_RESULTS_BY", 1.2)
    monkeypatch.setattr(observer, "ANSWERS_BY", 3.0)
    options = cli.Options()
    options.config, options.state = str(three[0].config), str(three[0].state)
    with running(three[2:]):
        seen, _ = questions.look(options, load_configuration(options.config))
    answers = {str(test): judgement.answers[0] for test, judgement in seen.judgements.items()}
    assert (answers[TEST].seen, answers[TEST].text) == ("FAIL", "gone")
    peer = answers["node/127.0.0.32"]
    assert (peer.seen, peer.text) == ("FAIL", "connection refused")
    assert (three[0].state / "ran").read_text() == "x\n" and not seen.flakes


def test_a_peer_is_greeted_at_the_second_try(three: list[LocalNode], place: Place) -> None:
    """Its daemon is started again just when the round begins: nobody takes it for dead."""
    prepare(three)
    with running(three[1:]):
        for node in three:
            node.round()
    with running(three[2:]), started(three[0]) as process:
        time.sleep(1.2)
        with running(three[1:2]):
            process.wait(50)
    (flake,) = node_memory(three[0]).flakes
    assert str(flake.test) == "node/127.0.0.32" and flake.text == "connection refused"
    assert place.mails() == []


def test_nobody_could_say_otherwise(three: list[LocalNode], place: Place) -> None:
    living(three)
    sees(three[0], "FAIL no route")
    log = three[0].round()
    assert (
        "verdict=UNCONFIRMED was=UP votes=1 quorum=2 failing=127.0.0.31 abstaining=127.0.0.32,127.0.0.33"
        in log
    )
    assert 'node=127.0.0.32 sees=no-answer text="connection refused"' in log
    assert place.mails() == []


def test_a_node_does_not_agree_with_itself(place: Place, port: int) -> None:
    """Its own daemon answers under a name that nodes.txt lists as somebody else's."""
    node = LocalNode(place, "127.0.0.31", ["127.0.0.31", "127.0.0.32"], port=port)
    node.mail()
    prepare([node])
    echo = LocalNode(place, "127.0.0.32", ["127.0.0.31", "127.0.0.32"], port=port)
    prepare([echo])
    sees(echo, "FAIL no route")
    node.round()
    sees(node, "FAIL no route")
    (echo.state / "node-id").write_text((node.state / "node-id").read_text())
    with running([echo]):
        log = node.round()
    assert "verdict=UNCONFIRMED" in log
    assert place.mails() == []


def test_confirm(three: list[LocalNode], place: Place) -> None:
    living(three)
    three[0].configure("confirm = 2\n")
    all_see(three, "FAIL no route")
    with running(three[1:]):
        three[0].round()
        assert place.mails() == []
        three[0].round()
    assert len(place.mails()) == 1


def test_a_refused_mail_is_owed_until_it_is_taken(three: list[LocalNode], place: Place) -> None:
    living(three)
    all_see(three, "FAIL no route")
    with running(three[1:]):
        with with_sendmail(place, "echo disk full >&2; exit 75\n"):
            refused = three[0].run("dmonitor-check", "-v", "--once")
        assert refused.returncode == os.EX_TEMPFAIL
        assert f"refused address={ADDRESS} kind=alert" in refused.stderr
        assert 'reason="sendmail: exit 75: disk full"' in refused.stderr
        assert node_memory(three[0]).refused == 1
        three[0].round()
        assert place.subjects() == [f"DOWN {TEST} (3 of 3 nodes)"]
        assert node_memory(three[0]).refused == 0
        three[0].round()
        assert len(place.mails()) == 1


def node_memory(node: LocalNode) -> NodeMemory:
    with Store(str(node.state), read_only=True) as store:
        return store.node_memory()


def let_troubles_last(node: LocalNode, seconds: float) -> None:
    """Have all that troubles `node` last for so long already."""
    with Store(str(node.state)) as store:
        memory = store.node_memory()
        older = tuple(each._replace(since=each.since - seconds) for each in memory.troubles)
        store.save(Save(memory._replace(troubles=older)))
    for path in node.state.iterdir():
        os.chown(path, run_as().pw_uid, run_as().pw_gid)


@pytest.mark.parametrize("unreadable", ["hosts.d", "hosts.d/www.example.com"])
def test_a_test_that_cannot_be_read_any_more_is_unknown_and_said_aloud(
    three: list[LocalNode], unreadable: str
) -> None:
    """A configuration tool may set the mode of a directory, or make it under umask 077."""
    prepare(three)
    first, second = three[:2]
    path = first.config / unreadable
    with running(three):
        for node in three:
            node.round()
        path.chmod(0)
        try:
            forget()
            log = first.round()
            assert f"asked test={TEST} peers=127.0.0.32,127.0.0.33" in log, "the peers can tell"
            seen = second.run("dmonitor-check", "--test", TEST, "--peers").stdout
            status = first.run("dmonitor", "status").stdout
            let_troubles_last(first, 301)
            said = first.run("dmonitor-check", "--once").stderr
        finally:
            path.chmod(0o755)
    (answer,) = [line for line in seen.splitlines() if line.strip().startswith("127.0.0.31 ")]
    assert answer.split()[1] == "UNKNOWN" and "file cannot be read" in answer
    assert "CANNOT ALERT" in status and "configuration cannot be read" in status
    reason = f"{path}: Permission denied for user {run_as().pw_name}"
    assert reason in said and f"nobody can tell from here how they are: {TEST}" in said
    assert any(reason in trouble.text for trouble in node_memory(first).troubles)


def test_what_a_round_would_only_find_when_something_fails_is_said_aloud(
    three: list[LocalNode],
) -> None:
    """Whatever -t calls an error: no sendmail, a hook and a parameter that do nothing."""
    prepare(three)
    first = three[0]
    first.plugin("web", "#: EXPECT: what it says\necho OK fine\n")
    first.test("www.example.com/web", "EXPCT=all well\n")
    first.configure("sendmail = /nonexistent/sendmail\n")
    hook = first.config / "alert.d/ntfy"
    hook.write_text("#!/nonexistent/sh\n")
    hook.chmod(0o755)
    (first.config / "alert.d/on call@example.com").touch()
    first.run("dmonitor-check", "--once")
    (trouble,) = [each for each in node_memory(first).troubles if each.kind == "misconfigured"]
    for mistake in (
        "alert.d/on call@example.com: 'on call@example.com' is not a mail address that is taken here",
        "alert.d/ntfy: names an interpreter that does not exist: '/nonexistent/sh'",
        "hosts.d/www.example.com/web: check_web has no parameter EXPCT; did you mean EXPECT?",
    ):
        assert f"{first.config}/{mistake}" in trouble.text
    assert "/nonexistent/sendmail: sendmail does not exist" in trouble.text
    said = first.run("dmonitor-check", "-t").stderr
    assert said.count("sendmail does not exist") == 1, "it looks for itself"


def test_a_test_that_only_this_node_has_is_not_all_well(three: list[LocalNode]) -> None:
    prepare(three)
    first = three[0]
    first.test("www.example.com/web:mine")
    with running(three):
        for node in three:
            node.round()
        first.round()
        said = first.run("dmonitor-check", "-t").stderr
        others = three[1].run("dmonitor-check", "-t").stderr
    text = "unconfirmable, as of the last round: too few sites have these tests for quorum = 2, so they can never be DOWN: www.example.com/web:mine;"
    assert text in said and "all well" not in said
    assert "unconfirmable" not in others and "drift, as of the last round" in others


def test_nodes_that_cannot_be_read_any_more_are_unknown(three: list[LocalNode]) -> None:
    prepare(three)
    first = three[0]
    first.round()
    (first.config / "nodes.txt").chmod(0)
    try:
        first.round()
        shown = first.run("dmonitor", "status").stdout
    finally:
        (first.config / "nodes.txt").chmod(0o644)
    lines = [line.split() for line in shown.splitlines() if "node/127.0.0.3" in line]
    assert {line[0] for line in lines} == {"UNKNOWN"} and len(lines) == 2


def test_one_address_that_is_refused_is_tried_again_alone(
    three: list[LocalNode], place: Place
) -> None:
    place.rests_never()
    living(three)
    three[0].mail("full@example.com")
    all_see(three, "FAIL no route")
    with running(three[1:]):
        with with_sendmail(place, 'case "$5" in full*) exit 75 ;; esac; exec usual "$@"\n'):
            for _ in range(2):
                assert three[0].run("dmonitor-check", "--once").returncode == os.EX_TEMPFAIL
        assert [mail["To"] for mail in place.mails()] == [ADDRESS]
        assert node_memory(three[0]).refused == 0, "the MTA takes mails"
        three[0].round()
        three[0].round()
    assert [mail["To"] for mail in place.mails()] == [ADDRESS, "full@example.com"]


def test_a_mail_system_that_answers_late_gets_no_mail_twice(
    three: list[LocalNode], place: Place
) -> None:
    """It has the mail at once, and says so much later, when the round is over."""
    place.replace("execution/keeper.py", "SENDMAIL_WAIT = 15.0", "SENDMAIL_WAIT = 2.0")
    living(three)
    for node in three:
        node.mail()
    all_see(three, "FAIL no route")
    go = place.mailbox.parent / "go"
    with running(three):
        with with_sendmail(place, f'usual "$@"; while [ ! -e {go} ]; do sleep 0.1; done\n'):
            assert f"perhaps-taken address={ADDRESS}" in three[0].round()
            for node in three[1:]:
                said = node.round()
                assert "127.0.0.31 hands it over" in said, said
            again = three[0].round()
            assert "handed-over" not in again and "perhaps-taken" not in again
            assert len(place.mails()) == 1
            (left,) = node_memory(three[0]).handing
            assert (three[0].state / f"handing-{left.known_as}").exists()
            go.touch()
            time.sleep(0.5)
            assert f"late-handed-over address={ADDRESS}" in three[0].round()
        for node in three[1:]:
            assert "alert=127.0.0.31" in node.round()
    assert place.subjects() == [f"DOWN {TEST} (3 of 3 nodes)"]
    assert node_memory(three[0]).handing == () and not list(three[0].state.glob("handing-*"))


def test_a_round_that_is_killed_while_sendmail_runs_doubles_nothing(
    three: list[LocalNode], place: Place
) -> None:
    living(three)
    all_see(three, "FAIL no route")
    go = place.mailbox.parent / "go"
    with running(three):
        with with_sendmail(place, f'usual "$@"; while [ ! -e {go} ]; do sleep 0.1; done\n'):
            with started(three[0]) as process:
                wait_until(place.mails, 40)
            assert process.returncode == -signal.SIGKILL
            go.touch()
            time.sleep(0.5)
            assert f"late-handed-over address={ADDRESS}" in three[0].round()
        three[0].round()
    assert len(place.mails()) == 1


def test_a_test_that_is_taken_clears_what_was_refused(three: list[LocalNode], place: Place) -> None:
    living(three)
    all_see(three, "FAIL no route")
    with running(three[1:]):
        with with_sendmail(place, "exit 75\n"):
            three[0].run("dmonitor-check", "--once")
        all_see(three, "OK fine")
        assert node_memory(three[0]).refused == 1
        assert three[0].run("dmonitor-check", "--test-alert").returncode == 0
        assert (three[0].state / "test-taken").read_text() == f"{ADDRESS}\n"
        three[0].run("dmonitor-check", "--once")
    memory = node_memory(three[0])
    assert (memory.refused, memory.refused_addresses) == (0, ())
    assert not (three[0].state / "test-taken").exists(), "it counts once"


def test_an_address_that_is_removed_drops_what_it_was_owed(
    three: list[LocalNode], place: Place
) -> None:
    living(three)
    three[0].mail("second@example.com")
    all_see(three, "FAIL no route")
    with running(three[1:]):
        with with_sendmail(place, f'case "$5" in {ADDRESS}) exit 75 ;; esac; exec usual "$@"\n'):
            three[0].run("dmonitor-check", "--once")
        (three[0].config / "alert.d" / ADDRESS).rename(
            three[0].config / "alert.d" / "other@example.com"
        )
        log = three[0].round()
    assert f"address-removed address={ADDRESS} test={TEST} kind=alert" in log
    assert [mail["To"] for mail in place.mails()] == ["second@example.com"]


def test_a_removed_test_closes_its_incident_without_a_mail(
    three: list[LocalNode], place: Place
) -> None:
    living(three)
    all_see(three, "FAIL no route")
    with running(three[1:]):
        three[0].round()
        (three[0].config / "hosts.d" / TEST).unlink()
        log = three[0].round()
        assert (
            f"incident-removed test={TEST} incident=" in log and f"test-removed test={TEST}" in log
        )
        assert len(place.mails()) == 1
        three[0].test(TEST)
        assert "incident-opened" in three[0].round(), "it is another incident"
        assert len(place.mails()) == 2


def test_hosts_that_cannot_be_read_are_not_taken_for_removed(
    three: list[LocalNode], place: Place
) -> None:
    living(three)
    all_see(three, "FAIL no route")
    hosts = three[0].config / "hosts.d"
    with running(three[1:]):
        three[0].round()
        hosts.rename(three[0].config / "elsewhere")
        assert "test-removed" not in three[0].round()
        (three[0].config / "elsewhere").rename(hosts)
        assert "incident-opened" not in three[0].round()
    assert len(place.mails()) == 1


def test_what_is_away_for_a_moment_is_not_removed(three: list[LocalNode], place: Place) -> None:
    """hosts.d and alert.d may hold links to a share; in the closing round nobody can be found to mail."""
    living(three)
    first = three[0]
    share = first.config / "share"
    share.mkdir()
    (share / ADDRESS).touch()
    (first.config / "alert.d" / ADDRESS).unlink()
    (first.config / "alert.d" / ADDRESS).symlink_to(share / ADDRESS)
    (first.config / "hosts.d" / "www.example.com").rename(share / "host")
    (first.config / "hosts.d" / "www.example.com").symlink_to(share / "host")
    all_see(three, "FAIL no route")
    with running(three[1:]):
        first.round()
        share.rename(first.config / "away")
        assert "test-removed" not in first.round()
        (first.config / "away").rename(share)
        all_see(three, "OK back")
        forget()
        (share / ADDRESS).unlink()
        assert "handed-over address=oncall@example.com kind=recovery" in first.round()
    assert [subject[:4] for subject in place.subjects()] == ["DOWN", "UP w"]


def test_a_node_that_cannot_find_its_own_line_is_no_second_site(place: Place, port: int) -> None:
    """Both are in paris; that our own name does not resolve must not make two sites of it."""
    nodes = ["node-a.invalid paris", "127.0.0.32 paris"]
    first, second = (
        LocalNode(place, address, nodes, port=port) for address in ("127.0.0.31", "127.0.0.32")
    )
    first.mail()
    living([first, second])
    sees(first, "FAIL no route")
    sees(second, "FAIL no route")
    with second.config.joinpath("nodes.txt").open("a") as file:
        file.write("127.0.0.31 paris\n")
    with running([second]):
        log = first.round()
    assert "verdict=UNCONFIRMED was=UP votes=1 quorum=2" in log
    assert place.mails() == []


def test_peers_are_found_while_the_resolver_is_away(three: list[LocalNode]) -> None:
    prepare(three)
    three[0].round()
    store = Store(str(three[0].state))
    with store:
        assert store.lookups() == {node.address: (node.address,) for node in three}


def test_a_state_that_cannot_be_written_stops_no_mail_and_repeats_none(
    three: list[LocalNode], place: Place
) -> None:
    """What is told is kept in the run directory until the state can be written again."""
    run = place.writable("run")

    def check() -> str:
        ran = three[0].run("dmonitor-check", "-v", "--once", "--run", str(run))
        assert ran.returncode == os.EX_OK
        return ran.stderr

    prepare(three)
    check()
    all_see(three, "FAIL no route")
    database = three[0].state / "state.db"
    with running(three[1:]):
        database.chmod(0o444)
        said = check()
        assert f"not-stored path={database}" in said
        denied = f"Permission denied for user {run_as().pw_name}"
        assert f"unable to write {database}: {denied}" in said
        for _ in range(2):
            said = check()
            assert f"not-stored path={database}" in said
            assert "unable to write" not in said, "once is enough for cron to mail"
        assert place.subjects() == [f"DOWN {TEST} (3 of 3 nodes)"]
        for path in three[0].state.glob(
            "state.db*"
        ):  # what sqlite made beside it has the same mode
            path.chmod(0o640)
        assert f"stored-again path={database}" in check()
        assert [path.name for path in run.iterdir()] == ["last-looks"]
        all_see(three, "OK back")
        forget()
        check()
    assert [subject[:4] for subject in place.subjects()] == ["DOWN", "UP w"]


def test_the_first_living_node_mails_and_the_others_record(
    three: list[LocalNode], place: Place
) -> None:
    """Must show R5 with real processes: each has an address, and each finds out for itself."""
    prepare(three)
    for node in three:
        node.mail()
    with running(three):
        for node in three:
            node.round()
        forget()  # what was rehearsed
        all_see(three, "FAIL no route")
        assert 'speaker-chosen reason="127.0.0.31 speaks: first of 3 living"' in three[2].round()
        assert place.mails() == []
        log = three[0].round()
        assert "incident-heard" in log and f"handed-over address={ADDRESS} kind=alert" in log
        for node in three[1:]:
            assert "alert=127.0.0.31" in node.round()
        all_see(three, "OK back")
        forget()
        for node in reversed(three):
            node.round()
    assert [subject[:4] for subject in place.subjects()] == ["DOWN", "UP w"]
    sender = default_sender("127.0.0.31")
    assert {mail["X-Arguments"] for mail in place.mails()} == {f"-oi -f {sender} -- {ADDRESS}"}


def test_the_first_node_stays_for_what_the_others_find(
    three: list[LocalNode], place: Place
) -> None:
    prepare(three)
    with running(three):
        for node in three:
            node.round()
        with started(three[0]) as process:
            wait_until(lambda: lock.holder(str(three[0].state), "check") is not None, 20)
            wait_until(lambda: lock.holder(str(three[0].state), "check") is None, 20)
            assert process.poll() is None, "it has ended its round, and did not stay"
            forget()  # what was rehearsed
            all_see(three, "FAIL no route")
            assert "incident-opened" in three[1].round()
            wait_until(place.subjects, 40)
        assert place.subjects() == [f"DOWN {TEST} (3 of 3 nodes)"]


def test_first_starts_at_the_same_time(place: Place, port: int) -> None:
    """Root's first programs all find no state directory."""
    for number in range(5):
        node = LocalNode(place, f"127.0.0.{70 + number}", ["127.0.0.99"], port=port)
        node.state.rmdir()
        node.state.parent.chmod(0o777 if os.geteuid() else 0o755)
        if os.geteuid():
            node.state.mkdir()  # nobody but root makes it
        starts = [node.popen("dmonitor-check", "--once") for _ in range(4)]
        for start in starts:
            out, complaint = start.communicate()
            assert start.returncode in (os.EX_OK, os.EX_TEMPFAIL) and out == "", complaint
            assert complaint in ("", f"dmonitor-check: {socket.gethostname()}: {ALONE}\n"), (
                complaint
            )
        assert node.state.stat().st_uid == run_as().pw_uid


def test_one_bad_file_costs_nothing_else(three: list[LocalNode], place: Place) -> None:
    living(three)
    first = three[0]
    (first.config / "hosts.d" / "a b").mkdir()
    (first.config / "alert.d" / "${run{x}}@y").touch()
    (first.config / "alert.d" / "second@example.com").touch()
    first.test("www.example.com/nonesuch")
    first.test("www.example.com/web:bad", "port=80\n")
    all_see(three, "FAIL no route")
    with running(three[1:]):
        log = first.round()
    assert sorted(mail["To"] for mail in place.mails()) == [ADDRESS, "second@example.com"]
    assert "misconfigured" in log and "'a b' is not a host name" in log
    assert (
        f'untestable test=www.example.com/nonesuch text="no plugin {first.config}/plugins/check_nonesuch"'
        in log
    )
    assert "untestable test=www.example.com/web:bad" in log


def test_dry_run_tells_and_stores_nothing(three: list[LocalNode], place: Place) -> None:
    prepare(three)
    all_see(three, "FAIL no route")
    sees(three[2], "OK fine")
    with running(three[1:2]):
        dry = three[0].run("dmonitor-check", "--dry-run")
    assert dry.returncode == 0
    assert re.sub(r"[ \d]\d\.\d\d s", " 0.00 s", dry.stdout) == (
        "www.example.com/web  DOWN: 2 sites failing, quorum 2\n"
        "    127.0.0.31  FAIL        0.00 s  no route\n"
        "    127.0.0.32  FAIL        0.00 s  no route\n"
        "    127.0.0.33  no-answer           connection refused\n"
        "node/127.0.0.32  UNKNOWN: 0 sites failing, quorum 2\n"
        "    127.0.0.31  UNKNOWN     0.00 s  its checker has not finished a round yet\n"
        "    127.0.0.33  no-answer           connection refused\n"
        "node/127.0.0.33  DOWN: 2 sites failing, quorum 2\n"
        "    127.0.0.31  FAIL        0.00 s  connection refused\n"
        "    127.0.0.32  FAIL        0.00 s  connection refused\n"
    )
    assert place.mails() == []
    assert list(three[0].state.iterdir()) == []
    assert dry.stderr == ""


def test_dry_run_asks_about_what_passes_too(three: list[LocalNode]) -> None:
    prepare(three)
    three[1].plugin("web", "echo OK fine")
    (three[1].config / "hosts.d" / TEST).unlink()
    with running(three[1:2]):
        dry = three[0].run("dmonitor-check", "--dry-run").stdout
    assert re.sub(r"\d\.\d\d s", "0.00 s", dry).startswith(
        "www.example.com/web  UP: 0 sites failing, quorum 2\n"
        "    127.0.0.31  OK          0.00 s  fine\n"
        "    127.0.0.32  UNKNOWN     0.00 s  it has no such test (not-configured)\n"
        "    127.0.0.33  no-answer           connection refused\n"
    )


def test_a_dry_run_may_be_started_while_a_round_runs(three: list[LocalNode]) -> None:
    prepare(three)
    three[0].plugin("web", "sleep 2; echo OK")
    with started(three[0]) as busy:
        wait_until(lambda: lock.holder(str(three[0].state), "check"))
        second = three[0].run("dmonitor-check", "-v", "--once")
        assert second.returncode == os.EX_TEMPFAIL and "round-skipped" in second.stderr
        assert three[0].run("dmonitor-check", "-n").returncode == 0
        assert busy.wait(10) == 0


def test_test_alert(three: list[LocalNode], place: Place) -> None:
    sent = three[0].run("dmonitor-check", "--test-alert")
    assert (sent.returncode, sent.stdout) == (
        0,
        f"{ADDRESS}: taken by {place.sendmail}: now look into the mailbox\n",
    )
    assert place.subjects() == ["TEST dmonitor on 127.0.0.31"]
    place.program("sendmail", "#!/bin/sh\necho no such user >&2; exit 67\n")
    refused = three[0].run("dmonitor-check", "--test-alert")
    assert (refused.returncode, refused.stdout) == (
        os.EX_TEMPFAIL,
        f"{ADDRESS}: not taken: sendmail: exit 67: no such user\n",
    )
    nobody = three[1].run("dmonitor-check", "--test-alert")
    assert nobody.returncode == os.EX_CONFIG and "names no address" in nobody.stderr


def test_a_trouble_is_mailed_once_if_cron_is_not_known_to_mail(
    three: list[LocalNode], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is mailed by this node; the others are dead."""
    prepare(three)
    node = three[0]
    node.mail("second@example.com")
    environment = place.environment()
    (node.config / "alert.d/hook").write_text("#!/bin/sh\necho hook >&2; exit 1\n")
    (node.config / "alert.d/hook").chmod(0o755)
    refuse = "#!/bin/sh\nexit 75\n"
    accept = place.sendmail.read_text()
    monkeypatch.setattr(Place, "environment", lambda _: {**environment, "MAILTO": ""})
    place.program("sendmail", refuse)
    assert SILENT in node.round() and place.subjects() == []
    place.program("sendmail", accept)
    told = node.round()
    assert SILENT in told and told.count("trouble-mailed") == 2
    subject = f"TROUBLE {node.address}: {SILENT}"
    assert len(place.mails()) == 2 and {str(mail["To"]) for mail in place.mails()} == {
        ADDRESS,
        "second@example.com",
    }
    for mail in place.mails():
        assert str(mail["Subject"]).startswith(subject[:100])
        assert mail.get_content().startswith(f"{node.address}: {SILENT}.\n")
    again = node.round()
    assert SILENT not in again and len(place.mails()) == 2, "once"
    monkeypatch.setattr(Place, "environment", lambda _: environment)
    three[1].mail()
    known = three[1].round()
    assert "no peer answers" in known and "trouble-mailed" not in known, "cron mails that"
    assert len(place.mails()) == 2


def complaints_of(node: LocalNode) -> list[str]:
    """Run a round; return what it prints, and no log."""
    ran = node.run("dmonitor-check", "--once")
    assert ran.returncode == 0
    return ran.stderr.splitlines()


def test_a_trouble_goes_where_alerts_go(three: list[LocalNode], place: Place) -> None:
    """It is mailed by this node, told to a hook, and not printed; when nobody takes it, it is."""
    prepare(three)
    node = three[0]
    node.configure("troubles = alert\n")
    hook = node.config / "alert.d/hook"
    facts = place.writable("facts")
    hook.write_text(f"#!/bin/sh\nenv | grep ^DMONITOR >{facts}/$$; cat >>{facts}/$$\n")
    hook.chmod(0o755)
    accept = place.sendmail.read_text()
    place.program("sendmail", "#!/bin/sh\nexit 75\n")
    hook.rename(node.config / "alert.d/.hook")
    wait_until(lambda: any(SILENT in line for line in complaints_of(node)), 20)
    lasting = node_memory(node).told_troubles[0]
    assert lasting.printed > 0.0 and lasting.told == ()
    assert complaints_of(node) == [], "it has been printed within the hour"

    place.program("sendmail", accept)
    hook.with_name(".hook").rename(hook)
    wait_until(lambda: not complaints_of(node) and node_memory(node).told_troubles[0].told, 40)
    told = next(facts.iterdir()).read_text()
    assert "DMONITOR_STATE=TROUBLE\n" in told and "DMONITOR_TEST=isolated\n" in told
    assert f"DMONITOR_SUBJECT=TROUBLE {node.address}: no peer answers\n" in told
    assert node_memory(node).told_troubles[0].told == ("hook:hook",), "the address rests"
    assert "; 1 address told" in node.run("dmonitor", "status").stdout


def test_a_trouble_is_mailed_once_although_its_round_is_killed(
    three: list[LocalNode], place: Place
) -> None:
    """What hands it over goes on when the round is over, and the next round finds what came of it."""
    prepare(three)
    node = three[0]
    node.configure("troubles = alert\n")
    place.program("sendmail", place.sendmail.read_text().replace("\n", "\nsleep 3\n", 1))
    with node.popen("dmonitor-check", "--once") as process:
        wait_until(lambda: list(node.state.glob("handing-*")), 20)
        process.kill()
    log = node.round() + node.round()
    wait_until(place.mails, 20)
    log += node.round()
    assert log.count("trouble-mailed") == 1 and "taken=yes" in log
    assert place.subjects() == [f"TROUBLE {node.address}: no peer answers"]
    assert not list(node.state.glob("handing-*")), "its file is gone"


def test_a_broken_database_is_said_and_kept(three: list[LocalNode]) -> None:
    prepare(three)
    database = three[0].state / "state.db"
    database.write_bytes(b"garbage" * 10_000)
    os.chown(database, run_as().pw_uid, run_as().pw_gid)
    broken = three[0].run("dmonitor-check", "--once")
    (kept,) = three[0].state.glob("state.db.broken-*")
    assert (broken.returncode, broken.stderr) == (
        os.EX_OK,
        f"dmonitor-check: {database} is broken (file is not a database); it is kept as {kept.name}, and a new one is begun\n"
        f"dmonitor-check: 127.0.0.31: {SILENT}\n",
    )
    assert kept.read_bytes() == b"garbage" * 10_000
    again = three[0].run("dmonitor-check", "--once")
    assert (again.returncode, again.stderr) == (os.EX_OK, "")


def test_state_belongs_to_who_runs_it(three: list[LocalNode]) -> None:
    prepare(three)
    three[0].round()
    assert {path.stat().st_uid for path in three[0].state.iterdir()} == {run_as().pw_uid}


def test_200_passing_tests_leave_no_output_and_ask_no_peer(three: list[LocalNode]) -> None:
    """Must show 7. A peer that is asked would log it."""
    prepare(three)
    for number in range(200):
        for node in three:
            node.test(f"host{number}.example.com/web")
            node.mail()
    log = three[1].config / "log"
    with log.open("w") as file:
        command = three[1].command("dmonitord", "--foreground", "-v")
        daemon = subprocess.Popen(command, env=three[1].place.environment(), stderr=file)
    try:
        wait_until(lambda: "started" in log.read_text())
        with running([three[0], three[2]]):
            for node in three:
                node.round()
            forget()
            before = log.read_text().count("question address=127.0.0.31")
            quiet = three[0].run("dmonitor-check", "--once")
            assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
            assert log.read_text().count("question address=127.0.0.31") - before <= 1, (
                "no more than a rehearsal"
            )
            sees(three[0], "FAIL")
            three[0].run("dmonitor-check", "--once")
            assert log.read_text().count("question address=127.0.0.31") - before >= 200, (
                "it would have been seen"
            )
    finally:
        daemon.terminate()
        daemon.wait(10)


def test_a_quiet_round_writes_only_that_it_was(three: list[LocalNode]) -> None:
    def content() -> dict[str, list[tuple[object, ...]]]:
        with contextlib.closing(
            sqlite3.connect(database.as_uri() + "?immutable=1", uri=True)
        ) as db:
            tables = {
                name: f"SELECT * FROM {name}"
                for name in ("standing", "incident", "known", "outbox", "memo")
            }
            tables["memo"] += " WHERE key != 'own'"
            return {name: db.execute(query).fetchall() for name, query in tables.items()}

    prepare(three)
    three[0].round()
    database = three[0].state / "state.db"
    before, size, begins = content(), database.stat().st_size, node_memory(three[0]).begins
    three[0].round()
    assert (content(), database.stat().st_size) == (before, size)
    assert node_memory(three[0]).begins[:-1] == begins
    assert not (three[0].state / "state.db-wal").exists()


def test_hostile_plugins_through_the_checker(three: list[LocalNode]) -> None:
    """One run of each; tests/scenarios/hostile_plugins.py runs each twenty times."""
    expected = plant(three[0].config / "plugins")
    for name in expected:
        three[0].test(f"www.example.com/{name}")
    dry = three[0].run("dmonitor-check", "-n").stdout
    assert not strays()
    seen = dict(re.findall(r"^www.example.com/(\S+)  .*\n    127.0.0.31  (\S+)", dry, re.MULTILINE))
    assert seen == {name: outcome.value for name, (outcome, _) in expected.items()}


def test_kill_9_leaves_nothing_and_the_next_round_runs(three: list[LocalNode]) -> None:
    prepare(three)
    three[0].plugin("web", f"setsid sleep {LONG} & sleep {LONG}")
    with started(three[0]) as running_round:
        wait_until(lambda: len(strays()) == 2)
        running_round.send_signal(signal.SIGKILL)
    wait_until(lambda: not strays())
    three[0].plugin("web", "echo OK")
    three[0].round()


@contextlib.contextmanager
def old_round(
    node: LocalNode, plugin: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[subprocess.Popen[str], lock.Lock]]:
    """Have a round run that holds the lock, and is as old as one that hangs."""
    node.plugin("web", plugin)
    with started(node) as running_round:
        round_lock = lock.Lock(str(node.state), "check")
        wait_until(lambda: lock.holder(str(node.state), "check"))
        monkeypatch.setattr(check, "_ROUND_HANGS_AFTER", 0.0)
        yield running_round, round_lock
        round_lock.release()


def test_a_round_that_hangs_is_ended_by_the_next(
    three: list[LocalNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(three)
    with old_round(three[0], "sleep 8; echo OK", monkeypatch) as (hung, round_lock):
        check._take(round_lock)
        round_lock.write_holder()
        assert hung.wait(6) == -signal.SIGKILL


def test_a_round_that_only_slept_is_given_a_moment(
    three: list[LocalNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as old as one that hangs, and ends by itself when its machine is awake."""
    prepare(three)
    with old_round(three[0], "sleep 1; echo OK", monkeypatch) as (slept, round_lock):
        monkeypatch.setattr(check, "_WAKE_PATIENCE", 20)
        check._take(round_lock)
        round_lock.write_holder()
        assert slept.wait(20) == 0


# A round whose hard limit is the second argument, on a machine that sleeps for an hour as soon as
# the third one, a file, is there.
SLEEPER = """
import os, sys
sys.path[:0] = [sys.argv[1]]
from dmonitor.core import effects
effects.HARD_LIMIT = float(sys.argv[2])
from dmonitor.base import clock
real, slept = clock.uptime, sys.argv[3]
clock.uptime = lambda: real() + 3600.0 * os.path.exists(slept)
del sys.argv[1:4]
from dmonitor.check import main
main()
"""


@contextlib.contextmanager
def round_in_its_plugin(
    node: LocalNode, limit: float = 55.0
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Run a round meanwhile, whose plugin runs and ends when the file `go` is there.

    Yield the round, and the file that makes its machine sleep.
    """
    go, slept = node.config / "go", node.config / "slept"
    node.plugin(
        "web",
        f"echo >{node.state}/began; until [ -e {go} ]; do sleep 0.1; done; cat {node.config}/sees",
    )
    directory = node.place.directory
    command = [sys.executable, "-c", SLEEPER, str(directory), str(limit), str(slept)]
    command += node.command("dmonitor-check", "--verbose", "--once")[2:]
    process = subprocess.Popen(
        command, env=node.place.environment(), text=True, stderr=subprocess.PIPE, cwd="/"
    )
    try:
        wait_until(lambda: (node.state / "began").exists())
        yield process, slept
    finally:
        process.kill()
        process.communicate()


def remembered(node: LocalNode) -> NodeMemory:
    with Store(str(node.state)) as kept:
        assert list(kept.memory().incidents) == []
        return kept.node_memory()


def test_a_round_that_slept_opens_nothing_and_the_next_one_goes_on(
    three: list[LocalNode], place: Place
) -> None:
    """The machine is suspended for an hour while a plugin runs: no evidence of before it counts."""
    living(three)
    before = remembered(three[0])
    all_see(three, "FAIL no route")
    with running(three[1:]):
        with round_in_its_plugin(three[0]) as (round_of_sleep, slept):
            slept.touch()
            (three[0].config / "go").touch()
            _, log = round_of_sleep.communicate(timeout=30)
        slept.unlink()
        assert round_of_sleep.returncode == os.EX_TEMPFAIL, log
        assert re.search(r" round-slept seconds=36[0-9][0-9]\n", log)
        assert "incident-opened" not in log and "handed-over" not in log
        assert remembered(three[0]) == before and place.mails() == []
        assert "incident-opened" in three[0].round(), "it does fail"
    assert place.subjects() == [f"DOWN {TEST} (3 of 3 nodes)"]


def test_a_round_that_is_stopped_past_its_limit_opens_nothing(
    three: list[LocalNode], place: Place
) -> None:
    """A frozen process: its limit ends it when it goes on, unless the round itself is faster."""
    living(three)
    before = remembered(three[0])
    all_see(three, "FAIL no route")
    with running(three[1:]):
        with round_in_its_plugin(three[0], limit=3.0) as (frozen, _):
            frozen.send_signal(signal.SIGSTOP)
            (three[0].config / "go").touch()
            time.sleep(3.5)
            assert frozen.poll() is None
            frozen.send_signal(signal.SIGCONT)
            _, log = frozen.communicate(timeout=30)
        ended_by = {1: "Timeout (0:00:0", os.EX_TEMPFAIL: " round-slept seconds="}
        assert ended_by[frozen.returncode] in log
        assert "incident-opened" not in log and "handed-over" not in log
        assert remembered(three[0]) == before and place.mails() == []
        assert "incident-opened" in three[0].round(), "it does fail"
    assert place.subjects() == [f"DOWN {TEST} (3 of 3 nodes)"]


def test_an_incident_survives_everything_in_between(three: list[LocalNode], place: Place) -> None:
    living(three)
    all_see(three, "FAIL no route")
    with running(three[1:]):
        three[0].round()
        _, (first,), _ = state.peek(str(three[0].state))
        three[0].round()
        _, (second,), _ = state.peek(str(three[0].state))
    assert first.alert == "127.0.0.31"
    assert (first.id, first.began, first.opening) == (second.id, second.began, second.opening)
    assert Path(three[0].state / "state.db").stat().st_size < 100_000


def test_pip_install_works(place: Place) -> None:
    """What setup.py names is there: the package, and both programs."""
    import ast

    tree = ast.parse((Path(__file__).parents[1] / "setup.py").read_text())
    call = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    scripts = next(
        ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg == "scripts"
    )
    assert all((place.directory / script).exists() for script in scripts)


# Blindness (R7).


def test_a_dead_node_is_one_mail_and_one_when_it_is_back(
    three: list[LocalNode], place: Place
) -> None:
    prepare(three)
    for node in three:
        node.mail()
    with running(three):
        for node in three:
            node.round()
        three[2].stop()
        forget()
        opened = three[0].round()
        assert "answer test=node/127.0.0.33 node=127.0.0.32 sees=FAIL age=0.0" in opened.replace(
            "age=0.000", "age=0.0"
        )
        assert "asked test=node/127.0.0.33 peers=127.0.0.32\n" in opened
        three[1].round()
        three[0].round()
        assert place.subjects() == ["DOWN node 127.0.0.33 (2 of 2 nodes)"]
        assert "127.0.0.32  FAIL     connection refused" in place.mails()[0].get_content()
        three[2].start()
        forget()
        for node in three:
            node.round()
        assert [subject[:22] for subject in place.subjects()[1:]] == ["UP node 127.0.0.33 (wa"]


def test_a_checker_that_stopped_while_its_daemon_goes_on(
    three: list[LocalNode], place: Place
) -> None:
    prepare(three)
    with running(three):
        for node in three:
            node.round()
        with Store(str(three[2].state)) as kept:  # as if its last round had been some minutes ago
            begins = tuple(kept.clock.now() - ago for ago in (610.0, 550.0, 490.0))
            kept.save(Save(node=kept.node_memory()._replace(begins=begins, finished=begins[-1])))
        forget()
        three[0].round()
    (mail,) = place.mails()
    assert str(mail["Subject"]) == "DOWN node 127.0.0.33 (2 of 2 nodes)"
    assert (
        "its daemon answers, but its checker has finished no round for 8 min" in mail.get_content()
    )


def test_what_fails_only_under_the_daemon_is_named_in_the_third_round(
    three: list[LocalNode],
) -> None:
    """The plugin is a stand-in for one that a sandbox spoils: it fails where dmonitord runs it."""
    prepare(three)
    three[0].plugin(
        "web",
        "if tr '\\0' ' ' </proc/$PPID/cmdline | grep -q dmonitord; then echo FAIL no right; else echo OK; fi",
    )
    with running(three[:1]):
        complaints = [three[0].run("dmonitor-check", "--once").stderr for _ in range(5)]
        named = f"asked about {TEST} in 3 rounds running, dmonitord on this node says FAIL (no right), and dmonitor-check sees OK"
        assert [named in complaint for complaint in complaints] == [
            False,
            False,
            True,
            False,
            False,
        ], "then hourly"
        assert named in three[0].run("dmonitor-check", "--check-config").stderr
        three[0].plugin("web", "echo OK")
        forget()
        assert "trouble-over kind=daemon-disagrees" in three[0].round()


def _counting(node: LocalNode) -> Path:
    """Have the plugin of the test write a line for each run, with what it finds in its environment."""
    ran = node.state / "ran"
    node.plugin("web", f'echo "$EVERY$RETRY$URL" >>{ran}; cat {node.config}/sees')
    return ran


def _runs(ran: Path) -> int:
    return len(ran.read_text().splitlines())


def test_a_test_with_every_rests_while_it_passes(three: list[LocalNode]) -> None:
    """Neither rounds nor rehearsals run it again, and a restart changes nothing."""
    prepare(three)
    ran = [_counting(node) for node in three]
    for node in three:
        node.test(TEST, "EVERY=7d\nRETRY=1m\nURL=http://x\n")
    with running(three):
        for _ in range(3):
            for node in three:
                node.round()
        assert [_runs(path) for path in ran] == [1, 1, 1]
        assert ran[0].read_text() == "http://x\n", "EVERY and RETRY are not for the plugin"
        assert "[OK, " in three[0].run("dmonitor", "status").stdout
        three[0].test(TEST, "EVERY=7d\n")
        three[0].round()
        assert _runs(ran[0]) == 2, "the test's file has changed"
        _counting(three[0])
        three[0].round()
        assert _runs(ran[0]) == 3, "its plugin has changed"
        assert three[0].run("dmonitor-check", "--test", TEST).stdout.startswith("OK")
        three[0].run("dmonitor-check", "-n")
        assert _runs(ran[0]) == 5, "an operator's look is one of now"
        forget()
        three[0].round()
        assert _runs(ran[0]) == 5


def test_what_fails_with_every_is_asked_about_and_mailed_at_once(
    three: list[LocalNode], place: Place
) -> None:
    """The peers' daemons run it when they are asked, however lately it has passed there."""
    prepare(three)
    for node in three:
        node.test(TEST, "EVERY=7d\n")
        node.mail()
    with running(three):
        for node in three:
            node.round()
        ran = [_counting(node) for node in three[1:]]
        all_see(three, "FAIL gone")
        three[0].test(TEST, "EVERY=7d\nTURN=comes\n")  # as if it were its turn
        three[0].round()
        assert place.subjects() and "DOWN" in place.subjects()[0]
        assert [path.read_text() for path in ran] == ["\n\n", "\n\n"], "without EVERY"
        forget()
        all_see(three, "OK fine")
        three[0].round()
        assert [state for state in place.subjects() if "UP" in state], place.subjects()


def test_between_two_retries_nobody_runs_it_and_nothing_changes(
    three: list[LocalNode], place: Place
) -> None:
    prepare(three)
    for node in three:
        node.test(TEST, "EVERY=7d\nRETRY=1d\n")
        node.mail()
    with running(three):
        three[0].round()
        forget()
        all_see(three, "FAIL gone")
        ran = [_counting(node) for node in three]
        assert "incident-opened" in three[0].round()
        counts = [_runs(path) for path in ran]
        assert counts == [2, 2, 2]
        forget()
        all_see(three, "OK fine")
        log = three[0].round()
        assert f"asked test={TEST}" not in log and "incident-closed" not in log
        assert [_runs(path) for path in ran] == counts
        assert re.search(rf"^DOWN +{TEST} ", three[0].run("dmonitor", "status").stdout, re.M)
    assert len(place.subjects()) == 1


def test_a_target_that_fails_at_this_very_moment_is_no_false_vote(three: list[LocalNode]) -> None:
    """The checker passes once; whoever asks then sees it fail."""
    prepare(three)
    three[0].plugin(
        "web",
        f"if [ -e {three[0].state}/ran ]; then echo FAIL; else echo >{three[0].state}/ran; echo OK; fi",
    )
    with running(three[:1]):
        assert "daemon-disagrees" not in three[0].round()


def test_a_cloned_state_is_named_by_both_and_by_who_sees_both(three: list[LocalNode]) -> None:
    """Must show 6."""
    prepare(three)
    three[0].round()
    shutil.copytree(three[0].state, three[1].state, dirs_exist_ok=True)
    for path in three[1].state.iterdir():
        os.chown(path, run_as().pw_uid, run_as().pw_gid)
    with running(three):
        for node, named in zip(
            three,
            ("127.0.0.32, this node", "127.0.0.31, this node", "127.0.0.31, 127.0.0.32"),
            strict=True,
        ):
            log = node.round()
            assert "trouble kind=cloned-id" in log and f"{named} have one node id" in log
            checked = node.run("dmonitor-check", "--check-config")
            assert (
                checked.returncode == os.EX_CONFIG and f"{named} have one node id" in checked.stderr
            )
        both = (node.run("dmonitor-check", "--dry-run").stdout for node in (three[0], three[2]))
        for table in both:  # asked about the other, one of them knows only that it has its own id
            assert "this node itself" not in table
        all_see(three, "FAIL")
        forget()
        assert "verdict=DOWN" in three[0].round(), "it and the third"
        sees(three[2], "OK")
        forget()
        assert "verdict=LOCAL" in three[0].round(), "it and its copy are one"


class Thief(lying_node.Strategy):
    """Says that everything passes, as another node whose greeting it has heard."""

    stolen: Greeting

    def greeting(self, name: str, node_id: str) -> bytes:
        return protocol.write(self.stolen)

    def standing(self, name: str, node_id: str) -> bytes:
        return super().standing(name, self.stolen.node_id)


def greeting_of(node: LocalNode, source: LocalNode) -> Greeting:
    """Return the greeting by which NODE answers a call from the address of SOURCE."""
    target = node.address, node.port
    with calls.Conversation(target, node.address, b"k" * 32, source.address) as conversation:
        return conversation.greeting


def test_a_node_that_takes_another_ones_id_and_incarnation_is_named(
    three: list[LocalNode], place: Place
) -> None:
    """It is no copy of that node, so nothing but what it was before tells it from the same machine.

    It takes no vote: that of the id is the vote of the line that had it for itself.
    """
    prepare(three)
    first, second, third = three
    with running(three):
        for node in three:
            assert "cloned-id" not in node.round()
        first.round()
        stolen = {node: greeting_of(node, third) for node in (first, second)}
        third.stop()
        all_see(three, "FAIL no route")
        forget()
        thief = Thief()
        with lying_node.Liar(third.address, third.port, third.address, "k" * 32, thief) as liar:
            for node, robbed in ((first, second), (second, first)):
                thief.stolen = stolen[robbed]
                logs = [node.round() for _ in range(3)]
                assert liar.asked["test"], "it is asked"
                assert "verdict=DOWN" in logs[0] and len(place.mails()) == 1, "no vote is gone"
                named = f"{robbed.address}, {third.address} answer with one node id"
                assert f'trouble kind=cloned-id text="{named}' in logs[0]
                assert f"dmonitor-check: {node.address}: {named}" in logs[0], "cron mails it"
                assert not any("trouble-over kind=cloned-id" in log for log in logs), "it lasts"
                checked = node.run("dmonitor-check", "--check-config")
                assert f"cloned-id, as of the last round: {named}" in checked.stderr
            thief.stolen = stolen[first]
            log = first.round()
            assert f"{third.address}, this node answer with one node id" in log
        third.start()
        assert "trouble-over kind=cloned-id" in first.round(), "it is itself again"


def test_two_nodes_of_which_one_is_dead(place: Place, port: int) -> None:
    """Must show 4: no host alert, a line for cron to mail, and none again within the hour."""
    node, _ = (
        LocalNode(place, address, ["127.0.0.31", "127.0.0.32"], port=port)
        for address in ("127.0.0.31", "127.0.0.32")
    )
    node.mail()
    prepare([node])
    first = node.run("dmonitor-check", "--once").stderr
    assert first == (
        "dmonitor-check: 127.0.0.31: no peer answers (127.0.0.32: connection refused): nothing that fails here can be confirmed, and nobody is alerted;"
        " with a third node in nodes.txt, the two that are left would go on\n"
    )
    sees(node, "FAIL")
    assert node.run("dmonitor-check", "--once").stderr == ""
    with Store(str(node.state)) as kept:  # an hour later
        earlier = [
            known._replace(said=known.said - 3600.0) for known in kept.node_memory().troubles
        ]
        kept.save(Save(node=kept.node_memory()._replace(troubles=tuple(earlier))))
    assert "no peer answers" in node.run("dmonitor-check", "--once").stderr
    assert place.mails() == []


def test_beyond_five_nodes_all_are_asked(place: Place, port: int) -> None:
    """A mail shows every node, however many there are; the answers to one test come in one round."""
    addresses = [f"127.0.0.{number}" for number in range(41, 48)]
    nodes = [LocalNode(place, address, addresses, port=port) for address in addresses]
    for node in nodes:
        node.plugin("down", "echo FAIL no route")
        node.plugin("alone", "echo FAIL no route" if node is nodes[0] else "echo OK")
        for number in range(15):
            node.test(f"h{number}.example.com/down")
        node.test("www.example.com/alone")
    with running(nodes):
        began = time.monotonic()
        said = nodes[0].round()
        assert time.monotonic() - began < exchange.ANSWER_SECONDS, (
            "it has its answers, and waited all the same"
        )
    asked = dict(re.findall(r" asked test=(\S+) peers=(\S+)", said))
    asked = {test: peers for test, peers in asked.items() if not test.startswith("node/")}
    assert len(asked) == 16
    for peers in asked.values():
        assert sorted(peers.split(",")) == addresses[1:]
    verdicts = dict(re.findall(r" verdict test=(\S+) verdict=(\w+)", said))
    assert verdicts.pop("www.example.com/alone") == "LOCAL"
    assert [verdicts[f"h{number}.example.com/down"] for number in range(15)] == ["DOWN"] * 15


def test_where_two_lines_are_one_id_all_are_asked(place: Place, port: int) -> None:
    """It has one vote, and passing comes first. So nothing is DOWN before both answers were heard."""
    addresses = [f"127.0.0.{number}" for number in range(41, 49)]
    nodes = [LocalNode(place, address, addresses, port=port) for address in addresses[:-1]]
    nodes[1].configure(f"listen = {addresses[1]} {addresses[-1]}\n")
    for node in nodes:
        node.plugin("down", "echo FAIL no route")
        node.test("www.example.com/down")
    with running(nodes):
        said = nodes[0].round()
    (peers,) = re.findall(r" asked test=www\S+ peers=(\S+)", said)
    assert len(peers.split(",")) == 6, "all but itself, the doubled one once"


def test_one_test_is_run_as_a_round_runs_it(three: list[LocalNode]) -> None:
    prepare(three)
    node = three[0]
    node.plugin(
        "web", f"(env | sort; id -un) >{node.state}/env-$PORT; echo FAIL connection refused"
    )
    node.test(f"{TEST}:8080", "EXPECT=hello\n")
    node.round()
    by_round = (node.state / "env-8080").read_text()
    ran = node.run("dmonitor-check", "--test", f"{TEST}:8080")
    assert (
        re.fullmatch(r"FAIL +0\.\d\d s  connection refused\n", ran.stdout) and ran.returncode == 1
    )
    assert ran.stderr == who_runs_it()
    by_hand = (node.state / "env-8080").read_text()
    assert (
        "EXPECT=hello\nHOME=" in by_hand
        and "PORT=8080\n" in by_hand
        and by_hand.endswith(run_as().pw_name + "\n")
    )
    assert by_hand == by_round
    assert (
        set(os.listdir(node.state)) >= {"node-id", "state.db"}
        and not (node.config / "hosts.d" / TEST).read_text()
    )


def test_the_exit_status_says_how_one_test_is(three: list[LocalNode]) -> None:
    prepare(three)
    for said, status in (("OK fine", 0), ("FAIL not", 1), ("UNKNOWN no tool", 3), ("", 3)):
        sees(three[0], said)
        assert three[0].run("dmonitor-check", "--test", TEST).returncode == status, said
    three[0].plugin("web", "exec sleep 20")
    began = time.monotonic()
    ran = three[0].run("dmonitor-check", "--test", str(three[0].config / "hosts.d" / TEST))
    assert (
        ran.stdout.startswith("TIMEOUT    10.0")
        and ran.returncode == 1
        and 14 < time.monotonic() - began < 20  # two looks, beside each other; else it takes 22 s
    )


def test_one_test_with_everybodys_view(three: list[LocalNode]) -> None:
    prepare(three)
    sees(three[1], "FAIL here only")
    three[2].test(TEST, "EXPECT=its own\n")
    three[2].plugin("web", 'echo "OK with $EXPECT"')
    with running(three):
        ran = three[0].run("dmonitor-check", "--test", TEST, "--peers")
    lines = ran.stdout.splitlines()
    assert lines[0] == f"{TEST}  UP: 1 site failing, quorum 2" and ran.returncode == 0
    assert [line.split()[:2] for line in lines[1:]] == [
        ["127.0.0.31", "OK"],
        ["127.0.0.32", "FAIL"],
        ["127.0.0.33", "OK"],
    ]
    assert lines[3].endswith("with its own"), "a peer uses its own file"
    assert not (three[0].state / "state.db").exists(), "nothing is stored"


def who_runs_it() -> str:
    """Return what --test says to a user that is not the one of rounds."""
    rounds = user.find().pw_name  # what cron's rounds run as, and root's
    if run_as().pw_name == rounds:
        return ""
    return f"dmonitor-check: run as user {run_as().pw_name}; rounds run it as {rounds}\n"


def test_several_tests_a_host_a_pattern_and_a_node(three: list[LocalNode]) -> None:
    prepare(three)
    node = three[0]
    node.test("mail.example.com/web")
    node.test("mail.example.com/bad")
    node.plugin("bad", "echo FAIL it is bad")

    def tested(*words: str) -> tuple[int, dict[str, str]]:
        ran = node.run("dmonitor-check", "--test", *words)
        assert ran.stderr == who_runs_it(), ran
        return ran.returncode, dict(line.split()[:2] for line in ran.stdout.splitlines())

    sees(node, "OK fine")
    mail, web = "mail.example.com/web", TEST
    assert tested(mail, TEST) == (0, {mail: "OK", web: "OK"})
    assert tested("mail.example.com") == (1, {mail: "OK", "mail.example.com/bad": "FAIL"})
    assert tested("*/web") == (0, {mail: "OK", web: "OK"})
    assert tested("mail*/w?b") == (0, {mail: "OK"}), "a pattern does not say which test that is"
    with running(three):
        for other in three:
            other.round()
        assert tested("node/127.0.0.32", TEST) == (0, {"node/127.0.0.32": "OK", web: "OK"})
        everybody = node.run("dmonitor-check", "--test", "node/127.0.0.32", TEST, "--peers")
        assert everybody.returncode == 0
        firsts = [line for line in everybody.stdout.splitlines() if not line.startswith(" ")]
        assert firsts == [
            f"{TEST}  UP: 0 sites failing, quorum 2",
            "node/127.0.0.32  UP: 0 sites failing, quorum 2",
        ]
        own = node.run("dmonitor-check", "--test", "node/127.0.0.31")
        assert own.returncode == os.EX_USAGE
        assert own.stderr.endswith("dmonitor-check: node/127.0.0.31 is this node itself\n")
    gone = node.run("dmonitor-check", "--test", "node/127.0.0.32")
    assert gone.returncode == 1 and gone.stdout.startswith("FAIL "), gone
    sees(node, "UNKNOWN no tool")
    assert tested(TEST, "mail.example.com/bad")[0] == 1, "a failure is worse"
    ran = node.run("dmonitor-check", "--test", TEST, "nothing*")
    assert ran.returncode == os.EX_USAGE and ran.stdout == "" and "'nothing*'" in ran.stderr


def test_a_test_that_cannot_be_run_says_why(three: list[LocalNode]) -> None:
    prepare(three)
    node = three[0]
    ran = node.run("dmonitor-check", "--test", "www.example.com/wbe")
    assert ran.returncode == os.EX_USAGE and ran.stdout == ""
    assert (
        ran.stderr
        == f"dmonitor-check: no such test in {node.config}/hosts.d: 'www.example.com/wbe'; did you mean {TEST}?\n"
    )
    node.test("www.example.com/bad", "port=80\n")
    ran = node.run("dmonitor-check", "--test", "www.example.com/bad")
    assert (
        ran.returncode == 3
        and ran.stdout.startswith("UNKNOWN ")
        and "/hosts.d/www.example.com/bad:1: 'port=80'" in ran.stderr
    )
    assert node.run("dmonitor-check", "--test", "").returncode == os.EX_USAGE, (
        "and no round: a variable may be empty"
    )
    assert not (node.state / "state.db").exists()
    assert node.run("dmonitor-check", "--test", TEST, "-n").returncode == os.EX_USAGE
    assert node.run("dmonitor-check", "--peers").returncode == os.EX_USAGE


def test_mistakes_of_every_kind_in_a_tests_file_cost_no_other_test(three: list[LocalNode]) -> None:
    prepare(three)
    node = three[0]
    mistakes = {
        "port=80": "did you mean PORT=80?",
        "no sign": "'no sign' is not KEY=VALUE",
        "PATH=/tmp": "PATH would change what the plugin runs",
        "URL=\x01": "URL has unprintable characters",
        "PORT=http": "PORT=http: not a whole number",
        "TIMEOUT=11": "TIMEOUT=11: not a whole number from 1 to 9",
        "DAYS=-1": "DAYS=-1: not a whole number",
    }
    for number, line in enumerate(mistakes):
        node.test(f"www.example.com/web:m{number}", f"# a comment\n{line}\n")
    (node.config / "hosts.d/www.example.com/web:99999").touch()
    node.plugin("web", f"echo x >>{node.state}/runs; echo OK")
    logged = node.round()
    for number, complaint in enumerate(mistakes.values()):
        path = f"{node.config}/hosts.d/www.example.com/web:m{number}"
        assert re.search(
            rf'misconfigured path={re.escape(path)} line=2 reason="[^\n]*{re.escape(complaint)}',
            logged,
        ), complaint
        assert f"test=www.example.com/web:m{number} verdict=UNKNOWN" in logged
        assert f"{path}:2: " in node.run("dmonitor-check", "-t").stderr
    assert "the port 99999 is not a whole number" in logged
    assert (node.state / "runs").read_text() == "x\n", (
        "the one without mistakes, and it alone, was run"
    )
