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
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from dmonitor.base import names
from dmonitor.core import mail_text
from dmonitor.core.mail_text import LINE, Zone
from dmonitor.core.model import Hidden, Incident, Kind, Notification, Test, Vote
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
_REFERENCES = 10  # that a mail has; mail systems cut longer lists


class Composer:
    """Composes what each address and each hook is told at one moment.

    Very many addresses may be owed the same, so that is worded once. `latest` are the open
    incidents of all tests that something is owed about. `secret` is a key that all nodes share;
    with it, nobody else can foretell the Message-ID. `behind` has the tests that failed behind a
    test that is told, and are not told by themselves. `usual` has how many seconds a look takes at
    this node that passes.
    """

    def __init__(
        self,
        *,
        node: str,
        now: float,
        sender: str = "",
        zone: Zone = None,
        latest: Iterable[Incident] = (),
        secret: bytes = b"",
        behind: Mapping[Test, Hidden] = MappingProxyType({}),
        usual: Mapping[Test, float] = MappingProxyType({}),
    ) -> None:
        self._node = node
        self._now = now
        self._sender = sender
        self._zone = zone
        self._latest = tuple(latest)
        self._secret = secret
        self._behind = behind
        self._usual = {
            test: f"It usually takes {names.duration(seconds)} on {node}."
            for test, seconds in usual.items()
        }
        self._worded: dict[_Contents, _Worded] = {}

    def mail(self, notifications: Sequence[Notification]) -> bytes:
        """Return the one mail that tells all `notifications`, as sendmail takes it.

        They are owed to one address.
        """
        address = notifications[0].address
        worded = self._word(notifications)
        headers = _headers(worded.subject, address, self._sender, self._node, self._now, self._zone)
        headers["Message-ID"] = _message_id(address, worded.told, self._secret)
        if worded.roots:
            headers["In-Reply-To"] = worded.roots[0]
            headers["References"] = " ".join(reversed(worded.roots))
        return _message(headers, [*worded.lines, *mail_text.footer(self._node)])

    def facts(self, notifications: Sequence[Notification]) -> tuple[bytes, dict[str, str]]:
        """Return what a hook is told: the text of a mail, and facts for its environment.

        dmonitor-plugin(7) names the facts. Each has a line for each incident, the most urgent
        first, and no more than 200.
        """
        worded = self._word(notifications)
        facts = _facts(worded.stories, alerted(notifications), self._zone)
        facts["DMONITOR_COUNT"] = str(sum(len(story.incidents) for story in worded.stories))
        facts["DMONITOR_SUBJECT"] = names.escaped(worded.subject)
        facts["DMONITOR_NODE"] = names.escaped(self._node)
        return _text(worded.lines).encode(), facts

    def _word(self, notifications: Sequence[Notification]) -> _Worded:
        """Return what tells `notifications`, whoever they are owed to.

        At one moment an id names one incident.
        """
        contents = tuple(
            (each.incident.id, each.incident.circle, each.kind, each.since, each.refusals)
            for each in notifications
        )
        if contents not in self._worded:
            stories = stories_of(notifications, self._latest)
            lines = mail_text.body(stories, self._now, self._zone, self._behind, self._usual)
            lines += mail_text.lateness(notifications, self._now, self._zone)
            self._worded[contents] = _Worded(
                stories,
                mail_text.subject(stories, self._now),
                lines,
                _all_told(notifications, self._latest),
                _roots(stories, self._secret),
            )
        return self._worded[contents]


_Contents = tuple[tuple[str, str, Kind, float, int], ...]  # what is told, and not to whom


class _Worded(NamedTuple):
    """The words that tell some notifications, whoever they are owed to."""

    stories: Sequence[Story]
    subject: str
    lines: Sequence[str]
    told: Sequence[str]  # what the Message-ID is made of, beside the address
    roots: Sequence[str]  # the Message-IDs that a mail refers to, the most urgent first


def compose(notifications: Sequence[Notification], **facts: Any) -> bytes:
    """Return the mail that tells `notifications`; the `facts` are those of a Composer."""
    return Composer(**facts).mail(notifications)


def compose_facts(
    notifications: Sequence[Notification], **facts: Any
) -> tuple[bytes, dict[str, str]]:
    """Return what a hook is told of `notifications`; the `facts` are those of a Composer."""
    return Composer(**facts).facts(notifications)


def compose_test(address: str, *, sender: str, node: str, now: float) -> bytes:
    """Return the mail that `dmonitor-check --test-alert` sends to `address`."""
    headers = _headers(_TEST_SUBJECT.format(node), address, sender, node, now, None)
    return _message(headers, [_TEST_TEXT.format(node), "", *mail_text.footer(node)])


def compose_trouble(text: str, address: str, *, sender: str, node: str, now: float) -> bytes:
    """Return the mail that tells `address` what keeps `node` from seeing or telling (rule R7)."""
    short = textwrap.shorten(names.escaped(text), _TROUBLE_SUBJECT, placeholder=" ...")
    subject = f"TROUBLE {short}"
    headers = _headers(subject, address, sender, node, now, None)
    lines = [f"{text}.", "", *_TROUBLE_NOTE, "", *mail_text.footer(node)]
    return _message(headers, lines)


def _headers(
    subject: str, address: str, sender: str, node: str, now: float, zone: Zone
) -> dict[str, object]:
    """Return the headers that every mail has, in their order."""
    return {
        "From": _mailbox(f"dmonitor on {node}", sender),
        "To": _mailbox("", address),
        "Subject": subject,
        "Date": email.utils.format_datetime(mail_text.local(now, zone)),
    }


def compose_test_facts(*, node: str) -> tuple[bytes, dict[str, str]]:
    """Return what a hook is told by `dmonitor-check --test-alert`; it is about no test."""
    facts = {
        "DMONITOR_STATE": "TEST",
        "DMONITOR_SUBJECT": _TEST_SUBJECT.format(node),
        "DMONITOR_NODE": node,
        "DMONITOR_COUNT": "0",
    }
    return _TEST_TEXT.format(node).encode() + b"\n", facts


def _facts(stories: Sequence[Story], alerts: Mapping[str, str], zone: Zone) -> dict[str, str]:
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
    return _message_id(notifications[0].address, _all_told(notifications, latest), secret)


def _message_id(address: str, told: Sequence[str], secret: bytes) -> str:
    return f"<{_digest('message-id', [address, *told], secret)}@{_DOMAIN}>"


def _all_told(notifications: Sequence[Notification], latest: Iterable[Incident]) -> Sequence[str]:
    """Return what tells these notifications from all others of one address, in order."""
    lasting = {_lasting_name(incident) for incident in latest}
    return sorted(_told(notification, lasting) for notification in notifications)


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


def _roots(stories: Sequence[Story], secret: bytes) -> Sequence[str]:
    """Return the roots that a mail refers to, so that all mails about an incident are one thread.

    A root is a Message-ID that no mail ever had, because no node knows which mail was the first. Of
    very many incidents, the most urgent ones have theirs here.
    """
    roots: dict[str, None] = {}
    for story in stories:
        for incident in story.incidents:
            roots.update(dict.fromkeys(_roots_of(incident, secret)))
        if len(roots) >= _REFERENCES:
            break
    return [f"<incident-{root}@{_DOMAIN}>" for root in list(roots)[:_REFERENCES]]


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
