"""The question: what a user asks, as a typed and validated record.

A query is YAML or a mapping. Reading one either gives a `Query` whose parts are quantities, or raises `QueryError` with
one clear line per fault: file, line, key, what stands there and what was expected. Names of models, chips and regions are
resolved later, against the catalogue; `Query.locate` says where a name was written. Nothing here depends on prices or physics.

The kinds of question are siblings: each is a subclass of `Query` that names its `kind` (see `KINDS`).
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from zoo.units import DIMENSIONS, Quantity, UnitError, quantity
from zoo.yaml_source import Document, ZooError, parse, read

from .plan import Plan, Written

SCHEMA = "wallplan/v1"
SCHEMA_ID = "urn:wallplan:schema:query:v1"

# Keys and kinds that the design names and this version does not answer yet: an error, never ignored.
RESERVED = ("assert", "baseline", "sweep", "sites")
RESERVED_KINDS = ("procure", "place")

_SHOWN_ERRORS = 20
_MOST_VALUES = 100_000
_MOST_KEYS = 1000
_DEEPEST = 40
_LONGEST_TEXT = 300
_MOST_DRAFTED = 32  # tokens of a step; engines draft fewer than ten
_MOST = 10**9  # the largest count a query may name: beyond it lies a typing slip, and the solvers' integers

Keys = tuple[str | int, ...]


class QueryError(ValueError):
    """A question that cannot be asked. Each of `lines` is one fault: "file:line: key: what is wrong and what was expected"."""

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = lines

    def __str__(self) -> str:
        return "\n".join(self.lines)


class CannotBe(QueryError):
    """A question whose every name exists, but in which what is asked for cannot go together: nothing can be laid out so."""


class _Fault(ValueError):
    """A value that a check refuses. `at` names the key below the checked record that is to blame."""

    def __init__(self, message: str, *at: str | int) -> None:
        super().__init__(message)
        self.at: Keys = at


# ---------------------------------------------------------------- scalars: the border where text becomes a value


class _Scalar:
    """Annotation of a field that `check` reads, `write` writes back, and `schema` describes to an editor."""

    def __init__(self, check: Callable[[Any], Any], schema: dict[str, Any], write: Callable[[Any], Any] | None = None) -> None:
        self.check, self.schema, self.write = check, schema, write

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        writer = core_schema.plain_serializer_function_ser_schema(self.write) if self.write else None
        return core_schema.no_info_plain_validator_function(self.check, serialization=writer)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return dict(self.schema)


class _OrWord:
    """Annotation of a field that is either one word ("all", "auto") or a list of `items`."""

    def __init__(self, word: str, items: Any) -> None:
        self.word, self.items = word, items

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if value == self.word:
                return value
            if isinstance(value, str):
                raise _Fault(f"{_show(value)} is neither {self.word} nor a list; did you mean [{value}]?")
            return inner(value)

        as_it_is = core_schema.plain_serializer_function_ser_schema(lambda value: value)
        return core_schema.no_info_wrap_validator_function(read, handler.generate_schema(self.items), serialization=as_it_is)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"const": self.word}, handler(schema.get("schema", schema))]}


def _show(value: Any) -> str:
    """A value as it might stand in the file, on one short printable line."""
    if isinstance(value, Quantity):
        value = text_of(value)
    shown = json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, Mapping | list | tuple) else _flow(value)
    return _line_of(shown if len(shown) <= 60 else shown[:57] + "...")


def _line_of(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def _flow(value: Any) -> str:
    """A value in YAML's flow style: {p99: 500 ms}."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(inner)}" for key, inner in list(value.items())[:6]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(inner) for inner in list(value)[:6]) + "]"
    if isinstance(value, str):
        return value if re.fullmatch(r"[A-Za-z0-9][\w ./%-]*", value) and not _reads_as_other(value) else json.dumps(value)
    return json.dumps(value, default=str)


def _reads_as_other(text: str) -> bool:
    return text.lower() in ("yes", "no", "on", "off", "true", "false", "null", "y", "n") or bool(re.fullmatch(r"[\d.eE_]+", text))


def _nearest(word: Any, known: Sequence[str]) -> str:
    """The known word that looks most like `word`, or ""."""
    lowered = {name.lower(): name for name in reversed(known)}
    match = difflib.get_close_matches(str(word)[:60].lower(), list(lowered), n=1, cutoff=0.6)
    return lowered[match[0]] if match else ""


def _unknown(value: Any, known: Sequence[str], what: str) -> str:
    guess = _nearest(value, known)
    hint = f"; did you mean {_show(guess)}?" if guess else ""
    return f"{_show(value)} is no {what}{hint} (known: {', '.join(known)})"


def _plural(count: int, thing: str) -> str:
    many = f"{thing[:-1]}ies" if thing.endswith("y") else f"{thing}s"
    return f"{count} {thing if count == 1 else many}"


_NUMBER = r"[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


def _read_quantity(value: Any, dimension: str) -> Quantity:
    """`zoo.units.quantity`, for exactly one number and one unit: "1,5 s", "1 000 ms" and "9^9 s" mean something else to pint."""
    example = DIMENSIONS[dimension][1]
    if isinstance(value, str) and len(value) <= 80:
        number = re.match(_NUMBER, value.strip())
        if number:
            unit = value.strip()[number.end() :]
            if "," in unit:
                raise _Fault(f"{_show(value)}: write 1.5 or 1500, without a comma; expected {dimension} such as {_show(example)}")
            stray = [digits for digits in re.findall(r"(?<![\w.])[\d.]+", unit) if digits != "1"]
            if stray or re.search(r"[^\w\s%µ/*()]|\*\*", unit):
                raise _Fault(f"{_show(value)} is not one number and one unit, expected {dimension} such as {_show(example)}")
    if not isinstance(value, str | int | float | Quantity):
        raise _Fault(f"{_show(value)} is not a quantity, expected {dimension} such as {_show(example)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise _Fault(f"{value} is not finite, expected {dimension} such as {_show(example)}")
    return quantity(value, dimension)


def _measure(dimension: str) -> _Scalar:
    """A quantity above zero of a named dimension (a key of zoo.units.DIMENSIONS)."""
    unit, example = DIMENSIONS[dimension]

    def read(value: Any) -> Quantity:
        result = _read_quantity(value, dimension)
        size = result.to(unit).magnitude
        if not math.isfinite(size):
            raise _Fault(f"{_show(value)} is too large, expected {dimension} such as {_show(example)}")
        if not size > 0:
            raise _Fault(f"{_show(value)} is not above zero, expected {dimension} such as {_show(example)}")
        return result

    return _Scalar(read, {"type": "string", "pattern": r"^\s*\+?[0-9.]", "x-dimension": dimension}, text_of)


def text_of(value: Quantity) -> str:
    """A quantity as text that reads back as the same quantity: "500 ms", "200/s"."""
    size = float(value.magnitude)
    number = str(int(size)) if size.is_integer() and abs(size) < 1e9 else _shortest(size)
    unit = f"{value.units:~C}".replace("usd", "USD").replace("co2e", "CO2e").replace("tok", "token")
    if unit in ("", "dimensionless"):
        return number
    return f"{number}{unit[1:]}" if unit.startswith("1/") else f"{number} {unit}"


def _shortest(size: float) -> str:
    """The shorter of two spellings that read back as the same number: "1e+12", "1500000000.5"."""
    digits = next(digits for digits in range(1, 18) if float(f"{size:.{digits}g}") == size)
    return min(repr(size).removesuffix(".0"), f"{size:.{digits}g}", key=len)


def _fraction(low: float, high: float, *, above: bool = False, below: bool = False, example: Any = "0.5 %") -> _Scalar:
    """A dimensionless number or percentage from `low` to `high`; `above` and `below` exclude the ends."""
    inside = f"{'above' if above else 'from'} {low:g} {'to below' if below else 'to'} {high:g}"

    def read(value: Any) -> float:
        try:
            result = float(_read_quantity(value, "fraction").to("dimensionless").magnitude)
        except UnitError as error:
            raise _Fault(str(error).replace('"0.5 %"', _show(example))) from None
        if not (low < result if above else low <= result) or not (result < high if below else result <= high):
            raise _Fault(f"{_show(value)} is out of range, expected a fraction {inside}, such as {_show(example)}")
        return result

    return _Scalar(read, {"type": ["number", "string"], "description": f"a fraction {inside}; percentages are text"})


@dataclass(frozen=True, slots=True)
class Spread:
    """A factor on a figure that is not known exactly: at least `low`, most likely `mid`, at most `high`; `text` as written."""

    low: float
    mid: float
    high: float
    text: str


def _read_spread(value: Any) -> Spread:
    """ "±20 %" or [0.9, 1.0, 1.05]: factors of today's figure."""
    example = 'such as "±20 %" or [0.9, 1.0, 1.05]'
    if isinstance(value, Spread):
        return value
    if isinstance(value, str) and value.strip().startswith(("±", "+-")):
        try:
            share = float(_read_quantity(value.strip().lstrip("±+-").strip(), "fraction").m_as("dimensionless"))
        except UnitError:
            raise _Fault(f"{_show(value)} is no range of factors, expected one {example}") from None
        low, mid, high = 1 - share, 1.0, 1 + share
    elif isinstance(value, (list, tuple)) and len(value) == 3 and all(isinstance(v, (int, float)) for v in value):
        low, mid, high = map(float, value)
    else:
        raise _Fault(f"{_show(value)} is no range of factors, expected one {example}")
    if not 0 < low <= mid <= high <= 100:
        raise _Fault(f"{_show(value)} is out of order, expected 0 < low <= mid <= high, {example}")
    return Spread(low, mid, high, value if isinstance(value, str) else f"[{low:g}, {mid:g}, {high:g}]")


def _write_spread(value: Any) -> Any:
    return value.text if value.text[0] in "±+" else [value.low, value.mid, value.high]


_Spread = _Scalar(
    _read_spread, {"type": ["string", "array"], "description": "factors of a figure: ±20 % or [low, mid, high]"}, _write_spread
)


def _whole(low: int, example: int) -> _Scalar:
    """A whole number from `low` to a thousand million."""

    def read(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            hint = " (text, not a number)" if isinstance(value, str) and re.fullmatch(_NUMBER, value.strip()) else ""
            raise _Fault(f"{_show(value)} is not a whole number{hint}, expected one such as {example}")
        if not low <= value <= _MOST:
            wanted = f"at least {low}" if value < low else f"at most {_MOST}"
            raise _Fault(f"{_show(value)} is out of range, expected a whole number of {wanted}, such as {example}")
        return value

    return _Scalar(read, {"type": "integer", "minimum": low, "maximum": _MOST})


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        quotes = "; use quotes if it is a name" if isinstance(value, bool | int | float) else ""
        raise _Fault(f"{_show(value)} is not text{quotes}")
    if not value.strip():
        raise _Fault("empty text, expected a name")
    if len(value) > _LONGEST_TEXT or not value.isprintable():
        raise _Fault(f"{_show(value)} is not a name: at most {_LONGEST_TEXT} printable characters")
    return value


def _read_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Fault(f"{_show(value)} is neither true nor false")
    return value


def _word(what: str, *words: str) -> _Scalar:
    """One of `words`."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise _Fault(_unknown(value, words, what))
        return value

    return _Scalar(read, {"enum": list(words)})


_PRECISIONS = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp6", "fp4", "int4", "mxfp8", "mxfp6", "mxfp4", "nvfp4")


@cache
def precisions() -> tuple[str, ...]:
    """The number formats that a query may name: the first column of models/data/precision.csv."""
    table = Path(__file__).parents[1] / "models" / "data" / "precision.csv"
    if not table.is_file():
        return _PRECISIONS
    with table.open(encoding="utf-8", newline="") as lines:
        rows = [row[0].strip() for row in csv.reader(line for line in lines if not line.startswith("#")) if row]
    return tuple(dict.fromkeys(name for name in rows[1:] if name)) or _PRECISIONS


class _Precision(_Scalar):
    def __init__(self) -> None:
        super().__init__(self._read, {})

    def _read(self, value: Any) -> str:
        if not isinstance(value, str) or value not in precisions():
            raise _Fault(_unknown(value, precisions(), "precision"))
        return value

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"enum": list(precisions())}


_PERCENTILE = r"p(\d{1,2}(?:\.\d+)?)"


def _read_statistic(value: Any) -> str:
    found = re.fullmatch(_PERCENTILE, value) if isinstance(value, str) else None
    if value == "mean" or (found and 0 < float(found[1]) < 100):
        return str(value)
    raise _Fault(f"{_show(value)} is no percentile; expected p50, p90, p99, p99.9 (above 0, below 100) or mean")


_WEIGHED = "cost + carbon.price * carbon"
_OBJECTIVES = ("cost", "carbon", "power", "chips", _WEIGHED)


def _read_objective(value: Any) -> str:
    spellings = (*_OBJECTIVES, "carbon.price * carbon + cost", "cost + carbon * carbon.price")
    plain = {re.sub(r"\s", "", name): name for name in spellings}
    found = plain.get(re.sub(r"\s", "", value)) if isinstance(value, str) else None
    if found is None:
        raise _Fault(_unknown(value, _OBJECTIVES, "objective"))
    return found if found in _OBJECTIVES else _WEIGHED


_TRAIN_OBJECTIVES = ("cost", "carbon", "time", "chips", "energy", "power", _WEIGHED)


def _read_train_objective(value: Any) -> str:
    if isinstance(value, str) and value in _TRAIN_OBJECTIVES:
        return value
    found = _read_objective(value) if isinstance(value, str) and "carbon.price" in value else None
    if found is None:
        raise _Fault(_unknown(value, _TRAIN_OBJECTIVES, "objective"))
    return found


def _read_tokens_or(value: Any, what: str, example: str) -> int | Quantity:
    """A whole number above zero, or a quantity of tokens."""
    if isinstance(value, str | Quantity):
        size = _read_quantity(value, "tokens")
        if not size.m_as("token") >= 1:
            raise _Fault(f"{_show(value)} is less than a token, expected {what} such as {example}")
        return size
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
        raise _Fault(f"{_show(value)} is not {what}, expected one such as {example}")
    return value


def _read_deadline(value: Any) -> Quantity | str:
    """A time after the start, or a date."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value.strip()):
        return _read_date(value)
    try:
        result: Quantity = _measure("time").check(value)
    except (UnitError, _Fault) as error:
        raise _Fault(f'{error}, or a date such as "2027-03-01"') from None
    return result


def _read_date(value: Any) -> str:
    try:
        return date.fromisoformat(value.strip() if isinstance(value, str) else "").isoformat()
    except ValueError:
        raise _Fault(f'{_show(value)} is no date, expected one such as "2027-03-01"') from None


_DEGREE = r"\s*(\d{1,9})\s*\.\.\s*(\d{1,9})\s*"


def _read_degrees(value: Any) -> tuple[int, ...] | str:
    """What a degree may be: one whole number, a list of them, or a range such as "1..16"."""
    if isinstance(value, str):
        found = re.fullmatch(_DEGREE, value)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise _Fault(f'{_show(value)} is no degree; expected 8, [1, 2, 4] or a range such as "1..16"')
        return f"{int(found[1])}..{int(found[2])}"
    values = list(value) if isinstance(value, list | tuple) else [value]
    read = [_whole(1, 8).check(each) for each in values]
    if not read:
        raise _Fault('empty; expected 8, [1, 2, 4] or a range such as "1..16"')
    return _distinct(tuple(read))


def _write_degrees(value: tuple[int, ...] | str) -> Any:
    return value if isinstance(value, str) else value[0] if len(value) == 1 else list(value)


def _read_count_or_range(value: Any) -> tuple[int, int]:
    """A number of accelerators, or [fewest, most]."""
    if not isinstance(value, list | tuple):
        count = _whole(1, 512).check(value)
        return count, count
    if len(value) != 2:
        raise _Fault(f"{_show(value)} is no range: expected a number such as 512, or [fewest, most] such as [512, 16384]")
    low, high = (_whole(1, 512).check(each) for each in value)
    if low > high:
        raise _Fault(f"{_show(value)} is no range: the fewest, {low}, is more than the most, {high}")
    return low, high


_OFFLOAD = ("optimizer", "activations")


def _read_offload(value: Any) -> tuple[str, ...]:
    """What may be kept on the host: true (optimizer state), false, or a list of names."""
    if not isinstance(value, list | tuple):
        return ("optimizer",) if _read_flag(value) else ()
    for each in value:
        _word("thing to offload", *_OFFLOAD).check(each)
    return tuple(name for name in _OFFLOAD if name in value)


def _write_offload(value: tuple[str, ...]) -> Any:
    return {(): False, ("optimizer",): True}.get(value, list(value))


def _write_count_or_range(value: tuple[int, int]) -> Any:
    return value[0] if value[0] == value[1] else list(value)


def _read_time_or_range(value: Any) -> tuple[Quantity, ...]:
    """One time, or [low, typical, high]."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if len(values) not in (1, 3):
        raise _Fault(f"{_show(value)}: expected one time, or [low, typical, high]")
    read = tuple(_measure("time").check(each) for each in values)
    if len(read) == 3 and not read[0] <= read[1] <= read[2]:
        raise _Fault(f"{_show(value)}: expected [low, typical, high] in ascending order")
    return read


def _write_time_or_range(value: tuple[Quantity, ...]) -> Any:
    return text_of(value[0]) if len(value) == 1 else [text_of(each) for each in value]


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for value in values:
        if values.count(value) > 1:
            raise _Fault(f"{_show(value)} stands twice in the list")
    return values


def _overlay_path(value: Any) -> str:
    text = _read_text(value)
    if not text.lower().endswith((".yaml", ".yml", ".json")):
        raise _Fault(f"{_show(text)} is no zoo file; expected a path such as my_chips.yaml")
    return text


Time = Annotated[Quantity, _measure("time")]
Rate = Annotated[Quantity, _measure("rate")]
Power = Annotated[Quantity, _measure("power")]
MoneyRate = Annotated[Quantity, _measure("money rate")]
CarbonRate = Annotated[Quantity, _measure("carbon rate")]
CarbonPrice = Annotated[Quantity, _measure("carbon price")]
WaterRate = Annotated[Quantity, _measure("water rate")]
Text = Annotated[str, _Scalar(_read_text, {"type": "string", "minLength": 1, "maxLength": _LONGEST_TEXT})]
Flag = Annotated[bool, _Scalar(_read_flag, {"type": "boolean"})]
Precision = Annotated[str, _Precision()]
ZooFile = Annotated[str, _Scalar(_overlay_path, {"type": "string", "pattern": r"\.(yaml|yml|json)$"})]
Disaggregation = Annotated[Literal["none", "pools"], _word("way to serve", "none", "pools")]
Purchase = Literal["on-demand", "spot", "reserved-1y", "reserved-3y"]
PurchaseName = Annotated[Purchase, _word("purchase option", *get_args(Purchase))]
Statistic = Annotated[str, _Scalar(_read_statistic, {"type": "string"})]
Objective = Literal["cost", "carbon", "power", "chips", "cost + carbon.price * carbon"]
Texts = Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(_distinct)]
Precisions = Annotated[tuple[Precision, ...], Field(min_length=1), AfterValidator(_distinct)]
Money = Annotated[Quantity, _measure("money")]
Mass = Annotated[Quantity, _measure("carbon")]
Volume = Annotated[Quantity, _measure("water")]
TokenCount = Annotated[Quantity, _measure("tokens")]
Operations = Annotated[Quantity, _measure("operations")]
_NUMBER_OR_TEXT: dict[str, Any] = {"type": ["integer", "string"]}
_DEGREES: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 1}},
        {"type": "string", "pattern": r"^\s*[0-9]+\s*\.\.\s*[0-9]+\s*$"},
    ]
}
Degrees = Annotated[tuple[int, ...] | str, _Scalar(_read_degrees, _DEGREES, _write_degrees)]
DateText = Annotated[str, _Scalar(_read_date, {"type": "string", "format": "date"})]
Latency = Annotated[
    dict[Statistic, Time],
    Field(min_length=1),
    WithJsonSchema(
        {
            "type": "object",
            "minProperties": 1,
            "patternProperties": {
                rf"^(mean|{_PERCENTILE})$": {"type": "string", "description": "a time", "examples": ["500 ms"]}
            },
            "additionalProperties": False,
        }
    ),
]


def _key(description: str, *examples: Any, **more: Any) -> Any:
    """A field with what an editor and an error message say about it."""
    return Field(description=description, examples=list(examples), **more)


# ---------------------------------------------------------------- the parts of a question


class Part(BaseModel):
    """A mapping of the question: known keys only, unchangeable."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Population(Part):
    """Users in one part of the world."""

    name: Text = _key("What reports call this population.", "eu")
    rate: Rate = _key("Mean requests per time that this population sends.", "80/s")
    near: tuple[Text, ...] = _key(
        "Places the users are near (city or region); the round trip from the nearest counts into TTFT. Empty: not counted.",
        ["Frankfurt"],
        default=(),
    )
    residency: Text | None = _key("Country or label that the serving region must lie in. Left out: anywhere.", "EU", default=None)


class Tokens(Part):
    """Mean size of a request."""

    input: Annotated[int, _whole(1, 1000)] = _key("Mean prompt tokens per request.", 1000)
    output: Annotated[int, _whole(1, 250)] = _key("Mean generated tokens per request.", 250)


class Arrivals(Part):
    """How requests arrive."""

    cv: Annotated[float, _fraction(0, 100, example=1.0)] = _key(
        "Coefficient of variation of the time between requests: 1 is Poisson, above 1 bursts.", 1.0, default=1.0
    )


class Parallelism(Part):
    """Degrees that a replica may have; it takes max(tp, ep) x pp chips. A key left out is left to the planner."""

    tp: tuple[Annotated[int, _whole(1, 8)], ...] | None = _key(
        "Tensor-parallel degrees allowed: chips that share every layer.", [4, 8], default=None
    )
    pp: tuple[Annotated[int, _whole(1, 2)], ...] | None = _key(
        "Pipeline-parallel degrees allowed: groups of chips that follow each other.", [1], default=None
    )
    ep: tuple[Annotated[int, _whole(1, 8)], ...] | None = _key(
        "Expert-parallel degrees allowed: chips that share the experts of every layer.", [8], default=None
    )


class Speculative(Part):
    """Speculative decoding: tokens that something cheap drafts and the model verifies in one step."""

    draft: Text | None = _key(
        'A model of the zoo with the same vocabulary, or "ngram": looked up in the prompt, for nothing. Give this or `cost`.',
        "llama-3.2-1b",
        "ngram",
        default=None,
    )
    cost: Annotated[float, _fraction(0, 1, example="5 %")] | None = _key(
        "Of a head such as EAGLE's: the share of a plain decode step that one drafted token takes, and of the model's weights, "
        "cache and prefill that the head takes. Give this or `draft`.",
        "5 %",
        default=None,
    )
    acceptance: Annotated[float, _fraction(0, 1, above=True, below=True, example=0.7)] = _key(
        "Probability that a drafted token is accepted, as measured for this model, draft and traffic.", 0.7
    )
    tokens: Annotated[tuple[Annotated[int, _whole(0, 4)], ...], Field(min_length=1), AfterValidator(_distinct)] = _key(
        "Tokens drafted per step, of which the planner chooses; 0: none.", [0, 2, 4], default=(0, 2, 4)
    )

    @model_validator(mode="after")
    def _one_draft(self) -> Self:
        if (self.draft is None) == (self.cost is None):
            both = self.draft is not None
            raise _Fault(
                "draft and cost are both given: keep one" if both else 'no draft: give draft (a model, or "ngram") or cost'
            )
        if max(self.tokens) > _MOST_DRAFTED:
            raise _Fault(f"{max(self.tokens)} is too many, expected at most {_MOST_DRAFTED} drafted tokens a step", "tokens")
        return self

    @property
    def model(self) -> str | None:
        """The draft model, None where there is none."""
        return None if self.draft == "ngram" else self.draft


class ServeWorkload(Part):
    """What is served, to whom, and in which number formats."""

    model: Text = _key("A model of the zoo, a record of a file under `zoo`, or the path of a config.json.", "llama-3.1-70b")
    rate: Rate | None = _key("Mean requests per time, from anywhere. Give this or `populations`.", "200/s", default=None)
    populations: Annotated[tuple[Population, ...], Field(min_length=1)] | None = _key(
        "User populations with their own rates. Give this or `rate`.",
        [{"name": "eu", "rate": "80/s", "near": ["Frankfurt"], "residency": "EU"}],
        default=None,
    )
    tokens: Tokens = _key("Mean tokens of a request.", {"input": 1000, "output": 250})
    precision: Precisions = _key("Number formats that the weights may be served in; the planner chooses.", ["bf16", "fp8"])
    kv_precision: Annotated[Literal["auto"] | tuple[Precision, ...], _OrWord("auto", Precisions)] = _key(
        "Number formats that the KV cache may have. auto: 16 bits, as serving engines do unless told otherwise.",
        ["bf16", "fp8"],
        "auto",
        default="auto",
    )
    parallelism: Parallelism = _key(
        "Narrows how a replica may be split over chips.", {"tp": [8]}, default=Parallelism(tp=None, pp=None, ep=None)
    )
    disaggregation: Annotated[tuple[Disaggregation, ...], Field(min_length=1), AfterValidator(_distinct)] = _key(
        "Whether prefill and decode may be served apart. none: every replica does both; pools: replicas that read prompts hand "
        "the KV cache over to replicas that decode. Both: the planner chooses.",
        ["none", "pools"],
        default=("none", "pools"),
    )
    speculative: Speculative | None = _key(
        "Speculative decoding, of which the planner chooses how many tokens are drafted. Left out: none.",
        {"draft": "llama-3.2-1b", "acceptance": 0.7, "tokens": [0, 2, 4]},
        default=None,
    )
    arrivals: Arrivals = _key("Burstiness of arrivals.", {"cv": 1.0}, default=Arrivals(cv=1.0))
    prefix_hit: Annotated[float, _fraction(0, 1, below=True, example="30 %")] = _key(
        "Share of prompt tokens whose KV cache is found ready (prefix caching).", 0.3, "30 %", default=0.0
    )

    @model_validator(mode="after")
    def _one_demand(self) -> Self:
        if self.rate is not None and self.populations is not None:
            raise _Fault("rate and populations are both given: keep one", "populations")
        if self.rate is None and self.populations is None:
            raise _Fault('no demand: give rate (such as "200/s") or populations')
        names = [population.name for population in self.populations or ()]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise _Fault(f"{_show(name)} is already the name of another population", "populations", place, "name")
        return self

    def kv_precisions(self, weights: str) -> tuple[str, ...]:
        """The formats the KV cache may have beside weights in the format `weights`; auto is the format of the activations."""
        if self.kv_precision != "auto":
            return self.kv_precision
        return (weights,) if weights in ("fp16", "fp32", "fp64") else ("bf16",)


class Quality(Part):
    """How much worse answers may become."""

    loss: Annotated[float, _fraction(0, 1, example="1 %")] = _key(
        "Largest relative loss of quality that a number format may cost.", "1 %", 0.01
    )


@dataclass(frozen=True, slots=True)
class Bound:
    """One latency promise: `statistic` ("p99", "mean") of `metric` ("ttft", "tpot") is at most `limit`.

    `percentile` is the fraction of requests that must meet it (0.99), None for the mean.
    """

    metric: str
    statistic: str
    percentile: float | None
    limit: Quantity


class Sla(Part):
    """What every user is promised."""

    ttft: Latency | None = _key("Time to first token, by percentile or mean.", {"p99": "500 ms"}, default=None)
    tpot: Latency | None = _key("Time per output token after the first, by percentile or mean.", {"p99": "40 ms"}, default=None)
    quality: Quality | None = _key("Bound on quality lost to number formats. Left out: any.", {"loss": "1 %"}, default=None)

    @model_validator(mode="after")
    def _some_latency(self) -> Self:
        if self.ttft is None and self.tpot is None:
            raise _Fault("no latency: give ttft or tpot, such as ttft: {p99: 500 ms}")
        if "mean" in (self.ttft or {}):
            raise _Fault("a mean TTFT cannot be promised yet; expected a percentile such as p50", "ttft", "mean")
        return self

    def bounds(self) -> tuple[Bound, ...]:
        """Every latency promise."""
        return tuple(
            Bound(metric, statistic, None if statistic == "mean" else float(statistic[1:]) / 100, limit)
            for metric, latency in (("ttft", self.ttft), ("tpot", self.tpot))
            for statistic, limit in (latency or {}).items()
        )


class Quota(Part):
    """The most that may be rented of what matches. A key left out matches everything; patterns such as "aws/*" are allowed."""

    chip: Text | None = _key("Chip that the quota counts.", "h100-sxm", default=None)
    region: Text | None = _key("Region that the quota counts.", "aws/us-east-1", default=None)
    cloud: Text | None = _key("Cloud that the quota counts.", "aws", default=None)
    offer: PurchaseName | None = _key("Purchase option that the quota counts.", "on-demand", default=None)
    chips: Annotated[int, _whole(0, 64)] | None = _key("Most chips. Give this or `instances`.", 64, default=None)
    instances: Annotated[int, _whole(0, 8)] | None = _key("Most instances. Give this or `chips`.", 8, default=None)

    @model_validator(mode="after")
    def _one_count(self) -> Self:
        if (self.chips is None) == (self.instances is None):
            both = self.chips is not None
            raise _Fault("chips and instances are both given: keep one" if both else "no amount: give chips or instances")
        return self


class Supply(Part):
    """What may be rented, and how much."""

    chips: Annotated[Literal["all"] | tuple[Text, ...], _OrWord("all", Texts)] = _key(
        "Chips to choose from: all that have a price, or a list of names.", "all", ["h100-sxm", "l40s"], default="all"
    )
    offers: Annotated[tuple[PurchaseName, ...], Field(min_length=1), AfterValidator(_distinct)] = _key(
        "Purchase options to choose from.", ["on-demand", "reserved-1y"], default=("on-demand",)
    )
    quota: tuple[Quota, ...] = _key(
        "The most that can be had of a chip, region, cloud or purchase option.",
        [{"chip": "h100-sxm", "region": "aws/us-east-1", "chips": 64}],
        default=(),
    )
    mixed: Flag = _key("Whether the fleet may mix chips, regions and configurations.", True, False, default=True)


class Regions(Part):
    """Where the fleet may stand."""

    allow: Texts = _key(
        'Regions that may be used: names, patterns or countries and labels ("EU").', ["aws/*", "EU"], default=("*",)
    )
    deny: Annotated[tuple[Text, ...], AfterValidator(_distinct)] = _key(
        "Regions that may not be used, written in the same way; deny wins.", ["azure/*"], default=()
    )


class Match(Part):
    """Which offers are meant. A key left out matches everything; patterns such as "aws/*" are allowed."""

    chip: Text | None = _key("Chip of the offer.", "h100-sxm", default=None)
    region: Text | None = _key("Region of the offer.", "aws/us-east-1", default=None)
    cloud: Text | None = _key("Cloud of the offer.", "aws", default=None)
    instance: Text | None = _key("Instance type of the offer.", "p5.48xlarge", default=None)
    offer: PurchaseName | None = _key("Purchase option of the offer.", "on-demand", default=None)


class Overlay(Part):
    """A price of the user's own, or a change of listed prices, for every offer that matches."""

    match: Match = _key("Offers that the overlay changes.", {"chip": "h100-sxm", "cloud": "aws"})
    price: MoneyRate | None = _key("The new price. Give this or `adjust`.", "2.10 USD/h", default=None)
    adjust: Annotated[float, _fraction(-1, 100, above=True, example="-7%")] | None = _key(
        "Relative change of the listed price. Give this or `price`.", "-7%", default=None
    )
    per: Annotated[Literal["chip", "instance"], _word("basis of a price", "chip", "instance")] = _key(
        "What `price` buys for its time: one chip or one whole instance.", "chip", default="instance"
    )

    @model_validator(mode="before")
    @classmethod
    def _basis_in_price(cls, data: Any) -> Any:
        """ "2.10 USD/chip/h" says itself what it buys."""
        price = data.get("price") if isinstance(data, Mapping) else None
        named = re.search(r"\b(chip|gpu|accelerator|instance|node)s?\b", price) if isinstance(price, str) else None
        if named is None:
            return data
        basis = "instance" if named[1] in ("instance", "node") else "chip"
        if data.get("per", basis) != basis:
            raise _Fault(f"{_show(data['per'])} contradicts the price {_show(price)}", "per")
        return {**data, "per": basis}

    @model_validator(mode="after")
    def _one_change(self) -> Self:
        if (self.price is None) == (self.adjust is None):
            both = self.price is not None
            raise _Fault("price and adjust are both given: keep one" if both else "no change: give price or adjust")
        return self


class Prices(Part):
    """The market, as far as the user knows it better than the zoo."""

    overlays: tuple[Overlay, ...] = _key(
        "Changes of prices, applied in order.", [{"match": {"cloud": "aws"}, "adjust": "-7%"}], default=()
    )
    scale: Annotated[float, _fraction(0, 1000, above=True, example="1.1")] = _key(
        "Factor on every price, after the overlays.", 1.1, default=1.0
    )
    max_age: Time | None = _key("Prices older than this count as stale. Left out: any age.", "1 year", default=None)


class Carbon(Part):
    """How emissions are counted."""

    method: Annotated[Literal["average", "marginal", "market"], _word("carbon method", "average", "marginal", "market")] = _key(
        "Grid intensity: location average, location marginal, or the provider's market-based figure.",
        "average",
        default="average",
    )
    price: CarbonPrice | None = _key("Price of emissions in the weighted objective.", "100 USD/tCO2e", default=None)
    embodied: Flag = _key("Whether making the hardware counts, spread over its life.", False, True, default=False)


class Limits(Part):
    """The most that the whole fleet may take. A key left out is no limit."""

    cost: MoneyRate | None = _key("Money per time.", "500 USD/h", "300000 USD/month", default=None)
    power: Power | None = _key("Electric power at the meter.", "2 MW", default=None)
    carbon: CarbonRate | None = _key("Emissions per time.", "100 kgCO2e/h", default=None)
    water: WaterRate | None = _key("Water per time.", "500 L/h", default=None)
    chips: Annotated[int, _whole(1, 512)] | None = _key("Number of chips.", 512, default=None)


class Uncertain(Part):
    """How far figures may be from what they are taken for; each independent and triangular between low, mid and high."""

    prices: Annotated[Spread, _Spread] | None = _key("Factor on every price.", "±20 %", default=None)
    demand: Annotated[Spread, _Spread] | None = _key("Factor on every rate.", "±10 %", default=None)
    efficiency: Annotated[Spread, _Spread] | None = _key(
        "Factor on the speed that chips reach: 0.9 makes every time longer by 1 / 0.9.", [0.85, 1.0, 1.1], default=None
    )
    intensity: Annotated[Spread, _Spread] | None = _key("Factor on the grid's carbon intensity.", "±15 %", default=None)
    hold: Annotated[float, _fraction(0, 1, above=True, below=True, example="95 %")] | None = _key(
        "Probability with which demand and latency must hold: plans for the unfavourable end. Left out: the middle.",
        "95 %",
        default=None,
    )


class Calibration(Part):
    """Where the forward model's figures are from. A path alone means `file`; with both, what `source` lacks is from `file`."""

    file: Text | None = _key(
        "Constants that `wallplan calibrate` wrote, relative to the query's folder. Left out: those of the repository.",
        "my_calibration.yaml",
        default=None,
    )
    source: Annotated[Literal["aiconfigurator"], _word("source", "aiconfigurator")] | None = _key(
        "Package whose measured kernels stand for modelled ones where it knows chip, model, layout and number format (serve "
        "questions; pip install 'wallplan[silicon]'). Left out: none.",
        "aiconfigurator",
        default=None,
    )


def _file_alone(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


class Solver(Part):
    """How hard to look. None of this changes what the best answer is."""

    engine: Annotated[Literal["highs", "cpsat", "both"], _word("engine", "highs", "cpsat", "both")] = _key(
        "Solver; both solves twice and compares.", "highs", "both", default="highs"
    )
    gap: Annotated[float, _fraction(0, 1, below=True, example="0.1 %")] = _key(
        "Relative distance from the proven bound at which to stop; 0 is the proven optimum.", 0, "0.1 %", default=0.0
    )
    time: Time = _key("Stop without proof after this time.", "60 s", default="60 s", validate_default=True)
    threads: Annotated[int, _whole(1, 2)] | None = _key("Threads. Left out: as many as the machine has.", 2, default=None)


# ---------------------------------------------------------------- where a question was written


@dataclass(frozen=True)
class _Origin:
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


def _origin(data: Any, source: str, folder: Path, written: Written | None) -> _Origin:
    """Where a mapping was written, if that is known."""
    if written is None:
        return _Origin(source=source, folder=folder)
    lines = {parse_path(path): line for path, line in written.lines.items()}
    document = Document(written.file, data, lines) if lines else None
    return _Origin(written.file, folder, document, tuple(parse_path(path) for path in written.overridden))


def _is_path(keys: Keys) -> bool:
    """Whether keys can be written as a path: those of a user's own names may not."""
    try:
        return parse_path(dotted(keys)) == keys
    except QueryError:
        return False


def dotted(keys: Keys) -> str:
    """("workload", "populations", 0, "rate") as "workload.populations[0].rate"."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return _line_of(text)


def parse_path(path: str) -> Keys:
    """The reverse of `dotted`. "sla.ttft.p99.9" names the percentile p99.9."""
    keys: list[str | int] = []
    rest = path.strip()
    while rest:
        found = re.match(rf"\.?(?:\[(\d{{1,6}})\]|({_PERCENTILE}(?=$|\.|\[)|[^.\[\]\s]+))", rest)
        if not found or (not keys and rest.startswith(".")):
            break
        keys.append(int(found[1]) if found[1] else found[2])
        rest = rest[found.end() :]
    if rest or not keys or isinstance(keys[0], int):
        raise QueryError(f"--set {_show(path)}: not a path; expected one such as sla.ttft.p99 or workload.populations[0].rate")
    return tuple(keys)


@dataclass(frozen=True, slots=True)
class Clause:
    """A condition that the answer must meet, as the user gave it. `line` is None when it was not written in a file."""

    path: str
    text: str
    file: str
    line: int | None


@dataclass(frozen=True, slots=True)
class Assumption:
    """What holds because the user left `path` out."""

    path: str
    text: str


# ---------------------------------------------------------------- the question


class Query(Part):
    """What every kind of question has. `Query.from_dict` and `load` give the kind that the question names."""

    model_config = ConfigDict(title="Wallplan query")

    schema_: Annotated[Literal["wallplan/v1"], _word("schema of this version", SCHEMA)] = _key(
        "Version of this format.", SCHEMA, alias="schema"
    )
    name: Text = _key("What reports call this question.", "chat-70b", default="unnamed")
    horizon: Time | None = _key(
        "Time that totals are stated for beside the rates; the plan does not depend on it.", "1 year", default=None
    )
    regions: Regions = _key(
        "Allowed and denied regions.", {"allow": ["aws/*"], "deny": []}, default=Regions(allow=("*",), deny=())
    )
    zoo: Annotated[tuple[ZooFile, ...], AfterValidator(_distinct)] = _key(
        "Files of the user's own chips, models, regions and prices, relative to the query's folder.",
        ["my_chips.yaml"],
        default=(),
    )
    calibration: Annotated[Calibration, BeforeValidator(_file_alone, json_schema_input_type=str | Calibration)] = _key(
        "The user's own constants of the forward model: a file that `wallplan calibrate` wrote; or measured kernels.",
        "my_calibration.yaml",
        {"source": "aiconfigurator"},
        default=Calibration(file=None, source=None),
    )
    prices: Prices = _key(
        "Changes of prices.",
        {"overlays": [{"match": {"cloud": "aws"}, "adjust": "-7%"}]},
        default=Prices(overlays=(), scale=1.0, max_age=None),
    )
    carbon: Carbon = _key(
        "Which emissions count, and their price.",
        {"method": "average"},
        default=Carbon(method="average", price=None, embodied=False),
    )
    limits: Limits = _key("Bounds on what the fleet takes.", {"cost": "500 USD/h", "power": "2 MW"}, default=Limits())
    uncertain: Uncertain = _key(
        "Figures that are not known exactly.",
        {"demand": "±10 %", "efficiency": [0.85, 1.0, 1.1]},
        default=Uncertain(prices=None, demand=None, efficiency=None, intensity=None, hold=None),
    )
    solver: Solver = _key("Engine, gap and time of the search.", {"engine": "highs", "gap": 0, "time": "60 s"}, default=Solver())

    _origin: _Origin = PrivateAttr(default=_Origin())
    _given: dict[str, Any] | None = PrivateAttr(default=None)

    # ---- reading

    @classmethod
    def from_dict(cls, data: Any, source: str = "<python>", folder: str | Path = ".", written: Written | None = None) -> Self:
        """The question in a mapping of plain values. `folder` is what relative paths are relative to; `written` is where it was
        written before it was a mapping, `source` what to call it where that is not known."""
        result = _read(data, _origin(data, source, Path(folder), written))
        if not isinstance(result, cls):
            raise QueryError(f"{result.locate(('kind',))}: {result.kind} is another kind of question than is asked for here")
        return result

    @classmethod
    def of_plan(cls, plan: Plan) -> Self:
        """The question that a plan answers, with the file and the lines where it was written."""
        return cls.from_dict(plan.query, source="plan", folder=plan.query_folder, written=plan.query_written)

    def set(self, path: str, value: Any) -> Self:
        """The same question with the value at a dotted path replaced, as `--set path=value` does. This one is not changed.

        Text is read as YAML, so "[bf16]" is a list and "true" is a flag. None (or "null") removes the key.
        """
        return self.override({path: value})

    def override(self, values: Mapping[str, Any]) -> Self:
        """`set` for several paths at once: only the result has to make sense, not each step."""
        data, replaced, here = self.to_dict(), self._origin.replaced, []
        for path, text in values.items():
            keys, value = parse_path(path), _scalar(text)
            _replace(data, keys, value)
            written = keys[:-1] if value is None and isinstance(keys[-1], int) else keys  # what follows in a list moves up
            replaced = (*(old for old in replaced if old[: len(written)] != written), written)
            here.append(keys)
        result = _read(data, replace(self._origin, replaced=replaced), here)
        _check_files(result)
        return result  # type: ignore[return-value]  # only an override of `kind` makes another kind

    # ---- writing

    def to_dict(self, complete: bool = False) -> dict[str, Any]:
        """The question as plain values, in the user's own words. `complete` adds every default and writes units in one way."""
        if complete or self._given is None:
            dumped = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=not complete)
            return {key: dumped[key] for key in sorted(dumped, key=_KEY_ORDER.index)}
        given: dict[str, Any] = json.loads(json.dumps(self._given))
        return given

    def to_yaml(self) -> str:
        """The question as a YAML file."""
        return yaml.dump(self.to_dict(), Dumper=_Writer, sort_keys=False, allow_unicode=True, width=120)

    def digest(self) -> str:
        """SHA-256 of what the question means: equal for "500 ms" and "0.5 s", for a default and the same value written out."""
        return hashlib.sha256(json.dumps(_meaning(self), sort_keys=True).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Query) and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())

    # ---- where things stand

    @property
    def written(self) -> Written:
        """The file, the lines of the keys in it, and the keys that were set on the way."""
        document, replaced = self._origin.document, self._origin.replaced
        known = {} if document is None else document.lines
        lines = {dotted(keys): n for keys, n in known.items() if keys and n != known.get(keys[:-1]) and _is_path(keys)}
        return Written(file=self.source, lines=lines, overridden=tuple(dotted(keys) for keys in replaced))

    @property
    def source(self) -> str:
        """The file that the question was read from, as it was named, or "<python>"."""
        return self._origin.source

    @property
    def folder(self) -> Path:
        """What relative paths in the question are relative to."""
        return self._origin.folder

    def line(self, keys: Keys | str) -> int | None:
        """The line of a key in its file; None when it was not written in one."""
        return self._origin.line(parse_path(keys) if isinstance(keys, str) else keys)

    def locate(self, keys: Keys | str) -> str:
        """Where a key was written, to begin an error message with: "serve.yaml:14: workload.model"."""
        return self._origin.place(parse_path(keys) if isinstance(keys, str) else keys)

    def resolve(self, path: str | Path) -> Path:
        """A path of the question, relative to the question's folder."""
        return self.folder / Path(path)

    @property
    def zoo_files(self) -> tuple[Path, ...]:
        """The user's zoo files."""
        return tuple(self.resolve(name) for name in self.zoo)

    @property
    def calibration_file(self) -> Path | None:
        """The user's calibration, None when the stored constants are asked for."""
        return None if self.calibration.file is None else self.resolve(self.calibration.file)

    def _clause(self, keys: Keys, text: str) -> Clause:
        return Clause(dotted(keys), text, self._origin.file(keys), self._origin.line(keys) if self._has(keys) else None)

    def _has(self, keys: Keys) -> bool:
        value: Any = self.to_dict()
        for key in keys:
            try:
                value = value[key]
            except (LookupError, TypeError):
                return False
        return True

    def clauses(self) -> list[Clause]:
        """The conditions that the user set, each with where it was written, in the order of the design's keys."""
        found = [
            self._clause(("limits", key), f"{key} <= {_show_limit(value)}") for key, value in self.limits if value is not None
        ]
        if self.regions.allow != ("*",):
            found.append(self._clause(("regions", "allow"), f"regions: {', '.join(self.regions.allow)}"))
        if self.regions.deny:
            found.append(self._clause(("regions", "deny"), f"regions: not {', '.join(self.regions.deny)}"))
        return found

    def assumptions(self) -> list[Assumption]:
        """What the answer takes for granted because the question left it out."""
        texts = {
            ("carbon", "method"): "carbon is counted at the grid's location-based average intensity",
            ("carbon", "embodied"): "carbon of making the hardware is not counted",
        }
        found = [Assumption(dotted(keys), text) for keys, text in texts.items() if not self._has(keys)]
        for place, overlay in enumerate(self.prices.overlays):
            if overlay.price is not None and "per" not in overlay.model_fields_set:
                found.append(
                    Assumption(f"prices.overlays[{place}].per", f"{text_of(overlay.price)} is the price of a whole instance")
                )
        return found


class ServeQuery(Query):
    """What is the best fleet that serves this model to these users within this SLA?"""

    kind: Annotated[Literal["serve"], _word("kind of this question", "serve")] = _key("Kind of question.", "serve")
    workload: ServeWorkload = _key(
        "What is served.",
        {"model": "llama-3.1-70b", "rate": "200/s", "tokens": {"input": 1000, "output": 250}, "precision": ["bf16"]},
    )
    sla: Sla = _key("Promised latency and quality.", {"ttft": {"p99": "500 ms"}, "tpot": {"p99": "40 ms"}})
    supply: Supply = _key(
        "Chips, purchase options and quotas.",
        {"chips": "all", "offers": ["on-demand", "reserved-1y"]},
        default=Supply(chips="all", offers=("on-demand",), quota=(), mixed=True),
    )
    minimize: Annotated[Objective, _Scalar(_read_objective, {"enum": list(_OBJECTIVES)})] = _key(
        "What the best answer has least of.", "cost", _WEIGHED, default="cost"
    )

    rank: Annotated[Literal["pessimistic", "typical"], _word("rank", "pessimistic", "typical")] = _key(
        "Which end of the 80 % interval of every predicted time a plan is made for.", "pessimistic", default="pessimistic"
    )

    @model_validator(mode="after")
    def _priced_carbon(self) -> Self:
        if self.minimize == _WEIGHED and self.carbon.price is None:
            raise _Fault('carbon has no price: give carbon.price, such as "100 USD/tCO2e"', "minimize")
        return self

    @cached_property
    def populations(self) -> tuple[Population, ...]:
        """The users; a single rate is one population named "all", from nowhere in particular."""
        if self.workload.populations is not None:
            return self.workload.populations
        return (Population(name="all", rate=self.workload.rate),)  # type: ignore[arg-type]

    @property
    def total_rate(self) -> Quantity:
        """Mean requests per time over all populations."""
        total = self.populations[0].rate
        for population in self.populations[1:]:
            total = total + population.rate
        return total

    @property
    def model_file(self) -> Path | None:
        """The config.json that the model is read from, None when the model is a name."""
        return self.resolve(self.workload.model) if self.workload.model.lower().endswith(".json") else None

    def clauses(self) -> list[Clause]:
        workload, supply = self.workload, self.supply
        found: list[Clause] = []
        if workload.rate is not None:
            found.append(self._clause(("workload", "rate"), f"serve {text_of(workload.rate)}"))
        for place, population in enumerate(workload.populations or ()):
            at = ("workload", "populations", place)
            found.append(self._clause((*at, "rate"), f"serve {text_of(population.rate)} to {population.name}"))
            if population.residency is not None:
                found.append(self._clause((*at, "residency"), f"serve {population.name} from {population.residency}"))
        found.append(self._clause(("workload", "precision"), f"weights in {' or '.join(workload.precision)}"))
        for degree, allowed in workload.parallelism:
            if allowed is not None:
                text = f"{degree.upper()} in {', '.join(map(str, allowed))}"
                found.append(self._clause(("workload", "parallelism", degree), text))
        if workload.kv_precision != "auto":
            found.append(self._clause(("workload", "kv_precision"), f"KV cache in {' or '.join(workload.kv_precision)}"))
        if len(workload.disaggregation) == 1:
            way = "together" if workload.disaggregation == ("none",) else "apart"
            found.append(self._clause(("workload", "disaggregation"), f"prefill and decode {way}"))
        for bound in self.sla.bounds():
            text = f"{bound.metric.upper()} {bound.statistic} <= {text_of(bound.limit)}"
            found.append(self._clause(("sla", bound.metric, bound.statistic), text))
        if self.sla.quality is not None:
            found.append(self._clause(("sla", "quality", "loss"), f"quality lost <= {self.sla.quality.loss:.6g}"))
        if supply.chips != "all":
            found.append(self._clause(("supply", "chips"), f"chips: {', '.join(supply.chips)}"))
        if len(supply.offers) < len(get_args(Purchase)):
            found.append(self._clause(("supply", "offers"), f"purchase: {', '.join(supply.offers)}"))
        for place, quota in enumerate(supply.quota):
            found.append(self._clause(("supply", "quota", place), _quota_text(quota)))
        if not supply.mixed:
            found.append(self._clause(("supply", "mixed"), "one kind of machine, and one pool for each population"))
        return found + super().clauses()

    def assumptions(self) -> list[Assumption]:
        texts = {
            ("workload", "kv_precision"): "the KV cache is kept in 16 bits (fp32 beside fp32 weights)",
            ("workload", "arrivals", "cv"): "arrivals are Poisson (cv 1)",
            ("workload", "disaggregation"): "prefill and decode may be served apart, where that is better",
            ("workload", "speculative"): "no speculative decoding",
            ("workload", "prefix_hit"): "no prompt token is found in a prefix cache",
            ("supply", "offers"): "on-demand purchase only",
            ("minimize",): "cost is minimised",
            ("rank",): "every predicted time is taken at the pessimistic end of its 80 % interval",
        }
        found = [Assumption(dotted(keys), text) for keys, text in texts.items() if not self._has(keys)]
        for place, population in enumerate(self.workload.populations or ()):
            if not population.near:
                text = f"network time to the users of {population.name} is not counted"
                found.append(Assumption(f"workload.populations[{place}].near", text))
        if self.workload.populations is None:
            found.append(Assumption("workload.populations", "network time to the users is not counted"))
        return found + super().assumptions()


# ---------------------------------------------------------------- training


class Privacy(Part):
    """Differentially private training (DP-SGD)."""

    epsilon: Annotated[float, _fraction(0, 1000, above=True, example=8)] = _key("Privacy loss that may be spent.", 8)
    delta: Annotated[float, _fraction(0, 1, above=True, below=True, example=1e-6)] = _key(
        "Chance that the promise of epsilon fails.", 1e-6
    )
    method: Annotated[
        Literal["ghost_clipping", "per_sample_gradients"], _word("method", "ghost_clipping", "per_sample_gradients")
    ] = _key("How the gradient of each sample is clipped.", "ghost_clipping", default="ghost_clipping")


class TrainWorkload(Part):
    """What is trained, on how much, and with which software."""

    model: Text = _key("A model of the zoo, a record of a file under `zoo`, or the path of a config.json.", "llama-3.1-405b")
    tokens: TokenCount | None = _key(
        "Training tokens. Left out: those of `compute`, or 20 for each parameter (compute-optimal).", "15e12 token", default=None
    )
    compute: Operations | None = _key(
        "Budget of operations that settles the tokens when they are left out: C / (6 P).", "3.8e25 FLOP", default=None
    )
    sequence_length: Annotated[
        int | Quantity,
        _Scalar(lambda v: _read_tokens_or(v, "a sequence length", "8192"), _NUMBER_OR_TEXT, lambda v: _plain_text(v)),
    ] = _key("Tokens of a sequence.", 8192, "8192 token")
    global_batch: Annotated[
        int | Quantity,
        _Scalar(lambda v: _read_tokens_or(v, "a number of sequences", "2048"), _NUMBER_OR_TEXT, lambda v: _plain_text(v)),
    ] = _key("What one optimizer step sees: a number of sequences, or tokens.", 2048, "16777216 token")
    precision: Precisions = _key(
        "Number formats of the matrix products; the planner chooses.", ["bf16", "fp8"], default=("bf16",)
    )
    stack: Text = _key(
        "Training software; its habits decide what overlaps.", "megatron-core", "nemo", "fsdp", default="megatron-core"
    )
    release: Text | None = _key("Release of the stack.", "25.09", default=None)
    optimizer: Text = _key("Optimizer, which decides the state kept per parameter.", "adamw", default="adamw")
    privacy: Privacy | None = _key("Train with DP-SGD. Left out: no.", {"epsilon": 8, "delta": 1e-6}, default=None)
    offload: Annotated[
        tuple[str, ...],
        _Scalar(
            _read_offload,
            {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"enum": list(_OFFLOAD)}, "minItems": 1}]},
            _write_offload,
        ),
    ] = _key(
        "What may also be kept on the host: optimizer state (true), activations.",
        True,
        ["optimizer", "activations"],
        default=(),
    )

    @model_validator(mode="after")
    def _whole_batch(self) -> Self:
        if self.tokens is not None and self.compute is not None:
            raise _Fault("tokens and compute are both given: keep one", "compute")
        if isinstance(self.sequence_length, Quantity) and self.sequence_length.m_as("token") % 1:
            raise _Fault(f"{_show(self.sequence_length)} is no whole number of tokens", "sequence_length")
        if isinstance(self.global_batch, Quantity):
            sequences = self.global_batch.m_as("token") / self.length
            if abs(sequences - round(sequences)) > 1e-9 * sequences or round(sequences) < 1:
                near = 2 ** max(round(math.log2(sequences)), 0)
                raise _Fault(
                    f"{_show(self.global_batch)} is {sequences:.6g} sequences of {self.length} tokens, no whole number; "
                    f'the nearest power of two is {near} sequences, "{near * self.length} token"',
                    "global_batch",
                )
        return self

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        length = self.sequence_length
        return round(length.m_as("token")) if isinstance(length, Quantity) else length

    @property
    def sequences(self) -> int:
        """Sequences of a step."""
        batch = self.global_batch
        return round(batch.m_as("token") / self.length) if isinstance(batch, Quantity) else batch


def _plain_text(value: int | Quantity) -> Any:
    return text_of(value) if isinstance(value, Quantity) else value


_RECOMPUTE = ("none", "selective", "full")
_SHARDING = ("none", "zero1", "zero2", "zero3", "hybrid")
Recompute = Annotated[str, _word("recompute mode", *_RECOMPUTE)]
Sharding = Annotated[str, _word("sharding", *_SHARDING)]


class TrainParallelism(Part):
    """What layouts are limited to. A key left out allows every degree that divides."""

    tensor: Degrees | None = _key("Tensor-parallel degrees.", 8, [4, 8], "1..16", default=None)
    pipeline: Degrees | None = _key("Pipeline stages.", 16, [8, 16], "1..32", default=None)
    data: Degrees | None = _key("Data-parallel replicas.", 128, "1..1024", default=None)
    context: Degrees | None = _key("Context-parallel degrees.", 1, [1, 2], default=None)
    expert: Degrees | None = _key("Expert-parallel degrees.", 8, [1, 8], default=None)
    virtual_stages: Degrees | None = _key("Model chunks of a pipeline stage (interleaving).", 1, "1..8", default=None)
    microbatch: Degrees | None = _key("Sequences of a microbatch.", 1, [1, 2, 4], default=None)
    recompute: Annotated[tuple[Recompute, ...], Field(min_length=1), AfterValidator(_distinct)] | None = _key(
        "Activations that may be computed again.", ["none", "selective", "full"], default=None
    )
    sharding: Annotated[tuple[Sharding, ...], Field(min_length=1), AfterValidator(_distinct)] | None = _key(
        "What data-parallel replicas may share: zero1 optimizer, zero2 gradients, zero3 (FSDP) weights, "
        "hybrid: weights inside a scale-up domain.",
        ["zero1", "zero3"],
        default=None,
    )
    sequence_parallel: Flag | None = _key("Split norms over tensor ranks. Left out: both are tried.", True, default=None)
    tensor_overlap: Flag | None = _key(
        "Hide tensor-parallel communication behind matrix products, where the stack can (userbuffers, async TP). Left out: both "
        "are tried.",
        True,
        default=None,
    )
    data_overlap: Flag | None = _key(
        "Hide data-parallel communication, where the stack can. Left out: it is hidden, and waiting for weights is tried where "
        "it saves memory.",
        True,
        default=None,
    )
    stage_layers: Degrees | None = _key("Layers of the fullest pipeline stage.", 8, "1..16", default=None)


class TrainSupply(Part):
    """What may be rented, and how much."""

    chips: Annotated[Literal["all"] | tuple[Text, ...], _OrWord("all", Texts)] = _key(
        "Chips to choose from: all that have a price, or a list of names.", "all", ["h100-sxm", "b200-sxm"], default="all"
    )
    offers: Annotated[tuple[PurchaseName, ...], Field(min_length=1), AfterValidator(_distinct)] = _key(
        "Purchase options to choose from.", ["on-demand", "reserved-1y"], default=("on-demand",)
    )
    quota: tuple[Quota, ...] = _key(
        "The most that can be had of a chip, region, cloud or purchase option.",
        [{"chip": "h100-sxm", "region": "aws/us-east-1", "chips": 16384}],
        default=(),
    )
    accelerators: (
        Annotated[
            tuple[int, int],
            _Scalar(
                _read_count_or_range,
                {
                    "anyOf": [
                        {"type": "integer", "minimum": 1},
                        {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "integer", "minimum": 1}},
                    ]
                },
                _write_count_or_range,
            ),
        ]
        | None
    ) = _key("How many accelerators train: a number, or [fewest, most]. Left out: any.", 512, [512, 16384], default=None)


class TrainStorage(Part):
    """Where checkpoints go and tokens come from."""

    name: Text = _key("A storage system of the zoo.", "weka-vast-class", default="weka-vast-class")
    units: Annotated[int, _whole(1, 100)] | None = _key(
        "Units of it (drives, TiB), where its bandwidth is not per node.", 100, default=None
    )


class Reliability(Part):
    """How often machines fail, and what is done about it."""

    mtbf: (
        Annotated[
            tuple[Quantity, ...],
            _Scalar(
                _read_time_or_range,
                {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 3, "maxItems": 3, "items": {"type": "string"}}]},
                _write_time_or_range,
            ),
        ]
        | None
    ) = _key(
        "Mean time between interruptions of one accelerator: one time or [low, typical, high]. Left out: the published range.",
        "50000 h",
        ["8000 h", "40000 h", "80000 h"],
        default=None,
    )
    restart: Time | None = _key(
        "From a failure until training goes on. Left out: the published typical time.", "10 min", default=None
    )
    spares: Annotated[float, _fraction(0, 1, example="3 %")] = _key(
        "Spare instances, rented beside those that train, as a share of them.", "3 %", 0.03, default=0.0
    )
    checkpoint: Annotated[Literal["synchronous", "asynchronous"], _word("checkpoint", "synchronous", "asynchronous")] = _key(
        "Whether training stands still while a checkpoint is written, or only while it is copied to the host.",
        "synchronous",
        default="synchronous",
    )


class Sharing(Part):
    """Other jobs that wait for the same machines, one at a time."""

    arrivals: Rate = _key("Jobs as large as this one, per time.", "2/year")
    variability: Annotated[float, _fraction(0, 100, example=0)] = _key(
        "Squared coefficient of variation of how long jobs run: 0 all alike, 1 exponential.", 0, default=0.0
    )


class TrainFabric(Part):
    """The network between instances."""

    topology: Annotated[str, _word("topology", "fat-tree", "switch", "rail", "dragonfly", "torus-2d", "torus-3d", "ring")] = _key(
        "Topology, which decides the bisection.", "rail", default="fat-tree"
    )
    oversubscription: Annotated[float, _fraction(1, 64, example=2)] = _key(
        "Bandwidth into a switch over bandwidth out of it.", 2, default=1.0
    )


class TrainLimits(Part):
    """The most that the whole job may take. A key left out is no limit."""

    cost: Money | None = _key("Money, in all.", "50e6 USD", default=None)
    power: Power | None = _key("Electric power at the meter.", "25 MW", default=None)
    carbon: Mass | None = _key("Emissions, in all.", "5000 tCO2e", default=None)
    water: Volume | None = _key("Water, in all.", "50e6 L", default=None)
    chips: Annotated[int, _whole(1, 16384)] | None = _key("Number of chips.", 16384, default=None)


class TrainUncertain(Part):
    """How far figures may be from what they are taken for; each independent and triangular between low, mid and high."""

    prices: Annotated[Spread, _Spread] | None = _key("Factor on every price.", "±20 %", default=None)
    efficiency: Annotated[Spread, _Spread] | None = _key(
        "Factor on the speed of a step: 0.9 makes every step longer by 1 / 0.9.", [0.85, 1.0, 1.1], default=None
    )
    intensity: Annotated[Spread, _Spread] | None = _key("Factor on the grid's carbon intensity.", "±15 %", default=None)
    failures: Annotated[Spread, _Spread] | None = _key("Factor on how often accelerators fail.", [0.5, 1.0, 3.0], default=None)
    hold: Annotated[float, _fraction(0, 1, above=True, below=True, example="95 %")] | None = _key(
        "Probability with which the deadline and every limit must hold: plans for the unfavourable end. Left out: the middle.",
        "95 %",
        default=None,
    )


TrainObjective = Literal["cost", "carbon", "time", "chips", "energy", "power", "cost + carbon.price * carbon"]


class TrainQuery(Query):
    """What is the best way to train this model: chips, how many, laid out how, where?"""

    kind: Annotated[Literal["train"], _word("kind of this question", "train")] = _key("Kind of question.", "train")
    workload: TrainWorkload = _key(
        "What is trained.",
        {
            "model": "llama-3.1-405b",
            "tokens": "15e12 token",
            "sequence_length": 8192,
            "global_batch": 2048,
            "precision": ["bf16"],
        },
    )
    parallelism: TrainParallelism = _key(
        "Narrower choice of layouts.", {"tensor": 8, "pipeline": "1..16"}, default=TrainParallelism()
    )
    start: DateText | None = _key("Day on which the job may start. Left out: today.", "2027-01-01", default=None)
    deadline: (
        Annotated[Quantity | str, _Scalar(_read_deadline, {"type": "string"}, lambda v: v if isinstance(v, str) else text_of(v))]
        | None
    ) = _key("When training must be done: a time after the start, or a date.", "60 day", "2027-03-01", default=None)
    supply: TrainSupply = _key(
        "Chips, purchase options, quotas and how many accelerators.",
        {"chips": "all", "offers": ["on-demand"], "accelerators": [512, 16384]},
        default=TrainSupply(chips="all", offers=("on-demand",), quota=(), accelerators=None),
    )
    storage: TrainStorage = _key(
        "Storage of checkpoints and tokens.",
        {"name": "weka-vast-class"},
        default=TrainStorage(name="weka-vast-class", units=None),
    )
    fabric: TrainFabric = _key(
        "Network between instances.",
        {"topology": "fat-tree", "oversubscription": 1},
        default=TrainFabric(topology="fat-tree", oversubscription=1.0),
    )
    reliability: Reliability = _key(
        "What failures cost.",
        {"mtbf": "50000 h"},
        default=Reliability(mtbf=None, restart=None, spares=0.0, checkpoint="synchronous"),
    )
    sharing: Sharing | None = _key(
        "Queue for shared machines. Left out: they are there at once.", {"arrivals": "2/year"}, default=None
    )
    uncertain: TrainUncertain = _key(  # type: ignore[assignment]
        "Figures that are not known exactly.",
        {"prices": "±10 %", "efficiency": [0.85, 1.0, 1.1], "failures": [0.5, 1.0, 3.0]},
        default=TrainUncertain(prices=None, efficiency=None, intensity=None, failures=None, hold=None),
    )
    limits: TrainLimits = _key(  # type: ignore[assignment]
        "Bounds on what the job takes.", {"cost": "50e6 USD", "power": "25 MW"}, default=TrainLimits()
    )
    minimize: Annotated[TrainObjective, _Scalar(_read_train_objective, {"enum": list(_TRAIN_OBJECTIVES)})] = _key(
        "What the best answer has least of.", "cost", "time", _WEIGHED, default="cost"
    )
    top: Annotated[int, _whole(1, 10)] = _key("How many of the best layouts are listed.", 10, default=10)
    rank: Annotated[Literal["pessimistic", "typical"], _word("rank", "pessimistic", "typical")] = _key(
        "Which figure of the step time counts: the upper end of its 80 % interval, or the middle.",
        "pessimistic",
        default="pessimistic",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.minimize == _WEIGHED and self.carbon.price is None:
            raise _Fault('carbon has no price: give carbon.price, such as "100 USD/tCO2e"', "minimize")
        fewest = None if self.supply.accelerators is None else self.supply.accelerators[0]
        if fewest is not None and self.limits.chips is not None and fewest > self.limits.chips:
            raise _Fault(
                f"at most {self.limits.chips} chips contradict supply.accelerators, at least {fewest}", "limits", "chips"
            )
        data = self.parallelism.data
        if isinstance(data, tuple) and all(self.workload.sequences % degree for degree in data):
            raise _Fault(
                f"a step of {self.workload.sequences} sequences cannot be divided among {' or '.join(map(str, data))} replicas",
                "parallelism", "data",
            )  # fmt: skip
        micro = self.parallelism.microbatch
        if isinstance(micro, tuple) and all(self.workload.sequences % size for size in micro):
            raise _Fault(
                f"a step of {self.workload.sequences} sequences cannot be divided into microbatches of "
                f"{' or '.join(map(str, micro))}",
                "parallelism", "microbatch",
            )  # fmt: skip
        if isinstance(self.deadline, str) and self.start is not None and self.deadline <= self.start:
            raise _Fault(f"{self.deadline} is not after the start, {self.start}", "deadline")
        return self

    @property
    def model_file(self) -> Path | None:
        """The config.json that the model is read from, None when the model is a name."""
        return self.resolve(self.workload.model) if self.workload.model.lower().endswith(".json") else None

    def clauses(self) -> list[Clause]:
        found: list[Clause] = []
        if self.workload.tokens is not None:
            found.append(self._clause(("workload", "tokens"), f"train on {text_of(self.workload.tokens)}"))
        for key, value in self.parallelism:
            if value is not None:
                found.append(
                    self._clause(
                        ("parallelism", key), f"{key}: {_flow(_write_degrees(value)) if key in _DEGREE_KEYS else _flow(value)}"
                    )
                )
        if self.deadline is not None:
            when = self.deadline if isinstance(self.deadline, str) else f"{text_of(self.deadline)} after the start"
            found.append(self._clause(("deadline",), f"done by {when}"))
        supply = self.supply
        if supply.chips != "all":
            found.append(self._clause(("supply", "chips"), f"chips: {', '.join(supply.chips)}"))
        if len(supply.offers) < len(get_args(Purchase)):
            found.append(self._clause(("supply", "offers"), f"purchase: {', '.join(supply.offers)}"))
        if supply.accelerators is not None:
            low, high = supply.accelerators
            text = f"{low} accelerators" if low == high else f"{low} to {high} accelerators"
            found.append(self._clause(("supply", "accelerators"), text))
        for place, quota in enumerate(supply.quota):
            found.append(self._clause(("supply", "quota", place), _quota_text(quota)))
        return found + super().clauses()

    def assumptions(self) -> list[Assumption]:
        texts = {
            ("workload", "precision"): "matrix products are in bf16",
            ("workload", "stack"): "the stack is Megatron-Core",
            ("workload", "optimizer"): "the optimizer is Adam with a 32-bit master copy",
            ("storage",): "checkpoints and tokens are on storage of the WEKA / VAST class",
            ("fabric",): "the network between instances has full bisection",
            ("reliability", "spares"): "no spares are rented: a failed instance is replaced within the restart time",
            ("reliability", "checkpoint"): "training stands still while a checkpoint is written",
            ("sharing",): "the machines are there when the job starts",
            ("supply", "offers"): "on-demand purchase only",
            ("minimize",): "cost is minimised",
            ("rank",): "layouts and counts are ranked on the upper end of the step time's 80 % interval",
        }
        found = [Assumption(dotted(keys), text) for keys, text in texts.items() if not self._has(keys)]
        return found + super().assumptions()


_DEGREE_KEYS = ("tensor", "pipeline", "data", "context", "expert", "virtual_stages", "microbatch", "stage_layers")

# A new kind of question is a sibling: add it here.
AnyQuery = ServeQuery | TrainQuery
KINDS: dict[str, type[ServeQuery] | type[TrainQuery]] = {"serve": ServeQuery, "train": TrainQuery}

_KEY_ORDER = (
    "schema", "kind", "name", "workload", "sla", "parallelism", "start", "deadline", "horizon", "supply", "storage", "fabric",
    "reliability", "sharing", "regions", "zoo", "calibration", "prices", "carbon", "limits", "minimize", "top", "rank",
    "uncertain", "solver",
)  # fmt: skip


def load(path: str | Path) -> AnyQuery:
    """The question in a YAML file. Raises QueryError, one line per fault."""
    try:
        document = read(path)
    except ZooError as error:
        raise QueryError(_line_of(str(error))) from None
    result = _read(document.data, _Origin(source=str(path), folder=Path(path).parent, document=document))
    _check_files(result)
    return result


class _Writer(yaml.SafeDumper):
    """PyYAML writes for YAML 1.1, `zoo.yaml_source` reads 1.2: text that would read as a number gets quotes."""


def _write_text(writer: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=None if _scalar(text) == text else '"')


_Writer.add_representer(str, _write_text)


def _show_limit(value: Any) -> str:
    return text_of(value) if isinstance(value, Quantity) else str(value)


def _quota_text(quota: Quota) -> str:
    amount = _plural(quota.chips, "chip") if quota.chips is not None else _plural(quota.instances or 0, "instance")
    of = f" of {quota.chip}" if quota.chip else ""
    where = f" in {quota.region or quota.cloud}" if quota.region or quota.cloud else ""
    how = f", {quota.offer}" if quota.offer else ""
    return f"at most {amount}{of}{where}{how}"


def _meaning(value: Any) -> Any:
    """A value as JSON that is equal for equal meanings: base units, twelve digits, defaults written out."""
    if isinstance(value, Part):
        fields = type(value).model_fields
        items = ((fields[name].alias or name, inner) for name, inner in value)
        return {name: _meaning(inner) for name, inner in items if inner is not None}
    if isinstance(value, Spread):
        return [value.low, value.mid, value.high]
    if isinstance(value, Quantity):
        unit = next(unit for unit, _ in DIMENSIONS.values() if value.is_compatible_with(unit))
        return f"{float(value.to(unit).magnitude):.12g} {unit}"
    if isinstance(value, Mapping):
        return {name: _meaning(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_meaning(inner) for inner in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


# ---------------------------------------------------------------- overrides


def _scalar(value: Any) -> Any:
    """Text of the command line as YAML reads it; anything else as it is."""
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        data = parse(f"value: {value}").data
    except ZooError:
        return value
    return data["value"] if len(data) == 1 else value


def _replace(data: dict[str, Any], keys: Keys, value: Any) -> None:
    """Put `value` at `keys` of nested plain data, making mappings on the way; None removes."""
    place: Any = data
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        here = f"--set {dotted(keys)}: "
        if isinstance(key, int):
            if not isinstance(place, list):
                raise QueryError(f"{here}{dotted(keys[:depth])} is not a list")
            if key >= len(place):
                entries = _plural(len(place), "entry")
                raise QueryError(f"{here}{dotted(keys[:depth])} has {entries}, counted from 0")
        elif isinstance(place, list):
            raise QueryError(f"{here}{dotted(keys[:depth])} is a list; name an entry such as {dotted(keys[:depth])}[0]")
        elif not isinstance(place, dict):
            raise QueryError(f"{here}{dotted(keys[:depth])} has no keys below it, it is {_show(place)}")
        if last and value is None:
            if isinstance(key, int):
                del place[key]
            else:
                place.pop(key, None)
        elif last:
            place[key] = value
        else:
            place = place[key] if isinstance(key, int) else place.setdefault(key, {})


def _check_files(query: AnyQuery) -> None:
    """The files that a question names are there."""
    named: list[tuple[Keys, Path]] = [(("zoo", place), path) for place, path in enumerate(query.zoo_files)]
    if query.model_file is not None:
        named.append((("workload", "model"), query.model_file))
    if query.calibration_file is not None:
        named.append((("calibration",), query.calibration_file))
    missing = []
    for keys, path in named:
        try:
            there = path.is_file()
        except OSError:
            there = False
        if not there:
            missing.append(f"{query.locate(keys)}: no such file: {_line_of(str(path))}{_neighbour(path)}")
    if missing:
        raise QueryError(*missing)


def _neighbour(path: Path) -> str:
    """The file beside it that looks most like `path`, as a question; empty when there is none."""
    try:
        beside = [other.name for other in path.parent.iterdir() if other.suffix == path.suffix]
    except OSError:
        return ""
    guess = _nearest(path.name, beside)
    return f"; did you mean {_show(guess)}?" if guess else ""


# ---------------------------------------------------------------- from plain data to a record, and from faults to sentences


def _read(data: Any, origin: _Origin, overriding: Sequence[Keys] = ()) -> AnyQuery:
    """The record of plain data. `overriding` are the overrides being made: a fault that none of them wrote is theirs too."""
    faults: list[tuple[Keys, str]] = []
    plain = _plain(data, (), faults)
    model: type[AnyQuery] | None = None
    if not faults:
        model = _kind(plain, faults)
    if model is not None:
        for key in RESERVED:
            if plain.pop(key, None) is not None:
                faults.append(((key,), f"not supported yet by this version of {SCHEMA}"))
        try:
            result = model.model_validate(plain)
        except ValidationError as error:
            faults += _faults(error, model)
        else:
            if not faults:
                result._origin, result._given = origin, plain
                return result
    raise QueryError(*_sentences(faults, origin, overriding))


def _sentences(faults: list[tuple[Keys, str]], origin: _Origin, overriding: Sequence[Keys]) -> list[str]:
    """One line per fault, the most specific first."""
    ordered = sorted(faults, key=lambda fault: (-len(fault[0]), origin.line(fault[0]) or 0))
    lines = list(dict.fromkeys(f"{origin.place(keys, overriding)}: {_line_of(text)}" for keys, text in ordered))
    if len(lines) > _SHOWN_ERRORS:
        lines = [*lines[:_SHOWN_ERRORS], f"{origin.source}: and {len(lines) - _SHOWN_ERRORS} more faults"]
    return lines


def _kind(data: Any, faults: list[tuple[Keys, str]]) -> type[AnyQuery] | None:
    """The record that the question's `kind` names."""
    if not isinstance(data, dict):
        faults.append(((), f"{_show(data)} is not a query; expected a mapping that begins with schema: {SCHEMA}"))
        return None
    if not data:
        faults.append(((), f"empty; expected a mapping that begins with schema: {SCHEMA}"))
        return None
    kind = data.get("kind")
    if isinstance(kind, str) and kind in KINDS:
        return KINDS[kind]
    if "kind" not in data:
        guess = _nearest("kind", [key for key in data if key not in _KEY_ORDER])
        instead = f" ({_show(guess)} is unknown)" if guess else ""
        faults.append((("kind",), f"missing key{instead}; expected kind: {' or '.join(KINDS)}"))
    elif isinstance(kind, str) and kind in RESERVED_KINDS:
        faults.append((("kind",), f"{_show(kind)} is not supported yet; supported: {', '.join(KINDS)}"))
    else:
        faults.append((("kind",), _unknown(kind, tuple(KINDS), "kind of question")))
    return None


def _plain(value: Any, keys: Keys, faults: list[tuple[Keys, str]], count: list[int] | None = None) -> Any:
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
                faults.append((keys, f"{_show(key)} is not a key: keys are text"))
            elif key.isprintable() and len(key) <= _LONGEST_TEXT:
                result[key] = _plain(inner, (*keys, key), faults, count)
            else:
                faults.append((keys, f"{_show(key)} is not a key"))
        return result
    if isinstance(value, list | tuple):
        return [_plain(inner, (*keys, place), faults, count) for place, inner in enumerate(value)]
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
        faults.append((keys, f"{_show(str(value))} is a {type(value).__name__}, expected text, a number, a list or a mapping"))
    else:
        return value
    return None


def _faults(error: ValidationError, model: type[Part]) -> Iterator[tuple[Keys, str]]:
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
            guess = _nearest(key, missing.get(tuple(parent), []))
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
    such = f" such as {_flow(example)}" if example is not None else ""
    fault = detail.get("ctx", {}).get("error")
    if kind == "value_error" and fault is not None:
        return (*keys, *getattr(fault, "at", ())), str(fault)
    if kind == "extra_forbidden":
        return keys, _unknown_key(model, keys)
    if kind == "missing":
        return keys, f"missing key; expected {keys[-1]}: {_flow(example)}"
    if kind in ("model_type", "model_attributes_type", "dict_type", "mapping_type"):
        return keys, f"{_show(value)} is not a mapping, expected one{such}"
    if kind in ("tuple_type", "list_type"):
        return keys, f"{_show(value)} is not a list, expected one{such}"
    if kind == "too_short":
        return keys, f"empty, expected at least one entry{such}"
    return keys, f"{_show(value)}: {detail['msg']}"


def _unknown_key(model: type[Part], keys: Keys) -> str:
    key, part = str(keys[-1]), _part_at(model, keys[:-1]) or model
    known = [field.alias or name for name, field in part.model_fields.items()]
    if part is model:
        known.sort(key=lambda name: _KEY_ORDER.index(name) if name in _KEY_ORDER else len(_KEY_ORDER))
    guess = _nearest(key, known)
    if guess:
        return f'unknown key; did you mean "{guess}"?'
    elsewhere = [dotted(path) for path in _paths(model) if path[-1] == key]
    if elsewhere:
        return f"unknown key here; did you mean {' or '.join(_show(path) for path in elsewhere[:3])}?"
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


# ---------------------------------------------------------------- the schema for editors


class _EditorSchema(GenerateJsonSchema):
    """A key that may be left out is simply not required; writing null is a fault, so no type offers it."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        result = super().default_schema(schema)
        if result.get("default", ...) is None:
            result.pop("default")
        return result


def query_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a query file, with a description and examples of every key."""
    schema = TypeAdapter(AnyQuery).json_schema(by_alias=True, schema_generator=_EditorSchema)
    return {"$schema": GenerateJsonSchema.schema_dialect, "$id": SCHEMA_ID, **schema}
