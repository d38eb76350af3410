"""Warnings that a caller can cause as often as it likes: each is logged once a minute at most."""

from __future__ import annotations

from dmonitor.base import clock, log

REPEAT_SECONDS = 60.0  # before a warning about the same subject is logged again
_SUBJECTS_LIMIT = 1_000  # after which a stranger is no longer logged


class LimitedLog:
    """Knows the subjects of which a warning was logged within the last minute."""

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}  # when, in uptime

    def warning(self, subject: str, event: str, **facts: log.Value) -> None:
        """Log `event`, unless a warning about `subject` was logged within the last minute."""
        now = clock.uptime()
        if now - self._logged.get(subject, float("-inf")) < REPEAT_SECONDS:
            return
        self._forget(now)
        # Strangers may be without number; they must not keep other warnings out of the log.
        if len(self._logged) < _SUBJECTS_LIMIT or event != "stranger":
            self._logged[subject] = now
            log.warning(event, **facts)

    def _forget(self, now: float) -> None:
        self._logged = {
            subject: logged
            for subject, logged in self._logged.items()
            if now - logged < REPEAT_SECONDS
        }
