"""The networks: what shape and type they keep, what they are told, and where they can run.

A fresh network predicts zeros whatever it is fed, so that a wrong one would pass: `grown` gives it random weights.
"""

import json
import math
import shutil
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from devices import fake, grown
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from diffnotes.objective import simple_loss
from diffnotes.schedule import NoiseSchedule
from diffnotes.training import networks as nets
from diffnotes.training.networks import MLP, UNet, drop_labels, time_embedding

T = 100


def small_unet(**config):
    return UNet(**({"channels": 1, "T": T, "width": 8, "multipliers": (1, 2)} | config))


CASES = {
    "points": (lambda **kw: MLP(dim=2, T=T, width=16, **kw), (2,)),
    "points of any shape": (lambda **kw: MLP(dim=12, T=T, width=16, **kw), (3, 4)),
    "grey image": (small_unet, (1, 8, 8)),
    "colour, not square": (lambda **kw: small_unet(channels=3, multipliers=(1, 2, 3), **kw), (3, 8, 12)),
    "one level, two blocks": (lambda **kw: small_unet(multipliers=(1,), blocks=2, **kw), (1, 5, 7)),
}


@pytest.fixture(params=CASES)
def case(request):
    make, event = CASES[request.param]
    return make, event


def inputs(event, n=6, dtype=torch.float32):
    return torch.randn(n, *event, dtype=dtype), torch.randint(1, T + 1, (n,))


# ---- what every network keeps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_eps_is_like_x_t_whatever_the_dtype_of_the_weights(case, dtype):
    make, event = case
    x, t = inputs(event, dtype=dtype)
    for net in (grown(make()), grown(make()).double(), grown(make()).bfloat16()):
        eps = net(x, t)
        assert eps.shape == x.shape
        assert eps.dtype == dtype
        assert eps.isfinite().all()


def test_a_fresh_network_predicts_no_noise_so_its_loss_is_that_of_the_noise(case):
    make, event = case
    x, t = inputs(event)
    noise = torch.randn_like(x)
    loss = simple_loss(NoiseSchedule.linear(T), make(), x, t, noise)
    torch.testing.assert_close(loss, noise.flatten(1).square().mean(1))


def test_every_weight_gets_a_gradient(case):
    make, event = case
    net = grown(make(classes=3))
    x, t = inputs(event)
    net(x, t, torch.tensor([0, 1, 2, 3, 0, 1])).square().sum().backward()
    assert [name for name, weights in net.named_parameters() if not weights.grad.abs().sum() > 0] == []


def test_examples_do_not_see_each_other(case):
    make, event = case
    net = grown(make()).double()
    x, t = inputs(event, dtype=torch.float64)
    together = net(x, t)
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1]) for i in range(len(x))])
    # sums of at most 9 * 48 products in another order, through about 20 layers: below 1e-12 of numbers of order 1
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_one_t_for_all_may_be_an_int(case):
    make, event = case
    net = grown(make())
    x, _ = inputs(event)
    assert torch.equal(net(x, 37), net(x, torch.full((len(x),), 37)))


def test_time_and_position_both_matter(case):
    make, event = case
    net = grown(make())
    x, t = inputs(event)
    assert not torch.allclose(net(x, 1), net(x, T))
    assert not torch.allclose(net(x, t), net(x.flip(0), t))


def test_a_network_can_be_built_again_from_its_config(case):
    make, event = case
    net = grown(make(classes=4))
    again = type(net)(**json.loads(json.dumps(net.config)))
    again.load_state_dict(net.state_dict())
    x, t = inputs(event)
    assert torch.equal(net(x, t), again(x, t))
    assert (again.T, again.classes) == (T, 4)
    assert nets.NETWORKS[type(net).__name__] is type(net)


# ---- time -----------------------------------------------------------------------------------------------------


def test_at_a_thousand_steps_the_embedding_is_the_usual_one():
    """Row t holds sin and cos of t times 10000^(-i / (half - 1)), here by Python's own math."""
    e = time_embedding(torch.tensor([1, 417, 1000]), T=1000, width=8, dtype=torch.float64)
    for row, t in zip(e, (1, 417, 1000), strict=True):
        angles = [t * 10_000 ** (-i / 3) for i in range(4)]
        # the angle, up to 1000, is rounded at 1000 * 2^-53 before its sine is taken: below 1e-12
        expected = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles]).double()
        torch.testing.assert_close(row, expected.to(row), rtol=0, atol=1e-6)
        exact = [f(a) for f in (math.sin, math.cos) for a in angles]
        assert max(abs(float(v) - w) for v, w in zip(row, exact, strict=True)) < 1e-12


def test_the_embedding_looks_at_t_over_T():
    for small, t in product((10, 100, 250), (0.1, 0.5, 1.0)):
        ours = time_embedding(torch.tensor([round(t * small)]), T=small, width=32, dtype=torch.float64)
        long = time_embedding(torch.tensor([round(t * 1000)]), T=1000, width=32, dtype=torch.float64)
        torch.testing.assert_close(ours, long, rtol=0, atol=1e-12)  # angles of 1000 rounded at 2^-53


@pytest.mark.parametrize("steps", [10, 1000, 4000])
def test_no_two_times_look_alike(steps):
    e = time_embedding(torch.arange(1, steps + 1), T=steps, width=32)
    # neighbours differ by 1000/T radians in the fastest pair, a chord of 2 sin(500/T)
    assert torch.pdist(e).min() > 0.9 * min(1, 2 * math.sin(min(500 / steps, math.pi / 2)))


def test_the_time_keeps_its_digits_where_the_network_works_in_bfloat16():
    """bfloat16 has 8 bits: t = 999 and t = 1000 are one number in it, and must not be to the network."""
    net = grown(MLP(dim=2, T=1000))
    x = torch.randn(4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(net(x, 999), net(x, 1000))
    net.bfloat16()
    assert not torch.equal(net(x, 999), net(x, 1000))


# ---- labels ---------------------------------------------------------------------------------------------------


def test_a_label_matters_and_leaving_it_out_is_a_label_too(case):
    make, event = case
    net = grown(make(classes=3))
    x, t = inputs(event)
    answers = [net(x, t, torch.full((len(x),), y)) for y in range(4)]
    for i, j in [(0, 1), (0, 2), (1, 2), (0, 3)]:
        assert not torch.allclose(answers[i], answers[j])
    assert torch.equal(net(x, t), answers[3])


def test_dropped_labels():
    y = torch.arange(10).repeat(1000)
    generator = torch.Generator().manual_seed(0)
    dropped = drop_labels(y, 0.2, 10, generator)
    assert set(dropped[dropped != y].tolist()) == {10}
    # a binomial share: standard error sqrt(0.2 * 0.8 / 10000) = 0.004
    assert abs(float((dropped == 10).double().mean()) - 0.2) < 4 * 0.004
    assert torch.equal(drop_labels(y, 0.2, 10, generator.manual_seed(0)), dropped)
    assert torch.equal(drop_labels(y, 0.0, 10), y)
    assert (drop_labels(y, 1.0, 10) == 10).all()


# ---- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MLP(dim=0, T=T), "dim must be at least 1, got 0"),
        (lambda: MLP(dim=2, T=0), "T must be at least 1, got 0"),
        (lambda: MLP(dim=2, T=T, classes=-1), "classes must be at least 0, got -1"),
        (lambda: small_unet(width=0), "width must be at least 1, got 0"),
        (lambda: small_unet(multipliers=()), "multipliers must be one or more"),
        (lambda: nets.Condition(T, 7), "must be even and at least 4, got 7"),
        (lambda: MLP(dim=2, T=T)(torch.zeros(5, 3), 1), r"2 coordinates per example, got \(5, 3\)"),
        (lambda: MLP(dim=2, T=T)(torch.zeros(5, 2), torch.ones(4).long()), r"t must have shape \(5,\)"),
        (lambda: MLP(dim=2, T=T)(torch.zeros(2, 2), 1, torch.zeros(2).long()), "made with classes=0"),
        (lambda: MLP(dim=2, T=T, classes=3)(torch.zeros(2, 2), 1, torch.tensor([0, 4])), r"in 0..3 \(3 = no"),
        (lambda: MLP(dim=2, T=T, classes=3)(torch.zeros(2, 2), 1, torch.tensor([-1, 0])), "got -1 .. 0"),
        (lambda: MLP(dim=2, T=T, classes=3)(torch.zeros(2, 2), 1, torch.tensor([0])), "y must have shape"),
        (lambda: small_unet()(torch.zeros(2, 3, 8, 8), 1), r"1 channel\(s\) and sides divisible by 2"),
        (lambda: small_unet()(torch.zeros(2, 1, 8, 7), 1), "sides divisible by 2"),
    ],
)
def test_bad_input_is_named(make, words, no_shape_checks):
    with pytest.raises(ValueError, match=words):
        make()


# ---- the U-Net's parts ----------------------------------------------------------------------------------------


def test_the_default_unet_has_the_size_meant_for_small_images():
    with torch.device("meta"):
        net = UNet(channels=1, T=1000, classes=10)
    assert 1e6 < sum(weights.numel() for weights in net.parameters()) < 3e6
    assert net(torch.zeros(2, 1, 28, 28, device="meta"), torch.ones(2, dtype=torch.long, device="meta")).is_meta


def test_attention_is_softmax_of_scaled_products_in_every_head():
    layer = grown(nets.Attention(128)).double()
    assert layer.heads == 2
    x = torch.randn(3, 128, 2, 5, dtype=torch.float64)
    tokens = layer.norm(x).permute(0, 2, 3, 1).reshape(3, 10, 128)
    q, k, v = (tokens @ w.T + b for w, b in zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), strict=True))
    out = torch.empty(3, 10, 128, dtype=torch.float64)
    for h in range(2):
        c = slice(64 * h, 64 * (h + 1))
        out[:, :, c] = torch.softmax(q[:, :, c] @ k[:, :, c].mT / math.sqrt(64), dim=2) @ v[:, :, c]
    expected = x + (out @ layer.out.weight.T + layer.out.bias).reshape(3, 2, 5, 128).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)  # 128 products: 128 * 2^-53


def test_a_fresh_block_passes_its_input_on():
    x, condition = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    assert torch.equal(nets.ResidualBlock(8, 8, 16)(x, condition), x)
    assert torch.equal(nets.Attention(8)(x), x)


def test_dropout_acts_in_training_only():
    net = grown(small_unet(dropout=0.5))
    x, t = inputs((1, 8, 8))
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))


def test_norms_have_groups_of_at_least_four_channels():
    for channels in (1, 3, 4, 8, 12, 32, 48, 64, 96, 128, 130, 512):
        norm = nets._norm(channels)
        assert channels % norm.num_groups == 0
        assert norm.num_groups <= 32
        assert norm.num_groups == 1 or channels // norm.num_groups >= 4


# ---- where they run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "meta"])
def test_on_a_fake_accelerator(case, device):
    """A tensor made on the CPU in passing would be an error; so would be a look at a number."""
    make, event = case
    with FakeTensorMode():
        net = fake(lambda: make(classes=3), device)
        x, t = torch.empty(6, *event, device=device), torch.empty(6, device=device, dtype=torch.long)
        for eps in (net(x, t, t), net(x, t), net(x, 5)):
            assert (eps.device.type, eps.shape, eps.dtype) == (device, x.shape, x.dtype)
        if device == "meta":
            net(x, t, t).square().sum().backward()
            assert all(weights.grad.device.type == device for weights in net.parameters())


def test_a_stray_cpu_tensor_is_caught_on_the_fake_gpu(case, monkeypatch):
    make, event = case
    monkeypatch.setattr(nets, "time_embedding", lambda t, T, width, dtype: torch.zeros(len(t), width, device="cpu"))
    with FakeTensorMode():
        net = fake(make, "cuda")
        with pytest.raises(RuntimeError, match="device"):
            net(torch.empty(6, *event, device="cuda"), 5)


def test_bfloat16_autocast_comes_close_and_answers_in_float32(case):
    make, event = case
    net = grown(make())
    x, t = inputs(event, n=32)
    exact = net(x, t)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(x, t)
    assert rough.dtype == torch.float32
    layers = sum(isinstance(m, (nn.Linear, nn.Conv2d)) for m in net.modules())
    # each layer rounds its inputs, weights and output to 8 bits, an error of 3 * 2^-9 of its norm at the most
    assert (rough - exact).norm() / exact.norm() < layers * 3 * 2**-9


def test_channels_last_changes_the_layout_and_not_the_answer():
    net = grown(small_unet(width=16)).double()
    x, t = inputs((1, 8, 8), dtype=torch.float64)
    expected = net(x, t)
    net = net.to(memory_format=torch.channels_last)
    found, seen = {}, x.contiguous(memory_format=torch.channels_last)
    for name, module in net.named_modules():
        if isinstance(module, nets.ResidualBlock):
            module.register_forward_hook(lambda m, i, out, name=name: found.__setitem__(name, out))
    # sums of at most 9 * 48 products in another order, about 20 layers: below 1e-12 of numbers of order 1
    torch.testing.assert_close(net(seen, t), expected, rtol=1e-12, atol=1e-12)
    wrong = [name for name, out in found.items() if not out.is_contiguous(memory_format=torch.channels_last)]
    assert found
    assert wrong == []  # a layer that falls back to the other layout would cost a copy each time


COMPARE = """
import torch
from diffnotes.training.networks import MLP, UNet
torch.manual_seed(0)
for net, event in (MLP(2, 100, width=16, classes=3), (2,)), (UNet(1, 100, 8, (1, 1), classes=3), (1, 8, 8)):
    for weights in net.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    net.double()
    x, t, y = torch.randn(4, *event).double(), torch.tensor([1, 5, 50, 100]), torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        eager, compiled = net(x, t, y), torch.compile(net, fullgraph=True)(x, t, y)  # a broken graph is an error
    print(float((compiled - eager).norm() / eager.norm()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_compiled_equals_eager():
    """In a process of its own, because the checks of the annotations that the tests install cannot be compiled."""
    run = subprocess.run([sys.executable, "-c", COMPARE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    differences = [float(line) for line in run.stdout.split()]
    assert len(differences) == 2
    # the same sums, of at most 9 * 32 products, in another order, through about 20 layers: 20 * 288 * 2^-53 = 6e-13
    assert max(differences) < 6e-13


@pytest.mark.parametrize("t", [0, -3, T + 1, torch.tensor([1, 0]), torch.tensor([T + 1, 1]), 5.0, True, math.nan])
def test_a_time_that_the_network_does_not_know_is_refused(case, t, no_shape_checks):
    make, event = case
    with pytest.raises(ValueError, match=rf"t must (lie in 1\.\.{T}, got|be a whole number)"):
        make()(torch.zeros(2, *event), t)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_integers_of_any_width_are_times_and_labels(case, dtype, no_shape_checks):
    make, event = case
    net, (x, t) = grown(make(classes=3)), inputs(event)
    y = torch.randint(0, 4, t.shape)
    assert torch.equal(net(x, t.to(dtype), y.to(dtype)), net(x, t, y))
    assert torch.equal(net(x, np.int64(5)), net(x, 5))
    assert torch.equal(drop_labels(y.to(dtype), 0.0, 300), y)
    assert set(drop_labels(y.to(dtype), 1.0, 300).tolist()) == {300}


def test_wrong_kinds_are_refused_by_name(case, no_shape_checks):
    make, event = case
    net, x, y = make(classes=3), torch.zeros(2, *event), torch.tensor([0, 1])
    for wrong in (x.byte(), x.numpy()):
        with pytest.raises(ValueError, match="x_t must be"):
            net(wrong, 1)
    for wrong in (y.float(), y.bool(), y.numpy(), 1):
        with pytest.raises(ValueError, match="y must"):
            net(x, 1, wrong)
    for name, wrong in (("probability", math.nan), ("probability", 1.5), ("no_label", math.nan), ("no_label", -1)):
        with pytest.raises(ValueError, match=f"{name} must"):
            drop_labels(**{"y": y, "probability": 0.1, "no_label": 3, name: wrong})


@pytest.mark.parametrize("value", [8.0, math.nan, True, "8"])
def test_sizes_that_are_not_whole_are_refused(value, no_shape_checks):
    config = {"dim": 2, "T": T, "width": 8, "depth": 1, "classes": 3}
    for name in config:
        with pytest.raises(ValueError, match=f"{name} must be a whole number"):
            MLP(**config | {name: value})
    for name in ("channels", "T", "width", "blocks", "classes"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number"):
            small_unet(**{name: value})
    with pytest.raises(ValueError, match="multipliers must be a whole number"):
        small_unet(multipliers=[value])
    with pytest.raises(ValueError, match="dropout must"):
        small_unet(dropout=math.nan)


def test_a_config_of_numpy_numbers_can_be_written(no_shape_checks):
    nets_ = (MLP(np.int64(2), np.int64(T), np.int32(8)), small_unet(T=np.int64(T), multipliers=np.array([1, 2])))
    for net in nets_:
        assert type(net)(**json.loads(json.dumps(net.config))).config == net.config


def test_no_examples_give_no_examples(case):
    make, event = case
    assert make()(torch.zeros(0, *event), 1).shape == (0, *event)
