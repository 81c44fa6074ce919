"""Independent re-solves on all cores. Workers are forks: what the process knows already need not be computed or sent again."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# What workers are to do: set before they are forked, because functions that close over data cannot be sent.
_job: tuple[Callable[[Any], Any], Sequence[Any]] | None = None


def each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`function` of every item, in order; in this process where forks cannot be had or would not pay."""
    global _job
    workers = min(os.cpu_count() or 1, len(items))
    if workers < 2 or _job is not None:
        return [function(item) for item in items]
    import multiprocessing  # a plan alone does without
    from concurrent.futures import ProcessPoolExecutor

    if "fork" not in multiprocessing.get_all_start_methods():
        return [function(item) for item in items]
    _job = function, items
    gc.freeze()  # what is known by now is shared with the workers as long as their collectors do not touch it
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _end_with_parent) as pool:
            return list(pool.map(_run, range(len(items))))
    finally:
        gc.unfreeze()
        _job = None


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    from multiprocessing import parent_process
    from threading import Thread

    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _run(position: int) -> Any:
    assert _job is not None
    function, items = _job
    return function(items[position])
