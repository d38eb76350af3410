"""From what a plugin did (rule R1), or what came of greeting a peer (rule R7), to a result.

Pure: a wait status and some bytes, or a Contact, in; an outcome and a line of text out.
"""

from __future__ import annotations

import os

from dmonitor.base import names
from dmonitor.core import election
from dmonitor.core.model import Contact, Outcome, Result

STALE, STALE_ROUNDS = (
    300.0,
    3,
)  # seconds, at least, and intervals that a peer's last finished round may be old
MEASURED = 3  # rounds of which an interval must be measured for that
MISTAKEN = Result(Outcome.UNKNOWN, "mistakes in the test's file: see dmonitor-check -t")
OUTPUT_LIMIT = 4 * names.TEXT_LIMIT  # bytes of a plugin's output that decide


def classify(status: int, output: bytes, complaint: bytes = b"") -> tuple[Outcome, str]:
    """Say what an ended plugin said: its wait STATUS, the first bytes it wrote to stdout, and to stderr (rule R1)."""
    words = first_line(output)
    word, _, text = words.partition(" ")
    if os.WIFSIGNALED(status):
        return Outcome.UNKNOWN, f"died of {_signal_name(os.WTERMSIG(status))}" + (
            f" after: {words}" if words else ""
        )
    if word in ("OK", "FAIL"):
        return Outcome[word], text.strip()
    if word == "UNKNOWN" and text:
        return Outcome.UNKNOWN, text.strip()
    reason = f"says neither OK nor FAIL: {words}" if words else "said nothing"
    if word.strip(":-,.").upper() in ("OK", "FAIL"):
        reason = f"the first word must be OK or FAIL, and is '{word}': {words}"
    if not words and (said := first_line(complaint)):
        reason += f"; stderr: {said}"
    return Outcome.UNKNOWN, f"{reason} (exit {os.WEXITSTATUS(status)})"


def of_contact(contact: Contact, own_id: str, duration: float = 0.0) -> Result:
    """Say how a peer is: there, and its checker at work? Whatever ails the node that looks, OWN_ID, is no fault of the peer's.

    Of a checker that is late, and not yet stale, nobody can tell: a node that is just back neither passes nor fails before its
    first round.
    """
    if contact.statement is None:
        unsure, ours = (
            contact.unable or contact.cloned,
            contact.node_id == own_id,
        )  # of a clone's checker we hear nothing
        outcome = Outcome.UNKNOWN if unsure else Outcome.OK if ours else Outcome.FAIL
        return Result(outcome, contact.reason, duration)
    status = contact.statement.status
    age = status.at - status.finished
    if age <= election.living_limit(status):
        return Result(Outcome.OK, f"last round {age:.0f} s ago", duration)
    if age == float("inf"):
        return Result(Outcome.UNKNOWN, "its checker has not finished a round yet", duration)
    stale = age > max(STALE, STALE_ROUNDS * 60.0 * status.interval) and status.rounds >= MEASURED
    late = f"its checker has finished no round for {age / 60:.0f} min; they were {status.interval} min apart"
    return Result(
        Outcome.FAIL if stale else Outcome.UNKNOWN, f"its daemon answers, but {late}", duration
    )


def first_line(output: bytes) -> str:
    """Return the first line of OUTPUT as printable text, its white space folded."""
    return names.printable(" ".join(output.partition(b"\n")[0].decode("utf-8", "replace").split()))


def _signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
