"""Deep Q-learning (Mnih et al., 2015; Algorithm 2 of the lecture), with double (arXiv:1509.06461) and dueling Q."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from rl_lightning.algorithms.module import Algorithm, Gradients, Metrics, configured, gradients_of
from rl_lightning.callbacks import PolyakAveraging
from rl_lightning.envs import check_discrete_action_space
from rl_lightning.errors import require
from rl_lightning.exploration import epsilon_greedy
from rl_lightning.functional import LOSSES, Loss, clipped_to_norm, of_action, td_target
from rl_lightning.networks import MLP, DiscreteQNetwork, NetworkCallable
from rl_lightning.optim import FusedAdam
from rl_lightning.schedules import Schedule, check_schedule, scheduled
from rl_lightning.types import Obs, Transition


class DQN(Algorithm):
    """Q_θ towards r + γ max Q_θ̄(s', ·), with an ε-greedy policy and a target θ̄ that is a copy now and then.

    Plain semi-gradient Q-learning (section 2 of the lecture: no replay, no target) is a setting of it: the newest
    transition alone (`buffer_size`, `batch_size` and `learning_starts` 1) and `target_update_interval` 1.

    Args:
        observation_space: see `rl_lightning.encoders.make_encoder`.
        action_space: a Discrete.
        gamma: the discount γ, in [0, 1].
        tau: weight of Q_θ in each update of Q_θ̄, in (0, 1]; 1 copies it.
        target_update_interval: gradient steps from one update of Q_θ̄ to the next.
        double: the action of the target is chosen by Q_θ, valued by Q_θ̄.
        dueling: Q from networks for state value and advantage (arXiv:1511.06581).
        loss: of Q_θ − target: half its square, or Huber's, linear beyond 1.
        max_grad_norm: bound on the gradient's norm.
        exploration_initial_eps: ε at the start.
        exploration_final_eps: ε at the end of its schedule.
        exploration_fraction: share of the run that the schedule takes.
        exploration_schedule: between the two.
        network: the body of Q.
        q_optimizer: steps θ.
        q_scheduler: of its learning rate, stepped at every gradient step.
        init_from: a checkpoint (file or URL) whose networks to start from, with a fresh optimizer.
        compile: run `gradients` as one compiled graph.

    Raises:
        UsageError: a space it cannot handle, a value out of range, or an unusable `init_from`.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        gamma: float = 0.99,
        tau: float = 1.0,
        target_update_interval: int = 1_000,
        double: bool = False,
        dueling: bool = False,
        loss: Loss = "squared",
        max_grad_norm: float | None = None,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.05,
        exploration_fraction: float = 0.1,
        exploration_schedule: Schedule = "linear",
        network: NetworkCallable = MLP,
        q_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-4),
        q_scheduler: LRSchedulerCallable | None = None,
        init_from: str | Path | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, compile)
        require(0.0 <= gamma <= 1.0, "gamma", gamma, "give a number in [0, 1]")
        require(loss in LOSSES, "loss", loss, f"give one of {tuple(LOSSES)}")
        require(max_grad_norm is None or max_grad_norm > 0.0, "max_grad_norm", max_grad_norm, "give a number above 0")
        initial, final, fraction = exploration_initial_eps, exploration_final_eps, exploration_fraction
        require(0.0 <= initial <= 1.0, "exploration_initial_eps", initial, "give a number in [0, 1]")
        require(0.0 <= final <= 1.0, "exploration_final_eps", final, "give a number in [0, 1]")
        require(0.0 < fraction <= 1.0, "exploration_fraction", fraction, "give a number in (0, 1]")
        check_schedule("exploration_schedule", exploration_schedule)
        num_actions = check_discrete_action_space(action_space, "DQN")
        self.gamma, self.double_q, self.loss, self.max_grad_norm = gamma, double, loss, max_grad_norm
        self.exploration_initial_eps, self.exploration_final_eps = initial, final
        self.exploration_fraction, self.exploration_schedule = fraction, exploration_schedule
        self.q_optimizer, self.q_scheduler = q_optimizer, q_scheduler

        self.q = DiscreteQNetwork(observation_space, num_actions, network, "DQN", dueling)  # Q_θ
        self.target_q = self.target_of(self.q)  # Q_θ̄
        self.polyak_averaging = PolyakAveraging(tau, target_update_interval)
        self.configure_optimizers()  # what it refuses is refused here, before anything is created
        if init_from is not None:
            self.load_weights(init_from)

    @property
    def epsilon(self) -> float:
        """The present ε."""
        done = self.progress / self.exploration_fraction
        start, end = self.exploration_initial_eps, self.exploration_final_eps
        return scheduled(self.exploration_schedule, start, end, done)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """ε-greedy, or greedy: observations [B, *obs_shape] to actions [B]."""
        q = self.q(obs)  # [B, A]
        return q.argmax(-1) if deterministic else epsilon_greedy(q, self.epsilon)

    def gradients(self, batch: Transition) -> tuple[Metrics, Gradients]:
        """Of the loss of Q_θ(s, a) − (r + γ max_a' Q_θ̄(s', a')); the target is not differentiated."""
        q = of_action(self.q(batch.obs), batch.action)  # [B]
        target = td_target(batch.reward, batch.terminated, self.next_value(batch), batch.discount)  # [B]
        q_loss = LOSSES[self.loss](q, target, batch.weight)
        gradients = gradients_of(q_loss, [self.q])
        return {
            "train/q_loss": q_loss.detach(),
            "train/q_mean": q.detach().mean(),
            "train/td_error": (q.detach() - target).abs(),
        }, [clipped_to_norm(own, self.max_grad_norm) for own in gradients]

    @torch.no_grad()
    def next_value(self, batch: Transition) -> Tensor:
        """max_a' Q_θ̄(s', a'); double: Q_θ̄(s', argmax_a' Q_θ(s', a')). [B]."""
        target_q = self.target_q(batch.next_obs)  # [B, A]
        chosen = self.q(batch.next_obs) if self.double_q else target_q
        return of_action(target_q, chosen.argmax(-1))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One, of Q_θ."""
        return (configured("q_optimizer", self.q, self.q_optimizer, self.q_scheduler),)
