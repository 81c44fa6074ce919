"""Cells of one row of measurements: text, numbers, counts, flags and words, and in one line what is wrong with one.

A blank cell is unknown: None, or "" for text. A cell that holds something else than its column can mean raises `Unpredictable`
with the column, the value, what was expected and the nearest of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from zoo.names import nearest

T = TypeVar("T")

BLANK = ("", "nan", "n/a", "na", "none", "null", "-", "?", "unknown")
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Unpredictable(ValueError):
    """A row that a model cannot predict; the message is the reason."""


class Cells:
    """A row's cells by column: text, or a positive number; blank is None."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = row

    def text(self, column: str) -> str:
        """What stands there, "" where the cell is empty or missing."""
        value = self._row.get(column)
        blank = value is None or (isinstance(value, float) and math.isnan(value))
        return "" if blank else str(value).strip()

    def said(self, column: str) -> str:
        """What stands there, "" where it is one of the words for unknown."""
        text = self.text(column)
        return "" if text.lower() in BLANK else text

    def number(self, column: str) -> float | None:
        """A positive number; thousands may be set off by commas."""
        text = self.said(column)
        return positive(column, text) if text else None

    def count(self, column: str) -> float | None:
        """A number of at least one; a mean count need not be whole."""
        value = self.number(column)
        if value is not None and value < 1:
            raise Unpredictable(f"{column} is {value:g}, expected at least 1")
        return value

    def whole(self, column: str) -> float | None:
        """A whole number of at least one."""
        text = self.said(column)
        value = as_number(text)
        if text and not (math.isfinite(value) and value >= 1 and value == int(value)):
            raise Unpredictable(f"{column} is {text[:40]!r}, expected a whole number of at least 1")
        return value if text else None

    def flag(self, column: str) -> bool | None:
        """True or false."""
        text = self.said(column)
        if text and text.lower() not in _FLAGS:
            misread(column, text, _FLAGS)
        return _FLAGS.get(text.lower())


def as_number(text: str) -> float:
    """The number that a text is, thousands set off by commas or not; nan where it is none."""
    try:
        return float(re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text))
    except ValueError:
        return math.nan


def positive(column: str, text: str) -> float:
    """The positive number that a cell's text is. Raises Unpredictable."""
    value = as_number(text)
    if not (math.isfinite(value) and value > 0):
        raise Unpredictable(f"{column} is {text[:40]!r}, expected a positive number")
    return value


def misread(column: str, text: str, known: Iterable[str]) -> NoReturn:
    """Raises Unpredictable: what stands in a cell, what was expected, and the nearest of it."""
    words = list(known)
    raise Unpredictable(f"{column} is {text[:40]!r}, expected one of {', '.join(words)}{did_you_mean(text, words)}")


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the known word that resembles a text, "" where none does."""
    near = nearest(text, known)
    return f"; did you mean {near!r}?" if near else ""


def unread(columns: Iterable[str | None], known: Iterable[str]) -> dict[str, str | None]:
    """Columns that are none of the known ones, and the nearest of those; None where none is near."""
    names = list(known)
    others = [column for column in columns if column and column.strip() not in names]
    return {column: nearest(column, names) or None for column in others}


def one_line(error: BaseException) -> str:
    """The first line of what an error says, its kind where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
