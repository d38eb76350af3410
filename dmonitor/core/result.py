"""Make a result of what a plugin did (rule R1), or of what came of greeting a peer (rule R7).

Pure: a wait status and some bytes, or a Contact, in; an outcome and a line of text out. Starting
the plugin and greeting the peer are done elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from dmonitor.base import names
from dmonitor.core import election
from dmonitor.core.model import Contact, Judgement, NodeStatus, Outcome, Result, Test

SECOND_LOOK_PAUSE = 2.0  # seconds from the end of a first look that failed to the second look
SLOW_LOOK = 4.0  # seconds that a first look may run before the second one begins beside it

# A peer's checker is stale if its last round ended longer ago than both of these. A node whose cron
# is changed from one minute to five states the new interval only after some such rounds, and each
# may begin a minute later in its interval than the last one, and take 55 seconds longer.
STALE_SECONDS = 420.0
STALE_INTERVALS = 3  # of the peer's own rounds
MEASURED_ROUNDS = 3  # from which an interval must be measured before a checker can be stale
MISTAKEN = Result(
    Outcome.UNKNOWN, "the test's file cannot be read, or has mistakes: see dmonitor-check -t"
)
FAILING = (Outcome.FAIL, Outcome.TIMEOUT)  # after these outcomes a test is looked at again
OUTPUT_LIMIT = 4 * names.TEXT_LIMIT  # bytes of a plugin's output that are looked at
_OUTCOME_WORDS = ("OK", "FAIL")
# Words by which monitoring plugins say their outcome, such as `SSH OK - OpenSSH_9.2p1`. They do so
# in the first words, but their exit status is what counts.
_MONITORING_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
_MONITORING_PLACES = 3  # words of a line in which such a word is looked for


def classify(status: int, output: bytes, complaint: bytes = b"") -> tuple[Outcome, str]:
    """Return the outcome and the text of a plugin that has ended (rule R1).

    `status` is its wait status; `output` is the beginning of what it wrote to stdout, and
    `complaint` the beginning of what it wrote to stderr, and the end.
    """
    line = first_line(output)
    word, _, text = line.partition(" ")
    if os.WIFSIGNALED(status):
        reason = f"died of {_signal_name(os.WTERMSIG(status))}"
        if line:
            reason += f" after: {line}"
        return Outcome.UNKNOWN, reason
    if word in _OUTCOME_WORDS:
        return Outcome[word], text.strip()
    if word == "UNKNOWN" and text:
        return Outcome.UNKNOWN, text.strip()
    reason = _why_no_outcome(word, line, _telling_line(complaint))
    return Outcome.UNKNOWN, f"{reason} (exit {os.WEXITSTATUS(status)})"


def _why_no_outcome(word: str, line: str, complaint: str) -> str:
    """Return why a plugin's `line` is no outcome; `word` is its first word."""
    if not line:
        if complaint:
            return f"said nothing; stderr: {complaint}"
        return "said nothing"
    if word.strip(":-,.").upper() in _OUTCOME_WORDS:
        return f"the first word must be OK or FAIL, and is '{word}': {line}"
    hint = ""
    if any(each.strip(":-,.") in _MONITORING_WORDS for each in line.split()[:_MONITORING_PLACES]):
        hint = " (if it is a monitoring plugin: see wrap in dmonitor-plugin(7))"
    return f"says neither OK nor FAIL{hint}: {line}"


def _telling_line(complaint: bytes) -> str:
    """Return the line of `complaint` that says what is wrong: in general the first one.

    Python says where an exception was raised, in a headline and lines that are indented, before it
    says which one. A mistake in the syntax has no headline.
    """
    lines = complaint.strip(b"\n").split(b"\n")
    if lines[0].startswith((b"Traceback ", b"  File ")):
        indented = [number for number, line in enumerate(lines) if line[:1].isspace()]
        lines = lines[indented[-1] + 1 :] or lines if indented else lines
    return first_line(lines[0])


def of_contact(contact: Contact, own_node_id: str, duration: float = 0.0) -> Result:
    """Return how a peer is: whether it is there, and whether its checker is at work (rule R7).

    A fault of the node that looks, which has the id `own_node_id`, is no fault of the peer. A
    checker that is late but not yet stale is UNKNOWN: a node that has just come back neither passes
    nor fails before its first round.
    """
    if contact.statement is None:
        outcome = _outcome_without_statement(contact, own_node_id)
        return Result(outcome, contact.reason, duration)
    status = contact.statement.status
    age = status.at - status.finished
    if age <= election.living_limit(status):
        return Result(Outcome.OK, f"last round {age:.0f} s ago", duration)
    if age == float("inf"):
        return Result(Outcome.UNKNOWN, "its checker has not finished a round yet", duration)
    outcome = Outcome.FAIL if _is_stale(status, age) else Outcome.UNKNOWN
    late = f"its checker has finished no round for {age / 60:.0f} min"
    text = f"its daemon answers, but {late}; they were {status.interval} min apart"
    return Result(outcome, text, duration)


def event_facts(test: Test, result: Result) -> dict[str, str | float]:
    """Return the facts of an event about one look at `test`."""
    return {
        "test": str(test),
        "result": result.outcome.value,
        "seconds": result.duration,
        "text": result.text,
    }


def of_two_looks(first: Result | None, last: Result) -> Result:
    """Return the result of a test after its `last` look; `first` is a first look that failed.

    The last look decides (R1). If it does not fail, its text says that the first one did.
    """
    if first is None or last.outcome in FAILING:
        return last
    # Both are cut, so that a line of names.TEXT_LIMIT characters has room for them.
    last_text = names.printable(last.text, 120)
    first_text = names.printable(first.text or first.outcome.value, 90)
    return last._replace(text=f"{last_text} (a first look failed: {first_text})".lstrip())


def slow_tests(judgements: Mapping[Test, Judgement]) -> tuple[Test, ...]:
    """Return the tests whose plugins pass here, and took longer than SLOW_LOOK, in order.

    In the next round nothing follows from that they are slow, because they may always be (R1).
    """
    slow = []
    for test, judgement in judgements.items():
        own_result = judgement.answers[0].result
        if test.host == names.NODE or own_result is None:
            continue
        if own_result.outcome is Outcome.OK and own_result.duration > SLOW_LOOK:
            slow.append(test)
    return tuple(sorted(slow))


def _outcome_without_statement(contact: Contact, own_node_id: str) -> Outcome:
    # A clone has our own id, and we hear nothing of its checker.
    if contact.unable or contact.cloned:
        return Outcome.UNKNOWN
    if contact.node_id == own_node_id:
        return Outcome.OK
    return Outcome.FAIL


def _is_stale(status: NodeStatus, age: float) -> bool:
    """Return whether a round that ended `age` seconds ago is too old to be the last one."""
    limit = max(STALE_SECONDS, STALE_INTERVALS * 60.0 * status.interval)
    # If all nodes were off, each of them is back before another one has finished a round.
    missed = min(age, status.up)
    return missed > limit and status.rounds >= MEASURED_ROUNDS


def first_line(output: bytes) -> str:
    """Return the first line of `output` as printable text with single spaces."""
    line, _, _ = output.partition(b"\n")
    words = line.decode("utf-8", "replace").split()
    return names.printable(" ".join(words))


def _signal_name(number: int) -> str:
    import signal  # rarely needed, so not loaded by every round

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
