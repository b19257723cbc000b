"""REINFORCE with baseline: Algorithm 1 of the lecture (Williams, 1992; Sutton and Barto, section 13.4)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import gymnasium as gym
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from rl_lightning.algorithms.module import Algorithm, Gradients, Metrics, configured, gradients_of
from rl_lightning.data.rollout import RolloutDataModule, RolloutStream
from rl_lightning.errors import UsageError, require
from rl_lightning.functional import discounted_sum
from rl_lightning.networks import MLP, NetworkCallable
from rl_lightning.optim import FusedAdam
from rl_lightning.policy_and_value import PolicyAndValue
from rl_lightning.types import Obs, Rollout, flat_in_time, map_obs

Update = Literal["episode", "step"]


class Steps(NamedTuple):
    """Time steps of an episode, with all that is needed to learn from them."""

    obs: Obs  # [B, *obs_shape]
    action: Tensor  # [B, *action_shape]
    returns: Tensor  # [B], G_t
    discount: Tensor  # [B], γ^t, or 1


class REINFORCE(Algorithm):
    """Policy gradient with whole returns G_t, and a learned baseline V_θ(s_t).

    Args:
        observation_space: see `rl_lightning.encoders.make_encoder`.
        action_space: Discrete, MultiDiscrete, MultiBinary or Box.
        gamma: the discount γ, in [0, 1].
        discount_policy_gradient: keep γ^t in the policy's step, as Algorithm 1 has it; most code drops it.
        update: gradient steps: one for each `episode`, summed over its time steps, or one for each time `step` in turn,
            exactly as Algorithm 1 has it.
        ent_coef: weight of the policy's entropy in its loss, at least 0.
        state_dependent_std: a Gaussian policy's deviation is a function of the observation, not one for all.
        log_std_init: log of the deviation at the start, where it is one for all.
        network: the body of both networks.
        policy_optimizer: steps φ.
        value_optimizer: steps θ.
        policy_scheduler: of the policy optimizer's learning rate, stepped at every gradient step.
        value_scheduler: likewise.
        init_from: a checkpoint (file or URL) whose networks to start from, with fresh optimizers.

    Raises:
        UsageError: a space it cannot handle, a value out of range, or an unusable `init_from`.
    """

    learns_from = RolloutDataModule

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        gamma: float = 0.99,
        discount_policy_gradient: bool = True,
        update: Update = "episode",
        ent_coef: float = 0.0,
        state_dependent_std: bool = False,
        log_std_init: float = 0.0,
        network: NetworkCallable = MLP,
        policy_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-3),
        value_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-3),
        policy_scheduler: LRSchedulerCallable | None = None,
        value_scheduler: LRSchedulerCallable | None = None,
        init_from: str | Path | None = None,
    ) -> None:
        # an episode has any length, and a compiled graph one
        super().__init__(observation_space, action_space, compile=False)
        require(0.0 <= gamma <= 1.0, "gamma", gamma, "give a number in [0, 1]")
        require(ent_coef >= 0.0, "ent_coef", ent_coef, "give 0 or more")
        require(update in get_args(Update), "update", update, f"give one of {get_args(Update)}")
        self.gamma, self.ent_coef = gamma, ent_coef
        self.discount_policy_gradient, self.update = discount_policy_gradient, update
        self.policy_optimizer, self.policy_scheduler = policy_optimizer, policy_scheduler
        self.value_optimizer, self.value_scheduler = value_optimizer, value_scheduler
        self.networks = PolicyAndValue(
            observation_space, action_space, network, "REINFORCE", state_dependent_std, log_std_init
        )
        self.configure_optimizers()  # what they refuse is refused here, before anything is created
        if init_from is not None:
            self.load_weights(init_from)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π_φ(·|s), or its mode: observations [B, *obs_shape] to actions [B, *action_shape]."""
        return self.networks.act(obs, deterministic)

    def minibatches(self, batch: RolloutStream) -> Iterator[Steps]:
        """Each episode whole, or its time steps one by one, as the episode ends."""
        for rollout in batch:
            episode = self.with_returns(rollout)
            if self.update == "episode":
                yield episode
            else:
                for t in range(len(episode.returns)):
                    yield Steps(map_obs(lambda x, t=t: x[t : t + 1], episode.obs), *(x[t : t + 1] for x in episode[1:]))

    @torch.no_grad()
    def with_returns(self, rollout: Rollout) -> Steps:
        """G_t = Σ_{t' ≥ t} γ^{t'−t} r_{t'} of one episode, [T, 1] to [T].

        An episode that was cut off goes on with V_θ of its last observation, which Algorithm 1 has no case for.
        """
        reward = rollout.reward.flatten().clone()  # [T]
        if not rollout.terminated[-1]:
            reward[-1] += self.gamma * self.networks.values(map_obs(lambda x: x[-1], rollout.next_obs)).squeeze(0)
        powers = self.gamma ** torch.arange(len(reward), device=reward.device)  # γ^t
        return Steps(
            obs=flat_in_time(rollout.obs),
            action=rollout.action.flatten(0, 1),
            returns=discounted_sum(reward, torch.full_like(reward, self.gamma)),
            discount=powers if self.discount_policy_gradient else torch.ones_like(powers),
        )

    def gradients(self, batch: Steps) -> tuple[Metrics, Gradients]:
        """Of the policy's and the value's loss, whose steps are those of Algorithm 1's last two lines."""
        pi, value = self.networks(batch.obs)  # value: [B]
        delta = batch.returns - value  # [B]
        entropy = pi.entropy()  # [B]
        log_prob = pi.log_prob(batch.action)  # [B]
        policy_loss = -(batch.discount * delta.detach() * log_prob + self.ent_coef * entropy).sum()
        value_loss = 0.5 * delta.square().sum()
        metrics = {
            "train/policy_loss": policy_loss,
            "train/value_loss": value_loss,
            "train/entropy": entropy.mean(),
            "train/v_mean": value.mean(),
        }
        return {name: metric.detach() for name, metric in metrics.items()}, [
            *gradients_of(policy_loss, [self.networks.policy]),
            *gradients_of(value_loss, [self.networks.value]),
        ]

    def check_data(self, data: object) -> None:
        """Refuse all but whole episodes."""
        super().check_data(data)
        assert isinstance(data, RolloutDataModule)
        if data.rollout_steps is not None:
            raise UsageError(
                f"rollout_steps={data.rollout_steps} is not allowed with REINFORCE: it learns from whole episodes; "
                "give rollout_steps null"
            )

    def setup(self, stage: str) -> None:
        """Refuse several processes, which would wait for each other's episodes."""
        super().setup(stage)
        devices = self.trainer.world_size
        require(devices == 1, "trainer.devices", devices, "episodes differ in number between processes; give 1")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One for each network, in the order of `gradients`."""
        return (
            configured("policy_optimizer", self.networks.policy, self.policy_optimizer, self.policy_scheduler),
            configured("value_optimizer", self.networks.value, self.value_optimizer, self.value_scheduler),
        )
