"""Estimators by the score ∇ log π alone: they need nothing of Q but its values."""

from torch import Tensor, nn

from rl_lightning.estimators.controls import Critic, marginal_baselines
from rl_lightning.estimators.estimate import Baseline, Batch, Estimate, advantage, distribution_of_actions, estimate
from rl_lightning.estimators.policies import Pi, log_prob, log_prob_per_dim


def likelihood_ratio(policy: nn.Module, batch: Batch, baseline: Baseline | None = None) -> Estimate:
    """(Q̂(s, a) − b(s)) ∇ log π(a|s), times γ^t where the batch has it (lecture, section 2 and Algorithm 1).

    Unbiased for any b(s) and any distribution with a density (Williams, 1992).

    Args:
        policy: observations [B, *obs_shape] to π(·|s).
        batch: with its signal.
        baseline: b(s).

    Raises:
        UsageError: shapes that do not fit, or actions without a density.
    """
    distribution_of_actions(policy, batch)
    return estimate(policy, weighted_score, batch, batch.action, advantage(batch, baseline))


def factorized(policy: nn.Module, batch: Batch, critic: Critic, samples: int = 0) -> Estimate:
    """Σ_i (Q̂(s, a) − b_i(s, a_{−i})) ∇ log π_i(a_i|s), a baseline for each dimension (arXiv:1803.07246, section 4).

    Unbiased for any critic, since b_i does not depend on a_i.

    Args:
        policy: observations [B, *obs_shape] to π(·|s) with independent dimensions.
        batch: with its signal.
        critic: Q(s, a), of which the baselines are made.
        samples: draws of a_i for b_i, the critic's mean over them; with 0, the critic at the mean of a_i.

    Raises:
        UsageError: shapes that do not fit, dimensions that are not independent, or fewer samples than 0.
    """
    pi = distribution_of_actions(policy, batch)
    b = marginal_baselines(critic, batch.obs, batch.action, pi, samples)  # [B, A]
    return estimate(policy, _score_per_dim, batch, batch.action, advantage(batch, None).unsqueeze(1) - b)


def weighted_score(pi: Pi, action: Tensor, weight: Tensor) -> Tensor:
    """Surrogate of weight · ∇ log π(a|s): [B, *action_shape] and [B] to [B]."""
    return weight * log_prob(pi, action)


def _score_per_dim(pi: Pi, action: Tensor, weight: Tensor) -> Tensor:
    return (weight * log_prob_per_dim(pi, action)).sum(1)  # [B, A] to [B]
