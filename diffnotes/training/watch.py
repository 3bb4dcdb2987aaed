"""Watch a run while it trains: metrics, line by line, and pictures of samples.

Both are callbacks for `fit`. They only look: a run ends with the same bits with or without them.

>>> import tempfile
>>> from diffnotes.data import swiss_roll
>>> from diffnotes.training.networks import MLP
>>> from diffnotes.schedule import NoiseSchedule
>>> from diffnotes.training.loop import TrainConfig, fit
>>> folder = tempfile.TemporaryDirectory()
>>> metrics = Metrics(folder.name, every=50)
>>> _ = fit(NoiseSchedule.linear(T=100), MLP(dim=2, T=100), swiss_roll, TrainConfig(steps=100), callbacks=[metrics])
>>> [json.loads(line)["step"] for line in metrics.path.read_text().splitlines()]
[50, 100]
>>> folder.cleanup()
"""

import io
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Generator

from diffnotes.arguments import check_floating, whole, whole_numbers
from diffnotes.data import to_bytes
from diffnotes.ddim import ddim_sample
from diffnotes.guidance import guided
from diffnotes.training.checkpoint import write_file
from diffnotes.training.loop import Trainer
from diffnotes.training.networks import Image as Images
from diffnotes.training.networks import Network


class Metrics:
    """Every `every` steps, write one line of JSON to FOLDER/metrics.jsonl.

    It has the `step`; the mean `loss` since the previous line (per coordinate: about 1 for an untrained network); the
    learning `rate` and the `gradient_norm` (2-norm, before clipping) of the step; and `images_per_second` since the
    previous line. A line is written in one call, so if a process is killed, at most the last line is incomplete. A
    resumed run removes such a line, and the lines of steps that it will take again. A foreign file is set aside.
    """

    def __init__(self, folder: str | Path, every: int = 50) -> None:
        whole("every", every)
        self.path, self.every = Path(folder) / "metrics.jsonl", every
        self._last: tuple[int, float] | None = None  # step and time of the previous line

    def __call__(self, trainer: Trainer[Any]) -> None:
        self._last = self._last or self._start(trainer.done - 1)
        if trainer.done % self.every and trainer.done < trainer.config.steps:
            return
        (before, then), now = self._last, time.perf_counter()
        steps = trainer.done - before
        values = {
            "step": trainer.done,
            "loss": float(trainer.losses[before : trainer.done].mean()),
            "rate": trainer.optimiser.param_groups[0]["lr"],
            "gradient_norm": float(trainer.gradient_norm),
            "images_per_second": steps * trainer.config.batch / (now - then),
        }
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with open(self.path, "ab", buffering=0) as file:
            file.write(json.dumps(finite).encode() + b"\n")
        self._last = trainer.done, now

    def _start(self, done: int) -> tuple[int, float]:
        """Begin after step `done`: keep only the complete lines up to it. Returns what `_last` is then."""
        old = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        kept = [line for line in old if line.endswith(b"\n") and _step_of_line(line) <= done]
        if kept != old:
            if not kept or any(line.endswith(b"\n") and _step_of_line(line) == math.inf for line in old):
                self.path.rename(f"{self.path}.old-{time.time_ns()}")  # another tool's, or of another run
            write_file(self.path, b"".join(kept))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return done, time.perf_counter()


def _step_of_line(line: bytes) -> int | float:
    """The step of a line of metrics; infinity if it is not one."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class Pictures:
    """Every `every` steps, save a picture of samples to FOLDER/samples, from the same x_T each time.

    They are drawn by DDIM in 50 steps with the averaged weights: eight rows, with one column per class, or 10.

    Args:
        shape: of an image, (channels, height, width), with 1 or 3 channels, or ValueError.
    """

    def __init__(self, folder: str | Path, every: int, shape: Sequence[int]) -> None:
        every, shape = whole("every", every), whole_numbers("shape", shape)
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(f"shape must be (1 or 3, height, width), got {tuple(shape)}")
        self.folder, self.every, self.shape = Path(folder), every, shape

    def __call__(self, trainer: Trainer[Any]) -> None:
        if trainer.done % self.every and trainer.done < trainer.config.steps:
            return
        net = trainer.ema.eval()
        classes = net.classes if isinstance(net, Network) else 0
        columns = classes or 10
        generator = Generator(trainer.device).manual_seed(0)
        x_T = torch.randn(8 * columns, *self.shape, generator=generator, device=trainer.device, dtype=trainer.dtype)
        y = torch.arange(len(x_T), device=trainer.device) % columns
        x = ddim_sample(trainer.schedule, guided(net, y) if classes else net, x_T, steps=50, clip=1.0)
        write_file(self.folder / "samples" / f"step-{trainer.done:08d}.png", png(x, columns))


def png(x: Images, columns: int) -> bytes:
    """A PNG file that shows images in rows of `columns`, in order, 2 white pixels apart.

    Args:
        x: shape (n, channels, height, width) on [-1, 1], with 1 channel (grey) or 3 (red, green, blue).

    Raises:
        ValueError: x is not floating point or of another shape; no image; or columns < 1.
    """
    check_floating(x=x)
    columns = whole("columns", columns)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not len(x):
        raise ValueError(f"x must hold images with 1 or 3 channels, got shape {tuple(x.shape)}")
    n, channels, height, width = x.shape
    rows, gap = -(-n // columns), 2
    size = columns * (width + gap) - gap, rows * (height + gap) - gap
    sheet = Image.new("L" if channels == 1 else "RGB", size, "white")
    for i, image in enumerate(to_bytes(x.float()).permute(0, 2, 3, 1).squeeze(3).cpu().numpy()):
        row, column = divmod(i, columns)
        sheet.paste(Image.fromarray(image), (column * (width + gap), row * (height + gap)))
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()
