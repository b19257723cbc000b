"""Soft actor-critic without V and with a learned temperature (arXiv:1812.05905), SAC as it is mostly known today."""

import math

import torch
from gymnasium.spaces import flatdim
from torch import Tensor

from rl_lightning.algorithms.base import Algorithm, Gradients, grad
from rl_lightning.data import ReplayStream
from rl_lightning.errors import require
from rl_lightning.exploration import ActionNoise, NoiseCallable
from rl_lightning.functional import mean_td_error, soft_value, td_target, twin_q_loss
from rl_lightning.networks import MLP, NetworkCallable, SquashedGaussianPolicy, Temperature, TwinQ
from rl_lightning.optim import FusedAdam, LRSchedulerCallable, OptimizerCallable
from rl_lightning.types import Obs, Space, Transition


class SACv2(Algorithm):
    """Soft actor-critic: twin Q_θ1 and Q_θ2, a squashed Gaussian π_φ, a temperature α that holds its entropy.

    Args:
        observation_space: see `rl_lightning.networks.encoders.make_encoder`.
        action_space: a Box of vectors in [-1, 1], as `make_env` gives it.
        gamma: the discount γ, in [0, 1].
        tau: weight of Q_θ in each update of its targets Q_θ̄, in (0, 1]; 1 copies it.
        target_update_interval: gradient steps from one update of Q_θ̄ to the next.
        ent_coef: the temperature α at the start, above 0. None takes 1, or keeps that of weights that are loaded.
        target_entropy: H̄, nats that the policy's entropy is held at by learning α; None takes −A, the paper's.
        noise: of actions while collecting, besides the policy's own; by default none.
        normalize_observations: real-valued ones that are no images, with running statistics.
        normalize_returns: scale rewards by the running deviation of returns.
        network: the body of every network.
        q_optimizer: steps θ1 and θ2.
        policy_optimizer: steps φ.
        ent_coef_optimizer: steps log α; None keeps α as it is.
        q_scheduler: of the learning rate of Q: an `EnvStepsLR`, or any that counts gradient steps.
        policy_scheduler: likewise.
        compile: run `gradients` as one compiled graph.

    Raises:
        UsageError: a space it cannot handle, or a value out of range.
    """

    acts_in = "box"
    acts_by = "policy"
    noise: ActionNoise

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        gamma: float = 0.99,
        tau: float = 0.005,
        target_update_interval: int = 1,
        ent_coef: float | None = None,
        target_entropy: float | None = None,
        noise: NoiseCallable = lambda: ActionNoise(std=0.0),
        normalize_observations: bool = False,
        normalize_returns: bool = False,
        network: NetworkCallable = MLP,
        q_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=3e-4),
        policy_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=3e-4),
        ent_coef_optimizer: OptimizerCallable | None = lambda params: FusedAdam(params, lr=3e-4),
        q_scheduler: LRSchedulerCallable | None = None,
        policy_scheduler: LRSchedulerCallable | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, gamma, compile, normalize_observations, normalize_returns)
        self.target_entropy = -float(flatdim(action_space)) if target_entropy is None else target_entropy
        require(math.isfinite(self.target_entropy), "target_entropy", target_entropy, "give a finite number of nats")
        self.noise = noise()

        self.q = self.learned("q", TwinQ(observation_space, action_space, network), q_optimizer, q_scheduler)
        self.target_q = self.target_of(self.q, tau, target_update_interval)  # Q_θ̄1, Q_θ̄2
        policy = SquashedGaussianPolicy(observation_space, action_space, network)
        self.policy = self.learned("policy", policy, policy_optimizer, policy_scheduler)  # π_φ
        self.temperature = self.learned("ent_coef", Temperature(ent_coef), ent_coef_optimizer)  # α

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π_φ(·|s) (with noise) or tanh μ_φ(s): observations [B, *obs_shape] to actions [B, A] in [-1, 1]."""
        mean: Tensor
        mean, log_std = self.policy(self.normalized(obs))  # [B, A], [B, A]
        if deterministic:
            return mean.tanh()
        action = (mean + log_std.exp() * torch.randn_like(mean)).tanh()
        return self.noise(action, self.clock.progress)

    def learn(self, batch: ReplayStream) -> None:
        """Algorithm 1. Its environment steps are the batch's, which takes them before each sample.

            for each environment step: a ~ π_φ(·|s), s' ~ p(·|s, a), D ← D ∪ {(s, a, r, s')}
            for each gradient step: those below

        All gradients are taken at one minibatch and the same parameters, as in the authors' code.
        """
        for minibatch in batch.minibatches(self.gamma, self.observe):  # (s, a, r, s') ~ D
            found = self.compute_gradients(minibatch)
            self.step("q", found)  # θ_i ← θ_i − λ_Q ∇J_Q(θ_i), i = 1, 2
            self.step("policy", found)  # φ ← φ − λ_π ∇J_π(φ)
            if self.learns("ent_coef"):
                self.step("ent_coef", found)  # α ← α − λ ∇J(α), by log α
            self.end_gradient_step(found)  # θ̄_i ← τ θ_i + (1 − τ) θ̄_i, by PolyakAveraging
            batch.prioritize(found.td_error)

    def gradients(self, batch: Transition) -> Gradients:
        """∇J_Q, ∇J_π and, where α is learned, ∇J(α) at one minibatch.

        J_Q(θ_i) = E[½ (Q_θi(s, a) − (r + γ V(s')))²] (Eq. 5)
        J_π(φ) = E[α log π_φ(ã|s) − min_i Q_θi(s, ã)], ã a fresh action (Eq. 9)
        J(α) = E[−α (log π_φ(ã|s) + H̄)] (Eq. 18)
        """
        batch = self.normalized_batch(batch)
        q1, q2 = self.q(batch.obs, batch.action)  # [B], [B]
        target = td_target(batch.reward, batch.terminated, self.next_value(batch), batch.discount)  # [B]
        q_loss = twin_q_loss(q1, q2, target, batch.weight)

        action, log_prob, _ = self.policy.sample(batch.obs)  # [B, A], [B]
        ent_coef = self.temperature()
        min_q = torch.minimum(*self.q(batch.obs, action))  # [B]
        policy_loss = -soft_value(min_q, log_prob, ent_coef.detach()).mean()
        entropy = -log_prob.mean()

        td_error = mean_td_error(q1, q2, target)  # [B]
        metrics = {
            "train/q_loss": q_loss,
            "train/policy_loss": policy_loss,
            "train/entropy": entropy,
            "train/ent_coef": ent_coef,
            "train/q_mean": torch.minimum(q1, q2).mean(),
            "train/td_error": td_error,
        }
        gradients = {"q": grad(q_loss, self.q), "policy": grad(policy_loss, self.policy)}
        if self.learns("ent_coef"):
            # log α for α, as the authors' code has it: the same sign, at a rate that does not depend on α
            ent_coef_loss = self.temperature.log_alpha * (entropy - self.target_entropy).detach()
            gradients["ent_coef"] = grad(ent_coef_loss, self.temperature)
        return Gradients(gradients, metrics, td_error)

    @torch.no_grad()
    def next_value(self, batch: Transition) -> Tensor:
        """V(s') = min Q_θ̄(s', a') − α log π(a'|s') of a fresh action a' (Eq. 3), [B]."""
        action, log_prob, _ = self.policy.sample(batch.next_obs)  # [B, A], [B]
        min_q = torch.minimum(*self.target_q(batch.next_obs, action))  # [B]
        return soft_value(min_q, log_prob, self.temperature())
