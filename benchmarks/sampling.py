"""How many pictures a second the shipped network makes, and what of a sampler's time is not the network's.

    python benchmarks/sampling.py [--batch N] [--steps N] [--rounds N] [--device NAME]

The *bare* task calls the network as often as the sampler does and does nothing with the answer. A sampler's time over
it, in the same round, is what sampling costs beyond its network. Times are processor time, so that other work on the
machine does not count; on a GPU they are seconds of waiting.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from timing import all_rounds

from diffnotes.ddim import ddim_sample, dpmpp_2m_sample
from diffnotes.guidance import guided
from diffnotes.reverse import ddpm_sample
from diffnotes.schedule import timesteps
from diffnotes.training.checkpoint import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    net, schedule, _ = load_model("fashion", device)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    y = torch.arange(asked.batch, device=device) % 10
    x_T = torch.randn(asked.batch, 1, 28, 28, device=device)
    generator = torch.Generator(device).manual_seed(0)
    model, louder, steps = guided(net, y), guided(net, y, 1.0), asked.steps
    walk = timesteps(schedule.T, steps)

    def bare() -> None:
        for t in walk:
            model(x_T, torch.full((asked.batch,), t, device=device))

    samplers: dict[str, Callable[[], object]] = {
        "bare": bare,
        "DDIM": lambda: ddim_sample(schedule, model, x_T, steps, clip=1.0),
        "DDIM, eta = 1": lambda: ddim_sample(schedule, model, x_T, steps, 1.0, generator=generator, clip=1.0),
        "DDPM": lambda: ddpm_sample(schedule, model, x_T, steps=walk, generator=generator, clip=1.0),
        "2M": lambda: dpmpp_2m_sample(schedule, model, x_T, steps, clip=1.0),
        "DDIM, guided": lambda: ddim_sample(schedule, louder, x_T, steps, clip=1.0),
    }

    def task(of: Callable[[], object], dtype: torch.dtype) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype == torch.bfloat16):
                of()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    clock = time.process_time if device.type == "cpu" else time.perf_counter
    where = f"{torch.get_num_threads()} thread(s)" if device.type == "cpu" else torch.cuda.get_device_name()
    print(
        f"torch {torch.__version__}, {where}, batch {asked.batch}, {steps} steps; medians of {asked.rounds}"
    )
    for dtype in (torch.float32, torch.bfloat16):
        tasks: dict[str, Callable[[], object]] = {
            name: task(sampler, dtype) for name, sampler in samplers.items()
        }
        times = all_rounds(tasks, asked.rounds, clock)
        print(
            f"\n{str(dtype).removeprefix('torch.')}: pictures a second, and time over that of the bare calls"
        )
        for name, seconds in times.items():
            ratio = statistics.median(a / b for a, b in zip(seconds, times["bare"], strict=True))
            print(f"  {name:<14}{asked.batch / statistics.median(seconds):8.2f} {ratio:8.3f}")


if __name__ == "__main__":
    main()
