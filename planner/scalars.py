"""Scalars of a question: the border where text becomes a value, and a value text that reads back.

Each is a type for a field of a record (`planner.query`): pydantic reads it with a check that says what was expected, writes it
back, and describes it to an editor. Whatever a check refuses is a `Fault`, a sentence without a place; `planner.query` adds file,
line and key.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from zoo.names import nearest
from zoo.units import DIMENSIONS, Quantity, UnitError, quantity

LONGEST_TEXT = 300
_MOST = 10**9  # the largest count a query may name: beyond it lies a typing slip, and the solvers' integers

Keys = tuple[str | int, ...]


class Fault(ValueError):
    """A value that a check refuses. `at` names the key below the checked record that is to blame."""

    def __init__(self, message: str, *at: str | int) -> None:
        super().__init__(message)
        self.at: Keys = at


class Scalar:
    """Annotation of a field that `check` reads, `write` writes back, and `schema` describes to an editor."""

    def __init__(self, check: Callable[[Any], Any], schema: dict[str, Any], write: Callable[[Any], Any] | None = None) -> None:
        self.check, self.schema, self.write = check, schema, write

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        writer = core_schema.plain_serializer_function_ser_schema(self.write) if self.write else None
        return core_schema.no_info_plain_validator_function(self.check, serialization=writer)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return dict(self.schema)


class OrWord:
    """Annotation of a field that is either one word ("all", "auto") or a list of `items`."""

    def __init__(self, word: str, items: Any) -> None:
        self.word, self.items = word, items

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if value == self.word:
                return value
            if isinstance(value, str):
                raise Fault(f"{show(value)} is neither {self.word} nor a list; did you mean [{value}]?")
            return inner(value)

        as_it_is = core_schema.plain_serializer_function_ser_schema(lambda value: value)
        return core_schema.no_info_wrap_validator_function(read, handler.generate_schema(self.items), serialization=as_it_is)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"const": self.word}, handler(schema.get("schema", schema))]}


def show(value: Any) -> str:
    """A value as it might stand in the file, on one short printable line."""
    if isinstance(value, Quantity):
        value = text_of(value)
    shown = json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, Mapping | list | tuple) else flow(value)
    return line_of(shown if len(shown) <= 60 else shown[:57] + "...")


def line_of(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def flow(value: Any) -> str:
    """A value in YAML's flow style: {p99: 500 ms}."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(inner)}" for key, inner in list(value.items())[:6]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(inner) for inner in list(value)[:6]) + "]"
    if isinstance(value, str):
        return value if re.fullmatch(r"[A-Za-z0-9][\w ./%-]*", value) and not _reads_as_other(value) else json.dumps(value)
    return json.dumps(value, default=str)


def _reads_as_other(text: str) -> bool:
    return text.lower() in ("yes", "no", "on", "off", "true", "false", "null", "y", "n") or bool(re.fullmatch(r"[\d.eE_]+", text))


def unknown(value: Any, known: Sequence[str], what: str) -> str:
    guess = nearest(value, known)
    hint = f"; did you mean {show(guess)}?" if guess else ""
    return f"{show(value)} is no {what}{hint} (known: {', '.join(known)})"


def plural(count: int, thing: str) -> str:
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
                raise Fault(f"{show(value)}: write 1.5 or 1500, without a comma; expected {dimension} such as {show(example)}")
            stray = [digits for digits in re.findall(r"(?<![\w.])[\d.]+", unit) if digits != "1"]
            if stray or re.search(r"[^\w\s%µ/*()]|\*\*", unit):
                raise Fault(f"{show(value)} is not one number and one unit, expected {dimension} such as {show(example)}")
    if not isinstance(value, str | int | float | Quantity):
        raise Fault(f"{show(value)} is not a quantity, expected {dimension} such as {show(example)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise Fault(f"{value} is not finite, expected {dimension} such as {show(example)}")
    return quantity(value, dimension)


def measure(dimension: str) -> Scalar:
    """A quantity above zero of a named dimension (a key of zoo.units.DIMENSIONS)."""
    unit, example = DIMENSIONS[dimension]

    def read(value: Any) -> Quantity:
        result = _read_quantity(value, dimension)
        size = result.to(unit).magnitude
        if not math.isfinite(size):
            raise Fault(f"{show(value)} is too large, expected {dimension} such as {show(example)}")
        if not size > 0:
            raise Fault(f"{show(value)} is not above zero, expected {dimension} such as {show(example)}")
        return result

    return Scalar(read, {"type": "string", "pattern": r"^\s*\+?[0-9.]", "x-dimension": dimension}, text_of)


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


def fraction(low: float, high: float, *, above: bool = False, below: bool = False, example: Any = "0.5 %") -> Scalar:
    """A dimensionless number or percentage from `low` to `high`; `above` and `below` exclude the ends."""
    inside = f"{'above' if above else 'from'} {low:g} {'to below' if below else 'to'} {high:g}"

    def read(value: Any) -> float:
        try:
            result = float(_read_quantity(value, "fraction").to("dimensionless").magnitude)
        except UnitError as error:
            raise Fault(str(error).replace('"0.5 %"', show(example))) from None
        if not (low < result if above else low <= result) or not (result < high if below else result <= high):
            raise Fault(f"{show(value)} is out of range, expected a fraction {inside}, such as {show(example)}")
        return result

    return Scalar(read, {"type": ["number", "string"], "description": f"a fraction {inside}; percentages are text"})


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
            raise Fault(f"{show(value)} is no range of factors, expected one {example}") from None
        low, mid, high = 1 - share, 1.0, 1 + share
    elif isinstance(value, (list, tuple)) and len(value) == 3 and all(isinstance(v, (int, float)) for v in value):
        low, mid, high = map(float, value)
    else:
        raise Fault(
            f"{show(value)} is no range of factors, expected three numbers (low, most likely, high) or a share, {example}"
        )
    if not 0 < low <= mid <= high <= 100:
        raise Fault(f"{show(value)} is out of order, expected 0 < low <= mid <= high, {example}")
    return Spread(low, mid, high, value if isinstance(value, str) else f"[{low:g}, {mid:g}, {high:g}]")


def _write_spread(value: Any) -> Any:
    return value.text if value.text[0] in "±+" else [value.low, value.mid, value.high]


def whole(low: int, example: int) -> Scalar:
    """A whole number from `low` to a thousand million."""

    def read(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            hint = " (text, not a number)" if isinstance(value, str) and re.fullmatch(_NUMBER, value.strip()) else ""
            raise Fault(f"{show(value)} is not a whole number{hint}, expected one such as {example}")
        if not low <= value <= _MOST:
            wanted = f"at least {low}" if value < low else f"at most {_MOST}"
            raise Fault(f"{show(value)} is out of range, expected a whole number of {wanted}, such as {example}")
        return value

    return Scalar(read, {"type": "integer", "minimum": low, "maximum": _MOST})


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        quotes = "; use quotes if it is a name" if isinstance(value, bool | int | float) else ""
        raise Fault(f"{show(value)} is not text{quotes}")
    if not value.strip():
        raise Fault("empty text, expected a name")
    if len(value) > LONGEST_TEXT or not value.isprintable():
        raise Fault(f"{show(value)} is not a name: at most {LONGEST_TEXT} printable characters")
    return value


def _read_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Fault(f"{show(value)} is neither true nor false")
    return value


def word(what: str, *words: str) -> Scalar:
    """One of `words`."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise Fault(unknown(value, words, what))
        return value

    return Scalar(read, {"enum": list(words)})


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


class _Precision(Scalar):
    def __init__(self) -> None:
        super().__init__(self._read, {})

    def _read(self, value: Any) -> str:
        if not isinstance(value, str) or value not in precisions():
            raise Fault(unknown(value, precisions(), "precision"))
        return value

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"enum": list(precisions())}


PERCENTILE = r"p(\d{1,2}(?:\.\d+)?)"


def _read_statistic(value: Any) -> str:
    found = re.fullmatch(PERCENTILE, value) if isinstance(value, str) else None
    if value == "mean" or (found and 0 < float(found[1]) < 100):
        return str(value)
    raise Fault(f"{show(value)} is no percentile; expected p50, p90, p99, p99.9 (above 0, below 100) or mean")


WEIGHED = "cost + carbon.price * carbon"
_OBJECTIVES = ("cost", "carbon", "power", "chips", WEIGHED)


def _read_objective(value: Any) -> str:
    spellings = (*_OBJECTIVES, "carbon.price * carbon + cost", "cost + carbon * carbon.price")
    plain = {re.sub(r"\s", "", name): name for name in spellings}
    found = plain.get(re.sub(r"\s", "", value)) if isinstance(value, str) else None
    if found is None:
        raise Fault(unknown(value, _OBJECTIVES, "objective"))
    return found if found in _OBJECTIVES else WEIGHED


_TRAIN_OBJECTIVES = ("cost", "carbon", "time", "chips", "energy", "power", WEIGHED)


def _read_train_objective(value: Any) -> str:
    if isinstance(value, str) and value in _TRAIN_OBJECTIVES:
        return value
    found = _read_objective(value) if isinstance(value, str) and "carbon.price" in value else None
    if found is None:
        raise Fault(unknown(value, _TRAIN_OBJECTIVES, "objective"))
    return found


def _number_or_tokens(what: str, example: str) -> Scalar:
    """A whole number above zero, or a quantity of tokens."""

    def read(value: Any) -> int | Quantity:
        if isinstance(value, str | Quantity):
            size = _read_quantity(value, "tokens")
            if not size.m_as("token") >= 1:
                raise Fault(f"{show(value)} is less than a token, expected {what} such as {example}")
            return size
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
            raise Fault(f"{show(value)} is not {what}, expected one such as {example}")
        return value

    return Scalar(read, {"type": ["integer", "string"]}, _write_quantity)


def _write_quantity(value: Any) -> Any:
    """A quantity as text; a plain number or a word as it is."""
    return text_of(value) if isinstance(value, Quantity) else value


def _read_deadline(value: Any) -> Quantity | str:
    """A time after the start, or a date."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value.strip()):
        return _read_date(value)
    try:
        result: Quantity = measure("time").check(value)
    except (UnitError, Fault) as error:
        raise Fault(f'{error}, or a date such as "2027-03-01"') from None
    return result


def _read_date(value: Any) -> str:
    try:
        return date.fromisoformat(value.strip() if isinstance(value, str) else "").isoformat()
    except ValueError:
        raise Fault(f'{show(value)} is no date, expected one such as "2027-03-01"') from None


_DEGREE = r"\s*(\d{1,9})\s*\.\.\s*(\d{1,9})\s*"


def _read_degrees(value: Any) -> tuple[int, ...] | str:
    """What a degree may be: one whole number, a list of them, or a range such as "1..16"."""
    if isinstance(value, str):
        found = re.fullmatch(_DEGREE, value)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise Fault(f'{show(value)} is no degree; expected 8, [1, 2, 4] or a range such as "1..16"')
        return f"{int(found[1])}..{int(found[2])}"
    values = list(value) if isinstance(value, list | tuple) else [value]
    read = [whole(1, 8).check(each) for each in values]
    if not read:
        raise Fault('empty; expected 8, [1, 2, 4] or a range such as "1..16"')
    return distinct(tuple(read))


def write_degrees(value: tuple[int, ...] | str) -> Any:
    return value if isinstance(value, str) else value[0] if len(value) == 1 else list(value)


def _read_count_or_range(value: Any) -> tuple[int, int]:
    """A number of accelerators, or [fewest, most]."""
    if not isinstance(value, list | tuple):
        count = whole(1, 512).check(value)
        return count, count
    if len(value) != 2:
        raise Fault(f"{show(value)} is no range: expected a number such as 512, or [fewest, most] such as [512, 16384]")
    low, high = (whole(1, 512).check(each) for each in value)
    if low > high:
        raise Fault(f"{show(value)} is no range: the fewest, {low}, is more than the most, {high}")
    return low, high


_OFFLOAD = ("optimizer", "activations")


def _read_offload(value: Any) -> tuple[str, ...]:
    """What may be kept on the host: true (optimizer state), false, or a list of names."""
    if not isinstance(value, list | tuple):
        return ("optimizer",) if _read_flag(value) else ()
    for each in value:
        word("thing to offload", *_OFFLOAD).check(each)
    return tuple(name for name in _OFFLOAD if name in value)


def _write_offload(value: tuple[str, ...]) -> Any:
    return {(): False, ("optimizer",): True}.get(value, list(value))


def _write_count_or_range(value: tuple[int, int]) -> Any:
    return value[0] if value[0] == value[1] else list(value)


def _read_time_or_range(value: Any) -> tuple[Quantity, ...]:
    """One time, or [low, typical, high]."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if len(values) not in (1, 3):
        raise Fault(f"{show(value)}: expected one time, or [low, typical, high]")
    read = tuple(measure("time").check(each) for each in values)
    if len(read) == 3 and not read[0] <= read[1] <= read[2]:
        raise Fault(f"{show(value)}: expected [low, typical, high] in ascending order")
    return read


def _write_time_or_range(value: tuple[Quantity, ...]) -> Any:
    return text_of(value[0]) if len(value) == 1 else [text_of(each) for each in value]


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for value in values:
        if values.count(value) > 1:
            raise Fault(f"{show(value)} stands twice in the list")
    return values


def _overlay_path(value: Any) -> str:
    text = _read_text(value)
    if not text.lower().endswith((".yaml", ".yml", ".json")):
        raise Fault(f"{show(text)} is no zoo file; expected a path such as my_chips.yaml")
    return text


Time = Annotated[Quantity, measure("time")]
Rate = Annotated[Quantity, measure("rate")]
Power = Annotated[Quantity, measure("power")]
MoneyRate = Annotated[Quantity, measure("money rate")]
CarbonRate = Annotated[Quantity, measure("carbon rate")]
CarbonPrice = Annotated[Quantity, measure("carbon price")]
WaterRate = Annotated[Quantity, measure("water rate")]
Text = Annotated[str, Scalar(_read_text, {"type": "string", "minLength": 1, "maxLength": LONGEST_TEXT})]
Flag = Annotated[bool, Scalar(_read_flag, {"type": "boolean"})]
Precision = Annotated[str, _Precision()]
ZooFile = Annotated[str, Scalar(_overlay_path, {"type": "string", "pattern": r"\.(yaml|yml|json)$"})]
Disaggregation = Annotated[Literal["none", "pools"], word("way to serve", "none", "pools")]
Purchase = Literal["on-demand", "spot", "reserved-1y", "reserved-3y"]
PurchaseName = Annotated[Purchase, word("purchase option", *get_args(Purchase))]
Statistic = Annotated[str, Scalar(_read_statistic, {"type": "string"})]
Texts = Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(distinct)]
Precisions = Annotated[tuple[Precision, ...], Field(min_length=1), AfterValidator(distinct)]
Money = Annotated[Quantity, measure("money")]
Mass = Annotated[Quantity, measure("carbon")]
Volume = Annotated[Quantity, measure("water")]
TokenCount = Annotated[Quantity, measure("tokens")]
Operations = Annotated[Quantity, measure("operations")]
_DEGREES: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 1}},
        {"type": "string", "pattern": r"^\s*[0-9]+\s*\.\.\s*[0-9]+\s*$"},
    ]
}
Degrees = Annotated[tuple[int, ...] | str, Scalar(_read_degrees, _DEGREES, write_degrees)]
DateText = Annotated[str, Scalar(_read_date, {"type": "string", "format": "date"})]
Latency = Annotated[
    dict[Statistic, Time],
    Field(min_length=1),
    WithJsonSchema(
        {
            "type": "object",
            "minProperties": 1,
            "patternProperties": {rf"^(mean|{PERCENTILE})$": {"type": "string", "description": "a time", "examples": ["500 ms"]}},
            "additionalProperties": False,
        }
    ),
]
Factors = Annotated[
    Spread,
    Scalar(
        _read_spread,
        {"type": ["string", "array"], "description": "factors of a figure: ±20 % or [low, mid, high]"},
        _write_spread,
    ),
]
Objective = Annotated[
    Literal["cost", "carbon", "power", "chips", "cost + carbon.price * carbon"],
    Scalar(_read_objective, {"enum": list(_OBJECTIVES)}),
]
TrainObjective = Annotated[
    Literal["cost", "carbon", "time", "chips", "energy", "power", "cost + carbon.price * carbon"],
    Scalar(_read_train_objective, {"enum": list(_TRAIN_OBJECTIVES)}),
]
SequenceLength = Annotated[int | Quantity, _number_or_tokens("a sequence length", "8192")]
GlobalBatch = Annotated[int | Quantity, _number_or_tokens("a number of sequences", "2048")]
Deadline = Annotated[Quantity | str, Scalar(_read_deadline, {"type": "string"}, _write_quantity)]
Offload = Annotated[
    tuple[str, ...],
    Scalar(
        _read_offload,
        {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"enum": list(_OFFLOAD)}, "minItems": 1}]},
        _write_offload,
    ),
]
CountOrRange = Annotated[
    tuple[int, int],
    Scalar(
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
TimeOrRange = Annotated[
    tuple[Quantity, ...],
    Scalar(
        _read_time_or_range,
        {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 3, "maxItems": 3, "items": {"type": "string"}}]},
        _write_time_or_range,
    ),
]
Recompute = Annotated[str, word("recompute mode", "none", "selective", "full")]
Sharding = Annotated[str, word("sharding", "none", "zero1", "zero2", "zero3", "hybrid")]
