"""Read heartbeat.d: the URLs that are asked after each round of a node that can alert (rule R7).

A file NAME holds one URL. It may be a secret, so it is never shown.
"""

from __future__ import annotations

from collections.abc import Mapping

from dmonitor.base import names
from dmonitor.config.files import Entry, read_statements, scan_directory
from dmonitor.config.problems import Problems

DIRECTORY = "heartbeat.d"
_A_NAME = "a name; use ASCII letters, digits and . _ - only"
_FORM = "write the one URL that is to be asked, such as https://hc.example.com/ping/KEY"


def load_heartbeats(directory: str, problems: Problems) -> Mapping[str, str]:
    """Return the URL of each heartbeat, by its name; `directory`/heartbeat.d may be absent."""
    path = f"{directory}/{DIRECTORY}"
    found = {}
    for entry in scan_directory(path, problems, names.is_site, _A_NAME, optional=True):
        if not entry.is_file():
            problems.add_wrong_kind(entry.path, f"is not a file; {_FORM}")
        elif url := _load_url(entry, problems):
            found[entry.name] = url
    return found


def _load_url(entry: Entry, problems: Problems) -> str:
    """Return the URL in the file of `entry`; '' and a problem if there is none."""
    before = len(problems)
    lines = list(read_statements(entry.path, problems))
    if len(problems) > before:
        return ""
    if len(lines) != 1:
        problems.error(entry.path, f"has {names.pluralize(len(lines), 'line')}; {_FORM}")
        return ""
    if fault := _fault(lines[0].text):
        problems.error(entry.path, fault, lines[0].number)
        return ""
    return lines[0].text


def _fault(url: str) -> str:
    """Return what is wrong with `url`, or ''."""
    import urllib.parse

    if not url.isascii() or not url.isprintable() or " " in url:
        return f"is no URL: it has spaces or characters that are not ASCII; {_FORM}"
    try:
        parts = urllib.parse.urlsplit(url)
        is_complete = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError as error:
        return f"is no URL: {error}"
    if parts.scheme not in ("http", "https") or not is_complete:
        return f"is no URL that begins with https:// or http:// and a host; {_FORM}"
    return ""
