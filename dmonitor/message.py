"""What a mail says: owed notifications in, one plain-text message out.

Pure: the clock's reading and the time zone are passed in. Who is mailed, when, and by which node is decided
elsewhere. Written for a tired person with a phone: what is down comes first, evidence next, how to look last.
"""

from __future__ import annotations

import datetime
import email.headerregistry
import email.message
import email.policy
import email.utils
from collections.abc import Iterable, Sequence

from dmonitor.model import Answer, Incident, Judgement, Kind, Notification, Vote

# Lines may be long: a mail that is not encoded can be read in a log, a queue or a mailbox as it is.
_POLICY = email.policy.default.clone(max_line_length=990)

LATE = 120.0  # seconds after which a mail says that it is late


def compose(
    notifications: Sequence[Notification], *, sender: str, node: str, now: float, zone: datetime.tzinfo | None = None
) -> bytes:
    """Return the one mail that tells all NOTIFICATIONS, which are owed to one address, as sendmail takes it.

    ZONE is the time zone that times are shown in; None is the machine's.
    """
    news = _News(notifications)
    body = [*_summary(news), *_details(news, now, zone), *_lateness(notifications, now, zone), *_footer(node)]
    return _mail(notifications[0].address, news.subject(), body, sender=sender, node=node, date=_local(now, zone))


def compose_test(address: str, *, sender: str, node: str, now: float) -> bytes:
    """Return the mail that `dmonitor-check --test-alert` sends to ADDRESS."""
    body = [f"This is a test: if you can read it, the alerts of dmonitor on {node} reach you.", "", *_footer(node)]
    return _mail(address, f"TEST dmonitor on {node}", body, sender=sender, node=node, date=_local(now, None))


class _News:
    """What is to be told: `down` incidents that are open, `up` those that are over."""

    def __init__(self, notifications: Iterable[Notification]) -> None:
        incidents = {notification.incident.id: notification.incident for notification in notifications}
        recovered = {notification.incident.id for notification in notifications if notification.kind is Kind.RECOVERY}
        ordered = sorted(incidents.values(), key=lambda incident: (incident.test, incident.began))
        self.up = [incident for incident in ordered if incident.closed is not None or incident.id in recovered]
        self.down = [incident for incident in ordered if incident not in self.up]

    def subject(self) -> str:
        parts = []
        if len(self.down) == 1:
            parts.append(f"DOWN {self.down[0].test} ({_share(self.down[0].opening)})")
        elif self.down:
            parts.append(f"DOWN {_count(self.down)}")
        if len(self.up) == 1:
            parts.append(f"UP {self.up[0].test} (was DOWN {_lasted(self.up[0])})")
        elif self.up:
            parts.append(f"UP {_count(self.up)}")
        return ", ".join(parts)


def _count(incidents: Sequence[Incident]) -> str:
    hosts = {incident.test.host for incident in incidents}
    if len(hosts) > 1:
        return f"{len(incidents)} tests on {len(hosts)} hosts"
    tests = ", ".join(incident.test.name for incident in incidents)
    return f"{len(incidents)} tests on {hosts.pop()}" + (f": {tests}" if len(tests) <= 40 else "")


def _share(judgement: Judgement) -> str:
    """Say how many of the nodes voted failing."""
    return f"{len(judgement.nodes(Vote.FAILING))} of {len(judgement.answers)} nodes"


def _summary(news: _News) -> list[str]:
    """List hosts and their tests, where there is more than one."""
    if len(news.down) + len(news.up) < 2:
        return []
    lines = []
    for word, incidents in (("DOWN", news.down), ("UP", news.up)):
        for host in dict.fromkeys(incident.test.host for incident in incidents):
            tests = [incident.test.name for incident in incidents if incident.test.host == host]
            lines.append(f"{word:<4} {host}: {', '.join(tests)}")
    return [*lines, ""]


def _details(news: _News, now: float, zone: datetime.tzinfo | None) -> list[str]:
    lines = []
    for incident in news.down:
        ago = f", {_span(now - incident.began)} ago" if now - incident.began >= LATE else ""
        lines += [f"{incident.test} is DOWN since {_when(incident.began, zone)}{ago}.", ""]
        lines += [*_evidence(incident.opening), "", _rule(incident.opening), ""]
    for incident in news.up:
        end = incident.closed if incident.closed is not None else now
        lines += [
            f"{incident.test} is UP again since {_when(end, zone)}.",
            f"It was DOWN from {_when(incident.began, zone)} for {_lasted(incident)}.",
            "",
        ]
        if incident.closing:
            lines += ["Now:", *_evidence(incident.closing), ""]
        lines += ["When it went down:", *_evidence(incident.opening), ""]
    return lines


def _evidence(judgement: Judgement) -> list[str]:
    """Give each node's view a line."""
    width = max(len(answer.node.name) for answer in judgement.answers)
    return [f"  {answer.node.name:<{width}}  {_view(answer)}".rstrip() for answer in judgement.answers]


def _view(answer: Answer) -> str:
    if answer.result is None:
        return f"no answer: {answer.reason}"
    duration = f"({answer.result.duration:.1f} s)" if answer.result.duration >= 1 and answer.seen != "TIMEOUT" else ""
    return " ".join(filter(None, (f"{answer.seen:<8}", answer.text, duration)))


def _rule(judgement: Judgement) -> str:
    places = "sites" if any(answer.node.site != answer.node.name for answer in judgement.answers) else "nodes"
    return f"{judgement.quorum} {places} needed, {len(judgement.sites(Vote.FAILING))} saw it."


def _lateness(notifications: Sequence[Notification], now: float, zone: datetime.tzinfo | None) -> list[str]:
    first = min(notifications, key=lambda notification: notification.since)
    if now - first.since < LATE:
        return []
    refusals = max(notification.refusals for notification in notifications)
    reason = f": the mail system refused it {refusals} times" if refusals > 1 else ""
    return [f"This mail is late. It has been waiting since {_when(first.since, zone)}{reason}.", ""]


def _footer(node: str) -> list[str]:
    return [
        f"Sent by dmonitor on {node}. To look further, on any node, as root:",
        "  dmonitor-check --dry-run      who sees what now; changes nothing",
        "  journalctl -t dmonitor-check  what was seen, asked and decided",
    ]


def _mail(address: str, subject: str, body: Sequence[str], *, sender: str, node: str, date: datetime.datetime) -> bytes:
    mail = email.message.EmailMessage(_POLICY)
    user, _, domain = sender.partition("@")
    mail["From"] = email.headerregistry.Address(f"dmonitor on {node}", user, domain)
    user, _, domain = address.partition("@")
    mail["To"] = email.headerregistry.Address("", user, domain)
    mail["Subject"] = subject
    mail["Date"] = email.utils.format_datetime(date)
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content("\n".join(body) + "\n")
    return mail.as_bytes()


def _lasted(incident: Incident) -> str:
    return _span((incident.closed or incident.began) - incident.began)


def _span(seconds: float) -> str:
    """Return a duration in the two units that matter."""
    left = max(0, round(seconds))
    units: list[str] = []
    for name, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (name == "s" and not units):
            units.append(f"{count} {name}")
    return " ".join(units[:2])


def _when(at: float, zone: datetime.tzinfo | None) -> str:
    return _local(at, zone).strftime("%a %d %b %Y %H:%M:%S %z")


def _local(at: float, zone: datetime.tzinfo | None) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).astimezone(zone)
