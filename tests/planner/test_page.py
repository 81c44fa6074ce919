"""The HTML file: it is well formed, has every cell of the tables, and needs nothing from outside."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_picture import SWINGS
from typer.testing import CliRunner

from planner.cli import app
from planner.plan import Plan
from planner.report import picture, tables
from planner.report.page import page
from planner.report.tables import Table

EXAMPLES = Path(__file__).parents[2] / "examples"
VOID = {"wbr", "meta", "br"}


class Read(HTMLParser):
    """Cells of every table in order, and what was wrong."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.open: list[str] = []
        self.faults: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("script", "link", "img", "iframe", "object", "embed", "base"):
            self.faults.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                self.faults.append(f"{tag} {name}={value}")
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data
        if self.open and self.open[-1] == "style" and ("url(" in data or "@import" in data):
            self.faults.append(data)


def check(text: str, shown: list[Table]) -> None:
    read = Read(text)
    assert not read.faults and not read.open
    wanted = [table for table in shown if table.rows]
    cells = [c for t in wanted for row in ((t.heads,) if any(t.heads) else ()) + t.rows for c in row]
    assert read.cells[: len(cells)] == cells
    assert all(f"<li>{note}</li>" in text for t in wanted for note in t.notes if not set(note) & set("<>&'\""))


def test_what_looks_like_html_is_text() -> None:
    hostile = Table(
        "<b> & co", ("a<b", "n"), (("</td><script>alert(1)</script>", "1"), ("&amp;", "\"'")), frozenset({"n"}), ("x",)
    )
    check(page("<title>", [hostile, Table("empty", ("a",), ())]), [hostile])


def test_a_picture_stands_in_the_file_and_names_no_address() -> None:
    pytest.importorskip("matplotlib")
    drawn = picture.tornado_svg(SWINGS, "toy")
    text = page("toy", [], [drawn])
    check(text, [])
    assert drawn.startswith("<svg") and "http" not in text and drawn == picture.tornado_svg(SWINGS, "toy")


def test_answers_and_explanations_are_files(tmp_path: Path) -> None:
    run = CliRunner().invoke
    path = tmp_path / "plan.json"
    answer = run(app, ["solve", str(EXAMPLES / "serve-llama70b.yaml"), "-q", "-o", str(path), "--set", "supply.chips=[h100-sxm]",
                       "--set", 'regions.allow=["lambda/*"]', "-f", "html"])  # fmt: skip
    plan = Plan.load(path)
    assert answer.exit_code == 0
    check(answer.stdout, tables.plan_tables(plan))
    assert "proven optimal" in answer.stdout and "Certificate" in answer.stdout
    for verb in (["explain", "--tornado"], ["explain", "--wall", "5"], ["evaluate"]):
        result = run(app, [verb[0], str(path), *verb[1:], "-f", "html"])
        assert result.exit_code == 0
        read = Read(result.stdout)
        assert not read.faults and read.cells
        assert ("<svg" in result.stdout) == (verb[-1] == "--tornado" and picture.can_draw())
        assert ("Certificate" in result.stdout) == (verb[-1] == "--tornado")
    late = run(app, ["evaluate", str(path), "--set", "sla.ttft.p99=1 ms", "-f", "html"])
    assert late.exit_code == 4 and all(line in Read(late.stdout).cells for line in late.stderr.splitlines())
    same = run(app, ["compare", str(path), str(path), "-f", "html"])
    assert same.exit_code == 0 and not Read(same.stdout).faults and "no difference" in same.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("walls",),
        ("walls", "7"),
        ("zoo", "list", "fabrics"),
        ("zoo", "show", "h100-sxm"),
        ("check", str(EXAMPLES / "serve-llama70b.yaml")),
    ],
)
def test_every_command_that_shows_tables_has_every_format(command: tuple[str, ...]) -> None:
    written = {form: CliRunner().invoke(app, [*command, "--format", form]) for form in ("json", "md", "csv", "html")}
    assert all(result.exit_code == 0 and result.stdout for result in written.values())
    read = Read(written["html"].stdout)
    assert not read.faults and not read.open and read.cells
