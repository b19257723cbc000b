"""Estimators of the policy gradient, between values and policies (lecture, sections 2, 3 and 6).

Each is called as `stein(policy, batch, critic=..., baseline=...)`, with those of the two that it needs, and gives an
`Estimate`: the gradient by parameter's name, the gradient of every sample, the variance.
"""

from rl_lightning.estimators.controls import linear_control, marginal_baselines, q_prop_eta
from rl_lightning.estimators.estimate import Batch, Estimate
from rl_lightning.estimators.likelihood import factorized, likelihood_ratio
from rl_lightning.estimators.pathwise import deterministic, expected, reparameterized
from rl_lightning.estimators.policies import log_prob_per_dim, noise_of, reparameterize
from rl_lightning.estimators.q_prop import interpolated, q_prop
from rl_lightning.estimators.relax import relax
from rl_lightning.estimators.stein import fit_min_variance, fit_q, lax, stein, variance_gradient

__all__ = [
    "Batch",
    "Estimate",
    "deterministic",
    "expected",
    "factorized",
    "fit_min_variance",
    "fit_q",
    "interpolated",
    "lax",
    "likelihood_ratio",
    "linear_control",
    "log_prob_per_dim",
    "marginal_baselines",
    "noise_of",
    "q_prop",
    "q_prop_eta",
    "relax",
    "reparameterize",
    "reparameterized",
    "stein",
    "variance_gradient",
]
