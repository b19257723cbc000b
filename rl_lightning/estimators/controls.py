"""Control variates out of a critic: what is subtracted from Q̂(s, a), and what makes up for it."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from rl_lightning.errors import require
from rl_lightning.estimators.policies import Pi, log_prob_per_dim, reparameterize
from rl_lightning.types import Obs, map_obs

Critic = Callable[[Obs, Tensor], Tensor]
"""Q(s, a) or φ(s, a): [B, *obs_shape] and [B, A] to [B]; differentiable in the action where its slope is asked for."""

Eta = Literal["standard", "conservative", "aggressive"]


def slope_of(critic: Critic, obs: Obs, action: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """Q(s, a) [B] and ∇_a Q(s, a) [B, A].

    Args:
        critic: Q.
        obs: [B, *obs_shape].
        action: [B, A].
        create_graph: keep both differentiable in the critic's parameters.
    """
    with torch.enable_grad():
        action = action.detach().requires_grad_()
        q = critic(obs, action)  # [B]
        require(
            q.shape == action.shape[:1],
            "critic's output",
            tuple(q.shape),
            f"give one number for each action, [{len(action)}]",
        )
        (slope,) = torch.autograd.grad(q.sum(), action, create_graph=create_graph)  # [B, A]
    return (q, slope) if create_graph else (q.detach(), slope)


def linear_control(critic: Critic, obs: Obs, action: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Ā(s, a) = ∇_a Q(s, a)|_{a=μ} · (a − μ), the critic's advantage to first order (arXiv:1611.02247, section 3.1).

    Args:
        critic: Q.
        obs: [B, *obs_shape].
        action: [B, A].
        mean: [B, A], μ(s).

    Returns:
        Ā(s, a) [B] and ∇_a Q(s, μ(s)) [B, A], both detached.
    """
    _, slope = slope_of(critic, obs, mean)  # [B, A]
    return (slope * (action - mean).detach()).sum(-1), slope


def q_prop_eta(kind: Eta, advantage: Tensor, control: Tensor) -> Tensor:
    """η(s), how much of the control variate Ā is taken (arXiv:1611.02247, section 3.2).

    "standard" takes all of it. The others go by the sign of the covariance of Â and Ā in a state, estimated from its
    one sample as Â Ā: "conservative" takes 1 or 0, "aggressive" 1 or −1. As η then depends on the action, both are biased.

    Args:
        kind: which.
        advantage: [B], Â(s, a).
        control: [B], Ā(s, a).

    Returns:
        [B].

    Raises:
        UsageError: another kind.
    """
    require(kind in get_args(Eta), "eta", kind, f"give one of {', '.join(get_args(Eta))}")
    covariance = (advantage * control).detach()  # [B]
    if kind == "standard":
        return torch.ones_like(covariance)
    return covariance.sign() if kind == "aggressive" else (covariance > 0.0).to(covariance.dtype)


@torch.no_grad()
def marginal_baselines(critic: Critic, obs: Obs, action: Tensor, pi: Pi, samples: int) -> Tensor:
    """b_i(s, a_{−i}), a baseline for each dimension that depends on all the others (arXiv:1803.07246, section 4).

    Args:
        critic: Q.
        obs: [B, *obs_shape].
        action: [B, A].
        pi: π(·|s), with independent dimensions.
        samples: b_i is the mean of Q(s, a) over so many draws of a_i ~ π_i(·|s); with 0, Q at its mean μ_i.

    Returns:
        [B, A], detached.

    Raises:
        UsageError: dimensions that are not independent, or fewer samples than 0.
    """
    require(samples >= 0, "samples", samples, "give 0 for the mean action, or a number of draws")
    log_prob_per_dim(pi, action)  # refuses what is not independent
    dims = action.shape[1]
    own = torch.eye(dims, dtype=torch.bool, device=action.device).unsqueeze(
        1
    )  # [A, 1, A], which is exchanged in a copy
    repeated = map_obs(lambda x: x.expand(dims, *x.shape).flatten(0, 1), obs)  # [A B, *obs_shape]
    draws = [pi.sample() for _ in range(samples)] or [reparameterize(pi, torch.zeros_like(action))]
    q = [critic(repeated, torch.where(own, draw, action).flatten(0, 1)) for draw in draws]  # each [A B]
    return torch.stack(q).mean(0).view(dims, -1).T  # [B, A]
