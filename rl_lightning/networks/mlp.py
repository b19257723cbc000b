"""The body of every network: a multi-layer perceptron, or any module, with encoders of the user's own before it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import gymnasium as gym
from torch import Tensor, nn

from rl_lightning.errors import require
from rl_lightning.fast.layers import one_after_the_other

NetworkCallable = Callable[[int, int], nn.Module]
"""A body: called with (in_features, out_features), returns a module that maps [..., in] to [..., out]."""

EncoderCallable = Callable[[gym.Space[Any]], nn.Module]
"""Called with a space, returns a module with `out_features` that maps its observations [B, *obs_shape] to [B, out]."""

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


class WithEncoders(nn.Module):
    """A body behind encoders of the user's own, each in the place of the one that the space would get.

    Like the settings of any body they are bound first, ``partial(WithEncoders, encoders={"obs.image": MyEncoder})``:
    encoders are made before it, since they say how many features it gets.

    Args:
        in_features: features of all encoders.
        out_features: of the body.
        encoders: by the names of the observations that they are for: ``obs.KEY`` of a Dict's entry, ``obs.KEY.KEY`` in
            a nested one, ``obs`` for all of it. `encoders_of` finds them.
        network: the body.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        encoders: Mapping[str, EncoderCallable],
        network: NetworkCallable = MLP,
    ) -> None:
        super().__init__()
        self.body = network(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        out: Tensor = self.body(x)
        return out


def encoders_of(network: NetworkCallable | None) -> Mapping[str, EncoderCallable]:
    """The encoders that are bound to a `WithEncoders`; none of any other body."""
    found: Mapping[str, EncoderCallable] = {}
    # the command line binds the class to a maker of its own
    if isinstance(network, partial) and any(part is WithEncoders for part in (network.func, *network.args)):
        found = network.keywords.get("encoders", {})
    return found
