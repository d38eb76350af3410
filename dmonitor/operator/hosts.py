"""The verbs `dmonitor add` and `dmonitor remove`: make the files of tests, or remove them.

An operator may touch or remove the same files himself. What a file means is decided in `config`. A
mistake in one name costs no other one. A file is made whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from dmonitor.base import log, names, user
from dmonitor.config import programs
from dmonitor.config.behind import load_behind
from dmonitor.config.configuration import Configuration
from dmonitor.config.files import Entry
from dmonitor.config.problems import Problem, Problems, Severity, did_you_mean, quoted
from dmonitor.config.rhythms import load_rhythms
from dmonitor.config.settings import Settings
from dmonitor.config.tests import (
    A_HOST_NAME,
    A_TEST_NAME,
    BEHIND,
    FOR_ALL,
    load_host_parameters,
    load_test,
    load_tests,
)
from dmonitor.core.model import Test

_DRAFT = ".add."  # begins the name of a file that is being made; every reader passes over it


class Place(NamedTuple):
    """The line of a file in which an operator has written something."""

    path: str
    line: int


class Wanted(NamedTuple):
    """One test that is to be there. Its names may be anything."""

    host: str
    name: str
    parameters: Sequence[str] = ()  # texts KEY=VALUE
    place: Place | None = None  # None: it was typed

    def __str__(self) -> str:
        return f"{self.host}/{self.name}"


class Done(NamedTuple):
    """What came of the request."""

    changed: list[str]  # tests that were added, or paths that were removed
    unchanged: list[str]  # tests that were there already
    refused: list[str]  # what was wanted and is not done
    problems: Problems

    @property
    def status(self) -> int:
        """The exit status: EX_DATAERR if anything was refused, EX_CONFIG if what is done is bad."""
        if self.refused:
            return os.EX_DATAERR
        if any(problem.severity is Severity.ERROR for problem in self.problems):
            return os.EX_CONFIG
        return os.EX_OK


Line = tuple[Sequence[str], Place | None]  # the words of a line, and where it stands


def lines_of(words: Sequence[str], source: str | None, problems: Problems) -> Iterator[Line]:
    """Yield the `words` that were typed, and those of each line of the file `source`.

    `-` is standard input, and None no file. Words are as in a shell: a value with blanks stands in
    quotes, and a # begins a comment. A line that is no such words becomes a problem.
    """
    if words:
        yield words, None
    if not source:
        return
    for number, line in enumerate(_text(source).splitlines(), 1):
        try:
            found = shlex.split(line, comments=True)
        except ValueError as error:
            problems.error(source, str(error), number)
            continue
        if found:
            yield found, Place(source, number)


def _text(source: str) -> str:
    if source == "-":
        return sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    with open(source, "rb") as file:
        return file.read().decode("utf-8", "surrogateescape")


def parse(lines: Iterable[Line], problems: Problems) -> list[Wanted]:
    """Return the tests that `lines` name: HOST TEST [KEY=VALUE]..., or HOST/TEST [KEY=VALUE]...

    A word without a slash is a test of the host that the line has named last. A word that makes no
    sense where it stands becomes a problem.
    """
    wanted: list[Wanted] = []
    for words, place in lines:
        wanted += _parse_line(words, place, problems)
    return wanted


def _parse_line(words: Sequence[str], place: Place | None, problems: Problems) -> list[Wanted]:
    wanted: list[Wanted] = []
    host = None  # the one that was named last
    bare = None  # the same, as long as no test of it is named
    for word in words:
        if "=" in word and (bare is not None or not wanted):
            _complain(problems, place, word, "a parameter must stand after a test")
        elif "=" in word:
            last = wanted[-1]
            wanted[-1] = last._replace(parameters=(*last.parameters, word))
        elif "/" in word or host is None:
            _complain_of_bare_host(problems, place, bare)
            host, slash, name = word.partition("/")
            bare = None if slash else host
            if slash:
                wanted.append(Wanted(host, name, place=place))
        else:
            wanted.append(Wanted(host, word, place=place))
            bare = None
    _complain_of_bare_host(problems, place, bare)
    return wanted


def _complain_of_bare_host(problems: Problems, place: Place | None, host: str | None) -> None:
    if host is not None:
        text = "no test of this host is named; write HOST TEST or HOST/TEST"
        _complain(problems, place, host, text)


def _complain(problems: Problems, place: Place | None, subject: str, text: str) -> None:
    """Add an error about `subject`, in the line of the file that names it if there is one."""
    if place is None:
        problems.error(subject, text)
    else:
        problems.error(place.path, f"{names.printable(subject)}: {text}", place.line)


def _require_writable(directory: str) -> None:
    """Raise OSError, which names `directory`, if this user cannot make or remove files in it."""
    if not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), directory)


# Adding.


def add(directory: str, wanted: Iterable[Wanted], problems: Problems) -> Done:
    """Make the file of each test that is `wanted`; leave what is there as it is.

    What `dmonitor-check -t` would call an error in this file keeps it from being made.
    """
    _require_writable(f"{directory}/hosts.d")
    done = Done([], [], [problem.path for problem in problems], problems)
    tests = dict(load_tests(directory, Problems()))
    for test in sorted(wanted, key=_is_behind):  # so that what they are behind is there by then
        found = Problems()
        if _is_added(directory, test, tests, found):
            done.changed.append(str(test))
            log.info("test-added", test=str(test))
        elif _errors(found):
            done.refused.append(str(test))
        else:
            done.unchanged.append(str(test))
        for problem in found:
            placed = _placed(problem, directory, test)
            if placed not in problems:  # several tests may have a host that is none
                problems.append(placed)
    return done


def _is_behind(wanted: Wanted) -> bool:
    """Return whether a test says that it stands behind others."""
    return any(parameter.partition("=")[0].strip() == BEHIND for parameter in wanted.parameters)


def _errors(problems: Iterable[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.severity is Severity.ERROR]


def _placed(problem: Problem, directory: str, test: Wanted) -> Problem:
    """Return `problem` with the line of the operator's file that it comes from, if there is one."""
    if test.place is None:
        return problem
    about = problem.path.removeprefix(f"{directory}/hosts.d/")
    text = f"{names.printable(about)}: {problem.text}"
    return problem._replace(path=test.place.path, line=test.place.line, text=text)


def _is_added(
    directory: str, wanted: Wanted, tests: dict[Test, Mapping[str, str] | None], problems: Problems
) -> bool:
    """Make the file of one test; return False if it is there already or there is an error.

    `tests` are all that are there, to which this one is added.
    """
    hosts = f"{directory}/hosts.d"
    if not _is_proper(wanted, hosts, problems):
        return False
    test = Test(wanted.host, wanted.name)
    path = f"{hosts}/{test}"
    host_path = os.path.dirname(path)
    if os.path.islink(host_path):
        text = (
            f"is a link to {names.printable(os.readlink(host_path))}: a test that is added there"
            " is one of all hosts that lead there; touch it by hand"
        )
        problems.error(host_path, text)
        return False
    with _draft(hosts, wanted.parameters) as draft:
        parameters = _read(directory, test, draft, problems)
        if _errors(problems):
            return False
        if os.path.lexists(path):
            _compare(directory, test, parameters, problems, given=bool(wanted.parameters))
            return False
        with user.acting():  # what root may read, a round may not
            merged = _examine(directory, test, parameters, tests, problems)
        ways = _ways(directory, test)
        if any(problem.path in ways for problem in _errors(problems)):
            return False
        tests[test] = merged
        return _put(draft, path)


def _is_proper(wanted: Wanted, hosts: str, problems: Problems) -> bool:
    """Return whether names and parameters are proper; name what is not."""
    host, name = wanted.host, wanted.name
    host_path = f"{hosts}/{host}"
    if host == names.NODE:
        problems.error(host_path, "the host name 'node' is reserved for the nodes in nodes.txt")
    elif not names.is_host(host) or names.is_ignored_file(host):
        problems.error(host_path, f"{quoted(host)} is not {A_HOST_NAME}")
    elif not names.is_test(name) or names.is_ignored_file(name):
        problems.error(f"{host_path}/{name}", f"{quoted(name)} is not {A_TEST_NAME}")
    for parameter in wanted.parameters:  # what would be several lines, or a comment
        if parameter.splitlines() != [parameter] or parameter.strip().startswith("#"):
            text = f"{quoted(parameter)} is not one line KEY=VALUE"
            problems.error(f"{host_path}/{name}", text)
    return not problems


@contextlib.contextmanager
def _draft(hosts: str, parameters: Sequence[str]) -> Iterator[str]:
    """Make a file with `parameters` that no reader heeds; remove it in the end; yield its path.

    dmonitor's user may read it, whatever the umask. Others may, too, unless it has parameters,
    because one of them may be a password.
    """
    descriptor, path = tempfile.mkstemp(prefix=_DRAFT, dir=hosts)
    try:
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(f"{parameter}\n" for parameter in parameters)
            file.flush()
            mode = 0o644
            if parameters and os.geteuid() == 0:
                mode = 0o640
                os.fchown(descriptor, -1, user.find().pw_gid)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _read(directory: str, test: Test, path: str, problems: Problems) -> dict[str, str]:
    """Return the parameters in the file `path`, as a round reads them for `test`."""
    status = os.stat(path)
    found = Problems()
    parameters = load_test(Entry(test.name, path, status.st_mode, status.st_size), found)
    test_path = f"{directory}/hosts.d/{test}"
    for problem in found:
        if problem.path == path:
            problem = problem._replace(path=test_path, line=None)
        problems.append(problem)
    return dict(parameters or {})


def _compare(
    directory: str, test: Test, parameters: dict[str, str], problems: Problems, *, given: bool
) -> None:
    """Name what keeps the test that is there from being the one that is wanted."""
    path = f"{directory}/hosts.d/{test}"
    if not os.path.isfile(path):
        problems.error(path, "is there, and is no file; move it away")
    elif given and _read(directory, test, path, Problems()) != parameters:
        text = "is there already, with other parameters; change them there, or remove it first"
        problems.error(path, text)


def _examine(
    directory: str,
    test: Test,
    parameters: dict[str, str],
    others: Mapping[Test, Mapping[str, str] | None],
    problems: Problems,
) -> Mapping[str, str]:
    """Look at all parameters of `test`, at its plugin, and at the name of its host.

    Return the parameters that it has together with those of its host. It is to stand beside the
    `others`.
    """
    for_all = load_host_parameters(f"{directory}/hosts.d/{test.host}", problems)
    merged = {**(for_all or {}), **parameters}
    tests = {test: merged}
    load_rhythms(directory, tests, problems)
    if BEHIND in merged:
        found = Problems()
        load_behind(directory, {**others, test: merged}, found)
        for problem in found:
            if problem.path in _ways(directory, test) and problem not in problems:
                problems.append(problem)
    configuration = Configuration(directory, Settings(), (), tests, (), ())
    for package in sorted(programs.examine_tests(configuration, problems)):
        problems.warning(configuration.plugin(test), f"to have it: apt install {package}")
    return merged


def _ways(directory: str, test: Test) -> tuple[str, str, str]:
    """Return the paths of what a mistake is in that keeps `test` from being made."""
    host = f"{directory}/hosts.d/{test.host}"
    return f"{directory}/hosts.d/{test}", host, f"{host}/{FOR_ALL}"


def _put(draft: str, path: str) -> bool:
    """Give the file `draft` the name `path`; return False if there is such a file by now."""
    host_path = os.path.dirname(path)
    is_new = False
    with contextlib.suppress(FileExistsError):
        os.mkdir(host_path)
        is_new = True
        os.chmod(host_path, 0o755)  # whatever the umask
    try:
        os.link(draft, path)
    except OSError as error:
        if is_new:
            os.rmdir(host_path)
        if isinstance(error, FileExistsError):
            return False
        raise
    return True


# Removing.


def remove(directory: str, lines: Iterable[Line], problems: Problems) -> Done:
    """Remove what each word of `lines` names: a test, or a host with all its tests.

    A link is removed for itself. A directory without a test is removed, too, unless it holds
    something that is no test.
    """
    hosts = f"{directory}/hosts.d"
    _require_writable(hosts)
    done = Done([], [], [], problems)
    for words, place in lines:
        for subject in words:
            try:
                _remove(hosts, subject, done.changed)
            except _Refused as refused:
                done.refused.append(subject)
                _complain(problems, place, f"{hosts}/{subject}", str(refused))
    for path in done.changed:
        log.info("test-file-removed", path=path)
    return done


class _Refused(Exception):
    """Something is not removed; the text says why."""


def _remove(hosts: str, subject: str, removed: list[str]) -> None:
    """Remove a test or a host; add the paths that are gone to `removed`. Raise _Refused."""
    host, slash, name = subject.partition("/")
    if not names.is_subject(host) or (slash and not names.is_test(name)):
        raise _Refused("is neither HOST nor HOST/TEST")
    host_path = f"{hosts}/{host}"
    if slash:
        _remove_test(host_path, name, removed)
    elif os.path.islink(host_path):
        os.unlink(host_path)
        removed.append(host_path)
    elif os.path.isdir(host_path):
        _remove_host(host_path, removed)
    else:
        raise _Refused(_why_not_there(host_path, "host"))


def _remove_test(host_path: str, name: str, removed: list[str]) -> None:
    """Remove a test, and the directory of its host if nothing else is in it."""
    path = f"{host_path}/{name}"
    if os.path.islink(host_path):
        target = names.printable(os.readlink(host_path))
        raise _Refused(f"its host is a link to {target}: remove it there, from all that lead there")
    if not _is_test_file(path):
        raise _Refused(_why_not_there(path, "test"))
    os.unlink(path)
    removed.append(path)
    if not os.listdir(host_path):
        os.rmdir(host_path)
        removed.append(host_path)


def _remove_host(host_path: str, removed: list[str]) -> None:
    """Remove the tests in a directory, and the directory unless something else is in it."""
    others = []
    for name in sorted(os.listdir(host_path)):
        path = f"{host_path}/{name}"
        if _is_test_file(path) or (name == FOR_ALL and os.path.isfile(path)):
            os.unlink(path)
            removed.append(path)
        else:
            others.append(names.printable(name))
    if others:
        stays = f"stays, because it holds what is no test: {', '.join(others)}"
        raise _Refused(f"{stays}; look at that, and remove the directory by hand")
    os.rmdir(host_path)
    removed.append(host_path)


def _is_test_file(path: str) -> bool:
    """Return whether a file or a link, which may lead nowhere, has the name of a test."""
    name = os.path.basename(path)
    if names.is_ignored_file(name) or not names.is_test(name):
        return False
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


def _why_not_there(path: str, kind: str) -> str:
    """Return why `path` is not removed, which is no host or no test, as `kind` says."""
    if os.path.lexists(path):
        return f"is no {kind}, so it stays"
    directory, name = os.path.split(path)
    others: list[str] = []
    with contextlib.suppress(OSError):
        others = [each for each in os.listdir(directory) if not names.is_ignored_file(each)]
    return f"there is no such {kind}{did_you_mean(name, others)}"
