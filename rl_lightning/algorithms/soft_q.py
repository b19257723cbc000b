"""Soft Q-learning for discrete actions (arXiv:1702.08165, where the soft value is a sum and needs no sampler)."""

import math

import torch
from torch import Tensor

from rl_lightning.algorithms.base import Algorithm, Gradients, check_ranges, grad
from rl_lightning.data import ReplayStream
from rl_lightning.errors import require
from rl_lightning.functional import LOSSES, Loss, clipped_to_norm, q_of_action, soft_maximum, td_target
from rl_lightning.networks import MLP, DiscreteQNetwork, NetworkCallable
from rl_lightning.networks.distributions import Categorical
from rl_lightning.optim import FusedAdam, LRSchedulerCallable, OptimizerCallable
from rl_lightning.policies.network import PolicyNetwork
from rl_lightning.types import Obs, Space, Transition


class SoftQ(Algorithm):
    """Q_θ towards r + γ V(s') with V(s) = α log Σ_a exp(Q_θ̄(s, a) / α), and the policy π(a|s) ∝ exp(Q_θ(s, a) / α).

    With α → 0 it becomes DQN.

    Args:
        observation_space: see `rl_lightning.networks.encoders.make_encoder`.
        action_space: a Discrete.
        gamma: the discount γ, in [0, 1].
        tau: weight of Q_θ in each update of Q_θ̄, in (0, 1]; 1 copies it.
        target_update_interval: gradient steps from one update of Q_θ̄ to the next.
        ent_coef: the temperature α, above 0.
        loss: of Q_θ − target: half its square, or Huber's, linear beyond 1.
        max_grad_norm: bound on the gradient's norm.
        normalize_observations: real-valued ones that are no images, with running statistics.
        normalize_returns: scale rewards by the running deviation of returns.
        network: the body of Q.
        q_optimizer: steps θ.
        q_scheduler: of its learning rate: an `EnvStepsLR`, or any that counts gradient steps.
        compile: run `gradients` as one compiled graph.

    Raises:
        UsageError: a space it cannot handle, or a value out of range.
    """

    acts_in = "discrete"
    acts_by = "q"

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        gamma: float = 0.99,
        tau: float = 0.005,
        target_update_interval: int = 1,
        ent_coef: float = 0.1,
        loss: Loss = "squared",
        max_grad_norm: float | None = None,
        normalize_observations: bool = False,
        normalize_returns: bool = False,
        network: NetworkCallable = MLP,
        q_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=3e-4),
        q_scheduler: LRSchedulerCallable | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, gamma, compile, normalize_observations, normalize_returns)
        require(0.0 < ent_coef < math.inf, "ent_coef", ent_coef, "give a number above 0; at 0 it would be DQN")
        check_ranges(loss=loss, max_grad_norm=max_grad_norm)
        self.ent_coef, self.loss, self.max_grad_norm = ent_coef, loss, max_grad_norm

        q = DiscreteQNetwork(observation_space, action_space, network)
        self.q = self.learned("q", q, q_optimizer, q_scheduler)  # Q_θ
        self.target_q = self.target_of(self.q, tau, target_update_interval)  # Q_θ̄

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π(·|s), or its mode: observations [B, *obs_shape] to actions [B]."""
        q = self.q(self.normalized(obs))  # [B, A]
        return q.argmax(-1) if deterministic else Categorical(q / self.ent_coef).sample()

    def policy_network(self) -> PolicyNetwork:
        """Q_θ with its temperature, by which values become the policy."""
        return PolicyNetwork(self.q, self.normalizer, self.ent_coef)

    def learn(self, batch: ReplayStream) -> None:
        """The gradient steps of soft Q-learning; `batch` takes its environment steps before each sample."""
        for minibatch in batch.minibatches(self.gamma, self.observe):  # (s, a, r, s') ~ D
            found = self.compute_gradients(minibatch)
            self.step("q", found)  # θ ← θ − λ ∇J_Q(θ)
            self.end_gradient_step(found)  # θ̄ ← τ θ + (1 − τ) θ̄, by PolyakAveraging
            batch.prioritize(found.td_error)

    def gradients(self, batch: Transition) -> Gradients:
        """Of the loss of Q_θ(s, a) − (r + γ V(s')), J_Q (Eq. 11); the target is not differentiated."""
        batch = self.normalized_batch(batch)
        q = self.q(batch.obs)  # [B, A]
        q_a = q_of_action(q, batch.action)  # [B]
        target = td_target(batch.reward, batch.terminated, self.next_value(batch), batch.discount)  # [B]
        q_loss = LOSSES[self.loss](q_a, target, batch.weight)
        td_error = (q_a - target).abs()  # [B]
        with torch.no_grad():
            metrics = {
                "train/q_loss": q_loss,
                "train/q_mean": q_a.mean(),
                "train/v_mean": soft_maximum(q, self.ent_coef).mean(),
                "train/entropy": Categorical(q / self.ent_coef).entropy().mean(),
                "train/td_error": td_error,
            }
        return Gradients({"q": clipped_to_norm(grad(q_loss, self.q), self.max_grad_norm)}, metrics, td_error)

    @torch.no_grad()
    def next_value(self, batch: Transition) -> Tensor:
        """V(s') = α log Σ_a exp(Q_θ̄(s', a) / α), [B]."""
        return soft_maximum(self.target_q(batch.next_obs), self.ent_coef)
