"""The command line, called inside this process."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from planner.cli import app


def run(*arguments: object) -> Result:
    """`wallplan` with these arguments."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
