"""What the commands share: options that are checked when they are parsed, and errors in one line.

>>> at_least(1)("5"), finite("0.5")
(5, 0.5)
>>> at_least(1)("0")
Traceback (most recent call last):
argparse.ArgumentTypeError: must be a whole number, at least 1 and below 2^63, got '0'
"""

import contextlib
import math
import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

OUT_OF_MEMORY = re.compile(r"out of memory|t allocate memory|Storage size calculation overflowed")


class Parser(ArgumentParser):
    """An `ArgumentParser` whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option: a whole number no less than `least`."""

    def read(text: str) -> int:
        with contextlib.suppress(ValueError):
            if least <= (value := int(text)) < 2**63:
                return value
        raise ArgumentTypeError(f"must be a whole number, at least {least} and below 2^63, got {text!r}")

    return read


seed = at_least(-(2**63))  # the type of an option: a seed, of which torch takes none below


def finite(text: str) -> float:
    """The type of an option: a finite number."""
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    raise ArgumentTypeError(f"must be a finite number, got {text!r}")


def folder(text: str) -> Path:
    """The type of an option: a folder, which need not exist yet."""
    if Path(text).exists() and not Path(text).is_dir():
        raise ArgumentTypeError(f"must be a folder, got {text!r}")
    return Path(text)


@contextlib.contextmanager
def one_line(name: str, *on_stop: str) -> Iterator[None]:
    """Run a command; an error by the user or the machine becomes one line on stderr and status 1 (Ctrl-C: 130).

    The line begins with `name`, and with the rank if there are several processes; after Ctrl-C it ends with `on_stop`,
    which says how to go on. Text that stdout cannot encode is escaped, and a stdout that is closed early, as by `head`,
    is no error worth a message.
    """
    who = name if (rank := os.environ.get("RANK")) is None else f"{name} (rank {rank})"
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain at exit
        sys.exit(1)
    except KeyboardInterrupt as stop:
        print(f"{who}: stopped", *on_stop, *stop.args, sep="; ", file=sys.stderr)
        sys.exit(130)
    except (OSError, ValueError, ImportError, MemoryError, RuntimeError) as error:
        said = str(error) or type(error).__name__
        if isinstance(error, RuntimeError):
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                said = f"--compile needs a working C++ compiler: {said.partition(chr(10) * 2)[0]}"
            elif OUT_OF_MEMORY.search(said):
                said = "out of memory: reduce the sizes, above all --batch"
            else:
                raise
        sys.exit(f"{who}: {' '.join(said.split())}")
