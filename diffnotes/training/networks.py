"""Networks that predict the noise: an MLP for points, a U-Net for images.

A network is a plain callable, `eps = net(x_t, t)`, or `net(x_t, t, y)` with classes, so it and the exact models of
`mixture` are interchangeable in every sampler and every loss. Three conventions:

- **Inputs are of order 1.** Images lie in [-1, 1] and points have about unit variance. Then so has x_t at every t, and
  no layer needs a scale of its own.
- **Time is relative.** A network knows the T of its schedule and looks at t / T, so a network for T = 100 sees the same
  range as one for T = 1000. (Most code feeds t itself to frequencies that suit T = 1000; at T = 100, nine tenths of
  the range are then never seen.)
- **No randomness inside**, unless `dropout` is set: the trainer drops labels, not the network.

>>> net = MLP(dim=2, T=1000)
>>> net(torch.zeros(5, 2), torch.tensor([1, 10, 100, 500, 1000])).shape
torch.Size([5, 2])
>>> image_net = UNet(channels=1, T=1000, classes=10)
>>> round(sum(p.numel() for p in image_net.parameters()) / 1e6, 1)  # millions of weights
2.0
"""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffnotes.arguments import check_batch, check_integers, check_labels, number, per_example, whole, whole_numbers
from diffnotes.schedule import Batch, Labels, Time

Image = Float[Tensor, "batch channels height width"]
Maps = Float[Tensor, "batch _ height width"]  # any number of channels
Vector = Float[Tensor, "batch features"]
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def time_embedding(t: Int[Tensor, " batch"], T: int, width: int, dtype: torch.dtype = torch.float32) -> Vector:
    """sin and cos of 1000 t / T times `width / 2` frequencies from 1 down to 1e-4, shape (batch, width).

    At T = 1000 this is the embedding of Ho et al. 2020, appendix B (after Vaswani et al. 2017, section 3.5): the
    fastest pair of columns turns by 1 radian per step, the slowest by 0.1 over all steps. `width` is even and at
    least 4, as `Condition` ensures. `dtype` is float32 or wider: bfloat16 cannot tell t = 999 from t = 1000.

    >>> early, late = time_embedding(torch.tensor([1, 1000]), T=1000, width=4)
    >>> early  # sin 1, sin 1e-4, cos 1, cos 1e-4
    tensor([8.4147e-01, 1.0000e-04, 5.4030e-01, 1.0000e+00])
    >>> torch.equal(time_embedding(torch.tensor([100]), T=100, width=4)[0], late)
    True
    """
    check_integers(t=t)
    T, width = whole("T", T), whole("width", width, 4)
    if width % 2:
        raise ValueError(f"width must be even, got {width}")
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=t.device, dtype=dtype) * (-math.log(1e4) / (half - 1)))
    angles = (1000 / T * t.to(dtype)).unsqueeze(1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Condition(nn.Module):
    """What a network is told besides x_t, as one vector: the time, and the class if there are classes.

    Labels are 0 .. classes-1, and `classes` means "no label": a dropped label in training, or y left out of a call. So
    one network answers with and without the class, as classifier-free guidance needs (Ho, Salimans 2022).
    """

    def __init__(self, T: int, width: int, classes: int = 0) -> None:
        super().__init__()
        T, classes, width = whole("T", T), whole("classes", classes, 0), whole("width", width)
        if width < 4 or width % 2:
            raise ValueError(f"the width of the time embedding must be even and at least 4, got {width}")
        self.T, self.width, self.classes = T, width, classes
        self.time = nn.Linear(width, width)
        self.label = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, x: Batch, t: Time, y: Labels | None = None) -> Vector:
        t = per_example(t, self.T, x)
        wide = torch.promote_types(x.dtype, torch.float32)
        h = self.time(time_embedding(t, self.T, self.width, wide).to(x.dtype))
        if self.label is not None:
            h = h + self.label(torch.full_like(t, self.classes) if y is None else self._checked(y, t))
        elif y is not None:
            raise ValueError(f"y must be None for a network made with classes=0, got {y!r}")
        return F.silu(h)

    def _checked(self, y: Tensor, t: Tensor) -> Tensor:
        """`y` as int64, its values checked if that neither waits for a device nor breaks a compiled graph."""
        check_labels(y, self.classes, f" ({self.classes} = no label)")
        if y.shape != t.shape:
            raise ValueError(f"y must have shape {tuple(t.shape)}, one per example of x_t, got {tuple(y.shape)}")
        return y.long()


class Network(nn.Module):
    """A noise predictor that can be rebuilt from its name and `config`: `type(net)(**net.config)`."""

    config: dict[str, Any]
    condition: Condition

    @property
    def T(self) -> int:
        """The number of steps of the schedule the network is for."""
        return self.condition.T

    @property
    def classes(self) -> int:
        """The number of classes, or 0; used as a label, it means "no label"."""
        return self.condition.classes


class MLP(Network):
    """`depth` hidden layers of `width`, each scaled and shifted by the time: for points, or anything small.

    Args:
        dim: the number of coordinates of one example, whatever its shape.
        T: the number of steps of the schedule.
        classes: labels y run over 0 .. classes-1, and y = classes means "no label"; 0 means no labels at all.

    The last layer starts at zero, so an untrained network predicts no noise and its loss is 1.
    """

    def __init__(self, dim: int, T: int, width: int = 128, depth: int = 3, classes: int = 0) -> None:
        super().__init__()
        dim, width, depth = whole("dim", dim), whole("width", width), whole("depth", depth)
        self.dim = dim
        self.condition = Condition(T, 64, classes)
        self.config = {"dim": dim, "T": self.T, "width": width, "depth": depth, "classes": self.classes}
        self.modulation = nn.Linear(self.condition.width, 2 * depth * width)
        self.hidden = nn.ModuleList(nn.Linear(width if i else dim, width) for i in range(depth))
        self.out = _zeroed(nn.Linear(width, dim))

    def forward(self, x_t: Batch, t: Time, y: Labels | None = None) -> Batch:
        """The noise in `x_t`, shaped like it; computed in the dtype of the weights.

        Raises:
            ValueError: `x_t` is not floating point or does not have `dim` coordinates; t or y is not of shape (batch,)
                or is out of range (values are checked on the CPU only).
        """
        check_batch(x_t=x_t)
        h: Tensor = x_t.flatten(1).to(self.out.weight.dtype)
        if h.shape[1] != self.dim:
            raise ValueError(f"x_t must have {self.dim} coordinates per example, got {tuple(x_t.shape)}")
        scales, shifts = self.modulation(self.condition(h, t, y)).chunk(2, dim=1)
        layers = zip(self.hidden, scales.chunk(len(self.hidden), 1), shifts.chunk(len(self.hidden), 1), strict=True)
        for layer, scale, shift in layers:
            h = F.silu(layer(h) * (1 + scale) + shift)
        eps: Tensor = self.out(h)
        return eps.to(x_t.dtype).reshape(x_t.shape)


class ResidualBlock(nn.Module):
    """x plus a correction: group norm, SiLU and a 3x3 convolution, twice; time scales and shifts the second norm.

    The second convolution starts at zero, so a new block is the identity (up to `skip`). For scale and shift see
    Dhariwal, Nichol 2021, section 3 ("adaptive group normalization").
    """

    def __init__(self, channels: int, out_channels: int, condition: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(channels), _norm(out_channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.conv2 = _zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.modulation = nn.Linear(condition, 2 * out_channels)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Maps, condition: Vector) -> Maps:
        scale, shift = self.modulation(condition).unflatten(1, (-1, 1, 1)).chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = F.silu(self.norm2(h) * (1 + scale) + shift)
        out: Tensor = self.skip(x) + self.conv2(self.dropout(h))
        return out


class Attention(nn.Module):
    """x plus what each pixel gathers from all the others: self-attention with one head per 64 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = math.gcd(channels, max(1, channels // 64))
        self.norm = _norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = _zeroed(nn.Linear(channels, channels))

    def forward(self, x: Maps) -> Maps:
        tokens = self.norm(x).flatten(2).mT  # (batch, pixels, channels)
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        gathered: Tensor = self.out(h).mT
        return x + gathered.reshape(x.shape)


class UNet(Network):
    """Residual blocks on the way down and up again, joined level by level, with attention at the lowest resolution.

    Args:
        channels: of the image.
        T: the number of steps of the schedule.
        width: channels at full resolution; level i has `width * multipliers[i]` of them and 1 / 2^i of the side.
        blocks: residual blocks per level, on the way down and on the way up.
        classes: labels y run over 0 .. classes-1, and y = classes means "no label"; 0 means no labels at all.
        dropout: inside the residual blocks, in training mode (0.1 for CIFAR-10 in Ho et al. 2020, appendix B).

    The sides of the image must be divisible by 2^(levels - 1); apart from that, one network serves every size. The last
    convolutions start at zero, so an untrained network predicts no noise and its loss is 1. The network is made for
    `memory_format=torch.channels_last` and bfloat16 autocast.

    Source: the standard parts of Ho et al. 2020, appendix B, with the time as scale and shift.
    """

    def __init__(
        self,
        channels: int,
        T: int,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 1,
        classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels, width, blocks = whole("channels", channels), whole("width", width), whole("blocks", blocks)
        multipliers, dropout = whole_numbers("multipliers", multipliers), number("dropout", dropout, "[0, 1]")
        if min(multipliers, default=0) < 1:
            raise ValueError(f"multipliers must be one or more numbers, each at least 1, got {multipliers}")
        self.condition = Condition(T, 2 * width, classes)
        self.config = {
            "channels": channels,
            "T": self.T,
            "width": width,
            "multipliers": multipliers,
            "blocks": blocks,
            "classes": self.classes,
            "dropout": dropout,
        }

        def block(c_in: int, c_out: int) -> ResidualBlock:
            return ResidualBlock(c_in, c_out, self.condition.width, dropout)

        c = [width * m for m in multipliers]
        above = [width, *c[:-1]]  # channels arriving at each level from the one above
        below = [*c[1:], c[-1]]  # and from the one below
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList(
            nn.ModuleList(block(c[i] if k else above[i], c[i]) for k in range(blocks)) for i in range(len(c))
        )
        self.shrink = nn.ModuleList(nn.Conv2d(ch, ch, 3, stride=2, padding=1) for ch in c[:-1])
        self.middle = nn.ModuleList([block(c[-1], c[-1]), Attention(c[-1]), block(c[-1], c[-1])])
        self.grow = nn.ModuleList(nn.Conv2d(ch, ch, 3, padding=1) for ch in below[:-1])
        self.up = nn.ModuleList(
            nn.ModuleList(block((c[i] if k else below[i]) + c[i], c[i]) for k in range(blocks)) for i in range(len(c))
        )
        self.norm = _norm(c[0])
        self.out = _zeroed(nn.Conv2d(c[0], channels, 3, padding=1))

    def forward(self, x_t: Image, t: Time, y: Labels | None = None) -> Image:
        """The noise in `x_t`, shaped like it; computed in the dtype of the weights, or of autocast.

        Raises:
            ValueError: `x_t` is not floating point, or has other channels or a side of the wrong size; t or y is not of
                shape (batch,) or is out of range (values are checked on the CPU only).
        """
        check_batch(x_t=x_t)
        channels, factor = self.config["channels"], 2 ** len(self.shrink)
        if x_t.ndim != 4 or x_t.shape[1] != channels or x_t.shape[2] % factor or x_t.shape[3] % factor:
            raise ValueError(
                f"x_t must have {channels} channel(s) and sides divisible by {factor}, got shape {tuple(x_t.shape)}"
            )
        h = x_t.to(self.out.weight.dtype)
        condition = self.condition(h, t, y)
        h, skips = self.stem(h), []
        for i, level in enumerate(self.down):
            for block in level.children():
                h = block(h, condition)
                skips.append(h)
            if i < len(self.shrink):
                h = self.shrink[i](h)
        first, attention, second = self.middle
        h = second(attention(first(h, condition)), condition)
        for i in reversed(range(len(self.up))):
            if i < len(self.grow):
                h = self.grow[i](F.interpolate(h, scale_factor=2.0, mode="nearest"))
            for block in self.up[i].children():
                h = block(torch.cat([h, skips.pop()], dim=1), condition)
        eps: Tensor = self.out(F.silu(self.norm(h)))
        return eps.to(x_t.dtype)


NETWORKS: dict[str, type[Network]] = {"MLP": MLP, "UNet": UNet}  # those a weights file may name


def drop_labels(y: Labels, probability: float, no_label: int, generator: torch.Generator | None = None) -> Labels:
    """`y` with each label replaced by `no_label` with this probability, for guidance (Ho, Salimans 2022)."""
    check_integers(y=y)
    probability, no_label = number("probability", probability, "[0, 1]"), whole("no_label", no_label, 0)
    dropped = torch.rand(y.shape, generator=generator, device=y.device) < probability
    return torch.where(dropped, no_label, y.long())


def _norm(channels: int) -> nn.GroupNorm:
    """Group norm in at most 32 groups of at least 4 channels; a single group if 4 does not divide the channels."""
    return nn.GroupNorm(math.gcd(channels // 4, 32) if channels % 4 == 0 else 1, channels)


def _zeroed(layer: Layer) -> Layer:
    """The layer with weights and bias 0."""
    for weights in layer.parameters():
        nn.init.zeros_(weights)
    return layer
