"""Mails handed to sendmail: its output is reported, and no mail waits for another."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dmonitor.execution import delivery, keeper, processes


def sendmail(directory: Path, code: str) -> str:
    path = directory / "sendmail"
    path.write_text("#!/bin/sh\n" + code)
    path.chmod(0o755)
    return str(path)


def letters(program: str, *addresses: str) -> dict[str, delivery.Letter]:
    return {
        address: delivery.mail(
            f"to {address}\n.\nend\n".encode(), address, sendmail=program, sender="dmonitor"
        )
        for address in addresses
    }


def send(program: str, *addresses: str, patience: float = 30.0) -> dict[str, delivery.Delivery]:
    return dict(delivery.send(letters(program, *addresses), patience=patience))


def test_arguments_and_content(tmp_path: Path) -> None:
    program = sendmail(
        tmp_path,
        f'echo "$*" >{tmp_path}/arguments; cat >{tmp_path}/mail; env | sort >{tmp_path}/env; echo queued\n',
    )
    assert send(program, "root") == {"root": delivery.Delivery(True, "queued")}
    assert (tmp_path / "arguments").read_text() == "-oi -f dmonitor -- root\n"
    assert (tmp_path / "mail").read_text() == "to root\n.\nend\n"
    assert "HOME" not in (tmp_path / "env").read_text()


@pytest.mark.parametrize(("code", "said"), [("echo no room >&2; exit 75", "sendmail: exit 75: no room"), ("exit 1", "sendmail: exit 1"), ("kill -9 $$", "sendmail: died of signal 9")])  # fmt: skip
def test_a_refusal_says_why(tmp_path: Path, code: str, said: str) -> None:
    assert send(sendmail(tmp_path, code), "root")["root"] == delivery.Delivery(False, said)


def test_no_sendmail(tmp_path: Path) -> None:
    assert send(str(tmp_path / "none"), "root")["root"] == delivery.Delivery(
        False, f"{tmp_path}/none: No such file or directory"
    )


def test_one_that_hangs_is_ended_and_delays_no_other(tmp_path: Path) -> None:
    program = sendmail(
        tmp_path,
        f'case "$5" in slow*) echo $$ >{tmp_path}/pid; sleep 60 & sleep 60 ;; *) date +%s.%N >{tmp_path}/"$5" ;; esac\n',
    )
    began = time.time()
    done = send(program, "slow1", "quick", "slow2", patience=4.0)
    assert list(done) == ["quick", "slow1", "slow2"], "each is reported as soon as it is known"
    assert done["slow1"] == delivery.Delivery(False, "sendmail did not end in time")
    assert done["quick"].taken
    assert float((tmp_path / "quick").read_text()) - began < 3.5
    assert time.time() - began < 7.5, "not one after the other"
    group = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{group}").exists()


def test_those_that_take_long_keep_no_other_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_LONG", 1.0)
    program = sendmail(tmp_path, 'case "$5" in slow*) exec sleep 60 ;; esac\n')
    slow = [f"slow{number}" for number in range(delivery._CONCURRENCY)]
    done = send(program, *slow, "quick", patience=6.0)
    assert next(iter(done)) == "quick" and done["quick"].taken
    assert not done["slow0"].taken and len(done) == len(slow) + 1


# In a process that goes on when the round is over.


def test_one_that_takes_long_goes_on_and_is_looked_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "SENDMAIL_WAIT", 1.0)
    program = sendmail(
        tmp_path,
        f'case "$5" in slow*) while [ ! -e {tmp_path}/go ]; do sleep 0.1; done; echo late ;; esac\n'
        f'cat >>{tmp_path}/mails; case "$5" in *bad) exit 75 ;; esac\n',
    )
    places = keeper.Places([str(tmp_path / "none"), str(tmp_path)])
    given = letters(program, "slow-good", "quick", "slow-bad")
    before = set(processes.children())
    done = dict(keeper.hand_over(given, places, "1", patience=30.0))
    assert done == {"quick": delivery.Delivery(True, ""), "slow-good": None, "slow-bad": None}
    assert before.issuperset(processes.children()), "it is no child of the round"
    wanted = ["slow-good", "slow-bad"]
    assert keeper.look_after(places, "1", [*wanted, "quick"]) == {"quick": done["quick"]}
    (tmp_path / "go").touch()
    deadline = time.monotonic() + 30
    while len(ended := keeper.look_after(places, "1", wanted)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert ended == {
        "slow-good": delivery.Delivery(True, "late"),
        "slow-bad": delivery.Delivery(False, "sendmail: exit 75: late"),
    }
    assert (tmp_path / "mails").read_text().count("end\n") == 3
    places.forget(["1"])
    assert keeper.look_after(places, "1", ["quick"]) == {"quick": done["quick"]}
    places.forget([])
    assert not list(tmp_path.glob("handing-*"))
    assert keeper.look_after(places, "1", ["quick"]) == {"quick": None}, "nobody can know it"


def test_what_became_of_one_whose_process_was_killed_nobody_can_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "SENDMAIL_WAIT", 1.0)
    program = sendmail(tmp_path, f"echo $PPID >{tmp_path}/keeper; exec sleep 60\n")
    places = keeper.Places([str(tmp_path)])
    assert dict(keeper.hand_over(letters(program, "root"), places, "1", patience=9)) == {
        "root": None
    }
    assert keeper.look_after(places, "1", ["root"]) == {}
    keeper_pid = int((tmp_path / "keeper").read_text())
    sleeper = Path(f"/proc/{keeper_pid}/task/{keeper_pid}/children").read_text().split()
    for pid in (keeper_pid, *map(int, sleeper)):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while keeper.look_after(places, "1", ["root"]) == {}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert keeper.look_after(places, "1", ["root"]) == {"root": None}


def test_a_mail_is_not_refused_because_a_busy_machine_says_late_that_it_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go = tmp_path / "started", tmp_path / "go"
    program = sendmail(
        tmp_path, f"touch {started}; until [ -e {go} ]; do sleep 0.1; done; echo late\n"
    )
    wait = subprocess.Popen.wait
    limits: list[float | None] = []

    def wait_in_vain(process: subprocess.Popen[bytes], limit: float | None = None) -> int:
        limits.append(limit)
        if limit is None:
            return wait(process)
        while not started.exists():
            time.sleep(0.1)
        raise subprocess.TimeoutExpired("it", limit)

    places = keeper.Places([str(tmp_path)])
    with monkeypatch.context() as patch:
        patch.setattr(keeper, "SENDMAIL_WAIT", 1.0)
        patch.setattr(subprocess.Popen, "wait", wait_in_vain)
        done = dict(keeper.hand_over(letters(program, "root"), places, "1", patience=30))
    assert done == {"root": None}, "it goes on"
    assert limits == [delivery._START_LIMIT, None]
    go.touch()
    deadline = time.monotonic() + 30
    while not (ended := keeper.look_after(places, "1", ["root"])):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert ended == {"root": delivery.Delivery(True, "late")}


@pytest.mark.parametrize("starter", ["import signal; signal.pause()", "raise SystemExit(1)"])
def test_a_mail_is_refused_if_nothing_was_started(
    starter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_START_LIMIT", 1.0)
    monkeypatch.setattr(keeper, "_PROGRAM", starter)
    program = sendmail(tmp_path, f"touch {tmp_path}/ran\n")
    places = keeper.Places([str(tmp_path)])
    done = dict(keeper.hand_over(letters(program, "root"), places, "1", patience=30))
    assert done == {"root": keeper._LOST} and not keeper._LOST.taken
    assert not (tmp_path / "ran").exists()


def test_without_a_place_for_its_file_a_mail_is_handed_over(tmp_path: Path) -> None:
    program = sendmail(tmp_path, "echo $5\n")
    places = keeper.Places([str(tmp_path / "none")])
    done = dict(keeper.hand_over(letters(program, "root"), places, "1", patience=30))
    assert done == {"root": delivery.Delivery(True, "root")}


def test_a_place_without_room_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, other = tmp_path / "full", tmp_path / "other"
    full.mkdir()
    other.mkdir()
    allocate = os.posix_fallocate

    def posix_fallocate(descriptor: int, offset: int, size: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(full)):
            raise OSError(errno.ENOSPC, "No space left on device")
        allocate(descriptor, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", posix_fallocate)
    os.close(keeper.Places([str(full), str(other)]).create("1", 4096))
    assert os.listdir(full) == [] and os.listdir(other) == ["handing-1"]


def test_a_file_that_makes_no_sense_says_nothing(tmp_path: Path) -> None:
    places = keeper.Places([str(tmp_path)])
    path = tmp_path / "handing-1"
    for content in (b"\xff\n[]\n1\n", b'["root", "yes"]\n', b"\0" * 100):
        path.write_bytes(content)
        assert keeper.look_after(places, "1", ["root"]) == {"root": None}
    path.write_bytes(b'["root", "yes", ""]\n')
    assert keeper.look_after(places, "1", ["root"]) == {"root": delivery.Delivery(False, "")}
    path.unlink()
    os.mkfifo(path)
    assert keeper.look_after(places, "1", ["root"]) == {"root": None}, "nobody waits for it"


def test_nothing_is_started_before_it_is_asked_for_and_each_is_known_at_once(
    tmp_path: Path,
) -> None:
    """The caller stores each delivery before the next: a crash repeats one mail, not all of them."""
    program = sendmail(
        tmp_path, f'case "$5" in slow) sleep 1 ;; esac; echo "$5" >>{tmp_path}/done\n'
    )
    deliveries = delivery.send(letters(program, "slow", "quick"), patience=30)
    assert not (tmp_path / "done").exists()
    assert next(deliveries) == ("quick", delivery.Delivery(True, ""))
    assert (tmp_path / "done").read_text() == "quick\n"
    assert [address for address, _ in deliveries] == ["slow"]


def test_more_than_run_at_once(tmp_path: Path) -> None:
    done = send(sendmail(tmp_path, "cat >/dev/null"), *(f"user{number}" for number in range(50)))
    assert all(delivered.taken for delivered in done.values()) and len(done) == 50


def test_no_time_left(tmp_path: Path) -> None:
    assert send(sendmail(tmp_path, "exit 0"), "root", patience=0.5)["root"] == delivery.Delivery(
        False, "no time left"
    )


def test_a_flood_of_output_does_no_harm(tmp_path: Path) -> None:
    done = send(sendmail(tmp_path, "head -c 3000000 /dev/zero | tr '\\0' x; exit 75"), "root")[
        "root"
    ]
    assert not done.taken and len(done.text) < 400
