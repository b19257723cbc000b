"""RELAX: a control variate for discrete actions, through a relaxed one (arXiv:1711.00123, section 3.2)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Categorical as TorchCategorical

from rl_lightning.errors import UsageError
from rl_lightning.estimators.controls import slope_of
from rl_lightning.estimators.estimate import Baseline, Batch, Estimate, advantage, distribution_of_actions, estimate
from rl_lightning.estimators.likelihood import weighted_score
from rl_lightning.estimators.policies import Pi
from rl_lightning.networks.distributions import Categorical
from rl_lightning.types import Obs

RelaxedCritic = Callable[[Obs, Tensor], Tensor]
"""c_φ(s, z): [B, *obs_shape] and [B, K] to [B], differentiable in z."""


def relax(
    policy: nn.Module,
    batch: Batch,
    critic: RelaxedCritic,
    baseline: Baseline | None = None,
    create_graph: bool = False,
) -> Estimate:
    """ĝ_RELAX = (Q̂ − c_φ(z̃)) ∇ log π(a|s) + ∇_θ c_φ(z) − ∇_θ c_φ(z̃) (arXiv:1711.00123, section 3.2).

    z = log π + Gumbel noise is the relaxed action, and a = argmax z; z̃ is another one, drawn given a, which stays fixed
    when z̃ is differentiated. Unbiased for any c_φ. Here the environment was given a before, so z too is drawn given a,
    which is the same in law.

    Args:
        policy: observations [B, *obs_shape] to a Categorical of K actions, ours or torch's.
        batch: with its signal; actions [B] int64.
        critic: c_φ(s, z).
        baseline: b(s).
        create_graph: keep the estimate differentiable in the critic's parameters: see `variance_gradient`.

    Raises:
        UsageError: shapes that do not fit, or another distribution.
    """
    log_pi = _log_probabilities(distribution_of_actions(policy, batch))  # [B, K]
    gumbel = relaxed_given_action(log_pi, batch.action, torch.rand_like(log_pi)) - log_pi  # the noise in z
    uniform = torch.rand_like(log_pi)  # the noise in z̃
    _, slope = slope_of(critic, batch.obs, log_pi + gumbel, create_graph)  # of c_φ(z), [B, K]
    given = relaxed_given_action(log_pi, batch.action, uniform)  # z̃
    c, slope_given = slope_of(critic, batch.obs, given, create_graph)  # [B], [B, K]

    def surrogate(
        pi: Pi, action: Tensor, weight: Tensor, gumbel: Tensor, slope: Tensor, uniform: Tensor, slope_given: Tensor
    ) -> Tensor:
        log_pi = _log_probabilities(pi)
        z, z_given = log_pi + gumbel, relaxed_given_action(log_pi, action, uniform)
        return weighted_score(pi, action, weight) + (z * slope - z_given * slope_given).sum(1)  # [B]

    weight = advantage(batch, baseline) - c
    return estimate(policy, surrogate, batch, batch.action, weight, gumbel, slope, uniform, slope_given)


def relaxed_given_action(log_pi: Tensor, action: Tensor, uniform: Tensor) -> Tensor:
    """z = log π + Gumbel noise, given that argmax z is the action (the paper's appendix on categorical variables).

    The largest z is Gumbel by itself, the others are Gumbel below it. Differentiable in log π.

    Args:
        log_pi: [B, K], normalized.
        action: [B] int64.
        uniform: [B, K], in (0, 1).

    Returns:
        [B, K].
    """
    exponential = -uniform.clamp_min(torch.finfo(uniform.dtype).tiny).log()  # −log v
    largest = exponential.gather(1, action.unsqueeze(1))  # −log v_a, exp(−z_a)
    others = -torch.logaddexp(exponential.log() - log_pi, largest.log())  # −log(−log v_k / π_k − log v_a)
    is_action = torch.zeros_like(log_pi, dtype=torch.bool).scatter(1, action.unsqueeze(1), True)
    return torch.where(is_action, -largest.log(), others)


def _log_probabilities(pi: Pi) -> Tensor:
    if isinstance(pi, Categorical | TorchCategorical):
        return pi.logits.log_softmax(-1)
    raise UsageError(f"policy's distribution {type(pi).__name__} is not allowed: RELAX needs a Categorical")
