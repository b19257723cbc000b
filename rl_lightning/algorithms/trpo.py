"""Trust region policy optimization (arXiv:1502.05477), with GAE for advantages (arXiv:1506.02438)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from rl_lightning.algorithms.base import Algorithm, Gradients, Metrics, check_ranges, grad
from rl_lightning.algorithms.bridge import Control, EstimatorCallable, LikelihoodRatio
from rl_lightning.algorithms.off_policy_critic import CriticCallable
from rl_lightning.algorithms.policy_gradient import PolicyGradient, in_standard_units, over_dimensions
from rl_lightning.algorithms.shared.learned import trainable
from rl_lightning.data import RolloutDataModule, RolloutStream, check_minibatches, shuffled
from rl_lightning.errors import require
from rl_lightning.functional import explained_variance, half_squared_error
from rl_lightning.networks import MLP, NetworkCallable, PolicyAndValue
from rl_lightning.optim import FusedAdam, LRSchedulerCallable, OptimizerCallable
from rl_lightning.types import Obs, Rollout, Space, flat_in_time


class Samples(NamedTuple):
    """Time steps of a rollout, with all that is needed to learn from them."""

    obs: Obs  # [B, *obs_shape]
    action: Tensor  # [B, *action_shape]
    advantage: Tensor  # [B], less what an estimator takes from it; or [B, A], of each dimension of the action
    returns: Tensor  # [B], what V is to become
    control: Control  # empty unless an estimator differentiates a critic


class TRPO(Algorithm):
    """One natural-gradient step of the policy for each rollout, as long as its KL divergence stays under `target_kl`.

    The policy has no optimizer: the step's length follows from the constraint. V has one.

    Args:
        observation_space: see `rl_lightning.networks.encoders.make_encoder`.
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
        gradient_variance: measure the variance of the policy gradient, once for each rollout.
        estimator: of the policy gradient (`rl_lightning.algorithms.bridge`); all but the default ask a critic.
        critic: Q_w from replay, for the estimator; data is then a `RolloutReplayDataModule`.
        network: the body of both networks.
        value_optimizer: steps V.
        value_scheduler: of its learning rate: an `EnvStepsLR`, or any that counts gradient steps of V.
        compile: run `gradients` as one compiled graph.

    Raises:
        UsageError: a space it cannot handle, or a value out of range.
    """

    learns_from = RolloutDataModule
    acts_in = "any"
    acts_by = "networks"
    takes_critic = True
    steps_without_optimizer = True

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
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
        gradient_variance: bool = False,
        estimator: EstimatorCallable = LikelihoodRatio,
        critic: CriticCallable | None = None,
        network: NetworkCallable = MLP,
        value_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-3),
        value_scheduler: LRSchedulerCallable | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, gamma, compile)
        require(target_kl is not None, "target_kl", target_kl, "a step is as long as it allows; give a number above 0")
        require(batch_size is not None, "batch_size", batch_size, "give 1 or more")
        shrinking = line_search_shrinking_factor
        check_ranges(gae_lambda=gae_lambda, target_kl=target_kl, cg_max_steps=cg_max_steps, cg_damping=cg_damping)
        check_ranges(line_search_shrinking_factor=shrinking, line_search_max_iter=line_search_max_iter)
        check_ranges(n_critic_updates=n_critic_updates, batch_size=batch_size)
        self.gae_lambda, self.normalize_advantage = gae_lambda, normalize_advantage
        self.target_kl, self.cg_max_steps, self.cg_damping = target_kl, cg_max_steps, cg_damping
        self.line_search_shrinking_factor, self.line_search_max_iter = shrinking, line_search_max_iter
        self.n_critic_updates, self.batch_size = n_critic_updates, batch_size
        self.networks = PolicyAndValue(
            observation_space,
            action_space,
            network,
            state_dependent_std,
            log_std_init,
            normalize_observations=normalize_observations,
            normalize_returns=gamma if normalize_returns else None,
        )
        self.gradient_variance = gradient_variance
        self.policy_gradient = PolicyGradient(self, estimator, critic)
        self.learned("policy", self.networks.policy, None)  # moved by `step_policy`
        self.learned("value", self.networks.value, value_optimizer, value_scheduler)

    def learns(self, name: str) -> bool:
        """Also the policy, by steps of its own."""
        return name == "policy" or super().learns(name)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π(·|s), or its mode: observations [B, *obs_shape] to actions [B, *action_shape]."""
        return self.networks.act(obs, deterministic)

    def learn(self, batch: RolloutStream) -> None:
        """Algorithm 1 with the practical step of section 6: the policy's step first, then V's."""
        for rollout in batch:  # of π_θold
            scaled = self.networks.scale_rewards(rollout, self.gather)
            self.policy_gradient.learn_critic(self, self.networks, batch)  # of another estimator than the paper's
            replayed = self.policy_gradient.replayed(batch, rollout.reward.numel())
            samples = self.with_advantages(scaled, replayed)
            if not self.is_frozen("policy"):
                self.metrics.update(self.step_policy(samples))  # θ ← θ_old + step along F⁻¹ g
            for minibatch in shuffled(samples, self.n_critic_updates, self.batch_size):
                found = self.compute_gradients(minibatch)
                self.step("value", found)
                self.end_gradient_step(found)
            self.networks.observe(rollout, self.gather)

    @torch.no_grad()
    def with_advantages(self, rollout: Rollout, replayed: Obs | None = None) -> Samples:
        """Advantages by GAE, and what V is to become, of a rollout [T, N, ...].

        Args:
            rollout: with the rewards to learn from.
            replayed: observations of replay [T N, *obs_shape], where the estimator takes them.
        """
        obs = flat_in_time(rollout.obs)
        action = rollout.action.flatten(0, 1)
        pi, value = self.networks(obs)  # value: [T N]
        advantage = self.networks.advantages(rollout, value, self.gamma, self.gae_lambda)  # [T N]
        weighed = self.policy_gradient.weigh(self.networks, advantage, pi, obs, action, replayed)
        if self.gradient_variance:
            self.metrics.update(self.policy_gradient.metrics(self.networks, obs, action, weighed, advantage))
        if self.normalize_advantage:
            weighed = in_standard_units(weighed)
        return Samples(obs, action, weighed.advantage, advantage + value, weighed.control)

    def step_policy(self, samples: Samples) -> Metrics:
        """Maximize the surrogate (Eq. 14) within the trust region: natural gradient, then line search (appendix C)."""
        policy = self.networks.policy
        parameters = trainable(policy)
        old_pi = self.networks.distribution(samples.obs).detach()
        old_log_prob = self.policy_gradient.log_prob(old_pi, samples.action)  # [B], or [B, A]

        def surrogate_and_kl() -> tuple[Tensor, Tensor]:
            pi = self.networks.distribution(samples.obs)
            ratio = (self.policy_gradient.log_prob(pi, samples.action) - old_log_prob).exp()  # [B], or [B, A]
            surrogate = over_dimensions(ratio * samples.advantage).mean()
            surrogate = self.policy_gradient.corrected(surrogate, self.networks, pi, samples.obs, samples.control)
            return surrogate, old_pi.kl(pi).mean()

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
                write(start + self.line_search_shrinking_factor**tries * full_step, parameters)
                now, kl = self._mean(surrogate_and_kl())
                if kl < self.target_kl and now > before:
                    break
            else:
                write(start, parameters)
                now, kl = before.squeeze(), torch.zeros_like(kl)
            return {
                "train/policy_loss": -now,
                "train/kl": kl,
                "train/line_search_tries": torch.tensor(float(tries + 1)),
                "train/entropy": self.networks.distribution(samples.obs).entropy().mean(),
            }

    def gradients(self, batch: Samples) -> Gradients:
        """Of the value's loss."""
        value = self.networks.values(batch.obs)  # [B]
        value_loss = half_squared_error(value, batch.returns)
        metrics = {
            "train/value_loss": value_loss,
            "train/v_mean": value.mean(),
            "train/explained_variance": explained_variance(value, batch.returns),
        }
        return Gradients({"value": grad(value_loss, self.networks.value)}, metrics)

    def _mean(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Tensors as one flat vector, averaged over processes."""
        return self.mean_over_processes((torch.cat([tensor.flatten() for tensor in tensors]),))[0]

    def check_data(self, data: object) -> None:
        """Refuse whole episodes, rollouts that minibatches do not divide, and replay that nothing learns from."""
        super().check_data(data)
        self.policy_gradient.check_data(data, "TRPO", self.gradient_variance)
        check_minibatches(data, self.batch_size, "TRPO")


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, max_steps: int, tolerance: float = 1e-10
) -> Tensor:
    """x with A x = b, A symmetric and positive definite and known by its products alone (Hestenes and Stiefel, 1952).

    Args:
        product: v to A v, both [n].
        b: [n].
        max_steps: n steps are exact.
        tolerance: on the squared norm of the residual; at most a 10,000th of b's, or the solution for a small b is 0.

    Returns:
        [n].
    """
    x = torch.zeros_like(b)
    residual = b.clone()
    direction = b.clone()
    squared_norm = residual @ residual
    tolerance = min(tolerance, 1e-4 * squared_norm.item())
    for _ in range(max_steps):
        if squared_norm <= tolerance:
            break
        image = product(direction)
        step = squared_norm / (direction @ image)
        x = x + step * direction
        residual = residual - step * image
        previous, squared_norm = squared_norm, residual @ residual
        direction = residual + (squared_norm / previous) * direction
    return x


def write(vector: Tensor, parameters: Sequence[Tensor]) -> None:
    """Give parameters the numbers of a vector that holds them one after the other; each in memory of its own.

    torch's `vector_to_parameters` would make them views of the vector. Where they begin in memory decides on the last
    digits of their products, so a resumed run would differ. What shares memory with the old numbers keeps them.
    """
    parts = torch.split(vector, [parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data = part.clone().view_as(parameter)
