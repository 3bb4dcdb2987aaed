"""A small classifier for the garments of Fashion-MNIST, by which generated images are judged.

Pixels are a poor way to compare sets of images: for them a coat moved by one pixel is a new image, and a grey blur is
close to everything. A network trained to tell ten kinds of garment apart has learnt what matters, and its last but one
layer says it in 64 numbers, the **features**. The Fréchet distance compares the features of generated and real images
(`diffnotes.metrics.frechet_distance`); the last layer says which garment an image shows, and so whether a conditional
model made what it was asked for.

The weights that ship with the package were made by this command:

    python -m diffnotes.training.classifier --out diffnotes/weights/fashion_classifier.safetensors

>>> network, provenance = load_classifier("fashion_classifier")
>>> images = torch.zeros(3, 1, 28, 28)
>>> network.features(images).shape, network(images).shape
(torch.Size([3, 64]), torch.Size([3, 10]))
>>> 0.92 < provenance["accuracy"] < 1
True
"""

import shlex
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

from diffnotes.arguments import SEEDS, check_batch, check_integers, whole
from diffnotes.data import Images, fashion_mnist
from diffnotes.schedule import Labels
from diffnotes.training.checkpoint import SUFFIX, TORCH, check_target, load_weights, save_weights
from diffnotes.training.networks import Image
from diffnotes.training.options import Parser, at_least, one_line, seed

BATCH = 128
SETTINGS = {"rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}  # for gradient descent


class Classifier(nn.Module):
    """Five 3 x 3 convolutions, two of which halve the side; 64 features; one score per class. 0.18 million weights.

    The features are a linear map of what the convolutions see in each quarter of the image. Over the training images
    each has mean 0 and variance 1, which gives the Fréchet distance a scale: 1 if the means differ by one standard
    deviation of one feature. `width` is the number of channels of the first convolution; later ones have 2 and 4 times
    as many.
    """

    num_features = 64

    def __init__(self, channels: int = 1, classes: int = 10, width: int = 24) -> None:
        super().__init__()
        channels, classes, width = (whole("channels", channels), whole("classes", classes), whole("width", width))
        self.config = {"channels": channels, "classes": classes, "width": width}
        self.body = nn.Sequential(
            *_convolution(channels, width, 1),
            *_convolution(width, 2 * width, 2),
            *_convolution(2 * width, 2 * width, 1),
            *_convolution(2 * width, 4 * width, 2),
            *_convolution(4 * width, 4 * width, 1),
            nn.AdaptiveAvgPool2d(2),  # the mean over each quarter of the image
            nn.Flatten(),
            nn.Linear(16 * width, self.num_features, bias=False),
            nn.BatchNorm1d(self.num_features, affine=False),
        )
        self.head = nn.Linear(self.num_features, classes)

    def features(self, x: Image) -> Float[Tensor, "batch features"]:
        """The features of images on [-1, 1], float32, shape (batch, 64).

        Values outside the range are clamped, as a screen would do: samples may leave it a little. An `x` that is not
        floating point is a ValueError (clamped bytes would be all white).
        """
        check_batch(x=x)
        seen = x.to(self.head.weight.dtype).clamp(-1, 1)
        features: Tensor = self.body(seen)
        return features.float()

    def forward(self, x: Image) -> Float[Tensor, "batch classes"]:
        """One score per class, shape (batch, classes): the log-probability up to a constant."""
        scores: Tensor = self.head(F.silu(self.features(x)).to(self.head.weight.dtype))
        return scores


def load_classifier(path: str | Path, device: torch.device | str = "cpu") -> tuple[Classifier, dict[str, Any]]:
    """The classifier in a file written by this module's command, in evaluation mode, and its provenance.

    Paths and errors are those of `diffnotes.training.checkpoint.load_model`.
    """
    network, provenance, _ = load_weights(path, {"Classifier": Classifier}, device)
    return network, provenance


@torch.no_grad()
def predict(network: Classifier, x: Image, batch: int = 1000) -> Labels:
    """The most likely class of each image, int64, shape (n,), computed for `batch` images at a time."""
    check_batch(x=x)
    return torch.cat([network(part).argmax(1) for part in torch.split(x, whole("batch", batch))])


def accuracy(network: Classifier, images: Images) -> float:
    """The share of the images that are classified correctly."""
    x, y = _checked(images)
    return float((predict(network, x) == y).double().mean())


def train_classifier(images: Images, epochs: int, seed: int = 0, progress: bool = False) -> Classifier:
    """A classifier trained on `images`, on their device, each shown once per epoch and mirrored at random.

    The rate of gradient descent with momentum rises for a quarter of the run and then falls to zero (OneCycleLR). The
    arithmetic is bfloat16, the weights are float32. On one machine, the result is a function of the arguments.

    Raises:
        ValueError: no images, images or labels of a wrong type, fewer than five steps, or a loss that is not finite.
    """
    x, y = _checked(images)
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


def _checked(images: Images) -> Images:
    """The images with their labels in int64."""
    x, y = images
    check_batch(x=x)
    check_integers(y=y)
    if not len(x) == len(y) > 0:
        raise ValueError(f"there must be images, and as many labels, got {len(x)} images and {len(y)} labels")
    if int(y.min()) < 0:
        raise ValueError(f"y must not be negative, got {int(y.min())}")
    return Images(x, y.long())


def _convolution(channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)  # the norm has the bias
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def main(argv: list[str]) -> None:
    """Train on the training set, test on the test set, and save the weights with the accuracy."""
    parser = Parser(prog="python -m diffnotes.training.classifier")
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
        "command": shlex.join(["python", "-m", "diffnotes.training.classifier", *argv]),
        "data": "diffnotes.data.fashion_mnist",
        "settings": {**SETTINGS, "batch": BATCH, "epochs": arguments.epochs, "seed": arguments.seed},
        "accuracy": reached,
        "accuracy is": "the share of the 10,000 test images that are given their own class, by the weights as stored",
        "torch": TORCH,
    }
    save_weights(arguments.out, network, provenance, torch.float16)
    print(f"{arguments.out}: {100 * reached:.2f}% of the test images are classified correctly")


if __name__ == "__main__":
    with one_line("diffnotes.training.classifier"):
        main(sys.argv[1:])
