"""What the command line does, as functions: train a preset, draw samples, measure the likelihood of test images.

They also work in several processes (see `training.distributed`). Samples and likelihoods are computed in batches, and
all randomness in a batch comes from generators seeded with (seed, number of the batch). So they depend on the batch
size, but not on the number of processes.

>>> from diffnotes.training.checkpoint import load_model
>>> net, schedule, _ = load_model("swiss_roll")
>>> samples(schedule, net, 5, (2,), steps=10).shape
torch.Size([5, 2])
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor

from diffnotes.arguments import check_batch, may_look, number, whole, whole_numbers
from diffnotes.data import from_bytes, to_bytes
from diffnotes.ddim import Eta, ddim_sample, ddim_sigma, dpmpp_2m_sample
from diffnotes.guidance import guided
from diffnotes.objective import bits_per_dim, vlb_terms
from diffnotes.reverse import Variance, ddpm_sample
from diffnotes.schedule import Batch, Labels, NoisePredictor, NoiseSchedule, Spacing, timesteps
from diffnotes.training import distributed
from diffnotes.training.checkpoint import SUFFIX, TORCH, check_target, save_model
from diffnotes.training.loop import TrainConfig, Trainer, fit, seed_of
from diffnotes.training.networks import Image, Network
from diffnotes.training.presets import Preset
from diffnotes.training.watch import Metrics, Pictures

Sampler = Literal["ddim", "ddpm", "2m"]


def train_preset(
    preset: Preset,
    config: TrainConfig,
    out: str | Path,
    *,
    device: torch.device | str = "cpu",
    folder: str | Path | None = None,
    data: Path | None = None,
    grid_every: int | None = None,
    command: str = "",
    progress: bool = False,
    callbacks: Iterable[Callable[[Trainer[Network]], None]] = (),
) -> float:
    """Train a preset with the settings `config`, write the averaged weights to `out`, and return the final loss.

    Args:
        folder: for checkpoints to resume from, metrics and pictures.
        data: the folder where the images are, if not in the usual places.
        grid_every: steps between pictures of samples, which need a folder and a preset for images.
        command: for the provenance in the weights file.
        callbacks: called with the `Trainer` after every step.

    Raises:
        ValueError, OSError: see `fit`; or `out` is not .safetensors or cannot be written; or pictures are not possible;
            or `data` is given for a preset without images.
    """
    if distributed.rank() == 0:
        check_target(out, SUFFIX)
        if folder is not None:
            check_target(Path(folder) / "metrics.jsonl", ".jsonl")
    if grid_every is not None and (folder is None or preset.shape is None):
        raise ValueError(f"grid_every must be None without a folder or without images, got {grid_every}")
    if data is not None and preset.shape is None:
        raise ValueError(f"data must be None for a preset that draws its examples, got {data}")
    torch.manual_seed(config.seed)  # for the initial weights
    model = preset.network().to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with distributed.first_here():
        examples = preset.data(data)
    watchers = list(callbacks)
    if folder is not None and distributed.rank() == 0:
        watchers.append(Metrics(folder))
        if grid_every is not None and preset.shape is not None:
            watchers.append(Pictures(folder, grid_every, preset.shape))
    trained = fit(preset.schedule, model, examples, config, folder=folder, callbacks=watchers, progress=progress)
    loss = round(trained.final_loss, 5)
    provenance: dict[str, Any] = {
        "command": command,
        "data": preset.data_name,
        "schedule": repr(preset.schedule),
        "settings": dataclasses.asdict(config),
        "loss": loss,
        "loss is": "the mean over the last eighth of the training steps",
        "torch": TORCH,
    }
    if distributed.rank() == 0:
        save_model(out, trained.ema, preset.schedule, provenance, preset.dtype)
    return loss


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn: what `samples` and the command line take."""

    sampler: Sampler = "ddim"  # ddim_sample, ddpm_sample or dpmpp_2m_sample; only the first takes eta
    steps: int | None = None  # None means 50, T or 20, respectively
    eta: Eta = 0.0
    spacing: Spacing = "trailing"  # see `timesteps`
    classes: Sequence[int] = ()  # to be drawn in turn; none for samples without a label
    guidance: float = 0.0  # towards the classes, see `guided`
    clip: float | None = None  # see the samplers; 1 suits images
    bf16: bool = False  # run the network in bfloat16 under autocast
    seed: int = 0
    batch: int = 50  # how many samples are drawn together

    def checked(self, schedule: NoiseSchedule, model: Network) -> "Sampling":
        """The same in Python's own numbers, with the number of steps, if samples can be drawn like this.

        Raises:
            ValueError: the network is for another T, the sampler is unknown or takes no eta, guidance is used without
                classes, or a value is out of range or of a wrong kind.
        """
        schedule.check_T(model)
        if self.sampler not in get_args(Sampler):
            raise ValueError(f"sampler must be one of {get_args(Sampler)}, got {self.sampler!r}")
        if not isinstance(self.bf16, bool):
            raise ValueError(f"bf16 must be True or False, got {self.bf16!r}")
        ddim_sigma(schedule, 1, 0, self.eta)  # raises if eta is out of range
        if self.eta != 0 and self.sampler != "ddim":
            raise ValueError(f"eta must be 0 for any sampler but 'ddim', got {self.eta!r} for {self.sampler!r}")
        classes = whole_numbers("classes", self.classes)
        guidance = number("guidance", self.guidance, "[-1, inf)")
        if guidance and not classes:
            raise ValueError(f"guidance must be 0 without classes to guide towards, got {guidance}")
        known = getattr(model, "classes", 0)
        if bad := [c for c in classes if not 0 <= c < known]:
            allowed = f"lie in 0..{known - 1}" if known else "be empty for this network"
            raise ValueError(f"classes must {allowed}, got {bad}")
        usual = {"ddim": 50, "ddpm": schedule.T, "2m": 20}[self.sampler]
        return dataclasses.replace(
            self,
            steps=len(timesteps(schedule.T, usual if self.steps is None else self.steps, self.spacing)),
            classes=classes,
            guidance=guidance,
            clip=None if self.clip is None else number("clip", self.clip, "(0, inf)"),
            seed=whole("seed", self.seed, None),
        )


def samples(
    schedule: NoiseSchedule, model: Network, n: int, shape: Sequence[int], *, progress: bool = False, **options: Any
) -> Batch:
    """n samples of a trained network, float32, on the CPU, shape (n, *shape).

    Args:
        schedule: on the model's device.
        shape: of one sample.
        options: the fields of `Sampling`.

    Raises:
        ValueError: see `Sampling.checked` and `in_batches`.
    """
    how, device = Sampling(**options).checked(schedule, model), schedule.betas.device

    def draw(number: int, rows: slice) -> Tensor:
        generator = Generator(device).manual_seed(seed_of(how.seed, "samples", number))
        x_T = torch.randn(rows.stop - rows.start, *shape, generator=generator, device=device)
        eps = guided(model, labels(n, how.classes)[rows].to(device), how.guidance) if how.classes else model
        same: dict[str, Any] = {"steps": how.steps, "spacing": how.spacing, "clip": how.clip}
        with torch.autocast(device.type, torch.bfloat16, enabled=how.bf16):
            if how.sampler == "ddim":
                return ddim_sample(schedule, eps, x_T, eta=how.eta, generator=generator, **same)
            if how.sampler == "ddpm":
                return ddpm_sample(schedule, eps, x_T, generator=generator, **same)
            return dpmpp_2m_sample(schedule, eps, x_T, **same)

    return distributed.in_batches(draw, n, how.batch, shape, progress=progress)


def labels(n: int, classes: Sequence[int]) -> Labels:
    """The classes of n samples, each in turn, int64; all -1 if there are no classes.

    >>> labels(5, [0, 7])
    tensor([0, 7, 0, 7, 0])
    """
    chosen = torch.tensor(whole_numbers("classes", classes) or [-1])
    return chosen[torch.arange(whole("n", n, 0)) % len(chosen)]


def likelihood(
    schedule: NoiseSchedule,
    model: Network,
    images: Image,
    y: Labels | None = None,
    *,
    variance: Variance = "posterior",
    every: int = 1,
    seed: int = 0,
    batch: int = 50,
    progress: bool = False,
) -> dict[str, float]:
    """The variational bound on -log2 p(image), in bits per dimension, for images whose pixels are bytes on [-1, 1].

    The decoder is discrete (Ho et al. 2020, eq. 13). The standard error comes from the spread over batches, which also
    covers the draws of x_t and of the terms.

    Args:
        schedule: on the model's device.
        y: labels, for p(image | label); None for p(image).
        variance: of the reverse step, see `vlb_terms`.
        every: m makes it about m / 2 times faster, at a larger standard error. The first T / m terms L_{t-1}, the
            largest, are all computed. Of the rest it is every m-th, from a random start in each batch, and their sum
            counts m times, so the bound stays unbiased.
        batch: how many images are worked on together.

    Returns:
        bits_per_dim, its stderr, and its parts L_T, L_t (all terms in between) and L_0.

    Raises:
        ValueError: `every` is not in 1..T, there are fewer than two batches, the network is for another T, a pixel is
            no byte, y is not of the classes, an argument is of a wrong kind, or what `vlb_terms` raises.
    """
    schedule.check_T(model)
    check_batch(images=images)
    n, every = len(images), whole("every", every, 1, schedule.T)
    seed, batch = whole("seed", seed, None), whole("batch", batch)
    if n < 2:
        raise ValueError(f"images must be two or more, for a standard error, got {n}")
    if y is not None:
        guided(model, y)  # raises if the network has no classes, or not these
        if y.shape != images.shape[:1]:
            raise ValueError(f"y must have shape {(n,)}, one per image, got {tuple(y.shape)}")
    if n <= batch:
        raise ValueError(f"batch must be below the number of images, {n}, for a standard error, got {batch}")
    off = (images - from_bytes(to_bytes(images))).abs() > 1e-3 / 127.5  # as in `discrete_log_prob`
    if may_look(images) and bool(off.any()):
        raise ValueError(f"images must have bytes for pixels, k / 127.5 - 1, got {float(images[off][0])}")
    device, head = schedule.betas.device, min(schedule.T // every, schedule.T - 1)

    def terms(number: int, rows: slice) -> Tensor:
        first = torch.randint(every, (), generator=Generator().manual_seed(seed_of(seed, "first", number)))
        generator = Generator(device).manual_seed(seed_of(seed, "likelihood", number))
        ts = [*range(2, 2 + head), *range(2 + head + int(first), schedule.T + 1, every)]
        eps: NoisePredictor = model if y is None else guided(model, y[rows].to(device))
        found = vlb_terms(
            schedule, eps, images[rows].to(device), variance=variance, decoder="discrete", ts=ts, generator=generator
        )
        L_t = found.L_t[:, :head].sum(1) + every * found.L_t[:, head:].sum(1)
        return torch.stack([found.L_T, L_t, found.L_0], dim=1)  # (obj-vlb)

    nats = distributed.in_batches(terms, n, batch, (3,), torch.float64, progress)
    dims = images[0].numel()
    bits = bits_per_dim(nats.sum(1), dims)
    parts = {name: float(bits_per_dim(nats[:, i], dims).mean()) for i, name in enumerate(("L_T", "L_t", "L_0"))}
    return {"bits_per_dim": float(bits.mean()), "stderr": _stderr(bits, batch), **parts}


def _stderr(values: Tensor, batch: int) -> float:
    """The standard error of the mean of values that are independent between batches, but perhaps not within."""
    sums = torch.stack([part.sum() for part in torch.split(values - values.mean(), batch)])
    return math.sqrt(float(sums.square().sum()) * len(sums) / (len(sums) - 1)) / len(values)
