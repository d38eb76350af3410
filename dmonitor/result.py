"""From what a plugin did to a result (rule R1).

Pure: a wait status and some bytes in, an outcome and a line of text out.
"""

from __future__ import annotations

import os
import signal

from dmonitor import names
from dmonitor.model import Outcome

OUTPUT_LIMIT = 4 * names.TEXT_LIMIT  # bytes of a plugin's output that decide


def classify(status: int, output: bytes, complaint: bytes = b"") -> tuple[Outcome, str]:
    """Say what an ended plugin said: its wait STATUS, the first bytes it wrote to stdout, and to stderr (rule R1)."""
    words = first_line(output)
    word, _, text = words.partition(" ")
    if os.WIFSIGNALED(status):
        return Outcome.UNKNOWN, f"died of {_signal_name(os.WTERMSIG(status))}" + (f" after: {words}" if words else "")
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


def first_line(output: bytes) -> str:
    """Return the first line of OUTPUT as printable text, its white space folded."""
    return names.printable(" ".join(output.partition(b"\n")[0].decode("utf-8", "replace").split()))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
