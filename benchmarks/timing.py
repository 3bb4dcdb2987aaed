"""Timing several things against each other on a machine that does other work too."""

import time
from collections.abc import Callable, Hashable
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def all_rounds(
    tasks: dict[Name, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[Name, list[float]]:
    """Seconds that each task takes in each of `rounds` rounds, in which all take their turn after a call to warm up.

    Taking turns lets a slow spell hit all alike, so that two times of one round can be compared. On a machine with
    more work than cores, `time.process_time` for a clock leaves out the time in which others had the core.
    """
    for task in tasks.values():  # caches, first allocations
        task()
    times: dict[Name, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            start = clock()
            task()
            times[name].append(clock() - start)
    return times


def interleaved(tasks: dict[Name, Callable[[], object]], rounds: int) -> dict[Name, float]:
    """The least of `all_rounds` for each task: what it costs where nothing else interferes."""
    return {name: min(times) for name, times in all_rounds(tasks, rounds).items()}
