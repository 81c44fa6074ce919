"""Tables on the screen (rich), as Markdown, and as CSV."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from typing import Literal, TextIO

from .tables import Table

# A name such as aws/us-east-1/p5.48xlarge/on-demand may be broken to so many letters before words are.
_NAME = 12


def _least_length(word: str) -> int:
    return min(len(word), _NAME) if set(word) & set("/-_") else len(word)


def _widths(table: Table, screen: int) -> list[int]:
    """Column widths that fit the screen: lines wrap between words first, then names with slashes or dashes are broken, and only
    then the longest word."""
    lines = [[row[place] for row in (table.heads, *table.rows)] for place in range(len(table.heads))]
    widths = [max(map(len, column)) for column in lines]
    words = [max(len(word) for line in column for word in line.split() or [""]) for column in lines]
    plain = [max(map(_least_length, " ".join(column).split()), default=0) for column in lines]
    room = screen - 3 * len(widths) - 1  # what box and padding take
    while sum(widths) > room and max(widths) > 1:
        wrapping = next(
            (left for least in (words, plain) if (left := [i for i in range(len(widths)) if widths[i] > least[i]])),
            list(range(len(widths))),
        )
        widths[max(wrapping, key=lambda i: widths[i])] -= 1
    return widths


def terminal(tables: Sequence[Table], file: TextIO | None = None) -> None:
    """Print tables without cutting anything off: cells wrap, at 80 columns or however wide the terminal is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    stream = file or sys.stdout
    console = Console(file=stream, soft_wrap=False, highlight=False, width=None if stream.isatty() else 80)
    for table in tables:
        if not table.rows:
            continue
        shown = RichTable(title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
        for head, width in zip(table.heads, _widths(table, console.width), strict=True):
            justify: Literal["left", "right"] = "right" if head in table.numeric else "left"
            shown.add_column(head, justify=justify, overflow="fold", width=max(width, 1))
        for row in table.rows:
            shown.add_row(*(Text(cell) for cell in row))
        console.print(shown)
        for note in table.notes:
            console.print(Text("  " + note, style="dim"))


def markdown(tables: Sequence[Table]) -> str:
    """GitHub-flavoured Markdown."""
    parts = []
    for table in tables:
        if not table.rows:
            continue
        lines = [f"## {table.title}", "", "| " + " | ".join(table.heads) + " |"]
        lines.append("|" + "|".join("---:" if head in table.numeric else "---" for head in table.heads) + "|")
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
        lines += ["", *(f"- {note}" for note in table.notes)] if table.notes else []
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def comma_separated(rows: Sequence[dict[str, object]]) -> str:
    """CSV with a header; the columns of all rows, in the order in which they first appear."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, heads, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
