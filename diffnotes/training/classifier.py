"""A small classifier for the garments of Fashion-MNIST, by which generated images are judged.

Pixels are a poor way to compare sets of images: for them a coat moved by one pixel is a new image, and a grey blur is
close to everything. A network trained to tell ten kinds of garment apart has learnt what matters, and its last but one
layer says it in 64 numbers, the **features**. The Fréchet distance compares the features of generated and real images
(`diffnotes.metrics.frechet_distance`); the last layer says which garment an image shows, and so whether a conditional
model made what it was asked for.

`tools/classifier.py` trained the weights that ship with the package.

>>> network, provenance = load_classifier("fashion_classifier")
>>> images = torch.zeros(3, 1, 28, 28)
>>> network.features(images).shape, network(images).shape
(torch.Size([3, 64]), torch.Size([3, 10]))
>>> 0.92 < provenance["accuracy"] < 1
True
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffnotes.arguments import check_batch, check_integers, whole
from diffnotes.data import Images
from diffnotes.schedule import Labels
from diffnotes.training.checkpoint import load_weights
from diffnotes.training.networks import Image


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
    """The classifier in a file written by `tools/classifier.py`, in evaluation mode, and its provenance.

    Paths and errors are those of `diffnotes.training.checkpoint.load_model`.
    """
    network, provenance, _ = load_weights(path, {"Classifier": Classifier}, device)
    return network, provenance


@torch.no_grad()
def predict(network: Classifier, x: Image, batch: int = 1000) -> Labels:
    """The most likely class of each image, int64, shape (n,), computed for `batch` images at a time."""
    check_batch(x=x)
    return torch.cat([network(part).argmax(1) for part in torch.split(x, whole("batch", batch))])


def checked(images: Images) -> Images:
    """The images with their labels in int64; a ValueError if there is none, or not one label each from 0 up."""
    x, y = images
    check_batch(x=x)
    check_integers(y=y)
    if y.shape != x.shape[:1] or not len(y):
        raise ValueError(f"y must hold one label for each of one or more images, got {tuple(y.shape)} for {len(x)}")
    if int(y.min()) < 0:
        raise ValueError(f"y must not be negative, got {int(y.min())}")
    return Images(x, y.long())


def accuracy(network: Classifier, images: Images) -> float:
    """The share of the images that are classified correctly."""
    x, y = checked(images)
    return int((predict(network, x) == y).sum()) / len(x)


def _convolution(channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)  # the norm has the bias
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
