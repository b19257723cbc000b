import pytest
import torch
from torch import nn

from rl_lightning.fast.tensors import lerp


def tensors():
    """Of many shapes, dtypes and layouts in memory."""
    return [
        torch.randn(()),
        torch.randn(3),
        nn.Parameter(torch.randn(4, 5)),
        torch.randn(5, 4).T,
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(7, dtype=torch.float64),
        torch.zeros(0),
    ]


@pytest.mark.parametrize("tau", [0.005, 0.5, 1.0])
@pytest.mark.usefixtures("either_way")
def test_many_tensors_move_exactly_as_each_would_by_lerp(tau):
    target, online = tensors(), tensors()
    given = [tensor.detach().clone() for tensor in online]
    expected = [old.detach().clone().lerp_(new.detach(), tau) for old, new in zip(target, online, strict=True)]
    lerp(target, online, tau)
    for got, wanted in zip(target, expected, strict=True):
        assert torch.equal(got, wanted)
        assert got.grad_fn is None
    assert all(torch.equal(one, other) for one, other in zip(online, given, strict=True))
    if tau == 1.0:
        assert all(torch.equal(old, new) for old, new in zip(target, online, strict=True))


@pytest.mark.usefixtures("either_way")
def test_lists_of_different_length_are_refused():
    with pytest.raises((RuntimeError, ValueError), match=r"number of tensors|shorter"):
        lerp([torch.zeros(1), torch.zeros(1)], [torch.ones(1)], 0.5)
