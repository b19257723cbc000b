"""Advantage actor-critic over several environments: A3C's synchronous form (arXiv:1602.01783), with GAE."""

import torch
from torch import Tensor

from rl_lightning.algorithms.base import Algorithm, Gradients, Metrics, check_ranges, grads
from rl_lightning.algorithms.bridge import EstimatorCallable, LikelihoodRatio
from rl_lightning.algorithms.off_policy_critic import CriticCallable
from rl_lightning.algorithms.policy_gradient import PolicyGradient, in_standard_units
from rl_lightning.data import RolloutDataModule, RolloutStream
from rl_lightning.errors import require
from rl_lightning.functional import clipped_to_norm, explained_variance, half_squared_error
from rl_lightning.networks import MLP, NetworkCallable, PolicyAndValue
from rl_lightning.optim import ForeachRMSprop, LRSchedulerCallable, OptimizerCallable
from rl_lightning.types import Obs, Rollout, Space, flat_in_time


class A2C(Algorithm):
    """One gradient step for each rollout, along A_t ∇log π(a_t|s_t), with n-step or GAE advantages A_t.

    Args:
        observation_space: see `rl_lightning.networks.encoders.make_encoder`.
        action_space: Discrete, MultiDiscrete, MultiBinary or Box.
        gamma: the discount γ, in [0, 1].
        gae_lambda: λ in [0, 1]; 1 gives n-step returns up to the rollout's end.
        ent_coef: weight of the policy's entropy in its loss, at least 0.
        vf_coef: weight of the value loss; it matters with a shared trunk and for gradient clipping.
        max_grad_norm: bound on the norm of each optimizer's gradients; None leaves them.
        normalize_advantage: to mean 0 and deviation 1 in each rollout.
        normalize_observations: real-valued ones that are no images, with running statistics.
        normalize_returns: scale rewards by the running deviation of returns.
        state_dependent_std: a Gaussian policy's deviation is a function of the observation, not one for all.
        log_std_init: log of the deviation at the start, where it is one for all.
        shared_trunk: one encoder of images for policy and value; it is then stepped by the policy's optimizer.
        gradient_variance: measure the variance of the policy gradient, once for each rollout.
        estimator: of the policy gradient (`rl_lightning.algorithms.bridge`); all but the default ask a critic.
        critic: Q_w from replay, for the estimator; data is then a `RolloutReplayDataModule`.
        network: the body of both networks.
        policy_optimizer: steps the policy.
        value_optimizer: steps the value.
        policy_scheduler: of the policy optimizer's learning rate: an `EnvStepsLR`, or any that counts gradient steps.
        value_scheduler: likewise.
        compile: run `gradients` as one compiled graph.

    Raises:
        UsageError: a space it cannot handle, or a value out of range.
    """

    learns_from = RolloutDataModule
    acts_in = "any"
    acts_by = "networks"
    takes_critic = True

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float = 0.0,
        vf_coef: float = 1.0,
        max_grad_norm: float | None = 0.5,
        normalize_advantage: bool = False,
        normalize_observations: bool = False,
        normalize_returns: bool = False,
        state_dependent_std: bool = False,
        log_std_init: float = 0.0,
        shared_trunk: bool = False,
        gradient_variance: bool = False,
        estimator: EstimatorCallable = LikelihoodRatio,
        critic: CriticCallable | None = None,
        network: NetworkCallable = MLP,
        policy_optimizer: OptimizerCallable = lambda params: ForeachRMSprop(params, lr=7e-4, eps=1e-5),
        value_optimizer: OptimizerCallable = lambda params: ForeachRMSprop(params, lr=7e-4, eps=1e-5),
        policy_scheduler: LRSchedulerCallable | None = None,
        value_scheduler: LRSchedulerCallable | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, gamma, compile)
        check_ranges(gae_lambda=gae_lambda, ent_coef=ent_coef, vf_coef=vf_coef, max_grad_norm=max_grad_norm)
        self.gae_lambda, self.ent_coef, self.vf_coef = gae_lambda, ent_coef, vf_coef
        self.max_grad_norm, self.normalize_advantage = max_grad_norm, normalize_advantage
        self.networks = PolicyAndValue(
            observation_space,
            action_space,
            network,
            state_dependent_std,
            log_std_init,
            shared_trunk,
            normalize_observations,
            gamma if normalize_returns else None,
        )
        self.gradient_variance = gradient_variance
        self.policy_gradient = PolicyGradient(self, estimator, critic)
        self.learned("policy", self.networks.policy, policy_optimizer, policy_scheduler)
        self.learned("value", self.networks.value, value_optimizer, value_scheduler)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π(·|s), or its mode: observations [B, *obs_shape] to actions [B, *action_shape]."""
        return self.networks.act(obs, deterministic)

    def learn(self, batch: RolloutStream) -> None:
        """The loop of one thread of Algorithm S3, with N environments in step for its threads."""
        for rollout in batch:  # π_φ acts until t − t_start = t_max
            scaled = self.networks.scale_rewards(rollout, self.gather)
            self.policy_gradient.learn_critic(self, self.networks, batch)  # of another estimator than the paper's
            replayed = self.policy_gradient.replayed(batch, rollout.reward.numel())
            if self.gradient_variance:
                self.metrics.update(self.variance_metrics(scaled, replayed))
            found = self.compute_gradients(scaled, replayed)
            self.step("policy", found)  # φ ← φ + η ∇_φ (log π_φ(a_t|s_t) A_t + β H(π_φ(·|s_t)))
            self.step("value", found)  # θ ← θ − η ∇_θ (R − V_θ(s_t))²
            self.end_gradient_step(found)
            self.networks.observe(rollout, self.gather)

    def gradients(self, batch: Rollout, replayed: Obs | None = None) -> Gradients:
        """Of −E[A log π_φ(a|s) + β H(π_φ(·|s))] + c E[½ (R − V_θ(s))²], where the paper has neither c nor ½.

        A and R = A + V_θ(s) are held fixed; β is `ent_coef`, c `vf_coef`. Other estimators change the first term.

        Args:
            batch: [T, N, ...].
            replayed: observations of replay [T N, *obs_shape], where the estimator takes them.
        """
        obs, action = flat_in_time(batch.obs), batch.action.flatten(0, 1)
        pi, value = self.networks(obs)  # value: [T N]
        advantage = self.networks.advantages(batch, value, self.gamma, self.gae_lambda)  # [T N]
        returns = advantage + value.detach()  # [T N]
        weighed = self.policy_gradient.weigh(self.networks, advantage, pi, obs, action, replayed)
        if self.normalize_advantage:
            weighed = in_standard_units(weighed)
        entropy = pi.entropy().mean()
        policy_loss = -self.policy_gradient.surrogate(self.networks, pi, obs, action, weighed)
        value_loss = half_squared_error(value, returns)
        metrics = {
            "train/policy_loss": policy_loss,
            "train/value_loss": value_loss,
            "train/entropy": entropy,
            "train/v_mean": value.mean(),
            "train/explained_variance": explained_variance(value, returns),
        }
        # the policy does not enter the value's loss, nor the value the policy's: only a shared trunk sees both
        loss = policy_loss - self.ent_coef * entropy + self.vf_coef * value_loss
        policy_gradient, value_gradient = grads(loss, [self.networks.policy, self.networks.value])
        gradients = {
            "policy": clipped_to_norm(policy_gradient, self.max_grad_norm),
            "value": clipped_to_norm(value_gradient, self.max_grad_norm),
        }
        return Gradients(gradients, metrics)

    @torch.no_grad()
    def variance_metrics(self, batch: Rollout, replayed: Obs | None) -> Metrics:
        """The variance of the policy gradient at a rollout [T, N, ...]."""
        obs, action = flat_in_time(batch.obs), batch.action.flatten(0, 1)
        pi, value = self.networks(obs)
        advantage = self.networks.advantages(batch, value, self.gamma, self.gae_lambda)  # [T N]
        weighed = self.policy_gradient.weigh(self.networks, advantage, pi, obs, action, replayed)
        return self.policy_gradient.metrics(self.networks, obs, action, weighed, advantage)

    def check_data(self, data: object) -> None:
        """Refuse whole episodes, and replay that nothing learns from."""
        super().check_data(data)
        self.policy_gradient.check_data(data, "A2C", self.gradient_variance)
        assert isinstance(data, RolloutDataModule)
        require(
            data.rollout_steps is not None,
            "rollout_steps",
            data.rollout_steps,
            "A2C learns from rollouts of one size; give 1 or more, or choose REINFORCE",
        )
