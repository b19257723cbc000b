"""π(a|s) and V(s) of on-policy learners, for any supported observations and actions."""

import warnings
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from rl_lightning.errors import UsageError, one_line
from rl_lightning.functional import gae
from rl_lightning.networks.distributions import Bernoulli, Categorical, Distribution, Gaussian, MultiCategorical
from rl_lightning.networks.encoders import ImageEncoder, make_encoder
from rl_lightning.networks.mlp import MLP, NetworkCallable
from rl_lightning.networks.normalization import Gather, ObservationNormalizer, ReturnNormalizer
from rl_lightning.spaces import fault_of_actions, own_space
from rl_lightning.types import Obs, Rollout, flat_in_time


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

    The policy is always in eval mode, in which it acts: so the policy that is improved is exactly the one that acts.

    Args:
        observation_space: see `make_encoder`.
        action_space: Discrete, MultiDiscrete, MultiBinary, or a Box of real vectors.
        network: the body of both.
        state_dependent_std: of a Gaussian policy.
        log_std_init: where log σ starts, if it is the same for all states.
        shared_trunk: one encoder for both.
        normalize_observations: real-valued ones that are no images, with running statistics.
        normalize_returns: with the discount γ given, rewards are scaled by the returns' running deviation.

    Attributes:
        policy: encoder and head of π_φ.
        value: encoder and head of V_θ; the head alone with a shared trunk.

    Raises:
        UsageError: spaces that it cannot handle, a shared trunk where the encoder has nothing to share, and
            normalized observations where there are none to normalize.

    Warns:
        UserWarning: once, of modules in the policy that do nothing in eval mode.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        network: NetworkCallable,
        state_dependent_std: bool = False,
        log_std_init: float = 0.0,
        shared_trunk: bool = False,
        normalize_observations: bool = False,
        normalize_returns: float | None = None,
    ) -> None:
        super().__init__()
        self.normalizer = ObservationNormalizer(observation_space) if normalize_observations else None
        self._is_first = False  # whether the rollout under way is the first, whose observations are taken in already
        self.return_normalizer = None if normalize_returns is None else ReturnNormalizer(normalize_returns)
        encoder = make_encoder(observation_space, network)
        if shared_trunk and not any(True for _ in encoder.parameters()):
            raise UsageError(
                f"shared_trunk=True is not allowed with observation space {one_line(observation_space)}: only images "
                "and encoders of your own have something to share; leave it out"
            )
        if fault := fault_of_actions(action_space, "any"):
            raise UsageError(f"action space {one_line(own_space(action_space))} is not supported: {fault}")
        head: nn.Module
        if isinstance(action_space, gym.spaces.Box):
            head = GaussianHead(encoder.out_features, action_space, network, state_dependent_std, log_std_init)
        else:
            head = CategoricalHead(encoder.out_features, action_space, network)
        self.policy = nn.Sequential(encoder, head)
        value_head = network(encoder.out_features, 1)
        self.shared_trunk = shared_trunk
        self.value = value_head if shared_trunk else nn.Sequential(make_encoder(observation_space, network), value_head)
        initialize_orthogonally(self.policy, out_gain=0.01)  # almost uniform, or around the middle
        initialize_orthogonally(self.value, out_gain=1.0)
        self.policy.eval()
        warn_of_idle_modules(self.policy)

    def keep_policy_in_eval_mode(self) -> None:
        """Put the policy in eval mode again, for training; Lightning is not to warn of it."""
        self.policy.eval()
        count = sum(1 for _ in self.policy.modules())  # with more modules in eval mode it warns
        warnings.filterwarnings("ignore", message=rf"Found {count} module\(s\) in eval mode")

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

    def scale_rewards(self, rollout: Rollout, gather: Gather) -> Rollout:
        """A rollout with the rewards to learn from; they enter the running statistics first, where there are any.

        So do the observations of the very first, which would have to be learned from as they are otherwise.
        """
        self._is_first = self.normalizer is not None and self.normalizer.is_new
        if self.normalizer is not None and self._is_first:
            self.normalizer.update(rollout.obs, gather)
        if self.return_normalizer is None:
            return rollout
        self.return_normalizer.update(rollout.reward, rollout.terminated | rollout.truncated, gather)
        return rollout._replace(reward=self.scaled(rollout.reward))

    def scaled(self, reward: Tensor) -> Tensor:
        """Rewards as the value sees them, of any shape."""
        return reward if self.return_normalizer is None else self.return_normalizer(reward)

    def observe(self, rollout: Rollout, gather: Gather) -> None:
        """Let a rollout's observations enter the running statistics; after learning from it, in which they are fixed.

        So the policy that is improved is exactly the one that acted, from the second rollout on: see `scale_rewards`.
        """
        if self.normalizer is not None and not self._is_first:
            self.normalizer.update(rollout.obs, gather)


def initialize_orthogonally(network: nn.Module, out_gain: float) -> None:
    """Orthogonal weights with gain √2 and zero biases for each of our own bodies and encoders in `network`.

    On-policy learners start from it (arXiv:2006.05990, section 3.2); a user's own modules keep their initialization.

    Args:
        network: changed in place.
        out_gain: of the last layer of an MLP.
    """
    for body in network.modules():
        if isinstance(body, MLP | ImageEncoder):
            for layer in body.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    nn.init.orthogonal_(layer.weight, 2.0**0.5)
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if isinstance(body, MLP):
            head = body[-1]
            assert isinstance(head, nn.Linear)
            nn.init.orthogonal_(head.weight, out_gain)


IDLE = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
)


def warn_of_idle_modules(policy: nn.Module) -> None:
    """Say that Dropout and BatchNorm do nothing in a policy, which is always in eval mode.

    Warns:
        UserWarning: once, naming the kinds of modules.
    """
    kinds = dict.fromkeys(type(module).__name__ for module in policy.modules() if isinstance(module, IDLE))
    if kinds:
        from lightning.pytorch.utilities import rank_zero_warn  # here, so that an exported policy acts without it

        rank_zero_warn(
            f"network has {', '.join(kinds)}, idle in the policy: it learns in the mode that it acts in, eval mode, "
            "where Dropout drops nothing and BatchNorm keeps its statistics; give LayerNorm, or leave it out"
        )
