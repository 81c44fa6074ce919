"""The README is run: its question, its zoo file, its Python, its commands and the answer that it prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def wallplan(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "planner.cli", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    plan = tmp_path_factory.mktemp("readme") / "plan.json"
    result = wallplan("solve", "examples/serve-llama70b.yaml", "-o", str(plan))
    assert result.returncode == 0, result.stderr
    return result.stdout, plan


def test_the_answer_is_the_one_printed(answer: tuple[str, Path]) -> None:
    """Line by line, but for the age of prices, which grows with the calendar."""
    shown = [line.rstrip() for line in blocks("text")[0].splitlines() if line.strip()]
    printed = [line.rstrip() for line in answer[0].splitlines() if line.strip()][: len(shown) + 8]
    for line in shown:
        if "months old" not in line:
            assert line in printed


def test_the_plan_evaluates_again(answer: tuple[str, Path]) -> None:
    result = wallplan("evaluate", str(answer[1]))
    assert result.returncode == 0
    assert "every wall holds" in result.stdout


def test_the_question_and_the_zoo_file(tmp_path: Path) -> None:
    question, uncertain, zoo, overlay = blocks("yaml")
    (tmp_path / "my-chat.yaml").write_text(question + "zoo: [my_zoo.yaml]\n", encoding="utf-8")
    (tmp_path / "my_zoo.yaml").write_text(zoo, encoding="utf-8")
    assert wallplan("check", "my-chat.yaml", cwd=tmp_path).returncode == 0
    changed = (question + uncertain + overlay).replace("regions: {allow: [EU]}", "regions: {allow: ['*']}")
    (tmp_path / "changed.yaml").write_text(changed, encoding="utf-8")
    result = wallplan("check", "changed.yaml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_the_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    scope: dict[str, object] = {}
    for snippet in blocks("python"):
        exec(compile(snippet, "README.md", "exec"), scope)
    plan = scope["plan"]
    assert plan.status == "optimal"  # type: ignore[attr-defined]
    assert plan.evaluate().violations == ()  # type: ignore[attr-defined]


def test_files_that_are_named_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
    for example in re.findall(r"examples/[\w.-]+\.yaml", README):
        assert (ROOT / example).exists(), example
