"""The equations, pure and shape-checked. [B] is the batch, [A] the action's dimensions.

Equation numbers are those of the lecture notes that docs/algorithms/sac.md writes out; "SAC" is arXiv:1801.01290.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_2 = math.log(2.0)
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def td_target(reward: Tensor, terminated: Tensor, next_value: Tensor, gamma: float) -> Tensor:
    """One-step target r + γ V(s'), where V(s') counts as 0 at termination (and only there: a time limit bootstraps).

    Args:
        reward: [B].
        terminated: [B] bool.
        next_value: [B], V(s').
        gamma: the discount.

    Returns:
        [B].
    """
    _assert_rank(1, reward, terminated, next_value)
    return reward + gamma * next_value.masked_fill(terminated, 0.0)  # [B]


def half_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """E[½ (prediction − target)²], the form of J_V (6) and J_Q. Both [B]; returns a scalar."""
    _assert_rank(1, prediction, target)
    return 0.5 * (prediction - target).square().mean()


def soft_value(q: Tensor, log_prob: Tensor, ent_coef: float) -> Tensor:
    """Soft state value Q(s, a) − α log π(a|s) of one action sample, Eq. 3. Both [B]; returns [B]."""
    _assert_rank(1, q, log_prob)
    return q - ent_coef * log_prob  # [B]


def gaussian_log_prob(u: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of independent normals, summed over dimensions. All [..., A]; returns [...]."""
    z = (u - mean) * (-log_std).exp()
    return (-0.5 * z.square() - log_std - LOG_SQRT_2PI).sum(-1)


def tanh_log_det_jacobian(u: Tensor) -> Tensor:
    """log |d tanh(u) / du| = 2 (log 2 − u − softplus(−2u)), summed over dimensions; exact for any finite u.

    The textbook form log(1 − tanh²(u)) is log 0 from |u| of about 9 in float32. [..., A] to [...].
    """
    return (2.0 * (LOG_2 - u - F.softplus(-2.0 * u))).sum(-1)


def squashed_gaussian_log_prob(u: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of a = tanh(u), u ~ N(mean, exp(log_std)²), at the pre-tanh u (SAC, Eq. 21).

    Args:
        u: [..., A], before the tanh; it is never recovered by inverting one.
        mean: [..., A].
        log_std: [..., A].

    Returns:
        [...].
    """
    return gaussian_log_prob(u, mean, log_std) - tanh_log_det_jacobian(u)


def polyak_update(target: list[Tensor], online: list[Tensor], tau: float) -> None:
    """ψ̄ ← τ ψ + (1 − τ) ψ̄ in place, tensor by tensor; integer tensors (step counts) are copied."""
    with torch.no_grad():
        pairs = list(zip(target, online, strict=True))
        if floating := [pair for pair in pairs if pair[0].is_floating_point()]:
            torch._foreach_lerp_([old for old, _ in floating], [new for _, new in floating], tau)
        for old, new in pairs:
            if not old.is_floating_point():
                old.copy_(new)


def _assert_rank(rank: int, *tensors: Tensor) -> None:
    # [B] against [B, 1] would broadcast to [B, B] and learn nonsense without an error
    for tensor in tensors:
        assert tensor.ndim == rank, f"expected rank {rank}, got shape {tuple(tensor.shape)}"
