"""The words of a mail: its subject, its summary, and a section for each story.

Pure: the clock's reading and the time zone are passed in. It is written for a tired person with a
phone: what is down comes first, evidence next, how to look further last.
"""

from __future__ import annotations

import datetime
import itertools
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence

from dmonitor.base import names
from dmonitor.core.incident import FLAPPING_ENDS_AFTER, FLAPPING_WINDOW
from dmonitor.core.model import Answer, Hidden, Incident, Judgement, Notification, Test, Vote
from dmonitor.core.story import ACK, DOWN, FLAPPING, STEADY, STILL_DOWN, UP, Story, is_node

Zone = datetime.tzinfo | None  # the time zone that times are shown in; None is the machine's

LATE = 120.0  # seconds after which a mail says that it is late
LINE = 200  # characters of a line in the summary
_SUMMARY_HOSTS = 40  # lines of the summary
_SECTIONS = 20  # stories whose evidence is shown
_FEW_TESTS = 3  # of one host in the summary; more are counted
_SUBJECT = 120  # characters after which no further state is begun in a subject
_NAMED_IN_SUBJECT = 40  # characters of the names of one host's tests, of hosts, of nodes
_SHORTEST_LIST = 10  # characters that are left for names, however long the host's name is
_LONG_RUN = 1.0  # seconds from which a plugin's duration is shown
_LAST_MOMENT = 4e9  # seconds since the epoch; the state may hold anything


def subject(stories: Sequence[Story], now: float) -> str:
    """Return the subject: each state, the worst first, with its hosts, or with its nodes.

    A part can be read without the others. What there is no room for is counted.
    """
    groups: dict[tuple[str, bool], list[Story]] = {}
    for story in stories:
        groups.setdefault((story.state, is_node(story.test)), []).append(story)
    text = ""
    left = len(stories)
    for (state, _), group in groups.items():
        part = _headline(group[0], now) if len(group) == 1 else f"{state} {_named(group)}"
        if text and len(text) + len(part) > _SUBJECT:
            return f"{text}; and {left} more"
        text = f"{text}; {part}" if text else part
        left -= len(group)
    return text


def _headline(story: Story, now: float) -> str:
    incident = story.main
    name = _name(story.test)
    word, _, rest = story.state.partition(" ")
    share = f" ({_share(incident.opening)})" if incident.opening else ""
    match word:
        case "DOWN":
            return f"DOWN {name}{share}{_after_flapping(story)}"
        case "STILL":
            return f"STILL DOWN {name}{share} for {names.span(now - incident.began)}"
        case "ACK":
            return f"ACK {name} {incident.acknowledgement}".rstrip()
        case "FLAPPING":
            return f"FLAPPING {name} ({_now(story)} now, {_changes(incident)})"
        case "STEADY" if rest:
            return f"STEADY {name}: {rest}"
        case "STEADY":
            return f"STEADY {name}"
    return f"UP {name} (was DOWN {_lasted(incident)})"


def _name(test: Test) -> str:
    """Return a test as a subject names it: the name of a node would read as a test's."""
    if is_node(test):
        return f"node {test.name}"
    return str(test)


def _after_flapping(story: Story) -> str:
    return ", after flapping" if story.is_after_flapping else ""


def _changes(incident: Incident) -> str:
    return f"{incident.flapping} changes in {names.span(FLAPPING_WINDOW)}"


def _now(story: Story) -> str:
    """Return how a test is now that flaps."""
    return DOWN if story.is_down else UP


def _named(stories: Sequence[Story]) -> str:
    """Return the hosts that several stories are about, with their tests; or the nodes."""
    tests = [story.test.name for story in stories]
    if is_node(stories[0].test):
        return f"nodes {_listed(tests)}"
    hosts = list(dict.fromkeys(story.test.host for story in stories))
    if len(hosts) == 1 and len(", ".join(tests)) <= _NAMED_IN_SUBJECT:
        return f"{hosts[0]}: {', '.join(tests)}"
    return f"{_listed(hosts)} ({len(tests)} tests)"


def _listed(all_names: Sequence[str]) -> str:
    """Return as many names as a subject has room for, at least one, and how many are left out."""
    listed = all_names[0]
    for number, name in enumerate(all_names[1:], 1):
        longer = f"{listed}, {name}"
        if len(longer) > _NAMED_IN_SUBJECT:
            return f"{listed} and {len(all_names) - number} more"
        listed = longer
    return listed


def _share(judgement: Judgement) -> str:
    """Return how many of the nodes voted failing."""
    return f"{len(judgement.nodes(Vote.FAILING))} of {len(judgement.answers)} nodes"


def body(
    stories: Sequence[Story],
    now: float,
    zone: Zone,
    behind: Mapping[Test, Hidden],
    usual: Mapping[Test, str],
) -> list[str]:
    """Return the lines that tell all stories, and which tests failed `behind` theirs.

    `usual` has a sentence on how long a look takes, for a story of a TIMEOUT. If there are several
    stories, what is well again has its line in the summary, and no section.
    """
    lines = _summary(stories)
    lines += _behind_brief(stories, behind)
    told = [story for story in stories if len(stories) == 1 or not _is_brief(story)]
    shown = _shown(told)
    for story in shown:
        hidden = behind.get(story.test, Hidden())
        lines += _section(story, now, zone, hidden, usual.get(story.test, ""))
    left_out = len(told) - len(shown)
    if left_out:
        lines += [f"… and {left_out} more; on any node: dmonitor-check --dry-run", ""]
    return lines


def _is_brief(story: Story) -> bool:
    """Return whether the summary says all about a story: its test is well, by more than hearsay."""
    return _is_well(story) and story.main.is_fact


def _is_well(story: Story) -> bool:
    return story.state in (UP, STEADY, f"{STEADY} {UP}")


def _summary(stories: Sequence[Story]) -> list[str]:
    """List hosts and their tests, and the nodes, if there is more than one story."""
    if len(stories) < 2:
        return []
    hosts: dict[tuple[str, str, str], list[Story]] = {}
    for story in stories:
        note = f"{_now(story)} now" if story.state == FLAPPING else ""
        hosts.setdefault((story.state, note, story.test.host), []).append(story)
    width = max(len(state) for state, _, _ in hosts)
    lines = []
    for (state, note, host), group in itertools.islice(hosts.items(), _SUMMARY_HOSTS):
        note = _was_down(group) if state == UP else note
        tests = [story.test.name for story in group]
        lines.append(_summary_line(f"{state:<{width}} ", host, tests, f" ({note})" if note else ""))
    left_out = [(host, group) for (_, _, host), group in hosts.items()][_SUMMARY_HOSTS:]
    if left_out:
        lines.append(f"… and {_left_out_hosts(left_out)}")
    return [*lines, ""]


def _was_down(stories: Sequence[Story]) -> str:
    """Return for how long tests were DOWN that are UP again."""
    if len(stories) == 1:
        return f"was DOWN {_lasted(stories[0].main)}"
    longest = max((story.main for story in stories), key=_seconds)
    return f"were DOWN up to {_lasted(longest)}"


def _left_out_hosts(left_out: Sequence[tuple[str, Sequence[Story]]]) -> str:
    """Return how many hosts and nodes the summary leaves out."""
    hosts = nodes = tests = 0
    for host, stories in left_out:
        if host == names.NODE:
            nodes += len(stories)
        else:
            hosts += 1
            tests += len(stories)
    parts = []
    if hosts:
        counted = names.pluralize(tests, "test")
        parts.append(f"{names.pluralize(hosts, 'more host')} with {counted}")
    if nodes:
        parts.append(names.pluralize(nodes, "more node"))
    return " and ".join(parts)


def _summary_line(begin: str, host: str, tests: Sequence[str], note: str) -> str:
    """Return the tests of `host`, or the nodes, between `begin` and `note`."""
    if host == names.NODE and len(tests) == 1:
        begin += "node "
    elif host == names.NODE:
        begin += f"{len(tests)} nodes: "
    elif len(tests) > _FEW_TESTS:
        begin += f"{host}: {len(tests)} tests: "
    else:
        begin += f"{host}: "
    room = max(_SHORTEST_LIST, LINE - len(begin) - len(note))
    listed = ", ".join(tests)
    return begin + textwrap.shorten(listed, room, placeholder=" …", break_on_hyphens=False) + note


def _shown(stories: Sequence[Story]) -> list[Story]:
    """Return the stories whose evidence is shown, in their order.

    Every host and every node has its turn before any host has a second.
    """
    turns: Counter[str] = Counter()
    ranked = []
    for index, story in enumerate(stories):
        host = str(story.test) if is_node(story.test) else story.test.host
        ranked.append((turns[host], index))
        turns[host] += 1
    ranked.sort()
    shown = sorted(index for _, index in ranked[:_SECTIONS])
    return [stories[index] for index in shown]


def _section(story: Story, now: float, zone: Zone, behind: Hidden, usual: str) -> list[str]:
    """Tell one story: how the test is and was, what is behind it, who saw what if it fails."""
    main = story.main
    evidence: list[str] = []
    if story.state == UP:
        lead = _recovery(story, now, zone)
    elif main.flapping:
        lead, evidence = _flapping(story, now, zone)
    else:
        lead, evidence = _failure(story, now, zone)
    if main.silenced:
        lead.append(f"Nobody was mailed meanwhile, because it was silenced {main.silenced}.")
    if main.acknowledged is not None:
        words = f": {main.acknowledgement}" if main.acknowledgement else ""
        lead.append(f"It was acknowledged at {when(main.acknowledged, zone)}{words}.")
    in_order = [*story.others, main]
    for incident, following in itertools.pairwise(in_order):
        if incident.closed is not None:
            lead.append(_past(incident, following, zone))
    if main.closed is not None:
        lead += _came_back(behind, "it")
    elif behind.down:
        lead.append(_listed_tests("And", behind.down, "behind it"))
    if usual and evidence and main.has_timed_out and not main.flapping:
        evidence.append(usual)
    for incident in in_order:
        if incident.flapping and incident.closed is None:
            evidence += ["", _quiet(incident, is_main=incident is main)]
    return [*lead, "", *evidence, ""] if evidence else [*lead, ""]


def _behind_brief(stories: Sequence[Story], behind: Mapping[Test, Hidden]) -> list[str]:
    """Return what became of the tests behind those that have no section, because they are well."""
    if len(stories) == 1:
        return []
    lines: list[str] = []
    for story in stories:
        if _is_brief(story) and story.test in behind:
            lines += _came_back(behind[story.test], str(story.test))
    return [*lines, ""] if lines else []


def _came_back(behind: Hidden, before: str) -> list[str]:
    """Return what became of the tests behind `before`, which is over: nobody was told of them."""
    lines = []
    if behind.up:
        lines.append(_listed_tests("With it,", behind.up, f"behind {before} came back"))
    if behind.down:
        lines.append(_listed_tests("Not yet UP:", behind.down, f"behind {before}"))
        lines.append("What still fails when it is looked at again is mailed by itself.")
    return lines


def _listed_tests(begin: str, tests: Sequence[Test], end: str) -> str:
    """Return how many `tests` there are, and their names, as far as there is room."""
    begin = f"{begin} {names.pluralize(len(tests), 'test')} {end}: "
    room = max(_SHORTEST_LIST, LINE - len(begin))
    listed = ", ".join(map(str, tests))
    return begin + textwrap.shorten(listed, room, placeholder=" …", break_on_hyphens=False)


def _recovery(story: Story, now: float, zone: Zone) -> list[str]:
    main = story.main
    stated = "" if main.is_fact else f", as {_source(main)}"
    return [
        f"{story.test} is UP again since {when(main.closed or now, zone)}.",
        f"It was DOWN from {when(main.began, zone)} for {_lasted(main)}{stated}.",
    ]


def _flapping(story: Story, now: float, zone: Zone) -> tuple[list[str], list[str]]:
    main = story.main
    if main.closed is None:
        since = _since(main, now, zone)
        lead = [f"{story.test} is FLAPPING {since}: {_changes(main)}.", f"It is {_now(story)} now."]
        return lead, _opening(main)
    state = story.state.replace(" ", ": ")
    quiet = f"for {names.span(FLAPPING_ENDS_AFTER)}"
    if main.seen > float("-inf"):
        quiet = f"since {when(main.seen, zone)}"
    lead = [f"{story.test} is {state}, without a change {quiet}.", _past(main, main, zone)]
    return lead, [] if _is_well(story) else _evidence(main.closing)


def _failure(story: Story, now: float, zone: Zone) -> tuple[list[str], list[str]]:
    main = story.main
    since = _since(main, now, zone)
    state = DOWN if story.state == ACK else story.state
    lead = [f"{story.test} is {state} {since}{_after_flapping(story)}."]
    evidence = _opening(main)
    if story.state in (STILL_DOWN, ACK):
        evidence.insert(0, "When it went down:")
    if main.opening:
        evidence += ["", _rule(main.opening)]
    return lead, evidence


def _opening(incident: Incident) -> list[str]:
    """Return who saw what when an incident began; above it, whose word alone that is."""
    evidence = _evidence(incident.opening)
    if not incident.is_fact:
        evidence.insert(0, f"As {_source(incident)}:")
    return evidence


def _source(incident: Incident) -> str:
    """Return the words that say whose evidence it is: that node may have made up all of it."""
    if incident.relayed_by not in ("", incident.heard_from):
        return f"{incident.relayed_by} states, which has it from {incident.heard_from}"
    return f"{incident.heard_from} states"


def _since(incident: Incident, now: float, zone: Zone) -> str:
    text = f"since {when(incident.began, zone)}"
    age = now - incident.began
    if age >= LATE:
        text += f", {names.span(age)} ago"
    return text


def _past(incident: Incident, following: Incident, zone: Zone) -> str:
    """Return the sentence about an incident that is over, and the time that the test was UP then.

    `following` is the next incident of the test.
    """
    if incident.flapping:
        return _past_flapping(incident, zone)
    end = incident.closed or incident.began
    text = f"It had been DOWN from {when(incident.began, zone)} to {when(end, zone)}"
    if following.began > end and not following.flapping:
        text += f", then UP until {when(following.began, zone)}"
    return f"{text}."


def _past_flapping(incident: Incident, zone: Zone) -> str:
    """Return the sentence about flapping that is over; it lasted until the last change.

    It began when it was noticed, and often that was the last change.
    """
    last_change = incident.closed or incident.began
    if incident.seen > float("-inf"):
        last_change = incident.seen
    text = "It had been flapping"
    if last_change > incident.began:
        text += f" from {when(incident.began, zone)} to {when(last_change, zone)}"
    else:
        text += f" until {when(last_change, zone)}"
    return f"{text}."


def _quiet(incident: Incident, *, is_main: bool) -> str:
    """Return the sentence that no mail comes about the changes of a flapping test."""
    changes = "" if is_main else f"It is flapping: {_changes(incident)}. "
    until = f"until it stays DOWN, or is steady for {names.span(FLAPPING_ENDS_AFTER)}"
    return f"{changes}dmonitor is quiet about its changes {until}; then it mails how it is."


def _evidence(judgement: Judgement | None) -> list[str]:
    """Return a line for each node's view."""
    if judgement is None:
        return ["  who saw what is not known on this node, which only heard of it"]
    width = max((len(answer.node.name) for answer in judgement.answers), default=0)
    lines = []
    for answer in judgement.answers:
        lines.append(f"  {answer.node.name:<{width}}  {_view(answer)}".rstrip())
    return lines


def _view(answer: Answer) -> str:
    if answer.result is None:
        return f"no answer: {answer.reason}"
    words = [f"{answer.seen:<8}"]
    if answer.text:
        words.append(answer.text)
    duration = answer.result.duration
    if duration >= _LONG_RUN and answer.seen != "TIMEOUT":
        words.append(f"({duration:.1f} s)")
    if answer.suspect:
        words.append("(this node suspects itself: most of its tests fail there alone)")
    return " ".join(words)


def _rule(judgement: Judgement) -> str:
    """Return the sentence that says how many had to see the failure, and how many did."""
    has_sites = any(answer.node.site != answer.node.name for answer in judgement.answers)
    kind = "sites" if has_sites else "nodes"
    return f"{judgement.quorum} {kind} needed, {len(judgement.sites(Vote.FAILING))} saw it."


def lateness(notifications: Sequence[Notification], now: float, zone: Zone) -> list[str]:
    """Return lines that say that a mail is late, and why; none if it is not late."""
    since = min(notification.since for notification in notifications)
    if now - since < LATE:
        return []
    refusals = max(notification.refusals for notification in notifications)
    reason = ""
    if refusals > 1:
        reason = f": the mail system refused it {refusals} times"
    return [f"This mail is late. It has been waiting since {when(since, zone)}{reason}.", ""]


def footer(node: str) -> list[str]:
    """Return lines that say which node sent the mail, and where to look further."""
    return [
        f"Sent by dmonitor on {node}. To look further, on any node, as root:",
        "  dmonitor status --peers       who sees what now",
        "  dmonitor why HOST/TEST        who saw what, and who told whom",
        "  journalctl -t dmonitor-check  what was seen and decided (or /var/log/syslog)",
    ]


def _lasted(incident: Incident) -> str:
    return names.span(_seconds(incident))


def _seconds(incident: Incident) -> float:
    """Return how long an incident lasted that is over."""
    return (incident.closed or incident.began) - incident.began


def when(at: float, zone: Zone) -> str:
    """Return a time as people read it in a mail."""
    return local(at, zone).strftime("%a %d %b %Y %H:%M:%S %z")


def local(at: float, zone: Zone) -> datetime.datetime:
    """Return seconds since the epoch as a time in a zone."""
    possible = min(max(at, 0.0), _LAST_MOMENT)
    return datetime.datetime.fromtimestamp(possible, datetime.UTC).astimezone(zone)
