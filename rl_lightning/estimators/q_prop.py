"""Between the score and a critic: Q-Prop and interpolated policy gradients (lecture, section 6)."""

from torch import Tensor, nn

from rl_lightning.errors import require
from rl_lightning.estimators.controls import Critic, Eta, linear_control, q_prop_eta
from rl_lightning.estimators.estimate import Baseline, Batch, Estimate, advantage, distribution_of_actions, estimate
from rl_lightning.estimators.likelihood import weighted_score
from rl_lightning.estimators.policies import Pi, mean_of


def q_prop(
    policy: nn.Module, batch: Batch, critic: Critic, baseline: Baseline | None = None, eta: Eta = "standard"
) -> Estimate:
    """`(Â − η Ā(s, a)) ∇ log π(a|s) + η ∇_a Q(s, a)|_{a=μ(s)} ∇_θ μ_θ(s)` (arXiv:1611.02247, Eq. 9; η = 1: Eq. 8).

    Ā(s, a) = ∇_a Q(s, μ(s)) · (a − μ(s)) is a φ(s, a) of `stein` that is linear in the action. Unbiased for any critic
    with η = 1. An η that goes by the sign of Â Ā ("conservative", "aggressive") depends on the action: it is biased.

    Args:
        policy: observations [B, *obs_shape] to π(·|s), whose mean μ(s) is known: see `mean_of`.
        batch: with its signal.
        critic: Q(s, a), differentiable in the action.
        baseline: b(s); Â = Q̂ − b.
        eta: how much of the control variate is taken: see `q_prop_eta`.

    Raises:
        UsageError: shapes that do not fit, actions without a density, a distribution without a known mean, or
            another eta.
    """
    a_hat = advantage(batch, baseline)  # Â, [B]
    control, slope = linear_control(critic, batch.obs, batch.action, _mean(policy, batch))  # Ā [B], [B, A]
    taken = q_prop_eta(eta, a_hat, control)  # η, [B]
    return estimate(policy, _score_and_mean, batch, batch.action, a_hat - taken * control, taken.unsqueeze(1) * slope)


def interpolated(
    policy: nn.Module,
    batch: Batch,
    critic: Critic,
    baseline: Baseline | None = None,
    nu: float = 0.2,
    control_variate: bool = False,
) -> Estimate:
    """`(1 − ν) Â ∇ log π(a|s) + ν ∇_a Q(s, a)|_{a=μ(s)} ∇_θ μ_θ(s)` (arXiv:1706.00387, section 3).

    With the control variate (its section 3.1): (1 − ν) (Â − Ā) ∇ log π + ∇_a Q ∇_θ μ. Both are biased by
    ν (E[∇_a Q(s, μ) ∇_θ μ] − ∇J), if the states are those of π; ν = 0 is on-policy, `likelihood_ratio` or `q_prop`,
    and ν = 1 `deterministic`. For other states in the second term add two estimates: `0.8 * q_prop(...) + 0.2 *
    deterministic(...)`.

    Args:
        policy: observations [B, *obs_shape] to π(·|s), whose mean μ(s) is known: see `mean_of`.
        batch: with its signal.
        critic: Q(s, a), differentiable in the action.
        baseline: b(s); Â = Q̂ − b.
        nu: ν in [0, 1].
        control_variate: take Ā away from Â, as Q-Prop does.

    Raises:
        UsageError: shapes that do not fit, actions without a density, a distribution without a known mean, or ν
            out of range.
    """
    require(0.0 <= nu <= 1.0, "nu", nu, "give a number in [0, 1]")
    a_hat = advantage(batch, baseline)  # Â, [B]
    control, slope = linear_control(critic, batch.obs, batch.action, _mean(policy, batch))  # Ā [B], [B, A]
    if control_variate:
        weight, slope = (1.0 - nu) * (a_hat - control), slope
    else:
        weight, slope = (1.0 - nu) * a_hat, nu * slope
    return estimate(policy, _score_and_mean, batch, batch.action, weight, slope)


def _mean(policy: nn.Module, batch: Batch) -> Tensor:
    return mean_of(distribution_of_actions(policy, batch))


def _score_and_mean(pi: Pi, action: Tensor, weight: Tensor, slope: Tensor) -> Tensor:
    return weighted_score(pi, action, weight) + (mean_of(pi) * slope).sum(1)  # [B]
