"""The equations, pure and shape-checked. [B] is the batch, [A] the action's dimensions.

Equation numbers marked "SAC" are those of arXiv:1801.01290.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rl_lightning.fast.tensors import lerp

LOG_2 = math.log(2.0)
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def td_target(reward: Tensor, terminated: Tensor, next_value: Tensor, discount: Tensor | float) -> Tensor:
    """Target r + γ V(s'), where V(s') counts as 0 at termination (and only there: a time limit bootstraps).

    Args:
        reward: [B], of one step, or the discounted sum of several.
        terminated: [B] bool.
        next_value: [B], V(s').
        discount: [B] or a number, γ, or γ^k after k steps.

    Returns:
        [B].
    """
    _assert_rank(1, reward, terminated, next_value)
    return reward + discount * next_value.masked_fill(terminated, 0.0)  # [B]


def half_squared_error(prediction: Tensor, target: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """E[w ½ (prediction − target)²], the form of J_V (SAC, Eq. 5) and J_Q (Eq. 7). All [B]; returns a scalar."""
    _assert_rank(1, prediction, target)
    return 0.5 * (weight * (prediction - target).square()).mean()


def huber_loss(prediction: Tensor, target: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """E[w h(prediction − target)], h(δ) = ½ δ² where |δ| ≤ 1, else |δ| − ½. All [B]; returns a scalar."""
    _assert_rank(1, prediction, target)
    return (weight * F.smooth_l1_loss(prediction, target, reduction="none")).mean()


Loss = Literal["squared", "huber"]
LOSSES = {"squared": half_squared_error, "huber": huber_loss}


def q_of_action(q: Tensor, action: Tensor) -> Tensor:
    """Q(s, a) out of Q(s, ·): [B, A] and [B] int64 to [B]."""
    _assert_rank(1, action)
    return q.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def soft_maximum(q: Tensor, ent_coef: float) -> Tensor:
    """V(s) = α log Σ_a exp(Q(s, a) / α), max_π E_π[Q − α log π]; max_a Q(s, a) as α → 0. [B, A] to [B]."""
    _assert_rank(2, q)
    return ent_coef * torch.logsumexp(q / ent_coef, dim=-1)


def twin_q_loss(q1: Tensor, q2: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """J_Q(θ1) + J_Q(θ2), both towards one target. All [B]; returns a scalar."""
    return half_squared_error(q1, target, weight) + half_squared_error(q2, target, weight)


def mean_td_error(q1: Tensor, q2: Tensor, target: Tensor) -> Tensor:
    """½ (|Q1 − Q̂| + |Q2 − Q̂|), of which priorities are made. All [B]; returns [B]."""
    return 0.5 * ((q1 - target).abs() + (q2 - target).abs())


def soft_value(q: Tensor, log_prob: Tensor, ent_coef: Tensor | float) -> Tensor:
    """Soft state value Q(s, a) − α log π(a|s) of one action sample (SAC, Eq. 3). Both [B]; returns [B]."""
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


def discounted_sum(x: Tensor, discount: Tensor) -> Tensor:
    """y_t = x_t + discount_t y_{t+1} along the first dimension, with nothing after its end. All [T, ...].

    In log2 T steps, each of which doubles the number of terms that every y_t has summed, instead of T small ones.
    """
    span = 1
    while span < len(x):
        x = torch.cat([x[:-span] + discount[:-span] * x[span:], x[-span:]])
        discount = torch.cat([discount[:-span] * discount[span:], discount[-span:]])
        span *= 2
    return x


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalized advantage estimates (arXiv:1506.02438, Eq. 16): A_t = δ_t + γ λ A_{t+1}, cut at episodes' ends.

    δ_t = r_t + γ V(s_{t+1}) − V(s_t), where V(s_{t+1}) counts as 0 at termination and only there: an episode that was
    cut off bootstraps from its last observation. λ = 1 gives G_t − V(s_t), λ = 0 the one-step δ_t.

    Args:
        reward: [T, N].
        value: [T, N], V(s_t).
        next_value: [T, N], V(s_{t+1}); at an episode's end of its last observation, not of the next reset's.
        terminated: [T, N] bool.
        truncated: [T, N] bool.
        gamma: the discount.
        gae_lambda: λ in [0, 1].

    Returns:
        [T, N].
    """
    _assert_rank(2, reward, value, next_value, terminated, truncated)
    delta = reward + gamma * next_value.masked_fill(terminated, 0.0) - value  # [T, N]
    done = terminated | truncated
    return discounted_sum(delta, (gamma * gae_lambda * ~done).to(delta.dtype))  # [T, N]


def deviation(x: Tensor) -> Tensor:
    """The standard deviation of a sample of any shape, a scalar; exactly 0 where its numbers are all the same.

    Of 0.1 the mean is 0.1 up to rounding, from which each of them deviates. A product lets what is not finite through.
    """
    return x.std() * (x != x.flatten()[0]).any()


def standardized(x: Tensor) -> Tensor:
    """(x − mean) / std, [B]; 0 without deviation; a batch of one, which has none to have, stays as it is."""
    _assert_rank(1, x)
    if len(x) < 2:
        return x
    std = deviation(x)
    return torch.where(std == 0.0, 0.0, (x - x.mean()) / (std + 1e-8))


def clipped_to_norm(gradients: tuple[Tensor, ...], max_norm: float | None) -> tuple[Tensor, ...]:
    """Gradients scaled down so that their joint Euclidean norm is at most `max_norm`; None leaves them."""
    if max_norm is None or not gradients:
        return gradients
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    return tuple(gradient * scale for gradient in gradients)


def explained_variance(prediction: Tensor, target: Tensor) -> Tensor:
    """1 − Var[target − prediction] / Var[target]; 1 is perfect, 0 as good as a constant. Both [B]; a scalar."""
    _assert_rank(1, prediction, target)
    return 1.0 - (target - prediction).var(correction=0) / (target.var(correction=0) + 1e-8)


def polyak_update(target: list[Tensor], online: list[Tensor], tau: float) -> None:
    """ψ̄ ← τ ψ + (1 − τ) ψ̄ in place, tensor by tensor; integer tensors (step counts) are copied."""
    with torch.no_grad():
        pairs = list(zip(target, online, strict=True))
        if floating := [pair for pair in pairs if pair[0].is_floating_point()]:
            lerp([old for old, _ in floating], [new for _, new in floating], tau)
        for old, new in pairs:
            if not old.is_floating_point():
                old.copy_(new)


def _assert_rank(rank: int, *tensors: Tensor) -> None:
    # [B] against [B, 1] would broadcast to [B, B] and learn nonsense without an error
    for tensor in tensors:
        assert tensor.ndim == rank, f"expected rank {rank}, got shape {tuple(tensor.shape)}"
