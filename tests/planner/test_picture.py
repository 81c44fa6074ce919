"""The tornado as a picture: it is drawn, and what cannot be drawn is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.plan import Swing
from planner.report import explain, picture

TODAY = "b200: here/one/b200-8/on-demand"


def swing(what: str, low: float | None, high: float | None, winner: str = TODAY) -> Swing:
    return Swing(
        what=what, low=0.8, high=1.2, source="default", objective=100.0, objective_low=low, objective_high=high, unit="USD/h",
        plan=TODAY, plan_low=TODAY, plan_high=winner, switches_low=False, switches_high=winner != TODAY,
    )  # fmt: skip


SWINGS = [swing("efficiency", 140.0, None, ""), swing("prices", 80.0, 120.0, "h100: there/two/h100-8/spot"), swing("x", 100, 100)]


@pytest.mark.parametrize(("ending", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_it_is_drawn(ending: str, begins: bytes, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"tornado{ending}"
    picture.tornado(SWINGS, "toy", path)
    assert path.read_bytes().startswith(begins)


def test_another_plan_has_another_colour_and_no_plan_its_own() -> None:
    colours = picture._colours(SWINGS)
    assert list(colours) == [TODAY, "", "h100: there/two/h100-8/spot"]
    assert len(set(colours.values())) == 3


@pytest.mark.parametrize(
    ("name", "words"), [("a.gif", "not as '.gif'"), ("a", "without ending"), ("nowhere/a.png", "does not exist")]
)
def test_what_cannot_be_drawn_is_one_line(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(picture.NoPicture) as error:
        picture.check(tmp_path / name)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_the_table_says_which_plan_wins_and_what_has_no_plan() -> None:
    table, plans = explain.tornado_tables(SWINGS)
    assert table.rows[0][3] == "infeasible" and table.rows[0][4] == "high: no plan"
    assert table.rows[1][4] == "high: B" and table.rows[2][4] == "the same plan wins"
    assert plans.rows == (("A", TODAY), ("B", "h100: there/two/h100-8/spot"))
