"""What the pages say is there, and what is there is in the manual; tests/pages.py measures how they read."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pages
import pytest
import rivals

from dmonitor.config import settings
from dmonitor.core import health

CHECKOUT = Path(__file__).parents[1]
MARKDOWN = [path for path in pages.every_page() if path.suffix == ".md"]
MARKDOWN.append(CHECKOUT / "CHANGELOG.md")
PROGRAMS = ("dmonitor", "dmonitor-check", "dmonitord")
# Pages in which no sentence has more than pages.LONG words. A page joins when it is written anew.
PLAIN = (
    "README.md",
    "CONTACTS.md",
    "CONTRIBUTING.md",
    *(
        f"doc/{name}.md"
        for name in (
            "README",
            "getting-started",
            "what-to-test",
            "notifications",
            "day-two",
            "when-something-is-odd",
            "how-it-decides",
            "rivals",
            "scale",
            "container",
            "tests",
            "mail-systems",
        )
    ),
)
_PRIORITIES = ("debug", "info", "warning", "error", "critical")
_EVENT = re.compile(r"[a-z]+(-[a-z]+)*")


# Links


def anchors(text: str) -> set[str]:
    """Return what may follow a # in a link to a page, as GitHub makes it of the headings."""
    found = set()
    for heading in re.findall(r"^#+ +(.+)$", re.sub(r"(?ms)^```.*?^```", "", text), re.MULTILINE):
        kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
        found.add(kept.strip().replace(" ", "-"))
    return found


def links(text: str) -> list[str]:
    """Return where the links and pictures of a page lead to."""
    text = re.sub(r"(?ms)^```.*?^```", "", text)
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))


def broken_links(page: Path, text: str) -> list[str]:
    """Return the links of a page to files and headings that are not there."""
    broken = []
    for link in links(text):
        name, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", name):
            continue
        target = (page.parent / name).resolve() if name else page
        is_there = target.exists() and target.is_relative_to(CHECKOUT)
        if not is_there or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


def test_the_page_of_symptoms_quotes_what_the_programs_print() -> None:
    code = "".join(path.read_text() for path in (CHECKOUT / "dmonitor").rglob("*.py"))
    page = (CHECKOUT / "doc/when-something-is-odd.md").read_text()
    symptoms = re.findall(
        r'^\| (?:"([^"]+)"|`([^`]+)`) \|', page.partition("\n## ")[0], re.MULTILINE
    )
    assert len(symptoms) >= 4
    for said in ("".join(either) for either in symptoms):
        assert said in code, said


def test_a_link_that_leads_nowhere_is_found() -> None:
    page = CHECKOUT / "README.md"
    text = "[a](doc/none.md) [b](doc/scale.md#none) [c](#none) [d](doc/scale.md) [e](https://x.example/)"
    assert broken_links(page, text) == ["doc/none.md", "doc/scale.md#none", "#none"]
    assert sum(len(links(page.read_text())) for page in MARKDOWN) >= 3


# Sentences


@pytest.mark.parametrize("name", PLAIN)
def test_sentences_are_short(name: str) -> None:
    page = pages.page_of(CHECKOUT / name)
    assert page.sentences()
    assert page.long_sentences() == []


def test_long_sentences_are_found() -> None:
    text = f"Short. {'word ' * 31}\nand `so many words` more. | no table\n\n| {'cell ' * 31} |\n"
    page = pages.read(text + "\n```sh\n" + "code " * 40 + "\n```\n\n    " + "code " * 40)
    assert [len(pages.words_of(sentence)) for sentence in page.long_sentences()] == [37, 31]
    one = pages.read("We ask `x`. `y` answers, e.g. Once in 2.5 s. 3 do.").sentences()
    assert one == ["We ask Code", "Code answers, e.g. Once in 2.5 s", "3 do."]
    figures = pages.figures(pages.read("The cat sat on the mat. The cat sat on the mat."))
    assert (figures.sentences, figures.mean) == (2, 6.0)
    assert round(figures.ease) == 116


# Options


@functools.cache
def options(program: str, verb: str = "") -> frozenset[str]:
    """Return the options that a program says it takes, or that one of its verbs does."""
    words = [verb, "--help"] if verb else ["--help"]
    command = [sys.executable, str(CHECKOUT / "bin" / program), *words]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(CHECKOUT)}
    )
    hidden = {"--woken"} if program == "dmonitor-check" else set()  # for the programs themselves
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", ran.stdout)) | hidden


@functools.cache
def verbs() -> tuple[str, ...]:
    """Return the verbs of dmonitor."""
    command = [sys.executable, str(CHECKOUT / "bin/dmonitor"), "--help"]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(CHECKOUT)}
    )
    return tuple(re.findall(r"^    ([a-z]+) +[a-z]", ran.stdout, re.MULTILINE))


def commands(text: str) -> list[list[str]]:
    """Return the calls of our programs that a page shows, in words."""
    text = re.sub(r"\\\n *", "", text.replace("\\-", "-"))
    named = r"(?m)(?:^[ $#]*|^\.D[l1] |[`‘;|&(] ?|\$ |# )(dmonitor(?:-check|d)?) +([^`|;&#>)’‘\n]*)"
    return [[match[1], *match[2].replace("'", "").split()] for match in re.finditer(named, text)]


def unknown_options(text: str) -> list[str]:
    """Return the options that a page shows and that the programs do not take."""
    wrong = []
    for program, *words in commands(text):
        verb = (
            next((word for word in words if word in verbs()), "") if program == "dmonitor" else ""
        )
        known = options(program) | (options(program, verb) if verb else frozenset())
        for word in words:
            option = word.rstrip(".,:")
            if re.fullmatch(r"--?[a-z][a-z-]*", option) and option not in known:
                wrong.append(" ".join(filter(None, (program, verb, option))))
    return wrong


@pytest.mark.parametrize("page", pages.every_page(), ids=lambda page: page.name)
def test_options_that_are_shown_exist(page: Path) -> None:
    assert unknown_options(page.read_text()) == []


def test_an_option_that_does_not_exist_is_found() -> None:
    text = "`dmonitor status --peer`, dmonitor-check --all\n    dmonitor-check -n --dry-run; dmonitord --forground"
    assert unknown_options(text) == ["dmonitor status --peer", "dmonitord --forground"]
    readme = (CHECKOUT / "README.md").read_text()
    assert ["dmonitor", "push", "--yes"] in commands(readme)


def flags(manual: str) -> set[str]:
    """Return the options that a manual page names."""
    named = re.findall(r"\bFl ((?:[\w-]+(?: , Fl )?)+)", manual)
    return {f"-{word}" for words in named for word in words.split(" , Fl ")}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_option_is_in_the_manual(program: str) -> None:
    manual = (CHECKOUT / f"man/{program}.8").read_text()
    taken = set(options(program))
    for verb in verbs() if program == "dmonitor" else ():
        assert re.search(rf"^\.It Cm {verb}\b", manual, re.MULTILINE), verb
        taken |= options(program, verb)
    assert {"--help", "--version", "-v"} < taken
    common = flags((CHECKOUT / "man/dmonitord.8").read_text())
    assert {option for option in taken if option not in flags(manual) | common} == set()


# Settings, troubles, events


def test_every_setting_is_in_the_manual_and_no_other() -> None:
    manual = (CHECKOUT / "man/dmonitor.conf.5").read_text()
    table = manual[manual.index(".It Sy Key") : manual.index(".El", manual.index(".It Sy Key"))]
    listed = re.findall(r"^\.It Ic ([a-z]+) Ta", table, re.MULTILINE)
    assert sorted(listed) == sorted(settings._SETTINGS)
    etc = (CHECKOUT / "etc/dmonitor.conf").read_text()
    assert set(re.findall(r"^#?([a-z]+) = ", etc, re.MULTILINE)) <= set(listed)


def test_every_trouble_is_in_the_manual_and_no_other() -> None:
    manual = (CHECKOUT / "man/dmonitor-check.8").read_text()
    section = manual[manual.index(".Sh TROUBLES") : manual.index(".Sh INCIDENTS")]
    listed = re.findall(r"^\.It Cm ([a-z-]+)", section, re.MULTILINE)
    assert sorted(listed) == sorted(health._KINDS)


def events(code: str) -> set[str]:
    """Return the events that a module logs: those it calls by name, and those it keeps as `event`."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            owner, _, called = ast.unparse(node.func).rpartition(".")
            is_log = called in _PRIORITIES and owner.endswith("log")
            # Others that are called write have no facts.
            if (
                is_log
                or called in ("note", "_note", "_warn")
                or (called == "write" and node.keywords)
            ):
                texts = [set(_texts(argument)) for argument in node.args]
                found |= next((words for words in reversed(texts) if words), set())
        elif isinstance(node, ast.Assign) and re.match(r"\(?event\b", ast.unparse(node.targets[0])):
            value = node.value.elts[0] if isinstance(node.value, ast.Tuple) else node.value
            found |= set(_texts(value))
    return {event for event in found if _EVENT.fullmatch(event)} - set(_PRIORITIES)


def _texts(node: ast.expr) -> list[str]:
    """Return the texts that an argument may be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return _texts(node.body) + _texts(node.orelse)
    return []


@functools.cache
def every_event() -> frozenset[str]:
    """Return what the programs log."""
    return frozenset().union(
        *(events(path.read_text()) for path in (CHECKOUT / "dmonitor").rglob("*.py"))
    )


def logging_of(page: str) -> str:
    """Return the section of a manual page about its log."""
    manual = (CHECKOUT / "man" / page).read_text()
    return manual.partition(".Sh LOGGING")[2].partition("\n.Sh ")[0]


def test_every_event_is_in_the_manual() -> None:
    assert {"verdict", "handed-over", "steady", "trouble", "stranger", "pushed"} < every_event()
    said = " ".join(logging_of(f"{program}.8") for program in PROGRAMS)
    named = set(re.findall(r"[a-z]+(?:-[a-z]+)*", said))
    assert every_event() - named == set()


@pytest.mark.parametrize("program", ["dmonitor-check", "dmonitord"])
def test_no_event_is_in_the_manual_that_is_not_logged(program: str) -> None:
    listed = set()
    for item in re.findall(r"^\.It Cm (.+)$", logging_of(f"{program}.8"), re.MULTILINE):
        listed |= set(re.findall(_EVENT.pattern.replace("(", "(?:"), item.partition(" No ")[0]))
    assert len(listed) > 10
    # What is too much for the log is counted: more-refused.
    unknown = listed - every_event() - {f"more-{event}" for event in every_event()}
    assert unknown == set()


# Figures beside other monitors


def test_the_tables_and_the_plot_are_made_from_the_results() -> None:
    results = rivals.read()
    page = rivals.PAGE.read_text()
    made = rivals.tables(results)
    assert page == rivals.fill_in(page, made), "run tests/rivals.py"
    assert rivals.PLOT.read_text() == rivals.plot(results), "run tests/rivals.py"
    assert "| Nagios, one try | refused port | 200 | 120 | 80 | not counted |" in made["delay"]
