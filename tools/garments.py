"""Draw the pictures that chapter 5's figure moves through: `python -m tools.garments`, about two minutes on one core.

Six starts, each with its class, through the network that comes with the package, for four numbers of steps (rows) and
four values of eta (blocks of columns). They go side by side into one grey PNG, a byte a pixel, black as -1.
"""

import numpy as np
import torch
from PIL import Image

from diffnotes.data import to_bytes
from diffnotes.ddim import ddim_sample
from diffnotes.guidance import guided
from diffnotes.training.checkpoint import load_model
from tools.stills import GARMENTS, SHEET, normals

SIDE = SHEET.side


def main() -> None:
    net, schedule, _ = load_model("fashion")
    labels = torch.tensor(SHEET.labels)
    model = guided(net, labels)
    x_T = normals(41, len(labels), SIDE * SIDE).reshape(-1, 1, SIDE, SIDE).float()
    sheet = np.zeros((len(SHEET.steps) * SIDE, len(SHEET.etas) * len(labels) * SIDE), np.uint8)
    for row, steps in enumerate(SHEET.steps):
        for block, eta in enumerate(SHEET.etas):
            generator = torch.Generator().manual_seed(steps)
            x0 = ddim_sample(schedule, model, x_T, steps, eta, spacing="linspace", clip=1.0, generator=generator)
            for i, picture in enumerate(to_bytes(x0)[:, 0].numpy()):
                left = (block * len(labels) + i) * SIDE
                sheet[row * SIDE : (row + 1) * SIDE, left : left + SIDE] = picture
    Image.fromarray(sheet).save(GARMENTS, optimize=True)
    print(f"{GARMENTS.name}: {GARMENTS.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
