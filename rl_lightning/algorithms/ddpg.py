"""Deep deterministic policy gradient (arXiv:1509.02971): the deterministic limit of the policy gradient."""

import torch
from torch import Tensor

from rl_lightning.algorithms.base import Algorithm, Gradients, grad
from rl_lightning.data import ReplayStream
from rl_lightning.exploration import ActionNoise, NoiseCallable
from rl_lightning.functional import half_squared_error, td_target
from rl_lightning.networks import MLP, DeterministicPolicy, NetworkCallable, QNetwork
from rl_lightning.optim import FusedAdam, LRSchedulerCallable, OptimizerCallable
from rl_lightning.types import Obs, Space, Transition


class DDPG(Algorithm):
    """Q_θ towards r + γ Q_θ̄(s', μ_φ̄(s')), μ_φ up the gradient of Q_θ(s, μ_φ(s)); targets θ̄ and φ̄ follow.

    Args:
        observation_space: see `rl_lightning.networks.encoders.make_encoder`.
        action_space: a Box of vectors in [-1, 1], as `make_env` gives it.
        gamma: the discount γ, in [0, 1].
        tau: weight of the online networks in each update of the targets, in (0, 1]; 1 copies them.
        target_update_interval: gradient steps from one update of the targets to the next.
        noise: of actions while collecting; by default `ActionNoise` of deviation 0.1.
        normalize_observations: real-valued ones that are no images, with running statistics.
        normalize_returns: scale rewards by the running deviation of returns.
        network: the body of every network.
        q_optimizer: steps θ.
        policy_optimizer: steps φ.
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
        noise: NoiseCallable = ActionNoise,
        normalize_observations: bool = False,
        normalize_returns: bool = False,
        network: NetworkCallable = MLP,
        q_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-3),
        policy_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-3),
        q_scheduler: LRSchedulerCallable | None = None,
        policy_scheduler: LRSchedulerCallable | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, gamma, compile, normalize_observations, normalize_returns)
        self.noise = noise()

        self.q = self.learned("q", QNetwork(observation_space, action_space, network), q_optimizer, q_scheduler)
        self.target_q = self.target_of(self.q, tau, target_update_interval)  # Q_θ̄
        policy = DeterministicPolicy(observation_space, action_space, network)
        self.policy = self.learned("policy", policy, policy_optimizer, policy_scheduler)  # μ_φ
        self.target_policy = self.target_of(self.policy, tau, target_update_interval)  # μ_φ̄

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """μ_φ(s), with noise or without: observations [B, *obs_shape] to actions [B, A] in [-1, 1]."""
        action: Tensor = self.policy(self.normalized(obs))
        return action if deterministic else self.noise(action, self.clock.progress)

    def learn(self, batch: ReplayStream) -> None:
        """Algorithm 1. Its environment steps are the batch's, which takes them before each sample.

            a = μ_φ(s) + noise; observe r and s'; store (s, a, r, s') in R
            sample a minibatch of R
            y = r + γ Q_θ̄(s', μ_φ̄(s'))
            one step each for θ and φ, then for their targets

        Both gradients are taken at the same parameters; in Algorithm 1 the policy's sees Q one step later.
        """
        for minibatch in batch.minibatches(self.gamma, self.observe):  # (s, a, r, s') ~ R
            found = self.compute_gradients(minibatch)
            self.step("q", found)  # θ: one step of minimizing E[½ (y − Q_θ(s, a))²], y = r + γ Q_θ̄(s', μ_φ̄(s'))
            self.step("policy", found)  # φ: along E[∇_a Q_θ(s, a) ∇_φ μ_φ(s)], a = μ_φ(s)
            self.end_gradient_step(found)  # θ̄ ← τ θ + (1 − τ) θ̄ and φ̄ likewise, by PolyakAveraging
            batch.prioritize(found.td_error)

    def gradients(self, batch: Transition) -> Gradients:
        """∇J_Q, and of the policy −∇_a Q(s, a) ∇_φ μ_φ(s) (Eq. 6), at one minibatch.

        J_Q = E[w ½ (y − Q_θ(s, a))²], where the paper has no ½.
        """
        batch = self.normalized_batch(batch)
        q = self.q(batch.obs, batch.action)  # [B]
        target = td_target(batch.reward, batch.terminated, self.next_value(batch), batch.discount)  # [B]
        q_loss = half_squared_error(q, target, batch.weight)
        policy_loss = -self.q(batch.obs, self.policy(batch.obs)).mean()
        td_error = (q - target).abs()  # [B]
        metrics = {
            "train/q_loss": q_loss,
            "train/policy_loss": policy_loss,
            "train/q_mean": q.mean(),
            "train/td_error": td_error,
        }
        return Gradients({"q": grad(q_loss, self.q), "policy": grad(policy_loss, self.policy)}, metrics, td_error)

    @torch.no_grad()
    def next_value(self, batch: Transition) -> Tensor:
        """Q_θ̄(s', μ_φ̄(s')), [B]."""
        value: Tensor = self.target_q(batch.next_obs, self.target_policy(batch.next_obs))
        return value
