"""Hooks: executables in alert.d get notifications like addresses, are retried like them, and are ended when they hang."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from local_nodes import ADDRESS, CHECKOUT, LocalNode, Place, running, wait_until

from dmonitor.config.configuration import load_configuration
from dmonitor.core import mail, mail_text
from dmonitor.core.model import (
    Answer,
    Incident,
    Judgement,
    Kind,
    Node,
    Notification,
    Outcome,
    Result,
    Test,
    Verdict,
)
from dmonitor.execution import delivery, plugin

TEST = "www.example.com/web"
EXAMPLES = CHECKOUT / "etc/examples/hooks"


@pytest.fixture
def told(place: Place) -> Path:
    """A directory that hooks may write to."""
    return place.writable("told")


def commands() -> set[str]:
    """Return the command lines of all processes."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.add(path.read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace"))
    return found


def hook(nodes: list[LocalNode], code: str, name: str = "push") -> None:
    for node in nodes:
        path = node.config / "alert.d" / name
        path.write_text("#!/bin/sh\n" + code)
        path.chmod(0o755)


def fail(nodes: list[LocalNode]) -> None:
    """Give each node a test that fails, a mail address, and a first round before that."""
    for node in nodes:
        node.test(TEST)
        node.mail()
        node.plugin("web", "echo OK")
    nodes[0].round()
    for node in nodes:
        node.plugin("web", "echo FAIL connection refused")
    time.sleep(5.2)  # until the daemons have forgotten what they answered in that round's rehearsal


def test_one_that_fails_twice_is_called_three_times_and_on_one_node(
    three: list[LocalNode], place: Place, told: Path
) -> None:
    code = f"echo $DMONITOR_NODE >>{told}/calls; [ $(wc -l <{told}/calls) -ge 3 ] || {{ echo no network; exit 69; }}"
    place.rests_never()
    hook(three, code)
    with running(three):
        fail(three)
        first = three[0].run("dmonitor-check", "-v", "--once")
        assert first.returncode == os.EX_TEMPFAIL
        assert "refused address=hook:push kind=alert test=www.example.com/web" in first.stderr
        assert 'reason="push: exit 69: no network"' in first.stderr
        for _ in range(3):
            for node in three[1:]:
                node.round()
            three[0].run("dmonitor-check", "--once")
    assert (told / "calls").read_text().split() == ["127.0.0.31"] * 3
    assert place.subjects() == ["DOWN www.example.com/web (3 of 3 nodes)"], (
        "the mail was taken at once, and went out once"
    )


def test_one_that_hangs_is_ended_with_all_it_started_and_delays_no_mail(
    three: list[LocalNode], place: Place, told: Path
) -> None:
    place.replace("core/model.py", "HAND_OVER_LIMIT = 600.0", "HAND_OVER_LIMIT = 20.0")
    hook(three, f"setsid sleep 61 & echo $! $$ >{told}/pids; setsid sh -c 'sleep 62' & sleep 63\n")
    with running(three):
        fail(three)
        began = time.time()
        ran = three[0].run("dmonitor-check", "-v", "--once")
        took = time.time() - began
        assert "perhaps-taken address=hook:push" in ran.stderr and ran.returncode == 0
        assert took >= 10 and "sleep 63" in commands(), "it goes on when the round is over"
        wait_until(lambda: "sleep 63" not in commands(), 40)
        ran = three[0].run("dmonitor-check", "-v", "--once")
    assert "late-refused address=hook:push" in ran.stderr
    assert 'reason="push did not end in time"' in ran.stderr
    (path,) = place.mailbox.iterdir()
    begun = (told / "pids").stat().st_mtime
    assert abs(path.stat().st_mtime - begun) < 6, "the mail goes out beside the hook, not after it"
    for pid in (told / "pids").read_text().split():
        assert not Path(f"/proc/{pid}").exists()
    assert not {"sleep 61", "sleep 62", "sleep 63"} & commands()


def test_a_hook_that_succeeds_makes_no_refused_mail_told(
    three: list[LocalNode], place: Place, told: Path
) -> None:
    """If the mail system of one node refuses an address, another node mails it, and runs the hook."""
    hook(three, f"echo $DMONITOR_NODE >>{told}/calls")
    place.program("broken", "#!/bin/sh\nexit 75\n")
    three[0].configure(f"sendmail = {place.directory}/broken\n")
    with running(three):
        fail(three)
        three[0].run("dmonitor-check", "--once")
        assert place.mails() == [] and not (told / "calls").exists(), "nothing is told yet"
        for _ in range(2):
            for node in three[1:]:
                node.run("dmonitor-check", "--once")
        three[0].run("dmonitor-check", "--once")
    assert place.subjects() == ["DOWN www.example.com/web (3 of 3 nodes)"]
    assert (told / "calls").read_text().split() == ["127.0.0.32"]


def test_if_all_mail_systems_refuse_the_hook_tells_and_the_mail_stays_owed(
    three: list[LocalNode], place: Place, told: Path
) -> None:
    place.rests_never()
    hook(three, f"echo $DMONITOR_NODE $DMONITOR_STATE >>{told}/calls")
    code = f'#!/bin/sh\n[ -e {told}/mended ] || exit 75\nexec {place.sendmail} "$@"\n'
    broken = place.program("broken", code)
    for node in three:
        node.configure(f"sendmail = {broken}\n")
    with running(three):
        fail(three)
        refusing = set()
        for node in three * 3:
            ran = node.run("dmonitor-check", "-v", "--once")
            if f"refused address={ADDRESS}" in ran.stderr:
                refusing.add(node.address)
            if (told / "calls").exists():
                break
        assert len(refusing) == 3, "until then a mail system might have taken it"
        for other in three * 2:
            other.run("dmonitor-check", "--once")
        assert (told / "calls").read_text().splitlines() == [f"{node.address} DOWN"], "once"
        assert place.mails() == []
        (told / "mended").touch()
        for other in three:
            other.run("dmonitor-check", "--once")
    assert place.subjects() == ["DOWN www.example.com/web (3 of 3 nodes)"]
    assert len((told / "calls").read_text().splitlines()) == 1


def test_where_nobody_is_mailed_hooks_alone_tell(
    three: list[LocalNode], place: Place, told: Path
) -> None:
    hook(three, f"echo $DMONITOR_NODE >>{told}/calls; [ $DMONITOR_NODE != 127.0.0.31 ]")
    with running(three):
        fail(three)
        for node in three:
            (node.config / "alert.d" / ADDRESS).unlink()
        for _ in range(2):
            for node in three:
                node.run("dmonitor-check", "--once")
        assert "no mail can be sent" not in three[0].run("dmonitor-check", "-t").stderr
    assert (told / "calls").read_text().split() == ["127.0.0.31", "127.0.0.32"], (
        "the second, for the first one's fails"
    )
    assert place.mails() == []


def test_nothing_of_it_is_left_when_it_ends_either(place: Place, told: Path) -> None:
    for status in (0, 1):
        program = place.program(
            "hook",
            f"#!/bin/sh\nsetsid sleep 64 & echo $! >>{told}/pids; sleep 64 & exit {status}\n",
        )
        ((_, delivered),) = delivery.send(
            {"hook:hook": delivery.Letter((str(program),), b"", {})}, patience=20
        )
        assert delivered.taken is (status == 0)
    pids = (told / "pids").read_text().split()
    assert len(pids) == 2, "each of them has left something behind"
    assert commands() and "sleep 64" not in commands()


def test_one_that_floods_takes_no_memory(place: Place) -> None:
    program = place.program("hook", "#!/bin/sh\nexec yes\n")
    ((_, delivered),) = delivery.send(
        {"hook:hook": delivery.Letter((str(program),), b"", {})}, patience=20
    )
    assert not delivered.taken and delivered.text.startswith("hook: died of signal 25: y y y")


def test_mails_start_before_hooks(place: Place, told: Path) -> None:
    slow = place.program("slow", "#!/bin/sh\nsleep 1\n")
    quick = place.program("quick", f"#!/bin/sh\ndate +%s.%N >{told}/at\n")
    letters = {f"hook:{number}": delivery.Letter((str(slow),), b"", {}) for number in range(25)}
    letters["root"] = delivery.mail(b"", "root", sendmail=str(quick), sender="x")
    began = time.time()
    deliveries = dict(delivery.send(letters, patience=20))
    assert (
        all(each.taken for each in deliveries.values())
        and float((told / "at").read_text()) - began < 0.8
    )


def test_it_is_told_of_an_incident_and_of_its_end(three: list[LocalNode], told: Path) -> None:
    hook(
        three,
        f"env | grep ^DMONITOR_ | sort >{told}/facts-$DMONITOR_STATE; cat >{told}/text-$DMONITOR_STATE; env | grep -v ^DMONITOR_ | sort >{told}/env\n",
    )
    with running(three):
        fail(three)
        three[0].round()
        for node in three:
            node.plugin("web", "echo OK")
        time.sleep(5.2)  # until the daemons have forgotten what they answered
        three[0].round()
    facts = dict(line.split("=", 1) for line in (told / "facts-DOWN").read_text().splitlines())
    since = facts.pop("DMONITOR_SINCE")
    incident = facts.pop("DMONITOR_INCIDENT")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", since)
    assert facts == {
        "DMONITOR_STATE": "DOWN",
        "DMONITOR_HOST": "www.example.com",
        "DMONITOR_TEST": "web",
        "DMONITOR_NODES": "127.0.0.31,127.0.0.32,127.0.0.33",
        "DMONITOR_UNTIL": "",
        "DMONITOR_COUNT": "1",
        "DMONITOR_SUBJECT": "DOWN www.example.com/web (3 of 3 nodes)",
        "DMONITOR_NODE": "127.0.0.31",
    }
    text = (told / "text-DOWN").read_text()
    assert (
        text.startswith("www.example.com/web is DOWN since ")
        and "connection refused" in text
        and "To look further" not in text
    )
    over = dict(line.split("=", 1) for line in (told / "facts-UP").read_text().splitlines())
    assert (over["DMONITOR_INCIDENT"], over["DMONITOR_SINCE"]) == (incident, since) and over[
        "DMONITOR_UNTIL"
    ] > since
    names = {line.partition("=")[0] for line in (told / "env").read_text().splitlines()} - {
        "PWD",
        "_",
        "OLDPWD",
        "SHLVL",
    }
    assert names == {"PATH", "LC_ALL", "HOME"}
    assert f"HOME={plugin.HOME}" in (told / "env").read_text().splitlines()


def test_one_that_others_may_write_to_is_not_run_and_delays_nobody(
    three: list[LocalNode], place: Place, told: Path
) -> None:
    hook(three, f"touch {told}/ran")
    (three[0].config / "alert.d/push").chmod(0o777)
    with running(three):
        fail(three)
        ran = three[0].run("dmonitor-check", "-v", "--once")
    assert (
        "alert.d/push: not run: it can be written by users other than its owner; run chmod go-w on it"
        in ran.stderr
    )
    assert not (told / "ran").exists() and len(place.mails()) == 1
    assert (
        "alert.d/push: can be written by users other than"
        in three[0].run("dmonitor-check", "-t").stderr
    )


def test_what_is_wrong_with_hooks_is_found(place: Place) -> None:
    node = LocalNode(place, "127.0.0.31", ["127.0.0.31"])
    hook([node], "# a hook. Needs no-such-tool (some-tools).\n")
    hook([node], "exit 0\n", "forgotten")
    (node.config / "alert.d/forgotten").chmod(0o644)
    hook([node], "exit 0\n", "secret")
    (node.config / "alert.d/secret").chmod(0o700)
    said = node.run("dmonitor-check", "-t").stderr.replace(f"{node.config}/", "")
    assert "error: alert.d/push: no-such-tool is not installed; this hook needs it\n" in said
    assert "apt install some-tools\n" in said
    assert (
        "error: alert.d/forgotten: is a script, but it is mailed as an address, because it is not executable; if it is a hook, chmod 750 and chgrp dmonitor\n"
        in said
    )
    if os.geteuid() == 0:
        assert (
            "error: alert.d/secret: is not executable for user" in said
            and "run chmod 750 and chgrp dmonitor on it" in said
        )


def test_what_is_a_hook(place: Place) -> None:
    node = LocalNode(place, "127.0.0.31", ["127.0.0.31"])
    node.mail()
    (node.config / "alert.d" / ADDRESS).chmod(0o755)  # empty: it can be no program
    hook([node], "", "zzz")
    hook([node], "", "aaa")
    hook([node], "", "left.bak")
    (node.config / "alert.d/plain").write_text("#!/bin/sh\n")
    found = load_configuration(str(node.config))
    assert found.addresses == (ADDRESS, "plain", "hook:aaa", "hook:zzz"), "mails before hooks"
    assert found.hook("hook:aaa") == f"{node.config}/alert.d/aaa"
    assert ", 2 addresses, 2 hooks: " in node.run("dmonitor-check", "-t").stderr


def test_the_operator_tries_it(place: Place, told: Path) -> None:
    node = LocalNode(place, "127.0.0.31", ["127.0.0.31"])
    node.mail()
    hook(
        [node],
        f"echo $DMONITOR_STATE:$DMONITOR_SUBJECT >{told}/said; cat >>{told}/said; echo sent\n",
    )
    hook([node], "exit 3", "broken")
    ran = node.run("dmonitor-check", "--test-alert")
    assert ran.returncode == os.EX_TEMPFAIL
    said = {line for line in ran.stdout.splitlines() if line.startswith("hook:")}
    taken = f"hook:push: taken by {node.config}/alert.d/push: now look where it tells: sent"
    assert said == {"hook:broken: not taken: broken: exit 3", taken}
    assert (
        (told / "said").read_text().startswith("TEST:TEST dmonitor on 127.0.0.31\nThis is a test: ")
    )


# The facts.

OSLO, PARIS = Node("oslo", "oslo"), Node("paris", "paris")
DOWN = Judgement(
    Verdict.DOWN,
    2,
    tuple(Answer(node, node.name * 2, Result(Outcome.FAIL, "refused")) for node in (OSLO, PARIS)),
)
BEGAN = 1_700_000_000.0


def owed(name: str, number: int = 0, closed: float | None = None) -> Notification:
    incident = Incident(
        (f"{number:016x}",), Test("www.example.com", name), BEGAN, opening=DOWN, closed=closed
    )
    kind = Kind.ALERT if closed is None else Kind.RECOVERY
    return Notification(kind, incident, "hook:push", BEGAN)


def test_no_name_of_a_node_is_cut() -> None:
    answers = tuple(
        Answer(Node(f"node-{n}.example.com", f"s{n}"), f"{n:08}", Result(Outcome.FAIL))
        for n in range(20)
    )
    incident = owed("http")._replace(
        incident=owed("http").incident._replace(opening=Judgement(Verdict.DOWN, 2, answers))
    )
    (nodes,) = mail.compose_facts([incident], node="oslo", now=BEGAN)[1]["DMONITOR_NODES"].split(
        "\n"
    )
    *named, more = nodes.split(",")
    assert (
        more == "…"
        and len(nodes) <= 200
        and named == [answer.node.name for answer in answers[: len(named)]]
        and len(named) > 8
    )


def test_several_tests_have_a_line_each_the_most_urgent_first() -> None:
    text, facts = mail.compose_facts(
        [owed("http", 1, closed=BEGAN + 60), owed("ssh", 2)], node="oslo", now=BEGAN + 61
    )
    assert facts["DMONITOR_STATE"] == "DOWN\nUP" and facts["DMONITOR_TEST"] == "ssh\nhttp"
    assert facts["DMONITOR_UNTIL"].startswith("\n2023-") and facts["DMONITOR_COUNT"] == "2"
    assert facts["DMONITOR_INCIDENT"] == f"{2:016x}\n{1:016x}"
    _, facts = mail.compose_facts(
        [owed("http", 1, closed=BEGAN + 60), owed("http", 2)], node="oslo", now=BEGAN + 61
    )
    assert (
        facts["DMONITOR_STATE"] == "DOWN\nOVER"
        and facts["DMONITOR_INCIDENT"] == f"{2:016x}\n{1:016x}"
    ), "a line for each incident, of which the first says how the test is"
    assert "DOWN www.example.com: ssh" in text.decode()


def test_a_late_end_does_not_say_up_while_the_test_is_down_again() -> None:
    again = owed("http", 2).incident._replace(began=BEGAN + 3600)
    _, facts = mail.compose_facts(
        [owed("http", 1, closed=BEGAN + 60)], node="oslo", now=BEGAN + 4000, latest=[again]
    )
    assert facts["DMONITOR_STATE"] == "STILL DOWN\nOVER"
    assert facts["DMONITOR_INCIDENT"] == f"{2:016x}\n{1:016x}"
    assert facts["DMONITOR_COUNT"] == "2" and facts["DMONITOR_UNTIL"].startswith("\n2023-")
    subject = "STILL DOWN www.example.com/http (2 of 2 nodes) for 6 min 40 s"
    assert facts["DMONITOR_SUBJECT"] == subject
    flapping = owed("http", 1, closed=BEGAN + 60)
    flapping = flapping._replace(incident=flapping.incident._replace(flapping=7))
    _, facts = mail.compose_facts([flapping], node="oslo", now=BEGAN + 4000, latest=[again])
    assert facts["DMONITOR_STATE"] == "STILL DOWN\nSTEADY", "a receiver ends its FLAPPING"


def test_facts_of_ten_thousand_tests_can_be_handed_over(place: Place) -> None:
    text, facts = mail.compose_facts(
        [owed("x" * 60 + str(n), n) for n in range(10_000)], node="oslo", now=BEGAN
    )
    assert facts["DMONITOR_COUNT"] == "10000" and facts["DMONITOR_TEST"].count("\n") == 199
    program = place.program("hook", "#!/bin/sh\ncat >/dev/null\n")
    ((_, delivered),) = delivery.send(
        {"hook:hook": delivery.Letter((str(program),), text, facts)}, patience=20
    )
    assert delivered == delivery.Delivery(True, "")


# The examples.


@pytest.fixture
def web() -> Iterator[tuple[str, list[tuple[str, str, dict[str, str], bytes]]]]:
    """A web server that takes what it is given, and its address."""
    taken: list[tuple[str, str, dict[str, str], bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append((self.command, self.path, dict(self.headers), body))
            self.send_response(500 if self.path.startswith("/broken") else 200)
            self.end_headers()

        do_PUT = do_POST

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", taken
        server.shutdown()


def example(
    directory: Path,
    name: str,
    about: Sequence[Notification] = (),
    path: str = os.environ["PATH"],
    **settings: str,
) -> subprocess.CompletedProcess[str]:
    """Run an example like a hook, with its settings filled in."""
    code = (EXAMPLES / name).read_text()
    for key, value in settings.items():
        code, count = re.subn(
            rf"(^|(?<= )){key}=\S*", f"{key}='{value}'", code, count=1, flags=re.M
        )
        assert count == 1, key
    hook = directory / name
    hook.write_text(code)
    hook.chmod(0o755)
    about = about or [owed("http", 1), owed("ssh", 2, closed=BEGAN + 60)]
    text, facts = mail.compose_facts(about, node="oslo", now=BEGAN + 61)
    environment = {"PATH": path, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", **facts}
    return subprocess.run(
        [hook],
        input=text.decode(),
        env=environment,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )


def test_each_example_tells_what_is_to_be_told(
    tmp_path: Path, web: tuple[str, list[tuple[str, str, dict[str, str], bytes]]]
) -> None:
    url, taken = web
    if not shutil.which(
        "curl"
    ):  # as on a fresh machine, for who is not root; root gets it from tests/run
        ran = example(tmp_path, "ntfy", URL=f"{url}/mine")
        assert ran.returncode == 127 and "curl" in ran.stderr
        pytest.skip("curl is not installed, so nothing can be told")
    for name, settings in (
        ("ntfy", {"URL": f"{url}/mine"}),
        ("slack", {"URL": f"{url}/services/T0"}),
        ("matrix", {"SERVER": url, "ROOM": "!r:example.com", "TOKEN": "secret"}),
        ("alertmanager", {"URL": url}),
    ):
        ran = example(tmp_path, name, (), **settings)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", ""), name
    (ntfy, slack, matrix, alertmanager) = taken
    assert (
        ntfy[1] == "/mine"
        and ntfy[2]["Title"].startswith("DOWN www.example.com/http")
        and b"refused" in ntfy[3]
    )
    assert ntfy[2]["Priority"] == "urgent"
    assert (
        json.loads(slack[3])["text"].startswith("*DOWN www.example.com/http")
        and "refused" in json.loads(slack[3])["text"]
    )
    assert matrix[0] == "PUT" and re.fullmatch(
        r"/_matrix/client/v3/rooms/!r:example.com/send/m.room.message/[0-9a-f]{32}", matrix[1]
    )
    assert (
        matrix[2]["Authorization"] == "Bearer secret" and "refused" in json.loads(matrix[3])["body"]
    )
    up, down = json.loads(alertmanager[3])
    assert alertmanager[1] == "/api/v2/alerts"
    assert down["labels"] == {
        "alertname": "DOWN",
        "host": "www.example.com",
        "test": "http",
        "source": "dmonitor",
    }
    assert (
        up["labels"] == down["labels"] | {"test": "ssh"}
        and up["endsAt"] == mail_text.local(BEGAN + 60, None).isoformat()
    )
    assert down["endsAt"] > "2026" and down["annotations"]["nodes"] == "oslo,paris"


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_of_two_about_one_test_the_alert_comes_last_to_alertmanager(
    tmp_path: Path, web: tuple[str, list[tuple[str, str, dict[str, str], bytes]]]
) -> None:
    """Alertmanager keeps the last of two alerts that have the same labels."""
    about = [owed("http", 2, closed=BEGAN + 60), owed("http", 1)]
    assert example(tmp_path, "alertmanager", about, URL=web[0]).returncode == 0
    up, down = json.loads(web[1][0][3])
    assert (
        up["labels"] == down["labels"]
        and up["endsAt"] < down["endsAt"]
        and down["annotations"]["summary"].startswith("DOWN ")
    )


def test_apprise_is_given_no_token_for_all_to_see(tmp_path: Path) -> None:
    (tmp_path / "apprise").write_text(
        '#!/bin/sh\n{ echo "$@"; while [ "$1" != --config ]; do shift; done; cat "$2" -; } >"$0.said"\n'
    )
    (tmp_path / "apprise").chmod(0o755)
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    ran = example(
        hooks,
        "apprise",
        path=f"{tmp_path}:{os.environ['PATH']}",
        URL="tgram://TOKEN/1, json://a/b?c=d,e json://f",
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    arguments, url, *more, text = (tmp_path / "apprise.said").read_text().split("\n", 4)
    assert (
        "TOKEN" not in arguments
        and arguments.startswith("--title DOWN www.example.com/http")
        and url == "tgram://TOKEN/1"
    )
    assert more == ["json://a/b?c=d,e", "json://f"] and "refused" in text


def test_an_example_that_is_refused_fails_and_one_without_settings_says_so(
    tmp_path: Path, web: tuple[str, list[object]]
) -> None:
    refused = example(tmp_path, "slack", URL=f"{web[0]}/broken")
    assert refused.returncode != 0 and ("500" in refused.stderr or not shutil.which("curl"))
    for name in ("ntfy", "slack", "matrix", "apprise"):
        ran = example(tmp_path, name)
        assert ran.returncode == 1 and ran.stdout.startswith(f"say in {tmp_path}/{name} ")


PROGRAMS = [
    path for room in ("hooks", "plugins") for path in (CHECKOUT / "etc/examples" / room).glob("*")
]


@pytest.mark.parametrize("path", sorted(PROGRAMS), ids=lambda path: path.name)
def test_each_can_be_run(path: Path) -> None:
    assert path.parent.name in ("hooks", "plugins")
    if path.is_file():
        assert stat.S_IMODE(path.stat().st_mode) & 0o111 == 0o111
        text = path.read_text()
        if path.parent.name == "hooks":
            assert re.search(r"Needs \S+ \([a-z0-9-]+\)", text)
        assert text.startswith(("#!/bin/sh\n# ", "#!/usr/bin/python3 -IS\n# "))
