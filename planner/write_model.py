"""The program as a file, so that another solver can confirm the optimum."""

from __future__ import annotations

from pathlib import Path

from .program import Program
from .pyomo_milp import model


def write(program: Program, path: Path) -> None:
    """Write the program as LP or MPS, by the file's ending. Raises ValueError for another ending.

    Variables are x0, x1, ... in the program's order and rows r0, r1, ...; a file beside it with the ending .names gives
    what each of them stands for. The objective is in the program's integer units.
    """
    if path.suffix not in (".lp", ".mps"):
        raise ValueError(f"{path}: the model is written as .lp or .mps, not as {path.suffix or 'a file without ending'!r}")
    import pyomo.environ  # noqa: F401  registers the writers

    m = model(program)
    temporary = path.with_name(path.stem + ".part" + path.suffix)
    m.write(str(temporary), io_options={"symbolic_solver_labels": True})
    temporary.replace(path)
    names = [f"x[{i}] {variable.name}" for i, variable in enumerate(program.variables)]
    names += [f"row {row.name}: wall {row.wall or '-'}, in units of {row.resource}" for row in program.rows]
    path.with_suffix(".names").write_text("\n".join(names) + "\n", encoding="utf-8")
