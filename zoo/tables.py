"""The files under `zoo/data`: rows of text, read once, and their content hash."""

from __future__ import annotations

import csv
import hashlib
import io
from functools import cache
from pathlib import Path

from .specs import Source
from .units import Q, Quantity, ureg

DATA = Path(__file__).with_name("data")

Row = dict[str, str]


@cache
def content(name: str) -> bytes:
    """The bytes of a data file."""
    return (DATA / name).read_bytes()


@cache
def digest(name: str) -> str:
    """The SHA-256 of a data file, as hexadecimal."""
    return hashlib.sha256(content(name)).hexdigest()


@cache
def rows(name: str) -> tuple[Row, ...]:
    """The rows of a CSV file with a header; blank cells are empty text, which means unknown."""
    header, *lines = csv.reader(io.StringIO(content(name).decode("utf-8"), newline=""))
    return tuple(dict(zip(header, line, strict=True)) for line in lines)


def number(cell: str) -> float | None:
    """A cell as a number; None when blank."""
    return float(cell) if cell else None


def integer(cell: str) -> int | None:
    """A cell as a whole number; None when blank."""
    return int(cell) if cell else None


@cache
def _unit(name: str):  # type: ignore[no-untyped-def]
    return ureg.Unit(name)


@cache
def _quantity(value: float, unit: str) -> Quantity:
    return Q(value, _unit(unit))


def amount(cell: str, unit: str) -> Quantity | None:
    """A cell as a quantity in `unit`; None when blank."""
    return _quantity(float(cell), unit) if cell else None


def known(cell: str, unit: str) -> Quantity:
    """A cell that may not be blank, as a quantity in `unit`."""
    return _quantity(float(cell), unit)


def spellings(cell: str) -> tuple[str, ...]:
    """A cell of names apart by semicolons."""
    return tuple(part.strip() for part in cell.split(";") if part.strip())


def source(row: Row, date: str | None = None, note: str | None = None) -> Source:
    """The provenance columns of a row."""
    return Source(
        row["source"],
        date or row.get("year") or None,
        row.get("verified") == "true",
        row.get("note", "") if note is None else note,
    )
