"""Draw book/images/forward.png, the picture on the front page: `python tools/picture.py`."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from diffnotes import data
from diffnotes.book import plots
from diffnotes.forward import q_sample
from diffnotes.schedule import NoiseSchedule

TARGET = Path(__file__).resolve().parent.parent / "book" / "images" / "forward.png"


def main() -> None:
    """A spiral and the prior it becomes; each point keeps the colour of its place on the spiral."""
    plots.use_style()
    generator = torch.Generator().manual_seed(0)
    schedule = NoiseSchedule.linear(T=1000)
    x0 = data.swiss_roll(4000, generator)
    colour = x0.norm(dim=1)  # grows along the spiral
    fig, axes = plt.subplots(1, 5, figsize=(10, 2.3))
    for ax, t in zip(axes, (0, 50, 150, 300, 1000), strict=True):
        noise = torch.randn(x0.shape, generator=generator)
        x_t = q_sample(schedule, x0, t, noise) if t else x0
        ax.scatter(*x_t.T, s=3, c=colour, cmap="cividis", linewidths=0)
        ax.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal", xticks=[], yticks=[])
        ax.set_title(f"$t = {t}$", fontsize=12)
        ax.spines[:].set_visible(False)
    TARGET.parent.mkdir(exist_ok=True)
    fig.savefig(TARGET, dpi=120, metadata={"Software": ""})


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(f"usage: python tools/picture.py, without arguments, got {' '.join(sys.argv[1:])}")
    main()
