"""How long each sampler takes to come within a given error of the truth, on a mixture whose model is exact.

    python benchmarks/time_to_error.py [--threads N] [--points N]

All error is the sampler's own. Two errors are taken. That of the *distribution*: the energy distance between the
samples and as many true points, beside the same between two true samples (the floor, below which nothing is seen).
And for the two deterministic samplers that of the *path*: the mean distance between a sample and the point to which
the probability-flow ODE takes the same x_T. It has no floor. Times are for the whole batch with the exact model; where
a network is the model its calls are the time, so these are given too.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from diffnotes.ddim import ddim_sample, dpmpp_2m_sample, ode_jump
from diffnotes.metrics import energy_distance, noise_floor
from diffnotes.mixture import GaussianMixture
from diffnotes.reverse import ddpm_sample
from diffnotes.schedule import NoiseSchedule, Spacing

STEPS = (5, 10, 20, 50, 100, 200, 500, 1000)
SPACINGS: tuple[Spacing, ...] = ("trailing", "quadratic")
ON_PATH = 400  # points that the ODE is solved for
SCHEDULE = NoiseSchedule.linear(1000)


def ring(modes: int = 8, radius: float = 1.4, std: float = 0.1) -> GaussianMixture:
    """Narrow Gaussians on a circle, of unequal weights."""
    angle = torch.arange(modes, dtype=torch.float64) * (2 * torch.pi / modes)
    means = radius * torch.stack([angle.cos(), angle.sin()], 1)
    weights = torch.arange(1, modes + 1, dtype=torch.float64)
    return GaussianMixture(
        weights / weights.sum(), means, std**2 * torch.eye(2, dtype=torch.float64).repeat(modes, 1, 1)
    )


def timed(sample: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """The samples, and the least time of two runs."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        samples = sample()
        times.append(time.perf_counter() - start)
    return samples, min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--points", type=int, default=6000)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    data = ring()
    model, truth = data.eps(SCHEDULE), data.sample(2 * args.points, generator)
    floor = noise_floor(energy_distance, truth)
    x_T = torch.randn(args.points, 2, generator=generator, dtype=torch.float64)
    ode = ode_jump(SCHEDULE, data.eps, x_T[:ON_PATH], SCHEDULE.T)
    samplers: dict[str, Callable[..., Tensor]] = {
        "DDPM": lambda **how: ddpm_sample(SCHEDULE, model, x_T, generator=generator, **how),
        "DDIM": lambda **how: ddim_sample(SCHEDULE, model, x_T, **how),
        "DPM-Solver++(2M)": lambda **how: dpmpp_2m_sample(SCHEDULE, model, x_T, **how),
    }
    print(f"torch {torch.__version__}, {args.threads} threads, {args.points} points; floor {floor}\n")
    print(
        f"{'sampler':<28}{'calls':>6}{'seconds':>9}   {'energy distance':<22}{'above floor':>9}{'off the ODE':>13}"
    )
    least: list[str] = []
    for (name, sample), spacing in itertools.product(samplers.items(), SPACINGS):
        runs = []
        for steps in STEPS:
            samples, seconds = timed(partial(sample, steps=steps, spacing=spacing))
            distance = energy_distance(samples, truth[: args.points])
            path = float((samples[:ON_PATH] - ode).norm(dim=1).mean()) if name != "DDPM" else math.nan
            runs.append((steps, seconds, {"floor": distance.excess(floor), "ODE": path}))
            print(
                f"{name + ', ' + spacing:<28}{steps:>6}{seconds:9.3f}   {distance!s:<22}"
                f"{distance.excess(floor):8.1f} se{f'{path:.5f}' if path == path else '-':>13}",
                flush=True,
            )
        for to, target in (("floor", 2.0), ("ODE", 0.1), ("ODE", 0.03), ("ODE", 0.01), ("ODE", 0.003)):
            calls, seconds = next((r[:2] for r in runs if r[2][to] <= target), (0, math.nan))
            least.append(
                f"{name + ', ' + spacing:<28}{target:g} from the {to:<8}{calls or '-':>6}{seconds:9.3f}"
            )
    print(f"\n{'the least that come within':<49}{'calls':>6}{'seconds':>9}", *least, sep="\n")


if __name__ == "__main__":
    main()
