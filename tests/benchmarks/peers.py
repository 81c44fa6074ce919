"""Environments of their own for the tools that benchmarks compare with: made on first use, kept in the temporary folder."""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import pytest


def environment(variable: str, **versions: str) -> Path:
    """The Python of an environment with these packages (name with underscores = version): that of the folder which the
    environment variable names, else one that is made here. Skips the test where neither works."""
    wanted = [f"{name.replace('_', '-')}=={version}" for name, version in versions.items()]
    named = os.environ.get(variable)
    folder = Path(named) if named else Path(tempfile.gettempdir()) / ("wallplan-" + "-".join(wanted).replace("==", "-"))
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not named and not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        done = subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
            pytest.skip(f"{' and '.join(wanted)} cannot be installed: {lines[-1][:200]}")
        (folder / "ready").touch()
    return python


def output(python: Path, script: str, given: str = "") -> str:
    """What a script prints in that environment, given a text on standard input. Skips the test where it fails."""
    done = subprocess.run([str(python), "-c", script], input=given, capture_output=True, text=True, cwd=tempfile.gettempdir())
    if done.returncode:
        pytest.skip(f"{python} cannot run the comparison: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return done.stdout
