"""The answer: a plan that round-trips through JSON, with every number that a report shows.

Numbers carry their unit in their name. `Plan.to_json` and `Plan.from_json` are inverse; `plan.fleet`, `plan.walls` and
`plan.certificate` are records, and `frame` turns any list of them into a DataFrame.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from errno import EISDIR
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveInt

from zoo.names import nearest

from .records import dotted
from .written_by import written_by

SCHEMA: Literal["wallplan/plan/v1"] = "wallplan/plan/v1"
Status = Literal["optimal", "infeasible", "stopped"]


class Record(BaseModel):
    """A row of the answer: fixed once made, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class Degrees(Record):
    """How a replica is split over chips."""

    tensor_parallel: PositiveInt
    pipeline_parallel: PositiveInt
    expert_parallel: PositiveInt

    @property
    def chips(self) -> int:
        """Accelerators of one replica."""
        return max(self.tensor_parallel, self.expert_parallel) * self.pipeline_parallel

    @property
    def words(self) -> str:
        """ "TP4 PP2", as reports say it."""
        text = f"TP{self.tensor_parallel}" + (f" PP{self.pipeline_parallel}" if self.pipeline_parallel > 1 else "")
        return text + (f" EP{self.expert_parallel}" if self.expert_parallel > 1 else "")


class Readers(Degrees):
    """Replicas that only read prompts, beside others that only decode: so many of each in a unit of machines."""

    replicas: PositiveInt
    beside: PositiveInt


class Layout(Degrees):
    """How a replica is laid out; with `prefill`, of those that decode."""

    precision: str
    kv_precision: str
    batch: PositiveInt
    prefill: Readers | None = None
    drafted: NonNegativeInt = 0  # tokens a step, by speculative decoding

    @property
    def in_full(self) -> str:
        """ "TP4", "TP4, 2 drafted", or of a unit "3 x TP1 prefill + 5 x TP1 decode"."""
        drafted = f", {self.drafted} drafted" if self.drafted else ""
        if self.prefill is None:
            return self.words + drafted
        return f"{self.prefill.replicas} x {self.prefill.words} prefill + {self.prefill.beside} x {self.words} decode{drafted}"

    def unit(self, accelerators: int) -> tuple[int, int, int]:
        """(machines of `accelerators`, replicas, replicas that only read prompts) of the smallest pool of this layout."""
        if self.prefill is not None:
            chips = self.prefill.replicas * self.prefill.chips + self.prefill.beside * self.chips
            return max(1, chips // accelerators), self.prefill.beside, self.prefill.replicas
        span = max(1, self.chips // accelerators)
        return span, span * accelerators // self.chips, 0


class Pool(Record):
    """Replicas of one layout on one offer, sharing one queue: a row of the fleet table."""

    region: str
    offer: str
    chip: str
    option: str
    instances: PositiveInt
    accelerators: int
    replicas: int
    prefill_replicas: int = 0  # beside them, where prefill and decode are apart
    layout: Layout
    serves: dict[str, NonNegativeFloat]  # population -> requests per second
    load_per_s: float
    capacity_per_s: float
    network_ms: float
    ttft_p50_ms: float | None
    ttft_p90_ms: float | None = None
    ttft_p99_ms: float | None
    tpot_ms: float  # every slot busy: what is promised
    tpot_p50_ms: float | None = None
    tpot_p90_ms: float | None = None
    tpot_p99_ms: float | None = None
    cost_usd_per_h: float
    usd_per_million_output_tokens: float
    carbon_kgco2e_per_h: float
    power_kw: float
    water_l_per_h: float
    price_date: str | None
    price_source: str
    price_flags: tuple[str, ...] = ()


class WallRow(Record):
    """What one wall asks and allows. `headroom` is (limit - demand) / limit; None where nothing limits it. `tight`: next to
    nothing is left of it (of a step: it is the largest part). Whether it binds, only a re-solve can say: see `Marginal`."""

    number: int
    name: str
    what: str
    demand: float
    limit: float | None
    unit: str
    headroom: float | None
    tight: bool
    origin: Literal["physics", "query", "none"]
    where: str


class Certificate(Record):
    """What was proven and by whom. All in the objective's unit."""

    status: Status
    objective: float | None
    lower_bound: float | None
    gap: float | None
    unit: str
    rounds: int
    solves: int
    solver: str
    cross_check: str
    forward_check: str
    columns: int
    rows: int
    variables: int
    seconds: float
    without: tuple[str, ...] = ()  # clauses that the proof does without: the plan is the best even so, and keeps them


class Removed(Record):
    """How many candidates a wall or a clause removed before the solver, and why."""

    wall: int | None
    name: str
    removed: int
    reason: str


class Assumption(Record):
    """Something taken for granted, and where it comes from."""

    text: str
    source: str


class Conflict(Record):
    """One clause (or wall) of a set that cannot hold together."""

    clause: str
    text: str
    file: str
    line: int | None
    walls: tuple[str, ...] = ()


class Fix(Record):
    """A change that makes the question feasible, and what the best plan then costs.

    how: what moves of several clauses are the least of. "least sum": of |to - from| / from over all moves together, of demand,
    limits and quotas (of a job: of limits and the deadline); "demand kept": over those of limits and quotas alone; "in turn":
    each as little as those after it, dropped, allow, names and counts of machines too; "dropped": without any limit in its
    place; "not sought": values are `?`.
    demand_left: the share that is left of a demand that is cut, of several the least; None where none is.
    What lies beyond a least move, where its one clause with a size can move on (of a job `without` where several have one
    too): `without`, the objective with all that is changed dropped, which no move betters; and `further`, the least values at
    which the plan is at most half dearer than that (found to 1 %, as is its objective; of a latency also of its value).
    """

    clause: str
    change: str
    value: str
    objective: float | None = None
    unit: str = ""
    how: Literal["alone", "least sum", "demand kept", "in turn", "dropped", "not sought"] = "alone"
    further: str | None = None
    further_objective: float | None = None
    without: float | None = None
    demand_left: float | None = None

    def moves(self, values: str) -> str:
        """Its clauses with their new `values`, in words."""
        return " and ".join(
            f"{change}: {value}" for change, value in zip(self.change.split("; "), values.split("; "), strict=False)
        )

    @property
    def for_nothing(self) -> bool:
        """Whether the repair leaves practically nothing to do: less than a hundredth of a demand."""
        return self.demand_left is not None and self.demand_left < 0.01


def cheapest_first(fixes: Iterable[Fix]) -> list[Fix]:
    """Repairs by the objective of the best plan after them; those of which it is not known last, and after them those that leave
    practically nothing to do, which costs practically nothing."""
    return sorted(fixes, key=lambda fix: (fix.for_nothing, math.inf if fix.objective is None else fix.objective))


class Missing(Record):
    """Data that is not there: `count` things, named where they are few, of which `text` says what they lack."""

    count: int
    text: str
    names: tuple[str, ...] = ()


class Nearest(Record):
    """The best plan of the repair that moves an infeasible question least: the best that is possible anyway.

    Where the plan of its least move costs several times that of its further one, it is the latter: `least` is then the value of
    the least move, and `least_objective` what that would cost.
    """

    change: str
    objective: float
    unit: str
    fleet: tuple[Pool, ...]
    totals: dict[str, float]
    least: str | None = None
    least_objective: float | None = None


class WhyNot(Record):
    """The best plan that uses X everywhere, beside the best plan of all; or what forbids it.

    `proven` is false where the time was over before the proof of the answer (then `status` is "stopped") or of some of what would
    let X win; `note` says of what.
    """

    what: str
    status: Status
    objective: float | None
    unit: str
    dearer_by: float | None
    ratio: float | None
    wins_at: str | None
    conflict: tuple[Conflict, ...]
    fixes: tuple[Fix, ...]
    removed: tuple[Removed, ...]
    fleet: tuple[Pool, ...]
    note: str = ""  # what removes it, that the plan has it already, or that no price makes it win
    took: str = ""  # the names that were meant, where X is no full name
    proven: bool = True


class Alternative(Record):
    """A proven optimum of the question narrowed: `kind` and `name` say to what. `within`: the tolerance that was asked for."""

    kind: str
    name: str
    objective: float
    unit: str
    dearer_by: float
    ratio: float | None
    fleet: tuple[Pool, ...]
    totals: dict[str, float]
    within: bool = True
    same_in: tuple[str, ...] = ()


class Marginal(Record):
    """What moving one limit or wall is worth, from re-solving the question.

    `per_percent` is the objective saved when it is loosened by 1 %, `per_unit` when it is loosened by `unit_step`;
    `switches_at` is the first loosening, in its own words, at which there is a better plan, `worsens_at` the first tightening
    at which today's objective is out of reach; None where not asked, or neither before half or twice of today's.
    `costs_per_percent` is what the best plan costs more when it is tightened by 1 %; None where not asked, or there is none.
    `proven` is false where the time was over before the proof of a re-solve: what that would have told is None, and `binding` and
    `breaks` are true only where the others prove it.
    """

    number: int
    name: str
    knob: str
    origin: Literal["physics", "query", "market"]
    value: str
    binding: bool
    per_percent: float | None
    unit_step: str
    per_unit: float | None
    unit: str
    switches_at: str | None = None
    worsens_at: str | None = None
    costs_per_percent: float | None = None
    relaxed_per_percent: float | None = None  # by the linear relaxation's shadow price, where it means something
    breaks: bool = False  # tightened by 1 % there is no plan
    proven: bool = True


class Swing(Record):
    """The optimum at both ends of one uncertain figure: factors, objectives (None: no plan), and what the best plan rents.

    `switches_low` and `switches_high`: another plan wins there than today's (`plan`).
    """

    what: str
    low: float
    high: float
    source: str
    objective: float | None
    objective_low: float | None
    objective_high: float | None
    unit: str
    plan: str
    plan_low: str
    plan_high: str
    switches_low: bool
    switches_high: bool


class Need(Record):
    """The least factor on one figure of a chip that brings it into the plan (None: none up to ten times does), and what the
    best plan then costs."""

    what: str
    chip: str
    factor: float | None
    today: str
    needed: str
    objective: float | None
    unit: str
    wall: str = ""  # where no factor does: what is in the way at the farthest


class Robustness(Record):
    """A figure under the query's uncertainty: p10, p50, p90, and the probability that its limit holds (None: no limit)."""

    what: str
    unit: str
    p10: float | None
    p50: float | None
    p90: float | None
    limit: float | None
    holds: float | None


class Argument(Record):
    """A figure of a wall's equation in a plan, and where it is from. `of`: the pool that it is of, empty where there is one job.

    `value` is what reports print; `amount` is the same with all its digits, in `unit` (None: it is no number).
    """

    symbol: str
    meaning: str
    value: str
    source: str
    amount: float | None = None
    unit: str = ""
    of: str = ""


class WallPage(Record):
    """A wall's equation with a plan's figures in it, and what it asks and allows there.

    `form` is the equation as this plan's figures enter it. `absent` says why the wall has no part in the question; then there
    are no figures.
    """

    number: int
    name: str
    equation: str
    form: str
    bounds: str
    reference: str
    absent: str
    arguments: tuple[Argument, ...]
    readings: tuple[WallRow, ...]
    assumes: str
    leaves_out: str


class Difference(Record):
    """One thing that two plans do not have in common."""

    part: str
    name: str
    old: str
    new: str
    change: float | None


class Written(Record):
    """Where a question was written: its file as it was named, the line of each key that does not stand in its parent's line, and
    the keys that were set on the way."""

    file: str
    lines: dict[str, PositiveInt] = {}
    overridden: tuple[str, ...] = ()


# What is looked for of why there is no plan, in this order, as `Plan.not_looked_at` says it.
CLASH = ("which clauses the clash does not need",)
REST = ("which changes repair the question",)
OTHERS = ("other clashes and joint repairs",)


class Plan(Record):
    """The answer to a query. `query` is the question itself, complete, so that a plan can be evaluated on its own.

    `not_looked_at`: what of the explanation of an infeasible question was left out because the time was over."""

    schema_version: Literal["wallplan/plan/v1"] = SCHEMA
    wallplan: str
    name: str
    kind: str
    status: Status
    minimize: str
    objective: float | None
    objective_unit: str
    query: dict[str, Any]
    query_folder: str
    query_written: Written | None = None
    fleet: tuple[Pool, ...]
    totals: dict[str, float]
    walls: tuple[WallRow, ...]
    certificate: Certificate
    removed: tuple[Removed, ...]
    assumptions: tuple[Assumption, ...]
    conflict: tuple[Conflict, ...] = ()
    further: tuple[tuple[Conflict, ...], ...] = ()  # the other clashes, which may overlap
    clashes: Literal["all", "cut short", "some"] = "some"  # whether there are more than these
    fixes: tuple[Fix, ...] = ()
    not_enough_alone: tuple[str, ...] = ()  # clauses of clashes that no change of theirs alone repairs
    innocent: tuple[Conflict, ...] = ()
    not_looked_at: tuple[str, ...] = ()
    nearest: Nearest | None = None
    missing: tuple[Missing, ...] = ()
    robustness: tuple[Robustness, ...] = ()
    data: dict[str, str]
    candidates: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the JSON."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        """The plan as JSON; `Plan.from_json` reads it back to an equal plan."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)

    def save(self, path: str | Path) -> None:
        """Write the plan; the file appears whole or not at all."""
        target = Path(path)
        if target.is_dir():
            raise IsADirectoryError(EISDIR, "is a folder, expected a file", str(target))
        temporary = target.with_name(target.name + ".part")
        try:
            temporary.write_text(self.to_json() + "\n", encoding="utf-8")
            temporary.replace(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a plan. Raises PlanError, one line, for anything that is not a plan of this version."""
        from pydantic import ValidationError

        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"not JSON: {error}; expected a plan that `wallplan solve QUERY -o plan.json` saved") from None
        if not isinstance(data, dict) or "schema_version" not in data:
            raise PlanError('not a Wallplan plan: "schema_version" is missing')
        if cls is Plan and data.get("kind", "serve") != "serve":
            raise PlanError(f"a plan of kind {data['kind']!r}, expected one of a serve question")
        older = f"{written_by(data.get('wallplan'))}: solve the question again"
        if data["schema_version"] != SCHEMA:
            raise PlanError(f"plan of version {data['schema_version']!r}, expected {SCHEMA!r}; {older}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            what = {"missing": "missing key", "extra_forbidden": "unknown key"}.get(first["type"], first["msg"])
            raise PlanError(f"{dotted(first['loc'])}: {what}; {older}") from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a plan from a file. Raises PlanError, one line that names the file."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from None
        try:
            return cls.from_json(text)
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from None

    def frame(self, table: str = "fleet") -> Any:
        """`fleet`, `walls`, `removed`, `assumptions`, `conflict` or `fixes` as a pandas DataFrame; the certificate as one row.

        `marginal` too, which is solved for. Raises PlanError for what is no table.
        """
        import pandas as pd

        value = getattr(self, table, None)
        records = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(record, BaseModel) for record in records):
            tables = [name for name in type(self).model_fields if isinstance(getattr(self, name), (tuple, BaseModel))]
            near = nearest(table, tables)
            hint = f'; did you mean "{near}"?' if near else ""
            raise PlanError(f'plan.frame("{table}"): expected one of {", ".join((*tables, "marginal"))}{hint}')
        return pd.DataFrame(rows(records))


class PlanError(ValueError):
    """A file that is no plan, or an answer without one. One line."""


def needs_objective(plan: Plan, purpose: str, source: str = "") -> None:
    """Raises PlanError where an answer has no plan of which a `purpose` could be asked."""
    if plan.objective is None:
        where = f"{source}: " if source else ""
        why = (
            "its clashes and repairs say why: `wallplan explain`"
            if plan.status == "infeasible"
            else "solver.time may be too short"
        )
        raise PlanError(f"{where}there is no plan {purpose} ({plan.status}); {why}")


def _words(value: Any) -> str:
    """One of several values in one cell: of a pool its machines, of a clause or a repair its words."""
    if not isinstance(value, dict):
        return str(value)
    if "offer" in value:
        return f"{value['instances']} x {value['offer']}"
    if "change" in value:
        return f"{value['change']}: {value['value']}"
    return str(value["text"] if "text" in value else f"{value['name']}: {value['reason']}")


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Records as flat mappings: nested records become columns of their own."""
    flat = []
    for record in records:
        line: dict[str, Any] = {}
        for key, value in record.model_dump(mode="json").items():
            if isinstance(value, dict) and key == "layout":
                if "prefill" in value:  # a replica's layout, not a training step's
                    prefill = value["prefill"]
                    value["prefill"] = "" if prefill is None else Readers.model_validate(prefill).words
                line.update({k: "; ".join(map(str, v)) if isinstance(v, list) else v for k, v in value.items()})
            elif isinstance(value, dict):
                line[key] = "; ".join(f"{name}={amount:g}" for name, amount in value.items())
            elif isinstance(value, list):
                line[key] = "; ".join(map(_words, value))
            else:
                line[key] = value
        flat.append(line)
    return flat
