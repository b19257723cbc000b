"""Q_w(s, a) of the present policy, learned from replay next to rollouts: the critic of control variates."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rl_lightning.algorithms.base import Algorithm, Gradients, grad
from rl_lightning.data import RolloutStream
from rl_lightning.functional import half_squared_error, td_target
from rl_lightning.networks import MLP, NetworkCallable, PolicyAndValue, QNetwork
from rl_lightning.optim import FusedAdam, LRSchedulerCallable, OptimizerCallable
from rl_lightning.types import Obs, Space, Transition


class OffPolicyCritic(nn.Module):
    """Q_w towards r + γ Q_w̄(s', a'), a' ~ π_θ(·|s'), on minibatches of replay (arXiv:1611.02247, Eq. 13).

    Transitions may be of any earlier policy: a' is the present one's, so Q_w is its value too. Observations and rewards
    are normalized as the on-policy learner's are, so Q_w has the unit of V.

    Args:
        observation_space: see `rl_lightning.networks.encoders.make_encoder`.
        action_space: a Box of vectors [A].
        tau: weight of Q_w in each update of its target Q_w̄, in (0, 1]; 1 copies it.
        target_update_interval: gradient steps of Q_w from one update of the target to the next.
        network: the body.
        q_optimizer: steps w.
        q_scheduler: of its learning rate: an `EnvStepsLR`, or any that counts gradient steps of Q_w.

    Attributes:
        q: Q_w.
        target_q: Q_w̄.
    """

    target_q: QNetwork

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        tau: float = 0.005,
        target_update_interval: int = 1,
        network: NetworkCallable = MLP,
        q_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-3),
        q_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.q = QNetwork(observation_space, action_space, network)
        self.tau, self.target_update_interval = tau, target_update_interval
        self.q_optimizer, self.q_scheduler = q_optimizer, q_scheduler

    def forward(self, obs: Obs, action: Tensor) -> Tensor:
        """Q_w(s, a): normalized observations [B, *obs_shape] and actions [B, A] to [B]."""
        q: Tensor = self.q(obs, action)
        return q

    def declare(self, learner: Algorithm) -> None:
        """Have the learner step Q_w by its optimizer and let the target follow."""
        learner.learned("q", self.q, self.q_optimizer, self.q_scheduler)
        self.target_q = learner.target_of(self.q, self.tau, self.target_update_interval)

    def learn(self, learner: Algorithm, networks: PolicyAndValue, batch: RolloutStream) -> None:
        """As many steps of Q_w as replay gives minibatches for the latest rollout."""
        for minibatch in batch.replayed(learner.gamma):
            found = learner.compute(self.gradients, networks, minibatch)
            learner.step("q", found)  # w ← w − η ∇J_Q
            learner.end_gradient_step(found)  # w̄ ← τ w + (1 − τ) w̄, by PolyakAveraging

    def gradients(self, networks: PolicyAndValue, batch: Transition) -> Gradients:
        """Of J_Q = E[½ (y − Q_w(s, a))²], y = r + γ Q_w̄(s', a'), at one minibatch."""
        q = self(networks.normalized(batch.obs), batch.action)  # [B]
        target = td_target(
            networks.scaled(batch.reward), batch.terminated, self.next_value(networks, batch.next_obs), batch.discount
        )  # [B]
        q_loss = half_squared_error(q, target)
        metrics = {"train/q_loss": q_loss, "train/q_mean": q.mean()}
        return Gradients({"q": grad(q_loss, self.q)}, metrics)

    @torch.no_grad()
    def next_value(self, networks: PolicyAndValue, next_obs: Obs) -> Tensor:
        """Q_w̄(s', a') with a' ~ π_θ(·|s'), [B]."""
        action = networks.distribution(next_obs).sample()  # [B, A]
        value: Tensor = self.target_q(networks.normalized(next_obs), action)
        return value


CriticCallable = Callable[[Space, Space], OffPolicyCritic]
