"""Soft actor-critic with separate V, twin-Q and policy networks (arXiv:1801.01290; the lecture's Algorithm 4)."""

from typing import Literal

import torch
from torch import Tensor

from rl_lightning.algorithms.base import Algorithm, Gradients, check_ranges, grad
from rl_lightning.data import ReplayStream
from rl_lightning.functional import half_squared_error, mean_td_error, soft_value, td_target, twin_q_loss
from rl_lightning.networks import MLP, NetworkCallable, SquashedGaussianPolicy, TwinQ, ValueNetwork
from rl_lightning.optim import FusedAdam, LRSchedulerCallable, OptimizerCallable
from rl_lightning.types import Obs, Space, Transition


class SAC(Algorithm):
    """Soft actor-critic: V_ψ, a target V_ψ̄ that follows it, twin Q_θ1 and Q_θ2, and a squashed Gaussian π_φ.

    Args:
        observation_space: see `rl_lightning.networks.encoders.make_encoder`.
        action_space: a Box of vectors in [-1, 1], as `make_env` gives it.
        gamma: the discount γ, in [0, 1].
        tau: weight of V_ψ in each update of V_ψ̄, in (0, 1]; 1 copies it.
        target_update_interval: gradient steps from one update of V_ψ̄ to the next.
        ent_coef: the temperature α, at least 0. Dividing it by c is the same as `reward_scale` c, the values
            then being c times smaller.
        reward_scale: factor on rewards in the targets; reported returns stay raw.
        policy_gradient: how ∇J_π is estimated: `reparameterized` through the action (Eq. 13), or `likelihood_ratio`
            from the score alone (lecture, section 5.2), with V_ψ as its baseline.
        normalize_observations: real-valued ones that are no images, with running statistics.
        normalize_returns: scale rewards by the running deviation of returns.
        network: the body of every network.
        value_optimizer: steps ψ.
        q_optimizer: steps θ1 and θ2.
        policy_optimizer: steps φ.
        value_scheduler: of the value optimizer's learning rate: an `EnvStepsLR`, or any that counts gradient steps.
        q_scheduler: likewise.
        policy_scheduler: likewise.
        compile: run `gradients` as one compiled graph.

    Raises:
        UsageError: a space it has no policy or encoder for, or a value out of range.
    """

    acts_in = "box"
    acts_by = "policy"

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        gamma: float = 0.99,
        tau: float = 0.005,
        target_update_interval: int = 1,
        ent_coef: float = 0.2,
        reward_scale: float = 1.0,
        policy_gradient: Literal["reparameterized", "likelihood_ratio"] = "reparameterized",
        normalize_observations: bool = False,
        normalize_returns: bool = False,
        network: NetworkCallable = MLP,
        value_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=3e-4),
        q_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=3e-4),
        policy_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=3e-4),
        value_scheduler: LRSchedulerCallable | None = None,
        q_scheduler: LRSchedulerCallable | None = None,
        policy_scheduler: LRSchedulerCallable | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, gamma, compile, normalize_observations, normalize_returns)
        check_ranges(ent_coef=ent_coef, reward_scale=reward_scale, policy_gradient=policy_gradient)
        self.ent_coef, self.reward_scale, self.policy_gradient = ent_coef, reward_scale, policy_gradient

        value = ValueNetwork(observation_space, network)
        self.value = self.learned("value", value, value_optimizer, value_scheduler)  # V_ψ
        self.target_value = self.target_of(self.value, tau, target_update_interval)  # V_ψ̄
        q = TwinQ(observation_space, action_space, network)
        self.q = self.learned("q", q, q_optimizer, q_scheduler)  # Q_θ1, Q_θ2
        policy = SquashedGaussianPolicy(observation_space, action_space, network)
        self.policy = self.learned("policy", policy, policy_optimizer, policy_scheduler)  # π_φ

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π_φ(·|s), or tanh μ_φ(s): observations [B, *obs_shape] to actions [B, A] in [-1, 1]."""
        u, log_std = self.policy(self.normalized(obs))
        if not deterministic:
            u = u + log_std.exp() * torch.randn_like(u)
        return torch.tanh(u)

    def learn(self, batch: ReplayStream) -> None:
        """Algorithm 1 (lecture: 4). Its environment steps are the batch's, which takes them before each sample.

            for each environment step: a ~ π_φ(·|s), s' ~ p(·|s, a), D ← D ∪ {(s, a, r, s')}
            for each gradient step: those below

        All three gradients are taken at one minibatch and the same parameters, as in the authors' code.
        """
        for minibatch in batch.minibatches(self.gamma, self.observe):  # (s, a, r, s') ~ D
            found = self.compute_gradients(minibatch)
            self.step("value", found)  # ψ ← ψ − λ_V ∇J_V(ψ)
            self.step("q", found)  # θ_i ← θ_i − λ_Q ∇J_Q(θ_i), i = 1, 2
            self.step("policy", found)  # φ ← φ − λ_π ∇J_π(φ)
            self.end_gradient_step(found)  # ψ̄ ← τ ψ + (1 − τ) ψ̄, by PolyakAveraging
            batch.prioritize(found.td_error)

    def gradients(self, batch: Transition) -> Gradients:
        """∇J_V, ∇J_Q and ∇J_π at one minibatch; one fresh action serves both J_V and J_π, as in the authors' code."""
        batch = self.normalized_batch(batch)
        action, log_prob, u = self.policy.sample(batch.obs)  # [B, A], [B], [B, A]
        min_q = torch.minimum(*self.q(batch.obs, action))  # [B]
        value = self.value(batch.obs)  # [B]
        q1, q2 = self.q(batch.obs, batch.action)  # [B], [B]

        value_loss = self.value_loss(value, min_q, log_prob)
        q_hat = self.q_hat(batch)  # [B]
        q_loss = twin_q_loss(q1, q2, q_hat, batch.weight)
        policy_loss = reported = self.policy_loss(min_q, log_prob)
        if self.policy_gradient == "likelihood_ratio":
            policy_loss = self.likelihood_ratio_loss(batch.obs, u, min_q, log_prob, value)

        td_error = mean_td_error(q1, q2, q_hat)  # [B]
        metrics = {
            "train/value_loss": value_loss,
            "train/q_loss": q_loss,
            "train/policy_loss": reported,
            "train/entropy": -log_prob.mean(),
            "train/q_mean": torch.minimum(q1, q2).mean(),
            "train/v_mean": value.mean(),
            "train/td_error": td_error,
        }
        gradients = {
            "value": grad(value_loss, self.value),
            "q": grad(q_loss, self.q),
            "policy": grad(policy_loss, self.policy),
        }
        return Gradients(gradients, metrics, td_error)

    def value_loss(self, value: Tensor, min_q: Tensor, log_prob: Tensor) -> Tensor:
        """J_V(ψ), Eq. 5 (lecture: 6): V_ψ(s) towards min Q(s, a) − α log π(a|s)."""
        return half_squared_error(value, soft_value(min_q, log_prob, self.ent_coef).detach())

    def q_hat(self, batch: Transition) -> Tensor:
        """Q̂ = r + γ V_ψ̄(s'), Eq. 8: what J_Q(θ1) and J_Q(θ2), Eq. 7, draw both Q to; [B]."""
        next_v = self.target_value(batch.next_obs)  # [B]
        return td_target(self.reward_scale * batch.reward, batch.terminated, next_v, batch.discount)  # [B]

    def policy_loss(self, min_q: Tensor, log_prob: Tensor) -> Tensor:
        """J_π(φ), Eq. 12 (lecture: 9): E[α log π(a|s) − min Q(s, a)]; its gradient through a = f_φ(ε; s) is Eq. 13."""
        return -soft_value(min_q, log_prob, self.ent_coef).mean()

    def likelihood_ratio_loss(self, obs: Obs, u: Tensor, min_q: Tensor, log_prob: Tensor, value: Tensor) -> Tensor:
        """A loss with the gradient E[∇ log π(a|s) (α log π(a|s) − min Q(s, a) + V(s))] of J_π (Williams, 1992).

        E[∇ log π] = 0, so neither the baseline V(s) nor the gradient of α log π itself changes the expectation.
        """
        advantage = (soft_value(min_q, log_prob, self.ent_coef) - value).detach()  # [B]
        return -(self.policy.log_prob(obs, u.detach()) * advantage).mean()
