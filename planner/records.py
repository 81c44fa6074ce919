"""Records that are read from a file: from plain data to a typed record, and from faults to sentences.

What questions (`planner.query`) and scenarios (`planner.scenario`) share: a mapping with known keys, where each key was written,
and the one line that says what is wrong, where, and what was expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import ErrorDetails, core_schema

from zoo.names import nearest
from zoo.units import Quantity
from zoo.yaml_source import Document

from .scalars import LONGEST_TEXT, PERCENTILE, Keys, flow, line_of, show, text_of

_SHOWN_ERRORS = 20
_MOST_VALUES = 100_000
_MOST_KEYS = 1000
_DEEPEST = 40


class OutOfTime(Exception):
    """The time for an answer was over before there was one."""


class QueryError(ValueError):
    """A question that cannot be asked. Each of `lines` is one fault: "file:line: key: what is wrong and what was expected"."""

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = lines

    def __str__(self) -> str:
        return "\n".join(self.lines)


class CannotBe(QueryError):
    """A question whose every name exists, but in which what is asked for cannot go together: nothing can be laid out so."""


class NotProven(QueryError):
    """The time for a proof was over before there was one: another run with more of it may answer."""


def entry(description: str, *examples: Any, **more: Any) -> Any:
    """A field with what an editor and an error message say about it."""
    return Field(description=description, examples=list(examples), **more)


class Part(BaseModel):
    """A mapping of the question: known keys only, unchangeable."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)
    order: ClassVar[tuple[str, ...]] = ()  # in which keys are written and listed, where that is not the order of the fields
    called: ClassVar[Mapping[str, str]] = {}  # other words that people have for a key -> the key


def dotted(keys: Keys) -> str:
    """("workload", "populations", 0, "rate") as "workload.populations[0].rate"."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return line_of(text)


def parse_path(path: str) -> Keys:
    """The reverse of `dotted`. "sla.ttft.p99.9" names the percentile p99.9."""
    keys: list[str | int] = []
    rest = path.strip()
    while rest:
        found = re.match(rf"\.?(?:\[(\d{{1,6}})\]|({PERCENTILE}(?=$|\.|\[)|[^.\[\]\s]+))", rest)
        if not found or (not keys and rest.startswith(".")):
            break
        keys.append(int(found[1]) if found[1] else found[2])
        rest = rest[found.end() :]
    if rest or not keys or isinstance(keys[0], int):
        raise QueryError(f"--set {show(path)}: not a path; expected one such as sla.ttft.p99 or workload.populations[0].rate")
    return tuple(keys)


def is_path(keys: Keys) -> bool:
    """Whether keys can be written as a path: those of a user's own names may not."""
    try:
        return parse_path(dotted(keys)) == keys
    except QueryError:
        return False


@dataclass(frozen=True)
class Origin:
    """Where each key was written: a file with lines, and the overrides (`--set`) that replaced parts of it."""

    source: str = "<python>"
    folder: Path = Path()
    document: Document | None = None
    replaced: tuple[Keys, ...] = ()

    def override(self, keys: Keys) -> Keys | None:
        """The last override that wrote the value at `keys`."""
        for written in reversed(self.replaced):
            if keys[: len(written)] == written:
                return written
        return None

    def line(self, keys: Keys) -> int | None:
        """The line of a key, or of the nearest key above it. None when it was not read from a file."""
        if self.document is None or self.override(keys) is not None:
            return None
        return self.document.line(keys)

    def file(self, keys: Keys) -> str:
        return "--set" if self.override(keys) is not None else self.source

    def place(self, keys: Keys, overriding: Sequence[Keys] = ()) -> str:
        """Which file, line and key: "serve.yaml:14: sla.ttft.p99". What overrides are making now is charged to them."""
        written = self.override(keys)
        if written is not None or overriding:
            names = ", ".join(dotted(path) for path in ([written] if written is not None else overriding))
            rest = "" if keys == written or not keys else f": {dotted(keys)}"
            return f"--set {names}{rest}"
        line = self.line(keys)
        at = self.source if line is None else f"{self.source}:{line}"
        return f"{at}: {dotted(keys)}" if keys else at


def plain_data(value: Any, keys: Keys, faults: list[tuple[Keys, str]], count: list[int] | None = None) -> Any:
    """A copy of `value` in JSON's types alone. Quantities become text; what has no place in a query becomes a fault."""
    count = [0] if count is None else count
    count[0] += 1
    if count[0] > _MOST_VALUES or len(keys) > _DEEPEST:
        if count[0] < 2 * _MOST_VALUES:
            faults.append((keys[:4], "too large or too deep for a query"))
            count[0] = 2 * _MOST_VALUES
        return None
    if isinstance(value, Mapping):
        if len(value) > _MOST_KEYS:
            faults.append((keys, f"{len(value)} keys, expected at most {_MOST_KEYS}"))
            return None
        result = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                faults.append((keys, f"{show(key)} is not a key: keys are text"))
            elif key.isprintable() and len(key) <= LONGEST_TEXT:
                result[key] = plain_data(inner, (*keys, key), faults, count)
            else:
                faults.append((keys, f"{show(key)} is not a key"))
        return result
    if isinstance(value, list | tuple):
        return [plain_data(inner, (*keys, place), faults, count) for place, inner in enumerate(value)]
    if isinstance(value, Quantity):
        return text_of(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        faults.append((keys, "no value; give one or leave the key out"))
    elif isinstance(value, float) and not math.isfinite(value):
        faults.append((keys, f"{value} is not a number that a query may hold"))
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**18:
        faults.append((keys, "a number beyond 1e18: expected a smaller one"))
    elif not isinstance(value, str | int | float | bool):
        faults.append((keys, f"{show(str(value))} is a {type(value).__name__}, expected text, a number, a list or a mapping"))
    else:
        return value
    return None


def faults_of(error: ValidationError, model: type[Part]) -> Iterator[tuple[Keys, str]]:
    """What pydantic found, as (keys, sentence)."""
    found = error.errors(include_url=False)
    missing: dict[tuple[int | str, ...], list[str]] = {}
    for detail in found:
        if detail["type"] == "missing":
            missing.setdefault(detail["loc"][:-1], []).append(str(detail["loc"][-1]))
    # A misspelt key explains why its right spelling is missing: one fault, not two.
    explained: set[tuple[int | str, ...]] = set()
    for detail in found:
        if detail["type"] == "extra_forbidden":
            *parent, key = detail["loc"]
            guess = nearest(key, missing.get(tuple(parent), []))
            if guess:
                explained.add((*parent, guess))
    # A list is not short because an entry was refused.
    inside = {detail["loc"][:depth] for detail in found for depth in range(len(detail["loc"]))}
    for detail in found:
        if detail["loc"] not in explained and not (detail["type"] == "too_short" and detail["loc"] in inside):
            yield _sentence(detail, model)


def _sentence(detail: ErrorDetails, model: type[Part]) -> tuple[Keys, str]:
    keys: Keys = tuple(key for key in detail["loc"] if key != "[key]")
    value, kind = detail.get("input"), detail["type"]
    example = _example(model, keys)
    such = f" such as {flow(example)}" if example is not None else ""
    fault = detail.get("ctx", {}).get("error")
    if kind == "value_error" and fault is not None:
        return (*keys, *getattr(fault, "at", ())), str(fault)
    if kind == "extra_forbidden":
        return keys, _unknown_key(model, keys)
    if kind == "missing":
        return keys, f"missing key; expected {keys[-1]}: {flow(example)}"
    if kind in ("model_type", "model_attributes_type", "dict_type", "mapping_type"):
        return keys, f"{show(value)} is not a mapping, expected one{such}"
    if kind in ("tuple_type", "list_type"):
        return keys, f"{show(value)} is not a list, expected one{such}"
    if kind == "too_short":
        return keys, f"empty, expected at least one entry{such}"
    return keys, f"{show(value)}: {detail['msg']}"


def _unknown_key(model: type[Part], keys: Keys) -> str:
    key, part = str(keys[-1]), _part_at(model, keys[:-1]) or model
    known = [field.alias or name for name, field in part.model_fields.items()]
    known.sort(key=lambda name: part.order.index(name) if name in part.order else len(part.order))
    guess = nearest(key, known)
    if guess:
        return f'unknown key; did you mean "{guess}"?'
    if word := nearest(key, part.called):
        return f'unknown key; did you mean "{part.called[word]}"?'
    elsewhere = [dotted(path) for path in _paths(model) if path[-1] == key]
    if elsewhere:
        return f"unknown key here; did you mean {' or '.join(show(path) for path in elsewhere[:3])}?"
    words = dict(_other_words(model))
    if word := nearest(key, words):
        return f'unknown key here; did you mean "{dotted(words[word])}"?'
    return f"unknown key; known here: {', '.join(known)}"


def _part(annotation: Any) -> type[Part] | None:
    """The record that an annotation speaks of: of `tuple[Quota, ...] | None` it is Quota."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    return next((part for inner in get_args(annotation) if (part := _part(inner)) is not None), None)


def _field_of(part: type[Part], key: str | int) -> Any:
    return next((field for name, field in part.model_fields.items() if key == (field.alias or name)), None)


def _part_at(model: type[Part], keys: Keys) -> type[Part] | None:
    part: type[Part] | None = model
    for key in keys:
        if isinstance(key, str) and part is not None:
            field = _field_of(part, key)
            part = _part(field.annotation) if field is not None else None
    return part


def _example(model: type[Part], keys: Keys) -> Any:
    """An example of the value at `keys`, from the descriptions of the fields."""
    part: type[Part] | None = model
    example: Any = None
    for key in keys:
        field = _field_of(part, key) if part is not None and isinstance(key, str) else None
        if field is not None:
            example, part = field.examples[0], _part(field.annotation)
            wanted = str(field.annotation)
            if "tuple" in wanted:  # of the examples, one that is a list
                example = next((given for given in field.examples if isinstance(given, list)), example)
        elif isinstance(key, int) and isinstance(example, list):
            example = example[0] if example else None
        elif isinstance(example, dict):
            example = next(iter(example.values()), None)
    return example


@cache
def _paths(model: type[Part]) -> tuple[Keys, ...]:
    """Every key below a record, as paths without list places."""
    found: list[Keys] = []
    for name, field in model.model_fields.items():
        key = field.alias or name
        found.append((key,))
        part = _part(field.annotation)
        found += [(key, *below) for below in _paths(part)] if part is not None else []
    return tuple(found)


def _other_words(model: type[Part], above: Keys = ()) -> Iterator[tuple[str, Keys]]:
    """Every other word for a key below a record, with the path of that key."""
    yield from ((word, (*above, key)) for word, key in model.called.items())
    for name, field in model.model_fields.items():
        part = _part(field.annotation)
        if part is not None:
            yield from _other_words(part, (*above, field.alias or name))


def sentences(faults: list[tuple[Keys, str]], origin: Origin, overriding: Sequence[Keys]) -> list[str]:
    """One line per fault, the most specific first."""
    ordered = sorted(faults, key=lambda fault: (-len(fault[0]), origin.line(fault[0]) or 0))
    lines = list(dict.fromkeys(f"{origin.place(keys, overriding)}: {line_of(text)}" for keys, text in ordered))
    if len(lines) > _SHOWN_ERRORS:
        lines = [*lines[:_SHOWN_ERRORS], f"{origin.source}: and {len(lines) - _SHOWN_ERRORS} more faults"]
    return lines


class EditorSchema(GenerateJsonSchema):
    """A key that may be left out is simply not required; writing null is a fault, so no type offers it."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        result = super().default_schema(schema)
        if result.get("default", ...) is None:
            result.pop("default")
        return result
