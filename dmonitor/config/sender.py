"""Find out from whom mail comes if dmonitor.conf does not say so: from dmonitor at this machine.

The address always has a domain. Some mail systems complete none, and smart hosts refuse what has
none.
"""

from __future__ import annotations

import os

from dmonitor.base import names
from dmonitor.config import resolve
from dmonitor.config.files import read_lines
from dmonitor.config.problems import Problems

_USER = "dmonitor"
_MAILNAME = "/etc/mailname"  # the domain of this machine's mail, where there is a Debian


def default_sender(node: str) -> str:
    """Return the address of dmonitor at this machine, which is the node of this name.

    Its domain is the mail name of the machine, with which its mail system completes addresses; else
    the name of the node, if that is no address; else the host name.
    """
    host = os.uname().nodename
    candidates = [line.strip() for line in read_lines(_MAILNAME, Problems())[:1]]
    candidates += [node, host]
    for domain in candidates:
        if "." in domain and not resolve.is_address(domain):
            sender = f"{_USER}@{domain}"
            if names.is_address(sender):
                return sender
    sender = f"{_USER}@{host}"
    if names.is_address(sender):
        return sender
    return f"{_USER}@localhost"
