"""Mails handed to sendmail: its output is reported, and no mail waits for another."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dmonitor.execution import delivery


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


def test_one_that_hangs_is_ended_and_delays_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "SENDMAIL_LIMIT", 4.0)
    program = sendmail(
        tmp_path,
        f'case "$5" in slow*) echo $$ >{tmp_path}/pid; sleep 60 & sleep 60 ;; *) date +%s.%N >{tmp_path}/"$5" ;; esac\n',
    )
    began = time.time()
    done = send(program, "slow1", "quick", "slow2")
    assert list(done) == ["quick", "slow1", "slow2"], "each is reported as soon as it is known"
    assert done["slow1"] == delivery.Delivery(False, "sendmail did not end in time")
    assert done["quick"].taken
    assert float((tmp_path / "quick").read_text()) - began < 3.5
    assert time.time() - began < 7.5, "not one after the other"
    group = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{group}").exists()


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
        False, "no time left in this round"
    )


def test_a_flood_of_output_does_no_harm(tmp_path: Path) -> None:
    done = send(sendmail(tmp_path, "head -c 3000000 /dev/zero | tr '\\0' x; exit 75"), "root")[
        "root"
    ]
    assert not done.taken and len(done.text) < 400
