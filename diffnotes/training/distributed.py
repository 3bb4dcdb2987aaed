"""Several processes on one job, on one machine or many, by torch.distributed.

    torchrun --nproc-per-node 4 -m diffnotes train --preset fashion-gpu --folder run --out weights.safetensors

starts four. Each has a rank in 0 .. size-1, and a GPU of its own if there are GPUs. Without `torchrun` there is one
process, of rank 0, and nothing here has any effect.

>>> rank(), size()
(0, 1)
>>> in_batches(lambda number, rows: torch.arange(rows.start, rows.stop) ** 2, n=5, batch=2)
tensor([ 0.,  1.,  4.,  9., 16.])
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm.auto import tqdm

from diffnotes.arguments import usable_device, whole, whole_numbers

PATIENCE = timedelta(minutes=30)  # how long a process waits for the slowest of the others


def rank() -> int:
    """The number of this process, in 0 .. size-1; rank 0 writes the files."""
    return dist.get_rank() if _several() else 0


def size() -> int:
    """The number of processes."""
    return dist.get_world_size() if _several() else 1


@contextlib.contextmanager
def job(device: str) -> Iterator[torch.device]:
    """Join the processes that `torchrun` has started, if any, and yield the device of this one.

    `device` is "cpu", with gloo between the processes, or "cuda", with nccl and one GPU each.

    Raises:
        ValueError: the device cannot be used (see `NoiseSchedule.to`).
        ConnectionError: the processes cannot find each other, or another one has stopped.
    """
    several = "RANK" in os.environ
    if several and device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    here = usable_device(device, meta=False)
    if not several:
        yield here
        return
    if here.type == "cuda":
        torch.cuda.set_device(here)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if here.type == "cuda" else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ConnectionError(f"the processes of this job do not find each other: {error}") from error
    try:
        yield here
        dist.destroy_process_group()
    except RuntimeError as error:
        if not re.search("gloo|nccl|connection|socket|store", str(error), re.IGNORECASE):
            raise
        raise ConnectionError(
            "another process of this job has stopped, so this one stops too; the same command goes on from the "
            f"last checkpoint ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error


@contextlib.contextmanager
def first_here() -> Iterator[None]:
    """Let one process per machine go first, for instance to download what the others then find."""
    waits = int(os.environ.get("LOCAL_RANK", 0)) > 0
    if waits:
        barrier()
    yield
    if not waits:
        barrier()


def barrier() -> None:
    """Wait until every process gets here."""
    _sum_(torch.zeros(1))


def average_(x: Tensor) -> None:
    """Replace `x`, on any device, by its mean over all processes."""
    _sum_(x)
    x /= size()


def agree(what: str, value: int) -> None:
    """Raise ValueError unless `value` is the same in every process."""
    if size() > 1:
        ends = torch.tensor([value, -value])
        dist.all_reduce(ends, dist.ReduceOp.MAX)
        high, low = int(ends[0]), -int(ends[1])
        if low != high:
            raise ValueError(f"{what} must be the same in all {size()} processes, got {low} and {high}")


def in_batches(
    work: Callable[[int, slice], Tensor],
    n: int,
    batch: int,
    shape: Sequence[int] = (),
    dtype: torch.dtype = torch.float32,
    progress: bool = False,
) -> Tensor:
    """`work` on n examples in batches, dealt out to the processes; each gets the whole result.

    The result for a batch must depend on its number (seed a generator with it), not on earlier batches. Then the whole
    is the same for any number of processes. n and batch are whole numbers, at least 1, or ValueError.

    Args:
        work: `work(number, rows)` returns the rows of batch `number`, of shape (rows.stop - rows.start, *shape).

    Returns:
        Shape (n, *shape), on the CPU.
    """
    n, batch = whole("n", n), whole("batch", batch)
    result = torch.zeros(n, *(whole("shape", side, 0) for side in whole_numbers("shape", shape)), dtype=dtype)
    mine = range(rank(), -(-n // batch), size())
    for number in tqdm(mine, disable=not progress or rank() > 0, unit="batch"):
        rows = slice(number * batch, min((number + 1) * batch, n))
        result[rows] = work(number, rows).to("cpu", dtype)
    _sum_(result)  # the other processes have zeros in these rows, so nothing is rounded
    return result


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def _sum_(x: Tensor) -> None:
    if size() > 1:
        dist.all_reduce(x)
