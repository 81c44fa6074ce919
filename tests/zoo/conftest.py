"""One catalog for all tests of the zoo: it never changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.catalog import Catalog, load


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return load()


@pytest.fixture
def user_file(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Writes a user's file and gives its path."""

    def write(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write
