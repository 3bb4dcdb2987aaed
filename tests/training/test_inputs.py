"""What the training loop is given: numbers of the wrong kind, arrays, integer images, odd labels, each by name."""

import dataclasses
import json
import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from diffnotes.interop import counted_from_zero
from diffnotes.schedule import NoiseSchedule
from diffnotes.training.checkpoint import list_checkpoints, save_model
from diffnotes.training.loop import Drawn, Shuffled, TrainConfig, Trainer, draw_times, fit
from diffnotes.training.networks import MLP, time_embedding

pytestmark = pytest.mark.usefixtures("no_shape_checks")

SCHEDULE = NoiseSchedule.linear(T=50)
COUNTS = ("steps", "batch", "warmup", "accumulate", "seed", "save_every", "keep")
REALS = ("rate", "weight_decay", "clip", "ema", "label_drop")


def network():
    torch.manual_seed(0)
    return MLP(dim=2, T=50, width=8, depth=1, classes=3)


# ---- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [2.5, 2.0, True, math.nan, "2", None, np.ones(2), np.float64(2), torch.tensor(2)])
@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_whole(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number, got "):
        TrainConfig(**{"steps": 12, name: value})


@pytest.mark.parametrize("value", ["0.5", True, 1j, [0.5], np.array([0.5]), torch.tensor(0.5), None])
@pytest.mark.parametrize("name", REALS)
def test_a_real_setting_is_a_number(name, value):
    if (name, value) == ("clip", None):
        assert TrainConfig(steps=12, clip=None).clip is None
        return
    with pytest.raises(ValueError, match=f"{name} must be a number in .*, got "):
        TrainConfig(steps=12, **{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), -0.5])
@pytest.mark.parametrize("name", REALS)
def test_a_real_setting_is_in_range(name, value):
    with pytest.raises(ValueError, match=f"{name} must lie in"):
        TrainConfig(steps=12, **{name: value})


@pytest.mark.parametrize("value", [1, "no", None, 0.0])
@pytest.mark.parametrize("name", ["bf16", "compile"])
def test_a_switch_is_on_or_off(name, value):
    with pytest.raises(ValueError, match=f"{name} must be True or False, got "):
        TrainConfig(steps=12, **{name: value})


def test_numbers_of_numpy_are_kept_as_plain_ones_and_train_alike(tmp_path):
    """The checkpoints can be written, and the run is that of the same plain numbers."""
    plain = TrainConfig(2, 4, 0.5, 1, weight_decay=0.25, clip=2.0, accumulate=2, ema=0.5, label_drop=0.5, seed=3)
    plain = dataclasses.replace(plain, save_every=1, keep=1)
    numpys = {int: np.int32, float: np.float32, bool: np.bool_, str: str}
    values = dataclasses.asdict(plain)
    config = TrainConfig(**{name: numpys[type(value)](value) for name, value in values.items()})
    kept = dataclasses.asdict(config)
    assert kept == values
    assert {name: type(value) for name, value in kept.items()} == {name: type(value) for name, value in values.items()}
    x, y = torch.randn(8, 2), torch.arange(8) % 3
    runs = [fit(SCHEDULE, network(), (x, y), c, folder=tmp_path / str(i)) for i, c in enumerate((plain, config))]
    assert torch.equal(runs[0].losses, runs[1].losses)
    (path,) = list_checkpoints(tmp_path / "1")
    assert json.loads((path / "state.json").read_text())["train"] == values
    assert TrainConfig(steps=2, rate=Fraction(1, 2), clip=1).rate == 0.5


@pytest.mark.parametrize("how", ["uniform", "stratified", "antithetic"])
def test_times_for_a_whole_number_of_steps_and_examples(how):
    for T, n, words in (
        (0, 4, "T must be at least 1, got 0"),
        (-3, 4, "T must be at least 1, got -3"),
        (2.5, 4, "T must be a whole number, got 2.5"),
        (4, -1, "n must be at least 0, got -1"),
        (4, True, "n must be a whole number, got True"),
        (4, math.nan, "n must be a whole number, got nan"),
    ):
        with pytest.raises(ValueError, match=words):
            draw_times(T, n, how)
    for seed in (0, np.random.default_rng(0)):
        with pytest.raises(ValueError, match=r"generator must be a torch\.Generator, got "):
            draw_times(4, 4, how, seed)
    assert draw_times(4, 0, how).shape == (0,)
    assert draw_times(np.int64(1), np.int64(5), how).tolist() == [1] * 5


# ---- data -----------------------------------------------------------------------------------------------------

X, Y = torch.zeros(8, 2), torch.arange(8) % 3


class Given:
    """A `Source` that gives what it was given."""

    def __init__(self, x, y=None):
        self.x, self.y = x, y

    def batch(self, step, size, seed):
        return self.x[:size], None if self.y is None else self.y[:size]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (X.numpy(), "data must be a tensor, a pair .*, a function or a Source, got ndarray"),
        ([X, Y], "data must be a tensor, .* got list"),
        ((X, Y, Y), "data must be a tensor, .* got tuple"),
        (None, "data must be a tensor, .* got NoneType"),
        (torch.tensor(0.5), r"x must hold floating-point examples .*, got \(\) of torch.float32"),
        (X[:0], r"x must hold floating-point examples .*, got \(0, 2\) of torch.float32"),
        (X.bool(), "x must hold floating-point examples .* of torch.bool"),
        ((X.numpy(), Y), "x must be a torch.Tensor, got ndarray"),
        ((X, Y.numpy()), "y must be a torch.Tensor of whole numbers, got ndarray"),
        ((X, Y.tolist()), "y must be a torch.Tensor of whole numbers, got list"),
        ((X, Y.float()), "y must hold whole numbers, got torch.float32"),
        ((X, Y.bool()), "y must hold whole numbers, got torch.bool"),
        ((X, Y + 1), r"y must lie in 0\.\.2, got 1 \.\. 3"),  # 3 would mean "no label"
        ((X, Y.byte() + 1), r"y must lie in 0\.\.2, got 1 \.\. 3"),
        ((X, Y - 1), r"y must lie in 0\.\.2, got -1 \.\. 1"),
        (Shuffled(X, torch.tensor([0, 1, 2, 0, 1, 2, 0, 4])), r"y must lie in 0\.\.2, got 0 \.\. 4"),
    ],
)
def test_data_of_another_kind_are_refused_at_once(data, words):
    with pytest.raises(ValueError, match=words):
        Trainer(SCHEDULE, network(), data, TrainConfig(steps=2, batch=4))


DRAWN = [
    (torch.full((8, 2), 255), None, r"data must hold floating-point .* as uint8, got \(4, 2\) of torch.int64"),
    (X.int(), Y, "data must hold floating-point .* of torch.int32"),
    (X.bool(), None, "data must hold floating-point .* of torch.bool"),
    (X.numpy(), None, "data must be a torch.Tensor, got ndarray"),
    (X, Y.float(), "y must hold whole numbers, got torch.float32"),
    (X, Y.numpy(), "y must be a torch.Tensor of whole numbers, got ndarray"),
    (X, Y + 1, r"y must lie in 0\.\.2, got 1 \.\. 3"),
]


@pytest.mark.parametrize(("x", "y", "words"), DRAWN)
def test_what_a_function_or_a_source_gives_is_looked_at_before_the_weights_change(x, y, words):
    for data in (Given(x, y), lambda n, generator: x[:n] if y is None else (x[:n], y[:n])):
        net = network()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        with pytest.raises(ValueError, match=words):
            fit(SCHEDULE, net, data, TrainConfig(steps=2, batch=4, label_drop=0.5))
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def half(x_t, t):
    return x_t / 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SCHEDULE.check_T(SimpleNamespace(T=np.int64(40))), "the schedule's T = 50, got one for T = 40"),
        (lambda: SCHEDULE.check_T(counted_from_zero(half, np.int32(40))), "the schedule's T = 50, got one for T = 40"),
        (lambda: counted_from_zero(half, 2.5), "T must be a whole number, got 2.5"),
        (lambda: time_embedding(torch.tensor([1]), 10, 5), "width must be even, got 5"),
        (lambda: Trainer(SCHEDULE, nn.Identity(), X, TrainConfig(steps=2)), "model must have weights to train"),
        (lambda: save_model("a.safetensors", network(), SCHEDULE, ["a"]), r"provenance must be a mapping, got \['a'\]"),
    ],
)
def test_other_arguments_of_a_wrong_kind(call, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        call()


def test_callbacks_may_be_an_iterator_and_are_called_after_every_step():
    seen = []
    config = TrainConfig(steps=3, batch=4)
    fit(SCHEDULE, network(), X, config, callbacks=(call for call in [lambda trainer: seen.append(trainer.done)]))
    assert seen == [1, 2, 3]
    fit(SCHEDULE, network(), X, config, callbacks=None)


def test_pixels_in_bytes_and_labels_in_bytes_train_from_a_function_too():
    """As they do from a tensor: uint8 is scaled to [-1, 1], and a label is a whole number of any width."""
    pixels = torch.randint(0, 256, (8, 2), dtype=torch.uint8)
    config = TrainConfig(steps=3, batch=8)
    losses = [
        fit(SCHEDULE, network(), data, config).losses
        for data in (
            Drawn(lambda n, generator: (pixels, Y)),
            Drawn(lambda n, generator: (pixels, Y.byte())),
            Given(pixels.float() / 127.5 - 1, Y.int()),
        )
    ]
    assert torch.equal(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-5, atol=0.0)  # a few float32 roundings
    assert Shuffled(pixels, Y.byte()).batch(0, 4, 0)[1].dtype == torch.uint8
