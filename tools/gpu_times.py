"""The other parts of `tools/gpu.py`: times against floors, eager and compiled, and what a trained network is worth."""

import dataclasses
import importlib
import json
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.floors import in_turns
from diffnotes.data import fashion_mnist, to_bytes
from diffnotes.ddim import Eta, ddim_sample, ddim_step
from diffnotes.forward import q_sample
from diffnotes.reverse import ddpm_sample
from diffnotes.schedule import NoiseSchedule
from diffnotes.training import run
from diffnotes.training.checkpoint import load_model, save_model, write_file
from diffnotes.training.classifier import load_classifier, predict
from diffnotes.training.loop import Shuffled, Trainer
from diffnotes.training.networks import Network, UNet
from diffnotes.training.presets import PRESETS, Preset
from diffnotes.training.watch import png

if TYPE_CHECKING:
    from gpu import Job

Tasks = dict[str, Callable[[], object]]
Predict = Callable[..., Tensor]
Entry = dict[str, Any]

# dense TFLOP/s in bfloat16, by NVIDIA's data sheets; of the T4, which has no bfloat16, in float16
NOMINAL = {"H100 PCIe": 756, "H100": 989, "H200": 989, "A100": 312, "L40S": 362, "L4": 121, "T4": 65}
HOW: dict[str, Any] = {"classes": list(range(10)), "clip": 1.0, "bf16": True}  # pictures are drawn
FASHION = (1, 28, 28)


def need_device(job: "Job") -> None:
    if job.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch sees no CUDA device")


def attempt(job: "Job", name: str, measure: Callable[[], Entry | None], seconds: float = 0) -> Entry | None:
    """Note a measurement, or why there is none: it failed, or there are fewer seconds left than it takes."""
    if job.left() < seconds:
        job.note(name, {"skipped": f"it takes {seconds:.0f} s, and {job.left():.0f} s were left"})
        return None
    try:
        entry = measure()
    except Exception as error:  # whatever it is, the next measurement may do better
        job.note(name, {"failed": f"{type(error).__name__}: {error}"[-600:]})
        return None
    if entry is not None:
        job.note(name, entry)
    return entry


def four(value: float) -> float:
    """A number to four digits."""
    return float(f"{value:.4g}")


def finished(work: Callable[[], object], repeat: int = 1) -> Callable[[], None]:
    """`work`, so many times, until the device has done it."""

    def until_done() -> None:
        for _ in range(repeat):
            work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return until_done


class Time(NamedTuple):
    ms: float  # the median of the rounds
    middle_half: str  # of the rounds lies between these
    over_first: float  # the median of the ratios to the first task in the same round


def timed(job: "Job", group: str, tasks: Tasks, seconds: float, repeat: int = 1) -> dict[str, Time]:
    """How long each task takes, all taking turns in rounds (see benchmarks/floors.py), for so many seconds in all.

    Args:
        repeat: how often a task does its work between two looks at the clock, so that the host may run ahead.
    """
    working, repeat = Tasks(), 1 if job.tiny else repeat
    for name, task in tasks.items():
        try:
            finished(task)()
            working[name] = finished(task, repeat)
        except Exception as error:  # the others can be timed without it
            job.note(f"{group}, {name}", {"failed": f"{type(error).__name__}: {error}"[-600:]})
    if not working:
        return {}
    once = sum(times[0] for times in in_turns(working, 1).values())
    rounds = 3 if job.tiny else max(3, min(30, int(min(seconds, job.left() / 2) / once)))
    rows: dict[str, list[float]] = in_turns(working, rounds)
    first, found = next(iter(rows.values())), {}
    for name, times in rows.items():
        low, middle, high = (four(1e3 * t / repeat) for t in statistics.quantiles(times, n=4))
        ratio = statistics.median(a / b for a, b in zip(times, first, strict=True))
        found[name] = Time(middle, f"{low:g} .. {high:g}", four(ratio))
    return found


def waits(work: Callable[[], object]) -> list[str]:
    """Where the host waits for the GPU, by torch's own account."""
    if not torch.cuda.is_available():
        return []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [
        f"{w.filename.split('-packages/')[-1]}:{w.lineno}"
        for w in caught
        if "called a synchronizing" in str(w.message)
    ]
    return sorted(set(places))


def peers(job: "Job") -> bool:
    """Whether diffusers can be measured beside us."""
    try:
        diffusers = importlib.import_module("diffusers")
        _ = (
            diffusers.DDIMScheduler,
            diffusers.DDPMScheduler,
            diffusers.UNet2DModel,
        )  # imported when they are named
    except Exception as error:  # it is not here, or what it needs is not
        job.note("diffusers", {"skipped": f"{type(error).__name__}: {error}"[-300:]})
        return False
    return True


# ---- everything in eager mode -----------------------------------------------------------------------------------


def times(job: "Job") -> None:
    """The card, jumps, steps of training, pictures."""
    need_device(job)
    attempt(job, "card", lambda: card(job))
    theirs = peers(job)
    for shape in [(8, 1, 8, 8)] if job.tiny else [(128, 1, 28, 28), (4096, 3, 32, 32)]:
        for kind in ("DDIM", "DDPM"):
            attempt(job, f"{kind} jump, {name_of(shape)}", partial(jump_times, job, kind, shape, theirs))
    for name in ("fashion-gpu", "cifar10-gpu"):
        attempt(job, f"{name} step", partial(step_times, job, name, theirs))
    attempt(job, "sampling", lambda: sampling(job))


def name_of(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def card(job: "Job") -> Entry:
    """What the device can do: the ceilings that times are compared with, measured."""
    side, size = (128, 2**16) if job.tiny else (8192, 2**28)
    a, b = torch.randn(2, side, side, device=job.device).bfloat16()
    x, y = torch.randn(2, size, device=job.device)
    found = timed(job, "card", {"product": lambda: a @ b, "copy": lambda: y.copy_(x)}, 2, 10)
    name = torch.cuda.get_device_name() if job.device == "cuda" else "CPU"
    return {
        "name": name,
        "torch": torch.__version__,
        "bf16 TFLOP/s": four(2 * side**3 / found["product"].ms / 1e9),
        "nominal bf16 TFLOP/s": next((value for key, value in NOMINAL.items() if key in name), None),
        "copy TB/s": four(2 * 4 * size / found["copy"].ms / 1e9),
        "TF32 in convolutions": torch.backends.cudnn.allow_tf32,
    }


# ---- jumps --------------------------------------------------------------------------------------------------------


def jumps(job: "Job", kind: str, shape: tuple[int, ...], theirs: bool) -> tuple[Tasks, int]:
    """Whole runs over all T steps with a free model, and T. The first is what must be done in any case."""
    T = 50 if job.tiny else 1000
    schedule = NoiseSchedule.linear(T)
    x_T, eps = torch.randn(2, *shape, device=job.device)

    def bare() -> object:
        x = x_T
        for _ in range(T):
            x = torch.add(0.999 * x, eps, alpha=0.001)
            if kind == "DDPM":
                x.add_(torch.randn_like(x), alpha=0.01)
        return x

    def ours() -> object:
        if kind == "DDIM":
            return ddim_sample(schedule, lambda x, t: eps, x_T, T)
        return ddpm_sample(schedule, lambda x, t: eps, x_T)

    tasks: Tasks = {"bare": bare, "diffnotes": ours}
    if theirs:
        of_kind = getattr(importlib.import_module("diffusers"), f"{kind}Scheduler")
        scheduler = of_kind(T, 1e-4, 0.02, clip_sample=False)
        scheduler.set_timesteps(T)
        walk = scheduler.timesteps.tolist()  # ints, the cheapest form it takes

        def their_run() -> Any:
            x: Any = x_T
            for t in walk:
                x = scheduler.step(eps, t, x).prev_sample
            return x

        tasks["diffusers"] = their_run
    return tasks, T


def jump_times(job: "Job", kind: str, shape: tuple[int, ...], theirs: bool) -> Entry:
    tasks, T = jumps(job, kind, shape, theirs)
    note_jumps(job, f"{kind} jump, {name_of(shape)}", tasks, T)
    return {"waits of the host": waits(tasks["diffnotes"])}


def note_jumps(job: "Job", group: str, tasks: Tasks, count: int, repeat: int = 1) -> None:
    """Microseconds a jump of tasks that take `count` jumps each, set-up included."""
    for task, (ms, _, over) in timed(job, group, tasks, 2, repeat).items():
        job.note(f"{group}, {task}", {"us a jump": four(1e3 * ms / count), "over the first": over})


# ---- steps of training --------------------------------------------------------------------------------------------

Made = tuple[nn.Module, Predict, Callable[[], object]]  # a network, how it is called, a step of its training


def prepared(job: "Job", name: str) -> Preset:
    """A preset; for a tiny run with a tiny network and batch."""
    preset = PRESETS[name]()
    if not job.tiny:
        return preset
    config = {**preset.network().config, "width": 8, "multipliers": (1, 2), "blocks": 1}
    settings = dataclasses.replace(preset.config, batch=4)
    return dataclasses.replace(preset, network=lambda: UNet(**config), config=settings)


def network(job: "Job", preset: Preset, layout: torch.memory_format = torch.channels_last) -> Network:
    torch.manual_seed(0)
    return preset.network().to(job.device).to(memory_format=layout)  # type: ignore[call-overload,no-any-return]


def our_step(
    job: "Job", preset: Preset, layout: torch.memory_format = torch.channels_last, **settings: Any
) -> Made:
    """`Trainer.step` on random pictures, as many as CIFAR-10 has."""
    x = torch.randint(0, 256, (50_000, *(preset.shape or ())), dtype=torch.uint8)
    data = Shuffled(x, torch.randint(0, 10, (len(x),)), flip=preset.shape == (3, 32, 32))
    net = network(job, preset, layout)
    return net, net, Trainer(preset.schedule, net, data, dataclasses.replace(preset.config, **settings)).step


def bare_step(
    job: "Job", preset: Preset, net: nn.Module, call: Predict, compiled: bool = False, **adam: Any
) -> Made:
    """What a step must do in any case; all that is random is drawn beforehand."""
    config, schedule, weights = preset.config, preset.schedule.to(job.device), list(net.parameters())
    averaged: list[Tensor] = [value.detach().clone() for value in weights]
    predict = torch.compile(call) if compiled else call
    optimiser = torch.optim.AdamW(weights, lr=config.rate, weight_decay=0.0, **adam)
    x0, noise = torch.randn(2, config.batch, *(preset.shape or ()), device=job.device)
    t = torch.randint(1, schedule.T + 1, (config.batch,), device=job.device)
    y = torch.randint(0, 11, (config.batch,), device=job.device)

    def step() -> None:
        net.train()
        optimiser.zero_grad()
        with torch.autocast(job.device, torch.bfloat16):
            loss = F.mse_loss(predict(q_sample(schedule, x0, t, noise), t, y), noise)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(averaged, list[Tensor](weights), 1e-3)

    return net, call, step


def their_step(job: "Job", preset: Preset, compiled: bool = False) -> Made:
    """The same with diffusers' U-Net of as many levels, blocks and weights, and attention where ours has it."""
    ours, (channels, side, _) = preset.network(), preset.shape or FASHION
    multipliers, levels = ours.config["multipliers"], len(ours.config["multipliers"])

    def make(width: int) -> Any:
        middle = width * multipliers[-1]
        return importlib.import_module("diffusers").UNet2DModel(
            side,
            channels,
            channels,
            block_out_channels=tuple(width * m for m in multipliers),
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            layers_per_block=ours.config["blocks"],
            attention_head_dim=math.gcd(middle, 64),
            norm_num_groups=4,
            dropout=ours.config["dropout"],
            num_class_embeds=11,
        )

    def off(width: int) -> int:
        with torch.device("meta"):
            theirs, wanted = (sum(w.numel() for w in net.parameters()) for net in (make(width), ours))
        return int(abs(theirs - wanted))

    net = make(min(range(8, 129, 4), key=off)).to(job.device, memory_format=torch.channels_last)
    return bare_step(job, preset, net, lambda x, t, y: net(x, t, y).sample, compiled)


class Step(NamedTuple):
    run: Callable[[], object]
    about: Entry


def steps_of(
    job: "Job", group: str, preset: Preset, makers: dict[str, Callable[[], Made]]
) -> dict[str, Step]:
    """Each step that can be made, with its first seconds, its memory, and the operations of its network."""
    found: dict[str, Step] = {}

    def make(name: str) -> Entry:
        before = torch.cuda.memory_allocated() if job.device == "cuda" else 0
        net, call, step = makers[name]()
        start = time.perf_counter()
        finished(step, 2)()  # the second has the optimiser's state
        first = time.perf_counter() - start
        peak = None
        if job.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            finished(step)()
            peak = four((torch.cuda.max_memory_allocated() - before) / 2**30)
        weights = sum(value.numel() for value in net.parameters())
        about = {"million weights": four(weights / 1e6), "peak GiB": peak, "first two steps, s": four(first)}
        found[name] = Step(step, about | {"TFLOP": four(teraflop(job, preset, net, call))})
        return found[name].about

    for name in makers:
        attempt(job, f"{group}, {name}", partial(make, name))
    return found


def teraflop(job: "Job", preset: Preset, net: nn.Module, call: Predict) -> float:
    """10^12 operations of a network in a step, there and back: those in products and convolutions."""
    x, t = (
        torch.randn(2, *(preset.shape or ()), device=job.device),
        torch.ones(2, dtype=torch.int64, device=job.device),
    )
    with FlopCounterMode(display=False) as counter:
        call(x, t, t).square().mean().backward()  # type: ignore[no-untyped-call]
    net.zero_grad()
    return int(counter.get_total_flops()) / 2 * preset.config.batch / 1e12


def note_steps(job: "Job", group: str, preset: Preset, steps: dict[str, Step], seconds: float) -> None:
    """Time the steps in turns."""
    found = json.loads((job.out / "results.json").read_text("utf-8"))
    card = found.get("times", {}).get("entries", {}).get("card", {})
    peaks = {
        "of the measured peak": card.get("bf16 TFLOP/s"),
        "of the nominal peak": card.get("nominal bf16 TFLOP/s"),
    }
    tasks: Tasks = {name: step.run for name, step in steps.items()}
    for name, (ms, middle_half, over) in timed(job, group, tasks, seconds, 5).items():
        rate, pictures = steps[name].about["TFLOP"] / ms * 1e3, preset.config.batch / ms * 1e3
        shares = {key: four(rate / peak) if peak else None for key, peak in peaks.items()}
        entry = {
            "ms": ms,
            "middle half": middle_half,
            "over the first": over,
            "pictures a second": four(pictures),
        }
        job.note(f"{group}, {name}", entry | shares | steps[name].about)


def step_times(job: "Job", name: str, theirs: bool) -> Entry:
    """`Trainer.step` beside the bare step, and diffusers' network in the place of ours, in the same rounds."""
    preset = prepared(job, name)

    def bare(**adam: Any) -> Made:
        net = network(job, preset)
        return bare_step(job, preset, net, net, **adam)

    makers: dict[str, Callable[[], Made]] = {
        "bare": bare,
        "Trainer.step": lambda: our_step(job, preset),
        "Trainer.step, not channels last": lambda: our_step(job, preset, torch.contiguous_format),
        "bare, fused AdamW": lambda: bare(fused=True),
    }
    if theirs:
        makers["diffusers"] = lambda: their_step(job, preset)
    steps = steps_of(job, f"{name} step", preset, makers)
    note_steps(job, f"{name} step", preset, steps, 8)
    return {"data": "random pictures", "waits of the host": waits(steps["Trainer.step"].run)}


# ---- pictures -----------------------------------------------------------------------------------------------------


def sampling(job: "Job") -> Entry:
    """10,000 pictures of the shipped network and of one of the size of `fashion-gpu`; the floor is their calls."""
    n, batch, steps = (8, 4, 2) if job.tiny else (10_000, 1000, 50)
    shipped, schedule, _ = load_model("fashion", job.device)
    shipped.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    large = network(job, prepared(job, "fashion-gpu")).eval()
    x, t = (
        torch.randn(batch, *FASHION, device=job.device),
        torch.ones(batch, dtype=torch.int64, device=job.device),
    )
    y = run.labels(batch, HOW["classes"]).to(job.device)

    def draw(net: Network, count: int) -> Tensor:
        return run.samples(schedule, net, count, FASHION, steps=steps, batch=batch, **HOW)

    @torch.no_grad()
    def call(net: Network) -> None:
        with torch.autocast(job.device, torch.bfloat16):
            for _ in range(steps):
                net(x, t, y)

    def all_of_them(net: Network) -> Entry:
        start = time.perf_counter()
        draw(net, n)
        return {"pictures": n, "seconds": four(time.perf_counter() - start)}

    for name, net in {"shipped": shipped, "of the size of fashion-gpu": large}.items():
        tasks: Tasks = {"calls of the network": partial(call, net), "run.samples": partial(draw, net, batch)}
        found = timed(job, f"sampling, {name}", tasks, 4)
        for task, (ms, _, over) in found.items():
            rate = four(batch / ms * 1e3)
            job.note(f"sampling, {name}, {task}", {"pictures a second": rate, "over the calls": over})
        seconds = found["run.samples"].ms / 1e3 * n / batch
        attempt(job, f"sampling, {name}, {n} pictures", partial(all_of_them, net), 1.2 * seconds)
    return {"steps": steps, "batch": batch, "sampler": "DDIM, bfloat16, clipped"}


# ---- CUDA graphs and torch.compile ----------------------------------------------------------------------------------


def compiled(job: "Job") -> None:
    """Jumps without the host between their operations, and compiled; then compiled steps of training."""
    need_device(job)
    theirs = peers(job)
    if job.tiny:
        torch.compile = partial(torch.compile, backend="aot_eager")  # builds nothing
    shape = (8, 1, 8, 8) if job.tiny else (128, *FASHION)
    for kind in ("DDIM", "DDPM"):
        if job.device == "cuda":
            name = f"{kind} jump, {name_of(shape)}, CUDA graph"
            attempt(job, name, partial(graph_times, job, name, kind, shape, theirs))
        name = f"{kind} jump, {name_of(shape)}, compiled"
        attempt(job, name, partial(compiled_jumps, job, name, 0.0 if kind == "DDIM" else 1.0, shape))
    for name in ("fashion-gpu",) if job.tiny else ("fashion-gpu", "cifar10-gpu"):
        attempt(job, f"{name} step, compiled", partial(compiled_steps, job, name, theirs))


def captured(work: Callable[[], object]) -> Callable[[], None]:
    """`work` as one CUDA graph: all that the device does in it, without the host."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # once before: what is loaded at first use cannot be captured
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def graph_times(job: "Job", group: str, kind: str, shape: tuple[int, ...], theirs: bool) -> None:
    tasks, T = jumps(job, kind, shape, theirs)
    graphs: Tasks = {}

    def capture(name: str) -> None:
        graphs[name] = captured(tasks[name])

    for name in tasks:
        attempt(job, f"{group}, {name}", partial(capture, name))
    note_jumps(job, group, graphs, T)


def compiled_jumps(job: "Job", group: str, eta: float, shape: tuple[int, ...]) -> None:
    """One `ddim_step`, its noise drawn beforehand, against the bare formula."""
    schedule = NoiseSchedule.linear(1000).to(job.device)
    x, eps, noise = torch.randn(3, *shape, device=job.device)

    def ours() -> Tensor:
        return ddim_step(schedule, x, eps, 500, 480, eta, noise).x_s

    def bare() -> Tensor:
        return torch.add(0.999 * x, eps, alpha=0.001) + (0.01 * noise if eta else 0)

    ours()  # what the schedule derives at first use
    tasks: Tasks = {"bare": torch.compile(bare), "ddim_step": torch.compile(ours, fullgraph=True)}
    note_jumps(job, group, tasks | {"bare, eager": bare, "ddim_step, eager": ours}, 1, 100)


def compiled_steps(job: "Job", name: str, theirs: bool) -> Entry:
    """Eager and compiled in the same rounds; diffusers' network too, if there is the time to compile it."""
    preset, group = prepared(job, name), f"{name} step, compiled"
    torch.compiler.reset()

    def bare() -> Made:
        net = network(job, preset)
        return bare_step(job, preset, net, net, compiled=True)

    makers: dict[str, Callable[[], Made]] = {
        "Trainer.step, eager": lambda: our_step(job, preset),
        "Trainer.step": lambda: our_step(job, preset, compile=True),
    }
    steps = steps_of(job, group, preset, makers)
    note_steps(job, group, preset, steps, 3)
    waiting = waits(steps["Trainer.step"].run)
    more = {"bare": bare} | ({"diffusers": lambda: their_step(job, preset, compiled=True)} if theirs else {})
    if job.left() > 2 * steps["Trainer.step"].about["first two steps, s"]:
        note_steps(job, group, preset, steps | steps_of(job, group, preset, more), 5)
    return {"waits of the host": waiting}


# ---- a trained network ----------------------------------------------------------------------------------------------


def training(job: "Job") -> None:
    """Train for half of the time left, then judge the network beside the one that comes with the package."""
    need_device(job)
    nets = {"shipped": load_model("fashion", job.device)}
    floor: list[Tensor] = []

    def trained() -> Entry:
        if job.data is not None and not (job.data / "train-images-idx3-ubyte.gz").exists():
            raise FileNotFoundError(f"no training set in {job.data}")
        images = fashion_mnist("test") if job.tiny else fashion_mnist("train", folder=job.data)
        floor.append(images.x)
        path, entry = train(job, Shuffled(to_bytes(images.x), images.y))
        nets["fashion-gpu"] = load_model(path, job.device)  # as it is stored
        return entry

    attempt(job, "fashion-gpu, trained", trained)
    for net, _, _ in nets.values():
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    judged(job, {name: (net, schedule) for name, (net, schedule, _) in nets.items()}, floor)


def train(job: "Job", data: Shuffled) -> tuple[Path, Entry]:
    """`fashion-gpu`, in as many steps as there is time for; the weights, and how that went."""
    preset = prepared(job, "fashion-gpu")
    few, most = (2, 6) if job.tiny else (50, preset.config.steps)
    trial = our_step(job, preset)[2]
    finished(trial, few)()  # loads and warms up
    start = time.perf_counter()
    finished(trial, few)()
    steps = max(1, min(most, int(0.5 * job.left() * few / (time.perf_counter() - start))))
    config = dataclasses.replace(preset.config, steps=steps, warmup=min(preset.config.warmup, steps // 10))
    trainer = Trainer(preset.schedule, network(job, preset), data, config)
    start, end = time.perf_counter(), time.perf_counter() + 0.6 * job.left()
    while trainer.done < steps and time.perf_counter() < end:
        trainer.step()  # which waits for the device now and then, so that the clock is right
    trainer.check()
    seconds = time.perf_counter() - start
    losses = trainer.losses[: trainer.done].double().cpu()
    every = math.ceil(len(losses) / 200)
    entry = {"steps": trainer.done, "planned": steps, "batch": config.batch, "seconds": four(seconds)}
    entry |= {"loss at the end": four(float(losses[-max(1, len(losses) // 8) :].mean()))}
    job.note(
        "loss", {"every": every, "means": [four(float(part.mean())) for part in torch.split(losses, every)]}
    )
    path = Path(tempfile.mkdtemp()) / "weights.safetensors"
    of = "the test images, for a tiny run" if job.tiny else preset.data_name
    provenance = {
        "command": "python tools/gpu.py",
        "data": of,
        "schedule": repr(preset.schedule),
        "run": entry,
    }
    provenance |= {"settings": dataclasses.asdict(config), "torch": torch.__version__}
    save_model(path, trainer.ema, preset.schedule, provenance, torch.float16)
    content, piece = path.read_bytes(), 15 * 2**20
    for number in range(math.ceil(len(content) / piece)):
        part = content[number * piece : (number + 1) * piece]
        write_file(job.out / f"weights.safetensors.{number}", part)
    return path, entry


def judged(job: "Job", nets: dict[str, tuple[Network, NoiseSchedule]], floor: list[Tensor]) -> None:
    """A grid of pictures, bits per dimension, and Fréchet distances to the test images over steps and eta."""
    n, batch, few = (20, 10, 2) if job.tiny else (10_000, 1000, 50)
    test = fashion_mnist("test").x

    def grid(name: str) -> Entry:
        net, schedule = nets[name]
        x = run.samples(schedule, net, 100, FASHION, steps=few, **HOW)
        write_file(job.out / f"grid-{name}.png", png(x, 10))
        return {"picture": f"grid-{name}.png"}

    def bits(name: str) -> Entry:
        net, schedule = nets[name]
        images, every = (test[:20], 500) if job.tiny else (test[:1000], 27)
        found = run.likelihood(schedule, net, images, every=every, batch=batch // 10 or 1)
        return {"images": len(images), **{key: four(value) for key, value in found.items()}}

    for name in nets:
        attempt(job, f"{name}, grid", partial(grid, name))
        attempt(job, f"{name}, bits per dimension", partial(bits, name))
    from diffnotes.metrics import frechet_distance

    eye = load_classifier("fashion_classifier", job.device)[0].double()  # not in TF32

    @torch.no_grad()
    def features(x: Tensor) -> Tensor:
        return torch.cat([eye.features(part.to(job.device)).cpu() for part in torch.split(x, 1000)])

    real = features(test[:n])

    def distance(x: Tensor) -> Entry:
        found = frechet_distance(features(x), real, resamples=20)
        return {"n": n, "distance": four(found.value), "stderr": four(found.stderr)}

    def sampled(name: str, steps: int, eta: Eta) -> Entry:
        net, schedule = nets[name]
        start = time.perf_counter()
        x = run.samples(schedule, net, n, FASHION, steps=steps, eta=eta, batch=batch, **HOW)
        seconds = time.perf_counter() - start
        right = predict(eye, x.to(job.device)).cpu() == run.labels(n, HOW["classes"])
        agreement = four(float(right.double().mean()))
        return distance(x) | {"agreement": agreement, "seconds": four(seconds)}

    for x in floor:  # real images, though the classifier has seen these
        attempt(job, "floor: as many training images", lambda x=x: distance(x[:n]))  # type: ignore[misc]
    cells: list[tuple[int, Eta]] = [(steps, eta) for steps in (10, 20, 50, 100) for eta in (0.0, 0.5, 1.0)]
    pace = dict.fromkeys(nets, 0.0)  # seconds that a step takes, of all n
    for steps, eta in cells[:2] if job.tiny else [*cells, (1000, 1.0), (1000, 0.0)]:
        for name in nets:
            what = f"{name}, {steps} steps, eta {eta}"
            entry = attempt(job, what, partial(sampled, name, steps, eta), 3 + 1.2 * steps * pace[name])
            if entry is not None:
                pace[name] = entry["seconds"] / steps
