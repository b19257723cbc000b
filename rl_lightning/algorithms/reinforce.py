"""REINFORCE with baseline: Algorithm 1 of the lecture (Williams, 1992; Sutton and Barto, section 13.4)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rl_lightning.algorithms.base import Algorithm, Gradients, check_ranges, grad
from rl_lightning.data import RolloutDataModule, RolloutStream
from rl_lightning.errors import UsageError, require
from rl_lightning.functional import discounted_sum
from rl_lightning.networks import MLP, NetworkCallable, PolicyAndValue
from rl_lightning.optim import FusedAdam, LRSchedulerCallable, OptimizerCallable
from rl_lightning.types import Obs, Rollout, Space, flat_in_time, map_obs


class Steps(NamedTuple):
    """Time steps of an episode, with all that is needed to learn from them."""

    obs: Obs  # [B, *obs_shape]
    action: Tensor  # [B, *action_shape]
    returns: Tensor  # [B], G_t
    discount: Tensor  # [B], γ^t, or 1


class REINFORCE(Algorithm):
    """Policy gradient with whole returns G_t, and a learned baseline V_θ(s_t).

    Args:
        observation_space: see `rl_lightning.networks.encoders.make_encoder`.
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
        policy_scheduler: of the policy optimizer's learning rate: an `EnvStepsLR`, or any that counts gradient steps.
        value_scheduler: likewise.

    Raises:
        UsageError: a space it cannot handle, or a value out of range.
    """

    learns_from = RolloutDataModule
    acts_in = "any"
    acts_by = "networks"

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        gamma: float = 0.99,
        discount_policy_gradient: bool = True,
        update: Literal["episode", "step"] = "episode",
        ent_coef: float = 0.0,
        state_dependent_std: bool = False,
        log_std_init: float = 0.0,
        network: NetworkCallable = MLP,
        policy_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-3),
        value_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-3),
        policy_scheduler: LRSchedulerCallable | None = None,
        value_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        # an episode has any length, and a compiled graph one
        super().__init__(observation_space, action_space, gamma, compile=False)
        check_ranges(ent_coef=ent_coef, update=update)
        self.ent_coef = ent_coef
        self.discount_policy_gradient, self.update = discount_policy_gradient, update
        self.networks = PolicyAndValue(observation_space, action_space, network, state_dependent_std, log_std_init)
        self.learned("policy", self.networks.policy, policy_optimizer, policy_scheduler)
        self.learned("value", self.networks.value, value_optimizer, value_scheduler)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π_φ(·|s), or its mode: observations [B, *obs_shape] to actions [B, *action_shape]."""
        return self.networks.act(obs, deterministic)

    def learn(self, batch: RolloutStream) -> None:
        """Algorithm 1: generate an episode, then go through its steps, all at once or one by one."""
        for rollout in batch:  # s_0, a_0, r_0, ..., of π_φ
            episode = self.with_returns(rollout)
            parts = [episode] if self.update == "episode" else one_by_one(episode)
            for steps in parts:
                found = self.compute_gradients(steps)
                self.step("value", found)  # θ ← θ + α_θ δ ∇ V_θ(s_t), δ = G_t − V_θ(s_t) from before both
                self.step("policy", found)  # φ ← φ + α_φ γ^t δ ∇ log π_φ(a_t|s_t)
                self.end_gradient_step(found)

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

    def gradients(self, batch: Steps) -> Gradients:
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
        gradients = {"policy": grad(policy_loss, self.networks.policy), "value": grad(value_loss, self.networks.value)}
        return Gradients(gradients, metrics)

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


def one_by_one(episode: Steps) -> list[Steps]:
    """The time steps of an episode [T, ...], each as a batch of its own, [1, ...]."""
    return [
        Steps(*(map_obs(lambda x, t=t: x[t : t + 1], field) for field in episode)) for t in range(len(episode.returns))
    ]
