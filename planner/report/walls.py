"""The twenty-two walls as tables: all of them, and one whole with the example that the code works out again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from models.wall import Wall
from zoo.units import Quantity, ureg

from .tables import Table

_HEADS = ("#", "wall", "domain", "what is bounded", "equation", "reference")


def listing(entries: Iterable[Wall]) -> tuple[Table, list[dict[str, object]]]:
    """Every wall on one line: as a table, and as flat records."""
    rows = [(str(w.number), w.name, w.domain, w.bounded, w.equation, w.reference) for w in entries]
    keys = ("number", "name", "domain", "bounded", "equation", "reference")
    records = [dict(zip(keys, (int(row[0]), *row[1:]), strict=True)) for row in rows]
    return Table("The 22 walls", _HEADS, tuple(rows), frozenset({"#"})), records


def page(entry: Wall) -> tuple[list[Table], dict[str, object]]:
    """One wall whole: as tables, and as a record."""
    record = {
        "number": entry.number,
        "name": entry.name,
        "domain": entry.domain,
        "bounded": entry.bounded,
        "equation": entry.equation,
        "details": _details(entry.functions[0]),
        "function": _path(entry.functions[0]),
        "arguments": arguments(entry.functions[0]),
        "assumptions": entry.assumptions,
        "leaves_out": entry.leaves_out,
        "reference": entry.reference,
        "worked": {
            "by_hand": entry.worked.text,
            "expected": _text(entry.worked.expected),
            "computed": _text(entry.worked.compute()),
        },
        "solver": entry.solver,
        "functions": {_path(function): _summary(function) for function in entry.functions},
    }
    facts = (
        ("bounds", entry.bounded),
        ("equation", entry.equation),
        ("details", _details(entry.functions[0])),
        ("assumes", entry.assumptions),
        ("leaves out", entry.leaves_out),
        ("reference", entry.reference),
        ("worked", entry.worked.text),
        ("the code's", _text(entry.worked.compute())),
        ("solver", entry.solver),
    )
    tables = [
        Table(f"Wall {entry.number}: {entry.name} ({entry.domain})", ("", ""), facts),
        Table(f"Arguments of {_path(entry.functions[0])}", ("argument", "unit"), tuple(arguments(entry.functions[0]).items())),
        Table("Functions", ("function", "what it gives"), tuple((_path(f), _summary(f)) for f in entry.functions)),
    ]
    return tables, record


def flat(record: dict[str, object]) -> list[dict[str, object]]:
    """The record of `page` as lines of field and value, for CSV."""
    lines: list[dict[str, object]] = []
    for key, value in record.items():
        if isinstance(value, dict):
            lines += [{"field": f"{key}.{inner}", "value": what} for inner, what in value.items()]
        else:
            lines.append({"field": key, "value": value})
    return lines


def arguments(function: Callable[..., Any]) -> dict[str, str]:
    """Every argument of a function with its unit in words, and what it returns."""
    units: dict[str, str] = getattr(function, "dimensions", {})
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        found[name] = _unit(units[name]) if name in units else _kind(parameter.annotation)
    if "return" in units:
        found["returns"] = _unit(units["return"])
    return found


def _unit(unit: str) -> str:
    return f"{ureg.Unit(unit):~}" if unit else "a bare number"


def _kind(annotation: Any) -> str:
    return str(getattr(annotation, "__name__", annotation))


def _path(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__name__}"


def _summary(function: Callable[..., Any]) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())


def _details(function: Callable[..., Any]) -> str:
    """What a docstring says after its summary: the exact form, what each argument means, what it is from."""
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")[1:]
    return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _text(value: Any) -> str:
    return f"{value:.6g~}" if isinstance(value, Quantity) else f"{float(value):.6g}"
