"""Timing several things against each other on a machine that does other work too."""

import time
from collections.abc import Callable


def interleaved(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds that one call of each task takes: the least of `rounds` rounds, in each of which all take their turn.

    The least is what the task costs where nothing else interferes; taking turns lets a slow spell hit all alike.
    """
    for task in tasks.values():  # caches, first allocations
        task()
    best = dict.fromkeys(tasks, float("inf"))
    for _ in range(rounds):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            best[name] = min(best[name], time.perf_counter() - start)
    return best
