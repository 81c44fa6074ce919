"""The command line, called inside this process."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from planner.cli import app


def run(*arguments: object) -> Result:
    """`wallplan` with these arguments."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer_once(patch: pytest.MonkeyPatch, module: str, name: str) -> None:
    """A function's first answer is its answer from then on: for tests of how one answer is shown."""
    function: Callable[..., Any] = getattr(import_module(module), name)
    answers: list[Any] = []

    def first(*arguments: Any, **more: Any) -> Any:
        if not answers:
            answers.append(function(*arguments, **more))
        return answers[0]

    patch.setattr(f"{module}.{name}", first)
