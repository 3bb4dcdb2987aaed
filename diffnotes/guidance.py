"""Classifier-free guidance: ask for a class, and ask for it more insistently.

A network trained with some labels dropped answers two questions: which noise is in x_t if it shows class y, and which
noise is in it if nothing is known. The difference between the answers is what the label adds; guidance adds more of it.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from diffnotes.arguments import check_labels, number
from diffnotes.schedule import Labels, NoisePredictor


@runtime_checkable
class Conditional(Protocol):
    """A noise predictor that can be told a class, such as a `Network` with classes."""

    @property
    def classes(self) -> int:
        """The number of classes; used as a label, it means "no label"."""

    def __call__(self, x_t: Tensor, t: Tensor, y: Labels) -> Tensor:
        """The noise in x_t, given labels `y` of shape (batch,)."""


def guided(model: Conditional, y: Labels, scale: float | int = 0) -> NoisePredictor:
    """The noise predictor for samples of the classes `y`: (1 + w) eps(x_t, t, y) - w eps(x_t, t).

    Args:
        model: a network with classes.
        y: one class per sample, in 0 .. classes-1 (checked on the CPU only); it fixes the batch size.
        scale: the paper's w, in [-1, inf). 0 is the conditional model and -1 the unconditional one, at one call of the
            network per step; any other value asks for both answers, in one call on twice the batch.

    Raises:
        ValueError: the model has no classes, or `y` or `scale` is not as above.

    Source: Ho, Salimans 2022, eq. 6. (Where others write s eps(x, t, y) + (1 - s) eps(x, t), s is 1 + w.)
    """
    if not getattr(model, "classes", 0):
        raise ValueError(f"model must have classes, got a {type(model).__name__} without any")
    scale = number("scale", scale, "[-1, inf)")
    check_labels(y, model.classes - 1)
    y = y.long()
    nothing = torch.full_like(y, model.classes)
    both = torch.cat([y, nothing])

    def predictor(x_t: Tensor, t: Tensor) -> Tensor:
        if scale == 0 or scale == -1:
            return model(x_t, t, y if scale == 0 else nothing)
        with_label, without = model(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return torch.lerp(without, with_label, 1 + scale)  # (gen-guidance)

    predictor.T = getattr(model, "T", None)  # type: ignore[attr-defined]  # see `NoiseSchedule.check_T`
    return predictor
