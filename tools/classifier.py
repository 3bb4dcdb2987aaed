"""Train the classifier that comes with the package; `diffnotes.training.classifier` says what it is for.

    python tools/classifier.py --out diffnotes/weights/fashion_classifier.safetensors

needs the training set of Fashion-MNIST (see `diffnotes.data.fashion_mnist`), and measures the accuracy on the test set.
"""

import shlex
import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from diffnotes.training.options import Parser, at_least, one_line, seed

if __name__ == "__main__":
    with one_line("classifier"):
        import torch  # already here, as it takes seconds in which one may press Ctrl-C

import torch
import torch.nn.functional as F
from torch import Generator
from tqdm.auto import tqdm

from diffnotes.arguments import SEEDS, whole
from diffnotes.data import Images, fashion_mnist
from diffnotes.training.checkpoint import SUFFIX, TORCH, check_target, save_weights
from diffnotes.training.classifier import Classifier, accuracy, checked

BATCH = 128
SETTINGS = {"rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}  # for gradient descent


def train_classifier(images: Images, epochs: int, seed: int = 0, progress: bool = False) -> Classifier:
    """A classifier trained on `images`, on their device, each shown once per epoch and mirrored at random.

    The rate of gradient descent with momentum rises for a quarter of the run and then falls to zero (OneCycleLR). The
    arithmetic is bfloat16, the weights are float32. On one machine, the result is a function of the arguments.

    Raises:
        ValueError: no images, images or labels of a wrong type, fewer than five steps, or a loss that is not finite.
    """
    x, y = checked(images)
    epochs, seed, batch = whole("epochs", epochs), whole("seed", seed, *SEEDS), min(BATCH, len(x))
    steps = epochs * (len(x) // batch)
    if steps < 5:
        raise ValueError(f"epochs must make 5 steps or more, got {epochs} of {len(x) // batch} steps each")
    torch.manual_seed(seed)  # for the initial weights
    generator = Generator().manual_seed(seed)  # for the order and the mirroring
    network = Classifier(channels=x.shape[1], classes=int(y.max()) + 1).to(x.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(
        network.parameters(), SETTINGS["rate"], SETTINGS["momentum"], 0.0, SETTINGS["weight_decay"], True
    )
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, SETTINGS["rate"], steps, pct_start=0.25, cycle_momentum=False
    )
    losses = x.new_empty(steps)
    for k in tqdm(range(steps), unit="step", disable=not progress):
        if (i := k % (steps // epochs)) == 0:
            order = torch.randperm(len(x), generator=generator)
        mirror = (torch.rand(batch, 1, 1, 1, generator=generator) < 0.5).to(x.device)
        these = order[i * batch : (i + 1) * batch].to(x.device)
        seen = torch.where(mirror, x[these].flip(3), x[these]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16):
            loss = F.cross_entropy(network(seen).float(), y[these])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        rates.step()
        losses[k] = loss.detach()
    if not bool(losses.isfinite().all()):
        raise ValueError(f"the loss must be finite, but is not from step {int((~losses.isfinite()).nonzero()[0])} on")
    return network.eval()


def main(argv: list[str]) -> None:
    """Train on the training set, test on the test set, and save the weights with the accuracy."""
    parser = Parser(prog="python tools/classifier.py", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the weights file to write (.safetensors)")
    parser.add_argument("--epochs", type=at_least(1), default=12, help="how often each image is shown (default 12)")
    parser.add_argument("--seed", type=seed, default=0, help="the seed of all random numbers (default 0)")
    arguments = parser.parse_args(argv)
    check_target(arguments.out, SUFFIX)
    torch.set_num_threads(1)  # the order of sums depends on it, and so do the last bits
    network = train_classifier(fashion_mnist("train", progress=True), arguments.epochs, arguments.seed, progress=True)
    network = network.half().float()  # as they will be stored
    reached = accuracy(network, fashion_mnist("test"))
    provenance = {
        "command": shlex.join(["python", "tools/classifier.py", *argv]),
        "data": "diffnotes.data.fashion_mnist",
        "settings": {**SETTINGS, "batch": BATCH, "epochs": arguments.epochs, "seed": arguments.seed},
        "accuracy": reached,
        "accuracy is": "the share of the 10,000 test images that are given their own class, by the weights as stored",
        "torch": TORCH,
    }
    save_weights(arguments.out, network, provenance, torch.float16)
    print(f"{arguments.out}: {100 * reached:.2f}% of the test images are classified correctly")


if __name__ == "__main__":
    with one_line("classifier"):
        main(sys.argv[1:])
