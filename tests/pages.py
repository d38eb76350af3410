#!/usr/bin/python3 -B
"""How hard the pages are to read, and what is misspelt in them.

    python3 tests/pages.py [--long] [--spelling] [PAGE...]

For each page: its words, its sentences, how many of these have over 30 words, the mean, and Flesch's
reading ease: 60 and more is plain English, below 30 is hard for everybody. --long lists the long
sentences. --spelling asks codespell and hunspell, and ends with 1 if a word is in no dictionary and
not in tests/words.txt.

Code does not count, neither blocks nor the blocks' output; `code` in a sentence is one word. A cell
of a table counts as a sentence if it is long, but is not in the mean. Manual pages are read as
mandoc makes HTML of them. tests/test_pages.py holds what must hold.
"""

from __future__ import annotations

import argparse
import html.parser
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).parents[1]
LONG = 30  # words of a sentence, at most
WORDS = Path(__file__).with_name("words.txt")
_CODE = "Code"  # what stands for `code` in a sentence, which it may begin
_ABBREVIATIONS = r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\betc)"
_END_OF_SENTENCE = re.compile(_ABBREVIATIONS + r"""[.!?]["')*_]*\s+(?=["'(*_`\[]*[A-Z0-9`])""")
_LIST_ITEM = re.compile(r"\s*(?:[-*+]|\d+\.)\s+")


class Page(NamedTuple):
    """What a person reads of a page, without its code."""

    paragraphs: list[str]
    cells: list[str]  # of tables

    def sentences(self) -> list[str]:
        """Return the sentences of the paragraphs."""
        return [sentence for text in self.paragraphs for sentence in split(text)]

    def long_sentences(self) -> list[str]:
        """Return what has more than LONG words, in paragraphs and in tables."""
        every = [*self.sentences(), *(part for cell in self.cells for part in split(cell))]
        return [sentence for sentence in every if len(words_of(sentence)) > LONG]


class Figures(NamedTuple):
    """How hard a page is to read."""

    words: int
    sentences: int
    long: int
    mean: float  # words of a sentence
    ease: float  # Flesch's


def every_page() -> list[Path]:
    """Return the pages that people read, the first one first."""
    first = [CHECKOUT / name for name in ("README.md", "CONTACTS.md", "CONTRIBUTING.md")]
    return [*first, *sorted(CHECKOUT.glob("doc/*.md")), *sorted(CHECKOUT.glob("man/*"))]


class _Manual(html.parser.HTMLParser):
    """Takes the prose of a manual page from what mandoc makes of it."""

    _BLOCKS = ("p", "dd", "dt", "li", "div", "section", "td", "tr", "h1", "h2", "table")
    _CODE = ("code", "var", "b")
    _SKIPPED = ("pre", "dt", "h1", "h2", "title", "style", "head")

    def __init__(self) -> None:
        super().__init__()
        self.page = Page([], [])
        self._text: list[str] = []
        self._open: list[tuple[str, bool]] = []  # what is open, and whether it is skipped
        self._is_cell = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in self._BLOCKS:
            self._end_block()
            self._is_cell = tag == "td"
        if tag in ("meta", "link", "br", "hr"):
            return
        shown = dict(attributes).get("class") or ""
        skipped = tag in self._SKIPPED or "Bd-indent" in shown or shown in ("head", "foot", "Nd")
        if tag in self._CODE and not self._skips():
            self._text.append(f" {_CODE} ")
            skipped = True
        self._open.append((tag, skipped))

    def handle_endtag(self, tag: str) -> None:
        if tag in self._BLOCKS:
            self._end_block()
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not self._skips():
            self._text.append(data)

    def _skips(self) -> bool:
        return any(skipped for _, skipped in self._open)

    def _end_block(self) -> None:
        text = re.sub(r"\s+(?=[,.;:)’])|(?<=[(‘])\s+", "", " ".join("".join(self._text).split()))
        if text:
            (self.page.cells if self._is_cell else self.page.paragraphs).append(text)
        self._text.clear()


def page_of(path: Path) -> Page:
    """Read a page; OSError if it is a manual page and there is no mandoc."""
    if path.suffix == ".md":
        return read(path.read_text())
    made = subprocess.run(
        ["mandoc", "-T", "html", str(path)], capture_output=True, text=True, check=True
    )
    manual = _Manual()
    manual.feed(made.stdout)
    manual.close()
    return manual.page


def read(text: str) -> Page:
    """Take the code out of a page in Markdown, and its prose apart."""
    page = Page([], [])
    lines: list[str] = []  # of the paragraph that is being read
    is_code = False

    def end_paragraph() -> None:
        if lines:
            page.paragraphs.append(plain(" ".join(lines)))
            lines.clear()

    for line in re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).splitlines():
        if line.lstrip().startswith("```"):
            is_code = not is_code
            end_paragraph()
        elif is_code:
            continue
        elif not line.strip() or line.startswith(("#", "---", "![")):
            end_paragraph()
        elif line.startswith(("    ", "\t")) and not lines:
            continue
        elif line.startswith("|"):
            end_paragraph()
            page.cells.extend(plain(cell) for cell in line.strip("| ").split("|"))
        else:
            item = _LIST_ITEM.match(line)
            if item:
                end_paragraph()
                line = line[item.end() :]
            lines.append(line.strip().lstrip("> "))
    end_paragraph()
    return page


def plain(text: str) -> str:
    """Return a paragraph without its markup."""
    text = re.sub(r"``.*?``|`[^`]*`", _CODE, text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"<?https?://\S+?>?(?=[\s,)]|$)", _CODE, text)
    return re.sub(r"\*\*|(?<!\w)[*_]|[*_](?!\w)", "", text).strip()


def split(text: str) -> list[str]:
    """Return the sentences of a paragraph."""
    return [sentence for sentence in _END_OF_SENTENCE.split(text) if words_of(sentence)]


def words_of(sentence: str) -> list[str]:
    """Return the words; what has neither a letter nor a digit is none."""
    return [word for word in sentence.split() if re.search(r"[^\W_]", word)]


def syllables(word: str) -> int:
    """Return how many syllables an English word has, by its groups of vowels; one at least."""
    word = re.sub(r"[^a-z]", "", word.lower())
    count = len(re.findall(r"[aeiouy]+", word))
    silent = (
        r"[^le]e$|[^aeiouydtszhc]e[ds]$"  # the e of "node", "named" and "nodes", not of "table"
    )
    return max(1, count - bool(re.search(silent, word)))


def figures(page: Page) -> Figures:
    """Measure a page."""
    sentences = page.sentences()
    words = [word for sentence in sentences for word in words_of(sentence)]
    if not words:
        return Figures(0, 0, len(page.long_sentences()), 0.0, 0.0)
    mean = len(words) / len(sentences)
    ease = 206.835 - 1.015 * mean - 84.6 * sum(map(syllables, words)) / len(words)
    return Figures(len(words), len(sentences), len(page.long_sentences()), mean, ease)


def misspelt(path: Path) -> list[str]:
    """Return what codespell and hunspell complain of in a page."""
    page = page_of(path)
    prose = "\n".join([*page.paragraphs, *page.cells])
    prose = re.sub(rf"{_CODE}\w*|[‘’]", " ", prose)
    prose = re.sub(
        r"\S*[/@\d_=]\S*|\S+\(\d\)|\w+-\w[\w-]*|\S+\.\w+", " ", prose
    )  # names, not words
    spelt = subprocess.run(
        ["codespell", "-"], input=prose, capture_output=True, text=True, check=False
    )
    # codespell repeats each line in which it found something, and then says what.
    found = re.findall(r"\S+ ==> .*", spelt.stdout)
    asked = subprocess.run(
        ["hunspell", "-d", "en_GB,en_US", "-p", str(WORDS), "-l", "-i", "utf-8"],
        input=prose, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return found + sorted(set(asked.stdout.split()))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help="list the long sentences")
    parser.add_argument("--spelling", action="store_true", help="list what is misspelt")
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE")
    chosen = parser.parse_args()
    wrong = 0
    if not chosen.spelling:
        print(f"{'words':>7}{'sentences':>11}{'over 30':>9}{'mean':>7}{'Flesch':>8}  page")
    for path in [page.resolve() for page in chosen.pages] or every_page():
        name = path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path
        if chosen.spelling:
            found = misspelt(path)
            wrong += len(found)
            for word in found:
                print(f"{name}: {word}")
            continue
        page = page_of(path)
        measured = figures(page)
        print(
            f"{measured.words:>7}{measured.sentences:>11}{measured.long:>9}"
            f"{measured.mean:>7.1f}{measured.ease:>8.0f}  {name}"
        )
        if chosen.long:
            for sentence in page.long_sentences():
                print(f"    {len(words_of(sentence))}: {sentence}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
