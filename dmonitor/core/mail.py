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
import hmac
from collections.abc import Collection, Iterable, Mapping, Sequence

from dmonitor.base import names
from dmonitor.core import mail_text
from dmonitor.core.mail_text import LINE, Zone
from dmonitor.core.model import Incident, Kind, Notification, Vote
from dmonitor.core.story import Story, alerted, states_of, stories_of

# Lines may be long: a mail that is not encoded can be read as it is, in a log or a mailbox.
_POLICY = email.policy.default.clone(max_line_length=990)
# Whichever node speaks, a mail has the same Message-ID, and a mailbox drops the double.
_DOMAIN = "dmonitor.invalid"
# Incidents of which a hook has facts: no environment variable may be longer than 128 KB.
_FACTS_LIMIT = 200
_TEST_SUBJECT = "TEST dmonitor on {}"
_TEST_TEXT = "This is a test: if you can read it, the alerts of dmonitor on {} reach you."
_TROUBLE_SUBJECT = 120  # characters of a trouble that its mail's subject has
_TROUBLE_NOTE = (
    "This is a trouble of that node itself, which no other node has to confirm. It is mailed once.",
    "Whether it lasts, `dmonitor status` says there, and the log (trouble-over).",
)
_THREADED_INCIDENTS = 20  # that a mail may refer to; more are no thread
_THREADED_ROOTS = 40


def compose(
    notifications: Sequence[Notification],
    *,
    sender: str,
    node: str,
    now: float,
    zone: Zone = None,
    latest: Iterable[Incident] = (),
    secret: bytes = b"",
) -> bytes:
    """Return the one mail that tells all `notifications`, as sendmail takes it.

    They are owed to one address. `latest` are the open incidents of their tests. `secret` is a key
    that all nodes share; with it, nobody else can foretell the Message-ID.
    """
    latest = tuple(latest)
    stories = stories_of(notifications, latest)
    lines = mail_text.body(stories, now, zone)
    lines += mail_text.lateness(notifications, now, zone)
    lines += mail_text.footer(node)
    headers: dict[str, object] = {"From": _mailbox(f"dmonitor on {node}", sender)}
    headers["To"] = _mailbox("", notifications[0].address)
    headers["Subject"] = mail_text.subject(stories, now)
    headers["Date"] = email.utils.format_datetime(mail_text.local(now, zone))
    headers["Message-ID"] = message_id(notifications, secret, latest)
    roots = _roots(stories, secret)
    if roots:
        headers["In-Reply-To"] = roots
        headers["References"] = roots
    return _message(headers, lines)


def compose_test(address: str, *, sender: str, node: str, now: float) -> bytes:
    """Return the mail that `dmonitor-check --test-alert` sends to `address`."""
    headers: dict[str, object] = {"From": _mailbox(f"dmonitor on {node}", sender)}
    headers["To"] = _mailbox("", address)
    headers["Subject"] = _TEST_SUBJECT.format(node)
    headers["Date"] = email.utils.format_datetime(mail_text.local(now, None))
    return _message(headers, [_TEST_TEXT.format(node), "", *mail_text.footer(node)])


def compose_trouble(text: str, address: str, *, sender: str, node: str, now: float) -> bytes:
    """Return the mail that tells `address` what keeps `node` from seeing or telling (rule R7)."""
    headers: dict[str, object] = {"From": _mailbox(f"dmonitor on {node}", sender)}
    headers["To"] = _mailbox("", address)
    headers["Subject"] = f"TROUBLE {names.printable(text, _TROUBLE_SUBJECT)}"
    headers["Date"] = email.utils.format_datetime(mail_text.local(now, None))
    lines = [f"{text}.", "", *_TROUBLE_NOTE, "", *mail_text.footer(node)]
    return _message(headers, lines)


def compose_facts(
    notifications: Sequence[Notification],
    *,
    node: str,
    now: float,
    zone: Zone = None,
    latest: Iterable[Incident] = (),
) -> tuple[bytes, dict[str, str]]:
    """Return what a hook is told: the text of a mail, and facts for its environment.

    dmonitor-plugin(7) names the facts. Each has a line for each incident, the most urgent first,
    and no more than 200. `latest` are the open incidents of the tests.
    """
    stories = stories_of(notifications, latest)
    lines = mail_text.body(stories, now, zone)
    lines += mail_text.lateness(notifications, now, zone)
    facts = _facts(stories, alerted(notifications), zone)
    facts["DMONITOR_COUNT"] = str(sum(len(story.incidents) for story in stories))
    facts["DMONITOR_SUBJECT"] = names.escaped(mail_text.subject(stories, now))
    facts["DMONITOR_NODE"] = names.escaped(node)
    return _text(lines).encode(), facts


def compose_test_facts(*, node: str) -> tuple[bytes, dict[str, str]]:
    """Return what a hook is told by `dmonitor-check --test-alert`; it is about no test."""
    facts = {
        "DMONITOR_STATE": "TEST",
        "DMONITOR_SUBJECT": _TEST_SUBJECT.format(node),
        "DMONITOR_NODE": node,
        "DMONITOR_COUNT": "0",
    }
    return _TEST_TEXT.format(node).encode() + b"\n", facts


def _facts(stories: Sequence[Story], alerts: set[str], zone: Zone) -> dict[str, str]:
    """Return the facts that have a line for each incident."""
    rows: list[tuple[str, Incident]] = []
    for story in stories:
        rows += zip(states_of(story, alerts), story.incidents, strict=True)
    columns: dict[str, list[str]] = {}
    for state, incident in rows[:_FACTS_LIMIT]:
        row = {
            "STATE": state,
            "HOST": incident.test.host,
            "TEST": incident.test.name,
            "NODES": _failing_nodes(incident),
            "SINCE": _moment(incident.began, zone),
            "UNTIL": _moment(incident.closed, zone),
            "INCIDENT": incident.id,
        }
        for name, fact in row.items():
            columns.setdefault(f"DMONITOR_{name}", []).append(names.escaped(fact))
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


def message_id(
    notifications: Sequence[Notification], secret: bytes, latest: Iterable[Incident] = ()
) -> str:
    """Return the Message-ID by which a mailbox knows a double.

    The address, and the set of what the mail tells, decide it, whichever node sends the mail.
    Nodes that did not hear each other may name two incidents alike. If one of them is over and the
    other one, which is among `latest`, is open, the recovery says STILL DOWN. The one that says UP
    is still to come, and is no double of it.
    """
    lasting = {_lasting_name(incident) for incident in latest}
    told = sorted(_told(notification, lasting) for notification in notifications)
    return f"<{_digest('message-id', [notifications[0].address, *told], secret)}@{_DOMAIN}>"


def _told(notification: Notification, lasting: Collection[str]) -> str:
    """Return what tells one notification from all others of its address.

    `lasting` are the names of open incidents.
    """
    incident = notification.incident
    number = 0
    if notification.kind is Kind.REMINDER:
        number = incident.reminded
    elif notification.kind is Kind.RECOVERY:
        number = incident.again
    name = _lasting_name(incident)
    told = f"{name} {notification.kind.value} {number}"
    if notification.kind is Kind.RECOVERY and name in lasting:
        told += " still down"
    return told


def _lasting_name(incident: Incident) -> str:
    """Return the name of an incident that does not change when nodes unite theirs.

    The ids do change. An incident from before version 0.2 has no minute, so its smallest id has to
    do.
    """
    kind = "flapping" if incident.flapping else "ordinary"
    return f"{incident.test} {kind} {incident.minute or incident.id}"


def _roots(stories: Sequence[Story], secret: bytes) -> str:
    """Return the roots that a mail refers to, so that all mails about an incident are one thread.

    A root is a Message-ID that no mail ever had, because no node knows which mail was the first.
    """
    incidents: list[Incident] = []
    for story in stories:
        incidents += story.incidents
    roots: set[str] = set()
    for incident in incidents:
        roots.update(_roots_of(incident, secret))
    if len(incidents) > _THREADED_INCIDENTS or len(roots) > _THREADED_ROOTS:
        return ""
    return " ".join(f"<incident-{root}@{_DOMAIN}>" for root in sorted(roots))


def _roots_of(incident: Incident, secret: bytes) -> Sequence[str]:
    """Return the root of an incident; of one without a minute, a root for each of its ids."""
    if not incident.minute:
        return incident.ids
    return (_digest("thread", [_lasting_name(incident)], secret),)


def _digest(label: str, lines: Sequence[str], secret: bytes) -> str:
    """Return a digest that only the nodes can make, if there is a `secret`."""
    text = "\n".join([label, *lines]).encode()
    if secret:
        return hmac.digest(secret, text, "sha256").hex()[:32]
    return hashlib.sha256(text).hexdigest()[:32]


def _mailbox(name: str, address: str) -> email.headerregistry.Address:
    user, _, domain = names.escaped(address).partition("@")
    return email.headerregistry.Address(names.escaped(name), user, domain)


def _text(lines: Sequence[str]) -> str:
    """Return the text of a mail, in which no line can make another one."""
    return "\n".join(map(names.escaped, lines)) + "\n"


def _message(headers: Mapping[str, object], lines: Sequence[str]) -> bytes:
    message = email.message.EmailMessage(_POLICY)
    for name, value in headers.items():
        if isinstance(value, str):
            value = names.escaped(value)
        message[name] = value
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(_text(lines))
    return message.as_bytes()
