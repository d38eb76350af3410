"""hosts.d: the tests, and the parameters of each."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping

from dmonitor.base import names
from dmonitor.config.files import read_lines, scan_directory
from dmonitor.config.problems import Problems, quoted
from dmonitor.config.settings import whole_number
from dmonitor.core.model import Test

Tests = Mapping[
    Test, Mapping[str, str] | None
]  # each test's parameters; None where its file has mistakes

HOST_NAME = "a host name: ASCII letters, digits and . _ - : only, no space"
_TEST_NAME = "a test: NAME or NAME:SUFFIX of ASCII letters, digits and . _ -"


def load_tests(directory: str, problems: Problems) -> Tests:
    """Read hosts.d."""
    tests: dict[Test, Mapping[str, str] | None] = {}
    for name, path, mode, _ in scan_directory(
        f"{directory}/hosts.d", problems, names.is_subject, HOST_NAME
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
    for name, file, mode, size in scan_directory(path, problems, names.is_test, _TEST_NAME):
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
_NUMBERS = {
    "PORT": whole_number(1, 65535),
    "TIMEOUT": whole_number(1, 9),
    "DAYS": whole_number(0, 10_000),
}


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
    for number, line in enumerate(read_lines(path, problems), 1):
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
                path, f"{quoted(line)} is not KEY=VALUE, the key in capitals{hint}", number
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
