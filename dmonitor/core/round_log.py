"""What a round logs of its judgements and incidents, for people who read the log.

Pure. It decides what is worth an event and hands the event to a Note.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from dmonitor.base import names
from dmonitor.core.model import Answer, Incident, Judgement, Outcome, Silence, Test, TestState, Vote


class Note(Protocol):
    """Logs an event. The levels are `debug`, `info`, `warning`, `error` and `critical`."""

    def __call__(self, level: str, event: str, /, **facts: str | int | float | None) -> None: ...


HEARD_LINES = 20  # of incidents that were heard of in one round
_Thing = TypeVar("_Thing")


def first_of(
    things: Iterable[_Thing], limit: int, note_more: Callable[[int], None]
) -> Iterator[_Thing]:
    """Yield the first things, up to `limit`; then have the number of the others noted, if any."""
    others = 0
    for number, thing in enumerate(things):
        if number < limit:
            yield thing
        else:
            others += 1
    if others:
        note_more(others)


def note_heard(
    note: Note,
    incidents: Collection[Incident],
    news: Mapping[str, Collection[str]],
    *,
    before: int = 0,
) -> int:
    """Log the incidents of which peers have stated something new; of many, how many there are.

    `news` are the peers that did, by the id of the incident. `before` is how many there were
    earlier in this round. Return how many there are now.
    """

    def note_more(count: int) -> None:
        note("info", "more-incidents-heard", count=count)

    for incident in first_of(incidents, max(0, HEARD_LINES - before), note_more):
        peers: set[str] = set()
        for incident_id in incident.ids:
            peers.update(news.get(incident_id, ()))
        note(
            "info",
            "incident-heard",
            test=str(incident.test),
            incident=incident.id,
            # Under one of these it may stand in the lines before, also in those of this node.
            also=",".join(incident.ids[1:]) or None,
            peers=",".join(sorted(peers)),
            state="open" if incident.is_open else "closed",
            alert=incident.alert or None,
            recovery=incident.recovery or None,
        )
    return len(incidents)


def note_silences(note: Note, heard: Sequence[tuple[str, Silence]]) -> None:
    """Log the silences `heard` of peers, each with the peer's name; of many, how many there are."""

    def note_more(count: int) -> None:
        note("info", "more-silences-heard", count=count)

    for peer, silence in first_of(heard, HEARD_LINES, note_more):
        note(
            "info",
            "silence-heard",
            peer=peer,
            host=silence.host,
            test=silence.name or None,
            reason=silence.reason or None,
        )


def note_judgement(
    note: Note, test: Test, before: TestState, after: TestState, judgement: Judgement
) -> None:
    """Log what a round concluded about `test`.

    If nothing has changed, only the debug log has it.
    """
    own_answer = judgement.answers[0]
    has_new_outcome = after.own_outcome is not before.own_outcome
    has_changed = has_new_outcome or after.verdict is not before.verdict
    level = "info" if has_changed else "debug"
    if has_changed and after.own_outcome is Outcome.UNKNOWN:
        # A peer that was just started is often UNKNOWN; if it stays so, that is a trouble.
        untestable = "info" if test.host == names.NODE else "warning"
        note(untestable, "untestable", test=str(test), text=own_answer.text)
    others = judgement.answers[1:]
    if others:
        _note_answers(note, level, test, others)
    if others or has_changed:
        note(
            level,
            "verdict",
            test=str(test),
            verdict=judgement.verdict.value,
            was=before.verdict.value,
            **_tally(judgement),
            text=own_answer.text,
        )


def _note_answers(note: Note, level: str, test: Test, answers: tuple[Answer, ...]) -> None:
    """Log which peers were asked about `test`, and what each of them sees."""
    peers = ",".join(answer.node.name for answer in answers)
    note(level, "asked", test=str(test), peers=peers)
    for answer in answers:
        note(
            level,
            "answer",
            test=str(test),
            node=answer.node.name,
            sees=answer.seen,
            age=answer.age if answer.result else None,
            text=answer.text,
        )


def note_incident(
    note: Note, before: Incident | None, after: Incident, judgement: Judgement
) -> None:
    """Log that an incident has opened or closed."""
    if before is None:
        note(
            "info", "incident-opened", test=str(after.test), incident=after.id, **_tally(judgement)
        )
    elif after.closed is not None:
        note(
            "info",
            "incident-closed",
            test=str(after.test),
            incident=after.id,
            seconds=round(after.closed - after.began),
            **_tally(judgement),
        )


def _tally(judgement: Judgement) -> dict[str, str | int | None]:
    """Return the votes as facts of an event."""
    return {
        "votes": len(judgement.sites(Vote.FAILING)),
        "quorum": judgement.quorum,
        "failing": ",".join(judgement.nodes(Vote.FAILING)) or None,
        "passing": ",".join(judgement.nodes(Vote.PASSING)) or None,
        "abstaining": ",".join(judgement.nodes(Vote.ABSTAIN)) or None,
    }
