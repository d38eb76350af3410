"""The verb `dmonitor push`: make the configuration of other nodes like that of this one.

It reads theirs by ssh, shows what differs, and replaces that, file by file, each whole or not at
all. `tree` decides what is the same on all nodes. A node that cannot be reached costs no other.
"""

from __future__ import annotations

import difflib
import os
import shlex
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from dmonitor.base import log, names
from dmonitor.config import keyfile
from dmonitor.config.cluster import resolve_cluster
from dmonitor.config.configuration import Configuration
from dmonitor.config.problems import Severity, did_you_mean
from dmonitor.execution import remote
from dmonitor.operator import keys, tree
from dmonitor.operator.tree import Difference, Entry, Tree

_KEY, _OLD_KEY = keyfile.KEY_FILES
_PATHS = (tree.NODES, tree.HOSTS, tree.ADDRESSES, tree.SETTINGS, _KEY, _OLD_KEY)
_CHECKED = (tree.NODES, tree.HOSTS, tree.ADDRESSES, tree.SETTINGS)

# What is run there, in the directory of the configuration. First: say what there is.
_READ = """
set --
for path in {paths}; do
    if [ -e "$path" ] || [ -L "$path" ]; then set -- "$@" "$path"; fi
done
[ $# = 0 ] || exec tar -c -f - -- "$@"
"""
# Then: take what comes in a tar, which is unpacked beside. If its last member came, all came.
_WRITE = """
umask 022
find . -maxdepth 1 -name '.push.*' -mmin +60 -exec rm -rf -- {} +  # of one that was killed
draft=$(mktemp -d ./.push.XXXXXX)
trap 'rm -rf "$draft"' EXIT
trap 'exit 1' HUP INT TERM
tar -x -p -m -f - -C "$draft"
[ -e "$draft/end" ] || { echo "not all of it came over, so nothing was changed" >&2; exit 1; }
if [ -e "$draft/key" ]; then dmonitor --config "$PWD" key set <"$draft/key" >/dev/null; fi
drop() {
    while IFS= read -r path; do
        rm -f -- "$path"
        rmdir -- "$(dirname "$path")" 2>/dev/null || :
    done
}
drop <"$draft/first"
while IFS= read -r path; do
    mkdir -p -- "$(dirname "$path")"
    mv -f -T -- "$draft/tree/$path" "$path"
done <"$draft/put"
drop <"$draft/last"
"""
_CHECK = """
command -v dmonitor-check >/dev/null || { echo "dmonitor-check is not installed there"; exit 69; }
dmonitor-check --config "$PWD" -t 2>&1
"""


class Node:
    """Another node, and what came of looking at it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failure = ""  # why it could not be read or changed
        self.differences: list[Difference] = []
        self.key: bytes | None = None  # the key that it is to take
        self.notes: list[str] = []  # what is not changed, and why
        self.pushed = False
        self.check: remote.Ran | None = None  # what dmonitor-check -t says there afterwards

    @property
    def differs(self) -> bool:
        """Return whether anything is to be changed there."""
        return bool(self.differences) or self.key is not None

    def facts(self) -> dict[str, object]:
        """Return what came of it, as JSON has it."""
        changes = [{"path": each.path, "change": each.word} for each in self.differences]
        if self.key is not None:
            changes.append({"path": _KEY, "change": "set"})
        return {
            "node": self.name,
            "failure": self.failure or None,
            "differences": changes,
            "notes": self.notes,
            "pushed": self.pushed,
            "check": _said(self.check) if self.check else [],
            "check_status": self.check.status if self.check else None,
        }


def _said(ran: remote.Ran) -> list[str]:
    """Return the lines that a program has printed on another node, or why it was not started."""
    lines = ran.output.decode("utf-8", "backslashreplace").splitlines()
    return [names.escaped(line) for line in lines or ran.text.splitlines()]


class Login(NamedTuple):
    """How to get at the configuration of another node."""

    directory: str  # of the configuration, here and there
    user: str  # who logs in there


def mistakes(configuration: Configuration) -> list[str]:
    """Return what is wrong with what would be pushed: it is mended here first."""
    directory = configuration.directory
    found = []
    for problem in configuration.problems:
        top = problem.path.removeprefix(f"{directory}/").partition("/")[0]
        if problem.severity is Severity.ERROR and top in _CHECKED:
            found.append(str(problem))
    if not configuration.tests:  # who has only just installed this node has not meant that
        found.append(f"error: {directory}/hosts.d: there is no test, which no node is to have")
    return found


def find(configuration: Configuration, wanted: Sequence[str]) -> list[Node]:
    """Return the nodes that are `wanted`, or all others; one that is none of them has failed."""
    cluster = resolve_cluster(configuration.nodes, configuration.settings, {})
    others = [peer.node.name for peer in cluster.peers]
    nodes = [Node(name) for name in wanted or others]
    for node in nodes:
        if node.name in cluster.my_names:
            node.failure = "that is this node"
        elif node.name not in others:
            node.failure = f"no such node in nodes.txt{did_you_mean(node.name, others)}"
    return nodes


def look(nodes: Sequence[Node], login: Login, say: Callable[[str], object]) -> None:
    """Find out, and `say`, what of the configuration of each node is to be changed.

    Raise OSError if that of this node cannot be read.
    """
    ours = tree.read_directory(login.directory, _PATHS)
    for node in nodes:
        if not node.failure:
            _look_at(node, ours, login)
        for line in describe(node):
            say(line)


def is_wanted(nodes: Iterable[Node]) -> bool:
    """Ask the person at the terminal whether what differs is to be changed, and return that."""
    names_of_others = [node.name for node in nodes if node.differs]
    if not names_of_others:
        return False
    try:
        answer = input(f"Change this on {', '.join(names_of_others)}? [y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


def change(nodes: Iterable[Node], login: Login, say: Callable[[str], object]) -> None:
    """Change what differs on each node, and `say` what came of it."""
    for node in nodes:
        if node.differs:
            _change(node, login)
            for line in outcome(node):
                say(line)


def _look_at(node: Node, ours: Tree, login: Login) -> None:
    script = _READ.format(paths=" ".join(_PATHS))
    ran = _run(node, login, script)
    if ran is None:
        return
    try:
        theirs = tree.read(ran.output)
    except tarfile.TarError as error:
        node.failure = f"what it sent is no tar: {names.printable(str(error))}"
        return
    node.differences = tree.differences(ours, theirs, login.directory)
    _compare_keys(node, ours, theirs)


def _compare_keys(node: Node, ours: Tree, theirs: Tree) -> None:
    """Find out whether `node` is to take the key of this node, if that is one for all."""
    mine, other = _key_set(ours.get(_KEY)), _key_set(theirs.get(_KEY))
    old = _key_set(theirs.get(_OLD_KEY))
    if mine is None or mine == other:
        return
    if mine.pairs is not None or (other is not None and other.pairs is not None):
        return  # each node has its own
    if mine == old:
        node.notes.append("key: that node has a newer one; `dmonitor key set` takes it here")
    else:
        node.key = mine.secret


def _key_set(entry: Entry | None) -> keyfile.KeySet | None:
    """Return the keys in a file; None if it is not there or none of them can be used."""
    if entry is None:
        return None
    key_set, _ = keyfile.parse(entry.content)
    return key_set if key_set.is_usable else None


def _change(node: Node, login: Login) -> None:
    """Change what differs on `node`, then have it look its configuration over."""
    ran = _run(node, login, _WRITE, _parcel(node))
    if ran is None:
        return
    node.pushed = True
    log.info("pushed", node=node.name, files=len(node.differences))
    script = f"cd -- {shlex.quote(login.directory)} || exit 1\n{_CHECK}"
    node.check = remote.run(node.name, login.user, script)


def _run(node: Node, login: Login, script: str, content: bytes = b"") -> remote.Ran | None:
    """Run `script` in the directory of `node`; return None, and keep the reason, if it fails."""
    directory = shlex.quote(login.directory)
    ran = remote.run(node.name, login.user, f"set -e\ncd -- {directory}\n{script}", content)
    if ran.status == os.EX_OK:
        return ran
    lines = ran.text.strip().splitlines() or [f"it ended with {ran.status}"]
    node.failure = names.printable(lines[-1])
    return None


def _parcel(node: Node) -> bytes:
    """Return the tar that the script _WRITE takes."""
    put = {each.path: each.ours for each in node.differences if each.ours is not None}
    gone = [each.path for each in node.differences if each.ours is None]
    # A directory in the place of a link, or the other way round: the old one has to go first.
    first = [path for path in gone if _is_in_the_way(path, put)]
    last = [path for path in gone if path not in first]
    parcel = {f"tree/{path}": entry for path, entry in put.items()}
    parcel["put"] = _list(put)
    parcel["first"] = _list(first)
    parcel["last"] = _list(last)
    if node.key is not None:
        parcel["key"] = Entry(node.key, mode=0o600)
    parcel["end"] = Entry()
    return tree.write(parcel)


def _is_in_the_way(path: str, put: Iterable[str]) -> bool:
    return any(each.startswith(f"{path}/") or path.startswith(f"{each}/") for each in put)


def _list(paths: Iterable[str]) -> Entry:
    return Entry("".join(f"{path}\n" for path in paths).encode("utf-8", "surrogateescape"))


# What is said of it.


def describe(node: Node) -> list[str]:
    """Return lines that say how `node` differs, with the lines that change."""
    if node.failure:
        return [f"{node.name}: {node.failure}"]
    lines = [f"{node.name}:" if node.differs else f"{node.name}: nothing differs"]
    for difference in node.differences:
        lines += _describe(difference)
    if node.key is not None:
        lines.append(f"  set      {_KEY}: {keys.digits(node.key)}")
    lines += [f"  {note}" for note in node.notes]
    return lines


def _describe(difference: Difference) -> Iterator[str]:
    theirs, ours = difference.theirs, difference.ours
    yield f"  {difference.word:<8} {names.escaped(difference.path)}{_access(theirs, ours)}"
    before, after = _text(theirs), _text(ours)
    diff = list(difflib.unified_diff(before, after, lineterm=""))[2:]
    for line in diff:
        yield f"      {names.escaped(line)}"
    if not diff and theirs and ours and theirs.content != ours.content:
        yield "      they differ in blanks at the end of a line, or in what is no UTF-8"


def _access(theirs: Entry | None, ours: Entry | None) -> str:
    """Return who may read a file there and here, if that differs."""
    if theirs is None or ours is None or ours.target is not None or theirs.target is not None:
        return ""
    there, here = (f"{each.mode:o} {each.group}" for each in (theirs, ours))
    return "" if there == here else f" ({there} there, {here} here)"


def _text(entry: Entry | None) -> list[str]:
    if entry is None:
        return []
    if entry.target is not None:
        return [f"a link to {entry.target}"]
    return entry.content.decode("utf-8", "backslashreplace").splitlines()


def outcome(node: Node) -> list[str]:
    """Return lines that say what became of `node` when it was to be changed."""
    if not node.pushed:  # a part of it may be
        return [f"{node.name}: {node.failure}; see what differs now: dmonitor push {node.name}"]
    lines = [f"{node.name}: changed"]
    if node.check is not None:
        lines += [f"  {line.removeprefix('dmonitor-check: ')}" for line in _said(node.check)]
    if any(each.path == tree.SETTINGS for each in node.differences):
        lines.append("  a change of port or concurrency counts after `service dmonitor restart`")
    return lines


def status(nodes: Sequence[Node]) -> int:
    """Return the exit status: the worst that came of any node."""
    if any(node.failure for node in nodes):
        return os.EX_UNAVAILABLE
    if any(node.check is not None and node.check.status for node in nodes):
        return os.EX_CONFIG
    if any(node.differs and not node.pushed for node in nodes):
        return 1
    return os.EX_OK
