"""Networks: an MLP body, and what off-policy learners make of any body, each behind an encoder of its own."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import gymnasium as gym
import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from rl_lightning.encoders import make_encoder
from rl_lightning.errors import require
from rl_lightning.functional import squashed_gaussian_log_prob
from rl_lightning.types import Obs

NetworkCallable = Callable[[int, int], nn.Module]
"""A body: called with (in_features, out_features), returns a module that maps [..., in] to [..., out]."""

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU}

_CALL = nn.Module.__call__  # torch's own: tracers put another in its place


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
        # as nn.Sequential's, but past __call__ where it would do no more than call forward: with one observation that
        # takes a fifth longer
        hooks_for_all = _has_any_global_hook()  # type: ignore[no-untyped-call]
        for layer in self:
            x = layer(x) if hooks_for_all or not _is_its_forward(layer) else layer.forward(x)
        return x


def _is_its_forward(layer: nn.Module) -> bool:
    """Whether calling a layer is nothing but its `forward`, as long as there are no hooks for all modules."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return not hooks and layer._compiled_call_impl is None and type(layer).__call__ is _CALL


class ValueNetwork(nn.Module):
    """V(s): [B, *obs_shape] to [B]. Arguments as of `make_encoder`, and the body."""

    def __init__(self, observation_space: gym.Space[Any], network: NetworkCallable, learner: str) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space, learner)
        self.body = network(self.encoder.out_features, 1)

    def forward(self, obs: Obs) -> Tensor:  # noqa: D102 (the class says it)
        value: Tensor = self.body(self.encoder(obs))  # [B, 1]
        return value.float().squeeze(-1)  # [B]


class QNetwork(nn.Module):
    """Q(s, a): [B, *obs_shape] and [B, A] to [B]."""

    def __init__(
        self, observation_space: gym.Space[Any], action_dim: int, network: NetworkCallable, learner: str
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space, learner)
        self.body = network(self.encoder.out_features + action_dim, 1)

    def forward(self, obs: Obs, action: Tensor) -> Tensor:  # noqa: D102
        q: Tensor = self.body(torch.cat([self.encoder(obs), action], dim=-1))  # [B, 1]
        return q.float().squeeze(-1)  # [B]


class TwinQ(nn.Module):
    """Q_θ1 and Q_θ2, independent networks against the maximization bias (arXiv:1802.09477)."""

    def __init__(
        self, observation_space: gym.Space[Any], action_dim: int, network: NetworkCallable, learner: str
    ) -> None:
        super().__init__()
        self.q1 = QNetwork(observation_space, action_dim, network, learner)
        self.q2 = QNetwork(observation_space, action_dim, network, learner)

    def forward(self, obs: Obs, action: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self.q1(obs, action), self.q2(obs, action)  # [B], [B]


class DiscreteQNetwork(nn.Module):
    """Q(s, ·) of every discrete action: [B, *obs_shape] to [B, A].

    Args:
        observation_space: see `make_encoder`.
        num_actions: A.
        network: the body.
        learner: for messages.
        dueling: Q(s, a) = V(s) + U(s, a) − mean_a U(s, a), bodies of their own for V and U (arXiv:1511.06581, Eq. 9).
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        num_actions: int,
        network: NetworkCallable,
        learner: str,
        dueling: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space, learner)
        self.body = network(self.encoder.out_features, num_actions)
        self.value = network(self.encoder.out_features, 1) if dueling else None

    def forward(self, obs: Obs) -> Tensor:  # noqa: D102
        features = self.encoder(obs)  # [B, out_features]
        q: Tensor = self.body(features).float()  # [B, A]
        if self.value is not None:
            q = self.value(features).float() + q - q.mean(-1, keepdim=True)
        return q


class DiscreteTwinQ(nn.Module):
    """Q_θ1(s, ·) and Q_θ2(s, ·), independent networks."""

    def __init__(
        self, observation_space: gym.Space[Any], num_actions: int, network: NetworkCallable, learner: str
    ) -> None:
        super().__init__()
        self.q1 = DiscreteQNetwork(observation_space, num_actions, network, learner)
        self.q2 = DiscreteQNetwork(observation_space, num_actions, network, learner)

    def forward(self, obs: Obs) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self.q1(obs), self.q2(obs)  # [B, A], [B, A]


class CategoricalPolicy(nn.Module):
    """π(·|s) of discrete actions: [B, *obs_shape] to log-probabilities [B, A]."""

    def __init__(
        self, observation_space: gym.Space[Any], num_actions: int, network: NetworkCallable, learner: str
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space, learner)
        self.body = network(self.encoder.out_features, num_actions)

    def forward(self, obs: Obs) -> Tensor:  # noqa: D102
        return torch.log_softmax(self.body(self.encoder(obs)).float(), dim=-1)


class DeterministicPolicy(nn.Module):
    """μ(s): [B, *obs_shape] to actions [B, A] in [-1, 1]."""

    def __init__(
        self, observation_space: gym.Space[Any], action_dim: int, network: NetworkCallable, learner: str
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space, learner)
        self.body = network(self.encoder.out_features, action_dim)

    def forward(self, obs: Obs) -> Tensor:  # noqa: D102
        action: Tensor = self.body(self.encoder(obs)).float()
        return action.tanh()


class Temperature(nn.Module):
    """α > 0, learned as log α."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self) -> Tensor:
        """α, a scalar."""
        return self.log_alpha.exp()


class SquashedGaussianPolicy(nn.Module):
    """π(a|s): a = tanh(u), u ~ N(μ(s), σ(s)²), actions in [-1, 1].

    Args:
        observation_space: see `make_encoder`.
        action_dim: A.
        network: the body; its 2A outputs are μ and log σ.
        learner: for messages.
    """

    LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # the bounds of the original code (SAC); σ stays in [2e-9, 7.4]

    def __init__(
        self, observation_space: gym.Space[Any], action_dim: int, network: NetworkCallable, learner: str
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space, learner)
        self.body = network(self.encoder.out_features, 2 * action_dim)

    def forward(self, obs: Obs) -> tuple[Tensor, Tensor]:
        """[B, *obs_shape] to μ and log σ, both [B, A] float32."""
        mean, log_std = self.body(self.encoder(obs)).float().chunk(2, dim=-1)
        return mean, log_std.clamp(self.LOG_STD_MIN, self.LOG_STD_MAX)

    def sample(self, obs: Obs) -> tuple[Tensor, Tensor, Tensor]:
        """A reparameterized action a = f(ε; s), differentiable in the parameters.

        Returns:
            action [B, A] in [-1, 1], log π(a|s) [B], and the pre-tanh u [B, A].
        """
        mean, log_std = self(obs)
        u = mean + log_std.exp() * torch.randn_like(mean)  # [B, A]
        return u.tanh(), squashed_gaussian_log_prob(u, mean, log_std), u

    def log_prob(self, obs: Obs, u: Tensor) -> Tensor:
        """log π(tanh(u)|s): [B, *obs_shape] and the pre-tanh [B, A] to [B]."""
        mean, log_std = self(obs)
        return squashed_gaussian_log_prob(u, mean, log_std)
