"""Policy gradients between the likelihood ratio and the deterministic one: what they make of an off-policy critic.

Each of them is one choice of weights A and controls (s, ξ, c) in

    E[Σ_i A_i ∇ log π_θ(a_i|s)] + E[c ∇_a Q_w(s, f_θ(s, ξ)) ∇_θ f_θ(s, ξ)],  f_θ(s, ξ) = μ_θ(s) + σ_θ(s) ξ.

A2C, PPO and TRPO use the first term as they use the advantage, and add the second: one step of theirs serves all.
Weights and controls are found once for each rollout, under the policy that acted.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple, TypedDict

import torch
from torch import Tensor

from rl_lightning.errors import require
from rl_lightning.estimators import linear_control, marginal_baselines, noise_of, q_prop_eta
from rl_lightning.networks.distributions import Distribution
from rl_lightning.types import Obs

Critic = Callable[[Obs, Tensor], Tensor]
"""Q_w(s, a): normalized observations [B, *obs_shape] and actions [B, A] to [B]."""


class Control(TypedDict, total=False):
    """Where Q_w is differentiated instead of log π; empty where it is not."""

    obs: Obs  # [B, *obs_shape], s
    noise: Tensor  # [B, A], ξ; 0 is the mean action
    coefficient: Tensor  # [B], c


class Weighed(NamedTuple):
    """What a policy gradient is made of; without gradients of its own."""

    advantage: Tensor  # [B], of ∇ log π(a|s); or [B, A], of each ∇ log π(a_i|s)
    control: Control


class Estimator(ABC):
    """How the policy gradient is estimated from a rollout.

    Attributes:
        needs_critic: whether it asks an `OffPolicyCritic`.
        per_dimension: whether each dimension of the action has a weight of its own.
        takes_replay: whether its controls are at observations of replay.
    """

    needs_critic: bool = True
    per_dimension: bool = False
    takes_replay: bool = False

    @abstractmethod
    def weigh(
        self, advantage: Tensor, pi: Distribution, obs: Obs, action: Tensor, critic: Critic, replayed: Obs | None
    ) -> Weighed:
        """Weights and control.

        Args:
            advantage: [B], Â(s, a).
            pi: the policy that acted, at the observations.
            obs: [B, *obs_shape], normalized.
            action: [B, A].
            critic: Q_w.
            replayed: [B, *obs_shape], observations of replay as they are stored, where the estimator takes them.
        """


class LikelihoodRatio(Estimator):
    """A = Â, no control: the estimator of A2C, PPO and TRPO, whose baseline V depends on the state alone."""

    needs_critic = False

    def weigh(  # noqa: D102
        self, advantage: Tensor, pi: Distribution, obs: Obs, action: Tensor, critic: Critic, replayed: Obs | None
    ) -> Weighed:
        return Weighed(advantage, {})


class QProp(Estimator):
    """Q-Prop (arXiv:1611.02247, Eq. 8, with η Eq. 9): Q_w to first order around μ(s) as a control variate.

    A = Â − η Ā, `Ā = ∇_a Q_w(s, a)|_{a=μ(s)} · (a − μ(s))`, and the control is (s, 0, η): what Ā takes away in
    expectation, the gradient of η Q_w(s, μ_θ(s)), comes back.

    Args:
        eta: ``standard`` has η = 1, which has no bias; ``conservative`` is 1 where Â and Ā have one sign and else 0,
            ``aggressive`` the sign of Â Ā. The last two look at the action, which biases them.

    Raises:
        UsageError: another η.
    """

    def __init__(self, eta: Literal["standard", "conservative", "aggressive"] = "conservative") -> None:
        allowed = ("standard", "conservative", "aggressive")
        require(eta in allowed, "estimator.eta", eta, f"give one of {allowed}")
        self.eta = eta

    def weigh(  # noqa: D102
        self, advantage: Tensor, pi: Distribution, obs: Obs, action: Tensor, critic: Critic, replayed: Obs | None
    ) -> Weighed:
        control, _ = linear_control(critic, obs, action, pi.mode())  # Ā, [B]
        eta = q_prop_eta(self.eta, advantage, control)  # [B]
        return Weighed(advantage - eta * control, {"noise": torch.zeros_like(pi.mode()), "coefficient": eta})


class SteinControlVariate(Estimator):
    """The action-dependent control variate of Stein's identity (arXiv:1710.11198, section 3.1), with φ = Q_w.

    A = Â − (Q_w(s, a) − Q_w(s, μ(s))), and the control is (s, ξ, 1) at the noise ξ that the action came of. The term
    Q_w(s, μ(s)), of the state alone, keeps A around 0 and changes no expectation.
    """

    def weigh(  # noqa: D102
        self, advantage: Tensor, pi: Distribution, obs: Obs, action: Tensor, critic: Critic, replayed: Obs | None
    ) -> Weighed:
        with torch.no_grad():
            phi = critic(obs, action) - critic(obs, pi.mode())  # [B]
        return Weighed(advantage - phi, {"noise": noise_of(pi, action), "coefficient": torch.ones_like(phi)})


class FactorizedBaseline(Estimator):
    """A baseline for each dimension of the action that sees the others (arXiv:1803.07246, section 4).

    A_i = Â − (b_i(s, a_{−i}) − Q_w(s, μ(s))), b_i the mean of Q_w over a_i ~ π_i, which has no bias without a control.
    With one dimension b_i is a baseline of the state.

    Args:
        samples: of a_i, for the mean; 0 puts μ_i(s) in its place.

    Raises:
        UsageError: fewer than 0 samples.
    """

    per_dimension = True

    def __init__(self, samples: int = 0) -> None:
        require(samples >= 0, "estimator.samples", samples, "give 0 (the mean action) or more")
        self.samples = samples

    def weigh(  # noqa: D102
        self, advantage: Tensor, pi: Distribution, obs: Obs, action: Tensor, critic: Critic, replayed: Obs | None
    ) -> Weighed:
        with torch.no_grad():
            baselines = marginal_baselines(critic, obs, action, pi, self.samples)  # [B, A]
            centred = baselines - critic(obs, pi.mode()).unsqueeze(-1)  # [B, A]
        return Weighed(advantage.unsqueeze(-1) - centred, {})


class InterpolatedPolicyGradient(Estimator):
    """(1 − ν) of the likelihood ratio and ν of the deterministic policy gradient (arXiv:1706.00387, section 3).

    Without a control variate A = (1 − ν) Â and the control is (s, 0, ν); with one, Q-Prop's A = (1 − ν) (Â − Ā) and
    (s, 0, 1). ν = 0 without one is the on-policy learner, which needs no critic; ν = 1 is deterministic.

    Args:
        interpolation: ν, in [0, 1].
        control_variate: take Ā from the advantage.
        states: of the control: those of the ``rollout``, or as many of ``replay``.

    Raises:
        UsageError: a value out of range.
    """

    def __init__(
        self,
        interpolation: float = 0.2,
        control_variate: bool = False,
        states: Literal["rollout", "replay"] = "replay",
    ) -> None:
        require(0.0 <= interpolation <= 1.0, "estimator.interpolation", interpolation, "give a number in [0, 1]")
        require(states in ("rollout", "replay"), "estimator.states", states, "give rollout or replay")
        self.interpolation, self.control_variate, self.states = interpolation, control_variate, states
        self.needs_critic = interpolation > 0.0 or control_variate
        self.takes_replay = self.needs_critic and states == "replay"

    def weigh(  # noqa: D102
        self, advantage: Tensor, pi: Distribution, obs: Obs, action: Tensor, critic: Critic, replayed: Obs | None
    ) -> Weighed:
        weight = (1.0 - self.interpolation) * advantage  # [B]
        if not self.needs_critic:
            return Weighed(weight, {})
        coefficient = 1.0 if self.control_variate else self.interpolation
        if self.control_variate:
            weight = weight - (1.0 - self.interpolation) * linear_control(critic, obs, action, pi.mode())[0]
        control: Control = {
            "noise": torch.zeros_like(pi.mode()),
            "coefficient": torch.full_like(advantage, coefficient),
        }
        if self.takes_replay:
            assert replayed is not None, "its states are replay's"
            control["obs"] = replayed
        return Weighed(weight, control)


EstimatorCallable = Callable[[], Estimator]
