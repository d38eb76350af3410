"""What one address is told at one moment: a whole mail, or the text and facts for a hook.

Pure: the clock's reading and the time zone are passed in. Who is told, when, and by which node is
decided elsewhere. The words are those of `mail_text`.
"""

from __future__ import annotations

import email.headerregistry
import email.message
import email.policy
import email.utils
import hashlib
from collections.abc import Mapping, Sequence

from dmonitor.core import mail_text
from dmonitor.core.mail_text import LINE, Zone
from dmonitor.core.model import Incident, Kind, Notification, Vote
from dmonitor.core.story import alerted, state_of, stories_of

# Lines may be long: a mail that is not encoded can be read as it is, in a log or a mailbox.
_POLICY = email.policy.default.clone(max_line_length=990)
# Whichever node speaks, a mail has the same Message-ID, and a mailbox drops the double.
_DOMAIN = "dmonitor.invalid"
# Incidents of which a hook has facts: no environment variable may be longer than 128 KB.
_FACTS_LIMIT = 200
_TEST_SUBJECT = "TEST dmonitor on {}"
_TEST_TEXT = "This is a test: if you can read it, the alerts of dmonitor on {} reach you."
_THREADED_INCIDENTS = 20  # that a mail may refer to; more are no thread
_THREADED_IDS = 40


def compose(
    notifications: Sequence[Notification], *, sender: str, node: str, now: float, zone: Zone = None
) -> bytes:
    """Return the one mail that tells all `notifications`, as sendmail takes it.

    They are owed to one address.
    """
    stories = stories_of(notifications)
    lines = mail_text.body(stories, now, zone)
    lines += mail_text.lateness(notifications, now, zone)
    lines += mail_text.footer(node)
    headers: dict[str, object] = {"From": _mailbox(f"dmonitor on {node}", sender)}
    headers["To"] = _mailbox("", notifications[0].address)
    headers["Subject"] = mail_text.subject(stories, now)
    headers["Date"] = email.utils.format_datetime(mail_text.local(now, zone))
    headers |= _threads(notifications)
    return _message(headers, lines)


def compose_test(address: str, *, sender: str, node: str, now: float) -> bytes:
    """Return the mail that `dmonitor-check --test-alert` sends to `address`."""
    headers: dict[str, object] = {"From": _mailbox(f"dmonitor on {node}", sender)}
    headers["To"] = _mailbox("", address)
    headers["Subject"] = _TEST_SUBJECT.format(node)
    headers["Date"] = email.utils.format_datetime(mail_text.local(now, None))
    return _message(headers, [_TEST_TEXT.format(node), "", *mail_text.footer(node)])


def compose_facts(
    notifications: Sequence[Notification], *, node: str, now: float, zone: Zone = None
) -> tuple[bytes, dict[str, str]]:
    """Return what a hook is told: the text of a mail, and facts for its environment.

    dmonitor-plugin(7) names the facts. Each has a line for each incident, the most urgent first,
    and no more than 200.
    """
    stories = stories_of(notifications)
    lines = mail_text.body(stories, now, zone)
    lines += mail_text.lateness(notifications, now, zone)
    incidents: list[Incident] = []
    for story in stories:
        incidents += [story.main, *story.others]
    facts = _facts(incidents[:_FACTS_LIMIT], alerted(notifications), zone)
    facts["DMONITOR_COUNT"] = str(len(incidents))
    facts["DMONITOR_SUBJECT"] = mail_text.subject(stories, now)
    facts["DMONITOR_NODE"] = node
    return "\n".join(lines).encode(), facts


def compose_test_facts(*, node: str) -> tuple[bytes, dict[str, str]]:
    """Return what a hook is told by `dmonitor-check --test-alert`; it is about no test."""
    facts = {
        "DMONITOR_STATE": "TEST",
        "DMONITOR_SUBJECT": _TEST_SUBJECT.format(node),
        "DMONITOR_NODE": node,
        "DMONITOR_COUNT": "0",
    }
    return _TEST_TEXT.format(node).encode() + b"\n", facts


def _facts(incidents: Sequence[Incident], alerts: set[str], zone: Zone) -> dict[str, str]:
    """Return the facts that have a line for each incident."""
    columns: dict[str, list[str]] = {}
    for incident in incidents:
        row = {
            "STATE": state_of(incident, alerts),
            "HOST": incident.test.host,
            "TEST": incident.test.name,
            "NODES": _failing_nodes(incident),
            "SINCE": _moment(incident.began, zone),
            "UNTIL": _moment(incident.closed, zone),
            "INCIDENT": incident.id,
        }
        for name, fact in row.items():
            columns.setdefault(f"DMONITOR_{name}", []).append(fact)
    return {name: "\n".join(lines) for name, lines in columns.items()}


def _failing_nodes(incident: Incident) -> str:
    """Return the nodes that saw the failure, as many as a line takes, each with its whole name."""
    if not incident.opening:
        return ""
    nodes = ",".join(incident.opening.nodes(Vote.FAILING))
    if len(nodes) <= LINE:
        return nodes
    whole_names, _, _ = nodes[: LINE - 1].rpartition(",")
    return f"{whole_names},…"


def _moment(at: float | None, zone: Zone) -> str:
    if at is None:
        return ""
    return mail_text.local(at, zone).isoformat(timespec="seconds")


def _threads(notifications: Sequence[Notification]) -> dict[str, str]:
    """Return the headers by which a mailbox knows a double, and the mails about the same incidents.

    An incident's mails refer to a root that never existed, one for each of its ids, because no node
    knows under which id another node mailed it.
    """
    told = sorted(_told(notification) for notification in notifications)
    text = "\n".join([notifications[0].address, *told])
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    headers = {"Message-ID": f"<{digest}@{_DOMAIN}>"}
    incidents = {notification.incident.id: notification.incident for notification in notifications}
    ids: set[str] = set()
    for incident in incidents.values():
        ids.update(incident.ids)
    if len(incidents) <= _THREADED_INCIDENTS and len(ids) <= _THREADED_IDS:
        roots = " ".join(f"<incident-{incident_id}@{_DOMAIN}>" for incident_id in sorted(ids))
        headers["In-Reply-To"] = roots
        headers["References"] = roots
    return headers


def _told(notification: Notification) -> str:
    """Return what tells one notification from all others of its address."""
    incident = notification.incident
    reminder = incident.reminded if notification.kind is Kind.REMINDER else 0
    return f"{incident.id} {notification.kind.value} {reminder}"


def _mailbox(name: str, address: str) -> email.headerregistry.Address:
    user, _, domain = address.partition("@")
    return email.headerregistry.Address(name, user, domain)


def _message(headers: Mapping[str, object], lines: Sequence[str]) -> bytes:
    message = email.message.EmailMessage(_POLICY)
    for name, value in headers.items():
        message[name] = value
    message["Auto-Submitted"] = "auto-generated"
    message.set_content("\n".join(lines) + "\n")
    return message.as_bytes()
