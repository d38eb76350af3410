"""dmonitor.conf: the settings, and the default of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.config.files import read_lines
from dmonitor.config.problems import Problems, did_you_mean, quoted

PORT = 2929


class Settings(NamedTuple):
    """dmonitor.conf, each with its default; dmonitor.conf(5) has the table."""

    quorum: int = 2
    confirm: int = 1
    listen: tuple[str, ...] = ()
    port: int = PORT
    sender: str = "dmonitor"
    sendmail: str = "/usr/sbin/sendmail"
    concurrency: int = 2000
    flapping: bool = True
    remind: float = 0.0  # seconds between reminders; 0 is never
    name: str = ""


_Value = int | float | str | tuple[str, ...]


def load_settings(directory: str, problems: Problems) -> Settings:
    """Read dmonitor.conf; a setting with a mistake in it keeps its default."""
    path = f"{directory}/dmonitor.conf"
    values: dict[str, _Value] = {}
    for number, line in enumerate(read_lines(path, problems, optional=True), 1):
        line = line.strip()
        if not line or line[0] in "#;" or line == "[dmonitor]":
            continue
        key, is_set, value = (part.strip() for part in line.partition("="))
        if not is_set:
            problems.error(path, f"{quoted(line)} is not KEY = VALUE", number)
        elif key not in _SETTINGS:
            problems.error(path, f"unknown key {quoted(key)}{did_you_mean(key, _SETTINGS)}", number)
        else:
            field, read = _SETTINGS[key]
            if field in values:
                problems.warning(path, f"{key} is set twice; the last line counts", number)
            try:
                values.pop(field, None)
                values[field] = read(value)
            except ValueError as error:
                problems.error(path, f"{key} = {names.printable(value)}: {error}", number)
    return Settings()._replace(**values)  # type: ignore[arg-type]


def _checked(
    is_proper: Callable[[str], object], complaint: str, make: Callable[[str], _Value] = str
) -> Callable[[str], _Value]:
    def read(value: str) -> _Value:
        if not is_proper(value):
            raise ValueError(complaint)
        return make(value)

    return read


def whole_number(low: int, high: int) -> Callable[[str], _Value]:
    complaint = f"not a whole number from {low} to {high}"

    def is_proper(value: str) -> bool:  # a shell takes what begins with 0 for an octal number
        return (
            value.isascii()
            and value.isdigit()
            and value == str(int(value))
            and low <= int(value) <= high
        )

    return _checked(is_proper, complaint, int)


def _listen(value: str) -> tuple[str, ...]:
    import ipaddress

    addresses = tuple(value.replace(",", " ").split())
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise ValueError(f"{quoted(address)} is not an IPv4 or IPv6 address") from None
    return addresses


def _remind(value: str) -> float:
    for unit, seconds in (("min", 60), ("h", 3600), ("d", 86400)):
        number = value.removesuffix(unit).rstrip()
        if (
            value.endswith(unit)
            and number.isascii()
            and number.isdigit()
            and 600 <= int(number) * seconds <= 365 * 86400
        ):
            return float(int(number) * seconds)
    if value != "off":
        raise ValueError("neither off nor a time from 10min to 365d, such as 90min, 4h or 1d")
    return 0.0


_SETTINGS: dict[str, tuple[str, Callable[[str], _Value]]] = {
    "quorum": ("quorum", whole_number(1, 100)),
    "confirm": ("confirm", whole_number(1, 100)),
    "listen": ("listen", _listen),
    "port": ("port", whole_number(1, 65535)),
    "from": ("sender", _checked(names.is_address, "not a mail address")),
    "sendmail": (
        "sendmail",
        _checked(
            lambda value: value.startswith("/") and value.isprintable(), "not an absolute path"
        ),
    ),
    "concurrency": ("concurrency", whole_number(1, 10_000)),
    "name": ("name", _checked(names.is_node, "not a host name or an address")),
    "flapping": (
        "flapping",
        _checked(("on", "off").__contains__, "neither on nor off", "on".__eq__),
    ),
    "remind": ("remind", _remind),
}
