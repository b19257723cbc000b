"""Deep Q-learning (Mnih et al., 2015; Algorithm 2 of the lecture), with double (arXiv:1509.06461) and dueling Q."""

import torch
from torch import Tensor

from rl_lightning.algorithms.base import Algorithm, Gradients, check_ranges, grad
from rl_lightning.data import ReplayStream
from rl_lightning.exploration import EpsilonGreedy, ExplorationCallable
from rl_lightning.functional import LOSSES, Loss, clipped_to_norm, q_of_action, td_target
from rl_lightning.networks import MLP, DiscreteQNetwork, NetworkCallable
from rl_lightning.optim import FusedAdam, LRSchedulerCallable, OptimizerCallable
from rl_lightning.types import Obs, Space, Transition, to_device


class DQN(Algorithm):
    """Q_θ towards r + γ max Q_θ̄(s', ·), with an ε-greedy policy and a target θ̄ that is a copy now and then.

    Plain semi-gradient Q-learning (section 2 of the lecture: no replay, no target) is a setting of it: the newest
    transition alone (`buffer_size`, `batch_size` and `learning_starts` 1) and `target_update_interval` 1.

    Args:
        observation_space: see `rl_lightning.networks.encoders.make_encoder`.
        action_space: a Discrete.
        gamma: the discount γ, in [0, 1].
        tau: weight of Q_θ in each update of Q_θ̄, in (0, 1]; 1 copies it.
        target_update_interval: gradient steps from one update of Q_θ̄ to the next.
        double: the action of the target is chosen by Q_θ, valued by Q_θ̄.
        dueling: Q from networks for state value and advantage (arXiv:1511.06581).
        loss: of Q_θ − target: half its square, or Huber's, linear beyond 1.
        max_grad_norm: bound on the gradient's norm.
        exploration: ε-greedy actions while collecting; by default ε goes from 1 to 0.05 over a tenth of the run.
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
        tau: float = 1.0,
        target_update_interval: int = 1_000,
        double: bool = False,
        dueling: bool = False,
        loss: Loss = "squared",
        max_grad_norm: float | None = None,
        exploration: ExplorationCallable = EpsilonGreedy,
        normalize_observations: bool = False,
        normalize_returns: bool = False,
        network: NetworkCallable = MLP,
        q_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-4),
        q_scheduler: LRSchedulerCallable | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, gamma, compile, normalize_observations, normalize_returns)
        check_ranges(loss=loss, max_grad_norm=max_grad_norm)
        self.double_q, self.loss, self.max_grad_norm, self.exploration = double, loss, max_grad_norm, exploration()

        q = DiscreteQNetwork(observation_space, action_space, network, dueling)
        self.q = self.learned("q", q, q_optimizer, q_scheduler)  # Q_θ
        self.target_q = self.target_of(self.q, tau, target_update_interval)  # Q_θ̄

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """ε-greedy, with the ε of this time of the run, or greedy.

        Observations [B, *obs_shape] to actions [B].
        """
        q = self.q(self.normalized(obs))  # [B, A]
        return q.argmax(-1) if deterministic else epsilon_greedy(q, self.exploration.epsilon(self.clock.progress))

    def learn(self, batch: ReplayStream) -> None:
        """Algorithm 1 (lecture: 2), where C is `target_update_interval`. Its environment steps are the batch's.

            with probability ε any action a, else a = argmax_a Q_θ(s, a); observe r and s'
            store (s, a, r, s') in D
            sample a minibatch of D
            y = r where s' is terminal, else r + γ max_a' Q_θ̄(s', a')
            one gradient step on (y − Q_θ(s, a))² in θ
            every C steps θ̄ ← θ

        The batch takes `train_freq` of the first before it samples, so that C counts gradient steps.
        """
        for minibatch in batch.minibatches(self.gamma, self.observe):  # (s, a, r, s') ~ D
            found = self.compute_gradients(minibatch)
            self.step("q", found)  # θ ← θ − η ∇_θ J_Q(θ)
            self.end_gradient_step(found)  # every C: θ̄ ← τ θ + (1 − τ) θ̄, by PolyakAveraging; τ = 1 copies
            batch.prioritize(found.td_error)

    def gradients(self, batch: Transition) -> Gradients:
        """Of J_Q(θ) = E[w ℓ(Q_θ(s, a) − y)] at one minibatch.

        y = r + γ max_a' Q_θ̄(s', a') is not differentiated; ℓ is half the square (the paper has no ½), or Huber's, whose
        gradient is the clipped error of the paper; w is 1 or the weight of prioritized replay.
        """
        batch = self.normalized_batch(batch)
        q = q_of_action(self.q(batch.obs), batch.action)  # [B]
        target = td_target(batch.reward, batch.terminated, self.next_value(batch), batch.discount)  # [B]
        q_loss = LOSSES[self.loss](q, target, batch.weight)
        td_error = (q - target).abs()  # [B]
        metrics = {
            "train/q_loss": q_loss,
            "train/q_mean": q.mean(),
            "train/td_error": td_error,
        }
        return Gradients({"q": clipped_to_norm(grad(q_loss, self.q), self.max_grad_norm)}, metrics, td_error)

    @torch.no_grad()
    def next_value(self, batch: Transition) -> Tensor:
        """max_a' Q_θ̄(s', a'), [B].

        With `double` Q_θ̄(s', argmax_a' Q_θ(s', a')) instead (arXiv:1509.06461, Eq. 4): the action chosen by one network
        and valued by the other, against the bias of a maximum of estimates.
        """
        next_q = self.target_q(batch.next_obs)  # [B, A]
        chosen = self.q(batch.next_obs) if self.double_q else next_q
        return q_of_action(next_q, chosen.argmax(-1))


def epsilon_greedy(q: Tensor, epsilon: float) -> Tensor:
    """argmax_a Q(s, a), or with probability ε any action. [B, A] to [B] int64."""
    greedy = q.argmax(-1)  # [B]
    explores = torch.empty(len(q)).uniform_() < epsilon  # [B], on the CPU: reading it off a GPU would wait for that
    if not explores.any():
        return greedy
    return torch.where(to_device(explores, q.device), torch.randint_like(greedy, q.shape[1]), greedy)
