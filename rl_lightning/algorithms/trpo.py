"""Trust region policy optimization (arXiv:1502.05477), with GAE for advantages (arXiv:1506.02438)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rl_lightning.algorithms.module import Algorithm, Gradients, Metrics, configured, gradients_of
from rl_lightning.data.rollout import RolloutDataModule, RolloutStream
from rl_lightning.errors import UsageError, require
from rl_lightning.functional import explained_variance, half_squared_error, standardized
from rl_lightning.networks import MLP, NetworkCallable
from rl_lightning.optim import FusedAdam
from rl_lightning.policy_and_value import PolicyAndValue
from rl_lightning.types import Obs, Rollout, flat_in_time, map_obs


class Samples(NamedTuple):
    """Time steps of a rollout, with all that is needed to learn from them."""

    obs: Obs  # [B, *obs_shape]
    action: Tensor  # [B, *action_shape]
    advantage: Tensor  # [B]
    returns: Tensor  # [B], what V is to become


class ValueSamples(NamedTuple):
    """A minibatch for V."""

    obs: Obs  # [B, *obs_shape]
    returns: Tensor  # [B]


class TRPO(Algorithm):
    """One natural-gradient step of the policy for each rollout, as long as its KL divergence stays under `target_kl`.

    The policy has no optimizer: the step's length follows from the constraint. V has one.

    Args:
        observation_space: see `rl_lightning.encoders.make_encoder`.
        action_space: Discrete, MultiDiscrete, MultiBinary or Box.
        gamma: the discount γ, in [0, 1].
        gae_lambda: λ in [0, 1].
        target_kl: bound δ on the mean KL divergence of a step, above 0.
        cg_max_steps: iterations of conjugate gradients.
        cg_damping: added to the Fisher matrix's diagonal.
        line_search_shrinking_factor: of the step from one try to the next, in (0, 1).
        line_search_max_iter: tries, the full step included; where all fail the policy stays.
        n_critic_updates: passes over each rollout for V.
        batch_size: time steps of V's minibatches; it must divide rollout_steps x num_envs.
        normalize_advantage: to mean 0 and deviation 1 in each rollout.
        normalize_observations: real-valued ones that are no images, with running statistics.
        normalize_returns: scale rewards by the running deviation of returns.
        state_dependent_std: a Gaussian policy's deviation is a function of the observation, not one for all.
        log_std_init: log of the deviation at the start, where it is one for all.
        network: the body of both networks.
        value_optimizer: steps V.
        value_scheduler: of its learning rate, stepped at every gradient step of V.
        init_from: a checkpoint (file or URL) whose networks to start from, with a fresh optimizer.
        compile: run `gradients` as one compiled graph.

    Raises:
        UsageError: a space it cannot handle, a value out of range, or an unusable `init_from`.
    """

    learns_from = RolloutDataModule

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        target_kl: float = 0.01,
        cg_max_steps: int = 15,
        cg_damping: float = 0.1,
        line_search_shrinking_factor: float = 0.8,
        line_search_max_iter: int = 10,
        n_critic_updates: int = 10,
        batch_size: int = 128,
        normalize_advantage: bool = True,
        normalize_observations: bool = False,
        normalize_returns: bool = False,
        state_dependent_std: bool = False,
        log_std_init: float = 0.0,
        network: NetworkCallable = MLP,
        value_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-3),
        value_scheduler: LRSchedulerCallable | None = None,
        init_from: str | Path | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, compile)
        require(0.0 <= gamma <= 1.0, "gamma", gamma, "give a number in [0, 1]")
        require(0.0 <= gae_lambda <= 1.0, "gae_lambda", gae_lambda, "give a number in [0, 1]")
        require(target_kl > 0.0, "target_kl", target_kl, "give a number above 0")
        require(cg_max_steps >= 1, "cg_max_steps", cg_max_steps, "give 1 or more")
        require(cg_damping >= 0.0, "cg_damping", cg_damping, "give 0 or more")
        shrinking = line_search_shrinking_factor
        require(0.0 < shrinking < 1.0, "line_search_shrinking_factor", shrinking, "give a number in (0, 1)")
        require(line_search_max_iter >= 1, "line_search_max_iter", line_search_max_iter, "give 1 or more")
        require(n_critic_updates >= 1, "n_critic_updates", n_critic_updates, "give 1 or more")
        require(batch_size >= 1, "batch_size", batch_size, "give 1 or more")
        self.gamma, self.gae_lambda, self.target_kl = gamma, gae_lambda, target_kl
        self.cg_max_steps, self.cg_damping = cg_max_steps, cg_damping
        self.line_search_shrinking_factor, self.line_search_max_iter = shrinking, line_search_max_iter
        self.n_critic_updates, self.batch_size = n_critic_updates, batch_size
        self.normalize_advantage = normalize_advantage
        self.value_optimizer, self.value_scheduler = value_optimizer, value_scheduler
        self.networks = PolicyAndValue(
            observation_space,
            action_space,
            network,
            "TRPO",
            state_dependent_std,
            log_std_init,
            normalize_observations=normalize_observations,
            normalize_returns=gamma if normalize_returns else None,
        )
        self.configure_optimizers()  # what it refuses is refused here, before anything is created
        if init_from is not None:
            self.load_weights(init_from)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π(·|s), or its mode: observations [B, *obs_shape] to actions [B, *action_shape]."""
        return self.networks.act(obs, deterministic)

    def minibatches(self, batch: RolloutStream) -> Iterator[ValueSamples]:
        """Step the policy, then give V its minibatches, `n_critic_updates` passes over the rollout."""
        for rollout in batch:
            samples = self.with_advantages(rollout)
            self.losses.update(self.step_policy(samples))
            size = len(samples.returns)
            for _ in range(self.n_critic_updates):
                for index in torch.split(torch.randperm(size, device=self.device), self.batch_size):
                    obs = map_obs(lambda x, index=index: x[index], samples.obs)
                    yield ValueSamples(obs, samples.returns[index])
            self.networks.take_in(rollout, self.gather)

    @torch.no_grad()
    def with_advantages(self, rollout: Rollout) -> Samples:
        """Advantages by GAE, and what V is to become, of a rollout [T, N, ...]."""
        rollout = self.networks.prepared(rollout, self.gather)
        obs = flat_in_time(rollout.obs)
        value = self.networks.values(obs)  # [T N]
        advantage = self.networks.advantages(rollout, value, self.gamma, self.gae_lambda)  # [T N]
        returns = advantage + value
        if self.normalize_advantage:
            advantage = standardized(advantage)
        return Samples(obs, rollout.action.flatten(0, 1), advantage, returns)

    def step_policy(self, samples: Samples) -> Metrics:
        """Maximize the surrogate (Eq. 14) within the trust region: natural gradient, then line search (appendix C)."""
        policy = self.networks.policy
        parameters = list(policy.parameters())
        old_pi = self.networks.distribution(samples.obs).detach()
        old_log_prob = old_pi.log_prob(samples.action)  # [B]

        def surrogate_and_kl() -> tuple[Tensor, Tensor]:
            pi = self.networks.distribution(samples.obs)
            ratio = (pi.log_prob(samples.action) - old_log_prob).exp()  # [B]
            return (ratio * samples.advantage).mean(), old_pi.kl(pi).mean()

        surrogate, kl = surrogate_and_kl()
        gradient = self._mean(torch.autograd.grad(surrogate, parameters, retain_graph=True))  # g
        kl_gradient = torch.cat([part.flatten() for part in torch.autograd.grad(kl, parameters, create_graph=True)])

        def fisher_vector_product(vector: Tensor) -> Tensor:
            product = torch.autograd.grad(kl_gradient @ vector, parameters, retain_graph=True)
            return self._mean(product) + self.cg_damping * vector

        direction = conjugate_gradient(fisher_vector_product, gradient, self.cg_max_steps)  # x = F⁻¹ g
        curvature = direction @ fisher_vector_product(direction)  # xᵀ F x
        full_step = (2.0 * self.target_kl / curvature).sqrt() * direction if curvature > 0.0 else 0.0 * direction

        start = parameters_to_vector(parameters).detach()
        before = self._mean((surrogate.detach(),))
        with torch.no_grad():
            for tries in range(self.line_search_max_iter):
                vector_to_parameters(start + self.line_search_shrinking_factor**tries * full_step, parameters)
                now, kl = self._mean(surrogate_and_kl())
                if kl < self.target_kl and now > before:
                    break
            else:
                vector_to_parameters(start, parameters)
                now, kl = before.squeeze(), torch.zeros_like(kl)
            return {
                "train/policy_loss": -now,
                "train/kl": kl,
                "train/line_search_tries": torch.tensor(float(tries + 1)),
                "train/entropy": self.networks.distribution(samples.obs).entropy().mean(),
            }

    def gradients(self, batch: ValueSamples) -> tuple[Metrics, Gradients]:
        """Of the value's loss."""
        value = self.networks.values(batch.obs)  # [B]
        value_loss = half_squared_error(value, batch.returns)
        metrics = {
            "train/value_loss": value_loss,
            "train/v_mean": value.mean(),
            "train/explained_variance": explained_variance(value, batch.returns),
        }
        gradients = gradients_of(value_loss, [self.networks.value])
        return {name: metric.detach() for name, metric in metrics.items()}, gradients

    def _mean(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Tensors as one flat vector, averaged over processes."""
        return self._mean_over_processes((torch.cat([tensor.flatten() for tensor in tensors]),))[0]

    def check_data(self, data: object) -> None:
        """Refuse whole episodes, and rollouts that minibatches do not divide."""
        super().check_data(data)
        assert isinstance(data, RolloutDataModule)
        if data.rollout_steps is None:
            raise UsageError(
                "rollout_steps=None is not allowed with TRPO: minibatches need rollouts of one size; give 1 or more"
            )
        size = data.rollout_steps * data.num_envs
        require(
            size % self.batch_size == 0,
            "batch_size",
            self.batch_size,
            f"minibatches must divide a rollout of rollout_steps x num_envs = {size}; give a divisor of it",
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One, of V."""
        return (configured("value_optimizer", self.networks.value, self.value_optimizer, self.value_scheduler),)


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, max_steps: int, tolerance: float = 1e-10
) -> Tensor:
    """x with A x = b, A symmetric and positive definite and known by its products alone (Hestenes and Stiefel, 1952).

    Args:
        product: v to A v, both [n].
        b: [n].
        max_steps: n steps are exact.
        tolerance: on the squared norm of the residual.

    Returns:
        [n].
    """
    x = torch.zeros_like(b)
    residual = b.clone()
    direction = b.clone()
    squared_norm = residual @ residual
    for _ in range(max_steps):
        if squared_norm < tolerance:
            break
        image = product(direction)
        step = squared_norm / (direction @ image)
        x = x + step * direction
        residual = residual - step * image
        previous, squared_norm = squared_norm, residual @ residual
        direction = residual + (squared_norm / previous) * direction
    return x
