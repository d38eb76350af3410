"""Read the files an operator touches: nodes.txt, hosts.d, alert.d, silence.d, dmonitor.conf, key.

Every function returns what is right and appends a Problem for what is not, so that one bad file never costs
another its test or its mail. Nothing here is written, run or resolved; `audit` looks further.
"""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from dmonitor.base import log, names, user
from dmonitor.core.model import Node, Silence, Test

Keys = (
    tuple[bytes, ...] | None
)  # the one that is used first; none where what there is cannot be used; None without any
Tests = Mapping[
    Test, Mapping[str, str] | None
]  # each test's parameters; None where its file has mistakes

PORT = 2929
NO_KEY = "whoever can call from a node's address is believed to be that node"
MAKE_KEY = f"no key: {NO_KEY}; `dmonitor key new` makes one on the first node, `dmonitor key set` takes it on the others"
KEY_FILES = ("key", "key.old")
FAR = 9e8  # seconds, which is 28 years, and less than `values.AGE`, that a silence may last
_FILE_LIMIT = 1_000_000  # bytes of a configuration file that are read


class Severity(enum.Enum):
    """An ERROR is something that does not do what it was written for; a WARNING is only suspicious."""

    ERROR = "error"
    WARNING = "warning"


class Problem(NamedTuple):
    """One mistake of the operator's: where it is, and what is wrong with it."""

    severity: Severity
    path: str
    text: str
    line: int | None = None

    def __str__(self) -> str:
        place = names.printable(self.path) + (f":{self.line}" if self.line else "")
        return f"{self.severity.value}: {place}: {self.text}"


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


class Config(NamedTuple):
    """All that an operator configured; `problems` has what could not be used.

    Where something could not even be looked at, the rest is not `complete`: what is missing may well be there.
    """

    directory: str
    settings: Settings
    nodes: tuple[Node, ...]
    tests: Tests
    addresses: tuple[str, ...]
    problems: tuple[Problem, ...]
    complete: bool = True
    keys: Keys = None
    silences: tuple[Silence, ...] = ()  # `until` in seconds since the epoch; those that ended, too

    def plugin(self, test: Test) -> str:
        return f"{self.directory}/plugins/{test.plugin}"

    def hook(self, address: str) -> str:
        return f"{self.directory}/alert.d/{address.removeprefix(names.HOOK)}"


class Problems(list[Problem]):
    """What was found, in order."""

    unreadable = False

    def error(self, path: str, text: str, line: int | None = None) -> None:
        self.append(Problem(Severity.ERROR, path, text, line))

    def warning(self, path: str, text: str, line: int | None = None) -> None:
        self.append(Problem(Severity.WARNING, path, text, line))

    def failed(self, path: str, error: OSError) -> None:
        self.unreadable = True
        who = f" for user {user.name()}" if isinstance(error, PermissionError) else ""
        self.error(path, (error.strerror or str(error)) + who)


def load(directory: str) -> Config:
    """Read everything below DIRECTORY; what cannot be read is a problem, never an exception."""
    problems = Problems()
    settings = load_settings(directory, problems)
    nodes = load_nodes(directory, problems)
    problems.unreadable &= os.path.lexists(
        f"{directory}/nodes.txt"
    )  # without it there are no nodes
    tests = load_tests(directory, problems)
    addresses = _addresses(f"{directory}/alert.d", problems)
    complete = not problems.unreadable
    keys = load_keys(directory, problems)
    silences = tuple(load_silences(directory, problems, tests if complete else None, nodes))
    return Config(
        directory, settings, nodes, tests, addresses, tuple(problems), complete, keys, silences
    )


def log_problems(problems: Iterable[Problem]) -> None:
    """Have syslog say what is wrong."""
    for problem in problems:
        log.warning("misconfigured", path=problem.path, line=problem.line, reason=problem.text)


def line_of(directory: str, node: str) -> int | None:
    """Return the number of NODE's line in nodes.txt."""
    lines = _read(f"{directory}/nodes.txt", Problems())
    return next(
        (number for number, line in enumerate(lines, 1) if line.split()[:1] == [node]), None
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the closest known word, or nothing."""
    import difflib

    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _quoted(name: str) -> str:
    return f"'{names.printable(name)}'"


def _read(path: str, problems: Problems, *, optional: bool = False) -> list[str]:
    """Return the lines of a text file; one that is unreadable, or absent and not OPTIONAL, is a problem, and has none."""
    try:
        with open(
            path, "rb", buffering=0
        ) as file:  # most are empty, and a text file takes three times as long to open
            return file.read(_FILE_LIMIT).decode("utf-8", "replace").splitlines()
    except OSError as error:
        if not (optional and isinstance(error, FileNotFoundError)):
            problems.failed(path, error)
        return []


class _Entry(NamedTuple):
    """What is in a directory: its name and path, its mode, links followed, and the size of a file in bytes.

    Of a dangling link the mode is 0, of a directory it has the type alone.
    """

    name: str
    path: str
    mode: int
    size: int = 0


def _entries(
    directory: str,
    problems: Problems,
    is_proper: Callable[[str], object],
    what: str,
    *,
    optional: bool = False,
) -> Iterator[_Entry]:
    """Yield what is in DIRECTORY and counts, in order.

    A name that is not IS_PROPER is a problem, for it is not WHAT; so is what cannot be looked at, and a directory that is absent
    and not OPTIONAL.
    """
    listed: list[os.DirEntry[str]] = []
    try:
        with os.scandir(directory) as found:
            listed = sorted(
                (each for each in found if not names.is_ignored_file(each.name)),
                key=lambda each: each.name,
            )
    except OSError as error:
        if not (optional and isinstance(error, FileNotFoundError)):
            problems.failed(directory, error)
    for each in listed:
        try:
            if not is_proper(each.name):
                problems.error(each.path, f"{_quoted(each.name)} is not {what}")
            elif each.is_dir(follow_symlinks=False):  # known without another look
                yield _Entry(each.name, each.path, stat.S_IFDIR)
            else:
                status = os.stat(each.path)
                yield _Entry(each.name, each.path, status.st_mode, status.st_size)
        except FileNotFoundError:
            if os.path.lexists(each.path):
                yield _Entry(each.name, each.path, 0)
        except OSError as error:
            problems.failed(each.path, error)


# dmonitor.conf

_Value = int | float | str | tuple[str, ...]


def load_settings(directory: str, problems: Problems) -> Settings:
    """Read dmonitor.conf; a setting with a mistake in it keeps its default."""
    path = f"{directory}/dmonitor.conf"
    values: dict[str, _Value] = {}
    for number, line in enumerate(_read(path, problems, optional=True), 1):
        line = line.strip()
        if not line or line[0] in "#;" or line == "[dmonitor]":
            continue
        key, is_set, value = (part.strip() for part in line.partition("="))
        if not is_set:
            problems.error(path, f"{_quoted(line)} is not KEY = VALUE", number)
        elif key not in _SETTINGS:
            problems.error(
                path, f"unknown key {_quoted(key)}{did_you_mean(key, _SETTINGS)}", number
            )
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


def _whole(low: int, high: int) -> Callable[[str], _Value]:
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
            raise ValueError(f"{_quoted(address)} is not an IPv4 or IPv6 address") from None
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
    "quorum": ("quorum", _whole(1, 100)),
    "confirm": ("confirm", _whole(1, 100)),
    "listen": ("listen", _listen),
    "port": ("port", _whole(1, 65535)),
    "from": ("sender", _checked(names.is_address, "not a mail address")),
    "sendmail": (
        "sendmail",
        _checked(
            lambda value: value.startswith("/") and value.isprintable(), "not an absolute path"
        ),
    ),
    "concurrency": ("concurrency", _whole(1, 10_000)),
    "name": ("name", _checked(names.is_node, "not a host name or an address")),
    "flapping": (
        "flapping",
        _checked(("on", "off").__contains__, "neither on nor off", "on".__eq__),
    ),
    "remind": ("remind", _remind),
}


# nodes.txt


def load_nodes(directory: str, problems: Problems) -> tuple[Node, ...]:
    """Read nodes.txt."""
    path = f"{directory}/nodes.txt"
    nodes: dict[str, Node] = {}
    for number, line in enumerate(_read(path, problems), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, site = words[0], words[1] if len(words) > 1 else words[0]
        if not names.is_node(name):
            problems.error(
                path,
                f"{_quoted(name)} is not a host name or an address; a line reads NODE [SITE]",
                number,
            )
        elif not names.is_site(site) and site != name:
            problems.error(
                path, f"{_quoted(site)} is not a site: letters, digits and . _ - only", number
            )
        elif len(words) > 2:
            problems.error(
                path, f"{_quoted(words[2])} behind the site: a line reads NODE [SITE]", number
            )
        elif name in nodes:
            problems.warning(path, f"{name} is listed twice; the first line counts", number)
        else:
            nodes[name] = Node(name, site)
    return tuple(nodes.values())


# hosts.d


_HOST_NAME = "a host name: ASCII letters, digits and . _ - : only, no space"
_TEST_NAME = "a test: NAME or NAME:SUFFIX of ASCII letters, digits and . _ -"


def load_tests(directory: str, problems: Problems) -> Tests:
    """Read hosts.d."""
    tests: dict[Test, Mapping[str, str] | None] = {}
    for name, path, mode, _ in _entries(
        f"{directory}/hosts.d", problems, names.is_subject, _HOST_NAME
    ):
        if name == names.NODE:
            problems.error(path, "the host name 'node' is reserved for dmonitor's own nodes")
        elif not stat.S_ISDIR(mode):
            problems.unreadable |= not mode
            problems.error(
                path, "not a directory: a host is a directory, its tests are the files in it"
            )
        else:
            tests.update(_tests_of(name, path, problems))
    return tests


def _tests_of(
    host: str, path: str, problems: Problems
) -> Iterator[tuple[Test, Mapping[str, str] | None]]:
    for name, file, mode, size in _entries(path, problems, names.is_test, _TEST_NAME):
        if stat.S_ISREG(mode):
            suffix = name.partition(":")[2]
            defaults = {"PORT": suffix} if suffix.isdigit() else {}
            if defaults and (fault := _fault(_NUMBERS["PORT"], suffix)):
                problems.error(file, f"the port {suffix} is {fault}")
                yield Test(host, name), None
            else:
                yield Test(host, name), _parameters(file, defaults, problems) if size else defaults
        else:
            what = "not a file" if mode else "a dangling link"
            problems.error(file, f"{what}: a test is a file, empty or with KEY=VALUE lines")
            if not mode:  # it is still meant to be there, and its incident goes on
                yield Test(host, name), None


# What means the same in every plugin; one that ran longer than TIMEOUT allows would be killed, and say nothing.
_NUMBERS = {"PORT": _whole(1, 65535), "TIMEOUT": _whole(1, 9), "DAYS": _whole(0, 10_000)}


def _fault(read: Callable[[str], object], value: str) -> str:
    try:
        read(value)
    except ValueError as error:
        return str(error)
    return ""


def _parameters(path: str, defaults: dict[str, str], problems: Problems) -> dict[str, str] | None:
    """Read a test's KEY=VALUE lines, which become its plugin's environment; None when one of them is wrong."""
    parameters = dict(defaults)
    mistakes = len(problems)
    for number, line in enumerate(_read(path, problems), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, is_set, value = (part.strip() for part in line.partition("="))
        if not is_set or not names.is_parameter(key):
            hint = (
                f"; did you mean {line.replace(key, key.upper(), 1)}?"
                if is_set and names.is_parameter(key.upper())
                else ""
            )
            problems.error(
                path, f"{_quoted(line)} is not KEY=VALUE, the key in capitals{hint}", number
            )
        elif names.is_loader_variable(key):
            problems.error(
                path, f"{key} would change what the plugin runs, not what it tests", number
            )
        elif "\ufffd" in value:
            problems.error(path, f"{key} is not UTF-8", number)
        elif not value.isprintable():
            problems.error(path, f"{key} has unprintable characters in its value", number)
        elif key in parameters and key not in defaults:
            problems.error(path, f"{key} is set twice", number)
        elif (wants := _NUMBERS.get(key)) and (fault := _fault(wants, value)):
            problems.error(path, f"{key}={value}: {fault}", number)
        else:
            parameters[key] = value
    return parameters if len(problems) == mistakes else None


# key


def load_keys(directory: str, problems: Problems) -> Keys:
    """Read the key that the nodes share, and the one before it, which is taken while the key is changed."""
    there = [
        key for name in KEY_FILES if (key := load_key(f"{directory}/{name}", problems)) is not None
    ]
    return tuple(key for key in there if key) if there else None


def load_key(path: str, problems: Problems) -> bytes | None:
    """Return the key in PATH; None if it is not there, and nothing if it cannot be used, or others may know it."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            key = file.read(_FILE_LIMIT).strip() if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not os.path.islink(path):
            return None  # it may be there by now: a key is being changed
        problems.failed(path, error)
        return b""
    fault = ""
    if not stat.S_ISREG(status.st_mode):
        fault = "it is not a file"
    elif status.st_uid not in (0, os.geteuid()):
        fault = f"it belongs to neither root nor {user.name()}"
    elif status.st_mode & 0o027:
        fault = f"others could read or write it (mode {status.st_mode & 0o777:o}); chmod 640 would mend that"
    elif not names.is_key(key):
        fault = (
            "it is not one word of 32 printable characters at least; `dmonitor key new` makes one"
        )
    if fault:
        problems.error(path, f"this key is not used: {fault}")
    return b"" if fault else key


# alert.d


def _addresses(directory: str, problems: Problems) -> tuple[str, ...]:
    """Return who is told: the mail addresses, and behind them the hooks, which are executables with something in them."""
    addresses, hooks = [], []
    for name, path, mode, size in _entries(directory, problems, names.is_address, "a mail address"):
        if not stat.S_ISREG(mode):
            problems.unreadable |= not mode
            problems.error(path, "not a file: touch one that is named like the address")
        elif mode & 0o111 and size:
            hooks.append(names.HOOK + name)
        else:
            addresses.append(name)
    return (*addresses, *hooks)


# silence.d


def load_silences(
    directory: str, problems: Problems, tests: Tests | None = None, nodes: Iterable[Node] = ()
) -> Iterator[Silence]:
    """Yield the silences of files HOST and HOST/TEST; one that fits none of TESTS, where these are known, is suspicious."""
    hosts: dict[str, list[str]] = {names.NODE: [node.name for node in nodes]}
    for test in tests or ():
        hosts.setdefault(test.host, []).append(test.name)
    for host, path, mode, _ in _entries(
        f"{directory}/silence.d", problems, names.is_subject, _HOST_NAME, optional=True
    ):
        what, known, files = "host in hosts.d", list(hosts), [_Entry(host, path, mode)]
        if stat.S_ISDIR(mode):
            is_proper, what = (
                (names.is_node, "node in nodes.txt")
                if host == names.NODE
                else (names.is_test, "test in hosts.d")
            )
            files = list(_entries(path, problems, is_proper, f"a {what}", optional=True))
            known = hosts.get(host, [])
        for name, file, mode, _ in files:
            if not stat.S_ISREG(mode):
                problems.error(file, "not a file: touch HOST, or HOST/TEST")
                continue
            if tests is not None and name not in known:
                problems.warning(
                    file, f"silences nothing: no such {what}{did_you_mean(name, known)}"
                )
            yield from _silence(file, host, "" if file == path else name)


def _silence(path: str, host: str, name: str) -> Iterator[Silence]:
    try:
        status = os.stat(path)
    except OSError:
        return  # removed this very moment
    yield Silence(host, name, silent_until(status))


def silent_until(status: os.stat_result) -> float | None:
    """Return when the silence ends whose file has STATUS, in seconds since the epoch; None: when it is removed."""
    # A touch without a time sets both alike; the margin is for a file server whose clock is not ours. What is too far away to be
    # told to others is as good as for ever.
    return status.st_mtime if 1 < status.st_mtime - status.st_ctime < FAR else None
