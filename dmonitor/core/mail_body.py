"""Write the lines of a mail's body: the summary, a section for each test, the evidence, the footer.

Pure: `now` and the time zone are passed in. The lines are for a tired person with a phone: what is
down comes first, the evidence next, how to look further last.
"""

from __future__ import annotations

import datetime
import itertools
import textwrap
from collections.abc import Sequence

from dmonitor.base import names
from dmonitor.core.incident import FLAPPING_ENDS_AFTER
from dmonitor.core.model import Answer, Incident, Judgement, Notification, Vote
from dmonitor.core.story import Story, changes_of, choose_detailed, end_of, lasted

LATE_SECONDS = 120.0  # after which a mail says that it is late
LINE_LIMIT = 200  # characters of a line of the summary
_HOSTS_LIMIT = 40  # lines of the summary
_TESTS_LIMIT = 20  # tests whose evidence is shown
_TESTS_NOT_COUNTED = 3  # of one host, in the summary; more are counted
_LAST_TIME = 4e9  # seconds since the epoch, in the year 2096; the state may hold any number

Zone = datetime.tzinfo | None  # None: the time zone of the machine


def body_of(stories: Sequence[Story], now: float, zone: Zone) -> list[str]:
    """Return the lines that tell `stories`."""
    detailed = choose_detailed(stories, _TESTS_LIMIT)
    lines = _summary(stories)
    for story in detailed:
        lines += _section(story, now, zone)
    more = len(stories) - len(detailed)
    if more:
        lines += [f"… and {more} more; on any node: dmonitor-check --dry-run", ""]
    return lines


def lateness_of(notifications: Sequence[Notification], now: float, zone: Zone) -> list[str]:
    """Return the lines that say that a mail of `notifications` is late, if it is."""
    since = min(notification.since for notification in notifications)
    if now - since < LATE_SECONDS:
        return []
    line = f"This mail is late. It has been waiting since {_when(since, zone)}"
    refusals = max(notification.refusals for notification in notifications)
    if refusals > 1:
        line += f": the mail system refused it {refusals} times"
    return [f"{line}.", ""]


def footer(node: str) -> list[str]:
    """Return the lines that say how to look further."""
    return [
        f"Sent by dmonitor on {node}. To look further, on any node, as root:",
        "  dmonitor status --peers       who sees what now",
        "  dmonitor why HOST/TEST        who saw what, and who told whom",
        "  journalctl -t dmonitor-check  what was seen and decided (or /var/log/syslog)",
    ]


def local_time(at: float, zone: Zone) -> datetime.datetime:
    """Return the time `at` in `zone`; a time that nobody can show becomes one that can be shown."""
    shown = min(max(at, 0.0), _LAST_TIME)
    return datetime.datetime.fromtimestamp(shown, datetime.UTC).astimezone(zone)


def _when(at: float, zone: Zone) -> str:
    return local_time(at, zone).strftime("%a %d %b %Y %H:%M:%S %z")


# The summary.


def _summary(stories: Sequence[Story]) -> list[str]:
    """Return a line for each host, if there is more than one story."""
    if len(stories) < 2:
        return []
    hosts: dict[tuple[str, str], list[str]] = {}
    for story in stories:
        hosts.setdefault((story.state, story.test.host), []).append(story.test.name)
    width = max(len(state) for state, _ in hosts)
    lines = []
    for (state, host), tests in itertools.islice(hosts.items(), _HOSTS_LIMIT):
        lines.append(_summary_line(f"{state:<{width}} {host}: ", tests))
    more = list(hosts.values())[_HOSTS_LIMIT:]
    if more:
        count = sum(len(tests) for tests in more)
        lines.append(f"… and {len(more)} more hosts with {count} tests")
    return [*lines, ""]


def _summary_line(line: str, tests: Sequence[str]) -> str:
    if len(tests) > _TESTS_NOT_COUNTED:
        line += f"{len(tests)} tests: "
    room = max(10, LINE_LIMIT - len(line))
    return line + textwrap.shorten(", ".join(tests), room, placeholder=" …", break_on_hyphens=False)


# The section of one test.


def _section(story: Story, now: float, zone: Zone) -> list[str]:
    """Return the lines about one test: how it is, how it was before, and who saw what."""
    return [
        *_lead(story, now, zone),
        *_history(story, zone),
        *_story_evidence(story),
        *_notices_of_flapping(story),
        "",
    ]


def _lead(story: Story, now: float, zone: Zone) -> list[str]:
    """Return the lines that say how the test is."""
    incident = story.main
    test = story.test
    began = _when(incident.began, zone)
    if story.state == "UP":
        return [
            f"{test} is UP again since {_when(incident.closed or now, zone)}.",
            f"It was DOWN from {began} for {lasted(incident)}.",
        ]
    if incident.flapping and incident.closed is not None:
        state = story.state.replace(" ", ": ")
        quiet = names.span(FLAPPING_ENDS_AFTER)
        return [
            f"{test} is {state}, without a change for {quiet}.",
            f"{_had_been(incident, zone)}.",
        ]
    since = f"since {began}"
    if now - incident.began >= LATE_SECONDS:
        since += f", {names.span(now - incident.began)} ago"
    if incident.flapping:
        return [f"{test} is FLAPPING {since}: {changes_of(incident)}."]
    return [f"{test} is {story.state} {since}."]


def _history(story: Story, zone: Zone) -> list[str]:
    """Return a line for each of the other incidents that is over."""
    lines = []
    for incident, following in itertools.pairwise([*story.others, story.main]):
        if incident.closed is None:
            continue
        line = _had_been(incident, zone)
        is_flapping = incident.flapping or following.flapping
        if following.began > end_of(incident) and not is_flapping:
            line += f", then UP until {_when(following.began, zone)}"
        lines.append(f"{line}.")
    return lines


def _had_been(incident: Incident, zone: Zone) -> str:
    state = "flapping" if incident.flapping else "DOWN"
    began = _when(incident.began, zone)
    return f"It had been {state} from {began} to {_when(end_of(incident), zone)}"


def _story_evidence(story: Story) -> list[str]:
    """Return the lines that say who saw what."""
    incident = story.main
    if story.state == "UP":
        return [
            "",
            "When it came back:",
            *_evidence(incident.closing),
            "",
            "When it went down:",
            *_evidence(incident.opening),
        ]
    if incident.closed is not None:
        return ["", *_evidence(incident.closing)]
    lines = [""]
    if story.state == "STILL DOWN":
        lines.append("When it went down:")
    lines += _evidence(incident.opening)
    if incident.opening and not incident.flapping:
        lines += ["", _quorum_line(incident.opening)]
    return lines


def _notices_of_flapping(story: Story) -> list[str]:
    """Return the lines that say that no change is mailed while the test flaps."""
    lines = []
    for incident in [*story.others, story.main]:
        if not incident.flapping or incident.closed is not None:
            continue
        notice = ""
        if incident is not story.main:
            notice = f"It is flapping: {changes_of(incident)}. "
        notice += "dmonitor is quiet about its changes until it has been steady for"
        notice += f" {names.span(FLAPPING_ENDS_AFTER)}, and then mails how it is."
        lines += ["", notice]
    return lines


# The evidence.


def _evidence(judgement: Judgement | None) -> list[str]:
    """Return a line for each node's answer."""
    if judgement is None:
        return ["  who saw what is not known on this node, which only heard of it"]
    width = max((len(answer.node.name) for answer in judgement.answers), default=0)
    lines = []
    for answer in judgement.answers:
        line = f"  {answer.node.name:<{width}}  {_answer_text(answer)}"
        lines.append(line.rstrip())
    return lines


def _answer_text(answer: Answer) -> str:
    if answer.result is None:
        return f"no answer: {answer.reason}"
    words = [f"{answer.seen:<8}"]
    if answer.text:
        words.append(answer.text)
    if answer.result.duration >= 1 and answer.seen != "TIMEOUT":
        words.append(f"({answer.result.duration:.1f} s)")
    if answer.suspect:
        words.append("(this node suspects itself: most of its tests fail there alone)")
    return " ".join(words)


def _quorum_line(judgement: Judgement) -> str:
    has_sites = any(answer.node.site != answer.node.name for answer in judgement.answers)
    counted = "sites" if has_sites else "nodes"
    saw_it = len(judgement.sites(Vote.FAILING))
    return f"{judgement.quorum} {counted} needed, {saw_it} saw it."
