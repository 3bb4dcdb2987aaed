"""The trainer: what it draws, that its steps are what they say, and that a run survives whatever stops it."""

import dataclasses
import errno
import hashlib
import json
import math
import os
import pickle
import shutil
import stat
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import killed
import numpy as np
import pytest
import safetensors.torch
import torch
from devices import NoFloat64
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.optim.swa_utils import AveragedModel

from diffnotes.data import ring, swiss_roll_mixture
from diffnotes.forward import q_sample
from diffnotes.schedule import NoiseSchedule
from diffnotes.training import checkpoint, loop
from diffnotes.training import commands as cli
from diffnotes.training.checkpoint import (
    alone_in,
    list_checkpoints,
    load_model,
    read_checkpoint,
    save_model,
    unwrapped,
    write_checkpoint,
)
from diffnotes.training.loop import (
    Drawn,
    Shuffled,
    TrainConfig,
    Trained,
    Trainer,
    draw_times,
    ema_decay,
    fit,
    learning_rate,
)
from diffnotes.training.networks import MLP, UNet

SCHEDULE = NoiseSchedule.linear(T=50)


def points(n, generator):
    return torch.randn(n, 2, generator=generator) * torch.tensor([1.0, 0.5]) + 0.3


def small(seed=0, **config):
    torch.manual_seed(seed)
    return MLP(**({"dim": 2, "T": 50, "width": 16, "depth": 2} | config))


def quick(**config):
    return TrainConfig(**({"steps": 12, "batch": 32, "rate": 1e-2, "warmup": 3} | config))


class Stop(Exception):
    """Raised in a callback, to leave a run in the middle."""


def stop_after(step):
    def callback(trainer):
        if trainer.done == step:
            raise Stop

    return callback


def same(one, other):
    """Equal to the last bit, weight by weight."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- settings -------------------------------------------------------------------------------------------------


def test_the_rate_rises_and_falls():
    config = TrainConfig(steps=100, rate=2.0, warmup=10)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[:10] == [2.0 * (k + 1) / 10 for k in range(10)]
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)  # half way from 10 to 100
    assert rates[99] == pytest.approx(1 + math.cos(math.pi * 89 / 90))
    assert rates[10:] == sorted(rates[10:], reverse=True)
    constant = dataclasses.replace(config, decay="constant")
    assert [learning_rate(constant, step) for step in (0, 9, 10, 99)] == [0.2, 2.0, 2.0, 2.0]


def test_the_optimiser_gets_these_rates():
    seen = []
    config = quick()
    fit(SCHEDULE, small(), points, config, callbacks=[lambda r: seen.append(r.optimiser.param_groups[0]["lr"])])
    assert seen == [learning_rate(config, step) for step in range(config.steps)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"accumulate": 5}, "accumulate must divide the batch of 32, got 5"),
        ({"rate": 0.0}, r"rate must lie in \(0, inf\), got 0.0"),
        ({"warmup": 12}, "warmup must lie in 0..steps - 1 = 0..11, got 12"),
        ({"decay": "linear"}, "decay must be one of .*cosine.*, got 'linear'"),
        ({"weight_decay": -1.0}, r"weight_decay must lie in \[0, inf\), got -1.0"),
        ({"clip": 0.0}, r"clip must lie in \(0, inf\), got 0.0"),
        ({"ema": 1.0}, r"ema must lie in \[0, 1\)"),
        ({"times": "even"}, "times must be one of .*stratified"),
        ({"label_drop": 1.5}, r"label_drop must lie in \[0, 1\], got 1.5"),
        ({"save_every": 0}, "save_every must be at least 1"),
        ({"keep": 0}, "keep must be at least 1"),
        ({"steps": 12.5}, "steps must be a whole number, got 12.5"),
        ({"rate": math.nan}, "rate must lie in"),
        ({"rate": math.inf}, r"rate must lie in \(0, inf\), got inf"),
        ({"weight_decay": math.nan}, "weight_decay must lie in"),
        ({"weight_decay": math.inf}, "weight_decay must lie in"),
        ({"clip": math.nan}, "clip must lie in"),
        ({"clip": math.inf}, "clip must lie in"),
        ({"ema": math.nan}, "ema must lie in"),
        ({"label_drop": math.nan}, "label_drop must lie in"),
        ({"warmup": -1}, "warmup must lie in 0..steps - 1 = 0..11, got -1"),
        ({"seed": 2**64}, "seed must lie in -9223372036854775808..18446744073709551615, got"),
    ],
)
def test_bad_settings_are_named(change, words, no_shape_checks):
    with pytest.raises(ValueError, match=words):
        quick(**change)


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="model must be made for the schedule's T = 100, got one for T = 50"):
        fit(NoiseSchedule.linear(T=100), small(), points, quick())
    with pytest.raises(ValueError, match="label_drop must be 0 for a network without classes"):
        fit(SCHEDULE, small(), points, quick(label_drop=0.1))
    with pytest.raises(ValueError, match=r"floating-point examples of order 1.*, got .* of torch.int64"):
        fit(SCHEDULE, small(), torch.zeros(5, 2, dtype=torch.int64), quick())
    with pytest.raises(ValueError, match=r"y must have shape \(5,\), one per example, got \(4,\)"):
        Shuffled(torch.zeros(5, 2), torch.zeros(4, dtype=torch.long))


# ---- times ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**31))
def test_stratified_times_are_one_from_each_slice(T, n, seed):
    t = draw_times(T, n, "stratified", torch.Generator().manual_seed(seed)).tolist()
    assert t == sorted(t)
    for i, value in enumerate(t):  # slice i is (i T / n, (i + 1) T / n], and t is its ceiling
        assert i * T // n + 1 <= value <= ((i + 1) * T - 1) // n + 1
    if n % T == 0:
        assert set(Counter(t).values()) == {n // T}


@given(st.integers(1, 40), st.integers(1, 40))
def test_stratified_times_are_uniform_exactly(T, n):
    """Of all n T equally likely outcomes of the integer draws, each t gets n: no rounding, whatever T and n."""
    outcomes = Counter((i * T + r) // n + 1 for i in range(n) for r in range(T))
    assert outcomes == dict.fromkeys(range(1, T + 1), n)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**31))
def test_antithetic_times_come_in_pairs(T, n, seed):
    t = draw_times(T, n, "antithetic", torch.Generator().manual_seed(seed))
    half = (n + 1) // 2
    assert t.shape == (n,)
    assert torch.equal(t[: n - half] + t[half:], torch.full((n - half,), T + 1))


@pytest.mark.parametrize("how", ["uniform", "stratified", "antithetic"])
def test_every_way_of_drawing_times_is_uniform_on_the_whole(how, generator):
    T, n, rounds = 7, 10, 4000
    t = torch.stack([draw_times(T, n, how, generator) for _ in range(rounds)])
    assert t.dtype == torch.int64
    assert (int(t.min()), int(t.max())) == (1, T)
    shares = torch.stack([(t == k).double().mean(1) for k in range(1, T + 1)], dim=1)
    error = shares.std(0) / math.sqrt(rounds)
    assert ((shares.mean(0) - 1 / T).abs() < 4 * error).all()


def test_even_times_make_the_loss_vary_less(generator):
    """On a loss that falls in t, as it does: the mean over a batch is the same, its variance smaller."""
    loss = torch.linspace(1, 0, 51)
    spread = {
        how: torch.stack([loss[draw_times(50, 64, how, generator)].mean() for _ in range(500)])
        for how in ("uniform", "stratified", "antithetic")
    }
    # the three means agree with 1/2 within four standard errors (loss[1:] averages 0.49)
    for means in spread.values():
        assert abs(float(means.mean()) - 0.49) < 4 * float(means.std()) / math.sqrt(500) + 1e-6
    assert spread["stratified"].var() < spread["uniform"].var() / 100
    assert spread["antithetic"].var() < spread["uniform"].var() / 100


def test_an_unknown_way_of_drawing_times(no_shape_checks):
    with pytest.raises(ValueError, match=r"how must be one of .*antithetic.*, got 'even'"):
        draw_times(10, 5, "even")


# ---- data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 7, 10, 25])
def test_an_epoch_shows_every_example_once(size):
    """Whatever the batch: the stream of examples, cut anew into runs of the data set's length, is permutations."""
    x = torch.arange(10.0).reshape(10, 1)
    data = Shuffled(x, torch.arange(10))
    batches = [data.batch(step, size, seed=3) for step in range(70 // size + 1)]
    stream = torch.cat([b[0] for b in batches]).flatten()
    labels = torch.cat([b[1] for b in batches])
    assert torch.equal(stream.long(), labels)
    epochs = [stream[10 * e : 10 * (e + 1)] for e in range(7)]
    assert all(torch.equal(epoch.sort().values, x.flatten()) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) > 1


@pytest.mark.parametrize("make", [lambda: Shuffled(torch.randn(10, 2)), lambda: Drawn(points)])
def test_a_batch_is_a_function_of_its_step_alone(make):
    data = make()
    forwards = [data.batch(step, 4, seed=0)[0] for step in range(20)]
    backwards = [data.batch(step, 4, seed=0)[0] for step in reversed(range(20))]
    assert all(torch.equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))
    assert not torch.equal(forwards[0], data.batch(0, 4, seed=1)[0])
    assert not torch.equal(forwards[0], forwards[1])


def test_pixels_in_bytes_train_like_the_floats_that_they_stand_for():
    pixels = torch.randint(0, 256, (21, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    runs = [
        fit(killed.SCHEDULE, killed.network(), (x, torch.arange(21) % 3), killed.CONFIG).model
        for x in (pixels.to(torch.uint8), pixels.to(torch.float32).div(127.5).sub(1))
    ]
    assert same(*runs)


def test_flips_mirror_half_of_the_images_and_follow_from_the_step():
    x = torch.randn(500, 3, 2, 4)
    plain, data = Shuffled(x), Shuffled(x, flip=True)
    for step in (0, 1):
        straight, flipped = plain.batch(step, 400, 0)[0], data.batch(step, 400, 0)[0]
        mirrored = (flipped == straight.flip(-1)).flatten(1).all(1)
        assert torch.equal(flipped[~mirrored], straight[~mirrored])
        assert abs(int(mirrored.sum()) - 200) < 4 * 10  # a binomial: standard deviation sqrt(400) / 2
        assert torch.equal(flipped, data.batch(step, 400, 0)[0])
    assert not torch.equal(data.batch(0, 400, 0)[0], data.batch(0, 400, 1)[0])
    with pytest.raises(ValueError, match=r"flip must be False unless x holds images, got x of shape \(5, 2\)"):
        Shuffled(torch.zeros(5, 2), flip=True)


def test_to_a_gpu_a_batch_goes_from_page_locked_memory(monkeypatch):
    """So the host need not wait for the copy. What is there already is not locked."""
    trainer, diary = Trainer(SCHEDULE, small(), points, quick()), []
    trainer.device = torch.device("cuda")
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: (diary.append("locked"), x)[1])
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *to, **how: (diary.append((*to, how)), x)[1])
    for device in ("cpu", "meta"):
        trainer._here(torch.zeros(3, device=device))
    copied = (trainer.device, {"non_blocking": True})
    assert diary == ["locked", copied, copied]


def test_every_kind_of_data_trains():
    x, y = torch.randn(40, 2), torch.randint(0, 3, (40,))
    mixture = ring(8)
    for data in (x, (x, y), points, mixture.sample, lambda n, g: (points(n, g), torch.zeros(n).long()), Shuffled(x)):
        net = small(classes=3)
        losses = fit(SCHEDULE, net, data, quick()).losses
        assert losses.shape == (12,)
        assert losses.isfinite().all()


# ---- a step ---------------------------------------------------------------------------------------------------


def test_the_average_is_the_one_computed_by_hand():
    seen = []
    config = quick(steps=30, ema=0.7)
    trained = fit(
        SCHEDULE, small(), points, config, callbacks=[lambda r: seen.append(r.model.hidden[0].weight.detach().clone())]
    )
    average = seen[0].double()
    for k in range(1, 30):
        decay = min(0.7, (1 + k) / (10 + k))
        assert ema_decay(config, k) == decay
        average = decay * average + (1 - decay) * seen[k].double()
    # 30 roundings of float32, 2^-24 each, of weights below 1 in size
    torch.testing.assert_close(trained.ema.hidden[0].weight.double(), average, rtol=0, atol=30 * 2**-24)
    assert torch.equal(trained.model.hidden[0].weight, seen[-1])


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("parts", [2, 8, 32])
def test_accumulated_gradients_are_those_of_the_whole_batch(dtype, bound, parts):
    """The same sum of 32 gradients in another order: 32 roundings, of 2^-53 or 2^-24, stay below the bound."""
    gradients, losses = [], []
    for accumulate in (1, parts):
        net = small().to(dtype)
        nn.init.normal_(net.out.weight)
        trainer = Trainer(SCHEDULE, net, points, quick(accumulate=accumulate, clip=None))
        trainer.step()
        gradients.append(torch.cat([weights.grad.flatten() for weights in net.parameters()]))
        losses.append(float(trainer.losses[0]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    whole, summed = gradients
    assert float((whole - summed).norm() / whole.norm()) < bound


def test_accumulation_reports_the_loss_of_the_whole_batch():
    losses = [fit(SCHEDULE, small(), points, quick(accumulate=a)).losses[0] for a in (1, 4)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0)  # a mean of 64 numbers in another order


def test_clipping_shortens_long_gradients_and_no_others():
    def gradient(clip):
        net = small()
        nn.init.normal_(net.out.weight)
        Trainer(SCHEDULE, net, points, quick(clip=clip)).step()
        return torch.cat([weights.grad.flatten() for weights in net.parameters()])

    free = gradient(None)
    length = float(free.norm())
    torch.testing.assert_close(gradient(length / 2), free / 2, rtol=1e-5, atol=1e-7)  # torch adds 1e-6 to the length
    assert torch.equal(gradient(2 * length), free)


def test_labels_are_dropped_at_the_asked_rate():
    y = torch.arange(3).repeat(1000)
    trainer = Trainer(SCHEDULE, small(classes=3), (torch.zeros(3000, 2), y), quick(batch=3000, label_drop=0.2))
    dropped = trainer._draw(0)[3]
    # a binomial share: standard error sqrt(0.2 * 0.8 / 3000) = 0.0073
    assert abs(float((dropped == 3).double().mean()) - 0.2) < 4 * 0.0073
    kept = Trainer(SCHEDULE, small(classes=3), (torch.zeros(3000, 2), y), quick(batch=3000))._draw(0)[3]
    assert torch.equal(dropped[dropped != 3], kept[dropped != 3])


def test_a_run_is_a_function_of_its_settings():
    one, two, other = (fit(SCHEDULE, small(), points, quick(seed=seed)) for seed in (0, 0, 1))
    assert same(one.model, two.model)
    assert same(one.ema, two.ema)
    assert torch.equal(one.losses, two.losses)
    assert not same(one.model, other.model)


def test_bf16_keeps_weights_and_loss_in_float32_and_learns():
    trained = fit(SCHEDULE, small(), points, quick(steps=200, batch=256, bf16=True))
    exact = fit(SCHEDULE, small(), points, quick(steps=200, batch=256))
    assert trained.losses.dtype == torch.float32
    assert {weights.dtype for weights in trained.model.parameters()} == {torch.float32}
    assert not same(trained.model, exact.model)
    # the runs see the same draws; bfloat16 rounds each output to 8 bits, so losses of order 1 differ by about 2^-8
    assert abs(float(trained.losses[-50:].mean() - exact.losses[-50:].mean())) < 2**-8


def test_compile_takes_the_compiled_network(monkeypatch):
    """That it computes the same is tested with the networks; here, that the trainer calls it and trains the weights."""
    calls = []

    def compiled(model):
        return lambda *args, **kwargs: (calls.append(1), model(*args, **kwargs))[1]

    monkeypatch.setattr(torch, "compile", compiled)
    trained = fit(SCHEDULE, small(), points, quick(compile=True))
    assert len(calls) == 12
    assert same(trained.model, fit(SCHEDULE, small(), points, quick()).model)


def test_callbacks_see_every_step_and_the_bar_shows_the_loss(capsys):
    steps = []
    fit(SCHEDULE, small(), points, quick(steps=50), callbacks=[lambda r: steps.append(r.done)], progress=True)
    assert steps == list(range(1, 51))
    shown = capsys.readouterr().err
    assert "50/50" in shown
    assert "loss=" in shown
    fit(SCHEDULE, small(), points, quick())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("steps", "last"), [(20, 18.0), (16, 14.5), (3, 2.0)])
def test_the_final_loss_is_the_mean_over_the_last_eighth_of_the_steps(steps, last):
    """Rounded up, so that there is one at least: 3 of 20, 2 of 16, 1 of 3."""
    assert Trained(small(), small(), torch.arange(float(steps))).final_loss == last


# ---- a loss that is not finite --------------------------------------------------------------------------------


class Poisoned:
    """Data that hold an infinity from one step on."""

    def __init__(self, step):
        self.step = step

    def batch(self, step, size, seed):
        x = torch.randn(size, 2)
        x[0] = math.inf if step >= self.step else 0.0
        return x, None


def test_a_bad_loss_stops_the_run_at_once_and_names_the_step():
    net = small()
    trainer = Trainer(SCHEDULE, net, Poisoned(6), quick())
    for _ in range(6):
        trainer.step()
    before = {name: weights.clone() for name, weights in net.state_dict().items()}
    with pytest.raises(ValueError, match="the loss must be finite, got nan at step 7 of 12"):
        trainer.step()
    assert all(torch.equal(before[name], weights) for name, weights in net.state_dict().items())
    with pytest.raises(ValueError, match="at step 7 of 12"):
        fit(SCHEDULE, small(), Poisoned(6), quick())


def test_on_an_accelerator_it_is_seen_late_but_named_rightly_and_never_saved(tmp_path):
    """There the host does not wait for each loss; the CPU plays the accelerator by looking as rarely as one."""
    trainer = Trainer(SCHEDULE, small(), Poisoned(6), quick())
    trainer.look_every = 10
    for _ in range(9):
        trainer.step()
    with pytest.raises(ValueError, match="at step 7 of 12"):
        trainer.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="at step 7 of 12"):
        trainer.step()


# ---- devices --------------------------------------------------------------------------------------------------


def test_a_step_makes_no_stray_cpu_tensor_and_no_wait(monkeypatch):
    """A whole step on a device without numbers: a look at one, or a CPU tensor among the rest, would raise.

    The fake device is "meta", because the autograd of a CPU build of torch cannot name a CUDA device.
    """

    class There(torch.Generator):
        device = torch.device("meta")

        def __new__(cls, device=None):
            return super().__new__(cls)

    monkeypatch.setattr(loop, "Generator", There)
    # AdamW counts its steps on the CPU, so that it need not wait; a fake tensor cannot be counted
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)

    def another(net):  # deepcopy would copy the mode of the fake tensors, too
        with torch.device("meta"):
            return type(net)(**net.config)

    monkeypatch.setattr(loop.copy, "deepcopy", another)
    with FakeTensorMode():
        with torch.device("meta"):
            net = UNet(channels=1, T=50, width=4, multipliers=(1, 2), classes=3, dropout=0.1)
            data = torch.zeros(20, 1, 4, 4), torch.zeros(20, dtype=torch.long)
        monkeypatch.setattr(loop, "_order", lambda n, epoch, seed, device: torch.arange(n, device="meta"))
        monkeypatch.setattr(SCHEDULE.__class__, "to", lambda self, device: schedule)
        schedule = NoiseSchedule(torch.full((50,), 0.1, device="meta", dtype=torch.float64))
        trainer = Trainer(schedule, net, data, quick(batch=8, accumulate=2, label_drop=0.5))
        assert trainer.look_every > 1
        trainer.step()
        assert trainer.done == 1
        assert {weights.grad.device.type for weights in net.parameters()} == {"meta"}
        for wrong, error, words in (
            (lambda s, model, x0, t, noise: x0 * float(x0.sum()), DataDependentOutputException, "_local_scalar_dense"),
            (lambda s, model, x0, t, noise: x0 + torch.zeros(4, 1, 4, 4), RuntimeError, "two .*devices"),
        ):
            with pytest.raises(error, match=words):
                Trainer(schedule, net, data, quick(batch=8, accumulate=2, label_drop=0.5), loss=wrong).step()


@pytest.mark.gpu
def test_on_a_gpu_a_run_is_resumed_to_the_last_bit(tmp_path, monkeypatch):
    """With cuDNN's and attention's algorithms whose sums have an order; the fastest may add as they come."""
    from torch.nn.attention import SDPBackend, sdpa_kernel  # which the oldest torch lacks

    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)

    @sdpa_kernel(SDPBackend.MATH)
    def run(**kwargs):
        net = killed.network().to("cuda")
        return fit(killed.SCHEDULE, net, killed.data(), killed.CONFIG, **kwargs)

    whole = run()
    with pytest.raises(Stop):
        run(folder=tmp_path, callbacks=[stop_after(15)])
    resumed = run(folder=tmp_path)
    assert same(whole.ema, resumed.ema)
    assert same(whole.model, resumed.model)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # is a prototype, torch warns
def test_on_a_gpu_a_step_never_waits():
    """CUDA itself raises where the host would wait, in the average of the weights too."""
    net = UNet(channels=1, T=50, width=4, multipliers=(1, 2), classes=3, dropout=0.1).to("cuda")
    data = torch.zeros(20, 1, 4, 4), torch.zeros(20, dtype=torch.long)
    trainer = Trainer(SCHEDULE, net, data, quick(batch=8, accumulate=2, label_drop=0.5))
    trainer.step()  # libraries load themselves at first use, and may wait then
    torch.cuda.synchronize()
    before = [weights.clone() for weights in trainer.ema.parameters()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.done == 2
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.ema.parameters(), strict=True))


# ---- resuming -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of `killed` that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    killed.train(folder)
    return folder


@pytest.mark.parametrize("stop", [1, 2, 15, 28, 29])
def test_a_resumed_run_ends_with_the_same_bits(stop, whole, tmp_path):
    """Everything that is random is in it, see `killed.network`; the comparison is of every file's checksum."""
    with pytest.raises(Stop):
        fit(
            killed.SCHEDULE,
            killed.network(),
            killed.data(),
            killed.CONFIG,
            folder=tmp_path,
            callbacks=[stop_after(stop)],
        )
    torch.manual_seed(99)  # whatever has been drawn in between
    killed.train(tmp_path)
    assert killed.sums(tmp_path) == killed.sums(whole)


def test_so_does_one_with_another_memory_layout(tmp_path):
    """Files hold rows after rows; a channels-last network gets its moments back in its own layout."""

    def run(**kwargs):
        net = killed.network().to(memory_format=torch.channels_last)
        return fit(killed.SCHEDULE, net, killed.data(), killed.CONFIG, **kwargs)

    undisturbed = run()
    with pytest.raises(Stop):
        run(folder=tmp_path, callbacks=[stop_after(15)])
    resumed = run(folder=tmp_path)
    assert same(undisturbed.model, resumed.model)
    assert same(undisturbed.ema, resumed.ema)


def test_a_finished_run_is_not_run_again(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "copy")
    steps = []
    trained = fit(
        killed.SCHEDULE,
        killed.network(),
        killed.data(),
        killed.CONFIG,
        folder=folder,
        callbacks=[lambda r: steps.append(r.done)],
    )
    assert steps == []
    assert trained.losses.isfinite().all()


def test_the_newest_is_the_one_of_the_highest_step(tmp_path):
    """Not the one written last, nor the one listed last, nor the last by its letters."""
    trainer = Trainer(SCHEDULE, small(), points, quick(steps=12, keep=9))
    for _ in range(11):
        trainer.step()
        trainer.save(tmp_path)
    for path in list_checkpoints(tmp_path):
        # by their letters, 99,999,999 comes after the 100,000,000 that follows it
        path.rename(tmp_path / f"step-{99_999_990 + int(path.name[5:]):08d}")
    for path in reversed(list_checkpoints(tmp_path)):  # a copy in another order, so the oldest has the newest date
        shutil.copytree(path, path.with_name("passing"))
        shutil.rmtree(path)
        path.with_name("passing").rename(path)
    (tmp_path / "step-99.txt").write_text("not a checkpoint")
    (tmp_path / "step-x").mkdir()
    again = Trainer(SCHEDULE, small(), points, quick(steps=12))
    assert again.resume(tmp_path)
    assert again.done == 11
    assert same(again.model, trainer.model)


def test_old_checkpoints_are_dropped(tmp_path):
    fit(SCHEDULE, small(), points, quick(save_every=5, keep=2), folder=tmp_path)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000010", "step-00000012"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_without_checkpoints_is_a_fresh_start(tmp_path):
    assert not Trainer(SCHEDULE, small(), points, quick()).resume(tmp_path / "not there yet")


def test_other_settings_are_pointed_out(tmp_path):
    with pytest.raises(Stop):
        fit(SCHEDULE, small(), points, quick(save_every=5), folder=tmp_path, callbacks=[stop_after(6)])
    with pytest.warns(UserWarning, match=r"with other settings: rate 0.01 -> 0.02, seed 0 -> 1"):
        fit(SCHEDULE, small(), points, quick(rate=0.02, seed=1, save_every=4), folder=tmp_path)


# ---- what is refused ------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path):
    """A folder with checkpoints of steps 5 and 10 of a run of 12."""
    folder = tmp_path / "run"
    with pytest.raises(Stop):
        fit(SCHEDULE, small(), points, quick(save_every=5), folder=folder, callbacks=[stop_after(11)])
    return folder


FILES = ["weights.safetensors", "ema.safetensors", "optimiser.safetensors", "state.json", "SHA256SUMS"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {"truncated": truncate, "emptied": empty, "one bit flipped": flip_a_bit, "missing": Path.unlink}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(damage, name, two):
    newest = list_checkpoints(two)[-1]
    DAMAGE[damage](newest / name)
    with pytest.raises(ValueError, match=r"checkpoint .*step-00000010.* is (damaged|incomplete)"):
        Trainer(SCHEDULE, small(), points, quick()).load(newest)
    with pytest.warns(UserWarning, match="passed over a checkpoint: .*step-00000010"):
        resumed = fit(SCHEDULE, small(), points, quick(save_every=5), folder=two)
    assert same(resumed.model, fit(SCHEDULE, small(), points, quick()).model)
    read_checkpoint(newest)  # written anew on the way, and sound


def test_a_refused_checkpoint_leaves_the_trainer_as_it_was(two):
    flip_a_bit(list_checkpoints(two)[-1] / "ema.safetensors")
    trainer = Trainer(SCHEDULE, small(), points, quick())
    with pytest.raises(ValueError, match="damaged"):
        trainer.load(list_checkpoints(two)[-1])
    assert trainer.done == 0
    assert same(trainer.model, small())


def test_where_all_are_damaged_nothing_is_overwritten(two):
    for path in list_checkpoints(two):
        truncate(path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be used: .*step-00000010.*; .*step-00000005"):
        fit(SCHEDULE, small(), points, quick(save_every=5), folder=two)
    assert len(list_checkpoints(two)) == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: (SCHEDULE, small(width=8)),
            r"another architecture: modulation.weight is \(64, 64\) there and \(32, 64",
        ),
        (lambda: (SCHEDULE, small(depth=1)), "another architecture"),
        (lambda: (SCHEDULE, small(classes=2)), "condition.label.weight is missing there"),
        (lambda: (NoiseSchedule.cosine(T=50), small()), "was trained for NoiseSchedule.*, got NoiseSchedule"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(make, words, two):
    with pytest.raises(ValueError, match=words):
        Trainer(*make(), points, quick()).load(list_checkpoints(two)[-1])


def absolute(schedule, model, x0, t, noise):
    """A loss other than L_simple: the mean absolute error of the predicted noise."""
    return (noise - model(q_sample(schedule, x0, t, noise), t)).abs().mean(1)


def test_another_loss_is_minimised_and_recorded(tmp_path):
    """The first value of the loss is the function's own, and a run does not resume from one with another loss."""
    seen = []

    def loss(*arguments):
        seen.append(absolute(*arguments))
        return seen[-1]

    trained = fit(SCHEDULE, small(), points, quick(), loss=loss)
    assert trained.losses.tolist() == [float(values.detach().mean()) for values in seen]
    fit(SCHEDULE, small(), points, quick(save_every=5), loss=absolute, folder=tmp_path)
    with pytest.raises(ValueError, match="was trained with absolute, got simple_loss"):
        fit(SCHEDULE, small(), points, quick(save_every=5), folder=tmp_path)


class Absolute:
    def __call__(self, *arguments):
        return absolute(*arguments)


@pytest.mark.parametrize(("loss", "name"), [(partial(absolute), "absolute"), (Absolute(), "Absolute")])
def test_a_loss_without_a_name_is_recorded_too(loss, name, tmp_path):
    """A function with some arguments bound is recorded by the function's name, an object by its class's."""
    fit(SCHEDULE, small(), points, quick(save_every=5), loss=loss, folder=tmp_path)
    with pytest.raises(ValueError, match=f"was trained with {name}, got simple_loss"):
        fit(SCHEDULE, small(), points, quick(save_every=5), folder=tmp_path)


def test_a_foreign_checkpoint_on_top_is_passed_over(two):
    foreign = Trainer(SCHEDULE, small(width=8), points, quick(keep=9))
    for _ in range(11):
        foreign.step()
    foreign.save(two)
    with pytest.warns(UserWarning, match="passed over a checkpoint: .*step-00000011 is of another architecture"):
        resumed = fit(SCHEDULE, small(), points, quick(save_every=5), folder=two)
    assert same(resumed.model, fit(SCHEDULE, small(), points, quick()).model)


def test_a_checkpoint_beyond_the_end_is_refused(two):
    with pytest.raises(ValueError, match="is at step 10, beyond the 8 steps asked for"):
        Trainer(SCHEDULE, small(), points, quick(steps=8)).load(list_checkpoints(two)[-1])


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a file was unpickled",)


@pytest.mark.parametrize("name", FILES[:4])
def test_no_code_in_a_file_is_run(name, two):
    """Not even with the right checksums. A pickle in place of each file: refused, and not executed."""
    newest = list_checkpoints(two)[-1]
    (newest / name).write_bytes(pickle.dumps(Bomb()))
    lines = [f"{hashlib.sha256((newest / n).read_bytes()).hexdigest()}  {n}\n" for n in FILES[:4]]
    (newest / "SHA256SUMS").write_text("".join(lines))
    with pytest.raises(ValueError, match=r"not a whole safetensors file|codec can't decode|Expecting value"):
        Trainer(SCHEDULE, small(), points, quick()).load(newest)


def test_the_checksums_are_those_of_the_usual_tool(two):
    for line in (list_checkpoints(two)[-1] / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((list_checkpoints(two)[-1] / name).read_bytes()).hexdigest() == digest


def test_a_checkpoint_can_be_loaded_as_a_model(two):
    newest = list_checkpoints(two)[-1]
    trainer = Trainer(SCHEDULE, small(), points, quick())
    trainer.load(newest)
    assert same(load_model(newest / "ema.safetensors").model, trainer.ema)
    assert same(load_model(newest / "weights.safetensors").model, trainer.model)


# ---- whatever else is in the folder ---------------------------------------------------------------------------


def test_only_own_leftovers_are_cleared(tmp_path):
    own = [".tmp-step-00000007", ".old-step-00000001"]  # there is a newer checkpoint of step 1
    only = ".old-step-00000003"  # there is none of step 3: this one counts
    others = ["._.tmp-step-00000002", ".tmp-step-00000002", ".old-step-00000002", ".notes-step-by-step/thesis"]
    others += ["step-1/thesis", "step-0000001/thesis", "step-2024/thesis", "step-00000000/thesis", "step-00000010"]
    others += [".old-step-00000000/thesis"]
    write_checkpoint(tmp_path, 1, {"state.json": b"{}"}, keep=9)
    for name in (*own, only):
        shutil.copytree(tmp_path / "step-00000001", tmp_path / name)
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("precious")
    for _ in range(2):  # the second replaces the first
        write_checkpoint(tmp_path, 2, {"state.json": b"{}"}, keep=9)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000001", "step-00000002", only]
    assert all((tmp_path / name).read_text() == "precious" for name in others)
    left = {"step-00000001", "step-00000002", only, *(name.split("/")[0] for name in others)}
    assert {path.name for path in tmp_path.iterdir()} == left
    write_checkpoint(tmp_path, 3, {"state.json": b"{}"}, keep=9)
    assert not (tmp_path / only).exists()
    write_checkpoint(tmp_path, 4, {"state.json": b"{}"}, keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000004", *(name.split("/")[0] for name in others)}
    assert all((tmp_path / name).read_text() == "precious" for name in others)


@pytest.mark.parametrize("name", ["step-1", "step-0000001", "step-00000001", "step-2024", ".old-step-00000001"])
def test_a_folder_of_the_user_is_no_checkpoint(name, tmp_path):
    """It neither stops a fresh run, nor is it deleted, nor does it take the place of a checkpoint."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.md").write_text("precious")
    with pytest.raises(Stop):
        fit(SCHEDULE, small(), points, quick(save_every=2), folder=tmp_path, callbacks=[stop_after(5)])
    fit(SCHEDULE, small(), points, quick(save_every=2), folder=tmp_path)
    left = ["step-00000010", "step-00000012"]
    assert [path.name for path in list_checkpoints(tmp_path)] == left
    assert {path.name for path in tmp_path.iterdir()} == {name, *left}
    assert (tmp_path / name / "thesis.md").read_text() == "precious"


@pytest.mark.parametrize("thing", ["file", "folder", "empty folder", "link to nowhere"])
def test_what_is_in_the_way_of_a_checkpoint_is_named_and_left_alone(thing, two):
    way = two / "step-00000012"
    if thing == "file":
        way.write_text("precious")
    elif thing == "link to nowhere":
        way.symlink_to("nowhere")
    else:
        way.mkdir()
    if thing == "folder":
        (way / "thesis.md").write_text("precious")
    words = (
        r"could not be written .something that is no checkpoint has its name.; earlier ones are intact: .*step-00000012"
    )
    with pytest.raises(FileExistsError, match=words) as caught:
        fit(SCHEDULE, small(), points, quick(save_every=5), folder=two)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in two.iterdir()) == ["step-00000005", "step-00000010", "step-00000012"]
    assert thing != "file" or way.read_text() == "precious"
    assert thing != "folder" or (way / "thesis.md").read_text() == "precious"
    if thing == "folder":
        (way / "thesis.md").unlink()
    way.rmdir() if way.is_dir() else way.unlink()
    fit(SCHEDULE, small(), points, quick(save_every=5), folder=two)
    read_checkpoint(way)


def test_a_checkpoint_deleted_half_way_does_not_stay(two, monkeypatch):
    """Whatever file the process was killed at: the name goes first, and the next run takes the rest away."""
    with monkeypatch.context() as m:
        m.setattr(shutil, "rmtree", lambda path, **kwargs: (path / "SHA256SUMS").unlink(missing_ok=True))
        write_checkpoint(two, 11, {"state.json": b"{}"}, keep=1)
    assert [path.name for path in list_checkpoints(two)] == ["step-00000011"]
    write_checkpoint(two, 12, {"state.json": b"{}"}, keep=1)
    assert [path.name for path in two.iterdir()] == ["step-00000012"]


def test_a_leftover_that_cannot_be_removed_is_no_reason_to_stop(tmp_path, monkeypatch):
    shutil.copytree(write_checkpoint(tmp_path, 1, {"state.json": b"{}"}, 2), tmp_path / ".tmp-step-00000002")
    monkeypatch.setattr(checkpoint.os, "rmdir", no_space)
    read_checkpoint(write_checkpoint(tmp_path, 2, {"state.json": b"{}"}, 2))


needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")


@needs_locks
def test_two_runs_cannot_share_a_folder(two):
    (two / ".diffnotes-lock").write_text("process 1 on a machine that went down")  # a lock that nobody holds
    with alone_in(two):
        with pytest.raises(OSError, match=rf"run is in use by process {os.getpid()} on "):
            fit(SCHEDULE, small(), points, quick(), folder=two)
    fit(SCHEDULE, small(), points, quick(), folder=two)
    assert all(path.name.startswith("step-") for path in two.iterdir())


@needs_locks
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.ENOLCK])
def test_a_file_system_without_locks_and_without_fsync_of_folders_will_do(number, tmp_path, monkeypatch):
    import fcntl

    fsync = os.fsync

    def only_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    def no_locks(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", only_files)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    fit(SCHEDULE, small(), points, quick(), folder=tmp_path / "run")
    read_checkpoint(tmp_path / "run/step-00000012")
    save_model(tmp_path / "net.safetensors", small(), SCHEDULE)
    monkeypatch.setattr(os, "fsync", no_locks)  # now files, too
    with pytest.raises(OSError, match="could not be written"):
        save_model(tmp_path / "net.safetensors", small(), SCHEDULE)


# ---- a full disk ----------------------------------------------------------------------------------------------


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("nth", range(5))
def test_a_full_disk_is_one_clear_error_and_spoils_nothing(nth, two, monkeypatch):
    """The disk is full at the first, second, .. file; once there is room, the run goes on to the same bits."""
    write, count = checkpoint._write, iter(range(100))
    with monkeypatch.context() as m:
        m.setattr(checkpoint, "_write", lambda *args: no_space() if next(count) == nth else write(*args))
        with pytest.raises(
            OSError, match=r"could not be written .No space left on device.; earlier ones are"
        ) as caught:
            fit(SCHEDULE, small(), points, quick(save_every=5), folder=two)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(path.name for path in two.iterdir()) == ["step-00000005", "step-00000010"]
    resumed = fit(SCHEDULE, small(), points, quick(save_every=5), folder=two)
    assert same(resumed.model, fit(SCHEDULE, small(), points, quick()).model)


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_so_is_a_disk_that_fails_at_the_last_moment(call, two, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(checkpoint.os, call, no_space)
        with pytest.raises(OSError, match="could not be written"):
            fit(SCHEDULE, small(), points, quick(save_every=5), folder=two)
    assert sorted(path.name for path in two.iterdir()) == ["step-00000005", "step-00000010"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, Linux's disk that is always full")
def test_a_disk_that_is_really_full(two, monkeypatch):
    def full(path, mode):
        return Path("/dev/full").open(mode)

    monkeypatch.setattr(checkpoint, "open", full, raising=False)
    with pytest.raises(OSError, match="No space left on device"):
        fit(SCHEDULE, small(), points, quick(save_every=5), folder=two)
    assert len(list_checkpoints(two)) == 2


# ---- a killed process -----------------------------------------------------------------------------------------


def run_killed(what, folder):
    command = [sys.executable, killed.__file__, what, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout)


needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="forks and kills processes as Linux does")


@needs_fork
@pytest.mark.slow
def test_killed_at_random_moments_the_run_ends_with_the_same_bits(tmp_path):
    outcome = run_killed("random", tmp_path)  # which compares every file of the last checkpoint
    assert outcome["killed"] >= 20
    assert outcome["runs"] >= 1


@needs_fork
def test_killed_at_every_moment_of_a_write_there_is_a_sound_checkpoint(tmp_path):
    outcome = run_killed("everywhere", tmp_path)
    found = outcome["found"]
    assert set(found) == {4, 6}  # the one before, until the new one has its name
    assert found == sorted(found)
    assert set(outcome["replaced"]) == {6}  # the old one, until the new one has its name
    assert outcome["left"] == ["step-00000004", "step-00000006"]  # what killed writers left behind is gone


# ---- weights to ship ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "net",
    [lambda: small(classes=2), lambda: UNet(channels=3, T=50, width=8, multipliers=(1, 2), classes=4, dropout=0.1)],
)
def test_a_saved_model_comes_back(net, tmp_path):
    net, path = net(), tmp_path / "net.safetensors"
    save_model(path, net, SCHEDULE, {"command": "make it", "seed": 3, "curve": [1.0, 0.5]})
    model, schedule, provenance = load_model(path)
    assert type(model) is type(net)
    assert same(model, net)
    assert not model.training
    assert torch.equal(schedule.betas, SCHEDULE.betas)
    assert provenance == {"command": "make it", "seed": 3, "curve": [1.0, 0.5]}
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize("wrap", [partial(torch.compile, backend="eager"), nn.DataParallel, AveragedModel])
def test_what_is_wrapped_around_a_network_is_not_saved(wrap, tmp_path):
    wrapped, path = wrap(small()), tmp_path / "net.safetensors"
    save_model(path, wrapped, SCHEDULE)
    assert same(load_model(path).model, small())
    trainer = Trainer(SCHEDULE, wrapped, points, quick())
    assert type(trainer.model) is MLP
    assert trainer.network is wrapped
    trainer.save(tmp_path / "run")
    Trainer(SCHEDULE, small(), points, quick()).load(tmp_path / "run/step-00000000")
    own = nn.Sequential()
    own.module = small()  # a name that anyone may give to a part
    assert unwrapped(own) is own


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"must end in .safetensors, got '.*weights'"):
        save_model(tmp_path / "weights", small(), SCHEDULE)
    with pytest.raises(ValueError, match="model must be made for the schedule's T = 40, got one for T = 50"):
        save_model(tmp_path / "net.safetensors", small(), NoiseSchedule.linear(T=40))
    assert list(tmp_path.iterdir()) == []
    for name in (tmp_path / "weights", "runs/weights", "weights"):
        with pytest.raises(FileNotFoundError, match=rf"a .safetensors file, or .*, swiss_roll, got '{name}'"):
            load_model(name)


class Own(MLP):
    """A subclass, which load_model does not know."""


def changed_since():
    net = small()
    net.out = nn.Linear(16, 3)
    return net


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda: nn.Linear(2, 2), {}, "model must be one of MLP, UNet, not a subclass, got torch.nn.*Linear"),
        (lambda: Own(2, 50), {}, "model must be one of MLP, UNet, not a subclass, got .*test_loop.Own"),
        (lambda: AveragedModel(Own(2, 50)), {}, "model must be one of MLP, UNet, .*, got .*test_loop.Own"),
        (lambda: type("MLP", (MLP,), {})(2, 50), {}, r"model must be one of MLP, UNet, .*, got .*\.MLP"),
        (changed_since, {}, r"model must be as its config says, .*: out.weight is \(3, 16\) there"),
        (small, {"dtype": torch.int8}, "dtype must be torch.float16, .* or torch.float64, got torch.int8"),
        (small, {"dtype": torch.complex64}, "dtype must be torch.float16, .*, got torch.complex64"),
        (small, {"dtype": torch.float8_e4m3fn}, "dtype must be torch.float16, .*, got torch.float8_e4m3fn"),
        (small, {"provenance": {"loss": torch.ones(2)}}, "provenance .* JSON can hold, and 'loss' is not: .*Tensor"),
        (small, {"provenance": {"seed": 0, "n": np.int64(5)}}, "provenance .* JSON can hold, and 'n' is not: .*int64"),
        (small, {"provenance": {"run": {"loss": math.nan}}}, "provenance .* JSON can hold, and 'run' is not: .*float"),
        (small, {"provenance": {"sizes": {(1, 2): 3}}}, "provenance .* JSON can hold, and 'sizes' is not: .*tuple"),
    ],
)
def test_what_load_model_would_refuse_is_not_saved(make, options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        save_model(tmp_path / "run/net.safetensors", make(), SCHEDULE, **options)
    assert list(tmp_path.iterdir()) == []


def test_provenance_is_what_json_makes_of_it(tmp_path):
    """Its keys are strings, in whose order the checksum is taken: 10 comes before 9."""
    path = tmp_path / "net.safetensors"
    save_model(path, small(), SCHEDULE, {"losses": {9: 0.5, 10: (1, None)}})
    assert load_model(path).provenance == {"losses": {"9": 0.5, "10": [1, None]}}


def test_a_device_without_float64_is_refused(tmp_path):
    with torch.device("meta"):
        net = small()
    save_model(tmp_path / "net.safetensors", small(), SCHEDULE)
    with NoFloat64():
        for work in (
            lambda: SCHEDULE.to("meta"),
            lambda: load_model(tmp_path / "net.safetensors", "meta"),
            lambda: Trainer(SCHEDULE, net, points, quick()),
        ):
            with pytest.raises(ValueError, match=r"device must be cpu or cuda, .* got 'meta'"):
                work()


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        save_model(tmp_path / f"{name}.safetensors", small(), SCHEDULE, {"seed": 0, "data": "points"})
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_half_precision_halves_the_file_and_rounds_to_eleven_bits(tmp_path):
    net = small(width=64)
    save_model(tmp_path / "full.safetensors", net, SCHEDULE)
    save_model(tmp_path / "half.safetensors", net, SCHEDULE, dtype=torch.float16)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.56 * sizes[1]
    model = load_model(tmp_path / "half.safetensors").model
    for name, weights in model.state_dict().items():
        assert weights.dtype == torch.float32
        # half a unit in the eleventh bit, or half the smallest step there is below 2^-14
        torch.testing.assert_close(weights, net.state_dict()[name], rtol=2**-11, atol=2**-25)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    net = small()
    nn.init.constant_(net.out.bias, 1e5)
    save_model(tmp_path / "fine.safetensors", net, SCHEDULE)
    with pytest.raises(ValueError, match=r"finite in torch.float16; these are not: out.bias"):
        save_model(tmp_path / "net.safetensors", net, SCHEDULE, dtype=torch.float16)
    assert not (tmp_path / "net.safetensors").exists()


def reword(path):
    path.write_bytes(path.read_bytes().replace(b"made by me", b"made by 1t"))


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, reword])
def test_damaged_weights_are_refused(damage, tmp_path):
    path = tmp_path / "net.safetensors"
    save_model(path, small(), SCHEDULE, {"note": "made by me"})
    damage(path)
    with pytest.raises(ValueError, match=r"net.safetensors is (damaged|not a whole)"):
        load_model(path)


def test_weights_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(safetensors.torch.save({"w": torch.zeros(2)}))
    with pytest.raises(ValueError, match="does not hold a network of diffnotes: KeyError"):
        load_model(path)
    save_model(path, small(), SCHEDULE)
    tensors = safetensors.torch.load(path.read_bytes())
    header = json.loads(safe_open(path, "pt").metadata()["diffnotes"]) | {"config": {"dim": 3, "T": 50}}
    del header["sha256"]
    header["sha256"] = checkpoint._digest(tensors, header)  # undamaged, and of another network than it says
    path.write_bytes(safetensors.torch.save(tensors, {"diffnotes": json.dumps(header)}))
    with pytest.raises(ValueError, match=r"of another architecture: modulation.weight"):
        load_model(path)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "nothing.safetensors")


def test_a_full_disk_leaves_the_weights_that_were_there(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    save_model(path, small(), SCHEDULE)
    monkeypatch.setattr(checkpoint.os, "fsync", no_space)
    with pytest.raises(OSError, match="weights could not be written"):
        save_model(path, small(seed=1), SCHEDULE)
    assert same(load_model(path).model, small())
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


# ---- how well it learns ---------------------------------------------------------------------------------------


def excess(schedule, net, oracle, x0, generator):
    """How far a network's loss is above the smallest there is, E||eps - E[eps | x_t]||^2, as a share of it.

    Two numbers, each with its standard error: E||net - E[eps | x_t]||^2, which the excess is in expectation and which
    cannot be negative, and the difference of the two losses on one sample, which could.
    """
    n = len(x0)
    t = draw_times(schedule.T, n, "stratified", generator)
    noise = torch.randn(x0.shape, generator=generator)
    x_t = q_sample(schedule, x0, t, noise)
    with torch.no_grad():
        best, ours = oracle.eps(schedule)(x_t, t), net(x_t, t)
    floor = (noise - best).square().mean(1)
    pairs = (ours - best).square().mean(1), (noise - ours).square().mean(1) - floor
    return [(float(v.mean() / floor.mean()), float(v.std() / math.sqrt(n) / floor.mean())) for v in pairs]


@pytest.mark.slow
def test_a_small_mlp_comes_within_one_per_cent_of_the_floor(generator):
    data, schedule = ring(8), NoiseSchedule.linear(T=1000)
    torch.manual_seed(0)
    config = TrainConfig(steps=1200, batch=1024, rate=5e-3, warmup=100)
    net = fit(schedule, MLP(dim=2, T=1000), data.sample, config).ema
    (above, error), (difference, spread) = excess(
        schedule, net, data, data.sample(100_000, generator).float(), generator
    )
    print(f"above the floor: {above:.3%} +- {error:.3%}; as a difference of losses: {difference:.3%} +- {spread:.3%}")
    assert above + 3 * error < 0.01
    assert abs(difference - above) < 4 * spread  # two estimates of one number
    assert difference > -3 * spread  # nothing goes under the floor


def test_the_swiss_roll_that_is_shipped(generator):
    path = checkpoint.SHIPPED / "swiss_roll.safetensors"
    assert path.stat().st_size < 400_000
    net, schedule, provenance = load_model("swiss_roll")
    assert provenance["command"].startswith("python -m diffnotes train --preset swiss-roll --out ")
    preset = cli.PRESETS["swiss-roll"]()
    assert torch.equal(schedule.betas, preset.schedule.betas)
    assert net.config == preset.network().config
    assert provenance["settings"] == dataclasses.asdict(preset.config)
    oracle = swiss_roll_mixture()
    (above, error), (difference, spread) = excess(
        schedule, net, oracle, oracle.sample(10_000, generator).float(), generator
    )
    assert above + 3 * error < 0.01
    assert abs(difference - above) < 4 * spread
    # at T/2 the roll can still be made out, at T it cannot: what the figure needs
    assert schedule.alpha_bars[500] > 0.9
    assert schedule.alpha_bars[1000] < 1e-3


def test_the_command_line_trains_and_resumes(tmp_path, capsys):
    command = ["train", "--preset", "swiss-roll", "--steps", "120", "--folder", str(tmp_path / "run"), "--out"]
    cli.main([*command, str(tmp_path / "one.safetensors"), "--device", "cpu"])
    assert "one.safetensors: loss 0." in capsys.readouterr().out
    cli.main([*command, str(tmp_path / "two.safetensors"), "--device", "cpu"])  # which has nothing left to do
    one, two = (load_model(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert same(one.model, two.model)
    assert one.provenance["settings"]["steps"] == 120
    assert one.provenance["command"].startswith("python -m diffnotes train --preset swiss-roll --steps 120")
    with pytest.raises(SystemExit):
        cli.main(["train", "--preset", "nothing", "--out", str(tmp_path / "three.safetensors")])
    assert "invalid choice: 'nothing'" in capsys.readouterr().err
