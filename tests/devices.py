"""What tests of devices share: networks with random weights, networks on fake devices, and all that reaches one."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffnotes.training.networks import UNet

Net = TypeVar("Net", bound=nn.Module)


def grown(net: Net) -> Net:
    """The network with every weight that starts at zero drawn at random, so that all of it has a say."""
    for weights in net.parameters():
        if not weights.any():
            nn.init.normal_(weights, std=0.1)
    return net


def fake(make: Callable[[], Net], device: str) -> Net:
    """A network on a device that may not exist, inside FakeTensorMode: a CPU build can neither draw nor copy there."""
    with unset_fake_temporarily(), torch.device("meta"):
        net = make()
        kinds = {name: (value.shape, value.dtype) for name, value in net.state_dict().items()}
    if device == "cuda" and isinstance(net, UNet) and not attends():
        pytest.skip(
            "this CUDA build of torch asks for a driver, which is not here, to pick the attention of fake tensors"
        )
    empty = {name: torch.empty(shape, dtype=dtype, device=device) for name, (shape, dtype) in kinds.items()}
    net.load_state_dict(empty, assign=True)
    return net.requires_grad_(device == "meta")  # autograd of a build without CUDA cannot name a CUDA device


def attends() -> bool:
    """Whether attention works on a fake CUDA device: torch 2.6, built with CUDA, wants a driver even there."""
    try:
        F.scaled_dot_product_attention(*torch.empty(3, 1, 1, 4, 64, device="cuda"))
    except RuntimeError:
        return False
    return True


class Ops(TorchDispatchMode):
    """Every operation that reaches a device, by name; and those of them that make the host wait for an accelerator.

    The host waits where it reads a number, where the shape of a result depends on numbers, and where tensors of two
    devices meet: a copy from one to the other, or a CPU number among an accelerator's tensors, which torch allows.
    `tolist` and `numpy` of a real tensor on the CPU are no operations, so they are not seen here: on fake devices both
    raise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        self.names.append(name)
        if name.startswith(("_local_scalar_dense", "nonzero", "masked_select", "equal.")):
            self.waits.append(name)
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        if len({tensor.device.type for tensor in tensors}) > 1:
            self.waits.append(name)
        return out


class NoFloat64(TorchDispatchMode):
    """The meta device as Apple's mps is."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(isinstance(x, Tensor) and x.is_meta and x.dtype == torch.float64 for x in tree_leaves(out)):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return out
