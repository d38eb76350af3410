"""What a mail says: owed notifications in, one plain-text message out.

Pure: the clock's reading and the time zone are passed in. Who is mailed, when, and by which node is decided
elsewhere. Written for a tired person with a phone: what is down comes first, evidence next, how to look last.
"""

from __future__ import annotations

import collections
import datetime
import email.headerregistry
import email.message
import email.policy
import email.utils
import hashlib
import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.core.incident import FLAPPING_ENDS_AFTER, FLAPPING_WINDOW
from dmonitor.core.model import Answer, Incident, Judgement, Kind, Notification, Test, Verdict, Vote

# Lines may be long: a mail that is not encoded can be read in a log, a queue or a mailbox as it is.
_POLICY = email.policy.default.clone(max_line_length=990)

LATE = 120.0  # seconds after which a mail says that it is late
_DOMAIN = "dmonitor.invalid"  # whichever node speaks, a mail has the same Message-ID, and a mailbox drops the double
_LINE, _HOSTS, _DETAILED = (
    200,
    40,
    20,
)  # a summary's characters in a line, and its lines; tests whose evidence is shown
_FACTS = (
    200  # tests of which a hook has facts: no variable of an environment may be longer than 128 KB
)
_TEST, _TEST_TEXT = (
    "TEST dmonitor on {}",
    "This is a test: if you can read it, the alerts of dmonitor on {} reach you.",
)
_THREADED, _ROOTS = 20, 40  # incidents, and their ids, that a mail may refer to; more are no thread

_ORDER = (
    "DOWN",
    "STILL",
    "FLAPPING",
    "STEADY",
    "UP",
)  # the first word of a story's state, the most urgent first


def compose(
    notifications: Sequence[Notification],
    *,
    sender: str,
    node: str,
    now: float,
    zone: datetime.tzinfo | None = None,
) -> bytes:
    """Return the one mail that tells all NOTIFICATIONS, which are owed to one address, as sendmail takes it.

    ZONE is the time zone that times are shown in; None is the machine's.
    """
    stories = _stories(notifications)
    body = [*_told(stories, now, zone), *_lateness(notifications, now, zone), *_footer(node)]
    address, threads = notifications[0].address, _threads(notifications)
    return _mail(address, _subject(stories, now), body, threads, sender, node, _local(now, zone))


def compose_facts(
    notifications: Sequence[Notification],
    *,
    node: str,
    now: float,
    zone: datetime.tzinfo | None = None,
) -> tuple[bytes, dict[str, str]]:
    """Return what a hook is told: the text of a mail, and facts for its environment, a line for each incident.

    dmonitor-plugin(7) names them. Of more than 200 incidents the facts are of the first 200, the most urgent.
    """
    stories = _stories(notifications)
    body = [*_told(stories, now, zone), *_lateness(notifications, now, zone)]
    alerts = {
        notification.incident.id
        for notification in notifications
        if notification.kind is Kind.ALERT
    }
    every = [incident for story in stories for incident in (story.main, *story.others)]
    some = every[:_FACTS]

    def moment(at: float | None) -> str:
        return "" if at is None else _local(at, zone).isoformat(timespec="seconds")

    facts = {
        "STATE": [_state(each, alerts) for each in some],
        "HOST": [each.test.host for each in some],
        "TEST": [each.test.name for each in some],
        "NODES": [
            _cut(",".join(each.opening.nodes(Vote.FAILING) if each.opening else ()))
            for each in some
        ],
        "SINCE": [moment(each.began) for each in some],
        "UNTIL": [moment(each.closed) for each in some],
        "INCIDENT": [each.id for each in some],
        "COUNT": [str(len(every))],
        "SUBJECT": [_subject(stories, now)],
        "NODE": [node],
    }
    return "\n".join(body).encode(), {
        f"DMONITOR_{name}": "\n".join(lines) for name, lines in facts.items()
    }


def _cut(nodes: str) -> str:
    """Return as many NODES as a line takes, each with its whole name."""
    return nodes if len(nodes) <= _LINE else f"{nodes[: _LINE - 1].rpartition(',')[0]},…"


def _told(stories: Sequence[_Story], now: float, zone: datetime.tzinfo | None) -> list[str]:
    shown = _chosen(stories)
    body = [*_summary(stories), *(line for story in shown for line in _section(story, now, zone))]
    if len(shown) < len(stories):
        body += [
            f"… and {len(stories) - len(shown)} more; on any node: dmonitor-check --dry-run",
            "",
        ]
    return body


def compose_test(address: str, *, sender: str, node: str, now: float) -> bytes:
    """Return the mail that `dmonitor-check --test-alert` sends to ADDRESS."""
    return _mail(
        address,
        _TEST.format(node),
        [_TEST_TEXT.format(node), "", *_footer(node)],
        {},
        sender,
        node,
        _local(now, None),
    )


def compose_test_facts(*, node: str) -> tuple[bytes, dict[str, str]]:
    """Return what a hook is told by `dmonitor-check --test-alert`; it is about no test."""
    facts = {"STATE": "TEST", "SUBJECT": _TEST.format(node), "NODE": node, "COUNT": "0"}
    return _TEST_TEXT.format(node).encode() + b"\n", {
        f"DMONITOR_{name}": fact for name, fact in facts.items()
    }


def _threads(notifications: Sequence[Notification]) -> Mapping[str, str]:
    """Return the headers by which a mailbox knows a double, and what else was mailed about the same incidents.

    Each incident's mails refer to a root that never existed, one for each of its ids: whichever it was mailed under.
    """
    told = sorted(
        f"{n.incident.id} {n.kind.value} {n.incident.reminded * (n.kind is Kind.REMINDER)}"
        for n in notifications
    )
    digest = hashlib.sha256("\n".join([notifications[0].address, *told]).encode()).hexdigest()[:32]
    headers = {"Message-ID": f"<{digest}@{_DOMAIN}>"}
    incidents = {notification.incident.id: notification.incident for notification in notifications}
    roots = [
        f"<incident-{known}@{_DOMAIN}>"
        for known in sorted({known for one in incidents.values() for known in one.ids})
    ]
    if len(incidents) <= _THREADED and len(roots) <= _ROOTS:
        headers |= dict.fromkeys(("In-Reply-To", "References"), " ".join(roots))
    return headers


class _Story(NamedTuple):
    """What is to be told about one test: its state, the incident that says so, and the others, in order."""

    state: str
    main: Incident
    others: Sequence[Incident]

    @property
    def test(self) -> Test:
        return self.main.test


def _stories(notifications: Sequence[Notification]) -> list[_Story]:
    """Make one story of all that is owed about a test, the most urgent first: what is down now outdoes what is over."""
    found: dict[Test, dict[str, Incident]] = {}
    alerts = {
        notification.incident.id
        for notification in notifications
        if notification.kind is Kind.ALERT
    }
    for notification in sorted(notifications, key=lambda notification: notification.incident.began):
        found.setdefault(notification.incident.test, {})[notification.incident.id] = (
            notification.incident
        )
    stories = []
    for incidents in found.values():
        ranked = [(_state(incident, alerts), incident) for incident in incidents.values()]
        # What is open, the most urgent first; of what is over, how it ended last.
        state, main = min(
            ranked, key=lambda pair: (min(_rank(pair[0]), 3), -(pair[1].closed or pair[1].began))
        )
        stories.append(
            _Story(
                state, main, [incident for incident in incidents.values() if incident is not main]
            )
        )
    return sorted(stories, key=lambda story: (_rank(story.state), story.state, story.test))


def _rank(state: str) -> int:
    return _ORDER.index(state.split()[0])


def _state(incident: Incident, alerts: set[str]) -> str:
    """Say in a word or two how the test of INCIDENT is, as far as INCIDENT knows; ALERTS are the ids whose alert is owed."""
    if not incident.flapping:
        return (
            "UP"
            if incident.closed is not None
            else "DOWN"
            if incident.id in alerts
            else "STILL DOWN"
        )
    if incident.closed is None:
        return "FLAPPING"
    verdict = incident.closing.verdict if incident.closing else None
    return f"STEADY {'UP' if verdict is Verdict.LOCAL else verdict.value}" if verdict else "STEADY"


def _subject(stories: Sequence[_Story], now: float) -> str:
    states: dict[str, list[_Story]] = {}
    for story in stories:
        states.setdefault(story.state, []).append(story)
    return ", ".join(
        _headline(some[0], now) if len(some) == 1 else f"{state} {_count(some)}"
        for state, some in states.items()
    )


def _headline(story: _Story, now: float) -> str:
    incident, (word, _, rest) = story.main, story.state.partition(" ")
    share = f" ({_share(incident.opening)})" if incident.opening else ""
    match word:
        case "DOWN":
            return f"DOWN {story.test}{share}"
        case "STILL":
            return f"STILL DOWN {story.test}{share} for {names.span(now - incident.began)}"
        case "FLAPPING":
            return f"FLAPPING {story.test} ({_changes(incident)})"
        case "STEADY":
            return f"STEADY {story.test}" + (f": {rest}" if rest else "")
    return f"UP {story.test} (was DOWN {_lasted(incident)})"


def _changes(incident: Incident) -> str:
    return f"{incident.flapping} changes in {names.span(FLAPPING_WINDOW)}"


def _count(stories: Sequence[_Story]) -> str:
    hosts = {story.test.host for story in stories}
    if len(hosts) > 1:
        return f"{len(stories)} tests on {len(hosts)} hosts"
    tests = ", ".join(story.test.name for story in stories)
    return f"{len(stories)} tests on {hosts.pop()}" + (f": {tests}" if len(tests) <= 40 else "")


def _share(judgement: Judgement) -> str:
    """Say how many of the nodes voted failing."""
    return f"{len(judgement.nodes(Vote.FAILING))} of {len(judgement.answers)} nodes"


def _summary(stories: Sequence[_Story]) -> list[str]:
    """List hosts and their tests, where there is more than one."""
    if len(stories) < 2:
        return []
    hosts: dict[tuple[str, str], list[str]] = {}
    for story in stories:
        hosts.setdefault((story.state, story.test.host), []).append(story.test.name)
    width = max(len(state) for state, _ in hosts)
    lines = []
    for (state, host), tests in list(hosts.items())[:_HOSTS]:
        line = f"{state:<{width}} {host}: " + (f"{len(tests)} tests: " if len(tests) > 3 else "")
        room = max(10, _LINE - len(line))
        lines.append(
            line
            + textwrap.shorten(", ".join(tests), room, placeholder=" …", break_on_hyphens=False)
        )
    if rest := list(hosts.values())[_HOSTS:]:
        lines.append(f"… and {len(rest)} more hosts with {sum(map(len, rest))} tests")
    return [*lines, ""]


def _chosen(stories: Sequence[_Story]) -> list[_Story]:
    """Choose whose evidence is shown: every host has its turn before any has a second."""
    turns: collections.defaultdict[str, Iterator[int]] = collections.defaultdict(itertools.count)
    order = sorted((next(turns[story.test.host]), place) for place, story in enumerate(stories))
    return [stories[place] for place in sorted(place for _, place in order[:_DETAILED])]


def _section(story: _Story, now: float, zone: datetime.tzinfo | None) -> list[str]:
    """Tell one test's story: how it is, how it was before, and who saw what."""
    main, state, test = story.main, story.state, story.test
    began, over = _when(main.began, zone), main.closed is not None
    since = f"since {began}" + (
        f", {names.span(now - main.began)} ago" if now - main.began >= LATE else ""
    )
    order = [*story.others, main]
    past = [
        _past(one, after, zone)
        for one, after in itertools.pairwise(order)
        if one.closed is not None
    ]
    evidence = ["", *_evidence(main.closing if over else main.opening)]
    if state == "UP":
        lead = [
            f"{test} is UP again since {_when(main.closed or now, zone)}.",
            f"It was DOWN from {began} for {_lasted(main)}.",
        ]
        evidence = [
            "",
            "When it came back:",
            *_evidence(main.closing),
            "",
            "When it went down:",
            *_evidence(main.opening),
        ]
    elif main.flapping and over:
        lead = [
            f"{test} is {state.replace(' ', ': ')}, without a change for {names.span(FLAPPING_ENDS_AFTER)}.",
            _past(main, main, zone),
        ]
    elif main.flapping:
        lead = [f"{test} is FLAPPING {since}: {_changes(main)}."]
    else:
        lead = [f"{test} is {state} {since}."]
        evidence[1:1] = ["When it went down:"] if state == "STILL DOWN" else []
        evidence += ["", _rule(main.opening)] if main.opening else []
    for incident in order:
        if incident.flapping and incident.closed is None:
            changes = "" if incident is main else f"It is flapping: {_changes(incident)}. "
            until = f"until it has been steady for {names.span(FLAPPING_ENDS_AFTER)}"
            evidence += [
                "",
                f"{changes}dmonitor is quiet about its changes {until}, and then mails how it is.",
            ]
    return [*lead, *past, *evidence, ""]


def _past(incident: Incident, following: Incident, zone: datetime.tzinfo | None) -> str:
    """Say from when to when an incident was that is over, and until when the test was UP then."""
    what, end = "flapping" if incident.flapping else "DOWN", incident.closed or incident.began
    was_up = following.began > end and not incident.flapping and not following.flapping
    until = f", then UP until {_when(following.began, zone)}" if was_up else ""
    return f"It had been {what} from {_when(incident.began, zone)} to {_when(end, zone)}{until}."


def _evidence(judgement: Judgement | None) -> list[str]:
    """Give each node's view a line."""
    if judgement is None:
        return ["  who saw what is not known on this node, which only heard of it"]
    width = max((len(answer.node.name) for answer in judgement.answers), default=0)
    return [
        f"  {answer.node.name:<{width}}  {_view(answer)}".rstrip() for answer in judgement.answers
    ]


def _view(answer: Answer) -> str:
    if answer.result is None:
        return f"no answer: {answer.reason}"
    duration = (
        f"({answer.result.duration:.1f} s)"
        if answer.result.duration >= 1 and answer.seen != "TIMEOUT"
        else ""
    )
    doubt = (
        "(this node suspects itself: most of its tests fail there alone)" if answer.suspect else ""
    )
    return " ".join(filter(None, (f"{answer.seen:<8}", answer.text, duration, doubt)))


def _rule(judgement: Judgement) -> str:
    places = (
        "sites"
        if any(answer.node.site != answer.node.name for answer in judgement.answers)
        else "nodes"
    )
    return f"{judgement.quorum} {places} needed, {len(judgement.sites(Vote.FAILING))} saw it."


def _lateness(
    notifications: Sequence[Notification], now: float, zone: datetime.tzinfo | None
) -> list[str]:
    first = min(notifications, key=lambda notification: notification.since)
    if now - first.since < LATE:
        return []
    refusals = max(notification.refusals for notification in notifications)
    reason = f": the mail system refused it {refusals} times" if refusals > 1 else ""
    return [f"This mail is late. It has been waiting since {_when(first.since, zone)}{reason}.", ""]


def _footer(node: str) -> list[str]:
    return [
        f"Sent by dmonitor on {node}. To look further, on any node, as root:",
        "  dmonitor status --peers       who sees what now",
        "  dmonitor why HOST/TEST        who saw what, and who told whom",
        "  journalctl -t dmonitor-check  what was seen and decided (or /var/log/syslog)",
    ]


def _mail(
    address: str,
    subject: str,
    body: Sequence[str],
    more: Mapping[str, str],
    sender: str,
    node: str,
    date: datetime.datetime,
) -> bytes:
    mail = email.message.EmailMessage(_POLICY)
    for header, name, mailbox in (("From", f"dmonitor on {node}", sender), ("To", "", address)):
        mail[header] = email.headerregistry.Address(name, *mailbox.partition("@")[::2])
    mail["Subject"] = subject
    mail["Date"] = email.utils.format_datetime(date)
    for header, value in {**more, "Auto-Submitted": "auto-generated"}.items():
        mail[header] = value
    mail.set_content("\n".join(body) + "\n")
    return mail.as_bytes()


def _lasted(incident: Incident) -> str:
    return names.span((incident.closed or incident.began) - incident.began)


def _when(at: float, zone: datetime.tzinfo | None) -> str:
    return _local(at, zone).strftime("%a %d %b %Y %H:%M:%S %z")


def _local(at: float, zone: datetime.tzinfo | None) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(min(max(at, 0.0), 4e9), datetime.UTC).astimezone(
        zone
    )  # whatever the state holds
