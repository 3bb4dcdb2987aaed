"""What one DDIM jump costs beyond its model: against the bare tensor operations, and beside diffusers' scheduler.

    python benchmarks/ddim_step.py [--threads N]

The model is free (it returns one and the same eps), so that everything timed is the sampler's own. 128 images of
1 x 28 x 28 in float32. Two floors are timed. The *bare* operations are what a jump comes to, a multiplication and an
addition (with eta > 0, a draw and one addition more), into a new tensor, as x_t belongs to the model. *In place* they
overwrite x_t, which takes less of the cache and is what no sampler can do whose models may keep or return their input.
Where diffusers is installed it is timed in the same rounds, and the two samples at eta = 0 are compared. Set-up (what
is read of the schedule; diffusers' set_timesteps) is not in the times of a jump: they are those of whole runs, long
less short.
"""

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial

import torch
from timing import interleaved
from torch import Tensor

from diffnotes.ddim import ddim_sample
from diffnotes.schedule import NoiseSchedule

SHAPE, SHORT, LONG, ROUNDS = (128, 1, 28, 28), 5, 25, 400  # short rounds: most are not interrupted


def bare(x: Tensor, eps: Tensor, steps: int) -> None:
    for _ in range(steps):
        x = (0.999 * x).add_(eps, alpha=0.001)


def in_place(x_T: Tensor, eps: Tensor, steps: int) -> None:
    x = x_T.clone()
    for _ in range(steps):
        x.mul_(0.999).add_(eps, alpha=0.001)


def bare_noisy(x: Tensor, eps: Tensor, steps: int) -> None:
    for _ in range(steps):
        x = (0.999 * x).add_(eps, alpha=0.001).add_(torch.randn(SHAPE), alpha=0.01)


def diffusers_scheduler(x_T: Tensor, eps: Tensor, eta: float, steps: int) -> Callable[[], Tensor]:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(1000, 1e-4, 0.02, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.tolist()  # ints, the cheapest form it takes

    def run() -> Tensor:
        x = x_T
        for t in times:
            x = scheduler.step(eps, t, x, eta=eta, return_dict=False)[0]
        return x

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    schedule, x_T, eps = NoiseSchedule.linear(1000), torch.randn(SHAPE), torch.randn(SHAPE)
    peer = importlib.util.find_spec("diffusers") is not None
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {'x'.join(map(str, SHAPE))} float32"
    )
    print(f"microseconds a jump, least of {ROUNDS} rounds\n")
    for eta in (0.0, 1.0):
        tasks: dict[tuple[str, int], Callable[[], object]] = {}
        for steps in (SHORT, LONG):
            floor = bare_noisy if eta else bare
            tasks["bare", steps] = partial(floor, x_T, eps, steps)
            if not eta:
                tasks["in place", steps] = partial(in_place, x_T, eps, steps)
            tasks["diffnotes", steps] = partial(ddim_sample, schedule, lambda x, t: eps, x_T, steps, eta)
            if peer:
                tasks["diffusers", steps] = diffusers_scheduler(x_T, eps, eta, steps)
        best = interleaved(tasks, ROUNDS if eta == 0 else ROUNDS // 10)
        jump = {name: (best[name, LONG] - best[name, SHORT]) / (LONG - SHORT) for name, _ in tasks}
        print(f"eta = {eta:g}")
        for name, seconds in jump.items():
            print(f"  {name:<11}{seconds * 1e6:8.1f}   {seconds / jump['bare']:5.2f} x bare")
        if peer:
            print(f"  diffusers / diffnotes: {jump['diffusers'] / jump['diffnotes']:.1f}")
        if not eta:
            set_up = best["diffnotes", SHORT] - SHORT * jump["diffnotes"]
    print(f"\nset-up of a sampler, once a call: {set_up * 1e6:.0f} microseconds")
    if peer:
        ours, theirs = (
            ddim_sample(schedule, lambda x, t: eps, x_T, LONG),
            diffusers_scheduler(x_T, eps, 0.0, LONG)(),
        )
        off = float((ours - theirs).abs().max() / ours.abs().max())
        print(f"the two samples at eta = 0 differ by {off:.1e} of the largest value")
    else:
        print("diffusers is not installed: pip install diffusers")


if __name__ == "__main__":
    main()
