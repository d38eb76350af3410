"""Lay a table out in the width of a terminal: cut what is long, leave out what is dispensable.

Pure: cells in, lines out. Widths are in columns of a terminal, where a wide character takes two.
"""

from __future__ import annotations

import enum
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

_GAP = "  "  # between two columns of a table
_ELLIPSIS = "…"
_LEAST = 8  # columns that a cell keeps when its column is cut
# A column that can be cut counts as no wider than this when it is decided what is left out.
_COMFORTABLE = 20
_INDENT = "  "  # of the further lines of a sentence


class Cut(enum.Enum):
    """What becomes of a cell that is too long."""

    NEVER = enum.auto()
    END = enum.auto()
    MIDDLE = enum.auto()  # of names: host and test stand at different ends


class Column(NamedTuple):
    """A column of a table."""

    title: str
    cut: Cut = Cut.NEVER
    is_state: bool = False  # its words have colours
    # The columns that a narrow table can do without; the highest number is left out first.
    dispensable: int = 0


Painter = Callable[[str, str], str]  # returns the second text in the colour of the first one


def width_of(text: str) -> int:
    """Return how many columns of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    return sum(map(_width_of_character, text))


def _width_of_character(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int, how: Cut = Cut.END) -> str:
    """Return `text` in no more than `width` columns; where it was cut there is an ellipsis."""
    if width_of(text) <= width:
        return text
    room = width - width_of(_ELLIPSIS)
    if room < 0:
        return ""
    behind = room // 2 if how is Cut.MIDDLE else 0
    end = _first(text[::-1], behind)[::-1]
    return _first(text, room - behind) + _ELLIPSIS + end


def _first(text: str, width: int) -> str:
    """Return as many of the first characters of `text` as take no more than `width` columns."""
    taken = 0
    for index, character in enumerate(text):
        taken += _width_of_character(character)
        if taken > width:
            return text[:index]
    return text


def fold(text: str, width: int | None) -> list[str]:
    """Return `text` in lines of no more than `width` columns, broken between words.

    None is a width without end.
    """
    if width is None:
        return [text]
    lines = [""]
    for word in text.split(" "):
        for piece in _pieces(word, max(1, width - len(_INDENT))):
            longer = f"{lines[-1]} {piece}" if lines[-1].strip() else lines[-1] + piece
            if width_of(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(_INDENT + piece)
    return lines


def _pieces(word: str, width: int) -> list[str]:
    """Return `word` in pieces of no more than `width` columns."""
    pieces = []
    while width_of(word) > width:
        piece = _first(word, width) or word[0]
        pieces.append(piece)
        word = word[len(piece) :]
    return [*pieces, word]


def table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    paint: Painter,
    width: int | None = None,
) -> list[str]:
    """Return the lines of a table, the titles first, each no wider than `width`.

    None is a width without end: then every cell is whole.
    """
    body = list(rows)
    shown = list(range(len(columns)))
    widths = [_natural_width(columns, body, index) for index in shown]
    if width is not None:
        shown = _indispensable(columns, widths, width)
        widths = _fitted(columns, widths, shown, width)
    titles = [column.title for column in columns]
    lines = [_line(titles, columns, widths, shown, None)]
    for row in body:
        lines.append(_line(row, columns, widths, shown, paint))
    return lines


def fits(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> bool:
    """Return whether a table takes no more than `width` columns with every cell whole."""
    if width is None:
        return True
    widths = [_natural_width(columns, rows, index) for index in range(len(columns))]
    return _total(widths) <= width


def _natural_width(columns: Sequence[Column], rows: Sequence[Sequence[str]], index: int) -> int:
    widths = [width_of(row[index]) for row in rows]
    return max(width_of(columns[index].title), *widths, 0)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _indispensable(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """Return the indexes of the columns that have room in a table of `width`."""
    shown = list(range(len(columns)))
    wanted = list(widths)
    for index in shown:
        if columns[index].cut is not Cut.NEVER:
            wanted[index] = min(wanted[index], _COMFORTABLE)
    in_turn = [index for index in shown if columns[index].dispensable]
    in_turn.sort(key=lambda index: columns[index].dispensable)
    while in_turn and _total([wanted[index] for index in shown]) > width:
        shown.remove(in_turn.pop())
    return shown


def _fitted(
    columns: Sequence[Column], widths: Sequence[int], shown: Sequence[int], width: int
) -> list[int]:
    """Return the widths with which the columns in `shown` fit; the widest are cut first."""
    fitted = list(widths)
    excess = _total([fitted[index] for index in shown]) - width
    for _ in range(excess):
        widest = max(shown, key=lambda index: _spare(columns[index], fitted[index]))
        fitted[widest] = max(1, fitted[widest] - 1)
    return fitted


def _spare(column: Column, width: int) -> tuple[bool, int]:
    """Return the sort key of what is cut next: a column that is to be whole is cut last."""
    return column.cut is not Cut.NEVER and width > _LEAST, width


def _line(
    row: Sequence[str],
    columns: Sequence[Column],
    widths: Sequence[int],
    shown: Sequence[int],
    paint: Painter | None,
) -> str:
    """Return one line of a table, without blanks at its end."""
    cells = []
    for index in shown:
        text = cut(row[index], widths[index], columns[index].cut)
        if index != shown[-1]:
            text += " " * (widths[index] - width_of(text))
        if paint and columns[index].is_state:
            text = paint(row[index], text)
        cells.append(text)
    return _GAP.join(cells).rstrip()
