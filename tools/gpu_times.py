"""The other parts of `tools/gpu.py`: times against floors, eager and compiled, and what a trained network is worth."""

import contextlib
import dataclasses
import importlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.floors import Task, bare_step, in_turns, jumps, quartiles, their_network, weights_of
from diffnotes.data import fashion_mnist
from diffnotes.ddim import ddim_step
from diffnotes.metrics import frechet_distance
from diffnotes.schedule import NoiseSchedule
from diffnotes.training import run
from diffnotes.training.checkpoint import load_model, save_model, write_file
from diffnotes.training.classifier import load_classifier, predict
from diffnotes.training.loop import Shuffled, Trainer
from diffnotes.training.networks import Network, UNet
from diffnotes.training.presets import PRESETS, Preset
from diffnotes.training.watch import Metrics, png

if TYPE_CHECKING:
    from tools.gpu import Job

Tasks = dict[str, Task]
HOW: dict[str, Any] = {"classes": list(range(10)), "clip": 1.0, "bf16": True}  # pictures are drawn
FASHION = (1, 28, 28)


@contextlib.contextmanager
def attempt(job: "Job", name: str) -> Iterator[None]:
    """Note that a measurement failed, and go on: the next may do better."""
    try:
        yield
    except Exception as error:
        job.note(name, {"failed": f"{type(error).__name__}: {error}"[-600:]})


def time_for(job: "Job", name: str, seconds: float) -> bool:
    """Whether there is the time for a measurement; a note where there is not."""
    if job.left() < seconds:
        job.note(name, {"skipped": f"it takes {seconds:.0f} s, and {job.left():.0f} s were left"})
    return job.left() >= seconds


def four(value: float) -> float:
    """A number to four digits."""
    return float(f"{value:.4g}")


def finished(work: Task, repeat: int = 1) -> None:
    """Do `work` so many times, and wait until the device has done it."""
    for _ in range(repeat):
        work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(job: "Job", group: str, tasks: Tasks, seconds: float, repeat: int = 1) -> dict[str, dict[str, Any]]:
    """The times of each task that works, in turns for so many seconds, the host running ahead `repeat` times."""
    working, repeat = Tasks(), 1 if job.tiny else repeat
    for name, task in tasks.items():
        with attempt(job, f"{group}, {name}"):
            finished(task)
            working[name] = partial(finished, task, repeat)
    rows = in_turns(working, 3 if job.tiny else 30, min(seconds, job.left() / 2))
    found = {}
    for name, times in rows.items():
        low, ms, high = (four(1e3 * q / repeat) for q in quartiles(times))
        _, over, _ = quartiles([a / b for a, b in zip(times, next(iter(rows.values())), strict=True)])
        found[name] = {"ms": ms, "middle half": f"{low:g} .. {high:g}", "over the first": four(over)}
    return found


def begin(job: "Job") -> bool:
    """Whether diffusers can be measured beside us. RuntimeError: the device is not there."""
    if job.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch sees no CUDA device")
    try:
        diffusers = importlib.import_module("diffusers")
        return bool(diffusers.DDIMScheduler and diffusers.DDPMScheduler and diffusers.UNet2DModel)  # imported here
    except Exception as error:  # it is not here, or what it needs is not
        job.note("diffusers", {"skipped": f"{type(error).__name__}: {error}"[-300:]})
        return False


# ---- jumps, steps of training, pictures -------------------------------------------------------------------------


def times(job: "Job") -> None:
    """Everything in eager mode, and first the ceilings of the card."""
    theirs = begin(job)
    with attempt(job, "card"):
        side, size = (128, 2**16) if job.tiny else (8192, 2**28)
        a, b = torch.randn(2, side, side, device=job.device).bfloat16()
        x, y = torch.randn(2, size, device=job.device)
        found = timed(job, "card", {"product": lambda: a @ b, "copy": lambda: y.copy_(x)}, 2, 10)
        tflops, tbs = 2 * side**3 / found["product"]["ms"] / 1e9, 2 * 4 * size / found["copy"]["ms"] / 1e9
        about = {"name": torch.cuda.get_device_name() if job.device == "cuda" else "CPU"}
        entry = {"bf16 TFLOP/s": four(tflops), "copy TB/s": four(tbs)}
        job.note("card", about | entry | {"TF32 in convolutions": torch.backends.cudnn.allow_tf32})
    for shape in [(8, 1, 8, 8)] if job.tiny else [(128, *FASHION), (4096, 3, 32, 32)]:
        for kind in ("DDIM", "DDPM"):
            with attempt(job, f"{kind} jump, {shape}"):
                jump_times(job, kind, shape, theirs)
    for name in ("fashion-gpu", "cifar10-gpu"):
        with attempt(job, f"{name} step"):
            step_times(job, name, theirs)
    shipped, schedule, _ = load_model("fashion", job.device)
    shipped.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    nets = {"shipped": shipped, "of the size of fashion-gpu": network(job, prepared(job, "fashion-gpu")).eval()}
    for name, net in nets.items():
        with attempt(job, f"sampling, {name}"):
            sampling(job, name, net, schedule)


def note_jumps(job: "Job", group: str, tasks: Tasks, count: int, repeat: int = 1) -> None:
    """Microseconds a jump of tasks that take `count` jumps each, set-up included."""
    for task, row in timed(job, group, tasks, 2, repeat).items():
        entry = {"us a jump": four(1e3 * row["ms"] / count), "over the first": row["over the first"]}
        job.note(f"{group}, {task}", entry)


def jump_times(job: "Job", kind: str, shape: tuple[int, ...], theirs: bool, graph: bool = False) -> None:
    """Runs of a sampler; `graph`: each as one CUDA graph, all that the device does in it, without the host."""
    group, steps = f"{kind} jump, {'x'.join(map(str, shape))}", 50 if job.tiny else 1000
    x_T, eps = torch.randn(2, *shape, device=job.device)
    tasks = jumps(kind, x_T, eps, steps, theirs)
    if not graph:
        return note_jumps(job, group, tasks, steps)
    graphs = Tasks()
    for name, task in tasks.items():
        with attempt(job, f"{group}, CUDA graph, {name}"):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # once before: what is loaded at first use cannot be captured
                task()
            torch.cuda.current_stream().wait_stream(side)
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                task()
            graphs[name] = captured.replay
    note_jumps(job, f"{group}, CUDA graph", graphs, steps)


def prepared(job: "Job", name: str, **settings: Any) -> Preset:
    """A preset; for a tiny run with a tiny network and batch."""
    preset = PRESETS[name]()
    if job.tiny:
        config = {**preset.network().config, "width": 8, "multipliers": (1, 2), "blocks": 1}
        preset = dataclasses.replace(preset, network=lambda: UNet(**config))
        settings["batch"] = 4
    return dataclasses.replace(preset, config=dataclasses.replace(preset.config, **settings))


def network(job: "Job", preset: Preset) -> Network:
    torch.manual_seed(0)
    net = preset.network().to(job.device)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def our_step(job: "Job", preset: Preset) -> tuple[Network, Task]:
    """`Trainer.step` on random pictures, as many as CIFAR-10 has, and its network."""
    x = torch.randint(0, 256, (50_000, *(preset.shape or ())), dtype=torch.uint8)
    data = Shuffled(x, torch.randint(0, 10, (len(x),)), flip=preset.shape == (3, 32, 32))
    net = network(job, preset)
    return net, Trainer(preset.schedule, net, data, preset.config).step


def the_bare_step(job: "Job", preset: Preset, compile: bool) -> tuple[Network, Task]:
    net = network(job, preset)
    return net, bare_step(preset, net, torch.compile(net) if compile else net, job.device)


def their_step(job: "Job", preset: Preset, compile: bool) -> tuple[Any, Task]:
    """The bare step with diffusers' U-Net, of as many weights, in the place of ours."""
    ours, (_, side, _) = preset.network(), preset.shape or FASHION
    net = their_network(ours, side).to(job.device).to(memory_format=torch.channels_last)
    call = torch.compile(net) if compile else net
    return net, bare_step(preset, net, lambda x, t, y: call(x, t, y).sample, job.device)


def step_times(job: "Job", name: str, theirs: bool, compile: bool = False) -> None:
    """Steps of training in the same rounds, eager or compiled, the bare one first: their share of the card's peak."""
    group, preset = f"{name} step{', compiled' if compile else ''}", prepared(job, name, compile=compile)
    makers: dict[str, Callable[[], tuple[Any, Task]]] = {"bare": lambda: the_bare_step(job, preset, compile)}
    makers["Trainer.step"] = lambda: our_step(job, preset)
    if compile:
        makers["Trainer.step, eager"] = lambda: our_step(job, prepared(job, name))
    if theirs:
        makers["diffusers"] = lambda: their_step(job, preset, compile)
    tasks, about = Tasks(), dict[str, dict[str, Any]]()
    for task, make in makers.items():
        with attempt(job, f"{group}, {task}"):
            tasks[task], about[task] = made(job, preset, make)
    found = json.loads((job.out / "results.json").read_text("utf-8")).get("times", {}).get("entries", {})
    peak = found.get("card", {}).get("bf16 TFLOP/s", math.nan)
    for task, row in timed(job, group, tasks, 8, 5).items():
        row |= {"pictures a second": four(preset.config.batch / row["ms"] * 1e3)} | about[task]
        job.note(f"{group}, {task}", row | {"of the card's peak": four(row["TFLOP"] / row["ms"] * 1e3 / peak)})


def made(job: "Job", preset: Preset, make: Callable[[], tuple[Any, Task]]) -> tuple[Task, dict[str, Any]]:
    """A step of training after two to warm up, its weights, its operations, and the memory it takes at most."""
    cuda = job.device == "cuda"
    before = torch.cuda.memory_allocated() if cuda else 0
    net, step = make()
    finished(step, 2)  # the second has the state of the optimiser
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    finished(step)
    peak = four((torch.cuda.max_memory_allocated() - before) / 2**30) if cuda else None
    x, t = torch.randn(2, *(preset.shape or ()), device=job.device), torch.ones(2, dtype=torch.int64, device=job.device)
    with FlopCounterMode(display=False) as counter:  # products and convolutions, there and back
        said = net(x, t, t)
        getattr(said, "sample", said).square().mean().backward()
    net.zero_grad()
    tflop = four(counter.get_total_flops() / 2 * preset.config.batch / 1e12)
    return step, {"million weights": four(weights_of(net) / 1e6), "peak GiB": peak, "TFLOP": tflop}


def sampling(job: "Job", name: str, net: Network, schedule: NoiseSchedule) -> None:
    """10,000 pictures by DDIM in bfloat16, clipped; the floor is the calls of the network."""
    n, batch, steps = (8, 4, 2) if job.tiny else (10_000, 1000, 50)
    x, y = torch.randn(batch, *FASHION, device=job.device), run.labels(batch, HOW["classes"]).to(job.device)

    @torch.no_grad()
    def call() -> None:
        with torch.autocast(job.device, torch.bfloat16):
            for _ in range(steps):
                net(x, torch.ones_like(y), y)

    def draw(n: int) -> Tensor:
        return run.samples(schedule, net, n, FASHION, steps=steps, batch=batch, **HOW)

    tasks: Tasks = {"calls of the network": call, "run.samples": partial(draw, batch)}
    for task, row in timed(job, f"sampling, {name}", tasks, 4).items():
        row |= {"pictures a second": four(batch / row["ms"] * 1e3), "steps": steps, "batch": batch}
        job.note(f"sampling, {name}, {task}", row)
    if time_for(job, what := f"sampling, {name}, {n} pictures", 1.2 * row["ms"] / 1e3 * n / batch):
        start = time.perf_counter()
        draw(n)
        job.note(what, {"pictures": n, "seconds": four(time.perf_counter() - start)})


def compiled(job: "Job") -> None:
    """Jumps without the host between their operations, and compiled; then compiled steps of training."""
    theirs = begin(job)
    if job.tiny:
        torch.compile = partial(torch.compile, backend="aot_eager")  # builds nothing
    shape = (8, 1, 8, 8) if job.tiny else (128, *FASHION)
    schedule = NoiseSchedule.linear(1000).to(job.device)
    x, eps, noise = torch.randn(3, *shape, device=job.device)
    for kind, eta in {"DDIM": 0.0, "DDPM": 1.0}.items():
        if job.device == "cuda":
            with attempt(job, f"{kind} jump, CUDA graph"):
                jump_times(job, kind, shape, theirs, graph=True)

        def bare(eta: float = eta) -> Tensor:
            return torch.add(0.999 * x, eps, alpha=0.001) + (0.01 * noise if eta else 0)

        def ours(eta: float = eta) -> Tensor:
            return ddim_step(schedule, x, eps, 500, 480, eta, noise).x_s

        tasks: Tasks = {"bare": torch.compile(bare), "ddim_step": torch.compile(ours, fullgraph=True)}
        group = f"{kind} jump, {'x'.join(map(str, shape))}, compiled"
        note_jumps(job, group, tasks | {"bare, eager": bare, "ddim_step, eager": ours}, 1, 100)
    for name in ("fashion-gpu",) if job.tiny else ("fashion-gpu", "cifar10-gpu"):
        torch.compiler.reset()
        with attempt(job, f"{name} step, compiled"):
            step_times(job, name, theirs, compile=True)


class Keep:
    """Every so many steps, write the averaged weights in pieces; when the time is over, that is all."""

    def __init__(self, job: "Job", preset: Preset, path: Path, every: int, seconds: float) -> None:
        self.job, self.preset, self.path, self.every = job, preset, path, every
        self.end = time.monotonic() + seconds

    def __call__(self, trainer: Trainer[Network]) -> None:
        if trainer.done % self.every == 0 or trainer.done == trainer.config.steps:  # the clock is right after a wait
            losses = trainer.losses[trainer.done - self.every : trainer.done]
            entry: dict[str, float] = {"steps": trainer.done, "planned": trainer.config.steps}
            entry |= {"batch": trainer.config.batch, "loss at the end": four(float(losses.mean()))}
            provenance = {"command": "python tools/gpu.py", "data": self.preset.data_name, "run": entry}
            save_model(self.path, trainer.ema, self.preset.schedule, provenance, torch.float16)
            with open(self.path, "rb") as file:
                for number, piece in enumerate(iter(partial(file.read, 15 * 2**20), b"")):
                    write_file(self.job.out / f"weights.safetensors.{number}", piece)
            self.job.note("fashion-gpu, trained", entry)
            if time.monotonic() > self.end and trainer.done < trainer.config.steps:
                raise TimeoutError(f"stopped after {trainer.done} of {trainer.config.steps} steps, to judge them")


def training(job: "Job") -> None:
    """Train for nearly half of the time left, then judge the network beside the one that comes with the package."""
    begin(job)
    nets = {"shipped": load_model("fashion", job.device)[:2]}
    real: list[Tensor] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        with attempt(job, "fashion-gpu, end of training"):
            real.append((fashion_mnist("test") if job.tiny else fashion_mnist("train", folder=job.data)).x)
            train(job, path)
        if path.exists():
            nets["fashion-gpu"] = load_model(path, job.device)[:2]  # as it is stored
    for net, _ in nets.values():
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    judge(job, nets, real)


def train(job: "Job", path: Path) -> None:
    """`fashion-gpu` for as many steps as fit, with its losses in metrics.jsonl."""
    preset = prepared(job, "fashion-gpu")
    ms = timed(job, "trial", {"step": our_step(job, preset)[1]}, 5, 10)["step"]["ms"]
    steps = 6 if job.tiny else max(8, min(preset.config.steps, int(0.45 * job.left() / ms * 1e3)))
    preset = prepared(job, "fashion-gpu", steps=steps, warmup=min(preset.config.warmup, steps // 10))
    preset = dataclasses.replace(preset, dtype=torch.float16)
    if job.tiny:
        preset = dataclasses.replace(preset, data=lambda _: fashion_mnist("test"), data_name="tests")
    start = time.perf_counter()
    keep = Keep(job, preset, path, every=max(1, steps // 8), seconds=0.6 * job.left())
    losses = Metrics(job.out, every=max(1, steps // 200))
    how: dict[str, Any] = {"device": job.device, "data": job.data, "command": "python tools/gpu.py"}
    loss = run.train_preset(preset, preset.config, path, callbacks=[losses, keep], **how)
    entry: dict[str, float] = {"seconds": four(time.perf_counter() - start), "loss, mean over the last eighth": loss}
    job.note("fashion-gpu, end of training", entry)


def judge(job: "Job", nets: dict[str, tuple[Network, NoiseSchedule]], real: list[Tensor]) -> None:
    """A grid of pictures, bits per dimension, and Fréchet distances to the test images over steps and eta."""
    n, batch, few, every = (20, 10, 2, 500) if job.tiny else (10_000, 1000, 50, 27)
    test = fashion_mnist("test").x[:n]
    for name, (net, schedule) in nets.items():
        with attempt(job, f"{name}, grid"):
            x = run.samples(schedule, net, 100, FASHION, steps=few, **HOW)
            write_file(job.out / f"grid-{name}.png", png(x, 10))
        with attempt(job, f"{name}, bits per dimension"):
            found = run.likelihood(schedule, net, test[:1000], every=every, batch=batch // 10)
            entry = {"images": len(test[:1000])} | {key: four(value) for key, value in found.items()}
            job.note(f"{name}, bits per dimension", entry)
    eye = load_classifier("fashion_classifier", job.device)[0].double()  # not in TF32

    def distance(x: Tensor) -> dict[str, Any]:
        found = frechet_distance(x, test, lambda part: eye.features(part.to(job.device)).cpu(), resamples=20)
        return {"n": n, "distance": four(found.value), "stderr": four(found.stderr)}

    for x in real:  # though the classifier has seen these
        with attempt(job, "floor: as many training images"):
            job.note("floor: as many training images", distance(x[:n]))
    cells = [(steps, eta) for steps in (10, 20, 50, 100) for eta in (0.0, 0.5, 1.0)]
    pace = dict.fromkeys(nets, 0.0)  # seconds that a step takes, of all n
    for steps, eta in cells[:2] if job.tiny else [*cells, (1000, 1.0), (1000, 0.0)]:
        for name, (net, schedule) in nets.items():
            what, start = f"{name}, {steps} steps, eta {eta}", time.perf_counter()
            if time_for(job, what, 3 + 1.2 * steps * pace[name]):
                with attempt(job, what):
                    x = run.samples(schedule, net, n, FASHION, steps=steps, eta=eta, batch=batch, **HOW)
                    seconds = time.perf_counter() - start
                    right = predict(eye, x.to(job.device)).cpu() == run.labels(n, HOW["classes"])
                    share = {"agreement": four(float(right.double().mean())), "seconds": four(seconds)}
                    job.note(what, distance(x) | share)
                    pace[name] = seconds / steps
