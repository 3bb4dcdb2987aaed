"""guidance.py: against the formula, written out with two calls."""

import math

import pytest
import torch
from devices import grown

from diffnotes.guidance import guided
from diffnotes.training.networks import MLP, UNet


def network():
    torch.manual_seed(0)
    net = UNet(channels=1, T=10, width=4, multipliers=(1, 2), classes=3).eval()
    return grown(net).requires_grad_(False)  # an untrained network predicts 0, whatever the label


@pytest.mark.parametrize("scale", [-1, -0.5, 0, 0.7, 3])
def test_it_is_the_formula(scale):
    net, x = network(), torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    t, y = torch.tensor([1, 4, 7, 10]), torch.tensor([0, 1, 2, 2])
    with_label, without = net(x, t, y), net(x, t)
    assert (with_label - without).abs().max() > 0.01  # the label matters
    expected = (1 + scale) * with_label - scale * without
    # a batch of 8 and one of 4 may be summed in another order: float32 rounding, a few operations deep
    torch.testing.assert_close(guided(net, y, scale)(x, t), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("scale", "calls"), [(-1, [4]), (0, [4]), (2.0, [8])])
def test_it_costs_one_call_a_step(scale, calls):
    net, seen = network(), []
    net.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    guided(net, torch.tensor([0, 1, 2, 2]), scale)(torch.zeros(4, 1, 4, 4), torch.tensor([1, 1, 1, 1]))
    assert seen == calls


def test_bad_input_is_refused(no_shape_checks):
    y = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="model must have classes, got a MLP without"):
        guided(MLP(dim=2, T=10), y)
    with pytest.raises(ValueError, match=r"scale must lie in \[-1, inf\), got -2"):
        guided(network(), y, -2.0)
    for wrong in (y + 3, y + 2, y - 1, (y + 2).byte()):  # 3 would mean "no label"
        said = rf"^y must lie in 0\.\.2, got {int(wrong[0])} \.\. {int(wrong[1])}$"
        with pytest.raises(ValueError, match=said):
            guided(network(), wrong)
    for wrong, shape in ((y[0], r"\(\)"), (y[:, None], r"\(2, 1\)")):
        with pytest.raises(ValueError, match=rf"y must have shape \(batch,\), got {shape}"):
            guided(network(), wrong)


def test_labels_of_any_width_and_the_T_of_the_network(no_shape_checks):
    net, y, x, t = network(), torch.tensor([0, 2]), torch.randn(2, 1, 4, 4), torch.tensor([1, 9])
    for dtype in (torch.uint8, torch.int32):
        assert torch.equal(guided(net, y.to(dtype), 2.0)(x, t), guided(net, y, 2.0)(x, t))
    assert guided(net, y).T == net.T == 10


@pytest.mark.parametrize("scale", [math.nan, math.inf, "1", None])
def test_a_scale_that_is_no_number_is_refused(scale, no_shape_checks):
    with pytest.raises(ValueError, match="scale must"):
        guided(network(), torch.tensor([0, 1]), scale)
    with pytest.raises(ValueError, match=r"y must hold whole numbers, got torch.float32"):
        guided(network(), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="model must have classes, got a function without"):
        guided(lambda x, t: x, torch.tensor([0, 1]))
