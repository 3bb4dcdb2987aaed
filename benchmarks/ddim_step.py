"""What one DDIM jump costs beyond its model: against the bare tensor operations, and beside diffusers' scheduler.

    python benchmarks/ddim_step.py [--threads N]

The model is free (it returns one and the same eps), so that everything timed is the sampler's own. 128 images of
1 x 28 x 28 in float32. Two floors are timed. The *bare* operations are what the formula comes to, a multiplication and
an addition in place (with eta > 0, a draw and two additions). The *bare, kept* ones do the same without overwriting
x_t, by way of a second buffer. Where diffusers is installed it is timed in the same rounds, and the two samples at
eta = 0 are compared. Set-up (the jumps' coefficients; diffusers' set_timesteps) is not in the times of a jump.
"""

import argparse
import importlib.util
from collections.abc import Callable

import torch
from timing import interleaved
from torch import Tensor

from diffnotes.ddim import ddim_jumps, ddim_sample
from diffnotes.reverse import jump_pairs, walk
from diffnotes.schedule import NoiseSchedule

SHAPE, STEPS, ROUNDS = (128, 1, 28, 28), 25, 400  # short rounds: most are not interrupted


def bare(x_T: Tensor, eps: Tensor) -> None:
    x = x_T.clone()
    for _ in range(STEPS):
        x.mul_(0.999).add_(eps, alpha=0.001)


def bare_kept(x_T: Tensor, eps: Tensor) -> None:
    x, idle = x_T.clone(), torch.empty_like(x_T)
    for _ in range(STEPS):
        torch.mul(x, 0.999, out=idle)
        x, idle = idle.add_(eps, alpha=0.001), x


def bare_noisy(x_T: Tensor, eps: Tensor) -> None:
    x, idle = x_T.clone(), torch.empty_like(x_T)
    for _ in range(STEPS):
        x, idle = idle.normal_(0, 0.01).add_(x, alpha=0.999).add_(eps, alpha=0.001), x


def diffusers_scheduler(x_T: Tensor, eps: Tensor, eta: float) -> Callable[[], Tensor]:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(1000, 1e-4, 0.02, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
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
    print(f"microseconds a jump, least of {ROUNDS} rounds of {STEPS} jumps\n")
    for eta in (0.0, 1.0):
        jumps = ddim_jumps(schedule, jump_pairs(schedule, STEPS), eta)
        tasks: dict[str, Callable[[], object]] = {
            "bare": lambda: bare(x_T, eps),
            "bare, kept": lambda: bare_kept(x_T, eps),
            "diffnotes": lambda jumps=jumps: walk(lambda x, t: eps, x_T, jumps),  # type: ignore[misc]
        }
        if eta:
            del tasks["bare, kept"]
            tasks["bare"] = lambda: bare_noisy(x_T, eps)
        if peer:
            tasks["diffusers"] = diffusers_scheduler(x_T, eps, eta)
        best = interleaved(tasks, ROUNDS if eta == 0 else ROUNDS // 10)
        print(f"eta = {eta:g}")
        for name, seconds in best.items():
            print(f"  {name:<11}{seconds / STEPS * 1e6:8.1f}   {seconds / best['bare']:5.2f} x bare")
        if peer:
            print(f"  diffusers / diffnotes: {best['diffusers'] / best['diffnotes']:.1f}")
    plan = interleaved({"plan": lambda: ddim_sample(schedule, lambda x, t: x, x_T[:1], 1)}, ROUNDS)["plan"]
    print(f"\nset-up of a sampler, once a call: {plan * 1e6:.0f} microseconds")
    if peer:
        ours, theirs = (
            ddim_sample(schedule, lambda x, t: eps, x_T, STEPS),
            diffusers_scheduler(x_T, eps, 0.0)(),
        )
        off = float((ours - theirs).abs().max() / ours.abs().max())
        print(f"the two samples at eta = 0 differ by {off:.1e} of the largest value")
    else:
        print("diffusers is not installed: pip install diffusers")


if __name__ == "__main__":
    main()
