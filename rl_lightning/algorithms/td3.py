"""Twin delayed deep deterministic policy gradient (arXiv:1802.09477)."""

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from rl_lightning.algorithms.base import Algorithm, Gradients, check_ranges, grad
from rl_lightning.callbacks import PolyakAveraging
from rl_lightning.data import ReplayStream
from rl_lightning.exploration import ActionNoise, NoiseCallable
from rl_lightning.functional import mean_td_error, td_target, twin_q_loss
from rl_lightning.networks import MLP, DeterministicPolicy, NetworkCallable, TwinQ
from rl_lightning.optim import FusedAdam
from rl_lightning.types import Obs, Space, Transition


class TD3(Algorithm):
    """DDPG with twin Q_θ1 and Q_θ2, a policy μ_φ and targets that step less often, and targets smoothed by noise.

    Args:
        observation_space: see `rl_lightning.networks.encoders.make_encoder`.
        action_space: a Box of vectors in [-1, 1], as `make_env` gives it.
        gamma: the discount γ, in [0, 1].
        tau: weight of the online networks in each update of the targets, in (0, 1]; 1 copies them.
        policy_delay: gradient steps of Q for one of the policy and one update of the targets.
        target_policy_noise: deviation of the noise on the target's actions.
        target_noise_clip: bound on that noise.
        noise: of actions while collecting; by default `ActionNoise` of deviation 0.1.
        network: the body of every network.
        q_optimizer: steps θ1 and θ2.
        policy_optimizer: steps φ.
        q_scheduler: of the learning rate of Q, stepped at every gradient step.
        policy_scheduler: likewise, stepped at every gradient step of the policy.
        compile: run `gradients` as one compiled graph.

    Raises:
        UsageError: a space it cannot handle, or a value out of range.
    """

    acts_in = "box"
    noise: ActionNoise

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        gamma: float = 0.99,
        tau: float = 0.005,
        policy_delay: int = 2,
        target_policy_noise: float = 0.2,
        target_noise_clip: float = 0.5,
        noise: NoiseCallable = ActionNoise,
        network: NetworkCallable = MLP,
        q_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-3),
        policy_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-3),
        q_scheduler: LRSchedulerCallable | None = None,
        policy_scheduler: LRSchedulerCallable | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, gamma, compile)
        check_ranges(policy_delay=policy_delay)
        check_ranges(target_policy_noise=target_policy_noise, target_noise_clip=target_noise_clip)
        self.policy_delay, self.noise = policy_delay, noise()
        self.target_policy_noise, self.target_noise_clip = target_policy_noise, target_noise_clip

        self.q = self.learned("q", TwinQ(observation_space, action_space, network), q_optimizer, q_scheduler)
        self.target_q = self.target_of(self.q)  # Q_θ̄1, Q_θ̄2
        policy = DeterministicPolicy(observation_space, action_space, network)
        self.policy = self.learned("policy", policy, policy_optimizer, policy_scheduler)  # μ_φ
        self.target_policy = self.target_of(self.policy)  # μ_φ̄
        self.polyak_averaging = PolyakAveraging(tau, target_update_interval=policy_delay)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """μ_φ(s), with noise or without: observations [B, *obs_shape] to actions [B, A] in [-1, 1]."""
        action: Tensor = self.policy(obs)
        return action if deterministic else self.noise(action, self.clock.progress)

    def learn(self, batch: ReplayStream) -> None:
        """The gradient steps of Algorithm 1; `batch` takes its environment steps before each sample.

        Both gradients are taken at the same parameters; in Algorithm 1 the policy's sees Q one step later.
        """
        for minibatch in batch.minibatches(self.gamma):  # (s, a, r, s') ~ D
            policy_is_due = (self.gradient_steps + 1) % self.policy_delay == 0
            found = self.compute_gradients(minibatch, policy_is_due)
            self.step("q", found)  # θ_i ← argmin_θ_i E[(y − Q_θ_i(s, a))²], one step of it
            if policy_is_due:  # t mod d
                self.step("policy", found)  # ∇_φ J(φ) = E[∇_a Q_θ1(s, a) ∇_φ μ_φ(s)]
            self.end_gradient_step(found)  # every d: θ̄ ← τ θ + (1 − τ) θ̄ and φ̄ likewise, by PolyakAveraging
            batch.prioritize(found.td_error)

    def gradients(self, batch: Transition, policy_is_due: bool) -> Gradients:
        """∇J_Q, and where the policy is due −∇_a Q_θ1(s, a) ∇_φ μ_φ(s), at one minibatch."""
        q1, q2 = self.q(batch.obs, batch.action)  # [B], [B]
        target = td_target(batch.reward, batch.terminated, self.next_value(batch), batch.discount)  # [B]
        q_loss = twin_q_loss(q1, q2, target, batch.weight)
        td_error = mean_td_error(q1, q2, target)  # [B]
        metrics = {
            "train/q_loss": q_loss,
            "train/q_mean": torch.minimum(q1, q2).mean(),
            "train/td_error": td_error,
        }
        gradients = {"q": grad(q_loss, self.q)}
        if policy_is_due:
            policy_loss = -self.q.q1(batch.obs, self.policy(batch.obs)).mean()
            metrics["train/policy_loss"] = policy_loss
            gradients["policy"] = grad(policy_loss, self.policy)
        return Gradients(gradients, metrics, td_error)

    @torch.no_grad()
    def next_value(self, batch: Transition) -> Tensor:
        """min Q_θ̄(s', ã), ã = μ_φ̄(s') + clip(noise), in [-1, 1]; [B]."""
        action = self.target_policy(batch.next_obs)  # [B, A]
        noise = self.target_policy_noise * torch.randn_like(action)
        action = (action + noise.clamp(-self.target_noise_clip, self.target_noise_clip)).clamp(-1.0, 1.0)
        return torch.minimum(*self.target_q(batch.next_obs, action))
