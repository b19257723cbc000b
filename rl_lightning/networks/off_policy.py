"""What off-policy learners make of any body, each network behind an encoder of its own."""

import math

import torch
from gymnasium.spaces import flatdim
from torch import Tensor, nn

from rl_lightning.errors import require
from rl_lightning.functional import squashed_gaussian_log_prob
from rl_lightning.networks.encoders import make_encoder
from rl_lightning.networks.mlp import NetworkCallable
from rl_lightning.types import Obs, Space


class ValueNetwork(nn.Module):
    """V(s): [B, *obs_shape] to [B]. Arguments as of `make_encoder`, and the body."""

    def __init__(self, observation_space: Space, network: NetworkCallable) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space, network)
        self.body = network(self.encoder.out_features, 1)

    def forward(self, obs: Obs) -> Tensor:  # noqa: D102 (the class says it)
        value: Tensor = self.body(self.encoder(obs))  # [B, 1]
        return value.float().squeeze(-1)  # [B]


class QNetwork(nn.Module):
    """Q(s, a): [B, *obs_shape] and [B, A] to [B]."""

    def __init__(self, observation_space: Space, action_space: Space, network: NetworkCallable) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space, network)
        self.body = network(self.encoder.out_features + flatdim(action_space), 1)

    def forward(self, obs: Obs, action: Tensor) -> Tensor:  # noqa: D102
        q: Tensor = self.body(torch.cat([self.encoder(obs), action], dim=-1))  # [B, 1]
        return q.float().squeeze(-1)  # [B]


class TwinQ(nn.Module):
    """Q_θ1 and Q_θ2, independent networks against the maximization bias (arXiv:1802.09477)."""

    def __init__(self, observation_space: Space, action_space: Space, network: NetworkCallable) -> None:
        super().__init__()
        self.q1 = QNetwork(observation_space, action_space, network)
        self.q2 = QNetwork(observation_space, action_space, network)

    def forward(self, obs: Obs, action: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self.q1(obs, action), self.q2(obs, action)  # [B], [B]


class DiscreteQNetwork(nn.Module):
    """Q(s, ·) of every discrete action: [B, *obs_shape] to [B, A].

    Args:
        observation_space: see `make_encoder`.
        action_space: a Discrete of A actions.
        network: the body.
        dueling: Q(s, a) = V(s) + U(s, a) − mean_a U(s, a), bodies of their own for V and U (arXiv:1511.06581, Eq. 9).
    """

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        network: NetworkCallable,
        dueling: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space, network)
        self.body = network(self.encoder.out_features, flatdim(action_space))
        self.value = network(self.encoder.out_features, 1) if dueling else None

    def forward(self, obs: Obs) -> Tensor:  # noqa: D102
        features = self.encoder(obs)  # [B, out_features]
        q: Tensor = self.body(features).float()  # [B, A]
        if self.value is not None:
            q = self.value(features).float() + q - q.mean(-1, keepdim=True)
        return q


class DiscreteTwinQ(nn.Module):
    """Q_θ1(s, ·) and Q_θ2(s, ·), independent networks."""

    def __init__(self, observation_space: Space, action_space: Space, network: NetworkCallable) -> None:
        super().__init__()
        self.q1 = DiscreteQNetwork(observation_space, action_space, network)
        self.q2 = DiscreteQNetwork(observation_space, action_space, network)

    def forward(self, obs: Obs) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self.q1(obs), self.q2(obs)  # [B, A], [B, A]


class CategoricalPolicy(nn.Module):
    """π(·|s) of discrete actions: [B, *obs_shape] to log-probabilities [B, A]."""

    def __init__(self, observation_space: Space, action_space: Space, network: NetworkCallable) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space, network)
        self.body = network(self.encoder.out_features, flatdim(action_space))

    def forward(self, obs: Obs) -> Tensor:  # noqa: D102
        return torch.log_softmax(self.body(self.encoder(obs)).float(), dim=-1)


class DeterministicPolicy(nn.Module):
    """μ(s): [B, *obs_shape] to actions [B, A] in [-1, 1]."""

    def __init__(self, observation_space: Space, action_space: Space, network: NetworkCallable) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space, network)
        self.body = network(self.encoder.out_features, flatdim(action_space))

    def forward(self, obs: Obs) -> Tensor:  # noqa: D102
        action: Tensor = self.body(self.encoder(obs)).float()
        return action.tanh()


class Temperature(nn.Module):
    """α > 0, learned as log α.

    Args:
        ent_coef: α at the start; None is 1, or that of the checkpoint whose weights are loaded.

    Attributes:
        given: whether loaded weights leave it as it is.

    Raises:
        UsageError: α that is not above 0.
    """

    def __init__(self, ent_coef: float | None) -> None:
        super().__init__()
        require(ent_coef is None or 0.0 < ent_coef < math.inf, "ent_coef", ent_coef, "give a number above 0, or null")
        self.given = ent_coef is not None
        self.log_alpha = nn.Parameter(torch.tensor(math.log(1.0 if ent_coef is None else ent_coef)))

    def forward(self) -> Tensor:
        """α, a scalar."""
        return self.log_alpha.exp()


class SquashedGaussianPolicy(nn.Module):
    """π(a|s): a = tanh(u), u ~ N(μ(s), σ(s)²), actions in [-1, 1].

    Args:
        observation_space: see `make_encoder`.
        action_space: a Box of vectors [A].
        network: the body; its 2A outputs are μ and log σ.
    """

    LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # the bounds of the original code (SAC); σ stays in [2e-9, 7.4]

    def __init__(self, observation_space: Space, action_space: Space, network: NetworkCallable) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space, network)
        self.body = network(self.encoder.out_features, 2 * flatdim(action_space))

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
