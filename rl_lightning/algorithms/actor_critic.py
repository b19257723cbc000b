"""One-step actor-critic: Algorithm 3 of the lecture (Sutton and Barto, section 13.5)."""

import torch
from torch import Tensor

from rl_lightning.algorithms.base import Algorithm, Gradients, check_ranges, grad
from rl_lightning.data import RolloutDataModule, RolloutStream
from rl_lightning.errors import UsageError
from rl_lightning.functional import td_target
from rl_lightning.networks import MLP, NetworkCallable, PolicyAndValue
from rl_lightning.optim import FusedAdam, LRSchedulerCallable, OptimizerCallable
from rl_lightning.types import Obs, Rollout, Space, Transition, map_obs


class ActorCritic(Algorithm):
    """At every environment step: δ = r + γ V(s') − V(s); V moves along δ ∇V(s), and the policy along δ ∇log π(a|s).

    Args:
        observation_space: see `rl_lightning.networks.encoders.make_encoder`.
        action_space: Discrete, MultiDiscrete, MultiBinary or Box.
        gamma: the discount γ, in [0, 1].
        ent_coef: weight of the policy's entropy in its loss, at least 0.
        state_dependent_std: a Gaussian policy's deviation is a function of the observation, not one for all.
        log_std_init: log of the deviation at the start, where it is one for all.
        network: the body of both networks.
        policy_optimizer: steps θ.
        value_optimizer: steps w.
        policy_scheduler: of the policy optimizer's learning rate: an `EnvStepsLR`, or any that counts gradient steps.
        value_scheduler: likewise.
        compile: run `gradients` as one compiled graph.

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
        ent_coef: float = 0.0,
        state_dependent_std: bool = False,
        log_std_init: float = 0.0,
        network: NetworkCallable = MLP,
        policy_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-4),
        value_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-3),
        policy_scheduler: LRSchedulerCallable | None = None,
        value_scheduler: LRSchedulerCallable | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, gamma, compile)
        check_ranges(ent_coef=ent_coef)
        self.ent_coef = ent_coef
        self.networks = PolicyAndValue(observation_space, action_space, network, state_dependent_std, log_std_init)
        self.learned("policy", self.networks.policy, policy_optimizer, policy_scheduler)
        self.learned("value", self.networks.value, value_optimizer, value_scheduler)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π_θ(·|s), or its mode: observations [B, *obs_shape] to actions [B, *action_shape]."""
        return self.networks.act(obs, deterministic)

    def learn(self, batch: RolloutStream) -> None:
        """The inner loop of Algorithm 3: act, observe s' and r, then move V and the policy; and go on from s'."""
        for rollout in batch:  # a ~ π_θ(·|s); s', r; one step of each environment
            found = self.compute_gradients(self.only_step(rollout))
            self.step("value", found)  # w ← w + α_w δ ∇ V_w(s)
            self.step("policy", found)  # θ ← θ + α_θ δ ∇ log π_θ(a|s)
            self.end_gradient_step(found)

    def only_step(self, rollout: Rollout) -> Transition:
        """A rollout of one step, [1, N, ...] to [N, ...]."""
        obs, action, reward, next_obs, terminated = (map_obs(lambda x: x[0], field) for field in rollout[:5])
        weight = torch.ones_like(reward)  # [N]
        return Transition(obs, action, reward, next_obs, terminated, self.gamma * weight, weight)

    def gradients(self, batch: Transition) -> Gradients:
        """Of the policy's and the value's loss, whose steps are those of Algorithm 3, averaged over environments."""
        pi, value = self.networks(batch.obs)  # value: [B]
        with torch.no_grad():
            next_value = self.networks.values(batch.next_obs)  # [B]
        delta = td_target(batch.reward, batch.terminated, next_value, batch.discount) - value  # [B]
        entropy = pi.entropy()  # [B]
        policy_loss = -(delta.detach() * pi.log_prob(batch.action) + self.ent_coef * entropy).mean()
        value_loss = 0.5 * delta.square().mean()
        metrics = {
            "train/policy_loss": policy_loss,
            "train/value_loss": value_loss,
            "train/entropy": entropy.mean(),
            "train/v_mean": value.mean(),
        }
        gradients = {"policy": grad(policy_loss, self.networks.policy), "value": grad(value_loss, self.networks.value)}
        return Gradients(gradients, metrics)

    def check_data(self, data: object) -> None:
        """Refuse rollouts of more than one step."""
        super().check_data(data)
        assert isinstance(data, RolloutDataModule)
        if data.rollout_steps != 1:
            raise UsageError(
                f"rollout_steps={data.rollout_steps} is not allowed with ActorCritic: it learns at every step; "
                "give rollout_steps 1, or choose A2C"
            )
