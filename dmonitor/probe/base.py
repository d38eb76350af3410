"""Run a plugin's look, and say the one word that came of it (rule R1).

Only a look that ends says OK, and only `Fail` says FAIL. Whatever else ends a look is this node's
own fault, or a mistake in the plugin, and therefore UNKNOWN: an exception, no memory, no process.

A plugin in whole:

    #!/usr/bin/python3 -IS
    # banner: something speaks first.
    #: PORT: where
    import sys
    sys.path.append("/usr/lib/python3/dist-packages")
    from dmonitor.probe import base

    def look(probe):
        with probe.connect(probe.port()) as connection:
            return connection.line()

    base.run(look)
"""

from __future__ import annotations

import posix
import sys

from dmonitor.base import clock
from dmonitor.probe.outcome import Deadline
from dmonitor.probe.outcome import Fail as Fail
from dmonitor.probe.outcome import Unknown as Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module `typing` takes longer to load than a look does
    from collections.abc import Callable

    from dmonitor.probe.connection import Connection

SECONDS = 8  # for a look without TIMEOUT
# From the start of the plugin. A plugin that takes 10 seconds is killed, and could not say why.
_LAST_SECOND = 9.4
_LOOKUP_SECONDS = 6.5
_TEXT_CHARACTERS = 400


class Probe:
    """The host, the parameters and the time of one look."""

    def __init__(self, host: str, parameters: dict[str, str], begin: float) -> None:
        self.host = host
        self._parameters = parameters
        self._begin = begin  # of the plugin, in uptime
        self._addresses: list[tuple[int, str]] | None = None  # (family, address)
        self.deadline = self._deadline(begin)

    def text(self, name: str, default: str = "") -> str:
        """Return the parameter `name`; an empty one counts as not given."""
        return self._parameters.get(name) or default

    def number(self, name: str, default: int, largest: int = 65535) -> int:
        """Return the parameter `name` as a number from 0 to `largest`."""
        text = self.text(name, str(default))
        if not (text.isascii() and text.isdigit() and int(text) <= largest):
            raise Unknown(f"{name}={text} is no number from 0 to {largest}")
        return int(text)

    def is_set(self, name: str) -> bool:
        """Return whether the parameter `name` is yes; no, and none, are False."""
        text = self.text(name, "no")
        if text not in ("yes", "no"):
            raise Unknown(f"{name}={text} is neither yes nor no")
        return text == "yes"

    def port(self, default: int | None = None) -> int:
        if default is None and not self.text("PORT"):
            raise Unknown("which port? write PORT=NUMBER into the test's file")
        return self.number("PORT", default or 0)

    def _deadline(self, begin: float) -> Deadline:
        """Return when a look ends whose host is asked from `begin` on."""
        seconds = min(self.number("TIMEOUT", SECONDS), 9)
        return Deadline(min(begin + seconds, self.last_moment()), seconds)

    def last_moment(self) -> float:
        """Return when the plugin has to end in any case, in uptime."""
        return self._begin + _LAST_SECOND

    def family(self) -> int:
        """Return 4 or 6 if FAMILY wants that version of IP only; otherwise 0."""
        family = self.text("FAMILY", "any")
        if family not in ("4", "6", "any"):
            raise Unknown(f"FAMILY={family} is none of 4, 6 and any")
        return 0 if family == "any" else int(family)

    def addresses(self, version: int = 0) -> list[tuple[int, str]]:
        """Return the addresses of the host, each with its family; look them up once.

        ADDRESS stands in for all of them: the host keeps its name, and none is looked up.
        `version` is 4 or 6 for such addresses only; without it, FAMILY says which. The time of the
        look begins when they are known.
        """
        if self._addresses is None:
            from dmonitor.probe import lookup

            patience = self._begin + _LOOKUP_SECONDS - clock.uptime()
            where = self.text("ADDRESS", self.host)
            if where != self.host and lookup.is_address(self.host):
                raise Unknown("ADDRESS is for a host with a name, and this one is an address")
            self._addresses = lookup.addresses(where, version or self.family(), patience)
            self.deadline = self._deadline(clock.uptime())
        return self._addresses

    def server_name(self) -> str | None:
        """Return the name that a certificate is wanted for; None if HOST is an address."""
        from dmonitor.probe import lookup

        return None if lookup.is_address(self.host) else self.host.rstrip(".")

    def own_name(self) -> bytes:
        """Return the name with which this node introduces itself to a mail server."""
        return posix.uname().nodename.encode()

    def connect(self, port: int) -> Connection:
        """Return a TCP connection to the first address of the host that takes one."""
        from dmonitor.probe import connection

        addresses = self.addresses()
        return connection.connect(addresses, port, self.deadline)


def run(look: Callable[[Probe], str | bytes], host: str | None = None) -> None:
    """Let `look` look at the host, and print what came of it.

    Without `host`, it is the one argument of the plugin.
    """
    try:
        said = _line(*_outcome(look, host))
    except MemoryError:
        said = b"UNKNOWN this node has no memory left\n"
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is not the host's fault
        said = _line("UNKNOWN", f"the plugin broke: {error!r}")
    try:
        posix.write(1, said)
    except OSError:
        posix._exit(1)  # nobody reads it
    posix._exit(0)


def _outcome(look: Callable[[Probe], str | bytes], host: str | None) -> tuple[str, str | bytes]:
    begin = clock.uptime()
    try:
        parameters = {}
        for name, value in posix.environ.items():
            parameters[name.decode("ascii", "replace")] = value.decode("utf-8", "replace")
        if host is None and len(sys.argv) != 2:
            raise Unknown("a plugin has one argument: HOST")
        return "OK", look(Probe(sys.argv[1] if host is None else host, parameters, begin))
    except Fail as fault:
        return "FAIL", str(fault)
    except Unknown as fault:
        return "UNKNOWN", str(fault)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return "UNKNOWN", f"this node: {where}{error.strerror or repr(error)}"


def _line(word: str, text: str | bytes) -> bytes:
    """Return the one line that a plugin prints."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    line = " ".join([word, *text.split()])
    return line[:_TEXT_CHARACTERS].encode("utf-8", "replace") + b"\n"
