"""The training loop: L_simple, an average of the weights to sample from, and runs that can be resumed exactly.

`fit` does a whole run; `Trainer` takes one step at a time.

All randomness in step k (data, times, noise, dropped labels) comes from generators seeded with (seed, k). So a step is
a function of the weights, the state of the optimiser and k: there is no stream of random numbers to lose, and a run
that was killed and resumed ends with the same bits as one that was not (on the same machine, with the same number of
threads). Dropout inside a network uses torch's global generators, whose states are in the checkpoints.

If `torchrun` has started several processes (see `training.distributed`), together they take the steps of one process on
the same batch, up to rounding: each draws all the randomness of the step, which is cheap, and trains on every size-th
example. So any number of processes may resume a run.

>>> from diffnotes.data import swiss_roll
>>> from diffnotes.training.networks import MLP
>>> config = TrainConfig(steps=200, batch=256, rate=3e-3)
>>> trained = fit(NoiseSchedule.linear(T=1000), MLP(dim=2, T=1000), swiss_roll, config)
>>> len(trained.losses), bool(trained.losses[-10:].mean() < trained.losses[0])
(200, True)
"""

import contextlib
import copy
import dataclasses
import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, cast, get_args, runtime_checkable

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm.auto import tqdm

from diffnotes.arguments import SEEDS, check_integers, check_labels, number, whole
from diffnotes.data import from_bytes
from diffnotes.objective import simple_loss
from diffnotes.schedule import NoisePredictor, NoiseSchedule
from diffnotes.training import distributed
from diffnotes.training.checkpoint import (
    BETAS,
    Tensors,
    alone_in,
    check_shapes,
    list_checkpoints,
    model_bytes,
    read_checkpoint,
    unwrapped,
    write_checkpoint,
)
from diffnotes.training.networks import Network, drop_labels

Times = Literal["uniform", "stratified", "antithetic"]
Decay = Literal["cosine", "constant"]
Batched = tuple[Tensor, Tensor | None]  # examples, and their labels where there are any
# what is minimised: schedule, network, x0, t, noise -> one number per example, as `simple_loss` gives it
Loss = Callable[[NoiseSchedule, NoisePredictor, Tensor, Tensor, Tensor], Tensor]
Net = TypeVar("Net", bound=nn.Module)
# the settings that are real numbers, and where they lie
REALS = {"rate": "(0, inf)", "weight_decay": "[0, inf)", "clip": "(0, inf)", "ema": "[0, 1)", "label_drop": "[0, 1]"}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides how a run goes, besides the schedule, the network and the data.

    Numbers may be NumPy's; they are kept as Python's, which the checkpoints can hold.

    Args:
        steps: optimiser steps.
        batch: examples per step.
        rate: the peak learning rate of AdamW.
        warmup: steps over which the rate rises from 0.
        decay: "cosine", down to 0 at the last step, or "constant".
        weight_decay: of AdamW.
        clip: the largest 2-norm of the gradient over all weights; longer gradients are shortened to it. None: no limit.
        accumulate: how many parts each batch is split into to save memory; the gradient is that of the whole batch, up
            to rounding.
        ema: the decay of the running average, once it has risen to it (see `ema_decay`). The average then looks back
            over about 1 / (1 - ema) steps.
        times: how t is drawn, see `draw_times`.
        label_drop: the probability that a label is replaced by "no label".
        bf16: run the network in bfloat16 under autocast; weights, loss and optimiser stay in float32.
        compile: run the network through torch.compile.
        seed: for everything random.
        save_every: steps between checkpoints, if there is a folder for them.
        keep: how many checkpoints are kept.

    Raises:
        ValueError: a setting is out of range, or of the wrong kind.
    """

    steps: int
    batch: int = 128
    rate: float = 1e-3
    warmup: int = 0
    decay: Decay = "cosine"
    weight_decay: float = 0.0
    clip: float | None = 1.0
    accumulate: int = 1
    ema: float = 0.999
    times: Times = "stratified"
    label_drop: float = 0.0
    bf16: bool = False
    compile: bool = False
    seed: int = 0
    save_every: int = 1000
    keep: int = 2

    def __post_init__(self) -> None:
        kept = vars(self)  # which may be changed, though the attributes are frozen
        for name in ("steps", "batch", "accumulate", "save_every", "keep"):
            kept[name] = whole(name, kept[name])
        kept["warmup"] = whole("warmup", self.warmup, None)
        kept["seed"] = whole("seed", self.seed, *SEEDS)
        for name, within in REALS.items():
            if name != "clip" or self.clip is not None:
                kept[name] = number(name, kept[name], within)
        for name in ("bf16", "compile"):
            if not isinstance(kept[name], bool | np.bool_):
                raise ValueError(f"{name} must be True or False, got {kept[name]!r}")
            kept[name] = bool(kept[name])
        for name, allowed in (("decay", get_args(Decay)), ("times", get_args(Times))):
            if kept[name] not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {kept[name]!r}")
        if not 0 <= self.warmup < self.steps:
            raise ValueError(f"warmup must lie in 0..steps - 1 = 0..{self.steps - 1}, got {self.warmup}")
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate must divide the batch of {self.batch}, got {self.accumulate}")


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate at step 0 .. steps-1: a linear rise over `warmup` steps, then `decay`.

    >>> config = TrainConfig(steps=10, rate=1.0, warmup=2)
    >>> [round(learning_rate(config, step), 3) for step in range(10)]
    [0.5, 1.0, 1.0, 0.962, 0.854, 0.691, 0.5, 0.309, 0.146, 0.038]
    """
    if step < config.warmup:
        return config.rate * (step + 1) / config.warmup
    if config.decay == "constant":
        return config.rate
    gone = (step - config.warmup) / (config.steps - config.warmup)
    return config.rate * (1 + math.cos(math.pi * gone)) / 2


def ema_decay(config: TrainConfig, step: int) -> float:
    """The decay of the running average at step 0 .. steps-1: (1 + step) / (10 + step), at most `ema`.

    Without this rise, the average of a short run would still contain the random initial weights: after 2,000 steps at
    0.999 their share is 0.999^2000 = 0.14, enough to spoil it.

    >>> [round(ema_decay(TrainConfig(steps=10_000, ema=0.99), step), 3) for step in (0, 8, 90, 2000)]
    [0.1, 0.5, 0.91, 0.99]
    """
    return min(config.ema, (1 + step) / (10 + step))


def draw_times(T: int, n: int, how: Times = "uniform", generator: Generator | None = None) -> Int[Tensor, " n"]:
    """n times, each uniform on 1..T, int64, on the generator's device.

    "uniform": independent. "stratified": one from each of n equal slices of the range, in order, so that a batch covers
    it evenly. "antithetic": in pairs t, T+1-t. The last two keep the expectation of the loss and lower its variance, as
    it depends strongly on t (see also Kingma et al. 2021, section 5.3). T < 1, n < 0 or any other `how` is a
    ValueError.

    >>> draw_times(T=4, n=8, how="stratified")
    tensor([1, 1, 2, 2, 3, 3, 4, 4])
    """
    T, n = whole("T", T), whole("n", n, 0)
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(f"generator must be a torch.Generator, got {generator!r}")
    device = generator.device if generator is not None else None
    draw = partial(torch.randint, generator=generator, device=device)
    if how == "uniform":
        return draw(1, T + 1, (n,))
    if how == "stratified":
        # one integer from each of the n runs of T integers below n T; n of these integers belong to each t
        return (torch.arange(n, device=device) * T + draw(0, T, (n,))) // n + 1
    if how == "antithetic":
        half = draw(1, T + 1, ((n + 1) // 2,))
        return torch.cat([half, T + 1 - half])[:n]
    raise ValueError(f"how must be one of {get_args(Times)}, got {how!r}")


# ---- data ----------------------------------------------------------------------------------------------------


@runtime_checkable
class Source(Protocol):
    """Where the examples come from: a function of the step, so that there is nothing to resume."""

    def batch(self, step: int, size: int, seed: int) -> Batched:
        """The examples of this step, shape (size, ...), and their labels or None; the same at every call."""


def _check_examples(name: str, x: Any) -> None:
    """Raise ValueError unless `x` holds examples to train on. Integers other than uint8 may be pixels, or may not."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if not x.ndim or not len(x) or not (x.is_floating_point() or x.dtype == torch.uint8):
        got = f"{tuple(x.shape)} of {x.dtype}"
        raise ValueError(f"{name} must hold floating-point examples of order 1, or pixels as uint8, got {got}")


class Shuffled:
    """A data set in memory, in a new order every epoch; a batch may run over from one epoch into the next.

    Args:
        x: the examples, shape (n, ...), floating point, of order 1; or pixels as uint8, a quarter of the memory and of
            the copying to a GPU, where the trainer turns pixel k of 0 .. 255 into k / 127.5 - 1.
        y: their labels, whole numbers of shape (n,), or None.
        flip: mirror each image left to right with probability 1/2.

    Raises:
        ValueError: an argument is not as above; NumPy arrays are not tensors.
    """

    def __init__(self, x: Tensor, y: Tensor | None = None, *, flip: bool = False) -> None:
        _check_examples("x", x)
        if flip and x.ndim < 3:
            raise ValueError(f"flip must be False unless x holds images, got x of shape {tuple(x.shape)}")
        if y is not None:
            check_integers(y=y)
            if y.shape != x.shape[:1]:
                raise ValueError(f"y must have shape {tuple(x.shape[:1])}, one per example, got {tuple(y.shape)}")
        self.x, self.y, self.flip = x, y, flip

    def batch(self, step: int, size: int, seed: int) -> Batched:
        n, first, parts = len(self.x), step * size, []
        while first < (step + 1) * size:  # first counts examples since the start of training
            epoch, place = divmod(first, n)
            parts.append(_order(n, epoch, seed, self.x.device)[place : place + (step + 1) * size - first])
            first += len(parts[-1])
        index = torch.cat(parts)
        x, y = self.x[index], None if self.y is None else self.y[index]
        if self.flip:
            generator = Generator().manual_seed(seed_of(seed, "flip", step))
            mirrored = (torch.rand(size, generator=generator) < 0.5).to(x.device)
            x = torch.where(mirrored.reshape(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
        return x, y


@lru_cache(maxsize=2)  # as a batch may run over from one epoch into the next
def _order(n: int, epoch: int, seed: int, device: torch.device) -> Tensor:
    """The order in which an epoch shows n examples, which goes to their device once per epoch, not with each batch."""
    return torch.randperm(n, generator=Generator().manual_seed(seed_of(seed, "order", epoch))).to(device)


class Drawn:
    """Endless data: `draw(n, generator)` returns n fresh examples, or (examples, labels), on the CPU."""

    def __init__(self, draw: Callable[[int, Generator], Tensor | tuple[Tensor, Tensor]]) -> None:
        self.draw, self.generator = draw, Generator()

    def batch(self, step: int, size: int, seed: int) -> Batched:
        drawn = self.draw(size, self.generator.manual_seed(seed_of(seed, "data", step)))
        return drawn if isinstance(drawn, tuple) else (drawn, None)


Data = Tensor | tuple[Tensor, Tensor] | Callable[..., Any] | Source


def _source(data: Data) -> Source:
    if isinstance(data, Tensor):
        return Shuffled(data)
    if isinstance(data, tuple) and len(data) == 2:
        return Shuffled(*data)
    if isinstance(data, Source):
        return data
    if not callable(data):
        kind = type(data).__name__
        raise ValueError(f"data must be a tensor, a pair (examples, labels), a function or a Source, got {kind}")
    return Drawn(data)


def seed_of(*key: object) -> int:
    """A seed derived from any key, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1


# ---- training ------------------------------------------------------------------------------------------------


class Trainer(Generic[Net]):
    """A training run, one `step()` at a time; arguments as in `fit`.

    Attributes:
        done: the number of steps taken.
        losses: the loss of every step, shape (config.steps,), float32, on the model's device; NaN for steps to come.
        model: the network as it stands.
        ema: its running average, the one to sample from.
        gradient_norm: of the last step, before clipping: a tensor of shape () on the model's device.
    """

    def __init__(
        self, schedule: NoiseSchedule, model: Net, data: Data, config: TrainConfig, loss: Loss = simple_loss
    ) -> None:
        given, model = model, cast(Net, unwrapped(model))
        first = next(model.parameters(), None)
        if first is None:
            raise ValueError(f"model must have weights to train, got a {type(model).__name__} without any")
        self.device, self.dtype = first.device, first.dtype
        schedule.check_T(model)
        self.classes = model.classes if isinstance(model, Network) else 0
        if config.label_drop and not self.classes:
            raise ValueError(f"label_drop must be 0 for a network without classes, got {config.label_drop}")
        self.rank, self.size = distributed.rank(), distributed.size()
        if config.batch % (config.accumulate * self.size):
            parts = f"{config.accumulate} part(s) for each of {self.size} processes"
            raise ValueError(f"batch must be divisible into {parts}, got {config.batch}")
        self.schedule, self.model, self.config, self.loss = schedule.to(self.device), model, config, loss
        what = getattr(loss, "func", loss)  # a function, or what a functools.partial stands for, or an object
        self.loss_name = getattr(what, "__name__", type(what).__name__)
        self.rows = slice(self.rank, None, self.size)  # the part of each batch that this process trains on
        self.source = _source(data)
        if self.classes and isinstance(self.source, Shuffled) and self.source.y is not None:
            check_labels(self.source.y, self.classes - 1)
        self.together = DistributedDataParallel(model) if self.size > 1 else None
        network = given if self.together is None else self.together
        self.network = torch.compile(network) if config.compile else network
        self.ema = copy.deepcopy(model).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=config.rate, weight_decay=config.weight_decay)
        self.generator = Generator(self.device)
        self.losses = torch.full((config.steps,), math.nan, device=self.device)
        self.gradient_norm = torch.tensor(math.nan, device=self.device)
        self.done = 0
        self.look_every = 1 if self.device.type == "cpu" else 50  # see `step`

    def step(self) -> None:
        """One step of the optimiser.

        Raises:
            ValueError: the loss is not finite; the message names the step. On the CPU this is noticed before the
                weights change; on an accelerator, where the host would have to wait, up to `look_every` steps later,
                but before any checkpoint is written.
        """
        k, config = self.done, self.config
        x0, t, noise, y = self._draw(k)
        self.model.train()
        self.optimiser.zero_grad()
        for i in range(config.accumulate):
            part = slice(i, None, config.accumulate)  # strided, so that each part has its share of every t
            last = i == config.accumulate - 1  # before it, gradients need not be averaged over the processes yet
            with contextlib.nullcontext() if self.together is None or last else self.together.no_sync():
                loss = self._loss(x0[part], t[part], noise[part], None if y is None else y[part]) / config.accumulate
                loss.backward()  # type: ignore[no-untyped-call]
            self.losses[k] = loss.detach() + (self.losses[k] if i else 0)
        distributed.average_(self.losses[k])
        if (k + 1) % self.look_every == 0:
            self.check(k + 1)
        longest = math.inf if config.clip is None else config.clip
        self.gradient_norm = nn.utils.clip_grad_norm_(self.model.parameters(), longest)
        self.optimiser.param_groups[0]["lr"] = learning_rate(config, k)
        self.optimiser.step()
        average = get_ema_multi_avg_fn(ema_decay(config, k))  # type: ignore[no-untyped-call]
        average(list(self.ema.parameters()), list(self.model.parameters()), None)
        self.done += 1

    def check(self, upto: int | None = None) -> None:
        """Raise ValueError, naming the step, if a loss before step `upto` (default: `done`) is not finite."""
        upto = self.done if upto is None else upto
        bad = (~self.losses[:upto].isfinite()).nonzero()
        if len(bad):
            k = int(bad[0])
            raise ValueError(
                f"the loss must be finite, got {float(self.losses[k])} at step {k + 1} of {self.config.steps}: "
                "a smaller rate, warm-up or clipping may help; or perhaps the data are not of order 1"
            )

    def _draw(self, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Everything random in step k: this process's rows of the batch, its times, its noise and its labels."""
        config, generator = self.config, self.generator.manual_seed(seed_of(self.config.seed, "step", k))
        if self.size > 1:  # randomness inside the network is different in every process
            torch.manual_seed(seed_of(config.seed, "inside", k, self.rank))
        x0, y = self.source.batch(k, config.batch, config.seed)
        _check_examples("data", x0)
        x0 = self._here(x0[self.rows])
        x0 = (from_bytes(x0) if x0.dtype == torch.uint8 else x0).to(self.dtype)
        t = draw_times(self.schedule.T, config.batch, config.times, generator)
        shape = (config.batch, *x0.shape[1:])
        noise = torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)
        if y is not None:
            check_integers(y=y)
            if self.classes:
                check_labels(y, self.classes - 1)
            y = self._here(y)
            if config.label_drop:
                y = drop_labels(y, config.label_drop, self.classes, generator)
            y = y[self.rows]
        return x0, t[self.rows], noise[self.rows], y

    def _here(self, x: Tensor) -> Tensor:
        """`x` on the device. From page-locked memory it is copied to a GPU without the host waiting."""
        locked = x.pin_memory() if self.device.type == "cuda" and x.device.type == "cpu" else x
        return locked.to(self.device, non_blocking=True)

    def _loss(self, x0: Tensor, t: Tensor, noise: Tensor, y: Tensor | None) -> Tensor:
        model = self.network if y is None else partial(self.network, y=y)
        bf16 = torch.autocast(self.device.type, torch.bfloat16) if self.config.bf16 else contextlib.nullcontext()
        with bf16:
            return self.loss(self.schedule, model, x0, t, noise).mean()

    # ---- checkpoints ------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint (see `training.checkpoint`) and delete old ones; of several processes, only rank 0 does.

        Raises:
            ValueError: a loss was not finite; such a state is not saved.
            OSError: the checkpoint could not be written; earlier ones are intact.
        """
        self.check()
        if self.rank:
            return
        state = {"step": self.done, "schedule": repr(self.schedule), "network": type(self.model).__name__}
        state |= {"train": dataclasses.asdict(self.config), "loss": self.loss_name}
        files = {
            "weights.safetensors": model_bytes(self.model, self.schedule),
            "ema.safetensors": model_bytes(self.ema, self.schedule),
            "optimiser.safetensors": safetensors.torch.save(self._tensors()),
            "state.json": json.dumps(state, indent=1).encode(),
        }
        write_checkpoint(Path(folder), self.done, files, self.config.keep)

    def _tensors(self) -> dict[str, Tensor]:
        """Everything a run needs besides the weights, as a flat dictionary."""
        moments = {
            f"adam.{i}.{name}": value.contiguous()
            for i, state in self.optimiser.state_dict()["state"].items()
            for name, value in state.items()
        }
        random = {"random.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["random.cuda"] = torch.cuda.get_rng_state(self.device)
        return {**moments, **random, "losses": self.losses[: self.done]}

    def load(self, path: Path) -> None:
        """Continue from the checkpoint at `path`; if it raises, nothing has changed.

        Raises:
            ValueError: the checkpoint is damaged, or belongs to another network, schedule or loss or to a longer run.
        """
        state, files = read_checkpoint(path)
        try:
            weights, ema, rest = (files[f"{name}.safetensors"] for name in ("weights", "ema", "optimiser"))
            done, train, betas = state["step"], state["train"], weights.pop(BETAS)
            loss = state.get("loss", simple_loss.__name__)
            del ema[BETAS]
            losses, random = rest["losses"], rest["random.cpu"]
        except KeyError as error:
            raise ValueError(f"checkpoint {path} is incomplete: it has no {error}") from error
        check_shapes(path, weights, self.model)
        check_shapes(path, ema, self.model)
        if not torch.equal(betas, self.schedule.betas[1:].cpu()):
            raise ValueError(f"{path} was trained for {NoiseSchedule(betas)!r}, got {self.schedule!r}")
        if loss != self.loss_name:
            raise ValueError(f"{path} was trained with {loss}, got {self.loss_name}")
        if done > self.config.steps:
            raise ValueError(f"{path} is at step {done}, beyond the {self.config.steps} steps asked for")
        self._warn_of_changes(path, train)
        self.optimiser.load_state_dict(self._moments(rest))
        self.model.load_state_dict(weights)
        self.ema.load_state_dict(ema)
        self.losses[:done] = losses.to(self.device)
        self.done = done
        torch.set_rng_state(random)
        if self.device.type == "cuda" and "random.cuda" in rest:
            torch.cuda.set_rng_state(rest["random.cuda"], self.device)

    def _moments(self, rest: Tensors) -> dict[str, Any]:
        """Adam's state in the form for `load_state_dict`, each tensor laid out in memory like its weight."""
        state: dict[int, dict[str, Tensor]] = {}
        for i, weight in enumerate(self.model.parameters()):
            found = {key.split(".")[2]: value for key, value in rest.items() if key.startswith(f"adam.{i}.")}
            for name, value in found.items():
                if value.shape == weight.shape:
                    found[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
            state[i] = found
        return {"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]}

    def _warn_of_changes(self, path: Path, train: dict[str, Any]) -> None:
        now = dataclasses.asdict(self.config)
        free = {"save_every", "keep", "compile"}  # these do not change the numbers (compile: not on purpose)
        changed = [f"{k} {train.get(k)} -> {now[k]}" for k in now if k not in free and train.get(k) != now[k]]
        if changed:
            warnings.warn(f"resumed from {path} with other settings: {', '.join(changed)}", stacklevel=4)

    def resume(self, folder: str | Path) -> bool:
        """Continue from the newest usable checkpoint in `folder`; False if it holds no checkpoint at all.

        A newer one that cannot be used is passed over with a warning that says why; if none can, that is a ValueError.
        """
        refused: list[str] = []
        for path in reversed(list_checkpoints(Path(folder))):
            try:
                self.load(path)
            except ValueError as error:
                refused.append(str(error))
                continue
            for reason in refused:
                warnings.warn(f"passed over a checkpoint: {reason}", stacklevel=2)
            return True
        if refused:
            raise ValueError(f"no checkpoint in {folder} can be used: {'; '.join(refused)}")
        return False


@dataclass(frozen=True)
class Trained(Generic[Net]):
    """What `fit` returns; both networks are in evaluation mode."""

    model: Net  # after the last step
    ema: Net  # its running average: the one to sample from
    losses: Float[Tensor, " steps"]  # float32, on the CPU

    @property
    def final_loss(self) -> float:
        """The mean over the last eighth of the steps."""
        return float(self.losses[-len(self.losses) // 8 :].mean())


def fit(
    schedule: NoiseSchedule,
    model: Net,
    data: Data,
    config: TrainConfig,
    *,
    loss: Loss = simple_loss,
    folder: str | Path | None = None,
    callbacks: Iterable[Callable[[Trainer[Net]], None]] = (),
    progress: bool = False,
) -> Trained[Net]:
    """Train `model` to predict the noise: minimise L_simple (Ho et al. 2020, algorithm 1).

    Args:
        model: the network, on the device to train on; its weights are changed in place.
        data: a tensor of examples (n, ...), such a tensor and labels (n,), a sampler `draw(n, generator)`, or any
            `Source`.
        loss: a function to minimise in place of L_simple, with the arguments and the result of `simple_loss`.
        folder: for checkpoints, from which a stopped run resumes. Several processes, on one machine or many, must all
            see it.
        callbacks: called with the `Trainer` after every step.
        progress: show a bar with the loss.

    Raises:
        ValueError: the loss is not finite (see `Trainer.step`); schedule, network and config do not match; the data are
            of another kind, such as integers other than uint8 (see `Shuffled`), or their labels are not classes of the
            network, 0 .. classes-1; or the folder holds checkpoints, but none that can be used.
        OSError: a checkpoint could not be written (earlier ones are intact), or another run is using the folder.
    """
    trainer = Trainer(schedule, model, data, config, loss)
    callbacks = list(callbacks or ())  # which may be an iterator, and are gone through after every step
    progress = progress and trainer.rank == 0
    with contextlib.ExitStack() as stack:
        if folder is not None:
            if trainer.rank == 0:
                stack.enter_context(alone_in(Path(folder)))
            trainer.resume(folder)
            distributed.agree(f"the step to go on from in {folder}", trainer.done)
        bar = stack.enter_context(tqdm(total=config.steps, initial=trainer.done, disable=not progress, unit="step"))
        while trainer.done < config.steps:
            trainer.step()
            for callback in callbacks:
                callback(trainer)
            if folder is not None and (trainer.done % config.save_every == 0 or trainer.done == config.steps):
                trainer.save(folder)
            bar.update()
            if progress and trainer.done % 50 == 0:
                bar.set_postfix(loss=f"{float(trainer.losses[trainer.done - 50 : trainer.done].mean()):.4f}")
    trainer.check()
    return Trained(model.eval(), trainer.ema.eval(), trainer.losses.cpu())
