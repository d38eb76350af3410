"""The place of a node's rounds: what is kept of it, and how it moves (rule R10)."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmonitor.store import place


@pytest.mark.parametrize("text", ["", "x", "-1", "60", "nan", "40\nmore"])
def test_an_odd_place_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "place").write_text(text)
    assert place.read(str(tmp_path)) == 0.0


def test_rounds_begin_later_by_small_steps_and_earlier_at_once(tmp_path: Path) -> None:
    """A speaker whose round begins much later than the last one would be taken for silent."""
    directory = str(tmp_path)
    assert [place.write(directory, 12.0) for _ in range(4)] == [5.0, 10.0, 12.0, 12.0]
    assert place.read(directory) == 12.0
    assert place.write(directory, 3.5) == place.read(directory) == 3.5
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_place_that_cannot_be_kept_is_the_last_one(tmp_path: Path) -> None:
    assert place.write(str(tmp_path / "missing"), 20.0) == 0.0
