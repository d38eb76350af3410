"""The rooms of doc/design.md: imports go down the table of folders, the core is pure, the edges are few."""

from __future__ import annotations

import ast
import html
import re
import subprocess
import sys
from pathlib import Path

from local_nodes import LocalNode, Place, running

PACKAGE = Path(__file__).parents[1] / "dmonitor"
DOC = Path(__file__).parents[1] / "doc"
# Each room may import those above it; within a room, imports run one way.
ROOMS = ("base", "probe", "core", "execution", "store", "config", "net", "operator", "")
TOP = {
    *("check", "command", "dmonitord", "driver", "facts", "key_holders", "observer"),
    *("questions", "stay", "changing", "verbs"),
}

# What the core may use of the standard library: nothing with a clock, a socket, a file or a process in it.
# `os` is there for wait statuses; which of its functions, is listed below.
PURE_LIBRARY = {
    *(
        "__future__",
        "collections",
        "datetime",
        "hashlib",
        "email",
        "enum",
        "fnmatch",
        "functools",
        "hashlib",
        "hmac",
        "itertools",
        "json",
        "math",
        "os",
        "re",
        "signal",
    ),
    *("textwrap", "types", "typing", "zlib"),
}
PURE_OS = {"WIFSIGNALED", "WTERMSIG", "WEXITSTATUS"}
# Who alone may import what.
ONLY = {
    "daemon": {"dmonitord"},
    "lockfile": {"store.lock"},
    "sqlite3": {"store.database"},
    "subprocess": {"execution.delivery", "execution.remote"},
    "multiprocessing": set(),
}
# Functions that start a process, and who alone may call them.
STARTERS = {
    "posix_spawn",
    "posix_spawnp",
    "fork",
    "forkpty",
    "system",
    "popen",
    "execv",
    "execve",
    "Popen",
}
MAY_START = {
    "execution.plugin_process": {"posix_spawn"},
    "execution.runner": {"fork"},
    "execution.delivery": {"Popen"},
    "execution.keeper": {"fork"},  # it goes on by itself
    "execution.heartbeat": {"fork"},  # the same
    "dmonitord": {"fork"},
    "key_holders": {"fork"},  # it gives up root, and the process that removes a file does not
    "command": {"fork"},  # what reads as another user, so that root can write afterwards
    "probe.tool": {"posix_spawnp"},
    "check": {"execv"},  # it becomes `stay`
    "stay": {"posix_spawn"},  # of dmonitor-check
}


# Clocks that stop while the machine sleeps. Whoever needs a duration asks base.clock.
SLEEPING_CLOCKS = {
    "monotonic",
    "monotonic_ns",
    "perf_counter",
    "perf_counter_ns",
    "CLOCK_MONOTONIC",
    "CLOCK_MONOTONIC_RAW",
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {
    module_name(path): ast.parse(path.read_text())
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
}


def room_of(module: str) -> str:
    return module.rpartition(".")[0]


def imports(tree: ast.AST) -> set[str]:
    """Return what TREE imports, modules of our own by their names below `dmonitor`, with a dot in front."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            source = node.module or ""
            for alias in node.names:
                whole = f"{source}.{alias.name}".removeprefix("dmonitor.")
                is_module = source.partition(".")[0] == "dmonitor" and whole in MODULES
                found.add(f".{whole}" if is_module else source)
    return {
        f".{name.removeprefix('dmonitor.')}" if name.startswith("dmonitor.") else name
        for name in found
    }


def own(tree: ast.AST) -> set[str]:
    return {name.removeprefix(".") for name in imports(tree) if name.startswith(".")}


def test_every_module_is_in_a_room() -> None:
    assert {room_of(name) for name in MODULES} == set(ROOMS)
    assert {name for name in MODULES if not room_of(name)} == TOP
    assert all((PACKAGE / room / "__init__.py").exists() for room in ROOMS)


def test_imports_go_down_the_rooms() -> None:
    for name, tree in MODULES.items():
        for imported in own(tree):
            assert imported in MODULES, f"{name} imports {imported}, which is no module"
            allowed = ROOMS[: ROOMS.index(room_of(name)) + 1]
            assert room_of(imported) in allowed, f"{name} imports {imported}"


def test_plugins_share_a_room_of_their_own() -> None:
    """A round starts hundreds of plugins, so what they import costs next to nothing, and nothing else needs it."""
    light = {
        "__future__",
        "_socket",
        "_thread",
        "errno",
        "posix",
        "select",
        "sys",
        "time",
        ".base.clock",
    }
    heavy = {
        "ctypes",
        "datetime",
        "hashlib",
        "ssl",
        "warnings",
        "collections.abc",
        "typing",
    }  # loaded only where TLS begins, or by a type checker
    for name, tree in MODULES.items():
        if room_of(name) == "probe":
            others = {
                each for each in imports(tree) if not each.startswith((".probe.", "dmonitor.probe"))
            }
            assert others <= light | heavy, name
            first = [
                node
                for node in ast.iter_child_nodes(tree)
                if isinstance(node, ast.Import | ast.ImportFrom)
            ]
            assert not heavy & set().union(*(imports(node) for node in first)), name
        else:
            assert not [each for each in own(tree) if room_of(each) == "probe"], name


def test_imports_run_one_way() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for imported in own(MODULES[name]):
                visit(imported, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())
    assert done == MODULES.keys()


def test_the_core_is_pure() -> None:
    core = {name: tree for name, tree in MODULES.items() if room_of(name) == "core"}
    assert len(core) > 10
    for name, tree in core.items():
        for imported in imports(tree):
            if imported.startswith("."):
                assert room_of(imported[1:]) == "core" or imported == ".base.names", (
                    f"{name} imports {imported}"
                )
            elif imported != "dmonitor":
                assert imported.partition(".")[0] in PURE_LIBRARY, f"{name} imports {imported}"
        called = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "open"
        ]
        assert not called, name
        used = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
        }
        assert used <= PURE_OS, name


def test_edges_are_few() -> None:
    found: dict[str, set[str]] = {}
    for name, tree in MODULES.items():
        for imported in imports(tree):
            found.setdefault(imported.partition(".")[0], set()).add(name)
    for subject, allowed in ONLY.items():
        assert found.get(subject, set()) == allowed, subject


def test_few_start_processes() -> None:
    for name, tree in MODULES.items():
        called = {
            getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(tree)
        } & STARTERS
        assert called == MAY_START.get(name, set()), name


def test_every_duration_is_on_the_one_clock_that_counts_sleep() -> None:
    readers = set()
    for name, tree in MODULES.items():
        used = {
            getattr(node, "attr", getattr(node, "id", getattr(node, "name", "")))
            for node in ast.walk(tree)
        }
        assert not used & SLEEPING_CLOCKS, f"{name}: {used & SLEEPING_CLOCKS}"
        if "clock_gettime" in used:
            readers.add(name)
    assert readers == {"base.clock", "stay"}


def test_what_stays_is_small() -> None:
    """It waits most of the minute, so it must load nothing of the package."""
    assert imports(MODULES["stay"]) == {"__future__", "os", "select", "stat", "sys", "time"}


def test_the_design_page_names_every_module() -> None:
    """A stranger finds each module, and its room, in doc/design.md."""
    page = (DOC / "design.md").read_text()
    rooms = page.partition("## Rooms")[2].partition("## The way of one test")[0]
    assert len(MODULES) > 50
    for name in MODULES:
        assert f"`{name.rpartition('.')[2]}`" in rooms, name
    for room in filter(None, ROOMS):
        assert f"| `{room}/` |" in rooms, room


def test_the_picture_is_drawn_from_its_text() -> None:
    """doc/architecture.svg shows what doc/architecture.dot says, and that names only what there is."""
    text = (DOC / "architecture.dot").read_text()
    drawn = (DOC / "architecture.svg").read_text()
    lines = [line for label in re.findall(r'label="([^"]+)"', text) for line in label.split("\\n")]
    assert len(lines) > 40
    for line in lines:
        assert html.escape(line, quote=False) in html.unescape(drawn).replace("&", "&amp;"), line
    modules = {name.rpartition(".")[2] for name in MODULES}
    boxes = re.findall(r'^        \w+ \[label="([^"]+)"\]', text, re.MULTILINE)
    first_words = {label.split("\\n")[0].split(",")[0] for label in boxes}
    assert first_words <= modules, first_words - modules


# What a quiet round must not load: each of these takes a millisecond at least, of a start that takes twenty.
HEAVY = {
    *(
        "argparse",
        "ast",
        "asyncio",
        "bz2",
        "concurrent",
        "dataclasses",
        "decimal",
        "difflib",
        "dis",
        "email",
        "fnmatch",
        "gettext",
    ),
    *(
        "getpass",
        "hmac",
        "http",
        "importlib.metadata",
        "inspect",
        "locale",
        "lockfile",
        "logging",
        "lzma",
    ),
    *(
        "multiprocessing",
        "pathlib",
        "pickle",
        "platform",
        "queue",
        "random",
        "secrets",
        "shutil",
        "ssl",
        "statistics",
        "subprocess",
    ),
    *(
        "tempfile",
        "textwrap",
        "threading",
        "tokenize",
        "traceback",
        "unittest",
        "urllib",
        "urllib.parse",
        "uuid",
        "xml",
    ),
    *(
        "dmonitor.config.audit",
        "dmonitor.config.programs",
        "dmonitor.config.sender",
        "dmonitor.core.mail",
        "dmonitor.core.mail_text",
        "dmonitor.core.story",
        "dmonitor.execution.delivery",
        "dmonitor.base.options",
        "dmonitor.net.server",
        "dmonitor.facts",
    ),
}
if sys.version_info >= (3, 14):  # there typing.NamedTuple loads ast, and ctypes loads threading
    HEAVY -= {"ast", "threading"}
QUIET = """
import sys
sys.path[:0] = [sys.argv[1]]
from dmonitor.base import cli
from dmonitor.check import Options, main
Options.once = len(sys.argv) > 4
cli.Options.config, cli.Options.state, cli.Options.run_dir = sys.argv[2], sys.argv[3], None
status = main([])
print(status, *sys.modules)
"""


def test_a_quiet_round_loads_nothing_heavy(place: Place, port: int) -> None:
    """A round with a passing test and a peer that answers; also one with nothing to do, which starts no supervisor."""
    nodes = [
        LocalNode(place, address, ["127.0.0.34", "127.0.0.35"], port=port)
        for address in ("127.0.0.34", "127.0.0.35")
    ]
    for node in nodes:
        node.plugin("web", "echo OK")
        node.test("www.example.com/web")
        node.mail()
    with running(nodes):
        for node in nodes:
            node.round()
        code = [
            sys.executable,
            "-IS",
            "-c",
            QUIET,
            str(place.directory),
            str(nodes[0].config),
            str(nodes[0].state),
        ]
        said = subprocess.run(
            code, capture_output=True, text=True, check=True, timeout=55
        ).stdout.split()
    assert said[0] == "0" and {
        "sqlite3",
        "dmonitor.execution.supervisor",
        "dmonitor.net.peers",
    } < set(said)
    assert HEAVY & set(said) == set()
    for path in (nodes[0].config / "hosts.d/www.example.com").iterdir():
        path.unlink()
    said = subprocess.run(
        [*code, "once"], capture_output=True, text=True, check=True, timeout=55
    ).stdout.split()
    assert (
        said[0] == "0"
        and {"dmonitor.execution.supervisor", "dmonitor.execution.runner", "ctypes"} & set(said)
        == set()
    )
