"""Compose a plain-text mail of the notifications that are owed to one address.

Pure: `now` and the time zone are passed in. When an address is mailed, and by which node, is
decided elsewhere. A hook is told the same, as a text and as facts for its environment.
"""

from __future__ import annotations

import datetime
import email.headerregistry
import email.message
import email.policy
import email.utils
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from dmonitor.core.mail_body import LINE_LIMIT, Zone, body_of, footer, lateness_of, local_time
from dmonitor.core.model import Incident, Kind, Notification, Vote
from dmonitor.core.story import Story, ids_alerted, make_stories, state_of, subject_of

# Lines may be long, so that a mail is not encoded: it can be read as it is in a log or in a queue.
_POLICY = email.policy.default.clone(max_line_length=990)

# The same for all nodes: a mail that two nodes send has one Message-ID, so a mailbox can drop one.
_DOMAIN = "dmonitor.invalid"
# A mail about more incidents or ids than these is not threaded.
_THREADED_INCIDENTS = 20
_THREADED_IDS = 40
# Incidents of which a hook has facts: no variable of an environment may be longer than 128 KB.
_FACTS_LIMIT = 200

_TEST_SUBJECT = "TEST dmonitor on {}"
_TEST_TEXT = "This is a test: if you can read it, the alerts of dmonitor on {} reach you."


def compose(
    notifications: Sequence[Notification], *, sender: str, node: str, now: float, zone: Zone = None
) -> bytes:
    """Return the one mail that tells all `notifications`, as sendmail takes it.

    They are owed to one address. Times are shown in `zone`, which is the machine's if it is None.
    """
    stories = make_stories(notifications)
    body = body_of(stories, now, zone)
    body += lateness_of(notifications, now, zone)
    body += footer(node)
    return _build(
        notifications[0].address,
        subject_of(stories, now),
        body,
        _thread_headers(notifications),
        sender=sender,
        node=node,
        date=local_time(now, zone),
    )


def compose_test(address: str, *, sender: str, node: str, now: float) -> bytes:
    """Return the mail that `dmonitor-check --test-alert` sends to `address`."""
    return _build(
        address,
        _TEST_SUBJECT.format(node),
        [_TEST_TEXT.format(node), "", *footer(node)],
        {},
        sender=sender,
        node=node,
        date=local_time(now, None),
    )


def _build(
    address: str,
    subject: str,
    body: Sequence[str],
    thread_headers: Mapping[str, str],
    *,
    sender: str,
    node: str,
    date: datetime.datetime,
) -> bytes:
    mail = email.message.EmailMessage(_POLICY)
    mail["From"] = _mailbox(f"dmonitor on {node}", sender)
    mail["To"] = _mailbox("", address)
    mail["Subject"] = subject
    mail["Date"] = email.utils.format_datetime(date)
    for header, value in thread_headers.items():
        mail[header] = value
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content("\n".join(body) + "\n")
    return mail.as_bytes()


def _mailbox(name: str, address: str) -> email.headerregistry.Address:
    local_part, _, domain = address.partition("@")
    return email.headerregistry.Address(name, local_part, domain)


# Threads and doubles.


def _thread_headers(notifications: Sequence[Notification]) -> dict[str, str]:
    """Return the headers by which a mailbox recognises a double, and mails about one incident.

    All mails about an incident refer to mails that never existed, one for each of its ids, because
    they may have been sent under any of these ids.
    """
    headers = {"Message-ID": f"<{_digest(notifications)}@{_DOMAIN}>"}
    incidents = {}
    for notification in notifications:
        incidents[notification.incident.id] = notification.incident
    ids: set[str] = set()
    for incident in incidents.values():
        ids.update(incident.ids)
    if len(incidents) <= _THREADED_INCIDENTS and len(ids) <= _THREADED_IDS:
        roots = " ".join(f"<incident-{incident_id}@{_DOMAIN}>" for incident_id in sorted(ids))
        headers["In-Reply-To"] = roots
        headers["References"] = roots
    return headers


def _digest(notifications: Sequence[Notification]) -> str:
    """Return hexadecimal digits that are the same on all nodes, and for no other mail."""
    lines = []
    for notification in notifications:
        incident = notification.incident
        reminded = incident.reminded if notification.kind is Kind.REMINDER else 0
        lines.append(f"{incident.id} {notification.kind.value} {reminded}")
    text = "\n".join([notifications[0].address, *sorted(lines)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# What hooks are told.


def compose_facts(
    notifications: Sequence[Notification], *, node: str, now: float, zone: Zone = None
) -> tuple[bytes, dict[str, str]]:
    """Return what a hook is told: the text of a mail, and the variables of its environment.

    A variable has a line for each incident; dmonitor-plugin(7) names them. Of very many incidents
    the first 200 have lines, which are the most urgent ones.
    """
    stories = make_stories(notifications)
    body = body_of(stories, now, zone)
    body += lateness_of(notifications, now, zone)
    incidents = _incidents_of(stories)
    alerted = ids_alerted(notifications)
    facts: dict[str, list[str]] = {}
    for incident in incidents[:_FACTS_LIMIT]:
        for name, fact in _incident_facts(incident, alerted, zone).items():
            facts.setdefault(name, []).append(fact)
    facts["COUNT"] = [str(len(incidents))]
    facts["SUBJECT"] = [subject_of(stories, now)]
    facts["NODE"] = [node]
    return "\n".join(body).encode(), _environment(facts)


def compose_test_facts(*, node: str) -> tuple[bytes, dict[str, str]]:
    """Return what a hook is told by `dmonitor-check --test-alert`; it is about no test."""
    text = f"{_TEST_TEXT.format(node)}\n"
    facts = {
        "STATE": ["TEST"],
        "SUBJECT": [_TEST_SUBJECT.format(node)],
        "NODE": [node],
        "COUNT": ["0"],
    }
    return text.encode(), _environment(facts)


def _environment(facts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {f"DMONITOR_{name}": "\n".join(lines) for name, lines in facts.items()}


def _incidents_of(stories: Iterable[Story]) -> list[Incident]:
    incidents: list[Incident] = []
    for story in stories:
        incidents += story.incidents
    return incidents


def _incident_facts(incident: Incident, alerted: set[str], zone: Zone) -> dict[str, str]:
    nodes = incident.opening.nodes(Vote.FAILING) if incident.opening else []
    until = "" if incident.closed is None else _iso(incident.closed, zone)
    return {
        "STATE": state_of(incident, alerted),
        "HOST": incident.test.host,
        "TEST": incident.test.name,
        "NODES": _cut(",".join(nodes)),
        "SINCE": _iso(incident.began, zone),
        "UNTIL": until,
        "INCIDENT": incident.id,
    }


def _iso(at: float, zone: Zone) -> str:
    return local_time(at, zone).isoformat(timespec="seconds")


def _cut(nodes: str) -> str:
    """Return as many of the comma-separated `nodes` as a line takes, each with its whole name."""
    if len(nodes) <= LINE_LIMIT:
        return nodes
    kept, _, _ = nodes[: LINE_LIMIT - 1].rpartition(",")
    return f"{kept},…"
