"""What one step of ancestral sampling costs beyond its model: against the bare tensor operations, and beside diffusers.

    python benchmarks/ddpm_step.py [--threads N]

The model is free (it returns one and the same eps), so that everything timed is the sampler's own. 128 images of
1 x 28 x 28 in float32. The *bare* operations are what a step comes to: a division, two additions and a draw of the
noise, into a new tensor, as x_t belongs to the model. The draw is most of that, so the same is timed without it too
(the draw is turned into an operation that costs nothing), which shows what is left to differ. Where diffusers is
installed, its DDPMScheduler is timed in the same rounds, and the two samples from one seed are compared.
"""

import argparse
import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from unittest import mock

import torch
from timing import interleaved
from torch import Generator, Tensor

from diffnotes.reverse import ddpm_sample
from diffnotes.schedule import NoiseSchedule

SHAPE, T, ROUNDS = (128, 1, 28, 28), 100, 20
SCHEDULE = NoiseSchedule.linear(T)


def bare(x: Tensor, eps: Tensor) -> None:
    for _ in range(T):
        x = (x / 1.001).sub_(eps, alpha=0.001).add_(torch.randn(SHAPE), alpha=0.01)


def diffnotes(x_T: Tensor, eps: Tensor, clip: float | None, generator: Generator | None = None) -> Tensor:
    return ddpm_sample(SCHEDULE, lambda x, t: eps, x_T, clip=clip, generator=generator)


def diffusers(x_T: Tensor, eps: Tensor, clip: float | None, generator: Generator | None = None) -> Tensor:
    from diffusers import DDPMScheduler

    betas = SCHEDULE.betas[1:].tolist()
    scheduler = DDPMScheduler(
        T, trained_betas=betas, clip_sample=clip is not None, clip_sample_range=clip or 1.0
    )
    x = x_T
    for t in range(T - 1, -1, -1):  # ints, the cheapest form it takes
        x = scheduler.step(eps, t, x, generator=generator, return_dict=False)[0]
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    x_T, eps = torch.randn(SHAPE), torch.randn(SHAPE)
    peer = importlib.util.find_spec("diffusers") is not None
    size = "x".join(map(str, SHAPE))
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {size} float32, whole runs of {T} steps"
    )
    print(f"microseconds a step, set-up included: the least of {ROUNDS} rounds\n")

    def table(title: str, clip: float | None) -> None:
        tasks: dict[str, Callable[[], object]] = {
            "bare": lambda: bare(x_T, eps),
            "diffnotes": lambda: diffnotes(x_T, eps, clip),
        }
        if peer:
            tasks["diffusers"] = lambda: diffusers(x_T, eps, clip)
        print(title)
        best = interleaved(tasks, ROUNDS)
        for name, seconds in best.items():
            print(f"  {name:<11}{seconds / T * 1e6:8.1f}   {seconds / best['bare']:6.2f} x bare")

    table("with its noise", None)
    with ExitStack() as free:
        free.enter_context(mock.patch("torch.randn", return_value=eps))
        if peer:
            draw = mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", return_value=eps)
            free.enter_context(draw)
        table("the draw for free", None)
        table("the draw for free, x_0 clipped (bare: without)", 1.0)
    if peer:
        for clip in (None, 1.0):
            ours, theirs = (f(x_T, eps, clip, Generator().manual_seed(0)) for f in (diffnotes, diffusers))
            off = float((ours - theirs).abs().max() / ours.abs().max())
            print(f"same seed, clip {clip}: the two samples differ by {off:.1e} of the largest value")
    else:
        print("diffusers is not installed: pip install diffusers")


if __name__ == "__main__":
    main()
