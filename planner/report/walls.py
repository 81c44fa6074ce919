"""The twenty-two walls as tables: all of them, one whole with the example that the code works out again, and as a scenario
reads them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

from models.scenario import LEVELS, Evaluation
from models.wall import Reading, Wall, walls
from zoo.units import Quantity, ureg

from .tables import Table, number

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


# ---------------------------------------------------------------- a scenario's evaluation

_LEVELS = {1: "Level 1: does it fit?", 2: "Level 2: how fast is it?", 3: "Level 3: what does it cost and emit?"}
_READ = ("#", "wall", "of", "demand", "limit", "headroom", "")


def headline(name: str, evaluation: Evaluation) -> str:
    """The verdict in one line: how far it got, and the walls that fail."""
    if evaluation.feasible:
        return f"{name}: fits, and keeps every limit that is set"
    failed = dict.fromkeys(f"{reading.wall} {reading.name}" for reading in evaluation.violated)
    verdict = {1: "does not fit", 2: "fits, but not within its limits", 3: "is beyond its budget"}[evaluation.level]
    return f"{name}: {verdict}: wall {', wall '.join(failed)} (level {evaluation.level})"


def evaluation_tables(evaluation: Evaluation, assumptions: Iterable[tuple[str, str]]) -> list[Table]:
    """Demand, limit and headroom of every wall, level by level; the walls that were not reached say why."""
    right = frozenset({"#", "demand", "limit", "headroom"})
    tables, untouched = [], {}
    for level, title in _LEVELS.items():
        read = []
        for reading in evaluation.readings.get(level, ()):
            if reading.demand is None and reading.limit is None:
                untouched[reading.wall] = reading
            else:
                read.append(reading)
        notes = tuple(f"{reading.wall}: {reading.note}" for reading in read if reading.note)
        tables.append(Table(title, _READ, tuple(_line(reading) for reading in read), right, notes))
    seen = {reading.wall for readings in evaluation.readings.values() for reading in readings}
    for wall in walls:
        if wall.number not in seen:
            why = f"not reached: level {evaluation.level} fails"
            untouched[wall.number] = Reading(wall.number, wall.name, "", None, None, None, why)
    judged = {int(row[0]) for table in tables for row in table.rows}
    others = tuple((str(wall), reading.name, reading.note) for wall, reading in sorted(untouched.items()) if wall not in judged)
    tables.append(Table("Walls without demand and limit here", ("#", "wall", "why, or what it says"), others, frozenset({"#"})))
    return [*tables, Table("Assumptions", ("key", "assumption"), tuple(assumptions))]


def evaluation_records(evaluation: Evaluation) -> list[dict[str, object]]:
    """The same as flat records, one for each wall of each level."""
    records: list[dict[str, object]] = []
    for level, reached in LEVELS.items():
        readings = evaluation.readings.get(level)
        if readings is None:
            why = f"not reached: level {evaluation.level} fails"
            readings = tuple(Reading(wall, walls[wall].name, "", None, None, None, why) for wall in reached)
        for reading in readings:
            unit = next((x.units for x in (reading.demand, reading.limit) if isinstance(x, Quantity)), None)
            records.append(
                {
                    "level": level,
                    "wall": reading.wall,
                    "name": reading.name,
                    "of": reading.scope,
                    "demand": _plain(reading.demand, unit),
                    "limit": _plain(reading.limit, unit),
                    "unit": "" if unit is None else _symbol(unit),
                    "headroom": _plain(reading.headroom, None),
                    "violated": reading.violated,
                    "note": reading.note,
                }
            )
    return records


def _line(reading: Reading) -> tuple[str, ...]:
    left = "-" if reading.headroom is None else "none" if math.isinf(reading.headroom) else f"{reading.headroom:.1%}"
    verdict = "FAILS" if reading.violated else ""
    return str(reading.wall), reading.name, reading.scope, _shown(reading.demand), _shown(reading.limit), left, verdict


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Quantity):
        return f"{_digits(float(value.magnitude))} {_symbol(value.units)}"
    return _digits(float(value))


def _digits(value: float) -> str:
    return number(value) if math.isfinite(value) else "no end"


def _symbol(unit: Any) -> str:
    """A unit as people write it: USD, kgCO2e, TB/s."""
    return f"{unit:~C}".replace("usd", "USD").replace("co2e", "CO2e")


def _plain(value: Any, unit: Any) -> float | None:
    """A bare number in `unit`; None for what is not known or has no end."""
    if value is None:
        return None
    bare = float(value.m_as(unit) if isinstance(value, Quantity) else value)
    return bare if math.isfinite(bare) else None
