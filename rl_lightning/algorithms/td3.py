"""Twin delayed deep deterministic policy gradient (arXiv:1802.09477)."""

import torch
from torch import Tensor

from rl_lightning.algorithms.base import Algorithm, Gradients, check_ranges, grad
from rl_lightning.data import ReplayStream
from rl_lightning.exploration import ActionNoise, NoiseCallable
from rl_lightning.functional import mean_td_error, td_target, twin_q_loss
from rl_lightning.networks import MLP, DeterministicPolicy, NetworkCallable, TwinQ
from rl_lightning.optim import FusedAdam, LRSchedulerCallable, OptimizerCallable
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
        normalize_observations: real-valued ones that are no images, with running statistics.
        normalize_returns: scale rewards by the running deviation of returns.
        network: the body of every network.
        q_optimizer: steps θ1 and θ2.
        policy_optimizer: steps φ.
        q_scheduler: of the learning rate of Q: an `EnvStepsLR`, or any that counts gradient steps.
        policy_scheduler: likewise; one that counts, counts the gradient steps of the policy.
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
        policy_delay: int = 2,
        target_policy_noise: float = 0.2,
        target_noise_clip: float = 0.5,
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
        check_ranges(policy_delay=policy_delay)
        check_ranges(target_policy_noise=target_policy_noise, target_noise_clip=target_noise_clip)
        self.policy_delay, self.noise = policy_delay, noise()
        self.target_policy_noise, self.target_noise_clip = target_policy_noise, target_noise_clip

        self.q = self.learned("q", TwinQ(observation_space, action_space, network), q_optimizer, q_scheduler)
        self.target_q = self.target_of(self.q, tau, policy_delay)  # Q_θ̄1, Q_θ̄2
        policy = DeterministicPolicy(observation_space, action_space, network)
        self.policy = self.learned("policy", policy, policy_optimizer, policy_scheduler)  # μ_φ
        self.target_policy = self.target_of(self.policy, tau, policy_delay)  # μ_φ̄

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """μ_φ(s), with noise of its deviation at this time of the run, or without.

        Observations [B, *obs_shape] to actions [B, A] in [-1, 1].
        """
        action: Tensor = self.policy(self.normalized(obs))
        return action if deterministic else self.noise(action, self.clock.progress)

    def learn(self, batch: ReplayStream) -> None:
        """Algorithm 1, where d is `policy_delay`. Its environment steps are the batch's, taken before each sample.

            a = μ_φ(s) + ε, ε ~ N(0, σ); observe r and s'; store (s, a, r, s') in D
            sample a minibatch of D
            ã ← μ_φ̄(s') + clip(ε, −c, c), ε ~ N(0, σ̃)
            y ← r + γ min_i Q_θ̄i(s', ã)
            move θ_i towards argmin E[(y − Q_θi(s, a))²]
            every d steps: φ up the deterministic policy gradient, then θ̄_i and φ̄ towards θ_i and φ

        Both gradients are taken at the same parameters; in Algorithm 1 the policy's sees Q one step later.
        """
        for minibatch in batch.minibatches(self.gamma, self.observe):  # (s, a, r, s') ~ D
            policy_is_due = (self.gradient_steps + 1) % self.policy_delay == 0
            found = self.compute_gradients(minibatch, policy_is_due)
            self.step("q", found)  # θ_i ← θ_i − λ_Q ∇J_Q(θ_i), i = 1, 2
            if policy_is_due:  # φ ← φ + λ_μ E[∇_a Q_θ1(s, a) ∇_φ μ_φ(s)], a = μ_φ(s)
                self.step("policy", found)
            self.end_gradient_step(found)  # every d: θ̄_i ← τ θ_i + (1 − τ) θ̄_i, φ̄ likewise, by PolyakAveraging
            batch.prioritize(found.td_error)

    def gradients(self, batch: Transition, policy_is_due: bool) -> Gradients:
        """∇J_Q, and where the policy is due −∇_a Q_θ1(s, a) ∇_φ μ_φ(s), at one minibatch.

        J_Q = Σ_i E[w ½ (y − Q_θi(s, a))²], where the paper has no ½.
        """
        batch = self.normalized_batch(batch)
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
        """min_i Q_θ̄i(s', ã), [B]: clipped double Q-learning at a smoothed action.

        ã = μ_φ̄(s') + clip(ε, −c, c), clipped to [-1, 1]; the deviation of ε is `target_policy_noise`, and c is
        `target_noise_clip`.
        """
        action = self.target_policy(batch.next_obs)  # [B, A]
        noise = self.target_policy_noise * torch.randn_like(action)
        action = (action + noise.clamp(-self.target_noise_clip, self.target_noise_clip)).clamp(-1.0, 1.0)
        return torch.minimum(*self.target_q(batch.next_obs, action))
