"""A test that something is not said proves nothing if nobody could say it: such words are found."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from local_nodes import CHECKOUT

TESTS = Path(__file__).parent
PYTHON_SAYS = {"Traceback"}  # what no program of ours has in its code


def literals(code: str) -> Iterator[str]:
    """Yield each text in `code`, of the constant parts of f-strings, too."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            yield node.value if isinstance(node.value, str) else node.value.decode("latin-1")


def absent(code: str) -> list[str]:
    """Return each text of which `code` asserts that it is not in something."""
    found: list[str] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.NotIn):
            if isinstance(node.left, ast.Constant):
                found += literals(ast.unparse(node.left))
    return found


def never_said(code: str, package: str) -> list[str]:
    """Return what `code` asserts to be absent, although neither `package` nor `code` ever says it."""
    own = list(literals(code))
    found = []
    for text in absent(code):
        elsewhere = sum(text in other for other in own) > 1
        if text not in package and text not in PYTHON_SAYS and not elsewhere:
            found.append(text)
    return found


def package() -> str:
    """Return all texts that the package, its plugins and its examples may say."""
    texts: list[str] = []
    for path in sorted((CHECKOUT / "dmonitor").rglob("*.py")):
        texts += literals(path.read_text())
    for folder in ("plugins", "etc"):
        texts += [path.read_text() for path in (CHECKOUT / folder).rglob("*") if path.is_file()]
    return "\n".join(texts)


def test_what_is_not_to_be_said_could_be() -> None:
    said = package()
    found = {path.name: never_said(path.read_text(), said) for path in TESTS.glob("test_*.py")}
    assert sum(len(absent(path.read_text())) for path in TESTS.glob("test_*.py")) > 30
    assert {name: texts for name, texts in found.items() if texts} == {}


def test_an_event_that_has_another_name_now_is_found() -> None:
    code = 'assert "speaker" not in log\nassert "round-slept" not in log\nassert "gone" not in log'
    assert never_said(code, "speaker-chosen round-hung") == ["round-slept", "gone"]
    assert never_said(code + '\nmake("gone")', "round-slept speaker") == []
