"""The constants of the training model: what was fitted, for which chips and stacks, and what anything else inherits.

A constant has one value per *key*: the part of a run's setting that it varies by (a chip family and precision class, a
class of stacks, ...). The time factors of a stack, of its variant, of a low-precision recipe, of a release and of a chip
are pooled: each is shrunk towards 1, so that what was measured little counts little.

`data/training_priors.csv` holds what was believed before any row was seen, with its spread; `data/training_constants.json`
what `models.training_fit` made of it, with posterior spread, rows, residuals and the interval's widths. A key that was
never measured inherits, says so (`Constants.inherited`), and gets a wider interval.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from zoo.specs import Accelerator
from zoo.units import Q

from .constants import row, table
from .dimensions import UnknownValue

_DATA = Path(__file__).with_name("data")

# Low-precision recipe -> (precision class in bits, peak of the accelerator that it multiplies at).
RECIPES: Mapping[str, tuple[int, str]] = {
    "bf16": (16, "bf16"),
    "fp16": (16, "fp16"),
    "fp8": (8, "fp8"),
    "mxfp8": (8, "fp8"),
    "fp8-mx": (8, "fp8"),
    "int8": (8, "int8"),
    "nvfp4": (4, "fp4"),
}
FACTORS = ("stack_factor", "variant_factor", "recipe_factor", "release_factor", "chip_factor")


@dataclass(frozen=True, slots=True)
class Stack:
    """A training software stack and what it does differently. Known ones: `data/training_stacks.csv`, by `stack()`."""

    name: str
    overlapped: bool  # communication runs beside compute
    fused_attention: bool  # FlashAttention
    interleaves: bool  # several model chunks per pipeline stage by default
    sequence_parallel: bool  # by default
    scatters_sends: bool  # each tensor rank sends its share of a pipeline activation
    sharding: str  # what its users shard by default: zero1, zero3, fsdp_full
    tensor_overlap: str  # what hides tensor-parallel communication where it is switched on: userbuffers, async-tp, or nothing
    vendors: tuple[str, ...]  # of the chips that it runs on, as the zoo names them
    release: str = ""
    options: tuple[str, ...] = ()  # of eager, rowwise, async-tp, 500W

    def runs_on(self, vendor: str) -> bool:
        """Whether there is a build of it for a vendor's chips; a vendor that no stack names (of a user's own chip) is let in."""
        return vendor in self.vendors or not any(vendor in record["vendors"].split(";") for record in table("training_stacks"))


# Columns of `training_stacks` that are true or false.
_SWITCHES = ("overlapped", "fused_attention", "interleaves", "sequence_parallel", "scatters_sends")


@cache
def stack(name: str, release: str = "", options: tuple[str, ...] = ()) -> Stack:
    """The stack called `name`; UnknownValue with the nearest name where there is none."""
    record = row("training_stacks", name)
    flags = {key: record[key] == "true" for key in _SWITCHES}
    return Stack(
        name, sharding=record["sharding"], tensor_overlap=record["tensor_overlap"], vendors=tuple(record["vendors"].split(";")),
        release=release, options=options, **flags,
    )  # fmt: skip


def stacks_on(vendor: str) -> tuple[str, ...]:
    """The stacks that run on a vendor's chips."""
    return tuple(record["stack"] for record in table("training_stacks") if stack(record["stack"]).runs_on(vendor))


def recipe_of(precision: str) -> tuple[int, str]:
    """(precision class in bits, which peak of the accelerator) of a recipe; UnknownValue where it is not known."""
    if precision not in RECIPES:
        raise UnknownValue(f"training precision {precision!r} is unknown (known: {', '.join(RECIPES)})")
    return RECIPES[precision]


@cache
def family_of(chip: str) -> str:
    """The family whose constants a chip uses, by its zoo name: `data/training_families.csv`; "other" where none is known."""
    return next((r["family"] for r in table("training_families") if re.match(r["pattern"], chip.lower())), "other")


@dataclass(frozen=True, slots=True)
class Setting:
    """What constants depend on: all of a run but its sizes. `sharded` is FSDP or ZeRO-3, `moe` a mixture of experts.

    tensor_overlap: whether the stack's switch of that name is on; None where nobody says, as in rows of measurements.
    """

    stack: Stack
    chip: str
    precision: str
    moe: bool = False
    sharded: bool = False
    tensor_overlap: bool | None = None

    @property
    def family(self) -> str:
        return family_of(self.chip)

    @property
    def kind(self) -> str:
        """The kind of run that errors are counted by."""
        if self.family == "TPU":
            return "TPU"
        if self.moe:
            return "MoE"
        if self.family == "other":
            return "other"
        if recipe_of(self.precision)[0] < 16:
            return "FP8"
        if self.sharded:
            return "FSDP"
        return "dense-3D" if self.family in ("Ampere", "Hopper") else "dense-3D, other chips"

    def key(self, varies_by: str) -> str:
        """The key under which a constant that varies by `varies_by` keeps this setting's value."""
        bits = recipe_of(self.precision)[0]
        stack, options = self.stack, self.stack.options
        age = "TPU" if self.family == "TPU" else "modern" if stack.overlapped else "legacy"
        rowwise = "rowwise" in options
        if varies_by == "nothing":
            return "*"
        if varies_by == "stack class":
            return age
        if varies_by == "family and precision class":
            return f"{self.family}.{bits}"
        if varies_by == "attention kernel":  # LLM Foundry's rows ran the first FlashAttention
            return f"{self.family}.fa1" if stack.name == "llm-foundry" else self.family
        if varies_by == "link":
            return self.family if self.family in ("GH200", "TPU") else "*"
        if varies_by == "tensor overlap":
            if stack.tensor_overlap == "userbuffers" and self.tensor_overlap is False:
                return "legacy"  # nothing but what older stacks of the same kind hide
            return "async" if "async-tp" in options or (stack.tensor_overlap == "async-tp" and self.tensor_overlap) else age
        if varies_by == "gather":
            return "deepspeed-zero3" if stack.name == "deepspeed-zero3" else "fsdp"
        if varies_by == "layer start":
            if not self.moe:
                return "GH200" if self.family == "GH200" else age
            if self.family == "TPU":
                return "TPU"
            return "moe.fp8-mx" if self.precision == "fp8-mx" else "moe.25" if stack.release.startswith("25") else "moe.26"
        if varies_by == "selective recompute":
            return "torchtitan" if stack.name == "torchtitan" else "maxtext" if self.family == "TPU" else "*"
        if varies_by == "accumulation":
            return "modern" if stack.overlapped else f"legacy.{self.precision}"
        if varies_by == "power":
            return "500W" if "500W" in options else "none"
        if varies_by == "stack":
            return stack.name
        if varies_by == "variant":
            parts = [stack.name, f"{self.family}.{bits}", stack.release]
            parts += ["moe"] if self.moe else []
            parts += ["z3"] if self.sharded else []
            return "|".join(parts + [o for o in ("eager", "rowwise") if o in options])
        if varies_by == "recipe":
            if bits == 16:
                return "none"
            return f"moe.{self.precision}" if self.moe else self.precision + (".rowwise" if rowwise else "")
        if varies_by == "MoE release":
            known = self.moe and stack.name in ("nemo", "maxtext")
            return f"{stack.name}.moe" + (f".{stack.release}" if stack.name == "nemo" else "") if known else "none"
        if varies_by == "chip":
            return self.chip
        raise KeyError(varies_by)


@dataclass(frozen=True, slots=True)
class Value:
    """A constant's value for one key: median, spread of its logarithm (None: held), and how many rows it was fitted to."""

    value: float
    prior: float
    sd_log: float | None
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Constant:
    """One constant of the model and its values by key."""

    name: str
    unit: str
    varies_by: str
    fitted: bool
    sd_log: float | None  # spread of the prior
    meaning: str
    values: Mapping[str, Value]

    def find(self, key: str) -> tuple[float, bool]:
        """(value for `key`, whether it is inherited).

        A key without rows keeps its prior; without a prior of its own it takes that of "*"; else a factor takes 1, and any
        other constant the geometric mean of the values whose key ends alike (the same precision class), or of all.
        """
        if key in self.values:
            return self.values[key].value, self.fitted and self.values[key].rows == 0
        if self.name in FACTORS:
            return 1.0, True
        if "*" in self.values:
            return self.values["*"].value, True
        ending = key.rsplit(".", 1)[-1]
        alike = [v.value for k, v in self.values.items() if k.rsplit(".", 1)[-1] == ending]
        logs = [math.log(v) for v in alike or [v.value for v in self.values.values()]]
        return math.exp(sum(logs) / len(logs)), True


@dataclass(frozen=True, slots=True)
class Constants:
    """All constants, what they were fitted on, and how wide the 80 % interval is."""

    constants: Mapping[str, Constant]
    memory: Mapping[str, Value]
    calibrated: Mapping[str, tuple[str, ...]]  # stack, variant, chip, model -> names with a measured time
    half_width_log: Mapping[str, float]  # kind of run -> half width of the 80 % interval of log time
    widening: Mapping[str, float]  # stack, variant, chip, model -> factor on the width where it was never measured
    about: Mapping[str, Any] = field(default_factory=dict)

    def resolve(self, settings: Sequence[Setting]) -> dict[str, Any]:
        """Constant -> its values, one per setting, as quantities; the pooled factors multiplied into "time_factor"."""
        resolved: dict[str, Any] = {}
        factor = np.ones(len(settings))
        for name, constant in self.constants.items():
            values = np.array([constant.find(setting.key(constant.varies_by))[0] for setting in settings])
            if name in FACTORS:
                factor = factor * values
            else:
                resolved[name] = Q(values, constant.unit) if constant.unit else values
        return resolved | {"time_factor": factor}

    def inherited(self, setting: Setting, model: str | None = None) -> tuple[str, ...]:
        """What was never measured for this setting, in words; empty where all was."""
        notes = []
        for kind, name in self._unmeasured(setting, model).items():
            notes.append(f"{kind} {name} has no measured row")
        for constant in self.constants.values():
            key = setting.key(constant.varies_by)
            if constant.name not in FACTORS and constant.find(key)[1] and key != "*":
                notes.append(f"{constant.name} of {key} was never measured: its prior, or that of its relatives")
        return tuple(notes)

    def half_width(self, setting: Setting, model: str | None = None) -> float:
        """Half width of the 80 % interval of the logarithm of the step time.

        The kind's width from rows that the fit had not seen; times the largest widening of what was never measured.
        """
        width = self.half_width_log.get(setting.kind, max(self.half_width_log.values()))
        return width * max([1.0, *(self.widening[kind] for kind in self._unmeasured(setting, model))])

    def _unmeasured(self, setting: Setting, model: str | None) -> dict[str, str]:
        """What of this setting no measured row has: kind -> name."""
        names = {"stack": setting.stack.name, "variant": setting.key("variant"), "chip": setting.chip, "model": model}
        return {kind: name for kind, name in names.items() if name is not None and name not in self.calibrated[kind]}

    def at_priors(self) -> Constants:
        """These constants with every value back at its prior."""

        def back(values: Mapping[str, Value]) -> dict[str, Value]:
            return {key: replace(value, value=value.prior) for key, value in values.items()}

        return replace(self, constants={n: replace(c, values=back(c.values)) for n, c in self.constants.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a JSON or YAML file; `from_dict` reads it back."""
        return {
            "about": dict(self.about),
            "interval": {"half_width_log": dict(self.half_width_log), "widening_where_never_measured": dict(self.widening)},
            "constants": {
                c.name: {
                    "meaning": c.meaning,
                    "unit": c.unit,
                    "varies_by": c.varies_by,
                    "fitted": c.fitted,
                    "prior_sd_log": c.sd_log,
                    "values": {key: _value_dict(value) for key, value in c.values.items()},
                }
                for c in self.constants.values()
            },
            "memory": {name: _value_dict(value) for name, value in self.memory.items()},
            "calibrated": {kind: list(names) for kind, names in self.calibrated.items()},
        }


def _value_dict(value: Value) -> dict[str, float | int | None]:
    return {"value": value.value, "prior": value.prior, "sd_log": value.sd_log, "rows": value.rows}


def from_dict(data: Mapping[str, Any]) -> Constants:
    """Constants from the data of `Constants.to_dict`."""
    return Constants(
        constants={
            name: Constant(
                name, c["unit"], c["varies_by"], c["fitted"], c["prior_sd_log"], c["meaning"],
                {key: Value(**value) for key, value in c["values"].items()},
            )
            for name, c in data["constants"].items()
        },
        memory={name: Value(**value) for name, value in data["memory"].items()},
        calibrated={kind: tuple(names) for kind, names in data["calibrated"].items()},
        half_width_log=dict(data["interval"]["half_width_log"]),
        widening=dict(data["interval"]["widening_where_never_measured"]),
        about=dict(data["about"]),
    )  # fmt: skip


@cache
def training_constants() -> Constants:
    """The fitted constants of `data/training_constants.json`."""
    return from_dict(json.loads((_DATA / "training_constants.json").read_text(encoding="utf-8")))


def load_constants(path: str | Path) -> Constants:
    """Constants that a user's calibration wrote (YAML or JSON). Raises ValueError naming the file."""
    import yaml

    try:
        return from_dict(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a file of training constants ({type(error).__name__}: {error})") from None


@cache
def priors() -> Constants:
    """What was believed before any row was seen: `data/training_priors.csv`. Its interval is the widest."""
    constants: dict[str, Constant] = {}
    memory: dict[str, Value] = {}
    for record in table("training_priors"):
        name, value = record["constant"], float(record["prior"])
        sd = float(record["sd_log"]) if record["fitted"] == "true" else None
        entry = Value(value, value, sd)
        if record["varies_by"] == "memory":
            memory[name] = entry
            continue
        known = constants.get(name)
        constants[name] = Constant(
            name, record["unit"], record["varies_by"], sd is not None, sd, record["meaning"],
            {**(known.values if known else {}), record["key"]: entry},
        )  # fmt: skip
    nothing: tuple[str, ...] = ()
    calibrated = {"stack": nothing, "variant": nothing, "chip": nothing, "model": nothing}
    return Constants(constants, memory, calibrated, {"any": 0.3}, dict.fromkeys(calibrated, 1.0))


def peak_of(accelerator: Accelerator, precision: str) -> Any:
    """Peak FLOP/s at which a recipe multiplies on this accelerator; UnknownValue where the chip has no such rate."""
    name = recipe_of(precision)[1]
    if name not in accelerator.peak:
        raise UnknownValue(
            f"{accelerator.name} has no {name} rate, so {precision} cannot be timed on it (it has {', '.join(accelerator.peak)})"
        )
    return accelerator.peak[name]
