"""Tables and pictures as one HTML file that needs nothing else: no script, no font, no style from outside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from .tables import Table

# Names with more letters than this may be broken between their parts.
_LONG = 24

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2733; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
table { border-collapse: collapse; } th, td { padding: .25rem .7rem; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #56779b; } td { border-bottom: 1px solid #dde4ec; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
ul { margin: .4rem 0; padding-left: 1.2rem; color: #586675; font-size: .9rem; } svg { max-width: 100%; height: auto; }
"""


def page(heading: str, tables: Sequence[Table], pictures: Sequence[str] = ()) -> str:
    """A whole document: the heading, pictures (each an SVG element), then every table that has rows, with its notes."""
    parts = [f"<h1>{escape(heading)}</h1>", *(f"<figure>{picture}</figure>" for picture in pictures)]
    parts += [_section(table) for table in tables if table.rows]
    body = "\n".join(parts)
    head = f'<meta charset="utf-8">\n<title>{escape(heading)}</title>\n<style>{_STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def _section(table: Table) -> str:
    numeric = [head in table.numeric for head in table.heads]
    lines = [f"<h2>{escape(table.title)}</h2>", "<table>"]
    if any(table.heads):
        lines += [f"<thead>{_row('th', table.heads, numeric)}</thead>"]
    lines += ["<tbody>", *(_row("td", row, numeric) for row in table.rows), "</tbody>", "</table>"]
    if table.notes:
        lines += ["<ul>", *(f"<li>{escape(note)}</li>" for note in table.notes), "</ul>"]
    return "\n".join(lines)


def _row(tag: str, cells: Sequence[str], numeric: Sequence[bool]) -> str:
    """Cells of a row; those of numeric columns are aligned on the right."""
    aligned = (f'<{tag} class="number">' if right else f"<{tag}>" for right in numeric)
    return "<tr>" + "".join(f"{start}{_breakable(cell)}</{tag}>" for start, cell in zip(aligned, cells, strict=True)) + "</tr>"


def _breakable(cell: str) -> str:
    """A cell whose long names may go on in the next line after a slash or an underscore; a word is never cut."""
    return re.sub(r"(?<=[/_])", "<wbr>", escape(cell)) if any(len(word) > _LONG for word in cell.split()) else escape(cell)
