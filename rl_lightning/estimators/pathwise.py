"""Estimators that go through the action into the critic: their bias is the critic's, their variance is small."""

import torch
from torch import Tensor, nn

from rl_lightning.errors import UsageError
from rl_lightning.estimators.controls import Critic, curvature_of, slope_of
from rl_lightning.estimators.estimate import Batch, Estimate, distribution, distribution_of_actions, estimate
from rl_lightning.estimators.policies import Pi, center, mean_and_std, pathwise_noise, probabilities, reparameterize


def reparameterized(policy: nn.Module, batch: Batch, critic: Critic) -> Estimate:
    """∇_θ f_θ(s, ξ) ∇_a Q(s, a) at a = f_θ(s, ξ) (lecture, end of section 3; SAC's, section 5.2).

    Unbiased where ∇_a of the critic is that of Q^π. The batch's actions are those of the estimate; for Beta and Gamma,
    whose ξ cannot be told from an action, new ones are drawn.

    Args:
        policy: observations [B, *obs_shape] to π(·|s), a distribution with a known ξ: see `pathwise_noise`.
        batch: its signal is not used.
        critic: Q(s, a), differentiable in the action.

    Raises:
        UsageError: shapes that do not fit, or a distribution without a known ξ.
    """
    pi = distribution_of_actions(policy, batch)
    noise = pathwise_noise(pi, batch.action)  # ξ
    _, slope = slope_of(critic, batch.obs, reparameterize(pi, noise))  # [B, A]
    return estimate(policy, along_slope, batch, noise, slope)


def deterministic(policy: nn.Module, batch: Batch, critic: Critic) -> Estimate:
    """∇_θ μ_θ(s) ∇_a Q(s, a) at a = μ(s) = f_θ(s, 0): the limit without ξ (lecture, end of section 3).

    That is the deterministic policy gradient (Silver et al., 2014). For the stochastic policy it is biased, unless Q is
    linear in the action; it gives σ no gradient.

    Args:
        policy: observations [B, *obs_shape] to π(·|s), a distribution with a known ξ: see `center`.
        batch: neither its actions nor its signal are used; states of replay will do.
        critic: Q(s, a), differentiable in the action.

    Raises:
        UsageError: shapes that do not fit, or a distribution without a known ξ.
    """
    pi = distribution(policy, batch)
    _, slope = slope_of(critic, batch.obs, center(pi))  # [B, A]
    return estimate(policy, along_slope_of_center, batch, slope)


def expected(policy: nn.Module, batch: Batch, critic: Critic) -> Estimate:
    """`∇_θ E_{a ~ π}[Q(s, a)]`, with the action summed out.

    Discrete actions: Σ_a ∇ π(a|s) Q(s, a), which has no variance but that of the states (Sutton et al., 2000, Eq. 2).
    Gaussians with independent dimensions: E[Q] = Q(s, μ) + ½ Σ_i σ_i² ∂²Q/∂a_i², exact where Q is quadratic in the
    action, else to second order (expected policy gradients, arXiv:1706.05374). A critic of ReLUs has no ∂²Q/∂a².

    Args:
        policy: observations [B, *obs_shape] to π(·|s).
        batch: neither its actions nor its signal are used.
        critic: Q(s, a); of discrete actions [B] int64, or twice differentiable in the action.

    Raises:
        UsageError: any other distribution.
    """
    pi = distribution(policy, batch)
    if (probability := probabilities(pi)) is not None:
        actions = torch.arange(probability.shape[1], device=probability.device)
        with torch.no_grad():
            q = [critic(batch.obs, action.expand(len(probability))) for action in actions]  # K times [B]
        return estimate(policy, _mean_of_q, batch, torch.stack(q, 1))
    if (gaussian := mean_and_std(pi)) is not None:
        _, slope = slope_of(critic, batch.obs, gaussian[0])  # [B, A]
        return estimate(policy, _mean_of_quadratic_q, batch, slope, curvature_of(critic, batch.obs, gaussian[0]))
    raise UsageError(
        f"policy's distribution {type(pi).__name__} is not allowed: its actions cannot be summed out; give "
        "Categorical, or a Gaussian with independent dimensions"
    )


def along_slope(pi: Pi, noise: Tensor, slope: Tensor) -> Tensor:
    """Surrogate of ∇_θ f_θ(s, ξ) · slope: all [B, A] to [B]."""
    return (reparameterize(pi, noise) * slope).sum(1)


def along_slope_of_center(pi: Pi, slope: Tensor) -> Tensor:
    """Surrogate of ∇_θ f_θ(s, 0) · slope: [B, A] to [B]."""
    return (center(pi) * slope).sum(1)


def _mean_of_q(pi: Pi, q: Tensor) -> Tensor:
    probability = probabilities(pi)
    assert probability is not None
    return (probability * q).sum(1)  # [B, K] to [B]


def _mean_of_quadratic_q(pi: Pi, slope: Tensor, curvature: Tensor) -> Tensor:
    gaussian = mean_and_std(pi)
    assert gaussian is not None
    mean, std = gaussian
    return (mean * slope + 0.5 * std.square() * curvature).sum(1)  # [B, A] to [B]
