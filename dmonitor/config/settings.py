"""Read dmonitor.conf: the settings, each with a default.

A setting with a mistake keeps its default, and so costs no other setting. dmonitor.conf(5) explains
them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.config.files import read_assignments
from dmonitor.config.problems import Problems, did_you_mean, quoted
from dmonitor.config.times import duration
from dmonitor.core.model import TROUBLES_GO

PORT = 2929


class Settings(NamedTuple):
    """The settings in dmonitor.conf."""

    quorum: int = 2  # sites that must see a test fail
    confirm: int = 1  # DOWN verdicts in a row before an incident opens
    listen: tuple[str, ...] = ()  # addresses of the daemon; none means all
    port: int = PORT
    sender: str = ""  # the address in From; "" means that of dmonitor at this machine
    sendmail: str = "/usr/sbin/sendmail"
    concurrency: int = 2000  # plugins that run at the same time
    flapping: bool = True  # whether a test that flaps gets fewer mails
    remind: float = 0.0  # seconds between reminders; 0 means none
    name: str = ""  # of this node's line in nodes.txt; "" means it is recognised by its addresses
    # Seconds after cron's start at which a round begins; None: the nodes take turns (R10).
    offset: float | None = None
    troubles: str = "alert"  # where this node's own troubles go: see model.TROUBLES_GO


_Value = int | float | str | tuple[str, ...]


def load_settings(directory: str, problems: Problems) -> Settings:
    """Read dmonitor.conf in `directory`, which may be absent."""
    path = f"{directory}/dmonitor.conf"
    values: dict[str, _Value] = {}
    for line in read_assignments(path, problems, comment_marks="#;", optional=True):
        if line.text == "[dmonitor]":
            continue
        if line.value is None:
            problems.error(path, f"{quoted(line.text)} is not KEY = VALUE", line.number)
            continue
        if line.key not in _SETTINGS:
            hint = did_you_mean(line.key, _SETTINGS)
            problems.error(path, f"unknown key {quoted(line.key)}{hint}", line.number)
            continue
        field, read = _SETTINGS[line.key]
        if field in values:
            text = f"{line.key} is set twice; the last line counts"
            problems.warning(path, text, line.number)
            del values[field]
        try:
            values[field] = read(line.value)
        except ValueError as error:
            text = f"{line.key} = {names.printable(line.value)}: {error}"
            problems.error(path, text, line.number)
    return Settings()._replace(**values)  # type: ignore[arg-type]


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return a function that reads a whole number, and raises ValueError if it is out of range."""

    def read(value: str) -> int:
        if value.isascii() and value.isdigit():
            number = int(value)
            # A leading 0 is refused, because a shell takes such a number for an octal one.
            if value == str(number) and low <= number <= high:
                return number
        raise ValueError(f"not a whole number from {low} to {high}")

    return read


def _listen(value: str) -> tuple[str, ...]:
    import ipaddress

    addresses = tuple(value.replace(",", " ").split())
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise ValueError(f"{quoted(address)} is not an IPv4 or IPv6 address") from None
    return addresses


def _sender(value: str) -> str:
    if value and not names.is_address(value):
        raise ValueError("not a mail address")
    return value


def _absolute_path(value: str) -> str:
    if not value.startswith("/") or not value.isprintable():
        raise ValueError("not an absolute path")
    return value


def _node_name(value: str) -> str:
    if not names.is_node(value):
        raise ValueError("not a host name or an address")
    return value


def _switch(value: str) -> bool:
    if value not in ("on", "off"):
        raise ValueError("neither on nor off")
    return value == "on"


def _troubles(value: str) -> str:
    if value not in TROUBLES_GO:
        raise ValueError("neither alert, root nor log")
    return value


_read_reminder = duration("10min", "365d")


def _reminder(value: str) -> float:
    """Return the seconds between two reminders, such as 14400 for `4h`; 0 for `off`."""
    if value == "off":
        return 0.0
    try:
        return float(_read_reminder(value))
    except ValueError as error:
        raise ValueError(f"neither off nor {str(error).removeprefix('not ')}") from None


# The keys in dmonitor.conf that belong to one node. The others are meant to be alike on all.
PER_NODE = ("name", "listen", "offset")
# Key in dmonitor.conf: field of Settings, and the function that reads the value.
_SETTINGS: dict[str, tuple[str, Callable[[str], _Value]]] = {
    "quorum": ("quorum", whole_number(1, 100)),
    "confirm": ("confirm", whole_number(1, 100)),
    "listen": ("listen", _listen),
    "port": ("port", whole_number(1, 65535)),
    "from": ("sender", _sender),
    "sendmail": ("sendmail", _absolute_path),
    "concurrency": ("concurrency", whole_number(1, 10_000)),
    "offset": ("offset", whole_number(0, 59)),
    "name": ("name", _node_name),
    "flapping": ("flapping", _switch),
    "remind": ("remind", _reminder),
    "troubles": ("troubles", _troubles),
}
