"""Tell somebody outside that this node can alert: ask the URLs in heartbeat.d (rule R7).

If all nodes are dead, no node can say so. Whoever is asked then, and is not any more, can.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from dmonitor import __version__
from dmonitor.base import clock, log

_PATIENCE = 8.0  # seconds for all of them together
_AGENT = f"dmonitor/{__version__}"


def start(urls: Mapping[str, str]) -> None:
    """Have a process of its own ask each of `urls`; no round waits for it."""
    try:
        if os.fork():
            return
    except OSError as error:
        log.warning("heartbeat-lost", reason=error.strerror)
        return
    try:
        beat(urls)
    finally:
        os._exit(0)


def beat(urls: Mapping[str, str]) -> None:
    """Ask each of `urls`, all at the same time; log which could not be asked, and why.

    The URLs are not logged, because a URL may be a secret.
    """
    import threading

    reasons: dict[str, str] = {}
    threads = []
    for name, url in urls.items():
        reasons[name] = "no answer in time"
        thread = threading.Thread(target=_ask, args=(name, url, reasons), daemon=True)
        threads.append(thread)
        thread.start()
    deadline = clock.uptime() + _PATIENCE
    for thread in threads:
        thread.join(max(0.0, deadline - clock.uptime()))
    for name, reason in dict(reasons).items():
        if reason:
            log.warning("heartbeat-lost", name=name, reason=reason)
        else:
            log.debug("heartbeat", name=name)


def _ask(name: str, url: str, reasons: dict[str, str]) -> None:
    import http.client
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, headers={"User-Agent": _AGENT})
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            answer.read(1)
        reasons[name] = ""
    except urllib.error.HTTPError as error:
        reasons[name] = f"{error.code} {error.reason}"
    except urllib.error.URLError as error:
        reasons[name] = getattr(error.reason, "strerror", None) or str(error.reason)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reasons[name] = repr(error)
