"""Work in several processes: results in order, and nobody is left behind."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from planner import in_parallel

WORK = """
import os, time
from planner import in_parallel

def work(item):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(60)

os.cpu_count = lambda: 2
in_parallel.each(work, [1, 2])
"""


def test_results_are_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert in_parallel.each(lambda item: item * item, [3, 1, 2]) == [9, 1, 4]


def _runs(pid: int) -> bool:
    """Whether a process is there and not only waiting for somebody to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods() or not Path("/proc/self/stat").exists(), reason="needs fork and /proc"
)
def test_workers_end_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(map(_runs, workers))
        parent.kill()
        ends = time.monotonic() + 20
        while any(map(_runs, workers)) and time.monotonic() < ends:
            time.sleep(0.05)
        assert not any(map(_runs, workers))
