"""What is demanded of each cell of `mail-matrix`: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import smart_host

REFUSED = smart_host.REFUSED
ADDRESSES = ("oncall@example.com", REFUSED)
KINDS = ("DOWN", "UP")
Event = dict[str, str | float]
# Seconds from a failure to its mail while all is well (promise 4), and what a busy machine adds.
PROMPT = 100.0 + 60.0
# A hand-over that hangs is perhaps taken for ten minutes (R6). Then another node's round tells it,
# or this one's, after a pause of a minute.
PERHAPS_TAKEN = 600.0
LEAST_PATIENCE = 60.0  # seconds for which a hand-over at a smart host that hangs goes on, at least


@dataclass(frozen=True)
class Condition:
    """A state of the smart host, or of the mail system's own daemon, when the test fails."""

    name: str
    mode: str
    minutes: float = 0.0  # after which it is mended; 0 means never
    alert_limit: float = PROMPT  # seconds from the failure, or from the mend, to the alerts
    recovery_limit: float = PROMPT  # seconds from the recovery to its mails
    daemon_off: bool = False


# A mail system may hand over one mail after the other.
_LATE = smart_host.REPLY_AFTER[smart_host.LATE_REPLY]
# After an outage of m minutes a pause has at the most that length.
CONDITIONS = {
    condition.name: condition
    for condition in (
        Condition("up", smart_host.UP),
        Condition("recipient refused", smart_host.REFUSING, 3.5, 3.5 * 60 + PROMPT),
        Condition("smart host down", smart_host.DOWN, 3.5, 3.5 * 60 + PROMPT),
        Condition("hanging", smart_host.HANGING, 3.5, PERHAPS_TAKEN + PROMPT),
        Condition("slow banner", smart_host.SLOW_BANNER),
        Condition("slow reply", smart_host.SLOW_REPLY),
        Condition("late reply", smart_host.LATE_REPLY, 0.0, _LATE + PROMPT, _LATE + PROMPT),
        Condition("own daemon off", smart_host.UP, 3.5, 3.5 * 60 + PROMPT, daemon_off=True),
    )
}


@dataclass(frozen=True)
class Result:
    """What a cell wrote down. All times are of one clock, in seconds."""

    system: str
    condition: str
    events: list[Event]  # of the smart host
    began: float  # when the test failed
    mended: float | None  # when the smart host, or the daemon, was well again
    recovered: float | None  # when the test passed again


@dataclass
class Verdict:
    """What came of a cell, and what is wrong with it."""

    arrived: int = 0
    due: int = 0
    doubled: int = 0
    lost: int = 0
    alert: float | None = None  # seconds from the failure to the last address's first alert
    recovery: float | None = None
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what is so, and is not dmonitor's to change


def expected(queues: bool, condition: Condition) -> set[str]:
    """Return the addresses that are to have mails.

    A mail system that queues has taken the mail to a refused address, and bounces it.
    """
    if queues and condition.mode == smart_host.REFUSING:
        return set(ADDRESSES) - {REFUSED}
    return set(ADDRESSES)


def judge(result: Result, *, queues: bool) -> Verdict:
    """Return what came of a cell, and what is wrong."""
    condition = CONDITIONS[result.condition]
    verdict = Verdict()
    kinds = KINDS if result.recovered is not None else KINDS[:1]
    times = {
        (kind, address): _came(result, kind, address) for kind in kinds for address in ADDRESSES
    }
    for (kind, address), came in times.items():
        name = f"{kind} to {address}"
        is_due = address in expected(queues, condition)
        if kind == "UP" and condition.mode == smart_host.REFUSING:
            is_due = True  # nobody is refused any more
        verdict.due += is_due
        verdict.arrived += len(came)
        verdict.doubled += max(0, len(came) - 1)
        if is_due and not came:
            verdict.lost += 1
            verdict.wrong.append(f"{name} is lost")
        if not is_due:
            verdict.notes.append(f"{name}: the mail system took it, and bounced it")
        if len(came) > 1:
            ids = {str(event["message_id"]) for event in _mails(result, kind, address)}
            verdict.wrong.append(f"{name} came {len(came)} times, under {len(ids)} Message-ID(s)")
    _judge_order(times, verdict)
    _judge_delay(result, condition, times, verdict)
    _judge_reached(result, condition, queues, verdict)
    return verdict


def _mails(result: Result, kind: str, address: str) -> Iterator[Event]:
    for event in result.events:
        if event["event"] == "taken" and event["address"] == address:
            if str(event["subject"]).startswith(f"{kind} "):
                yield event


def _came(result: Result, kind: str, address: str) -> list[float]:
    """Return when the mails of this kind came to this address."""
    return [float(event["at"]) for event in _mails(result, kind, address)]


def _judge_order(times: dict[tuple[str, str], list[float]], verdict: Verdict) -> None:
    for address in ADDRESSES:
        alerts, recoveries = times["DOWN", address], times.get(("UP", address), [])
        if alerts and recoveries and min(recoveries) < min(alerts):
            verdict.wrong.append(f"UP came to {address} before DOWN")


def _judge_delay(
    result: Result,
    condition: Condition,
    times: dict[tuple[str, str], list[float]],
    verdict: Verdict,
) -> None:
    first = {key: came[0] for key, came in times.items() if came}
    alerts = [at for (kind, _), at in first.items() if kind == "DOWN"]
    recoveries = [at for (kind, _), at in first.items() if kind == "UP"]
    if alerts:
        verdict.alert = max(alerts) - result.began
        late = max(alerts) - (result.mended or result.began)
        if late > condition.alert_limit:
            verdict.wrong.append(f"an alert came {late:.0f} s late")
    if recoveries and result.recovered is not None:
        verdict.recovery = max(recoveries) - result.recovered
        if verdict.recovery > condition.recovery_limit:
            verdict.wrong.append(f"a recovery came {verdict.recovery:.0f} s late")
    if condition.mode == smart_host.REFUSING and ("DOWN", ADDRESSES[0]) in first:
        late = first["DOWN", ADDRESSES[0]] - result.began
        if late > PROMPT:
            verdict.wrong.append(
                f"the alert to {ADDRESSES[0]} waited for the other address: {late:.0f} s"
            )


def _judge_reached(result: Result, condition: Condition, queues: bool, verdict: Verdict) -> None:
    """See that the condition was met, and how often; and that nothing gave up too soon."""
    met = Counter(str(event["event"]) for event in result.events)
    in_mode = [event for event in result.events if event.get("mode") == condition.mode]
    if condition.mode == smart_host.REFUSING:
        verdict.notes.append(f"{met['refused']} refusals")
        if not met["refused"]:
            verdict.wrong.append("nobody was refused")
    elif condition.mode == smart_host.DOWN:
        mended = result.mended or 0.0
        early = [
            event
            for event in result.events
            if event["event"] == "taken" and float(event["at"]) < mended
        ]
        if early or not met["is down"]:
            verdict.wrong.append("the smart host was not down")
    elif not condition.daemon_off and not in_mode:
        verdict.wrong.append(f"the smart host was never {condition.name}")
    if condition.mode == smart_host.HANGING:
        ended = [float(event["after"]) for event in in_mode if event["event"] == "closed"]
        count = sum(event["event"] == "connected" for event in in_mode)
        verdict.notes.append(f"{count} connections hung")
        if not queues and ended and min(ended) < LEAST_PATIENCE:
            verdict.wrong.append(f"a hand-over was cut off after {min(ended):.0f} s")
