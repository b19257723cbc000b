"""Networks: an MLP body, and the heads that off-policy learners put on any body."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rl_lightning.errors import require
from rl_lightning.functional import squashed_gaussian_log_prob

NetworkCallable = Callable[[int, int], nn.Module]
"""A body: called with (in_features, out_features), returns a module that maps [..., in] to [..., out]."""

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU}
FUNCTIONS = {"relu": torch.relu, "tanh": torch.tanh, "elu": F.elu, "silu": F.silu}


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
        self.kind, self.function = ACTIVATIONS[activation], FUNCTIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        # as nn.Sequential's, but for calling each module: with one observation that takes longer than the arithmetic
        for layer in self:
            if isinstance(layer, nn.Linear):
                x = F.linear(x, layer.weight, layer.bias)
            else:
                x = self.function(x) if isinstance(layer, self.kind) else layer(x)
        return x


class ValueNetwork(nn.Module):
    """V(s): [B, *obs_shape] to [B]."""

    def __init__(self, obs_features: int, network: NetworkCallable) -> None:
        super().__init__()
        self.body = network(obs_features, 1)

    def forward(self, obs: Tensor) -> Tensor:  # noqa: D102 (the class says it)
        value: Tensor = self.body(obs.flatten(1).float())  # [B, 1]
        return value.float().squeeze(-1)  # [B]


class QNetwork(nn.Module):
    """Q(s, a): [B, *obs_shape] and [B, A] to [B]."""

    def __init__(self, obs_features: int, action_dim: int, network: NetworkCallable) -> None:
        super().__init__()
        self.body = network(obs_features + action_dim, 1)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:  # noqa: D102
        q: Tensor = self.body(torch.cat([obs.flatten(1).float(), action], dim=-1))  # [B, 1]
        return q.float().squeeze(-1)  # [B]


class TwinQ(nn.Module):
    """Q_θ1 and Q_θ2, independent networks against the maximization bias (arXiv:1802.09477)."""

    def __init__(self, obs_features: int, action_dim: int, network: NetworkCallable) -> None:
        super().__init__()
        self.q1 = QNetwork(obs_features, action_dim, network)
        self.q2 = QNetwork(obs_features, action_dim, network)

    def forward(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self.q1(obs, action), self.q2(obs, action)  # [B], [B]


class SquashedGaussianPolicy(nn.Module):
    """π(a|s): a = tanh(u), u ~ N(μ(s), σ(s)²), actions in [-1, 1].

    Args:
        obs_features: number of elements of an observation.
        action_dim: A.
        network: the body; its 2A outputs are μ and log σ.
    """

    LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # the bounds of the original code (SAC); σ stays in [2e-9, 7.4]

    def __init__(self, obs_features: int, action_dim: int, network: NetworkCallable) -> None:
        super().__init__()
        self.body = network(obs_features, 2 * action_dim)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """[B, *obs_shape] to μ and log σ, both [B, A] float32."""
        mean, log_std = self.body(obs.flatten(1).float()).float().chunk(2, dim=-1)
        return mean, log_std.clamp(self.LOG_STD_MIN, self.LOG_STD_MAX)

    def sample(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A reparameterized action a = f(ε; s), differentiable in the parameters.

        Returns:
            action [B, A] in [-1, 1], log π(a|s) [B], and the pre-tanh u [B, A].
        """
        mean, log_std = self(obs)
        u = mean + log_std.exp() * torch.randn_like(mean)  # [B, A]
        return u.tanh(), squashed_gaussian_log_prob(u, mean, log_std), u

    def log_prob(self, obs: Tensor, u: Tensor) -> Tensor:
        """log π(tanh(u)|s): [B, *obs_shape] and the pre-tanh [B, A] to [B]."""
        mean, log_std = self(obs)
        return squashed_gaussian_log_prob(u, mean, log_std)
