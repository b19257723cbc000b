"""The body of every network: a multi-layer perceptron."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from rl_lightning.errors import require
from rl_lightning.fast.layers import one_after_the_other

NetworkCallable = Callable[[int, int], nn.Module]
"""A body: called with (in_features, out_features), returns a module that maps [..., in] to [..., out]."""

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU}


class MLP(nn.Sequential):
    """A multi-layer perceptron, [..., in_features] to [..., out_features].

    Args:
        in_features: width of the input.
        out_features: width of the output, which has no activation.
        hidden_sizes: width of each hidden layer; none makes it linear.
        activation: after each hidden layer.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_sizes: Sequence[int] = (256, 256),
        activation: Literal["relu", "tanh", "elu", "silu"] = "relu",
    ) -> None:
        require(all(size >= 1 for size in hidden_sizes), "hidden_sizes", hidden_sizes, "give widths of 1 or more")
        widths = [in_features, *hidden_sizes]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
        super().__init__(*layers, nn.Linear(widths[-1], out_features))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        return one_after_the_other(self, x)
