"""The three commands: what they write and print, that looking on changes no bit, and one line for what goes wrong."""

import dataclasses
import errno
import io
import json
import math
import os
import re
import runpy
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
import several
import torch
from PIL import Image
from torch import nn

from diffnotes.book import generalisation
from diffnotes.data import Images, to_bytes
from diffnotes.objective import VLBTerms, vlb_terms
from diffnotes.schedule import NoiseSchedule
from diffnotes.training import checkpoint, distributed, presets, run
from diffnotes.training import commands as cli
from diffnotes.training.checkpoint import list_checkpoints, load_model, save_model
from diffnotes.training.loop import Shuffled, TrainConfig, seed_of
from diffnotes.training.networks import MLP, UNet
from diffnotes.training.presets import PRESETS, Preset
from diffnotes.training.watch import Metrics, Pictures, png
from tools import classifier, halves, measure

SCHEDULE = NoiseSchedule.linear(T=50)


def pictures(n=12, channels=1, side=8, seed=0):
    """Images whose pixels are bytes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, side, side), generator=generator) / 127.5 - 1


@pytest.fixture(autouse=True)
def quick(one_thread, monkeypatch):
    """A preset that takes no time."""
    config = TrainConfig(steps=120, batch=4, warmup=10, label_drop=0.1, save_every=40)
    y = torch.arange(12) % 3
    preset = Preset(
        SCHEDULE,
        lambda: several.network(torch.float32, dropout=0.2),  # which draws from the global generator
        lambda folder: (pictures(), y),
        "quick",
        config,
        shape=(1, 8, 8),
    )
    monkeypatch.setitem(PRESETS, "quick", lambda: preset)
    monkeypatch.setitem(cli.BY_CHANNELS, 1, (lambda split, folder: (pictures(20), torch.arange(20) % 3), 8))


def train(folder, *more, out="weights.safetensors"):
    cli.main(["train", "--preset", "quick", "--device", "cpu", "--out", str(folder / out), *more])
    return folder / out


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def refused(*command):
    """The one line that a command ends with; a string as the code of an exit is printed, and the status is 1."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(word) for word in command])
    assert isinstance(caught.value.code, str)
    assert "\n" not in caught.value.code
    assert caught.value.code.startswith("diffnotes: ")
    return caught.value.code


def misread(capsys, *command, main=cli.main):
    """The one line about an option that cannot be meant; the status is 2."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in command])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


# ---- train ----------------------------------------------------------------------------------------------------


def test_what_looks_on_changes_no_bit(tmp_path):
    alone = load_model(train(tmp_path)).model
    watched = load_model(
        train(tmp_path, "--folder", str(tmp_path / "run"), "--grid-every", "100", out="watched.safetensors")
    ).model
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name])
    assert steps(tmp_path / "run/metrics.jsonl") == [50, 100, 120]
    assert sorted(path.name for path in (tmp_path / "run/samples").iterdir()) == [
        f"step-{step:08d}.png" for step in (100, 120)
    ]
    with Image.open(tmp_path / "run/samples/step-00000120.png") as image:
        assert (image.size, image.mode) == ((3 * 8 + 2 * 2, 8 * 8 + 7 * 2), "L")  # a column a class, eight rows


def test_options_take_the_place_of_the_presets(tmp_path):
    words = "--steps 8 --seed 3 --batch 6 --accumulate 2 --warmup 1 --save-every 5 --bf16"
    settings = load_model(train(tmp_path, *words.split(), "--folder", str(tmp_path / "a"))).provenance["settings"]
    expected = {"steps": 8, "seed": 3, "batch": 6, "accumulate": 2, "warmup": 1, "save_every": 5, "bf16": True}
    assert {name: settings[name] for name in expected} == expected
    assert settings["label_drop"] == 0.1
    other = load_model(train(tmp_path, *words.split(), "--folder", str(tmp_path / "b"), "--no-bf16"))
    assert other.provenance["settings"]["bf16"] is False


@pytest.mark.parametrize("name", ["fashion-cpu", "fashion-gpu", "cifar10-gpu"])
def test_the_presets_for_images_fit_together(name, monkeypatch):
    """Their data are not here; a handful of images of the same kind take a step (of a smaller network, for time)."""
    x, y = pictures(8, *{"c": (3, 32), "f": (1, 28)}[name[0]]), torch.arange(8)
    for loader in ("fashion_mnist", "cifar10"):
        monkeypatch.setattr(presets, loader, lambda split, folder, progress: Images(x, y))
    preset = PRESETS[name]()
    data = preset.data(Path("somewhere"))
    if isinstance(data, Shuffled):
        assert data.x.dtype == torch.uint8
        assert data.flip == (name == "cifar10-gpu")
    with torch.device("meta"):
        net = preset.network()
        assert net(torch.zeros(2, *preset.shape), torch.ones(2, dtype=torch.int64)).shape == (2, *preset.shape)
    assert (net.T, net.classes) == (preset.schedule.T, 10)
    assert preset.config.label_drop == 0.1


# ---- metrics ----------------------------------------------------------------------------------------------------


def test_metrics_are_what_they_say(tmp_path):
    seen = []
    trainer = several.trainer(TrainConfig(steps=10, batch=8, warmup=2, clip=0.01))
    metrics = Metrics(tmp_path, every=4)
    for _ in range(10):
        trainer.step()
        metrics(trainer)
        # after clipping the gradient has the length 0.01, and gradient_norm tells the length before
        length = torch.cat([w.grad.flatten() for w in trainer.model.parameters()]).norm()
        assert float(length) == pytest.approx(0.01, rel=1e-3)
        seen.append(float(trainer.gradient_norm))
    lines = [json.loads(line) for line in metrics.path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 10]
    for line, part in zip(lines, (slice(0, 4), slice(4, 8), slice(8, 10)), strict=True):
        assert line["loss"] == pytest.approx(float(trainer.losses[part].mean()), rel=1e-6)
        assert line["gradient_norm"] == pytest.approx(seen[line["step"] - 1])
        assert line["images_per_second"] > 0
    assert min(seen) > 0.02


def test_a_torn_line_is_repaired_and_steps_are_not_told_twice(tmp_path):
    """Killed after step 100, in the middle of a line; the newest checkpoint is of step 80."""
    train(tmp_path, "--folder", str(tmp_path / "run"))
    path = tmp_path / "run/metrics.jsonl"
    whole = path.read_bytes()
    for checkpoints in list_checkpoints(tmp_path / "run")[-1:]:
        for file in checkpoints.iterdir():
            file.unlink()
        checkpoints.rmdir()
    assert list_checkpoints(tmp_path / "run")[-1].name == "step-00000080"
    path.write_bytes(whole[:-30])
    train(tmp_path, "--folder", str(tmp_path / "run"))
    assert steps(path) == [50, 100, 120]
    path.write_bytes(whole + b'{"step": 12')
    metrics = Metrics(tmp_path / "run")
    metrics._start(done=100)
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])


def test_metrics_of_another_tool_or_run_are_kept_under_another_name(tmp_path):
    ours = '{"step": 50}\n{"step": 100}\n'
    for done, old, now in (
        (0, '{"epoch": 1}\n{"epoch": 2}\n', ""),
        (0, "epoch,loss\n1,0.5\n", ""),
        (0, ours, ""),  # perhaps of a run that ended, whose checkpoints have been moved
        (100, '{"epoch": 1}\n' + ours, ours),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "metrics.jsonl").write_text(old)
        Metrics(folder)._start(done)
        aside, *rest = sorted(folder.iterdir(), key=lambda path: path.name == "metrics.jsonl")
        assert aside.name.startswith("metrics.jsonl.old-")
        assert aside.read_text() == old
        assert [path.read_text() for path in rest] == [now]


def test_what_is_not_finite_is_null(tmp_path):
    metrics = Metrics(tmp_path, every=1)
    trainer = several.trainer()
    trainer.step()
    trainer.gradient_norm = torch.tensor(math.inf)
    metrics(trainer)
    line = json.loads(metrics.path.read_text())
    assert (line["step"], line["gradient_norm"]) == (1, None)
    assert line["loss"] == pytest.approx(float(trainer.losses[0]))


# ---- pictures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_images(channels, tmp_path):
    x = pictures(5, channels, 6)
    (tmp_path / "a.png").write_bytes(png(x, columns=3))
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        sheet = torch.from_numpy(np.array(image)).reshape(14, 22, channels)
    for i in range(5):
        top, left = 8 * (i // 3), 8 * (i % 3)
        assert torch.equal(sheet[top : top + 6, left : left + 6].permute(2, 0, 1), to_bytes(x[i]))
    assert (sheet[6:8] == 255).all()
    assert (sheet[8:, 16:] == 255).all()  # the place that is left


def test_every_byte_comes_back():
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    assert torch.equal(to_bytes(x / 127.5 - 1), x)


def test_what_is_no_picture(no_shape_checks):
    for shape in ((4, 2, 8, 8), (4, 8, 8), (4, 1, 8), (0, 1, 8, 8)):
        with pytest.raises(ValueError, match=rf"images with 1 or 3 channels, got shape {re.escape(str(shape))}"):
            png(torch.zeros(shape), 2)
    for columns, words in ((0, "be at least 1, got 0"), (2.5, "be a whole number, got 2.5")):
        with pytest.raises(ValueError, match=f"columns must {words}"):
            png(torch.zeros(4, 1, 8, 8), columns)
    for shape, words in (
        ((8, 8), r"be \(1 or 3, height, width\), got \(8, 8\)"),
        ((2, 8, 8), r"be \(1 or 3, height, width\), got \(2, 8, 8\)"),
        (4, "be a sequence of whole numbers, got 4"),
        ((1, 4.5, 4), "be a whole number, got 4.5"),
    ):
        with pytest.raises(ValueError, match=f"shape must {words}"):
            Pictures(".", 5, shape)
    for make in (lambda: Metrics(".", every=0), lambda: Pictures(".", 0, (1, 8, 8))):
        with pytest.raises(ValueError, match="every must be at least 1, got 0"):
            make()


# ---- sample ---------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path):
    save_model(tmp_path / "net.safetensors", several.network(torch.float32), SCHEDULE)
    return tmp_path / "net.safetensors"


@pytest.mark.parametrize(
    "words",
    [
        "--steps 5",
        "--steps 5 --eta 0.5 --classes 2 0 --guidance 0.5",
        "--steps 5 --eta sigma_hat",
        "--sampler ddpm",
        "--steps 5 --spacing linspace --bf16",
        "--sampler 2m --steps 5 --classes 1",
    ],
)
def test_samples_are_written_and_the_seed_decides_them(words, weights, tmp_path, capsys):
    def draw(name, seed):
        out = [str(tmp_path / f"{name}.{kind}") for kind in ("png", "npz")]
        more = ["--count", "7", "--batch", "3", "--device", "cpu", "--seed", seed, *words.split()]
        cli.main(["sample", str(weights), *more, "--out", *out])
        assert f"{name}.npz: 7 samples" in capsys.readouterr().out
        return dict(np.load(out[1]))

    one, two, other = draw("one", "0"), draw("two", "0"), draw("other", "1")
    assert one["x"].shape == (7, 1, 8, 8)
    assert np.isfinite(one["x"]).all()
    assert np.abs(one["x"]).max() <= 1
    assert np.array_equal(one["x"], two["x"])
    assert not np.array_equal(one["x"], other["x"])
    chosen = [int(c) for c in words.partition("--classes ")[2].split(" --")[0].split()] or [-1]
    assert one["y"].tolist() == [chosen[i % len(chosen)] for i in range(7)]
    with Image.open(tmp_path / "one.png") as image:
        columns = len(chosen) if chosen != [-1] else 3
        assert image.size[0] == 10 * columns - 2


def test_each_sampler_is_the_one_it_is_called():
    """With the exact model of N(0, 1): DDIM keeps the order of x_T, so eta and DDPM must break it, and 2M must not."""

    class Exact(MLP):
        def forward(self, x_t, t, y=None):
            return SCHEDULE.at(SCHEDULE.sqrt_one_minus_alpha_bars, t, x_t) * x_t

    def draw(**how):
        return run.samples(SCHEDULE, Exact(dim=1, T=50), 400, (1,), batch=400, **how).flatten()

    plain, multistep = draw(steps=50), draw(sampler="2m", steps=50)
    noisy = [draw(steps=50, eta=1.0), draw(sampler="ddpm"), draw(steps=50, eta="sigma_hat")]
    assert torch.equal(plain.argsort(), multistep.argsort())
    for x in noisy:
        assert abs(float(torch.corrcoef(torch.stack([x, plain]))[0, 1])) < 0.5
    assert not torch.equal(noisy[0], noisy[2])


def test_points_are_sampled_into_numbers_only(tmp_path):
    words = ["sample", "swiss_roll", "--device", "cpu", "--count", "10", "--steps", "10", "--out"]
    cli.main([*words, str(tmp_path / "a.npz")])
    assert np.load(tmp_path / "a.npz")["x"].shape == (10, 2)
    assert "out must be an .npz file: samples of shape (2,) are not images" in refused(*words, tmp_path / "a.png")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--eta 0.5 --sampler ddpm", "eta must be 0 for any sampler but 'ddim', got 0.5 for 'ddpm'"),
        ("--guidance 2", "guidance must be 0 without classes to guide towards, got 2.0"),
        ("--classes 3", "classes must lie in 0..2, got [3]"),
        ("--guidance -2 --classes 1", "guidance must lie in [-1, inf), got -2.0"),
        ("--eta 1.5", "eta must lie in [0, 1]"),
        ("--steps 51", "steps must"),
        ("--count 100000000000000", "out of memory"),
        *((f"--device {name}", "device must be cpu or cuda") for name in ("nowhere", "mps", "xpu", "vulkan")),
        *((f"--device {name}", "device must be cpu or cuda") for name in ("hpu", "meta", "cuda:99")),
    ],
)
def test_what_cannot_be_sampled(words, complaint, weights, tmp_path):
    assert complaint in refused("sample", weights, "--out", tmp_path / "a.png", *words.split())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schedule": NoiseSchedule.linear(T=40)}, "model must be made for the schedule's T = 40, got one for T = 50"),
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": 2.5}, "n must be a whole number, got 2.5"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"batch": 2.5}, "batch must be a whole number, got 2.5"),
        ({"steps": 2.5}, "steps must be a whole number, got 2.5"),
        ({"seed": math.nan}, "seed must be a whole number, got nan"),
        ({"shape": 4}, "shape must be a sequence of whole numbers, got 4"),
        ({"shape": (1, 4.0, 4)}, "shape must be a whole number, got 4.0"),
        ({"shape": (1, -4, 4)}, "shape must be at least 0, got -4"),
        ({"sampler": "euler"}, "sampler must be one of"),
        ({"spacing": None}, "spacing must be one of"),
        ({"eta": math.nan}, "eta must lie in"),
        ({"eta": "a"}, "eta must lie in"),
        ({"clip": "a"}, "clip must be a number"),
        ({"clip": 0.0}, r"clip must lie in \(0, inf\), got 0.0"),
        ({"classes": 1}, "classes must be a sequence of whole numbers, got 1"),
        ({"classes": [1.0]}, "classes must be a whole number, got 1.0"),
        ({"guidance": "a", "classes": [1]}, "guidance must be a number in .*, got 'a'"),
        ({"guidance": math.nan, "classes": [1]}, r"guidance must lie in \[-1, inf\), got nan"),
        ({"guidance": math.inf, "classes": [1]}, r"guidance must lie in \[-1, inf\), got inf"),
        ({"bf16": "no"}, "bf16 must be True or False, got 'no'"),
        ({"model": nn.DataParallel(MLP(2, 50)), "classes": [1]}, r"classes must be empty for this network, got \[1\]"),
    ],
)
def test_what_cannot_be_sampled_in_python(change, complaint, no_shape_checks):
    with pytest.raises(ValueError, match=complaint):
        run.samples(**{"schedule": SCHEDULE, "model": several.network(), "n": 3, "shape": (1, 4, 4)} | change)


class Wrapped(nn.Module):
    """What torch.compile makes of a network, without the compiler."""

    def __init__(self, net):
        super().__init__()
        self._orig_mod, self.T, self.classes, self.calls = net, net.T, net.classes, 0

    def forward(self, *args):
        self.calls += 1
        return self._orig_mod(*args)


def test_a_compiled_network_is_called_as_such(no_shape_checks):
    """Not the network inside, which would be slower."""
    net, how = several.network(torch.float32), {"n": 3, "shape": (1, 4, 4), "steps": 2, "classes": [1]}
    wrapped = Wrapped(net)
    assert torch.equal(run.samples(SCHEDULE, wrapped, **how), run.samples(SCHEDULE, net, **how))
    assert wrapped.calls == 2
    with pytest.raises(ValueError, match="classes must be empty for this network"):
        run.samples(SCHEDULE, nn.DataParallel(net), **how)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_numbers_of_numpy_and_torch_are_numbers(kind, no_shape_checks):
    def draw(shape, classes, whole=int, real=float):
        numbers = {"steps": whole(2), "seed": whole(1), "batch": whole(2), "eta": real(0.5), "guidance": real(2)}
        return run.samples(SCHEDULE, several.network(torch.float32), whole(3), shape, classes=classes, **numbers)

    x = draw((1, 4, 4), [2, 0])
    assert torch.equal(draw(kind([1, 4, 4]), kind([2, 0]), np.int64, np.float32), x)
    assert torch.equal(draw(kind([1, 4, 4]), kind([2, 0])), x)
    assert run.labels(3, kind([2, 0])).tolist() == [2, 0, 2]
    assert run.labels(np.int64(2), kind([])).tolist() == [-1, -1]
    same = [
        run.likelihood(SCHEDULE, several.network(torch.float32), pictures(4), every=m, seed=s, batch=b)
        for m, s, b in ((9, 1, 2), (np.int64(9), np.int64(1), np.int64(2)))
    ]
    assert same[0] == same[1]


def test_a_network_without_classes_has_none_to_sample(tmp_path):
    said = refused("sample", "swiss_roll", "--out", tmp_path / "a.npz", "--classes", "0")
    assert "classes must be empty for this network, got [0]" in said


# ---- evaluate -------------------------------------------------------------------------------------------------


def test_evaluate_prints_one_object_of_json(weights, capsys):
    def report(*more):
        words = ["evaluate", str(weights), "--device", "cpu", "--batch", "5", *more]
        cli.main(words)
        return json.loads(capsys.readouterr().out)

    whole, some = report(), report("--every", "7", "--count", "12", "--conditional")
    assert (whole["images"], some["images"], some["conditional"]) == (20, 12, True)
    assert whole["bits_per_dim"] == pytest.approx(sum(whole[name] for name in ("L_T", "L_t", "L_0")), abs=1e-5)
    assert whole["stderr"] > 0


def test_samples_are_compared_with_real_images(tmp_path, capsys, monkeypatch):
    """Fake samples: the first test images themselves, so the distance is small and the classifier is mostly right."""
    images = type(whole := cli.fashion_mnist("test"))(whole.x[:1500], whole.y[:1500])
    monkeypatch.setattr(cli, "fashion_mnist", lambda split, folder: images)
    monkeypatch.setitem(cli.BY_CHANNELS, 1, (cli.fashion_mnist, 28))
    monkeypatch.setattr(run, "samples", lambda schedule, net, n, *how, **more: images.x[images.y == 3][:n])
    net = UNet(channels=1, T=50, width=4, multipliers=(1,), classes=10)
    save_model(tmp_path / "net.safetensors", net, SCHEDULE)
    words = ["--every", "50", "--count", "4", "--batch", "2", "--frechet", "120", "--classes", "3"]
    cli.main(["evaluate", str(tmp_path / "net.safetensors"), "--device", "cpu", *words])
    report = json.loads(capsys.readouterr().out)["frechet"]
    assert report["samples"] == 120
    assert report["agreement"] > 0.85  # the classifier knows 93.7% of all, and dresses are not its worst
    assert report["distance"] > 10 * report["stderr"]  # nothing but dresses is not the whole wardrobe
    monkeypatch.setattr(run, "samples", lambda schedule, net, n, *how, **more: images.x[:n])
    cli.main(["evaluate", str(tmp_path / "net.safetensors"), "--device", "cpu", *words[:-2]])
    mixed = json.loads(capsys.readouterr().out)["frechet"]
    assert mixed["distance"] < report["distance"] / 5
    assert "agreement" not in mixed


WEIGHED = "evaluate fashion --device cpu --count 4 --batch 2 --every 500"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        *(
            (words, f"{words[2:].split()[0]} must be left out without --frechet, as no samples are drawn, got ")
            for words in ("--sampler ddpm", "--steps 5000000", "--eta 7", "--eta sigma_hat", "--spacing leading")
        ),
        ("--guidance -50", "guidance must be left out without --frechet, as no samples are drawn, got -50.0"),
        ("--classes 3 99", "classes must be left out without --frechet, as no samples are drawn, got [3, 99]"),
        ("--bf16", "bf16 must be left out without --frechet, as no samples are drawn, got True"),
        ("--frechet 3 --classes 10", "classes must lie in 0..9, got [10]"),
        ("--frechet 3 --sampler ddpm --eta 0.5", "eta must be 0 for any sampler but 'ddim'"),
        ("--frechet 3 --guidance 2", "guidance must be 0 without classes"),
        ("--frechet 3 --steps 1001", "steps must lie in 1..T = 1..1000, got 1001"),
        ("--count 20001", "count must be at most 20, the number of test images, got 20001"),
    ],
)
def test_options_are_looked_at_before_the_likelihood(words, complaint, monkeypatch):
    monkeypatch.setattr(run, "vlb_terms", lambda *how, **more: pytest.fail("hours go by"))
    if "frechet" in words:
        monkeypatch.setitem(cli.BY_CHANNELS, 1, (cli.fashion_mnist, 28))
    assert complaint in refused(*WEIGHED.split(), *words.split())


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--every 51", "every must lie in 1..50, got 51"),
        ("--conditional", "conditional must be left out for a network without classes"),
        ("--data nowhere", "data must be left out for Fashion-MNIST, whose test images ship, got nowhere"),
    ],
)
def test_options_are_looked_at_before_the_data_are_loaded(words, complaint, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "fashion_mnist", lambda *how, **more: pytest.fail("data were loaded"))
    monkeypatch.setitem(cli.BY_CHANNELS, 1, (cli.fashion_mnist, 8))
    save_model(tmp_path / "net.safetensors", UNet(channels=1, T=50, width=4, multipliers=(1,)), SCHEDULE)
    assert complaint in refused("evaluate", tmp_path / "net.safetensors", "--device", "cpu", *words.split())


@pytest.mark.parametrize("error", [OSError("the power went out"), KeyboardInterrupt()])
def test_the_likelihood_is_told_even_if_the_samples_fail(error, monkeypatch, capsys):
    def fail(*how, **more):
        raise error

    monkeypatch.setitem(cli.BY_CHANNELS, 1, (cli.fashion_mnist, 28))
    monkeypatch.setattr(run, "likelihood", lambda *how, **more: {"bits_per_dim": 3.0})
    monkeypatch.setattr(run, "samples", fail)
    with pytest.raises(SystemExit):
        cli.main([*WEIGHED.split(), "--frechet", "3"])
    assert json.loads(capsys.readouterr().out)["bits_per_dim"] == 3


def test_other_images_have_no_classifier(tmp_path):
    net = UNet(channels=3, T=50, width=4, multipliers=(1,))
    save_model(tmp_path / "net.safetensors", net, SCHEDULE)
    assert "frechet must be left out except for Fashion-MNIST" in refused(
        "evaluate", tmp_path / "net.safetensors", "--device", "cpu", "--frechet", 5
    )


def test_the_bound_is_that_of_vlb_terms():
    """Each batch with its own generator; no term left out."""
    net, x = several.network(torch.float32), pictures(8)
    found = run.likelihood(SCHEDULE, net, x, batch=3, seed=4)
    nats = []
    for number, part in enumerate(x.split(3)):
        generator = torch.Generator().manual_seed(seed_of(4, "likelihood", number))
        nats.append(vlb_terms(SCHEDULE, net, part, decoder="discrete", generator=generator).bound)
    bits = torch.cat(nats) / (64 * math.log(2))
    assert found["bits_per_dim"] == pytest.approx(float(bits.mean()), rel=1e-12)
    sums = torch.tensor([float((part - bits.mean()).sum()) for part in bits.split(3)])
    assert found["stderr"] == pytest.approx(math.sqrt(float(sums.square().sum()) * 3 / 2) / 8, rel=1e-6)


def test_terms_left_out_are_stood_for_exactly_on_average(monkeypatch):
    """Over all places that the first may have, each equally likely, every term counts once."""
    net, x, found = several.network(), pictures(2), []

    def terms(schedule, model, x0, *, ts, **how):
        zero, L_t = torch.zeros(len(x0)), torch.tensor([[1.0 / t**2 for t in ts]]).expand(len(x0), -1)
        return VLBTerms(zero, L_t, zero, ts, 50)

    monkeypatch.setattr(run, "vlb_terms", terms)
    for first in range(6):
        monkeypatch.setattr(run.torch, "randint", lambda *how, first=first, **more: torch.tensor(first))
        found.append(run.likelihood(SCHEDULE, net, x, every=6, batch=1)["bits_per_dim"])
    whole = sum(1 / t**2 for t in range(2, 51)) / (64 * math.log(2))
    assert len(set(found)) == 6
    assert sum(found) / 6 == pytest.approx(whole, rel=1e-6)


def test_the_standard_error_counts_batches():
    x = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert run._stderr(x, 1) == pytest.approx(float(x.std()) / 10)
    assert run._stderr(x.repeat_interleave(3), 3) == pytest.approx(float(x.std()) / 10)  # copies tell nothing new


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--every 51", "every must lie in 1..50, got 51"),
        ("--count 20 --batch 20", "batch must be below the number of images, 20"),
    ],
)
def test_what_cannot_be_evaluated(words, complaint, weights):
    assert complaint in refused("evaluate", weights, "--device", "cpu", *words.split())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"every": 2.5}, "every must be a whole number, got 2.5"),
        ({"batch": 2.5}, "batch must be a whole number, got 2.5"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"seed": math.nan}, "seed must be a whole number, got nan"),
        ({"variance": "small"}, "variance must be"),
        ({"images": pictures(0)}, "images must be two or more, for a standard error, got 0"),
        ({"images": pictures(1), "batch": 1}, "images must be two or more, for a standard error, got 1"),
        ({"images": pictures(4).numpy()}, "images must be a torch.Tensor, got ndarray"),
        ({"images": to_bytes(pictures(4))}, "images must be floating point, got torch.uint8"),
        ({"y": [0, 1, 2, 0]}, "y must be a torch.Tensor of whole numbers, got list"),
        ({"y": torch.zeros(4)}, "y must hold whole numbers, got torch.float32"),
        ({"y": torch.arange(3)}, r"y must have shape \(4,\), one per image, got \(3,\)"),
        ({"y": torch.tensor(1)}, r"y must have shape \(batch,\), got \(\)"),
        ({"y": torch.arange(4)}, r"y must lie in 0\.\.2, got 0 \.\. 3"),
        ({"y": torch.zeros(4).long(), "model": UNet(1, 50, 4)}, "model must have classes, got a UNet without any"),
        ({"images": pictures(4) * 0.99}, r"images must have bytes for pixels, k / 127\.5 - 1, got "),
        ({"images": pictures(4) * 2}, r"images must have bytes for pixels, k / 127\.5 - 1, got "),
    ],
)
def test_what_has_no_likelihood(change, complaint, no_shape_checks, monkeypatch):
    if "variance" not in change:
        monkeypatch.setattr(run, "vlb_terms", lambda *how, **more: pytest.fail("work was done"))
    usual = {"schedule": SCHEDULE, "model": several.network(torch.float32), "images": pictures(4), "batch": 2}
    with pytest.raises(ValueError, match=complaint):
        run.likelihood(**usual | change)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": 2.5}, "n must be a whole number, got 2.5"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"batch": "2"}, "batch must be a whole number, got '2'"),
        ({"shape": 2}, "shape must be a sequence of whole numbers, got 2"),
    ],
)
def test_what_cannot_be_dealt_out(change, complaint, no_shape_checks):
    with pytest.raises(ValueError, match=complaint):
        distributed.in_batches(lambda *how: pytest.fail("work was done"), **{"n": 3, "batch": 2} | change)


def test_points_have_no_bits_per_dimension():
    assert "weights must belong to a network for images, got an MLP" in refused("evaluate", "swiss_roll")


def test_a_network_for_images_of_no_known_kind(tmp_path):
    save_model(tmp_path / "net.safetensors", UNet(channels=2, T=50, width=4, multipliers=(1,)), SCHEDULE)
    assert "images with 1 or 3 channels, got 2" in refused("evaluate", tmp_path / "net.safetensors")


# ---- what goes wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        *(f"evaluate fashion {name}" for name in ("--count", "--every", "--batch", "--frechet", "--steps")),
        *(f"sample swiss_roll --out a.npz {name}" for name in ("--count", "--batch", "--steps")),
        *(f"train --preset quick --out a.safetensors {name}" for name in ("--steps", "--batch")),
        *(f"train --preset quick --out a.safetensors {name}" for name in ("--accumulate", "--grid-every")),
        "train --preset quick --out a.safetensors --save-every",
    ],
)
def test_a_number_that_counts_is_whole_and_positive(option, capsys):
    least = 1 + ("frechet" in option)
    for number in ("-9996", "2.5", "nan", "1e3", "9" * 30, "1" if least == 2 else "0"):
        assert f"must be a whole number, at least {least}" in misread(capsys, *option.split(), number)


def test_other_options_that_cannot_be_meant(tmp_path, capsys):
    (tmp_path / "file").touch()
    for words in ("--guidance nan", "--guidance inf", "--eta nan", "--eta=-inf", "--eta x"):
        said = misread(capsys, *["sample", "swiss_roll", "--out", "a.npz"], *words.split())
        assert "must be a finite number" in said
    for words in (["train", "--preset", "quick", "--out", "a.safetensors"], ["evaluate", "fashion"]):
        assert "must be a folder" in misread(capsys, *words, "--data", tmp_path / "file")
    misread(capsys)
    for main, option in ((classifier.main, "--epochs"), (halves.main, "--starts")):
        assert "must be a whole number" in misread(capsys, "--out", "a", option, "0", main=main)


@pytest.mark.parametrize("number", ["1.5", "nan", "9" * 30])
@pytest.mark.parametrize(
    "command", ["sample swiss_roll --out a.npz", "train --preset quick --out a.safetensors", "classifier --out a"]
)
def test_a_seed_is_one_that_torch_takes(command, number, capsys):
    words, main = (command.split(), cli.main) if "classifier" not in command else (["--out", "a"], classifier.main)
    said = misread(capsys, *words, "--seed", number, main=main)
    assert f"argument --seed: must be a whole number, at least {-(2**63)} and below 2^63, got '{number}'" in said


def test_every_option_has_a_help(monkeypatch):
    parsers = []

    def note(parser, *how):
        parsers.append(parser)
        raise SystemExit

    monkeypatch.setattr(ArgumentParser, "parse_args", note)
    for main in (cli.main, classifier.main, halves.main, lambda argv: measure.main()):
        with pytest.raises(SystemExit):
            main([])
    parsers += next(action.choices for action in parsers[0]._actions if action.dest == "what").values()
    options = {f"{parser.prog} {action.dest}": action.help for parser in parsers for action in parser._actions}
    assert len(parsers) == 7
    assert len(options) > 60
    assert [name for name, help in options.items() if not help and not name.endswith("diffnotes what")] == []


def test_the_list_of_commands_has_one_line_for_each(capsys):
    """Their own help tells the rest."""
    said = " ".join(cli.parser().format_help().split())
    assert "Print as JSON the bits per dimension of test images, with a standard error, and the terms" in said
    assert "--frechet N" not in said
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    assert "With --frechet N" in capsys.readouterr().out


def test_options_of_training_that_no_one_would_look_at(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "fit", lambda *how, **more: pytest.fail("work was done"))
    words = ["train", "--preset", "swiss-roll", "--out", tmp_path / "a.safetensors", "--data", tmp_path / "nowhere"]
    assert f"data must be None for a preset that draws its examples, got {tmp_path}" in refused(*words)
    assert "save_every must be left out without a folder, got 500" in refused(*words[:-2], "--save-every", "500")
    with pytest.raises(ValueError, match=r"sizes must be left out with --study, which has its own, got \[4\]"):
        halves.main(["--study", "--sizes", "4", "--folder", str(tmp_path)])


def test_where_nothing_can_be_written_no_work_is_done(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "folder.npz").mkdir()
    for module, name in ((cli, "load_model"), (cli.run, "fit"), (classifier, "fashion_mnist")):
        monkeypatch.setattr(module, name, lambda *how, **more: pytest.fail("work was done"))
    for out in (tmp_path / "weights", tmp_path / "weights.pt"):
        assert "must end in .safetensors" in refused("train", "--preset", "quick", "--out", out)
        with pytest.raises(ValueError, match=r"must end in .safetensors"):
            classifier.main(["--out", str(out)])
    assert "must end in .png or .npz" in refused("sample", "swiss_roll", "--out", tmp_path / "a.jpg")
    assert "a folder has this name" in refused("sample", "swiss_roll", "--out", tmp_path / "folder.npz")
    there = tmp_path / "file" / "a"
    words = ["train", "--preset", "quick", "--out"]
    assert "no file can be written there" in refused(*words, f"{there}.safetensors")
    assert "no file can be written there" in refused("sample", "swiss_roll", "--out", f"{there}.png")
    with pytest.raises(OSError, match="no file can be written there"):
        halves.main(["--folder", str(there)])
    with pytest.raises(ValueError, match=r"n must lie in 1..35000, got 40000"):
        halves.main(["--folder", str(tmp_path), "--sizes", "40000"])
    with pytest.raises(ValueError, match="device must be cpu or cuda"):
        halves.main(["--folder", str(tmp_path), "--device", "meta"])


def test_a_folder_that_cannot_be_written_is_seen_before_the_data_are_loaded(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    preset = dataclasses.replace(PRESETS["quick"](), data=lambda folder: pytest.fail("data were loaded"))
    monkeypatch.setitem(PRESETS, "quick", lambda: preset)
    words = ["train", "--preset", "quick", "--out", tmp_path / "a.safetensors", "--device", "cpu"]
    assert "Not a directory" in refused(*words, "--folder", tmp_path / "file" / "run")
    with pytest.raises(OSError, match="no file can be written there"):  # paths may be text, as everywhere
        run.train_preset(preset, preset.config, str(tmp_path / "file" / "a.safetensors"), folder=str(tmp_path))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train --preset quick --out a.safetensors", "diffnotes: stopped\n"),
        (
            "train --preset quick --out a.safetensors --folder run",
            "diffnotes: stopped; the same command goes on from the last checkpoint in run\n",
        ),
        ("sample swiss_roll --out a.npz", "diffnotes: stopped\n"),
        ("evaluate fashion --count 4 --batch 2", "diffnotes: stopped\n"),
    ],
)
def test_control_c_is_one_line(words, said, monkeypatch, capsys, tmp_path):
    def interrupted(*how, **more):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    for name in ("train_preset", "samples", "likelihood"):
        monkeypatch.setattr(run, name, interrupted)
    with pytest.raises(SystemExit) as caught:
        cli.main([*words.split(), "--device", "cpu"])
    assert (caught.value.code, capsys.readouterr().err) == (130, said)


@pytest.mark.parametrize(
    ("words", "who"),
    [
        (["-m", "diffnotes", "train"], "diffnotes"),
        *[([tool.__file__], Path(tool.__file__).stem) for tool in (classifier, halves, measure)],
    ],
)
def test_control_c_while_torch_is_imported_is_one_line(words, who, tmp_path):
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, *words, "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", f"{who}: stopped\n")


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        (halves, "--sizes 4", "halves: stopped; the same command trains what is left\n"),
        (measure, "images", "measure: stopped; the same command measures what is left\n"),
    ],
)
def test_what_can_go_on_says_so(module, words, said, monkeypatch, capsys, tmp_path, one_thread):
    def interrupted(*how, **more):
        raise KeyboardInterrupt

    for place, name in ((generalisation, "fit"), (checkpoint, "load_model")):
        monkeypatch.setattr(place, name, interrupted)
    monkeypatch.setattr(sys, "argv", ["a", *words.split(), "--folder", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(module.__file__, run_name="__main__")
    assert (caught.value.code, capsys.readouterr().err) == (130, said)


def test_a_reader_that_stops_reading_is_told_nothing(monkeypatch, capfd):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as caught:
            cli.main(["train", "--help"])
    assert (caught.value.code, capfd.readouterr()) == (1, ("", ""))


def test_help_on_an_ascii_pipe(monkeypatch):
    for command in ("train", "sample", "evaluate"):
        stdout = io.TextIOWrapper(content := io.BytesIO(), encoding="ascii")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout)
            with pytest.raises(SystemExit) as caught:
                cli.main([command, "--help"])
        assert caught.value.code == 0
        assert b"options:" in content.getvalue()


def test_without_a_compiler_it_is_one_line(tmp_path, monkeypatch):
    """Torch tells it in the first step, in a page."""
    inductor, dynamo = (pytest.importorskip(f"torch._{name}.exc") for name in ("inductor", "dynamo"))
    cause = inductor.InvalidCxxCompiler()
    if hasattr(inductor, "InductorError"):
        error = inductor.InductorError(cause, None)
    else:  # torch 2.6
        error = dynamo.BackendCompilerFailed(torch.compile, cause)
    error.args = (f"{error.args[0]}\n\nSet TORCHDYNAMO_VERBOSE=1 for the internal stack trace",)

    def fail(*how):
        raise error

    monkeypatch.setattr(cli.run.Trainer, "step", fail)
    said = refused("train", "--preset", "quick", "--out", tmp_path / "a.safetensors", "--device", "cpu")
    assert "--compile needs a working C++ compiler: " in said
    assert "InvalidCxxCompiler: No working C++ compiler found" in said
    assert "VERBOSE" not in said


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def no_space(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", no_space)
    words = ["train", "--preset", "quick", "--device", "cpu", "--steps", "12", "--out", tmp_path / "a.safetensors"]
    said = refused(*words, "--folder", tmp_path / "run")
    assert "the checkpoint could not be written (No space left on device); earlier ones are intact" in said
    assert "weights could not be written (No space left on device)" in refused(*words)
    assert not (tmp_path / "a.safetensors").exists()


def test_a_checkpoint_of_another_architecture_is_one_line(tmp_path):
    folder = ["--folder", str(tmp_path / "run")]
    train(tmp_path, *folder, "--steps", "40")
    words = ["train", "--preset", "swiss-roll", "--out", tmp_path / "a.safetensors", *folder]
    said = refused(*words)
    assert "can be used" in said
    assert "is of another architecture" in said


def test_pictures_need_a_folder_and_images(tmp_path):
    words = ["train", "--preset", "swiss-roll", "--out", tmp_path / "a.safetensors", "--grid-every", "5"]
    complaint = "grid_every must be None without a folder or without images, got 5"
    assert complaint in refused(*words)
    assert complaint in refused(*words, "--folder", tmp_path)


def test_a_corrupt_file_of_data_is_one_line_on_stderr_and_status_1(tmp_path):
    """As a user sees it: a process of its own, the real preset, a file that was damaged on its way."""
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"not what it should be")
    words = ["train", "--preset", "fashion-cpu", "--data", str(tmp_path), "--out", str(tmp_path / "a.safetensors")]
    ended = subprocess.run([sys.executable, "-m", "diffnotes", *words], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("diffnotes: ")
    assert "SHA-256" in ended.stderr
