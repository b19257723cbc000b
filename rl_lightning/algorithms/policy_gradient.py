"""The policy gradient of an on-policy learner: an estimator, the critic that it asks, and how a step uses both."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from rl_lightning.algorithms.base import Algorithm, Metrics
from rl_lightning.algorithms.bridge import Control, EstimatorCallable, Weighed
from rl_lightning.algorithms.off_policy_critic import CriticCallable
from rl_lightning.data import RolloutDataModule, RolloutReplayDataModule, RolloutStream
from rl_lightning.errors import UsageError, one_line, require
from rl_lightning.estimators import log_prob_per_dim, reparameterize
from rl_lightning.functional import deviation, standardized
from rl_lightning.networks import PolicyAndValue
from rl_lightning.networks.distributions import Distribution
from rl_lightning.spaces import fault_of_actions, own_space
from rl_lightning.types import Obs, map_obs

MEASURED, AT_ONCE = 512, 256  # time steps whose gradients are measured, and those in memory at once


class PolicyGradient(nn.Module):
    """E[Σ_i A_i ∇ log π_θ(a_i|s)] + E[c ∇_a Q_w(s, f_θ(s, ξ)) ∇_θ f_θ(s, ξ)], as an estimator has it.

    Args:
        learner: whose optimizers step the critic too.
        estimator: of A, c and ξ.
        critic: Q_w; None where the estimator asks none.

    Raises:
        UsageError: an estimator without the critic that it asks, a critic that nothing asks, or actions that are no
            vectors of real numbers where there is one.
    """

    def __init__(self, learner: Algorithm, estimator: EstimatorCallable, critic: CriticCallable | None) -> None:
        super().__init__()
        self.estimator = estimator()
        name = type(self.estimator).__name__
        if not self.estimator.needs_critic:
            require(critic is None, "critic", critic, f"{name} asks none, so it would learn for nothing; leave it out")
            self.critic = None
            return
        require(critic is not None, "critic", critic, f"{name} asks one; give rl_lightning.OffPolicyCritic")
        assert critic is not None
        if fault := fault_of_actions(learner.action_space, "box"):
            own = one_line(own_space(learner.action_space))
            raise UsageError(f"action space {own} is not supported by {name}: {fault}; leave estimator and critic out")
        self.critic = critic(learner.observation_space, learner.action_space)
        self.critic.declare(learner)

    def learn_critic(self, learner: Algorithm, networks: PolicyAndValue, batch: RolloutStream) -> None:
        """Step Q_w on replay, beside the latest rollout."""
        if self.critic is not None:
            self.critic.learn(learner, networks, batch)

    def replayed(self, batch: RolloutStream, time_steps: int) -> Obs | None:
        """Observations of replay, [time_steps, *obs_shape] as they are stored, where the estimator takes them."""
        return batch.replayed_observations(time_steps) if self.estimator.takes_replay else None

    def weigh(
        self,
        networks: PolicyAndValue,
        advantage: Tensor,
        pi: Distribution,
        obs: Obs,
        action: Tensor,
        replayed: Obs | None,
    ) -> Weighed:
        """Weights and control of time steps.

        Args:
            networks: policy and value.
            advantage: [B], Â(s, a).
            pi: the policy that acted, at the observations.
            obs: [B, *obs_shape].
            action: [B, *action_shape].
            replayed: as `replayed` gives them.
        """
        critic = _no_critic if self.critic is None else self.critic
        return self.estimator.weigh(advantage, pi.detach(), networks.normalized(obs), action, critic, replayed)

    def log_prob(self, pi: Distribution, action: Tensor) -> Tensor:
        """log π(a|s) [B], or log π(a_i|s) [B, A] of each dimension where each has a weight."""
        return log_prob_per_dim(pi, action) if self.estimator.per_dimension else pi.log_prob(action)

    def surrogate(
        self, networks: PolicyAndValue, pi: Distribution, obs: Obs, action: Tensor, weighed: Weighed
    ) -> Tensor:
        """E[Σ_i A_i log π_θ(a_i|s)] + E[c Q_w(s, f_θ(s, ξ))], a scalar whose gradient in θ is the policy gradient.

        Args:
            networks: policy and value.
            pi: π_θ at the observations.
            obs: [B, *obs_shape].
            action: [B, *action_shape].
            weighed: of the time steps.
        """
        score = over_dimensions(weighed.advantage * self.log_prob(pi, action)).mean()
        return self.corrected(score, networks, pi, obs, weighed.control)

    def corrected(
        self, surrogate: Tensor, networks: PolicyAndValue, pi: Distribution, obs: Obs, control: Control
    ) -> Tensor:
        """A surrogate of the first term, and E[c Q_w(s, f_θ(s, ξ))] where there is a control; scalars.

        Args:
            surrogate: whose gradient in θ is the first term.
            networks: policy and value.
            pi: π_θ at the observations.
            obs: [B, *obs_shape].
            control: of the time steps.
        """
        if not control:
            return surrogate
        assert self.critic is not None
        if "obs" in control:
            obs = control["obs"]
            pi = networks.distribution(obs)
        action = reparameterize(pi, control["noise"])  # [B, A]
        q: Tensor = self.critic(networks.normalized(obs), action)  # [B]
        return surrogate + (control["coefficient"] * q).mean()

    def check_data(self, data: object, learner: str, gradient_variance: bool) -> None:
        """Refuse replay without a critic, a critic without replay, and the variance of a single time step.

        Args:
            data: a `RolloutDataModule`.
            learner: for the message.
            gradient_variance: whether it is measured.

        Raises:
            UsageError: naming what is right.
        """
        assert isinstance(data, RolloutDataModule)
        is_single = data.rollout_steps == data.num_envs == 1
        reason = "rollouts of one time step have none; give more rollout_steps or num_envs, or leave it out"
        require(not (gradient_variance and is_single), "gradient_variance", gradient_variance, reason)
        if isinstance(data, RolloutReplayDataModule) == (self.critic is not None):
            return
        right = "RolloutReplayDataModule" if self.critic else "RolloutDataModule"
        reason = "its critic learns from replay" if self.critic else "it has no critic that learns from replay"
        raise UsageError(
            f"datamodule={type(data).__name__} is not allowed with {learner}: {reason}; give a {right} as data"
        )

    def metrics(
        self, networks: PolicyAndValue, obs: Obs, action: Tensor, weighed: Weighed, advantage: Tensor
    ) -> Metrics:
        """`train/gradient_variance`, and its ratio to that of the likelihood ratio, where that is another estimator.

        Args:
            networks: policy and value.
            obs: [B, *obs_shape].
            action: [B, *action_shape].
            weighed: weights and control, as `weigh` gives them.
            advantage: [B], Â(s, a).
        """
        variance = self.variance(networks, obs, action, weighed)
        metrics = {"train/gradient_variance": variance}
        if self.critic is not None:
            plain = advantage.unsqueeze(-1) if self.estimator.per_dimension else advantage
            likelihood_ratio = self.variance(networks, obs, action, Weighed(plain, {}))
            metrics["train/gradient_variance_ratio"] = variance / likelihood_ratio
        return metrics

    def variance(self, networks: PolicyAndValue, obs: Obs, action: Tensor, weighed: Weighed) -> Tensor:
        """tr Cov[g] = (Σ ‖g‖² − B ‖ḡ‖²) / (B − 1), g the policy gradient of one time step and ḡ their mean; a scalar.

        Of long rollouts up to 512 time steps are measured, at even distances.

        Args:
            networks: policy and value.
            obs: [B, *obs_shape], at least two.
            action: [B, *action_shape].
            weighed: weights and control, as `weigh` gives them.
        """
        stride = -(-len(action) // MEASURED)
        obs, action, weighed = _each(lambda x: x[::stride], obs, action, weighed)
        surrogate = Surrogate(self, networks)
        named = networks.policy.named_parameters()
        parameters = {f"networks.policy.{name}": p.detach() for name, p in named if p.requires_grad}

        def of_batch(parameters: dict[str, Tensor], obs: Obs, action: Tensor, weighed: Weighed) -> Tensor:
            value: Tensor = functional_call(surrogate, parameters, (obs, action, weighed))
            return value

        def squared_norm(obs: Obs, action: Tensor, weighed: Weighed) -> Tensor:
            one = _each(lambda x: x.unsqueeze(0), obs, action, weighed)
            return _squared_norm(grad(of_batch)(parameters, *one))

        squares: Tensor = vmap(squared_norm, chunk_size=AT_ONCE)(obs, action, weighed)  # [B]
        mean = _squared_norm(grad(of_batch)(parameters, obs, action, weighed))
        variance: Tensor = (squares.mean() - mean) * len(squares) / (len(squares) - 1)
        return variance


class Surrogate(nn.Module):
    """`PolicyGradient.surrogate` as a module, whose parameters torch.func can exchange.

    Args:
        policy_gradient: of the learner.
        networks: policy and value.
    """

    def __init__(self, policy_gradient: PolicyGradient, networks: PolicyAndValue) -> None:
        super().__init__()
        self.policy_gradient, self.networks = policy_gradient, networks

    def forward(self, obs: Obs, action: Tensor, weighed: Weighed) -> Tensor:  # noqa: D102
        pi = self.networks.distribution(obs)
        return self.policy_gradient.surrogate(self.networks, pi, obs, action, weighed)


def over_dimensions(x: Tensor) -> Tensor:
    """The sum over an action's dimensions, where they have terms of their own: [B] or [B, A] to [B]."""
    return x if x.ndim == 1 else x.sum(-1)


def in_standard_units(weighed: Weighed) -> Weighed:
    """The same with weights of mean 0 and deviation 1, over all time steps and dimensions; the control with them.

    What is taken from a weight is a constant baseline, so the gradient changes by a factor alone.
    """
    advantage, control = weighed
    standard = standardized(advantage.flatten()).view_as(advantage)
    if control and advantage.numel() > 1:
        std = deviation(advantage)
        # weights that are all the same, as those of a deterministic gradient, have no unit that the control could share
        unit = torch.where(std > 0.0, std + 1e-8, 1.0)
        control = {**control, "coefficient": control["coefficient"] / unit}
    return Weighed(standard, control)


def _each(
    function: Callable[[Tensor], Tensor], obs: Obs, action: Tensor, weighed: Weighed
) -> tuple[Obs, Tensor, Weighed]:
    """`function` of every tensor of time steps."""
    control: Control = map_obs(function, weighed.control)
    return map_obs(function, obs), function(action), Weighed(function(weighed.advantage), control)


def _no_critic(obs: Obs, action: Tensor) -> Tensor:
    raise UsageError("estimator.needs_critic=False is not allowed where weigh asks the critic: set it to True")


def _squared_norm(gradients: dict[str, Tensor]) -> Tensor:
    squares = [gradient.square().sum() for gradient in gradients.values()]
    return torch.stack(squares).sum() if squares else torch.zeros(())
