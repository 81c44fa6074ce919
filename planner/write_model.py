"""The program as a file, so that another solver can confirm the optimum."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .program import Program
from .pyomo_milp import model

# How a line of comment begins, by the file's ending.
_COMMENTS = {".lp": "\\ ", ".mps": "* "}
# Names that every reader of LP and MPS takes: at most so many letters, digits and underscores, the first a letter.
_LONGEST = 60


def write(program: Program, path: Path, unit: str) -> None:
    """Write the program as LP or MPS, by the file's ending. Raises ValueError for another ending.

    unit: what one unit of the objective is, such as "0.0001 USD/h"; it stands in a comment on top. Columns are named by what
    they stand for (x12_units_aws_us_east_1_...), as far as both formats take names, with their number in the program in front;
    rows likewise. A file beside it with the ending .names says the unit too and gives the full names.
    """
    if path.suffix not in _COMMENTS:
        raise ValueError(f"{path}: the model is written as .lp or .mps, not as {path.suffix or 'a file without ending'!r}")
    m = model(program)
    import pyomo.environ  # noqa: F401  registers the writers

    columns = [_legal(f"x{i}", variable.name) for i, variable in enumerate(program.variables)]
    rows = {row.name: _legal(f"r{i}", row.name) for i, row in enumerate(program.rows)}
    named = {id(m.x[i]): name for i, name in enumerate(columns)} | {id(m.row[row]): rows[row] for row in m.row}
    about = [
        f"minimise the objective, in units of {unit}: times {unit.split()[0]} it is in {unit.partition(' ')[2]}",
        f"columns and rows by their full names: {path.with_suffix('.names').name}",
    ]
    temporary = path.with_name(path.stem + ".part" + path.suffix)
    m.write(str(temporary), io_options={"labeler": _labels(named)})
    written = temporary.read_text(encoding="utf-8")
    if path.suffix == ".mps":  # Pyomo writes "no bound" as a huge one, at which readers warn
        written = re.sub(r"^ UI (BOUND +\S+) +10E20$", r" PL \1", written, flags=re.MULTILINE)
    comments = "".join(f"{_COMMENTS[path.suffix]}{line}\n" for line in about)
    temporary.write_text(comments + written, encoding="utf-8")
    temporary.replace(path)
    names = [about[0]]
    names += [f"{name} = {variable.name}" for name, variable in zip(columns, program.variables, strict=True)]
    names += [f"{rows[row.name]} = {row.name}: wall {row.wall or '-'}, in units of {row.resource}" for row in program.rows]
    path.with_suffix(".names").write_text("\n".join(names) + "\n", encoding="utf-8")


def _labels(named: dict[int, str]) -> Callable[[Any], str]:
    """What the writers ask for a name: of a column or a row it is known, the objective is called so."""
    return lambda component: named.get(id(component), "objective")


def _legal(key: str, name: str) -> str:
    """A name made of a key, which makes it unique, and of as much of what it stands for as fits."""
    return f"{key}_{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')}"[:_LONGEST].rstrip("_")
