"""What is known of the cron that has started this process."""

from __future__ import annotations

import os


def is_known_to_mail() -> bool:
    """Return whether what this process prints is mailed, as far as its environment says.

    Cron sets MAILTO to whom it mails. A job of systemd writes to the journal; of those, Debian 12's
    systemd-cron mails nothing unless they fail.
    """
    return bool(os.environ.get("MAILTO")) and "JOURNAL_STREAM" not in os.environ
