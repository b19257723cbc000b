"""Networks: encoders of observations, an MLP body, and the heads that learners put on any body."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rl_lightning.distributions import Bernoulli, Categorical, Distribution, Gaussian, MultiCategorical
from rl_lightning.errors import UsageError, one_line, require
from rl_lightning.functional import gae, squashed_gaussian_log_prob
from rl_lightning.normalization import Gather, ObservationNormalizer, ReturnNormalizer
from rl_lightning.types import Obs, Rollout, flat_in_time

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
        self.function = FUNCTIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        # as nn.Sequential's, but for calling each module: with one observation that takes longer than the arithmetic
        for layer in self:
            x = F.linear(x, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else self.function(x)
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


# Encoders: observations [B, *obs_shape] of any supported space to features [B, out_features] float32


class VectorEncoder(nn.Module):
    """A Box that is not an image, or a MultiBinary: as it is, flat."""

    def __init__(self, space: gym.spaces.Box | gym.spaces.MultiBinary) -> None:
        super().__init__()
        self.out_features = gym.spaces.flatdim(space)

    def forward(self, obs: Tensor) -> Tensor:  # noqa: D102
        return obs.reshape(len(obs), -1).float()


class OneHotEncoder(nn.Module):
    """A Discrete: one-hot, wherever its numbers start."""

    def __init__(self, space: gym.spaces.Discrete) -> None:
        super().__init__()
        self.out_features, self.start = int(space.n), int(space.start)

    def forward(self, obs: Tensor) -> Tensor:  # noqa: D102
        return F.one_hot(obs.long() - self.start, self.out_features).float()


class NatureCNN(nn.Module):
    """The convolutions of Mnih et al. (2015): images [B, H, W, C] or [B, C, H, W] to 512 features.

    The smallest of an image's dimensions is taken for its channels, if it is the first or the last.

    Args:
        space: of the images, uint8 from 0 to 255 or real numbers.

    Raises:
        UsageError: images under 36 x 36.
    """

    out_features = 512

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__()
        self.channels_last = space.shape[2] <= space.shape[0]
        channels, height, width = space.shape
        if self.channels_last:
            height, width, channels = space.shape
        if min(height, width) < 36:
            raise UsageError(
                f"observation space of shape {space.shape} is not supported by NatureCNN: its convolutions need "
                "images of 36 x 36 or more; enlarge them with gymnasium.wrappers.ResizeObservation"
            )
        self.scale = 1.0 / 255.0 if space.dtype.kind == "u" else 1.0
        convolutions = [
            *(nn.Conv2d(channels, 32, kernel_size=8, stride=4), nn.ReLU()),
            *(nn.Conv2d(32, 64, kernel_size=4, stride=2), nn.ReLU()),
            *(nn.Conv2d(64, 64, kernel_size=3, stride=1), nn.ReLU()),
            nn.Flatten(),
        ]
        with torch.no_grad():
            flat = nn.Sequential(*convolutions)(torch.zeros(1, channels, height, width)).shape[1]
        self.layers = nn.Sequential(*convolutions, nn.Linear(flat, self.out_features), nn.ReLU())

    def forward(self, obs: Tensor) -> Tensor:  # noqa: D102
        image = obs.float() * self.scale
        features: Tensor = self.layers(image.permute(0, 3, 1, 2) if self.channels_last else image)
        return features.float()


class DictEncoder(nn.Module):
    """A Dict: each entry by its own encoder, side by side."""

    def __init__(self, space: gym.spaces.Dict, learner: str) -> None:
        super().__init__()
        self.keys = list(space.spaces)  # a ModuleDict takes some names for its own
        self.parts = nn.ModuleList([make_encoder(space[key], learner) for key in self.keys])
        self.out_features: int = sum(part.out_features for part in self.parts)  # type: ignore[misc]

    def forward(self, obs: dict[str, Any]) -> Tensor:  # noqa: D102
        return torch.cat([part(obs[key]) for key, part in zip(self.keys, self.parts, strict=True)], dim=-1)


Encoder = VectorEncoder | OneHotEncoder | NatureCNN | DictEncoder


def make_encoder(space: gym.Space[Any], learner: str) -> Encoder:
    """The encoder for an observation space.

    Args:
        space: a Box (three dimensions are an image), Discrete, MultiBinary, or a Dict of them.
        learner: for the message.

    Raises:
        UsageError: any other space.
    """
    if isinstance(space, gym.spaces.Dict):
        return DictEncoder(space, learner)
    if isinstance(space, gym.spaces.Discrete):
        return OneHotEncoder(space)
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 3:
        return NatureCNN(space)
    if isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary):
        return VectorEncoder(space)
    raise UsageError(
        f"observation space {one_line(space)} is not supported by {learner}: give a Box, Discrete, MultiBinary or "
        "a Dict of them; wrap the environment with gymnasium.wrappers.FlattenObservation"
    )


# Heads: features to π(·|s)


class CategoricalHead(nn.Module):
    """Discrete, MultiDiscrete and MultiBinary actions: a logit for each choice."""

    def __init__(self, in_features: int, space: gym.Space[Any], network: NetworkCallable) -> None:
        super().__init__()
        self.binary = isinstance(space, gym.spaces.MultiBinary)
        self.choices: list[int] = []  # of each part of a MultiDiscrete
        if isinstance(space, gym.spaces.MultiDiscrete):
            self.choices = [int(n) for n in space.nvec]
        self.body = network(in_features, gym.spaces.flatdim(space))

    def forward(self, features: Tensor) -> Categorical | MultiCategorical | Bernoulli:  # noqa: D102
        logits = self.body(features).float()  # [B, K]
        if self.binary:
            return Bernoulli(logits)
        if self.choices:
            return MultiCategorical(tuple(Categorical(part) for part in logits.split(self.choices, dim=-1)))
        return Categorical(logits)


class GaussianHead(nn.Module):
    """Box actions: N(μ(s), σ²), with one log σ for all states, or with σ(s)."""

    LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # of σ(s), as in SAC

    def __init__(
        self,
        in_features: int,
        space: gym.spaces.Box,
        network: NetworkCallable,
        state_dependent_std: bool,
        log_std_init: float,
    ) -> None:
        super().__init__()
        action_dim = space.shape[0]
        self.body = network(in_features, 2 * action_dim if state_dependent_std else action_dim)
        self.log_std = None if state_dependent_std else nn.Parameter(torch.full((action_dim,), log_std_init))

    def forward(self, features: Tensor) -> Gaussian:  # noqa: D102
        out = self.body(features).float()
        if self.log_std is not None:
            return Gaussian(out, self.log_std.expand_as(out))
        mean, log_std = out.chunk(2, dim=-1)
        return Gaussian(mean, log_std.clamp(self.LOG_STD_MIN, self.LOG_STD_MAX))


class PolicyAndValue(nn.Module):
    """π_φ(a|s) and V_θ(s) on observations of any supported space.

    They are separate networks, encoders included; with a shared trunk both heads are on one encoder, which then belongs
    to `policy`. Observations are normalized first, if they are, with one set of statistics for both.

    Args:
        observation_space: see `make_encoder`.
        action_space: Discrete, MultiDiscrete, MultiBinary, or a Box of real vectors.
        network: the body of both.
        learner: for messages.
        state_dependent_std: of a Gaussian policy.
        log_std_init: where log σ starts, if it is the same for all states.
        shared_trunk: one encoder for both.
        normalize_observations: with running statistics.
        normalize_returns: with the discount γ given, rewards are scaled by the returns' running deviation.

    Attributes:
        policy: encoder and head of π_φ.
        value: encoder and head of V_θ; the head alone with a shared trunk.

    Raises:
        UsageError: spaces that it cannot handle, and a shared trunk where the encoder has nothing to share.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        network: NetworkCallable,
        learner: str,
        state_dependent_std: bool = False,
        log_std_init: float = 0.0,
        shared_trunk: bool = False,
        normalize_observations: bool = False,
        normalize_returns: float | None = None,
    ) -> None:
        super().__init__()
        self.normalizer = ObservationNormalizer(observation_space) if normalize_observations else None
        self.return_normalizer = None if normalize_returns is None else ReturnNormalizer(normalize_returns)
        encoder = make_encoder(observation_space, learner)
        if shared_trunk and not any(True for _ in encoder.parameters()):
            raise UsageError(
                f"shared_trunk=True is not allowed with observation space {one_line(observation_space)}: only images "
                "have an encoder to share; leave it out"
            )
        head: nn.Module
        if isinstance(action_space, gym.spaces.Box):
            check_gaussian_action_space(action_space, learner)
            head = GaussianHead(encoder.out_features, action_space, network, state_dependent_std, log_std_init)
        else:
            check_finite_action_space(action_space, learner)
            head = CategoricalHead(encoder.out_features, action_space, network)
        self.policy = nn.Sequential(encoder, head)
        value_head = network(encoder.out_features, 1)
        self.shared_trunk = shared_trunk
        self.value = value_head if shared_trunk else nn.Sequential(make_encoder(observation_space, learner), value_head)
        initialize_orthogonally(self.policy, out_gain=0.01)  # almost uniform, or around the middle
        initialize_orthogonally(self.value, out_gain=1.0)

    def forward(self, obs: Obs) -> tuple[Distribution, Tensor]:
        """π(·|s) and V(s) [B], for observations [B, *obs_shape]."""
        obs = self.normalized(obs)
        encoder, head = self.policy
        features = encoder(obs)  # [B, out_features]
        value = self.value(features if self.shared_trunk else obs)  # [B, 1]
        return head(features), value.float().squeeze(-1)

    def distribution(self, obs: Obs) -> Distribution:
        """π(·|s) alone."""
        encoder, head = self.policy
        distribution: Distribution = head(encoder(self.normalized(obs)))
        return distribution

    def values(self, obs: Obs) -> Tensor:
        """V(s) alone, [B]."""
        obs = self.normalized(obs)
        value: Tensor = self.value(self.policy[0](obs) if self.shared_trunk else obs)
        return value.float().squeeze(-1)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π(·|s), or its mode: observations [B, *obs_shape] to actions [B, *action_shape]."""
        pi = self.distribution(obs)
        return pi.mode() if deterministic else pi.sample()

    @torch.no_grad()
    def advantages(self, rollout: Rollout, value: Tensor, gamma: float, gae_lambda: float) -> Tensor:
        """Generalized advantage estimates of a rollout [T, N, ...], for V(s) of all its steps: [T N] to [T N]."""
        next_value = self.values(flat_in_time(rollout.next_obs))  # [T N]
        return gae(
            rollout.reward,
            value.view_as(rollout.reward),
            next_value.view_as(rollout.reward),
            rollout.terminated,
            rollout.truncated,
            gamma,
            gae_lambda,
        ).flatten()

    def normalized(self, obs: Obs) -> Obs:
        """Observations as both networks see them."""
        return obs if self.normalizer is None else self.normalizer(obs)

    def scaled(self, rollout: Rollout, gather: Gather) -> Rollout:
        """A rollout with the rewards to learn from; they enter the running statistics first, where there are any."""
        if self.return_normalizer is None:
            return rollout
        self.return_normalizer.update(rollout.reward, rollout.terminated | rollout.truncated, gather)
        return rollout._replace(reward=self.return_normalizer(rollout.reward))

    def take_in(self, rollout: Rollout, gather: Gather) -> None:
        """Let a rollout's observations enter the running statistics; after learning from it, in which they are fixed.

        So the policy that is improved is exactly the one that acted.
        """
        if self.normalizer is not None:
            self.normalizer.update(rollout.obs, gather)


def initialize_orthogonally(network: nn.Module, out_gain: float) -> None:
    """Orthogonal weights with gain √2 and zero biases for each of our own bodies and encoders in `network`.

    On-policy learners start from it (arXiv:2006.05990, section 3.2); a user's own modules keep their initialization.

    Args:
        network: changed in place.
        out_gain: of the last layer of an MLP.
    """
    for body in network.modules():
        if isinstance(body, MLP | NatureCNN):
            for layer in body.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    nn.init.orthogonal_(layer.weight, 2.0**0.5)
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if isinstance(body, MLP):
            head = body[-1]
            assert isinstance(head, nn.Linear)
            nn.init.orthogonal_(head.weight, out_gain)


def check_gaussian_action_space(space: gym.spaces.Box, learner: str) -> None:
    """Refuse a Box of integers, and of more than one dimension.

    Raises:
        UsageError: naming what is needed.
    """
    if space.dtype.kind != "f" or len(space.shape) != 1:
        raise UsageError(
            f"action space of shape {space.shape} and dtype {space.dtype} is not supported by {learner}: a Box of "
            "real vectors is needed; wrap the environment with gymnasium.wrappers.TransformAction"
        )


def check_finite_action_space(space: gym.Space[Any], learner: str) -> None:
    """Refuse all but Discrete, MultiDiscrete of one dimension and MultiBinary of one dimension.

    Raises:
        UsageError: naming what is needed.
    """
    finite = isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary)
    if not finite or len(space.shape or ()) > 1:
        raise UsageError(
            f"action space {one_line(space)} is not supported by {learner}: give Box, Discrete, MultiDiscrete or "
            "MultiBinary actions of at most one dimension; no learner here takes others"
        )
