"""The tornado as a picture (matplotlib, which is optional and imported only here)."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..plan import Swing

ENDINGS = (".svg", ".png", ".pdf")
# Today's plan is grey-blue; plans that beat it take the others in turn (Okabe and Ito's colours, told apart by everybody).
_TODAY = "#56779b"
_OTHERS = ("#e69f00", "#009e73", "#cc79a7", "#d55e00", "#f0e442", "#0072b2")
_NO_PLAN = "#b22222"


class NoPicture(ValueError):
    """A picture that cannot be drawn. One line."""


def check(path: Path) -> None:
    """Raises NoPicture, one line, for an ending that cannot be drawn, a missing folder, or when matplotlib is not there."""
    if path.suffix not in ENDINGS:
        raise NoPicture(
            f"{path}: a picture is written as {', '.join(ENDINGS)}, not as {path.suffix or 'a file without ending'!r}"
        )
    if not path.resolve().parent.is_dir():
        raise NoPicture(f"{path}: the folder {path.parent} does not exist")
    if not can_draw():
        raise NoPicture(f"{path}: pictures need matplotlib: pip install 'wallplan[plot]'")


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def tornado(swings: Sequence[Swing], name: str, path: Path) -> None:
    """Draw the swings into a file. Raises NoPicture."""
    check(path)
    try:
        _drawn(swings, name).savefig(path, dpi=150)
    except OSError as error:
        raise NoPicture(f"{path}: {error.strerror}") from None


def tornado_svg(swings: Sequence[Swing], name: str) -> str:
    """The same as an SVG element to stand in an HTML file: there it needs no namespaces, and nothing names an address."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.hashsalt": name}):  # the same swings give the same text
        _drawn(swings, name).savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    picture = text.getvalue()
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", picture[picture.index("<svg") :])


def _drawn(swings: Sequence[Swing], name: str) -> Any:
    """The figure: the widest swing on top, each half-bar in the colour of the plan that wins at its end."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    today = swings[0].objective or 0.0
    colours = _colours(swings)
    figure = Figure(figsize=(9.5, 1.6 + 0.62 * len(swings) + 0.36 * len(colours)), layout="constrained")
    axes: Any = figure.add_subplot()
    known = [v for s in swings for v in (s.objective_low, s.objective_high) if v is not None] + [today]
    reach = max(max(known) - today, today - min(known)) or 1.0
    for row, swing in enumerate(reversed(swings)):
        ends = [
            (factor, value, plan, today + 1.02 * reach if value is None else value)
            for factor, value, plan in (
                (swing.low, swing.objective_low, swing.plan_low),
                (swing.high, swing.objective_high, swing.plan_high),
            )
        ]
        together = (ends[0][3] - today) * (ends[1][3] - today) > 0  # both ends on one side: half a bar each
        for up, (factor, value, plan, end) in zip((1, -1), ends, strict=True):
            if end == today:
                continue
            at, height = (row + 0.16 * up, 0.31) if together else (row, 0.62)
            axes.barh(at, end - today, left=today, height=height, color=colours.get(plan, _NO_PLAN), edgecolor="white")
            text = "no plan" if value is None else f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"
            side = 1 if end > today else -1
            axes.annotate(
                f"\u00d7{factor:g}: {text}", (end, at), (4 * side, 0), textcoords="offset points", va="center",
                ha="left" if side > 0 else "right", fontsize=9,
            )  # fmt: skip
        if all(end == today for *_, end in ends):
            axes.annotate(
                "no effect on this objective", (today, row), (6, 0), textcoords="offset points", va="center", fontsize=9,
                color="0.4",
            )  # fmt: skip
    axes.axvline(today, color="0.2", linewidth=1)
    axes.set_yticks(range(len(swings)), [f"{s.what}\n{s.source}" for s in reversed(swings)], fontsize=9)
    axes.set_ylim(-0.5, len(swings) - 0.5)
    axes.set_xlim(min(known) - 0.28 * reach, max([*known, today + 0.6 * reach]) + 0.28 * reach)
    axes.set_xlabel(f"best objective [{swings[0].unit}]; today {today:,.6g}")
    axes.set_title(f"{name}: the optimum when one figure moves", loc="left", fontsize=11)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    handles = [
        Patch(color=colour, label=textwrap.fill(plan or "no plan", 120, break_on_hyphens=False))
        for plan, colour in colours.items()
    ]
    figure.legend(handles=handles, loc="outside lower left", frameon=False, fontsize=8, title="which plan wins", alignment="left")
    return figure


def _colours(swings: Sequence[Swing]) -> dict[str, str]:
    """A colour for each plan that wins somewhere, today's first."""
    plans = dict.fromkeys([swings[0].plan, *(plan for s in swings for plan in (s.plan_low, s.plan_high))])
    others = iter(_OTHERS * len(plans))
    return {plan: _TODAY if plan == swings[0].plan else _NO_PLAN if not plan else next(others) for plan in plans}
