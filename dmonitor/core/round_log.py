"""What a round notes of its judgements and incidents, for whoever reads the log.

Pure: it says what is worth an event, and hands it to a Note.
"""

from __future__ import annotations

from typing import Protocol

from dmonitor.base import names
from dmonitor.core.model import Answer, Incident, Judgement, Outcome, Test, TestState, Vote


class Note(Protocol):
    """Log an event at `debug`, `info`, `warning`, `error` or `critical`."""

    def __call__(self, level: str, event: str, /, **facts: str | int | float | None) -> None: ...


def judgement(
    note: Note, test: Test, before: TestState, after: TestState, judged: Judgement
) -> None:
    """Log what a round concluded about TEST: every step where something changed, else only for who looks for a fault."""
    own = judged.answers[0]
    moved = after.verdict is not before.verdict or after.own_outcome is not before.own_outcome
    level = "info" if moved else "debug"
    if moved and after.own_outcome is Outcome.UNKNOWN:
        # A node that has only just been started is not untestable; if it stays so, that is a trouble.
        note(
            "info" if test.host == names.NODE else "warning",
            "untestable",
            test=str(test),
            text=own.text,
        )
    if len(judged.answers) > 1 or moved:
        if len(judged.answers) > 1:
            note(
                level,
                "asked",
                test=str(test),
                peers=",".join(answer.node.name for answer in judged.answers[1:]),
            )
        for answer in judged.answers[1:]:
            note(
                level,
                "answer",
                test=str(test),
                node=answer.node.name,
                sees=answer.seen,
                age=_age(answer),
                text=answer.text,
            )
        was = before.verdict.value
        note(
            level,
            "verdict",
            test=str(test),
            verdict=judged.verdict.value,
            was=was,
            **_tally(judged),
            text=own.text,
        )


def incident(note: Note, before: Incident | None, after: Incident, judged: Judgement) -> None:
    """Log that an incident has opened or closed."""
    if before is None:
        note("info", "incident-opened", test=str(after.test), incident=after.id, **_tally(judged))
    elif after.closed is not None:
        lasted = round(after.closed - after.began)
        note(
            "info",
            "incident-closed",
            test=str(after.test),
            incident=after.id,
            seconds=lasted,
            **_tally(judged),
        )


def _age(answer: Answer) -> float | None:
    return answer.age if answer.result else None


def _tally(judged: Judgement) -> dict[str, str | int | None]:
    return {
        "votes": len(judged.sites(Vote.FAILING)),
        "quorum": judged.quorum,
        "failing": ",".join(judged.nodes(Vote.FAILING)) or None,
        "passing": ",".join(judged.nodes(Vote.PASSING)) or None,
        "abstaining": ",".join(judged.nodes(Vote.ABSTAIN)) or None,
    }
