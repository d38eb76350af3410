"""Read hosts.d: the tests, and the parameters in their files.

A directory in hosts.d is a host, and a file in it is a test of this host. The file may hold
KEY=VALUE lines, which become the environment of the test's plugin, except those that are for
dmonitor. The file .all holds such lines for all tests of the host; what a test's own file says
comes before. A test is kept without parameters and cannot be run if its file or .all has a mistake,
because it would test something that nobody meant, and might say OK.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set

from dmonitor.base import names
from dmonitor.config.files import Assignment, Entry, read_assignments, scan_directory
from dmonitor.config.problems import Problems, quoted
from dmonitor.config.settings import whole_number
from dmonitor.config.times import duration
from dmonitor.core.model import Test

# The parameters of each test; None if its file has a mistake.
Tests = Mapping[Test, Mapping[str, str] | None]

A_HOST_NAME = "a host name; use ASCII letters, digits and . _ - : only"
A_TEST_NAME = "a test; use NAME or NAME:SUFFIX, of ASCII letters, digits and . _ -"
FOR_ALL = ".all"  # the file with the parameters of all tests of a host
_TEST_FILE = "a test is a file, empty or with KEY=VALUE lines"

# Parameters that mean the same in every plugin, and how they are read. TIMEOUT is less than the 10
# seconds after which a plugin is killed, because a killed plugin cannot say what it saw (R1).
_COMMON: dict[str, Callable[[str], object]] = {
    "PORT": whole_number(1, 65535),
    "TIMEOUT": whole_number(1, 9),
    "DAYS": whole_number(0, 10_000),
    "ADDRESS": names.read_ip_address,
}
read_rhythm = duration("1m", "7d")
read_confirm = whole_number(1, 100)
# Parameters that say how dmonitor goes about the test. They are not for its plugin.
RHYTHM = ("EVERY", "RETRY")
CONFIRM = "CONFIRM"
BEHIND = "BEHIND"


def read_tests(text: str) -> tuple[Test, ...]:
    """Return the tests that `text` names, HOST/TEST each; raise ValueError for all else."""
    tests = []
    for word in text.split():
        host, _, name = word.partition("/")
        if not names.is_subject(host) or not names.is_test(name):
            raise ValueError(f"{quoted(word)} is not HOST/TEST")
        tests.append(Test(host, name))
    if not tests:
        raise ValueError("not HOST/TEST, nor several of them")
    return tuple(tests)


OWN: dict[str, Callable[[str], object]] = {
    **dict.fromkeys(RHYTHM, read_rhythm),
    CONFIRM: read_confirm,
    BEHIND: read_tests,
}
_READERS = {**_COMMON, **OWN}


def environment(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return which of a test's `parameters` its plugin gets in its environment."""
    return {key: value for key, value in parameters.items() if key not in OWN}


def confirmations(tests: Tests) -> dict[Test, int]:
    """Return how many DOWN verdicts open an incident of those of `tests` that say it themselves."""
    found = {}
    for test, parameters in tests.items():
        if parameters and CONFIRM in parameters:
            found[test] = read_confirm(parameters[CONFIRM])
    return found


def file_of(directory: str, test: Test, key: str) -> str:
    """Return the path of the file that sets the parameter `key` of `test`."""
    host, own = f"{directory}/hosts.d/{test.host}", f"{directory}/hosts.d/{test}"
    for_all = load_host_parameters(host, Problems()) or {}
    if key in for_all and key not in (_load_parameters(own, Problems()) or {}):
        return f"{host}/{FOR_ALL}"
    return own


def load_tests(directory: str, problems: Problems) -> Tests:
    """Read hosts.d in `directory`."""
    tests: dict[Test, Mapping[str, str] | None] = {}
    for entry in scan_directory(f"{directory}/hosts.d", problems, names.is_subject, A_HOST_NAME):
        if entry.name == names.NODE:
            text = "the host name 'node' is reserved for the nodes in nodes.txt; rename this host"
            problems.error(entry.path, text)
        elif entry.is_directory():
            _load_host(entry, tests, problems)
        else:
            if entry.is_dangling():
                problems.unreadable.add(entry.path)
            text = "is not a directory; a host is a directory, and its tests are the files in it"
            problems.add_wrong_kind(entry.path, text)
    return tests


def hidden_tests(
    directory: str, remembered: Iterable[Test], unreadable: Set[str]
) -> dict[Test, None]:
    """Return those of the tests `remembered` that may still be there and cannot be found.

    One of the `unreadable` paths is on the way to their files, or is nodes.txt for the tests that
    nodes are. They have no parameters, like a test whose file has a mistake.
    """
    hidden: dict[Test, None] = {}
    for test in remembered:
        way = {f"{directory}/hosts.d", f"{directory}/hosts.d/{test.host}"}
        way.add(f"{directory}/hosts.d/{test}")
        if test.host == names.NODE:
            way = {f"{directory}/nodes.txt"}
        if not unreadable.isdisjoint(way):
            hidden[test] = None
    return hidden


def load_host_parameters(host: str, problems: Problems) -> Mapping[str, str] | None:
    """Return the parameters of all tests in the directory `host`; None if there is a mistake."""
    return _load_parameters(f"{host}/{FOR_ALL}", problems, optional=True)


def _load_host(
    host: Entry, tests: dict[Test, Mapping[str, str] | None], problems: Problems
) -> None:
    """Add the tests of `host` to `tests`."""
    for_all = load_host_parameters(host.path, problems)
    for entry in scan_directory(host.path, problems, names.is_test, A_TEST_NAME):
        test = Test(host.name, entry.name)
        if entry.is_file():
            own = load_test(entry, problems)
            tests[test] = None if own is None or for_all is None else {**for_all, **own}
        elif entry.is_dangling():
            problems.error(entry.path, f"is a dangling link; {_TEST_FILE}")
            tests[test] = None  # the operator did not remove the test, so its incident goes on
        else:
            problems.error(entry.path, f"is not a file; {_TEST_FILE}")


def load_test(entry: Entry, problems: Problems) -> Mapping[str, str] | None:
    """Return the parameters of the test whose file is `entry`; None if there is a mistake."""
    defaults = {}
    suffix = entry.name.partition(":")[2]
    if suffix.isdigit():
        fault = _fault("PORT", suffix)
        if fault:
            problems.error(entry.path, f"the port {suffix} is {fault}")
            return None
        defaults["PORT"] = suffix
    if entry.size == 0:
        return defaults
    own = _load_parameters(entry.path, problems)
    return None if own is None else {**defaults, **own}


def _load_parameters(
    path: str, problems: Problems, *, optional: bool = False
) -> Mapping[str, str] | None:
    """Return the parameters in `path`; None if there is a mistake in the file."""
    parameters: dict[str, str] = {}
    problems_before = len(problems)
    for line in read_assignments(path, problems, optional=optional):
        if line.value is None or not names.is_parameter(line.key):
            text = f"{quoted(line.text)} is not KEY=VALUE with the key in capitals{_hint(line)}"
            problems.error(path, text, line.number)
            continue
        complaint = _complaint(line.key, line.value)
        if not complaint and line.key in parameters:
            complaint = f"{line.key} is set twice; remove one of the lines"
        if not complaint:
            complaint = _range_complaint(line.key, line.value)
        if complaint:
            problems.error(path, complaint, line.number)
        else:
            parameters[line.key] = line.value
    if len(problems) > problems_before:
        return None
    return parameters


def _hint(line: Assignment) -> str:
    """Return "; did you mean ...?" if `line` would be right with its key in capitals."""
    if line.value is None or not names.is_parameter(line.key.upper()):
        return ""
    corrected = line.text.replace(line.key, line.key.upper(), 1)
    return f"; did you mean {corrected}?"


def _complaint(key: str, value: str) -> str:
    """Return what is wrong with the parameter `key` or the text of its value, or ""."""
    if names.is_loader_variable(key):
        return f"{key} would change what the plugin runs, not what it tests; remove it"
    if "\ufffd" in value:
        return f"the value of {key} is not UTF-8"
    if not value.isprintable():
        return f"the value of {key} has unprintable characters"
    return ""


def _range_complaint(key: str, value: str) -> str:
    """Return what is wrong with `value` if `key` means the same for every test, or ""."""
    fault = _fault(key, value)
    if fault:
        return f"{key}={value}: {fault}"
    return ""


def _fault(key: str, value: str) -> str:
    """Return what is wrong with `value`, or "" if it is right or only the plugin can tell."""
    if key in _READERS:
        try:
            _READERS[key](value)
        except ValueError as error:
            return str(error)
    return ""
